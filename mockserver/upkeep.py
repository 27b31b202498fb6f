"""Keeps what follows from other rows right: allowed operations, how much of its space storage has given away, and how much
memory hosts have free.

xapi recomputes these lists at many places, each of which knows what it has changed. Here a table says which field makes
which lists stale; writes are noted as they happen and the lists are made anew when the call or event is over, and while it
waits before anything else happens. So every list is right whenever somebody can look, whoever changed the row, and the cost
follows the change. Who hears of each write (a trace, an old listener, another thread) has them made before any wait.
What xapi only writes down, such as `VBD.unpluggable`, changes no list before something else does, as there; nor does the
key that says that versions are mixed change those of VMs and hosts.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable
from typing import TYPE_CHECKING, ClassVar

from . import rules, usual
from .columns import NULL
from .journal import Kept
from .storage_rules import pbds_of

if TYPE_CHECKING:
    from .store import Row, Store, Write

Stale = Callable[["Upkeep", "Store", "Write"], None]
Put = Callable[..., None]
"""What is given a row and, by its name, the new list: `Store.write`, or `Store.put`."""

MOST_KNOWN = 4096
"""Lists of one class that are remembered."""
DEVICES = (("VBD", "VBDs"), ("VIF", "VIFs"), ("VUSB", "VUSBs"), ("VTPM", "VTPMs"))
"""The devices whose lists follow from their VM's state: their classes, and where the VM names them."""


class Upkeep(Kept):
    """What has to be made anew. `known` has the lists that were worked out, by the facts that they follow from; `lists` the
    objects whose lists are stale, by class: for a VM, whether those of its devices are, too, for a VBD that of its disk.

    What is stale is no state: nothing is where a savepoint is taken, and so nothing after a rollback.
    """

    UNKEPT: ClassVar = frozenset({"known", "lists", "growth", "filled"})

    def __init__(self) -> None:
        self.known: dict[str, dict[Hashable, list[str]]] = {name: {} for name in usual.ALIKE}
        self.lists: dict[str, dict[str, bool]] = {name: {} for name in usual.ALIKE}
        self.growth: dict[str, tuple[int, int]] = {}
        self.filled: dict[str, None] = {}
        """The hosts whose guests came, went or changed their size, in that order."""
        self.replan = False
        """Whether something was written that high availability looks at."""

    def renew(self, table: str, *refs: str) -> None:
        """Note that the lists of these objects are stale."""
        lists = self.lists[table]
        for ref in refs:
            if ref not in lists:
                lists[ref] = False

    @property
    def stale(self) -> bool:
        """Whether anything is."""
        return bool(self.growth or self.filled) or any(self.lists.values())

    def forget(self) -> None:
        """Have nothing stale: all is as it was when nothing was."""
        self.growth.clear()
        self.filled.clear()
        for refs in self.lists.values():
            refs.clear()

    def do(self, store: Store) -> None:
        """Make anew what is stale."""
        if self.growth:
            self._account(store)
        if self.filled:
            self._measure(store, store.rows("host", self.filled), store.write)
            self.filled.clear()
        for vm in store.rows("VM", [ref for ref, whole in self.lists["VM"].items() if whole]):
            for table, field in DEVICES:
                if vm.get(field):
                    self.renew(table, *vm[field])
        for vbd in store.rows("VBD", [ref for ref, whole in self.lists["VBD"].items() if whole]):
            self.renew("VDI", vbd["VDI"])
        look = usual.Look(store)
        for table, refs in self.lists.items():
            if refs:
                self._renew(table, store.rows(table, refs), look, store.write)
                refs.clear()

    def _renew(self, table: str, rows: Iterable[Row], look: usual.Look, put: Put) -> None:
        """Make the lists of objects of one class anew, and `put` them in their places."""
        known = self.known[table]
        of_row, work_out = usual.ALIKE[table]
        for row in rows:
            facts = of_row(look, row)
            allowed = known.get(facts) if facts is not None else None
            if allowed is None:
                allowed = work_out(look.store, row)
                if allowed is None:  # it cannot be told
                    continue
                if facts is not None and len(known) < MOST_KNOWN:
                    known[facts] = allowed
            before = row.get("allowed_operations", allowed)
            if allowed is not before and allowed != before:
                put(row, allowed_operations=allowed)

    def do_all(self, store: Store, put: Put | None = None) -> None:
        """Make every list anew, as a toolstack that starts does. What is different is written, or `put` in its place."""
        self.do(store)
        look = usual.Look(store)
        for table in usual.ALIKE:
            self._renew(table, list(store.table(table).values()), look, put or store.write)
        self._measure(store, list(store.table("host").values()), put or store.write)

    def _measure(self, store: Store, hosts: Iterable[Row], put: Put) -> None:
        """Write down how much memory hosts have free; of one that does not answer nobody hears."""
        for host in hosts:
            metrics = store.find("host_metrics", host["metrics"])
            if metrics is not None and metrics["live"]:
                free = max(0, rules.memory_free(store, host))
                if free != metrics["memory_free"]:
                    put(metrics, memory_free=free)

    def _account(self, store: Store) -> None:
        """Write down what storage has given away; of one that was not looked at yet nobody knows."""
        for ref, (virtual, physical) in self.growth.items():
            sr = store.find("SR", ref)
            if sr is not None and sr["physical_size"] >= 0:
                store.write(
                    sr,
                    virtual_allocation=max(0, sr["virtual_allocation"] + virtual),
                    physical_utilisation=max(0, sr["physical_utilisation"] + physical),
                )
        self.growth.clear()

    def grow(self, sr: str, virtual: int, physical: int) -> None:
        """Note that the disks of a storage repository changed their size by so many bytes."""
        before = self.growth.get(sr, (0, 0))
        self.growth[sr] = (before[0] + virtual, before[1] + physical)


