"""The transport over real sockets: what is sent, what is kept, and which error says what."""

from __future__ import annotations

import io
import logging
import math
import socket
import threading
import time
from collections import deque
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import requests
import responses

from mockserver import MockPool
from xenctl.errors import ConnectError, ConnectionLost, TransportError, WaitTimeout
from xenctl.transport import HttpTransport, LimitedTransport, Request, SystemClock

if TYPE_CHECKING:
    from conftest import Net

IN_CLEAR = pytest.mark.filterwarnings("ignore::xenctl.errors.CleartextWarning")


class TestRequests:
    """What goes out and comes back."""

    def test_a_request_arrives_and_its_answer_comes_back(self, net: Net) -> None:
        """Method, path with query, headers and body arrive as given; the answer has its status and lower-case names."""
        with net.host(net.reply(b"\x00answer", X_Some="thing")) as host, net.transport() as sender:
            answer = sender.send(Request(host.origin, "PUT", "/a%20b?c=d&e=%2F", {"x-mine": "1"}, b"\xffbody"))
            assert (answer.status, answer.headers["x-some"], answer.read()) == (200, "thing", b"\x00answer")
        ((method, path, headers, body),) = host.requests
        assert (method, path, body) == ("PUT", "/a%20b?c=d&e=%2F", b"\xffbody")
        assert (headers["x-mine"], headers["content-length"]) == ("1", "5")

    @pytest.mark.parametrize(("method", "length"), [("POST", "0"), ("PUT", "0"), ("GET", None)])
    def test_a_body_has_its_length_even_when_it_is_empty(self, net: Net, method: str, length: str | None) -> None:
        """xapi refuses a call without `Content-Length`."""
        with net.host(net.reply()) as host, net.transport() as sender:
            sender.send(Request(host.origin, method, "/")).read()
        assert host.requests[0][2].get("content-length") == length

    def test_no_request_takes_after_another(self, net: Net) -> None:
        """Requests of one kind differ in body, headers and path, and each arrives as given."""
        sent = [
            ("/", {"x-one": "a", "x-two": "b"}, b"long body"),
            ("/", {"x-two": "a", "x-one": "b"}, b"short"),
            ("/", {"x-three": "a"}, b""),
            ("/", {}, b"\xc3\xa9"),
            ("/RPC2", {}, b"other"),
            ("/?a=b", {}, b"query"),
        ]
        with net.host(net.reply()) as host, net.transport() as sender:
            for path, headers, body in sent:
                sender.send(Request(host.origin, "POST", path, headers, body)).read()
        for (path, headers, body), (_, path_seen, headers_seen, body_seen) in zip(sent, host.requests, strict=True):
            assert (path_seen, body_seen) == (path, body)
            assert {name: text for name, text in headers_seen.items() if name.startswith("x-")} == headers
            assert headers_seen["content-length"] == str(len(body))

    def test_a_connection_is_kept_for_the_next_request(self, net: Net) -> None:
        """Many calls travel on one connection, also when answers are errors or streamed to their end."""
        with net.host(net.reply(b"x" * 100_000)) as host, net.transport() as sender:
            for _ in range(3):
                assert len(net.post(sender, host.origin)) == 100_000
            answer = sender.send(Request(host.origin, "GET", "/"))
            while answer.stream.read(30_000):
                pass
            answer.stream.close()
            net.post(sender, host.origin)
            assert (len(host.requests), host.connections) == (5, 1)

    def test_an_answer_that_is_not_read_gives_up_its_connection(self, net: Net) -> None:
        """Closing a stream before its end leaves nothing behind on which the next call would choke."""
        with net.host(net.reply(b"x" * 100_000)) as host, net.transport() as sender:
            answer = sender.send(Request(host.origin, "GET", "/"))
            assert answer.stream.read(10) == b"x" * 10
            answer.stream.close()
            assert len(net.post(sender, host.origin)) == 100_000
            assert host.connections == 2

    def test_an_answer_is_a_stream(self, net: Net) -> None:
        """The body is read as it arrives, in pieces, and works where Python expects a raw stream."""
        with net.host(net.reply(bytes(range(256)) * 40)) as host, net.transport() as sender:
            answer = sender.send(Request(host.origin, "GET", "/"))
            assert answer.stream.read(3) == b"\x00\x01\x02"
            assert isinstance(answer.stream, io.RawIOBase)
            with io.BufferedReader(answer.stream) as buffered:
                assert buffered.read() == (bytes(range(256)) * 40)[3:]

    @pytest.mark.parametrize("by_proxy", [False, True])
    def test_close_closes_connections(self, net: Net, by_proxy: bool, monkeypatch: pytest.MonkeyPatch) -> None:
        """A host sees the connection end at once, though an answer is still held; the next call connects anew."""
        with net.host(net.reply()) as host, net.transport() as sender:
            if by_proxy:
                monkeypatch.setenv("http_proxy", host.origin)
            held = sender.send(Request(host.origin, "GET", "/"))
            held.read()
            sender.close()
            assert host.ended.wait(5)
            net.post(sender, host.origin)
            assert host.connections == 2

    @pytest.mark.parametrize("status", [301, 302, 307, 401, 404, 500, 502, 503])
    def test_any_status_is_an_answer(self, net: Net, status: int) -> None:
        """A redirection is not followed, an error is not raised: the caller knows what either means."""
        with net.host(net.reply(b"page", status, Location="/elsewhere")) as host, net.transport() as sender:
            answer = sender.send(Request(host.origin, "POST", "/", body=b"x"))
            assert (answer.status, answer.headers["location"], answer.read()) == (status, "/elsewhere", b"page")
            assert len(host.requests) == 1

    def test_requests_session_is_not_involved(self, net: Net, monkeypatch: pytest.MonkeyPatch) -> None:
        """A call goes through requests' adapter alone, which is half the price, and reads no `.netrc`."""

        def unexpected(*args: object, **options: object) -> None:
            raise AssertionError

        monkeypatch.setattr(requests.Session, "__init__", unexpected)
        monkeypatch.setattr(requests.Session, "request", unexpected)
        with net.host(net.reply()) as host, net.transport() as sender:
            assert net.post(sender, host.origin) == b"hello"

    def test_netrc_is_not_read(self, net: Net, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """What other programs log in with is not sent along."""
        netrc = tmp_path / "netrc"
        netrc.write_text("default login root password hunter2\n")
        monkeypatch.setenv("NETRC", str(netrc))
        with net.host(net.reply()) as host, net.transport() as sender:
            net.post(sender, host.origin)
        assert "authorization" not in host.requests[0][2]

    def test_responses_intercepts_it(self, net: Net) -> None:
        """The `responses` library answers in place of the network, as for any user of requests."""
        with responses.RequestsMock() as mocked, net.transport() as sender:
            mocked.post("https://10.0.0.1/", body=b"pong", headers={"X-A": "b"})
            answer = sender.send(Request("https://10.0.0.1", "POST", "/", body=b"ping"))
            assert (answer.status, answer.headers["x-a"], answer.read()) == (200, "b", b"pong")
            assert mocked.calls[0].request.body == b"ping"
            with pytest.raises(ConnectionLost, match=r"VM\.start on https://10\.0\.0\.2"):
                net.post(sender, "https://10.0.0.2")
            mocked.get("https://10.0.0.1/x", body=requests.ConnectTimeout())
            with pytest.raises(ConnectError, match=r"GET /x on https://10\.0\.0\.1: no connection within 10 s"):
                sender.send(Request("https://10.0.0.1", "GET", "/x"))

    def test_threads_share_a_transport(self, net: Net) -> None:
        """Calls of many threads run side by side, each with its own answer."""

        def echo(handler: BaseHTTPRequestHandler) -> None:
            barrier.wait(5)
            net.reply(handler.path.encode())(handler)

        barrier = threading.Barrier(4)
        answers: dict[int, bytes] = {}
        with net.host(echo) as host, net.transport() as sender:

            def call(number: int) -> None:
                for turn in range(3):
                    answers[number * 10 + turn] = net.post(sender, host.origin, path=f"/{number * 10 + turn}")

            threads = [threading.Thread(target=call, args=(number,)) for number in range(4)]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join(5)
            assert answers == {n * 10 + t: f"/{n * 10 + t}".encode() for n in range(4) for t in range(3)}
            assert host.connections == 4

    def test_it_says_how_long_it_waits(self, net: Net) -> None:
        """In seconds; a transport that does not say is taken to wait for ever."""
        with net.transport(read_timeout=45.0) as sender:
            assert sender.read_timeout == 45.0
            assert isinstance(sender, LimitedTransport)
        assert not isinstance(MockPool.create(hosts=1, vms=0).transport(), LimitedTransport)

    @pytest.mark.parametrize("seconds", [math.inf, 1e12, 1])
    def test_it_may_wait_without_limit(self, net: Net, seconds: float) -> None:
        """On a new connection and on one that was kept."""
        with (
            net.host(net.reply(b"yes")) as host,
            net.transport(read_timeout=seconds, connect_timeout=seconds) as sender,
        ):
            assert [sender.send(Request(host.origin, "POST", "/")).read() for _ in range(2)] == [b"yes", b"yes"]
            assert sender.read_timeout == seconds

    @pytest.mark.parametrize("name", ["connect_timeout", "read_timeout"])
    @pytest.mark.parametrize("seconds", [0, -1.0, math.nan, None, "1", True])
    def test_a_time_out_that_is_none(self, name: str, seconds: Any) -> None:
        """It is refused when the transport is made, not with the first request."""
        with pytest.raises(
            ValueError, match=rf"^{name} is a number of seconds, more than 0, or math\.inf for no limit"
        ):
            HttpTransport(**{name: seconds})

    def test_a_number_of_connections_that_is_none(self) -> None:
        """There is one at least."""
        with pytest.raises(ValueError, match="connections is how many are kept open to a host, 1 or more, not 0"):
            HttpTransport(connections=0)

    def test_the_clock_is_the_wall(self, net: Net) -> None:
        """A real transport lives in real time."""
        with net.transport() as sender:
            assert abs(sender.clock.now() - time.time()) < 5
            before = time.monotonic()
            sender.clock.sleep(0.02)
            assert time.monotonic() - before >= 0.02
            assert isinstance(sender.clock, SystemClock)

    def test_a_request_shows_no_secrets(self) -> None:
        """Neither path, headers nor body are in a request's text."""
        request = Request("https://h", "GET", "/x?session_id=hunter2", {"cookie": "hunter2"}, b"hunter2")
        assert "hunter2" not in repr(request)
        assert request.shown == "GET /x"
        assert Request("https://h", "POST", "/", label="VM.start").shown == "VM.start"


class TestTrouble:
    """Which error is raised: whether anything was sent decides."""

    def failing(self, net: Net, sender: HttpTransport, origin: str, **options: Any) -> TransportError:
        """The error of a call that names the host and what was tried."""
        with pytest.raises(TransportError) as caught:
            net.post(sender, origin, **options)
        error = caught.value
        assert (error.host, error.method) == (origin, options.get("label", "VM.start"))
        assert str(error).startswith(f"{error.method} on {origin}: ")
        return error

    def test_a_refused_connection(self, net: Net, closed_port: int) -> None:
        """Nobody listens: nothing was sent."""
        with net.transport() as sender:
            error = self.failing(net, sender, f"http://127.0.0.1:{closed_port}")
        assert type(error) is ConnectError
        assert str(error).endswith("cannot be reached: Connection refused; check the port, and that the host is up")

    @IN_CLEAR
    @pytest.mark.parametrize("name", ["no-such-host.invalid", "a..b"])
    def test_an_unknown_name(self, net: Net, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
        """A name that cannot be resolved: nothing was sent."""

        def unknown(*args: object, **options: object) -> None:
            raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

        monkeypatch.setattr(socket, "getaddrinfo", unknown)
        with net.transport() as sender:
            error = self.failing(net, sender, f"http://{name}")
        assert type(error) is ConnectError
        if name == "no-such-host.invalid":
            assert "cannot be reached: Name or service not known; check how the name is spelt" in str(error)

    def test_no_connection_in_time(self, net: Net) -> None:
        """A host that does not answer the first packet: nothing was sent, and the text asks after it."""
        with socket.socket() as full:
            full.bind(("127.0.0.1", 0))
            full.listen(0)
            waiting = []
            for _ in range(4):  # fills the backlog, so that the next connection stays unanswered
                queued = socket.socket()
                queued.setblocking(False)
                queued.connect_ex(full.getsockname())
                waiting.append(queued)
            with net.transport(connect_timeout=0.05) as sender:
                error = self.failing(net, sender, f"http://127.0.0.1:{full.getsockname()[1]}")
            for queued in waiting:
                queued.close()
        assert type(error) is ConnectError
        assert "no connection within 0.05 s: is the host up" in str(error)

    def test_a_connection_closed_before_the_answer(self, net: Net) -> None:
        """The request went out: its effect is unknown, and it is not sent again."""
        with net.host(net.hang_up) as host, net.transport() as sender:
            error = self.failing(net, sender, host.origin)
            assert type(error) is ConnectionLost
            assert "whether the call took effect is not known" in str(error)
            assert len(host.requests) == 1

    def test_a_kept_connection_closed_before_the_answer(self, net: Net) -> None:
        """A connection that breaks under a later call is no reason either to send that call again."""

        def once(handler: BaseHTTPRequestHandler) -> None:
            (net.reply() if len(host.requests) == 1 else net.hang_up)(handler)

        with net.host(once) as host, net.transport() as sender:
            assert net.post(sender, host.origin) == b"hello"
            assert type(self.failing(net, sender, host.origin)) is ConnectionLost
            assert (len(host.requests), host.connections) == (2, 1)

    @pytest.mark.parametrize("size", [-1, 4])
    def test_a_connection_closed_within_the_answer(self, net: Net, size: int) -> None:
        """Half an answer is none, however it is read."""
        with net.host(net.stop_half_way) as host, net.transport() as sender:
            answer = sender.send(Request(host.origin, "POST", "/", body=b"x", label="VM.start"))
            with pytest.raises(ConnectionLost, match=r"VM\.start on http.*while the answer was being read"):
                deque(iter(lambda: answer.stream.read(size), b""))

    def test_no_answer_in_time(self, net: Net) -> None:
        """The request went out and no answer came: its effect is unknown."""
        over = threading.Event()

        def silent(handler: BaseHTTPRequestHandler) -> None:
            over.wait(5)

        with net.host(silent) as host, net.transport(read_timeout=0.05) as sender:
            error = self.failing(net, sender, host.origin)
            over.set()
        assert type(error) is WaitTimeout
        assert "no answer within 0.05 s; the call may still take effect" in str(error)

    def test_no_rest_of_the_answer_in_time(self, net: Net) -> None:
        """An answer that stops half way is waited for no longer than its beginning."""
        over = threading.Event()

        def slow(handler: BaseHTTPRequestHandler) -> None:
            net.reply(b"half", content_length="8")(handler)
            over.wait(5)

        with net.host(slow) as host, net.transport(read_timeout=0.05) as sender:
            error = self.failing(net, sender, host.origin)
            over.set()
        assert type(error) is WaitTimeout

    def test_an_answer_that_is_not_http(self, net: Net) -> None:
        """Something else than HTTP listens: the request went out."""

        def gibberish(handler: BaseHTTPRequestHandler) -> None:
            handler.wfile.write(b"SSH-2.0-OpenSSH_9\r\n")
            handler.close_connection = True

        with net.host(gibberish) as host, net.transport() as sender:
            assert type(self.failing(net, sender, host.origin)) is ConnectionLost

    @pytest.mark.parametrize("scheme", ["http", "https"])
    def test_an_error_that_is_being_handled_does_not_colour_the_next(
        self, net: Net, closed_port: int, scheme: str
    ) -> None:
        """While a connection that could not be made is being handled, another one that broke is told as what it is."""
        with net.host(net.hang_up) as host, net.host(net.reply()) as plain, net.transport() as sender:
            try:
                net.post(
                    sender,
                    f"http://127.0.0.1:{closed_port}" if scheme == "http" else plain.origin.replace("http", "https"),
                )
            except ConnectError:
                error = self.failing(net, sender, host.origin)
            assert type(error) is ConnectionLost
            assert "without response" in str(error)

    @IN_CLEAR
    def test_no_error_or_log_shows_the_session(
        self, net: Net, closed_port: int, caplog: pytest.LogCaptureFixture
    ) -> None:
        """The reference in a path stays out of errors, of what led to them, and of urllib3's log."""
        caplog.set_level(logging.DEBUG)
        path = "/pool/xmldbdump?session_id=OpaqueRef:hunter2&x=y"
        with net.host(net.hang_up) as host, net.host(net.stop_half_way) as half, net.transport() as sender:
            for origin in (host.origin, half.origin, f"http://127.0.0.1:{closed_port}", "http://a..b", "http://[::1"):
                with pytest.raises(TransportError) as caught:
                    sender.send(Request(origin, "GET", path)).read()
                error: BaseException | None = caught.value
                while error is not None:
                    assert "hunter2" not in f"{error} {error!r}"
                    error = error.__cause__ or error.__context__
        assert "/pool/xmldbdump?session_id=…&x=y" in caplog.text
        assert "hunter2" not in caplog.text


class TestProxies:
    """Proxies of the environment."""

    @IN_CLEAR
    def test_they_are_used_and_resolved_once(self, net: Net, monkeypatch: pytest.MonkeyPatch) -> None:
        """The environment names a proxy when the first call is made; what changes afterwards does not matter."""
        with net.host(net.reply(b"by proxy")) as proxy, net.transport() as sender:
            monkeypatch.setenv("http_proxy", proxy.origin)
            assert net.post(sender, "http://pool.example") == b"by proxy"
            monkeypatch.delenv("http_proxy")
            assert net.post(sender, "http://pool.example") == b"by proxy"
            assert [path for _, path, _, _ in proxy.requests] == ["http://pool.example/"] * 2
            assert proxy.connections == 1

    def test_some_hosts_are_excepted(self, net: Net, monkeypatch: pytest.MonkeyPatch, closed_port: int) -> None:
        """`no_proxy` and `trust_env=False` lead past the proxy."""
        monkeypatch.setenv("http_proxy", f"http://127.0.0.1:{closed_port}")
        with net.host(net.reply()) as host:
            with net.transport() as sender, pytest.raises(ConnectError, match="cannot be reached"):
                net.post(sender, host.origin)
            with net.transport(trust_env=False) as sender:
                assert net.post(sender, host.origin) == b"hello"
            monkeypatch.setenv("no_proxy", "127.0.0.1")
            with net.transport() as sender:
                assert net.post(sender, host.origin) == b"hello"

    def test_a_proxy_that_refuses_has_sent_nothing_on(self, net: Net, monkeypatch: pytest.MonkeyPatch) -> None:
        """A tunnel that the proxy does not open is a connection that was not made."""
        proxy = net.host(net.reply())
        handler: Any = proxy.server.RequestHandlerClass
        handler.do_CONNECT = lambda this: this.send_error(403)
        with proxy, net.transport() as sender:
            monkeypatch.setenv("https_proxy", proxy.origin)
            with pytest.raises(ConnectError, match="403"):
                net.post(sender, "https://pool.example")
