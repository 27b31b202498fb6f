"""Virtual block devices: media in and out, disks plugged and unplugged."""

from __future__ import annotations

from typing import Any

from xenctl.errors import Failure

from .. import block_devices, hosts, rules, storage_rules, volumes
from ..agility import assert_stays_agile
from ..call import Call, Steps, refuse
from ..checks import assert_not_migrating, is_hvm, vbd_operation, vbd_refused
from ..store import NULL, Row
from . import verbs_of
from .generic import make

verb = verbs_of("VBD")

MARKS = ("current_operations",)
TYPES: dict[str, tuple[int, ...]] = {
    **dict.fromkeys("system user ephemeral suspend crashdump".split(), rules.ALWAYS),
    "metadata": rules.BOSTON,
    "rrd": rules.DUNDEE,
    "pvs_cache": rules.ELY,
}
"""The types of disks that VMs may have, and since when."""
BACKEND = "backend-kind"
"""The key by which storage has a say in how its disks are served, since 7.0."""


def _host(call: Call, vm: Row) -> hosts.Contact | None:
    """The host on which the device of a running VM is changed."""
    if vm["power_state"] not in ("Running", "Paused"):
        return None
    return hosts.reached(call, vm["resident_on"])


@verb("VDI", "empty", *MARKS)
def eject(call: Call, vbd: str) -> Steps:
    row = call.db.get("VBD", vbd)
    with vbd_operation(call, row, "eject"):
        vm = call.db.get("VM", row["VM"])
        _assert_awake(vm)
        host = _host(call, vm)
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
        _assert_awake(vm)
        _assert_disc(call, disc)
        if not disc["managed"]:
            raise refuse("VDI_NOT_MANAGED", vdi)
        assert_stays_agile(call.db, vm, disc)
        host = _host(call, vm)
        if host is not None:
            pbds = (call.db.get("PBD", pbd) for pbd in sr["PBDs"])
            if not any(pbd["host"] == vm["resident_on"] and pbd["currently_attached"] for pbd in pbds):
                raise refuse("VM_REQUIRES_SR", vm.ref, sr.ref)
            host.needs(sr, disc)
            yield call.pool.durations.device
            host.check()
        call.db.write(row, VDI=vdi, empty=False)
    return ""


def _assert_awake(vm: Row) -> None:
    """Raise for a suspended VM, as releases up to 6.0 did here; the later ones do not come this far."""
    if vm["power_state"] == "Suspended":
        raise refuse("VM_BAD_POWER_STATE", vm.ref, "running", "suspended")


def _assert_disc(call: Call, vdi: Row) -> None:
    """Raise for what is in no library of discs; since 7.0 any disk may be in a drive."""
    kind = call.db.get("SR", vdi["SR"])["content_type"]
    if kind != "iso" and not call.at_least(rules.DUNDEE):
        raise refuse("VDI_IS_NOT_ISO", vdi.ref, kind)


@verb("currently_attached", "device", *MARKS)
def plug(call: Call, ref: str) -> Steps:
    row = call.db.get("VBD", ref)
    with vbd_operation(call, row, "plug"):
        vm = call.db.get("VM", row["VM"])
        host = _host(call, vm)
        assert host is not None
        if is_hvm(vm) and row["type"] != "CD" and row["mode"] == "RO" and call.at_least(rules.TAMPA):
            raise refuse("DISK_VBD_MUST_BE_READWRITE_FOR_HVM", ref)
        name = block_devices.name_in(vm, row["userdevice"], host.machine.system.release)
        if not row["empty"]:
            vdi = call.db.get("VDI", row["VDI"])
            volumes.content(call, vdi)
            sr = call.db.get("SR", vdi["SR"])
            host.needs(sr, vdi)
            if vm["is_control_domain"] and call.at_least(rules.BOSTON):
                name = block_devices.path_of(sr, vdi)
        yield call.pool.durations.device
        host.check()
        found, disk = call.pool.domain(vm), call.pool.disk_of(row["VDI"])
        if found is not None and disk is not None and row["mode"] == "RW":
            found[1].open(disk, call.clock.now())
        call.db.write(row, currently_attached=True, device=name)
    return ""


@verb("currently_attached", *MARKS)
def unplug(call: Call, ref: str) -> Steps:
    yield from _taken_out(call, ref, "unplug")
    return ""


@verb("currently_attached", *MARKS)
def unplug_force(call: Call, ref: str) -> Steps:
    """Whether or not the guest lets go of it."""
    yield from _taken_out(call, ref, "unplug_force")
    return ""


@verb("currently_attached", *MARKS)
def unplug_force_no_safety_check(call: Call, ref: str) -> Steps:
    yield from _taken_out(call, ref, "unplug_force")
    return ""


def _taken_out(call: Call, ref: str, name: str) -> Steps:
    row = call.db.get("VBD", ref)
    with vbd_operation(call, row, name):
        vm = call.db.get("VM", row["VM"])
        host = _host(call, vm)
        assert host is not None
        yield call.pool.durations.device
        host.check()
        found, disk = call.pool.domain(vm), call.pool.disk_of(row["VDI"])
        if found is not None and disk is not None:
            found[1].close(disk, call.clock.now())
        call.db.write(row, currently_attached=False)


