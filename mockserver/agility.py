"""Whether a VM can be started on every host: its storage must be plugged on all of them, and they must see its networks."""

from __future__ import annotations

from typing import TYPE_CHECKING

from xenctl.errors import Failure

from . import network_rules, rules, vm_rules
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


def assert_agile(store: Store, vm: Row) -> None:
    """Raise for a VM that not every enabled host could run."""
    for field, code in (("VGPUs", "VM_HAS_VGPU"), ("VUSBs", "VM_HAS_VUSBS")):
        if vm.get(field):
            raise refuse(code, vm.ref)
    for sr in dict.fromkeys(vdi["SR"] for vdi in vm_rules.disks(store, vm)):
        if not properly_shared(store, store.get("SR", sr)):
            raise refuse("HA_CONSTRAINT_VIOLATION_SR_NOT_SHARED", sr)
    for vif in (store.find("VIF", ref) for ref in vm["VIFs"]):
        network = store.find("network", vif["network"]) if vif is not None else None
        if network is not None and not network_rules.properly_shared(store, network):
            raise refuse("HA_CONSTRAINT_VIOLATION_NETWORK_NOT_SHARED", network.ref)
        if network is not None and network_rules.is_sriov(store, network) and store.release.order >= rules.LIMA:
            raise refuse("VM_HAS_SRIOV_VIF", vm.ref)


def is_agile(store: Store, vm: Row) -> bool:
    """Whether every enabled host could run a VM."""
    try:
        assert_agile(store, vm)
    except Failure:
        return False
    return True


def assert_stays_agile(store: Store, vm: Row, vdi: Row) -> None:
    """Raise where a disk would tie a protected VM to some hosts."""
    if protects(store) and network_rules.protected(vm):
        sr = store.get("SR", vdi["SR"])
        if not properly_shared(store, sr):
            raise network_rules.ties(store, "HA_CONSTRAINT_VIOLATION_SR_NOT_SHARED", sr)


def assert_not_needed(store: Store, sr: Row) -> None:
    """Raise where a protected VM has a disk on storage that is to be unplugged."""
    if not protects(store):
        return
    for vdi in (store.find("VDI", ref) for ref in sr["VDIs"]):
        for vbd in (store.find("VBD", ref) for ref in (vdi["VBDs"] if vdi is not None else ())):
            vm = store.find("VM", vbd["VM"]) if vbd is not None else None
            if vm is not None and network_rules.protected(vm):
                raise network_rules.ties(store, "HA_CONSTRAINT_VIOLATION_SR_NOT_SHARED", sr)
