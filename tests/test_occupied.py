"""Objects that another operation holds: who asks for one waits until it is free, as at a real pool."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from mockserver import Durations, PoolServer
from xenctl.session import connect

Make = Callable[..., Any]
BUSY = "OTHER_OPERATION_IN_PROGRESS"


@pytest.fixture
def c(calls: Make) -> Any:
    return calls(release="8.2", hosts=3, vms=12)


def test_two_operations_on_one_vm_follow_each_other(c: Any) -> None:
    """In both ways of calling; what the second one waits for shows on the VM, and nothing of itself."""
    vm = c.vm("vm01")
    first = c.start("VM.clean_reboot", vm.ref)
    second = c.start("VM.snapshot", vm.ref, "then")
    assert (second["status"], vm["current_operations"]) == ("pending", {first.ref: "clean_reboot"})
    c("VM.set_name_label", vm.ref, "named")
    c("VM.suspend", vm.ref)
    assert (first["status"], second["status"], vm["power_state"]) == ("success", "success", "Suspended")
    assert c.unharmed()


def test_what_is_waited_for_may_change_the_answer(c: Any) -> None:
    """The call begins anew: by then the VM is off, or gone."""
    vm, other = c.vm("vm01"), c.vm("vm04")
    c.start("VM.clean_shutdown", vm.ref)
    assert c.refused("VM.pause", vm.ref) == ["VM_BAD_POWER_STATE", vm.ref, "running", "halted"]
    c.start("VM.copy", other.ref, "copy", c.row("SR", "NFS virtual disk storage").ref)
    tasks = [c.start("VM.destroy", other.ref) for _ in range(2)]
    c.until(lambda: all(task["status"] != "pending" for task in tasks))
    assert {task["status"]: task["error_info"] for task in tasks} == {
        "success": [],
        "failure": ["HANDLE_INVALID", "VM", other.ref],
    }
    assert c.row("VM", "copy")["power_state"] == "Halted"


@pytest.mark.parametrize(
    ("begins", "follows"),
    [
        (("PBD.unplug", "pbd1"), ("PBD.unplug", "pbd2")),
        (("SR.scan", "sr"), ("VDI.create", "record")),
        (("VDI.resize", "vdi", 9 << 30), ("VDI.snapshot", "vdi", {})),
        (("VBD.eject", "drive"), ("VBD.insert", "drive", "disc")),
        (("VIF.unplug", "vif"), ("VIF.plug", "vif")),
        (("VM_appliance.start", "appliance", False), ("VM_appliance.shutdown", "appliance")),
    ],
    ids=lambda call: call[0],
)
def test_who_asks_for_what_is_held_waits(c: Any, begins: Any, follows: Any) -> None:
    """Storage, disks, drives, interfaces, groups of VMs."""
    sr = c.row("SR", "NFS virtual disk storage")
    for vbd in (c.vbd(f"vm{number:02}", "0") for number in range(1, 13)):
        if begins[0] == "PBD.unplug" and vbd["currently_attached"]:
            c("VM.hard_shutdown", vbd["VM"])
    objects = {
        "sr": sr.ref,
        **dict(zip(("pbd1", "pbd2"), sr["PBDs"], strict=False)),
        "vdi": c.row("VDI", "disk of vm04").ref,
        "drive": c.vbd("vm02", "3").ref,
        "disc": c.row("VDI", "debian-etch.iso").ref,
        "vif": c.vm("vm01")["VIFs"][0],
        "record": {"name_label": "new", "SR": sr.ref, "virtual_size": 1 << 30, "type": "user", "other_config": {}}
        | {"sharable": False, "read_only": False},
    }
    if begins[0].startswith("VM_appliance"):
        objects["appliance"] = c("VM_appliance.create", {"name_label": "group", "name_description": ""})
        c("VM.set_appliance", c.vm("vm04").ref, objects["appliance"])
    first, second = (
        c.start(method, *(objects.get(arg, arg) if isinstance(arg, str) else arg for arg in args))
        for method, *args in (begins, follows)
    )
    assert (first["status"], second["status"]) == ("pending", "pending")
    c.until(lambda: second["status"] != "pending")
    assert (first["status"], second["status"], second["error_info"]) == ("success", "success", [])


@pytest.mark.parametrize("release", ["5.6", "8.2"])
@pytest.mark.parametrize(
    ("state", "method"), [("Halted", "start"), ("Running", "hard_reboot"), ("Suspended", "resume")]
)
def test_a_vm_waits_for_its_disks_but_not_for_long(calls: Make, release: str, state: str, method: str) -> None:
    """In the middle of its operation, for two minutes; then it is told what is in its way, and is as it was."""
    c = calls(release=release, hosts=1, vms=4)
    vm, disk, args = c.vm("vm04"), c.row("VDI", "disk of vm04"), () if method == "hard_reboot" else (False, False)
    if state != "Halted":
        c("VM.start", vm.ref, False, False)
    if state == "Suspended":
        c.sleep(c.pool.durations.vm_boot)
        c("VM.suspend", vm.ref)
    began = c.pool.clock.now()
    c.pool.durations = Durations(volume=300.0)
    c.start("VDI.snapshot", disk.ref, {})
    first = c.start(f"VM.{method}", vm.ref, *args)
    assert (vm["power_state"], vm["current_operations"]) == (state, {first.ref: method})
    c.until(lambda: first["status"] != "pending")
    assert (first["error_info"][:3], c.pool.clock.now() - began) == ([BUSY, "VDI", disk.ref], 120.0)
    assert (vm["power_state"], vm["current_operations"]) == (state, {})
    c.sleep(100)
    c(f"VM.{method}", vm.ref, *args)
    assert vm["power_state"] == "Running"
    assert c.unharmed()


def test_who_waits_can_be_cancelled(c: Any) -> None:
    """The operation that is waited for goes on."""
    vm = c.vm("vm01")
    first, second = c.start("VM.clean_reboot", vm.ref), c.start("VM.suspend", vm.ref)
    c("task.cancel", second.ref)
    assert second["status"] == "cancelled"
    c.until(lambda: first["status"] == "success")
    c.sleep(60)
    assert (vm["power_state"], vm["suspend_VDI"]) == ("Running", "OpaqueRef:NULL")


def test_nobody_waits_for_ever(c: Any) -> None:
    """Two hours, or what the pool is told; plugins of guests are called at once or not at all."""
    vm, clock = c.vm("vm01"), c.pool.clock
    c.pool.store.write(vm, current_operations={"OpaqueRef:hung": "clean_reboot"})
    began = clock.now()
    assert c.refused("VM.pause", vm.ref) == [BUSY, "VM.clean_reboot", vm.ref]
    assert clock.now() - began == 7200.0
    assert c.refused("VM.call_plugin", vm.ref, "guest-agent-operation", "version", {})[0] == BUSY
    assert c.refused("VM.assert_operation_valid", vm.ref, "pause")[0] == BUSY
    assert clock.now() - began == 7200.0


def test_a_pool_may_be_told_not_to_wait(calls: Make) -> None:
    """So that the refusal can be met without two hours of simulated time."""
    c = calls(release="8.2", hosts=1, vms=4, durations=Durations(operation_wait=0.0))
    vm = c.vm("vm01")
    c.start("VM.clean_shutdown", vm.ref)
    assert c.refused("VM.pause", vm.ref) == [BUSY, "VM.clean_shutdown", vm.ref]


def test_a_call_over_sockets_waits(c: Any) -> None:
    """It returns when all is done."""
    vm = c.vm("vm01")
    with PoolServer(c.pool, time_scale=100.0) as server, connect(server.url, "root", "secret") as session:
        task = session.Async.VM.clean_reboot(vm.ref)
        assert session.task.get_status(task.ref) == "pending"
        session.VM.suspend(vm.ref)
        assert session.task.get_status(task.ref) == "success"
    assert vm["power_state"] == "Suspended"


def test_a_rollback_ends_what_waits(c: Any) -> None:
    """Nothing of it happens later."""
    vm = c.vm("vm01")
    with c.pool.savepoint():
        c.start("VM.clean_reboot", vm.ref)
        c.start("VM.suspend", vm.ref)
    c.sleep(600)
    assert (c.vm("vm01")["power_state"], c.vm("vm01")["current_operations"]) == ("Running", {})
    assert c.unharmed()
