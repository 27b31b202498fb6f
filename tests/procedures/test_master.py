"""The master handed over while it is well: every host follows, and no guest notices."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from pools import reach, row, states, unharmed
from protected import protected
from upkeep import call, carried_out, killed_anywhere, look, made

from mockserver import MockPool
from xenctl.procedures import master


@pytest.mark.parametrize("release", ["4.1", "5.0", "5.6", "6.2", "7.1", "8.2"])
def test_another_host_becomes_the_master(release: str) -> None:
    """By name; the old one is a member then, and guests run on where they are."""
    pool = made(release)
    before = states(pool)
    plan = master.plan(reach(pool), "host3")
    assert plan.problems == ()
    assert carried_out(pool, plan).problems == []
    facts = look(pool)
    assert facts.hosts[facts.master].name == "host3"
    assert all(host.live and host.enabled for host in facts.hosts.values())
    assert [m.name for m in pool.machines if m.system.role == "master"] == ["host3"]
    assert (states(pool), facts.mark) == (before, "")
    assert unharmed(pool)


def test_a_release_that_cannot_hand_over_says_so() -> None:
    """4.0.1 has no such message."""
    (problem,) = master.plan(reach(made("4.0.1")), "host2").problems
    assert problem == "XenServer 4.0.1 cannot hand a pool over: that came with 4.1"


def disabled(pool: MockPool) -> None:
    call(pool, "host.disable", row(pool, "host", "host2").ref)


def off(pool: MockPool) -> None:
    pool.hands.power_off("host3")
    pool.clock.advance(900.0)


def mixed(pool: MockPool) -> None:
    call(pool, "pool.add_to_other_config", pool.store.pool().ref, "rolling_upgrade_in_progress", "true")


def claimed(pool: MockPool) -> None:
    call(pool, "pool.add_to_other_config", pool.store.pool().ref, "xenctl-run", "another")


@pytest.mark.parametrize(
    ("spoil", "host", "said"),
    [
        (disabled, "host2", "host2 is disabled"),
        (off, "host2", "host3 is not running, and every host has to agree"),
        (mixed, "host2", "the master is not changed during an upgrade"),
        (claimed, "host2", "another run (another) is at work"),
        (lambda pool: None, "host1", "host1 is the master already"),
    ],
)
def test_what_stands_against_it_is_told_before(spoil: Any, host: str, said: str) -> None:
    """And nothing is changed."""
    pool = made()
    spoil(pool)
    plan = master.plan(reach(pool), host)
    assert any(said in problem for problem in plan.problems), plan.problems
    assert plan.steps == ()


def test_high_availability_keeps_the_master(calls: Any) -> None:
    """It is switched off first, or nothing is done."""
    pool = protected(calls, vms=3).pool
    (problem,) = master.plan(reach(pool), "host2").problems
    assert problem == "high availability is on: switch it off first, it keeps the master where it is"


def test_a_host_that_there_is_not_is_refused() -> None:
    """With the names of those that there are."""
    with pytest.raises(ValueError, match="no host is called 'host9'; there are host1, host2, host3"):
        master.plan(reach(made()), "host9")


@pytest.mark.chaos
def test_killed_anywhere_and_resumed_it_ends_the_same(tmp_path: Path) -> None:
    """Also after the answer was lost, with the toolstacks on their way."""
    killed_anywhere(lambda: made("5.6", hosts=2, vms=2), lambda session: master.plan(session, "host2"), tmp_path)
