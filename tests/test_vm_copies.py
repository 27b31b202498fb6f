"""Snapshots, checkpoints, clones and copies of VMs: their records, their devices, and the bytes on their disks."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from mockserver.records import from_record

Make = Callable[..., Any]
NULL = "OpaqueRef:NULL"
EPOCH = "19700101T00:00:00Z"


@pytest.fixture
def c(calls: Make) -> Any:
    return calls(release="8.2", hosts=3, vms=12)


def bytes_of(c: Any, vm: Any, number: str = "0") -> dict[int, bytes]:
    """What is on a disk of a VM now."""
    found = c.pool.domain(vm)
    if found:
        found[1].catch_up(c.pool.clock.now())
    vbd = next(vbd for vbd in c.pool.vbds(vm) if vbd["userdevice"] == number)
    return dict(c.pool.disk_of(vbd["VDI"]).blocks)


def new(c: Any, method: str, *args: Any) -> Any:
    """The row of the VM that a call makes."""
    return c.pool.store.get("VM", c(method, *args))


# --- records


@pytest.mark.parametrize("release", ["5.0", "5.6", "8.2"])
def test_a_snapshot_is_a_template_of_what_was(calls: Make, release: str) -> None:
    """With the time, the VM that it is of, its disks as snapshots of the VM's, and its place in the chain."""
    c = calls(release=release, hosts=2, vms=6)
    vm = c.vm("vm01")
    now = c.pool.clock.stamp()
    snapshot = new(c, "VM.snapshot", vm.ref, "before")
    assert (snapshot["name_label"], snapshot["power_state"]) == ("before", "Halted")
    assert (snapshot["is_a_template"], snapshot["is_a_snapshot"], snapshot["snapshot_of"]) == (True, True, vm.ref)
    assert snapshot["snapshot_time"] > now
    assert vm["snapshots"] == [snapshot.ref]
    assert (snapshot["resident_on"], snapshot["domid"], snapshot["current_operations"]) == (NULL, -1, {})
    assert snapshot["uuid"] != vm["uuid"]
    disk = next(vbd for vbd in c.pool.vbds(snapshot) if vbd["userdevice"] == "0")
    vdi = c.pool.store.get("VDI", disk["VDI"])
    assert (vdi["is_a_snapshot"], vdi["snapshot_of"]) == (True, c.vbd("vm01", "0")["VDI"])
    assert (disk["currently_attached"], disk["other_config"]) == (False, {"owner": ""})
    assert vm["power_state"] == "Running"
    if release != "5.0":
        assert snapshot["snapshot_info"] == {
            "power-state-at-snapshot": "Running",
            "disk-snapshot-type": "crash_consistent",
        }
        assert from_record(c.pool.store, "VM", snapshot["snapshot_metadata"])["uuid"] == vm["uuid"]
        assert (snapshot["parent"], vm["parent"]) == (NULL, snapshot.ref)
        second = new(c, "VM.snapshot", vm.ref, "later")
        assert (second["parent"], vm["parent"], snapshot["children"]) == (snapshot.ref, second.ref, [second.ref])
    assert c.unharmed()


def test_a_snapshot_may_be_of_a_vm_in_any_power_state(c: Any) -> None:
    """It is halted in any case, without what is in memory."""
    c("VM.pause", c.vm("vm01").ref)
    for name, state in (("vm01", "Paused"), ("vm04", "Halted"), ("vm06", "Suspended"), ("vm02", "Running")):
        vm = c.vm(name)
        snapshot = new(c, "VM.snapshot", vm.ref, "now")
        assert (vm["power_state"], snapshot["power_state"], snapshot["suspend_VDI"]) == (state, "Halted", NULL)
        assert snapshot["snapshot_info"]["power-state-at-snapshot"] == state
    assert c.unharmed()


def test_a_snapshot_may_leave_disks_out(calls: Make) -> None:
    """Those that the caller names."""
    c = calls(release="XCP-ng 8.3", vms=2)
    vm, vdi = c.vm("vm02"), c.vbd("vm02", "0")["VDI"]
    snapshot = new(c, "VM.snapshot", vm.ref, "without", [vdi])
    assert [vbd["userdevice"] for vbd in c.pool.vbds(snapshot)] == ["3"]


