"""XML-RPC both ways: what is written, what is read, what is refused, and the same values as the official codec."""

from __future__ import annotations

import math
import xmlrpc.client as official
from collections import OrderedDict
from contextlib import suppress
from datetime import datetime, timedelta, timezone
from pathlib import Path
from types import MappingProxyType
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from xenctl import xmlrpc
from xenctl.errors import Failure
from xenctl.values import Timestamp
from xenctl.xmlrpc import I4, MAX_DEPTH, MalformedError, dumps_call, loads_call, loads_response, loads_value

HEAD = '<?xml version="1.0"?><methodResponse><params><param>'
TAIL = "</param></params></methodResponse>"


def answer(content: str) -> bytes:
    """A successful answer whose value holds `content`."""
    status = "<value><struct><member><name>Status</name><value>Success</value></member><member><name>Value</name>"
    return f"{HEAD}{status}<value>{content}</value></member></struct></value>{TAIL}".encode()


def call_of(content: str) -> bytes:
    """A call with one parameter whose value holds `content`."""
    value = f"<value>{content}</value>"
    return f"<methodCall><methodName>a.b</methodName><params><param>{value}</param></params></methodCall>".encode()


READ: list[tuple[str, Any]] = [
    ("", ""),
    ("<string/>", ""),
    ("<string></string>", ""),
    ("text", "text"),
    ("<string>text</string>", "text"),
    (" \n\t ", " \n\t "),
    ("  a b  ", "  a b  "),
    ("123", "123"),
    ("&lt;&gt;&amp;&quot;&apos;&#233;&#xe9;", "<>&\"'éé"),
    ("a&#13;b", "a\rb"),
    ("<![CDATA[a<b>&amp;c]]>", "a<b>&amp;c"),
    ("a<!-- said aside -->b", "ab"),
    ("𝄞 中文", "𝄞 中文"),
    ("<int>5</int>", 5),
    ("<i4>-5</i4>", -5),
    ("<i8> +9223372036854775807\n</i8>", 2**63 - 1),
    ("<int>-9223372036854775808</int>", -(2**63)),
    ("<boolean>1</boolean>", True),
    ("<boolean>0</boolean>", False),
    ("<double>1</double>", 1.0),
    ("<double>0.1</double>", 0.1),
    ("<double>-2.5e-300</double>", -2.5e-300),
    ("<double>inf</double>", math.inf),
    ("<double>-inf</double>", -math.inf),
    ("<dateTime.iso8601>20260131T23:59:59Z</dateTime.iso8601>", Timestamp("20260131T23:59:59Z")),
    ("<base64>aGVs\n bG8=</base64>", b"hello"),
    ("<nil/>", None),
    ("<nil></nil>", None),
    ("<array/>", []),
    ("<array><data/></array>", []),
    ("<array><data></data></array>", []),
    ("\n <array>\n <data>\n <value>a</value>\n <value/>\n </data>\n </array>\n", ["a", ""]),
    ("<array><data><value><int>1</int></value><value><array/></value></data></array>", [1, []]),
    ("<struct/>", {}),
    ("<struct></struct>", {}),
    ("<struct><member><name></name><value/></member></struct>", {"": ""}),
    (
        "<struct>\n<member>\n<name>a&amp;b</name>\n<value>b</value>\n</member>\n<member><name>c</name><value/></member></struct>",
        {"a&b": "b", "c": ""},
    ),
]

