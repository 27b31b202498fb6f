"""The pool database: xapi's *belief* about the pool.

Rows are dicts from API field name to value (text, int, float, bool, `Timestamp`, list of text, dict with text keys), one
dict a table, keyed by reference. Everything that changes goes through `Store._changed`, the one writer: it stamps row and
generation, keeps the other end of each relation in step, and notes the write for events, traces and invariants. A store
is of one release: it holds the tables and columns that release knows, and `upgrade` gives it those of a newer one.

What a loaded dump holds beyond that (tables and columns that the data model does not know, references to nothing) is
kept, carried through to the next dump, and listed in `reports`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Any, ClassVar

from xenctl import database, datamodel
from xenctl.datamodel import MISSING
from xenctl.datamodel import types as t
from xenctl.errors import DatabaseError, Failure
from xenctl.releases import serves
from xenctl.values import Timestamp, format_datetime

if TYPE_CHECKING:
    from xenctl.datamodel import Class
    from xenctl.datamodel import Field as ModelField
    from xenctl.releases import Release

NULL = "OpaqueRef:NULL"
EPOCH = Timestamp("19700101T00:00:00Z")
REMEMBERED_DELETIONS = 512
"""A table's list of deleted rows is cut to its newest half when it would reach this."""

DECISIVE = frozenset({"pool", "host", "VM", "VBD", "VDI", "SR", "PBD", "VIF", "PIF", "network"})
"""Tables on which the fate of guests depends: a cell that does not fit its type is an error there. Elsewhere it is kept as
it is, reported, and read as the field's default."""

_EMPTY: dict[str, Any] = {"string": "", "int": 0, "float": 0.0, "bool": False, "datetime": EPOCH, "any": ""}


def empty_value(kind: t.Type, enums: dict[str, tuple[str, ...]] | Any = None) -> Any:
    """The value that a field which is not persistent has after a load."""
    if isinstance(kind, (t.Set, t.Option)):
        return []
    if isinstance(kind, t.Map):
        return {}
    if isinstance(kind, t.Ref):
        return NULL
    if isinstance(kind, t.Enum):
        return enums[kind.name][0] if enums and kind.name in enums else ""
    return _EMPTY.get(kind.name, "") if isinstance(kind, t.Scalar) else ""


def from_text(kind: t.Type, text: str) -> Any:
    """A column's text as a value. Raises ValueError."""
    if isinstance(kind, t.Scalar):
        if kind.name == "int":
            return int(text)
        if kind.name == "float":
            return float(text)
        if kind.name == "bool":
            if text not in ("true", "false"):
                raise ValueError(f"neither true nor false: {text!r}")
            return text == "true"
        return Timestamp(text) if kind.name == "datetime" else text
    if isinstance(kind, (t.Set, t.Option)):
        members = database.parse_set(text) if text else []
        return members if _is_text(kind.item) else [from_text(kind.item, member) for member in members]
    if isinstance(kind, t.Map):
        pairs = database.parse_map(text) if text else {}
        if _is_text(kind.item):
            return pairs
        return {key: from_text(kind.item, item) for key, item in pairs.items()}
    return text


def _is_text(kind: t.Type) -> bool:
    return not isinstance(kind, (t.Set, t.Map, t.Option)) and kind not in _NOT_TEXT


_NOT_TEXT = {t.Scalar("int"), t.Scalar("float"), t.Scalar("bool"), t.Scalar("datetime")}


def to_text(value: Any) -> str:
    """A value as a column's text."""
    if isinstance(value, str):
        return str(value)
    if value is True or value is False:
        return "true" if value else "false"
    if isinstance(value, list):
        return database.write_set([to_text(item) for item in value])
    if isinstance(value, dict):
        return database.write_map({str(key): to_text(item) for key, item in value.items()})
    if isinstance(value, float):
        return f"{value:.18g}"
    return str(value)


class Row(dict[str, Any]):
    """One object's fields. `created` and `modified` are generations; `foreign` are columns the model does not know."""

    __slots__ = ("created", "foreign", "modified", "ref", "table")

    def __init__(self, table: str, ref: str, fields: dict[str, Any]) -> None:
        super().__init__(fields)
        self.table, self.ref = table, ref
        self.created = self.modified = 0
        self.foreign: dict[str, str] = {}

    __hash__ = object.__hash__  # type: ignore[assignment]


@dataclass(frozen=True)
class Write:
    """One change: `kind` is `create`, `write` or `delete`; for a write `field`, `old` and `new` say what changed. `at` is
    when, in simulated seconds. The machine room notes its own under the table `machine`, the field being `state`."""

    kind: str
    table: str
    ref: str
    field: str = ""
    old: Any = None
    new: Any = None
    at: float = 0.0


