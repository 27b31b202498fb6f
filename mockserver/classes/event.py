"""Events: `event.from` by row generations, and the older register and next by a queue of changes."""

from __future__ import annotations

from dataclasses import dataclass, field
from hashlib import md5
from typing import Any

from xenctl.xmlrpc import I4

from ..call import Call, Steps, Wait, refuse
from ..store import Row, Store
from . import verbs_of

verb = verbs_of("event")

DAY = 86400.0


@dataclass
class Subscription:
    """What one session registered for, and the generation up to which it has been told."""

    classes: set[str] = field(default_factory=set)
    generation: int = 0


def _matches(classes: set[str], row: Row) -> bool:
    name = row.table.lower()
    return "*" in classes or name in classes or f"{name}/{row.ref}" in classes


def _folded(classes: list[str]) -> set[str]:
    return {f"{c.partition('/')[0].lower()}/{c.partition('/')[2]}" if "/" in c else c.lower() for c in classes}


def _tables(store: Store, classes: set[str]) -> list[str]:
    names = {c.partition("/")[0] for c in classes}
    out = [name for name in store.tables if "*" in names or name.lower() in names]
    return [name for name in out if store.model.classes[name].events]


def _event(identity: int, moment: str, operation: str, row: Row, snapshot: dict[str, Any] | None) -> dict[str, Any]:
    out: dict[str, Any] = {
        "id": str(identity),
        "timestamp": moment,
        "class": row.table.lower(),
        "operation": operation,
        "ref": row.ref,
    }
    if snapshot is not None:
        out["snapshot"] = snapshot
    return out


def _collect(store: Store, classes: set[str], since: int, moment: str) -> tuple[list[dict[str, Any]], int]:
    adds, mods, dels, last = [], [], [], since
    for name in _tables(store, classes):
        for row in sorted(store.changes(name, since), key=lambda row: row.ref):
            if not _matches(classes, row):
                continue
            last = max(last, row.modified)
            new = row.created > since
            (adds if new else mods).append(
                _event(row.modified, moment, "add" if new else "mod", row, store.record(row))
            )
        for created, deleted, ref in reversed(store.tables[name].deleted):
            if deleted > since >= created and _matches(classes, Row(name, ref, {})):
                last = max(last, deleted)
                dels.append(_event(deleted, moment, "del", Row(name, ref, {}), None))
    return adds + mods + dels, last


@verb()
def from_(call: Call, classes: list[str], token: str, timeout: float) -> Steps:
    since, messages = _token(token)
    wanted, store = _folded(classes), call.db
    deadline = call.clock.now() + (timeout if 0 <= timeout < 100 * DAY else DAY)
    events, last = _collect(store, wanted, since, "0.0")
    if not events and timeout != 0:
        yield Wait(deadline, lambda: any(_changed(store, name, wanted, since) for name in _tables(store, wanted)))
        _alive(call)
        events, last = _collect(store, wanted, since, "0.0")
    counts = {name.lower(): I4(len(table.rows)) for name, table in store.tables.items()}
    return {"events": events, "valid_ref_counts": counts, "token": f"{last:020d},{messages:020d}"}


def _changed(store: Store, name: str, classes: set[str], since: int) -> bool:
    if any(_matches(classes, row) for row in store.changes(name, since)):
        return True
    gone = store.tables[name].deleted
    return any(d > since >= c and _matches(classes, Row(name, ref, {})) for c, d, ref in gone)


def _token(token: str) -> tuple[int, int]:
    if not token:
        return -1, 0
    first, _, second = token.partition(",")
    try:
        return int(first), int(second)
    except ValueError:
        raise refuse("EVENT_FROM_TOKEN_PARSE_FAILURE", token) from None


def _alive(call: Call) -> None:
    if call.session is not None and call.session.ref not in call.db.table("session"):
        raise refuse("SESSION_INVALID", call.session.ref)


@verb()
def register(call: Call, classes: list[str]) -> str:
    subscriptions = call.pool.subscriptions
    ref = call.session.ref if call.session else ""
    if ref not in subscriptions:
        subscriptions[ref] = Subscription(generation=call.db.generation - 1)
    subscriptions[ref].classes |= _folded(classes)
    return ""


@verb()
def unregister(call: Call, classes: list[str]) -> str:
    ref = call.session.ref if call.session else ""
    call.pool.subscriptions.setdefault(ref, Subscription(generation=call.db.generation - 1)).classes -= _folded(classes)
    return ""


@verb()
def next_(call: Call) -> Steps:
    ref = call.session.ref if call.session else ""
    subscription = call.pool.subscriptions.get(ref)
    if subscription is None:
        raise refuse("SESSION_NOT_REGISTERED", f"trackid={md5(ref.encode(), usedforsecurity=False).hexdigest()}")
    store, moment = call.db, f"{call.clock.now():.0f}."

    def ready() -> bool:
        names = _tables(store, subscription.classes)
        return any(_changed(store, name, subscription.classes, subscription.generation) for name in names)

    if not ready():
        yield Wait(call.clock.now() + DAY, ready)
        _alive(call)
    events, last = _collect(store, subscription.classes, subscription.generation, moment)
    subscription.generation = last
    return sorted(events, key=lambda event: int(event["id"]))


@verb()
def get_current_id(call: Call) -> int:
    return call.db.generation


@verb()
def inject(call: Call, class_: str, ref: str) -> str:
    row = call.db.get(class_, ref)
    return f"{call.db.touch(row) - 1:020d},{0:020d}"
