"""Requests to a host's HTTP handlers: redirections followed, refusals understood."""

from __future__ import annotations

import logging
import re
from dataclasses import replace
from html import unescape

from .channel import XMLRPC, Place, masked, typed, unexpected
from .errors import ProtocolError, XenctlError
from .transport import Request, Response, Transport, origin_of

log = logging.getLogger(__name__)

MAX_HOPS = 3
"""How many redirections are followed: xapi needs one, so more is a circle."""
_ERROR = re.compile(r"\b([A-Z][A-Z0-9_]+): \[ (.*?) ?\]")
"""How the page of a handler that failed names the error and its parameters."""


def follow(transport: Transport, request: Request) -> tuple[Response, Request]:
    """The answer to a request, and the request that got it: the one that the redirections led to."""
    visited = [request.host]
    while True:
        answer = transport.send(request)
        log.debug("%s on %s: HTTP %d", request.label, request.host, answer.status)
        location = answer.headers.get("location", "")
        if answer.status != 302 or not location:
            return answer, request
        answer.read()
        there, path = _redirected(request, location)
        visited.append(there)
        if len(set(visited)) < len(visited) or len(visited) > MAX_HOPS + 1:
            raise ProtocolError(
                f"redirected in a circle ({' -> '.join(visited)}): does any host see the storage?",
                host=visited[0],
                method=request.label,
            )
        log.info("%s: following a redirection to %s", request.label, there)
        request = replace(request, host=there, path=path)


def _redirected(request: Request, location: str) -> tuple[str, str]:
    """Where a redirection leads: origin and path. Raises `ProtocolError` for one that must not be followed."""
    place = location.partition("?")[0]
    try:
        there = origin_of(location) if "://" in location else ""
    except ValueError:
        there = ""
    reason = ""
    if not there:
        reason = "which is no host"
    elif request.host.startswith("https:") and not there.startswith("https:"):
        reason = "which would send the session without TLS"
    elif request.upload is not None and not request.upload.rewind():
        reason = "but what was sent already cannot be read again: pass a file"
    if reason:
        raise ProtocolError(f"redirected to {place}, {reason}", host=request.host, method=request.label)
    rest = location.partition("://")[2]
    return there, rest[rest.find("/") :] if "/" in rest else request.path


def refused(answer: Response, request: Request, ref: str | None) -> XenctlError:
    """The error for a handler's answer other than 200; `ref` is the session that asked."""
    data = answer.read()
    said = _ERROR.search(unescape(data[:65536].decode("utf-8", "replace")))
    if answer.status == 500 and said is not None:
        return typed([masked(ref, part) for part in (said[1], *filter(None, said[2].split("; ")))])
    return unexpected(answer, data, Place(request.host, XMLRPC, ref), request.label)
