"""The drop-in over TLS: certificates are checked as the official SDK checks them."""

from __future__ import annotations

import ssl
from collections.abc import Iterator
from typing import Any

import pytest

from mockserver import MockPool, PoolServer
from xenctl.compat import XenAPI

official = pytest.importorskip("XenAPI.XenAPI")
BOTH = pytest.mark.parametrize("sdk", [official, XenAPI], ids=["official", "ours"])


@pytest.fixture
def secure() -> Iterator[PoolServer]:
    """A pool that speaks TLS, with certificates of an authority that nobody knows."""
    with PoolServer(MockPool.create(hosts=1, vms=0), tls=True) as server:
        yield server


@pytest.mark.filterwarnings("ignore:Unverified HTTPS request")
class TestTls:
    """Certificates are checked as the official SDK checks them."""

    def test_an_unknown_certificate_is_refused(self, secure: PoolServer) -> None:
        """With the same error."""
        told = []
        for sdk in (official, XenAPI):
            session = sdk.Session(secure.url)
            with pytest.raises(ssl.SSLCertVerificationError) as caught:
                session.login_with_password("root", "secret")
            told.append((type(caught.value), caught.value.args, caught.value.verify_code))
        assert told[0] == told[1]
        assert not secure.pool.store.table("session")

    @BOTH
    @pytest.mark.parametrize("args", [(None, None, 0, 1, True), ()], ids=["positional", "named"])
    def test_ignore_ssl(self, sdk: Any, secure: PoolServer, args: tuple[Any, ...]) -> None:
        """No check where none is wanted."""
        session = sdk.Session(secure.url, *args, **({} if args else {"ignore_ssl": True}))
        session.login_with_password("root", "secret")
        assert session.handle.startswith("OpaqueRef:")
        session("close")()

    @BOTH
    def test_the_check_switched_off_for_all(
        self, sdk: Any, secure: PoolServer, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Many programs replace the default context of the `ssl` module; that counts."""
        monkeypatch.setattr(ssl, "_create_default_https_context", ssl._create_unverified_context)
        session = sdk.Session(secure.url)
        session.login_with_password("root", "secret")
        assert session.handle.startswith("OpaqueRef:")
        session("close")()

    @BOTH
    def test_the_systems_certificates(self, sdk: Any, secure: PoolServer, monkeypatch: pytest.MonkeyPatch) -> None:
        """A certificate that OpenSSL's own settings vouch for is accepted."""
        monkeypatch.setenv("SSL_CERT_FILE", secure.cafile)
        session = sdk.Session(secure.url)
        session.login_with_password("root", "secret")
        assert session.handle.startswith("OpaqueRef:")
        session("close")()
