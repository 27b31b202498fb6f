"""What may be done to storage, disks and block devices: what is listed is what is not refused, whatever happens."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from mockserver import MockPool, checks, rules, storage_rules
from mockserver.store import NULL, Row
from xenctl import datamodel
from xenctl.errors import Failure
from xenctl.releases import find

Make = Callable[..., Any]
RELEASES = ("4.0.1", "5.5", "6.0", "6.2", "7.3", "8.2", "XCP-ng 8.3")
ENUMS = datamodel.load().enums


def refused(pool: MockPool, row: Row, operation: str) -> bool:
    """Whether the rules refuse an operation; for block devices those that lists go by."""
    store = pool.store
    if row.table == "VBD":
        return checks.vbd_refused(store, row, operation, full=False) is not None
    return {"SR": storage_rules.sr_refused, "VDI": storage_rules.vdi_refused}[row.table](
        store, row, operation
    ) is not None


def listable(pool: MockPool, table: str) -> set[str]:
    """The operations that a list of this release may hold."""
    release = pool.store.release
    names = {"SR": storage_rules.sr_operations, "VDI": storage_rules.vdi_operations, "VBD": checks.vbd_operations}
    return set(names[table](release))


def wrong_lists(pool: MockPool) -> Iterator[str]:
    """Each object and operation of the whole enum where the list and the rules disagree."""
    enums = {"SR": "storage_operations", "VDI": "vdi_operations", "VBD": "vbd_operations"}
    for table, enum in enums.items():
        may = listable(pool, table)
        for row in pool.store.table(table).values():
            for operation in ENUMS[enum]:
                allowed = operation in may and not refused(pool, row, operation)
                if allowed != (operation in row["allowed_operations"]):
                    yield f"{table} {row.get('name_label', row['uuid'])}: {operation} allowed: {allowed}"


def miscounted(pool: MockPool) -> list[str]:
    """The storage whose sizes are not those of its disks together."""
    out = []
    for sr in pool.store.table("SR").values():
        disks = [pool.store.get("VDI", ref) for ref in sr["VDIs"]]
        sums = [sum(disk[field] for disk in disks) for field in ("virtual_size", "physical_utilisation")]
        if [sr["virtual_allocation"], sr["physical_utilisation"]] != sums:
            out.append(sr["name_label"])
    return out


@pytest.mark.parametrize("release", RELEASES)
def test_a_new_pool_lists_what_is_allowed(release: str) -> None:
    """For every storage, disk and block device and every operation that there is."""
    pool = MockPool.create(hosts=3, vms=12, release=release)
    assert list(wrong_lists(pool)) == []
    assert miscounted(pool) == []


@pytest.mark.parametrize("release", RELEASES)
@pytest.mark.parametrize("seed", range(3))
def test_lists_stay_right_whatever_is_done(calls: Make, release: str, seed: int) -> None:
    """After each of many calls, refused ones too, also while operations go on; so do the sizes of storage."""
    c = calls(release=release, hosts=2, vms=12)
    choose = random.Random(f"{release} {seed}")
    done, errors = 0, set()
    for _ in range(60):
        method, args = a_call(c, choose)
        try:
            c(f"Async.{method}" if choose.random() < 0.5 else method, *args)
            done += 1
        except Failure as error:
            errors.add((error.code, method))
        assert list(wrong_lists(c.pool)) == [], method
        c.sleep(choose.choice((0, 0.5, 3, 200)))
        assert list(wrong_lists(c.pool)) == [], f"after {method}"
        assert miscounted(c.pool) == [], method
    assert done > 10
    errors.discard(("INTERNAL_ERROR", "VDI.copy"))  # no host sees the storage
    assert not {code for code, _ in errors} & {"INTERNAL_ERROR", "MESSAGE_PARAMETER_COUNT_MISMATCH"}, errors
    c.sleep(4000)
    assert all(
        row["current_operations"] == {} for table in ("SR", "VDI", "VBD") for row in c.pool.store.table(table).values()
    )


def a_call(c: Any, choose: random.Random) -> tuple[str, list[Any]]:
    """A call that some client might make."""
    store = c.pool.store

    def some(table: str) -> str:
        return choose.choice(sorted(store.table(table))) if store.table(table) else NULL

    image = {"name_label": "x", "name_description": "", "SR": some("SR"), "virtual_size": 1 << 22, "type": "user"}
    image |= {"sharable": choose.random() < 0.3, "read_only": False, "other_config": {}}
    device = {"VM": some("VM"), "VDI": some("VDI"), "userdevice": "autodetect", "bootable": False, "mode": "RW"}
    device |= {"type": "Disk", "empty": False, "other_config": {}, "qos_algorithm_type": "", "qos_algorithm_params": {}}
    calls: dict[str, list[Any]] = {
        "VDI.create": [image],
        "VDI.destroy": [some("VDI")],
        "VDI.snapshot": [some("VDI")],
        "VDI.clone": [some("VDI")],
        "VDI.copy": [some("VDI"), some("SR")],
        "VDI.resize": [some("VDI"), choose.choice((1 << 20, 16 << 30))],
        "VDI.forget": [some("VDI")],
        "VBD.create": [device],
        "VBD.destroy": [some("VBD")],
        "VBD.plug": [some("VBD")],
        "VBD.unplug": [some("VBD")],
        "VBD.eject": [some("VBD")],
        "VBD.insert": [some("VBD"), some("VDI")],
        "VM.start": [some("VM"), False, False],
        "VM.hard_shutdown": [some("VM")],
        "VM.suspend": [some("VM")],
        "VM.pause": [some("VM")],
        "VM.destroy": [some("VM")],
        "PBD.plug": [some("PBD")],
        "PBD.unplug": [some("PBD")],
        "SR.scan": [some("SR")],
        "SR.forget": [some("SR")],
        "SR.destroy": [some("SR")],
    }
    if store.release >= find("7.3"):
        calls["VDI.enable_cbt"] = [some("VDI")]
        calls["VDI.data_destroy"] = [some("VDI")]
        calls["VDI.pool_migrate"] = [some("VDI"), some("SR"), {}]
    method = choose.choice(sorted(calls))
    return method, calls[method]


def test_lists_follow_what_is_written_behind_the_pools_back(calls: Make) -> None:
    """Who asks next sees them right, however the row was changed."""
    c = calls(hosts=1, vms=4, release="8.2")
    vbd = c.vbd("vm04", "0")
    assert "destroy" in c("VDI.get_allowed_operations", vbd["VDI"])
    c.pool.store.write(vbd, currently_attached=True)
    assert "destroy" not in c("VDI.get_allowed_operations", vbd["VDI"])
    c.pool.store.delete(vbd)
    assert "destroy" in c("VDI.get_allowed_operations", vbd["VDI"])


def test_lists_follow_hosts_that_come_and_go(calls: Make) -> None:
    """A host's own storage is out of reach while it is down, and so are disks on it."""
    c = calls(hosts=2, vms=4, release="8.2")
    sr = c.row("SR", "Local storage on host2")
    assert "forget" not in sr["allowed_operations"]
    c.pool.machine("host2").power_off()
    c.pool.machine("host2").power_on()
    for _ in range(40):
        c.sleep(30)
        assert list(wrong_lists(c.pool)) == []
    assert c.pool.machine("host2").xapi.complete


