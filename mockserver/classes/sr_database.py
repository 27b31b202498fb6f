"""The pool's database on a disk, for whoever recovers the pool elsewhere: switched on and off, and read."""

from __future__ import annotations

from typing import Any

from xenctl import database
from xenctl.errors import DatabaseError

from .. import vdis, volumes
from ..call import Call, Steps, refuse
from ..ha_disks import assert_everywhere
from ..machine.disks import BLOCK_SIZE, Disk
from ..storage_drivers import capabilities
from ..store import Row
from ..vdis import sr_of
from . import verbs_of

verb = verbs_of("SR")
verb_of_disk = verbs_of("VDI")

SIZE = 1 << 30
"""Bytes of the disk that a database is kept on."""


@verb()
def assert_supports_database_replication(call: Call, ref: str) -> str:
    _assert_supports(call, call.db.get("SR", ref))
    return ""


def _assert_supports(call: Call, sr: Row) -> None:
    assert_everywhere(call, sr)
    if "SR_METADATA" not in capabilities(call.db, sr["type"]):
        raise refuse("SR_OPERATION_NOT_SUPPORTED", sr.ref)


def _copies(call: Call, sr: Row) -> list[Row]:
    """The disks with the database of this pool."""
    vdis = (call.db.find("VDI", ref) for ref in sr["VDIs"])
    own = call.db.pool().ref
    return [v for v in vdis if v is not None and v["type"] == "metadata" and v["metadata_of_pool"] == own]


@verb("VDI.*", *volumes.MARKS)
def enable_database_replication(call: Call, ref: str) -> Steps:
    """From now on a disk there holds the pool's database, whenever somebody looks."""
    row = call.db.get("SR", ref)
    _assert_supports(call, row)
    copies = _copies(call, row)
    if not copies:
        args: dict[str, Any] = {
            "name_label": "Metadata for DR",
            "name_description": "Used for disaster recovery",
            "type": "metadata",
        }
        args |= {"virtual_size": SIZE, "sharable": False, "read_only": False, "other_config": {}}
        copies = [(yield from vdis.create(call, row, {**args, "sm_config": {"type": "raw"}}))]
        call.db.write(copies[0], metadata_of_pool=call.db.pool().ref, metadata_latest=False)
    call.pool.storage.replicas.add(copies[0]["uuid"])
    volumes.content(call, copies[0])
    return ""


@verb(*volumes.GONE, *volumes.MARKS)
def disable_database_replication(call: Call, ref: str) -> Steps:
    """The disks with the pool's database go."""
    row = call.db.get("SR", ref)
    for vdi in _copies(call, row):
        with volumes.held(call, sr=(row, "vdi_destroy"), vdi=(vdi, "destroy")):
            contact = volumes.serving(call, row)
            yield call.pool.durations.volume
            contact.check()
            call.pool.storage.replicas.discard(vdi["uuid"])
            volumes.drop(call, vdi)
    return ""


@verb_of_disk()
def read_database_pool_uuid(call: Call, ref: str) -> str:
    """The uuid of the other pool whose database is on the disk; empty where there is none."""
    row = call.db.get("VDI", ref)
    sr_of(call, row)
    if row["type"] != "metadata" or row["metadata_of_pool"] == call.db.pool().ref:
        return ""
    return _pool_on(volumes.content(call, row))


def _pool_on(disk: Disk) -> str:
    data = disk.read(0, (max(disk.blocks, default=-1) + 1) * BLOCK_SIZE)
    try:
        pools = database.read(data.rstrip(b"\0")).tables["pool"].rows
        return next(iter(pools.values())).cells["uuid"]
    except (DatabaseError, KeyError, StopIteration):
        return ""
