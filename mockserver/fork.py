"""A second pool that begins as the first one is, down to the next uuid; what is done to one does not touch the other.

The copy is made by walking over what can be reached from the pool. State is copied, and what holds it: objects, containers,
rows, timers with the functions they call. A function that closes over state is built anew over the copies. What never
changes is shared: values, the data model, releases, durations. The wiring to sockets is not taken over: the copy is not
served.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from functools import partial
from types import CellType, FunctionType, MethodType
from typing import TYPE_CHECKING, Any, cast

from .journal import FIXED, Journal, Kept, KeptDict, KeptIndex, KeptList, KeptRandom, KeptRows, KeptSet
from .store import Row
from .world import World

if TYPE_CHECKING:
    from .pool import MockPool

VALUES = FIXED - {tuple, frozenset}
"""Types that hold nothing which could change."""


def fork(pool: MockPool) -> MockPool:
    """A copy of `pool`, between two calls."""
    copier = _Copier(pool.journal)
    out = copier.copy(pool)
    out.world.wire()
    for old, new in copier.pools:
        new.wire()
        new.writes = [copier.copy(write) for write in old.writes]
    return cast("MockPool", out)


class _Copier:
    """Copies each thing once."""

    def __init__(self, journal: Journal) -> None:
        self._copies: dict[int, Any] = {id(journal): Journal()}
        self.pools: list[tuple[MockPool, MockPool]] = []

    def copy(self, thing: Any) -> Any:
        kind = type(thing)
        if kind in VALUES:
            return thing
        found = self._copies.get(id(thing))
        if found is not None:
            return found
        way = WAYS.get(kind)
        if way is not None:
            return way(self, thing)
        if hasattr(kind, "wire"):
            return self._unkept_apart(thing)
        if isinstance(thing, Kept) or (kind.__module__.startswith("mockserver.") and hasattr(thing, "__dict__")):
            return self._fields(thing, object.__new__(kind))
        if isinstance(thing, tuple) and hasattr(thing, "_make"):
            return thing._make(map(self.copy, thing))
        return thing

    def _unkept_apart(self, thing: MockPool | World) -> Any:
        """A copy of the state of a pool or its world, not yet wired."""
        out = type(thing).__new__(type(thing))
        vars(out)["journal"] = self.copy(thing.journal)
        self._copies[id(thing)] = out
        vars(out).update({n: self.copy(v) for n, v in vars(thing).items() if n not in thing.UNKEPT})
        if not isinstance(thing, World):
            self.pools.append((thing, cast("MockPool", out)))
        return out

    def _fields(self, thing: Any, out: Any) -> Any:
        self._copies[id(thing)] = out
        fields = vars(out)
        for name, value in vars(thing).items():
            fields[name] = self.copy(value)
        return out

    def dict_(self, thing: dict[Any, Any]) -> dict[Any, Any]:
        out: dict[Any, Any] = type(thing)()
        self._copies[id(thing)] = out
        if isinstance(out, KeptDict):
            out.journal = self.copy(thing.journal)  # type: ignore[attr-defined]
        for key, value in thing.items():
            dict.__setitem__(out, key, self.copy(value))
        return out

    def list_(self, thing: list[Any]) -> list[Any]:
        out: list[Any] = type(thing)()
        self._copies[id(thing)] = out
        if isinstance(out, KeptList):
            out.journal = self.copy(thing.journal)  # type: ignore[attr-defined]
        list.extend(out, map(self.copy, thing))
        return out

    def set_(self, thing: set[Any]) -> set[Any]:
        out: set[Any] = type(thing)()
        self._copies[id(thing)] = out
        if isinstance(out, KeptSet):
            out.journal = self.copy(thing.journal)  # type: ignore[attr-defined]
        set.update(out, map(self.copy, thing))
        return out

    def tuple_(self, thing: tuple[Any, ...]) -> tuple[Any, ...]:
        return tuple(map(self.copy, thing))

    def row(self, thing: Row) -> Row:
        out = self._copies[id(thing)] = Row(thing.table, thing.ref, thing)
        out.created, out.modified = thing.created, thing.modified
        out.foreign, out.spelled = thing.foreign, thing.spelled
        return out

    def random(self, thing: random.Random) -> random.Random:
        out = self._copies[id(thing)] = KeptRandom()
        out.setstate(thing.getstate())
        out.journal = self.copy(getattr(thing, "journal", None)) or out.journal
        return out

    def function(self, thing: FunctionType) -> FunctionType:
        if not thing.__closure__:
            return thing
        cells = tuple(CellType() for _ in thing.__closure__)
        out = FunctionType(thing.__code__, thing.__globals__, thing.__name__, None, cells)
        self._copies[id(thing)] = out
        out.__qualname__ = thing.__qualname__
        out.__defaults__, out.__kwdefaults__ = self.copy(thing.__defaults__), self.copy(thing.__kwdefaults__)
        for cell, old in zip(cells, thing.__closure__, strict=True):
            cell.cell_contents = self.copy(old.cell_contents)
        return out

    def method(self, thing: MethodType) -> MethodType:
        return MethodType(thing.__func__, self.copy(thing.__self__))

    def later(self, thing: partial[Any]) -> partial[Any]:
        return partial(self.copy(thing.func), *map(self.copy, thing.args), **self.copy(thing.keywords))


WAYS: dict[type, Callable[[_Copier, Any], Any]] = {
    **dict.fromkeys((dict, KeptDict, KeptIndex, KeptRows), _Copier.dict_),
    **dict.fromkeys((list, KeptList), _Copier.list_),
    **dict.fromkeys((set, KeptSet), _Copier.set_),
    **dict.fromkeys((random.Random, KeptRandom), _Copier.random),
    tuple: _Copier.tuple_,
    Row: _Copier.row,
    FunctionType: _Copier.function,
    MethodType: _Copier.method,
    partial: _Copier.later,
}
"""How each type is copied; objects that are `Kept` or of the fake's own classes by their fields, all else is shared."""
