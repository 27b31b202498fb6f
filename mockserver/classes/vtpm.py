"""Virtual TPMs: made for VMs that are off, with contents that only the control domain sees."""

from __future__ import annotations

from .. import checks, vtpms
from ..call import Call, refuse
from . import verbs_of

verb = verbs_of("VTPM")


@verb("*", "secret.*", "VM.current_operations")
def create(call: Call, vm: str, unique: bool) -> str:
    row = call.db.get("VM", vm)
    with checks.operation(call, row, "create_vtpm"):
        vtpms.assert_may_have(call.db, row)
        return vtpms.make(call.pool, vm, is_unique=unique).ref


@verb("*", "secret.*")
def destroy(call: Call, ref: str) -> str:
    row = call.db.get("VTPM", ref)
    vm = call.db.get("VM", row["VM"])
    if vm["power_state"] != "Halted":
        raise refuse("VM_BAD_POWER_STATE", vm.ref, "halted", vm["power_state"].lower())
    vtpms.erase(call.db, row)
    return ""


@verb()
def get_contents(call: Call, ref: str) -> str:
    """In base64. Raises for one that an older release made, which had none."""
    row = call.db.get("VTPM", ref)
    return str(call.db.get("secret", row["contents"])["value"])


@verb("contents", "secret.*")
def set_contents(call: Call, ref: str, contents: str) -> str:
    """What is told is not looked into."""
    vtpms.fill(call.pool, call.db.get("VTPM", ref), contents)
    return ""
