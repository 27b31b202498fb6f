"""The types of the data model, as values: what a field holds, what a parameter takes, what a message returns.

Types are spelled as xapi's published data model spells them, postfix: `VM ref`, `enum vm_operations set`,
`(string -> enum vm_operations) map`, `sr_stat record option`. `parse` reads that spelling and `str` writes it. Types
compare by content, and equal spellings give one and the same object.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from typing import Final, TypeAlias

SCALARS: Final = ("string", "int", "float", "bool", "datetime", "void", "any")


@dataclass(frozen=True)
class Scalar:
    """A plain value; `name` is one of `SCALARS`. `void` is no result, `any` a value of unknown type."""

    name: str

    def __str__(self) -> str:
        return self.name


@dataclass(frozen=True)
class Enum:
    """Text out of a list that the data model gives under `name`."""

    name: str

    def __str__(self) -> str:
        return f"enum {self.name}"


@dataclass(frozen=True)
class Ref:
    """A reference to an object of a class."""

    class_name: str

    def __str__(self) -> str:
        return f"{self.class_name} ref"


@dataclass(frozen=True)
class Set:
    """An ordered collection; xapi calls it a set."""

    item: Type

    def __str__(self) -> str:
        return f"{self.item} set"


@dataclass(frozen=True)
class Map:
    """A map; on the wire its keys are text."""

    key: Type
    item: Type

    def __str__(self) -> str:
        return f"({self.key} -> {self.item}) map"


@dataclass(frozen=True)
class Record:
    """All fields of an object of a class. The class `<class>` stands for whichever class an event is about."""

    class_name: str

    def __str__(self) -> str:
        return _SPECIAL_SPELLINGS.get(self.class_name) or f"{self.class_name} record"


@dataclass(frozen=True)
class Option:
    """A value that may be absent."""

    item: Type

    def __str__(self) -> str:
        return f"{self.item} option"


Type: TypeAlias = "Scalar | Enum | Ref | Set | Map | Record | Option"

EVENT_BATCH: Final = Record("event_batch")
"""What `event.from` returns; a record of no class."""

_SPECIAL_SPELLINGS: Final = {EVENT_BATCH.class_name: "an event batch"}
_TOKEN: Final = re.compile(r"->|[()]|[^\s()]+")


@cache
def parse(text: str) -> Type:
    """The type that `text` spells; `ValueError` if it spells none."""
    if text in _SPECIAL_SPELLINGS.values():
        return EVENT_BATCH
    tokens = _TOKEN.findall(text)
    position = 0

    def take(*expected: str) -> str:
        nonlocal position
        token = tokens[position] if position < len(tokens) else ""
        if not token or (expected and token not in expected):
            wanted = f"expected {' or '.join(expected)}, " if expected else ""
            raise ValueError(f"not a type of the data model: {text!r} ({wanted}got {token or 'the end'!r})")
        position += 1
        return token

    def term() -> Type:
        nonlocal position
        result: Type
        token = take()
        if token == "(":
            key = term()
            take("->")
            item = term()
            take(")")
            take("map")
            result = Map(key, item)
        elif token == "enum":
            result = Enum(take())
        elif token in SCALARS:
            result = Scalar(token)
        else:
            result = Ref(token) if take("ref", "record") == "ref" else Record(token)
        while position < len(tokens) and tokens[position] in ("set", "option"):
            result = Set(result) if take() == "set" else Option(result)
        return result

    parsed = term()
    if position != len(tokens):
        raise ValueError(f"not a type of the data model: {text!r} (nothing may follow {' '.join(tokens[:position])!r})")
    return parsed


def classes_in(type_: Type) -> Iterator[str]:
    """The names of the classes that a type refers to, by reference or by record."""
    if isinstance(type_, (Ref, Record)):
        yield type_.class_name
    elif isinstance(type_, (Set, Option)):
        yield from classes_in(type_.item)
    elif isinstance(type_, Map):
        yield from classes_in(type_.key)
        yield from classes_in(type_.item)


def enums_in(type_: Type) -> Iterator[str]:
    """The names of the enums that a type contains."""
    if isinstance(type_, Enum):
        yield type_.name
    elif isinstance(type_, (Set, Option)):
        yield from enums_in(type_.item)
    elif isinstance(type_, Map):
        yield from enums_in(type_.key)
        yield from enums_in(type_.item)
