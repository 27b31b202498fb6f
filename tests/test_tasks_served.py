"""Tasks as the fake serves them: their rows, results, errors, cancelling and dropping."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from mockserver import Durations, MockPool
from mockserver.pool import START
from xenctl import xmlrpc
from xenctl.errors import Failure, TaskCancelled
from xenctl.session import connect

Make = Callable[..., Any]


@pytest.fixture
def c(calls: Make) -> Any:
    return calls(release="8.2", vms=4)


def test_an_asynchronous_call_is_a_task_until_it_is_dropped(c: Any) -> None:
    """Its row says what is done, where and since when; the method's name with its prefix is the label."""
    vm = c.vm("vm01").ref
    ref = c("Async.VM.clean_shutdown", vm)
    task = c("task.get_record", ref)
    assert (task["name_label"], task["status"], task["progress"]) == ("Async.VM.clean_shutdown", "pending", 0.0)
    assert (task["type"], task["result"], task["error_info"], task["finished"]) == (
        "<none/>",
        "",
        [],
        "19700101T00:00:00Z",
    )
    assert (task["created"], task["resident_on"]) == (c.pool.clock.stamp(), c.host("host1").ref)
    assert task["allowed_operations"] == ["cancel"]
    assert ref in c("session.get_tasks", c.session)
    c.sleep(60)
    task = c("task.get_record", ref)
    assert (task["status"], task["progress"], task["allowed_operations"]) == ("success", 1.0, [])
    assert (task["result"], task["error_info"]) == ("<value></value>", [])
    assert task["finished"] > task["created"]
    c("task.destroy", ref)
    assert c.refused("task.get_record", ref) == ["HANDLE_INVALID", "task", ref]


def test_a_synchronous_call_is_a_task_while_it_goes_on(c: Any) -> None:
    """Others see it meanwhile; afterwards its row is gone."""
    seen: list[str] = []
    c.pool.clock.after(1, lambda: seen.extend(t["name_label"] for t in c.pool.store.table("task").values()))
    c("VM.clean_shutdown", c.vm("vm01").ref)
    assert seen == ["VM.clean_shutdown"]
    assert c("task.get_all") == []


@pytest.mark.parametrize(
    ("method", "args"), [("VM.get_all", []), ("task.create", ["a", "b"]), ("host.get_servertime", ["host"])]
)
def test_calls_without_an_asynchronous_form_are_no_tasks(c: Any, method: str, args: list[Any]) -> None:
    """Nor are those of the classes task and event."""
    before = c("event.get_current_id")
    c("event.register", ["task"])
    c(method, *[c.host("host1").ref if arg == "host" else arg for arg in args])
    assert c("event.get_current_id") - before == (method == "task.create")


def test_a_result_is_its_wire_form(c: Any) -> None:
    """A reference, a set, a truth, as the answer would have been."""
    vm = c.vm("vm01").ref
    network = c.start("network.create", {"name_label": "n", "other_config": {}})
    assert network["result"] == f"<value>{c('network.get_by_name_label', 'n')[0]}</value>"
    hosts = c.start("VM.get_possible_hosts", vm)
    assert xmlrpc.loads_value(hosts["result"]) == c("VM.get_possible_hosts", vm)
    free = c.start("host.compute_free_memory", c.host("host1").ref)
    assert free["result"] == f"<value>{c('host.compute_free_memory', c.host('host1').ref)}</value>"


def test_an_error_is_in_the_task(c: Any) -> None:
    """Code and parameters, and no result."""
    vm = c.vm("vm01").ref
    task = c.start("VM.start", vm, False, False)
    assert (task["status"], task["result"]) == ("failure", "")
    assert task["error_info"] == ["VM_BAD_POWER_STATE", vm, "halted", "running"]
    with connect(c.pool.url, "root", "secret", transport=c.pool.transport()) as session:
        with pytest.raises(Failure, match="VM_BAD_POWER_STATE") as caught:
            session.Async.VM.start(vm, False, False).wait()
        assert caught.value.params == [vm, "halted", "running"]


def test_a_task_that_is_over_changes_no_more(c: Any) -> None:
    """Cancelling it is no error, and does nothing to its outcome."""
    task = c.start("network.create", {"name_label": "n", "other_config": {}})
    c("task.cancel", task.ref)
    assert (task["status"], task["progress"]) == ("success", 1.0)


