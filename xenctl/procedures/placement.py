"""What a guest needs of a host, and a board on which guests are moved on paper.

`Board` holds which guest is where and what memory is left, and refuses what the pool would refuse. What empties one
host, and brings guests home, goes from it: homes are preferred, then the host with most room; big guests are placed
first. The sequence of a whole upgrade is the planner's.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace

from .observe import HostFacts, PoolFacts, VMFacts
from .plan import Proof

GIB = 1 << 30


class DoesNotFit(Exception):
    """A guest has no place at a step; the text says which, when, and what is missing. `proof` is the same as data,
    where a planner has looked at the whole sequence."""

    def __init__(self, text: str, proof: Proof | None = None) -> None:
        super().__init__(text)
        self.proof = proof


def reachable(vm: VMFacts, host: HostFacts) -> bool:
    """Whether `host` has what `vm` needs beside memory: storage, networks, devices, and a processor that runs it."""
    return (
        vm.storage <= host.storage
        and vm.networks <= host.networks
        and vm.devices <= host.devices
        and (host.hvm or not vm.hvm)
        and host.cpu.runs(vm.cpu)
    )


def needs(vm: VMFacts) -> VMFacts:
    """A guest with all the storage that moving it takes, or resuming one that is suspended: disks, the discs in its drives,
    and the suspend image; one whose image is gone can be resumed nowhere."""
    image = {vm.image} if vm.state == "Suspended" else set[str]()
    return replace(vm, storage=vm.storage | image | {disc.sr for disc in vm.discs})


def lacks(pool: PoolFacts, vm: VMFacts, host: HostFacts) -> str:
    """What `host` lacks of what `vm` needs beside memory, in words; empty where nothing."""
    out = [
        *_named("storage", vm.storage - host.storage, pool.storage_names),
        *_named("network", vm.networks - host.networks, pool.network_names),
        *(["a card of its GPU group"] if vm.devices - host.devices else []),
        *(["hardware virtualisation"] if vm.hvm and not host.hvm else []),
        *([] if host.cpu.runs(vm.cpu) else ["the processor that it was started on"]),
    ]
    return ", ".join(out)


def _named(kind: str, refs: Iterable[str], names: Mapping[str, str]) -> list[str]:
    return [f"the {kind} {name}" for name in sorted(names.get(ref, ref) for ref in refs)]


@dataclass
class Board:
    """Which guest is where (by uuid), and the memory that is left on each host."""

    pool: PoolFacts
    where: dict[str, str] = field(default_factory=dict)
    free: dict[str, int] = field(default_factory=dict)
    guests: dict[str, dict[str, None]] = field(default_factory=dict)
    tight: bool = False
    """Whether guests go where they leave least room, so that big ones find some later, instead of where most is
    left."""

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
        """Of `hosts`, the one to put `vm` on: its home if there is room, else the one with most room (or least, on a
        tight board); None if none."""
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
    if vm.stuck or vm.tied:
        return vm.stuck or vm.tied
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
        if lacking := lacks(board.pool, vm, facts):
            return f"{facts.name} lacks {lacking}"
        return f"{facts.name} has {max(0, board.free[host]) / GIB:.1f} GiB free"

    return "; ".join(said(host) for host in hosts) or "no other host is left"


def go_home(board: Board, homes: Mapping[str, str]) -> tuple[list[Move], list[str]]:
    """Bring every guest to its home. Where two stand in each other's way one steps aside first. Returns the moves, and
    the guests that stay away because there is no room even so, or their home does not reach what they need."""
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
