"""`activate`: programs that use requests are answered by a pool in the same process, without sockets.

The `responses` library steps in where requests' adapter would send; each request to the address of one of the pool's hosts
is answered by that host, with real bytes both ways. A host that is off refuses the connection, as on a network. What
goes elsewhere is refused with a list of the hosts that there are, or let through where that is asked for. Several pools may
be active at the same time, as long as no two hosts of theirs have one address: addresses alone say whom a request is for.

Simulated time runs on between two requests: the next thing due happens before each, so a program that polls sees
progress although nobody waits in here.
"""

from __future__ import annotations

import re
from collections.abc import AsyncGenerator, Callable, Generator, Iterable
from errno import ECONNREFUSED, ECONNRESET
from functools import wraps
from inspect import getattr_static, isasyncgenfunction, iscoroutinefunction, isgeneratorfunction
from threading import RLock
from typing import TYPE_CHECKING, Any, ClassVar, NoReturn, TypeVar, cast
from unittest import TestCase
from urllib.parse import urlsplit

from xenctl.errors import ConnectError, ConnectionLost, TransportError
from xenctl.transport import Request

from .inprocess import InProcessTransport

if TYPE_CHECKING:
    from requests import PreparedRequest
    from responses import RequestsMock

    from ..pool import MockPool

F = TypeVar("F", bound=Callable[..., Any])
C = TypeVar("C", bound=type[Any])

METHODS = ("GET", "POST", "PUT", "HEAD", "OPTIONS", "DELETE")
ANYWHERE = "http"
"""How every URL begins that requests sends."""


class activate:  # noqa: N801 - used as a decorator and as a context, like `responses.activate`
    """Answer what requests sends to `pool`'s hosts: as a context manager, a decorator, or by `start` and `stop`.

    URLs name hosts by their addresses (`pool.url` is the master's), with `http` or `https` and any port. `passthrough` lets
    requests to other places go there. Needs the `responses` library (extra `test`). Threads may call at the same time.

    It decorates functions, coroutines and generators of either kind; and classes: a `unittest.TestCase` is answered from
    `setUp` to the last cleanup of each test, any other class within each method whose name begins with `test`.
    """

    _active: ClassVar[list[activate]] = []
    """Who answers in this process, the latest last: requests is one for all threads, and so is this."""
    _started: ClassVar[list[tuple[activate, RequestsMock]]] = []
    """What stands in the place of requests' way to send, the latest last; taken away in this order alone."""
    _switching: ClassVar[RLock] = RLock()

    def __init__(self, pool: MockPool, *, passthrough: bool = False) -> None:
        try:
            from responses import RequestsMock
        except ImportError:
            raise ImportError(
                "mockserver.activate needs the responses library: install xenctl[test], or responses"
            ) from None
        self._pool, self._passthrough = pool, passthrough
        self._inner = InProcessTransport(pool)
        self._lock = RLock()
        self._new: Callable[[], RequestsMock] = lambda: RequestsMock(assert_all_requests_are_fired=False)
        self._mock: RequestsMock | None = None

    def __enter__(self) -> MockPool:
        self.start()
        return self._pool

    def __exit__(self, *_: object) -> None:
        self.stop()

    def __call__(self, function: F) -> F:
        """Answer while `function` runs, however it does: until its result is there, its coroutine or generator at an end, or
        for a class, while its tests run. Raises `TypeError` for a class without tests."""
        if isinstance(function, type):
            return cast("F", self._class(function))
        again = self._again

        @wraps(function)
        def run(*args: Any, **kwargs: Any) -> Any:
            with again():
                return function(*args, **kwargs)

        @wraps(function)
        async def wait(*args: Any, **kwargs: Any) -> Any:
            with again():
                return await function(*args, **kwargs)

        @wraps(function)
        def generate(*args: Any, **kwargs: Any) -> Generator[Any, Any, Any]:
            with again():
                return (yield from function(*args, **kwargs))

        @wraps(function)
        async def generate_and_wait(*args: Any, **kwargs: Any) -> AsyncGenerator[Any, Any]:
            with again():
                made: AsyncGenerator[Any, Any] = function(*args, **kwargs)
                try:
                    item = await made.asend(None)
                    while True:
                        try:
                            sent = yield item
                        except GeneratorExit:
                            raise
                        except BaseException as error:  # noqa: BLE001 - it is for the generator within
                            item = await made.athrow(error)
                        else:
                            item = await made.asend(sent)
                except StopAsyncIteration:
                    return
                finally:
                    await made.aclose()

        ways: tuple[tuple[Callable[[Any], bool], Any], ...] = (
            (iscoroutinefunction, wait),
            (isgeneratorfunction, generate),
            (isasyncgenfunction, generate_and_wait),
        )
        return cast("F", next((way for fits, way in ways if fits(function)), run))

    def _again(self) -> activate:
        """Another of the same kind: what is decorated may run many times, and several times at once."""
        return activate(self._pool, passthrough=self._passthrough)

    def _class(self, cls: C) -> C:
        """Answer while the tests of a class run."""
        names = [name for name in dir(cls) if name.startswith("test") and callable(getattr(cls, name))]
        if issubclass(cls, TestCase):
            names = ["run"]  # which also sets up and tears down
        if not names:
            raise TypeError(
                f"activate answers while the tests of a class run, and {cls.__name__} has none: decorate a "
                "function, a class with methods called test..., or use activate(pool) as a context"
            )
        for name in names:
            raw = getattr_static(cls, name)
            kind = type(raw) if isinstance(raw, (staticmethod, classmethod)) else None
            setattr(cls, name, kind(self(raw.__func__)) if kind else self(raw))
        return cls

    def start(self) -> None:
        """Answer from now on. Raises `RuntimeError` where that was done already, and where a host of another pool that is
        active has the address of one of these."""
        with self._switching:
            self._start()

    def _start(self) -> None:
        if self._mock is not None:
            raise RuntimeError("this pool answers already: stop it first, or activate it a second time")
        self._assert_alone()
        mock = self._new()
        for method in METHODS:
            mock.add_callback(
                method, re.compile(ANYWHERE), callback=self._hand_on, content_type=None, match=[self._is_ours]
            )
        if self._passthrough:
            mock.add_passthru(ANYWHERE)
        mock.start()
        self._mock = mock
        self._active.append(self)
        self._started.append((self, mock))

    def _assert_alone(self) -> None:
        """Which pool a request is for is told by its address; two hosts with one address would hide each other."""
        for other in self._active:
            if other._pool.world is self._pool.world:
                continue
            for machine in self._pool.world.machines:
                there = other._pool.machine_at(machine.address)
                if there is not None:
                    raise RuntimeError(
                        f"{machine.address} is the address of {machine.name}, and of {there.name} in another pool that is "
                        "active: stop that one first, or make this one by its `neighbour()`, whose hosts have others"
                    )

    def stop(self) -> None:
        """Let requests send again. Those who started earlier go on, whoever stops first."""
        with self._switching:
            if self._mock is not None:
                self._mock = None
                self._active.remove(self)
            while self._started and self._started[-1][0]._mock is not self._started[-1][1]:
                self._started.pop()[1].stop(allow_assert=False)

    def _whose(self, request: PreparedRequest) -> activate | None:
        """Whose pool a request is for."""
        name = urlsplit(request.url or "").hostname or ""
        return next((one for one in reversed(self._active) if one._pool.machine_at(name) is not None), None)

    def _is_ours(self, request: PreparedRequest) -> tuple[bool, str]:
        """Whether a request goes to a host of an active pool; if not, why."""
        if self._whose(request) is not None:
            return True, ""
        name = urlsplit(request.url or "").hostname or ""
        worlds = {id(one._pool.world): one._pool.world for one in self._active}
        hosts = ", ".join(f"{m.name} at {m.address}" for world in worlds.values() for m in world.machines)
        return False, f"no host of the fake pool is at {name}; there are {hosts}"

    def _hand_on(self, request: PreparedRequest) -> tuple[int, dict[str, str], bytes]:
        """Let the one answer whose pool a request is for."""
        if self._mock is not None:
            self._mock.calls.reset()
        return (self._whose(request) or self)._answer(request)

    def _answer(self, request: PreparedRequest) -> tuple[int, dict[str, str], bytes]:
        parts = urlsplit(request.url or "")
        path = f"{parts.path or '/'}?{parts.query}" if parts.query else parts.path or "/"
        sent = Request(
            f"{parts.scheme}://{parts.netloc}",
            request.method or "GET",
            path,
            {name: str(value) for name, value in request.headers.items()},
            _whole(request.body),
        )
        with self._lock:
            moment = self._pool.clock.next_moment()
            if moment is not None:
                self._pool.clock.step(moment)
            try:
                answer = self._inner.send(sent)
            except TransportError as error:
                _raise(error, sent)
        try:
            return answer.status, dict(answer.headers), answer.read()
        except ConnectionLost as error:
            raise _broken_off(error) from error


