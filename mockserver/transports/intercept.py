"""`activate`: programs that use requests are answered by a pool in the same process, without sockets.

The `responses` library steps in where requests' adapter would send; each request to the address of one of the pool's hosts
is answered by that host, with real bytes both ways. A host that is off refuses the connection, as on a network. What
goes elsewhere is refused with a list of the hosts that there are, or let through where that is asked for.

Simulated time runs on between two requests: the next thing due happens before each, so a program that polls sees
progress although nobody waits in here.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from errno import ECONNREFUSED, ECONNRESET
from functools import wraps
from threading import RLock
from typing import TYPE_CHECKING, Any, NoReturn, TypeVar, cast
from urllib.parse import urlsplit

from xenctl.errors import ConnectError, ConnectionLost, TransportError
from xenctl.transport import Request

from .inprocess import InProcessTransport

if TYPE_CHECKING:
    from requests import PreparedRequest
    from responses import RequestsMock

    from ..pool import MockPool

F = TypeVar("F", bound=Callable[..., Any])

METHODS = ("GET", "POST", "PUT", "HEAD", "OPTIONS", "DELETE")
ANYWHERE = "http"
"""How every URL begins that requests sends."""


class activate:  # noqa: N801 - used as a decorator and as a context, like `responses.activate`
    """Answer what requests sends to `pool`'s hosts: as a context manager, a decorator, or by `start` and `stop`.

    URLs name hosts by their addresses (`pool.url` is the master's), with `http` or `https` and any port. `passthrough` lets
    requests to other places go there. Needs the `responses` library (extra `test`). Threads may call at the same time.
    """

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
        """Answer while `function` runs."""

        @wraps(function)
        def run(*args: Any, **kwargs: Any) -> Any:
            with activate(self._pool, passthrough=self._passthrough):
                return function(*args, **kwargs)

        return cast("F", run)

    def start(self) -> None:
        """Answer from now on. Raises `RuntimeError` where that was done already."""
        if self._mock is not None:
            raise RuntimeError("this pool answers already: stop it first, or activate it a second time")
        mock = self._new()
        for method in METHODS:
            mock.add_callback(
                method, re.compile(ANYWHERE), callback=self._answer, content_type=None, match=[self._is_ours]
            )
        if self._passthrough:
            mock.add_passthru(ANYWHERE)
        mock.start()
        self._mock = mock

    def stop(self) -> None:
        """Let requests send again."""
        mock, self._mock = self._mock, None
        if mock is not None:
            mock.stop(allow_assert=False)

    def _is_ours(self, request: PreparedRequest) -> tuple[bool, str]:
        """Whether a request goes to a host of the pool; if not, why."""
        name = urlsplit(request.url or "").hostname or ""
        if self._pool.machine_at(name) is not None:
            return True, ""
        hosts = ", ".join(f"{machine.name} at {machine.address}" for machine in self._pool.world.machines)
        return False, f"no host of the fake pool is at {name}; there are {hosts}"

    def _answer(self, request: PreparedRequest) -> tuple[int, dict[str, str], bytes]:
        parts = urlsplit(request.url or "")
        path = f"{parts.path or '/'}?{parts.query}" if parts.query else parts.path or "/"
        body: Any = request.body or b""
        sent = Request(
            f"{parts.scheme}://{parts.netloc}",
            request.method or "GET",
            path,
            {name: str(value) for name, value in request.headers.items()},
            body.encode() if isinstance(body, str) else body,
        )
        with self._lock:
            if self._mock is not None:
                self._mock.calls.reset()
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
