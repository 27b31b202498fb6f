"""The docs' comparisons, of clients and of fakes: every row names a test that there is."""

from __future__ import annotations

import ast
import re
from functools import cache
from pathlib import Path

import pytest

TESTS = Path(__file__).parent
DOCS = TESTS.parent / "docs"
LEAST = {"clients.md": 30, "simulators.md": 25}
"""The pages, and how many rows each has at the least."""


def rows(page: str) -> list[tuple[list[str], list[str]]]:
    """Each row of a page's tables, with the head of its table: their cells."""
    lines = (DOCS / page).read_text(encoding="utf-8").splitlines()
    out, head = [], None
    for line in lines:
        if not line.startswith("|"):
            head = None
            continue
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        if head is None:
            head = cells
        elif set(line) != {"|", "-"}:
            out.append((head, cells))
    return out


@cache
def names_in(path: Path) -> frozenset[str]:
    """The names of the tests in a file, those of classes too."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    names = {node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)}
    return frozenset(name for name in names if name.startswith("test_"))


@pytest.mark.parametrize(
    ("head", "row"), [pytest.param(*found, id=f"{page} {found[1][0]}") for page in LEAST for found in rows(page)]
)
def test_a_row_names_its_test(head: list[str], row: list[str]) -> None:
    """The last cell is a test's place, and there is a test of that name; no cell is left out."""
    assert (head[0], head[-1]) == ("feature", "test")
    assert len(row) == len(head)
    assert all(row)
    match = re.fullmatch(r"`([\w/]+\.py)::(test_\w+)`", row[-1])
    assert match, row[-1]
    assert match[2] in names_in(TESTS / match[1])


@pytest.mark.parametrize("page", LEAST)
def test_no_feature_has_two_rows(page: str) -> None:
    """And the tables are there at all."""
    features = [row[0] for _, row in rows(page)]
    assert len(features) == len(set(features)) > LEAST[page]
