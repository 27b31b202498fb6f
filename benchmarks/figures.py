"""A measured figure, its mark, and how to time things that are compared."""

from __future__ import annotations

import gc
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Figure:
    """One measured figure and its mark: not to be exceeded, or with `at_least` to be reached."""

    name: str
    value: float
    mark: float
    unit: str
    at_least: bool = False

    @property
    def met(self) -> bool:
        """Whether the mark is met."""
        return self.value >= self.mark if self.at_least else self.value <= self.mark

    def __str__(self) -> str:
        """One line of the table."""
        bound = f"{'at least' if self.at_least else 'at most'} {self.mark:g}"
        return f"{self.name:<66} {self.value:>8.2f} {self.unit:<2} ({bound}) {'ok' if self.met else 'MISSED'}"


def seconds(work: Callable[[], object], times: int = 1) -> float:
    """How long `work` takes, the mean of `times` in a row."""
    gc.collect()
    return _timed(work, times, time.perf_counter)


def _timed(work: Callable[[], object], times: int, clock: Callable[[], float]) -> float:
    started = clock()
    for _ in range(times):
        work()
    return (clock() - started) / times


YARDSTICK = 1.35e-3
"""Seconds that `yardstick` takes on the machine that absolute marks are for, while nothing else runs there."""


def yardstick() -> None:
    """Some work of the kind that everything here is made of: dicts, attributes, texts."""
    rows: dict[str, tuple[str, ...]] = {}
    for number in range(2000):
        row: dict[str, Any] = {"name": str(number), "state": "Running", "operations": [], "map": {}}
        row["other"] = row.get("name", "") + row["state"]
        rows[row["other"]] = tuple(row)
    "".join([f"<{name}>{len(row)}" for name, row in rows.items()])


def slowness() -> float:
    """How many times slower than the one that marks are for this machine is now; 1 for one that is faster."""
    return max(1.0, min(_timed(yardstick, 1, time.process_time) for _ in range(5)) / YARDSTICK)


def steady(work: Callable[[], object], *, runs: int, times: int = 1) -> float:
    """Seconds of one run of `work`, as they would be on the machine that marks are for: the median of `runs`, each the mean
    of `times` in a row by how slow the machine was then, after one run that does not count.

    It is processor time, since what else a machine does is not the work's.
    """
    work()
    gc.collect()  # once, since a big pool takes longer to look through than most work
    return statistics.median(_timed(work, times, time.process_time) / slowness() for _ in range(runs))


def quickest(work: Callable[[], object], *, runs: int, times: int = 1) -> float:
    """The same in real time, for work that several processes share: the quickest of `runs`, since what else a machine does
    makes some slower, and none quicker."""
    work()
    gc.collect()
    return min(_timed(work, times, time.perf_counter) / slowness() for _ in range(runs))


def ratio(ours: Callable[[], object], peers: Callable[[], object], *, runs: int, times: int = 1) -> float:
    """Our time over the peer's, the median of pairs measured in turn after one run of each that does not count."""
    ours()
    peers()
    return statistics.median(seconds(ours, times) / seconds(peers, times) for _ in range(runs))
