"""What is done to hosts: disabled, enabled, told to shut down."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

Make = Callable[..., Any]


def test_a_host_that_is_away_is_not_disabled(calls: Make) -> None:
    """The host itself does it, so it must live and answer."""
    c = calls(release="8.2")
    host, machine = c.host("host2"), c.pool.machine("host2")
    machine.power_off()
    assert c.refused("host.disable", host.ref) == ["CANNOT_CONTACT_HOST", host.ref]
    c.until(lambda: not c("host_metrics.get_live", host["metrics"]))
    assert c.refused("host.disable", host.ref) == ["HOST_OFFLINE", host.ref]
    assert host["enabled"]


def test_a_host_that_is_away_is_asked_in_vain_for_the_time(calls: Make) -> None:
    """By its own clock; how it was managed the master knows."""
    c = calls(release="8.2")
    host = c.host("host2")
    c("host.get_servertime", host.ref)
    c.pool.machine("host2").power_off()
    assert c.refused("host.get_servertime", host.ref) == ["CANNOT_CONTACT_HOST", host.ref]
    assert c("PIF.get_host", c("host.get_management_interface", host.ref)) == host.ref


def test_a_host_that_is_enabled_is_left_alone(calls: Make) -> None:
    """What stands against enabling it counts only once it is disabled."""
    c = calls(release="8.4")
    host = c.host("host2")
    c.pool.store.write(host, pending_guidances=["reboot_host"])
    c("host.enable", host.ref)
    c("host.disable", host.ref)
    assert c.refused("host.enable", host.ref) == ["HOST_PENDING_MANDATORY_GUIDANCE_NOT_EMPTY", host.ref]


def test_a_host_that_is_updated_is_not_enabled(calls: Make) -> None:
    """Since XenServer 8 enabling is an operation, which updates exclude."""
    c = calls(release="8.4")
    host = c.host("host2")
    c("host.disable", host.ref)
    c.pool.store.write(host, current_operations={"task": "apply_updates"})
    assert c.refused_at_once("host.enable", host.ref)[:3] == ["OTHER_OPERATION_IN_PROGRESS", "host", host.ref]


@pytest.mark.parametrize("method", ["host.shutdown", "host.reboot"])
@pytest.mark.parametrize("name", ["host1", "host2"])
def test_a_host_that_was_told_to_stop_shows_it(calls: Make, method: str, name: str) -> None:
    """Also when the call is over, and until it is back: as a shutdown, whatever it was."""
    c = calls(release="8.2")
    host, machine = c.host(name), c.pool.machine(name)
    c("host.disable", host.ref)
    c(method, host.ref)
    assert list(host["current_operations"].values()) == ["shutdown"]
    assert "reboot" not in host["allowed_operations"]
    assert c.refused_at_once("host.reboot", host.ref)[:4] == [
        "OTHER_OPERATION_IN_PROGRESS",
        "host",
        host.ref,
        "shutdown",
    ]
    c.until(lambda: machine.xapi.mode not in ("master", "member"))
    assert list(host["current_operations"].values()) == ["shutdown"]
    if method == "host.shutdown":
        c.until(lambda: machine.state == "off")
        machine.power_on()
    c.until(lambda: machine.xapi.complete)
    host = c.host(name)
    assert (host["current_operations"], host["enabled"]) == ({}, True)


@pytest.mark.parametrize("release", ["6.2", "8.4"])
def test_guests_leave_a_host_that_goes_down(calls: Make, release: str) -> None:
    """Since 6.0 those that can go on elsewhere; the others are shut down."""
    c = calls(release=release, hosts=2, vms=12)
    host, machine = c.host("host2"), c.pool.machine("host2")
    there = [vm for vm in c.pool.store.rows("VM", host["resident_VMs"]) if not vm["is_control_domain"]]
    assert len(there) > 1
    paused, others = there[0], there[1:]
    c("VM.pause", paused.ref)
    c("host.disable", host.ref)
    c("host.reboot", host.ref)
    c.until(lambda: not machine.answers)
    assert paused["power_state"] == "Halted"
    for vm in others:
        assert (vm["power_state"], vm["resident_on"]) == ("Running", c.host("host1").ref)
    c.until(lambda: machine.xapi.complete)
    assert c("task.get_all") == [] and c.unharmed()
