"""Faults by exact coordinates: what strikes which call, and what clients see of it, in process and over sockets."""

from __future__ import annotations

import http.client
import socket
import time
import xmlrpc.client
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any
from xml.parsers.expat import ExpatError

import pytest
import requests
import XenAPI

import xenctl
from mockserver import MockPool, PoolServer, activate
from mockserver.faults import KINDS, Arrival
from mockserver.pool import START
from mockserver.striking import AFTER, BEFORE, ERRORS, PHYSICAL
from mockserver.transports.xenapi import XenAPITransport
from xenctl import ConnectError, ConnectionLost, Failure, ProtocolError, Session, WaitTimeout
from xenctl.transport import Request
from xenctl.xmlrpc import dumps_call

METHOD = "VM.set_name_description"
OFFLINE = {"code": "HOST_OFFLINE", "params": ["OpaqueRef:x"]}
ON_THE_WAY: list[tuple[str, dict[str, Any], type[Exception], bool]] = [
    ("error", OFFLINE, Failure, False),
    ("error_after", OFFLINE, Failure, True),
    ("answer_lost", {}, ConnectionLost, True),
    ("half_answer", {}, ConnectionLost, True),
    ("stall", {"seconds": 60}, WaitTimeout, True),
    ("reset", {}, ConnectionLost, False),
    ("refused", {}, ConnectError, False),
    ("http_status", {"status": 503}, ProtocolError, False),
]
"""Each kind with what it is told, what a client of this library sees, and whether the call took effect."""


@pytest.fixture
def pool() -> MockPool:
    """Two hosts and four guests."""
    return MockPool.create(hosts=2, vms=4, release="8.2")


@contextmanager
def in_process(pool: MockPool) -> Iterator[Session]:
    with xenctl.connect(pool.url, "root", "secret", transport=pool.transport()) as session:
        yield session


@contextmanager
def over_sockets(pool: MockPool) -> Iterator[Session]:
    with PoolServer(pool) as server, xenctl.connect(server.url, "root", "secret", read_timeout=0.3) as session:
        yield session


@contextmanager
def over_tls(pool: MockPool) -> Iterator[Session]:
    with (
        PoolServer(pool, tls=True) as server,
        xenctl.connect(server.url, "root", "secret", verify=server.cafile, read_timeout=1) as session,
    ):
        yield session


def vm_of(pool: MockPool, name: str = "vm01") -> Any:
    return next(row for row in pool.store.table("VM").values() if row["name_label"] == name)


def test_every_kind_is_in_the_table_above() -> None:
    """No kind without a test, none without a strike."""
    assert {row[0] for row in ON_THE_WAY} | set(PHYSICAL) == set(KINDS)
    assert {*BEFORE, *AFTER, *ERRORS, *PHYSICAL} == set(KINDS)


