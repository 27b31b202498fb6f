"""How far operations are: worked out from the clock when somebody looks, so that it costs nothing while nobody does.

A verb that waits for some seconds gets on meanwhile, from the share that it had `reached` to its `goal`, which is the end
unless it says otherwise. Who reads a task's progress is told it to the percent. Who waits for events of tasks is told in
steps of a tenth of the wait, that are no shorter than `STEP`.
"""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from .call import Call
    from .clock import Timer
    from .pool import MockPool

STEP = 30.0
"""Simulated seconds that lie between two events of a task's progress, at the least."""
PERCENT = 0.01
READS = frozenset(
    "task.get_progress task.get_record task.get_all_records task.get_all_records_where task.get_all_where".split()
)
"""The messages whose answer tells of progress."""


class Span(NamedTuple):
    """One wait of an operation: from when to when, in simulated seconds, and the shares of the whole at both ends."""

    begins: float
    ends: float
    reached: float
    goal: float

    @property
    def step(self) -> float:
        """Seconds between two events."""
        return max(STEP, (self.ends - self.begins) / 10)

    def share(self, now: float) -> float:
        """How much of the operation is done."""
        part = (now - self.begins) / (self.ends - self.begins) if self.ends > self.begins else 1.0
        return self.reached + (self.goal - self.reached) * min(1.0, max(0.0, part))

    def at_step(self, now: float) -> float:
        """How much was done when the last step was over."""
        return self.share(self.begins + (now - self.begins) // self.step * self.step)


def begin(call: Call, seconds: float) -> None:
    """An operation waits from now on."""
    if call.task:
        now = call.clock.now()
        call.pool.spans[call.task] = Span(now, now + seconds, call.reached, call.goal)


def end(call: Call) -> None:
    """The wait of an operation is over; the next one leads to the end, unless the verb says otherwise."""
    spans = call.pool.spans
    if spans and spans.pop(call.task, None) is not None:
        call.reached, call.goal = call.goal, 1.0


def show(pool: MockPool, *, coarse: bool = False) -> None:
    """Write down how far each operation is: to the percent, or as it was at its last step."""
    now = pool.clock.now()
    for task, span in list(pool.spans.items()):
        row = pool.store.find("task", task)
        if row is None or row["status"] != "pending":
            del pool.spans[task]
            continue
        share = span.at_step(now) if coarse else span.share(now)
        shown = round(int(share / PERCENT + 1e-6) * PERCENT, 2)
        if shown > row["progress"]:
            pool.store.write(row, progress=shown)


@contextmanager
def watched(pool: MockPool, concerns: Callable[[str], bool]) -> Iterator[None]:
    """While somebody waits for events of the tasks that `concerns` is true of, write each step down once it is over."""
    timers: list[Timer] = []

    def look() -> None:
        show(pool, coarse=True)
        now = pool.clock.now()
        steps = [
            min(span.ends, span.begins + ((now - span.begins) // span.step + 1) * span.step)
            for task, span in pool.spans.items()
            if concerns(task) and span.ends > now
        ]
        timers[:] = [pool.clock.after(min(steps) - now, look)] if steps else []

    look()
    try:
        yield
    finally:
        for timer in timers:
            timer.cancel()