def test_a_clone_is_a_vm_of_its_own(c: Any) -> None:
    """Other MACs from another seed, fresh metrics, disks that go with it, and nothing of where its source belongs."""
    vm = c.vm("vm04")
    store = c.pool.store
    store.write(
        vm, generation_id="1:2", order=3, start_delay=4, version=5, tags=["mine"], ha_restart_priority="restart"
    )
    c("VM.add_to_other_config", vm.ref, "default_template", "false")
    c("VM.add_to_blocked_operations", vm.ref, "destroy", "because")
    clone = new(c, "VM.clone", vm.ref, "another")
    assert (clone["is_a_template"], clone["is_a_snapshot"], clone["snapshot_of"]) == (False, False, NULL)
    assert (clone["snapshot_time"], clone["snapshot_info"], clone["snapshot_metadata"]) == (EPOCH, {}, "")
    assert (clone["order"], clone["start_delay"], clone["version"], clone["ha_always_run"]) == (0, 0, 0, False)
    assert (clone["blocked_operations"], clone["tags"], clone["ha_restart_priority"]) == ({}, ["mine"], "restart")
    assert clone["generation_id"] not in ("", "1:2")
    assert "default_template" not in clone["other_config"]
    assert clone["other_config"]["mac_seed"] != vm["other_config"]["mac_seed"]
    (ours,) = (store.get("VIF", ref) for ref in clone["VIFs"])
    (theirs,) = (store.get("VIF", ref) for ref in vm["VIFs"])
    assert ours["MAC"] != theirs["MAC"]
    assert (ours["network"], ours["device"], ours["MAC_autogenerated"]) == (theirs["network"], theirs["device"], True)
    assert int(ours["MAC"][:2], 16) & 3 == 2, "locally administered, of one station"
    assert clone["metrics"] not in (NULL, vm["metrics"])
    assert clone["guest_metrics"] not in (NULL, vm["guest_metrics"])
    assert "start" in clone["allowed_operations"]
    c("VM.start", clone.ref, False, False)
    c.sleep(60)
    assert clone["guest_metrics"] != NULL
    assert c.unharmed()


def test_a_snapshot_keeps_the_macs(c: Any) -> None:
    """A VM that is taken back to it is to be the same on the network."""
    vm = c.vm("vm02")
    snapshot = new(c, "VM.snapshot", vm.ref, "now")
    macs = [[c.pool.store.get("VIF", ref)["MAC"] for ref in row["VIFs"]] for row in (vm, snapshot)]
    assert macs[0] == macs[1]
    assert snapshot["other_config"]["mac_seed"] == vm["other_config"]["mac_seed"]


def test_a_clone_of_a_template_says_of_which(c: Any) -> None:
    """The first template that it came from."""
    vm = c.vm("vm04")
    c("VM.set_is_a_template", vm.ref, True)
    clone = new(c, "VM.clone", vm.ref, "made")
    assert (clone["is_a_template"], clone["other_config"]["base_template_name"]) == (True, "vm04")
    again = new(c, "VM.clone", clone.ref, "made again")
    assert again["other_config"]["base_template_name"] == "vm04"


def test_what_is_made_from_a_checkpoint_is_off(c: Any) -> None:
    """A clone of a suspended VM is suspended, one of a checkpoint is not."""
    checkpoint = c("VM.checkpoint", c.vm("vm02").ref, "with memory")
    clone = new(c, "VM.clone", checkpoint, "off")
    assert (clone["power_state"], clone["suspend_VDI"], clone["is_a_snapshot"]) == ("Halted", NULL, False)
    store, vm = c.pool.store, c.vm("vm06")
    assert c.refused("VM.clone", vm.ref, "no")[0] == "VM_BAD_POWER_STATE"
    store.write(store.pool(), other_config={"allow_clone_suspended_vm": "true"})
    for method in ("VM.clone", "VM.csvm"):
        twin = new(c, method, vm.ref, *(["twin"] if method == "VM.clone" else []))
        assert twin["power_state"] == "Suspended"
        assert twin["suspend_VDI"] not in (NULL, vm["suspend_VDI"])
        c("VM.resume", twin.ref, False, False)
        assert twin["power_state"] == "Running"
    assert c.unharmed()