@pytest.mark.parametrize("release", ["6.0", "7.3", "7.6", "8.2"])
def test_while_versions_are_mixed_little_may_be_done(calls: Make, release: str) -> None:
    """Storage is restricted since 7.6, disks since 7.3; before, lists are as ever."""
    c = calls(hosts=2, vms=4, release=release)
    pool, sr, vdi = c.pool, c.row("SR", "NFS virtual disk storage"), c.row("VDI", "disk of vm04")
    before = set(sr["allowed_operations"])
    pool.store.write(pool.store.pool(), other_config={rules.KEY: "true"})
    pool.settle("test")
    restricted = storage_rules.NOT_DURING_UPGRADE if find(release) >= find("7.6") else frozenset()
    assert set(sr["allowed_operations"]) == before - restricted
    assert list(wrong_lists(pool)) == []
    if find(release) >= find("7.3"):
        assert refusal(pool, vdi, "mirror") == ["NOT_SUPPORTED_DURING_UPGRADE"]
        assert refusal(pool, vdi, "snapshot") is None
    if find(release) >= find("7.6"):
        assert c.refused("VDI.enable_cbt", vdi.ref) == ["NOT_SUPPORTED_DURING_UPGRADE"]


def refusal(pool: MockPool, row: Row, operation: str) -> list[str] | None:
    rule = {"SR": storage_rules.sr_refused, "VDI": storage_rules.vdi_refused}[row.table]
    error = rule(pool.store, row, operation)
    return error.details if error else None


