"""JSON-RPC as xapi speaks it at `/jsonrpc` from 7.0 on: bytes to values and back, for client and server; no sockets.

A call says the same over JSON-RPC as over XML-RPC, and is refused for the same reasons: whole numbers go as text of digits,
which xapi takes for an int and for text alike, dates as text in XenAPI's form. Answers are read by msgspec where it is
installed (extra `fast`), and by the standard library where it is not. What msgspec refuses is read once more by the standard
library, which alone decides: about `NaN` and `Infinity`, which xapi writes without quotes, and about what is wrong with an
answer. So both give the same values and the same errors.

What XML-RPC does not carry, JSON-RPC does: a whole number is told from text (`values.to_any` makes digits of it again), a
float has all its digits, and text has its carriage returns and control characters. A date is plain text.
"""

from __future__ import annotations

import json
import math
import re
from codecs import getincrementaldecoder
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from json.encoder import encode_basestring as _quoted
from typing import TYPE_CHECKING, Any

from .errors import Failure, failure
from .values import Timestamp
from .wire import I4, MAX_DEPTH, Encoded, MalformedError, member_name, misplaced, no_controls, no_page, plain

if TYPE_CHECKING:
    from msgspec import Raw

# Calls, as a client writes them


def dumps_call(method: str, params: Sequence[Any], *, first: int = 1) -> bytes:
    """The bytes of a call of `method` with positional `params`.

    Raises `TypeError` or `ValueError` naming the method and the parameter; these are counted from `first`, which is 0
    where the first one is the session.
    """
    out = ['{"jsonrpc":"2.0","method":', _quoted(no_controls(method)), ',"params":[']
    for number, param in enumerate(params, first):
        if number != first:
            out.append(",")
        try:
            _encode(param, out.append)
        except (TypeError, ValueError, RecursionError) as error:
            raise misplaced(error, method, number) from None
    out.append('],"id":0}')
    return "".join(out).encode()


def _encode(value: Any, write: Callable[[str], None]) -> None:
    kind = type(value)
    if kind is str or kind is Timestamp:
        write(_quoted(value if value.isprintable() else no_controls(value)))
    elif kind is int:
        if not -(2**63) <= value < 2**63:
            raise ValueError("the number does not fit in 64 bits")
        write(f'"{value}"')
    elif kind is bool:
        write("true" if value else "false")
    elif kind is list or kind is tuple:
        separator = "["
        for item in value:
            write(separator)
            _encode(item, write)
            separator = ","
        write("]" if value else "[]")
    elif kind is dict:
        _encode_object(value, write)
    elif kind is float:
        write(repr(value) if math.isfinite(value) else json.dumps(value))
    elif kind is I4:
        write(str(int(value)))
    else:
        _encode(plain(value), write)


def _encode_object(value: dict[Any, Any], write: Callable[[str], None]) -> None:
    separator = "{"
    for name, item in value.items():
        if type(name) is not str:
            name = member_name(name)
        if not name:
            raise ValueError("a map's key cannot be empty: xapi takes such a call for malformed")
        write(f"{separator}{_quoted(name if name.isprintable() else no_controls(name))}:")
        _encode(item, write)
        separator = ","
    write("}" if value else "{}")


# Answers, as a client reads them


def loads_response(data: bytes, *, lazy: bool = False, backend: Backend | None = None) -> Any:
    """The value of an answer, of version 1 or 2. Raises `Failure` for a refusal and `MalformedError` for what is no answer.

    With `lazy`, records that come in bulk may be `RawRecord`s, which read a field when it is asked for. `backend` is
    msgspec's where that is installed, unless given.
    """
    reader = backend or default_backend()
    if lazy:
        records = reader.records(data)
        if records is not None:
            return records
    answer = reader.decode(data)
    if type(answer) is not dict:
        raise MalformedError("an answer that is no object")
    error = answer.get("error")
    if error is not None:
        raise _refusal(error)
    if "result" not in answer:
        raise MalformedError("an answer with neither result nor error")
    return answer["result"]


def _refusal(error: Any) -> Failure:
    """What the `error` of an answer says: a bare array (version 1, and whatever is refused early), or version 2's object."""
    if type(error) is list and error:
        return failure([str(part) for part in error])
    if type(error) is dict and type(error.get("message")) is str:
        message, data = error["message"], error.get("data")
        if type(data) is list and message:
            return failure([message, *(str(part) for part in data)])
        return failure(["fault", str(error.get("code", "")), message])
    raise MalformedError("a refusal without a code")


