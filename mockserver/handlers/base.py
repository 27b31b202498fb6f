"""What every handler of a host's HTTP port shares: its request, its answer, the pages of refusals, and who may ask.

A handler gives an `Answer`. Where it sends much, takes much or takes long, the answer has `steps`: a generator that
yields what has to happen next, and knows neither sockets nor locks:

    bytes      are sent
    Read(n)    is answered with at most n bytes of what the client sends, with none at its end
    float      that many simulated seconds pass
"""

from __future__ import annotations

import base64
import binascii
import html
from collections.abc import Callable, Generator, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from xenctl.errors import Failure

from .. import roles

if TYPE_CHECKING:
    from xenctl.wire import Pieces

    from ..call import Wait
    from ..machine.host import HostMachine
    from ..pool import MockPool

NO_CACHE = {"cache-control": "no-cache, no-store"}


@dataclass(frozen=True)
class Read:
    """A step: give me at most `size` bytes of what the client sends."""

    size: int


Steps = Generator["bytes | Read | float | Wait", Any, Any]


@dataclass(frozen=True)
class Answer:
    """One HTTP answer. `close` says that the connection ends with it; `reason` is the status in words, where xapi has its
    own; `steps` make the body where it is not there yet. Status 0 is no answer at all: the connection is closed."""

    status: int
    body: bytes | Pieces = b""
    headers: Mapping[str, str] = field(default_factory=dict)
    close: bool = False
    reason: str | None = None
    version: str = "1.1"
    steps: Steps | None = None


HUNG_UP = Answer(0, close=True)


@dataclass(frozen=True)
class Request:
    """One request for a handler. `path` comes without its query; `arguments` come from the query and from cookies; `length`
    is the Content-Length, None where the client sent none. `origin` is the place that was asked, as the client named it."""

    pool: MockPool
    machine: HostMachine
    method: str
    path: str
    query: str
    headers: Mapping[str, str]
    arguments: Mapping[str, str]
    length: int | None = None
    origin: str = ""

    def flag(self, name: str) -> bool:
        """Whether an argument is exactly `true`."""
        return self.arguments.get(name) == "true"

    def switch(self, name: str, *, default: bool = False) -> bool:
        """A boolean argument. Raises `Failure` for text that is neither `true` nor `false`."""
        text = self.arguments.get(name, "true" if default else "false")
        if text not in ("true", "false"):
            raise Failure(["INTERNAL_ERROR", 'Invalid_argument("bool_of_string")'])
        return text == "true"

    def elsewhere(self, address: str) -> Answer:
        """The redirection to the host at `address`: the same path and query, task and session included. xapi names https
        and no port; a pool that is served on another port, or without TLS, could not be reached there."""
        scheme, _, place = self.origin.partition("://")
        port = place.rpartition("]")[2].rpartition(":")[2] if ":" in place.rpartition("]")[2] else ""
        name = address if not port or ":" in address.rpartition("]")[2] else f"{address}:{port}"
        query = f"?{self.query}" if self.query else ""
        location = f"{scheme or 'https'}://{name}{self.path}{query}"
        return Answer(302, b"", {**NO_CACHE, "location": location}, close=True, reason="Found")


@dataclass(frozen=True)
class Handler:
    """What answers one method on one path. `action` is its name in the data model, which is its realm too; hosts older than
    `since` do not know the path."""

    action: str
    answer: Callable[[Request], Answer]
    since: str = "4.0.1"
    master_only: bool = False
    public: Callable[[Request], bool] = lambda request: False


# --- pages


def page(status: int, text: str, *, close: bool = False, reason: str | None = None, **headers: str) -> Answer:
    """An answer with a page of HTML, as browsers would show it."""
    body = f"<html><body><h1>HTTP {status}</h1>{html.escape(text, quote=False)}</body></html>".encode()
    return Answer(status, body, {"content-type": "text/html", **headers}, close=close, reason=reason)


def broken(reason: str) -> Answer:
    """The answer to a request that cannot be understood or done: the connection ends with it."""
    return page(500, reason, close=True)


def failed(error: Failure) -> Answer:
    """The answer of a handler that failed before it said anything: the page names the error."""
    return broken(shown(error))


def shown(error: Failure) -> str:
    """An error as xapi's pages spell it."""
    return f"{error.code}: [ {'; '.join(error.params)} ]"


def unauthorised(action: str) -> Answer:
    """The answer to somebody who may not ask."""
    challenge = {"www-authenticate": f'Basic realm="{action}"'}
    return page(401, "Unauthorised", close=True, reason="Unauthorised", **challenge)


def plain(status: int, reason: str) -> Answer:
    """A status without a page."""
    return Answer(status, b"", dict(NO_CACHE), close=True, reason=reason)


# --- who may ask


def refused(request: Request, handler: Handler) -> Answer | None:
    """The answer to somebody who may not use `handler`; None for who may: by a session whose roles allow it, by the pool's
    secret, or by name and password, of which the first that is there counts. Where roles are lacking, the task that the
    request names fails."""
    given = request.arguments
    mode = request.machine.xapi.mode
    if handler.public(request):
        return None
    if mode not in ("master", "member") or (handler.master_only and mode != "master"):
        return unauthorised(handler.action)
    scheme, _, text = request.headers.get("authorization", "").partition(" ")
    if "session_id" in given:
        session = request.pool.store.find("session", given["session_id"])
        known = session is not None
        if known and not roles.has(session, f"http/{handler.action}"):
            return _denied(request, f"http/{handler.action}")
    elif "pool_secret" in given:
        known = given["pool_secret"] in request.machine.system.secrets
    elif scheme and scheme.lower() != "basic":
        return broken(f"Unknown authorization header: {scheme}")
    else:
        known = _decoded(text) == f"{request.pool.username}:{request.pool.password}"
    return None if known else unauthorised(handler.action)


def _denied(request: Request, permission: str) -> Answer:
    error = roles.denied(request.pool.store.release, permission)
    request.pool.finish_task(request.arguments.get("task_id", ""), error)
    return page(403, "Forbidden", close=True, reason="Forbidden")


def _decoded(text: str) -> str | None:
    try:
        return base64.b64decode(text, validate=True).decode()
    except (binascii.Error, UnicodeDecodeError):
        return None