# --- one thing at a time


def test_storage_does_one_thing_at_a_time(calls: Make) -> None:
    """Only connections are plugged side by side; the error names what goes on."""
    c = calls(hosts=2, vms=4, release="XCP-ng 8.3")
    sr = c.row("SR", "NFS virtual disk storage")
    task = c.start("SR.scan", sr.ref)
    assert sr["current_operations"] == {task.ref: "scan"}
    assert sr["allowed_operations"] == []
    busy = ["OTHER_OPERATION_IN_PROGRESS", "SR", sr.ref, "scan"]
    assert c.refused_at_once("VDI.create", image(c)) == busy
    assert c.refused_at_once("PBD.plug", sr["PBDs"][0]) == busy
    c.sleep(10)
    task = c.start("VDI.create", image(c))
    busy = ["OTHER_OPERATION_IN_PROGRESS", "SR", sr.ref, "VDI.create"]
    assert c.refused_at_once("SR.scan", sr.ref) == busy
    c.sleep(10)
    assert (task["status"], sr["current_operations"]) == ("success", {})
    assert "scan" in sr["allowed_operations"]


@pytest.mark.parametrize("release", ["5.5", "8.2", "XCP-ng 8.3"])
def test_a_disk_does_one_thing_at_a_time(calls: Make, release: str) -> None:
    """The error says what goes on only to who wants to attach the disk."""
    c = calls(hosts=2, vms=4, release=release)
    vdi = c.row("VDI", "disk of vm04")
    task = c.start("VDI.resize", vdi.ref, 9 << 30)
    assert vdi["current_operations"] == {task.ref: "resize"}
    assert vdi["allowed_operations"] == []
    error = refusal(c.pool, vdi, "snapshot")
    assert error == ["OTHER_OPERATION_IN_PROGRESS", "VDI", vdi.ref]
    vbd = c.vbd("vm04", "0")
    blocked = checks.vbd_refused(c.pool.store, vbd, "attach")
    assert blocked is not None
    assert blocked.details == [*error, "resize"]
    assert "attach" not in vbd["allowed_operations"]
    c.sleep(10)
    assert "attach" in vbd["allowed_operations"]


def test_a_copy_excludes_little(calls: Make) -> None:
    """A disk that is copied may be cloned, but not snapshotted, destroyed or started from meanwhile."""
    c = calls(hosts=2, vms=4, release="8.2")
    vdi, sr = c.row("VDI", "disk of vm04"), c.row("SR", "NFS virtual disk storage")
    task = c.start("VDI.copy", vdi.ref, sr.ref)
    c.sleep(20)
    assert 0 < c("task.get_progress", task.ref) < 1
    assert vdi["current_operations"] == {task.ref: "copy"}
    assert set(vdi["allowed_operations"]) == {"clone", "copy"}
    assert c.refused("VDI.destroy", vdi.ref) == ["VDI_IN_USE", vdi.ref, "destroy"]
    text = "Snapshot operation not allowed during copy."
    assert c.refused("VDI.snapshot", vdi.ref) == ["OPERATION_NOT_ALLOWED", text]
    c.sleep(600)
    assert task["status"] == "success"
    assert {"destroy", "snapshot"} <= set(vdi["allowed_operations"])


def image(c: Any, **more: Any) -> dict[str, Any]:
    fields = {"name_label": "data", "name_description": "", "SR": c.row("SR", "NFS virtual disk storage").ref}
    fields |= {"virtual_size": 1 << 30, "type": "user", "sharable": False, "read_only": False, "other_config": {}}
    return {**fields, **more}


# --- what the plugin can


