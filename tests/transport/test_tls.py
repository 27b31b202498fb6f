"""TLS over real sockets: which hosts are spoken to, how old they may be, and what is said to those who cannot."""

from __future__ import annotations

import socket
import ssl
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from xenctl.errors import CleartextWarning, ConnectError, ConnectionLost
from xenctl.session import Session
from xenctl.tls import explained, fingerprint_of
from xenctl.transport import HttpTransport

if TYPE_CHECKING:
    from conftest import Certificate, Host, Net

    Forge = Callable[..., Certificate]

UNVERIFIED = pytest.mark.filterwarnings("ignore:Unverified HTTPS request")
OTHER = "ab" * 32
"""A fingerprint that no certificate here has."""


def refused(net: Net, sender: HttpTransport, host: Host) -> str:
    """Why a call was not even sent; it was not."""
    before = len(host.requests)
    with pytest.raises(ConnectError) as caught:
        net.post(sender, host.origin)
    assert len(host.requests) == before
    assert str(caught.value).startswith(f"VM.start on {host.origin}: ")
    return str(caught.value)


class TestAuthorities:
    """Certificates that somebody vouches for."""

    def test_a_certificate_that_nobody_vouches_for(self, net: Net, secure: Host) -> None:
        """Nothing is sent to a host that may be another; the text says why and names each way out."""
        with net.transport() as sender:
            text = refused(net, sender, secure)
        for words in (
            "its certificate is not trusted (self",
            "verify= with the path of the pool's CA file",
            "fingerprint= with what `openssl x509 -noout -fingerprint -sha256",
            "verify=False",
        ):
            assert words in text

    def test_a_ca_file_vouches_for_the_hosts_that_it_signed(self, net: Net, forge: Forge) -> None:
        """`verify` takes the CA's certificate, and refuses what another one signed."""
        ca, other = forge("the pool's CA"), forge("another CA")
        with net.host(net.reply(), forge("127.0.0.1", issuer=ca).context()) as host:
            with net.transport(verify=str(ca.path)) as sender:
                assert net.post(sender, host.origin) == b"hello"
            with net.transport(verify=str(other.path)) as sender:
                assert "is not trusted" in refused(net, sender, host)

    def test_a_hosts_own_certificate_serves_as_ca_file(self, net: Net, forge: Forge) -> None:
        """A file with the host's certificate vouches for it, though a CA signed it that is not in the file."""
        mine = forge("127.0.0.1", issuer=forge("the pool's CA"))
        with net.host(net.reply(), mine.context()) as host, net.transport(verify=str(mine.path)) as sender:
            assert net.post(sender, host.origin) == b"hello"

    def test_a_certificate_for_another_name(self, net: Net, forge: Forge) -> None:
        """A CA that is trusted does not make one host another; the text tells this from a CA that is not."""
        ca = forge("the pool's CA")
        named = forge("xs1.example", issuer=ca)
        with net.host(net.reply(), named.context()) as host:
            with net.transport(verify=str(ca.path)) as sender:
                text = refused(net, sender, host)
            assert "made out to another name (" in text
            assert "fingerprint=" in text
            with net.transport(fingerprint=named.fingerprint) as sender:
                assert net.post(sender, host.origin) == b"hello"

    @UNVERIFIED
    def test_no_check_where_none_is_wanted(
        self, net: Net, secure: Host, certificate: Certificate, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """`verify=False` is not undone by the environment's certificates, be they there or not."""
        for bundle in ("/nonexistent/bundle.pem", str(certificate.path)):
            monkeypatch.setenv("REQUESTS_CA_BUNDLE", bundle)
            with net.transport(verify=False) as sender, net.host(net.reply(), certificate.context()) as host:
                assert net.post(sender, host.origin) == b"hello"

    @pytest.mark.parametrize("name", ["REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE"])
    def test_the_environments_certificates_count(
        self, net: Net, secure: Host, certificate: Certificate, monkeypatch: pytest.MonkeyPatch, name: str
    ) -> None:
        """As with requests, the environment may name a bundle; `trust_env=False` does without."""
        monkeypatch.setenv(name, str(certificate.path))
        with net.transport() as sender:
            assert net.post(sender, secure.origin) == b"hello"
        with net.transport(trust_env=False) as sender:
            assert "is not trusted" in refused(net, sender, secure)

    def test_a_ca_file_that_cannot_be_used(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """A wrong path, and a file that holds something else, are told when the transport or session is made."""
        words = tmp_path / "words.pem"
        words.write_text("no certificate\n")
        broken = tmp_path / "broken.pem"
        broken.write_text("-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n")
        for path, why in (
            (str(tmp_path / "none.pem"), "cannot be read: No such file"),
            ("", "cannot be read: No such file"),
            (str(words), "holds no certificates in PEM form"),
            (str(broken), "holds no certificates in PEM form"),
        ):
            with pytest.raises(ValueError, match=why) as caught:
                HttpTransport(verify=path)
            assert str(caught.value).startswith("verify: ")
            assert repr(path) in str(caught.value)
        with pytest.raises(ValueError, match="holds no certificates"):
            Session("https://10.0.0.1", verify=str(words))
        with pytest.raises(TypeError, match="verify is True, False or the path of a CA file, not a PosixPath"):
            HttpTransport(verify=words)  # type: ignore[arg-type]
        monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(words))
        with pytest.raises(ValueError, match=r"^REQUESTS_CA_BUNDLE: .*holds no certificates"):
            HttpTransport()

    def test_a_folder_of_certificates(self, net: Net, secure: Host, tmp_path: Path) -> None:
        """`verify` takes what OpenSSL calls a CA path too; an empty one vouches for nobody."""
        with net.transport(verify=str(tmp_path)) as sender:
            assert "is not trusted" in refused(net, sender, secure)

    def test_connections_are_kept(self, net: Net, secure: Host, certificate: Certificate) -> None:
        """Calls over TLS travel on one connection, whatever the size of their answers."""
        with net.transport(verify=str(certificate.path)) as sender:
            for _ in range(5):
                assert net.post(sender, secure.origin, body=b"x" * 40_000) == b"hello"
        assert (len(secure.requests), secure.connections) == (5, 1)

    @UNVERIFIED
    def test_a_connection_that_breaks_after_the_call_was_sent(self, net: Net, certificate: Certificate) -> None:
        """An error of TLS is no proof that nothing was sent, on a new connection or on one that was kept."""

        def broken(handler: BaseHTTPRequestHandler) -> None:
            if len(host.requests) == 2:
                return net.reply()(handler)
            plain = socket.socket(fileno=handler.connection.detach())
            plain.sendall(b"\x17\x03\x03\x00\x20" + b"\x00" * 32)  # a record that does not decrypt
            plain.shutdown(socket.SHUT_WR)
            plain.recv(1000)
            # The handler's TLS would read on from this descriptor, which is the next connection's by then.
            handler.close_connection = True
            plain.close()
            return None

        with net.host(broken, certificate.context()) as host, net.transport(verify=False) as sender:
            for count in (1, 3):
                with pytest.raises(ConnectionLost, match="whether the call took effect is not known"):
                    net.post(sender, host.origin)
                assert len(host.requests) == count
                if count == 1:
                    net.post(sender, host.origin)


class TestFingerprints:
    """Hosts that are known by their certificate."""

    @pytest.mark.parametrize(
        "spelled",
        [
            lambda text: text,
            lambda text: text.replace(":", "").lower(),
            lambda text: f"sha256:{text}",
            lambda text: f"SHA-256:{text.lower()}",
            lambda text: f" {text}\n",
        ],
    )
    def test_it_stands_in_for_ca_and_name(
        self, net: Net, forge: Forge, monkeypatch: pytest.MonkeyPatch, spelled: Callable[[str], str]
    ) -> None:
        """It is taken as `openssl x509` prints it, with and without colons and prefix; no CA has a say."""
        monkeypatch.setenv("REQUESTS_CA_BUNDLE", "/nonexistent/bundle.pem")
        mine = forge("some.other.name")
        for options in ({}, {"verify": False}):
            with (
                net.host(net.reply(), mine.context()) as host,
                net.transport(fingerprint=spelled(mine.fingerprint), **options) as sender,
            ):
                assert net.post(sender, host.origin) == b"hello"
                assert net.post(sender, host.origin) == b"hello"
                assert host.connections == 1

    def test_another_certificate_is_refused(self, net: Net, secure: Host, certificate: Certificate) -> None:
        """Nothing is sent; the text has what was expected and what was found, and no advice to take it blindly."""
        for options in ({}, {"verify": False}):
            with net.transport(fingerprint=OTHER, **options) as sender:
                text = refused(net, sender, secure)
            assert f"expected sha256:{OTHER}, found sha256:{fingerprint_of(certificate.fingerprint)}" in text
            assert "only where it is the same" in text
            assert "verify=False" not in text

    def test_a_trusted_certificate_is_refused_too(
        self, net: Net, secure: Host, certificate: Certificate, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """A CA that would vouch for the host does not help where a fingerprint was given."""
        monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(certificate.path))
        with net.transport(fingerprint=OTHER) as sender:
            assert "another fingerprint" in refused(net, sender, secure)

    @pytest.mark.parametrize(
        "text", ["ab", "g" * 64, "ab" * 20, "sha1:" + "ab" * 20, "md5:" + "ab" * 32, ":".join(["a"] * 64)]
    )
    def test_what_is_no_fingerprint(self, net: Net, text: str) -> None:
        """The text says which form is meant; a SHA-1 is not enough."""
        words = "^not a certificate's fingerprint: .*; write the SHA-256 of the certificate as 64 hexadecimal digits"
        with pytest.raises(ValueError, match=words):
            HttpTransport(fingerprint=text)
        with net.transport() as sender, pytest.raises(ValueError, match=words):
            sender.pin("https://10.0.0.1", text)

    def test_a_ca_file_beside_it_is_refused(self, certificate: Certificate) -> None:
        """Two answers to one question are an error, not a choice that is made in silence."""
        with pytest.raises(ValueError, match="the fingerprint stands in for the CA"):
            HttpTransport(verify=str(certificate.path), fingerprint=certificate.fingerprint)


class TestPins:
    """Single hosts whose certificate was named by somebody who is trusted."""

    def test_a_pinned_host_is_taken_by_its_certificate_alone(self, net: Net, forge: Forge) -> None:
        """Its name and its CA need not be known; other hosts are checked as before."""
        master, member = forge("master"), forge("member")
        with (
            net.host(net.reply(), master.context()) as there,
            net.host(net.reply(), member.context()) as elsewhere,
            net.transport() as sender,
        ):
            refused(net, sender, there)
            sender.pin(there.origin, master.fingerprint)
            assert net.post(sender, there.origin) == b"hello"
            assert "is not trusted" in refused(net, sender, elsewhere)

    def test_it_overrides_the_fingerprint_of_all(self, net: Net, forge: Forge) -> None:
        """A member is reached by the fingerprint that was given, the master by the one that the member named."""
        master, member = forge("master"), forge("member")
        with (
            net.host(net.reply(), master.context()) as there,
            net.host(net.reply(), member.context()) as here,
            net.transport(fingerprint=member.fingerprint) as sender,
        ):
            assert net.post(sender, here.origin) == b"hello"
            assert "another fingerprint" in refused(net, sender, there)
            sender.pin(there.origin, master.fingerprint)
            assert net.post(sender, there.origin) == b"hello"
            assert net.post(sender, here.origin) == b"hello"

    def test_it_holds_from_now_on(self, net: Net, secure: Host, certificate: Certificate) -> None:
        """A connection that was made before is given up; the same pin again changes nothing; a new one counts at once."""
        with net.transport(verify=str(certificate.path)) as sender:
            assert net.post(sender, secure.origin) == b"hello"
            sender.pin(secure.origin, OTHER)
            assert secure.ended.wait(5)
            assert "another fingerprint" in refused(net, sender, secure)
            sender.pin(secure.origin, certificate.fingerprint)
            assert net.post(sender, secure.origin) == b"hello"
            before = secure.connections
            sender.pin(secure.origin, "sha256:" + certificate.fingerprint.lower())
            assert net.post(sender, secure.origin) == b"hello"
            assert secure.connections == before
            sender.pin(secure.origin, OTHER)
            refused(net, sender, secure)
            sender.pin(secure.origin, certificate.fingerprint)
            assert net.post(sender, secure.origin) == b"hello"

    def test_it_holds_however_the_host_is_spelled(
        self, net: Net, secure: Host, certificate: Certificate, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Capitals, a path, and a name beyond ASCII lead to the same pin."""
        real = socket.getaddrinfo
        monkeypatch.setattr(socket, "getaddrinfo", lambda host, *rest, **more: real("127.0.0.1", *rest, **more))
        with net.transport(verify=str(certificate.path)) as sender:
            origin = f"https://bücher.example:{secure.port}"
            sender.pin(f"HTTPS://BÜCHER.example:{secure.port}/path", certificate.fingerprint)
            assert net.post(sender, origin) == b"hello"

    @pytest.mark.parametrize("origin", ["http://10.0.0.1", "https://a b"])
    def test_what_cannot_be_pinned(self, net: Net, origin: str) -> None:
        """A host without TLS shows no certificate."""
        with net.transport() as sender, pytest.raises(ValueError, match=r"can be pinned|not a host's URL"):
            sender.pin(origin, OTHER)


@pytest.fixture
def old(net: Net, forge: Forge) -> Iterator[tuple[Host, Certificate]]:
    """A host as before 7.0: TLS 1.0 alone, and an RSA key of 1024 bits."""
    certificate = forge("127.0.0.1", bits=1024)
    context = certificate.context(old=True)
    if not speaks(context):
        pytest.skip(f"{ssl.OPENSSL_VERSION} cannot speak TLS 1.0 at all, not even at security level 0")
    with net.host(net.reply(), context) as host:
        yield host, certificate


def speaks(server: ssl.SSLContext) -> bool:
    """Whether a handshake with `server` can succeed in this build of OpenSSL, whatever the client's settings."""
    client = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    client.check_hostname, client.verify_mode = False, ssl.CERT_NONE
    client.minimum_version = ssl.TLSVersion.MINIMUM_SUPPORTED
    client.set_ciphers("DEFAULT:@SECLEVEL=0")
    pipes = [ssl.MemoryBIO(), ssl.MemoryBIO()]
    sides = [client.wrap_bio(*pipes), server.wrap_bio(*reversed(pipes), server_side=True)]
    done = 0
    for turn in range(12):
        try:
            sides[turn % 2].do_handshake()
            done += 1
        except ssl.SSLWantReadError:
            pass
        except ssl.SSLError:
            return False
    return done > 1


class TestOldHosts:
    """Hosts before 7.0, which today's OpenSSL refuses."""

    @UNVERIFIED
    @pytest.mark.parametrize("options", [{}, {"verify": False}])
    def test_they_are_refused_with_advice(
        self, net: Net, old: tuple[Host, Certificate], options: dict[str, Any]
    ) -> None:
        """The text names the option, what goes with it, and the other way."""
        with net.transport(**options) as sender:
            text = refused(net, sender, old[0])
        assert "its TLS is too old, or its keys too weak" in text
        assert "legacy_tls=True, with fingerprint= or verify=False" in text
        assert "http://" in text

    @UNVERIFIED
    def test_legacy_tls_reaches_them(self, net: Net, old: tuple[Host, Certificate]) -> None:
        """With their fingerprint, their certificate as CA file, or no check at all; connections are kept."""
        host, certificate = old
        for options in (
            {"fingerprint": certificate.fingerprint},
            {"verify": str(certificate.path)},
            {"verify": False},
        ):
            before = host.connections
            with net.transport(legacy_tls=True, **options) as sender:
                assert net.post(sender, host.origin) == b"hello"
                assert net.post(sender, host.origin) == b"hello"
            assert host.connections == before + 1

    def test_legacy_tls_weakens_no_check(self, net: Net, old: tuple[Host, Certificate], secure: Host) -> None:
        """Certificates that nobody vouches for, and other fingerprints, are refused as ever."""
        with net.transport(legacy_tls=True) as sender:
            for host in (old[0], secure):
                assert "its certificate is not trusted" in refused(net, sender, host)
        with net.transport(legacy_tls=True, fingerprint=OTHER) as sender:
            assert "another fingerprint" in refused(net, sender, old[0])

    def test_a_pin_reaches_them_too(self, net: Net, old: tuple[Host, Certificate]) -> None:
        """A redirect among old hosts is followed as among new ones."""
        host, certificate = old
        with net.transport(legacy_tls=True) as sender:
            sender.pin(host.origin, certificate.fingerprint)
            assert net.post(sender, host.origin) == b"hello"

    def test_a_key_that_is_too_weak_is_told_from_a_ca_that_is_not_known(self, net: Net, forge: Forge) -> None:
        """A host of today's TLS with a short key, vouched for, needs `legacy_tls` and nothing else."""
        weak = forge("127.0.0.1", bits=1024)
        with net.host(net.reply(), weak.context(weak=True)) as host:
            with net.transport(verify=str(weak.path)) as sender:
                text = refused(net, sender, host)
            assert "too weak" in text
            assert "legacy_tls=True" in text
            with net.transport(verify=str(weak.path), legacy_tls=True) as sender:
                assert net.post(sender, host.origin) == b"hello"

    def test_what_even_legacy_tls_does_not_reach(self) -> None:
        """The option is not advised to those who gave it."""
        error = ssl.SSLError(1, "[SSL: DH_KEY_TOO_SMALL] dh key too small")
        error.reason = "DH_KEY_TOO_SMALL"
        assert "pass legacy_tls=True" in explained([error], legacy=False)
        text = explained([error], legacy=True)
        assert "even with legacy_tls=True (dh key too small)" in text
        assert "http://" in text


class TestPlainPorts:
    """TLS that meets none, and URLs that ask for none."""

    def test_a_port_without_tls(self, net: Net) -> None:
        """A https:// URL of a plain port: nothing was sent, and the text says what to do."""
        with net.host(net.reply()) as host, net.transport() as sender:
            host.origin = host.origin.replace("http:", "https:")
            text = refused(net, sender, host)
        assert "speaks no TLS" in text
        assert "http:// URL" in text
        assert "legacy_tls=True" in text

    def test_a_port_that_hangs_up(self, net: Net) -> None:
        """A connection that ends while TLS is being agreed on: nothing was sent."""
        with socket.create_server(("127.0.0.1", 0)) as listener, net.transport() as sender:

            def hang_up() -> None:
                connection, _ = listener.accept()
                connection.recv(10_000)
                connection.close()

            thread = threading.Thread(target=hang_up)
            thread.start()
            with pytest.raises(ConnectError) as caught:
                net.post(sender, f"https://127.0.0.1:{listener.getsockname()[1]}")
            thread.join(5)
        assert "no TLS was agreed on" in str(caught.value)
        assert "legacy_tls=True" in str(caught.value)

    @pytest.mark.parametrize(
        "host", ["10.0.0.1", "pool.example", "[2001:db8::1]", "localhost.example", "10.0.0.1:8080"]
    )
    def test_a_http_url_warns_once(self, net: Net, monkeypatch: pytest.MonkeyPatch, host: str) -> None:
        """All travels in the clear: a warning says so before anything is sent, and points at whoever called."""

        def unknown(*args: object, **options: object) -> None:
            raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

        monkeypatch.setattr(socket, "getaddrinfo", unknown)
        origin = f"http://{host}"
        with net.transport() as sender:
            session = Session(origin, transport=sender)
            with (
                pytest.warns(CleartextWarning, match="the password and all data travel in the clear") as seen,
                pytest.raises(ConnectError),
            ):
                session.login_with_password("root", "hunter2")
            assert [(warning.filename, origin in str(warning.message)) for warning in seen] == [(__file__, True)]
            with pytest.raises(ConnectError):
                session.login_with_password("root", "hunter2")

    @pytest.mark.parametrize("name", ["127.0.0.1", "127.8.9.10", "0.0.0.0", "[::1]", "localhost", "xapi.localhost"])  # noqa: S104
    def test_this_machine_needs_no_warning(self, net: Net, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
        """Nothing leaves it; warnings are errors in these tests."""
        real = socket.getaddrinfo
        with net.host(net.reply()) as host, net.transport() as sender:
            monkeypatch.setattr(socket, "getaddrinfo", lambda host, *rest, **more: real("127.0.0.1", *rest, **more))
            assert net.post(sender, f"http://{name}:{host.port}") == b"hello"


class Tunnel:
    """A proxy that opens tunnels to where it is asked to, whatever the name in the request says."""

    def __init__(self, port: int) -> None:
        self._target = ("127.0.0.1", port)
        self.asked: list[bytes] = []
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self._listener.getsockname()[1]}"
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            threading.Thread(target=self._serve, args=(client,), daemon=True).start()

    def _serve(self, client: socket.socket) -> None:
        with client, socket.create_connection(self._target) as host:
            self.asked.append(client.recv(10_000))
            client.sendall(b"HTTP/1.1 200 Connection established\r\n\r\n")
            back = threading.Thread(target=self._pump, args=(host, client), daemon=True)
            back.start()
            self._pump(client, host)
            back.join()

    @staticmethod
    def _pump(source: socket.socket, sink: socket.socket) -> None:
        try:
            while data := source.recv(10_000):
                sink.sendall(data)
            sink.shutdown(socket.SHUT_WR)
        except OSError:
            pass

    def close(self) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()


class TestTunnels:
    """Proxies that pass TLS on."""

    def test_the_host_behind_a_proxy_is_the_one_that_is_checked(
        self, net: Net, secure: Host, certificate: Certificate, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """By its fingerprint, its pin or its CA, as without a proxy; a tunnel is kept for the next call."""
        proxy = Tunnel(secure.port)
        monkeypatch.setenv("https_proxy", proxy.url)
        origin = "https://pool.example"
        with net.transport(fingerprint=certificate.fingerprint) as sender:
            for _ in range(3):
                assert net.post(sender, origin) == b"hello"
            assert len(proxy.asked) == secure.connections == 1
            assert proxy.asked[0].startswith(b"CONNECT pool.example:443 ")
            sender.pin(origin, OTHER)
            with pytest.raises(ConnectError, match="another fingerprint"):
                net.post(sender, origin)
        with net.transport(verify=str(certificate.path)) as sender:
            with pytest.raises(ConnectError, match="made out to another name"):
                net.post(sender, origin)
            sender.pin(origin, certificate.fingerprint)
            assert net.post(sender, origin) == b"hello"
        proxy.close()
