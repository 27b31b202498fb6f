"""Processes that die: before and after every call to the pool, every act of the hands, and every write of the journal.

`Fate` counts these points over one run and, at the one it was given, raises `Killed`, which nothing in the library catches.
Whoever resumes opens the journal anew, with another session, as another process would.

`Branches` is a fate that survives. At each chosen point the whole process forks (by the system, so the pool in it is
copied as it is, with what is under way), and the copy meets what the original is spared: it dies there and resumes,
or a call fails. So one run serves every point, and only what comes after a point is run again."""

from __future__ import annotations

import gc
import os
import random
import shutil
import traceback
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from mockserver import MockPool
from mockserver.journal import Undo
from xenctl.errors import ConnectionLost, ProcedureError
from xenctl.procedures.journal import Journal
from xenctl.session import Session

T = TypeVar("T")

CHILDREN = os.cpu_count() or 1
"""How many copies live at once."""


class Killed(BaseException):
    """The process is gone."""


def sampled(every: Sequence[T], count: int, *, seed: int) -> list[T]:
    """As many of all ways as `XENCTL_CHAOS_SAMPLE` says, where it is set, or else `count`; 0 stands for all of them."""
    count = int(os.environ.get("XENCTL_CHAOS_SAMPLE", count))
    return random.Random(seed).sample(every, min(count, len(every))) if count else list(every)


def kills(points: Sequence[str], count: int, *, seed: int, first: int = 1) -> list[tuple[int, bool]]:
    """Where to die, as the number of the point, from `first` on, and whether after it: a sample, as `sampled` has it. Tells
    what was left out."""
    every = [(number, after) for number in range(first, len(points) + 1) for after in (False, True)]
    chosen = sampled(every, count, seed=seed)
    print(f"\nchaos: {len(points)} points, {len(every)} kills, {len(chosen)} chosen (seed {seed})", flush=True)  # noqa: T201
    return chosen


@dataclass
class Fate:
    """Dies at point number `at`, `after` the deed or before it, or at the first point called `until`. Never, with neither;
    then `points` holds what was passed."""

    at: int = 0
    after: bool = False
    until: str = ""
    points: list[str] = field(default_factory=list)
    dead: bool = False

    def meets(self, what: str, deed: Callable[[], Any]) -> Any:
        """Do `deed`, unless this is where it ends. A dead process does nothing any more."""
        if self.dead:
            raise Killed(what)
        self.points.append(what)
        here = len(self.points) == self.at or what == self.until
        if here and not self.after:
            self.dead = True
            raise Killed(f"before {what}")
        try:
            return deed()
        finally:
            if here:
                self.dead = True
                raise Killed(f"after {what}")


Resume = Callable[[Path], str]
"""Goes on with the run whose journal is at the path, to its end; what is wrong with that end, empty if nothing is."""


class Still:
    """A moment of a pool, and of a run's file: whether anything is another since, but for counters of calls and bytes.

    The pool's own journal tells, in which every change of its state goes while somebody wants it. (A savepoint would want
    more: that nothing is under way.) So two processes that die where nothing changed in between leave the same behind."""

    def __init__(self, pool: MockPool, path: Path) -> None:
        self._pool, self._path, self._file = pool, path, _content(path)
        assert pool.journal.entries is None
        self._changes = pool.journal.entries = []
        pool.journal.mark = object()

    def lasts(self) -> bool:
        """Whether it is as it was. Where it is not, this need not be asked again."""
        if all(map(self._is_none, self._changes)) and _content(self._path) == self._file:
            return True
        self.end()
        return False

    def end(self) -> None:
        """Look no more."""
        self._pool.journal.entries = self._pool.journal.mark = None

    def _is_none(self, change: Undo) -> bool:
        """Whether a change, told by how to undo it, is only of a counter, or put a value in the place of its like."""
        undo, args = change
        owner = getattr(undo, "__self__", None)
        if owner is self._pool.wire_bytes or (owner is vars(self._pool) and args[0] == "calls"):
            return True
        return isinstance(owner, dict) and undo == owner.__setitem__ and owner.get(args[0], self) == args[1]


