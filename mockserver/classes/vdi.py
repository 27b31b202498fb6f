"""Virtual disk images: made, introduced, resized, destroyed and forgotten.

What is done with their content is in `vdi_content`, what is said of them in `vdi_fields`.
"""

from __future__ import annotations

import re
from datetime import datetime
from typing import Any

from xenctl.values import format_datetime

from .. import hosts, storage_rules, vdis, volumes
from ..call import Call, Steps, Wait, refuse
from ..storage_drivers import driver
from ..store import NULL, Row
from ..vdis import sr_of
from . import verbs_of

verb = verbs_of("VDI")

UUID = re.compile(r"[0-9a-fA-F]{8}(-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}")
PATIENCE = 4.0
"""Seconds that `data_destroy` waits for the last block device of a disk to go."""


# --- making


@verb("*", *volumes.MARKS)
def create(call: Call, args: dict[str, Any]) -> Steps:
    row = yield from vdis.create(call, call.db.get("SR", args["SR"]), args)
    return row.ref


@verb("*", *volumes.MARKS)
def introduce(
    call: Call,
    uuid: str,
    name_label: str,
    name_description: str,
    sr: str,
    kind: str,
    sharable: bool,
    read_only: bool,
    other_config: dict[str, str],
    location: str,
    xenstore_data: dict[str, str],
    sm_config: dict[str, str],
    managed: bool,
    virtual_size: int,
    physical_utilisation: int,
    metadata_of_pool: str,
    is_a_snapshot: bool,
    snapshot_time: str | datetime,
    snapshot_of: str,
) -> Steps:
    """Tell the database of a disk that storage has. Only plugins that cannot look for themselves need that."""
    row = call.db.get("SR", sr)
    with volumes.held(call, sr=(row, "vdi_introduce")):
        contact = volumes.serving(call, row)
        _assert_location_free(call, row, location, besides=uuid)
        yield call.pool.durations.volume
        contact.check()
        found = _found(call, row, uuid, location, sm_config)
        named = {"name_label": name_label, "name_description": name_description}
        call.db.write(
            found,
            other_config=other_config,
            xenstore_data=xenstore_data,
            sharable=sharable,
            type=kind,
            **{field: name for field, name in named.items() if name},
        )
    return found.ref


def _assert_location_free(call: Call, sr: Row, location: str, besides: str = "") -> None:
    for vdi in (call.db.find("VDI", ref) for ref in sr["VDIs"]):
        if vdi is not None and vdi.get("location") == location and vdi["uuid"] != besides:
            raise refuse("LOCATION_NOT_UNIQUE", sr.ref, location)


def _found(call: Call, sr: Row, uuid: str, location: str, sm_config: dict[str, str]) -> Row:
    """The row of a disk that is introduced: of one that is known already, or was once, or is new."""
    known = call.db.by_uuid.get(uuid)
    if known is not None and known[0] == "VDI":
        return call.db.get(*known)
    forgotten = call.pool.storage.forgotten.get(sr["uuid"], {})
    for lost, fields in forgotten.items():
        if lost == uuid or fields.get("location") == location:
            return volumes.found_again(call, sr, lost, fields)
    return volumes.make(call, sr, 0, uuid=uuid, location=location, sm_config=sm_config)


@verb("*")
def pool_introduce(
    call: Call,
    uuid: str,
    name_label: str,
    name_description: str,
    sr: str,
    kind: str,
    sharable: bool,
    read_only: bool,
    other_config: dict[str, str],
    location: str,
    xenstore_data: dict[str, str],
    sm_config: dict[str, str],
    managed: bool,
    virtual_size: int,
    physical_utilisation: int,
    metadata_of_pool: str,
    is_a_snapshot: bool,
    snapshot_time: str | datetime,
    snapshot_of: str,
    cbt_enabled: bool,
) -> str:
    """Only the row, as a host that joins brings it along."""
    row = call.db.get("SR", sr)
    _assert_location_free(call, row, location)
    if not UUID.fullmatch(uuid):
        raise refuse("UUID_INVALID", "VDI", uuid)
    fields = {
        "uuid": uuid,
        "name_label": name_label,
        "name_description": name_description,
        "SR": sr,
        "type": kind,
        "sharable": sharable,
        "read_only": read_only,
        "other_config": other_config,
        "location": location,
        "xenstore_data": xenstore_data,
        "sm_config": sm_config,
        "managed": managed,
        "missing": False,
        "virtual_size": virtual_size,
        "physical_utilisation": physical_utilisation,
        "metadata_of_pool": metadata_of_pool or NULL,
        "is_a_snapshot": is_a_snapshot,
        "snapshot_time": format_datetime(snapshot_time) if isinstance(snapshot_time, datetime) else snapshot_time,
        "snapshot_of": snapshot_of or NULL,
        "cbt_enabled": cbt_enabled,
    }
    vdi = call.db.create("VDI", call.pool.new_ref(), fields)
    if uuid not in call.pool.disks:
        call.pool.add_disk(uuid)
    return vdi.ref


