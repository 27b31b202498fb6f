"""The virtual clock: timers fire in order, waiting moves time, nothing sleeps."""

from __future__ import annotations

import random
import time
from datetime import datetime, timezone
from typing import Any

from mockserver.clock import VirtualClock
from xenctl.values import format_datetime


def clock_with(log: list[Any], *moments: float) -> VirtualClock:
    clock = VirtualClock(1000.0)
    for number, moment in enumerate(moments):
        clock.after(moment, lambda number=number: log.append((number, clock.now())))
    return clock


def test_timers_fire_in_order_of_time_and_then_of_setting() -> None:
    """Two that are due at the same moment fire in the order in which they were set."""
    log: list[Any] = []
    clock = clock_with(log, 5, 1, 5, 3)
    clock.advance(10)
    assert log == [(1, 1001.0), (3, 1003.0), (0, 1005.0), (2, 1005.0)]
    assert clock.now() == 1010.0


def test_time_stops_at_the_limit() -> None:
    """What is due later has not fired."""
    log: list[Any] = []
    clock = clock_with(log, 1, 2, 3)
    clock.run_until(1002.0)
    assert [number for number, _ in log] == [0, 1]
    assert (clock.now(), clock.next_moment()) == (1002.0, 1003.0)


def test_waiting_ends_when_what_is_waited_for_holds() -> None:
    """It is looked at before anything and after each timer; without timers, time goes on to the end of the wait."""
    log: list[Any] = []
    clock = clock_with(log, 1, 2, 3)
    clock.run_until(1100.0, lambda: True)
    assert clock.now() == 1000.0
    clock.run_until(1100.0, lambda: len(log) == 2)
    assert clock.now() == 1002.0
    clock.run_until(1100.0, lambda: False)
    assert clock.now() == 1100.0


def test_a_cancelled_timer_does_not_fire() -> None:
    """Nor is it waited for."""
    log: list[Any] = []
    clock = clock_with(log, 7)
    timer = clock.after(3, lambda: log.append("cancelled"))
    timer.cancel()
    assert clock.next_moment() == 1007.0
    clock.run_until_idle()
    assert log == [(0, 1007.0)]


def test_a_timer_may_set_others_and_let_time_pass() -> None:
    """A timer that waits itself fires what falls due meanwhile; time never runs back."""
    clock, log = VirtualClock(0.0), list[Any]()

    def outer() -> None:
        clock.after(1, lambda: log.append(("inner", clock.now())))
        clock.advance(5)
        log.append(("outer", clock.now()))

    clock.after(1, outer)
    clock.after(3, lambda: log.append(("other", clock.now())))
    clock.run_until(4.0)
    assert log == [("inner", 2.0), ("other", 3.0), ("outer", 6.0)]
    assert clock.now() == 6.0


def test_a_moment_in_the_past_is_now() -> None:
    """A delay below nothing is none."""
    clock, log = VirtualClock(50.0), list[float]()
    clock.after(-10, lambda: log.append(clock.now()))
    clock.step(50.0)
    assert log == [50.0]


def test_whoever_asked_hears_of_each_step() -> None:
    """`after_step` is called after each timer that fired, not for cancelled ones."""
    log: list[Any] = []
    clock = clock_with(log, 1, 2)
    clock.after(1, lambda: None).cancel()
    clock.after_step = lambda: log.append("step")
    clock.run_until_idle()
    assert log == [(0, 1001.0), "step", (1, 1002.0), "step"]


def test_whoever_asked_hears_before_each_step() -> None:
    """`before_step` is called while it is still the moment before, and not for cancelled timers."""
    log: list[Any] = []
    clock = clock_with(log, 1, 2)
    clock.after(1, lambda: None).cancel()
    clock.before_step = lambda: log.append(clock.now())
    clock.run_until_idle()
    assert log == [1000.0, (0, 1001.0), 1001.0, (1, 1002.0)]


def test_stamps_are_those_of_datetime() -> None:
    """Whatever the moment, whole or a little before or after a second."""
    seed = random.randrange(2**32)
    rng, clock = random.Random(seed), VirtualClock(0.0)
    for _ in range(2000):
        clock.moment = rng.randrange(2**32) + rng.choice((0.0, rng.random(), 0.9999999, 0.9999994, 1e-7))
        expected = format_datetime(datetime.fromtimestamp(clock.moment, timezone.utc))
        assert clock.stamp() == expected, f"seed {seed}"


def test_years_pass_in_no_time() -> None:
    """Nothing sleeps; stamps are XenAPI's."""
    started = time.monotonic()
    clock = VirtualClock(0.0)
    clock.sleep(10 * 365 * 86400.0)
    assert clock.stamp() == "19791230T00:00:00Z"
    assert time.monotonic() - started < 1


def test_idle_is_not_waited_for_without_end() -> None:
    """A timer that sets itself again is stopped at the limit."""
    clock, ticks = VirtualClock(0.0), list[float]()

    def tick() -> None:
        ticks.append(clock.now())
        clock.after(60, tick)

    tick()
    clock.run_until_idle(limit=600.0)
    assert ticks[-1] == 600.0