@pytest.mark.parametrize(("kind", "settings", "error", "effect"), ON_THE_WAY)
class TestWhatClientsSee:
    """Each kind, by each way in; the second call goes through again."""

    def test_without_bytes(
        self, pool: MockPool, kind: str, settings: dict[str, Any], error: type[Exception], effect: bool
    ) -> None:
        """`pool.dispatch` raises what a client of this library would see."""
        session = pool.dispatch("session.login_with_password", ["root", "secret"])
        fault, began = pool.faults.add(kind, method=METHOD, **settings), pool.clock.now()
        lost = ConnectionLost if kind == "half_answer" else error
        with pytest.raises(lost):
            pool.dispatch(METHOD, [session, vm_of(pool).ref, "first"])
        assert (vm_of(pool)["name_description"] == "first") is effect
        assert (fault.fired, fault.calls, pool.faults.unused()) == (1, [1], [])
        assert pool.clock.now() - began == settings.get("seconds", 0)
        pool.dispatch(METHOD, [session, vm_of(pool).ref, "second"])
        assert vm_of(pool)["name_description"] == "second"

    @pytest.mark.parametrize("way", [in_process, over_sockets, over_tls])
    def test_with_bytes(
        self,
        pool: MockPool,
        kind: str,
        settings: dict[str, Any],
        error: type[Exception],
        effect: bool,
        way: Callable[[MockPool], Any],
    ) -> None:
        """In process and over sockets alike, but that TCP has accepted a connection that is to be refused."""
        with way(pool) as session:
            fault = pool.faults.add(kind, method=METHOD, **settings)
            seen = ConnectionLost if kind == "refused" and way is not in_process else error
            with pytest.raises(seen) as caught:
                session.VM.set_name_description(vm_of(pool).ref, "first")
            if issubclass(error, Failure):
                assert caught.value.details == ["HOST_OFFLINE", "OpaqueRef:x"]
            assert (vm_of(pool)["name_description"] == "first") is effect
            assert fault.fired == 1
            session.VM.set_name_description(vm_of(pool).ref, "second")
            assert vm_of(pool)["name_description"] == "second"

    def test_the_official_sdk(
        self, pool: MockPool, kind: str, settings: dict[str, Any], error: type[Exception], effect: bool
    ) -> None:
        """It repeats what was reset, be the call what it may; in process as over sockets."""
        session = XenAPI.Session(pool.url, transport=XenAPITransport(pool))
        session.xenapi.login_with_password("root", "secret", "1.0", "test")
        inside = self._outcome(pool, session, kind, settings)
        with PoolServer(pool) as server:
            session = XenAPI.Session(server.url, transport=_Impatient())
            session.xenapi.login_with_password("root", "secret", "1.0", "test")
            outside = self._outcome(pool, session, kind, settings)
            session("close")()
        if kind == "refused":
            assert (inside, outside) == (("ConnectionRefusedError", False), ("none", True))
        else:
            assert inside == outside

    @staticmethod
    def _outcome(pool: MockPool, session: Any, kind: str, settings: dict[str, Any]) -> tuple[str, bool]:
        pool.faults.add(kind, method=METHOD, **settings)
        text = f"{len(pool.faults)}"
        try:
            session.xenapi.VM.set_name_description(vm_of(pool).ref, text)
        except (OSError, XenAPI.Failure, xmlrpc.client.ProtocolError, ExpatError, http.client.HTTPException) as error:
            name = "TimeoutError" if isinstance(error, TimeoutError) else type(error).__name__
            return name, vm_of(pool)["name_description"] == text
        return "none", vm_of(pool)["name_description"] == text

    def test_requests(
        self, pool: MockPool, kind: str, settings: dict[str, Any], error: type[Exception], effect: bool
    ) -> None:
        """`activate` makes what a program that uses requests sees on a network."""
        session = pool.dispatch("session.login_with_password", ["root", "secret"])
        pool.faults.add(kind, method=METHOD, **settings)
        body = dumps_call(METHOD, [session, vm_of(pool).ref, "first"])
        seen = {
            "answer_lost": requests.ConnectionError,
            "reset": requests.ConnectionError,
            "refused": requests.ConnectionError,
            "half_answer": requests.exceptions.ChunkedEncodingError,
            "stall": requests.ReadTimeout,
        }
        with activate(pool):
            if kind in seen:
                with pytest.raises(seen[kind]):
                    requests.post(pool.url, data=body, timeout=5)
            else:
                answer = requests.post(pool.url, data=body, timeout=5)
                assert answer.status_code == settings.get("status", 200)
                assert (b"HOST_OFFLINE" in answer.content) is (error is Failure)
        assert (vm_of(pool)["name_description"] == "first") is effect


class _Impatient(xmlrpc.client.Transport):
    """The transport of the standard library, which the official SDK uses, with a time-out."""

    def make_connection(self, host: Any) -> Any:
        connection = super().make_connection(host)
        connection.timeout = 0.3
        return connection


