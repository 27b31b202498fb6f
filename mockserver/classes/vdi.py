"""Virtual disk images: made, resized, destroyed."""

from __future__ import annotations

from typing import Any

from ..call import Call, refuse
from ..store import NULL, Row
from . import verbs_of
from .generic import make

verb = verbs_of("VDI")


def _reachable(call: Call, sr: Row) -> None:
    """Some host must have the storage plugged: of several the master."""
    pbds = [call.db.get("PBD", pbd) for pbd in sr["PBDs"]]
    master = call.db.pool()["master"]
    serving = [pbd for pbd in pbds if len(pbds) == 1 or pbd["host"] == master]
    if not any(pbd["currently_attached"] for pbd in serving):
        raise refuse("SR_HAS_NO_PBDS", sr.ref)


def _unused(call: Call, vdi: Row, operation: str) -> None:
    if any(vbd["currently_attached"] or vbd["reserved"] for vbd in (call.db.get("VBD", v) for v in vdi["VBDs"])):
        raise refuse("VDI_IN_USE", vdi.ref, operation)


@verb("*")
def create(call: Call, args: dict[str, Any]) -> str:
    _reachable(call, call.db.get("SR", args["SR"]))
    uuid = call.pool.new_uuid()
    more = {"uuid": uuid, "location": uuid, "managed": True, "physical_utilisation": args["virtual_size"]}
    row = make(call, "VDI", args, **more)
    call.pool.add_disk(uuid)
    return row.ref


@verb("virtual_size")
def resize(call: Call, vdi: str, size: int) -> str:
    row = call.db.get("VDI", vdi)
    _reachable(call, call.db.get("SR", row["SR"]))
    _unused(call, row, "resize")
    call.db.write(row, virtual_size=size)
    return ""


@verb("*", "VBD.*", "VM.suspend_VDI")
def destroy(call: Call, ref: str) -> str:
    row = call.db.get("VDI", ref)
    if not row["managed"]:
        raise refuse("VDI_NOT_MANAGED", ref)
    _reachable(call, call.db.get("SR", row["SR"]))
    _unused(call, row, "destroy")
    for vbd in [call.db.get("VBD", v) for v in row["VBDs"]]:
        call.db.delete(vbd)
    for vm in call.db.table("VM").values():
        if vm["suspend_VDI"] == ref:
            call.db.write(vm, suspend_VDI=NULL)
    call.pool.disks.pop(row["uuid"], None)
    call.db.delete(row)
    return ""
