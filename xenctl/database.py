"""Reads, checks, compares, redacts and writes dumps of the pool database, from XenServer 4.0.1 to today.

A dump is what `xe pool-dump-database` gives and what lies in `state.db`: one `<database>` with a `<manifest>` of pairs
and a `<table>` for each class, whose `<row>`s carry every column as an attribute. A column's text has three layers:

    value  -- S-expression, for sets and maps -->  column text  -- % escapes of white space -->  -- XML -->  attribute

Rows here hold the column text, with the outer two layers taken off. Which column is a set, a number or a reference is
knowledge of the data model and stays out; `parse_set` and its siblings (from `sexpr`) serve those who have it.

xapi spelled the same content differently over the years. `read` takes every spelling and notes it in a `Form`; `write`
needs only rows and a form and gives the bytes that xapi gave, because order is kept: up to 5.6 FP1 it was that of a
hash table, which no sorting finds again. The reader is a SAX target: lxml hands over each start tag and builds
no tree, which halves time and memory; a second parse looks for the line of an error, once there is one. The texts of a
row, or of a column where many rows have the same, are treated joined by NUL, which XML cannot contain: one pass for them
all.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from io import BytesIO
from pathlib import Path
from typing import Any, ClassVar, cast

from . import dumpscan, dumptables, sexpr
from .aside import written_aside
from .errors import DatabaseError

parse_set, write_set = sexpr.parse_set, sexpr.write_set
parse_map, write_map = sexpr.parse_map, sexpr.write_map
Row = dumptables.Row
Table = dumptables.Table
Block = dumptables.Block
REDACTED = "REDACTED"

_AGAIN = "take the dump again with xe pool-dump-database"
_MAJOR, _MINOR, _GENERATION = "schema_major_vsn", "schema_minor_vsn", "generation_count"
_COLUMN = re.compile(r"(?!(?i:xml)|(?:ref|__[cm]time)\Z)[A-Za-z_][A-Za-z0-9_.-]*")


@dataclass(frozen=True)
class Form:
    """How a dump is spelled; the default is today's form.

    `declaration`: an XML declaration comes first. `every_space`: each space is written `%.`, as since 7.3; before, one
    space stood as it is and two were `%_`. `generations`: rows carry `__ctime` and `__mtime`, as since 6.0.
    """

    declaration: bool = True
    every_space: bool = True
    generations: bool = True

    @classmethod
    def of(cls, schema: tuple[int, int]) -> Form:
        """The form that a xapi with `schema` writes. Source: the history of xen-api's db_xml.ml."""
        return cls(every_space=schema >= (5, 133), generations=schema >= (5, 63))


@dataclass
class Database:
    """A pool database in memory: pairs, tables, rows and columns in order, unknown ones too; keys name what is written."""

    manifest: dict[str, str]
    tables: dict[str, Table]
    form: Form = Form()

    @property
    def schema(self) -> tuple[int, int]:
        """The schema version, such as `(5, 35)`; raises `DatabaseError` where the manifest has none."""
        return _number(self.manifest, _MAJOR), _number(self.manifest, _MINOR)

    @property
    def generation(self) -> int:
        """How many changes the database has seen; raises `DatabaseError` where the manifest does not say."""
        return _number(self.manifest, _GENERATION)

    @property
    def product_version(self) -> str | None:
        """The product version in the manifest, such as `4.0.1`; None since 6.0, whose manifests do not carry it."""
        return self.manifest.get("product_version")

    @property
    def master(self) -> str:
        """The pool row's reference to its master host; raises `DatabaseError` unless there is exactly one pool row."""
        pools = list(self.rows("pool"))
        if len(pools) != 1:
            message = f"a whole pool's database has one pool row and so one master, this one has {len(pools)}"
            raise DatabaseError(f"{message}; {_AGAIN}", table="pool")
        return pools[0].cells.get("master", "")

    @property
    def declaration(self) -> bool:
        """Whether the dump begins with an XML declaration."""
        return self.form.declaration

    def rows(self, table: str) -> Iterable[Row]:
        """The rows of `table` in order; none where the release had no such table."""
        return self.tables[table].rows.values() if table in self.tables else ()

    def row(self, table: str, ref: str) -> Row:
        """The row of `ref` in `table`; raises `DatabaseError` where there is none."""
        try:
            return self.tables[table].rows[ref]
        except KeyError:
            raise DatabaseError("there is no such row; check table and reference", table=table, row=ref) from None

    def copy(self) -> Database:
        """A copy that shares nothing which can change."""
        tables = {}
        for name, table in self.tables.items():
            tables[name] = Table(name, {ref: replace(row, cells=dict(row.cells)) for ref, row in table.rows.items()})
        return Database(dict(self.manifest), tables, self.form)


