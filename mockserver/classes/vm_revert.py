"""Virtual machines taken back to what a snapshot holds: fields, devices, the bytes on disks, what was in memory."""

from __future__ import annotations

from collections.abc import Generator
from typing import TYPE_CHECKING

from xenctl.errors import Failure

from .. import copies, hosts, placement, power, rules, vdis, volumes, vtpms
from ..call import Call, Steps, refuse
from ..checks import operation
from ..records import as_text, from_record
from ..store import NULL, Row
from . import verbs_of

if TYPE_CHECKING:
    from ..call import Wait

verb = verbs_of("VM")

KEPT = frozenset(
    "uuid suspend_VDI power_state parent current_operations allowed_operations metrics guest_metrics resident_on domid "
    "protection_policy snapshot_schedule scheduled_to_be_resident_on tags affinity groups is_snapshot_from_vmpp".split()
)
"""The fields that stay as they are when a VM is taken back."""
KEPT_THEN = KEPT | frozenset(
    "name_label is_a_snapshot is_a_template is_default_template snapshot_of snapshot_time transportable_snapshot_id "
    "snapshot_metadata snapshot_info".split()
)
"""Those that stay, too, where the snapshot does not say what its VM was like but only is like it."""
PASSED_ON = ("SR_BACKEND_FAILURE_44", "SR_BACKEND_FAILURE_109", "VDI_INCOMPATIBLE_TYPE")
"""The errors of storage that a caller is to see as they are."""


@verb(*copies.WRITES, *power.LIVES, "VUSB.*")
def revert(call: Call, snapshot: str) -> Steps:
    source = call.db.get("VM", snapshot)
    vm = call.db.find("VM", source.get("snapshot_of", NULL)) or _made_anew(call, source)
    early = not call.at_least(rules.DUNDEE)
    if early:
        _assert_image_in_reach(call, source)
    with operation(call, source, "revert"), operation(call, vm, "reverting"):
        if not early:
            _assert_image_in_reach(call, source)
        call.deaf = True
        call.goal = 0.1
        yield from power.stop(call, vm, call.pool.durations.vm_destroy)
        _revert_fields(call, source, vm)
        placement.assert_seen(call, vm)
        try:
            yield from _revert_devices(call, source, vm)
        except Failure as error:
            call.pool.force_halted(vm)
            if error.code in PASSED_ON:
                raise
            raise refuse("VM_REVERT_FAILED", snapshot, vm.ref) from error
    to = f"{source['name_label']} (uuid {source['uuid']})"
    power.announce(call, vm, "VM_SNAPSHOT_REVERTED", f"reverted to snapshot: {to}")
    return ""


def _assert_image_in_reach(call: Call, snapshot: Row) -> None:
    """What was in memory must be in reach before anything is dropped for it; up to 6.5 before all else."""
    if snapshot["power_state"] != "Suspended":
        return
    sr = call.db.get("SR", call.db.get("VDI", snapshot["suspend_VDI"])["SR"])
    plugged = [pbd for pbd in (call.db.find("PBD", ref) for ref in sr["PBDs"]) if pbd and pbd["currently_attached"]]
    if not plugged:
        raise refuse("SR_HAS_NO_PBDS", sr.ref)
    found = [call.db.get("host", pbd["host"]) for pbd in plugged]
    if not any(hosts.live(call.db, host) for host in found):
        raise refuse("HOST_NOT_LIVE", found[0].ref)


def _made_anew(call: Call, snapshot: Row) -> Row:
    """The VM that a snapshot is of, if it is gone: with its uuid, and with all snapshots that it had."""
    if not snapshot.get("is_a_snapshot") or not snapshot.get("snapshot_metadata"):
        raise refuse("VM_REVERT_FAILED", snapshot.ref, snapshot.get("snapshot_of", NULL))
    db, gone = call.db, snapshot["snapshot_of"]
    kept = from_record(db, "VM", snapshot["snapshot_metadata"])
    if kept["uuid"] in db.by_uuid:
        raise refuse("VM_REVERT_FAILED", snapshot.ref, gone)
    free = {"suspend_VDI": NULL, "power_state": "Halted", "current_operations": {}, "allowed_operations": []}
    metrics = db.create("VM_metrics", call.pool.new_ref(), {"uuid": call.pool.new_uuid()})
    fields = {**snapshot, **copies.RESET, **free, "uuid": kept["uuid"], "metrics": metrics.ref, "guest_metrics": NULL}
    vm = db.create("VM", call.pool.new_ref(), fields)
    _revert_fields(call, snapshot, vm)
    for other in [row for row in db.table("VM").values() if row["snapshot_of"] == gone]:
        db.write(other, snapshot_of=vm.ref)
    return vm