class TestSockets:
    """What only a socket can tell."""

    @staticmethod
    def _raw(server: PoolServer, body: bytes) -> bytes:
        host, _, port = server.url.rpartition("//")[2].partition(":")
        head = f"POST / HTTP/1.1\r\nhost: x\r\ncontent-length: {len(body)}\r\n\r\n".encode()
        with socket.create_connection((host, int(port)), timeout=10) as connection:
            connection.sendall(head + body)
            received = b""
            while data := connection.recv(65536):
                received += data
        return received

    def test_a_reset_is_one(self, pool: MockPool) -> None:
        """The client's kernel says so; an answer that is lost ends in good order, without a byte."""
        session = pool.dispatch("session.login_with_password", ["root", "secret"])
        body = dumps_call("VM.get_all", [session])
        with PoolServer(pool) as server:
            pool.faults.add("reset", method="VM.get_all")
            with pytest.raises(ConnectionResetError):
                self._raw(server, body)
            pool.faults.add("answer_lost", method="VM.get_all")
            assert self._raw(server, body) == b""

    def test_half_an_answer_breaks_off_in_its_body(self, pool: MockPool) -> None:
        """Its head promises the whole."""
        session = pool.dispatch("session.login_with_password", ["root", "secret"])
        with PoolServer(pool) as server:
            pool.faults.add("half_answer", method="VM.get_all")
            head, _, body = self._raw(server, dumps_call("VM.get_all", [session])).partition(b"\r\n\r\n")
        promised = int(head.lower().partition(b"content-length: ")[2].partition(b"\r\n")[0])
        assert len(body) == promised // 2 > 100

    def test_what_is_to_happen_at_a_time_happens_while_nobody_calls(self, pool: MockPool) -> None:
        """The thread that moves the clock hears of it, however long it would have slept."""
        with PoolServer(pool):
            fault = pool.faults.add("power_loss", victim="host2", after=3600)
            end = time.monotonic() + 10
            while not fault.fired:
                assert time.monotonic() < end
                time.sleep(0.005)
            assert pool.machine("host2").state == "off"

    def test_a_toolstack_that_died_refuses_connections(self, pool: MockPool) -> None:
        """And listens again once it is back."""
        with PoolServer(pool, time_scale=1) as server:
            pool.faults.add("toolstack_crash", victim="host1", method=METHOD, lasting=600)
            with xenctl.connect(server.url, "root", "secret", read_timeout=5) as session:
                with pytest.raises(ConnectionLost):
                    session.VM.set_name_description(vm_of(pool).ref, "first")
                with pytest.raises(ConnectError, match="Connection refused"):
                    session.VM.set_name_description(vm_of(pool).ref, "second")
                with pool.guard():
                    pool.clock.run_until_idle()
                session.login_with_password("root", "secret")
                assert len(session.VM.get_all()) == len(pool.store.table("VM"))


