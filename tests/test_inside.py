"""What guests do by themselves, what becomes of their VMs then, and which of them have an agent."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from mockserver import MockPool
from mockserver.machine.host import MachineRoomError
from xenctl import database

Make = Callable[..., Any]
RELEASES = ["4.0.1", "6.2", "8.2"]


def metrics(c: Any, vm: str) -> Any:
    return c.pool.store.get("VM_metrics", c.vm(vm)["metrics"])


def agent(c: Any, vm: str) -> Any:
    return c.pool.store.find("VM_guest_metrics", c.vm(vm)["guest_metrics"])


# --- what the VMs of a new pool look like


@pytest.mark.parametrize("release", RELEASES)
def test_vms_of_a_new_pool_have_run_for_an_hour(calls: Make, release: str) -> None:
    """They were started, in a domain of some kind, with the memory that goes beside their own, and have addresses."""
    c = calls(release=release, vms=12)
    for name, kind in (("vm01", "pv"), ("vm03", "hvm"), ("vm06", "hvm")):
        vm, told = c.vm(name), metrics(c, name)
        saved = vm["power_state"] == "Suspended" and release != "4.0.1"
        assert told["start_time"] == ("19700101T00:00:00Z" if saved else "20081130T23:00:00Z")
        assert told.get("current_domain_type", kind) == kind
        assert vm.get("memory_overhead", 1) > 0
        if saved:
            c("VM.resume", vm.ref, False, False)
            assert metrics(c, name)["start_time"] == "20081130T23:00:00Z"
    assert metrics(c, "vm04")["start_time"] == "19700101T00:00:00Z"
    both = {"0/ip": "10.170.0.1", "0/ipv4/0": "10.170.0.1"}
    assert agent(c, "vm01")["networks"] == (both if release == "8.2" else {"0/ip": "10.170.0.1"})
    if "domain_type" in c.vm("vm01"):
        assert {row["domain_type"] for row in c.pool.store.table("VM").values() if row["is_control_domain"]} == {"pv"}


def test_a_boot_settles_the_kind_of_domain(calls: Make) -> None:
    """Also of a VM that does not say which it wants, and that is rebooted."""
    c = calls(release="8.2", vms=4)
    c.pool.store.write(c.vm("vm03"), domain_type="unspecified")
    c("VM.clean_reboot", c.vm("vm03").ref)
    assert metrics(c, "vm03")["current_domain_type"] == "hvm"


# --- who has an agent


def made(c: Any, *, disk: bool) -> Any:
    """A new VM with an interface, and a disk unless told otherwise."""
    template = c("VM.get_record", c.vm("vm03").ref)
    vm = c("VM.create", {**template, "name_label": "new", "is_a_template": False, "power_state": "Halted"})
    network = next(iter(c.pool.store.table("network")))
    common = {"other_config": {}, "qos_algorithm_type": "", "qos_algorithm_params": {}}
    c("VIF.create", {"VM": vm, "network": network, "device": "0", "MAC": "00:16:3e:01:02:03", "MTU": 1500, **common})
    if disk:
        sr = c.row("SR", "NFS virtual disk storage").ref
        fields = {"name_label": "root", "SR": sr, "virtual_size": 1 << 30, "type": "user", "sharable": False}
        vdi = c("VDI.create", {**fields, "read_only": False, "other_config": {}})
        place = {
            "VM": vm,
            "VDI": vdi,
            "userdevice": "0",
            "bootable": True,
            "mode": "RW",
            "type": "Disk",
            "empty": False,
        }
        c("VBD.create", {**place, "unpluggable": True, **common})
    return c.vm("new")


@pytest.mark.parametrize("release", RELEASES)
def test_a_new_vm_with_a_disk_reports_after_its_start(calls: Make, release: str) -> None:
    """So that waiting for its address ends; its clone has another address."""
    c = calls(release=release, vms=4)
    vm = made(c, disk=True)
    c("VM.start", vm.ref, False, False)
    c.until(lambda: agent(c, "new") is not None)
    assert agent(c, "new")["networks"]["0/ip"] == "10.129.2.3"
    c("VM.clean_shutdown", vm.ref)
    clone = c("VM.clone", vm.ref, "again")
    c("VM.start", clone, False, False)
    assert agent(c, "again") is None
    c.until(lambda: agent(c, "again") is not None)
    assert list(agent(c, "again")["networks"]) == list(agent(c, "new")["networks"])
    assert agent(c, "again")["networks"] != agent(c, "new")["networks"]


def test_a_new_vm_without_a_disk_stays_silent(calls: Make) -> None:
    """There is nothing that an agent could be on."""
    c = calls(release="8.2", vms=4)
    vm = made(c, disk=False)
    c("VM.start", vm.ref, False, False)
    c.sleep(3600)
    assert agent(c, "new") is None


def test_a_guest_without_an_agent_in_a_dump_has_none(calls: Make) -> None:
    """Whatever disks it has; one that has one goes on reporting the addresses of the dump."""
    c = calls(release="8.2", vms=2)
    c.pool.store.write(c.vm("vm01"), guest_metrics="OpaqueRef:NULL")
    c.pool.store.write(agent(c, "vm02"), networks={"0/ip": "192.0.2.7"})
    loaded = type(c)(MockPool.from_dump(database.read(database.write(c.pool.store.dump()))))
    for name in ("vm01", "vm02"):
        loaded("VM.hard_reboot", loaded.vm(name).ref)
    loaded.sleep(3600)
    assert agent(loaded, "vm01") is None
    assert agent(loaded, "vm02")["networks"] == {"0/ip": "192.0.2.7"}


# --- what guests do


@pytest.mark.parametrize("release", RELEASES)
@pytest.mark.parametrize(
    ("event", "field", "value", "state", "anew"),
    [
        ("halt", "actions_after_shutdown", "destroy", "Halted", False),
        ("halt", "actions_after_shutdown", "restart", "Running", True),
        ("reboot", "actions_after_reboot", "restart", "Running", True),
        ("reboot", "actions_after_reboot", "destroy", "Halted", False),
        ("crash", "actions_after_crash", "restart", "Running", True),
        ("crash", "actions_after_crash", "coredump_and_restart", "Running", True),
        ("crash", "actions_after_crash", "coredump_and_destroy", "Halted", False),
        ("crash", "actions_after_crash", "preserve", "Paused", False),
    ],
)
def test_the_vm_says_what_becomes_of_it(
    calls: Make, release: str, event: str, field: str, value: str, state: str, anew: bool
) -> None:
    """It is off, or starts again in a new domain on its host, or is kept for somebody to look at."""
    c = calls(release=release, vms=4)
    vm = c.vm("vm01")
    c.pool.store.write(vm, **{field: value})
    before, host = vm["domid"], vm["resident_on"]
    getattr(c.pool.inside, event)("vm01")
    c.sleep(300)
    assert vm["power_state"] == state
    assert (vm["domid"] not in (before, -1)) == anew
    assert (vm["resident_on"] == host) == (state != "Halted")
    assert all(vbd["currently_attached"] for vbd in c.pool.vbds(vm) if not vbd["empty"]) == (state != "Halted")
    if anew:
        assert metrics(c, "vm01")["start_time"] > "20081201T00:00:00Z"
        assert agent(c, "vm01")["last_updated"] > "20081201T00:00:00Z"
    assert c.unharmed()


def test_a_guest_that_crashes_at_once_stays_off(calls: Make) -> None:
    """It would crash again; one that reboots at once has to wait."""
    c = calls(release="8.2", vms=2)
    for name in ("vm01", "vm02"):
        c("VM.hard_reboot", c.vm(name).ref)
    domid = c.vm("vm02")["domid"]
    c.pool.inside.crash("vm01")
    c.pool.inside.reboot("vm02")
    assert c.vm("vm01")["power_state"] == "Halted"
    c.sleep(14)
    assert c.vm("vm02")["domid"] == domid
    c.sleep(10)
    assert c.vm("vm02")["domid"] != domid


@pytest.mark.parametrize("starts_again", [True, False])
def test_a_protected_guest_that_halts_is_started_again_where_the_pool_says_so(newest: Make, starts_again: bool) -> None:
    """Else it is left alone."""
    c = newest(hosts=2, vms=3)
    c.pool.store.write(c.vm("vm03"), ha_restart_priority="restart", ha_always_run=True)
    c("pool.set_ha_reboot_vm_on_internal_shutdown", c.pool.store.pool().ref, starts_again)
    c("pool.enable_ha", [], {})
    c.pool.inside.halt("vm03")
    assert (c.vm("vm03")["power_state"], c.vm("vm03")["ha_always_run"]) == ("Halted", starts_again)
    c.sleep(600)
    assert c.vm("vm03")["power_state"] == ("Running" if starts_again else "Halted")


def test_a_pool_that_cannot_say_so_starts_them_again(calls: Make) -> None:
    """As those before 25.16 did."""
    c = calls(release="8.2", hosts=2, vms=3)
    c.pool.store.write(c.vm("vm03"), ha_restart_priority="restart", ha_always_run=True)
    c("pool.enable_ha", [], {})
    c.pool.inside.halt("vm03")
    c.sleep(600)
    assert c.vm("vm03")["power_state"] == "Running"


def test_what_happens_while_the_master_is_away_is_written_down_when_it_is_back(calls: Make) -> None:
    """A guest that halted is off then, one that rebooted has another domain."""
    c = calls(release="8.2", hosts=2, vms=4)
    off, again = "vm02", "vm01"
    domid = c.vm(again)["domid"]
    fault = c.pool.faults.add("toolstack_crash", victim="host1", after=1, lasting=20)
    c.sleep(5)
    c.pool.inside.halt(off)
    c.pool.inside.reboot(again)
    assert (c.vm(off)["power_state"], c.vm(again)["domid"]) == ("Running", domid)
    c.sleep(300)
    assert fault.fired == 1
    c = c.back()
    assert c.vm(off)["power_state"] == "Halted"
    assert c.vm(again)["domid"] == c.pool.domain(c.vm(again))[1].domid != domid
    assert agent(c, again)["networks"]


def test_an_agent_reports_what_it_is_told_to(calls: Make) -> None:
    """At once, also one that was not there before; the next start does not change it."""
    c = calls(release="8.2", vms=4)
    c.pool.inside.report("vm01", networks={"0/ip": "10.9.0.1"}, PV_drivers_up_to_date=False)
    assert agent(c, "vm01")["networks"] == {"0/ip": "10.9.0.1"}
    assert agent(c, "vm01")["other"]["feature-shutdown"] == "1"
    assert agent(c, "vm01")["PV_drivers_up_to_date"] is False
    c("VM.hard_reboot", c.vm("vm01").ref)
    assert agent(c, "vm01") is None
    c.sleep(600)
    assert agent(c, "vm01")["networks"] == {"0/ip": "10.9.0.1"}
    vm = made(c, disk=False)
    c("VM.start", vm.ref, False, False)
    c.pool.inside.report("new", os_version={"name": "mine"})
    assert agent(c, "new")["os_version"] == {"name": "mine"}


def test_only_a_guest_that_runs_does_anything(calls: Make) -> None:
    """The error says why it does not, or which VMs there are; nothing was done then."""
    c = calls(release="8.2", vms=6)
    inside = c.pool.inside
    c("VM.pause", c.vm("vm01").ref)
    c.pool.hands.lose_storage("host2", "NFS virtual disk storage")
    for name, why in {
        "vm04": r"vm04 does not run: nobody is in there \(Halted\)",
        "vm06": r"vm06 does not run: nobody is in there \(Suspended\)",
        "vm01": "vm01 is paused: its guest does nothing",
        "vm02": "vm02 waits for its disks: its guest does nothing",
    }.items():
        for act in (inside.halt, inside.reboot, inside.crash, inside.report):
            with pytest.raises(MachineRoomError, match=why):
                act(name)
    with pytest.raises(ValueError, match=r"no VMs are called 'vm9'; there are vm01, vm02, vm03"):
        inside.halt("vm9")
    with pytest.raises(ValueError, match="no agent reports uuid; there are PV_drivers_detected, "):
        inside.report("vm03", uuid="x")
    with pytest.raises(ValueError, match=r"networks is of type .*, not \['x'\]"):
        inside.report("vm03", networks=["x"])
    c.pool.store.write(c.vm("vm05"), name_label="vm03")
    with pytest.raises(ValueError, match="2 VMs are called 'vm03'"):
        inside.halt("vm03")


def test_what_a_guest_did_is_taken_back(calls: Make) -> None:
    """By a savepoint."""
    c = calls(release="8.2", vms=2)
    before = c.vm("vm01")["domid"]
    with c.pool.savepoint():
        c.pool.inside.report("vm02", networks={})
        c.pool.inside.reboot("vm01")
        c.sleep(100)
        assert c.vm("vm01")["domid"] != before
    assert c.vm("vm01")["domid"] == before
    assert agent(c, "vm02")["networks"]
