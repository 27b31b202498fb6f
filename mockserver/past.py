"""What was measured in the past, worked out when somebody asks: nothing is kept, and nothing is drawn.

What is measured has a level, which is what the fake knows of it now. It is taken to have been at that level since its host
booted, its guest started, or somebody had it recorded; before, nothing is known (`nan`). Memory is simply that: what a guest
had before it was given more is not remembered, nor when it was paused or suspended. What processors do swings about its
level in a wave of an hour, which begins elsewhere for each object, as its uuid says. So the same question about the same
time has the same answer for the same seed, after a rollback and in a fork too.

Hosts measure every `STEP` seconds: measurement `number` is that of second `number * STEP` of the epoch. What they measured
they keep in archives, the finer the shorter.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import accumulate
from math import nan, pi, sin
from typing import Final

STEP: Final = 5
"""Seconds between two measurements."""
PERIOD: Final = 720
"""Measurements after which a wave begins anew: an hour."""
SWING: Final = 0.5
"""How far a wave goes from its level, as a share of it."""
WAVE: Final = tuple(1 + SWING * sin(2 * pi * number / PERIOD) for number in range(PERIOD))
TWO_WAVES: Final = WAVE + WAVE
_SUMS: Final = (0.0, *accumulate(WAVE))

AVERAGE, MIN, MAX = FUNCTIONS = ("AVERAGE", "MIN", "MAX")
"""What is kept of the measurements that make a row."""


@dataclass(frozen=True)
class Archive:
    """`rows` rows, each of `steps` measurements."""

    rows: int
    steps: int

    @property
    def seconds(self) -> int:
        """From one row to the next."""
        return STEP * self.steps

    def keeps(self, function: str, *, extremes: bool) -> bool:
        """Whether it has rows of `function`, where `extremes` are kept or not."""
        return function == AVERAGE or (function in FUNCTIONS and extremes and self.steps > 1)

    def unknown_share(self, *, extremes: bool) -> float:
        """The share of a row's measurements that may be unknown in a row that is known."""
        return 1.0 if extremes and self.steps > 1 else 0.5

    def last(self, newest: int) -> int:
        """The last measurement of the newest row that is whole."""
        return newest // self.steps * self.steps


ARCHIVES: Final = (Archive(120, 1), Archive(120, 12), Archive(168, 720), Archive(366, 17280))
"""Ten minutes, two hours, a week and a year."""


@dataclass(frozen=True)
class Course:
    """How one value went: `level`, from measurement `since` on. One that swings is at `offset` of its wave in measurement 0;
    `offset` is None for one that does not."""

    level: float
    since: int
    offset: int | None = None

    def at(self, number: int) -> float:
        """What was measured; `nan` for what was not."""
        if number < self.since:
            return nan
        return self.level if self.offset is None else self.level * WAVE[(number + self.offset) % PERIOD]

    def row(self, function: str, last: int, steps: int, unknown_share: float) -> float:
        """What is kept of `steps` measurements, the last of them `last`; `nan` where more than a share of them, or all,
        are unknown."""
        count = min(steps, last - self.since + 1)
        if count <= 0 or steps - count > unknown_share * steps:
            return nan
        return self.of(function, last, count)

    def of(self, function: str, last: int, count: int) -> float:
        """The average, minimum or maximum of `count` measurements, which are known, the last of them `last`."""
        if self.offset is None:
            return self.level
        if count == 1:
            return self.at(last)
        start = (last - count + 1 + self.offset) % PERIOD
        if function == AVERAGE:
            whole, rest = divmod(count, PERIOD)
            return self.level * (whole * _SUMS[PERIOD] + _sum(start, rest)) / count
        if count >= PERIOD:
            return self.level * (1 - SWING if function == MIN else 1 + SWING)
        found = TWO_WAVES[start : start + count]
        return self.level * (min(found) if function == MIN else max(found))


def _sum(start: int, count: int) -> float:
    """The sum of `count` values of the wave from `start` on; less than a period."""
    end = start + count
    if end <= PERIOD:
        return _SUMS[end] - _SUMS[start]
    return _SUMS[PERIOD] - _SUMS[start] + _SUMS[end - PERIOD]


def number_of(moment: float) -> int:
    """The last measurement at `moment`, in seconds of the epoch."""
    return int(moment) // STEP
