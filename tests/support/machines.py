"""State machines made from the data model: one rule for each message that a release serves, and what must hold after each.

A rule calls its message with arguments drawn by their types: references of the right class, of a wrong one, to nothing and
null; every enum value; maps, sets and records of such; and now and then a value of another type. Messages that only read
share one rule for each class, which holds their answers against each other; so do those that the fake does not answer.
Beside them time passes, hosts lose their power, and the pool is taken back, forked, saved and loaded.
"""

from __future__ import annotations

import random
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, rule
from trials import HINTS, RECORD
from world import MODEL, NULL

from mockserver import Invariant, MockPool, classes, rules
from mockserver.invariants import sound
from mockserver.savepoint import Savepoint, SavepointError
from mockserver.store import Row, Write
from xenctl import xmlrpc
from xenctl.datamodel import MISSING, Message
from xenctl.datamodel import types as t
from xenctl.errors import ConnectionLost, Failure
from xenctl.releases import Release, serves
from xenctl.values import to_record

GIB = 1 << 30
READS = frozenset(
    "get get_by_uuid get_record get_by_name_label get_all get_all_records get_all_where get_all_records_where".split()
)
"""The kinds of messages that only read."""
ON_ONE_POOL = 25
"""Steps that are taken in turn before there is a fresh pool."""
SOMETIMES = 0.1
PAUSES = [0.5, 5.0, 60.0, 900.0, 90000.0]
"""Simulated seconds that pass between steps."""
LAGGING = frozenset(
    "VM.set_is_default_template VBD.set_unpluggable VBD.set_type pool.add_to_other_config pool.remove_from_other_config "
    "pool.set_other_config".split()
)
"""Messages that xapi only writes down: the lists of allowed operations that follow stay as they were."""
LATE = frozenset({"VDI", "SR"})
"""Classes whose lists may lag behind what is only written down of their devices and disks."""
DECODED = 8
"""Rows that a step wrote and that the client then decodes, at the most."""
APART = frozenset(
    "pool.emergency_reset_master pool.emergency_transition_to_master pool.join pool.join_force pool.eject "
    "pool.designate_new_master host.propose_new_master host.commit_new_master host.abort_new_master".split()
)
"""Messages that take a pool apart: hosts change their roles or leave, until none may be left. `test_masters`, `test_joining`
and `test_host_membership` call them."""
WAITING = frozenset({"event.from", "event.next"})
"""What waits for something to happen; simulated days may pass in vain."""

ALL: frozenset[str] = frozenset()
Choose = Callable[[int], int]
"""Gives a number from 0 to below another."""
Step = Callable[["PoolMachine", Choose], None]

STRINGS = ["", "x", "vm01", "OpaqueRef:NULL", "\u00e9\u4e16", "true", "-1", "a b\n", "/", "10.9.0.4"]
INTS = [0, 1, 2, 9, -1, 1 << 20, GIB, 4 * GIB, 1 << 40, (1 << 63) - 1]
SCALARS: dict[str, list[Any]] = {
    "string": STRINGS,
    "int": INTS,
    "float": [0.0, 0.5, 2.0, -1.0],
    "bool": [True, False],
    "datetime": ["20260101T00:00:00Z", "19700101T00:00:00Z"],
    "any": ["x", 1],
    "void": [""],
}
MISFITS: list[Any] = [17, "x", True, 1.5, [], {}, ["x"], {"x": "y"}, None, "OpaqueRef:NULL", -(1 << 70)]
"""Values of which most fit no given parameter."""
QUERIES = ["true", "false", 'field "uuid" = ""', 'not field "name__label" = "vm01"', 'field "nowhere" = "x"', "(", ""]

