"""An upgrade whose process is killed anywhere, or whose calls fail, ends as if nothing had happened.

Points are sampled here; `tox -e chaos` takes every one (`XENCTL_CHAOS_SAMPLE=0`).
"""

from __future__ import annotations

import os
import random
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from chaos import FAULTS, Branches, Fate, MortalHands, mortal, session_on

from mockserver import MockPool
from mockserver.invariants import rolling_upgrade as invariants
from xenctl.errors import Failure, TransportError
from xenctl.procedures import rolling_upgrade
from xenctl.procedures.journal import DONE, Journal
from xenctl.procedures.observe import PoolFacts, observe

SAMPLE = int(os.environ.get("XENCTL_CHAOS_SAMPLE", "4"))
"""How many points of each kind are tried; 0 for all."""
SEED = int(os.environ.get("XENCTL_CHAOS_SEED", "5"))
ATTEMPTS = 4
"""How often a run that stopped is taken up."""
GIB = 1 << 30


def row(pool: MockPool, kind: str, name: str) -> Any:
    return next(r for r in pool.store.table(kind).values() if r["name_label"] == name)


def usual() -> MockPool:
    return MockPool.create(hosts=3, vms=12, release="4.0.1")


def every_trait() -> MockPool:
    """Four hosts: a suspended guest with a CD and one without, discs in drives, a disk on local storage, little memory."""
    pool = MockPool.create(hosts=4, vms=20, release="5.6")
    drive = next(vbd for vbd in pool.vbds(row(pool, "VM", "vm06")) if vbd["type"] == "CD")
    pool.store.write(drive, VDI=row(pool, "VDI", "debian-etch.iso").ref, empty=False)
    pinned = row(pool, "VM", "vm10")
    home = pool.store.get("host", pinned["resident_on"])["name_label"]
    pool.store.write(row(pool, "VDI", "disk of vm10"), SR=row(pool, "SR", f"Local storage on {home}").ref)
    for machine in pool.machines:
        host = pool.host_row(machine)
        assert host is not None
        machine.memory = 20 * GIB
        pool.store.write(host, boot_free_mem=machine.memory)
        pool.store.write(pool.store.get("host_metrics", host["metrics"]), memory_total=machine.memory)
    return pool


FALLS = 900.0
"""When a guest goes down, in seconds from the start: the master is away by then."""


def with_a_fall() -> MockPool:
    """Three hosts, a guest of which goes down while the master is away, so that the rest is planned anew."""
    pool = MockPool.create(hosts=3, vms=6, release="5.0")
    vm = row(pool, "VM", "vm02")

    def fall() -> None:
        assert not pool.master_serves
        pool.end_domain(vm)

    pool.clock.after(FALLS, fall)
    return pool


POOLS: dict[str, Callable[[], MockPool]] = {"usual": usual, "every trait": every_trait, "with a fall": with_a_fall}


@dataclass(frozen=True)
class Undisturbed:
    """How a pool is after an upgrade that nothing disturbs, and the points that were passed."""

    make: Callable[[], MockPool]
    final: PoolFacts
    points: tuple[str, ...]


def watched(make: Callable[[], MockPool]) -> MockPool:
    """A new pool, which holds every deed against the invariants."""
    pool = make()
    plan = rolling_upgrade.plan(session_on(pool, Fate()))
    assert plan.problems == ()
    falls = [row(pool, "VM", "vm02")["uuid"]] if make is with_a_fall else []
    kept = invariants(may_stop=[*falls, *(vm.uuid for vm in plan.downtime)], may_stay_away=plan.away)
    # What nobody saw falling is believed to run, until the master is back.
    pool.watch(*(invariant for invariant in kept if not falls or invariant.name != "belief holds"))
    return pool


def attempt(pool: MockPool, fate: Fate, journal: Journal, plan: Any) -> list[str]:
    """Carry out the upgrade, or go on with it; what stopped it."""
    hands: Any = MortalHands(pool.hands, fate)
    session = session_on(pool, fate)
    return rolling_upgrade.run(session, plan, hands, journal=journal, accept_downtime=True).problems


