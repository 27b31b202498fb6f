"""What an invariant is, and what the kinds of them share."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from ..journal import Kept
from ..store import Row, Write

if TYPE_CHECKING:
    from ..pool import MockPool


@dataclass(frozen=True)
class Violation:
    """An invariant that was broken: when (simulated seconds since the epoch), after which call or event, and how."""

    invariant: str
    at: float
    cause: str
    text: str

    def as_dict(self) -> dict[str, object]:
        return dict(vars(self))


class Invariant(Kept):
    """Something that must hold. Subclasses say what they watch and find what is broken.

    `tables` are those whose writes it is handed; None stands for all of them, the machine room's `machine` included.
    """

    name: ClassVar[str]
    tables: ClassVar[frozenset[str] | None]

    @classmethod
    def described(cls) -> dict[str, str]:
        """Its name, and what must hold, as one sentence."""
        sentence, _, _ = (cls.__doc__ or "").partition("\n\n")
        return {"invariant": cls.name, "holds": " ".join(sentence.split())}

    def begin(self, pool: MockPool) -> None:
        """Remember what the pool is like before anything happens."""

    def concerned(self, writes: list[Write]) -> list[Write]:
        """Those of `writes` that are to be handed to it."""
        return writes if self.tables is None else [write for write in writes if write.table in self.tables]

    def inspect(self, pool: MockPool, writes: list[Write], cause: str) -> None:
        """Hold the writes of one call or event against what must hold."""
        self.report(pool, cause, self.broken(pool, writes))

    def broken(self, pool: MockPool, writes: list[Write]) -> Iterable[str]:
        """What the writes break, one sentence each."""
        return ()

    def broken_at_end(self, pool: MockPool) -> Iterable[str]:
        """What does not hold at the end, one sentence each."""
        return ()

    def report(self, pool: MockPool, cause: str, texts: Iterable[str]) -> None:
        """Note what is broken, each sentence once."""
        known = {(v.invariant, v.text) for v in pool.violations} if pool.violations else set()
        for text in texts:
            if (self.name, text) not in known:
                known.add((self.name, text))
                pool.violations.append(Violation(self.name, pool.clock.now(), cause, text))


def name_of(pool: MockPool, table: str, ref: str) -> str:
    """How a person calls an object, or its reference where it is gone."""
    row = pool.store.find(table, ref)
    return str(row["name_label"]) if row is not None else ref


def states(writes: list[Write]) -> list[Write]:
    """Those of `writes` that tell of a machine which came to another state; what else verbs tell of machines is left out."""
    return [write for write in writes if write.table == "machine" and write.field == "state"]


def touched(pool: MockPool, writes: list[Write], *fields: str) -> Iterator[Row]:
    """The rows of guests of which one of `fields` was written."""
    refs = dict.fromkeys(w.ref for w in writes if w.table == "VM" and (w.field in fields or w.kind == "create"))
    for ref in refs:
        row = pool.store.find("VM", ref)
        if row is not None and not row["is_control_domain"]:
            yield row