class Backend:
    """What reads JSON: here the standard library, which reads everything at once."""

    def decode(self, data: bytes) -> Any:
        """The value of a document. Raises `MalformedError`."""
        try:
            text = data.decode()
            value = _read(text)
            if _SURROGATE.search(data):
                json.dumps(value, ensure_ascii=False).encode()  # half a character is none
        except UnicodeError:
            raise MalformedError("not JSON: it is not UTF-8") from None
        except ValueError as error:
            no_page(data)
            raise MalformedError(f"not JSON: {error}") from None
        except RecursionError:
            raise _too_deep() from None
        return shallow(value)

    def records(self, data: bytes) -> dict[str, Any] | None:
        """The lazy records of an answer that holds such, by reference, else None."""
        return None


_SURROGATE = re.compile(rb"\\u[dD][89a-fA-F]")
_read = json.JSONDecoder().decode


def shallow(value: Any) -> Any:
    """`value`, whoever prints or converts it. Raises `MalformedError` where it nests too deeply for that."""
    level: list[Any] = [value]
    for _ in range(MAX_DEPTH + 1):
        inner: list[Any] = []
        for outer in level:
            if type(outer) is dict:
                inner += [item for item in outer.values() if type(item) in _NESTING]
            elif type(outer) is list:
                inner += [item for item in outer if type(item) in _NESTING]
        if not inner:
            return value
        level = inner
    raise _too_deep()


_NESTING = frozenset((dict, list))


def _too_deep() -> MalformedError:
    return MalformedError(f"values nested deeper than {MAX_DEPTH}")


class FastBackend(Backend):
    """msgspec, which can also pass over what nobody asks for. Raises `ImportError` where it is not installed."""

    def __init__(self) -> None:
        import msgspec

        self._decode = msgspec.json.Decoder().decode
        self._refused = (msgspec.MsgspecError, ValueError, RecursionError)
        answer = msgspec.defstruct("answer", [("result", dict[str, msgspec.Raw]), ("error", Any, None)])
        self._answer: Callable[[bytes], Any] = msgspec.json.Decoder(answer).decode
        self._absent = msgspec.UNSET
        self._readers = lru_cache(maxsize=1024)(_field_reader)

    def decode(self, data: bytes) -> Any:
        try:
            value = self._decode(data)
        except self._refused:
            return super().decode(data)
        return shallow(value)

    def records(self, data: bytes) -> dict[str, Any] | None:
        """What msgspec passes over it checks for everything but UTF-8 and the size of numbers: the former is checked here,
        the latter when it is read."""
        try:
            answer = self._answer(data)
            _check_utf8(data)
        except self._refused:
            return None
        result = answer.result
        if answer.error is not None or not all(memoryview(raw)[0] == _BRACE for raw in result.values()):
            return None
        return {ref: RawRecord(raw, self) for ref, raw in result.items()}

    def field(self, raw: Raw, name: str) -> Any:
        """One field of a record. Raises `LookupError` where it is not there, or cannot be read so."""
        try:
            value = self._readers(name)(raw).value
        except self._refused:
            raise LookupError(name) from None
        if value is self._absent:
            raise LookupError(name)
        return shallow(value) if type(value) in _NESTING else value


def _field_reader(name: str) -> Callable[[Raw], Any]:
    import msgspec

    kind = msgspec.defstruct("record", [("value", Any, msgspec.UNSET)], rename={"value": name})
    return msgspec.json.Decoder(kind).decode


_BRACE = ord("{")
_CHUNK = 1 << 20


def _check_utf8(data: bytes) -> None:
    """Raise `UnicodeDecodeError` for what is not UTF-8, without a second copy of the whole."""
    if not data.isascii():
        decoder = getincrementaldecoder("utf-8")()
        view = memoryview(data)
        for start in range(0, len(data), _CHUNK):
            decoder.decode(view[start : start + _CHUNK])
        decoder.decode(b"", final=True)


FEW = 3
"""How many fields of a record are looked up one by one before it is read as a whole."""


class RawRecord(Mapping[str, Any]):
    """One record as it was on the wire. A field is looked up when it is read; whoever reads more than a few reads all.

    Raises `MalformedError`, which is a `ValueError`, for a number out of all bounds and for values nested too deeply.
    """

    __slots__ = ("_backend", "_left", "_raw", "_whole")

    def __init__(self, raw: Raw, backend: FastBackend) -> None:
        self._raw, self._backend = raw, backend
        self._left = FEW
        self._whole: dict[str, Any] | None = None

    def __getitem__(self, name: str) -> Any:
        if self._left:
            self._left -= 1
            try:
                return self._backend.field(self._raw, name)
            except LookupError:
                pass
        return self._all()[name]

    def _all(self) -> dict[str, Any]:
        whole = self._whole
        if whole is None:
            whole = self._whole = self._backend.decode(bytes(self._raw))
            self._left = 0
        return whole

    def __iter__(self) -> Iterator[str]:
        return iter(self._all())

    def __len__(self) -> int:
        return len(self._all())

    def __repr__(self) -> str:
        return f"<RawRecord of {len(memoryview(self._raw))} bytes>"