BACKEND = "SR_BACKEND_FAILURE_"
"""Storage's own errors: a number, and what `SR_BACKEND_FAILURE` has."""
SENT: dict[str, range] = {
    "Fault": range(1, 2),
    "SESSION_AUTHENTICATION_FAILED": range(2, 3),
    "INTERNAL_ERROR": range(1, 4),
    "INVALID_VALUE": range(1, 3),
    "UUID_INVALID": range(3),
    "OTHER_OPERATION_IN_PROGRESS": range(2, 5),
    "VDI_IN_USE": range(1, 999),
    "UNKNOWN_XENAPI_PLUGIN_FUNCTION": range(1, 2),
    "GPU_GROUP_CONTAINS_PGPU": range(1, 999),
    "GPU_GROUP_CONTAINS_VGPU": range(1, 999),
    "NETWORK_CONTAINS_VIF": range(1, 999),
    "SR_HAS_MULTIPLE_PBDS": range(1, 999),
    "PIF_IS_PHYSICAL": range(2),
    "DOMAIN_EXISTS": range(1, 3),
    "NO_HOSTS_AVAILABLE": range(2),
    "CANNOT_FIND_UPDATE": range(2),
    "OPERATION_PARTIALLY_FAILED": range(1, 999),
    "VM_SNAPSHOT_WITH_QUIESCE_NOT_SUPPORTED": range(1, 3),
    "VGPU_TYPE_NOT_SUPPORTED": range(1, 999),
    "VGPU_TYPE_NOT_ENABLED": range(1, 999),
    "WLB_INTERNAL_ERROR": range(3),
    "PIF_HAS_NO_NETWORK_CONFIGURATION": range(2),
    "PIF_HAS_NO_V6_NETWORK_CONFIGURATION": range(2),
    "PIF_INCOMPATIBLE_PRIMARY_ADDRESS_TYPE": range(2),
    "LICENCE_RESTRICTION": range(2),
    "VM_OLD_PV_DRIVERS": range(3, 5),
    "VM_LACKS_FEATURE_STATIC_IP_SETTING": range(1, 2),
}
"""Errors that xapi raises with other numbers of parameters than its data model lists."""


@dataclass
class Tally:
    """What became of the calls: by message how often it was called, how often it succeeded, and how it was refused."""

    served: set[str] = field(default_factory=set)
    called: Counter[str] = field(default_factory=Counter)
    succeeded: Counter[str] = field(default_factory=Counter)
    refused: dict[str, Counter[str]] = field(default_factory=lambda: defaultdict(Counter))
    steps: Counter[str] = field(default_factory=Counter)

    def note(self, name: str, code: str = "") -> None:
        self.called[name] += 1
        if code:
            self.refused[name][code] += 1
        else:
            self.succeeded[name] += 1

    def lines(self) -> Iterator[str]:
        """One line for each message that is served, those never called too."""
        for name in sorted(self.served):
            codes = ", ".join(f"{code} {count}" for code, count in self.refused[name].most_common(4))
            yield f"{name}: called {self.called[name]}, succeeded {self.succeeded[name]}{f', {codes}' if codes else ''}"

    def share(self, counts: Counter[str], of: Callable[[str], bool]) -> float:
        """The share of the served messages that `of` is true of and that are counted."""
        names = [name for name in self.served if of(name)]
        return sum(counts[name] > 0 for name in names) / len(names)

    def assert_covered(self, *, called: float, succeeded: float) -> None:
        """Enough of the messages were called, and of those with behaviour of their own enough ever succeeded."""
        classes.load()
        verbs = {name for name in self.served if name in classes.VERBS}
        shares = self.share(self.called, lambda name: True), self.share(self.succeeded, verbs.__contains__)
        told = f"called {shares[0]:.0%} of {len(self.served)} messages, succeeded with {shares[1]:.0%} of {len(verbs)} verbs"
        assert shares[0] >= called, f"{told}; called should be {called:.0%}"
        assert shares[1] >= succeeded, f"{told}; succeeded should be {succeeded:.0%}"


