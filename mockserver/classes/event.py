"""Events: `event.from` by row generations, and the older register and next by a queue of single changes."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from functools import cache, lru_cache
from hashlib import md5
from itertools import islice
from typing import TYPE_CHECKING, Any

from xenctl import datamodel
from xenctl.releases import Release, serves
from xenctl.wire import I4

from .. import progress, rules
from ..call import Call, Steps, Wait, refuse
from ..journal import Kept
from ..store import Row, Store, Write
from . import verbs_of

if TYPE_CHECKING:
    from ..pool import MockPool

verb = verbs_of("event")

DAY = 86400.0
LONGEST = 100 * DAY
"""Simulated seconds after which who waits for nothing gives up, however long it would wait."""
QUEUE_BYTES = 10_000_000
"""What the queue of old events holds, roughly; the oldest are dropped."""
QUEUE_EVENTS = 500
"""How many it holds before 6.5, whatever their size."""
QUEUE_AGE = 900.0
"""Seconds that an event stays in it before 6.1."""
HEARTBEAT = 30.0
"""Seconds between two events of the pool that old listeners get although nothing changed."""


OPERATIONS = {"create": "add", "write": "mod", "delete": "del"}
"""What each kind of write is in an event."""


def _matches(classes: set[str], name: str, ref: str) -> bool:
    return "*" in classes or name in classes or f"{name}/{ref}" in classes


def _folded(release: Release, classes: list[str]) -> set[str]:
    """Subscriptions as they are compared. Before 6.1 one of a single object is that of a class that is not there."""
    if release.order < rules.TAMPA:
        return {c.lower() for c in classes}
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


def collected(store: Store, classes: set[str], since: int, *, twice: bool = False) -> tuple[list[dict[str, Any]], int]:
    """What happened after generation `since`, one event for each object, or two (`twice`) for one that is new, and the
    generation of the last change."""
    adds: list[dict[str, Any]] = []
    mods: list[dict[str, Any]] = []
    dels: list[dict[str, Any]] = []
    last = since
    for name in _news_of(store, classes, since):
        folded = name.lower()
        for row in sorted(store.changes(name, since), key=lambda row: row.ref):
            if _matches(classes, folded, row.ref):
                last = max(last, row.modified)
                record, new = store.record(row), row.created > since
                if new:
                    adds.append(_event(row.modified, "0.0", name, "add", row.ref, record))
                if twice or not new:
                    mods.append(_event(row.modified, "0.0", name, "mod", row.ref, record))
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
    store, ended = call.db, _end(call)
    since, messages = _token(store.release, token)
    wanted, twice = _folded(store.release, classes), not call.at_least(rules.ELY)
    with _watched(call, wanted):
        told, told_last = _told(call.pool, wanted, messages)
        events, last = collected(store, wanted, since, twice=twice)
        if not told and not events and timeout > 0:
            yield Wait(
                call.clock.now() + min(timeout, LONGEST),
                lambda: ended() or _changed(store, wanted, since) or _news(call.pool, wanted, messages),
            )
            if ended():
                raise refuse("SESSION_INVALID", call.caller)
            told, told_last = _told(call.pool, wanted, messages)
            events, last = collected(store, wanted, since, twice=twice)
    if not call.at_least(rules.CREAM):
        call.pool.old_events.cut_off(call.caller)
    counts = {folded: I4(len(store.table(name))) for name, folded in _counted(store.release)}
    form = "{:020d},{:020d}" if call.at_least(rules.TAMPA) else "{:d},{:f}"
    return {"events": told + events, "valid_ref_counts": counts, "token": form.format(last, told_last)}


def _watched(call: Call, classes: set[str]) -> AbstractContextManager[None]:
    """Let who listens to tasks hear how far they are."""
    if call.pool.spans and any(c == "*" or c.partition("/")[0] == "task" for c in classes):
        return progress.watched(call.pool, lambda task: _matches(classes, "task", task))
    return nullcontext()


def _token(release: Release, token: str) -> tuple[int, int]:
    """The generations that a token stands for. In 6.0 the second is written as a fraction, and what is none is an empty one;
    since 6.1 it is refused."""
    first, _, second = token.partition(",")
    old = release.order < rules.TAMPA
    try:
        return (int(first), int(float(second) if old else second)) if token else (0, 0)
    except ValueError:
        if old:
            return 0, 0
        raise refuse("EVENT_FROM_TOKEN_PARSE_FAILURE", token) from None


def _end(call: Call) -> Callable[[], bool]:
    """What tells whether the caller's session was ended since, or what waits for events in it was cut off."""
    cut, session = call.pool.old_events.cut, call.session
    before = cut.get(call.caller, 0)

    def ended() -> bool:
        gone = session is not None and call.db.find("session", session.ref) is not session
        return gone or cut.get(call.caller, 0) != before

    return ended


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
        self.cut: dict[str, int] = {}
        self.number = 0
        self._queue: list[tuple[int, int, dict[str, Any]]] = []
        self._first = 0
        self._bytes = 0

    def subscription(self, session: str) -> Subscription:
        """The subscription of a session, which begins now if it has none."""
        return self.subscriptions.setdefault(session, Subscription(position=self.number))

    def cut_off(self, session: str) -> None:
        """What `event.from` does when it is over before 6.5: whatever else waits for events in its session ends, and the
        session is not registered any more."""
        self.subscriptions.pop(session, None)
        self.cut[session] = self.cut.get(session, 0) + 1

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
        while self._overfull(store.release, now):
            self._bytes -= self._queue[self._first][1]
            self._first += 1
        if self._first * 2 > len(self._queue):
            self._queue, self._first = self._queue[self._first :], 0

    def _overfull(self, release: Release, now: float) -> bool:
        """Whether the oldest event is to be dropped."""
        if release.order >= rules.CREAM:
            return self._bytes > QUEUE_BYTES
        if len(self._queue) - self._first > QUEUE_EVENTS:
            return True
        return release.order < rules.TAMPA and now - float(self._queue[self._first][2]["timestamp"]) > QUEUE_AGE

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
    call.pool.old_events.subscription(call.caller).classes |= _folded(call.db.release, classes)
    return ""


@verb()
def unregister(call: Call, classes: list[str]) -> str:
    call.pool.old_events.subscription(call.caller).classes -= _folded(call.db.release, classes)
    return ""


@verb()
def next_(call: Call) -> Steps:
    """Waits for an event without end; simulated time that passes for nothing is given up after a day, with no event."""
    queue = call.pool.old_events
    subscription = queue.subscriptions.get(call.caller)
    if subscription is None:
        digest = md5(call.caller.encode(), usedforsecurity=False).hexdigest()
        raise refuse("SESSION_NOT_REGISTERED", f"trackid={digest}")
    ended = _end(call)
    with _watched(call, subscription.classes):
        if next(queue.waiting(subscription), None) is None:
            hears = _matches(subscription.classes, "pool", call.db.pool().ref)
            until = call.clock.now() + (HEARTBEAT if hears else DAY)
            yield Wait(until, lambda: ended() or next(queue.waiting(subscription), None) is not None)
            if ended():
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
