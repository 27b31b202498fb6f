"""Virtual machines: the life cycle, and moving between hosts.

A verb that takes time may find the world changed when it goes on: a host lost its power, a task was cancelled. So each
asks the host again after every wait, writes what it did in one go, and leaves nothing half done behind.
"""

from __future__ import annotations

from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

from xenctl.errors import Failure

from .. import checks, guests, hosts, placement, rules
from ..call import Call, Steps, refuse
from ..checks import operation, operation_refused
from ..store import NULL, Row
from . import verbs_of
from .generic import make

if TYPE_CHECKING:
    from collections.abc import Iterator

verb = verbs_of("VM")

MARKS = ("current_operations",)
MARKS_ON_HOST = ("host.current_operations",)
DEVICES = tuple(f"{table}.{field}" for table in ("VBD", "VIF") for field in ("currently_attached", "reserved"))
DEVICES = (*DEVICES, "VBD.current_operations", "VIF.current_operations", "console.*")
PLACE = ("power_state", "resident_on", "scheduled_to_be_resident_on", "domid")
AGENT = ("guest_metrics", "VM_guest_metrics.*", "metrics", "VM_metrics.*")
IMAGE = ("suspend_VDI", "VDI.*")
LIVES = (*MARKS, *MARKS_ON_HOST, *DEVICES, *PLACE, *AGENT, *IMAGE)
"""What a change of a VM's power state may write."""


# --- what starting and stopping share


def _attach(call: Call, vm: Row) -> None:
    for vbd in call.pool.vbds(vm):
        if not vbd["empty"] or checks.is_hvm(vm):
            call.db.write(vbd, currently_attached=True)
    for ref in vm["VIFs"]:
        vif = call.db.find("VIF", ref)
        if vif is not None:
            call.db.write(vif, currently_attached=True)


def _consoles(call: Call, vm: Row) -> Iterator[Row]:
    for ref in list(vm["consoles"]):
        console = call.db.find("console", ref)
        if console is not None:
            yield console


def _console(call: Call, vm: Row, host: Row) -> None:
    """Give a running VM a console on its host, or move the ones it has."""
    consoles = list(_consoles(call, vm))
    for console in consoles:
        call.db.write(console, location=f"https://{host['address']}/console?ref={console.ref}")
    if not consoles:
        ref = call.pool.new_ref()
        protocol = "rfb" if checks.is_hvm(vm) else "vt100"
        location = f"https://{host['address']}/console?ref={ref}"
        fields = {"uuid": call.pool.new_uuid(), "protocol": protocol, "location": location, "VM": vm.ref}
        call.db.create("console", ref, fields)


def _metrics(call: Call, vm: Row, **fields: Any) -> None:
    metrics = call.db.find("VM_metrics", vm["metrics"])
    if metrics is None:
        ref = call.pool.new_ref()
        metrics = call.db.create("VM_metrics", ref, {"uuid": call.pool.new_uuid()})
        call.db.write(vm, metrics=ref)
    call.db.write(metrics, last_updated=call.clock.stamp(), memory_actual=vm["memory_static_max"], **fields)


def _contact(call: Call, vm: Row) -> hosts.Contact:
    """The host that a live VM is on, to forward an operation to."""
    return hosts.contact(call.pool, call.db.get("host", vm["resident_on"]))


def _reserve(call: Call, vm: Row, host: Row, name: str, stack: ExitStack) -> hosts.Contact:
    """Keep a place for `vm` on `host` until the operation is over."""
    contact = hosts.contact(call.pool, host)
    stack.enter_context(hosts.operation(call, host, name))
    call.db.write(vm, scheduled_to_be_resident_on=host.ref)
    stack.callback(_release, call, vm, host)
    return contact


def _release(call: Call, vm: Row, host: Row) -> None:
    if call.db.find("VM", vm.ref) is vm and vm["scheduled_to_be_resident_on"] == host.ref:
        call.db.write(vm, scheduled_to_be_resident_on=NULL)


# --- starting


