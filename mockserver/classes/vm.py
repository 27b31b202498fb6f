"""Virtual machines: the power states, and the way from each to the others. What a step does is in `power`."""

from __future__ import annotations

from .. import checks, guests, hosts, licence, passthrough, placement, rules
from ..call import Call, Steps, refuse
from ..checks import operation
from ..power import (
    LIVES,
    MARKS,
    PATIENCE,
    again,
    announce,
    boot,
    contact,
    delay,
    on_host,
    protect,
    restore,
    save,
    stalled,
    stop,
    stop_cleanly,
)
from ..store import Row
from . import verbs_of

verb = verbs_of("VM")

ACKNOWLEDGEMENT = 60.0
"""How many seconds a guest has to say that it has heard that it is to shut down."""

# --- starting


@verb(*LIVES)
def start(call: Call, vm: str, start_paused: bool, force: bool) -> Steps:
    row = call.db.get("VM", vm)
    passthrough.assert_supported(call.db, row)
    with operation(call, row, "start"):
        yield from boot(call, row, lambda: placement.choose_host(call.pool, row), paused=start_paused, forced=force)
        yield from delay(row, "start_delay")
    announce(call, row, "VM_STARTED", f"started {on_host(call, row)}")
    return ""


@verb(*LIVES)
def start_on(call: Call, vm: str, host: str, start_paused: bool, force: bool) -> Steps:
    row = call.db.get("VM", vm)
    passthrough.assert_supported(call.db, row)
    target = placement.host_named(call, host)
    placement.assert_stays(call, target)
    with operation(call, row, "start_on"):
        yield from boot(call, row, lambda: _fit(call, row, target), paused=start_paused, forced=force)
        yield from delay(row, "start_delay")
    announce(call, row, "VM_STARTED", f"started {on_host(call, row)}")
    return ""


def _fit(call: Call, vm: Row, host: Row) -> Row:
    """The host that a call names, if it can take the VM."""
    placement.assert_can_boot_here(call.pool, vm, host)
    return host


# --- stopping


@verb(*LIVES)
def clean_shutdown(call: Call, vm: str) -> Steps:
    row = call.db.get("VM", vm)
    with operation(call, row, "clean_shutdown"):
        yield from stop_cleanly(call, row, call.pool.durations.vm_shutdown)
        yield from delay(row, "shutdown_delay")
    announce(call, row, "VM_SHUTDOWN", "shutdown")
    return ""


@verb(*LIVES)
def hard_shutdown(call: Call, vm: str) -> Steps:
    row = call.db.get("VM", vm)
    with operation(call, row, "hard_shutdown"):
        yield from checks.interrupt(call, row, "hard_shutdown")
        yield from _force_off(call, row)
    announce(call, row, "VM_SHUTDOWN", "shutdown forcibly")
    return ""


def _force_off(call: Call, vm: Row) -> Steps:
    ran = vm["power_state"] in ("Running", "Paused")
    yield from stop(call, vm, call.pool.durations.vm_destroy)
    if ran:
        yield from delay(vm, "shutdown_delay")


@verb(*LIVES)
def shutdown(call: Call, vm: str) -> Steps:
    """Cleanly where the guest can and does so in time, by force where not. The time is the VM's own delay, if it has one."""
    row = call.db.get("VM", vm)
    seconds, patience = call.pool.durations.vm_shutdown, float(row.get("shutdown_delay") or PATIENCE)
    with operation(call, row, "shutdown"):
        if row["power_state"] == "Suspended" or checks.deaf(call.db, row):
            yield from _force_off(call, row)
        elif row["power_state"] == "Paused":  # it cannot say that it has heard
            yield min(ACKNOWLEDGEMENT, patience)
            yield from _force_off(call, row)
        elif seconds <= patience and not stalled(call.pool, row):
            yield from stop(call, row, seconds)
            yield from delay(row, "shutdown_delay")
        else:
            yield patience
            yield from _force_off(call, row)
    announce(call, row, "VM_SHUTDOWN", "shutdown")
    return ""