# --- bytes


@pytest.mark.parametrize(("method", "args"), [("VM.snapshot", []), ("VM.checkpoint", [])])
def test_a_snapshot_holds_what_the_disk_held(c: Any, method: str, args: list[Any]) -> None:
    """What the guest writes later does not reach it."""
    vm = c.vm("vm02")
    c.sleep(100)
    snapshot = new(c, method, vm.ref, "then", *args)
    then = bytes_of(c, snapshot)
    assert then
    c.sleep(500)
    assert bytes_of(c, vm) != then
    assert bytes_of(c, snapshot) == then
    assert c.unharmed()


def test_a_copy_shares_nothing_with_its_source(c: Any) -> None:
    """It takes as long as its disks are large, and they go where the caller says."""
    vm, sr = c.vm("vm04"), c.row("SR", "Local storage on host1")
    before, now = bytes_of(c, vm), c.pool.clock.now()
    copy = new(c, "VM.copy", vm.ref, "far", sr.ref)
    assert c.pool.clock.now() - now > 60
    disk = next(vbd for vbd in c.pool.vbds(copy) if vbd["userdevice"] == "0")
    assert c.pool.store.get("VDI", disk["VDI"])["SR"] == sr.ref
    assert bytes_of(c, copy) == before
    c("VM.start", copy.ref, False, False)
    c.sleep(500)
    assert bytes_of(c, vm) == before
    assert c.pool.domain(copy)[0] is c.pool.machine("host1"), "nobody else has the disk"
    assert c.unharmed()


def test_a_copy_goes_to_no_discs(c: Any) -> None:
    """Storage that is not there is passed over, though."""
    vm = c.vm("vm04")
    assert c.refused("VM.copy", vm.ref, "no", c.row("SR", "ISO library").ref) == [
        *("OPERATION_NOT_ALLOWED", "Cannot copy a VM's disks to an ISO SR"),
    ]
    copy = new(c, "VM.copy", vm.ref, "yes", "OpaqueRef:of-nothing")
    assert bytes_of(c, copy) == bytes_of(c, vm)


def test_a_copy_that_is_cancelled_leaves_nothing(c: Any) -> None:
    """No VM, no disk, no operation."""
    vm, disks, vms = c.vm("vm04"), set(c.pool.disks), len(c.pool.store.table("VM"))
    task = c.start("VM.copy", vm.ref, "never", NULL)
    c.sleep(30)
    c("task.cancel", task.ref)
    c.until(lambda: task["status"] != "pending")
    assert (task["status"], vm["current_operations"]) == ("cancelled", {})
    assert (set(c.pool.disks), len(c.pool.store.table("VM"))) == (disks, vms)
    assert set(c.pool.disks) == {vdi["uuid"] for vdi in c.pool.store.table("VDI").values()}


@pytest.mark.parametrize("release", ["4.0.1", "4.1", "5.5"])
@pytest.mark.parametrize(("method", "args"), [("VM.clone", ["made"]), ("VM.copy", ["made", NULL])])
def test_the_oldest_releases_copy_too(calls: Make, release: str, method: str, args: list[Any]) -> None:
    """With the fields that they have."""
    c = calls(release=release, hosts=2, vms=6)
    vm = c.vm("vm04")
    made = new(c, method, vm.ref, *args)
    assert (made["name_label"], made["power_state"], set(made)) == ("made", "Halted", set(vm))
    assert bytes_of(c, made) == bytes_of(c, vm)
    c("VM.start", made.ref, False, False)
    c.sleep(100)
    assert c.unharmed()