def _boot(call: Call, vm: Row, host: Row, paused: bool) -> Steps:
    """Start `vm` on `host`, whose fitness was checked."""
    db, pool = call.db, call.pool
    checks.assert_attachable(db, vm)
    with ExitStack() as stack:
        contact = _reserve(call, vm, host, "vm_start", stack)
        placement.assert_memory(pool, vm, host)
        yield pool.durations.vm_create
        machine = contact.check()
        guests.forget(pool, vm)
        domain = pool.start_domain(vm, machine, not paused)
        db.write(vm, resident_on=host.ref, scheduled_to_be_resident_on=NULL, domid=domain.domid)
        _attach(call, vm)
        db.write(vm, power_state="Paused" if paused else "Running")
        _console(call, vm, host)
        _metrics(call, vm, start_time=call.clock.stamp(), VCPUs_number=vm["VCPUs_at_startup"])
        guests.started(pool, vm)
    return ""


@verb(*LIVES)
def start(call: Call, vm: str, start_paused: bool, force: bool) -> Steps:
    row = call.db.get("VM", vm)
    with operation(call, row, "start"):
        yield from _boot(call, row, placement.choose_host(call.pool, row), start_paused)
        if row.get("start_delay"):
            yield float(row["start_delay"])
    return ""


@verb(*LIVES)
def start_on(call: Call, vm: str, host: str, start_paused: bool, force: bool) -> Steps:
    row = call.db.get("VM", vm)
    target = placement.host_named(call, host)
    with operation(call, row, "start_on"):
        placement.assert_can_boot_here(call.pool, row, target)
        yield from _boot(call, row, target, start_paused)
    return ""


# --- stopping


@verb(*LIVES)
def clean_shutdown(call: Call, vm: str) -> Steps:
    row = call.db.get("VM", vm)
    with operation(call, row, "clean_shutdown"):
        yield from _stop(call, row, call.pool.durations.vm_shutdown)
    return ""


@verb(*LIVES)
def hard_shutdown(call: Call, vm: str) -> Steps:
    row = call.db.get("VM", vm)
    with operation(call, row, "hard_shutdown"):
        yield from checks.interrupt(call, row, "hard_shutdown")
        yield from _stop(call, row, call.pool.durations.vm_destroy)
    return ""


@verb(*LIVES)
def shutdown(call: Call, vm: str) -> Steps:
    """Cleanly where the guest can, by force where it cannot."""
    row = call.db.get("VM", vm)
    clean = operation_refused(call.db, row, "clean_shutdown") is None
    with operation(call, row, "shutdown"):
        yield from _stop(call, row, call.pool.durations.vm_shutdown if clean else call.pool.durations.vm_destroy)
    return ""


def _stop(call: Call, vm: Row, seconds: float) -> Steps:
    """Halt `vm` after `seconds`; a suspended one loses its image."""
    if vm["power_state"] == "Halted":
        return
    if vm["power_state"] == "Suspended":
        _assert_reachable(call, vm)
        yield call.pool.durations.vm_destroy
        _drop_image(call, vm)
    else:
        contact = _contact(call, vm)
        yield seconds
        contact.check()
    call.pool.end_domain(vm)
    call.pool.force_halted(vm)


def _assert_reachable(call: Call, vm: Row) -> None:
    """Some live host must see all the disks of `vm`."""
    needed = set(placement.required_srs(call.db, vm))
    for host in call.db.table("host").values():
        pbds = [call.db.get("PBD", ref) for ref in host["PBDs"]]
        if hosts.live(call.db, host) and needed <= {pbd["SR"] for pbd in pbds if pbd["currently_attached"]}:
            return
    raise refuse("NO_HOSTS_AVAILABLE")


