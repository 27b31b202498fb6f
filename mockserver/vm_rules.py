"""What forbids an operation on a VM beside its power state and what goes on: its devices, its guest, what it belongs to.

Each check has the shape of those in `checks`, which puts them in xapi's order. A field that the release does not know is
read as empty, so that a check is idle before its time.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from xenctl.releases import find

from . import rules
from .call import refuse

if TYPE_CHECKING:
    from collections.abc import Iterator

    from xenctl.datamodel import Order
    from xenctl.errors import Failure

    from .store import Row, Store

QUEBEC = find("8.1.0").order
DEVICE_MODELS = find("8.0.0").order
"""From when on VMs have device models of several kinds."""
WRONG_MODELS = {
    ("qemu-trad", "uefi"): "UEFI boot is not supported with qemu-trad",
    ("qemu-upstream-uefi", "bios"): "BIOS boot is not supported with qemu-upstream-uefi",
}
"""Why a device model cannot boot a firmware."""

MOVES_MEMORY = frozenset({"suspend", "checkpoint", "pool_migrate", "migrate_send"})
COPIES_DISKS = frozenset({"checkpoint", "snapshot", "suspend", "snapshot_with_quiesce"})
MEMBERSHIPS = (
    ("appliance", "VM_appliance", "VM_IS_PART_OF_AN_APPLIANCE"),
    ("protection_policy", "VMPP", "VM_ASSIGNED_TO_PROTECTION_POLICY"),
    ("snapshot_schedule", "VMSS", "VM_ASSIGNED_TO_SNAPSHOT_SCHEDULE"),
)
"""What a VM must leave before it becomes a template: the field, its class, and the error."""
PLATFORM = {"nomigrate": "nomigrate", "nested_virt": "nested-virt"}
"""Fields of a VM's metrics, and the keys of `VM.platform` that tell the same of a VM without any."""


def is_true(text: str) -> bool:
    """Whether a value of `VM.platform` or `other_config` says yes."""
    return text.lower() in ("1", "true")


def has_trait(store: Store, vm: Row, name: str) -> bool:
    """Whether a VM must stay where it is (`nomigrate`), or runs a hypervisor of its own (`nested_virt`)."""
    metrics = store.find("VM_metrics", vm["metrics"])
    if metrics is not None and name in metrics:
        return bool(metrics[name])
    return is_true(vm["platform"].get(PLATFORM[name], ""))


def assert_can_be_built(store: Store, vm: Row) -> None:
    """Raise for a `VM.platform` from which no domain can be built: since 7.0 for cores a socket that are no number or do not
    divide the VCPUs, since 8.0 for a device model that cannot boot the firmware. Guests without hardware virtualisation
    have neither."""
    platform, order = vm["platform"], store.release.order
    kind = vm.get("domain_type", "unspecified")
    virtualised = bool(vm["HVM_boot_policy"]) if kind == "unspecified" else kind != "pv"
    if not virtualised:
        return
    if order >= DEVICE_MODELS and "device-model" in platform:
        firmware = vm["HVM_boot_params"].get("firmware", "bios")
        why = WRONG_MODELS.get((platform["device-model"], firmware))
        if why is not None:
            raise refuse("INVALID_VALUE", "platform:device-model", why)
    if order >= rules.DUNDEE and "cores-per-socket" in platform:
        _assert_divides(order, platform["cores-per-socket"], vm["VCPUs_max"])


def _assert_divides(order: Order, cores: str, vcpus: int) -> None:
    number = int(cores) if re.fullmatch(r"-?\d+", cores) else None
    if number is not None and number > 0 and vcpus % number == 0:
        return
    name = "platform:cores-per-socket"
    if order >= rules.NILE:
        if number is None:
            raise refuse("INVALID_VALUE", name, cores)
        raise refuse("VCPU_MAX_NOT_CORES_PER_SOCKET_MULTIPLE", vcpus, cores)
    if order >= rules.STOCKHOLM:
        multiple = f"VCPUs_max (value {vcpus}) must be a multiple of cores-per-socket"
        why = "Value is not a valid int" if number is None else multiple
        raise refuse("INVALID_VALUE", f"{name} (value {cores})", why)
    why = f"value = {cores} is not a valid int" if number is None else "VCPUs_max must be a multiple of this field"
    raise refuse("INVALID_VALUE", name, why)


def is_domain_zero(vm: Row) -> bool:
    """Whether this is the control domain that a host boots with."""
    return bool(vm["is_control_domain"]) and int(vm["domid"]) == 0


def disks(store: Store, vm: Row) -> Iterator[Row]:
    """The disks and discs in a VM's drives."""
    for vbd in (store.find("VBD", ref) for ref in vm["VBDs"]):
        vdi = store.find("VDI", vbd["VDI"]) if vbd is not None else None
        if vdi is not None:
            yield vdi


# --- checks


def assert_pinned(vm: Row, reason: str, **changes: int) -> None:
    """Raise `MEMORY_CONSTRAINT_VIOLATION_MAXPIN` unless a VM's memory, or what `changes` make of it, is always its most."""
    names = ("memory_static_min", "memory_dynamic_min", "memory_dynamic_max", "memory_static_max")
    least, low, high, most = (changes.get(name, vm[name]) for name in names)
    if not least <= low == high == most:
        raise refuse("MEMORY_CONSTRAINT_VIOLATION_MAXPIN", reason)


