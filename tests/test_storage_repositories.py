"""Storage repositories, their connections to hosts, and the secrets in these."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from mockserver import rules
from mockserver.storage_drivers import DRIVERS, rows
from mockserver.store import NULL
from xenctl.releases import find, known

Make = Callable[..., Any]
NFS = "NFS virtual disk storage"
GIB = 1 << 30


@pytest.fixture
def c(calls: Make) -> Any:
    return calls(release="8.2", hosts=2, vms=4)


def made(c: Any, kind: str = "nfs", *, shared: bool = True, host: str = "host1", size: int = 0, **config: str) -> Any:
    ref = c("SR.create", c.host(host).ref, config or {"server": "a"}, size, "new", "", kind, "user", shared, {})
    return c.pool.store.get("SR", ref)


def pbds(c: Any, sr: Any) -> list[Any]:
    return [c.pool.store.get("PBD", ref) for ref in sr["PBDs"]]


def image(c: Any, sr: Any, **more: Any) -> dict[str, Any]:
    fields = {"name_label": "data", "name_description": "", "SR": sr.ref, "virtual_size": GIB, "type": "user"}
    return {**fields, "sharable": False, "read_only": False, "other_config": {}, **more}


# --- making


def test_shared_storage_is_plugged_everywhere(c: Any) -> None:
    """It has a size, nothing on it, and a connection for each host, the master's first."""
    sr = made(c, "NFS", size=100 * GIB)
    assert (sr["type"], sr["shared"], sr["content_type"], sr["VDIs"]) == ("nfs", True, "user", [])
    assert (sr["physical_size"], sr["physical_utilisation"], sr["virtual_allocation"]) == (100 * GIB, 0, 0)
    assert {pbd["host"] for pbd in pbds(c, sr)} == {c.host("host1").ref, c.host("host2").ref}
    assert all(pbd["currently_attached"] for pbd in pbds(c, sr))
    assert {"scan", "vdi_create"} <= set(sr["allowed_operations"])
    c("VDI.create", image(c, sr))


def test_local_storage_is_on_the_host_that_is_named(c: Any) -> None:
    """And on no other."""
    sr = made(c, "ext", shared=False, host="host2", device="/dev/sdb")
    (pbd,) = pbds(c, sr)
    assert (pbd["host"], pbd["currently_attached"], pbd["device_config"]) == (
        c.host("host2").ref,
        True,
        {"device": "/dev/sdb"},
    )
    c("VDI.create", image(c, sr))


def test_a_host_that_is_down_is_left_out(c: Any) -> None:
    """Its connection is made and stays unplugged; a host that is needed is missed."""
    c.pool.machine("host2").power_off()
    sr = made(c)
    assert {pbd["host"]: pbd["currently_attached"] for pbd in pbds(c, sr)} == {
        c.host("host1").ref: True,
        c.host("host2").ref: False,
    }
    args = [{}, 0, "x", "", "ext", "user", False, {}]
    assert c.refused("SR.create", c.host("host2").ref, *args) == ["CANNOT_CONTACT_HOST", c.host("host2").ref]


def test_what_cannot_be_made_leaves_nothing(c: Any) -> None:
    """A type without plugin, a key of xapi's own, mixed versions."""
    host, before = c.host("host1").ref, {t: set(c.pool.store.table(t)) for t in ("SR", "PBD", "secret")}
    args = [0, "x", "", "fish", "user", True, {}]
    assert c.refused("SR.create", host, {"password": "p"}, *args) == ["SR_UNKNOWN_DRIVER", "fish"]
    args[3] = "nfs"
    text = "This key is for internal use only"
    assert c.refused("SR.create", host, {"SRmaster": "true"}, *args) == [
        "VALUE_NOT_SUPPORTED",
        "SRmaster",
        "true",
        text,
    ]
    c.pool.store.write(c.pool.store.pool(), other_config={rules.KEY: "true"})
    assert c.refused("SR.create", host, {}, *args) == ["NOT_SUPPORTED_DURING_UPGRADE"]
    assert {t: set(c.pool.store.table(t)) for t in before} == before


