"""The pool on sockets: `python -m mockserver` and `PoolServer`, spoken to by the official SDK, and what time does there."""

from __future__ import annotations

import http.client
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import XenAPI

from mockserver import MockPool, PoolServer
from xenctl import database, xmlrpc
from xenctl.errors import ConnectError, Failure, TransportError
from xenctl.session import connect
from xenctl.values import parse_datetime

DATA = Path(__file__).parent / "data"


@contextmanager
def served(time_scale: float = 0.0, **shape: Any) -> Iterator[PoolServer]:
    """A pool on sockets."""
    with PoolServer(
        MockPool.create(**{"hosts": 3, "vms": 4, "release": "8.2", **shape}), time_scale=time_scale
    ) as server:
        yield server


@contextmanager
def started(*arguments: str) -> Iterator[tuple[subprocess.Popen[str], dict[str, Any]]]:
    """The command, once it has said that it is ready."""
    command = [sys.executable, "-m", "mockserver", *arguments]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        line = process.stdout.readline()
        assert line, process.stderr.read() if process.stderr else ""
        yield process, json.loads(line)
    finally:
        process.kill()
        process.communicate()


@contextmanager
def official(url: str) -> Iterator[Any]:
    """A session of the official SDK."""
    session = XenAPI.Session(url)
    try:
        session.xenapi.login_with_password("root", "secret", "1.0", "test")
        yield session
    finally:
        session("close")()


def within(seconds: float, holds: Any) -> None:
    """Wait on the wall's clock for something that other threads bring about."""
    end = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < end
        time.sleep(0.005)


def ask(url: str, method: str, *params: Any) -> Any:
    """One call on a connection of its own."""
    host = url.removeprefix("http://")
    connection = http.client.HTTPConnection(host, timeout=10)
    try:
        connection.request("POST", "/", xmlrpc.dumps_call(method, params))
        return xmlrpc.loads_response(connection.getresponse().read())
    finally:
        connection.close()


# --- the command


def test_the_command_serves_and_says_so(tmp_path: Path) -> None:
    """One line of JSON, in a file too; one address for each host on one port; SIGTERM ends it with 0."""
    ready_file = tmp_path / "ready.json"
    with started("--hosts", "3", "--vms", "2", "--release", "4.0.1", "--ready-file", str(ready_file)) as (
        process,
        ready,
    ):
        assert json.loads(ready_file.read_text()) == ready
        assert list(tmp_path.iterdir()) == [ready_file]
        assert ready["pid"] == process.pid
        assert [host["name"] for host in ready["hosts"]] == ["host1", "host2", "host3"]
        assert [host["address"] for host in ready["hosts"]] == ["127.0.0.1", "127.0.0.2", "127.0.0.3"]
        assert ready["url"] == ready["hosts"][0]["url"]
        assert len({host["url"].rpartition(":")[2] for host in ready["hosts"]}) == 1
        with connect(ready["hosts"][2]["url"], "root", "secret") as session:
            assert session.origin == ready["url"]
            assert {host.address for host in session.host.get_all_records().values()} == {
                h["address"] for h in ready["hosts"]
            }
        process.send_signal(signal.SIGTERM)
        out, errors = process.communicate(timeout=10)
        assert (process.returncode, out, errors) == (0, "", "")


