"""Whether a protected VM can be restarted on every host: its storage must be plugged on all of them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from .call import refuse
from .storage_rules import pbds_of

if TYPE_CHECKING:
    from .store import Row, Store


def properly_shared(store: Store, sr: Row) -> bool:
    """Whether storage is plugged on every host that takes VMs, and meant to be."""
    plugged = {pbd["host"] for pbd in pbds_of(store, sr) if pbd["currently_attached"]}
    return bool(sr["shared"]) and all(host.ref in plugged for host in store.table("host").values() if host["enabled"])


def protects(store: Store) -> bool:
    """Whether high availability promises anything now."""
    pool = store.pool()
    return bool(pool.get("ha_enabled")) and not pool.get("ha_allow_overcommit")


def protected(vm: Row) -> bool:
    """Whether high availability restarts a VM."""
    return bool(vm.get("ha_always_run")) and vm.get("ha_restart_priority") == "restart"


def assert_stays_agile(store: Store, vm: Row, vdi: Row) -> None:
    """Raise where a disk would tie a protected VM to some hosts."""
    if protects(store) and protected(vm):
        sr = store.get("SR", vdi["SR"])
        if not properly_shared(store, sr):
            raise refuse("HA_CONSTRAINT_VIOLATION_SR_NOT_SHARED", sr.ref)


def assert_not_needed(store: Store, sr: Row) -> None:
    """Raise where a protected VM has a disk on storage that is to be unplugged."""
    if not protects(store):
        return
    for vdi in (store.find("VDI", ref) for ref in sr["VDIs"]):
        for vbd in (store.find("VBD", ref) for ref in (vdi["VBDs"] if vdi is not None else ())):
            vm = store.find("VM", vbd["VM"]) if vbd is not None else None
            if vm is not None and protected(vm):
                raise refuse("HA_CONSTRAINT_VIOLATION_SR_NOT_SHARED", sr.ref)
