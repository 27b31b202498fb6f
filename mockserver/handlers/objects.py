"""The objects of an archive, taken into the database: found there, or made.

`Options.sr` is where disks are made; without it only records come, and disks are looked for. `restore` keeps uuids and
MACs, and replaces a halted virtual machine that is there already. `force` passes over what would be an error.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from xenctl.datamodel import types as t

from .. import checks, pifs, rules, vtpms
from ..arguments import unmarshal
from ..call import refuse
from ..machine.disks import BLOCKS, Disk, report
from ..store import EPOCH, NULL, Row

if TYPE_CHECKING:
    from ..pool import MockPool
    from .running import Binding

DEFAULT_TEMPLATE = "default_template"


@dataclass(frozen=True)
class Options:
    """How to import; `vdi_map` says which disk stands for which, by uuid, `vif_map` to which network of this pool an
    interface comes, by its own uuid. Machines that are `carried` come with their guests from another pool of this world."""

    restore: bool = False
    force: bool = False
    sr: Row | None = None
    dry_run: bool = False
    live: bool = False
    vdi_map: Mapping[str, str] = field(default_factory=dict)
    vif_map: Mapping[str, str] = field(default_factory=dict)
    carried: bool = False


class Objects:
    """The objects of one archive. `take_in` makes what is to be made, then `complete`, or `undo`."""

    def __init__(
        self, pool: MockPool, binding: Binding, options: Options, found: list[dict[str, Any]], version: int
    ) -> None:
        self.pool, self.binding, self.options, self.version = pool, binding, options, version
        self._store = pool.store
        self._found = [(str(o["class"]), str(o["id"]), self._record(str(o["class"]), o["snapshot"])) for o in found]
        self._by_id = {identity: record for _, identity, record in self._found}
        self._refs: dict[str, str] = {}
        self._vms: list[Row] = []
        self._undo: list[Callable[[], None]] = []

    def _record(self, name: str, wire: Mapping[str, Any]) -> dict[str, Any]:
        """A record's fields as the store keeps them; those that this release does not know are left out."""
        if name not in self._store.tables:
            return {}
        if name == "VTPM":
            return vtpms.told(wire)
        fields, shape = {}, self._store.shape(name)
        for key, f in shape.fields.items():
            fields[key] = unmarshal(f.type, wire[key], self._store.shape) if key in wire else shape.created[key]
        return fields

    # --- all of them

    def take_in(self) -> None:
        """Look up or make every object. Raises `Failure` for the first that cannot be."""
        if self.options.restore:
            self._assert_seeds_free()
        for name, handle in _HANDLERS:
            for cls, identity, record in self._found:
                if cls == name:
                    handle(self, identity, record)
        if not self.options.dry_run:
            self._link_snapshots()
            for vm in self._vms if not self.options.carried else ():
                self._embody(vm)

    def disks(self) -> list[tuple[str, Disk, int]]:
        """The disks whose content follows: folder, content and size of each, in the order of the archive."""
        wanted = {r["VDI"] for c, _, r in self._found if c == "VBD" and r["type"] != "CD"}
        wanted |= {r["suspend_VDI"] for c, _, r in self._found if c == "VM"}
        out = []
        for cls, identity, record in self._found:
            if cls == "VDI" and identity in wanted and identity in self._refs:
                content = self.pool.disk_of(self._refs[identity])
                if content is not None and not self._is_image(record):
                    out.append((identity, content, int(record["virtual_size"])))
        return sorted(out, key=lambda disk: disk[0])

    def row(self, identity: str) -> Row | None:
        """The virtual machine that was made or found for an id."""
        return self._store.find("VM", self._refs.get(identity, NULL))

    def complete(self) -> list[str]:
        """End the operation on every machine that was made; their references, without snapshots if there are others."""
        self.let_go()
        for vm in self._vms if not self.options.carried else ():
            self._remember(vm)
        vms = [vm for vm in self._vms if not vm.get("is_a_snapshot")] or self._vms
        return [vm.ref for vm in vms]

    def let_go(self) -> None:
        """The import is over for the machines that it made, be they whole or not."""
        for vm in self._vms:
            rest = {task: op for task, op in vm["current_operations"].items() if task != self.binding.task}
            self._store.write(vm, current_operations=rest)

    def undo(self) -> None:
        """Take back what was made, last first."""
        for act in reversed(self._undo):
            act()

    # --- making

    def _make(self, name: str, identity: str, record: Mapping[str, Any], **more: Any) -> Row:
        fields = {key: value for key, value in record.items() if self._store.shape(name).fields[key].in_constructor}
        fields = {key: self._inward(name, key, value) for key, value in fields.items()}
        row = self._store.create(name, self.pool.new_ref(), {"uuid": self.pool.new_uuid(), **fields, **more})
        self._refs[identity] = row.ref
        self._undo.append(lambda: self._store.delete(row))
        return row

    def _inward(self, name: str, key: str, value: Any) -> Any:
        kind = self._store.shape(name).fields[key].type
        if isinstance(kind, t.Ref):
            return self._refs.get(value, NULL)
        if isinstance(kind, t.Set) and isinstance(kind.item, t.Ref):
            return [self._refs[ref] for ref in value if ref in self._refs]
        return value

    def _dummy(self, identity: str) -> None:
        self._refs[identity] = self.pool.new_ref()

    def _known(self, name: str, uuid: str) -> Row | None:
        found = self._store.by_uuid.get(uuid)
        return self._store.get(*found) if found and found[0] == name else None

    def _looked_up(self, identity: str) -> str:
        """The reference for an id. Raises where the archive has no such object."""
        if identity not in self._refs:
            raise refuse("IMPORT_ERROR_FAILED_TO_FIND_OBJECT", identity)
        return self._refs[identity]

    # --- class by class

    def host(self, identity: str, record: dict[str, Any]) -> None:
        row = self._known("host", record["uuid"])
        if row is not None:
            self._refs[identity] = row.ref

    def storage(self, identity: str, record: dict[str, Any]) -> None:
        """Disks go into the one that was chosen; where only records come, the one of the same uuid is meant."""
        if self.options.sr is None:
            row = self._known("SR", record["uuid"])
        else:
            row = None if record["content_type"] == "iso" else self.options.sr
        if row is not None:
            self._refs[identity] = row.ref

    def _is_image(self, record: dict[str, Any]) -> bool:
        sr = self._by_id.get(record["SR"])
        return sr is not None and sr["content_type"] == "iso"

    def disk(self, identity: str, record: dict[str, Any]) -> None:
        if self._is_image(record):
            found = self._disc(record["location"])
            if found is not None:
                self._refs[identity] = found.ref
        elif self.options.sr is None:
            self._find_disk(identity, record)
        else:
            uuid = self.pool.new_uuid()
            sm_config = {**record.get("sm_config", {}), "import_task": self.binding.task}
            size = int(record["virtual_size"])
            more = {
                "uuid": uuid,
                "location": uuid,
                "managed": True,
                "physical_utilisation": size,
                "sm_config": sm_config,
            }
            self._make("VDI", identity, record, **more)
            self.pool.add_disk(uuid)
            self._undo.append(lambda: self._discard(uuid))

    def _discard(self, uuid: str) -> None:
        self.pool.disks.pop(uuid, None)

    def _disc(self, location: str) -> Row | None:
        """The ISO image of this name, in any library."""
        for vdi in self._store.table("VDI").values():
            sr = self._store.find("SR", vdi["SR"])
            if vdi["location"] == location and sr and sr["content_type"] == "iso" and sr["type"] != "udev":
                return vdi
        return None

    def _find_disk(self, identity: str, record: dict[str, Any]) -> None:
        mapped = self._known("VDI", self.options.vdi_map.get(record["uuid"], ""))
        sr = self._refs.get(record["SR"])
        if mapped is None and sr is not None:
            there = (
                v for v in self._store.table("VDI").values() if (v["SR"], v["location"]) == (sr, record["location"])
            )
            mapped = next(there, None)
        if mapped is not None:
            self._refs[identity] = mapped.ref
        elif self.options.dry_run and self.options.live:
            self._dummy(identity)
        elif not self.options.force:
            missing = ("VDI_LOCATION_MISSING", sr, record["location"]) if sr else ("VDI_CONTENT_ID_MISSING",)
            raise refuse(*missing)

    def metrics(self, name: str, identity: str, record: dict[str, Any]) -> None:
        if self.options.dry_run:
            self._dummy(identity)
            return
        row = self._make(name, identity, record)
        self._store.write(row, **{key: value for key, value in record.items() if key != "uuid"})

    def vm(self, identity: str, record: dict[str, Any]) -> None:
        store, options = self._store, self.options
        default = checks.is_default_template(_as_row(record)) and record["is_a_template"]
        same = [vm for vm in store.table("VM").values() if vm["name_label"] == record["name_label"]]
        if default and same:
            self._refs[identity] = same[0].ref
            self._vms.append(same[0])
            return
        existing = self._known("VM", record["uuid"]) if options.restore else None
        if existing is not None:
            if existing["power_state"] != "Halted":
                if options.force:
                    return
                raise refuse("VM_BAD_POWER_STATE", existing.ref, "Halted", existing["power_state"])
            versions = existing.get("version", 0), record.get("version", 0)
            if versions[0] >= versions[1] and not options.force:
                raise refuse("VM_TO_IMPORT_IS_NOT_NEWER_VERSION", existing.ref, *versions)
        elif not options.force:
            if "is_default_template" in record:
                record["is_default_template"] = False
            record["other_config"] = {k: v for k, v in record["other_config"].items() if k != DEFAULT_TEMPLATE}
        if options.dry_run:
            self._dummy(identity)
            return
        if existing is not None:
            self._drop(existing)
        self._make_vm(identity, record)

    def _drop(self, vm: Row) -> None:
        """Make room for what is restored in the place of a virtual machine: it goes with its devices, its disks stay."""
        for table in ("VIF", "VBD"):
            for ref in list(vm[f"{table}s"]):
                device = self._store.find(table, ref)
                if device is not None:
                    self._store.delete(device)
        for table, ref in (("VM_metrics", vm["metrics"]), ("VM_guest_metrics", vm["guest_metrics"])):
            row = self._store.find(table, ref)
            if row is not None:
                self._store.delete(row)
        self._store.delete(vm)

    def _make_vm(self, identity: str, record: dict[str, Any]) -> None:
        pool, options = self.pool, self.options
        other = {key: value for key, value in record["other_config"].items() if key != "grant_api_access"}
        if not options.restore:
            other["mac_seed"] = pool.new_uuid()
        other["import_task"] = self.binding.task
        more: dict[str, Any] = {
            "other_config": other,
            "power_state": "Halted",
            "suspend_VDI": NULL,
            "resident_on": self._refs.get(record["resident_on"], NULL),
            "affinity": self._refs.get(record["affinity"], NULL),
            "domid": -1,
            "version": record.get("version", 0) + 1 if options.restore else 0,
            "appliance": NULL,
            "protection_policy": NULL,
            "is_control_domain": record["is_control_domain"],
            "metrics": self._refs.get(record["metrics"], NULL),
            "guest_metrics": self._refs.get(record["guest_metrics"], NULL),
        }
        if not (record["is_a_template"] or options.live) and record.get("generation_id"):
            more["generation_id"] = f"{pool.random.getrandbits(63)}:{pool.random.getrandbits(63)}"
        for key in ("is_a_snapshot", "snapshot_info", "snapshot_time", "transportable_snapshot_id", "bios_strings"):
            more[key] = record.get(key)
        for key in ("last_booted_record", "last_boot_CPU_flags"):
            more[key] = record.get(key)
        if options.restore:
            more["uuid"] = record["uuid"]
        if more["metrics"] == NULL:
            fields = {"uuid": pool.new_uuid(), "last_updated": EPOCH}
            more["metrics"] = self._store.create("VM_metrics", pool.new_ref(), fields).ref
        row = self._make("VM", identity, record, **{key: value for key, value in more.items() if value is not None})
        if record["power_state"] == "Suspended" and record["suspend_VDI"] in self._refs:
            self._store.write(row, power_state="Suspended", suspend_VDI=self._refs[record["suspend_VDI"]])
        elif record["power_state"] == "Suspended" and not options.force and record["suspend_VDI"] != NULL:
            raise refuse("IMPORT_ERROR_FAILED_TO_FIND_OBJECT", record["suspend_VDI"])
        if not options.force:
            self._store.write(row, current_operations={self.binding.task: "import"})
        self._vms.append(row)

    def network(self, identity: str, record: dict[str, Any]) -> None:
        users = [r["uuid"] for cls, _, r in self._found if cls == "VIF" and r["network"] == identity]
        if users and all(uuid in self.options.vif_map for uuid in users):
            return
        rows = list(self._store.table("network").values())
        found = [row for row in rows if row["name_label"] == record["name_label"]]
        found = found or [row for row in rows if row["bridge"] == record["bridge"]]
        if found:
            self._refs[identity] = found[0].ref
        elif self.options.dry_run:
            self._dummy(identity)
        else:
            other = {**record["other_config"], "import_task": self.binding.task}
            bridge = record["bridge"] if self._store.release.order >= rules.FALCON else ""
            bridge = bridge or pifs.new_bridge(self.pool, self.pool.master.xapi)
            self._make("network", identity, record, bridge=bridge, other_config=other)

    def vbd(self, identity: str, record: dict[str, Any]) -> None:
        if self.options.restore and self._known("VBD", record["uuid"]) is not None:
            self._refs[identity] = self._store.by_uuid[record["uuid"]][1]
            return
        vm = self._device_of(record)
        if vm is None:
            return
        original = self._by_id.get(record["VM"], {})
        there, hvm = record["VDI"] in self._refs, checks.is_hvm(_as_row(original))
        if record["currently_attached"] and not there:
            ejected = self.options.dry_run and self.options.live and original["power_state"] != "Suspended"
            if not (record["type"] == "CD" and (hvm or ejected)):
                raise refuse("IMPORT_ERROR_ATTACHED_DISKS_NOT_FOUND")
        if record["type"] == "Disk" and not there:
            return
        if self.options.dry_run:
            self._dummy(identity)
            return
        more: dict[str, Any] = {"device": "", "currently_attached": record["currently_attached"]}
        if not there and (hvm or original["power_state"] != "Suspended"):
            more |= {"empty": True}
        if self.options.restore:
            more["uuid"] = record["uuid"]
        self._make("VBD", identity, record, **more)

    def _device_of(self, record: dict[str, Any]) -> str | None:
        """The machine that a device belongs to; None for one that was passed over."""
        if record["VM"] in self._by_id and record["VM"] not in self._refs:
            return None
        return self._looked_up(record["VM"])

    def vif(self, identity: str, record: dict[str, Any]) -> None:
        if self.options.restore and self._known("VIF", record["uuid"]) is not None:
            self._refs[identity] = self._store.by_uuid[record["uuid"]][1]
            return
        vm, chosen = self._device_of(record), self.options.vif_map.get(record["uuid"], "")
        if not chosen:
            self._looked_up(record["network"])
        if vm is None:
            return
        if self.options.dry_run:
            self._dummy(identity)
            return
        row = self._store.get("VM", vm)
        more: dict[str, Any] = {"currently_attached": record["currently_attached"] and row["power_state"] != "Halted"}
        if self.options.restore:
            more["uuid"] = record["uuid"]
        else:
            more |= {"MAC": _mac(row["other_config"].get("mac_seed", ""), record["device"]), "MAC_autogenerated": True}
        if chosen:
            more["network"] = chosen
        self._make("VIF", identity, record, **more)

    def vtpm(self, identity: str, record: dict[str, Any]) -> None:
        """One that is made, whatever there is."""
        store, restore = self._store, self.options.restore
        if restore and self._known("VTPM", record["uuid"]) is not None:
            raise refuse("IMPORT_ERROR_GENERIC", f"A VTPM with UUID {record['uuid']} already exists")
        vm = self._device_of(record)
        if vm is None:
            return
        if self.options.dry_run:
            self._dummy(identity)
            return
        vtpms.assert_may_have(store, store.get("VM", vm))
        contents, same = record["content"], {"uuid": record["uuid"]} if restore else {}
        traits = {name: record[name] for name in vtpms.TRAITS}
        row = vtpms.make(self.pool, vm, contents=contents, **traits, **same)
        self._undo.append(lambda: vtpms.erase(store, row))

    # --- afterwards

    def _link_snapshots(self) -> None:
        """Snapshots and parents name each other by ids until all of them are there."""
        for cls, identity, record in self._found:
            vm = self._store.find("VM", self._refs.get(identity, "")) if cls == "VM" else None
            if vm is None or vm not in self._vms:
                continue
            if record.get("is_a_snapshot") and record.get("snapshot_of", NULL) != NULL:
                self._store.write(vm, snapshot_of=self._looked_up(record["snapshot_of"]))
            if record.get("parent", NULL) in self._refs:
                self._store.write(vm, parent=self._refs[record["parent"]])

    def _assert_seeds_free(self) -> None:
        """A machine that is restored must not share the seed of its MACs with another one, but for its own snapshots."""
        there = [vm for vm in self._store.table("VM").values() if "mac_seed" in vm["other_config"]]
        for cls, _, record in self._found:
            seed = record["other_config"].get("mac_seed") if cls == "VM" else None
            for vm in there if seed is not None else ():
                if vm["other_config"]["mac_seed"] == seed and self._root(record) != self._root(vm):
                    raise refuse("DUPLICATE_MAC_SEED", seed)

    def _root(self, vm: Mapping[str, Any]) -> str:
        """The uuid of a machine, or of the one that it is a snapshot of."""
        of = vm.get("snapshot_of", NULL) if vm.get("is_a_snapshot") else NULL
        origin = self._by_id.get(of) or self._store.find("VM", of)
        return str((origin or vm)["uuid"])

    def _embody(self, vm: Row) -> None:
        """There is a guest in the machine."""
        if vm["is_control_domain"] or vm["is_a_template"]:
            return
        metrics = self._store.find("VM_guest_metrics", vm["guest_metrics"])
        guest = self.pool.guest(vm)
        guest.settled = True
        guest.agent = report({k: v for k, v in metrics.items() if k != "uuid"}) if metrics else None

    def _remember(self, vm: Row) -> None:
        """The guest counts on what is on its disks now; one that was suspended goes on as the one it was."""
        guest = self.pool.guests.get(vm["uuid"])
        if guest is None:
            return
        image = self.pool.disk_of(vm["suspend_VDI"])
        if image is not None:  # one that holds nothing is no guest's memory
            guest.image, guest.saved_by = image.blocks.get(0, guest.memory()), self._store.release
        for vbd in self.pool.vbds(vm):
            disk = self.pool.disk_of(vbd["VDI"])
            if disk is not None and vbd["mode"] == "RW":
                guest.ledger[disk.uuid] = {n: block for n, block in disk.blocks.items() if n <= BLOCKS}


def _as_row(record: Mapping[str, Any]) -> Row:
    return Row("VM", "", dict(record))


def _mac(seed: str, device: str) -> str:
    """A MAC of the machine's own, the same for the same seed and device; the second bit says that nobody assigned it."""
    octets = bytearray(hashlib.sha256(f"{seed}/{device}".encode()).digest()[:6])
    octets[0] = octets[0] & ~1 | 2
    return ":".join(f"{octet:02x}" for octet in octets)


_HANDLERS: tuple[tuple[str, Callable[[Objects, str, dict[str, Any]], None]], ...] = (
    ("host", Objects.host),
    ("SR", Objects.storage),
    ("VDI", Objects.disk),
    ("VM_guest_metrics", lambda objects, *found: objects.metrics("VM_guest_metrics", *found)),
    ("VM_metrics", lambda objects, *found: objects.metrics("VM_metrics", *found)),
    ("VM", Objects.vm),
    ("network", Objects.network),
    ("VBD", Objects.vbd),
    ("VIF", Objects.vif),
    ("VTPM", Objects.vtpm),
)
"""What takes in each class, in order."""
