"""The drop-in by itself: transports, threads, certificates, Unix sockets, and what it costs to import."""

from __future__ import annotations

import copy
import io
import logging
import os
import pickle
import socket
import socketserver
import subprocess
import sys
import tempfile
import threading
import xmlrpc.client
from collections.abc import Callable, Iterator
from errno import ECONNREFUSED
from http.client import RemoteDisconnected
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

import xenctl
from mockserver import MockPool, PoolServer
from mockserver.transports.xenapi import XenAPITransport
from xenctl import xmlrpc as codec
from xenctl.api import errors as codes
from xenctl.compat import XenAPI
from xenctl.errors import ConnectError, ConnectionLost, TransportError, WaitTimeout
from xenctl.transport import HttpTransport, Request, Response, SystemClock

official = pytest.importorskip("XenAPI.XenAPI")
BOTH = pytest.mark.parametrize("sdk", [official, XenAPI], ids=["official", "ours"])


@pytest.fixture
def pool() -> MockPool:
    """A pool of two hosts."""
    return MockPool.create(hosts=2, vms=4, release="8.2")


class Wire:
    """A transport that remembers what was sent; what `trouble` returns for a method is raised."""

    clock = SystemClock()

    def __init__(self, reply: Callable[[Request], Response] | None = None) -> None:
        self.requests: list[Request] = []
        self.trouble: Callable[[str], Exception | None] = lambda method: None
        self.closed = 0
        self._reply = reply or (lambda request: Response(200, {}, io.BytesIO(codec.dumps_success("OpaqueRef:1"))))

    @property
    def methods(self) -> list[str]:
        return [request.label for request in self.requests]

    def send(self, request: Request) -> Response:
        self.requests.append(request)
        trouble = self.trouble(request.label)
        if trouble is not None:
            raise trouble
        return self._reply(request)

    def close(self) -> None:
        self.closed += 1


