"""A row as one text, and back: how xapi keeps what a VM was like, at its boot or in its snapshots."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from xenctl.sexpr import parse_map, write_map

from .store import far_sides, from_text, to_text

if TYPE_CHECKING:
    from .store import Row, Store


def as_text(store: Store, row: Row) -> str:
    """All columns of a row, by their names in the database."""
    fields = store.shape(row.table).fields
    pairs = {fields[name].column: to_text(value) for name, value in row.items() if name in fields}
    return write_map({"_ref": row.ref, **pairs})


def from_record(store: Store, table: str, text: str) -> dict[str, Any]:
    """The fields that such a text gives to a row of `table`: those that the release knows and that do not follow from
    others. Raises `ValueError` for what is no such text."""
    shape, out = store.shape(table), {}
    for column, value in parse_map(text).items():
        name = shape.columns.get(column)
        if name is not None and (table, name) not in far_sides():
            out[name] = from_text(shape.fields[name].type, value)
    return out
