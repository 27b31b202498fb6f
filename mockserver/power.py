"""What starting, stopping, saving and moving a VM does to belief and machine; the verbs say when.

What takes time may find the world changed when it goes on: a host lost its power, a task was cancelled. So each step asks
the host again after every wait, writes what it did in one go, and leaves nothing half done behind.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from xenctl import memory
from xenctl.errors import Failure
from xenctl.releases import find

from . import (
    bios,
    block_devices,
    checks,
    failover_plan,
    guests,
    hosts,
    licence,
    messages,
    passthrough,
    placement,
    processors,
    rules,
    vdis,
    vm_rules,
    volumes,
    vtpms,
)
from .call import Call, Steps, Wait, refuse, until_free
from .holding import Holding, Marked
from .records import as_text
from .store import NULL, Row

if TYPE_CHECKING:
    from collections.abc import Callable

    from xenctl.releases import Release

    from .pool import MockPool

MARKS = ("current_operations", "message.*")
MARKS_ON_HOST = ("host.current_operations",)
DEVICES = ("VBD.device", *(f"{table}.{field}" for table, fields in guests.RELEASED.items() for field in fields))
PLACE = ("power_state", "resident_on", "scheduled_to_be_resident_on", "domid", "requires_reboot", "console.*")
AGENT = ("memory_target", "guest_metrics", "VM_guest_metrics.*", "metrics", "VM_metrics.*")
BOOT = ("domain_type", "memory_overhead", "bios_strings", "hardware_platform_version", "platform")
RECORDS = ("last_boot_CPU_flags", "last_booted_record", "ha_always_run", *guests.GUIDANCES)
LIVES = (
    *(*MARKS, *MARKS_ON_HOST, *DEVICES, *PLACE, *AGENT, *BOOT, *RECORDS),
    *("suspend_VDI", *passthrough.HOLDS, *vtpms.HOLDS, *vdis.WRITES),
)
"""What a change of a VM's power state may write."""

PROTECTED = "restart"
"""The restart priority of a VM that high availability keeps running."""
MESSAGES_SINCE = find("5.0.0").order
"""From when on operations on VMs are told of in messages."""
TOLD_SINCE = dict.fromkeys(
    "VM_MIGRATED VM_SNAPSHOTTED VM_SNAPSHOT_REVERTED VM_CHECKPOINTED VM_PAUSED VM_UNPAUSED".split(), rules.NILE
)
"""Which of them came later, and when."""
PRIORITY = 5
"""The priority of such a message: nothing has to be done about it."""
DEVICE_MODEL_SINCE = find("8.0.0").order
"""From when on a VM says which device model it has."""
VENDOR_DEVICE = 2
"""The version of the virtual hardware that knows the device by which Windows finds its drivers."""
PATIENCE = 1200.0
"""Seconds that a guest is given to shut down."""
DISK_PATIENCE = 120.0
"""Seconds that a VM waits for disks with which something else is done."""


# --- what starting and stopping share


def metrics_of(call: Call, vm: Row) -> Row:
    """The metrics of `vm`, made if it has none."""
    found = call.db.find("VM_metrics", vm["metrics"])
    if found is None:
        found = call.db.create("VM_metrics", call.pool.new_ref(), {"uuid": call.pool.new_uuid()})
        call.db.write(vm, metrics=found.ref)
    return found


def contact(call: Call, vm: Row) -> hosts.Contact:
    """The host that a live VM is on, to forward an operation to."""
    return hosts.reached(call, vm["resident_on"])


def announce(call: Call, vm: Row, name: str, what: str) -> None:
    """Tell operators in a message what was done to `vm`. Since XenServer 8 it gives the VM's uuid."""
    if call.at_least(TOLD_SINCE.get(name, MESSAGES_SINCE)):
        who = f"VM '{vm['name_label']}'"
        body = f"{who} (uuid: {vm['uuid']}) {what}" if call.at_least(rules.NILE) else f"{who} {what}"
        messages.post(call.pool, name, priority=PRIORITY, cls="VM", uuid=vm["uuid"], body=body)


def announce_move(call: Call, vm: Row, source: Row, target: Row) -> None:
    """Tell operators in a message that `vm` came from one host to another."""
    names = [f"host '{host['name_label']}' (uuid: {host['uuid']})" for host in (source, target)]
    announce(call, vm, "VM_MIGRATED", f"migrated from {names[0]} to {names[1]}")


