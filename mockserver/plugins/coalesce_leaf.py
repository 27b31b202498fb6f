"""`coalesce-leaf`, since 5.6: puts disks of a VM together with what their destroyed snapshots have left, where that is in
logical volumes.

The storage of the fake has done so by itself when a snapshot is gone. So there is never anything to do, which is what a
host answers that has the say over the storage of all the disks.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from xenctl.errors import Failure

from .base import Asked, PluginError, PluginFunction

if TYPE_CHECKING:
    from collections.abc import Iterator

    from ..store import Row

IDLE = "VM has no leaf-coalesceable VDIs"


def leaf_coalesce(asked: Asked) -> str:
    """Look at the disks of the VM `vm_uuid`."""
    try:
        vm = asked.pool.store.get("VM", asked.call("VM.get_by_uuid", asked.args["vm_uuid"]))
    except Failure:
        raise PluginError("VM not found") from None
    notes = [note for sr in _volumes(asked, vm) for note in _in_the_way(asked, sr)]
    if notes:
        raise PluginError("\n".join([IDLE, "Note:", *notes]))
    return IDLE


def _volumes(asked: Asked, vm: Row) -> list[Row]:
    """The storage in logical volumes that disks of a VM are on."""
    store = asked.pool.store
    disks = store.rows("VDI", [vbd["VDI"] for vbd in asked.pool.vbds(vm)])
    srs = store.rows("SR", list(dict.fromkeys(disk["SR"] for disk in disks)))
    return [sr for sr in srs if sr["type"].startswith("lv")]


def _in_the_way(asked: Asked, sr: Row) -> Iterator[str]:
    """Why the host cannot look at the disks of some storage: the pool's master has the say over what is shared, any other
    host over its own."""
    store, begin = asked.pool.store, f"Unable to check VDIs on SR {sr['uuid']} because "
    master = store.pool()["master"]
    pbd = next((pbd for pbd in store.rows("PBD", sr["PBDs"]) if not sr["shared"] or pbd["host"] == master), None)
    if pbd is None or not pbd["currently_attached"]:
        yield f"{begin}it is not attached"
    elif pbd["host"] != asked.host.ref:
        uuid = store.get("host", pbd["host"])["uuid"]
        yield f"{begin}this host is not its master. Run on host {uuid} to check that SR"


FUNCTIONS: dict[str, tuple[str, PluginFunction]] = {"leaf-coalesce": ("5.6.0", leaf_coalesce)}
