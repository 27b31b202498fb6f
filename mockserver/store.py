"""The pool database: xapi's *belief* about the pool.

Rows are dicts from API field name to value (text, int, float, bool, `Timestamp`, list of text, dict with text keys), one
dict a table, keyed by reference. Everything that changes goes through `create`, `write` and `delete`, the one writer, which
has a module of its own. A store is of one release: it holds the tables and columns that release knows, and `upgrade` gives
it those of a newer one.

What a loaded dump holds beyond that (tables and columns that the release does not know, references to nothing) is
kept, carried through to the next dump, and listed in `reports`. Loading changes what xapi's loading changes, and nothing
else: rows of tables that are not persistent are dropped, fields that are not persistent emptied, the computed ends of
relations rebuilt (in the dump's order where it has the same members). Cells that nobody wrote since keep their spelling.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from datetime import datetime
from functools import cache
from itertools import groupby, islice
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, ClassVar

from xenctl import database, datamodel
from xenctl.datamodel import MISSING
from xenctl.datamodel import types as t
from xenctl.errors import DatabaseError, Failure
from xenctl.releases import serves
from xenctl.values import format_datetime

from .clock import VirtualClock
from .columns import EPOCH, NULL, empty_value, from_text, is_text, to_text, to_texts
from .intake import NOWHERE, Intake, in_order
from .journal import KeptIndex
from .rows import NOTHING, Encode, Row, Shape, Table, Write
from .writer import INDEXED, Writer

__all__ = [
    "EPOCH",
    "NULL",
    "Row",
    "Shape",
    "Store",
    "Table",
    "Write",
    "empty_value",
    "far_sides",
    "from_text",
    "to_text",
]

if TYPE_CHECKING:
    from xenctl.datamodel import Class, Field
    from xenctl.releases import Release

HASHED = (5, 61)
"""The last schema whose dumps had their tables in no order, and the host's identity in the manifest."""

AT_ONCE = 512
"""The most rows that are written at once: of more, each column would have to be fetched from far memory anew."""

NAMED = frozenset({"pool", "host", "VM"})
"""Tables whose rows cannot do without a uuid."""


