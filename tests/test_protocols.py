"""Which protocol a session speaks, how it finds out, that nothing else depends on it; and the fake's answers in JSON-RPC."""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from typing import Any

import pytest

from mockserver import MockPool
from mockserver.transports.server import PoolServer
from xenctl import connect, datamodel, jsonrpc, xmlrpc
from xenctl.api.VM import VM
from xenctl.errors import ConnectionLost, Failure, ProtocolError
from xenctl.events import PoolCache
from xenctl.session import THIS, Session
from xenctl.transport import Clock, Request, Response, SystemClock, Transport
from xenctl.values import Record, to_int

JSON = ("/jsonrpc", "application/json")
XML = ("/", "text/xml")


class Wire:
    """A transport that remembers where each request went, and hands on to the one that is there now."""

    def __init__(self, inner: Transport) -> None:
        self.inner = inner
        self.sent: list[tuple[str, str]] = []

    @property
    def clock(self) -> Clock:
        return self.inner.clock

    def send(self, request: Request) -> Response:
        self.sent.append((request.path, request.label))
        return self.inner.send(request)

    def close(self) -> None:
        self.inner.close()


class Scripted:
    """A host of which only the answers to calls over JSON-RPC matter."""

    clock: Clock = SystemClock()

    def __init__(self, reply: Callable[[jsonrpc.Call], Response]) -> None:
        self.reply = reply

    def send(self, request: Request) -> Response:
        if request.path == "/":
            method, _ = xmlrpc.loads_call(request.body)
            return answered(xmlrpc.dumps_success(f"OpaqueRef:xml {method}"), "text/xml")
        return self.reply(jsonrpc.loads_call(request.body))

    def close(self) -> None:
        """Nothing is held."""


def answered(body: bytes, content_type: str = "application/json", status: int = 200) -> Response:
    """One HTTP answer."""
    return Response(status, {"content-type": content_type}, io.BytesIO(body))


def pool_of(release: str, **shape: int) -> MockPool:
    return MockPool.create(**{"hosts": 2, "vms": 2, **shape}, release=release)


def logged_in(pool: MockPool, protocol: Any = "auto") -> tuple[Session, Wire]:
    """A session and its wire, the login among what was sent."""
    wire = Wire(pool.transport())
    return connect(pool.url, "root", "secret", transport=wire, protocol=protocol), wire


LOGIN = "session.login_with_password"


class TestFindingOut:
    """What a login tries."""

    @pytest.mark.parametrize("release", ["7.0", "7.2", "7.3", "8.2", "XCP-ng 8.3"])
    def test_a_host_that_speaks_json_is_asked_once(self, release: str) -> None:
        """The login is JSON-RPC, and so is all that follows."""
        session, wire = logged_in(pool_of(release))
        assert len(session.VM.get_all_records()) == 4
        session.logout()
        methods = [LOGIN, "VM.get_all_records", "session.logout"]
        assert wire.sent == [("/jsonrpc", method) for method in methods]

    @pytest.mark.parametrize("release", ["4.0.1", "5.6", "6.5"])
    def test_a_host_that_does_not_is_asked_twice_for_its_login_alone(self, release: str) -> None:
        """It takes the first one for XML-RPC, does not understand it, and that is known from then on."""
        pool = pool_of(release)
        session, wire = logged_in(pool)
        session.VM.get_all()
        session.VM.get_all()
        assert wire.sent == [("/jsonrpc", LOGIN), ("/", LOGIN), ("/", "VM.get_all"), ("/", "VM.get_all")]
        assert len(pool.store.table("session")) == 1

    def test_a_protocol_may_be_forced(self) -> None:
        """A host that speaks both is spoken to as told; one that does not speak JSON-RPC is an error that says so."""
        _, wire = logged_in(pool_of("8.2"), "xmlrpc")
        assert wire.sent == [("/", LOGIN)]
        wire = Wire(pool_of("6.5").transport())
        with pytest.raises(ProtocolError, match=r"it speaks no JSON-RPC \(hosts before 7\.0 do not\): HTTP status 500"):
            connect("http://10.0.0.1", "root", "secret", transport=wire, protocol="jsonrpc")
        assert wire.sent == [("/jsonrpc", LOGIN)]

    @pytest.mark.parametrize("word", ["json", "", "XMLRPC", None])
    def test_another_word_is_an_error(self, word: Any) -> None:
        """It lists the words there are, before anything is sent."""
        with pytest.raises(ValueError, match=r"no such protocol: .*; there are auto, jsonrpc, xmlrpc"):
            Session("https://h", protocol=word)

    @pytest.mark.parametrize(
        "answer",
        [
            answered(b"<html>Bad Gateway</html>", "text/html", 502),
            answered(b"<html>not found</html>", "text/html", 404),
            answered(b"<html>sign in</html>", "text/html"),
            answered(xmlrpc.dumps_failure(["INTERNAL_ERROR"]), "text/xml"),
            Response(500, {}, io.BytesIO(b"")),
        ],
        ids=lambda answer: str(answer.status),
    )
    def test_whatever_is_not_json_leads_to_xmlrpc(self, answer: Response) -> None:
        """Old hosts, and what may stand before a host, answer in many ways."""
        session = connect("http://h", "root", "secret", transport=Scripted(lambda call: answer))
        assert session.ref == f"OpaqueRef:xml {LOGIN}"

    def test_a_refused_login_is_not_repeated(self) -> None:
        """A wrong password is refused in JSON-RPC, and that is the end of it."""
        wire = Wire(pool_of("8.2").transport())
        with pytest.raises(Failure, match="SESSION_AUTHENTICATION_FAILED"):
            connect("http://10.0.0.1", "root", "wrong", transport=wire)
        assert wire.sent == [("/jsonrpc", LOGIN)]

    def test_a_broken_answer_in_json_is_not_repeated(self) -> None:
        """The host speaks JSON-RPC, and may have logged in."""
        host = Scripted(lambda call: answered(jsonrpc.dumps_success("OpaqueRef:1", call)[:-5]))
        with pytest.raises(ProtocolError, match="the answer cannot be read: not JSON"):
            connect("http://h", "root", "secret", transport=host)

    def test_over_sockets(self) -> None:
        """An old host closes the connection on what it does not understand; the login goes on over another one."""
        for release, spoken in (("8.2", "/jsonrpc"), ("4.0.1", "/")):
            with PoolServer(pool_of(release)) as server, connect(server.url, "root", "secret") as session:
                assert len(session.VM.get_all()) == 4
                assert session._spoken.path == spoken


