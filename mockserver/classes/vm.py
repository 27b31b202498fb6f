"""Virtual machines: the life cycle, and moving between hosts."""

from __future__ import annotations

from typing import Any

from xenctl.errors import Failure

from .. import checks, rules
from ..call import Call, Steps, refuse
from ..checks import allowed_operations, choose_host, host_named, operation, operation_refused
from ..store import NULL, Row
from . import verbs_of
from .generic import make

verb = verbs_of("VM")

MARKS = ("current_operations", "allowed_operations")
DEVICES = ("VBD.currently_attached", "VIF.currently_attached", "VBD.reserved", "VIF.reserved", "console.*")
PLACE = ("power_state", "resident_on", "scheduled_to_be_resident_on", "domid")
AGENT = ("guest_metrics", "VM_guest_metrics.*", "metrics", "VM_metrics.*")


def _attach(call: Call, vm: Row) -> None:
    for ref in vm["VBDs"]:
        vbd = call.db.find("VBD", ref)
        if vbd is not None and (not vbd["empty"] or vm["HVM_boot_policy"]):
            call.db.write(vbd, currently_attached=True)
    for ref in vm["VIFs"]:
        vif = call.db.find("VIF", ref)
        if vif is not None:
            call.db.write(vif, currently_attached=True)


def _console(call: Call, vm: Row, host: Row) -> None:
    """Give a running VM a console on its host, or move the ones it has."""
    consoles = [row for row in (call.db.find("console", ref) for ref in vm["consoles"]) if row is not None]
    for console in consoles:
        call.db.write(console, location=f"https://{host['address']}/console?ref={console.ref}")
    if not consoles:
        ref = call.pool.new_ref()
        protocol = "rfb" if vm["HVM_boot_policy"] else "vt100"
        location = f"https://{host['address']}/console?ref={ref}"
        fields = {"uuid": call.pool.new_uuid(), "protocol": protocol, "location": location, "VM": vm.ref}
        call.db.create("console", ref, fields)


def _metrics(call: Call, vm: Row, **fields: Any) -> None:
    metrics = call.db.find("VM_metrics", vm["metrics"])
    if metrics is None:
        ref = call.pool.new_ref()
        metrics = call.db.create("VM_metrics", ref, {"uuid": call.pool.new_uuid()})
        call.db.write(vm, metrics=ref)
    call.db.write(metrics, last_updated=call.clock.stamp(), **fields)


def _forget_agent(call: Call, vm: Row) -> None:
    old = call.db.find("VM_guest_metrics", vm["guest_metrics"])
    if old is not None:
        call.db.delete(old)
    call.db.write(vm, guest_metrics=NULL)


def _agent_reports(call: Call, vm: Row) -> None:
    """The guest agent comes up and fills the guest metrics."""
    agent = call.pool.guest(vm).agent
    if agent is not None and call.db.find("VM_guest_metrics", vm["guest_metrics"]) is None:
        ref = call.pool.new_ref()
        fields = {**agent, "uuid": call.pool.new_uuid(), "last_updated": call.clock.stamp()}
        call.db.create("VM_guest_metrics", ref, fields)
        call.db.write(vm, guest_metrics=ref)


def _boot(call: Call, vm: Row, host: Row, paused: bool) -> Steps:
    """Start `vm` on `host`, whose fitness was checked."""
    db, pool = call.db, call.pool
    db.write(vm, scheduled_to_be_resident_on=host.ref)
    try:
        yield pool.durations.vm_destroy
        machine = pool.machine_of(host)
        if machine is None or machine.state != "running":
            raise refuse("HOST_OFFLINE", host.ref)
        _forget_agent(call, vm)
        domain = pool.start_domain(vm, machine, not paused)
        db.write(vm, resident_on=host.ref, scheduled_to_be_resident_on=NULL, domid=domain.domid)
        _attach(call, vm)
        db.write(vm, power_state="Paused" if paused else "Running")
        _console(call, vm, host)
        _metrics(call, vm, start_time=call.clock.stamp(), VCPUs_number=vm["VCPUs_at_startup"])
        pool.clock.after(
            pool.durations.vm_boot, lambda: _agent_reports(call, vm) if vm["domid"] == domain.domid else None
        )
    finally:
        if vm["scheduled_to_be_resident_on"] == host.ref:
            db.write(vm, scheduled_to_be_resident_on=NULL)
    return ""


@verb(*MARKS, *DEVICES, *PLACE, *AGENT)
def start(call: Call, vm: str, start_paused: bool, force: bool) -> Steps:
    row = call.db.get("VM", vm)
    with operation(call, row, "start"):
        return (yield from _boot(call, row, choose_host(call.pool, row), start_paused))


@verb(*MARKS, *DEVICES, *PLACE, *AGENT)
def start_on(call: Call, vm: str, host: str, start_paused: bool, force: bool) -> Steps:
    row = call.db.get("VM", vm)
    target = host_named(call, host, row)
    with operation(call, row, "start_on"):
        checks.assert_can_boot_here(call.pool, row, target)
        return (yield from _boot(call, row, target, start_paused))


