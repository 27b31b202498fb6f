"""One journal of all that a pool's state goes through, so that it can be taken back: what a rollback is made of.

While there is a savepoint, every change appends to `Journal.entries` how to undo it: a function and its arguments. Taking
back is doing these in reverse, so it costs what changed, not what exists. While there is none, `entries` is None and a
change costs one look at that.

Nobody has to think of this when he changes something. An object whose state counts derives from `Kept`, and then

- setting or deleting an attribute of it is undone, unless its class lists the attribute in `UNKEPT` (wiring, no state);
- a dict, list, set or random source that is put into such an attribute becomes a `KeptDict`, `KeptList`, `KeptSet` or
  `KeptRandom`, and so do those in it: changes of these are undone too;
- whatever is put where it can be reached from a pool joins the pool's journal. What is not in reach needs none.

Two rules follow. What was put in is a copy: go on with what is there (`self.seen = {}`, then `self.seen[key] = 1`). And
containers within a tuple or a frozen object are not looked into: they must not change. Containers of other types are
refused. The rows of the store are the one exception, since they are many and written often: the store's one writer makes
the entries for them itself.

A dict's order is state as well, since what is first is found first. A key that is removed from the middle would come back
at the end; so the first such removal after a savepoint remembers the order of that dict, which costs its length.
"""

from __future__ import annotations

import gc
import random
from collections import Counter, OrderedDict, defaultdict, deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from functools import cache
from typing import Any, ClassVar, Generic, TypeVar

K = TypeVar("K")
V = TypeVar("V")

FIXED = frozenset({str, int, float, bool, bytes, tuple, frozenset, type(None)})
"""Types whose values never change. The most usual ones; the others are told by what they are not."""
MANY = 100_000
"""Objects that were made without the collector."""
FOREIGN = (defaultdict, OrderedDict, Counter, deque, bytearray)
"""Containers that cannot be kept."""

Undo = tuple[Callable[..., object], tuple[Any, ...]]


class Journal:
    """How to undo the changes since the oldest savepoint, in order; `mark` is the newest savepoint's own."""

    def __init__(self) -> None:
        self.entries: list[Undo] | None = None
        self.mark: object = None

    def undo(self, length: int) -> None:
        """Take back the changes after the first `length`."""
        entries = self.entries or []
        for function, args in reversed(entries[length:]):
            function(*args)
        del entries[length:]

    def adopt(self, value: Any) -> Any:
        """What is to be put in place of `value`: its kept form, in this journal. Raises `TypeError` for what has none."""
        kind = type(value)
        if kind in FIXED:
            return value
        maker = KEPT.get(kind)
        if maker is not None:
            return maker(self, value)
        joins: bool = _joins(kind)  # type: ignore[arg-type]
        if joins and value.journal is not self and self is not IDLE:  # what is in a pool stays there
            value.join(self)
        return value


IDLE = Journal()
"""The journal of what is not in any pool yet: it never has a savepoint."""


@contextmanager
def uncollected() -> Iterator[None]:
    """Without Python's cyclic garbage collector: while very many objects are made that all stay, it would look at each of
    them again and again. Afterwards very many count as old, so that not the next object has it look at them all; fewer are
    left to it, or it would never come to look for small pools that nobody has any more."""
    was = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was:
            many = gc.get_count()[0] > MANY
            if many and gc.get_freeze_count() == 0:  # else somebody wants what is frozen to stay so
                gc.freeze()
                gc.unfreeze()
            gc.enable()


class Kept:
    """An object whose attributes are state."""

    UNKEPT: ClassVar[frozenset[str]] = frozenset()
    """Attributes that are no state: how the object is wired to its surroundings."""
    journal: Journal = IDLE

    def __setattr__(self, name: str, value: Any) -> None:
        journal = self.journal
        if journal is not IDLE and name not in self.UNKEPT:  # what is set before is adopted with its object
            if type(value) not in FIXED:
                value = journal.adopt(value)
            if journal.entries is not None:
                self._note(journal.entries, name)
        object.__setattr__(self, name, value)

    def __delattr__(self, name: str) -> None:
        if self.journal.entries is not None and name not in self.UNKEPT:
            self._note(self.journal.entries, name)
        object.__delattr__(self, name)

    def _note(self, entries: list[Undo], name: str) -> None:
        fields = self.__dict__
        entries.append((fields.__setitem__, (name, fields[name])) if name in fields else (fields.pop, (name, None)))

    def join(self, journal: Journal) -> None:
        """Be part of a pool from now on, with all that this holds."""
        fields = self.__dict__
        fields["journal"] = journal
        for name, value in list(fields.items()):
            if type(value) not in FIXED and name not in self.UNKEPT and name != "journal":
                fields[name] = journal.adopt(value)


