"""Updates of pools from a disk with their package, and the patches that stand for them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

Make = Callable[..., Any]
NULL = "OpaqueRef:NULL"
UUID = "0a1b2c3d-4e5f-4678-9abc-def012345678"
ATTRIBUTES = {
    "uuid": UUID,
    "name-label": "XS71E001",
    "version": "1.0",
    "key": "keys/RPM-GPG-KEY",
    "installation-size": "4096",
    "after-apply-guidance": "restartHost,restartXAPI",
    "enforce-homogeneity": "true",
}
TEXT = "<name-description>Security</name-description>"


def package(c: Any, text: str = TEXT, **attributes: str) -> Any:
    """A disk with an update's package on it."""
    fields = {key: value for key, value in {**ATTRIBUTES, **attributes}.items() if value}
    document = (
        f"<update {' '.join(f'{key}={chr(34)}{value}{chr(34)}' for key, value in fields.items())}>{text}</update>"
    )
    record = {
        "name_label": "package",
        "name_description": "",
        "SR": c.row("SR", "NFS virtual disk storage").ref,
        "virtual_size": 1 << 24,
        "type": "user",
        "sharable": False,
        "read_only": False,
        "other_config": {},
    }
    vdi = c.pool.store.get("VDI", c("VDI.create", record))
    c.pool.disks[vdi["uuid"]].write(32768, document.encode())
    return vdi


def test_an_update_comes_from_its_disk(calls: Make) -> None:
    """With the patch that stands for it, whose uuid follows from its own; and it can be applied."""
    c = calls(release="7.1")
    vdi = package(c)
    ref = c("pool_update.introduce", vdi.ref)
    record = c("pool_update.get_record", ref)
    assert (record["uuid"], record["name_label"], record["name_description"]) == (UUID, "XS71E001", "Security")
    assert (record["key"], record["installation_size"], record["vdi"]) == ("RPM-GPG-KEY", 4096, vdi.ref)
    assert record["after_apply_guidance"] == ["restartHost", "restartXAPI"]
    [patch] = c.pool.store.table("pool_patch").values()
    assert (patch["uuid"], patch["pool_update"]) == ("0a1b2c3d-0000-0000-9abc-def012345678", ref)
    c("pool_update.apply", ref, c.host("host1").ref)
    assert c("host.get_updates_requiring_reboot", c.host("host1").ref) == [ref]


def test_a_host_that_has_booted_waits_for_no_boot(calls: Make) -> None:
    """The list is one of this run of the host; the update stays."""
    c = calls(release="8.2")
    ref, host = c("pool_update.introduce", package(c).ref), c.host("host2")
    c("pool_update.apply", ref, host.ref)
    c("host.disable", host.ref)
    c("host.reboot", host.ref)
    c.until(lambda: c.pool.machine("host2").state == "starting")
    c = c.back()
    assert (c("host.get_updates_requiring_reboot", host.ref), c("host.get_updates", host.ref)) == ([], [ref])


def test_a_known_update_gets_a_new_disk_only_where_it_has_none(calls: Make) -> None:
    c = calls(release="8.2")
    first, second = package(c), package(c)
    ref = c("pool_update.introduce", first.ref)
    assert c("pool_update.introduce", first.ref) == ref
    assert c.refused("pool_update.introduce", second.ref) == ["UPDATE_ALREADY_EXISTS", UUID]
    c("pool_update.pool_clean", ref)
    assert c("pool_update.introduce", second.ref) == ref and c("pool_update.get_vdi", ref) == second.ref


@pytest.mark.parametrize(
    ("attributes", "text", "reason"),
    [
        ({"uuid": ""}, TEXT, "missing <uuid> in update.xml"),
        ({"uuid": "x"}, TEXT, "'x' is no uuid"),
        ({"name-label": ""}, TEXT, "missing <name-label> in update.xml"),
        ({"version": ""}, TEXT, "missing <version> in update.xml"),
        ({}, "", "missing <name-description> in update.xml"),
    ],
)
def test_a_package_says_what_it_is(calls: Make, attributes: dict[str, str], text: str, reason: str) -> None:
    c = calls(release="8.2")
    assert c.refused("pool_update.introduce", package(c, text, **attributes).ref) == ["INVALID_UPDATE", reason]
    assert not c.pool.store.table("pool_update") and not c.pool.store.table("pool_patch")


