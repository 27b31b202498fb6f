"""Events: `event.from` by row generations, and the older register and next by a queue of single changes."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from functools import cache, lru_cache
from hashlib import md5
from itertools import islice
from typing import TYPE_CHECKING, Any

from xenctl import datamodel
from xenctl.releases import Release, serves
from xenctl.wire import I4

from .. import progress
from ..call import Call, Steps, Wait, refuse
from ..journal import Kept
from ..store import Row, Store, Write
from . import verbs_of

if TYPE_CHECKING:
    from ..pool import MockPool

verb = verbs_of("event")

DAY = 86400.0
LONGEST = float(2**53) / 1e9
"""Seconds from which on `event.from` takes a timeout for a day."""
QUEUE_BYTES = 10_000_000
"""What the queue of old events holds, roughly; the oldest are dropped."""
HEARTBEAT = 30.0
"""Seconds between two events of the pool that old listeners get although nothing changed."""


OPERATIONS = {"create": "add", "write": "mod", "delete": "del"}
"""What each kind of write is in an event."""


def _matches(classes: set[str], name: str, ref: str) -> bool:
    return "*" in classes or name in classes or f"{name}/{ref}" in classes


def _folded(classes: list[str]) -> set[str]:
    return {f"{c.partition('/')[0].lower()}/{c.partition('/')[2]}" if "/" in c else c.lower() for c in classes}


def _news_of(store: Store, classes: set[str], since: int) -> Iterator[str]:
    """The tables that some of `classes` ask for and in which something happened after generation `since`, in the order of
    the data model."""
    for name in _tables(store.release, frozenset(c.partition("/")[0] for c in classes)):
        table = store.tables[name]
        if (table.recent and table.recent[-1][0] > since) or (table.deleted and table.deleted[-1][1] > since):
            yield name


@lru_cache(maxsize=1024)
def _tables(release: Release, names: frozenset[str]) -> tuple[str, ...]:
    """The tables of `release` that `names` ask for and that tell of changes, in the order of the data model."""
    return tuple(
        name
        for name, cls in datamodel.load().classes.items()
        if cls.in_database and cls.events and serves(release, cls) and ("*" in names or name.lower() in names)
    )


@cache
def _counted(release: Release) -> tuple[tuple[str, str], ...]:
    """The classes that `release` counts the objects of, each with its name in lower case."""
    return tuple((name, name.lower()) for name, cls in datamodel.load().classes.items() if serves(release, cls))


def _event(number: int, moment: str, table: str, operation: str, ref: str, snapshot: Any = None) -> dict[str, Any]:
    out = {"id": str(number), "timestamp": moment, "class": table.lower(), "operation": operation, "ref": ref}
    return out if snapshot is None else {**out, "snapshot": snapshot}


# --- event.from


def collected(store: Store, classes: set[str], since: int) -> tuple[list[dict[str, Any]], int]:
    """What happened after generation `since`, one event for each object, and the generation of the last change."""
    adds: list[dict[str, Any]] = []
    mods: list[dict[str, Any]] = []
    dels: list[dict[str, Any]] = []
    last = since
    for name in _news_of(store, classes, since):
        folded = name.lower()
        for row in sorted(store.changes(name, since), key=lambda row: row.ref):
            if _matches(classes, folded, row.ref):
                last = max(last, row.modified)
                into, what = (adds, "add") if row.created > since else (mods, "mod")
                into.append(_event(row.modified, "0.0", name, what, row.ref, store.record(row)))
        for created, deleted, ref in reversed(store.tables[name].deleted):
            if deleted > since >= created and _matches(classes, folded, ref):
                last = max(last, deleted)
                dels.append(_event(deleted, "0.0", name, "del", ref))
    return adds + mods + dels, last


def _changed(store: Store, classes: set[str], since: int) -> bool:
    """Whether `collected` would find anything."""
    for name in _news_of(store, classes, since):
        folded = name.lower()
        if any(_matches(classes, folded, row.ref) for row in store.changes(name, since)):
            return True
        gone = store.tables[name].deleted
        if any(d > since >= c and _matches(classes, folded, ref) for c, d, ref in reversed(gone)):
            return True
    return False


def _told(pool: MockPool, classes: set[str], since: int) -> tuple[list[dict[str, Any]], int]:
    """What happened to messages after generation `since`, and the generation of the last change: 0 for who asks for none.
    The events themselves do not tell theirs."""
    if not any(c == "*" or c.partition("/")[0] == "message" for c in classes):
        return [], 0
    dropped, made = pool.messages.since(since)
    dels = [_event(0, "0.0", "message", "del", row.ref) for _, row in dropped if _matches(classes, "message", row.ref)]
    adds = [
        _event(0, "0.0", "message", "add", row.ref, pool.store.record(row))
        for _, row in made
        if _matches(classes, "message", row.ref)
    ]
    return dels + adds, max(since, pool.messages.generation)


def _news(pool: MockPool, classes: set[str], since: int) -> bool:
    """Whether `_told` would find anything."""
    return pool.messages.generation > since and bool(_told(pool, classes, since)[0])


@verb()
def from_(call: Call, classes: list[str], token: str, timeout: float) -> Steps:
    since, messages = _token(token)
    wanted, store = _folded(classes), call.db
    deadline = call.clock.now() + (timeout if 0 <= timeout < LONGEST else DAY)
    with _watched(call, wanted):
        told, told_last = _told(call.pool, wanted, messages)
        events, last = collected(store, wanted, since)
        if not told and not events and timeout != 0:
            yield Wait(
                deadline, lambda: _ended(call) or _changed(store, wanted, since) or _news(call.pool, wanted, messages)
            )
            if _ended(call):
                raise refuse("SESSION_INVALID", call.caller)
            told, told_last = _told(call.pool, wanted, messages)
            events, last = collected(store, wanted, since)
    counts = {folded: I4(len(store.table(name))) for name, folded in _counted(store.release)}
    return {"events": told + events, "valid_ref_counts": counts, "token": f"{last:020d},{told_last:020d}"}


def _watched(call: Call, classes: set[str]) -> AbstractContextManager[None]:
    """Let who listens to tasks hear how far they are."""
    if call.pool.spans and any(c == "*" or c.partition("/")[0] == "task" for c in classes):
        return progress.watched(call.pool, lambda task: _matches(classes, "task", task))
    return nullcontext()


def _token(token: str) -> tuple[int, int]:
    if not token:
        return 0, 0
    first, _, second = token.partition(",")
    try:
        return int(first), int(second)
    except ValueError:
        raise refuse("EVENT_FROM_TOKEN_PARSE_FAILURE", token) from None


def _ended(call: Call) -> bool:
    """Whether the caller's session was ended meanwhile."""
    return call.session is not None and call.db.find("session", call.session.ref) is not call.session


