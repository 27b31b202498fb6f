"""Hosts on loopback, with and without TLS, and certificates for them that are made on the spot."""

from __future__ import annotations

import datetime as dt
import ipaddress
import socket
import ssl
import threading
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from xenctl.transport import HttpTransport, Request


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

            def shutdown_request(self, request: Any) -> None:
                """Tell that a connection ended once its client can see it."""
                super().shutdown_request(request)
                host.ended.set()

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


class Net:
    """What tests of the transport are made of."""

    host = Host

    @staticmethod
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

    @staticmethod
    def hang_up(handler: BaseHTTPRequestHandler) -> None:
        """The reply of a host that goes away after it got the request."""
        handler.close_connection = True

    @staticmethod
    def stop_half_way(handler: BaseHTTPRequestHandler) -> None:
        """The reply of a host that goes away while it answers."""
        Net.reply(b"<methodResp", content_length="400")(handler)
        handler.close_connection = True

    @staticmethod
    @contextmanager
    @staticmethod
    def transport(**options: Any) -> Iterator[HttpTransport]:
        """A transport, closed at the end."""
        made = HttpTransport(**{"connect_timeout": 10, "read_timeout": 10, **options})
        try:
            yield made
        finally:
            made.close()

    @staticmethod
    def post(
        sender: HttpTransport, origin: str, body: bytes = b"<call/>", path: str = "/", label: str = "VM.start"
    ) -> bytes:
        """Post `body` and read the whole answer."""
        return sender.send(Request(origin, "POST", path, {"content-type": "text/xml"}, body, label)).read()


@pytest.fixture
def net() -> type[Net]:
    """Hosts, their replies, and transports that speak to them."""
    return Net


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


@dataclass(frozen=True)
class Certificate:
    """A certificate and its key, in one file; `fingerprint` is its SHA-256, as `openssl x509` prints it."""

    path: Path
    fingerprint: str

    def context(self, *, weak: bool = False, old: bool = False) -> ssl.SSLContext:
        """A server's side of TLS; `weak` allows short keys; `old` is that of a host before 7.0, which ends at TLS 1.0."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        if weak or old:
            context.set_ciphers("DEFAULT:@SECLEVEL=0")
        if old:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", DeprecationWarning)
                context.minimum_version = context.maximum_version = ssl.TLSVersion.TLSv1
        context.load_cert_chain(self.path)
        return context


@pytest.fixture(scope="session")
def forge(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Certificate]:
    """Makes certificates: for the names or addresses that it is given, signed by `issuer` or by themselves, with a key on a
    curve or, where `bits` says how long, of RSA."""
    pytest.importorskip("cryptography", reason="no certificates can be made: cryptography is not installed")
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec, rsa

    def alternative(name: str) -> x509.GeneralName:
        try:
            return x509.IPAddress(ipaddress.ip_address(name))
        except ValueError:
            return x509.DNSName(name)

    def make(*names: str, issuer: Certificate | None = None, bits: int = 0) -> Certificate:
        key = rsa.generate_private_key(65537, bits) if bits else ec.generate_private_key(ec.SECP256R1())
        subject = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, names[0])])
        signed_by, signing_key = subject, key
        if issuer is not None:
            text = issuer.path.read_bytes()
            signed_by = x509.load_pem_x509_certificate(text).subject
            signing_key = serialization.load_pem_private_key(text, None)
        now = dt.datetime.now(dt.timezone.utc)
        made = (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(signed_by)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - dt.timedelta(days=1))
            .not_valid_after(now + dt.timedelta(days=1))
            .add_extension(x509.SubjectAlternativeName([alternative(name) for name in names]), critical=False)
            .add_extension(x509.BasicConstraints(ca=issuer is None, path_length=None), critical=True)
            .sign(signing_key, hashes.SHA256())
        )
        path = tmp_path_factory.mktemp("tls") / "host.pem"
        form = serialization.PrivateFormat.PKCS8
        path.write_bytes(
            made.public_bytes(serialization.Encoding.PEM)
            + key.private_bytes(serialization.Encoding.PEM, form, serialization.NoEncryption())
        )
        return Certificate(path, made.fingerprint(hashes.SHA256()).hex(":").upper())

    return make


@pytest.fixture(scope="session")
def certificate(forge: Callable[..., Certificate]) -> Certificate:
    """A certificate for 127.0.0.1 that nobody vouches for."""
    return forge("127.0.0.1")


@pytest.fixture
def secure(certificate: Certificate) -> Iterator[Host]:
    """A host that speaks TLS."""
    with Host(Net.reply(), certificate.context()) as host:
        yield host
