"""Tasks that clients make, cancel and drop."""

from __future__ import annotations

from ..call import Call
from . import verbs_of

verb = verbs_of("task")


@verb()
def create(call: Call, label: str, description: str) -> str:
    host = call.pool.host_row(call.machine)
    ref = call.pool.new_ref()
    fields = {
        "uuid": call.pool.new_uuid(),
        "name_label": label,
        "name_description": description,
        "created": call.clock.stamp(),
        "status": "pending",
        "type": "<none/>",
        "resident_on": host.ref if host else "OpaqueRef:NULL",
        "session": call.session.ref if call.session else "OpaqueRef:NULL",
    }
    call.db.create("task", ref, fields)
    return ref


@verb()
def destroy(call: Call, ref: str) -> str:
    row = call.db.get("task", ref)
    if row["status"] == "pending":
        call.db.write(row, current_operations={**row["current_operations"], "task": "destroy"})
    else:
        call.db.delete(row)
    return ""


@verb()
def cancel(call: Call, ref: str) -> str:
    row = call.db.get("task", ref)
    if row["status"] == "pending":
        call.db.write(row, current_operations={f"DummyRef:|{call.pool.new_uuid()}|task.cancel": "cancel"})
    return ""
