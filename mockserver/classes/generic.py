"""The messages that follow from the data model: fields, records, queries, creation and destruction."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from xenctl.wire import Encoded

from ..call import Call, refuse
from ..columns import EMPTY_KEY
from ..store import Row, Store, to_text

if TYPE_CHECKING:
    from xenctl.datamodel import Message

Function = Callable[..., Any]


def get(message: Message) -> Function:
    table, field = message.class_name, message.field
    return lambda call, ref: call.db.get(table, ref)[field]


def set_(message: Message) -> Function:
    table, field = message.class_name, message.field

    def verb(call: Call, ref: str, value: Any) -> str:
        call.db.write(call.db.get(table, ref), **{field: value})
        return ""

    return verb


def add(message: Message) -> Function:
    table, field = message.class_name, message.field

    def verb(call: Call, ref: str, value: Any) -> str:
        row = call.db.get(table, ref)
        if value not in row[field]:
            call.db.write(row, **{field: [value, *row[field]]})
        return ""

    return verb


def remove(message: Message) -> Function:
    table, field = message.class_name, message.field

    def verb(call: Call, ref: str, value: Any) -> str:
        row = call.db.get(table, ref)
        call.db.write(row, **{field: [member for member in row[field] if member != value]})
        return ""

    return verb


def add_to(message: Message) -> Function:
    table, field = message.class_name, message.field

    def verb(call: Call, ref: str, key: str, value: Any) -> str:
        row = call.db.get(table, ref)
        if not key:
            raise refuse(*EMPTY_KEY)
        if key in row[field]:
            column = call.db.shape(table).fields[field].column
            raise refuse("MAP_DUPLICATE_KEY", table, column, ref, key)
        call.db.write(row, **{field: {key: value, **row[field]}})
        return ""

    return verb


def remove_from(message: Message) -> Function:
    table, field = message.class_name, message.field

    def verb(call: Call, ref: str, key: str) -> str:
        row = call.db.get(table, ref)
        call.db.write(row, **{field: {k: v for k, v in row[field].items() if k != key}})
        return ""

    return verb


def get_record(message: Message) -> Function:
    table = message.class_name
    return lambda call, ref: call.db.record(call.db.get(table, ref))


def get_by_uuid(message: Message) -> Function:
    table = message.class_name

    def verb(call: Call, uuid: str) -> str:
        return call.db.identified(table, uuid).ref

    return verb


def get_by_name_label(message: Message) -> Function:
    table = message.class_name
    return lambda call, label: [ref for ref in _refs(call.db, table) if call.db.get(table, ref)["name_label"] == label]


def get_all(message: Message) -> Function:
    table = message.class_name
    return lambda call: _refs(call.db, table)


def get_all_records(message: Message) -> Function:
    table = message.class_name

    def verb(call: Call) -> Any:
        if call.encode is not None:
            return Encoded(call.db.encoded(table, call.encode))
        return {ref: call.db.record(call.db.get(table, ref)) for ref in _refs(call.db, table)}

    return verb


def get_all_where(message: Message) -> Function:
    table = message.class_name
    return lambda call, query: [row.ref for row in _matching(call.db, table, query)]


def get_all_records_where(message: Message) -> Function:
    table = message.class_name
    return lambda call, query: {row.ref: call.db.record(row) for row in _matching(call.db, table, query)}


def create(message: Message) -> Function:
    table = message.class_name

    def verb(call: Call, args: dict[str, Any]) -> str:
        return make(call, table, args).ref

    return verb


def make(call: Call, table: str, args: dict[str, Any], **more: Any) -> Row:
    """A new row of `table` from a constructor's members; `more` wins over them."""
    return call.db.create(table, call.pool.new_ref(), {"uuid": call.pool.new_uuid(), **args, **more})


def destroy(message: Message) -> Function:
    table = message.class_name

    def verb(call: Call, ref: str) -> str:
        call.db.delete(call.db.get(table, ref))
        return ""

    return verb


def _refs(store: Store, table: str) -> list[str]:
    return sorted(store.table(table), reverse=True)


# --- the query language: value = value, and, or, not (which binds loosest), parentheses, true, false

