"""What happens when a fault strikes: tables by kind, for `faults`, which knows when.

A strike is given the fault, the host, the method's name, and how the request would go on. It answers, or raises what the
client sees: each transport makes of these what its clients know them as. The pool is past none of it: what took effect did.
"""

from __future__ import annotations

import html
import io
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from http import HTTPStatus
from inspect import isgenerator
from typing import TYPE_CHECKING, Any

from xenctl.errors import ConnectError, ConnectionLost, Failure, WaitTimeout
from xenctl.transport import Stream

from . import startup
from .call import Steps, Wait
from .http import Answer

if TYPE_CHECKING:
    from .classes import Verb
    from .faults import Fault
    from .machine.host import HostMachine
    from .pool import MockPool

ERRORS = ("error", "error_after")
"""The kinds that an answer tells; the others break the connection, or are answers of somebody else."""

Go = Callable[[], Any]
Strike = Callable[["Fault", "HostMachine", str, Go], Any]


class ConnectionReset(ConnectionLost):
    """The connection was reset before the request was read: for clients the same, but sockets tell it in another way."""


class HalfAnswer(Answer):
    """An answer of which only the first half arrives."""

    @property
    def half(self) -> bytes:
        return self.body[: len(self.body) // 2]


class _Cut(io.BytesIO):
    """Half an answer as an in-process client reads it: then the connection breaks, which he notices if he knows how much was
    to come."""

    def __init__(self, data: bytes, where: dict[str, str]) -> None:
        super().__init__(data)
        self._where = where

    def read(self, size: int | None = -1, /) -> bytes:
        data = super().read(size)
        if data and size is not None and size >= 0:
            return data
        raise ConnectionLost("the connection broke in the middle of the answer: a fault of the test", **self._where)


def stream_of(answer: Answer, *, host: str, method: str) -> Stream:
    """The body of an answer as it is read in process."""
    if not isinstance(answer, HalfAnswer):
        return io.BytesIO(answer.body)
    if answer.close:
        return io.BytesIO(answer.half)  # its end is told by that of the connection alone
    return _Cut(answer.half, {"host": host, "method": method})


def _where(machine: HostMachine, method: str) -> dict[str, str]:
    return {"host": f"http://{machine.address}", "method": method}


def _refused(fault: Fault, machine: HostMachine, method: str, go: Go) -> Any:
    raise ConnectError("connection refused: a fault of the test", **_where(machine, method))


def _reset(fault: Fault, machine: HostMachine, method: str, go: Go) -> Any:
    raise ConnectionReset("connection reset: a fault of the test", **_where(machine, method))


def _answer_lost(fault: Fault, machine: HostMachine, method: str, go: Go) -> Any:
    go_to_its_end(go)
    raise ConnectionLost("the connection broke before the answer: a fault of the test", **_where(machine, method))


def _half_answer(fault: Fault, machine: HostMachine, method: str, go: Go) -> Any:
    answer = go_to_its_end(go)
    if isinstance(answer, Answer):
        return HalfAnswer(**vars(answer))
    raise ConnectionLost("the connection broke in the answer: a fault of the test", **_where(machine, method))


def _stall(fault: Fault, machine: HostMachine, method: str, go: Go) -> Any:
    pool = fault.pool
    began = pool.clock.now()
    go_to_its_end(go)
    seconds = fault.settings["seconds"]
    pool.wait(Wait(began + seconds, lambda: False, idle=False))
    raise WaitTimeout(f"no answer within {seconds:g} s: a fault of the test", **_where(machine, method))


def _http_status(fault: Fault, machine: HostMachine, method: str, go: Go) -> Any:
    status = fault.settings["status"]
    try:
        phrase = HTTPStatus(status).phrase
    except ValueError:
        phrase = "Unknown"
    page = f"<html><body><h1>{status} {html.escape(phrase)}</h1>a fault of the test</body></html>".encode()
    return Answer(status, page, {"content-type": "text/html", "server": "a proxy"}, close=True, reason=phrase)


def go_to_its_end(go: Go) -> Any:
    """Let a request take its effect, its refusal included: its client hears of neither."""
    try:
        return go()
    except Failure as refusal:
        return refusal


STRIKES: dict[str, Strike] = {
    "refused": _refused,
    "reset": _reset,
    "answer_lost": _answer_lost,
    "half_answer": _half_answer,
    "stall": _stall,
    "http_status": _http_status,
}
"""What becomes of a request, by the kind of the fault that strikes it."""


# --- errors, in the verb's place or after it


def around(fault: Fault, verb: Verb) -> Verb:
    """`verb`, failing as `fault` says."""

    def instead(*_: Any) -> Any:
        fault.fired += 1
        raise Failure(fault.details)

    def afterwards(*args: Any) -> Any:
        with noted():
            result: Any = verb.function(*args)
        if isgenerator(result):
            steps: Any = result
            return then_fail(steps)
        return instead()

    def then_fail(steps: Steps) -> Steps:
        with noted():
            yield from steps
        instead()

    @contextmanager
    def noted() -> Iterator[None]:
        try:
            yield
        except Failure as refusal:
            fault.missed.append(f"the verb itself refused: {refusal.code}")
            raise

    return replace(verb, function=instead if fault.kind == "error" else afterwards)


# --- what happens to hosts


def _toolstack_crash(pool: MockPool, machine: HostMachine, lasting: float | None) -> bool:
    if not machine.answers:
        return False
    startup.toolstack_died(pool, machine)
    dead = machine.xapi

    def again() -> None:
        if machine.xapi is dead:
            startup.toolstack_restarted(pool, machine)

    if lasting is not None:
        pool.clock.after(lasting, again)
    return True


def _power_loss(pool: MockPool, machine: HostMachine, lasting: float | None) -> bool:
    if machine.state == "off":
        return False
    machine.power_off()

    def again() -> None:
        if machine.state == "off":
            machine.power_on()

    if lasting is not None:
        pool.clock.after(lasting, again)
    return True


PHYSICAL: dict[str, Callable[[MockPool, HostMachine, float | None], bool]] = {
    "toolstack_crash": _toolstack_crash,
    "power_loss": _power_loss,
}
"""What happens to a host, by kind; False where it could not, the host being down already."""