@verb(*MARKS)
def pause(call: Call, ref: str) -> str:
    """No storage here can stop in the middle."""
    raise _unstoppable(call, ref, "pause")


@verb(*MARKS)
def unpause(call: Call, ref: str, token: str) -> str:
    raise _unstoppable(call, ref, "unpause")


def _unstoppable(call: Call, ref: str, name: str) -> Failure:
    row = call.db.get("VBD", ref)
    with vbd_operation(call, row, name):
        _host(call, call.db.get("VM", row["VM"]))
        return refuse("SR_OPERATION_NOT_SUPPORTED", call.db.get("VDI", row["VDI"])["SR"])


@verb()
def assert_attachable(call: Call, ref: str) -> str:
    refused = vbd_refused(call.db, call.db.get("VBD", ref), "attach")
    if refused is not None:
        raise refused
    return ""


@verb("mode")
def set_mode(call: Call, ref: str, value: str) -> str:
    row = call.db.get("VBD", ref)
    vm = call.db.get("VM", row["VM"])
    if vm["power_state"] != "Halted" and call.at_least(rules.BOSTON):
        raise refuse("VM_BAD_POWER_STATE", vm.ref, "halted", vm["power_state"].lower())
    call.db.write(row, mode=value)
    return ""


@verb("*", "VBD_metrics.*")
def create(call: Call, args: dict[str, Any]) -> str:
    vm, empty = call.db.get("VM", args["VM"]), args["empty"]
    _assert_sensible(call, args)
    if call.at_least(rules.TAMPA):
        assert_not_migrating(call.db, vm)
    if args["type"] == "Floppy" and not is_hvm(vm) and call.at_least(rules.STOCKHOLM):
        raise refuse("NOT_IMPLEMENTED", "VBD of type 'floppy' is not supported on PV domain")
    keeps = vm["power_state"] == "Suspended" and call.at_least(rules.MAKES_SUSPENDED)
    at_rest = {} if keeps else {"currently_attached": False, "device": ""}
    device = _device(call, vm, args)
    vdi = call.db.find("VDI", args["VDI"])
    if vdi is not None and not empty:
        assert_stays_agile(call.db, vm, vdi)
    more = {"userdevice": device, "VDI": NULL if empty else args["VDI"], "reserved": False}
    if vdi is not None and call.at_least(rules.DUNDEE) and BACKEND in vdi["sm_config"]:
        more["other_config"] = {**args["other_config"], BACKEND: vdi["sm_config"][BACKEND]}
    metrics = call.db.create("VBD_metrics", call.pool.new_ref(), {"uuid": call.pool.new_uuid()})
    return make(call, "VBD", args, **at_rest, **more, metrics=metrics.ref).ref


def _assert_sensible(call: Call, args: dict[str, Any]) -> None:
    """Raise for a device that no VM could have."""
    vdi = None if args["empty"] else call.db.get("VDI", args["VDI"])
    if vdi is not None and not (vdi["type"] in TYPES and call.at_least(TYPES[vdi["type"]])):
        raise storage_rules.wrong_type(vdi)
    if args["type"] == "CD" and args["mode"] != "RO":
        raise refuse("VBD_CDS_MUST_BE_READONLY")
    if args["empty"] and args["type"] != "CD":
        raise refuse("VBD_NOT_REMOVABLE_MEDIA", "in constructor")
    if vdi is not None and args["type"] == "CD":
        _assert_disc(call, vdi)
    if vdi is not None and args["mode"] == "RW" and vdi["read_only"]:
        raise refuse("VDI_READONLY", vdi.ref)


def _device(call: Call, vm: Row, args: dict[str, Any]) -> str:
    """The device to take: the lowest free one for `autodetect`, else the one wanted if nothing has it. Floppies have been
    asked for by name since 8.2."""
    wanted: str = args["userdevice"]
    if wanted == "autodetect":
        free = block_devices.free(call.pool, vm, args["type"])
        if not free:
            raise refuse("INVALID_DEVICE", wanted)
        return free[0]
    identity, named = block_devices.identity(wanted), call.at_least(rules.STOCKHOLM)
    misnamed = args["type"] == "Floppy" and wanted.isdigit() if named else wanted in block_devices.FLOPPIES
    if identity is None or misnamed:
        raise refuse("INVALID_DEVICE", wanted)
    if identity in block_devices.taken(call.pool, vm):
        raise refuse("DEVICE_ALREADY_EXISTS", wanted)
    return wanted


@verb("*", "VBD_metrics.*")
def destroy(call: Call, ref: str) -> str:
    row = call.db.get("VBD", ref)
    if row["currently_attached"] or row["reserved"]:
        vm = call.db.get("VM", row["VM"])
        text = f"VBD '{row['uuid']}' still attached to '{vm['uuid']}'"
        older = "VBD still attached to a running VM"
        raise refuse("OPERATION_NOT_ALLOWED", text if call.at_least(rules.MIDNIGHT_RIDE) else older)
    metrics = call.db.find("VBD_metrics", row["metrics"])
    if metrics is not None:
        call.db.delete(metrics)
    call.db.delete(row)
    return ""