def _revert_fields(call: Call, snapshot: Row, vm: Row) -> None:
    """Give `vm` the fields that the snapshot says it had."""
    told = snapshot.get("snapshot_metadata", "")
    keep = KEPT if told else KEPT_THEN
    fields = from_record(call.db, "VM", told or as_text(call.db, snapshot))
    if "domain_type" in vm and fields.get("domain_type", "unspecified") == "unspecified":
        fields["domain_type"] = "hvm" if fields["HVM_boot_policy"] else "pv"
    wanted = {name: value for name, value in fields.items() if name not in keep}
    if call.db.find("VM_appliance", wanted.get("appliance", NULL)) is None:
        wanted["appliance"] = NULL
    call.db.write(vm, **{**wanted, "ha_always_run": False, "generation_id": copies.fresh_generation(call, vm)})


def _revert_devices(call: Call, snapshot: Row, vm: Row) -> Generator[float | Wait, None, None]:
    db, pool = call.db, call.pool
    for vif in [db.find("VIF", ref) for ref in vm["VIFs"]]:
        if vif is not None:
            volumes.drop_device(call, vif)
    for table in ("VUSB", "VGPU"):
        for device in db.rows(table, vm.get(f"{table}s", ())):
            db.delete(device)
    for vtpm in db.rows("VTPM", vm.get("VTPMs", ())):
        vtpms.erase(db, vtpm)
    yield from _drop_disks(call, snapshot, vm)
    call.goal = 0.8
    copied = yield from _bring_back(call, snapshot)
    image = db.find("VDI", snapshot["suspend_VDI"])
    call.goal = 1.0
    if image is not None:
        image = yield from vdis.clone(call, image)
    for vbd, vdi in copied:
        copies.copy_vbd(call, vm, vbd, vdi)
    copies.copy_rest(call, snapshot, vm, same_macs=True)
    copies.copy_metrics(call, snapshot, vm)
    db.write(vm, suspend_VDI=image.ref if image is not None else NULL, parent=snapshot.ref)
    saved = pool.guests.get(snapshot["uuid"])
    pool.guest(vm).resume_from(saved or pool.guest(vm), copies.own_disks(call, vm))
    if image is None:
        pool.force_halted(vm)
        return
    pool.guest(vm).image = pool.disks[image["uuid"]].blocks.get(0)
    db.write(vm, power_state="Suspended")


def _drop_disks(call: Call, snapshot: Row, vm: Row) -> Generator[float | Wait, None, None]:
    """Drop the disks of `vm` that the snapshot has, and its suspend image; disks that came later lose their devices, and
    so do all drives."""
    snapshots = (copies.disk_behind(call, vbd) for vbd in call.pool.vbds(snapshot))
    old = {vdi["snapshot_of"] for vdi in snapshots if vdi is not None}
    ledger = call.pool.guest(vm).ledger
    for vbd in call.pool.vbds(vm):
        vdi = copies.disk_behind(call, vbd)
        volumes.drop_device(call, vbd)
        if vdi is not None and vdi.ref in old:
            ledger.pop(vdi["uuid"], None)
            call.goal = call.reached
            yield from vdis.destroy(call, vdi)
    power.drop_image(call, vm)


def _bring_back(call: Call, snapshot: Row) -> Generator[float | Wait, None, list[tuple[Row, str]]]:
    """Clone the disks of a snapshot, each device with its clone. All snapshots of what was dropped are of the clone now."""
    out: list[tuple[Row, str]] = []
    made: list[Row] = []
    try:
        for vbd in call.pool.vbds(snapshot):
            vdi = copies.disk_behind(call, vbd)
            if vdi is None:
                out.append((vbd, NULL if vbd["empty"] else vbd["VDI"]))
                continue
            clone = yield from vdis.clone(call, vdi)
            made.append(clone)
            out.append((vbd, clone.ref))
            of = vdi["snapshot_of"]
            for other in [row for row in call.db.table("VDI").values() if of != NULL and row["snapshot_of"] == of]:
                call.db.write(other, snapshot_of=clone.ref)
    except BaseException:
        for clone in made:
            volumes.discard(call, clone)
        raise
    return out
