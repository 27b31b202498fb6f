"""Waiting for many tasks: one subscription, few calls, results in order, and an error for each that cannot be told."""

from __future__ import annotations

import io
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any

import pytest

from mockserver import PoolServer
from xenctl import xmlrpc
from xenctl.errors import ConnectError, ConnectionLost, WaitTimeout, XenctlError
from xenctl.events import wait_all
from xenctl.session import connect
from xenctl.tasks import Task
from xenctl.transport import Response
from xenctl.values import to_void

if TYPE_CHECKING:
    from conftest import Fake

Make = Callable[..., "Fake"]


def test_many_tasks_are_waited_for_with_few_calls_and_dropped(fake: Fake) -> None:
    assert fake.session.api_version  # asked once for a login
    tasks = fake.shut_down_guests()
    assert len(tasks) > 3
    fake.wire.methods.clear()
    assert wait_all(fake.session, tasks) == [None] * len(tasks)
    asked = [method for method in fake.wire.methods if method != "task.destroy"]
    assert len(asked) <= 8
    assert len(fake.wire.methods) - len(asked) == len(tasks)
    assert not fake.pool.store.table("task")
    assert fake.sessions == 1


def test_a_hundred_tasks_take_no_more_calls(make: Make) -> None:
    fake = make("8.2", vms=150, hosts=4)
    tasks = fake.shut_down_guests()
    fake.wire.methods.clear()
    assert wait_all(fake.session, tasks) == [None] * len(tasks)
    assert len(tasks) >= 100
    assert len([method for method in fake.wire.methods if method != "task.destroy"]) <= 8


def test_results_come_in_the_order_of_the_tasks_and_failures_in_their_place(fake: Fake) -> None:
    vm = fake.session.Async.VM
    halt = vm.clean_shutdown(fake.row("VM", "vm01").ref)
    refused = vm.unpause(fake.row("VM", "vm03").ref)
    cancelled = vm.clean_shutdown(fake.row("VM", "vm02").ref)
    cancelled.cancel()
    results = wait_all(fake.session, [refused, halt, cancelled, halt], timeout=600.0)
    names = [type(result).__name__ for result in results]
    assert names == ["VM_BAD_POWER_STATE", "NoneType", "TaskCancelled", "NoneType"]


def test_an_outcome_that_was_told_is_told_again(fake: Fake) -> None:
    """By `wait`, `outcome` and `wait_all`, although the server has dropped the task, which is not asked for it."""
    vm = fake.session.Async.VM
    tasks = [
        vm.clean_shutdown(fake.row("VM", "vm01").ref),
        vm.unpause(fake.row("VM", "vm03").ref),
        vm.clean_shutdown(fake.row("VM", "vm02").ref),
    ]
    tasks[2].cancel()
    assert not any(task.told for task in tasks)
    first = [str(outcome(task.wait)) for task in tasks]
    assert [text.partition(":")[0] for text in first] == [
        "None",
        "VM_BAD_POWER_STATE",
        "task VM.clean_shutdown was cancelled",
    ]
    assert all(task.told for task in tasks)
    assert not fake.pool.store.table("task")
    fake.wire.methods.clear()
    progress = list[float]()
    assert [str(outcome(partial(task.wait, on_progress=progress.append))) for task in tasks] == first
    assert [str(outcome(task.outcome)) for task in tasks] == first
    assert (progress, fake.wire.methods) == ([1.0] * 3, [])
    assert [str(found) for found in wait_all(fake.session, tasks)] == first
    assert not {"task.get_record", "task.destroy"} & set(fake.wire.methods)


def outcome(ask: Callable[[], Any]) -> Any:
    """What `ask` returns, or the error that it raises."""
    try:
        return ask()
    except XenctlError as error:
        return error


def test_the_progress_of_each_task_is_told_when_it_changes(fake: Fake) -> None:
    tasks = fake.shut_down_guests()
    seen: list[tuple[str, float]] = []
    wait_all(fake.session, tasks, on_progress=lambda task, progress: seen.append((task.ref, progress)))
    for task in tasks:
        steps = [progress for ref, progress in seen if ref == task.ref]
        assert steps == sorted(set(steps))
        assert steps[-1] == 1.0