# --- what a write makes stale


def _row(store: Store, write: Write) -> Row | None:
    return write.old if write.kind == "delete" else store.find(write.table, write.ref)


def _itself(upkeep: Upkeep, store: Store, write: Write) -> None:
    upkeep.lists[write.table].setdefault(write.ref, False)


def _vbd_use(upkeep: Upkeep, store: Store, write: Write) -> None:
    """Whether and how a device uses its disk."""
    if write.kind == "delete":
        upkeep.renew("VDI", write.old["VDI"])
    else:
        upkeep.lists["VBD"][write.ref] = True


def _vbd_disk(upkeep: Upkeep, store: Store, write: Write) -> None:
    upkeep.renew("VBD", write.ref)
    upkeep.renew("VDI", write.old, write.new)


def _vm_for_devices(upkeep: Upkeep, store: Store, write: Write) -> None:
    upkeep.lists["VM"][write.ref] = True


def _vm_state(upkeep: Upkeep, store: Store, write: Write) -> None:
    _planned(upkeep, store, write)
    _vm_for_devices(upkeep, store, write)
    _vm_of_group(upkeep, store, write)


def _vm_comes(upkeep: Upkeep, store: Store, write: Write) -> None:
    _vm_of_group(upkeep, store, write)
    _vm_size(upkeep, store, write)


def _vm_size(upkeep: Upkeep, store: Store, write: Write) -> None:
    row = _row(store, write)
    if row is not None and row["resident_on"] != NULL:
        upkeep.filled[row["resident_on"]] = None


def _vm_kind(upkeep: Upkeep, store: Store, write: Write) -> None:
    """A VM became fully virtual, or stopped to be."""
    _vm_for_devices(upkeep, store, write)
    _vm_size(upkeep, store, write)


def _vm_place(upkeep: Upkeep, store: Store, write: Write) -> None:
    """A VM went from a host, or came to one."""
    upkeep.filled.update(dict.fromkeys(ref for ref in (write.old, write.new) if ref != NULL))


def _vm_group(upkeep: Upkeep, store: Store, write: Write) -> None:
    """A VM came to another appliance."""
    upkeep.renew("VM", write.ref)
    upkeep.renew("VM_appliance", write.old, write.new)


def _was_group(upkeep: Upkeep, store: Store, write: Write) -> None:
    """An appliance is gone, and its VMs are in none."""
    upkeep.renew("VM", *write.old["VMs"])


def _vm_of_group(upkeep: Upkeep, store: Store, write: Write) -> None:
    """A VM, and the appliance that it is in."""
    upkeep.renew("VM", write.ref)
    row = _row(store, write)
    appliance = row.get("appliance", NULL) if row is not None else NULL
    if appliance != NULL:
        upkeep.renew("VM_appliance", appliance)


def _sriov(upkeep: Upkeep, store: Store, write: Write) -> None:
    """What decides whether the VIFs of a network can be plugged."""
    row = _row(store, write)
    pif = store.find("PIF", row["logical_PIF"]) if row is not None else None
    network = store.find("network", pif["network"]) if pif is not None else None
    upkeep.renew("VIF", *(network["VIFs"] if network is not None else ()))