def test_old_releases_make_storage_while_versions_are_mixed(calls: Make) -> None:
    """Only since 6.0 that is refused."""
    c = calls(release="5.5", hosts=2, vms=1)
    c.pool.store.write(c.pool.store.pool(), other_config={rules.KEY: "true"})
    assert made(c)["VDIs"] == []


def test_storage_whose_making_is_interrupted_is_gone(c: Any) -> None:
    """The record shows while it is made, and goes when that is cancelled."""
    task = c.start("SR.create", c.host("host1").ref, {}, 0, "new", "", "nfs", "user", True, {})
    sr = c.row("SR", "new")
    assert (sr["physical_size"], len(sr["PBDs"])) == (-1, 2)
    c("task.cancel", task.ref)
    c.sleep(5)
    assert task["status"] == "cancelled"
    assert c.pool.store.find("SR", sr.ref) is None
    assert sr.ref not in {pbd["SR"] for pbd in c.pool.store.table("PBD").values()}


def test_an_old_way_to_make_storage_is_gone(c: Any) -> None:
    """It says so."""
    args = [{}, 0, "x", "", "nfs", "user", {}]
    assert c.refused("SR.make", c.host("host1").ref, *args) == ["MESSAGE_DEPRECATED"]


# --- forgetting, introducing, destroying


def test_storage_comes_back_with_its_disks(c: Any) -> None:
    """Forgotten, introduced, connected, plugged and scanned: disks and bytes are as before."""
    sr = made(c, size=50 * GIB)
    uuid, vdi = sr["uuid"], c("VDI.create", image(c, sr, name_label="precious"))
    disk = c("VDI.get_uuid", vdi)
    c.pool.disks[disk].blocks[5] = b"precious"
    for pbd in pbds(c, sr):
        c("PBD.unplug", pbd.ref)
    assert "forget" in sr["allowed_operations"]
    c("SR.forget", sr.ref)
    assert c.refused("VDI.get_by_uuid", disk) == ["UUID_INVALID", "VDI", disk]
    again = c.pool.store.get("SR", c("SR.introduce", uuid, "again", "", "NFS", "user", True, {}))
    assert (again["type"], again["physical_size"], again["physical_utilisation"]) == ("nfs", -1, -1)
    assert c.refused("SR.introduce", uuid, "again", "", "nfs", "user", True, {}) == ["SR_UUID_EXISTS", uuid]
    assert c.refused("SR.scan", again.ref) == ["SR_HAS_NO_PBDS", again.ref]
    for name in ("host1", "host2"):
        c("PBD.plug", c("PBD.create", {"host": c.host(name).ref, "SR": again.ref, "device_config": {}}))
    assert again["physical_size"] == 50 * GIB
    c("SR.scan", again.ref)
    found = c.pool.store.get("VDI", c("VDI.get_by_uuid", disk))
    assert (found["name_label"], found["virtual_size"]) == ("precious", GIB)
    assert c.pool.disks[disk].blocks == {5: b"precious"}
    assert again["virtual_allocation"] == GIB


def test_storage_that_is_destroyed_never_comes_back(c: Any) -> None:
    """Only what is unplugged, empty and not needed is; who introduces it again finds nothing to plug."""
    sr = made(c)
    vdi = c("VDI.create", image(c, sr))
    assert c.refused("SR.destroy", sr.ref) == ["SR_HAS_PBD", sr.ref]
    for pbd in pbds(c, sr):
        c("PBD.unplug", pbd.ref)
    assert c.refused("SR.destroy", sr.ref) == ["SR_NOT_EMPTY"]
    for pbd in pbds(c, sr):
        c("PBD.plug", pbd.ref)
    c("VDI.destroy", vdi)
    for pbd in pbds(c, sr):
        c("PBD.unplug", pbd.ref)
    c("SR.set_other_config", sr.ref, {"indestructible": "true"})
    assert c.refused("SR.destroy", sr.ref) == ["SR_INDESTRUCTIBLE", sr.ref]
    c("SR.set_other_config", sr.ref, {})
    c.pool.store.write(c.host("host2"), local_cache_sr=sr.ref)
    assert c.refused("SR.destroy", sr.ref) == ["SR_IS_CACHE_SR", c.host("host2").ref]
    c.pool.store.write(c.host("host2"), local_cache_sr=NULL)
    uuid = sr["uuid"]
    c("SR.destroy", sr.ref)
    assert c.pool.store.find("SR", sr.ref) is None
    ref = c("SR.introduce", uuid, "again", "", "nfs", "user", True, {})
    pbd = c("PBD.create", {"host": c.host("host1").ref, "SR": ref, "device_config": {}})
    assert c.refused("PBD.plug", pbd)[0] == "SR_BACKEND_FAILURE_47"
    c("PBD.destroy", pbd)
    assert c.refused("SR.destroy", ref) == ["SR_HAS_NO_PBDS", ref]


