"""A VM copied: its record, its devices, and its disks with what is on them; and a VM dropped."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from . import guests, vdis, volumes, vtpms
from .addresses import made_up_mac
from .call import Call, Steps
from .licence import assert_has_vendor_device
from .machine.disks import unaddressed
from .records import as_text
from .store import EPOCH, NULL, Row

if TYPE_CHECKING:
    from collections.abc import Collection, Generator, Iterator

    from .call import Wait

WRITES = (
    *("*", "VBD.*", "VIF.*", "VGPU.*", *vtpms.HOLDS, "VBD_metrics.*", "VIF_metrics.*", "VM_metrics.*"),
    *("VM_guest_metrics.*", "message.*", *vdis.WRITES),
)
"""What making a copy of a VM may write."""

OWNER = "owner"
"""The key in `VBD.other_config` of a disk that goes with its VM."""
OURS_ALONE = ("default_template", "xensource_internal")
"""The keys in `other_config` that a copy does not have."""

RESET: dict[str, Any] = {
    "allowed_operations": [],
    "blocked_operations": {},
    "blobs": {},
    "groups": [],
    **dict.fromkeys(("resident_on", "scheduled_to_be_resident_on", "suspend_VDI", "suspend_SR", "appliance"), NULL),
    **dict.fromkeys(("protection_policy", "snapshot_schedule", "snapshot_of", "parent"), NULL),
    **dict.fromkeys(("start_delay", "shutdown_delay", "order", "version"), 0),
    **dict.fromkeys(("is_default_template", "ha_always_run", "requires_reboot", "is_a_snapshot"), False),
    **dict.fromkeys(("is_snapshot_from_vmpp", "is_vmss_snapshot"), False),
    **dict.fromkeys(("domarch", "transportable_snapshot_id", "snapshot_metadata"), ""),
    **{
        key: []
        for key in (
            "pending_guidances",
            "pending_guidances_recommended",
            "pending_guidances_full",
            "recommended_guidances",
        )
    },
    "domid": -1,
    "snapshot_time": EPOCH,
    "snapshot_info": {},
}
"""What a copy has in the place of what its source has; all other fields are the same."""


@dataclass(frozen=True)
class Copy:
    """How to copy: the operation's name; whether to a snapshot; to which storage (None: where each disk is)."""

    operation: str
    snapshot: bool = False
    sr: Row | None = None

    def power_state(self, source: str) -> str:
        """The power state of a copy of a VM in `source`."""
        keeps = {"checkpoint": ("Running", "Suspended"), "snapshot": ()}.get(self.operation, ("Suspended",))
        return "Suspended" if source in keeps else "Halted"


def duplicate(
    call: Call, vm: Row, name: str, how: Copy, *, leave_out: Collection[str] = (), info: dict[str, str] | None = None
) -> Generator[float | Wait, None, Row]:
    """A copy of `vm`, without the disks in `leave_out`. `info` is what a snapshot tells of itself in the place of what it
    finds. What was copied is dropped where something fails."""
    if vm.get("has_vendor_device") and not how.snapshot:
        assert_has_vendor_device(call)
    state, goal = how.power_state(vm["power_state"]), call.goal
    made: list[Row] = []
    try:
        disks = yield from _copy_disks(call, list(_devices(call, vm, leave_out)), how, made)
        image = call.db.find("VDI", vm["suspend_VDI"]) if how.operation != "snapshot" else None
        if image is not None:
            call.goal = goal
            image = yield from _copy_disk(call, image, how)
            made.append(image)
        before = as_text(call.db, vm) if how.snapshot and "snapshot_metadata" in vm else ""
    except BaseException:
        for vdi in made:
            volumes.discard(call, vdi)
        raise
    new = _copy_record(call, vm, name, how, state)
    if how.snapshot:
        told = snapshot_info(vm) if info is None else info
        taken = {"snapshot_of": vm.ref, "snapshot_time": call.clock.stamp(), "parent": vm.get("parent") or NULL}
        more = {"is_a_snapshot": True, "is_a_template": True, "snapshot_info": told}
        call.db.write(new, **taken, **more, snapshot_metadata=before)
        call.db.write(vm, parent=new.ref)
    for vbd, disk in disks:
        copy_vbd(call, new, vbd, disk)
    copy_rest(call, vm, new, same_macs=how.snapshot)
    guest = call.pool.guest(new)
    guest.resume_from(call.pool.guest(vm), own_disks(call, new))
    if not how.snapshot and guest.agent is not None:
        guest.agent = unaddressed(guest.agent)
    call.db.write(new, suspend_VDI=image.ref if image is not None else NULL, current_operations={})
    return new


