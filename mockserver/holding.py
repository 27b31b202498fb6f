"""What is held for the time of an operation: rows that show it, and whatever else is to be let go at its end.

These are entered and left in every call that changes something, so they are plain objects, which cost a fifth of what
generators do.
"""

from __future__ import annotations

from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Any

from xenctl.errors import Failure

if TYPE_CHECKING:
    from collections.abc import Callable

    from .call import Call
    from .store import Row, Store

BUSY = "OTHER_OPERATION_IN_PROGRESS"
IMPATIENT = frozenset({"call_plugin"})
"""Operations that are refused at once where something else goes on; others wait for its end."""


class Occupied(Failure):
    """What is to be held is held by another operation, until it is `over`."""

    def __init__(self, error: Failure, over: Callable[[], bool]) -> None:
        super().__init__(error.details)
        self.over = over


def assert_free(call: Call, row: Row, name: str, refused: Callable[[Store, Row, str], Failure | None]) -> None:
    """Raise what forbids operation `name` on `row`, as `refused` says; that another one goes on as `Occupied`."""
    db, error = call.db, refused(call.db, row, name)
    if error is None:
        return
    if error.code != BUSY or name in IMPATIENT:
        raise error

    def over() -> bool:
        try:
            found = refused(db, row, name) if db.find(row.table, row.ref) is row else None
        except Failure:  # what it belongs to is gone
            return True
        return found is None or found.code != BUSY

    raise Occupied(error, over)


class Marked:
    """An operation that a call shows on a row while a `with` block lasts; what is allowed meanwhile follows from that."""

    __slots__ = ("_mark", "_name", "_row", "_store")

    def __init__(self, call: Call, row: Row, name: str) -> None:
        self._store: Store = call.db
        self._row, self._mark, self._name = row, call.task or call.dummy(), name

    def __enter__(self) -> None:
        row = self._row
        self._store.write(row, current_operations={**row["current_operations"], self._mark: self._name})

    def __exit__(self, *_: object) -> None:
        store, row, rest = self._store, self._row, self._row["current_operations"].copy()
        if store.tables[row.table].rows.get(row.ref) is row and rest.pop(self._mark, None) is not None:
            store.write(row, current_operations=rest)


class Holding:
    """Several things that are held while a `with` block lasts, and let go in reverse order, each of them whatever becomes
    of the others."""

    __slots__ = ("_ends",)

    def __init__(self) -> None:
        self._ends: list[tuple[Callable[..., object], tuple[Any, ...]]] = []

    def __enter__(self) -> Holding:
        return self

    def __exit__(self, *_: object) -> None:
        ends = self._ends
        while ends:
            function, args = ends.pop()
            try:
                function(*args)
            except BaseException:
                self.__exit__()
                raise

    def hold(self, what: AbstractContextManager[None]) -> None:
        """Enter a context that swallows no errors, to be left at the end."""
        what.__enter__()
        self._ends.append((what.__exit__, (None, None, None)))

    def at_end(self, function: Callable[..., object], *args: Any) -> None:
        """Have something done at the end."""
        self._ends.append((function, args))
