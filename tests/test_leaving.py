"""Emptying hosts: what each release asks of guests before it plans to move them, and what it says."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

Make = Callable[..., Any]
VSN = ("major", "minor", "micro")


def told(c: Any, vm: Any, version: str) -> Any:
    """Have the agent in a guest report drivers of a version; returns its row."""
    agent = c.pool.store.get("VM_guest_metrics", vm["guest_metrics"])
    c.pool.store.write(agent, PV_drivers_version=dict(zip(VSN, version.split("."), strict=False)) if version else {})
    return agent


def kept(c: Any, host: str = "host1") -> dict[str, list[str]]:
    """The guests that the pool would not move from a host, and why."""
    found = c("host.get_vms_which_prevent_evacuation", c.host(host).ref)
    return {c.pool.store.get("VM", ref)["name_label"]: error for ref, error in found.items()}


OLD, NONE = "VM_OLD_PV_DRIVERS", "VM_MISSING_PV_DRIVERS"


@pytest.mark.parametrize(
    ("release", "version", "pv", "hvm"),
    [
        ("5.5", "5.5.0", "", ""),
        ("5.5", "5.6.0", "", ""),
        *(("5.5", version, OLD, OLD) for version in ("5.0.0", "5.4.9", "5.5")),
        ("5.5", "", NONE, NONE),
        ("5.6", "5.5.0", OLD, OLD),
        ("5.6.100", "5.6.0", OLD, OLD),
        ("6.0", "4.0.1", "", ""),
        ("6.0", "3.2.0", NONE, ""),
        ("6.0", "", NONE, ""),
        ("6.1", "4.0.1", "", ""),
        *(("6.1", version, "", NONE) for version in ("3.2.0", "")),
        *(("6.5", version, "", NONE) for version in ("3.2.0", "")),
    ],
)
def test_each_release_asks_for_drivers_of_its_own_kind(
    calls: Make, release: str, version: str, pv: str, hvm: str
) -> None:
    """Up to 5.6 Feature Pack 1 for its own in every guest; the plan is all or nothing."""
    c = calls(release=release, hosts=2, vms=4)
    first, second = c.vm("vm01"), c.vm("vm03")
    c.pool.store.write(second, HVM_boot_policy="BIOS order")
    assert first["resident_on"] == second["resident_on"] == c.host("host1").ref
    wanted: dict[str, list[str]] = {}
    for vm, code in ((first, pv), (second, hvm)):
        agent = told(c, vm, version)
        if code:
            which = agent.ref if code == OLD and release in ("5.5", "5.6") else vm.ref
            parts = [*version.split("."), "-1"][:3] if code == OLD else []
            wanted[vm["name_label"]] = [code, which, *parts]
    assert kept(c) == wanted
    if wanted:
        assert c.refused("host.evacuate", c.host("host1").ref)[0] in {error[0] for error in wanted.values()}
        code, text = c.refused("host.assert_can_evacuate", c.host("host1").ref)
        assert code == "CANNOT_EVACUATE_HOST"
        assert set(text.split("|")) == {",".join(error) for error in wanted.values()}
    else:
        c("host.evacuate", c.host("host1").ref)
        assert not [vm for vm in (first, second) if vm["resident_on"] == c.host("host1").ref]


def test_a_guest_may_migrate_where_its_host_cannot_be_emptied(calls: Make) -> None:
    """Drivers of an older release are good enough for that, as long as versions are mixed above all."""
    c = calls(release="5.5", hosts=2, vms=4)
    vm = c.vm("vm01")
    told(c, vm, "5.0.0")
    assert kept(c)["vm01"][0] == OLD
    c("VM.pool_migrate", vm.ref, c.host("host2").ref, {})
    assert vm["resident_on"] == c.host("host2").ref


@pytest.mark.parametrize(
    ("release", "code"),
    [("5.5", "HOST_NOT_ENOUGH_FREE_MEMORY"), ("5.6.100", "HOST_NOT_ENOUGH_FREE_MEMORY"), ("6.0", "NO_HOSTS_AVAILABLE")],
)
def test_where_no_host_can_take_guests(calls: Make, release: str, code: str) -> None:
    """Memory was all that was looked for."""
    c = calls(release=release, hosts=2, vms=4)
    c("host.disable", c.host("host2").ref)
    assert {tuple(error) for error in kept(c).values()} == {(code, c.vm(name).ref) for name in ("vm01", "vm03")}


@pytest.mark.parametrize("release", ["6.1", "6.2"])
def test_a_paused_guest_is_planned_for_up_to_6_1(calls: Make, release: str) -> None:
    """And is then found to stay; since 6.2 it is told of before anything moves."""
    c = calls(release=release, hosts=2, vms=4)
    vm, host = c.vm("vm01"), c.host("host1").ref
    c("VM.pause", vm.ref)
    assert list(kept(c)) == ([] if release == "6.1" else ["vm01"])
    assert c.refused("host.evacuate", host) == ["VM_BAD_POWER_STATE", vm.ref, "running", "paused"]


@pytest.mark.parametrize(("release", "after"), [("6.1", "VM_BAD_POWER_STATE"), ("6.2", "")])
def test_a_guest_that_stops_meanwhile_is_in_nobodys_way_since_6_2(calls: Make, release: str, after: str) -> None:
    """Before, emptying the host ended there."""
    c = calls(release=release, hosts=2, vms=6)
    host = c.host("host1")
    there = [c.vm(f"vm{number:02}") for number in (1, 3, 5)]
    running = [vm for vm in there if vm["resident_on"] == host.ref and vm["power_state"] == "Running"]
    task = c.start("host.evacuate", host.ref)
    waiting = [vm for vm in running if not vm["current_operations"]]
    assert waiting
    c("VM.hard_shutdown", waiting[0].ref)
    c.until(lambda: task["status"] != "pending")
    assert task["error_info"][:1] == ([after] if after else [])


@pytest.mark.parametrize(("release", "going"), [("5.6.100", "provision"), ("6.0", "vm_start")])
def test_up_to_5_6_whatever_was_done_to_a_host_kept_it_from_being_emptied(
    calls: Make, release: str, going: str
) -> None:
    """Since 6.0 only what places guests on it, and what empties it."""
    c = calls(release=release, hosts=2, vms=4)
    host = c.host("host1")
    c("host.disable", host.ref)
    c.pool.store.write(host, current_operations={"OpaqueRef:x": going})
    c.pool.freshen()
    exclusive = {"evacuate", "reboot", "shutdown"} & set(host["allowed_operations"])
    assert exclusive == (set() if release == "5.6.100" else {"evacuate", "reboot", "shutdown"})
    c.pool.store.write(host, current_operations={"OpaqueRef:x": "evacuate"})
    c.pool.freshen()
    assert "provision" not in host["allowed_operations"]


@pytest.mark.parametrize("release", ["5.5", "7.4", "7.5"])
def test_a_host_that_was_told_to_go_down_stays_disabled_up_to_7_4(calls: Make, release: str) -> None:
    """From the call on; later releases see to that on their way down."""
    c = calls(release=release, hosts=2, vms=0)
    host = c.host("host2")
    c("host.disable", host.ref)
    c("host.reboot", host.ref)
    if release == "7.5":
        c("host.enable", host.ref)
    else:
        assert c.refused("host.enable", host.ref) == ["HOST_DISABLED_UNTIL_REBOOT"]
    machine = c.pool.machine("host2")
    c.until(lambda: not machine.answers)
    c.until(lambda: machine.xapi.complete)
    assert host["enabled"] and not machine.stays_disabled


@pytest.mark.parametrize(("release", "params"), [("8.2", 0), ("8.4", 1)])
def test_a_host_that_stays_disabled_names_itself_in_newer_releases(calls: Make, release: str, params: int) -> None:
    """Since XenServer 8."""
    c = calls(release=release, hosts=2, vms=0)
    host = c.host("host2")
    c("host.disable", host.ref)
    c("host.prepare_for_poweroff", host.ref)
    assert c.refused("host.enable", host.ref) == ["HOST_DISABLED_UNTIL_REBOOT", *[host.ref] * params]
