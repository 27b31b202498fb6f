"""What making, copying and naming disks and storage came to in older releases."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

Make = Callable[..., Any]

SAID = {"other_config": {"a": "b"}, "xenstore_data": {"c": "d"}, "tags": ["e"], "sharable": True, "read_only": True}
SHARED = "NFS virtual disk storage"


def image(c: Any, **more: Any) -> dict[str, Any]:
    fields = {"name_label": "data", "name_description": "", "SR": c.row("SR", SHARED).ref, "virtual_size": "2097152"}
    return {**fields, "type": "user", "sharable": False, "read_only": False, "other_config": {}, **more}


@pytest.mark.parametrize(
    ("release", "heard"),
    [
        ("5.6.100", {"other_config", "xenstore_data", "sharable"}),
        ("6.0.0", {"other_config", "xenstore_data", "sharable", "tags"}),
        ("6.1.0", {"read_only"}),
        ("6.2.0", set(SAID)),
    ],
)
def test_what_a_new_disk_gets_of_what_was_said(calls: Make, release: str, heard: set[str]) -> None:
    """Tags since 6.0, to be read only since 6.1; 6.1 itself forgot the rest, for clones that are copies as well."""
    c = calls(release=release)
    vdi = c.pool.store.get("VDI", c("VDI.create", image(c, **SAID)))
    assert {name for name, value in SAID.items() if vdi[name] == value} == heard
    assert vdi["name_label"] == "data"


def test_a_clone_that_is_a_copy_is_a_new_disk_like_others(calls: Make) -> None:
    """Up to 6.0, where storage that cannot clone had its disks copied."""
    c = calls(release="6.0.0")
    store = c.pool.store
    store.write(c.row("SR", SHARED), type="iscsi")
    vdi = store.get("VDI", c("VDI.create", image(c)))
    store.write(vdi, other_config={"a": "b"}, read_only=True)
    new = store.get("VDI", c("VDI.clone", vdi.ref, {}))
    assert (new["other_config"], new["read_only"]) == ({"a": "b"}, False)


@pytest.mark.parametrize(("release", "keeps"), [("6.2.0", False), ("6.5.0", True)])
def test_copies_have_the_tags(calls: Make, release: str, keeps: bool) -> None:
    """Since 6.5."""
    c = calls(release=release)
    sr = c.row("SR", SHARED)
    vdi = c.pool.store.get("VDI", c("VDI.create", image(c)))
    c.pool.store.write(vdi, tags=["e"])
    new = c.pool.store.get("VDI", c("VDI.copy", vdi.ref, sr.ref))
    assert new["tags"] == (["e"] if keeps else [])


@pytest.mark.parametrize(("kind", "reset"), [("nfs", "reset"), ("file", "persist")])
def test_copies_are_reset_too(calls: Make, kind: str, reset: str) -> None:
    """Where the storage that they are on can do that."""
    c = calls(release="6.0.0")
    store = c.pool.store
    vdi = store.get("VDI", c("VDI.create", image(c)))
    c("VDI.set_on_boot", vdi.ref, "reset")
    sr = store.get("SR", c("SR.create", c.host("host1").ref, {}, 1 << 40, "more", "", kind, "user", False, {}))
    assert store.get("VDI", c("VDI.copy", vdi.ref, sr.ref))["on_boot"] == reset


@pytest.mark.parametrize(("release", "shown"), [("6.2.0", False), ("6.5.0", True)])
def test_a_copy_shows_on_its_disk(calls: Make, release: str, shown: bool) -> None:
    """Since 6.5; before, it shows only by the block device that the control domain has."""
    c = calls(release=release)
    vdi = c.pool.store.get("VDI", c("VDI.create", image(c, virtual_size=str(1 << 34))))
    task = c.start("VDI.copy", vdi.ref, c.row("SR", SHARED).ref)
    c.until(lambda: bool(vdi["VBDs"]))
    assert list(vdi["current_operations"].values()) == (["copy"] if shown else [])
    assert task["status"] == "pending"


@pytest.mark.parametrize("release", ["5.6.0", "6.0.0", "6.1.0"])
def test_who_copies(calls: Make, release: str) -> None:
    """Up to 5.6 a host that sees both; since 5.6 FP1 one that sees the source, and since 6.1 rather one that sees both."""
    c = calls(release=release)
    store = c.pool.store
    own = c.row("SR", "Local storage on host2")
    vdi = store.get("VDI", c("VDI.create", image(c)))
    for pbd in store.rows("PBD", c.row("SR", SHARED)["PBDs"]):
        if pbd["host"] == c.host("host2").ref:
            c("PBD.unplug", pbd.ref)
    if release == "5.6.0":
        assert c.refused("VDI.copy", vdi.ref, own.ref) == ["SR_HAS_NO_PBDS", own.ref]
    else:
        assert store.get("VDI", c("VDI.copy", vdi.ref, own.ref))["SR"] == own.ref


@pytest.mark.parametrize(
    ("release", "error"), [("5.6.0", "SR_HAS_NO_PBDS"), ("6.0.0", "SR_HAS_NO_PBDS"), ("6.1.0", "INTERNAL_ERROR")]
)
def test_nobody_can_copy(calls: Make, release: str, error: str) -> None:
    c = calls(release=release, hosts=1)
    sr = c.row("SR", SHARED)
    vdi = c.pool.store.get("VDI", c("VDI.create", image(c)))
    own = c.row("SR", "Local storage on host1")
    for pbd in sr["PBDs"]:
        c("PBD.unplug", pbd)
    assert c.refused("VDI.copy", vdi.ref, own.ref) == [error, "Not_found" if error == "INTERNAL_ERROR" else sr.ref]


@pytest.mark.parametrize("release", ["5.6.100", "7.2.0", "8.2"])
def test_what_cannot_reset_is_not_told_to(calls: Make, release: str) -> None:
    c = calls(release=release, hosts=1)
    sr = c("SR.create", c.host("host1").ref, {}, 1 << 40, "more", "", "file", "user", False, {})
    vdi = c("VDI.create", image(c, SR=sr))
    assert c.refused("VDI.set_on_boot", vdi, "reset") == ["SR_OPERATION_NOT_SUPPORTED", sr]


@pytest.mark.parametrize(("release", "named"), [("6.5.0", True), ("7.0.0", False)])
def test_names_while_storage_is_unplugged(calls: Make, release: str, named: bool) -> None:
    """Since 7.0 the plugin is told first."""
    c = calls(release=release, hosts=1)
    sr = c.row("SR", SHARED)
    vdi = c.pool.store.get("VDI", c("VDI.create", image(c)))
    for pbd in sr["PBDs"]:
        c("PBD.unplug", pbd)
    for row in (sr, vdi):
        error = None if named else ["SR_HAS_NO_PBDS", sr.ref]
        if error is None:
            c(f"{row.table}.set_name_label", row.ref, "other")
        else:
            assert c.refused(f"{row.table}.set_name_label", row.ref, "other") == error
        assert (row["name_label"] == "other") == named


@pytest.mark.parametrize(("release", "known"), [("6.0.0", True), ("6.1.0", False)])
def test_storage_of_a_plugin_that_nobody_has(calls: Make, release: str, known: bool) -> None:
    """Told of only since 6.1, where it cannot be plugged."""
    c = calls(release=release, hosts=1)
    args = ("", "more", "", "Other", "user", True, {})
    if known:
        assert c.refused("SR.introduce", *args) == ["SR_UNKNOWN_DRIVER", "other"]
    else:
        assert c.pool.store.get("SR", c("SR.introduce", *args))["type"] == "other"


@pytest.mark.parametrize(("release", "code"), [("6.2.0", "INTERNAL_ERROR"), ("6.5.0", "SR_UUID_EXISTS")])
def test_storage_that_is_there_already(calls: Make, release: str, code: str) -> None:
    c = calls(release=release, hosts=1)
    uuid = c.row("SR", SHARED)["uuid"]
    assert c.refused("SR.introduce", uuid, "more", "", "nfs", "user", True, {})[0] == code


@pytest.mark.parametrize(("release", "code"), [("5.5.0", None), ("5.6.0", "SR_INDESTRUCTIBLE")])
def test_storage_that_says_it_is_to_stay(calls: Make, release: str, code: str | None) -> None:
    """It is heard since 5.6."""
    c = calls(release=release, hosts=1)
    sr = c.pool.store.get("SR", c("SR.introduce", "", "more", "", "nfs", "user", True, {}))
    c("PBD.create", {"host": c.host("host1").ref, "SR": sr.ref, "device_config": {}, "other_config": {}})
    c("SR.add_to_other_config", sr.ref, "indestructible", "true")
    if code is None:
        c("SR.destroy", sr.ref)
        assert c.pool.store.find("SR", sr.ref) is None
    else:
        assert c.refused("SR.destroy", sr.ref) == [code, sr.ref]


@pytest.mark.parametrize(("release", "code"), [("6.2.0", None), ("6.5.0", "SR_IS_CACHE_SR")])
def test_storage_that_is_a_cache(calls: Make, release: str, code: str | None) -> None:
    """Destroyed while a host names it, up to 6.2."""
    c = calls(release=release, hosts=1)
    host = c.host("host1")
    sr = c("SR.create", host.ref, {}, 1 << 40, "cache", "", "ext", "user", False, {})
    c.pool.store.write(host, local_cache_sr=sr)
    for pbd in c.pool.store.get("SR", sr)["PBDs"]:
        c("PBD.unplug", pbd)
    if code is None:
        c("SR.destroy", sr)
        assert c.pool.store.find("SR", sr) is None
    else:
        assert c.refused("SR.destroy", sr) == [code, host.ref]