def test_a_task_that_goes_on_is_an_error_in_its_place_and_kept(fake: Fake) -> None:
    task, *others = fake.shut_down_guests()
    began = fake.now
    (result,) = wait_all(fake.session, [task], timeout=5.0)
    assert isinstance(result, WaitTimeout)
    assert "still going on after 5 s of waiting; the task is kept: wait for it again, or cancel it" in str(result)
    assert fake.now - began == pytest.approx(5.0, abs=0.01)
    assert wait_all(fake.session, [task, *others]) == [None] * (1 + len(others))


def test_the_time_is_for_all_together(fake: Fake) -> None:
    """What is over by then gives its result, wherever it stands."""
    slow, other = (fake.session.task.create("mine", "") for _ in range(2))
    tasks = [
        Task(fake.session, slow, "slow", to_void),
        *fake.shut_down_guests(),
        Task(fake.session, other, "o", to_void),
    ]
    began = fake.now
    first, *done, last = wait_all(fake.session, tasks, timeout=60.0)
    assert fake.now - began == pytest.approx(60.0, abs=0.01)
    assert isinstance(first, WaitTimeout)
    assert isinstance(last, WaitTimeout)
    assert done == [None] * len(done)


def test_a_task_that_somebody_drops_is_lost_sight_of_and_stops_no_other(fake: Fake) -> None:
    dropped, *others = fake.shut_down_guests()
    fake.later(1.0, fake.remove, dropped.ref, kind="task")
    lost, *results = wait_all(fake.session, [dropped, *others])
    assert isinstance(lost, ConnectionLost)
    assert "its task is gone" in str(lost)
    assert results == [None] * len(others)


def test_a_task_that_cannot_be_read_is_an_error_in_its_place(make: Make) -> None:
    fake = make("8.2")
    task, *others = fake.shut_down_guests()

    def spoil(method: str, answer: Response) -> Response:
        value = xmlrpc.loads_response(answer.read())
        for event in value["events"] if method == "event.from" else []:
            if event["ref"] == task.ref:
                event["snapshot"]["progress"] = "half"
        return Response(answer.status, answer.headers, io.BytesIO(xmlrpc.dumps_success(value)))

    fake.wire.after = spoil
    spoiled, *results = wait_all(fake.session, [task, *others])
    assert isinstance(spoiled, ConnectionLost)
    assert "its record cannot be read: " in str(spoiled)
    assert results == [None] * len(others)


def test_the_tasks_of_a_master_that_restarted_are_lost_sight_of(fake: Fake) -> None:
    tasks = fake.shut_down_guests()
    fake.later(1.0, fake.cycle_power)
    for task, result in zip(tasks, wait_all(fake.session, tasks), strict=True):
        assert isinstance(result, ConnectionLost)
        assert result.method == task.label
        assert "its task is gone" in str(result)
        assert "outcome is unknown" in str(result)


def test_the_tasks_of_a_master_that_stays_away_are_lost_sight_of(fake: Fake) -> None:
    tasks = fake.shut_down_guests()
    fake.later(1.0, fake.pool.hands.power_off, fake.pool.master.name)
    for result in wait_all(fake.session, tasks, timeout=300.0):
        assert isinstance(result, ConnectionLost)
        assert isinstance(result.__cause__, ConnectError)


def test_an_error_of_the_callback_is_the_callers(fake: Fake) -> None:
    """It is not taken for an error of the server."""
    error = ConnectionLost("of a call that the callback made", host=fake.pool.url)

    def fails(task: object, progress: float) -> None:
        raise error

    with pytest.raises(ConnectionLost) as caught:
        wait_all(fake.session, fake.shut_down_guests(), on_progress=fails)
    assert caught.value is error


def test_no_tasks_are_waited_for_without_a_call(fake: Fake) -> None:
    assert wait_all(fake.session, []) == []
    assert fake.wire.methods == []


@pytest.mark.parametrize("release", ["4.0.1", "8.2"])
def test_tasks_are_waited_for_over_sockets(make: Make, release: str) -> None:
    fake = make(release)
    with PoolServer(fake.pool) as server, connect(server.url, "root", "secret") as session:
        tasks = fake.shut_down_guests(session)
        assert wait_all(session, tasks) == [None] * len(tasks)
