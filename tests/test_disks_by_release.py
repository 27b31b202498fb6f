"""What could be done to disks in older releases, and what was said against it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from mockserver import storage_rules

Make = Callable[..., Any]


def pool(calls: Make, release: str) -> Any:
    return calls(release=release, hosts=1, vms=4)


def refusal(c: Any, vdi: Any, operation: str) -> list[str] | None:
    """What forbids an operation; the list of those allowed says the same."""
    error = storage_rules.vdi_refused(c.pool.store, vdi, operation)
    if operation in storage_rules.vdi_operations(c.pool.store.release):
        c.pool.settle("test")
        assert (operation in vdi["allowed_operations"]) == (error is None)
    return error.details if error else None


def free_disk(c: Any, **fields: Any) -> Any:
    """The disk of a VM that is halted."""
    vdi = c.row("VDI", "disk of vm04")
    c.pool.store.write(vdi, **fields)
    return vdi


@pytest.mark.parametrize(
    ("release", "destroy", "clone"), [("5.6", True, True), ("6.2", True, True), ("6.5", False, False)]
)
def test_copies_kept_others_away(calls: Make, release: str, destroy: bool, clone: bool) -> None:
    """Up to 6.2; since then only what the disks' use forbids is forbidden."""
    c = pool(calls, release)
    vdi = free_disk(c, current_operations={"task": "copy"})
    busy = ["OTHER_OPERATION_IN_PROGRESS", "VDI", vdi.ref]
    assert refusal(c, vdi, "destroy") == (busy if destroy else None)
    assert refusal(c, vdi, "clone") == (busy if clone else None)


@pytest.mark.parametrize(("release", "passes"), [("6.5", True), ("7.0", False)])
def test_snapshots_of_what_is_copied(calls: Make, release: str, passes: bool) -> None:
    """Refused since 7.0."""
    c = pool(calls, release)
    vdi = free_disk(c, current_operations={"task": "copy"})
    text = "Snapshot operation not allowed during copy."
    assert refusal(c, vdi, "snapshot") == (None if passes else ["OPERATION_NOT_ALLOWED", text])


@pytest.mark.parametrize(("release", "passes"), [("7.0", False), ("7.1", True)])
def test_a_mirror_lets_its_disk_be_destroyed(calls: Make, release: str, passes: bool) -> None:
    """Since 7.1, where a move of a disk does it itself."""
    c = pool(calls, release)
    vdi = free_disk(c, current_operations={"task": "mirror"})
    assert (refusal(c, vdi, "destroy") is None) == passes


@pytest.mark.parametrize(("release", "passes"), [("6.0", True), ("6.1", False)])
def test_storage_that_nobody_has_plugged(calls: Make, release: str, passes: bool) -> None:
    """Its disks are told not to grow since 6.1, by the list; before, the verb found out."""
    c = pool(calls, release)
    vdi = free_disk(c)
    for pbd in c.pool.store.rows("PBD", c.pool.store.get("SR", vdi["SR"])["PBDs"]):
        c.pool.store.write(pbd, currently_attached=False)
    assert refusal(c, vdi, "resize") == (None if passes else ["SR_HAS_NO_PBDS", vdi["SR"]])


@pytest.mark.parametrize(("release", "passes"), [("5.6", False), ("6.1", False), ("6.2", True)])
def test_what_is_only_read_is_copied(calls: Make, release: str, passes: bool) -> None:
    """Since 6.2; before, no disk in use was, and up to 6.0 the error does not say for what."""
    c = pool(calls, release)
    vdi, vbd = c.row("VDI", "disk of vm01"), c.vbd("vm01", "0")
    in_use = ["VDI_IN_USE", vdi.ref, *(["copy"] if release != "5.6" else [])]
    assert refusal(c, vdi, "copy") == in_use
    c.pool.store.write(vbd, mode="RO")
    assert refusal(c, vdi, "copy") == (None if passes else in_use)


@pytest.mark.parametrize(
    ("release", "clones", "snapshots"),
    [("6.0", True, True), ("6.1", False, True), ("7.2", False, True), ("7.3", False, False)],
)
def test_what_storage_cannot_do(calls: Make, release: str, clones: bool, snapshots: bool) -> None:
    """Asked of its plugin for clones since 6.1, for snapshots since 7.3."""
    c = pool(calls, release)
    vdi = free_disk(c)
    c.pool.store.write(c.pool.store.get("SR", vdi["SR"]), type="iso")
    lacking = ["SR_OPERATION_NOT_SUPPORTED", vdi["SR"]]
    assert refusal(c, vdi, "clone") == (None if clones else lacking)
    assert refusal(c, vdi, "snapshot") == (None if snapshots else lacking)


@pytest.mark.parametrize(("release", "first"), [("5.6", "disk"), ("7.2", "disk"), ("7.3", "storage")])
def test_what_is_asked_first(calls: Make, release: str, first: str) -> None:
    """What the disk is, then what its storage can; the other way round since 7.3."""
    c = pool(calls, release)
    vdi = free_disk(c)
    c.pool.store.write(c.pool.store.get("SR", vdi["SR"]), type="udev")
    physical, lacking = ["VDI_IS_A_PHYSICAL_DEVICE", vdi.ref], ["SR_OPERATION_NOT_SUPPORTED", vdi["SR"]]
    assert refusal(c, vdi, "destroy") == (physical if first == "disk" else lacking)