def _number(manifest: Mapping[str, str], key: str) -> int:
    try:
        return int(manifest[key])
    except (KeyError, ValueError):
        raise DatabaseError(f"the manifest has no {key}, or it is not a number; {_AGAIN}") from None


_ESCAPE = re.compile(r"%([%._tnr])")


def protect(text: str, new: bool) -> str:
    """Escape white space and `%` for an attribute, as xapi does since 7.3 (`new`) or did before (xml_spaces.ml)."""
    text = text.replace("%", "%%").replace(" " if new else "  ", "%." if new else "%_")
    return text.replace("\t", "%t").replace("\n", "%n").replace("\r", "%r")


def unprotect(text: str) -> str:
    """Undo `protect`, of either age; an unknown escape is left as it is."""
    if "%" not in text:
        return text
    if "%%" not in text:
        text = text.replace("%.", " ")
        if "%" not in text:
            return text
    parts = (part.replace("%.", " ").replace("%_", "  ").replace("%t", "\t") for part in text.split("%%"))
    return "%".join([part.replace("%n", "\n").replace("%r", "\r") for part in parts])


def read(data: bytes, *, source: str = "<bytes>") -> Database:
    """The database in `data`, a dump of any age and spelling; `source` names it in errors.

    Takes what xapi takes (pretty-printing, comments, any order). Refuses with `DatabaseError`, naming line and table,
    what is cut off, not XML in UTF-8, not a database or has a DOCTYPE; elements and attributes that do not belong; no
    schema or generation; rows without a reference; references and names that come twice. Source: xen-api's db_xml.ml.
    """
    return _scanned(data) or parse(data, source=source)


def parse(data: bytes, *, source: str = "<bytes>") -> Database:
    """The same by the parser alone, whatever the spelling."""
    from lxml import etree

    # Entities are expanded inside attributes whatever the parser is told, so a DOCTYPE must not reach it. With the
    # encoding forced to UTF-8, and no bare "<" in attributes, only a DOCTYPE (or text about one) has these bytes.
    # Without one no entity is declared; told not to resolve any, lxml would hand "&amp;" over as "&#38;".
    doctype = data.find(b"<!DOCTYPE")
    if doctype >= 0:
        line = data.count(b"\n", 0, doctype) + 1
        raise DatabaseError(f"there is a DOCTYPE, which xapi never writes; {_AGAIN}", source=source, line=line)
    target = _Target()
    safe: dict[str, Any] = {"encoding": "utf-8", "resolve_entities": True, "no_network": True, "load_dtd": False}
    try:
        etree.fromstring(data, etree.XMLParser(target=cast("Any", target), huge_tree=True, **safe))
    except etree.XMLSyntaxError as error:
        message, line = _syntax(data, error), error.position[0]
        raise DatabaseError(message, source=source, line=line, table=target.table.name) from None
    except DatabaseError as error:
        tags = etree.iterparse(BytesIO(data), events=("start",), huge_tree=True, **safe)
        line = next(tag.sourceline for number, (_, tag) in enumerate(tags, 1) if number == target.elements)
        table, row, column = error.table, error.row, error.column
        raise DatabaseError(error.message, source=source, line=line, table=table, row=row, column=column) from None
    declaration = data.startswith((b"<?xml", b"\xef\xbb\xbf<?xml"))
    target.database.form = replace(Form.of(target.schema), declaration=declaration, **target.evidence)
    return target.database


