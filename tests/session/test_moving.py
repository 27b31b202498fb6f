"""Following the master, logging in again after it restarted, and threads that do so together."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, HTTPServer
from typing import Any

import pytest
from wires import PASSWORD, Scripted, Session, Wire, answered, connect, member_url, restart, sessions_of

import xenctl
from mockserver.pool import MockPool
from mockserver.transports.server import PoolServer
from xenctl import xmlrpc
from xenctl.api import errors
from xenctl.errors import ConnectError, ConnectionLost, Failure, ProtocolError, TransportError


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

    @pytest.mark.parametrize(
        ("act", "slow"),
        [(lambda s: s.release, "session.get_this_host"), (lambda s: s.learn_hosts(), "host.get_all_records")],
        ids=["release", "hosts"],
    )
    def test_a_slow_answer_holds_up_nobody_else(self, act: Callable[[Session], object], slow: str) -> None:
        """While one thread waits to hear of the host's release, or of the pool's hosts, others make their calls."""
        asked, served = threading.Event(), threading.Event()

        def reply(host: str, method: str, params: list[Any]) -> Any:
            if method == slow:
                asked.set()
                assert served.wait(5)
            answers = {
                "host.get_record": {
                    "API_version_major": "1",
                    "API_version_minor": "1",
                    "software_version": {"product_version": "4.0.1"},
                },
                "host.get_all_records": {"OpaqueRef:h": {"address": "10.0.0.1"}},
                "pool.get_all_records": {"OpaqueRef:p": {"uuid": "one"}},
                "VM.get_all": [],
            }
            return answers.get(method, "OpaqueRef:x")

        session = connect("http://10.0.0.1", "root", PASSWORD, transport=Scripted(reply))
        with ThreadPoolExecutor(2) as threads:
            waiting = threads.submit(act, session)
            assert asked.wait(5)
            other = threads.submit(session.VM.get_all)
            try:
                assert other.result(5) == []
            finally:
                served.set()
            assert waiting.result(5)

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
