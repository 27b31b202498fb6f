"""Neither the password nor the session is in any text."""

from __future__ import annotations

import copy
import logging
import pickle
import traceback
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from wires import PASSWORD, Session, Wire, answered, connect, member_url, restart

import xenctl
from mockserver.pool import MockPool
from xenctl import xmlrpc
from xenctl.errors import ConnectError, Failure, ProtocolError
from xenctl.transport import Response


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