def from_file(pool: MockPool, path: Path, fate: Fate) -> list[str]:
    """An attempt of a process that finds a journal, or none."""
    if path.exists():
        journal = mortal(Journal.open(path, to_run=True), fate)
        plan = journal.plan
        if journal.state == DONE:
            journal.close()
            return []
    else:
        plan = rolling_upgrade.plan(session_on(pool, fate))
        journal = mortal(Journal.create(plan, path), fate)
    try:
        return attempt(pool, fate, journal, plan)
    finally:
        journal.close()


def end_of(pool: MockPool) -> PoolFacts:
    pool.conclude()
    assert [violation.as_dict() for violation in pool.violations] == []
    return observe(session_on(pool, Fate()))


def wrong(pool: MockPool, problems: list[str], final: PoolFacts) -> str:
    """What is wrong with an end."""
    if problems:
        return f"it stopped: {problems}"
    found = end_of(pool)
    if found == final:
        return ""
    return "; ".join(
        f"{name}: {value} instead of {vars(final)[name]}"
        for name, value in vars(found).items()
        if value != vars(final)[name]
    )


@pytest.fixture(scope="module", params=sorted(POOLS))
def undisturbed(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Undisturbed:
    pool, fate = watched(POOLS[request.param]), Fate()
    assert from_file(pool, tmp_path_factory.mktemp("run") / "journal", fate) == []
    return Undisturbed(POOLS[request.param], end_of(pool), tuple(fate.points))


def sampled(every: list[tuple[int, bool]]) -> frozenset[tuple[int, bool]]:
    return frozenset(random.Random(SEED).sample(every, SAMPLE) if SAMPLE else every)


def tell(what: str, points: int, fate: Branches, chosen: int) -> None:
    """What was tried, so that what was left out is to be seen."""
    skipped = chosen - fate.deaths - fate.shared
    print(  # noqa: T201
        f"\nchaos: {what}: {points} points, {chosen} chosen (seed {SEED}), {fate.deaths} copies, {fate.shared} the same as "
        f"the one before, {skipped} skipped, {len(fate.broken)} broken"
    )


def test_killed_anywhere_and_resumed_it_ends_the_same(undisturbed: Undisturbed, tmp_path: Path) -> None:
    """Before and after every call, every act of the hands and every write of the journal."""
    every = [(number, after) for number in range(1, len(undisturbed.points) + 1) for after in (False, True)]
    chosen, pool = sampled(every), watched(undisturbed.make)

    def resume(path: Path) -> str:
        return wrong(pool, from_file(pool, path, Fate()), undisturbed.final)

    fate = Branches(pool=pool, path=tmp_path / "journal", chosen=chosen, resume=resume)
    assert from_file(pool, fate.path, fate) == []
    fate.over()
    tell("killed", len(every), fate, len(chosen))
    assert fate.broken == []
    assert end_of(pool) == undisturbed.final
    assert fate.deaths + fate.shared == len(chosen)


@pytest.mark.parametrize("fault", sorted(FAULTS))
def test_each_call_may_fail_once(undisturbed: Undisturbed, fault: str) -> None:
    """Refused, not heard, or done with the answer lost: the run gets over it, or stops and is resumed."""
    every = [(n, False) for n, what in enumerate(undisturbed.points, 1) if not what.startswith("journal")]
    chosen, pool = sampled(every), watched(undisturbed.make)
    fate = Branches(pool=pool, chosen=chosen, fault=fault)
    kept: list[Journal] = []

    def to_the_end() -> list[str]:
        problems = ["it was not begun"]
        for _ in range(ATTEMPTS):
            try:
                if not kept:
                    kept.append(mortal(Journal.create(rolling_upgrade.plan(session_on(pool, fate))), fate))
                problems = attempt(pool, fate, kept[0], kept[0].plan)
            except (Failure, TransportError) as error:
                problems = [str(error)]
            if not problems or not fate.child:
                break
        return problems

    problems = to_the_end()
    if fate.child:
        fate.report(lambda: wrong(pool, problems, undisturbed.final))
    fate.over()
    tell(fault, len(every), fate, len(chosen))
    assert problems == []
    assert fate.broken == []
    assert fate.deaths == len(chosen)
