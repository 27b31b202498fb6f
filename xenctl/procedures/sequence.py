"""The sequence of steps of a rolling upgrade: hosts in their order, guests in theirs, played through on a board.

It may begin anywhere: with every host old, or, where an upgrade was left half done, with some upgraded. What the pool was
like before anybody touched it is the `Baseline`; that is what guests and discs come back to.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace

from ..releases import Release
from .observe import PoolFacts, VMFacts
from .placement import Board, DoesNotFit, Move, empty, go_home, orders, pinned, reachable
from .plan import Plan, Step

GONE = "its home has no room for it, or lacks its storage or networks"


@dataclass(frozen=True)
class Baseline:
    """How the pool was before the upgrade: power states and homes by guest, and discs in drives as `(vm, vbd, vdi)`."""

    states: Mapping[str, str]
    homes: Mapping[str, str]
    discs: tuple[tuple[str, str, str], ...]

    @classmethod
    def of(cls, pool: PoolFacts) -> Baseline:
        """The pool as it is now."""
        return cls(
            {vm.uuid: vm.state for vm in pool.vms.values()},
            {vm.uuid: vm.host for vm in pool.vms.values() if vm.host},
            tuple((vm.uuid, disc.vbd, disc.vdi) for vm in pool.vms.values() for disc in vm.discs),
        )

    @classmethod
    def of_plan(cls, plan: Plan, pool: PoolFacts) -> Baseline:
        """What an earlier plan began with; the pool as it is now for guests that have come since."""
        now = cls.of(pool)
        inserts = tuple((step.vm, step.vbd, step.vdi) for step in plan.steps if step.action == "insert")
        drives, planned = {vbd for _, vbd, _ in inserts}, {vm.uuid: vm for vm in plan.vms}
        return cls(
            {**now.states, **{uuid: vm.state for uuid, vm in planned.items() if uuid in now.states}},
            {
                **{uuid: home for uuid, home in now.homes.items() if uuid not in planned},
                **{uuid: vm.home for uuid, vm in planned.items() if vm.home and uuid in now.states},
            },
            inserts + tuple(disc for disc in now.discs if disc[1] not in drives),
        )

    def within(self, pool: PoolFacts, without: Collection[str]) -> Baseline:
        """The same for a pool that goes on without some hosts, by uuid: nobody on them, nobody at home there."""
        gone = {uuid for uuid, vm in pool.vms.items() if vm.host in without}
        return Baseline(
            {uuid: state for uuid, state in self.states.items() if uuid not in gone},
            {uuid: home for uuid, home in self.homes.items() if uuid not in gone and home not in without},
            tuple(disc for disc in self.discs if disc[0] not in gone),
        )


@dataclass(frozen=True)
class Played:
    """What playing gave: the order of hosts, the steps, who is shut down and why, who stays away from home."""

    order: list[str]
    steps: tuple[Step, ...]
    downtime: Mapping[str, str]
    warnings: tuple[str, ...] = ()
    away: tuple[str, ...] = ()


def find_sequence(pool: PoolFacts, target: Release, baseline: Baseline) -> Played:
    """The steps that bring every host to `target`. Raises `DoesNotFit` with what is missing where there are none."""
    refusal: DoesNotFit | None = None
    board = Board.of(pool)
    for order in orders(pool, board):
        for tight in (False, True):
            try:
                return _Game(pool, target, order, board.copy(tight=tight), baseline).play()
            except DoesNotFit as error:
                refusal = refusal or error
    assert refusal is not None
    raise refusal


@dataclass
class _Game:
    """A sequence that is being played through."""

    pool: PoolFacts
    target: Release
    order: list[str]
    board: Board
    baseline: Baseline
    steps: list[Step] = field(default_factory=list)
    downtime: dict[str, str] = field(default_factory=dict)
    warnings: list[str] = field(default_factory=list)

    def play(self) -> Played:
        """Play from the first step to the last. Raises `DoesNotFit`."""
        pool = self.pool
        new = [uuid for uuid in self.order if pool.hosts[uuid].version == self.target.product_version]
        self._clear_drives()
        if not new:
            self._resume()
        self._rouse(new)
        for host in self.order:
            if host not in new:
                self._turn(host, new)
                new.append(host)
        self.steps.append(Step("equal", release=self.target.product_version))
        moves, away = go_home(self.board, self.baseline.homes)
        self.warnings += [f"{pool.vms[uuid].name} ends away from home: {GONE}" for uuid in away]
        self.steps += [_migrate(move) for move in moves]
        self._fill_drives()
        self.steps += [
            Step("suspend", vm=uuid, reason="it was suspended at the start")
            for uuid, state in self.baseline.states.items()
            if state == "Suspended" and uuid in self.board.where
        ]
        return Played(self.order, tuple(self.steps), self.downtime, tuple(self.warnings), tuple(away))

    def _clear_drives(self) -> None:
        for vm in self.pool.vms.values():
            if vm.state != "Suspended":
                self.steps += [_eject(vm, disc.vbd, disc.vdi) for disc in vm.discs]

    def _fill_drives(self) -> None:
        for vm, vbd, vdi in self.baseline.discs:
            facts, at = self.pool.vms.get(vm), self.board.where.get(vm)
            if facts is None:
                continue
            sr = next((disc.sr for disc in facts.discs if disc.vbd == vbd), "")
            if at is None or not sr or sr in self.pool.hosts[at].storage:
                self.steps.append(Step("insert", vm=vm, vbd=vbd, vdi=vdi))
            else:
                self.warnings.append(
                    f"the CD of {facts.name} is not put back: its host does not reach the storage that it is on"
                )

    def _resume(self) -> None:
        """Resume what is suspended, while all versions are equal."""
        suspended = [vm for vm in self.pool.vms.values() if vm.state == "Suspended"]
        for vm in sorted(suspended, key=lambda vm: (-vm.memory, vm.name)):
            host = _resume_at(self.pool, self.board, vm)
            self.board.place(vm, host)
            self.steps.append(Step("resume", vm=vm.uuid, to=host, reason="a suspended guest cannot cross releases"))
            self.steps += [_eject(vm, disc.vbd, disc.vdi) for disc in vm.discs]

    def _rouse(self, new: Sequence[str]) -> None:
        """Start what ran at the beginning and is down: a guest that was shut down for a turn that never ended."""
        for uuid, state in self.baseline.states.items():
            vm = self.pool.vms.get(uuid)
            if vm is None or state != "Running" or vm.state != "Halted":
                continue
            host = self.board.best(vm, new or list(self.pool.hosts), self.baseline.homes.get(uuid, ""))
            if host is None:
                self.warnings.append(f"{vm.name} ran at the start and is down, and no host has room for it now")
                continue
            self.board.place(vm, host)
            self.steps.append(Step("start", host=host, vm=uuid, to=host, reason="it ran at the start"))

    def _turn(self, host: str, new: Sequence[str]) -> None:
        """Empty a host, install it, wait for it."""
        pool, board, release = self.pool, self.board, self.target.product_version
        fixed = {vm.uuid: why for vm in board.on(host) if (why := pinned(pool, vm, host))}
        for uuid in fixed:
            if not reachable(pool.vms[uuid], pool.hosts[host]):
                raise DoesNotFit(
                    f"{pool.vms[uuid].name} has to be shut down when {pool.hosts[host].name} is upgraded, and could not be "
                    "started again: that host does not reach all of its storage and networks"
                )
        allowed = list(new) or [uuid for uuid in self.order if uuid != host]
        self.steps.append(Step("turn", host=host))
        self.steps.append(Step("disable", host=host, reason="no guest is to come while it is emptied"))
        self.steps += [_migrate(move) for move in empty(board, host, allowed, self.baseline.homes, set(fixed))]
        self.steps += [Step("stop", host=host, vm=uuid, reason=why) for uuid, why in fixed.items()]
        self.steps.append(Step("halt", host=host))
        self.steps.append(Step("install", host=host, release=release))
        self.steps.append(Step("return", host=host, release=release))
        self.steps += [
            Step("start", host=host, vm=uuid, to=host, reason="it was shut down for this turn") for uuid in fixed
        ]
        homes = self.baseline.homes
        lost = {uuid: f"{why}; its saved state is lost" for uuid, why in fixed.items() if uuid not in homes}
        self.downtime.update({**fixed, **lost})


def _eject(vm: VMFacts, vbd: str, vdi: str) -> Step:
    return Step("eject", vm=vm.uuid, vbd=vbd, vdi=vdi, reason="a CD ties a guest to what its host sees")


def _migrate(move: Move) -> Step:
    return Step("migrate", host=move.source, vm=move.vm, to=move.target, reason=move.reason)


def _resume_at(pool: PoolFacts, board: Board, vm: VMFacts) -> str:
    """The host to resume `vm` on: one that reaches its disks, its suspend image and its CDs; rather not the master, which is
    emptied first."""
    needs = replace(vm, storage=vm.storage | {vm.image} | {disc.sr for disc in vm.discs})
    seeing = [uuid for uuid, host in pool.hosts.items() if reachable(needs, host)]
    if not seeing:
        raise DoesNotFit(f"{vm.name} is suspended and cannot be resumed: no host reaches all of its disks")
    members = [uuid for uuid in seeing if uuid != pool.master]
    found = board.best(vm, members) or board.best(vm, seeing)
    if found is None:
        rooms = "; ".join(f"{pool.hosts[u].name} has {max(0, board.free[u]) >> 20} MiB free" for u in seeing)
        raise DoesNotFit(
            f"{vm.name} is suspended and has to be resumed before the master is upgraded, but memory forbids it: "
            f"it takes {vm.memory >> 20} MiB; {rooms}"
        )
    return found