def test_disks_that_cannot_be_reached_are_not_copied(c: Any) -> None:
    """Nor is anything left of those that were."""
    vm, store = c.vm("vm04"), c.pool.store
    vdi = store.get("VDI", c.vbd("vm04", "0")["VDI"])
    for pbd in store.get("SR", vdi["SR"])["PBDs"]:
        store.write(store.get("PBD", pbd), currently_attached=False)
    vms, disks = len(store.table("VM")), set(c.pool.disks)
    for method in ("VM.snapshot", "VM.clone"):
        assert c.refused(method, vm.ref, "no") == ["NO_HOSTS_AVAILABLE"]
    assert c.refused("VM.copy", vm.ref, "no", NULL) == ["INTERNAL_ERROR", "Not_found"]
    assert (len(store.table("VM")), set(c.pool.disks), vm["current_operations"]) == (vms, disks, {})


# --- checkpoints


def test_a_running_vm_goes_on_after_a_checkpoint(c: Any) -> None:
    """Where it was, as a new domain; meanwhile it is suspended, and its place is kept."""
    vm = c.vm("vm02")
    host, domid = vm["resident_on"], vm["domid"]
    task = c.start("VM.checkpoint", vm.ref, "now")
    c.until(lambda: vm["power_state"] == "Suspended")
    assert (vm["resident_on"], vm["current_operations"]) == (host, {task.ref: "checkpoint"})
    c.until(lambda: task["status"] != "pending")
    assert (task["status"], vm["power_state"], vm["resident_on"]) == ("success", "Running", host)
    assert vm["domid"] != domid
    assert vm["suspend_VDI"] == NULL
    (snapshot,) = (c.pool.store.get("VM", ref) for ref in vm["snapshots"])
    assert (snapshot["power_state"], snapshot["snapshot_info"]["power-state-at-snapshot"]) == ("Suspended", "Running")
    image = c.pool.store.get("VDI", snapshot["suspend_VDI"])
    assert (image["type"], image["is_a_snapshot"]) == ("suspend", True)
    assert c.unharmed()


def test_a_checkpoint_of_a_vm_at_rest(c: Any) -> None:
    """A suspended VM gives one that is suspended, a paused one does not; a halted one gives none."""
    assert c.refused("VM.checkpoint", c.vm("vm04").ref, "no")[2] == "paused, suspended, running"
    c("VM.pause", c.vm("vm01").ref)
    for name, state in (("vm06", "Suspended"), ("vm01", "Halted")):
        vm = c.vm(name)
        before = (vm["power_state"], vm["suspend_VDI"])
        assert new(c, "VM.checkpoint", vm.ref, "now")["power_state"] == state
        assert (vm["power_state"], vm["suspend_VDI"]) == before


@pytest.mark.parametrize(
    ("release", "running", "suspended"),
    [
        ("5.6", "Suspended", "Suspended"),
        ("6.0", "Suspended", "Suspended"),
        ("6.1", "Running", None),
        ("8.4", "Running", None),
    ],
)
def test_what_a_checkpoint_says_of_itself(calls: Make, release: str, running: str, suspended: str | None) -> None:
    """It found every VM suspended up to 6.0; since then it says what it saved, and of a VM at rest nothing."""
    c = calls(release=release, hosts=1, vms=6)
    for name, state in (("vm02", running), ("vm06", suspended)):
        told = new(c, "VM.checkpoint", c.vm(name).ref, "now")["snapshot_info"]
        kind = {"disk-snapshot-type": "crash_consistent"}
        assert told == ({"power-state-at-snapshot": state, **kind} if state else {})


def test_a_checkpoint_that_is_cancelled_lets_the_vm_go_on(c: Any) -> None:
    """Also where it is suspended already."""
    vm = c.vm("vm02")
    for seconds in (1, 0):
        task = c.start("VM.checkpoint", vm.ref, "never")
        c.until(lambda wait=seconds: bool(wait) or vm["power_state"] == "Suspended")
        c("task.cancel", task.ref)
        c.until(lambda t=task: t["status"] != "pending")
        assert (task["status"], vm["power_state"], vm["snapshots"]) == ("cancelled", "Running", [])
        assert vm["current_operations"] == {}
    assert c.unharmed()


