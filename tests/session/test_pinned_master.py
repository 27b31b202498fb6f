"""The way from a member to the master with certificates pinned, over real TLS."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from mockserver import MockPool, PoolServer
from xenctl.errors import ConnectError
from xenctl.session import connect


@pytest.fixture
def server() -> Iterator[PoolServer]:
    """Two hosts with certificates of an authority that nobody knows."""
    with PoolServer(MockPool.create(hosts=2, vms=2, release="8.2"), tls=True) as made:
        yield made


def fingerprint(server: PoolServer, number: int) -> str:
    """What a host's certificate is known by."""
    return server.pool.fingerprints[server.pool.machines[number].uuid]["sha-256"]


@pytest.mark.parametrize("protocol", ["xmlrpc", "jsonrpc"])
def test_a_member_that_is_known_vouches_for_the_master(server: PoolServer, protocol: str) -> None:
    """One fingerprint, the member's, is enough: with the refusal it tells the master's."""
    member = server.url_of(server.pool.machines[1])
    options = {"fingerprint": fingerprint(server, 1), "protocol": protocol}
    with connect(member, "root", "secret", **options) as session:  # type: ignore[arg-type]
        assert session.origin == server.url
        assert session.VM.get_all()


def test_a_master_with_another_certificate_is_not_followed(server: PoolServer) -> None:
    """What the member told is what the master must show."""
    server.pool.fingerprints[server.pool.master.uuid] = {"sha-256": ":".join(["AB"] * 32)}
    with pytest.raises(ConnectError, match=rf"another fingerprint: expected sha256:{'ab' * 32}"):
        connect(server.url_of(server.pool.machines[1]), "root", "secret", fingerprint=fingerprint(server, 1))


def test_an_old_member_tells_nothing(server: PoolServer) -> None:
    """The master must show the certificate that was named, then, and does not."""
    server.pool.fingerprints.pop(server.pool.master.uuid)
    with pytest.raises(ConnectError, match="another fingerprint"):
        connect(server.url_of(server.pool.machines[1]), "root", "secret", fingerprint=fingerprint(server, 1))


def test_nonsense_is_not_pinned(server: PoolServer, caplog: pytest.LogCaptureFixture) -> None:
    """A fingerprint that is none is told in the log, and the master is not followed."""
    server.pool.fingerprints[server.pool.master.uuid] = {"sha-256": "nonsense"}
    with pytest.raises(ConnectError, match="another fingerprint"):
        connect(server.url_of(server.pool.machines[1]), "root", "secret", fingerprint=fingerprint(server, 1))
    assert "tells no fingerprint of the master's certificate that can be used" in caplog.text


def test_without_tls_nothing_is_pinned(caplog: pytest.LogCaptureFixture) -> None:
    """There is no certificate to be known by, and that is no reason to complain of the member."""
    pool = MockPool.create(hosts=2, vms=2, release="8.2")
    pool.fingerprints[pool.master.uuid] = {"sha-256": ":".join(["AB"] * 32)}
    with PoolServer(pool) as plain:
        member = plain.url_of(pool.machines[1])
        with connect(member, "root", "secret", fingerprint="ab" * 32) as session:
            assert session.origin == plain.url
    assert "fingerprint" not in caplog.text


def test_with_an_authority_nothing_is_pinned(server: PoolServer) -> None:
    """The CA vouches for the master, whatever a member says."""
    server.pool.fingerprints[server.pool.master.uuid] = {"sha-256": ":".join(["AB"] * 32)}
    with connect(server.url_of(server.pool.machines[1]), "root", "secret", verify=server.cafile) as session:
        assert session.origin == server.url
