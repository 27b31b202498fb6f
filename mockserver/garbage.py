"""What the master's garbage collection does every 30 s: tasks, sessions, what is left of hosts that a restored database no
longer has, and the key that says that versions are mixed.

There is no timer behind it, or time would fly whenever nothing else is due. Instead each call first does the pass that has
fallen due; nobody can see the difference. Changes of version set a timer of their own, so that who waits for events hears.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from typing import TYPE_CHECKING

from xenctl.datamodel import Order
from xenctl.releases import find
from xenctl.values import parse_datetime

from . import licence, repositories
from .directory import subjects_of
from .store import NULL

if TYPE_CHECKING:
    from .machine.host import HostMachine
    from .pool import MockPool
    from .startup import Xapi
    from .store import Row

COMPLETED = ("success", "failure", "cancelled")
TASK_KEPT = 3900.0
"""Seconds that a completed task is kept."""
TASK_PENDING = 86400.0
"""Seconds after which a task that does not get on is dropped."""
TASKS = 200
"""Tasks beyond which as many completed ones are dropped, the oldest first."""
PROGRESS_COUNTS_SINCE = find("6.1.0").order
"""The first release in which a task that gets on may take longer than a day."""
SESSION_KEPT = 86400.0
"""Seconds that a session lives without a call."""
SESSIONS: tuple[tuple[Order, Mapping[str, int]], ...] = (
    (find("6.5.0").order, {"pool": 400, "external": 400, "originator": 500, "user": 500}),
    (find("6.2.0").order, {"pool": 400, "external": 400, "originator": 50, "user": 50}),
    (find("5.6.0").order, {"pool": 400, "external": 400}),
    (find("4.0.1").order, {"all": 200}),
)
"""Since when, newest first, which kinds of sessions are told apart, and of how many the longest unused are dropped."""
VALIDATED = 2100.0
"""Seconds after which it is looked up again whether a user of the directory may be logged in. In the product it is half an
hour and up to ten minutes by chance."""
OWNED = ("PBD", "PIF", "host_cpu", "host_crashdump", "host_patch", "PCI", "PGPU")
"""The classes whose objects are a host's, by their field `host`."""


@lru_cache(maxsize=1024)
def seconds(stamp: str) -> float:
    """A date of the database as seconds since the epoch."""
    return parse_datetime(stamp).timestamp()


def collect_if_due(pool: MockPool, machine: HostMachine) -> None:
    """Do the pass that is due on `machine`, if it is the master."""
    xapi, now = machine.xapi, pool.clock.now()
    if xapi.mode == "master" and now >= xapi.collect_at:
        period = pool.durations.garbage_collection
        last, xapi.collect_at = xapi.collect_at - period, now + period
        _tasks(pool, now, _hung(pool, xapi, now, last))
        if xapi.orphans:
            xapi.orphans = False
            _orphans(pool)
        _sessions(pool, now)
        _revalidate(pool, machine, now)
        pool.detect_rolling_upgrade()
        licence.lapse(pool)
        repositories.sync_if_due(pool, xapi, now)


def _orphans(pool: MockPool) -> None:
    """Drop what was a host's own whose row is gone: a dump that was restored has it."""
    store = pool.store
    for table in OWNED:
        for row in [row for row in store.table(table).values() if store.find("host", row["host"]) is None]:
            store.delete(row)
    known = {host["metrics"] for host in store.table("host").values()}
    for row in [row for row in store.table("host_metrics").values() if row.ref not in known]:
        store.delete(row)