class Store(Writer):
    """A pool's database as one release of xapi holds it."""

    UNKEPT: ClassVar = frozenset({"model", "generation", "on_write", "clock", "_near", "_far", "_bulk"})

    def __init__(self, release: Release, generation: int = 1) -> None:
        self.model = datamodel.load()
        self._near, self._far = _relations(self.model)
        self.release, self.shapes = release, shapes_of(release)
        self.generation = generation
        self.tables: dict[str, Table] = {}
        self.by_uuid: dict[str, tuple[str, str]] = KeptIndex()
        self.manifest: dict[str, str] = {}
        self.form: database.Form | None = None
        self.table_order: list[str] = []
        self.foreign: dict[str, database.Table] = {}
        self.reports: list[str] = []
        self.reserved: dict[str, dict[str, None]] = KeptIndex()
        self.on_write: Callable[[Write], None] = lambda write: None
        self.clock = VirtualClock(0.0)
        self._bulk = False
        self._make_tables()

    def _make_tables(self) -> None:
        for name, cls in self.model.classes.items():
            if name not in self.tables and cls.in_database and serves(self.release, cls):
                self.tables[name] = Table(name)

    # --- what a release knows

    def shape(self, name: str) -> Shape:
        """The fields that this store's release knows of class `name`."""
        return self.shapes[name]

    # --- reading

    def table(self, name: str) -> dict[str, Row]:
        """The rows of class `name` by reference; empty where the release has no such class."""
        table = self.tables.get(name)
        return table.rows if table else {}

    def get(self, name: str, ref: str) -> Row:
        """One row. Raises `HANDLE_INVALID`."""
        try:
            return self.tables[name].rows[ref]
        except KeyError:
            raise Failure(["HANDLE_INVALID", name, ref]) from None

    def find(self, name: str, ref: str) -> Row | None:
        """One row, or None for a reference to nothing."""
        try:
            return self.tables[name].rows.get(ref)
        except KeyError:
            return None

    def identified(self, name: str, uuid: str) -> Row:
        """The row of class `name` that has a uuid. Raises `UUID_INVALID`."""
        table, ref = self.by_uuid.get(uuid, ("", ""))
        if table != name:
            raise Failure(["UUID_INVALID", name, uuid])
        return self.tables[name].rows[ref]

    def rows(self, name: str, refs: Collection[str]) -> list[Row]:
        """The rows of those references that lead to any."""
        if not refs or name not in self.tables:
            return []
        rows = self.tables[name].rows
        return [rows[ref] for ref in refs if ref in rows]

    def record(self, row: Row) -> dict[str, Any]:
        """What clients see of `row`, fields in the data model's order."""
        return {name: row[name] for name in self.shape(row.table).visible if name in row}

    def encoded(self, name: str, encode: Encode) -> list[bytes]:
        """The records of class `name` by `encode`, as `Encoded` takes them, references falling."""
        table = self.tables.get(name)
        return table.encoded(encode, self.record) if table is not None else []

    def pool(self) -> Row:
        """The pool's row."""
        (row,) = self.tables["pool"].rows.values()
        return row

    # --- writing, besides what the writer does

    @contextmanager
    def bulk(self) -> Iterator[None]:
        """Make many rows at once: nobody is told of them, and the far ends of relations follow at the end of the block."""
        self._bulk = True
        try:
            yield
        finally:
            self._bulk = False
            self._relate_all({}, newest_first=True)

    @contextmanager
    def unwatched(self) -> Iterator[None]:
        """Write without anybody being told: while a pool is made."""
        watcher, self.on_write = self.on_write, lambda write: None
        try:
            yield
        finally:
            self.on_write = watcher

    def put(self, row: Row, **fields: Any) -> None:
        """Have fields of a row hold something else as if they always had: while a pool is made, and nobody has seen it yet.
        They are no end of a relation, and no row is looked up by them."""
        if row.foreign:
            self.write(row, **fields)
        else:
            dict.update(row, fields)

    # --- releases

    def upgrade(self, release: Release) -> None:
        """Become the database of `release`: tables and columns it knows are added, with their defaults or with what a
        loaded dump held of them."""
        old, self.release, self.shapes = self.release, release, shapes_of(release)
        self._make_tables()
        for name, table in self.tables.items():
            shape = self.shape(name)
            intake = Intake(name, shape)
            for row in table.rows.values():
                self._keep(row)
                for field, default in shape.defaults.items():
                    if field not in row:
                        dict.__setitem__(row, field, default)
                cells = row.foreign
                row.foreign = {c: text for c, text in cells.items() if c not in shape.columns} or NOTHING
                intake.fill(row, {c: text for c, text in cells.items() if c in shape.columns})
        for name in [name for name in self.foreign if name in self.tables]:
            self._load_table(self.foreign.pop(name))
        self._relate_all({})
        if release.schema > HASHED:
            self.table_order = []
            self.manifest = {}
        if _form(release) != _form(old):
            self.form = None
        self.manifest.update(schema_major_vsn=str(release.schema[0]), schema_minor_vsn=str(release.schema[1]))

    def persists(self, name: str) -> bool:
        """Whether the rows of class `name` outlive a restart; up to 5.5 those of hosts' and PIFs' metrics did not."""
        if name in ("host_metrics", "PIF_metrics") and self.release.schema <= (5, 57):
            return False
        return self.model.classes[name].persistent

    def restart(self) -> None:
        """What a start of the master does to its database: tables and fields that are not persistent are emptied, and
        every row counts as created now, so that old event tokens give the whole pool again."""
        for name, table in self.tables.items():
            if not self.persists(name):
                for row in list(table.rows.values()):
                    self.delete(row)
        for name, table in self.tables.items():
            shape = self.shape(name)
            table.deleted.clear()
            for row in table.rows.values():
                self._keep(row)
                for field, value in shape.empty.items():
                    dict.__setitem__(row, field, value)
                row.created = row.modified = self.generation
            table.relog(self.journal, [(self.generation, ref) for ref in table.rows])
        self.next_generation()

    # --- dumps

    def dump(self) -> database.Database:
        """The database as a dump of the store's release, tables that are not persistent without rows."""
        form = self.form or _form(self.release)
        manifest = dict(self.manifest)
        manifest.setdefault("schema_major_vsn", str(self.release.schema[0]))
        manifest.setdefault("schema_minor_vsn", str(self.release.schema[1]))
        manifest["generation_count"] = str(self.generation)
        names = {*self.tables, *self.foreign, *(n for n, c in self.model.classes.items() if serves(self.release, c))}
        ordered = [name for name in self.table_order if name in names]
        out = database.Database(manifest=manifest, tables={}, form=form)
        for name in [*ordered, *sorted(names.difference(ordered))]:
            out.tables[name] = self.foreign.get(name) or database.Table(name, blocks=self._dumped(name, form))
        return out

    def _dumped(self, name: str, form: database.Form) -> Iterator[database.Block]:
        """The rows of a table as a dump has them: those with the same columns at once."""
        if name not in self.tables or not self.persists(name):
            return
        shape = self.shape(name)
        before, after = shape.writing
        for _, run in groupby(self.tables[name].rows.values(), lambda row: tuple(row.foreign)):
            while rows := list(islice(run, AT_ONCE)):
                columns = {column: to_texts([row[field] for row in rows]) for column, field in before}
                columns["_ref"] = refs = [row.ref for row in rows]
                columns |= {column: to_texts([row[field] for row in rows]) for column, field in after}
                for place, row in enumerate(rows):
                    for field, (value, text) in row.spelled.items():
                        if row[field] == value:
                            columns[shape.fields[field].column][place] = text
                if rows[0].foreign:
                    columns |= {column: [row.foreign[column] for row in rows] for column in rows[0].foreign}
                    columns = dict(sorted(columns.items()))
                stamps = [(row.created, row.modified) if form.generations else (None, None) for row in rows]
                ctimes, mtimes = zip(*stamps, strict=True)
                yield database.Block(refs, ctimes, mtimes, columns)

    @classmethod
    def load(cls, dump: database.Database, release: Release) -> Store:
        """The database that a dump of `release` holds. Raises `DatabaseError` for a cell that does not fit its type."""
        store = cls(release, max(1, dump.generation))
        store.manifest, store.form, store.table_order = dict(dump.manifest), dump.form, list(dump.tables)
        taken: dict[str, Intake] = {}
        for name, table in dump.tables.items():
            if name in store.tables:
                taken[name] = store._load_table(table)
            elif table.size or name not in store.model.classes:
                store.foreign[name] = table
                if table.size:
                    store.reports.append(
                        f"table {name}: {table.size} rows of a table that {release.name} lacks; kept as they are"
                    )
        store._relate_all(taken)
        store._report_dangling(taken)
        return store

    def _load_table(self, source: database.Table) -> Intake:
        """Take in a table."""
        name = source.name
        shape, table = self.shape(name), self.tables[name]
        intake = Intake(name, shape)
        for block in source.blocks() if self.persists(name) else ():
            rows = intake.rows(block, self.generation)
            self._enter(name, rows)
            table.rows.update(zip(block.refs, rows, strict=True))
            table.recent += [(self.generation, ref) for ref in block.refs]
        for column, times in intake.unknown.items():
            place = f"table {name}: column {column}"
            self.reports.append(f"{place}, which {self.release.name} lacks, in {times} rows; kept as it is")
        for column, times in intake.misfits.items():
            kind = shape.fields[shape.columns[column]].type
            self.reports.append(f"table {name}: column {column} holds no {kind} in {times} rows; kept as it is")
        return intake

    def _enter(self, name: str, rows: list[Row]) -> None:
        """Have a dump's rows found by what they hold. Raises `DatabaseError` for a uuid that is missing or used twice."""
        uuids = [row.get("uuid", "") for row in rows]
        entries = {uuid: (name, row.ref) for uuid, row in zip(uuids, rows, strict=True) if uuid}
        without = uuids.count("")
        if without and name in NAMED:
            raise DatabaseError("it has no uuid; take the dump again", table=name, row=rows[uuids.index("")].ref)
        if len(entries) + without < len(rows) or not self.by_uuid.keys().isdisjoint(entries):
            first = {uuid: place for place, uuid in reversed(list(enumerate(uuids)))}
            again = (n for n, uuid in enumerate(uuids) if uuid and (uuid in self.by_uuid or first[uuid] < n))
            place = next(again)
            raise DatabaseError(f"the uuid {uuids[place]} is used twice", table=name, row=rows[place].ref)
        self.by_uuid.update(entries)
        for row in rows:
            if row.get("scheduled_to_be_resident_on", NULL) != NULL:
                self._reserve(row, NULL, row["scheduled_to_be_resident_on"])

    def _relate_all(self, taken: Mapping[str, Intake] | None = None, *, newest_first: bool = False) -> None:
        """Rebuild the far ends of all relations, in the order that they, or the dump that is `taken` in, have if the members
        are the same."""
        for (table, field), (other_table, other_field) in self._near.items():
            near, far = self.tables.get(table), self.tables.get(other_table)
            if near is None or far is None or other_field not in self.shape(other_table).fields:
                continue
            if taken is not None and table in taken and not taken[table].leads(field):
                continue
            members = _by_target(near, field) if field in self.shape(table).fields else {}
            for row in far.rows.values() if taken is None else ():
                if row[other_field] and row.ref not in members:
                    self._put(row, other_field, [])
            texts = taken[other_table].orders[other_field] if taken is not None and other_table in taken else {}
            for ref, found in members.items():
                other = far.rows.get(ref)
                if other is None:
                    continue
                if len(found) > 1:
                    if newest_first:
                        found.reverse()
                    found = in_order(found, to_text(other[other_field]) if other[other_field] else texts.get(ref))
                self._put(other, other_field, found)

    def _report_dangling(self, taken: Mapping[str, Intake]) -> None:
        """Note the references that lead nowhere; they are kept."""
        for name, intake in taken.items():
            for field, targets in intake.targets.items():
                kind = self.shape(name).fields[field].type
                if not isinstance(kind, t.Ref) or kind.class_name not in self.model.classes:
                    continue
                there = self.table(kind.class_name)
                lost = {ref for ref in targets if ref not in there} - NOWHERE
                if lost:
                    count = sum(row[field] in lost for row in self.table(name).values())
                    self.reports.append(f"table {name}: {count} references of {field} to no {kind.class_name}")

    # --- changes since a generation, for events

    def changes(self, name: str, since: int) -> Iterator[Row]:
        """Rows of class `name` changed at generation `since` + 1 or later, newest first."""
        table = self.tables[name]
        for generation, ref in reversed(table.recent):
            if generation <= since:
                return
            row = table.rows.get(ref)
            if row is not None and row.modified == generation:
                yield row


