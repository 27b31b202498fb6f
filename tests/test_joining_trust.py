"""Whom a pool and a host that joins it trust: each other's certificates, and authorities of both."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pem
import pytest

import xenctl
from mockserver import PoolServer, trust

Make = Callable[..., Any]
MASTER = ("10.0.0.1", "root", "secret")


def bare(c: Any) -> Any:
    """A session with a host beside the pool that has no shared storage."""
    c.pool.neighbour()
    d = c.of(c.pool.world.machines[-1].name)
    for sr in [sr for sr in d.pool.store.table("SR").values() if sr["shared"]]:
        d("PBD.unplug", sr["PBDs"][0])
        d("SR.forget", sr.ref)
    return d


def joined(c: Any, d: Any) -> Any:
    """Let the host join, and wait until it is complete; its machine."""
    (machine,) = d.pool.machines
    d("pool.join", *MASTER)
    c.until(lambda: machine.pool is c.pool and machine.xapi.complete)
    return machine


@pytest.fixture
def c(calls: Make) -> Any:
    """Two hosts of the newest release that check each other."""
    c = calls(release="8.4", hosts=2)
    c("pool.enable_tls_verification")
    return c


def test_hosts_that_check_each_other_get_the_newcomers_certificate_and_it_gets_theirs(c: Any) -> None:
    """Each by its host's uuid, on all of them."""
    d = bare(c)
    assert d.refused("pool.join", *MASTER) == ["POOL_JOINING_HOST_TLS_VERIFICATION_MISMATCH"]
    d("pool.enable_tls_verification")
    machine = joined(c, d)
    wanted = sorted(f"{m.system.installation_uuid}.pem" for m in c.pool.machines)
    assert len(wanted) == 3
    assert [trust.names(m.system, trust.POOL_FOLDER) for m in c.pool.machines] == [wanted] * 3
    mine = trust.public(machine.system, trust.INTERNAL)
    name = f"{trust.POOL_FOLDER}{machine.system.installation_uuid}.pem"
    assert {m.system.files[name].decode() for m in c.pool.machines} == {mine}
    assert all(mine.encode() in m.system.files[trust.BUNDLES[trust.POOL_FOLDER]] for m in c.pool.machines)


def test_a_master_whose_own_certificate_is_missing_cannot_be_joined(c: Any) -> None:
    """The joining host could not check it."""
    d = bare(c)
    d("pool.enable_tls_verification")
    master = c.pool.master.system
    trust.change(master, {f"{trust.POOL_FOLDER}{master.installation_uuid}.pem": None})
    error = ["POOL_JOINING_MASTER_CERTIFICATE_NOT_IN_POOL_BUNDLE", master.installation_uuid]
    assert d.refused("pool.join", *MASTER) == error
    assert d.pool.machines[0].next is None


def test_authorities_of_both_are_trusted_by_all(calls: Make) -> None:
    """With rows in the pool's database; one that both have by one name must be the same."""
    c = calls(release="8.4", hosts=2)
    d = bare(c)
    c("pool.install_ca_certificate", "pools.pem", pem.public(pem.certificate("pools")))
    d("pool.install_ca_certificate", "own.pem", pem.public(pem.certificate("own")))
    d("pool.install_ca_certificate", "pools.pem", pem.public(pem.certificate("another")))
    assert d.refused("pool.join", *MASTER) == ["POOL_JOINING_HOST_CA_CERTIFICATES_CONFLICT", "pools.pem"]
    d("pool.uninstall_ca_certificate", "pools.pem")
    joined(c, d)
    names = ["own.pem", "pools.pem"]
    assert sorted(c("pool.certificate_list")) == names
    assert [trust.names(m.system, trust.CA_FOLDER) for m in c.pool.machines] == [names] * 3


def test_exchanges_exclude_each_other(calls: Make) -> None:
    """Both are operations of the pool."""
    c = calls(release="8.4", hosts=1)
    c.pool.store.write(c.pool.store.pool(), current_operations={"x": "exchange_certificates_on_join"})
    for method, *args in (
        ("pool.exchange_certificates_on_join", "uuid", "text"),
        ("pool.exchange_ca_certificates_on_join", {}, []),
    ):
        assert c.refused(method, *args)[0] == "OTHER_OPERATION_IN_PROGRESS"


def test_hosts_of_every_pool_show_a_certificate(calls: Make) -> None:
    """The server's authority vouches for all of them."""
    pool = calls(release="8.4", hosts=1).pool
    pool.neighbour()
    with PoolServer(pool, tls=True) as server:
        for host in server.hosts():
            with xenctl.connect(host["url"], "root", "secret", verify=server.cafile) as session:
                assert len(session.host.get_all()) == 1