@verb(*MARKS, *DEVICES, *PLACE, *AGENT)
def clean_shutdown(call: Call, vm: str) -> Steps:
    row = call.db.get("VM", vm)
    with operation(call, row, "clean_shutdown"):
        yield call.pool.durations.vm_shutdown
        call.pool.end_domain(row)
        call.pool.force_halted(row)
    return ""


@verb(*MARKS, *DEVICES, *PLACE, *AGENT, "suspend_VDI", "VDI.*")
def hard_shutdown(call: Call, vm: str) -> Steps:
    row = call.db.get("VM", vm)
    with operation(call, row, "hard_shutdown"):
        yield call.pool.durations.vm_destroy
        if row["power_state"] == "Suspended":
            _drop_image(call, row)
        call.pool.end_domain(row)
        call.pool.force_halted(row)
    return ""


@verb(*MARKS, "power_state")
def pause(call: Call, vm: str) -> str:
    row = call.db.get("VM", vm)
    with operation(call, row, "pause"):
        found = call.pool.domain(row)
        if found:
            found[1].pause(call.clock.now())
        call.db.write(row, power_state="Paused")
    return ""


@verb(*MARKS, "power_state")
def unpause(call: Call, vm: str) -> str:
    row = call.db.get("VM", vm)
    with operation(call, row, "unpause"):
        found = call.pool.domain(row)
        if found:
            found[1].unpause(call.clock.now())
        call.db.write(row, power_state="Running")
    return ""


@verb(*MARKS, *DEVICES, *PLACE, *AGENT)
def clean_reboot(call: Call, vm: str) -> Steps:
    row = call.db.get("VM", vm)
    with operation(call, row, "clean_reboot"):
        yield call.pool.durations.vm_shutdown
        yield from _again(call, row)
    return ""


@verb(*MARKS, *DEVICES, *PLACE, *AGENT)
def hard_reboot(call: Call, vm: str) -> Steps:
    row = call.db.get("VM", vm)
    with operation(call, row, "hard_reboot"):
        yield call.pool.durations.vm_destroy
        yield from _again(call, row)
    return ""


def _again(call: Call, row: Row) -> Steps:
    """A new domain in the place of the old one; XenAPI shows the VM running throughout."""
    found = call.pool.domain(row)
    if found is None:
        call.pool.force_halted(row)
        return
    call.pool.end_domain(row)
    _forget_agent(call, row)
    domain = call.pool.start_domain(row, found[0])
    call.db.write(row, domid=domain.domid, power_state="Running")
    _metrics(call, row, start_time=call.clock.stamp())
    yield call.pool.durations.vm_boot
    _agent_reports(call, row)


def _suspend_sr(call: Call, vm: Row, host: Row) -> Row:
    for ref in (vm.get("suspend_SR"), call.db.pool()["suspend_image_SR"], host["suspend_image_sr"]):
        sr = call.db.find("SR", ref) if ref else None
        if sr is not None and any(call.db.get("PBD", pbd)["host"] == host.ref for pbd in sr["PBDs"]):
            return sr
    raise refuse("VM_NO_SUSPEND_SR", vm.ref)


@verb(*MARKS, *DEVICES, *PLACE, *AGENT, "suspend_VDI", "VDI.*")
def suspend(call: Call, vm: str) -> Steps:
    row, db, pool = call.db.get("VM", vm), call.db, call.pool
    with operation(call, row, "suspend"):
        host = db.get("host", row["resident_on"])
        sr = _suspend_sr(call, row, host)
        size = int(row["memory_static_max"] * 1.2 * 1.05) + 104857600
        uuid, ref = pool.new_uuid(), pool.new_ref()
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
        db.create("VDI", ref, fields)
        image = pool.add_disk(uuid)
        db.write(row, suspend_VDI=ref)
        yield pool.durations.save_setup + row["memory_static_max"] / pool.durations.save_rate
        pool.end_domain(row)
        guest = pool.guest(row)
        image.blocks[0] = guest.memory()
        guest.saved_by = db.release
        db.write(row, power_state="Suspended", resident_on=NULL, domid=-1)
        for console in [db.find("console", c) for c in row["consoles"]]:
            if console is not None:
                db.delete(console)
    return ""


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
    machine, guest = pool.machine_of(host), pool.guest(vm)
    if guest.saved_by is not None and machine is not None and guest.saved_by < machine.system.release:
        loaded = [vbd for vbd in pool.vbds(vm) if vbd["type"] == "CD" and not vbd["empty"]]
        if loaded:
            raise refuse("DEVICE_ATTACH_TIMEOUT", "VBD", loaded[0].ref)
    db.write(vm, scheduled_to_be_resident_on=host.ref)
    try:
        yield pool.durations.save_setup + vm["memory_static_max"] / pool.durations.save_rate
        if machine is None or machine.state != "running":
            raise refuse("HOST_OFFLINE", host.ref)
        if image.blocks.get(0) != guest.memory():
            raise refuse("DOMAIN_BUILDER_ERROR", "xc_linux_restore", "1", "the suspend image is not of this VM")
        domain = pool.start_domain(vm, machine, not paused)
        db.write(vm, resident_on=host.ref, scheduled_to_be_resident_on=NULL, domid=domain.domid)
        db.write(vm, power_state="Paused" if paused else "Running")
        _attach(call, vm)
        _console(call, vm, host)
        _drop_image(call, vm)
        _agent_reports(call, vm)
    finally:
        if vm["scheduled_to_be_resident_on"] == host.ref:
            db.write(vm, scheduled_to_be_resident_on=NULL)
    return ""


