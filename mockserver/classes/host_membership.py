"""Hosts as parts of a pool: proposed as master and told of one, what they keep, and how they are reached."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from .. import hosts, licence, membership, pifs
from ..call import Call, Steps, refuse
from ..joining import RESTRICTED_SIZE
from ..startup import await_beats, gather, later, members_lost, synchronise_management, toolstack_died
from ..store import NULL, Row
from . import verbs_of

if TYPE_CHECKING:
    from ..pool import MockPool

verb = verbs_of("host")

LAST_BREATH = 1.0
"""Seconds until a toolstack that was told to go is gone."""


def assert_no_ha(call: Call) -> None:
    """Raise while high availability is on."""
    if call.db.pool().get("ha_enabled"):
        raise refuse("HA_IS_ENABLED")


def assert_disarmed(call: Call) -> None:
    """Raise where high availability is armed on this host: its own files tell, since it may have lost the database."""
    if membership.armed(call.machine):
        raise refuse("HA_IS_ENABLED")


# --- the row of a host that joins


@verb("*", "host_metrics.*")
def create(call: Call, *values: Any) -> str:
    names = [param.name for param in call.message.params]
    fields = dict(zip(names, values, strict=True))
    if licence.restricted(call, "Pool_size") and len(call.db.table("host")) >= RESTRICTED_SIZE:
        raise refuse("LICENCE_RESTRICTION", "Pool_size")
    return create_row(call.pool, fields.pop("uuid"), fields).ref


def create_row(pool: MockPool, uuid: str, fields: Mapping[str, Any]) -> Row:
    """A host that has not started as a member yet: not live, disabled, of no known hardware."""
    store = pool.store
    master = store.find("host", store.pool()["master"])
    known: dict[str, Any] = {
        **({"software_version": dict(master["software_version"])} if master is not None else {}),
        **fields,
        "uuid": uuid,
        "name_description": "Default install",
        "enabled": False,
        "ssl_legacy": False,
        "API_version_major": store.release.api_version[0],
        "API_version_minor": store.release.api_version[1],
        "API_version_vendor": "XenSource",
        "sched_policy": "credit",
        "virtual_hardware_platform_versions": [0],
        "tls_verification_enabled": bool(store.pool().get("tls_verification_enabled")),
    }
    if not known.get("local_cache_sr") or known["local_cache_sr"] not in store.table("SR"):
        known["local_cache_sr"] = NULL
    host = store.create("host", pool.new_ref(), known)
    metrics = {"uuid": pool.new_uuid(), "live": False, "last_updated": pool.clock.stamp()}
    store.write(host, metrics=store.create("host_metrics", pool.new_ref(), metrics).ref)
    return host


# --- who is to be master


@verb()
def propose_new_master(call: Call, address: str, manual: bool) -> str:
    membership.propose(call.machine, address)
    return ""


@verb()
def commit_new_master(call: Call, address: str) -> str:
    membership.commit(call.machine, address)
    return ""


@verb()
def abort_new_master(call: Call, address: str) -> str:
    membership.abort(call.machine)
    return ""


@verb()
def update_master(call: Call, host: str, master_address: str) -> str:
    machine = hosts.reached(call, host).machine
    if membership.armed(machine):
        raise refuse("HA_IS_ENABLED")
    membership.follow(machine, membership.resolve(call.pool, master_address))
    return ""


# --- what a host keeps


@verb()
def request_backup(call: Call, host: str, generation: int, force: bool) -> str:
    """Keep the pool's database as it is now; unless forced, only where another one is kept."""
    machine = hosts.reached(call, host).machine
    if force or generation != membership.backed_up(machine):
        membership.back_up(call.pool, machine)
    return ""


def sync_to_hosts(call: Call) -> None:
    """Have every host keep the database as it is now. Raises the first error, when all were told."""
    hosts.each(list(call.db.table("host")), lambda host: request_backup(call, host, call.db.generation, True))


