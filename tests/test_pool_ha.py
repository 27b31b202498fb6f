"""High availability of a pool, switched on and off; its failover plan in calls; the log of the database on a disk."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from protected import enable, guests, lose, protected, told

from xenctl import database

Make = Callable[..., Any]
GIB = 1 << 30
NFS = "NFS virtual disk storage"


def disks(c: Any, kind: str) -> list[Any]:
    return [vdi for vdi in c.pool.store.table("VDI").values() if vdi["type"] == kind]


# --- on


def test_it_is_on_with_disks_of_its_own(calls: Make) -> None:
    """A state file and a disk for the database are made on shared storage, and every host knows them."""
    c = calls(release="8.2", hosts=3)
    pool = c.pool.store.pool()
    assert c("pool.enable_ha", [], {"timeout": "90"}) == ""
    assert (pool["ha_enabled"], pool["ha_configuration"], pool["ha_cluster_stack"]) == (True, {"timeout": "90"}, "xhad")
    (statefile,), (metadata,) = disks(c, "ha_statefile"), disks(c, "redo_log")
    assert pool["ha_statefiles"] == [statefile.ref]
    assert (statefile["name_label"], statefile["sharable"], statefile["SR"]) == (
        "Statefile for HA",
        True,
        c.row("SR", NFS).ref,
    )
    assert (metadata["name_label"], metadata["virtual_size"]) == ("Metadata for HA", 256 << 20)
    for machine in c.pool.machines:
        assert machine.ha_daemon == "fencing"
        assert machine.system.ha.timeout == 90.0
        assert [uuid for uuid, _ in machine.system.static_vdis] == [statefile["uuid"], metadata["uuid"]]
    assert {tuple(h["ha_statefiles"]) for h in c.pool.store.table("host").values()} == {(statefile.ref,)}


def test_hosts_see_each_other(calls: Make) -> None:
    """Soon after it was switched on, each host says which others it sees."""
    c = protected(calls)
    uuids = {host["uuid"] for host in c.pool.store.table("host").values()}
    assert all(set(host["ha_network_peers"]) == uuids for host in c.pool.store.table("host").values())


def test_the_database_is_on_its_disk(calls: Make) -> None:
    """While it is on as it is now, afterwards as it was then."""
    c = protected(calls)
    (metadata,) = disks(c, "redo_log")

    def name() -> str:
        from mockserver.volumes import current

        disk = current(c.pool, metadata)
        data = disk.read(0, 65536 * (max(disk.blocks) + 1)).rstrip(b"\0")
        return database.read(data).tables["pool"].rows[c.pool.store.pool().ref].cells["name_label"]

    c("pool.set_name_label", c.pool.store.pool().ref, "while on")
    assert name() == "while on"
    c("pool.disable_ha")
    c("pool.set_name_label", c.pool.store.pool().ref, "while off")
    assert name() == "while on"


def test_its_disks_stay_for_the_next_time(calls: Make) -> None:
    """Switched off and on again, it uses the ones that are there; in between they may be destroyed."""
    c = calls(release="8.2", hosts=2)
    c("pool.enable_ha", [], {})
    first = [vdi.ref for vdi in (*disks(c, "ha_statefile"), *disks(c, "redo_log"))]
    assert c.refused("VDI.destroy", first[0]) == ["HA_IS_ENABLED"]
    c("pool.disable_ha")
    c("pool.enable_ha", [], {})
    assert [vdi.ref for vdi in (*disks(c, "ha_statefile"), *disks(c, "redo_log"))] == first
    c("pool.disable_ha")
    for ref in first:
        c("VDI.destroy", ref)
    assert disks(c, "ha_statefile") == []


def test_it_cannot_be_switched_on_twice(calls: Make) -> None:
    """Nor off twice; before 7.0 the verb says so, since then the pool's operations do."""
    for release in ("5.6.0", "6.5.0", "8.2"):
        c = calls(release=release, hosts=2)
        assert c.refused("pool.disable_ha") == ["HA_NOT_ENABLED"]
        c("pool.enable_ha", [], {})
        assert c.refused("pool.enable_ha", [], {}) == ["HA_IS_ENABLED"]
        c("pool.disable_ha")
        assert not c.pool.store.pool()["ha_enabled"]