@verb(*LIVES)
def power_state_reset(call: Call, vm: str) -> str:
    """Believe that a VM is off, where nothing can be running any more."""
    row = call.db.get("VM", vm)
    if row["is_control_domain"]:
        raise refuse("CANNOT_RESET_CONTROL_DOMAIN", vm)
    host = call.db.find("host", row["resident_on"])
    if host is not None and row["power_state"] in ("Running", "Paused"):
        machine = call.pool.machine_of(host)
        if machine is call.machine and row["uuid"] in machine.domains:
            raise refuse("DOMAIN_EXISTS", vm)
        if machine is not call.machine and hosts.live(call.db, host):
            raise refuse("HOST_IS_LIVE", host.ref)
    call.db.write(row, current_operations={})
    call.pool.force_halted(row)
    return ""


# --- pausing and rebooting


@verb(*MARKS, "power_state")
def pause(call: Call, vm: str) -> str:
    row = call.db.get("VM", vm)
    with operation(call, row, "pause"):
        _contact(call, row)
        found = call.pool.domain(row)
        if found:
            found[1].pause(call.clock.now())
        call.db.write(row, power_state="Paused")
    return ""


@verb(*MARKS, "power_state")
def unpause(call: Call, vm: str) -> str:
    row = call.db.get("VM", vm)
    with operation(call, row, "unpause"):
        _contact(call, row)
        found = call.pool.domain(row)
        if found:
            found[1].unpause(call.clock.now())
        call.db.write(row, power_state="Running")
        if call.db.find("VM_guest_metrics", row["guest_metrics"]) is None:
            guests.started(call.pool, row)
    return ""


@verb(*LIVES)
def clean_reboot(call: Call, vm: str) -> Steps:
    row = call.db.get("VM", vm)
    with operation(call, row, "clean_reboot"):
        yield from _again(call, row, call.pool.durations.vm_shutdown)
    return ""


@verb(*LIVES)
def hard_reboot(call: Call, vm: str) -> Steps:
    """A VM that what was cancelled left halted, or that is suspended where that is legal, is started."""
    row = call.db.get("VM", vm)
    with operation(call, row, "hard_reboot"):
        yield from checks.interrupt(call, row, "hard_reboot")
        if row["power_state"] == "Suspended":
            yield from _stop(call, row, call.pool.durations.vm_destroy)
        if row["power_state"] == "Halted":
            yield from _boot(call, row, placement.choose_host(call.pool, row), paused=False)
        else:
            yield from _again(call, row, call.pool.durations.vm_destroy)
    return ""


def _again(call: Call, row: Row, seconds: float) -> Steps:
    """A new domain in the place of the old one; XenAPI shows the VM running throughout."""
    contact = _contact(call, row)
    yield seconds
    machine = contact.check()
    call.pool.end_domain(row)
    guests.forget(call.pool, row)
    domain = call.pool.start_domain(row, machine)
    call.db.write(row, domid=domain.domid, power_state="Running")
    _attach(call, row)
    _metrics(call, row, start_time=call.clock.stamp(), VCPUs_number=row["VCPUs_at_startup"])
    guests.started(call.pool, row)


# --- suspending and resuming


def _suspend_sr(call: Call, vm: Row, host: Row) -> Row:
    """The first place for suspend images that the VM, the pool or its host names and the host has a connection to."""
    for ref in (vm.get("suspend_SR"), call.db.pool()["suspend_image_SR"], host["suspend_image_sr"]):
        sr = call.db.find("SR", ref) if ref else None
        if sr is not None and any(call.db.get("PBD", pbd)["host"] == host.ref for pbd in sr["PBDs"]):
            return sr
    raise refuse("VM_NO_SUSPEND_SR", vm.ref)


@verb(*LIVES)
def suspend(call: Call, vm: str) -> Steps:
    row, db, pool = call.db.get("VM", vm), call.db, call.pool
    with operation(call, row, "suspend"):
        contact = _contact(call, row)
        image = _new_image(call, row, _suspend_sr(call, row, contact.host))
        db.write(row, suspend_VDI=image.ref)
        try:
            yield pool.durations.save_setup + row["memory_static_max"] / pool.durations.save_rate
            contact.check()
            pool.end_domain(row)
            guest = pool.guest(row)
            pool.disks[image["uuid"]].blocks[0] = guest.memory()
            guest.saved_by = contact.machine.system.release
            db.write(row, power_state="Suspended", resident_on=NULL, scheduled_to_be_resident_on=NULL, domid=-1)
        finally:
            if row["power_state"] != "Suspended" and db.find("VM", row.ref) is row:
                _drop_image(call, row)
        for console in _consoles(call, row):
            db.delete(console)
    return ""


