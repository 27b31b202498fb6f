"""The transport over real sockets: what is sent, what is kept, and which error says what."""

from __future__ import annotations

import datetime as dt
import io
import ipaddress
import logging
import socket
import ssl
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import requests
import responses

from xenctl.errors import ConnectError, ConnectionLost, TransportError, WaitTimeout
from xenctl.transport import HttpTransport, Request, SystemClock, origin_at, origin_of


class Host:
    """An HTTP server on a loopback address that answers as `reply` says and remembers what it got."""

    def __init__(self, reply: Callable[[BaseHTTPRequestHandler], None], context: ssl.SSLContext | None = None) -> None:
        self.connections = 0
        self.ended = threading.Event()
        self.requests: list[tuple[str, str, dict[str, str], bytes]] = []
        host = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"
            disable_nagle_algorithm = True

            def setup(self) -> None:
                host.connections += 1
                super().setup()

            def finish(self) -> None:
                host.ended.set()
                super().finish()

            def answer(self) -> None:
                body = self.rfile.read(int(self.headers.get("content-length", 0)))
                headers = {name.lower(): value for name, value in self.headers.items()}
                host.requests.append((self.command, self.path, headers, body))
                reply(self)

            do_GET = do_POST = do_PUT = answer  # noqa: N815 - as `http.server` looks for them

            def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - the base class calls it so
                """Say nothing."""

        class Server(ThreadingHTTPServer):
            daemon_threads = True
            block_on_close = False

            def handle_error(self, request: Any, client_address: Any) -> None:
                """Let it pass: clients of these tests do hang up."""

        self.server = Server(("127.0.0.1", 0), Handler)
        self.port = self.server.server_address[1]
        if context is not None:
            self.server.socket = context.wrap_socket(
                self.server.socket, server_side=True, do_handshake_on_connect=False
            )
        self.origin = f"http{'s' if context else ''}://127.0.0.1:{self.port}"

    def __enter__(self) -> Host:
        threading.Thread(target=self.server.serve_forever, args=(0.01,), daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self.server.shutdown()
        self.server.server_close()


def reply(body: bytes = b"hello", status: int = 200, **headers: str) -> Callable[[BaseHTTPRequestHandler], None]:
    """The reply of a host: `status`, `headers` (with underscores for hyphens) and `body`."""

    def write(handler: BaseHTTPRequestHandler) -> None:
        handler.send_response(status)
        for name, value in headers.items():
            handler.send_header(name.replace("_", "-"), value)
        if "content_length" not in headers:
            handler.send_header("content-length", str(len(body)))
        handler.end_headers()
        handler.wfile.write(body)

    return write


def hang_up(handler: BaseHTTPRequestHandler) -> None:
    """The reply of a host that goes away after it got the request."""
    handler.close_connection = True


def stop_half_way(handler: BaseHTTPRequestHandler) -> None:
    """The reply of a host that goes away while it answers."""
    reply(b"<methodResp", content_length="400")(handler)
    handler.close_connection = True


@contextmanager
def transport(**options: Any) -> Iterator[HttpTransport]:
    """A transport, closed at the end."""
    made = HttpTransport(**{"connect_timeout": 10, "read_timeout": 10, **options})
    try:
        yield made
    finally:
        made.close()


def post(
    sender: HttpTransport, origin: str, body: bytes = b"<call/>", path: str = "/", label: str = "VM.start"
) -> bytes:
    """Post `body` and read the whole answer."""
    return sender.send(Request(origin, "POST", path, {"content-type": "text/xml"}, body, label)).read()


@pytest.fixture(autouse=True)
def no_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let no proxy or certificate of the machine under the tests play a part."""
    for name in ("http_proxy", "https_proxy", "all_proxy", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)
    for name in ("REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def closed_port() -> int:
    """A port that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class TestRequests:
    """What goes out and comes back."""

    def test_a_request_arrives_and_its_answer_comes_back(self) -> None:
        """Method, path with query, headers and body arrive as given; the answer has its status and lower-case names."""
        with Host(reply(b"\x00answer", X_Some="thing")) as host, transport() as sender:
            answer = sender.send(Request(host.origin, "PUT", "/a%20b?c=d&e=%2F", {"x-mine": "1"}, b"\xffbody"))
            assert (answer.status, answer.headers["x-some"], answer.read()) == (200, "thing", b"\x00answer")
        ((method, path, headers, body),) = host.requests
        assert (method, path, body) == ("PUT", "/a%20b?c=d&e=%2F", b"\xffbody")
        assert (headers["x-mine"], headers["content-length"]) == ("1", "5")

    @pytest.mark.parametrize(("method", "length"), [("POST", "0"), ("PUT", "0"), ("GET", None)])
    def test_a_body_has_its_length_even_when_it_is_empty(self, method: str, length: str | None) -> None:
        """xapi refuses a call without `Content-Length`."""
        with Host(reply()) as host, transport() as sender:
            sender.send(Request(host.origin, method, "/")).read()
        assert host.requests[0][2].get("content-length") == length

    def test_no_request_takes_after_another(self) -> None:
        """Requests of one kind differ in body, headers and path, and each arrives as given."""
        sent = [
            ("/", {"x-one": "a", "x-two": "b"}, b"long body"),
            ("/", {"x-two": "a", "x-one": "b"}, b"short"),
            ("/", {"x-three": "a"}, b""),
            ("/", {}, b"\xc3\xa9"),
            ("/RPC2", {}, b"other"),
            ("/?a=b", {}, b"query"),
        ]
        with Host(reply()) as host, transport() as sender:
            for path, headers, body in sent:
                sender.send(Request(host.origin, "POST", path, headers, body)).read()
        for (path, headers, body), (_, path_seen, headers_seen, body_seen) in zip(sent, host.requests, strict=True):
            assert (path_seen, body_seen) == (path, body)
            assert {name: text for name, text in headers_seen.items() if name.startswith("x-")} == headers
            assert headers_seen["content-length"] == str(len(body))

    def test_a_connection_is_kept_for_the_next_request(self) -> None:
        """Many calls travel on one connection, also when answers are errors or streamed to their end."""
        with Host(reply(b"x" * 100_000)) as host, transport() as sender:
            for _ in range(3):
                assert len(post(sender, host.origin)) == 100_000
            answer = sender.send(Request(host.origin, "GET", "/"))
            while answer.stream.read(30_000):
                pass
            answer.stream.close()
            post(sender, host.origin)
            assert (len(host.requests), host.connections) == (5, 1)

    def test_an_answer_that_is_not_read_gives_up_its_connection(self) -> None:
        """Closing a stream before its end leaves nothing behind on which the next call would choke."""
        with Host(reply(b"x" * 100_000)) as host, transport() as sender:
            answer = sender.send(Request(host.origin, "GET", "/"))
            assert answer.stream.read(10) == b"x" * 10
            answer.stream.close()
            assert len(post(sender, host.origin)) == 100_000
            assert host.connections == 2

    def test_an_answer_is_a_stream(self) -> None:
        """The body is read as it arrives, in pieces, and works where Python expects a raw stream."""
        with Host(reply(bytes(range(256)) * 40)) as host, transport() as sender:
            answer = sender.send(Request(host.origin, "GET", "/"))
            assert answer.stream.read(3) == b"\x00\x01\x02"
            assert isinstance(answer.stream, io.RawIOBase)
            with io.BufferedReader(answer.stream) as buffered:
                assert buffered.read() == (bytes(range(256)) * 40)[3:]

    @pytest.mark.parametrize("by_proxy", [False, True])
    def test_close_closes_connections(self, by_proxy: bool, monkeypatch: pytest.MonkeyPatch) -> None:
        """A host sees the connection end at once, though an answer is still held; the next call connects anew."""
        with Host(reply()) as host, transport() as sender:
            if by_proxy:
                monkeypatch.setenv("http_proxy", host.origin)
            held = sender.send(Request(host.origin, "GET", "/"))
            held.read()
            sender.close()
            assert host.ended.wait(5)
            post(sender, host.origin)
            assert host.connections == 2

    @pytest.mark.parametrize("status", [301, 302, 307, 401, 404, 500, 502, 503])
    def test_any_status_is_an_answer(self, status: int) -> None:
        """A redirection is not followed, an error is not raised: the caller knows what either means."""
        with Host(reply(b"page", status, Location="/elsewhere")) as host, transport() as sender:
            answer = sender.send(Request(host.origin, "POST", "/", body=b"x"))
            assert (answer.status, answer.headers["location"], answer.read()) == (status, "/elsewhere", b"page")
            assert len(host.requests) == 1

    def test_requests_session_is_not_involved(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """A call goes through requests' adapter alone, which is half the price, and reads no `.netrc`."""

        def unexpected(*args: object, **options: object) -> None:
            raise AssertionError

        monkeypatch.setattr(requests.Session, "__init__", unexpected)
        monkeypatch.setattr(requests.Session, "request", unexpected)
        with Host(reply()) as host, transport() as sender:
            assert post(sender, host.origin) == b"hello"

    def test_netrc_is_not_read(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """What other programs log in with is not sent along."""
        netrc = tmp_path / "netrc"
        netrc.write_text("default login root password hunter2\n")
        monkeypatch.setenv("NETRC", str(netrc))
        with Host(reply()) as host, transport() as sender:
            post(sender, host.origin)
        assert "authorization" not in host.requests[0][2]

    def test_responses_intercepts_it(self) -> None:
        """The `responses` library answers in place of the network, as for any user of requests."""
        with responses.RequestsMock() as mocked, transport() as sender:
            mocked.post("https://10.0.0.1/", body=b"pong", headers={"X-A": "b"})
            answer = sender.send(Request("https://10.0.0.1", "POST", "/", body=b"ping"))
            assert (answer.status, answer.headers["x-a"], answer.read()) == (200, "b", b"pong")
            assert mocked.calls[0].request.body == b"ping"
            with pytest.raises(ConnectionLost, match=r"VM\.start on https://10\.0\.0\.2"):
                post(sender, "https://10.0.0.2")
            mocked.get("https://10.0.0.1/x", body=requests.ConnectTimeout())
            with pytest.raises(ConnectError, match=r"GET /x on https://10\.0\.0\.1: no connection within 10 s"):
                sender.send(Request("https://10.0.0.1", "GET", "/x"))

    def test_threads_share_a_transport(self) -> None:
        """Calls of many threads run side by side, each with its own answer."""

        def echo(handler: BaseHTTPRequestHandler) -> None:
            barrier.wait(5)
            reply(handler.path.encode())(handler)

        barrier = threading.Barrier(4)
        answers: dict[int, bytes] = {}
        with Host(echo) as host, transport() as sender:

            def call(number: int) -> None:
                for turn in range(3):
                    answers[number * 10 + turn] = post(sender, host.origin, path=f"/{number * 10 + turn}")

            threads = [threading.Thread(target=call, args=(number,)) for number in range(4)]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join(5)
            assert answers == {n * 10 + t: f"/{n * 10 + t}".encode() for n in range(4) for t in range(3)}
            assert host.connections == 4

    def test_the_clock_is_the_wall(self) -> None:
        """A real transport lives in real time."""
        with transport() as sender:
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

    def failing(self, sender: HttpTransport, origin: str, **options: Any) -> TransportError:
        """The error of a call that names the host and what was tried."""
        with pytest.raises(TransportError) as caught:
            post(sender, origin, **options)
        error = caught.value
        assert (error.host, error.method) == (origin, options.get("label", "VM.start"))
        assert str(error).startswith(f"{error.method} on {origin}: ")
        return error

    def test_a_refused_connection(self, closed_port: int) -> None:
        """Nobody listens: nothing was sent."""
        with transport() as sender:
            error = self.failing(sender, f"http://127.0.0.1:{closed_port}")
        assert type(error) is ConnectError
        assert "cannot be reached" in str(error)
        assert "refused" in str(error)

    @pytest.mark.parametrize("name", ["no-such-host.invalid", "a..b"])
    def test_an_unknown_name(self, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
        """A name that cannot be resolved: nothing was sent."""

        def unknown(*args: object, **options: object) -> None:
            raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

        monkeypatch.setattr(socket, "getaddrinfo", unknown)
        with transport() as sender:
            assert type(self.failing(sender, f"http://{name}")) is ConnectError

    def test_no_connection_in_time(self) -> None:
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
            with transport(connect_timeout=0.05) as sender:
                error = self.failing(sender, f"http://127.0.0.1:{full.getsockname()[1]}")
            for queued in waiting:
                queued.close()
        assert type(error) is ConnectError
        assert "no connection within 0.05 s: is the host up" in str(error)

    def test_a_connection_closed_before_the_answer(self) -> None:
        """The request went out: its effect is unknown, and it is not sent again."""
        with Host(hang_up) as host, transport() as sender:
            error = self.failing(sender, host.origin)
            assert type(error) is ConnectionLost
            assert "whether the call took effect is not known" in str(error)
            assert len(host.requests) == 1

    def test_a_kept_connection_closed_before_the_answer(self) -> None:
        """A connection that breaks under a later call is no reason either to send that call again."""

        def once(handler: BaseHTTPRequestHandler) -> None:
            (reply() if len(host.requests) == 1 else hang_up)(handler)

        with Host(once) as host, transport() as sender:
            assert post(sender, host.origin) == b"hello"
            assert type(self.failing(sender, host.origin)) is ConnectionLost
            assert (len(host.requests), host.connections) == (2, 1)

    @pytest.mark.parametrize("size", [-1, 4])
    def test_a_connection_closed_within_the_answer(self, size: int) -> None:
        """Half an answer is none, however it is read."""
        with Host(stop_half_way) as host, transport() as sender:
            answer = sender.send(Request(host.origin, "POST", "/", body=b"x", label="VM.start"))
            with pytest.raises(ConnectionLost, match=r"VM\.start on http.*while the answer was being read"):
                deque(iter(lambda: answer.stream.read(size), b""))

    def test_no_answer_in_time(self) -> None:
        """The request went out and no answer came: its effect is unknown."""
        over = threading.Event()

        def silent(handler: BaseHTTPRequestHandler) -> None:
            over.wait(5)

        with Host(silent) as host, transport(read_timeout=0.05) as sender:
            error = self.failing(sender, host.origin)
            over.set()
        assert type(error) is WaitTimeout
        assert "no answer within 0.05 s; the call may still take effect" in str(error)

    def test_no_rest_of_the_answer_in_time(self) -> None:
        """An answer that stops half way is waited for no longer than its beginning."""
        over = threading.Event()

        def slow(handler: BaseHTTPRequestHandler) -> None:
            reply(b"half", content_length="8")(handler)
            over.wait(5)

        with Host(slow) as host, transport(read_timeout=0.05) as sender:
            error = self.failing(sender, host.origin)
            over.set()
        assert type(error) is WaitTimeout

    def test_an_answer_that_is_not_http(self) -> None:
        """Something else than HTTP listens: the request went out."""

        def gibberish(handler: BaseHTTPRequestHandler) -> None:
            handler.wfile.write(b"SSH-2.0-OpenSSH_9\r\n")
            handler.close_connection = True

        with Host(gibberish) as host, transport() as sender:
            assert type(self.failing(sender, host.origin)) is ConnectionLost

    @pytest.mark.parametrize("scheme", ["http", "https"])
    def test_an_error_that_is_being_handled_does_not_colour_the_next(self, closed_port: int, scheme: str) -> None:
        """While a connection that could not be made is being handled, another one that broke is told as what it is."""
        with Host(hang_up) as host, Host(reply()) as plain, transport() as sender:
            try:
                post(
                    sender,
                    f"http://127.0.0.1:{closed_port}" if scheme == "http" else plain.origin.replace("http", "https"),
                )
            except ConnectError:
                error = self.failing(sender, host.origin)
            assert type(error) is ConnectionLost
            assert "without response" in str(error)

    def test_no_error_or_log_shows_the_session(self, closed_port: int, caplog: pytest.LogCaptureFixture) -> None:
        """The reference in a path stays out of errors, of what led to them, and of urllib3's log."""
        caplog.set_level(logging.DEBUG)
        path = "/pool/xmldbdump?session_id=OpaqueRef:hunter2&x=y"
        with Host(hang_up) as host, Host(stop_half_way) as half, transport() as sender:
            for origin in (host.origin, half.origin, f"http://127.0.0.1:{closed_port}", "http://a..b", "http://[::1"):
                with pytest.raises(TransportError) as caught:
                    sender.send(Request(origin, "GET", path)).read()
                error: BaseException | None = caught.value
                while error is not None:
                    assert "hunter2" not in f"{error} {error!r}"
                    error = error.__cause__ or error.__context__
        assert "/pool/xmldbdump?session_id=…&x=y" in caplog.text
        assert "hunter2" not in caplog.text


@pytest.fixture(scope="session")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A certificate that nobody vouches for, for 127.0.0.1, and its key, in one file."""
    pytest.importorskip("cryptography")
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "127.0.0.1")])
    now = dt.datetime.now(dt.timezone.utc)
    made = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(now - dt.timedelta(days=1))
        .not_valid_after(now + dt.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    path = tmp_path_factory.mktemp("tls") / "host.pem"
    path.write_bytes(
        made.public_bytes(serialization.Encoding.PEM)
        + key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )
    return path


@pytest.fixture
def secure(certificate: Path) -> Iterator[Host]:
    """A host that speaks TLS."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate)
    with Host(reply(), context) as host:
        yield host


UNVERIFIED = pytest.mark.filterwarnings("ignore:Unverified HTTPS request")


class TestTls:
    """Certificates."""

    def test_a_certificate_that_is_not_known_is_refused_with_advice(self, secure: Host) -> None:
        """Nothing is sent to a host that may be another; the text says what to do."""
        with transport() as sender, pytest.raises(ConnectError) as caught:
            post(sender, secure.origin)
        for words in (
            "VM.start on https://127.0.0.1",
            "certificate",
            "verify= with the path",
            "verify=False",
            "http://",
        ):
            assert words in str(caught.value)
        assert secure.requests == []

    def test_a_ca_file_vouches_for_the_host(self, secure: Host, certificate: Path) -> None:
        """`verify` takes the path of what the pool's certificate is signed with."""
        with transport(verify=str(certificate)) as sender:
            assert post(sender, secure.origin) == b"hello"

    @UNVERIFIED
    def test_no_check_where_none_is_wanted(self, secure: Host, monkeypatch: pytest.MonkeyPatch) -> None:
        """`verify=False` is not undone by the environment's certificates."""
        monkeypatch.setenv("REQUESTS_CA_BUNDLE", "/nonexistent/bundle.pem")
        with transport(verify=False) as sender:
            assert post(sender, secure.origin) == b"hello"

    @pytest.mark.parametrize("name", ["REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE"])
    def test_the_environments_certificates_count(
        self, secure: Host, certificate: Path, monkeypatch: pytest.MonkeyPatch, name: str
    ) -> None:
        """As with requests, the environment may name a bundle; `trust_env=False` does without."""
        monkeypatch.setenv(name, str(certificate))
        with transport() as sender:
            assert post(sender, secure.origin) == b"hello"
        with transport(trust_env=False) as sender, pytest.raises(ConnectError):
            post(sender, secure.origin)

    def test_a_ca_file_that_is_not_there(self, secure: Host) -> None:
        """A wrong path is told as such."""
        with (
            transport(verify="/nonexistent/ca.pem") as sender,
            pytest.raises(ConnectError, match=r"/nonexistent/ca\.pem"),
        ):
            post(sender, secure.origin)

    def test_a_host_that_speaks_no_tls(self) -> None:
        """A https:// URL of a plain port: nothing was sent, and the text says what to do."""
        with Host(reply()) as host, transport() as sender:
            with pytest.raises(ConnectError, match=r"a host before 7\.0 is reached with a http:// URL"):
                post(sender, host.origin.replace("http:", "https:"))
            assert host.requests == []

    @UNVERIFIED
    def test_a_tls_connection_that_breaks_after_the_call_was_sent(self, certificate: Path) -> None:
        """An error of TLS is no proof that nothing was sent."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(certificate)

        def broken(handler: BaseHTTPRequestHandler) -> None:
            plain = socket.socket(fileno=handler.connection.detach())
            plain.sendall(b"\x17\x03\x03\x00\x20" + b"\x00" * 32)  # a record that does not decrypt
            plain.shutdown(socket.SHUT_WR)
            plain.recv(1000)
            plain.close()

        with Host(broken, context) as host, transport(verify=False) as sender:
            with pytest.raises(ConnectionLost, match="whether the call took effect is not known"):
                post(sender, host.origin)
            assert len(host.requests) == 1


class TestProxies:
    """Proxies of the environment."""

    def test_they_are_used_and_resolved_once(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """The environment names a proxy when the first call is made; what changes afterwards does not matter."""
        with Host(reply(b"by proxy")) as proxy, transport() as sender:
            monkeypatch.setenv("http_proxy", proxy.origin)
            assert post(sender, "http://pool.example") == b"by proxy"
            monkeypatch.delenv("http_proxy")
            assert post(sender, "http://pool.example") == b"by proxy"
            assert [path for _, path, _, _ in proxy.requests] == ["http://pool.example/"] * 2
            assert proxy.connections == 1

    def test_some_hosts_are_excepted(self, monkeypatch: pytest.MonkeyPatch, closed_port: int) -> None:
        """`no_proxy` and `trust_env=False` lead past the proxy."""
        monkeypatch.setenv("http_proxy", f"http://127.0.0.1:{closed_port}")
        with Host(reply()) as host:
            with transport() as sender, pytest.raises(ConnectError, match="cannot be reached"):
                post(sender, host.origin)
            with transport(trust_env=False) as sender:
                assert post(sender, host.origin) == b"hello"
            monkeypatch.setenv("no_proxy", "127.0.0.1")
            with transport() as sender:
                assert post(sender, host.origin) == b"hello"

    def test_a_proxy_that_refuses_has_sent_nothing_on(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """A tunnel that the proxy does not open is a connection that was not made."""

        class Proxy(Host):
            def __init__(self) -> None:
                super().__init__(reply())
                handler: Any = self.server.RequestHandlerClass
                handler.do_CONNECT = lambda this: this.send_error(403)

        with Proxy() as proxy, transport() as sender:
            monkeypatch.setenv("https_proxy", proxy.origin)
            with pytest.raises(ConnectError, match="403"):
                post(sender, "https://pool.example")


class TestOrigins:
    """URLs as users write them, and the addresses that hosts name."""

    @pytest.mark.parametrize(
        ("url", "origin"),
        [
            ("https://10.0.0.1", "https://10.0.0.1"),
            ("http://10.0.0.1", "http://10.0.0.1"),
            ("10.0.0.1", "https://10.0.0.1"),
            ("pool.example", "https://pool.example"),
            ("HTTPS://Pool.Example", "https://pool.example"),
            ("  https://10.0.0.1\n", "https://10.0.0.1"),
            ("https://10.0.0.1/", "https://10.0.0.1"),
            ("https://10.0.0.1/RPC2", "https://10.0.0.1"),
            ("https://10.0.0.1?a=b", "https://10.0.0.1"),
            ("https://10.0.0.1#a", "https://10.0.0.1"),
            ("10.0.0.1:8443", "https://10.0.0.1:8443"),
            ("http://10.0.0.1:80/path", "http://10.0.0.1:80"),
            ("https://[2001:DB8::1]", "https://[2001:db8::1]"),
            ("https://[2001:db8::1]:8443/x", "https://[2001:db8::1]:8443"),
            ("2001:db8::1", "https://[2001:db8::1]"),
            ("http://::1/", "http://[::1]"),
            ("https://[fe80::1%eth0]", "https://[fe80::1%eth0]"),
            ("host_with_underscore", "https://host_with_underscore"),
            ("https://bücher.example", "https://bücher.example"),
        ],
    )
    def test_a_url_is_reduced_to_its_origin(self, url: str, origin: str) -> None:
        """Scheme, name and port are kept; the rest is dropped."""
        assert origin_of(url) == origin
        assert origin_of(origin) == origin

    @pytest.mark.parametrize(
        "url",
        [
            "", "   ", "https://", "https:///path", "ftp://10.0.0.1", "file:///etc/passwd", "https://a b", "https://:80",
            "https://a:", "https://a:0", "https://a:65536", "https://a:999999", "https://a:http", "https://[::1", "https://::1]",
            "https://[1.2.3.4]", "https://[]", "https://1:2:3", "https://a\\b", "https://<a>", "https://a\x00b:c",
        ],
    )  # fmt: skip
    def test_what_is_no_url_is_refused(self, url: str) -> None:
        """The text shows what was given and how it should look."""
        with pytest.raises(ValueError, match=r"^not a host's URL: .*; write it as https://ADDRESS"):
            origin_of(url)

    @pytest.mark.parametrize(
        "url", ["https://root:hunter2@10.0.0.1", "root:hunter2@10.0.0.1", "https://root:hun/ter2@10.0.0.1"]
    )
    def test_a_url_with_a_password_is_refused_without_showing_it(self, url: str) -> None:
        """Credentials belong into the call, not into the URL, and not into the message."""
        with pytest.raises(
            ValueError, match="no user name or password in it: give these to login_with_password"
        ) as caught:
            origin_of(url)
        assert "hun" not in str(caught.value)
        assert "root" not in str(caught.value)

    @pytest.mark.parametrize(
        ("origin", "address", "there"),
        [
            ("https://10.0.0.1", "10.0.0.2", "https://10.0.0.2"),
            ("http://10.0.0.1", "10.0.0.2", "http://10.0.0.2"),
            ("http://10.0.0.1:8080", "10.0.0.2", "http://10.0.0.2:8080"),
            ("http://10.0.0.1:8080", "10.0.0.2:9090", "http://10.0.0.2:9090"),
            ("https://pool.example", "2001:db8::2", "https://[2001:db8::2]"),
            ("https://pool.example:8443", "2001:db8::2", "https://[2001:db8::2]:8443"),
            ("https://[2001:db8::1]", "2001:db8::2", "https://[2001:db8::2]"),
            ("https://[2001:db8::1]:8443", "[2001:db8::2]", "https://[2001:db8::2]:8443"),
            ("https://[2001:db8::1]:8443", "[2001:db8::2]:9443", "https://[2001:db8::2]:9443"),
            ("https://[2001:db8::1]:8443", "10.0.0.2", "https://10.0.0.2:8443"),
        ],
    )
    def test_the_master_is_reached_as_the_member_was(self, origin: str, address: str, there: str) -> None:
        """A bare address takes over scheme and port; a port of its own wins."""
        assert origin_at(origin, address) == there

    @pytest.mark.parametrize("address", ["", " ", "a b", "[", "x@y"])
    def test_an_address_that_is_none_is_refused(self, address: str) -> None:
        """A server that names no usable master is not followed anywhere."""
        with pytest.raises(ValueError, match="URL"):
            origin_at("https://10.0.0.1", address)
