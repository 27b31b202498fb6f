"""A good way through a puzzle of any size: host by host, each guest put where it is of most use, in a few manners.

What makes a manner: the order of the hosts, where guests are put, and when they go home. A guest goes home when its own
host is upgraded, if there is room; to wherever else it goes only because it has to. So where memory allows each guest
moves as seldom as it could alone, and the first manner that does so ends the search. Where a guest fits nowhere,
another one makes room, and as a last resort it goes to an old host, where the release allows that.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import product

from .puzzle import NOWHERE, Act, Cost, Hop, Puzzle, Turn, bits, cost


@dataclass(frozen=True)
class Manner:
    """How hosts are gone through. `order` is how members follow each other: by `name`, `empty` or `full` ones first.
    `fill` is where guests are put: where most or least room is left (`even`, `tight`), on the host that is upgraded
    next, or on those that come last. `soon` sends guests home as soon as they can go, else in the end."""

    order: str
    fill: str
    soon: bool


ORDERS, FILLS = ("name", "empty", "full"), ("next", "even", "tight", "last")
MANNERS = tuple(Manner(*made) for made in product(ORDERS, FILLS, (True, False)))


WORK = 25_000
"""The acts after which no further manner is tried once there is a way; twice as many where there is none."""


@dataclass(frozen=True)
class Stuck:
    """Where a way ended: no host has room for `guest` when `host` is to be upgraded, as `new` are already. `free` is
    the room on each host then, `allowed` the hosts that it might go to."""

    host: int
    guest: int
    new: int
    free: tuple[int, ...]
    allowed: int


@dataclass(frozen=True)
class Tried:
    """What the manners came to: the best way, None where all got stuck; where the one that got farthest did."""

    acts: list[Act] | None
    cost: Cost | None
    stuck: Stuck | None = None


def best(puzzle: Puzzle, bound: int, manners: Iterable[Manner] = MANNERS) -> Tried:
    """The cheapest way of all manners; the first one that costs no more than `bound`."""
    acts, least, stuck, work = None, None, None, 0
    for manner in manners:
        if work > (WORK if acts is not None else 2 * WORK):
            break
        walk = Walk(puzzle, manner)
        try:
            made = walk.go()
        except NoRoom as error:
            work += len(walk.acts)
            if stuck is None or error.stuck.new.bit_count() > stuck.new.bit_count():
                stuck = error.stuck
            continue
        work += len(made)
        price = cost(puzzle, made)
        if least is None or price.whole < least.whole:
            acts, least = made, price
        if price.whole <= bound:
            break
    return Tried(acts, least, stuck)


class NoRoom(Exception):
    """A manner got stuck."""

    def __init__(self, stuck: Stuck) -> None:
        super().__init__(stuck)
        self.stuck = stuck


@dataclass
class Walk:
    """One way through the puzzle in one manner. With `dropping` a guest that fits nowhere is taken out, and noted in
    `dropped`, instead of ending the way."""

    puzzle: Puzzle
    manner: Manner
    dropping: bool = False
    dropped: list[int] = field(default_factory=list)
    acts: list[Act] = field(default_factory=list)

    def go(self) -> list[Act]:
        """Every act from the first to the last. Raises `NoRoom`."""
        puzzle = self.puzzle
        count = len(puzzle.names)
        self.new = puzzle.new
        self.free = [puzzle.room(host, self.new) for host in range(count)]
        self.where = [guest.at for guest in puzzle.guests]
        self.on: list[dict[int, None]] = [{} for _ in range(count)]
        for i, guest in enumerate(puzzle.guests):
            if guest.at != NOWHERE:
                self.free[guest.at] -= guest.size
                self.on[guest.at][i] = None
        self.out = {
            i: None
            for i, guest in enumerate(puzzle.guests)
            if NOWHERE not in (guest.at, guest.home) and guest.home != guest.at and guest.reach >> guest.home & 1
        }
        self.order = self._order()
        self.turns = {host: number for number, host in enumerate(self.order)}
        self._resume()
        if not self.new:
            self._move_early()
        while self.order:
            host = self.order[0]
            self._clear(host)
            self.order.pop(0)
            self.acts.append(Turn(host))
            self.free[host] += puzzle.after[host] - puzzle.before[host]
            self.new |= 1 << host
            if self.manner.soon:
                self._send_home()
        self._home_at_last()
        return self.acts

    def _order(self) -> list[int]:
        """The hosts that are still old: the master, then the members."""
        old = [host for host in range(len(self.free)) if not self.new >> host & 1]
        used = [sum(self.puzzle.size[i] for i in on) for on in self.on]
        keys = {"name": lambda host: host, "empty": used.__getitem__, "full": lambda host: -used[host]}
        return sorted(old, key=lambda host: (host != 0, keys[self.manner.order](host)))

    # --- moving one guest

    def _put(self, guest: int, host: int) -> None:
        size, at = self.puzzle.size[guest], self.where[guest]
        self._take(guest)
        self.where[guest] = host
        self.free[host] -= size
        self.on[host][guest] = None
        facts = self.puzzle.guests[guest]
        if facts.home == host:
            self.out.pop(guest, None)
        elif facts.home != NOWHERE and facts.reach >> facts.home & 1:
            self.out[guest] = None
        self.acts.append(Hop(guest, at, host))

    def _take(self, guest: int) -> None:
        at = self.where[guest]
        if at != NOWHERE:
            self.free[at] += self.puzzle.size[guest]
            del self.on[at][guest]
        self.where[guest] = NOWHERE

    def _open(self, guest: int, *, sideways: bool = False) -> int:
        """The hosts that a guest may go to from where it is: as long as it helps new ones only."""
        facts, at = self.puzzle.guests[guest], self.where[guest]
        allowed = self.puzzle.targets(facts, at, self.new)
        return allowed if sideways or not self.new or at == NOWHERE else allowed & self.new

    def _choose(self, guest: int, hosts: Iterable[int]) -> int | None:
        """Of the hosts with room the one to put a guest on: its home, else after the manner."""
        facts = self.puzzle.guests[guest]
        free, size = self.free, facts.size
        fitting = [host for host in hosts if free[host] >= size]
        if not fitting:
            return None
        if facts.home in fitting:
            return facts.home
        if facts.apart:
            fitting = [h for h in fitting if not self._together(facts.apart, h)] or fitting
        fill = self.manner.fill
        if not self.new:
            fitting = [h for h in fitting if self._leaves(facts.reach, h)] or fitting
            if fill in ("next", "last"):
                return (min if fill == "next" else max)(fitting, key=self.turns.__getitem__)
        return min(fitting, key=free.__getitem__) if fill == "tight" else max(fitting, key=free.__getitem__)

    def _leaves(self, reach: int, host: int) -> bool:
        """Whether some host that is upgraded before `host` would take a guest from there."""
        turn = self.turns[host]
        return any(reach >> earlier & 1 for earlier in self.order[:turn])

    def _together(self, groups: frozenset[str], host: int) -> bool:
        return any(groups & self.puzzle.guests[i].apart for i in self.on[host])

    # --- the parts of a way

    def _resume(self) -> None:
        """Put guests that are to be resumed somewhere, rather not on the master, which is emptied first."""
        waiting = [i for i, at in enumerate(self.where) if at == NOWHERE]
        for guest in sorted(waiting, key=lambda i: -self.puzzle.size[i]):
            allowed = self._open(guest)
            host = self._choose(guest, bits(allowed & ~1))
            if host is None:
                host = self._choose(guest, bits(allowed & 1))
            if host is None and (host := self._make_room(guest, allowed, NOWHERE)) is None:
                self._stuck(NOWHERE, guest, allowed)
            else:
                self._put(guest, host)

    def _move_early(self) -> None:
        """Move guests while they may go anywhere that could not leave their host when it is upgraded, since none of the
        hosts that they reach is new by then."""
        for host in self.order[1:]:
            for guest in sorted(self.on[host], key=lambda i: (-self.puzzle.size[i], i)):
                if not self._leaves(self.puzzle.guests[guest].reach, host) and not self.puzzle.sideways:
                    later = [h for h in bits(self._open(guest)) if self.turns[h] > self.turns[host]]
                    target = self._choose(guest, later)
                    if target is not None:
                        self._put(guest, target)

    def _clear(self, host: int) -> None:
        """Move every guest off a host, those first that have the least choice, and of these the biggest."""
        leaving = sorted(self.on[host], key=lambda i: (self._open(i).bit_count(), -self.puzzle.size[i], i))
        for guest in leaving:
            allowed = self._open(guest)
            target = self._choose(guest, bits(allowed))
            if target is None:
                target = self._make_room(guest, allowed, host)
            if target is None:
                allowed = self._open(guest, sideways=True)
                target = self._choose(guest, bits(allowed))
            if target is None:
                self._stuck(host, guest, allowed)
            else:
                self._put(guest, target)

    def _stuck(self, host: int, guest: int, allowed: int) -> None:
        if not self.dropping:
            raise NoRoom(Stuck(host, guest, self.new, tuple(self.free), allowed))
        self._take(guest)
        self.out.pop(guest, None)
        self.dropped.append(guest)

    def _make_room(self, guest: int, allowed: int, clearing: int) -> int | None:
        """Move one other guest so that `guest` fits on one of `allowed`; that host, or None. The one to move is one
        that goes home by it, or the smallest that is enough."""
        found = min(self._makers_of_room(guest, allowed, clearing), default=None)
        if found is None:
            return None
        _, _, other, target, host = found
        self._put(other, target)
        return host

    def _makers_of_room(self, guest: int, allowed: int, clearing: int) -> Iterator[tuple[bool, int, int, int, int]]:
        """For each host the guests whose leaving would be enough, the best first: whether it is not homeward, the size,
        the guest, where it would go, and the host."""
        most, sizes, guests = max(self.free), self.puzzle.size, self.puzzle.guests
        for host in bits(allowed):
            lacking = sizes[guest] - self.free[host]
            for other in sorted((i for i in self.on[host] if lacking <= sizes[i] <= most), key=sizes.__getitem__):
                elsewhere = [h for h in bits(self._open(other)) if h not in (host, clearing)]
                target = self._choose(other, elsewhere)
                if target is not None:
                    yield (target != guests[other].home, sizes[other], other, target, host)
                    break

    # --- going home

    def _send_home(self) -> None:
        """Send home from new hosts whoever has a new home with room, the biggest first."""
        guests, new = self.puzzle.guests, self.new
        waiting = [i for i in self.out if new >> guests[i].home & 1 and new >> self.where[i] & 1]
        for guest in sorted(waiting, key=lambda i: (-guests[i].size, i)):
            if self.free[guests[guest].home] >= guests[guest].size:
                self._put(guest, guests[guest].home)

    def _home_at_last(self) -> None:
        """Send everybody home. Where guests stand in each other's way one steps aside, each once at the most."""
        aside: set[int] = set()
        while away := list(self.out):
            acts = len(self.acts)
            self._send_home()
            if len(self.acts) > acts:
                continue
            step = self._step_aside(away, aside)
            if step is None:
                return
            aside.add(step[0])
            self._put(*step)

    def _step_aside(self, away: Sequence[int], aside: set[int]) -> tuple[int, int] | None:
        """A guest that makes room for one that is away, and where it goes: at best one that is away itself, and
        enough."""
        wanted: dict[int, int] = {}
        for guest in away:
            home = self.puzzle.guests[guest].home
            lacking = self.puzzle.size[guest] - self.free[home]
            wanted[home] = min(lacking, wanted.get(home, lacking))
        found: tuple[bool, bool, int, int, int] | None = None
        for guest, target in self._asides(wanted, aside):
            size, at = self.puzzle.size[guest], self.where[guest]
            at_home = self.puzzle.guests[guest].home == at
            offer = (size < wanted[at], at_home, size, guest, target)
            found = offer if found is None else min(found, offer)
        return None if found is None else (found[3], found[4])

    def _asides(self, wanted: Iterable[int], aside: set[int]) -> Iterator[tuple[int, int]]:
        for host in wanted:
            for guest in self.on[host]:
                if guest not in aside:
                    home = self.puzzle.guests[guest].home
                    target = self._choose(guest, [h for h in bits(self._open(guest)) if h != home])
                    if target is not None:
                        yield guest, target
