"""Tasks: waiting costs simulated time, outcomes are typed and kept apart from the troubles of asking."""

from __future__ import annotations

import io
import pickle
from collections.abc import Callable
from typing import Any

import pytest

from mockserver.pool import MockPool
from xenctl import xmlrpc
from xenctl.api import errors
from xenctl.errors import ConnectionLost, Failure, ProtocolError, TaskCancelled, WaitTimeout, XenctlError
from xenctl.session import Session, connect
from xenctl.tasks import LONGEST_PAUSE, Task, wait_all
from xenctl.transport import Clock, Request, Response, Transport
from xenctl.values import NULL, to_bool, to_int, to_ref, to_string_map, to_strings, to_void


class Wire:
    """A transport that counts calls; what `before` returns for a method is the server's refusal, what it raises, trouble."""

    def __init__(self, inner: Transport) -> None:
        self._inner = inner
        self.methods: list[str] = []
        self.before: Callable[[str], list[str] | None] = lambda method: None

    @property
    def clock(self) -> Clock:
        return self._inner.clock

    def send(self, request: Request) -> Response:
        method, _ = xmlrpc.loads_call(request.body)
        self.methods.append(method)
        refusal = self.before(method)
        if refusal is not None:
            return Response(200, {}, io.BytesIO(xmlrpc.dumps_failure(refusal)))
        return self._inner.send(request)

    def close(self) -> None:
        """Nothing is held."""


@pytest.fixture
def pool() -> MockPool:
    """A pool of two hosts."""
    return MockPool.create(hosts=2, vms=4, release="4.0.1")


@pytest.fixture
def wire(pool: MockPool) -> Wire:
    """The way to the pool."""
    return Wire(pool.transport())


@pytest.fixture
def session(pool: MockPool, wire: Wire) -> Session:
    """A session with the pool."""
    return connect(pool.url, "root", "secret", transport=wire, protocol="xmlrpc")


def running(session: Session) -> list[Any]:
    """The guests that run."""
    records = session.VM.get_all_records()
    return [ref for ref, vm in records.items() if vm.power_state == "Running" and not vm.is_control_domain]


def task_count(pool: MockPool) -> int:
    """How many tasks the server keeps."""
    return len(pool.store.table("task"))


def own_task(session: Session, convert: Callable[[Any], Any] = to_void) -> Task[Any]:
    """A task that goes on until `end` ends it."""
    return Task(session, session.call("task.create", ("mine", "")), "VM.operation", convert)


def end(pool: MockPool, task: Task[Any], after: float = 0.0, **fields: Any) -> None:
    """Write `fields` of `task` as the server does, in `after` simulated seconds."""

    def write() -> None:
        over = {"finished": pool.clock.stamp()} if "status" in fields else {}
        pool.store.write(pool.store.get("task", task.ref), **over, **fields)

    pool.clock.after(after, write)
    pool.clock.advance(0)


