"""What would break a failover plan is refused, and only that."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from protected import enable, guests, lose, protected, told

from mockserver import failover_plan

Make = Callable[..., Any]
GIB = 1 << 30
BREAKS = ["HA_OPERATION_WOULD_BREAK_FAILOVER_PLAN"]


def resize(c: Any, vm: Any, size: int) -> None:
    fields = ("static_min", "dynamic_min", "dynamic_max", "static_max")
    c.pool.store.write(vm, **{f"memory_{field}": size for field in fields})


def tight(calls: Make) -> Any:
    """A pool of two hosts, of which each has room for the two VMs of the other, and little more."""
    c = calls(release="8.2", hosts=2, vms=6)
    for vm in guests(c):
        resize(c, vm, 2 * GIB)
        c("VM.set_ha_restart_priority", vm.ref, "restart")
    c("VM.pool_migrate", c.vm("vm05").ref, c.host("host2").ref, {"live": "true"})
    for host in ("host1", "host2"):
        c.leave_free(host, 5 * GIB)
    enable(c)
    assert c("pool.ha_compute_max_host_failures_to_tolerate") == 1
    return c


def test_a_vm_that_takes_the_room_is_not_started(calls: Make) -> None:
    """Nor resumed or migrated to where it is needed, whether it is protected or not; a small one is."""
    c = tight(calls)
    vm = next(guests(c, "Halted"))
    c("VM.set_ha_restart_priority", vm.ref, "")
    resize(c, vm, 2 * GIB)
    assert c.refused("VM.start", vm.ref, False, False) == BREAKS
    assert c.refused("VM.start_on", vm.ref, c.host("host2").ref, False, False) == BREAKS
    assert (vm["power_state"], vm["scheduled_to_be_resident_on"], vm["current_operations"]) == (
        "Halted",
        "OpaqueRef:NULL",
        {},
    )
    c("VM.set_ha_restart_priority", vm.ref, "restart")
    assert c.refused("VM.start", vm.ref, False, False) == BREAKS
    resize(c, vm, GIB // 4)
    c("VM.start", vm.ref, False, False)
    assert vm["ha_always_run"]


def test_overcommitting_can_be_allowed(calls: Make) -> None:
    """Then nothing is refused, and the pool says what became of its plan."""
    c = tight(calls)
    vm = next(guests(c, "Halted"))
    resize(c, vm, 2 * GIB)
    c("pool.set_ha_allow_overcommit", c.pool.store.pool().ref, True)
    c("VM.start", vm.ref, False, False)
    c.sleep(2000)
    assert (c.pool.store.pool()["ha_plan_exists_for"], c.pool.store.pool()["ha_overcommitted"]) == (0, True)
    assert told(c) == ["HA_POOL_DROP_IN_PLAN_EXISTS_FOR", "HA_POOL_OVERCOMMITTED"]


def test_where_there_is_no_plan_nothing_gets_worse(calls: Make) -> None:
    """A pool that is overcommitted already refuses nothing."""
    c = tight(calls)
    c.leave_free("host1", GIB)
    lose(c, "host2")
    assert "HA_POOL_OVERCOMMITTED" in told(c)
    assert not c("pool.ha_failover_plan_exists", 0)
    vm = next(guests(c, "Halted"))
    resize(c, vm, GIB // 4)
    c("VM.start", vm.ref, False, False)
    c("host.disable", c.host("host1").ref)


@pytest.mark.parametrize("method", ["host.disable", "host.evacuate"])
def test_a_host_that_the_plan_needs_stays(calls: Make, method: str) -> None:
    """It is neither disabled nor emptied; where the pool is content with less, it is."""
    c = tight(calls)
    host = c.host("host2")
    assert c.refused(method, host.ref) == BREAKS
    assert host["enabled"]
    c("pool.set_ha_host_failures_to_tolerate", c.pool.store.pool().ref, 0)
    c("host.disable", host.ref)
    c("host.evacuate", host.ref)
    assert not [vm for vm in guests(c) if vm["resident_on"] == host.ref]


def test_a_host_comes_back_to_the_plan(calls: Make) -> None:
    """Enabled again, it counts at once where the pool had too little room; not while it lacks storage that protected VMs
    need."""
    c = protected(calls, tolerate=0)
    pool, host = c.pool.store.pool(), c.host("host3")
    c("host.disable", host.ref)
    c("pool.set_ha_host_failures_to_tolerate", pool.ref, 2)
    assert (pool["ha_plan_exists_for"], pool["ha_overcommitted"]) == (1, True)
    nfs = c.row("SR", "NFS virtual disk storage")
    pbd = next(row for row in map(c.pool.store.table("PBD").get, nfs["PBDs"]) if row["host"] == host.ref)
    c.pool.store.write(pbd, currently_attached=False)
    assert c.refused("host.enable", host.ref) == BREAKS
    c.pool.store.write(pbd, currently_attached=True)
    pif = next(pif for pif in c.pool.store.rows("PIF", host["PIFs"]) if pif["management"])
    c.pool.store.write(pif, currently_attached=False)
    assert c.refused("host.enable", host.ref) == BREAKS
    c.pool.store.write(pif, currently_attached=True)
    c("host.enable", host.ref)
    c.sleep(30)
    assert (pool["ha_plan_exists_for"], pool["ha_overcommitted"]) == (2, False)


@pytest.mark.parametrize("release", ["8.2", "8.4", "newest"])
def test_only_protected_vms_leave_a_host(calls: Make, newest: Make, release: str) -> None:
    """Others are in the way while high availability is on; that it is this, only the latest releases say."""
    make = (lambda release, **shape: newest(**shape)) if release == "newest" else calls
    c = protected(make, tolerate=0, release=release)
    code = "HOST_EVACUATE_VM_NOT_HA_PROTECTED" if release == "newest" else "HOST_NOT_ENOUGH_FREE_MEMORY"
    host = c.host("host2")
    vm = next(vm for vm in guests(c) if vm["resident_on"] == host.ref)
    c("VM.set_ha_restart_priority", vm.ref, "")
    assert c("host.get_vms_which_prevent_evacuation", host.ref) == {vm.ref: [code, vm.ref]}
    assert c.refused("host.assert_can_evacuate", host.ref) == ["CANNOT_EVACUATE_HOST", f"{code},{vm.ref}"]
    c("pool.disable_ha")
    assert c("host.get_vms_which_prevent_evacuation", host.ref) == {}


def test_a_vm_that_does_not_fit_the_plan_is_not_protected(calls: Make) -> None:
    """While it runs; one that is off is asked when it starts."""
    c = protected(calls)
    vm = next(guests(c))
    c("VM.set_ha_restart_priority", vm.ref, "")
    for host in ("host1", "host2", "host3"):
        c.leave_free(host, 0)
    c("pool.ha_compute_max_host_failures_to_tolerate")
    c("pool.set_ha_host_failures_to_tolerate", c.pool.store.pool().ref, 0)
    assert not vm["ha_always_run"]
    c("VM.set_ha_restart_priority", vm.ref, "restart")
    assert vm["ha_always_run"]


def test_a_vm_that_cannot_run_everywhere_has_no_plan(calls: Make) -> None:
    """It is restarted only where it can run, so the pool promises nothing while it is protected."""
    c = protected(calls, tolerate=0)
    vm = next(guests(c))
    vdi = c.pool.store.get("VDI", c.vbd(vm["name_label"], "0")["VDI"])
    c.pool.store.write(
        vdi, SR=c.row("SR", f"Local storage on {c.pool.store.get('host', vm['resident_on'])['name_label']}").ref
    )
    assert not c("pool.ha_failover_plan_exists", 0)
    plan = failover_plan.restart_plan(c.pool, 0)
    assert plan.some_fixed
    assert plan.complete


def test_vms_that_are_off_come_first(calls: Make) -> None:
    """They are placed before hosts are taken to fail; where they find no place there is no plan at all."""
    c = protected(calls, tolerate=0)
    vm = next(guests(c, "Halted"))
    c.pool.store.write(vm, ha_always_run=True, ha_restart_priority="restart")
    assert set(failover_plan.restart_plan(c.pool, 0).starts) == {vm.ref}
    c.pool.store.write(vm, memory_static_max=1 << 40)
    plan = failover_plan.restart_plan(c.pool, 0)
    assert plan.homeless == (vm.ref,)
    assert not c("pool.ha_failover_plan_exists", 0)
    assert c("pool.ha_compute_max_host_failures_to_tolerate") == 0


def test_it_counts_with_all_memory_that_vms_may_have(calls: Make) -> None:
    """Not with what they are content with at the least, as starting a VM does."""
    c = protected(calls, tolerate=1)
    vm = next(guests(c))
    c.pool.store.write(vm, memory_static_max=200 * GIB)
    assert not c("pool.ha_failover_plan_exists", 1)


def test_protecting_a_vm_that_runs_needs_a_plan_for_it(calls: Make) -> None:
    """In the old way, too, where that is a flag."""
    for release in ("5.6.0", "8.2"):
        c = calls(release=release, hosts=2, vms=4)
        then = release == "5.6.0"
        enable(c, tolerate=0)
        c("pool.set_ha_host_failures_to_tolerate", c.pool.store.pool().ref, 1)
        vm = next(guests(c))
        other = next(h for h in c.pool.store.table("host").values() if h.ref != vm["resident_on"])
        c.leave_free(other["name_label"], 0)
        if then:
            c("VM.set_ha_restart_priority", vm.ref, "1")
            assert c.refused("VM.set_ha_always_run", vm.ref, True) == BREAKS
        else:
            assert c.refused("VM.set_ha_restart_priority", vm.ref, "restart") == BREAKS
        assert not vm["ha_always_run"]
