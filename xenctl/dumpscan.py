"""The fast way to read a dump: one of the regular shape in which xapi writes it, cut at its quotes.

In well-formed XML no attribute holds `<` or the quote around it, so rows fall apart into names and texts by splitting alone.
Rows that follow each other mostly have the same names: then every so many pieces there is a text of the same column.
Anything else (white space between tags, other quotes, comments, entities beyond xapi's own, control characters), be it valid
or not, is not this module's business: it raises `IrregularError`, and the caller parses. Tests hold both to the same result.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from itertools import groupby
from operator import itemgetter

_START = re.compile(
    r'(?:<\?xml version="1\.0" encoding="UTF-8"\?>\n?)?<database><manifest>((?:<pair [^<>]*/>)*)</manifest>'
)
_PAIR = re.compile(r'<pair key="([^"<]*)" value="([^"<]*)"/>')
_END = b"</database>"
_NAME = re.compile(r" ([A-Za-z_][A-Za-z0-9_.-]*)=")
_MANIFEST = b"</manifest>"
_TABLE = b"<table "
_NAMED = re.compile(rb'<table name="([^"<]*)"(/>|><row )')
_LAST = b"/></table>"
_NEXT = b"/><row "
_HEAD = "ref="
_LATER = "/><row ref="
_CONTROL = re.compile("[\x00-\x1f\x7f-\x9f\ufffe\uffff]")
_ENTITIES = (("&lt;", "<"), ("&gt;", ">"), ("&quot;", '"'), ("&amp;", "&"))
AT_ONCE = 1 << 15
"""About as many characters are cut at once: more would not stay in the processor's cache, fewer take more steps."""
ROWS = 128
"""A run of about as many rows is told at once: the texts of more would not stay there either."""


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


def manifest(data: bytes) -> tuple[list[tuple[str, str]], int]:
    """The pairs of a dump's manifest, and where its tables begin. Raises `IrregularError`."""
    begin = data.find(_MANIFEST) + len(_MANIFEST)
    start = _START.fullmatch(data[:begin].decode())
    if start is None or not data.endswith(_END):
        raise IrregularError
    pairs = _PAIR.findall(start[1])
    if "".join(f'<pair key="{key}" value="{value}"/>' for key, value in pairs) != start[1] or _CONTROL.search(start[1]):
        raise IrregularError
    return [(mended(key), mended(value)) for key, value in pairs], begin


def tables(data: bytes, begin: int) -> Iterator[tuple[str, int, int]]:
    """Each table's name, and where its rows begin and end, for `blocks`. Raises `IrregularError`."""
    end = len(data) - len(_END)
    while begin < end:
        following = data.find(_TABLE, begin + 1, end)
        following = following if following >= 0 else end
        start = _NAMED.match(data, begin, following)
        name = start[1].decode() if start is not None else "\0"
        if start is None or _CONTROL.search(name):
            raise IrregularError
        empty = start[2] == b"/>"
        if start.end() < following if empty else not data.endswith(_LAST, start.end(), following):
            raise IrregularError
        yield mended(name), start.end(), following if empty else following - len(_LAST)
        begin = following


def blocks(data: bytes, begin: int, end: int) -> Iterator[tuple[tuple[str, ...], list[list[str]]]]:
    """Runs of some rows whose attributes have the same names: the names, `ref` first, and for each the texts, as they stand
    between their quotes; `texts` looks into them. Raises `IrregularError`, and `ValueError` for what is no text."""
    layout: tuple[str, ...] = ()
    columns: list[list[str]] = []
    for next_layout, cut in _runs(data, begin, end):
        if next_layout == layout and len(columns[0]) < ROWS:
            for column, more in zip(columns, cut, strict=True):
                column += more
        else:
            if layout:
                yield _names(layout), columns
            layout, columns = next_layout, cut
    if layout:
        yield _names(layout), columns


def texts(column: list[str], unprotect: Callable[[str], str] | None = None) -> list[str]:
    """The texts of a column, with entities replaced, and escapes of white space by `unprotect`. Raises `IrregularError`.

    What has to be replaced is looked for in all of them at once, joined by what no text has in it: quotes, until an entity
    may have become one.
    """
    if column.count(column[0]) == len(column) > 1:
        return texts(column[:1], unprotect) * len(column)
    joint, raw = '"', '"'.join(column)
    if not raw.isprintable() and _CONTROL.search(raw):
        raise IrregularError
    if "&" in raw:
        joint, raw = "\0", mended(raw.replace('"', "\0"))
    elif unprotect is None or "%" not in raw:
        return column
    return (unprotect(raw) if unprotect is not None else raw).split(joint)


def _runs(data: bytes, begin: int, end: int) -> Iterator[tuple[tuple[str, ...], list[list[str]]]]:
    """The same for a few rows at a time, with what stands before each text instead of the names."""
    while begin < end:
        following = data.find(_NEXT, begin + AT_ONCE, end)
        piece = data[begin : following if following >= 0 else end].decode()
        begin = following + len(_NEXT) if following >= 0 else end
        parts = piece.split('"')
        last, between, found = parts.pop(), parts[::2], parts[1::2]
        if last or len(between) != len(found) or between[0] != _HEAD:
            raise IrregularError
        between[0] = _LATER
        many = piece.count("<") + 1
        width = len(between) // many
        layout = '"'.join(between[:width])
        if '"'.join(between) == '"'.join([layout] * many):
            yield tuple(between[:width]), [_shared(found[place::width]) for place in range(width)]
            continue
        if between.count(_LATER) != many:
            raise IrregularError
        begins = [place for place, text in enumerate(between) if text == _LATER]
        ranges = [slice(*row) for row in zip(begins, [*begins[1:], None], strict=True)]
        layouts = [tuple(between[row]) for row in ranges]
        for names, run in groupby(zip(layouts, ranges, strict=True), itemgetter(0)):
            yield names, list(map(list, zip(*[found[row] for _, row in run], strict=True)))


def _shared(texts: list[str]) -> list[str]:
    """`texts`; where they are all the same, as the same object, which is less to keep and quicker to look up."""
    first = texts[0]
    return [first] * len(texts) if texts.count(first) == len(texts) else texts


def _names(layout: tuple[str, ...]) -> tuple[str, ...]:
    _, *rest = layout
    found = [_NAME.fullmatch(text) for text in rest]
    names = ("ref", *(match[1] for match in found if match is not None))
    if len(set(names)) != len(layout):
        raise IrregularError
    return names