def _scanned(data: bytes) -> Database | None:
    """The database in a dump of the one regular shape; None for any other, and for what has to be refused."""
    target = _Target()
    database = target.database
    try:
        pairs, begin = dumpscan.manifest(data)
        for key, value in pairs:
            target.add(database.manifest, key, value)
        target.schema, _ = database.schema, database.generation
        for name, *rows in dumpscan.tables(data, begin):
            blocks = [target.block(names, columns) for names, columns in dumpscan.blocks(data, *rows)]
            target.add(database.tables, name, Table(name, blocks=blocks))
    except (dumpscan.IrregularError, DatabaseError, ValueError):  # as those that no number or no UTF-8 raises
        return None
    database.form = replace(Form.of(target.schema), declaration=data.startswith(b"<?xml"), **target.evidence)
    return database


def read_file(path: str | os.PathLike[str]) -> Database:
    """The database in the file at `path`; raises `DatabaseError` as `read` does, and where the file cannot be read."""
    try:
        data = Path(path).read_bytes()
    except OSError as error:
        raise DatabaseError(f"it cannot be read ({error.strerror}); check the path", source=os.fspath(path)) from error
    return read(data, source=os.fspath(path))


def write_file(data: bytes, path: str | os.PathLike[str]) -> None:
    """Write a dump's bytes to the file at `path`, readable by its owner alone: it holds secrets. They are written aside and
    then moved into place, so that no half file is ever there. Raises `OSError`."""
    with written_aside(path) as file:
        file.write(data)


def _syntax(data: bytes, error: SyntaxError) -> str:
    if not data.strip() or (b"<database" in data and not data.rstrip().endswith(b"</database>")):
        return f"the dump is empty or cut off; {_AGAIN}"
    return f"this is not XML as xapi writes it ({error.msg.strip()}); unpack it if it is packed, or {_AGAIN}"


_STAMPS = ("__ctime", "__mtime")


