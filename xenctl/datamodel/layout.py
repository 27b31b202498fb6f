"""Python source text for the generator: brackets that break where a line gets too long, and docstrings.

The form is that of ruff (and black) with 120 columns, so that formatting the result changes nothing.
"""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, TypeAlias

WIDTH: Final = 120


@dataclass(frozen=True)
class Bracket:
    """Items in brackets, with what stands before the opening one: `list[int]` is `Bracket("list[", ["int"], "]")`."""

    before: str
    items: Sequence[Node]
    close: str

    def __str__(self) -> str:
        return f"{self.before}{', '.join(map(str, self.items))}{self.close}"


@dataclass(frozen=True)
class Tuple(Bracket):
    """A tuple; one of a single item has a comma."""

    before: str = "("
    items: Sequence[Node] = ()
    close: str = ")"

    def __str__(self) -> str:
        return f"({', '.join(map(str, self.items))}{',' if len(self.items) == 1 else ''})"


def tuple_of(*items: Node) -> Tuple:
    """The tuple of some items."""
    return Tuple(items=items)


Node: TypeAlias = "str | Bracket"


def lines(node: Node, indent: str, before: str = "", after: str = "") -> list[str]:
    """The lines of a node between `before` and `after`: one if it fits, else one for each item in the brackets."""
    flat = f"{indent}{before}{node}{after}"
    if len(flat) <= WIDTH or isinstance(node, str) or not node.items:
        return [flat]
    found = [f"{indent}{before}{node.before}"]
    for item in node.items:
        found += lines(item, indent + "    ", after=",")
    return [*found, f"{indent}{node.close}{after}"]


def docstring(indent: str, first: str, *paragraphs: str) -> list[str]:
    """A docstring: a first line, then paragraphs that are wrapped; empty ones are left out."""
    rest = [text for text in paragraphs if text]
    head = wrapped(indent, f'"""{first}', room=0 if rest else 3)
    if not rest and len(head) == 1:
        return [f'{head[0]}"""']
    found = head
    for text in rest:
        found += ["", *wrapped(indent, text)]
    return [*found, f'{indent}"""']


def wrapped(indent: str, text: str, room: int = 0) -> list[str]:
    """`text` in lines; `room` is what the last one must leave free."""
    return textwrap.wrap(
        text,
        WIDTH - room,
        initial_indent=indent,
        subsequent_indent=indent,
        break_long_words=False,
        break_on_hyphens=False,
    )