class TestCoordinates:
    """Which request is struck."""

    def test_the_nth_call_of_a_method_and_so_often(self, calls: Callable[..., Any]) -> None:
        """Others are not counted; afterwards all is well."""
        session = calls()
        fault = session.pool.faults.add("error", method="pool.get_all", nth=2, times=2, **OFFLINE)
        outcomes = []
        for _ in range(5):
            session("VM.get_all")
            try:
                outcomes.append(len(session("pool.get_all")))
            except Failure as error:
                outcomes.append(error.code)
        assert outcomes == [1, "HOST_OFFLINE", "HOST_OFFLINE", 1, 1]
        assert fault.calls == [4, 6]
        assert not session.pool.faults.armed

    def test_the_nth_call_of_all_since_it_was_added(self, calls: Callable[..., Any]) -> None:
        """Whatever it is."""
        session = calls()
        session("VM.get_all")
        session.pool.faults.add("answer_lost", nth=3)
        session("VM.get_all")
        session("host.get_all")
        with pytest.raises(ConnectionLost):
            session("pool.get_all")
        session("pool.get_all")

    def test_on_one_host(self, pool: MockPool) -> None:
        """By name, address or uuid."""
        pool.faults.add("refused", host=pool.machines[1].address)
        assert pool.dispatch("system.isAlive:x", ["x"]) == "x"
        with pytest.raises(ConnectError):
            pool.dispatch("system.isAlive:x", ["x"], pool.machine("host2"))

    def test_from_a_time_on(self, calls: Callable[..., Any]) -> None:
        """Absolute, or from now."""
        session = calls()
        clock = session.pool.clock
        session.pool.faults.add("answer_lost", after=60)
        session.pool.faults.add("answer_lost", at=clock.now() + 120)
        session("VM.get_all")
        for _ in range(2):
            clock.advance(60)
            with pytest.raises(ConnectionLost):
                session("VM.get_all")
        session("VM.get_all")

    def test_about_an_object(self, calls: Callable[..., Any]) -> None:
        """A call with its reference among the arguments."""
        session = calls(vms=2)
        fault = session.pool.faults.add("error", about=session.vm("vm02").ref, **OFFLINE)
        session("VM.get_power_state", session.vm("vm01").ref)
        session.refused("VM.get_power_state", session.vm("vm02").ref)
        assert fault.fired == 1

    def test_when_a_condition_holds(self, calls: Callable[..., Any]) -> None:
        """Over the call and the pool."""
        session = calls(vms=1)
        seen: list[Arrival] = []

        def halted(arrival: Arrival) -> bool:
            seen.append(arrival)
            return vm_of(arrival.pool)["power_state"] == "Halted"

        vm = session.vm("vm01").ref
        session.pool.faults.add("error", method="VM.get_power_state", when=halted, **OFFLINE)
        assert session("VM.get_power_state", vm) == "Running"
        session("VM.hard_shutdown", vm)
        assert session.refused("VM.get_power_state", vm) == ["HOST_OFFLINE", "OpaqueRef:x"]
        assert [(a.number, a.host, a.method, a.arguments[1]) for a in seen] == [
            (1, "host1", "VM.get_power_state", vm),
            (3, "host1", "VM.get_power_state", vm),
        ]

    def test_by_any_spelling(self, calls: Callable[..., Any]) -> None:
        """`VM_get_all` is `VM.get_all`; a method is its asynchronous form too, and that one can be named alone."""
        session = calls(vms=1)
        vm = session.vm("vm01").ref
        session.pool.faults.add("answer_lost", method="VM.get_all")
        with pytest.raises(ConnectionLost):
            session("VM_get_all")
        session.pool.faults.add("reset", method="Async.VM.pause")
        session("VM.pause", vm)
        session("VM.unpause", vm)
        with pytest.raises(ConnectionLost):
            session("Async.VM.pause", vm)

    def test_the_error_of_an_asynchronous_call_is_its_tasks(self, calls: Callable[..., Any]) -> None:
        """Before the effect, and after it."""
        session = calls(vms=1)
        for kind, state in (("error", "Running"), ("error_after", "Paused")):
            fault = session.pool.faults.add(kind, method="VM.pause", **OFFLINE)
            task = session.start("VM.pause", session.vm("vm01").ref)
            session.sleep(60)
            assert (task["status"], task["error_info"]) == ("failure", ["HOST_OFFLINE", "OpaqueRef:x"])
            assert session.vm("vm01")["power_state"] == state
            assert fault.fired == 1

    def test_a_handler(self, pool: MockPool) -> None:
        """What is no call is named by its HTTP method and path."""
        fault = pool.faults.add("http_status", method="GET /pool/xmldbdump", status=504)
        with activate(pool):
            for status in (504, 200):
                url = f"{pool.url}/pool/xmldbdump"
                assert requests.get(url, auth=("root", "secret"), timeout=5).status_code == status
        assert fault.calls == [1]

    def test_a_json_call(self, pool: MockPool) -> None:
        """Is named as any other."""
        session = pool.dispatch("session.login_with_password", ["root", "secret"])
        fault = pool.faults.add("http_status", method="VM.get_all", about=session)
        call = {"jsonrpc": "2.0", "method": "VM.get_all", "params": [session], "id": 1}
        with activate(pool):
            statuses = [requests.post(f"{pool.url}/jsonrpc", json=call, timeout=5).status_code for _ in range(2)]
        assert (statuses, fault.calls) == ([502, 200], [1])

    @pytest.mark.parametrize("way", [in_process, over_sockets])
    def test_a_download_that_breaks_off(self, pool: MockPool, way: Callable[[MockPool], Any]) -> None:
        """In its first block; the handler's task hears that its client went."""
        with way(pool) as session:
            vm = vm_of(pool, "vm04")
            assert vm["power_state"] == "Halted"
            task = session.task.create("download", "")
            fault = pool.faults.add("half_answer", method="GET /export")
            path = f"/export?session_id={session.ref}&uuid={vm['uuid']}&task_id={task}"
            answer = session.transport.send(Request(session.origin, "GET", path))
            assert answer.status == 200
            if way is in_process:
                with pytest.raises(ConnectionLost, match="in the middle of a transfer"):
                    answer.read()
            else:
                assert len(answer.read()) > 0
            assert fault.fired == 1
            assert session.task.get_error_info(task) == ["CLIENT_ERROR", "the connection was closed"]

    def test_a_transfer_is_answered_before_its_effect(self, pool: MockPool) -> None:
        """So its answer cannot be lost after it: the fault has missed, and the transfer goes on."""
        with in_process(pool) as session:
            fault = pool.faults.add("answer_lost", method="GET /export")
            session.VM.hard_shutdown(vm_of(pool).ref)
            path = f"/export?session_id={session.ref}&uuid={vm_of(pool)['uuid']}"
            answer = session.transport.send(Request(session.origin, "GET", path))
            assert len(answer.read()) > 10_000
        assert (fault.fired, fault.missed) == (0, ["request 2 (GET /export) was answered before it had any effect"])

    def test_one_request_suffers_one_fault(self, calls: Callable[..., Any]) -> None:
        """The first one strikes; the other says that it missed, and why."""
        session = calls()
        first = session.pool.faults.add("error", method="VM.get_all", **OFFLINE)
        second = session.pool.faults.add("answer_lost", method="VM.get_all")
        session.refused("VM.get_all")
        session("VM.get_all")
        assert (first.fired, second.fired, second.missed) == (1, 0, ["request 1 was struck by fault 1 already"])
        assert session.pool.faults.unused() == [second]

    def test_a_refusal_that_comes_earlier_is_told(self, pool: MockPool) -> None:
        """An error stands in the verb's place: a call that does not come so far is not struck."""
        fault = pool.faults.add("error", method="VM.get_all", **OFFLINE)
        with pytest.raises(Failure, match="SESSION_INVALID"):
            pool.dispatch("VM.get_all", ["OpaqueRef:none"])
        assert (fault.fired, fault.missed) == (0, ["request 1 (VM.get_all) did not get as far as its verb"])
        assert str(fault) == (
            "pool.faults.add('error', method='VM.get_all', code='HOST_OFFLINE', params=['OpaqueRef:x'])"
            "  # missed: request 1 (VM.get_all) did not get as far as its verb"
        )

    def test_a_verb_that_refuses_by_itself_is_told(self, calls: Callable[..., Any]) -> None:
        """There was no effect after which to fail."""
        session = calls(vms=1)
        fault = session.pool.faults.add("error_after", method="VM.start", **OFFLINE)
        assert session.refused("VM.start", session.vm("vm01").ref, False, False)[0] == "VM_BAD_POWER_STATE"
        assert (fault.fired, fault.missed) == (0, ["the verb itself refused: VM_BAD_POWER_STATE"])

    def test_faults_can_be_taken_back(self, calls: Callable[..., Any]) -> None:
        """One, by itself or its number, or all."""
        session = calls()
        faults = session.pool.faults
        one, two, _ = (faults.add("reset", method="VM.get_all") for _ in range(3))
        faults.remove(one)
        faults.remove(two.number)
        assert [fault.number for fault in faults] == [3]
        faults.clear()
        assert (len(faults), faults.armed) == (0, False)
        session("VM.get_all")
        with pytest.raises(KeyError, match="no fault 1"):
            faults.remove(1)


