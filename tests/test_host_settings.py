"""Settings of hosts: names, storage, display and how they are switched on."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

Make = Callable[..., Any]


@pytest.fixture
def c(calls: Make) -> Any:
    return calls(release="8.2", hosts=2, vms=2)


def test_the_iscsi_name_and_multipathing_are_written_in_both_places(c: Any) -> None:
    """In their fields, and in the keys of `other_config` that were there before; no name is refused."""
    host = c.host("host1")
    c("host.set_iscsi_iqn", host.ref, "iqn.2008-12.test:h1")
    c("host.set_multipathing", host.ref, True)
    assert (host["iscsi_iqn"], host["multipathing"]) == ("iqn.2008-12.test:h1", True)
    assert host["other_config"].items() >= {"iscsi_iqn": "iqn.2008-12.test:h1", "multipathing": "true"}.items()
    assert c.refused("host.set_iscsi_iqn", host.ref, "") == ["INVALID_VALUE", "value", ""]


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("", "hostname empty"),
        ("h" * 256, "hostname is too long"),
        ("-h", "hostname contains invalid characters"),
        ("h_1", "hostname contains invalid characters"),
    ],
)
def test_a_name_that_no_host_can_have_is_refused(c: Any, name: str, reason: str) -> None:
    assert c.refused("host.set_hostname_live", c.host("host1").ref, name) == ["HOST_NAME_INVALID", reason]


def test_the_control_domain_is_called_after_its_host(c: Any) -> None:
    """Until somebody gives it a name of its own."""
    host = c.host("host1")
    (dom0,) = [
        vm for vm in c.pool.store.table("VM").values() if vm["is_control_domain"] and vm["resident_on"] == host.ref
    ]
    c("host.set_hostname_live", host.ref, "db.example")
    assert (host["hostname"], dom0["name_label"]) == ("db.example", "Control domain on host: db.example")
    c("VM.set_name_label", dom0.ref, "mine")
    c("host.set_hostname_live", host.ref, "web")
    assert (host["hostname"], dom0["name_label"]) == ("web", "mine")


def test_a_host_caches_on_storage_of_its_own_while_nothing_runs(c: Any) -> None:
    """Refused while it takes VMs or runs some, on storage that others have or that cannot."""
    host = c.host("host1")
    sr = c("SR.create", host.ref, {}, 1 << 40, "cache", "", "ext", "user", False, {})
    ask = ("host.enable_local_storage_caching", host.ref)
    assert c.refused(*ask, sr) == ["HOST_NOT_DISABLED"]
    c("host.disable", host.ref)
    running = [vm.ref for vm in c.pool.store.table("VM").values() if vm["resident_on"] == host.ref and vm["domid"] > 0]
    assert c.refused(*ask, sr)[:3] == ["HOST_IN_USE", host.ref, "vm"]
    for vm in running:
        c("VM.hard_shutdown", vm)
    assert c.refused(*ask, c.row("SR", "NFS virtual disk storage").ref) == ["SR_OPERATION_NOT_SUPPORTED"]
    other = c("SR.create", c.host("host2").ref, {}, 1 << 40, "theirs", "", "ext", "user", False, {})
    assert c.refused(*ask, other) == ["HOST_CANNOT_SEE_SR", host.ref, other]
    c(*ask, sr)
    assert host["local_cache_sr"] == sr and c("SR.get_local_cache_enabled", sr)
    assert (
        c.refused("pool.enable_local_storage_caching", c.pool.store.pool().ref)[0] == "HOSTS_FAILED_TO_ENABLE_CACHING"
    )
    c("host.disable_local_storage_caching", host.ref)
    assert host["local_cache_sr"] == "OpaqueRef:NULL" and not c("SR.get_local_cache_enabled", sr)


def test_a_display_changes_when_the_host_boots(c: Any) -> None:
    """What is asked is undone by asking for the opposite before; a licence may forbid it."""
    host = c.host("host1")
    assert c("host.disable_display", host.ref) == "disable_on_reboot"
    assert c("host.enable_display", host.ref) == "enabled" == host["display"]
    c.pool.store.write(c.pool.store.pool(), restrictions={"restrict_integrated_gpu_passthrough": "true"})
    assert c.refused("host.disable_display", host.ref) == ["FEATURE_RESTRICTED"]


def test_another_way_to_be_switched_on_drops_the_passwords_of_the_one_before(c: Any) -> None:
    secret = c("secret.create", {"value": "hush", "other_config": {}})
    host, uuid = c.host("host2"), c("secret.get_uuid", secret)
    c("host.set_power_on_mode", host.ref, "DRAC", {"power_on_user": "me", "power_on_password_secret": uuid})
    assert (host["power_on_mode"], secret in c("secret.get_all")) == ("DRAC", True)
    c("host.set_power_on_mode", host.ref, "wake-on-lan", {})
    assert (host["power_on_config"], secret in c("secret.get_all")) == ({}, False)


def test_the_management_interface_is_a_pif_of_the_host(c: Any) -> None:
    pif = c("host.get_management_interface", c.host("host2").ref)
    assert c("PIF.get_management", pif) and c("PIF.get_host", pif) == c.host("host2").ref
    assert c("pool.has_extension", c.pool.store.pool().ref, "any") is False


def test_a_host_in_a_domain_keeps_its_name(calls: Make) -> None:
    """Since 5.6."""
    for release, refused in (("5.5", False), ("8.2", True)):
        c = calls(release=release)
        host = c.host("host1")
        c.pool.store.write(host, external_auth_type="AD", external_auth_service_name="example.com")
        if refused:
            error = ["AUTH_ALREADY_ENABLED", "AD", "example.com"]
            assert c.refused("host.set_hostname_live", host.ref, "db") == error
        else:
            c("host.set_hostname_live", host.ref, "db")
        assert (host["hostname"] == "db") is not refused
