"""The cheapest way through a puzzle, found by looking at every state that could be cheaper (A*), or the proof that none
is.

A state is which hosts are new and where each guest is; guests that are alike are interchangeable, so that states which
differ only in which of them is where are one. What is left to pay is estimated by what each guest has to pay if it were
alone. The search gives up after a number of states, so that it ends soon on pools that are too big for it.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from heapq import heappop, heappush
from itertools import accumulate, pairwise

from .bounds import table
from .puzzle import AWAY, MOVE, NEVER, NOWHERE, Act, Guest, Hop, Puzzle, Turn, bits

HOSTS = 8
"""The most hosts that the search is for: its tables grow with every set of them."""
STATES = 400_000
"""The states after which the search gives up, a matter of seconds."""


@dataclass(frozen=True)
class Found:
    """What a search came to: the acts of the cheapest way, None where none was found; `complete` where nothing is left
    to be looked at, so that the way is the cheapest, or there is none. `states` is how many states were made."""

    acts: list[Act] | None
    complete: bool
    states: int = 0


def search(puzzle: Puzzle, *, below: int = NEVER, states: int = STATES, any_way: bool = False) -> Found:
    """The cheapest way that costs less than `below`; with `any_way` the first one that is found, and homes are no
    matter."""
    if len(puzzle.names) > HOSTS:
        return Found(None, complete=False)
    return _Search(puzzle, below, states, any_way).run()


Way = tuple[int, int, int]
"""Where a guest of some kind may go from some host: the host, what it costs, and how what is left to pay changes."""


class _Search:
    """One search. Guests are sorted so that those alike stand together; a state has the host of each, sorted among
    alikes."""

    def __init__(self, puzzle: Puzzle, below: int, states: int, any_way: bool) -> None:
        self.puzzle, self.below, self.limit, self.any_way = puzzle, below, states, any_way
        self.limbo = len(puzzle.names)
        crowded = {} if any_way else _crowded(puzzle)
        self.stranded = AWAY * sum(crowded.values())
        kinds: dict[Guest, list[int]] = {}
        for i, guest in enumerate(puzzle.guests):
            home = NOWHERE if any_way else guest.home
            kinds.setdefault(Guest("", guest.size, guest.reach, NOWHERE, home, guest.enters), []).append(i)
        self.kinds, self.one = list(kinds.values()), list(kinds)
        ends = [0, *accumulate(len(kind) for kind in self.kinds)]
        self.runs = list(pairwise(ends))
        # Where not all can go home, who does is open: the guests of such a host may each stay away, at a price paid once.
        hoping = [replace(one, home=NOWHERE) if one.home in crowded else one for one in self.one]
        self.tables = [table(puzzle, one) for one in hoping]
        self.ways: dict[tuple[int, int, int], list[Way]] = {}
        self.paid: dict[int, dict[bytes, int]] = {}
        self.before: dict[int, dict[bytes, tuple[int, bytes]]] = {}
        self.heap: list[tuple[int, int, int, bytes]] = []
        self.made = 0

    def run(self) -> Found:
        """Look at states, the most promising first, until the end is one of them."""
        puzzle, whole = self.puzzle, self.puzzle.whole
        kinds = (sorted(puzzle.guests[i].at % (self.limbo + 1) for i in kind) for kind in self.kinds)
        places = b"".join(map(bytes, kinds))
        ahead = self._ahead(puzzle.new, places)
        if ahead < NEVER:
            self._reach(puzzle.new, places, 0, ahead, puzzle.new, places)
        closed: dict[int, set[bytes]] = {}
        while self.heap:
            _, left, new, places = heappop(self.heap)
            if new > whole:
                return Found(self._way(new, places), True, self.made)
            seen = closed.setdefault(new, set())
            if places in seen:
                continue
            seen.add(places)
            if self.made > self.limit:
                return Found(None, False, self.made)
            if not self._turns(new, places, left):
                self._moves(new, places, left)
        return Found(None, True, self.made)

    def _reach(self, new: int, places: bytes, paid: int, ahead: int, was: int, stood: bytes) -> None:
        """Keep a state if it is reached for less than before and could lead to less than what is wanted."""
        known = self.paid.setdefault(new, {})
        if paid + ahead >= self.below or paid >= known.get(places, NEVER):
            return
        known[places] = paid
        self.before.setdefault(new, {})[places] = (was, stood)
        self.made += 1
        heappush(self.heap, (ahead if self.any_way else paid + ahead, ahead, new, places))

    def _ahead(self, new: int, places: bytes) -> int:
        """What is left to pay at the least."""
        left = self.stranded
        for (begin, end), known in zip(self.runs, self.tables, strict=True):
            row = known[new]
            for at in places[begin:end]:
                left += row[at]
        return left

    def _turns(self, new: int, places: bytes, left: int) -> bool:
        """Upgrade a host that is empty, or end. True where nothing else needs to be looked at."""
        puzzle, paid = self.puzzle, self.paid[new][places]
        if new == puzzle.whole:
            self._reach(new + 1, places, paid + self._away(places), 0, new, places)
            return False
        if self.limbo in places:
            return False
        for host in range(self.limbo):
            if host not in places and puzzle.may_turn(host, new):
                then = new | 1 << host
                self._reach(then, places, paid, self._ahead(then, places), new, places)
                if new and not puzzle.sideways and puzzle.after[host] >= 0:
                    return True  # from now on it takes nobody before it is new
        return False

    def _moves(self, new: int, places: bytes, left: int) -> None:
        """Move every guest to every host that it may go to."""
        puzzle, paid = self.puzzle, self.paid[new][places]
        free = [puzzle.room(host, new) for host in range(self.limbo)] + [0]
        for (begin, end), one in zip(self.runs, self.one, strict=True):
            for at in places[begin:end]:
                free[at] -= one.size
        known = self.paid.setdefault(new, {})
        for number, (begin, end) in enumerate(self.runs):
            last, size = -1, self.one[number].size
            for i in range(begin, end):
                at = places[i]
                if at == last:
                    continue
                last = at
                for target, price, change in self._ways(number, at, new):
                    if free[target] < size:
                        continue
                    if end - begin == 1:
                        where = places[:i] + bytes((target,)) + places[end:]
                    else:
                        kind = bytes(sorted((*places[begin:i], target, *places[i + 1 : end])))
                        where = places[:begin] + kind + places[end:]
                    if paid + price < known.get(where, NEVER):
                        self._reach(new, where, paid + price, left + change, new, places)

    def _ways(self, number: int, at: int, new: int) -> list[Way]:
        """Where a guest of a kind may go from a host."""
        key = (number, at, new)
        ways = self.ways.get(key)
        if ways is None:
            one, row = self.one[number], self.tables[number][new]
            place, price = (NOWHERE, 0) if at == self.limbo else (at, one.size + MOVE)
            targets = bits(self.puzzle.targets(one, place, new))
            ways = self.ways[key] = [(t, price, row[t] - row[at]) for t in targets if row[t] < NEVER]
        return ways

    def _away(self, places: bytes) -> int:
        """What it costs to leave the guests where they are now."""
        away = 0
        for (begin, end), one in zip(self.runs, self.one, strict=True):
            away += sum(one.home not in (NOWHERE, at) for at in places[begin:end])
        return AWAY * away

    def _way(self, new: int, places: bytes) -> list[Act]:
        """The acts that lead to the end, with the guests told apart again."""
        states = [(new, places)]
        while (earlier := self.before[new][places]) != states[-1]:  # the first state comes from itself
            new, places = earlier
            states.append(earlier)
        states.reverse()
        where = [guest.at % (self.limbo + 1) for guest in self.puzzle.guests]
        acts: list[Act] = []
        for (new, places), (then, moved) in pairwise(states):
            if then > self.puzzle.whole:
                break
            if then != new:
                acts.append(Turn((then ^ new).bit_length() - 1))
            for kind, (begin, end) in zip(self.kinds, self.runs, strict=True):
                was, now = places[begin:end], moved[begin:end]
                if was == now:
                    continue
                source = next(at for at in was if was.count(at) > now.count(at))
                target = next(at for at in now if now.count(at) > was.count(at))
                guest = next(i for i in kind if where[i] == source)
                where[guest] = target
                acts.append(Hop(guest, NOWHERE if source == self.limbo else source, target))
        return acts


def _crowded(puzzle: Puzzle) -> dict[int, int]:
    """The hosts that are home to more than they have room for, and how many guests at the least will not go there."""
    out = {}
    for host in range(len(puzzle.names)):
        sizes = sorted(guest.size for guest in puzzle.guests if guest.home == host and guest.reach >> host & 1)
        fits = sum(1 for total in accumulate(sizes) if total <= puzzle.after[host])
        if fits < len(sizes):
            out[host] = len(sizes) - fits
    return out
