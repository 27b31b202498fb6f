"""What a host's HTTP port answers: RPC on `/`, `/RPC2` and `/json`, the pool database on `/pool/xmldbdump`.

Bytes in, bytes out; the transports bring them. Statuses are the real ones.
"""

from __future__ import annotations

import html
import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from http.cookies import SimpleCookie
from typing import TYPE_CHECKING
from urllib.parse import parse_qs, urlsplit

from xenctl import database
from xenctl.xmlrpc import MalformedError

from . import rules
from .call import serve
from .store import Row

if TYPE_CHECKING:
    from .machine.host import HostMachine
    from .pool import MockPool

log = logging.getLogger(__name__)

RPC_LIMIT = 307200
"""Bytes that the body of a call may have at the most."""
NO_CACHE = "no-cache, no-store"


@dataclass(frozen=True)
class Answer:
    """One HTTP answer. `close` says that the connection ends with it."""

    status: int
    body: bytes = b""
    headers: Mapping[str, str] = field(default_factory=dict)
    close: bool = False


def answer(
    pool: MockPool, machine: HostMachine, method: str, target: str, headers: Mapping[str, str], body: bytes
) -> Answer:
    """Answer one request to `machine`. `headers` has lower-case names."""
    parts = urlsplit(target)
    handler = HANDLERS.get((method, parts.path))
    if handler is not None:
        return handler(pool, machine, _arguments(parts.query, headers), body)
    if method == "POST":
        return _rpc(pool, machine, body)
    if method == "GET":
        return Answer(403, _page(403, "Forbidden"), {"content-type": "text/html"})
    return Answer(501, _page(501, "Method not implemented"), {"content-type": "text/html"}, close=True)


def _rpc(pool: MockPool, machine: HostMachine, body: bytes) -> Answer:
    if len(body) > RPC_LIMIT:
        return _broken("the request is too large")
    try:
        data = serve(pool, machine, body)
    except MalformedError as error:
        return _broken(str(error))
    headers = {
        "cache-control": NO_CACHE,
        "content-type": "text/xml",
        "access-control-allow-origin": "*",
        "access-control-allow-headers": "X-Requested-With",
    }
    return Answer(200, data, headers)


def _broken(reason: str) -> Answer:
    return Answer(500, _page(500, html.escape(reason)), {"content-type": "text/html"}, close=True)


def _page(status: int, text: str) -> bytes:
    return f"<html><body><h1>HTTP {status}</h1>{text}</body></html>".encode()


def _arguments(query: str, headers: Mapping[str, str]) -> dict[str, str]:
    """The arguments of a handler: a cookie wins over the query."""
    out = {name: values[-1] for name, values in parse_qs(query, keep_blank_values=True).items()}
    out.update({name: morsel.value for name, morsel in SimpleCookie(headers.get("cookie", "")).items()})
    return out


def _session(pool: MockPool, arguments: Mapping[str, str]) -> Row | None:
    return pool.store.find("session", arguments.get("session_id", ""))


def _dump(pool: MockPool, machine: HostMachine, arguments: Mapping[str, str], body: bytes) -> Answer:
    """The pool database; while versions are mixed, a stub without rows."""
    if machine.xapi.mode != "master" or _session(pool, arguments) is None:
        return Answer(
            401,
            _page(401, "Unauthorised"),
            {"www-authenticate": 'Basic realm="get_pool_xml_db_sync"', "content-type": "text/html"},
            close=True,
        )
    data = database.stub() if rules.upgrading(pool.store) else database.write(pool.store.dump())
    pool.downloaded(data)
    return Answer(200, data, {"cache-control": NO_CACHE}, close=True)


HANDLERS: dict[tuple[str, str], Callable[[MockPool, HostMachine, Mapping[str, str], bytes], Answer]] = {
    ("GET", "/pool/xmldbdump"): _dump,
}
