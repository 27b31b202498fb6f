"""A transport for `xenctl` in the same process: real bytes both ways, no sockets, on the pool's own clock."""

from __future__ import annotations

import io
from functools import lru_cache
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from xenctl.errors import ConnectError, ConnectionLost, TransportError
from xenctl.transport import Clock, Request, Response, Upload

from ..handlers.running import Exchange
from ..http import NO_LENGTH, Answer, answer, broken
from ..striking import stream_of

if TYPE_CHECKING:
    from ..machine.host import HostMachine
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
        machine = pool.machine_at(_hostname(request.host))
        if machine is None:
            raise ConnectError("no host has this address", host=request.host, method=request.shown)
        if not machine.answers:
            why = _silence(machine)
            raise ConnectError(f"connection refused: {why}", host=request.host, method=request.shown)
        headers = {name.lower(): value for name, value in request.headers.items()}
        if request.method != "GET" and "transfer-encoding" not in headers:
            sent = len(request.body) if request.upload is None else request.upload.length
            headers["content-length"] = str(sent)
        pool.wire_bytes[0] += len(request.body)
        if request.method == "POST" and "content-length" not in headers:
            out = broken(NO_LENGTH)
        else:
            with pool.guard():
                out = answer(machine.pool, machine, request.method, request.path, headers, request.body, request.host)
        if out.status == 0:
            raise ConnectionLost("the host closed the connection", host=request.host, method=request.shown)
        if out.steps is not None:
            return self._run(machine, out, request)
        pool.wire_bytes[1] += len(out.body)
        return Response(out.status, out.headers, stream_of(out, host=request.host, method=request.shown))

    def _run(self, machine: HostMachine, out: Answer, request: Request) -> Response:
        """Drive an answer's steps: at once where they take what is sent, else as the answer is read."""
        assert out.steps is not None
        received = _Received(request.upload or io.BytesIO(request.body), self._pool.wire_bytes)
        exchange = Exchange(machine.pool, machine, out.steps, received)
        stream = _Stream(exchange, request, self._pool.wire_bytes)
        if request.method == "GET":
            return Response(out.status, out.headers, stream)
        return Response(out.status, out.headers, io.BytesIO(stream.readall()))

    def close(self) -> None:
        """Nothing is held."""


@lru_cache(maxsize=256)
def _hostname(origin: str) -> str:
    return urlsplit(origin).hostname or ""


def _silence(machine: HostMachine) -> str:
    """Why a host does not answer."""
    if machine.state != "running":
        return "the host is off"
    return "its toolstack is dead" if machine.xapi.mode == "dead" else "its management interface is off"


class _Received:
    """What the client sends, counted."""

    def __init__(self, source: Upload | io.BytesIO, counts: list[int]) -> None:
        self._source, self._counts = source, counts

    def read(self, size: int, /) -> bytes:
        data = self._source.read(size)
        self._counts[0] += len(data)
        return data


class _Stream(io.RawIOBase):
    """What an exchange sends, made as it is read."""

    def __init__(self, exchange: Exchange, request: Request, counts: list[int]) -> None:
        self._exchange, self._request, self._counts = exchange, request, counts
        self._blocks, self._held, self._at = iter(exchange), b"", 0

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any, /) -> int:
        while self._at >= len(self._held):
            try:
                self._held, self._at = next(self._blocks), 0
            except StopIteration:
                return 0
            except TransportError as error:
                raise ConnectionLost(error.message, host=self._request.host, method=self._request.shown) from None
            self._counts[1] += len(self._held)
        part = self._held[self._at : self._at + len(buffer)]
        buffer[: len(part)] = part
        self._at += len(part)
        return len(part)

    def close(self) -> None:
        if not self.closed:
            self._exchange.close()
        super().close()
