"""Forks: a second pool in the same state, and neither touches the other."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from mockserver import MockPool, PoolServer
from mockserver.compare import compare
from mockserver.invariants import rolling_upgrade
from mockserver.recorder import Recorder
from mockserver.savepoint import SavepointError

Make = Callable[..., Any]
Picture = Callable[[MockPool], Any]


def days_work(pool: MockPool) -> list[Any]:
    """Calls, tasks, an upgrade of a host and time; what was answered."""
    session = pool.dispatch("session.login_with_password", [pool.username, pool.password])
    vms = [vm.ref for vm in pool.store.table("VM").values() if not vm["is_control_domain"]]
    answers = [session, pool.dispatch("Async.VM.clean_shutdown", [session, vms[0]])]
    pool.clock.advance(40.0)
    answers.append(pool.dispatch("VM.start", [session, vms[0], False, False]))
    pool.hands.power_off("host2")
    pool.hands.insert_media("host2", "4.1")
    pool.hands.power_on("host2")
    pool.clock.advance(300.0)
    pool.hands.answer("host2", "upgrade")
    pool.clock.run_until_idle()
    return [*answers, pool.new_uuid(), pool.random.random()]


def test_a_fork_is_the_same_and_goes_on_the_same(picture: Picture) -> None:
    """With timers that are still to fire, watchers and a random source in the middle of its numbers."""
    pool = MockPool.create(hosts=2, vms=5)
    pool.watch(Recorder(), *rolling_upgrade())
    pool.hands.power_off("host2")
    pool.hands.power_on("host2")
    before = picture(pool)
    fork = pool.fork()
    assert picture(fork) == before
    assert not compare(pool, fork)
    answers = days_work(fork)
    assert picture(pool) == before, "what was done to the fork touched the pool"
    end = picture(fork)
    assert end != before
    assert days_work(pool) == answers
    assert picture(fork) == end, "what was done to the pool touched the fork"
    assert picture(pool) == end


def test_a_fork_has_savepoints_of_its_own(calls: Make, picture: Picture) -> None:
    """Those of the pool are not the fork's."""
    c = calls(vms=2)
    point = c.pool.savepoint()
    c("VM.set_name_label", c.vm("vm01").ref, "changed")
    fork = c.pool.fork()
    before = picture(fork)
    with pytest.raises(SavepointError, match="it is of another pool"):
        fork.rollback(point)
    with fork.savepoint():
        fork.clock.advance(100)
        fork.store.write(next(iter(fork.store.table("VM").values())), name_label="x")
    assert picture(fork) == before
    point.rollback()
    assert picture(fork) == before


def test_no_fork_while_an_operation_is_under_way(calls: Make) -> None:
    """A verb that waits cannot be copied."""
    c = calls(vms=2)
    c.start("VM.clean_shutdown", c.vm("vm01").ref)
    with pytest.raises(SavepointError, match=r"cannot fork the pool while Async\.VM\.clean_shutdown goes on"):
        c.pool.fork()


def test_a_fork_of_a_served_pool_is_not_served() -> None:
    """It is called in this process; the sockets stay with the first."""
    pool = MockPool.create(hosts=1, vms=0)
    with PoolServer(pool) as server:
        fork = pool.fork()
        assert server.pool is pool
    session = fork.dispatch("session.login_with_password", ["root", "secret"])
    fork.hands.power_off("host1")
    assert pool.machine("host1").state == "running"
    assert fork.store.find("session", session) is not None


def test_state_closed_over_by_timers_is_the_forks_own(calls: Make) -> None:
    """A function that fires later acts on the pool that it was copied into."""
    c = calls(vms=1, release="8.2")
    vm, pool = c.vm("vm01"), c.pool
    pool.clock.after(10.0, lambda: pool.force_halted(vm))
    c("host.disable", c.host("host2").ref)
    c("host.reboot", c.host("host2").ref)
    fork = pool.fork()
    fork.clock.advance(60.0)
    assert fork.store.get("VM", vm.ref)["power_state"] == "Halted"
    assert (vm["power_state"], pool.machine("host2").state) == ("Running", "running")
    assert fork.machine("host2").state != "running"
