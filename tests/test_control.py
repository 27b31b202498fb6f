"""The control path: what tests in other processes may do, and who may not."""

from __future__ import annotations

import http.client
import json
import logging
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest

import xenctl
from mockserver import MockPool, PoolServer
from mockserver.invariants import Invariant
from mockserver.store import Write
from xenctl import ConnectError, ConnectionLost

TOKEN = "s3cr3t-t0k3n"
DOCS = Path(__file__).parent.parent / "docs" / "control.md"


class Remote:
    """Another process, as the pool sees it."""

    def __init__(self, url: str, token: str | None = TOKEN) -> None:
        self.url, self.token = url, token

    def __call__(self, method: str, path: str, body: Any = None, **headers: str) -> tuple[int, Any]:
        """One request; the status, and the JSON of the answer, or its text."""
        parts = urlsplit(self.url)
        connection = http.client.HTTPConnection(parts.hostname or "", parts.port, timeout=10)
        if self.token is not None:
            headers = {"authorization": f"Bearer {self.token}", **headers}
        data = body if isinstance(body, (bytes, type(None))) else json.dumps(body).encode()
        try:
            connection.request(method, f"/_mockserver/{path}", data, headers)
            answer = connection.getresponse()
            text = answer.read().decode()
        finally:
            connection.close()
        kind = answer.headers["content-type"]
        return answer.status, json.loads(text) if kind == "application/json" else text


@contextmanager
def controlled(**shape: Any) -> Iterator[tuple[PoolServer, Remote]]:
    """A pool on sockets with the control path; time moves when it is told to."""
    pool = MockPool.create(**{"hosts": 2, "vms": 4, "release": "8.2", **shape})
    with PoolServer(pool, control=TOKEN, time_scale=1e-6) as server:
        yield server, Remote(server.control_url)


class TestWhoMay:
    """The token."""

    @pytest.mark.parametrize("token", [None, "", "wrong", TOKEN + "x", TOKEN[:-1]])
    @pytest.mark.parametrize(("method", "path"), [("GET", "invariants"), ("POST", "clock"), ("GET", "nowhere")])
    def test_nobody_without_it(self, token: str | None, method: str, path: str) -> None:
        """401 for whatever is asked, and nothing is done."""
        with controlled() as (server, remote):
            before = server.pool.clock.now()
            status, answer = Remote(remote.url, token)(method, path, {"advance": 100} if method == "POST" else None)
            assert (status, answer["where"]) == (401, "headers")
            assert server.pool.clock.now() - before < 1

    def test_another_scheme_is_refused(self) -> None:
        """Basic, or the bare token."""
        with controlled() as (_, remote):
            for text in (f"Basic {TOKEN}", TOKEN, f"Bearer{TOKEN}"):
                assert remote("GET", "clock", authorization=text)[0] == 401
            assert remote("GET", "clock", authorization=f"bearer {TOKEN}")[0] == 200

    def test_without_a_token_there_is_no_such_path(self) -> None:
        """A host answers as for any path that it does not know."""
        with PoolServer(MockPool.create(hosts=1, vms=0)) as server:
            assert server.control_url == ""
            unknown, _ = Remote(server.url)("GET", "../unknown")
            assert (
                [Remote(server.url)(method, "clock")[0] for method in ("GET", "PUT")]
                == [unknown, unknown]
                == [403, 403]
            )
            assert Remote(server.url)("DELETE", "faults")[0] == 501
            assert server.pool.trace is None

    @pytest.mark.parametrize("token", ["", "two words", "ümlaut", "new\nline"])
    def test_a_token_that_cannot_be_sent_is_refused(self, token: str) -> None:
        """An empty one would let everybody in."""
        with pytest.raises(ValueError, match="a control token is a text without spaces"):
            PoolServer(MockPool.create(hosts=1, vms=0), control=token)

    def test_the_token_is_in_no_log(self, caplog: pytest.LogCaptureFixture) -> None:
        """Right or wrong."""
        with caplog.at_level(logging.DEBUG), controlled() as (_, remote):
            remote("GET", "clock")
            Remote(remote.url, "another")("GET", "clock")
            remote("POST", "faults", b"{")
        assert "GET /_mockserver/clock" in caplog.text
        assert TOKEN not in caplog.text
        assert "another" not in caplog.text

    def test_every_host_answers_it_too(self) -> None:
        """And the control port answers nothing else."""
        with controlled() as (server, remote):
            for host in server.hosts():
                assert Remote(host["url"])("GET", "invariants") == (200, [])
            assert remote("GET", "../pool/xmldbdump")[0] == 404
            with pytest.raises(xenctl.TransportError):
                xenctl.connect(server.control_url, "root", "secret")

    def test_over_tls(self) -> None:
        """The control port has the first host's certificate."""
        import ssl

        with PoolServer(MockPool.create(hosts=1, vms=0), tls=True, control=TOKEN) as server:
            parts = urlsplit(server.control_url)
            assert parts.scheme == "https"
            context = ssl.create_default_context(cafile=server.cafile)
            connection = http.client.HTTPSConnection(parts.hostname or "", parts.port, timeout=10, context=context)
            connection.request("GET", "/_mockserver/invariants", headers={"authorization": f"Bearer {TOKEN}"})
            answer = connection.getresponse()
            assert (answer.status, answer.read()) == (200, b"[]\n")
            connection.close()


