"""What is sent again after the connection broke: calls that read, a few times; nothing else ever."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, HTTPServer
from itertools import pairwise
from typing import Any

import pytest
from wires import PASSWORD, Session, Wire, connect

from mockserver.pool import MockPool
from xenctl import xmlrpc
from xenctl.api import types as t
from xenctl.errors import ConnectError, ConnectionLost, TransportError, WaitTimeout
from xenctl.session import FIRST_PAUSE, GROWTH, RETRIES
from xenctl.values import Ref

ACTS: dict[str, Callable[[Session, Ref[t.VM]], Any]] = {
    "VM.start": lambda s, vm: s.VM.start(vm, False, False),
    "VM.set_name_label": lambda s, vm: s.VM.set_name_label(vm, "other"),
    "VM.add_to_other_config": lambda s, vm: s.VM.add_to_other_config(vm, "key", "value"),
    "Async.VM.start": lambda s, vm: s.Async.VM.start(vm, False, False),
    "Async.host.get_log": lambda s, vm: s.call("Async.host.get_log", ("OpaqueRef:x",)),
    "VM.new_thing": lambda s, vm: s.call("VM.new_thing", (vm,)),
    "task.create": lambda s, vm: s.task.create("a", "b"),
}
"""Calls that must not be made twice."""
READS: dict[str, Callable[[Session, Ref[t.VM]], Any]] = {
    "VM.get_power_state": lambda s, vm: s.VM.get_power_state(vm),
    "VM.get_all_records": lambda s, vm: s.VM.get_all_records(),
    "VM.get_by_name_label": lambda s, vm: s.VM.get_by_name_label("vm01"),
    "VM.get_new_thing": lambda s, vm: s.call("VM.get_record", (vm,)),
}
"""Calls that only read."""


def broken(times: int, wire: Wire, error: type[TransportError] = ConnectionLost) -> None:
    """Break the connection of the next calls, before or after the server has seen them."""
    left = [times]

    def lose(method: str, host: str) -> None:
        left[0] -= 1
        if left[0] >= 0:
            raise error("gone", host=host, method=method)

    wire.after = lose


@pytest.fixture
def vm(session: Session, wire: Wire) -> Ref[t.VM]:
    """A guest."""
    (found,) = session.VM.get_by_name_label("vm01")
    wire.calls.clear()
    return found


@pytest.mark.parametrize("act", ACTS.values(), ids=ACTS)
def test_what_has_an_effect_is_sent_once(session: Session, wire: Wire, vm: Ref[t.VM], act: Any) -> None:
    """Whether it took effect is not known, so the caller is told."""
    broken(1, wire)
    with pytest.raises(ConnectionLost, match="gone"):
        act(session, vm)
    assert len(wire.calls) == 1


@pytest.mark.parametrize("act", READS.values(), ids=READS)
def test_what_reads_is_sent_again(session: Session, wire: Wire, vm: Ref[t.VM], act: Any) -> None:
    """As often as it was said, and the answer is the one that came."""
    broken(RETRIES, wire)
    assert act(session, vm)
    assert len(wire.calls) == RETRIES + 1


def test_it_is_given_up_then(session: Session, wire: Wire, vm: Ref[t.VM]) -> None:
    """After the last repetition the error is raised."""
    broken(RETRIES + 1, wire)
    with pytest.raises(ConnectionLost, match="gone"):
        session.VM.get_power_state(vm)
    assert len(wire.calls) == RETRIES + 1


def test_pauses_grow(pool: MockPool, wire: Wire) -> None:
    """The first repetition is at once, the next after some time, each longer than the one before, on the pool's clock."""
    session = connect(pool.url, "root", PASSWORD, transport=wire, retries=4)
    times: list[float] = []

    def lose(method: str, host: str) -> None:
        times.append(pool.clock.now())
        raise ConnectionLost("gone", host=host, method=method)

    wire.before = lose
    with pytest.raises(ConnectionLost):
        session.VM.get_all()
    first, *later = [after - before for before, after in pairwise(times)]
    assert first == 0
    for number, pause in enumerate(later):
        assert 0.75 <= pause / (FIRST_PAUSE * GROWTH**number) <= 1.25


def test_sessions_do_not_come_back_together(pool: MockPool, wire: Wire) -> None:
    """Their pauses differ, and are the same in each run of a rehearsal."""
    pauses = set()
    for _ in range(5):
        session = connect(pool.url, "root", PASSWORD, transport=wire)
        broken(2, wire)
        began = pool.clock.now()
        session.VM.get_all()
        pauses.add(pool.clock.now() - began)
    assert len(pauses) == 5


@pytest.mark.parametrize("error", [WaitTimeout, ConnectError])
def test_other_troubles_are_raised_at_once(
    session: Session, wire: Wire, vm: Ref[t.VM], error: type[TransportError]
) -> None:
    """Whoever waited for an answer has waited long enough, and a host that is off is asked again by the caller."""
    broken(1, wire, error)
    with pytest.raises(error):
        session.VM.get_power_state(vm)
    assert len(wire.calls) == 1


def test_repeating_can_be_switched_off(pool: MockPool, wire: Wire) -> None:
    """`retries=0` sends everything once."""
    session = connect(pool.url, "root", PASSWORD, transport=wire, retries=0)
    wire.calls.clear()
    broken(1, wire)
    with pytest.raises(ConnectionLost):
        session.VM.get_all()
    assert len(wire.calls) == 1


def test_a_repetition_is_told(session: Session, wire: Wire, vm: Ref[t.VM], caplog: pytest.LogCaptureFixture) -> None:
    """The log has the call and when it is sent again."""
    broken(1, wire)
    with caplog.at_level(logging.INFO):
        session.VM.get_power_state(vm)
    assert "VM.get_power_state" in caplog.text
    assert "it only reads, and is sent again in 0.0 s" in caplog.text


def test_on_the_network_too() -> None:
    """A server that hangs up after each second request gets `VM.start` once and `VM.get_all` twice."""
    seen: list[str] = []

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["content-length"]))
            method, _ = xmlrpc.loads_call(body)
            seen.append(method)
            if seen.count(method) == 1 and not method.startswith("session."):
                self.close_connection = True
                return
            data = xmlrpc.dumps_success([] if method == "VM.get_all" else "OpaqueRef:s")
            self.send_response(200)
            self.send_header("content-type", "text/xml")
            self.send_header("content-length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - the base class calls it so
            """Nothing is printed."""

    server = HTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        session = connect(f"http://127.0.0.1:{server.server_address[1]}", "root", PASSWORD, trust_env=False)
        assert session.VM.get_all() == []
        with pytest.raises(ConnectionLost):
            session.call("VM.start", ("OpaqueRef:vm", False, False))
        session.transport.close()
    finally:
        server.shutdown()
        server.server_close()
    assert seen == ["session.login_with_password", "VM.get_all", "VM.get_all", "VM.start"]
