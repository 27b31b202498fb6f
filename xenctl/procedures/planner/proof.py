"""Why there is no way through a puzzle, and what would make one: a guest that has no way even alone, more guests than
there is room for while a host is down, or a search that looked at everything.

What the first two say holds for pools of any size. Where only the search could say it and the pool is too big for it,
nothing is proven: no way was found.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import combinations

from .bounds import least
from .exact import HOSTS, search
from .greedy import MANNERS, WORK, NoRoom, Stuck, Walk, best
from .puzzle import NEVER, NOWHERE, Puzzle, bits

ALONE, COUNTED, SEARCHED, TRIED = "alone", "counted", "searched", "tried"
"""How a refusal is known: a guest has no way even alone; by counting memory; by looking at every state; not proven at
all."""

SMALL = 70_000
"""The placements (hosts to the power of guests) up to which a pool is searched to the end: four hosts and eight
guests."""
THOROUGH, BRIEF = 2_000_000, 40_000
"""The states that a search may make on a small pool, where that is every one, and on a bigger one."""
MANY = 300
"""The guests up to which those are looked for that were taken out and need not be."""
LONG = 600_000
"""The states that may be made in looking for the smallest set; what is found afterwards is not proven to be the
smallest."""


@dataclass(frozen=True)
class Short:
    """Memory that is missing while `host` is down: the guests that can only be on `hosts` need `needed` bytes, and
    these have `there`."""

    host: int
    hosts: int
    guests: tuple[int, ...]
    needed: int
    there: int


@dataclass(frozen=True)
class Smallest:
    """A set of guests without which there is a way; `exact` where no smaller set is one."""

    guests: tuple[int, ...]
    exact: bool


@dataclass(frozen=True)
class Refusal:
    """Why there is no way: how that is known, the place where it shows, and what would make a way. `alone` are the
    guests that have none by themselves."""

    how: str
    alone: tuple[int, ...] = ()
    short: Short | None = None
    stuck: Stuck | None = None
    suspend: Smallest | None = None
    shut_down: Smallest | None = None


def is_small(puzzle: Puzzle) -> bool:
    """Whether a search may look at every state."""
    hosts, guests = len(puzzle.names), len(puzzle.guests)
    return hosts <= HOSTS and hosts**guests <= SMALL


def count(puzzle: Puzzle) -> Short | None:
    """Where memory is missing whatever goes where: while a host is down its guests are on other hosts, each on one
    that it reaches, and these have room for so much. The one that lacks most, None where nothing is missing by
    this count."""
    reaches = dict.fromkeys(guest.reach | guest.enters for guest in puzzle.guests)
    rooms = [max(0, *both) for both in zip(puzzle.before, puzzle.after, strict=True)]
    used = [0] * len(rooms)
    for guest in puzzle.guests:
        if guest.at != NOWHERE:
            used[guest.at] += guest.size
    rooms = [max(room, now) for room, now in zip(rooms, used, strict=True)]  # what runs there now fits
    found: Short | None = None
    for reach in reaches:
        inside = [i for i, guest in enumerate(puzzle.guests) if not (guest.reach | guest.enters) & ~reach]
        needed = sum(puzzle.size[i] for i in inside)
        for host in bits(puzzle.whole & ~puzzle.new):
            there = sum(rooms[h] for h in bits(reach) if h != host)
            short = Short(host, reach & ~(1 << host), tuple(inside), needed, there)
            lacking = short.needed - short.there
            if lacking > 0 and (found is None or lacking > found.needed - found.there):
                found = short
    return found


def refuse(puzzle: Puzzle, stuck: Stuck | None, *, complete: bool) -> Refusal:
    """The refusal of a puzzle to which no way was found; `complete` where all states were looked at."""
    alone = tuple(i for i, price in enumerate(least(puzzle)) if price >= NEVER)
    short = count(puzzle)
    how = ALONE if alone else COUNTED if short is not None else SEARCHED if complete else TRIED
    suspend = smallest(puzzle, held=False) if not puzzle.new else None
    return Refusal(how, alone, short, stuck, suspend, smallest(puzzle, held=True))


# --- the smallest set


def smallest(puzzle: Puzzle, *, held: bool) -> Smallest | None:
    """The fewest guests, and of these those with least memory, without which there is a way: `held`, they are shut down
    for their host's turn, else suspended from the start. None where there is none."""
    choice = [i for i, guest in enumerate(puzzle.guests) if not held or guest.at != NOWHERE]
    must = [i for i, price in enumerate(least(puzzle)) if price >= NEVER]
    if not set(must) <= set(choice):
        return None
    if is_small(puzzle):
        return _by_size(puzzle, choice, must, held=held)
    found = _by_trying(puzzle, choice, must, held=held)
    return None if found is None else Smallest(found, exact=len(found) in (1, len(must)))


def _by_size(puzzle: Puzzle, choice: Sequence[int], must: Sequence[int], *, held: bool) -> Smallest | None:
    """Look at every set, the small ones first."""
    rest, states, exact = [i for i in choice if i not in must], 0, True
    for more in range(len(rest) + 1):
        sets = sorted(combinations(rest, more), key=lambda chosen: sum(puzzle.size[i] for i in chosen))
        for chosen in sets:
            able, made = can_be(puzzle.without((*must, *chosen), held=held), max(0, LONG - states))
            states += made
            exact = exact and able is not None
            if able:
                return Smallest((*must, *chosen), exact)
    return None


def can_be(puzzle: Puzzle, states: int) -> tuple[bool | None, int]:
    """Whether there is a way, None where that is not known, and the states that were made to find out."""
    if min((*puzzle.after, 0)) < 0:
        return False, 0
    alone = least(puzzle)
    if max(alone, default=0) >= NEVER or count(puzzle) is not None:
        return False, 0
    if best(puzzle, NEVER).acts is not None:
        return True, 0
    if not is_small(puzzle):
        return None, 0
    found = search(puzzle, states=states, any_way=True)
    return (True if found.acts is not None else False if found.complete else None), found.states


def _by_trying(puzzle: Puzzle, choice: Sequence[int], must: Sequence[int], *, held: bool) -> tuple[int, ...] | None:
    """Take out guests where they fit nowhere, in several manners; then put back those that are not needed."""
    sets = [_taken_out(puzzle, must, held=held, manner=number) for number in (0, 2, 10)]
    found = min((s for s in sets if s is not None and set(s) <= set(choice)), key=len, default=None)
    if found is None:
        return None
    for guest in sorted(found, key=lambda i: puzzle.size[i]) if len(puzzle.guests) <= MANY else ():
        fewer = tuple(i for i in found if i != guest)
        if guest not in must and len(found) <= 16 and can_be(puzzle.without(fewer, held=held), 0)[0]:
            found = fewer
    return found


def _taken_out(puzzle: Puzzle, must: Iterable[int], *, held: bool, manner: int) -> tuple[int, ...] | None:
    """The guests that one manner has to leave out; None where that takes too long to find out."""
    out, work = list(must), 0
    while len(out) <= len(puzzle.guests) and work <= WORK:
        rest = [i for i in range(len(puzzle.guests)) if i not in set(out)]
        walk = Walk(puzzle.without(out, held=held), MANNERS[manner], dropping=not held)
        try:
            walk.go()
        except NoRoom as error:
            work += len(walk.acts)
            out.append(rest[error.stuck.guest])
            continue
        return tuple(out) + tuple(rest[i] for i in walk.dropped)
    return None
