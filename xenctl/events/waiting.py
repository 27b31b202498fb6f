"""Waiting for many tasks by events: one subscription for all, and a call when something changes."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable, Mapping
from contextlib import closing
from math import inf
from typing import Any, TypeVar

from ..api.task import task as task_record
from ..errors import Failure, TransportError, XenctlError
from ..session import Session
from ..tasks import RUNNING, Task
from ..values import Ref
from .cache import PoolCache

T = TypeVar("T")

GATHER = 0.2
"""Seconds between two looks, in which more tasks may end."""


def wait_all(
    session: Session,
    tasks: Iterable[Task[T]],
    timeout: float | None = None,
    on_progress: Callable[[Task[T], float], None] | None = None,
) -> list[T | XenctlError]:
    """Wait for every task by one subscription to events, and return their results in order.

    An operation that failed, was cancelled, was lost sight of or still goes on after `timeout` seconds gives its error in
    its place, as `Task.wait` raises it. Tasks that are over are destroyed. `on_progress` is given a task and its
    progress, 0 to 1, each time that changes, and 1 at the end. Waits while the master is away; no task outlives its restart.
    """
    order = list(tasks)
    waiting = {task.ref: task for task in order}
    ended: dict[str, T | XenctlError] = {}
    patience = inf if timeout is None else timeout
    deadline = session.clock.now() + patience
    progress = _Progress(on_progress)
    trouble: XenctlError | None = None
    with closing(_looks(session, [f"task/{ref}" for ref in waiting], deadline)) as looks:
        while waiting:
            try:
                records = next(looks, None)
            except (Failure, TransportError) as error:
                trouble = error
                break
            if records is None:
                break
            for ref, task in list(waiting.items()):
                if end := _end(task, records.get(ref), progress):
                    (ended[ref],) = end
                    del waiting[ref]
    for ref, task in waiting.items():
        ended[ref] = task.lost(str(trouble), trouble) if trouble else task.unfinished(patience)
    return [ended[task.ref] for task in order]


def _looks(
    session: Session, subscriptions: list[str], deadline: float
) -> Generator[Mapping[Ref[task_record], task_record], None, None]:
    """The tasks as they are, each time something about them changed, until `deadline`."""
    clock = session.clock
    with PoolCache(session, subscriptions) as cache:
        yield cache.of(task_record)
        while (left := deadline - clock.now()) > 0:
            clock.sleep(min(GATHER, left))
            cache.update(max(0.0, deadline - clock.now()))
            yield cache.of(task_record)


class _Progress:
    """Tells progress when it changes."""

    def __init__(self, tell: Callable[[Any, float], None] | None) -> None:
        self._tell = tell
        self._told: dict[str, float] = {}

    def show(self, task: Task[Any], progress: float) -> None:
        if self._tell is not None and self._told.get(task.ref) != progress:
            self._told[task.ref] = progress
            self._tell(task, progress)


def _end(task: Task[T], record: task_record | None, progress: _Progress) -> list[T | XenctlError]:
    """What a task ended with, its result or its error; nothing while it goes on. None is a record that is gone."""
    if task.told:
        return _outcome(task, None)
    if record is None:
        return [task.lost()]
    try:
        done = record.progress if record.status in RUNNING else None
    except (ValueError, AttributeError) as error:
        return [task.lost(f"its record cannot be read: {error}", error)]
    progress.show(task, 1.0 if done is None else done)
    return _outcome(task, record) if done is None else []


def _outcome(task: Task[T], record: task_record | None) -> list[T | XenctlError]:
    try:
        return [task.outcome(record)]
    except XenctlError as error:
        return [error]
