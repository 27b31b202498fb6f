"""The one path of every call, in the order of the real server; whoever reads `serve` and `dispatch` knows the system.

A verb is a function of the call and its unmarshalled arguments. Where it takes time it is a generator: it yields the
seconds to wait (or a `Wait`), and goes on when they have passed. A synchronous call is driven to its end while the clock
runs; an asynchronous one returns a task at once and goes on from timers. Both end early when the toolstack that serves
them stops (the verb is closed where it waits, so that it can tidy up) or when their task is cancelled.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Mapping
from dataclasses import dataclass
from functools import cache, lru_cache
from inspect import isgenerator
from math import inf
from threading import get_ident
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, NamedTuple, cast

from xenctl import datamodel, jsonrpc, xmlrpc
from xenctl.errors import ConnectionLost, Failure
from xenctl.releases import has_removed, serves
from xenctl.wire import Encoded, MalformedError

from . import garbage, progress, roles, rules
from .arguments import Signature
from .holding import BUSY, Occupied
from .savepoint import Going
from .store import NULL

if TYPE_CHECKING:
    from xenctl.datamodel import Message
    from xenctl.releases import Release
    from xenctl.wire import Pieces

    from .classes import Verb
    from .clock import VirtualClock
    from .machine.host import HostMachine
    from .pool import MockPool
    from .rows import Encode
    from .startup import Xapi
    from .store import Row, Store

EMERGENCY_CALLS = frozenset(
    "pool.emergency_reset_master pool.emergency_transition_to_master pool.is_slave session.slave_local_login "
    "session.slave_local_login_with_password session.local_logout host.propose_new_master host.commit_new_master "
    "host.abort_new_master host.local_assert_healthy host.signal_networking_change host.local_management_reconfigure "
    "host.ha_xapi_healthcheck host.emergency_ha_disable host.management_disable host.get_system_status_capabilities "
    "host.is_in_emergency_mode host.shutdown_agent host.emergency_reset_server_certificate "
    "host.emergency_disable_tls_verification host.emergency_reenable_tls_verification "
    "host.emergency_clear_mandatory_guidance host.update_firewalld_service_status".split()
)
"""What a host answers in emergency mode, by full name; an `Async.` form never is."""

DUMMY = "DummyRef:"
"""What references of tasks begin with that have no row."""
DUMMY_CLASSES = ("task", "event")
"""The classes whose messages have no row in the table of tasks."""

NAMES_INTERNAL_SINCE = datamodel.load().order("23.0.0")
"""The toolstack's version since which the refusal of a message between toolstacks names it."""
INTERNAL = "InternalAsync."
"""What toolstacks prefix to a method that is a part of what they do."""
EXTENSIONS = "host.call_extension"
"""The permission to call what xapi does not know: it might be an extension."""


class Wait(NamedTuple):
    """What a verb yields to wait until `ready()` holds or the clock reaches `deadline`. `idle` says that nothing is done
    meanwhile: somebody waits for events."""

    deadline: float
    ready: Callable[[], bool]
    idle: bool = True


Steps = Generator["float | Wait", None, Any]


class Asked(NamedTuple):
    """What the headers of a request say of the task of its call: the one to run under, which whoever made it completes; else
    the `parent` of the one that is made, and what goes into its `other_config`."""

    task: str = ""
    parent: str = ""
    other_config: Mapping[str, str] = MappingProxyType({})