def test_while_it_is_switched_on_nothing_else_is(calls: Make) -> None:
    """The operation is shown, and keeps its disks."""
    c = calls(release="8.2", hosts=2)
    task = c.start("pool.enable_ha", [], {})
    pool = c.pool.store.pool()
    c.sleep(5)
    assert pool["current_operations"] == {task.ref: "ha_enable"}
    assert pool["allowed_operations"] == []
    assert c.refused("pool.enable_ha", [], {}) == ["HA_ENABLE_IN_PROGRESS"]
    assert c.refused("pool.disable_ha") == ["HA_ENABLE_IN_PROGRESS"]
    assert c.refused("VDI.destroy", disks(c, "ha_statefile")[0].ref) == ["HA_ENABLE_IN_PROGRESS"]
    c.sleep(60)
    assert task["status"] == "success"
    assert "ha_disable" in pool["allowed_operations"]
    assert "ha_enable" not in pool["allowed_operations"]


def test_while_it_is_switched_off_its_disks_stay(calls: Make) -> None:
    """Nothing else is done to the pool either."""
    c = calls(release="8.2", hosts=2)
    c("pool.enable_ha", [], {})
    disk, pool = disks(c, "ha_statefile")[0], c.pool.store.pool()
    c.pool.store.write(pool, current_operations={"t": "ha_disable"}, ha_enabled=False)
    assert c.refused("VDI.destroy", disk.ref) == ["HA_DISABLE_IN_PROGRESS"]
    assert c.refused("pool.enable_ha", [], {}) == ["HA_DISABLE_IN_PROGRESS"]
    assert c.pool.store.find("VDI", disk.ref) is disk
    c.pool.store.write(pool, current_operations={}, ha_enabled=True)
    c("pool.disable_ha")
    c("VDI.destroy", disk.ref)
    assert disks(c, "ha_statefile") == []


def test_storage_must_do(calls: Make) -> None:
    """It is plugged everywhere and can be attached early; without any that can there is no state file."""
    c = calls(release="8.4", hosts=2)
    local, nfs = c.row("SR", "Local storage on host1"), c.row("SR", NFS)
    assert c.refused("pool.enable_ha", [local.ref], {}) == ["SR_HAS_NO_PBDS", local.ref]
    images = c.row("SR", "ISO library")
    assert c.refused("pool.enable_ha", [images.ref], {}) == ["SR_OPERATION_NOT_SUPPORTED", images.ref]
    c.pool.store.write(nfs, physical_size=nfs["physical_utilisation"] + GIB)
    assert c.refused("pool.enable_ha", [nfs.ref], {}) == ["SR_SOURCE_SPACE_INSUFFICIENT", nfs.ref]
    assert c.refused("SR.assert_can_host_ha_statefile", nfs.ref) == ["SR_SOURCE_SPACE_INSUFFICIENT", nfs.ref]
    assert c.refused("pool.enable_ha", [], {}) == ["CANNOT_CREATE_STATE_FILE"]
    assert disks(c, "ha_statefile") == []
    assert c.pool.store.pool()["current_operations"] == {}


def test_every_host_must_be_there(calls: Make) -> None:
    """One that is thought dead, or whose version differs, is in the way; nothing is begun."""
    c = calls(release="8.2", hosts=2)
    host = c.host("host2")
    c.pool.store.write(host, software_version={**host["software_version"], "platform_version": "3.1.0"})
    assert c.refused("pool.enable_ha", [], {}) == ["NOT_SUPPORTED_DURING_UPGRADE"]
    c = calls(release="8.2", hosts=2)
    c.pool.hands.power_off("host2")
    c.until(lambda: not c("host_metrics.get_live", c.host("host2")["metrics"]))
    assert c.refused("pool.enable_ha", [], {}) == ["HOST_OFFLINE", c.host("host2").ref]
    assert disks(c, "ha_statefile") == []


def test_interfaces_that_are_needed_must_be_up(calls: Make) -> None:
    """One that must not be unplugged is in the way while it is; one with an address that anybody may unplug is told of."""
    c = calls(release="8.2", hosts=2)
    pif = next(iter(c.pool.store.table("PIF").values()))
    c.pool.store.write(pif, disallow_unplug=True, currently_attached=False)
    assert c.refused("pool.enable_ha", [], {}) == ["REQUIRED_PIF_IS_UNPLUGGED", pif.ref]
    c.pool.store.write(pif, disallow_unplug=False, currently_attached=True, management=False)
    c("pool.enable_ha", [], {})
    (message,) = c.pool.messages.newest_first()
    assert (message["name"], message["cls"]) == ("IP_CONFIGURED_PIF_CAN_UNPLUG", "Pool")
    assert message["body"].endswith(f"host1: eth0 (uuid: {pif['uuid']})")


