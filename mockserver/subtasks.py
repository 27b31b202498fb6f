"""Calls that xapi makes to itself: each is a task of its own, a part of the call's task."""

from __future__ import annotations

from collections.abc import Generator, Iterable
from typing import TYPE_CHECKING, Any

from xenctl import datamodel
from xenctl.errors import Failure

from .call import Call, Wait

if TYPE_CHECKING:
    from .machine.host import HostMachine
    from .pool import MockPool
    from .store import Row, Store

PATIENCE = 86400.0
"""Simulated seconds for which a call waits for its parts."""

Outcomes = Generator["float | Wait", None, "list[Failure]"]


def start(call: Call, method: str, *args: Any) -> str:
    """Begin `method` as a part of `call`, with all its arguments; returns the part's task."""
    part = _part(call.pool, call.machine, method, args, call.caller, call.session)
    if call.task:
        call.db.write(call.db.get("task", part.task), subtask_of=call.task)
    call.pool.spawn(part, call.pool.verb(part.message))
    return part.task


def start_alone(pool: MockPool, method: str, *args: Any) -> str:
    """Begin `method` on the master, which nobody asked for; returns its task."""
    part = _part(pool, pool.master, method, args)
    pool.spawn(part, pool.verb(part.message))
    return part.task


def _part(
    pool: MockPool,
    machine: HostMachine,
    method: str,
    args: tuple[Any, ...],
    caller: str = "",
    session: Row | None = None,
) -> Call:
    class_name, name = method.split(".")
    message = datamodel.load().classes[class_name].messages[name]
    part = Call(pool, machine, message, method, args, caller, session, is_async=True, inner=True)
    part.task = pool.make_task(part)
    return part


def over(store: Store, task: str) -> bool:
    """Whether a part is over."""
    row = store.find("task", task)
    return row is None or row["status"] != "pending"


def wait(call: Call, tasks: Iterable[str]) -> Outcomes:
    """Wait until all parts are over, and drop their tasks; returns the errors of those that failed."""
    parts, errors = list(tasks), []
    if not all(over(call.db, task) for task in parts):
        until = call.clock.now() + PATIENCE
        yield Wait(until, lambda: all(over(call.db, task) for task in parts), idle=False)
    for row in [row for row in (call.db.find("task", task) for task in parts) if row is not None]:
        if row["status"] != "success":
            errors.append(Failure(row["error_info"] or ["TASK_CANCELLED", row.ref]))
        call.db.delete(row)
    return errors


def run(call: Call, method: str, *args: Any) -> Generator[float | Wait, None, None]:
    """Do `method` as a part of `call`, and raise its error."""
    for error in (yield from wait(call, [start(call, method, *args)])):
        raise error