# --- looking


def test_a_scan_counts(c: Any) -> None:
    """What is on storage, and how large it is; a mark that asked for it goes."""
    sr = c.row("SR", NFS)
    disks = [c.pool.store.get("VDI", ref) for ref in sr["VDIs"]]
    c.pool.store.write(sr, virtual_allocation=1, physical_utilisation=2, other_config={"dirty": "", "mine": "1"})
    c("SR.scan", sr.ref)
    assert sr["virtual_allocation"] == sum(vdi["virtual_size"] for vdi in disks)
    assert sr["physical_utilisation"] == sum(vdi["physical_utilisation"] for vdi in disks)
    assert sr["other_config"] == {"mine": "1"}
    c.pool.store.write(sr, virtual_allocation=1)
    c("SR.update", sr.ref)
    assert sr["virtual_allocation"] > 1


def test_storage_is_found_by_its_configuration(c: Any) -> None:
    """As a document that names it; only by plugins that can look, and as records by none of these."""
    sr, host = made(c, server="filer", serverpath="/x"), c.host("host1").ref
    assert sr["uuid"] in c("SR.probe", host, {"server": "filer"}, "nfs", {})
    assert sr["uuid"] not in c("SR.probe", host, {"server": "other"}, "nfs", {})
    assert c.refused("SR.probe", host, {}, "fish", {}) == ["SR_UNKNOWN_DRIVER", "fish"]
    assert c.refused("SR.probe", host, {}, "iso", {}) == ["UNIMPLEMENTED_IN_SM_BACKEND", "SR.probe"]
    assert c.refused("SR.probe_ext", host, {}, "nfs", {}) == ["SR_OPERATION_NOT_SUPPORTED"]
    assert {"nfs", "lvm", "ext", "iso"} <= set(c("SR.get_supported_types"))


def test_storage_tells_who_sees_it(c: Any) -> None:
    """Live hosts with it plugged; where all have it, it may serve the pool itself."""
    sr = c.row("SR", NFS)
    assert set(c("SR.get_live_hosts", sr.ref)) == {c.host("host1").ref, c.host("host2").ref}
    c("SR.assert_can_host_ha_statefile", sr.ref)
    assert c.refused("SR.assert_supports_database_replication", sr.ref) == ["SR_OPERATION_NOT_SUPPORTED", sr.ref]
    lun = made(c, "lvmoiscsi")
    c("SR.assert_supports_database_replication", lun.ref)
    c("host.disable", c.host("host2").ref)
    assert c("SR.get_live_hosts", sr.ref) == [c.host("host1").ref]
    (pbd,) = [pbd for pbd in pbds(c, lun) if pbd["host"] == c.host("host2").ref]
    c("PBD.unplug", pbd.ref)
    for name in ("can_host_ha_statefile", "supports_database_replication"):
        assert c.refused(f"SR.assert_{name}", lun.ref) == ["SR_HAS_NO_PBDS", lun.ref]
    assert c("SR.get_data_sources", sr.ref) == []


def test_storage_with_several_connections_stays_shared(c: Any) -> None:
    """With one it need not."""
    sr, local = c.row("SR", NFS), c.row("SR", "Local storage on host1")
    assert c.refused("SR.set_shared", sr.ref, False) == ["SR_HAS_MULTIPLE_PBDS", *sr["PBDs"]]
    c("SR.set_shared", local.ref, True)
    c("SR.set_shared", local.ref, False)
    assert local["shared"] is False


