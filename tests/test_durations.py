"""How long things take: as told, with jitter, and the same for the same seed."""

from __future__ import annotations

import random
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from mockserver import Durations, MockPool, Trace
from mockserver.__main__ import main
from mockserver.durations import VARYING, parse
from mockserver.traced import to_lines
from xenctl import database
from xenctl.errors import Failure, TransportError

SHAPE: dict[str, Any] = {"hosts": 3, "vms": 6, "release": "8.2"}


def taken(c: Any, method: str, *args: Any) -> float:
    """Simulated seconds of one call."""
    began = c.pool.clock.now()
    c(method, *args)
    return float(c.pool.clock.now() - began)


def test_things_take_as_long_as_told(calls: Callable[..., Any]) -> None:
    """A start, a stop and a migration, by setup and bandwidth."""
    told = Durations(vm_create=7.0, vm_shutdown=11.0, migrate_setup=1.0, migrate_rate=1e9)
    c = calls(**SHAPE, durations=told)
    vm = c.vm("vm01")
    assert taken(c, "VM.clean_shutdown", vm.ref) == pytest.approx(11.0)
    assert taken(c, "VM.start_on", vm.ref, c.host("host1").ref, False, False) == pytest.approx(7.0)
    seconds = taken(c, "VM.pool_migrate", vm.ref, c.host("host2").ref, {})
    assert seconds == pytest.approx(1.0 + vm["memory_static_max"] / 1e9)


def test_with_jitter_each_takes_a_little_more_or_less(calls: Callable[..., Any]) -> None:
    """Within the share, not the same twice, and not what xapi's settings say."""
    c = calls(**SHAPE, durations=Durations(jitter=0.2))
    vm, seconds = c.vm("vm01"), []
    for _ in range(8):
        seconds.append(taken(c, "VM.clean_shutdown", vm.ref))
        c("VM.start", vm.ref, False, False)
    assert len(set(seconds)) == 8
    assert all(20.0 <= s <= 30.0 for s in seconds)
    assert max(seconds) - min(seconds) > 1.0
    steady = set(vars(Durations())) - VARYING - {"jitter"}
    assert {name: getattr(c.pool.durations, name) for name in steady} == {
        name: getattr(Durations(), name) for name in steady
    }


def test_jitter_does_not_change_what_pools_are_made_of() -> None:
    """References and uuids are those of a pool without it; and what varies is there."""
    plain, other = MockPool.create(**SHAPE), MockPool.create(**SHAPE, durations=Durations(jitter=0.3))
    assert database.write(plain.store.dump()) == database.write(other.store.dump())
    assert set(vars(Durations())) >= VARYING


def test_jitter_is_taken_back_and_forked(calls: Callable[..., Any]) -> None:
    """The same draws come again after a rollback, and in a copy."""
    c = calls(**SHAPE, durations=Durations(jitter=0.5))
    vm, seconds = c.vm("vm01").ref, set()
    copy = c.pool.fork()
    for _ in range(3):
        with c.pool.savepoint():
            seconds.add(taken(c, "VM.clean_shutdown", vm))
    began = copy.clock.now()
    copy.dispatch("VM.clean_shutdown", [c.session, vm])
    assert {copy.clock.now() - began} == seconds


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ({"vm_boot": -1}, "vm_boot is a number of seconds, or of bytes a second, not -1"),
        ({"vm_boot": "5"}, "vm_boot is a number of seconds, or of bytes a second, not '5'"),
        ({"vm_boot": float("inf")}, "not inf"),
        ({"vm_boot": True}, "not True"),
        ({"copy_rate": 0}, "copy_rate is a number of bytes a second above 0, not 0"),
        ({"jitter": 1}, "jitter is a share from 0 to less than 1, not 1"),
    ],
)
def test_what_cannot_be_is_refused(words: dict[str, Any], message: str) -> None:
    """A sentence each."""
    with pytest.raises(ValueError, match=message):
        Durations(**words)


