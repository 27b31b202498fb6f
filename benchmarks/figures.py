"""A measured figure, its mark, and how to time things that are compared."""

from __future__ import annotations

import gc
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass


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
    started = time.perf_counter()
    for _ in range(times):
        work()
    return (time.perf_counter() - started) / times


def ratio(ours: Callable[[], object], peers: Callable[[], object], *, runs: int, times: int = 1) -> float:
    """Our time over the peer's, the median of pairs measured in turn after one run of each that does not count."""
    ours()
    peers()
    return statistics.median(seconds(ours, times) / seconds(peers, times) for _ in range(runs))
