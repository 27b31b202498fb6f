"""Disks: what happens to their content and their records when they are made, copied, moved and destroyed."""

from __future__ import annotations

import base64
from collections.abc import Callable
from typing import Any

import pytest

from mockserver.store import EPOCH, NULL

Make = Callable[..., Any]
NFS, LVM = "NFS virtual disk storage", "Local storage on host1"


@pytest.fixture
def c(calls: Make) -> Any:
    return calls(release="8.2", hosts=2, vms=12)


def image(c: Any, sr: str = NFS, **more: Any) -> dict[str, Any]:
    fields = {"name_label": "data", "name_description": "", "SR": c.row("SR", sr).ref, "virtual_size": 1 << 30}
    return {**fields, "type": "user", "sharable": False, "read_only": False, "other_config": {}, **more}


def vdi(c: Any, ref: str) -> Any:
    return c.pool.store.get("VDI", ref)


def disk(c: Any, ref: str) -> Any:
    return c.pool.disks[vdi(c, ref)["uuid"]]


def usage(c: Any, sr: str) -> tuple[int, int]:
    row = c.row("SR", sr)
    return row["virtual_allocation"], row["physical_utilisation"]


# --- sizes


@pytest.mark.parametrize(
    ("sr", "asked", "got", "taken"), [(NFS, 1, 2 << 20, 2 << 20), (LVM, (4 << 20) + 1, 8 << 20, 8 << 20)]
)
def test_storage_rounds_up(c: Any, sr: str, asked: int, got: int, taken: int) -> None:
    """To what its format can hold; what reserves space takes all of it, and gives it back."""
    before = usage(c, sr)
    ref = c("VDI.create", image(c, sr, virtual_size=asked))
    assert (vdi(c, ref)["virtual_size"], vdi(c, ref)["physical_utilisation"]) == (got, taken)
    assert usage(c, sr) == (before[0] + got, before[1] + taken)
    c("VDI.destroy", ref)
    assert usage(c, sr) == before


def test_storage_has_an_end(c: Any) -> None:
    """What reserves space refuses a disk for which there is no room, new, grown or copied; what does not takes it."""
    full = ["SR_BACKEND_FAILURE_44", "", "There is insufficient space", ""]
    size = c.row("SR", LVM)["physical_size"]
    count = len(c.pool.store.table("VDI"))
    assert c.refused("VDI.create", image(c, LVM, virtual_size=size + (4 << 20))) == full
    first = c("VDI.create", image(c, LVM, virtual_size=size - (8 << 20)))
    assert c.refused("VDI.create", image(c, LVM, virtual_size=12 << 20)) == full
    assert c.refused("VDI.resize", first, size + (4 << 20)) == full
    assert c.refused("VDI.copy", c.vbd("vm04", "0")["VDI"], c.row("SR", LVM).ref) == full
    assert c.refused("VDI.clone", first) == full
    assert len(c.pool.store.table("VDI")) == count + 1
    c("VDI.create", image(c, NFS, virtual_size=c.row("SR", NFS)["physical_size"] * 2))


def test_disks_grow_only(c: Any) -> None:
    """And have a size at all."""
    ref = c("VDI.create", image(c))
    assert c.refused("VDI.resize", ref, 1 << 29)[0] == "SR_BACKEND_FAILURE_79"
    assert c.refused("VDI.create", image(c, virtual_size=0)) == ["SR_BACKEND_FAILURE_79", "", "VDI Invalid size", ""]
    c("VDI.resize", ref, 2 << 30)
    assert vdi(c, ref)["virtual_size"] == 2 << 30


def test_some_disks_are_made_by_nobody(c: Any) -> None:
    """A client does not make what only tracks changes."""
    assert c.refused("VDI.create", image(c, type="cbt_metadata")) == ["VDI_INCOMPATIBLE_TYPE", "", "CBT metadata"]


def test_the_disk_for_backups_has_the_same_uuid_in_every_pool(calls: Make) -> None:
    """It follows from its storage, so that whoever attaches that finds it."""
    uuids = []
    for _ in range(2):
        c = calls(release="XCP-ng 8.3", hosts=1, vms=1, seed=5)
        uuids.append(c("VDI.get_uuid", c("VDI.create", image(c, name_label="Pool Metadata Backup"))))
    assert uuids[0] == uuids[1]
    assert c.refused("VDI.create", image(c, name_label="Pool Metadata Backup"))[0] == "INTERNAL_ERROR"


