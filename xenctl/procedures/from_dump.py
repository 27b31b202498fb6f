"""Taking an upgrade back without backup partitions, by the database dump from before: every host is installed afresh.

It is the fallback. Restoring a dump drops every host but the master from the database, and the dump knows placements as they
were when it was taken. So all guests are shut down in good order first; the master is installed afresh with the release of
the dump, and gets its database back; each of the others is installed afresh, and joins again; the guests of a host start
when it is back. Disks on shared storage are not touched. What was on the disks that hosts are installed on is lost, and is
named beforehand.

`plan` looks at the pool and at the dump. Where the master does not answer nobody can be told to shut guests down; then the
dump alone tells what there is, and every host has to be off before anything begins.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .. import database
from ..errors import Failure, TransportError
from ..releases import find
from . import marking
from .acts.shutting import GIVE_UP, HARD, POLICIES
from .backup import version_in
from .before import Before, Since, against_dump, since
from .belonging import of_another
from .losing import own_storage
from .observe import PoolFacts, VMFacts, observe
from .placement import Board, needs
from .plan import Plan, PlannedHost, PlannedVM, Step
from .waiting import AWAY

if TYPE_CHECKING:
    from ..database import Database, Row
    from ..session import Session

FROM_DUMP = "revert by the dump"
TIMEOUT, LIMIT = 120.0, 10
"""Seconds that a guest has for shutting down, and how many do so at once."""
ESTIMATES: Mapping[str, float] = {
    "power-down": 60.0,
    "halt": 60.0,
    "install-afresh": 1300.0,
    "restore-afresh": 300.0,
    "join": 60.0,
    "settled": 60.0,
    "go-home": 30.0,
}
"""About how many seconds a step takes; what is not here takes few."""
MEDIA = "udev"
"""The type of storage that is a drive."""


@dataclass(frozen=True)
class Kept:
    """What a dump tells: hosts and guests by uuid, the uuid of the master, and the version that it was taken under.
    `places` are the power state and the host's uuid of each guest."""

    data: Database
    version: str
    master: str
    pool: str
    pool_name: str
    hosts: Mapping[str, Row]
    vms: Mapping[str, Row]
    places: Mapping[str, tuple[str, str]]

    @classmethod
    def of(cls, data: Database) -> Kept:
        """What `data` tells. Raises `DatabaseError` for what is no whole dump."""
        database.verify(data)
        names = {row.ref: row.cells["uuid"] for row in data.rows("host")}
        (pool,) = data.rows("pool")
        wanted = ("is_control_domain", "is_a_template", "is_a_snapshot")
        guests = {
            row.cells["uuid"]: row
            for row in data.rows("VM")
            if all(row.cells.get(column) != "true" for column in wanted)
        }
        return cls(
            data=data,
            version=version_in(data),
            master=names[data.master],
            pool=pool.cells["uuid"],
            pool_name=pool.cells.get("name_label", ""),
            hosts={row.cells["uuid"]: row for row in data.rows("host")},
            vms=guests,
            places={
                uuid: (row.cells.get("power_state", ""), names.get(row.cells.get("resident_on", ""), ""))
                for uuid, row in guests.items()
            },
        )

    @property
    def ha_enabled(self) -> bool:
        """Whether high availability was on."""
        (pool,) = self.data.rows("pool")
        return pool.cells.get("ha_enabled") == "true"

    def own_storage(self, host: str) -> dict[str, dict[str, str]]:
        """How the host with this uuid is connected to the storage that only it reaches, drives apart: its `device_config`,
        by the storage's uuid."""
        return {
            sr.cells["uuid"]: database.parse_map(pbd.cells.get("device_config", "()"))
            for sr, pbd in self._own(host)
            if sr.cells.get("type") != MEDIA
        }

    def drives(self, host: str) -> list[str]:
        """The uuids of the storage that is the drives of the host with this uuid."""
        return [sr.cells["uuid"] for sr, _ in self._own(host) if sr.cells.get("type") == MEDIA]

    def _own(self, host: str) -> Iterator[tuple[Row, Row]]:
        """The storage that only a host reaches, each with how it is connected."""
        by_sr: dict[str, list[Row]] = {}
        for pbd in self.data.rows("PBD"):
            by_sr.setdefault(pbd.cells.get("SR", ""), []).append(pbd)
        for sr in self.data.rows("SR"):
            pbds = by_sr.get(sr.ref, [])
            if sr.cells.get("shared") != "true" and {pbd.cells.get("host") for pbd in pbds} == {self.hosts[host].ref}:
                yield sr, pbds[0]

    def prefers(self, host: str) -> list[str]:
        """The uuids of the guests that prefer the host with this uuid."""
        ref = self.hosts[host].ref
        return [uuid for uuid, row in self.vms.items() if row.cells.get("affinity") == ref]