REFUSED: list[tuple[str, str]] = [
    ("<int/>", "<int> holds no whole number: ''"),
    ("<int></int>", "<int> holds no whole number"),
    ("<int>a</int>", "<int> holds no whole number: 'a'"),
    ("<int>1_0</int>", "<int> holds no whole number"),
    ("<int>\u0663</int>", "<int> holds no whole number"),
    ("<i8>9223372036854775808</i8>", "<i8> holds a number of more than 64 bits"),
    (f"<int>{'9' * 100_000}</int>", "<int> holds no whole number: '9{60}…'$"),
    ("<boolean/>", "<boolean> holds neither 0 nor 1"),
    ("<boolean>true</boolean>", "<boolean> holds neither 0 nor 1: 'true'"),
    ("<double/>", "<double> holds no number"),
    ("<double>1,5</double>", "<double> holds no number: '1,5'"),
    ("<double>1_0</double>", "<double> holds no number"),
    ("<dateTime.iso8601/>", "<dateTime.iso8601> is empty"),
    ("<base64>?</base64>", "<base64> holds something else"),
    ("<nil>x</nil>", "<nil> is not empty"),
    ("<date>x</date>", "no such type: <date>"),
    ("<String>x</String>", "no such type: <String>"),
    ("<x:nil xmlns:x='urn:x'/>", "no such type"),
    ("<string>a</string><string>b</string>", "more than one content"),
    ("a<string>b</string>", "text beside its <string>"),
    ("<string>b</string>c", "text beside its <string>"),
    ("<string>a<i4>1</i4></string>", "<string> has children"),
    ("<array><value>a</value></array>", "an <array> holds one <data>"),
    ("<array><data/><data/></array>", "an <array> holds one <data>"),
    ("<array><data><string>a</string></data></array>", "expected <value>, got <string>"),
    ("<struct><name>a</name><value/></struct>", "a <struct> holds <member>s"),
    ("<struct><member><name>a</name></member></struct>", "a <struct> holds <member>s"),
    ("<struct><member><value/><name>a</name></member></struct>", "a <struct> holds <member>s"),
    ("<struct><member><name><i4>1</i4></name><value/></member></struct>", "<name> has children"),
    ("&undeclared;", "not XML"),
    ("&#0;", "not XML"),
    ("\x01", "not XML"),
    ("<unclosed>", "not XML"),
]


