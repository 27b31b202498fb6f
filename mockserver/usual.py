"""What may be done to objects, worked out once for all that are alike.

Most rows of a pool are in the same state: a VM that runs and has drivers, its attached disk. For these, what the checks
look at comes to a few facts, and the same facts give the same list, so that it is only looked up. Whatever is out of the
usual (templates, snapshots, passed-through hardware, blocked operations) has no facts here and is worked out each time. A
check that looks at more than is named here must be told of here; a test holds the facts against the checks.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable
from typing import TYPE_CHECKING

from . import (
    appliances,
    checks,
    hosts,
    network_rules,
    passthrough,
    pool_operations,
    rules,
    storage_rules,
    vm_rules,
    vtpms,
)
from .columns import NULL
from .storage_drivers import capabilities, is_tools_sr

if TYPE_CHECKING:
    from .store import Row, Store

Facts = Callable[["Look", "Row"], "Hashable | None"]
Allowed = Callable[["Store", "Row"], "list[str] | None"]
"""What works out a list; None leaves the one that there is."""

UNUSUAL = tuple(
    "is_a_template is_a_snapshot is_control_domain blocked_operations attached_PCIs VGPUs VUSBs VTPMs".split()
)
"""What most VMs have none of: a check may look at more of it."""
FEATURES = (
    *("data-cant-suspend-reason", "feature-suspend", "feature-shutdown", "feature-poweroff", "feature-reboot"),
    *("feature-vcpu-hotplug", *vm_rules.QUIESCES),
)
"""What a guest's agent says that the checks of a VM look at."""
KEPT = {*storage_rules.OF_HA, *storage_rules.OF_HA_THEN}
"""The types of disks that high availability may keep."""
TRAITS = ("cbt_enabled", "on_boot", "sharable", "is_a_snapshot", "managed")
"""What the checks of a disk look at in its own row."""


class Look:
    """One look at a pool, while nothing changes but these lists: what the facts of many rows have in common is told once."""

    def __init__(self, store: Store) -> None:
        self.store = store
        self.order = store.release.order
        self._pool: Hashable = None
        self._guests: dict[str, tuple[Hashable, ...] | None] = {}
        self._storage: dict[str, Hashable] = {}

    def pool(self) -> Hashable:
        """What every VM and disk follows."""
        if self._pool is None:
            settings = self.store.pool()["other_config"]
            self._pool = self.order, rules.KEY in settings, settings.get("allow_clone_suspended_vm")
        return self._pool

    def guest(self, ref: str) -> tuple[Hashable, ...] | None:
        """What the devices of a VM follow; None where it is not there."""
        if ref not in self._guests:
            vm = self.store.find("VM", ref)
            self._guests[ref] = self._guest(vm) if vm is not None else None
        return self._guests[ref]

    def _guest(self, vm: Row) -> tuple[Hashable, ...]:
        agent = self.store.find("VM_guest_metrics", vm["guest_metrics"])
        told: tuple[Hashable, ...] = ()
        if agent is not None:
            claims = agent.get("can_use_hotplug_vbd"), agent.get("can_use_hotplug_vif")
            flags = bool(agent.get("PV_drivers_detected")), bool(agent.get("PV_drivers_up_to_date"))
            told = *claims, *flags, checks.drivers(agent), *_features(agent)
        state = vm["power_state"], tuple(vm["current_operations"].values()), checks.is_hvm(vm)
        return self.order, *state, vm["is_control_domain"] and vm["domid"] == 0, *told

    def storage(self, sr: Row) -> Hashable:
        """What the disks of a storage repository follow."""
        if sr.ref not in self._storage:
            can = capabilities(self.store, sr["type"])
            self._storage[sr.ref] = can, sr["type"], is_tools_sr(sr), storage_rules.is_plugged(self.store, sr)
        return self._storage[sr.ref]


def _features(agent: Row) -> Iterable[Hashable]:
    return map(agent["other"].get, FEATURES)


