"""Virtual USB devices: the port of a VM in which a device of its host is."""

from __future__ import annotations

from .. import hosts, passthrough
from ..call import Call, Steps, refuse
from ..holding import Marked, assert_free
from ..licence import assert_enabled
from . import verbs_of
from .generic import make

verb = verbs_of("VUSB")

MOST = 6
"""How many a VM may have."""
PROTECTED = "restart"


@verb("*")
def create(call: Call, vm: str, group: str, other_config: dict[str, str]) -> str:
    row, devices = call.db.get("VM", vm), call.db.get("USB_group", group)
    assert_enabled(call, "USB_passthrough")
    if len(row["VUSBs"]) >= MOST:
        raise refuse("TOO_MANY_VUSBS", MOST)
    if devices["VUSBs"]:
        raise refuse("USB_GROUP_CONFLICT", group)
    if row["ha_restart_priority"] == PROTECTED:
        text = f"VM {vm} ha_restart_priority has been set to 'restart', cannot create VUSB for it. "
        raise refuse("OPERATION_NOT_ALLOWED", text)
    return make(call, "VUSB", {"VM": vm, "USB_group": group, "other_config": other_config}).ref


@verb("currently_attached", "current_operations")
def unplug(call: Call, ref: str) -> Steps:
    row = call.db.get("VUSB", ref)
    assert_free(call, row, "unplug", passthrough.vusb_refused)
    with Marked(call, row, "unplug"):
        vm = call.db.get("VM", row["VM"])
        contact = hosts.reached(call, vm["resident_on"])
        yield call.pool.durations.device
        contact.check()
        call.db.write(row, currently_attached=False)
    return ""


@verb("*")
def destroy(call: Call, ref: str) -> str:
    row = call.db.get("VUSB", ref)
    vm = call.db.get("VM", row["VM"])
    if row["currently_attached"]:
        raise refuse("OPERATION_NOT_ALLOWED", f"VUSB '{row['uuid']}' still attached to '{vm['uuid']}'")
    call.db.delete(row)
    return ""