class TestReading:
    """Bytes to values."""

    @pytest.mark.parametrize(("content", "value"), READ)
    def test_every_type_in_every_spelling(self, content: str, value: Any) -> None:
        """Both sides read the value that the specification and xapi's parser give a spelling."""
        for found in (
            loads_response(answer(content)),
            loads_call(call_of(content))[1][0],
            loads_value(f"<value>{content}</value>"),
        ):
            assert found == value
            assert type(found) is type(value)

    def test_not_a_number(self) -> None:
        """`nan`, also with the sign that C prints, is a float."""
        assert math.isnan(loads_response(answer("<double>nan</double>")))
        assert math.isnan(loads_response(answer("<double>-nan</double>")))

    @pytest.mark.parametrize(("content", "message"), REFUSED)
    def test_what_is_no_value_is_refused(self, content: str, message: str) -> None:
        """A value that is not of its type, or markup that XML-RPC has not, is refused and said where it went wrong."""
        with pytest.raises(MalformedError, match=message):
            loads_response(answer(content))

    @pytest.mark.parametrize("text", ["0", "true", "yes", " 1"])
    def test_the_server_takes_any_other_text_for_false(self, text: str) -> None:
        """As xapi does, the fake reads a boolean that is not exactly `1` as false; an empty one is malformed."""
        assert loads_call(call_of(f"<boolean>{text}</boolean>")) == ("a.b", [False])
        with pytest.raises(MalformedError):
            loads_call(call_of("<boolean/>"))

    def test_a_call_is_its_method_and_parameters(self) -> None:
        """A call may have any number of parameters, none included."""
        assert loads_call(b"<methodCall><methodName>a.b</methodName><params/></methodCall>") == ("a.b", [])
        assert loads_call(dumps_call("VM.start", ["s", "v", False, True])) == ("VM.start", ["s", "v", False, True])

    @pytest.mark.parametrize(
        "data",
        [
            b"<methodCall><methodName>a.b</methodName></methodCall>",
            b"<methodCall><params/><methodName>a.b</methodName></methodCall>",
            b"<methodCall><methodName>a.b</methodName><params><value>a</value></params></methodCall>",
            b"<methodCall><methodName>a.b</methodName><params><param/></params></methodCall>",
            answer(""),
        ],
    )
    def test_what_is_no_call_is_refused(self, data: bytes) -> None:
        """Parameters are mandatory, also where there are none."""
        with pytest.raises(MalformedError):
            loads_call(data)

    def test_a_tasks_result_is_one_value(self) -> None:
        """The result of a task is a `<value>` alone, or nothing for an operation that gives nothing."""
        assert loads_value("<value>OpaqueRef:1</value>") == "OpaqueRef:1"
        assert loads_value("<value></value>") == loads_value("") == loads_value(" \n") == ""

    @pytest.mark.parametrize(
        ("data", "message"),
        [
            (b"", "not XML"),
            (b"\x00", "not XML"),
            (b"OK", "not XML"),
            (b"<html><body>502 Bad Gateway</body></html>", "an HTML page"),
            (b"\r\n<!DOCTYPE HTML PUBLIC '-//W3C//DTD HTML 4.01//EN'><html><p>hello", "an HTML page"),
            (b"<!doctype html><title>Sign in</title>", "an HTML page"),
            (answer("a")[:-1], "not XML"),
            (answer("a")[:150], "not XML"),
            (answer("a") + b"junk", "not XML"),
            (answer("a") + answer("b"), "not XML"),
            (b" " + answer("a"), "not XML"),
            (answer("\xe9").decode().encode("latin-1"), "not XML"),
            (answer("\xe9").decode().replace('"1.0"', '"1.0" encoding="latin-1"').encode("latin-1"), "not XML"),
            (answer("a").decode().encode("utf-16"), "not XML"),
            (answer("a").decode().encode("utf-16-le"), "not XML"),
            (b"<value>a</value>", "not a <methodResponse>: <value>"),
            (b"<methodResponse/>", "not a <methodResponse>"),
            (b"<methodResponse><params/></methodResponse>", "expected <params> with one child"),
            (b"<methodResponse><fault/></methodResponse>", "expected <fault> with one child"),
            (b"<methodResponse><fault><value>x</value></fault></methodResponse>", "a <fault> without a struct"),
            (f"{HEAD}<value>bare</value>{TAIL}".encode(), "an answer without a status"),
            (f"{HEAD}<value><struct/></value>{TAIL}".encode(), "an answer without a status"),
            (
                f"{HEAD}<value><struct><member><name>Status</name><value>Success</value></member></struct></value>{TAIL}".encode(),
                "status 'Success' and neither value nor error",
            ),
            (
                f"{HEAD}<value><struct><member><name>Status</name><value>Maybe</value></member>"
                f"<member><name>Value</name><value/></member></struct></value>{TAIL}".encode(),
                "status 'Maybe'",
            ),
        ],
    )
    def test_what_is_no_answer_is_refused(self, data: bytes, message: str) -> None:
        """Nothing is made of a document that is cut off, followed by more, in another encoding, or not XML-RPC at all."""
        with pytest.raises(MalformedError, match=message):
            loads_response(data)

    def test_a_byte_order_mark_and_a_last_newline_do_no_harm(self) -> None:
        """A mark of UTF-8 before the document, or white space after it, is valid XML."""
        assert loads_response(b"\xef\xbb\xbf" + answer("é") + b"\n") == "é"

    def test_nesting_is_bounded(self) -> None:
        """Values nest as deep as `MAX_DEPTH`, the answer's own included; what goes deeper is refused, however deep."""

        def nested(depth: int) -> bytes:
            return answer("<array><data><value>" * depth + "</value></data></array>" * depth)

        value = loads_response(nested(MAX_DEPTH - 1))
        for _ in range(MAX_DEPTH - 1):
            (value,) = value
        assert value == ""
        for depth in (MAX_DEPTH, 1_000, 500_000):
            with pytest.raises(MalformedError, match=r"nested deeper than 100|not XML: Excessive depth"):
                loads_response(nested(depth))

    def test_large_values_are_read(self) -> None:
        """A text of more than the 10 MB to which libxml2 is limited by default is read whole."""
        assert len(loads_response(answer("x" * 11_000_000))) == 11_000_000

    @pytest.mark.parametrize("place", ["attribute", "text"])
    def test_an_entity_bomb_is_refused_before_it_goes_off(self, place: str) -> None:
        """Entities that would expand to gigabytes are not expanded, neither in text nor in attributes."""
        layers = "".join(f'<!ENTITY l{n} "{f"&l{n - 1};" * 10 if n else "boom"}">' for n in range(12))
        use = "<methodResponse a='&l11;'/>" if place == "attribute" else "<methodResponse>&l11;</methodResponse>"
        with pytest.raises(MalformedError, match="has a DTD"):
            loads_response(f"<!DOCTYPE x [{layers}]>{use}".encode())

    @pytest.mark.parametrize("before", ["", "<!-- <methodResponse> -->", '<?xml version="1.0" encoding="utf-8"?>\n'])
    def test_no_file_is_read_for_an_entity(self, before: str, tmp_path: Path) -> None:
        """A document cannot make its reader open files."""
        path = tmp_path / "secret"
        path.write_text("secret")
        document = (
            f'{before}<!DOCTYPE x [<!ENTITY e SYSTEM "{path.as_uri()}">]>{answer("&e;").decode().partition("?>")[2]}'
        )
        for read in (loads_response, loads_call, loads_value):
            with pytest.raises(MalformedError, match="has a DTD"):
                read(document.encode())

    @pytest.mark.parametrize("key", ["R&D", "a<b", "a & b", "<tag>", "&", "x&#; y", "caf\xe9 & bar"])
    def test_a_key_that_the_server_did_not_escape_is_named(self, key: str) -> None:
        """xapi writes the keys of maps as they are; one with `&` or `<` breaks the answer, and the error says which."""
        members = "".join(f"<member><name>{name}</name><value>1</value></member>" for name in ("a&amp;b", key, "z"))
        with pytest.raises(MalformedError, match="which the server does not escape") as caught:
            loads_response(answer(f"<struct>{members}</struct>"))
        assert repr(key) in str(caught.value)

    def test_a_refusal_is_raised(self) -> None:
        """A failure is raised with its code and parameters; a `<fault>`, which xapi does not send, likewise."""
        with pytest.raises(Failure) as caught:
            loads_response(xmlrpc.dumps_failure(["VM_BAD_POWER_STATE", "OpaqueRef:1", "halted", "running"]))
        assert caught.value.details == ["VM_BAD_POWER_STATE", "OpaqueRef:1", "halted", "running"]
        with pytest.raises(Failure) as caught:
            loads_response(official.dumps(official.Fault(8002, "no such <method>")).encode())
        assert caught.value.details == ["fault", "8002", "no such <method>"]

    @pytest.mark.parametrize("description", ["<array/>", "OOPS", "<struct/>"])
    def test_a_refusal_without_a_code_is_malformed(self, description: str) -> None:
        """A failure that does not say what failed is no answer."""
        data = (
            f"{HEAD}<value><struct><member><name>Status</name><value>Failure</value></member>"
            f"<member><name>ErrorDescription</name><value>{description}</value></member></struct></value>{TAIL}"
        )
        with pytest.raises(MalformedError, match="neither value nor error"):
            loads_response(data.encode())

    def test_a_bare_array_is_an_answer(self) -> None:
        """`system.listMethods` answers without a status."""
        assert loads_response(xmlrpc.dumps_bare(["VM.start", "VM.stop"])) == ["VM.start", "VM.stop"]


