"""`mockserver.activate`: programs that use requests, pointed at a pool in the same process."""

from __future__ import annotations

import asyncio
import io
import socket
import unittest
from collections.abc import AsyncGenerator, Callable, Generator
from concurrent.futures import ThreadPoolExecutor
from typing import Any
from xmlrpc import client

import pytest
import requests
import responses

import xenctl
from mockserver import MockPool, PoolServer, activate
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


def free() -> bool:
    """Whether requests sends to the network."""
    with pytest.raises(requests.ConnectionError) as caught:
        requests.get("http://10.0.0.1/", timeout=1)
    return "a socket was opened" in str(caught.value)


class TestWhatItDecorates:
    """Whatever has a time in which it runs; before and after, requests sends as ever."""

    def test_a_coroutine(self, pool: MockPool) -> None:
        """Until it is awaited to its end, others of the same pool beside it."""

        @activate(pool)
        async def logged_in(turns: int) -> Any:
            """Says so."""
            for _ in range(turns):
                await asyncio.sleep(0)
            return log_in(pool, pool.url)["Status"]

        async def several() -> list[Any]:
            return list(await asyncio.gather(logged_in(3), logged_in(1), logged_in(2)))

        made = logged_in(1)
        assert free()
        assert asyncio.run(made) == "Success"
        assert asyncio.run(several()) == ["Success"] * 3
        assert logged_in.__name__ == "logged_in" and free()

    def test_a_generator(self, pool: MockPool) -> None:
        """From its first step to its last, as a fixture needs it; what is sent in and thrown in arrives."""

        @activate(pool)
        def sessions() -> Generator[str, str, str]:
            try:
                url = yield log_in(pool, pool.url)["Status"]
                yield log_in(pool, url)["Status"]
            except KeyError:
                yield "caught"
            return "done"

        made = sessions()
        assert free()
        assert next(made) == "Success"
        assert log_in(pool, pool.url)["Status"] == "Success"
        assert made.send(f"https://{pool.master.address}") == "Success"
        assert made.throw(KeyError()) == "caught"
        with pytest.raises(StopIteration, match="done"):
            next(made)
        assert free()

    def test_an_asynchronous_generator(self, pool: MockPool) -> None:
        """The same; one that is closed early lets go at once."""
        ended = []

        @activate(pool)
        async def sessions() -> AsyncGenerator[str, str]:
            try:
                url = yield log_in(pool, pool.url)["Status"]
                yield log_in(pool, url)["Status"]
            except KeyError:
                yield "caught"
            finally:
                ended.append(log_in(pool, pool.url)["Status"])

        async def run() -> None:
            made = sessions()
            assert await made.asend(None) == "Success"  # type: ignore[arg-type]
            assert await made.asend(pool.url) == "Success"
            assert await made.athrow(KeyError()) == "caught"
            with pytest.raises(StopAsyncIteration):
                await made.asend("")
            assert ended == ["Success"] and free()
            made = sessions()
            await made.asend(None)  # type: ignore[arg-type]
            await made.aclose()
            assert ended == ["Success"] * 2 and free()

        asyncio.run(run())

    def test_a_class_of_tests(self, pool: MockPool) -> None:
        """Each method called `test...`, inherited ones and those without an instance too; it stays a class."""

        class Base:
            def test_below(self) -> Any:
                return log_in(pool, pool.url)["Status"]

        @activate(pool)
        class Tests(Base):
            test_count = 1

            def test_one(self) -> Any:
                return log_in(pool, pool.url)["Status"]

            @staticmethod
            def test_two() -> Any:
                return log_in(pool, pool.url)["Status"]

            @classmethod
            def test_three(cls) -> Any:
                return cls.__name__, log_in(pool, pool.url)["Status"]

            def helper(self) -> bool:
                return free()

        tests = Tests()
        assert isinstance(Tests, type) and Tests.test_count == 1
        assert [tests.test_below(), tests.test_one(), Tests.test_two()] == ["Success"] * 3
        assert Tests.test_three() == ("Tests", "Success")
        assert tests.helper()

    @pytest.mark.parametrize("kind", [unittest.TestCase, unittest.IsolatedAsyncioTestCase])
    def test_a_test_case(self, pool: MockPool, kind: type[unittest.TestCase]) -> None:
        """From its setting up to its cleaning up."""
        seen: list[str] = []

        def ask(place: str) -> None:
            seen.append(f"{place} {log_in(pool, pool.url)['Status']}")

        class Case(kind):  # type: ignore[misc,valid-type]
            def setUp(self) -> None:
                self.addCleanup(ask, "cleanup")
                ask("setUp")

            def tearDown(self) -> None:
                ask("tearDown")

            def test_it(self) -> None:
                ask("test")

        activate(pool)(Case)
        result = unittest.TestResult()
        unittest.defaultTestLoader.loadTestsFromTestCase(Case).run(result)
        assert (result.testsRun, result.errors, result.failures) == (1, [], [])
        assert seen == [f"{place} Success" for place in ("setUp", "test", "tearDown", "cleanup")]
        assert free()

    def test_not_a_class_without_tests(self, pool: MockPool) -> None:
        """Nothing of it would be answered, and nobody would notice."""
        with pytest.raises(TypeError, match=r"Helper has none: decorate a function, a class with methods called test"):

            @activate(pool)
            class Helper:
                def log_in(self) -> None: ...