class TestHosts:
    """What happens to hosts."""

    def test_power_is_lost_at_a_time(self, calls: Callable[..., Any]) -> None:
        """Domains are gone, and the host comes back where that was asked for."""
        session = calls(vms=4)
        victim = session.pool.machine("host2")
        assert victim.domains
        fault = session.pool.faults.add("power_loss", victim="host2", after=30, lasting=600)
        session.sleep(29)
        assert victim.state == "running"
        session.sleep(1)
        assert (victim.state, victim.domains, fault.fired) == ("off", {}, 1)
        session.sleep(600)
        assert victim.state == "starting"
        session.until(lambda: victim.state == "running")

    def test_power_is_lost_before_a_call(self, calls: Callable[..., Any]) -> None:
        """Of another host: the call goes on. Of its own: the connection breaks."""
        session = calls(vms=4)
        session.pool.faults.add("power_loss", victim="host2", method="VM.get_all")
        session("VM.get_all")
        assert session.pool.machine("host2").state == "off"
        session.pool.faults.add("power_loss", victim="host1", method="VM.get_all")
        with pytest.raises(ConnectionLost, match="the host went away"):
            session("VM.get_all")

    def test_a_fault_that_finds_the_host_down_has_missed(self, calls: Callable[..., Any]) -> None:
        """And says so."""
        pool = calls().pool
        fault = pool.faults.add("power_loss", victim="host2", after=30)
        pool.hands.power_off("host2")
        pool.clock.advance(60)
        assert (fault.fired, fault.missed) == (0, ["host2 did not run"])

    def test_a_members_toolstack_dies_and_its_guests_go_on(self, calls: Callable[..., Any]) -> None:
        """What is forwarded to it fails; connections are refused; when it is back, nothing was lost."""
        session = calls(vms=4)
        pool, member = session.pool, session.pool.machine("host2")
        guest = next(vm for vm in pool.store.table("VM").values() if vm["uuid"] in member.domains)
        before = dict(member.domains)
        pool.faults.add("toolstack_crash", victim="host2", after=0, lasting=120)
        pool.clock.advance(1)
        assert session.refused("VM.clean_shutdown", guest.ref)[0] in ("CANNOT_CONTACT_HOST", "HOST_OFFLINE")
        with pytest.raises(ConnectError, match="its toolstack is dead"):
            xenctl.connect(f"http://{member.address}", "root", "secret", transport=pool.transport())
        assert member.state == "running"
        session.until(lambda: member.xapi.complete)
        assert dict(member.domains) == before
        assert guest["power_state"] == "Running"
        assert session.unharmed()

    def test_the_masters_toolstack_dies(self, calls: Callable[..., Any]) -> None:
        """Members fall into emergency mode, sessions are gone, and everything is found again."""
        session = calls(vms=4)
        pool = session.pool
        plugged = [pbd.ref for pbd in pool.store.table("PBD").values() if pbd["currently_attached"]]
        domains = {m.name: dict(m.domains) for m in pool.machines}
        pool.faults.add("toolstack_crash", victim="host1", method="VM.get_all", lasting=60)
        with pytest.raises(ConnectionLost):
            session("VM.get_all")
        assert pool.machine("host2").xapi.mode == "emergency"
        session = session.back()
        assert {m.name: dict(m.domains) for m in pool.machines} == domains
        assert [pbd.ref for pbd in pool.store.table("PBD").values() if pbd["currently_attached"]] == plugged
        assert session.unharmed()
        assert all(host["enabled"] for host in pool.store.table("host").values())


