"""The arguments of a call: how many there must be, and wire values as the store keeps them.

Both are checked before anybody looks at the session, as in xapi; what does not fit is an `INTERNAL_ERROR` with the text
that xapi's own runtime gives.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Any

from xenctl import datamodel
from xenctl.datamodel import MISSING
from xenctl.datamodel import types as t
from xenctl.errors import Failure
from xenctl.values import Timestamp, parse_datetime

if TYPE_CHECKING:
    from xenctl.datamodel import Field, Message, Param
    from xenctl.releases import Release

    from .store import Shape

Shapes = Callable[[str], "Shape"]
"""What a host's release knows of a class, by its name."""

EXACT_ENUMS = ("event_operation", "bond_mode")
"""The enums whose case counts; that of the others does not."""
INT64 = range(-(1 << 63), 1 << 63)


def mismatch(text: str) -> Failure:
    """The error for a value that is not what it should be."""
    return Failure(["INTERNAL_ERROR", text])


@dataclass(frozen=True)
class Signature:
    """The parameters of a message on a host of one release: how many must be sent, those that the release knows (of which
    those that may be left off came one by one), and whether all are texts."""

    message: Message
    mandatory: int
    known: tuple[Param, ...]
    all_texts: bool

    @classmethod
    def of(cls, message: Message, release: Release) -> Signature:
        order = datamodel.load().order
        known = tuple(p for p in message.params if not p.optional or order(p.since) <= release.order)
        return cls(message, message.mandatory, known, all(_is_text(param.type) for param in message.params))

    def arguments(self, name: str, params: list[Any], shapes: Shapes) -> tuple[Any, ...]:
        """The arguments that the wire's `params` give to the message, called as `name`.

        Those left off have their defaults, those that the release does not know too. Surplus ones are passed over where any
        may be left off, and an error otherwise.
        """
        message, known = self.message, self.known
        values = params[1:] if message.session else params
        given = len(params) - (1 if message.session else 0)
        if given < self.mandatory or (given > self.mandatory and len(known) == self.mandatory):
            details = ["MESSAGE_PARAMETER_COUNT_MISMATCH", name, str(self.mandatory), str(given)]
            raise Failure(details)
        if message.session:
            _text(params[0])
        if self.all_texts and given == self.mandatory == len(known) == len(message.params):
            return tuple([value if type(value) is str else _text(value) for value in values])
        sent = {param.name: value for param, value in zip(known, values, strict=False)}
        return tuple(
            unmarshal(param.type, sent[param.name], shapes) if param.name in sent else param.default
            for param in message.params
        )


def _is_text(kind: t.Type) -> bool:
    """Whether the values of a type are texts, whatever they hold."""
    return isinstance(kind, t.Ref) or (isinstance(kind, t.Scalar) and kind.name == "string")


def unmarshal(kind: t.Type, value: Any, shapes: Shapes) -> Any:
    """A wire value as the store keeps it."""
    if isinstance(kind, t.Scalar):
        return _SCALARS[kind.name](value)
    if isinstance(kind, t.Ref):
        return _text(value)
    if isinstance(kind, t.Enum):
        return _enum(kind, value)
    if isinstance(kind, t.Set):
        if not isinstance(value, list):
            raise mismatch('Failure("Expected array")')
        return [unmarshal(kind.item, item, shapes) for item in value]
    if isinstance(kind, t.Map):
        if not isinstance(value, dict):
            raise mismatch('Failure("Expected struct")')
        return {
            str(unmarshal(kind.key, key, shapes)): unmarshal(kind.item, item, shapes) for key, item in value.items()
        }
    if isinstance(kind, t.Record):
        return _constructor(shapes(kind.class_name), value, shapes)
    return value


def _constructor(shape: Shape, value: Any, shapes: Shapes) -> dict[str, Any]:
    """The members of a constructor's record: unknown ones are passed over, those without a default must be there."""
    if not isinstance(value, dict):
        raise mismatch('Failure("Expected struct")')
    out = {}
    for name, field in shape.fields.items():
        if not field.in_constructor:
            continue
        if name in value:
            out[name] = unmarshal(field.type, value[name], shapes)
        elif _mandatory(field):
            raise mismatch(f'Server_helpers.Dispatcher_FieldNotFound("{name}")')
    return out


def _mandatory(field: Field) -> bool:
    return field.default is MISSING


def _text(value: Any) -> str:
    if isinstance(value, str):
        return str(value)
    raise mismatch(f"Failure(\"Expected string, got '{value}'\")")


def _int(value: Any) -> int:
    if isinstance(value, (int, str)) and not isinstance(value, bool):
        try:
            number = int(value)
        except ValueError:
            pass
        else:
            if number in INT64:
                return number
    raise mismatch(f"Failure(\"Expected int64, got '{value}'\")")


def _float(value: Any) -> float:
    if isinstance(value, (int, float, str)) and not isinstance(value, bool):
        try:
            return float(value)
        except ValueError:
            pass
    raise mismatch(f"Failure(\"Expected float, got '{value}'\")")


def _bool(value: Any) -> bool:
    if isinstance(value, bool):
        return value
    raise mismatch(f"Failure(\"Expected bool, got '{value}'\")")


def _datetime(value: Any) -> Timestamp:
    text = _text(value)
    try:
        parse_datetime(text)
    except ValueError:
        raise mismatch(f"Invalid argument: Date.of_iso8601: {text}") from None
    return Timestamp(text)


def _enum(kind: t.Enum, value: Any) -> str:
    spellings = _spellings(kind.name)
    text = _text(value)
    found = spellings.get(text if kind.name in EXACT_ENUMS else text.lower())
    if found is None:
        raise mismatch('Failure("Unknown tag/contents")')
    return found


@cache
def _spellings(enum: str) -> dict[str, str]:
    values = datamodel.load().enums[enum]
    return {value if enum in EXACT_ENUMS else value.lower(): value for value in values}


_SCALARS: dict[str, Callable[[Any], Any]] = {
    "string": _text,
    "int": _int,
    "float": _float,
    "bool": _bool,
    "datetime": _datetime,
    "any": lambda value: value,
    "void": lambda value: "",
}