@verb()
def inject(call: Call, class_: str, ref: str) -> str:
    row = call.db.get(class_, ref)
    return f"{call.db.touch(row) - 1:020d},{0:020d}"


# --- register and next


@dataclass
class Subscription(Kept):
    """What one session registered for, and the number of the first event that it was not told."""

    classes: set[str] = field(default_factory=set)
    position: int = 0


class OldEvents(Kept):
    """The queue behind `event.next`: every change by itself, with the record as it was then. Those before `_first` are
    dropped."""

    def __init__(self) -> None:
        self.subscriptions: dict[str, Subscription] = {}
        self.number = 0
        self._queue: list[tuple[int, int, dict[str, Any]]] = []
        self._first = 0
        self._bytes = 0

    def subscription(self, session: str) -> Subscription:
        """The subscription of a session, which begins now if it has none."""
        return self.subscriptions.setdefault(session, Subscription(position=self.number))

    def note(self, pool: MockPool, write: Write) -> None:
        """Queue a change if somebody registered for it."""
        store, name = pool.store, write.table
        row = {"delete": write.old, "create": write.new}.get(write.kind) or store.find(name, write.ref)
        if row is not None and self.concerns(store, write):
            self.add(name, OPERATIONS[write.kind], row, store, pool.clock.now())

    def concerns(self, store: Store, write: Write) -> bool:
        """Whether somebody registered for what a write changes."""
        cls = store.model.classes.get(write.table)
        if cls is None or not cls.events:
            return False
        return any(_matches(s.classes, write.table.lower(), write.ref) for s in self.subscriptions.values())

    def heard(self) -> frozenset[tuple[str, frozenset[str]]]:
        """Who registered, and for what."""
        return frozenset((session, frozenset(s.classes)) for session, s in self.subscriptions.items())

    def after(self, number: int) -> list[dict[str, Any]]:
        """The events that are queued from a number on."""
        return [event for at, _, event in islice(self._queue, self._first, None) if at >= number]

    def add(self, name: str, operation: str, row: Row, store: Store, now: float) -> None:
        """Queue one event; the oldest are dropped where there are too many."""
        snapshot = store.record(row)
        size = sum(len(key) + len(str(value)) + 8 for key, value in snapshot.items())
        self._queue.append((self.number, size, _event(self.number, f"{now:.0f}.", name, operation, row.ref, snapshot)))
        self.number += 1
        self._bytes += size
        while self._bytes > QUEUE_BYTES:
            self._bytes -= self._queue[self._first][1]
            self._first += 1
        if self._first * 2 > len(self._queue):
            self._queue, self._first = self._queue[self._first :], 0

    def waiting(self, subscription: Subscription) -> Iterator[dict[str, Any]]:
        """The events that a subscriber was not told yet."""
        for number, _, event in islice(self._queue, self._first, None):
            if number >= subscription.position and _matches(subscription.classes, event["class"], event["ref"]):
                yield event

    def lost(self, subscription: Subscription) -> bool:
        """Whether events that a subscriber was not told were dropped."""
        kept = self._first < len(self._queue)
        return subscription.position < (self._queue[self._first][0] if kept else self.number)


@verb()
def register(call: Call, classes: list[str]) -> str:
    call.pool.old_events.subscription(call.caller).classes |= _folded(classes)
    return ""


@verb()
def unregister(call: Call, classes: list[str]) -> str:
    call.pool.old_events.subscription(call.caller).classes -= _folded(classes)
    return ""


@verb()
def next_(call: Call) -> Steps:
    """Waits for an event without end; simulated time that passes for nothing is given up after a day, with no event."""
    queue = call.pool.old_events
    subscription = queue.subscriptions.get(call.caller)
    if subscription is None:
        digest = md5(call.caller.encode(), usedforsecurity=False).hexdigest()
        raise refuse("SESSION_NOT_REGISTERED", f"trackid={digest}")
    with _watched(call, subscription.classes):
        if next(queue.waiting(subscription), None) is None:
            hears = _matches(subscription.classes, "pool", call.db.pool().ref)
            until = call.clock.now() + (HEARTBEAT if hears else DAY)
            yield Wait(until, lambda: _ended(call) or next(queue.waiting(subscription), None) is not None)
            if _ended(call):
                raise refuse("SESSION_INVALID", call.caller)
            if hears and next(queue.waiting(subscription), None) is None:
                queue.add("pool", "mod", call.db.pool(), call.db, call.clock.now())
    lost, events = queue.lost(subscription), list(queue.waiting(subscription))
    subscription.position = queue.number
    if lost:
        raise refuse("EVENTS_LOST")
    return events


@verb()
def get_current_id(call: Call) -> int:
    return call.pool.old_events.number