@dataclass
class Call:
    """One call on its way: who called what on which host, and what it needs to be answered.

    `caller` is the session's reference as it was sent, `session` its row, None for a session that only this host knows;
    `xapi` the toolstack that serves the call; `task` the reference of its task, empty where it has none. `reached` is the
    share of its work that is done, `goal` the one that will be when its next wait is over. A verb sets `deaf` where it
    cannot be cancelled any more.
    """

    pool: MockPool
    machine: HostMachine
    message: Message
    method: str
    args: tuple[Any, ...] = ()
    caller: str = ""
    session: Row | None = None
    task: str = ""
    is_async: bool = False
    reached: float = 0.0
    goal: float = 1.0
    deaf: bool = False
    encode: Encode | None = None
    """What makes the bytes of a record for its answer, where that goes out as bytes."""
    inner: bool = False
    """Whether xapi itself makes it, on behalf of a call whose roles were checked."""
    ended: bool = False
    """Set where a rollback took the call back."""

    def __post_init__(self) -> None:
        self.xapi: Xapi = self.machine.xapi

    @property
    def db(self) -> Store:
        """The pool's database, or the one that the session looks at instead."""
        pool = self.pool
        return pool.views.get(self.caller, pool.store) if pool.views else pool.store

    @property
    def clock(self) -> VirtualClock:
        return self.pool.clock

    @property
    def label(self) -> str:
        """The name of the call's task."""
        return ("Async." if self.is_async else "") + self.message.wire_name

    def dummy(self) -> str:
        """A reference for the task of a call that has none in the database."""
        return f"{DUMMY}|{self.pool.new_uuid()}|{self.label}"

    def at_least(self, order: Any) -> bool:
        """Whether the master's release is of this order or later."""
        return bool(self.db.release.order >= order)

    def perform(self, verb: Verb) -> Any:
        """Run the verb, if the session's roles allow it. Raises `RBAC_PERMISSION_DENIED`."""
        if not self.inner:
            roles.assert_allowed(self)
        return verb(self, *self.args)

    def gone(self) -> bool:
        """Whether the toolstack that serves this call has stopped, or was taken back to before the call."""
        return self.ended or self.machine.xapi is not self.xapi

    def cancelled(self) -> bool:
        """Whether somebody asked to cancel this call's task, and it can be."""
        row = None if self.deaf else self.db.find("task", self.task)
        return row is not None and "cancel" in row["current_operations"].values()

    def interrupted(self) -> bool:
        """Whether a wait of this call is over before its time."""
        return self.gone() or self.cancelled()


def refuse(code: str, *params: object) -> Failure:
    """The error to raise for a refusal."""
    return Failure([code, *(str(param) for param in params)])


def serve(pool: MockPool, machine: HostMachine, body: bytes, asked: Asked | None = None) -> bytes | Pieces:
    """Answer the bytes of one XML-RPC call; raises `MalformedError` for what is none."""
    try:
        method, params = xmlrpc.loads_call(body)
    except MalformedError:
        return _serve_spoiled(machine, body)
    try:
        result = dispatch(pool, machine, method, params, asked=asked, encode=xmlrpc.member)
    except Failure as error:
        return xmlrpc.dumps_failure(error.details)
    if method == "system.listMethods":
        return xmlrpc.dumps_bare(result)
    return xmlrpc.dumps_records(result) if type(result) is Encoded else xmlrpc.dumps_success(result)


def _serve_spoiled(machine: HostMachine, body: bytes) -> bytes:
    """Refuse a call of which a parameter is not UTF-8; raises `MalformedError` for what is no call for another reason."""
    method, params = xmlrpc.loads_spoiled_call(body)
    if _in_emergency(machine, method):
        return xmlrpc.dumps_failure(machine.xapi.error)
    text = jsonrpc.not_utf8(params)
    if text is None:
        raise MalformedError("not XML: it is not UTF-8")
    return xmlrpc.dumps_failure(not_utf8(text).details)


def not_utf8(text: str) -> Failure:
    """The refusal of a parameter that is not UTF-8, which comes before anything else is looked at."""
    return refuse("INVALID_VALUE", "Invalid UTF-8 string in parameter", text)


