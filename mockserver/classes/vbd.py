"""Virtual block devices: media in and out, disks plugged and unplugged."""

from __future__ import annotations

import re
from typing import Any

from .. import hosts
from ..call import Call, Steps, refuse
from ..checks import assert_not_migrating, refresh_vbd, vbd_operation
from ..store import NULL, Row
from . import verbs_of
from .generic import make

verb = verbs_of("VBD")

MARKS = ("current_operations", "allowed_operations")
DEVICE = re.compile(r"[hsx]v?d([a-p])\Z|(\d{1,3})\Z")


def _host(call: Call, vm: Row) -> hosts.Contact | None:
    """The host on which the device of a running VM is changed."""
    if vm["power_state"] not in ("Running", "Paused"):
        return None
    return hosts.contact(call.pool, call.db.get("host", vm["resident_on"]))


@verb("VDI", "empty", *MARKS)
def eject(call: Call, vbd: str) -> Steps:
    row = call.db.get("VBD", vbd)
    with vbd_operation(call, row, "eject"):
        host = _host(call, call.db.get("VM", row["VM"]))
        if host is not None:
            yield call.pool.durations.device
            host.check()
        call.db.write(row, VDI=NULL, empty=True)
    return ""


@verb("VDI", "empty", *MARKS)
def insert(call: Call, vbd: str, vdi: str) -> Steps:
    row, disc = call.db.get("VBD", vbd), call.db.get("VDI", vdi)
    with vbd_operation(call, row, "insert"):
        vm, sr = call.db.get("VM", row["VM"]), call.db.get("SR", disc["SR"])
        if sr["content_type"] != "iso":
            raise refuse("VDI_IS_NOT_ISO", vdi, disc["type"])
        host = _host(call, vm)
        if host is not None:
            pbds = (call.db.get("PBD", pbd) for pbd in sr["PBDs"])
            if not any(pbd["host"] == vm["resident_on"] and pbd["currently_attached"] for pbd in pbds):
                raise refuse("VM_REQUIRES_SR", vm.ref, sr.ref)
            yield call.pool.durations.device
            host.check()
        call.db.write(row, VDI=vdi, empty=False)
    return ""


@verb("currently_attached", *MARKS)
def plug(call: Call, ref: str) -> Steps:
    row = call.db.get("VBD", ref)
    with vbd_operation(call, row, "plug"):
        vm = call.db.get("VM", row["VM"])
        host = _host(call, vm)
        assert host is not None
        yield call.pool.durations.device
        host.check()
        found, disk = call.pool.domain(vm), call.pool.disk_of(row["VDI"])
        if found is not None and disk is not None and row["mode"] == "RW":
            found[1].open(disk, call.clock.now())
        call.db.write(row, currently_attached=True)
    return ""


@verb("currently_attached", *MARKS)
def unplug(call: Call, ref: str) -> Steps:
    row = call.db.get("VBD", ref)
    with vbd_operation(call, row, "unplug"):
        vm = call.db.get("VM", row["VM"])
        host = _host(call, vm)
        assert host is not None
        yield call.pool.durations.device
        host.check()
        found, disk = call.pool.domain(vm), call.pool.disk_of(row["VDI"])
        if found is not None and disk is not None:
            found[1].close(disk, call.clock.now())
        call.db.write(row, currently_attached=False)
    return ""


@verb("mode", "allowed_operations")
def set_mode(call: Call, ref: str, value: str) -> str:
    row = call.db.get("VBD", ref)
    vm = call.db.get("VM", row["VM"])
    if vm["power_state"] != "Halted":
        raise refuse("VM_BAD_POWER_STATE", vm.ref, "halted", vm["power_state"].lower())
    call.db.write(row, mode=value)
    return ""


@verb("*")
def create(call: Call, args: dict[str, Any]) -> str:
    vm = call.db.get("VM", args["VM"])
    assert_not_migrating(vm)
    cd, empty = args["type"] == "CD", args["empty"]
    if cd and args["mode"] != "RO":
        raise refuse("VBD_CDS_MUST_BE_READONLY")
    if empty and not cd:
        raise refuse("VBD_NOT_REMOVABLE_MEDIA", "in constructor")
    if not empty:
        vdi = call.db.get("VDI", args["VDI"])
        if args["mode"] == "RW" and vdi["read_only"]:
            raise refuse("VDI_READONLY", vdi.ref)
    device = _device(call, vm, args["userdevice"])
    row = make(
        call, "VBD", args, userdevice=device, VDI=NULL if empty else args["VDI"], currently_attached=False, device=""
    )
    refresh_vbd(call.db, row)
    return row.ref


def _device(call: Call, vm: Row, wanted: str) -> str:
    """The device number to take: the lowest free one for `autodetect`, else the one wanted if nothing has it."""
    taken = {_number(vbd["userdevice"]) for vbd in call.pool.vbds(vm)}
    if wanted == "autodetect":
        return next(str(n) for n in range(256) if n not in taken)
    number = _number(wanted)
    if number is None:
        raise refuse("INVALID_DEVICE", wanted)
    if number in taken:
        raise refuse("DEVICE_ALREADY_EXISTS", wanted)
    return wanted


def _number(device: str) -> int | None:
    """The number behind a device: `0`, `hda` and `xvda` are one."""
    match = DEVICE.fullmatch(device)
    if match is None:
        return None
    letter, digits = match.groups()
    return ord(letter) - ord("a") if letter else int(digits) if int(digits) < 256 else None


@verb("*", "VBD_metrics.*")
def destroy(call: Call, ref: str) -> str:
    row = call.db.get("VBD", ref)
    if row["currently_attached"] or row["reserved"]:
        vm = call.db.get("VM", row["VM"])
        raise refuse("OPERATION_NOT_ALLOWED", f"VBD '{row['uuid']}' still attached to '{vm['uuid']}'")
    metrics = call.db.find("VBD_metrics", row["metrics"])
    if metrics is not None:
        call.db.delete(metrics)
    call.db.delete(row)
    return ""
