"""The short way of calls on an open connection: it does what the long way does, and steps aside for those who watch."""

from __future__ import annotations

import gzip
import http.client
import logging
import socket
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler
from typing import TYPE_CHECKING, Any, BinaryIO

import pytest
import requests.adapters
import responses
import urllib3.connection
import urllib3.connectionpool
from hypothesis import given, settings
from hypothesis import strategies as st

from mockserver import MockPool, PoolServer
from xenctl.errors import TransportError
from xenctl.session import connect
from xenctl.transport import HttpTransport, Request

if TYPE_CHECKING:
    from conftest import Net

REGULAR = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nSet-Cookie: a=b\r\n\r\nok"
PLACES = [
    (requests.adapters.HTTPAdapter, "send"),
    (urllib3.connectionpool.HTTPConnectionPool, "urlopen"),
    (urllib3.connection.HTTPConnection, "request"),
    (http.client.HTTPConnection, "putrequest"),
    (http.client.HTTPConnection, "getresponse"),
]
"""Functions that programs patch to watch or replace requests."""


class Script:
    """A host that gives the first call on a connection a regular answer, and later ones what it is told to.

    It writes `pieces` one by one and hangs up, unless it is to `stay`. `seen` holds the calls, byte by byte.
    """

    def __init__(self) -> None:
        self.pieces: list[bytes] = []
        self.stay = False
        self.seen: list[bytes] = []
        self.connections = 0
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.origin = f"http://127.0.0.1:{self._listener.getsockname()[1]}"
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            self.connections += 1
            threading.Thread(target=self._serve, args=(connection,), daemon=True).start()

    def _serve(self, connection: socket.socket) -> None:
        with connection, connection.makefile("rb") as file:
            try:
                if self._read(file):
                    connection.sendall(REGULAR)
                while self._read(file):
                    for piece in self.pieces:
                        connection.sendall(piece)
                    if not self.stay:
                        return
            except OSError:
                pass

    def _read(self, file: BinaryIO) -> bool:
        head = b""
        while not head.endswith(b"\r\n\r\n"):
            line = file.readline()
            if not line:
                return False
            head += line
        length = next(int(line[15:]) for line in head.lower().split(b"\r\n") if line.startswith(b"content-length:"))
        self.seen.append(head + file.read(length))
        return True

    def close(self) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()


@pytest.fixture(scope="module")
def script() -> Iterator[Script]:
    """A host that does as it is told."""
    host = Script()
    yield host
    host.close()


def told(
    script: Script, pieces: list[bytes], *, stay: bool = False, short: bool = True, patience: float = 30.0
) -> tuple[Any, bool]:
    """What comes of a second call that is answered with `pieces`, and whether a third one goes on the same connection."""
    script.pieces, script.stay = pieces, stay
    sender = HttpTransport(connect_timeout=10, read_timeout=patience)
    outcome: Any
    with pytest.MonkeyPatch.context() as patch:
        if not short:
            real = requests.adapters.HTTPAdapter.send
            patch.setattr(requests.adapters.HTTPAdapter, "send", lambda *args, **more: real(*args, **more))
        try:
            call = Request(script.origin, "POST", "/", {"content-type": "text/xml"}, b"<call/>", "VM.start")
            assert sender.send(call).read() == b"ok"
            try:
                answer = sender.send(call)
                outcome = answer.status, dict(answer.headers), answer.read()
            except TransportError as error:
                outcome = type(error), str(error) if not stay else ""
            before = script.connections
            if stay:
                script.pieces = [REGULAR]
                assert sender.send(call).read() == b"ok"
            return outcome, stay and script.connections == before
        finally:
            sender.close()


def answer(head: bytes, body: bytes = b"", *, length: bool = True) -> bytes:
    framing = b"\r\nContent-Length: %d" % len(body) if length else b""
    return b"HTTP/1.1 " + head.replace(b"\n", b"\r\n") + framing + b"\r\n\r\n" + body