class Touched(Invariant):
    """Remembers which rows were written; finds nothing wrong."""

    name, tables = "touched", None
    UNKEPT: ClassVar = frozenset({"rows"})

    def begin(self, pool: MockPool) -> None:
        self.rows: dict[tuple[str, str], None] = {}

    def inspect(self, pool: MockPool, writes: list[Write], cause: str) -> None:
        self.rows.update(((write.table, write.ref), None) for write in writes)


class Replaced(Invariant):
    """A value of a row is never changed, only replaced: rows, the journal and forks share values."""

    name, tables = "values are replaced", None
    UNKEPT: ClassVar = frozenset({"values"})

    def begin(self, pool: MockPool) -> None:
        self.values: dict[int, tuple[Any, str]] = {}
        for table in pool.store.tables.values():
            self._note(value for row in table.rows.values() for value in row.values())

    def inspect(self, pool: MockPool, writes: list[Write], cause: str) -> None:
        for write in writes:
            self._note(write.new.values() if isinstance(write.new, Row) else (write.new,))

    def _note(self, values: Iterable[Any]) -> None:
        for value in values:
            if isinstance(value, (list, dict)) and id(value) not in self.values:
                self.values[id(value)] = (value, repr(value))  # held, so that nothing else gets its number

    def broken_at_end(self, pool: MockPool) -> Iterable[str]:
        changed = [(text, value) for value, text in self.values.values() if repr(value) != text]
        return [f"{text} in the database was changed to {value!r}" for text, value in changed]


class Draw:
    """Arguments by type, drawn for one call by `number`, which gives one below another. `misfit` says that one is of a wrong
    type."""

    def __init__(self, pool: MockPool, session: str, number: Choose) -> None:
        self.pool, self.session, self.number, self.misfit = pool, session, number, False

    def one_of(self, values: list[Any]) -> Any:
        return values[self.number(len(values))]

    def arguments(self, message: Message) -> list[Any]:
        """What is sent with a message, those parameters that may be left off left off from some place on."""
        known = [p for p in message.params if not p.optional or MODEL.order(p.since) <= self.pool.store.release.order]
        needed = sum(not param.optional for param in known)
        sent = known[: needed + (self.number(len(known) - needed + 1) if len(known) > needed else 0)]
        return [self.value(message, param.name, param.type) for param in sent]

    def value(self, message: Message, name: str, kind: t.Type) -> Any:
        """A value for a parameter: usually one that fits."""
        luck = self.number(48)
        if luck == 47:
            self.misfit = True
            return self.one_of(MISFITS)
        hints = next((HINTS[key] for key in (f"{message.wire_name}.{name}", name) if key in HINTS), None)
        if hints and luck < 24:
            return self.one_of(hints)
        if isinstance(kind, t.Ref):
            return self.reference(kind.class_name, luck)
        if isinstance(kind, t.Enum):
            return self.one_of(list(MODEL.enums[kind.name]))
        if isinstance(kind, t.Set):
            return [self.value(message, "", kind.item) for _ in range(min(luck % 4, 2))]
        if isinstance(kind, t.Map):
            return self.mapping(message, name, kind, luck)
        if isinstance(kind, t.Record):
            return self.record(message, kind.class_name)
        assert isinstance(kind, t.Scalar)
        if kind.name == "string" and name == "expr":
            return self.one_of(QUERIES)
        if kind.name == "string" and luck < 12:
            return self.identity(message.class_name, luck)
        return self.one_of(SCALARS[kind.name])

    def reference(self, class_name: str, luck: int) -> str:
        if class_name == "session" and luck < 40:
            return self.session
        there = list(self.pool.store.table(class_name))
        if class_name == "message":
            there = [row.ref for row in self.pool.messages.newest_first()]
        if luck >= 44 or not there:
            return self.one_of([NULL, "OpaqueRef:none", "", *list(self.pool.store.table("VM"))[:1]])
        return str(self.one_of(there))

    def mapping(self, message: Message, name: str, kind: t.Map, luck: int) -> dict[str, Any]:
        if name == "dest":
            return self.destination(luck)
        pairs = range(luck % 3)
        return {str(self.value(message, "", kind.key)): self.value(message, "", kind.item) for _ in pairs}

    def destination(self, luck: int) -> dict[str, Any]:
        """What `host.migrate_receive` might say: nobody of another pool listens."""
        address = "10.9.9.9" if luck % 8 == 7 else self.pool.machines[0].address
        session = self.reference("session", luck)
        services = {name: f"http://{address}/services/{name}?session_id={session}" for name in ("SM", "xenops")}
        there = {"host": self.reference("host", luck), "master": f"http://{address}", "session_id": session}
        return {**services, **there}

    def record(self, message: Message, class_name: str) -> dict[str, Any]:
        """A constructor's record: what must be there, and now and then something else."""
        shape, given, out = self.pool.store.shape(class_name), RECORD.get(class_name, {}), {}
        for name, model in shape.fields.items():
            if not model.in_constructor:
                continue
            if name in given:
                out[name] = given[name]
            elif model.default is MISSING:
                out[name] = self.value(message, name, model.type)
        extra = [name for name, model in shape.fields.items() if model.in_constructor and name not in out]
        for _ in range(self.number(3) if extra else 0):
            name = self.one_of(extra)
            out[name] = self.value(message, name, shape.fields[name].type)
        return out

    def identity(self, class_name: str, luck: int) -> str:
        """What an object is called, or its uuid."""
        rows = list(self.pool.store.table(class_name).values())
        if not rows:
            return "x"
        row = self.one_of(rows)
        return str(row.get("name_label" if luck < 6 else "uuid", ""))


