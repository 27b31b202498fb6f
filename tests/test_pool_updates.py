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
