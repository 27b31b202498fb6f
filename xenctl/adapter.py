"""requests' adapter, trimmed for many small calls to a few hosts.

It keeps what matters of requests and urllib3: pools of connections, TLS, proxies, time-outs, and the place where
`responses` steps in (`HTTPAdapter.send`). What it adds is a short way for calls (`CallAdapter.again`). The first call on
a connection goes the long way, which makes the connection and knows everything that can go wrong with it. Later ones
differ from it in their bodies alone: so the connection is taken from urllib3's pool, the head that urllib3 wrote the
first time and the new body leave in one write, and an answer of the regular form is read without the machinery of
`email` and `http.client`, which cost more than the network. Whatever is not regular is handed, with what was read of it,
to `http.client` and urllib3.

Programs that watch or replace requests do so by patching one of a few well-known functions. While one of these is
patched, there is no short way.
"""

from __future__ import annotations

import io
import re
import sys
from collections.abc import Mapping
from contextlib import suppress
from http.client import HTTPConnection as PlainConnection
from http.client import HTTPException, HTTPResponse
from socket import socket
from ssl import SSLSocket
from threading import Lock
from types import FunctionType
from typing import TYPE_CHECKING, Any, NamedTuple, cast
from urllib.parse import urlsplit

from requests import PreparedRequest
from requests.adapters import HTTPAdapter
from requests.exceptions import ConnectionError as RequestsConnectionError
from requests.exceptions import ReadTimeout
from urllib3._collections import HTTPHeaderDict
from urllib3.connection import HTTPConnection, HTTPSConnection
from urllib3.connectionpool import HTTPConnectionPool
from urllib3.exceptions import ClosedPoolError
from urllib3.response import HTTPResponse as PooledResponse

if TYPE_CHECKING:
    from urllib3.response import BaseHTTPResponse

    from .tls import Trust

SMALL = 1 << 16
"""Bytes of an answer up to which it is read at once; a larger one is a stream."""


class Answer(NamedTuple):
    """An answer to a call: its body, or the response to read it from. Names of `headers` are in lower case."""

    status: int
    headers: Mapping[str, str]
    body: bytes | BaseHTTPResponse


class Mould:
    """A call's request without its body."""

    def __init__(self, prepared: PreparedRequest) -> None:
        self.prepared = prepared
        self.origin = _origin(prepared)
        self.head: tuple[bytes, bytes] | None = None

    def filled(self, body: bytes) -> PreparedRequest:
        """The request with `body`, as requests wants it."""
        prepared = self.prepared.copy()
        prepared.body = body
        prepared.headers["Content-Length"] = str(len(body))
        return prepared


