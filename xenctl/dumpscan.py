"""The fast way to read a dump: one of the regular shape in which xapi writes it, cut at its quotes.

In well-formed XML no attribute holds `<` or the quote around it, so a table falls apart into rows and a row into names and
texts by splitting alone. Rows with the same names share them. Anything else (white space between tags, other quotes,
comments, entities beyond xapi's own, control characters), be it valid or not, is not this module's business: `tables`
answers None, and the caller parses. Tests hold both to the same result.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

_START = re.compile(
    r'(?:<\?xml version="1\.0" encoding="UTF-8"\?>\n?)?<database><manifest>((?:<pair [^<>]*/>)*)</manifest>'
)
_PAIR = re.compile(r'<pair key="([^"<]*)" value="([^"<]*)"/>')
_END = "</database>"
_NAME = re.compile(r" ([A-Za-z_][A-Za-z0-9_.-]*)=")
_REF = "ref="
_CONTROL = re.compile("[\x00-\x1f\x7f-\x9f\ufffe\uffff]")
_ENTITIES = (("&lt;", "<"), ("&gt;", ">"), ("&quot;", '"'), ("&amp;", "&"))


class IrregularError(Exception):
    """The dump is not of the one regular shape."""


def mended(text: str) -> str:
    """A text, or several joined by NUL, with its entities replaced. Raises `IrregularError`."""
    if "&" in text:
        if text.count("&") != sum(text.count(entity) for entity, _ in _ENTITIES):
            raise IrregularError
        for entity, character in _ENTITIES:
            text = text.replace(entity, character)
    return text


def manifest(text: str) -> tuple[list[tuple[str, str]], int]:
    """The pairs of a dump's manifest, and where its tables begin. Raises `IrregularError`."""
    start = _START.match(text)
    if start is None or not text.endswith(_END):
        raise IrregularError
    pairs = _PAIR.findall(start[1])
    if "".join(f'<pair key="{key}" value="{value}"/>' for key, value in pairs) != start[1] or _CONTROL.search(start[1]):
        raise IrregularError
    return [(mended(key), mended(value)) for key, value in pairs], start.end()


def tables(text: str, begin: int) -> Iterator[tuple[str, list[str]]]:
    """Each table's name and its rows, uncut. Raises `IrregularError`."""
    first, *pieces = text[begin : -len(_END)].split('<table name="')
    if first:
        raise IrregularError
    for piece in pieces:
        name, quote, rest = piece.partition('"')
        if not quote or "<" in name or _CONTROL.search(name):
            raise IrregularError
        if rest == "/>":
            yield mended(name), []
            continue
        if not (rest.startswith("><row ") and rest.endswith("/></table>")):
            raise IrregularError
        rows = rest[6:-10].split("/><row ")
        if rest.count("<") != len(rows) + 1:
            raise IrregularError
        yield mended(name), rows


class Rows:
    """Cuts rows, and knows the names that it has seen."""

    def __init__(self) -> None:
        self._known: dict[tuple[str, ...], tuple[str, ...]] = {}

    def cut(self, row: str) -> tuple[tuple[str, ...], str]:
        """The names of a row's attributes, `ref` first, and their texts joined by NUL, entities replaced. Raises
        `IrregularError`."""
        parts = row.split('"')
        names = self._known.get(shape := tuple(parts[::2]))
        if names is None:
            names = self._known[shape] = _names(shape)
        raw = "\0".join(parts[1::2])
        if not row.isprintable() and _CONTROL.search(row):
            raise IrregularError
        return names, mended(raw) if "&" in raw else raw


def _names(shape: tuple[str, ...]) -> tuple[str, ...]:
    first, *rest, last = shape
    found = [_NAME.fullmatch(text) for text in rest]
    if first != _REF or last or not all(found):
        raise IrregularError
    names = ("ref", *(match[1] for match in found if match is not None))
    if len(set(names)) != len(names):
        raise IrregularError
    return names