@pytest.mark.parametrize("seconds", [5, 40])
def test_a_checkpoint_on_a_host_that_dies_loses_nothing_that_was_saved(c: Any, seconds: float) -> None:
    """Before it was saved the VM dies with its host, after it is suspended and can go on elsewhere."""
    vm = c.vm("vm02")
    task = c.start("VM.checkpoint", vm.ref, "never")
    saved = seconds > vm["memory_static_max"] / c.pool.durations.save_rate
    c.until(lambda: vm["power_state"] == "Suspended") if saved else c.sleep(seconds)
    c.pool.hands.power_off("host2")
    c.until(lambda: task["status"] != "pending")
    assert (task["status"], vm["current_operations"]) == ("failure", {})
    if saved:
        assert (vm["power_state"], vm["resident_on"]) == ("Suspended", NULL)
        c("VM.resume_on", vm.ref, c.host("host1").ref, False, False)
        assert vm["power_state"] == "Running"
    else:
        assert vm["suspend_VDI"] == NULL
    assert set(c.pool.disks) == {vdi["uuid"] for vdi in c.pool.store.table("VDI").values()}


def test_storage_must_be_able_to_make_snapshots(c: Any) -> None:
    """A running VM is not suspended for nothing."""
    plugin = next(sm for sm in c.pool.store.table("SM").values() if sm["type"] == "nfs")
    c.pool.store.write(plugin, capabilities=["VDI_CREATE"], features={"VDI_CREATE": 1})
    vm = c.vm("vm02")
    assert c.refused("VM.checkpoint", vm.ref, "no") == ["SR_OPERATION_NOT_SUPPORTED", vm.ref]
    assert vm["power_state"] == "Running"


# --- going back


@pytest.mark.parametrize("release", ["5.6", "8.2"])
def test_a_revert_brings_the_old_bytes_back(calls: Make, release: str) -> None:
    """And name, memory and devices; the VM is off, and its snapshots are still its own."""
    c = calls(release=release, hosts=3, vms=12)
    vm, store = c.vm("vm02"), c.pool.store
    snapshot = new(c, "VM.snapshot", vm.ref, "then")
    then, mac = bytes_of(c, snapshot), store.get("VIF", vm["VIFs"][0])["MAC"]
    c("VM.set_name_label", vm.ref, "renamed")
    c("VM.add_tags", vm.ref, "kept")
    store.write(store.get("VIF", vm["VIFs"][0]), MAC="00:16:3e:00:00:99")
    c.sleep(500)
    old = c.vbd("renamed", "0")["VDI"]
    assert bytes_of(c, vm) != then
    c("VM.revert", snapshot.ref)
    assert (vm["power_state"], vm["resident_on"], vm["name_label"]) == ("Halted", NULL, "vm02")
    assert (vm["tags"], vm["parent"], vm["snapshots"]) == (["kept"], snapshot.ref, [snapshot.ref])
    assert (vm["is_a_template"], vm["is_a_snapshot"], vm["current_operations"]) == (False, False, {})
    assert bytes_of(c, vm) == then
    assert store.find("VDI", old) is None
    disk = store.get("VDI", c.vbd("vm02", "0")["VDI"])
    (kept,) = (v for v in store.table("VDI").values() if v["is_a_snapshot"])
    assert kept["snapshot_of"] == disk.ref, "the snapshot is of the new disk now"
    assert [store.get("VIF", ref)["MAC"] for ref in vm["VIFs"]] == [mac]
    c("VM.start", vm.ref, False, False)
    c.sleep(100)
    assert c.unharmed()
    c("VM.revert", snapshot.ref)
    assert bytes_of(c, vm) == then, "as often as one likes"


def test_a_revert_to_a_checkpoint_brings_memory_back(c: Any) -> None:
    """The VM is suspended, and goes on from there."""
    vm = c.vm("vm02")
    c.sleep(100)
    checkpoint = new(c, "VM.checkpoint", vm.ref, "then")
    writes = c.pool.guest(checkpoint).writes
    c.sleep(1000)
    c("VM.revert", checkpoint.ref)
    assert (vm["power_state"], vm["resident_on"]) == ("Suspended", NULL)
    assert vm["suspend_VDI"] not in (NULL, checkpoint["suspend_VDI"])
    assert c.pool.guest(vm).writes == writes
    c("VM.resume", vm.ref, False, False)
    c.sleep(100)
    assert c.pool.domain(vm)[1].guest.writes >= writes
    assert c.unharmed()


