"""Lists of allowed operations: whatever was done, they are what they would be if all were made anew."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import pytest

from xenctl.errors import Failure

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
