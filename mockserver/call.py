"""The one path of every call, in the order of the real server; whoever reads `serve` and `dispatch` knows the system.

A verb is a function of the call and its unmarshalled arguments. Where it takes time it is a generator: it yields the
seconds to wait (or a `Wait`), and goes on when they have passed. A synchronous call is driven to its end while the clock
runs; an asynchronous one returns a task at once and goes on from timers.
"""

from __future__ import annotations

from collections.abc import Callable, Generator
from dataclasses import dataclass, field
from inspect import isgenerator
from typing import TYPE_CHECKING, Any

from xenctl import xmlrpc
from xenctl.datamodel import MISSING
from xenctl.datamodel import types as t
from xenctl.errors import ConnectionLost, Failure
from xenctl.releases import has_removed
from xenctl.values import Timestamp, parse_datetime

from .store import NULL

if TYPE_CHECKING:
    from xenctl.datamodel import Message

    from .clock import VirtualClock
    from .machine.host import HostMachine
    from .pool import MockPool
    from .store import Row, Store

EMERGENCY_CALLS = frozenset(
    "pool.emergency_reset_master pool.emergency_transition_to_master pool.is_slave session.slave_local_login "
    "session.slave_local_login_with_password session.local_logout host.local_assert_healthy host.is_in_emergency_mode "
    "host.emergency_ha_disable host.shutdown_agent".split()
)


@dataclass(frozen=True)
class Wait:
    """What a verb yields to wait until `ready()` holds or the clock reaches `deadline`."""

    deadline: float
    ready: Callable[[], bool]


Steps = Generator["float | Wait", None, Any]


@dataclass
class Call:
    """One call on its way: who called what on which host, and what it needs to be answered."""

    pool: MockPool
    machine: HostMachine
    message: Message
    method: str
    args: tuple[Any, ...]
    session: Row | None = None
    task: str = ""
    is_async: bool = False
    boots: int = 0
    local: set[str] = field(default_factory=set)

    @property
    def db(self) -> Store:
        return self.pool.store

    @property
    def clock(self) -> VirtualClock:
        return self.pool.clock

    def at_least(self, order: Any) -> bool:
        """Whether the master's release is of this order or later."""
        return bool(self.db.release.order >= order)


def refuse(code: str, *params: object) -> Failure:
    """The error to raise for a refusal."""
    return Failure([code, *(str(param) for param in params)])


def serve(pool: MockPool, machine: HostMachine, body: bytes) -> bytes:
    """Answer the bytes of one XML-RPC call; raises `MalformedError` for what is none."""
    method, params = xmlrpc.loads_call(body)
    try:
        result = dispatch(pool, machine, method, params)
    except Failure as error:
        return xmlrpc.dumps_failure(error.details)
    if method == "system.listMethods":
        return xmlrpc.dumps_bare(result)
    return xmlrpc.dumps_success(result)


def dispatch(pool: MockPool, machine: HostMachine, method: str, params: list[Any]) -> Any:
    """Answer one call given as values. Raises `Failure` for a refusal."""
    pool.calls += 1
    try:
        if machine.xapi.mode != "master" and machine.xapi.mode != "member" and method not in EMERGENCY_CALLS:
            raise Failure(machine.xapi.error)
        if method.startswith("system."):
            return _system(pool, machine, method, params)
        call = _recognise(pool, machine, method, params)
        call.args = _unmarshal(call.message, params)
        _check_session(call, params)
        if has_removed(machine.system.release, call.message):
            raise refuse("MESSAGE_REMOVED")
        if call.is_async and not call.message.has_async:
            raise refuse("Fault", f"No async mode for this operation (rpc: {call.message.wire_name})")
        return _execute(call)
    finally:
        pool.settle(method)


def _system(pool: MockPool, machine: HostMachine, method: str, params: list[Any]) -> Any:
    if method == "system.listMethods":
        return sorted(pool.methods(machine.system.release))
    if method.startswith("system.isAlive:") and params:
        return params[0]
    raise refuse("MESSAGE_METHOD_UNKNOWN", method)


def _recognise(pool: MockPool, machine: HostMachine, method: str, params: list[Any]) -> Call:
    name, is_async = method, False
    for prefix in ("Async.", "InternalAsync."):
        if method.startswith(prefix):
            name, is_async = method[len(prefix) :], True
    message = pool.methods(machine.system.release).get(name)
    if message is None and not is_async and "." not in name:
        message = pool.underscored(machine.system.release).get(name)
    if message is None:
        if params:
            if not isinstance(params[0], str):
                raise refuse("INTERNAL_ERROR", f"Failure(\"Expected string, got '{params[0]}'\")")
            _find_session(pool, machine, params[0])
        raise refuse("MESSAGE_METHOD_UNKNOWN", name)
    return Call(pool, machine, message, name, (), is_async=is_async, boots=machine.boots)


def _unmarshal(message: Message, params: list[Any]) -> tuple[Any, ...]:
    given = len(params) - (1 if message.session else 0)
    needed = sum(1 for param in message.params if param.default is MISSING)
    optional = len(message.params) - needed
    if given < needed or (given > needed and not optional):
        raise refuse("MESSAGE_PARAMETER_COUNT_MISMATCH", message.wire_name, needed, given)
    if message.session and not isinstance(params[0], str):
        raise refuse("INTERNAL_ERROR", f"Failure(\"Expected string, got '{params[0]}'\")")
    values = params[1:] if message.session else params
    out = []
    for number, param in enumerate(message.params):
        out.append(unmarshal(param.type, values[number]) if number < len(values) else param.default)
    return tuple(out)


