"""The one writer of the pool database: whatever changes in it changes here.

A value in a row is never changed, only replaced, also where it is a set or a map; so rows, their copies, traces and the
journal share values, and new rows the defaults of their class. Whoever is outside of the fake is given copies.

Each change stamps row and generation, keeps the other end of each relation in step, and is noted for events, traces and
invariants. While there is a savepoint it makes the entries in the journal by which a rollback takes it back; while there is
none, which is most of the time, it goes past the containers that would look for one.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any

from xenctl.datamodel import MISSING
from xenctl.errors import Failure

from .columns import NULL, PLAIN, apart, fitting
from .journal import FIXED, Kept
from .rows import NOTHING, STALE, Row, Shape, Table, Write

if TYPE_CHECKING:
    from collections.abc import Mapping

    from .clock import VirtualClock

REMEMBERED_DELETIONS = 512
"""A table's list of deleted rows is cut to its newest half when it would reach this."""
INDEXED = frozenset({"uuid", "scheduled_to_be_resident_on"})  # by whose values rows are looked for

SIMPLE = PLAIN & FIXED
"""Types of which every value can be kept as it is, and is nobody else's to change."""

Change = Callable[["list[str]", str], "list[str] | None"]
_set = dict.__setitem__
_noted = tuple.__new__  # makes a `Write` in half the time of its class


