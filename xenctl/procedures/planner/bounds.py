"""The fewest migrations that a guest needs if it had the pool for itself: what no plan can go below.

A guest alone is a puzzle of a few states (where it is, which hosts are new), solved here for every state at once. The
sum over all guests is a lower bound for the whole pool; the exact search is led by it.
"""

from __future__ import annotations

from .puzzle import AWAY, MOVE, NEVER, NOWHERE, Guest, Puzzle, bits

Table = dict[int, list[int]]
"""By the set of new hosts: what is left to pay by the host that the guest is on, and last where it is to be resumed."""


def table(puzzle: Puzzle, guest: Guest) -> Table:
    """What the guest has yet to pay if it were alone, in every state that can come."""
    hosts = range(len(puzzle.names))
    out: Table = {}
    for new in _coming(puzzle):
        row = [NEVER] * (len(hosts) + 1)
        if new == puzzle.whole:
            for host in hosts:
                row[host] = 0 if guest.home in (NOWHERE, host) else AWAY
        for turn in hosts:
            if puzzle.may_turn(turn, new):
                for host, least in enumerate(out[new | 1 << turn][:-1]):
                    if host != turn and least < row[host]:
                        row[host] = least
        _spread(puzzle, guest, new, row)
        out[new] = row
    return out


def _coming(puzzle: Puzzle) -> list[int]:
    """The sets of new hosts that can come, the last first."""
    sets, seen = [puzzle.new], {puzzle.new}
    for new in sets:
        for host in range(len(puzzle.names)):
            then = new | 1 << host
            if puzzle.may_turn(host, new) and then not in seen:
                seen.add(then)
                sets.append(then)
    return sets[::-1]


def _spread(puzzle: Puzzle, guest: Guest, new: int, row: list[int]) -> None:
    """Lower what is to be paid on each host to what it is after the best move from there."""
    step = MOVE + guest.size
    places = [*range(len(puzzle.names)), NOWHERE]
    ways = {at: [t for t in bits(puzzle.targets(guest, at, new)) if guest.size <= puzzle.room(t, new)] for at in places}
    changed = True
    while changed:
        changed = False
        for at in places:
            price = 0 if at == NOWHERE else step
            least = min((row[target] + price for target in ways[at]), default=NEVER)
            if least < row[at]:
                row[at], changed = least, True


def least(puzzle: Puzzle) -> list[int]:
    """What each guest has to pay at the least, by its number; `NEVER` and more where it has no way even alone."""
    known: dict[tuple[int, ...], int] = {}
    out = []
    for guest in puzzle.guests:
        early, late = _fitting(puzzle.before, guest.size), _fitting(puzzle.after, guest.size)
        wanted = guest.reach | guest.enters
        key = (early & wanted, late & wanted, guest.reach, guest.at, guest.home, guest.enters)
        if key not in known:
            known[key] = _alone(puzzle, guest, early, late)
        unit = known[key]
        out.append(unit if unit >= NEVER else unit + unit % AWAY // MOVE * guest.size)
    return out


def _fitting(rooms: tuple[int, ...], size: int) -> int:
    """The hosts with room for a guest, if it is alone."""
    if size <= min(rooms):
        return (1 << len(rooms)) - 1
    return sum(1 << host for host, room in enumerate(rooms) if size <= room)


def _alone(puzzle: Puzzle, guest: Guest, early: int, late: int) -> int:
    """What a guest of no size has to pay, on few hosts: the master, its own, its home, and of the others two that stand
    for all of their kind. `early` and `late` are the hosts that it fits on before and after their upgrade."""
    hosts = [host for host in dict.fromkeys((0, guest.at, guest.home)) if host != NOWHERE]
    kinds: dict[tuple[int, ...], int] = {}
    for host in bits((guest.reach | guest.enters) & ~sum(1 << host for host in hosts)):
        kind = tuple(m >> host & 1 for m in (puzzle.new, puzzle.closed, early, late, guest.enters, guest.reach))
        kinds[kind] = kinds.get(kind, 0) + 1
        if kinds[kind] <= 2:
            hosts.append(host)
    place = {host: i for i, host in enumerate(hosts)}

    def to(mask: int) -> int:
        return sum(1 << i for host, i in place.items() if mask >> host & 1)

    def rooms(mask: int) -> tuple[int, ...]:
        return tuple((mask >> host & 1) - 1 for host in hosts)

    names = ("",) * len(hosts)
    small = Puzzle(names, rooms(early), rooms(late), (), to(puzzle.new), to(puzzle.closed), puzzle.sideways)
    at, home = place.get(guest.at, NOWHERE), place.get(guest.home, NOWHERE)
    return table(small, Guest("", 0, to(guest.reach), at, home, to(guest.enters)))[small.new][at]