class TestOutcomes:
    """What `wait` returns and raises."""

    def test_waiting_takes_the_operations_time(self, pool: MockPool, session: Session) -> None:
        """On the fake's clock hours pass at once; afterwards the operation is done and its task is gone."""
        vm = running(session)[0]
        begin = pool.clock.now()
        task = session.Async.VM.clean_shutdown(vm)
        assert task.label == "VM.clean_shutdown"
        assert task.status() == "pending"
        result: Any = task.wait()
        assert result is None
        assert session.VM.get_power_state(vm) == "Halted"
        assert pool.durations.vm_shutdown <= pool.clock.now() - begin <= pool.durations.vm_shutdown + LONGEST_PAUSE
        assert task_count(pool) == 0

    @pytest.mark.parametrize(
        ("convert", "result", "value"),
        [
            (to_void, "", None),
            (to_void, "<value></value>", None),
            (to_ref, "<value>OpaqueRef:1</value>", "OpaqueRef:1"),
            (to_ref, "<value>OpaqueRef:NULL</value>", NULL),
            (to_strings, "<value><array><data><value>a</value><value>b</value></data></array></value>", ["a", "b"]),
            (to_strings, "<value><array><data/></array></value>", []),
            (
                to_string_map,
                "<value><struct><member><name>a</name><value>b</value></member></struct></value>",
                {"a": "b"},
            ),
            (to_int, "<value>12</value>", 12),
            (to_bool, "<value><boolean>1</boolean></value>", True),
        ],
    )
    def test_a_result_is_of_the_messages_type(
        self, pool: MockPool, session: Session, convert: Callable[[Any], Any], result: str, value: Any
    ) -> None:
        """The server keeps results as XML; `wait` gives what the synchronous call would have."""
        task = own_task(session, convert)
        end(pool, task, status="success", result=result)
        assert task.wait() == value
        assert task_count(pool) == 0

    @pytest.mark.parametrize(
        ("convert", "result", "message"),
        [
            (to_strings, "<value>a</value>", "expected an array"),
            (to_ref, "<value><int>1</int></value>", "expected text"),
            (to_ref, "<value>cut", "not XML"),
            (to_void, "<!DOCTYPE x []><value/>", "has a DTD"),
            (to_int, "", "expected a whole number"),
        ],
    )
    def test_a_result_that_cannot_be_read(
        self, pool: MockPool, session: Session, convert: Callable[[Any], Any], result: str, message: str
    ) -> None:
        """It names host and operation; the task is over all the same, and dropped."""
        task = own_task(session, convert)
        end(pool, task, status="success", result=result)
        with pytest.raises(
            ProtocolError, match=rf"^VM\.operation on http://10\.0\.0\.1: .* cannot be read: .*{message}"
        ):
            task.wait()
        assert task_count(pool) == 0

    def test_a_status_that_xenapi_does_not_have(self, pool: MockPool, session: Session) -> None:
        """Neither success nor failure is made of it."""
        task = own_task(session)
        end(pool, task, status="exploded")
        with pytest.raises(ProtocolError, match="its status is 'exploded'"):
            task.wait()

    def test_an_operation_that_fails_raises_its_error(self, pool: MockPool, session: Session) -> None:
        """The failure is of its code's class, as the synchronous call's, and the task is dropped."""
        task = own_task(session)
        end(pool, task, 60, status="failure", error_info=["VM_BAD_POWER_STATE", task.ref, "running", "halted"])
        with pytest.raises(errors.VM_BAD_POWER_STATE) as caught:
            task.wait()
        assert caught.value.actual == "halted"
        assert task_count(pool) == 0

    def test_a_real_refusal_comes_by_the_task_or_at_once(self, pool: MockPool, session: Session) -> None:
        """Starting what runs is refused, and nothing is left behind."""
        vm = running(session)[0]
        with pytest.raises(errors.VM_BAD_POWER_STATE):
            session.Async.VM.start(vm, False, False).wait()
        assert task_count(pool) == 0

    def test_a_failure_without_an_error(self, pool: MockPool, session: Session) -> None:
        """A task that failed without saying why is a failure still."""
        task = own_task(session)
        end(pool, task, status="failure")
        with pytest.raises(errors.INTERNAL_ERROR, match="the task failed without an error"):
            task.wait()

    def test_a_cancelled_operation(self, pool: MockPool, session: Session) -> None:
        """It raises an error of its own, which names the task and survives pickling."""
        task = own_task(session)
        end(pool, task, 7, status="cancelled")
        task.cancel()
        with pytest.raises(TaskCancelled, match=r"^task VM\.operation was cancelled$") as caught:
            task.wait()
        assert caught.value.ref == task.ref
        assert str(pickle.loads(pickle.dumps(caught.value))) == str(caught.value)  # noqa: S301 - our own
        assert task_count(pool) == 0

    def test_progress_is_told(self, pool: MockPool, session: Session) -> None:
        """The callback gets the progress at each look, and 1 at the end."""
        task = own_task(session)
        end(pool, task, 3, progress=0.25)
        end(pool, task, 8, progress=0.5)
        end(pool, task, 20, status="success")
        seen: list[float] = []
        task.wait(on_progress=seen.append)
        assert seen[0] == 0.0
        assert sorted(set(seen)) == [0.0, 0.25, 0.5, 1.0]
        assert seen == sorted(seen)

    def test_looks_grow_rare(self, pool: MockPool, session: Session, wire: Wire) -> None:
        """An operation of an hour costs the server no call a second."""
        task = own_task(session)
        end(pool, task, 3600, status="success")
        wire.methods.clear()
        task.wait()
        assert wire.methods.count("task.get_status") < 3600 / LONGEST_PAUSE + 10
        assert wire.methods[-2:] == ["task.get_record", "task.destroy"]
        assert set(wire.methods[:-2]) == {"task.get_status"}


