"""Groups of USB devices: of each VMs may have one."""

from __future__ import annotations

from typing import Any

from .. import passthrough
from ..call import Call
from . import verbs_of
from .generic import make

verb = verbs_of("USB_group")


@verb("*")
def create(call: Call, label: str, text: str, other_config: dict[str, str]) -> str:
    args: dict[str, Any] = {"name_label": label, "name_description": text, "other_config": other_config}
    return make(call, "USB_group", args).ref


@verb("*", "VUSB.*")
def destroy(call: Call, ref: str) -> str:
    """Virtual devices that are not attached go with their group."""
    passthrough.drop_group(call.db, call.db.get("USB_group", ref), "VUSB", "PUSB")
    return ""