def on_host(call: Call, vm: Row) -> str:
    """The host that `vm` is on, as messages name it."""
    host = call.db.get("host", vm["resident_on"])
    return f"on host: {host['name_label']} (uuid: {host['uuid']})"


def delay(vm: Row, field: str) -> Steps:
    """Wait as long as a VM asks for after a start (`start_delay`) or stop (`shutdown_delay`), since 6.0."""
    if vm.get(field):
        yield float(vm[field])


def _attach(call: Call, vm: Row, there: hosts.Contact) -> None:
    db = call.db
    passthrough.take(db, vm, there.host)
    release, hvm = there.machine.system.release, checks.is_hvm(vm)
    for vbd in db.rows("VBD", vm["VBDs"]):
        if hvm or not vbd["empty"]:
            db.write(vbd, currently_attached=True, device=block_devices.name_in(vm, vbd["userdevice"], release))
    for device in (*db.rows("VIF", vm["VIFs"]), *db.rows("VUSB", vm.get("VUSBs", ()))):
        db.write(device, currently_attached=True)


def name_drives(call: Call, vm: Row, release: Release) -> None:
    """Write down what the attached block devices of `vm` are called on a host of `release`."""
    for vbd in call.db.rows("VBD", vm["VBDs"]):
        if vbd["currently_attached"]:
            call.db.write(vbd, device=block_devices.name_in(vm, vbd["userdevice"], release))


def show_console(call: Call, vm: Row, host: Row) -> None:
    """Give a running VM a console on its host, in the place of the one it has elsewhere."""
    release = call.db.release
    for console in call.db.rows("console", vm["consoles"]):
        if console["location"] != guests.console_location(host, vm, console["uuid"], release):
            call.db.delete(console)
    if not vm["consoles"]:
        ref, uuid = call.pool.new_ref(), call.pool.new_uuid()
        location = guests.console_location(host, vm, uuid, release)
        protocol = "rfb" if checks.is_hvm(vm) else "vt100"
        call.db.create("console", ref, {"uuid": uuid, "protocol": protocol, "location": location, "VM": vm.ref})


def _hold_devices(call: Call, vm: Row, holding: Holding, *, vifs: bool = False) -> Steps:
    """Hold the block devices of `vm` while they are attached, so that nobody else takes a disk meanwhile; with `vifs` its
    virtual interfaces, too. What is busy among disks and their devices is waited for, but not for long."""
    db = call.db
    refused = checks.attachment_refused(db, vm)
    if refused is not None:
        refused = yield from until_free(call, lambda: checks.attachment_refused(db, vm), DISK_PATIENCE)
    if refused is not None:
        raise refused
    interfaces = db.rows("VIF", vm["VIFs"]) if vifs else []
    if any(vif["current_operations"] for vif in interfaces):
        raise refuse("OPERATION_NOT_ALLOWED", "Failed to lock all VIFs")
    for device in (*db.rows("VBD", vm["VBDs"]), *interfaces):
        holding.hold(Marked(call, device, "attach"))


def reserve(call: Call, vm: Row, host: Row, name: str, holding: Holding) -> hosts.Contact:
    """Keep a place for `vm` on `host` until the operation is over."""
    failover_plan.assert_can_place(call.pool, vm, host)
    found = hosts.contact(call.pool, host)
    holding.hold(hosts.operation(call, host, name))
    passthrough.allocate(call.pool, vm, host)
    call.db.write(vm, scheduled_to_be_resident_on=host.ref)
    holding.at_end(_release, call, vm, host)
    volumes.reach_disks(call, found, vm)
    return found


def _release(call: Call, vm: Row, host: Row) -> None:
    db = call.db
    if db.find("VM", vm.ref) is vm:
        passthrough.release(db, vm)
        if vm["scheduled_to_be_resident_on"] == host.ref:
            db.write(vm, scheduled_to_be_resident_on=NULL)


def settle_hardware(call: Call, vm: Row) -> None:
    """Raise the version of the virtual hardware to what `vm` visibly needs."""
    if vm.get("has_vendor_device") and vm.get("hardware_platform_version", 0) < VENDOR_DEVICE:
        call.db.write(vm, hardware_platform_version=VENDOR_DEVICE)


def settle_overhead(call: Call, vm: Row) -> None:
    """Write down what `vm` takes of a host's memory beside its own."""
    call.db.write(vm, memory_overhead=memory.overhead(vm))


