"""A fake pool, a session with it, and what the tests of events do to it behind the client's back."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from mockserver import MockPool
from xenctl import xmlrpc
from xenctl.api import types as t
from xenctl.events import Change
from xenctl.session import Session, connect
from xenctl.tasks import Task
from xenctl.transport import Clock, Request, Response, Transport

RELEASES = ["4.0.1", "5.6", "6.0", "8.2"]
"""Two that have `event.next` only, the one that has no `event.inject`, and one that has all."""


class Wire:
    """A transport that hands on to another one and notes methods; `before` and `after` may raise, and change the answer."""

    def __init__(self, inner: Transport) -> None:
        self._inner = inner
        self.methods: list[str] = []
        self._bodies: list[bytes] = []
        self.before: Callable[[str], None] = lambda method: None
        self.after: Callable[[str, Response], Response] = lambda method, answer: answer

    @property
    def clock(self) -> Clock:
        return self._inner.clock

    def send(self, request: Request) -> Response:
        self.methods.append(request.label)
        self._bodies.append(request.body)
        self.before(request.label)
        return self.after(request.label, self._inner.send(request))

    def params(self, method: str) -> list[list[Any]]:
        """The parameters of each call of `method`, the session first."""
        calls = [xmlrpc.loads_call(body) for body in self._bodies]
        return [params for name, params in calls if name == method]

    def close(self) -> None:
        """Nothing is held."""


class Fake:
    """A pool of two hosts and six guests, and a session with it; the login is not among the wire's methods."""

    def __init__(self, release: str, **shape: Any) -> None:
        self.pool = MockPool.create(**{"hosts": 2, "vms": 6, "release": release, **shape})
        self.wire = Wire(self.pool.transport())
        self.session = self.log_in()
        self.wire.methods.clear()

    @property
    def now(self) -> float:
        return self.pool.clock.now()

    @property
    def sessions(self) -> int:
        """How many sessions the server holds."""
        return len(self.pool.store.table("session"))

    @property
    def has_own_logins(self) -> bool:
        """Whether caches log in separately, because calls of one session take each other's events."""
        return self.pool.store.release.version < (6, 5)

    @property
    def followed(self) -> list[str]:
        """The classes that tell of changes."""
        return [name for name in self.pool.store.tables if self.pool.store.model.classes[name].events]

    @property
    def filled(self) -> list[str]:
        """Those of which there are objects; a host may have lost the messages of the others."""
        return [name for name in self.followed if self.pool.store.table(name)]

    def log_in(self) -> Session:
        return connect(self.pool.url, self.pool.username, self.pool.password, transport=self.wire, protocol="xmlrpc")

    def row(self, kind: str, name: str) -> Any:
        return next(row for row in self.pool.store.table(kind).values() if row["name_label"] == name)

    def vm(self, name: str) -> str:
        """The reference of a guest."""
        ref: str = self.row("VM", name).ref
        return ref

    def rename(self, name: str, label: str) -> None:
        self.pool.store.write(self.row("VM", name), name_label=label)

    def add(self, name: str, count: int = 1, kind: str = "network") -> list[str]:
        """Make objects; their references."""
        refs = [self.pool.new_ref() for _ in range(count)]
        for ref in refs:
            self.pool.store.create(kind, ref, {"uuid": self.pool.new_uuid(), "name_label": name})
        return refs

    def remove(self, *refs: str, kind: str = "network") -> None:
        for ref in refs:
            self.pool.store.delete(self.pool.store.get(kind, ref))

    def forget_sessions(self) -> None:
        self.remove(*self.pool.store.table("session"), kind="session")

    def later(self, seconds: float, action: Callable[..., Any], *args: Any, **options: Any) -> None:
        """Do something while the client waits."""
        self.pool.clock.after(seconds, lambda: action(*args, **options) and None)

    def cycle_power(self) -> None:
        """Cut the master's power and switch it on again a minute later."""
        name = self.pool.master.name
        self.pool.hands.power_off(name)
        self.later(60.0, self.pool.hands.power_on, name)

    def shut_down_guests(self, session: Session | None = None) -> list[Task[None]]:
        """The clean shutdown of every guest that runs, as tasks."""
        session = session or self.session
        vms: list[tuple[Any, t.VM]] = list(session.VM.get_all_records().items())
        running = [ref for ref, vm in vms if vm.power_state == "Running" and not vm.is_control_domain]
        return [session.Async.VM.clean_shutdown(ref) for ref in running]

    @staticmethod
    def told(changes: list[Change]) -> list[tuple[str, str, str]]:
        """Class, operation and name of each change."""
        return [(c.class_name, c.operation, c.record.get("name_label", "")) for c in changes]


@pytest.fixture(params=RELEASES)
def fake(request: pytest.FixtureRequest) -> Fake:
    """A pool of each release."""
    return Fake(request.param)


@pytest.fixture(scope="session")
def make() -> Callable[..., Fake]:
    """Make a pool of a release; further keywords are those of `MockPool.create`."""
    return Fake