class PoolMachine(RuleBasedStateMachine):
    """A pool under whatever its clients, time and bad luck do to it. Subclasses have the rules of a release's messages."""

    base: ClassVar[MockPool]
    tally: ClassVar[Tally]
    scratch: ClassVar[Path]

    def __init__(self) -> None:
        super().__init__()
        self.points: list[Savepoint] = []
        self.lagging = False
        self.session = ""
        self.adopt(self.base.fork())

    def adopt(self, pool: MockPool) -> None:
        """Go on with another pool."""
        self.pool = pool
        self.points.clear()
        self.touched = next((i for i in pool.invariants if isinstance(i, Touched)), None) or Touched()
        if self.touched not in pool.invariants:
            pool.watch(*judged(), Replaced(), self.touched)

    # --- calling

    def caller(self) -> str:
        """A session that is valid, if the master gives one."""
        if self.pool.store.find("session", self.session) is None and self.pool.master_serves:
            login = [self.pool.username, self.pool.password]
            self.session = self.pool.dispatch("session.login_with_password", login)
        return self.session

    def call(self, choose: Choose, message: Message) -> None:
        """One call with drawn arguments."""
        draw = Draw(self.pool, self.caller(), choose)
        args, name = draw.arguments(message), message.wire_name
        if name in WAITING and len(args) > 2:
            args[2] = 0.5
        elif name in WAITING:
            return
        way = draw.number(16)
        method = f"Async.{name}" if message.has_async and way in (1, 2, 3) else name
        machine = self.pool.machines[-1] if way == 4 else self.pool.master
        listed = self.listed(message, args)
        self.lagging |= name in LAGGING
        try:
            self.pool.dispatch(method, [self.session, *args] if message.session else args, machine)
        except Failure as refusal:
            self.tally.note(name, refusal.code)
            assert_catalogued(refusal, misfit=draw.misfit)
            asked = listed is True and method == name and machine is self.pool.master
            check(not asked or refusal.code not in STATE_REFUSALS, f"{name} is allowed, and refused: {refusal}")
        except ConnectionLost:
            self.tally.note(name, "(connection lost)")
        else:
            self.tally.note(name)
            assert listed is not False or method != name, f"{name} is not among allowed_operations, and was done"
        self.look()

    def listed(self, message: Message, args: list[Any]) -> bool | None:
        """Whether an object says that the message may be called on it; None where it says nothing about it."""
        if message.name not in telling(message.class_name, self.pool.store.release) or not args:
            return None
        row = self.pool.store.find(message.class_name, args[0]) if isinstance(args[0], str) else None
        if row is None or rules.upgrading(self.pool.store):
            return None
        return message.name in row["allowed_operations"]

    # --- what must hold after each step

    def look(self) -> None:
        """No invariant is broken, and the client can read what was written."""
        check(not self.pool.violations, self.pool.violations)
        written = list(self.touched.rows)[-DECODED:]
        self.touched.rows.clear()
        for table, ref in written:
            row = self.pool.store.find(table, ref)
            if row is not None:
                assert_readable(self.pool, row)

    def teardown(self) -> None:
        """Once nothing is under way, all lists are right, and the whole pool is sound."""
        self.pool.clock.run_until_idle(7200)
        self.look()
        self.pool.conclude()
        check(not self.pool.violations, self.pool.violations)
        if self.pool.master_serves and not self.lagging and not rules.upgrading(self.pool.store):
            self.pool.upkeep.do_all(self.pool.store)
            self.pool.settle("all lists are made anew")
            stale = [row for row in self.touched.rows if row[0] not in LATE]
            check(not stale, f"lists of allowed operations were stale: {stale}")

    # --- reading

    def read(self, choose: Choose, class_name: str, messages: list[Message]) -> None:
        """All that a class answers about one of its objects, each answer held against the record."""
        draw = Draw(self.pool, self.caller(), choose)
        ref = draw.reference(class_name, draw.number(46))
        record: dict[str, Any] | None = None
        for message in sorted(messages, key=lambda message: message.kind != "get_record"):
            args = [ref] if message.params and message.params[0].name == "self" else draw.arguments(message)
            try:
                answer = self.pool.dispatch(message.wire_name, [self.caller(), *args])
            except Failure as refusal:
                self.tally.note(message.wire_name, refusal.code)
                assert_catalogued(refusal, misfit=draw.misfit)
                spoken = record is None or message.kind != "get" or refusal.code == "MESSAGE_REMOVED"
                check(spoken, f"{message.wire_name} is refused: {refusal}")
                continue
            self.tally.note(message.wire_name)
            if message.kind == "get_record":
                record = answer
            elif message.kind == "get" and record is not None and class_name != "task":
                assert answer == record[message.field], message.wire_name
        self.look()

    def unanswered(self, choose: Choose, messages: list[Message]) -> None:
        """What the fake does not implement says so, or is refused before."""
        for message in messages:
            draw = Draw(self.pool, self.caller(), choose)
            args = draw.arguments(message)
            try:
                self.pool.dispatch(message.wire_name, [self.caller(), *args] if message.session else args)
            except Failure as refusal:
                self.tally.note(message.wire_name, refusal.code)
                assert_catalogued(refusal, misfit=draw.misfit)
            else:
                raise AssertionError(f"{message.wire_name} has no behaviour, and succeeded")
        self.look()

    # --- everything else that happens

    @rule(seconds=st.sampled_from(PAUSES))
    def time_passes(self, seconds: float) -> None:
        self.tally.steps["time passes"] += 1
        self.pool.clock.advance(seconds)
        self.look()

    @rule(number=st.integers(0, 1), lasting=st.sampled_from([10.0, 900.0]))
    def a_host_loses_its_power(self, number: int, lasting: float) -> None:
        machine = self.pool.machines[number % len(self.pool.machines)]
        if machine.state == "off":
            return
        self.tally.steps["power lost"] += 1
        self.pool.hands.power_off(machine.uuid)
        self.pool.clock.advance(lasting)
        if machine.state == "off":
            self.pool.hands.power_on(machine.uuid)
        self.pool.clock.advance(lasting)
        self.look()

    @rule()
    def every_host_comes_back(self) -> None:
        for machine in self.pool.machines:
            if machine.state == "off":
                self.pool.hands.power_on(machine.uuid)
        self.pool.clock.advance(900)
        self.look()

    @rule()
    def savepoint(self) -> None:
        try:
            self.points.append(self.pool.savepoint())
        except SavepointError:
            return
        self.tally.steps["savepoint"] += 1

    @rule(number=st.integers(0, 3))
    def rollback(self, number: int) -> None:
        if self.points:
            del self.points[number % len(self.points) + 1 :]
            self.pool.rollback(self.points[-1])
            self.tally.steps["rollback"] += 1
            self.look()

    @rule()
    def fork(self) -> None:
        try:
            twin = self.pool.fork()
        except SavepointError:
            return
        self.tally.steps["fork"] += 1
        self.adopt(twin)
        self.look()

    @rule(go_on=st.booleans())
    def save_and_load(self, go_on: bool) -> None:
        path = self.scratch / "pool.xml"
        self.pool.save(path)
        loaded = MockPool.from_dump(path)
        self.tally.steps["save and load"] += 1
        loaded.watch(*judged())
        loaded.clock.advance(60)
        loaded.conclude()
        check(not loaded.violations, loaded.violations)
        assert {ref: vm["name_label"] for ref, vm in loaded.store.table("VM").items()} == {
            ref: vm["name_label"] for ref, vm in self.pool.store.table("VM").items()
        }
        if go_on:
            loaded.invariants.clear()
            self.adopt(loaded)