@pytest.mark.parametrize(
    ("release", "sharable", "reset"), [("5.5", False, False), ("5.6", True, False), ("5.6.100", True, True)]
)
def test_disks_that_have_no_snapshots(calls: Make, release: str, sharable: bool, reset: bool) -> None:
    """Those that are shared since 5.6, those that a boot resets since 5.6 FP1."""
    c = pool(calls, release)
    vdi = free_disk(c, sharable=True)
    assert refusal(c, vdi, "snapshot") == (["VDI_IS_SHARABLE", vdi.ref] if sharable else None)
    c.pool.store.write(vdi, sharable=False, on_boot="reset")
    wanted = ["VDI_ON_BOOT_MODE_INCOMPATIBLE_WITH_OPERATION"]
    assert refusal(c, vdi, "snapshot") == (wanted if reset else None)


@pytest.mark.parametrize(("release", "passes"), [("7.6", True), ("8.2", False)])
def test_copies_of_what_a_boot_resets(calls: Make, release: str, passes: bool) -> None:
    """Refused since 8.2."""
    c = pool(calls, release)
    vdi = free_disk(c, on_boot="reset")
    assert refusal(c, vdi, "copy") == (None if passes else ["VDI_ON_BOOT_MODE_INCOMPATIBLE_WITH_OPERATION"])


@pytest.mark.parametrize(("release", "kept"), [("5.6.100", "metadata"), ("6.0", "redo_log"), ("8.2", "redo_log")])
def test_disks_of_high_availability(calls: Make, release: str, kept: str) -> None:
    """Statefiles, and up to 5.6 FP1 disks of metadata, redo logs since; forgotten they are not since 6.2."""
    c = pool(calls, release)
    c.pool.store.write(c.pool.store.pool(), ha_enabled=True)
    for kind in ("ha_statefile", "metadata", "redo_log"):
        vdi = free_disk(c, type=kind)
        expected = ["HA_IS_ENABLED"] if kind in ("ha_statefile", kept) else None
        assert refusal(c, vdi, "destroy") == refusal(c, vdi, "resize") == expected, kind
        assert refusal(c, vdi, "forget") == (expected if release == "8.2" else None)


@pytest.mark.parametrize(("release", "kept"), [("6.5", False), ("7.0", True), ("8.2", True)])
def test_while_high_availability_is_switched(calls: Make, release: str, kept: bool) -> None:
    """Statefiles and disks of metadata stay, since 7.0."""
    c = pool(calls, release)
    for operation, code in (("ha_enable", "HA_ENABLE_IN_PROGRESS"), ("ha_disable", "HA_DISABLE_IN_PROGRESS")):
        c.pool.store.write(c.pool.store.pool(), current_operations={"task": operation})
        for kind in ("ha_statefile", "metadata"):
            assert refusal(c, free_disk(c, type=kind), "destroy") == ([code] if kept else None)
        assert refusal(c, free_disk(c, type="redo_log"), "destroy") is None


@pytest.mark.parametrize(("release", "passes"), [("6.0", True), ("6.1", False)])
def test_copies_of_statefiles(calls: Make, release: str, passes: bool) -> None:
    """Refused since 6.1."""
    c = pool(calls, release)
    assert (refusal(c, free_disk(c, type="ha_statefile"), "copy") is None) == passes


@pytest.mark.parametrize(("release", "passes"), [("6.1", False), ("6.2", True)])
def test_storage_with_disks_of_its_own_is_destroyed(calls: Make, release: str, passes: bool) -> None:
    """Since 6.2."""
    c = pool(calls, release)
    sr = c.pool.store.get("SR", free_disk(c)["SR"])
    for vdi in c.pool.store.rows("VDI", sr["VDIs"]):
        c.pool.store.write(vdi, managed=False)
    for pbd in c.pool.store.rows("PBD", sr["PBDs"]):
        c.pool.store.write(pbd, currently_attached=False)
    error = storage_rules.sr_refused(c.pool.store, sr, "destroy")
    assert (error.details if error else None) == (None if passes else ["SR_NOT_EMPTY"])


@pytest.mark.parametrize(("release", "late"), [("6.2", False), ("6.5", True)])
def test_what_connections_are_told(calls: Make, release: str, late: bool) -> None:
    """Since 6.5 each has secrets of its own, and the key by which plugins know their master is reserved."""
    c = calls(release=release, hosts=1, vms=0)
    sr = c("SR.introduce", "", "more", "", "nfs", "user", True, {})
    secret = c("secret.create", {"value": "hush", "other_config": {}})
    uuid = c("secret.get_uuid", secret)
    fields = {"host": c.host("host1").ref, "SR": sr, "other_config": {}}
    reserved = {**fields, "device_config": {"SRmaster": "true"}}
    if late:
        assert c.refused("PBD.create", reserved)[:3] == ["VALUE_NOT_SUPPORTED", "SRmaster", "true"]
    else:
        c("PBD.destroy", c("PBD.create", reserved))
    pbd = c("PBD.create", {**fields, "device_config": {"password_secret": uuid}})
    assert (c("PBD.get_device_config", pbd)["password_secret"] == uuid) != late


@pytest.mark.parametrize(("release", "passes"), [("5.6.100", False), ("6.0", True)])
def test_copies_of_the_database_let_storage_go(calls: Make, release: str, passes: bool) -> None:
    """Since 6.0 a disk of metadata does not keep its storage plugged."""
    c = pool(calls, release)
    vdi = c.pool.store.get("VDI", c.vbd("vm01", "0")["VDI"])
    for other in c.pool.store.rows("VDI", c.pool.store.get("SR", vdi["SR"])["VDIs"]):
        c.pool.store.write(other, type="metadata")
    (pbd,) = c.pool.store.get("SR", vdi["SR"])["PBDs"]
    if passes:
        c("PBD.unplug", pbd)
    else:
        assert c.refused("PBD.unplug", pbd)[0] == "VDI_IN_USE"
