"""A session with a pool: logs in and out, finds the master, sends calls.

Only a pool's master answers; a member refuses with `HOST_IS_SLAVE` and names the master, and the session follows. A
master that restarts forgets its sessions (`SESSION_INVALID`); the session then logs in again with the credentials it
was given and repeats the call. Both refusals come before the call has any effect, so repeating is safe; nothing else is
ever repeated.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from types import TracebackType
from typing import Any, TypeVar

from . import xmlrpc
from .api import AsyncClasses, Classes
from .errors import Failure, ProtocolError, failure
from .tasks import Task
from .transport import Clock, HttpTransport, Request, Response, Transport, origin_at, origin_of
from .values import Ref, to_any, to_string

T = TypeVar("T")

log = logging.getLogger(__name__)

RPC_HEADERS: Mapping[str, str] = {"content-type": "text/xml", "user-agent": "xenctl"}
MAX_HOPS = 3
"""How many redirects to a master are followed for one call: a pool points at one master, so more is a circle."""


class Session(Classes):
    """A pool, spoken to as one user. Its attributes are XenAPI's classes: `session.VM.start(vm, False, False)`.

    `session.Async.VM.start(...)` starts the operation and returns a `Task`; `session.call("VM.new_thing", ...)` reaches
    what the data model does not know. As a context manager it logs out at the end. `url` may name any host of the pool.
    """

    def __init__(self, url: str, *, transport: Transport | None = None, **options: Any) -> None:
        self.origin = origin_of(url)
        self.transport: Transport = transport if transport is not None else HttpTransport(**options)
        self._owns_transport = transport is None
        self.ref: Ref[Any] | None = None
        self._login: tuple[str, tuple[str, ...]] | None = None

    def __repr__(self) -> str:
        return f"<Session with {self.origin}{'' if self.ref else ', not logged in'}>"

    def __enter__(self) -> Session:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            self.logout()
        except Exception:
            if error is None:
                raise
            log.debug("logout failed after an earlier error", exc_info=True)
        finally:
            if self._owns_transport:
                self.transport.close()

    @property
    def clock(self) -> Clock:
        """The clock of the transport, on which all waiting is done."""
        return self.transport.clock

    @property
    def xenapi(self) -> Session:
        """This session, for those who know it as `session.xenapi.VM.start`."""
        return self

    @cached_property
    def Async(self) -> AsyncClasses:  # noqa: N802 - XenAPI's own word
        """The messages that have an asynchronous form; each returns a `Task`."""
        return AsyncClasses(_AsyncCaller(self))

    def login_with_password(self, username: str, password: str) -> None:
        """Log in, following `HOST_IS_SLAVE` to the master. Two arguments are sent, which every release accepts."""
        self._login = ("session.login_with_password", (username, password))
        self.ref = None
        self.ref = self._log_in()

    def logout(self) -> None:
        """End the session on the server; does nothing where there is none. Sessions are scarce there."""
        self._login = None
        if self.ref is not None:
            ref, self.ref = self.ref, None
            try:
                self._exchange("session.logout", (ref,))
            except Failure as error:
                if error.code not in ("SESSION_INVALID", "HOST_IS_SLAVE"):
                    raise

    def call(self, method: str, args: Sequence[Any] = (), convert: Callable[[Any], T] = to_any) -> T:
        """Send any method by its wire name with `args` (without the session) and convert what comes back.

        Raises the `Failure` of the error code, `TransportError` where no answer came, `ProtocolError` where it was
        none of XenAPI's.
        """
        hops = 0
        while True:
            if self.ref is None:
                if self._login is None:
                    raise ValueError(f"{method} on {self.origin}: not logged in")
                self.ref = self._log_in()
            try:
                wire = self._exchange(method, (self.ref, *args))
                break
            except Failure as error:
                hops += 1
                if self._login is None or hops > MAX_HOPS or not self._recovers(error, method):
                    raise
        try:
            return convert(wire)
        except ValueError as error:
            raise ProtocolError(f"the answer is not of its type: {error}", host=self.origin, method=method) from error

    def _recovers(self, error: Failure, method: str) -> bool:
        if error.code == "HOST_IS_SLAVE" and error.params:
            self.origin = origin_at(self.origin, error.params[0])
        elif not (error.code == "SESSION_INVALID" and error.params[:1] == [self.ref]):
            return False
        log.info("%s: %s on %s, logging in again", method, error.code, self.origin)
        self.ref = None
        return True

    def _log_in(self) -> Ref[Any]:
        assert self._login is not None
        method, credentials = self._login
        for _ in range(MAX_HOPS):
            try:
                ref: Ref[Any] = Ref(to_string(self._exchange(method, credentials)))
            except Failure as error:
                if error.code != "HOST_IS_SLAVE" or not error.params:
                    raise
                self.origin = origin_at(self.origin, error.params[0])
                log.info("following HOST_IS_SLAVE to the master at %s", self.origin)
            else:
                return ref
        raise ProtocolError(f"no master found in {MAX_HOPS} redirects", host=self.origin, method=method)

    def _exchange(self, method: str, params: Sequence[Any]) -> Any:
        body = xmlrpc.dumps_call(method, params)
        started = self.transport.clock.now()
        answer = self.transport.send(Request(self.origin, "POST", "/", RPC_HEADERS, body))
        data = answer.read()
        log.debug("%s on %s: HTTP %d, %.3f s", method, self.origin, answer.status, self.clock.now() - started)
        if answer.status != 200:
            start = data[:120].decode("utf-8", "replace")
            raise ProtocolError(f"HTTP status {answer.status}: {start!r}", host=self.origin, method=method)
        try:
            return xmlrpc.loads_response(data)
        except xmlrpc.MalformedError as error:
            raise ProtocolError(f"the answer cannot be read: {error}", host=self.origin, method=method) from error
        except Failure as error:
            raise self.failure(error.details) from None

    def failure(self, details: Sequence[str], /) -> Failure:
        """The typed error for `[code, *params]`."""
        from .api import errors

        assert errors
        return failure(details)

    def fetch(self, path: str) -> Response:
        """GET an HTTP handler's `path` on the master as this session's user (`/pool/xmldbdump`). Raises
        `ProtocolError` for a status other than 200."""
        if self.ref is None:
            self.ref = self._log_in()
        separator = "&" if "?" in path else "?"
        answer = self.transport.send(Request(self.origin, "GET", f"{path}{separator}session_id={self.ref}", {}))
        if answer.status != 200:
            answer.stream.close()
            raise ProtocolError(f"HTTP status {answer.status}", host=self.origin, method=f"GET {path}")
        return answer


class _AsyncCaller:
    """Sends calls in their asynchronous form."""

    def __init__(self, session: Session) -> None:
        self._session = session

    def call(self, method: str, args: Sequence[Any], convert: Callable[[Any], T], /) -> Task[T]:
        ref = self._session.call(f"Async.{method}", args, to_string)
        return Task(self._session, ref, method, convert)


def connect(url: str, username: str, password: str, **options: Any) -> Session:
    """Log in to the pool that the host at `url` belongs to and return the session; use it with `with`.

    `options` are those of `HttpTransport` (`verify`, `connect_timeout`, `read_timeout`, `trust_env`), or `transport`.
    Raises `Failure` (`SESSION_AUTHENTICATION_FAILED`), `TransportError`, or `ValueError` for a malformed URL.
    """
    session = Session(url, **options)
    session.login_with_password(username, password)
    return session