OWN_WORDS = (
    "Db_exn.Empty_key_in_map",
    "missing field",
    "Rrd.Invalid_data_source",
    "Internal API ",
    "Stunnel.Stunnel_error",
    "Invalid_argument",
    'Failure("int_of_string")',
    "cleanup_internal: ",
    "notify_new: ",
    "notify_send: ",
    "duplicate objects in database: ",
    "failed to read backups",
    "Object with type domain ",
    "Sys_error(",
    "Not_found",
    "Jsonrpc.Malformed_method_request(",
)
"""What xapi itself calls an internal error although each argument has its type."""
STATE_REFUSALS = frozenset(
    "VM_BAD_POWER_STATE OTHER_OPERATION_IN_PROGRESS VM_IS_TEMPLATE VM_IS_SNAPSHOT OPERATION_BLOCKED "
    "VBD_NOT_REMOVABLE_MEDIA DEVICE_ALREADY_ATTACHED DEVICE_ALREADY_DETACHED VBD_NOT_UNPLUGGABLE VM_LACKS_FEATURE "
    "VM_MISSING_PV_DRIVERS".split()
)
"""Refusals for the state of the object alone: who is told that an operation is allowed must not meet one."""


def telling(class_name: str, release: Release) -> frozenset[str]:
    """The messages of which a class's `allowed_operations` tell."""
    if class_name == "VM":
        return frozenset(rules.advertised(release)) - {"import"}
    if class_name in ("VBD", "VIF"):
        return frozenset({"plug", "unplug", "insert", "eject"})
    return frozenset()


