"""Planning the upgrade of a large pool: how long it takes, and how many migrations beside the fewest that there could be."""

from __future__ import annotations

import random
import statistics
from collections.abc import Iterator

from xenctl.procedures.observe import HostFacts, PoolFacts, VMFacts
from xenctl.procedures.planner.pieces import Wishes
from xenctl.procedures.sequence import Baseline, Played, find_sequence
from xenctl.releases import find

from .figures import Figure, seconds

GIB = 1 << 30
HOSTS, VMS, LOAD = 64, 5000, 0.8
"""The size of the pool, and how much of its hosts' memory its guests take."""
GROUPS = 4
"""A third of the guests are on storage that only one host in so many reaches, and the master."""


def made_pool(seed: int = 1) -> PoolFacts:
    """A pool with guests of different sizes, spread over its hosts."""
    dice, release = random.Random(seed), find("6.0.0")
    names = [f"host{number:02}" for number in range(HOSTS)]
    sizes = [dice.choice((1, 2, 2, 4, 4, 8, 16)) * GIB for _ in range(VMS)]
    free = dict.fromkeys(names, int(sum(sizes) / LOAD / HOSTS))
    room = free[names[0]]
    guests = {}
    for number, size in enumerate(sorted(sizes, reverse=True)):
        group = dice.randrange(GROUPS) if dice.random() < 1 / 3 else None
        able = [n for i, n in enumerate(names) if free[n] >= size and (group is None or i == 0 or i % GROUPS == group)]
        on, name = dice.choice(able), f"vm{number:04}"
        free[on] -= size
        guests[name] = VMFacts(
            *(name, name, name, "Running", on, size),
            storage=frozenset({"shared" if group is None else f"group{group}"}),
            networks=frozenset(),
            hvm=False,
            discs=(),
            image="",
            stuck="",
            busy=(),
        )
    groups = [f"group{group}" for group in range(GROUPS)]
    hosts = {
        name: HostFacts(
            *(name, name, name, name, release, release.product_version),
            enabled=True,
            live=True,
            room=room,
            storage=frozenset({"shared", *(groups if i == 0 else (groups[i % GROUPS],))}),
            networks=frozenset(),
            hvm=True,
            unplugged=(),
        )
        for i, name in enumerate(names)
    }
    return PoolFacts("", "", "pool", names[0], False, False, hosts, guests, {})


def planned(pool: PoolFacts, *, homes: bool) -> Played:
    """The plan, guests going home or not."""
    return find_sequence(pool, find("6.1.0"), Baseline.of(pool), Wishes(return_home=homes))


def figures(runs: int) -> Iterator[Figure]:
    """Time and migrations, with guests going home and without."""
    pool = made_pool()
    for homes, said in ((True, "guests go home"), (False, "guests stay away")):
        effort = planned(pool, homes=homes).effort
        assert effort is not None
        took = statistics.median(seconds(lambda homes=homes: planned(pool, homes=homes)) for _ in range(runs))  # type: ignore[misc]
        yield Figure(f"plan of {HOSTS} hosts with {VMS} VMs, {said}", took, 5.0, "s")
        yield Figure("its migrations over the fewest that guests need alone", effort.moves / effort.bound, 1.10, "x")
