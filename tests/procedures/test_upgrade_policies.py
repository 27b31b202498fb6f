"""What an upgrade does by itself, and what is asked before each host: drift, guests that went down, failures, gates."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from datetime import datetime, timedelta, timezone
from typing import Any

import pytest
from guests import fully_virtual
from pools import connected, row, versions

from mockserver import MockPool
from mockserver.invariants import rolling_upgrade as invariants
from xenctl.procedures import rolling_upgrade
from xenctl.procedures.account import compare, seconds_left
from xenctl.procedures.estimate import Pace, turn_ends, turn_of
from xenctl.procedures.gates import Approve, Settle, StopAfter, Window, paused_from_outside
from xenctl.procedures.journal import PAUSE, Journal
from xenctl.procedures.observe import observe
from xenctl.procedures.plan import Step
from xenctl.procedures.policy import REPLAN, REPORT, RESTART, Policy
from xenctl.procedures.running import Outcome
from xenctl.session import Session


@pytest.fixture
def pool(release: str) -> MockPool:
    made = fully_virtual(MockPool.create(hosts=3, vms=9, release=release))
    observe(connected(made))  # the lists of what its guests allow follow
    made.watch(*invariants(may_stop=[vm["uuid"] for vm in made.store.table("VM").values()]))
    return made


def crash(pool: MockPool, name: str) -> None:
    """A guest reboots or crashes and nobody starts it again; the master sees that, unless it is away."""
    vm = row(pool, "VM", name)
    pool.end_domain(vm)
    if pool.master_serves:
        pool.force_halted(vm)


def at_step(text: str, deed: Callable[[], Any]) -> Callable[[int, int, str], None]:
    """What happens, once, when a run begins the step that is called so."""
    left = [deed]

    def on_step(number: int, total: int, said: str) -> None:
        if said == text and left:
            left.pop()()

    return on_step


def run(pool: MockPool, session: Session, **options: Any) -> tuple[Outcome, Journal]:
    plan = rolling_upgrade.plan(session)
    assert plan.problems == ()
    journal = Journal.create(plan)
    return rolling_upgrade.run(session, plan, pool.hands, journal=journal, **options), journal


def whole(pool: MockPool, new: str) -> bool:
    pool.conclude()
    assert pool.violations == []
    return versions(pool) == [new] * 3


# --- guests that went down


@pytest.mark.parametrize("name", ["vm02", "vm05", "vm07"])
@pytest.mark.parametrize("host", ["host1", "host2", "host3"])
def test_a_guest_that_went_down_while_a_host_was_away_is_started_again_and_told(
    pool: MockPool, session: Session, name: str, host: str, new: str
) -> None:
    """On a host that may run it, the rest planned anew where that is another; at home in the end."""
    home = row(pool, "VM", name)["resident_on"]
    outcome, journal = run(pool, session, on_step=at_step(f"wait for {host}", lambda: crash(pool, name)))
    assert outcome.problems == []
    assert outcome.notes == [f"{name} went down while {host} was away, and was started again"]
    assert (row(pool, "VM", name)["power_state"], row(pool, "VM", name)["resident_on"]) == ("Running", home)
    (found,) = [vm for vm in compare(journal).vms if vm.name == name]
    assert found.downtime_s > 0
    assert [change for change in journal.changes() if not change.undone] == []
    assert whole(pool, new)


def test_a_guest_that_went_down_after_the_last_host_is_started_by_a_new_plan(
    pool: MockPool, session: Session, new: str
) -> None:
    """The comparison at the end names it, and the run stops; planned anew, the rest is its start."""
    crashes = at_step("compare the pool with what it was", lambda: crash(pool, "vm05"))
    outcome, journal = run(pool, session, on_step=crashes)
    (problem,) = outcome.problems
    assert "vm05 was Running and is Halted" in problem
    journal.replan(rolling_upgrade.replan(session, journal))
    assert rolling_upgrade.run(session, journal.plan, pool.hands, journal=journal).problems == []
    assert whole(pool, new)


def test_a_saved_state_that_is_lost_ends_as_a_fresh_one(pool: MockPool, session: Session, new: str) -> None:
    """A guest that was suspended at the start and goes down once it was resumed is started afresh, and suspended again."""
    outcome, journal = run(pool, session, on_step=at_step("wait for host1", lambda: crash(pool, "vm06")))
    assert outcome.problems == []
    (start,) = [step for step in journal.plan.steps if step.action == "start"]
    assert start.reason == "it was suspended at the start, and its saved state is lost"
    assert row(pool, "VM", "vm06")["power_state"] == "Suspended"
    assert [change for change in journal.changes() if not change.undone] == []
    assert versions(pool) == [new] * 3


def test_a_guest_with_a_device_is_started_again_where_the_device_is(pool: MockPool, session: Session, new: str) -> None:
    """It waits for its host, though another could take it before."""
    vm = row(pool, "VM", "vm05")
    pool.store.write(vm, other_config={**vm["other_config"], "pci": "0/0000:04:00.0"})
    outcome, journal = run(
        pool, session, accept_downtime=True, on_step=at_step("wait for host1", lambda: crash(pool, "vm05"))
    )
    assert outcome.problems == []
    texts = [done.text for done in outcome.steps]
    assert [text for text in texts if text.startswith("start")] == ["start vm05 on host2"]
    assert texts.index("start vm05 on host2") > texts.index("wait for host2")
    assert journal.plan.away == ()
    assert versions(pool) == [new] * 3


def test_no_guest_is_started_on_a_host_that_is_about_to_go_down(pool: MockPool, session: Session, new: str) -> None:
    """The run stops in a turn, and a guest elsewhere goes down: planned anew, it is started on a host that takes it."""
    reached: list[str] = []
    outcome, journal = run(
        pool,
        session,
        on_step=lambda number, total, text: reached.append(text),
        stop=lambda: "told to" if "shut down host1" in reached else "",
    )
    assert "told to" in outcome.paused
    crash(pool, "vm05")
    plan = rolling_upgrade.replan(session, journal)
    names = {step.vm: plan.names[step.to] for step in plan.steps if step.action == "start"}
    assert names == {row(pool, "VM", "vm05")["uuid"]: "host2"}
    journal.replan(plan)
    assert rolling_upgrade.run(session, plan, pool.hands, journal=journal).problems == []
    assert whole(pool, new)


def test_a_guest_that_went_down_may_be_left_and_is_told(pool: MockPool, session: Session, new: str) -> None:
    """The policy `report`: the run goes on without it, also beside later hosts and the comparison at the end."""
    outcome, journal = run(
        pool,
        session,
        policy=Policy(on_fallen=REPORT),
        on_step=at_step("wait for host1", lambda: crash(pool, "vm05")),
    )
    assert outcome.problems == []
    assert outcome.notes == ["vm05 went down while host1 was away, and is Halted"]
    assert row(pool, "VM", "vm05")["power_state"] == "Halted"
    assert versions(pool) == [new] * 3
    (found,) = [vm for vm in compare(journal).vms if vm.name == "vm05"]
    assert (found.state_before, found.state_after) == ("Running", "Halted")


# --- drift


def test_the_rest_is_planned_anew_where_that_is_the_policy(pool: MockPool, session: Session, new: str) -> None:
    """A guest that somebody moved goes home nevertheless, and the run never stops."""

    def move() -> None:
        facts = observe(session)
        vm = next(vm for vm in facts.vms.values() if vm.host and facts.hosts[vm.host].name == "host2")
        session.VM.pool_migrate(vm.ref, facts.hosts[facts.master].ref, {})  # type: ignore[arg-type]

    before = {vm.uuid: vm.host for vm in observe(session).vms.values()}
    outcome, journal = run(pool, session, policy=Policy(REPLAN), on_step=at_step("begin with host2", move))
    assert outcome.problems == []
    assert {vm.uuid: vm.host for vm in observe(session).vms.values() if vm.host} == {
        v: h for v, h in before.items() if h
    }
    assert journal.plan != journal.first_plan
    assert whole(pool, new)


def test_a_changed_master_stops_the_run_whatever_the_policy(pool: MockPool, session: Session, old: str) -> None:
    """Nobody plans around that."""
    plan = rolling_upgrade.plan(session)
    journal = Journal.create(plan)
    planned_with = replace(plan, master=plan.hosts[1].uuid)
    outcome = rolling_upgrade.run(session, planned_with, pool.hands, journal=journal, policy=Policy(REPLAN))
    (problem,) = outcome.problems
    assert "the master is host1, and was host2" in problem
    assert versions(pool) == [old] * 3


# --- a host that fails


def fail_on(pool: MockPool, *hosts: str) -> None:
    """These hosts cannot be disabled."""
    for host in hosts:
        pool.faults.add(
            "error",
            method="host.disable",
            about=row(pool, "host", host).ref,
            code="HOST_IN_USE",
            params=["a", "b", "c"],
            times=3,
        )


def test_a_member_that_fails_stops_the_run(pool: MockPool, session: Session, old: str, new: str) -> None:
    """Without a word nothing is passed over."""
    fail_on(pool, "host2")
    outcome, _ = run(pool, session)
    (problem,) = outcome.problems
    assert "disable host2: HOST_IN_USE" in problem
    assert versions(pool) == [new, old, old]


def test_the_first_member_that_fails_may_be_passed_over(pool: MockPool, session: Session, old: str, new: str) -> None:
    """The others are upgraded; the run ends with what is left, and a new plan of the rest finishes it, homes and all."""
    before = observe(session)
    fail_on(pool, "host2")
    outcome, journal = run(pool, session, policy=Policy(on_fallen=RESTART, skip_failed=True))
    (problem,) = outcome.problems
    assert "host2 was passed over, and versions are mixed until it is upgraded too" in problem
    assert "HOST_IN_USE" in problem
    assert versions(pool) == [new, old, new]
    assert journal.state == "stopped"
    assert all(vm.state == before.vms[vm.uuid].state for vm in observe(session).vms.values() if vm.name != "vm06")
    journal.replan(rolling_upgrade.replan(session, journal))
    assert journal.plan.problems == ()
    assert rolling_upgrade.run(session, journal.plan, pool.hands, journal=journal).problems == []
    assert {vm.uuid: vm.host for vm in observe(session).vms.values()} == {
        vm.uuid: vm.host for vm in before.vms.values()
    }
    assert whole(pool, new)


def test_a_second_host_that_fails_stops_the_run(pool: MockPool, session: Session, old: str, new: str) -> None:
    """One may be passed over, not two."""
    fail_on(pool, "host2", "host3")
    outcome, _ = run(pool, session, policy=Policy(skip_failed=True))
    (problem,) = outcome.problems
    assert "disable host3: HOST_IN_USE" in problem
    assert versions(pool) == [new, old, old]


def test_a_master_that_fails_stops_the_run(pool: MockPool, session: Session, old: str) -> None:
    """Members cannot go before it."""
    fail_on(pool, "host1")
    outcome, _ = run(pool, session, policy=Policy(skip_failed=True))
    assert "disable host1: HOST_IN_USE" in outcome.problems[0]
    assert versions(pool) == [old] * 3


def test_a_member_that_is_off_is_not_passed_over(pool: MockPool, session: Session, old: str) -> None:
    """A second host would be offline."""
    outcome, _ = run(
        pool,
        session,
        policy=Policy(skip_failed=True, timeouts={"reachable": 600, "version": 600}),
        on_step=at_step("wait for host2", lambda: pool.machine("host2").power_off()),
    )
    assert len(outcome.problems) == 1
    assert versions(pool)[2] == old
    assert pool.max_offline == 1


# --- gates


def test_nothing_is_prepared_where_the_first_host_is_not_approved(pool: MockPool, session: Session) -> None:
    """Asked before anything; a run that nobody is there to approve stops, and says so."""
    before, asked = observe(session), []

    def ask(question: str) -> bool | None:
        asked.append(question)
        return None

    outcome, journal = run(pool, session, gates=[Approve(ask)])
    assert "host1 is to be approved, and nobody is there to ask" in outcome.paused
    assert observe(session) == before
    outcome = rolling_upgrade.run(session, journal.plan, pool.hands, journal=journal, gates=[Approve(lambda q: False)])
    assert "host1 was not approved" in outcome.paused
    agreed: list[str] = []
    gate = Approve(lambda question: agreed.append(question) is None)
    assert rolling_upgrade.run(session, journal.plan, pool.hands, journal=journal, gates=[gate]).ok
    assert agreed == ["Begin with host1?", "Begin with host2?", "Begin with host3?"]


@pytest.mark.parametrize(("limit", "upgraded"), [("1", 1), ("2", 2), ("host2", 2)])
def test_a_run_stops_after_so_many_hosts_or_one(
    pool: MockPool, session: Session, limit: str, upgraded: int, new: str
) -> None:
    """By number, or by name; a later run goes on."""
    outcome, journal = run(pool, session, gates=[StopAfter(limit)])
    assert "as asked" in outcome.paused
    assert versions(pool).count(new) == upgraded
    assert rolling_upgrade.run(session, journal.plan, pool.hands, journal=journal).ok


def test_a_limit_that_is_no_host_is_refused() -> None:
    """Before anything starts."""
    with pytest.raises(ValueError, match=r"stop-after: 'host9' is neither a number nor a host of the plan \(host1\)"):
        StopAfter("host9").check({"u1": "host1"})
    with pytest.raises(ValueError, match="0 hosts are none"):
        StopAfter("0").check({})


def test_time_passes_between_hosts(pool: MockPool, session: Session) -> None:
    """Not before the first."""
    outcome, _ = run(pool, session, gates=[Settle(1000.0)])
    turns = [step for step in outcome.steps if step.step.action == "turn"]
    assert [step.took >= 1000.0 for step in turns] == [False, True, True]


@pytest.mark.parametrize(
    ("window", "clock", "left"),
    [
        ("22:00-06:00", "21:59", None),
        ("22:00-06:00", "22:00", 8 * 3600),
        ("22:00-06:00", "05:30", 1800),
        ("22:00-06:00", "06:00", None),
        ("01:00-02:30", "02:00", 1800),
        ("01:00-02:30", "02:30", None),
        ("01:00-02:30", "00:30", None),
    ],
)
def test_a_window_tells_how_long_it_is_open(window: str, clock: str, left: float | None) -> None:
    """Also over midnight."""
    hour, _, minute = clock.partition(":")
    now = datetime(2026, 3, 14, int(hour), int(minute), tzinfo=timezone.utc)
    assert Window.parse(window, lambda: now).left() == left


@pytest.mark.parametrize("text", ["22-6", "22:00", "25:00-06:00", "22:00-06:70", ""])
def test_a_window_that_is_none_is_refused(text: str) -> None:
    """With an example of one."""
    with pytest.raises(ValueError, match="is not of the form HH:MM-HH:MM, such as 22:00-06:00"):
        Window.parse(text)
    with pytest.raises(ValueError, match="begins when it ends"):
        Window.parse("06:00-06:00")


def test_a_host_is_begun_only_if_it_fits_the_window(pool: MockPool, session: Session, new: str) -> None:
    """By what hosts took so far; the next night goes on."""
    clock, midnight = session.clock, datetime(2026, 3, 14, tzinfo=timezone.utc)
    start = clock.now()

    def now() -> datetime:
        return midnight + timedelta(seconds=clock.now() - start)

    outcome, journal = run(pool, session, gates=[Window.parse("00:00-01:00", now)])
    assert "and the maintenance window 00:00-01:00 ends in" in outcome.paused
    done = versions(pool).count(new)
    assert 0 < done < 3
    outcome = rolling_upgrade.run(
        session, journal.plan, pool.hands, journal=journal, gates=[Window.parse("12:00-14:00", now)]
    )
    assert "the maintenance window 12:00-14:00 is closed: it is " in outcome.paused
    assert versions(pool).count(new) == done
    assert rolling_upgrade.run(session, journal.plan, pool.hands, journal=journal).ok


def test_a_run_is_paused_from_outside(pool: MockPool, session: Session, new: str) -> None:
    """Before the next host; what was asked is used up by then."""
    plan = rolling_upgrade.plan(session)
    journal = Journal.create(plan)
    deed = at_step(f"install {new} on host1", lambda: journal.put(PAUSE, "paused from outside"))
    gates = [paused_from_outside]
    outcome = rolling_upgrade.run(session, plan, pool.hands, journal=journal, gates=gates, on_step=deed)
    assert "begin with host2: paused from outside" in outcome.paused
    assert rolling_upgrade.run(session, plan, pool.hands, journal=journal, gates=gates).ok


def test_a_run_that_is_told_to_stop_does_so_while_it_waits(pool: MockPool, session: Session, new: str) -> None:
    """A machine that is being installed goes on; the next run looks where it is."""
    asked: list[str] = []
    deed = at_step(f"install {new} on host1", lambda: asked.append("told to stop (SIGTERM)"))
    outcome, journal = run(pool, session, on_step=deed, stop=lambda: asked[0] if asked else "")
    assert f"install {new} on host1: told to stop (SIGTERM)" in outcome.paused
    assert journal.state == "stopped"
    assert rolling_upgrade.run(session, journal.plan, pool.hands, journal=journal).ok
    assert whole(pool, new)


# --- how long it takes


def test_what_was_measured_counts_for_what_is_to_come(pool: MockPool, session: Session) -> None:
    """Before the start by usual times, then by the pool's own."""
    plan = rolling_upgrade.plan(session)
    journal = Journal.create(plan)
    first = seconds_left(journal)
    outcome = rolling_upgrade.run(session, plan, pool.hands, journal=journal, gates=[StopAfter("2")])
    began = pool.clock.now()
    left = seconds_left(journal)
    assert 0 < left < first
    assert outcome.paused
    assert rolling_upgrade.run(session, plan, pool.hands, journal=journal).ok
    took = pool.clock.now() - began
    assert 0.5 * took < left < 2 * took
    assert seconds_left(journal) == 0


