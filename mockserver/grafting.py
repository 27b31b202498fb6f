"""What a joining host brings into the pool's database: itself, its storage and cards, and its VMs.

Rows are looked up by what they are known by (uuids; physical networks by their bridges) and made where they are missing,
with the references in them led to the pool's rows. What cannot be brought is left out: the host joins without it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from xenctl.datamodel import types as t

from . import pifs
from .checks import is_default_template
from .storage_drivers import is_tools_sr
from .store import NULL, Row, Store

if TYPE_CHECKING:
    from .pool import MockPool

HOST_FIELDS = (
    *("name_label", "hostname", "address", "external_auth_type", "external_auth_service_name", "license_params"),
    *("external_auth_configuration", "edition", "license_server", "chipset_info", "last_software_update"),
    *("last_update_hash", "ssh_enabled", "ssh_enabled_timeout", "ssh_expiry", "console_idle_timeout", "ssh_auto_mode"),
    *("secure_boot", "software_version", "https_only", "max_cstate", "ntp_mode", "ntp_custom_servers", "timezone"),
    *("numa_affinity_policy", "latest_synced_updates_applied", "pending_guidances_full"),
    "pending_guidances_recommended",
)
"""What the new host's row is made from, by the parameters of `host.create`."""
FRESH = frozenset({"PBD", "network", "PIF", "VBD", "VIF", "VM_metrics", "VM_guest_metrics", "PIF_metrics"})
"""The classes whose objects get new uuids."""
NOT_BROUGHT: Mapping[str, Any] = {"current_operations": {}, "allowed_operations": [], "currently_attached": False}
INTERNAL = "is_host_internal_management_network"


class Graft:
    """The rows of a host's own database on their way into that of `pool`; `refs` leads from theirs to the pool's."""

    def __init__(self, source: Store, pool: MockPool, me: Row, host: Row) -> None:
        self.source, self.pool, self.store = source, pool, pool.store
        self.refs: dict[str, str] = {me.ref: host.ref}

    def bring(self) -> None:
        """Bring all there is."""
        for table, find, more in BROUGHT:
            for row in list(self.source.table(table).values()):
                there = find(self, row)
                if there is None:
                    there = self._made(row, more(self, row))
                self.refs[row.ref] = there
        for vlan in self.source.table("VLAN").values():
            if self.refs[vlan.ref] != NULL:
                self.store.write(
                    self.store.get("PIF", self.refs[vlan["untagged_PIF"]]), VLAN_master_of=self.refs[vlan.ref]
                )
        host = self.store.get("host", next(iter(self.refs.values())))
        self._bring_guests()
        for field in ("crash_dump_sr", "suspend_image_sr", "local_cache_sr"):
            mine = self.source.get("host", next(iter(self.refs))).get(field, NULL)
            self.store.write(host, **{field: self.refs.get(mine, NULL)})

    def _made(self, row: Row, more: Mapping[str, Any]) -> str:
        fields = {name: self._led(f.type, row[name]) for name, f in self.source.shape(row.table).fields.items()}
        fields.update({name: value for name, value in NOT_BROUGHT.items() if name in fields}, **more)
        if row.table in FRESH:
            fields["uuid"] = self.pool.new_uuid()
        return self.store.create(row.table, self.pool.new_ref(), fields).ref

    def _led(self, kind: Any, value: Any) -> Any:
        """A value with its references led to the pool's rows, or to nothing."""
        if isinstance(kind, t.Ref):
            return self.refs.get(value, NULL)
        if isinstance(kind, t.Set) and isinstance(kind.item, t.Ref):
            return [self.refs[ref] for ref in value if ref in self.refs]
        if isinstance(kind, t.Map) and (isinstance(kind.key, t.Ref) or isinstance(kind.item, t.Ref)):
            return {}
        return value

    def _bring_guests(self) -> None:
        """VMs with their devices; templates that come with the product are there already."""
        vms = [vm for vm in self.source.table("VM").values() if not self._stays(vm)]
        chosen = {vm.ref for vm in vms}
        for vm in vms:
            for table, field in (("VM_metrics", "metrics"), ("VM_guest_metrics", "guest_metrics")):
                found = self.source.find(table, vm[field])
                if found is not None:
                    self.refs[found.ref] = self._made(found, {})
            self.refs[vm.ref] = self._made(vm, {"resident_on": NULL, "domid": -1})
        for table in ("VBD", "VIF"):
            for device in [row for row in self.source.table(table).values() if row["VM"] in chosen]:
                self._made(device, {"metrics": NULL} if "metrics" in device else {})
        for vm in vms:  # VMs name each other
            for field in ("snapshot_of", "parent"):
                if vm.get(field, NULL) in self.refs:
                    self.store.write(self.store.get("VM", self.refs[vm.ref]), **{field: self.refs[vm[field]]})

    def _stays(self, vm: Row) -> bool:
        return bool(vm["is_control_domain"]) or is_default_template(vm) or vm["uuid"] in self.store.by_uuid