@pytest.mark.parametrize(
    ("method", "name", "args"),
    [
        ("VM.clean_shutdown", "vm01", ()),
        ("VM.suspend", "vm01", ()),
        ("VM.start", "vm04", (False, False)),
        ("VM.pool_migrate", "vm01", ("host2", {})),
        ("VM.clean_reboot", "vm01", ()),
    ],
)
def test_a_cancelled_operation_leaves_everything_as_it_was(
    c: Any, method: str, name: str, args: tuple[Any, ...]
) -> None:
    """At once: the task is cancelled without an error, the VM as before, and no disk is left over."""
    vm = c.vm(name)
    before, disks = dict(vm), set(c.pool.store.table("VDI"))
    task = c.start(method, vm.ref, *[c.host(a).ref if a == "host2" else a for a in args])
    assert vm["current_operations"] == {task.ref: method.split(".")[1]}
    c.sleep(1)
    c("task.cancel", task.ref)
    assert (task["status"], task["error_info"], task["allowed_operations"]) == ("cancelled", [], [])
    assert dict(vm) == before
    assert (set(c.pool.store.table("VDI")), set(c.pool.disks)) == (
        disks,
        {c.pool.store.get("VDI", d)["uuid"] for d in disks},
    )
    c.sleep(3600)
    assert dict(vm) == before


def test_cancelling_a_synchronous_call_ends_it(c: Any) -> None:
    """Its caller gets the error, which names the task."""
    vm = c.vm("vm01")

    def cancel() -> None:
        (task,) = c.pool.store.table("task")
        other("task.cancel", task)
        cancelled.append(task)

    other, cancelled = c.again(), list[str]()
    c.pool.clock.after(3, cancel)
    now = c.pool.clock.now()
    assert c.refused("VM.clean_shutdown", vm.ref) == ["TASK_CANCELLED", *cancelled]
    assert (vm["power_state"], vm["current_operations"], c.pool.clock.now()) == ("Running", {}, now + 3)


def test_a_client_sees_that_its_task_was_cancelled(c: Any) -> None:
    """As an error of its own."""
    with connect(c.pool.url, "root", "secret", transport=c.pool.transport()) as session:
        task = session.Async.VM.clean_shutdown(c.vm("vm01").ref)
        task.cancel()
        with pytest.raises(TaskCancelled):
            task.wait()


def test_cancelling_can_be_asynchronous(c: Any) -> None:
    """The answer is a reference to no row, which the cancelled task carries."""
    task = c.start("VM.clean_shutdown", c.vm("vm01").ref)
    by = c("Async.task.cancel", task.ref)
    assert by.startswith("DummyRef:|")
    assert by.endswith("|Async.task.cancel")
    assert task["current_operations"] == {by: "cancel"}
    assert task["status"] == "cancelled"


def test_a_client_may_have_tasks_of_its_own(c: Any) -> None:
    """Made pending; a completed one goes at once, a pending one is marked and goes when it is over. Its status says nothing
    of when it was finished, so that the garbage collection takes any that is over for old."""
    one, two = c("task.create", "one", "first"), c("task.create", "two", "")
    record = c("task.get_record", one)
    assert (record["name_label"], record["name_description"], record["status"]) == ("one", "first", "pending")
    assert record["allowed_operations"] == []
    c("task.set_progress", one, 0.5)
    assert c("task.get_progress", one) == 0.5
    c("task.set_status", one, "success")
    c("task.destroy", one)
    c("task.destroy", two)
    assert c("task.get_current_operations", two) == {"task": "destroy"}
    assert c.refused("task.destroy", two) == ["MAP_DUPLICATE_KEY", "task", "current_operations", two, "task"]
    c("task.set_status", two, "failure")
    three = c("task.create", "three", "")
    c("task.set_status", three, "success")
    assert c("task.get_finished", three) == "19700101T00:00:00Z"
    c.sleep(31)
    assert c("task.get_all") == []


def test_before_6_5_a_task_that_goes_on_can_be_dropped(calls: Make) -> None:
    """What it was for goes on."""
    c = calls(release="6.2", vms=1)
    task = c.start("VM.clean_shutdown", c.vm("vm01").ref)
    c("task.destroy", task.ref)
    assert c("task.get_all") == []
    c.sleep(600)
    assert (c("VM.get_power_state", c.vm("vm01").ref), c("task.get_all")) == ("Halted", [])


def test_a_task_that_goes_on_is_dropped_when_it_ends(c: Any) -> None:
    """The garbage collection does it within thirty seconds."""
    task = c.start("VM.clean_shutdown", c.vm("vm01").ref)
    c("task.destroy", task.ref)
    c.sleep(20)
    assert c("task.get_all") == [task.ref]
    c.sleep(40)
    assert c("task.get_all") == []


def test_completed_tasks_are_kept_for_a_while(c: Any) -> None:
    """An hour and five minutes; pending ones a day."""
    done, pending = c.start("network.create", {"name_label": "n", "other_config": {}}), c("task.create", "mine", "")
    c.sleep(3890)
    assert set(c("task.get_all")) == {done.ref, pending}
    c.sleep(60)
    assert c("task.get_all") == [pending]
    c.sleep(82000)
    assert c("task.get_all") == [pending]
    c.sleep(600)
    assert c("task.get_all") == []


