"""The pool database dump: reading, writing, checking, comparing, redacting."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from xenctl import database
from xenctl.database import Database, Difference, Form, Row, Table
from xenctl.errors import DatabaseError

DATA = Path(__file__).parent / "data"
DUMPS = ["pool-4.0.1.xml", "pool-4.1.0.xml"]
DECLARATION = '<?xml version="1.0" encoding="UTF-8"?>\n'
MANIFEST = (
    '<manifest><pair key="schema_major_vsn" value="5"/><pair key="schema_minor_vsn" value="{minor}"/>'
    '<pair key="generation_count" value="42"/></manifest>'
)

TODAY = (
    DECLARATION
    + f"<database>{MANIFEST.format(minor=909)}"
    + '<table name="Bond"/>'
    + '<table name="VM"><row ref="OpaqueRef:3" __ctime="-1" __mtime="40" VCPUs__params="()" _ref="OpaqueRef:3"'
    + ' name__description="%ttab%nline%rreturn" name__label="Control%.domain%.%.on:%.h1%." resident_on="OpaqueRef:1"/>'
    + '<row ref="OpaqueRef:4" __ctime="7" __mtime="41" name__label=""/></table>'
    + '<table name="host"><row ref="OpaqueRef:1" __ctime="7" __mtime="40" hostname="h1"'
    + " software_version=\"(('product_version'%.'9.0.0')%.('xapi'%.'26.17'))\"/></table>"
    + '<table name="pool"><row ref="OpaqueRef:2" __ctime="7" __mtime="40" master="OpaqueRef:1"'
    + " name_label=\"&lt;é&gt;%.&amp;%.&quot;q&quot;%.%%.%.100%%\" other_config=\"(('note'%.'it\\'s'))\"/></table>"
    + '<table name="task"/></database>'
)
BEFORE_7_3 = (
    f"<database>{MANIFEST.format(minor=67)}"
    '<table name="VM"><row ref="a" __ctime="7" __mtime="40" two="x%_y" three="%_ " four="%_%_" tab="a%t b%%_%%."/>'
    "</table></database>"
)
SMALL = (
    f"<database>\n{MANIFEST.format(minor=60)}\n<table name='host'>\n<row _ref='h' name__label='a  b' ref='h'/>\n"
    "</table>\n<table name='pool'>\n<row master='h' ref='p'/>\n</table>\n</database>"
)


def lines(*rows: str, manifest: str = MANIFEST.format(minor=60)) -> bytes:
    """A dump with its manifest on line 2 and `rows` from line 3 on."""
    return "\n".join(["<database>", manifest, *rows, "</database>"]).encode()


def small(**tables: dict[str, dict[str, str]]) -> Database:
    """A database of `tables`, each of cells by reference."""
    made = {name: Table(name, {ref: Row(ref, cells) for ref, cells in rows.items()}) for name, rows in tables.items()}
    return Database({"schema_major_vsn": "5", "schema_minor_vsn": "60", "generation_count": "42"}, made)


@pytest.mark.parametrize("name", DUMPS)
def test_a_dump_of_old_is_written_byte_for_byte(name: str) -> None:
    """The rows alone give back the bytes of a dump in the order of a hash table."""
    data = (DATA / name).read_bytes()
    assert database.write(database.read(data)) == data


@pytest.mark.parametrize("text", [TODAY, BEFORE_7_3, BEFORE_7_3.replace("67", "133"), TODAY.replace("909", "132")])
def test_a_newer_dump_is_written_byte_for_byte(text: str) -> None:
    """The spelling is found in the rows, whatever the schema says is usual."""
    assert database.write(database.read(text.encode())).decode() == text


def test_a_dump_is_read_into_plain_texts() -> None:
    """Cells hold the text that xapi stored, with both layers of escapes taken off."""
    db = database.read(TODAY.encode())
    vm = db.row("VM", "OpaqueRef:3")
    assert (db.schema, db.generation, db.master, db.declaration) == ((5, 909), 42, "OpaqueRef:1", True)
    assert list(db.tables) == ["Bond", "VM", "host", "pool", "task"]
    assert list(vm.cells) == ["VCPUs__params", "_ref", "name__description", "name__label", "resident_on"]
    assert vm.cells["name__label"] == "Control domain  on: h1 "
    assert vm.cells["name__description"] == "\ttab\nline\rreturn"
    assert (vm.ctime, vm.mtime) == (-1, 40)
    assert db.row("pool", "OpaqueRef:2").cells["name_label"] == '<é> & "q" %. 100%'
    assert database.parse_map(db.row("pool", "OpaqueRef:2").cells["other_config"]) == {"note": "it's"}


@pytest.mark.parametrize(
    ("name", "schema", "product", "rows"), [(DUMPS[0], (5, 19), "4.0.1", 152), (DUMPS[1], (5, 35), "4.1.0", 310)]
)
def test_an_old_manifest_is_kept_whole(name: str, schema: tuple[int, int], product: str, rows: int) -> None:
    """All pairs of an old manifest stay, in order, and say which product wrote it."""
    db = database.read_file(DATA / name)
    database.verify(db)
    assert (db.schema, db.generation, db.product_version) == (schema, 1000, product)
    assert list(db.manifest)[:4] == ["installation_uuid", "control_domain_uuid", "pool_conf", "pool_token"]
    assert sum(len(table.rows) for table in db.tables.values()) == rows
    assert db.form == Form(declaration=True, every_space=False, generations=False)
    assert "line one\nline\ttwo" in {vm.cells["name__description"] for vm in db.rows("VM")}


def test_a_manifest_of_today_names_no_product() -> None:
    """The product version is None where the manifest has no such pair."""
    assert database.read(TODAY.encode()).product_version is None


VARIANTS: dict[str, Callable[[str], str]] = {
    "pretty-printed": lambda text: text.replace("><", ">\n  <"),
    "with comments and instructions": lambda text: text.replace("<table", "<!-- a --><?x y?><table"),
    "with text": lambda text: text.replace("<table", "text<table"),
    "single-quoted": lambda text: text.replace("'", "&apos;").replace('"', "'"),
    "ref last": lambda text: text.replace(
        '<row ref="OpaqueRef:4" __ctime="7" __mtime="41" name__label=""/>',
        '<row __mtime="41" name__label="" __ctime="7" ref="OpaqueRef:4"/>',
    ),
    "value before key": lambda text: text.replace(
        'key="generation_count" value="42"', 'value="42" key="generation_count"'
    ),
    "manifest last": lambda text: text.replace(MANIFEST.format(minor=909), "").replace(
        "</database>", MANIFEST.format(minor=909) + "</database>"
    ),
    "two tags for an empty table": lambda text: text.replace('<table name="Bond"/>', '<table name="Bond"></table>'),
    "numbered characters": lambda text: text.replace("h1", "&#104;&#x31;"),
    "bare spaces": lambda text: re.sub(r"(%%)|%\.", lambda match: match[1] or " ", text),
    "with a byte order mark": lambda text: "\ufeff" + text,
}


@pytest.mark.parametrize("variant", VARIANTS)
def test_another_spelling_has_the_same_content(variant: str) -> None:
    """What xapi would read is read, and what is written of it has the same content."""
    db, other = database.read(TODAY.encode()), database.read(VARIANTS[variant](TODAY).encode())
    again = database.read(database.write(other))
    assert VARIANTS[variant](TODAY) != TODAY
    assert other.tables == db.tables == again.tables
    assert other.manifest == db.manifest == again.manifest
    assert database.digest(other) == database.digest(db)


TEXTS = st.text(
    st.one_of(
        st.sampled_from(" \t\n\r%&<>\"'._tnr\\é"),
        st.characters(exclude_categories=["Cs", "Cc"], exclude_characters="\ufffe\uffff"),
    )
)
NAMES = st.from_regex(r"[a-wA-W_][a-zA-Z0-9_]{0,9}", fullmatch=True).filter(
    lambda name: database._COLUMN.fullmatch(name)
)
STAMPS = st.one_of(st.none(), st.integers(-1, 2**62))
ROWS = st.builds(Row, st.just(""), st.dictionaries(NAMES, TEXTS, max_size=6), STAMPS, STAMPS)
FORMS = st.builds(Form, st.booleans(), st.booleans(), st.booleans())


@st.composite
def databases(draw: st.DrawFn) -> Database:
    """Any database that can be written."""
    refs = draw(st.lists(TEXTS.filter(bool), unique=True, max_size=6))
    names = draw(st.lists(TEXTS, unique=True, min_size=1, max_size=3))
    db = Database({**draw(st.dictionaries(TEXTS, TEXTS, max_size=2)), **small().manifest}, {})
    db.tables = {name: Table(name) for name in names}
    for ref in refs:
        row = draw(ROWS)
        row.ref = db.tables[draw(st.sampled_from(names))].rows.setdefault(ref, row).ref = ref
    return db


def test_a_reference_is_no_text_of_a_column() -> None:
    """It has no escapes, and its spaces do not tell how those of columns are written."""
    form = Form(declaration=True, every_space=True, generations=False)
    db = Database(dict(small().manifest), {"VM": Table("VM", {" %.": Row(" %.", {"name": "a b"})})}, form)
    data = database.write(db)
    again = database.read(data)
    assert list(again.tables["VM"].rows) == [" %."]
    assert database.write(again) == data


@given(databases(), FORMS)
def test_any_database_comes_back_from_either_form(db: Database, form: Form) -> None:
    """Every text that XML can hold survives, and so do order and, where the form has them, generations."""
    data = database.write(db, form=form)
    again = database.read(data)
    if not form.generations:
        for table in db.tables.values():
            for row in table.rows.values():
                row.ctime = row.mtime = None
    assert again.tables == db.tables
    assert again.manifest == db.manifest
    assert [list(table.rows) for table in again.tables.values()] == [list(table.rows) for table in db.tables.values()]
    assert again.declaration == form.declaration
    assert database.write(again) == data


@pytest.mark.parametrize(
    ("text", "old", "new"),
    [
        ("a b", "a b", "a%.b"),
        ("a  b", "a%_b", "a%.%.b"),
        ("a   b", "a%_ b", "a%.%.%.b"),
        ("\t\n\r", "%t%n%r", "%t%n%r"),
        ("100%", "100%%", "100%%"),
        ("%_%.", "%%_%%.", "%%_%%."),
        ("", "", ""),
    ],
)
def test_white_space_is_protected_in_the_way_of_its_time(text: str, old: str, new: str) -> None:
    """Two spaces were one escape before 7.3, each space is one since; both are undone."""
    assert (database.protect(text, False), database.protect(text, True)) == (old, new)
    assert database.unprotect(old) == database.unprotect(new) == text


@pytest.mark.parametrize("text", ["%", "%x", "100%", "a%-b", "%é"])
def test_an_unknown_escape_is_left_alone(text: str) -> None:
    """A percent sign that begins no known escape stays."""
    assert database.unprotect(text) == text


@given(st.text("%._tnr x"))
def test_the_fast_way_of_unprotecting_agrees_with_the_plain(text: str) -> None:
    """Replacing escape by escape gives what reading from left to right gives."""
    plain = {"%%": "%", "%.": " ", "%_": "  ", "%t": "\t", "%n": "\n", "%r": "\r"}
    assert database.unprotect(text) == re.sub("%[%._tnr]", lambda match: plain[match[0]], text)


BOMB = '<!DOCTYPE d [<!ENTITY a "aaaaaaaaaa">' + "".join(
    f'<!ENTITY {new} "{f"&{old};" * 10}">' for old, new in zip("abcdefghijkl", "bcdefghijklm", strict=True)
)
GOOD_ROW = '<row ref="a" x="1"/>'
BROKEN: dict[str, tuple[bytes, str, dict[str, object]]] = {
    "empty": (b"", "empty or cut off", {"line": 1}),
    "white space": (b" \n ", "empty or cut off", {}),
    "text": (b"hello", "not XML as xapi writes it", {"line": 1}),
    "packed": (b"\x1f\x8b\x08\x00\x00", "unpack it if it is packed", {}),
    "UTF-16": (SMALL.encode("utf-16"), "not XML", {}),
    "not UTF-8": (TODAY.encode("latin-1"), "not XML", {"line": 2, "table": "pool"}),
    "cut off": (TODAY.encode()[:-100], "cut off", {"line": 2, "table": "pool"}),
    "another root": (b"<html/>", "<html> stands where a dump begins with <database>", {"line": 1}),
    "a namespace": (b"<database xmlns='urn:x'/>", "{urn:x}database", {"line": 1}),
    "an entity bomb": (f'{BOMB}]>\n<database x="&m;"/>'.encode(), "DOCTYPE", {"line": 1}),
    "a DTD elsewhere": (
        b"<?xml version='1.0'?>\n<!-- -->\n<!DOCTYPE d SYSTEM 'x'><database/>",
        "DOCTYPE",
        {"line": 3},
    ),
    "an unknown entity": (
        lines("<table name='x'>", "<row ref='&x;'/></table>"),
        "not XML",
        {"line": 4, "table": "x"},
    ),
    "an unknown element": (
        lines("<table name='x'>", "<column/></table>"),
        "<column> stands inside <table>",
        {"line": 4, "table": "x"},
    ),
    "a row inside a row": (
        lines("<table name='x'>", "<row ref='a'><row ref='b'/></row></table>"),
        "<row> stands inside <row>",
        {},
    ),
    "a row outside a table": (lines(GOOD_ROW), "<row> stands inside <database>", {"line": 3}),
    "deep nesting": (b"<database>" * 100_000, "<database> stands inside <database>", {"line": 1}),
    "a database with attributes": (b"<database a=''/>", "<database> has other attributes", {}),
    "a table without a name": (lines("<table/>"), "<table> has other attributes", {"line": 3}),
    "a table with more than a name": (lines("<table name='x' y=''/>"), "<table> has other attributes", {}),
    "a pair without a value": (
        lines(manifest="<manifest><pair key='a'/></manifest>"),
        "<pair> has other attributes",
        {"line": 2},
    ),
    "a declared namespace": (lines("<table name='x' xmlns:a='b'/>"), "<table> has other attributes", {}),
    "a table twice": (
        lines("<table name='x'/>", "<table name='x'/>"),
        "x is there twice",
        {"line": 4, "table": "x"},
    ),
    "a pair twice": (
        lines(manifest=MANIFEST.format(minor=1).replace("major", "minor")),
        "schema_minor_vsn is there twice",
        {"line": 2},
    ),
    "no manifest": (b"<database>\n<table name='x'/></database>", "no schema_major_vsn", {"line": 2}),
    "no schema": (
        lines(manifest=MANIFEST.format(minor=1).replace("schema_minor_vsn", "x")),
        "no schema_minor_vsn",
        {"line": 2},
    ),
    "no generation": (
        lines(manifest=MANIFEST.format(minor=1).replace("generation_count", "x")),
        "no generation_count",
        {"line": 2},
    ),
    "a schema in words": (
        lines(manifest=MANIFEST.format(minor="new")),
        "no schema_minor_vsn, or it is not a number",
        {},
    ),
    "a row without ref": (
        lines("<table name='x'>", GOOD_ROW, "<row _ref='b'/></table>"),
        "a row has no ref",
        {"line": 5, "table": "x"},
    ),
    "an empty ref": (lines("<table name='x'>", "<row ref=''/></table>"), "a row has no ref", {"line": 4}),
    "a ref twice": (
        lines("<table name='x'>", GOOD_ROW, GOOD_ROW, "</table>"),
        "already in table x",
        {"line": 5, "table": "x", "row": "a"},
    ),
    "a ref in two tables": (
        lines("<table name='x'>", GOOD_ROW, "</table>", "<table name='y'>", GOOD_ROW, "</table>"),
        "already in table x",
        {"line": 7, "table": "y", "row": "a"},
    ),
    "a generation in words": (
        lines("<table name='x'>", "<row ref='a' __ctime='x'/></table>"),
        "not a number",
        {"line": 4, "table": "x", "row": "a", "column": "__ctime"},
    ),
    "a foreign attribute": (
        lines("<table name='x'>", "<row ref='a' xml:lang='en'/></table>"),
        "not a column's name",
        {"line": 4, "row": "a"},
    ),
    "an attribute twice": (
        lines("<table name='x'>", "<row ref='a' b='' b=''/></table>"),
        "not XML",
        {"line": 4, "table": "x"},
    ),
}


@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_dump_is_refused_with_the_place(name: str) -> None:
    """The error says what is wrong, in which line and table, and what to do."""
    data, message, place = BROKEN[name]
    with pytest.raises(DatabaseError) as raised:
        database.read(data, source="a.xml")
    error = raised.value
    assert message in error.message
    assert "xe pool-dump-database" in error.message
    assert {key: getattr(error, key) for key in ("source", *place)} == {"source": "a.xml", **place}


def test_an_error_reads_as_one_sentence() -> None:
    """Source, line, table and row come before what is wrong and what to do."""
    data, _, _ = BROKEN["a ref in two tables"]
    with pytest.raises(DatabaseError) as raised:
        database.read(data, source="a.xml")
    assert str(raised.value) == (
        "a.xml, line 7, table y, row a: the reference is already in table x; take the dump again with xe pool-dump-database"
    )


@pytest.mark.parametrize("text", [SMALL, BEFORE_7_3])
def test_a_dump_cut_off_anywhere_is_refused(text: str) -> None:
    """No beginning of a dump passes for a whole one."""
    for length in range(len(text.encode())):
        with pytest.raises(DatabaseError):
            database.read(text.encode()[:length])


def test_a_file_that_is_not_there_is_refused(tmp_path: Path) -> None:
    """The error names the file."""
    with pytest.raises(DatabaseError, match="it cannot be read") as raised:
        database.read_file(tmp_path / "none.xml")
    assert raised.value.source == str(tmp_path / "none.xml")


@pytest.mark.parametrize(
    ("schema", "form"),
    [
        ((5, 19), Form(every_space=False, generations=False)),
        ((5, 61), Form(every_space=False, generations=False)),
        ((5, 63), Form(every_space=False)),
        ((5, 120), Form(every_space=False)),
        ((5, 133), Form()),
        ((5, 909), Form()),
    ],
)
def test_each_schema_has_its_form(schema: tuple[int, int], form: Form) -> None:
    """Generations came with 6.0, the escape for each space with 7.3; a dump without rows has the form of its schema."""
    assert Form.of(schema) == form
    db = small()
    db.manifest["schema_minor_vsn"] = str(schema[1])
    assert database.read(database.write(db)).form == form


def test_a_dump_is_written_in_another_form() -> None:
    """An old dump written today's way holds the same content."""
    db = database.read_file(DATA / DUMPS[0])
    text = database.write(db, form=Form(declaration=False)).decode()
    assert text.startswith("<database>") and "%." in text
    assert database.differences(db, database.read(text.encode())) == []


