"""How long things take, with jitter: each time a little more or less, the same for the same seed."""

from __future__ import annotations

import random
from collections.abc import Iterable
from dataclasses import fields
from difflib import get_close_matches
from typing import Any, cast

from .journal import Kept
from .machine.host import Durations

VARYING = frozenset(
    "firmware os_boot os_shutdown installer_boot install first_boot storage_plug member_settle vm_create vm_boot "
    "vm_shutdown vm_destroy device patch volume scan copy_rate migrate_setup migrate_rate save_setup save_rate "
    "transfer_rate host_backup".split()
)
"""What jitter varies. The others are periods, delays and patience of xapi, which are what its settings say."""


class Jittered(Kept):
    """Stands in the place of `Durations` that have jitter: to read how long something takes is to draw it.

    It draws from a source of its own, so that references and uuids are those of a pool without jitter.
    """

    def __init__(self, said: Durations, seed: int) -> None:
        self.said = said
        self.source = random.Random(f"{seed} jitter")

    def __getattr__(self, name: str) -> Any:
        if name in ("said", "source") or name.startswith("__"):  # not there yet, while a copy is made
            raise AttributeError(name)
        value = getattr(self.said, name)
        return value * (1.0 + self.source.uniform(-self.said.jitter, self.said.jitter)) if name in VARYING else value

    def __repr__(self) -> str:
        return repr(self.said)


def durations_of(said: Durations, seed: int) -> Durations:
    """What a pool of `seed` asks how long things take, if `said` is what it was told."""
    return cast("Durations", Jittered(said, seed)) if said.jitter else said


def parse(texts: Iterable[str]) -> Durations:
    """Durations given as `name=number`. Raises `ValueError` for what there is not."""
    names = [field.name for field in fields(Durations)]
    found: dict[str, float] = {}
    for text in texts:
        name, _, number = text.partition("=")
        if name not in names:
            near = get_close_matches(name, names, n=1)
            meant = f" (is {near[0]} meant?)" if near else ""
            raise ValueError(f"nothing takes its time by the name of {name!r}{meant}; there are {', '.join(names)}")
        try:
            found[name] = float(number)
        except ValueError:
            raise ValueError(f"{name} is a number, not {number!r}") from None
    return Durations(**found)
