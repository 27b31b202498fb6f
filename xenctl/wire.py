"""What XML-RPC and JSON-RPC share: which values go over the wire at all, how deep they nest, and what is no answer."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence, Set
from datetime import datetime
from typing import Any

from .values import format_datetime

MAX_DEPTH = 100
"""Deeper nesting than any XenAPI type has; a document that goes beyond is refused."""

CONTROL = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\ufffe\uffff\ud800-\udfff]")
"""The characters that XML cannot carry; JSON-RPC refuses them too, so that a call is good for both or for neither."""


class MalformedError(ValueError):
    """The bytes are not of their protocol; the text says where."""


class I4(int):
    """An int that goes as a number over both protocols, as xapi does for `valid_ref_counts` alone."""


class Encoded:
    """A map of records for an answer, each with its reference in the bytes of the answer's protocol already, in order."""

    __slots__ = ("members",)

    def __init__(self, members: list[bytes]) -> None:
        self.members = members


def no_controls(text: str) -> str:
    """`text` as it is. Raises `ValueError` for a character that cannot be carried, and does not repeat the text."""
    found = CONTROL.search(text)
    if found:
        raise ValueError(f"the text has a character that XML cannot carry: {found[0]!r} at {found.start()}")
    return text


def plain(value: Any) -> Any:
    """A value of a less usual type as one of the usual ones. Raises `TypeError` for what XenAPI has no form for."""
    if isinstance(value, str):
        return str(value)
    if isinstance(value, datetime):
        return format_datetime(value)
    if isinstance(value, int):
        return int(value)
    if isinstance(value, float):
        return float(value)
    if isinstance(value, Mapping):
        return dict(value)
    if isinstance(value, (Set, Sequence)) and not isinstance(value, (bytes, bytearray, memoryview)):
        return list(value)
    if value is None:
        raise TypeError("XenAPI has no form for None; a reference to nothing is xenctl.NULL")
    raise TypeError(f"XenAPI has no form for a {type(value).__name__}")


def member_name(name: Any) -> str:
    """A map's key as text."""
    if isinstance(name, (str, int)) and not isinstance(name, bool):
        return str(name)
    raise TypeError(f"a map's key is text or a whole number, not a {type(name).__name__}")


def misplaced(error: Exception, method: str, number: int) -> Exception:
    """What was raised while a call's parameter was written, as the error that names method and parameter."""
    kind = TypeError if isinstance(error, TypeError) else ValueError
    reason = "nested too deeply, or within itself" if isinstance(error, RecursionError) else error
    return kind(f"{method}, parameter {number}: {reason}")


_HTML = re.compile(rb"\s*<(?:!doctype\s+html|html)\b", re.IGNORECASE)


def no_page(data: bytes) -> None:
    """Raise `MalformedError` for the beginning of an HTML page."""
    if _HTML.match(data):
        raise MalformedError("an HTML page: this is not the port of a XenServer or XCP-ng host")
