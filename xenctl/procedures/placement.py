"""Where guests can go while hosts are upgraded one after another, and in which order the hosts are emptied.

The whole sequence is played through on paper before anything happens: `Board` holds which guest is where and what memory is
left, and refuses what the pool would refuse. The master goes first, while all versions are equal, so its guests may go to
any host. From then on a guest only moves to a host that is upgraded already: a master of 4.1 to 5.x refuses anything else,
and a guest on an old host would have to move once more in any case. Homes are preferred, then the host with most room; big
guests are placed first. If the members' order by name does not fit, other orders are tried.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field

from .observe import HostFacts, PoolFacts, VMFacts

GIB = 1 << 30


class DoesNotFit(Exception):
    """A guest has no place at a step; the text says which, when, and what is missing."""


def reachable(vm: VMFacts, host: HostFacts) -> bool:
    """Whether `host` has what `vm` needs beside memory: storage, networks, and a processor for a fully virtual guest."""
    return vm.storage <= host.storage and vm.networks <= host.networks and (host.hvm or not vm.hvm)


@dataclass
class Board:
    """Which guest is where (by uuid), and the memory that is left on each host."""

    pool: PoolFacts
    where: dict[str, str] = field(default_factory=dict)
    free: dict[str, int] = field(default_factory=dict)
    guests: dict[str, dict[str, None]] = field(default_factory=dict)
    tight: bool = False
    """Whether guests go where they leave least room, so that big ones find some later, instead of where most is left."""

    @classmethod
    def of(cls, pool: PoolFacts) -> Board:
        """The board as the pool is."""
        board = cls(pool, free={uuid: host.room for uuid, host in pool.hosts.items()})
        board.guests = {uuid: {} for uuid in pool.hosts}
        for vm in pool.vms.values():
            if vm.host:
                board.place(vm, vm.host)
        return board

    def copy(self, *, tight: bool = False) -> Board:
        """A board of its own; `tight` says how guests are placed on it."""
        guests = {host: dict(on) for host, on in self.guests.items()}
        return Board(self.pool, dict(self.where), dict(self.free), guests, tight)

    def place(self, vm: VMFacts, host: str) -> None:
        self.where[vm.uuid] = host
        self.free[host] -= vm.memory
        self.guests[host][vm.uuid] = None

    def remove(self, vm: VMFacts) -> None:
        host = self.where.pop(vm.uuid)
        self.free[host] += vm.memory
        del self.guests[host][vm.uuid]

    def move(self, vm: VMFacts, host: str) -> None:
        self.remove(vm)
        self.place(vm, host)

    def on(self, host: str) -> list[VMFacts]:
        """The guests on `host`, biggest first."""
        return sorted((self.pool.vms[uuid] for uuid in self.guests[host]), key=lambda vm: (-vm.memory, vm.name))

    def takes(self, vm: VMFacts, host: str) -> bool:
        """Whether `vm` could run on `host` now."""
        return reachable(vm, self.pool.hosts[host]) and self.free[host] >= vm.memory

    def best(self, vm: VMFacts, hosts: Iterable[str], home: str = "") -> str | None:
        """Of `hosts`, the one to put `vm` on: its home if there is room, else the one with most room (or least, on a tight
        board); None if none."""
        fitting = [host for host in hosts if self.takes(vm, host)]
        if home in fitting:
            return home
        choose = min if self.tight else max
        return choose(fitting, key=lambda host: (self.free[host], host), default=None)


@dataclass(frozen=True)
class Move:
    """A guest goes from one host to another."""

    vm: str
    source: str
    target: str
    reason: str


def pinned(pool: PoolFacts, vm: VMFacts, host: str) -> str:
    """Why a guest on `host` can go to no other host whatever the memory; empty where it can."""
    if vm.stuck:
        return vm.stuck
    if vm.tied:
        return vm.tied
    others = [facts for uuid, facts in pool.hosts.items() if uuid != host]
    if any(reachable(vm, facts) for facts in others):
        return ""
    local = [sr for sr in vm.storage if not any(sr in facts.storage for facts in others)]
    if local:
        names = ", ".join(pool.storage_names.get(sr, sr) for sr in sorted(local))
        return f"it has a disk on storage that only its host reaches ({names})"
    return "no other host has all of its storage and networks, and the processor for it"


def empty(board: Board, host: str, allowed: Iterable[str], homes: Mapping[str, str], stopped: set[str]) -> list[Move]:
    """Move every guest off `host` to one of `allowed`; those in `stopped` stay where they are. Raises `DoesNotFit`."""
    moves, allowed = [], list(allowed)
    name = board.pool.hosts[host].name
    for vm in board.on(host):
        if vm.uuid in stopped:
            continue
        target = board.best(vm, allowed, homes.get(vm.uuid, ""))
        if target is None:
            raise DoesNotFit(
                f"when {name} is upgraded, {vm.name} ({vm.memory / GIB:.1f} GiB) has to move and fits nowhere: "
                + _rooms(board, allowed, vm)
            )
        board.move(vm, target)
        moves.append(Move(vm.uuid, host, target, "home" if target == homes.get(vm.uuid) else f"{name} is upgraded"))
    return moves


def _rooms(board: Board, hosts: Iterable[str], vm: VMFacts) -> str:
    def said(host: str) -> str:
        facts = board.pool.hosts[host]
        if not reachable(vm, facts):
            return f"{facts.name} lacks its storage, its networks, or the processor for it"
        return f"{facts.name} has {max(0, board.free[host]) / GIB:.1f} GiB free"

    return "; ".join(said(host) for host in hosts) or "no other host is left"


def orders(pool: PoolFacts, board: Board) -> Iterator[list[str]]:
    """The orders of hosts to try: the master first, then members by name, emptiest first, fullest first."""
    members = sorted((uuid for uuid in pool.hosts if uuid != pool.master), key=lambda uuid: pool.hosts[uuid].name)
    used = {uuid: sum(vm.memory for vm in board.on(uuid)) for uuid in members}
    seen: list[list[str]] = []
    for order in (members, sorted(members, key=used.__getitem__), sorted(members, key=used.__getitem__, reverse=True)):
        if order not in seen:
            seen.append(order)
            yield [pool.master, *order]


def go_home(board: Board, homes: Mapping[str, str]) -> tuple[list[Move], list[str]]:
    """Bring every guest to its home. Where two stand in each other's way one steps aside first. Returns the moves, and the
    guests that stay away because there is no room even so, or their home does not reach what they need."""
    moves: list[Move] = []
    away = [uuid for uuid in board.where if homes.get(uuid, board.where[uuid]) != board.where[uuid]]
    away.sort(key=lambda uuid: -board.pool.vms[uuid].memory)
    aside: set[str] = set()
    while away:
        ready = [uuid for uuid in away if board.takes(board.pool.vms[uuid], homes[uuid])]
        for uuid in ready:
            vm = board.pool.vms[uuid]
            if board.takes(vm, homes[uuid]):
                moves.append(Move(uuid, board.where[uuid], homes[uuid], "home"))
                board.move(vm, homes[uuid])
                away.remove(uuid)
        if ready or not away:
            continue
        step = _step_aside(board, away, homes, aside)
        if step is None:
            return moves, away
        moves.append(step)
        aside.add(step.vm)
        board.move(board.pool.vms[step.vm], step.target)
    return moves, []


def _step_aside(board: Board, away: list[str], homes: Mapping[str, str], aside: set[str]) -> Move | None:
    """A guest that is not at home and makes room for another by going somewhere else for a while."""
    for uuid in reversed(away):
        if uuid in aside:
            continue
        vm = board.pool.vms[uuid]
        at = board.where[uuid]
        others = [host for host in board.pool.hosts if host not in (at, homes[uuid])]
        target = board.best(vm, others)
        if target is not None and any(homes[other] == at for other in away if other != uuid):
            return Move(uuid, at, target, "steps aside for a guest that goes home")
    return None
