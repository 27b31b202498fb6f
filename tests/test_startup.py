"""Toolstacks that start and stop: emergency mode, crashes, halts, and how belief and machines come together again."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from mockserver import MockPool
from xenctl.errors import Failure
from xenctl.releases import find

Make = Callable[..., Any]
NULL = "OpaqueRef:NULL"


def on(pool: MockPool, host: str, method: str, *args: Any) -> Any:
    return pool.dispatch(method, list(args), pool.machine(host))


def refusal(pool: MockPool, host: str, method: str, *args: Any) -> list[str]:
    with pytest.raises(Failure) as caught:
        on(pool, host, method, *args)
    return caught.value.details


def in_emergency(pool: MockPool, host: str) -> bool:
    session = on(pool, host, "session.slave_local_login_with_password", "root", "secret")
    found: bool = on(pool, host, "host.is_in_emergency_mode", session)
    return found


def live(c: Any, host: str) -> bool:
    return bool(c.pool.store.get("host_metrics", c.host(host)["metrics"])["live"])


# --- when the master goes


@pytest.mark.parametrize("release", ["4.1", "8.2"])
@pytest.mark.parametrize("clean", [True, False])
def test_members_fall_into_emergency_mode_and_come_back_by_themselves(calls: Make, release: str, clean: bool) -> None:
    """At once, whether the master halts or loses power; their guests go on running."""
    c = calls(release=release, hosts=3, vms=3)
    vm, pool = c.vm("vm02"), c.pool
    assert [in_emergency(pool, host) for host in ("host1", "host2", "host3")] == [False] * 3
    if clean:
        c("VM.clean_shutdown", c.vm("vm01").ref)
        c.halt("host1")
    else:
        pool.master.power_off()
    for host in ("host2", "host3"):
        assert in_emergency(pool, host)
        assert refusal(pool, host, "session.login_with_password", "root", "secret") == ["HOST_STILL_BOOTING"]
        assert refusal(pool, host, "VM.get_all", c.session) == ["HOST_STILL_BOOTING"]
    c.sleep(3600)
    assert vm["uuid"] in pool.machine("host2").domains
    pool.hands.power_on("host1")
    c.until(lambda: pool.master_serves)
    assert in_emergency(pool, "host2")
    c.sleep(31)
    assert not in_emergency(pool, "host2")
    c = c.back()
    assert refusal(pool, "host2", "VM.get_all", c.session) == ["HOST_IS_SLAVE", pool.master.address]
    assert all(c.host(h)["enabled"] and live(c, h) for h in ("host1", "host2", "host3"))
    assert (vm["power_state"], vm["resident_on"]) == ("Running", c.host("host2").ref)
    assert c.unharmed()


def test_a_4_0_1_host_has_no_way_in_but_its_console(calls: Make) -> None:
    """Local logins came with 4.1."""
    c = calls(release="4.0.1")
    c.pool.master.power_off()
    local = "session.slave_local_login_with_password"
    assert refusal(c.pool, "host2", local, "root", "secret") == ["SESSION_INVALID", "root"]
    assert refusal(c.pool, "host2", local) == ["MESSAGE_METHOD_UNKNOWN", local]
    for method in ("session.login_with_password", "pool.get_all"):
        assert refusal(c.pool, "host2", method) == ["HOST_STILL_BOOTING"]


def test_a_4_0_1_host_does_not_understand_whether_it_is_a_slave(calls: Make) -> None:
    """By that error newer masters recognise it; newer hosts answer."""
    c = calls(release="4.0.1")
    error = ["MESSAGE_PARAMETER_COUNT_MISMATCH", "pool.is_slave", "0", "1"]
    assert c.refused("pool.is_slave", c.host("host1").ref) == error
    c = calls(release="4.1")
    assert c("pool.is_slave", c.host("host1").ref) is False


def test_a_disabled_host_is_enabled_again_when_its_toolstack_starts(calls: Make) -> None:
    """What a user asked for lives in memory: a restart of the master makes every toolstack start."""
    c = calls(hosts=2, vms=0)
    c("host.disable", c.host("host2").ref)
    c.halt("host1")
    c.pool.hands.power_on("host1")
    c = c.back()
    assert c.host("host2")["enabled"]


def test_a_host_that_starts_cannot_be_enabled_yet(calls: Make) -> None:
    """Its storage is plugged first; then it enables itself."""
    c = calls(release="8.2", hosts=2)
    c.halt("host2")
    c.pool.hands.power_on("host2")
    host, machine = c.host("host2"), c.pool.machine("host2")
    assert c.refused("host.enable", host.ref) == ["HOST_OFFLINE", host.ref]
    c.until(lambda: machine.xapi.mode == "member")
    assert not host["enabled"]
    assert not any(c("PBD.get_currently_attached", pbd) for pbd in host["PBDs"])
    assert c.refused("host.enable", host.ref) == ["HOST_STILL_BOOTING"]
    c.until(lambda: bool(host["enabled"]), limit=60)
    assert all(c("PBD.get_currently_attached", pbd) for pbd in host["PBDs"])
    c("host.disable", host.ref)
    c("host.enable", host.ref)


# --- who may come in


@pytest.mark.parametrize(("release", "newer"), [("4.0.1", "4.1"), ("8.1", "8.2")])
def test_a_member_that_is_newer_than_the_master_never_joins(calls: Make, release: str, newer: str) -> None:
    """It stays in emergency mode, until the master has its release too."""
    c = calls(release=release, hosts=2)
    c.halt("host2")
    c.pool.hands.power_off("host1")
    c.install("host2", newer)
    c.pool.hands.power_on("host1")
    c.sleep(3600)
    c = c.again()
    assert refusal(c.pool, "host2", "session.login_with_password", "root", "secret") == ["HOST_STILL_BOOTING"]
    assert not live(c, "host2")
    assert c.host("host2")["software_version"]["product_version"] == find(release).product_version
    c = c.upgrade("host1", newer)
    c.sleep(60)
    assert (live(c, "host2"), c.pool.machine("host2").xapi.mode) == (True, "member")


def test_since_xenserver_8_such_a_member_says_why(calls: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    """With the version of its toolstack."""
    from mockserver.software import software_version

    c = calls(release="8.4", hosts=2)
    machine = c.pool.machine("host2")
    c.halt("host2")
    later = find("8.4")
    monkeypatch.setattr(machine.system, "release", _later(later))
    c.pool.hands.power_on("host2")
    c.sleep(600)
    version = software_version(later)["xapi_build"]
    assert refusal(c.pool, "host2", "VM.get_all", "x") == ["HOST_XAPI_VERSION_HIGHER_THAN_COORDINATOR", version]


def _later(release: Any) -> Any:
    from dataclasses import replace

    return replace(release, api_version=(2, 99), product_version="9.0.0", version=(9, 0, 0))


def test_a_host_that_the_master_does_not_know_stays_out(calls: Make) -> None:
    """It says with which uuid it asked."""
    c = calls(release="8.2", hosts=2)
    c.halt("host2")
    c.pool.store.delete(c.host("host2"))
    c.pool.hands.power_on("host2")
    c.sleep(600)
    uuid = c.pool.machine("host2").system.installation_uuid
    assert refusal(c.pool, "host2", "VM.get_all", c.session) == ["HOST_UNKNOWN_TO_MASTER", uuid]


# --- hosts that crash and hosts that halt


@pytest.mark.parametrize("release", ["4.0.1", "8.2"])
def test_a_crash_is_noticed_after_ten_minutes(calls: Make, release: str) -> None:
    """No record of a guest changes; they are halted when the host is back."""
    c = calls(release=release, hosts=3, vms=12)
    vm, host = c.vm("vm02"), c.host("host2")
    c.pool.machine("host2").power_off()
    c.sleep(599)
    assert live(c, "host2")
    assert host["enabled"]
    c.sleep(2)
    assert not live(c, "host2")
    assert (vm["power_state"], vm["resident_on"]) == ("Running", host.ref)
    assert c.vbd("vm02", "0")["currently_attached"]
    c.pool.hands.power_on("host2")
    c = c.back()
    assert live(c, "host2")
    assert (vm["power_state"], vm["resident_on"], vm["domid"]) == ("Halted", NULL, -1)
    assert not c.vbd("vm02", "0")["currently_attached"]
    assert c.unharmed()


def test_a_host_that_is_back_in_time_was_never_dead(calls: Make) -> None:
    """Nobody was told that it was away, and nothing happens later."""
    c = calls(release="8.2", hosts=2, vms=0)
    c.pool.machine("host2").power_off()
    c.sleep(60)
    c.pool.hands.power_on("host2")
    c = c.back()
    for _ in range(20):
        c.sleep(60)
        assert live(c, "host2")


def test_a_master_that_starts_grants_everybody_ten_minutes(calls: Make) -> None:
    """A member that went while it was away is noticed that much later."""
    c = calls(release="8.2", hosts=3, vms=0)
    c.pool.master.power_off()
    c.sleep(5)
    c.pool.machine("host3").power_off()
    c.sleep(1000)
    c.pool.hands.power_on("host1")
    c.until(lambda: c.pool.master_serves)
    c.sleep(599)
    assert live(c, "host3")
    c.sleep(2)
    assert (live(c, "host2"), live(c, "host3")) == (True, False)


def test_a_halt_is_known_at_once(calls: Make) -> None:
    """The host says good-bye, and its allowed operations follow."""
    c = calls(release="8.2", hosts=2, vms=0)
    host = c.host("host2")
    c.pool.store.write(host, power_on_mode="wake-on-lan")
    c("host.disable", host.ref)
    assert "shutdown" in host["allowed_operations"]
    c("host.shutdown", host.ref)
    c.sleep(9)
    assert live(c, "host2")
    c.sleep(2)
    assert not live(c, "host2")
    assert "power_on" in host["allowed_operations"]
    assert c.pool.machine("host2").state == "stopping"
    c.sleep(60)
    assert c.pool.machine("host2").state == "off"


def test_a_host_is_disabled_before_it_halts(calls: Make) -> None:
    """Else it is refused; one that is dead cannot be told; one that does not answer neither."""
    c = calls(release="8.2", hosts=2, vms=0)
    host = c.host("host2").ref
    for method in ("host.shutdown", "host.reboot"):
        assert c.refused(method, host) == ["HOST_NOT_DISABLED"]
    c("host.disable", host)
    c.pool.machine("host2").power_off()
    assert c.refused("host.shutdown", host) == ["CANNOT_CONTACT_HOST", host]
    c.sleep(601)
    assert c.refused("host.reboot", host) == ["HOST_OFFLINE", host]


@pytest.mark.parametrize("release", ["4.0.1", "5.6.100"])
@pytest.mark.parametrize("method", ["host.shutdown", "host.reboot"])
def test_up_to_5_6_a_host_with_guests_does_not_halt(calls: Make, release: str, method: str) -> None:
    """The error names one; a paused, suspended or halted guest is none."""
    c = calls(release=release, hosts=2, vms=3)
    host, vm = c.host("host2").ref, c.vm("vm02").ref
    c("host.disable", host)
    assert c.refused(method, host) == ["HOST_IN_USE", host, "vm", vm]
    c("VM.pause", vm)
    c(method, host)


def test_up_to_5_6_disks_of_the_control_domain_keep_a_host_on(calls: Make) -> None:
    """As those of a guest that is backed up through it."""
    c = calls(release="5.5", hosts=2, vms=3)
    host, vm = c.host("host2"), c.vm("vm02")
    c("VM.clean_shutdown", vm.ref)
    c("host.disable", host.ref)
    dom0 = c.row("VM", "Control domain on host: host2")
    disk = c.vbd("vm02", "0")["VDI"]
    fields = {"VM": dom0.ref, "VDI": disk, "userdevice": "7", "currently_attached": True, "type": "Disk", "mode": "RO"}
    vbd = c.pool.store.create("VBD", c.pool.new_ref(), {"uuid": c.pool.new_uuid(), **fields})
    assert c.refused("host.shutdown", host.ref) == ["HOST_IN_USE", host.ref, "vbd", vbd.ref]
    c.pool.store.write(vbd, currently_attached=False)
    c("host.shutdown", host.ref)


def test_a_reboot_comes_back_by_itself(calls: Make) -> None:
    """Halt, firmware, system, toolstack; a second request meanwhile is refused."""
    c = calls(release="4.0.1", hosts=2, vms=0)
    host, machine = c.host("host2"), c.pool.machine("host2")
    c("host.disable", host.ref)
    c("host.reboot", host.ref)
    assert c.refused_at_once("host.reboot", host.ref)[0] == "OTHER_OPERATION_IN_PROGRESS"
    boots, started = machine.boots, c.pool.clock.now()
    c.until(lambda: bool(host["enabled"]))
    d = c.pool.durations
    least = d.shutdown_delay + d.os_shutdown + d.firmware + d.os_boot + d.storage_plug
    assert least <= c.pool.clock.now() - started <= least + 10
    assert machine.boots == boots + 1
    c.sleep(600)
    assert (machine.boots, machine.state) == (boots + 1, "running")
    assert host["other_config"]["boot_time"] > "1228089600."


def test_the_master_can_reboot_itself(calls: Make) -> None:
    """Nobody takes its place; its guests have gone to members, and run on with those."""
    c = calls(release="8.2", hosts=2, vms=4)
    c("host.disable", c.host("host1").ref)
    c("host.reboot", c.host("host1").ref)
    c.until(lambda: not c.pool.master_serves)
    assert not c.pool.master_serves
    c = c.back()
    assert (c.vm("vm01")["power_state"], c.vm("vm02")["power_state"]) == ("Running", "Running")
    assert c.vm("vm01")["resident_on"] == c.host("host2").ref
    assert c.pool.store.pool()["master"] == c.host("host1").ref
    assert c.unharmed()


# --- belief and machines


def test_a_domain_that_is_believed_elsewhere_is_ended(calls: Make) -> None:
    """When its host comes back to the master: nothing runs twice. One that nobody knows goes too."""
    c = calls(release="8.2", hosts=3, vms=3)
    vm, stray = c.vm("vm02"), c.vm("vm03")
    c.pool.master.power_off()
    c.pool.store.write(vm, resident_on=c.host("host3").ref)
    c.pool.store.delete(stray)
    c.pool.hands.power_on("host1")
    disks = [c.pool.disk_of(c.vbd("vm02", "0")["VDI"]), c.pool.disk_of(c.row("VDI", "disk of vm03").ref)]
    assert [len(disk.writers) for disk in disks] == [1, 1]
    c = c.back()
    assert not any(vm["uuid"] in m.domains or stray["uuid"] in m.domains for m in c.pool.machines)
    assert [len(disk.writers) for disk in disks] == [0, 0]
    assert vm["power_state"] == "Halted"


def test_a_domain_that_is_believed_nowhere_is_found(calls: Make) -> None:
    """It runs where it runs, and says so."""
    c = calls(release="8.2", hosts=2, vms=2)
    vm = c.vm("vm02")
    c.pool.master.power_off()
    c.pool.store.write(vm, resident_on=NULL, power_state="Halted", domid=-1)
    c.pool.hands.power_on("host1")
    c = c.back()
    domain = c.pool.machine("host2").domains[vm["uuid"]]
    assert (vm["power_state"], vm["resident_on"], vm["domid"]) == ("Running", c.host("host2").ref, domain.domid)
    assert "clean_shutdown" in vm["allowed_operations"]


def test_a_vm_on_a_host_that_is_no_more_is_halted(calls: Make) -> None:
    """When the master starts."""
    c = calls(release="8.2", hosts=2, vms=2)
    vm = c.vm("vm02")
    c.pool.machine("host2").power_off()
    c.pool.store.delete(c.host("host2"))
    c.pool.master.power_off()
    c.pool.hands.power_on("host1")
    c.until(lambda: c.pool.master_serves)
    assert (vm["power_state"], vm["resident_on"]) == ("Halted", NULL)


def test_suspended_vms_and_their_images_are_left_alone(calls: Make) -> None:
    """They are nowhere, and resume after any restart."""
    c = calls(release="4.1", hosts=2, vms=6)
    vm = c.vm("vm06")
    image = vm["suspend_VDI"]
    c.pool.master.power_off()
    c.pool.machine("host2").power_off()
    for host in ("host1", "host2"):
        c.pool.hands.power_on(host)
    c = c.back()
    assert (vm["power_state"], vm["suspend_VDI"]) == ("Suspended", image)
    c("VM.resume", vm.ref, False, False)
    assert c.unharmed()


def test_a_guest_that_booted_while_nobody_listened_is_heard_later(calls: Make) -> None:
    """Its agent reports when its host has found the master again."""
    c = calls(release="8.2", hosts=2, vms=4)
    vm = c.vm("vm04")
    c("VM.start_on", vm.ref, c.host("host2").ref, False, False)
    c.pool.master.power_off()
    c.sleep(60)
    assert vm["guest_metrics"] == NULL
    c.pool.hands.power_on("host1")
    c = c.back()
    assert vm["guest_metrics"] != NULL


def test_up_to_5_5_a_restart_makes_the_metrics_of_hosts_anew(calls: Make) -> None:
    """They were not kept; each host is thought dead until it greets."""
    c = calls(release="4.0.1", hosts=2)
    before = c.host("host2")["metrics"]
    c.pool.master.power_off()
    c.pool.hands.power_on("host1")
    c.until(lambda: c.pool.master_serves)
    assert c.host("host2")["metrics"] != before
    assert not live(c, "host2")
    c = c.back()
    assert live(c, "host2")
    memory = c.pool.store.get("host_metrics", c.host("host2")["metrics"])["memory_total"]
    assert memory == c.pool.machine("host2").memory
