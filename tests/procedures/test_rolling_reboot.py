"""A rolling reboot: one host after another, the guests go on running and end where they were."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from chaos import Fate, Killed
from pools import RELEASES, pin, reach, row, states, unharmed
from protected import protected
from upkeep import booted, call, carried_out, killed_anywhere, look, made, on

from mockserver import MockPool
from xenctl.procedures import rolling_reboot, running
from xenctl.procedures.journal import Journal
from xenctl.procedures.running import Run


@pytest.mark.parametrize("release", RELEASES)
def test_every_host_boots_and_no_guest_stops(release: str) -> None:
    """One at a time, the master first; every guest runs on and is back where it was."""
    pool = made(release)
    before = states(pool)
    plan = rolling_reboot.plan(reach(pool))
    assert plan.problems == () and plan.downtime == ()
    assert [plan.names[s.host] for s in plan.steps if s.action == "reboot"] == ["host1", "host2", "host3"]
    assert not {"stop", "suspend"} & {step.action for step in plan.steps}
    assert carried_out(pool, plan).problems == []
    assert set(booted(pool).values()) == {True}
    assert states(pool) == before
    assert look(pool).mark == ""
    assert unharmed(pool)


def test_only_the_hosts_that_are_named() -> None:
    """By name or uuid; the others stay up."""
    pool = made()
    plan = rolling_reboot.plan(reach(pool), ["host3", row(pool, "host", "host1")["uuid"]])
    assert carried_out(pool, plan).ok
    assert booted(pool) == {"host1": True, "host2": False, "host3": True}


def test_guests_may_stay_where_they_went() -> None:
    """They move once; only what was put away is brought back."""
    pool = made()
    guests = on(pool, "host2")
    plan = rolling_reboot.plan(reach(pool), ["host2"], stay=True)
    assert carried_out(pool, plan).problems == []
    assert on(pool, "host2") == []
    assert {states(pool)[name][0] for name in guests} == {"Running"}
    assert unharmed(pool)


@pytest.mark.parametrize(("policy", "away"), [("suspend", "suspend"), ("shut-down", "stop")])
def test_a_guest_that_cannot_leave_is_away_for_its_hosts_turn_only(policy: str, away: str) -> None:
    """Refused by default, with its cause; by policy put away and brought back."""
    pool = made("6.2")
    guest = on(pool, "host2")[0]
    pin(pool, guest, "host2")
    before = states(pool)
    (problem,) = rolling_reboot.plan(reach(pool)).problems
    assert problem.startswith(f"{guest} cannot leave host2: it has a disk on storage that only its host reaches")
    plan = rolling_reboot.plan(reach(pool), stuck=policy)
    assert [plan.names[step.vm] for step in plan.steps if step.action == away] == [guest]
    assert carried_out(pool, plan).problems == []
    assert states(pool) == before
    assert unharmed(pool)


@pytest.mark.parametrize("release", ["6.2", "8.2"])
def test_high_availability_is_off_meanwhile_and_on_again(calls: Any, release: str) -> None:
    """On the same storage, for as many failures."""
    pool = protected(calls, tolerate=2, release=release, vms=3).pool
    facts, before = pool.store.pool(), states(pool)
    files = list(facts["ha_statefiles"])
    plan = rolling_reboot.plan(reach(pool))
    assert plan.warnings == ("high availability is off meanwhile",)
    assert carried_out(pool, plan).problems == []
    assert (facts["ha_enabled"], facts["ha_host_failures_to_tolerate"]) == (True, 2)
    assert [pool.store.get("VDI", ref)["SR"] for ref in facts["ha_statefiles"]] == [
        pool.store.get("VDI", ref)["SR"] for ref in files
    ]
    assert states(pool) == before


def disabled(pool: MockPool) -> None:
    call(pool, "host.disable", row(pool, "host", "host3").ref)


def claimed(pool: MockPool) -> None:
    call(pool, "pool.add_to_other_config", pool.store.pool().ref, "xenctl-run", "another")


def mixed(pool: MockPool) -> None:
    call(pool, "pool.add_to_other_config", pool.store.pool().ref, "rolling_upgrade_in_progress", "true")


def unplugged(pool: MockPool) -> None:
    pbd = next(p for p in pool.store.table("PBD").values() if p["host"] == row(pool, "host", "host2").ref)
    pool.store.write(pbd, currently_attached=False)


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (disabled, "host3 is disabled: enable it, or leave its maintenance mode"),
        (claimed, "another run (another) is at work on this pool"),
        (mixed, "versions are mixed"),
        (unplugged, "is not plugged"),
    ],
)
def test_what_stands_against_it_is_told_before(spoil: Any, said: str) -> None:
    """And nothing is planned."""
    pool = made()
    spoil(pool)
    plan = rolling_reboot.plan(reach(pool))
    assert any(said in problem for problem in plan.problems), plan.problems
    assert plan.steps == ()


def test_a_pool_of_one_host_is_refused() -> None:
    """Its guests would have nowhere to run."""
    plan = rolling_reboot.plan(reach(made(hosts=1)))
    assert "the pool has one host: there is nowhere for its guests to run meanwhile" in plan.problems


@pytest.mark.parametrize(("names", "options"), [(["host9"], {}), ([], {"stuck": "drop"})])
def test_bad_input_is_refused(names: list[str], options: Any) -> None:
    """Hosts that there are not, policies that there are not."""
    with pytest.raises(ValueError, match=r"no host is called 'host9'|stuck is refuse, suspend, shut-down, not 'drop'"):
        rolling_reboot.plan(reach(made()), names, **options)


def stopped(pool: MockPool, plan: Any, before: str, host: str) -> Journal:
    """A run that is killed when it comes to a step."""
    journal = Journal.create(plan)
    number = next(
        n for n, step in enumerate(plan.steps, 1) if step.action == before and plan.names.get(step.host) == host
    )

    def on_step(at: int, total: int, text: str) -> None:
        if at == number:
            raise Killed(text)

    with pytest.raises(Killed):
        Run(reach(pool), plan, pool.hands, journal).carry_out(on_step)
    return journal


def test_what_somebody_changed_meanwhile_stops_the_run_before_the_next_host() -> None:
    """And it goes on once that is put right."""
    pool = made()
    plan = rolling_reboot.plan(reach(pool))
    journal = stopped(pool, plan, "turn", "host2")
    guest = on(pool, "host2")[0]
    vm = row(pool, "VM", guest)
    call(pool, "VM.pool_migrate", vm.ref, row(pool, "host", "host3").ref, {"live": "true"})
    (problem,) = carried_out(pool, plan, journal).problems
    assert f"{guest} is on host3, and is to be on host2" in problem
    call(pool, "VM.pool_migrate", vm.ref, row(pool, "host", "host2").ref, {"live": "true"})
    assert carried_out(pool, plan, journal).ok


def test_guests_that_somebody_puts_on_the_host_stop_its_reboot() -> None:
    """They would be lost with it."""
    pool = made()
    plan = rolling_reboot.plan(reach(pool), ["host2"])
    journal = stopped(pool, plan, "reboot", "host2")
    call(pool, "host.enable", row(pool, "host", "host2").ref)
    guest = on(pool, "host1")[0]
    call(pool, "VM.pool_migrate", row(pool, "VM", guest).ref, row(pool, "host", "host2").ref, {"live": "true"})
    (problem,) = carried_out(pool, plan, journal).problems
    assert f"host2 is not empty: {guest} still there" in problem
    assert not booted(pool)["host2"]


@pytest.mark.parametrize("policy", ["suspend", "shut-down"])
def test_a_run_that_is_given_up_leaves_no_host_disabled(policy: str) -> None:
    """What was put away runs again, the mark is gone."""
    pool = made()
    guest = on(pool, "host2")[0]
    pin(pool, guest, "host2")
    before = states(pool)
    plan = rolling_reboot.plan(reach(pool), ["host2"], stuck=policy)
    journal = stopped(pool, plan, "reboot", "host2")
    assert states(pool)[guest][0] != "Running"
    assert running.abandon(reach(pool), journal, pool.hands) == []
    assert (journal.state, look(pool).mark) == ("abandoned", "")
    assert states(pool)[guest] == before[guest]
    assert row(pool, "host", "host2")["enabled"]


def test_a_host_that_does_not_come_back_is_named() -> None:
    """Nobody waits for ever; once somebody has switched it on, the run goes on."""
    pool = made()
    plan = rolling_reboot.plan(reach(pool), ["host2"])
    journal = stopped(pool, plan, "reboot", "host2")
    pool.faults.add("power_loss", victim="host2", after=60.0)
    (problem,) = carried_out(pool, plan, journal).problems
    assert "reboot host2: host2: it did not start again within 60 minutes" in problem
    assert journal.state == "stopped"
    pool.hands.power_on("host2")
    assert carried_out(pool, plan, journal).problems == []
    assert booted(pool)["host2"]


def test_a_toolstack_that_starts_anew_is_no_reboot() -> None:
    """The moment that counts is when the host booted; how long it is up is measured anew each time."""
    pool = made()
    host, moment = row(pool, "host", "host2"), pool.clock.now() - 5000.0
    call(pool, "host.remove_from_other_config", host.ref, "boot_time")
    call(pool, "host.add_to_other_config", host.ref, "boot_time", f"{moment:.0f}.")
    plan = rolling_reboot.plan(reach(pool), ["host2"])
    journal = stopped(pool, plan, "reboot", "host2")
    journal.put(f"reboot {plan.hosts[0].uuid}", moment + 2.0)
    assert carried_out(pool, plan, journal).ok
    assert float(host["other_config"]["boot_time"]) > moment + 5000.0


def small() -> MockPool:
    pool = made("4.1", hosts=2, vms=6)
    pin(pool, on(pool, "host2")[0], "host2")
    return pool


@pytest.mark.chaos
def test_killed_anywhere_and_resumed_it_ends_the_same(tmp_path: Path) -> None:
    """Before and after calls and writes of the journal."""
    killed_anywhere(small, lambda session: rolling_reboot.plan(session, stuck="suspend"), tmp_path)


def test_a_host_is_not_rebooted_twice(tmp_path: Path) -> None:
    """A process that dies after it asked for the reboot waits for that one when it goes on."""
    pool, path = made(hosts=2, vms=4), tmp_path / "journal"
    plan = rolling_reboot.plan(reach(pool), ["host2"])
    fate = Fate()
    copy = made(hosts=2, vms=4)
    copied = rolling_reboot.plan(reach(copy), ["host2"])
    Run(reach(copy, fate), copied, copy.hands, Journal.create(copied)).carry_out()
    asked = [n for n, point in enumerate(fate.points, 1) if point == "host.reboot"]
    assert len(asked) == 1
    dying = Fate(asked[0], after=True)
    with Journal.create(plan, path) as journal, pytest.raises(Killed):
        Run(reach(pool, dying), plan, pool.hands, journal).carry_out()
    pool.clock.advance(100.0)
    again = Fate()
    with Journal.open(path, to_run=True) as journal:
        assert Run(reach(pool, again), plan, pool.hands, journal).carry_out().ok
    assert "host.reboot" not in again.points
