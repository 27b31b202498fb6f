"""What virtual machines were asked for before older releases did something to them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

Make = Callable[..., Any]

SHARED = "NFS virtual disk storage"


@pytest.mark.parametrize(("release", "refused"), [("6.1.0", False), ("6.2.0", True)])
def test_who_takes_a_start_while_it_is_emptied(calls: Make, release: str, refused: bool) -> None:
    """A host does up to 6.1; in the way of a resume it never was."""
    c = calls(release=release, vms=4)
    host, vm, saved = c.host("host1"), c.vm("vm04"), c.vm("vm02")
    c("VM.suspend", saved.ref)
    c.start("host.evacuate", host.ref)
    assert "evacuate" in host["current_operations"].values()
    if refused:
        assert c.refused("VM.start_on", vm.ref, host.ref, False, False) == ["HOST_EVACUATE_IN_PROGRESS", host.ref]
    else:
        c.start("VM.start_on", vm.ref, host.ref, False, False)
        c.until(lambda: bool(vm["resident_on"] == host.ref))


def test_a_resume_on_a_host_that_is_emptied(calls: Make) -> None:
    c = calls(release="8.2", vms=4)
    host, saved = c.host("host1"), c.vm("vm02")
    c("VM.suspend", saved.ref)
    c.start("host.evacuate", host.ref)
    task = c.start("VM.resume_on", saved.ref, host.ref, False, False)
    assert "HOST_EVACUATE_IN_PROGRESS" not in task["error_info"]


@pytest.mark.parametrize(("release", "refused"), [("6.1.0", True), ("6.2.0", False)])
def test_copies_whose_disks_no_host_sees_together(calls: Make, release: str, refused: bool) -> None:
    """Up to 6.1 one host copies all of them."""
    c = calls(release=release, vms=4)
    store, vm = c.pool.store, c.vm("vm04")
    second = dict(c.vbd("vm04", "0"), userdevice="5", uuid="", other_config={})
    for number, host in enumerate(("host1", "host2")):
        own = c.row("SR", f"Local storage on {host}").ref
        image = {"name_label": host, "name_description": "", "SR": own, "virtual_size": "2097152", "type": "user"}
        vdi = c("VDI.create", {**image, "sharable": False, "read_only": False, "other_config": {}})
        fields = {**second, "VDI": vdi, "userdevice": str(5 + number), "mode": "RW", "type": "Disk", "VM": vm.ref}
        c("VBD.create", {**fields, "bootable": False, "empty": False})
    if refused:
        assert c.refused("VM.copy", vm.ref, "copy", "OpaqueRef:NULL") == ["NO_HOSTS_AVAILABLE"]
    else:
        new = store.get("VM", c("VM.copy", vm.ref, "copy", "OpaqueRef:NULL"))
        assert len(new["VBDs"]) == len(vm["VBDs"])


@pytest.mark.parametrize(("release", "refused"), [("5.6.0", True), ("5.6.100", False)])
def test_copies_to_storage_of_another_host(calls: Make, release: str, refused: bool) -> None:
    """Up to 5.6 the host that copies must see it, too, whichever disks there are."""
    c = calls(release=release, vms=4)
    vm, own = c.vm("vm04"), c.row("SR", "Local storage on host2")
    for pbd in c.pool.store.rows("PBD", c.row("SR", SHARED)["PBDs"]):
        if pbd["host"] == c.host("host2").ref:
            c.pool.store.write(pbd, currently_attached=False)
    if refused:
        assert c.refused("VM.copy", vm.ref, "copy", own.ref) == ["NO_HOSTS_AVAILABLE"]
    else:
        c("VM.copy", vm.ref, "copy", own.ref)


@pytest.mark.parametrize(("release", "first"), [("6.5.0", "SR_HAS_NO_PBDS"), ("7.0.0", "OPERATION_BLOCKED")])
def test_what_comes_first_when_a_vm_is_taken_back(calls: Make, release: str, first: str) -> None:
    """Up to 6.5, that what was in its memory is in reach."""
    c = calls(release=release, vms=4)
    vm = c.vm("vm02")
    snapshot = c.pool.store.get("VM", c("VM.checkpoint", vm.ref, "then"))
    c("VM.add_to_blocked_operations", snapshot.ref, "revert", "not today")
    image = c.pool.store.get("VDI", snapshot["suspend_VDI"])
    for pbd in c.pool.store.rows("PBD", c.pool.store.get("SR", image["SR"])["PBDs"]):
        c.pool.store.write(pbd, currently_attached=False)
    assert c.refused("VM.revert", snapshot.ref)[0] == first


@pytest.mark.parametrize(
    ("release", "at_startup", "most"),
    [
        ("5.5.0", None, None),
        ("5.6.0", "VM_BAD_POWER_STATE", "VM_BAD_POWER_STATE"),
        ("6.0.0", "VM_BAD_POWER_STATE", "VM_BAD_POWER_STATE"),
        ("6.1.0", None, "VM_BAD_POWER_STATE"),
    ],
)
def test_processors_of_a_vm_that_runs(calls: Make, release: str, at_startup: str | None, most: str | None) -> None:
    """Fields like others up to 5.5; how many it starts with is again free to be said since 6.1."""
    c = calls(release=release, vms=4)
    vm = c.vm("vm02")
    for method, value, code in (("VM.set_VCPUs_max", 4, most), ("VM.set_VCPUs_at_startup", 1, at_startup)):
        if code is None:
            c(method, vm.ref, str(value))
            assert vm[method.partition("set_")[2]] == value
        else:
            assert c.refused(method, vm.ref, str(value))[0] == code
    assert vm["current_operations"] == {}


@pytest.mark.parametrize(("release", "refused"), [("5.5.0", False), ("5.6.0", True)])
def test_processors_out_of_order(calls: Make, release: str, refused: bool) -> None:
    """Nobody looked at that up to 5.5."""
    c = calls(release=release, vms=4)
    vm = c.vm("vm04")
    more = vm["VCPUs_max"] + 1
    if refused:
        assert c.refused("VM.set_VCPUs_at_startup", vm.ref, str(more))[0] == "INVALID_VALUE"
    else:
        c("VM.set_VCPUs_at_startup", vm.ref, str(more))
        assert vm["VCPUs_at_startup"] == more


@pytest.mark.parametrize(("release", "cancels"), [("6.5.0", False), ("7.6.0", False), ("8.2", True)])
def test_a_shutdown_that_is_cut_short(calls: Make, release: str, cancels: bool) -> None:
    """By force, since 8.2 with its updates; what cleans up is cut short since 6.2."""
    c = calls(release=release, vms=4)
    vm = c.vm("vm02")
    task = c.start("VM.shutdown", vm.ref)
    assert "shutdown" in vm["current_operations"].values()
    other = c.start("VM.hard_shutdown", vm.ref)
    c.until(lambda: other["status"] != "pending")
    assert (task["status"] == "cancelled") == cancels
    assert vm["power_state"] == "Halted"


@pytest.mark.parametrize(("release", "expected"), [("6.5.0", "running"), ("7.1.0", "running;paused")])
def test_what_is_measured_of_a_vm_that_is_off(calls: Make, release: str, expected: str) -> None:
    c = calls(release=release, vms=4)
    vm = c.vm("vm04")
    assert c.refused("VM.query_data_source", vm.ref, "cpu0") == ["VM_BAD_POWER_STATE", vm.ref, expected, "halted"]


@pytest.mark.parametrize(("release", "counts"), [("6.0.0", True), ("6.1.0", False)])
def test_memory_that_a_vm_could_have_approximately(calls: Make, release: str, counts: bool) -> None:
    """Up to 6.0 as if it were fully virtual, which takes more beside it."""
    c = calls(release=release, vms=4)
    vm, gib = c.vm("vm04"), 1 << 30
    c.pool.store.write(vm, HVM_boot_policy="")
    plain = c("VM.maximise_memory", vm.ref, 4 * gib, True)
    c.pool.store.write(vm, HVM_boot_policy="BIOS order")
    assert (c("VM.maximise_memory", vm.ref, 4 * gib, True) == plain) == counts


@pytest.mark.parametrize(("release", "passes"), [("5.5.0", False), ("6.5.0", False), ("7.0.0", True)])
def test_processors_for_a_fully_virtual_guest_that_runs(calls: Make, release: str, passes: bool) -> None:
    """Since 7.0."""
    c = calls(release=release, vms=4)
    vm = c.vm("vm02")
    c.pool.store.write(vm, HVM_boot_policy="BIOS order", domain_type="hvm", VCPUs_max=2)
    if passes:
        c("VM.set_VCPUs_number_live", vm.ref, "2")
        assert vm["VCPUs_at_startup"] == 2
    else:
        text = "HVM VMs cannot hotplug CPUs"
        assert c.refused("VM.set_VCPUs_number_live", vm.ref, "2") == ["OPERATION_NOT_ALLOWED", text]


@pytest.mark.parametrize(
    ("release", "text"),
    [("5.5.0", "set_VCPUs_number_live"), ("5.6.0", "VCPU values must satisfy: 0 < VCPUs \u2264 VCPUs_max")],
)
def test_more_processors_than_a_vm_may_have(calls: Make, release: str, text: str) -> None:
    c = calls(release=release, vms=4)
    vm = c.vm("vm02")
    c.pool.store.write(vm, HVM_boot_policy="")
    assert c.refused("VM.set_VCPUs_number_live", vm.ref, "99") == ["INVALID_VALUE", text, "99"]


@pytest.mark.parametrize(("release", "passes"), [("6.0.0", True), ("6.1.0", False)])
def test_weights_of_a_vm_that_runs(calls: Make, release: str, passes: bool) -> None:
    """Up to 6.0."""
    c = calls(release=release, vms=4)
    vm = c.vm("vm02")
    if passes:
        c("VM.add_to_VCPUs_params_live", vm.ref, "weight", "512")
        assert vm["VCPUs_params"]["weight"] == "512"
    else:
        assert c.refused("VM.add_to_VCPUs_params_live", vm.ref, "weight", "512")[0] == "NOT_IMPLEMENTED"


@pytest.mark.parametrize(("release", "told"), [("6.0.0", True), ("6.1.0", False)])
def test_a_domain_that_is_there(calls: Make, release: str, told: bool) -> None:
    """Up to 6.0 its number is told."""
    c = calls(release=release, hosts=1, vms=4)
    vm = c.vm("vm02")
    number = [str(vm["domid"])] if told else []
    assert c.refused("VM.power_state_reset", vm.ref) == ["DOMAIN_EXISTS", vm.ref, *number]


@pytest.mark.parametrize(("release", "code"), [("5.5.0", "DOMAIN_EXISTS"), ("5.6.0", "CANNOT_RESET_CONTROL_DOMAIN")])
def test_a_control_domain_is_not_taken_for_off(calls: Make, release: str, code: str) -> None:
    c = calls(release=release, hosts=1)
    (dom0,) = (vm for vm in c.pool.store.table("VM").values() if vm["is_control_domain"])
    assert c.refused("VM.power_state_reset", dom0.ref)[0] == code