def test_a_licence_may_lack_it(calls: Make) -> None:
    """The key that grants it says so."""
    c = calls(release="8.2", hosts=2)
    c.pool.store.write(c.pool.store.pool(), restrictions={"enable_xha": "false"})
    assert c.refused("pool.enable_ha", [], {}) == ["LICENCE_RESTRICTION", "HA"]


def test_one_host_that_cannot_undoes_all(calls: Make) -> None:
    """A host that does not reach the state file: afterwards no host is armed, and the disks stay."""
    c = calls(release="8.2", hosts=3)
    c.pool.hands.lose_storage("host3", NFS)
    assert c.refused("pool.enable_ha", [], {}) == ["HA_HOST_CANNOT_ACCESS_STATEFILE"]
    assert not c.pool.store.pool()["ha_enabled"]
    assert [(m.ha_daemon, m.system.armed) for m in c.pool.machines] == [("", False)] * 3
    assert len(disks(c, "ha_statefile")) == 1
    c.pool.hands.regain_storage("host3", NFS)
    c("pool.enable_ha", [], {})


def test_before_5_0_there_is_none(calls: Make) -> None:
    """4.1 knows the message, and nothing behind it."""
    c = calls(release="4.1.0", hosts=2)
    assert c.refused("pool.enable_ha", [], {}) == ["NOT_IMPLEMENTED", "pool.enable_ha"]
    assert c.refused("pool.disable_ha") == ["HA_NOT_ENABLED"]
    assert calls(release="4.0.1").refused("pool.enable_ha", [], {})[0] == "MESSAGE_METHOD_UNKNOWN"


@pytest.mark.parametrize("release", ["5.0.0", "5.5.0", "5.6.0", "6.0.0", "6.2.0", "7.0.0", "8.4", "XCP-ng 8.3"])
def test_it_works_in_every_release(calls: Make, release: str) -> None:
    """From the first that has it on: VMs of a lost host start elsewhere, and it can be switched off again."""
    c = calls(release=release, hosts=3, vms=6)
    then = c.pool.store.release.schema < (5, 63)
    for vm in guests(c):
        c("VM.set_ha_restart_priority", vm.ref, "1" if then else "restart")
        if then:
            c("VM.set_ha_always_run", vm.ref, True)
    enable(c)
    ran = {vm["name_label"] for vm in guests(c)}
    lose(c, "host3")
    assert {vm["name_label"] for vm in guests(c)} == ran
    assert c.unharmed()
    c("pool.disable_ha")
    assert not c.pool.store.pool()["ha_enabled"]


# --- off


def test_switched_off_no_host_is_armed(calls: Make) -> None:
    """Nothing starts with the next boot, and a host that is lost is just lost."""
    c = protected(calls)
    c("pool.disable_ha")
    pool = c.pool.store.pool()
    assert (pool["ha_enabled"], pool["ha_plan_exists_for"]) == (False, 0)
    assert [(m.ha_daemon, m.system.ha, m.system.static_vdis) for m in c.pool.machines] == [("", None, ())] * 3
    lost = [vm for vm in guests(c) if vm["resident_on"] == c.host("host3").ref]
    lose(c, "host3")
    assert {vm["power_state"] for vm in lost} == {"Running"}


def test_a_host_that_was_off_hears_of_it_later(calls: Make) -> None:
    """It reads on the state file that it is over, and comes back unarmed."""
    c = protected(calls)
    lose(c, "host3")
    c("pool.disable_ha")
    assert c.pool.machine("host3").system.armed
    c.pool.hands.power_on("host3")
    c = c.back()
    assert not c.pool.machine("host3").system.armed
    assert c.host("host3")["enabled"]


