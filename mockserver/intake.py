"""How a table of a dump becomes rows of the store: column by column, since many cells of a column hold the same text."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from itertools import repeat
from typing import TYPE_CHECKING, Any

from xenctl import database
from xenctl.datamodel import types as t
from xenctl.errors import DatabaseError

from .columns import NULL, from_text, to_text
from .rows import Row

if TYPE_CHECKING:
    from .rows import Shape

DECISIVE = frozenset({"pool", "host", "VM", "VBD", "VDI", "SR", "PBD", "VIF", "PIF", "network"})
"""Tables on which the fate of guests depends: a cell that does not fit its type is an error there. Elsewhere it is kept as
it is, reported, and read as the field's default."""
UNKNOWN = ("", None, False)
NOWHERE = frozenset({NULL, ""})
"""References to nothing."""


class Reader(dict[str, Any]):
    """What a column's texts mean: each is read when it is asked for first. Those that do not fit its type are in `misfits`
    with what is wrong, and read as `default`; those that are not what would be written of their values are `unusual`."""

    def __init__(self, kind: t.Type, default: Any) -> None:
        super().__init__()
        self.kind, self.default = kind, default
        self.misfits: dict[str, str] = {}
        self.unusual: set[str] = set()

    def __missing__(self, text: str) -> Any:
        try:
            value = from_text(self.kind, text)
        except ValueError as error:
            self.misfits[text], value = str(error), self.default
        else:
            if to_text(value) != text:
                self.unusual.add(text)
        self[text] = value
        return value

    def read(self, texts: Sequence[str]) -> Iterable[Any]:
        """The values of `texts`."""
        if texts.count(texts[0]) == len(texts):
            return repeat(self[texts[0]], len(texts))
        return list(map(self.__getitem__, texts))

    def odd(self, texts: Iterable[str]) -> bool:
        """Whether there is more to say of any of `texts` than its value."""
        return any(not found.isdisjoint(texts) for found in (self.unusual, self.misfits.keys()) if found)


class Intake:
    """Takes in the rows of the table `name` for a release with `shape`. `unknown` and `misfits` count, by column, the cells
    that are kept as they are; `orders` has by field, of those that follow from others, the dump's texts by reference."""

    def __init__(self, name: str, shape: Shape) -> None:
        self.name, self.shape = name, shape
        self.unknown: dict[str, int] = {}
        self.misfits: dict[str, int] = {}
        self.orders: dict[str, dict[str, str]] = {field: {} for field in shape.far}
        self.targets: dict[str, set[str]] = {}
        self._readers: dict[str, Reader] = {}

    def rows(self, block: database.Block, generation: int) -> list[Row]:
        """The rows of a block. Raises `DatabaseError` for a cell on which much depends and that does not fit its type."""
        columns, strange, odd = dict[str, Iterable[Any]](), [], []
        for column, texts in block.columns.items():
            field, kind, plain = self.shape.reading.get(column, UNKNOWN)
            if plain and kind is not None:
                columns[field] = texts
                if isinstance(kind, t.Ref):
                    self.targets.setdefault(field, set()).update(texts)
            elif kind is not None:
                reader = self._reader(column, field, kind)
                columns[field] = reader.read(texts)
                if reader.odd(texts):
                    odd.append(column)
            elif field in self.orders:
                self.orders[field].update(zip(block.refs, texts, strict=True))
            elif not field and column != "_ref":
                strange.append(column)
        for field, default in self.shape.defaults.items():
            if field not in columns:
                columns[field] = repeat(self.shape.empty.get(field, default), len(block.refs))
        fields = tuple(self.shape.defaults)
        values = zip(*[columns[field] for field in fields], strict=True)
        rows = [
            Row(self.name, ref, zip(fields, found, strict=True), generation)
            for ref, found in zip(block.refs, values, strict=True)
        ]
        for column in (*strange, *odd):
            for row, text in zip(rows, block.columns[column], strict=True):
                self._keep(row, column, text)
        return rows

    def fill(self, row: Row, cells: Mapping[str, str]) -> None:
        """Put more of a dump's texts into a row. Raises `DatabaseError` as `rows` does."""
        for column, text in cells.items():
            field, kind, plain = self.shape.reading.get(column, UNKNOWN)
            if kind is not None:
                (value,) = (text,) if plain else self._reader(column, field, kind).read((text,))
                dict.__setitem__(row, field, value)
            self._keep(row, column, text)

    def leads(self, field: str) -> bool:
        """Whether a field that refers to something may lead anywhere."""
        return not self.targets.get(field, {field}) <= NOWHERE

    def _reader(self, column: str, field: str, kind: t.Type) -> Reader:
        reader = self._readers.get(column)
        if reader is None:
            reader = self._readers[column] = Reader(kind, self.shape.defaults[field])
        return reader

    def _keep(self, row: Row, column: str, text: str) -> None:
        """Remember a text that says more than the value which the row has of it."""
        field, _, _ = self.shape.reading.get(column, UNKNOWN)
        reader = self._readers.get(column)
        if not field and column != "_ref":
            row.foreign = {**row.foreign, column: text}
            self.unknown[column] = self.unknown.get(column, 0) + 1
        elif reader is not None and text in reader.misfits:
            if self.name in DECISIVE:
                reason = f"not a {reader.kind}: {reader.misfits[text]}; take the dump again, or mend this cell"
                raise DatabaseError(reason, table=self.name, row=row.ref, column=column)
            row.foreign = {**row.foreign, column: text}
            self.misfits[column] = self.misfits.get(column, 0) + 1
        elif reader is not None and text in reader.unusual:
            row.spelled = {**row.spelled, field: (row[field], text)}


def in_order(members: list[str], text: str | None) -> list[str]:
    """`members` in the order of a set in a dump's cell, if it has the same."""
    if text is None or text == to_text(members):
        return members
    if text == to_text(members[::-1]):  # the newest first, as usual
        return members[::-1]
    try:
        order = database.parse_set(text)
    except ValueError:
        return members
    return order if sorted(order) == sorted(members) else members