def test_a_disk_that_came_after_the_snapshot_is_let_go(c: Any) -> None:
    """It loses its device, and stays."""
    vm = c.vm("vm04")
    snapshot = c("VM.snapshot", vm.ref, "then")
    sr = c.row("SR", "NFS virtual disk storage")
    fields = {"name_label": "late", "SR": sr.ref, "virtual_size": 1 << 30, "type": "user", "sharable": False}
    vdi = c("VDI.create", {**fields, "read_only": False, "other_config": {}, "name_description": ""})
    vbd = {"VM": vm.ref, "VDI": vdi, "userdevice": "5", "bootable": False, "mode": "RW", "type": "Disk", "empty": False}
    more = {"qos_algorithm_type": "", "qos_algorithm_params": {}, "other_config": {}, "unpluggable": True}
    c("VBD.create", {**vbd, **more})
    c("VM.revert", snapshot)
    assert c.pool.store.get("VDI", vdi)["VBDs"] == []
    assert sorted(row["userdevice"] for row in c.pool.vbds(vm)) == ["0", "3"]


def test_a_vm_that_is_gone_comes_back_with_its_uuid(c: Any) -> None:
    """Made from what its snapshot says; its other snapshots are its own again."""
    vm = c.vm("vm04")
    uuid = vm["uuid"]
    first, second = new(c, "VM.snapshot", vm.ref, "one"), new(c, "VM.snapshot", vm.ref, "two")
    c("VM.destroy", vm.ref)
    c("VM.revert", first.ref)
    back = c.vm("vm04")
    assert (back["uuid"], back["power_state"], back["is_a_template"]) == (uuid, "Halted", False)
    assert set(back["snapshots"]) == {first.ref, second.ref}
    assert bytes_of(c, back) == bytes_of(c, first)
    c("VM.start", back.ref, False, False)
    assert back["power_state"] == "Running"


def test_a_revert_needs_a_snapshot_and_its_image(c: Any) -> None:
    """A host that sees what was in memory must live before anything is dropped."""
    vm = c.vm("vm02")
    assert c.refused("VM.assert_operation_valid", vm.ref, "revert") == ["REVERT_ONLY_ALLOWED_ON_SNAPSHOT"]
    assert c.refused("VM.revert", vm.ref)[0] == "VM_REVERT_FAILED"
    checkpoint = new(c, "VM.checkpoint", vm.ref, "then")
    image = c.pool.store.get("VDI", checkpoint["suspend_VDI"])
    local = c.row("SR", "Local storage on host3")
    c.pool.store.write(image, SR=local.ref)
    for metrics in [c.pool.store.get("host_metrics", c.host("host3")["metrics"])]:
        c.pool.store.write(metrics, live=False)
    disk = c.vbd("vm02", "0")["VDI"]
    assert c.refused("VM.revert", checkpoint.ref) == ["HOST_NOT_LIVE", c.host("host3").ref]
    assert c.vbd("vm02", "0")["VDI"] == disk


def test_a_revert_needs_a_host_that_sees_the_storage(c: Any) -> None:
    """The VM is off by then, but loses nothing."""
    vm, store = c.vm("vm02"), c.pool.store
    snapshot = new(c, "VM.snapshot", vm.ref, "then")
    disk = c.vbd("vm02", "0")["VDI"]
    for pbd in store.get("SR", store.get("VDI", disk)["SR"])["PBDs"]:
        store.write(store.get("PBD", pbd), currently_attached=False)
    assert c.refused("VM.revert", snapshot.ref) == ["NO_HOSTS_AVAILABLE"]
    assert (vm["power_state"], c.vbd("vm02", "0")["VDI"], vm["current_operations"]) == ("Halted", disk, {})