UNWRITABLE: dict[str, tuple[Database, dict[str, object]]] = {
    "a control character": (small(VM={"a": {"x": "", "y": "\x01"}}), {"table": "VM", "row": "a", "column": "y"}),
    "a null": (small(VM={"a": {"x": "a\0b", "y": ""}}), {"table": "VM", "row": "a", "column": "x"}),
    "half a character": (small(VM={"a": {"x": "\ud800"}}), {"table": "VM", "row": "a", "column": "x"}),
    "no character": (small(VM={"a": {"x": "\uffff"}}), {"table": "VM", "row": "a", "column": "x"}),
    "a reference": (small(VM={"a\x02": {"x": ""}}), {"table": "VM", "row": "a\x02", "column": ""}),
    "a table": (small(**{"\x02": {}}), {"table": ""}),
    "a column with a space": (small(VM={"a": {"x y": ""}}), {"column": "x y"}),
    "a column without a name": (small(VM={"a": {"": ""}}), {"column": ""}),
    "a column named as an attribute of the row": (small(VM={"a": {"__ctime": ""}}), {"column": "__ctime"}),
    "a column that declares a namespace": (small(VM={"a": {"xmlns": ""}}), {"column": "xmlns"}),
}


@pytest.mark.parametrize("name", UNWRITABLE)
def test_what_xml_cannot_hold_is_not_written(name: str) -> None:
    """The error names the place of the first text that cannot be written."""
    db, expected = UNWRITABLE[name]
    with pytest.raises(DatabaseError) as raised:
        database.write(db)
    assert {place: getattr(raised.value, place) for place in expected} == expected


