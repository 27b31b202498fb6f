"""Which host is upgraded when, and which guest goes where, with as few migrations as can be; or the proof that it
cannot be.

puzzle.py   the pool as whole numbers
bounds.py   what each guest needs at the least
greedy.py   a good way for a pool of any size
exact.py    the best way for a small one
proof.py    why there is no way, and what would make one
wording.py  a refusal in words

A way that costs no more than the sum of what each guest alone would is the best one, and large pools with some free
memory get there at once. Otherwise a small pool is searched to the end; on a big one the search has its time, and the
plan says that a better one may exist.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from .bounds import least
from .exact import search
from .greedy import MANNERS, Walk, best
from .proof import BRIEF, THOROUGH, Refusal, is_small, refuse
from .puzzle import AWAY, MOVE, NEVER, NOWHERE, Act, Cost, Hop, Puzzle, Turn, cost


class Impossible(Exception):
    """There is no way through a puzzle, or none was found; `refusal` says which."""

    def __init__(self, refusal: Refusal) -> None:
        super().__init__(refusal)
        self.refusal = refusal


@dataclass(frozen=True)
class Solution:
    """A way through a puzzle, what it costs, and what none can cost less than. `exact` where no way costs less than
    it."""

    acts: list[Act]
    cost: Cost
    bound: Cost
    exact: bool


def solve(puzzle: Puzzle) -> Solution:
    """The way with the fewest guests away from home, of these with the fewest migrations, of these with the least
    memory moved. Raises `Impossible`."""
    prices = least(puzzle)
    if max(prices, default=0) >= NEVER:
        raise Impossible(refuse(puzzle, None, complete=True))
    whole = sum(prices)
    bound = Cost(whole // AWAY, whole % AWAY // MOVE, whole % MOVE)
    tried = best(puzzle, whole)
    acts, exact = tried.acts, tried.cost is not None and tried.cost.whole <= whole
    if not exact:
        below = NEVER if tried.cost is None else tried.cost.whole
        states = THOROUGH if is_small(puzzle) else BRIEF
        found = search(puzzle, below=below, states=states)
        exact = found.complete
        acts = found.acts or acts
        if acts is None and not exact:
            acts = _any_way(puzzle)
        if acts is None:
            raise Impossible(refuse(puzzle, tried.stuck, complete=exact))
    assert acts is not None
    return Solution(acts, cost(puzzle, acts), bound, exact)


def _any_way(puzzle: Puzzle) -> list[Act] | None:
    """Some way, where the manners got stuck and the search for the best one has no end: whichever a search comes upon,
    and home from there."""
    found = search(puzzle, states=BRIEF, any_way=True)
    if found.acts is None:
        return None
    where = [guest.at for guest in puzzle.guests]
    for act in found.acts:
        if isinstance(act, Hop):
            where[act.guest] = act.target
    guests = tuple(replace(guest, at=at) for guest, at in zip(puzzle.guests, where, strict=True))
    return found.acts + Walk(replace(puzzle, guests=guests, new=puzzle.whole), MANNERS[0]).go()


__all__ = ["NOWHERE", "Act", "Cost", "Hop", "Impossible", "Puzzle", "Refusal", "Solution", "Turn", "solve"]
