"""One virtual clock for everything that takes time.

Operations, boots, installations and heartbeats are timers on one heap. Nothing in the fake sleeps: in process the clock
jumps to the next timer whenever somebody waits, so hours pass in milliseconds. Timers due at the same moment fire in the
order in which they were set, so a run is the same every time.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime, timezone
from itertools import count

from xenctl.values import Timestamp, format_datetime


@dataclass(order=True)
class Timer:
    """One thing that will happen. `cancel()` takes it back."""

    moment: float
    number: int
    action: Callable[[], None] | None = field(compare=False)

    def cancel(self) -> None:
        self.action = None


class VirtualClock:
    """Simulated seconds since the epoch. Satisfies `xenctl.transport.Clock`. `after_step` is called after each timer."""

    def __init__(self, start: float) -> None:
        self._now = start
        self._timers: list[Timer] = []
        self._numbers = count()
        self.after_step: Callable[[], None] = lambda: None

    def now(self) -> float:
        return self._now

    def stamp(self) -> Timestamp:
        """Now, in XenAPI's form."""
        return format_datetime(datetime.fromtimestamp(self._now, timezone.utc))

    def after(self, seconds: float, action: Callable[[], None]) -> Timer:
        """Set a timer: `action` runs once, `seconds` from now."""
        timer = Timer(self._now + max(0.0, seconds), next(self._numbers), action)
        heapq.heappush(self._timers, timer)
        return timer

    def next_moment(self) -> float | None:
        """When the next timer fires; None where there is none."""
        while self._timers and self._timers[0].action is None:
            heapq.heappop(self._timers)
        return self._timers[0].moment if self._timers else None

    def step(self, limit: float) -> bool:
        """Fire the next timer that is due no later than `limit`, moving time to it; False where there is none."""
        moment = self.next_moment()
        if moment is None or moment > limit:
            return False
        timer = heapq.heappop(self._timers)
        self._now = max(self._now, moment)
        action, timer.action = timer.action, None
        if action is not None:
            action()
            self.after_step()
        return True

    def run_until(self, moment: float, ready: Callable[[], bool] | None = None) -> None:
        """Let time pass until `moment`, or until `ready()` holds after a timer fired."""
        while ready is None or not ready():
            if not self.step(moment):
                self._now = max(self._now, moment)
                return

    def advance(self, seconds: float) -> None:
        """Let `seconds` pass, firing what falls due."""
        self.run_until(self._now + seconds)

    sleep = advance

    def run_until_idle(self, limit: float = 7 * 86400.0) -> None:
        """Let time pass until no timer is left, `limit` seconds at the most."""
        end = self._now + limit
        while self.step(end):
            pass