def test_without_the_state_file_every_host_must_hear(calls: Make) -> None:
    """The master cannot reach the state file, and a host is lost: switching off goes on until all hosts answer."""
    c = protected(calls)
    for host in ("host1", "host2", "host3"):
        c.pool.hands.lose_storage(host, NFS)
    c.sleep(100)
    assert "HA_STATEFILE_LOST" in told(c)
    c.pool.hands.power_off("host3")
    task = c.start("pool.disable_ha")
    c.sleep(300)
    assert (task["status"], c.pool.store.pool()["ha_enabled"]) == ("pending", True)
    for host in ("host1", "host2", "host3"):
        c.pool.hands.regain_storage(host, NFS)
    c.pool.hands.power_on("host3")
    c.until(lambda: task["status"] != "pending")
    assert task["status"] == "success"
    assert not c.pool.store.pool()["ha_enabled"]


# --- the plan in calls


def test_the_pool_says_what_it_can_survive(calls: Make) -> None:
    """How many failures there is a plan for, also if other VMs were protected."""
    c = protected(calls, tolerate=0)
    pool = c.pool.store.pool()
    assert c("pool.ha_compute_max_host_failures_to_tolerate") == 2
    assert pool["ha_plan_exists_for"] == 0
    assert [c("pool.ha_failover_plan_exists", n) for n in (0, 1, 2, 3, 9, -1)] == [True] * 3 + [False] * 3
    everybody = {vm.ref: "restart" for vm in guests(c)}
    assert c("pool.ha_compute_hypothetical_max_host_failures_to_tolerate", everybody) == 2
    assert c("pool.ha_compute_hypothetical_max_host_failures_to_tolerate", {}) == 3
    c.pool.store.write(c.vm("vm01"), memory_static_max=60 * GIB)
    assert c("pool.ha_compute_hypothetical_max_host_failures_to_tolerate", everybody) < 2
    bad = {c.vm("vm01").ref: "always"}
    error = ["INVALID_VALUE", "ha_restart_priority", "always"]
    assert c.refused("pool.ha_compute_hypothetical_max_host_failures_to_tolerate", bad) == error


def test_a_wish_that_breaks_the_plan_is_refused(calls: Make) -> None:
    """Where a plan exists; where there is none anything may be wished for, and the pool says that it is too much."""
    c = protected(calls, tolerate=1)
    pool = c.pool.store.pool()
    assert (pool["ha_plan_exists_for"], pool["ha_overcommitted"]) == (1, False)
    set_ = "pool.set_ha_host_failures_to_tolerate"
    assert c.refused(set_, pool.ref, -1) == ["INVALID_VALUE", "ha_host_failures_to_tolerate", "-1"]
    assert c.refused(set_, pool.ref, 3) == ["HA_OPERATION_WOULD_BREAK_FAILOVER_PLAN"]
    c(set_, pool.ref, 0)
    assert pool["ha_plan_exists_for"] == 0
    c(set_, pool.ref, 3)
    assert (pool["ha_host_failures_to_tolerate"], pool["ha_plan_exists_for"], pool["ha_overcommitted"]) == (3, 2, True)
    c("VM.set_ha_restart_priority", next(guests(c, "Halted")).ref, "restart")
    assert told(c) == ["HA_POOL_OVERCOMMITTED"]


def test_computing_the_most_puts_the_pool_right(calls: Make) -> None:
    """What the pool says of its plan is what was found, and that it became worse is told."""
    c = protected(calls, tolerate=2)
    pool = c.pool.store.pool()
    c.leave_free("host2", 0)
    c.leave_free("host3", 0)
    most = c("pool.ha_compute_max_host_failures_to_tolerate")
    assert most < 2
    assert (pool["ha_plan_exists_for"], pool["ha_overcommitted"]) == (most, True)
    (message,) = [m for m in c.pool.messages.newest_first() if m["name"] == "HA_POOL_DROP_IN_PLAN_EXISTS_FOR"]
    assert message["body"] == str(most)