def _form(release: Release) -> database.Form:
    return database.Form.of((release.schema[0], release.schema[1]))


def _by_target(table: Table, field: str) -> dict[str, list[str]]:
    """By what the reference `field`, or the references in it, lead to: the rows that they come from, in order."""
    out: defaultdict[str, list[str]] = defaultdict(list)
    values = [row[field] for row in table.rows.values()]
    if values.count(NULL) < len(values):
        for ref, value in zip(table.rows, values, strict=True):
            for target in dict.fromkeys(value) if type(value) is list else (value,):
                out[target].append(ref)
        out.pop(NULL, None)
    return out


_RELATIONS: list[tuple[dict[tuple[str, str], tuple[str, str]], set[tuple[str, str]]]] = []


def _relations(model: Any) -> tuple[dict[tuple[str, str], tuple[str, str]], set[tuple[str, str]]]:
    """The near side of each relation to its far side, and the far sides: those are rebuilt, never loaded or written."""
    if not _RELATIONS:
        near = {
            end: (far.class_name, far.field) for end, far in model.relations.items() if far.side in ("ref", "first")
        }
        _RELATIONS.append((near, set(near.values())))
    return _RELATIONS[0]


def far_sides() -> set[tuple[str, str]]:
    """The fields, as `(class, field)`, that follow from the other end of their relation."""
    return _relations(datamodel.load())[1]


