"""Processes that die: before and after every call to the pool, every act of the hands, and every write of the journal.

`Fate` counts these points over one run and, at the one it was given, raises `Killed`, which nothing in the library catches.
Whoever resumes opens the journal anew, with another session, as another process would.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from mockserver import MockPool
from xenctl.procedures.journal import Journal
from xenctl.session import Session


class Killed(BaseException):
    """The process is gone."""


@dataclass
class Fate:
    """Dies at point number `at`, `after` the deed or before it. Never, with 0; then `points` holds what was passed."""

    at: int = 0
    after: bool = False
    points: list[str] = field(default_factory=list)
    dead: bool = False

    def meets(self, what: str, deed: Callable[[], Any]) -> Any:
        """Do `deed`, unless this is where it ends. A dead process does nothing any more."""
        if self.dead:
            raise Killed(what)
        self.points.append(what)
        here = len(self.points) == self.at
        if here and not self.after:
            self.dead = True
            raise Killed(f"before {what}")
        try:
            return deed()
        finally:
            if here:
                self.dead = True
                raise Killed(f"after {what}")


class MortalTransport:
    """A transport under a fate."""

    def __init__(self, inner: Any, fate: Fate) -> None:
        self.inner, self.fate, self.clock = inner, fate, inner.clock

    def send(self, request: Any) -> Any:
        name = request.body.partition(b"<methodName>")[2].partition(b"<")[0].decode() if request.body else ""
        return self.fate.meets(name or request.path, lambda: self.inner.send(request))

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
    """The journal, each of whose writes is a point."""
    writing = journal._writing

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