def test_sizes_are_a_plugins_own(c: Any) -> None:
    """Other clients may not write them; names all may."""
    sr = c.row("SR", NFS)
    assert c.refused("SR.set_physical_size", sr.ref, 5) == ["PERMISSION_DENIED", ""]
    c("session.add_to_other_config", c.session, "_sm_session", sr.ref)
    c("SR.set_physical_size", sr.ref, 5)
    c("SR.set_name_label", sr.ref, "new")
    assert (sr["physical_size"], sr["name_label"]) == (5, "new")


# --- connections


def test_a_plugged_connection_lets_lists_follow(c: Any) -> None:
    """Of storage that is nowhere plugged, disks cannot be resized; it can be forgotten."""
    sr = made(c)
    vdi = c.pool.store.get("VDI", c("VDI.create", image(c, sr)))
    for pbd in pbds(c, sr):
        assert "resize" in vdi["allowed_operations"]
        c("PBD.unplug", pbd.ref)
    assert "resize" not in vdi["allowed_operations"]
    assert "forget" in sr["allowed_operations"]
    c("PBD.plug", sr["PBDs"][0])
    assert "resize" in vdi["allowed_operations"]
    assert "forget" not in sr["allowed_operations"]


def test_storage_at_work_stays_plugged(c: Any) -> None:
    """Also what only the control domain uses, for a copy."""
    sr = c.row("SR", NFS)
    task = c.start("VDI.copy", c.vbd("vm04", "0")["VDI"], sr.ref)
    c.sleep(20)
    (master,) = [pbd for pbd in pbds(c, sr) if pbd["host"] == c.host("host1").ref]
    (member,) = [pbd for pbd in pbds(c, sr) if pbd["host"] == c.host("host2").ref]
    assert c.refused_at_once("PBD.unplug", master.ref) == [
        "OTHER_OPERATION_IN_PROGRESS",
        "VDI",
        c.vbd("vm04", "0")["VDI"],
    ]
    assert c.vbd("vm04", "0")["VDI"] in c.refused("PBD.unplug", member.ref)
    c.sleep(600)
    assert task["status"] == "success"


def test_a_statefile_keeps_its_storage(c: Any) -> None:
    """While high availability is on."""
    sr = made(c)
    vdi = c("VDI.create", image(c, sr))
    c.pool.store.write(c.pool.store.pool(), ha_enabled=True, ha_statefiles=[vdi])
    assert c.refused("PBD.unplug", sr["PBDs"][0]) == ["HA_IS_ENABLED"]


def test_a_configuration_is_a_plugins_own(c: Any) -> None:
    """Other clients give it when they make the connection."""
    pbd = c.pool.store.get("PBD", c.row("SR", NFS)["PBDs"][0])
    assert c.refused("PBD.set_device_config", pbd.ref, {"a": "b"}) == ["PERMISSION_DENIED", ""]
    c("session.add_to_other_config", c.session, "_sm_session", pbd["SR"])
    c("PBD.set_device_config", pbd.ref, {"a": "b"})
    assert pbd["device_config"] == {"a": "b"}


def test_passwords_become_secrets(c: Any) -> None:
    """A connection names a secret of its own, which goes with it."""
    sr = made(c, "lvmoiscsi", target="t", chappassword="hush")
    configs = [pbd["device_config"] for pbd in pbds(c, sr)]
    assert all(set(config) == {"target", "chappassword_secret"} for config in configs)
    uuids = {config["chappassword_secret"] for config in configs}
    assert len(uuids) == 2
    for uuid in uuids:
        assert c("secret.get_value", c("secret.get_by_uuid", uuid)) == "hush"
    for pbd in pbds(c, sr):
        c("PBD.unplug", pbd.ref)
    c("PBD.destroy", sr["PBDs"][0])
    c("SR.forget", sr.ref)
    assert not uuids & set(c.pool.store.by_uuid)
    args = {"host": c.host("host1").ref, "SR": c.row("SR", "Local storage on host2").ref}
    wrong = {**args, "device_config": {"password_secret": "none"}}
    assert c.refused("PBD.create", wrong) == ["UUID_INVALID", "secret", "none"]


