"""Values: references, dates, lazy records, and the converters from the wire that generated code names.

On the *wire* (XML-RPC or JSON-RPC, already decoded) a value is a `str`, `bool`, `int`, `float`, `list` or `dict`, and an
int may be a string of digits; in *Python* it is what the annotations say. Converters go from the wire to Python;
encoders need no table, since each Python type has one wire form. A `ValueError` of a converter says what was expected;
whoever knows the host and the method adds those.

A record keeps its wire form. A field is converted when it is read and then cached in the instance's `__dict__`, where
Python finds it before it asks the descriptor again.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Set
from datetime import datetime, timedelta, timezone
from functools import lru_cache
from importlib import import_module
from typing import TYPE_CHECKING, Any, ClassVar, Generic, NoReturn, TypeVar, Union, cast, overload

T = TypeVar("T")
F = TypeVar("F", bound=Callable[..., Any])
Converter = Callable[[Any], T]

if TYPE_CHECKING:

    class Ref(str, Generic[T]):
        """A reference to an object of class `T`, such as `OpaqueRef:…`. At run time a plain `str`."""

    Many = Union[list[T], tuple[T, ...], Set[T]]
else:

    class Ref:
        """A reference to an object of a class, such as `OpaqueRef:…`. At run time a plain `str`."""

        def __new__(cls, text):
            return str(text)

        def __class_getitem__(cls, item):
            return cls

    Many = Union[list, tuple, Set]

NULL: Ref[Any] = Ref("OpaqueRef:NULL")
"""The reference to nothing."""

EPOCH = datetime(1970, 1, 1, tzinfo=timezone.utc)
"""The date that stands for never."""


class Timestamp(str):
    """A date and time as text in XenAPI's form, `20260131T23:59:59Z`, told from other text by its type."""

    __slots__ = ()


_TIME = re.compile(
    r"(\d{4})-?(\d\d)-?(\d\d)[T ](\d\d):(\d\d):(\d\d)(?:\.(\d{1,6})\d*)?(?:(Z)|([+-])(\d\d):?(\d\d))?\Z", re.ASCII
)


def parse_datetime(text: str) -> datetime:
    """The aware `datetime` of `20260131T23:59:59Z` or of RFC 3339; no zone means UTC, as it does to xapi."""
    match = _TIME.match(text)
    if match is None:
        raise ValueError(f"not a date and time: {text!r}")
    year, month, day, hour, minute, second, fraction, _, sign, zone_hour, zone_minute = match.groups()
    zone = timezone.utc
    if sign and (zone_hour, zone_minute) != ("00", "00"):
        offset = timedelta(hours=int(zone_hour), minutes=int(zone_minute))
        zone = timezone(-offset if sign == "-" else offset)
    micro = int((fraction or "0").ljust(6, "0"))
    return datetime(int(year), int(month), int(day), int(hour), int(minute), int(second), micro, zone)


def format_datetime(moment: datetime) -> Timestamp:
    """`moment` in XenAPI's form; without a zone it is taken as UTC, and other zones are converted to it."""
    if moment.tzinfo is not None:
        moment = moment.astimezone(timezone.utc)
    return Timestamp(f"{moment.year:04}{moment:%m%dT%H:%M:%SZ}")


# Converters from the wire. Each takes one decoded wire value and raises ValueError where the shape is wrong.

_WHOLE = re.compile(r"[+-]?[0-9]{1,40}\Z")


def _shown(value: Any) -> str:
    """A value for an error, cut short."""
    text = repr(value)
    return text if len(text) <= 100 else f"{text[:100]}…"


def to_string(value: Any) -> str:
    """Text."""
    if isinstance(value, str):
        return value
    raise ValueError(f"expected text, got {_shown(value)}")


def to_int(value: Any) -> int:
    """A whole number; XML-RPC carries it as digits without a tag."""
    if type(value) is int:
        return value
    if isinstance(value, str) and _WHOLE.match(value):
        return int(value)
    raise ValueError(f"expected a whole number, got {_shown(value)}")


def to_float(value: Any) -> float:
    """A floating point number, `inf` and `nan` included."""
    if type(value) is float:
        return value
    if isinstance(value, (str, int)) and not isinstance(value, bool):
        try:
            if "_" not in (text := str(value)) and text.isascii():
                return float(text)
        except ValueError:
            pass
    raise ValueError(f"expected a number, got {_shown(value)}")


def to_bool(value: Any) -> bool:
    """True or false; only a real boolean will do."""
    if value is True or value is False:
        return bool(value)
    raise ValueError(f"expected a boolean, got {_shown(value)}")


def to_datetime(value: Any) -> datetime:
    """An aware date and time."""
    return parse_datetime(to_string(value))


def to_void(value: Any) -> None:
    """Nothing: a call whose result carries no information."""


def to_any(value: Any) -> Any:
    """The wire value as it is, for messages that the data model does not know.

    A whole number is text of digits: XML-RPC cannot tell one from the other, and JSON-RPC is to give the same.
    """
    kind = type(value)
    if kind is list:
        return [to_any(item) for item in value]
    if kind is dict:
        return {name: to_any(item) for name, item in value.items()}
    return str(int(value)) if isinstance(value, int) and kind is not bool else value


def to_strings(value: Any) -> list[str]:
    """A set of text (references and enums included), order preserved: the shape is checked, nothing is converted."""
    if type(value) is list and all(isinstance(item, str) for item in value):
        return list(value)
    raise ValueError(f"expected an array of text, got {_shown(value)}")


def to_string_map(value: Any) -> dict[str, str]:
    """A map from text to text."""
    if type(value) is dict and all(isinstance(item, str) for item in value.values()):
        return dict(value)
    raise ValueError(f"expected a struct of text, got {_shown(value)}")


