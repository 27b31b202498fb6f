"""A session with a pool: logs in and out, finds the master, sends calls.

Only a pool's master answers; a member refuses with `HOST_IS_SLAVE` and names the master, and the session follows. A
master that restarts forgets its sessions (`SESSION_INVALID`); the session then logs in again, once for a call, with the
credentials it was given, and repeats the call. Both refusals come before the call has any effect, so repeating is safe.
So it is where no connection was made: a session that knows other hosts of its pool then asks these for the master.
Where the connection broke after sending, only calls that read (`get_...`) are sent again, a few times and after
pauses that grow; nothing else ever is.

Threads may share a session. One lock guards where it is (`origin`, `ref`) and is held while logging in and out, so that of
many threads whose session is gone one logs in and the others go on with what it got. Another is held while the host is asked
for its release, for which only those wait who want to know it. Neither is held during any other call.

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

from . import credentials
from .api import AsyncClasses, Classes
from .api.everywhere import EVERYWHERE
from .channel import PROTOCOLS, THIS, Place, Protocol, ProtocolName, exchange, speaks_json, typed
from .errors import ConnectError, ConnectionLost, Failure, NotJsonRpc, ProtocolError, TransportError, XenctlError
from .fetching import follow, refused
from .tasks import Task
from .transport import (
    Clock,
    HttpOptions,
    HttpTransport,
    LimitedTransport,
    Request,
    Response,
    Transport,
    Upload,
    origin_at,
    origin_of,
)
from .values import Ref, to_any, to_string

if TYPE_CHECKING:
    from typing_extensions import Unpack  # known to every checker, needed by nobody else

    from .releases import Release

T = TypeVar("T")

log = logging.getLogger(__name__)

MAX_HOPS = 3
"""How many redirects to a master are followed for one call: a pool points at one master, so more is a circle."""
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

    ref: str = field(repr=False)
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
    protocol: ProtocolName
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
    before anything is sent. `protocol` is `xmlrpc`, `jsonrpc` (hosts from 7.0 on), or `auto`: each login finds out anew
    whether the host speaks JSON-RPC, which is faster; only a host that does not is asked twice. `options` are those of
    `HttpTransport`, where no `transport` is given.
    """

    def __init__(
        self,
        url: str,
        *,
        ref: str | None = None,
        hosts: Sequence[str] = (),
        protocol: ProtocolName = "auto",
        retries: int = RETRIES,
        check_release: bool = True,
        transport: Transport | None = None,
        **options: Unpack[HttpOptions],
    ) -> None:
        if protocol not in PROTOCOLS:
            raise ValueError(f"no such protocol: {protocol!r}; there are {', '.join(PROTOCOLS)}")
        if transport is not None and options:
            raise TypeError(f"{', '.join(options)}: options of HttpTransport, but a transport was given")
        if isinstance(hosts, str):
            raise TypeError(f"hosts is a list of URLs, not one: write hosts=[{hosts!r}]")
        if retries < 0:
            raise ValueError(f"retries is how often a call that reads is sent again, 0 for never, not {retries}")
        self.origin = origin_of(url)
        self.hosts: tuple[str, ...] = tuple(origin_of(host) for host in hosts)
        self.transport: Transport = transport if transport is not None else HttpTransport(**options)
        self.ref: Ref[Any] | None = Ref(ref) if ref else None
        self._owns_transport = transport is None
        self.protocol = protocol
        self._spoken = PROTOCOLS[protocol][-1]
        self._retries = retries
        self._checks_release = check_release
        self._login: _Login | None = None
        self._local = False
        self._adopted = self.ref
        self._pool = ""
        self._known: _Known | None = None
        self._lock = RLock()
        self._asking = RLock()

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
            protocol=self.protocol,
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

    def _host(self, *, since: float = -inf) -> _Known:
        """What the host is, asked `since` that moment; of many threads that want to know, one asks."""
        known = self._known
        if known is None or known.ref != self.ref or known.at < since:
            with self._asking:
                known = self._known
                if known is None or known.ref != self.ref or known.at < since:
                    known = self._known = self._ask_host()
        return known

    def _ask_host(self) -> _Known:
        ask = "session.get_this_host"
        ref, host = self._repeated(
            ask, lambda place: (place.ref or "", self._exchange(place, ask, (place.ref,))), reads=True
        )
        record = self.host.get_record(host)
        try:
            version = record.API_version_major, record.API_version_minor
            return _Known(ref, version, record.software_version, self.clock.now())
        except (AttributeError, ValueError) as error:
            text = f"its record does not tell the release: {error}"
            raise ProtocolError(text, host=self.origin, method="host.get_record") from error

    def login_with_password(self, username: str, password: str, version: str = "", originator: str = "") -> None:
        """Log in as a local user or as a subject of the pool's directory service, following `HOST_IS_SLAVE` to the master.

        Two arguments are sent, which every release accepts; `version` and `originator` (the name of the program, by which
        the server groups its sessions; since 6.1) only where they are given. A session that is open already is logged
        out first, unless it is somebody else's (`ref`). Credentials that were refused are not kept.
        """
        rest = (version or "1.0", originator) if originator else (version,) if version else ()
        self._open(_Login("session.login_with_password", (username, password, *rest)))

    def login_later(self, username: str, password: str) -> None:
        """Log in as `login_with_password` does, but with the first call, for hosts that may not be there yet."""
        self._open(_Login("session.login_with_password", (username, password)), now=False)

    def slave_local_login_with_password(self, username: str, password: str) -> None:
        """Log in to this one host, be it a member or in emergency mode, as a local user. Since 4.1.

        Such a session may call what a host does for itself (`pool.emergency_transition_to_master`,
        `host.shutdown_agent`); nothing leads it to the master.
        """
        self._open(_Login("session.slave_local_login_with_password", (username, password), local=True))

    def _open(self, login: _Login, *, now: bool = True) -> None:
        if not all(isinstance(argument, str) for argument in login.arguments):
            raise TypeError("user name and password are text")
        with self._lock:
            if self.ref is not None and self.ref == self._adopted:
                self.ref = None
            self.logout()
            if now:
                self._log_in(login)
            self._login = login

    def logout(self) -> None:
        """End the session on the server; does nothing where there is none. Sessions are scarce there."""
        with self._lock:
            end = "session.local_logout" if self._local else "session.logout"
            self._login = None
            if self.ref is None:
                return
            try:
                self._repeated(end, lambda place: self._exchange(place, end))
            except Failure as error:
                if error.code != "SESSION_INVALID":
                    raise
            finally:
                self.ref = None

    def learn_hosts(self) -> tuple[str, ...]:
        """Read the addresses of the pool's hosts into `hosts` and return them, so that the session finds the master among
        them when the present one does not answer any more. Do it again when hosts have joined or left."""
        origin = self.origin

        def to_origins(records: Any) -> tuple[str, ...]:
            return tuple(origin_at(origin, address) for address in _texts("address", records) if address)

        hosts = self.call("host.get_all_records", (), to_origins)
        pool = self.call("pool.get_all_records", (), _to_uuid_of_one)
        with self._lock:
            self.hosts, self._pool = hosts, pool
        return hosts

    def call(self, method: str, args: Sequence[Any] = (), convert: Callable[[Any], T] = to_any) -> T:
        """Send any method by its wire name with `args` (without the session) and convert what comes back.

        Raises the `Failure` of the error code, `TransportError` where no answer came, `ProtocolError` where it was
        none of XenAPI's, and before anything is sent `TypeError` or `ValueError` for arguments that XML-RPC cannot carry.
        """
        if isinstance(args, str):  # a reference is one, and would go out letter by letter
            raise TypeError(f"{method}: args is a list of parameters, not a str: write [{args!r}]")
        lazy = convert is not to_any and ".get_all_records" in method
        if method in SESSIONLESS or method.startswith("system."):
            wire = exchange(self.transport, Place(self.origin, self._spoken), method, args, lazy=lazy)
        else:
            if self._checks_release and method.removeprefix("Async.") not in EVERYWHERE:
                self._check_release(method, args)
            send = partial(exchange, self.transport, method=method, args=args, lazy=lazy)
            wire = self._repeated(method, send, reads=".get_" in method and not method.startswith("Async."))
            if method == "session.change_password":
                self._keep_password(args)
        try:
            return convert(wire)
        except ValueError as error:
            raise ProtocolError(f"the answer is not of its type: {error}", host=self.origin, method=method) from error

    def require(self, what: str, since: str) -> None:
        """Refuse `what`, which came with release `since`, where the host is older: before anything is sent, as a `Failure`
        with `MESSAGE_METHOD_UNKNOWN`. Does nothing where that was switched off, or the release cannot be told."""
        from .served import later

        if self._checks_release:
            self._refuse(what, lambda release: later(release, what, since))

    def _check_release(self, method: str, args: Sequence[Any]) -> None:
        """Refuse a call that is newer than the host."""
        from .served import find, refusal

        login = self._login
        if find(method) is None or (login is None and self.ref is None) or (login is not None and login.local):
            return
        self._refuse(method, lambda release: refusal(release, method, args))

    def _refuse(self, what: str, judge: Callable[[Release], Failure | None]) -> None:
        """Raise what `judge` says of the host's release. Where that cannot be told, the host is left to judge."""
        try:
            found = judge(self._host().release)
            if found is not None:
                found = judge(self._host(since=self.clock.now() - TRUSTED).release)
        except (Failure, ProtocolError) as error:
            log.debug("%s: the release of %s cannot be told: %s", what, self.origin, error)
            return
        if found is not None:
            raise self.failure(found.details, found.note)

    def _keep_password(self, args: Sequence[Any]) -> None:
        """After a change of root's password, log in with the new one. The server changes root's, whoever asks."""
        with self._lock:
            login = self._login
            if login is not None and login.arguments[0] == "root" and len(args) == 2:
                self._login = replace(login, arguments=("root", str(args[1]), *login.arguments[2:]))

    def _repeated(self, what: str, send: Callable[[Place], T], *, reads: bool = False) -> T:
        """Do `send` where the session is, again after a refusal that the session can put right, or, if it only `reads`,
        after the connection broke."""
        visited: list[str] = []
        logged_in_again = moved = False
        left = self._retries if reads else 0
        while True:
            place = self._place(what)
            origin, _, ref = place
            try:
                return send(place)
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
                self._pause(self._retries - left, place, error)
                left -= 1
                continue
            except NotJsonRpc:
                # Of a host of an older release, put there since the login, that did not understand the call.
                if self.protocol != "auto" or speaks_json(self.transport, origin):
                    raise
                self._move(origin, origin)
                continue
            if refusal.code == "HOST_IS_SLAVE" and not self._local:
                visited.append(origin)
                self._move(origin, self._master(refusal, visited, what))
            elif refusal.details[:2] == ["SESSION_INVALID", THIS] and not logged_in_again and self._forget(ref):
                logged_in_again = True
                log.info("%s: %s no longer knows the session, logging in again", what, origin)
            else:
                raise refusal

    def _move(self, origin: str, to: str) -> None:
        """Go on with another host, in the protocol that every host speaks, unless another thread has moved on already."""
        with self._lock:
            if self.origin == origin:
                self.origin, self._spoken = to, PROTOCOLS[self.protocol][-1]

    def _pause(self, done: int, place: Place, error: ConnectionLost) -> None:
        """Let some time pass before a call is repeated, after it was `done` times: longer each time, and not the same for
        all sessions, which may have lost the same server."""
        spread = 0.75 + (crc32(f"{place.ref}{done}".encode()) % 512) / 1024
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
                place = self._logged_in(login, host)
                if not self._is_ours(place):
                    continue
            except (Failure, TransportError) as refused:
                log.debug("%s: %s does not lead to the master: %s", error.method, host, refused)
                continue
            log.info("%s: %s is away (%s); the master is %s now", error.method, error.host, error.message, place.origin)
            self._settle(place)
            return True
        return False

    def _is_ours(self, place: Place) -> bool:
        """Whether a host is of the pool whose hosts were learnt, and was not ejected to a pool of its own since."""
        if not self._pool:
            return True
        ours = False
        try:
            found = _to_uuid_of_one(self._exchange(place, "pool.get_all_records"))
            ours = found == self._pool
            if not ours:
                log.warning("%s is of another pool (%s), so it is not asked", place.origin, found)
        except ValueError as error:
            log.warning("%s does not tell its pool, so it is not asked: %s", place.origin, error)
        finally:
            if not ours:
                self._exchange(place, "session.logout")
        return ours

    def _place(self, what: str) -> Place:
        """Where the session is, logging in where that has to be done anew."""
        with self._lock:
            if self.ref is None:
                if self._login is None:
                    raise RuntimeError(f"{what} on {self.origin}: not logged in; call login_with_password first")
                self._log_in(self._login)
            return Place(self.origin, self._spoken, self.ref)

    def _settle(self, place: Place) -> None:
        self.origin, self._spoken, self.ref = place.origin, place.protocol, Ref(place.ref or "")

    def _forget(self, ref: str | None) -> bool:
        """Drop a reference that the server no longer knows, unless another thread has got a new one since; False where
        there is no way to log in again."""
        with self._lock:
            if self._login is None:
                return False
            if self.ref == ref:
                self.ref = None
            return True

    def _log_in(self, login: _Login) -> None:
        self._local = login.local
        try:
            self._settle(self._logged_in(login, self.origin))
        except ConnectError as error:
            if not self._search(login, error):
                raise

    def _logged_in(self, login: _Login, origin: str) -> Place:
        """Log in at `origin` or at the master that it names; return where that was."""
        visited: list[str] = []
        while True:
            try:
                protocol, ref = self._first_call(origin, login)
                break
            except Failure as error:
                refusal = error
            if refusal.code != "HOST_IS_SLAVE" or login.local:
                raise refusal
            visited.append(origin)
            origin = self._master(refusal, visited, login.method)
        if not isinstance(ref, str) or not ref:
            raise ProtocolError("the answer is no reference", host=origin, method=login.method)
        return Place(origin, protocol, ref)

    def _first_call(self, origin: str, login: _Login) -> tuple[Protocol, Any]:
        """Log in at `origin`, in the first protocol that it speaks; that one, and the answer.

        A host that does not speak JSON-RPC may hang up on it. Nothing is lost then but, at worst, a session.
        """
        *first, last = PROTOCOLS[self.protocol]
        for protocol in first:
            try:
                return protocol, self._exchange(Place(origin, protocol), login.method, login.arguments)
            except (NotJsonRpc, ConnectionLost) as error:
                log.info("%s: going on with XML-RPC", error)
        return last, self._exchange(Place(origin, last), login.method, login.arguments)

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

    def _exchange(self, place: Place, method: str, args: Sequence[Any] = ()) -> Any:
        return exchange(self.transport, place, method, args)

    def failure(self, details: Sequence[str], note: str = "", /) -> Failure:
        """The typed error for `[code, *params]`."""
        return typed(details, note)

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
        logged_in_again, under = False, ""
        while True:
            origin, _, ref = self._place(what)
            if task is not None:
                under = f"&task_id={task()}"
                origin, _, ref = self._place(what)  # making the task may have led elsewhere, or to a new login
            query = f"{'&' if '?' in path else '?'}session_id={ref}{under}"
            first = origin_at(origin, address) if address else origin
            request = Request(first, method, path + query, label=what, upload=upload)
            answer, request = follow(self.transport, request)
            if answer.status == 200:
                return answer
            refusal = refused(answer, request, ref)
            again = answer.status == 401 and not logged_in_again and (upload is None or upload.rewind())
            if not again or not self._forget(ref):
                raise refusal
            logged_in_again = True
            log.info("%s: %s no longer knows the session, logging in again", what, request.host)


def _texts(name: str, records: Any) -> list[str]:
    """What records have in one field. Raises `ValueError` for what are no records with such a field."""
    try:
        return [to_string(record[name]) for record in records.values()]
    except (AttributeError, LookupError, TypeError):
        raise ValueError(f"expected records that have a field {name}") from None


def _to_uuid_of_one(records: Any) -> str:
    found = _texts("uuid", records)
    if len(found) != 1:
        raise ValueError(f"expected one record, got {len(found)}")
    return found[0]


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
    Raises `Failure` (`SESSION_AUTHENTICATION_FAILED`), `TransportError`, or `ValueError` for a malformed URL or option and
    for what is given neither here nor there.
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
