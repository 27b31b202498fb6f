"""Tasks that clients make, change, cancel and drop: each its own, and those of others where its roles allow it."""

from __future__ import annotations

from .. import roles, rules
from ..call import Call, refuse
from ..call import cancel as cancel_task
from ..garbage import COMPLETED
from ..store import NULL, Row
from . import verbs_of

verb = verbs_of("task")

ANY = "task.destroy/any"
"""The permission to do something with the tasks of others."""


def _mine(call: Call, ref: str) -> Row:
    """A task that the call's user may do something with: one of a session of the same user, or any where its roles allow
    that. A task whose session is over is nobody's. Raises `RBAC_PERMISSION_DENIED`."""
    task, session = call.db.find("task", ref), call.session
    if session is not None and not roles.has(session, ANY):
        owner = call.db.find("session", task["session"]) if task is not None else None
        if owner is None or owner.get("auth_user_sid") != session.get("auth_user_sid"):
            raise roles.denied(call.db.release, ANY)
    return task or call.db.get("task", ref)


@verb("task.*")
def create(call: Call, label: str, description: str) -> str:
    host = call.pool.host_row(call.machine)
    fields = {
        "uuid": call.pool.new_uuid(),
        "name_label": label,
        "name_description": description,
        "created": call.clock.stamp(),
        "status": "pending",
        "type": "<none/>",
        "resident_on": host.ref if host else NULL,
        "session": call.session.ref if call.session else NULL,
    }
    return call.db.create("task", call.pool.new_ref(), fields).ref


@verb("task.*")
def destroy(call: Call, ref: str) -> str:
    """A task that is over goes at once. Since 6.5 one that goes on is marked, and goes once it is over; before, only what it
    was for went on."""
    row = _mine(call, ref)
    if row["status"] in COMPLETED or not call.at_least(rules.CREAM):
        call.db.delete(row)
        return ""
    if "task" in row["current_operations"]:
        raise refuse("MAP_DUPLICATE_KEY", "task", "current_operations", ref, "task")
    call.db.write(row, current_operations={**row["current_operations"], "task": "destroy"})
    return ""


@verb("current_operations")
def cancel(call: Call, ref: str) -> str:
    call.db.get("task", ref)
    _mine(call, ref)
    cancel_task(call.pool, ref, call.task or call.dummy())
    return ""


@verb("status")
def set_status(call: Call, ref: str, value: str) -> str:
    """Nothing else: a task that is over in this way was finished at the epoch, and goes with the next garbage collection."""
    call.db.write(_mine(call, ref), status=value)
    return ""


@verb("progress")
def set_progress(call: Call, ref: str, value: float) -> str:
    call.db.write(_mine(call, ref), progress=value)
    return ""


@verb("result")
def set_result(call: Call, ref: str, value: str) -> str:
    call.db.write(_mine(call, ref), result=value)
    return ""


@verb("error_info")
def set_error_info(call: Call, ref: str, value: list[str]) -> str:
    call.db.write(_mine(call, ref), error_info=value)
    return ""


@verb("resident_on")
def set_resident_on(call: Call, ref: str, value: str) -> str:
    """Say on which host a task that somebody made is worked on."""
    call.db.write(_mine(call, ref), resident_on=value)
    return ""
