"""The fast way to read many records: `<Class>.get_all_records` in the one regular shape in which xapi writes it.

All records of one answer have the same fields in the same order, so the first one gives a pattern with one group a field,
and each further record is one match, which may only begin where the last one ended. A record then is its match: a field is
cut out of the bytes and converted when it is read (`WireRecord`), or all at once (`decode` with `lazy=False`). Text is taken
as Latin-1, one byte a character, and what is not ASCII is mended in the leaves.

Anything else, be it valid or not, is not this module's business: `decode` answers None, and the caller walks a tree. Tests
hold both to the same values on valid and on mutated bytes.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from functools import lru_cache
from typing import Any, NamedTuple

from .values import Timestamp

LEAST = 4096
"""Bytes below which a walk is as fast."""

FIRST = 1 << 18
"""Bytes among which the first record is looked for first."""

_STATUS = "<value><struct><member><name>Status</name><value>Success</value></member><member><name>Value</name>"
_HEAD = f'<?xml version="1.0"?><methodResponse><params><param>{_STATUS}<value><struct>'
_TAIL = "</struct></value></member></struct></value></param></params></methodResponse>"
_HEAD_BYTES, _TAIL_BYTES = _HEAD.encode(), _TAIL.encode()

_OPEN = re.compile(r"<member><name>([^<&]*)</name><value><struct>")
_CLOSE = "</struct></value></member>"
_KINDS = {
    "text": r"([^<]*)",
    "boolean": r"<boolean>([01])</boolean>",
    "double": r"<double>([0-9a-z.+-]*)</double>",
    "time": r"<dateTime\.iso8601>([0-9TZ:.+-]*)</dateTime\.iso8601>",
    "array": r"<array><data>((?:<value>[^<]*</value>)*)</data></array>",
    "struct": r"<struct>((?:<member><name>[^<]*</name><value>[^<]*</value></member>)*)</struct>",
}
"""What the value of a field may be, each with one group; nested collections are left to the walk."""
_FIELD = re.compile(
    rf"<member><name>([^<&]*)</name><value>(?:{'|'.join(f'(?P<{k}>{p})' for k, p in _KINDS.items())})</value></member>"
)
_items = re.compile(r"<value>([^<]*)</value>").findall
_pairs = re.compile(r"<member><name>([^<]*)</name><value>([^<]*)</value></member>").findall
_FORBIDDEN = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\ufffe\uffff]")


def _mended(text: str) -> str:
    """The text of a leaf, from its Latin-1 reading. Raises ValueError where it is no UTF-8 or no XML."""
    if not text.isprintable() or not text.isascii():
        text = text.replace("\r\n", "\n").replace("\r", "\n").encode("latin-1").decode()
        if _FORBIDDEN.search(text):
            raise ValueError("a character that XML cannot carry")
    if "&" in text:
        plain = text.replace("&lt;", "<").replace("&gt;", ">").replace("&quot;", '"')
        if plain.count("&") != plain.count("&amp;"):
            return _parsed(text)
        text = plain.replace("&amp;", "&")
    return text


def _parsed(text: str) -> str:
    """A leaf with other entities than xapi's four, mended but for these, by the parser."""
    from lxml import etree

    parser = etree.XMLParser(resolve_entities=False, no_network=True, load_dtd=False, encoding="utf-8")
    try:
        leaf = etree.fromstring(f"<value>{text}</value>".encode(), parser)
    except etree.XMLSyntaxError as error:
        raise ValueError(f"not XML: {error}") from None
    return leaf.text or ""


def _array(text: str) -> list[str]:
    return [_mended(item) for item in _items(text)] if text else []


def _struct(text: str) -> dict[str, str]:
    return {_mended(name): _mended(item) for name, item in _pairs(text)} if text else {}


def _array_of_plain(text: str) -> list[str]:
    return _items(text) if text else []


def _struct_of_plain(text: str) -> dict[str, str]:
    return dict(_pairs(text)) if text else {}


_READ: Mapping[str, Callable[[str], Any]] = {
    "text": _mended,
    "boolean": "1".__eq__,
    "double": float,
    "time": Timestamp,
    "array": _array,
    "struct": _struct,
}


class _Layout(NamedTuple):
    """The fields of a record: their names, what their values are, where each is, and the pattern of a record, for text and
    for bytes."""

    names: tuple[str, ...]
    kinds: tuple[str, ...]
    places: Mapping[str, tuple[int, Callable[[str], Any]]]
    text: re.Pattern[str]
    bytes: re.Pattern[bytes]


@lru_cache(maxsize=128)
def _layout(fields: tuple[tuple[str, str], ...]) -> _Layout:
    members = (f"<member><name>{re.escape(name)}</name><value>{_KINDS[kind]}</value></member>" for name, kind in fields)
    places = {name: (group, _READ[kind]) for group, (name, kind) in enumerate(fields, 2)}
    pattern = _OPEN.pattern + "".join(members) + re.escape(_CLOSE)
    names, kinds = tuple(name for name, _ in fields), tuple(kind for _, kind in fields)
    return _Layout(names, kinds, places, re.compile(pattern), re.compile(pattern.encode("latin-1")))


