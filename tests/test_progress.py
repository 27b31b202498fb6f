"""How far tasks are while their operations run: for who asks, and for who waits for events."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from typing import Any

import pytest

Make = Callable[..., Any]
NULL = "OpaqueRef:NULL"


@pytest.fixture
def c(calls: Make) -> Any:
    return calls(release="8.2", hosts=2, vms=12)


def told(c: Any, classes: list[str], task: Any) -> list[float]:
    """The progress that the events of a task tell, until it is over."""
    token, out = "", []
    while True:
        answer = c("event.from", classes, token, 600.0)
        token = answer["token"]
        for event in answer["events"]:
            if event["ref"] == task.ref and "snapshot" in event:
                out.append(event["snapshot"]["progress"])
                if event["snapshot"]["status"] != "pending":
                    return out


def test_progress_is_the_share_of_the_time_that_is_over(c: Any) -> None:
    """To the percent, however it is read; and nothing is written while nobody looks."""
    vm = c.vm("vm04")
    task = c.start("VM.copy", vm.ref, "far", NULL)
    seconds = (8 << 30) / c.pool.durations.copy_rate
    assert c("task.get_progress", task.ref) == 0.0
    for part in (0.25, 0.5, 0.75):
        c.sleep(seconds / 4)
        assert task["progress"] < part - 0.2, "it is worked out when somebody asks"
        record = c("task.get_record", task.ref)
        assert record["progress"] == pytest.approx(part, abs=0.011)
        assert c("task.get_progress", task.ref) == record["progress"]
    c.until(lambda: task["status"] != "pending")
    assert (task["status"], c("task.get_progress", task.ref)) == ("success", 1.0)
    assert c.pool.spans == {}


def test_an_operation_of_several_parts_goes_on_through_all(c: Any) -> None:
    """It never goes back, and does not jump to the end."""
    vm = c.vm("vm02")
    task, seen = c.start("VM.checkpoint", vm.ref, "now"), []
    while task["status"] == "pending":
        seen.append(c("task.get_progress", task.ref))
        c.sleep(2)
    assert seen == sorted(seen)
    assert len(set(seen)) > 15
    assert max(after - before for before, after in pairwise(seen)) < 0.35


@pytest.mark.parametrize("classes", [["task"], ["*"], "of the task"])
def test_who_waits_for_events_hears_of_steps(c: Any, classes: Any) -> None:
    """A tenth of the operation or half a minute, whichever is longer; one that is over at once tells of none."""
    vm = c.vm("vm04")
    task = c.start("VM.copy", vm.ref, "far", NULL)
    found = told(c, [f"task/{task.ref}"] if classes == "of the task" else classes, task)
    assert found[-1] == 1.0
    steps, seconds = found[1:-1], (8 << 30) / c.pool.durations.copy_rate
    assert steps == [pytest.approx(passed / seconds, abs=0.02) for passed in (30, 60, 90)]
    short = c.start("VM.start", vm.ref, False, False)
    assert [p for p in told(c, ["task"], short) if 0 < p < 1] == []


def test_old_listeners_hear_of_steps_too(calls: Make) -> None:
    """By the queue of single changes."""
    c = calls(release="5.5", vms=6)
    c("event.register", ["task"])
    task = c.start("VM.copy", c.vm("vm04").ref, "far", NULL)
    found: list[float] = []
    while task["status"] == "pending":
        events = c("event.next")
        found += [e["snapshot"]["progress"] for e in events if e["ref"] == task.ref and "snapshot" in e]
    assert [p for p in found if 0 < p < 1]
    assert found == sorted(found)


def test_who_does_not_listen_to_tasks_is_left_in_peace(c: Any) -> None:
    """A wait for other events ends when there are some, and no timer is left behind."""
    task = c.start("VM.copy", c.vm("vm04").ref, "far", NULL)
    token = c("event.from", ["pool"], "", 0.0)["token"]
    assert c("event.from", ["pool"], token, 40.0)["events"] == []
    assert task["progress"] == 0.0
    token = c("event.from", ["task"], "", 0.0)["token"]
    c.until(lambda: task["status"] != "pending")
    assert task["progress"] == 1.0


def test_a_task_that_is_lost_is_forgotten(c: Any) -> None:
    """What its operation had left of time counts for nobody."""
    task = c.start("VM.copy", c.vm("vm04").ref, "far", NULL)
    c.sleep(20)
    c.pool.hands.power_off("host1")
    c.pool.hands.power_on("host1")
    c.until(lambda: c.pool.machine("host1").xapi.complete)
    d = c.again()
    assert d.refused("task.get_progress", task.ref)[0] == "HANDLE_INVALID"
    assert d("task.get_all_records") is not None
    assert c.pool.spans == {}