class CallAdapter(HTTPAdapter):
    """An adapter whose TLS is as `trust` says, except for hosts with a pin of their own."""

    def __init__(self, trust: Trust, *, connections: int) -> None:
        self._trust = trust
        self._pins: dict[tuple[str, str | None, int], str] = {}
        self._pools: dict[tuple[str, bool], HTTPConnectionPool] = {}
        self._lock = Lock()
        super().__init__(pool_connections=connections, pool_maxsize=connections, max_retries=0)

    def pin(self, request: PreparedRequest, fingerprint: str) -> None:
        """From now on, take the host that `request` goes to for itself by this fingerprint alone; connections to it that
        were made otherwise are given up."""
        place = _place(request.url or "")
        with self._lock:
            if self._pins.get(place) == fingerprint:
                return
            self._pins[place] = fingerprint
            dropped = [self._pools.pop(key) for key in list(self._pools) if _place(key[0]) == place]
            for pools, key, pool in self._made():
                if pool in dropped:
                    del pools[key]
        for pool in dropped:
            pool.close()

    def again(self, mould: Mould, body: bytes, *, timeout: float | None, proxies: Mapping[str, str]) -> Answer | None:
        """Send a call on a connection that is open, and return the answer; None, with nothing sent, where there is none
        or where calls must go the long way. Raises requests' errors, as `send` does."""
        pool = self._pools.get((mould.origin, bool(proxies)))
        if pool is None or [getattr(owner, name) for owner, name in _PATCHED] != _ORIGINALS:
            return None
        try:
            connection: Any = pool._get_conn()  # closed if the host has hung up since
        except ClosedPoolError:
            return None
        wire = connection.sock
        if type(wire) not in _WIRES or type(connection) not in _CONNECTIONS or (pool.proxy and pool.scheme == "https"):
            pool._put_conn(connection)
            return None
        try:
            if mould.head is None:
                url = self.request_url(mould.prepared, dict(proxies))
                headers: dict[str, Any] = {**mould.prepared.headers, **pool.proxy_headers}
                mould.head = _head(connection, url, headers)
            before, after = mould.head
            if wire.gettimeout() != timeout:
                wire.settimeout(timeout)
            _send(wire, b"%b%d%b%b" % (before, len(body), after, body))
            answer, rest = _received(wire)
            if answer is None:
                return _continued(pool, connection, rest)
            if rest:  # more than was asked for, which the next call would take for its answer
                connection.close()
        except BaseException as error:
            connection.close()
            pool._put_conn(connection)
            if isinstance(error, TimeoutError):
                raise ReadTimeout(error) from error
            if isinstance(error, (OSError, HTTPException)):
                raise RequestsConnectionError(error) from error
            raise
        pool._put_conn(connection)
        return answer

    def get_connection_with_tls_context(
        self, request: PreparedRequest, verify: Any, proxies: Any = None, cert: Any = None
    ) -> Any:
        key = (_origin(request), bool(proxies))
        with self._lock:
            pool = self._pools.get(key)
            if pool is None:
                pool = self._pools[key] = super().get_connection_with_tls_context(request, verify, proxies, cert)
        return pool

    def build_connection_pool_key_attributes(
        self, request: PreparedRequest, verify: Any, cert: Any = None
    ) -> tuple[dict[str, Any], dict[str, Any]]:
        place, _ = super().build_connection_pool_key_attributes(request, True, cert)
        pin = self._pins.get(_place(request.url or ""), "")
        return place, dict(self._trust.settings(pin)) if place["scheme"] == "https" else {}

    def proxy_manager_for(self, proxy: str, **options: Any) -> Any:
        if proxy.lower().startswith("https"):
            options["proxy_ssl_context"] = self._trust.by_authority()
        return super().proxy_manager_for(proxy, **options)

    def cert_verify(self, conn: Any, url: Any, verify: Any, cert: Any) -> None:
        """Leave the pool as it is: what it checks was settled when it was made."""

    def _made(self) -> list[tuple[Any, Any, HTTPConnectionPool]]:
        """Every pool with urllib3's container that holds it and its key there."""
        holders = [self.poolmanager.pools, *(manager.pools for manager in self.proxy_manager.values())]
        found = [(pools, key, pools.get(key)) for pools in holders for key in pools.keys()]  # noqa: SIM118 - no iterator
        return [(pools, key, pool) for pools, key, pool in found if pool is not None]

    def close(self) -> None:
        """Close every connection that is not in use; requests leaves that to the garbage collector."""
        with self._lock:
            self._pools.clear()
            for _, _, pool in self._made():
                pool.close()
            super().close()


def plain(headers: Mapping[str, str]) -> dict[str, str]:
    """Headers with lower-case names, and their values on one line."""
    return {name.lower(): _FOLD.sub(" ", text).strip(" \t") for name, text in headers.items()}


def _origin(request: PreparedRequest) -> str:
    return "/".join((request.url or "").split("/", 3)[:3])


def _place(url: str) -> tuple[str, str | None, int]:
    """Scheme, name and port of `url`, the port also where it is not written."""
    parts = urlsplit(url)
    return parts.scheme, parts.hostname, parts.port or (443 if parts.scheme == "https" else 80)


class _Paper:
    """In place of a socket, to see what is written on it."""

    def __init__(self) -> None:
        self.text = b""

    def settimeout(self, seconds: float | None) -> None:
        """Nobody waits for paper."""

    def sendall(self, data: bytes) -> None:
        self.text += data


def _head(connection: Any, url: str, headers: Mapping[str, str]) -> tuple[bytes, bytes]:
    """What urllib3 writes before a call's body: what comes before the body's length, and what comes after it."""
    scribe = type(connection)(connection.host, connection.port)
    scribe.sock = paper = _Paper()
    scribe.request("POST", url, body=b"", headers=headers)
    before, found, after = paper.text.partition(b"\r\nContent-Length: 0\r\n")
    assert found
    return before + b"\r\nContent-Length: ", b"\r\n" + after


def _send(wire: socket, message: bytes) -> None:
    with suppress(BrokenPipeError, ConnectionResetError):  # an answer may have come before the host hung up
        wire.sendall(message)