def test_the_command_serves_a_dump() -> None:
    """With the hosts' addresses mapped to its own, for the user and password that it is told."""
    path = DATA / "pool-4.1.0.xml"
    with started("--dump", str(path), "--user", "admin", "--password", "other") as (process, ready):
        assert len(ready["hosts"]) == 4
        with pytest.raises(Failure, match="SESSION_AUTHENTICATION_FAILED"):
            connect(ready["url"], "root", "secret")
        with connect(ready["url"], "admin", "other") as session:
            dump = database.read(session.fetch("/pool/xmldbdump").read())
        database.verify(dump)
        assert {row.cells["address"] for row in dump.rows("host")} == {host["address"] for host in ready["hosts"]}
        assert len(list(dump.rows("VM"))) == len(list(database.read_file(path).rows("VM")))
        process.send_signal(signal.SIGINT)
        assert process.wait(timeout=10) == 0


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["--hosts", "0"], "a pool has at least one host, not 0"),
        (["--hosts", "x"], "argument --hosts: invalid int value: 'x'; see --help"),
        (["--vms", "-1"], "a pool cannot have -1 VMs"),
        (["--release", "9.9"], "no release is called '9.9'; known are XenServer 4.0.1, "),
        (["--dump", "/no/such/file"], "/no/such/file: it cannot be read (No such file or directory); check the path"),
        (
            ["--dump", str(DATA / "pool-4.1.0.xml"), "--vms", "3"],
            "--dump and --vms: a pool that is loaded is as its dump",
        ),
        (["--listen", "nowhere"], "'nowhere' does not appear to be an IPv4 or IPv6 address"),
        (["--listen", "192.0.2.1", "--hosts", "1"], "cannot listen on 192.0.2.1:0: Cannot assign requested address"),
        (["--port", "70000"], "a port is a number from 0 to 65535, not 70000"),
        (["--time-scale", "-1"], "a time scale is a number of simulated seconds a second, not -1"),
        (["--time-scale", "nan"], "a time scale is a number of simulated seconds a second, not nan"),
        (["--start", "today"], "--start is a date and time such as 2031-05-01T08:00:00Z, or now, not 'today'"),
        (
            ["--ready-file", "/no/such/folder/file", "--hosts", "1"],
            "cannot write /no/such/folder/file: No such file or",
        ),
        (["--nonsense"], "unrecognized arguments: --nonsense; see --help"),
    ],
)
def test_bad_arguments_are_refused_in_one_sentence(
    arguments: list[str], sentence: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """On the error stream, with status 2; nothing is served."""
    from mockserver.__main__ import main

    before = signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT)
    try:
        status = main(arguments)
    except SystemExit as exit_:
        status = int(str(exit_.code))
    finally:
        signal.signal(signal.SIGTERM, before[0])
        signal.signal(signal.SIGINT, before[1])
    out = capsys.readouterr()
    assert (status, out.out) == (2, "")
    assert out.err.startswith(f"mockserver: {sentence}")
    assert out.err.count("\n") == 1


def test_a_port_that_is_taken_is_named() -> None:
    """On whichever address it is."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.2", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(OSError, match=f"cannot listen on 127.0.0.2:{port}: Address already in use"):
            PoolServer(MockPool.create(hosts=2, vms=0), port=port).start()


# --- the official SDK


def test_the_official_sdk_finds_the_master() -> None:
    """A member names it; the SDK's users follow; two arguments are enough for 4.0.1."""
    with served(release="4.0.1") as server:
        member = server.url_of(server.pool.machine("host2"))
        session = XenAPI.Session(member)
        with pytest.raises(XenAPI.Failure) as caught:
            session.xenapi.login_with_password("root", "secret")
        assert caught.value.details == ["HOST_IS_SLAVE", "127.0.0.1"]
        session("close")()
        port = member.rpartition(":")[2]
        session = XenAPI.Session(f"http://{caught.value.details[1]}:{port}")
        session.xenapi.login_with_password("root", "secret")
        assert len(session.xenapi.host.get_all()) == 3
        session.xenapi.session.logout()
        session("close")()


@pytest.mark.parametrize(
    ("arguments", "begins"),
    [
        (["--start", "2031-05-01T10:00:00+02:00"], lambda: 1_935_388_800),
        (["--start", "now", "--time-scale", "1"], time.time),
        (["--dump", str(DATA / "pool-4.1.0.xml"), "--start", "now"], time.time),
    ],
)
def test_the_command_begins_when_it_is_told_to(arguments: list[str], begins: Callable[[], float]) -> None:
    """For programs that ask for what happened lately, by their own clock."""
    with started(*arguments) as (_, ready), connect(ready["url"], "root", "secret") as session:
        moment = session.task.get_created(session.task.create("now", ""))
        assert abs(moment.timestamp() - begins()) < 60


def test_the_pool_says_where_it_is_served() -> None:
    """Of hosts, of their management interfaces and of the consoles of guests that run already."""
    with served(hosts=2, vms=4) as server, connect(server.url, "root", "secret") as session:
        host = session.host.get_by_name_label("host2")[0]
        (pif,) = [pif for pif in session.PIF.get_all_records().values() if pif.host == host and pif.management]
        vm = session.VM.get_by_name_label("vm02")[0]
        location = session.console.get_location(session.VM.get_consoles(vm)[0])
        assert (session.host.get_address(host), pif.IP) == ("127.0.0.2", "127.0.0.2")
        assert location.startswith("https://127.0.0.2/console?")


