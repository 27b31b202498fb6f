"""Orderly shutdown: suspended guests too, in parallel, by policy; and everything started again where it ran."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from chaos import Fate, Killed, MortalHands, kills, mortal
from pools import RELEASES, carried_out, made, reach, row, states, unharmed

from mockserver import MockPool
from xenctl.errors import ProcedureError
from xenctl.procedures import running, shutdown
from xenctl.procedures.journal import Journal
from xenctl.procedures.observe import observe
from xenctl.procedures.running import Run


@pytest.mark.parametrize("release", RELEASES)
def test_everything_is_shut_down_and_started_again(release: str) -> None:
    """Suspended guests too; what ran runs again on the same hosts, and nothing else does."""
    pool = made(release)
    before = states(pool)
    assert ("Suspended", "") in before.values()
    plan = shutdown.plan(reach(pool))
    assert plan.problems == ()
    outcome, journal = carried_out(pool, plan)
    assert outcome.problems == []
    assert {state for state, _ in states(pool).values()} == {"Halted"}
    again = shutdown.start_again(reach(pool), journal)
    outcome, journal = carried_out(pool, again, journal)
    assert outcome.problems == []
    after = states(pool)
    assert {name: at for name, at in after.items() if at[0] == "Running"} == {
        name: at for name, at in before.items() if at[0] == "Running"
    }
    assert unharmed(pool)


def test_one_hosts_guests_alone() -> None:
    """Guests of other hosts go on running."""
    pool = made()
    before = states(pool)
    outcome, _ = carried_out(pool, shutdown.plan(reach(pool), "host2"))
    assert outcome.ok
    after = states(pool)
    assert all(after[name][0] == "Halted" for name, at in before.items() if at[1] == "host2")
    assert all(after[name] == at for name, at in before.items() if at[1] in ("host1", "host3"))


def test_a_suspended_guest_that_only_this_host_can_resume_belongs_to_it() -> None:
    """It is resumed there and shut down; of the other hosts' plans it is no part."""
    pool = made("4.0.1")
    for name in ("disk of vm06", "Suspend image"):
        pool.store.write(row(pool, "VDI", name), SR=row(pool, "SR", "Local storage on host3").ref)
    assert "vm06" in [vm.name for vm in shutdown.plan(reach(pool), "host3").vms]
    assert "vm06" not in [vm.name for vm in shutdown.plan(reach(pool), "host2").vms]


def test_where_no_room_is_left_the_suspended_come_after_the_others() -> None:
    """A guest that fits nowhere now is resumed once others are down."""
    pool = made()
    vm, facts = row(pool, "VM", "vm06"), observe(reach(pool))
    size = max(host.room for host in facts.hosts.values()) - (1 << 30)
    pool.store.write(vm, memory_static_max=size, memory_dynamic_max=size, memory_dynamic_min=size)
    plan = shutdown.plan(reach(pool))
    assert [step.action for step in plan.steps] == ["claim", "shut-down", "resume", "shut-down", "release"]
    assert plan.problems == ()


def test_at_most_so_many_at_once() -> None:
    """The limit holds at every moment."""
    pool = made()
    busiest = 0

    class Watching(Fate):
        def meets(self, what: str, deed: Any) -> Any:
            nonlocal busiest
            going = [
                vm for vm in pool.store.table("VM").values() if "clean_shutdown" in vm["current_operations"].values()
            ]
            busiest = max(busiest, len(going))
            return super().meets(what, deed)

    plan = shutdown.plan(reach(pool), limit=2)
    outcome = Run(reach(pool, Watching()), plan, pool.hands, Journal.create(plan)).carry_out()
    assert outcome.ok
    assert busiest == 2


def stubborn(pool: MockPool, name: str) -> None:
    """A guest without paravirtual drivers cannot shut itself down."""
    vm = row(pool, "VM", name)
    pool.store.write(vm, HVM_boot_policy="BIOS order", guest_metrics="OpaqueRef:NULL")