def _by_uuid(graft: Graft, row: Row) -> str | None:
    found = graft.store.by_uuid.get(row["uuid"])
    return found[1] if found is not None and found[0] == row.table else None


def _sr(graft: Graft, row: Row) -> str | None:
    """The tools' image is that of the pool."""
    tools = (sr.ref for sr in graft.store.table("SR").values() if is_tools_sr(sr) and is_tools_sr(row))
    return _by_uuid(graft, row) or next(tools, None)


def _network(graft: Graft, row: Row) -> str | None:
    """Cards of the same name are taken to be wired alike; other networks of a host are its own."""
    cards = [graft.source.get("PIF", ref) for ref in row["PIFs"]]
    physical = bool(cards) and cards[0] in pifs.physical_pifs(graft.source, graft.source.get("host", cards[0]["host"]))
    if not physical and row["other_config"].get(INTERNAL) != "true":
        return None
    there = graft.store.table("network").values()
    return next((other.ref for other in there if other["bridge"] == row["bridge"]), None)


def _bridge(graft: Graft, row: Row) -> dict[str, Any]:
    """A network of a host's own gets a bridge that no other has."""
    taken = {other["bridge"] for other in graft.store.table("network").values()}
    if row["bridge"] not in taken:
        return {}
    number = 0
    while f"xapi{number}" in taken:
        number += 1
    return {"bridge": f"xapi{number}"}


def _pif(graft: Graft, row: Row) -> str | None:
    """Only cards come, and the VLAN that the host is managed by; the rest is made there as the master has it."""
    cards = pifs.physical_pifs(graft.source, graft.source.get("host", row["host"]))
    return _by_uuid(graft, row) if row in cards or row.get("management") else NULL


def _vlan(graft: Graft, row: Row) -> str | None:
    return NULL if graft.refs.get(row["untagged_PIF"], NULL) == NULL else _by_uuid(graft, row)


def _plain(graft: Graft, row: Row) -> dict[str, Any]:
    return {}


def _unshared(graft: Graft, row: Row) -> dict[str, Any]:
    return {"shared": False}


def _card(graft: Graft, row: Row) -> dict[str, Any]:
    metrics = pifs.make_metrics(graft.pool, graft.store, physical=row.get("physical", True))
    out = {"metrics": metrics, "bond_slave_of": NULL, "currently_attached": row.get("currently_attached", True)}
    masters = pifs.management(graft.store, graft.store.get("host", graft.store.pool()["master"]))
    if row["VLAN"] >= 0 and masters is not None:
        out["network"] = masters["network"]
    return out


Find = Callable[[Graft, Row], "str | None"]
More = Callable[[Graft, Row], Mapping[str, Any]]
BROUGHT: tuple[tuple[str, Find, More], ...] = (
    ("SR", _sr, _unshared),
    ("PBD", _by_uuid, _plain),
    ("VDI", _by_uuid, _plain),
    ("network", _network, _bridge),
    ("PIF", _pif, _card),
    ("VLAN", _vlan, _plain),
    ("secret", _by_uuid, _plain),
)
"""By class: which row of the pool's is the same, and what a new one holds beside what the old one did."""
