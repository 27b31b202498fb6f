"""A session with a pool: logs in and out, finds the master, sends calls.

Only a pool's master answers; a member refuses with `HOST_IS_SLAVE` and names the master, and the session follows. A
master that restarts forgets its sessions (`SESSION_INVALID`); the session then logs in again, once for a call, with the
credentials it was given, and repeats the call. Both refusals come before the call has any effect, so repeating is safe;
nothing else is ever repeated.

Threads may share a session. One lock guards where it is (`origin`, `ref`) and is held while logging in, so that of many
threads whose session is gone one logs in and the others go on with what it got.

Neither the password nor the session's reference is in any message: where a server's words hold the reference, `THIS`
stands in its place.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from threading import RLock
from types import TracebackType
from typing import TYPE_CHECKING, Any, NoReturn, TypeVar

from . import xmlrpc
from .api import AsyncClasses, Classes
from .errors import Failure, ProtocolError, XenctlError, failure
from .tasks import Task
from .transport import Clock, HttpTransport, Request, Response, Transport, Upload, origin_at, origin_of
from .values import Ref, to_any, to_string, to_void

if TYPE_CHECKING:
    from typing_extensions import Unpack  # known to every checker, needed by nobody else

    from .transport import HttpOptions

T = TypeVar("T")

log = logging.getLogger(__name__)

RPC_HEADERS: Mapping[str, str] = {"content-type": "text/xml", "user-agent": "xenctl"}
MAX_HOPS = 3
"""How many redirects to a master are followed for one call: a pool points at one master, so more is a circle."""
_HANDLERS_ERROR = re.compile(r"\b([A-Z][A-Z0-9_]+): \[ (.*?) ?\]")
"""How the page of a handler that failed names the error and its parameters."""
THIS = "(this session)"
"""What stands for the session's reference in errors."""
SESSIONLESS = frozenset(
    "session.login_with_password session.slave_login session.slave_local_login "
    "session.slave_local_login_with_password".split()
)
"""The methods that take no session; those of `system.` take none either."""


@dataclass(frozen=True)
class _Login:
    """How to log in."""

    method: str
    arguments: tuple[str, ...] = field(repr=False)


