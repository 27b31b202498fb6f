"""Hosts on sockets that go down and come up again."""

from __future__ import annotations

import time

import pytest

from mockserver import MockPool, PoolServer
from xenctl.errors import Failure
from xenctl.session import Session, connect


@pytest.mark.parametrize("release", ["4.0.1", "8.2"])
def test_a_host_that_reboots_listens_again_on_its_port(release: str) -> None:
    """At full speed of simulated time too, a reboot takes a host's port away and gives it back."""
    pool = MockPool.create(release=release, hosts=2, vms=0)
    with PoolServer(pool) as server, connect(server.url, "root", "secret") as session:
        member = server.hosts()[1]
        (ref,) = session.host.get_by_name_label(member["name"])
        booted = session.host.get_other_config(ref).get("boot_time")
        session.host.disable(ref)
        session.host.reboot(ref)
        deadline = time.monotonic() + 10
        while session.host.get_other_config(ref).get("boot_time") == booted or not session.host.get_enabled(ref):
            assert time.monotonic() < deadline, pool.machine(member["name"]).state
            time.sleep(0.01)
        assert server.hosts()[1]["url"] == member["url"]
        with pytest.raises(Failure) as slave:
            Session(member["url"], read_timeout=5).call("session.login_with_password", ("root", "secret"))
        assert slave.value.details == ["HOST_IS_SLAVE", "127.0.0.1"]


def test_the_master_answers_before_it_goes() -> None:
    """However fast simulated time runs, a master that is told to halt says so first."""
    for _ in range(5):
        pool = MockPool.create(release="4.0.1", hosts=2, vms=0)
        with PoolServer(pool) as server:
            session = connect(server.url, "root", "secret")
            (master,) = {record.master for record in session.pool.get_all_records().values()}
            session.host.disable(master)
            session.host.shutdown(master)
            deadline = time.monotonic() + 10
            while pool.machine("host1").state != "off" and time.monotonic() < deadline:
                time.sleep(0.01)
            assert pool.machine("host1").state == "off"