class TestChanges:
    """Hosts change under a session."""

    def test_a_member_leads_to_the_master(self) -> None:
        """`HOST_IS_SLAVE` is followed in either protocol, and each host is asked what it speaks."""
        for release, count in (("8.2", 2), ("4.0.1", 4)):
            pool = pool_of(release)
            wire = Wire(pool.transport())
            with connect(f"http://{pool.machines[1].address}", "root", "secret", transport=wire) as session:
                assert session.origin == pool.url
                assert len(wire.sent) == count

    def test_a_session_that_is_gone_is_renewed(self) -> None:
        """Over JSON-RPC the call is repeated after another login, as over XML-RPC."""
        pool = pool_of("8.2")
        session, wire = logged_in(pool)
        pool.hands.power_off(pool.master.name)
        pool.hands.power_on(pool.master.name)
        pool.clock.advance(600)
        wire.sent.clear()
        assert len(session.VM.get_all()) == 4
        assert wire.sent == [("/jsonrpc", "VM.get_all"), ("/jsonrpc", LOGIN), ("/jsonrpc", "VM.get_all")]

    def test_an_upgrade_is_noticed_with_the_next_login(self) -> None:
        """The new release knows no sessions; the login that follows finds out that it speaks JSON-RPC."""
        old, new = pool_of("6.5"), pool_of("8.2")
        session, wire = logged_in(old)
        wire.inner = new.transport()
        wire.sent.clear()
        assert len(session.VM.get_all()) == 4
        assert wire.sent == [("/", "VM.get_all"), ("/jsonrpc", LOGIN), ("/jsonrpc", "VM.get_all")]

    def test_a_revert_is_noticed_with_the_next_call(self) -> None:
        """The older release did not understand the call; once that is known for sure, it is safe to repeat."""
        old, new = pool_of("6.5"), pool_of("8.2")
        session, wire = logged_in(new)
        wire.inner = old.transport()
        wire.sent.clear()
        assert len(session.VM.get_all()) == 4
        assert [path for path, _ in wire.sent] == ["/jsonrpc", "/", "/jsonrpc", "/", "/jsonrpc", "/", "/"]
        assert [method for _, method in wire.sent if not method.startswith("system.")][-1] == "VM.get_all"

    @pytest.mark.parametrize("then", ["well", "emergency", "gone"])
    def test_an_error_of_a_host_that_may_speak_json_is_not_repeated(self, then: str) -> None:
        """HTTP status 500 may come after the call had its effect: unless it is sure that it had none, it is the error."""
        seen: list[str] = []

        def reply(call: jsonrpc.Call) -> Response:
            seen.append(call.method)
            if call.method == "VM.start":
                return answered(b"<html>INTERNAL_ERROR</html>", "text/html", 500)
            if call.method != LOGIN and then == "gone":
                raise ConnectionLost("it went away", host="http://h", method=call.method)
            if call.method != LOGIN and then == "emergency":
                return answered(jsonrpc.dumps_early_failure(["HOST_STILL_BOOTING"]))
            return answered(jsonrpc.dumps_success("OpaqueRef:1", call))

        session = connect("http://h", "root", "secret", transport=Scripted(reply))
        with pytest.raises(ProtocolError, match=r"VM\.start on http://h: .*HTTP status 500: .*INTERNAL_ERROR"):
            session.call("VM.start", ("OpaqueRef:vm",))
        assert [method for method in seen if method == "VM.start"] == ["VM.start"]

    @pytest.mark.parametrize("status", [502, 504])
    def test_the_word_of_a_proxy_is_not_the_hosts(self, status: int) -> None:
        """Where a host went away during a call, what stands before it says so, also to whoever asks what the host speaks:
        that is no reason to send the call once more."""
        started: list[str] = []

        class Proxy(Scripted):
            def send(self, request: Request) -> Response:
                if started and len(started) < 3:
                    started.append(request.label)
                    return answered(b"<html>Bad Gateway</html>", "text/html", status)
                return super().send(request)

        def reply(call: jsonrpc.Call) -> Response:
            if call.method == "VM.start":
                started.append(call.method)
                return answered(b"<html>Bad Gateway</html>", "text/html", status)
            return answered(jsonrpc.dumps_success("OpaqueRef:1", call))

        session = connect("http://h", "root", "secret", transport=Proxy(reply))
        with pytest.raises(ProtocolError, match=rf"VM\.start on http://h: .*HTTP status {status}"):
            session.call("VM.start", ("OpaqueRef:vm",))
        assert started.count("VM.start") == 1

    def test_a_new_master_is_spoken_to_in_what_every_host_speaks(self) -> None:
        """Where a call is refused with `HOST_IS_SLAVE`, nobody knows yet what the master speaks."""

        def reply(call: jsonrpc.Call) -> Response:
            if call.method == LOGIN:
                return answered(jsonrpc.dumps_success("OpaqueRef:1", call))
            return answered(jsonrpc.dumps_failure(["HOST_IS_SLAVE", "10.0.0.9"], call))

        session = connect("http://h", "root", "secret", transport=Scripted(reply))
        assert session.call("VM.get_all") == "OpaqueRef:xml VM.get_all"
        assert session.origin == "http://10.0.0.9"

    def test_the_sessions_reference_is_in_no_error(self) -> None:
        """`THIS` stands for it, in refusals and in answers that cannot be read."""
        secret = "OpaqueRef:secret"
        answers = {
            "a.refused": lambda call: answered(jsonrpc.dumps_failure(["INTERNAL_ERROR", f"got '{secret}'"], call)),
            "a.page": lambda call: answered(f"<html>{secret}</html>".encode(), "text/html", 500),
            LOGIN: lambda call: answered(jsonrpc.dumps_success(secret, call)),
            "system.isAlive:xenctl": lambda call: answered(jsonrpc.dumps_success("", call)),
        }
        session = connect("http://h", "root", "x", transport=Scripted(lambda call: answers[call.method](call)))
        for method in ("a.refused", "a.page"):
            with pytest.raises((Failure, ProtocolError)) as caught:
                session.call(method)
            assert secret not in str(caught.value)
            assert THIS in str(caught.value)


