"""Physical block devices: a host's connection to storage."""

from __future__ import annotations

from ..call import Call, Steps, refuse
from . import verbs_of

verb = verbs_of("PBD")


@verb("currently_attached")
def plug(call: Call, ref: str) -> Steps:
    row = call.db.get("PBD", ref)
    if not row["currently_attached"]:
        machine = call.pool.machine_of(call.db.get("host", row["host"]))
        if machine is None or machine.state != "running":
            raise refuse("HOST_OFFLINE", row["host"])
        yield call.pool.durations.device
        call.db.write(row, currently_attached=True)
    return ""


@verb("currently_attached")
def unplug(call: Call, ref: str) -> Steps:
    row = call.db.get("PBD", ref)
    used = []
    for vm in (call.db.get("VM", vm) for vm in call.db.get("host", row["host"])["resident_VMs"]):
        for vbd in call.pool.vbds(vm):
            vdi = call.db.find("VDI", vbd["VDI"])
            if vdi is not None and vbd["currently_attached"] and vdi["SR"] == row["SR"]:
                used.append(vdi.ref)
    if used:
        raise refuse("VDI_IN_USE", *used)
    if row["currently_attached"]:
        yield call.pool.durations.device
        call.db.write(row, currently_attached=False)
    return ""