class TestTime:
    """Timeouts."""

    def test_a_task_that_takes_too_long_is_kept(self, pool: MockPool, session: Session) -> None:
        """`WaitTimeout` comes when the time is up, not later; the operation goes on and can be waited for again."""
        task = own_task(session, to_ref)
        end(pool, task, 100, status="success", result="<value>OpaqueRef:1</value>")
        begin = pool.clock.now()
        with pytest.raises(
            WaitTimeout, match=r"VM\.operation on http://10\.0\.0\.1: still going on after 33 s of waiting"
        ):
            task.wait(timeout=33)
        assert pool.clock.now() - begin == pytest.approx(33, abs=0.02)
        assert task.status() == "pending"
        assert task.wait(timeout=1000) == "OpaqueRef:1"

    def test_no_time_at_all_is_one_look(self, pool: MockPool, session: Session) -> None:
        """`timeout=0` asks once: what is over gives its outcome, what is not is not waited for."""
        task = own_task(session)
        begin = pool.clock.now()
        with pytest.raises(WaitTimeout):
            task.wait(timeout=0)
        end(pool, task, status="success")
        task.wait(timeout=0)
        assert pool.clock.now() == begin

    def test_an_outcome_before_the_end_is_an_error(self, pool: MockPool, session: Session) -> None:
        """`outcome` does not wait, and drops no task that goes on."""
        task = own_task(session)
        with pytest.raises(RuntimeError, match=r"^VM\.operation on http://10\.0\.0\.1: still going on; wait for it$"):
            task.outcome()
        assert task.status() == "pending"
        end(pool, task, status="success")
        task.outcome()
        assert task_count(pool) == 0


