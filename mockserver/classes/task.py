"""Tasks that clients make, cancel and drop."""

from __future__ import annotations

from ..call import Call, refuse
from ..call import cancel as cancel_task
from ..garbage import COMPLETED
from ..store import NULL
from . import verbs_of

verb = verbs_of("task")


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
    """A task that is over goes at once; one that goes on is marked, and goes once it is over."""
    row = call.db.get("task", ref)
    if row["status"] in COMPLETED:
        call.db.delete(row)
        return ""
    if "task" in row["current_operations"]:
        raise refuse("MAP_DUPLICATE_KEY", "task", "current_operations", ref, "task")
    call.db.write(row, current_operations={**row["current_operations"], "task": "destroy"})
    return ""


@verb("current_operations")
def cancel(call: Call, ref: str) -> str:
    cancel_task(call.pool, ref, call.task or call.dummy())
    return ""


@verb("status", "finished", "allowed_operations")
def set_status(call: Call, ref: str, value: str) -> str:
    row = call.db.get("task", ref)
    over = {"finished": call.clock.stamp(), "allowed_operations": []} if value in COMPLETED else {}
    call.db.write(row, **over, status=value)
    return ""


@verb("progress")
def set_progress(call: Call, ref: str, value: float) -> str:
    call.db.write(call.db.get("task", ref), progress=value)
    return ""


@verb("result")
def set_result(call: Call, ref: str, value: str) -> str:
    call.db.write(call.db.get("task", ref), result=value)
    return ""


@verb("error_info")
def set_error_info(call: Call, ref: str, value: list[str]) -> str:
    call.db.write(call.db.get("task", ref), error_info=value)
    return ""


@verb("resident_on")
def set_resident_on(call: Call, ref: str, value: str) -> str:
    """Say on which host a task that somebody made is worked on."""
    call.db.write(call.db.get("task", ref), resident_on=value)
    return ""