@pytest.mark.parametrize("release", ["4.0.1", "8.2"])
def test_the_official_sdk_starts_and_stops_a_vm(release: str) -> None:
    """Waiting for the answer, and as a task that is asked for now and then."""
    with served(release=release) as server:
        session = XenAPI.Session(server.url)
        session.xenapi.login_with_password("root", "secret")
        api = session.xenapi
        (vm,) = api.VM.get_by_name_label("vm04")
        api.VM.start(vm, False, False)
        assert api.VM.get_power_state(vm) == "Running"
        task = api.Async.VM.clean_shutdown(vm)
        within(10, lambda: api.task.get_status(task) != "pending")
        assert (api.task.get_status(task), api.VM.get_power_state(vm)) == ("success", "Halted")
        api.task.destroy(task)
        with pytest.raises(XenAPI.Failure) as caught:
            api.VM.clean_shutdown(vm)
        assert caught.value.details == ["VM_BAD_POWER_STATE", vm, "running", "halted"]
        assert api.VM.get_all_records()[vm]["name_label"] == "vm04"
        session("close")()


def test_the_official_sdk_reads_events_of_4_0_1() -> None:
    """It registers, and waits for the next."""
    with served(release="4.0.1") as server, official_then(server.url) as session:
        api = session.xenapi
        api.event.register(["vm"])
        (vm,) = api.VM.get_by_name_label("vm04")
        api.Async.VM.start(vm, False, False)
        states: list[str] = []
        while "Running" not in states:
            states += [e["snapshot"]["power_state"] for e in api.event.next() if e["ref"] == vm]
        assert api.VM.get_power_state(vm) == "Running"


@contextmanager
def official_then(url: str) -> Iterator[Any]:
    """A session of the official SDK with a release that knows two arguments of a login."""
    session = XenAPI.Session(url)
    try:
        session.xenapi.login_with_password("root", "secret")
        yield session
    finally:
        session("close")()


def test_the_official_sdk_reads_events_of_8_2() -> None:
    """By token, blocking in a call of its own while another thread works."""
    with served() as server, official(server.url) as session, official(server.url) as worker:
        api = session.xenapi
        (vm,) = api.VM.get_by_name_label("vm04")
        token = api.event_from(["vm"], "", 0.0)["token"]
        thread = threading.Thread(target=worker.xenapi.VM.start, args=(vm, False, False))
        thread.start()
        states: list[str] = []
        while "Running" not in states:
            batch = api.event_from(["vm"], token, 10.0)
            token = batch["token"]
            states += [event["snapshot"]["power_state"] for event in batch["events"] if event["ref"] == vm]
        thread.join()
        assert batch["valid_ref_counts"]["vm"] == 7


# --- hosts that go and come


def once_more(connection: http.client.HTTPConnection, body: bytes) -> None:
    """Ask on a connection that was there before."""
    connection.request("POST", "/", body)
    connection.getresponse()


def test_a_host_that_is_off_refuses_and_comes_back_on_the_same_port() -> None:
    """Connections that were open are cut; those of other hosts are not."""
    with served(hosts=2, vms=0) as server:
        pool, member = server.pool, server.url_of(server.pool.machine("host2"))
        kept = http.client.HTTPConnection(member.removeprefix("http://"), timeout=10)
        body = xmlrpc.dumps_call("system.isAlive:x", ["yes"])
        kept.request("POST", "/", body)
        assert kept.getresponse().read()
        pool.hands.power_off("host2")
        with pytest.raises((ConnectionError, http.client.HTTPException)):
            once_more(kept, body)
        kept.close()
        with pytest.raises(ConnectionRefusedError):
            ask(member, "system.isAlive:x", "yes")
        assert ask(server.url, "system.isAlive:x", "yes") == "yes"
        pool.hands.power_on("host2")
        within(10, lambda: "host2" in {m.name for m in pool.machines if m.xapi.mode == "member"})
        assert ask(member, "system.isAlive:x", "yes") == "yes"
        with pytest.raises(Failure, match="HOST_IS_SLAVE"):
            ask(member, "session.login_with_password", "root", "secret")


