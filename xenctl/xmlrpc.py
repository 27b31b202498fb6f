"""XML-RPC as xapi speaks it: bytes to values and back, for client and server; no sockets.

Writing follows xapi's one regular shape: no white space, text and whole numbers without a type tag, `<double>`,
`<boolean>`, `<dateTime.iso8601>`, `<array>`, `<struct>`. xapi accepts the same shape from clients (digits without a tag
pass for an int, of 64 bits too), so both sides share one encoder; they differ only in how they treat characters that
XML cannot carry. Reading walks a tree that lxml built with entities, DTDs and the network switched off, and takes any
valid spelling. Dates arrive as `values.Timestamp`, everything else as plain Python values.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence, Set
from datetime import datetime
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from .errors import failure
from .values import Timestamp, format_datetime

if TYPE_CHECKING:
    from lxml.etree import XMLParser, _Element

PROLOG = '<?xml version="1.0"?>'
MAX_DEPTH = 100
"""Deeper nesting than any XenAPI type has; an answer that goes beyond is refused."""

_SPECIAL = re.compile('[&<>"\r\x00-\x08\x0b\x0c\x0e-\x1f\ufffe\uffff\ud800-\udfff]')
_ENTITIES = {"&": "&amp;", "<": "&lt;", ">": "&gt;", '"': "&quot;"}


class MalformedError(ValueError):
    """The bytes are not XML-RPC; the text says where."""


class I4(int):
    """An int that is written with an `<i4>` tag, as xapi does for `valid_ref_counts` alone."""


def _client_character(match: re.Match[str]) -> str:
    character = match.group()
    if character == "\r":
        return "&#13;"
    if character in _ENTITIES:
        return _ENTITIES[character]
    raise ValueError(f"the text has a character that XML cannot carry: {character!r} in {match.string[:60]!r}")


def _server_character(match: re.Match[str]) -> str:
    character = match.group()
    return character if character == "\r" else _ENTITIES.get(character, "")


def encode(value: Any, *, lenient: bool = False) -> str:
    """`value` as a `<value>` element.

    `str`, `bool`, `int`, `float`, `datetime`, lists, tuples, sets and mappings are taken; anything else is a
    `TypeError`. `lenient` is the server's way with control characters (they are dropped); a client refuses them.
    """
    out: list[str] = []
    _encode(value, out.append, _server_character if lenient else _client_character)
    return "".join(out)


def _encode(value: Any, write: Callable[[str], None], character: Callable[[re.Match[str]], str]) -> None:
    kind = type(value)
    if kind is str:
        write(f"<value>{_SPECIAL.sub(character, value)}</value>")
    elif kind is int:
        write(f"<value>{value}</value>")
    elif kind is bool:
        write("<value><boolean>1</boolean></value>" if value else "<value><boolean>0</boolean></value>")
    elif kind is list or kind is tuple:
        write("<value><array><data>")
        for item in value:
            _encode(item, write, character)
        write("</data></array></value>")
    elif kind is dict:
        write("<value><struct>")
        for name, item in value.items():
            if type(name) is not str:
                name = _member_name(name)
            write(f"<member><name>{_SPECIAL.sub(character, name)}</name>")
            _encode(item, write, character)
            write("</member>")
        write("</struct></value>")
    elif kind is float:
        write(f"<value><double>{value:.16g}</double></value>")
    elif kind is Timestamp:
        write(f"<value><dateTime.iso8601>{value}</dateTime.iso8601></value>")
    elif kind is I4:
        write(f"<value><i4>{int(value)}</i4></value>")
    elif isinstance(value, str):
        _encode(str(value), write, character)
    elif isinstance(value, datetime):
        _encode(format_datetime(value), write, character)
    elif isinstance(value, bool):
        _encode(bool(value), write, character)
    elif isinstance(value, int):
        _encode(int(value), write, character)
    elif isinstance(value, float):
        _encode(float(value), write, character)
    elif isinstance(value, Mapping):
        _encode(dict(value), write, character)
    elif isinstance(value, (Set, Sequence)) and not isinstance(value, (bytes, bytearray)):
        _encode(list(value), write, character)
    else:
        raise TypeError(f"XenAPI has no form for a {kind.__name__}: {value!r}")


def _member_name(name: Any) -> str:
    if isinstance(name, (str, int)) and not isinstance(name, bool):
        return str(name)
    raise TypeError(f"a map's key is text or a whole number, not a {type(name).__name__}: {name!r}")


def dumps_call(method: str, params: Sequence[Any]) -> bytes:
    """The bytes of a call of `method` with positional `params`."""
    out = [PROLOG, "<methodCall><methodName>", _SPECIAL.sub(_client_character, method), "</methodName><params>"]
    for number, param in enumerate(params, 1):
        out.append("<param>")
        try:
            _encode(param, out.append, _client_character)
        except (TypeError, ValueError) as error:
            raise type(error)(f"{method}, parameter {number}: {error}") from None
        out.append("</param>")
    out.append("</params></methodCall>")
    return "".join(out).encode()


_HEAD = f"{PROLOG}<methodResponse><params><param>"
_TAIL = "</param></params></methodResponse>"
_SUCCESS = (
    f"{_HEAD}<value><struct><member><name>Status</name><value>Success</value></member><member><name>Value</name>"
)
_FAILURE = (
    f"{_HEAD}<value><struct><member><name>Status</name><value>Failure</value></member>"
    "<member><name>ErrorDescription</name>"
)
_END = f"</member></struct></value>{_TAIL}"


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
def _parser() -> tuple[Callable[[bytes, XMLParser], _Element], Callable[[], XMLParser], type[Exception]]:
    from lxml import etree

    def make() -> XMLParser:
        return etree.XMLParser(
            resolve_entities=False,
            no_network=True,
            load_dtd=False,
            huge_tree=True,
            remove_comments=True,
            remove_pis=True,
        )

    return etree.fromstring, make, etree.XMLSyntaxError


def _parse(data: bytes) -> _Element:
    fromstring, make, syntax_error = _parser()
    try:
        root = fromstring(data, make())
    except (syntax_error, ValueError) as error:
        raise MalformedError(f"not XML: {error}") from None
    if root.getroottree().docinfo.doctype:
        raise MalformedError("the document has a DTD, which XML-RPC never has")
    return root


def _decode(element: _Element, depth: int = 0) -> Any:
    if element.tag != "value":
        raise MalformedError(f"expected <value>, got <{element.tag}>")
    children = len(element)
    if children == 0:
        return element.text or ""
    if children != 1:
        raise MalformedError("a <value> has more than one content")
    typed = element[0]
    decoder = _DECODERS.get(typed.tag)
    if decoder is None:
        raise MalformedError(f"no such type: <{typed.tag}>")
    if depth > MAX_DEPTH:
        raise MalformedError(f"values nested deeper than {MAX_DEPTH}")
    return decoder(typed, depth + 1)


def _scalar(element: _Element) -> str:
    if len(element):
        raise MalformedError(f"<{element.tag}> has children")
    return element.text or ""


def _decode_string(element: _Element, depth: int) -> str:
    return _scalar(element)


def _decode_int(element: _Element, depth: int) -> int:
    try:
        return int(_scalar(element))
    except ValueError:
        raise MalformedError(f"<{element.tag}> holds no whole number: {element.text!r}") from None


def _decode_boolean(element: _Element, depth: int) -> bool:
    text = _scalar(element).strip()
    if not text:
        raise MalformedError("<boolean> is empty")
    return text == "1"


def _decode_double(element: _Element, depth: int) -> float:
    try:
        return float(_scalar(element))
    except ValueError:
        raise MalformedError(f"<double> holds no number: {element.text!r}") from None


def _decode_datetime(element: _Element, depth: int) -> Timestamp:
    return Timestamp(_scalar(element).strip())


def _decode_nil(element: _Element, depth: int) -> None:
    return None


def _decode_array(element: _Element, depth: int) -> list[Any]:
    if len(element) == 0:
        return []
    if len(element) != 1 or element[0].tag != "data":
        raise MalformedError("an <array> holds one <data>")
    return [_decode(item, depth) for item in element[0]]


def _decode_struct(element: _Element, depth: int) -> dict[str, Any]:
    out: dict[str, Any] = {}
    for member in element:
        if member.tag != "member" or len(member) != 2 or member[0].tag != "name":
            raise MalformedError("a <struct> holds <member>s of one <name> and one <value>")
        out[_scalar(member[0])] = _decode(member[1], depth)
    return out


_DECODERS: dict[Any, Callable[[_Element, int], Any]] = {
    "string": _decode_string,
    "int": _decode_int,
    "i4": _decode_int,
    "i8": _decode_int,
    "boolean": _decode_boolean,
    "double": _decode_double,
    "dateTime.iso8601": _decode_datetime,
    "array": _decode_array,
    "struct": _decode_struct,
    "nil": _decode_nil,
}


def loads_value(text: str | bytes) -> Any:
    """The value of one `<value>` element alone, as a task's `result` holds it; empty text is no value: `""`."""
    data = text.encode() if isinstance(text, str) else text
    return _decode(_parse(data)) if data.strip() else ""


