"""What a host is told of the pool's observers."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .machine.host import HostMachine
    from .store import Row, Store

COMPONENTS = ("xapi", "xenopsd", "xapi-clusterd", "smapi")
ALWAYS = ("xapi", "xenopsd")
"""The parts of a host that an observer of all parts observes: no clustering goes on here."""
EXPERIMENTAL = frozenset({"smapi"})
"""Those that are observed only if xapi's configuration file says so."""


def hosts_of(store: Store, row: Row) -> list[Row]:
    """The hosts that an observer is of: all, where it names none."""
    named = [store.find("host", ref) for ref in row["hosts"]]
    return [host for host in named if host is not None] if named else list(store.table("host").values())


def told(row: Row) -> dict[str, Any]:
    """What a host that an observer is of knows of it."""
    components = [name for name in row["components"] or ALWAYS if name not in EXPERIMENTAL]
    return {"components": components, **{name: row[name] for name in ("enabled", "attributes", "endpoints")}}


def load(store: Store, machine: HostMachine, host: Row) -> None:
    """A host that starts looks which observers it is one of."""
    rows = store.table("Observer").values()
    machine.observers = {row["uuid"]: told(row) for row in rows if host in hosts_of(store, row)}