WRITTEN: list[tuple[Any, str]] = [
    ("", ""),
    ("a", "a"),
    ("<&>\"'", "&lt;&amp;&gt;&quot;'"),
    ("\t\n", "\t\n"),
    (1, "1"),
    (-(2**63), "-9223372036854775808"),
    (2**63 - 1, "9223372036854775807"),
    (I4(7), "<i4>7</i4>"),
    (True, "<boolean>1</boolean>"),
    (False, "<boolean>0</boolean>"),
    (0.1, "<double>0.1</double>"),
    (math.inf, "<double>inf</double>"),
    (-math.inf, "<double>-inf</double>"),
    (math.nan, "<double>nan</double>"),
    (Timestamp("20260131T23:59:59Z"), "<dateTime.iso8601>20260131T23:59:59Z</dateTime.iso8601>"),
    (Timestamp("<"), "<dateTime.iso8601>&lt;</dateTime.iso8601>"),
    (
        datetime(2026, 2, 1, 1, 59, 59, tzinfo=timezone(timedelta(hours=2))),
        "<dateTime.iso8601>20260131T23:59:59Z</dateTime.iso8601>",
    ),
    ([], "<array><data></data></array>"),
    (["a", 1], "<array><data><value>a</value><value>1</value></data></array>"),
    (("a",), "<array><data><value>a</value></data></array>"),
    ({"a"}, "<array><data><value>a</value></data></array>"),
    (frozenset({"a"}), "<array><data><value>a</value></data></array>"),
    ({"a": 1}.keys(), "<array><data><value>a</value></data></array>"),
    ({}, "<struct></struct>"),
    ({"a&b": "c"}, "<struct><member><name>a&amp;b</name><value>c</value></member></struct>"),
    ({1: True}, "<struct><member><name>1</name><value><boolean>1</boolean></value></member></struct>"),
    (MappingProxyType({"a": "b"}), "<struct><member><name>a</name><value>b</value></member></struct>"),
    (
        OrderedDict(b="", a=""),
        "<struct><member><name>b</name><value></value></member><member><name>a</name><value></value></member></struct>",
    ),
]