class _Target:
    """Takes start and end tags from lxml, checks them, and collects the database."""

    OUTER: ClassVar = {"database": "", "manifest": "database", "pair": "manifest", "table": "database", "row": "table"}
    ATTRIBUTES: ClassVar = {"pair": {"key", "value"}, "table": {"name"}}

    def __init__(self) -> None:
        self.elements = 0
        self.database = Database({}, {})
        self.table = Table("")
        self.evidence: dict[str, bool] = {}
        self._path = [""]
        self._table_of: dict[str, str] = {}
        self._columns: dict[tuple[str, ...], tuple[str, ...]] = {}
        self._scanned: set[str] = set()

    def start(self, tag: str, attributes: Mapping[str, str], nsmap: Mapping[str, str]) -> None:
        self.elements += 1
        outer = self._path[-1]
        if self.OUTER.get(tag) != outer:
            where = f"inside <{outer}>" if outer else "where a dump begins with <database>"
            raise self._error(f"<{tag}> stands {where}; check that this is a pool's dump, or {_AGAIN}")
        if nsmap or (tag != "row" and set(attributes) != self.ATTRIBUTES.get(tag, set())):
            raise self._error(f"<{tag}> has other attributes than xapi writes; {_AGAIN}")
        self._path.append(tag)
        if tag == "pair":
            self.add(self.database.manifest, attributes["key"], attributes["value"])
        elif tag == "table":
            self.table = Table(attributes["name"])
            self.add(self.database.tables, attributes["name"], self.table)
        elif tag == "row":
            self._add_row(dict(attributes))

    def end(self, tag: str) -> None:
        self._path.pop()
        if tag == "table":
            self.table = Table("")
        elif tag in ("manifest", "database"):
            self.schema, _ = self.database.schema, self.database.generation

    def close(self) -> None:
        """Asked for by lxml; nothing is left to do."""

    def _error(self, message: str, row: str = "", column: str = "") -> DatabaseError:
        return DatabaseError(message, table=self.table.name, row=row, column=column)

    def add(self, mapping: dict[str, Any], key: str, value: object) -> None:
        """Put a pair or a table in its place. Raises for one that is there twice."""
        if key in mapping:
            raise self._error(f"{key} is there twice; {_AGAIN}")
        mapping[key] = value

    def _add_row(self, attributes: dict[str, str]) -> None:
        ref = attributes.pop("ref", "")
        if not ref:
            raise self._error(f"a row has no ref; {_AGAIN}")
        if ref in self._table_of:
            raise self._error(f"the reference is already in table {self._table_of[ref]}; {_AGAIN}", ref)
        self._table_of[ref] = self.table.name
        ctime = self._generation(ref, "__ctime", attributes.pop("__ctime", None))
        mtime = self._generation(ref, "__mtime", attributes.pop("__mtime", None))
        self.evidence["generations"] = self.evidence.get("generations", False) or (ctime, mtime) != (None, None)
        row = self.table.rows[ref] = Row(ref, {}, ctime, mtime)
        if attributes:
            raw = "\0".join(attributes.values())
            if "every_space" not in self.evidence:
                self._look_for_spaces(raw)
            row.cells = dict(zip(self._columns_of(ref, tuple(attributes)), unprotect(raw).split("\0"), strict=True))

    def _look_for_spaces(self, raw: str) -> None:
        escapes = set(_ESCAPE.findall(raw))
        if " " in raw or escapes & {".", "_"}:
            self.evidence["every_space"] = " " not in raw and "." in escapes

    def block(self, names: tuple[str, ...], columns: list[list[str]]) -> Block:
        """The rows whose attributes have `names`, the reference first, which has no escapes."""
        many, refs = len(self._scanned), dumpscan.texts(columns[0])
        self._scanned.update(refs)
        if len(self._scanned) != many + len(refs) or "" in self._scanned:
            raise dumpscan.IrregularError
        generations = names[1:3] == _STAMPS
        self.evidence["generations"] = self.evidence.get("generations", False) or generations
        begin = 3 if generations else 1
        if "every_space" not in self.evidence:
            for texts in zip(*columns[begin:], strict=True):
                self._look_for_spaces(dumpscan.mended("\0".join(texts)))
                if "every_space" in self.evidence:
                    break
        found = [dumpscan.texts(column, unprotect) for column in columns[begin:]]
        cells = dict(zip(self._columns_of(refs[0], names[begin:]), found, strict=True))
        if not generations:
            return Block(refs, [None] * len(refs), [None] * len(refs), cells)
        return Block(refs, list(map(int, columns[1])), list(map(int, columns[2])), cells)

    def _generation(self, ref: str, name: str, text: str | None) -> int | None:
        try:
            return None if text is None else int(text)
        except ValueError:
            raise self._error(f"the generation is not a number; {_AGAIN}", ref, name) from None

    def _columns_of(self, ref: str, names: tuple[str, ...]) -> tuple[str, ...]:
        """`names`, checked once, as the very strings that earlier rows have."""
        columns = self._columns.get(names)
        if columns is None:
            for name in names:
                if not _COLUMN.fullmatch(name):
                    raise self._error(f"the attribute is not a column's name; {_AGAIN}", ref, name)
            columns = self._columns[names] = names
        return columns


_ILLEGAL = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


def write(db: Database, *, form: Form | None = None) -> bytes:
    """The dump of `db` in `form`, by default its own.

    Order is kept. A row without generations gets none in any form; xapi takes that for 0. Raises `DatabaseError` for
    texts that XML cannot hold and names that cannot be columns. Source: xen-api's db_xml.ml.
    """
    form = form or db.form
    if _ILLEGAL.search("".join((*db.manifest, *db.manifest.values(), *db.tables))):
        raise DatabaseError("the manifest or the name of a table holds a character that XML cannot; remove it")
    tables = {name: table.blocks() for name, table in db.tables.items()}
    for column in {column for blocks in tables.values() for block in blocks for column in block.columns}:
        if not _COLUMN.fullmatch(column):
            raise DatabaseError("this cannot be the name of a column; rename it", column=column)
    declaration = '<?xml version="1.0" encoding="UTF-8"?>\n' if form.declaration else ""
    pairs = [f'<pair key="{_escaped(key)}" value="{_escaped(value)}"/>' for key, value in db.manifest.items()]
    parts = ["".join([declaration, "<database><manifest>", *pairs, "</manifest>"]).encode()]
    for name, blocks in tables.items():
        rows = [_rows(name, block, form) for block in blocks]
        parts += [f'<table name="{_escaped(name)}"'.encode(), *([b">", *rows, b"</table>"] if rows else [b"/>"])]
    parts.append(b"</database>")
    return b"".join(parts)