def _agent(upkeep: Upkeep, store: Store, write: Write) -> None:
    """What a guest says that it can."""
    vms = [vm for vm in store.table("VM").values() if vm["guest_metrics"] == write.ref]
    upkeep.renew("VM", *(vm.ref for vm in vms))
    upkeep.renew("VBD", *(vbd for vm in vms for vbd in vm["VBDs"]))
    upkeep.renew("VIF", *(vif for vm in vms for vif in vm["VIFs"]))


def _planned(upkeep: Upkeep, store: Store, write: Write) -> None:
    if not upkeep.replan:
        upkeep.replan = True


def _host_enabled(upkeep: Upkeep, store: Store, write: Write) -> None:
    _planned(upkeep, store, write)
    upkeep.renew("host", write.ref)


def _liveness(upkeep: Upkeep, store: Store, write: Write) -> None:
    _planned(upkeep, store, write)
    hosts = [ref for ref, host in store.table("host").items() if host["metrics"] == write.ref]
    upkeep.renew("host", *hosts)
    upkeep.filled.update(dict.fromkeys(hosts))


def _vdi_for_devices(upkeep: Upkeep, store: Store, write: Write) -> None:
    upkeep.renew("VDI", write.ref)
    vdi = store.find("VDI", write.ref)
    upkeep.renew("VBD", *(vdi["VBDs"] if vdi is not None else ()))


def _vdi_trait(upkeep: Upkeep, store: Store, write: Write) -> None:
    """What keeps the memory of machines that have the disk where it is."""
    upkeep.renew("VDI", write.ref)
    vdi = store.find("VDI", write.ref)
    vbds = [store.find("VBD", ref) for ref in (vdi["VBDs"] if vdi is not None else ())]
    upkeep.renew("VM", *(vbd["VM"] for vbd in vbds if vbd is not None))


def _vdi_kind(upkeep: Upkeep, store: Store, write: Write) -> None:
    """What decides, too, whether its storage counts as filled."""
    _vdi_for_devices(upkeep, store, write)
    row = _row(store, write)
    if row is not None:
        upkeep.renew("SR", row["SR"])


def _vdi_comes(upkeep: Upkeep, store: Store, write: Write) -> None:
    row, sign = _row(store, write), -1 if write.kind == "delete" else 1
    if row is not None:
        upkeep.renew("VDI", write.ref)
        upkeep.renew("SR", row["SR"])
        upkeep.grow(row["SR"], sign * row["virtual_size"], sign * row["physical_utilisation"])


def _vdi_virtual(upkeep: Upkeep, store: Store, write: Write) -> None:
    row = store.find("VDI", write.ref)
    if row is not None:
        upkeep.grow(row["SR"], write.new - write.old, 0)


def _vdi_physical(upkeep: Upkeep, store: Store, write: Write) -> None:
    row = store.find("VDI", write.ref)
    if row is not None:
        upkeep.grow(row["SR"], 0, write.new - write.old)


def _vdi_moves(upkeep: Upkeep, store: Store, write: Write) -> None:
    """A disk came to another storage repository."""
    row = store.find("VDI", write.ref)
    upkeep.renew("VDI", write.ref)
    upkeep.renew("SR", write.old, write.new)
    if row is not None:
        upkeep.grow(write.old, -row["virtual_size"], -row["physical_utilisation"])
        upkeep.grow(write.new, row["virtual_size"], row["physical_utilisation"])


def _sr_disks(upkeep: Upkeep, store: Store, write: Write) -> None:
    upkeep.renew("SR", write.ref)
    sr = store.find("SR", write.ref)
    upkeep.renew("VDI", *(sr["VDIs"] if sr is not None else ()))


def _pbd(upkeep: Upkeep, store: Store, write: Write) -> None:
    row = _row(store, write)
    if row is not None:
        upkeep.renew("SR", row["SR"])


def _pbd_plugged(upkeep: Upkeep, store: Store, write: Write) -> None:
    """Its disks only notice the first connection and the last."""
    row = store.find("PBD", write.ref)
    sr = store.find("SR", row["SR"]) if row is not None else None
    if sr is not None:
        upkeep.renew("SR", sr.ref)
        if sum(pbd["currently_attached"] for pbd in pbds_of(store, sr)) == int(write.new):
            upkeep.renew("VDI", *sr["VDIs"])