# --- snapshots and clones


def test_a_snapshot_keeps_what_is_on_a_disk(c: Any) -> None:
    """Its guest writes on, to its own disk only; the record tells what it is a snapshot of."""
    source = c.vbd("vm01", "0")["VDI"]
    c.sleep(100)
    c("VDI.set_name_label", source, "mine")
    ref = c("VDI.snapshot", source)
    row, content = vdi(c, ref), disk(c, ref).digest()
    assert (row["is_a_snapshot"], row["snapshot_of"], row["name_label"]) == (True, source, "mine")
    assert row["snapshot_time"] == c.pool.clock.stamp()
    assert (row["managed"], row["SR"], row["VBDs"]) == (True, vdi(c, source)["SR"], [])
    assert ref in vdi(c, source)["snapshots"]
    assert content == disk(c, source).digest()
    c.sleep(1000)
    assert c.unharmed()
    assert disk(c, ref).digest() == content != disk(c, source).digest()


def test_a_clone_is_a_disk_like_another(c: Any) -> None:
    """With the content of the first, in which nobody sees what is written to it."""
    source = c.vbd("vm04", "0")["VDI"]
    c("VDI.add_to_other_config", source, "key", "value")
    ref = c("VDI.clone", source)
    row = vdi(c, ref)
    assert (row["is_a_snapshot"], row["snapshot_of"], row["other_config"]) == (False, NULL, {"key": "value"})
    assert row["snapshot_time"] == EPOCH
    before = disk(c, source).digest()
    assert disk(c, ref).digest() == before
    disk(c, ref).blocks[99] = b"new"
    assert disk(c, source).digest() == before


def test_tags_go_with_copies(calls: Make, newest: Make) -> None:
    """Not with snapshots and clones, before the toolstack's version 25.37."""
    for c, kept in ((calls(release="8.4", hosts=1, vms=6), []), (newest(hosts=1, vms=6), ["mine"])):
        source = c.vbd("vm04", "0")["VDI"]
        c("VDI.add_tags", source, "mine")
        assert vdi(c, c("VDI.snapshot", source))["tags"] == vdi(c, c("VDI.clone", source))["tags"] == kept
        assert vdi(c, c("VDI.copy", source, vdi(c, source)["SR"]))["tags"] == ["mine"]


@pytest.mark.parametrize("verb", ["snapshot", "clone", "copy"])
def test_what_storage_keeps_for_itself_is_not_taken(c: Any, verb: str) -> None:
    """Such a disk is not managed."""
    ref = c("VDI.create", image(c))
    c.pool.store.write(vdi(c, ref), managed=False)
    args = [c.row("SR", NFS).ref] if verb == "copy" else []
    assert c.refused(f"VDI.{verb}", ref, *args) == ["VDI_NOT_MANAGED", ref]
    assert c.refused("VDI.destroy", ref) == ["VDI_NOT_MANAGED", ref]


def test_storage_that_cannot_clone_copies(calls: Make) -> None:
    """As plain LVM did: it takes the time that the size takes, while the control domain has both disks."""
    c = calls(release="4.0.1", hosts=1, vms=4)
    ref = c("VDI.create", image(c, LVM))
    disk(c, ref).blocks[3] = b"content"
    before = c.pool.clock.now()
    new = c("VDI.clone", ref)
    assert c.pool.clock.now() - before > (1 << 30) / c.pool.durations.copy_rate
    assert disk(c, new).blocks == {3: b"content"}
    assert c.refused("VDI.snapshot", ref) == ["SR_OPERATION_NOT_SUPPORTED", c.row("SR", LVM).ref]


@pytest.mark.parametrize("release", ["4.0.1", "8.2"])
def test_a_disk_that_storage_lost_cannot_be_read(calls: Make, release: str) -> None:
    """Whatever the database says."""
    c = calls(release=release, hosts=1, vms=1)
    ref = c("VDI.create", image(c))
    del c.pool.disks[vdi(c, ref)["uuid"]]
    assert c.refused("VDI.snapshot", ref)[0] == "SR_BACKEND_FAILURE_46"
    assert c.refused("VDI.resize", ref, 2 << 30)[0] == "SR_BACKEND_FAILURE_46"