class TestPowers:
    """What can be done."""

    def test_time(self) -> None:
        """Advance, and run until nothing is due."""
        with controlled() as (server, remote), xenctl.connect(server.url, "root", "secret") as session:
            (vm,) = session.VM.get_by_name_label("vm01")
            before = server.pool.clock.now()
            task = session.Async.VM.clean_shutdown(vm)
            _, clock = remote("GET", "clock")
            assert clock["next"] > clock["now"]
            remote("POST", "clock", {"advance": 1})
            assert session.VM.get_power_state(vm) == "Running"
            status, later = remote("POST", "clock", {"until_idle": True})
            assert (status, later["next"]) == (200, None)
            assert later["now"] >= before + server.pool.durations.vm_shutdown
            task.wait()
            assert session.VM.get_power_state(vm) == "Halted"

    def test_the_machine_room(self) -> None:
        """Power off the only host, over the port that stays; install another release; it is back."""
        with controlled(hosts=1, release="8.1") as (server, remote):
            assert remote("POST", "hosts/host1", {"power": "off"})[1]["power"] == "off"
            with pytest.raises(ConnectError):
                xenctl.connect(server.url, "root", "secret")
            assert remote("POST", "hosts/host1", {"media": "8.2"})[1]["media"] == "8.2.0"
            remote("POST", "hosts/host1", {"power": "on"})
            remote("POST", "clock", {"until_idle": True})
            _, (host,) = remote("GET", "hosts")
            assert (host["power"], host["installer"]["identified"]) == ("installer", "8.1.0")
            assert "upgrade" in host["installer"]["offers"]
            assert host["installer"]["restores"] == ""
            assert remote("POST", f"hosts/{host['uuid']}", {"answer": "upgrade"})[1]["power"] == "installing"
            remote("POST", "clock", {"until_idle": True})
            _, host = remote("GET", "hosts/host1")
            assert (host["power"], host["release"], host["media"]) == ("running", "8.2.0", None)
            with xenctl.connect(server.url, "root", "secret") as session:
                assert len(session.host.get_all()) == 1

    def test_paths_to_storage(self) -> None:
        """Lost by a fault or by hand, found again by hand; the host tells what it does not reach."""
        with controlled() as (server, remote), xenctl.connect(server.url, "root", "secret") as session:
            (sr,) = session.SR.get_by_name_label("NFS virtual disk storage")
            uuid = session.SR.get_uuid(sr)
            fault = {
                "kind": "storage_path_lost",
                "victim": "host1",
                "sr": uuid,
                "guests": "stall",
                "method": "SR.update",
            }
            assert remote("POST", "faults", fault)[0] == 201
            with pytest.raises(xenctl.Failure, match="SR_BACKEND_FAILURE_47"):
                session.SR.update(sr)
            assert remote("GET", "hosts/host1")[1]["lost"] == [uuid]
            assert remote("POST", "hosts/host1", {"regain": uuid})[1]["lost"] == []
            session.SR.update(sr)
            assert remote("POST", "hosts/host1", {"lose": "NFS virtual disk storage"})[1]["lost"] == [uuid]

    def test_faults(self) -> None:
        """Added, told, taken back."""
        with controlled() as (server, remote), xenctl.connect(server.url, "root", "secret") as session:
            (vm,) = session.VM.get_by_name_label("vm01")
            status, added = remote("POST", "faults", {"kind": "answer_lost", "method": "VM.set_name_description"})
            assert (status, added["id"], added["fired"]) == (201, 1, 0)
            remote("POST", "faults", {"kind": "reset", "method": "VM.start", "times": None})
            with pytest.raises(ConnectionLost):
                session.VM.set_name_description(vm, "x")
            assert [f["fired"] for f in remote("GET", "faults")[1]] == [1, 0]
            assert [f["id"] for f in remote("GET", "faults?unused")[1]] == [2]
            assert remote("DELETE", "faults/1") == (200, {})
            assert remote("DELETE", "faults/1")[0] == 404
            assert remote("DELETE", "faults") == (200, {})
            assert remote("GET", "faults") == (200, [])
            assert session.VM.get_name_description(vm) == "x"

    def test_invariants(self) -> None:
        """What was broken since the start, whoever broke it."""

        class NoRenaming(Invariant):
            name, tables = "no renaming", frozenset({"VM"})

            def broken(self, pool: MockPool, writes: list[Write]) -> list[str]:
                return [f"to {w.new}" for w in writes if w.field == "name_label"]

        pool = MockPool.create(hosts=2, vms=4, release="8.2")
        pool.watch(NoRenaming())
        with PoolServer(pool, control=TOKEN, time_scale=1e-6) as server:
            remote = Remote(server.control_url)
            assert remote("GET", "invariants") == (200, [])
            with xenctl.connect(server.url, "root", "secret") as session:
                session.VM.set_name_label(session.VM.get_by_name_label("vm01")[0], "other")
            (broken,) = remote("GET", "invariants")[1]
            assert (broken["invariant"], broken["cause"], broken["text"]) == (
                "no renaming",
                "VM.set_name_label",
                "to other",
            )

    def test_the_invariants_of_every_pool_are_watched(self) -> None:
        """A guest that vanishes from its host is told."""
        with controlled() as (server, remote):
            pool = server.pool
            with pool.guard():
                vm = next(v for v in pool.store.table("VM").values() if v["name_label"] == "vm01")
                pool.end_domain(vm)
                pool.store.write(vm, resident_on=vm["resident_on"], power_state="Paused")
                pool.settle("a saboteur")
            assert [b["invariant"] for b in remote("GET", "invariants")[1]] == ["belief follows"]

    def test_power_that_is_lost_breaks_nothing(self) -> None:
        """xapi notices late what went down with a host; that is no mistake of anybody."""
        with controlled() as (server, remote):
            assert server.pool.machine("host2").domains
            for power in ("off", "on"):
                remote("POST", "hosts/host2", {"power": power})
                remote("POST", "clock", {"until_idle": True})
                assert remote("GET", "invariants") == (200, [])
            with server.pool.guard():
                server.pool.conclude()
            assert remote("GET", "invariants") == (200, [])

    def test_the_trace(self) -> None:
        """The last records as JSON lines, without secrets; it ends with the server."""
        with controlled() as (server, remote):
            with xenctl.connect(server.url, "root", "secret") as session:
                session.VM.get_all()
            _, text = remote("GET", "trace?tail=2")
            head, *records = [json.loads(line) for line in text.splitlines()]
            assert head == {"trace": 1, "dropped": 0}
            assert [r["method"] for r in records] == ["VM.get_all", "session.logout"]
            assert "OpaqueRef" not in json.dumps([r["session"] for r in records])
        assert server.pool.trace is None

    def test_savepoints(self) -> None:
        """Taken and returned to."""
        with controlled() as (server, remote), xenctl.connect(server.url, "root", "secret") as session:
            (vm,) = session.VM.get_by_name_label("vm01")
            assert remote("POST", "savepoints") == (201, {"id": 1})
            session.VM.set_name_description(vm, "new")
            assert remote("POST", "savepoints/1/rollback") == (200, {"id": 1})
            assert session.VM.get_name_description(vm) != "new"
            assert remote("POST", "savepoints/2/rollback")[0] == 404