def test_a_call_in_progress_is_cut_off_with_its_host() -> None:
    """The client does not learn what came of it; sockets that wait for events are cut too."""
    with served(time_scale=1.0, hosts=2) as server:
        pool = server.pool
        with connect(server.url, "root", "secret") as session:
            token = session.event.from_(["*"], "", 0.0)["token"]
            vm = session.VM.get_by_name_label("vm04")[0]
            with ThreadPoolExecutor() as threads:
                waiting = threads.submit(ask, server.url, "event.from", session.ref, ["network"], token, 3600.0)
                starting = threads.submit(ask, server.url, "VM.start", session.ref, vm, False, False)
                within(10, lambda: pool.store.get("VM", vm)["current_operations"] and len(server._waiters) == 2)
                pool.hands.power_off("host1")
                for call in (waiting, starting):
                    with pytest.raises((ConnectionError, http.client.HTTPException)):
                        call.result(timeout=10)
            assert pool.store.get("VM", vm)["power_state"] == "Halted"
            with pytest.raises(ConnectError):
                session.VM.get_all()
            with pytest.raises(TransportError):
                session.logout()


def test_a_logout_wakes_who_waits_for_events() -> None:
    """From another connection."""
    with served() as server, ThreadPoolExecutor() as threads:
        session = ask(server.url, "session.login_with_password", "root", "secret")
        token = ask(server.url, "event.from", session, ["*"], "", 0.0)["token"]
        waiting = threads.submit(ask, server.url, "event.from", session, ["*"], token, 3600.0)
        within(10, lambda: len(server._waiters) == 1)
        ask(server.url, "session.logout", session)
        with pytest.raises(Failure) as caught:
            waiting.result(timeout=10)
        assert caught.value.details == ["SESSION_INVALID", session]


def test_force_ends_a_call_of_another_client() -> None:
    """The one that was shutting down cleanly hears that it was cancelled; the other one waits until that is over."""
    with served(time_scale=50.0) as server, ThreadPoolExecutor() as threads:
        session = ask(server.url, "session.login_with_password", "root", "secret")
        (vm,) = ask(server.url, "VM.get_by_name_label", session, "vm01")
        clean = threads.submit(ask, server.url, "VM.clean_shutdown", session, vm)
        within(10, lambda: ask(server.url, "VM.get_current_operations", session, vm))
        assert ask(server.url, "VM.hard_shutdown", session, vm) == ""
        with pytest.raises(Failure, match="TASK_CANCELLED"):
            clean.result(timeout=10)
        assert ask(server.url, "VM.get_power_state", session, vm) == "Halted"
        assert ask(server.url, "VM.get_current_operations", session, vm) == {}


# --- time


def test_time_runs_scaled() -> None:
    """A thousand simulated seconds a second: a shutdown of 25 s takes some 25 ms."""
    with served(time_scale=1000.0) as server, official(server.url) as session:
        (vm,) = session.xenapi.VM.get_by_name_label("vm01")
        begun, simulated = time.monotonic(), server.pool.clock.now()
        session.xenapi.VM.clean_shutdown(vm)
        took, passed = time.monotonic() - begun, server.pool.clock.now() - simulated
        assert passed >= 25
        assert 0.02 < took < 2.0
        begun, simulated = time.monotonic(), server.pool.clock.now()
        time.sleep(0.05)
        session.xenapi.VM.get_all()
        passed, took = server.pool.clock.now() - simulated, time.monotonic() - begun
        assert passed == pytest.approx(1000 * took, abs=100)


def test_a_wait_for_events_is_scaled_too() -> None:
    """Thirty simulated seconds at a thousand a second."""
    with served(time_scale=1000.0) as server, official(server.url) as session:
        token = session.xenapi.event_from(["*"], "", 0.0)["token"]
        begun = time.monotonic()
        assert session.xenapi.event_from(["*"], token, 30.0)["events"] == []
        assert 0.02 < time.monotonic() - begun < 2.0


def test_without_a_scale_a_client_that_asks_sees_progress() -> None:
    """Time runs on to the next thing due between its calls: a host is halted, installed and back in the pool in no time."""
    with served(release="4.0.1", hosts=2, vms=0) as server, connect(server.url, "root", "secret") as session:
        pool, begun = server.pool, time.monotonic()
        (host,) = session.host.get_by_name_label("host2")
        session.host.disable(host)
        session.host.shutdown(host)
        within(10, lambda: pool.hands.power("host2") == "off")
        pool.hands.insert_media("host2", "4.0.1")
        pool.hands.power_on("host2")
        within(10, lambda: pool.hands.power("host2") == "installer")
        pool.hands.answer("host2", "upgrade")
        within(10, lambda: session.host.get_enabled(host))
        assert pool.clock.now() - 1_228_089_600 > 1000
        assert time.monotonic() - begun < 5


