"""Messages: what xapi and clients tell operators about objects."""

from __future__ import annotations

from typing import Any

from xenctl.datamodel import load
from xenctl.values import Timestamp, parse_datetime

from ..call import Call, refuse
from ..rules import CREAM
from ..store import Row
from . import verbs_of
from .generic import parse_query

verb = verbs_of("message")

QUERIES_SINCE = load().order("25.16.0")
TABLES = {"Host": "host", "Pool": "pool"}
"""The tables of the classes that messages spell in another way."""


def _exists(call: Call, cls: str, uuid: str) -> bool:
    found = call.db.by_uuid.get(uuid)
    return found is not None and found[0] == TABLES.get(cls, cls)


def _records(call: Call, rows: list[Row]) -> dict[str, dict[str, Any]]:
    return {row.ref: call.db.record(row) for row in rows}


# --- made and dropped


@verb("*")
def create(call: Call, name: str, priority: int, cls: str, obj_uuid: str, body: str) -> str:
    if not _exists(call, cls, obj_uuid):
        raise refuse("UUID_INVALID", cls, obj_uuid)
    fields = {
        "uuid": call.pool.new_uuid(),
        "name": name,
        "priority": priority,
        "cls": cls,
        "obj_uuid": obj_uuid,
        "timestamp": call.clock.stamp(),
        "body": body,
    }
    return call.pool.messages.add(call.db, call.pool.new_ref(), fields).ref


@verb("*")
def destroy(call: Call, ref: str) -> str:
    call.pool.messages.drop(call.db, call.pool.messages.get(ref))
    return ""


@verb("*")
def destroy_many(call: Call, messages: list[str]) -> str:
    """One after another: those before a reference that is wrong are gone."""
    for ref in messages:
        destroy(call, ref)
    return ""


@verb("*")
def destroy_all(call: Call, filters: dict[str, str]) -> str:
    """All messages `before` and `after` a time and of a `priority`, as far as these are given."""
    for row in [row for row in call.pool.messages.newest_first() if _passes(row, filters)]:
        call.pool.messages.drop(call.db, row)
    return ""


def _passes(row: Row, filters: dict[str, str]) -> bool:
    at = parse_datetime(row["timestamp"])
    try:
        return (
            ("before" not in filters or at < parse_datetime(filters["before"]))
            and ("after" not in filters or at > parse_datetime(filters["after"]))
            and ("priority" not in filters or row["priority"] == int(filters["priority"]))
        )
    except ValueError as error:
        raise refuse("INTERNAL_ERROR", f"Invalid argument: {error}") from None


# --- read


@verb()
def get(call: Call, cls: str, obj_uuid: str, since: Timestamp) -> dict[str, Any]:
    if not _exists(call, cls, obj_uuid):
        raise refuse("UUID_INVALID")
    rows = (row for row in _later(call, since) if (row["cls"], row["obj_uuid"]) == (cls, obj_uuid))
    return _records(call, list(rows))


@verb()
def get_since(call: Call, since: Timestamp) -> dict[str, Any]:
    return _records(call, _later(call, since))


def _later(call: Call, since: Timestamp) -> list[Row]:
    moment = parse_datetime(since)
    return [row for row in call.pool.messages.newest_first() if parse_datetime(row["timestamp"]) > moment]


@verb()
def get_all(call: Call) -> list[str]:
    return [row.ref for row in call.pool.messages.newest_first()]


@verb()
def get_all_records(call: Call) -> dict[str, Any]:
    return _records(call, list(call.pool.messages.newest_first()))


@verb()
def get_all_records_where(call: Call, expr: str) -> dict[str, Any]:
    """Up to the toolstack's version 25.15 all of them, whatever is asked for."""
    if not call.at_least(QUERIES_SINCE):
        return _records(call, list(call.pool.messages.newest_first()))
    test = parse_query(expr, call.db, "message")
    return _records(call, [row for row in call.pool.messages.newest_first() if test(row)])


@verb()
def get_record(call: Call, ref: str) -> dict[str, Any]:
    return call.db.record(call.pool.messages.get(ref))


@verb()
def get_by_uuid(call: Call, uuid: str) -> str:
    """The error names the class since 6.5."""
    ref = call.pool.messages.by_uuid(uuid)
    if ref is None:
        raise refuse("UUID_INVALID", *(["message"] if call.at_least(CREAM) else []), uuid)
    return ref