@verb()
def request_config_file_sync(call: Call, host: str, hash: str) -> str:  # noqa: A002 - the API's name for it
    """Take over the files that are the same on all hosts: root's password."""
    machine = hosts.reached(call, host).machine
    machine.system.password = call.pool.master.system.password
    return ""


@verb()
def set_localdb_key(call: Call, host: str, key: str, value: str) -> str:
    machine = hosts.reached(call, host).machine
    machine.system.local[key] = value
    return ""


@verb("host_metrics.live")
def tickle_heartbeat(call: Call, host: str, stuff: dict[str, str]) -> dict[str, str]:
    """A member says that it lives; or that it is about to stop."""
    row = call.db.get("host", host)
    machine = call.pool.machine_of(row)
    if "shutting-down" in stuff:
        hosts.set_live(call.db, row, alive=False)
    elif machine is not None and machine is not call.pool.master:
        hosts.set_live(call.db, row, alive=True)
        await_beats(call.pool, machine)
    return {}


# --- whether it is reached


@verb("enabled", "host_metrics.live")
def shutdown_agent(call: Call) -> str:
    """The toolstack goes in a moment, and does not come back before the host starts."""
    machine, xapi = call.machine, call.machine.xapi
    row = call.pool.host_row(machine) if xapi.mode in ("master", "member") else None
    if row is not None:
        call.db.write(row, enabled=False)
        if xapi.mode == "member":
            hosts.set_live(call.db, row, alive=False)
    later(machine, LAST_BREATH, lambda: toolstack_died(machine.pool, machine))
    return ""


@verb("PIF.management", "PIF.currently_attached", "PIF.MTU", "PIF.MAC", "address", "console.location")
def management_reconfigure(call: Call, pif: str) -> Steps:
    """From then on the host is reached by that PIF, at its address where it has one that is known."""
    assert_no_ha(call)
    db, row = call.db, call.db.get("PIF", pif)
    host = db.get("host", row["host"])
    contact = hosts.contact(call.pool, host)
    if row.get("managed", True):
        membership.assert_manageable(db, row)
    if row["management"]:
        return ""
    pifs.assert_displaceable(db, row, management=True)
    yield call.pool.durations.device
    machine = contact.check()
    pifs.bring_up(call, row)
    machine.system.management = db.get("network", row["network"])["bridge"]
    synchronise_management(call.pool, machine, host)
    if row["ip_configuration_mode"] == "Static" and row["IP"]:
        machine.address = row["IP"]
        hosts.readdress(db, host, row["IP"])
    call.pool.on_machine(machine)
    if machine.xapi.mode == "master":
        gather(call.pool, machine)
    return ""


@verb("PIF.management")
def management_disable(call: Call) -> str:
    """Nobody reaches the master over the network any more, its members no more than clients."""
    assert_no_ha(call)
    machine = call.machine
    if machine.system.role != "master":
        raise refuse("SLAVE_REQUIRES_MANAGEMENT_INTERFACE")
    row = call.pool.host_row(machine)
    machine.system.management = "none"
    if row is not None:
        synchronise_management(call.pool, machine, row)
    members_lost(call.pool)
    call.clock.after(0.0, lambda: call.pool.on_machine(machine))  # who is connected still hears the answer
    return ""


@verb()
def local_management_reconfigure(call: Call, interface: str) -> str:
    """For a host that waits for its master: be reached by a bridge; the database learns of it at the next start."""
    if call.machine.xapi.mode != "emergency":
        raise refuse("NOT_IN_EMERGENCY_MODE")
    host = call.pool.host_row(call.machine)
    rows = [call.db.get("PIF", ref) for ref in host["PIFs"]] if host is not None else []
    if interface not in {call.db.get("network", row["network"])["bridge"] for row in rows}:
        raise refuse("INTERNAL_ERROR", f"Network_error: Interface_does_not_exist {interface}")
    call.machine.system.management = interface
    call.pool.on_machine(call.machine)
    return ""
