"""Memory and virtual processors of virtual machines."""

from __future__ import annotations

from contextlib import nullcontext

from xenctl import memory

from .. import power, rules, vm_rules
from ..call import Call, Steps, refuse
from ..checks import is_hvm, operation
from ..licence import assert_enabled
from ..placement import ocaml_float
from ..power import MARKS
from ..store import Row
from . import verbs_of

verb = verbs_of("VM")

MIB = 1 << 20
KIB = 1 << 10
SETTLED = (*MARKS, "memory_overhead", "requires_reboot")
VCPUS_APPROXIMATELY = 64
"""The virtual processors that an approximate answer counts with."""
OUT_OF_ORDER = "VCPU values must satisfy: 0 < VCPUs_at_startup ≤ VCPUs_max"


def _assert_ordered(call: Call, vm: Row, **changes: int) -> None:
    """Raise unless the limits of a VM's memory are in order, or all the same where its memory cannot change."""
    names = ("memory_static_min", "memory_dynamic_min", "memory_dynamic_max", "memory_static_max")
    least, low, high, most = (changes.get(name, vm[name]) for name in names)
    reason = _pinned(call, vm)
    if reason:
        vm_rules.assert_pinned(vm, reason, **changes)
    elif not least <= low <= high <= most:
        raise refuse("MEMORY_CONSTRAINT_VIOLATION_ORDER")


def _pinned(call: Call, vm: Row) -> str:
    """Why a VM's memory cannot change while it runs; empty where it can."""
    if call.db.pool().get("restrictions", {}).get("restrict_dmc") == "true":
        return "DMC disabled"
    if vm["is_control_domain"]:
        return "control domain"
    return "nested virt" if vm_rules.has_trait(call.db, vm, "nested_virt") else ""


def _noted(call: Call, vm: Row, **fields: float) -> str:
    """Write down what counts when a VM starts, as it was done with any field up to 5.5."""
    call.db.write(vm, **fields)
    return ""


def _write(call: Call, vm: Row, **fields: int) -> None:
    """Change what is fixed while a VM runs. Only a control domain may run meanwhile, and must be rebooted then."""
    call.db.write(vm, **fields)
    power.settle_overhead(call, vm)
    if vm["is_control_domain"] and vm["power_state"] == "Running":
        call.db.write(vm, requires_reboot=True)


# --- static limits


@verb("memory_static_min", "memory_static_max", *SETTLED)
def set_memory_static_range(call: Call, ref: str, least: int, most: int) -> str:
    row = call.db.get("VM", ref)
    with operation(call, row, "changing_static_range"):
        _assert_ordered(call, row, memory_static_min=least, memory_static_max=most)
        _write(call, row, memory_static_min=least, memory_static_max=most)
    return ""


@verb("memory_static_min", "memory_static_max", *SETTLED)
def set_memory_static_min(call: Call, ref: str, value: int) -> str:
    if not call.at_least(rules.MIDNIGHT_RIDE):
        return _noted(call, call.db.get("VM", ref), memory_static_min=value)
    return str(set_memory_static_range(call, ref, value, call.db.get("VM", ref)["memory_static_max"]))


@verb("memory_static_min", "memory_static_max", *SETTLED)
def set_memory_static_max(call: Call, ref: str, value: int) -> str:
    """Up to 5.5 whatever the other limits are, but of a VM that is halted, and not protected by a plan that holds."""
    if not call.at_least(rules.MIDNIGHT_RIDE):
        row, pool = call.db.get("VM", ref), call.db.pool()
        if row["power_state"] != "Halted":
            raise refuse("VM_BAD_POWER_STATE", row.ref, "halted", row["power_state"].lower())
        if pool.get("ha_enabled") and not pool["ha_overcommitted"] and row["ha_always_run"]:
            raise refuse("HA_OPERATION_WOULD_BREAK_FAILOVER_PLAN")
        return _noted(call, row, memory_static_max=value)
    return str(set_memory_static_range(call, ref, call.db.get("VM", ref)["memory_static_min"], value))


LIMITS = ("memory_static_min", "memory_static_max", "memory_dynamic_min", "memory_dynamic_max", "memory_target")


@verb(*LIMITS, *SETTLED)
def set_memory_limits(
    call: Call, ref: str, static_min: int, static_max: int, dynamic_min: int, dynamic_max: int
) -> str:
    row = call.db.get("VM", ref)
    with operation(call, row, "changing_memory_limits"):
        limits = {
            "memory_static_min": static_min,
            "memory_dynamic_min": dynamic_min,
            "memory_dynamic_max": dynamic_max,
            "memory_static_max": static_max,
        }
        _assert_ordered(call, row, **limits)
        _write(call, row, **limits, memory_target=dynamic_min)
    return ""


