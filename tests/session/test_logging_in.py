"""Logging in and out."""

from __future__ import annotations

from typing import Any

import pytest
from wires import PASSWORD, Scripted, Session, Wire, connect, member_url, sessions_of

from mockserver.pool import MockPool
from mockserver.transports.server import PoolServer
from xenctl.api import errors
from xenctl.errors import ConnectError, ConnectionLost, Failure, ProtocolError
from xenctl.session import MAX_HOPS


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

    @pytest.mark.parametrize(
        ("options", "sent"),
        [
            ({"version": "1.3"}, ["1.3"]),
            ({"originator": "a program"}, ["1.0", "a program"]),
            ({"version": "1.3", "originator": "a program"}, ["1.3", "a program"]),
        ],
    )
    def test_login_sends_more_where_it_is_told_to(self, options: dict[str, str], sent: list[str]) -> None:
        """The originator is the fourth argument, so that a version goes before it."""
        logins = []

        def reply(host: str, method: str, params: list[Any]) -> str:
            logins.append(params)
            return "OpaqueRef:s"

        Session("http://h", transport=Scripted(reply)).login_with_password("root", PASSWORD, **options)
        assert logins == [["root", PASSWORD, *sent]]

    @pytest.mark.parametrize("user", ["root", "admin"])
    def test_a_changed_password_is_roots_whoever_changed_it(self, user: str) -> None:
        """So another user's session logs in again with the password that it had."""
        logins, known = [], ["OpaqueRef:1"]

        def reply(host: str, method: str, params: list[Any]) -> str:
            if method == "session.login_with_password":
                logins.append(params)
                return f"OpaqueRef:{len(logins)}"
            if params[0] not in known:
                raise Failure(["SESSION_INVALID", params[0]])
            return ""

        session = connect("http://h", user, PASSWORD, transport=Scripted(reply))
        session.session.change_password(PASSWORD, "correct horse")
        known[:] = ["OpaqueRef:2"]
        session.call("pool.get_all")
        assert logins == [[user, PASSWORD], [user, "correct horse" if user == "root" else PASSWORD]]

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

    def test_a_local_login_is_led_nowhere(self) -> None:
        """It is with one host, so what that one refuses it with is the error."""

        def reply(host: str, method: str, params: list[Any]) -> str:
            raise Failure(["HOST_IS_SLAVE", "10.0.0.2"])

        wire = Scripted(reply)
        with pytest.raises(errors.HOST_IS_SLAVE):
            Session("http://10.0.0.1", transport=wire).slave_local_login_with_password("root", PASSWORD)
        assert wire.calls == [("http://10.0.0.1", "session.slave_local_login_with_password")]

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

    @pytest.mark.parametrize(
        ("options", "error", "message"),
        [
            ({"retries": -1}, ValueError, "retries is how often a call that reads is sent again, 0 for never, not -1"),
            ({"hosts": "https://b"}, TypeError, r"hosts is a list of URLs, not one: write hosts=\['https://b'\]"),
            ({"hosts": ["https://b:x"]}, ValueError, "not a host's URL: 'https://b:x'"),
        ],
    )
    def test_options_that_mean_nothing_are_refused(
        self, options: dict[str, Any], error: type[Exception], message: str
    ) -> None:
        """One clear error before anything is sent: fewer repetitions than none would be no end of them."""
        wire = Scripted(lambda *_: "OpaqueRef:s")
        with pytest.raises(error, match=message):
            connect("http://10.0.0.1", "root", PASSWORD, transport=wire, **options)
        assert wire.calls == []

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

    def test_the_end_of_the_block_closes_a_transport_of_its_own(
        self, pool: MockPool, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """After the logout, be that heard or not."""
        closed = []
        monkeypatch.setattr("requests.adapters.HTTPAdapter.close", lambda adapter: closed.append(adapter))
        with PoolServer(pool) as server, connect(server.url, "root", PASSWORD, trust_env=False) as session:
            assert session.VM.get_all()
        assert closed.pop()
        with pytest.raises(ConnectError), Session("http://127.0.0.1:1", ref="OpaqueRef:x", trust_env=False) as session:
            session.logout()
        assert closed.pop()

    def test_a_transport_of_the_callers_stays_open(self, session: Session, wire: Wire) -> None:
        """Who made a transport closes it."""
        with session:
            pass
        assert not wire.closed
