"""What happens when a fault strikes: tables by kind, for `faults`, which knows when.

A strike is given the fault, the host, the method's name, and where the request was served its answer. It answers, or raises
what the client sees: each transport makes of these what its clients know them as.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from http import HTTPStatus
from inspect import isgenerator
from typing import TYPE_CHECKING, Any

from xenctl.errors import ConnectError, ConnectionLost, Failure, WaitTimeout
from xenctl.transport import Stream

from . import paths, startup
from .call import Steps, Wait
from .handlers import base as handlers
from .handlers.base import Answer

if TYPE_CHECKING:
    from .classes import Verb
    from .faults import Fault
    from .machine.host import HostMachine

ERRORS = ("error", "error_after")
"""The kinds that an answer tells; the others break the connection, or are answers of somebody else."""


class ConnectionReset(ConnectionLost):
    """The connection was reset before the request was read: for clients the same, but sockets tell it in another way."""


class HalfAnswer(Answer):
    """An answer of which only the first half arrives."""

    @property
    def half(self) -> bytes:
        return bytes(self.body)[: len(self.body) // 2]


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
        return io.BytesIO(bytes(answer.body))
    if answer.close:
        return io.BytesIO(answer.half)  # its end is told by that of the connection alone
    return _Cut(answer.half, {"host": host, "method": method})


def _where(machine: HostMachine, method: str) -> dict[str, str]:
    return {"host": f"http://{machine.address}", "method": method}


def _refused(fault: Fault, machine: HostMachine, method: str) -> Any:
    raise ConnectError("connection refused: a fault of the test", **_where(machine, method))


def _reset(fault: Fault, machine: HostMachine, method: str) -> Any:
    raise ConnectionReset("connection reset: a fault of the test", **_where(machine, method))


def _http_status(fault: Fault, machine: HostMachine, method: str) -> Any:
    status = fault.settings["status"]
    try:
        phrase = HTTPStatus(status).phrase
    except ValueError:
        phrase = "Unknown"
    page = f"<html><body><h1>{status} {phrase}</h1>a fault of the test</body></html>".encode()
    return Answer(status, page, {"content-type": "text/html", "server": "a proxy"}, close=True, reason=phrase)


BEFORE: dict[str, Callable[[Fault, HostMachine, str], Any]] = {
    "refused": _refused,
    "reset": _reset,
    "http_status": _http_status,
}
"""What becomes of a request that is not served, by kind."""


def go_to_its_end(go: Callable[[], Any]) -> Any:
    """Let a request take its effect, its refusal included: its client hears of neither."""
    try:
        return go()
    except Failure as refusal:
        return refusal


def _answer_lost(fault: Fault, machine: HostMachine, method: str, answer: Any, began: float) -> Any:
    raise ConnectionLost("the connection broke before the answer: a fault of the test", **_where(machine, method))


def _half_answer(fault: Fault, machine: HostMachine, method: str, answer: Any, began: float) -> Any:
    if not isinstance(answer, Answer):
        raise ConnectionLost("the connection broke in the answer: a fault of the test", **_where(machine, method))
    if answer.steps is not None:
        steps = _broken_off(answer.steps, _where(machine, method))
        going = machine.pool.going
        going[id(steps)] = going.pop(id(answer.steps))  # it goes on under the other's name
        return replace(answer, steps=steps)
    return HalfAnswer(**vars(answer))


def _broken_off(steps: handlers.Steps, where: dict[str, str]) -> handlers.Steps:
    """A transfer that breaks in the middle of the first block that is sent, or with the first one that is received; the
    handler sees its client go."""
    given: Any = None
    try:
        while True:
            step = steps.send(given)
            if isinstance(step, bytes) and step:
                yield step[: len(step) // 2]
                break
            given = yield step
            if isinstance(step, handlers.Read) and given:
                break
    except StopIteration:
        pass
    finally:
        steps.close()
    raise ConnectionLost("the connection broke in the middle of a transfer: a fault of the test", **where)


def _stall(fault: Fault, machine: HostMachine, method: str, answer: Any, began: float) -> Any:
    seconds = fault.settings["seconds"]
    machine.pool.wait(Wait(began + seconds, lambda: False, idle=False))
    raise WaitTimeout(f"no answer within {seconds:g} s: a fault of the test", **_where(machine, method))


AFTER: dict[str, Callable[[Fault, HostMachine, str, Any, float], Any]] = {
    "answer_lost": _answer_lost,
    "half_answer": _half_answer,
    "stall": _stall,
}
"""What becomes of a request that was served, by kind; given its answer, and when it began."""


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


def _toolstack_crash(machine: HostMachine, settings: Mapping[str, Any]) -> str:
    if not machine.answers:
        return f"{machine.name} did not run"
    startup.toolstack_died(machine.pool, machine)
    dead = machine.xapi

    def again() -> None:
        if machine.xapi is dead:
            startup.toolstack_restarted(machine.pool, machine)

    _later(machine, settings, again)
    return ""


def _power_loss(machine: HostMachine, settings: Mapping[str, Any]) -> str:
    if machine.state == "off":
        return f"{machine.name} did not run"
    machine.power_off()

    def again() -> None:
        if machine.state == "off":
            machine.power_on()

    _later(machine, settings, again)
    return ""


def _storage_path_lost(machine: HostMachine, settings: Mapping[str, Any]) -> str:
    sr = settings["sr"]
    if sr in machine.lost:
        return f"{machine.name} did not reach the storage already"
    paths.lose(machine, sr, settings["guests"])
    _later(machine, settings, lambda: paths.regain(machine, sr))
    return ""


def _later(machine: HostMachine, settings: Mapping[str, Any], again: Callable[[], None]) -> None:
    """Have a host as it was, after the seconds that it is to last."""
    if settings["lasting"] is not None:
        machine.clock.after(settings["lasting"], again)


PHYSICAL: dict[str, Callable[[HostMachine, Mapping[str, Any]], str]] = {
    "toolstack_crash": _toolstack_crash,
    "power_loss": _power_loss,
    "storage_path_lost": _storage_path_lost,
}
"""What happens to a host, by kind; says why not where it could not."""
