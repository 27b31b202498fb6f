"""What must hold at every moment of a rolling upgrade, and at its end."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from .. import hosts
from ..store import NULL, Write
from .base import Invariant, name_of

if TYPE_CHECKING:
    from xenctl.releases import Release

    from ..pool import MockPool


def _releases(pool: MockPool) -> dict[str, Release]:
    """What is installed on each host, by the host's reference."""
    out = {}
    for machine in pool.machines:
        row = pool.host_row(machine)
        if row is not None:
            out[row.ref] = machine.system.release
    return out


def _mixed(pool: MockPool) -> bool:
    return len({machine.system.release for machine in pool.machines}) > 1


class OneHostOffline(Invariant):
    """At most one host is offline."""

    name, tables = "one host offline", frozenset({"machine"})

    def broken(self, pool: MockPool, writes: list[Write]) -> Iterable[str]:
        off = [machine.name for machine in pool.machines if machine.state != "running"]
        if len(off) > 1:
            yield f"{len(off)} hosts are offline at once: {', '.join(off)}"


class MasterNewest(Invariant):
    """The master's release is never below a member's; it stays master."""

    name, tables = "master newest", frozenset({"machine", "pool"})

    def begin(self, pool: MockPool) -> None:
        self.master = pool.master.uuid

    def broken(self, pool: MockPool, writes: list[Write]) -> Iterable[str]:
        master = pool.machine(self.master)
        if master.system.role != "master" or pool.store.pool()["master"] not in (NULL, self._ref(pool)):
            yield f"{master.name} is master no more"
        for machine in pool.machines:
            if machine.system.release > master.system.release:
                yield f"{machine.name} is newer than the master: {machine.system.release} over {master.system.release}"

    def _ref(self, pool: MockPool) -> str:
        row = pool.host_row(pool.machine(self.master))
        return row.ref if row is not None else NULL


class NoStepBack(Invariant):
    """No VM moves to an older host, nor starts or resumes on one below the pool's highest release."""

    name, tables = "no step back", frozenset({"VM"})

    def broken(self, pool: MockPool, writes: list[Write]) -> Iterable[str]:
        moves = [w for w in writes if w.field == "resident_on" and w.new != NULL and w.old != w.new]
        if not moves:
            return
        releases = _releases(pool)
        highest = max(releases.values())
        for write in moves:
            if write.new not in releases:
                continue
            name, to = name_of(pool, "VM", write.ref), releases[write.new]
            if write.old in releases and to < releases[write.old]:
                yield f"{name} moved from a host of {releases[write.old]} to one of {to}"
            elif write.old not in releases and to < highest:
                yield f"{name} started on a host of {to} while the pool has hosts of {highest}"


HEARD = frozenset({"ha_network_peers", "ha_statefiles", "ha_plan_exists_for", "ha_overcommitted"})
"""What hosts write down of each other while high availability is on, without anybody's doing."""


class BackupFirst(Invariant):
    """A whole dump of the database was fetched, since the watch began, before the first change."""

    name = "backup first"
    tables = frozenset({"VM", "VBD", "VIF", "VDI", "SR", "PBD", "host", "pool", "network", "machine"})

    def begin(self, pool: MockPool) -> None:
        self.told, self.before = False, len(pool.downloads)

    def concerned(self, writes: list[Write]) -> list[Write]:
        return [write for write in super().concerned(writes) if write.field not in HEARD]

    def broken(self, pool: MockPool, writes: list[Write]) -> Iterable[str]:
        if not self.told and len(pool.downloads) == self.before:
            self.told = True
            yield f"the pool was changed ({writes[0].table} {writes[0].field or writes[0].kind}) before a backup was taken"


class HaOff(Invariant):
    """High availability is off from before the first host goes down until versions are equal again."""

    name, tables = "HA off", frozenset({"pool", "machine"})

    def broken(self, pool: MockPool, writes: list[Write]) -> Iterable[str]:
        if not pool.store.pool().get("ha_enabled", False):
            return
        if any(machine.state != "running" for machine in pool.machines) or _mixed(pool):
            yield "high availability is on while a host is down or versions are mixed"


class DisksStill(Invariant):
    """No disk is added, removed or resized while versions are mixed."""

    name, tables = "disks still", frozenset({"VDI"})

    def broken(self, pool: MockPool, writes: list[Write]) -> Iterable[str]:
        if not _mixed(pool):
            return
        for write in writes:
            if write.kind in ("create", "delete"):
                yield f"a disk was {'added' if write.kind == 'create' else 'removed'} while versions are mixed: {write.ref}"
            elif write.field == "virtual_size":
                yield f"a disk was resized while versions are mixed: {name_of(pool, 'VDI', write.ref)}"


