"""Pools that are handed out again and again: each is as fresh as a new one."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from typing import Any

import pytest

from mockserver import MockPool, PoolServer
from mockserver.fresh import SHAPES, FreshPools
from mockserver.recorder import Recorder
from xenctl import connect
from xenctl.errors import Failure

Picture = Callable[[MockPool], Any]
SHAPE: dict[str, Any] = {"hosts": 2, "vms": 4, "release": "8.2"}


def ruin(pool: MockPool) -> None:
    """Calls, physical acts, direct writes, time, and what a test may set by hand."""
    session = pool.dispatch("session.login_with_password", [pool.username, pool.password])
    pool.watch(Recorder())
    for vm in list(pool.store.table("VM").values()):
        with suppress(Failure):
            pool.dispatch("VM.hard_shutdown", [session, vm.ref])
        pool.store.write(vm, name_label="ruined")
    for vdi in list(pool.store.table("VDI").values())[1:]:
        pool.store.delete(vdi)
        del pool.disks[vdi["uuid"]]
    pool.dispatch("Async.VM.start", [session, next(iter(pool.store.table("VM"))), False, False])
    pool.hands.power_off("host2")
    pool.clock.advance(5000)
    pool.username, pool.seed = "somebody else", 7
    pool.on_machine = pool.waiter = lambda *_: pytest.fail("left over from another test")
    pool.dispatch = None  # type: ignore[method-assign, assignment]


def test_a_pool_is_as_fresh_as_a_new_one_whatever_was_done_to_it(picture: Picture) -> None:
    """The same one is handed out, and everything in it is as in a pool that was just made."""
    pools, new = FreshPools(), picture(MockPool.create(**SHAPE))
    with pools.fresh(**SHAPE) as first:
        assert picture(first) == new
        ruin(first)
    for _ in range(3):
        with pools.fresh(**SHAPE) as pool:
            assert pool is first
            assert picture(pool) == new
            pool.hands.power_off("host1")
            pool.clock.advance(700.0)


def test_a_test_that_fails_leaves_nothing_either(picture: Picture) -> None:
    """An error in the block is no reason to hand out what it left."""
    pools = FreshPools()
    with suppress(ZeroDivisionError), pools.fresh(**SHAPE) as pool:
        ruin(pool)
        1 / 0  # noqa: B018
    with pools.fresh(**SHAPE) as again:
        assert picture(again) == picture(MockPool.create(**SHAPE))


def test_a_neighbour_has_the_faults_of_its_test() -> None:
    """What an earlier test planned does not strike there, and what this one plans does."""
    pools = FreshPools()
    with pools.fresh(hosts=1, vms=0) as pool:
        pool.faults.add("error", method="pool.get_all", code="INTERNAL_ERROR", params=["earlier"])
    with pools.fresh(hosts=1, vms=0) as pool:
        beside = pool.neighbour()
        assert beside.faults is pool.faults
        assert len(beside.faults) == 0


def test_each_shape_has_its_pool_and_who_asks_twice_gets_two() -> None:
    """Two of one shape at the same time are two pools."""
    pools = FreshPools()
    with pools.fresh(**SHAPE) as one, pools.fresh(**SHAPE) as two, pools.fresh(hosts=1, vms=0) as other:
        assert one is not two
        assert len(other.machines) == 1


def test_a_pool_that_is_still_served_is_not_used_again() -> None:
    """Threads still act on it; the next test gets another."""
    pools = FreshPools()
    with pools.fresh(**SHAPE) as pool:
        server = PoolServer(pool)
        server.start()
    try:
        with pools.fresh(**SHAPE) as other:
            assert other is not pool
    finally:
        server.stop()


def test_a_pool_that_was_served_is_as_new(picture: Picture) -> None:
    """With the addresses that it had in this process."""
    pools = FreshPools()
    with pools.fresh(**SHAPE) as pool, PoolServer(pool) as server, connect(server.url, "root", "secret") as session:
        session.VM.get_all()
    with pools.fresh(**SHAPE) as again:
        assert again is pool
        assert picture(again) == picture(MockPool.create(**SHAPE))


def test_only_so_many_shapes_are_kept() -> None:
    """The one that was not asked for for the longest time goes first."""
    pools, first = FreshPools(), None
    for number in range(SHAPES + 1):
        with pools.fresh(hosts=1, vms=0, seed=number) as pool:
            first = first or pool
    with pools.fresh(hosts=1, vms=0, seed=SHAPES) as pool:
        assert pool.seed == SHAPES
    with pools.fresh(hosts=1, vms=0, seed=0) as pool:
        assert pool is not first
