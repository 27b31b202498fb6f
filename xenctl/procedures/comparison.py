"""A pool before and after, compared as data: what is there, how it is set, and where it is.

The picture holds plain values under uuids, so it can be kept with a plan. What changes by itself is left out: times of
starts, marks of runs, suspend images, templates that come with a release. A field that only one release has is not compared.
Values that may be secrets are not in it.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from .checks.survey import Records, Survey
from .observe import CAME_FROM, MARK, UPGRADE_KEY

FIELDS: Mapping[str, str] = {
    "pool": "name_label master default_SR suspend_image_SR crash_dump_SR ha_enabled ha_host_failures_to_tolerate "
    "ha_configuration wlb_enabled wlb_url vswitch_controller health_check_config other_config",
    "host": "name_label hostname address enabled edition power_on_mode multipathing iscsi_iqn external_auth_type ssl_legacy "
    "other_config logging",
    "VM": "name_label power_state resident_on affinity memory_static_max memory_static_min memory_dynamic_max "
    "memory_dynamic_min VCPUs_max VCPUs_at_startup HVM_boot_policy HVM_boot_params PV_bootloader platform "
    "actions_after_reboot actions_after_crash ha_restart_priority ha_always_run start_delay order blocked_operations "
    "protection_policy snapshot_schedule appliance other_config",
    "SR": "name_label type content_type shared physical_size other_config",
    "PBD": "host SR device_config currently_attached",
    "VDI": "name_label SR type virtual_size read_only sharable",
    "VBD": "VM VDI userdevice type mode bootable empty",
    "VIF": "VM network device MAC MTU",
    "network": "name_label bridge MTU other_config",
    "PIF": "host network device MAC MTU VLAN management ip_configuration_mode IP netmask gateway DNS currently_attached",
    "Bond": "master slaves",
    "VLAN": "tagged_PIF untagged_PIF tag",
    "VMPP": "name_label is_policy_enabled",
    "VMSS": "name_label enabled",
}
"""What is compared, by class."""
PASSING = {MARK, CAME_FROM, UPGRADE_KEY, "boot_time", "agent_start_time", "rpm_patch_installation_time"} | {
    "last_blob_sync_time"
}
"""Keys of maps that change by themselves."""
SECRET = re.compile("pass|secret|token|credential", re.IGNORECASE)
OWN_DISKS = ("suspend", "ha_statefile", "metadata", "redo_log", "crashdump", "rrd", "pvs_cache")
"""Types of disks that hosts make and drop by themselves."""
VERSION = "product_version"


@dataclass(frozen=True)
class Difference:
    """One thing that is not as it was. `field` is empty where the whole object came or went; then `before` or `after` is
    None, and the other is its name."""

    kind: str
    uuid: str
    name: str
    field: str
    before: Any
    after: Any

    @property
    def text(self) -> str:
        """The difference in words."""
        if not self.field:
            return f"{self.kind} {self.name} is {'new' if self.before is None else 'gone'}"
        return f"{self.kind} {self.name}: {self.field} was {_said(self.before)} and is {_said(self.after)}"


def _said(value: Any) -> str:
    return "empty" if value in ("", None, [], {}) else str(value)


@dataclass(frozen=True)
class Comparison:
    """What came of comparing: the versions of hosts, as `(name, before, after)`, and every other difference."""

    versions: tuple[tuple[str, str, str], ...]
    differences: tuple[Difference, ...]

    def as_dict(self) -> dict[str, Any]:
        """The comparison as plain values."""
        versions = [{"host": host, "before": before, "after": after} for host, before, after in self.versions]
        return {"versions": versions, "differences": [{**vars(one), "text": one.text} for one in self.differences]}


def picture(survey: Survey) -> dict[str, Any]:
    """What there is to compare of a pool, by class and uuid: plain values only. Empty where there are no tables."""
    if survey.tables is None:
        return {}
    uuids = {ref: record["uuid"] for kind in FIELDS for ref, record in survey.records(kind).items()}
    out: dict[str, Any] = {}
    for kind, text in FIELDS.items():
        fields = text.split()
        out[kind] = {
            record["uuid"]: {name: _plain(record[name], uuids) for name in fields if name in record}
            for record in _counted(kind, survey.records(kind), survey)
        }
    for record in survey.records("host").values():
        told = out["host"][record["uuid"]]
        told[VERSION] = record["software_version"].get(VERSION, "")
        told.setdefault("iscsi_iqn", "")
        told["iscsi_iqn"] = told["iscsi_iqn"] or told["other_config"].pop("iscsi_iqn", "")
    return out


def _counted(kind: str, records: Records, survey: Survey) -> Iterator[Mapping[str, Any]]:
    """The records that count."""
    guests = {
        ref
        for ref, vm in survey.records("VM").items()
        if not vm["is_control_domain"] and vm["other_config"].get("default_template") != "true"
    }
    for ref, record in records.items():
        if kind == "VM" and ref not in guests:
            continue
        if kind in ("VBD", "VIF") and record["VM"] not in guests:
            continue
        if kind == "VDI" and (
            record["type"] in OWN_DISKS or survey.get("SR", record["SR"]).get("content_type") == "iso"
        ):
            continue
        yield record


def _plain(value: Any, uuids: Mapping[str, str]) -> Any:
    """A value without references, secrets, and what passes."""
    if isinstance(value, Mapping):
        return {
            str(key): _plain(item, uuids)
            for key, item in sorted(value.items())
            if key not in PASSING and not SECRET.search(str(key))
        }
    if isinstance(value, (list, tuple, set, frozenset)):
        return sorted(_plain(item, uuids) for item in value)
    if isinstance(value, str) and value.startswith("OpaqueRef:"):
        return uuids.get(value, "")
    return value if isinstance(value, (str, int, float, bool)) else str(value)


def compare(before: Mapping[str, Any], after: Mapping[str, Any]) -> Comparison:
    """How two pictures differ."""
    versions, out = [], []
    for kind in FIELDS:
        was, now = before.get(kind, {}), after.get(kind, {})
        for uuid in {**was, **now}:
            old, new = was.get(uuid), now.get(uuid)
            name = _name(old or new, uuid)
            if old is None or new is None:
                out.append(Difference(kind, uuid, name, "", old and name, new and name))
                continue
            for field in old:
                if field == VERSION:
                    versions.append((name, old[field], new.get(field, "")))
                elif field in new and old[field] != new[field]:
                    out.append(Difference(kind, uuid, name, field, old[field], new[field]))
    return Comparison(tuple(versions), tuple(out))


def _name(told: Mapping[str, Any] | None, uuid: str) -> str:
    return str((told or {}).get("name_label") or uuid)
