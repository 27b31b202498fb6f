"""Tasks: waiting costs simulated time and few calls, outcomes are typed and kept apart from the troubles of asking."""

from __future__ import annotations

import io
import pickle
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from mockserver import MockPool, PoolServer
from xenctl import xmlrpc
from xenctl.api import errors
from xenctl.errors import ConnectionLost, Failure, ProtocolError, TaskCancelled, WaitTimeout
from xenctl.session import Session, connect
from xenctl.tasks import GATHER, LONGEST_CALL, LONGEST_GATHER, LONGEST_PAUSE, Task
from xenctl.transport import Clock, Request, Response, Transport
from xenctl.values import NULL, to_bool, to_int, to_ref, to_string_map, to_strings, to_void

POLLED, TOLD = "4.0.1", "8.2"
"""A release whose tasks are looked at again and again, and one that tells of their changes."""
LOOKS = ("task.get_record", "event.from")
"""The calls by which a task is followed."""


class Wire:
    """A transport that counts calls; what `before` returns for a method is the server's refusal, what it raises, trouble.
    `after` may change what the server answers."""

    def __init__(self, inner: Transport) -> None:
        self._inner = inner
        self.methods: list[str] = []
        self.waits: list[float] = []
        """The seconds that each `event.from` was to wait."""
        self.before: Callable[[str], list[str] | None] = lambda method: None
        self.after: Callable[[str, Any], Any] = lambda method, value: value

    @property
    def clock(self) -> Clock:
        return self._inner.clock

    def send(self, request: Request) -> Response:
        method, params = xmlrpc.loads_call(request.body)
        self.methods.append(method)
        if method == "event.from":
            self.waits.append(params[3])
        refusal = self.before(method)
        if refusal is not None:
            return Response(200, {}, io.BytesIO(xmlrpc.dumps_failure(refusal)))
        answer = self._inner.send(request)
        if method not in LOOKS:
            return answer
        try:
            value = xmlrpc.loads_response(answer.read())
        except Failure as error:
            return Response(200, {}, io.BytesIO(xmlrpc.dumps_failure(error.details)))
        return Response(200, {}, io.BytesIO(xmlrpc.dumps_success(self.after(method, value))))

    def close(self) -> None:
        """Nothing is held."""


class ImpatientWire(Wire):
    """One that says that it waits for an answer for ten seconds."""

    read_timeout = 10.0


@pytest.fixture(params=[POLLED, TOLD])
def pool(request: pytest.FixtureRequest) -> MockPool:
    """A pool of two hosts of either kind; `only` chooses one."""
    return MockPool.create(hosts=2, vms=4, release=request.param)


def only(*releases: str) -> pytest.MarkDecorator:
    """Take pools of these releases."""
    return pytest.mark.parametrize("pool", releases, indirect=True)


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


def halted(session: Session) -> Any:
    """A guest that does not run."""
    records = session.VM.get_all_records()
    return next(ref for ref, vm in records.items() if vm.power_state == "Halted" and not vm.is_a_template)


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


def chatter(pool: MockPool, task: Task[Any], seconds: int) -> None:
    """Let `task` make progress a hundred times a second."""
    for number in range(seconds * 100):
        end(pool, task, number / 100, progress=number / seconds / 100)


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

    def test_an_outcome_that_is_not_told(self, pool: MockPool, session: Session, wire: Wire) -> None:
        """A record without its result is an answer that cannot be read, too."""
        task = own_task(session)
        end(pool, task, status="success")

        def spoil(method: str, answer: Any) -> Any:
            del (answer if method == "task.get_record" else answer["events"][0]["snapshot"])["result"]
            return answer

        wire.after = spoil
        with pytest.raises(ProtocolError, match="outcome cannot be read: the host sent no field 'result'"):
            task.wait()

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

    def test_a_task_that_cannot_be_cancelled_goes_on(self, pool: MockPool, session: Session) -> None:
        """Asking for it is no error, and takes nothing from the outcome."""
        task = own_task(session, to_ref)
        end(pool, task, 7, status="success", result="<value>OpaqueRef:1</value>")
        assert session.task.get_allowed_operations(task.ref) == []
        task.cancel()
        assert task.status() == "pending"
        assert task.wait() == "OpaqueRef:1"

    @only(TOLD)
    def test_an_operation_that_can_be_cancelled_is(self, session: Session) -> None:
        """While it is waited for, too; the guest is as it was."""
        vm = running(session)[0]
        task = session.Async.VM.clean_shutdown(vm)

        def cancel(progress: float) -> None:
            if progress < 1.0:
                task.cancel()

        with pytest.raises(TaskCancelled, match=r"^task VM\.clean_shutdown was cancelled$"):
            task.wait(on_progress=cancel)
        assert session.VM.get_power_state(vm) == "Running"

    def test_an_error_of_the_callback_is_the_callers(self, pool: MockPool, session: Session) -> None:
        """It is not taken for an error of the server, and the task is kept."""
        task = own_task(session)
        end(pool, task, 10, status="success")
        error = ConnectionLost("of a call that the callback made", host=pool.url)

        def fails(progress: float) -> None:
            raise error

        with pytest.raises(ConnectionLost) as caught:
            task.wait(on_progress=fails)
        assert caught.value is error
        task.wait()


