"""Feeds: where the changes of a pool come from, by what the master's release has.

`EventFrom` is `event.from`, from 6.0 on. It takes a token and answers with what changed since. Deletions that the server no
longer remembers show in the numbers of objects that come along; whoever holds the objects compares. Up to 6.2 the calls of
one session share the server's notes of what each is waiting for, and take each other's events; so there this feed has a
login of its own.

`EventNext` is `event.register` and `event.next` of the hosts before. `event.next` waits without limit, and an answer for
which nobody waits any more takes its events with it; so this feed too has a login of its own, which is given up together
with a wait that was broken off.

A token means something to one run of the master only, and so does a session. A session that is not the one before is
therefore the sign to read everything anew (`StaleError`), whoever logged in again, and whatever happened at the server.

Class names are in lower case here, as events have them.
"""

from __future__ import annotations

import logging
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from functools import cache
from typing import TYPE_CHECKING, Any, Protocol

from ..api import CLASS_NAMES
from ..datamodel import load
from ..errors import Failure, XenctlError
from ..session import Session
from ..tasks import SEPARATE_EVENTS, SHARE
from ..values import Record, to_list, to_map, to_record, to_string

if TYPE_CHECKING:
    from ..api.event import EventBatch, event
    from ..values import Converter, Many

log = logging.getLogger(__name__)

HEARTBEAT = 30.0
"""Seconds between two events of the pool that `event.next` gives although nothing changed."""
LOOK = 2.0
"""Seconds between two looks at a host for which `event.next` would take too long."""
PARTS = (1, 10)
"""The API version, that of 6.1, from which on single objects can be subscribed to."""
INJECT = (1, 10)
"""The API version, that of 6.1, from which on there is `event.inject`."""
RETRIES = 3
"""How often `event.from` is asked again when an object went while it made its answer, an error up to 6.1."""
ABSENT = frozenset({"MESSAGE_METHOD_UNKNOWN", "MESSAGE_REMOVED", "NOT_IMPLEMENTED"})
"""What a host answers to a message that it does not have."""

Objects = dict[str, dict[str, Record]]
"""Records by class and reference."""
Event = tuple[str, str, "Record | None"]
"""Class and reference of an object that changed, and its record: None if it was deleted."""


class StaleError(Exception):
    """What is known leads no further: everything is to be read again."""


# --- what is wanted


@dataclass(frozen=True)
class Wanted:
    """The objects that somebody wants to hear of: the `subscriptions` as they are sent; `whole` classes, or `everything`;
    and of the other classes single objects, the `parts`."""

    subscriptions: tuple[str, ...]
    everything: bool
    whole: frozenset[str]
    parts: Mapping[str, frozenset[str]]

    @classmethod
    def of(cls, classes: Many[str]) -> Wanted:
        """What `classes` ask for. Raises `ValueError` for a class that is not known, or that tells of no changes."""
        if isinstance(classes, str) or not classes:
            raise ValueError(f"expected names of classes, such as ['VM', 'host'] or ['*'], got {classes!r}")
        everything = "*" in classes
        whole: set[str] = set()
        parts: dict[str, set[str]] = {}
        for text in classes:
            class_name, slash, ref = text.partition("/")
            if slash:
                parts.setdefault(_followed(class_name), set()).add(ref)
            elif text != "*":
                whole.add(_followed(class_name))
        single = {name: frozenset(refs) for name, refs in parts.items() if name not in whole and not everything}
        return cls(tuple(classes), everything, frozenset(whole), single)

    def all_of(self, name: str) -> bool:
        """Whether every object of a class is wanted."""
        return name in self.whole or (self.everything and name not in _silent())

    def any_of(self, name: str) -> bool:
        """Whether some object of a class is wanted."""
        return name in self.parts or self.all_of(name)

    def wants(self, name: str, ref: str) -> bool:
        """Whether an object is wanted."""
        return self.all_of(name) or ref in self.parts.get(name, ())


def _followed(class_name: str) -> str:
    name = class_name.lower()
    if not is_known(name):
        raise ValueError(f"no class {class_name!r} is known; '*' tells of every class, those of newer hosts too")
    if name in _silent():
        raise ValueError(f"objects of class {class_name} tell of no changes")
    return name


@cache
def _spellings() -> Mapping[str, str]:
    return {name.lower(): name for name in CLASS_NAMES}


@cache
def _silent() -> frozenset[str]:
    """The classes that tell of no changes."""
    return frozenset(name.lower() for name, cls in load().classes.items() if not cls.events)


def is_known(name: str) -> bool:
    """Whether the data model has a class of this name."""
    return name in _spellings()


def spelled(name: str) -> str:
    """XenAPI's spelling of a class; of one that is not known, as it came."""
    return _spellings().get(name.lower(), name)


# --- feeds


@dataclass(frozen=True)
class Batch:
    """What one look at a feed gave: what changed, the numbers of objects that there are, by class, and the classes that are
    to be read again."""

    events: list[Event]
    counts: Mapping[str, int] = field(default_factory=dict)
    suspects: Collection[str] = ()


