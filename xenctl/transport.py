"""The seam between what is said and how it travels.

Everything that the client sends goes through a `Transport`: calls, uploads and downloads, to a real host or to the fake
in the same process. All waiting goes through its `Clock`, so that on virtual time hours pass at once. `HttpTransport`
is the real one: requests' adapter with prepared requests, its settings (proxies, CA bundle) resolved once. It follows no
redirect, reads no `.netrc`, and sends nothing twice. How a host proves to be itself is in `tls`.

What went wrong decides which error is raised: while the connection was being made nothing was sent (`ConnectError`);
afterwards the effect of a call is unknown. requests does not say which it was, but the traceback does.
"""

from __future__ import annotations

import io
import logging
import os
import re
import socket
import sys
import time
import warnings
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from ipaddress import IPv6Address, ip_address
from typing import TYPE_CHECKING, Any, Protocol, TypedDict, runtime_checkable

from .errors import CleartextWarning, ConnectError, ConnectionLost, TransportError, WaitTimeout

if TYPE_CHECKING:
    from requests import PreparedRequest
    from urllib3.response import BaseHTTPResponse

    from .adapter import Mould

log = logging.getLogger(__name__)


UPLOAD_BLOCK = 256 * 1024
"""Bytes that an upload is read and sent by."""


LONGEST_LIMIT = 2**31 // 1000
"""Seconds that a socket can be told to wait; whoever asks for more waits without limit."""


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


class Upload(Protocol):
    """The body of a request that is too large to be held: `length` bytes, read as they go out."""

    @property
    def length(self) -> int: ...
    def read(self, size: int, /) -> bytes:
        """At most `size` bytes, none at the end. What it raises ends the request and comes out of `send` as it is."""

    def rewind(self) -> bool:
        """Begin anew; False where what was read cannot be had again."""


@dataclass(frozen=True)
class Request:
    """One HTTP request. `host` is an origin, `scheme://name[:port]`; `path` carries the query too.

    `label` is what is being done, for errors and logs: the XenAPI method. Path, headers and body may hold secrets and are
    not shown. `upload` stands in the place of `body`, for methods other than POST.
    """

    host: str
    method: str
    path: str = field(repr=False)
    headers: Mapping[str, str] = field(default_factory=dict, repr=False)
    body: bytes = field(default=b"", repr=False)
    label: str = ""
    upload: Upload | None = field(default=None, repr=False)

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
    """Sends requests to hosts. One that waits for no answer longer than some seconds says so in `read_timeout`."""

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
    fingerprint: str
    legacy_tls: bool
    connect_timeout: float
    read_timeout: float
    trust_env: bool
    connections: int


