"""Virtual machines copied: snapshots, checkpoints, clones, full copies."""

from __future__ import annotations

from typing import TYPE_CHECKING

from xenctl.errors import Failure
from xenctl.values import Timestamp

from .. import guests, placement, power
from ..call import Call, Steps, refuse
from ..checks import operation
from ..copies import WRITES, Copy, duplicate, snapshot_info
from ..licence import assert_enabled
from ..rules import CLEARWATER, COWLEY, MIDNIGHT_RIDE, TAMPA
from ..storage_drivers import capabilities
from ..store import Row
from ..vm_rules import QUIESCES
from . import verbs_of

if TYPE_CHECKING:
    from collections.abc import Generator

    from ..call import Wait

verb = verbs_of("VM")


@verb(*WRITES)
def snapshot(call: Call, vm: str, new_name: str, ignore_vdis: list[str]) -> Steps:
    row = call.db.get("VM", vm)
    with operation(call, row, "snapshot"):
        placement.assert_seen(call, row)
        new = yield from duplicate(call, row, new_name, Copy("snapshot", snapshot=True), leave_out=ignore_vdis)
    power.announce(call, row, "VM_SNAPSHOTTED", f"snapshotted, snapshot name: {new_name}")
    return new.ref


@verb(*WRITES)
def snapshot_with_quiesce(call: Call, vm: str, new_name: str) -> Steps:
    """A snapshot for which the guest holds its writes, up to 8.0; its agent must be able to."""
    row = call.db.get("VM", vm)
    with operation(call, row, "snapshot_with_quiesce" if call.at_least(MIDNIGHT_RIDE) else "snapshot"):
        placement.assert_seen(call, row)
        assert_quiesces(call, row)
        how = Copy("snapshot", snapshot=True)
        new = yield from duplicate(call, row, new_name, how, info=snapshot_info(row, "quiesced"))
    return new.ref


def assert_quiesces(call: Call, vm: Row) -> None:
    """Raise for a guest whose agent cannot hold its writes."""
    agent = call.db.find("VM_guest_metrics", vm["guest_metrics"])
    other = agent["other"] if agent is not None else {}
    if any(other.get(feature) == "1" for feature in QUIESCES):
        return
    if not call.at_least(MIDNIGHT_RIDE):
        raise refuse("VM_SNAPSHOT_FAILED", "Quiesce snapshot not supported")
    raise refuse("VM_SNAPSHOT_WITH_QUIESCE_NOT_SUPPORTED", vm.ref)


@verb(*WRITES, *power.LIVES)
def checkpoint(call: Call, vm: str, new_name: str) -> Steps:
    """A snapshot with what is in memory. A running VM is saved for it and goes on where it was, whatever came of it. Since
    6.1 the snapshot says that the VM ran, and of any other VM nothing; before, it found every VM suspended."""
    row = call.db.get("VM", vm)
    with operation(call, row, "checkpoint"):
        if row["power_state"] != "Running":
            placement.assert_seen(call, row)
        assert_enabled(call, "Checkpoint")
        how, runs = Copy("checkpoint", snapshot=True), row["power_state"] == "Running"
        info = (snapshot_info(row) if runs else {}) if call.at_least(TAMPA) else None
        if runs:
            new = yield from _saved_meanwhile(call, row, new_name, how, info)
        else:
            new = yield from duplicate(call, row, new_name, how, info=info)
    power.announce(call, row, "VM_CHECKPOINTED", f"checkpointed, snapshot name: {new_name}")
    return new.ref


def _saved_meanwhile(
    call: Call, vm: Row, name: str, how: Copy, info: dict[str, str] | None
) -> Generator[float | Wait, None, Row]:
    _assert_snapshots(call, vm)
    there, error, new = power.contact(call, vm), None, None
    call.goal = 0.4
    yield from power.save(call, vm)
    try:
        call.goal = 0.6
        try:
            new = yield from duplicate(call, vm, name, how, info=info)
        except Failure as failed:
            error = failed
        call.deaf = True
        yield from power.wake(call, vm, there, paused=False)
    finally:
        if vm["power_state"] == "Suspended":
            guests.placeless(call.pool, vm)
    if new is None:
        raise error or refuse("VM_CHECKPOINT_SUSPEND_FAILED", vm.ref)
    return new


