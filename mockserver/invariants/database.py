"""What xapi's database promises: references that lead somewhere, operations that somebody does, events of every change."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator
from functools import cache
from typing import TYPE_CHECKING, Any

from xenctl import datamodel
from xenctl.datamodel import types as t

from ..classes import VERBS
from ..classes.event import OPERATIONS, collected
from ..journal import KeptIndex
from ..store import NULL, Row, Store, Write, far_sides
from ..writer import REMEMBERED_DELETIONS
from .base import Invariant

if TYPE_CHECKING:
    from xenctl.releases import Release

    from ..pool import MockPool

Place = tuple[str, str, str]
"""Where a reference stands: table, reference of the row, field."""

LEFT: dict[tuple[str, str], str] = {
    ("VM", "snapshot_of"): "a snapshot outlives its VM, and a revert brings the VM back",
    ("VDI", "snapshot_of"): "a snapshot outlives its disk",
    ("pool_update", "vdi"): "the disk of a package may be destroyed, and the update is known nevertheless",
    ("host_patch", "pool_patch"): "dropped by the garbage collection of the database, later",
    ("crashdump", "VM"): "dropped by the garbage collection of the database, later",
    ("crashdump", "VDI"): "dropped by the garbage collection of the database, later",
    ("PIF", "VLAN_master_of"): "PIF.db_introduce writes what it is given, and VLAN.destroy follows its own PIF alone",
    ("PIF", "metrics"): "the same, and a VLAN's PIF may share them",
    ("task", "session"): "a task outlives the session that began it",
    ("VM", "appliance"): "VM.set_appliance takes any reference, and destroying an appliance writes nothing to its VMs",
    **dict.fromkeys(
        ((holder, "blobs") for holder in ("SR", "host", "pool", "network")),
        "a blob that is destroyed is forgotten by VMs only",
    ),
}
"""The references that xapi leaves where what they name is deleted, or takes as they come, and why."""
BLIND: dict[str, str] = {
    "PIF.db_forget": "it drops the one row, and nothing that names it",
    "PIF.db_introduce": "it writes what it is given",
    "PIF.pool_introduce": "it writes what it is given",
    "VLAN.pool_introduce": "it writes what it is given",
}
"""The messages after which references may lead nowhere, being made for toolstacks that know what they do."""
ELSEWHERE = frozenset({"role", "message"})
"""Classes whose objects are in no table."""


def _blind(cause: str) -> bool:
    """Whether a message writes references unseen: those above, and constructors that follow from the data model."""
    message = datamodel.load().message(cause)
    return cause in BLIND or (message is not None and message.kind == "create" and cause not in VERBS)


class ReferencesHold(Invariant):
    """The two ends of a relation agree, and no reference that the fake wrote leads to nothing.

    What dangled when the watch began, as references of a loaded dump do, or when a master started, which forgets rows that
    are not persistent, is not judged. Nor are fields that clients write
    as they like, which hold whatever they were given, and those that xapi leaves behind (`LEFT`).
    """

    name, tables = "references hold", None

    def begin(self, pool: MockPool) -> None:
        store = pool.store
        self.start = pool.old_events
        self.excused: dict[tuple[Place, str], None] = KeptIndex()
        index: dict[str, dict[Place, None]] = {}
        for table, fields in _pointing(store).items():
            rows = store.table(table).values()
            for field in fields:
                there = store.table(field.target)
                for row, ref in field.pointers(rows):
                    if field.indexed:
                        index.setdefault(ref, {})[table, row.ref, field.name] = None
                    if ref not in there:
                        self.excused[(table, row.ref, field.name), ref] = None
        self.index = index

    def inspect(self, pool: MockPool, writes: list[Write], cause: str) -> None:
        texts = list(self.broken(pool, writes))
        if texts and _blind(cause.removeprefix("Async.")):
            self.begin(pool)
        else:
            self.report(pool, cause, texts)

    def broken(self, pool: MockPool, writes: list[Write]) -> Iterable[str]:
        store = pool.store
        if pool.old_events is not self.start:
            self.begin(pool)
            return
        fields, doubtful, pairs = _pointing(store), dict[Place, None](), dict[tuple[str, str, str, str], None]()
        for write in writes:
            for field in fields.get(write.table, ()):
                if write.kind == "write" and field.name != write.field:
                    continue
                old, new = field.change(write)
                place = (write.table, write.ref, field.name)
                if new:
                    doubtful[place] = None
                if field.indexed:
                    self._index(place, old, new)
                elif field.far:
                    pairs.update(((*place, ref), None) for ref in {*old, *new})
            if write.kind == "delete":
                doubtful.update(self._orphans(store, write))
        for place in doubtful:
            yield from self._dangling(store, place)
        for pair in pairs:
            yield from _uneven(store, *pair)

    def broken_at_end(self, pool: MockPool) -> Iterable[str]:
        store = pool.store
        for table, fields in _pointing(store).items():
            for field in fields:
                there = store.table(field.target)
                for row, ref in field.pointers(store.table(table).values()):
                    if ref not in there:
                        yield from self._dangling(store, (table, row.ref, field.name))
        for (table, name), (near_table, near) in _ends(store).items():
            members: dict[str, set[str]] = defaultdict(set)
            for row, ref in near.pointers(store.table(near_table).values()):
                members[ref].add(row.ref)
            for row in store.table(table).values():
                listed = row[name]
                if len(listed) != len(members[row.ref]) or not members[row.ref].issuperset(listed):
                    yield f"{table} {row.ref}: {name} is not who says so in {near_table}.{near.name}"

    def _index(self, place: Place, old: Iterable[str], new: Iterable[str]) -> None:
        for ref in old:
            self.index.get(ref, {}).pop(place, None)
        for ref in new:
            self.index.setdefault(ref, {})[place] = None

    def _orphans(self, store: Store, write: Write) -> Iterator[tuple[Place, None]]:
        """Where references to a deleted row may stand."""
        for place in self.index.pop(write.ref, {}):
            yield place, None
        for (table, name), (near_table, near) in _ends(store).items():
            if table == write.table:
                for ref in write.old.get(name, ()):
                    yield (near_table, ref, near.name), None

    def _dangling(self, store: Store, place: Place) -> Iterator[str]:
        table, ref, name = place
        row, field = store.find(table, ref), _field(store, table, name)
        if row is None or field is None or field.free or (table, name) in LEFT:
            return
        for lost in field.dangling(store, row):
            if (place, lost) not in self.excused:
                yield f"{table} {ref}: {name} leads to {lost}, and there is no such {field.target}"


class _Pointer:
    """A field that holds references: the class of what they lead to, and how they stand in it.

    `far` is the field there that lists them, empty where none does in this release; then they are `indexed` here. `free` is
    one that clients write as they like.
    """

    def __init__(self, store: Store, table: str, name: str, type_: t.Type, target: str) -> None:
        self.name, self.target = name, target
        self._many = not isinstance(type_, t.Ref)
        end = datamodel.load().relations.get((table, name))
        known = end is not None and end.side in ("ref", "first") and end.field in store.shape(end.class_name).fields
        self.far = end.field if end is not None and known else ""
        self.indexed = not self.far
        model = store.shape(table).fields[name]
        self.free = model.qualifier == "RW"

    def refs(self, value: Any) -> tuple[str, ...]:
        """The references in a value of this field."""
        if not self._many:
            return () if value in (NULL, "") else (value,)
        if isinstance(value, dict):
            both = {*value, *(ref for ref in value.values() if isinstance(ref, str))}
            return tuple(sorted(ref for ref in both if ref.startswith("OpaqueRef:") and ref != NULL))
        return tuple(ref for ref in value if ref != NULL) if isinstance(value, list) else ()

    def pointers(self, rows: Iterable[Row]) -> Iterator[tuple[Row, str]]:
        """The rows with a reference in this field, and the references."""
        name = self.name
        for row in rows:
            value = row[name]
            if self._many:
                for ref in self.refs(value):
                    yield row, ref
            elif value != NULL and value:
                yield row, value

    def change(self, write: Write) -> tuple[tuple[str, ...], tuple[str, ...]]:
        """The references in this field before a write of its row, and after."""
        if write.kind == "create":
            return (), self.refs(write.new[self.name])
        return (
            (self.refs(write.old[self.name]), ())
            if write.kind == "delete"
            else (self.refs(write.old), self.refs(write.new))
        )

    def leads_to(self, row: Row) -> tuple[str, ...]:
        return self.refs(row[self.name])

    def dangling(self, store: Store, row: Row) -> list[str]:
        """The references of a row that lead to nothing."""
        there = store.table(self.target)
        return [ref for ref in self.refs(row[self.name]) if ref not in there]


def _target(type_: t.Type) -> str:
    """The class that a type refers to, empty where it does not."""
    if isinstance(type_, t.Ref):
        return type_.class_name
    if isinstance(type_, t.Set):
        return _target(type_.item)
    if isinstance(type_, t.Map):
        return _target(type_.key) or _target(type_.item)
    return ""


def _pointing(store: Store) -> dict[str, tuple[_Pointer, ...]]:
    """By table, the fields that hold references to rows of the database, the far ends of relations left out."""
    return _pointing_in(store.release)


@cache
def _pointing_in(release: Release) -> dict[str, tuple[_Pointer, ...]]:
    store, far, out = Store(release), far_sides(), {}
    for table in store.tables:
        found = [
            _Pointer(store, table, name, field.type, _target(field.type))
            for name, field in store.shape(table).fields.items()
            if _target(field.type) in store.tables.keys() - ELSEWHERE and (table, name) not in far
        ]
        if found:
            out[table] = tuple(found)
    return out


def _field(store: Store, table: str, name: str) -> _Pointer | None:
    return next((field for field in _pointing(store).get(table, ()) if field.name == name), None)


def _ends(store: Store) -> dict[tuple[str, str], tuple[str, _Pointer]]:
    """The far ends of the relations that a release knows, as class and field, each with its near end."""
    return _ends_in(store.release)


@cache
def _ends_in(release: Release) -> dict[tuple[str, str], tuple[str, _Pointer]]:
    near = ((table, field) for table, fields in _pointing_in(release).items() for field in fields if field.far)
    return {(field.target, field.far): (table, field) for table, field in near}


def _uneven(store: Store, table: str, ref: str, name: str, other: str) -> Iterator[str]:
    """Whether only one of two rows names the other, or one does so twice."""
    row, field = store.find(table, ref), _field(store, table, name)
    there = store.find(field.target, other) if field is not None else None
    if field is None or there is None:
        return
    says = row is not None and other in field.leads_to(row)
    listed = there[field.far].count(ref)
    if listed != int(says):
        ends = f"{table} {ref} {name} and {field.target} {other} {field.far}"
        yield f"the ends of a relation do not agree: {ends} ({'named' if says else 'not named'}, listed {listed} times)"


class OperationsHaveTasks(Invariant):
    """Whatever is shown to go on is done by a task that exists and is pending.

    The operations on tasks themselves are none: they stay to say what was asked of them. A host that was told to stop shows
    that until it is back, though the task that told it is over.
    """

    name, tables = "operations have tasks", None

    def begin(self, pool: MockPool) -> None:
        self.named: dict[str, dict[tuple[str, str], None]] = {}
        for table in pool.store.tables:
            if table != "task" and "current_operations" in pool.store.shape(table).fields:
                for row in pool.store.table(table).values():
                    self._name(table, row.ref, {}, row["current_operations"])

    def broken(self, pool: MockPool, writes: list[Write]) -> Iterable[str]:
        doubtful = dict[tuple[str, str], None]()
        for write in writes:
            if write.table == "task":
                if write.kind == "delete" or write.field == "status":
                    doubtful.update(self.named.get(write.ref, {}))
            elif write.field == "current_operations":
                self._name(write.table, write.ref, write.old, write.new)
                doubtful[write.table, write.ref] = None
            elif write.kind == "delete":
                self._name(write.table, write.ref, write.old.get("current_operations", {}), {})
        for table, ref in doubtful:
            yield from self._abandoned(pool, table, ref)

    def broken_at_end(self, pool: MockPool) -> Iterable[str]:
        for table in pool.store.tables:
            if table != "task" and "current_operations" in pool.store.shape(table).fields:
                for ref in pool.store.table(table):
                    yield from self._abandoned(pool, table, ref)

    def _name(self, table: str, ref: str, old: dict[str, str], new: dict[str, str]) -> None:
        for task in old:
            if task not in new and task in self.named:
                self.named[task].pop((table, ref), None)
                if not self.named[task]:
                    del self.named[task]
        for task in new:
            self.named.setdefault(task, KeptIndex())[table, ref] = None

    @staticmethod
    def _abandoned(pool: MockPool, table: str, ref: str) -> Iterator[str]:
        row = pool.store.find(table, ref)
        for task, name in (row["current_operations"] if row is not None else {}).items():
            found = pool.store.find("task", task)
            if found is None and any(task.endswith(f"|{going.label}") for going in pool.going.values()):
                continue  # a call that has no row in the table of tasks
            if found is None and (table, name) == ("host", "shutdown"):
                continue
            if found is None or found["status"] != "pending":
                state = "does not exist" if found is None else f"is over ({found['status']})"
                yield f"{name} goes on on {table} {ref}, but its task {task or '(none)'} {state}"


class EventsTold(Invariant):
    """Who listens is told of each change, and of nothing else: one event for each object that was written.

    It listens as a client of `event.from` would that asks after each call, and looks at what is queued for those who
    registered for `event.next`. A master that starts tells everything anew; that is not judged.
    """

    name, tables = "events told", None

    def begin(self, pool: MockPool) -> None:
        self.store, self.since = pool.store, pool.store.generation - 1
        self.queue, self.number = pool.old_events, pool.old_events.number
        self.heard = pool.old_events.heard()

    def broken(self, pool: MockPool, writes: list[Write]) -> Iterable[str]:
        try:
            if pool.store is self.store and pool.old_events is self.queue:
                yield from self._against_from(pool, writes)
                if self.heard == pool.old_events.heard():
                    yield from self._against_next(pool, writes)
        finally:
            self.begin(pool)

    def _against_from(self, pool: MockPool, writes: list[Write]) -> Iterator[str]:
        """What `event.from` tells against what was written."""
        store = pool.store
        expected = {(table, ref): kind for table, ref, kind in _expected(store, writes)}
        tables = {table for table, _ in expected} | {
            n for n, table in store.tables.items() if table.latest > self.since
        }
        events, _ = collected(store, {table.lower() for table in tables}, self.since)
        told = {(event["class"], event["ref"]): event["operation"] for event in events}
        names = {name.lower(): name for name in tables}
        for (table, ref), kind in expected.items():
            found = told.pop((table.lower(), ref), None)
            if found != kind:
                yield f"{table} {ref} was changed ({kind}), and event.from tells {found or 'nothing'}"
        for (folded, ref), kind in told.items():
            yield f"event.from tells of {names[folded]} {ref} ({kind}), which nobody wrote"
        last = {(w.table, w.ref, w.field): w.new for w in writes if w.kind == "write" and w.field}
        for (table, ref, field), value in last.items():
            row = store.find(table, ref)
            if row is not None and row[field] != value:
                yield f"{table} {ref}: {field} is not what was written last"

    def _against_next(self, pool: MockPool, writes: list[Write]) -> Iterator[str]:
        """What is queued for `event.next` against what was written."""
        queued = [(e["class"], e["ref"], e["operation"]) for e in self.queue.after(self.number)]
        for write in writes:
            if not self.queue.concerns(pool.store, write):
                continue
            wanted = (write.table.lower(), write.ref, OPERATIONS[write.kind])
            while queued and queued[0] != wanted and queued[0] == ("pool", pool.store.pool().ref, "mod"):
                queued.pop(0)  # a heartbeat
            if not queued or queued.pop(0) != wanted:
                yield f"{write.table} {write.ref} was changed ({wanted[2]}), and event.next does not tell"
                return
        for folded, ref, kind in queued:
            if folded != "pool":
                yield f"event.next tells of {folded} {ref} ({kind}), which nobody wrote"


def _expected(store: Store, writes: list[Write]) -> Iterator[tuple[str, str, str]]:
    """What a listener who asks once is to be told: table, reference, kind of event."""
    seen: dict[tuple[str, str], list[str]] = {}
    for write in writes:
        if write.table in store.tables and store.model.classes[write.table].events:
            seen.setdefault((write.table, write.ref), []).append(write.kind)
    deleted: dict[str, int] = defaultdict(int)
    for (table, _), kinds in seen.items():
        deleted[table] += kinds[-1] == "delete"
    for (table, ref), kinds in seen.items():
        if kinds[-1] == "delete":
            if kinds[0] != "create" and deleted[table] < REMEMBERED_DELETIONS // 2:
                yield table, ref, "del"
        else:
            yield table, ref, "add" if kinds[0] == "create" else "mod"