def _whole(body: Any) -> bytes:
    """The bytes of a body: of a text, a file, or of what is sent piece by piece."""
    if not body:
        return b""
    if hasattr(body, "read"):
        body = body.read()
    if isinstance(body, (str, bytes, bytearray, memoryview)):
        return body.encode() if isinstance(body, str) else bytes(body)
    pieces: Iterable[Any] = body
    return b"".join(_whole(piece) for piece in pieces)


def _broken_off(error: ConnectionLost) -> Exception:
    """What requests raises when the connection breaks in the middle of an answer."""
    from requests.exceptions import ChunkedEncodingError
    from urllib3.exceptions import ProtocolError

    return ChunkedEncodingError(ProtocolError(f"Connection broken: {error.message}", error))


def _raise(error: TransportError, request: Request) -> NoReturn:
    """Raise what requests raises when this happens on a network."""
    from requests.exceptions import ConnectionError as NoConnection
    from requests.exceptions import ReadTimeout
    from urllib3.exceptions import MaxRetryError, NewConnectionError, ProtocolError

    where: Any = f"HTTPConnectionPool(host={urlsplit(request.host).hostname!r})"
    if isinstance(error, ConnectError):
        refused = NewConnectionError(where, f"Failed to establish a new connection: {error.message}")
        refused.__cause__ = ConnectionRefusedError(ECONNREFUSED, error.message)
        raise NoConnection(MaxRetryError(where, request.path, refused)) from refused
    if isinstance(error, ConnectionLost):
        lost = ProtocolError("Connection aborted.", ConnectionResetError(ECONNRESET, error.message))
        raise NoConnection(lost) from lost
    raise ReadTimeout(error.message) from error
