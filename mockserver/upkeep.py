"""Keeps what follows from other rows right: the allowed operations of block devices, disks and storage, and how much of
its space storage has given away.

xapi recomputes these lists at many places, each of which knows what it has changed. Here a table says which field makes
which lists stale; writes are noted as they happen and the lists are made anew when the call or event is over, or when time
passes in it. So every list is right whenever somebody can look, whoever changed the row, and the cost follows the change.
What xapi only writes down, such as `VBD.unpluggable`, changes no list before something else does, as there.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING

from .checks import refresh_vbd
from .journal import Kept
from .storage_rules import pbds_of, refresh_sr, refresh_vdi

if TYPE_CHECKING:
    from .store import Row, Store, Write

Stale = Callable[["Upkeep", "Store", "Write"], None]


class Upkeep(Kept):
    """What has to be made anew."""

    def __init__(self) -> None:
        self.vbds: dict[str, None] = {}
        self.vdis: dict[str, None] = {}
        self.srs: dict[str, None] = {}
        self.growth: dict[str, tuple[int, int]] = {}

    def note(self, store: Store, write: Write) -> None:
        """Note what a write makes stale."""
        stale = STALE.get((write.table, write.field or write.kind))
        if stale is not None:
            stale(self, store, write)

    @property
    def stale(self) -> bool:
        """Whether anything is."""
        return bool(self.vbds or self.vdis or self.srs or self.growth)

    def do(self, store: Store) -> None:
        """Make anew what is stale."""
        self._account(store)
        for table, refs, refresh in (
            ("VBD", self.vbds, refresh_vbd),
            ("VDI", self.vdis, refresh_vdi),
            ("SR", self.srs, refresh_sr),
        ):
            for row in [store.find(table, ref) for ref in refs]:
                if row is not None:
                    refresh(store, row)
            refs.clear()

    def do_all(self, store: Store) -> None:
        """Make every list anew, as a toolstack that starts does."""
        for table, refs in (("VBD", self.vbds), ("VDI", self.vdis), ("SR", self.srs)):
            refs.update(dict.fromkeys(store.table(table)))
        self.do(store)

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


def _vbd(upkeep: Upkeep, store: Store, write: Write) -> None:
    upkeep.vbds[write.ref] = None


def _vbd_use(upkeep: Upkeep, store: Store, write: Write) -> None:
    """Whether and how a device uses its disk."""
    upkeep.vbds[write.ref] = None
    row = _row(store, write)
    if row is not None:
        upkeep.vdis[row["VDI"]] = None


def _vbd_disk(upkeep: Upkeep, store: Store, write: Write) -> None:
    upkeep.vbds[write.ref] = None
    upkeep.vdis.update({write.old: None, write.new: None})


def _vm(upkeep: Upkeep, store: Store, write: Write) -> None:
    vm = store.find("VM", write.ref)
    upkeep.vbds.update(dict.fromkeys(vm["VBDs"] if vm is not None else ()))


def _vdi(upkeep: Upkeep, store: Store, write: Write) -> None:
    upkeep.vdis[write.ref] = None


def _vdi_for_devices(upkeep: Upkeep, store: Store, write: Write) -> None:
    upkeep.vdis[write.ref] = None
    vdi = store.find("VDI", write.ref)
    upkeep.vbds.update(dict.fromkeys(vdi["VBDs"] if vdi is not None else ()))


def _vdi_kind(upkeep: Upkeep, store: Store, write: Write) -> None:
    """What decides, too, whether its storage counts as filled."""
    _vdi_for_devices(upkeep, store, write)
    row = _row(store, write)
    if row is not None:
        upkeep.srs[row["SR"]] = None


def _vdi_comes(upkeep: Upkeep, store: Store, write: Write) -> None:
    row, sign = _row(store, write), -1 if write.kind == "delete" else 1
    if row is not None:
        upkeep.vdis[write.ref] = None
        upkeep.srs[row["SR"]] = None
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
    upkeep.vdis[write.ref] = None
    upkeep.srs.update({write.old: None, write.new: None})
    if row is not None:
        upkeep.grow(write.old, -row["virtual_size"], -row["physical_utilisation"])
        upkeep.grow(write.new, row["virtual_size"], row["physical_utilisation"])


def _sr(upkeep: Upkeep, store: Store, write: Write) -> None:
    upkeep.srs[write.ref] = None


def _sr_disks(upkeep: Upkeep, store: Store, write: Write) -> None:
    upkeep.srs[write.ref] = None
    sr = store.find("SR", write.ref)
    upkeep.vdis.update(dict.fromkeys(sr["VDIs"] if sr is not None else ()))


def _pbd(upkeep: Upkeep, store: Store, write: Write) -> None:
    row = _row(store, write)
    if row is not None:
        upkeep.srs[row["SR"]] = None


def _pbd_plugged(upkeep: Upkeep, store: Store, write: Write) -> None:
    """Its disks only notice the first connection and the last."""
    row = store.find("PBD", write.ref)
    sr = store.find("SR", row["SR"]) if row is not None else None
    if sr is not None:
        upkeep.srs[sr.ref] = None
        if sum(pbd["currently_attached"] for pbd in pbds_of(store, sr)) == int(write.new):
            upkeep.vdis.update(dict.fromkeys(sr["VDIs"]))


def _plugin(upkeep: Upkeep, store: Store, write: Write) -> None:
    row = _row(store, write)
    for sr in store.table("SR").values():
        if row is not None and sr["type"] == row["type"]:
            upkeep.srs[sr.ref] = None
            upkeep.vdis.update(dict.fromkeys(sr["VDIs"]))


def _pool(upkeep: Upkeep, store: Store, write: Write) -> None:
    """The key that says that versions are mixed, and what says whether disks may be cloned while in use."""
    upkeep.srs.update(dict.fromkeys(store.table("SR")))
    if (write.old or {}).get("allow_clone_suspended_vm") != (write.new or {}).get("allow_clone_suspended_vm"):
        upkeep.vdis.update(dict.fromkeys(store.table("VDI")))


def _pool_ha(upkeep: Upkeep, store: Store, write: Write) -> None:
    needed = (vdi.ref for vdi in store.table("VDI").values() if vdi["type"] in ("ha_statefile", "redo_log"))
    upkeep.vdis.update(dict.fromkeys(needed))


def _fields(table: str, names: str, stale: Stale) -> Iterable[tuple[tuple[str, str], Stale]]:
    return (((table, name), stale) for name in names.split())


STALE: dict[tuple[str, str], Stale] = dict(
    (
        *_fields("VBD", "create delete currently_attached reserved current_operations mode", _vbd_use),
        *_fields("VBD", "VDI", _vbd_disk),
        *_fields("VBD", "VM empty", _vbd),
        *_fields("VM", "power_state current_operations guest_metrics domain_type HVM_boot_policy", _vm),
        *_fields("VDI", "create delete", _vdi_comes),
        *_fields("VDI", "sharable read_only cbt_enabled on_boot is_a_snapshot", _vdi),
        *_fields("VDI", "current_operations", _vdi_for_devices),
        *_fields("VDI", "managed type", _vdi_kind),
        *_fields("VDI", "SR", _vdi_moves),
        *_fields("VDI", "virtual_size", _vdi_virtual),
        *_fields("VDI", "physical_utilisation", _vdi_physical),
        *_fields("SR", "create current_operations other_config is_tools_sr", _sr),
        *_fields("SR", "type", _sr_disks),
        *_fields("PBD", "create delete SR", _pbd),
        *_fields("PBD", "currently_attached", _pbd_plugged),
        *_fields("SM", "create delete capabilities features type", _plugin),
        *_fields("pool", "other_config", _pool),
        *_fields("pool", "ha_enabled current_operations", _pool_ha),
    )
)
"""By table and field (or by `create` and `delete`), what a write makes stale."""
