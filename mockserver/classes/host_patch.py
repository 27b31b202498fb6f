"""Patches on hosts."""

from __future__ import annotations

from .. import hosts, rules
from ..call import Call, Steps, refuse
from . import verbs_of

verb = verbs_of("host_patch")


@verb("*")
def destroy(call: Call, ref: str) -> str:
    call.db.delete(call.db.get("host_patch", ref))
    return ""


@verb("applied", "timestamp_applied")
def apply(call: Call, ref: str) -> Steps:
    """Since 4.1 patches are the pool's; the message is still there, and says so."""
    row = call.db.get("host_patch", ref)
    contact = hosts.reached(call, row["host"])
    if call.at_least(rules.MIAMI):
        raise refuse("MESSAGE_DEPRECATED")
    yield call.pool.durations.patch
    contact.check()
    call.db.write(row, applied=True, timestamp_applied=call.clock.stamp())
    return ""