UNWRITABLE: list[tuple[Any, type[Exception], str]] = [
    (None, TypeError, "no form for None; a reference to nothing is xenctl.NULL"),
    (b"bytes", TypeError, "no form for a bytes"),
    (bytearray(b"bytes"), TypeError, "no form for a bytearray"),
    (memoryview(b"bytes"), TypeError, "no form for a memoryview"),
    (object(), TypeError, "no form for a object"),
    (1j, TypeError, "no form for a complex"),
    ([None], TypeError, "no form for None"),
    ({None: ""}, TypeError, "a map's key is text or a whole number, not a NoneType"),
    ({True: ""}, TypeError, "a map's key is text or a whole number, not a bool"),
    ({"": ""}, ValueError, "a map's key cannot be empty"),
    ({"\x00": ""}, ValueError, r"a character that XML cannot carry: '\\x00' at 0"),
    ("ab\x07", ValueError, r"a character that XML cannot carry: '\\x07' at 2"),
    ("\ufffe", ValueError, "a character that XML cannot carry"),
    ("\ud800", ValueError, r"a character that XML cannot carry: '\\ud800'"),
    (2**63, ValueError, "does not fit in 64 bits"),
    (-(2**63) - 1, ValueError, "does not fit in 64 bits"),
    ([10**5000], ValueError, "does not fit in 64 bits"),
]


