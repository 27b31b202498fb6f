"""`ova.xml`: the database records that make up virtual machines, with references of their own.

Each object gets an id, `Ref:0` and on; a reference to what is not exported becomes one to nothing. Version 2 of the
format is that of 4.1 on; 4.0.1 wrote version 1, with a table of checksums behind the disks.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from xenctl import xmlrpc
from xenctl.datamodel import types as t

from .. import rules, vtpms
from ..software import software_version
from ..store import EPOCH, NULL, Row, Store

if TYPE_CHECKING:
    from ..pool import MockPool

VERSION = ("hostname", "date", "product_version", "product_brand", "build_number")
"""What an archive says of the host that wrote it."""
ORDER = ("host", "VM", "VM_metrics", "VM_guest_metrics", "VBD", "VIF", "network", "VDI", "SR", "VTPM")
"""Classes of objects, in the order in which they are written."""

BLANK: dict[str, dict[str, Any]] = {
    "host": {
        **{name: [] for name in "PIFs PBDs PGPUs PCIs host_CPUs patches crashdumps supported_bootloaders".split()},
        **{name: [] for name in "capabilities ha_statefiles ha_network_peers tags".split()},
        **{name: {} for name in "license_params blobs external_auth_configuration logging other_config".split()},
        **{name: {} for name in "cpu_configuration software_version".split()},
        **dict.fromkeys("external_auth_type external_auth_service_name sched_policy".split(), ""),
        "metrics": NULL,
    },
    "VM": {"crash_dumps": [], "consoles": [], "protection_policy": NULL, "blobs": {}},
    "VBD": {"metrics": NULL},
    "VIF": {"metrics": NULL},
    "network": {"PIFs": []},
    "SR": {"PBDs": []},
}
"""What is written in the place of what concerns nobody else."""

NO_SNAPSHOT = {
    "is_a_snapshot": False,
    "snapshot_of": NULL,
    "snapshots": [],
    "snapshot_time": EPOCH,
    "transportable_snapshot_id": "",
    "parent": NULL,
}
"""What is written of a snapshot that is exported as a virtual machine of its own."""


def export_version(store: Store) -> int:
    """The version of the format that a host writes."""
    return 1 if store.release.order < rules.MIAMI else 2


class Selection:
    """The objects that an export takes along, by reference, with the ids that stand for them."""

    def __init__(self, pool: MockPool, *, power_state: bool, snapshots: bool, without: Iterable[str] = ()) -> None:
        self.pool, self.store = pool, pool.store
        self.ids: dict[str, str] = {}
        self._classes: dict[str, str] = {}
        self._power_state, self._snapshots, self._without = power_state, snapshots, frozenset(without)

    def _add(self, name: str, ref: str) -> Row | None:
        row = self.store.find(name, ref)
        if row is None or ref in self.ids:
            return None
        self.ids[ref] = f"Ref:{len(self.ids)}"
        self._classes[ref] = name
        return row

    def _add_disk(self, ref: str) -> None:
        vdi = self._add("VDI", ref)
        if vdi is not None:
            self._add("SR", vdi["SR"])

    def add(self, vm: Row, *, alone: bool = False) -> None:
        """Take a virtual machine along, with its devices, disks, networks and, unless `alone`, snapshots."""
        if self._add("VM", vm.ref) is None:
            return
        for ref in vm["VIFs"] if "vif" not in self._without else ():
            vif = self._add("VIF", ref)
            if vif is not None:
                self._add("network", vif["network"])
        for ref in vm["VBDs"] if "vbd" not in self._without else ():
            vbd = self._add("VBD", ref)
            if vbd is not None and not vbd["empty"]:
                self._add_disk(vbd["VDI"])
        with_vtpms = self.store.release.order >= vtpms.SINCE and "vtpm" not in self._without
        for ref in vm.get("VTPMs", ()) if with_vtpms else ():
            self._add("VTPM", ref)
        related = [*vm.get("snapshots", []), vm.get("parent", NULL)] if self._snapshots and not alone else []
        for ref in related:
            other = self.store.find("VM", ref)
            if other is not None:
                self.add(other, alone=True)
        if self._power_state and vm["power_state"] == "Suspended":
            self._add_disk(vm["suspend_VDI"])
        for name, ref in (("VM_metrics", vm["metrics"]), ("VM_guest_metrics", vm["guest_metrics"])):
            self._add(name, ref)
        for ref in (vm["resident_on"], vm["affinity"]):
            self._add("host", ref)

    def text(self) -> bytes:
        """The file `ova.xml`."""
        software = software_version(self.store.release)
        major, _, minor = software["xapi"].partition(".")
        version = {
            **{key: software.get(key, "") for key in VERSION},
            "xapi_major": int(major),
            "xapi_minor": int(minor),
            "export_vsn": export_version(self.store),
        }
        objects = [
            {"class": name, "id": self.ids[ref], "snapshot": self._record(self.store.get(name, ref))}
            for name in ORDER
            for ref, of in self._classes.items()
            if of == name
        ]
        return xmlrpc.encode({"version": version, "objects": objects}, lenient=True).encode()

    def _record(self, row: Row) -> dict[str, Any]:
        if row.table == "VTPM":
            return vtpms.record(self.store, row, self.ids.get(row["VM"], NULL))
        record = self.store.record(row)
        blank = {**BLANK.get(row.table, {}), "current_operations": {}, "allowed_operations": []}
        if not self._power_state:
            blank |= {"power_state": "Halted", "suspend_VDI": NULL, "currently_attached": False}
        if row.table == "VM" and not self._snapshots:
            blank |= NO_SNAPSHOT
        fields = self.store.shape(row.table).fields
        return {
            name: blank[name] if name in blank else self._outward(fields[name].type, value)
            for name, value in record.items()
        }

    def _outward(self, kind: t.Type, value: Any) -> Any:
        """A value with the references in it replaced."""
        if isinstance(kind, t.Ref):
            return self.ids.get(value, NULL)
        if isinstance(kind, t.Set) and isinstance(kind.item, t.Ref):
            return [self.ids[ref] for ref in value if ref in self.ids]
        return value


def disks_to_send(store: Store, vm: Row, *, power_state: bool) -> list[Row]:
    """The disks whose content an export of `vm` carries: none of CDs, none of ISO images."""
    refs = [vbd["VDI"] for vbd in (store.find("VBD", ref) for ref in vm["VBDs"]) if vbd and vbd["type"] != "CD"]
    if power_state and vm["power_state"] == "Suspended":
        refs.append(vm["suspend_VDI"])
    rows = (store.find("VDI", ref) for ref in dict.fromkeys(refs))
    return [vdi for vdi in rows if vdi is not None and not _is_image(store, vdi)]


def _is_image(store: Store, vdi: Row) -> bool:
    sr = store.find("SR", vdi["SR"])
    return sr is not None and sr["content_type"] == "iso"
