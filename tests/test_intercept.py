"""`mockserver.activate`: programs that use requests, pointed at a pool in the same process."""

from __future__ import annotations

import socket
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any
from xmlrpc import client

import pytest
import requests
import responses

import xenctl
from mockserver import MockPool, activate
from xenctl.errors import ConnectError, ConnectionLost


@pytest.fixture
def pool() -> MockPool:
    """Two hosts and four guests."""
    return MockPool.create(hosts=2, vms=4, release="8.2")


@pytest.fixture(autouse=True)
def offline(monkeypatch: pytest.MonkeyPatch) -> None:
    """No test of these may open a socket."""

    def refuse(*_: Any) -> None:
        raise OSError("a socket was opened")

    monkeypatch.setattr(socket.socket, "connect", refuse)


def call(url: str, method: str, *params: Any, **options: Any) -> Any:
    """One call, as a program that knows requests alone makes it."""
    answer = requests.post(url, data=client.dumps(params, method), timeout=10, **options)
    assert answer.status_code == 200
    assert answer.headers["content-type"] == "text/xml"
    ((result,), _) = client.loads(answer.content)
    return result


def connect(pool: MockPool) -> xenctl.Session:
    """A session of ours, over requests."""
    return xenctl.connect(f"https://{pool.master.address}", pool.username, pool.password)


def log_in(pool: MockPool, url: str) -> Any:
    return call(url, "session.login_with_password", pool.username, pool.password)


class TestWays:
    """How it is switched on and off."""

    def test_as_a_context(self, pool: MockPool) -> None:
        """The pool answers within, by any spelling of its hosts' URLs."""
        with activate(pool) as same:
            assert same is pool
            for url in (pool.url, f"https://{pool.master.address}", f"http://{pool.master.address}:8080/RPC2"):
                assert log_in(pool, url)["Status"] == "Success"
        assert len(pool.store.table("session")) == 3

    def test_as_a_decorator(self, pool: MockPool) -> None:
        """The function keeps its name, and may run again."""

        @activate(pool)
        def logged_in(url: str) -> Any:
            """Says so."""
            return log_in(pool, url)["Status"]

        assert logged_in.__name__ == "logged_in"
        assert [logged_in(pool.url), logged_in(url=pool.url)] == ["Success", "Success"]

    def test_by_start_and_stop(self, pool: MockPool) -> None:
        """Between the two; a second start is an error, a second stop is none."""
        switch = activate(pool)
        switch.start()
        with pytest.raises(RuntimeError, match="answers already"):
            switch.start()
        assert log_in(pool, pool.url)["Status"] == "Success"
        switch.stop()
        switch.stop()
        with pytest.raises(requests.ConnectionError, match="a socket was opened"):
            log_in(pool, pool.url)

    def test_it_is_off_after_an_error(self, pool: MockPool) -> None:
        """Whatever happens within."""
        with pytest.raises(KeyError), activate(pool):
            raise KeyError
        with pytest.raises(requests.ConnectionError, match="a socket was opened"):
            log_in(pool, pool.url)

    def test_within_mocks_of_the_users(self, pool: MockPool) -> None:
        """The inner one answers; the outer one goes on afterwards."""
        with responses.RequestsMock() as mocks:
            mocks.get("http://elsewhere/", body="yes")
            with activate(pool):
                assert log_in(pool, pool.url)["Status"] == "Success"
            assert requests.get("http://elsewhere/", timeout=1).text == "yes"


class TestElsewhere:
    """Requests to other places."""

    def test_a_miss_explains_itself(self, pool: MockPool) -> None:
        """The error names the hosts that there are."""
        message = rf"no host of the fake pool is at elsewhere; there are host1 at {pool.master.address}, host2 at "
        with activate(pool), pytest.raises(requests.ConnectionError, match=message):
            requests.get("http://elsewhere/", timeout=1)

    def test_they_may_pass(self, pool: MockPool) -> None:
        """And go to the network then."""
        with activate(pool, passthrough=True):
            with pytest.raises(requests.ConnectionError, match="a socket was opened"):
                requests.get("http://127.0.0.1:9/", timeout=1)
            assert log_in(pool, pool.url)["Status"] == "Success"


class TestHosts:
    """Each host is itself."""

    def test_a_member_names_the_master(self, pool: MockPool) -> None:
        """As it does on a network."""
        with activate(pool):
            answer = log_in(pool, f"http://{pool.machines[1].address}")
        assert answer["ErrorDescription"] == ["HOST_IS_SLAVE", pool.master.address]

    def test_a_host_that_is_off_refuses(self, pool: MockPool) -> None:
        """requests says so, and a client of ours that nothing was sent."""
        pool.hands.power_off("host2")
        url = f"https://{pool.machines[1].address}"
        with activate(pool):
            with pytest.raises(requests.ConnectionError, match="Failed to establish a new connection"):
                log_in(pool, url)
            with pytest.raises(ConnectError, match=r"cannot be reached: .*the host is off; check the port"):
                xenctl.connect(url, pool.username, pool.password)

    def test_a_host_that_goes_away_within_a_call(self, pool: MockPool) -> None:
        """The effect is not known then."""
        with activate(pool), connect(pool) as session:
            (vm,) = session.VM.get_by_name_label("vm01")
            pool.clock.after(0.001, lambda: None)  # the next thing due happens before the call
            pool.clock.after(0.002, lambda: pool.hands.power_off("host1"))
            with pytest.raises(ConnectionLost):
                session.VM.clean_shutdown(vm)
            session.ref = None

    def test_pages_and_statuses(self, pool: MockPool) -> None:
        """Handlers answer too, with their own statuses."""
        with activate(pool):
            assert requests.get(f"{pool.url}/pool/xmldbdump", timeout=1).status_code == 401
            ref = log_in(pool, pool.url)["Value"]
            answer = requests.get(f"{pool.url}/pool/xmldbdump", params={"session_id": ref}, timeout=1)
            assert answer.status_code == 200
            assert answer.content.startswith(b"<?xml")


class TestPrograms:
    """What runs within."""

    def test_our_own_client(self, pool: MockPool) -> None:
        """`xenctl` with its real transport, tasks and all."""
        with activate(pool), connect(pool) as session:
            (vm,) = session.VM.get_by_name_label("vm01")
            session.Async.VM.clean_shutdown(vm).wait()
            assert session.VM.get_power_state(vm) == "Halted"
        assert not pool.store.table("session")

    def test_a_program_that_polls_sees_progress(self, pool: MockPool) -> None:
        """Time runs on between its calls, though it waits nowhere."""
        with activate(pool):
            ref = log_in(pool, pool.url)["Value"]
            vm = call(pool.url, "VM.get_by_name_label", ref, "vm01")["Value"][0]
            task = call(pool.url, "Async.VM.clean_shutdown", ref, vm)["Value"]
            assert pool.store.get("task", task)["status"] == "pending"
            seen = [call(pool.url, "task.get_status", ref, task)["Value"] for _ in range(50)]
        assert seen[-1] == "success"

    def test_threads(self, pool: MockPool) -> None:
        """Many at once."""
        with activate(pool), ThreadPoolExecutor(8) as threads:
            ref = log_in(pool, pool.url)["Value"]
            ask: Callable[[int], Any] = lambda _: call(pool.url, "VM.get_all", ref)["Value"]  # noqa: E731
            found = list(threads.map(ask, range(40)))
        assert all(len(refs) == len(found[0]) > 4 for refs in found)