def serve_json(
    pool: MockPool, machine: HostMachine, body: bytes, asked: Asked | None = None
) -> tuple[bytes | Pieces, bool]:
    """Answer the bytes of one JSON-RPC call as this host's release does, and say whether it was refused before it was looked
    at; raises `MalformedError` for what is none."""
    order = machine.system.release.order
    call = jsonrpc.loads_call(body, newest=1 if order < rules.INVERNESS else 2)
    early = _in_emergency(machine, call.method)
    try:
        if not early and (text := jsonrpc.not_utf8(call.params)) is not None:
            early = True
            raise not_utf8(text)
        result = dispatch(pool, machine, call.method, call.params, asked=asked, encode=jsonrpc.member)
    except Failure as error:
        if early:
            return jsonrpc.dumps_early_failure(error.details, version=1 if order < rules.NILE else 2), True
        return jsonrpc.dumps_failure(error.details, call), False
    if type(result) is Encoded:
        return jsonrpc.dumps_records(result, call), False
    return jsonrpc.dumps_success(result, call), False


def dispatch(
    pool: MockPool,
    machine: HostMachine,
    method: str,
    params: list[Any],
    *,
    asked: Asked | None = None,
    logged: bool = False,
    traced: bool = False,
    encode: Encode | None = None,
) -> Any:
    """Answer one call given as values; `asked` is what its request says of its task, `logged`, `traced` say where it is
    noted already. With `encode`, what makes bytes of a record, many records may come as `Encoded`. Raises `Failure` for a
    refusal."""
    if pool.log is not None and not (logged or traced):
        return pool.log.call(machine, method, params, asked)
    if pool.trace is not None and not traced:
        return pool.trace.call(machine, method, params, asked)
    pool.count_call()
    pool.freshen()
    garbage.collect_if_due(pool, machine)
    try:
        if _in_emergency(machine, method):
            raise Failure(machine.xapi.error)
        if method == "system.listMethods":
            return sorted(methods(machine.system.release))
        if method.startswith("system.isAlive:") and params:
            return params[0]
        served = recognise(machine.system.release, method)
        if served is None:
            raise _unknown(pool, machine, method, params)
        message = served.signature.message
        args = served.signature.arguments(served.method, params, pool.store.shape)
        call = Call(pool, machine, message, served.method, args, is_async=served.is_async)
        if not served.is_async:
            call.encode = encode
        if message.session:
            call.caller = params[0]
            call.session = _admit(pool, machine, params[0], message)
        if served.removed:
            raise refuse("MESSAGE_REMOVED")
        if call.is_async and not message.has_async:
            raise refuse("Fault", f"No async mode for this operation (rpc: {message.wire_name})")
        return _execute(call, served, asked)
    finally:
        pool.settle(method)


def _in_emergency(machine: HostMachine, method: str) -> bool:
    """Whether this host answers every call but a few with the reason why it is not part of its pool."""
    return machine.xapi.mode not in ("master", "member") and method not in EMERGENCY_CALLS


@dataclass(frozen=True)
class Served:
    """What a method's name means to the hosts of one release. `part` says whether a toolstack calls it as a part of what it
    does, which has a task of its own whatever its request asks for; `has_task` says whether a call has a row in the table of
    tasks, `tells_progress` whether its answer tells how far tasks are."""

    method: str
    is_async: bool
    signature: Signature
    removed: bool
    has_task: bool
    tells_progress: bool
    part: bool


@lru_cache(maxsize=8192)
def recognise(release: Release, method: str) -> Served | None:
    """What `method` names on the hosts of `release`; None for what they do not know."""
    name, is_async = _without_prefix(method)
    message = methods(release).get(name)
    if message is None and not is_async:
        message = underscored(release).get(name)
    if message is None:
        return None
    return Served(
        name,
        is_async,
        Signature.of(message, release),
        removed=has_removed(release, message),
        has_task=message.has_async and message.class_name not in DUMMY_CLASSES,
        tells_progress=message.wire_name in progress.READS,
        part=method.startswith(INTERNAL),
    )


def _without_prefix(method: str) -> tuple[str, bool]:
    """The name of a method, and whether it is called as a task."""
    for prefix in ("Async.", INTERNAL):
        if method.startswith(prefix):
            return method[len(prefix) :], True
    return method, False