def test_a_revert_that_fails_halts_the_vm(c: Any) -> None:
    """And says of which snapshot and VM; the other parts of the error stay behind."""
    vm = c.vm("vm02")
    snapshot = new(c, "VM.snapshot", vm.ref, "then")
    disk = next(vbd for vbd in c.pool.vbds(snapshot) if vbd["userdevice"] == "0")
    del c.pool.disks[c.pool.store.get("VDI", disk["VDI"])["uuid"]]
    assert c.refused("VM.revert", snapshot.ref) == ["VM_REVERT_FAILED", snapshot.ref, vm.ref]
    assert (vm["power_state"], vm["current_operations"]) == ("Halted", {})


def test_a_snapshot_can_be_copied_and_destroyed_no_more(c: Any) -> None:
    """The checks name what was asked."""
    vm = c.vm("vm02")
    snapshot = new(c, "VM.snapshot", vm.ref, "then")
    assert c.refused("VM.start", snapshot.ref, False, False) == ["VM_IS_SNAPSHOT", snapshot.ref, "start"]
    assert c.refused("VM.snapshot", snapshot.ref, "no") == ["VM_IS_SNAPSHOT", snapshot.ref, "snapshot"]
    assert set(snapshot["allowed_operations"]) == {"revert", "clone", "copy", "export", "destroy", "metadata_export"}
    second = new(c, "VM.snapshot", vm.ref, "later")
    c("VM.destroy", snapshot.ref)
    assert (second["parent"], vm["snapshots"], vm["parent"]) == (NULL, [second.ref], second.ref)


def test_quiesced_snapshots_went_with_8_1(calls: Make) -> None:
    """Before, the guest's agent must be able to hold its writes."""
    c = calls(release="7.1", vms=2)
    vm = c.vm("vm02")
    assert c.refused("VM.snapshot_with_quiesce", vm.ref, "no") == ["VM_SNAPSHOT_WITH_QUIESCE_NOT_SUPPORTED", vm.ref]
    agent = c.pool.store.get("VM_guest_metrics", vm["guest_metrics"])
    c.pool.store.write(agent, other={**agent["other"], "feature-snapshot": "1"})
    snapshot = new(c, "VM.snapshot_with_quiesce", vm.ref, "quiet")
    assert snapshot["snapshot_info"]["disk-snapshot-type"] == "quiesced"
    now = calls(release="8.2", vms=2)
    assert now.refused("VM.snapshot_with_quiesce", now.vm("vm02").ref, "no")[0] == "MESSAGE_REMOVED"


def test_a_snapshot_that_came_from_elsewhere_is_told_of_what(c: Any) -> None:
    """After an import of VM and snapshot one by one."""
    vm, other = c.vm("vm04"), c.vm("vm08")
    args = [vm.ref, "20200101T00:00:00Z", "netapp:1"]
    c("VM.update_snapshot_metadata", other.ref, *args)
    assert (other["is_a_snapshot"], other["snapshot_of"], vm["snapshots"]) == (True, vm.ref, [other.ref])
    assert (other["snapshot_time"], other["transportable_snapshot_id"]) == ("20200101T00:00:00Z", "netapp:1")


# --- templates


def test_a_vm_becomes_a_template_and_back(c: Any) -> None:
    """Its metrics go with the one, its time of installation is that of the other."""
    vm = c.vm("vm04")
    assert c.refused("VM.set_is_a_template", c.vm("vm01").ref, True)[0] == "VM_BAD_POWER_STATE"
    c("VM.set_is_a_template", vm.ref, True)
    assert (vm["is_a_template"], vm["metrics"], "start" in vm["allowed_operations"]) == (True, NULL, False)
    c("VM.set_is_a_template", vm.ref, False)
    assert (vm["is_a_template"], "start" in vm["allowed_operations"]) == (False, True)
    template = c("VM.create_template", vm.ref, "made")
    assert c.pool.store.get("VM", template)["is_a_template"]
    assert not vm["is_a_template"]


