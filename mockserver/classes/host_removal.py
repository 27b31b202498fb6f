"""Hosts and toolstacks that go and come: declared dead, dropped from the database, switched on from afar, started anew."""

from __future__ import annotations

from .. import hosts, processors, subtasks
from ..call import Call, Steps, refuse
from ..garbage import OWNED
from ..startup import later, start_anew
from ..store import NULL, Row
from . import verbs_of

verb = verbs_of("host")

ON_PIFS = {"VLAN": "untagged_PIF", "Bond": "master", "tunnel": "access_PIF"}
"""What goes with a PIF, by the field that names it."""
METRICS = {"PIF": "PIF_metrics", "VM": "VM_metrics"}
GONE = ("host.*", "host_metrics.*", "VM.*", "VM_metrics.*", "PIF_metrics.*", "VBD.*", "console.*", "pool.cpu_info")
DROPPED = (*GONE, *(f"{table}.*" for table in (*OWNED, *ON_PIFS)))


def _gone(call: Call, ref: str) -> Row:
    """The row of a host that must not live: not this one, nor one that answers."""
    row = call.db.get("host", ref)
    machine = call.pool.machine_of(row)
    answers = machine is not None and machine.xapi.mode in ("master", "member")
    if machine is call.machine or (hosts.live(call.db, row) and answers):
        raise refuse("HOST_IS_LIVE", ref)
    return row


@verb("enabled")
def declare_dead(call: Call, host: str) -> Steps:
    """Its guests are believed to be off, so that they can start elsewhere: whoever says so knows that it does not run."""
    row = _gone(call, host)
    for vm in hosts.guests_of(call.db, row):
        yield from subtasks.run(call, "VM.power_state_reset", vm.ref)
    call.db.write(row, enabled=False)
    return ""


@verb(*DROPPED)
def destroy(call: Call, ref: str) -> str:
    """Drop the row of a host that is gone, with all that was the host's own; its storage and its guests' disks stay."""
    row = _gone(call, ref)
    if call.db.pool().get("ha_enabled"):
        raise refuse("HA_IS_ENABLED")
    if hosts.guests_of(call.db, row):
        raise refuse("HOST_HAS_RESIDENT_VMS", ref)
    drop_host(call, row)
    return ""


def drop_host(call: Call, host: Row) -> None:
    """Drop a host's row with all that was the host's own, its control domains among it."""
    for table in OWNED:
        for owned in [item for item in call.db.table(table).values() if item["host"] == host.ref]:
            _drop(call, owned)
    vms = [call.db.get("VM", ref) for ref in host["resident_VMs"]]
    for vm in [vm for vm in vms if vm["is_control_domain"]]:
        for device in call.pool.vbds(vm):
            call.db.delete(device)
        for console in [call.db.find("console", console) for console in vm["consoles"]]:
            if console is not None:
                call.db.delete(console)
        _drop(call, vm)
    metrics = call.db.find("host_metrics", host["metrics"])
    call.db.delete(host)
    if metrics is not None:
        call.db.delete(metrics)
    processors.level(call.db)
    for vm in call.db.table("VM").values():
        if vm["affinity"] == host.ref:
            call.db.write(vm, affinity=NULL)


def _drop(call: Call, row: Row) -> None:
    """A row with its metrics, and, of a PIF, what is built on it."""
    for table, field in ON_PIFS.items() if row.table == "PIF" else ():
        for built in [item for item in call.db.table(table).values() if item[field] == row.ref]:
            call.db.delete(built)
    metrics = call.db.find(METRICS[row.table], row["metrics"]) if row.table in METRICS else None
    call.db.delete(row)
    shared = metrics is not None and any(other["metrics"] == metrics.ref for other in call.db.table(row.table).values())
    if metrics is not None and not shared:
        call.db.delete(metrics)


@verb()
def restart_agent(call: Call, host: str) -> str:
    """The call returns at once; a moment later the toolstack goes, and starts again. Guests go on."""
    machine = hosts.reached(call, host).machine
    later(machine, 1.0, lambda: start_anew(machine))
    return ""


@verb("current_operations")
def power_on(call: Call, host: str) -> str:
    """Switch a host on from afar: it takes part in the pool again once it has started."""
    row = call.db.get("host", host)
    with hosts.operation(call, row, "power_on"):
        machine = call.pool.machine_of(row)
        if machine is None or machine.state != "off":
            raise refuse("INTERNAL_ERROR", 'Failure("The host failed to power on.")')
        machine.power_on()
    return ""
