"""Patches of pools. Since 7.1 each stands for an update, to which its messages go."""

from __future__ import annotations

from .. import hosts, subtasks
from ..call import Call, Steps, refuse
from ..rules import ELY, TAMPA
from ..store import Row
from . import pool_update, verbs_of
from .pool_update import APPLIED

verb = verbs_of("pool_patch")


def _on(call: Call, patch: Row) -> set[str]:
    """The hosts that have a patch."""
    rows = [row for row in (call.db.find("host_patch", ref) for ref in patch["host_patches"]) if row is not None]
    return {row["host"] for row in rows if row["applied"]}


@verb("VBD.*")
def precheck(call: Call, ref: str, host: str) -> Steps:
    row = call.db.get("pool_patch", ref)
    if call.at_least(ELY):
        yield from pool_update.precheck(call, row["pool_update"], host)
        return ""
    contact = hosts.reached(call, host)
    if not row["filename"]:
        raise refuse("CANNOT_FIND_PATCH")
    yield call.pool.durations.device
    contact.check()
    return ""


@verb(*APPLIED)
def apply(call: Call, ref: str, host: str) -> Steps:
    row, target = call.db.get("pool_patch", ref), call.db.get("host", host)
    if call.at_least(ELY):
        yield from pool_update.apply(call, row["pool_update"], host)
        return ""
    if host in _on(call, row):
        raise refuse("PATCH_ALREADY_APPLIED", ref)
    contact = hosts.contact(call.pool, target)
    yield from precheck(call, ref, host)
    yield call.pool.durations.patch
    contact.check()
    pool_update.note_applied(call, row, target)
    return ""


@verb("pool_applied")
def pool_apply(call: Call, ref: str) -> Steps:
    """To every host; up to 7.0 to those that lack it. The first error ends it."""
    row = call.db.get("pool_patch", ref)
    there = set() if call.at_least(ELY) else _on(call, row)
    for host in [host for host in call.db.table("host") if host not in there]:
        yield from subtasks.run(call, "pool_patch.apply", ref, host)
    call.db.write(row, pool_applied=True)
    return ""


# --- the package


@verb("filename")
def clean(call: Call, ref: str) -> str:
    """Since 7.1 there is no file to remove, and xapi does nothing."""
    row = call.db.get("pool_patch", ref)
    if not call.at_least(ELY):
        call.db.write(row, filename="")
    return ""


@verb("filename")
def clean_on_host(call: Call, ref: str, host: str) -> str:
    """The master's file is the one that is known; members' are copies of it."""
    row, there = call.db.get("pool_patch", ref), call.db.get("host", host)
    if not call.at_least(ELY):
        hosts.contact(call.pool, there)
        if host == call.db.pool()["master"]:
            call.db.write(row, filename="")
    return ""


@verb("filename", "pool_update.vdi", "VBD.*")
def pool_clean(call: Call, ref: str) -> Steps:
    row = call.db.get("pool_patch", ref)
    if call.at_least(ELY):
        return (yield from pool_update.pool_clean(call, row["pool_update"]))
    _reach_all(call)
    call.db.write(row, filename="")
    return ""


@verb("*", "pool_update.*", "host.updates_requiring_reboot")
def destroy(call: Call, ref: str) -> str:
    row = call.db.get("pool_patch", ref)
    if call.at_least(ELY):
        return str(pool_update.destroy(call, row["pool_update"]))
    if _on(call, row):
        raise refuse("PATCH_IS_APPLIED")
    _reach_all(call)
    call.db.delete(row)
    return ""


def _reach_all(call: Call) -> None:
    """Since 6.1 every host removes its copy of the file, and one that cannot be reached ends it."""
    if call.at_least(TAMPA):
        hosts.contact_all(call)