@verb(*LIMITS, *SETTLED)
def set_memory(call: Call, ref: str, value: int) -> str:
    return str(set_memory_limits(call, ref, call.db.get("VM", ref)["memory_static_min"], value, value, value))


# --- dynamic limits


@verb("memory_dynamic_min", "memory_dynamic_max", "memory_target", "VM_metrics.*", "metrics", *MARKS)
def set_memory_dynamic_range(call: Call, ref: str, least: int, most: int) -> str:
    """A running guest gives back what it has beyond `most`, and takes what it lacks up to it; its host must have the room
    that it is promised."""
    row = call.db.get("VM", ref)
    with operation(call, row, "changing_dynamic_range"):
        running = row["power_state"] == "Running"
        if running:
            host = power.contact(call, row).host
            free, more = rules.memory_free(call.db, host), least - row["memory_dynamic_min"]
            if more > 0 and more > free:
                raise refuse("HOST_NOT_ENOUGH_FREE_MEMORY", more // KIB, free // KIB)
        _assert_ordered(call, row, memory_dynamic_min=least, memory_dynamic_max=most)
        call.db.write(row, memory_dynamic_min=least, memory_dynamic_max=most, memory_target=least)
        if running:
            _balloon(call, row, most)
    return ""


def _balloon(call: Call, vm: Row, size: int) -> None:
    call.db.write(power.metrics_of(call, vm), memory_actual=size, last_updated=call.clock.stamp())


@verb("memory_dynamic_min", "memory_dynamic_max", "memory_target", "VM_metrics.*", "metrics", *MARKS)
def set_memory_dynamic_min(call: Call, ref: str, value: int) -> str:
    if not call.at_least(rules.MIDNIGHT_RIDE):
        return _noted(call, call.db.get("VM", ref), memory_dynamic_min=value)
    return str(set_memory_dynamic_range(call, ref, value, call.db.get("VM", ref)["memory_dynamic_max"]))


@verb("memory_dynamic_min", "memory_dynamic_max", "memory_target", "VM_metrics.*", "metrics", *MARKS)
def set_memory_dynamic_max(call: Call, ref: str, value: int) -> str:
    if not call.at_least(rules.MIDNIGHT_RIDE):
        return _noted(call, call.db.get("VM", ref), memory_dynamic_max=value)
    return str(set_memory_dynamic_range(call, ref, call.db.get("VM", ref)["memory_dynamic_min"], value))


@verb("memory_target", "VM_metrics.*", "metrics", *MARKS)
def set_memory_target_live(call: Call, ref: str, target: int) -> str:
    """Up to 5.5 the guest takes or gives back memory; since then the range of a VM decides, and this changes nothing."""
    row = call.db.get("VM", ref)
    with operation(call, row, "changing_memory_live"):
        power.contact(call, row)
        if not call.at_least(rules.MIDNIGHT_RIDE):
            call.db.write(row, memory_target=target)
            _balloon(call, row, target)
    return ""


@verb("VM_metrics.*", "metrics", *MARKS)
def wait_memory_target_live(call: Call, ref: str) -> Steps:
    """Wait until the guest has as much memory as it is to have, and write down how much that is."""
    row = call.db.get("VM", ref)
    with operation(call, row, "awaiting_memory_live"):
        there = power.contact(call, row)
        yield call.pool.durations.device
        there.check()
        _balloon(call, row, row["memory_dynamic_max" if call.at_least(rules.MIDNIGHT_RIDE) else "memory_target"])
    return ""


@verb()
def get_cooperative(call: Call, ref: str) -> bool:
    """Every guest is taken to do its part, since nobody asks any more."""
    call.db.get("VM", ref)
    return True


# --- how much


@verb()
def compute_memory_overhead(call: Call, vm: str) -> int:
    return memory.overhead(call.db.get("VM", vm))


@verb()
def maximise_memory(call: Call, ref: str, total: int, approximate: bool) -> int:
    """The most memory that a VM could have within `total` bytes of a host, in whole MiB."""
    row = call.db.get("VM", ref)
    counted = {**row, "VCPUs_max": VCPUS_APPROXIMATELY} if approximate else {**row}
    if approximate and not call.at_least(rules.TAMPA):  # the worst case
        counted["HVM_boot_policy"] = "BIOS order"
    low, high = 0, max(0, total) // MIB
    while low < high:
        half = (low + high + 1) // 2
        counted["memory_static_max"] = half * MIB
        if half * MIB + memory.overhead(counted) <= total:
            low = half
        else:
            high = half - 1
    return low * MIB


@verb("HVM_shadow_multiplier", *SETTLED)
def set_HVM_shadow_multiplier(call: Call, ref: str, value: float) -> str:
    row = call.db.get("VM", ref)
    if not call.at_least(rules.MIDNIGHT_RIDE):
        return _noted(call, row, HVM_shadow_multiplier=value)
    with operation(call, row, "changing_shadow_memory"):
        _assert_multiplier(value)
        call.db.write(row, HVM_shadow_multiplier=value)
        power.settle_overhead(call, row)
    return ""


@verb("HVM_shadow_multiplier", *SETTLED)
def set_shadow_multiplier_live(call: Call, ref: str, multiplier: float) -> str:
    """A guest without hardware virtualisation has no shadow memory, and stays as it is."""
    row = call.db.get("VM", ref)
    with operation(call, row, "changing_shadow_memory_live"):
        host = power.contact(call, row).host
        _assert_multiplier(multiplier)
        if is_hvm(row):
            more = memory.overhead({**row, "HVM_shadow_multiplier": multiplier}) - memory.overhead(row)
            free = rules.memory_free(call.db, host)
            if more > free:
                raise refuse("HOST_NOT_ENOUGH_FREE_MEMORY", more, max(0, free))
            call.db.write(row, HVM_shadow_multiplier=multiplier)
            power.settle_overhead(call, row)
    return ""


def _assert_multiplier(value: float) -> None:
    if value < 1.0:
        raise refuse("INVALID_VALUE", "multiplier", ocaml_float(value))


# --- virtual processors


@verb("VCPUs_max", *SETTLED)
def set_VCPUs_max(call: Call, ref: str, value: int) -> str:
    row = call.db.get("VM", ref)
    if not call.at_least(rules.MIDNIGHT_RIDE):
        return _noted(call, row, VCPUs_max=value)
    with operation(call, row, "changing_VCPUs"):
        if value < 1 or value < row["VCPUs_at_startup"]:
            raise refuse("INVALID_VALUE", OUT_OF_ORDER, value)
        _write(call, row, VCPUs_max=value)
    return ""


@verb("VCPUs_at_startup", "memory_overhead", *MARKS)
def set_VCPUs_at_startup(call: Call, ref: str, value: int) -> str:
    """From 5.6 to 6.0 the VM has to be halted for it."""
    row = call.db.get("VM", ref)
    if not call.at_least(rules.MIDNIGHT_RIDE):
        return _noted(call, row, VCPUs_at_startup=value)
    with operation(call, row, "changing_VCPUs") if not call.at_least(rules.TAMPA) else nullcontext():
        _assert_starts_with(row, value)
        call.db.write(row, VCPUs_at_startup=value)
        power.settle_overhead(call, row)
    return ""


def _assert_starts_with(row: Row, value: int) -> None:
    if vm_rules.is_domain_zero(row):
        raise refuse("OPERATION_NOT_ALLOWED", "set_VCPUs_at_startup is not allowed on dom0")
    if not 1 <= value <= row["VCPUs_max"]:
        raise refuse("INVALID_VALUE", OUT_OF_ORDER, value)


@verb("VCPUs_at_startup", "memory_overhead", "VM_metrics.*", "metrics", *MARKS)
def set_VCPUs_number_live(call: Call, ref: str, nvcpu: int) -> str:
    row = call.db.get("VM", ref)
    with operation(call, row, "changing_VCPUs_live"):
        power.contact(call, row)
        assert_enabled(call, "Live_set_vcpus")
        if is_hvm(row) and not call.at_least(rules.DUNDEE):
            raise refuse("OPERATION_NOT_ALLOWED", "HVM VMs cannot hotplug CPUs")
        if not 1 <= nvcpu <= row["VCPUs_max"]:
            now = call.at_least(rules.MIDNIGHT_RIDE)
            text = "VCPU values must satisfy: 0 < VCPUs ≤ VCPUs_max" if now else "set_VCPUs_number_live"
            raise refuse("INVALID_VALUE", text, nvcpu)
        call.db.write(row, VCPUs_at_startup=nvcpu)
        call.db.write(power.metrics_of(call, row), VCPUs_number=nvcpu, last_updated=call.clock.stamp())
        power.settle_overhead(call, row)
    return ""


@verb("VCPUs_params", *MARKS)
def add_to_VCPUs_params_live(call: Call, ref: str, key: str, value: str) -> str:
    """Since 6.1 xapi answers that it cannot do this; before, the weight or cap of a running VM was set."""
    row = call.db.get("VM", ref)
    with operation(call, row, "changing_VCPUs_live"):
        if call.at_least(rules.TAMPA):
            raise refuse("NOT_IMPLEMENTED", "add_to_VCPUs_params_live")
        power.contact(call, row)
        call.db.write(row, VCPUs_params={**row["VCPUs_params"], key: value})
    return ""