def test_steps_belong_to_turns(session: Session) -> None:
    """From a turn's beginning to before the next, or to where all versions are waited for."""
    plan = rolling_upgrade.plan(session)
    numbers = [n for n, step in enumerate(plan.steps, 1) if step.action == "turn"]
    assert turn_of(plan, numbers[0] - 1) == ""
    assert turn_of(plan, numbers[1]) == plan.steps[numbers[1] - 1].host
    assert turn_ends(plan, numbers[0]) == numbers[1] - 1
    assert plan.steps[turn_ends(plan, numbers[2])].action == "equal"
    assert turn_of(plan, len(plan.steps)) == ""
    assert Pace.of(plan, ()).steps(plan, 1, len(plan.steps)) > 3 * 1800


def test_a_guest_that_is_down_twice_is_down_for_both(session: Session) -> None:
    """From the beginning of each stop to the end of the start, or to the end of the plan; others are not down."""
    plan = rolling_upgrade.plan(session)
    vm = next(vm for vm in plan.vms if vm.state == "Running")
    steps = tuple(Step(action, host=vm.home or "", vm=vm.uuid) for action in ("stop", "start", "stop"))
    assert Pace().downtime(replace(plan, steps=steps)) == {vm.uuid: 180.0}


# --- the comparison


def test_what_became_of_the_pool_is_told(pool: MockPool, session: Session, old: str, new: str) -> None:
    """Hosts by version, guests by state, home and migrations, as the fake saw it."""
    outcome, journal = run(pool, session)
    found = compare(journal)
    assert [(host.before, host.after) for host in found.hosts] == [(old, new)] * 3
    made = [step.step for step in outcome.steps if step.step.action == "migrate" and not step.skipped]
    assert found.migrations == len(made) == sum(vm.migrations for vm in found.vms)
    assert found.bytes == sum(journal.plan.memory(step.vm) for step in made)
    for vm in found.vms:
        assert (vm.state_before, vm.host_before) == (vm.state_after, vm.host_after)
    assert all(vm.downtime_s == 0 for vm in found.vms)