class TestTrouble:
    """What goes wrong with asking says nothing about the operation."""

    UNKNOWN = "its outcome is unknown: look at its object"

    def test_a_master_that_restarts_loses_its_tasks(self, pool: MockPool, session: Session) -> None:
        """The session comes back by itself, the task does not: whether the operation took effect is not known."""
        task = session.Async.VM.clean_shutdown(running(session)[0])
        pool.hands.power_off(pool.master.name)
        pool.hands.power_on(pool.master.name)
        pool.clock.advance(600)
        with pytest.raises(
            ConnectionLost, match=rf"^VM\.clean_shutdown on http://10\.0\.0\.1: .*its task is gone.*{self.UNKNOWN}"
        ):
            task.wait()

    def test_a_master_that_goes_away(self, pool: MockPool, session: Session) -> None:
        """A refused connection while waiting does not mean that nothing was sent."""
        task = session.Async.VM.clean_shutdown(running(session)[0])
        pool.hands.power_off(pool.master.name)
        with pytest.raises(
            ConnectionLost, match=rf"^VM\.clean_shutdown on .*\(task\.get_status on .* refused.*{self.UNKNOWN}"
        ):
            task.wait()

    def test_a_task_that_somebody_dropped(self, pool: MockPool, session: Session) -> None:
        """Its record is gone, and with it the outcome."""
        task = own_task(session)
        end(pool, task, status="success")
        task.destroy()
        with pytest.raises(ConnectionLost, match=self.UNKNOWN):
            task.wait()

    @pytest.mark.parametrize(
        "details", [["HOST_STILL_BOOTING"], ["HANDLE_INVALID", "VM", "OpaqueRef:1"], ["SESSION_INVALID", "x"]]
    )
    def test_a_refusal_to_tell_is_not_the_operations_error(
        self, session: Session, wire: Wire, details: list[str]
    ) -> None:
        """A failure of the question must not be taken for the failure of the operation."""
        task = own_task(session)
        wire.before = lambda method: details if method == "task.get_status" else None
        with pytest.raises(ConnectionLost, match=self.UNKNOWN) as caught:
            task.wait()
        assert details[0] in str(caught.value)
        assert isinstance(caught.value.__cause__, Failure)

    @pytest.mark.parametrize("refused", [True, False])
    def test_a_record_that_cannot_be_dropped_hides_no_outcome(
        self, pool: MockPool, session: Session, wire: Wire, refused: bool
    ) -> None:
        """The result counts for more than a record that the server drops by itself in time."""
        task = own_task(session, to_ref)
        end(pool, task, status="success", result="<value>OpaqueRef:1</value>")

        def trouble(method: str) -> list[str] | None:
            if method != "task.destroy":
                return None
            if refused:
                return ["HANDLE_INVALID", "task", task.ref]
            raise ConnectionLost("broke", method=method)

        wire.before = trouble
        assert task.wait() == "OpaqueRef:1"

    def test_a_task_names_its_operation(self, session: Session) -> None:
        """Its text is for people."""
        task = own_task(session)
        assert repr(task) == f"<Task VM.operation {task.ref}>"


class TestMany:
    """`wait_all`."""

    def test_all_are_waited_for(self, pool: MockPool, session: Session) -> None:
        """Results come in the order of the tasks; what went wrong stands in its place, and the others are waited for."""
        tasks = [own_task(session, to_ref) for _ in range(4)]
        end(pool, tasks[0], 50, status="success", result="<value>a</value>")
        end(pool, tasks[1], 10, status="failure", error_info=["HA_IS_ENABLED"])
        end(pool, tasks[2], 30, status="cancelled")
        end(pool, tasks[3], 20, status="success", result="<value>d</value>")
        begin = pool.clock.now()
        first, failed, cancelled, last = wait_all(tasks)
        assert (first, last) == ("a", "d")
        assert isinstance(failed, errors.HA_IS_ENABLED)
        assert isinstance(cancelled, TaskCancelled)
        assert 50 <= pool.clock.now() - begin <= 50 + LONGEST_PAUSE
        assert task_count(pool) == 0

    def test_they_share_the_time(self, pool: MockPool, session: Session) -> None:
        """The timeout is for all together; what is over by then gives its result, wherever it stands."""
        tasks = [own_task(session, to_ref) for _ in range(3)]
        for task, seconds in zip(tasks, (500, 40, 500), strict=True):
            end(pool, task, seconds, status="success", result="<value>a</value>")
        begin = pool.clock.now()
        slow, done, other = wait_all(tasks, timeout=60)
        assert isinstance(slow, WaitTimeout)
        assert done == "a"
        assert isinstance(other, WaitTimeout)
        assert pool.clock.now() - begin == pytest.approx(60, abs=0.1)
        assert wait_all(tasks[::2]) == ["a", "a"]

    def test_one_that_is_lost_stops_no_other(self, pool: MockPool, session: Session) -> None:
        """Even trouble with asking stands in its place."""
        lost, kept = own_task(session), own_task(session, to_ref)
        end(pool, lost, status="success")
        lost.destroy()
        end(pool, kept, 5, status="success", result="<value>a</value>")
        trouble, result = wait_all([lost, kept])
        assert isinstance(trouble, XenctlError)
        assert result == "a"

    def test_none_at_all(self) -> None:
        """No tasks give no results."""
        assert wait_all([], timeout=1) == []