class Session(Classes):
    """A pool, spoken to as one user. Its attributes are XenAPI's classes: `session.VM.start(vm, False, False)`.

    `session.Async.VM.start(...)` starts the operation and returns a `Task`; `session.call("VM.new_thing", ...)` reaches
    what the data model does not know. As a context manager it logs out at the end. `url` may name any host of the pool.
    Threads may share it.
    """

    def __init__(self, url: str, *, transport: Transport | None = None, **options: Unpack[HttpOptions]) -> None:
        if transport is not None and options:
            raise TypeError(f"{', '.join(options)}: options of HttpTransport, but a transport was given")
        self.origin = origin_of(url)
        self.transport: Transport = transport if transport is not None else HttpTransport(**options)
        self._owns_transport = transport is None
        self.ref: Ref[Any] | None = None
        self._login: _Login | None = None
        self._lock = RLock()

    def __repr__(self) -> str:
        return f"<Session with {self.origin}{'' if self.ref else ', not logged in'}>"

    def __reduce__(self) -> NoReturn:
        raise TypeError("a session is not copied or pickled: it holds credentials and connections; make another one")

    def __enter__(self) -> Session:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            self.logout()
        except XenctlError:
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
    def Async(self) -> AsyncClasses:
        """The messages that have an asynchronous form; each returns a `Task`."""
        return AsyncClasses(_AsyncCaller(self))

    def login_with_password(self, username: str, password: str) -> None:
        """Log in, following `HOST_IS_SLAVE` to the master. Two arguments are sent, which every release accepts.

        A session that is open already is logged out first. Credentials that were refused are not kept.
        """
        if not isinstance(username, str) or not isinstance(password, str):
            raise TypeError("user name and password are text")
        login = _Login("session.login_with_password", (username, password))
        with self._lock:
            self.logout()
            self._log_in(login)
            self._login = login

    def logout(self) -> None:
        """End the session on the server; does nothing where there is none. Sessions are scarce there."""
        with self._lock:
            self._login = None
            if self.ref is None:
                return
            try:
                self.call("session.logout", (), to_void)
            except Failure as error:
                if error.code != "SESSION_INVALID":
                    raise
            finally:
                self.ref = None

    def call(self, method: str, args: Sequence[Any] = (), convert: Callable[[Any], T] = to_any) -> T:
        """Send any method by its wire name with `args` (without the session) and convert what comes back.

        Raises the `Failure` of the error code, `TransportError` where no answer came, `ProtocolError` where it was
        none of XenAPI's, and before anything is sent `TypeError` or `ValueError` for arguments that XML-RPC cannot carry.
        """
        lazy = convert is not to_any and ".get_all_records" in method
        if method in SESSIONLESS or method.startswith("system."):
            wire = self._exchange(self.origin, None, method, args, lazy=lazy)
        else:
            wire = self._repeated(method, lambda origin, ref: self._exchange(origin, ref, method, args, lazy=lazy))
        try:
            return convert(wire)
        except ValueError as error:
            raise ProtocolError(f"the answer is not of its type: {error}", host=self.origin, method=method) from error

    def _repeated(self, what: str, send: Callable[[str, str], T]) -> T:
        """Do `send` with the session's origin and reference, again after a refusal that the session can put right."""
        visited: list[str] = []
        logged_in_again = False
        while True:
            origin, ref = self._place(what)
            try:
                return send(origin, ref)
            except Failure as error:
                refusal = error
            if refusal.code == "HOST_IS_SLAVE":
                visited.append(origin)
                master = self._master(refusal, visited, what)
                with self._lock:
                    if self.origin == origin:
                        self.origin = master
            elif refusal.details[:2] == ["SESSION_INVALID", THIS] and not logged_in_again and self._forget(ref):
                logged_in_again = True
                log.info("%s: %s no longer knows the session, logging in again", what, origin)
            else:
                raise refusal

    def _place(self, what: str) -> tuple[str, str]:
        """Where the session is: its host and reference, logging in where that has to be done anew."""
        with self._lock:
            if self.ref is None:
                if self._login is None:
                    raise RuntimeError(f"{what} on {self.origin}: not logged in; call login_with_password first")
                self._log_in(self._login)
            assert self.ref is not None
            return self.origin, self.ref

    def _forget(self, ref: str) -> bool:
        """Drop a reference that the server no longer knows, unless another thread has got a new one since; False where
        there is no way to log in again."""
        with self._lock:
            if self._login is None:
                return False
            if self.ref == ref:
                self.ref = None
            return True

    def _log_in(self, login: _Login) -> None:
        origin = self.origin
        visited: list[str] = []
        while True:
            try:
                ref = self._exchange(origin, None, login.method, login.arguments)
                break
            except Failure as error:
                refusal = error
            if refusal.code != "HOST_IS_SLAVE":
                raise refusal
            visited.append(origin)
            origin = self._master(refusal, visited, login.method)
        if not isinstance(ref, str) or not ref:
            raise ProtocolError("the answer is no reference", host=origin, method=login.method)
        self.origin, self.ref = origin, Ref(ref)

    def _master(self, refusal: Failure, visited: list[str], what: str) -> str:
        """The host that a `HOST_IS_SLAVE` names. Raises `ProtocolError` where the hosts name each other in a circle."""
        try:
            master = origin_at(visited[-1], refusal.parameter(0) or "")
        except ValueError:
            raise ProtocolError(f"{refusal} names no master", host=visited[-1], method=what) from None
        if master in visited or len(visited) > MAX_HOPS:
            way = " -> ".join([*visited, master])
            raise ProtocolError(
                f"no master found: each host says that the next one is it ({way}); wait until the pool has settled on one",
                host=visited[0],
                method=what,
            )
        log.info("%s: following HOST_IS_SLAVE to the master at %s", what, master)
        return master

    def _exchange(self, origin: str, ref: str | None, method: str, args: Sequence[Any], *, lazy: bool = False) -> Any:
        """Send one call, with `ref` before its arguments where there is one, and return what the answer holds."""
        params = args if ref is None else (ref, *args)
        body = xmlrpc.dumps_call(method, params, first=1 if ref is None else 0)
        clock = self.transport.clock
        started = clock.now()
        answer = self.transport.send(Request(origin, "POST", "/", RPC_HEADERS, body, label=method))
        data = answer.read()
        log.debug("%s on %s: HTTP %d, %.3f s", method, origin, answer.status, clock.now() - started)
        if answer.status != 200:
            raise _unexpected(answer, data, origin, ref, method)
        try:
            return xmlrpc.loads_response(data, lazy=lazy)
        except xmlrpc.MalformedError as error:
            text = _without(ref, str(error))
            refusal: XenctlError = ProtocolError(f"the answer cannot be read: {text}", host=origin, method=method)
        except Failure as error:
            refusal = self.failure([_without(ref, part) for part in error.details])
        raise refusal

    def failure(self, details: Sequence[str], /) -> Failure:
        """The typed error for `[code, *params]`."""
        from .api import errors

        assert errors
        return failure(details)

    def fetch(
        self,
        path: str,
        *,
        method: str = "GET",
        upload: Upload | None = None,
        address: str = "",
        task: Callable[[], str] | None = None,
    ) -> Response:
        """Ask an HTTP handler as this session's user, on the master or on the host at `address` (`/pool/xmldbdump`).

        `task` is asked before each try for the task that it is to run under. A redirection is followed with the same
        method, body and task, never from https to http. A session that the host has forgotten is renewed once, where what
        was uploaded can be sent again. Raises the `Failure` that a status of 500 names, and `ProtocolError` for any other
        than 200.
        """
        what = f"{method} {path.partition('?')[0]}"
        logged_in_again = False
        while True:
            origin, ref = self._place(what)
            under = f"&task_id={task()}" if task is not None else ""
            query = f"{'&' if '?' in path else '?'}session_id={ref}{under}"
            first = origin_at(origin, address) if address else origin
            request = Request(first, method, path + query, label=what, upload=upload)
            answer, request = self._followed(request)
            if answer.status == 200:
                return answer
            refusal = self._unanswered(answer, request, ref)
            again = answer.status == 401 and not logged_in_again and (upload is None or upload.rewind())
            if not again or not self._forget(ref):
                raise refusal
            logged_in_again = True
            log.info("%s: %s no longer knows the session, logging in again", what, request.host)

    def _followed(self, request: Request) -> tuple[Response, Request]:
        """The answer to a request, and the request that got it: the one that the redirections led to."""
        visited = [request.host]
        while True:
            answer = self.transport.send(request)
            log.debug("%s on %s: HTTP %d", request.label, request.host, answer.status)
            location = answer.headers.get("location", "")
            if answer.status != 302 or not location:
                return answer, request
            answer.read()
            there, path = self._redirected(request, location)
            visited.append(there)
            if len(set(visited)) < len(visited) or len(visited) > MAX_HOPS + 1:
                raise ProtocolError(
                    f"redirected in a circle ({' -> '.join(visited)}): does any host see the storage?",
                    host=visited[0],
                    method=request.label,
                )
            log.info("%s: following a redirection to %s", request.label, there)
            request = replace(request, host=there, path=path)

    def _redirected(self, request: Request, location: str) -> tuple[str, str]:
        """Where a redirection leads: origin and path. Raises `ProtocolError` for one that must not be followed."""
        place = location.partition("?")[0]
        try:
            there = origin_of(location) if "://" in location else ""
        except ValueError:
            there = ""
        reason = ""
        if not there:
            reason = "which is no host"
        elif request.host.startswith("https:") and not there.startswith("https:"):
            reason = "which would send the session without TLS"
        elif request.upload is not None and not request.upload.rewind():
            reason = "but what was sent already cannot be read again: pass a file"
        if reason:
            raise ProtocolError(f"redirected to {place}, {reason}", host=request.host, method=request.label)
        rest = location.partition("://")[2]
        return there, rest[rest.find("/") :] if "/" in rest else request.path

    def _unanswered(self, answer: Response, request: Request, ref: str) -> XenctlError:
        """The error for a handler's answer other than 200."""
        from html import unescape

        data = answer.read()
        said = _HANDLERS_ERROR.search(unescape(data[:65536].decode("utf-8", "replace")))
        if answer.status == 500 and said is not None:
            return self.failure([_without(ref, part) for part in (said[1], *filter(None, said[2].split("; ")))])
        return _unexpected(answer, data, request.host, ref, request.label)


