"""A session with a pool: logs in and out, finds the master, sends calls.

Only a pool's master answers; a member refuses with `HOST_IS_SLAVE` and names the master, and the session follows. A
master that restarts forgets its sessions (`SESSION_INVALID`); the session then logs in again, once for a call, with the
credentials it was given, and repeats the call. Both refusals come before the call has any effect, so repeating is safe.
So it is where no connection was made: a session that knows other hosts of its pool then asks these for the master.
Where the connection broke after sending, only calls that read (`get_...`) are sent again, a few times and after
pauses that grow; nothing else ever is.

Threads may share a session. One lock guards where it is (`origin`, `ref`) and is held while logging in, so that of many
threads whose session is gone one logs in and the others go on with what it got.

Neither the password nor the session's reference is in any message: where a server's words hold the reference, `THIS`
stands in its place.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from math import inf
from threading import RLock
from types import TracebackType
from typing import TYPE_CHECKING, Any, NoReturn, TypeVar
from zlib import crc32

from . import credentials, xmlrpc
from .api import AsyncClasses, Classes
from .api.everywhere import EVERYWHERE
from .errors import ConnectError, ConnectionLost, Failure, ProtocolError, TransportError, XenctlError, failure
from .tasks import Task
from .transport import (
    Clock,
    HttpOptions,
    HttpTransport,
    LimitedTransport,
    Request,
    Response,
    Transport,
    origin_at,
    origin_of,
)
from .values import Ref, to_any, to_string

if TYPE_CHECKING:
    from typing_extensions import Unpack  # known to every checker, needed by nobody else

    from .releases import Release

T = TypeVar("T")

log = logging.getLogger(__name__)

RPC_HEADERS: Mapping[str, str] = {"content-type": "text/xml", "user-agent": "xenctl"}
MAX_HOPS = 3
"""How many redirects to a master are followed for one call: a pool points at one master, so more is a circle."""
THIS = "(this session)"
"""What stands for the session's reference in errors."""
SESSIONLESS = frozenset(
    "session.login_with_password session.slave_login session.slave_local_login "
    "session.slave_local_login_with_password".split()
)
"""The methods that take no session; those of `system.` take none either."""
RETRIES = 2
"""How often a call that reads is sent again after the connection broke."""
FIRST_PAUSE, GROWTH = 0.5, 4.0
"""Seconds before the second repetition (the first is at once), and the factor from one pause to the next."""

TRUSTED = 60.0
"""Seconds for which calls are refused by what was heard of the host's release: no host is upgraded in less."""


@dataclass(frozen=True)
class _Login:
    """How to log in. A `local` session is one host's own: that host is not left for a master."""

    method: str
    arguments: tuple[str, ...] = field(repr=False)
    local: bool = False


@dataclass(frozen=True)
class _Known:
    """What the host that gave the session `ref` is, and when it was asked."""

    ref: str
    api_version: tuple[int, int]
    software_version: Mapping[str, str]
    at: float

    @property
    def release(self) -> Release:
        from .releases import of_host

        return of_host(self.software_version, self.api_version)


class SessionOptions(HttpOptions, total=False):
    """The options of `Session`, for those who pass them on."""

    hosts: Sequence[str]
    retries: int
    check_release: bool