_TOKEN = re.compile(r'[ \t\n]*(?:"([^"]*)"|(field|and|or|not|true|false)\b|([()=])|([^ \t\n]))')
Test = Callable[[Row], bool]
Read = Callable[[Row], str]


def _matching(store: Store, table: str, query: str) -> Iterator[Row]:
    test = parse_query(query, store, table)
    for ref in _refs(store, table):
        row = store.get(table, ref)
        if test(row):
            yield row


def parse_query(query: str, store: Store, table: str) -> Test:
    """The test that a query expresses; columns go by their database names. Raises `INVALID_VALUE`."""
    columns = {field.column: name for name, field in store.shape(table).fields.items()}
    tokens: list[tuple[str, str]] = []
    for match in _TOKEN.finditer(query):
        text, word, sign, bad = match.groups()
        if bad:
            raise refuse("INVALID_VALUE", query, 'Failure("lexing: empty token")')
        tokens.append(("text", text) if text is not None else ("sign", word or sign))
    position = 0

    def peek() -> tuple[str, str]:
        return tokens[position] if position < len(tokens) else ("end", "")

    def take() -> tuple[str, str]:
        nonlocal position
        token = peek()
        position += 1
        return token

    def expect(sign: str) -> None:
        if take() != ("sign", sign):
            raise refuse("INVALID_VALUE", query, "Stdlib.Parsing.Parse_error")

    def value() -> Read:
        kind, text = take()
        if kind == "text":
            return lambda row: text
        if (kind, text) != ("sign", "field") or peek()[0] != "text":
            raise refuse("INVALID_VALUE", query, "Stdlib.Parsing.Parse_error")
        column = take()[1]
        return lambda row: _column(row, columns, column)

    def term() -> Test:
        kind, text = peek()
        if (kind, text) == ("sign", "("):
            take()
            inner = expression()
            expect(")")
            return inner
        if kind == "sign" and text in ("true", "false"):
            take()
            return lambda row: text == "true"
        left = value()
        expect("=")
        right = value()
        return lambda row: left(row) == right(row)

    def expression() -> Test:
        if peek() == ("sign", "not"):
            take()
            inner = expression()
            return lambda row: not inner(row)
        test = term()
        while peek() in (("sign", "and"), ("sign", "or")):
            word = take()[1]
            if peek() == ("sign", "not"):
                right = expression()
            else:
                right = term()
            test = _joined(word, test, right)
        return test

    out = expression()
    if peek()[0] != "end":
        raise refuse("INVALID_VALUE", query, "Stdlib.Parsing.Parse_error")
    return out


def _joined(word: str, left: Test, right: Test) -> Test:
    if word == "and":
        return lambda row: left(row) and right(row)
    return lambda row: left(row) or right(row)


def _column(row: Row, columns: dict[str, str], column: str) -> str:
    if column == "_ref":
        return row.ref
    if column not in columns:
        raise refuse("INTERNAL_ERROR", "missing field", column, "")
    return to_text(row[columns[column]])


# --- explicit messages that do no more than those of a field

PLAIN = frozenset(
    "VM.other_config VM.platform VM.HVM_boot_policy VM.actions_after_crash VM.order VM.start_delay VM.shutdown_delay "
    "VM.blocked_operations task.other_config".split()
)
"""The fields whose explicit messages only write to the database, in every release that there is a pool of."""


def plain(message: Message) -> Function | None:
    """The function of an explicit message that only writes a field, if it is one."""
    for prefix, maker in (("set", set_), ("add_to", add_to), ("remove_from", remove_from)):
        field = message.name.removeprefix(f"{prefix}_")
        if field != message.name and f"{message.class_name}.{field}" in PLAIN:
            return maker(replace(message, field=field))
    return None


KINDS: dict[str, Callable[[Message], Function]] = {
    "get": get,
    "set": set_,
    "add": add,
    "remove": remove,
    "add_to": add_to,
    "remove_from": remove_from,
    "get_record": get_record,
    "get_by_uuid": get_by_uuid,
    "get_by_name_label": get_by_name_label,
    "get_all": get_all,
    "get_all_records": get_all_records,
    "get_all_where": get_all_where,
    "get_all_records_where": get_all_records_where,
    "create": create,
    "destroy": destroy,
}
