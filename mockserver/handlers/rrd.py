"""`/rrd_updates`: what is measured of a host and its guests, as `get_data_sources` lists it.

A client gets rows of the finest archive that reaches back to where it asks from and whose steps are no shorter than it
likes, the newest row first. Nothing is measured of storage, so `sr_uuid` selects nothing, as `SR.get_data_sources` lists
nothing.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Final

from .. import data_sources, rules
from ..data_sources import DataSources
from ..past import ARCHIVES, FUNCTIONS, STEP, Archive, number_of
from .base import Answer, Request, broken, plain
from .rrd_format import (
    ANYWHERE,
    KINDS,
    PROLOGUE,
    binding_of,
    guests_have_extremes,
    numbers,
    prefers_json,
    told,
)

KNOWN: Final = (*FUNCTIONS, "LAST")
"""The functions that a client may ask for; of `LAST` nothing is kept."""


@dataclass(frozen=True)
class Excerpt:
    """What is told: the names of columns, rows with the times they end at, and the place of both in an archive."""

    start: int
    step: int
    end: int
    legend: list[str]
    rows: list[tuple[int, list[str]]]

    def meta(self) -> dict[str, int]:
        """What is told of it before the legend."""
        place = {"start": self.start, "step": self.step, "end": self.end}
        return {**place, "rows": len(self.rows), "columns": len(self.legend)}


@dataclass(frozen=True)
class Measured:
    """An object that is asked for, called `host:UUID` or `vm:UUID`, what is measured of it, and whether more than averages
    is kept of that."""

    name: str
    sources: DataSources
    extremes: bool


def rrd_updates(request: Request) -> Answer:
    """What the host that is asked has measured since `start` seconds of the epoch, or since as many before now where that
    is negative; as JSON or XML."""
    given, binding = request.arguments, binding_of(request)
    if "start" not in given:
        return told(binding, plain(400, "Bad Request"))
    try:
        start = int(given["start"])
    except ValueError:
        return told(binding, broken('Failure("Int64.of_string")'))
    found = _excerpt(request, start)
    if found is None:
        return told(binding, broken("Rrd.No_RRA_Available"))
    as_json, release = prefers_json(request), request.machine.system.release
    if as_json and not found.rows and rules.DUNDEE <= release.order < rules.NILE:
        return told(binding, broken('Invalid_argument("index out of bounds")'))
    write = _xml if not as_json else _json if release.order >= rules.NILE else _javascript
    headers = {**ANYWHERE, "access-control-allow-headers": "X-Requested-With"}
    if not as_json or release.order >= rules.NILE:
        headers["content-type"] = KINDS[0] if as_json else KINDS[1]
    return told(binding, Answer(200, write(found).encode(), headers))


def _excerpt(request: Request, start: int) -> Excerpt | None:
    """What is asked for; None where no archive has it."""
    now, given = request.pool.clock.now(), request.arguments
    wanted = (given["cf"],) if given.get("cf") in KNOWN else FUNCTIONS
    measured, newest = list(_measured(request)), number_of(now)
    kept = [one for one in ARCHIVES if any(one.keeps(function, extremes=True) for function in wanted)]
    if not measured or any(not _kept(one, wanted) for one in measured):
        return None
    start = start if start >= 0 else newest * STEP + start
    interval = given.get("interval", "")
    least = int(interval) // STEP if interval.isdigit() else 0
    fits = (one for one in kept if one.steps >= least and start > newest * STEP - one.rows * one.seconds)
    archive = next(fits, kept[-1])
    if archive.steps < least:
        return None
    step, last = archive.seconds, archive.last(newest)
    ends = [last - archive.steps * number for number in range(archive.rows)]
    ends = [number for number in ends if number * STEP >= start]
    columns = list(_columns(measured, archive, wanted, ends, numbers(request.machine.system.release)))
    rows = [(number * STEP, [values[at] for _, values in columns]) for at, number in enumerate(ends)]
    return Excerpt(start // step * step + step, step, last * STEP, [name for name, _ in columns], rows)


def _kept(measured: Measured, wanted: tuple[str, ...]) -> bool:
    """Whether any archive has something of what is wanted."""
    return any(one.keeps(function, extremes=measured.extremes) for one in ARCHIVES for function in wanted)


def _columns(
    measured: list[Measured], archive: Archive, wanted: tuple[str, ...], ends: list[int], text: Callable[[float], str]
) -> Iterator[tuple[str, list[str]]]:
    """Each column of an archive: its name, and what is in its rows, which end with the measurements `ends`."""
    for one in measured:
        share = archive.unknown_share(extremes=one.extremes)
        for function in wanted:
            if archive.keeps(function, extremes=one.extremes):
                for source in one.sources.recorded():
                    row = source.course.row
                    values = [text(row(function, number, archive.steps, share)) for number in ends]
                    yield f"{function}:{one.name}:{source.name}", values


def _xml(found: Excerpt) -> str:
    head = "".join(f"<{key}>{value}</{key}>" for key, value in found.meta().items())
    legend = "".join(f"<entry>{name}</entry>" for name in found.legend)
    rows = (f"<row><t>{time}</t>{''.join(f'<v>{v}</v>' for v in values)}</row>" for time, values in found.rows)
    return f"{PROLOGUE}<xport><meta>{head}<legend>{legend}</legend></meta><data>{''.join(rows)}</data></xport>"


def _json(found: Excerpt) -> str:
    data = [{"t": time, "values": values} for time, values in found.rows]
    document = {"meta": {**found.meta(), "legend": found.legend}, "data": data}
    return json.dumps(document, separators=(",", ":"))


def _javascript(found: Excerpt) -> str:
    """What is said to be JSON up to 8.2: names have no quotes, and numbers may be `NaN`."""
    head = ",".join(f"{key}:{value}" for key, value in found.meta().items())
    legend = ",".join(f'"{name}"' for name in found.legend)
    rows = ",".join(f"{{t:{time},values:[{','.join(values)}]}}" for time, values in found.rows)
    return f"{{meta: {{{head},legend:[{legend}]}},data:[{rows}]}}"


def _measured(request: Request) -> Iterator[Measured]:
    """What is asked for. Up to 6.5 a host is told of wherever there is an argument `host`, and `all` is no VM."""
    pool, machine, wanted = request.pool, request.machine, request.arguments.get("vm_uuid")
    host = pool.host_row(machine)
    if host is None:
        return
    named = machine.system.release.order >= rules.DUNDEE
    if request.flag("host") if named else "host" in request.arguments:
        yield Measured(f"host:{host['uuid']}", data_sources.of_host(pool, host, machine), extremes=True)
    everyone = wanted is None or (named and wanted == "all")
    extremes = guests_have_extremes(request)
    for vm in pool.store.rows("VM", host["resident_VMs"]):
        if everyone or wanted == vm["uuid"]:
            yield Measured(f"vm:{vm['uuid']}", data_sources.of_guest(pool, vm, machine), extremes)
