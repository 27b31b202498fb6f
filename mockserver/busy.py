"""The error for an object that is busy.

From the beginning it named the object, and for most classes what goes on; since the toolstack's version 25.27 it names the
operation and the task that does it, for all.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from xenctl.datamodel import load

from .call import refuse

if TYPE_CHECKING:
    from xenctl.errors import Failure

    from .store import Row, Store

TELLS_ALL = load().order("25.27.0")
SILENT = frozenset({"VDI", "VM_appliance", "pool", "Cluster"})
"""The classes of which it used to tell nothing but that they are busy."""


def in_progress(store: Store, kind: str, ref: str, operation: str, task: str, *, names: bool = False) -> Failure:
    """The error for an object on which `task` does `operation`, both as they are spelled in errors; with `names`, the
    operation is named whatever the class."""
    if store.release.order >= TELLS_ALL:
        return refuse("OTHER_OPERATION_IN_PROGRESS", kind, ref, operation, task)
    told = [] if kind in SILENT and not names else [operation]
    return refuse("OTHER_OPERATION_IN_PROGRESS", kind, ref, *told)


def vm_in_progress(store: Store, ref: str, operation: str, task: str) -> Failure:
    """The same for a VM, whose operation was part of the class."""
    if store.release.order >= TELLS_ALL:
        return in_progress(store, "VM", ref, operation, task)
    return refuse("OTHER_OPERATION_IN_PROGRESS", f"VM.{operation}", ref)


def device_in_progress(store: Store, device: Row) -> Failure:
    """The same for a virtual interface or USB device: one operation, now all of them, in braces, the newest first."""
    current = device["current_operations"]
    if store.release.order >= TELLS_ALL:
        names, tasks = (f"{{{'; '.join(reversed(told))}}}" for told in (list(current.values()), list(current)))
        return in_progress(store, device.table, device.ref, names, tasks)
    task, name = next(iter(current.items()))
    return in_progress(store, device.table, device.ref, name, task)