def protect(call: Call, vm: Row, runs: bool) -> None:
    """Let high availability keep `vm` running if it is protected (since 6.0), or leave it alone while it is off."""
    if not runs:
        call.db.write(vm, ha_always_run=False)
    elif call.at_least(rules.BOSTON) and vm["ha_restart_priority"] == PROTECTED:
        call.db.write(vm, ha_always_run=True)


# --- starting


def _prepare(call: Call, vm: Row) -> None:
    """Write down what a boot settles: kind of domain, device model, BIOS strings, memory."""
    fields: dict[str, Any] = {}
    if vm.get("domain_type") == "unspecified":
        fields["domain_type"] = guests.domain_type(vm)
    if not vm.get("bios_strings", True):
        fields["bios_strings"] = dict(bios.GENERIC)
    if checks.is_hvm(vm) and "device-model" not in vm["platform"] and call.at_least(DEVICE_MODEL_SINCE):
        firmware = vm["HVM_boot_params"].get("firmware", "bios")
        model = "qemu-upstream-uefi" if firmware == "uefi" else "qemu-upstream-compat"
        fields["platform"] = {**vm["platform"], "device-model": model}
    call.db.write(vm, **fields)
    settle_hardware(call, vm)
    settle_overhead(call, vm)
    protect(call, vm, runs=True)


def _assert_nests(call: Call, vm: Row, *, forced: bool) -> None:
    """Raise for a guest that is to run a hypervisor of its own and may not, since 7.1: its memory must not change, unless
    the start is `forced`, and the licence must allow it."""
    told = vm["platform"].get("nested-virt")
    if told is None or not call.at_least(rules.ELY):
        return
    if vm_rules.is_true(told) and not forced:
        vm_rules.assert_pinned(vm, "nested virt")
    if told.lower() not in ("true", "1", "false", "0"):
        raise refuse("INVALID_VALUE", "platform:nested-virt", told)
    if vm_rules.is_true(told):
        licence.assert_enabled(call, "Nested_virt")


def boot(call: Call, vm: Row, place: Callable[[], Row], *, paused: bool, forced: bool = False) -> Steps:
    """Start `vm` on the host that `place` gives."""
    db, pool = call.db, call.pool
    with Holding() as holding:
        yield from _hold_devices(call, vm, holding, vifs=True)
        host = place()
        there = reserve(call, vm, host, "vm_start", holding)
        licence.assert_valid(pool, host)
        placement.assert_memory(pool, vm, host)
        _assert_nests(call, vm, forced=forced)
        vm_rules.assert_can_be_built(db, vm)
        vtpms.plug(call, vm)
        yield pool.durations.vm_create
        machine = there.check()
        _prepare(call, vm)
        guests.forget(pool, vm)
        domain = pool.start_domain(vm, machine, not paused)
        db.write(vm, resident_on=host.ref, scheduled_to_be_resident_on=NULL, domid=domain.domid)
        _booted(call, vm, there)
        db.write(vm, power_state="Paused" if paused else "Running")
        show_console(call, vm, host)
        guests.started(pool, vm)
    return ""


def _booted(call: Call, vm: Row, there: hosts.Contact) -> None:
    """Write down what the new domain of `vm` is like."""
    _attach(call, vm, there)
    _measure(call, vm, start_time=call.clock.stamp())
    flags = processors.booted(call.db, vm, there.host, there.machine.hardware.processors)
    call.db.write(vm, last_boot_CPU_flags=flags)
    if not call.at_least(rules.TAMPA):
        call.db.write(vm, last_booted_record=as_text(call.db, vm))


def _measure(call: Call, vm: Row, **more: Any) -> None:
    """Write down what the host of `vm` sees of its new domain. Since 6.1 that tells how much memory it is to have, too."""
    if call.at_least(rules.TAMPA):
        call.db.write(vm, memory_target=vm["memory_dynamic_max"])
    call.db.write(
        metrics_of(call, vm),
        last_updated=call.clock.stamp(),
        memory_actual=vm["memory_static_max"],
        VCPUs_number=vm["VCPUs_at_startup"],
        hvm=checks.is_hvm(vm),
        current_domain_type=guests.domain_type(vm),
        **{name: vm_rules.is_true(vm["platform"].get(key, "")) for name, key in vm_rules.PLATFORM.items()},
        **more,
    )