class WireRecord(Mapping[str, Any]):
    """One record as it was on the wire; a field is converted each time it is read. Raises ValueError for a bad scalar."""

    __slots__ = ("_match", "_places")

    def __init__(self, places: Mapping[str, tuple[int, Callable[[str], Any]]], match: re.Match[bytes]) -> None:
        self._places, self._match = places, match

    def __getitem__(self, name: str) -> Any:
        group, read = self._places[name]
        return read(self._match[group].decode("latin-1"))

    def __contains__(self, name: object) -> bool:
        return name in self._places

    def __iter__(self) -> Iterator[str]:
        return iter(self._places)

    def __len__(self) -> int:
        return len(self._places)

    def __repr__(self) -> str:
        return f"<WireRecord of {len(self)} fields>"


def decode(data: bytes, *, lazy: bool) -> dict[str, Any] | None:
    """The records of an answer to `get_all_records`, by reference; None for anything that is not quite that.

    With `lazy` each is a `WireRecord`, whose shape is checked and whose scalars are not; else a plain dict of plain values.
    """
    if len(data) < LEAST or not data.startswith(_HEAD_BYTES) or not data.endswith(_TAIL_BYTES):
        return None
    if b"]" in data and b"]]>" in data:  # one character is looked for much faster than three
        return None
    start, end = len(_HEAD), len(data) - len(_TAIL)
    layout = _first(data[: start + FIRST].decode("latin-1"), start) or _first(data.decode("latin-1"), start)
    if layout is None:
        return None
    try:
        out, at = _lazily(layout, data, start, end) if lazy else _eagerly(layout, data, start, end)
    except ValueError:
        return None
    return out if at == end and all(ref.isascii() and ref.isprintable() for ref in out) else None


def _lazily(layout: _Layout, data: bytes, start: int, end: int) -> tuple[dict[str, Any], int]:
    """Records that are cut out when they are read, and where the last one ends."""
    out: dict[str, Any] = {}
    at, places = start, layout.places
    for match in iter(layout.bytes.scanner(data, start, end).match, None):  # type: ignore[attr-defined]
        out[match[1].decode("latin-1")] = WireRecord(places, match)
        at = match.end()
    return out, at


def _eagerly(layout: _Layout, data: bytes, start: int, end: int) -> tuple[dict[str, Any], int]:
    """Records as plain dicts, and where the last one ends. Raises ValueError for a bad scalar."""
    out: dict[str, Any] = {}
    at, finish = start, _finisher(layout, ascii_only=data.isascii())
    for match in iter(layout.text.scanner(data.decode("latin-1"), start, end).match, None):  # type: ignore[attr-defined]
        out[match[1]] = finish(match.groups())
        at = match.end()
    return out, at


def _first(text: str, start: int) -> _Layout | None:
    """The layout of the record at `start`."""
    match = _OPEN.match(text, start)
    if match is None:
        return None
    fields: dict[str, str] = {}
    at = match.end()
    while field := _FIELD.match(text, at):
        if field[1] in fields or not (field[1].isascii() and field[1].isprintable()):
            return None
        fields[field[1]] = next(kind for kind in _KINDS if field[kind] is not None)
        at = field.end()
    return _layout(tuple(fields.items())) if fields and text.startswith(_CLOSE, at) else None


def _finisher(layout: _Layout, *, ascii_only: bool) -> Callable[[tuple[str, ...]], dict[str, Any]]:
    """What makes a plain dict of one record's groups."""
    names = layout.names

    def of(*kinds: str) -> list[str]:
        return [name for name, kind in zip(names, layout.kinds, strict=True) if kind in kinds]

    texts, booleans, doubles, times, arrays, structs = map(of, _KINDS)

    def finish(groups: tuple[str, ...]) -> dict[str, Any]:
        record: dict[str, Any] = dict(zip(names, groups[1:], strict=True))
        for name in texts:
            value = record[name]
            if "&" in value or not value.isprintable() or not (ascii_only or value.isascii()):
                record[name] = _mended(value)
        for name in booleans:
            record[name] = record[name] == "1"
        for name in doubles:
            record[name] = float(record[name])
        for name in times:
            record[name] = Timestamp(record[name])
        for name in arrays:
            value = record[name]
            plain = "&" not in value and value.isprintable() and (ascii_only or value.isascii())
            record[name] = _array_of_plain(value) if plain else _array(value)
        for name in structs:
            value = record[name]
            plain = "&" not in value and value.isprintable() and (ascii_only or value.isascii())
            record[name] = _struct_of_plain(value) if plain else _struct(value)
        return record

    return finish
