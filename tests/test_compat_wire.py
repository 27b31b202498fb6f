"""The drop-in for the official SDK on the wire: what either makes of a server's answers, and what a server reads of theirs.

`SAME_ANSWERS` are those of which both make the same. `DIFFERENT` is what differs on purpose, with what either does;
`docs/compat.md` has a row with the reason for each.
"""

from __future__ import annotations

import re
import threading
import xmlrpc.client
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta, timezone
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from xenctl import compat
from xenctl import xmlrpc as codec

official = pytest.importorskip("XenAPI.XenAPI")
ours = compat.XenAPI

DOCS = Path(__file__).parent.parent / "docs" / "compat.md"


class Host:
    """A server that gives its answers in turn: bytes as they are, a number as an HTTP status, None by hanging up."""

    def __init__(self, *answers: bytes | int | None) -> None:
        self.methods: list[str] = []
        self.bodies: list[bytes] = []
        self.paths: list[str] = []
        self.headers: list[Mapping[str, str]] = []
        left = list(answers)
        host = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"
            disable_nagle_algorithm = True

            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["content-length"]))
                found = re.search(rb"<methodName>(.*)</methodName>", body)
                host.methods.append(found[1].decode() if found else "")
                host.bodies.append(body)
                host.paths.append(self.path)
                host.headers.append({name.lower(): value for name, value in self.headers.items()})
                answer = left.pop(0) if len(left) > 1 else left[0]
                if answer is None:
                    self.close_connection = True
                    return
                status, data = (200, answer) if isinstance(answer, bytes) else (answer, b"no")
                self.send_response(status)
                self.send_header("content-type", "text/xml")
                self.send_header("content-length", str(len(data)))
                self.end_headers()
                self.wfile.write(data)

            def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - the base class's name for it
                """Say nothing."""

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True
        self.name = f"127.0.0.1:{self.server.server_address[1]}"
        self.url = f"http://{self.name}"

    def __enter__(self) -> Host:
        threading.Thread(target=self.server.serve_forever, args=(0.01,), daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self.server.shutdown()
        self.server.server_close()


LOGGED_IN = codec.dumps_success("OpaqueRef:session")
SESSION_INVALID = codec.dumps_failure(["SESSION_INVALID", "OpaqueRef:session"])
FAULT = xmlrpc.client.dumps(xmlrpc.client.Fault(17, "no <such> thing"), methodresponse=True).encode()


TAGGED = (
    b"<methodResponse><params><param><value><struct><member><name>Status</name><value><string>Success</string></value>"
    b"</member><member><name>Value</name><value><array><data><value><int>1</int></value><value><nil/></value>"
    b"<value><i8>-99999999999</i8></value><value><string/></value><value> </value><value><base64>AP8=</base64></value>"
    b"<value><dateTime.iso8601>20260101T00:00:00Z</dateTime.iso8601></value></data></array></value></member></struct>"
    b"</value></param></params></methodResponse>"
)


def struct(**members: Any) -> bytes:
    """The bytes of an answer that is this struct."""
    return codec.dumps_bare(members)


@dataclass
class Meeting:
    """How one SDK gets on with a `Host`: what its call comes to, and what reached the host."""

    outcome: Any
    methods: list[str]
    handle: Any


def meet(
    sdk: Any,
    *answers: bytes | int | None,
    call: Callable[[Any], Any] = lambda s: s.xenapi.VM.start("vm"),
    **options: Any,
) -> Meeting:
    """Log in to a host that gives these answers and call."""
    with Host(*answers) as host:
        session = sdk.Session(host.url, **options)
        try:
            session.login_with_password("root", "secret")
            outcome: Any = ("returned", call(session))
        except Exception as error:  # noqa: BLE001 - whatever it is, it is compared
            args = tuple(a.replace(host.name, "host") if isinstance(a, str) else a for a in error.args)
            outcome = (type(error).__name__, args, str(error).replace(host.name, "host"))
        finally:
            session("close")()
        return Meeting(outcome, host.methods, session.handle)


SAME_ANSWERS: dict[str, tuple[bytes | int | None, ...]] = {
    "success": (LOGGED_IN, codec.dumps_success(["a", True, 1.5, {"b": codec.I4(3)}])),
    "values with tags": (LOGGED_IN, TAGGED),
    "failure": (LOGGED_IN, codec.dumps_failure(["VM_BAD_POWER_STATE", "vm", "a", ""])),
    "fault": (LOGGED_IN, FAULT),
    "the session forgotten once": (LOGGED_IN, SESSION_INVALID, LOGGED_IN, codec.dumps_success("")),
    "the session forgotten for ever": (
        LOGGED_IN, SESSION_INVALID, LOGGED_IN, SESSION_INVALID, LOGGED_IN, SESSION_INVALID, LOGGED_IN,
    ),
    "the session forgotten at once": (SESSION_INVALID,),
    "logged out meanwhile, and the new login refused": (
        LOGGED_IN, SESSION_INVALID, codec.dumps_failure(["SESSION_AUTHENTICATION_FAILED", "root", "no"]),
    ),
    "a master that has become a member": (LOGGED_IN, codec.dumps_failure(["HOST_IS_SLAVE", "10.0.0.2"])),
    **{f"HTTP {status}": (LOGGED_IN, status) for status in (302, 400, 401, 403, 404, 500, 502, 503)},
    "HTTP 500 at the login": (500,),
    "the connection dropped twice": (LOGGED_IN, None, None),
}  # fmt: skip


@pytest.mark.parametrize("answers", SAME_ANSWERS.values(), ids=list(SAME_ANSWERS))
def test_both_make_the_same_of_an_answer(answers: tuple[bytes | int | None, ...]) -> None:
    """The same value or exception, text and all, and the same session afterwards."""
    theirs, mine = (meet(sdk, *answers) for sdk in (official, ours))
    assert mine.outcome == theirs.outcome
    assert mine.handle == theirs.handle
    if None not in answers:
        assert mine.methods == theirs.methods


class Different(NamedTuple):
    """What differs on purpose: the row of docs/compat.md, and what comes of it in either SDK."""

    title: str
    theirs: Any
    mine: Any
    answers: tuple[bytes | int | None, ...] = (LOGGED_IN, codec.dumps_success(""))
    call: Callable[[Any], Any] = lambda s: s.xenapi.VM.start("vm")


DIFFERENT = [
    Different(
        "A connection that drops after a call was sent",
        ("returned", "", 2),
        ("RemoteDisconnected", "Remote end closed connection without response", 1),
        answers=(LOGGED_IN, None, codec.dumps_success("")),
    ),
    Different(
        "Whole numbers beyond 32 bits",
        ("OverflowError", "int exceeds XML-RPC limits", 0),
        ("returned", "", 1),
        call=lambda s: s.xenapi.VM.set_memory_static_max("vm", 1 << 40),
    ),
    Different(
        "Whole numbers beyond 64 bits",
        ("OverflowError", "int exceeds XML-RPC limits", 0),
        ("ValueError", "parameter 2: the number does not fit in 64 bits", 0),
        call=lambda s: s.xenapi.VM.set_memory_static_max("vm", 1 << 64),
    ),
    Different(
        "Sets, and whole numbers as keys",
        ("TypeError", "cannot marshal <class 'set'> objects", 0),
        ("returned", "", 1),
        call=lambda s: s.xenapi.VM.set_tags("vm", {"a"}, {1: 2}),
    ),
    Different(
        "Text that XML cannot carry",
        ("returned", "", 1),
        ("ValueError", "parameter 2: the text has a character that XML cannot carry", 0),
        call=lambda s: s.xenapi.VM.set_name_label("vm", "\x00"),
    ),
    Different(
        "A map with an empty key",
        ("returned", "", 1),
        ("ValueError", "parameter 2: a map's key cannot be empty", 0),
        call=lambda s: s.xenapi.VM.set_other_config("vm", {"": "a"}),
    ),
    Different(
        "A list for `xenapi_request`",
        ("TypeError", "can only concatenate tuple", 0),
        ("returned", "", 1),
        call=lambda s: s.xenapi_request("VM.get_all", []),
    ),
    Different(
        "A local login under `xenapi`",
        ("TypeError", "can only concatenate str", 1),
        ("returned", None, 1),
        answers=(LOGGED_IN, LOGGED_IN),
        call=lambda s: s.xenapi.slave_local_login_with_password("root", "secret"),
    ),
    Different(
        "A second logout",
        ("AttributeError", "'NoneType' object has no attribute 'startswith'", 1),
        ("returned", None, 1),
        call=lambda s: s.logout() or s.logout(),
    ),
    Different(
        "An answer without a status",
        ("TypeError", "can only concatenate str", 1),
        ("Fault", "an answer without a status", 1),
        answers=(LOGGED_IN, struct(Value="")),
    ),
    Different(
        "An answer without a status",
        ("TypeError", "can only concatenate str", 1),
        ("Fault", "Missing Status in response from server", 1),
        answers=(LOGGED_IN, codec.dumps_bare(["VM.get_all"])),
        call=lambda s: s.xenapi.system.listMethods(),
    ),
    Different(
        "An answer without a value or an error",
        ("Fault", "Missing Value in response from server", 1),
        ("Fault", "neither value nor error", 1),
        answers=(LOGGED_IN, struct(Status="Success")),
    ),
    Different(
        "An answer without a value or an error",
        ("IndexError", "list index out of range", 1),
        ("Fault", "neither value nor error", 1),
        answers=(LOGGED_IN, codec.dumps_failure([])),
    ),
    Different(
        "An answer without a value or an error",
        ("Fault", "Missing ErrorDescription in response from server", 1),
        ("Fault", "status 'Pending' and neither value nor error", 1),
        answers=(LOGGED_IN, struct(Status="Pending", Value="")),
    ),
    Different(
        "An answer that is not XML, or cut off",
        ("ExpatError", "unclosed token", 1),
        ("Fault", "not XML", 1),
        answers=(LOGGED_IN, codec.dumps_success("long")[:-20]),
    ),
    Different(
        "An answer that is not XML, or cut off",
        ("ResponseError", "", 1),
        ("Fault", "an HTML page", 1),
        answers=(LOGGED_IN, b"<html><body>hello</body></html>"),
    ),
    Different(
        "Names that XenAPI has not",
        ("returned", True, 0),
        ("returned", False, 0),
        call=lambda s: hasattr(s.xenapi, "_repr_html_"),
    ),
    Different(
        "Names that XenAPI has not",
        ("returned", True, 0),
        ("returned", False, 0),
        call=lambda s: hasattr(s, "__iter__"),
    ),
]


@pytest.mark.parametrize("row", DIFFERENT, ids=[f"{row.title} ({n})" for n, row in enumerate(DIFFERENT)])
def test_both_differ_on_purpose(row: Different) -> None:
    """Each does what the row says: value or exception, its text, and how often the call was sent."""
    for sdk, (kind, text, sent) in ((official, row.theirs), (ours, row.mine)):
        met = meet(sdk, *row.answers, call=row.call)
        assert met.outcome[0] == kind
        if kind == "returned":
            assert met.outcome[1] == text
        else:
            assert text in met.outcome[2]
        assert len(met.methods) == 1 + sent, sdk


def test_vm_start_is_sent_once_over_a_connection_that_drops() -> None:
    """The server counts `VM.start`: the official SDK starts the VM twice, this one reports the loss."""
    counts = {}
    for sdk in (official, ours):
        met = meet(sdk, LOGGED_IN, None, codec.dumps_success(""))
        counts[sdk] = met.methods.count("VM.start")
    assert counts == {official: 2, ours: 1}


ARGUMENTS: list[tuple[Any, ...]] = [
    ("text", "<&>\"' \u00e4\U0001f600", "", " "),
    (1, -1, 0, 2**31 - 1, True, False, 1.5, -0.0, float("inf")),
    (["a", ["b"], {}], ("a", 1), {"a": {"b": [1, "2"]}}),
    (None, ["a", None], {"a": None, "b": 1.5, "c": True, "d": "<&>"}),
    (xmlrpc.client.DateTime("20260102T03:04:05Z"), [xmlrpc.client.DateTime("20260102T03:04:05")]),
    (b"bytes", xmlrpc.client.Binary(b"\x00\xff")),
]


def sent(sdk: Any, *args: Any) -> Any:
    """What a server reads of the arguments that an SDK sends, whole numbers as text."""

    def plain(value: Any) -> Any:
        if isinstance(value, list):
            return [plain(item) for item in value]
        if isinstance(value, dict):
            return {name: plain(item) for name, item in value.items()}
        return (str, repr(str(value))) if type(value) is int else (type(value), repr(value))

    with Host(LOGGED_IN, codec.dumps_success("")) as host:
        session = sdk.Session(host.url)
        session.login_with_password("root", "secret")
        session.xenapi.VM.method(*args)
        session("close")()
        assert host.paths == ["/RPC2", "/RPC2"]
        return plain(codec.loads_call(host.bodies[1])[1])


@pytest.mark.parametrize("args", ARGUMENTS, ids=["text", "numbers", "nested", "None", "dates", "bytes"])
def test_a_server_reads_the_same(args: tuple[Any, ...]) -> None:
    """Arguments of every type arrive as the official SDK sends them, but for the tag of whole numbers."""
    assert sent(ours, *args) == sent(official, *args)


def test_dates_are_sent_with_their_zone() -> None:
    """Dates without a zone and in UTC are told as UTC, others are converted; the official SDK drops the zone."""
    naive = datetime(2026, 1, 2, 3, 4, 5)  # noqa: DTZ001 - what users pass
    east = datetime(2026, 1, 2, 3, 4, 5, tzinfo=timezone(timedelta(hours=2)))
    for extra in ((), (None,)):
        theirs, mine = (sent(sdk, naive, east, *extra) for sdk in (official, ours))
        assert [text for _, text in theirs[1:3]] == ["'20260102T03:04:05'"] * 2
        assert [text for _, text in mine[1:3]] == ["'20260102T03:04:05Z'", "'20260102T01:04:05Z'"]


def test_every_difference_has_its_row_in_the_docs() -> None:
    """docs/compat.md has a row, with a reason, for every difference that is tested here, and names only tests there are."""
    text = DOCS.read_text(encoding="utf-8")
    rows = {
        cells[0].strip(): cells[-1].strip() for cells in re.findall(r"^\|([^|]*)\|.*\|([^|]+)\|$", text, re.MULTILINE)
    }
    for each in DIFFERENT:
        assert rows.get(each.title), each.title
    tests = "".join(path.read_text(encoding="utf-8") for path in Path(__file__).parent.glob("test_*.py"))
    for name in re.findall(r"`(test_\w+)`", text):
        assert f"def {name}(" in tests, name
