"""XML-RPC as xapi speaks it: bytes to values and back, for client and server; no sockets.

Writing follows xapi's one regular shape: no white space, text and whole numbers without a type tag, `<double>`,
`<boolean>`, `<dateTime.iso8601>`, `<array>`, `<struct>`. xapi accepts the same shape from clients (digits without a tag
pass for an int, of 64 bits too), so both sides share one encoder; what they write differently is in a `_Dialect`.
Reading walks a tree that lxml built with entities and the network switched off, and takes any valid spelling; what the
two sides read differently is in their table of readers. A document with a DTD is refused before it is parsed, and every
document is read as UTF-8 whatever it declares, so nothing can hide one. Dates arrive as `values.Timestamp`, everything
else as plain Python values.
"""

from __future__ import annotations

import re
from base64 import b64decode
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from . import bulk
from .errors import failure
from .values import Timestamp
from .wire import (
    CONTROL,
    I4,
    MAX_DEPTH,
    Encoded,
    MalformedError,
    Pieces,
    member_name,
    misplaced,
    no_controls,
    no_page,
    plain,
)

if TYPE_CHECKING:
    from lxml.etree import XMLParser, XMLSyntaxError, _Element

PROLOG = '<?xml version="1.0"?>'


@dataclass(frozen=True)
class _Dialect:
    """What client and server write differently: characters that XML cannot carry, carriage returns, empty keys, floats."""

    checked: Callable[[str], str]
    carriage_return: str
    empty_keys: bool
    double: str


def _without_controls(text: str) -> str:
    return CONTROL.sub("", text)


_CLIENT = _Dialect(no_controls, "&#13;", empty_keys=False, double="")
_SERVER = _Dialect(_without_controls, "\r", empty_keys=True, double=".16g")


def encode(value: Any, *, lenient: bool = False) -> str:
    """`value` as a `<value>` element.

    `str`, `bool`, `int` of 64 bits, `float`, `datetime`, lists, tuples, sets and mappings are taken; anything else is a
    `TypeError`. `lenient` is the server's way: control characters are dropped and floats rounded to 16 digits. A client
    refuses with `ValueError` what would not arrive as it is. No error repeats the value: it may be a password.
    """
    out: list[str] = []
    _encode(value, out.append, _SERVER if lenient else _CLIENT)
    return "".join(out)


def _escaped(text: str, dialect: _Dialect) -> str:
    plain = text.isprintable()
    if not plain:
        text = dialect.checked(text)
    if "&" in text or "<" in text or ">" in text or '"' in text:
        text = text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;").replace('"', "&quot;")
    return text if plain else text.replace("\r", dialect.carriage_return)


def _encode(value: Any, write: Callable[[str], None], dialect: _Dialect) -> None:
    kind = type(value)
    if kind is str:
        write(f"<value>{_escaped(value, dialect)}</value>")
    elif kind is int:
        if not -(2**63) <= value < 2**63:
            raise ValueError("the number does not fit in 64 bits")
        write(f"<value>{value}</value>")
    elif kind is bool:
        write(_TRUE if value else _FALSE)
    elif kind is list or kind is tuple:
        write("<value><array><data>")
        for item in value:
            if type(item) is str:
                write(f"<value>{_escaped(item, dialect)}</value>")
            else:
                _encode(item, write, dialect)
        write("</data></array></value>")
    elif kind is dict:
        _encode_struct(value, write, dialect)
    elif kind is float:
        write(f"<value><double>{value:{dialect.double}}</double></value>")
    elif kind is Timestamp:
        write(f"<value><dateTime.iso8601>{_escaped(value, dialect)}</dateTime.iso8601></value>")
    elif kind is I4:
        write(f"<value><i4>{int(value)}</i4></value>")
    else:
        _encode(plain(value), write, dialect)


def _encode_struct(value: dict[Any, Any], write: Callable[[str], None], dialect: _Dialect) -> None:
    write("<value><struct>")
    for name, item in value.items():
        if type(name) is not str:
            name = member_name(name)
        if not name and not dialect.empty_keys:
            raise ValueError("a map's key cannot be empty: xapi takes such a call for malformed")
        if not name.isidentifier():
            name = _escaped(name, dialect)
        kind = type(item)
        if kind is str:
            write(f"<member><name>{name}</name><value>{item and _escaped(item, dialect)}</value></member>")
        elif item or kind not in _EMPTY:
            write(f"<member><name>{name}</name>")
            _encode(item, write, dialect)
            write("</member>")
        else:
            write(f"<member><name>{name}</name>{_EMPTY[kind]}</member>")
    write("</struct></value>")


