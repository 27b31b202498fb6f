"""What may be done to objects, worked out once for all that are alike.

Most rows of a pool are in the same state: a VM that runs and has drivers, its attached disk. For these, what the checks
look at comes to a few facts, and the same facts give the same list, so that it is only looked up. Whatever is out of the
usual (templates, snapshots, passed-through hardware, blocked operations) has no facts here and is worked out each time. A
check that looks at more than is named here must be told of here; a test holds the facts against the checks.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable
from functools import partial
from typing import TYPE_CHECKING

from . import appliances, checks, hosts, network_rules, passthrough, pool_operations, rules, storage_rules, vm_rules
from .columns import NULL
from .storage_drivers import is_tools_sr

if TYPE_CHECKING:
    from .store import Row, Store

Facts = Callable[["Store", "Row"], "Hashable | None"]
Allowed = Callable[["Store", "Row"], "list[str] | None"]
"""What works out a list; None leaves the one that there is."""

UNUSUAL = tuple(
    "is_a_template is_a_snapshot is_control_domain blocked_operations attached_PCIs VGPUs VUSBs VTPMs".split()
)
"""What most VMs have none of: a check may look at more of it."""
FEATURES = (
    *("data-cant-suspend-reason", "feature-suspend", "feature-shutdown", "feature-poweroff", "feature-reboot"),
    "feature-vcpu-hotplug",
)
"""What a guest's agent says that the checks of a VM look at."""


def of_vm(store: Store, vm: Row) -> Hashable | None:
    """The facts of a VM like most."""
    get = vm.get
    if any(map(get, UNUSUAL)):
        return None
    settings = vm["other_config"]
    if "is_system_domain" in settings:
        return None
    for field, kind, _ in vm_rules.MEMBERSHIPS:
        if get(field, NULL) != NULL and store.find(kind, vm[field]) is not None:
            return None
    for vdi in store.rows("VDI", [vbd["VDI"] for vbd in store.rows("VBD", vm["VBDs"])]):
        if "on_boot" in vdi.get("sm_config", ()):
            return None
    agent = store.find("VM_guest_metrics", vm["guest_metrics"])
    return (
        store.release.order,
        _of_pool(store),
        vm["power_state"],
        tuple(vm["current_operations"].values()),
        checks.is_hvm(vm),
        agent is not None and (checks.drivers(agent), *map(agent["other"].get, FEATURES)),
        "hardware_platform_version" in vm and vm_rules.has_trait(store, vm, "nomigrate"),
        vm_rules.has_trait(store, vm, "nested_virt"),
    )


def _of_pool(store: Store) -> Hashable:
    """What every VM and disk follows."""
    settings = store.pool()["other_config"]
    return rules.KEY in settings, settings.get("allow_clone_suspended_vm")


def of_vbd(store: Store, vbd: Row) -> Hashable | None:
    """The facts of a block device."""
    vm = store.find("VM", vbd["VM"])
    if vm is None:
        return None
    vdi = store.find("VDI", vbd["VDI"]) if not vbd["empty"] else None
    agent = store.find("VM_guest_metrics", vm["guest_metrics"])
    return (
        store.release.order,
        tuple(vbd["current_operations"].values()),
        vbd.get("unpluggable"),
        vbd["type"],
        vbd["empty"],
        vbd["currently_attached"],
        vbd["reserved"],
        vm["power_state"],
        tuple(vm["current_operations"].values()),
        checks.is_hvm(vm),
        *_of_agent(agent, "can_use_hotplug_vbd"),
        vdi is None or (vdi["managed"], tuple(vdi["current_operations"].values())),
    )


def _of_agent(agent: Row | None, claim: str) -> tuple[Hashable, ...]:
    """What a guest says of plugging devices."""
    if agent is None:
        return ()
    return agent.get(claim), bool(agent.get("PV_drivers_detected")), checks.drivers(agent) is None


def of_vif(store: Store, vif: Row) -> Hashable | None:
    """The facts of a virtual interface in a pool without SR-IOV."""
    vm = store.find("VM", vif["VM"])
    if vm is None or store.table("network_sriov"):
        return None
    agent = store.find("VM_guest_metrics", vm["guest_metrics"])
    return (
        store.release.order,
        bool(vif["current_operations"]),
        vif["currently_attached"] or vif["reserved"],
        vm["is_control_domain"] and vm["domid"] == 0,
        vm["power_state"],
        tuple(vm["current_operations"].values()),
        checks.is_hvm(vm),
        *_of_agent(agent, "can_use_hotplug_vif"),
    )


def of_vdi(store: Store, vdi: Row) -> Hashable | None:
    """The facts of a disk that is no part of high availability."""
    if vdi["type"] in storage_rules.OF_HA or store.find("SR", vdi["SR"]) is None:
        return None
    at = storage_rules.DiskState.of(store, vdi)
    users = at.active if store.release.order <= rules.GEORGE else ()
    return (
        store.release.order,
        _of_pool(store),
        at.can,
        at.sr["type"],
        is_tools_sr(at.sr),
        storage_rules.is_plugged(store, at.sr),
        bool(at.active) and any(vbd["mode"] == "RW" for vbd in at.active),
        bool(at.active),
        all(map(partial(_is_suspended, store), users)),
        at.changing is None,
        tuple(vdi["current_operations"].values()),
        vdi["type"],
        *[vdi.get(name) for name in ("cbt_enabled", "on_boot", "sharable", "is_a_snapshot", "managed")],
    )


def _is_suspended(store: Store, vbd: Row) -> bool:
    """Whether the VM of a device is."""
    vm = store.find("VM", vbd["VM"])
    return vm is not None and vm["power_state"] == "Suspended"


def of_host(store: Store, host: Row) -> Hashable | None:
    """The facts of a host."""
    return (
        store.release.order,
        rules.upgrading(store),
        tuple(host["current_operations"].values()),
        host["enabled"],
        hosts.live(store, host),
        host.get("power_on_mode", "-") == "",
    )


def never(store: Store, row: Row) -> None:
    """For what there are few of."""


ALIKE: dict[str, tuple[Facts, Allowed]] = {
    "VM": (of_vm, checks.allowed_operations),
    "VBD": (of_vbd, checks.vbd_allowed_operations),
    "VIF": (of_vif, network_rules.vif_allowed_operations),
    "VUSB": (never, passthrough.vusb_allowed_operations),
    "VDI": (of_vdi, storage_rules.vdi_allowed_operations),
    "SR": (never, storage_rules.sr_allowed_operations),
    "VM_appliance": (never, appliances.allowed_operations),
    "host": (of_host, hosts.allowed_operations),
    "pool": (never, pool_operations.allowed_operations),
}
"""By class, what gives the facts of a row, and what works out its list."""
