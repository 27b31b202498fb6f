"""Tables of a dump, told by rows or by columns: the same content either way."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from xenctl.dumptables import Block, Row, Table

CELLS = st.dictionaries(st.sampled_from(["a", "b", "c"]), st.text(max_size=2))
ROWS = st.lists(st.builds(Row, st.just(""), CELLS, st.none() | st.integers(), st.none() | st.integers()), max_size=6)


def table_of(rows: list[Row]) -> Table:
    """A table of `rows`, with references by their places."""
    return Table("VM", {f"r{n}": Row(f"r{n}", row.cells, row.ctime, row.mtime) for n, row in enumerate(rows)})


@given(rows=ROWS)
def test_rows_become_blocks_and_blocks_rows(rows: list[Row]) -> None:
    """In the same order, with their columns in the same order, and generations where they have any."""
    table = table_of(rows)
    again = Table("VM", blocks=table.blocks())
    assert again.size == table.size == len(rows)
    assert again == table
    assert list(again.rows) == list(table.rows)
    for ref, row in again.rows.items():
        assert list(row.cells) == list(table.rows[ref].cells)


def test_rows_with_the_same_columns_are_one_block() -> None:
    """Those that follow each other; the order of columns counts."""
    cells = [{"a": "1", "b": "2"}, {"a": "3", "b": "4"}, {"b": "5", "a": "6"}, {}, {}]
    blocks = table_of([Row("", found) for found in cells]).blocks()
    assert [(list(block.refs), list(block.columns)) for block in blocks] == [
        (["r0", "r1"], ["a", "b"]),
        (["r2"], ["b", "a"]),
        (["r3", "r4"], []),
    ]
    assert list(blocks[0].columns["b"]) == ["2", "4"]


def test_what_is_changed_in_rows_is_in_the_blocks() -> None:
    """Whatever the table was made of."""
    table = Table("VM", blocks=[Block(["x", "y"], [1, 1], [2, 3], {"a": ["1", "2"]})])
    table.rows["x"].cells["a"] = "changed"
    del table.rows["y"]
    (block,) = table.blocks()
    assert block == Block(("x",), [1], [2], {"a": ("changed",)})
    assert table.size == 1


def test_tables_of_other_names_or_rows_differ() -> None:
    """And a table shows what it holds."""
    table = table_of([Row("", {"a": "1"})])
    assert table != Table("host", dict(table.rows))
    assert table != table_of([Row("", {"a": "2"})])
    assert repr(table) == "Table('VM', {'r0': Row(ref='r0', cells={'a': '1'}, ctime=None, mtime=None)})"
