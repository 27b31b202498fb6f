"""Virtual graphics of VMs: a whole card of a host, or a part of one."""

from __future__ import annotations

from xenctl.releases import find

from .. import passthrough, rules
from ..call import Call, refuse
from ..licence import restricted
from ..store import NULL, Row
from . import verbs_of
from .generic import make

verb = verbs_of("VGPU")

DEVICES = 21
"""How many places the bus of a guest has for graphics; 0 asks for the first that is free."""
SNAPSHOTS_HAVE = find("8.0.0").order
"""The release since which snapshots, whatever their power state, are given virtual graphics."""


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
    _assert_off(call, row)
    several = call.at_least(rules.QUEBEC)
    if not several and device != "0":
        raise refuse("INVALID_DEVICE", device)
    typed = {"type": _type(call, kind)} if "VGPU_type" in db.tables else {}
    if several:
        _assert_together(call, row, typed["type"])
    fields = {"VM": vm, "GPU_group": group, "other_config": other_config}
    return make(call, "VGPU", fields, device=_place(call, row, device, several=several), **typed).ref


def _assert_off(call: Call, vm: Row) -> None:
    """Since 7.0: before, a VM in any state was given graphics, which it had from its next start on."""
    exempt = vm["is_a_snapshot"] and call.at_least(SNAPSHOTS_HAVE)
    if call.at_least(rules.DUNDEE) and not exempt and vm["power_state"] != "Halted":
        raise refuse("VM_BAD_POWER_STATE", vm.ref, "halted", vm["power_state"].lower())


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
    """Raise where a VM has virtual graphics that want no others of this type beside them."""
    for vgpu in passthrough.vgpus_of(call.db, vm):
        other = call.db.find("VGPU_type", vgpu["type"])
        if other is None or kind not in other.get("compatible_types_in_vm", ()):
            raise refuse("VGPU_TYPE_NOT_COMPATIBLE", kind)


def _place(call: Call, vm: Row, device: str, *, several: bool) -> str:
    """Where the graphics come to: up to 8.0 there is one place, and `several` since then."""
    taken = {int(vgpu["device"]) for vgpu in passthrough.vgpus_of(call.db, vm)}
    try:
        place = int(device)
    except ValueError:
        raise refuse("INTERNAL_ERROR", 'Failure("int_of_string")') from None
    if several and place == 0:
        free = next((place for place in range(DEVICES) if place not in taken), None)
        if free is None:
            raise refuse("VM_PCI_BUS_FULL", vm.ref)
        return str(free)
    if place in taken:
        raise refuse("DEVICE_ALREADY_EXISTS", device)
    if place not in range(DEVICES):
        raise refuse("INVALID_DEVICE", device)
    return device


@verb("*")
def destroy(call: Call, ref: str) -> str:
    """Graphics that a VM which is on does not have; up to 6.2, which it does not use."""
    row = call.db.get("VGPU", ref)
    on = call.db.get("VM", row["VM"])["power_state"] in ("Running", "Paused")
    if on and (row["currently_attached"] or call.at_least(rules.CREAM)):
        raise refuse("OPERATION_NOT_ALLOWED", "vGPU currently attached to a running VM")
    call.db.delete(row)
    return ""


@verb("resident_on", "scheduled_to_be_resident_on")
def atomic_set_resident_on(call: Call, ref: str, value: str) -> str:
    """A toolstack says on which card it came up."""
    call.db.write(call.db.get("VGPU", ref), resident_on=value, scheduled_to_be_resident_on=NULL)
    return ""
