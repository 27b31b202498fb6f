"""A refusal of the planner as a proof with names, and in words."""

from __future__ import annotations

from ..observe import HostFacts, PoolFacts, VMFacts
from ..placement import DoesNotFit, lacks
from ..plan import GIB, Proof
from .greedy import Stuck
from .pieces import Pieces
from .proof import ALONE, COUNTED, SEARCHED, TRIED, Refusal, Smallest
from .puzzle import NOWHERE, bits

KNOWN = {
    ALONE: "That is so even if no other guest were there",
    SEARCHED: "Every order of hosts and migrations was tried, and none does it",
    TRIED: "This is not proven: the pool is too big to try everything",
}
"""How it is known that there is no way, in words; where it was counted, the count follows."""


def refusal(pool: PoolFacts, pieces: Pieces, refused: Refusal) -> DoesNotFit:
    """The error that tells all that is known of a refusal."""
    return _Telling(pool, pieces, refused).error()


class _Telling:
    def __init__(self, pool: PoolFacts, pieces: Pieces, refused: Refusal) -> None:
        self.pool, self.pieces, self.refused, self.puzzle = pool, pieces, refused, pieces.puzzle

    def error(self) -> DoesNotFit:
        """The place where it shows, how it is known, and what would make it possible."""
        refused, stuck = self.refused, self._stuck()
        guest = self.vm(stuck.guest)
        rooms = tuple(self._rooms(stuck, guest))
        first = self._resumed(guest, rooms) if stuck.host == NOWHERE else self._moves(stuck, guest, rooms)
        sentences = [first, self._known(), self._remedy()]
        free = max((stuck.free[host] for host in bits(stuck.allowed)), default=0)
        missing = self.puzzle.size[stuck.guest] - max(0, free)
        if refused.how == COUNTED and refused.short is not None:
            missing = refused.short.needed - refused.short.there
        suspend, shut_down = refused.suspend, refused.shut_down
        proof = Proof(
            refused.how,
            "" if stuck.host == NOWHERE else self.host(stuck.host).uuid,
            guest.uuid,
            max(0, missing),
            rooms,
            self._uuids(suspend),
            suspend is not None and suspend.exact,
            self._uuids(shut_down),
            shut_down is not None and shut_down.exact,
        )
        return DoesNotFit(". ".join(sentence for sentence in sentences if sentence), proof)

    def host(self, number: int) -> HostFacts:
        return self.pool.hosts[self.pieces.hosts[number]]

    def vm(self, number: int) -> VMFacts:
        return self.pool.vms[self.puzzle.guests[number].uuid]

    def _stuck(self) -> Stuck:
        """Where it shows. A guest that has no way alone is stuck on its own host in an empty pool."""
        if self.refused.stuck is not None and not self.refused.alone:
            return self.refused.stuck
        number = self.refused.alone[0] if self.refused.alone else 0
        guest, puzzle = self.puzzle.guests[number], self.puzzle
        free = tuple(max(rooms) for rooms in zip(puzzle.before, puzzle.after, strict=True))
        reach = (guest.enters if guest.at == NOWHERE else guest.reach) & ~(1 << guest.at if guest.at != NOWHERE else 0)
        return Stuck(guest.at, number, puzzle.new, free, reach)

    def _rooms(self, stuck: Stuck, guest: VMFacts) -> list[str]:
        """What each host that the pool's rules would allow has for the guest, or lacks."""
        mixed = stuck.new and not self.puzzle.sideways and stuck.host != NOWHERE
        legal = [
            h for h in bits(stuck.new if mixed and not self.refused.alone else self.puzzle.whole) if h != stuck.host
        ]
        out = []
        for number in legal:
            host = self.host(number)
            if stuck.allowed >> number & 1:
                out.append(f"{host.name} has {max(0, stuck.free[number]) / GIB:.1f} GiB free")
            elif lacking := lacks(self.pool, guest, host):
                out.append(f"{host.name} lacks {lacking}")
            elif self.puzzle.closed >> number & 1:
                out.append(f"{host.name} is disabled")
        return out

    def _moves(self, stuck: Stuck, guest: VMFacts, rooms: tuple[str, ...]) -> str:
        size = self.puzzle.size[stuck.guest] / GIB
        return (
            f"when {self.host(stuck.host).name} is upgraded, {guest.name} ({size:.1f} GiB) has to move and fits nowhere: "
            + ("; ".join(rooms) or "no other host is left")
        )

    def _resumed(self, guest: VMFacts, rooms: tuple[str, ...]) -> str:
        return (
            f"{guest.name} is suspended and has to be resumed before the master is upgraded, but memory forbids it: it "
            f"takes {guest.memory >> 20} MiB; " + "; ".join(rooms)
        )

    def _known(self) -> str:
        short = self.refused.short
        if self.refused.how != COUNTED or short is None:
            return KNOWN[self.refused.how]
        where = self.host(short.host).name
        on = ", ".join(self.host(number).name for number in bits(short.hosts)) or "no other host"
        return (
            f"Whatever goes where: while {where} is down, {len(short.guests)} guests need {short.needed / GIB:.1f} GiB on "
            f"{on}, where there are {short.there / GIB:.1f} GiB; {(short.needed - short.there) / GIB:.1f} GiB are missing"
        )

    def _remedy(self) -> str:
        ways = []
        for smallest, what in (
            (self.refused.suspend, "suspended before the first host"),
            (self.refused.shut_down, "shut down for their hosts' turns"),
        ):
            if smallest is not None and smallest.guests:
                names = ", ".join(self.vm(number).name for number in smallest.guests)
                few = "no smaller set does" if smallest.exact else "a smaller set may do"
                ways.append(f"{names} if {what} ({few})")
        return f"It is possible without these: {'; or '.join(ways)}" if ways else ""

    def _uuids(self, smallest: Smallest | None) -> tuple[str, ...]:
        return () if smallest is None else tuple(self.puzzle.guests[number].uuid for number in smallest.guests)


def why_away(pool: PoolFacts, vm: VMFacts, home: str, free: int) -> str:
    """Why a guest does not end on its home, where `free` bytes are left."""
    if home not in pool.hosts:
        return "its home is not in the pool any more"
    host = pool.hosts[home]
    if lacking := lacks(pool, vm, host):
        return f"{host.name} lacks {lacking}"
    if vm.stuck or vm.tied:
        return vm.stuck or vm.tied
    return f"{host.name} has {max(0, free) / GIB:.1f} GiB for it, and it takes {vm.memory / GIB:.1f} GiB"
