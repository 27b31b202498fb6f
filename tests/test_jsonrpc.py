"""JSON-RPC both ways: what is written, what is read by either backend, and the same values and errors as over XML-RPC."""

from __future__ import annotations

import json
import math
import subprocess
import sys
from collections.abc import Callable
from datetime import datetime, timedelta, timezone
from pathlib import Path
from types import MappingProxyType
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from xenctl import bulk, datamodel, jsonrpc, values, xmlrpc
from xenctl.datamodel import types as t
from xenctl.datamodel.generate import converter
from xenctl.errors import Failure
from xenctl.jsonrpc import Backend, Call, dumps_call, loads_call, loads_response
from xenctl.values import Record, Timestamp, to_map, to_record, to_string
from xenctl.wire import I4, MAX_DEPTH, MalformedError

STANDARD = Backend()
try:
    BACKENDS = [STANDARD, jsonrpc.FastBackend()]
except ImportError:  # one environment runs without msgspec
    BACKENDS = [STANDARD]

either = pytest.mark.parametrize("backend", BACKENDS, ids=lambda backend: type(backend).__name__)
VERSIONS = (Call("a.b", [], version=1), Call("a.b", [], version=2))


def answer(content: str) -> bytes:
    """A successful answer whose result is `content`."""
    return f'{{"jsonrpc":"2.0","result":{content},"id":0}}'.encode()


WRITTEN: list[tuple[Any, str]] = [
    ("", '""'),
    ('a"b\\c/é𝄞\t\n\r', '"a\\"b\\\\c/é𝄞\\t\\n\\r"'),
    (1, '"1"'),
    (-(2**63), '"-9223372036854775808"'),
    (I4(7), "7"),
    (True, "true"),
    (False, "false"),
    (0.1, "0.1"),
    (1.0, "1.0"),
    (math.inf, "Infinity"),
    (-math.inf, "-Infinity"),
    (math.nan, "NaN"),
    (Timestamp("20260131T23:59:59Z"), '"20260131T23:59:59Z"'),
    (datetime(2026, 2, 1, 1, 59, 59, tzinfo=timezone(timedelta(hours=2))), '"20260131T23:59:59Z"'),
    ([], "[]"),
    (["a", 1], '["a","1"]'),
    (("a",), '["a"]'),
    (frozenset({"a"}), '["a"]'),
    ({}, "{}"),
    ({"a": "b", 1: [True]}, '{"a":"b","1":[true]}'),
    (MappingProxyType({"a&b": {}}), '{"a&b":{}}'),
]

UNWRITABLE: list[Any] = [
    None,
    b"bytes",
    object(),
    1j,
    [None],
    {None: ""},
    {True: ""},
    {"": ""},
    {"\x00": ""},
    "ab\x07",
    "\ufffe",
    "\ud800",
    Timestamp("\x00"),
    2**63,
    -(2**63) - 1,
    [10**5000],
]