REFUSED: list[tuple[str, list[Any]]] = [
    ("VM.start", ["OpaqueRef:none", False, False]),
    ("VM.start", ["OpaqueRef:none"]),
    ("VM.start", ["OpaqueRef:none", "no", False]),
    ("VM.get_by_uuid", ["none"]),
    ("VM.set_user_version", ["OpaqueRef:none", "many"]),
    ("VM.set_tags", ["OpaqueRef:none", "tag"]),
    ("VM.set_actions_after_reboot", ["OpaqueRef:none", "explode"]),
    ("VM.new_thing", []),
    ("Async.VM.get_record", ["OpaqueRef:none"]),
    ("VDI.create", [{"name_label": "x"}]),
    ("host.get_log", ["OpaqueRef:none"]),
]


@pytest.fixture(scope="module")
def both() -> tuple[Session, Session]:
    """Two sessions with one pool, over XML-RPC and over JSON-RPC."""
    pool = MockPool.create(hosts=3, vms=8, release="8.4")
    first, second = (
        connect(pool.url, "root", "secret", transport=pool.transport(), protocol=word) for word in ("xmlrpc", "jsonrpc")
    )
    return first, second


class TestSameOnBoth:
    """The same pool, asked over both protocols."""

    @pytest.mark.parametrize(
        "name", [n for n, c in datamodel.load().classes.items() if "get_all_records" in c.messages]
    )
    def test_the_records_of_every_class(self, name: str, both: tuple[Session, Session]) -> None:
        """Equal, field by field, and of the same types; so is what an unknown message would give."""
        found = []
        for session in both:
            try:
                found.append(getattr(session, name).get_all_records())
            except Failure as refusal:
                found.append(refusal)
        first, second = found
        if isinstance(first, Failure):
            assert first.code in ("MESSAGE_REMOVED", "MESSAGE_METHOD_UNKNOWN", "NOT_IMPLEMENTED")
            assert first == second
            return
        assert first == second
        assert repr({ref: dict(record) for ref, record in first.items()}) == repr(
            {ref: dict(r) for ref, r in second.items()}
        )
        assert all(isinstance(record, Record) for record in second.values())
        raw = [session.call(f"{name}.get_all_records") for session in both]
        assert raw[0] == raw[1]

    @pytest.mark.parametrize(("method", "args"), REFUSED)
    def test_refusals(self, method: str, args: list[Any], both: tuple[Session, Session]) -> None:
        """The same class, code and parameters."""
        found = []
        for session in both:
            with pytest.raises(Failure) as caught:
                session.call(method, args)
            found.append((type(caught.value), caught.value.details))
        assert found[0] == found[1]

    def test_whole_numbers_may_be_given_for_text(self, both: tuple[Session, Session]) -> None:
        """XML-RPC does not tell digits from text, so callers need not either."""
        for session in both:
            vm = next(ref for ref, record in session.VM.get_all_records().items() if record.name_label == "vm01")
            session.call("VM.set_other_config", (vm, {"slot": 7}))
            session.VM.set_user_version(vm, 5)
            assert session.VM.get_other_config(vm) == {"slot": "7"}
            assert session.call("VM.get_user_version", (vm,)) == "5"
            assert session.call("VM.get_user_version", (vm,), to_int) == session.VM.get_user_version(vm) == 5

    def test_tasks(self, both: tuple[Session, Session]) -> None:
        """A task's result is XML inside of JSON."""
        for session in both:
            (host, *_), (vm, *_) = (
                session.host.get_all(),
                [ref for ref, record in session.VM.get_all_records().items() if record.power_state == "Running"],
            )
            assert host in session.Async.VM.get_possible_hosts(vm).wait()
            with pytest.raises(Failure, match="VM_BAD_POWER_STATE"):
                session.Async.VM.start(vm, False, False).wait()

    def test_events(self, both: tuple[Session, Session]) -> None:
        """A cache of the pool holds the same records."""
        with PoolCache(both[0], ["VM"]) as one, PoolCache(both[1], ["VM"]) as other:
            assert dict(one.of(VM)) == dict(other.of(VM))
            vm = next(iter(one.of(VM)))
            both[1].VM.set_name_label(vm, "renamed")
            for cache in (one, other):
                cache.wait_until(lambda pool: pool.of(VM)[vm].name_label == "renamed", timeout=60)