def test_a_disk_without_a_package_is_none(calls: Make) -> None:
    c = calls(release="8.2")
    vdi = package(c)
    c.pool.disks[vdi["uuid"]].blocks.clear()
    reason = "missing update document (update.xml) in the package."
    assert c.refused("pool_update.introduce", vdi.ref) == ["INVALID_UPDATE", reason]
    c.pool.store.write(vdi, type="cbt_metadata")
    assert c.refused("pool_update.introduce", vdi.ref) == ["VDI_INCOMPATIBLE_TYPE", vdi.ref, "cbt_metadata"]


def test_the_file_of_a_patch_is_the_masters(calls: Make) -> None:
    """Cleaned on a member it is there still; since 7.1 there is none to clean."""
    c = calls(release="6.5")
    fields = {"uuid": c.pool.new_uuid(), "name_label": "p", "filename": "/p"}
    row = c.pool.store.create("pool_patch", c.pool.new_ref(), fields)
    c("pool_patch.clean_on_host", row.ref, c.host("host2").ref)
    assert row["filename"] == "/p"
    c("pool_patch.clean_on_host", row.ref, c.host("host1").ref)
    assert row["filename"] == ""
    c.pool.hands.power_off("host2")
    refused = c.refused("pool_patch.clean_on_host", row.ref, c.host("host2").ref)
    assert refused == ["CANNOT_CONTACT_HOST", c.host("host2").ref]


CLEANING = [("6.0", "destroy"), *[(r, m) for r in ("6.1", "6.5", "7.0") for m in ("destroy", "pool_clean")]]


@pytest.mark.parametrize(("release", "message"), CLEANING)
def test_since_6_1_every_host_removes_its_copy_of_a_patch(calls: Make, release: str, message: str) -> None:
    """So one that cannot be reached has the call fail, and the patch stays as it is."""
    c = calls(release=release, hosts=2)
    fields = {"uuid": c.pool.new_uuid(), "name_label": "p", "filename": "/p"}
    row = c.pool.store.create("pool_patch", c.pool.new_ref(), fields)
    c.pool.hands.power_off("host2")
    if release != "6.0":
        assert c.refused(f"pool_patch.{message}", row.ref) == ["CANNOT_CONTACT_HOST", c.host("host2").ref]
        assert row["filename"] == "/p"
        c.pool.hands.power_on("host2")
        c.pool.clock.advance(900)
    c(f"pool_patch.{message}", row.ref)
    assert row["filename"] == "" if message == "pool_clean" else c.pool.store.find("pool_patch", row.ref) is None


# --- the package while somebody needs it


def introduced(c: Any) -> tuple[Any, Any]:
    """An update, and the disk with its package."""
    vdi = package(c)
    return c.pool.store.get("pool_update", c("pool_update.introduce", vdi.ref)), vdi


def test_a_package_is_detached_when_nobody_needs_it_any_more(calls: Make) -> None:
    """Each who attached it must detach it; who detaches what nobody attached is told nothing."""
    c = calls(release="8.2")
    row, vdi = introduced(c)
    c("pool_update.attach", row.ref)
    (vbd,) = vdi["VBDs"]
    c("pool_update.attach", row.ref)
    assert vdi["VBDs"] == [vbd]
    c("pool_update.detach", row.ref)
    assert vdi["VBDs"] == [vbd]
    c("pool_update.detach", row.ref)
    assert vdi["VBDs"] == []
    c("pool_update.detach", row.ref)