class TestMistakes:
    """Bad input: one error that says what and where, and nothing was done."""

    @pytest.mark.parametrize(
        ("method", "path", "body", "status", "error", "where"),
        [
            ("GET", "nowhere", None, 404, "there is no such path; there are clock, faults", "GET /_mockserver/nowhere"),
            ("PUT", "clock", {}, 405, "this path answers GET, POST, not PUT", "PUT /_mockserver/clock"),
            ("POST", "clock", b"{", 400, "not JSON: ", "body"),
            ("POST", "clock", b"\xff", 400, "not JSON: ", "body"),
            ("POST", "clock", [], 400, "the body is a JSON object", "body"),
            ("POST", "clock", {}, 400, "give advance (seconds), or until_idle", "body"),
            ("POST", "clock", {"advance": 1, "until_idle": True}, 400, "give advance (seconds), or until_idle", "body"),
            ("POST", "clock", {"advance": "x"}, 400, "advance is a number of seconds from 0, not 'x'", "body.advance"),
            ("POST", "clock", b'{"advance": NaN}', 400, "advance is a number of seconds from 0", "body.advance"),
            ("POST", "clock", {"advance": 1, "limit": 2}, 400, "limit goes with until_idle", "body.limit"),
            ("POST", "clock", {"until_idle": False}, 400, "until_idle is true, not False", "body.until_idle"),
            ("POST", "clock", {"advance": 1, "back": 2}, 400, "not known here: back; this takes advance,", "body.back"),
            ("POST", "savepoints", {"x": 1}, 400, "not known here: x; this takes no body", "body.x"),
            (
                "GET",
                "hosts/host9",
                None,
                404,
                "no host 'host9' in this pool: host1, host2",
                "GET /_mockserver/hosts/host9",
            ),
            (
                "POST",
                "hosts/host1",
                {},
                400,
                "give one of power, media, answer, lose, regain and network_backend",
                "body",
            ),
            (
                "POST",
                "hosts/host1",
                {"power": "off", "media": None},
                400,
                "give one of power, media, answer, lose, regain and network_backend",
                "body",
            ),
            ("POST", "hosts/host1", {"power": None}, 400, "power is on or off, not None", "body.power"),
            ("POST", "hosts/host1", {"lose": None}, 400, "lose is a text, not None", "body.lose"),
            (
                "POST",
                "hosts/host1",
                {"lose": "nowhere"},
                400,
                "host1 is connected to no storage repository called 'nowhere'",
                "body.lose",
            ),
            ("POST", "hosts/host1", {"media": 8}, 400, "media is a text, not 8", "body.media"),
            ("POST", "hosts/host1", {"media": "99"}, 400, "", "body.media"),
            (
                "POST",
                "hosts/host1",
                {"media": "8.2", "answer_file": "x"},
                400,
                "this answer file is no XML",
                "body.media",
            ),
            (
                "POST",
                "hosts/host1",
                {"media": None, "answer_file": "x"},
                400,
                "answer_file is a text, and goes",
                "body.answer_file",
            ),
            (
                "POST",
                "hosts/host1",
                {"power": "off", "answer_file": "x"},
                400,
                "answer_file is a text, and goes",
                "body.answer_file",
            ),
            (
                "POST",
                "hosts/host1",
                {"answer": "yes"},
                400,
                "answer is upgrade, fresh or restore, not 'yes'",
                "body.answer",
            ),
            ("POST", "hosts/host1", {"answer": None}, 400, "answer is upgrade, fresh or restore", "body.answer"),
            ("POST", "hosts/host1", {"answer": "fresh"}, 409, "host1 does not show an installer", "body.answer"),
            ("POST", "hosts/host1", {"power": "on"}, 409, "host1 is on already (running)", "body.power"),
            ("POST", "media", {"url": "http://a/"}, 400, "release is a text, not None", "body.release"),
            ("POST", "media", {"url": "a", "release": "8.4"}, 400, "not a URL: 'a'", "body"),
            ("POST", "media", {"url": "http://a/", "release": "99"}, 400, "no release is called '99'", "body"),
            ("POST", "faults", {}, 400, "kind is a text", "body.kind"),
            ("POST", "faults", {"kind": "reset", "when": "x"}, 400, "a condition is a function", "body.when"),
            ("POST", "faults", {"kind": "reset", "code": "x"}, 400, "a fault 'reset' does not take code", "body"),
            ("POST", "faults", {"kind": "reset", "nth": "x"}, 400, "nth is a whole number from 1, not 'x'", "body"),
            ("POST", "faults", {"kind": "error", "code": ["x"]}, 400, "code is a text, not ['x']", "body"),
            ("GET", "faults?used", None, 400, "the query is empty, or unused", "query"),
            ("DELETE", "faults/9", None, 404, "no fault 9 in this pool", "DELETE /_mockserver/faults/9"),
            ("DELETE", "faults/x", None, 404, "'x' is no number of one", "DELETE /_mockserver/faults/x"),
            ("GET", "trace?tail=0", None, 400, "tail is a whole number from 1, not '0'", "query.tail"),
            ("GET", "trace?head=1", None, 400, "the query is empty, or tail=NUMBER", "query"),
        ],
    )
    def test_each(self, method: str, path: str, body: Any, status: int, error: str, where: str) -> None:
        """The clock stands, the hosts are as they were, no fault was added."""
        with controlled() as (server, remote):
            before = remote("GET", "hosts"), server.pool.clock.now()
            found, answer = remote(method, path, body)
            assert (found, answer["where"]) == (status, where)
            assert answer["error"].startswith(error)
            assert answer.keys() == {"error", "where"}
            assert remote("GET", "hosts") == before[0]
            assert server.pool.clock.now() - before[1] < 0.5
            assert len(server.pool.faults) == 0