_TRUE, _FALSE = "<value><boolean>1</boolean></value>", "<value><boolean>0</boolean></value>"
_EMPTY: Mapping[type, str] = {
    bool: _FALSE,
    dict: "<value><struct></struct></value>",
    list: "<value><array><data></data></array></value>",
}
"""What is written for values that are false, by type."""


def dumps_call(method: str, params: Sequence[Any], *, first: int = 1) -> bytes:
    """The bytes of a call of `method` with positional `params`.

    Raises `TypeError` or `ValueError` naming the method and the parameter; these are counted from `first`, which is 0
    where the first one is the session.
    """
    out = [PROLOG, "<methodCall><methodName>", _escaped(method, _CLIENT), "</methodName><params>"]
    for number, param in enumerate(params, first):
        out.append("<param>")
        try:
            _encode(param, out.append, _CLIENT)
        except (TypeError, ValueError, RecursionError) as error:
            raise misplaced(error, method, number) from None
        out.append("</param>")
    out.append("</params></methodCall>")
    return "".join(out).encode()


_HEAD = f"{PROLOG}<methodResponse><params><param>"
_TAIL = "</param></params></methodResponse>"
_SUCCESS = f"{_HEAD}<value><struct><member><name>Status</name><value>Success</value></member><member><name>Value</name>"
_FAILURE = (
    f"{_HEAD}<value><struct><member><name>Status</name><value>Failure</value></member>"
    "<member><name>ErrorDescription</name>"
)
_END = f"</member></struct></value>{_TAIL}"


_MAP, _MAP_END = f"{_SUCCESS}<value><struct>".encode(), f"</struct></value>{_END}".encode()


def member(name: str, value: Any) -> bytes:
    """One member of a map, as `Encoded` takes it."""
    written = encode(value, lenient=True)
    return f"<member><name>{_escaped(name, _SERVER)}</name>{written}</member>".encode("utf-8", "replace")


def dumps_records(records: Encoded) -> Pieces:
    """The bytes with which a server answers a call that succeeded with `records`."""
    return Pieces((_MAP, *records.members, _MAP_END))


def dumps_success(value: Any) -> bytes:
    """The bytes with which a server answers a call that succeeded with `value`."""
    return f"{_SUCCESS}{encode(value, lenient=True)}{_END}".encode("utf-8", "replace")


def dumps_failure(details: Sequence[str]) -> bytes:
    """The bytes with which a server refuses a call; `details` is `[code, *params]`."""
    return f"{_FAILURE}{encode(list(details), lenient=True)}{_END}".encode("utf-8", "replace")


def dumps_bare(value: Any) -> bytes:
    """The bytes of an answer without the status struct, as `system.listMethods` gives it."""
    return f"{_HEAD}{encode(value, lenient=True)}{_TAIL}".encode("utf-8", "replace")


@lru_cache(maxsize=1)
def _parser() -> tuple[Callable[[bytes, XMLParser], _Element], Callable[[], XMLParser], type[XMLSyntaxError]]:
    from lxml import etree

    def make() -> XMLParser:
        return etree.XMLParser(
            encoding="utf-8",
            resolve_entities=False,
            no_network=True,
            load_dtd=False,
            huge_tree=True,
            remove_comments=True,
            remove_pis=True,
        )

    return etree.fromstring, make, etree.XMLSyntaxError


def _parse(data: bytes) -> _Element:
    no_page(data)
    if b"<!DOCTYPE" in data:
        raise MalformedError("the document has a DTD, which XML-RPC never has")
    fromstring, make, syntax_error = _parser()
    try:
        return fromstring(data, make())
    except syntax_error as error:
        raise MalformedError(_why(data, error)) from None


_RAW_KEY = re.compile(
    rb"<name>([^<]{0,200}?(?:&(?!(?:amp|lt|gt|quot|apos|#[0-9]+|#x[0-9a-fA-F]+);)|<(?!/name>)).{0,200}?)</name>",
    re.DOTALL,
)


def _why(data: bytes, error: XMLSyntaxError) -> str:
    """What is wrong with a document that is not XML; the usual cause is a key that xapi did not escape."""
    raw = _RAW_KEY.search(data)
    if raw is None:
        return f"not XML: {error.msg or 'the document is empty'}"
    key = raw[1].decode("utf-8", "replace")
    return (
        f"not XML: the key {key!r} of a map has & or < in it, which the server does not escape; remove that key, or "
        "read the other fields one by one"
    )


Readers = Mapping[Any, Callable[["_Element", "Readers", int], Any]]