LARGE = bytes(range(256)) * 1000
WHOLE: dict[str, tuple[list[bytes], bool]] = {
    "small": ([answer(b"200 OK\nX-A:  b \nContent-Type: text/xml", b"<ok/>")], True),
    "empty": ([answer(b"200 OK")], True),
    "no reason": ([answer(b"200", b"x")], True),
    "in pieces": ([bytes([byte]) for byte in answer(b"200 OK\nX-A: b", b"<ok/>")], True),
    "head and body apart": ([answer(b"200 OK", b"<ok/>")[:-5], b"<ok/>"], True),
    "large": ([answer(b"200 OK", LARGE)], True),
    "kept by name": ([answer(b"200 OK\nConnection: Keep-Alive", b"x")], True),
    "closed by name": ([answer(b"200 OK\nConnection: close", b"x")], False),
    "chunked": (
        [answer(b"200 OK\nTransfer-Encoding: chunked", length=False) + b"3\r\nabc\r\n2\r\nde\r\n0\r\n\r\n"],
        True,
    ),
    "compressed": ([answer(b"200 OK\nContent-Encoding: gzip", gzip.compress(b"<ok/>" * 100))], True),
    "a redirection": ([answer(b"302 Found\nLocation: http://elsewhere/", b"moved")], True),
    "an error": ([answer(b"500 Oh no", b"<html>")], True),
    "no content": ([answer(b"204 No Content", length=False)], True),
    "not modified": ([answer(b"304 Not Modified", length=False)], True),
    "go on first": ([b"HTTP/1.1 100 Continue\r\n\r\n", answer(b"200 OK", b"x")], True),
    "a header twice": ([answer(b"200 OK\nX-A: b\nX-A: c", b"x")], True),
    "a folded header": ([answer(b"200 OK\nX-A: b\n c", b"x")], True),
    "beyond ASCII": ([answer("200 Öh\nX-A: grün".encode("latin-1"), b"x")], True),
    "bare line ends": ([answer(b"200 OK\nX-A: b", b"x").replace(b"\r\n", b"\n")], True),
    "of old": ([answer(b"200 OK", b"x").replace(b"1.1", b"1.0")], False),
    "a length in words": ([answer(b"200 OK\nContent-Length: one", b"x", length=False)], False),
}
BROKEN: dict[str, list[bytes]] = {
    "nothing": [],
    "half a body": [answer(b"200 OK", b"<ok/>")[:-2]],
    "half a large body": [answer(b"200 OK", LARGE)[:-2]],
    "half a chunk": [answer(b"200 OK\nTransfer-Encoding: chunked", length=False) + b"3\r\nab"],
    "not HTTP": [b"SSH-2.0-OpenSSH_9\r\n\r\n"],
    "no status": [b"HTTP/1.1 OK\r\nContent-Length: 1\r\n\r\nx"],
    "a head without end": [b"HTTP/1.1 200 OK\r\nX-A: " + b"b" * 200_000],
    "more headers than there can be": [answer(b"200 OK" + b"".join(b"\nX-%d: a" % n for n in range(5000)), b"x")],
    "no gzip": [answer(b"200 OK\nContent-Encoding: gzip", b"<ok/>")],
}
STOPPED = {
    "half a head": [answer(b"200 OK\nX-A: b", b"x")[:20]],
    **{name: pieces for name, pieces in BROKEN.items() if name.startswith(("nothing", "half"))},
}