PHYSICALLY: dict[str, dict[str, Any]] = {
    "toolstack_crash": {"victim": "host2"},
    "power_loss": {"victim": "host2"},
    "storage_path_lost": {"victim": "host2", "sr": "Local storage on host2"},
}
"""Each kind of what happens to hosts, with what it is told."""
EVERY_KIND = {**{kind: words for kind, words, _, _ in ON_THE_WAY}, **PHYSICALLY}
COORDINATES: dict[str, tuple[dict[str, Any], int]] = {
    "the nth call": ({"nth": 3}, 2),
    "the nth call of a method": ({"method": METHOD, "nth": 2}, 2),
    "at a virtual time": ({"after": 150.0}, 2),
    "on one host": ({"host": "host1"}, 1),
    "about an object": ({"about": "the last"}, 3),
    "when a condition holds": ({"when": lambda arrival: arrival.arguments[-1:] == ("the second",)}, 2),
}
"""Each coordinate, with which of the calls below it means."""
CALLS: list[tuple[str, list[str], str]] = [
    ("VM.get_all", [], "host2"),
    (METHOD, ["VM", "the first"], "host1"),
    (METHOD, ["VM", "the second"], "host1"),
    (METHOD, ["VM", "the last"], "host1"),
]
"""Calls, between which 100 seconds pass."""


class TestEveryKindByEveryCoordinate:
    """A list of all, so that none is forgotten."""

    def test_every_kind_is_there(self) -> None:
        """As well as what happens to hosts."""
        assert set(EVERY_KIND) == set(KINDS)
        assert set(PHYSICALLY) == set(PHYSICAL)

    @pytest.mark.parametrize("coordinate", COORDINATES)
    @pytest.mark.parametrize("kind", EVERY_KIND)
    def test_strikes_the_one_that_is_meant(self, calls: Callable[..., Any], kind: str, coordinate: str) -> None:
        """And no other call: it had not happened before, and happens once."""
        c, (words, meant) = calls(release="8.2", hosts=2, vms=1), COORDINATES[coordinate]
        fault, vm = c.pool.faults.add(kind, **EVERY_KIND[kind], **words), c.vm("vm01").ref
        for number, (method, arguments, host) in enumerate(CALLS):
            assert fault.fired == (number > meant or (fault.timed and number == meant))
            with suppress(Failure, xenctl.TransportError):
                c(method, *(vm if argument == "VM" else argument for argument in arguments), on=host)
            c.pool.clock.run_until(START + (number + 1) * 100.0)
        assert fault.fired == 1
        assert not fault.missed