@lru_cache(maxsize=1)
def default_backend() -> Backend:
    """msgspec's where it is installed, else the standard library's."""
    try:
        return FastBackend()
    except ImportError:
        return Backend()


# Calls and answers, as a server reads and writes them


@dataclass(frozen=True)
class Call:
    """A call as it came. `version` and `id` are the answer's too: 1, or 2 for one that says `"jsonrpc":"2.0"`."""

    method: str
    params: list[Any]
    version: int = 2
    id: int | str = 0


def loads_call(data: bytes, *, newest: int = 2) -> Call:
    """The call that a client sent. Raises `MalformedError` for what is none, a notification included.

    Version 2 may leave `params` out or give an object, which is one struct, not parameters by name. A server whose `newest`
    version is 1 (before 7.3) reads every call as that, and answers all with the id 0. What is not UTF-8 comes as surrogates.
    """
    try:
        call = _read(data.decode("utf-8", "surrogateescape"))
    except (ValueError, RecursionError) as error:
        raise MalformedError(f"not JSON: {error}") from None
    shallow(call)
    if type(call) is not dict or type(call.get("method")) is not str:
        raise MalformedError("not an object with a method")
    given = call.get("jsonrpc", _LEFT_OUT) if newest == 2 else _LEFT_OUT
    if given is not _LEFT_OUT and given != "2.0":
        raise MalformedError("no such version of JSON-RPC: Invalid field 'jsonrpc' in request body")
    version = 1 if given is _LEFT_OUT else 2
    params, identity = call.get("params", _LEFT_OUT), call.get("id")
    if version == 2 and (params is _LEFT_OUT or params is None):
        params = []
    elif version == 2 and type(params) is dict:
        params = [params]
    if type(params) is not list:
        raise MalformedError("Invalid field 'params' in request body")
    if type(identity) is not int and (type(identity) is not str or newest == 1):
        raise MalformedError("Invalid field 'id' in request body")
    if not all(_fits(number) for number in _numbers([params, identity])):
        raise MalformedError("a number of more than 64 bits")
    return Call(call["method"], params, version, identity if newest == 2 else 0)


_LEFT_OUT: Any = object()


def not_utf8(params: Sequence[Any]) -> str | None:
    """The first of `params` that is not UTF-8, as text that is, or None."""
    for param in params:
        text = param if type(param) is str else _write(param)
        legible = text.encode("utf-8", "replace").decode()
        if legible != text:
            return legible
    return None


def _numbers(value: Any) -> Iterator[int]:
    if type(value) is int:
        yield value
    elif type(value) in _NESTING:
        for item in value.values() if type(value) is dict else value:
            yield from _numbers(item)


def _fits(number: int) -> bool:
    return -(2**63) <= number < 2**63


def member(name: str, value: Any) -> bytes:
    """One member of a map, as `Encoded` takes it."""
    return f"{_write(name)}:{_write(value)}".encode("utf-8", "replace")


def dumps_success(value: Any, call: Call) -> bytes:
    """The bytes with which a server answers `call` that succeeded with `value`."""
    if type(value) is Encoded:
        before, after = dumps_success({}, call).split(b"{}", 1)
        return b"".join((before, b"{", b",".join(value.members), b"}", after))
    if call.version == 1:
        return _written({"result": value, "error": None, "id": call.id})
    return _written({"jsonrpc": "2.0", "result": value, "id": call.id})


def dumps_failure(details: Sequence[str], call: Call) -> bytes:
    """The bytes with which a server refuses `call`; `details` is `[code, *params]`."""
    if call.version == 1:
        return _written({"result": None, "error": list(details), "id": call.id})
    code, *params = details
    return _written({"jsonrpc": "2.0", "error": {"code": 1, "message": code, "data": params}, "id": call.id})


def dumps_early_failure(details: Sequence[str], *, version: int = 2) -> bytes:
    """The bytes with which a server refuses before it looks at the call (in emergency mode, or what is not UTF-8): a bare
    array and the id 0, in the version that the server's release has for that, whatever the call's."""
    if version == 1:
        return _written({"result": None, "error": list(details), "id": 0})
    return _written({"jsonrpc": "2.0", "error": list(details), "id": 0})


_write = json.JSONEncoder(ensure_ascii=False, separators=(",", ":"), default=plain).encode


def _written(value: Any) -> bytes:
    return _write(value).encode("utf-8", "replace")