def judged() -> list[Invariant]:
    """The invariants of every pool, but for what is on disks: calls that overwrite a disk are among those made here."""
    return [invariant for invariant in sound() if invariant.name != "data follows"]


def check(holds: bool, otherwise: object) -> None:
    """Raise `AssertionError`, saying what does not hold: pytest explains assertions in files of tests only."""
    if not holds:
        raise AssertionError(otherwise)


def assert_catalogued(refusal: Failure, *, misfit: bool) -> None:
    """A refusal has a code of the data model and as many parameters as it lists there; none is the fake's own mistake."""
    code, params = refusal.code, refusal.details[1:]
    assert all(isinstance(text, str) for text in refusal.details), refusal.details
    known = MODEL.errors.get("SR_BACKEND_FAILURE" if code.startswith(BACKEND) else code, ())
    assert known or code in {*MODEL.errors, *SENT}, f"no error of the data model: {refusal.details}"
    many = range(999) if known and known[-1].endswith("...") else range(len(known), len(known) + 1)
    assert len(params) in SENT.get(code, many), f"{refusal.details}, not {known}"
    assert code != "INTERNAL_ERROR" or misfit or params[0].startswith(OWN_WORDS), refusal.details


def assert_readable(pool: MockPool, row: Row) -> None:
    """The client makes a record of a row, with all its fields."""
    sent = pool.store.record(row)
    wire = xmlrpc.loads_response(xmlrpc.dumps_success(sent))
    record = to_record(row.table)(wire)
    assert dict(record).keys() == sent.keys()


