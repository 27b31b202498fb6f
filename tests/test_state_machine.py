"""Pools of many releases under every message that they serve, with rules that are generated from the data model.

The quick form does the same each time. The long one (`tox -e fuzz`) begins with another seed each time, and prints it:
`XENCTL_FUZZ` is how many runs it makes of each pool, `XENCTL_FUZZ_SEED` repeats one.
"""

from __future__ import annotations

import os
import random
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, seed, settings
from hypothesis.stateful import run_state_machine_as_test
from machines import PoolMachine, Tally, assert_catalogued, assert_readable, in_turn, machine_for
from world import Make, World

from mockserver import MockPool, classes
from xenctl.errors import Failure

STEPS = 30
QUICK = 2
"""Runs for each pool in the quick form."""
FUZZ = int(os.environ.get("XENCTL_FUZZ", "0"))
"""The same in the long one; 0 where the quick one is asked for."""
FLOOR = {"called": 0.99, "succeeded": 0.8} if FUZZ else {"called": 0.99, "succeeded": 0.3}
"""The share of all messages that must have been called, and of the verbs that must have succeeded, on each pool."""
POOLS = ["4.0.1", "5.0", "5.6", "6.2", "7.0", "8.2", "8.4", "4.0.1 to 4.1", "7.0 to 8.2"]
"""Releases; of two, the master is of the second and the other host of the first."""


def prepared(calls: Make, pool: str) -> MockPool:
    """A pool with one object of everything."""
    old, _, new = pool.partition(" to ")
    world = World(calls, old)
    if new:
        for vm in list(world.pool.store.table("VM").values()):
            if vm["resident_on"] == world.host("host1").ref and not vm["is_control_domain"]:
                world("VM.hard_shutdown", vm.ref)
        world.call.upgrade("host1", new)
    return world.pool


def run(machine: type[PoolMachine], runs: int, *, seeded: int | None = None) -> None:
    """Run a machine, the same each time or from a seed."""
    how = settings(
        max_examples=runs,
        stateful_step_count=STEPS,
        derandomize=seeded is None,
        database=None,
        deadline=None,
        suppress_health_check=list(HealthCheck),
        print_blob=True,
        phases=[Phase.generate, Phase.shrink] if seeded is not None else [Phase.generate],
    )
    run_state_machine_as_test(machine if seeded is None else seed(seeded)(machine), settings=how)