def again(call: Call, vm: Row, seconds: float) -> Steps:
    """A new domain in the place of the old one; XenAPI shows the VM running throughout."""
    with Holding() as holding:
        yield from _hold_devices(call, vm, holding, vifs=True)
        there = contact(call, vm)
        licence.assert_valid(call.pool, there.host)
        volumes.reach_disks(call, there, vm)
        vm_rules.assert_can_be_built(call.db, vm)
        vtpms.plug(call, vm)
        yield seconds
        machine = there.check()
        settle_hardware(call, vm)
        call.pool.end_domain(vm)
        guests.forget(call.pool, vm)
        domain = call.pool.start_domain(vm, machine)
        call.db.write(vm, domid=domain.domid, power_state="Running", requires_reboot=False)
        guests.obey(call.pool, vm, *guests.DONE_WHEN_HALTED)
        _booted(call, vm, there)
        guests.started(call.pool, vm)


# --- stopping


def stalled(pool: MockPool, vm: Row) -> bool:
    """Whether the guest in `vm` waits for its disks."""
    found = pool.domain(vm)
    return found is not None and bool(found[1].stalled)


def stop_cleanly(call: Call, vm: Row, seconds: float) -> Steps:
    """Let the guest in `vm` shut down, in `seconds`. One that waits for its disks does not hear until they are back."""
    if stalled(call.pool, vm):
        yield Wait(call.clock.now() + PATIENCE, lambda: not stalled(call.pool, vm), idle=False)
        if stalled(call.pool, vm):
            raise refuse("VM_SHUTDOWN_TIMEOUT", vm.ref, f"{PATIENCE:g}")
    yield from stop(call, vm, seconds)


def stop(call: Call, vm: Row, seconds: float) -> Steps:
    """Halt `vm` after `seconds`; a suspended one loses its image."""
    if vm["power_state"] == "Halted":
        return
    protect(call, vm, runs=False)
    if vm["power_state"] == "Suspended":
        placement.assert_seen(call, vm, image=False)
        yield call.pool.durations.vm_destroy
        drop_image(call, vm)
        call.pool.force_halted(vm)
        return
    there = contact(call, vm)
    yield seconds
    there.check()
    call.pool.end_domain(vm)
    guests.stopped(call.pool, vm)
    call.pool.force_halted(vm)
    guests.measure_off(call.pool, vm)


# --- saving to disk, and back


def _suspend_sr(call: Call, vm: Row, host: Row) -> Row:
    """The first place for suspend images that the VM, the pool or its host names and the host has a connection to."""
    for ref in (vm.get("suspend_SR"), call.db.pool()["suspend_image_SR"], host["suspend_image_sr"]):
        sr = call.db.find("SR", ref) if ref else None
        if sr is not None and any(call.db.get("PBD", pbd)["host"] == host.ref for pbd in sr["PBDs"]):
            return sr
    raise refuse("VM_NO_SUSPEND_SR", vm.ref)


def _new_image(call: Call, vm: Row, sr: Row) -> Steps:
    """A disk that takes all of its room at once, whatever its storage does with others."""
    size = int(vm["memory_static_max"] * 1.2 * 1.05) + 104857600
    for vgpu in passthrough.vgpus_of(call.db, vm):
        kind = call.db.find("VGPU_type", vgpu["type"])
        size += kind["framebuffer_size"] if kind is not None else 0
    named = dict.fromkeys(("name_label", "name_description"), "Suspend image")
    args = {**named, "type": "suspend", "virtual_size": size, "sharable": False, "read_only": False}
    try:
        return (yield from vdis.create(call, sr, args, full=True))
    except Failure as error:
        if error.code == "SR_BACKEND_FAILURE_44":
            raise refuse("SR_SUSPEND_SPACE_INSUFFICIENT", sr.ref) from error
        raise


def save(call: Call, vm: Row) -> Steps:
    """Suspend a running VM to disk. In a checkpoint it keeps its place, to go on there."""
    db, pool = call.db, call.pool
    there = contact(call, vm)
    volumes.reach_disks(call, there, vm)
    goal, call.goal = call.goal, call.reached
    image = yield from _new_image(call, vm, _suspend_sr(call, vm, there.host))
    call.goal = goal
    db.write(vm, suspend_VDI=image.ref)
    try:
        there.needs(db.get("SR", image["SR"]), image)
        with volumes.attached(call, there, (image, "RW")):
            yield pool.durations.save_setup + vm["memory_static_max"] / pool.durations.save_rate
            machine = there.check()
            if vm["uuid"] not in machine.domains:
                raise refuse("VM_BAD_POWER_STATE", vm.ref, "Running", vm["power_state"])
            disk = volumes.content(call, image)
            pool.end_domain(vm)
            guest = pool.guest(vm)
            guest.save(disk, machine.system.release)
            guest.started = metrics_of(call, vm)["start_time"]
        db.write(vm, power_state="Suspended")
        if call.at_least(rules.TAMPA):
            db.write(vm, last_booted_record=as_text(db, vm))
        guests.measure_off(pool, vm)
        if "checkpoint" not in vm["current_operations"].values():
            guests.obey(pool, vm, "restart_device_model")
            guests.placeless(pool, vm)
    finally:
        if vm["power_state"] != "Suspended" and db.find("VM", vm.ref) is vm:
            drop_image(call, vm)
    for console in [db.find("console", ref) for ref in vm["consoles"]]:
        if console is not None:
            db.delete(console)