HOST = {"h": {"hostname": "h"}}
UNFIT: dict[str, tuple[Database, str]] = {
    "no pool": (small(host=HOST), "one pool row and so one master, this one has 0"),
    "two pools": (
        small(host=HOST, pool={"p": {"master": "h"}, "q": {"master": "h"}}),
        "one pool row and so one master, this one has 2",
    ),
    "no master": (small(host=HOST, pool={"p": {}}), "there is no host named as the pool's master"),
    "a dangling master": (small(host=HOST, pool={"p": {"master": "g"}}), "there is no host g as the pool's master"),
    "no hosts": (small(pool={"p": {"master": "h"}}), "there is no host h as the pool's master"),
    "no schema": (Database({}, {}), "no schema_major_vsn"),
}


@pytest.mark.parametrize("name", UNFIT)
def test_what_is_no_whole_pool_does_not_pass(name: str) -> None:
    """A backup must hold one pool, whose master is one of its hosts."""
    db, message = UNFIT[name]
    with pytest.raises(DatabaseError) as raised:
        database.verify(db)
    assert message in str(raised.value)
    assert "xe pool-dump-database" in str(raised.value)


def test_the_document_of_a_mixed_pool_is_recognised() -> None:
    """It is read like any dump and refused as a backup, with what to do about it."""
    db = database.read(database.stub())
    assert (db.schema, db.generation, db.declaration) == ((5, 35), 103, False)
    assert len(db.tables) == 30 and not any(table.rows for table in db.tables.values())
    assert db.tables.keys() == database.read_file(DATA / DUMPS[1]).tables.keys()
    with pytest.raises(DatabaseError, match=r"versions are mixed.*take the backup before the upgrade begins"):
        database.verify(db)