@pytest.mark.parametrize("pool", POOLS)
def test_every_message_leaves_a_pool_sound(calls: Make, tmp_path: Path, pool: str) -> None:
    """Whatever it is given: no invariant is broken, every refusal is one of xapi's, and what was written can be read. Each
    is called in turn, and then as Hypothesis likes, with all else that happens to pools."""
    tally, number = Tally(), seed_of()
    sys.stdout.write(f"{pool}: XENCTL_FUZZ_SEED={number}\n")
    machine, rng = machine_for(prepared(calls, pool), tally, tmp_path), random.Random(number)
    for _ in range(max(1, FUZZ // 4)):
        in_turn(machine, rng)
    run(machine, FUZZ or QUICK, seeded=number if FUZZ else None)
    sys.stdout.write("\n".join([*tally.lines(), f"besides: {dict(tally.steps)}", ""]))
    tally.assert_covered(**FLOOR)


def seed_of() -> int:
    """The same each time in the quick form."""
    return int(os.environ.get("XENCTL_FUZZ_SEED", random.SystemRandom().getrandbits(32) if FUZZ else 7))


# --- that the machine can fail


@pytest.fixture
def plant(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Makes a verb wrong: `plant("VM.pause", function)`."""

    def change(name: str, function: Any) -> None:
        classes.load()
        monkeypatch.setitem(classes.VERBS, name, classes.Verb(name, function, None))
        classes.find.cache_clear()

    yield change
    monkeypatch.undo()
    classes.find.cache_clear()


def stumble(call: Any, vm: str) -> str:
    raise KeyError(vm)


def misspell(call: Any, vm: str) -> str:
    raise Failure(["VM_BAD_POWER_STAT", vm])


def say_too_little(call: Any, vm: str) -> str:
    raise Failure(["VM_BAD_POWER_STATE", vm])


def lose_metrics(call: Any, vm: str) -> str:
    call.db.delete(call.db.get("VM_metrics", call.db.get("VM", vm)["metrics"]))
    return ""


def stay_busy(call: Any, vm: str) -> str:
    call.db.write(call.db.get("VM", vm), current_operations={call.task: "pause"})
    return ""


def write_nonsense(call: Any, vm: str) -> str:
    call.db.write(call.db.get("VM", vm), memory_target="much")
    return ""


def change_in_place(call: Any, vm: str) -> str:
    call.db.get("VM", vm)["other_config"]["paused"] = "once"
    raise Failure(["VM_SHUTDOWN_TIMEOUT", vm, "1"])


def refuse_what_is_allowed(call: Any, vm: str) -> str:
    raise Failure(["VM_BAD_POWER_STATE", vm, "running", "halted"])


def do_what_is_not_allowed(call: Any, vm: str) -> str:
    call.db.get("VM", vm)
    return ""


@pytest.mark.parametrize(
    ("mistake", "told"),
    [
        (stumble, "OpaqueRef"),
        (misspell, "no error of the data model"),
        (say_too_little, "not \\('vm', 'expected', 'actual'\\)"),
        (lose_metrics, "references hold"),
        (stay_busy, "operations have tasks"),
        (write_nonsense, "memory_target"),
        (change_in_place, "in the database was changed to"),
        (refuse_what_is_allowed, "is allowed, and refused"),
        (do_what_is_not_allowed, "is not among allowed_operations"),
    ],
)
def test_a_wrong_verb_is_found(calls: Make, tmp_path: Path, plant: Any, mistake: Any, told: str) -> None:
    """Each of the things that must hold after a step is looked at."""
    plant("VM.pause", mistake)
    pool = MockPool.create(hosts=2, vms=4, release="8.2")
    machine = machine_for(pool, Tally(), tmp_path, only=frozenset({"VM.pause"}))
    with pytest.raises((AssertionError, ValueError, KeyError), match=told):
        run(machine, 10)


def test_too_little_coverage_fails() -> None:
    """What was never called counts, also where all that was called succeeded."""
    tally = Tally(served={"VM.start", "VM.pause", "VM.get_all"})
    tally.note("VM.get_all")
    tally.note("VM.start", "VM_BAD_POWER_STATE")
    with pytest.raises(AssertionError, match=r"called 67% of 3 messages, .* called should be 90%"):
        tally.assert_covered(called=0.9, succeeded=0.0)
    with pytest.raises(AssertionError, match=r"succeeded with 0% of 2 verbs; succeeded should be 50%"):
        tally.assert_covered(called=0.5, succeeded=0.5)
    assert list(tally.lines()) == [
        "VM.get_all: called 1, succeeded 1",
        "VM.pause: called 0, succeeded 0",
        "VM.start: called 1, succeeded 0, VM_BAD_POWER_STATE 1",
    ]


def test_what_a_refusal_must_be() -> None:
    """An internal error is none of the fake's own, unless the argument was of a wrong type."""
    own = Failure(["INTERNAL_ERROR", "KeyError('x')"])
    with pytest.raises(AssertionError):
        assert_catalogued(own, misfit=False)
    assert_catalogued(own, misfit=True)
    assert_catalogued(Failure(["SR_BACKEND_FAILURE_44", "", "no space", ""]), misfit=False)


def test_a_row_that_no_client_can_read_is_found() -> None:
    """A number where a truth value belongs."""
    pool = MockPool.create(hosts=1, vms=1, release="8.2")
    (vm,) = (row for row in pool.store.table("VM").values() if row["name_label"] == "vm01")
    assert_readable(pool, vm)
    dict.__setitem__(vm, "is_a_template", 7)
    with pytest.raises(ValueError, match="is_a_template"):
        assert_readable(pool, vm)