class TestMistakes:
    """What cannot be asked for is refused at once, with what was meant."""

    @pytest.mark.parametrize(
        ("kind", "words", "message"),
        [
            ("eror", {}, r"no such fault: 'eror' \(is 'error' meant\?\); there are error,"),
            (
                "reset",
                {"method": "VM.strat"},
                r"no host of this pool knows the method 'VM.strat' \(is 'VM.start' meant",
            ),
            ("reset", {"method": "Async.VM.get_all"}, "VM.get_all has no Async form"),
            ("reset", {"method": "GET /nowhere"}, "no host answers 'GET /nowhere'"),
            ("reset", {"host": "host9"}, "no host 'host9' in this pool: host1, host2"),
            ("reset", {"nth": 0}, "nth is a whole number from 1, not 0"),
            ("reset", {"times": True}, "times is a whole number from 1, not True"),
            ("reset", {"after": -1}, "after is a number of seconds from now, not -1"),
            ("reset", {"method": 1}, "method is a text, not 1"),
            ("reset", {"at": "noon"}, "at is a number, not 'noon'"),
            ("reset", {"at": 1}, "the simulated time 1 is over"),
            ("reset", {"at": 1e12, "after": 1}, "not both"),
            ("error", {}, "which error"),
            ("error", {"code": "HOST_OFLINE"}, r"has the error 'HOST_OFLINE' \(is 'HOST_OFFLINE' meant"),
            ("error", {"code": "HOST_OFFLINE"}, r"HOST_OFFLINE has 1 params \(host\), not 0"),
            ("error", {"code": "HOST_OFFLINE", "params": "x"}, "params is a list of texts, not 'x'"),
            ("error", {"code": "SR_BACKEND_FAILURE_47", "params": []}, "has 3 params"),
            ("power_loss", {"victim": "host1"}, "when is 'power_loss' to happen"),
            ("power_loss", {"after": 1}, "whose"),
            ("power_loss", {"after": 1, "victim": "host1", "lasting": 0}, "lasting is a number of seconds, not 0"),
            ("storage_path_lost", {"after": 1, "victim": "host1"}, "the path to which storage"),
            (
                "storage_path_lost",
                {"after": 1, "victim": "host1", "sr": "nowhere"},
                "host1 is connected to no storage repository called 'nowhere'; there are '",
            ),
            (
                "storage_path_lost",
                {"after": 1, "victim": "host1", "sr": "Local storage on host1", "guests": "cry"},
                "guests stall or crash where their disks are gone, not 'cry'",
            ),
            (
                "storage_path_lost",
                {"victim": "host1", "sr": "Local storage on host1"},
                "when is 'storage_path_lost' to",
            ),
            ("stall", {"seconds": 0}, "seconds is how long the client waits, not 0"),
            ("http_status", {"status": 200}, "300 to 599, not 200"),
        ],
    )
    def test_each(self, pool: MockPool, kind: str, words: dict[str, Any], message: str) -> None:
        """A sentence each, and nothing was added."""
        with pytest.raises(ValueError, match=message):
            pool.faults.add(kind, **words)
        assert (len(pool.faults), pool.faults.armed) == (0, False)

    def test_words_that_a_kind_does_not_take(self, pool: MockPool) -> None:
        """Are no words."""
        with pytest.raises(TypeError, match="a fault 'reset' does not take code; it takes nothing of its own"):
            pool.faults.add("reset", code="HOST_OFFLINE")
        with pytest.raises(TypeError, match="does not take status, statuz; it takes code, params, unknown_code"):
            pool.faults.add("error", statuz=1, status=2)

    def test_a_code_that_no_xenapi_has_needs_a_word(self, pool: MockPool) -> None:
        """Then it is sent as it is."""
        pool.faults.add("error", code="FROM_ANOTHER_WORLD", params=["a", "b"], unknown_code=True, method="VM.get_all")
        session = pool.dispatch("session.login_with_password", ["root", "secret"])
        with pytest.raises(Failure) as caught:
            pool.dispatch("VM.get_all", [session])
        assert caught.value.details == ["FROM_ANOTHER_WORLD", "a", "b"]

    def test_a_method_is_that_of_the_pools_releases(self) -> None:
        """What no host of this pool serves cannot be struck."""
        with pytest.raises(ValueError, match=r"no host of this pool knows the method 'host.evacuate'"):
            MockPool.create(hosts=1, vms=0, release="4.0.1").faults.add("reset", method="host.evacuate")
