"""What becomes of VMs whose host is lost while high availability is on, and what operators are told."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import pytest
from protected import enable, guests, lose, protected, told

Make = Callable[..., Any]
GIB = 1 << 30


def on(c: Any, host: str) -> list[Any]:
    return [vm for vm in guests(c) if vm["resident_on"] == c.host(host).ref]


def gathered(calls: Make, release: str) -> tuple[Any, list[str]]:
    """A pool of two hosts, and the names of three VMs that run on the second."""
    c = calls(release=release, hosts=2, vms=9)
    vms = list(guests(c))[:3]
    for vm in vms:
        if vm["resident_on"] != c.host("host2").ref:
            c("VM.pool_migrate", vm.ref, c.host("host2").ref, {"live": "true"})
    return c, [vm["name_label"] for vm in vms]


def starts(c: Any) -> list[str]:
    """The VMs that were started, in order, by their names."""
    bodies = [message["body"] for message in c.pool.messages.newest_first() if message["name"] == "VM_STARTED"]
    return [body.split("'")[1] for body in reversed(bodies)]


def test_protected_vms_start_elsewhere(calls: Make) -> None:
    """Once the host was silent for its time, and then soon; their disks hold what they wrote."""
    c = protected(calls)
    vms = on(c, "host2")
    assert len(vms) == 2
    lose(c, "host2", 55)
    assert {vm["power_state"] for vm in vms} == {"Running"}
    c.sleep(60)
    assert {vm["power_state"] for vm in vms} == {"Running"}
    assert not any(vm["resident_on"] == c.host("host2").ref for vm in vms)
    assert told(c) == ["HA_HOST_FAILED"]
    assert c.unharmed()


def test_a_lost_host_is_known_to_be(calls: Make) -> None:
    """It is dead, reaches no state file and sees nobody; the others see each other."""
    c = protected(calls)
    host = c.host("host2")
    lose(c, "host2")
    assert not c("host_metrics.get_live", host["metrics"])
    assert (host["ha_statefiles"], host["ha_network_peers"]) == ([], [])
    assert set(c.host("host1")["ha_network_peers"]) == {c.host("host1")["uuid"], c.host("host3")["uuid"]}
    (message,) = [m for m in c.pool.messages.newest_first() if m["name"] == "HA_HOST_FAILED"]
    assert (message["cls"], message["obj_uuid"], message["body"]) == ("Host", host["uuid"], "Server 'host2' has failed")


def test_it_comes_back(calls: Make) -> None:
    """A host that boots again takes part, is enabled, and says that it had not stopped on purpose."""
    c = protected(calls)
    lose(c, "host2")
    assert c.pool.store.pool()["ha_plan_exists_for"] == 1
    c.pool.hands.power_on("host2")
    c.back()
    c.sleep(60)
    host = c.host("host2")
    assert host["enabled"]
    assert host["ha_statefiles"] == c.pool.store.pool()["ha_statefiles"]
    assert told(c) == ["HA_HOST_FAILED", "HA_HOST_WAS_FENCED"]


def test_a_host_that_stops_on_purpose_is_not_told_of(calls: Make) -> None:
    """Neither as failed nor as fenced, and it takes part again when it is back."""
    c = protected(calls)
    for vm in on(c, "host2"):
        c("VM.pool_migrate", vm.ref, c.host("host1").ref, {"live": "true"})
    c("host.disable", c.host("host2").ref)
    c("host.reboot", c.host("host2").ref)
    c.sleep(40)
    assert not c("host_metrics.get_live", c.host("host2")["metrics"])
    c.until(lambda: c.pool.machine("host2").state == "running")
    c.back()
    c.sleep(60)
    assert len(c.host("host2")["ha_network_peers"]) == 3
    assert told(c) == []


def test_vms_start_in_their_order(calls: Make) -> None:
    """The lowest first, those of the same order together, negative ones last; each waits for the delay of those before."""
    c, names = gathered(calls, "8.2")
    for name, order in zip(names, (-1, 2, 1), strict=True):
        c.pool.store.write(c.vm(name), order=order)
        c("VM.set_start_delay", c.vm(name).ref, 50)
        c("VM.set_ha_restart_priority", c.vm(name).ref, "restart")
    enable(c, tolerate=0)
    lose(c, "host2", 90)
    first, second, last = names[2], names[1], names[0]
    assert c.vm(first)["power_state"] == "Running"
    assert c.vm(second)["power_state"] == "Halted"
    c.sleep(300)
    assert starts(c) == [first, second, last]


def test_priorities_were_the_order_then(calls: Make) -> None:
    """Up to 5.6 FP1 the restart priority says who starts first; one without the flag is not protected."""
    c, names = gathered(calls, "5.6.0")
    for name, priority in zip(names, "310", strict=True):
        c("VM.set_ha_restart_priority", c.vm(name).ref, priority)
        c("VM.set_ha_always_run", c.vm(name).ref, name != names[2])
    enable(c, tolerate=0)
    lose(c, "host2", 300)
    assert starts(c) == [names[1], names[0]]
    assert c.vm(names[2])["power_state"] == "Halted"


def test_best_effort_comes_after_all_protected(calls: Make) -> None:
    """Where there is room left; VMs without a priority stay off."""
    c, (first, second, third) = gathered(calls, "8.2")
    c("VM.set_ha_restart_priority", c.vm(first).ref, "best-effort")
    c("VM.set_ha_restart_priority", c.vm(second).ref, "restart")
    enable(c, tolerate=0)
    lose(c, "host2", 300)
    assert starts(c) == [second, first]
    assert c.vm(third)["power_state"] == "Halted"


def test_best_effort_is_tried_again_when_a_host_comes(calls: Make) -> None:
    """It had no room; that is not told, and tried a few times."""
    c = protected(calls, hosts=2, tolerate=0, priority="best-effort")
    lost = on(c, "host2")
    c.leave_free("host1", 0)
    lose(c, "host2", 2000)
    assert {vm["power_state"] for vm in lost} == {"Halted"}
    assert "HA_PROTECTED_VM_RESTART_FAILED" not in told(c)
    c.pool.hands.power_on("host2")
    c.back()
    c.sleep(120)
    assert {vm["power_state"] for vm in lost} == {"Running"}


def test_without_room_protected_vms_stay_off_and_are_told_of(calls: Make) -> None:
    """Once for each; the pool says that it has too little, and they start when there is room again."""
    c = protected(calls, hosts=2)
    lost = on(c, "host2")
    c.leave_free("host1", 0)
    lose(c, "host2", 1000)
    pool = c.pool.store.pool()
    assert {vm["power_state"] for vm in lost} == {"Halted"}
    assert pool["ha_overcommitted"]
    assert told(c).count("HA_PROTECTED_VM_RESTART_FAILED") == len(lost)
    assert "HA_POOL_OVERCOMMITTED" in told(c)
    c.leave_free("host1", 40 * GIB)
    c.sleep(300)
    assert {vm["power_state"] for vm in lost} == {"Running"}


def test_a_vm_that_a_user_stops_stays_off(calls: Make) -> None:
    """It is not protected any more until somebody starts it."""
    c = protected(calls)
    vm = on(c, "host2")[0]
    c("VM.hard_shutdown", vm.ref)
    c.sleep(300)
    assert (vm["power_state"], vm["ha_always_run"]) == ("Halted", False)
    c("VM.start", vm.ref, False, False)
    assert vm["ha_always_run"]


def test_restarts_can_be_held_back(calls: Make) -> None:
    """For so long, also from before it was switched on; 0 ends it at once."""
    c = calls(release="8.2", hosts=3, vms=6)
    for vm in guests(c):
        c("VM.set_ha_restart_priority", vm.ref, "restart")
    c("pool.ha_prevent_restarts_for", 1000)
    enable(c)
    lost = on(c, "host2")
    lose(c, "host2", 500)
    assert c("host_metrics.get_live", c.host("host2")["metrics"])
    c("pool.ha_prevent_restarts_for", 0)
    c.sleep(20)
    assert not any(vm["resident_on"] == c.host("host2").ref for vm in lost)
    c("pool.ha_prevent_restarts_for", 300)
    lose(c, "host3", 280)
    assert c("host_metrics.get_live", c.host("host3")["metrics"])
    c.sleep(60)
    assert not c("host_metrics.get_live", c.host("host3")["metrics"])


def test_a_toolstack_that_dies_is_started_again(calls: Make) -> None:
    """The host lives on, so none of its VMs is touched."""
    from mockserver import startup

    c = protected(calls)
    vms = on(c, "host2")
    machine = c.pool.machine("host2")
    startup.toolstack_died(c.pool, machine)
    c.sleep(100)
    assert machine.xapi.mode == "dead"
    c.sleep(100)
    assert machine.xapi.mode == "member"
    assert {vm["resident_on"] for vm in vms} == {c.host("host2").ref}
    assert told(c) == []


def test_the_plan_is_made_anew_when_hosts_change(calls: Make) -> None:
    """A lost host takes its room with it; the pool says so, and that all is well when it is back."""
    c = protected(calls, tolerate=2)
    pool = c.pool.store.pool()
    assert (pool["ha_plan_exists_for"], pool["ha_overcommitted"]) == (2, False)
    lose(c, "host3")
    assert (pool["ha_plan_exists_for"], pool["ha_overcommitted"]) == (1, True)
    assert told(c)[:3] == ["HA_HOST_FAILED", "HA_POOL_DROP_IN_PLAN_EXISTS_FOR", "HA_POOL_OVERCOMMITTED"]
    c.pool.hands.power_on("host3")
    c.back()
    c.sleep(120)
    assert (pool["ha_plan_exists_for"], pool["ha_overcommitted"]) == (2, False)


def test_nothing_goes_on_while_nothing_happens(calls: Make) -> None:
    """No timer is left in a pool where all is well."""
    c = protected(calls)
    c.pool.clock.run_until_idle(limit=30 * 86400.0)
    assert c.pool.clock.pending() == []


@pytest.mark.parametrize("seed", range(4))
def test_disks_survive_whatever_is_lost(calls: Make, seed: int) -> None:
    """Hosts are lost and come back at random; no guest loses a byte, and what is protected runs in the end."""
    chance = random.Random(seed)
    c = protected(calls, hosts=3, vms=8, tolerate=2, seed=seed)
    wanted = {vm["name_label"] for vm in guests(c)}
    for _ in range(6):
        running = [m.name for m in c.pool.machines if m.state == "running"]
        off = [m.name for m in c.pool.machines if m.state == "off"]
        if off and (len(running) < 2 or chance.random() < 0.5):
            c.pool.hands.power_on(chance.choice(off))
        elif len(running) > 1:
            c.pool.hands.power_off(chance.choice(running))
        c.sleep(chance.choice((10, 70, 100, 300, 600)))
    for machine in c.pool.machines:
        if machine.state == "off":
            machine.power_on()
    c.sleep(900)
    c = c.back()
    c.sleep(600)
    assert {vm["name_label"] for vm in guests(c)} == wanted
    assert c.unharmed()
    assert sum(m.system.role == "master" for m in c.pool.machines) == 1
