"""The seam between what is said and how it travels.

Everything that the client sends goes through a `Transport`: calls, uploads and downloads, to a real host or to the fake
in the same process. All waiting goes through its `Clock`, so that on virtual time hours pass at once. `HttpTransport`
is the real one: requests' adapter with prepared requests, its settings (proxies, CA bundle) resolved once. It follows no
redirect, reads no `.netrc`, and sends nothing twice.

What went wrong decides which error is raised: while the connection was being made nothing was sent (`ConnectError`);
afterwards the effect of a call is unknown. requests does not say which it was, but the traceback does.
"""

from __future__ import annotations

import io
import logging
import os
import re
import sys
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from ipaddress import IPv6Address
from typing import TYPE_CHECKING, Any, Protocol, TypedDict, runtime_checkable

from .errors import ConnectError, ConnectionLost, TransportError, WaitTimeout

if TYPE_CHECKING:
    from requests import PreparedRequest
    from requests import Response as RequestsResponse


class Clock(Protocol):
    """Time as the transport's hosts live it."""

    def now(self) -> float:
        """Seconds since the epoch."""

    def sleep(self, seconds: float) -> None:
        """Let `seconds` pass."""


class SystemClock:
    """The clock on the wall."""

    def now(self) -> float:
        return time.time()

    def sleep(self, seconds: float) -> None:
        time.sleep(seconds)


class Stream(Protocol):
    """The body of an answer, read as it arrives."""

    def read(self, size: int = -1, /) -> bytes: ...
    def close(self) -> None: ...


@dataclass(frozen=True)
class Request:
    """One HTTP request. `host` is an origin, `scheme://name[:port]`; `path` carries the query too.

    `label` is what is being done, for errors and logs: the XenAPI method. Path, headers and body may hold secrets and are
    not shown.
    """

    host: str
    method: str
    path: str = field(repr=False)
    headers: Mapping[str, str] = field(default_factory=dict, repr=False)
    body: bytes = field(default=b"", repr=False)
    label: str = ""

    @property
    def shown(self) -> str:
        """What errors and logs call this request: its label, or its method and path without the query."""
        return self.label or f"{self.method} {self.path.partition('?')[0]}"


@dataclass(frozen=True)
class Response:
    """One HTTP answer; `headers` has lower-case names."""

    status: int
    headers: Mapping[str, str]
    stream: Stream

    def read(self) -> bytes:
        """The whole body; the connection is given back."""
        try:
            return self.stream.read()
        finally:
            self.stream.close()


class Transport(Protocol):
    """Sends requests to hosts."""

    @property
    def clock(self) -> Clock: ...
    def send(self, request: Request) -> Response:
        """Send and return the answer, whatever its status. Raises `TransportError`: `ConnectError` where nothing was
        sent, `ConnectionLost` or `WaitTimeout` where the effect is unknown."""

    def close(self) -> None:
        """Give up connections."""


@runtime_checkable
class LimitedTransport(Protocol):
    """What a transport has that waits for an answer for a limited time; one that has it not waits without limit."""

    @property
    def read_timeout(self) -> float:
        """Seconds until `send`, or reading what it returned, raises `WaitTimeout`."""


_PLACE = re.compile(r"(\[[^\]]*\]|[^\s\[\]:@\\<>\"'{}|^`]+)(?::([0-9]{1,5}))?")


def origin_of(url: str) -> str:
    """`url` as an origin: `https` where it names no scheme; a path is dropped. Raises `ValueError` for what is no URL."""
    if "@" in url:
        raise ValueError(
            "a host's URL has no user name or password in it: give these to login_with_password or connect"
        )
    scheme, separator, rest = url.strip().partition("://")
    if not separator:
        scheme, rest = "https", scheme
    place = re.split("[/?#]", rest, maxsplit=1)[0]
    if place.count(":") > 1 and "[" not in place:
        place = f"[{place}]"
    match = _PLACE.fullmatch(place)
    scheme = scheme.lower()
    if scheme not in ("http", "https") or match is None or not _is_name(match[1]) or not 0 < int(match[2] or 1) < 65536:
        raise ValueError(f"not a host's URL: {url!r}; write it as https://ADDRESS or https://ADDRESS:PORT")
    return f"{scheme}://{place.lower()}"


def _is_name(name: str) -> bool:
    if not name.startswith("["):
        return True
    try:
        IPv6Address(name[1:-1])
    except ValueError:
        return False
    return True