def test_a_package_that_somebody_needs_is_not_cleaned_away(calls: Make) -> None:
    """Cleaning counts as one of those who let go."""
    c = calls(release="8.2")
    row, vdi = introduced(c)
    c("pool_update.attach", row.ref)
    c("pool_update.attach", row.ref)
    assert c.refused("pool_update.pool_clean", row.ref)[:2] == ["VDI_IN_USE", vdi.ref]
    assert row["vdi"] == vdi.ref
    c("pool_update.pool_clean", row.ref)
    assert (row["vdi"], c.pool.store.find("VDI", vdi.ref)) == (NULL, None)


@pytest.mark.parametrize(("release", "code"), [("8.1", "DEVICE_ALREADY_DETACHED"), ("8.2", "INTERNAL_ERROR")])
def test_a_package_that_was_unplugged_meanwhile_is_told_of(calls: Make, release: str, code: str) -> None:
    """Since 8.2 by the toolstack itself, also when another one attaches it."""
    c = calls(release=release)
    row, vdi = introduced(c)
    c("pool_update.attach", row.ref)
    (vbd,) = vdi["VBDs"]
    c.pool.store.write(c.pool.store.get("VBD", vbd), currently_attached=False)
    lost = f"pool_update: expected VBDs=[ {vbd} ] to be attached but they aren't!"
    told = [code, lost if code == "INTERNAL_ERROR" else vbd]
    assert c.refused("pool_update.detach", row.ref) == told
    if code == "INTERNAL_ERROR":
        assert c.refused("pool_update.attach", row.ref) == told
    else:
        c("pool_update.attach", row.ref)


def test_a_toolstack_lets_go_of_what_the_one_before_attached(calls: Make) -> None:
    """It has counted nobody."""
    c = calls(release="8.2", hosts=1)
    row, vdi = introduced(c)
    c("pool_update.attach", row.ref)
    c("pool_update.attach", row.ref)
    c("host.restart_agent", c.host("host1").ref)
    c.sleep(600)
    assert vdi["VBDs"] == []


def test_the_package_is_attached_while_it_is_installed(calls: Make) -> None:
    """Nobody cleans it away, nobody installs it twice on a host, and on another host it may go on beside."""
    c = calls(release="8.2")
    row, vdi = introduced(c)
    one, two = c.host("host1"), c.host("host2")
    c.start("pool_update.apply", row.ref, one.ref)
    c.sleep(c.pool.durations.device * 2 + 1)
    assert len(vdi["VBDs"]) == 1
    assert c.refused("pool_update.apply", row.ref, one.ref) == [
        "OTHER_OPERATION_IN_PROGRESS",
        "Applying the update",
        row.ref,
    ]
    c("pool_update.apply", row.ref, two.ref)
    c.sleep(600)
    assert (one["updates"], two["updates"], vdi["VBDs"]) == ([row.ref], [row.ref], [])


@pytest.mark.parametrize(("release", "first"), [("8.1", -1), ("8.2", 0)])
def test_a_pool_is_updated_in_the_order_of_the_references(calls: Make, release: str, first: int) -> None:
    """The hosts that failed are told the other way round, and the others are updated all the same."""
    c = calls(release=release, hosts=4)
    row, _ = introduced(c)
    order = sorted(c.pool.store.table("host"))
    order = order if first == 0 else order[::-1]
    master = c.pool.store.pool()["master"]
    down = [host for host in order if host != master][:2]
    for host in down:
        c.pool.machine_of(c.pool.store.get("host", host)).power_off()
    assert c.refused("pool_update.pool_apply", row.ref) == ["UPDATE_POOL_APPLY_FAILED", *reversed(down)]
    assert set(row["hosts"]) == set(order) - set(down)


@pytest.mark.parametrize(("release", "left"), [("7.5", 1), ("7.6", 0)])
def test_no_host_waits_for_a_boot_for_an_update_that_is_no_more(calls: Make, release: str, left: int) -> None:
    """Since 7.6; before, the reference dangles."""
    c = calls(release=release)
    row, _ = introduced(c)
    host = c.host("host1")
    c("pool_update.apply", row.ref, host.ref)
    c.pool.store.write(host, updates=[])
    c("pool_update.destroy", row.ref)
    assert len(host["updates_requiring_reboot"]) == left
