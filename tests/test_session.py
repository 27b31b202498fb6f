"""The session: logging in and out, following the master, repeating what is safe and nothing else, keeping secrets."""

from __future__ import annotations

import copy
import io
import logging
import pickle
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from http.server import BaseHTTPRequestHandler, HTTPServer
from typing import Any

import pytest

import xenctl
from mockserver.pool import MockPool
from mockserver.transports.server import PoolServer
from xenctl import session as sessions
from xenctl import xmlrpc
from xenctl.api import errors
from xenctl.errors import ConnectError, ConnectionLost, Failure, ProtocolError, TransportError
from xenctl.session import MAX_HOPS
from xenctl.transport import Clock, Request, Response, SystemClock, Transport
from xenctl.values import to_int

PASSWORD = "hunter2"

# What is scripted here is XML-RPC; `test_jsonrpc.py` tells how a session finds out what a host speaks.
Session = partial(sessions.Session, protocol="xmlrpc")
connect = partial(sessions.connect, protocol="xmlrpc")


def answered(body: bytes, status: int = 200, **headers: str) -> Response:
    """One HTTP answer."""
    return Response(status, headers, io.BytesIO(body))


class Wire:
    """A transport that hands on to another one, one request at a time, and remembers the calls; `before` and `after`
    may raise, or answer in its place."""

    def __init__(self, inner: Transport) -> None:
        self._inner = inner
        self._lock = threading.Lock()
        self.calls: list[tuple[str, str, list[Any]]] = []
        self.before: Callable[[str, str], Response | None] = lambda method, host: None
        self.after: Callable[[str, str], Response | None] = lambda method, host: None
        self.closed = False

    @property
    def clock(self) -> Clock:
        return self._inner.clock

    @property
    def methods(self) -> list[str]:
        """The methods that were called, in order."""
        return [method for _, method, _ in self.calls]

    def send(self, request: Request) -> Response:
        method, params = xmlrpc.loads_call(request.body) if request.body else (request.path.partition("?")[0], [])
        self.calls.append((request.host, method, params))
        answer = self.before(method, request.host)
        if answer is None:
            with self._lock:
                answer = self._inner.send(request)
        return self.after(method, request.host) or answer

    def close(self) -> None:
        self.closed = True


class Scripted:
    """A transport whose hosts answer what `reply` returns or raises for a host, a method and its parameters."""

    clock: Clock = SystemClock()

    def __init__(self, reply: Callable[[str, str, list[Any]], Any]) -> None:
        self.reply = reply
        self.calls: list[tuple[str, str]] = []

    def send(self, request: Request) -> Response:
        method, params = xmlrpc.loads_call(request.body)
        self.calls.append((request.host, method))
        try:
            value = self.reply(request.host, method, params)
        except Failure as failure:
            return answered(xmlrpc.dumps_failure(failure.details))
        return value if isinstance(value, Response) else answered(xmlrpc.dumps_success(value))

    def close(self) -> None:
        """Nothing is held."""


@pytest.fixture
def pool() -> MockPool:
    """A pool of two hosts."""
    return MockPool.create(hosts=2, vms=4, release="4.0.1", password=PASSWORD)


@pytest.fixture
def wire(pool: MockPool) -> Wire:
    """The way to the pool."""
    return Wire(pool.transport())


@pytest.fixture
def session(pool: MockPool, wire: Wire) -> Session:
    """A session with the pool; the login is not among the wire's calls."""
    made = connect(pool.url, "root", PASSWORD, transport=wire)
    wire.calls.clear()
    return made


def member_url(pool: MockPool) -> str:
    """The URL of a host that is not the master."""
    return f"http://{pool.machines[1].address}"


def restart(pool: MockPool) -> None:
    """Cut the master's power and bring it back up: it has forgotten all sessions."""
    name = pool.master.name
    pool.hands.power_off(name)
    pool.hands.power_on(name)
    pool.clock.advance(600)
    assert pool.master_serves


def sessions_of(pool: MockPool) -> int:
    """How many sessions the server holds."""
    return len(pool.store.table("session"))


