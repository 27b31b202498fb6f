"""A picture of settings, as plain values that a journal can keep: what a host, and what lives on it, is configured to be.

It is taken before a host is installed anew and compared afterwards. What follows from running (power states, addresses from
DHCP, measurements, lists of operations) is left out, so that nothing differs but settings.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from typing import TYPE_CHECKING, Any

from ..datamodel import load
from .observe import CAME_FROM, MARK, UPGRADE_KEY

if TYPE_CHECKING:
    from ..session import Session

Picture = Mapping[str, Mapping[str, Mapping[str, Any]]]
"""Values by class, uuid and field."""

CLASSES = ("host", "network", "PIF", "SR", "PBD", "VDI", "VM", "VBD", "VIF")
RUNTIME: Mapping[str, frozenset[str]] = {
    "host": frozenset({"software_version", "capabilities", "display"}),
    "SR": frozenset({"physical_size", "sm_config"}),
    "VM": frozenset(
        "power_state suspend_VDI memory_target last_boot_CPU_flags last_booted_record version hardware_platform_version "
        "domain_type".split()
    ),
    "VBD": frozenset({"currently_attached", "device", "VDI", "empty"}),
    "VDI": frozenset({"sm_config"}),
    "VIF": frozenset({"currently_attached"}),
}
"""Fields that somebody can set and that change by themselves, too, such as when a guest starts. A disk is told by its drive
and its own record."""
SETTINGS: Mapping[str, frozenset[str]] = {
    "host": frozenset({"power_on_mode", "power_on_config", "edition", "external_auth_type"}),
    "SR": frozenset({"shared"}),
    "PIF": frozenset(
        "physical management ip_configuration_mode netmask gateway DNS bond_master_of bond_slave_of VLAN_master_of "
        "VLAN_slave_of ipv6_configuration_mode primary_address_type disallow_unplug".split()
    ),
}
"""Fields that the model calls the host's own business, and that are settings all the same."""
FROM_DHCP = frozenset({"netmask", "gateway", "DNS"})
"""Settings only of an interface with a fixed address."""
KEYS = frozenset({"boot_time", "agent_start_time", "device-model", CAME_FROM, MARK, UPGRADE_KEY})
"""Keys of maps that come and go."""


def take(session: Session, *, hosts: Collection[str], vms: Collection[str] | None) -> dict[str, Any]:
    """The settings of these hosts (by reference), their network and storage, and these VMs with their devices and disks; of
    all VMs for None. Networks are in it, all of them."""
    tables = {name: getattr(session, name).get_all_records() for name in CLASSES}
    mine = {ref: vm for ref, vm in tables["VM"].items() if vms is None or vm.uuid in vms}
    drives = {ref: drive for ref, drive in tables["VBD"].items() if drive.VM in mine}
    plugs = {ref: pbd for ref, pbd in tables["PBD"].items() if pbd.host in hosts}
    chosen = {
        "host": {ref: host for ref, host in tables["host"].items() if ref in hosts},
        "network": tables["network"],
        "PIF": {ref: pif for ref, pif in tables["PIF"].items() if pif.host in hosts},
        "SR": {ref: sr for ref, sr in tables["SR"].items() if ref in {pbd.SR for pbd in plugs.values()}},
        "PBD": plugs,
        "VDI": {
            ref: vdi
            for ref, vdi in tables["VDI"].items()
            if ref in {drive.VDI for drive in drives.values() if drive.type != "CD"}
        },
        "VM": {ref: vm for ref, vm in mine.items() if not vm.is_control_domain},
        "VBD": drives,
        "VIF": {ref: vif for ref, vif in tables["VIF"].items() if vif.VM in mine},
    }
    return {
        name: {record.uuid: dict(_settings(name, record)) for record in records.values()}
        for name, records in chosen.items()
    }


def _settings(name: str, record: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    fields = load().classes[name].fields
    leased = FROM_DHCP if record.get("ip_configuration_mode") == "DHCP" else frozenset()
    for field, value in record.items():
        if field in leased:
            continue
        known = fields.get(field)
        settable = known is not None and known.qualifier in ("RW", "RO/constructor")
        if (settable and field not in RUNTIME.get(name, ())) or field in SETTINGS.get(name, ()):
            yield field, _plain(value)


def _plain(value: Any) -> Any:
    """A value as JSON can carry it, the same for the same setting."""
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in sorted(value.items()) if key not in KEYS}
    if isinstance(value, (list, tuple, set, frozenset)):
        return sorted((_plain(item) for item in value), key=str)
    return value if isinstance(value, (str, int, float, bool, type(None))) else str(value)


def differences(before: Picture, after: Picture) -> list[str]:
    """How settings differ, one sentence each."""
    out = []
    for name, records in before.items():
        now = after.get(name, {})
        for uuid, was in records.items():
            called = f"{name} {was.get('name_label') or was.get('device') or uuid}"
            if uuid not in now:
                out.append(f"{called} is gone")
                continue
            out += [
                f"{called}: {field} was {value!r} and is {now[uuid].get(field)!r}"
                for field, value in was.items()
                if now[uuid].get(field) != value
            ]
        out += [f"{name} {now[uuid].get('name_label') or uuid} is new" for uuid in now if uuid not in records]
    return out


def packages(session: Session, host: Any) -> dict[str, str]:
    """What somebody installed on a host beside the product, with what it says of itself: supplemental packs, by the keys
    `originator:name` of its versions, and the updates that are applied, where the release tells of them."""
    record = session.host.get_all_records()[host]
    out = {key: str(text) for key, text in record.software_version.items() if ":" in key or key.startswith("package-")}
    if "patches" in record and record.patches:
        patches, pool = session.host_patch.get_all_records(), session.pool_patch.get_all_records()
        for ref in record.patches:
            whole = pool.get(patches[ref].pool_patch) if ref in patches else None
            if whole is not None and patches[ref].applied:
                out[f"update {whole.name_label}"] = whole.name_description
    if "updates" in record and record.updates:
        updates = session.pool_update.get_all_records()
        out.update(
            {f"update {updates[ref].name_label}": updates[ref].version for ref in record.updates if ref in updates}
        )
    return out