def test_what_high_availability_would_start_is_no_template(c: Any) -> None:
    """As long as it is on."""
    vm, store = c.vm("vm04"), c.pool.store
    store.write(vm, ha_always_run=True, ha_restart_priority="restart")
    store.write(store.pool(), ha_enabled=True)
    assert c.refused("VM.set_is_a_template", vm.ref, True) == ["VM_IS_PROTECTED", vm.ref]
    store.write(store.pool(), ha_enabled=False)
    c("VM.set_is_a_template", vm.ref, True)
    assert vm["ha_always_run"] is False


def test_a_default_template_is_marked_twice(c: Any) -> None:
    """In the field, and in the key that older clients know."""
    vm = c.vm("vm04")
    c("VM.set_is_default_template", vm.ref, True)
    assert (vm["is_a_template"], vm["is_default_template"]) == (True, True)
    assert vm["other_config"]["default_template"] == "true"
    assert "destroy" not in vm["allowed_operations"]
    c("VM.set_is_default_template", vm.ref, False)
    assert (vm["is_default_template"], vm["other_config"]["default_template"]) == (False, "false")
    assert "destroy" in vm["allowed_operations"]


@pytest.mark.parametrize("release", ["4.0.1", "5.6", "8.4"])
def test_a_vm_that_was_made_from_a_default_template_and_says_so_is_not_destroyed(calls: Make, release: str) -> None:
    """The key alone counts, also of what is no template any more."""
    c = calls(release=release, hosts=1, vms=12)
    vm = c.vm("vm04")
    c("VM.add_to_other_config", vm.ref, "default_template", "true")
    assert c.refused("VM.destroy", vm.ref) == ["VM_CANNOT_DELETE_DEFAULT_TEMPLATE"]
    assert c.pool.store.find("VM", vm.ref) is vm and c.pool.vbds(vm)
    c("VM.remove_from_other_config", vm.ref, "default_template")
    c("VM.destroy", vm.ref)
    assert c.pool.store.find("VM", vm.ref) is None


def test_provisioning_makes_the_disks_that_a_template_asks_for(c: Any) -> None:
    """And a VM that does not ask again."""
    vm, sr = c.vm("vm04"), c.row("SR", "NFS virtual disk storage")
    c("VM.set_is_a_template", vm.ref, True)
    clone = new(c, "VM.clone", vm.ref, "made")
    asks = f'<provision><disk device="5" size="1073741824" sr="{sr["uuid"]}" bootable="true" type="user"/></provision>'
    c("VM.add_to_other_config", clone.ref, "disks", asks)
    c("VM.provision", clone.ref)
    assert (clone["is_a_template"], "disks" in clone["other_config"]) == (False, False)
    vbd = next(vbd for vbd in c.pool.vbds(clone) if vbd["userdevice"] == "5")
    vdi = c.pool.store.get("VDI", vbd["VDI"])
    assert (vdi["virtual_size"], vdi["SR"], vdi["type"], vdi["name_label"]) == (1 << 30, sr.ref, "user", "5")
    assert (vbd["bootable"], vbd["mode"], vbd["other_config"]) == (True, "RW", {"owner": ""})
    assert c.refused("VM.provision", clone.ref) == ["PROVISION_ONLY_ALLOWED_ON_TEMPLATE"]
    c("VM.start", clone.ref, False, False)
    assert c.unharmed()


def test_provisioning_on_storage_that_is_not_there_changes_nothing(c: Any) -> None:
    """Nor does a request that cannot be read."""
    vm = c.vm("vm04")
    c("VM.set_is_a_template", vm.ref, True)
    asks = '<provision><disk device="5" size="1" sr="nowhere" bootable="true"/></provision>'
    c("VM.add_to_other_config", vm.ref, "disks", asks)
    assert c.refused("VM.provision", vm.ref) == ["UUID_INVALID", "sr", "nowhere"]
    for bad in ("<provision><disk/></provision>", "<other/>", "no XML"):
        c("VM.remove_from_other_config", vm.ref, "disks")
        c("VM.add_to_other_config", vm.ref, "disks", bad)
        assert c.refused("VM.provision", vm.ref) == ["INTERNAL_ERROR", "Xapi_templates.Parse_failure"]
    assert (vm["is_a_template"], vm["current_operations"]) == (True, {})
