"""The pool as a puzzle of whole numbers: hosts to empty one after another, guests with a size that move between them.

Hosts are numbers from 0 on, the master first, and sets of hosts are bits of a number. A host is *new* once it is
upgraded. The rules are those of the pool: the master is upgraded first; a host is upgraded when it is empty; while all
versions are equal a guest may go anywhere, from then on to new hosts only, or, where the new release allows it
(`sideways`), from an old host to another old one. Guests that cannot move, or are not to, are no part of it: what they
take is taken off their hosts.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import NamedTuple

NOWHERE = -1
"""Where a guest is that is still to be resumed, and the home of one that has none."""

MOVE = 1 << 60
"""What a migration costs beside its guest's memory: no memory outweighs one migration less."""
AWAY = MOVE << 16
"""What a guest costs that ends away from home: no migrations outweigh one guest more at home."""
NEVER = AWAY << 24
"""What it costs where there is no way at all."""


@dataclass(frozen=True)
class Guest:
    """A guest that moves: `size` in bytes, `reach` the hosts that have what it needs, `at` the host it is on
    (`NOWHERE`: to be resumed before anything else, on one of `enters`), `home` the host that it is to end on
    (`NOWHERE`: on any). `apart` names the groups whose members rather run on different hosts."""

    uuid: str
    size: int
    reach: int
    at: int
    home: int = NOWHERE
    enters: int = 0
    apart: frozenset[str] = frozenset()


class Hop(NamedTuple):
    """A guest goes from one host to another; from `NOWHERE` it is resumed."""

    guest: int
    source: int
    target: int


class Turn(NamedTuple):
    """A host is upgraded."""

    host: int


Act = Hop | Turn


@dataclass(frozen=True)
class Puzzle:
    """Hosts by number: `before` and `after` are the bytes that moving guests may take on it before and after its
    upgrade. `new` are the hosts that are upgraded at the start, `closed` those that take no guest until they are."""

    names: tuple[str, ...]
    before: tuple[int, ...]
    after: tuple[int, ...]
    guests: tuple[Guest, ...]
    new: int = 0
    closed: int = 0
    sideways: bool = False

    @property
    def whole(self) -> int:
        """All hosts."""
        return (1 << len(self.names)) - 1

    @cached_property
    def size(self) -> tuple[int, ...]:
        """The guests' sizes."""
        return tuple(guest.size for guest in self.guests)

    def targets(self, guest: Guest, at: int, new: int) -> int:
        """The hosts that the pool would let `guest` go to from `at` while `new` are upgraded, room apart."""
        if at == NOWHERE:
            return 0 if new else guest.enters & ~self.closed
        free = guest.reach & ~(1 << at)
        if not new or (self.sideways and not new >> at & 1):
            return free & (~self.closed | new)
        return free & new

    def may_turn(self, host: int, new: int) -> bool:
        """Whether the order allows that `host` is upgraded next: the master is the first."""
        return not new >> host & 1 and (host == 0 or bool(new & 1))

    def room(self, host: int, new: int) -> int:
        """What moving guests may take on a host."""
        return self.after[host] if new >> host & 1 else self.before[host]

    def without(self, gone: Iterable[int], *, held: bool) -> Puzzle:
        """The puzzle without some guests: they are suspended all the while, or, `held`, shut down for their host's
        turn, and take its memory before and after."""
        drop = set(gone)
        before, after = list(self.before), list(self.after)
        for i in drop if held else ():
            guest = self.guests[i]
            if guest.at != NOWHERE:
                before[guest.at] -= guest.size
                after[guest.at] -= guest.size
        guests = tuple(guest for i, guest in enumerate(self.guests) if i not in drop)
        return Puzzle(self.names, tuple(before), tuple(after), guests, self.new, self.closed, self.sideways)


@lru_cache(maxsize=1 << 12)
def bits(mask: int) -> Sequence[int]:
    """The numbers of the hosts in a set."""
    out = []
    while mask:
        low = mask & -mask
        out.append(low.bit_length() - 1)
        mask ^= low
    return tuple(out)


@dataclass(frozen=True)
class Cost:
    """What a way costs: guests that end away from home, migrations, bytes of memory moved; compared in this order."""

    away: int
    moves: int
    memory: int

    @property
    def whole(self) -> int:
        """The cost as one number."""
        return self.away * AWAY + self.moves * MOVE + self.memory


def cost(puzzle: Puzzle, acts: Iterable[Act]) -> Cost:
    """What `acts` cost."""
    where = [guest.at for guest in puzzle.guests]
    moves = memory = 0
    for act in acts:
        if isinstance(act, Hop):
            where[act.guest] = act.target
            if act.source != NOWHERE:
                moves += 1
                memory += puzzle.size[act.guest]
    away = sum(guest.home not in (NOWHERE, at) for guest, at in zip(puzzle.guests, where, strict=True))
    return Cost(away, moves, memory)
