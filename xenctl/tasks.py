"""Tasks: the server's record of an operation that runs on its own, and how to wait for it.

A task belongs to the client that started it: the server keeps it until it is destroyed, so `wait` destroys it once its
outcome is known. Tasks live in the master's memory: a master that restarts has forgotten them, and what became of the
operation is then told by its object alone. All waiting is on the transport's clock.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Any, Generic, Protocol, TypeVar

from . import xmlrpc
from .errors import ConnectionLost, Failure, ProtocolError, TaskCancelled, TransportError, WaitTimeout, XenctlError
from .values import Ref, to_float, to_record, to_string, to_void

if TYPE_CHECKING:
    from .transport import Clock

T = TypeVar("T")
R = TypeVar("R")

log = logging.getLogger(__name__)

FIRST_PAUSE, LONGEST_PAUSE, GROWTH = 0.5, 5.0, 1.5
"""Seconds between two looks at a pending task: the first, the longest, and the factor from one to the next."""
RUNNING = ("pending", "cancelling")
"""The statuses of a task that is not over."""


class TaskOwner(Protocol):
    """What a task needs of its session."""

    @property
    def clock(self) -> Clock: ...
    @property
    def origin(self) -> str: ...
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

    def __repr__(self) -> str:
        return f"<Task {self.label} {self.ref}>"

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
        restarted, so that the outcome is unknown.
        """
        clock = self._owner.clock
        deadline = None if timeout is None else clock.now() + timeout
        pause = FIRST_PAUSE
        while self._look("task.get_status", to_string) in RUNNING:
            if on_progress is not None:
                on_progress(self._look("task.get_progress", to_float))
            if deadline is not None and clock.now() >= deadline:
                raise WaitTimeout(
                    f"still going on after {timeout:g} s of waiting; the task is kept: wait for it again, or cancel it",
                    host=self._owner.origin,
                    method=self.label,
                )
            clock.sleep(pause if deadline is None else min(pause, max(0.01, deadline - clock.now())))
            pause = min(pause * GROWTH, LONGEST_PAUSE)
        if on_progress is not None:
            on_progress(1.0)
        return self.outcome()

    def outcome(self) -> T:
        """The result of a task that is over, or its error raised; the server's record is dropped.

        Raises `RuntimeError` for a task that goes on, and what `wait` does.
        """
        record = self._look("task.get_record", to_record("task"))
        if record.status in RUNNING:
            raise RuntimeError(f"{self.label} on {self._owner.origin}: still going on; wait for it")
        try:
            return self._result(record.status, record.error_info, record.result)
        except ValueError as error:
            raise ProtocolError(
                f"the task's outcome cannot be read: {error}", host=self._owner.origin, method=self.label
            ) from error
        finally:
            self._tidy()

    def _result(self, status: str, error_info: list[str], result: str) -> T:
        if status == "success":
            return self._convert(xmlrpc.loads_value(result))
        if status == "cancelled":
            raise TaskCancelled(self.ref, self.label)
        if status == "failure":
            raise self._owner.failure(error_info or ["INTERNAL_ERROR", "the task failed without an error"])
        raise ValueError(f"its status is {status!r}")

    def _look(self, method: str, convert: Callable[[Any], R]) -> R:
        """Ask about the task. What goes wrong with that says nothing about the operation, and must not look so."""
        try:
            return self._owner.call(method, (self.ref,), convert)
        except (Failure, TransportError) as error:
            gone = isinstance(error, Failure) and error.details == ["HANDLE_INVALID", "task", self.ref]
            reason = "its task is gone: the master has restarted since, or somebody dropped it" if gone else str(error)
            raise ConnectionLost(
                f"the operation cannot be followed any more ({reason}); its outcome is unknown: look at its object",
                host=self._owner.origin,
                method=self.label,
            ) from error

    def _tidy(self) -> None:
        """Drop the record; the outcome is known, and counts for more than a record that the server drops in time."""
        try:
            self.destroy()
        except XenctlError as error:
            log.debug("%s: its task could not be dropped: %s", self.label, error)


def wait_all(tasks: Iterable[Task[T]], timeout: float | None = None) -> list[T | XenctlError]:
    """Wait for every task and return their results in order.

    An operation that failed, was cancelled, was lost sight of or still goes on after `timeout` seconds, which all of them
    share, gives its error in its place.
    """
    out: list[T | XenctlError] = []
    deadline: float | None = None
    for task in tasks:
        left = None
        if timeout is not None:
            now = task._owner.clock.now()
            deadline = now + timeout if deadline is None else deadline
            left = max(0.0, deadline - now)
        try:
            out.append(task.wait(left))
        except XenctlError as error:
            out.append(error)
    return out


__all__ = ["Task", "TaskOwner", "wait_all"]
