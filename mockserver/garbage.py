"""What the master's garbage collection does every 30 s: tasks, sessions, and the key that says that versions are mixed.

There is no timer behind it, or time would fly whenever nothing else is due. Instead each call first does the pass that has
fallen due; nobody can see the difference. Changes of version set a timer of their own, so that who waits for events hears.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from xenctl.values import parse_datetime

from . import licence, repositories

if TYPE_CHECKING:
    from .machine.host import HostMachine
    from .pool import MockPool

COMPLETED = ("success", "failure", "cancelled")
TASK_KEPT = 3900.0
"""Seconds that a completed task is kept."""
TASK_PENDING = 86400.0
"""Seconds after which a task that does not end is dropped."""
TASKS = 200
"""Tasks beyond which completed ones are dropped, the oldest first."""
SESSION_KEPT = 86400.0
"""Seconds that a session lives without a call."""


def seconds(stamp: str) -> float:
    """A date of the database as seconds since the epoch."""
    return parse_datetime(stamp).timestamp()


def collect_if_due(pool: MockPool, machine: HostMachine) -> None:
    """Do the pass that is due on `machine`, if it is the master."""
    xapi, now = machine.xapi, pool.clock.now()
    if xapi.mode == "master" and now >= xapi.collect_at:
        xapi.collect_at = now + pool.durations.garbage_collection
        _tasks(pool, now)
        _sessions(pool, now)
        pool.detect_rolling_upgrade()
        licence.lapse(pool)
        repositories.sync_if_due(pool, xapi, now)


def _tasks(pool: MockPool, now: float) -> None:
    rows = list(pool.store.table("task").values())
    completed = [row for row in rows if row["status"] in COMPLETED]
    for row in rows:
        if row["status"] in COMPLETED:
            dropped = "destroy" in row["current_operations"].values() or now - seconds(row["finished"]) > TASK_KEPT
        else:
            dropped = now - seconds(row["created"]) > TASK_PENDING
        if dropped:
            pool.store.delete(row)
    if len(pool.store.table("task")) > TASKS:
        left = sorted(
            (row for row in completed if row.ref in pool.store.table("task")), key=lambda r: str(r["finished"])
        )
        keep = max(0, TASKS - len(left))
        for row in left[: len(left) - keep]:
            pool.store.delete(row)


def _sessions(pool: MockPool, now: float) -> None:
    for row in list(pool.store.table("session").values()):
        if now - seconds(row["last_active"]) > SESSION_KEPT and not _at_work(pool, row.ref):
            pool.store.delete(row)


def _at_work(pool: MockPool, session: str) -> bool:
    tasks = pool.store.table("task").values()
    return any(task["session"] == session and task["status"] not in COMPLETED for task in tasks)