class TestWriting:
    """Values to bytes, as a client writes them."""

    @pytest.mark.parametrize(("value", "content"), WRITTEN)
    def test_every_type_has_one_form(self, value: Any, content: str) -> None:
        """There is no white space, whole numbers are text of digits, and xapi reads what XML-RPC would have said."""
        data = dumps_call("VM.set_x", ["s", value])
        assert data.decode() == f'{{"jsonrpc":"2.0","method":"VM.set_x","params":["s",{content}],"id":0}}'
        (found,) = loads_call(data).params[1:]
        (same,) = xmlrpc.loads_call(xmlrpc.dumps_call("a.b", [value]))[1]
        assert repr(found) == repr(str(same) if isinstance(same, Timestamp) else same)

    def test_a_call_without_parameters(self) -> None:
        """The array is there all the same, since version 1 wants one."""
        assert dumps_call("a.b", []) == b'{"jsonrpc":"2.0","method":"a.b","params":[],"id":0}'

    @pytest.mark.parametrize("value", UNWRITABLE)
    def test_what_xmlrpc_refuses_is_refused_in_the_same_words(self, value: Any) -> None:
        """A call is good for both protocols or for neither."""
        for first in (0, 1):
            said = []
            for codec in (xmlrpc, jsonrpc):
                with pytest.raises((TypeError, ValueError), match=r"^VM\.set_x, parameter") as caught:
                    codec.dumps_call("VM.set_x", ["s", "r", value], first=first)
                said.append((type(caught.value), str(caught.value)))
            assert said[0] == said[1]

    def test_a_value_within_itself_is_refused(self) -> None:
        """A list that holds itself ends in an error, not in the interpreter's."""
        endless: list[Any] = []
        endless.append(endless)
        with pytest.raises(ValueError, match=r"a\.b, parameter 1: nested too deeply, or within itself"):
            dumps_call("a.b", [endless])

    @pytest.mark.parametrize(
        "value", ["hunter2\x00", ["hunter2\x00"], {"hunter2\x00": ""}, b"hunter2", {b"hunter2": ""}]
    )
    def test_no_error_repeats_the_value(self, value: Any) -> None:
        """What cannot be written may be a password."""
        with pytest.raises((TypeError, ValueError)) as caught:
            dumps_call("session.login_with_password", ["root", value])
        assert "hunter2" not in str(caught.value)


READ: list[tuple[str, Any]] = [
    ('""', ""),
    ('"a\\"\\/\\u00e9\\ud83d\\ude00\\n\x7f"', 'a"/é😀\n\x7f'),
    ("1", 1),
    ("-9223372036854775808", -(2**63)),
    ("18446744073709551616", 2**64),
    ("9" * 4300, int("9" * 4300)),
    ("0.30000000000000004", 0.1 + 0.2),
    ("1.0", 1.0),
    ("1e3", 1000.0),
    ("1e400", math.inf),
    ("Infinity", math.inf),
    ("-Infinity", -math.inf),
    ('["NaN", Infinity]', ["NaN", math.inf]),
    ("true", True),
    ("null", None),
    (' [1 , "a"] ', [1, "a"]),
    ("[]", []),
    ('{"a":{"b":[]}}', {"a": {"b": []}}),
    ('{"a":1,"a":2}', {"a": 2}),
    ('{"":1}', {"": 1}),
]

MALFORMED: list[tuple[bytes, str]] = [
    (b"", "not JSON: Expecting value"),
    (b"OK", "not JSON"),
    (b"<html><body>502 Bad Gateway</body></html>", "an HTML page: this is not the port"),
    (b"\n<!DOCTYPE html><p>", "an HTML page"),
    (xmlrpc.dumps_success("a"), "not JSON"),
    (answer('"a"')[:-1], "not JSON"),
    (answer('"a"')[:20], "not JSON"),
    (answer('"a"') + b"x", "not JSON: Extra data"),
    (answer('"a"') * 2, "not JSON: Extra data"),
    (answer("[1,]"), "not JSON"),
    (answer("01"), "not JSON"),
    (answer("'a'"), "not JSON"),
    (answer('"a\tb"'), "not JSON: Invalid control character"),
    (answer('"\\x41"'), "not JSON"),
    (answer('"\xe9"').decode().encode("latin-1"), "not JSON: it is not UTF-8"),
    (answer('"\\ud800"'), "not JSON: it is not UTF-8"),
    (answer('{"\\udc00x":1}'), "not JSON: it is not UTF-8"),
    (answer('"a"').replace(b"a", b"\xed\xa0\x80"), "not JSON: it is not UTF-8"),
    (answer('"a"').decode().encode("utf-16"), "not JSON"),
    (answer("9" * 4301), "not JSON: Exceeds the limit"),
    (answer("[" * (MAX_DEPTH + 1) + "]" * (MAX_DEPTH + 1)), "nested deeper than 100"),
    (answer('[{"a":' * 450 + "1" + "}]" * 450), "nested deeper than 100"),
    (answer("[" * 500_000 + "]" * 500_000), "nested deeper than 100"),
    (b'{"result":' + b"[" * 500_000, "nested deeper than 100"),
    (b"[1]", "an answer that is no object"),
    (b"5", "an answer that is no object"),
    (b"{}", "neither result nor error"),
    (b'{"jsonrpc":"2.0","error":null,"id":0}', "neither result nor error"),
    (b'{"error":[],"id":0}', "a refusal without a code"),
    (b'{"error":"OOPS","id":0}', "a refusal without a code"),
    (b'{"error":{"code":1,"data":[]},"id":0}', "a refusal without a code"),
]

