"""Templates, and virtual machines made from them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from .. import copies, hosts, power, rules, vdis, volumes
from ..call import Call, Steps, refuse
from ..checks import operation
from ..licence import assert_has_vendor_device
from ..store import NULL, Row
from . import verbs_of

verb = verbs_of("VM")

DISKS, SCRIPT = "disks", "postinstall"
"""The keys in a template's `other_config` that say which disks to make, and what to run when they are made."""
TEMPLATE = ("is_a_template", "VM_metrics.*", "metrics", "ha_always_run", "groups", "VUSB.*", "PVS_proxy.*")


@dataclass(frozen=True)
class Disk:
    """A disk that a template asks for: its device number, size in bytes, the uuid of its storage, whether it is booted."""

    device: str
    size: int
    sr: str
    bootable: bool
    kind: str


def _disks(vm: Row) -> Iterator[Disk]:
    """What a template's `other_config:disks` asks for. Raises for what cannot be read."""
    text = vm["other_config"].get(DISKS)
    if not text:
        return
    from xml.etree import ElementTree as ET  # few pools are ever asked for this

    try:
        root = ET.fromstring(text)  # noqa: S314  # the standard parser expands nothing from outside
        asked = [one.attrib for one in root] if root.tag == "provision" else [{}]
        for ask in asked:
            kind = ask.get("type", "system")
            yield Disk(ask["device"], int(ask["size"]), ask["sr"], ask["bootable"] == "true", kind)
    except (ET.ParseError, KeyError, ValueError):
        raise refuse("INTERNAL_ERROR", "Xapi_templates.Parse_failure") from None


@verb(*TEMPLATE, *copies.WRITES, *power.MARKS, *power.MARKS_ON_HOST, "other_config")
def provision(call: Call, vm: str) -> Steps:
    """Make the disks that a template asks for, and a VM of it."""
    row, db = call.db.get("VM", vm), call.db
    with operation(call, row, "provision"):
        asked = list(_disks(row))
        if SCRIPT in row["other_config"]:
            raise refuse("NOT_IMPLEMENTED", "VM.provision of a template with a script to run")
        storage = [_storage(call, disk) for disk in asked]
        host = next(iter(volumes.serving(call, sr).host for sr in storage), db.get("host", db.pool()["master"]))
        with hosts.operation(call, host, "provision"):
            made = yield from _make_disks(call, list(zip(asked, storage, strict=True)))
            for disk, vdi in made:
                _make_device(call, row, disk, vdi)
            _set_template(call, row, template=False)
            config = {key: value for key, value in row["other_config"].items() if key not in (DISKS, SCRIPT)}
            db.write(row, other_config=config)
    return ""


def _storage(call: Call, disk: Disk) -> Row:
    found = call.db.by_uuid.get(disk.sr)
    if found is None or found[0] != "SR":
        raise refuse("UUID_INVALID", "sr", disk.sr)
    return call.db.get(*found)


def _make_disks(call: Call, asked: list[tuple[Disk, Row]]) -> Steps:
    """The disks that a template asks for, each with its row; where one cannot be made, none is there."""
    made: list[tuple[Disk, Row]] = []
    try:
        for number, (disk, sr) in enumerate(asked, 1):
            args: dict[str, Any] = {"name_label": disk.device, "name_description": "Created by template provisioner"}
            args |= {"type": disk.kind, "virtual_size": disk.size, "sharable": False, "read_only": False}
            call.goal = number / len(asked)
            made.append((disk, (yield from vdis.create(call, sr, args))))
    except BaseException:
        for _, vdi in made:
            volumes.discard(call, vdi)
        raise
    return made


def _make_device(call: Call, vm: Row, disk: Disk, vdi: Row) -> None:
    call.db.create(
        "VBD",
        call.pool.new_ref(),
        {
            "uuid": call.pool.new_uuid(),
            "VM": vm.ref,
            "VDI": vdi.ref,
            "userdevice": disk.device,
            "device": "",
            "bootable": disk.bootable,
            "mode": "RW",
            "type": "Disk",
            "empty": False,
            "unpluggable": disk.kind != "system",
            "other_config": {copies.OWNER: ""},
        },
    )


# --- templates


@verb(*TEMPLATE, *power.MARKS)
def set_is_a_template(call: Call, ref: str, value: bool) -> str:
    row = call.db.get("VM", ref)
    if not value:
        _set_template(call, row, template=False)
        return ""
    with operation(call, row, "make_into_template"):
        _set_template(call, row, template=True)
    return ""


def _set_template(call: Call, vm: Row, *, template: bool) -> None:
    """Make a template of a VM that nobody protects, or a VM of a template."""
    db = call.db
    if vm.get("has_vendor_device"):
        assert_has_vendor_device(call)
    if not template:
        metrics = db.find("VM_metrics", vm["metrics"])
        if metrics is not None:
            db.write(metrics, install_time=call.clock.stamp())
        db.write(vm, is_a_template=False)
        return
    if db.pool().get("ha_enabled") and vm["ha_always_run"] and vm["ha_restart_priority"] == power.PROTECTED:
        raise refuse("VM_IS_PROTECTED", vm.ref)
    db.write(vm, ha_always_run=False, groups=[])
    vifs = set(vm["VIFs"])
    proxies = [proxy for proxy in db.table("PVS_proxy").values() if proxy["VIF"] in vifs]
    vusbs = [db.find("VUSB", ref) for ref in vm.get("VUSBs", ())]
    for gone in [*vusbs, *proxies, db.find("VM_metrics", vm["metrics"]) if call.at_least(rules.STOCKHOLM) else None]:
        if gone is not None:
            db.delete(gone)
    if call.at_least(rules.STOCKHOLM):
        db.write(vm, metrics=NULL)
    db.write(vm, is_a_template=True)


@verb(*TEMPLATE, *power.MARKS, "is_default_template", "other_config")
def set_is_default_template(call: Call, vm: str, value: bool) -> str:
    """Mark a template as one that came with the product, or take the mark away. A VM becomes a template first."""
    row = call.db.get("VM", vm)
    if value and not row["is_a_template"]:
        with operation(call, row, "make_into_template"):
            _set_template(call, row, template=True)
            _mark(call, row, value)
    else:
        _mark(call, row, value)
    return ""


def _mark(call: Call, vm: Row, value: bool) -> None:
    config = {**vm["other_config"], "default_template": "true" if value else "false"}
    call.db.write(vm, is_default_template=value, other_config=config)