def _received(wire: socket) -> tuple[Answer | None, bytes]:
    """A small answer of the regular form, and what came behind it; else None, and what came at all."""
    data = wire.recv(_PIECE)
    end = data.find(b"\r\n\r\n")
    head = _understood(data[:end]) if end > 0 else None
    if head is None:
        return None, data
    status, headers, length = head
    end += 4
    while len(data) < end + length:
        piece = wire.recv(_PIECE)
        if not piece:
            return None, data
        data += piece
    return Answer(status, headers, data[end : end + length]), data[end + length :]


def _understood(head: bytes) -> tuple[int, dict[str, str], int] | None:
    """Status, headers and length of the body of a small answer, where nothing about it is unusual."""
    match = _REGULAR.fullmatch(head)
    if match is None:
        return None
    lines = match[2].decode("latin-1").split("\r\n")[1:]
    headers = {}
    for line in lines:
        name, _, text = line.partition(":")
        headers[name.lower()] = text.strip(" \t")
    length = headers.get("content-length", "")
    if (
        len(headers) == len(lines) <= _MOST_HEADERS
        and headers.keys().isdisjoint(_UNUSUAL)
        and headers.get("connection", _KEPT).lower() == _KEPT
        and length.isdecimal()
        and len(length) < 10
        and int(length) <= SMALL
    ):
        return int(match[1]), headers, int(length)
    return None


def _continued(pool: HTTPConnectionPool, connection: Any, data: bytes) -> Answer:
    """An answer that is large or not regular, of which `data` has been read: a stream that gives the connection back."""
    response = HTTPResponse(cast("socket", _Replay(connection.sock, data)), method="POST")
    try:
        response.begin()
    except BaseException:
        response.close()
        raise
    if response.will_close:
        connection.close()
    headers = HTTPHeaderDict(response.getheaders())
    body = PooledResponse(
        response,
        headers,
        response.status,
        reason=response.reason,
        preload_content=False,
        decode_content=False,
        original_response=response,
        pool=pool,
        connection=connection,
        request_method="POST",
    )
    return Answer(response.status, plain(dict(headers.itermerged())), body)


class _Replay:
    """A socket of which something has been read already, as far as `http.client` uses one."""

    def __init__(self, wire: socket, data: bytes) -> None:
        self._wire, self._data = wire, data

    def makefile(self, mode: str) -> io.BufferedReader:
        return io.BufferedReader(_ReplayFile(self._wire.makefile("rb", buffering=0), self._data))


class _ReplayFile(io.RawIOBase):
    def __init__(self, rest: io.RawIOBase, data: bytes) -> None:
        self._rest, self._data = rest, data

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any, /) -> int | None:
        if not self._data:
            return self._rest.readinto(buffer)
        count = min(len(buffer), len(self._data))
        buffer[:count], self._data = self._data[:count], self._data[count:]
        return count

    def close(self) -> None:
        self._rest.close()
        super().close()


_PIECE = 1 << 14
_MOST_HEADERS = 100
"""How many `http.client` takes."""
_FOLD = re.compile(r"[ \t]*\r?\n[ \t]+")
_KEPT = "keep-alive"
_UNUSUAL = frozenset({"transfer-encoding", "content-encoding"})
_REGULAR = re.compile(
    rb"HTTP/1\.1 (20[0-35-9]|[45][0-9]{2}|30[0-35-9])(?: [^\r\n]*)?((?:\r\n[-!#$%&'*+.^_`|~0-9A-Za-z]+:[^\r\n\0]*)*)"
)
"""The head of an answer that has a body, each header on a line of its own."""

_CONNECTIONS = (HTTPConnection, HTTPSConnection)
_WIRES = (socket, SSLSocket)
_PATCHED: tuple[tuple[type, str], ...] = (
    (HTTPAdapter, "send"),
    (HTTPConnectionPool, "urlopen"),
    (HTTPConnection, "request"),
    (PlainConnection, "putrequest"),
    (PlainConnection, "getresponse"),
)
"""Where `responses` and those that trace or record requests step in."""


def _original(owner: type, name: str) -> Any:
    """The function of this name, or something that equals nothing where it is patched already."""
    found = getattr(owner, name)
    home = vars(sys.modules[owner.__module__])
    return found if isinstance(found, FunctionType) and found.__globals__ is home else object()


_ORIGINALS = [_original(owner, name) for owner, name in _PATCHED]
