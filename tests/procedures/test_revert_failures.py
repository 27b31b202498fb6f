"""Reverts of what failed half way; reverts that are killed, given up, or must not be undone by an upgrade."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from chaos import Fate, Killed, MortalHands, kills, mortal, session_on
from reverted import Case, fail_half_way, halt, stop_before_install

from mockserver.invariants import AsBefore
from mockserver.invariants import revert as invariants
from xenctl.procedures import revert, rolling_upgrade, running
from xenctl.procedures.before import Before, of_journal
from xenctl.procedures.journal import Journal
from xenctl.procedures.observe import MARK, observe
from xenctl.procedures.running import Outcome


@pytest.fixture
def case(tmp_path: Path) -> Callable[..., Case]:
    return lambda *release, **shape: Case(tmp_path, *release, **shape)


# --- what failed half way


@pytest.mark.parametrize("share", [0.2, 0.9])
def test_a_member_that_failed_half_way_goes_back_with_the_rest(case: Callable[..., Case], share: float) -> None:
    """Whether its old system is still on the disk, or only in the backup partition: what the installer finds decides."""
    c = case("6.2", "6.5")
    journal = stop_before_install(c, "host2")
    fail_half_way(c, "host2", share)
    c.pool.hands.eject_media("host2")
    c.pool.hands.power_on("host2")
    c.pool.clock.advance(900)
    assert c.pool.machine("host2").state == ("running" if share < 0.5 else "starting")
    if share < 0.5:
        c.pool.hands.power_off("host2")
        c.pool.clock.advance(900)
    assert c.revert(journal).problems == []
    assert c.pool.machine("host2").system.release.product_version == "6.2.0"
    c.pool.conclude()
    assert c.pool.violations == []


@pytest.mark.parametrize("state", ["not begun", "half written", "at the installer"])
def test_a_master_whose_upgrade_failed_comes_back(case: Callable[..., Case], state: str) -> None:
    """Nobody answers: the journal says which host it is. Members return by themselves; no guest notices."""
    c = case("6.2", "6.5")
    journal = stop_before_install(c, "host1")
    if state == "half written":
        fail_half_way(c, "host1")
    elif state == "at the installer":
        c.pool.hands.insert_media("host1", "6.5")
        c.pool.hands.power_on("host1")
        c.pool.clock.advance(600)
    plan = c.plan(journal)
    assert [step.action for step in plan.steps] == ["restore-host", "return"]
    assert plan.downtime == ()
    c.pool.watch(*invariants(c.before))
    assert c.carry_out(plan, of_journal(journal), journal).problems == []
    c.is_as_before()


def test_several_hosts_that_are_away_are_refused(case: Callable[..., Case]) -> None:
    """One at a time: each that returns waits for all others."""
    c = case("6.2", "6.5", hosts=4, vms=0)
    journal = c.upgrade(1)
    for host in ("host2", "host3"):
        c.pool.hands.power_off(host)
    c.pool.clock.advance(900)
    (problem,) = c.plan(journal).problems
    assert "several hosts are away: host2, host3" in problem


def test_a_host_that_is_away_with_guests_is_recovered_first(case: Callable[..., Case]) -> None:
    """Nobody knows whether they run: the database says so."""
    c = case("6.2", "6.5")
    journal = c.upgrade(1)
    c.pool.hands.power_off("host2")
    c.pool.clock.advance(900)
    (problem,) = c.plan(journal).problems
    assert problem.startswith("host2 is away, and vm")
    assert problem.endswith("ran there: recover it first (xenctl recover)")


def test_a_member_that_is_newer_than_a_master_that_went_back_follows(case: Callable[..., Case]) -> None:
    """Somebody restored the master first: the member is in emergency mode, and comes back with its own old system."""
    c = case("6.2", "6.5", hosts=2, vms=0)
    journal = c.upgrade(2)
    halt(c, "host1")
    hands, clock = c.pool.hands, c.pool.clock
    hands.insert_media("host1", "6.5")
    hands.power_on("host1")
    clock.run_until(clock.now() + 600, lambda: hands.power("host1") == "installer")
    hands.answer("host1", "restore")
    clock.advance(2400)
    hands.power_off("host2")
    c.session = c.connect()
    assert c.revert(journal).problems == []
    c.pool.clock.advance(60)
    c.pool.conclude()
    assert {violation.invariant for violation in c.pool.violations} == {
        "master newest"
    }  # host2 was newer before it began
    assert {machine.system.release.product_version for machine in c.pool.machines} == {"6.2.0"}


# --- killed, given up, not repeated


@pytest.mark.chaos
@pytest.mark.parametrize("master", ["upgraded", "away"])
def test_killed_anywhere_and_resumed_it_ends_the_same(case: Callable[..., Case], tmp_path: Path, master: str) -> None:
    """Before and after every call, every act of the hands and every write of the journal; also where the master's own
    upgrade failed, and the rest is planned when it is back."""

    def attempt(c: Case, path: Path, known: Before, fate: Fate) -> Outcome:
        session = session_on(c.pool, fate)
        if path.exists():
            journal = mortal(Journal.open(path, to_run=True), fate)
        else:
            journal = mortal(Journal.create(revert.plan(session, known), path), fate)
        hands: Any = MortalHands(c.pool.hands, fate)
        try:
            if journal.get("before") is None:
                journal.put("before", known.as_dict())
            return revert.run(session, journal.plan, hands, journal=journal, accept_downtime=True, accept_loss=True)
        finally:
            journal.close()

    upgraded = case("5.0", "5.5", hosts=2, vms=6)
    if master == "upgraded":
        known = of_journal(upgraded.upgrade(2))
    else:
        known = of_journal(stop_before_install(upgraded, "host1"))
        fail_half_way(upgraded, "host1")
    upgraded.watch(upgraded.plan_of(known))

    c, fate = upgraded.again(), Fate()
    assert attempt(c, tmp_path / "undisturbed", known, fate).problems == []
    c.is_as_before()
    for number, after in kills(fate.points, 8, seed=7):
        c = upgraded.again()
        path, fate = tmp_path / f"{number}-{after}", Fate(number, after)
        with pytest.raises(Killed):
            attempt(c, path, known, fate)
        where = f"{'after' if after else 'before'} {fate.points[-1]} (point {number})"
        assert attempt(c, path, known, Fate()).problems == [], where
        c.is_as_before()


def test_a_revert_that_is_given_up_starts_again_what_it_shut_down(case: Callable[..., Case]) -> None:
    """Where that is allowed: on hosts that are new still. Hosts that went back stay so, and the upgrade can be finished."""
    c = case("6.2", "6.5")
    journal = c.upgrade(3)
    c.pool.machine("host1").backup = None
    plan, known = c.plan(journal), of_journal(journal)
    kept = revert.begin(plan, known, upgrade=journal)
    outcome = revert.run(*(c.session, plan, c.pool.hands), journal=kept, accept_downtime=True, accept_loss=True)
    assert "host1: its backup partition holds nothing" in outcome.problems[0]
    c.pool.clock.advance(600)
    left = running.abandon(c.session, kept, c.pool.hands)
    now = observe(c.session)
    up = {vm.name for vm in now.vms.values() if vm.state == "Running" and vm.host == now.master}
    moved = {plan.names[step.vm] for step in plan.steps if step.action == "migrate" and step.to == plan.master}
    assert up
    assert up <= {vm.name for vm in plan.downtime}
    assert all(name in up or any(name in text for text in left) for name in moved), left
    assert (kept.state, MARK in c.pool.store.pool()["other_config"]) == (
        ("stopped", True) if left else ("abandoned", False)
    )
    assert [host.version for host in sorted(now.hosts.values(), key=lambda h: h.name)] == ["6.5.0", "6.2.0", "6.2.0"]
    c.pool.clock.advance(120)  # guests that were started report their drivers
    assert rolling_upgrade.adopt(c.session, "6.5", take_over=True).problems == ()


def test_the_journal_of_the_upgrade_is_closed_for_good(case: Callable[..., Case]) -> None:
    """Its run never goes on: it would upgrade what goes back."""
    c = case("6.2", "6.5")
    journal = c.upgrade(1)
    revert.begin(c.plan(journal), of_journal(journal), upgrade=journal)
    assert journal.state == "abandoned"
    assert "taken back by revert-" in journal.entries()[-1].text


def test_an_upgrade_is_never_installed_again_on_an_upgraded_host(case: Callable[..., Case]) -> None:
    """It would overwrite the backup partition, and with it the way back: the installer's finding refuses it."""
    c = case("6.2", "6.5")
    journal = stop_before_install(c, "host2")
    hands, clock = c.pool.hands, c.pool.clock
    hands.insert_media("host2", "6.5")
    hands.power_on("host2")
    clock.run_until(clock.now() + 600, lambda: hands.power("host2") == "installer")
    hands.answer("host2", "upgrade")  # by somebody else, who then halts it and leaves it
    clock.run_until(clock.now() + 3600, lambda: hands.power("host2") == "running")
    clock.advance(300)
    halt(c, "host2")
    held = c.pool.machine("host2").backup
    outcome = rolling_upgrade.run(c.session, journal.plan, hands, journal=journal, accept_downtime=True)
    (problem,) = outcome.problems
    assert "the installer found 6.5.0" in problem
    assert "nothing was chosen" in problem
    assert c.pool.machine("host2").backup is held


