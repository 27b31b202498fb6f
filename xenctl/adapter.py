"""requests' adapter, trimmed for many small calls to one host.

What is left of it is what matters: connection pooling, TLS, proxies, time-outs, and the place where `responses` steps in
(`HTTPAdapter.send`). Three things that cost a call more than the network are done otherwise: the pool for a host is looked
up once, the answer is not dressed up with cookies and encodings that nobody asks for, and head and body of a call leave in
one write, since two are two packets and wake the server twice.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from requests import PreparedRequest, Response
from requests.adapters import HTTPAdapter
from urllib3.connection import HTTPConnection, HTTPSConnection
from urllib3.connectionpool import HTTPConnectionPool, HTTPSConnectionPool

if TYPE_CHECKING:
    from urllib3.response import BaseHTTPResponse


class _OneWrite(HTTPConnection):
    """A connection that holds a call's body back until its head is written."""

    _body = b""

    def request(self, method: str, url: str, body: Any = None, *args: Any, **options: Any) -> None:
        if type(body) is bytes:
            self._body, body = body, None
        super().request(method, url, body, *args, **options)

    def send(self, data: Any) -> None:
        if self._body and isinstance(data, bytes):
            data, self._body = data + self._body, b""
        super().send(data)


class _OneWriteTLS(_OneWrite, HTTPSConnection):
    """The same over TLS."""


class _Pool(HTTPConnectionPool):
    ConnectionCls = _OneWrite


class _PoolTLS(HTTPSConnectionPool):
    ConnectionCls = _OneWriteTLS


class CallAdapter(HTTPAdapter):
    """An adapter for calls to a few hosts, all with the same settings."""

    def init_poolmanager(self, *args: Any, **options: Any) -> None:
        super().init_poolmanager(*args, **options)
        self.poolmanager.pool_classes_by_scheme = {"http": _Pool, "https": _PoolTLS}
        self._pools: dict[tuple[str, bool], HTTPConnectionPool] = {}

    def get_connection_with_tls_context(
        self, request: PreparedRequest, verify: Any, proxies: Any = None, cert: Any = None
    ) -> Any:
        key = ("/".join((request.url or "").split("/", 3)[:3]), bool(proxies))
        pool = self._pools.get(key)
        if pool is None:
            pool = super().get_connection_with_tls_context(request, verify, proxies, cert)
            self._pools[key] = pool
        return pool

    def close(self) -> None:
        self._pools.clear()
        super().close()

    def build_response(self, request: PreparedRequest, answer: BaseHTTPResponse) -> Response:
        out = Response()
        out.status_code, out.reason = answer.status, answer.reason or ""
        out.headers.update(answer.headers)
        out.raw, out.request, out.url = answer, request, request.url or ""
        out.connection = self
        return out