def _hung(pool: MockPool, xapi: Xapi, now: float, last: float) -> set[str]:
    """The tasks that are pending for a day, and have not got on since the pass before. One that a pass sees for the first
    time has; where passes since the `last` one were left out, as nobody called, those would have seen it."""
    period, seen, out = pool.durations.garbage_collection, dict[str, float](), set[str]()
    for ref, row in pool.store.table("task").items():
        due = 0.0 if row["status"] in COMPLETED else seconds(row["created"]) + TASK_PENDING
        if not due or now <= due:
            continue
        if pool.store.release.order < PROGRESS_COUNTS_SINCE:
            out.add(ref)
            continue
        span, before = pool.spans.get(ref), xapi.sighted.get(ref)
        seen[ref] = row["progress"]
        if span is not None and span.share(now) > span.share(now - period):
            continue
        if row["progress"] <= before if before is not None else now - max(due, last) > period:
            out.add(ref)
    if seen or xapi.sighted:
        xapi.sighted = seen
    return out


def _tasks(pool: MockPool, now: float, hung: set[str]) -> None:
    rows = list(pool.store.table("task").values())
    completed = [row for row in rows if row["status"] in COMPLETED]
    for row in rows:
        if row["status"] in COMPLETED:
            dropped = "destroy" in row["current_operations"].values() or now - seconds(row["finished"]) > TASK_KEPT
        else:
            dropped = row.ref in hung
        if dropped:
            pool.store.delete(row)
    beyond = len(pool.store.table("task")) - TASKS
    if beyond > 0:
        left = [row for row in completed if row.ref in pool.store.table("task")]
        for row in sorted(left, key=lambda row: str(row["finished"]))[:beyond]:
            pool.store.delete(row)


def _sessions(pool: MockPool, now: float) -> None:
    """Drop the sessions that nobody used for a day, and where there are too many of a kind the longest unused. One with a
    task that goes on, or whose parent has one, stays."""
    tasks = pool.store.table("task").values()
    busy = {task["session"] for task in tasks if task["status"] not in COMPLETED}
    groups: dict[tuple[str, str], list[Row]] = {}
    limits = next(limits for since, limits in SESSIONS if since <= pool.store.release.order)
    for row in list(pool.store.table("session").values()):
        if _at_work(pool, row, busy):
            continue
        if now - seconds(row["last_active"]) > SESSION_KEPT:
            pool.store.delete(row)
        else:
            groups.setdefault(_group(row, limits), []).append(row)
    for (kind, _), rows in groups.items():
        if len(rows) > limits[kind]:
            rows.sort(key=lambda row: (str(row["last_active"]), row.created), reverse=True)
            for row in rows[limits[kind] :]:
                pool.store.delete(row)


def _revalidate(pool: MockPool, machine: HostMachine, now: float) -> None:
    """End the sessions of users that the directory or the pool does not let in any more, or whose directory the master has
    left. Sessions that look at a database from a file are nobody's."""
    master = pool.host_row(machine)
    for row in list(pool.store.table("session").values()):
        if row.get("is_local_superuser", True) or row.get("client_certificate", False) or row.ref in pool.views:
            continue
        if master is None or not master["external_auth_type"]:
            pool.store.delete(row)
        elif now - seconds(row["validation_time"]) > VALIDATED:
            account = pool.directory.by_sid(row["auth_user_sid"])
            subjects = [] if account is None or account.suspended else subjects_of(pool.store, account)
            if subjects:
                pool.store.write(row, validation_time=pool.clock.stamp(), subject=subjects[0])
            else:
                pool.store.delete(row)


def _at_work(pool: MockPool, row: Row | None, busy: set[str]) -> bool:
    while row is not None:
        if row.ref in busy:
            return True
        row = pool.store.find("session", row.get("parent", NULL))
    return False


def _group(row: Row, limits: Mapping[str, int]) -> tuple[str, str]:
    """The sessions with which one is counted where these kinds are told apart."""
    if "all" in limits:
        return "all", ""
    if row["pool"]:
        return "pool", ""
    if "user" not in limits:
        return "external", ""
    if row["auth_user_name"] not in ("", "root"):
        return "user", row["auth_user_name"]
    return ("originator", row["originator"]) if row["originator"] else ("external", "")