def _without(ref: str | None, text: str) -> str:
    return text.replace(ref, THIS) if ref else text


def _unexpected(answer: Response, data: bytes, origin: str, ref: str | None, what: str) -> ProtocolError:
    """The error for an answer whose HTTP status is not 200; `data` is its body."""
    to = answer.headers.get("location", "").partition("?")[0]
    text = " ".join(data[:2000].decode("utf-8", "replace").split())
    said = f"a redirection to {to}" if to else repr(_without(ref, text)[:200])
    return ProtocolError(f"HTTP status {answer.status}: {said}", host=origin, method=what)


class _AsyncCaller:
    """Sends calls in their asynchronous form."""

    def __init__(self, session: Session) -> None:
        self._session = session

    def call(self, method: str, args: Sequence[Any], convert: Callable[[Any], T], /) -> Task[T]:
        ref = self._session.call(f"Async.{method}", args, to_string)
        return Task(self._session, ref, method, convert)


def connect(
    url: str, username: str, password: str, *, transport: Transport | None = None, **options: Unpack[HttpOptions]
) -> Session:
    """Log in to the pool that the host at `url` belongs to and return the session; use it with `with`.

    `options` are those of `HttpTransport` (`verify`, `connect_timeout`, `read_timeout`, `trust_env`, `connections`), where
    no `transport` is given.
    Raises `Failure` (`SESSION_AUTHENTICATION_FAILED`), `TransportError`, or `ValueError` for a malformed URL.
    """
    session = Session(url, transport=transport, **options)
    try:
        session.login_with_password(username, password)
    except BaseException:
        if session._owns_transport:
            session.transport.close()
        raise
    return session
