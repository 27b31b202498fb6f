"""Runs that somebody does not want to go on with: what each procedure changed on the way is taken back."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import pytest
from chaos import Fate, Killed, MortalHands
from pools import RELEASES, made, reach, states, unharmed
from recovery import ROOT

from mockserver import MockPool
from xenctl.errors import ProcedureError
from xenctl.procedures import maintenance, reinstall, rejoin, rolling_reboot
from xenctl.procedures.giving_up import give_up
from xenctl.procedures.journal import Journal
from xenctl.procedures.observe import observe
from xenctl.procedures.plan import Plan
from xenctl.procedures.reinstall import Guests
from xenctl.procedures.running import Run
from xenctl.session import Session

PLANS: dict[str, Callable[[Session], Plan]] = {
    "reinstall": lambda session: reinstall.plan(session, "host2"),
    "reinstall the master": lambda session: reinstall.plan(session, "host1"),
    "reinstall, evacuated": lambda session: reinstall.plan(session, "host2", guests=Guests(evacuate=True)),
    "maintenance": lambda session: maintenance.plan_enter(session, "host2"),
    "rolling reboot": lambda session: rolling_reboot.plan(session),
}


def killed_at(pool: MockPool, plan: Plan, number: int) -> Journal:
    """The journal of a run whose process died when it began with step `number`."""
    assert plan.problems == ()
    journal, fate = Journal.create(plan), Fate()
    hands: Any = MortalHands(pool.hands, fate)
    run = Run(reach(pool, fate), plan, hands, journal, credentials=ROOT)
    with pytest.raises(Killed):
        run.carry_out(lambda n, *_: setattr(fate, "dead", n == number))
    return journal


def given_up(pool: MockPool, journal: Journal) -> None:
    """Give it up, and again while a host or a guest that was just switched on is not ready."""
    session = reach(pool)
    for _ in range(3):
        if not give_up(session, journal, pool.hands):
            break
        pool.clock.advance(300)
    assert journal.state == "abandoned"


def powers(pool: MockPool) -> dict[str, str]:
    return {name: state for name, (state, _) in states(pool, reach(pool)).items()}


@pytest.mark.parametrize("release", RELEASES)
@pytest.mark.parametrize("procedure", PLANS)
def test_after_any_step_the_pool_is_in_service_again(procedure: str, release: str) -> None:
    """Guests are up that were, suspended that were, hosts run and are enabled, the mark is gone; three steps of each."""
    pool = made(release)
    plan = PLANS[procedure](reach(pool))
    steps = [n for n, step in enumerate(plan.steps, 1) if n > 1 and step.action not in ("reinstall", "return")]
    for number in random.Random(f"{procedure} {release}").sample(steps, 3):
        pool = made(release)
        before = powers(pool)
        plan = PLANS[procedure](reach(pool))
        journal = killed_at(pool, plan, number)
        given_up(pool, journal)
        facts, step = observe(reach(pool)), plan.steps[number - 1].text(plan.names)
        assert powers(pool) == before, step
        assert all(host.enabled and host.live for host in facts.hosts.values()), step
        assert facts.mark == "", step
        assert unharmed(pool), step


@pytest.mark.parametrize("release", ["4.0.1", "8.2"])
def test_a_host_that_was_shut_down_for_an_installation_is_switched_on_again(release: str) -> None:
    """It boots what is on its disk, is enabled, and its guests run where they did: nothing was installed."""
    pool = made(release)
    before, plan = states(pool), reinstall.plan(reach(pool), "host2")
    number = next(n for n, step in enumerate(plan.steps, 1) if step.action == "reinstall")
    journal = killed_at(pool, plan, number)
    assert pool.hands.power("host2") == "off"
    assert give_up(reach(pool), journal, pool.hands) == []
    assert states(pool) == before
    assert pool.machine("host2").backup is None


def test_a_host_that_shows_an_installer_is_left_to_whoever_sees_it() -> None:
    """It may be at work; nothing else is undone on that host, and all of it is told."""
    pool = made("6.2")
    plan = reinstall.plan(reach(pool), "host2")
    number = next(n for n, step in enumerate(plan.steps, 1) if step.action == "reinstall")
    journal = killed_at(pool, plan, number)
    pool.hands.insert_media("host2", "6.2")
    pool.hands.power_on("host2")
    pool.clock.advance(900)
    left = give_up(reach(pool), journal, pool.hands)
    assert left[0] == (
        "switch host2 on again: host2 shows an installer (installer): see to it, have it boot its disk, and abandon again"
    )
    assert journal.state == "stopped"
    pool.hands.power_off("host2")
    given_up(pool, journal)


@pytest.mark.parametrize("release", RELEASES)
def test_a_host_on_its_way_into_maintenance_gets_its_guests_back(release: str) -> None:
    """As where a step fails: guests come home, the keys are gone."""
    pool = made(release)
    before, plan = states(pool), maintenance.plan_enter(reach(pool), "host2", stuck="shut-down")
    journal = killed_at(pool, plan, len(plan.steps))
    assert states(pool) != before
    assert give_up(reach(pool), journal, pool.hands) == []
    assert maintenance.is_unwound(journal)
    assert states(pool) == before
    host = next(row for row in pool.store.table("host").values() if row["name_label"] == "host2")
    assert not [key for key in host["other_config"] if key.startswith("MAINTENANCE")]
    assert observe(reach(pool)).mark == ""


def test_what_cannot_be_brought_back_is_named_and_tried_again() -> None:
    """A guest's start is refused for a while."""
    pool = made("8.2")
    before, plan = states(pool), maintenance.plan_enter(reach(pool), "host2")
    journal = killed_at(pool, plan, len(plan.steps))
    pool.faults.add("error", method="VM.pool_migrate", code="HOST_OFFLINE", params=["x"], times=9)
    left = give_up(reach(pool), journal, pool.hands)
    assert "HOST_OFFLINE" in "".join(left)
    assert journal.state == "stopped"
    pool.faults.clear()
    given_up(pool, journal)
    assert states(pool) == before


def test_a_recovery_leaves_what_it_did_and_unmarks_the_pool() -> None:
    """A host that was forgotten stays so: the run can only be ended, and another can begin."""
    pool = made("8.2")
    pool.hands.power_off("host2")
    plan = rejoin.plan(reach(pool), "host2")
    number = next(n for n, step in enumerate(plan.steps, 1) if step.action == "install-afresh")
    journal = killed_at(pool, plan, number)
    assert give_up(reach(pool), journal, pool.hands) == []
    facts = observe(reach(pool))
    assert (facts.mark, len(facts.hosts)) == ("", 2)


def test_a_run_that_is_done_is_not_given_up() -> None:
    """There is nothing to abandon."""
    pool: Any = made("8.2")
    plan = maintenance.plan_enter(reach(pool), "host2")
    journal = Journal.create(plan)
    assert maintenance.enter(reach(pool), journal, pool.hands).ok
    with pytest.raises(ProcedureError, match="is done: there is nothing to abandon"):
        give_up(reach(pool), journal, pool.hands)
