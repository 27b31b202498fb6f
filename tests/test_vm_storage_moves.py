"""VMs moving with their disks, between hosts and storage of one pool."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

Make = Callable[..., Any]
NULL = "OpaqueRef:NULL"


@pytest.fixture
def c(calls: Make) -> Any:
    return calls(release="8.2", hosts=3, vms=12)


def send(c: Any, vm: Any, host: str, sr: str = "", **more: Any) -> list[Any]:
    """The arguments of a migration with the disk to a host and its own local storage."""
    disk = c.vbd(vm["name_label"], "0")["VDI"]
    to = c.row("SR", sr or f"Local storage on {host}").ref
    network = next(iter(c.pool.store.table("network")))
    dest = more.get("dest") or c("host.migrate_receive", c.host(host).ref, network, {})
    return [vm.ref, dest, True, more.get("vdi_map", {disk: to}), more.get("vif_map", {}), {}, {}]


def test_a_running_vm_moves_with_its_disk(c: Any) -> None:
    """It goes on writing; what it wrote meanwhile is on the new disk, and the old one is gone."""
    vm, store = c.vm("vm01"), c.pool.store
    old = c.vbd("vm01", "0")["VDI"]
    task = c.start("VM.migrate_send", *send(c, vm, "host3"))
    c.sleep(60)
    assert (vm["power_state"], vm["current_operations"]) == ("Running", {task.ref: "migrate_send"})
    assert vm["scheduled_to_be_resident_on"] == c.host("host3").ref
    c.until(lambda: task["status"] != "pending")
    assert task["status"] == "success"
    assert (vm["resident_on"], vm["scheduled_to_be_resident_on"]) == (c.host("host3").ref, NULL)
    disk = store.get("VDI", c.vbd("vm01", "0")["VDI"])
    assert (disk["SR"], disk["name_label"]) == (c.row("SR", "Local storage on host3").ref, "disk of vm01")
    assert store.find("VDI", old) is None
    assert vm["uuid"] in c.pool.machine("host3").domains
    writes = c.pool.guest(vm).writes
    c.sleep(200)
    assert c.unharmed()
    assert c.pool.guest(vm).writes >= writes + 20


def test_a_halted_vm_moves_and_starts_where_its_disk_is(c: Any) -> None:
    """Nowhere else."""
    vm = c.vm("vm04")
    assert c("VM.migrate_send", *send(c, vm, "host2")) == vm.ref
    assert (vm["power_state"], vm["resident_on"]) == ("Halted", NULL)
    c("VM.start", vm.ref, False, False)
    assert vm["resident_on"] == c.host("host2").ref
    assert c.unharmed()


def test_a_suspended_vm_moves_with_its_image(c: Any) -> None:
    """It is resumed from where the image is then."""
    vm, store = c.vm("vm06"), c.pool.store
    disk, image = c.vbd("vm06", "0")["VDI"], vm["suspend_VDI"]
    to = c.row("SR", "Local storage on host2")
    c("VM.migrate_send", *send(c, vm, "host2", vdi_map={disk: to.ref, image: to.ref}))
    assert (vm["power_state"], store.find("VDI", image)) == ("Suspended", None)
    assert store.get("VDI", vm["suspend_VDI"])["SR"] == to.ref
    c("VM.resume", vm.ref, False, False)
    assert (vm["power_state"], vm["resident_on"]) == ("Running", c.host("host2").ref)
    assert c.unharmed()


def test_a_vm_does_not_move_where_there_is_no_room(c: Any) -> None:
    """It stays where it is, and nothing of it is on the other storage."""
    vm, to = c.vm("vm01"), c.row("SR", "Local storage on host3")
    c.pool.store.write(to, physical_size=1 << 30)
    disks = set(c.pool.disks)
    assert c.refused("VM.migrate_send", *send(c, vm, "host3"))[0] == "SR_BACKEND_FAILURE_44"
    assert (set(c.pool.disks), vm["current_operations"]) == (disks, {})
    assert c.unharmed()


def test_disks_of_snapshots_follow(c: Any) -> None:
    """They are still snapshots of the disk, and hold what they held."""
    vm, store = c.vm("vm01"), c.pool.store
    snapshot = c("VM.snapshot", vm.ref, "then")
    disk = next(vbd for vbd in c.pool.vbds(store.get("VM", snapshot)) if vbd["userdevice"] == "0")
    then = dict(c.pool.disk_of(disk["VDI"]).blocks)
    c("VM.migrate_send", *send(c, vm, "host3"))
    kept = store.get("VDI", disk["VDI"])
    assert kept["SR"] == c.row("SR", "Local storage on host3").ref
    assert (kept["is_a_snapshot"], kept["snapshot_of"]) == (True, c.vbd("vm01", "0")["VDI"])
    assert c.pool.disks[kept["uuid"]].blocks == then
    c("VM.revert", snapshot)
    assert c.unharmed()


def test_a_disk_may_move_while_its_vm_stays(c: Any) -> None:
    """To other storage of the same host."""
    vm = c.vm("vm01")
    c("VM.migrate_send", *send(c, vm, "host1"))
    assert vm["resident_on"] == c.host("host1").ref
    assert c.unharmed()


def test_every_disk_must_be_told_where_to_go(c: Any) -> None:
    """The error names the first that is not; the same is answered beforehand."""
    vm, disk = c.vm("vm01"), c.vbd("vm01", "0")["VDI"]
    arguments = send(c, vm, "host3", vdi_map={})
    for method in ("VM.assert_can_migrate", "VM.migrate_send"):
        assert c.refused(method, *arguments) == ["VDI_NOT_IN_MAP", disk]
    assert vm["current_operations"] == {}
    c("VM.assert_can_migrate", *send(c, vm, "host3"))


def test_what_stands_against_a_move(c: Any) -> None:
    """Interfaces that are to change, a host that is disabled or has not the storage, disks that cannot be mirrored."""
    vm, store = c.vm("vm01"), c.pool.store
    disk = store.get("VDI", c.vbd("vm01", "0")["VDI"])
    vif = {vm["VIFs"][0]: store.get("VIF", vm["VIFs"][0])["network"]}
    assert c.refused("VM.assert_can_migrate", *send(c, vm, "host3", vif_map=vif))[0] == "OPERATION_NOT_ALLOWED"
    elsewhere = send(c, vm, "host3", "Local storage on host2")
    assert c.refused("VM.assert_can_migrate", *elsewhere)[0] == "VM_REQUIRES_SR"
    for fields, error in (
        ({"cbt_enabled": True}, "VDI_CBT_ENABLED"),
        ({"cbt_enabled": False, "sm_config": {"key_hash": "x"}}, "VDI_IS_ENCRYPTED"),
        ({"sm_config": {}, "on_boot": "reset"}, "VDI_ON_BOOT_MODE_INCOMPATIBLE_WITH_OPERATION"),
    ):
        store.write(disk, **fields)
        assert c.refused("VM.assert_can_migrate", *send(c, vm, "host3")) == [error, disk.ref]
    store.write(disk, on_boot="persist")
    plugin = next(sm for sm in store.table("SM").values() if sm["type"] == "lvm")
    capable = (plugin["features"], plugin["capabilities"])
    store.write(plugin, features={"VDI_SNAPSHOT": 1}, capabilities=[])
    sr = c.row("SR", "Local storage on host3")
    assert c.refused("VM.assert_can_migrate", *send(c, vm, "host3")) == [
        *("SR_DOES_NOT_SUPPORT_MIGRATION", sr.ref, "VDI_MIRROR"),
    ]
    c("host.disable", c.host("host2").ref)
    assert c.refused("VM.assert_can_migrate", *send(c, vm, "host2"))[0] == "SR_DOES_NOT_SUPPORT_MIGRATION"
    store.write(plugin, features=capable[0], capabilities=capable[1])
    assert c.refused("VM.assert_can_migrate", *send(c, vm, "host2")) == ["HOST_DISABLED", c.host("host2").ref]


def test_only_the_disks_of_the_vm_move(c: Any) -> None:
    """Whatever else the caller names."""
    vm, store = c.vm("vm04"), c.pool.store
    other, to = c.vbd("vm08", "0")["VDI"], c.row("SR", "Local storage on host2").ref
    c("VM.migrate_send", *send(c, vm, "host2", vdi_map={c.vbd("vm04", "0")["VDI"]: to, other: to}))
    assert store.get("VDI", c.vbd("vm04", "0")["VDI"])["SR"] == to
    assert store.get("VDI", other)["SR"] != to


def test_a_destination_must_be_described_whole(c: Any) -> None:
    """As `host.migrate_receive` does it; its session must still be there."""
    vm = c.vm("vm01")
    arguments = send(c, vm, "host3")
    whole = arguments[1]
    assert sorted(whole) == ["SM", "host", "master", "session_id", "xenops"]
    for key in whole:
        arguments[1] = {name: value for name, value in whole.items() if name != key}
        assert c.refused("VM.migrate_send", *arguments) == ["INTERNAL_ERROR", "Not_found"]
    arguments[1] = whole
    c.pool.dispatch("session.logout", [whole["session_id"]])
    assert c.refused("VM.migrate_send", *arguments) == ["SESSION_INVALID", whole["session_id"]]
    assert vm["current_operations"] == {}


def test_no_more_than_three_leave_a_host_with_their_disks(c: Any) -> None:
    """The fourth is refused."""
    going = []
    for name in ("vm01", "vm07", "vm10"):
        assert c.vm(name)["resident_on"] == c.host("host1").ref
        going.append(c.start("VM.migrate_send", *send(c, c.vm(name), "host3")))
    vm = c.vm("vm04")
    c("VM.start_on", vm.ref, c.host("host1").ref, False, False)
    assert c.refused("VM.migrate_send", *send(c, vm, "host3")) == ["TOO_MANY_STORAGE_MIGRATES", "3"]
    c.until(lambda: all(task["status"] == "success" for task in going))
    assert c.unharmed()


@pytest.mark.parametrize("how", ["cancel", "power"])
def test_a_move_that_fails_leaves_no_copies(c: Any, how: str) -> None:
    """The VM goes on with its own disk."""
    vm, disks = c.vm("vm01"), set(c.pool.disks)
    task = c.start("VM.migrate_send", *send(c, vm, "host3"))
    c.sleep(95)
    if how == "cancel":
        c("task.cancel", task.ref)
    else:
        c.pool.hands.power_off("host3")
    c.until(lambda: task["status"] != "pending")
    assert (task["status"], vm["power_state"], vm["current_operations"]) == (
        *("cancelled" if how == "cancel" else "failure", "Running", {}),
    )
    assert set(c.pool.disks) == disks
    assert vm["resident_on"] == c.host("host1").ref
    assert how == "power" or c.unharmed()


def test_storage_migration_came_with_6_1(calls: Make) -> None:
    """An older host does not know the message."""
    assert calls(release="6.0").refused("VM.migrate_send") == ["MESSAGE_METHOD_UNKNOWN", "VM.migrate_send"]


# --- device models, and the network of a migration


def test_new_device_models_come_by_a_move_on_the_spot(newest: Make) -> None:
    """The guidance to do so is gone after it."""
    c = newest(hosts=2, vms=6)
    vm = c.vm("vm02")
    c.pool.store.write(vm, pending_guidances=["restart_device_model", "restart_vm"])
    domid = vm["domid"]
    c("VM.restart_device_models", vm.ref)
    assert vm["domid"] != domid
    assert vm["pending_guidances"] == ["restart_vm"]
    halted = c.vm("vm04").ref
    assert c.refused("VM.restart_device_models", halted) == ["VM_BAD_POWER_STATE", halted, "Running", "Halted"]
    c("VM.hard_shutdown", vm.ref)
    assert vm["pending_guidances"] == []


def test_the_network_of_a_migration_must_reach_the_target(c: Any) -> None:
    """By an interface that is plugged and has an address."""
    vm, host, store = c.vm("vm01"), c.host("host2"), c.pool.store
    network = next(iter(store.table("network").values()))
    other = store.create("network", c.pool.new_ref(), {"uuid": c.pool.new_uuid()})
    pif = store.get("PIF", host["PIFs"][0])
    assert c.refused("VM.pool_migrate", vm.ref, host.ref, {"network": other.ref}) == [
        *("PIF_NOT_PRESENT", host.ref, other.ref),
    ]
    store.write(pif, IP="")
    assert c.refused("VM.pool_migrate", vm.ref, host.ref, {"network": network.ref}) == ["INTERFACE_HAS_NO_IP", pif.ref]
    store.write(pif, currently_attached=False)
    assert c.refused("VM.pool_migrate", vm.ref, host.ref, {"network": network.ref}) == [
        *("REQUIRED_PIF_IS_UNPLUGGED", pif.ref),
    ]
    assert vm["scheduled_to_be_resident_on"] == NULL
    store.write(pif, currently_attached=True, IP="10.0.0.2")
    c("VM.pool_migrate", vm.ref, host.ref, {"network": network.ref})
    assert vm["resident_on"] == host.ref