ORIGIN = {"access-control-allow-origin": "*", "access-control-allow-headers": "X-Requested-With"}
PLAIN = {"cache-control": "no-cache, no-store", "content-type": "application/json"}


def post(pool: MockPool, text: str | bytes, host: int = 0, path: str = "/jsonrpc") -> Response:
    """What a host answers to bytes."""
    body = text if isinstance(text, bytes) else text.encode()
    return pool.transport().send(Request(f"http://{pool.machines[host].address}", "POST", path, {}, body))


SHAPES: list[tuple[str, str, str]] = [
    ("8.2", '{"method":"system.isAlive:x","params":["y"],"id":"q"}', '{"result":"y","error":null,"id":"q"}'),
    (
        "8.2",
        '{"jsonrpc":"2.0","method":"system.isAlive:x","params":["y"],"id":3}',
        '{"jsonrpc":"2.0","result":"y","id":3}',
    ),
    (
        "8.2",
        '{"jsonrpc":"2.0","method":"system.isAlive:x","params":{"a":[1,1.5,null]},"id":3}',
        '{"jsonrpc":"2.0","result":{"a":[1,1.5,null]},"id":3}',
    ),
    (
        "8.2",
        '{"method":"VM.get_all","params":["none"],"id":1}',
        '{"result":null,"error":["SESSION_INVALID","none"],"id":1}',
    ),
    (
        "8.2",
        '{"jsonrpc":"2.0","method":"VM.get_all","params":["none"],"id":1}',
        '{"jsonrpc":"2.0","error":{"code":1,"message":"SESSION_INVALID","data":["none"]},"id":1}',
    ),
    (
        "8.2",
        '{"jsonrpc":"2.0","method":"no.such","id":1}',
        '{"jsonrpc":"2.0","error":{"code":1,"message":"MESSAGE_METHOD_UNKNOWN","data":["no.such"]},"id":1}',
    ),
    (
        "7.0",
        '{"jsonrpc":"2.0","method":"system.isAlive:x","params":["y"],"id":3}',
        '{"result":"y","error":null,"id":0}',
    ),
    (
        "7.2",
        '{"jsonrpc":"2.0","method":"VM.get_all","params":["none"],"id":3}',
        '{"result":null,"error":["SESSION_INVALID","none"],"id":0}',
    ),
]