def _assert_snapshots(call: Call, vm: Row) -> None:
    """Raise unless all storage of a VM's disks can make snapshots."""
    for vbd in call.pool.vbds(vm):
        vdi = call.db.find("VDI", vbd["VDI"]) if vbd["type"] != "CD" else None
        sr = call.db.find("SR", vdi["SR"]) if vdi is not None else None
        if sr is not None and "VDI_SNAPSHOT" not in capabilities(call.db, sr["type"]):
            raise refuse("SR_OPERATION_NOT_SUPPORTED", vm.ref)


@verb(*WRITES, *power.LIVES)
def clone(call: Call, vm: str, new_name: str) -> Steps:
    row = call.db.get("VM", vm)
    with operation(call, row, "clone"):
        placement.assert_seen(call, row)
        new = yield from duplicate(call, row, new_name, Copy("clone"))
        _rest(call, row, new)
    return new.ref


@verb(*WRITES, *power.LIVES)
def copy(call: Call, vm: str, new_name: str, sr: str) -> Steps:
    """A clone whose disks share nothing with their originals, on the storage `sr` or, where there is none such, on the
    same as those. Up to 6.1 one host must see all of the VM's storage, up to 5.6 that of the copy, too."""
    row, target = call.db.get("VM", vm), call.db.find("SR", sr)
    with operation(call, row, "copy"):
        if target is not None and target["content_type"] == "iso":
            raise refuse("OPERATION_NOT_ALLOWED", "Cannot copy a VM's disks to an ISO SR")
        if not call.at_least(CLEARWATER):
            on = [target.ref] if target is not None and not call.at_least(COWLEY) else []
            placement.assert_seen(call, row, *on)
        new = yield from duplicate(call, row, new_name, Copy("copy", sr=target))
        _rest(call, row, new)
    return new.ref


def _rest(call: Call, source: Row, new: Row) -> None:
    """What was made from a snapshot is off, even if the snapshot holds what was in memory."""
    if source.get("is_a_snapshot") and new["power_state"] != "Halted":
        power.drop_image(call, new)
        call.pool.force_halted(new)


@verb(*WRITES, *power.LIVES)
def create_template(call: Call, vm: str, new_name: str) -> Steps:
    """A clone that is a template."""
    row = call.db.get("VM", vm)
    with operation(call, row, "create_template"):
        new = yield from duplicate(call, row, new_name, Copy("create_template"))
        if new["power_state"] != "Halted":
            power.drop_image(call, new)
            call.pool.force_halted(new)
        call.db.write(new, is_a_template=True)
    return new.ref


@verb(*WRITES, *power.LIVES)
def csvm(call: Call, vm: str) -> Steps:
    """A clone of a suspended VM, suspended too."""
    row = call.db.get("VM", vm)
    call.db.get("VDI", row["suspend_VDI"])
    with operation(call, row, "csvm"):
        placement.assert_seen(call, row)
        new = yield from duplicate(call, row, f"{row['name_label']}-cloned-suspended", Copy("clone"))
    power.announce(call, row, "VM_CLONED", f"cloned (new uuid: {new['uuid']})")
    return new.ref


@verb("is_a_snapshot", "snapshot_time", "snapshot_of", "transportable_snapshot_id")
def update_snapshot_metadata(
    call: Call, vm: str, snapshot_of: str, snapshot_time: Timestamp, transportable_snapshot_id: str
) -> str:
    """Make a VM that was imported the snapshot that it was where it came from."""
    row = call.db.get("VM", vm)
    call.db.write(
        row,
        is_a_snapshot=True,
        snapshot_of=snapshot_of,
        snapshot_time=snapshot_time,
        transportable_snapshot_id=transportable_snapshot_id,
    )
    return ""