def read(path: str | os.PathLike[str]) -> tuple[Kept, dict[str, str]]:
    """What the dump at `path` tells, and how steps name the file. Raises `DatabaseError` for what is no whole dump,
    `OSError` for a file that cannot be read."""
    data = Path(path).read_bytes()
    kept = Kept.of(database.read(data, source=str(path)))
    return kept, {"path": str(Path(path).resolve()), "sha256": hashlib.sha256(data).hexdigest()}


def plan(
    session: Session,
    path: str | os.PathLike[str],
    before: Before | None = None,
    *,
    policy: str = GIVE_UP,
    timeout: float = TIMEOUT,
    take_over: Collection[str] | None = (),
) -> Plan:
    """The plan for taking the pool back to the dump at `path`; nothing is changed.

    `before` is what the upgrade's journal tells beside it: what guests are to be in the end is told by the dump without.
    `policy` and `timeout` (seconds) are those of a shutdown. `take_over` are the runs whose mark on the pool is no reason
    to stop, None for any. Raises `ValueError` for what is no policy, and what `read` does.
    """
    if policy not in POLICIES or timeout <= 0:
        raise ValueError(f"policy is {', '.join(POLICIES)}, and timeout a number of seconds above 0")
    kept, file = read(path)
    making = _Making(kept, file, before or _of_dump(kept), {"policy": policy, "timeout": timeout, "limit": LIMIT})
    try:
        pool = observe(session)
    except (TransportError, Failure) as error:
        if isinstance(error, Failure) and error.code not in AWAY:
            raise
        return making.without_master()
    return making.of(session, pool, take_over)


def _of_dump(kept: Kept) -> Before:
    """How the pool was before, as the dump alone tells it."""
    return Before(
        source=kept.version,
        medium="",
        states={uuid: state for uuid, (state, _) in kept.places.items()},
        homes={uuid: host for uuid, (_, host) in kept.places.items() if host},
    )


