"""Virtual machines moving between hosts, and where they may run."""

from __future__ import annotations

from collections.abc import Iterator

from xenctl.errors import Failure

from .. import agility, placement, power, processors, rules, vm_rules, volumes
from ..call import Call, Steps, refuse
from ..checks import operation
from ..holding import Holding
from ..power import LIVES
from ..storage_drivers import capabilities
from ..store import NULL, Row
from ..vdis import MOVED
from . import verbs_of

verb = verbs_of("VM")

STORAGE_MIGRATES = 3
"""VMs that may leave a host with their disks at the same time."""
MIRRORS = ("VDI_SNAPSHOT", "VDI_MIRROR")
"""What storage must be able to do for a disk to leave it, or to come to it."""
MIRRORS_IN = ("VDI_SNAPSHOT", "VDI_MIRROR_IN")
"""What it must be able to do for a disk to come to it, since the releases that came after XenServer 8."""


# --- within shared storage


@verb(*LIVES)
def pool_migrate(call: Call, vm: str, host: str, options: dict[str, str]) -> Steps:
    row, db, pool = call.db.get("VM", vm), call.db, call.pool
    target, forced = db.get("host", host), options.get("force") == "true"
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
    _announce(call, row, source.host, target)
    return ""


def _announce(call: Call, vm: Row, source: Row, target: Row) -> None:
    names = [f"host '{host['name_label']}' (uuid: {host['uuid']})" for host in (source, target)]
    power.announce(call, vm, "VM_MIGRATED", f"migrated from {names[0]} to {names[1]}")


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


# --- with disks


@verb()
def assert_can_migrate(
    call: Call,
    vm: str,
    dest: dict[str, str],
    live: bool,
    vdi_map: dict[str, str],
    vif_map: dict[str, str],
    options: dict[str, str],
    vgpu_map: dict[str, str],
) -> str:
    asker = _asker(call, live, options)
    _assert_migrates(call, call.db.get("VM", vm), _destination(call, dest), vdi_map, vif_map, asker)
    return ""


@verb()
def assert_can_migrate_sender(
    call: Call,
    vm: str,
    dest: dict[str, str],
    live: bool,
    vdi_map: dict[str, str],
    vif_map: dict[str, str],
    vgpu_map: dict[str, str],
    options: dict[str, str],
) -> str:
    """What only the host can tell that the VM leaves: that it is there, and has nothing of it that cannot go."""
    row = call.db.get("VM", vm)
    _destination(call, dest)
    if row["power_state"] in ("Running", "Paused"):
        power.contact(call, row)
        refused = vm_rules.pinned(call.db, row, "migrate_send", strict=True)
        if refused is not None:
            raise refused
    return ""


def _destination(call: Call, dest: dict[str, str]) -> Row:
    """The host that `host.migrate_receive` told of. Only one of this pool can be reached."""
    if "host" not in dest:
        raise refuse("INTERNAL_ERROR", "Not_found")
    host = call.db.find("host", dest["host"])
    if host is None:
        raise refuse("NOT_IMPLEMENTED", "VM.migrate_send to another pool")
    return host


def _disks(call: Call, vm: Row) -> list[Row]:
    vbds = (vbd for vbd in call.pool.vbds(vm) if vbd["type"] != "CD" and not vbd["empty"])
    return [vdi for vdi in (call.db.find("VDI", vbd["VDI"]) for vbd in vbds) if vdi is not None]


def _asker(call: Call, live: bool, options: dict[str, str]) -> str:
    """On whose behalf processors are looked at: not if forced, and up to 6.5 only for what is to go on running."""
    wanted = options.get("force") != "true" and (live or call.at_least(rules.DUNDEE))
    return "migrate_send" if wanted else ""


def _assert_migrates(
    call: Call, vm: Row, target: Row, vdi_map: dict[str, str], vif_map: dict[str, str], asker: str
) -> None:
    """Raise the first reason why `vm` cannot go to `target` with its disks on the storage that `vdi_map` names."""
    db = call.db
    for vdi in _disks(call, vm):
        if vdi.ref not in vdi_map:
            raise refuse("VDI_NOT_IN_MAP", vdi.ref)
    source = db.find("host", vm["resident_on"]) or db.get("host", db.pool()["master"])
    if not rules.at_least(target, source, db.release):
        raise refuse("NOT_SUPPORTED_DURING_UPGRADE")
    moving = list(_moving(call, vm, vdi_map))
    comes = MIRRORS_IN if db.release.order > rules.NILE else MIRRORS
    for vdi, sr in moving:
        for storage, needed in ((db.get("SR", vdi["SR"]), MIRRORS), (sr, comes)):
            can = capabilities(db, storage["type"])
            lacking = [capability for capability in needed if capability not in can]
            if lacking:
                raise refuse("SR_DOES_NOT_SUPPORT_MIGRATION", storage.ref, ";".join(lacking))
    placement.assert_can_boot_here(call.pool, vm, target, with_storage=False, asker=asker)
    if vif_map:
        text = "VIF mapping is not allowed for intra-pool migration -all VIFs must be on the same network"
        raise refuse("OPERATION_NOT_ALLOWED", text)
    for vdi, _ in moving:
        if vdi.get("cbt_enabled"):
            raise refuse("VDI_CBT_ENABLED", vdi.ref)
        if "key_hash" in vdi.get("sm_config", {}):
            raise refuse("VDI_IS_ENCRYPTED", vdi.ref)
        if vdi.get("on_boot") == "reset":
            raise refuse("VDI_ON_BOOT_MODE_INCOMPATIBLE_WITH_OPERATION", vdi.ref)
    for sr in {sr.ref: sr for _, sr in moving}.values():
        if not any(_plugged_at(call, sr, target)):
            raise refuse("VM_REQUIRES_SR", vm.ref, sr.ref)


