"""The mark in the pool: a run goes on only under its own, and one whose journal is lost is forgotten by its name."""

from __future__ import annotations

from typing import Any

import pytest
from guests import fully_virtual
from pools import connected, row, states, versions

from mockserver import MockPool
from mockserver.invariants import rolling_upgrade as invariants
from xenctl.errors import ProcedureError
from xenctl.procedures import giving_up, marking, rolling_reboot, rolling_upgrade, running, shutdown
from xenctl.procedures.gates import StopAfter
from xenctl.procedures.journal import STOPPED, Journal
from xenctl.procedures.observe import MARK, observe
from xenctl.session import Session

NOT_OURS = "the pool is not marked with this run any more"


@pytest.fixture
def pool(release: str) -> MockPool:
    """Three hosts and some guests."""
    made = fully_virtual(MockPool.create(hosts=3, vms=6, release=release))
    observe(connected(made))
    return made


def one_host(pool: MockPool, session: Session, plan: Any, **options: Any) -> Journal:
    """The journal of an upgrade that stopped after its first host."""
    journal = Journal.create(plan)
    outcome = rolling_upgrade.run(session, plan, pool.hands, journal=journal, gates=[StopAfter("1")], **options)
    assert (outcome.problems, bool(outcome.paused)) == ([], True)
    return journal


def facts(pool: MockPool, session: Session) -> Any:
    """All that a run could change: guests, hosts, machines."""
    now = observe(session)
    hosts = {host.uuid: (host.version, host.enabled, host.live) for host in now.hosts.values()}
    return states(pool), hosts, [machine.state for machine in pool.machines], now.mark


def test_a_run_that_was_taken_over_does_nothing_more(pool: MockPool, session: Session, new: str) -> None:
    """Neither while the other run is half way, nor once it is done and has unmarked the pool; giving up is no way either."""
    mine = one_host(pool, session, rolling_upgrade.plan(session))
    other = one_host(pool, session, rolling_upgrade.adopt(session, take_over=True), take_over=True)
    for over in (False, True):
        if over:
            assert rolling_upgrade.run(session, other.plan, pool.hands, journal=other).ok
        before = facts(pool, session)
        (problem,) = rolling_upgrade.run(session, mine.plan, pool.hands, journal=mine).problems
        assert NOT_OURS in problem
        assert ("somebody else has unmarked it" if over else f"another run ({other.run_id}) has taken over") in problem
        if not over:
            with pytest.raises(ProcedureError, match=NOT_OURS):
                running.abandon(session, mine, pool.hands)
        assert mine.state == STOPPED
        assert facts(pool, session) == before
    assert versions(pool) == [new] * 3


def test_what_the_other_run_did_is_seen_once_the_pool_is_marked_again(
    pool: MockPool, session: Session, old: str, new: str
) -> None:
    """The host that it upgraded is named before anything is done to it; planned anew, the run goes on."""
    pool.watch(*invariants())
    mine = one_host(pool, session, rolling_upgrade.plan(session))
    other = one_host(pool, session, rolling_upgrade.adopt(session, take_over=True), take_over=True)
    assert marking.take_back(session, mine.run_id) == other.run_id
    (problem,) = rolling_upgrade.run(session, mine.plan, pool.hands, journal=mine).problems
    assert f"host2 runs {new}, and is to run {old}" in problem
    assert versions(pool) == [new, new, old]
    assert [machine.state for machine in pool.machines] == ["running"] * 3
    mine.replan(rolling_upgrade.replan(session, mine))
    assert rolling_upgrade.run(session, mine.plan, pool.hands, journal=mine).ok
    pool.conclude()
    assert (pool.violations, versions(pool)) == ([], [new] * 3)


def test_a_mark_that_was_taken_away_is_put_back(pool: MockPool, session: Session) -> None:
    """By whoever knows that nobody else is at work."""
    journal = one_host(pool, session, rolling_upgrade.plan(session))
    session.pool.remove_from_other_config(next(iter(session.pool.get_all())), MARK)
    (problem,) = rolling_upgrade.run(session, journal.plan, pool.hands, journal=journal).problems
    assert "somebody else has unmarked it" in problem
    assert marking.take_back(session, journal.run_id) == ""
    assert rolling_upgrade.run(session, journal.plan, pool.hands, journal=journal).ok


@pytest.mark.parametrize("release", ["4.0.1", "8.2"])
@pytest.mark.parametrize("procedure", ["shutdown", "rolling reboot"])
def test_it_is_the_same_with_every_procedure(pool: MockPool, session: Session, procedure: str) -> None:
    """Whatever it is that was taken over stops before its next act."""
    plan = shutdown.plan(session) if procedure == "shutdown" else rolling_reboot.plan(session)
    journal, taken = Journal.create(plan), list[Any]()

    def at_third(number: int, total: int, text: str) -> None:
        if number == 3 and not taken:
            taken.append(states(pool))
            marking.mark(session, next(iter(session.pool.get_all())), "somebody")

    (problem,) = running.Run(session, plan, pool.hands, journal).carry_out(at_third).problems
    assert problem.startswith("step 3 of ")
    assert "another run (somebody) has taken over" in problem
    assert taken == [states(pool)]


def test_a_run_whose_journal_is_lost_is_forgotten(pool: MockPool, session: Session, old: str, new: str) -> None:
    """By its name; what it may have left is told, and another run can begin."""
    lost = one_host(pool, session, rolling_upgrade.plan(session)).run_id
    session.host.disable(row(pool, "host", "host3").ref)
    before = facts(pool, session)
    with pytest.raises(ProcedureError, match=f"marked with {lost}, not with another: nothing is changed"):
        marking.forget(session, "another")
    assert facts(pool, session) == before
    disabled, mixed, *_ = marking.forget(session, lost)
    assert (disabled, mixed) == (
        "host3 is disabled",
        f"versions are mixed ({', '.join(sorted((old, new)))}): adopt the upgrade, or revert it",
    )
    assert facts(pool, session) == (*before[:-1], "")
    with pytest.raises(ProcedureError, match="not marked with any run"):
        marking.forget(session, lost)
    session.host.enable(row(pool, "host", "host3").ref)
    assert rolling_upgrade.run(session, rolling_upgrade.adopt(session), pool.hands).ok


DEEDS = {
    "disabled": "host3 was disabled",
    "off": "host3 is not running any more",
}


@pytest.mark.parametrize("deed", DEEDS)
def test_a_host_that_is_not_in_service_any_more_stops_the_run(pool: MockPool, session: Session, deed: str) -> None:
    """Before the next host's turn, and not when its guests find no room."""
    journal = one_host(pool, session, rolling_upgrade.plan(session))
    if deed == "disabled":
        session.host.disable(row(pool, "host", "host3").ref)
    else:
        pool.machines[2].power_off()
        pool.clock.advance(3600)
    (problem,) = rolling_upgrade.run(session, journal.plan, pool.hands, journal=journal).problems
    assert DEEDS[deed] in problem
    assert session.host.get_enabled(row(pool, "host", "host2").ref)


def test_giving_up_after_all_is_undone_needs_no_mark(pool: MockPool, session: Session) -> None:
    """A process may die between unmarking the pool and noting it."""
    plan = shutdown.plan(session)
    journal = Journal.create(plan)
    run = running.Run(session, plan, pool.hands, journal, stop=lambda: "enough" if journal.finished() else "")
    assert run.carry_out().paused
    assert observe(session).mark == journal.run_id
    session.pool.remove_from_other_config(next(iter(session.pool.get_all())), MARK)
    assert giving_up.give_up(session, journal, pool.hands) == []
