"""The docs' table of clients: every row names a test that there is."""

from __future__ import annotations

import ast
import re
from functools import cache
from pathlib import Path

import pytest

TESTS = Path(__file__).parent
PAGE = TESTS.parent / "docs" / "clients.md"


def rows() -> list[list[str]]:
    """The cells of each row of the table, without its head."""
    lines = [line for line in PAGE.read_text(encoding="utf-8").splitlines() if line.startswith("|")]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines[2:]]


@cache
def names_in(path: Path) -> frozenset[str]:
    """The names of the tests in a file, those of classes too."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    names = {node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)}
    return frozenset(name for name in names if name.startswith("test_"))


@pytest.mark.parametrize("row", rows(), ids=lambda row: row[0])
def test_a_row_names_its_test(row: list[str]) -> None:
    """The last cell is a test's place, and there is a test of that name."""
    feature, *claims, place = row
    assert len(claims) == 3
    assert all([feature, *claims])
    match = re.fullmatch(r"`([\w/]+\.py)::(test_\w+)`", place)
    assert match, place
    assert match[2] in names_in(TESTS / match[1])


def test_no_feature_has_two_rows() -> None:
    """And the table is there at all."""
    features = [row[0] for row in rows()]
    assert len(features) == len(set(features)) > 30
