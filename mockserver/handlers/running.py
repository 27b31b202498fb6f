"""How a handler's answer runs: the task that it is bound to, and the loop that a transport drives it by.

A handler sends 200 before it has done anything, as xapi does: what goes wrong afterwards is told by the task, and by the
text of a second answer behind the first one's body. The world is left to others whenever the network is waited for.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from threading import get_ident
from typing import TYPE_CHECKING, Any, Protocol

from xenctl import xmlrpc
from xenctl.errors import ConnectionLost, Failure

from .. import subtasks
from ..call import Call, Wait, refuse
from ..savepoint import Going
from ..store import NULL
from .base import NO_CACHE, Answer, Read, Request, Steps, failed, shown

if TYPE_CHECKING:
    from ..machine.host import HostMachine
    from ..pool import MockPool
    from ..store import Store


class Input(Protocol):
    """What the client sends, as the transport reads it."""

    def read(self, size: int, /) -> bytes: ...


class Binding:
    """The task that a handler runs under: the one that the request names, else one of its own, which ends with it.

    Stands where checks ask for a call: they want its database and its task. Raises `HANDLE_INVALID` for a task that is not.
    """

    def __init__(self, request: Request, label: str) -> None:
        self.pool: MockPool = request.pool
        self._machine, self._xapi = request.machine, request.machine.xapi
        self.task: str = request.arguments.get("task_id", "")
        self._own = not self.task
        if self.task:
            self.db.get("task", self.task)
            return
        host = self.pool.host_row(request.machine)
        fields = {
            "uuid": self.pool.new_uuid(),
            "name_label": label,
            "created": self.pool.clock.stamp(),
            "status": "pending",
            "type": "<none/>",
            "resident_on": host.ref if host else NULL,
            "session": request.arguments.get("session_id", NULL),
            "subtask_of": request.arguments.get("subtask_of", NULL),
        }
        self.task = self.db.create("task", self.pool.new_ref(), fields).ref

    @property
    def db(self) -> Store:
        return self.pool.store

    @property
    def stopped(self) -> bool:
        """Whether the toolstack that serves the request has stopped: it tidies nothing up any more."""
        return self._machine.xapi is not self._xapi

    @property
    def cancelled(self) -> bool:
        """Whether somebody asked to cancel."""
        row = self.db.find("task", self.task)
        return row is not None and "cancel" in row["current_operations"].values()

    def show(self, **fields: Any) -> None:
        """Write to the task while it goes on: its progress, or that it can be cancelled."""
        row = self.db.find("task", self.task)
        if row is not None and row["status"] == "pending":
            self.db.write(row, **fields)

    def end(self, error: Failure | None = None, result: str | None = None) -> None:
        """The handler is done, with `error` where it failed; a result that was set before stays."""
        self.pool.finish_task(self.task, error, result)
        if self._own:
            self.pool.drop_task(self.task)


class CallBinding(Binding):
    """The same where a call does what a handler does: the task is the call's, and ends with it."""

    def __init__(self, call: Call) -> None:
        self.pool, self._machine, self._xapi = call.pool, call.machine, call.xapi
        self.task, self._own = call.task, False


def part(binding: Binding, method: str, *args: Any) -> Steps:
    """Make a call that is a part of what a handler does, with all its arguments; returns its result, raises its error."""
    db = binding.db
    task = subtasks.start_alone(binding.pool, method, *args)
    yield Wait(binding.pool.clock.now() + subtasks.PATIENCE, lambda: subtasks.over(db, task), idle=False)
    row = db.get("task", task)
    status, result, error = row["status"], row["result"], row["error_info"]
    db.delete(row)
    if status != "success":
        raise Failure(error or ["TASK_CANCELLED", task])
    return xmlrpc.loads_value(result)


def begin(
    request: Request, binding: Binding, steps: Steps, headers: Mapping[str, str] | None = None, *, version: str = "1.1"
) -> Answer:
    """The answer whose body `steps` make, under the task of `binding`; the connection ends with it."""
    binding.show(allowed_operations=["cancel"])
    head = {**NO_CACHE, "task-id": binding.task, **(headers or {})}
    bound = _bound(binding, steps)
    request.pool.going[id(bound)] = Going(f"{request.method} {request.path}", bound.close)
    return Answer(200, b"", head, close=True, version=version, steps=bound)