def _plugged_at(call: Call, sr: Row, host: Row) -> Iterator[bool]:
    for pbd in (call.db.find("PBD", ref) for ref in sr["PBDs"]):
        yield pbd is not None and pbd["host"] == host.ref and bool(pbd["currently_attached"])


def _moving(call: Call, vm: Row, vdi_map: dict[str, str]) -> Iterator[tuple[Row, Row]]:
    """The disks of `vm` that change their storage, each with where it goes."""
    image = call.db.find("VDI", vm["suspend_VDI"])
    for vdi in [*_disks(call, vm), *([image] if image is not None else [])]:
        sr = call.db.get("SR", vdi_map[vdi.ref]) if vdi.ref in vdi_map else None
        if sr is not None and vdi["SR"] != sr.ref:
            yield vdi, sr


@verb(*LIVES, "suspend_SR")
def migrate_send(
    call: Call,
    vm: str,
    dest: dict[str, str],
    live: bool,
    vdi_map: dict[str, str],
    vif_map: dict[str, str],
    options: dict[str, str],
    vgpu_map: dict[str, str],
    vdi_format_map: dict[str, str],
) -> Steps:
    """Move a VM to a host of this pool, its disks and those of its snapshots to other storage; it goes on running."""
    row, db = call.db.get("VM", vm), call.db
    target = _destination(call, dest)
    with operation(call, row, "migrate_send"), Holding() as holding:
        _assert_migrates(call, row, target, vdi_map, vif_map, _asker(call, live, options))
        _assert_not_too_many(call, row)
        source = power.contact(call, row) if row["power_state"] == "Running" else None
        if source is not None:
            volumes.reach_disks(call, source, row)
        there = power.reserve(call, row, target, "vm_migrate", holding)
        moving = dict(_with_snapshots(call, row, vdi_map))
        total = sum(db.get("VDI", ref)["virtual_size"] for ref in moving) + row["memory_static_max"]
        copies: dict[str, Row] = {}
        holding.at_end(_drop_unused, call, copies)
        for ref, sr in moving.items():
            vdi = db.get("VDI", ref)
            call.goal = call.reached + vdi["virtual_size"] / total
            fields = {name: vdi[name] for name in MOVED if name in vdi}
            copies[ref] = volumes.make(call, sr, volumes.fitting_size(sr, vdi["virtual_size"]), **fields)
            yield from volumes.pour(call, there, vdi, copies[ref])
        if source is not None:
            yield call.pool.durations.migrate_setup + row["memory_static_max"] / call.pool.durations.migrate_rate
            source.check()
        there.check()
        for old, new in [(db.get("VDI", ref), copies[ref]) for ref in moving]:
            _switch(call, old, new)
            del copies[old.ref]
        if source is not None:
            power.move(call, row, source, there)
        suspend_sr = db.find("SR", row.get("suspend_SR", NULL))
        if suspend_sr is not None and not any(_plugged_at(call, suspend_sr, target)):
            db.write(row, suspend_SR=NULL)
    if source is not None:
        _announce(call, row, source.host, target)
    return vm


def _assert_not_too_many(call: Call, vm: Row) -> None:
    leaving = [
        other
        for other in call.db.table("VM").values()
        if other["resident_on"] == vm["resident_on"] and "migrate_send" in other["current_operations"].values()
    ]
    if len(leaving) > STORAGE_MIGRATES:
        raise refuse("TOO_MANY_STORAGE_MIGRATES", STORAGE_MIGRATES)


def _with_snapshots(call: Call, vm: Row, vdi_map: dict[str, str]) -> Iterator[tuple[str, Row]]:
    """The disks that move, by reference, with where each goes; the disks of a snapshot follow those that they are of."""
    homes = {vdi.ref: sr for vdi, sr in _moving(call, vm, vdi_map)}
    yield from homes.items()
    for snapshot in (call.db.find("VM", ref) for ref in vm.get("snapshots", ())):
        for vdi in _disks(call, snapshot) if snapshot is not None else ():
            if vdi.ref not in homes and vdi["snapshot_of"] in homes:
                yield vdi.ref, homes[vdi["snapshot_of"]]


def _drop_unused(call: Call, copies: dict[str, Row]) -> None:
    """After a failure: the copies that nothing came to."""
    for vdi in copies.values():
        volumes.discard(call, vdi)


def _switch(call: Call, old: Row, new: Row) -> None:
    """Put a copy in the place of a disk, with all that was written to it meanwhile, and drop the disk."""
    db, pool, now = call.db, call.pool, call.clock.now()
    disk, before = pool.disks[new["uuid"]], pool.disks[old["uuid"]]
    disk.blocks = dict(volumes.content(call, old).blocks)
    for domain in list(before.writers):
        domain.close(before, now)
        domain.open(disk, now)
    for vbd in [db.find("VBD", ref) for ref in old["VBDs"]]:
        if vbd is not None:
            ledger = pool.guest(db.get("VM", vbd["VM"])).ledger
            if old["uuid"] in ledger:
                ledger[new["uuid"]] = ledger.pop(old["uuid"])
            db.write(vbd, VDI=new.ref)
    for snapshot in [vdi for vdi in db.table("VDI").values() if vdi.get("snapshot_of") == old.ref]:
        db.write(snapshot, snapshot_of=new.ref)
    for vm in [row for row in db.table("VM").values() if row["suspend_VDI"] == old.ref]:
        db.write(vm, suspend_VDI=new.ref)
    volumes.drop(call, old)


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
