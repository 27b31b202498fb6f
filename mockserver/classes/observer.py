"""Observers: which parts of which hosts write down how calls go their ways. What each host was told, its machine knows.

A host that starts asks the database for the observers that it is one of.
"""

from __future__ import annotations

import re
from typing import Any

from .. import hosts, observers
from ..call import Call, refuse
from ..store import Row
from . import verbs_of
from .generic import make

verb = verbs_of("Observer")

TOLD = "machine.observers"
ATTRIBUTE = re.compile(r"[a-z0-9][a-z0-9._]{0,253}[a-z0-9]")
LONGEST = 4095
"""Characters that the value of an attribute may have."""
ENDPOINTS = frozenset({"bugtool"})
"""Where traces may go: to the host's own disk. Servers would have to be allowed in xapi's configuration file."""


# --- what may be said


def _assert_components(call: Call, value: list[str]) -> None:
    for component in value:
        if component not in observers.COMPONENTS:
            raise refuse("INVALID_VALUE", "component", component)


def _assert_endpoints(call: Call, value: list[str]) -> None:
    for endpoint in value:
        if endpoint not in ENDPOINTS:
            raise refuse("INVALID_VALUE", "endpoint", endpoint)


def _assert_hosts(call: Call, value: list[str]) -> None:
    for ref in value:
        if call.db.find("host", ref) is None:
            raise refuse("INVALID_VALUE", "host", ref)


def _assert_attributes(call: Call, value: dict[str, str]) -> None:
    for key, text in value.items():
        if ATTRIBUTE.fullmatch(key) is None or len(text) > LONGEST:
            raise refuse("INVALID_VALUE", "attributes", f"{key}:{text}")


# --- made and dropped


@verb("*", TOLD)
def create(call: Call, args: dict[str, Any]) -> str:
    _assert_components(call, args.get("components", []))
    _assert_endpoints(call, args.get("endpoints", []))
    _assert_hosts(call, args.get("hosts", []))
    _assert_attributes(call, args.get("attributes", {}))
    row = make(call, "Observer", args)
    for host in observers.hosts_of(call.db, row):
        _tell(call, row, host)
    return row.ref


@verb("*", TOLD)
def destroy(call: Call, ref: str) -> str:
    row = call.db.get("Observer", ref)
    for host in observers.hosts_of(call.db, row):
        _forget(call, row, host)
    call.db.delete(row)
    return ""


@verb(TOLD)
def register(call: Call, ref: str, host: str) -> str:
    _tell(call, call.db.get("Observer", ref), call.db.get("host", host))
    return ""


@verb(TOLD)
def unregister(call: Call, ref: str, host: str) -> str:
    _forget(call, call.db.get("Observer", ref), call.db.get("host", host))
    return ""


def _tell(call: Call, row: Row, host: Row) -> None:
    machine = hosts.contact(call.pool, host).machine
    old, new = machine.observers.get(row["uuid"]), observers.told(row)
    machine.observers[row["uuid"]] = new
    hosts.note(call, machine, "observers", old, new)


def _forget(call: Call, row: Row, host: Row) -> None:
    machine = hosts.contact(call.pool, host).machine
    old = machine.observers.pop(row["uuid"], None)
    hosts.note(call, machine, "observers", old, None)


# --- changed


def _change(call: Call, ref: str, **fields: Any) -> str:
    """Write a change and tell every host that answers; the first that did not is the error."""
    row = call.db.get("Observer", ref)
    call.db.write(row, **fields)
    hosts.each(observers.hosts_of(call.db, row), lambda host: _tell(call, row, host))
    return ""


@verb("enabled", TOLD)
def set_enabled(call: Call, ref: str, value: bool) -> str:
    return _change(call, ref, enabled=value)


@verb("attributes", TOLD)
def set_attributes(call: Call, ref: str, value: dict[str, str]) -> str:
    _assert_attributes(call, value)
    return _change(call, ref, attributes=value)


@verb("endpoints", TOLD)
def set_endpoints(call: Call, ref: str, value: list[str]) -> str:
    _assert_endpoints(call, value)
    return _change(call, ref, endpoints=value)


@verb("components", TOLD)
def set_components(call: Call, ref: str, value: list[str]) -> str:
    _assert_components(call, value)
    return _change(call, ref, components=value)


@verb("hosts")
def set_hosts(call: Call, ref: str, value: list[str]) -> str:
    """Hosts only hear of it when they start: xapi compares the new hosts with themselves, and so tells none."""
    _assert_hosts(call, value)
    call.db.write(call.db.get("Observer", ref), hosts=value)
    return ""
