"""An upgrade whose process is killed anywhere, and resumed, ends as if nothing had happened."""

from __future__ import annotations

import os
import random
from pathlib import Path
from typing import Any

import pytest
from chaos import Fate, Killed, MortalHands, mortal, session_on

from mockserver import MockPool
from mockserver.invariants import rolling_upgrade as invariants
from xenctl.procedures import rolling_upgrade
from xenctl.procedures.journal import Journal
from xenctl.procedures.observe import PoolFacts, observe
from xenctl.procedures.running import Outcome

SAMPLE = int(os.environ.get("XENCTL_CHAOS_SAMPLE", "12"))
"""How many points are tried; 0 for all."""


def small() -> MockPool:
    return MockPool.create(hosts=2, vms=6, release="4.0.1")


def attempt(pool: MockPool, path: Path, fate: Fate) -> Outcome:
    """Begin the upgrade, or go on with the one whose journal is at `path`."""
    session = session_on(pool, fate)
    if path.exists():
        journal = mortal(Journal.open(path, to_run=True), fate)
        plan = journal.plan
    else:
        plan = rolling_upgrade.plan(session)
        journal = mortal(Journal.create(plan, path), fate)
    try:
        hands: Any = MortalHands(pool.hands, fate)
        return rolling_upgrade.run(session, plan, hands, journal=journal, accept_downtime=True)
    finally:
        journal.close()


def end_of(pool: MockPool) -> PoolFacts:
    pool.conclude()
    assert [violation.as_dict() for violation in pool.violations] == []
    return observe(session_on(pool, Fate()))


def watched() -> MockPool:
    pool = small()
    pool.watch(*invariants())
    return pool


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> tuple[PoolFacts, list[str]]:
    """How the pool is after an upgrade that nothing disturbs, and the points that were passed."""
    pool, fate = watched(), Fate()
    assert attempt(pool, tmp_path_factory.mktemp("run") / "journal", fate).problems == []
    return end_of(pool), fate.points


def test_killed_anywhere_and_resumed_it_ends_the_same(undisturbed: tuple[PoolFacts, list[str]], tmp_path: Path) -> None:
    """Before and after every call, every act of the hands and every write of the journal."""
    final, points = undisturbed
    every = [(number, after) for number in range(1, len(points) + 1) for after in (False, True)]
    chosen = random.Random(5).sample(every, SAMPLE) if SAMPLE else every
    print(f"chaos: {len(every)} points, {len(chosen)} kills")  # noqa: T201  (what was left out is to be seen)
    for number, after in chosen:
        pool, path, fate = watched(), tmp_path / f"{number}-{after}", Fate(number, after)
        where = f"{'after' if after else 'before'} {points[number - 1]} (point {number})"
        with pytest.raises(Killed):
            attempt(pool, path, fate)
        outcome = attempt(pool, path, Fate())
        assert outcome.problems == [], where
        assert end_of(pool) == final, where