class Feed(Protocol):
    """Where changes come from. `resumable` says whether it can go on after a call that got no answer."""

    resumable: bool

    def load(self) -> Objects:
        """Everything wanted. Raises `StaleError` where the master restarted meanwhile."""

    def fetch(self, name: str) -> dict[str, Record]:
        """What is wanted of one class."""

    def poll(self, seconds: float) -> Batch:
        """What changed since the last look; waits for it for `seconds` or less. Raises `StaleError`."""

    def close(self) -> None:
        """Give up what is held at the server."""


def choose(session: Session, wanted: Wanted, longest: float) -> tuple[Feed, Objects]:
    """The feed that the master has, and everything wanted. `longest` is how long one call may wait at the server.

    Raises `StaleError` where the master restarted meanwhile.
    """
    feed: Feed = EventFrom(session, wanted, longest)
    try:
        try:
            return feed, feed.load()
        except Failure as error:
            if error.details[:2] != ["MESSAGE_METHOD_UNKNOWN", "event.from"]:
                raise
        feed = EventNext(session, wanted)
        return feed, feed.load()
    except BaseException:
        feed.close()
        raise


class _Login:
    """The session of a feed: the one that it was given, or another with the same credentials."""

    def __init__(self, session: Session, wanted: Wanted) -> None:
        self._given = self._session = session
        self._wanted = wanted
        self._ref: str | None = session.ref

    def _log_in_separately(self) -> None:
        """Use another session from now on, unless the one that was given does not know its password."""
        other = self._given.sibling()
        if other is not None:
            self._session, self._ref = other, None

    def _is_new_session(self) -> bool:
        self._ref = self._ref or self._session.ref
        return self._session.ref != self._ref

    def close(self) -> None:
        """Log out, if the login is the feed's own."""
        if self._session is not self._given:
            try:
                self._session.logout()
            except XenctlError as error:
                log.debug("%s: the login for events could not be ended: %s", self._session.origin, error)


class EventFrom(_Login):
    """`event.from`."""

    resumable = True

    def __init__(self, session: Session, wanted: Wanted, longest: float) -> None:
        super().__init__(session, wanted)
        self._longest = longest
        self._token = ""
        self._subscriptions: Collection[str] = wanted.subscriptions

    def load(self) -> Objects:
        """Classes that have objects are read in bulk, which costs least, and then what changed since just before.

        Release 6.0 lacks `event.inject`, which gives the token of now: there everything comes as events; so do single
        objects everywhere. The first answer shows that the master knows the session, and so that the API version is that
        of its present run; where calls take each other's events, only its numbers count.
        """
        wanted = self._wanted
        counts = self._ask(["pool"], "", 0.0).valid_ref_counts
        version = self._given.api_version
        if version < SEPARATE_EVENTS:
            self._log_in_separately()
        if version < PARTS:
            self._subscriptions = ["*"] if wanted.everything else [*wanted.whole, *wanted.parts]
        objects: Objects = {}
        token = ""
        if (wanted.everything or wanted.whole) and version >= INJECT:
            (pool,) = self._session.pool.get_all()
            token = self._session.event.inject("pool", pool)
            self._fetch_missing(objects, counts)
            objects.update((name, self.fetch(name)) for name in wanted.parts)
        batch = self._ask(self._subscriptions, token, 0.0)
        for name, ref, record in self._events(batch):
            table = objects.setdefault(name, {})
            if record is None:
                table.pop(ref, None)
            else:
                table[ref] = record
        self._fetch_missing(objects, batch.valid_ref_counts)
        return objects

    def _fetch_missing(self, objects: Objects, counts: Mapping[str, int]) -> None:
        """Read the classes of which there are objects, but none in `objects`."""
        for name, count in counts.items():
            if count and self._wanted.all_of(name) and not objects.get(name):
                objects[name] = self.fetch(name)

    def fetch(self, name: str) -> dict[str, Record]:
        if self._wanted.all_of(name):
            records = get_all_records(self._session, name)
            if records is not None:
                return records
        asked = [text for text in self._subscriptions if text.lower().startswith(f"{name}/")] or [name]
        found = [read(event) for event in self._ask(asked, "", 0.0).events]
        return {ref: record for of, ref, record in found if of == name and record is not None}

    def poll(self, seconds: float) -> Batch:
        seconds = min(seconds, self._longest, SHARE * self._session.read_timeout)
        batch = self._ask(self._subscriptions, self._token, seconds)
        events = self._events(batch)
        # Single objects do not show in the numbers of objects, so they are looked at when nothing is told for long.
        return Batch(events, batch.valid_ref_counts, () if events or not seconds else self._wanted.parts)

    def _events(self, batch: EventBatch) -> list[Event]:
        """The events of a batch; its token is the next to ask with."""
        events = [read(event) for event in batch.events]
        self._token = batch.token
        return events

    def _ask(self, classes: Collection[str], token: str, seconds: float) -> EventBatch:
        for tries_left in reversed(range(RETRIES + 1)):
            try:
                batch = self._session.call("event.from", (list(classes), token, float(seconds)), to_batch)
            except Failure as error:
                if self._is_new_session() or error.code == "EVENTS_LOST":
                    raise StaleError(str(error)) from error
                if error.code != "HANDLE_INVALID" or not tries_left:
                    raise
            else:
                break
        if self._is_new_session():
            raise StaleError("the session is a new one, and so may be the master's run")
        return batch


