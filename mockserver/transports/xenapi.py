"""A transport for the official SDK in the same process: `XenAPI.Session(pool.url, transport=XenAPITransport(pool))`.

It stands in at the lowest place where `xmlrpc.client` lets it, the sending of one request, so what that does above it
stays: one that finds the connection dropped is sent again, be the call what it may. Errors are those of sockets.
"""

from __future__ import annotations

from contextlib import suppress
from errno import ECONNREFUSED
from http import HTTPStatus
from http.client import RemoteDisconnected
from typing import TYPE_CHECKING, Any
from xmlrpc import client

from xenctl.errors import ConnectError, ConnectionLost, WaitTimeout
from xenctl.transport import Request

from .inprocess import InProcessTransport

if TYPE_CHECKING:
    from ..pool import MockPool


class XenAPITransport(client.Transport):
    """Carries the calls of an `xmlrpc.client.ServerProxy`, such as the official `XenAPI.Session`, to the hosts of one pool,
    by their addresses. A host that is off refuses the connection."""

    def __init__(self, pool: MockPool) -> None:
        super().__init__()
        self._inner = InProcessTransport(pool)

    def single_request(self, host: Any, handler: str, request_body: Any, verbose: bool = False) -> tuple[Any, ...]:
        """Carry one call. Raises `OSError` where no answer comes and `xmlrpc.client.ProtocolError` for an HTTP status other
        than 200."""
        name, extra, _ = self.get_host_info(host)
        headers = {"content-type": "text/xml", **{key.lower(): value for key, value in extra}}
        try:
            answer = self._inner.send(Request(f"http://{name}", "POST", handler, headers, request_body))
        except ConnectError as error:
            raise ConnectionRefusedError(ECONNREFUSED, "Connection refused") from error
        except ConnectionLost as error:
            raise RemoteDisconnected("Remote end closed connection without response") from error
        except WaitTimeout as error:
            raise TimeoutError("timed out") from error
        if answer.status != HTTPStatus.OK:
            phrase = HTTPStatus(answer.status).phrase
            raise client.ProtocolError(f"{name}{handler}", answer.status, phrase, dict(answer.headers))
        parser, target = self.getparser()
        with suppress(ConnectionLost):  # half an answer is for the parser to complain about, as it does on sockets
            while data := answer.stream.read(1024):
                parser.feed(data)
        parser.close()
        return target.close()