class Table:
    """The rows of one class. `recent` holds refs in the order of their last change."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.rows: dict[str, Row] = {}
        self.recent: dict[str, None] = {}
        self.deleted: list[tuple[int, int, str]] = []


@dataclass(frozen=True)
class Shape:
    """What a release knows of a class: fields in the order of records, hidden ones apart, and their defaults."""

    visible: tuple[str, ...]
    fields: dict[str, ModelField]
    defaults: dict[str, Any]


class Store:
    """A pool's database as one release of xapi holds it."""

    _shapes: ClassVar[dict[tuple[str, str], Shape]] = {}

    def __init__(self, release: Release, generation: int = 1) -> None:
        self.model = datamodel.load()
        self.release = release
        self.generation = generation
        self.tables: dict[str, Table] = {}
        self.by_uuid: dict[str, tuple[str, str]] = {}
        self.manifest: dict[str, str] = {}
        self.form: database.Form | None = None
        self.table_order: list[str] = []
        self.foreign: dict[str, database.Table] = {}
        self.reports: list[str] = []
        self.reserved: dict[str, dict[str, None]] = {}
        self.on_write: Callable[[Write], None] = lambda write: None
        self.now: Callable[[], float] = lambda: 0.0
        self._make_tables()

    def _make_tables(self) -> None:
        for name, cls in self.model.classes.items():
            if name not in self.tables and cls.in_database and serves(self.release, cls):
                self.tables[name] = Table(name)

    # --- what a release knows

    def shape(self, name: str) -> Shape:
        """The fields that this store's release knows of class `name`."""
        key = (self.release.product_version + self.release.product_brand, name)
        shape = Store._shapes.get(key)
        if shape is None:
            shape = Store._shapes[key] = self._shape_of(self.model.classes[name])
        return shape

    def _shape_of(self, cls: Class) -> Shape:
        fields = {name: f for name, f in cls.fields.items() if serves(self.release, f)}
        defaults = {}
        for name, field in fields.items():
            default = field.column_default
            if isinstance(default, datetime):
                default = format_datetime(default)
            defaults[name] = empty_value(field.type, cls.enums) if default is MISSING else default
        return Shape(tuple(n for n, f in fields.items() if not f.hidden), fields, defaults)

    # --- reading

    def table(self, name: str) -> dict[str, Row]:
        """The rows of class `name` by reference; empty where the release has no such class."""
        table = self.tables.get(name)
        return table.rows if table else {}

    def get(self, name: str, ref: str) -> Row:
        """One row. Raises `HANDLE_INVALID`."""
        row = self.table(name).get(ref)
        if row is None:
            raise Failure(["HANDLE_INVALID", name, ref])
        return row

    def find(self, name: str, ref: str) -> Row | None:
        """One row, or None for a reference to nothing."""
        return self.table(name).get(ref)

    def record(self, row: Row) -> dict[str, Any]:
        """What clients see of `row`, fields in the data model's order."""
        return {name: row[name] for name in self.shape(row.table).visible if name in row}

    def pool(self) -> Row:
        """The pool's row."""
        return next(iter(self.tables["pool"].rows.values()))

    # --- writing

    def create(self, name: str, ref: str, fields: dict[str, Any]) -> Row:
        """Add a row; fields left out get the release's default, fields the release does not know are left out."""
        shape = self.shape(name)
        values = {
            field: fields.get(field, default if not isinstance(default, (list, dict)) else default.copy())
            for field, default in shape.defaults.items()
        }
        row = Row(name, ref, values)
        sets = [field for field in values if self._is_far_side(name, field)]
        for field in sets:
            row[field] = []
        self.tables[name].rows[ref] = row
        if row.get("uuid"):
            self.by_uuid[row["uuid"]] = (name, ref)
        row.created = self._changed(Write("create", name, ref, new=row, at=self.now()), row)
        for field, value in list(row.items()):
            self._relate(row, field, NULL, value)
        return row

    def write(self, row: Row, **fields: Any) -> None:
        """Set fields of a row; a value that stays as it is changes nothing."""
        for field, value in fields.items():
            if field not in row:
                continue
            old = row[field]
            if old == value and type(old) is type(value):
                continue
            row[field] = value
            if field == "uuid":
                self.by_uuid.pop(old, None)
                self.by_uuid[value] = (row.table, row.ref)
            elif field == "scheduled_to_be_resident_on":
                self.reserved.get(old, {}).pop(row.ref, None)
                if value != NULL:
                    self.reserved.setdefault(value, {})[row.ref] = None
            self._changed(Write("write", row.table, row.ref, field, old, value, self.now()), row)
            self._relate(row, field, old, value)

    def delete(self, row: Row) -> None:
        """Remove a row; the other ends of its relations forget it."""
        for field, value in list(row.items()):
            if not self._is_far_side(row.table, field):
                self._relate(row, field, value, NULL)
        table = self.tables[row.table]
        del table.rows[row.ref]
        table.recent.pop(row.ref, None)
        self.by_uuid.pop(row.get("uuid", ""), None)
        if len(table.deleted) >= REMEMBERED_DELETIONS - 1:
            table.deleted = table.deleted[-REMEMBERED_DELETIONS // 2 :]
        table.deleted.append((row.created, self.generation, row.ref))
        self.generation += 1
        self.on_write(Write("delete", row.table, row.ref, old=row, at=self.now()))

    def touch(self, row: Row) -> int:
        """Stamp a row as changed without changing it; returns the generation before."""
        return self._changed(Write("write", row.table, row.ref, at=self.now()), row)

    def _changed(self, write: Write, row: Row) -> int:
        generation = self.generation
        self.generation += 1
        self._stamp(row, generation)
        self.on_write(write)
        return generation

    def _stamp(self, row: Row, generation: int) -> None:
        row.modified = generation
        recent = self.tables[row.table].recent
        recent.pop(row.ref, None)
        recent[row.ref] = None

    def _is_far_side(self, table: str, field: str) -> bool:
        return (table, field) in _relations(self.model)[1]

    def _relate(self, row: Row, field: str, old: Any, new: Any) -> None:
        relation = _relations(self.model)[0].get((row.table, field))
        if relation is None:
            return
        other_table, other_field = relation
        gone, come = _difference(old, new)
        for refs, change in ((gone, _without), (come, _with)):
            for ref in refs:
                other = self.find(other_table, ref)
                if other is not None and other_field in other:
                    members = change(other[other_field], row.ref)
                    if members is not None:
                        before, other[other_field] = other[other_field], members
                        self._stamp(other, self.generation - 1)
                        self.on_write(Write("write", other_table, ref, other_field, before, members, self.now()))

    # --- releases

    def upgrade(self, release: Release) -> None:
        """Become the database of `release`: tables and columns it knows are added with their defaults."""
        self.release = release
        self._make_tables()
        for name, table in self.tables.items():
            defaults = self.shape(name).defaults
            for row in table.rows.values():
                for field, default in defaults.items():
                    if field not in row:
                        row[field] = default.copy() if isinstance(default, (list, dict)) else default
        self.manifest.update(schema_major_vsn=str(release.schema[0]), schema_minor_vsn=str(release.schema[1]))
        if "product_version" in self.manifest:
            self.manifest["product_version"] = release.product_version

    def persists(self, name: str) -> bool:
        """Whether the rows of class `name` outlive a restart; up to 5.5 those of hosts' and PIFs' metrics did not."""
        if name in ("host_metrics", "PIF_metrics") and self.release.schema <= (5, 57):
            return False
        return self.model.classes[name].persistent

    def restart(self) -> None:
        """What a start of the master does to its database: tables and fields that are not persistent are emptied, and
        every row counts as created now, so that old event tokens give the whole pool again."""
        for name, table in self.tables.items():
            cls = self.model.classes[name]
            if not self.persists(name):
                for row in list(table.rows.values()):
                    self.delete(row)
            empty = {
                field: empty_value(f.type, cls.enums)
                for field, f in self.shape(name).fields.items()
                if not f.persistent
            }
            table.deleted.clear()
            for row in table.rows.values():
                for field, value in empty.items():
                    if field in row:
                        row[field] = value.copy() if isinstance(value, (list, dict)) else value
                row.created = row.modified = self.generation
        self.generation += 1

    # --- dumps

    def dump(self) -> database.Database:
        """The database as a dump of the store's release, tables that are not persistent without rows."""
        manifest = dict(self.manifest)
        manifest.setdefault("schema_major_vsn", str(self.release.schema[0]))
        manifest.setdefault("schema_minor_vsn", str(self.release.schema[1]))
        manifest["generation_count"] = str(self.generation)
        out = database.Database(manifest=manifest, tables={}, form=self.form or database.Form.of(self.release.schema))
        names = [name for name in self.table_order if name in self.tables or name in self.foreign]
        names += sorted(name for name in self.tables if name not in names)
        for name in names:
            if name in self.foreign:
                out.tables[name] = self.foreign[name]
                continue
            rows = {}
            if self.persists(name):
                fields = self.shape(name).fields
                rows = {ref: self._dumped(row, fields) for ref, row in self.tables[name].rows.items()}
            out.tables[name] = database.Table(name, rows)
        return out

    def _dumped(self, row: Row, fields: dict[str, ModelField]) -> database.Row:
        cells = {fields[name].column: to_text(value) for name, value in row.items() if name in fields}
        cells["_ref"] = row.ref
        cells.update(row.foreign)
        form = self.form or database.Form.of(self.release.schema)
        ctime, mtime = (row.created, row.modified) if form.generations else (None, None)
        return database.Row(row.ref, dict(sorted(cells.items())), ctime, mtime)

    @classmethod
    def load(cls, dump: database.Database, release: Release) -> Store:
        """The database that a dump of `release` holds. Raises `DatabaseError` for a cell that does not fit its type."""
        store = cls(release, dump.generation)
        store.manifest, store.form, store.table_order = dict(dump.manifest), dump.form, list(dump.tables)
        for name, table in dump.tables.items():
            if name in store.tables:
                store._load_table(table)
            else:
                store.foreign[name] = table
                if table.rows:
                    store.reports.append(f"table {name}: {len(table.rows)} rows of a table that the data model lacks")
        store._relate_all()
        return store

    def _load_table(self, source: database.Table) -> None:
        cls = self.model.classes[source.name]
        if not self.persists(source.name):
            return
        shape = self.shape(source.name)
        columns = {field.column: (name, field) for name, field in shape.fields.items()}
        table, unknown, misfits = self.tables[source.name], dict[str, int](), dict[str, int]()
        for ref, cells in source.rows.items():
            values = {k: v.copy() if isinstance(v, (list, dict)) else v for k, v in shape.defaults.items()}
            row = Row(source.name, ref, values)
            for column, text in cells.cells.items():
                if column == "_ref":
                    continue
                known = columns.get(column)
                if known is None:
                    row.foreign[column] = text
                    unknown[column] = unknown.get(column, 0) + 1
                    continue
                name, field = known
                if not field.persistent or self._is_far_side(source.name, name):
                    continue
                try:
                    row[name] = from_text(field.type, text)
                except ValueError as error:
                    if source.name in DECISIVE:
                        raise DatabaseError(
                            f"not a {field.type}: {error}; take the dump again, or mend this cell",
                            table=source.name,
                            row=ref,
                            column=column,
                        ) from None
                    row.foreign[column] = text
                    misfits[column] = misfits.get(column, 0) + 1
            for name, field in shape.fields.items():
                if not field.persistent or self._is_far_side(source.name, name):
                    row[name] = empty_value(field.type, cls.enums)
            row.created = row.modified = self.generation
            table.rows[ref] = row
            table.recent[ref] = None
            if row.get("uuid"):
                if row["uuid"] in self.by_uuid:
                    raise DatabaseError(f"the uuid {row['uuid']} is used twice", table=source.name, row=ref)
                self.by_uuid[row["uuid"]] = (source.name, ref)
            elif source.name in ("pool", "host", "VM"):
                raise DatabaseError("it has no uuid; take the dump again", table=source.name, row=ref)
        for column, times in unknown.items():
            self.reports.append(f"table {source.name}: column {column}, unknown to the data model, in {times} rows")
        for column, times in misfits.items():
            kind = columns[column][1].type
            self.reports.append(f"table {source.name}: column {column} holds no {kind} in {times} rows; kept as it is")

    def _relate_all(self) -> None:
        relations = _relations(self.model)[0]
        for (table, field), (other_table, other_field) in relations.items():
            dangling = 0
            for row in self.table(table).values():
                value = row.get(field, NULL)
                for ref in value if isinstance(value, list) else [value]:
                    other = self.find(other_table, ref)
                    if other is not None and other_field in other:
                        if row.ref not in other[other_field]:
                            other[other_field].append(row.ref)
                    elif ref not in (NULL, ""):
                        dangling += other is None
            if dangling:
                self.reports.append(f"table {table}: {dangling} references of {field} to no {other_table}")
        for table in ("VM", "VBD", "VIF", "host", "PIF"):
            for field, kind in (("metrics", f"{table}_metrics"), ("guest_metrics", f"{table}_guest_metrics")):
                rows = self.table(table).values()
                dangling = sum(row.get(field, NULL) not in (NULL, "", *self.table(kind)) for row in rows)
                if dangling:
                    self.reports.append(f"table {table}: {dangling} references of {field} to no {kind}")

    # --- changes since a generation, for events

    def changes(self, name: str, since: int) -> Iterator[Row]:
        """Rows of class `name` changed at generation `since` + 1 or later, newest first."""
        table = self.tables[name]
        for ref in reversed(table.recent):
            row = table.rows[ref]
            if row.modified <= since:
                return
            yield row


def _difference(old: Any, new: Any) -> tuple[Iterable[str], Iterable[str]]:
    before = old if isinstance(old, list) else [old]
    after = new if isinstance(new, list) else [new]
    return [r for r in before if r not in after], [r for r in after if r not in before]


def _without(members: list[str], ref: str) -> list[str] | None:
    return [m for m in members if m != ref] if ref in members else None


def _with(members: list[str], ref: str) -> list[str] | None:
    return [ref, *members] if ref not in members else None


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
