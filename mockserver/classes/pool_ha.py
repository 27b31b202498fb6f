"""High availability of the pool: switching it on and off, its failover plan, and the log of the database on a disk."""

from __future__ import annotations

from xenctl.errors import Failure
from xenctl.releases import find

from .. import (
    agility,
    failover_plan,
    ha_disks,
    ha_monitor,
    hosts,
    liveset,
    messages,
    placement,
    pool_operations,
    rules,
    volumes,
)
from ..call import Call, Steps, refuse
from ..licence import assert_enabled
from ..machine.ha import StateFile
from ..store import NULL, Row
from . import host_ha, verbs_of
from .host_membership import sync_to_hosts
from .vm_settings import PRIORITIES, PRIORITIES_THEN

verb = verbs_of("pool")

PLAN = ("ha_overcommitted", "ha_plan_exists_for", "message.*")
DISKS = ("VDI.*", *volumes.MARKS)
MARKS = ("current_operations",)
STACK = "xhad"
"""The cluster stack that a pool without a cluster of its own has."""
PATIENCE = 30.0
"""Seconds between two tries to reach every host."""
NO_MIXING_SINCE = find("6.5.0").order
"""From when on hosts must be of one version."""


# --- on


@verb(
    "ha_enabled", "ha_statefiles", "ha_configuration", "ha_cluster_stack", "host.ha_statefiles", *PLAN, *DISKS, *MARKS
)
def enable_ha(call: Call, heartbeat_srs: list[str], configuration: dict[str, str]) -> Steps:
    """Every host must be there. Where one cannot take part, all lay down their arms again."""
    pool = call.db.pool()
    if "ha_enabled" not in pool:
        raise refuse("NOT_IMPLEMENTED", call.method)
    with pool_operations.operation(call, "ha_enable"):
        _assert_can_enable(call, pool)
        srs = [call.db.get("SR", ref) for ref in heartbeat_srs] or ha_disks.able(call)
        if not srs:
            raise refuse("CANNOT_CREATE_STATE_FILE")
        ha_disks.assert_can_host(call, srs[0])
        if "ha_cluster_stack" in pool:
            call.db.write(pool, ha_cluster_stack=STACK)
        statefile = yield from ha_disks.find_or_create(call, srs[0], ha_disks.kind(call, "statefile"))
        metadata = yield from ha_disks.find_or_create(call, srs[0], ha_disks.kind(call, "metadata"))
        call.db.write(pool, ha_statefiles=[statefile.ref], ha_configuration=configuration, ha_plan_exists_for=0)
        failover_plan.update_status(call.pool)
        file = call.pool.storage.statefiles[statefile["uuid"]] = StateFile()
        try:
            yield from _arm(call, statefile, metadata)
        except Failure:
            for machine in call.pool.machines:
                liveset.disarm(call.pool, machine)
            liveset.poison(call.pool, file)
            raise
        call.db.write(pool, ha_enabled=True)
        call.pool.storage.replicas.add(metadata["uuid"])
        sync_to_hosts(call)
        call.pool.upkeep.replan = True
    return ""


def _assert_can_enable(call: Call, pool: Row) -> None:
    if call.at_least(NO_MIXING_SINCE) and rules.mixed(call.db):
        raise refuse("NOT_SUPPORTED_DURING_UPGRADE")
    if pool["ha_enabled"]:
        raise refuse("HA_IS_ENABLED")
    assert_enabled(call, "HA")
    pifs = list(call.db.table("PIF").values())
    unplugged = [pif.ref for pif in pifs if pif.get("disallow_unplug") and not pif["currently_attached"]]
    if unplugged:
        raise refuse("REQUIRED_PIF_IS_UNPLUGGED", *unplugged)
    _warn_of_pifs(call, pool, pifs)
    for host in call.db.table("host").values():
        if not hosts.live(call.db, host):
            raise refuse("HOST_OFFLINE", host.ref)


