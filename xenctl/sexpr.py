"""S-expressions: the column text of sets, `('a' 'b')`, and of maps, `(('k' 'v'))`, in the pool database.

What xapi writes has one regular shape, which one regular expression checks and another takes apart. Anything else that
xapi would read (double quotes, more white space, comments) goes the plain way, token by token; tests hold both to the
same result. A `ValueError` says what is wrong at which character and does not quote the text, which may hold a secret.
Source of the grammar: xen-api's sExprLexer.mll and sExprParser.mly.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

_BODY = r"[^'\\]*(?:\\.[^'\\]*)*"
_ATOM = re.compile(f"'({_BODY})'", re.DOTALL)
_PAIR = rf"\('{_BODY}' '{_BODY}'\)"
_SET = re.compile(rf"\((?:'{_BODY}'(?: '{_BODY}')*)?\)", re.DOTALL)
_MAP = re.compile(rf"\((?:{_PAIR}(?: {_PAIR})*)?\)", re.DOTALL)
_BACKSLASH = re.compile(r"\\(.)", re.DOTALL)
_TOKEN = re.compile(rf"""[()]|'{_BODY}'|"[^"\\]*(?:\\.[^"\\]*)*"|[ \t\r\n]+|;[^\n]*(?:\n|\Z)""", re.DOTALL)
_WORD = re.compile(r"[^\" \t\r\n()]+")
_SET_TOKENS = re.compile(r"(?:\('*\)?)?")
_MAP_TOKENS = re.compile(r"(?:\((?:\(''\))*(?:\)|\('{0,2})?)?")


def parse_set(text: str) -> list[str]:
    """The items of a set; raises `ValueError` for anything else."""
    return _atoms(text) if _SET.fullmatch(text) else _plain_atoms(text, _SET_TOKENS)


def parse_map(text: str) -> dict[str, str]:
    """The pairs of a map, of a key that comes twice the last; raises `ValueError` for anything else."""
    atoms = _atoms(text) if _MAP.fullmatch(text) else _plain_atoms(text, _MAP_TOKENS)
    return dict(zip(atoms[::2], atoms[1::2], strict=True))


def write_set(items: Sequence[str]) -> str:
    """The column text of a set."""
    text = "' '".join(items)
    if items and "\\" not in text and text.count("'") == 2 * len(items) - 2:  # nothing has to be escaped
        return f"('{text}')"
    return f"({' '.join(map(_quoted, items))})"


def write_map(mapping: Mapping[str, str]) -> str:
    """The column text of a map; raises `ValueError` for an empty key, which xapi refuses."""
    if "" in mapping:
        raise ValueError("a map cannot have an empty key")
    text = " ".join([f"('{key}' '{value}')" for key, value in mapping.items()])
    if "\\" not in text and text.count("'") == 4 * len(mapping):
        return f"({text})"
    return f"({' '.join([f'({_quoted(key)} {_quoted(value)})' for key, value in mapping.items()])})"


def _quoted(text: str) -> str:
    return "'" + text.replace("\\", "\\\\").replace("'", "\\'") + "'"


def _atoms(text: str) -> list[str]:
    """The quoted texts in an expression of the one shape that xapi writes."""
    atoms: list[str] = _ATOM.findall(text)
    return [_BACKSLASH.sub(r"\1", atom) for atom in atoms] if "\\" in text else atoms


def _plain_atoms(text: str, shape: re.Pattern[str]) -> list[str]:
    """The quoted texts in an expression of any spelling; `shape` matches as many of its tokens as fit.

    As in xapi's lexer the longest token wins, so single-quoted texts that touch are one bare word, which is refused.
    """
    atoms: list[str] = []
    kinds, places, at = "", [], 0
    while at < len(text):
        token, word = _TOKEN.match(text, at), _WORD.match(text, at)
        if token is None or (word and word.end() > token.end()):
            raise ValueError(f"character {at + 1}: expected a quoted text or a parenthesis")
        kind = token[0][0].replace('"', "'")
        if kind in "()'":
            kinds += kind
            places.append(at + 1)
        if kind == "'":
            atoms.append(_BACKSLASH.sub(r"\1", token[0][1:-1]))
        at = token.end()
    fitting = shape.match(kinds)
    fits = fitting.end() if fitting else 0
    if fits < len(kinds):
        raise ValueError(f"character {places[fits]}: {kinds[fits]} does not belong here")
    if not kinds or kinds.count("(") != kinds.count(")"):
        raise ValueError(f"character {at + 1}: the text ends before its last parenthesis")
    return atoms