def origin_at(origin: str, address: str) -> str:
    """The origin of the host at `address` (a bare IP address, as `HOST_IS_SLAVE` names it), by `origin`'s scheme and
    port; a port of its own wins. Raises `ValueError` for what is no address."""
    scheme, _, name = origin.partition("://")
    target = origin_of(f"{scheme}://{address}")
    port = _port(name)
    return target if _port(target.partition("://")[2]) or not port else f"{target}:{port}"


def _port(name: str) -> str:
    return name.rpartition("]")[2].partition(":")[2]


class HttpOptions(TypedDict, total=False):
    """The options of `HttpTransport`, for those who pass them on."""

    verify: bool | str
    connect_timeout: float
    read_timeout: float
    trust_env: bool
    connections: int


class HttpTransport:
    """The network, through requests.

    `verify` is True (requests' own certificates, or those that `REQUESTS_CA_BUNDLE` names), False (no check, whatever the
    environment says), or the path of a CA file. `connect_timeout` and `read_timeout` are seconds; the latter bounds the
    wait for an answer, so let what takes longer run as a task. Proxies and the CA bundle come from the environment unless
    `trust_env` is false. May be shared between threads; `connections` is how many are kept open to a host.
    """

    def __init__(
        self,
        *,
        verify: bool | str = True,
        connect_timeout: float = 10.0,
        read_timeout: float = 300.0,
        trust_env: bool = True,
        connections: int = 10,
    ) -> None:
        from .adapter import CallAdapter

        self._adapter = CallAdapter(pool_connections=connections, pool_maxsize=connections, max_retries=0)
        self._calls: dict[tuple[Any, ...], PreparedRequest] = {}
        if verify is True and trust_env:
            verify = os.environ.get("REQUESTS_CA_BUNDLE") or os.environ.get("CURL_CA_BUNDLE") or True
        self._verify = verify
        self._timeout = (connect_timeout, read_timeout)
        self._trust_env = trust_env
        self._proxies: dict[str, dict[str, str]] = {}
        self.clock: Clock = SystemClock()
        logging.getLogger("urllib3.connectionpool").addFilter(_hide_session)

    @property
    def read_timeout(self) -> float:
        """Seconds that an answer is waited for."""
        return self._timeout[1]

    def send(self, request: Request) -> Response:
        from urllib3.exceptions import HTTPError

        outer = sys.exc_info()[1]
        try:
            answer = self._adapter.send(
                self._prepared(request),
                stream=True,
                timeout=self._timeout,
                verify=self._verify,
                proxies=self._proxies_of(request.host),
            )
        except (OSError, HTTPError, UnicodeError) as error:
            chain = list(_chain(error, outer))
            failed, cause = _understood(chain, request, self._timeout), _root(chain)
        else:
            answer.raw.enforce_content_length = True
            headers = {name.lower(): value for name, value in answer.headers.items()}
            return Response(answer.status_code, headers, _Body(answer, request))
        raise failed from cause  # not from `error`, whose text has the whole URL in it, and with it the session

    def _prepared(self, request: Request) -> PreparedRequest:
        """The request as requests wants it. Calls differ in their bodies alone, so the first one serves as a mould."""
        if request.method != "POST" or "?" in request.path:
            return _prepared(request)
        key = (request.host, request.path, *request.headers.items())
        mould = self._calls.get(key)
        if mould is None:
            mould = self._calls[key] = _prepared(replace(request, body=b""))  # the first body holds the password
        prepared = mould.copy()
        prepared.body = request.body
        prepared.headers["Content-Length"] = str(len(request.body))
        return prepared

    def _proxies_of(self, host: str) -> dict[str, str]:
        found = self._proxies.get(host)
        if found is None:
            from requests.utils import get_environ_proxies

            found = dict(get_environ_proxies(host)) if self._trust_env else {}
            self._proxies[host] = found
        return found

    def close(self) -> None:
        managers: list[Any] = [self._adapter.poolmanager, *self._adapter.proxy_manager.values()]
        for manager in managers:
            for key in manager.pools.keys():  # noqa: SIM118 - urllib3's container cannot be iterated
                pool = manager.pools.get(key)
                if pool is not None:
                    pool.close()  # the adapter leaves this to the garbage collector
        self._adapter.close()


def _prepared(request: Request) -> PreparedRequest:
    from requests import PreparedRequest

    prepared = PreparedRequest()
    prepared.prepare(
        method=request.method,
        url=request.host + request.path,
        headers=dict(request.headers),
        data=request.body or None,
    )
    return prepared