# --- copies


def test_a_copy_takes_time_and_tells_how_far_it_is(c: Any) -> None:
    """The control domain has both disks meanwhile; the copy can be written and is no snapshot."""
    source, target = c.vbd("vm04", "0")["VDI"], c.row("SR", LVM)
    c.pool.store.write(vdi(c, source), read_only=True)
    task = c.start("VDI.copy", source, target.ref)
    seen = set()
    while task["status"] == "pending":
        seen.add(round(c("task.get_progress", task.ref), 1))
        c.sleep(5)
    assert seen >= {0.1, 0.5, 0.9}
    assert task["status"] == "success"
    ref = c.pool.store.table("VDI")
    (new,) = [row for row in ref.values() if row["SR"] == target.ref]
    assert (new["read_only"], new["virtual_size"], new["VBDs"]) == (False, 8 << 30, [])
    assert disk(c, new.ref).digest() == disk(c, source).digest()
    assert vdi(c, source)["VBDs"] == [c.vbd("vm04", "0").ref]


def test_a_copy_goes_into_a_disk_that_is_there(c: Any) -> None:
    """If it can be written and is large enough; of a disk with a base only what differs is taken."""
    source = c("VDI.create", image(c))
    disk(c, source).blocks.update({1: b"one", 2: b"two"})
    base = c("VDI.snapshot", source)
    disk(c, source).blocks[2] = b"other"
    into = c("VDI.create", image(c, LVM))
    disk(c, into).blocks[7] = b"was there"
    assert c("VDI.copy", source, NULL, base, into) == into
    assert disk(c, into).blocks == {2: b"other", 7: b"was there"}
    c("VDI.copy", source, NULL, NULL, into)
    assert disk(c, into).blocks == {1: b"one", 2: b"other"}
    small = c("VDI.create", image(c, virtual_size=1 << 20))
    assert c.refused("VDI.copy", source, NULL, NULL, small) == ["VDI_TOO_SMALL", small, str(1 << 30)]
    c.pool.store.write(vdi(c, into), read_only=True)
    assert c.refused("VDI.copy", source, NULL, NULL, into) == ["VDI_READONLY", into]


def test_a_disabled_host_copies(calls: Make) -> None:
    """It takes no VMs, but works on disks."""
    c = calls(release="8.2", hosts=1, vms=6)
    c("host.disable", c.host("host1").ref)
    source = c.vbd("vm04", "0")["VDI"]
    assert disk(c, c("VDI.copy", source, vdi(c, source)["SR"])).digest() == disk(c, source).digest()


@pytest.mark.parametrize("end", ["cancelled", "lost"])
def test_a_copy_that_ends_early_leaves_nothing(c: Any, end: str) -> None:
    """Cancelled, or with the host gone that did it: the half-made disk and the control domain's devices go."""
    tables = {name: set(c.pool.store.table(name)) for name in ("VDI", "VBD")}
    task = c.start("VDI.copy", c.vbd("vm04", "0")["VDI"], c.row("SR", NFS).ref)
    c.sleep(30)
    assert set(c.pool.store.table("VBD")) > tables["VBD"]
    if end == "cancelled":
        c("task.cancel", task.ref)
    else:
        c.pool.machine("host2").power_off()
    c.sleep(120)
    assert task["status"] == {"cancelled": "cancelled", "lost": "failure"}[end]
    assert {name: set(c.pool.store.table(name)) for name in tables} == tables
    assert vdi(c, c.vbd("vm04", "0")["VDI"])["current_operations"] == {}


def test_a_disk_in_use_is_not_copied(c: Any) -> None:
    """While somebody may write to it."""
    source = c.vbd("vm01", "0")["VDI"]
    assert c.refused("VDI.copy", source, c.row("SR", NFS).ref) == ["VDI_IN_USE", source, "copy"]


# --- moving while in use