def _new_image(call: Call, vm: Row, sr: Row) -> Row:
    size, uuid = int(vm["memory_static_max"] * 1.2 * 1.05) + 104857600, call.pool.new_uuid()
    fields = {
        "uuid": uuid,
        "name_label": "Suspend image",
        "type": "suspend",
        "SR": sr.ref,
        "virtual_size": size,
        "physical_utilisation": size,
        "location": uuid,
        "managed": True,
        "sharable": False,
        "read_only": False,
    }
    call.pool.add_disk(uuid)
    return call.db.create("VDI", call.pool.new_ref(), fields)


def _drop_image(call: Call, vm: Row) -> None:
    image = call.db.find("VDI", vm["suspend_VDI"])
    if image is not None:
        call.pool.disks.pop(image["uuid"], None)
        call.db.delete(image)
    call.db.write(vm, suspend_VDI=NULL)


def _restore(call: Call, vm: Row, host: Row, paused: bool) -> Steps:
    """Bring a suspended VM back on `host`, whose fitness was checked."""
    db, pool = call.db, call.pool
    image = pool.disk_of(vm["suspend_VDI"])
    if image is None:
        pool.force_halted(vm)
        raise refuse("VM_HAS_NO_SUSPEND_VDI", "VM", vm.ref)
    checks.assert_attachable(db, vm)
    with ExitStack() as stack:
        contact = _reserve(call, vm, host, "vm_resume", stack)
        placement.assert_memory(pool, vm, host)
        _assert_same_drive(call, vm, contact)
        yield pool.durations.save_setup + vm["memory_static_max"] / pool.durations.save_rate
        machine = contact.check()
        if image.blocks.get(0) != pool.guest(vm).memory():
            raise refuse("DOMAIN_BUILDER_ERROR", "xc_linux_restore", "1", "the suspend image is not of this VM")
        domain = pool.start_domain(vm, machine, not paused)
        db.write(vm, resident_on=host.ref, scheduled_to_be_resident_on=NULL, domid=domain.domid)
        db.write(vm, power_state="Paused" if paused else "Running")
        _attach(call, vm)
        _console(call, vm, host)
        _metrics(call, vm)
        _drop_image(call, vm)
        guests.report(pool, vm)
    return ""


def _assert_same_drive(call: Call, vm: Row, contact: hosts.Contact) -> None:
    """An image that an older release wrote cannot be read with a CD in a drive, as the installation guide warns."""
    saved_by = call.pool.guest(vm).saved_by
    if saved_by is not None and saved_by < contact.machine.system.release:
        for vbd in call.pool.vbds(vm):
            if vbd["type"] == "CD" and not vbd["empty"]:
                raise refuse("DEVICE_ATTACH_TIMEOUT", "VBD", vbd.ref)


@verb(*LIVES)
def resume(call: Call, vm: str, start_paused: bool, force: bool) -> Steps:
    row = call.db.get("VM", vm)
    with operation(call, row, "resume"):
        yield from _restore(call, row, placement.choose_host(call.pool, row), start_paused)
    return ""


@verb(*LIVES)
def resume_on(call: Call, vm: str, host: str, start_paused: bool, force: bool) -> Steps:
    row = call.db.get("VM", vm)
    target = placement.host_named(call, host)
    with operation(call, row, "resume_on"):
        placement.assert_can_boot_here(call.pool, row, target)
        yield from _restore(call, row, target, start_paused)
    return ""


# --- moving