def _decode(element: _Element, readers: Readers, depth: int = 0) -> Any:
    if element.tag != "value":
        raise MalformedError(f"expected <value>, got {_tag(element)}")
    children = len(element)
    if children == 0:
        return element.text or ""
    if children != 1:
        raise MalformedError("a <value> has more than one content")
    typed = element[0]
    reader = readers.get(typed.tag)
    if reader is None:
        raise MalformedError(f"no such type: {_tag(typed)}")
    if depth >= MAX_DEPTH:
        raise MalformedError(f"values nested deeper than {MAX_DEPTH}")
    if _is_text(element.text) or _is_text(typed.tail):
        raise MalformedError(f"a <value> has text beside its {_tag(typed)}")
    return reader(typed, readers, depth + 1)


def _tag(element: _Element) -> str:
    return f"<{element.tag!s}>"


def _is_text(text: str | None) -> bool:
    return text is not None and not text.isspace()


def _scalar(element: _Element) -> str:
    if len(element):
        raise MalformedError(f"{_tag(element)} has children")
    return element.text or ""


def _shown(text: str) -> str:
    return repr(text if len(text) <= 60 else text[:60] + "…")


def _read_string(element: _Element, readers: Readers, depth: int) -> str:
    return _scalar(element)


_INT = re.compile(r"\s*([+-]?[0-9]{1,40})\s*\Z", re.ASCII)


def _read_int(element: _Element, readers: Readers, depth: int) -> int:
    text = _scalar(element)
    match = _INT.match(text)
    if match is None:
        raise MalformedError(f"{_tag(element)} holds no whole number: {_shown(text)}")
    number = int(match[1])
    if not -(2**63) <= number < 2**63:
        raise MalformedError(f"{_tag(element)} holds a number of more than 64 bits: {_shown(text)}")
    return number


def _read_boolean(element: _Element, readers: Readers, depth: int) -> bool:
    text = _scalar(element).strip()
    if text not in ("0", "1"):
        raise MalformedError(f"<boolean> holds neither 0 nor 1: {_shown(text)}")
    return text == "1"


def _read_boolean_as_xapi(element: _Element, readers: Readers, depth: int) -> bool:
    text = _scalar(element)
    if not text:
        raise MalformedError("<boolean> is empty")
    return text == "1"


def _read_double(element: _Element, readers: Readers, depth: int) -> float:
    text = _scalar(element)
    try:
        if "_" not in text and text.isascii():
            return float(text)
    except ValueError:
        pass
    raise MalformedError(f"<double> holds no number: {_shown(text)}")


def _read_datetime(element: _Element, readers: Readers, depth: int) -> Timestamp:
    text = _scalar(element).strip()
    if not text:
        raise MalformedError("<dateTime.iso8601> is empty")
    return Timestamp(text)


def _read_base64(element: _Element, readers: Readers, depth: int) -> bytes:
    try:
        return b64decode("".join(_scalar(element).split()), validate=True)
    except ValueError:
        raise MalformedError("<base64> holds something else") from None


def _read_nil(element: _Element, readers: Readers, depth: int) -> None:
    if _scalar(element).strip():
        raise MalformedError("<nil> is not empty")


def _read_array(element: _Element, readers: Readers, depth: int) -> list[Any]:
    if len(element) == 0:
        return []
    if len(element) != 1 or element[0].tag != "data":
        raise MalformedError("an <array> holds one <data>")
    return [_decode(item, readers, depth) for item in element[0]]


def _read_struct(element: _Element, readers: Readers, depth: int) -> dict[str, Any]:
    out: dict[str, Any] = {}
    for member in element:
        if member.tag != "member" or len(member) != 2 or member[0].tag != "name":
            raise MalformedError("a <struct> holds <member>s of one <name> and one <value>")
        out[_scalar(member[0])] = _decode(member[1], readers, depth)
    return out


_CLIENT_READERS: Readers = {
    "string": _read_string,
    "int": _read_int,
    "i4": _read_int,
    "i8": _read_int,
    "boolean": _read_boolean,
    "double": _read_double,
    "dateTime.iso8601": _read_datetime,
    "base64": _read_base64,
    "array": _read_array,
    "struct": _read_struct,
    "nil": _read_nil,
}
_SERVER_READERS: Readers = {**_CLIENT_READERS, "boolean": _read_boolean_as_xapi}
"""xapi takes any text but `1` for false."""


def loads_value(text: str | bytes) -> Any:
    """The value of one `<value>` element alone, as a task's `result` holds it; empty text is no value: `""`."""
    data = text.encode() if isinstance(text, str) else text
    return _decode(_parse(data), _CLIENT_READERS) if data.strip() else ""