def snapshot_info(vm: Row, kind: str = "crash_consistent") -> dict[str, str]:
    """What a snapshot tells of itself that is taken of `vm` as it is now."""
    return {"power-state-at-snapshot": vm["power_state"], "disk-snapshot-type": kind}


def _devices(call: Call, vm: Row, leave_out: Collection[str]) -> Iterator[Row]:
    return (vbd for vbd in call.pool.vbds(vm) if vbd["empty"] or vbd["VDI"] not in leave_out)


def _copy_disks(
    call: Call, vbds: list[Row], how: Copy, made: list[Row]
) -> Generator[float | Wait, None, list[tuple[Row, str]]]:
    """Copy the disks behind block devices, each device with its copy; discs are not copied, but shared."""
    sources = [(vbd, disk_behind(call, vbd)) for vbd in vbds]
    total = sum(vdi["virtual_size"] for _, vdi in sources if vdi is not None) or 1
    first, last, done = call.reached, call.goal, 0
    out = []
    for vbd, vdi in sources:
        if vdi is None:
            out.append((vbd, NULL if vbd["empty"] else vbd["VDI"]))
            continue
        done += vdi["virtual_size"]
        call.goal = first + (last - first) * done / total
        new = yield from _copy_disk(call, vdi, how)
        made.append(new)
        out.append((vbd, new.ref))
    return out


def _copy_disk(call: Call, vdi: Row, how: Copy) -> Steps:
    if how.operation == "copy":
        return (yield from vdis.copy(call, vdi, how.sr or vdis.sr_of(call, vdi)))
    make = vdis.snapshot if how.snapshot else vdis.clone
    return (yield from make(call, vdi))


def disk_behind(call: Call, vbd: Row) -> Row | None:
    """The disk that a block device is of; None for a drive of discs."""
    return None if vbd["empty"] or vbd["type"] == "CD" else call.db.find("VDI", vbd["VDI"])


def own_disks(call: Call, vm: Row) -> Iterator[Any]:
    """The contents of the disks that `vm` may write to."""
    for vbd in call.pool.vbds(vm):
        disk = call.pool.disk_of(vbd["VDI"])
        if disk is not None and vbd["mode"] == "RW" and vbd["type"] != "CD":
            yield disk


# --- records


def _copy_record(call: Call, vm: Row, name: str, how: Copy, state: str) -> Row:
    config = {key: value for key, value in vm["other_config"].items() if key not in OURS_ALONE}
    if not how.snapshot:
        config["mac_seed"] = call.pool.new_uuid()
    if vm["is_a_template"] and "base_template_name" not in config:
        config["base_template_name"] = vm["name_label"]
    fields = {
        **vm,
        **RESET,
        "uuid": call.pool.new_uuid(),
        "name_label": name,
        "power_state": state,
        "current_operations": {call.task: how.operation},
        "other_config": config,
        "generation_id": fresh_generation(call, vm),
        "metrics": _copied(call, "VM_metrics", vm["metrics"]) or _fresh_metrics(call),
        "guest_metrics": _copied(call, "VM_guest_metrics", vm["guest_metrics"]),
    }
    return call.db.create("VM", call.pool.new_ref(), fields)


def fresh_generation(call: Call, vm: Row) -> str:
    """A new generation of a VM, by which a guest notices that it was copied or taken back; one that has none gets none."""
    if not vm.get("generation_id"):
        return ""
    return f"{call.pool.random.getrandbits(63)}:{call.pool.random.getrandbits(63)}"


def _copied(call: Call, table: str, ref: str) -> str:
    """A copy of one row under another uuid; NULL where there is none."""
    row = call.db.find(table, ref)
    if row is None:
        return "" if table == "VM_metrics" else NULL
    return call.db.create(table, call.pool.new_ref(), {**row, "uuid": call.pool.new_uuid()}).ref


def _fresh_metrics(call: Call) -> str:
    return call.db.create("VM_metrics", call.pool.new_ref(), {"uuid": call.pool.new_uuid()}).ref


