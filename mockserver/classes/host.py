"""Hosts: enabling, disabling, emptying, halting."""

from __future__ import annotations

from xenctl.errors import Failure
from xenctl.values import Timestamp

from .. import agility, failover_plan, ha_monitor, hosts, liveset, rules, subtasks, workload_balancing
from ..call import Call, Steps, Wait, refuse
from ..startup import later
from ..store import Row
from . import verbs_of

verb = verbs_of("host")

MARKS = ("current_operations",)
BATCH = 10
"""Guests that leave a host at the same time, since 5.6."""


@verb("enabled")
def disable(call: Call, host: str, auto_enable: bool) -> str:
    row = call.db.get("host", host)
    failover_plan.assert_can_disable(call.pool, row)
    call.db.write(row, enabled=False)
    return ""


@verb("enabled")
def enable(call: Call, host: str) -> str:
    row = call.db.get("host", host)
    contact = hosts.contact(call.pool, row)
    if not contact.machine.xapi.complete:
        raise refuse("HOST_STILL_BOOTING")
    if row.get("pending_guidances") and not row["enabled"]:
        raise refuse("HOST_PENDING_MANDATORY_GUIDANCE_NOT_EMPTY", host)
    if contact.machine.stays_disabled:
        raise refuse("HOST_DISABLED_UNTIL_REBOOT", host)
    for pbd in (call.db.get("PBD", ref) for ref in row["PBDs"]):
        if not pbd["currently_attached"]:
            agility.assert_not_needed(call.db, call.db.get("SR", pbd["SR"]))
    call.db.write(row, enabled=True)
    ha_monitor.host_enabled(call.pool)
    return ""


@verb(*MARKS)
def shutdown(call: Call, host: str) -> str:
    _halt(call, call.db.get("host", host), "shutdown")
    return ""


@verb(*MARKS)
def reboot(call: Call, host: str) -> str:
    _halt(call, call.db.get("host", host), "reboot")
    return ""


def _halt(call: Call, host: Row, name: str) -> None:
    """The call returns at once; the operating system stops a little later, and with it what still runs there."""
    with hosts.operation(call, host, name):
        machine = hosts.contact(call.pool, host).machine
        if machine.ha_daemon and not liveset.reaches(call.pool, machine):
            raise refuse("HA_LOST_STATEFILE")
        if call.db.release.order <= rules.GEORGE:
            for vm in hosts.guests_of(call.db, host):
                if vm["power_state"] in ("Running", "Paused"):
                    raise refuse("HOST_IN_USE", host.ref, "vm", vm.ref)
        later(machine, call.pool.durations.shutdown_delay, lambda: machine.shut_down(name == "reboot"))


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
    plan = workload_balancing.plan(call, call.db.get("host", host))
    return {vm: found for vm, found in plan.items() if isinstance(found, Failure)}


@verb(*MARKS, "message.*")
def evacuate(call: Call, host: str, network: str, evacuate_batch_size: int) -> Steps:
    """Migrate every guest away, each as a task of its own: one after another up to 5.5, several at a time since."""
    row, db = call.db.get("host", host), call.db
    failover_plan.assert_can_disable(call.pool, row)
    with hosts.operation(call, row, "evacuate"):
        plan = workload_balancing.plan(call, row)
        for found in plan.values():
            if isinstance(found, Failure):
                raise found
        waiting = [(vm, target.ref) for vm, target in plan.items() if isinstance(target, Row)]
        at_once = 1 if db.release.order <= rules.GEORGE else evacuate_batch_size or BATCH
        going: list[str] = []
        while waiting or going:
            while waiting and len(going) < at_once:
                vm, target = waiting.pop(0)
                going.append(subtasks.start(call, "VM.pool_migrate", vm, target, {"live": "true"}))
            until = call.clock.now() + subtasks.PATIENCE
            yield Wait(until, lambda: any(subtasks.over(call.db, task) for task in going), idle=False)
            for task in [task for task in going if subtasks.over(call.db, task)]:
                going.remove(task)
                for error in (yield from subtasks.wait(call, [task])):
                    if error.code != "VM_BAD_POWER_STATE":  # a guest that stopped meanwhile is in nobody's way
                        raise error
        left = hosts.guests_of(db, row)
        if left:
            raise refuse("INTERNAL_ERROR", f"{len(left)} guests are left on {host}")
    return ""


@verb()
def get_servertime(call: Call, host: str) -> Timestamp:
    call.db.get("host", host)
    return call.clock.stamp()


@verb()
def is_in_emergency_mode(call: Call) -> bool:
    return call.machine.xapi.mode == "emergency"


@verb()
def compute_free_memory(call: Call, host: str) -> int:
    return max(0, rules.memory_free(call.db, call.db.get("host", host)))
