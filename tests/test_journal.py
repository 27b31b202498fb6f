"""Python's collector while very many objects are made; what the journal takes back is tested in `test_savepoint`."""

from __future__ import annotations

import gc
from weakref import ref

from mockserver import MockPool
from mockserver.journal import MANY, uncollected


def test_what_was_made_in_bulk_counts_as_old_afterwards() -> None:
    """So that not the next object made has the collector look at all of it."""
    with uncollected():
        made: list[list[int]] = [[number] for number in range(MANY + 1)]
        assert not gc.isenabled()
    assert gc.isenabled()
    assert any(thing is made for thing in gc.get_objects(generation=2))


def test_what_somebody_froze_stays_frozen() -> None:
    """A program may keep its own objects from the collector."""
    gc.freeze()
    try:
        frozen = gc.get_freeze_count()
        with uncollected():
            pass
        assert gc.get_freeze_count() >= frozen > 0
    finally:
        gc.unfreeze()


def test_a_collector_that_was_off_stays_off() -> None:
    """Whoever switched it off switches it on again."""
    gc.disable()
    try:
        with uncollected():
            pass
        assert not gc.isenabled()
    finally:
        gc.enable()


def test_pools_that_nobody_has_any_more_are_forgotten() -> None:
    """However many are made, one after another, few are in memory: Python's collector finds them."""
    made = [ref(MockPool.create(hosts=2, vms=4)) for _ in range(150)]
    assert sum(pool() is not None for pool in made) < 75