class Session(Classes):
    """A pool, spoken to as one user. Its attributes are XenAPI's classes: `session.VM.start(vm, False, False)`.

    `session.Async.VM.start(...)` starts the operation and returns a `Task`; `session.call("VM.new_thing", ...)` reaches
    what the data model does not know. As a context manager it logs out at the end. `url` may name any host of the pool.
    Threads may share it.

    `ref` is a session that is open already, somebody else's: it is used, and left open at the end. `hosts` are URLs of
    other hosts of the pool, to be asked when the master is away (see `learn_hosts`). `retries` is how often a call
    that reads is sent again after its connection broke. `check_release` refuses calls that are newer than the host
    before anything is sent. `options` are those of `HttpTransport`, where no `transport` is given.
    """

    def __init__(
        self,
        url: str,
        *,
        ref: str | None = None,
        hosts: Sequence[str] = (),
        retries: int = RETRIES,
        check_release: bool = True,
        transport: Transport | None = None,
        **options: Unpack[HttpOptions],
    ) -> None:
        if transport is not None and options:
            raise TypeError(f"{', '.join(options)}: options of HttpTransport, but a transport was given")
        self.origin = origin_of(url)
        self.hosts: tuple[str, ...] = tuple(origin_of(host) for host in hosts)
        self.transport: Transport = transport if transport is not None else HttpTransport(**options)
        self.ref: Ref[Any] | None = Ref(ref) if ref else None
        self._owns_transport = transport is None
        self._retries = retries
        self._checks_release = check_release
        self._login: _Login | None = None
        self._adopted = self.ref
        self._pool = ""
        self._known: _Known | None = None
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
            if self.ref is None or self.ref != self._adopted:
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
    def read_timeout(self) -> float:
        """The seconds that the transport waits for an answer; `inf` where it knows no limit."""
        return self.transport.read_timeout if isinstance(self.transport, LimitedTransport) else inf

    @property
    def is_open(self) -> bool:
        """Whether there is a session, or the means to get one: false before a login and after a logout. One that the
        server forgot is open."""
        return self.ref is not None or self._login is not None

    def sibling(self) -> Session | None:
        """Another session of the same user over the same transport, which logs in with its first call and is to be logged
        out; None where this one does not know its password."""
        if self._login is None:
            return None
        other = Session(
            self.origin,
            hosts=self.hosts,
            retries=self._retries,
            check_release=self._checks_release,
            transport=self.transport,
        )
        other._login, other._pool = self._login, self._pool
        return other

    @property
    def xenapi(self) -> Session:
        """This session, for those who know it as `session.xenapi.VM.start`."""
        return self

    @cached_property
    def Async(self) -> AsyncClasses:
        """The messages that have an asynchronous form; each returns a `Task`."""
        return AsyncClasses(_AsyncCaller(self))

    @property
    def api_version(self) -> tuple[int, int]:
        """The API version of the host that is spoken to, as `(2, 15)`, asked for once a login (two calls)."""
        return self._host().api_version

    @property
    def release(self) -> Release:
        """The release of the host that is spoken to, asked for once a login (two calls).

        A release that is not known is taken for the nearest older one of its brand.
        """
        return self._host().release

    def _host(self) -> _Known:
        with self._lock:
            known = self._known
            return known if known is not None and known.ref == self.ref else self._ask_host()

    def _ask_host(self) -> _Known:
        ask = "session.get_this_host"
        ref, host = self._repeated(ask, lambda origin, ref: (ref, self._exchange(origin, ref, ask, (ref,))), reads=True)
        record = self.host.get_record(host)
        version = record.API_version_major, record.API_version_minor
        self._known = _Known(ref, version, record.software_version, self.clock.now())
        return self._known

    def login_with_password(self, username: str, password: str, version: str = "", originator: str = "") -> None:
        """Log in as a local user or as a subject of the pool's directory service, following `HOST_IS_SLAVE` to the master.

        Two arguments are sent, which every release accepts; `version` and `originator` (the name of the program, by which
        the server groups its sessions; since 6.1) only where they are given. A session that is open already is logged
        out first. Credentials that were refused are not kept.
        """
        rest = (version or "1.0", originator) if originator else (version,) if version else ()
        self._open(_Login("session.login_with_password", (username, password, *rest)))

    def slave_local_login_with_password(self, username: str, password: str) -> None:
        """Log in to this one host, be it a member or in emergency mode, as a local user. Since 4.1.

        Such a session may call what a host does for itself (`pool.emergency_transition_to_master`,
        `host.shutdown_agent`); nothing leads it to the master.
        """
        self._open(_Login("session.slave_local_login_with_password", (username, password), local=True))

    def _open(self, login: _Login) -> None:
        if not all(isinstance(argument, str) for argument in login.arguments):
            raise TypeError("user name and password are text")
        with self._lock:
            self.logout()
            self._log_in(login)
            self._login = login

    def logout(self) -> None:
        """End the session on the server; does nothing where there is none. Sessions are scarce there."""
        with self._lock:
            end = "session.local_logout" if self._login is not None and self._login.local else "session.logout"
            self._login = None
            if self.ref is None:
                return
            try:
                self._repeated(end, partial(self._exchange, method=end, args=()))
            except Failure as error:
                if error.code != "SESSION_INVALID":
                    raise
            finally:
                self.ref = None

    def learn_hosts(self) -> tuple[str, ...]:
        """Read the addresses of the pool's hosts into `hosts` and return them, so that the session finds the master among
        them when the present one does not answer any more. Do it again when hosts have joined or left."""
        with self._lock:
            addresses = [record.address for record in self.host.get_all_records().values()]
            (self._pool,) = (record.uuid for record in self.pool.get_all_records().values())
            self.hosts = tuple(origin_at(self.origin, address) for address in addresses if address)
            return self.hosts

    def call(self, method: str, args: Sequence[Any] = (), convert: Callable[[Any], T] = to_any) -> T:
        """Send any method by its wire name with `args` (without the session) and convert what comes back.

        Raises the `Failure` of the error code, `TransportError` where no answer came, `ProtocolError` where it was
        none of XenAPI's, and before anything is sent `TypeError` or `ValueError` for arguments that XML-RPC cannot carry.
        """
        lazy = convert is not to_any and ".get_all_records" in method
        if method in SESSIONLESS or method.startswith("system."):
            wire = self._exchange(self.origin, None, method, args, lazy=lazy)
        else:
            if self._checks_release and method.removeprefix("Async.") not in EVERYWHERE:
                self._check_release(method, args)
            send = partial(self._exchange, method=method, args=args, lazy=lazy)
            wire = self._repeated(method, send, reads=".get_" in method and not method.startswith("Async."))
            if method == "session.change_password":
                self._keep_password(args)
        try:
            return convert(wire)
        except ValueError as error:
            raise ProtocolError(f"the answer is not of its type: {error}", host=self.origin, method=method) from error

    def _check_release(self, method: str, args: Sequence[Any]) -> None:
        """Refuse a call that is newer than the host. Where its release cannot be told, the host is left to judge."""
        from .served import find, refusal

        login = self._login
        if find(method) is None or (login is None and self.ref is None) or (login is not None and login.local):
            return
        try:
            with self._lock:
                known = self._host()
                found = refusal(known.release, method, args)
                if found is not None and self.clock.now() - known.at > TRUSTED:
                    found = refusal(self._ask_host().release, method, args)
        except (Failure, ProtocolError) as error:
            log.debug("%s: the release of %s cannot be told: %s", method, self.origin, error)
            return
        if found is not None:
            raise self.failure(found.details, found.note)

    def _keep_password(self, args: Sequence[Any]) -> None:
        """After a change of root's password, log in with the new one. The server changes root's, whoever asks."""
        with self._lock:
            login = self._login
            if login is not None and login.arguments[0] == "root" and len(args) == 2:
                self._login = replace(login, arguments=("root", str(args[1]), *login.arguments[2:]))

    def _repeated(self, what: str, send: Callable[[str, str], T], *, reads: bool = False) -> T:
        """Do `send` with the session's origin and reference, again after a refusal that the session can put right, or,
        if it only `reads`, after the connection broke."""
        visited: list[str] = []
        logged_in_again = moved = False
        left = self._retries if reads else 0
        while True:
            origin, ref = self._place(what)
            try:
                return send(origin, ref)
            except Failure as error:
                refusal = error
            except ConnectError as error:
                if moved or not self._leave(origin, error):
                    raise
                moved = True
                continue
            except ConnectionLost as error:
                if left == 0:
                    raise
                self._pause(self._retries - left, ref, error)
                left -= 1
                continue
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

    def _pause(self, done: int, ref: str, error: ConnectionLost) -> None:
        """Let some time pass before a call is repeated, after it was `done` times: longer each time, and not the same for
        all sessions, which may have lost the same server."""
        spread = 0.75 + (crc32(f"{ref}{done}".encode()) % 512) / 1024
        seconds = FIRST_PAUSE * GROWTH ** (done - 1) * spread if done else 0.0
        log.info("%s; it only reads, and is sent again in %.1f s", error, seconds)
        self.clock.sleep(seconds)

    def _leave(self, away: str, error: ConnectError) -> bool:
        """Look for the master elsewhere, since `away` does not answer; whether it was found."""
        with self._lock:
            if self.origin != away:
                return True
            return self._login is not None and self._search(self._login, error)

    def _search(self, login: _Login, error: ConnectError) -> bool:
        """Log in at the first of the pool's other hosts that leads to a master; whether there was one."""
        if login.local:
            return False
        for host in self.hosts:
            if host == self.origin:
                continue
            try:
                origin, ref = self._logged_in(login, host)
                if not self._is_ours(origin, ref):
                    continue
            except (Failure, TransportError) as refused:
                log.debug("%s: %s does not lead to the master: %s", error.method, host, refused)
                continue
            log.info(
                "%s: %s does not answer (%s); the master is %s now", error.method, error.host, error.message, origin
            )
            self.origin, self.ref = origin, ref
            return True
        return False

    def _is_ours(self, origin: str, ref: str) -> bool:
        """Whether a host is of the pool whose hosts were learnt, and was not ejected to a pool of its own since."""
        if not self._pool:
            return True
        (found,) = self._exchange(origin, ref, "pool.get_all_records", ()).values()
        if found["uuid"] == self._pool:
            return True
        log.warning("%s is of another pool (%s), so it is not asked", origin, found["uuid"])
        self._exchange(origin, ref, "session.logout", ())
        return False

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
        try:
            self.origin, self.ref = self._logged_in(login, self.origin)
        except ConnectError as error:
            if not self._search(login, error):
                raise

    def _logged_in(self, login: _Login, origin: str) -> tuple[str, Ref[Any]]:
        """Log in at `origin` or at the master that it names; return where that was, and the session's reference."""
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
        return origin, Ref(ref)

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

    def failure(self, details: Sequence[str], note: str = "", /) -> Failure:
        """The typed error for `[code, *params]`."""
        from .api import errors

        assert errors
        return failure(details, note)

    def fetch(self, path: str) -> Response:
        """GET an HTTP handler's `path` on the master as this session's user (`/pool/xmldbdump`).

        A session that the master has forgotten is renewed once. Raises `ProtocolError` for a status other than 200.
        """
        what = f"GET {path.partition('?')[0]}"
        separator = "&" if "?" in path else "?"

        logged_in_again = False
        while True:
            origin, ref = self._place(what)
            answer = self.transport.send(Request(origin, "GET", f"{path}{separator}session_id={ref}", label=what))
            log.debug("%s on %s: HTTP %d", what, origin, answer.status)
            if answer.status == 200:
                return answer
            refusal = _unexpected(answer, answer.read(), origin, ref, what)
            if answer.status != 401 or logged_in_again or not self._forget(ref):
                raise refusal
            logged_in_again = True
            log.info("%s: %s no longer knows the session, logging in again", what, origin)


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
    url: str | None = None,
    username: str | None = None,
    password: str | None = None,
    *,
    transport: Transport | None = None,
    **options: Unpack[SessionOptions],
) -> Session:
    """Log in to the pool that the host at `url` belongs to and return the session; use it with `with`.

    What is not given comes from the environment: `XENCTL_URL`, `XENCTL_USERNAME` (root if not set), `XENCTL_PASSWORD` or
    `XENCTL_PASSWORD_FILE`. `options` are those of `Session` and, where no `transport` is given, of `HttpTransport`.
    Raises `Failure` (`SESSION_AUTHENTICATION_FAILED`), `TransportError`, or `ValueError` for a malformed URL and for what
    is given neither here nor there.
    """
    found = credentials.find(url, username, password)
    session = Session(found.url, transport=transport, **options)
    try:
        session.login_with_password(found.username, found.password)
    except BaseException:
        if session._owns_transport:
            session.transport.close()
        raise
    return session