def copy_metrics(call: Call, source: Row, vm: Row) -> None:
    """Put copies of the metrics of `source` in the place of those that `vm` has."""
    for field, table in (("metrics", "VM_metrics"), ("guest_metrics", "VM_guest_metrics")):
        old = call.db.find(table, vm[field])
        if old is not None:
            call.db.delete(old)
        call.db.write(vm, **{field: _copied(call, table, source[field]) or NULL})


# --- devices


def copy_vbd(call: Call, vm: Row, vbd: Row, vdi: str) -> Row:
    """A block device of `vm` like `vbd`, of the disk `vdi`. A disk goes with its VM."""
    owned = {OWNER: "", **vbd["other_config"]} if vbd["type"] == "Disk" else vbd["other_config"]
    fields = {
        **vbd,
        **_device(call, vm, "VBD"),
        "VDI": vdi,
        "empty": vbd["empty"] or vdi == NULL,
        "other_config": owned,
        "status_code": 0,
        "status_detail": "",
        "runtime_properties": {},
        "storage_lock": False,
    }
    return call.db.create("VBD", call.pool.new_ref(), fields)


def copy_vif(call: Call, vm: Row, vif: Row, *, same_mac: bool) -> Row:
    """A network interface of `vm` like `vif`, with its MAC or with one made up from the VM's own seed."""
    fields = {**vif, **_device(call, vm, "VIF"), "MAC_autogenerated": not same_mac}
    if not same_mac:
        fields["MAC"] = made_up_mac(int(vif["device"]), vm["other_config"]["mac_seed"])
    return call.db.create("VIF", call.pool.new_ref(), fields)


def _device(call: Call, vm: Row, table: str) -> dict[str, Any]:
    """What is new in a copy of a device. It is attached as little as its VM runs."""
    metrics = call.db.create(f"{table}_metrics", call.pool.new_ref(), {"uuid": call.pool.new_uuid()})
    return {
        "uuid": call.pool.new_uuid(),
        "VM": vm.ref,
        "metrics": metrics.ref,
        "allowed_operations": [],
        "current_operations": {},
        "reserved": False,
        "reserved_pci": NULL,
        **({} if vm["power_state"] == "Suspended" else {"currently_attached": False}),
    }


def copy_rest(call: Call, source: Row, vm: Row, *, same_macs: bool) -> None:
    """Copies for `vm` of the devices of `source` that are no disks."""
    for vif in [call.db.find("VIF", ref) for ref in source["VIFs"]]:
        if vif is not None:
            copy_vif(call, vm, vif, same_mac=same_macs)
    for vgpu in call.db.rows("VGPU", source.get("VGPUs", ())):
        free = {"currently_attached": False, "resident_on": NULL, "scheduled_to_be_resident_on": NULL}
        fields = {**vgpu, **free, "uuid": call.pool.new_uuid(), "VM": vm.ref, "PCI": NULL}
        call.db.create("VGPU", call.pool.new_ref(), fields)
    vtpms.copy_all(call.pool, source, vm)


# --- the end of one

ERASED = (
    *("*", "VBD.*", "VIF.*", "VGPU.*", "VUSB.*", *vtpms.HOLDS, "console.*", "blob.*", "PCI.attached_VMs"),
    *("VM_metrics.*", "VM_guest_metrics.*", "VBD_metrics.*", "VIF_metrics.*"),
)
"""What is written where a VM goes."""


def erase(call: Call, vm: Row) -> None:
    """Drop a VM with its devices; its disks stay, and so does its suspend image. What was made from it is its parent's."""
    db = call.db
    for child in [db.find("VM", child) for child in vm.get("children", ())]:
        if child is not None:
            db.write(child, parent=vm["parent"] or NULL)
    for table in ("VBD", "VIF"):
        for device in [db.find(table, device) for device in vm[f"{table}s"]]:
            if device is not None:
                volumes.drop_device(call, device)
    guests.placeless(call.pool, vm)
    dropped = [("VM_metrics", vm["metrics"]), ("VM_guest_metrics", vm["guest_metrics"])]
    dropped += [("console", console) for console in vm["consoles"]]
    dropped += [("blob", blob) for blob in vm.get("blobs", {}).values()]
    dropped += [(table, device) for table in ("VGPU", "VUSB") for device in vm.get(f"{table}s", ())]
    for table, found in dropped:
        old = db.find(table, found)
        if old is not None:
            db.delete(old)
    for vtpm in db.rows("VTPM", vm.get("VTPMs", ())):
        vtpms.erase(db, vtpm)
    db.delete(vm)