def immobile(store: Store, vm: Row, operation: str, strict: bool) -> Failure | None:
    """A VM that is marked so stays on its host, since 7.1, and so does one that runs a hypervisor of its own."""
    if not strict or operation not in MOVES_MEMORY or store.release.order < rules.ELY:
        return None
    stays = has_trait(store, vm, "nomigrate") or has_trait(store, vm, "nested_virt")
    return refuse("VM_IS_IMMOBILE", vm.ref) if stays else None


def nested(store: Store, vm: Row, operation: str, strict: bool) -> Failure | None:
    """A guest that runs guests of its own keeps its memory."""
    if strict and store.release.order >= rules.ELY and has_trait(store, vm, "nested_virt"):
        return refuse("VM_IS_USING_NESTED_VIRT", vm.ref)
    return None


QUIESCES = ("feature-snapshot", "feature-quiesce")
"""What the agent of a guest says that can hold its writes for a snapshot."""


def quiesce(store: Store, vm: Row, operation: str, strict: bool) -> Failure | None:
    """Snapshots for which the guest holds its writes need an agent that can do so, since 5.6, and went with 8.1."""
    if operation != "snapshot_with_quiesce" or store.release.order <= rules.GEORGE:
        return None
    agent = store.find("VM_guest_metrics", vm["guest_metrics"])
    told = agent["other"] if agent is not None else {}
    able = store.release.order < QUEBEC and any(feature in told for feature in QUIESCES)
    return None if able else refuse("VM_SNAPSHOT_WITH_QUIESCE_NOT_SUPPORTED", vm.ref)


def on_boot(store: Store, vm: Row, operation: str, strict: bool) -> Failure | None:
    """A disk that is reset at each boot has nothing that a copy could hold. The error was misspelled up to 6.2."""
    if operation not in COPIES_DISKS and operation != "pool_migrate":
        return None
    for vdi in disks(store, vm):
        config = vdi.get("sm_config", {})
        resets = config.get("on_boot") == "reset"
        if resets and (operation != "pool_migrate" or is_true(config.get("caching", ""))):
            spelling = "INCOMPATIBLE" if store.release.order >= rules.CREAM else "INCOMPATABLE"
            return refuse(f"VDI_ON_BOOT_MODE_{spelling}_WITH_OPERATION")
    return None


def pinned(store: Store, vm: Row, operation: str, strict: bool) -> Failure | None:
    """What a guest was given of its host's hardware does not go with it."""
    if operation in MOVES_MEMORY:
        if set(vm.get("attached_PCIs", ())) - set(_virtual_functions(store, vm)):
            return refuse("VM_HAS_PCI_ATTACHED", vm.ref)
        if _held_by_vgpu(store, vm, operation):
            return refuse("VM_HAS_VGPU", vm.ref)
    if operation in MOVES_MEMORY | {"snapshot"} and vm.get("VUSBs"):
        return refuse("VM_HAS_VUSBS", vm.ref)
    return None


def _virtual_functions(store: Store, vm: Row) -> Iterator[str]:
    """The PCI devices of a VM that are parts of a shared graphics card."""
    for vgpu, implementation in _vgpus(store, vm):
        if implementation == "nvidia_sriov":
            yield vgpu["PCI"]


def _vgpus(store: Store, vm: Row) -> Iterator[tuple[Row, str]]:
    for vgpu in (store.find("VGPU", ref) for ref in vm.get("VGPUs", ())):
        if vgpu is not None:
            kind = store.find("VGPU_type", vgpu.get("type", ""))
            yield vgpu, str(kind.get("implementation", "")) if kind is not None else ""


def _held_by_vgpu(store: Store, vm: Row, operation: str) -> bool:
    state = vm["power_state"]
    if (operation, state) in (("migrate_send", "Halted"), ("checkpoint", "Suspended")):
        return False
    return not all(_movable(store, vgpu, implementation) for vgpu, implementation in _vgpus(store, vm))


def _movable(store: Store, vgpu: Row, implementation: str) -> bool:
    card = store.find("PGPU", vgpu.get("resident_on", ""))
    return implementation in ("nvidia", "nvidia_sriov") and card is not None and bool(card["compatibility_metadata"])


def membership(store: Store, vm: Row, operation: str, strict: bool) -> Failure | None:
    """A template is in no group of VMs that something is done to."""
    if operation == "make_into_template":
        for field, kind, code in MEMBERSHIPS:
            if store.find(kind, vm.get(field, "")) is not None:
                return refuse(code, vm.ref, vm[field])
    return None


def offers_services(vm: Row) -> bool:
    """Whether a VM was told that it is a system domain."""
    return is_true(vm["other_config"].get("is_system_domain", ""))


def system_domain(store: Store, vm: Row, operation: str, strict: bool) -> Failure | None:
    """Only a system domain offers services."""
    if operation == "query_services" and not offers_services(vm):
        return refuse("NOT_SYSTEM_DOMAIN", vm.ref)
    return None


def one_vtpm(store: Store, vm: Row, operation: str, strict: bool) -> Failure | None:
    """A VM has one virtual TPM at the most."""
    if operation == "create_vtpm" and vm["VTPMs"]:
        return refuse("VTPM_MAX_AMOUNT_REACHED", len(vm["VTPMs"]))
    return None


def upgrading(store: Store, vm: Row, operation: str, strict: bool) -> Failure | None:
    """While versions are mixed some operations wait, since 7.3."""
    refused = (
        store.release.order >= rules.INVERNESS and operation not in rules.UPGRADE_OPERATIONS and rules.upgrading(store)
    )
    return refuse("NOT_SUPPORTED_DURING_UPGRADE") if refused else None
