"""Physical block devices: a host's connection to storage."""

from __future__ import annotations

from .. import hosts
from ..call import Call, Steps, refuse
from ..store import Row
from . import verbs_of
from .generic import make

verb = verbs_of("PBD")


@verb("currently_attached")
def plug(call: Call, ref: str) -> Steps:
    row = call.db.get("PBD", ref)
    if not row["currently_attached"]:
        host = hosts.contact(call.pool, call.db.get("host", row["host"]))
        sr = call.db.get("SR", row["SR"])
        others = [pbd for pbd in (call.db.find("PBD", r) for r in sr["PBDs"]) if pbd is not None and pbd is not row]
        if not sr["shared"]:
            for other in others:
                if other["currently_attached"]:
                    raise refuse("SR_NOT_SHARABLE", sr.ref, other["host"])
        yield call.pool.durations.device
        host.check()
        call.db.write(row, currently_attached=True)
    return ""


@verb("currently_attached")
def unplug(call: Call, ref: str) -> Steps:
    row = call.db.get("PBD", ref)
    if row["currently_attached"]:
        host = hosts.contact(call.pool, call.db.get("host", row["host"]))
        used = list(dict.fromkeys(_used(call, row)))
        if used:
            raise refuse("VDI_IN_USE", *used)
        yield call.pool.durations.device
        host.check()
        call.db.write(row, currently_attached=False)
    return ""


def _used(call: Call, pbd: Row) -> list[str]:
    """The disks behind a PBD that VMs on its host use; suspended VMs are on no host, so theirs are not in the way."""
    used = []
    for vm in (call.db.get("VM", vm) for vm in call.db.get("host", pbd["host"])["resident_VMs"]):
        for vbd in call.pool.vbds(vm):
            vdi = call.db.find("VDI", vbd["VDI"])
            if vdi is not None and (vbd["currently_attached"] or vbd["reserved"]) and vdi["SR"] == pbd["SR"]:
                used.append(vdi.ref)
    return used


@verb("*")
def create(call: Call, args: dict[str, object]) -> str:
    sr, host = call.db.get("SR", str(args["SR"])), call.db.get("host", str(args["host"]))
    for other in (call.db.get("PBD", ref) for ref in sr["PBDs"]):
        if other["host"] == host.ref:
            raise refuse("PBD_EXISTS", sr.ref, host.ref, other.ref)
    return make(call, "PBD", args, currently_attached=False, other_config={}).ref


@verb("*")
def destroy(call: Call, ref: str) -> str:
    row = call.db.get("PBD", ref)
    if row["currently_attached"]:
        raise refuse("OPERATION_NOT_ALLOWED", "PBD is currently attached")
    call.db.delete(row)
    return ""
