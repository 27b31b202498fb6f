"""The pool's master: handed over, lost and taken over; and members that leave."""

from __future__ import annotations

from contextlib import suppress

from xenctl.errors import Failure

from .. import hosts, liveset, membership, rules, standalone, subtasks
from ..call import Call, Steps, refuse
from ..pool_operations import operation
from ..startup import await_beats, greeted, later
from ..store import EPOCH
from . import verbs_of
from .host_measures import sync_data
from .host_membership import assert_disarmed, assert_no_ha, sync_to_hosts
from .host_membership import management_reconfigure as reconfigure_host
from .host_removal import DROPPED, drop_host

verb = verbs_of("pool")

ALIVE = ("host.address", "console.location", "host.enabled", "host_metrics.live")


# --- handed over


@verb("current_operations", "last_update_sync", "host.other_config")
def designate_new_master(call: Call, host: str) -> str:
    """Every host must take part: all of them get the database, all agree, and all toolstacks start anew in a while."""
    row = call.db.get("host", host)
    with operation(call, "designate_new_master"):
        sync_data(call, host)
        new = hosts.contact(call.pool, row).machine
        if new.xapi.mode == "master":
            return ""
        assert_no_ha(call)
        call.db.write(call.db.pool(), last_update_sync=EPOCH)
        sync_database(call)
        others = [machine for machine in call.pool.machines if machine is not new]
        others.sort(key=lambda machine: machine.xapi.mode != "master")
        membership.agree(call.pool, [*others, new], new)
    return ""


@verb()
def sync_database(call: Call) -> str:
    """Every host is told to keep the database as it is now. Raises the first error, when all were told. With high
    availability the disk that it is written to is enough, while the master reaches it."""
    if not call.db.pool().get("ha_enabled") or not liveset.reaches(call.pool, call.machine):
        sync_to_hosts(call)
    return ""


# --- lost


@verb()
def emergency_transition_to_master(call: Call) -> str:
    """The host starts anew as master, with the database that it kept last."""
    assert_disarmed(call)
    membership.lead(call.machine)
    return ""


@verb()
def emergency_reset_master(call: Call, master_address: str) -> str:
    assert_disarmed(call)
    membership.follow(call.machine, membership.resolve(call.pool, master_address))
    return ""


@verb()
def recover_slaves(call: Call) -> list[str]:
    """Tell every other host to follow this one; the hosts that could be told."""
    me, out = call.pool.host_row(call.machine), list[str]()
    for row in call.db.table("host").values():
        machine = membership.owns(call.pool, row) if row is not me else None
        if machine is not None and not membership.armed(machine):
            membership.follow(machine, call.machine.address)
            out.insert(0, row.ref)
    return out


@verb(*ALIVE, "task.*")
def hello(call: Call, host_uuid: str, host_address: str) -> str:
    """A member that starts greets the master: it lives, is not ready yet, and what it was doing is over."""
    found = call.db.by_uuid.get(host_uuid)
    if found is None or found[0] != "host":
        return "unknown_host"
    row = call.db.get(*found)
    machine = call.pool.machine_of(row)
    if machine is None or not machine.answers or machine.address != host_address:
        return "cannot_talk_back"
    greeted(call.pool, row, host_address)
    for task in [task for task in call.db.table("task").values() if task["resident_on"] == row.ref]:
        if task.ref != call.task:
            call.pool.finish_task(task.ref, refuse("TASK_CANCELLED", task.ref))
    await_beats(call.pool, machine)
    return "ok"


# --- leaving


@verb("current_operations", *DROPPED)
def eject(call: Call, host: str) -> Steps:
    """A member leaves and starts anew as a pool of one, with nothing left of this pool or on its own storage."""
    db, row = call.db, call.db.get("host", host)
    with operation(call, "eject"):
        machine = hosts.contact(call.pool, row).machine
        if not call.at_least(rules.NILE):
            assert_no_ha(call)
        if machine.xapi.mode == "master":
            raise refuse("INTERNAL_ERROR", "Xapi_pool.Cannot_eject_master")
        assert_no_ha(call)
        if "apply_updates" in db.pool().get("current_operations", {}).values():
            raise refuse("NOT_SUPPORTED_DURING_UPGRADE")
        if any(vm["power_state"] != "Halted" for vm in hosts.guests_of(db, row)):
            raise refuse("OPERATION_NOT_ALLOWED", "VM resident on host")
        pbds = [db.get("PBD", ref) for ref in row["PBDs"]]
        own = [pbd["SR"] for pbd in pbds if len(db.get("SR", pbd["SR"])["PBDs"]) == 1]
        for pbd in pbds:
            yield from subtasks.run(call, "PBD.unplug", pbd.ref)
        machine.local_storage = list(dict.fromkeys([*machine.local_storage, *(db.get("SR", sr)["uuid"] for sr in own)]))
        for sr in own:
            yield from subtasks.run(call, "SR.forget", sr)
        machine.next = standalone.system(machine, machine.system.release)
        drop_host(call, row)
    later(machine, call.pool.durations.toolstack_fuse, lambda: machine.shut_down(then_on=True))
    return ""


# --- the network that hosts are managed by


@verb("PIF.management", "PIF.currently_attached", "PIF.MTU", "PIF.MAC", "host.address", "console.location")
def management_reconfigure(call: Call, network: str) -> Steps:
    """Every host by its PIF on the network, the master last; then the members are told where the master is."""
    assert_no_ha(call)
    db = call.db
    there = {db.get("PIF", ref)["host"]: db.get("PIF", ref) for ref in db.get("network", network)["PIFs"]}
    for host in db.table("host"):
        if host not in there:
            raise refuse("PIF_NOT_PRESENT", host, network)
    kinds = [pif.get("primary_address_type") for pif in there.values()]
    for pif, kind in zip(there.values(), kinds, strict=True):
        if kind != kinds[0]:
            raise refuse("PIF_INCOMPATIBLE_PRIMARY_ADDRESS_TYPE", pif.ref)
        membership.assert_manageable(db, pif)
    for host in sorted(there, key=lambda ref: ref == db.pool()["master"]):
        yield from reconfigure_host(call, there[host].ref)
    with suppress(Failure):
        recover_slaves(call)
    return ""