def test_old_releases_keep_passwords(calls: Make) -> None:
    """They have no secrets."""
    c = calls(release="5.5", hosts=1, vms=1)
    assert pbds(c, made(c, "lvmoiscsi", chappassword="hush"))[0]["device_config"] == {"chappassword": "hush"}


# --- plugins, secrets, blobs, crash dumps


@pytest.mark.parametrize("release", [release.name for release in known()])
def test_every_release_has_its_plugins(release: str) -> None:
    """What came later is not there, what went is gone; none has a capability that its time did not know."""
    found = {row["type"]: set(row["capabilities"]) for row in rows(find(release))}
    assert {"lvm", "ext", "nfs", "iso", "lvmoiscsi"} <= set(found) <= set(DRIVERS)
    assert ("smb" in found) == (find(release) >= find("7.0"))
    assert ("VDI_CONFIG_CBT" in found["nfs"]) == (find(release) >= find("7.3"))
    assert ("VDI_SNAPSHOT" in found["lvm"]) == (find(release) >= find("5.5"))
    assert ("netapp" in found) == (find("4.1") <= find(release) < find("7.0"))


def test_a_pool_has_a_row_for_each_plugin(c: Any) -> None:
    """With versions of its features."""
    found = {c("SM.get_type", ref): c("SM.get_features", ref) for ref in c("SM.get_all")}
    assert set(found) == set(c("SR.get_supported_types"))
    assert found["nfs"]["VDI_RESET_ON_BOOT"] == 2
    assert found["nfs"]["VDI_CREATE"] == 1


def test_an_upgrade_brings_plugins(calls: Make) -> None:
    """New ones, and what the old ones learned; lists follow."""
    c = calls(release="4.1", hosts=1, vms=0)
    local = c.row("SR", "Local storage on host1").ref
    assert "vdi_snapshot" not in c("SR.get_allowed_operations", local)
    c.halt("host1")
    c.install("host1", "5.0.0").sleep(600)
    c = c.again()
    assert {"hba", "equal"} <= set(c("SR.get_supported_types"))
    c.halt("host1")
    c.install("host1", "5.5").sleep(600)
    c = c.again()
    assert "vdi_snapshot" in c("SR.get_allowed_operations", local)
    by_type = {c("SM.get_type", ref): c("SM.get_capabilities", ref) for ref in c("SM.get_all")}
    assert "VDI_SNAPSHOT" in by_type["lvm"]


def test_a_secret_is_introduced_with_its_uuid(c: Any) -> None:
    """As a host that joins brings it along; a uuid is used once."""
    uuid = "6ba7b810-9dad-11d1-80b4-00c04fd430c8"
    ref = c("secret.introduce", uuid, "hush", {"a": "b"})
    assert (c("secret.get_by_uuid", uuid), c("secret.get_other_config", ref)) == (ref, {"a": "b"})
    assert c.refused("secret.introduce", uuid, "other")[0] == "INTERNAL_ERROR"


def test_a_blob_is_held_by_name(c: Any) -> None:
    """Destroyed, storage goes on to name it."""
    sr = c.row("SR", NFS)
    blob = c("SR.create_new_blob", sr.ref, "photo", "image/png", True)
    other = c("blob.create", "", False)
    assert (c("blob.get_mime_type", blob), c("blob.get_public", blob), c("blob.get_size", blob)) == (
        "image/png",
        True,
        0,
    )
    assert c("blob.get_mime_type", other) == "application/octet-stream"
    assert sr["blobs"] == {"photo": blob}
    assert c.refused("SR.create_new_blob", sr.ref, "photo", "", False)[0] == "MAP_DUPLICATE_KEY"
    c("blob.destroy", blob)
    assert sr["blobs"] == {"photo": blob}
    assert c.refused("blob.get_record", blob)[0] == "HANDLE_INVALID"