def steps(release: Release, tally: Tally, only: frozenset[str] = ALL) -> dict[str, Step]:
    """What may be done, by label: a step for each message that a release serves, or for `only` some of them; those that
    read, and those that the fake does not answer, have one for each class."""
    classes.load()
    out: dict[str, Step] = {}
    for name, cls in MODEL.classes.items():
        known = (m for m in cls.messages.values() if m.params_known and m.wire_name not in APART)
        served = [m for m in known if serves(release, m)]
        served = [m for m in served if not only or m.wire_name in only]
        tally.served.update(message.wire_name for message in served)
        reads = [m for m in served if m.kind in READS]
        silent = [m for m in served if m.kind == "explicit" and unimplemented(m)]
        if reads:
            out[f"read_{name}"] = lambda machine, choose, of=name, all_=reads: machine.read(choose, of, all_)  # type: ignore[misc]
        if silent:
            out[f"unanswered_{name}"] = lambda machine, choose, all_=silent: machine.unanswered(choose, all_)  # type: ignore[misc]
        for message in served:
            if message not in reads and message not in silent:
                out[f"{name}_{message.name}"] = lambda machine, choose, one=message: machine.call(choose, one)  # type: ignore[misc]
    return out


def machine_for(base: MockPool, tally: Tally, scratch: Path, *, only: frozenset[str] = ALL) -> type[PoolMachine]:
    """The state machine of a pool, with a rule for each step. Every run begins with a fork of `base`; `scratch` is where
    pools are saved."""
    release = base.master.system.release
    body: dict[str, Any] = {"base": base, "tally": tally, "scratch": scratch}
    body.update((label, _rule(label, step)) for label, step in steps(release, tally, only).items())
    return type(f"Pool_{release.product_version}", (PoolMachine,), body)


def _rule(label: str, step: Step) -> Any:
    def run(self: PoolMachine, data: st.DataObject) -> None:
        step(self, lambda count: int(data.draw(st.integers(0, count - 1))))

    run.__name__ = label
    return rule(data=st.data())(run)


def in_turn(machine: type[PoolMachine], rng: random.Random) -> None:
    """Every step once, in an order by chance, some time apart, on a fresh pool now and then. Raises `AssertionError` with
    the steps that led to what is wrong."""
    todo = list(steps(machine.base.master.system.release, machine.tally).items())
    rng.shuffle(todo)
    for start in range(0, len(todo), ON_ONE_POOL):
        pool, done = machine(), list[str]()
        try:
            for label, step in todo[start : start + ON_ONE_POOL]:
                done.append(label)
                step(pool, rng.randrange)
                if rng.random() < SOMETIMES:
                    pool.time_passes(rng.choice(PAUSES))
            done.append("teardown")
            pool.teardown()
        except Exception as error:
            raise AssertionError(f"after {', '.join(done)}: {type(error).__name__}: {error}") from error


def unimplemented(message: Message) -> bool:
    """Whether the fake answers that it does not implement a message."""
    return "_not_implemented" in classes.find(message).function.__qualname__
