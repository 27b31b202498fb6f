"""USB devices of hosts: found in their ports, and given to VMs or kept."""

from __future__ import annotations

from dataclasses import asdict

from .. import hosts, volumes
from ..call import Call, Steps, refuse
from ..store import Row
from . import verbs_of
from .generic import make
from .sr import scan as scan_sr

verb = verbs_of("PUSB")

FOUND = ("*", "USB_group.*", "VUSB.*")


@verb(*FOUND)
def scan(call: Call, host: str) -> Steps:
    """Records of what is in a host's ports, each in a group of its own; those of what was pulled out go with theirs."""
    row = call.db.get("host", host)
    contact = hosts.contact(call.pool, row)
    yield call.pool.durations.device
    plugged = {device.identity: device for device in contact.check().usbs}
    for pusb in [call.db.get("PUSB", ref) for ref in row["PUSBs"]]:
        device = plugged.pop((pusb["path"], pusb["vendor_id"], pusb["product_id"], pusb["serial"]), None)
        if device is None:
            _drop(call, pusb)
        elif pusb.get("speed", 0.0) < 0:
            call.db.write(pusb, speed=device.speed)
    known = call.db.shape("PUSB").fields
    for device in plugged.values():
        label = f"Group of {device.vendor_id} {device.product_id} USBs"
        group = make(call, "USB_group", {"name_label": label})
        fields = {name: value for name, value in asdict(device).items() if name in known}
        make(call, "PUSB", fields, host=host, USB_group=group.ref)
    return ""


def _drop(call: Call, pusb: Row) -> None:
    group = call.db.get("USB_group", pusb["USB_group"])
    for vusb in [call.db.get("VUSB", ref) for ref in group["VUSBs"]]:
        call.db.delete(vusb)
    call.db.delete(pusb)
    call.db.delete(group)


@verb("passthrough_enabled", "VUSB.*", "VDI.*", "SR.*", *volumes.GONE)
def set_passthrough_enabled(call: Call, ref: str, value: bool) -> Steps:
    """A device that VMs may have is no disk of the host; taken back from them, it is one again."""
    row, db = call.db.get("PUSB", ref), call.db
    removable = [
        sr
        for sr in db.table("SR").values()
        if sr["type"] == "udev" and any(db.get("PBD", pbd)["host"] == row["host"] for pbd in sr["PBDs"])
    ]
    hosts.contact(call.pool, db.get("host", row["host"]))
    if value:
        _hide_disks(call, row, removable)
    else:
        vusbs = [db.get("VUSB", vusb) for vusb in db.get("USB_group", row["USB_group"])["VUSBs"]]
        if len(vusbs) > 1:
            raise refuse("INTERNAL_ERROR", f"too many vusb on the USB_group: {row['USB_group']}")
        for vusb in vusbs:
            if vusb["currently_attached"]:
                raise refuse("USB_ALREADY_ATTACHED", ref, vusb["VM"])
            db.delete(vusb)
    db.write(row, passthrough_enabled=value)
    for sr in removable if not value else ():
        yield from scan_sr(call, sr.ref)
    return ""


def _hide_disks(call: Call, pusb: Row, removable: list[Row]) -> None:
    disks = [call.db.get("VDI", vdi) for sr in removable for vdi in sr["VDIs"]]
    own = [vdi for vdi in disks if vdi["sm_config"].get("usb_path") == pusb["path"]]
    for vdi in own:
        if vdi["VBDs"]:
            raise refuse("PUSB_VDI_CONFLICT", pusb.ref, vdi.ref)
    for vdi in own:
        uuid, sr = vdi["uuid"], call.db.get("SR", vdi["SR"])["uuid"]
        sm_config = dict(vdi["sm_config"])
        volumes.forget(call, vdi)
        if uuid in call.pool.storage.forgotten.get(sr, {}):
            call.pool.storage.forgotten[sr][uuid]["sm_config"] = sm_config
