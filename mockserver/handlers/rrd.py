"""`/rrd_updates`: what is measured of a host and its guests, as `get_data_sources` lists it.

The fake keeps no history: there is one row, of now, and none where the client asks for later. Nothing is measured of
storage, so `sr_uuid` selects nothing, as `SR.get_data_sources` lists nothing.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

from .. import data_sources, rules
from .base import Answer, Request, plain
from .running import Binding, done

STEP = 5
KINDS = ("application/json", "text/xml")
"""The content types of answers."""
FUNCTIONS = ("AVERAGE", "MIN", "MAX")
"""What is told of each source unless the client names one."""


def rrd_updates(request: Request) -> Answer:
    """The sources of the host that is asked, since `start` seconds of the epoch; as JSON or XML."""
    given, binding = request.arguments, Binding(request, "rrd_updates")
    if not given.get("start", "").lstrip("-").isdigit():
        return done(binding, plain(400, "Bad Request"))
    now = int(request.pool.clock.now()) // STEP * STEP
    functions = (given["cf"],) if given.get("cf") else FUNCTIONS
    found = [(f"{cf}:{name}", value) for cf in functions for name, value in _sources(request)]
    rows = [now] if int(given["start"]) <= now else []
    meta: dict[str, Any] = {"start": now, "step": STEP, "end": now, "rows": len(rows), "columns": len(found)}
    if _prefers_json(request):
        data = [{"t": moment, "values": [value for _, value in found]} for moment in rows]
        text, kind = (
            json.dumps({"meta": {**meta, "legend": [name for name, _ in found]}, "data": data}),
            "application/json",
        )
    else:
        head = "".join(f"<{key}>{value}</{key}>" for key, value in meta.items())
        legend = "".join(f"<entry>{name}</entry>" for name, _ in found)
        values = "".join(f"<v>{value:.4e}</v>" for _, value in found)
        body = "".join(f"<row><t>{moment}</t>{values}</row>" for moment in rows)
        text = f"<xport><meta>{head}<legend>{legend}</legend></meta><data>{body}</data></xport>"
        text, kind = f'<?xml version="1.0"?>{text}', "text/xml"
    answer = Answer(200, text.encode(), {"content-type": kind, "access-control-allow-origin": "*"})
    return done(binding, answer)


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


def _sources(request: Request) -> Iterator[tuple[str, float]]:
    """Each source that is recorded, as `host:UUID:memory_total_kib`, and its value."""
    pool, wanted = request.pool, request.arguments.get("vm_uuid")
    host = pool.host_row(request.machine)
    if host is None:
        return
    if request.flag("host"):
        for name, value in data_sources.of_host(pool, host, request.machine).recorded():
            yield f"host:{host['uuid']}:{name}", value
    for ref in host["resident_VMs"]:
        vm = pool.store.get("VM", ref)
        if wanted in (None, "all", vm["uuid"]):
            for name, value in data_sources.of_guest(pool, vm).recorded():
                yield f"vm:{vm['uuid']}:{name}", value