def done(binding: Binding, answer: Answer, error: Failure | None = None) -> Answer:
    """`answer`, which is whole, with the task ended."""
    binding.end(error)
    return answer


def refuse_request(binding: Binding, error: Failure, answer: Answer | None = None) -> Answer:
    """The answer of a handler that cannot begin: its task fails."""
    return done(binding, failed(error) if answer is None else answer, error)


def _bound(binding: Binding, steps: Steps) -> Steps:
    """`steps` with the task ended as they end; cancelled where somebody asked for it, failed where the client went away."""
    given: Any = None
    try:
        while True:
            step = steps.throw(refuse("TASK_CANCELLED", binding.task)) if binding.cancelled else steps.send(given)
            given = yield step
    except StopIteration:
        binding.end()
    except Failure as error:
        binding.end(error)
        yield _second_answer(error)
    except GeneratorExit:
        steps.close()
        binding.end(refuse("CLIENT_ERROR", "the connection was closed"))
        raise


def _second_answer(error: Failure) -> bytes:
    """What xapi sends where it fails in the middle: an answer within the answer."""
    body = bytes(failed(error).body)
    head = f"HTTP/1.1 500 Internal Error\r\ncontent-length: {len(body)}\r\nconnection: close\r\n"
    return f"{head}cache-control: no-cache, no-store\r\ncontent-type: text/html\r\n\r\n".encode() + body


class Exchange:
    """Drives an answer's steps: iterate over what is to be sent. Each step has the pool to itself; what the network does in
    between has not. Raises `ConnectionLost` where the host's toolstack stops meanwhile, or a rollback takes back that the
    transfer began."""

    def __init__(self, pool: MockPool, machine: HostMachine, steps: Steps, received: Input) -> None:
        self._pool, self._machine, self._steps, self._received = pool, machine, steps, received
        self._xapi = machine.xapi
        self._over = False
        with pool.guard():
            self._next = self._advance(None)

    def __iter__(self) -> Iterator[bytes]:
        try:
            while self._next is not None:
                step, given = self._next, None
                if isinstance(step, Read):
                    given = self._received.read(step.size)
                else:
                    yield step
                with self._pool.guard():
                    self._next = self._advance(given)
        finally:
            self.close()

    def close(self) -> None:
        """The client went away, or the answer is over."""
        if not self._over:
            self._over = True
            with self._pool.guard():
                self._pool.going.pop(id(self._steps), None)
                self._steps.close()
                self._pool.settle("a transfer ended")

    def _advance(self, given: bytes | None) -> bytes | Read | None:
        """The next thing that the network has to do; None at the end. Called with the pool held."""
        going = self._pool.going.get(id(self._steps))
        if going is None:
            raise self._lost()
        going.thread = get_ident()
        try:
            step = self._next_step(given)
        except BaseException:
            self._pool.going.pop(id(self._steps), None)
            raise
        going.thread = None
        if step is None:
            self._pool.going.pop(id(self._steps), None)
        return step

    def _next_step(self, given: bytes | None) -> bytes | Read | None:
        while not self._gone():
            try:
                step = self._steps.send(given)
            except StopIteration:
                return None
            finally:
                self._pool.settle("a transfer went on")
            given = None
            if isinstance(step, Wait):
                self._pool.wait(Wait(step.deadline, lambda step=step: step.ready() or self._gone(), idle=False))  # type: ignore[misc]
            elif isinstance(step, float):
                self._pool.wait(Wait(self._pool.clock.now() + step, self._gone, idle=False))
            else:
                return step
        self._steps.close()
        self._pool.settle("a transfer was cut")
        raise self._lost()

    def _lost(self) -> ConnectionLost:
        return ConnectionLost("the host went away", host=self._machine.address)

    def _gone(self) -> bool:
        """Whether the toolstack has stopped, or the transfer was taken back."""
        return self._machine.xapi is not self._xapi or id(self._steps) not in self._pool.going


__all__ = ["Binding", "CallBinding", "Exchange", "Input", "begin", "done", "refuse_request", "shown"]
