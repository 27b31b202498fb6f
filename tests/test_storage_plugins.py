"""The plugins that come with the storage manager: what they look at, and how they answer."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from lxml import etree

Make = Callable[..., Any]
HERE, NFS = "Local storage on host1", "NFS virtual disk storage"


def told(answer: str) -> dict[str, str]:
    """The errors in an answer of `trim`."""
    pairs = etree.fromstring(answer.encode()).findall("key_value_pair")
    return {str(pair.findtext("key")): str(pair.findtext("value")) for pair in pairs}


def trim(c: Any, sr: Any, host: str = "host1") -> str:
    return str(c("host.call_plugin", c.host(host).ref, "trim", "do_trim", {"sr_uuid": sr["uuid"]}))


# --- trim


@pytest.mark.parametrize("release", ["6.5", "8.2"])
def test_storage_says_when_it_was_trimmed_last(calls: Make, release: str) -> None:
    """And nothing else; a second time replaces the first."""
    c = calls(release=release)
    sr = c.row("SR", HERE)
    before = sr["physical_utilisation"]
    for _ in range(2):
        c.sleep(60)
        assert trim(c, sr) == "True"
        assert sr["other_config"]["trim_last_triggered"] == f"{c.pool.clock.now():.2f}"
    assert sr["physical_utilisation"] == before


def test_only_storage_in_logical_volumes_is_trimmed(calls: Make) -> None:
    """Any other is left as it is."""
    c = calls(release="8.2")
    sr = c.row("SR", NFS)
    assert told(trim(c, sr)) == {
        "errcode": "UnsupportedSRForTrim",
        "errmsg": f"Trim on [{sr['uuid']}] not supported",
    }
    assert "trim_last_triggered" not in sr["other_config"]


@pytest.mark.parametrize(("release", "code"), [("7.0", "UnknownTrimException"), ("7.1", "Trim failed on full SR")])
def test_full_storage_cannot_be_trimmed(calls: Make, release: str, code: str) -> None:
    """Since 7.1 with a reason; that it was tried is noted all the same."""
    c = calls(release=release)
    sr = c.row("SR", HERE)
    c.pool.store.write(sr, physical_utilisation=sr["physical_size"] - (1 << 20))
    assert told(trim(c, sr))["errcode"] == code
    assert "trim_last_triggered" in sr["other_config"]


def test_a_host_cannot_trim_what_it_does_not_see(calls: Make) -> None:
    """Nor what there is not."""
    c = calls(release="8.2")
    sr = c.row("SR", HERE)
    assert told(trim(c, sr, "host2")) == {
        "errcode": "UnknownTrimException",
        "errmsg": f"Unknown Exception: trim failed on SR [{sr['uuid']}]",
    }
    asked = ("host.call_plugin", c.host("host1").ref, "trim", "do_trim")
    failed = ["XENAPI_PLUGIN_FAILURE", "do_trim", "Failure"]
    assert c.refused(*asked, {"sr_uuid": "x"}) == [*failed, "['UUID_INVALID', 'SR', 'x']"]
    assert c.refused(*asked, {}) == ["XENAPI_PLUGIN_FAILURE", "do_trim", "KeyError", "'sr_uuid'"]


def test_trim_came_with_6_5(calls: Make) -> None:
    """With a capability of storage."""
    c = calls(release="6.2")
    asked = ("host.call_plugin", c.host("host1").ref, "trim", "do_trim", {"sr_uuid": "x"})
    assert c.refused(*asked) == ["XENAPI_MISSING_PLUGIN", "trim"]
    for release, has in (("6.2", False), ("6.5", True)):
        c = calls(release=release)
        able = {row["type"] for row in c.pool.store.table("SM").values() if "SR_TRIM" in row["capabilities"]}
        assert able == ({"lvm", "lvmoiscsi", "lvmohba"} if has else set())


# --- coalesce-leaf


def coalesce(c: Any, vm: str, host: str = "host1") -> tuple[Any, ...]:
    return "host.call_plugin", c.host(host).ref, "coalesce-leaf", "leaf-coalesce", {"vm_uuid": c.vm(vm)["uuid"]}


def disk_here(c: Any, vm: str) -> None:
    """Give a VM a disk on the local storage of the first host."""
    record = {"name_label": "data", "name_description": "", "SR": c.row("SR", HERE).ref, "virtual_size": 1 << 30}
    vdi = c("VDI.create", {**record, "type": "user", "sharable": False, "read_only": False, "other_config": {}})
    vbd = {"VM": c.vm(vm).ref, "VDI": vdi, "userdevice": "5", "bootable": False, "mode": "RW", "type": "Disk"}
    vbd |= {"empty": False, "other_config": {}, "qos_algorithm_type": "", "qos_algorithm_params": {}}
    c("VBD.create", vbd)


def test_a_vm_has_nothing_that_destroyed_snapshots_have_left(calls: Make) -> None:
    """It runs on."""
    c = calls(release="8.2", vms=4)
    disk_here(c, "vm01")
    domid = c.vm("vm01")["domid"]
    snapshot = c("VM.snapshot", c.vm("vm01").ref, "s")
    c("VM.destroy", snapshot)
    assert c(*coalesce(c, "vm01")) == "VM has no leaf-coalesceable VDIs"
    assert (c.vm("vm01")["power_state"], c.vm("vm01")["domid"]) == ("Running", domid)


def test_only_the_host_that_has_the_say_can_look(calls: Make) -> None:
    """Any other names it; storage that is not attached has none."""
    c = calls(release="8.2", vms=4)
    disk_here(c, "vm04")
    sr = c.row("SR", HERE)
    begin = f"VM has no leaf-coalesceable VDIs\nNote:\nUnable to check VDIs on SR {sr['uuid']} because "
    failed = ["XENAPI_PLUGIN_FAILURE", "leaf-coalesce", "Exception"]
    there = f"this host is not its master. Run on host {c.host('host1')['uuid']} to check that SR"
    assert c.refused(*coalesce(c, "vm04", "host2")) == [*failed, begin + there]
    c("PBD.unplug", sr["PBDs"][0])
    assert c.refused(*coalesce(c, "vm04")) == [*failed, begin + "it is not attached"]


def test_a_vm_that_there_is_not_is_not_found(calls: Make) -> None:
    """The plugin came with 5.6."""
    c = calls(release="5.6")
    asked = ("host.call_plugin", c.host("host1").ref, "coalesce-leaf", "leaf-coalesce", {"vm_uuid": "x"})
    assert c.refused(*asked) == ["XENAPI_PLUGIN_FAILURE", "leaf-coalesce", "Exception", "VM not found"]
