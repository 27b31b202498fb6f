"""The objects of a pool, kept as the server has them, and what changed.

Whatever comes, an event or a whole class read again, goes through `PoolCache._set`, which compares it with what is there;
a change is what differs. What is to be read again is remembered until that has been done, and changes until somebody was
told of them, so that a call that fails in between loses nothing.

While the master is away the cache waits, on the transport's clock, longer each time.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Generator, Mapping
from dataclasses import dataclass
from math import inf
from types import MappingProxyType, TracebackType
from typing import TYPE_CHECKING, Any, Literal, TypeVar

from ..errors import ConnectError, ConnectionLost, Failure, WaitTimeout, XenctlError
from ..session import Session
from ..values import Record, Ref
from .feeds import Feed, Objects, StaleError, Wanted, choose, is_known, spelled

if TYPE_CHECKING:
    from ..values import Many

R = TypeVar("R", bound=Record)
V = TypeVar("V")

log = logging.getLogger(__name__)

POLL = 30.0
"""Seconds that one call waits at the server, unless told otherwise."""
FIRST_PAUSE, LONGEST_PAUSE = 1.0, 15.0
"""Seconds between two tries while the master is away: the first, and the longest; each is twice the one before."""
STARTING = frozenset({"HOST_STILL_BOOTING", "HOST_HAS_NO_MANAGEMENT_IP", "HOST_MASTER_CANNOT_TALK_BACK"})
"""What a host answers before it serves."""


@dataclass(frozen=True)
class Change:
    """One object of class `class_name` (XenAPI's spelling) was added, modified or deleted.

    `record` is the object as it now is; of one that was deleted, as it was last known.
    """

    class_name: str
    operation: Literal["add", "mod", "del"]
    ref: Ref[Any]
    record: Record


class PoolCache:
    """The objects of a pool, kept as the server has them.

    `classes` are names of classes (`VM`), single objects (`VM/OpaqueRef:…`), or `*` for all that tell of changes. The cache
    changes when its holder calls `update` or `wait_until`, and then only; `of` gives the records of a class. `poll` is the
    seconds that one call waits at the server, kept below the transport's read time-out.

    For one thread; the session may be used by others at the same time. With a host before 6.5 the cache has a login of its
    own: use it as a context manager, or `close` it. Raises `ValueError` for a class that is not known or tells of no
    changes, and whatever the first look at the pool raises.
    """

    def __init__(self, session: Session, classes: Many[str] = ("*",), *, poll: float = POLL) -> None:
        if poll <= 0:
            raise ValueError(f"a call that waits {poll:g} s at the server would be repeated without a pause")
        self.session = session
        self._wanted = Wanted.of(classes)
        self._poll = poll
        self._feed: Feed | None = None
        self._objects: Objects = {}
        self._suspects: set[str] = set()
        self._excused: dict[str, tuple[int, int]] = {}
        self._changes: list[Change] = []
        self._look(0.0)
        self._changes.clear()

    def __repr__(self) -> str:
        return f"<PoolCache of {self.session.origin}: {sum(map(len, self._objects.values()))} objects>"

    def __enter__(self) -> PoolCache:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Give up what is held at the server. The objects stay; a later `update` begins anew."""
        feed, self._feed = self._feed, None
        if feed is not None:
            feed.close()

    def of(self, kind: type[R]) -> Mapping[Ref[R], R]:
        """The objects of a class by reference: `cache.of(VM)[ref].name_label`. It shows later updates too.

        Raises `ValueError` for a class that the cache was not asked to hold.
        """
        found: Any = self[kind._class_name]
        view: Mapping[Ref[R], R] = found
        return view

    def __getitem__(self, class_name: str) -> Mapping[Ref[Any], Record]:
        """The same by the name of the class: `cache["VM"]`."""
        name = class_name.lower()
        if not self._wanted.any_of(name) or not (is_known(name) or name in self._objects):
            raise ValueError(f"this cache does not hold class {class_name!r}: name it when the cache is made")
        table: Any = self._objects.setdefault(name, {})
        return MappingProxyType(table)

    def update(self, timeout: float | None = 0.0) -> list[Change]:
        """Apply what changed since the last time, and return it; wait for a change for `timeout` seconds (None: no limit).

        While the master is away this waits too; where it still is when the time is over, its `TransportError` is raised, and
        the cache is as it was. Raises `RuntimeError` where the session is not logged in.
        """
        deadline = self._deadline(timeout)
        while True:
            self._reach(deadline, self._left(deadline))
            if self._changes or self._left(deadline) <= 0:
                changes, self._changes = self._changes, []
                return changes

    def wait_until(self, predicate: Callable[[PoolCache], V], timeout: float | None = None) -> V:
        """Update until `predicate(cache)` holds, and return what it gave; it is never asked of a state older than this call.

        Raises `WaitTimeout` after `timeout` seconds, and what the predicate raises. `update` tells no change again.
        """
        deadline = self._deadline(timeout)
        seconds = 0.0
        while True:
            away: XenctlError | None = None
            try:
                self._reach(deadline, seconds)
            except XenctlError as error:
                if not _passes(error):
                    raise
                away = error
            self._changes.clear()
            if away is None and (found := predicate(self)):
                return found
            seconds = self._left(deadline)
            if seconds <= 0:
                raise WaitTimeout(
                    f"what was waited for did not come true within {timeout:g} s"
                    + (f"; the master is away: {away}" if away else ""),
                    host=self.session.origin,
                    method="wait_until",
                ) from away

    def _deadline(self, timeout: float | None) -> float:
        return inf if timeout is None else self.session.clock.now() + timeout

    def _left(self, deadline: float) -> float:
        return max(0.0, deadline - self.session.clock.now())

    def _reach(self, deadline: float, seconds: float) -> None:
        """Look once, waiting `seconds` for a change; while the master is away, try again until `deadline`."""
        pause = FIRST_PAUSE
        while True:
            try:
                return self._look(seconds)
            except XenctlError as error:
                left = self._left(deadline)
                if left <= 0 or not _passes(error):
                    raise
                log.info("the master is away, the next try is in %g s: %s", min(pause, left), error)
            self.session.clock.sleep(min(pause, left))
            pause, seconds = min(pause * 2, LONGEST_PAUSE), 0.0

    def _look(self, seconds: float) -> None:
        """Ask the server once, waiting `seconds` at the most for a change, and apply what it says."""
        if not self.session.is_open:
            raise RuntimeError(f"the session with {self.session.origin} is not logged in: there is nothing to follow")
        while True:
            try:
                if self._feed is None:
                    self._open()
                elif not self._suspects:
                    self._poll_once(self._feed, seconds)
                self._reread()
                return
            except StaleError as error:
                log.info("%s: reading everything again: %s", self.session.origin, error)
                self.close()
            except BaseException:
                if self._feed is not None and not self._feed.resumable:
                    self.close()
                raise

    def _open(self) -> None:
        self._feed, objects = choose(self.session, self._wanted, self._poll)
        self._suspects.clear()
        for name in sorted({*self._objects, *objects}):
            self._replace(name, objects.get(name, {}))

    def _poll_once(self, feed: Feed, seconds: float) -> None:
        batch = feed.poll(seconds)
        for name, ref, record in batch.events:
            self._set(name, ref, record)
        self._suspects.update(batch.suspects)
        for name, count in batch.counts.items():
            held = len(self._objects.get(name, ()))
            if held == count:
                self._excused.pop(name, None)
            elif self._wanted.all_of(name) and self._excused.get(name) != (count, held):
                log.info(
                    "%s: there are %d of %s, not %d: reading them", self.session.origin, count, spelled(name), held
                )
                self._suspects.add(name)
                self._excused[name] = count, held  # if reading them changes nothing, they are not read each time

    def _reread(self) -> None:
        for name in sorted(self._suspects):
            assert self._feed is not None
            self._replace(name, self._feed.fetch(name))
            self._suspects.discard(name)

    def _replace(self, name: str, records: Mapping[str, Record]) -> None:
        """Take `records` for all that there is of a class."""
        for ref in [ref for ref in self._objects.get(name, ()) if ref not in records]:
            self._set(name, ref, None)
        for ref, record in records.items():
            self._set(name, ref, record)

    def _set(self, name: str, ref: str, record: Record | None) -> None:
        """Hold `record`, or nothing where it is None, and note what that changes."""
        if not self._wanted.wants(name, ref):
            return
        table = self._objects.setdefault(name, {})
        old = table.get(ref)
        if record is None:
            if old is not None:
                del table[ref]
                self._changes.append(Change(spelled(name), "del", Ref(ref), old))
        elif old is None or old != record:
            table[ref] = record
            self._changes.append(Change(spelled(name), "add" if old is None else "mod", Ref(ref), record))


def watch(session: Session, classes: Many[str] = ("*",), *, timeout: float = POLL) -> Generator[Change, None, None]:
    """The changes of the pool from now on, without end, until `session` is logged out.

    `classes` are as for `PoolCache`; `timeout` is the seconds that one call waits at the server. Objects that are there
    already are not told. Waits while the master is away, and then tells what changed meanwhile. With a host before 6.5 there
    is a login of its own until the iterator is closed; a logout is then noticed when a call returns, within half a minute.
    """
    changes = _changes(PoolCache(session, classes, poll=timeout))
    next(changes)
    return changes


def _changes(cache: PoolCache) -> Generator[Any, None, None]:
    """The changes, after one thing that is none: a generator that was not begun would not close the cache at its end."""
    with cache:
        yield None
        while True:
            try:
                changes = cache.update(None)
            except (XenctlError, RuntimeError):
                if not cache.session.is_open:
                    return
                raise
            yield from changes


def _passes(error: XenctlError) -> bool:
    """Whether an error is one of a master that is away or starts."""
    if isinstance(error, Failure):
        return error.code in STARTING
    return isinstance(error, (ConnectError, ConnectionLost, WaitTimeout))