RESUMED = (*MARKS, *DEVICES, *PLACE, *AGENT, "suspend_VDI", "VDI.*")


@verb(*RESUMED)
def resume(call: Call, vm: str, start_paused: bool, force: bool) -> Steps:
    row = call.db.get("VM", vm)
    with operation(call, row, "resume"):
        return (yield from _restore(call, row, choose_host(call.pool, row), start_paused))


@verb(*RESUMED)
def resume_on(call: Call, vm: str, host: str, start_paused: bool, force: bool) -> Steps:
    row = call.db.get("VM", vm)
    target = host_named(call, host, row)
    with operation(call, row, "resume_on"):
        checks.assert_can_boot_here(call.pool, row, target)
        return (yield from _restore(call, row, target, start_paused))


@verb(*MARKS, *PLACE, "console.*")
def pool_migrate(call: Call, vm: str, host: str, options: dict[str, str]) -> Steps:
    row, db, pool = call.db.get("VM", vm), call.db, call.pool
    target = db.get("host", host)
    with operation(call, row, "pool_migrate"):
        source = db.get("host", row["resident_on"])
        if rules.migration_refused(db, source, target):
            raise refuse("NOT_SUPPORTED_DURING_UPGRADE")
        if source is not target:
            checks.assert_can_boot_here(pool, row, target)
        db.write(row, scheduled_to_be_resident_on=target.ref)
        try:
            yield pool.durations.migrate_setup + row["memory_static_max"] / pool.durations.migrate_rate
            found, there = pool.domain(row), pool.machine_of(target)
            if found is None:
                raise refuse("VM_BAD_POWER_STATE", row.ref, "running", row["power_state"].lower())
            if there is None or there.state != "running":
                raise refuse("CANNOT_CONTACT_HOST", target.ref)
            domain = pool.move_domain(row, found[0], there)
            db.write(row, resident_on=target.ref, scheduled_to_be_resident_on=NULL, domid=domain.domid)
            _console(call, row, target)
        finally:
            if row["scheduled_to_be_resident_on"] == target.ref:
                db.write(row, scheduled_to_be_resident_on=NULL)
    return ""


@verb()
def assert_can_boot_here(call: Call, ref: str, host: str) -> str:
    row, target = call.db.get("VM", ref), call.db.get("host", host)
    if call.at_least(rules.BOSTON) and rules.placing_refused(call.db, target):
        raise refuse("VM_HOST_INCOMPATIBLE_VERSION", host, ref)
    checks.assert_can_boot_here(call.pool, row, target)
    return ""


@verb()
def get_possible_hosts(call: Call, vm: str) -> list[str]:
    row, out = call.db.get("VM", vm), []
    for host in call.db.table("host").values():
        try:
            checks.assert_can_boot_here(call.pool, row, host)
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


@verb("allowed_operations")
def update_allowed_operations(call: Call, ref: str) -> str:
    row = call.db.get("VM", ref)
    call.db.write(row, allowed_operations=allowed_operations(call.db, row))
    return ""


@verb("*", "VM_metrics.*")
def create(call: Call, args: dict[str, Any]) -> str:
    metrics = call.pool.new_ref()
    call.db.create("VM_metrics", metrics, {"uuid": call.pool.new_uuid()})
    row = make(call, "VM", args, metrics=metrics, power_state="Halted", domid=-1, resident_on=NULL)
    call.pool.refresh_operations(row)
    return row.ref


@verb("*", "VBD.*", "VIF.*", "VM_metrics.*", "VM_guest_metrics.*")
def destroy(call: Call, ref: str) -> str:
    row = call.db.get("VM", ref)
    refused = operation_refused(call.db, row, "destroy")
    if refused is not None:
        raise refused
    for table, field in (("VM_metrics", "metrics"), ("VM_guest_metrics", "guest_metrics")):
        metrics = call.db.find(table, row[field])
        if metrics is not None:
            call.db.delete(metrics)
    for table in ("VBD", "VIF"):
        for device in [call.db.find(table, d) for d in row[f"{table}s"]]:
            if device is not None:
                call.db.delete(device)
    call.db.delete(row)
    return ""