def test_giving_up_names_what_is_left_and_why() -> None:
    """Everything else is down; the run can be gone on with when the reason is mended."""
    pool = made("4.0.1")
    stubborn(pool, "vm02")
    plan = shutdown.plan(reach(pool))
    outcome, journal = carried_out(pool, plan)
    (problem,) = outcome.problems
    assert (
        "vm02: OPERATION_NOT_ALLOWED: not allowed "
        "(reason 'clean_shutdown not possible for HVM domains (are PV drivers installed?)')" in problem
    )
    assert [name for name, at in states(pool).items() if at[0] != "Halted"] == ["vm02"]
    pool.dispatch("VM.hard_shutdown", [Session_of(pool), row(pool, "VM", "vm02").ref])
    outcome, _ = carried_out(pool, plan, journal)
    assert outcome.ok


def Session_of(pool: MockPool) -> str:  # noqa: N802
    return str(pool.dispatch("session.login_with_password", [pool.username, pool.password]))


@pytest.mark.parametrize(("policy", "answer", "state"), [("hard", True, "Halted"), ("ask", True, "Halted")])
def test_by_force_where_the_policy_says_so(policy: str, answer: bool, state: str) -> None:
    """Without asking, or with a person's consent; the journal has the reason."""
    pool, asked = made("4.0.1"), []
    stubborn(pool, "vm02")

    def ask(question: str) -> bool:
        asked.append(question)
        return answer

    outcome, journal = carried_out(pool, shutdown.plan(reach(pool), policy=policy), ask=ask)
    assert outcome.ok
    assert states(pool)["vm02"][0] == state
    assert any("vm02 is shut down by force" in entry.text for entry in journal.entries())
    assert len(asked) == (policy == "ask")


def test_nobody_who_agrees_leaves_the_guest_alone() -> None:
    """`ask` without an answer is no."""
    pool = made("4.0.1")
    stubborn(pool, "vm02")
    outcome, _ = carried_out(pool, shutdown.plan(reach(pool), policy="ask"))
    assert outcome.problems
    assert states(pool)["vm02"][0] == "Running"


def test_a_guest_that_takes_too_long_is_told_to_stop_trying() -> None:
    """Its task is cancelled when its time is over, and it is named."""
    pool = made()
    plan = shutdown.plan(reach(pool), timeout=0.5)
    outcome, _ = carried_out(pool, plan)
    (problem,) = outcome.problems
    assert "did not shut down in time" in problem


def test_guests_to_be_kept_are_left_alone() -> None:
    """By name."""
    pool = made()
    outcome, _ = carried_out(pool, shutdown.plan(reach(pool), keep=["vm02"]))
    assert outcome.ok
    assert [name for name, at in states(pool).items() if at[0] == "Running"] == ["vm02"]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ({"host": "nobody"}, "no host is called 'nobody'; there are host1, host2, host3"),
        ({"keep": ["nobody"]}, "no guest is called 'nobody'"),
        ({"policy": "maybe"}, "policy is give-up, ask, hard, not 'maybe'"),
        ({"limit": 0}, "limit is a number of guests from 1"),
    ],
)
def test_bad_input_is_said(words: dict[str, Any], said: str) -> None:
    """Before anything is changed."""
    with pytest.raises(ValueError, match=said):
        shutdown.plan(reach(made()), **words)


def test_a_guest_that_cannot_be_resumed_is_a_problem() -> None:
    """Its image is gone: the plan says so and does nothing."""
    pool = made("4.0.1")
    pool.store.delete(row(pool, "VDI", "Suspend image"))
    plan = shutdown.plan(reach(pool))
    assert plan.steps == ()
    assert "vm06 is suspended and its suspend image is gone" in plan.problems[0]


def test_what_is_started_again_is_what_was_shut_down_here() -> None:
    """Not another pool's, and not another procedure's journal."""
    pool = made()
    plan = shutdown.plan(reach(pool))
    journal = Journal.create(plan)
    carried_out(pool, plan, journal)
    with pytest.raises(ProcedureError, match="the journal is of another pool"):
        shutdown.start_again(reach(made(seed=7)), journal)
    other = Journal.create(replace(plan, procedure="rolling upgrade"))
    with pytest.raises(ProcedureError, match="is of a rolling upgrade, not of an orderly shutdown"):
        shutdown.start_again(reach(pool), other)