class HttpTransport:
    """The network, through requests.

    `verify` is True (requests' own certificates, or those that `REQUESTS_CA_BUNDLE` names), False (no check, whatever the
    environment says), or the path of a CA file or folder. `fingerprint` is the SHA-256 of the certificate that every host
    must show, hexadecimal digits with or without colons; it stands in for the CA and for the name in the certificate, and
    goes with no CA file. Each host of a pool has its own: `pin` names that of another one, and a session that is led to
    the master by a member asks that one for it.

    `legacy_tls` lets hosts before 7.0 be spoken to, which know TLS 1.0 and weak keys alone. It weakens no check, but such
    a host signs its own certificate: give its `fingerprint` too, or `verify=False`. A `http://` URL needs none of this
    and hides nothing: the first request to such a host, unless it is this machine, warns with `CleartextWarning`.

    `connect_timeout` and `read_timeout` are seconds, `math.inf` for no limit; the latter bounds the wait for an answer, so
    let what takes longer run as a task. Proxies and the CA bundle come from the environment unless `trust_env` is false. May
    be shared between threads; `connections` is how many are kept open to a host. Raises `ValueError` for a CA file that
    cannot be used, for what is no fingerprint, and for times and numbers of connections that are none.
    """

    def __init__(
        self,
        *,
        verify: bool | str = True,
        fingerprint: str = "",
        legacy_tls: bool = False,
        connect_timeout: float = 10.0,
        read_timeout: float = 300.0,
        trust_env: bool = True,
        connections: int = 10,
    ) -> None:
        from .adapter import CallAdapter
        from .tls import Trust

        limits = _limit("connect_timeout", connect_timeout), _limit("read_timeout", read_timeout)
        if connections < 1:
            raise ValueError(f"connections is how many are kept open to a host, 1 or more, not {connections}")
        source = "verify"
        if verify is True and trust_env and not fingerprint:
            for name in ("CURL_CA_BUNDLE", "REQUESTS_CA_BUNDLE"):
                if os.environ.get(name):
                    verify, source = os.environ[name], name
        trust = Trust(verify=verify, fingerprint=fingerprint, legacy=legacy_tls, source=source)
        self._adapter = CallAdapter(trust, connections=connections)
        self._legacy_tls = legacy_tls
        self._pins = bool(fingerprint)
        self._moulds: dict[tuple[Any, ...], Mould] = {}
        self._timeout, self._limits = (connect_timeout, read_timeout), limits
        self._trust_env = trust_env
        self._proxies: dict[str, dict[str, str]] = {}
        self.clock: Clock = SystemClock()
        logging.getLogger("urllib3.connectionpool").addFilter(_hide_session)

    @property
    def read_timeout(self) -> float:
        """The seconds that an answer is waited for."""
        return self._timeout[1]

    @property
    def pins(self) -> bool:
        """Whether hosts are known by their certificates' fingerprints."""
        return self._pins

    def pin(self, origin: str, fingerprint: str) -> None:
        """From now on, take the host at `origin` for itself by the certificate with this SHA-256 and by nothing else.

        Connections to it that are open are given up, unless they were made with the same pin. What it is worth depends
        on where the fingerprint came from: a host that was not checked may name any. Raises `ValueError` for what is no
        fingerprint, and for a `http://` origin, which shows no certificate.
        """
        from .tls import fingerprint_of

        place = origin_of(origin)
        if not place.startswith("https://"):
            raise ValueError(f"{place} shows no certificate: only a https:// URL can be pinned")
        self._adapter.pin(_prepared(Request(place, "GET", "/")), fingerprint_of(fingerprint))

    def send(self, request: Request) -> Response:
        """Send and return the answer, whatever its status. Raises `TransportError`: `ConnectError` where nothing was
        sent, `ConnectionLost` or `WaitTimeout` where the effect is unknown."""
        from urllib3.exceptions import HTTPError

        outer = sys.exc_info()[1]
        started = time.perf_counter()
        try:
            response = self._sent(request)
        except _UploadStoppedError as stopped:
            raise stopped.reason from None
        except (OSError, HTTPError, UnicodeError) as error:
            chain = list(_chain(error, outer))
            failed, cause = self._understood(chain, request), _root(chain)
        else:
            if log.isEnabledFor(logging.DEBUG):
                took = time.perf_counter() - started
                log.debug("%s on %s: HTTP %d, %.4f s", request.shown, request.host, response.status, took)
            return response
        raise failed from cause  # not from `error`, whose text has the whole URL in it, and with it the session

    def _sent(self, request: Request) -> Response:
        from .adapter import plain

        mould = self._mould(request) if _is_call(request) else None
        prepared = _prepared(request) if mould is None else mould.prepared
        proxies = self._proxies.get(request.host)
        if proxies is None:
            proxies = self._first_seen(request.host)
        if mould is not None:
            again = self._adapter.again(mould, request.body, timeout=self._limits[1], proxies=proxies)
            if again is not None:
                body = again.body
                stream = io.BytesIO(body) if isinstance(body, bytes) else _Body(body, request)
                return Response(again.status, again.headers, stream)
            prepared = mould.filled(request.body)
        answer = self._adapter.send(prepared, stream=True, timeout=self._limits, proxies=proxies)
        answer.raw.enforce_content_length = True
        return Response(answer.status_code, plain(answer.headers), _Body(answer.raw, request))

    def _mould(self, request: Request) -> Mould:
        """Calls differ in their bodies alone, so the first one's head serves all."""
        key = (request.host, request.path, *request.headers.items())
        mould = self._moulds.get(key)
        if mould is None:
            from .adapter import Mould

            mould = self._moulds[key] = Mould(_prepared(replace(request, body=b"")))  # a body may hold the password
        return mould

    def _first_seen(self, host: str) -> dict[str, str]:
        """The proxies for a host that is spoken to for the first time."""
        from requests.utils import get_environ_proxies

        if host.startswith("http://") and not _is_loopback(host):
            warnings.warn(
                f"{host} is spoken to without TLS: the password and all data travel in the clear; use its https:// URL, "
                "with legacy_tls=True for a host before 7.0",
                CleartextWarning,
                stacklevel=_frames_of_ours(),
            )
        found = dict(get_environ_proxies(host)) if self._trust_env else {}
        return self._proxies.setdefault(host, found)

    def _understood(self, chain: list[BaseException], request: Request) -> TransportError:
        """Our error for one of requests', by whether anything was sent."""
        from requests import exceptions
        from urllib3.exceptions import HTTPError, LocationValueError

        error, root = chain[0], _root(chain)
        reason = _without_session(_words(root or error)).strip()
        connect_timeout, read_timeout = self._timeout
        kind: type[TransportError] = ConnectError
        unusable = (exceptions.InvalidURL, exceptions.InvalidSchema, exceptions.InvalidHeader, LocationValueError)
        if isinstance(error, unusable) or not isinstance(error, (exceptions.RequestException, HTTPError)):
            message = f"cannot be tried: {reason}"
        elif isinstance(error, exceptions.ConnectTimeout):
            message = f"no connection within {connect_timeout:g} s: is the host up, and is this its address?"
        elif _was_connecting(chain):
            message = f"cannot be reached: {reason}{_ADVICE.get(type(root), '')}"
            if isinstance(error, exceptions.SSLError):
                from .tls import explained

                message = explained(chain, legacy=self._legacy_tls)
        elif isinstance(error, exceptions.ReadTimeout):
            kind = WaitTimeout
            message = f"no answer within {read_timeout:g} s; the call may still take effect: look before it is repeated"
        else:
            kind = ConnectionLost
            message = (
                f"the connection broke ({reason}); "
                "whether the call took effect is not known: look before it is repeated"
            )
        return kind(message, host=request.host, method=request.shown)

    def close(self) -> None:
        self._adapter.close()