@cache
def _joins(kind: type) -> bool:
    """Whether values of a type join journals. Raises `TypeError` for containers that cannot be kept."""
    if issubclass(kind, (Kept, KeptDict, KeptList, KeptSet, KeptRandom)):
        return True
    if issubclass(kind, FOREIGN):
        raise TypeError(f"changes of a {kind.__name__} cannot be taken back; use a plain dict, list or set")
    return False


class KeptDict(dict[K, V], Generic[K, V]):
    """A dict in the journal."""

    __slots__ = ("_ordered", "journal")

    def __init__(self, journal: Journal = IDLE, items: Mapping[K, V] | None = None) -> None:
        super().__init__(items or ())
        self._ordered: object = None
        self.join(journal)

    def join(self, journal: Journal) -> None:
        self.journal = journal
        for key, value in self.items():
            if type(value) not in FIXED:
                super().__setitem__(key, journal.adopt(value))

    def __setitem__(self, key: K, value: V) -> None:
        journal = self.journal
        if type(value) not in FIXED:
            value = journal.adopt(value)
        if journal.entries is not None:
            if key in self:
                journal.entries.append((super().__setitem__, (key, self[key])))
            else:
                journal.entries.append((super().__delitem__, (key,)))
        super().__setitem__(key, value)

    def __delitem__(self, key: K) -> None:
        if self.journal.entries is not None and key in self:
            self._note_removal(self.journal.entries, key)
        super().__delitem__(key)

    def _note_removal(self, entries: list[Undo], key: K) -> None:
        if self._ordered is not self.journal.mark and next(reversed(self)) != key:
            entries.append((self._reorder, (list(self),)))
            self._ordered = self.journal.mark
        entries.append((super().__setitem__, (key, self[key])))

    def _reorder(self, keys: list[K]) -> None:
        items = dict(self)
        super().clear()
        super().update((key, items[key]) for key in keys)
        self._ordered = None

    def _refill(self, items: dict[K, V]) -> None:
        super().clear()
        super().update(items)

    def pop(self, key: K, *default: Any) -> Any:
        if self.journal.entries is not None and key in self:
            self._note_removal(self.journal.entries, key)
        return super().pop(key, *default)

    def popitem(self) -> tuple[K, V]:
        key, value = super().popitem()
        if self.journal.entries is not None:
            self.journal.entries.append((super().__setitem__, (key, value)))
        return key, value

    def setdefault(self, key: K, default: Any = None) -> Any:
        if key not in self:
            self[key] = default
        return self[key]

    def update(self, *others: Any, **more: Any) -> None:
        items = dict(*others, **more)
        if self.journal.entries is None and self._adopted(items):
            super().update(items)
        else:
            for key, value in items.items():
                self[key] = value

    def _adopted(self, items: dict[K, V]) -> bool:
        """Whether values can be put here as they are."""
        return FIXED.issuperset(map(type, items.values()))

    def __ior__(self, other: Any) -> KeptDict[K, V]:  # type: ignore[override,misc]
        self.update(other)
        return self

    def clear(self) -> None:
        if self.journal.entries is not None and self:
            self.journal.entries.append((self._refill, (dict(self),)))
        super().clear()


class KeptIndex(KeptDict[K, V]):
    """A dict in the journal whose order means nothing."""

    __slots__ = ()

    def _note_removal(self, entries: list[Undo], key: K) -> None:
        entries.append((dict.__setitem__, (self, key, self[key])))


class KeptRows(KeptDict[K, V]):
    """A dict in the journal whose values look after themselves."""

    __slots__ = ()

    def join(self, journal: Journal) -> None:
        self.journal = journal

    def _adopted(self, items: dict[K, V]) -> bool:
        return True

    def __setitem__(self, key: K, value: V) -> None:
        if self.journal.entries is not None:
            super().__setitem__(key, value)
        else:
            dict.__setitem__(self, key, value)