class TestCalls:
    """What waiting costs the server."""

    @only("6.5", TOLD)
    def test_the_end_is_known_at_once_by_two_calls(self, pool: MockPool, session: Session, wire: Wire) -> None:
        """One tells how the task is, one comes back with its end; the record is dropped."""
        assert session.api_version >= (2, 3)
        vm = halted(session)
        for start, seconds in (
            (lambda: session.Async.VM.start(vm, False, False), pool.durations.vm_create),
            (lambda: session.Async.VM.clean_shutdown(vm), pool.durations.vm_shutdown),
        ):
            wire.methods.clear()
            begin = pool.clock.now()
            start().wait()
            assert wire.methods[1:] == ["event.from", "event.from", "task.destroy"]
            assert pool.clock.now() - begin == seconds

    @only(POLLED, "6.0", "6.2")
    def test_hosts_whose_events_are_shared_by_a_session_are_not_asked_for_them(
        self, pool: MockPool, session: Session, wire: Wire
    ) -> None:
        """Nor are those that have none; the API version is asked once for a login, which may be to another release."""
        for logins in (1, 2):
            for vm in running(session)[:2]:
                session.Async.VM.clean_reboot(vm).wait()
            pool.clock.advance(120)  # until the guests' agents are back
            assert wire.methods.count("session.get_this_host") == logins
            for row in list(pool.store.table("session").values()):
                pool.store.delete(row)
        assert "event.from" not in wire.methods

    @only(POLLED, TOLD)
    def test_a_long_silence_costs_few_calls(self, pool: MockPool, session: Session, wire: Wire) -> None:
        """An operation of an hour costs the server no call a second."""
        task = own_task(session)
        end(pool, task, 3600, status="success")
        begin = pool.clock.now()
        wire.methods.clear()
        task.wait()
        (look,) = {method for method in wire.methods if method in LOOKS}
        each, late = {"task.get_record": (LONGEST_PAUSE, LONGEST_PAUSE), "event.from": (LONGEST_CALL, GATHER)}[look]
        assert wire.methods.count(look) <= 3600 / each + 10
        assert wire.methods[-2:] == [look, "task.destroy"]
        assert 3600 <= pool.clock.now() - begin <= 3600 + late

    @only(TOLD)
    def test_progress_that_comes_without_a_break_is_gathered(
        self, pool: MockPool, session: Session, wire: Wire
    ) -> None:
        """A hundred changes a second are a call a second; after a silence the end is known at once all the same, although
        xapi writes it field by field."""
        for silence, late in ((0, LONGEST_GATHER), (60, GATHER)):
            task = own_task(session)
            chatter(pool, task, 60)
            end(pool, task, 60 + silence, progress=1.0)
            end(pool, task, 60 + silence + 0.01, status="success")
            begin = pool.clock.now()
            wire.methods.clear()
            task.wait()
            assert wire.methods.count("event.from") <= 60 / LONGEST_GATHER + 10
            assert pool.clock.now() - begin <= 60 + silence + late

    @only(TOLD)
    def test_a_call_waits_less_than_the_transport_does(self, pool: MockPool) -> None:
        """Or each would end in an error; and never longer than half a minute."""
        for kind, longest in ((ImpatientWire, 8.0), (Wire, LONGEST_CALL)):
            wire = kind(pool.transport())
            task = own_task(connect(pool.url, "root", "secret", transport=wire, protocol="xmlrpc"))
            end(pool, task, 100, status="success")
            task.wait()
            assert max(wire.waits) == longest

    def test_two_threads_wait_for_two_tasks_of_one_session(self, pool: MockPool) -> None:
        """Over sockets, each on a connection of its own; neither takes the other's end."""
        with (
            PoolServer(pool) as server,
            connect(server.url, "root", "secret", read_timeout=60.0) as session,
            ThreadPoolExecutor() as threads,
        ):
            one, other = running(session)[:2]
            waits = [
                threads.submit(session.Async.VM.clean_shutdown(one).wait, 300.0),
                threads.submit(session.Async.VM.clean_reboot(other).wait, 300.0),
            ]
            assert [wait.result(timeout=60.0) for wait in waits] == [None, None]
            assert session.VM.get_power_state(one) == "Halted"
            assert session.VM.get_power_state(other) == "Running"
            assert task_count(pool) == 0


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

    def test_a_task_that_makes_progress_is_waited_for_no_longer(self, pool: MockPool, session: Session) -> None:
        """The pauses end with the time too."""
        task = own_task(session)
        chatter(pool, task, 60)
        begin = pool.clock.now()
        with pytest.raises(WaitTimeout):
            task.wait(timeout=33.05)
        assert pool.clock.now() - begin == pytest.approx(33.05, abs=0.02)

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
        with pytest.raises(ConnectionLost, match=rf"^VM\.clean_shutdown on .*\(\S+ on \S+ .* refused.*{self.UNKNOWN}"):
            task.wait()

    @pytest.mark.parametrize("back", [True, False])
    def test_a_master_that_goes_away_meanwhile(self, pool: MockPool, session: Session, back: bool) -> None:
        """Whether it stays away or comes back at once, the outcome is unknown, and nobody waits for it any longer."""
        task = own_task(session)

        def cut() -> None:
            pool.hands.power_off(pool.master.name)
            if back:
                pool.hands.power_on(pool.master.name)

        pool.clock.after(100, cut)
        begin = pool.clock.now()
        with pytest.raises(ConnectionLost, match=rf"^VM\.operation on http://10\.0\.0\.1: .*{self.UNKNOWN}"):
            task.wait()
        assert pool.clock.now() - begin <= 100 + LONGEST_PAUSE

    @pytest.mark.parametrize("kept", [True, False])
    def test_a_session_that_was_forgotten_meanwhile(self, pool: MockPool, session: Session, kept: bool) -> None:
        """The session comes back by itself; a task that is there still is followed to its end. One that is not went with
        what the old events were of, so that no event tells of it."""
        task = own_task(session, to_ref)
        end(pool, task, 200, status="success", result="<value>OpaqueRef:1</value>")

        def forget() -> None:
            for kind in ("session", "task")[: 1 if kept else 2]:
                for row in list(pool.store.table(kind).values()):
                    pool.store.delete(row)
                pool.store.tables[kind].deleted.clear()

        pool.clock.after(100, forget)
        begin = pool.clock.now()
        if kept:
            assert task.wait() == "OpaqueRef:1"
            assert pool.clock.now() - begin == pytest.approx(200, abs=LONGEST_PAUSE)
        else:
            with pytest.raises(ConnectionLost, match=rf"its task is gone.*{self.UNKNOWN}"):
                task.wait()
            assert pool.clock.now() - begin <= 100 + LONGEST_CALL + 2 * LONGEST_GATHER

    def test_a_task_that_somebody_drops_meanwhile(self, pool: MockPool, session: Session) -> None:
        """Its outcome went with it, although the operation may have had its effect."""
        task = own_task(session)
        pool.clock.after(100, lambda: pool.store.delete(pool.store.get("task", task.ref)))
        begin = pool.clock.now()
        with pytest.raises(ConnectionLost, match=rf"its task is gone.*{self.UNKNOWN}"):
            task.wait()
        assert pool.clock.now() - begin == pytest.approx(100, abs=LONGEST_PAUSE)

    @only(TOLD)
    @pytest.mark.parametrize("trouble", ["EVENTS_LOST", "broken"])
    def test_events_that_do_not_come_are_no_reason_to_give_up(
        self, pool: MockPool, session: Session, wire: Wire, trouble: str
    ) -> None:
        """Calls that wait may be cut by whatever is on the way: the task is looked at instead, ever less often."""
        task = own_task(session, to_ref)
        end(pool, task, 100, status="success", result="<value>OpaqueRef:1</value>")

        def fail(method: str) -> list[str] | None:
            if method != "event.from" or not wire.waits[-1]:
                return None
            if trouble == "broken":
                raise ConnectionLost("broke", method=method)
            return [trouble]

        wire.before = fail
        begin = pool.clock.now()
        assert task.wait() == "OpaqueRef:1"
        assert pool.clock.now() - begin == pytest.approx(100, abs=2 * LONGEST_GATHER)
        assert len(wire.waits) <= 110

    def test_a_wait_may_be_interrupted(self, pool: MockPool, session: Session, wire: Wire) -> None:
        """The task is kept, and can be waited for again."""
        task = own_task(session, to_ref)
        end(pool, task, 100, status="success", result="<value>OpaqueRef:1</value>")
        looks = iter([None, KeyboardInterrupt()])

        def interrupt(method: str) -> None:
            error = next(looks, None) if method in LOOKS else None
            if error:
                raise error

        wire.before = interrupt
        with pytest.raises(KeyboardInterrupt):
            task.wait()
        assert task.status() == "pending"
        assert task.wait() == "OpaqueRef:1"

    @pytest.mark.parametrize(
        ("field", "value", "message"),
        [
            ("status", None, "the host sent no field 'status'"),
            ("status", ["a"], "expected"),
            ("progress", "half", "expected a number"),
        ],
    )
    def test_an_answer_that_cannot_be_read_is_not_the_outcome(
        self, session: Session, wire: Wire, field: str, value: Any, message: str
    ) -> None:
        """It names the call, and leaves the task where it is."""
        task = own_task(session)

        def spoil(method: str, answer: Any) -> Any:
            for record in [answer] if method == "task.get_record" else [e["snapshot"] for e in answer["events"]]:
                record[field] = value
                if value is None:
                    del record[field]
            return answer

        wire.after = spoil
        with pytest.raises(
            ConnectionLost, match=rf"the answer is not of its type: .*{message}.*{self.UNKNOWN}"
        ) as caught:
            task.wait()
        assert isinstance(caught.value.__cause__, ProtocolError)
        assert task.status() == "pending"

    @only(TOLD)
    def test_events_of_other_objects_are_passed_over(self, pool: MockPool, session: Session, wire: Wire) -> None:
        """Nobody else's end is taken for one's own."""
        task, other = own_task(session, to_ref), own_task(session)
        end(pool, other, status="failure")
        end(pool, task, 10, status="success", result="<value>OpaqueRef:1</value>")
        foreign = session.call("event.from", ([f"task/{other.ref}"], "", 0.0))["events"]

        def tell(method: str, answer: Any) -> Any:
            return {**answer, "events": [*answer["events"], *foreign]}

        wire.after = tell
        assert task.wait() == "OpaqueRef:1"

    @only(TOLD)
    @pytest.mark.parametrize("left_out", ["events", "token", "operation", "snapshot"])
    def test_events_that_cannot_be_read_are_not_the_outcome(self, session: Session, wire: Wire, left_out: str) -> None:
        """Whatever part of them is missing."""
        task = own_task(session)

        def spoil(method: str, answer: Any) -> Any:
            for part in [answer, *answer["events"]] if method == "event.from" else []:
                part.pop(left_out, None)
            return answer

        wire.after = spoil
        with pytest.raises(ConnectionLost, match=rf"event\.from on .*'{left_out}'.*{self.UNKNOWN}"):
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
        wire.before = lambda method: details if method in LOOKS else None
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
