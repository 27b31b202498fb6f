"""One virtual clock for everything that takes time.

Operations, boots, installations and heartbeats are timers on one heap. Nothing in the fake sleeps: in process the clock
jumps to the next timer whenever somebody waits, so hours pass in milliseconds. Timers due at the same moment fire in the
order in which they were set, so a run is the same every time.
"""

from __future__ import annotations

import heapq
import time
from collections.abc import Callable
from functools import lru_cache
from typing import ClassVar

from xenctl.values import Timestamp

from .journal import Journal, Kept

FORGOTTEN = 32
"""Timers that a rollback took back and that may lie in the heap before it is built anew without them."""


class Timer(Kept):
    """One thing that will happen, after those with a lower number at the same moment. `cancel()` takes it back."""

    forgotten: bool = False
    """Set for one that a rollback took back and that still lies in the heap."""

    def __init__(self, journal: Journal, moment: float, number: int, action: Callable[[], None]) -> None:
        self.moment: float
        self.number: int
        self.action: Callable[[], None] | None
        vars(self).update(journal=journal, moment=moment, number=number, action=action)  # none of them a container

    def __lt__(self, other: Timer) -> bool:
        """Whichever comes first of two with one number: a rollback has taken the other back."""
        return False

    def cancel(self) -> None:
        self.action = None


@lru_cache(maxsize=16)
def _date(day: int) -> str:
    """A day since the epoch, in XenAPI's form."""
    return time.strftime("%Y%m%d", time.gmtime(day * 86400))


class VirtualClock(Kept):
    """Simulated seconds since the epoch. Satisfies `xenctl.transport.Clock`. `before_step` and `after_step` are called
    before and after each timer.

    The heap makes its own entries in the journal: what was pushed is marked to be dropped, what was popped is pushed again.
    """

    UNKEPT: ClassVar = frozenset({"before_step", "after_step", "_timers", "_forgotten", "_stamped"})

    def __init__(self, start: float) -> None:
        self.moment = start
        """Now; for who asks at each write, past a call of `now`."""
        self._number = 0
        self._timers: list[tuple[float, int, Timer]] = []
        self._forgotten = 0
        self._stamped: tuple[float, Timestamp] | None = None
        self.before_step: Callable[[], None] = lambda: None
        self.after_step: Callable[[], None] = lambda: None

    def now(self) -> float:
        return self.moment

    def stamp(self) -> Timestamp:
        """Now, in XenAPI's form."""
        if self._stamped is None or self._stamped[0] != self.moment:
            day, second = divmod(int(round(self.moment, 6)), 86400)  # rounded as `datetime` does
            text = f"{_date(day)}T{second // 3600:02}:{second // 60 % 60:02}:{second % 60:02}Z"
            self._stamped = self.moment, Timestamp(text)
        return self._stamped[1]

    def after(self, seconds: float, action: Callable[[], None]) -> Timer:
        """Set a timer: `action` runs once, `seconds` from now."""
        journal, moment, number = self.journal, self.moment + max(0.0, seconds), self._number
        timer = Timer(journal, moment, number, action)
        self._number = number + 1
        heapq.heappush(self._timers, (moment, number, timer))
        if journal.entries is not None:
            journal.entries.append((self._forget, (timer,)))
        return timer

    def _forget(self, timer: Timer) -> None:
        """Drop a timer that was never set; it stays in the heap until it comes to the top or there are many."""
        vars(timer).update(action=None, forgotten=True)
        self._forgotten += 1
        if self._forgotten > FORGOTTEN:
            self._timers = [entry for entry in self._timers if not entry[2].forgotten]
            heapq.heapify(self._timers)
            self._forgotten = 0

    def _pop(self) -> Timer:
        timer = heapq.heappop(self._timers)[2]
        if timer.forgotten:
            self._forgotten -= 1
        elif self.journal.entries is not None:
            self.journal.entries.append((self._push, (timer,)))
        return timer

    def _push(self, timer: Timer) -> None:
        heapq.heappush(self._timers, (timer.moment, timer.number, timer))

    def pending(self) -> list[Timer]:
        """The timers that will fire, in order."""
        return [timer for _, _, timer in sorted(self._timers) if timer.action is not None]

    def next_moment(self) -> float | None:
        """When the next timer fires; None where there is none."""
        while self._timers and self._timers[0][2].action is None:
            self._pop()
        return self._timers[0][0] if self._timers else None

    def step(self, limit: float) -> bool:
        """Fire the next timer that is due no later than `limit`, moving time to it; False where there is none."""
        moment = self.next_moment()
        if moment is None or moment > limit:
            return False
        self.before_step()
        timer = self._pop()
        self.moment = max(self.moment, moment)
        action, timer.action = timer.action, None
        if action is not None:
            action()
            self.after_step()
        return True

    def run_until(self, moment: float, ready: Callable[[], bool] | None = None) -> None:
        """Let time pass until `moment`, or until `ready()` holds after a timer fired."""
        while ready is None or not ready():
            if not self.step(moment):
                self.moment = max(self.moment, moment)
                return

    def advance(self, seconds: float) -> None:
        """Let `seconds` pass, firing what falls due."""
        self.run_until(self.moment + seconds)

    sleep = advance

    def run_until_idle(self, limit: float = 7 * 86400.0) -> None:
        """Let time pass until no timer is left, `limit` seconds at the most."""
        end = self.moment + limit
        while self.step(end):
            pass
