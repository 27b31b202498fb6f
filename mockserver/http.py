"""What a host's HTTP port answers: XML-RPC on `/`, `/RPC2` and `/json`, JSON-RPC on `/jsonrpc`, the pool database on
`/pool/xmldbdump`.

Bytes in, bytes out; the transports bring them. Statuses are the real ones.
"""

from __future__ import annotations

import base64
import binascii
import html
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from http.cookies import SimpleCookie
from typing import TYPE_CHECKING
from urllib.parse import parse_qs, urlsplit

from xenctl import database
from xenctl.wire import MalformedError

from . import rules
from .call import serve, serve_json

if TYPE_CHECKING:
    from .machine.host import HostMachine
    from .pool import MockPool

RPC_LIMIT = 307200
"""Bytes that the body of a call may have at the most."""
NO_CACHE = "no-cache, no-store"
ANY_ORIGIN: Mapping[str, str] = {
    "access-control-allow-origin": "*",
    "access-control-allow-headers": "X-Requested-With",
}
RPC_PATHS = ("/", "/json", "/jsonrpc")


@dataclass(frozen=True)
class Answer:
    """One HTTP answer. `close` says that the connection ends with it; `reason` is the status in words, where xapi has its
    own."""

    status: int
    body: bytes = b""
    headers: Mapping[str, str] = field(default_factory=dict)
    close: bool = False
    reason: str | None = None


@dataclass(frozen=True)
class Get:
    """One request for a handler. `arguments` come from the query and from cookies."""

    pool: MockPool
    machine: HostMachine
    headers: Mapping[str, str]
    arguments: Mapping[str, str]


def answer(
    pool: MockPool, machine: HostMachine, method: str, target: str, headers: Mapping[str, str], body: bytes
) -> Answer:
    """Answer one request to `machine`. `headers` has lower-case names."""
    parts = urlsplit(target)
    for prefix, handler in HANDLERS.items():
        if method == "GET" and parts.path.startswith(prefix):
            return handler(Get(pool, machine, headers, _arguments(parts.query, headers)))
    if method == "POST":
        json = parts.path.startswith("/jsonrpc") and machine.system.release.order >= rules.DUNDEE
        return (_json_rpc if json else _rpc)(pool, machine, headers, body)
    if method == "OPTIONS" and parts.path in RPC_PATHS:
        return _options(headers)
    if method in ("GET", "PUT", "OPTIONS"):
        return _page(403, "Forbidden")
    return _page(501, "Method not implemented", close=True)


def _rpc(pool: MockPool, machine: HostMachine, asked: Mapping[str, str], body: bytes) -> Answer:
    if len(body) > RPC_LIMIT:
        return broken("the request is too large")
    try:
        data = serve(pool, machine, body)
    except MalformedError as error:
        return broken(str(error))
    found = {"cache-control": NO_CACHE, "content-type": "text/xml", **ANY_ORIGIN, **_thumbprint(pool, asked, data)}
    return Answer(200, data, found)


def _json_rpc(pool: MockPool, machine: HostMachine, asked: Mapping[str, str], body: bytes) -> Answer:
    """Older hosts than those of 7.0 have no handler for this path, and take what comes for XML-RPC."""
    if len(body) > RPC_LIMIT:
        return broken("the request is too large")
    try:
        data, early = serve_json(pool, machine, body)
    except MalformedError as error:
        return broken(str(error))
    found = {"cache-control": NO_CACHE, "content-type": "application/json"}
    return Answer(200, data, found if early else {**found, **ANY_ORIGIN, **_thumbprint(pool, asked, data)})


def _thumbprint(pool: MockPool, asked: Mapping[str, str], data: bytes) -> dict[str, str]:
    """With a refusal that names the master goes the fingerprint of its certificate, to whoever asked for it."""
    kind, _, whose = asked.get("x-xenapi-request-host-certificate-thumbprint", "").partition(":")
    found = pool.fingerprints.get(pool.master.uuid, {})
    if whose != "master" or kind not in found or b"HOST_IS_SLAVE" not in data:
        return {}
    return {"x-xenapi-response-host-certificate-thumbprint": found[kind]}


def _options(headers: Mapping[str, str]) -> Answer:
    wanted = headers.get("access-control-request-headers", "")
    allowed = {
        "access-control-allow-origin": "*",
        "access-control-allow-headers": ", ".join(filter(None, (wanted, "X-Requested-With"))),
        "access-control-allow-methods": "PUT",
    }
    return Answer(200, b"", allowed)


def broken(reason: str) -> Answer:
    """The answer to a request that cannot be understood: the connection ends with it."""
    return _page(500, reason, close=True)


def _page(status: int, text: str, *, close: bool = False, reason: str | None = None, **headers: str) -> Answer:
    body = f"<html><body><h1>HTTP {status}</h1>{html.escape(text)}</body></html>".encode()
    return Answer(status, body, {"content-type": "text/html", **headers}, close=close, reason=reason)


def _arguments(query: str, headers: Mapping[str, str]) -> dict[str, str]:
    """The arguments of a handler: a cookie wins over the query."""
    out = {name: values[-1] for name, values in parse_qs(query, keep_blank_values=True).items()}
    out.update({name: morsel.value for name, morsel in SimpleCookie(headers.get("cookie", "")).items()})
    return out


def _authorised(get: Get) -> bool:
    """Whether who asks may: by a session, by the pool's secret, or by name and password."""
    if "session_id" in get.arguments:
        return get.pool.store.find("session", get.arguments["session_id"]) is not None
    if "pool_secret" in get.arguments:
        return get.arguments["pool_secret"] == get.machine.system.pool_secret
    scheme, _, text = get.headers.get("authorization", "").partition(" ")
    try:
        given = base64.b64decode(text, validate=True).decode()
    except (binascii.Error, UnicodeDecodeError):
        return False
    return scheme.lower() == "basic" and given == f"{get.pool.username}:{get.pool.password}"


def _dump(get: Get) -> Answer:
    """The pool database; while versions are mixed, a stub without rows."""
    pool = get.pool
    if get.machine.xapi.mode != "master" or not _authorised(get):
        challenge = {"www-authenticate": 'Basic realm="get_pool_xml_db_sync"'}
        return _page(401, "Unauthorised", close=True, reason="Unauthorised", **challenge)
    data = database.stub() if rules.upgrading(pool.store) else database.write(pool.store.dump())
    pool.downloaded(data, whole=not rules.upgrading(pool.store))
    task = pool.store.find("task", get.arguments.get("task_id", ""))
    if task is not None and task["status"] == "pending":
        over = {"progress": 1.0, "finished": pool.clock.stamp(), "allowed_operations": []}
        pool.store.write(task, **over, status="success")
    return Answer(200, data, {"cache-control": NO_CACHE}, close=True)


HANDLERS: dict[str, Callable[[Get], Answer]] = {"/pool/xmldbdump": _dump}
"""What answers a GET whose path begins so."""
