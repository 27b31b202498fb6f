"""What a call sends, and what comes of its answer."""

from __future__ import annotations

from typing import Any

import pytest
from wires import PASSWORD, Scripted, Session, Wire, answered, connect, restart, sessions_of

import xenctl
from mockserver.pool import MockPool
from xenctl import xmlrpc
from xenctl.api import errors
from xenctl.errors import Failure, ProtocolError
from xenctl.transport import Request, Response
from xenctl.values import to_int


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

    def test_one_parameter_is_given_in_a_list_too(self, session: Session, wire: Wire) -> None:
        """A bare reference is a sequence of letters, which nobody means; nothing is sent."""
        vm = session.VM.get_all()[0]
        wire.calls.clear()
        with pytest.raises(
            TypeError, match=r"VM\.get_name_label: args is a list of parameters, not a str: write \['Opa"
        ):
            session.call("VM.get_name_label", vm)
        assert wire.calls == []

    def test_an_unknown_method(self, session: Session) -> None:
        """What the data model does not know is sent; the host says whether it does."""
        with pytest.raises(errors.MESSAGE_METHOD_UNKNOWN) as caught:
            session.call("VM.brand_new", ("a", 1))
        assert caught.value.params == ["VM.brand_new"]
        assert "no method of this name: it is misspelled, or not in the host's release" in str(caught.value)

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

    def test_bulk_reads_convert_a_field_when_it_is_read(self) -> None:
        """Nothing is made of what nobody asks for: a text that is none is an error of its own field alone. Whoever takes all
        at once, without a converter, is refused all of it."""
        wire = {f"OpaqueRef:{number}": {"uuid": f"u{number}", "name_label": "x" * 50} for number in range(50)}
        data = xmlrpc.dumps_success(wire).replace(b"x" * 50, b"&#0;", 1)

        def reply(host: str, method: str, params: list[Any]) -> Any:
            return answered(data) if method == "VM.get_all_records" else "OpaqueRef:s"

        session = connect("http://h", "root", PASSWORD, transport=Scripted(reply))
        first, *others = session.VM.get_all_records().values()
        assert first.uuid == "u0"
        assert {record.name_label for record in others} == {"x" * 50}
        with pytest.raises(ValueError, match="VM u0: field name_label: not XML"):
            _ = first.name_label
        with pytest.raises(ProtocolError, match="the answer cannot be read: not XML"):
            session.call("VM.get_all_records")

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