def _rows(table: str, block: Block, form: Form) -> bytes:
    """The rows of a block, column by column: what has to be escaped is looked for in all texts of a column at once."""
    template = "".join(['<row ref="%s"%s', *[f' {column}="%s"' for column in block.columns], "/>"])
    stamps = _stamps(block) if form.generations else [""] * len(block.refs)
    try:
        refs = _in_quotes(block.refs, _escaped)
        columns = [
            _in_quotes(texts, lambda text: _escaped(protect(text, form.every_space)))
            for texts in block.columns.values()
        ]
    except _IllegalError:
        row = next(row for row in block.rows() if _ILLEGAL.search("".join([row.ref, *row.cells.values()])))
        column = next((column for column, text in row.cells.items() if _ILLEGAL.search(text)), "")
        message = "it holds a character that XML cannot; remove it"
        raise DatabaseError(message, table=table, row=row.ref, column=column) from None
    return "".join(map(template.__mod__, zip(refs, stamps, *columns, strict=True))).encode()


def _stamps(block: Block) -> list[str]:
    """The generations of each row as attributes."""
    return [
        f' __ctime="{ctime}" __mtime="{mtime}"'
        if ctime is not None and mtime is not None
        else "".join([f' {name}="{at}"' for name, at in zip(_STAMPS, (ctime, mtime), strict=True) if at is not None])
        for ctime, mtime in zip(block.ctimes, block.mtimes, strict=True)
    ]


class _IllegalError(Exception):
    """A character that XML cannot hold."""


def _in_quotes(texts: Sequence[str], escaped: Callable[[str], str]) -> Sequence[str]:
    """Texts as attributes, by `escaped`, which takes many that are joined by NUL."""
    raw = "".join(texts)
    if not raw.isprintable() and _ILLEGAL.search(raw):
        raise _IllegalError
    raw = "\0".join(texts)
    written = escaped(raw)
    return texts if written == raw else written.split("\0")


def _escaped(text: str) -> str:
    """`text` for an attribute; what white space `protect` did not take is named by number, or readers see spaces."""
    text = text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;").replace('"', "&quot;")
    return text.replace("\t", "&#9;").replace("\n", "&#10;").replace("\r", "&#13;")


_STUB_TABLES = """
    Bond PBD PIF PIF_metrics SM SR VBD VBD_metrics VDI VIF VIF_metrics VLAN VM VM_guest_metrics VM_metrics VTPM console
    crashdump event host host_cpu host_crashdump host_metrics host_patch network pool pool_patch session task user
"""


def stub() -> bytes:
    """The constant document that a pool of mixed versions answers instead of its database.

    Schema 5.35, generation 103, the 30 tables of 4.1, all empty, and no XML declaration. Source: pool_db_backup.ml.
    """
    manifest = {_MAJOR: "5", _MINOR: "35", _GENERATION: "103"}
    return write(Database(manifest, {name: Table(name) for name in _STUB_TABLES.split()}, Form(declaration=False)))


def verify(db: Database) -> None:
    """Raise `DatabaseError` unless `db` is a whole pool's: one pool row, whose master is a host; tells a stub as such."""
    empty = not any(table.rows for table in db.tables.values())
    if (db.schema, db.generation) == ((5, 35), 103) and empty:
        raise DatabaseError(
            "this is the empty document that a pool answers while its hosts' versions are mixed, not its database;"
            " take the backup before the upgrade begins, or when all hosts have the same version again"
        )
    if db.master not in (row.ref for row in db.rows("host")):
        message = f"there is no host {db.master or 'named'} as the pool's master; {_AGAIN}"
        raise DatabaseError(message, table="pool", column="master")