def test_a_crash_dump_goes_with_its_disk(c: Any) -> None:
    """Where the disk cannot be destroyed, the record goes all the same."""
    sr = c.row("SR", NFS)
    for used in (False, True):
        vdi = c.vbd("vm01", "0")["VDI"] if used else c("VDI.create", image(c, sr, type="crashdump"))
        fields = {"uuid": c.pool.new_uuid(), "VM": c.vm("vm04").ref, "VDI": vdi}
        dump = c.pool.store.create("crashdump", c.pool.new_ref(), fields)
        c("crashdump.destroy", dump.ref)
        assert c.pool.store.find("crashdump", dump.ref) is None
        assert (c.pool.store.find("VDI", vdi) is None) is not used


# --- the pool's database on a disk


def test_the_database_is_kept_on_a_disk(c: Any) -> None:
    """As it is whenever somebody looks, until that is switched off; only storage that every host has will do."""
    assert c.refused("SR.enable_database_replication", c.row("SR", NFS).ref)[0] == "SR_OPERATION_NOT_SUPPORTED"
    sr = made(c, "lvmoiscsi")
    c("SR.enable_database_replication", sr.ref)
    (vdi,) = [c.pool.store.get("VDI", ref) for ref in sr["VDIs"]]
    assert (vdi["type"], vdi["metadata_of_pool"]) == ("metadata", c.pool.store.pool().ref)
    c("VM.set_name_label", c.vm("vm01").ref, "renamed")
    copy = c.pool.store.get("VDI", c("VDI.copy", vdi.ref, c.row("SR", NFS).ref))
    blocks = c.pool.disks[copy["uuid"]].blocks
    assert b"renamed" in b"".join(blocks[number] for number in sorted(blocks))
    c("SR.enable_database_replication", sr.ref)
    assert sr["VDIs"] == [vdi.ref]
    assert c("VDI.read_database_pool_uuid", vdi.ref) == ""
    c("SR.disable_database_replication", sr.ref)
    assert sr["VDIs"] == []


def test_another_pools_database_is_recognised(calls: Make) -> None:
    """By the uuid of that pool; a disk with anything else has none."""
    there, here = calls(release="8.2", hosts=1, vms=1, seed=1), calls(release="8.2", hosts=1, vms=1, seed=2)
    sr = made(there, "lvmoiscsi")
    there("SR.enable_database_replication", sr.ref)
    data = there.pool.disk_of(sr["VDIs"][0]).blocks
    vdi = here("VDI.create", image(here, here.row("SR", NFS), type="metadata"))
    assert here("VDI.read_database_pool_uuid", vdi) == ""
    here.pool.disk_of(vdi).blocks = dict(data)
    assert here("VDI.read_database_pool_uuid", vdi) == there.pool.store.pool()["uuid"]


# --- what high availability needs


def test_protected_vms_stay_agile(c: Any) -> None:
    """While they are protected they get no disk that some host lacks, and keep the storage that they have."""
    vm, sr = c.vm("vm01"), c.row("SR", NFS)
    local = c.row("SR", "Local storage on host1")
    disk = c("VDI.create", image(c, local))
    c.pool.store.write(vm, ha_always_run=True, ha_restart_priority="restart")
    c.pool.store.write(c.pool.store.pool(), ha_enabled=True)
    device = {"VM": vm.ref, "VDI": disk, "userdevice": "7", "bootable": False, "mode": "RW", "type": "Disk"}
    device |= {"empty": False, "other_config": {}, "qos_algorithm_type": "", "qos_algorithm_params": {}}
    assert c.refused("VBD.create", device) == ["HA_OPERATION_WOULD_BREAK_FAILOVER_PLAN"]
    assert c.refused("PBD.unplug", sr["PBDs"][0]) == ["HA_OPERATION_WOULD_BREAK_FAILOVER_PLAN"]
    c("VBD.create", {**device, "VDI": c("VDI.create", image(c, sr))})
    c.pool.store.write(c.pool.store.pool(), ha_allow_overcommit=True)
    c("VBD.create", {**device, "userdevice": "8"})


def test_a_disk_that_is_lost_cannot_be_plugged(c: Any) -> None:
    """Its storage says so."""
    vbd = c.vbd("vm01", "0")
    c("VBD.unplug", vbd.ref)
    del c.pool.disks[c.pool.store.get("VDI", vbd["VDI"])["uuid"]]
    assert c.refused("VBD.plug", vbd.ref)[0] == "SR_BACKEND_FAILURE_46"
