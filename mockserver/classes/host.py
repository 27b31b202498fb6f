"""Hosts: enabling, disabling, emptying, halting."""

from __future__ import annotations

from contextlib import nullcontext
from functools import partial

from xenctl.errors import Failure
from xenctl.values import Timestamp

from .. import (
    agility,
    failover_plan,
    ha_monitor,
    hosts,
    liveset,
    pifs,
    placement,
    poweroff,
    rules,
    subtasks,
    workload_balancing,
)
from ..call import Call, Steps, refuse
from ..machine.host import HostMachine
from ..startup import later
from ..store import NULL, Row
from . import verbs_of

verb = verbs_of("host")

MARKS = ("current_operations",)
BATCH = 10
"""Guests that leave a host at the same time where nobody says how many, since XenServer 8."""


@verb("enabled")
def disable(call: Call, host: str, auto_enable: bool) -> str:
    row = call.db.get("host", host)
    failover_plan.assert_can_disable(call.pool, row)
    hosts.contact(call.pool, row)
    call.db.write(row, enabled=False)
    return ""


@verb("enabled", *MARKS)
def enable(call: Call, host: str) -> str:
    """A host that is enabled is left alone, whatever stands against it."""
    row = call.db.get("host", host)
    with hosts.operation(call, row, "enable") if call.at_least(rules.NILE) else nullcontext():
        contact = hosts.contact(call.pool, row)
        if not row["enabled"]:
            _assert_can_enable(call, contact)
            call.db.write(row, enabled=True)
            ha_monitor.host_enabled(call.pool)
    return ""


def _assert_can_enable(call: Call, contact: hosts.Contact) -> None:
    host = contact.host
    if call.at_least(rules.TAMPA) and not contact.machine.xapi.complete:
        raise refuse("HOST_STILL_BOOTING")
    if host.get("pending_guidances"):
        raise refuse("HOST_PENDING_MANDATORY_GUIDANCE_NOT_EMPTY", host.ref)
    if contact.machine.stays_disabled:
        raise refuse("HOST_DISABLED_UNTIL_REBOOT", *([host.ref] if call.at_least(rules.NILE) else []))
    for pbd in call.db.rows("PBD", host["PBDs"]):
        if not pbd["currently_attached"]:
            agility.assert_not_needed(call.db, call.db.get("SR", pbd["SR"]))
    for pif in call.db.rows("PIF", host["PIFs"]):
        if not pif.get("currently_attached", True):
            pifs.assert_not_needed(call.db, pif)


@verb(*MARKS, "machine.stays_disabled")
def shutdown(call: Call, host: str) -> str:
    _halt(call, call.db.get("host", host), "shutdown")
    return ""


@verb(*MARKS, "machine.stays_disabled")
def reboot(call: Call, host: str) -> str:
    _halt(call, call.db.get("host", host), "reboot")
    return ""


def _halt(call: Call, host: Row, name: str) -> None:
    """The call returns at once; the operating system stops a little later, and with it what still runs there. Until the
    host is back it shows that it shuts down, whatever was asked."""
    with hosts.operation(call, host, name):
        machine = hosts.contact(call.pool, host).machine
        if machine.ha_daemon and not liveset.reaches(call.pool, machine):
            raise refuse("HA_LOST_STATEFILE")
        if not call.at_least(rules.BOSTON):
            hosts.assert_out_of_use(call.db, host)
        if not call.at_least(rules.KOLKATA):  # later releases say so on their way down
            hosts.keep_disabled(call, machine)
        stopping = {**host["current_operations"], call.pool.new_ref(): "shutdown"}
        call.db.write(host, current_operations=stopping)
        later(
            machine, call.pool.durations.shutdown_delay, partial(_stop, call, host, machine, then_on=name == "reboot")
        )


def _stop(call: Call, host: Row, machine: HostMachine, *, then_on: bool) -> None:
    """Guests that were left on a host have gone elsewhere since 6.0, where they could."""
    if call.db.release.order >= rules.BOSTON and call.pool.master_serves:
        poweroff.go_down(call.pool, machine, host, then_on=then_on)
    else:
        machine.shut_down(then_on)


@verb("message.*")
def assert_can_evacuate(call: Call, host: str) -> str:
    """One parameter for all guests that cannot leave: their errors joined by `|`, the parts of each by a comma."""
    errors = _kept(call, host).values()
    if errors:
        raise refuse("CANNOT_EVACUATE_HOST", "|".join(",".join(error.details) for error in errors))
    return ""


@verb("message.*")
def get_vms_which_prevent_evacuation(call: Call, ref: str) -> dict[str, list[str]]:
    return {vm: error.details for vm, error in _kept(call, ref).items()}


def _kept(call: Call, host: str) -> dict[str, Failure]:
    """The guests that cannot leave; no balancing server is asked about them."""
    plan = placement.evacuation(call.pool, call.db.get("host", host))
    return {vm: found for vm, found in plan.items() if isinstance(found, Failure)}


@verb(*MARKS, "message.*")
def evacuate(call: Call, host: str, network: str, evacuate_batch_size: int) -> Steps:
    """Migrate every guest away, each as a task of its own: one after another, since XenServer 8 several at a time, and the
    next when all of these are over. A `network` is one on which each host that takes some has an address."""
    row, db = call.db.get("host", host), call.db
    failover_plan.assert_can_disable(call.pool, row)
    with hosts.operation(call, row, "evacuate"):
        plan = workload_balancing.plan(call, row)
        for found in plan.values():
            if isinstance(found, Failure):
                raise found
        waiting = [(vm, target.ref) for vm, target in plan.items() if isinstance(target, Row)]
        options = {"live": "true"} if call.at_least(rules.MIDNIGHT_RIDE) else {}
        if network != NULL:
            for target in dict.fromkeys(target for _, target in waiting):
                pifs.assert_has_address(db, target, db.get("network", network))
            options["network"] = network
        at_once = (evacuate_batch_size if evacuate_batch_size > 0 else BATCH) if call.at_least(rules.NILE) else 1
        while waiting:
            batch, waiting = waiting[:at_once], waiting[at_once:]
            going = [subtasks.start(call, "VM.pool_migrate", vm, target, options) for vm, target in batch]
            for error in (yield from subtasks.wait(call, going)):
                if error.code != "VM_BAD_POWER_STATE" or not call.at_least(rules.CLEARWATER):  # it stopped meanwhile
                    raise error
        left = hosts.guests_of(db, row)
        if left:
            raise refuse("INTERNAL_ERROR", f"evacuate: {len(left)} VMs are still resident on {host}")
    return ""


@verb()
def get_servertime(call: Call, host: str) -> Timestamp:
    hosts.reached(call, host)
    return call.clock.stamp()


@verb()
def is_in_emergency_mode(call: Call) -> bool:
    return call.machine.xapi.mode == "emergency"


@verb()
def compute_free_memory(call: Call, host: str) -> int:
    return max(0, rules.memory_free(call.db, call.db.get("host", host)))