def _content(path: Path) -> bytes:
    return path.read_bytes() if path.is_file() else b""


@dataclass
class Branches(Fate):
    """Forks at the `chosen` points, told by number and by what becomes of the copy there, one of `KILLS` or `FAULTS` (every
    one, without `chosen`).

    With `resume` each copy is a process that dies there: its journal is copied, and gone on with. Without, the copy lives on
    and something fails there: `child` is true then, and whoever began the run calls `report`. `deaths` counts the copies,
    `shared` those that need not be made, since all that a copy would find is as another found it, and `again` those that
    ended at once: the next thing they did was to ask the same again, where nothing was another, as the original did.
    """

    pool: MockPool | None = None
    path: Path = Path()
    chosen: frozenset[tuple[int, str]] | None = None
    resume: Resume | None = None
    child: bool = False
    deaths: int = 0
    shared: int = 0
    again: int = 0
    broken: list[str] = field(default_factory=list)
    where: str = ""
    _alive: dict[int, tuple[str, int]] = field(default_factory=dict)
    _died: Still | None = None
    _failed: tuple[Callable[[], Any], Still] | None = None

    def meets(self, what: str, deed: Callable[[], Any]) -> Any:
        self.points.append(what)
        if self.child:
            self._asks_again(deed)
            return deed()
        if self.resume is None:
            return self._fails(what, deed) if can_fail(what) else deed()
        self._dies(BEFORE, what)
        try:
            return deed()
        finally:
            self._dies(AFTER, what)

    def _at(self, manner: str, what: str) -> str:
        return f"{manner} {what} (point {len(self.points)})"

    def _wanted(self, manner: str) -> bool:
        return self.chosen is None or (len(self.points), manner) in self.chosen

    def _dies(self, manner: str, what: str) -> None:
        """Have a copy die here, unless the last one died in the same state."""
        if self._died is not None and not self._died.lasts():
            self._died = None
        if not self._wanted(manner):
            return
        if self._died is not None:
            self.shared += 1
            return
        there = self.path.with_name(f"{self.path.name}-{len(self.points)}-{manner}")
        if self.path.exists():
            shutil.copyfile(self.path, there)
        if self._copied(self._at(f"killed {manner}", what)):
            assert self.resume is not None
            resume = self.resume
            self.report(lambda: resume(there))
        assert self.pool is not None
        self._died = Still(self.pool, self.path)

    def _fails(self, what: str, deed: Callable[[], Any]) -> Any:
        """Do a deed, and have copies to which each of `FAULTS` happens instead."""
        assert self.pool is not None
        for fault, instead in INSTEAD.items():
            if self._wanted(fault) and self._copied(self._at(fault, what)):
                if fault == UNHEARD:
                    self._failed = deed, Still(self.pool, self.path)
                return instead(self.pool, what, deed)
        if not self._wanted(LOST):
            return deed()
        moment = Still(self.pool, self.path)
        try:
            return deed()
        finally:
            nothing_done = moment.lasts()
            moment.end()
            if nothing_done and self._wanted(UNHEARD):  # the same but for the words of the error
                self.shared += 1
            elif self._copied(self._at(LOST, what)):
                raise ConnectionLost("the connection broke before the answer")

    def _asks_again(self, deed: Callable[[], Any]) -> None:
        """End a copy that goes on as the original does: what was not heard is asked again, and nothing is another."""
        if self._failed is None:
            return
        (failed, moment), self._failed = self._failed, None
        same = _request(deed) is not None and _request(deed) == _request(failed) and moment.lasts()
        moment.end()
        if same:
            self.report(lambda: AGAIN)

    def _copied(self, where: str) -> bool:
        """Whether this is the copy, which `where` is about."""
        while len(self._alive) >= CHILDREN:
            self._reap()
        self.deaths += 1
        reader, writer = os.pipe()
        with warnings.catch_warnings():
            warnings.simplefilter(
                "ignore", DeprecationWarning
            )  # of forking beside threads, which the copy does not use
            pid = os.fork()
        if pid:
            os.close(writer)
            self._alive[pid] = (where, reader)
            return False
        os.close(reader)
        gc.disable()  # a copy is short-lived, and collecting would copy every page
        self.child, self.where, self._writer = True, where, writer
        return True

    def report(self, check: Callable[[], str]) -> None:
        """Tell the original what `check` finds wrong, and end this copy."""
        try:
            said = check()
        except BaseException:  # noqa: BLE001  (whatever it is, the original must hear of it)
            said = traceback.format_exc()
        try:
            os.write(self._writer, said.encode()[:60000])
        finally:
            os._exit(0)

    def _reap(self) -> None:
        pid, (where, reader) = next(iter(self._alive.items()))
        with os.fdopen(reader, "rb") as told:
            said = told.read().decode()
        _, status = os.waitpid(pid, 0)
        del self._alive[pid]
        self.again += said == AGAIN
        if (said and said != AGAIN) or status:
            self.broken.append(f"{where}: {said or f'the process ended with {status}'}")

    def over(self) -> None:
        """Wait for every copy."""
        while self._alive:
            self._reap()


