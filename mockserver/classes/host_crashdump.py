"""Crash dumps that hosts found when they started again."""

from __future__ import annotations

from .. import hosts
from ..call import Call, Steps, refuse
from . import verbs_of

verb = verbs_of("host_crashdump")


@verb("*")
def destroy(call: Call, ref: str) -> Steps:
    row = call.db.get("host_crashdump", ref)
    contact = hosts.reached(call, row["host"])
    yield call.pool.durations.device
    contact.check()
    call.db.delete(row)
    return ""


@verb("machine.uploads")
def upload(call: Call, ref: str, url: str, options: dict[str, str]) -> Steps:
    """The dump leaves the pool; what left, and where to, is in `MockPool.uploads`."""
    row = call.db.get("host_crashdump", ref)
    contact = hosts.reached(call, row["host"])
    if not url:
        raise refuse("INVALID_VALUE", "url", "")
    yield call.pool.durations.device
    hosts.send_out(call, contact.check(), row["filename"], url)
    return ""