class TestFake:
    """What the fake's hosts answer on `/jsonrpc`."""

    @pytest.mark.parametrize(("release", "call", "answer"), SHAPES)
    def test_shapes(self, release: str, call: str, answer: str) -> None:
        """Version 1 and 2, successes and refusals; before 7.3 there is version 1 alone."""
        out = post(pool_of(release), call)
        assert (out.status, dict(out.headers), out.read().decode()) == (200, {**PLAIN, **ORIGIN}, answer)

    @pytest.mark.parametrize(
        ("release", "answer"),
        [
            ("8.4", '{"jsonrpc":"2.0","error":["HOST_STILL_BOOTING"],"id":0}'),
            ("8.2", '{"result":null,"error":["HOST_STILL_BOOTING"],"id":0}'),
        ],
    )
    def test_emergency_mode(self, release: str, answer: str) -> None:
        """Before a call is looked at, version and id are not the caller's, and there are fewer headers."""
        pool = pool_of(release)
        pool.master.power_off()
        for version in ("", '"jsonrpc":"2.0",'):
            out = post(pool, f'{{{version}"method":"VM.get_all","params":["s"],"id":5}}', host=1)
            assert (out.status, dict(out.headers), out.read().decode()) == (200, PLAIN, answer)
        out = post(pool, '{"method":"host.is_in_emergency_mode","params":["s"],"id":5}', host=1)
        assert json.loads(out.read()) == {"result": None, "error": ["SESSION_INVALID", "s"], "id": 5}

    def test_a_parameter_that_is_not_utf8(self) -> None:
        """It is refused before the session is looked at, and shown with what can be shown."""
        out = post(pool_of("8.4"), b'{"method":"VM.get_all","params":["x\xff"],"id":5}')
        details = ["INVALID_VALUE", "Invalid UTF-8 string in parameter", "x?"]
        assert (dict(out.headers), json.loads(out.read())) == (PLAIN, {"jsonrpc": "2.0", "error": details, "id": 0})

    @pytest.mark.parametrize(
        "text",
        ["", "x", "[]", '{"jsonrpc":"2.0","method":"VM.get_all","params":[]}', '{"jsonrpc":"1.1","method":"a","id":0}'],
    )
    def test_what_is_no_call_is_an_error_of_http(self, text: str) -> None:
        """A page with status 500, a notification among them; and a body beyond the limit."""
        for body in (text, " " * 307201):
            out = post(pool_of("8.2"), body)
            assert (out.status, out.headers["content-type"]) == (500, "text/html")

    def test_other_paths_and_older_releases_take_xmlrpc(self) -> None:
        """`/json` is XML-RPC on every release, and so is `/jsonrpc` before 7.0."""
        data = xmlrpc.dumps_call("system.isAlive:x", ["y"])
        for release, path in (("8.2", "/json"), ("6.5", "/jsonrpc")):
            out = post(pool_of(release), data, path=path)
            assert (out.status, out.headers["content-type"]) == (200, "text/xml")
            assert xmlrpc.loads_response(out.read()) == "y"
        assert post(pool_of("8.2"), data).status == 500

    def test_the_list_of_methods_is_an_ordinary_answer(self) -> None:
        """Over XML-RPC it comes bare; here it does not."""
        session, _ = logged_in(pool_of("8.2"))
        assert "VM.start" in session.call("system.listMethods")