def of_vm(look: Look, vm: Row) -> Hashable | None:
    """The facts of a VM like most."""
    get, store = vm.get, look.store
    if any(map(get, UNUSUAL)) or "is_system_domain" in vm["other_config"] or checks.UNRESTRICTED in vm["platform"]:
        return None
    agent = store.find("VM_guest_metrics", vm["guest_metrics"]) if look.order < rules.BOSTON else None
    if agent is not None and checks.is_rhel3(agent):
        return None
    for field, kind, _ in vm_rules.MEMBERSHIPS:
        if get(field, NULL) != NULL and store.find(kind, vm[field]) is not None:
            return None
    for vdi in store.rows("VDI", [vbd["VDI"] for vbd in store.rows("VBD", vm["VBDs"])]):
        if "on_boot" in vdi.get("sm_config", ()):
            return None
    return (
        look.pool(),
        look.guest(vm.ref),
        "hardware_platform_version" in vm and vm_rules.has_trait(store, vm, "nomigrate"),
        vm_rules.has_trait(store, vm, "nested_virt"),
    )


def of_vbd(look: Look, vbd: Row) -> Hashable | None:
    """The facts of a block device."""
    guest = look.guest(vbd["VM"])
    if guest is None:
        return None
    vdi = look.store.find("VDI", vbd["VDI"]) if not vbd["empty"] else None
    return (
        guest,
        tuple(vbd["current_operations"].values()),
        vbd.get("unpluggable"),
        vbd["type"],
        vbd["empty"],
        vbd["currently_attached"],
        vbd["reserved"],
        vdi is None or (vdi["managed"], tuple(vdi["current_operations"].values())),
    )


def of_vif(look: Look, vif: Row) -> Hashable | None:
    """The facts of a virtual interface in a pool without SR-IOV."""
    guest = look.guest(vif["VM"])
    if guest is None or look.store.table("network_sriov"):
        return None
    return guest, bool(vif["current_operations"]), vif["currently_attached"] or vif["reserved"]


def of_vdi(look: Look, vdi: Row) -> Hashable | None:
    """The facts of a disk that is no part of high availability."""
    store = look.store
    sr = store.find("SR", vdi["SR"])
    if vdi["type"] in KEPT or sr is None:
        return None
    active, changing = storage_rules.users(store, vdi)
    vms = [store.find("VM", vbd["VM"]) for vbd in active] if look.order <= rules.GEORGE else []
    return (
        look.pool(),
        look.storage(sr),
        any(vbd["mode"] == "RW" for vbd in active),
        bool(active),
        all(vm is not None and vm["power_state"] == "Suspended" for vm in vms),
        changing is None,
        tuple(vdi["current_operations"].values()),
        vdi["type"],
        *map(vdi.get, TRAITS),
    )


def of_host(look: Look, host: Row) -> Hashable | None:
    """The facts of a host."""
    store = look.store
    return (
        look.order,
        rules.upgrading(store),
        tuple(host["current_operations"].values()),
        host["enabled"],
        hosts.live(store, host),
        host.get("power_on_mode", "-") == "",
    )


def never(look: Look, row: Row) -> None:
    """For what there are few of."""


ALIKE: dict[str, tuple[Facts, Allowed]] = {
    "VM": (of_vm, checks.allowed_operations),
    "VBD": (of_vbd, checks.vbd_allowed_operations),
    "VIF": (of_vif, network_rules.vif_allowed_operations),
    "VUSB": (never, passthrough.vusb_allowed_operations),
    "VTPM": (never, vtpms.allowed_operations),
    "VDI": (of_vdi, storage_rules.vdi_allowed_operations),
    "SR": (never, storage_rules.sr_allowed_operations),
    "VM_appliance": (never, appliances.allowed_operations),
    "host": (of_host, hosts.allowed_operations),
    "pool": (never, pool_operations.allowed_operations),
}
"""By class, what gives the facts of a row, and what works out its list."""