_SIMPLE_CALL = re.compile(
    rb"<\?xml version=(?:'1\.0'|\"1\.0\")\?>\s*<methodCall>\s*<methodName>([A-Za-z0-9_.]+)</methodName>\s*<params>\s*"
    rb"((?:<param>\s*<value>(?:[ -%'-;=-~]*|<string>[ -%'-;=-~]*</string>)</value>\s*</param>\s*)*)"
    rb"</params>\s*</methodCall>\s*"
)
"""A call whose parameters are texts of plain ASCII: what is asked most."""
_simple_texts = re.compile(r"<value>(?:<string>)?([^<]*)<").findall


def loads_call(data: bytes) -> tuple[str, list[Any]]:
    """The method and parameters of a call. Raises `MalformedError`."""
    simple = _SIMPLE_CALL.fullmatch(data)
    if simple is not None:
        return simple[1].decode(), _simple_texts(simple[2].decode())
    return walk_call(data)


_SPOILED = {0xDC00 + byte: 0x10FF00 + byte for byte in range(0x80, 0x100)}
_RESTORED = {stand_in: surrogate for surrogate, stand_in in _SPOILED.items()}
"""What stands for a byte that is no UTF-8 while a tree is built: surrogates, which Python has for that, XML cannot hold."""


def loads_spoiled_call(data: bytes) -> tuple[str, list[Any]]:
    """The same of one that is not UTF-8: what is not comes as surrogates. Raises `MalformedError` for what is no call even
    so."""
    text = data.decode("utf-8", "surrogateescape").translate(_SPOILED)
    method, params = walk_call(text.encode())
    return method, _restored(params)


def _restored(value: Any) -> Any:
    if isinstance(value, dict):
        return {_restored(key): _restored(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_restored(item) for item in value]
    return value.translate(_RESTORED) if isinstance(value, str) else value


def walk_call(data: bytes) -> tuple[str, list[Any]]:
    """The same by walking a tree alone, whatever the shape."""
    root = _parse(data)
    if root.tag != "methodCall" or len(root) != 2 or root[0].tag != "methodName" or root[1].tag != "params":
        raise MalformedError("not a <methodCall> with <methodName> and <params>")
    return _scalar(root[0]), [_decode(_only(param, "param"), _SERVER_READERS) for param in root[1]]


def _only(element: _Element, tag: str) -> _Element:
    if element.tag != tag or len(element) != 1:
        raise MalformedError(f"expected <{tag}> with one child")
    return element[0]


_SIMPLE_RESPONSE = re.compile(
    re.escape(_SUCCESS.encode()) + rb"<value>([ -%'-;=-~]*)</value>" + re.escape(_END.encode())
)
"""An answer that is a text of plain ASCII."""


def loads_response(data: bytes, *, lazy: bool = False) -> Any:
    """The value of an answer. Raises `Failure` for a refusal and `MalformedError` for anything that is not an answer.

    A bare array, without the status struct, is what `system.listMethods` gives. With `lazy`, records that come in bulk may
    be `bulk.WireRecord`s, which read a field when it is asked for.
    """
    simple = _SIMPLE_RESPONSE.fullmatch(data)
    if simple is not None:
        return simple[1].decode()
    records = bulk.decode(data, lazy=lazy)
    return walk_response(data) if records is None else records


def walk_response(data: bytes) -> Any:
    """The same by walking a tree alone, whatever the shape."""
    root = _parse(data)
    if root.tag != "methodResponse" or len(root) != 1:
        raise MalformedError(f"not a <methodResponse>: {_tag(root)}")
    body = root[0]
    if body.tag == "fault":
        fault = _decode(_only(body, "fault"), _CLIENT_READERS)
        if not isinstance(fault, dict):
            raise MalformedError("a <fault> without a struct")
        raise failure(["fault", str(fault.get("faultCode", "")), str(fault.get("faultString", ""))])
    answer = _decode(_only(_only(body, "params"), "param"), _CLIENT_READERS)
    if isinstance(answer, list):
        return answer
    if not isinstance(answer, dict) or "Status" not in answer:
        raise MalformedError("an answer without a status")
    if answer["Status"] == "Success" and "Value" in answer:
        return answer["Value"]
    details = answer.get("ErrorDescription")
    if answer["Status"] == "Failure" and isinstance(details, list) and details:
        raise failure([str(part) for part in details])
    raise MalformedError(f"an answer with status {_shown(str(answer['Status']))} and neither value nor error")
