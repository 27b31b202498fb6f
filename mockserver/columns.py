"""Values of the store and their text in the columns of a dump: what each type of the data model looks like there."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from xenctl import database
from xenctl.datamodel import types as t
from xenctl.errors import Failure
from xenctl.values import Timestamp, parse_datetime

from .journal import FIXED

NULL = "OpaqueRef:NULL"
EMPTY_KEY = ["INTERNAL_ERROR", "Db_exn.Empty_key_in_map"]
"""The error for a map with an empty key: its text could not be read again."""
PLAIN = frozenset({str, bool, float, list, Timestamp})
"""Types of which every value can be kept as it is."""
SETS = frozenset({list, dict})
HALF = 1 << 63
EPOCH = Timestamp("19700101T00:00:00Z")

_EMPTY: dict[str, Any] = {"string": "", "int": 0, "float": 0.0, "bool": False, "datetime": EPOCH, "any": ""}


def empty_value(kind: t.Type, enums: dict[str, tuple[str, ...]] | Any = None) -> Any:
    """The value that a field which is not persistent has after a load."""
    if isinstance(kind, (t.Set, t.Option)):
        return []
    if isinstance(kind, t.Map):
        return {}
    if isinstance(kind, t.Ref):
        return NULL
    if isinstance(kind, t.Enum):
        return enums[kind.name][0] if enums and kind.name in enums else ""
    return _EMPTY.get(kind.name, "") if isinstance(kind, t.Scalar) else ""


def from_text(kind: t.Type, text: str) -> Any:
    """A column's text as a value. Raises ValueError."""
    if isinstance(kind, t.Scalar):
        if kind.name == "int":
            return int(text)
        if kind.name == "float":
            return float(text)
        if kind.name == "bool":
            if text not in ("true", "false"):
                raise ValueError(f"neither true nor false: {text!r}")
            return text == "true"
        if kind.name == "datetime":
            parse_datetime(text)
            return Timestamp(text)
        return text
    if isinstance(kind, (t.Set, t.Option)):
        members = database.parse_set(text) if text else []
        return members if is_text(kind.item) else [from_text(kind.item, member) for member in members]
    if isinstance(kind, t.Map):
        pairs = database.parse_map(text) if text else {}
        if is_text(kind.item):
            return pairs
        return {key: from_text(kind.item, item) for key, item in pairs.items()}
    return text


def is_text(kind: t.Type) -> bool:
    """Whether a column's text is the value as it stands."""
    return not isinstance(kind, (t.Set, t.Map, t.Option)) and kind not in _NOT_TEXT


_NOT_TEXT = {t.Scalar("int"), t.Scalar("float"), t.Scalar("bool"), t.Scalar("datetime")}


def to_text(value: Any) -> str:
    """A value as a column's text."""
    return value if type(value) is str else WRITERS[type(value)](value)


def to_texts(values: list[Any]) -> list[str]:
    """The values of a field in many rows, as the texts of its column."""
    kinds = set(map(type, values))
    if kinds <= {str}:
        return values
    if len(kinds) == 1:
        (kind,) = kinds
        write = WRITERS[kind]
        return [write(value) if value else "()" for value in values] if kind in SETS else list(map(write, values))
    return [to_text(value) for value in values]


def _of_list(value: list[Any]) -> str:
    return database.write_set([item if type(item) is str else to_text(item) for item in value]) if value else "()"


def _of_dict(value: dict[Any, Any]) -> str:
    return database.write_map({str(key): to_text(item) for key, item in value.items()}) if value else "()"


class _Writers(dict[type, Callable[[Any], str]]):
    def __missing__(self, kind: type) -> Callable[[Any], str]:
        return str


WRITERS = _Writers(
    {
        bool: {False: "false", True: "true"}.__getitem__,
        float: "{:.18g}".format,
        list: _of_list,
        dict: _of_dict,
    }
)
"""What makes a column's text of a value that is none, by its type."""


def apart(value: Any) -> Any:
    """`value`, or a copy of it all where it could be changed by whoever else has it."""
    if isinstance(value, dict):  # most of them are empty
        return {key: item if type(item) in FIXED else apart(item) for key, item in value.items()} if value else {}
    if isinstance(value, list):
        return [item if type(item) in FIXED else apart(item) for item in value] if value else []
    return value


def fitting(value: Any) -> Any:
    """A value as a database keeps it: whole numbers of 64 bits, which go round, and maps without an empty key."""
    if isinstance(value, dict) and "" in value:
        raise Failure(EMPTY_KEY)
    if type(value) is int and not -HALF <= value < HALF:
        return (value + HALF) % (2 * HALF) - HALF
    return value