@dataclass
class _Making:
    """A plan that is being made."""

    kept: Kept
    file: Mapping[str, str]
    before: Before
    shutting: Mapping[str, Any]
    problems: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    losses: list[str] = field(default_factory=list)
    steps: list[Step] = field(default_factory=list)
    clock: float = 0.0
    back: dict[str, float] = field(default_factory=dict)
    """When the guests of a host, by uuid, start again."""
    final: dict[str, str] = field(default_factory=dict)
    """The power states of guests in the end, by uuid."""
    homes: dict[str, str] = field(default_factory=dict)
    """Where guests run in the end, by uuid."""

    # --- from a pool that can be asked

    def of(self, session: Session, pool: PoolFacts, take_over: Collection[str] | None) -> Plan:
        """The plan where the master answers."""
        changed = since(session, pool, replace(self.before, dump=self.file["path"]))
        self.problems += changed.refusals
        if changed.compared:
            self.problems += self.against(pool, take_over)
        if self.problems:
            return self.plan_of(pool)
        self.losses += changed.losses
        self.losses += self.own_disks(session, pool)
        for uuid, vm in pool.vms.items():
            self.final[uuid] = self.state_of(uuid, vm)
            home = (self.before.homes or {}).get(uuid) or vm.host
            if home in self.kept.hosts:
                self.homes[uuid] = home
        self.add(Step("claim"))
        self.quiet(pool, changed)
        for uuid in (*sorted(pool.hosts.keys() - {pool.master}, key=lambda uuid: pool.hosts[uuid].name), pool.master):
            self.down(pool, uuid)
        self.rebuild([uuid for uuid in pool.vms if uuid not in changed.made], list(self.gone(pool, changed)))
        for uuid in self.kept.hosts.keys() - pool.hosts.keys():
            name = self.kept.hosts[uuid].cells.get("name__label", uuid)
            self.warnings.append(f"{name} was in the pool then and is not now: it is not brought back")
        return self.plan_of(pool, changed)

    def against(self, pool: PoolFacts, take_over: Collection[str] | None) -> Iterator[str]:
        """Everything that stands against it."""
        kept, before = self.kept, self.before
        if before.pool and before.pool != pool.uuid:
            yield of_another("the journal", before.pool, before.pool_name, here=pool.uuid, called=pool.name)
            return
        if kept.master != pool.master:
            was = kept.hosts[kept.master].cells.get("name__label", kept.master)
            yield f"the master is {pool.hosts[pool.master].name} now, and was {was}: make {was} the master again first"
        yield from marking.against(pool, take_over=take_over is None or pool.mark in take_over)
        if pool.ha_enabled:
            yield "high availability is on: switch it off first, it would fence the hosts that are installed"
        joined = sorted(host.name for uuid, host in pool.hosts.items() if uuid not in kept.hosts)
        yield from (f"{name} has joined since: eject it first" for name in joined)
        for vm in pool.vms.values():
            if vm.busy:
                yield f"{vm.name} has an operation going on ({', '.join(vm.busy)})"
            if vm.state == "Paused":
                yield f"{vm.name} is paused and has to be shut down: unpause it first"
            elif vm.stuck and vm.state == "Running" and self.shutting["policy"] != HARD:
                yield (
                    f"{vm.name} has to be shut down and cannot do so cleanly: {vm.stuck}; shut it down yourself, or choose "
                    "the policy hard"
                )

    def own_disks(self, session: Session, pool: PoolFacts) -> Iterator[str]:
        """What is lost with the disks that hosts are installed on."""
        for host in sorted(pool.hosts.values(), key=lambda host: host.name):
            for sr in own_storage(session, host.ref):
                if sr.disks:
                    yield f"{sr.name} may be on the disk that {host.name} is installed on: {', '.join(sr.disks)}"

    def state_of(self, uuid: str, vm: VMFacts | None = None) -> str:
        """What a guest is in the end: as it was, but that one that somebody started since goes on running."""
        was = self.before.state(uuid) or self.kept.places.get(uuid, ("Halted", ""))[0]
        if was == "Halted" and vm is not None and vm.state == "Running":
            return "Running"
        return was

    def quiet(self, pool: PoolFacts, changed: Since) -> None:
        """Shut down every guest; those that were suspended since are resumed for it."""
        running = [vm.uuid for vm in pool.vms.values() if vm.state == "Running"]
        self.power_down(pool, running)
        newest = max(host.release.order for host in pool.hosts.values())
        able = [uuid for uuid, host in pool.hosts.items() if host.live and host.release.order == newest]
        board = Board(pool, free={uuid: host.room for uuid, host in pool.hosts.items()})
        for vm in pool.vms.values():
            if vm.state != "Suspended" or self.untouched(vm, changed) or vm.stuck:
                continue
            host = board.best(needs(vm), able)
            if host is None:
                self.problems.append(
                    f"{vm.name} is suspended and has to be resumed, and no host has what it takes; shut it down by force"
                )
                continue
            self.add(Step("resume", vm=vm.uuid, to=host, reason="its saved state is not in the dump"))
            self.power_down(pool, [vm.uuid], {vm.uuid: host})

    def untouched(self, vm: VMFacts, changed: Since) -> bool:
        """Whether a guest is suspended still as the dump has it."""
        return vm.uuid in changed.images and self.kept.places[vm.uuid][0] == "Suspended"

    def power_down(self, pool: PoolFacts, vms: Sequence[str], at: Mapping[str, str] = {}) -> None:
        ran = [[uuid, at.get(uuid, pool.vms[uuid].host)] for uuid in vms]
        if vms:
            args = {**self.shutting, "vms": list(vms), "count": len(vms), "from": ran}
            self.add(Step("power-down", host=pool.master, args=args))

    def down(self, pool: PoolFacts, uuid: str) -> None:
        """Shut a host down that is empty; one that is away has to be off."""
        host = pool.hosts[uuid]
        if host.live:
            self.add(Step("disable", host=uuid, reason="no guest is to come before it is shut down"))
            self.add(Step("halt", host=uuid))
        else:
            self.see_off(uuid, host.address)

    def see_off(self, uuid: str, address: str) -> None:
        self.add(Step("see-off", host=uuid, args={"address": address}))

    def gone(self, pool: PoolFacts, changed: Since) -> Iterator[str]:
        """The guests, by uuid, whose saved state the dump has, and that is gone."""
        for uuid, (state, _) in self.kept.places.items():
            vm = pool.vms.get(uuid)
            if state == "Suspended" and (vm is None or not self.untouched(vm, changed)):
                self.final[uuid] = "Halted"
                if vm is not None:
                    self.warnings.append(f"{vm.name} was suspended, and its saved state is gone: it stays down")
                yield uuid

    # --- where there is no master

    def without_master(self) -> Plan:
        """The plan where nobody can be asked: the dump tells what there is."""
        kept, before = self.kept, self.before
        self.problems += against_dump(kept.data, before, before.pool or kept.pool, before.pool_name or kept.pool_name)
        self.final = {uuid: self.state_of(uuid) for uuid in kept.vms}
        self.homes = {uuid: host for uuid, host in (self.before.homes or {}).items() if host in kept.hosts}
        self.warnings.append(
            "the master does not answer, so no guest can be told to shut down: shut them down from within, then switch "
            "every host off"
        )
        for uuid in self.kept.hosts:
            for sr in kept.own_storage(uuid):
                (row,) = (row for row in kept.data.rows("SR") if row.cells["uuid"] == sr)
                count = sum(vdi.cells.get("SR") == row.ref for vdi in kept.data.rows("VDI"))
                if count:
                    name = kept.hosts[uuid].cells.get("name__label", uuid)
                    label = row.cells.get("name__label", sr)
                    self.losses.append(f"{label} may be on the disk that {name} is installed on: {count} disks")
        for uuid, row in kept.hosts.items():
            self.see_off(uuid, row.cells["address"])
        self.rebuild(list(kept.vms))
        return self.plan_of(None)

    # --- making everything anew

    def add(self, step: Step) -> None:
        self.clock += ESTIMATES.get(step.action, 5.0)
        self.steps.append(step)

    def rebuild(self, vms: Sequence[str], gone: Sequence[str] = ()) -> None:
        """Install the master and have it take the dump, then each of the others; guests start where their host is back. The
        saved state of the guests in `gone` is dropped."""
        kept, medium = self.kept, self.medium
        master = kept.master
        address = kept.hosts[master].cells["address"]
        self.add(Step("read-dump", args=self.file))
        self.add(Step("install-afresh", host=master, release=medium, args={"address": address}))
        self.add(Step("prove", release=kept.version, args=self.file))
        self.add(Step("restore-afresh", host=master, args=self.file))
        self.add(Step("claim", reason="the restored database has no mark"))
        if kept.ha_enabled:
            self.add(Step("disarm-pool", reason="it was on in the dump, and no host can join meanwhile"))
            self.warnings.append("high availability was on, and is off in the end: switch it on once the pool is whole")
        self.add(Step("restored", host=master))
        others = sorted(
            (uuid for uuid in kept.hosts if uuid != master), key=lambda uuid: kept.hosts[uuid].cells["name__label"]
        )
        for uuid in (master, *(uuid for uuid in others if self.comes_back(uuid))):
            self.host(uuid, address, vms, gone if uuid == master else ())
        self.add(Step("verify-anew", args={"hosts": self.addresses()}))
        self.add(Step("release"))

    def comes_back(self, uuid: str) -> bool:
        return any(step.host == uuid and step.action in ("halt", "see-off") for step in self.steps)

    def addresses(self) -> dict[str, str]:
        """The addresses of the hosts that are installed, by their old uuids."""
        return {uuid: row.cells["address"] for uuid, row in self.kept.hosts.items() if self.comes_back(uuid)}

    def host(self, uuid: str, master: str, vms: Sequence[str], gone: Sequence[str]) -> None:
        """Bring one host back, then its guests. The master is there already."""
        row = self.kept.hosts[uuid]
        address = row.cells["address"]
        if uuid != self.kept.master:
            self.add(Step("install-afresh", host=uuid, release=self.medium, args={"address": address}))
            self.add(Step("join", host=uuid, args={"address": address, "master": master, "force": False}))
        # A host that joins brings drives of its own; those of the master are as the dump has them.
        drives = self.kept.drives(uuid) if uuid != self.kept.master else []
        storage = {"address": address, "storage": self.kept.own_storage(uuid), "drives": drives}
        self.add(Step("own-storage", host=uuid, args=storage))
        self.add(Step("settled", host=uuid, args={"address": master, "disabled": []}))
        for vm in gone:
            self.add(Step("discard", vm=vm))
        named = {"name": row.cells.get("name__label", ""), "description": row.cells.get("name__description", "")}
        self.add(Step("as-before", host=uuid, args={"address": address, **named, "affinity": self.kept.prefers(uuid)}))
        mine = [vm for vm in vms if self.final.get(vm) == "Running" and self.homes.get(vm, self.kept.master) == uuid]
        if mine:
            order = sorted(
                mine,
                key=lambda vm: (int(self.kept.vms[vm].cells.get("order") or 0), self.kept.vms[vm].cells["name__label"]),
            )
            self.add(Step("start-at-home", host=uuid, args={"address": address, "vms": order}))
        self.back[uuid] = self.clock

    @property
    def medium(self) -> str:
        """The release that hosts are installed with."""
        like = find(self.before.medium) if self.before.medium else None
        return find(self.kept.version, like).name

    # --- the plan

    def plan_of(self, pool: PoolFacts | None, changed: Since | None = None) -> Plan:
        """The plan, without steps where something stands against it."""
        kept = self.kept
        master = kept.hosts[kept.master].cells.get("name__label", "the master")
        versions = {uuid: host.version for uuid, host in pool.hosts.items()} if pool is not None else {}
        hosts = (
            PlannedHost(uuid, row.cells.get("name__label", uuid), versions.get(uuid, ""), row.cells["address"])
            for uuid, row in kept.hosts.items()
        )
        self.warnings.append(
            "hosts are known by new uuids afterwards; addresses of their interfaces beside the management one, their iSCSI "
            "names, licences and certificates are to be set anew"
        )
        against = tuple(dict.fromkeys(self.problems))
        return Plan(
            pool=kept.pool if pool is None else pool.uuid,
            pool_name=kept.pool_name if pool is None else pool.name,
            source=versions.get(kept.master, ""),
            target=kept.version,
            medium=self.medium,
            hosts=tuple(hosts),
            vms=tuple(self.guests(pool, changed)),
            steps=() if against else tuple(self.steps),
            problems=against,
            warnings=tuple(self.warnings),
            procedure=FROM_DUMP,
            master=kept.master,
            losses=tuple(self.losses),
            no_return=(f"once {master} is installed afresh, the dump is all that is left of the pool's database",),
        )

    def guests(self, pool: PoolFacts | None, changed: Since | None) -> Iterator[PlannedVM]:
        """The guests of the plan by name: what they are now, and in the end."""
        lost = changed.made if changed is not None else frozenset()
        names = {uuid: row.cells.get("name__label", uuid) for uuid, row in self.kept.vms.items()}
        if pool is not None:
            names = {uuid: vm.name for uuid, vm in pool.vms.items()}
        for uuid, name in sorted(names.items(), key=lambda item: item[1]):
            live = None if pool is None else pool.vms[uuid]
            now, at = (live.state, live.host) if live is not None else self.kept.places[uuid]
            final, home = self.final.get(uuid, now), self.homes.get(uuid)
            down = now == "Running"
            seconds = self.back.get(home or self.kept.master, 0.0) if down and final == "Running" else 0.0
            why = "every host is installed afresh" if down else ""
            if down and uuid in lost:
                why += "; it does not come back"
            elif down:
                why += f"; down for about {max(1, round(seconds / 60))} minutes" if seconds else "; it stays down"
            yield PlannedVM(
                *(uuid, name, final, home if final == "Running" else None),
                planned_downtime=down,
                why=why,
                now=now,
                at=at,
                downtime_s=seconds,
            )


def assert_can_run(plan: Plan, *, accept_downtime: bool = False, accept_loss: bool = False) -> None:
    """Raise `ProcedureError` where the plan has problems, or shuts guests down or loses something that was not agreed to."""
    plan.assert_agreed(
        *("this pool cannot be taken back by the dump", "this", "this loses what the dump does not have"),
        accept_downtime=accept_downtime,
        accept_loss=accept_loss,
    )


__all__ = ["FROM_DUMP", "assert_can_run", "plan", "read"]