def _warn_of_pifs(call: Call, pool: Row, pifs: list[Row]) -> None:
    """Tell of interfaces with an address, for storage perhaps, that anybody could unplug."""
    loose = [
        pif
        for pif in pifs
        if pif.get("ip_configuration_mode", "None") != "None"
        and call.db.find("Bond", pif.get("bond_slave_of", NULL)) is None
        and not (pif.get("disallow_unplug") or pif.get("management"))
    ]
    if not loose:
        return
    lines = [
        "A possible network anomaly was found. The following hosts possibly have storage PIFs that are not dedicated:"
    ]
    for pif in loose:
        host = call.db.get("host", pif["host"])
        lines.append(f"{host['name_label']}: {pif['device']} (uuid: {pif['uuid']})")
    name, body = "IP_CONFIGURED_PIF_CAN_UNPLUG", "\n".join(lines)
    messages.post(call.pool, name, priority=3, cls="Pool", uuid=pool["uuid"], body=body)


def _arm(call: Call, statefile: Row, metadata: Row) -> Steps:
    """Configure every host, one after another; then all take part at once, the master first."""
    contacts = hosts.contact_all(call)
    for contact in contacts:
        host_ha.configure(call, contact.host, contact.check(), [statefile], metadata)
    yield call.pool.durations.ha_join
    for contact in sorted(contacts, key=lambda contact: contact.machine is not call.machine):
        host_ha.join(call, contact)


# --- off


@verb("ha_enabled", "ha_plan_exists_for", *MARKS)
def disable_ha(call: Call) -> Steps:
    """The state file tells it to every host; where the master does not reach that, every host must be told, however long it
    takes. The disks stay, for the next time."""
    with pool_operations.operation(call, "ha_disable"):
        pool = call.db.pool()
        if not pool.get("ha_enabled"):
            raise refuse("HA_NOT_ENABLED")
        metadata = {u for m in call.pool.machines for u, reason in m.system.static_vdis if reason == liveset.METADATA}
        file = liveset.state_file(call.pool, call.machine)
        if file is not None and liveset.reaches(call.pool, call.machine):
            liveset.poison(call.pool, file)
            call.db.write(pool, ha_plan_exists_for=0)
        else:
            yield from _tell_every_host(call)
        call.db.write(pool, ha_enabled=False)
        yield call.pool.durations.ha_join
        for machine in call.pool.machines:
            if machine.xapi.mode in ("master", "member"):
                liveset.disarm(call.pool, machine)
            else:
                liveset.start_again(call.pool, machine)
        _stop_logging(call, metadata)
    return ""


def _tell_every_host(call: Call) -> Steps:
    while True:
        try:
            contacts = hosts.contact_all(call)
        except Failure:
            yield PATIENCE
            continue
        for contact in contacts:
            host_ha.forbid_decisions(contact.machine)
        return


def _stop_logging(call: Call, uuids: set[str]) -> None:
    """Leave on disks the database as it is now; one that is the pool's own log goes on."""
    pool = call.db.pool()
    log = call.db.find("VDI", pool.get("redo_log_vdi", NULL)) if pool.get("redo_log_enabled") else None
    for uuid in uuids:
        found = call.db.by_uuid.get(uuid)
        if found is not None:
            volumes.current(call.pool, call.db.get(*found))
        if log is None or log["uuid"] != uuid:
            call.pool.storage.replicas.discard(uuid)
    if log is not None:
        call.pool.storage.replicas.add(log["uuid"])


# --- the plan


@verb()
def ha_prevent_restarts_for(call: Call, seconds: int) -> str:
    """For so many seconds lost hosts are not looked at, and no VM is started; with 0 at once. Also while it is off."""
    ha_monitor.prevent_restarts(call.pool, call.machine, float(seconds))
    return ""


@verb()
def ha_failover_plan_exists(call: Call, n: int) -> bool:
    return failover_plan.exists(call.pool, n)


@verb(*PLAN)
def ha_compute_max_host_failures_to_tolerate(call: Call) -> int:
    """While it is on, the pool says afterwards what was found."""
    most, pool = failover_plan.most_failures(call.pool), call.db.pool()
    if pool["ha_enabled"]:
        call.db.write(pool, ha_overcommitted=pool["ha_host_failures_to_tolerate"] > most)
        failover_plan.write_plan(call.pool, most)
    return most