def test_the_command_tells_the_url(tmp_path: Path) -> None:
    """In its ready line, the token not in it; and the control path answers."""
    command = [sys.executable, "-m", "mockserver", "--hosts", "1", "--vms", "0", "--control", TOKEN]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        line = process.stdout.readline()
        assert TOKEN not in line
        assert Remote(json.loads(line)["control"])("GET", "invariants") == (200, [])
    finally:
        process.terminate()
        assert process.communicate(timeout=10) == ("", "")


def test_the_command_refuses_a_token_that_cannot_be_sent() -> None:
    """With one sentence."""
    command = [sys.executable, "-m", "mockserver", "--hosts", "1", "--vms", "0", "--control", ""]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=30)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("mockserver: a control token is a text without spaces")


def samples() -> list[tuple[str, str]]:
    """The commands in the document, each with the answer that it shows."""
    found = []
    for block in re.findall(r"```console\n(.*?)```", DOCS.read_text(), re.DOTALL):
        for part in re.split(r"^\$ ", block, flags=re.MULTILINE)[1:]:
            command, _, answer = part.partition("\n")
            found.append((command, answer))
    return found


def test_the_documents_samples_are_as_they_stand() -> None:
    """Each request, in order, with the answer that is shown; dots stand for anything."""
    assert len(samples()) > 15
    shape = {"hosts": 3, "vms": 6, "release": "8.2"}
    with PoolServer(MockPool.create(**shape), control="s3cr3t", time_scale=1e-9) as server:  # type: ignore[arg-type]
        for command, shown in samples():
            text = command.replace("$AUTH", "Authorization: Bearer s3cr3t").replace("$CONTROL", server.control_url)
            words = iter(shlex.split(text)[1:])
            method, body, url = "", None, ""
            for word in words:
                if word == "-H":
                    name, _, value = next(words).partition(": ")
                    assert (name, value) == ("Authorization", "Bearer s3cr3t")
                elif word == "-d":
                    body = next(words).encode()
                elif word == "-X":
                    method = next(words)
                else:
                    url = word
            path = url.removeprefix(server.control_url).removeprefix("/_mockserver/")
            connection = http.client.HTTPConnection(urlsplit(url).netloc, timeout=10)
            headers = {"authorization": "Bearer s3cr3t"}
            connection.request(method or ("POST" if body else "GET"), f"/_mockserver/{path}", body, headers)
            answer = connection.getresponse().read().decode()
            connection.close()
            answer = re.sub(r"(\d{10})\.\d+", r"\1.0", answer)  # the clock moves a nanosecond a second
            pattern = ".*".join(re.escape(piece) for piece in re.split(r" ?\.\.\.\s*", shown.strip()))
            assert re.match(pattern, answer, re.DOTALL), (command, answer)