def test_a_guest_that_cannot_be_started_is_named_and_the_others_run() -> None:
    """One host's storage is lost meanwhile: its guests are named, the rest is up."""
    pool = made()
    plan = shutdown.plan(reach(pool))
    _, journal = carried_out(pool, plan)
    pool.store.write(row(pool, "host", "host2"), enabled=False)
    again = shutdown.start_again(reach(pool), journal)
    outcome, _ = carried_out(pool, again, journal)
    (problem,) = outcome.problems
    assert "on host2: HOST_DISABLED" in problem
    assert {at[1] for at in states(pool).values() if at[0] == "Running"} == {"host1", "host3"}


@pytest.mark.parametrize("abandoned", [False, True])
def test_a_shutdown_that_stopped_half_way_can_be_turned_round(abandoned: bool) -> None:
    """Whoever does not want to go on with it starts again what is down by now, with or without having abandoned it."""
    pool = made()
    before, plan = states(pool), shutdown.plan(reach(pool))
    pool.faults.add("error", method="Async.VM.clean_shutdown", code="VM_SHUTDOWN_TIMEOUT", params=["x", "1"], times=2)
    journal = Journal.create(plan)
    outcome, _ = carried_out(pool, plan, journal)
    assert "these guests are not shut down" in outcome.problems[0]
    assert {state for state, _ in states(pool).values()} == {"Halted", "Running"}
    if abandoned:
        assert running.abandon(reach(pool), journal, pool.hands) == []
    outcome, _ = carried_out(pool, shutdown.start_again(reach(pool), journal), journal)
    assert outcome.problems == []
    assert {name: at for name, at in states(pool).items() if before[name][0] == "Running"} == {
        name: at for name, at in before.items() if at[0] == "Running"
    }
    assert observe(reach(pool)).mark == ""
    assert unharmed(pool)


def test_an_abandoned_shutdown_takes_its_mark_away() -> None:
    """Suspended guests that were resumed are suspended again."""
    pool = made("4.0.1")
    before, plan = states(pool), shutdown.plan(reach(pool))
    journal = Journal.create(plan)
    number = next(n for n, step in enumerate(plan.steps, 1) if step.action == "shut-down")
    fate = Fate()
    run = Run(reach(pool, fate), plan, pool.hands, journal)
    with pytest.raises(Killed):
        run.carry_out(lambda n, *_: setattr(fate, "dead", n == number))
    assert running.abandon(reach(pool), journal, pool.hands) == []
    assert {name: state for name, (state, _) in states(pool).items()} == {n: s for n, (s, _) in before.items()}


@pytest.mark.chaos
def test_killed_anywhere_it_ends_the_same(tmp_path: Path) -> None:
    """Before and after every call and every write of the journal, a sample of them."""
    points = Fate()
    pool = made("4.0.1", hosts=2, vms=6)
    plan = shutdown.plan(reach(pool))
    Run(reach(pool, points), plan, pool.hands, mortal(Journal.create(plan), points)).carry_out()
    for number, after in kills(points.points, 20, seed=3):
        pool, fate, path = made("4.0.1", hosts=2, vms=6), Fate(number, after), tmp_path / f"{number}{after}"
        hands: Any = MortalHands(pool.hands, fate)
        plan = shutdown.plan(reach(pool))
        with Journal.create(plan, path) as journal, pytest.raises(Killed):
            Run(reach(pool, fate), plan, hands, mortal(journal, fate)).carry_out()
        with Journal.open(path, to_run=True) as journal:
            outcome, _ = carried_out(pool, journal.plan, journal)
        assert outcome.problems == [], (number, after)
        assert {state for state, _ in states(pool).values()} == {"Halted"}
        assert unharmed(pool)
