"""The official SDK on a fake pool in the same process."""

from __future__ import annotations

import xmlrpc.client
from typing import Any

import pytest

from mockserver import MockPool, PoolServer
from mockserver.transports.xenapi import XenAPITransport
from xenctl.errors import ConnectionLost, WaitTimeout

XenAPI = pytest.importorskip("XenAPI")


@pytest.fixture
def pool() -> MockPool:
    """A pool of two hosts."""
    return MockPool.create(hosts=2, vms=4, release="8.2")


def log_in(pool: MockPool, host: int = 0) -> Any:
    """The official SDK's session with one host."""
    session = XenAPI.Session(f"http://{pool.machines[host].address}", transport=XenAPITransport(pool))
    session.xenapi.login_with_password("root", "secret", "1.0", "a test")
    return session


def test_values_are_those_of_the_official_sdk(pool: MockPool) -> None:
    """Whole numbers are text, dates `DateTime`, and tasks run on the pool's own clock."""
    session = log_in(pool)
    (ref,) = session.xenapi.VM.get_by_name_label("vm01")
    record = session.xenapi.VM.get_record(ref)
    assert record["power_state"] == "Running"
    assert type(record["memory_static_max"]) is str
    assert type(record["snapshot_time"]) is xmlrpc.client.DateTime
    before = pool.clock.now()
    session.xenapi.VM.clean_shutdown(ref)
    assert session.xenapi.VM.get_power_state(ref) == "Halted"
    assert pool.clock.now() > before


def test_they_are_the_same_as_over_sockets(pool: MockPool) -> None:
    """Every record of every VM, and the errors."""
    session = log_in(pool)
    inside = session.xenapi.VM.get_all_records()
    with PoolServer(pool) as server:
        over = XenAPI.Session(server.url)
        over.login_with_password("root", "secret")
        assert over.xenapi.VM.get_all_records() == inside
        over("close")()


def test_errors_are_those_of_the_official_sdk(pool: MockPool) -> None:
    """Refusals are `Failure`s, a member names the master."""
    session = log_in(pool)
    with pytest.raises(XenAPI.Failure) as caught:
        session.xenapi.VM.get_record("OpaqueRef:made-up")
    assert caught.value.details == ["HANDLE_INVALID", "VM", "OpaqueRef:made-up"]
    with pytest.raises(XenAPI.Failure) as caught:
        log_in(pool, 1)
    assert caught.value.details == ["HOST_IS_SLAVE", pool.master_address]


def test_another_http_status_is_a_protocol_error(pool: MockPool) -> None:
    """What the host refuses to read."""
    session = log_in(pool)
    (ref,) = session.xenapi.VM.get_by_name_label("vm01")
    with pytest.raises(xmlrpc.client.ProtocolError) as caught:
        session.xenapi.VM.set_name_description(ref, "x" * 400_000)
    assert (caught.value.errcode, caught.value.url) == (500, f"{pool.master_address}/RPC2")


def test_a_host_that_is_off_refuses_the_connection(pool: MockPool) -> None:
    """As a socket says it."""
    session = log_in(pool)
    pool.hands.power_off("host1")
    with pytest.raises(ConnectionRefusedError, match="Connection refused"):
        session.xenapi.VM.get_all()
    with pytest.raises(ConnectionRefusedError):
        XenAPI.Session("http://192.0.2.99", transport=XenAPITransport(pool)).login_with_password("root", "secret")


class Troubled:
    """What carries requests, and fails on one of them after it arrived."""

    def __init__(self, inner: Any, method: str, error: Exception) -> None:
        self._inner, self._method, self._errors = inner, method.encode(), [error]

    def send(self, request: Any) -> Any:
        answer = self._inner.send(request)
        if b">" + self._method + b"<" in request.body and self._errors:
            raise self._errors.pop()
        return answer


def test_a_connection_that_drops_makes_the_official_sdk_repeat_the_call(pool: MockPool) -> None:
    """The VM is started by the first request, and the second one fails: what it does on a real host, it does here."""
    session = log_in(pool)
    (ref,) = session.xenapi.VM.get_by_name_label("vm01")
    session.xenapi.VM.clean_shutdown(ref)
    transport = session.transport
    transport._inner = Troubled(transport._inner, "VM.start", ConnectionLost("gone"))
    with pytest.raises(XenAPI.Failure) as caught:
        session.xenapi.VM.start(ref, False, False)
    assert caught.value.details[0] == "VM_BAD_POWER_STATE"
    assert session.xenapi.VM.get_power_state(ref) == "Running"


def test_an_answer_that_does_not_come_is_a_timeout(pool: MockPool) -> None:
    """As a socket says it; that is not repeated."""
    session = log_in(pool)
    session.transport._inner = Troubled(session.transport._inner, "VM.get_all", WaitTimeout("slow"))
    with pytest.raises(TimeoutError, match="timed out"):
        session.xenapi.VM.get_all()