class KeptList(list[V], Generic[V]):
    """A list in the journal. What is appended is taken back at the cost of that; other changes keep the whole list."""

    __slots__ = ("journal",)

    def __init__(self, journal: Journal = IDLE, items: Iterable[V] = ()) -> None:
        super().__init__(items)
        self.join(journal)

    def join(self, journal: Journal) -> None:
        self.journal = journal
        for place, value in enumerate(self):
            if type(value) not in FIXED:
                super().__setitem__(place, journal.adopt(value))

    def append(self, value: V) -> None:
        journal = self.journal
        super().append(journal.adopt(value))
        if journal.entries is not None:
            journal.entries.append((super().pop, ()))

    def _note(self) -> None:
        if self.journal.entries is not None:
            self.journal.entries.append((super().__setitem__, (slice(None), list(self))))

    def extend(self, values: Iterable[V]) -> None:
        for value in values:
            self.append(value)

    def __iadd__(self, values: Iterable[V]) -> KeptList[V]:  # type: ignore[override,misc]
        self.extend(values)
        return self

    def insert(self, place: Any, value: V) -> None:
        self._note()
        super().insert(place, self.journal.adopt(value))

    def pop(self, place: Any = -1) -> V:
        self._note()
        return super().pop(place)

    def remove(self, value: V) -> None:
        self._note()
        super().remove(value)

    def clear(self) -> None:
        self._note()
        super().clear()

    def sort(self, **how: Any) -> None:
        self._note()
        super().sort(**how)

    def reverse(self) -> None:
        self._note()
        super().reverse()

    def __setitem__(self, place: Any, value: Any) -> None:
        adopt, entries = self.journal.adopt, self.journal.entries
        if isinstance(place, slice):
            self._note()
            super().__setitem__(place, [adopt(item) for item in value])
            return
        if entries is not None:
            entries.append((super().__setitem__, (place, self[place])))
        super().__setitem__(place, adopt(value))

    def __delitem__(self, place: Any) -> None:
        self._note()
        super().__delitem__(place)

    def __imul__(self, times: Any) -> KeptList[V]:  # type: ignore[misc]
        self[:] = list(self) * times
        return self


class KeptSet(set[V], Generic[V]):
    """A set in the journal. Its members are told apart by identity or value that does not change."""

    __slots__ = ("journal",)

    def __init__(self, journal: Journal = IDLE, items: Iterable[V] = ()) -> None:
        super().__init__(items)
        self.join(journal)

    def join(self, journal: Journal) -> None:
        self.journal = journal
        for value in self:
            journal.adopt(value)

    def add(self, value: V) -> None:
        if value not in self:
            if self.journal.entries is not None:
                self.journal.entries.append((super().discard, (value,)))
            super().add(self.journal.adopt(value))

    def discard(self, value: Any) -> None:
        if value in self:
            if self.journal.entries is not None:
                self.journal.entries.append((super().add, (value,)))
            super().discard(value)

    def remove(self, value: V) -> None:
        if value not in self:
            raise KeyError(value)
        self.discard(value)

    def pop(self) -> V:
        value = super().pop()
        if self.journal.entries is not None:
            self.journal.entries.append((super().add, (value,)))
        return value

    def _become(self, values: set[V]) -> KeptSet[V]:
        for value in list(self - values):
            self.discard(value)
        for value in values:
            self.add(value)
        return self

    def update(self, *others: Iterable[V]) -> None:
        for value in set().union(*others):
            self.add(value)

    def clear(self) -> None:
        self._become(set())

    def difference_update(self, *others: Iterable[Any]) -> None:
        self._become(set(self).difference(*others))

    def intersection_update(self, *others: Iterable[Any]) -> None:
        self._become(set(self).intersection(*others))

    def symmetric_difference_update(self, other: Iterable[V]) -> None:
        self._become(set(self).symmetric_difference(other))

    def __ior__(self, other: Any) -> KeptSet[V]:  # type: ignore[override,misc]
        return self._become(set(self) | other)

    def __isub__(self, other: Any) -> KeptSet[V]:  # type: ignore[misc]
        return self._become(set(self) - other)

    def __iand__(self, other: Any) -> KeptSet[V]:  # type: ignore[misc]
        return self._become(set(self) & other)

    def __ixor__(self, other: Any) -> KeptSet[V]:  # type: ignore[override,misc]
        return self._become(set(self) ^ other)

    def copy(self) -> set[V]:
        return set(self)


_getrandbits = random.Random.getrandbits


class KeptRandom(random.Random):
    """A random source in the journal: the first draw after a savepoint remembers where it stood."""

    journal: Journal = IDLE
    _noted: object = None

    @classmethod
    def of(cls, journal: Journal, source: random.Random) -> KeptRandom:
        """The same numbers as `source` would give."""
        out = cls()
        out.setstate(source.getstate())
        out.join(journal)
        return out

    def join(self, journal: Journal) -> None:
        self.journal, self._noted = journal, None

    def _note(self) -> None:
        journal = self.journal
        if journal.entries is not None and self._noted is not journal.mark:
            journal.entries.append((self._back, (self.getstate(),)))
            self._noted = journal.mark

    def _back(self, state: Any) -> None:
        super().setstate(state)
        self._noted = None

    def random(self) -> float:
        self._note()
        return super().random()

    def getrandbits(self, k: int) -> int:
        if self.journal.entries is not None:
            self._note()
        return _getrandbits(self, k)

    def seed(self, a: Any = None, version: int = 2) -> None:
        self._note()
        super().seed(a, version)

    def setstate(self, state: Any) -> None:
        self._note()
        super().setstate(state)


KEPT: dict[type, Callable[[Journal, Any], Any]] = {
    dict: KeptDict,
    list: KeptList,
    set: KeptSet,
    random.Random: KeptRandom.of,
}
"""What a plain container becomes."""
