"""The fast reading of dumps against the parser: the same database or the same refusal, on written and on mutated bytes."""

from __future__ import annotations

import random
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mockserver import MockPool
from xenctl import database, dumpscan
from xenctl.database import Database, Form, Row, Table
from xenctl.errors import DatabaseError

TEXT = st.text(st.characters(codec="utf-8", exclude_categories=["Cs", "Cc"]), max_size=8)
TEXTS = TEXT | st.sampled_from(["%", "%%", "%.", "a  b", "<&>\"'", "&amp;", "/><row ", "('a' 'b')", "\t", "\n"])
CELLS = st.dictionaries(st.sampled_from(["uuid", "name__label", "_ref", "other_config"]), TEXTS, max_size=4)
FORMS = st.builds(Form, st.booleans(), st.booleans(), st.booleans())
MANIFEST = {"schema_major_vsn": "5", "schema_minor_vsn": "35", "generation_count": "7"}


def outcome(data: bytes, *, fast: bool) -> Database | str:
    """What comes of reading: the database, or the error's text."""
    try:
        return database.read(data) if fast else database.parse(data)
    except DatabaseError as error:
        return str(error)


@settings(max_examples=200, deadline=None)
@given(rows=st.lists(CELLS, max_size=4), form=FORMS, pair=TEXT)
def test_what_is_written_is_read_as_the_parser_reads_it(rows: list[dict[str, str]], form: Form, pair: str) -> None:
    """Rows, generations, order and form."""
    cells = {f"OpaqueRef:{n}": Row(f"OpaqueRef:{n}", found, n, n + 1) for n, found in enumerate(rows)}
    db = Database({**MANIFEST, "pair": pair}, {"VM": Table("VM", cells), "empty": Table("empty")}, form)
    try:
        data = database.write(db)
    except DatabaseError:
        return  # a character that XML cannot hold
    assert outcome(data, fast=True) == outcome(data, fast=False)


@pytest.fixture(scope="module")
def dump() -> bytes:
    """A pool's dump, in today's form."""
    return database.write(MockPool.create(hosts=1, vms=1, release="8.2").store.dump())


def test_a_pools_dump_goes_the_fast_way(dump: bytes) -> None:
    """Or the parser would be compared with itself."""
    _, begin = dumpscan.manifest(dump)
    (rows,) = (rows for name, *rows in dumpscan.tables(dump, begin) if name == "VM")
    ((names, columns),) = dumpscan.blocks(dump, *rows)
    assert names[0] == "ref"
    assert {len(column) for column in columns} == {2}
    assert len(columns) == len(names)


@pytest.mark.parametrize("layouts", [1, 2, 3])
def test_more_rows_than_are_cut_at_once_are_read_as_the_parser_reads_them(layouts: int) -> None:
    """Whether they all have the same columns, or every other row has others; texts that are all the same, and those that
    differ, with and without escapes."""
    rows = {}
    for number in range(3 * dumpscan.AT_ONCE // 100):
        cells = {
            "uuid": f"u{number}",
            "name__label": f"a & b {number % 7}",
            "other_config": "(('k' 'a  b'))",
            "empty": "",
        }
        more = {f"column{number % layouts}": "%" if number % layouts else "<"}
        rows[f"OpaqueRef:{number}"] = Row(f"OpaqueRef:{number}", {**cells, **more}, number, number)
    data = database.write(Database(MANIFEST, {"VM": Table("VM", rows), "host": Table("host")}))
    assert len(data) > 3 * dumpscan.AT_ONCE
    _, begin = dumpscan.manifest(data)
    ((_, *span), _) = dumpscan.tables(data, begin)
    *runs, _ = [len(columns[0]) for _, columns in dumpscan.blocks(data, *span)]
    assert runs
    assert min(runs) >= dumpscan.ROWS if layouts == 1 else set(runs) == {1}
    found = outcome(data, fast=True)
    assert found == outcome(data, fast=False)
    assert isinstance(found, Database)
    assert found.tables["VM"].rows == rows


@pytest.mark.parametrize("seed", range(4))
def test_mutated_dumps_are_read_or_refused_alike(dump: bytes, seed: int) -> None:
    """Bytes that are dropped, doubled or replaced at places that matter."""
    rng = random.Random(seed)
    signs = [b'"', b"<", b">", b"/", b"&", b" ", b"'", b"=", b"\n", b"\0", b"\xff", b"%", b"&#10;", b"<!-- -->", b"ref"]
    places = [n for n, byte in enumerate(dump) if byte in b'"<>/ =%']
    for turn in range(60):
        at = rng.choice(places)
        mutated = (
            dump[:at] + rng.choice([b"", dump[at : at + 1] * 2, rng.choice(signs)]) + dump[at + rng.randrange(2) :]
        )
        assert outcome(mutated, fast=True) == outcome(mutated, fast=False), f"seed {seed}, turn {turn}, at {at}"


@pytest.mark.parametrize(
    ("old", "new"),
    [
        (b'<row ref="', b"<row ref='"),
        (b"<manifest>", b"<manifest> "),
        (b"<database>", b"<database>\n"),
        (b'encoding="UTF-8"', b'encoding="ascii"'),
        (b"/></table>", b" /></table>"),
        (b"</database>", b"</database>\n"),
    ],
)
def test_other_spellings_are_left_to_the_parser(dump: bytes, old: bytes, new: bytes) -> None:
    """Which takes them or refuses them."""
    spelled = dump.replace(old, new, 1)
    assert spelled != dump
    assert outcome(spelled, fast=True) == outcome(spelled, fast=False)


def test_generations_elsewhere_are_left_to_the_parser(dump: bytes) -> None:
    """They stand first where xapi writes them."""
    db = database.read(dump)
    assert db.form.generations
    text = dump.decode().replace(' __ctime="', ' x="a" __ctime="', 1).encode()
    assert outcome(text, fast=True) == outcome(text, fast=False)
    assert replace(db.form) == database.parse(dump).form