to_ref: Converter[Any] = to_string
"""A reference: text, of the type that whoever names this converter says."""

to_enum: Converter[Any] = to_string
"""One of an enum: text likewise. Values that the data model does not list pass through."""

to_refs: Converter[list[Any]] = to_strings
"""A set of references."""

to_enums: Converter[list[Any]] = to_strings
"""A set of an enum's values."""


def _kept(make: F) -> F:
    """`make` with its results kept: each converter is made once."""
    kept: Any = lru_cache(maxsize=None)(make)
    return cast("F", kept)


@_kept
def to_list(item: Converter[T]) -> Converter[list[T]]:
    """The converter of a set whose members are converted with `item`."""

    def convert(value: Any) -> list[T]:
        if type(value) is not list:
            raise ValueError(f"expected an array, got {_shown(value)}")
        return [item(member) for member in value]

    return convert


@_kept
def to_map(key: Converter[Any], item: Converter[T]) -> Converter[dict[Any, T]]:
    """The converter of a map; wire keys are always text."""

    def convert(value: Any) -> dict[Any, T]:
        if type(value) is not dict:
            raise ValueError(f"expected a struct, got {_shown(value)}")
        return {key(name): item(member) for name, member in value.items()}

    return convert


@_kept
def to_record(class_name: str, module: str = "") -> Converter[Any]:
    """The converter to a lazy record of a class; its module is loaded with the first record.

    `module` names the module of `xenctl.api` where it is not called after the class.
    """
    kind: list[type[Record]] = []

    def convert(value: Any) -> Record:
        if type(value) is not dict and not isinstance(value, Mapping):
            raise ValueError(f"expected a record of {class_name}, got {_shown(value)}")
        if not kind:
            kind.append(getattr(import_module(f"xenctl.api.{module or class_name}"), class_name))
        return kind[0](value)

    return convert


@_kept
def to_option(item: Converter[T]) -> Converter[T | None]:
    """The converter of a value that may be absent."""

    def convert(value: Any) -> T | None:
        return None if value is None else item(value)

    return convert


class Field(Generic[T]):
    """One field of a record: typed for the checker, converted on first use."""

    __slots__ = ("convert", "name")

    def __init__(self, convert: Converter[T]) -> None:
        self.convert = convert
        self.name = ""

    def __set_name__(self, owner: type[Record], name: str) -> None:
        self.name = name
        if "_fields" not in owner.__dict__:
            owner._fields = dict(owner._fields)
        owner._fields[name.removesuffix("_")] = self

    @overload
    def __get__(self, record: None, owner: type[Record]) -> Field[T]: ...
    @overload
    def __get__(self, record: Record, owner: type[Record]) -> T: ...
    def __get__(self, record: Record | None, owner: type[Record]) -> Field[T] | T:
        if record is None:
            return self
        value: T = record._read(self.name)
        return value

    if TYPE_CHECKING:  # at run time a field has no setter, or Python would not look into the instance first

        def __set__(self, record: Record, value: NoReturn) -> None: ...


class Record(Mapping[str, Any]):
    """One object's fields as the server sent them; a mapping from field name to value, and typed attributes.

    A field is converted when it is read. Reading one whose text does not fit its type raises `ValueError` naming class,
    object and field; one that the host did not send (it is of an older release) raises `AttributeError` as an attribute
    and `KeyError` as an item. A field that the data model does not know is there as an item, unconverted. `dict(record)`
    converts everything at once. Records compare by content, and do not change.
    """

    _class_name: ClassVar[str] = ""
    _fields: ClassVar[dict[str, Field[Any]]] = {}
    _wire: dict[str, Any]

    def __init__(self, wire: Mapping[str, Any]) -> None:
        self.__dict__["_wire"] = wire

    def _read(self, attribute: str) -> Any:
        name = attribute.removesuffix("_")
        try:
            value = self._convert(name)
        except KeyError:
            raise AttributeError(
                f"the host sent no field {name!r} with this {self._class_name} record: its release does not have it",
                name=attribute,
                obj=self,
            ) from None
        self.__dict__[attribute] = value
        return value

    def _convert(self, name: str) -> Any:
        field = self._fields.get(name)
        try:
            wire = self._wire[name]
            return to_any(wire) if field is None else field.convert(wire)
        except ValueError as error:
            identity = self._wire.get("uuid") or "?"
            raise ValueError(f"{self._class_name} {identity}: field {name}: {error}") from None

    def __getitem__(self, name: str) -> Any:
        return self._convert(name)

    def __contains__(self, name: object) -> bool:
        return name in self._wire

    def __iter__(self) -> Iterator[str]:
        return iter(self._wire)

    def __len__(self) -> int:
        return len(self._wire)

    def __setattr__(self, name: str, value: object) -> None:
        raise AttributeError(f"a record is a picture of the server's object and cannot be changed: use set_{name}")

    def __delattr__(self, name: str) -> None:
        raise AttributeError(f"a record is a picture of the server's object: {name} cannot be deleted")

    def __repr__(self) -> str:
        label = self._wire.get("name_label") or self._wire.get("uuid") or ""
        return f"<{self._class_name} {label!r}>"

    def __eq__(self, other: object) -> bool:
        if isinstance(other, Record):
            return self._class_name == other._class_name and (
                dict(self._wire) == dict(other._wire) or self._means_the_same(other)
            )
        return NotImplemented

    def _means_the_same(self, other: Record) -> bool:
        """Whether the fields are equal once they are converted: two protocols write a number differently."""
        try:
            return self._wire.keys() == other._wire.keys() and all(self[name] == other[name] for name in self._wire)
        except ValueError:
            return False

    __hash__ = None  # type: ignore[assignment]

    def __reduce__(self) -> tuple[object, ...]:
        return type(self), (dict(self._wire),)