@cache
def methods(release: Release) -> dict[str, Message]:
    """Every message that a host of `release` serves, by wire name."""
    classes = datamodel.load().classes.values()
    return {m.wire_name: m for cls in classes for m in cls.messages.values() if serves(release, m)}


@cache
def underscored(release: Release) -> dict[str, Message]:
    """The same by their `CLASS_message` spelling."""
    return {name.replace(".", "_", 1): message for name, message in methods(release).items()}


def _unknown(pool: MockPool, machine: HostMachine, method: str, params: list[Any]) -> Failure:
    """The refusal of a method that this host does not know, as late as xapi gives it."""
    if params:
        if not isinstance(params[0], str):
            return refuse("INTERNAL_ERROR", f"Failure(\"Expected string, got '{params[0]}'\")")
        if not roles.has(_admit(pool, machine, params[0]), EXTENSIONS):
            return roles.denied(pool.store.release, EXTENSIONS)
    return refuse("MESSAGE_METHOD_UNKNOWN", _without_prefix(method)[0])


def _admit(pool: MockPool, machine: HostMachine, ref: str, message: Message | None = None) -> Row | None:
    """The row of session `ref`; None for one that only this host knows, which may do anything."""
    if ref in machine.xapi.local_sessions:
        return None
    session = pool.store.find("session", ref) if machine.xapi.mode in ("master", "member") else None
    if session is None:
        raise refuse("SESSION_INVALID", ref)
    if not session["pool"]:
        if message is not None and message.pool_internal:
            name = f'"{message.wire_name}" ' if machine.system.release.order >= NAMES_INTERNAL_SINCE else ""
            raise refuse("INTERNAL_ERROR", f"Internal API {name}call attempted with non-pool (external) session")
        if machine.xapi.mode == "member":
            raise refuse("HOST_IS_SLAVE", pool.master_address)
    if machine.xapi.mode == "master" and session["last_active"] != (now := pool.clock.stamp()):
        pool.store.write(session, last_active=now)
    return session


def _execute(call: Call, served: Served, asked: Asked | None) -> Any:
    """Run the verb of a call to its end, or start it and return the task. One that runs under a task that somebody else made
    leaves it as it is."""
    pool, verb, faults = call.pool, call.pool.verb(call.message), call.pool.world.faults
    if faults is not None and faults.due is not None:
        verb = faults.around(call, verb)
    if served.tells_progress:
        progress.show(pool)
    theirs = asked is not None and asked.task != "" and not served.part
    if asked is not None and theirs:
        call.task = _existing(call, asked.task)
    elif served.has_task:
        call.task = pool.make_task(call, asked)
    elif call.is_async:
        call.task = call.dummy()
    if call.is_async:
        pool.spawn(call, verb, complete=not theirs)
        return call.task
    try:
        return _drive(call, verb)
    finally:
        if call.task and not theirs:
            pool.drop_task(call.task)


def _existing(call: Call, task: str) -> str:
    """The task that a call is to run under, which may be one without a row. Raises `HANDLE_INVALID`."""
    return task if task.startswith(DUMMY) else call.db.get("task", task).ref


def patiently(call: Call, verb: Verb, result: Any = None) -> Steps:
    """The steps of a verb, of which `result` has begun. While another operation holds what it is about, and it has changed
    nothing yet, it waits for the end of that one and begins anew."""
    db, deadline = call.db, call.clock.now() + call.pool.durations.operation_wait
    before = db.generation
    while True:
        try:
            result = call.perform(verb) if result is None else result
            return (yield from result) if isgenerator(result) else result
        except Occupied as busy:
            if db.generation != before or call.clock.now() >= deadline:
                raise
            over = busy.over
        yield Wait(deadline, over, idle=False)
        before, result = db.generation, None