REFUSALS: list[tuple[str, list[str]]] = [
    ('{"result":null,"error":["CODE","p","q"],"id":0}', ["CODE", "p", "q"]),
    ('{"result":null,"error":["CODE",5,true],"id":"x"}', ["CODE", "5", "True"]),
    ('{"jsonrpc":"2.0","error":{"code":1,"message":"CODE","data":["p","q"]},"id":0}', ["CODE", "p", "q"]),
    ('{"jsonrpc":"2.0","error":{"code":1,"message":"CODE","data":[]},"id":0}', ["CODE"]),
    ('{"jsonrpc":"2.0","error":["HOST_STILL_BOOTING"],"id":0}', ["HOST_STILL_BOOTING"]),
    (
        '{"jsonrpc":"2.0","error":{"code":-32601,"message":"no such method"},"id":0}',
        ["fault", "-32601", "no such method"],
    ),
]


class TestReading:
    """Bytes to values, as a client reads them."""

    @either
    @pytest.mark.parametrize(("content", "value"), READ)
    def test_every_type(self, content: str, value: Any, backend: Backend) -> None:
        """Both backends give the same value of the same type, bare `Infinity` included."""
        for lazy in (False, True):
            assert repr(plain(loads_response(answer(content), lazy=lazy, backend=backend))) == repr(value)

    @either
    def test_not_a_number(self, backend: Backend) -> None:
        """xapi writes `NaN` as it is."""
        assert math.isnan(loads_response(answer("NaN"), backend=backend))
        records = loads_response(answer('{"OpaqueRef:1":{"a":NaN}}'), lazy=True, backend=backend)
        assert math.isnan(records["OpaqueRef:1"]["a"])

    @either
    @pytest.mark.parametrize(("data", "message"), MALFORMED)
    def test_what_is_no_answer_is_refused(self, data: bytes, message: str, backend: Backend) -> None:
        """Nothing is made of bytes that are cut off, followed by more, in another encoding, or not JSON-RPC at all."""
        for lazy in (False, True):
            with pytest.raises(MalformedError, match=message):
                loads_response(data, lazy=lazy, backend=backend)

    @either
    def test_nesting_up_to_the_bound(self, backend: Backend) -> None:
        """Values nest as deep as over XML-RPC."""
        value = loads_response(answer("[" * (MAX_DEPTH - 1) + "]" * (MAX_DEPTH - 1)), backend=backend)
        for _ in range(MAX_DEPTH - 2):
            (value,) = value
        assert value == []

    @either
    @pytest.mark.parametrize(("text", "details"), REFUSALS)
    def test_a_refusal_is_raised(self, text: str, details: list[str], backend: Backend) -> None:
        """Of either version, and the bare array with which a host answers that has not looked at the call."""
        for lazy in (False, True):
            with pytest.raises(Failure) as caught:
                loads_response(text.encode(), lazy=lazy, backend=backend)
            assert caught.value.details == details

    @either
    @pytest.mark.parametrize(
        ("record", "message"),
        [
            ('{"a":"x","b":%s}' % ("9" * 4301), "Exceeds the limit"),
            ('{"a":"x","b":%s}' % ("[" * 150 + "]" * 150), "nested deeper than 100"),
            ('{"a":"x","b":"\\ud800"}', "not UTF-8"),
            ('{"a":"x","b":"\xff"}', "not UTF-8"),
        ],
    )
    def test_a_bad_field_is_told_when_the_answer_comes_or_when_it_is_read(
        self, record: str, message: str, backend: Backend
    ) -> None:
        """A lazy record may give its other fields; of a bad one it gives nothing."""
        data = f'{{"result":{{"OpaqueRef:1":{record}}},"error":null,"id":0}}'.encode("latin-1")
        with pytest.raises(MalformedError, match=message):
            loads_response(data, backend=backend)
        with pytest.raises(MalformedError, match=message):
            loads_response(data, lazy=True, backend=backend)["OpaqueRef:1"]["b"]

    @either
    def test_a_lazy_record_is_a_mapping(self, backend: Backend) -> None:
        """In any order and number of reads, fields of any name, the same as read at once."""
        record = {f"field{n}": [n] for n in range(6)} | {'od"d\\é\n': "1", "": 2}
        data = jsonrpc.dumps_success({"OpaqueRef:1": record}, VERSIONS[0])
        for names in (["field3"], ["missing", "field1"], list(record), ["field1"] * 9, ['od"d\\é\n', ""]):
            lazy = loads_response(data, lazy=True, backend=backend)["OpaqueRef:1"]
            assert [lazy.get(name) for name in names] == [record.get(name) for name in names]
            assert (len(lazy), list(lazy), "field2" in lazy, dict(lazy)) == (8, list(record), True, record)
            with pytest.raises(KeyError, match="missing"):
                lazy["missing"]

    @either
    def test_members_that_are_no_records(self, backend: Backend) -> None:
        """What is asked for lazily and holds other things than records is read at once."""
        data = answer('{"OpaqueRef:1":{"a":1},"OpaqueRef:2":5}')
        assert loads_response(data, lazy=True, backend=backend) == {"OpaqueRef:1": {"a": 1}, "OpaqueRef:2": 5}