class TestWriting:
    """Values to bytes."""

    @pytest.mark.parametrize(("value", "content"), WRITTEN)
    def test_the_shape_is_that_of_xapi(self, value: Any, content: str) -> None:
        """Text and whole numbers have no tag, and there is no white space."""
        assert xmlrpc.encode(value) == f"<value>{content}</value>"
        assert xmlrpc.encode(value, lenient=True) == f"<value>{content}</value>"

    def test_a_call_is_one_document(self) -> None:
        """A call has xapi's prolog, and its parameters in order."""
        assert (
            dumps_call("VM.get_by_uuid", ["OpaqueRef:s", "é"])
            == (
                '<?xml version="1.0"?><methodCall><methodName>VM.get_by_uuid</methodName><params>'
                "<param><value>OpaqueRef:s</value></param><param><value>é</value></param></params></methodCall>"
            ).encode()
        )

    @pytest.mark.parametrize(("value", "kind", "message"), UNWRITABLE)
    def test_what_would_not_arrive_is_refused(self, value: Any, kind: type[Exception], message: str) -> None:
        """The client refuses what XML-RPC or XenAPI cannot carry, naming method and parameter."""
        with pytest.raises(kind, match=rf"^VM\.set_x, parameter 3: .*{message}"):
            dumps_call("VM.set_x", ["s", "r", value])
        with pytest.raises(kind, match=rf"^VM\.set_x, parameter 2: .*{message}"):
            dumps_call("VM.set_x", ["s", "r", value], first=0)

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

    def test_the_server_drops_what_xml_cannot_carry(self) -> None:
        """xapi deletes control characters; what is left arrives."""
        data = xmlrpc.dumps_success({"a\x00": "b\x1f\x7f\ud800\ufffe", "": "\t\n"})
        assert loads_response(data) == {"a": "b\x7f", "": "\t\n"}
        assert loads_response(xmlrpc.dumps_bare(["\x07"])) == [""]
        with pytest.raises(Failure) as caught:
            loads_response(xmlrpc.dumps_failure(["CODE", "\x00bell\x07"]))
        assert caught.value.params == ["bell"]

    def test_carriage_returns(self) -> None:
        """The client writes one so that it arrives; xapi writes it raw, and XML makes a line feed of it."""
        assert loads_call(dumps_call("a.b", ["a\r\nb\r"])) == ("a.b", ["a\r\nb\r"])
        assert b"a\r\nb" in xmlrpc.dumps_success("a\r\nb")
        assert loads_response(xmlrpc.dumps_success("a\r\nb")) == "a\nb"

    def test_floats(self) -> None:
        """The client sends every digit; the server, as xapi, sixteen."""
        assert loads_call(dumps_call("a.b", [0.1 + 0.2])) == ("a.b", [0.1 + 0.2])
        assert xmlrpc.encode(0.1 + 0.2, lenient=True) == "<value><double>0.3</double></value>"
        assert xmlrpc.encode(1.0, lenient=True) == "<value><double>1</double></value>"
        assert xmlrpc.encode(1.0) == "<value><double>1.0</double></value>"


def arrived(value: Any, *, digits: str = "") -> Any:
    """A value as the other side gets it: whole numbers are text."""
    if type(value) is int:
        return str(value)
    if type(value) is float:
        return float(f"{value:{digits}}")
    if isinstance(value, list):
        return [arrived(item, digits=digits) for item in value]
    if isinstance(value, dict):
        return {name: arrived(item, digits=digits) for name, item in value.items()}
    return value


CARRIED = st.characters(codec="utf-8", exclude_categories=["Cc", "Cs"], exclude_characters="\ufffe\uffff")
TEXT = st.text(CARRIED | st.sampled_from("\t\n"))
KEYS = st.text(CARRIED, min_size=1)
WHOLE = st.integers(-(2**63), 2**63 - 1)
MOMENTS = st.datetimes(datetime(1970, 1, 1), datetime(2200, 1, 1)).map(lambda t: Timestamp(f"{t:%Y%m%dT%H:%M:%SZ}"))  # noqa: DTZ001
VALUES: st.SearchStrategy[Any] = st.recursive(
    TEXT | WHOLE | st.booleans() | st.floats(allow_nan=False) | MOMENTS,
    lambda values: st.lists(values, max_size=4) | st.dictionaries(KEYS, values, max_size=4),
    max_leaves=20,
)


def plain(value: Any) -> Any:
    """A value of the official codec as ours has it."""
    if isinstance(value, official.DateTime):
        return Timestamp(value.value)
    if isinstance(value, official.Binary):
        return value.data
    if isinstance(value, list):
        return [plain(item) for item in value]
    if isinstance(value, dict):
        return {name: plain(item) for name, item in value.items()}
    return value


def foreign(value: Any) -> Any:
    """One of our values as the official codec has it."""
    if isinstance(value, Timestamp):
        return official.DateTime(str(value))
    if isinstance(value, list):
        return [foreign(item) for item in value]
    if isinstance(value, dict):
        return {name: foreign(item) for name, item in value.items()}
    return value