def drop_image(call: Call, vm: Row) -> None:
    """Destroy the suspend image of `vm`, if it is there; one that somebody else uses is left to them."""
    image = call.db.find("VDI", vm["suspend_VDI"])
    call.db.write(vm, suspend_VDI=NULL)
    if image is not None:
        volumes.discard(call, image)


def restore(call: Call, vm: Row, place: Callable[[], Row], *, paused: bool, forced: bool) -> Steps:
    """Bring a suspended VM back on the host that `place` gives; `forced`, whatever its processors are."""
    if call.pool.disk_of(vm["suspend_VDI"]) is None:
        call.pool.force_halted(vm)
        raise refuse("VM_HAS_NO_SUSPEND_VDI", "VM", vm.ref)
    with Holding() as holding:
        yield from _hold_devices(call, vm, holding)
        host = place()
        there = reserve(call, vm, host, "vm_resume", holding)
        licence.assert_valid(call.pool, host)
        placement.assert_memory(call.pool, vm, host)
        if not forced:
            processors.assert_compatible(call.db, vm, host, "resume")
        yield from wake(call, vm, there, paused=paused)
        protect(call, vm, runs=True)
    return ""


def wake(call: Call, vm: Row, there: hosts.Contact, *, paused: bool) -> Steps:
    """Let a suspended VM go on at a host."""
    db, pool, host = call.db, call.pool, there.host
    image = db.get("VDI", vm["suspend_VDI"])
    there.needs(db.get("SR", image["SR"]), image)
    _assert_same_drive(call, vm, there)
    with volumes.attached(call, there, (image, "RO")):
        yield pool.durations.save_setup + vm["memory_static_max"] / pool.durations.save_rate
    machine = there.check()
    if volumes.content(call, image).blocks.get(0) != pool.guest(vm).image:
        raise refuse("DOMAIN_BUILDER_ERROR", "xc_linux_restore", "1", "the suspend image is not of this VM")
    domain = pool.start_domain(vm, machine, not paused)
    db.write(vm, resident_on=host.ref, scheduled_to_be_resident_on=NULL, domid=domain.domid)
    db.write(vm, power_state="Paused" if paused else "Running")
    _attach(call, vm, there)
    show_console(call, vm, host)
    processors.arrived(db, vm, host, resumed=True)
    started = pool.guest(vm).started
    _measure(call, vm, **({"start_time": started} if started else {}))
    drop_image(call, vm)
    guests.report(pool, vm)


def _assert_same_drive(call: Call, vm: Row, there: hosts.Contact) -> None:
    """An image that an older release wrote cannot be read with a CD in a drive, as the installation guide warns."""
    saved_by = call.pool.guest(vm).saved_by
    if saved_by is not None and saved_by < there.machine.system.release:
        for vbd in call.pool.vbds(vm):
            if vbd["type"] == "CD" and not vbd["empty"]:
                raise refuse("DEVICE_ATTACH_TIMEOUT", "VBD", vbd.ref)


# --- moving


def move(call: Call, vm: Row, source: hosts.Contact, target: hosts.Contact) -> None:
    """Put the running domain of `vm` on another host, or anew on its own."""
    machine, to = source.check(), target.check()
    if vm["uuid"] not in machine.domains:
        raise refuse("VM_BAD_POWER_STATE", vm.ref, "running", vm["power_state"].lower())
    domain = call.pool.move_domain(vm, machine, to)
    call.db.write(vm, resident_on=target.host.ref, scheduled_to_be_resident_on=NULL, domid=domain.domid)
    passthrough.take(call.db, vm, target.host)
    name_drives(call, vm, to.system.release)
    processors.arrived(call.db, vm, target.host, resumed=False)
    guests.obey(call.pool, vm, "restart_device_model")
    show_console(call, vm, target.host)
