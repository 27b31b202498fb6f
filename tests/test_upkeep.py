"""Lists of allowed operations, and the memory that hosts have free: whatever was done, they are what they would be if all
were made anew."""

from __future__ import annotations

import random
from collections.abc import Callable
from itertools import pairwise
from typing import Any

import pytest

from mockserver import Trace
from xenctl.errors import Failure
from xenctl.memory import needed

Make = Callable[..., Any]
SEEDS = (1, 2, 3)
ON_VMS = "pause unpause suspend hard_shutdown hard_reboot clean_shutdown".split()


def acts(c: Any, rng: random.Random) -> None:
    """One call, chosen by chance; some are refused."""
    store = c.pool.store
    vm = rng.choice([vm for vm in store.table("VM").values() if not vm["is_control_domain"]])
    host = rng.choice([*store.table("host")])
    call: list[Any] = rng.choice(
        [
            [f"VM.{rng.choice(ON_VMS)}", vm.ref],
            ["VM.start", vm.ref, rng.random() < 0.3, False],
            ["VM.resume", vm.ref, False, False],
            ["VM.pool_migrate", vm.ref, host, {"live": "true"}],
            ["VM.set_blocked_operations", vm.ref, {"suspend": "no"} if rng.random() < 0.5 else {}],
            ["host.disable", host],
            ["host.enable", host],
            ["host.set_power_on_mode", host, rng.choice(["", "wake-on-lan"]), {}],
            [f"VIF.{rng.choice(['plug', 'unplug'])}", rng.choice([*store.table("VIF")])],
            [f"VBD.{rng.choice(['plug', 'unplug'])}", rng.choice([*store.table("VBD")])],
            ["VM_appliance.hard_shutdown", rng.choice([*store.table("VM_appliance"), "none"])],
        ]
    )
    try:
        c(f"Async.{call[0]}" if rng.random() < 0.5 and call[0] != "VM.set_blocked_operations" else call[0], *call[1:])
    except Failure:
        return
    c.sleep(rng.choice([0.0, 0.5, 30.0]))


@pytest.mark.parametrize("release", ["8.2", "5.5", "4.0.1"])
@pytest.mark.parametrize("seed", SEEDS)
def test_no_list_lags_behind(calls: Make, release: str, seed: int) -> None:
    """In the middle of operations and after them, on releases of three eras."""
    c, rng = calls(release=release, hosts=2, vms=6), random.Random(seed)
    store = c.pool.store
    if "VM_appliance" in store.tables:
        appliance = c("VM_appliance.create", {"name_label": "all", "name_description": ""})
        for name in ("vm01", "vm02"):
            store.write(c.vm(name), appliance=appliance)
    for turn in range(60):
        acts(c, rng)
        assert not c.pool.upkeep.stale
        before = store.generation
        c.pool.upkeep.do_all(store)
        assert store.generation == before, f"seed {seed}, turn {turn}"


def test_a_call_that_waits_leaves_no_list_behind(c: Any) -> None:
    """Or whoever comes next would be taken for the one who changed it."""
    stale, waiter = [], c.pool.waiter

    def wait(what: Any) -> None:
        stale.append(c.pool.upkeep.stale)
        waiter(what)

    c.pool.waiter = wait
    c("VM.clean_shutdown", c.vm("vm01").ref)
    assert stale
    assert not any(stale)


def test_whoever_looks_while_a_call_waits_finds_the_lists_right(c: Any) -> None:
    """Though they are made only when something happens meanwhile: here a timer, which looks past every door."""
    vm, seen = c.vm("vm04"), list[Any]()
    devices = [*c.pool.store.rows("VBD", vm["VBDs"]), *c.pool.store.rows("VIF", vm["VIFs"])]

    def look() -> None:
        before = c.pool.store.generation
        c.pool.upkeep.do_all(c.pool.store)
        seen.append((c.pool.store.generation - before, vm["allowed_operations"], devices[0]["allowed_operations"]))

    c.pool.clock.after(0.5, look)
    c("VM.start", vm.ref, False, False)
    assert seen == [(0, [], [])]


def test_a_call_that_nobody_can_look_at_makes_its_lists_once(c: Any) -> None:
    """At its end: nothing says that they were empty in between."""
    vm, listed = c.vm("vm04"), list[Any]()
    noted = c.pool.store.on_write

    def note(write: Any) -> None:
        if (write.table, write.ref, write.field) == ("VM", vm.ref, "allowed_operations"):
            listed.append(write.new)
        noted(write)

    c.pool.store.on_write = note
    c("VM.start", vm.ref, False, False)
    assert listed == [vm["allowed_operations"]]
    assert "hard_shutdown" in vm["allowed_operations"]


@pytest.mark.parametrize("watcher", ["event.register", "trace"])
def test_who_hears_of_each_write_hears_of_lists_in_between(c: Any, watcher: str) -> None:
    """An old listener is told of the list that was empty while the VM started; so is a trace."""
    vm, listed = c.vm("vm04"), list[Any]()
    if watcher == "trace":
        with Trace(c.pool) as trace:
            c("VM.start", vm.ref, False, False)
        writes = [write for record in trace for write in record.writes]
        listed = [w.new for w in writes if (w.table, w.ref, w.field) == ("VM", vm.ref, "allowed_operations")]
    else:
        c("event.register", ["vm"])
        c("VM.start", vm.ref, False, False)
        told = [event["snapshot"]["allowed_operations"] for event in c("event.next") if event["ref"] == vm.ref]
        listed = [now for last, now in pairwise(told) if now != last]
    assert listed == [[], vm["allowed_operations"]]


def test_nothing_is_stale_at_a_savepoint_nor_after_a_rollback(c: Any) -> None:
    """What was written past all calls is seen to when the savepoint is taken; what is written after it, is gone."""
    vm, store = c.vm("vm04"), c.pool.store
    store.write(vm, blocked_operations={"start": "no"})
    assert c.pool.upkeep.stale
    with c.pool.savepoint():
        assert "start" not in vm["allowed_operations"]
        store.write(vm, blocked_operations={})
        assert c.pool.upkeep.stale
    assert not c.pool.upkeep.stale
    assert "start" not in vm["allowed_operations"]


@pytest.mark.parametrize("release", ["4.0.1", "5.6.0", "8.2"])
def test_free_memory_follows_guests(calls: Make, release: str) -> None:
    """Whether they stop, move or start, and whatever they are given; of a host that is away the last word stands."""
    c = calls(release=release, hosts=2, vms=4)
    vm, store = c.vm("vm01"), c.pool.store
    here, there = (store.get("host_metrics", c.host(name)["metrics"]) for name in ("host1", "host2"))
    size, before = needed(vm, store.release), (here["memory_free"], there["memory_free"])
    assert all(0 < metrics["memory_free"] < metrics["memory_total"] for metrics in (here, there))
    c("VM.pool_migrate", vm.ref, c.host("host2").ref, {"live": "true"})
    assert (here["memory_free"], there["memory_free"]) == (before[0] + size, before[1] - size)
    c("VM.hard_shutdown", vm.ref)
    assert (here["memory_free"], there["memory_free"]) == (before[0] + size, before[1])
    c("VM.start_on", vm.ref, c.host("host1").ref, False, False)
    assert here["memory_free"] == before[0] + size - needed(vm, store.release)
    c.pool.hands.power_off("host2")
    c.sleep(1200)
    c("VM.power_state_reset", c.vm("vm02").ref)
    assert (there["live"], there["memory_free"]) == (False, before[1])
