"""What must hold at every moment of a rolling upgrade, checked by the fake after each call and each physical event.

An invariant names the tables it watches and is handed their writes, so that checking costs what changed, not what exists.
It looks at the machines where it can, at the database only for what xapi is to believe. What it finds broken goes into
`pool.violations`; `pool.conclude()` asks each what must hold at the end. Every one has a saboteur in the tests.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from . import rules
from .journal import Kept
from .machine.disks import damage
from .store import NULL, Row, Write

if TYPE_CHECKING:
    from xenctl.releases import Release

    from .pool import MockPool


@dataclass(frozen=True)
class Violation:
    """An invariant that was broken: when (simulated seconds since the epoch), after which call or event, and how."""

    invariant: str
    at: float
    cause: str
    text: str

    def as_dict(self) -> dict[str, object]:
        return dict(vars(self))


class Invariant(Kept):
    """Something that must hold. Subclasses say what they watch and find what is broken."""

    name: ClassVar[str]
    tables: ClassVar[frozenset[str]]

    def begin(self, pool: MockPool) -> None:
        """Remember what the pool is like before anything happens."""

    def inspect(self, pool: MockPool, writes: list[Write], cause: str) -> None:
        """Hold the writes of one call or event against what must hold."""
        self.report(pool, cause, self.broken(pool, writes))

    def broken(self, pool: MockPool, writes: list[Write]) -> Iterable[str]:
        """What the writes break, one sentence each."""
        return ()

    def broken_at_end(self, pool: MockPool) -> Iterable[str]:
        """What does not hold at the end, one sentence each."""
        return ()

    def report(self, pool: MockPool, cause: str, texts: Iterable[str]) -> None:
        """Note what is broken, each sentence once."""
        known = {(v.invariant, v.text) for v in pool.violations} if pool.violations else set()
        for text in texts:
            if (self.name, text) not in known:
                pool.violations.append(Violation(self.name, pool.clock.now(), cause, text))


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


def _name(pool: MockPool, table: str, ref: str) -> str:
    row = pool.store.find(table, ref)
    return str(row["name_label"]) if row is not None else ref


def _touched(pool: MockPool, writes: list[Write], *fields: str) -> Iterator[Row]:
    """The VM rows of which one of `fields` was written."""
    refs = dict.fromkeys(w.ref for w in writes if w.table == "VM" and (w.field in fields or w.kind == "create"))
    for ref in refs:
        row = pool.store.find("VM", ref)
        if row is not None and not row["is_control_domain"]:
            yield row


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


class OneMaster(Invariant):
    """No two hosts serve as master."""

    name, tables = "one master", frozenset({"machine", "host"})

    def broken(self, pool: MockPool, writes: list[Write]) -> Iterable[str]:
        masters = [m.name for m in pool.machines if m.xapi.mode == "master" and m.state == "running"]
        if len(masters) > 1:
            yield f"several hosts serve as master: {', '.join(masters)}"


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
            name, to = _name(pool, "VM", write.ref), releases[write.new]
            if write.old in releases and to < releases[write.old]:
                yield f"{name} moved from a host of {releases[write.old]} to one of {to}"
            elif write.old not in releases and to < highest:
                yield f"{name} started on a host of {to} while the pool has hosts of {highest}"


class BackupFirst(Invariant):
    """A whole dump of the database was fetched, since the watch began, before the first change."""

    name = "backup first"
    tables = frozenset({"VM", "VBD", "VIF", "VDI", "SR", "PBD", "host", "pool", "network", "machine"})

    def begin(self, pool: MockPool) -> None:
        self.told, self.before = False, len(pool.downloads)

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
                yield f"a disk was resized while versions are mixed: {_name(pool, 'VDI', write.ref)}"


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
                yield f"the CD of {_name(pool, 'VM', vbd['VM']) if vbd is not None else ref} is not back in its drive"


class HostsEnabled(Invariant):
    """At the end every host is up, enabled and thought alive, of the same release, its storage plugged as before."""

    name, tables = "hosts enabled", frozenset[str]()

    def begin(self, pool: MockPool) -> None:
        self.plugged = [pbd.ref for pbd in pool.store.table("PBD").values() if pbd["currently_attached"]]

    def broken_at_end(self, pool: MockPool) -> Iterable[str]:
        for machine in pool.machines:
            row = pool.host_row(machine)
            metrics = pool.store.find("host_metrics", row["metrics"]) if row is not None else None
            if (
                row is None
                or machine.state != "running"
                or not row["enabled"]
                or metrics is None
                or not metrics["live"]
            ):
                yield f"{machine.name} is not enabled and live"
        if _mixed(pool):
            yield "versions are mixed at the end"
        for ref in self.plugged:
            pbd = pool.store.find("PBD", ref)
            if pbd is None or not pbd["currently_attached"]:
                where = _name(pool, "host", pbd["host"]) if pbd is not None else "a host"
                yield f"storage that was plugged on {where} is not plugged any more"


class DataKept(Invariant):
    """Every disk holds what its guest wrote, and every suspend image what was saved."""

    name, tables = "data kept", frozenset({"VM", "VDI", "machine"})

    def broken(self, pool: MockPool, writes: list[Write]) -> Iterable[str]:
        for vm in _touched(pool, writes, "power_state", "resident_on", "suspend_VDI"):
            yield from self._damage(pool, [vm["uuid"]])
            yield from self._lost_memory(pool, vm)
        if any(w.table == "VDI" and w.kind == "delete" and w.old["type"] != "suspend" for w in writes):
            yield from self._damage(pool, pool.guests)

    def broken_at_end(self, pool: MockPool) -> Iterable[str]:
        yield from self._damage(pool, pool.guests)
        for vm in pool.store.table("VM").values():
            yield from self._lost_memory(pool, vm)

    @staticmethod
    def _lost_memory(pool: MockPool, vm: Row) -> Iterator[str]:
        if vm["power_state"] != "Suspended" or vm["is_a_template"] or vm["current_operations"]:
            return
        image = pool.disk_of(vm["suspend_VDI"])
        if image is None or image.blocks.get(0) != pool.guest(vm).image:
            yield f"the suspend image of {vm['name_label']} is not what was saved"

    @staticmethod
    def _damage(pool: MockPool, uuids: Iterable[str]) -> Iterator[str]:
        for uuid in uuids:
            guest = pool.guests.get(uuid)
            if guest is None:
                continue
            for machine in pool.machines:
                domain = machine.domains.get(uuid)
                if domain is not None:
                    domain.catch_up(pool.clock.now())
            yield from damage(guest, pool.disks)


class BeliefHolds(Invariant):
    """What xapi believes to run is what runs: one domain for each running VM, on the host it says."""

    name, tables = "belief holds", frozenset({"VM", "machine"})

    def broken(self, pool: MockPool, writes: list[Write]) -> Iterable[str]:
        fields = ("power_state", "resident_on")
        vms: Iterable[Row] = _touched(pool, writes, *fields)
        if any(w.table == "machine" and w.new == "off" for w in writes):
            vms = [vm for vm in pool.store.table("VM").values() if not vm["is_control_domain"]]
        for vm in vms:
            yield from self._disagreement(pool, vm)

    def broken_at_end(self, pool: MockPool) -> Iterable[str]:
        for vm in pool.store.table("VM").values():
            if not vm["is_control_domain"]:
                yield from self._disagreement(pool, vm)

    @staticmethod
    def _disagreement(pool: MockPool, vm: Row) -> Iterator[str]:
        real = [machine for machine in pool.machines if vm["uuid"] in machine.domains]
        if len(real) > 1:
            yield f"{vm['name_label']} runs on several hosts at once: {', '.join(m.name for m in real)}"
        believed = pool.machine_of(pool.store.find("host", vm["resident_on"]))
        if vm["power_state"] not in ("Running", "Paused"):
            believed = None
        if (real[0] if real else None) is not believed:
            where = believed.name if believed else "nowhere"
            yield f"xapi believes {vm['name_label']} on {where}; it runs on {', '.join(m.name for m in real) or 'no host'}"


class BeliefFollows(BeliefHolds):
    """The same, but for guests that went down with their host: until its toolstack is back and has looked, xapi believes
    what was."""

    name = "belief follows"

    def broken(self, pool: MockPool, writes: list[Write]) -> Iterable[str]:
        for vm in _touched(pool, writes, "power_state", "resident_on"):
            yield from self._unexcused(pool, vm)

    def broken_at_end(self, pool: MockPool) -> Iterable[str]:
        for vm in pool.store.table("VM").values():
            if not vm["is_control_domain"]:
                yield from self._unexcused(pool, vm)

    def _unexcused(self, pool: MockPool, vm: Row) -> Iterator[str]:
        believed = pool.machine_of(pool.store.find("host", vm["resident_on"]))
        if believed is None or believed.xapi.mode in ("master", "member"):
            yield from self._disagreement(pool, vm)


class OneWriter(Invariant):
    """No disk is written by two domains."""

    name, tables = "one writer", frozenset({"VM", "VBD", "machine"})

    def broken(self, pool: MockPool, writes: list[Write]) -> Iterable[str]:
        for vm in _touched(pool, writes, "power_state", "resident_on"):
            for vbd in pool.vbds(vm):
                disk = pool.disk_of(vbd["VDI"])
                if disk is not None and len(disk.writers) > 1:
                    yield f"disk {disk.uuid} is written by {len(disk.writers)} domains"


class MemoryFits(Invariant):
    """No host runs more than its memory holds."""

    name, tables = "memory fits", frozenset({"VM"})

    def broken(self, pool: MockPool, writes: list[Write]) -> Iterable[str]:
        hosts = dict.fromkeys(vm["resident_on"] for vm in _touched(pool, writes, "resident_on"))
        for host in (pool.store.find("host", ref) for ref in hosts):
            if host is not None and rules.memory_free(pool.store, host) < 0:
                yield f"the VMs on {host['name_label']} take more than its memory"


def sound() -> list[Invariant]:
    """The invariants that hold in every pool, whatever is done to it."""
    return [OneMaster(), DataKept(), BeliefFollows(), OneWriter(), MemoryFits()]


def rolling_upgrade(
    may_stop: Iterable[str] = (), may_stay_away: Iterable[str] = (), may_stay_out: Iterable[str] = ()
) -> list[Invariant]:
    """The invariants of a rolling upgrade; what may stop, stay away or stay out is what the plan named beforehand."""
    return [
        OneHostOffline(),
        MasterNewest(),
        OneMaster(),
        NoStepBack(),
        BackupFirst(),
        HaOff(),
        DisksStill(),
        GuestsRun(may_stop, may_stay_away),
        DiscsBack(may_stay_out),
        HostsEnabled(),
        DataKept(),
        BeliefHolds(),
        OneWriter(),
        MemoryFits(),
    ]