class TestSameAsTheLongWay:
    """Every answer, whole or broken, comes to the same on either way."""

    @pytest.mark.parametrize("name", WHOLE)
    def test_whole_answers(self, script: Script, name: str) -> None:
        """Status, headers and body; and the connection serves the next call, or does not, as the answer says."""
        pieces, stays = WHOLE[name]
        if stays:
            assert told(script, pieces, stay=True) == told(script, pieces, stay=True, short=False)
            outcome, kept = told(script, pieces, stay=True)
            assert kept
        else:
            outcome, _ = told(script, pieces)
        assert isinstance(outcome[0], int)
        assert told(script, pieces) == told(script, pieces, short=False)

    @pytest.mark.parametrize("name", BROKEN)
    def test_broken_answers(self, script: Script, name: str) -> None:
        """Each is the same error in the same words, and whether the call took effect is not known."""
        outcome, _ = told(script, BROKEN[name])
        assert (outcome, False) == told(script, BROKEN[name], short=False)
        assert "whether the call took effect is not known" in outcome[1]

    @pytest.mark.parametrize("name", STOPPED)
    def test_answers_that_stop(self, script: Script, name: str) -> None:
        """A host that stays and says no more is waited for as long as was allowed; its connection is given up."""
        outcome, kept = told(script, STOPPED[name], stay=True, patience=0.5)
        assert (outcome, kept) == told(script, STOPPED[name], stay=True, short=False, patience=0.5)
        assert outcome[0].__name__ == "WaitTimeout"
        assert not kept

    def test_more_than_was_asked_for(self, script: Script) -> None:
        """What comes behind an answer is not taken for the next one's: the connection is given up."""
        outcome, kept = told(script, [answer(b"200 OK", b"mine") + answer(b"200 OK", b"not mine")], stay=True)
        assert outcome[2] == b"mine"
        assert not kept

    @settings(max_examples=150)
    @given(data=st.data())
    def test_mutated_answers(self, script: Script, data: st.DataObject) -> None:
        """Bytes that are cut, doubled or changed at random come to the same on either way."""
        names = [name for name in WHOLE if name not in ("in pieces", "large")]
        text = bytearray(b"".join(WHOLE[data.draw(st.sampled_from(names))][0]))
        for _ in range(data.draw(st.integers(1, 3))):
            at = data.draw(st.integers(0, len(text) - 1))
            new = data.draw(st.sampled_from([b"", b"\r\n", b"\n", b":", b" ", b"9", b"\0", b"\xff", bytes(text[at:])]))
            text[at : at + data.draw(st.integers(0, 3))] = new
            text = text or bytearray(b"\n")
        assert told(script, [bytes(text)]) == told(script, [bytes(text)], short=False)

    @pytest.mark.parametrize("proxied", [False, True])
    @pytest.mark.parametrize("headers", [{}, {"content-type": "text/xml", "user-agent": "xenctl", "Host": "other"}])
    @pytest.mark.parametrize("body", [b"", b"<call/>", b"x" * 300_000])
    def test_what_is_sent(
        self, script: Script, headers: dict[str, str], body: bytes, proxied: bool, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """The second call is the first one over again, byte by byte, to the host or by way of a proxy with a password."""
        script.pieces, script.stay = [REGULAR], True
        origin = script.origin
        if proxied:
            monkeypatch.setenv("http_proxy", script.origin.replace("//", "//me:hunter2@"))
            origin = "http://pool.localhost"
        sender = HttpTransport()
        script.seen.clear()
        before = script.connections
        for _ in range(3):
            sender.send(Request(origin, "POST", "/a%20b", headers, body)).read()
        sender.close()
        first, second, third = script.seen
        assert first == second == third
        assert script.connections == before + 1
        assert (b"Proxy-Authorization: Basic " in first) is proxied
        assert first.endswith(b"\r\n\r\n" + body)


class TestConnections:
    """When the short way is taken, and when it is not."""

    def test_only_the_first_call_goes_the_long_way(self, net: Net) -> None:
        """urllib3 logs requests that it makes; later calls are not among them, later downloads are."""
        with net.host(net.reply()) as host, net.transport() as sender:
            urllib3_log = logging.getLogger("urllib3.connectionpool")
            seen: list[str] = []

            def note(record: logging.LogRecord) -> bool:
                seen.append(record.getMessage())
                return True

            urllib3_log.addFilter(note)
            level = urllib3_log.level
            urllib3_log.setLevel(logging.DEBUG)
            try:
                for _ in range(3):
                    net.post(sender, host.origin)
                sender.send(Request(host.origin, "GET", "/")).read()
            finally:
                urllib3_log.removeFilter(note)
                urllib3_log.setLevel(level)
            assert [text.split('"')[1] for text in seen if '"' in text] == ["POST / HTTP/1.1", "GET / HTTP/1.1"]
            assert (len(host.requests), host.connections) == (4, 1)

    def test_a_host_that_hung_up_in_between_is_called_anew(self, net: Net) -> None:
        """It is noticed before anything is sent, so nothing is sent twice and nothing is lost."""

        def once(handler: BaseHTTPRequestHandler) -> None:
            net.reply()(handler)
            handler.close_connection = True

        with net.host(once) as host, net.transport() as sender:
            for count in (1, 2, 3):
                host.ended.clear()
                assert net.post(sender, host.origin) == b"hello"
                assert host.ended.wait(5)
                assert (len(host.requests), host.connections) == (count, count)

    def test_a_large_answer_that_is_not_read_gives_up_its_connection(self, net: Net) -> None:
        """The next call goes on another one, and gets its own answer."""
        with net.host(net.reply(b"x" * 1_000_000)) as host, net.transport() as sender:
            net.post(sender, host.origin)
            held = sender.send(Request(host.origin, "POST", "/", {"content-type": "text/xml"}, b"<call/>"))
            assert held.stream.read(10) == b"x" * 10
            assert len(net.post(sender, host.origin)) == 1_000_000
            assert host.connections == 2
            held.stream.close()
            assert len(net.post(sender, host.origin)) == 1_000_000

    @pytest.mark.parametrize("place", PLACES, ids=lambda place: f"{place[0].__name__}.{place[1]}")
    def test_who_watches_requests_sees_every_call(
        self, net: Net, monkeypatch: pytest.MonkeyPatch, place: tuple[type, str]
    ) -> None:
        """While one of the functions that others patch is patched, calls pass through it as they did before."""
        owner, name = place
        real, seen = getattr(owner, name), []

        def watched(*args: Any, **options: Any) -> Any:
            seen.append(name)
            return real(*args, **options)

        with net.host(net.reply()) as host, net.transport() as sender:
            net.post(sender, host.origin)
            with monkeypatch.context() as patch:
                patch.setattr(owner, name, watched)
                for _ in range(2):
                    net.post(sender, host.origin)
                    assert name in seen
                    seen.clear()
            net.post(sender, host.origin)
            assert not seen
            assert host.connections == 1

    def test_responses_answers_in_place_of_a_host_that_is_connected(self, net: Net) -> None:
        """The library is switched on while a connection is open, and off again."""
        with net.host(net.reply()) as host, net.transport() as sender:
            assert net.post(sender, host.origin) == b"hello"
            assert net.post(sender, host.origin) == b"hello"
            with responses.RequestsMock() as mocked:
                mocked.post(host.origin + "/", body=b"mocked")
                assert net.post(sender, host.origin) == b"mocked"
            assert net.post(sender, host.origin) == b"hello"
            assert (len(host.requests), host.connections) == (3, 1)


class TestLogs:
    """What the layers say about their work."""

    def test_no_log_shows_a_secret(self, caplog: pytest.LogCaptureFixture) -> None:
        """Neither password nor session is in any record of any logger at DEBUG, over all ways of the network."""
        caplog.set_level(logging.DEBUG)
        pool = MockPool.create(hosts=1, vms=1, release="8.2", password="hunter2")
        with PoolServer(pool) as server:
            session = connect(server.url, "root", "hunter2")
            ref = str(session.ref)
            for _ in range(2):
                session.VM.get_all_records()
                session.fetch("/pool/xmldbdump").read()
            session.logout()
            session.transport.close()
        assert {"xenctl.transport", "xenctl.channel", "urllib3.connectionpool"} <= {r.name for r in caplog.records}
        for record in caplog.records:
            if record.name.startswith("mockserver"):
                continue  # the fake shows whole request lines, and nobody's password depends on it
            told = f"{record.getMessage()} {record.args!r} {record.exc_text}"
            assert "hunter2" not in told
            assert ref not in told

    def test_a_request_is_one_line(self, net: Net, caplog: pytest.LogCaptureFixture) -> None:
        """Method, host, status and duration, on the transport's own logger, whichever way the request went."""
        caplog.set_level(logging.DEBUG, "xenctl.transport")
        with net.host(net.reply()) as host, net.transport() as sender:
            net.post(sender, host.origin)
            net.post(sender, host.origin)
            sender.send(Request(host.origin, "GET", "/a?session_id=hunter2")).read()
        lines = [record.getMessage() for record in caplog.records if record.name == "xenctl.transport"]
        assert [line.rpartition(", ")[0] for line in lines] == [
            f"{what} on {host.origin}: HTTP 200" for what in ("VM.start", "VM.start", "GET /a")
        ]
        assert all(line.endswith(" s") for line in lines)
