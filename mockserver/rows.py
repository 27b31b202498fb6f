"""What a store is made of: rows, the tables that hold them, what a release knows of each, and what is noted of a change."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple

from .journal import Journal, Kept, KeptRows

if TYPE_CHECKING:
    from xenctl.datamodel import Field as ModelField
    from xenctl.datamodel import types as t

Encode = Callable[[str, Any], bytes]
"""What makes bytes of a reference and its record."""
NOTHING: Mapping[Any, Any] = MappingProxyType({})
"""What most rows have beside their fields."""
STALE = 64
"""Entries of the log of changes that may count for nothing, besides one for each row, before it is made anew."""


def _unwritable(self: Row, *_: Any, **__: Any) -> Any:
    raise TypeError(f"rows are changed by the store alone: pool.store.write(row, field=value), for this {self.table}")


class Row(dict[str, Any]):
    """One object's fields, to be read; `Store.write` changes them. `created` and `modified` are generations; `foreign` are
    columns that the release does not know; `spelled` holds, by field, a loaded value and its text where that is not how the
    value would be written."""

    __slots__ = ("created", "foreign", "modified", "ref", "spelled", "table")

    def __init__(
        self, table: str, ref: str, fields: dict[str, Any] | Iterable[tuple[str, Any]], generation: int = 0
    ) -> None:
        super().__init__(fields)
        self.table, self.ref = table, ref
        self.created = self.modified = generation
        self.foreign: Mapping[str, str] = NOTHING
        self.spelled: Mapping[str, tuple[Any, str]] = NOTHING

    __hash__ = object.__hash__  # type: ignore[assignment]

    __setitem__ = __delitem__ = __ior__ = update = setdefault = pop = popitem = clear = _unwritable

    def become(self, fields: dict[str, Any], stamps: tuple[int, int], foreign: Mapping[str, str], spelled: Any) -> None:
        """Be again what this row was."""
        dict.clear(self)
        dict.update(self, fields)
        self.created, self.modified = stamps
        self.foreign, self.spelled = foreign, spelled


class Write(NamedTuple):
    """One change: `kind` is `create`, `write` or `delete`; for a write `field`, `old` and `new` say what changed. `at` is
    when, in simulated seconds. The machine room notes its own under the table `machine`, the field being `state`."""

    kind: str
    table: str
    ref: str
    field: str = ""
    old: Any = None
    new: Any = None
    at: float = 0.0


class Told:
    """The records of a table as bytes for answers, by reference, references falling: as of the change `since`, but for
    those in `doubted`."""

    def __init__(self, refs: Iterable[str]) -> None:
        self.members: dict[str, bytes] = {}
        self.since = 0
        self.doubted = set(refs)


class Table(Kept):
    """The rows of one class. `recent` is a log of changes, each the generation and the reference, the newest last; one that
    is not its row's last change any more counts for nothing. `told` is no state: who takes rows back, or away, says so by
    `doubt`."""

    UNKEPT: ClassVar = frozenset({"recent", "told"})

    def __init__(self, name: str) -> None:
        self.name = name
        self.rows: dict[str, Row] = KeptRows()
        self.recent: list[tuple[int, str]] = []
        self.deleted: list[tuple[int, int, str]] = []
        self.told: dict[Encode, Told] = {}

    @property
    def latest(self) -> int:
        """The generation of the last change, 0 where there was none; deletions, which are told apart, are none."""
        return self.recent[-1][0] if self.recent else 0

    def doubt(self, row: Row) -> None:
        """A row is there no more, or is to be what it was: before its stamp is, since generations come again."""
        for told in self.told.values():
            told.doubted.add(row.ref)
            told.since = min(told.since, row.modified - 1)

    def encoded(self, encode: Encode, record: Callable[[Row], Any]) -> list[bytes]:
        """The records by `encode`, references falling. Only those that changed since they were asked for last are made
        anew."""
        told = self.told.get(encode)
        if told is None:
            told = self.told[encode] = Told(self.rows)
        members, stale = told.members, told.doubted
        for generation, ref in reversed(self.recent):
            if generation <= told.since:
                break
            stale.add(ref)
        if stale:
            many = len(members)
            for ref in stale:
                row = self.rows.get(ref)
                if row is not None:
                    members[ref] = encode(ref, record(row))
                elif members.pop(ref, None) is not None:
                    many -= 1
            if len(members) > many:
                told.members = members = dict(sorted(members.items(), reverse=True))
            told.since, told.doubted = self.latest, set()
        return list(members.values())

    def shorten(self, journal: Journal) -> None:
        """Make the log anew, of what counts. Not while there is a savepoint: a rollback would bring the long one back, and
        each write after it pay for this again."""
        self.relog(journal, sorted([(row.modified, ref) for ref, row in self.rows.items()]))

    def relog(self, journal: Journal, recent: list[tuple[int, str]]) -> None:
        """Have `recent` as the log from now on."""
        if journal.entries is not None:
            journal.entries.append((setattr, (self, "recent", self.recent)))
        self.recent = recent


@dataclass(frozen=True)
class Shape:
    """What a release knows of a class: fields in the order of records, hidden ones apart; by field what they hold in a
    database that lacked the column (`defaults`), in a row that is created (`created`), and after a start those that are not
    persistent (`empty`); by column their names; which are the near end of a relation, which the far end, and which are
    either or in an index (`linked`); which a new row can be given (`given`), all but far ends.

    For dumps: `reading` has by column the field, its type (None for what is not taken from a dump), and whether the text is
    the value; `writing` the columns in order, each with its field, those before and those after `_ref`.
    """

    visible: tuple[str, ...]
    fields: dict[str, ModelField]
    columns: dict[str, str]
    defaults: dict[str, Any]
    created: dict[str, Any]
    empty: dict[str, Any]
    near: tuple[str, ...]
    far: tuple[str, ...]
    linked: frozenset[str]
    given: frozenset[str]
    reading: dict[str, tuple[str, t.Type | None, bool]]
    writing: tuple[tuple[tuple[str, str], ...], ...]