def test_an_empty_database_of_another_generation_is_no_such_document() -> None:
    """Only the constant document gets its message."""
    db = database.read(database.stub())
    db.manifest["generation_count"] = "104"
    with pytest.raises(DatabaseError, match="this one has 0"):
        database.verify(db)


def test_a_missing_row_is_an_error_and_a_missing_table_has_no_rows() -> None:
    """Releases differ in tables, so asking for the rows of one is always allowed."""
    db = small(VM={"a": {}})
    assert list(db.rows("VMPP")) == []
    assert [row.ref for row in db.rows("VM")] == ["a"]
    for table in ("VM", "VMPP"):
        with pytest.raises(DatabaseError, match="there is no such row"):
            db.row(table, "b")


def change_cell(db: Database) -> None:
    db.tables["VM"].rows["a"].cells["x"] = "2"


def drop_cell(db: Database) -> None:
    del db.tables["VM"].rows["a"].cells["x"]


def drop_row(db: Database) -> None:
    del db.tables["VM"].rows["a"]


def drop_table(db: Database) -> None:
    del db.tables["VM"]


def add_table(db: Database) -> None:
    db.tables["SR"] = Table("SR", {"s": Row("s", {"x": ""})})


def change_pair(db: Database) -> None:
    db.manifest["generation_count"] = "43"


