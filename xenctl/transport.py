"""The seam between what is said and how it travels.

Everything that the client sends goes through a `Transport`: calls, uploads and downloads, to a real host or to the fake
in the same process. All waiting goes through its `Clock`, so that on virtual time hours pass at once. `HttpTransport`
is the real one: requests' adapter with prepared requests, its settings (proxies, CA bundle) resolved once.
"""

from __future__ import annotations

import io
import os
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

from .errors import ConnectError, ConnectionLost, TransportError, WaitTimeout

if TYPE_CHECKING:
    from requests import Response as RequestsResponse
    from requests.adapters import HTTPAdapter


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
    """One HTTP request. `host` is an origin, `scheme://name[:port]`; `path` carries the query too."""

    host: str
    method: str
    path: str
    headers: Mapping[str, str] = field(default_factory=dict)
    body: bytes = b""


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


def origin_of(url: str) -> str:
    """`url` as an origin: `https` where it names no scheme, no path; raises `ValueError` for what is no URL."""
    text = url.strip()
    scheme, separator, rest = text.partition("://")
    if not separator:
        scheme, rest = "https", text
    name = rest.split("/", 1)[0]
    if scheme not in ("http", "https") or not name or "@" in name or any(c.isspace() for c in name):
        raise ValueError(f"not a host's URL: {url!r}; write it as https://ADDRESS")
    return f"{scheme}://{name}"


def origin_at(origin: str, address: str) -> str:
    """The origin of the host at `address` (a bare IP address, as `HOST_IS_SLAVE` names it), by `origin`'s scheme and
    port."""
    scheme, _, name = origin.partition("://")
    if address.count(":") > 1 and not address.startswith("["):
        address = f"[{address}]"
    if address.rpartition("]")[2].startswith(":") or (address.count(":") == 1 and not address.startswith("[")):
        return f"{scheme}://{address}"
    port = name.rpartition("]")[2].rpartition(":")[2] if ":" in name.rpartition("]")[2] else ""
    return f"{scheme}://{address}:{port}" if port else f"{scheme}://{address}"


class HttpTransport:
    """The network, through requests.

    `verify` is True (system or `REQUESTS_CA_BUNDLE` certificates), False (no check), or the path of a CA file.
    `connect_timeout` and `read_timeout` are seconds. Proxies and the CA bundle come from the environment unless
    `trust_env` is false. May be shared between threads.
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
        from requests.adapters import HTTPAdapter
        from requests.utils import get_environ_proxies

        self._adapter: HTTPAdapter = HTTPAdapter(pool_connections=connections, pool_maxsize=connections, max_retries=0)
        if verify is True and trust_env:
            verify = os.environ.get("REQUESTS_CA_BUNDLE") or os.environ.get("CURL_CA_BUNDLE") or True
        self._verify = verify
        self._timeout = (connect_timeout, read_timeout)
        self._trust_env = trust_env
        self._environ_proxies = get_environ_proxies
        self._proxies: dict[str, Any] = {}
        self.clock: Clock = SystemClock()

    def send(self, request: Request) -> Response:
        from requests import Request as Prepared
        from requests import exceptions

        prepared = Prepared(
            request.method, request.host + request.path, headers=dict(request.headers), data=request.body or None
        ).prepare()
        if request.host not in self._proxies:
            self._proxies[request.host] = self._environ_proxies(request.host) if self._trust_env else {}
        try:
            answer = self._adapter.send(
                prepared,
                stream=True,
                timeout=self._timeout,
                verify=self._verify,
                proxies=self._proxies[request.host],
            )
        except exceptions.RequestException as error:
            raise _understood(error, request.host, request.path) from error
        headers = {name.lower(): value for name, value in answer.headers.items()}
        return Response(answer.status_code, headers, _Body(answer, request))

    def close(self) -> None:
        self._adapter.close()


class _Body(io.RawIOBase):
    """requests' answer as a stream whose errors are ours."""

    def __init__(self, answer: RequestsResponse, request: Request) -> None:
        self._answer, self._request = answer, request

    def read(self, size: int = -1, /) -> bytes:
        from requests import exceptions
        from urllib3.exceptions import HTTPError

        try:
            if size is None or size < 0:
                return self._answer.content
            return bytes(self._answer.raw.read(size, decode_content=True))
        except (exceptions.RequestException, HTTPError, OSError) as error:
            raise ConnectionLost(
                f"the connection broke while the answer was being read ({error})",
                host=self._request.host,
                method=self._request.path,
            ) from error

    def close(self) -> None:
        self._answer.close()
        super().close()


def _understood(error: Exception, host: str, path: str) -> TransportError:
    from requests import exceptions
    from urllib3.exceptions import NameResolutionError, NewConnectionError

    if isinstance(error, exceptions.SSLError):
        return ConnectError(
            "its certificate or TLS version was not accepted; pass verify= with the pool's CA file, or verify=False to "
            f"go without a check; a host before 7.0 is reached with a http:// URL ({error})",
            host=host,
            method=path,
        )
    if isinstance(error, exceptions.ConnectTimeout):
        return ConnectError("no connection within the time allowed: is the host up?", host=host, method=path)
    if isinstance(error, exceptions.ReadTimeout):
        return WaitTimeout("no answer within the time allowed", host=host, method=path)
    reason = getattr(error.args[0], "reason", None) if error.args else None
    if isinstance(error, exceptions.ProxyError) or isinstance(reason, (NewConnectionError, NameResolutionError)):
        return ConnectError(f"cannot be reached: {reason or error}", host=host, method=path)
    if isinstance(error, (exceptions.InvalidURL, exceptions.InvalidSchema, exceptions.MissingSchema)):
        return ConnectError(f"not a usable address: {error}", host=host, method=path)
    return ConnectionLost(f"the connection broke ({error})", host=host, method=path)