def test_a_disk_moves_under_a_running_guest(c: Any) -> None:
    """It has another record and another uuid; the guest writes on and loses nothing."""
    vm, vbd, target = c.vm("vm01"), c.vbd("vm01", "0"), c.row("SR", LVM)
    assert vm["resident_on"] == c.host("host1").ref
    old, uuid = vbd["VDI"], c("VDI.get_uuid", vbd["VDI"])
    c.sleep(50)
    task = c.start("VDI.pool_migrate", old, target.ref, {})
    c.sleep(5)
    assert vdi(c, old)["current_operations"] == {task.ref: "mirror"}
    assert vm["current_operations"] == {task.ref: "migrate_send"}
    c.sleep(600)
    assert task["status"] == "success"
    assert vbd["VDI"] != old
    assert c.refused("VDI.get_record", old)[0] == "HANDLE_INVALID"
    assert vdi(c, vbd["VDI"])["SR"] == target.ref
    assert uuid not in c.pool.disks
    c.sleep(500)
    assert c.unharmed()
    assert len(disk(c, vbd["VDI"]).writers) == 1


def test_a_disk_moves_only_with_a_vm(c: Any) -> None:
    """One that no VM has stays, whatever would see it there."""
    ref = c("VDI.create", image(c))
    assert c.refused("VDI.pool_migrate", ref, c.row("SR", LVM).ref, {}) == ["VDI_NEEDS_VM_FOR_MIGRATE", ref]


@pytest.mark.parametrize("name", ["vm04", "vm06"])
def test_a_disk_of_a_vm_that_is_off_moves_where_it_could_run(c: Any, name: str) -> None:
    """Since 7.0. A host that sees both is held meanwhile; the VM stays off, or suspended."""
    vm, vbd, target = c.vm(name), c.vbd(name, "0"), c.row("SR", "Local storage on host2")
    state = vm["power_state"]
    task = c.start("VDI.pool_migrate", vbd["VDI"], target.ref, {})
    c.sleep(5)
    assert list(c.host("host2")["current_operations"].values()) == ["vm_migrate"]
    assert vm["scheduled_to_be_resident_on"] == c.host("host2").ref
    c.sleep(600)
    assert task["status"] == "success"
    assert vdi(c, vbd["VDI"])["SR"] == target.ref
    assert (vm["power_state"], vm["resident_on"], vm["scheduled_to_be_resident_on"]) == (state, NULL, NULL)
    c("VM.start" if state == "Halted" else "VM.resume", vm.ref, False, False)
    assert vm["resident_on"] == c.host("host2").ref
    assert c.unharmed()


def test_a_disk_of_a_vm_that_could_run_nowhere_stays(c: Any) -> None:
    """Neither where no host that sees the storage is enabled, nor where none has room."""
    vm, vbd, target = c.vm("vm04"), c.vbd("vm04", "0"), c.row("SR", "Local storage on host2")
    c("host.disable", c.host("host2").ref)
    assert c.refused("VDI.pool_migrate", vbd["VDI"], target.ref, {}) == ["NO_HOSTS_AVAILABLE"]
    c("host.enable", c.host("host2").ref)
    c.pool.store.write(vm, memory_static_max=1 << 50, memory_dynamic_max=1 << 50)
    assert c.refused("VDI.pool_migrate", vbd["VDI"], target.ref, {}) == ["NO_HOSTS_AVAILABLE"]


def test_a_vm_follows_its_disk_to_a_host_that_sees_the_storage(c: Any) -> None:
    """Since 7.0; it goes on running, and is announced by nothing."""
    vm, vbd, target = c.vm("vm01"), c.vbd("vm01", "0"), c.row("SR", "Local storage on host2")
    assert vm["resident_on"] == c.host("host1").ref
    messages = len(c("message.get_all"))
    c("VDI.pool_migrate", vbd["VDI"], target.ref, {})
    assert (vm["power_state"], vm["resident_on"]) == ("Running", c.host("host2").ref)
    assert vdi(c, vbd["VDI"])["SR"] == target.ref
    assert len(c("message.get_all")) == messages
    c.sleep(100)
    assert c.unharmed()


def test_two_local_disks_of_a_vm_do_not_part(c: Any) -> None:
    """No host would see both."""
    vm, one, two = c.vm("vm01"), c.row("SR", "Local storage on host1"), c.row("SR", "Local storage on host2")
    other = c("VDI.create", {**image(c), "SR": one.ref})
    vbd = {
        "VM": vm.ref,
        "VDI": other,
        "userdevice": "5",
        "bootable": False,
        "mode": "RW",
        "type": "Disk",
        "empty": False,
    }
    c("VBD.create", {**vbd, "other_config": {}, "qos_algorithm_type": "", "qos_algorithm_params": {}})
    assert c.refused("VDI.pool_migrate", c.vbd("vm01", "0")["VDI"], two.ref, {}) == ["NO_HOSTS_AVAILABLE"]


