"""Virtual graphics of VMs: a whole card of a host, or a part of one."""

from __future__ import annotations

from .. import passthrough
from ..call import Call, refuse
from ..licence import restricted
from ..store import NULL, Row
from . import verbs_of
from .generic import make

verb = verbs_of("VGPU")

DEVICES = 21
"""How many places the bus of a guest has for graphics; 0 asks for the first that is free."""


@verb("*", "VGPU_type.*")
def create(
    call: Call,
    vm: str,
    group: str,
    device: str,
    other_config: dict[str, str],
    kind: str,
) -> str:
    row, db = call.db.get("VM", vm), call.db
    if restricted(call, "GPU"):
        raise refuse("FEATURE_RESTRICTED")
    if not row["is_a_snapshot"] and row["power_state"] != "Halted":
        raise refuse("VM_BAD_POWER_STATE", vm, "halted", row["power_state"].lower())
    typed = {}
    if "VGPU_type" in db.tables:
        typed["type"] = _type(call, kind)
        _assert_together(call, row, typed["type"])
    fields = {"VM": vm, "GPU_group": group, "other_config": other_config}
    return make(call, "VGPU", fields, device=_place(call, row, device), **typed).ref


def _type(call: Call, kind: str) -> str:
    """The type that is asked for; a whole card for those who know no types."""
    if kind == NULL:
        found = [row for row in call.db.table("VGPU_type").values() if row["model_name"] == passthrough.WHOLE]
        fields = {"model_name": passthrough.WHOLE, "implementation": passthrough.WHOLE}
        return found[0].ref if found else make(call, "VGPU_type", {}, **fields).ref
    if call.db.find("VGPU_type", kind) is None:
        raise refuse("INVALID_VALUE", "type", kind)
    return kind


def _assert_together(call: Call, vm: Row, kind: str) -> None:
    """Raise where a VM has virtual graphics that want no others of this type beside them; those before 8.0 want none."""
    for vgpu in passthrough.vgpus_of(call.db, vm):
        other = call.db.find("VGPU_type", vgpu["type"])
        if other is None or kind not in other.get("compatible_types_in_vm", ()):
            raise refuse("VGPU_TYPE_NOT_COMPATIBLE", kind)


def _place(call: Call, vm: Row, device: str) -> str:
    taken = {vgpu["device"] for vgpu in passthrough.vgpus_of(call.db, vm)}
    if not device.isdigit():
        raise refuse("INTERNAL_ERROR", 'Failure("int_of_string")')
    if int(device) == 0:
        free = next((str(place) for place in range(DEVICES) if str(place) not in taken), None)
        if free is None:
            raise refuse("VM_PCI_BUS_FULL", vm.ref)
        return free
    if str(int(device)) in taken:
        raise refuse("DEVICE_ALREADY_EXISTS", device)
    if int(device) >= DEVICES:
        raise refuse("INVALID_DEVICE", device)
    return device


@verb("*")
def destroy(call: Call, ref: str) -> str:
    row = call.db.get("VGPU", ref)
    if call.db.get("VM", row["VM"])["power_state"] in ("Running", "Paused"):
        raise refuse("OPERATION_NOT_ALLOWED", "vGPU currently attached to a running VM")
    call.db.delete(row)
    return ""


@verb("resident_on", "scheduled_to_be_resident_on")
def atomic_set_resident_on(call: Call, ref: str, value: str) -> str:
    """A toolstack says on which card it came up."""
    call.db.write(call.db.get("VGPU", ref), resident_on=value, scheduled_to_be_resident_on=NULL)
    return ""