def test_a_plan_that_was_made_anew_does_not_hide_where_guests_were(case: Callable[..., Case]) -> None:
    """The journal keeps its earlier plans: where guests were when the master went is in the first."""
    c = case("6.2", "6.5")
    journal = c.upgrade(1)
    first = of_journal(journal)
    journal.replan(rolling_upgrade.replan(c.session, journal))
    again = of_journal(journal)
    assert (again.kept, again.homes, again.states) == (first.kept, first.homes, first.states)
    assert again.kept is not None
    assert Before.from_dict(json.loads(json.dumps(again.as_dict()))) == again
    assert c.revert(journal).problems == []
    c.is_as_before()


def test_the_state_that_an_old_database_has_saved_and_is_gone_is_dropped(case: Callable[..., Case]) -> None:
    """A guest that was suspended when somebody upgraded the master, and was resumed since: it is started afresh, and is
    suspended again."""
    c = case("6.2", "6.5", vms=3)
    c.session.VM.suspend(c.row("VM", "vm03").ref)
    c.before = AsBefore(c.pool)
    c.session.VM.pool_migrate(c.row("VM", "vm01").ref, c.row("host", "host2").ref, {})
    then = observe(c.session)
    home = then.hosts[then.master].uuid
    halt(c, "host1")
    fail_half_way(c, "host1", share=2.0)
    c.pool.hands.power_on("host1")
    c.pool.clock.advance(1200)
    c.session = c.connect()
    c.session.VM.resume(c.row("VM", "vm03").ref, False, False)
    known = Before(
        source="6.2.0",
        medium="XenServer 6.5.0",
        master=then.master,
        states={vm.uuid: vm.state for vm in then.vms.values()},
        homes={vm.uuid: home if vm.name == "vm01" else vm.host for vm in then.vms.values() if vm.host},
        kept={vm.uuid: (vm.state, vm.host) for vm in then.vms.values()},
    )
    plan = c.plan_of(known)
    steps = [step.action for step in plan.steps if step.vm == c.row("VM", "vm03")["uuid"]]
    assert steps == ["discard", "start", "suspend"]
    assert c.carry_out(plan, known).problems == []
    c.pool.clock.advance(60)
    assert list(c.before.broken_at_end(c.pool)) == []