class TestSeveral:
    """Pools beside each other."""

    def test_hosts_with_one_address_hide_each_other(self, pool: MockPool) -> None:
        """So the second pool is refused, and the first goes on; afterwards the second may."""
        other = MockPool.create(hosts=3, vms=0, release="8.2")
        message = (
            r"10\.0\.0\.1 is the address of host1, and of host1 in another pool that is active: stop that one first, or "
            r"make this one by its `neighbour\(\)`"
        )
        with activate(pool):
            with pytest.raises(RuntimeError, match=message):
                activate(other).start()
            assert log_in(pool, pool.url)["Status"] == "Success"
        with activate(other):
            assert log_in(other, other.url)["Status"] == "Success"
        assert (len(pool.store.table("session")), len(other.store.table("session"))) == (1, 1)

    def test_addresses_say_whose_a_request_is(self, pool: MockPool) -> None:
        """Whoever was started last, and whoever stops first."""
        other = MockPool.create(hosts=1, vms=0, release="8.2")
        for machine in other.machines:
            machine.address = "10.9.0.1"
            other.store.write(other.store.get(*other.store.by_uuid[machine.uuid]), address=machine.address)
        first, second = activate(pool), activate(other)
        first.start()
        second.start()
        for one in (pool, other):
            assert log_in(one, f"http://{one.master.address}")["Status"] == "Success"
        with pytest.raises(requests.ConnectionError, match=r"there are host1 at 10\.0\.0\.1, .*host1 at 10\.9\.0\.1"):
            requests.get("http://elsewhere/", timeout=1)
        first.stop()
        assert log_in(other, "http://10.9.0.1")["Status"] == "Success"
        with pytest.raises(requests.ConnectionError, match=r"at 10\.0\.0\.1; there are host1 at 10\.9\.0\.1"):
            log_in(pool, pool.url)
        second.stop()
        assert (len(pool.store.table("session")), len(other.store.table("session"))) == (1, 2)
        assert free()

    def test_neighbours_share_a_world(self, pool: MockPool) -> None:
        """Pools of one world have no address twice, and either answers for all."""
        neighbour = pool.neighbour()
        with activate(pool), activate(neighbour):
            for one in (pool, neighbour):
                assert log_in(one, f"http://{one.master.address}")["Status"] == "Success"


class TestBodies:
    """Whatever requests takes for the body of a request."""

    def test_files_and_texts(self, pool: MockPool) -> None:
        """They are sent as they are."""
        text = client.dumps((pool.username, pool.password), "session.login_with_password")
        with activate(pool):
            for body in (text, text.encode(), io.BytesIO(text.encode()), io.StringIO(text)):
                assert b"Success" in requests.post(pool.url, data=body, timeout=1).content

    def test_a_call_in_chunks_is_refused(self, pool: MockPool, monkeypatch: pytest.MonkeyPatch) -> None:
        """As over sockets: a call must say how long it is."""
        with activate(pool):
            answer = requests.post(pool.url, data=iter([b"<methodCall/>"]), timeout=1)
        monkeypatch.undo()
        with PoolServer(pool) as server:
            same = requests.post(server.url, data=iter([b"<methodCall/>"]), timeout=5)
        assert answer.status_code == same.status_code == 500
        assert "Content-Length is needed" in answer.text and answer.text == same.text

    def test_an_upload_in_chunks_is_refused(self, pool: MockPool) -> None:
        """xapi takes no file that comes so."""
        with activate(pool):
            ref = log_in(pool, pool.url)["Value"]
            where = f"{pool.url}/import"
            answer = requests.put(where, params={"session_id": ref}, data=iter([b"one", b"two"]), timeout=1)
            assert answer.status_code == 403


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