def test_a_plan_names_hosts_or_obstacles(calls: Make) -> None:
    """For each VM of failed hosts: where it would start, or what keeps it."""
    c = calls(release="8.2", hosts=3, vms=6)
    one, two = [vm for vm in guests(c) if vm["resident_on"] == c.host("host2").ref][:2]
    lost = [c.host("host2").ref]
    plan = c("pool.ha_compute_vm_failover_plan", lost, [one.ref, two.ref])
    assert {tuple(found) for found in plan.values()} == {("host",)}
    assert c.host("host2").ref not in [found["host"] for found in plan.values()]
    for host in ("host1", "host3"):
        c.leave_free(host, 0)
    vdi = c.pool.store.get("VDI", c.vbd(two["name_label"], "0")["VDI"])
    c.pool.store.write(c.pool.store.get("SR", vdi["SR"]), shared=False)
    code = "HA_CONSTRAINT_VIOLATION_SR_NOT_SHARED"
    assert c("pool.ha_compute_vm_failover_plan", lost, [two.ref]) == {two.ref: {"error_code": code}}
    c.pool.store.write(c.pool.store.get("SR", vdi["SR"]), shared=True)
    plan = c("pool.ha_compute_vm_failover_plan", lost, [one.ref])
    assert plan == {one.ref: {"error_code": "HOST_NOT_ENOUGH_FREE_MEMORY"}}


# --- the log of the database


def test_the_log_works_without_it(calls: Make) -> None:
    """A disk holds the database on storage that was named; switched off, the disk stays."""
    c = calls(release="8.2", hosts=2)
    pool = c.pool.store.pool()
    c("pool.enable_redo_log", c.row("SR", NFS).ref)
    (vdi,) = disks(c, "redo_log")
    assert (pool["redo_log_enabled"], pool["redo_log_vdi"], vdi["name_label"]) == (True, vdi.ref, "Metadata redo-log")
    assert [m.system.static_vdis for m in c.pool.machines] == [((vdi["uuid"], "general metadata VDI"),)] * 2
    assert vdi["uuid"] in c.pool.storage.replicas
    c("pool.disable_redo_log")
    assert not pool["redo_log_enabled"]
    assert [m.system.static_vdis for m in c.pool.machines] == [()] * 2
    assert c.pool.storage.replicas == set()
    assert [v.ref for v in disks(c, "redo_log")] == [vdi.ref]


def test_the_log_goes_on_when_it_is_off_again(calls: Make) -> None:
    """High availability uses the disk that there is, and leaves it to the log."""
    c = calls(release="8.2", hosts=2)
    c("pool.enable_redo_log", c.row("SR", NFS).ref)
    c("pool.enable_ha", [], {})
    (vdi,) = disks(c, "redo_log")
    c("pool.disable_ha")
    assert c.pool.storage.replicas == {vdi["uuid"]}
    assert [m.system.static_vdis for m in c.pool.machines] == [((vdi["uuid"], "general metadata VDI"),)] * 2


def test_the_log_needs_storage_and_every_host(calls: Make) -> None:
    """Else it says what it could not do."""
    c = calls(release="8.2", hosts=2)
    nfs = c.row("SR", NFS)
    c.pool.hands.power_off("host2")
    c.until(lambda: not c("host_metrics.get_live", c.host("host2")["metrics"]))
    assert c.refused("pool.enable_redo_log", nfs.ref) == ["CANNOT_ENABLE_REDO_LOG", "failed to make VDI static."]
    c.pool.store.write(nfs, physical_size=nfs["physical_utilisation"] + 1)
    for vdi in disks(c, "redo_log"):
        c("VDI.destroy", vdi.ref)
    text = "failed to create a VDI for the redo log on the SR with the given UUID."
    c.pool.store.write(nfs, physical_size=nfs["physical_utilisation"] + 1)
    assert c.refused("pool.enable_redo_log", nfs.ref) == ["CANNOT_ENABLE_REDO_LOG", text]
    assert not c.pool.store.pool()["redo_log_enabled"]


def test_every_host_keeps_the_database_in_which_it_is_on(calls: Make) -> None:
    """A member that takes over from its backup knows of it."""
    c = protected(calls)
    kept = [next(iter(machine.system.saved.tables["pool"].rows.values())) for machine in c.pool.machines[1:]]
    assert {row.cells["ha_enabled"] for row in kept} == {"true"}


def test_the_disk_keeps_the_database_while_a_host_is_away(calls: Make) -> None:
    """Where the master reaches it, no host needs to be told."""
    c = protected(calls)
    c.pool.hands.power_off("host3")
    c("pool.sync_database")
    c("pool.disable_ha")
    assert c.refused("pool.sync_database")[0] in ("CANNOT_CONTACT_HOST", "HOST_OFFLINE")
