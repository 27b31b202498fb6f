"""Fake pools for procedures that work on one host after another: made, looked at, run on, and killed anywhere."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from chaos import Fate, Killed, MortalHands, kills, mortal
from pools import reach, row, states, unharmed

from mockserver import MockPool
from mockserver.invariants import sound
from mockserver.invariants.upgrades import OneHostOffline
from xenctl.procedures.journal import Journal
from xenctl.procedures.observe import PoolFacts, observe
from xenctl.procedures.plan import Plan
from xenctl.procedures.running import Outcome, Run
from xenctl.session import Session


def made(release: str = "8.2", **what: Any) -> MockPool:
    """A pool that is watched: at most one host is down at a time."""
    pool = MockPool.create(**{"hosts": 3, "vms": 9, "release": release, **what})
    pool.watch(*sound(), OneHostOffline())
    return pool


def look(pool: MockPool) -> PoolFacts:
    return observe(reach(pool))


def on(pool: MockPool, host: str) -> list[str]:
    """The names of the guests on a host."""
    return sorted(name for name, (_, at) in states(pool).items() if at == host)


def carried_out(pool: MockPool, plan: Plan, journal: Journal | None = None) -> Outcome:
    """Carry out a plan, or go on with it."""
    return Run(reach(pool), plan, pool.hands, journal or Journal.create(plan)).carry_out()


def call(pool: MockPool, method: str, *args: Any) -> Any:
    """Call the master as another client would."""
    session = pool.dispatch("session.login_with_password", [pool.username, pool.password])
    return pool.dispatch(method, [session, *args])


def keys(pool: MockPool, host: str, start: str = "MAINTENANCE_MODE") -> dict[str, str]:
    """What a host's `other_config` holds under keys that begin so."""
    return {key: value for key, value in row(pool, "host", host)["other_config"].items() if key.startswith(start)}


def without_drivers(pool: MockPool, vm: str) -> None:
    """Make a guest one that is fully virtual and has no paravirtual drivers."""
    pool.store.write(row(pool, "VM", vm), HVM_boot_policy="BIOS order", guest_metrics="OpaqueRef:NULL")


Begin = Callable[[MockPool, Session, Journal, Any], Outcome]


def attempt(pool: MockPool, path: Path, fate: Fate, plan_of: Callable[[Session], Plan], begin: Begin) -> Outcome:
    """Begin a procedure, or go on with the one whose journal is at `path`."""
    session = reach(pool, fate)
    if path.exists():
        journal = mortal(Journal.open(path, to_run=True), fate)
    else:
        journal = mortal(Journal.create(plan_of(session), path), fate)
    try:
        return begin(pool, session, journal, MortalHands(pool.hands, fate))
    finally:
        journal.close()


def plainly(pool: MockPool, session: Session, journal: Journal, hands: Any) -> Outcome:
    """Carry out what is in the journal."""
    return Run(session, journal.plan, hands, journal).carry_out()


def killed_anywhere(
    make: Callable[[], MockPool],
    plan_of: Callable[[Session], Plan],
    folder: Path,
    begin: Begin = plainly,
    *,
    seed: int = 7,
    sample: int = 12,
) -> None:
    """Kill a procedure before and after some of its calls, acts and writes, go on with it, and see that it ends the same."""
    pool, fate = make(), Fate()
    assert attempt(pool, folder / "undisturbed", fate, plan_of, begin).problems == []
    assert unharmed(pool)
    final, boots = look(pool), booted(pool)
    first = next(number for number, point in enumerate(fate.points, 1) if point.startswith("journal"))
    for number, after in kills(fate.points, sample, seed=seed, first=first):
        pool, path = make(), folder / f"{number}-{after}"
        where = f"{'after' if after else 'before'} {fate.points[number - 1]} (point {number})"
        with pytest.raises(Killed):
            attempt(pool, path, Fate(number, after), plan_of, begin)
        assert attempt(pool, path, Fate(), plan_of, begin).problems == [], where
        assert unharmed(pool), where
        assert look(pool) == final, where
        assert booted(pool) == boots, where


def booted(pool: MockPool) -> dict[str, bool]:
    """Which hosts have booted since the pool was made."""
    return {machine.name: machine.boots > 1 for machine in pool.machines}