def test_a_pending_task_that_gets_on_is_kept(c: Any) -> None:
    """However old it is; one that does not between two passes is dropped, at the second that sees it old."""
    moves, rests = c("task.create", "moves", ""), c("task.create", "rests", "")
    c.sleep(86390)
    c("task.get_all")
    c.sleep(31)
    for step in range(1, 6):
        c("task.set_progress", moves, step / 10)
        assert (rests in c("task.get_all")) == (step == 1)
        assert moves in c("task.get_all")
        c.sleep(31)
    assert c("task.get_all") == [moves], "it got on since the pass before"
    c.sleep(31)
    assert c("task.get_all") == []


def test_before_6_1_a_task_lives_a_day_at_the_most(calls: Make) -> None:
    """Whether it gets on is not looked at."""
    c = calls(release="6.0", vms=4, durations=Durations(migrate_rate=10_000.0))
    task = c.start("VM.pool_migrate", c.vm("vm01").ref, c.host("host2").ref, {})
    c.sleep(86_000)
    assert c("task.get_all") == [task.ref]
    c.sleep(500)
    assert c("task.get_all") == []


def test_a_pending_operation_of_the_host_that_gets_on_is_kept(calls: Make) -> None:
    """Its progress is worked out from the clock, whoever called meanwhile, or nobody."""
    c = calls(release="8.2", vms=4, durations=Durations(migrate_rate=10_000.0))
    task = c.start("VM.pool_migrate", c.vm("vm01").ref, c.host("host2").ref, {})
    c.sleep(90000)
    assert task.ref in c("task.get_all")
    assert 0 < c("task.get_progress", task.ref) < 1


def test_too_many_completed_tasks_are_dropped(c: Any) -> None:
    """As many as there are beyond two hundred tasks, the oldest that are over; never one that goes on."""
    pending = [c("task.create", f"mine {n}", "") for n in range(60)]
    for number in range(150):
        c.sleep(0.1)
        c("Async.network.create", {"name_label": str(number), "other_config": {}})
    c.sleep(31)
    left = c("task.get_all_records")
    assert set(pending) <= set(left)
    newest = {str(number) for number in range(10, 150)}
    kept = [xmlrpc.loads_value(left[ref]["result"]) for ref in left if ref not in pending]
    assert {c("network.get_name_label", network) for network in kept} == newest


def test_tasks_do_not_outlive_the_master(calls: Make) -> None:
    """What was going on is gone with its task, and leaves the VM as it was."""
    c = calls(release="4.0.1", vms=4, hosts=3)
    vm = c.vm("vm02")
    assert vm["resident_on"] == c.host("host2").ref
    task = c.start("VM.pool_migrate", vm.ref, c.host("host3").ref, {})
    assert c.refused_at_once("VM.start", vm.ref, False, False)[0] == "OTHER_OPERATION_IN_PROGRESS"
    c.pool.master.power_off()
    c.sleep(300)
    assert vm["current_operations"] == {}
    c.pool.hands.power_on("host1")
    c.until(lambda: c.pool.master_serves)
    c = c.again()
    c.sleep(600)
    assert c.refused("task.get_record", task.ref) == ["HANDLE_INVALID", "task", task.ref]
    assert (vm["power_state"], vm["resident_on"]) == ("Running", c.host("host2").ref)
    assert (vm["current_operations"], vm["scheduled_to_be_resident_on"]) == ({}, "OpaqueRef:NULL")
    assert vm["uuid"] in c.pool.machine("host2").domains


def test_an_evacuation_has_a_task_for_each_guest(calls: Make) -> None:
    """They are below its own, and gone when it is over."""
    c = calls(release="8.4", vms=7, hosts=3)
    host = c.host("host1")
    c("host.disable", host.ref)
    guests = [ref for ref in host["resident_VMs"] if not c.pool.store.get("VM", ref)["is_control_domain"]]
    task = c.start("host.evacuate", host.ref)
    c.sleep(1)
    parts = [c.pool.store.get("task", ref) for ref in task["subtasks"]]
    assert [part["name_label"] for part in parts] == ["Async.VM.pool_migrate"] * len(guests)
    assert all(part["subtask_of"] == task.ref for part in parts)
    c.until(lambda: task["status"] != "pending")
    assert (task["status"], len(host["resident_VMs"])) == ("success", 1)
    assert c("task.get_all") == [task.ref]


def test_the_pool_of_a_fresh_master_has_no_tasks(calls: Make) -> None:
    """Nor sessions; they were never written to its disk."""
    pool: MockPool = calls(release="8.2").pool
    assert pool.store.dump().tables["task"].rows == {}
    assert pool.store.dump().tables["session"].rows == {}


def test_a_call_that_waited_for_its_parts_leaves_nothing_due(c: Any) -> None:
    """The limit of its patience goes with it: else time, which runs on to whatever is due next, would run on to that, and
    the call's task be dropped before anybody could read how it ended."""
    task = c("Async.host.evacuate", c.host("host2").ref)
    c.pool.clock.run_until_idle()
    assert c.pool.clock.now() - START < 600
    assert c("task.get_status", task) == "success"
