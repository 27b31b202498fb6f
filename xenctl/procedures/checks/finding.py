"""What a check is and what it finds: data, so that it can be shown, stored with a plan, and compared."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ..plan import Step

if TYPE_CHECKING:
    from .survey import Situation

BLOCKS, WARNS = "blocks", "warns"
"""How bad a finding is: an upgrade is not begun, or it is only said."""
EITHER = "blocks or warns"
"""How bad a check's findings are where each says so itself."""


@dataclass(frozen=True)
class Finding:
    """Something that a check found. `kind`, `uuid` and `name` say where: the XenAPI class and the object; `why` is a whole
    sentence; `mend` says what a person can do. `steps` mend it and `unmend` take that back; both are empty where only a
    person can do it. `mended` says that the plan takes these steps, so that the finding does not stand against it."""

    check: str
    level: str
    kind: str
    uuid: str
    name: str
    why: str
    mend: str
    steps: tuple[Step, ...] = ()
    unmend: tuple[Step, ...] = ()
    mended: bool = False

    @property
    def stands(self) -> bool:
        """Whether it stands against the upgrade."""
        return self.level == BLOCKS and not self.mended

    @property
    def mendable(self) -> bool:
        """Whether steps can mend it."""
        return bool(self.steps)

    def as_dict(self) -> dict[str, Any]:
        """The finding as plain values."""
        steps = {name: [step.as_dict() for step in getattr(self, name)] for name in ("steps", "unmend")}
        return {**vars(self), **steps}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Finding:
        """The finding that `as_dict` gave, or `dataclasses.asdict`, also after a way through JSON."""
        steps = {name: tuple(Step(**step) for step in data[name]) for name in ("steps", "unmend")}
        return cls(**{**data, **steps})


@dataclass(frozen=True)
class Found:
    """What a check's function yields: where, and why in a sentence. `level` and `mend` are said where they are not the
    check's own."""

    kind: str
    uuid: str
    name: str
    why: str
    steps: tuple[Step, ...] = ()
    unmend: tuple[Step, ...] = ()
    level: str = ""
    mend: str = ""


@dataclass(frozen=True)
class Check:
    """One check: its name, how bad what it finds is, what it looks at, how to mend that, and the function that looks."""

    name: str
    level: str
    looks_at: str
    mend: str
    look: Callable[[Situation], Iterator[Found]]

    def findings(self, at: Situation) -> Iterator[Finding]:
        """What it finds."""
        for found in self.look(at):
            said = {**vars(found), "level": found.level or self.level, "mend": found.mend or self.mend}
            yield Finding(check=self.name, **said)

    def as_dict(self) -> dict[str, str]:
        """What the check is, as plain values."""
        return {"name": self.name, "level": self.level, "looks_at": self.looks_at, "mend": self.mend}