def change_order(db: Database) -> None:
    db.tables = dict(reversed(db.tables.items()))
    db.tables["VM"].rows["a"].cells = {"y": "", "x": "1"}
    db.manifest = dict(reversed(db.manifest.items()))


def change_form(db: Database) -> None:
    db.form = Form(False, False, False)
    db.tables["VM"].rows["a"].ctime = 5


CHANGES: list[tuple[Callable[[Database], None], list[Difference]]] = [
    (change_cell, [Difference("VM", "a", "x", "1", "2")]),
    (drop_cell, [Difference("VM", "a", "x", "1", None)]),
    (drop_row, [Difference("VM", "a", "", "", None)]),
    (drop_table, [Difference("VM", "", "", "", None)]),
    (add_table, [Difference("SR", "", "", None, "")]),
    (change_pair, [Difference("", "", "generation_count", "42", "43")]),
    (change_order, []),
    (change_form, []),
]


@pytest.mark.parametrize(("change", "expected"), CHANGES)
def test_a_change_of_content_is_one_difference(change: Callable[[Database], None], expected: list[Difference]) -> None:
    """Content is pairs, tables, rows and columns; order, form and generations are not; the digest follows suit."""
    before = small(VM={"a": {"x": "1", "y": ""}, "b": {}}, host=HOST)
    after = before.copy()
    change(after)
    assert database.differences(before, after) == expected
    mirrored = [Difference(one.table, one.ref, one.column, one.after, one.before) for one in expected]
    assert database.differences(after, before) == mirrored
    assert (database.digest(before) == database.digest(after)) == (not expected)
    assert before == small(VM={"a": {"x": "1", "y": ""}, "b": {}}, host=HOST)