@pytest.mark.parametrize(
    ("release", "kind", "lacks"),
    [
        ("4.0.1", "lvm", {"vdi_snapshot", "vdi_introduce"}),
        ("4.0.1", "nfs", {"vdi_introduce"}),
        ("5.5", "lvm", {"vdi_introduce"}),
        ("8.2", "nfs", {"vdi_introduce"}),
        ("8.2", "udev", storage_rules.NOT_DURING_UPGRADE | {"vdi_create", "vdi_destroy", "vdi_resize", "vdi_snapshot"}),
    ],
)
def test_a_plugin_decides_what_its_storage_can(calls: Make, release: str, kind: str, lacks: set[str]) -> None:
    """By its capabilities, which grew with the releases."""
    c = calls(hosts=1, vms=1, release=release)
    ref = c("SR.introduce", "", "new", "", kind, "user", False, *([{}] if release != "4.0.1" else []))
    sr = c.pool.store.get("SR", ref)
    checked = {
        "vdi_create",
        "vdi_destroy",
        "vdi_resize",
        "vdi_snapshot",
        "vdi_introduce",
        *storage_rules.NOT_DURING_UPGRADE,
    }
    known = set(storage_rules.sr_operations(find(release)))
    assert (checked & known) - set(sr["allowed_operations"]) == lacks & known
    if "vdi_create" in lacks:
        assert c.refused("VDI.create", image(c, SR=ref)) == ["SR_OPERATION_NOT_SUPPORTED", ref]


def test_a_plugin_that_learns_is_heard(calls: Make) -> None:
    """What its row tells counts, whatever the product brought."""
    c = calls(hosts=1, vms=4, release="6.2")
    vdi, nfs = c.row("VDI", "disk of vm01"), next(r for r in c.pool.store.table("SM").values() if r["type"] == "nfs")
    sr = c.row("SR", "NFS virtual disk storage")
    assert c.refused("VDI.resize_online", vdi.ref, 9 << 30) == ["SR_OPERATION_NOT_SUPPORTED", sr.ref]
    c.pool.store.write(nfs, features={**nfs["features"], "VDI_RESIZE_ONLINE": 1})
    c.pool.settle("test")
    assert "resize_online" in vdi["allowed_operations"]
    c("VDI.resize_online", vdi.ref, 9 << 30)
    assert vdi["virtual_size"] == 9 << 30


OF_HA = "VDI containing HA statefile or redo log cannot be copied (check the VDI's allowed operations)."


@pytest.mark.parametrize(
    ("fields", "operation", "error"),
    [
        ({"sharable": True}, "snapshot", ["VDI_IS_SHARABLE", "ref"]),
        ({"on_boot": "reset"}, "snapshot", ["VDI_ON_BOOT_MODE_INCOMPATIBLE_WITH_OPERATION"]),
        ({"on_boot": "reset"}, "copy", ["VDI_ON_BOOT_MODE_INCOMPATIBLE_WITH_OPERATION"]),
        ({"type": "rrd"}, "destroy", ["VDI_HAS_RRDS", "ref"]),
        ({"type": "rrd"}, "forget", ["VDI_HAS_RRDS", "ref"]),
        ({"type": "cbt_metadata"}, "clone", ["VDI_INCOMPATIBLE_TYPE", "ref", "CBT metadata"]),
        ({"type": "suspend"}, "enable_cbt", ["VDI_INCOMPATIBLE_TYPE", "ref", "Suspend"]),
        ({"is_a_snapshot": True}, "disable_cbt", ["OPERATION_NOT_ALLOWED", "VDI is a snapshot: ref"]),
        ({"on_boot": "reset"}, "enable_cbt", ["VDI_ON_BOOT_MODE_INCOMPATIBLE_WITH_OPERATION"]),
        ({"cbt_enabled": True}, "mirror", ["VDI_CBT_ENABLED", "ref"]),
        ({"cbt_enabled": True}, "set_on_boot", ["VDI_CBT_ENABLED", "ref"]),
        ({}, "data_destroy", ["OPERATION_NOT_ALLOWED", "VDI is not a snapshot: ref"]),
        ({"is_a_snapshot": True}, "data_destroy", ["VDI_NO_CBT_METADATA", "ref"]),
        ({"is_a_snapshot": True, "cbt_enabled": True}, "data_destroy", None),
        ({}, "revert_to", ["REVERT_ONLY_ALLOWED_ON_SNAPSHOT"]),
        ({"type": "ha_statefile"}, "copy", ["OPERATION_NOT_ALLOWED", OF_HA]),
        ({}, "generate_config", None),
        ({}, "force_unlock", None),
    ],
)
def test_a_disk_is_refused_for_what_it_is(
    calls: Make, fields: dict[str, Any], operation: str, error: list[str] | None
) -> None:
    """Its kind, its flags, what it is a snapshot of."""
    c = calls(hosts=1, vms=4, release="8.2")
    vdi = c.row("VDI", "disk of vm04")
    c.pool.store.write(vdi, **fields)
    expected = [
        text.replace("ref", vdi.ref) if text == "ref" or text.endswith(": ref") else text for text in error or []
    ]
    assert refusal(c.pool, vdi, operation) == (expected if error else None)