@dataclass(frozen=True)
class Difference:
    """One place where two databases differ: a column's text before and after, None on the side that lacks it.

    A table or row on one side only is one difference, with an empty `column` and an empty text on the side that has it.
    A pair of the manifest has empty `table` and `ref`, and its key as `column`.
    """

    table: str
    ref: str
    column: str
    before: str | None
    after: str | None


def differences(a: Database, b: Database) -> list[Difference]:
    """What changed from `a` to `b`, in order of table, reference and column.

    Order, form and the rows' generations are not content; the texts of columns are compared as they are.
    """
    found = _unequal("", "", a.manifest, b.manifest)
    for name in sorted(a.tables.keys() | b.tables.keys()):
        old, new = a.tables.get(name), b.tables.get(name)
        if old is None or new is None:
            found.append(_one_sided(name, "", old))
            continue
        for ref in sorted(old.rows.keys() | new.rows.keys()):
            was, now = old.rows.get(ref), new.rows.get(ref)
            if was is None or now is None:
                found.append(_one_sided(name, ref, was))
            elif was.cells != now.cells:
                found += _unequal(name, ref, was.cells, now.cells)
    return found


def _one_sided(table: str, ref: str, before: object) -> Difference:
    return Difference(table, ref, "", None, "") if before is None else Difference(table, ref, "", "", None)


def _unequal(table: str, ref: str, before: Mapping[str, str], after: Mapping[str, str]) -> list[Difference]:
    texts = [(column, before.get(column), after.get(column)) for column in sorted(before.keys() | after.keys())]
    return [Difference(table, ref, column, old, new) for column, old, new in texts if old != new]


def digest(db: Database) -> str:
    """SHA-256 in hexadecimal over the content: equal for two databases exactly where `differences` finds none."""
    total = hashlib.sha256(json.dumps(db.manifest, sort_keys=True).encode())
    for name, table in sorted(db.tables.items()):
        total.update(json.dumps(name).encode())
        for ref, row in sorted(table.rows.items()):
            total.update(json.dumps([ref, row.cells], sort_keys=True).encode())
    return total.hexdigest()


_SECRET_COLUMNS = (("secret", "value"), ("pool", "wlb_password"), ("Cluster", "cluster_token"))
_SECRET_KEY = re.compile(r".*(?:password|passwd|_transformed)", re.IGNORECASE | re.DOTALL)


def redact(db: Database) -> Database:
    """A copy of `db` that can be shown: each secret's text is `REDACTED`.

    Secrets are the manifest's pool token, `secret.value`, `Cluster.cluster_token`, `pool.wlb_password`, and passwords in
    `PBD.device_config`; empty texts and references stay. Licences, VM and session rows are as they were. Raises
    `DatabaseError` for a `device_config` that cannot be understood, as nobody can say what it holds.
    """
    safe = db.copy()
    if "pool_token" in safe.manifest:
        safe.manifest["pool_token"] = REDACTED
    harmless = {"", "OpaqueRef:NULL", *(row.ref for row in safe.rows("secret"))}
    for table, column in _SECRET_COLUMNS:
        for row in safe.rows(table):
            if row.cells.get(column, "") not in harmless:
                row.cells[column] = REDACTED
    for row in (row for row in safe.rows("PBD") if "device_config" in row.cells):
        try:
            pairs = parse_map(row.cells["device_config"])
            hidden = {key: REDACTED if text and _SECRET_KEY.fullmatch(key) else text for key, text in pairs.items()}
            # Written in any case, as the old text may hold more than its pairs: comments, a key that comes twice.
            row.cells["device_config"] = write_map(hidden)
        except ValueError as error:
            message = f"the map cannot be understood, so nobody knows its secrets ({error}); correct it"
            raise DatabaseError(message, table="PBD", row=row.ref, column="device_config") from None
    return safe
