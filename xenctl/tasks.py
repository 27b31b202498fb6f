"""Tasks: the server's record of an operation that runs on its own, and how to wait for it.

A task belongs to the client that started it: the server keeps it until it is destroyed, so `wait` destroys it once its
outcome is known. All waiting is on the transport's clock.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Any, Generic, Protocol, TypeVar

from . import xmlrpc
from .errors import Failure, ProtocolError, TaskCancelled, WaitTimeout, failure
from .values import Ref, to_record, to_string, to_void

if TYPE_CHECKING:
    from .transport import Clock

T = TypeVar("T")
R = TypeVar("R")

FIRST_PAUSE, LONGEST_PAUSE, GROWTH = 0.5, 5.0, 1.5
"""Seconds between two looks at a pending task: the first, the longest, and the factor from one to the next."""


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

        `timeout` is in seconds of the transport's clock; `on_progress` is given the progress, 0 to 1, at each look.
        Raises the operation's `Failure`, `TaskCancelled`, or `WaitTimeout` (the operation goes on, and the task is kept).
        """
        clock = self._owner.clock
        deadline = None if timeout is None else clock.now() + timeout
        pause = FIRST_PAUSE
        while self.status() in ("pending", "cancelling"):
            if on_progress is not None:
                on_progress(float(self._owner.call("task.get_progress", (self.ref,), float)))
            if deadline is not None and clock.now() >= deadline:
                raise WaitTimeout(f"{self.label} is still going on after {timeout:g} s", host=self._owner.origin)
            clock.sleep(pause if deadline is None else min(pause, max(0.01, deadline - clock.now())))
            pause = min(pause * GROWTH, LONGEST_PAUSE)
        return self.outcome()

    def outcome(self) -> T:
        """The result of a task that is over, or its error raised; the server's record is dropped."""
        record = self._owner.call("task.get_record", (self.ref,), to_record("task"))
        self.destroy()
        if record.status == "cancelled":
            raise TaskCancelled(self.ref, self.label)
        if record.status == "failure":
            raise self._owner.failure(record.error_info or ["INTERNAL_ERROR", "the task failed without an error"])
        try:
            return self._convert(xmlrpc.loads_value(record.result))
        except ValueError as error:
            raise ProtocolError(
                f"the task's result is not what {self.label} returns: {error}", host=self._owner.origin
            ) from error


def wait_all(tasks: Iterable[Task[T]], timeout: float | None = None) -> list[T | Failure | TaskCancelled]:
    """Wait for every task and return their results in order; an operation that failed gives its error in its place."""
    out: list[T | Failure | TaskCancelled] = []
    for task in tasks:
        try:
            out.append(task.wait(timeout))
        except (Failure, TaskCancelled) as error:
            out.append(error)
    return out


__all__ = ["Task", "TaskOwner", "failure", "wait_all"]