def test_high_availability_keeps_its_disks(calls: Make) -> None:
    """While it is on they stay as they are; others do not mind."""
    c = calls(hosts=1, vms=4, release="8.2")
    vdi, other = c.row("VDI", "disk of vm04"), c.row("VDI", "disk of vm01")
    c.pool.store.write(vdi, type="ha_statefile")
    c.pool.store.write(c.pool.store.pool(), ha_enabled=True)
    c.pool.settle("test")
    for operation in ("destroy", "forget", "resize"):
        assert refusal(c.pool, vdi, operation) == ["HA_IS_ENABLED"]
        assert operation not in vdi["allowed_operations"]
    assert refusal(c.pool, other, "snapshot") is None
    assert list(wrong_lists(c.pool)) == []


# --- suspend images


@pytest.mark.parametrize("release", ["4.0.1", "5.5", "6.0", "8.2"])
def test_a_suspend_image_is_in_use_while_it_is_written_and_read(calls: Make, release: str) -> None:
    """The control domain of the VM's host has it: for writing during a suspend, for reading during a resume."""
    c = calls(release=release, hosts=2, vms=4)
    vm, store = c.vm("vm01"), c.pool.store
    host = store.get("host", vm["resident_on"])
    for method, args, mode in (("VM.suspend", [], "RW"), ("VM.resume_on", [host.ref, False, False], "RO")):
        task = c.start(method, vm.ref, *args)
        c.sleep(10)
        image = store.get("VDI", vm["suspend_VDI"])
        (vbd,) = [store.get("VBD", ref) for ref in image["VBDs"]]
        dom0 = store.get("VM", vbd["VM"])
        assert (dom0["is_control_domain"], dom0["resident_on"], vbd["mode"]) == (True, host.ref, mode)
        told = ["destroy"] if store.release.order >= rules.TAMPA else []
        assert c.refused("VDI.destroy", image.ref) == ["VDI_IN_USE", image.ref, *told]
        assert not {"destroy", "forget", "resize", "update"} & set(image["allowed_operations"])
        assert ("copy" in image["allowed_operations"]) == (mode == "RO" and release == "8.2")
        assert list(wrong_lists(c.pool)) == []
        c.until(lambda task=task: task["status"] != "pending")
        assert task["status"] == "success"
        assert store.find("VBD", vbd.ref) is None
        if mode == "RW":
            assert image["VBDs"] == []
            assert "destroy" in image["allowed_operations"]
    assert store.find("VDI", image.ref) is None
    assert c.unharmed()


def test_a_suspend_that_fails_gives_its_image_back(calls: Make) -> None:
    """Cancelled, or with a host that dies: neither an image nor a device of the control domain is left."""
    c = calls(release="8.2", hosts=2, vms=4)
    vm, store = c.vm("vm02"), c.pool.store
    disks, devices = set(store.table("VDI")), set(store.table("VBD"))
    task = c.start("VM.suspend", vm.ref)
    c.sleep(10)
    c("task.cancel", task.ref)
    c.until(lambda: task["status"] != "pending")
    assert (task["status"], vm["power_state"], vm["suspend_VDI"]) == ("cancelled", "Running", NULL)
    assert (set(store.table("VDI")), set(store.table("VBD"))) == (disks, devices)
    task = c.start("VM.suspend", vm.ref)
    c.sleep(10)
    c.pool.hands.power_off(store.get("host", vm["resident_on"])["name_label"])
    c.until(lambda: task["status"] != "pending")
    assert (task["status"], vm["suspend_VDI"]) == ("failure", NULL)
    assert (set(store.table("VDI")), set(store.table("VBD"))) == (disks, devices)