def test_a_disk_whose_changes_are_tracked_stays(c: Any) -> None:
    """Since 7.3."""
    ref = c.vbd("vm01", "0")["VDI"]
    c("VDI.enable_cbt", ref)
    assert c.refused("VDI.pool_migrate", ref, c.row("SR", LVM).ref, {}) == ["VDI_CBT_ENABLED", ref]


@pytest.mark.parametrize("release", ["6.2", "6.5"])
def test_up_to_6_5_a_disk_moved_only_under_a_vm_that_runs_where_it_is(calls: Make, release: str) -> None:
    """And only one that nobody else had attached."""
    c = calls(release=release, hosts=3, vms=12)
    ref, target = c.vbd("vm04", "0")["VDI"], c.row("SR", "Local storage on host2")
    assert c.refused("VDI.pool_migrate", ref, target.ref, {}) == ["VDI_NEEDS_VM_FOR_MIGRATE", ref]
    vm = c.vm("vm01")
    ref = c.vbd("vm01", "0")["VDI"]
    assert c.refused("VDI.pool_migrate", ref, target.ref, {}) == ["VM_REQUIRES_SR", vm.ref, target.ref]
    assert c("VDI.pool_migrate", ref, c.row("SR", LVM).ref, {}) == c.vbd("vm01", "0")["VDI"]
    assert c.unharmed()


# --- destroying


def test_a_disk_goes_with_its_devices(c: Any) -> None:
    """One that holds suspended memory is not named any more."""
    vbd = c.vbd("vm04", "0")
    source = vbd["VDI"]
    c("VDI.destroy", source)
    assert c.refused("VBD.get_record", vbd.ref)[0] == "HANDLE_INVALID"
    assert vbd.ref not in c.vm("vm04")["VBDs"]


