"""Updates of pools since 7.1: a package on a disk, applied to hosts one by one. Each stands beside a patch record, by which
older clients see it."""

from __future__ import annotations

import re
from uuid import UUID

from .. import hosts, rules, subtasks, volumes
from ..call import Call, Steps, refuse
from ..store import NULL, Row
from . import verbs_of
from .generic import make

verb = verbs_of("pool_update")

LOOKED_AT = 1 << 20
"""Bytes of a disk among which the update's document is looked for."""
_ELEMENT = re.compile(rb"<update\s([^<>]*)>(.*?)</update>", re.DOTALL)
_ATTRIBUTE = re.compile(rb"""([\w-]+)=["']([^"']*)["']""")
_DESCRIPTION = re.compile(rb"<name-description>([^<]+)</name-description>")
AFTERWARDS = frozenset({"restartHVM", "restartPV", "restartHost", "restartXAPI"})
"""What an update may ask to be restarted."""
APPLIED = ("host.updates", "host.updates_requiring_reboot", "host_patch.*", "pool_patch.*")


def _patch_of(call: Call, update: Row) -> Row:
    """The patch record beside an update."""
    found = [patch for patch in call.db.table("pool_patch").values() if patch["pool_update"] == update.ref]
    if len(found) != 1:
        raise refuse("INTERNAL_ERROR", "Invalid state")
    return found[0]


def _package(call: Call, update: Row) -> Row | None:
    """The disk that holds the update's package, None once it was cleaned away."""
    return call.db.find("VDI", update["vdi"])


# --- coming to the pool


@verb("*", "pool_patch.*", "VBD.*")
def introduce(call: Call, vdi: str) -> Steps:
    """An update from the disk that its package is on; one that is known and lost its disk gets this one."""
    disk = call.db.get("VDI", vdi)
    if disk["type"] == "cbt_metadata":
        raise refuse("VDI_INCOMPATIBLE_TYPE", vdi, "cbt_metadata")
    contact = hosts.contact(call.pool, _host_of(call, disk))
    yield call.pool.durations.device
    contact.check()
    info = update_info(volumes.content(call, disk).read(0, LOOKED_AT))
    found = call.db.by_uuid.get(info["uuid"])
    if found is None or found[0] != "pool_update":
        return _noted(call, info, vdi)
    row = call.db.get(*found)
    if _package(call, row) is None:
        call.db.write(row, vdi=vdi)
    elif row["vdi"] != vdi:
        raise refuse("UPDATE_ALREADY_EXISTS", info["uuid"])
    return row.ref


def update_info(data: bytes) -> dict[str, str]:
    """What an update says it is: the attributes of its element `<update ...>` and its description. Who signed it is not
    looked at. Raises `INVALID_UPDATE`."""
    element = _ELEMENT.search(data)
    if element is None:
        raise refuse("INVALID_UPDATE", "missing update document (update.xml) in the package.")
    found = _ATTRIBUTE.findall(element[1])
    info = {key.decode(): value.decode("utf-8", "replace") for key, value in found}
    for name in ("uuid", "name-label", "version"):
        if name not in info:
            raise refuse("INVALID_UPDATE", f"missing <{name}> in update.xml")
    text = _DESCRIPTION.search(element[2])
    if text is None:
        raise refuse("INVALID_UPDATE", "missing <name-description> in update.xml")
    try:
        UUID(info["uuid"])
    except ValueError:
        raise refuse("INVALID_UPDATE", f"{info['uuid']!r} is no uuid") from None
    return {**info, "name-description": text[1].decode("utf-8", "replace")}


def _noted(call: Call, info: dict[str, str], vdi: str) -> str:
    """The records of an update, and of the patch that stands for it."""
    asked = [name for name in info.get("after-apply-guidance", "").split(",") if name]
    size = info.get("installation-size", "")
    common = {
        "name_label": info["name-label"],
        "name_description": info["name-description"],
        "version": info["version"],
        "after_apply_guidance": asked if set(asked) <= AFTERWARDS else [],
    }
    length = int(size) if size.isdecimal() else 0
    more = {
        "key": info.get("key", "").rpartition("/")[2],
        "installation_size": length,
        "vdi": vdi,
        "enforce_homogeneity": info.get("enforce-homogeneity") in ("true", "1"),
    }
    update = call.db.create("pool_update", call.pool.new_ref(), {"uuid": info["uuid"], **common, **more})
    patch = f"{info['uuid'][:9]}0000-0000{info['uuid'][18:]}"
    call.db.create(
        "pool_patch", call.pool.new_ref(), {"uuid": patch, **common, "size": length, "pool_update": update.ref}
    )
    return update.ref


# --- on hosts


@verb()
def precheck(call: Call, ref: str, host: str) -> Steps:
    row = call.db.get("pool_update", ref)
    contact = hosts.reached(call, host)
    if _package(call, row) is None:
        raise refuse("CANNOT_FIND_UPDATE")
    yield call.pool.durations.device
    contact.check()
    return "ok"


@verb(*APPLIED)
def apply(call: Call, ref: str, host: str) -> Steps:
    row, target = call.db.get("pool_update", ref), call.db.get("host", host)
    contact = hosts.contact(call.pool, target)
    if ref in target["updates"]:
        raise refuse("UPDATE_ALREADY_APPLIED", ref)
    yield from precheck(call, ref, host)
    yield call.pool.durations.patch
    contact.check()
    call.db.write(target, updates=[ref, *target["updates"]])
    if "restartHost" in row["after_apply_guidance"]:
        call.db.write(target, updates_requiring_reboot=[ref, *target["updates_requiring_reboot"]])
    note_applied(call, _patch_of(call, row), target)
    return ""