def test_an_image_that_storage_loses_leaves_the_vm_running(calls: Make) -> None:
    """Nothing can be saved to it; the guest goes on as if nobody had asked."""
    c = calls(release="8.2", hosts=2, vms=4)
    vm = c.vm("vm01")
    task = c.start("VM.suspend", vm.ref)
    c.sleep(10)
    del c.pool.disks[c.pool.store.get("VDI", vm["suspend_VDI"])["uuid"]]
    c.until(lambda: task["status"] != "pending")
    assert task["error_info"][0] == "SR_BACKEND_FAILURE_46"
    assert (vm["power_state"], vm["suspend_VDI"]) == ("Running", NULL)
    assert c.unharmed()


# --- disks of VMs


@pytest.mark.parametrize(
    ("method", "on_storage", "on_disk"),
    [("VM.snapshot", "vdi_snapshot", "snapshot"), ("VM.clone", "vdi_clone", "clone"), ("VM.copy", "", "copy")],
)
def test_a_copy_of_a_vm_holds_its_disks_and_their_storage(
    calls: Make, method: str, on_storage: str, on_disk: str
) -> None:
    """As the verb on each disk does."""
    c = calls(release="8.2", hosts=2, vms=4)
    vdi, sr = c.row("VDI", "disk of vm04"), c.row("SR", "NFS virtual disk storage")
    task = c.start(method, c.vm("vm04").ref, "another", *([NULL] if method == "VM.copy" else []))
    c.sleep(2 if method == "VM.copy" else 0.5)
    assert vdi["current_operations"] == {task.ref: on_disk}
    assert sr["current_operations"] == ({task.ref: on_storage} if on_storage else {})
    assert list(wrong_lists(c.pool)) == []
    c.until(lambda: task["status"] != "pending")
    assert (task["status"], vdi["current_operations"], sr["current_operations"]) == ("success", {}, {})
    assert miscounted(c.pool) == []


def test_vms_are_copied_one_after_the_other_where_they_share_storage(calls: Make) -> None:
    """Each waits until the storage is free; none is refused."""
    c = calls(release="8.2", hosts=2, vms=4)
    tasks = [c.start("VM.snapshot", c.vm(name).ref, "all") for name in ("vm01", "vm02", "vm04")]
    c.sleep(0.5)
    assert len(c.row("SR", "NFS virtual disk storage")["current_operations"]) == 1
    c.until(lambda: all(task["status"] != "pending" for task in tasks))
    assert {task["status"] for task in tasks} == {"success"}


@pytest.mark.parametrize("method", ["VM.snapshot", "VM.clone", "VM.copy"])
def test_a_vm_is_not_copied_where_there_is_no_room(calls: Make, method: str) -> None:
    """Nothing of a copy that found none is left."""
    c = calls(release="8.2", hosts=2, vms=4)
    sr, store = c.row("SR", "NFS virtual disk storage"), c.pool.store
    store.write(sr, physical_size=sr["physical_utilisation"])
    before = (set(store.table("VM")), set(store.table("VDI")), set(c.pool.disks))
    more = [NULL] if method == "VM.copy" else []
    assert c.refused(method, c.vm("vm04").ref, "no", *more)[0] == "SR_BACKEND_FAILURE_44"
    assert (set(store.table("VM")), set(store.table("VDI")), set(c.pool.disks)) == before
    vm = c.vm("vm01")
    assert c.refused("VM.suspend", vm.ref) == ["SR_SUSPEND_SPACE_INSUFFICIENT", sr.ref]
    assert (vm["power_state"], vm["suspend_VDI"]) == ("Running", NULL)