@verb(*LIVES)
def power_state_reset(call: Call, vm: str) -> str:
    """Believe that a VM is off, where nothing can be running any more."""
    row = call.db.get("VM", vm)
    if row["is_control_domain"] and call.at_least(rules.MIDNIGHT_RIDE):
        raise refuse("CANNOT_RESET_CONTROL_DOMAIN", vm)
    host = call.db.find("host", row["resident_on"])
    if host is not None and row["power_state"] in ("Running", "Paused"):
        machine = call.pool.machine_of(host)
        if machine is call.machine and (row["is_control_domain"] or row["uuid"] in machine.domains):
            raise refuse("DOMAIN_EXISTS", vm, *([] if call.at_least(rules.TAMPA) else [row["domid"]]))
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
        contact(call, row)
        found = call.pool.domain(row)
        if found:
            found[1].pause(call.clock.now())
        call.db.write(row, power_state="Paused")
    announce(call, row, "VM_PAUSED", "paused")
    return ""


@verb(*MARKS, "power_state")
def unpause(call: Call, vm: str) -> str:
    row = call.db.get("VM", vm)
    with operation(call, row, "unpause"):
        licence.assert_valid(call.pool, contact(call, row).host)
        found = call.pool.domain(row)
        if found:
            found[1].unpause(call.clock.now())
        call.db.write(row, power_state="Running")
        if call.db.find("VM_guest_metrics", row["guest_metrics"]) is None:
            guests.started(call.pool, row)
    announce(call, row, "VM_UNPAUSED", "unpaused")
    return ""


@verb(*LIVES)
def clean_reboot(call: Call, vm: str) -> Steps:
    row = call.db.get("VM", vm)
    with operation(call, row, "clean_reboot"):
        yield from again(call, row, call.pool.durations.vm_shutdown)
    announce(call, row, "VM_REBOOTED", "rebooted cleanly")
    return ""


@verb(*LIVES)
def hard_reboot(call: Call, vm: str) -> Steps:
    """A VM that what was cancelled left halted, or that is suspended where that is legal, is started."""
    row = call.db.get("VM", vm)
    with operation(call, row, "hard_reboot"):
        yield from checks.interrupt(call, row, "hard_reboot")
        if row["power_state"] == "Suspended":
            yield from stop(call, row, call.pool.durations.vm_destroy)
        if row["power_state"] == "Halted":
            yield from boot(call, row, lambda: placement.choose_host(call.pool, row), paused=False)
        else:
            yield from again(call, row, call.pool.durations.vm_destroy)
    announce(call, row, "VM_REBOOTED", "rebooted forcibly")
    return ""


@verb(*LIVES)
def hard_reboot_internal(call: Call, vm: str) -> Steps:
    """What a toolstack asks for that found its guest rebooting: no operation is shown."""
    row = call.db.get("VM", vm)
    if row["power_state"] not in ("Running", "Paused"):
        raise refuse("VM_BAD_POWER_STATE", vm, "Running", row["power_state"])
    yield from again(call, row, call.pool.durations.vm_destroy)
    return ""


# --- suspending and resuming


@verb(*LIVES)
def suspend(call: Call, vm: str) -> Steps:
    row = call.db.get("VM", vm)
    with operation(call, row, "suspend"):
        protect(call, row, runs=False)
        yield from save(call, row)
    announce(call, row, "VM_SUSPENDED", "suspended")
    return ""


@verb(*LIVES)
def resume(call: Call, vm: str, start_paused: bool, force: bool) -> Steps:
    row = call.db.get("VM", vm)
    passthrough.assert_supported(call.db, row)
    with operation(call, row, "resume"):
        yield from restore(call, row, lambda: placement.choose_host(call.pool, row), paused=start_paused, forced=force)
    announce(call, row, "VM_RESUMED", f"resumed {on_host(call, row)}")
    return ""


@verb(*LIVES)
def resume_on(call: Call, vm: str, host: str, start_paused: bool, force: bool) -> Steps:
    row = call.db.get("VM", vm)
    passthrough.assert_supported(call.db, row)
    target = placement.host_named(call, host)
    with operation(call, row, "resume_on"):
        yield from restore(call, row, lambda: _fit(call, row, target), paused=start_paused, forced=force)
    announce(call, row, "VM_RESUMED", f"resumed {on_host(call, row)}")
    return ""