@given(databases(), databases())
def test_the_digest_is_equal_where_nothing_differs(a: Database, b: Database) -> None:
    """Digest and comparison have the same idea of content."""
    assert (database.digest(a) == database.digest(b)) == (database.differences(a, b) == [])


SECRETS = {
    "pool": {"p": {"master": "h", "wlb_password": "secret-1", "wlb_username": "u"}},
    "host": {"h": {"license_params": "(('sku_type' 'XE'))"}},
    "secret": {"s": {"value": "OpaqueRef:secret-2", "uuid": "u"}},
    "Cluster": {"c": {"cluster_token": "secret-3", "cluster_stack": "corosync"}},
    "PBD": {
        "1": {"device_config": "(('location' '//s/x') ('username' 'u') ('cifspassword' 'secret-4'))"},
        "2": {"device_config": "(('chapuser' 'u') ('chappassword' 'secret-5') ('incoming_chappassword' 'secret-6'))"},
        "3": {
            "device_config": "(('password' \"secret-7\") ('password_transformed' 'secret-8') ('Password' 'secret-9'))"
        },
        "4": {"device_config": '("location" is not understood)'},
        "5": {"device_config": "(('password' '') ('password_secret' 'uuid'))"},
        "6": {},
        "7": {"device_config": "(('password' 'secret-a') ('password' '')) ; secret-b"},
    },
    "VM": {"v": {"other_config": "(('password' 'kept'))"}},
}