class TestTransports:
    """What `transport=` takes."""

    def test_a_pool_in_the_same_process(self, pool: MockPool) -> None:
        """The fake's transport carries calls without sockets; a host that is off refuses the connection."""
        session = XenAPI.Session(pool.url, transport=pool.transport())
        session.login_with_password("root", "secret")
        assert len(session.xenapi.host.get_all()) == 2
        assert session("transport") is session.transport
        pool.hands.power_off("host1")
        with pytest.raises(ConnectionRefusedError) as caught:
            session.xenapi.host.get_all()
        assert isinstance(caught.value.__cause__, ConnectError)

    def test_one_of_xmlrpc_client(self, pool: MockPool) -> None:
        """What was written for the official SDK serves here."""
        session = XenAPI.Session(pool.url, transport=XenAPITransport(pool))
        session.login_with_password("root", "secret")
        assert all(
            type(record["snapshot_time"]) is xmlrpc.client.DateTime
            for record in session.xenapi.VM.get_all_records().values()
        )
        with pytest.raises(XenAPI.Failure, match="MESSAGE_METHOD_UNKNOWN"):
            session.xenapi.VM.nonesuch()

    def test_one_of_xmlrpc_client_over_the_network(self, pool: MockPool) -> None:
        """Plain `xmlrpc.client.Transport`: every call has a connection of its own."""
        with PoolServer(pool) as server:
            session = XenAPI.Session(server.url, transport=xmlrpc.client.Transport())
            session.login_with_password("root", "secret")
            assert len(session.xenapi.host.get_all()) == 2
            assert session.transport._connection == (None, None)
            session("close")()
            assert len(session.xenapi.host.get_all()) == 2

    def test_one_of_xmlrpc_client_does_not_repeat_either(self) -> None:
        """The standard library's second try is passed by; the official SDK makes it."""

        class Dropping(xmlrpc.client.Transport):
            sent = 0

            def single_request(self, *args: Any) -> Any:
                self.sent += 1
                raise RemoteDisconnected("Remote end closed connection without response")

        counts = []
        for sdk in (official, XenAPI):
            session = sdk.Session("http://host", transport=Dropping())
            with pytest.raises(RemoteDisconnected):
                session.xenapi.VM.start("vm", False, False)
            counts.append(session.transport.sent)
        assert counts == [2, 1]

    def test_a_stand_in_of_a_users_tests(self) -> None:
        """An object whose `request` answers with the unmarshalled answer, as tests of users have it."""

        class StandIn(xmlrpc.client.Transport):
            def request(self, host: Any, handler: str, request_body: Any, verbose: bool = False) -> Any:
                (method, _) = xmlrpc.client.loads(request_body)[::-1]
                return ({"Status": "Success", "Value": [host, handler, method]},)

        class Mine(XenAPI.Session):
            def __init__(self, uri: str, transport: Any = None) -> None:
                XenAPI.Session.__init__(self, uri, transport=StandIn(), verbose=0, allow_none=1)

        class Theirs(Mine):
            """With an attribute that another class might have chosen too."""

            _lock = _line = _place = None

        assert Theirs("http://me:pw@host").xenapi.VM.get_all()[1] == "/RPC2"
        assert Mine("http://me:pw@host").xenapi.VM.get_all() == ["me:pw@host", "/RPC2", "VM.get_all"]

    def test_a_transport_is_closed_by_with_and_by_close(self) -> None:
        """As with the official SDK, nothing is logged out."""
        wire = Wire()
        with XenAPI.Session("http://host", transport=wire) as session:
            session.login_with_password("root", "secret")
        session("close")()
        assert wire.closed == 2
        assert wire.methods == ["session.login_with_password"]

    def test_user_and_password_of_the_url_go_into_a_header_and_nowhere_else(self) -> None:
        """The header is what the official SDK sends; errors and the repr show the host alone."""
        wire = Wire(lambda request: Response(401, {}, io.BytesIO(b"")))
        session = XenAPI.Session("http://me:h%75nter2@host/path?query", transport=wire)
        with pytest.raises(xmlrpc.client.ProtocolError) as caught:
            session.login_with_password("root", "secret")
        assert wire.requests[0].headers["authorization"] == "Basic bWU6aHVudGVyMg=="
        assert (wire.requests[0].host, wire.requests[0].path) == ("http://host", "/path?query")
        assert (caught.value.url, repr(session)) == ("host/path?query", "<Session for host/path?query>")

    def test_the_network_is_used_as_the_official_sdk_does(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """No proxy of the environment, patience for a day, or as long as `socket.setdefaulttimeout` says."""
        made: list[dict[str, Any]] = []
        monkeypatch.setattr(HttpTransport, "__init__", lambda self, **options: made.append(options))
        XenAPI.Session("http://host")
        monkeypatch.setattr(socket, "getdefaulttimeout", lambda: 7.0)
        XenAPI.Session("http://host")
        assert [(o["connect_timeout"], o["read_timeout"], o["trust_env"]) for o in made] == [
            (120.0, 86400.0, False),
            (7.0, 7.0, False),
        ]


def caused(error: Exception, cause: Exception) -> Exception:
    """`error`, raised from `cause`."""
    error.__cause__ = cause
    return error


@pytest.mark.parametrize(
    ("error", "kind", "errno"),
    [
        (ConnectError("off"), ConnectionRefusedError, ECONNREFUSED),
        (caused(ConnectError("no such place"), UnicodeError("a label is too long")), OSError, None),
        (ConnectionLost("gone"), ConnectionResetError, None),
        (WaitTimeout("slow"), TimeoutError, None),
        (TransportError("?"), OSError, None),
    ],
    ids=["refused", "unusable", "lost", "slow", "other"],
)
def test_trouble_without_a_socket_is_told_as_a_socket_would(error: Exception, kind: type[OSError], errno: Any) -> None:
    """Programs catch `OSError` and its kinds; ours is the cause, and says what to do."""
    wire = Wire()
    wire.trouble = lambda method: error
    with pytest.raises(kind) as caught:
        XenAPI.Session("http://host", transport=wire).xenapi.VM.get_all()
    assert type(caught.value) is kind
    assert caught.value.errno == errno
    assert caught.value.__cause__ is error
    assert len(wire.methods) == 1


def test_a_connection_that_times_out_at_login_is_fault_504() -> None:
    """As with the official SDK; elsewhere it is the socket's error."""
    wire = Wire()
    wire.trouble = lambda method: caused(ConnectError("no connection within 120 s"), TimeoutError("timed out"))
    session = XenAPI.Session("http://host", transport=wire)
    with pytest.raises(xmlrpc.client.Fault) as caught:
        session.login_with_password("root", "secret")
    assert (caught.value.faultCode, caught.value.faultString) == (504, "The connection timed out")
    with pytest.raises(TimeoutError, match="Connection timed out"):
        session.xenapi.VM.get_all()


@BOTH
def test_a_refused_connection(sdk: Any) -> None:
    """The same error of the same numbers."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    session = sdk.Session(f"http://127.0.0.1:{port}")
    with pytest.raises(ConnectionRefusedError) as caught:
        session.login_with_password("root", "secret")
    assert caught.value.args == (ECONNREFUSED, os.strerror(ECONNREFUSED))


class TestThreads:
    """Threads may share a session; with the official SDK they may not."""

    def test_they_call_at_the_same_time(self, pool: MockPool) -> None:
        """Every call is answered with its own answer."""
        with PoolServer(pool) as server, XenAPI.Session(server.url) as session:
            session.login_with_password("root", "secret")
            labels = {ref: record["name_label"] for ref, record in session.xenapi.VM.get_all_records().items()}
            wrong = in_threads(
                lambda: [ref for ref, label in labels.items() if session.xenapi.VM.get_name_label(ref) != label]
            )
        assert wrong == [[]] * 8

    def test_one_of_them_logs_in_again(self, pool: MockPool) -> None:
        """Of many threads that find the session gone, one logs in and the others use what it got."""
        with PoolServer(pool) as server:
            network = HttpTransport()
            wire = Wire(network.send)
            session = XenAPI.Session(server.url, transport=wire)
            session.login_with_password("root", "secret")
            for _ in range(3):
                session.session.logout(session.handle)
                assert in_threads(lambda: len(session.xenapi.host.get_all())) == [2] * 8
            network.close()
        assert wire.methods.count("session.login_with_password") == 4

    def test_they_share_a_transport_of_xmlrpc_client(self, pool: MockPool) -> None:
        """One that takes one call at a time is given one at a time."""
        with PoolServer(pool) as server:
            session = XenAPI.Session(server.url, transport=xmlrpc.client.Transport())
            session.login_with_password("root", "secret")
            assert in_threads(lambda: len(session.xenapi.host.get_all())) == [2] * 8


def in_threads(work: Callable[[], Any], count: int = 8) -> list[Any]:
    """What `work` returns in each of many threads that start together, or the error it raises."""
    start = threading.Barrier(count)
    found: list[Any] = []

    def run() -> None:
        start.wait()
        try:
            found.append(work())
        except Exception as error:  # noqa: BLE001 - compared by the test
            found.append(error)

    threads = [threading.Thread(target=run) for _ in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return found


class TestFailure:
    """The error of both worlds."""

    def test_it_is_caught_as_xenctls(self, pool: MockPool) -> None:
        """`except xenctl.Failure` catches it, and it has what that has; the code's own class it is not."""
        session = XenAPI.Session(pool.url, transport=pool.transport())
        session.login_with_password("root", "secret")
        with pytest.raises(xenctl.Failure) as caught:
            session.xenapi.VM.get_power_state("OpaqueRef:made-up")
        error = caught.value
        assert type(error) is XenAPI.Failure
        assert not isinstance(error, codes.HANDLE_INVALID)
        assert (error.code, error.params) == ("HANDLE_INVALID", ["VM", "OpaqueRef:made-up"])
        assert str(error) == str(error.details)
        assert error == xenctl.Failure(error.details)

    def test_it_pickles_as_itself(self) -> None:
        """Subclasses and attributes of users included."""
        error = XenAPI.Failure(["A", "b"])
        error.note = "mine"
        again = pickle.loads(pickle.dumps(error))  # noqa: S301 - our own
        assert (type(again), again.details, again.note) == (XenAPI.Failure, ["A", "b"], "mine")


class TestSession:
    """Small things."""

    def test_it_is_not_copied_or_pickled(self) -> None:
        """It says so, where the official SDK fails in some depth."""
        session = XenAPI.Session("http://host", transport=Wire())
        for attempt in (copy.copy, pickle.dumps):
            with pytest.raises(TypeError, match="not copied or pickled"):
                attempt(session)
        assert repr(copy.copy(session.xenapi.VM)) == "<XenAPI._Dispatcher for VM>"

    def test_verbose_prints_a_line_without_secrets(self, capsys: pytest.CaptureFixture[str]) -> None:
        """The official SDK prints requests whole, passwords and references in them."""
        session = XenAPI.Session("http://host", transport=Wire(), verbose=1)
        session.login_with_password("root", "hunter2")
        session.xenapi.VM.get_all()
        lines = capsys.readouterr().out.splitlines()
        assert [line.partition(",")[0] for line in lines] == [
            "session.login_with_password on http://host: HTTP 200",
            "VM.get_all on http://host: HTTP 200",
        ]

    def test_the_log_has_no_secrets(self, caplog: pytest.LogCaptureFixture) -> None:
        """Method, host, status and duration."""
        caplog.set_level(logging.DEBUG, "xenctl")
        session = XenAPI.Session("http://host", transport=Wire())
        session.login_with_password("root", "hunter2")
        session.xenapi.VM.get_all()
        assert "VM.get_all on http://host: HTTP 200" in caplog.text
        assert "hunter2" not in caplog.text
        assert "OpaqueRef" not in caplog.text

    def test_the_modules_that_the_official_one_shows(self) -> None:
        """`XenAPI.xmlrpclib` and `XenAPI.httplib` are in use; `XenAPI.XenAPI` is how some reach `Failure`."""
        assert XenAPI.xmlrpclib is xmlrpc.client
        assert XenAPI.httplib.RemoteDisconnected is RemoteDisconnected
        assert XenAPI.XenAPI.Failure is XenAPI.Failure
        with pytest.raises(AttributeError, match="nonesuch"):
            _ = XenAPI.nonesuch

    def test_a_call_of_no_name(self) -> None:
        """The official SDK sends it as the method `None`, or fails on it."""
        with pytest.raises(TypeError, match="a method's name is missing"):
            XenAPI.Session("http://host", transport=Wire()).xenapi()

    def test_a_logout_elsewhere_is_no_reason_to_log_in(self) -> None:
        """A thread that finds the session replaced, or ended by another thread's logout, does not log in by itself."""
        refused = Response(200, {}, io.BytesIO(codec.dumps_failure(["SESSION_INVALID", "OpaqueRef:1"])))
        wire = Wire(lambda request: refused)
        session = XenAPI.Session("http://host", transport=wire)
        session._session = "OpaqueRef:1"
        session._log_in_again("OpaqueRef:older")
        assert wire.methods == []


PROGRAM = """
import sys, XenAPI

def main(session):
    for ref, record in sorted(session.xenapi.VM.get_all_records().items(), key=lambda vm: vm[1]["name_label"]):
        if not record["is_a_template"] and not record["is_control_domain"]:
            print(record["name_label"], record["power_state"], int(record["memory_static_max"]) // 2 ** 20,
                  record["snapshot_time"], session.xenapi.VM.get_VBDs(ref))
    try:
        session.xenapi.VM.start(ref, False, False)
    except XenAPI.Failure as error:
        print("refused:", error, error.details[0])

session = XenAPI.Session(sys.argv[1])
try:
    session.xenapi.login_with_password("root", "secret", "1.0", "a program")
except XenAPI.Failure as error:
    if error.details[0] != "HOST_IS_SLAVE":
        raise
    session = XenAPI.Session(sys.argv[2])
    session.xenapi.login_with_password("root", "secret", "1.0", "a program")
try:
    main(session)
finally:
    session.xenapi.session.logout()
"""
IN_ITS_PLACE = "import sys, xenctl.compat; sys.modules['XenAPI'] = xenctl.compat"


def test_a_program_that_knows_nothing_of_us() -> None:
    """Put in place of the module, ours runs a program as the official SDK does: the same lines come out."""
    printed = []
    for before in ("", IN_ITS_PLACE):
        with PoolServer(MockPool.create(hosts=2, vms=3, release="8.2")) as server:
            urls = [server.hosts()[1]["url"], server.url]
            command = [sys.executable, "-c", f"{before}\n{PROGRAM}", *urls]
            printed.append(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
    assert printed[0] == printed[1]
    assert "refused: ['" in printed[0]


IMPORTS = """
import sys
before = set(sys.modules)
from xenctl.compat import XenAPI
XenAPI.Failure(["A"])
heavy = {"requests", "urllib3", "lxml", "xmlrpc", "http", "ssl", "socket", "urllib", "email", "dataclasses"}
print(sorted({name.partition(".")[0] for name in set(sys.modules) - before} & heavy))
print(sorted(name for name in sys.modules if name.startswith("xenctl.")))
"""


def test_importing_it_loads_next_to_nothing() -> None:
    """requests, lxml and the standard library's XML-RPC wait for the first session."""
    run = subprocess.run([sys.executable, "-c", IMPORTS], capture_output=True, text=True, check=True)
    assert run.stdout.splitlines() == ["[]", "['xenctl.compat', 'xenctl.errors']"]


# Servers that are no fake pools.


class Answering(BaseHTTPRequestHandler):
    """Answers every call with a reference, and keeps its headers."""

    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = False
    server: Any

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["content-length"]))
        self.server.seen.append({name.lower(): value for name, value in self.headers.items()})
        status, data = self.server.answer
        if not status:
            self.close_connection = True
            return
        self.send_response(status)
        self.send_header("content-length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - the base class's name for it
        """Say nothing."""


class Quiet(socketserver.ThreadingMixIn):
    """A server whose clients may hang up."""

    daemon_threads = True
    block_on_close = False
    answer = (200, codec.dumps_success("OpaqueRef:1"))

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Say nothing."""


class TcpServer(Quiet, socketserver.TCPServer):
    """Answers on a port of the loopback."""


if hasattr(socket, "AF_UNIX"):

    class UnixServer(Quiet, socketserver.UnixStreamServer):
        """Answers on a Unix socket."""


def served(server: Any) -> Iterator[Any]:
    """The server, serving until the test is over."""
    server.seen = []
    threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
    yield server
    server.shutdown()
    server.server_close()


@pytest.fixture
def unix() -> Iterator[Any]:
    """A server on a Unix socket whose path has no underscore, which the SDKs read as a slash."""
    if not hasattr(socket, "AF_UNIX"):
        pytest.skip("this system has no Unix sockets")
    path = Path(tempfile.gettempdir()).resolve() / f"xenctl{os.getpid()}x{threading.get_ident()}"
    server = UnixServer(str(path), Answering)
    server.url = f"http://{str(path).replace('/', '_')}"
    try:
        yield from served(server)
    finally:
        path.unlink()


def test_an_idle_connection_that_the_host_has_closed_is_no_trouble() -> None:
    """It is noticed before anything is sent; then a new one is opened."""

    class Impatient(TcpServer):
        def __init__(self) -> None:
            self.closed = threading.Semaphore(0)
            super().__init__(("127.0.0.1", 0), Answering)

        def process_request_thread(self, request: Any, client_address: Any) -> None:
            request.settimeout(0.01)
            super().process_request_thread(request, client_address)
            self.closed.release()

    for server in served(Impatient()):
        session = XenAPI.Session(f"http://127.0.0.1:{server.server_address[1]}")
        for _ in range(3):
            session.xenapi.VM.get_all()
            server.closed.acquire()
        assert len(server.seen) == 3


def test_an_answer_that_breaks_off_is_a_lost_connection() -> None:
    """The call may have taken effect; nothing of the answer is used, and nothing is sent again."""

    class Broken(TcpServer):
        def __init__(self) -> None:
            super().__init__(("127.0.0.1", 0), HalfWay)

    class HalfWay(Answering):
        def send_header(self, keyword: str, value: str) -> None:
            super().send_header(keyword, f"{value}0" if keyword == "content-length" else value)
            self.close_connection = True

    for server in served(Broken()):
        session = XenAPI.Session(f"http://127.0.0.1:{server.server_address[1]}")
        with pytest.raises(OSError, match="whether the call took effect is not known"):
            session.xenapi.VM.start("vm")
        assert len(server.seen) == 1


class TestUnixSocket:
    """`UDSTransport` and `xapi_local`."""

    @BOTH
    def test_calls_go_through_it(self, sdk: Any, unix: Any, monkeypatch: pytest.MonkeyPatch) -> None:
        """What the environment says of the work that a call is part of goes along."""
        for name, value in {"TRACEPARENT": "00-ab", "BAGGAGE": "a=b", "ORIGINATOR": "me"}.items():
            monkeypatch.setenv(name, value)
        session = sdk.Session(unix.url, transport=sdk.UDSTransport())
        session.login_with_password("root", "")
        assert session.xenapi.VM.get_all() == "OpaqueRef:1"
        session("close")()
        for headers in unix.seen:
            assert (headers["traceparent"], headers["baggage"], headers["originator"]) == ("00-ab", "a=b", "me")
            assert headers["host"] == unix.url.partition("://")[2]
        assert len(unix.seen) == 2

    @BOTH
    def test_a_server_proxy_may_use_it(self, sdk: Any, unix: Any) -> None:
        """It serves `xmlrpc.client.ServerProxy` too, as programs on a host do."""
        with xmlrpc.client.ServerProxy(unix.url, transport=sdk.UDSTransport()) as proxy:
            assert proxy.VM.get_all() == {"Status": "Success", "Value": "OpaqueRef:1"}
            unix.answer = (503, b"")
            with pytest.raises(xmlrpc.client.ProtocolError, match="503"):
                proxy.VM.get_all()

    def test_headers_of_ones_own_arrive(self, unix: Any) -> None:
        """`add_extra_header` does what it says; the official one forgets before it sends."""
        seen = []
        for sdk in (official, XenAPI):
            transport = sdk.UDSTransport()
            transport.add_extra_header("Subtask-of", "OpaqueRef:task")
            sdk.Session(unix.url, transport=transport).xenapi.VM.get_all()
            transport.close()
            seen.append(unix.seen[-1].get("subtask-of"))
        assert seen == [None, "OpaqueRef:task"]

    def test_the_current_span_goes_along(self, unix: Any, monkeypatch: pytest.MonkeyPatch) -> None:
        """Where OpenTelemetry is installed and not switched off; where it is wanted and not there, nothing happens."""
        monkeypatch.setenv("OTEL_SDK_DISABLED", "false")
        session = XenAPI.Session(unix.url, transport=XenAPI.UDSTransport())
        monkeypatch.setitem(sys.modules, "opentelemetry", None)
        session.xenapi.VM.get_all()
        monkeypatch.setitem(sys.modules, "opentelemetry", SimpleNamespace())
        span = SimpleNamespace(inject=lambda headers: headers.update(traceparent="00-span"))
        monkeypatch.setitem(sys.modules, "opentelemetry.propagate", span)
        session.xenapi.VM.get_all()
        assert [headers.get("traceparent") for headers in unix.seen] == [None, "00-span"]

    def test_nothing_is_sent_twice(self, unix: Any) -> None:
        """A connection that drops is an error, here too."""
        unix.answer = (0, b"")
        session = XenAPI.Session(unix.url, transport=XenAPI.UDSTransport())
        proxy = xmlrpc.client.ServerProxy(unix.url, transport=XenAPI.UDSTransport())
        for call in (session.xenapi.VM.start, proxy.VM.start):
            with pytest.raises(RemoteDisconnected):
                call("vm")
        assert len(unix.seen) == 2

    @BOTH
    def test_there_may_be_none(self, sdk: Any) -> None:
        """Away from a host the socket is not there."""
        if Path("/var/lib/xcp/xapi").exists():
            pytest.skip("this is a host")
        with pytest.raises(FileNotFoundError) as caught:
            sdk.xapi_local().login_with_password("root", "")
        assert caught.value.args == (2, "No such file or directory")
