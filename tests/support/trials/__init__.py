"""What the generated calls of `test_verbs_write` need to know, one module for each topic, each with any of the tables below.

- `HINTS`: good values for a parameter, by its name, or by message and name (`VM.set_memory.value`).
- `RECORD`: members of a constructor's record that types do not tell, by class.
- `PREPARED`: what is called, on whatever it can be called on, before a message is tried; `GONE` lets a host be lost.
- `NEWER`: what no release serves that is known; its own test makes one up.
- `ELSEWHERE`: what no arguments of the right types bring about; its own test does.
- `REFUSED`: verbs that xapi always refuses, though they mark what they were asked to do; and the error.
- `PROBED`: verbs without declared writes that no arguments of the right types have do anything, and the test that does, as
  `test_module.py::test_name`.
- `furnish(world)`: adds to the pool what the topic's verbs are about.
"""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module
from pkgutil import iter_modules
from typing import Any

GONE = "a host is gone"
TOPICS = [import_module(f"{__name__}.{module.name}") for module in iter_modules(__path__)]


def _merged(table: str) -> dict[str, Any]:
    return {key: value for topic in TOPICS for key, value in getattr(topic, table, {}).items()}


def _named(table: str) -> frozenset[str]:
    return frozenset(name for topic in TOPICS for name in getattr(topic, table, ()))


HINTS: dict[str, list[Any]] = _merged("HINTS")
RECORD: dict[str, dict[str, Any]] = _merged("RECORD")
PREPARED: dict[str, tuple[str, ...]] = _merged("PREPARED")
REFUSED: dict[str, str] = _merged("REFUSED")
PROBED: dict[str, str] = _merged("PROBED")
NEWER = _named("NEWER")
ELSEWHERE = _named("ELSEWHERE")
FURNISHERS: list[Callable[[Any], None]] = [topic.furnish for topic in TOPICS if hasattr(topic, "furnish")]