def _plugin(upkeep: Upkeep, store: Store, write: Write) -> None:
    row = _row(store, write)
    for sr in store.table("SR").values():
        if row is not None and sr["type"] == row["type"]:
            upkeep.renew("SR", sr.ref)
            upkeep.renew("VDI", *sr["VDIs"])


def _pool(upkeep: Upkeep, store: Store, write: Write) -> None:
    """The key that says that versions are mixed, and what says whether suspended VMs, and so their disks, may be cloned."""
    upkeep.renew("SR", *store.table("SR"))
    upkeep.renew("pool", write.ref)
    if (write.old or {}).get("allow_clone_suspended_vm") != (write.new or {}).get("allow_clone_suspended_vm"):
        upkeep.renew("VDI", *store.table("VDI"))
        upkeep.renew("VM", *store.table("VM"))


def _cluster(upkeep: Upkeep, store: Store, write: Write) -> None:
    """There is one at the most, which decides what may be done to the pool."""
    upkeep.renew("pool", *store.table("pool"))


def _pool_ha(upkeep: Upkeep, store: Store, write: Write) -> None:
    needed = (vdi.ref for vdi in store.table("VDI").values() if vdi["type"] in ("ha_statefile", "redo_log"))
    upkeep.renew("VDI", *needed)
    upkeep.renew("pool", write.ref)


def _fields(table: str, names: str, stale: Stale) -> Iterable[tuple[tuple[str, str], Stale]]:
    return (((table, name), stale) for name in names.split())


STALE: dict[tuple[str, str], Stale] = dict(
    (
        *_fields("VBD", "create delete currently_attached reserved current_operations mode", _vbd_use),
        *_fields("VBD", "VDI", _vbd_disk),
        *_fields("VBD", "VM empty", _itself),
        *_fields("VM", "create delete", _vm_comes),
        *_fields("VM", "resident_on scheduled_to_be_resident_on", _vm_place),
        *_fields("VM", "memory_static_max memory_dynamic_min VCPUs_max HVM_shadow_multiplier", _vm_size),
        *_fields("VM", "HVM_boot_policy", _vm_kind),
        *_fields("VM", "power_state", _vm_state),
        *_fields(
            "VM",
            "current_operations guest_metrics domain_type domid is_control_domain",
            _vm_for_devices,
        ),
        *_fields("VM", "blocked_operations is_a_template is_a_snapshot snapshot_schedule protection_policy", _itself),
        *_fields(
            "VM_guest_metrics",
            "other PV_drivers_version PV_drivers_up_to_date PV_drivers_detected can_use_hotplug_vbd can_use_hotplug_vif",
            _agent,
        ),
        *_fields("VM", "platform other_config attached_PCIs VTPMs VUSBs VGPUs", _itself),
        *_fields("VM", "appliance", _vm_group),
        *_fields("VIF", "create currently_attached reserved current_operations network", _itself),
        *_fields("VUSB", "create currently_attached current_operations", _itself),
        *_fields("VTPM", "create", _itself),
        *_fields("VM_appliance", "create current_operations", _itself),
        *_fields("VM_appliance", "delete", _was_group),
        *_fields("host", "create current_operations power_on_mode", _itself),
        *_fields("host", "enabled", _host_enabled),
        *_fields("VM", "ha_always_run ha_restart_priority", _planned),
        *_fields("host_metrics", "live", _liveness),
        *_fields("network_sriov", "create delete", _sriov),
        *_fields("VDI", "create delete", _vdi_comes),
        *_fields("VDI", "sharable read_only cbt_enabled is_a_snapshot", _itself),
        *_fields("VDI", "on_boot allow_caching", _vdi_trait),
        *_fields("VDI", "current_operations", _vdi_for_devices),
        *_fields("VDI", "managed type", _vdi_kind),
        *_fields("VDI", "SR", _vdi_moves),
        *_fields("VDI", "virtual_size", _vdi_virtual),
        *_fields("VDI", "physical_utilisation", _vdi_physical),
        *_fields("SR", "create current_operations other_config is_tools_sr", _itself),
        *_fields("SR", "type", _sr_disks),
        *_fields("PBD", "create delete SR", _pbd),
        *_fields("PBD", "currently_attached", _pbd_plugged),
        *_fields("SM", "create delete capabilities features type", _plugin),
        *_fields("pool", "other_config", _pool),
        *_fields("Cluster", "create delete", _cluster),
        *_fields("pool", "ha_enabled current_operations", _pool_ha),
    )
)
"""By table and field (or by `create` and `delete`), what a write makes stale."""
