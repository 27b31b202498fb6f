"""Tables of a dump and their rows. Many rows of a table have the same columns, so that it can be told by columns as well:
whoever reads or writes whole tables takes them as blocks, and is several times as fast as with one row after another.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import groupby
from typing import NamedTuple


@dataclass(slots=True)
class Row:
    """One object: its column texts by database name (`name__label`), in order.

    `ctime` and `mtime` are the generations in which it was created and last changed, None where the dump has none.
    """

    ref: str
    cells: dict[str, str] = field(default_factory=dict)
    ctime: int | None = None
    mtime: int | None = None


class Block(NamedTuple):
    """Rows that follow each other in a table and have the same columns: by column the texts, each list as long as `refs`.
    They are to be read; whoever wants to change something asks the table for its rows."""

    refs: Sequence[str]
    ctimes: Sequence[int | None]
    mtimes: Sequence[int | None]
    columns: Mapping[str, Sequence[str]]

    @classmethod
    def of(cls, columns: tuple[str, ...], refs: Sequence[str], rows: Sequence[Row]) -> Block:
        """The block of `rows`, which all have `columns`."""
        texts = zip(*[row.cells.values() for row in rows], strict=True)
        ctimes, mtimes = [row.ctime for row in rows], [row.mtime for row in rows]
        return cls(refs, ctimes, mtimes, dict(zip(columns, texts, strict=True)))

    def rows(self) -> Iterator[Row]:
        """The same row by row."""
        names = tuple(self.columns)
        texts = zip(*self.columns.values(), strict=True) if names else [()] * len(self.refs)
        for ref, ctime, mtime, found in zip(self.refs, self.ctimes, self.mtimes, texts, strict=True):
            yield Row(ref, dict(zip(names, found, strict=True)), ctime, mtime)


class Table:
    """One class: its rows by reference, in order. Of one made of blocks the rows are made when they are asked for first;
    from then on they are what counts."""

    __slots__ = ("_blocks", "_rows", "name")

    def __init__(self, name: str, rows: dict[str, Row] | None = None, *, blocks: Iterable[Block] = ()) -> None:
        self.name = name
        self._blocks = tuple(blocks)
        self._rows = {} if rows is None and not self._blocks else rows

    @property
    def rows(self) -> dict[str, Row]:
        """The rows, which may be changed, added and taken out."""
        blocks = self._blocks  # first, since another thread may be making rows of them
        if self._rows is None:
            self._rows = {row.ref: row for block in blocks for row in block.rows()}
            self._blocks = ()
        return self._rows

    @property
    def size(self) -> int:
        """How many rows there are."""
        return sum(len(block.refs) for block in self._blocks) if self._rows is None else len(self._rows)

    def blocks(self) -> Sequence[Block]:
        """The rows as blocks, in order; each under its key among the rows."""
        blocks = self._blocks
        if self._rows is None:
            return blocks
        runs = groupby(self._rows.items(), lambda item: tuple(item[1].cells))
        out = []
        for columns, run in runs:
            refs, rows = zip(*run, strict=True)
            out.append(Block.of(columns, refs, rows))
        return out

    def __eq__(self, other: object) -> bool:
        return (self.name, self.rows) == (other.name, other.rows) if isinstance(other, Table) else NotImplemented

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        return f"Table({self.name!r}, {self.rows!r})"
