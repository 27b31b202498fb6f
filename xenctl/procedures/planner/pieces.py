"""A pool as the planner's puzzle: which guests move, what the others take of their hosts, and who reaches what.

A guest that cannot move, or is not to, is *held*: it is shut down for its host's turn and started there again, so that
its memory is its host's before and after. One that is to be suspended takes nothing until all versions are equal again.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from ...releases import Release, find
from ..observe import PoolFacts, VMFacts
from ..placement import DoesNotFit, needs, pinned, reachable
from .puzzle import NOWHERE, Guest, Puzzle, bits

MIGRATE, SUSPEND, SHUT_DOWN, LEAVE = POLICIES = ("migrate", "suspend", "shut-down", "leave")
"""What becomes of a guest: it moves; it is suspended before the first host and resumed after the last; it is shut down
for its host's turn; nobody touches it."""


@dataclass(frozen=True)
class Wishes:
    """How guests are to be treated. `policies` is by guest's uuid (else `migrate`), `growth` the bytes that the control
    domain of an upgraded host takes more than before, for all hosts or by uuid. With `return_home` guests end where
    they were; without `squeeze` a guest counts with all the memory that it may have, not with the least that it can be
    made to keep."""

    policies: Mapping[str, str] = field(default_factory=dict)
    growth: int | Mapping[str, int] = 0
    return_home: bool = True
    squeeze: bool = True

    def __post_init__(self) -> None:
        for uuid, policy in self.policies.items():
            if policy not in POLICIES:
                raise ValueError(f"the policy of a guest is one of {', '.join(POLICIES)}, not {policy!r} ({uuid})")

    def policy(self, vm: VMFacts, *, mixed: bool = False) -> str:
        """What becomes of a guest. Once versions are `mixed` nothing is suspended any more: it is shut down."""
        policy = self.policies.get(vm.uuid, MIGRATE)
        return SHUT_DOWN if mixed and policy == SUSPEND else policy

    def grows(self, host: str) -> int:
        """How many bytes the control domain of a host grows by."""
        return self.growth if isinstance(self.growth, int) else self.growth.get(host, 0)

    def memory(self, vm: VMFacts) -> int:
        """The bytes that a guest counts with."""
        return vm.memory if self.squeeze else max(vm.memory, vm.memory_most)


@dataclass(frozen=True)
class Pieces:
    """A puzzle with what is outside it. `held` is why, by the guests that are shut down for their host's turn,
    `resting` the guests that are suspended all the while, `entering` the host that one which is held anyway is resumed
    on; `still` are guests on upgraded hosts that stay there."""

    puzzle: Puzzle
    hosts: tuple[str, ...]
    held: Mapping[str, str]
    resting: Mapping[str, str]
    entering: Mapping[str, str]
    at: Mapping[str, str]
    """The host of every guest outside the puzzle that is on one, or will be."""


def pieces(
    pool: PoolFacts,
    target: Release,
    homes: Mapping[str, str],
    wishes: Wishes,
    placed: Mapping[str, str],
) -> Pieces:
    """The puzzle of bringing `pool` to `target`. `homes` is where guests are to end, `placed` where those are that are
    started before anything else. Raises `DoesNotFit` for what no order and no place can help."""
    return _Sorting(pool, target, homes, wishes, placed).pieces()


