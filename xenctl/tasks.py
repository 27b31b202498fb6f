"""Tasks: the server's record of an operation that runs on its own, and how to wait for it.

A task belongs to the client that started it: the server keeps it until it is destroyed, so `wait` destroys it once its
outcome is known. Tasks live in the master's memory: a master that restarts has forgotten them, and what became of the
operation is then told by its object alone.

Hosts from 6.5 on are asked to tell when the task changes (`event.from`): the call waits at the server, so the end is known
at once, and a task that is silent for long costs a call in half a minute. Before 6.0 there is no such call, and up to 6.2
two of them in one session take each other's events; there the task is looked at again and again, ever less often. All
waiting is on the transport's clock. Many tasks are waited for by one subscription, with `xenctl.events.wait_all`.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import contextmanager
from math import inf
from typing import TYPE_CHECKING, Any, Generic, Protocol, TypeVar

from . import xmlrpc
from .errors import ConnectionLost, Failure, ProtocolError, TaskCancelled, TransportError, WaitTimeout, XenctlError
from .values import Ref, to_record, to_string, to_void

if TYPE_CHECKING:
    from .api.event import EventBatch
    from .api.types import task as task_record
    from .transport import Clock

T = TypeVar("T")
R = TypeVar("R")

log = logging.getLogger(__name__)

FIRST_PAUSE, LONGEST_PAUSE, GROWTH = 0.5, 5.0, 1.5
"""Seconds between two looks at a pending task: the first, the longest, and the factor from one to the next."""
GATHER, LONGEST_GATHER = 0.1, 1.0
"""Seconds in which more may change before events are asked for again: at first, and where they come without a break."""
LONGEST_CALL = 30.0
"""Seconds that one call waits for events at the server, at the most."""
SHARE = 0.8
"""How much of the time that the transport waits for an answer a call may spend at the server."""
SEPARATE_EVENTS = (2, 3)
"""The API version, that of 6.5, from which on calls of one session do not take each other's events."""
RUNNING = ("pending", "cancelling")
"""The statuses of a task that is not over."""
GONE = "its task is gone: the master has restarted since, or somebody dropped it"
"""Why a task that the server does not know cannot be followed."""


class TaskOwner(Protocol):
    """What a task needs of its session."""

    @property
    def clock(self) -> Clock: ...
    @property
    def origin(self) -> str: ...
    @property
    def ref(self) -> str | None: ...
    @property
    def api_version(self) -> tuple[int, int]: ...
    @property
    def read_timeout(self) -> float: ...
    def call(self, method: str, args: Sequence[Any], convert: Callable[[Any], R], /) -> R: ...
    def failure(self, details: Sequence[str], /) -> Failure: ...


