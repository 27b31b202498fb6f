"""Virtual machines moving between hosts that share storage, and where they may run."""

from __future__ import annotations

from xenctl.errors import Failure

from .. import agility, placement, power, processors, rules, volumes
from ..call import Call, Steps, refuse
from ..checks import operation
from ..holding import Holding
from ..power import LIVES
from ..store import NULL, Row
from . import verbs_of

verb = verbs_of("VM")


@verb(*LIVES)
def pool_migrate(call: Call, vm: str, host: str, options: dict[str, str]) -> Steps:
    row, db, pool = call.db.get("VM", vm), call.db, call.pool
    target, forced = db.get("host", host), options.get("force") == "true"
    _assert_suits_before(call, row, target)
    if not forced:
        processors.assert_compatible(db, row, target, "pool_migrate")
    with operation(call, row, "pool_migrate", strict=not forced), Holding() as holding:
        source = power.contact(call, row)
        volumes.reach_disks(call, source, row)
        if rules.migration_refused(db, source.host, target):
            raise refuse("NOT_SUPPORTED_DURING_UPGRADE")
        if source.host is not target:
            placement.assert_can_boot_here(pool, row, target)
        there = power.reserve(call, row, target, "vm_migrate", holding)
        if "network" in options:
            _assert_reached_by(call, target, options["network"])
        yield pool.durations.migrate_setup + row["memory_static_max"] / pool.durations.migrate_rate
        power.move(call, row, source, there)
    power.announce_move(call, row, source.host, target)
    return ""


def _assert_suits_before(call: Call, vm: Row, target: Row) -> None:
    """Raise what counted before everything else, whatever the VM's state: versions from 6.0 to 7.1, storage up to 6.0."""
    source = call.db.find("host", vm["resident_on"])
    early = call.at_least(rules.BOSTON) and not call.at_least(rules.FALCON)
    if early and source is not None and rules.migration_refused(call.db, source, target):
        raise refuse("NOT_SUPPORTED_DURING_UPGRADE")
    if not call.at_least(rules.TAMPA):
        placement.assert_reaches_storage(call.db, vm, target)


def _assert_reached_by(call: Call, host: Row, network: str) -> None:
    """Raise unless `host` has an address on the network that the memory is to go over."""
    call.db.get("network", network)
    pifs = [pif for pif in (call.db.find("PIF", ref) for ref in host["PIFs"]) if pif is not None]
    pif = next((pif for pif in pifs if pif["network"] == network), None)
    if pif is None:
        raise refuse("PIF_NOT_PRESENT", host.ref, network)
    if not pif["currently_attached"]:
        raise refuse("REQUIRED_PIF_IS_UNPLUGGED", pif.ref)
    if not pif["IP"] and not pif.get("IPv6"):
        raise refuse("INTERFACE_HAS_NO_IP", pif.ref)


@verb()
def pool_migrate_complete(call: Call, vm: str, host: str) -> str:
    """What the host that a VM came to tells the master, which then makes the list of what is allowed anew."""
    call.db.get("host", host)
    call.pool.upkeep.renew("VM", call.db.get("VM", vm).ref)
    return ""


@verb(*LIVES)
def restart_device_models(call: Call, ref: str) -> Steps:
    """A migration to the host where the VM is, which gives it a new device model."""
    row = call.db.get("VM", ref)
    if row["power_state"] != "Running":
        raise refuse("VM_BAD_POWER_STATE", ref, "Running", row["power_state"])
    return pool_migrate(call, ref, row["resident_on"], {"live": "true"})  # type: ignore[no-any-return]


# --- asking


@verb()
def assert_can_boot_here(call: Call, ref: str, host: str) -> str:
    row, target = call.db.get("VM", ref), call.db.get("host", host)
    if call.at_least(rules.BOSTON) and rules.upgrading(call.db) and not rules.of_masters_version(call.db, target):
        raise refuse("VM_HOST_INCOMPATIBLE_VERSION", host, ref)
    placement.assert_can_boot_here(call.pool, row, target, asker="assert_can_boot_here")
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
def assert_agile(call: Call, ref: str) -> str:
    """Raise for a VM that not every enabled host could run."""
    agility.assert_agile(call.db, call.db.get("VM", ref))
    return ""
