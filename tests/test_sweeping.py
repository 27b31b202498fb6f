"""The sweep: a program run with each of its calls failed in turn; what breaks is found, told, and repeated by one line."""

from __future__ import annotations

from typing import Any

import pytest

import mockserver
import xenctl
from mockserver import MockPool
from mockserver.invariants import Invariant
from mockserver.sweeping import SweepError
from xenctl import ConnectionLost, Failure, Session


def make() -> MockPool:
    """Two hosts and four guests."""
    return MockPool.create(hosts=2, vms=4, release="8.2", seed=3)


def session_with(pool: MockPool) -> Any:
    return xenctl.connect(pool.url, "root", "secret", transport=pool.transport())


def careful(pool: MockPool) -> None:
    """Brings vm01 down, and looks when it does not know."""
    with session_with(pool) as session:
        (vm,) = session.VM.get_by_name_label("vm01")
        try:
            session.VM.clean_shutdown(vm)
        except ConnectionLost:
            if session.VM.get_power_state(vm) != "Halted":
                session.VM.clean_shutdown(vm)


def careless(pool: MockPool) -> None:
    """Makes a copy of vm01's record in its description, and does it again when it does not know: a mark too many."""
    with session_with(pool) as session:
        (vm,) = session.VM.get_by_name_label("vm01")
        for mark in ("a", "b"):
            _add_mark(session, vm, mark)


def _add_mark(session: Session, vm: Any, mark: str) -> None:
    try:
        session.VM.set_name_description(vm, session.VM.get_name_description(vm) + mark)
    except ConnectionLost:
        if mark == "b":
            session.VM.set_name_description(vm, session.VM.get_name_description(vm) + mark)
        else:
            raise


def no_mark_twice(pool: MockPool) -> None:
    text = description(pool)
    assert text.count("b") < 2, f"the description is {text!r}"


def description(pool: MockPool) -> str:
    row = next(vm for vm in pool.store.table("VM").values() if vm["name_label"] == "vm01")
    return str(row["name_description"])


def test_a_scenario_that_holds() -> None:
    """Every point is run; nothing broke."""
    report = mockserver.sweep(careful, make=make, faults=["answer_lost", "reset"])
    report.verify()
    assert (report.points, report.run, report.skipped, report.broken, report.seed) == (8, 8, {}, (), None)
    assert str(report) == "careful: 8 points, 8 run, 0 broken"


def test_a_bug_that_shows_when_one_certain_answer_is_lost_is_found() -> None:
    """Only there, and its line repeats it."""
    report = mockserver.sweep(
        careless, make=make, check=no_mark_twice, faults=["error", "answer_lost", "reset", "refused", "stall"]
    )
    (broken,) = report.broken
    assert str(broken.point) == "answer_lost at request 6, VM.set_name_description on host1"
    assert broken.reasons == ("the check raised AssertionError: the description is 'abb'",)
    assert broken.reproducer == (
        "mockserver.sweep(careless, make=make, check=no_mark_twice, only=[(6, 'answer_lost')])"
    )
    with pytest.raises(AssertionError, match=r"answer_lost at request 6(.|\n)*only=\[\(6, 'answer_lost'\)\]"):
        report.verify()
    again = eval(broken.reproducer)  # noqa: S307 - that it can be is what it is for
    assert [b.point for b in again.broken] == [broken.point]
    assert (again.run, again.skipped) == (1, {"not asked for": 7 * 2 - 1})


def test_a_fault_with_words_of_its_own_is_in_the_reproducer() -> None:
    """As a mapping."""
    fault = {"kind": "error", "code": "HOST_OFFLINE", "params": ["x"]}

    def never(pool: MockPool) -> None:
        assert description(pool) == "ab"

    report = mockserver.sweep(careless, make=make, check=never, faults=[fault], may_raise=(Failure,))
    assert report.broken[-1].reproducer.endswith(
        "may_raise=(Failure,), only=[(6, {'kind': 'error', 'code': 'HOST_OFFLINE', 'params': ['x']})])"
    )


