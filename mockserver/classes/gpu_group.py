"""Groups of graphics cards of a kind, of which a VM is given any."""

from __future__ import annotations

from typing import Any

from xenctl.errors import Failure

from .. import passthrough
from ..call import Call
from . import verbs_of
from .generic import make

verb = verbs_of("GPU_group")

GROUPED = ("GPU_group.enabled_VGPU_types", "GPU_group.supported_VGPU_types")
"""What a change of a card may write of its group."""


@verb("*")
def create(call: Call, label: str, text: str, other_config: dict[str, str]) -> str:
    args: dict[str, Any] = {"name_label": label, "name_description": text, "other_config": other_config}
    return make(call, "GPU_group", args).ref


@verb("*", "VGPU.*")
def destroy(call: Call, ref: str) -> str:
    """Virtual graphics that are not attached go with their group."""
    passthrough.drop_group(call.db, call.db.get("GPU_group", ref), "VGPU", "PGPU")
    return ""


def update_group(call: Call, ref: str, *which: str) -> None:
    """Write down what the cards of a group have together: `enabled` or `supported` types."""
    group = call.db.find("GPU_group", ref)
    for word in which if group is not None and "enabled_VGPU_types" in group else ():
        assert group is not None
        field = f"{word}_VGPU_types"
        types = {kind for pgpu in group["PGPUs"] for kind in call.db.get("PGPU", pgpu)[field]}
        call.db.write(group, **{field: sorted(types)})


@verb("enabled_VGPU_types")
def update_enabled_VGPU_types(call: Call, ref: str) -> str:
    update_group(call, call.db.get("GPU_group", ref).ref, "enabled")
    return ""


@verb("supported_VGPU_types")
def update_supported_VGPU_types(call: Call, ref: str) -> str:
    update_group(call, call.db.get("GPU_group", ref).ref, "supported")
    return ""


@verb()
def get_remaining_capacity(call: Call, ref: str, vgpu_type: str) -> int:
    """How many more virtual graphics of a type its cards would take together."""
    left = passthrough.group_capacity(call.db, call.db.get("GPU_group", ref), vgpu_type)
    return 0 if isinstance(left, Failure) else left