def until_free(call: Call, refused: Callable[[], Failure | None], patience: float = inf) -> Steps:
    """Wait in the middle of a verb while `refused()` tells of another operation, for `patience` seconds at the most. Returns
    what it says in the end."""
    deadline = call.clock.now() + min(patience, call.pool.durations.operation_wait)

    def over() -> bool:
        error = refused()
        return error is None or error.code != BUSY

    while not over() and call.clock.now() < deadline:
        yield Wait(deadline, over, idle=False)
    return refused()


def _drive(call: Call, verb: Verb) -> Any:
    """Run a verb to its end while the clock runs."""
    pool, before = call.pool, call.db.generation
    try:
        if verb.writes is None and pool.actor is None:  # it may write whatever it does, and nobody else is at work
            result = call.perform(verb)
        else:
            result = pool.as_actor(verb, call.perform, verb)
        if not isgenerator(result):
            return result
    except Occupied:
        if call.db.generation != before:
            raise
        result = None
    steps: Any = patiently(call, verb, result)
    going = pool.going[id(steps)] = Going.of(call, steps, get_ident())
    try:
        while True:
            try:
                wait = _step(call, verb, steps)
            except StopIteration as stop:
                return stop.value
            if isinstance(wait, Wait):
                going.idle = wait.idle
                pool.wait(Wait(wait.deadline, lambda wait=wait: wait.ready() or call.interrupted(), wait.idle))  # type: ignore[misc]
            else:
                going.idle = False
                _show_going(call, wait)
                pool.wait(Wait(pool.clock.now() + wait, call.interrupted, idle=False))
            if call.gone():
                steps.close()
                raise ConnectionLost("the host went away", host=call.machine.address, method=call.method)
    finally:
        pool.going.pop(id(steps), None)


def _show_going(call: Call, seconds: float) -> None:
    """While something goes on that can be stopped, the task says so, and how far it is."""
    progress.begin(call, seconds)
    db = call.db
    row = db.find("task", call.task)
    if row is not None:
        db.write(row, allowed_operations=[] if call.deaf else ["cancel"])


def _step(call: Call, verb: Verb, steps: Steps) -> float | Wait:
    """Let a verb go on to where it waits next, or hear that its task was cancelled."""
    progress.end(call)
    if call.cancelled():
        wait = call.pool.as_actor(verb, steps.throw, refuse("TASK_CANCELLED", call.task))
    else:
        wait = call.pool.as_actor(verb, next, steps)
    return cast("float | Wait", wait)


def continue_later(call: Call, steps: Steps, finish: Callable[[Any, Failure | None], None]) -> None:
    """Run a verb's next step now and the others from timers; `finish` is given its result or its error.

    `call.xapi.operations` holds the means to look at once whether it goes on.
    """
    pool, verb, turns = call.pool, call.pool.verb(call.message), [0]
    pool.going[id(steps)] = Going.of(call, steps)

    def advance(turn: int) -> None:
        if turn != turns[0]:
            return
        turns[0] += 1
        call.xapi.operations.pop(call.task, None)
        if call.gone():
            pool.going.pop(id(steps), None)
            steps.close()
            return
        try:
            wait = _step(call, verb, steps)
        except StopIteration as stop:
            pool.going.pop(id(steps), None)
            finish(stop.value, None)
            return
        except Failure as error:
            pool.going.pop(id(steps), None)
            finish(None, error)
            return
        now = turns[0]
        call.xapi.operations[call.task] = lambda: advance(now)
        if isinstance(wait, Wait):
            pool.when(wait, lambda: advance(now))
        else:
            _show_going(call, wait)
            pool.clock.after(wait, lambda: advance(now))

    advance(0)


def cancel(pool: MockPool, ref: str, by: str) -> None:
    """Ask task `ref` to stop, on behalf of task `by`. One that cannot, or is over, goes on as it is."""
    row = pool.store.get("task", ref)
    pool.store.write(row, current_operations={by: "cancel"})
    for machine in pool.machines:
        look = machine.xapi.operations.get(ref)
        if look is not None:
            look()


__all__ = ["NULL", "Asked", "Call", "Steps", "Wait", "cancel", "dispatch", "refuse", "serve", "serve_json"]
