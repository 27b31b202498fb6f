"""What may be done to virtual interfaces, and what a host sees of a network.

One list of reasons decides both: a verb is refused with the first that applies, and `VIF.allowed_operations` lists the
operations to which none does.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from xenctl.datamodel import load

from . import rules
from .busy import device_in_progress
from .call import Call, refuse
from .checks import hotplug_lacking, is_hvm, plugging_hindered
from .holding import Marked, assert_free
from .store import NULL, Row, Store

if TYPE_CHECKING:
    from xenctl.errors import Failure

NAMES_TIES = load().order("25.31.0")
VIF_OPERATIONS = ("attach", "plug", "unplug")


# --- virtual interfaces


def vif_refused(store: Store, vif: Row, operation: str) -> Failure | None:
    """The first reason why `operation` may not be done to a VIF, as an error; None where it may."""
    return next(_vif_reasons(store, vif, store.get("VM", vif["VM"]), operation), None)


def _vif_reasons(store: Store, vif: Row, vm: Row, operation: str) -> Iterator[Failure]:
    late = store.release.order >= rules.STOCKHOLM
    if vif["current_operations"]:
        yield device_in_progress(store, vif)
    if operation not in ("plug", "unplug"):
        return
    if operation == "plug" and late and vm["is_control_domain"] and vm["domid"] == 0:
        yield refuse("OPERATION_NOT_ALLOWED", "Control domain does not support hotplug")
    network = store.find("network", vif["network"])
    if network is not None and is_sriov(store, network):
        yield refuse("OPERATION_NOT_ALLOWED", "Network SR-IOV VIF plug/unplug not allowed")
    plugged = vif["currently_attached"] or vif["reserved"]
    if vm["power_state"] != "Running":
        yield refuse("VM_BAD_POWER_STATE", vm.ref, "running", vm["power_state"].lower())
    elif operation == "plug" and plugged:
        yield refuse("DEVICE_ALREADY_ATTACHED", vif.ref)
    elif operation == "unplug" and not plugged:
        yield refuse("DEVICE_ALREADY_DETACHED", vif.ref)
    yield from plugging_hindered(store, vm)
    if vm["power_state"] == "Running" and is_hvm(vm):
        yield from hotplug_lacking(store, vm, "VIF")


def vif_allowed_operations(store: Store, vif: Row) -> list[str] | None:
    """What may be done to a VIF now; None for one without a VM."""
    vm = store.find("VM", vif["VM"])
    if vm is None:
        return None
    return [name for name in VIF_OPERATIONS if next(_vif_reasons(store, vif, vm, name), None) is None]


def vif_operation(call: Call, vif: Row, name: str) -> Marked:
    """Hold a VIF for an operation. Raises what forbids it."""
    assert_free(call, vif, name, vif_refused)
    return Marked(call, vif, name)


def is_active(store: Store, vif: Row) -> bool:
    """Whether a VIF is connected to a network now: it is attached, and its VM is not suspended."""
    return bool(vif["currently_attached"]) and store.get("VM", vif["VM"])["power_state"] != "Suspended"


# --- networks


def pifs_of(store: Store, network: Row) -> list[Row]:
    """The PIFs on a network."""
    return [pif for pif in (store.find("PIF", ref) for ref in network["PIFs"]) if pif is not None]


def vifs_of(store: Store, network: Row) -> list[Row]:
    """The VIFs on a network."""
    return [vif for vif in (store.find("VIF", ref) for ref in network["VIFs"]) if vif is not None]


def is_sriov(store: Store, network: Row) -> bool:
    """Whether a network is made of virtual functions of SR-IOV cards."""
    return any(pif.get("sriov_logical_PIF_of") for pif in pifs_of(store, network))


def assert_managed(network: Row) -> None:
    """Raise `NETWORK_UNMANAGED` for a network that xapi does not manage, which there may be since 7.2."""
    if not network.get("managed", True):
        raise refuse("NETWORK_UNMANAGED", network.ref)


def assert_no_trunks(store: Store, network: Row) -> None:
    """Raise where a VIF on `network` carries VLANs by itself."""
    if any(vif.get("trunks") for vif in vifs_of(store, network)):
        raise refuse("NETWORK_INCOMPATIBLE_WITH_TRUNKS", network.ref)


def assert_takes_trunks(store: Store, network: Row) -> None:
    """Raise where `network` is a VLAN itself, so that no VIF on it can carry some."""
    if any(pif["VLAN"] != -1 for pif in pifs_of(store, network)):
        raise refuse("NETWORK_INCOMPATIBLE_WITH_TRUNKS", network.ref)


def sees(store: Store, host: Row, network: Row) -> bool:
    """Whether guests on `host` can be connected to `network`: it has a PIF there, or has none anywhere, and then is either
    said to be shared, not managed, or not in use on another host."""
    pifs = pifs_of(store, network)
    if pifs:
        return any(pif["host"] == host.ref for pif in pifs)
    if network["other_config"].get("assume_network_is_shared") == "true" or not network.get("managed", True):
        return True
    users = [store.find("VM", vif["VM"]) for vif in vifs_of(store, network)]
    homes = [vm["resident_on"] for vm in users if vm is not None and vm["power_state"] == "Running"]
    return not homes or host.ref in homes


def bonded(store: Store, pif: Row) -> bool:
    """Whether a PIF is a member of a bond."""
    return store.find("Bond", pif.get("bond_slave_of", NULL)) is not None


def assert_can_see(store: Store, host: Row, network: Row) -> None:
    """Raise `HOST_CANNOT_ATTACH_NETWORK` where guests on `host` cannot be connected to `network`."""
    there = [pif for pif in pifs_of(store, network) if pif["host"] == host.ref]
    if not sees(store, host, network) or any(bonded(store, pif) for pif in there):
        raise refuse("HOST_CANNOT_ATTACH_NETWORK", host.ref, network.ref)


def properly_shared(store: Store, network: Row) -> bool:
    """Whether every enabled host has a PIF on `network` that is in no bond; up to 6.1, one that is up."""
    late = store.release.order >= rules.CLEARWATER
    counted = [
        pif for pif in pifs_of(store, network) if (not bonded(store, pif) if late else pif["currently_attached"])
    ]
    there = {pif["host"] for pif in counted}
    return all(host.ref in there for host in store.table("host").values() if host["enabled"])


def protected(vm: Row) -> bool:
    """Whether high availability restarts a VM."""
    return bool(vm.get("ha_always_run")) and vm.get("ha_restart_priority", "") not in ("", "best-effort")


def ties(store: Store, code: str, what: Row) -> Failure:
    """The error for what would tie a protected VM to some hosts. Since the toolstack's version 25.31 it says by what."""
    if store.release.order < NAMES_TIES:
        return refuse("HA_OPERATION_WOULD_BREAK_FAILOVER_PLAN")
    return refuse(code, what.ref)


def assert_no_controller(store: Store) -> None:
    """Raise where a controller rules the virtual switches, so that the pool cannot lock addresses."""
    host = store.get("host", store.pool()["master"])
    if store.release.order >= rules.FALCON:
        controlled = bool(store.table("SDN_controller"))
    else:
        controlled = bool(store.pool().get("vswitch_controller"))
    if controlled and host["software_version"].get("network_backend") == "openvswitch":
        raise refuse("OPERATION_NOT_ALLOWED", "A vswitch controller is active")


def assert_stays_agile(store: Store, vm: Row, network: Row) -> None:
    """Raise where a protected VM would get an interface on a network that not every host has."""
    pool = store.pool()
    strict = pool.get("ha_enabled") and not pool.get("ha_allow_overcommit")
    if not strict or not protected(vm) or properly_shared(store, network):
        return
    raise ties(store, "HA_CONSTRAINT_VIOLATION_NETWORK_NOT_SHARED", network)