class TestLoggingIn:
    """The beginning of a session."""

    def test_a_session_is_a_context(self, pool: MockPool) -> None:
        """It logs in and, at the end, out: the server holds no session then."""
        with connect(pool.url, "root", PASSWORD, transport=pool.transport()) as session:
            assert sessions_of(pool) == 1
            assert len(session.VM.get_all()) == 6
        assert sessions_of(pool) == 0

    def test_it_logs_out_after_an_error_too(self, pool: MockPool) -> None:
        """What the body raised goes on, and the session is closed on the server."""
        with pytest.raises(KeyError, match="mine"), connect(pool.url, "root", PASSWORD, transport=pool.transport()):
            raise KeyError("mine")
        assert sessions_of(pool) == 0

    def test_a_failing_logout_does_not_hide_the_error_before(self, session: Session, wire: Wire) -> None:
        """With the host gone, the body's error is what is raised."""

        def gone(method: str, host: str) -> None:
            raise ConnectError("gone", host=host, method=method)

        wire.before = gone
        with pytest.raises(KeyError, match="mine"), session:
            raise KeyError("mine")

    def test_a_failing_logout_is_raised_otherwise(self, session: Session, wire: Wire) -> None:
        """A session that may be left behind is no secret."""

        def lost(method: str, host: str) -> None:
            raise ConnectionLost("gone", host=host, method=method)

        wire.before = lost
        with pytest.raises(ConnectionLost, match=r"session\.logout"), session:
            pass
        assert session.ref is None

    def test_login_sends_two_arguments(self, pool: MockPool, wire: Wire) -> None:
        """4.0.1 takes a user name and a password and nothing more."""
        Session(pool.url, transport=wire).login_with_password("root", PASSWORD)
        assert wire.calls == [(pool.url, "session.login_with_password", ["root", PASSWORD])]

    def test_a_member_leads_to_the_master(self, pool: MockPool, wire: Wire) -> None:
        """`HOST_IS_SLAVE` is followed, and the session stays with the master."""
        with connect(member_url(pool), "root", PASSWORD, transport=wire) as session:
            assert session.origin == pool.url
            assert [host for host, _, _ in wire.calls] == [member_url(pool), pool.url]
            assert session.pool.get_all()

    @pytest.mark.parametrize(
        ("url", "named", "master"),
        [
            ("https://10.0.0.2:8443", "10.0.0.1", "https://10.0.0.1:8443"),
            ("http://10.0.0.2", "10.0.0.1", "http://10.0.0.1"),
            ("https://[2001:db8::2]:8443", "2001:db8::1", "https://[2001:db8::1]:8443"),
            ("http://127.0.0.1:8002", "127.0.0.1:8001", "http://127.0.0.1:8001"),
        ],
    )
    def test_the_master_is_reached_the_same_way(self, url: str, named: str, master: str) -> None:
        """Scheme and port of the first host serve for the master too."""

        def reply(host: str, method: str, params: list[Any]) -> str:
            if host == url:
                raise Failure(["HOST_IS_SLAVE", named])
            return "OpaqueRef:s"

        session = connect(url, "root", PASSWORD, transport=Scripted(reply))
        assert session.origin == master

    @pytest.mark.parametrize("circle", [1, 2, MAX_HOPS, 1000])
    def test_members_that_name_each_other_end_in_an_error(self, circle: int) -> None:
        """Where no host is master, the error shows the way that was gone, and the session is where it was."""

        def reply(host: str, method: str, params: list[Any]) -> str:
            raise Failure(["HOST_IS_SLAVE", f"10.0.0.{(int(host.rpartition('.')[2]) + 1) % circle}"])

        wire = Scripted(reply)
        session = Session("http://10.0.0.0", transport=wire)
        with pytest.raises(
            ProtocolError, match=r"session\.login_with_password on http://10\.0\.0\.0: no master found: "
        ) as caught:
            session.login_with_password("root", PASSWORD)
        assert "(http://10.0.0.0 -> " in str(caught.value)
        assert len(wire.calls) == min(circle, MAX_HOPS + 1)
        assert session.origin == "http://10.0.0.0"

    @pytest.mark.parametrize("params", [[], [""], ["not an address"]])
    def test_a_member_that_names_no_master(self, params: list[str]) -> None:
        """A redirection to nowhere is an answer that XenAPI does not give."""

        def reply(host: str, method: str, given: list[Any]) -> str:
            raise Failure(["HOST_IS_SLAVE", *params])

        with pytest.raises(ProtocolError, match="names no master"):
            connect("http://10.0.0.1", "root", PASSWORD, transport=Scripted(reply))

    @pytest.mark.parametrize("value", [["OpaqueRef:1"], "", True, {"ref": "OpaqueRef:1"}])
    def test_a_login_that_gives_no_reference(self, value: Any) -> None:
        """What is not a reference is no session, and is not repeated in the error."""
        with pytest.raises(ProtocolError, match="the answer is no reference") as caught:
            connect("http://10.0.0.1", "root", PASSWORD, transport=Scripted(lambda *_: value))
        assert "OpaqueRef" not in str(caught.value)

    def test_a_wrong_password(self, pool: MockPool) -> None:
        """The refusal is typed and does not hold the password; the credentials are forgotten."""
        session = Session(pool.url, transport=pool.transport())
        with pytest.raises(errors.SESSION_AUTHENTICATION_FAILED) as caught:
            session.login_with_password("root", "wrong-password")
        assert caught.value.params == ["root", "Authentication failure"]
        with pytest.raises(RuntimeError, match="not logged in"):
            session.VM.get_all()

    def test_logging_in_again_closes_the_session_before(self, pool: MockPool, session: Session) -> None:
        """Sessions are scarce: one object holds one."""
        before = session.ref
        session.login_with_password("root", PASSWORD)
        assert session.ref != before
        assert sessions_of(pool) == 1

    @pytest.mark.parametrize(("username", "password"), [("root", b"hunter2"), ("root", 0), (0, "hunter2")])
    def test_credentials_are_text(self, username: Any, password: Any) -> None:
        """Anything else is refused before it is sent, without showing it."""
        wire = Scripted(lambda *_: "OpaqueRef:s")
        with pytest.raises(TypeError, match=r"^user name and password are text$"):
            connect("http://10.0.0.1", username, password, transport=wire)
        assert wire.calls == []

    def test_options_belong_to_the_real_transport(self, pool: MockPool) -> None:
        """An option that would be ignored is refused; those of `HttpTransport` are passed on."""
        with pytest.raises(TypeError, match="verify: options of HttpTransport, but a transport was given"):
            Session(pool.url, transport=pool.transport(), verify=False)
        with pytest.raises(TypeError, match="verfy"):
            Session(pool.url, verfy=False)  # type: ignore[call-arg]

    def test_a_failed_connect_closes_its_transport(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """`connect` leaves no connections behind when it fails; a transport of the caller's is left alone."""
        closed = []
        monkeypatch.setattr("requests.adapters.HTTPAdapter.close", lambda adapter: closed.append(adapter))
        with pytest.raises(ConnectError):
            connect("http://127.0.0.1:1", "root", PASSWORD, trust_env=False)
        assert len(closed) == 1

        wire = Wire(Scripted(lambda *_: []))
        with pytest.raises(ProtocolError):
            connect("http://10.0.0.1", "root", PASSWORD, transport=wire)
        assert not wire.closed

    def test_a_transport_of_the_callers_stays_open(self, session: Session, wire: Wire) -> None:
        """Who made a transport closes it."""
        with session:
            pass
        assert not wire.closed


class TestCalling:
    """Calls and what comes back."""

    def test_a_call_is_sent_with_the_session_first(self, session: Session, wire: Wire) -> None:
        """Generated methods and `call` send the same."""
        (ref,) = session.pool.get_all()
        assert session.call("pool.get_all") == [ref]
        assert wire.calls[0] == wire.calls[1] == (session.origin, "pool.get_all", [session.ref])
        assert session.xenapi.pool.get_all() == [ref]

    def test_results_are_converted(self, session: Session) -> None:
        """`call` gives the wire value, or what its converter makes of it."""
        vm = session.VM.get_all()[0]
        assert isinstance(session.call("VM.get_VCPUs_max", (vm,)), str)
        assert session.call("VM.get_VCPUs_max", (vm,), to_int) == session.VM.get_VCPUs_max(vm)

    def test_a_failure_is_of_its_codes_class(self, session: Session) -> None:
        """A refusal is caught by its class in `xenctl.api.errors`, with its parameters as attributes."""
        with pytest.raises(errors.HANDLE_INVALID) as caught:
            session.VM.get_power_state("OpaqueRef:none")  # type: ignore[arg-type]
        assert (caught.value.class_, caught.value.params) == ("VM", ["VM", "OpaqueRef:none"])

    def test_an_unknown_code_is_a_plain_failure(self) -> None:
        """A newer server's codes are failures all the same."""

        def reply(host: str, method: str, params: list[Any]) -> str:
            if method == "VM.get_all":
                raise Failure(["BRAND_NEW", "a", "b"])
            return "OpaqueRef:s"

        session = connect("http://h", "root", PASSWORD, transport=Scripted(reply))
        with pytest.raises(Failure, match="BRAND_NEW") as caught:
            session.VM.get_all()
        assert type(caught.value) is Failure
        assert caught.value.details == ["BRAND_NEW", "a", "b"]

    def test_an_unknown_method(self, session: Session) -> None:
        """What the data model does not know is sent; the host says whether it does."""
        with pytest.raises(errors.MESSAGE_METHOD_UNKNOWN) as caught:
            session.call("VM.brand_new", ("a", 1))
        assert caught.value.params == ["VM.brand_new"]

    def test_methods_without_a_session(self, pool: MockPool, session: Session, wire: Wire) -> None:
        """`system.` methods and logins take no session, and none is sent."""
        assert "VM.start" in session.call("system.listMethods")
        assert session.call("system.isAlive:echo", ("hello",)) == "hello"
        other = session.session.login_with_password("root", PASSWORD)
        assert sessions_of(pool) == 2
        assert other != session.ref
        assert [params for _, _, params in wire.calls] == [[], ["hello"], ["root", PASSWORD]]
        assert xenctl.Session(pool.url, transport=wire).call("system.listMethods")

    def test_a_call_without_login_says_so(self, pool: MockPool) -> None:
        """Before login, after logout and after the context, a call says what is missing, and nothing is sent."""
        wire = Wire(pool.transport())
        session = Session(pool.url, transport=wire)
        message = r"VM\.get_all on http://.*: not logged in; call login_with_password first"
        with pytest.raises(RuntimeError, match=message):
            session.VM.get_all()
        with session:
            session.login_with_password("root", PASSWORD)
            session.logout()
            with pytest.raises(RuntimeError, match=message):
                session.VM.get_all()
            session.logout()
        with pytest.raises(RuntimeError, match=r"GET /pool/xmldbdump on http://.*: not logged in"):
            session.fetch("/pool/xmldbdump")
        assert wire.methods == ["session.login_with_password", "session.logout"]

    def test_an_answer_of_another_type_names_host_and_method(self) -> None:
        """What a converter refuses is an answer that XenAPI does not give."""

        def reply(host: str, method: str, params: list[Any]) -> Any:
            return "OpaqueRef:s" if "login" in method else "not a set"

        session = connect("http://h", "root", PASSWORD, transport=Scripted(reply))
        with pytest.raises(
            ProtocolError, match=r"^VM\.get_all on http://h: the answer is not of its type: expected an array"
        ) as caught:
            session.VM.get_all()
        assert (caught.value.host, caught.value.method) == ("http://h", "VM.get_all")

    @pytest.mark.parametrize(
        ("answer", "message"),
        [
            (answered(b"<html><h1>Bad  Gateway</h1>\n", 502), r"HTTP status 502: '<html><h1>Bad Gateway</h1>'"),
            (
                answered(b"<html>INTERNAL_ERROR: [ x ]</html>", 500),
                r"HTTP status 500: '<html>INTERNAL_ERROR: \[ x \]</html>'",
            ),
            (answered(b"", 503), "HTTP status 503: ''"),
            (answered(b"x" * 10_000, 500), f"HTTP status 500: '{'x' * 200}'$"),
            (answered(xmlrpc.dumps_success(["OpaqueRef:1"]), 500), "HTTP status 500"),
            (
                answered(b"", 302, location="https://h/?session_id=OpaqueRef:1"),
                "HTTP status 302: a redirection to https://h/$",
            ),
            (answered(b"<html>Sign in</html>"), "the answer cannot be read: an HTML page"),
            (answered(xmlrpc.dumps_success(["OpaqueRef:1"])[:-30]), "the answer cannot be read: not XML"),
            (answered(b""), "the answer cannot be read: not XML"),
        ],
    )
    def test_what_is_no_answer_names_host_and_method(self, answer: Response, message: str) -> None:
        """Pages of proxies, errors and halves of answers are refused whole; nothing is made of them."""

        def reply(host: str, method: str, params: list[Any]) -> Any:
            return "OpaqueRef:s" if "login" in method else answer

        session = connect("http://h", "root", PASSWORD, transport=Scripted(reply))
        with pytest.raises(ProtocolError, match=rf"^VM\.get_all on http://h: {message}"):
            session.VM.get_all()

    @pytest.mark.parametrize(
        ("value", "kind", "message"),
        [
            (
                "bell\x07",
                ValueError,
                r"VM\.set_name_label, parameter 2: the text has a character that XML cannot carry",
            ),
            (None, TypeError, r"VM\.set_name_label, parameter 2: XenAPI has no form for None"),
        ],
    )
    def test_an_argument_that_cannot_be_sent(
        self, session: Session, wire: Wire, value: Any, kind: type[Exception], message: str
    ) -> None:
        """It is refused before anything is sent, by method and parameter as the caller counts them."""
        with pytest.raises(kind, match=message):
            session.VM.set_name_label("OpaqueRef:1", value)  # type: ignore[arg-type]
        assert wire.calls == []


class TestMovingAndRestarting:
    """What a session puts right by itself, and what not."""

    def test_a_restarted_master_is_logged_in_to_again(self, pool: MockPool, session: Session, wire: Wire) -> None:
        """`SESSION_INVALID` comes before any effect: the session logs in and repeats the call."""
        restart(pool)
        assert len(session.VM.get_all()) == 6
        assert wire.methods == ["VM.get_all", "session.login_with_password", "VM.get_all"]
        assert wire.calls[2][2] == [session.ref] != wire.calls[0][2]
        assert sessions_of(pool) == 1

    def test_a_master_that_forgets_at_once_is_not_asked_forever(self) -> None:
        """One login a call: a server that never knows its own session is given up."""

        def reply(host: str, method: str, params: list[Any]) -> str:
            if method == "VM.get_all":
                raise Failure(["SESSION_INVALID", params[0]])
            return f"OpaqueRef:{len(hosts.calls)}"

        hosts = Scripted(reply)
        session = connect("http://h", "root", PASSWORD, transport=hosts)
        with pytest.raises(errors.SESSION_INVALID):
            session.VM.get_all()
        assert [method for _, method in hosts.calls] == ["session.login_with_password", "VM.get_all"] * 2

    def test_another_session_that_is_gone_is_the_callers_business(self, session: Session, wire: Wire) -> None:
        """`SESSION_INVALID` that names another reference is raised as it came."""
        wire.before = lambda method, host: answered(xmlrpc.dumps_failure(["SESSION_INVALID", "OpaqueRef:other"]))
        with pytest.raises(errors.SESSION_INVALID) as caught:
            session.VM.get_all()
        assert caught.value.params == ["OpaqueRef:other"]
        assert wire.methods == ["VM.get_all"]

    def test_a_session_without_credentials_is_not_renewed(self, pool: MockPool) -> None:
        """One that was given a reference alone raises what the server said; the reference is not in it."""
        wire = Wire(pool.transport())
        session = Session(pool.url, transport=wire)
        session.ref = xenctl.Ref("OpaqueRef:borrowed")
        with pytest.raises(errors.SESSION_INVALID) as caught:
            session.VM.get_all()
        assert caught.value.details == ["SESSION_INVALID", "(this session)"]
        assert wire.methods == ["VM.get_all"]

    def test_a_master_that_became_a_member_is_followed(self, pool: MockPool, session: Session, wire: Wire) -> None:
        """`HOST_IS_SLAVE` on a later call leads on with the same reference: the pool knows it."""
        ref = session.ref
        session.origin = member_url(pool)
        assert len(session.VM.get_all()) == 6
        assert (session.origin, session.ref) == (pool.url, ref)
        assert [(host, method) for host, method, _ in wire.calls] == [
            (member_url(pool), "VM.get_all"),
            (pool.url, "VM.get_all"),
        ]
        assert sessions_of(pool) == 1

    def test_a_new_master_that_does_not_know_the_session(self) -> None:
        """Redirected, then unknown: the session logs in there."""

        def reply(host: str, method: str, params: list[Any]) -> Any:
            if host == "http://10.0.0.1" and moved:
                raise Failure(["HOST_IS_SLAVE", "10.0.0.2"])
            if method == "VM.get_all" and params == ["OpaqueRef:http://10.0.0.1"]:
                raise Failure(["SESSION_INVALID", params[0]])
            return [] if method == "VM.get_all" else f"OpaqueRef:{host}"

        moved: list[bool] = []
        wire = Scripted(reply)
        session = connect("http://10.0.0.1", "root", PASSWORD, transport=wire)
        moved.append(True)
        assert session.VM.get_all() == []
        assert wire.calls[1:] == [
            ("http://10.0.0.1", "VM.get_all"),
            ("http://10.0.0.2", "VM.get_all"),
            ("http://10.0.0.2", "session.login_with_password"),
            ("http://10.0.0.2", "VM.get_all"),
        ]

    def test_a_circle_on_a_later_call(self, session: Session, wire: Wire) -> None:
        """Hosts that name each other end in one error here too."""
        wire.before = lambda method, host: answered(
            xmlrpc.dumps_failure(["HOST_IS_SLAVE", "10.0.0.2" if host.endswith(".1") else "10.0.0.1"])
        )
        with pytest.raises(ProtocolError, match=r"VM\.get_all on http://10\.0\.0\.1: no master found"):
            session.VM.get_all()

    def test_a_master_that_is_down_can_be_tried_again_later(self, pool: MockPool, session: Session) -> None:
        """A login that fails while the master is away does not end the session."""
        name = pool.master.name
        pool.hands.power_off(name)
        with pytest.raises(ConnectError):
            session.VM.get_all()
        pool.hands.power_on(name)
        with pytest.raises(ConnectError):
            session.VM.get_all()
        pool.clock.advance(600)
        assert session.VM.get_all()

    @pytest.mark.parametrize("error", [ConnectionLost, ConnectError, xenctl.WaitTimeout])
    def test_a_call_whose_connection_broke_is_not_repeated(
        self, pool: MockPool, session: Session, wire: Wire, error: type[TransportError]
    ) -> None:
        """The server got it once and acted once, and the caller is told."""
        vm = next(ref for ref, record in session.VM.get_all_records().items() if record.power_state == "Halted")
        before = pool.calls

        def broken(method: str, host: str) -> None:
            raise error("broke", host=host, method=method)

        wire.after = broken
        with pytest.raises(error):
            session.VM.start(vm, False, False)
        assert wire.methods.count("VM.start") == 1
        assert pool.calls == before + 1
        assert pool.store.get("VM", vm)["power_state"] == "Running"

    def test_a_call_broken_on_the_network_reaches_the_server_once(self) -> None:
        """Over a real connection, a host that hangs up after a call has seen that call once."""
        seen = []

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self) -> None:
                method, _ = xmlrpc.loads_call(self.rfile.read(int(self.headers["content-length"])))
                seen.append(method)
                if method == "VM.start":
                    self.close_connection = True
                    return
                body = xmlrpc.dumps_success("OpaqueRef:1")
                self.send_response(200)
                self.send_header("content-length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - the base class calls it so
                """Say nothing."""

        with HTTPServer(("127.0.0.1", 0), Handler) as server:
            threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
            session = connect(f"http://127.0.0.1:{server.server_address[1]}", "root", PASSWORD, trust_env=False)
            with session, pytest.raises(ConnectionLost, match=r"VM\.start on http://.*: the connection broke"):
                session.VM.start("OpaqueRef:1", False, False)  # type: ignore[arg-type]
            server.shutdown()
        assert seen == ["session.login_with_password", "VM.start", "session.logout"]

    def test_logging_out_of_a_session_that_is_gone(self, pool: MockPool, session: Session, wire: Wire) -> None:
        """A master that has forgotten the session has nothing to close, and is not logged in to for it."""
        restart(pool)
        session.logout()
        assert wire.methods == ["session.logout"]
        assert sessions_of(pool) == 0

    def test_logging_out_follows_the_master(self, pool: MockPool, session: Session) -> None:
        """The session is closed where it is."""
        session.origin = member_url(pool)
        session.logout()
        assert sessions_of(pool) == 0


class TestThreads:
    """One session, many threads."""

    def test_threads_whose_session_is_gone_log_in_once(self) -> None:
        """All are refused at the same moment; one logs in, the others go on with its session."""
        count = 6
        refused = threading.Barrier(count)
        lock = threading.Lock()
        logins = 0

        def reply(host: str, method: str, params: list[Any]) -> Any:
            nonlocal logins
            if method == "session.login_with_password":
                with lock:
                    logins += 1
                time.sleep(0.02)  # long enough for the others to want the same
                return f"OpaqueRef:{logins}"
            if params[0] == "OpaqueRef:1":
                refused.wait(5)
                raise Failure(["SESSION_INVALID", params[0]])
            return [params[0]]

        session = connect("http://h", "root", PASSWORD, transport=Scripted(reply))
        results: list[list[str]] = []
        threads = [threading.Thread(target=lambda: results.append(session.call("VM.get_all"))) for _ in range(count)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(5)
        assert results == [["OpaqueRef:2"]] * count
        assert logins == 2

    def test_threads_that_are_redirected_move_together(self) -> None:
        """Origin and reference are read as a pair: no call goes to the new master with the old one's session."""
        count = 6
        refused = threading.Barrier(count)
        pairs = set()
        moved = False

        def reply(host: str, method: str, params: list[Any]) -> Any:
            if method == "session.login_with_password":
                if host == "http://10.0.0.1" and moved:
                    raise Failure(["HOST_IS_SLAVE", "10.0.0.2"])
                return f"OpaqueRef:{host[-1]}"
            pairs.add((host, params[0]))
            if host == "http://10.0.0.1":
                refused.wait(5)
                raise Failure(["SESSION_INVALID", params[0]])
            return []

        wire = Scripted(reply)
        session = connect("http://10.0.0.1", "root", PASSWORD, transport=wire)
        moved = True
        threads = [threading.Thread(target=session.VM.get_all) for _ in range(count)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(5)
        assert pairs == {("http://10.0.0.1", "OpaqueRef:1"), ("http://10.0.0.2", "OpaqueRef:2")}
        assert [method for _, method in wire.calls].count("session.login_with_password") == 3


class TestOverTheNetwork:
    """A session on real sockets."""

    def test_a_whole_life(self, pool: MockPool) -> None:
        """Over TCP a member leads to the master, threads share the session, a dump is fetched, and logging out works."""
        with PoolServer(pool) as server:
            with connect(server.url_of(pool.machines[1]), "root", PASSWORD, trust_env=False) as session:
                assert session.origin == server.url
                with ThreadPoolExecutor(4) as threads:
                    found = list(threads.map(lambda _: len(session.VM.get_all_records()), range(20)))
                assert found == [6] * 20
                assert session.fetch("/pool/xmldbdump").read().startswith(b"<?xml")
                assert sessions_of(pool) == 1
            assert sessions_of(pool) == 0


class TestFetching:
    """HTTP handlers."""

    def test_a_handler_is_asked_as_this_sessions_user(self, session: Session) -> None:
        """`fetch` gives the answer of a handler, its body as a stream."""
        answer = session.fetch("/pool/xmldbdump")
        assert answer.status == 200
        assert answer.read().startswith(b"<?xml")

    @pytest.mark.parametrize(("path", "query"), [("/x", "/x?session_id={}"), ("/x?a=b", "/x?a=b&session_id={}")])
    def test_the_session_is_added_to_the_query(self, path: str, query: str) -> None:
        """A path may have a query of its own."""
        seen = []

        class Fetching(Scripted):
            def send(self, request: Request) -> Response:
                if request.method == "GET":
                    seen.append(request.path)
                    return answered(b"data")
                return super().send(request)

        session = connect("http://h", "root", PASSWORD, transport=Fetching(lambda *_: "OpaqueRef:s"))
        assert session.fetch(path).read() == b"data"
        assert seen == [query.format("OpaqueRef:s")]

    def test_a_restarted_master_is_logged_in_to_again(self, pool: MockPool, session: Session, wire: Wire) -> None:
        """A handler answers 401 where it does not know the session; a GET can be repeated."""
        restart(pool)
        assert session.fetch("/pool/xmldbdump").read().startswith(b"<?xml")
        assert wire.methods == ["/pool/xmldbdump", "session.login_with_password", "/pool/xmldbdump"]

    def test_a_handler_that_never_knows_the_session(self, session: Session, wire: Wire) -> None:
        """One login, then the status is raised."""
        wire.after = lambda method, host: answered(b"no", 401) if method.startswith("/") else None
        with pytest.raises(ProtocolError, match=r"^GET /pool/xmldbdump on http://.*: HTTP status 401: 'no'$"):
            session.fetch("/pool/xmldbdump?x=y")
        assert wire.methods == ["/pool/xmldbdump", "session.login_with_password", "/pool/xmldbdump"]

    def test_another_status_is_an_error(self, session: Session, wire: Wire) -> None:
        """It names handler and host."""
        with pytest.raises(ProtocolError, match=r"^GET /nowhere on http://10\.0\.0\.1: HTTP status 403"):
            session.fetch("/nowhere")
        assert wire.methods == ["/nowhere"]


def texts(error: BaseException | None) -> Iterator[str]:
    """Every text of an error and of what led to it, as logs and trackers print it."""
    while error is not None:
        yield str(error)
        yield repr(error)
        yield repr(vars(error))
        yield "".join(traceback.format_exception_only(type(error), error))
        error = error.__cause__ or error.__context__


class TestSecrets:
    """Neither the password nor the session's reference gets out."""

    @pytest.fixture
    def secrets(self, session: Session) -> list[str]:
        """What must not be seen."""
        assert session.ref
        return [PASSWORD, session.ref]

    def test_a_sessions_text(self, session: Session, secrets: list[str]) -> None:
        """It names the host."""
        text = f"{session!r} {session} {session.Async!r} {session.VM!r} {session.Async.VM!r}"
        assert session.origin in text
        assert not [secret for secret in secrets if secret in text]
        session.logout()
        assert repr(session) == f"<Session with {session.origin}, not logged in>"

    def test_logs(self, pool: MockPool, wire: Wire, caplog: pytest.LogCaptureFixture) -> None:
        """With every logger at DEBUG, a whole life of a session names methods and hosts only."""
        caplog.set_level(logging.DEBUG)
        refs = set()
        with connect(member_url(pool), "root", PASSWORD, transport=wire) as session:
            refs.add(str(session.ref))
            restart(pool)
            session.VM.get_all()
            refs.add(str(session.ref))
            session.fetch("/pool/xmldbdump").read()
        assert "VM.get_all on http://10.0.0.1: HTTP 200" in caplog.text
        assert "following HOST_IS_SLAVE to the master at http://10.0.0.1" in caplog.text
        assert "logging in again" in caplog.text
        assert not [secret for secret in {PASSWORD, *refs} if secret in caplog.text]

    @pytest.mark.parametrize(
        "respond",
        [
            lambda ref: answered(f"<html>what is {ref}?</html>".encode(), 500),
            lambda ref: answered(xmlrpc.dumps_failure(["INTERNAL_ERROR", f"Expected int, got '{ref}'"])),
            lambda ref: answered(xmlrpc.dumps_failure(["SESSION_INVALID", ref])),
            lambda ref: answered(xmlrpc.dumps_failure(["HANDLE_INVALID", "session", ref])),
            lambda ref: answered(
                xmlrpc.dumps_success("").replace(b"<value></value>", f"<value><int>{ref}</int></value>".encode())
            ),
        ],
    )
    def test_errors_in_which_the_server_repeats_the_reference(
        self, session: Session, wire: Wire, respond: Callable[[str], Response]
    ) -> None:
        """Whatever the server says, the reference is masked, and so it is in what led to the error."""
        refs = {str(session.ref)}

        def echo(method: str, host: str) -> Response | None:
            refs.add(str(session.ref))
            return None if "login" in method else respond(str(session.ref))

        wire.after = echo
        with pytest.raises(xenctl.XenctlError) as caught:
            session.VM.get_all()
        shown = "\n".join(texts(caught.value))
        assert "(this session)" in shown
        assert not [ref for ref in refs if ref in shown]

    def test_pages_in_which_a_handler_repeats_the_reference(
        self, session: Session, wire: Wire, secrets: list[str]
    ) -> None:
        """The same for what `fetch` is told."""
        wire.after = lambda method, host: answered(f"<html>who is {session.ref}?</html>".encode(), 500)
        with pytest.raises(ProtocolError, match=r"who is \(this session\)\?") as caught:
            session.fetch("/pool/xmldbdump?a=b")
        assert not [secret for text in texts(caught.value) for secret in secrets if secret in text]

    def test_errors_of_the_transport(self, pool: MockPool, session: Session, secrets: list[str]) -> None:
        """A host that is away is named without what was to be sent."""
        pool.hands.power_off(pool.master.name)
        for act in (session.VM.get_all, lambda: session.fetch("/pool/xmldbdump"), session.logout):
            with pytest.raises(ConnectError) as caught:
                act()
            assert not [secret for text in texts(caught.value) for secret in secrets if secret in text]

    @pytest.mark.parametrize("password", ["wrong-password", "wrong-password\x00"])
    def test_a_refused_password(self, pool: MockPool, password: str) -> None:
        """Neither the server's refusal nor ours holds it."""
        with pytest.raises((Failure, ValueError)) as caught:
            connect(pool.url, "root", password, transport=pool.transport())
        assert not [text for text in texts(caught.value) if "wrong" in text.replace("wrong user name", "")]

    @pytest.mark.parametrize("act", [pickle.dumps, copy.copy, copy.deepcopy])
    def test_a_session_is_not_copied(self, session: Session, act: Callable[[Any], Any]) -> None:
        """Credentials do not get into a pickle or a second owner."""
        with pytest.raises(TypeError, match="a session is not copied or pickled"):
            act(session)

    def test_errors_survive_pickling_without_secrets(self, session: Session, secrets: list[str]) -> None:
        """An error of a call can be handed to another process."""
        acts: list[Callable[[], object]] = [
            lambda: session.call("VM.get_power_state", ("OpaqueRef:none",)),
            lambda: session.fetch("/nowhere"),
        ]
        for act in acts:
            with pytest.raises(xenctl.XenctlError) as caught:
                act()
            data = pickle.dumps(caught.value)
            assert str(pickle.loads(data)) == str(caught.value)  # noqa: S301 - our own
            assert not [secret for secret in secrets if secret.encode() in data]