class Writer(Kept):
    """What a store is made of, and all that changes it."""

    tables: dict[str, Table]
    shapes: Mapping[str, Shape]
    by_uuid: dict[str, tuple[str, str]]
    reserved: dict[str, dict[str, None]]
    generation: int
    on_write: Callable[[Write], None]
    clock: VirtualClock
    _near: Mapping[tuple[str, str], tuple[str, str]]
    _far: set[tuple[str, str]]
    _bulk: bool

    # --- the three ways to change it

    def create(self, name: str, ref: str, fields: Mapping[str, Any]) -> Row:
        """Add a row; fields left out get the release's default, fields the release does not know are left out. Raises
        `INTERNAL_ERROR` for a map with an empty key."""
        shape, table = self.shapes[name], self.tables[name]
        row = _made(shape, Row(name, ref, shape.created), fields)
        uuid = row.get("uuid", "")
        self._assert_new(table, ref, uuid)
        if self.journal.entries is None:
            if uuid:
                _set(self.by_uuid, uuid, (name, ref))
            _set(table.rows, ref, row)
            counts = self.__dict__  # past `__setattr__`: this is done for each row of a pool that is made
            row.created = row.modified = generation = counts["generation"]
            counts["generation"] = generation + 1
            table.recent.append((generation, ref))
            if len(table.recent) > 2 * len(table.rows) + STALE:
                table.shorten(self.journal)
        else:
            if uuid:
                self.by_uuid[uuid] = (name, ref)
            table.rows[ref] = row
            row.created = generation = self.next_generation()
            self._stamp(row, generation)
        if not self._bulk:
            self.on_write(_noted(Write, ("create", name, ref, "", None, row, self.clock.moment)))
            for field in shape.near:
                value = row[field]
                if value and value != NULL:
                    self._join(row, field, (value,) if type(value) is str else value, _with)
        return row

    def write(self, row: Row, **fields: Any) -> None:
        """Set fields of a row; a value that stays as it is changes nothing, and one that the release does not know is passed
        over. Raises `HANDLE_INVALID` for a row that was deleted, `INTERNAL_ERROR` for a map with an empty key."""
        name, ref = row.table, row.ref
        table = self.tables.get(name)
        if table is None or table.rows.get(ref) is not row:
            raise Failure(["HANDLE_INVALID", name, ref])
        linked, entries = self.shapes[name].linked, self.journal.entries
        for field, value in fields.items():
            old = row.get(field, MISSING)
            if (old == value and type(old) is type(value)) or old is MISSING:
                continue
            if type(value) not in PLAIN:
                value = fitting(value)
                if value == old and type(value) is type(old):
                    continue
            near = False
            if field in linked:
                near = self._link(row, field, old, value)
            if row.foreign:
                self._keep(row)
                column = self.shapes[name].fields[field].column
                row.foreign = {c: text for c, text in row.foreign.items() if c != column} or NOTHING
            counts = self.__dict__  # past `__setattr__`: this is done for each write
            generation = counts["generation"]
            if entries is not None:
                entries.append((_unwrite, (counts, table, row, field, old, row.modified, generation)))
            _set(row, field, value)
            row.modified = generation
            counts["generation"] = generation + 1
            table.recent.append((generation, ref))
            if self._bulk:
                continue
            write = _noted(Write, ("write", name, ref, field, old, value, self.clock.moment))
            if near:
                gone, come = _difference(old, value)
                self._join(row, field, gone, _without)
                self.on_write(write)
                self._join(row, field, come, _with)
            else:
                self.on_write(write)
        if entries is None and len(table.recent) > 2 * len(table.rows) + STALE:
            table.shorten(self.journal)

    def delete(self, row: Row) -> None:
        """Remove a row; the computed ends of its relations forget it. References to it stay, as in xapi."""
        name, ref, table, entries = row.table, row.ref, self.tables[row.table], self.journal.entries
        if ref not in table.rows:
            return
        uuid, reserved = row.get("uuid", ""), row.get("scheduled_to_be_resident_on", NULL)
        if table.told:
            table.doubt(row)
        if len(table.deleted) >= REMEMBERED_DELETIONS - 1:
            table.deleted = table.deleted[-REMEMBERED_DELETIONS // 2 :]
        gone = (row.created, self.next_generation(), ref)
        if entries is None:
            dict.pop(table.rows, ref)
            dict.pop(self.by_uuid, uuid, None)
            list.append(table.deleted, gone)
        else:
            del table.rows[ref]
            entries.append((table.doubt, (row,)))
            self.by_uuid.pop(uuid, None)
            table.deleted.append(gone)
        if reserved != NULL:
            self._reserve(row, reserved, NULL)
        self.on_write(_noted(Write, ("delete", name, ref, "", row, None, self.clock.moment)))
        for field in self.shapes[name].near:
            value = row[field]
            if value and value != NULL:
                self._join(row, field, (value,) if type(value) is str else value, _without)

    def touch(self, row: Row) -> int:
        """Stamp a row as changed without changing it; returns the generation of the stamp."""
        generation = self.next_generation()
        self.next_generation()
        self._stamp(row, generation)
        self.on_write(Write("write", row.table, row.ref, at=self.clock.moment))
        return generation

    # --- stamps

    def next_generation(self) -> int:
        """The generation that the change at hand is stamped with."""
        counts, entries = self.__dict__, self.journal.entries  # past `__setattr__`: this is done for each write
        generation: int = counts["generation"]
        if entries is not None:
            entries.append((counts.__setitem__, ("generation", generation)))
        counts["generation"] = generation + 1
        return generation

    def _stamp(self, row: Row, generation: int) -> None:
        if row.modified == generation:
            return
        entries, table = self.journal.entries, self.tables[row.table]
        recent = table.recent
        if entries is not None:
            entries.append((_unstamp, (table, row, row.modified)))
        row.modified = generation
        recent.append((generation, row.ref))
        if entries is None and len(recent) > 2 * len(table.rows) + STALE:
            table.shorten(self.journal)

    def _put(self, row: Row, field: str, value: Any) -> None:
        if self.journal.entries is not None:
            self.journal.entries.append((_set, (row, field, row[field])))
        _set(row, field, value)

    def _keep(self, row: Row) -> None:
        """Note all of a row, before more is changed in it than fields."""
        doubt = self.tables[row.table].doubt
        doubt(row)
        if self.journal.entries is not None:
            now = (dict(row), (row.created, row.modified), row.foreign, row.spelled)
            self.journal.entries += ((row.become, now), (doubt, (row,)))

    # --- indexes

    def _claim(self, row: Row) -> None:
        """Enter a new row's uuid. Raises for one that is there already."""
        uuid = row.get("uuid", "")
        self._assert_new(self.tables[row.table], row.ref, uuid)
        if uuid:
            self.by_uuid[uuid] = (row.table, row.ref)

    def _assert_new(self, table: Table, ref: str, uuid: str) -> None:
        """Raise for a reference or uuid that is there already: they are unique in the whole database."""
        if ref in table.rows or (uuid and uuid in self.by_uuid):
            text = f"duplicate objects in database: tbl='{table.name}'; object_ref='{ref}'; uuid='{uuid}'"
            raise Failure(["INTERNAL_ERROR", text])

    def _link(self, row: Row, field: str, old: str, new: str) -> bool:
        """Have a row found by what it is to hold, and say whether the field is the near end of a relation."""
        if (row.table, field) in self._far:
            raise ValueError(f"{row.table}.{field} follows from the other end of its relation and is never written")
        if field == "uuid":
            self.by_uuid.pop(old, None)
            self.by_uuid[new] = (row.table, row.ref)
        elif field in INDEXED:
            self._reserve(row, old, new)
        return (row.table, field) in self._near

    def _reserve(self, row: Row, old: str, new: str) -> None:
        self.reserved.get(old, {}).pop(row.ref, None)
        if new != NULL:
            self.reserved.setdefault(new, {})[row.ref] = None

    # --- relations

    def _join(self, row: Row, field: str, refs: Iterable[str], change: Change) -> None:
        """Change the other ends of a relation, with the stamp of the change that they follow from."""
        other_table, other_field = self._near[row.table, field]
        table, entries = self.tables.get(other_table), self.journal.entries
        if table is None:
            return
        for ref in refs:
            other = table.rows.get(ref)
            if other is not None and other_field in other:
                before = other[other_field]
                members = change(before, row.ref)
                if members is None:
                    continue
                if entries is not None:
                    entries.append((_set, (other, other_field, before)))
                _set(other, other_field, members)
                self._stamp(other, self.__dict__["generation"] - 1)
                self.on_write(
                    _noted(Write, ("write", other_table, ref, other_field, before, members, self.clock.moment))
                )


def _made(shape: Shape, row: Row, fields: Mapping[str, Any]) -> Row:
    """A row of defaults with the values of a new one."""
    if not shape.given.issuperset(fields):
        fields = {field: value for field, value in fields.items() if field in shape.given}
    dict.update(row, fields)
    for field, value in [(field, value) for field, value in fields.items() if type(value) not in SIMPLE]:
        _set(row, field, apart(fitting(value)))
    return row


def _unwrite(
    counts: dict[str, Any], table: Table, row: Row, field: str, value: Any, modified: int, generation: int
) -> None:
    """Take back the newest write, which set `field` of `row`."""
    _unstamp(table, row, modified)
    _set(row, field, value)
    counts["generation"] = generation


def _unstamp(table: Table, row: Row, modified: int) -> None:
    if table.told:
        table.doubt(row)
    row.modified = modified
    table.recent.pop()


def _difference(old: Any, new: Any) -> tuple[Iterable[str], Iterable[str]]:
    if type(old) is str and type(new) is str:
        return (old,), (new,)
    before = old if isinstance(old, list) else [old]
    after = new if isinstance(new, list) else [new]
    return [r for r in before if r not in after], [r for r in after if r not in before]


def _without(members: list[str], ref: str) -> list[str] | None:
    """Members without one; None where it was not there, since the near end led here before this row was."""
    rest = members.copy()
    try:
        rest.remove(ref)
    except ValueError:
        return None
    return rest


def _with(members: list[str], ref: str) -> list[str] | None:
    """Members with one more, which was not there before: the near end did not lead here."""
    return [ref, *members]