def loads_call(data: bytes) -> tuple[str, list[Any]]:
    """The method and parameters of a call. Raises `MalformedError`."""
    root = _parse(data)
    if root.tag != "methodCall" or len(root) != 2 or root[0].tag != "methodName" or root[1].tag != "params":
        raise MalformedError("not a <methodCall> with <methodName> and <params>")
    return _scalar(root[0]), [_decode(_only(param, "param")) for param in root[1]]


def _only(element: _Element, tag: str) -> _Element:
    if element.tag != tag or len(element) != 1:
        raise MalformedError(f"expected <{tag}> with one child")
    return element[0]


def loads_response(data: bytes) -> Any:
    """The value of an answer. Raises `Failure` for a refusal and `MalformedError` for anything that is not an answer."""
    root = _parse(data)
    if root.tag != "methodResponse" or len(root) != 1:
        raise MalformedError(f"not a <methodResponse>: <{root.tag}>")
    body = root[0]
    if body.tag == "fault":
        fault = _decode(_only(body, "fault"))
        if not isinstance(fault, dict):
            raise MalformedError("a <fault> without a struct")
        raise failure(["fault", str(fault.get("faultCode", "")), str(fault.get("faultString", ""))])
    answer = _decode(_only(_only(body, "params"), "param"))
    if not isinstance(answer, dict) or "Status" not in answer:
        return answer
    if answer["Status"] == "Success" and "Value" in answer:
        return answer["Value"]
    details = answer.get("ErrorDescription")
    if answer["Status"] == "Failure" and isinstance(details, list) and details:
        raise failure([str(part) for part in details])
    raise MalformedError(f"an answer with status {answer['Status']!r} and neither value nor error")
