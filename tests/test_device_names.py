"""Names of block devices: spelled by clients, and as guests have them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from mockserver.device_names import identity, in_guest

Make = Callable[..., Any]
NULL = "OpaqueRef:NULL"
GIB = 1 << 30


@pytest.mark.parametrize(
    ("spelled", "same"),
    [("0", "0"), ("hda", "0"), ("xvda", "0"), ("sdp", "15"), ("255", "255"), ("xvda1", "0.1"), ("fdb", "fdb")],
)
def test_a_device_may_be_spelled_in_many_ways(spelled: str, same: str) -> None:
    """They are one all the same."""
    assert identity(spelled) == same


@pytest.mark.parametrize("name", ["", "256", "-1", "xvdq", "hvda", "fish", "fdc", "xvda1x"])
def test_other_names_are_none(name: str) -> None:
    assert identity(name) is None


@pytest.mark.parametrize(
    ("release", "vm", "userdevice", "name"),
    [
        ("8.2", "vm03", "0", "xvda"),
        ("6.5", "vm03", "3", "xvdd"),
        ("6.2", "vm03", "3", "hdd"),
        ("6.2", "vm03", "4", "xvde"),
        ("6.2", "vm01", "0", "xvda"),
        ("8.2", "vm01", "hdb", "xvdb"),
        ("8.2", "vm01", "sdb1", "sdb1"),
        ("8.2", "vm01", "26", "xvdaa"),
        ("8.2", "vm03", "fda", "fda"),
    ],
)
def test_a_guest_has_a_name_of_its_own(calls: Make, release: str, vm: str, userdevice: str, name: str) -> None:
    """Disks that the device model shows to fully virtual ones were called otherwise up to 6.2."""
    c = calls(release=release, vms=6)
    assert in_guest(c.vm(vm), userdevice, c.pool.store.release.order) == name


def device(c: Any, vm: Any, number: str) -> Any:
    """A new disk of a VM."""
    told = {"name_label": "new", "name_description": "", "type": "user", "sharable": False, "read_only": False}
    sr = c.row("SR", "NFS virtual disk storage").ref
    vdi = c("VDI.create", {**told, "SR": sr, "virtual_size": GIB, "other_config": {}})
    plain = {"bootable": False, "mode": "RW", "type": "Disk", "empty": False, "other_config": {}}
    more = {"qos_algorithm_type": "", "qos_algorithm_params": {}, "VM": vm.ref, "VDI": vdi, "userdevice": number}
    return c.pool.store.get("VBD", c("VBD.create", {**plain, **more}))


def test_a_device_has_its_name_once_it_is_attached(calls: Make) -> None:
    """By a plug or by a start; it keeps it, and what is measured goes by it."""
    c = calls(release="8.2", vms=6)
    plugged, started = device(c, c.vm("vm01"), "5"), device(c, c.vm("vm04"), "6")
    assert (plugged["device"], started["device"]) == ("", "")
    c("VBD.plug", plugged.ref)
    c("VM.start", c.vm("vm04").ref, False, False)
    assert (plugged["device"], started["device"]) == ("xvdf", "xvdg")
    sources = {source["name_label"] for source in c("VM.get_data_sources", c.vm("vm04").ref)}
    assert "vbd_xvdg_write" in sources
    c("VM.hard_shutdown", c.vm("vm04").ref)
    assert started["device"] == "xvdg"


def test_an_old_name_goes_with_the_next_start(calls: Make) -> None:
    """As of a VM that comes from a release before 6.5."""
    c = calls(release="8.2", vms=6)
    vbd = c.vbd("vm04", "0")
    c.pool.store.write(vbd, device="hda")
    c("VM.start", c.vm("vm04").ref, False, False)
    assert vbd["device"] == "xvda"