def test_secrets_are_redacted_and_the_rest_is_kept() -> None:
    """Every secret is gone from the document, its neighbours stay, and the original is untouched."""
    db = small(**{**SECRETS, "PBD": {ref: cells for ref, cells in SECRETS["PBD"].items() if ref != "4"}})
    db.manifest["pool_token"] = "secret-0/secret-0/secret-0"
    text, before = database.write(database.redact(db)).decode(), database.write(db)
    assert "secret-" not in text
    assert [text.count(kept) for kept in ("XE", "corosync", "wlb_username=", "'kept'")] == [1, 1, 1, 1]
    changed = {(one.table, one.ref, one.column) for one in database.differences(db, database.redact(db))}
    assert changed == {
        ("", "", "pool_token"),
        ("pool", "p", "wlb_password"),
        ("secret", "s", "value"),
        ("Cluster", "c", "cluster_token"),
        *(("PBD", ref, "device_config") for ref in "1237"),
    }
    config = database.parse_map(database.redact(db).row("PBD", "1").cells["device_config"])
    assert config == {"location": "//s/x", "username": "u", "cifspassword": database.REDACTED}
    assert database.write(db) == before


@pytest.mark.parametrize("text", ["", "OpaqueRef:NULL", "OpaqueRef:5e6fea07"])
def test_a_reference_to_a_secret_is_no_secret(text: str) -> None:
    """Since 6.0 the column of the password refers to a secret, and must go on doing so."""
    db = small(pool={"p": {"wlb_password": text}}, secret={"OpaqueRef:5e6fea07": {}})
    assert database.differences(db, database.redact(db)) == []


def test_a_map_that_cannot_be_understood_is_not_passed_on() -> None:
    """Redacting fails rather than show what may be a secret, also in its message."""
    with pytest.raises(DatabaseError, match="nobody knows its secrets") as raised:
        database.redact(small(**SECRETS))
    assert (raised.value.table, raised.value.row, raised.value.column) == ("PBD", "4", "device_config")
    assert "location" not in str(raised.value)


@pytest.mark.parametrize("name", DUMPS)
def test_the_token_of_an_old_dump_is_redacted(name: str) -> None:
    """An old manifest holds the pool's secret; a redacted dump does not, and is still a whole pool's database."""
    db = database.read_file(DATA / name)
    safe = database.read(database.write(database.redact(db)))
    database.verify(safe)
    assert [one.column for one in database.differences(db, safe)] == ["pool_token"]


def test_the_module_is_cheap_to_import() -> None:
    """lxml is loaded when something is read, not before."""
    check = "import sys, xenctl.database; sys.exit('lxml' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", check], check=False).returncode == 0
