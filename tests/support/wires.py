"""What the tests of the session look through: a transport that shows what passes, one whose hosts answer by a script, and
sessions that speak XML-RPC over them."""

from __future__ import annotations

import io
import threading
from collections.abc import Callable
from functools import partial
from typing import Any

from mockserver.pool import MockPool
from xenctl import session as sessions
from xenctl import xmlrpc
from xenctl.errors import Failure
from xenctl.transport import Clock, Request, Response, SystemClock, Transport

PASSWORD = "hunter2"

# What is scripted here is XML-RPC; `test_protocols.py` tells how a session finds out what a host speaks.
Session = partial(sessions.Session, protocol="xmlrpc")
connect = partial(sessions.connect, protocol="xmlrpc")


def answered(body: bytes, status: int = 200, **headers: str) -> Response:
    """One HTTP answer."""
    return Response(status, headers, io.BytesIO(body))


class Wire:
    """A transport that hands on to another one, one request at a time, and remembers the calls; `before` and `after`
    may raise, or answer in its place."""

    def __init__(self, inner: Transport) -> None:
        self.lead_to(inner)
        self._lock = threading.Lock()
        self.calls: list[tuple[str, str, list[Any]]] = []
        self.before: Callable[[str, str], Response | None] = lambda method, host: None
        self.after: Callable[[str, str], Response | None] = lambda method, host: None
        self.closed = False

    def lead_to(self, inner: Transport) -> None:
        """Hand on to another transport from now on."""
        self._inner = inner

    @property
    def clock(self) -> Clock:
        return self._inner.clock

    @property
    def methods(self) -> list[str]:
        """The methods that were called, in order."""
        return [method for _, method, _ in self.calls]

    def send(self, request: Request) -> Response:
        method, params = xmlrpc.loads_call(request.body) if request.body else (request.path.partition("?")[0], [])
        self.calls.append((request.host, method, params))
        answer = self.before(method, request.host)
        if answer is None:
            with self._lock:
                answer = self._inner.send(request)
        return self.after(method, request.host) or answer

    def close(self) -> None:
        self.closed = True


class Scripted:
    """A transport whose hosts answer what `reply` returns or raises for a host, a method and its parameters."""

    clock: Clock = SystemClock()

    def __init__(self, reply: Callable[[str, str, list[Any]], Any]) -> None:
        self.reply = reply
        self.calls: list[tuple[str, str]] = []

    def send(self, request: Request) -> Response:
        method, params = xmlrpc.loads_call(request.body)
        self.calls.append((request.host, method))
        try:
            value = self.reply(request.host, method, params)
        except Failure as failure:
            return answered(xmlrpc.dumps_failure(failure.details))
        return value if isinstance(value, Response) else answered(xmlrpc.dumps_success(value))

    def close(self) -> None:
        """Nothing is held."""


def member_url(pool: MockPool) -> str:
    """The URL of a host that is not the master."""
    return f"http://{pool.machines[1].address}"


def restart(pool: MockPool) -> None:
    """Cut the master's power and bring it back up: it has forgotten all sessions."""
    name = pool.master.name
    pool.hands.power_off(name)
    pool.hands.power_on(name)
    pool.clock.advance(600)
    assert pool.master_serves


def sessions_of(pool: MockPool) -> int:
    """How many sessions the server holds."""
    return len(pool.store.table("session"))