class _Sorting:
    """Sorting guests into those that move and those that do not."""

    def __init__(
        self, pool: PoolFacts, target: Release, homes: Mapping[str, str], wishes: Wishes, placed: Mapping[str, str]
    ) -> None:
        self.pool, self.homes, self.wishes, self.placed = pool, homes, wishes, placed
        members = sorted((uuid for uuid in pool.hosts if uuid != pool.master), key=lambda uuid: pool.hosts[uuid].name)
        self.hosts = (pool.master, *members)
        self.number = {uuid: i for i, uuid in enumerate(self.hosts)}
        facts = [pool.hosts[uuid] for uuid in self.hosts]
        self.new = sum(1 << i for i, host in enumerate(facts) if host.version == target.product_version)
        self.closed = sum(1 << i for i, host in enumerate(facts) if not host.enabled) & ~self.new
        self.sideways = target >= find("6.0.0")
        self.rooms = [host.room for host in facts]
        self.growth = [0 if self.new >> i & 1 else wishes.grows(uuid) for i, uuid in enumerate(self.hosts)]
        self.reaches: dict[tuple[object, ...], int] = {}
        self.held: dict[str, str] = {}
        self.resting: dict[str, str] = {}
        self.entering: dict[str, str] = {}
        self.at: dict[str, str] = {}
        self.guests: list[Guest] = []

    def pieces(self) -> Pieces:
        """Sort every guest, and count what is left on each host for those that move."""
        waiting = []
        for vm in self.pool.vms.values():
            host = self.placed.get(vm.uuid, vm.host)
            if host:
                self._running(vm, host)
            elif vm.state == "Suspended" and not self.new:
                waiting.append(vm)
        self.rooms = [max(0, room) for room in self.rooms]  # what runs there now fits, whatever the count says
        for vm in sorted(waiting, key=lambda vm: (-vm.memory, vm.name)):
            self._suspended(vm)
        before = tuple(self.rooms)
        after = tuple(room - more for room, more in zip(before, self.growth, strict=True))
        for i, uuid in enumerate(self.hosts):
            self._assert_held_fit(uuid, after[i])
        names = tuple(self.pool.hosts[uuid].name for uuid in self.hosts)
        puzzle = Puzzle(names, before, after, tuple(self.guests), self.new, self.closed, self.sideways)
        return Pieces(puzzle, self.hosts, self.held, self.resting, self.entering, self.at)

    def reach(self, vm: VMFacts) -> int:
        """The hosts that have what a guest needs beside memory."""
        needs = (vm.storage, vm.networks, vm.devices, vm.hvm, vm.cpu)
        if needs not in self.reaches:
            able = (reachable(vm, self.pool.hosts[uuid]) for uuid in self.hosts)
            self.reaches[needs] = sum(1 << i for i, yes in enumerate(able) if yes)
        return self.reaches[needs]

    def _running(self, vm: VMFacts, host: str) -> None:
        at, policy = self.number[host], self.wishes.policy(vm, mixed=bool(self.new))
        new = bool(self.new >> at & 1)
        if policy == SUSPEND:
            self.resting[vm.uuid] = "it is suspended for the upgrade, as was asked"
            return
        why = self._pinned(vm, host)
        if policy == LEAVE and not new:
            where = self.pool.hosts[host].name
            raise DoesNotFit(
                f"{vm.name} is to be left alone and runs on {where}, which is emptied for its upgrade: move it or shut it "
                "down, or choose another policy for it"
            )
        if policy == SHUT_DOWN:
            why = why or "it is shut down for its host's turn, as was asked"
        if why or policy == LEAVE:
            self._hold(vm, host, why if not new else "")
            return
        home = self._home(vm)
        self.guests.append(Guest(vm.uuid, self.wishes.memory(vm), self.reach(vm), at, home, 0, vm.apart))

    def _home(self, vm: VMFacts) -> int:
        """Where a guest is to end: nowhere in particular where its home is gone, or lacks what it needs."""
        home = self.number.get(self.homes.get(vm.uuid, ""), NOWHERE)
        return home if self.wishes.return_home and home != NOWHERE and self.reach(vm) >> home & 1 else NOWHERE

    def _pinned(self, vm: VMFacts, host: str) -> str:
        if not (vm.stuck or vm.tied) and self.reach(vm) & ~(1 << self.number[host]):
            return ""
        return pinned(self.pool, vm, host)

    def _hold(self, vm: VMFacts, host: str, why: str) -> None:
        """Leave a guest on its host, shut down for the host's turn if there is one."""
        self.at[vm.uuid] = host
        self.rooms[self.number[host]] -= self.wishes.memory(vm)
        if not why:
            return
        self.held[vm.uuid] = why
        if not reachable(vm, self.pool.hosts[host]):
            raise DoesNotFit(
                f"{vm.name} has to be shut down when {self.pool.hosts[host].name} is upgraded, and could not be started "
                "again: that host does not reach all of its storage and networks"
            )

    def _suspended(self, vm: VMFacts) -> None:
        """A suspended guest is resumed while all versions are equal: one that moves wherever it is of use, another
        where it stays."""
        policy = self.wishes.policy(vm)
        if policy in (LEAVE, SUSPEND):
            return
        enters = self.reach(needs(vm))
        able = [self.pool.hosts[self.hosts[i]] for i in bits(enters & ~self.closed)]
        if not able:
            raise DoesNotFit(f"{vm.name} is suspended and cannot be resumed: no host reaches all of its disks")
        why = {host.uuid: self._pinned(vm, host.uuid) for host in able}
        if policy == SHUT_DOWN:
            why = {uuid: said or "it is shut down for its host's turn, as was asked" for uuid, said in why.items()}
        if not all(why.values()):
            self.guests.append(
                Guest(vm.uuid, self.wishes.memory(vm), self.reach(vm), NOWHERE, NOWHERE, enters, vm.apart)
            )
            return
        room = {host.uuid: self.rooms[self.number[host.uuid]] - self.wishes.memory(vm) for host in able}
        host = max(able, key=lambda host: (room[host.uuid] >= 0, host.uuid != self.pool.master, room[host.uuid]))
        self.entering[vm.uuid] = host.uuid
        self._hold(vm, host.uuid, why[host.uuid])

    def _assert_held_fit(self, host: str, left: int) -> None:
        if left >= 0:
            return
        held = ", ".join(self.pool.vms[uuid].name for uuid, at in self.at.items() if at == host)
        raise DoesNotFit(
            f"the guests that stay on {self.pool.hosts[host].name} ({held}) take {-left >> 20} MiB more than it has once it "
            "is upgraded: shut one of them down for good, or give it less memory"
        )