AGAIN = "asked again"
"""What a copy says that went on as the original did."""


def _request(deed: Callable[[], Any]) -> Any:
    """The request that a deed sends, None for what is no such deed."""
    return deed.args[0] if isinstance(deed, partial) else None


def can_fail(what: str) -> bool:
    """Whether a deed can fail on its way; a journal that cannot be written stops the run, which another test is about."""
    return not what.startswith("journal")


def _refused(pool: MockPool, what: str, deed: Callable[[], Any]) -> Any:
    if what.startswith("hands."):
        raise ProcedureError("the machine room does not answer")
    if what.startswith("/"):
        raise ConnectionLost("the connection was reset")
    pool.faults.add("error", code="INTERNAL_ERROR", params=["passing"])
    return deed()


def _unheard(pool: MockPool, what: str, deed: Callable[[], Any]) -> Any:
    raise ConnectionLost("the connection was reset before anything was read")


KILLS = BEFORE, AFTER = "before", "after"
"""When a process dies: before a deed, or after it."""
UNHEARD, LOST = "unheard", "answer lost"
INSTEAD: dict[str, Callable[[MockPool, str, Callable[[], Any]], Any]] = {"refused": _refused, UNHEARD: _unheard}
FAULTS = (*INSTEAD, LOST)
"""What can happen to a deed once: refused without effect, not heard at all, done with the answer lost."""


class MortalTransport:
    """A transport under a fate."""

    def __init__(self, inner: Any, fate: Fate) -> None:
        self.inner, self.fate, self.clock = inner, fate, inner.clock

    def send(self, request: Any) -> Any:
        name = request.body.partition(b"<methodName>")[2].partition(b"<")[0].decode() if request.body else ""
        return self.fate.meets(name or request.path, partial(self.inner.send, request))

    def close(self) -> None:
        self.inner.close()


class MortalHands:
    """Hands under a fate."""

    sees_power = True

    def __init__(self, inner: Any, fate: Fate) -> None:
        self._inner, self._fate = inner, fate

    def __getattr__(self, name: str) -> Any:
        deed = getattr(self._inner, name)
        return lambda *args: self._fate.meets(f"hands.{name}", lambda: deed(*args))


def mortal(journal: Journal, fate: Fate) -> Journal:
    """The journal, each of whose writes is a point. What a process has written stays when it dies, so nothing waits for the
    disk here."""
    writing = journal._writing
    journal._db.execute("PRAGMA synchronous=OFF")

    @contextmanager
    def watched() -> Iterator[Any]:
        fate.meets("journal, before", lambda: None)
        with writing() as db:
            yield db
        fate.meets("journal, after", lambda: None)

    journal._writing = watched  # type: ignore[method-assign]
    return journal


def session_on(pool: MockPool, fate: Fate) -> Session:
    """A session that logs in with its first call, as one that resumes while the master is away has to."""
    session = Session(pool.url, transport=MortalTransport(pool.transport(), fate), protocol="xmlrpc")
    session.login_later(pool.username, pool.password)
    return session