# Over all types of the data model

MODEL = datamodel.load()
TEXT = st.text(
    st.characters(codec="utf-8", exclude_categories=["Cs", "Cc"], exclude_characters="\ufffe\uffff"), max_size=9
)
MOMENTS = st.datetimes(datetime(1970, 1, 1), datetime(2200, 1, 1)).map(lambda m: Timestamp(f"{m:%Y%m%dT%H:%M:%SZ}"))  # noqa: DTZ001
SCALARS: dict[str, st.SearchStrategy[Any]] = {
    "string": TEXT,
    "int": st.integers(-(2**63), 2**63 - 1),
    "float": st.floats().map(lambda number: float(f"{number:.16g}")),  # XML-RPC rounds to as many digits
    "bool": st.booleans(),
    "datetime": MOMENTS,
    "void": st.just(""),
    "any": TEXT | st.booleans() | st.integers(-(2**63), 2**63 - 1),
}
ENUMS = {name: words for class_ in MODEL.classes.values() for name, words in class_.enums.items()}
TYPES = {
    converter(kind): kind
    for class_ in MODEL.classes.values()
    for kind in (*(f.type for f in class_.fields.values()), *(m.result for m in class_.messages.values()))
}
"""One type for each way in which the client converts."""


def written(kind: t.Type) -> st.SearchStrategy[Any]:
    """What a server writes for a type: as the fake's store keeps it."""
    if isinstance(kind, t.Scalar):
        return SCALARS[kind.name]
    if isinstance(kind, t.Ref):
        return st.uuids().map(lambda uuid: f"OpaqueRef:{uuid}") | st.just("OpaqueRef:NULL")
    if isinstance(kind, t.Enum):
        return st.sampled_from(ENUMS[kind.name]) if kind.name in ENUMS else TEXT
    if isinstance(kind, t.Set):
        return st.lists(written(kind.item), max_size=3)
    if isinstance(kind, t.Map):
        return st.dictionaries(written(kind.key).filter(bool), written(kind.item), max_size=3)
    if isinstance(kind, t.Option):
        return written(kind.item)
    return record_of(kind.class_name, 6) if kind.class_name in MODEL.classes else st.just({"token": "t", "events": []})