def test_they_are_read_from_text() -> None:
    """As the command line takes them."""
    assert parse(["vm_boot=5", "migrate_rate=1e9"]) == Durations(vm_boot=5.0, migrate_rate=1e9)
    with pytest.raises(ValueError, match=r"by the name of 'vm_bot' \(is vm_boot meant\?\); there are jitter, firmware"):
        parse(["vm_bot=5"])
    with pytest.raises(ValueError, match="vm_boot is a number, not 'long'"):
        parse(["vm_boot=long"])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--duration", "vm_bot=5"], "mockserver: nothing takes its time by the name of 'vm_bot'"),
        (["--duration", "vm_boot=-5"], "mockserver: vm_boot is a number of seconds"),
        (["--jitter", "2"], "mockserver: jitter is a share from 0 to less than 1, not 2.0"),
    ],
)
def test_the_command_refuses_them_before_it_serves(
    capsys: pytest.CaptureFixture[str], arguments: list[str], message: str
) -> None:
    """One sentence and status 2."""
    assert main(arguments) == 2
    out = capsys.readouterr()
    assert out.err.startswith(message)
    assert not out.out


DEEDS: tuple[tuple[str, Callable[[random.Random, Any], list[Any]]], ...] = (
    ("VM.start", lambda rng, vm: [vm, False, False]),
    ("VM.clean_shutdown", lambda rng, vm: [vm]),
    ("VM.hard_reboot", lambda rng, vm: [vm]),
    ("VM.suspend", lambda rng, vm: [vm]),
    ("VM.resume", lambda rng, vm: [vm, False, False]),
    ("VM.snapshot", lambda rng, vm: [vm, f"snapshot {rng.random()}"]),
    ("VM.clone", lambda rng, vm: [vm, f"clone {rng.random()}"]),
    ("Async.VM.clean_shutdown", lambda rng, vm: [vm]),
    ("Async.VM.start", lambda rng, vm: [vm, False, False]),
    ("VM.get_record", lambda rng, vm: [vm]),
    ("VM.set_name_label", lambda rng, vm: [vm, f"name {rng.random()}"]),
    ("VM.destroy", lambda rng, vm: [vm]),
)
"""What is called of VMs, with its arguments."""


def do(pool: MockPool, seed: int) -> None:
    """Random deeds: calls that are answered or refused, time that passes, plugs that are pulled, faults."""
    rng = random.Random(seed)
    session = pool.dispatch("session.login_with_password", [pool.username, pool.password])
    for _ in range(60):
        method, make = rng.choice(DEEDS)
        vm = rng.choice(sorted(pool.store.table("VM")))
        with suppress(Failure, TransportError):
            pool.dispatch(method, [session, *make(rng, vm)])
        if rng.random() < 0.1:
            pool.clock.advance(rng.uniform(0.0, 300.0))
        if rng.random() < 0.05:
            pool.faults.add("answer_lost", method=method)
        member = pool.machines[rng.randrange(1, len(pool.machines))]
        if rng.random() < 0.05:
            (pool.hands.power_off if member.state == "running" else pool.clock.advance)(
                member.name if member.state == "running" else 30.0
            )
        elif member.state == "off":
            pool.hands.power_on(member.name)
    pool.clock.run_until_idle()


@pytest.mark.parametrize("jitter", [0.0, 0.25])
@pytest.mark.parametrize("seed", range(4))
def test_two_pools_of_one_seed_do_the_same(seed: int, jitter: float, tmp_path: Path) -> None:
    """Their databases and traces are equal to the byte: references, uuids and times; those of another seed are not."""

    def run(own: int) -> tuple[bytes, str, float]:
        pool = MockPool.create(**SHAPE, seed=own, durations=Durations(jitter=jitter))
        with Trace(pool, limit=10_000) as trace:
            do(pool, seed)
            pool.save(tmp_path / "pool.xml")
            return (tmp_path / "pool.xml").read_bytes(), "".join(to_lines(trace.tail())), pool.clock.now()

    first, second = run(seed), run(seed)
    assert first == second
    assert run(seed + 1)[:2] != first[:2]
