"""The disks of VMs as verbs on VMs need them: made, dropped, and copied with what is on them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from . import hosts
from .call import Call, refuse
from .store import EPOCH, Row

if TYPE_CHECKING:
    from collections.abc import Generator

    from .call import Wait

MARKS = ("SR.physical_utilisation", "SR.virtual_allocation")
"""What changes of storage where disks come and go."""
KEPT = "name_label name_description type sharable other_config xenstore_data on_boot allow_caching tags".split()
"""What a copy of a disk has from it."""


def make(call: Call, sr: Row, size: int, **fields: Any) -> Row:
    """An empty disk of `size` bytes on `sr`."""
    uuid = call.pool.new_uuid()
    base = {
        "uuid": uuid,
        "SR": sr.ref,
        "location": uuid,
        "virtual_size": size,
        "physical_utilisation": size,
        "managed": True,
        "sharable": False,
        "read_only": False,
        "snapshot_time": EPOCH,
    }
    call.pool.add_disk(uuid)
    return call.db.create("VDI", call.pool.new_ref(), {**base, **fields})


def drop(call: Call, vdi: Row) -> None:
    """Destroy a disk, with the block devices that name it. Raises where a VM uses it."""
    vbds = [vbd for vbd in (call.db.find("VBD", ref) for ref in vdi["VBDs"]) if vbd is not None]
    if any(vbd["currently_attached"] or vbd["reserved"] for vbd in vbds):
        raise refuse("VDI_IN_USE", vdi.ref, "destroy")
    for vbd in vbds:
        drop_device(call, vbd)
    call.pool.disks.pop(vdi["uuid"], None)
    call.db.delete(vdi)


def drop_device(call: Call, device: Row) -> None:
    """Delete a block device or network interface, with its metrics."""
    metrics = call.db.find(f"{device.table}_metrics", device["metrics"])
    if metrics is not None:
        call.db.delete(metrics)
    call.db.delete(device)


def supports(call: Call, sr: Row, capability: str) -> bool:
    """Whether the plugin of a storage repository can do something; one that says nothing of itself can do all."""
    for sm in call.db.table("SM").values():
        told = [*sm.get("features", ()), *sm["capabilities"]]
        if sm["type"] == sr["type"] and told:
            return capability in told
    return True


def assert_reachable(call: Call, sr: Row) -> hosts.Contact:
    """A live host that has `sr` plugged. Raises `SR_HAS_NO_PBDS`."""
    for pbd in (call.db.find("PBD", ref) for ref in sr["PBDs"]):
        host = call.db.find("host", pbd["host"]) if pbd is not None and pbd["currently_attached"] else None
        if host is not None and hosts.live(call.db, host):
            return hosts.contact(call.pool, host)
    raise refuse("SR_HAS_NO_PBDS", sr.ref)


def duplicate(
    call: Call, vdi: Row, *, snapshot: bool = False, sr: Row | None = None
) -> Generator[float | Wait, None, Row]:
    """A copy of a disk with what is on it: a snapshot or clone at the moment when it is made, or a full copy on `sr` with
    what is there at the end of the copying."""
    home = call.db.get("SR", vdi["SR"])
    there = assert_reachable(call, sr or home)
    size = vdi["virtual_size"]
    yield call.pool.durations.device if sr is None else size / call.pool.durations.migrate_rate
    there.check()
    fields: dict[str, Any] = {name: vdi[name] for name in KEPT if name in vdi}
    fields["read_only"] = bool(vdi["read_only"]) and snapshot
    if snapshot:
        fields.update(is_a_snapshot=True, snapshot_of=vdi.ref, snapshot_time=call.clock.stamp())
    new = make(call, sr or home, size, **fields)
    call.pool.disks[new["uuid"]].blocks = content(call, vdi)
    return new


def content(call: Call, vdi: Row) -> dict[int, bytes]:
    """What is on a disk now, all that running guests wrote included."""
    disk = call.pool.disks.get(vdi["uuid"])
    if disk is None:
        raise refuse("SR_BACKEND_FAILURE_46", "", f"The VDI is not available [opterr={vdi['location']}]", "")
    for domain in list(disk.writers):
        domain.catch_up(call.clock.now())
    return dict(disk.blocks)