def unmarshal(kind: t.Type, value: Any) -> Any:
    """A wire value as the store keeps it; what does not fit is an `INTERNAL_ERROR`, as in xapi."""
    if isinstance(kind, t.Scalar):
        return _SCALARS[kind.name](value)
    if isinstance(kind, (t.Ref, t.Enum)):
        return _text(value)
    if isinstance(kind, t.Set):
        if not isinstance(value, list):
            raise refuse("INTERNAL_ERROR", 'Failure("Expected array")')
        return [unmarshal(kind.item, item) for item in value]
    if isinstance(kind, (t.Map, t.Record)):
        if not isinstance(value, dict):
            raise refuse("INTERNAL_ERROR", 'Failure("Expected struct")')
        if isinstance(kind, t.Record):
            return value
        return {name: unmarshal(kind.item, item) for name, item in value.items()}
    return value


def _text(value: Any) -> str:
    if isinstance(value, str):
        return str(value)
    raise refuse("INTERNAL_ERROR", f"Failure(\"Expected string, got '{value}'\")")


def _int(value: Any) -> int:
    if isinstance(value, (int, str)) and not isinstance(value, bool):
        try:
            return int(value)
        except ValueError:
            pass
    raise refuse("INTERNAL_ERROR", f"Failure(\"Expected int64, got '{value}'\")")


def _float(value: Any) -> float:
    if isinstance(value, (int, float, str)) and not isinstance(value, bool):
        try:
            return float(value)
        except ValueError:
            pass
    raise refuse("INTERNAL_ERROR", f"Failure(\"Expected float, got '{value}'\")")


def _bool(value: Any) -> bool:
    if isinstance(value, bool):
        return value
    raise refuse("INTERNAL_ERROR", f"Failure(\"Expected bool, got '{value}'\")")


def _datetime(value: Any) -> Timestamp:
    try:
        parse_datetime(_text(value))
    except ValueError as error:
        raise refuse("INTERNAL_ERROR", f"Invalid argument: {error}") from None
    return Timestamp(value)


_SCALARS: dict[str, Callable[[Any], Any]] = {
    "string": _text,
    "int": _int,
    "float": _float,
    "bool": _bool,
    "datetime": _datetime,
    "any": lambda value: value,
    "void": lambda value: "",
}


def _check_session(call: Call, params: list[Any]) -> None:
    if call.message.session:
        call.session = _find_session(call.pool, call.machine, params[0])
        if call.message.pool_internal:
            name = call.message.wire_name
            raise refuse("INTERNAL_ERROR", f'Internal API "{name}" call attempted with non-pool (external) session')


def _find_session(pool: MockPool, machine: HostMachine, ref: str) -> Row | None:
    if ref in machine.xapi.local_sessions:
        return None
    session = pool.store.find("session", ref) if machine.xapi.mode in ("master", "member") else None
    if session is None:
        raise refuse("SESSION_INVALID", ref)
    if machine.xapi.mode == "member":
        raise refuse("HOST_IS_SLAVE", pool.master_address)
    return session


def _execute(call: Call) -> Any:
    verb = call.pool.verb(call.message)
    in_database = call.message.has_async and call.message.class_name not in ("task", "event")
    if in_database and (call.is_async or call.message.kind in ("explicit", "create", "destroy")):
        call.task = call.pool.make_task(call)
    if not call.is_async:
        try:
            return call.pool.as_actor(verb, lambda: _drive(call, verb(call, *call.args)))
        finally:
            call.pool.drop_task(call.task)
    call.pool.spawn(call, verb)
    return call.task


def _drive(call: Call, result: Any) -> Any:
    """Run a verb to its end while the clock runs."""
    if not isgenerator(result):
        return result
    verb, pool = call.pool.actor, call.pool
    while True:
        try:
            wait = next(result)
        except StopIteration as stop:
            return stop.value
        with pool.resting():
            if isinstance(wait, Wait):
                pool.wait(wait.deadline, wait.ready)
            else:
                pool.wait(pool.clock.now() + wait, None)
        pool.actor = verb
        if call.machine.boots != call.boots or call.machine.state not in ("running", "stopping"):
            result.close()
            raise ConnectionLost("the host went away", host=call.machine.address, method=call.method)


def continue_later(call: Call, steps: Steps, finish: Callable[[Any, Failure | None], None]) -> None:
    """Run a verb's next step now and the others from timers; `finish` is given its result or its error."""
    pool = call.pool
    verb = pool.verb(call.message)

    def advance() -> None:
        if call.machine.boots != call.boots or not pool.task_alive(call.task):
            steps.close()
            return
        try:
            wait = pool.as_actor(verb, lambda: next(steps))
        except StopIteration as stop:
            finish(stop.value, None)
            return
        except Failure as error:
            finish(None, error)
            return
        if isinstance(wait, Wait):
            pool.when(wait, advance)
        else:
            pool.clock.after(wait, advance)

    advance()


__all__ = ["NULL", "Call", "Steps", "Wait", "dispatch", "refuse", "serve"]
