"""What stands against a VM going to a host with its disks, as tables of checks: the first that finds a reason says why."""

from __future__ import annotations

from collections.abc import Callable

from . import crossing, licence, passthrough, placement, processors, rules
from .call import refuse
from .moving import Move
from .storage_drivers import capabilities

MIRRORS = ("VDI_SNAPSHOT", "VDI_MIRROR")
"""What storage must be able to do for a disk to leave it, or to come to it."""
MIRRORS_IN = ("VDI_SNAPSHOT", "VDI_MIRROR_IN")
"""What it must be able to do for a disk to come to it, since the releases that came after XenServer 8."""
STORAGE_MIGRATES = 3
"""VMs that may leave a host with their disks at the same time."""


def assert_possible(move: Move) -> None:
    """Raise the first reason why the VM cannot go."""
    licence.assert_enabled(move.call, "Storage_motion")
    if move.copies and move.vm.get("has_vendor_device"):
        licence.assert_has_vendor_device(move.call)
    for check in ACROSS if move.to.crosses else WITHIN:
        check(move)


def assert_begins(move: Move) -> None:
    """Raise for what stands against it once more when it begins: it is a copy within the pool, or too many go already."""
    if move.copies and not move.to.crosses:
        text = "Copy mode is disallowed on intra pool storage migration, try efficient alternatives, for example, "
        raise refuse("OPERATION_NOT_ALLOWED", f"{text}VM.copy/clone.")
    leaving = [
        other
        for other in move.call.db.table("VM").values()
        if other["resident_on"] == move.vm["resident_on"] and "migrate_send" in other["current_operations"].values()
    ]
    if len(leaving) > STORAGE_MIGRATES:
        raise refuse("TOO_MANY_STORAGE_MIGRATES", STORAGE_MIGRATES)


def _few_snapshots(move: Move) -> None:
    """6.1 and 6.2 moved one snapshot at the most, and none with memory."""
    snapshots = move.snapshots() if not move.call.at_least(rules.CREAM) else []
    if len(snapshots) > 1:
        raise refuse("VM_HAS_TOO_MANY_SNAPSHOTS", move.vm.ref)
    if any(snapshot["power_state"] == "Suspended" for snapshot in snapshots):
        raise refuse("VM_HAS_CHECKPOINT", move.vm.ref)


def _every_disk_mapped(move: Move) -> None:
    for vdi in move.own():
        if vdi.ref not in move.disks:
            raise refuse("VDI_NOT_IN_MAP", vdi.ref)


def _versions(move: Move) -> None:
    """The host that the VM is on, the master where it is on none, must not be newer; the error for another pool came
    with 7.1."""
    db = move.call.db
    source = db.find("host", move.vm["resident_on"]) or db.get("host", db.pool()["master"])
    if rules.at_least(move.to.host, source, db.release):
        return
    if move.to.crosses and move.call.at_least(rules.ELY):
        raise refuse("VM_HOST_INCOMPATIBLE_VERSION_MIGRATE", move.vm.ref, move.to.host.ref)
    raise refuse("NOT_SUPPORTED_DURING_UPGRADE")


def _storage_mirrors(move: Move) -> None:
    here, there = move.call.db, move.to.call.db
    comes = MIRRORS_IN if there.release.order > rules.NILE else MIRRORS
    for vdi, sr in move.moving():
        for db, storage, needed in ((here, here.get("SR", vdi["SR"]), MIRRORS), (there, sr, comes)):
            can = capabilities(db, storage["type"])
            lacking = [capability for capability in needed if capability not in can]
            if lacking:
                raise refuse("SR_DOES_NOT_SUPPORT_MIGRATION", storage.ref, ";".join(lacking))


def _boots_there(move: Move) -> None:
    placement.assert_can_boot_here(move.call.pool, move.vm, move.to.host, with_storage=False, asker=move.asker)


def _networks_stay(move: Move) -> None:
    if move.networks:
        text = "VIF mapping is not allowed for intra-pool migration -all VIFs must be on the same network"
        raise refuse("OPERATION_NOT_ALLOWED", text)


def _copied_when_halted(move: Move) -> None:
    state = move.vm["power_state"]
    if move.copies and not move.forced and state != "Halted":
        raise refuse("VM_BAD_POWER_STATE", move.vm.ref, "halted", state.lower())


def _platform_known(move: Move) -> None:
    placement.assert_platform_known(move.vm, move.to.host)


def _enabled(move: Move) -> None:
    """Looked at since 6.5: before, a VM came to a host in maintenance."""
    if move.call.at_least(rules.CREAM) and not move.to.host["enabled"]:
        raise refuse("HOST_DISABLED", move.to.host.ref)


def _enough_processors(move: Move) -> None:
    placement.assert_enough_pcpus(move.call.db, move.vm, move.to.host)


def _same_processors(move: Move) -> None:
    """What the guest was booted on: up to 6.5 the pool that it leaves compares that, since then the one that it comes to."""
    if move.asker:
        judge = move.to.call.db if move.call.at_least(rules.DUNDEE) else move.call.db
        processors.assert_compatible(judge, move.vm, move.to.host, move.asker)


def _every_interface_mapped(move: Move) -> None:
    """Since 7.0: before, one that was not came to a network of the same name."""
    if not move.call.at_least(rules.DUNDEE):
        return
    for vif in move.interfaces():
        network = move.network_of(vif)
        if network is None:
            raise refuse("VIF_NOT_IN_MAP", vif.ref)
        move.to.call.db.get("network", network)


def _cards_there(move: Move) -> None:
    for vgpu in passthrough.vgpus_of(move.call.db, move.vm):
        crossing.group_and_type(move, vgpu)


def _memory_there(move: Move) -> None:
    if move.vm["power_state"] == "Running":
        placement.assert_memory(move.to.call.pool, move.vm, move.to.host)


def _disks_may_go(move: Move) -> None:
    for vdi, _ in move.moving():
        if vdi.get("cbt_enabled"):
            raise refuse("VDI_CBT_ENABLED", vdi.ref)
        if "key_hash" in vdi.get("sm_config", {}):
            raise refuse("VDI_IS_ENCRYPTED", vdi.ref)
        if vdi.get("on_boot") == "reset":
            raise refuse("VDI_ON_BOOT_MODE_INCOMPATIBLE_WITH_OPERATION", vdi.ref)


def _storage_there(move: Move) -> None:
    """The host must have a connection to the storage; one to another pool's storage is plugged when it is needed."""
    for sr in {sr.ref: sr for _, sr in move.moving()}.values():
        pbd = crossing.connection(move.to, sr)
        if pbd is None or not (pbd["currently_attached"] or move.to.crosses):
            raise refuse("VM_REQUIRES_SR", move.vm.ref, sr.ref)


WITHIN: tuple[Callable[[Move], None], ...] = (
    *(_few_snapshots, _every_disk_mapped, _versions, _storage_mirrors, _boots_there, _networks_stay),
    *(_disks_may_go, _storage_there),
)
ACROSS: tuple[Callable[[Move], None], ...] = (
    *(_few_snapshots, _every_disk_mapped, _versions, _storage_mirrors, _copied_when_halted, _platform_known, _enabled),
    *(_enough_processors, _every_interface_mapped, _same_processors, _cards_there, _memory_there, crossing.rehearse),
    *(_disks_may_go, _storage_there),
)
"""What is looked at, in order: for a host of the VM's own pool, and for one of another."""