# --- guests


def test_guests_do_as_they_are_told() -> None:
    """They report, reboot, crash and halt; what cannot be is refused, and nothing done."""
    with controlled(vms=4) as (_, remote):
        assert [vm["name"] for vm in remote("GET", "vms")[1]] == ["vm01", "vm02", "vm03", "vm04"]
        _, before = remote("GET", "vms/vm01")
        assert (before["power_state"], before["runs_on"], before["domid"]) == ("Running", "host1", 1)
        _, told = remote("POST", "vms/vm01", {"report": {"networks": {"0/ip": "10.9.0.1"}}})
        assert told["agent"]["networks"] == {"0/ip": "10.9.0.1"}
        assert remote("POST", "vms/vm01", {"guest": "reboots"})[0] == 200
        remote("POST", "clock", {"advance": 300})
        assert remote("GET", f"vms/{before['uuid']}")[1]["domid"] > 1
        assert remote("POST", "vms/vm02", {"guest": "crashes"})[0] == 200
        _, off = remote("POST", "vms/vm03", {"guest": "halts"})
        assert (off["power_state"], off["runs_on"], off["domid"]) == ("Halted", None, None)
        for body, status, where in (
            ({"guest": "halts"}, 409, "body.guest"),
            ({"guest": "sings"}, 400, "body.guest"),
            ({"guest": ["halts"]}, 400, "body.guest"),
            ({"report": "x"}, 400, "body.report"),
            ({"report": {"x": "y"}}, 400, "body.report"),
            ({}, 400, "body"),
            ({"power": "off"}, 400, "body.power"),
        ):
            found, error = remote("POST", "vms/vm03", body)
            assert (found, error["where"]) == (status, where)
        status, error = remote("GET", "vms/vm9")
        assert (status, error["error"]) == (404, "no VMs are called 'vm9'; there are vm01, vm02, vm03, vm04")
