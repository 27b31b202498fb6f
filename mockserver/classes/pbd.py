"""Physical block devices: a host's connection to storage."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from xenctl.errors import Failure

from .. import agility, hosts, passwords, rules, volumes
from ..busy import in_progress
from ..call import Call, Steps, refuse
from ..holding import assert_free
from ..storage_rules import pbds_of
from ..store import Row, Store
from . import verbs_of

verb = verbs_of("PBD")

MARKS = ("SR.current_operations",)
SIZES = ("SR.physical_size", "SR.physical_utilisation", "SR.virtual_allocation")


# --- plugging


@verb("currently_attached", *MARKS, *SIZES)
def plug(call: Call, ref: str) -> Steps:
    row = call.db.get("PBD", ref)
    yield from plug_in(call, row)
    return ""


def plug_in(call: Call, pbd: Row) -> Steps:
    """Connect a host to storage; sizes are looked up where the host is the one that serves it."""
    sr = call.db.get("SR", pbd["SR"])
    with volumes.held(call, sr=(sr, "plug")):
        contact = hosts.reached(call, pbd["host"])
        if not pbd["currently_attached"]:
            _assert_sharable(call, sr, pbd)
            if sr["uuid"] in call.pool.storage.destroyed:
                raise refuse("SR_BACKEND_FAILURE_47", "", "The SR is not available", "")
            contact.needs(sr)
            yield call.pool.durations.device
            contact.check()
            call.db.write(pbd, currently_attached=True)
    if pbd["host"] == call.db.pool()["master"] or len(pbds_of(call.db, sr)) == 1:
        volumes.measure(call, sr)


def _assert_sharable(call: Call, sr: Row, pbd: Row) -> None:
    """Storage that is not shared is connected to one host at a time."""
    for other in pbds_of(call.db, sr) if not sr["shared"] else ():
        if other is not pbd and other["currently_attached"]:
            raise refuse("SR_NOT_SHARABLE", sr.ref, other["host"])


@verb("currently_attached", *MARKS)
def unplug(call: Call, ref: str) -> Steps:
    row = call.db.get("PBD", ref)
    sr = call.db.get("SR", row["SR"])
    if _serves(call, sr, row):
        assert_free(call, sr, "unplug", _disk_busy)
    with volumes.held(call, sr=(sr, "unplug")):
        contact = hosts.reached(call, row["host"])
        if row["currently_attached"]:
            if contact.host["enabled"]:
                agility.assert_not_needed(call.db, sr)
            _assert_spared_by_ha(call, sr)
            used = list(dict.fromkeys(_used(call, row)))
            if used:
                raise refuse("VDI_IN_USE", *used)
            yield call.pool.durations.device
            contact.check()
            call.db.write(row, currently_attached=False)
    return ""


def _serves(call: Call, sr: Row, pbd: Row) -> bool:
    """Whether it is this connection's host that works on the storage's disks."""
    return bool(pbd["host"] == call.db.pool()["master"]) if sr["shared"] else len(pbds_of(call.db, sr)) == 1


def _disk_busy(store: Store, sr: Row, operation: str) -> Failure | None:
    """That something is done to one of the storage's disks."""
    for vdi in store.rows("VDI", sr["VDIs"]):
        for task, name in vdi["current_operations"].items():
            return in_progress(store, "VDI", vdi.ref, name, task)
    return None


def _assert_spared_by_ha(call: Call, sr: Row) -> None:
    pool = call.db.pool()
    if pool.get("ha_enabled"):
        files = (call.db.find("VDI", ref) for ref in pool["ha_statefiles"])
        if any(vdi is not None and vdi["SR"] == sr.ref for vdi in files):
            raise refuse("HA_IS_ENABLED")


def _used(call: Call, pbd: Row) -> Iterator[str]:
    """The disks behind a PBD that VMs on its host use; suspended VMs are on no host, so theirs are not in the way. Copies of
    the database are not since 6.0."""
    ignored = "metadata" if call.at_least(rules.BOSTON) else None
    for vm in (call.db.get("VM", vm) for vm in call.db.get("host", pbd["host"])["resident_VMs"]):
        for vbd in call.pool.vbds(vm):
            vdi = call.db.find("VDI", vbd["VDI"])
            behind = vdi is not None and vdi["type"] != ignored and vdi["SR"] == pbd["SR"]
            if behind and (vbd["currently_attached"] or vbd["reserved"]):
                yield vbd["VDI"]


# --- making and destroying


@verb("*", "secret.*", *MARKS)
def create(call: Call, args: dict[str, Any]) -> str:
    sr, host = call.db.get("SR", args["SR"]), call.db.get("host", args["host"])
    with volumes.held(call, sr=(sr, "pbd_create")):
        _assert_new(call, sr, host)
        passwords.assert_not_reserved(call, args["device_config"])
        return connect(call, sr, host, passwords.to_secrets(call, args["device_config"])).ref


def _assert_new(call: Call, sr: Row, host: Row) -> None:
    for other in pbds_of(call.db, sr):
        if other["host"] == host.ref:
            raise refuse("PBD_EXISTS", sr.ref, host.ref, other.ref)


def connect(call: Call, sr: Row, host: Row, device_config: dict[str, str]) -> Row:
    """A connection that is not plugged, with secrets of its own."""
    fields = {
        "uuid": call.pool.new_uuid(),
        "host": host.ref,
        "SR": sr.ref,
        "device_config": passwords.duplicated(call, device_config),
        "currently_attached": False,
        "other_config": {},
    }
    return call.db.create("PBD", call.pool.new_ref(), fields)


@verb("*", "secret.*", *MARKS)
def destroy(call: Call, ref: str) -> str:
    row = call.db.get("PBD", ref)
    sr = call.db.find("SR", row["SR"])
    with volumes.held(call, sr=(sr, "pbd_destroy") if sr is not None else None):
        if row["currently_attached"]:
            raise refuse("OPERATION_NOT_ALLOWED", "PBD is currently attached")
        passwords.clean_out(call, row["device_config"])
        call.db.delete(row)
    return ""


@verb("device_config", "secret.*")
def set_device_config(call: Call, ref: str, value: dict[str, str]) -> str:
    row = call.db.get("PBD", ref)
    volumes.assert_from_plugin(call, row["SR"])
    hosts.reached(call, row["host"])
    passwords.assert_not_reserved(call, value)
    call.db.write(row, device_config=passwords.to_secrets(call, value))
    return ""