@cache
def shapes_of(release: Release) -> Mapping[str, Shape]:
    """What a release knows of each class."""
    model = datamodel.load()
    return MappingProxyType({name: _shape_of(release, cls) for name, cls in model.classes.items()})


def _created(fields: Mapping[str, Field], defaults: Mapping[str, Any]) -> dict[str, Any]:
    """What a new row holds: xapi gives each field itself, and a reference to nothing is null. Only a database that lacks the
    column gets the empty text that the data model has for some."""
    return {n: NULL if isinstance(fields[n].type, t.Ref) and not value else value for n, value in defaults.items()}


def _shape_of(release: Release, cls: Class) -> Shape:
    near, far = _relations(datamodel.load())
    fields = {name: f for name, f in cls.fields.items() if serves(release, f)}
    defaults = {}
    for name, field in fields.items():
        default = field.column_default
        if isinstance(default, datetime):
            default = format_datetime(default)
        defaults[name] = empty_value(field.type, cls.enums) if default is MISSING else default
    columns = sorted((f.column, n) for n, f in fields.items())
    return Shape(
        visible=tuple(n for n, f in fields.items() if not f.hidden),
        fields=fields,
        columns={f.column: n for n, f in fields.items()},
        defaults=defaults,
        created=_created(fields, defaults),
        empty={n: empty_value(f.type, cls.enums) for n, f in fields.items() if not f.persistent},
        near=tuple(n for n in fields if (cls.name, n) in near),
        linked=frozenset(n for n in fields if n in INDEXED or (cls.name, n) in near or (cls.name, n) in far),
        far=tuple(n for n in fields if (cls.name, n) in far),
        given=frozenset(n for n in fields if (cls.name, n) not in far),
        reading={
            f.column: (n, f.type if f.persistent and (cls.name, n) not in far else None, is_text(f.type))
            for n, f in fields.items()
        },
        writing=(tuple(c for c in columns if c[0] < "_ref"), tuple(c for c in columns if c[0] > "_ref")),
    )