def note_applied(call: Call, patch: Row, host: Row) -> None:
    """Write down that a patch is on a host."""
    fields = {"pool_patch": patch.ref, "host": host.ref, "applied": True, "timestamp_applied": call.clock.stamp()}
    for row in [row for row in (call.db.find("host_patch", ref) for ref in patch["host_patches"]) if row is not None]:
        if row["host"] == host.ref:
            if not row["applied"]:
                call.db.write(row, applied=True, timestamp_applied=fields["timestamp_applied"])
            return
    make(call, "host_patch", fields)


@verb()
def pool_apply(call: Call, ref: str) -> Steps:
    """To every host that lacks it; the others go on where one fails."""
    row = call.db.get("pool_update", ref)
    missing = [host for host in call.db.table("host") if host not in row["hosts"]]
    if not missing:
        raise refuse("UPDATE_ALREADY_APPLIED_IN_POOL", ref)
    failed = []
    for host in missing:
        errors = yield from subtasks.wait(call, [subtasks.start(call, "pool_update.apply", ref, host)])
        failed += [host] if errors else []
    if failed:
        raise refuse("UPDATE_POOL_APPLY_FAILED", *failed)
    return ""


@verb(*APPLIED, "*")
def resync_host(call: Call, host: str) -> str:
    """Bring patch records in line with the updates on a host; once no versions are mixed, those of older releases go."""
    db = call.db
    row = db.get("host", host)
    hosts.contact(call.pool, row)
    for update in [update for update in (db.find("pool_update", ref) for ref in row["updates"]) if update is not None]:
        note_applied(call, _patch_of(call, update), row)
    if rules.upgrading(db):
        return ""
    for patch in [patch for patch in db.table("pool_patch").values() if patch["pool_update"] == NULL]:
        for applied in [found for found in (db.find("host_patch", ref) for ref in patch["host_patches"]) if found]:
            db.delete(applied)
        db.delete(patch)
    return ""


# --- the package


def _dom0_vbds(call: Call, vdi: Row) -> list[Row]:
    """The devices by which control domains hold a disk."""
    vbds = [vbd for vbd in (call.db.find("VBD", ref) for ref in vdi["VBDs"]) if vbd is not None]
    return [vbd for vbd in vbds if call.db.get("VM", vbd["VM"])["is_control_domain"]]


def _host_of(call: Call, vdi: Row) -> Row:
    """A host that sees a disk, the master before others."""
    pbds = [call.db.get("PBD", ref) for ref in call.db.get("SR", vdi["SR"])["PBDs"]]
    seen = [pbd["host"] for pbd in pbds if pbd["currently_attached"]]
    if not seen:
        raise refuse("SR_HAS_NO_PBDS", vdi["SR"])
    master = call.db.pool()["master"]
    return call.db.get("host", master if master in seen else seen[0])


@verb("VBD.*")
def attach(call: Call, ref: str, use_localhost_proxy: bool) -> Steps:
    """Let a host serve the package; returns the settings by which others install from there."""
    row = call.db.get("pool_update", ref)
    vdi = _package(call, row)
    if vdi is None:
        raise refuse("CANNOT_FIND_UPDATE", row["uuid"])
    host = _host_of(call, vdi)
    contact = hosts.contact(call.pool, host)
    if not _dom0_vbds(call, vdi):
        yield call.pool.durations.device
        contact.check()
        taken = {vbd["userdevice"] for vbd in call.pool.vbds(call.db.get("VM", host["control_domain"]))}
        device = next(str(n) for n in range(len(taken) + 1) if str(n) not in taken)
        fields = {"VM": host["control_domain"], "VDI": vdi.ref, "userdevice": device, "mode": "RO", "type": "Disk"}
        make(call, "VBD", fields, currently_attached=True, empty=False, unpluggable=True)
    address = "127.0.0.1" if use_localhost_proxy else host["address"]
    return _settings(row, f"http://{address}/update/{host['uuid']}/{row['uuid']}/vdi")


def _settings(update: Row, url: str) -> str:
    """The configuration of the package manager."""
    label, signed = update["name_label"], int(bool(update["key"]))
    head = ["[main]", "keepcache=0", "reposdir=/dev/null", f"gpgcheck={signed}", f"repo_gpgcheck={signed}"]
    source = [f"[{label}]", f"name={label}", f"baseurl={url}"]
    key = f"gpgkey=file:///etc/pki/rpm-gpg/{update['key']}" if signed else ""
    return "\n".join([*head, "installonlypkgs=", "group_command=compat", "", *source, key, ""])


@verb("VBD.*")
def detach(call: Call, ref: str) -> str:
    row = call.db.get("pool_update", ref)
    vdi = _package(call, row)
    if vdi is None:
        raise refuse("CANNOT_FIND_UPDATE", row["uuid"])
    _detach(call, vdi)
    return ""


def _detach(call: Call, vdi: Row) -> None:
    for vbd in _dom0_vbds(call, vdi):
        call.db.delete(vbd)


@verb("vdi", "VBD.*")
def pool_clean(call: Call, ref: str) -> Steps:
    """Destroy the disk with the package; one that is gone is no error."""
    row = call.db.get("pool_update", ref)
    vdi = _package(call, row)
    if vdi is not None:
        _detach(call, vdi)
        yield from subtasks.run(call, "VDI.destroy", vdi.ref)
        call.db.write(row, vdi=NULL)
    return ""


@verb("*", "pool_patch.*")
def destroy(call: Call, ref: str) -> str:
    row = call.db.get("pool_update", ref)
    if row["hosts"]:
        raise refuse("UPDATE_IS_APPLIED")
    patch = _patch_of(call, row)
    call.db.delete(row)
    call.db.delete(patch)
    return ""