# --- resizing


@verb("virtual_size", "physical_utilisation", *volumes.MARKS)
def resize(call: Call, vdi: str, size: int) -> Steps:
    yield from _resized(call, vdi, size, "resize")
    return ""


@verb("virtual_size", "physical_utilisation", *volumes.MARKS)
def resize_online(call: Call, vdi: str, size: int) -> Steps:
    yield from _resized(call, vdi, size, "resize_online")
    return ""


def _resized(call: Call, ref: str, size: int, name: str) -> Steps:
    row = call.db.get("VDI", ref)
    sr = sr_of(call, row)
    with volumes.held(call, sr=(sr, "vdi_resize"), vdi=(row, name)):
        contact = volumes.serving(call, sr)
        volumes.assert_managed(row)
        volumes.content(call, row)
        new = volumes.fitting_size(sr, size)
        if new < row["virtual_size"]:
            raise refuse("SR_BACKEND_FAILURE_79", "", "VDI Invalid size [opterr=shrinking not allowed]", "")
        more = new - row["virtual_size"] if driver(sr["type"]).thick else 0
        volumes.assert_room(sr, more)
        yield call.pool.durations.volume
        contact.check()
        call.db.write(row, virtual_size=new, physical_utilisation=row["physical_utilisation"] + more)


# --- going


@verb("*", *volumes.GONE, *volumes.MARKS)
def destroy(call: Call, ref: str) -> Steps:
    yield from vdis.destroy(call, call.db.get("VDI", ref))
    return ""


@verb("type", "physical_utilisation", *volumes.MARKS)
def data_destroy(call: Call, ref: str) -> Steps:
    """The content goes; what is known of its changes stays. Block devices have a moment to go first."""
    row = call.db.get("VDI", ref)
    sr, kind = sr_of(call, row), row["type"]
    with volumes.held(call, sr=(sr, "vdi_data_destroy"), vdi=(row, "data_destroy")):
        contact = volumes.serving(call, sr)
        if kind == "cbt_metadata":
            return ""
        call.db.write(row, type="cbt_metadata")
        done = False
        try:
            volumes.assert_managed(row)
            yield Wait(call.clock.now() + PATIENCE, lambda: not row["VBDs"], idle=False)
            if row["VBDs"]:
                raise storage_rules.vdi_in_use(call.db, ref, "data_destroy")
            disk = volumes.content(call, row)
            contact.check()
            disk.marks = disk.digests()
            disk.blocks = {}
            call.db.write(row, physical_utilisation=0)
            done = True
        finally:
            if not done and call.db.find("VDI", ref) is row:
                call.db.write(row, type=kind)
    return ""


@verb("*", *volumes.GONE, *volumes.MARKS)
def forget(call: Call, ref: str) -> str:
    row = call.db.get("VDI", ref)
    with volumes.held(call, vdi=(row, "forget")):
        volumes.forget(call, row)
    return ""


@verb("*", *volumes.GONE)
def db_forget(call: Call, ref: str) -> str:
    """What a plugin says when a disk is gone."""
    row = call.db.get("VDI", ref)
    volumes.assert_from_plugin(call, row["SR"])
    volumes.forget(call, row)
    return ""


# --- asking storage


@verb("missing", *volumes.MARKS)
def update(call: Call, ref: str) -> str:
    """Look the disk up on its storage; one that is there is not missing."""
    row = call.db.get("VDI", ref)
    with volumes.held(call, vdi=(row, "update")):
        volumes.serving(call, sr_of(call, row))
        volumes.content(call, row)
        call.db.write(row, missing=False)
    return ""


@verb(*volumes.MARKS)
def generate_config(call: Call, host: str, ref: str) -> str:
    """What a host needs to attach the disk without the database."""
    row = call.db.get("VDI", ref)
    with volumes.held(call, vdi=(row, "generate_config")):
        contact = hosts.reached(call, host)
        sr = sr_of(call, row)
        pbds = [pbd for pbd in storage_rules.pbds_of(call.db, sr) if pbd["host"] == contact.host.ref]
        if not pbds or not pbds[0]["currently_attached"]:
            raise refuse("SR_HAS_NO_PBDS", sr.ref)
        volumes.assert_managed(row)
        config = {"sr_uuid": sr["uuid"], "vdi_uuid": row["uuid"], "command": "vdi_attach_from_config"}
        told = {**pbds[0]["device_config"], **config}
        members = "".join(f"<member><name>{key}</name><value>{value}</value></member>" for key, value in told.items())
    return f"<struct>{members}</struct>"


@verb()
def force_unlock(call: Call, ref: str) -> str:
    raise refuse("MESSAGE_DEPRECATED")