def test_data_is_destroyed_while_its_changes_are_known(c: Any) -> None:
    """Only of a snapshot that tracks changes; the bytes go, the record stays and still tells what differs."""
    source = c("VDI.create", image(c))
    c("VDI.enable_cbt", source)
    disk(c, source).blocks.update({0: b"a", 9: b"b"})
    first = c("VDI.snapshot", source)
    disk(c, source).blocks[9] = b"c"
    second = c("VDI.snapshot", source)
    assert vdi(c, first)["cbt_enabled"] is True
    c("VDI.data_destroy", first)
    row = vdi(c, first)
    assert (row["type"], row["physical_utilisation"], disk(c, first).blocks) == ("cbt_metadata", 0, {})
    bits = base64.b64decode(c("VDI.list_changed_blocks", first, second))
    assert len(bits) == (1 << 30) // 65536 // 8
    assert [n for n in range(16) if bits[n // 8] & (0x80 >> n % 8)] == [9]
    assert c.refused("VDI.clone", first) == ["VDI_INCOMPATIBLE_TYPE", first, "CBT metadata"]
    c("VDI.data_destroy", first)
    c("VDI.destroy", first)


def test_data_in_use_is_not_destroyed(c: Any) -> None:
    """It waits a moment for devices to go, then leaves all as it was."""
    source = c.vbd("vm04", "0")["VDI"]
    c("VDI.enable_cbt", source)
    snapshot = c("VDI.snapshot", source)
    device = {
        "VM": c.vm("vm08").ref,
        "VDI": snapshot,
        "userdevice": "5",
        "bootable": False,
        "mode": "RW",
        "type": "Disk",
    }
    device |= {"empty": False, "other_config": {}, "qos_algorithm_type": "", "qos_algorithm_params": {}}
    vbd = c("VBD.create", device)
    before = disk(c, snapshot).digest()
    assert c.refused("VDI.data_destroy", snapshot) == ["VDI_IN_USE", snapshot, "data_destroy"]
    assert (vdi(c, snapshot)["type"], disk(c, snapshot).digest()) == ("system", before)
    task = c.start("VDI.data_destroy", snapshot)
    c.sleep(2)
    c("VBD.destroy", vbd)
    c.sleep(0.1)
    assert task["status"] == "success"
    assert disk(c, snapshot).blocks == {}


def test_changes_are_told_of_disks_that_track_them(c: Any) -> None:
    """Of no others; tracking is switched on and off."""
    source = c("VDI.create", image(c))
    snapshot = c("VDI.snapshot", source)
    assert c.refused("VDI.list_changed_blocks", snapshot, source)[0] == "SR_BACKEND_FAILURE_460"
    c("VDI.enable_cbt", source)
    assert vdi(c, source)["cbt_enabled"] is True
    c("VDI.disable_cbt", source)
    assert vdi(c, source)["cbt_enabled"] is False


# --- forgetting and introducing


def test_a_forgotten_disk_is_found_by_a_scan(c: Any) -> None:
    """The record went, the bytes stayed: it comes back under its uuid, with what storage knows of it."""
    sr, source = c.row("SR", NFS), c.vbd("vm04", "0")
    uuid, content = c("VDI.get_uuid", source["VDI"]), disk(c, source["VDI"]).digest()
    snapshot = c("VDI.snapshot", source["VDI"])
    before = usage(c, NFS)
    c("VDI.forget", source["VDI"])
    assert c.refused("VDI.get_by_uuid", uuid) == ["UUID_INVALID", "VDI", uuid]
    assert c.pool.store.find("VBD", source.ref) is None
    assert usage(c, NFS)[0] == before[0] - (8 << 30)
    c("SR.scan", sr.ref)
    again = c("VDI.get_by_uuid", uuid)
    assert (vdi(c, again)["name_label"], disk(c, again).digest()) == ("disk of vm04", content)
    assert usage(c, NFS) == before
    assert vdi(c, snapshot)["is_a_snapshot"]


def test_a_scan_drops_what_is_gone(c: Any) -> None:
    """The record of a disk that storage has lost goes; a drive that held it is empty."""
    disc, drive = c.row("VDI", "debian-etch.iso"), c.vbd("vm02", "3")
    assert drive["VDI"] == disc.ref
    del c.pool.disks[disc["uuid"]]
    c("SR.scan", c.row("SR", "ISO library").ref)
    assert c.pool.store.find("VDI", disc.ref) is None
    assert (drive["VDI"], drive["empty"]) == (NULL, True)


def test_a_plugin_that_cannot_look_is_told(c: Any) -> None:
    """Others find their disks themselves; a place holds one disk."""
    args = ["", "cd", "", c.row("SR", NFS).ref, "user", False, True, {}, "/dev/sr0"]
    assert c.refused("VDI.introduce", *args) == ["SR_OPERATION_NOT_SUPPORTED", c.row("SR", NFS).ref]
    host = c.host("host1").ref
    sr = c("SR.create", host, {"location": "/dev/xapi/cd"}, 0, "drives", "", "udev", "iso", False, {})
    args[3] = sr
    ref = c("VDI.introduce", *args)
    row = vdi(c, ref)
    assert (row["name_label"], row["location"], row["SR"], row["managed"]) == ("cd", "/dev/sr0", sr, True)
    assert c.refused("VDI.introduce", *args) == ["LOCATION_NOT_UNIQUE", sr, "/dev/sr0"]
    assert c.refused("VDI.destroy", ref) == ["SR_OPERATION_NOT_SUPPORTED", sr]


def test_a_drive_of_a_host_is_no_disk_to_destroy(c: Any) -> None:
    """Whatever its plugin can; the tools' image is none either."""
    host = c.host("host1").ref
    sr = c("SR.create", host, {"location": "/dev/xapi/cd"}, 0, "drives", "", "udev", "iso", False, {})
    ref = c("VDI.introduce", "", "cd", "", sr, "user", False, True, {}, "/dev/sr0")
    (plugin,) = [row for row in c.pool.store.table("SM").values() if row["type"] == "udev"]
    c.pool.store.write(plugin, capabilities=[*plugin["capabilities"], "VDI_DELETE"], features={"VDI_DELETE": 1})
    assert c.refused("VDI.destroy", ref) == ["VDI_IS_A_PHYSICAL_DEVICE", ref]
    assert "destroy" not in vdi(c, ref)["allowed_operations"]
    assert c.pool.store.find("VDI", ref) is not None


def test_a_host_that_joins_brings_records(c: Any) -> None:
    """With a uuid that looks like one, at a place that is free."""
    sr = c.row("SR", NFS).ref
    uuid = "6ba7b810-9dad-11d1-80b4-00c04fd430c8"
    args = ["x", "", sr, "user", False, False, {}, "there"]
    ref = c("VDI.pool_introduce", uuid, *args, {}, {}, True, 1 << 30, 0)
    assert (vdi(c, ref)["uuid"], vdi(c, ref)["virtual_size"], vdi(c, ref)["snapshot_of"]) == (uuid, 1 << 30, NULL)
    assert c.refused("VDI.pool_introduce", uuid, *args) == ["LOCATION_NOT_UNIQUE", sr, "there"]
    assert c.refused("VDI.pool_introduce", "no uuid", *args[:-1], "here") == ["UUID_INVALID", "VDI", "no uuid"]


# --- what is said of them


@pytest.mark.parametrize("field", ["sharable", "read_only", "managed", "missing", "is_a_snapshot"])
def test_some_fields_are_a_plugins_own(c: Any, field: str) -> None:
    """Other clients may not write them; a session that a plugin made may, for its own storage."""
    ref = c("VDI.create", image(c))
    assert c.refused(f"VDI.set_{field}", ref, True) == ["PERMISSION_DENIED", ""]
    c("session.add_to_other_config", c.session, "_sm_session", vdi(c, ref)["SR"])
    c(f"VDI.set_{field}", ref, True)
    assert vdi(c, ref)[field] is True
    c("VDI.db_forget", ref)
    assert c.pool.store.find("VDI", ref) is None


def test_a_name_is_told_to_storage(calls: Make) -> None:
    """So since 6.1 storage must be plugged for it; before it was only written down."""
    for release, code in (("6.0", None), ("8.2", "SR_HAS_NO_PBDS")):
        c = calls(release=release, hosts=1, vms=4)
        (pbd,) = c.row("SR", LVM)["PBDs"]
        ref = c("VDI.create", image(c, LVM))
        c("PBD.unplug", pbd)
        if code:
            assert c.refused("VDI.set_name_label", ref, "new") == [code, c.row("SR", LVM).ref]
            c("PBD.plug", pbd)
        c("VDI.set_name_label", ref, "new")
        assert vdi(c, ref)["name_label"] == "new"


def test_some_things_are_set_at_rest(c: Any) -> None:
    """While a VM that has the disk runs, what happens to it at the next boot is not changed."""
    used, free = c.vbd("vm01", "0")["VDI"], c.vbd("vm04", "0")["VDI"]
    error = ["VM_BAD_POWER_STATE", c.vm("vm01").ref, "halted", "running"]
    assert c.refused("VDI.set_on_boot", used, "reset") == c.refused("VDI.set_allow_caching", used, True) == error
    c("VDI.set_on_boot", free, "reset")
    c("VDI.set_allow_caching", free, True)
    assert (vdi(c, free)["on_boot"], vdi(c, free)["allow_caching"]) == ("reset", True)
    assert c.refused("VDI.snapshot", free) == ["VDI_ON_BOOT_MODE_INCOMPATIBLE_WITH_OPERATION"]


def test_a_disk_can_be_asked_about(c: Any) -> None:
    """Its digest follows its content; a host's way to it its configuration; over the network only where a network is for
    that."""
    source = c("VDI.create", image(c))
    disk(c, source).blocks[1] = b"x"
    clone = c("VDI.clone", source)
    assert c("VDI.checksum", source) == c("VDI.checksum", clone)
    disk(c, clone).blocks[1] = b"y"
    assert c("VDI.checksum", source) != c("VDI.checksum", clone)
    assert vdi(c, source)["uuid"] in c("VDI.generate_config", c.host("host1").ref, source)
    assert c.refused("VDI.generate_config", c.host("host1").ref, c("VDI.create", image(c, LVM)))[0] == (
        "SR_OPERATION_NOT_SUPPORTED"
    )
    assert c("VDI.get_nbd_info", source) == []
    network = next(iter(c.pool.store.table("network").values()))
    c.pool.store.write(network, purpose=["nbd"])
    told = c("VDI.get_nbd_info", source)
    assert {entry["address"] for entry in told} == {c.host(name)["address"] for name in ("host1", "host2")}
    assert c.refused("VDI.force_unlock", source) == ["MESSAGE_DEPRECATED"]
