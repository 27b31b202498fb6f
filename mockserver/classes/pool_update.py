"""Updates of pools since 7.1: a package on a disk, applied to hosts one by one. Each stands beside a patch record, by which
older clients see it."""

from __future__ import annotations

import re
from contextlib import suppress
from uuid import UUID

from xenctl.errors import Failure

from .. import hosts, packages, rules, subtasks, volumes
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
APPLIED = ("host.updates", "host.updates_requiring_reboot", "host_patch.*", "pool_patch.*", "VBD.*")


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
    contact = hosts.contact(call.pool, packages.server_of(call, disk))
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


@verb("VBD.*")
def precheck(call: Call, ref: str, host: str) -> Steps:
    """Whether an update may be applied to a host, as its package tells."""
    row = call.db.get("pool_update", ref)
    contact = hosts.reached(call, host)
    vdi = _package(call, row)
    if vdi is None:
        raise refuse("CANNOT_FIND_UPDATE")
    yield from packages.attach(call, row, vdi)
    _detach(call, row, vdi)
    contact.check()
    return "ok"


@verb(*APPLIED)
def apply(call: Call, ref: str, host: str) -> Steps:
    """Install an update on a host, after a check. Its package is attached meanwhile; a second installation is refused at
    once."""
    row, target = call.db.get("pool_update", ref), call.db.get("host", host)
    contact = hosts.contact(call.pool, target)
    if ref in target["updates"]:
        raise refuse("UPDATE_ALREADY_APPLIED", ref)
    going = contact.machine.xapi.applying
    if row["uuid"] in going:
        raise refuse("OTHER_OPERATION_IN_PROGRESS", "Applying the update", ref)
    going.add(row["uuid"])
    try:
        yield from precheck(call, ref, host)
        yield from _install(call, row, target, contact)
    finally:
        going.discard(row["uuid"])
    return ""


def _install(call: Call, row: Row, target: Row, contact: hosts.Contact) -> Steps:
    ref, vdi = row.ref, _package(call, row)
    if vdi is None:
        raise refuse("CANNOT_FIND_UPDATE")
    yield from packages.attach(call, row, vdi)
    try:
        yield call.pool.durations.patch
    finally:
        _detach(call, row, vdi)
    contact.check()
    call.db.write(target, updates=[ref, *target["updates"]])
    if "restartHost" in row["after_apply_guidance"]:
        call.db.write(target, updates_requiring_reboot=[ref, *target["updates_requiring_reboot"]])
    note_applied(call, _patch_of(call, row), target)


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
    """To every host that lacks it, in the order of their references, before 8.2 from the last to the first; the others go on
    where one fails. Those that failed are told in the reverse order."""
    row = call.db.get("pool_update", ref)
    missing = {host for host in call.db.table("host") if host not in row["hosts"]}
    if not missing:
        raise refuse("UPDATE_ALREADY_APPLIED_IN_POOL", ref)
    failed: list[str] = []
    for host in sorted(missing, reverse=not call.at_least(rules.STOCKHOLM)):
        errors = yield from subtasks.wait(call, [subtasks.start(call, "pool_update.apply", ref, host)])
        failed[:0] = [host] if errors else []
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


@verb("VBD.*")
def attach(call: Call, ref: str, use_localhost_proxy: bool) -> Steps:
    """Let a host serve the package; returns the settings by which others install from there."""
    row = call.db.get("pool_update", ref)
    vdi = _package(call, row)
    if vdi is None:
        raise refuse("CANNOT_FIND_UPDATE", row["uuid"])
    host = packages.server_of(call, vdi)
    yield from packages.attach(call, row, vdi)
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
    packages.detach(call, row, vdi)
    return ""


def _detach(call: Call, update: Row, vdi: Row) -> None:
    """Let go of a package, if it and its host are still there."""
    if call.db.find("VDI", vdi.ref) is vdi:
        with suppress(Failure):
            packages.detach(call, update, vdi)


@verb("vdi", "VBD.*")
def pool_clean(call: Call, ref: str) -> Steps:
    """Destroy the disk with the package, unless somebody still needs it; one that is gone is no error."""
    row = call.db.get("pool_update", ref)
    vdi = _package(call, row)
    if vdi is not None:
        packages.detach(call, row, vdi)
        yield from subtasks.run(call, "VDI.destroy", vdi.ref)
        call.db.write(row, vdi=NULL)
    return ""


@verb("*", "pool_patch.*", "host.updates_requiring_reboot")
def destroy(call: Call, ref: str) -> str:
    row = call.db.get("pool_update", ref)
    if row["hosts"]:
        raise refuse("UPDATE_IS_APPLIED")
    patch = _patch_of(call, row)
    call.db.delete(row)
    call.db.delete(patch)
    if call.at_least(rules.LIMA):
        for host in call.db.table("host").values():
            left = [one for one in host["updates_requiring_reboot"] if one != ref]
            if left != host["updates_requiring_reboot"]:
                call.db.write(host, updates_requiring_reboot=left)
    return ""
