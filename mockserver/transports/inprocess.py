"""A transport for `xenctl` in the same process: real bytes both ways, no sockets, on the pool's own clock."""

from __future__ import annotations

from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from xenctl.errors import ConnectError
from xenctl.transport import Clock, Request, Response

from ..http import answer
from ..striking import stream_of

if TYPE_CHECKING:
    from ..pool import MockPool


class InProcessTransport:
    """Carries requests to the hosts of one pool, by their addresses. A host that is off refuses the connection."""

    def __init__(self, pool: MockPool) -> None:
        self._pool = pool

    @property
    def clock(self) -> Clock:
        return self._pool.clock

    def send(self, request: Request) -> Response:
        pool = self._pool
        machine = pool.machine_at(urlsplit(request.host).hostname or "")
        if machine is None:
            raise ConnectError("no host has this address", host=request.host, method=request.shown)
        if not machine.answers:
            why = "the host is off" if machine.state != "running" else "its toolstack is dead"
            raise ConnectError(f"connection refused: {why}", host=request.host, method=request.shown)
        headers = {name.lower(): value for name, value in request.headers.items()}
        pool.wire_bytes[0] += len(request.body)
        with pool.guard():
            out = answer(pool, machine, request.method, request.path, headers, request.body)
        pool.wire_bytes[1] += len(out.body)
        return Response(out.status, out.headers, stream_of(out, host=request.host, method=request.shown))

    def close(self) -> None:
        """Nothing is held."""