class TestRoundTrips:
    """What is written is what is read, by us and by the official codec."""

    @given(st.lists(VALUES, max_size=3))
    def test_a_call_arrives(self, params: list[Any]) -> None:
        """The server reads the values that the client was given."""
        assert loads_call(dumps_call("a.b", params)) == ("a.b", arrived(params))

    @given(VALUES)
    def test_an_answer_arrives(self, value: Any) -> None:
        """The client reads the values that the server was given, floats to sixteen digits."""
        assert loads_response(xmlrpc.dumps_success(value)) == arrived(value, digits=".16g")
        assert loads_value(xmlrpc.encode(value, lenient=True)) == arrived(value, digits=".16g")

    @given(st.lists(VALUES, max_size=3))
    def test_the_official_codec_reads_our_calls(self, params: list[Any]) -> None:
        """The standard library finds the same method and values in a call of ours."""
        found, method = official.loads(dumps_call("a.b", params).decode())
        assert (method, [plain(value) for value in found]) == ("a.b", arrived(params))

    @given(VALUES)
    def test_the_official_codec_reads_our_answers(self, value: Any) -> None:
        """The standard library finds the same struct in an answer of ours."""
        ((found,), _) = official.loads(xmlrpc.dumps_success(value).decode())
        assert plain(found) == {"Status": "Success", "Value": arrived(value, digits=".16g")}

    @given(VALUES)
    def test_we_read_what_the_official_codec_writes(self, value: Any) -> None:
        """A call of the standard library, white space, tags and all, is read as what it was given."""

        def small(value: Any) -> Any:
            if type(value) is int:
                return value % 2**31
            if isinstance(value, list):
                return [small(item) for item in value]
            if isinstance(value, dict):
                return {name: small(item) for name, item in value.items()}
            return value

        data = official.dumps((foreign(small(value)),), "a.b", allow_none=True).encode()
        assert loads_call(data) == ("a.b", [small(value)])

    @given(st.text())
    def test_any_text_arrives_or_is_refused(self, text: str) -> None:
        """Text is never changed on its way to the server, and never breaks the call."""
        try:
            data = dumps_call("a.b", [text])
        except ValueError:
            assert any(ord(c) < 32 or 0xD800 <= ord(c) < 0xE000 or c in "\ufffe\uffff" for c in text)
        else:
            assert loads_call(data) == ("a.b", [text])

    @given(VALUES, st.data())
    def test_damaged_answers_are_refused_or_read_but_nothing_else(self, value: Any, data: st.DataObject) -> None:
        """Whatever bytes come, an answer is a value, a failure, or malformed."""
        document = xmlrpc.dumps_success(value)
        start = data.draw(st.integers(0, len(document)))
        end = data.draw(st.integers(start, len(document)))
        put = data.draw(
            st.binary(max_size=8) | st.sampled_from([b"<", b"</value>", b"<value/>", b"&", b"<!DOCTYPE", b"\x00"])
        )
        with suppress(MalformedError, Failure):
            loads_response(document[:start] + put + document[end:])


PLAIN_TEXTS = st.text("ab <&>\"'\t\n\ré%;=/", max_size=6)


def _either(read: Any, data: bytes) -> Any:
    """What a reader gives, or the name of its error."""
    try:
        return read(data)
    except (MalformedError, Failure) as error:
        return type(error).__name__


@given(
    params=st.lists(PLAIN_TEXTS, max_size=3),
    at=st.integers(0, 400),
    put=st.sampled_from([b"", b"<", b"&", b" ", b"\n"]),
)
def test_calls_of_plain_texts_are_read_as_walked(params: list[str], at: int, put: bytes) -> None:
    """As we write them, as the official SDK does, and with a byte in the wrong place."""
    theirs = official.dumps(tuple(params), "VM.get_record").encode()
    for data in (dumps_call("VM.get_record", params), theirs):
        place = at % len(data)
        for variant in (data, data[:place] + put + data[place:], data[:place] + put + data[place + 1 :]):
            assert _either(loads_call, variant) == _either(xmlrpc.walk_call, variant)


@given(text=PLAIN_TEXTS, at=st.integers(0, 400), put=st.sampled_from([b"", b"<", b"&", b" ", b"\n"]))
def test_an_answer_of_plain_text_is_read_as_walked(text: str, at: int, put: bytes) -> None:
    """Whole, and with a byte in the wrong place."""
    data = xmlrpc.dumps_success(text)
    place = at % len(data)
    for variant in (data, data[:place] + put + data[place:], data[:place] + put + data[place + 1 :]):
        assert _either(loads_response, variant) == _either(xmlrpc.walk_response, variant)
