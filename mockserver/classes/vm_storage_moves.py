"""Virtual machines moving with their disks: to other storage and another host of the pool, or to another pool."""

from __future__ import annotations

from .. import crossing, power, vm_rules, volumes
from ..call import Call, Steps
from ..checks import operation
from ..holding import Holding
from ..moving import Destination, Move
from ..moving_rules import assert_begins, assert_possible
from ..power import LIVES
from ..store import NULL, Row
from ..vdis import MOVED
from . import verbs_of

verb = verbs_of("VM")


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
    row = call.db.get("VM", vm)
    assert_possible(Move(call, row, Destination.of(call, dest), live, vdi_map, vif_map, vgpu_map, options))
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
    Destination.of(call, dest)
    if row["power_state"] in ("Running", "Paused"):
        power.contact(call, row)
        refused = vm_rules.pinned(call.db, row, "migrate_send", strict=True)
        if refused is not None:
            raise refused
    return ""


@verb(*LIVES, "suspend_SR", *crossing.WRITES)
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
    """Move a VM to a host, its disks and those of its snapshots to other storage; it goes on running. In another pool it
    has another reference, which is what is returned."""
    row = call.db.get("VM", vm)
    move = Move(call, row, Destination.of(call, dest), live, vdi_map, vif_map, vgpu_map, options)
    with operation(call, row, "migrate_send"), Holding() as holding:
        assert_possible(move)
        assert_begins(move)
        crossing.eject_discs(move)
        if move.to.crosses:
            return (yield from crossing.Crossing(move, holding).go())
        source = yield from within(move, holding)
    if source is not None:
        power.announce_move(call, row, source, move.to.host)
    return vm


def within(move: Move, holding: Holding) -> Steps:
    """Move a VM within its pool; returns the host that it came from, None for one that does not run."""
    call, row, db, target = move.call, move.vm, move.call.db, move.to.host
    source = power.contact(call, row) if row["power_state"] == "Running" else None
    if source is not None:
        volumes.reach_disks(call, source, row)
    there = power.reserve(call, row, target, "vm_migrate", holding)
    moving = _with_snapshots(move)
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
    if suspend_sr is not None:
        pbd = crossing.connection(move.to, suspend_sr)
        if pbd is None or not pbd["currently_attached"]:
            db.write(row, suspend_SR=NULL)
    return source.host if source is not None else None


def _with_snapshots(move: Move) -> dict[str, Row]:
    """The disks that move, by reference, with where each goes; the disks of a snapshot follow those that they are of."""
    homes = {vdi.ref: sr for vdi, sr in move.moving()}
    out = dict(homes)
    for vdi in (vdi for snapshot in move.snapshots() for vdi in move.own(snapshot)):
        if vdi.ref not in homes and vdi["snapshot_of"] in homes:
            out[vdi.ref] = homes[vdi["snapshot_of"]]
    return out


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
