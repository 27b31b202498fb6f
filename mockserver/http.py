"""What a host's HTTP port answers: XML-RPC on `/`, `/RPC2` and `/json`, JSON-RPC on `/jsonrpc`, and the handlers by their
paths.

Bytes in, bytes out; the transports bring them. Statuses are the real ones.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING
from urllib.parse import parse_qs, unquote, urlsplit

from xenctl.wire import MalformedError, Pieces

from . import handlers, rules
from .call import Asked, serve, serve_json
from .handlers.base import NO_CACHE, Answer, Request, broken, page

if TYPE_CHECKING:
    from .machine.host import HostMachine
    from .pool import MockPool

NO_LENGTH = "Content-Length is needed"
"""What is said to a call in chunks."""
RPC_LIMIT = 307200
"""Bytes that the body of a call may have at the most."""
ANY_ORIGIN: Mapping[str, str] = {
    "access-control-allow-origin": "*",
    "access-control-allow-headers": "X-Requested-With",
}
TASK, PARENT, CONFIG = "task-id", "subtask-of", "x-http-other-config-"
"""The headers of calls that say of their tasks: which one it is, what it is a part of, and keys of its `other_config`."""
RPC_PATHS = ("/", "/json", "/jsonrpc")


def answer(
    pool: MockPool,
    machine: HostMachine,
    method: str,
    target: str,
    headers: Mapping[str, str],
    body: bytes = b"",
    origin: str = "",
) -> Answer:
    """Answer one request to `machine`, which the client reached as `origin`. `headers` has lower-case names.

    `body` is that of a call; what a handler takes is read while its answer's `steps` are driven, by an `Exchange`. Raises
    `TransportError` for what a fault does to the connection.
    """
    request = (pool, machine, method, target, headers, body, origin)
    if pool.faults.armed:
        return pool.faults.answer(machine, method, target, body, lambda: _answer(*request))
    return _answer(*request)


def _answer(
    pool: MockPool,
    machine: HostMachine,
    method: str,
    target: str,
    headers: Mapping[str, str],
    body: bytes,
    origin: str,
) -> Answer:
    parts = urlsplit(target)
    handler = handlers.find(machine.system.release, method, parts.path)
    if handler is not None:
        length = headers.get("content-length", "")
        request = Request(
            pool,
            machine,
            method,
            parts.path,
            parts.query,
            headers,
            _arguments(parts.query, headers),
            int(length) if length.isdigit() else None,
            origin,
        )
        return handlers.respond(handler, request)
    if method == "POST":
        json = parts.path.startswith("/jsonrpc") and machine.system.release.order >= rules.DUNDEE
        return (_json_rpc if json else _rpc)(pool, machine, headers, body)
    if method == "OPTIONS" and parts.path in RPC_PATHS:
        return _options(headers)
    if method in ("GET", "PUT", "OPTIONS"):
        return page(403, "Forbidden")
    return page(501, "Method not implemented", close=True)


def _rpc(pool: MockPool, machine: HostMachine, asked: Mapping[str, str], body: bytes) -> Answer:
    if len(body) > RPC_LIMIT:
        return broken("the request is too large")
    try:
        data = serve(pool, machine, body, _asked(asked, machine))
    except MalformedError as error:
        return broken(str(error))
    found = {**NO_CACHE, "content-type": "text/xml", **ANY_ORIGIN, **_thumbprint(pool, asked, data)}
    return Answer(200, data, found)


def _json_rpc(pool: MockPool, machine: HostMachine, asked: Mapping[str, str], body: bytes) -> Answer:
    """Older hosts than those of 7.0 have no handler for this path, and take what comes for XML-RPC."""
    if len(body) > RPC_LIMIT:
        return broken("the request is too large")
    try:
        data, early = serve_json(pool, machine, body, _asked(asked, machine))
    except MalformedError as error:
        return broken(str(error))
    found = {**NO_CACHE, "content-type": "application/json"}
    return Answer(200, data, found if early else {**found, **ANY_ORIGIN, **_thumbprint(pool, asked, data)})


def _asked(headers: Mapping[str, str], machine: HostMachine) -> Asked | None:
    """What the headers of a call say of its task; None where they say nothing."""
    config: dict[str, str] = {}
    if machine.system.release.order >= rules.TAMPA:
        config = {name[len(CONFIG) :]: value for name, value in headers.items() if name.startswith(CONFIG)}
    if not (config or TASK in headers or PARENT in headers):
        return None
    return Asked(headers.get(TASK, ""), headers.get(PARENT, ""), config)


def _thumbprint(pool: MockPool, asked: Mapping[str, str], data: bytes | Pieces) -> dict[str, str]:
    """With a refusal that names the master goes the fingerprint of its certificate, to whoever asked for it."""
    kind, _, whose = asked.get("x-xenapi-request-host-certificate-thumbprint", "").partition(":")
    found = pool.fingerprints.get(pool.master.uuid, {})
    if whose != "master" or kind not in found or isinstance(data, Pieces) or b"HOST_IS_SLAVE" not in data:
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


def _arguments(query: str, headers: Mapping[str, str]) -> dict[str, str]:
    """The arguments of a handler: a cookie wins over the query."""
    out = {name: values[-1] for name, values in parse_qs(query, keep_blank_values=True).items()}
    return {**out, **_cookies(headers.get("cookie", ""))}


def _cookies(text: str) -> dict[str, str]:
    """What a client's cookies say, as xapi reads them: between `;`, or `&` where there is none, with no space taken away, so
    that the second of `a=b; c=d` is called ` c`. Of those of one name the first counts."""
    pairs = [pair.partition("=") for pair in text.split(";" if ";" in text else "&")] if text else []
    return {unquote(name): unquote(value) for name, _, value in reversed(pairs)}


__all__ = ["NO_LENGTH", "RPC_LIMIT", "Answer", "answer", "broken"]
