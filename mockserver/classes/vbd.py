"""Virtual block devices: media in and out."""

from __future__ import annotations

from typing import Any

from ..call import Call, Steps, refuse
from ..store import NULL, Row
from . import verbs_of
from .generic import make

verb = verbs_of("VBD")


def _removable(call: Call, vbd: Row, *, empty: bool) -> Row:
    """The VM of a CD drive in the right state."""
    if vbd["type"] != "CD":
        raise refuse("VBD_NOT_REMOVABLE_MEDIA", vbd.ref)
    if empty and vbd["empty"]:
        raise refuse("VBD_IS_EMPTY", vbd.ref)
    if not empty and not vbd["empty"]:
        raise refuse("VBD_NOT_EMPTY", vbd.ref)
    vm = call.db.get("VM", vbd["VM"])
    if vm["power_state"] == "Suspended":
        raise refuse("VM_BAD_POWER_STATE", vm.ref, "halted, running", "suspended")
    return vm


@verb("VDI", "empty")
def eject(call: Call, vbd: str) -> Steps:
    row = call.db.get("VBD", vbd)
    if _removable(call, row, empty=True)["power_state"] == "Running":
        yield call.pool.durations.device
    call.db.write(row, VDI=NULL, empty=True)
    return ""


@verb("VDI", "empty")
def insert(call: Call, vbd: str, vdi: str) -> Steps:
    row, disc = call.db.get("VBD", vbd), call.db.get("VDI", vdi)
    vm = _removable(call, row, empty=False)
    sr = call.db.get("SR", disc["SR"])
    if sr["content_type"] != "iso":
        raise refuse("VDI_IS_NOT_ISO", vdi, disc["type"])
    if vm["power_state"] == "Running":
        if not any(call.db.get("PBD", pbd)["host"] == vm["resident_on"] for pbd in sr["PBDs"]):
            raise refuse("VM_REQUIRES_SR", vm.ref, sr.ref)
        yield call.pool.durations.device
    call.db.write(row, VDI=vdi, empty=False)
    return ""


@verb("*")
def create(call: Call, args: dict[str, Any]) -> str:
    vm = call.db.get("VM", str(args.get("VM", NULL)))
    device = str(args.get("userdevice", "autodetect"))
    taken = {vbd["userdevice"] for vbd in call.pool.vbds(vm)}
    if device == "autodetect":
        device = next(str(n) for n in range(255) if str(n) not in taken)
    elif device in taken:
        raise refuse("DEVICE_ALREADY_EXISTS", device)
    if args.get("type") == "CD" and args.get("mode") != "RO":
        raise refuse("VBD_CDS_MUST_BE_READONLY")
    if args.get("empty") and args.get("type") != "CD":
        raise refuse("VBD_NOT_REMOVABLE_MEDIA", "in constructor")
    return make(call, "VBD", {**args, "userdevice": device}, currently_attached=False).ref


@verb("*")
def destroy(call: Call, ref: str) -> str:
    row = call.db.get("VBD", ref)
    if row["currently_attached"]:
        vm = call.db.get("VM", row["VM"])
        raise refuse("OPERATION_NOT_ALLOWED", f"VBD '{row['uuid']}' still attached to '{vm['uuid']}'")
    call.db.delete(row)
    return ""
