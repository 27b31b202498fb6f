"""Memory and virtual processors of VMs: what may be set when, in which order, and what follows."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from xenctl.memory import overhead

Make = Callable[..., Any]
GIB = 1 << 30
MIB = 1 << 20


@pytest.fixture
def c(calls: Make) -> Any:
    return calls(release="8.2", hosts=2, vms=12)


def limits(vm: Any) -> tuple[int, ...]:
    names = ("static_min", "dynamic_min", "dynamic_max", "static_max")
    return tuple(vm[f"memory_{name}"] for name in names)


# --- limits


def test_limits_are_set_together(c: Any) -> None:
    """The target follows the dynamic minimum, the overhead the static maximum."""
    vm = c.vm("vm04")
    c("VM.set_memory_limits", vm.ref, GIB, 16 * GIB, 2 * GIB, 4 * GIB)
    assert limits(vm) == (GIB, 2 * GIB, 4 * GIB, 16 * GIB)
    assert vm["memory_target"] == 2 * GIB
    assert vm["memory_overhead"] == overhead(vm) == c("VM.compute_memory_overhead", vm.ref)
    c("VM.set_memory", vm.ref, 8 * GIB)
    assert limits(vm) == (GIB, 8 * GIB, 8 * GIB, 8 * GIB)


@pytest.mark.parametrize(
    ("method", "args"),
    [
        ("set_memory_limits", [2, 8, 1, 4]),
        ("set_memory_limits", [1, 8, 4, 2]),
        ("set_memory_limits", [1, 4, 2, 8]),
        ("set_memory_static_range", [3, 4]),
        ("set_memory_static_max", [1]),
        ("set_memory_static_min", [9]),
        ("set_memory_dynamic_range", [4, 2]),
        ("set_memory_dynamic_min", [9]),
        ("set_memory_dynamic_max", [1]),
        ("set_memory", [0]),
    ],
)
def test_limits_out_of_order_are_refused(c: Any, method: str, args: list[int]) -> None:
    """And nothing is changed."""
    vm = c.vm("vm04")
    c("VM.set_memory_limits", vm.ref, GIB, 4 * GIB, 2 * GIB, 2 * GIB)
    before = limits(vm)
    assert c.refused(f"VM.{method}", vm.ref, *[gib * GIB for gib in args]) == ["MEMORY_CONSTRAINT_VIOLATION_ORDER"]
    assert (limits(vm), vm["current_operations"]) == (before, {})


def test_one_limit_at_a_time(c: Any) -> None:
    """The other of its pair stays."""
    vm = c.vm("vm04")
    c("VM.set_memory_limits", vm.ref, GIB, 4 * GIB, 2 * GIB, 2 * GIB)
    c("VM.set_memory_static_max", vm.ref, 8 * GIB)
    c("VM.set_memory_static_min", vm.ref, GIB // 2)
    c("VM.set_memory_dynamic_max", vm.ref, 6 * GIB)
    c("VM.set_memory_dynamic_min", vm.ref, GIB)
    assert limits(vm) == (GIB // 2, GIB, 6 * GIB, 8 * GIB)


@pytest.mark.parametrize(
    ("method", "args", "expected"),
    [
        ("set_memory_limits", [1, 1, 1, 1], "halted"),
        ("set_memory_static_range", [1, 1], "halted"),
        ("set_memory", [1], "halted"),
        ("set_VCPUs_max", [2], "halted"),
        ("set_HVM_shadow_multiplier", [1.5], "halted"),
    ],
)
def test_what_is_fixed_at_boot_needs_a_halted_vm(c: Any, method: str, args: list[Any], expected: str) -> None:
    """The error says what it found."""
    vm = c.vm("vm02")
    assert c.refused(f"VM.{method}", vm.ref, *args) == ["VM_BAD_POWER_STATE", vm.ref, expected, "running"]


def test_up_to_5_5_a_limit_had_no_operation(calls: Make) -> None:
    """It was set on a halted VM all the same."""
    c = calls(release="5.5", vms=6)
    vm = c.vm("vm04")
    c("VM.set_memory_static_max", vm.ref, 8 * GIB)
    assert vm["memory_static_max"] == 8 * GIB
    running = c.vm("vm02").ref
    assert c.refused("VM.set_memory_static_max", running, GIB) == ["VM_BAD_POWER_STATE", running, "halted", "running"]


def test_a_control_domain_has_one_size(c: Any) -> None:
    """It may be changed while it runs, and counts from the next boot on."""
    dom0 = c.vm("Control domain on host: host1")
    assert c.refused("VM.set_memory_limits", dom0.ref, GIB, 2 * GIB, GIB, GIB) == [
        *("MEMORY_CONSTRAINT_VIOLATION_MAXPIN", "control domain"),
    ]
    assert not dom0["requires_reboot"]
    c("VM.set_memory", dom0.ref, 2 * GIB)
    assert (dom0["memory_static_max"], dom0["requires_reboot"]) == (2 * GIB, True)


def test_a_guest_with_guests_of_its_own_has_one_size(c: Any) -> None:
    """Its memory does not change while it runs."""
    vm = c.vm("vm02")
    c.pool.store.write(c.pool.store.get("VM_metrics", vm["metrics"]), nested_virt=True)
    assert c.refused("VM.set_memory_dynamic_range", vm.ref, GIB, GIB) == ["VM_IS_USING_NESTED_VIRT", vm.ref]
    halted = c.vm("vm04")
    c("VM.add_to_platform", halted.ref, "nested-virt", "true")
    c.pool.store.write(halted, metrics="OpaqueRef:NULL")
    assert c.refused("VM.set_memory_static_range", halted.ref, GIB, 64 * GIB) == [
        *("MEMORY_CONSTRAINT_VIOLATION_MAXPIN", "nested virt"),
    ]


def test_a_running_guest_gives_and_takes(c: Any) -> None:
    """Up to its dynamic maximum, as far as its host has the room that it is promised; that error counts in KiB."""
    vm = c.vm("vm04")
    c("VM.set_memory_limits", vm.ref, GIB, 8 * GIB, 2 * GIB, 8 * GIB)
    c("VM.start_on", vm.ref, c.host("host1").ref, False, False)
    metrics = c.pool.store.get("VM_metrics", vm["metrics"])
    c("VM.set_memory_dynamic_range", vm.ref, 2 * GIB, 3 * GIB)
    assert (vm["memory_dynamic_max"], metrics["memory_actual"]) == (3 * GIB, 3 * GIB)
    c.leave_free("host1", GIB)
    before = limits(vm)
    assert c.refused("VM.set_memory_dynamic_range", vm.ref, 4 * GIB, 4 * GIB) == [
        *("HOST_NOT_ENOUGH_FREE_MEMORY", str(2 * GIB // 1024), str(GIB // 1024)),
    ]
    assert limits(vm) == before
    c("VM.set_memory_dynamic_range", vm.ref, 5 * GIB // 2, 4 * GIB)
    assert metrics["memory_actual"] == 4 * GIB
    c("VM.wait_memory_target_live", vm.ref)
    assert metrics["memory_actual"] == 4 * GIB
    assert c("VM.get_cooperative", vm.ref) is True


def test_up_to_5_5_a_guest_had_a_target(calls: Make) -> None:
    """Since 5.6 the range decides, and setting the target does nothing."""
    old, now = calls(release="5.5", vms=2), calls(release="8.2", vms=2)
    for c, size in ((old, GIB), (now, None)):
        vm = c.vm("vm02")
        before = vm["memory_target"]
        c("VM.set_memory_target_live", vm.ref, GIB)
        assert vm["memory_target"] == (size or before)
        c("VM.wait_memory_target_live", vm.ref)
        metrics = c.pool.store.get("VM_metrics", vm["metrics"])
        assert metrics["memory_actual"] == (size or vm["memory_dynamic_max"])


def test_the_most_memory_that_fits(c: Any) -> None:
    """In whole MiB, with its overhead; an approximate answer leaves room for processors to come."""
    vm = c.vm("vm04")
    most = c("VM.maximise_memory", vm.ref, 4 * GIB, False)
    assert most % MIB == 0
    assert most + overhead({**vm, "memory_static_max": most}) <= 4 * GIB
    above = most + MIB
    assert above + overhead({**vm, "memory_static_max": above}) > 4 * GIB
    assert c("VM.maximise_memory", vm.ref, 4 * GIB, True) < most
    assert c("VM.maximise_memory", vm.ref, 0, False) == 0


# --- shadow memory


def test_shadow_memory_may_be_multiplied(c: Any) -> None:
    """By one or more; of a running VM only where it has any."""
    halted, hvm, pv = c.vm("vm04"), c.vm("vm03"), c.vm("vm02")
    for method, vm in (("set_HVM_shadow_multiplier", halted), ("set_shadow_multiplier_live", hvm)):
        assert c.refused(f"VM.{method}", vm.ref, 0.5) == ["INVALID_VALUE", "multiplier", "0.5"]
        assert c.refused(f"VM.{method}", vm.ref, 0.0) == ["INVALID_VALUE", "multiplier", "0."]
        c(f"VM.{method}", vm.ref, 4.0)
        assert vm["HVM_shadow_multiplier"] == 4.0
        assert vm["memory_overhead"] == overhead(vm)
    c("VM.set_shadow_multiplier_live", pv.ref, 4.0)
    assert pv["HVM_shadow_multiplier"] == 1.0


# --- virtual processors


def test_processors_at_startup_are_no_more_than_there_are(c: Any) -> None:
    """And one at least."""
    vm, text = c.vm("vm04"), "VCPU values must satisfy: 0 < VCPUs_at_startup ≤ VCPUs_max"
    assert c.refused("VM.set_VCPUs_at_startup", vm.ref, 2) == ["INVALID_VALUE", text, "2"]
    c("VM.set_VCPUs_max", vm.ref, 4)
    c("VM.set_VCPUs_at_startup", vm.ref, 3)
    assert (vm["VCPUs_max"], vm["VCPUs_at_startup"]) == (4, 3)
    assert c.refused("VM.set_VCPUs_max", vm.ref, 2) == ["INVALID_VALUE", text, "2"]
    assert c.refused("VM.set_VCPUs_at_startup", vm.ref, 0) == ["INVALID_VALUE", text, "0"]
    assert vm["memory_overhead"] == overhead(vm)
    dom0 = c.vm("Control domain on host: host1").ref
    assert c.refused("VM.set_VCPUs_at_startup", dom0, 1)[0] == "OPERATION_NOT_ALLOWED"
    assert c.refused("VM.set_VCPUs_max", dom0, 1) == [
        *("OPERATION_NOT_ALLOWED", "This operation is not allowed on dom0"),
    ]


def test_processors_come_and_go_while_a_vm_runs(c: Any) -> None:
    """As many as it may have at the most."""
    vm = c.vm("vm04")
    c("VM.set_VCPUs_max", vm.ref, 4)
    c("VM.start", vm.ref, False, False)
    c("VM.set_VCPUs_number_live", vm.ref, 3)
    metrics = c.pool.store.get("VM_metrics", vm["metrics"])
    assert (vm["VCPUs_at_startup"], metrics["VCPUs_number"]) == (3, 3)
    assert c.refused("VM.set_VCPUs_number_live", vm.ref, 5)[0] == "INVALID_VALUE"
    assert c.refused("VM.add_to_VCPUs_params_live", vm.ref, "weight", "1") == [
        *("NOT_IMPLEMENTED", "add_to_VCPUs_params_live"),
    ]


def test_the_weight_of_a_running_vm_could_be_set_up_to_5_5(calls: Make) -> None:
    """Since then it takes effect at the next boot."""
    c = calls(release="5.5", vms=2)
    vm = c.vm("vm02")
    c("VM.add_to_VCPUs_params_live", vm.ref, "weight", "512")
    assert vm["VCPUs_params"] == {"weight": "512"}


# --- at the start


@pytest.mark.parametrize(
    ("fields", "error"),
    [
        ({"VCPUs_max": 0}, ["INVALID_VALUE", "VCPUs_max", "0"]),
        ({"VCPUs_at_startup": 0}, ["INVALID_VALUE", "VCPUs-at-startup", "0"]),
        (
            {"VCPUs_at_startup": 9},
            ["VALUE_NOT_SUPPORTED", "VCPUs-at-startup", "9", "value greater than VCPUs-max"],
        ),
        ({"memory_static_max": 1}, ["MEMORY_CONSTRAINT_VIOLATION"]),
        ({"HVM_shadow_multiplier": 0.5}, ["INVALID_VALUE", "HVM_shadow_multiplier", "0.5"]),
        (
            {"actions_after_crash": "rename_restart"},
            ["VALUE_NOT_SUPPORTED", "VM.actions_after_crash", "rename_restart"],
        ),
        ({"VCPUs_max": 64}, ["HOST_NOT_ENOUGH_PCPUS", "64", "16"]),
    ],
)
def test_settings_are_looked_at_when_a_host_is_to_start_them(c: Any, fields: dict[str, Any], error: list[str]) -> None:
    """Whatever was set before."""
    vm = c.vm("vm04")
    c.pool.store.write(vm, **fields)
    found = c.refused("VM.start_on", vm.ref, c.host("host1").ref, False, False)
    assert found[: len(error)] == error
    assert c.refused("VM.start", vm.ref, False, False) == ["NO_HOSTS_AVAILABLE"]
    assert vm["power_state"] == "Halted"