def _limit(name: str, seconds: float) -> float | None:
    """A time-out as sockets take it. Raises `ValueError` for what is none."""
    if isinstance(seconds, bool) or not isinstance(seconds, (int, float)) or not seconds > 0:
        raise ValueError(f"{name} is a number of seconds, more than 0, or math.inf for no limit, not {seconds!r}")
    return None if seconds > LONGEST_LIMIT else seconds


def _is_loopback(origin: str) -> bool:
    """Whether `origin` is this machine, so that nothing leaves it."""
    name = origin.partition("://")[2]
    name = name[1:].partition("]")[0] if name.startswith("[") else name.partition(":")[0]
    try:
        address = ip_address(name)
        return address.is_loopback or address.is_unspecified  # 0.0.0.0 leads here too
    except ValueError:
        return name == "localhost" or name.endswith(".localhost")


def _frames_of_ours() -> int:
    """How far up the stack, counted from the caller, the first frame is that is not of this package."""
    package = __name__.partition(".")[0] + "."
    frame, count = sys._getframe(1), 1
    while frame.f_back is not None and frame.f_globals.get("__name__", "").startswith(package):
        frame, count = frame.f_back, count + 1
    return count


def _is_call(request: Request) -> bool:
    return request.method == "POST" and request.upload is None and "?" not in request.path


def _prepared(request: Request) -> PreparedRequest:
    from requests import PreparedRequest

    prepared = PreparedRequest()
    prepared.prepare(
        method=request.method,
        url=request.host + request.path,
        headers=dict(request.headers),
        data=request.body or None,
    )
    if request.upload is not None:  # requests would measure it by other means, or send it in chunks, which xapi refuses
        prepared.body = _blocks(request.upload)
        prepared.headers["Content-Length"] = str(request.upload.length)
    return prepared


class _UploadStoppedError(Exception):
    """Takes what an upload raised past urllib3, which would take an `OSError` of a file for one of the network."""

    def __init__(self, reason: Exception) -> None:
        super().__init__()
        self.reason = reason


def _blocks(upload: Upload) -> Iterator[bytes]:
    while True:
        try:
            block = upload.read(UPLOAD_BLOCK)
        except Exception as error:
            raise _UploadStoppedError(error) from error
        if not block:
            return
        yield block


def _hide_session(record: logging.LogRecord) -> bool:
    """A filter of urllib3's log, which shows URLs: session references are taken out, and every record passes."""
    text = record.getMessage()
    if "session_id=" in text:
        record.msg, record.args = _without_session(text), ()
    return True


def _without_session(text: str) -> str:
    return re.sub(r"session_id=[^&\s\"']*", "session_id=…", text)


class _Body(io.RawIOBase):
    """urllib3's response as a stream whose errors are ours."""

    def __init__(self, raw: BaseHTTPResponse, request: Request) -> None:
        self._raw, self._request = raw, request

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
            return bytes(self._raw.read(wanted, decode_content=True))
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
        self._raw.close()
        self._raw.release_conn()
        super().close()


def _chain(error: BaseException | None, outer: BaseException | None) -> Iterator[BaseException]:
    """`error` and what led to it, latest first; `outer` was being handled before, and did not."""
    seen: set[int] = set()
    while error is not None and error is not outer and id(error) not in seen:
        seen.add(id(error))
        yield error
        inner = error.args[0] if error.args else None  # urllib3 does not raise all that it wraps
        error = error.__cause__ or error.__context__ or (inner if isinstance(inner, BaseException) else None)


def _root(chain: list[BaseException]) -> BaseException | None:
    """What one of requests' errors goes back to; None where that is requests' own, whose text shows the whole URL."""
    from http.client import HTTPException

    found = [error for error in chain[1:] if isinstance(error, (OSError, HTTPException, UnicodeError))]
    return found[-1] if found else None


_ADVICE: Mapping[type | None, str] = {
    socket.gaierror: "; check how the name is spelt, or use the host's address",
    ConnectionRefusedError: "; check the port, and that the host is up",
}
"""What to do where no connection was made, by what the system said."""


def _words(error: BaseException) -> str:
    """The system's own words, without the number of its error."""
    return str((isinstance(error, OSError) and error.strerror) or error)


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
