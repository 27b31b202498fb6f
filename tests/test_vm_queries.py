"""What VMs tell of themselves, and what is asked of the software in them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

Make = Callable[..., Any]
NULL = "OpaqueRef:NULL"


@pytest.fixture
def c(calls: Make) -> Any:
    return calls(release="8.2", hosts=2, vms=12)


def test_free_devices_are_those_that_nothing_has(c: Any) -> None:
    """A device called by a letter has a number, too."""
    vm = c.vm("vm02")
    free = c("VM.get_allowed_VBD_devices", vm.ref)
    assert (free[:3], len(free)) == (["1", "2", "4"], 253)
    assert c("VM.get_allowed_VIF_devices", vm.ref) == ["1", "2", "3", "4", "5", "6"]
    dom0 = c.vm("Control domain on host: host1").ref
    assert len(c("VM.get_allowed_VBD_devices", dom0)) == 256


def test_later_releases_take_more_interfaces(calls: Make, newest: Make) -> None:
    """XenServer 8 takes as many as releases before it."""
    for c, limit in ((calls(release="8.4", vms=6), 7), (newest(vms=6), 16)):
        free = c("VM.get_allowed_VIF_devices", c.vm("vm02").ref)
        assert free == [str(number) for number in range(1, limit)]


def test_there_were_fewer_devices_once(calls: Make) -> None:
    """Fewest for a guest without drivers."""
    c = calls(release="6.2", vms=3)
    hvm, pv = c.vm("vm03"), c.vm("vm02")
    assert len(c("VM.get_allowed_VBD_devices", pv.ref)) == 14
    c.pool.store.write(c.pool.store.get("VM_guest_metrics", hvm["guest_metrics"]), PV_drivers_version={})
    assert c("VM.get_allowed_VBD_devices", hvm.ref) == ["1", "2"]
    assert c("VM.get_allowed_VIF_devices", hvm.ref) == ["1", "2", "3"]


def test_a_boot_record_is_of_a_vm_that_booted(c: Any) -> None:
    """And not of one that is off."""
    vm = c.vm("vm02")
    assert c("VM.get_boot_record", vm.ref)["uuid"] == vm["uuid"]
    assert c.refused("VM.get_boot_record", c.vm("vm04").ref)[2] == "paused, suspended, running"


def test_what_is_measured_of_a_running_vm(c: Any) -> None:
    """Some of it only where somebody asks for it."""
    vm = c.vm("vm02")
    sources = {source["name_label"]: source for source in c("VM.get_data_sources", vm.ref)}
    assert {"cpu0", "memory", "vbd_xvda_write", "vif_0_rx"} <= set(sources)
    assert set(sources["cpu0"]) == set(c.pool.store.model.classes["data_source"].fields)
    assert not sources["memory_target"]["enabled"]
    assert c("VM.query_data_source", vm.ref, "memory") == vm["memory_static_max"]
    unknown = ["INTERNAL_ERROR", 'Rrd.Invalid_data_source("memory_target")']
    assert c.refused("VM.query_data_source", vm.ref, "memory_target") == unknown
    c("VM.record_data_source", vm.ref, "memory_target")
    assert c("VM.query_data_source", vm.ref, "memory_target") > 0
    c("VM.forget_data_source_archives", vm.ref, "memory_target")
    assert c.refused("VM.query_data_source", vm.ref, "memory_target") == unknown
    assert c.refused("VM.record_data_source", vm.ref, "nothing")[0] == "INTERNAL_ERROR"
    halted = c.vm("vm04").ref
    assert c.refused("VM.query_data_source", halted, "memory") == [
        *("VM_BAD_POWER_STATE", halted, "running;paused", "halted"),
    ]
    c("VM.pause", vm.ref)
    assert c("VM.query_data_source", vm.ref, "cpu0") == 0.0


def test_a_guest_that_can_is_told_to_serve_desktops(c: Any) -> None:
    """Another plugin is not there; scripts are not run; and it is not asked again so soon."""
    vm = c.vm("vm02")
    call = ("VM.call_plugin", vm.ref)
    assert c.refused(*call, "mine", "x", {}) == ["XENAPI_MISSING_PLUGIN", "mine"]
    assert c.refused(*call, "guest-agent-operation", "x", {})[:2] == ["XENAPI_PLUGIN_FAILURE", "failed to find fn"]
    c.sleep(4)
    error = ["VM_CALL_PLUGIN_RATE_LIMIT", vm.ref, "10.", "6."]
    assert c.refused(*call, "guest-agent-operation", "run-script", {}) == error
    c.sleep(6)
    assert c.refused(*call, "guest-agent-operation", "run-script", {}) == ["FEATURE_RESTRICTED"]
    c.sleep(10)
    refused = c.refused(*call, "guest-agent-operation", "request-rdp-on", {})
    assert refused[:2] == ["XENAPI_PLUGIN_FAILURE", "failed to execute fn"]
    agent = c.pool.store.get("VM_guest_metrics", vm["guest_metrics"])
    c.pool.store.write(agent, other={**agent["other"], "feature-ts2": "1"})
    c.sleep(10)
    assert c(*call, "guest-agent-operation", "request-rdp-on", {}) == ""
    assert agent["other"]["data-ts"] == "1"


@pytest.mark.parametrize(("name", "args"), [("send_sysrq", ["h"]), ("send_trigger", ["nmi"])])
def test_xapi_itself_cannot_do_some_things(c: Any, name: str, args: list[str]) -> None:
    """It says so after it looked at the power state."""
    halted = c.vm("vm04").ref
    assert c.refused(f"VM.{name}", halted, *args) == ["VM_BAD_POWER_STATE", halted, "running", "halted"]
    assert c.refused(f"VM.{name}", c.vm("vm02").ref, *args) == ["NOT_IMPLEMENTED", name]


def test_only_a_system_domain_offers_services(c: Any) -> None:
    """Which ones nobody can tell."""
    vm = c.vm("vm02")
    assert c.refused("VM.query_services", vm.ref) == ["NOT_SYSTEM_DOMAIN", vm.ref]
    c("VM.add_to_other_config", vm.ref, "is_system_domain", "true")
    assert c.refused("VM.query_services", vm.ref) == ["NOT_IMPLEMENTED", "query_services"]


def test_a_vm_is_agile_that_every_host_can_run(c: Any) -> None:
    """Its disks must be on shared storage that each of them has."""
    vm = c.vm("vm04")
    c("VM.assert_agile", vm.ref)
    vdi = c.pool.store.get("VDI", c.vbd("vm04", "0")["VDI"])
    local = c.row("SR", "Local storage on host1")
    c.pool.store.write(vdi, SR=local.ref)
    assert c.refused("VM.assert_agile", vm.ref) == ["HA_CONSTRAINT_VIOLATION_SR_NOT_SHARED", local.ref]


def test_a_vm_can_be_recovered_where_its_storage_is(c: Any) -> None:
    """What is not plugged anywhere is named."""
    vm, sr = c.vm("vm04"), c.row("SR", "NFS virtual disk storage")
    assert c("VM.get_SRs_required_for_recovery", vm.ref, c.session) == []
    c("VM.assert_can_be_recovered", vm.ref, c.session)
    for pbd in sr["PBDs"]:
        c.pool.store.write(c.pool.store.get("PBD", pbd), currently_attached=False)
    assert c("VM.get_SRs_required_for_recovery", vm.ref, c.session) == [sr.ref]
    assert c.refused("VM.assert_can_be_recovered", vm.ref, c.session) == ["VM_REQUIRES_SR", vm.ref, sr.ref]
    assert c.refused("VM.assert_can_be_recovered", vm.ref, "OpaqueRef:x") == ["SESSION_INVALID", "OpaqueRef:x"]


def test_without_a_balancing_server_there_is_no_advice(c: Any) -> None:
    """Nor where it is switched off or does not answer."""
    vm, pool = c.vm("vm04").ref, c.pool.store.pool()
    for fields, code in (
        ({}, "WLB_NOT_INITIALIZED"),
        ({"wlb_url": "wlb:8012"}, "WLB_DISABLED"),
        ({"wlb_enabled": True}, "WLB_CONNECTION_REFUSED"),
    ):
        c.pool.store.write(pool, **fields)
        assert c.refused("VM.retrieve_wlb_recommendations", vm) == [code]


def test_whether_a_guest_could_boot_securely(newest: Make) -> None:
    """As far as can be told without its certificates."""
    c = newest(vms=4)
    vm = c.vm("vm04")
    told = []
    for fields in (
        {},
        {"HVM_boot_params": {"firmware": "uefi"}},
        {"platform": {"secureboot": "true"}},
    ):
        c.pool.store.write(vm, **fields)
        told.append(c("VM.get_secureboot_readiness", vm.ref))
    assert told == ["not_supported", "disabled", "first_boot"]
    c.pool.store.write(vm, NVRAM={"EFI-variables": "AAAA"})
    assert c.refused("VM.get_secureboot_readiness", vm.ref)[0] == "NOT_IMPLEMENTED"


def test_what_the_fake_cannot_do_it_refuses(c: Any) -> None:
    """Nothing succeeds without doing what it says."""
    sr = c.row("SR", "NFS virtual disk storage").ref
    convert = c.refused("VM.import_convert", "vmware", "root", "secret", sr, {})
    assert convert == ["NOT_IMPLEMENTED", "VM.import_convert"]