class Task(Generic[T]):
    """An operation that the server runs; `T` is the type of its result.

    `ref` is the task's reference, `label` the method that was called.
    """

    def __init__(self, owner: TaskOwner, ref: str, label: str, convert: Callable[[Any], T]) -> None:
        self.ref: Ref[Any] = Ref(ref)
        self.label = label
        self._owner = owner
        self._convert = convert
        self._ended: task_record | None = None
        """The record with which the operation ended; the server has dropped it then."""

    def __repr__(self) -> str:
        return f"<Task {self.label} {self.ref}>"

    @property
    def told(self) -> bool:
        """Whether the outcome was told already: `wait` and `outcome` tell it again, and ask nobody."""
        return self._ended is not None

    def status(self) -> str:
        """`pending`, `success`, `failure`, `cancelling` or `cancelled`, asked of the server now."""
        return self._owner.call("task.get_status", (self.ref,), to_string)

    def cancel(self) -> None:
        """Ask the server to cancel; a task that cannot be cancelled goes on without an error, as in XenAPI."""
        self._owner.call("task.cancel", (self.ref,), to_void)

    def destroy(self) -> None:
        """Drop the server's record of this task. `wait` does so by itself."""
        self._owner.call("task.destroy", (self.ref,), to_void)

    def wait(self, timeout: float | None = None, on_progress: Callable[[float], None] | None = None) -> T:
        """Wait until the operation is over and return its result.

        `timeout` is in seconds of the transport's clock; `on_progress` is given the progress, 0 to 1, at each look and
        at the end. Raises the operation's own `Failure`; `TaskCancelled`; `WaitTimeout` while it goes on (the task is
        kept: wait again, or cancel it); `ConnectionLost` where it cannot be followed any more, its host being away or
        restarted, so that the outcome is unknown. Waiting for an operation that has ended tells its outcome again.
        """
        record = self._followed(timeout, on_progress) if self._ended is None else self._ended
        if on_progress is not None:
            on_progress(1.0)
        return self.outcome(record)

    def _followed(self, timeout: float | None, on_progress: Callable[[float], None] | None) -> task_record:
        """The task's record once it is over."""
        clock = self._owner.clock
        deadline = inf if timeout is None else clock.now() + timeout
        with self._following():
            told = self._owner.api_version >= SEPARATE_EVENTS
        looks = self._told(deadline) if told else self._polled(deadline)
        while (record := next(looks)).status in RUNNING:
            if on_progress is not None:
                on_progress(record.progress)
            if timeout is not None and clock.now() >= deadline:
                raise self.unfinished(timeout)
        return record

    def outcome(self, record: task_record | None = None) -> T:
        """The result of a task that is over, or its error raised; the server's record is dropped.

        `record` is what is known of the task, from an event say; without it the server is asked. Raises `RuntimeError`
        for a task that goes on, and what `wait` does.
        """
        known = self._ended
        if known is None:
            known = self._look() if record is None else record
        if known.status in RUNNING:
            raise RuntimeError(f"{self.label} on {self._owner.origin}: still going on; wait for it")
        try:
            return self._result(known.status, known.error_info, known.result)
        except (ValueError, AttributeError) as error:
            raise ProtocolError(
                f"the task's outcome cannot be read: {error}", host=self._owner.origin, method=self.label
            ) from error
        finally:
            if self._ended is None:
                self._ended = known
                self._tidy()

    def lost(self, reason: str = GONE, cause: BaseException | None = None) -> ConnectionLost:
        """The error for a task that cannot be followed any more, so that its outcome is unknown."""
        error = ConnectionLost(
            f"the operation cannot be followed any more ({reason}); its outcome is unknown: look at its object",
            host=self._owner.origin,
            method=self.label,
        )
        error.__cause__ = cause
        return error

    def unfinished(self, timeout: float) -> WaitTimeout:
        """The error for a task that still goes on after `timeout` seconds of waiting."""
        return WaitTimeout(
            f"still going on after {timeout:g} s of waiting; the task is kept: wait for it again, or cancel it",
            host=self._owner.origin,
            method=self.label,
        )

    def _result(self, status: str, error_info: list[str], result: str) -> T:
        if status == "success":
            return self._convert(xmlrpc.loads_value(result))
        if status == "cancelled":
            raise TaskCancelled(self.ref, self.label)
        if status == "failure":
            raise self._owner.failure(error_info or ["INTERNAL_ERROR", "the task failed without an error"])
        raise ValueError(f"its status is {status!r}")

    def _polled(self, deadline: float) -> Iterator[task_record]:
        """The task as it is, again and again."""
        clock = self._owner.clock
        pause = FIRST_PAUSE
        while True:
            yield self._look()
            clock.sleep(min(pause, max(0.01, deadline - clock.now())))
            pause = min(pause * GROWTH, LONGEST_PAUSE)

    def _told(self, deadline: float) -> Iterator[task_record]:
        """The task as it is, whenever something about it changed, and when nothing did for long.

        A call without a token is answered at once, and a task that is not in the answer is gone. A token means something to
        one run of the master only, so it is dropped with the session; and after a call that failed, since whether only the
        listening failed is told by the next one.
        """
        owner, clock = self._owner, self._owner.clock
        token, session, pause = "", owner.ref, GATHER
        known: list[task_record] = []
        while True:
            left = max(0.0, deadline - clock.now())
            seconds = min(LONGEST_CALL, SHARE * owner.read_timeout, left) if token else 0.0
            asked, after = clock.now(), ""
            try:
                with self._following():
                    after, gone, records = owner.call("event.from", ([f"task/{self.ref}"], token, seconds), self._news)
            except ConnectionLost as error:
                if not token:
                    raise
                log.info("%s: looking at its task, since its events do not come: %s", self.label, error.__cause__)
            else:
                known = records or known
                if gone or not (records or token):
                    raise self.lost()
                yield known[-1]
            pause = min(pause * GROWTH, LONGEST_GATHER) if clock.now() - asked < pause else GATHER
            clock.sleep(min(pause, max(0.0, deadline - clock.now())))
            token, session = after if owner.ref == session else "", owner.ref

    def _news(self, value: Any) -> tuple[str, bool, list[task_record]]:
        """What an `event_batch` tells of the task: the next token, whether it was deleted, and its records."""
        batch: EventBatch = _to_batch(value)
        try:
            own = [event for event in batch.events if event.ref == self.ref]
            gone = any(event.operation == "del" for event in own)
            return batch.token, gone, [] if gone else [_to_task(event.snapshot) for event in own]
        except AttributeError as error:
            raise ValueError(str(error)) from error

    def _look(self) -> task_record:
        with self._following():
            return self._owner.call("task.get_record", (self.ref,), _to_task)

    @contextmanager
    def _following(self) -> Generator[None, None, None]:
        """What goes wrong with asking about a task says nothing about the operation, and must not look so."""
        try:
            yield
        except (Failure, TransportError) as error:
            gone = isinstance(error, Failure) and error.details == ["HANDLE_INVALID", "task", self.ref]
            raise self.lost(GONE if gone else str(error), error) from error

    def _tidy(self) -> None:
        """Drop the record; the outcome is known, and counts for more than a record that the server drops in time."""
        try:
            self.destroy()
        except XenctlError as error:
            log.debug("%s: its task could not be dropped: %s", self.label, error)


_to_batch = to_record("EventBatch", "event")
_to_record = to_record("task")


def _to_task(value: Any) -> task_record:
    """A task's record whose status and progress can be read. Raises `ValueError`."""
    record: task_record = _to_record(value)
    try:
        _ = record.status, record.progress
    except AttributeError as error:
        raise ValueError(str(error)) from error
    return record


__all__ = ["Task", "TaskOwner"]