def record_of(name: str, most: int) -> st.SearchStrategy[dict[str, Any]]:
    """A record of a class: its first fields, `most` at the most, and one that nobody knows."""
    fields = {field: found.type for field, found in list(MODEL.classes[name].fields.items())[:most]}
    known = {field: st.deferred(lambda kind=kind: written(kind)) for field, kind in fields.items()}
    return st.fixed_dictionaries({**known, "new_field": SCALARS["any"]})


def plain(value: Any) -> Any:
    """A converted value with its records as dicts of all their fields."""
    if isinstance(value, (Record, jsonrpc.RawRecord)):
        value = dict(value)
    if type(value) is dict:
        return {name: plain(item) for name, item in value.items()}
    return [plain(item) for item in value] if type(value) is list else value


def shown(read: Callable[[], Any]) -> str:
    """Everything about a value, types and `nan` included, or its error."""
    try:
        return repr(plain(read()))
    except Failure as error:
        return repr(error)
    except ValueError as error:
        return f"ValueError: {error}"


@pytest.fixture
def any_size(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let small answers take the fast path of XML-RPC too."""
    monkeypatch.setattr(bulk, "LEAST", 0)


def ways(xml: bytes, *documents: bytes, lazily: bool = True) -> dict[str, Callable[[], Any]]:
    """Every way in which a client may read an answer, given in XML-RPC and in JSON-RPC of some versions."""
    out: dict[str, Callable[[], Any]] = {"walk": lambda: xmlrpc.walk_response(xml)}
    for lazy in (False, True)[: 1 + lazily]:
        out[f"xmlrpc {lazy=}"] = lambda lazy=lazy: loads(xmlrpc.loads_response, xml, lazy=lazy)  # type: ignore[misc]
        for backend in BACKENDS:
            for number, data in enumerate(documents):
                out[f"{type(backend).__name__} {number} {lazy=}"] = lambda data=data, lazy=lazy, backend=backend: loads(  # type: ignore[misc]
                    loads_response, data, lazy=lazy, backend=backend
                )
    return out


def loads(read: Callable[..., Any], data: bytes, **options: Any) -> Any:
    return read(data, **options)


class TestSameAsXmlRpc:
    """What a client gets is the same over both protocols."""

    @pytest.mark.usefixtures("any_size")
    @pytest.mark.parametrize("kind", TYPES.values(), ids=str)
    def test_a_value_of_every_type(self, kind: t.Type) -> None:
        """The server writes a value in each protocol, the client reads it in each of its ways: the same value and types."""
        convert = eval(converter(kind), {"v": values})  # noqa: S307 - what the generated client has for this type

        @settings(max_examples=20)
        @given(written(kind))
        def check(value: Any) -> None:
            documents = [jsonrpc.dumps_success(value, call) for call in VERSIONS]
            found = {
                name: shown(lambda read=read: convert(read()))
                for name, read in ways(xmlrpc.dumps_success(value), *documents, lazily=False).items()
            }
            assert len(set(found.values())) == 1, found
            assert not found["walk"].startswith("ValueError")

        check()

    @pytest.mark.usefixtures("any_size")
    @settings(max_examples=60)
    @given(st.sampled_from(sorted(MODEL.classes)).flatmap(lambda name: st.tuples(st.just(name), record_of(name, 12))))
    def test_records_of_every_class_in_bulk(self, drawn: tuple[str, dict[str, Any]]) -> None:
        """Lazy or eager, whatever reads them, records are equal, and so is each field."""
        name, record = drawn
        convert = to_map(to_string, to_record(name))
        answers = {"OpaqueRef:1": record, "OpaqueRef:2": record}
        documents = [jsonrpc.dumps_success(answers, call) for call in VERSIONS]
        read = ways(xmlrpc.dumps_success(answers), *documents)
        assert len({shown(lambda way=way: convert(way())) for way in read.values()}) == 1
        if "nan" not in repr(record):
            first, *others = [convert(way()) for way in read.values()]
            assert all(first == other for other in others)

    @given(st.lists(TEXT, min_size=1, max_size=4).filter(lambda details: details[0]))
    def test_refusals(self, details: list[str]) -> None:
        """Code and parameters arrive alike, early refusals included."""
        documents = [jsonrpc.dumps_failure(details, call) for call in VERSIONS]
        documents += [jsonrpc.dumps_early_failure(details, version=version) for version in (1, 2)]
        read = ways(xmlrpc.dumps_failure(details), *documents)
        assert {shown(way) for way in read.values()} == {f"Failure({details!r})"}

    @given(
        st.lists(
            st.recursive(
                TEXT | SCALARS["int"] | st.booleans(),
                lambda v: st.lists(v) | st.dictionaries(TEXT.filter(bool), v),
                max_leaves=8,
            )
        )
    )
    def test_calls(self, params: list[Any]) -> None:
        """The server reads the same parameters."""
        assert tuple(xmlrpc.loads_call(xmlrpc.dumps_call("VM.x", params))) == (
            "VM.x",
            loads_call(dumps_call("VM.x", params)).params,
        )

    def test_records_with_other_fields_or_bad_ones_are_not_equal(self) -> None:
        """Numbers in two spellings are the same; a missing field, another value, or one that cannot be converted is not."""
        make = to_record("VM")
        assert make({"memory_target": "5"}) == make({"memory_target": 5})
        assert make({"memory_target": "5", "new": "1"}) == make({"memory_target": 5, "new": 1})
        for other in ({"memory_target": 6}, {}, {"memory_target": 5, "new": 1}, {"memory_target": "five"}):
            assert make({"memory_target": "5"}) != make(other)

    def test_what_only_json_carries(self) -> None:
        """Carriage returns, control characters and all digits of a float arrive over JSON-RPC; XML-RPC drops them."""
        value = ["a\r\nb\x07", 0.1 + 0.2]
        assert loads_response(jsonrpc.dumps_success(value, VERSIONS[0])) == value
        assert loads_response(jsonrpc.dumps_success(value, VERSIONS[0]), backend=STANDARD) == value
        assert xmlrpc.loads_response(xmlrpc.dumps_success(value)) == ["a\nb", 0.3]


JUNK = st.binary(max_size=6) | st.sampled_from(
    [b"{", b"]", b'"', b",", b"NaN", b"\\ud800", b"\xff", b"9" * 30, b"1e999", b"null", b"[" * 120]
)
SMALL = st.dictionaries(
    st.uuids().map(lambda u: f"OpaqueRef:{u}"),
    st.fixed_dictionaries({"a": TEXT, "b": SCALARS["int"], "c": st.floats(), "d": st.lists(TEXT, max_size=2)}),
    max_size=2,
)


@pytest.mark.skipif(len(BACKENDS) == 1, reason="msgspec is not installed")
@given(SMALL, st.sampled_from(VERSIONS), st.data())
def test_damaged_answers_are_the_same_to_both_backends(value: Any, call: Call, data: st.DataObject) -> None:
    """Whatever bytes come, they are the same value, the same failure, or the same `MalformedError` with the same words."""
    document = data.draw(
        st.sampled_from([jsonrpc.dumps_success(value, call), jsonrpc.dumps_failure(["CODE", "é"], call)])
    )
    start = data.draw(st.integers(0, len(document)))
    end = data.draw(st.integers(start, min(len(document), start + 9)))
    damaged = document[:start] + data.draw(JUNK) + document[end:]
    found = [shown(lambda backend=backend: loads_response(damaged, backend=backend)) for backend in BACKENDS]
    assert found[0] == found[1]
    lazy = shown(lambda: loads_response(damaged, lazy=True, backend=BACKENDS[1]))
    assert lazy == found[0] or (lazy.startswith("ValueError") and found[0].startswith("ValueError"))


class TestServing:
    """Calls as a server reads them."""

    @pytest.mark.parametrize(
        ("text", "call"),
        [
            ('{"method":"a.b","params":["s",1],"id":3}', Call("a.b", ["s", 1], 1, 3)),
            ('{"jsonrpc":"2.0","method":"a.b","params":["s"],"id":"x"}', Call("a.b", ["s"], 2, "x")),
            ('{"jsonrpc":"2.0","method":"a.b","params":{"a":1},"id":0}', Call("a.b", [{"a": 1}], 2, 0)),
            ('{"jsonrpc":"2.0","method":"a.b","params":null,"id":0}', Call("a.b", [], 2, 0)),
            ('{"jsonrpc":"2.0","method":"a.b","id":0}', Call("a.b", [], 2, 0)),
        ],
    )
    def test_the_forms_of_a_call(self, text: str, call: Call) -> None:
        """Version 1 has an array; version 2 may leave it out, or give an object, which is one struct."""
        assert loads_call(text.encode()) == call

    @pytest.mark.parametrize(
        "text",
        [
            "",
            "[]",
            "[" * 100_000,
            '{"params":[],"id":0}',
            '{"method":5,"params":[],"id":0}',
            '{"method":"a","id":0}',
            '{"method":"a","params":{},"id":0}',
            '{"method":"a","params":null,"id":0}',
            '{"jsonrpc":"2.0","method":"a","params":"x","id":0}',
            '{"jsonrpc":"1.0","method":"a","params":[],"id":0}',
            '{"jsonrpc":2.0,"method":"a","params":[],"id":0}',
            '{"jsonrpc":"2.0","method":"a","params":[]}',
            '{"jsonrpc":"2.0","method":"a","params":[],"id":null}',
            '{"method":"a","params":[],"id":1.5}',
            '{"method":"a","params":[],"id":true}',
            '{"method":"a","params":[9223372036854775808],"id":0}',
        ],
    )
    def test_what_is_no_call_is_refused(self, text: str) -> None:
        """Notifications, other versions, and calls without what they must have."""
        with pytest.raises(MalformedError):
            loads_call(text.encode())

    def test_a_server_of_version_1_alone(self) -> None:
        """It passes over what says version 2, and every answer has the id 0."""
        assert loads_call(dumps_call("a.b", ["s"]), newest=1) == Call("a.b", ["s"], 1, 0)
        for text in ('{"jsonrpc":"2.0","method":"a","params":{},"id":0}', '{"method":"a","params":[],"id":"x"}'):
            with pytest.raises(MalformedError):
                loads_call(text.encode(), newest=1)


def test_without_msgspec_everything_works(tmp_path: Path) -> None:
    """In an interpreter that cannot import msgspec, a session reads the same records by the standard library."""
    (tmp_path / "msgspec.py").write_text("raise ImportError('blocked')\n")
    code = (
        f"import sys; sys.path.insert(0, {str(tmp_path)!r})\n"
        "from mockserver import MockPool\nfrom xenctl import connect, jsonrpc\n"
        "pool = MockPool.create(hosts=1, vms=2, release='8.2')\n"
        "with connect(pool.url, 'root', 'secret', transport=pool.transport(), protocol='jsonrpc') as session:\n"
        "    vms = session.VM.get_all_records()\n"
        "    assert all(type(vm.memory_static_max) is int for vm in vms.values())\n"
        "print(len(vms), type(jsonrpc.default_backend()).__name__)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.stdout.split() == ["3", "Backend"], done.stderr


def test_a_number_of_more_digits_than_a_key_may_have_is_text_in_json_too() -> None:
    """An object's keys are text, whatever the map's type."""
    assert json.loads(jsonrpc.dumps_success({1: True}, VERSIONS[0]))["result"] == {"1": True}
