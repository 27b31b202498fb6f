"""One call and its answer: encoded, sent, decoded, in either protocol, without a word about logins.

XML-RPC is understood by every host, JSON-RPC by those from 7.0 on. What went wrong comes as one error that names host and
method: a `Failure` of the code's class, `ProtocolError` for what is no answer, `TransportError` where none came. Where a
server's words hold the session's reference, `THIS` stands in its place.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

from . import jsonrpc, xmlrpc
from .errors import Failure, NotJsonRpc, ProtocolError, XenctlError, failure
from .transport import HttpTransport, Request, Response, Transport, origin_at
from .wire import MalformedError

log = logging.getLogger(__name__)

THIS = "(this session)"
"""What stands for the session's reference in errors."""
XML_TYPE, JSON_TYPE = "text/xml", "application/json"
THUMBPRINT = "x-xenapi-response-host-certificate-thumbprint"
"""The header by which a member tells the fingerprint of the master's certificate."""
RPC_HEADERS: Mapping[str, str] = {"content-type": XML_TYPE, "user-agent": "xenctl"}
_HEADERS = {**RPC_HEADERS, "x-xenapi-request-host-certificate-thumbprint": "sha-256:master"}


@dataclass(frozen=True)
class Protocol:
    """How calls are written and answers read, and where a host takes them."""

    path: str
    headers: Mapping[str, str]
    dumps_call: Callable[..., bytes]
    loads_response: Callable[..., Any]


XMLRPC = Protocol("/", _HEADERS, xmlrpc.dumps_call, xmlrpc.loads_response)
JSONRPC = Protocol("/jsonrpc", {**_HEADERS, "content-type": JSON_TYPE}, jsonrpc.dumps_call, jsonrpc.loads_response)

ProtocolName = Literal["auto", "xmlrpc", "jsonrpc"]
PROTOCOLS: Mapping[str, tuple[Protocol, ...]] = {"auto": (JSONRPC, XMLRPC), "jsonrpc": (JSONRPC,), "xmlrpc": (XMLRPC,)}
"""What a login tries, in turn. Every host speaks the last one of a line."""


class Place(NamedTuple):
    """Where calls go: a host's origin, the protocol that it speaks, and the session's reference there, if any."""

    origin: str
    protocol: Protocol
    ref: str | None = None

    def __repr__(self) -> str:
        return f"<Place {self.origin}{self.protocol.path}>"


def exchange(transport: Transport, place: Place, method: str, args: Sequence[Any], *, lazy: bool = False) -> Any:
    """Send one call, with the session before its arguments where there is one, and return what the answer holds.

    Raises what the module says, and `NotJsonRpc` where a call in JSON-RPC was not understood.
    """
    origin, protocol, ref = place
    if ref is None:
        body = protocol.dumps_call(method, args)
    else:
        body = protocol.dumps_call(method, (ref, *args), first=0)
    now = transport.clock.now
    started = now()
    answer = transport.send(Request(origin, "POST", protocol.path, protocol.headers, body, label=method))
    data = answer.read()
    log.debug("%s on %s: HTTP %d, %.3f s", method, origin, answer.status, now() - started)
    if answer.status != 200:
        error = unexpected(answer, data, place, method)
        raise _not_json(error.message, origin, method) if protocol is JSONRPC else error
    try:
        return protocol.loads_response(data, lazy=lazy)
    except MalformedError as error:
        text = f"the answer cannot be read: {masked(ref, str(error))}"
        alien = protocol is JSONRPC and answer.headers.get("content-type", "").partition(";")[0] != JSON_TYPE
        refusal: XenctlError = (
            _not_json(text, origin, method) if alien else ProtocolError(text, host=origin, method=method)
        )
    except Failure as error:
        refusal = typed([masked(ref, part) for part in error.details])
        if error.code == "HOST_IS_SLAVE" and THUMBPRINT in answer.headers:
            _pin_master(transport, origin, error, answer.headers[THUMBPRINT])
    raise refusal


def _pin_master(transport: Transport, origin: str, refusal: Failure, thumbprint: str) -> None:
    """Know the master by its certificate, which a member told us that was known by its own."""
    if not (isinstance(transport, HttpTransport) and transport.pins and origin.startswith("https://")):
        return
    try:
        transport.pin(origin_at(origin, refusal.parameter(0) or ""), thumbprint)
    except ValueError as error:
        log.warning("%s tells no fingerprint of the master's certificate that can be used: %s", origin, error)


def typed(details: Sequence[str], note: str = "") -> Failure:
    """The error for `[code, *params]`, of the code's own class."""
    from .api import errors

    assert errors
    return failure(details, note)


def masked(ref: str | None, text: str) -> str:
    """`text` without the session's reference."""
    return text.replace(ref, THIS) if ref else text


def unexpected(answer: Response, data: bytes, place: Place, what: str) -> ProtocolError:
    """The error for an answer whose HTTP status is not 200; `data` is its body."""
    to = answer.headers.get("location", "").partition("?")[0]
    text = " ".join(data[:2000].decode("utf-8", "replace").split())
    said = f"a redirection to {to}" if to else repr(masked(place.ref, text)[:200])
    return ProtocolError(f"HTTP status {answer.status}: {said}", host=place.origin, method=what)


def speaks_json(transport: Transport, origin: str) -> bool:
    """Whether a host understands JSON-RPC, found out by calls that need no session; true where it does not tell.

    One that answers in XML-RPC, and then still not in JSON-RPC, does not. Whatever else stands in the place of an answer may
    be a proxy's word for a host that has just gone.
    """
    try:
        _alive(transport, Place(origin, XMLRPC))
        _alive(transport, Place(origin, JSONRPC))
    except NotJsonRpc:
        return False
    except XenctlError:  # gone, or something that stands before it
        pass
    return True


def _alive(transport: Transport, place: Place) -> None:
    """See that a host answers, be it with a refusal, as in emergency mode."""
    with suppress(Failure):
        exchange(transport, place, "system.isAlive:xenctl", ("",))


def _not_json(text: str, origin: str, method: str) -> NotJsonRpc:
    return NotJsonRpc(f"it speaks no JSON-RPC (hosts before 7.0 do not): {text}", host=origin, method=method)