class GuestsRun(Invariant):
    """Every VM that ran at the start goes on running, unless it was named beforehand, and is at home at the end.

    `may_stop` holds the uuids of the VMs that the plan names; `may_stay_away` those it cannot bring home.
    """

    name, tables = "guests run", frozenset({"VM"})

    def __init__(self, may_stop: Iterable[str] = (), may_stay_away: Iterable[str] = ()) -> None:
        self.may_stop, self.may_stay_away = set(may_stop), set(may_stay_away)

    def begin(self, pool: MockPool) -> None:
        guests = [
            vm for vm in pool.store.table("VM").values() if not vm["is_control_domain"] and not vm["is_a_template"]
        ]
        self.states = {vm.ref: (vm["name_label"], vm["power_state"], vm["resident_on"]) for vm in guests}
        self.boots = {vm.ref: pool.guest(vm).boots for vm in guests}

    def broken(self, pool: MockPool, writes: list[Write]) -> Iterable[str]:
        moved = {write.ref for write in writes if write.field == "resident_on"}
        for write in writes:
            name, state, _ = self.states.get(write.ref, ("", "", ""))
            vm = pool.store.find("VM", write.ref)
            if state != "Running" or vm is None or vm["uuid"] in self.may_stop:
                continue
            if write.field == "power_state" and write.old == "Running":
                yield f"{name} ran at the start and became {write.new}, which the plan did not say"
            elif write.field == "domid" and write.ref not in moved:
                yield f"{name} ran at the start and was restarted, which the plan did not say"

    def broken_at_end(self, pool: MockPool) -> Iterable[str]:
        for ref, (name, state, home) in self.states.items():
            vm = pool.store.find("VM", ref)
            if vm is None:
                yield f"{name} is gone"
            elif vm["power_state"] != state:
                yield f"{name} was {state} and is {vm['power_state']}"
            elif state == "Running" and vm["resident_on"] != home and vm["uuid"] not in self.may_stay_away:
                yield f"{name} is not at home"
            elif state == "Suspended" and pool.guest(vm).boots != self.boots[ref] and vm["uuid"] not in self.may_stop:
                yield f"{name} was started afresh: its saved state is lost"


class DiscsBack(Invariant):
    """At the end every CD is in the drive that it was in. `may_stay_out` holds the drives that the plan names."""

    name, tables = "discs back", frozenset[str]()

    def __init__(self, may_stay_out: Iterable[str] = ()) -> None:
        self.may_stay_out = set(may_stay_out)

    def begin(self, pool: MockPool) -> None:
        drives = (vbd for vbd in pool.store.table("VBD").values() if vbd["type"] == "CD" and not vbd["empty"])
        self.discs = {vbd.ref: vbd["VDI"] for vbd in drives if vbd.ref not in self.may_stay_out}

    def broken_at_end(self, pool: MockPool) -> Iterable[str]:
        for ref, disc in self.discs.items():
            vbd = pool.store.find("VBD", ref)
            if vbd is None or vbd["VDI"] != disc:
                yield f"the CD of {name_of(pool, 'VM', vbd['VM']) if vbd is not None else ref} is not back in its drive"


class HostsEnabled(Invariant):
    """At the end every host is up, enabled and thought alive, of the same release, its storage plugged as before."""

    name, tables = "hosts enabled", frozenset[str]()

    def begin(self, pool: MockPool) -> None:
        self.plugged = [pbd.ref for pbd in pool.store.table("PBD").values() if pbd["currently_attached"]]

    def broken_at_end(self, pool: MockPool) -> Iterable[str]:
        for machine in pool.machines:
            row = pool.host_row(machine)
            if row is None or machine.state != "running" or not row["enabled"] or not hosts.live(pool.store, row):
                yield f"{machine.name} is not enabled and live"
        if _mixed(pool):
            yield "versions are mixed at the end"
        for ref in self.plugged:
            pbd = pool.store.find("PBD", ref)
            if pbd is None or not pbd["currently_attached"]:
                where = name_of(pool, "host", pbd["host"]) if pbd is not None else "a host"
                yield f"storage that was plugged on {where} is not plugged any more"
