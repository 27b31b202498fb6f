"""A sweep: the same scenario again and again, each time with another of its calls failed.

    report = sweep(start_everything, make=three_hosts, check=everything_runs, faults=["answer_lost", "reset"])
    report.verify()

It first runs without a fault, and its requests are counted. Each of these with each kind of fault is a point; at each point
the scenario runs on a pool of its own, made afresh, with that one request struck. What must hold then is what the caller
checks, and the invariants of every pool. What broke is told with a line that repeats just that point.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from xenctl.errors import XenctlError

from .faults import KINDS, Arrival, Fault
from .invariants import Invariant, sound
from .pool import MockPool

if TYPE_CHECKING:
    from .invariants import Violation

Scenario = Callable[[MockPool], object]
Kind = str | Mapping[str, Any]

PLAIN: Mapping[str, Mapping[str, Any]] = {
    "error": {"code": "INTERNAL_ERROR", "params": ["a fault of the test"]},
    "error_after": {"code": "INTERNAL_ERROR", "params": ["a fault of the test"]},
}
"""What a kind is told where only its name is given."""


@dataclass(frozen=True)
class Point:
    """One request of the scenario, by number from 1, with what is done to it."""

    call: int
    method: str
    host: str
    fault: Mapping[str, Any]

    def __str__(self) -> str:
        return f"{self.fault['kind']} at request {self.call}, {self.method} on {self.host}"

    @property
    def coordinates(self) -> tuple[int, Any]:
        """The point as `sweep(only=...)` takes it."""
        kind = self.fault["kind"]
        plain = {"kind": kind, **PLAIN.get(kind, {})}
        return self.call, kind if self.fault == plain else dict(self.fault)


@dataclass(frozen=True)
class Broken:
    """What did not hold at a point: `reasons`, and the expression that repeats it."""

    point: Point
    reasons: tuple[str, ...]
    reproducer: str

    def __str__(self) -> str:
        return "\n".join([f"{self.point}:", *(f"    {reason}" for reason in self.reasons), f"    {self.reproducer}"])


@dataclass(frozen=True)
class SweepReport:
    """What came of a sweep: how many `points` there are, how many were `run`, how many were `skipped` and why, and what
    `broke`. `seed` is that of a sample, None where all points were run."""

    scenario: str
    points: int
    run: int
    skipped: Mapping[str, int]
    broken: tuple[Broken, ...]
    seed: int | None

    def __str__(self) -> str:
        skipped = [f"{count} skipped: {reason}" for reason, count in self.skipped.items()]
        head = f"{self.scenario}: {self.points} points, {self.run} run, {len(self.broken)} broken"
        return "\n".join([head, *skipped, *map(str, self.broken)])

    def verify(self) -> None:
        """Raise `AssertionError`, with everything that broke, if anything did."""
        if self.broken:
            raise AssertionError(str(self))


class SweepError(Exception):
    """A sweep that cannot be made; says why, and what to do."""


def sweep(
    scenario: Scenario,
    *,
    make: Callable[[], MockPool] = MockPool.create,
    check: Callable[[MockPool], object] | None = None,
    faults: Sequence[Kind] = ("error", "answer_lost"),
    may_raise: tuple[type[Exception], ...] = (XenctlError, OSError),
    invariants: Callable[[], Iterable[Invariant]] = sound,
    only: Iterable[tuple[int, Kind]] | None = None,
    sample: int | None = None,
    seed: int = 0,
) -> SweepReport:
    """Run `scenario(pool)` with each of its requests failed in turn by each of `faults`, and say what broke.

    `make` makes the pool, the same each time, and the scenario does the same each time with the same answers. When it has
    ended, be it by one of `may_raise`, simulated time runs on until nothing is under way any more; then `check(pool)` says
    by an exception what does not hold, and `invariants` are asked. An exception that the scenario may not raise breaks it
    too. `faults` are names of kinds, or mappings of what `pool.faults.add` takes, the kind under `kind`.

    `sample` runs only that many points, chosen by `seed`; `only` just those, as `(request, fault)`. Raises `SweepError`
    where the scenario breaks without a fault, and `ValueError` for faults and points that there are not.
    """
    kinds = [_told(kind) for kind in faults]
    words = _Words(scenario, make, check, may_raise, invariants)
    requests = _count(words)
    points = [Point(a.number, a.method, a.host, kind) for a in requests for kind in kinds]
    total, skipped = len(points), Counter[str]()
    if only is not None:
        points = [_point(requests, number, _told(kind)) for number, kind in only]
        skipped["not asked for"] = max(0, total - len(points))
    elif sample is not None and sample < total:
        points = sorted(random.Random(seed).sample(points, sample), key=lambda point: point.call)
        skipped[f"not in the sample of {sample} with seed {seed}"] = total - sample
    broken = []
    run = 0
    for point in points:
        missed, reasons = _run(words, point)
        if missed:
            skipped[missed] += 1
            continue
        run += 1
        if reasons:
            broken.append(Broken(point, tuple(reasons), words.expression(point)))
    told = {reason: count for reason, count in skipped.items() if count}
    chosen = seed if sample is not None and only is None else None
    return SweepReport(words.name(scenario), total, run, told, tuple(broken), chosen)


@dataclass(frozen=True)
class _Words:
    """What a sweep was asked."""

    scenario: Scenario
    make: Callable[[], MockPool]
    check: Callable[[MockPool], object] | None
    may_raise: tuple[type[Exception], ...]
    invariants: Callable[[], Iterable[Invariant]]

    @staticmethod
    def name(function: Any) -> str:
        return str(getattr(function, "__qualname__", None) or repr(function))

    def expression(self, point: Point) -> str:
        """What repeats one point, to be evaluated where the scenario is."""
        asked = [self.name(self.scenario)]
        if self.make != MockPool.create:
            asked.append(f"make={self.name(self.make)}")
        if self.check is not None:
            asked.append(f"check={self.name(self.check)}")
        if self.may_raise != (XenctlError, OSError):
            names = ", ".join(self.name(kind) for kind in self.may_raise)
            asked.append(f"may_raise=({names}{',' if len(self.may_raise) == 1 else ''})")
        if self.invariants is not sound:
            asked.append(f"invariants={self.name(self.invariants)}")
        return f"mockserver.sweep({', '.join(asked)}, only=[{point.coordinates!r}])"


def _told(kind: Kind) -> Mapping[str, Any]:
    """A fault as it is asked for. Raises `ValueError` for what is none, and for one that names its own request."""
    if isinstance(kind, str):
        told: dict[str, Any] = {"kind": kind, **PLAIN.get(kind, {})}
    else:
        told = dict(kind)
    if told.get("kind") not in KINDS:
        raise ValueError(f"no such fault: {told.get('kind')!r}; there are {', '.join(KINDS)}")
    own = sorted({"nth", "times", "method", "host", "at", "after", "about", "when"} & set(told))
    if own:
        raise ValueError(f"a sweep says itself which request is struck; leave out {', '.join(own)}")
    return told


def _point(requests: Sequence[Arrival], number: int, fault: Mapping[str, Any]) -> Point:
    if not 1 <= number <= len(requests):
        raise ValueError(f"there is no request {number}: the scenario makes {len(requests)}")
    arrival = requests[number - 1]
    return Point(number, arrival.method, arrival.host, fault)


def _count(words: _Words) -> list[Arrival]:
    """The requests of the scenario without a fault. Raises `SweepError` where it breaks."""
    pool = words.make()
    requests: list[Arrival] = []
    pool.faults.listen(requests.append)
    reasons = _play(words, pool, may_raise=())
    if reasons:
        raise SweepError(f"{words.name(words.scenario)} breaks without any fault: {'; '.join(reasons)}")
    if not requests:
        raise SweepError(f"{words.name(words.scenario)} sends nothing to the pool that it is given")
    return requests


def _run(words: _Words, point: Point) -> tuple[str, list[str]]:
    """What broke at a point; or why the point is none."""
    pool = words.make()
    struck: list[Arrival] = []

    def listen(arrival: Arrival) -> None:
        if arrival.number == point.call:
            struck.append(arrival)

    pool.faults.listen(listen)
    asked = {**point.fault}
    # `when` makes what happens to a host wait for the request too, be it the first one.
    fault = pool.faults.add(asked.pop("kind"), nth=point.call, when=lambda _: True, **asked)
    reasons = _play(words, pool, may_raise=words.may_raise)
    if not struck or (struck[0].method, struck[0].host) != (point.method, point.host):
        found = f"it is {struck[0].method} on {struck[0].host}" if struck else "there is none"
        return "", [f"the scenario does not do the same each time: in this run {found}, before any fault"]
    return ("", reasons) if fault.fired else (_why(fault), [])


def _why(fault: Fault) -> str:
    """Why a fault that came to its request did not strike, without the request's number."""
    return "the call was refused before its verb, or by it, without the fault" if fault.missed else "it did not strike"


def _play(words: _Words, pool: MockPool, *, may_raise: tuple[type[Exception], ...]) -> list[str]:
    """Run the scenario on a pool and see what holds."""
    reasons = []
    pool.watch(*words.invariants())
    try:
        words.scenario(pool)
    except may_raise:
        pass
    except Exception as error:  # noqa: BLE001 - whatever it is, it is what broke
        reasons.append(f"the scenario raised {_shown(error)}")
    pool.faults.listen(None)
    pool.clock.run_until_idle()
    if words.check is not None:
        try:
            words.check(pool)
        except Exception as error:  # noqa: BLE001
            reasons.append(f"the check raised {_shown(error)}")
    pool.conclude()
    return reasons + [_broken(violation) for violation in pool.violations]


def _broken(violation: Violation) -> str:
    return f"{violation.invariant}: {violation.text} (after {violation.cause})"


def _shown(error: Exception) -> str:
    """An error in one line: the first of its own."""
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0]}" if lines else type(error).__name__
