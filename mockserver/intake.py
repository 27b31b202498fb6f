"""How rows of a dump become rows of the store: many have the same columns, and many cells the same text."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import compress
from typing import TYPE_CHECKING, Any

from xenctl import database

from .columns import from_text, to_text

if TYPE_CHECKING:
    from xenctl.datamodel import types as t

    from .rows import Row, Shape

CHANGEABLE = frozenset({list, dict})
UNKNOWN = ("", None, False)
Known = defaultdict[str, dict[str, tuple[Any, bool]]]
"""By column and text, the value, and whether it is usually written so."""


@dataclass(frozen=True)
class Plan:
    """How rows of a dump that have the same columns, all known to the release, are taken in: which of their texts, as which
    fields, and what is made of those that are no text."""

    taken: tuple[bool, ...]
    names: tuple[str, ...]
    made: tuple[tuple[str, str, t.Type], ...]

    @classmethod
    def of(cls, shape: Shape, columns: tuple[str, ...]) -> Plan | None:
        """None where a column is not known."""
        found = [(column, *shape.reading.get(column, UNKNOWN)) for column in columns]
        if any(not name and column != "_ref" for column, name, _, _ in found):
            return None
        return cls(
            tuple(kind is not None for _, _, kind, _ in found),
            tuple(name for _, name, kind, _ in found if kind is not None),
            tuple((column, name, kind) for column, name, kind, plain in found if kind is not None and not plain),
        )

    def take_in(self, row: Row, cells: Mapping[str, str], known: Known) -> bool:
        """Fill `row`; False for a value that cannot be read, or is not spelled as usual: then what was done counts for
        nothing."""
        dict.update(row, zip(self.names, compress(cells.values(), self.taken), strict=True))
        for column, name, kind in self.made:
            text = row[name]
            found = known[column].get(text)
            if found is None:
                try:
                    value = from_text(kind, text)
                except ValueError:
                    value = None
                if value is None or to_text(value) != text:
                    return False
                found = known[column][text] = value, True
            elif not found[1]:
                return False
            value = found[0]
            dict.__setitem__(row, name, value.copy() if type(value) in CHANGEABLE else value)
        return True


def members_in(source: database.Table | None, ref: str, column: str) -> list[str]:
    """The members of a set in a dump's cell; none where there is none that can be read."""
    row = source.rows.get(ref) if source else None
    try:
        return database.parse_set(row.cells[column]) if row is not None and column in row.cells else []
    except ValueError:
        return []