def _hide_session(record: logging.LogRecord) -> bool:
    """A filter of urllib3's log, which shows URLs: session references are taken out, and every record passes."""
    text = record.getMessage()
    if "session_id=" in text:
        record.msg, record.args = _without_session(text), ()
    return True


def _without_session(text: str) -> str:
    return re.sub(r"session_id=[^&\s\"']*", "session_id=…", text)


class _Body(io.RawIOBase):
    """requests' answer as a stream whose errors are ours."""

    def __init__(self, answer: RequestsResponse, request: Request) -> None:
        self._answer, self._request = answer, request

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any, /) -> int:
        data = self.read(len(buffer))
        buffer[: len(data)] = data
        return len(data)

    def read(self, size: int | None = -1, /) -> bytes:
        from urllib3.exceptions import HTTPError, ReadTimeoutError

        wanted = None if size is None or size < 0 else size
        try:
            return bytes(self._answer.raw.read(wanted, decode_content=True))
        except ReadTimeoutError as error:
            failed: TransportError = WaitTimeout(
                "the rest of the answer did not come within the time allowed; whether the call took effect is not known",
                host=self._request.host,
                method=self._request.shown,
            )
            cause: Exception = error
        except (HTTPError, OSError) as error:
            failed = ConnectionLost(
                f"the connection broke while the answer was being read ({error.args[-1] if error.args else error}); "
                "whether the call took effect is not known",
                host=self._request.host,
                method=self._request.shown,
            )
            cause = error
        raise failed from cause

    def close(self) -> None:
        self._answer.close()
        super().close()


def _understood(chain: list[BaseException], request: Request, timeout: tuple[float, float]) -> TransportError:
    """Our error for one of requests', by whether anything was sent."""
    from requests import exceptions
    from urllib3.exceptions import HTTPError, LocationValueError

    error, reason = chain[0], _without_session(str(_root(chain) or chain[0])).strip()
    kind: type[TransportError] = ConnectError
    unusable = (exceptions.InvalidURL, exceptions.InvalidSchema, exceptions.InvalidHeader, LocationValueError)
    if isinstance(error, unusable) or not isinstance(error, (exceptions.RequestException, HTTPError)):
        message = f"cannot be tried: {reason}"
    elif isinstance(error, exceptions.ConnectTimeout):
        message = f"no connection within {timeout[0]:g} s: is the host up, and is this its address?"
    elif _was_connecting(chain):
        message = f"cannot be reached: {reason}"
        if isinstance(error, exceptions.SSLError):
            message = (
                f"its certificate or TLS version was not accepted ({reason}): pass verify= with the path of the pool's CA "
                "file, or verify=False to go without a check; a host before 7.0 is reached with a http:// URL"
            )
    elif isinstance(error, exceptions.ReadTimeout):
        kind = WaitTimeout
        message = f"no answer within {timeout[1]:g} s; the call may still take effect: look before it is repeated"
    else:
        kind = ConnectionLost
        message = (
            f"the connection broke ({reason}); whether the call took effect is not known: look before it is repeated"
        )
    return kind(message, host=request.host, method=request.shown)


def _chain(error: BaseException | None, outer: BaseException | None) -> Iterator[BaseException]:
    """`error` and what led to it, latest first; `outer` was being handled before, and did not."""
    seen: set[int] = set()
    while error is not None and error is not outer and id(error) not in seen:
        seen.add(id(error))
        yield error
        error = error.__cause__ or error.__context__


def _root(chain: list[BaseException]) -> BaseException | None:
    """What one of requests' errors goes back to; None where that is requests' own, whose text shows the whole URL."""
    from http.client import HTTPException

    found = [error for error in chain[1:] if isinstance(error, (OSError, HTTPException, UnicodeError))]
    return found[-1] if found else None


def _was_connecting(chain: list[BaseException]) -> bool:
    """Whether the error arose while the connection was being made: it says so, or passed through urllib3's `connect`."""
    from urllib3.exceptions import NewConnectionError

    for error in chain:
        if isinstance(error, NewConnectionError):
            return True
        trace = error.__traceback__
        while trace is not None:
            frame = trace.tb_frame
            if frame.f_code.co_name == "connect" and frame.f_globals.get("__name__", "").startswith("urllib3."):
                return True
            trace = trace.tb_next
    return False
