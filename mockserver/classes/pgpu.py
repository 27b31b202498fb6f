"""Graphics cards of hosts: which virtual graphics each may run, how many more, its group, and who else may use it."""

from __future__ import annotations

from xenctl.errors import Failure

from .. import hosts, passthrough
from ..call import Call, refuse
from ..licence import restricted
from ..store import NULL, Row
from . import verbs_of
from .gpu_group import GROUPED, update_group
from .host_settings import DISPLAY

verb = verbs_of("PGPU")


# --- which types


def _assert_unused(call: Call, pgpu: Row, kind: str) -> None:
    """Raise where a VM has virtual graphics of this type on the card."""
    resident = (call.db.get("VGPU", ref) for ref in pgpu["resident_VGPUs"])
    users = [vgpu["VM"] for vgpu in resident if vgpu["type"] == kind]
    if users:
        raise refuse("PGPU_IN_USE_BY_VM", *users)


def _assert_supported(pgpu: Row, kind: str) -> None:
    if kind not in pgpu["supported_VGPU_types"]:
        raise refuse("VGPU_TYPE_NOT_SUPPORTED", kind, *pgpu["supported_VGPU_types"])


def _enable(call: Call, ref: str, value: list[str]) -> str:
    row, db = call.db.get("PGPU", ref), call.db
    for kind in value:
        if kind not in row["enabled_VGPU_types"]:
            _assert_supported(row, kind)
    for kind in row["enabled_VGPU_types"]:
        if kind not in value:
            _assert_unused(call, row, kind)
    db.write(row, enabled_VGPU_types=list(dict.fromkeys(value)))
    update_group(call, row["GPU_group"], "enabled")
    return ""


@verb("enabled_VGPU_types", *GROUPED)
def set_enabled_VGPU_types(call: Call, ref: str, value: list[str]) -> str:
    return _enable(call, ref, value)


@verb("enabled_VGPU_types", *GROUPED)
def add_enabled_VGPU_types(call: Call, ref: str, value: str) -> str:
    row = call.db.get("PGPU", ref)
    _assert_supported(row, value)
    return _enable(call, ref, [*row["enabled_VGPU_types"], value])


@verb("enabled_VGPU_types", *GROUPED)
def remove_enabled_VGPU_types(call: Call, ref: str, value: str) -> str:
    row = call.db.get("PGPU", ref)
    _assert_unused(call, row, value)
    return _enable(call, ref, [kind for kind in row["enabled_VGPU_types"] if kind != value])


@verb()
def get_remaining_capacity(call: Call, ref: str, vgpu_type: str) -> int:
    """How many more virtual graphics of a type would fit; none where something else is in the way."""
    left = passthrough.capacity(call.db, call.db.get("PGPU", ref), vgpu_type)
    return 0 if isinstance(left, Failure) else left


# --- its group


@verb("GPU_group", "GPU_group.GPU_types", *GROUPED)
def set_GPU_group(call: Call, ref: str, value: str) -> str:
    """Put a card that nobody uses into a group of its kind; a group without a kind takes that of its first card."""
    row, group, db = call.db.get("PGPU", ref), call.db.get("GPU_group", value), call.db
    users = [db.get("VGPU", vgpu)["VM"] for vgpu in row.get("resident_VGPUs", ())]
    if users:
        raise refuse("PGPU_IN_USE_BY_VM", *users)
    card = db.get("PCI", row["PCI"])
    kind = f"{card['vendor_id']}/{card['device_id']}"
    if group["GPU_types"] and kind not in group["GPU_types"]:
        raise refuse("PGPU_NOT_COMPATIBLE_WITH_GPU_GROUP", kind, f"[{', '.join(group['GPU_types'])}]")
    before = row["GPU_group"]
    db.write(row, GPU_group=value)
    db.write(group, GPU_types=group["GPU_types"] or [kind])
    for ref_of_group in (before, value):
        update_group(call, ref_of_group, "enabled", "supported")
    return ""


# --- the control domain's own use


@verb("dom0_access")
def enable_dom0_access(call: Call, ref: str) -> str:
    return _access(call, ref, "enable")


@verb("dom0_access")
def disable_dom0_access(call: Call, ref: str) -> str:
    row = call.db.get("PGPU", ref)
    hosts.reached(call, row["host"])
    if restricted(call, "Integrated_GPU"):
        raise refuse("FEATURE_RESTRICTED")
    return _access(call, ref, "disable")


def _access(call: Call, ref: str, action: str) -> str:
    """What is asked takes effect when the host boots; every record of the same card says so."""
    row, db = call.db.get("PGPU", ref), call.db
    hosts.contact(call.pool, db.get("host", row["host"]))
    access: str = DISPLAY[action].get(row["dom0_access"], row["dom0_access"])
    for other in db.table("PGPU").values():
        if other is row or (row["PCI"] != NULL and other["PCI"] == row["PCI"]):
            db.write(other, dom0_access=access)
    return access