def test_an_exception_that_may_not_be_is_told() -> None:
    """Refusals and lost connections may be raised; a programming error may not."""

    def confused(pool: MockPool) -> None:
        with session_with(pool) as session:
            try:
                vms = session.VM.get_by_name_label("vm01")
            except Failure:
                vms = []
            session.VM.get_power_state(vms[0])

    report = mockserver.sweep(confused, make=make)
    assert [str(b.point) for b in report.broken] == ["error at request 2, VM.get_by_name_label on host1"]
    assert report.broken[0].reasons == ("the scenario raised IndexError: list index out of range",)


def test_the_invariants_are_asked() -> None:
    """Those given, in every run."""

    class Untouched(Invariant):
        name, tables = "untouched", frozenset({"VM"})

        def broken_at_end(self, pool: MockPool) -> list[str]:
            return ["a mark without its other"] if description(pool) in ("a", "b") else []

    report = mockserver.sweep(careless, make=make, invariants=lambda: [Untouched()], faults=["error"])
    assert {b.reasons for b in report.broken} == {("untouched: a mark without its other (after the end)",)}
    assert [b.point.call for b in report.broken] == [5, 6]


def test_a_sample_is_told_with_its_seed() -> None:
    """Nothing is skipped in silence, and the seed chooses."""
    one, same, other = (
        mockserver.sweep(careless, make=make, faults=["reset"], sample=3, seed=seed) for seed in (1, 1, 4)
    )
    assert (one.points, one.run, one.seed) == (7, 3, 1)
    assert one.skipped == {"not in the sample of 3 with seed 1": 4}
    assert "4 skipped: not in the sample of 3 with seed 1" in str(one)
    assert str(same) == str(one)
    assert "seed 4" in str(other)


def test_points_at_which_the_fault_did_not_strike_are_told() -> None:
    """A call that is refused anyway cannot be failed."""

    def refused(pool: MockPool) -> None:
        with session_with(pool) as session, pytest.raises(Failure, match="HANDLE_INVALID"):
            session.VM.get_power_state("OpaqueRef:none")

    report = mockserver.sweep(refused, make=make, faults=["error_after"])
    assert (report.points, report.run) == (3, 2)
    assert report.skipped == {"the call was refused before its verb, or by it, without the fault": 1}


def test_a_scenario_that_breaks_by_itself_is_refused() -> None:
    """There is nothing to be learnt from failing it; nor from one that does nothing."""

    def broken(pool: MockPool) -> None:
        raise ConnectionLost("by itself")

    with pytest.raises(
        SweepError, match=r"broken breaks without any fault: the scenario raised ConnectionLost: by itself"
    ):
        mockserver.sweep(broken, make=make)
    with pytest.raises(SweepError, match="sends nothing to the pool that it is given"):
        mockserver.sweep(lambda pool: None, make=make)


def test_a_scenario_that_is_not_the_same_each_time_is_told() -> None:
    """Its points would be of another run."""
    turns = iter(range(100))

    def fickle(pool: MockPool) -> None:
        with session_with(pool) as session:
            if next(turns):
                session.host.get_all()
            else:
                session.VM.get_all()

    report = mockserver.sweep(fickle, make=make, faults=["reset"])
    assert "does not do the same each time: in this run it is host.get_all on host1" in str(report)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ({"faults": ["eror"]}, "no such fault: 'eror'"),
        ({"faults": [{"kind": "reset", "nth": 2}]}, "leave out nth"),
        ({"only": [(99, "reset")]}, "there is no request 99: the scenario makes 4"),
    ],
)
def test_mistakes(words: dict[str, Any], message: str) -> None:
    """Before anything is run with a fault."""
    with pytest.raises(ValueError, match=message):
        mockserver.sweep(careful, make=make, **words)


@pytest.mark.parametrize("victim", ["host1", "host2"])
@pytest.mark.parametrize("kind", ["toolstack_crash", "power_loss", "storage_path_lost"])
def test_hosts_that_fail_before_each_call(kind: str, victim: str) -> None:
    """Master or member, and whatever it ran: the pool is sound again once it is back."""
    fault = {"kind": kind, "victim": victim, "lasting": 300}
    if kind == "storage_path_lost":
        fault["sr"] = "NFS virtual disk storage"
    report = mockserver.sweep(careful, make=make, faults=[fault])
    report.verify()
    assert (report.points, report.run) == (4, 4)