@verb()
def ha_compute_hypothetical_max_host_failures_to_tolerate(call: Call, configuration: dict[str, str]) -> int:
    """As if just these VMs had these priorities."""
    known = PRIORITIES if call.at_least(rules.BOSTON) else PRIORITIES_THEN
    for priority in configuration.values():
        if priority not in known:
            raise refuse("INVALID_VALUE", "ha_restart_priority", priority)
    vms = [call.db.get("VM", ref) for ref, priority in configuration.items() if priority not in ("", "best-effort")]
    return failover_plan.most_failures(call.pool, vms=vms)


@verb()
def ha_compute_vm_failover_plan(
    call: Call, failed_hosts: list[str], failed_vms: list[str]
) -> dict[str, dict[str, str]]:
    """For each VM the host it would start on, or the code of the error that keeps it."""
    db, vms = call.db, [call.db.get("VM", ref) for ref in failed_vms]
    left = [host for host in db.table("host").values() if hosts.live(db, host) and host.ref not in failed_hosts]
    plan = {vm: {"host": host} for vm, host in placement.packed(db, vms, left).items()}
    for vm in vms:
        if vm.ref not in plan:
            plan[vm.ref] = {"error_code": _obstacle(call, vm)}
    return plan


def _obstacle(call: Call, vm: Row) -> str:
    try:
        agility.assert_agile(call.db, vm)
    except Failure as error:
        return error.code
    return "HOST_NOT_ENOUGH_FREE_MEMORY"


@verb("ha_host_failures_to_tolerate", *PLAN)
def set_ha_host_failures_to_tolerate(call: Call, ref: str, value: int) -> str:
    """Refused where it would break a plan that exists; where there is none it may be anything."""
    row = call.db.get("pool", ref)
    if value < 0:
        raise refuse("INVALID_VALUE", "ha_host_failures_to_tolerate", value)
    if row["ha_plan_exists_for"] > 0:
        failover_plan.assert_kept(call.pool, failover_plan.Change(failures=value))
    call.db.write(row, ha_host_failures_to_tolerate=value)
    failover_plan.update_status(call.pool)
    return ""


@verb()
def ha_schedule_plan_recomputation(call: Call) -> str:
    ha_monitor.replan(call.pool, call.pool.master)
    return ""


# --- the log of the database


@verb("redo_log_enabled", "redo_log_vdi", *DISKS)
def enable_redo_log(call: Call, sr: str) -> Steps:
    """From now on a disk there holds the pool's database, whenever somebody looks."""
    row, pool = call.db.get("SR", sr), call.db.pool()
    try:
        vdi = yield from ha_disks.find_or_create(call, row, ha_disks.kind(call, "redo_log"))
    except Failure as error:
        text = "failed to create a VDI for the redo log on the SR with the given UUID."
        raise refuse("CANNOT_ENABLE_REDO_LOG", text) from error
    try:
        contacts = hosts.contact_all(call)
    except Failure as error:
        raise refuse("CANNOT_ENABLE_REDO_LOG", "failed to make VDI static.") from error
    for contact in contacts:
        host_ha.attach(contact.machine, {vdi["uuid"]: liveset.REDO_LOG})
    call.db.write(pool, redo_log_vdi=vdi.ref, redo_log_enabled=True)
    if not pool["ha_enabled"]:
        call.pool.storage.replicas.add(vdi["uuid"])
    return ""


@verb("redo_log_enabled")
def disable_redo_log(call: Call) -> str:
    """The disk stays, with the database as it is now."""
    pool = call.db.pool()
    vdi = call.db.find("VDI", pool["redo_log_vdi"])
    call.db.write(pool, redo_log_enabled=False)
    if vdi is not None and not pool["ha_enabled"]:
        _stop_logging(call, {vdi["uuid"]})
        for machine in call.pool.machines:
            if machine.xapi.mode in ("master", "member"):
                host_ha.detach(machine, {vdi["uuid"]})
    return ""
