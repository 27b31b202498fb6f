"""`/rrd_updates`: what is measured of a host and its guests, as `get_data_sources` lists it.

What a host measures it keeps in archives, the finer the shorter. A client gets rows of the finest one that reaches back to
where it asks from and whose steps are no shorter than it likes, the newest row first. The fake keeps no history: the newest
row has what there is now, those before are of times at which nothing was measured (`NaN`), as of a host that has just begun.
Nothing is measured of storage, so `sr_uuid` selects nothing, as `SR.get_data_sources` lists nothing.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from math import isnan, nan

from .. import data_sources, rules
from ..data_sources import DataSources
from .base import Answer, Request, broken, plain
from .running import Binding, done

STEP = 5
"""Seconds between two measurements."""
KINDS = ("application/json", "text/xml")
"""The content types of answers."""
FUNCTIONS = ("AVERAGE", "MIN", "MAX")
"""What is kept of the measurements that make a row, of a source."""
EXTREMES = "create_min_max_in_new_VM_RRDs"
"""The key of the pool's `other_config` that has more than averages kept."""


@dataclass(frozen=True)
class Archive:
    """`rows` rows, each of `steps` measurements."""

    rows: int
    steps: int

    @property
    def seconds(self) -> int:
        """From one row to the next."""
        return STEP * self.steps

    def keeps(self, function: str, extremes: bool) -> bool:
        """Whether it has rows of `function`."""
        return function == FUNCTIONS[0] or (extremes and self.steps > 1)


ARCHIVES = (Archive(120, 1), Archive(120, 12), Archive(168, 720), Archive(366, 17280))
"""Ten minutes, two hours, a week and a year."""


@dataclass(frozen=True)
class Excerpt:
    """What is told: the names of columns, rows with the times they end at, and the place of both in an archive."""

    start: int
    step: int
    end: int
    legend: list[str]
    rows: list[tuple[int, list[float]]]

    def meta(self) -> dict[str, int]:
        """What is told of it before the legend."""
        place = {"start": self.start, "step": self.step, "end": self.end}
        return {**place, "rows": len(self.rows), "columns": len(self.legend)}


def rrd_updates(request: Request) -> Answer:
    """What the host that is asked has measured since `start` seconds of the epoch, or as many before now where that is
    negative; as JSON or XML."""
    given, binding = request.arguments, Binding(request, "rrd_updates")
    if not given.get("start", "").lstrip("-").isdigit():
        return done(binding, plain(400, "Bad Request"))
    found = _excerpt(request, int(given["start"]))
    if found is None:
        return done(binding, broken("Rrd.No_RRA_Available"))
    as_json = _prefers_json(request)
    write = _xml if not as_json else _json if request.pool.store.release.order >= rules.NILE else _javascript
    headers = {"content-type": KINDS[0] if as_json else KINDS[1], "access-control-allow-origin": "*"}
    return done(binding, Answer(200, write(found).encode(), headers))


def _excerpt(request: Request, start: int) -> Excerpt | None:
    """What is asked for; None where no archive has it."""
    now, given = int(request.pool.clock.now()) // STEP * STEP, request.arguments
    extremes = request.pool.store.pool()["other_config"].get(EXTREMES) == "true"
    wanted = (given["cf"],) if given.get("cf") in FUNCTIONS else FUNCTIONS
    kept = [one for one in ARCHIVES if any(one.keeps(function, extremes) for function in wanted)]
    measured = list(_measured(request))
    if not kept or not measured:
        return None
    start = start if start >= 0 else now + start
    interval = given.get("interval", "")
    least = int(interval) // STEP if interval.isdigit() else 0
    fits = (one for one in kept if one.steps >= least and start > now - one.rows * one.seconds)
    archive = next(fits, kept[-1])
    values = {
        f"{function}:{whose}:{name}": value
        for whose, sources in measured
        for function in wanted
        if archive.keeps(function, extremes)
        for name, value in sources.recorded()
    }
    step = archive.seconds
    end = now // step * step
    times = [end - step * number for number in range(archive.rows) if end - step * number >= start]
    rows = [(time, [nan] * len(values) if number else list(values.values())) for number, time in enumerate(times)]
    return Excerpt(start // step * step + step, step, end, list(values), rows)


def _text(value: float) -> str:
    """A value as xapi writes it."""
    return "NaN" if isnan(value) else f"{value:.4f}" if value else "0.0"


def _xml(found: Excerpt) -> str:
    head = "".join(f"<{key}>{value}</{key}>" for key, value in found.meta().items())
    legend = "".join(f"<entry>{name}</entry>" for name in found.legend)
    rows = (f"<row><t>{time}</t>{''.join(f'<v>{_text(v)}</v>' for v in values)}</row>" for time, values in found.rows)
    text = f"<xport><meta>{head}<legend>{legend}</legend></meta><data>{''.join(rows)}</data></xport>"
    return f'<?xml version="1.0"?>{text}'


def _json(found: Excerpt) -> str:
    data = [{"t": time, "values": [_text(value) for value in values]} for time, values in found.rows]
    document = {"meta": {**found.meta(), "legend": found.legend}, "data": data}
    return json.dumps(document, separators=(",", ":"))


def _javascript(found: Excerpt) -> str:
    """What is said to be JSON up to 8.2: names have no quotes, and numbers may be `NaN`."""
    head = ",".join(f"{key}:{value}" for key, value in found.meta().items())
    legend = ",".join(f'"{name}"' for name in found.legend)
    rows = ",".join(f"{{t:{time},values:[{','.join(map(_text, values))}]}}" for time, values in found.rows)
    return f"{{meta: {{{head},legend:[{legend}]}},data:[{rows}]}}"


def _prefers_json(request: Request) -> bool:
    """Whether the client gets JSON: by its header `Accept`, looked at since XenServer 8, JSON where both are as welcome;
    where that welcomes neither or cannot be read, by having an argument `json`."""
    accept = request.headers.get("accept", "") if request.pool.store.release.order >= rules.NILE else ""
    try:
        welcome = [_weighed(part) for part in accept.split(",") if part]
    except ValueError:
        welcome = []
    for weight in sorted({weight for weight, _ in welcome}, reverse=True):
        ranges = [name for at, name in welcome if at == weight]
        found = [kind for kind in KINDS if any(_matches(kind, name) for name in ranges)]
        if found:
            return found[0] == KINDS[0]
    return "json" in request.arguments


def _weighed(part: str) -> tuple[float, str]:
    """One member of `Accept`: how welcome it is, and what. Raises `ValueError`. Blanks count, as for xapi."""
    name, *params = part.split(";")
    if name.count("/") != 1 or not all("=" in param for param in params):
        raise ValueError(part)
    weights = [param[2:] for param in params if param.startswith("q=")]
    return (float(weights[0]) if weights else 1.0), name


def _matches(kind: str, name: str) -> bool:
    main, _, sub = name.partition("/")
    return main == "*" or (main == kind.partition("/")[0] and sub in ("*", kind.partition("/")[2]))


def _measured(request: Request) -> Iterator[tuple[str, DataSources]]:
    """Each object that is asked for, as `host:UUID`, and what is measured of it."""
    pool, wanted = request.pool, request.arguments.get("vm_uuid")
    host = pool.host_row(request.machine)
    if host is None:
        return
    if request.flag("host"):
        yield f"host:{host['uuid']}", data_sources.of_host(pool, host, request.machine)
    for vm in pool.store.rows("VM", host["resident_VMs"]):
        if wanted in (None, "all", vm["uuid"]):
            yield f"vm:{vm['uuid']}", data_sources.of_guest(pool, vm)