class EventNext(_Login):
    """`event.register` and `event.next`."""

    resumable = False

    def __init__(self, session: Session, wanted: Wanted) -> None:
        super().__init__(session, wanted)
        self._log_in_separately()
        self._seen = 0
        self._names: list[str] = []

    def load(self) -> Objects:
        """The pool is always subscribed to, for its heartbeat."""
        session, wanted = self._session, self._wanted
        session.event.register(["*"] if wanted.everything else sorted({*wanted.whole, *wanted.parts, "pool"}))
        self._check()
        self._seen = session.event.get_current_id()
        found = {name: get_all_records(session, name) for name in _old_classes() if wanted.any_of(name)}
        self._check()
        objects = {name: records for name, records in found.items() if records is not None}
        self._names = list(objects)
        return objects

    def fetch(self, name: str) -> dict[str, Record]:
        return get_all_records(self._session, name) or {}

    def poll(self, seconds: float) -> Batch:
        """`event.next` cannot be told how long to wait; a short wait is a pause and a look at how far the queue is."""
        if seconds < HEARTBEAT or self._session.read_timeout <= HEARTBEAT:
            return self._glance(seconds)
        try:
            events = self._session.call("event.next", (), to_events)
        except Failure as error:
            if error.code == "EVENTS_LOST":
                return Batch([], suspects=self._names)
            if error.code == "SESSION_NOT_REGISTERED":
                raise StaleError(str(error)) from error
            raise
        self._check()
        latest = {(event.class_.lower(), event.ref): event for event in events}
        return Batch([self._complete(event) for event in latest.values()])

    def _glance(self, seconds: float) -> Batch:
        session = self._session
        session.clock.sleep(min(seconds, LOOK))
        current = session.event.get_current_id()
        self._check()
        before, self._seen = self._seen, current
        return Batch([], suspects=() if current == before else self._names)

    def _complete(self, event: event) -> Event:
        """An event with its record, which is asked for where the host sent none."""
        name, ref, record = read(event)
        if record is None and event.operation != "del" and self._wanted.wants(name, ref):
            try:
                record = self._session.call(f"{spelled(name)}.get_record", (ref,), to_record(spelled(name)))
            except Failure as error:
                if error.code != "HANDLE_INVALID":
                    raise
        return name, ref, record

    def _check(self) -> None:
        if self._is_new_session():
            raise StaleError("the session is a new one, and the server knows of no subscription")


def read(event: event) -> Event:
    """What an event says; its record is None too where the host sent none."""
    gone = event.operation == "del" or "snapshot" not in event
    return event.class_.lower(), event.ref, None if gone else event.record


def to_batch(value: Any) -> EventBatch:
    """An `event_batch`, all of which can be read. Raises `ValueError`."""
    batch: EventBatch = _to_batch(value)
    try:
        _ = batch.token, batch.valid_ref_counts, [_checked(event) for event in batch.events]
    except AttributeError as error:
        raise ValueError(str(error)) from error
    return batch


def to_events(value: Any) -> list[event]:
    """Events, all of which can be read. Raises `ValueError`."""
    try:
        return [_checked(event) for event in _to_events(value)]
    except AttributeError as error:
        raise ValueError(str(error)) from error


def _checked(event: event) -> event:
    _ = event.class_, event.ref, event.operation
    if not isinstance(event.get("snapshot", {}), Mapping):
        raise ValueError(f"the snapshot of {event.class_}/{event.ref} is no record")  # noqa: TRY004 - as converters do
    return event


_to_batch = to_record("EventBatch", "event")
_to_events: Converter[list[event]] = to_list(to_record("event"))


def get_all_records(session: Session, name: str) -> dict[str, Record] | None:
    """All objects of a class; None where the host has no such message, or no such class."""
    if not is_known(name):
        return None
    class_name = spelled(name)
    try:
        return session.call(f"{class_name}.get_all_records", (), to_map(to_string, to_record(class_name)))
    except Failure as error:
        if error.code not in ABSENT:
            raise
        return None


def _old_classes() -> list[str]:
    """The classes that a host before 6.0 may have and tell changes of."""
    model = load()
    old = [cls for cls in model.classes.values() if cls.events and model.order(cls.since) < model.order("boston")]
    return [cls.name.lower() for cls in old if "get_all_records" in cls.messages]