def test_without_a_scale_a_wait_for_nothing_is_real() -> None:
    """Or a client that polls for events would make the days fly."""
    with served(hosts=1, vms=0) as server, official(server.url) as session:
        token = session.xenapi.event_from(["*"], "", 0.0)["token"]
        begun, simulated = time.monotonic(), server.pool.clock.now()
        assert session.xenapi.event_from(["*"], token, 0.05)["events"] == []
        assert 0.05 <= time.monotonic() - begun < 2.0
        assert server.pool.clock.now() - simulated < 1


def test_time_does_not_run_ahead_of_a_call_that_waited() -> None:
    """A start takes two seconds and is answered then, although much else falls due right after."""
    with served() as server, ThreadPoolExecutor() as threads:
        pool, session = server.pool, ask(server.url, "session.login_with_password", "root", "secret")
        (vm,) = ask(server.url, "VM.get_by_name_label", session, "vm04")
        within(10, lambda: server._calls == 0)  # a call counts a moment longer than its client waits for it
        with pool.guard():
            begun = pool.clock.now()
            starting = threads.submit(ask, server.url, "VM.start", session, vm, False, False)
            within(10, lambda: server._calls == 2)
            for tenth in range(2000):
                pool.clock.after(tenth / 10, lambda: None)
        starting.result(timeout=10)
        metrics = pool.store.get("VM_metrics", pool.store.get("VM", vm)["metrics"])
        assert parse_datetime(metrics["start_time"]).timestamp() - begun <= 5


def test_many_clients_at_once() -> None:
    """Each on a connection of its own, all asking without a pause while operations go on: all of them end, none is lost."""
    with served(hosts=4, vms=24) as server:
        pool = server.pool
        names = [
            vm["name_label"] for vm in pool.store.table("VM").values() if vm["power_state"] == "Running" and vm["domid"]
        ]

        def work(name: str) -> str:
            with connect(server.url, "root", "secret") as session:
                (vm,) = session.VM.get_by_name_label(name)
                hosts = [host for host in session.host.get_all() if host != session.VM.get_resident_on(vm)]
                task = session.Async.VM.pool_migrate(vm, hosts[0], {})
                while session.task.get_status(task.ref) == "pending":
                    session.VM.get_record(vm)
                task.wait()
                session.VM.clean_reboot(vm)
                return str(session.VM.get_power_state(vm))

        with ThreadPoolExecutor(max_workers=16) as threads:
            assert set(threads.map(work, names)) == {"Running"}
        assert pool.store.table("task") == {}
        assert pool.store.table("session") == {}
        assert all(vm["current_operations"] == {} for vm in pool.store.table("VM").values())