@verb(*LIVES)
def pool_migrate(call: Call, vm: str, host: str, options: dict[str, str]) -> Steps:
    row, db, pool = call.db.get("VM", vm), call.db, call.pool
    target = db.get("host", host)
    with operation(call, row, "pool_migrate", strict=options.get("force") != "true"), ExitStack() as stack:
        source = _contact(call, row)
        if rules.migration_refused(db, source.host, target):
            raise refuse("NOT_SUPPORTED_DURING_UPGRADE")
        if source.host is not target:
            placement.assert_can_boot_here(pool, row, target)
        there = _reserve(call, row, target, "vm_migrate", stack)
        yield pool.durations.migrate_setup + row["memory_static_max"] / pool.durations.migrate_rate
        machine, to = source.check(), there.check()
        if row["uuid"] not in machine.domains:
            raise refuse("VM_BAD_POWER_STATE", row.ref, "running", row["power_state"].lower())
        domain = pool.move_domain(row, machine, to)
        db.write(row, resident_on=target.ref, scheduled_to_be_resident_on=NULL, domid=domain.domid)
        _console(call, row, target)
    return ""


# --- asking


@verb()
def assert_can_boot_here(call: Call, ref: str, host: str) -> str:
    row, target = call.db.get("VM", ref), call.db.get("host", host)
    if call.at_least(rules.BOSTON) and rules.upgrading(call.db) and not rules.of_masters_version(call.db, target):
        raise refuse("VM_HOST_INCOMPATIBLE_VERSION", host, ref)
    placement.assert_can_boot_here(call.pool, row, target)
    return ""


@verb()
def get_possible_hosts(call: Call, vm: str) -> list[str]:
    row, out = call.db.get("VM", vm), []
    if row["scheduled_to_be_resident_on"] != NULL:
        return [row["scheduled_to_be_resident_on"]]
    for host in call.db.table("host").values():
        try:
            placement.assert_can_boot_here(call.pool, row, host)
        except Failure:
            continue
        out.append(host.ref)
    return out


@verb()
def assert_operation_valid(call: Call, ref: str, op: str) -> str:
    refused = operation_refused(call.db, call.db.get("VM", ref), op)
    if refused is not None:
        raise refused
    return ""


@verb()
def update_allowed_operations(call: Call, ref: str) -> str:
    """They follow from what is written, so they are as they should be already."""
    call.db.get("VM", ref)
    return ""


# --- making and destroying


@verb("*", "VM_metrics.*")
def create(call: Call, args: dict[str, Any]) -> str:
    metrics = call.db.create("VM_metrics", call.pool.new_ref(), {"uuid": call.pool.new_uuid()})
    more = {"power_state": "Halted", "domid": -1, "resident_on": NULL, "blocked_operations": {}, "metrics": metrics.ref}
    seed = {"mac_seed": call.pool.new_uuid()} if "mac_seed" not in args["other_config"] else {}
    return make(call, "VM", args, **more, other_config={**args["other_config"], **seed}).ref


@verb("*", "VBD.*", "VIF.*", "console.*", "VM_metrics.*", "VM_guest_metrics.*", "VBD_metrics.*", "VIF_metrics.*")
def destroy(call: Call, ref: str) -> str:
    """The VM with its devices; its disks stay, and so does its suspend image."""
    row = call.db.get("VM", ref)
    refused = operation_refused(call.db, row, "destroy")
    if refused is not None:
        raise refused
    if row["other_config"].get("default_template") == "true":
        raise refuse("VM_CANNOT_DELETE_DEFAULT_TEMPLATE")
    dropped = [("VM_metrics", row["metrics"]), ("VM_guest_metrics", row["guest_metrics"])]
    for table in ("VBD", "VIF"):
        for device in [call.db.find(table, d) for d in row[f"{table}s"]]:
            if device is not None:
                dropped.append((f"{table}_metrics", device["metrics"]))
                call.db.delete(device)
    dropped += [("console", console) for console in row["consoles"]]
    for table, found in dropped:
        old = call.db.find(table, found)
        if old is not None:
            call.db.delete(old)
    call.db.delete(row)
    return ""