def test_a_bug_of_the_fake_is_an_error_of_http(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is logged, and the server goes on."""
    with served(hosts=1, vms=0) as server:

        def broken(*_: Any) -> Any:
            raise RuntimeError("broken on purpose")

        with monkeypatch.context() as patch:
            patch.setattr(server.pool, "count_call", broken)
            connection = http.client.HTTPConnection(server.url.removeprefix("http://"), timeout=10)
            connection.request("POST", "/", xmlrpc.dumps_call("pool.get_all", ["x"]))
            answer = connection.getresponse()
            assert (answer.status, b"broken on purpose" in answer.read()) == (500, True)
            connection.close()
        assert "the fake has a bug" in caplog.text
        with server.pool.guard():
            server.pool.clock.after(0.0, broken)
        within(10, lambda: "a timer failed" in caplog.text)
        assert ask(server.url, "system.isAlive:x", "yes") == "yes"


# --- addresses


@pytest.mark.parametrize("listen", ["::1", "0.0.0.0"])  # noqa: S104 - both are of one address for all hosts
def test_where_there_is_one_address_each_host_has_a_port(listen: str) -> None:
    """A note says so; members name the master with its port, and clients follow."""
    if listen == "::1" and not _has_ipv6():
        pytest.skip("this system has no IPv6")
    with PoolServer(MockPool.create(hosts=3, vms=0, release="8.2"), listen=listen) as server:
        urls = [host["url"] for host in server.hosts()]
        assert "a port of its own" in server.note
        assert len({url.rpartition(":")[2] for url in urls}) == 3
        assert [host["address"] for host in server.hosts()] == [url.removeprefix("http://") for url in urls]
        with connect(urls[2], "root", "secret") as session:
            assert session.origin == urls[0]
            assert len(session.host.get_all()) == 3


def _has_ipv6() -> bool:
    try:
        with socket.socket(socket.AF_INET6) as probe:
            probe.bind(("::1", 0))
    except OSError:
        return False
    return True


def test_one_host_needs_no_note() -> None:
    """Its address is the one that it listens on; a port may be asked for."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    with PoolServer(MockPool.create(hosts=1, vms=0), port=port) as server:
        assert (server.url, server.note) == (f"http://127.0.0.1:{port}", "")


# --- HTTP


def exchange(url: str, request: bytes) -> bytes:
    """What comes back on a connection until the server closes it."""
    host, _, port = url.removeprefix("http://").partition(":")
    with socket.create_connection((host, int(port)), timeout=10) as connection:
        connection.sendall(request)
        out = b""
        while chunk := connection.recv(65536):
            out += chunk
        return out


def test_http_is_as_the_real_one() -> None:
    """Bodies need a length and a limit, HEAD has none, 1.0 closes, 1.1 does not, the database comes until the end."""
    body = xmlrpc.dumps_call("system.isAlive:x", ["yes"])
    with served(hosts=1, vms=0) as server:
        url = server.url
        assert exchange(url, b"POST / HTTP/1.1\r\nHost: x\r\n\r\n").startswith(b"HTTP/1.1 500 ")
        assert exchange(url, b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 307201\r\n\r\n").startswith(
            b"HTTP/1.1 500 "
        )
        head = exchange(url, b"HEAD / HTTP/1.1\r\nHost: x\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 501 ")
        assert head.endswith(b"\r\n\r\n")
        length = b"Content-Length: %d\r\n" % len(body)
        closed = exchange(url, b"POST /RPC2 HTTP/1.0\r\n" + length + b"\r\n" + body).lower()
        assert b"\r\nconnection: close\r\n" in closed
        wanted = exchange(url, b"POST / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n" + length + b"\r\n" + body).lower()
        assert b"\r\nconnection: close\r\n" in wanted
        connection = http.client.HTTPConnection(url.removeprefix("http://"), timeout=10)
        for _ in range(3):
            connection.request("POST", "/", body)
            answer = connection.getresponse()
            assert answer.getheader("connection") == "keep-alive"
            assert xmlrpc.loads_response(answer.read()) == "yes"
        session = ask(url, "session.login_with_password", "root", "secret")
        connection.request("GET", f"/pool/xmldbdump?session_id={session}")
        answer = connection.getresponse()
        assert (answer.getheader("content-length"), answer.getheader("connection")) == (None, "close")
        database.verify(database.read(answer.read()))
        connection.close()


def test_a_server_stops_at_once(tmp_path: Path) -> None:
    """Whoever waits is let go; its addresses are free again."""
    server = PoolServer(MockPool.create(hosts=2, vms=0, release="8.2"))
    server.start()
    url, port = server.url, int(server.url.rpartition(":")[2])
    session = ask(url, "session.login_with_password", "root", "secret")
    token = ask(url, "event.from", session, ["*"], "", 0.0)["token"]
    with ThreadPoolExecutor() as threads:
        waiting = threads.submit(ask, url, "event.from", session, ["*"], token, 3600.0)
        within(10, lambda: len(server._waiters) == 1)
        begun = time.monotonic()
        server.stop()
        with pytest.raises((ConnectionError, http.client.HTTPException)):
            waiting.result(timeout=10)
    assert time.monotonic() - begun < 2
    with PoolServer(MockPool.create(hosts=2, vms=0), port=port):
        assert os.getpid()


def test_a_server_and_its_pool_tell_who_they_are() -> None:
    """As it is seen where a test fails: hosts and addresses, three of them at the most."""
    pool = MockPool.create(hosts=5, vms=0)
    server = PoolServer(pool)
    assert repr(pool) == "<MockPool of host1 at 10.0.0.1, host2 at 10.0.0.2, host3 at 10.0.0.3 and 2 more>"
    assert repr(server) == "<PoolServer that has not started>"
    with server:
        assert repr(server) == f"<PoolServer at {server.url}>"
