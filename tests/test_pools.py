"""Several pools in one world: what they share, what is each one's own, and hosts that are pools of one."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import requests

import xenctl
from mockserver import MockPool, PoolServer, activate
from mockserver.savepoint import SavepointError
from mockserver.transports.xenapi import XenAPITransport
from xenctl.errors import ConnectError, Failure
from xenctl.releases import find

Make = Callable[..., Any]


def login(pool: MockPool, address: str) -> xenctl.Session:
    return xenctl.connect(f"http://{address}", "root", "secret", transport=pool.transport())


# --- a pool beside another


def test_a_neighbour_is_a_pool_with_its_own_database_in_the_same_world(calls: Make) -> None:
    """Names, addresses and cards go on where the first pool's end; a session of one pool is nothing to the other."""
    c = calls(hosts=2, vms=3)
    beside = c.pool.neighbour(hosts=2, vms=1)
    d = c.of("host3")
    assert [m.name for m in beside.machines] == ["host3", "host4"]
    assert [m.name for m in c.pool.machines] == ["host1", "host2"]
    assert (len(d("host.get_all")), d.vm("vm04")["name_label"]) == (2, "vm04")
    assert beside.store.release is c.pool.store.release
    assert beside.clock is c.pool.clock
    assert len({m.address for m in c.pool.world.machines}) == 4
    assert len({mac for m in c.pool.world.machines for _, mac in m.nics}) == 4
    assert d.refused("pool.get_all", on="host1") == ["SESSION_INVALID", d.session]
    assert c.pool.machine("host4") is beside.machines[1]


@pytest.mark.parametrize("release", ["4.0.1", "8.4"])
def test_a_neighbour_may_be_of_another_release(calls: Make, release: str) -> None:
    """Each pool answers as its own release does."""
    c = calls(hosts=1, release="7.0")
    beside = c.pool.neighbour(release=release)
    assert beside.store.release is find(release)
    assert len(c.of(beside.machines[0].name)("host.get_all")) == 1


def test_every_transport_reaches_the_hosts_of_every_pool() -> None:
    """By their addresses: in process, through `requests`, the official SDK's, and on sockets."""
    pool = MockPool.create(hosts=1, vms=0, release="8.2")
    beside = pool.neighbour()
    address = beside.machines[0].address
    uuid = beside.store.pool()["uuid"]
    with login(pool, address) as session:
        assert [row.uuid for row in session.pool.get_all_records().values()] == [uuid]
    with activate(pool):
        assert requests.get(f"http://{address}/pool/xmldbdump", timeout=9).status_code == 401
        with pytest.raises(requests.ConnectionError, match="host2 at"):
            requests.get("http://10.9.9.9/", timeout=9)
    transport = XenAPITransport(pool)
    body = b"<methodCall><methodName>pool.get_all</methodName><params><param><value>x</value></param></params></methodCall>"
    assert transport.single_request(address, "/", body)[0]["ErrorDescription"][0] == "SESSION_INVALID"
    with PoolServer(pool) as server:
        assert [host["name"] for host in server.hosts()] == ["host1", "host2"]
        with xenctl.connect(server.hosts()[1]["url"], "root", "secret") as session:
            assert [row.uuid for row in session.pool.get_all_records().values()] == [uuid]
        with pytest.raises(SavepointError, match="while the hosts are served on sockets"):
            pool.neighbour()


def test_pools_are_taken_back_together(calls: Make) -> None:
    """What was done in any pool since the savepoint is undone, pools that were made since are gone."""
    c = calls(hosts=1, vms=1)
    beside = c.pool.neighbour(vms=1)
    d = c.of("host2")
    with beside.savepoint():
        c("VM.set_name_label", c.vm("vm01").ref, "x")
        d("VM.set_name_label", d.vm("vm02").ref, "y")
        c.pool.neighbour()
        c.sleep(100)
        assert len(c.pool.world.pools) == 3
    assert (len(c.pool.world.pools), len(c.pool.world.machines)) == (2, 2)
    assert (c.vm("vm01")["name_label"], d.vm("vm02")["name_label"]) == ("vm01", "vm02")


def test_a_fork_of_a_pool_has_the_whole_world(calls: Make) -> None:
    """The copy has its own neighbours; what is done to them does not touch the first ones."""
    c = calls(hosts=1, vms=1)
    beside = c.pool.neighbour(vms=1)
    copy = c.pool.fork()
    (other,) = [pool for pool in copy.world.pools if pool is not copy]
    assert [m.name for m in copy.world.machines] == ["host1", "host2"]
    copy.hands.power_off("host2")
    assert (other.machines[0].state, beside.machines[0].state) == ("off", "running")
    assert other.disks is copy.disks
    assert other.disks is not beside.disks
    other.store.write(other.store.pool(), name_label="other")
    assert beside.store.pool()["name_label"] == "pool"
    assert copy.new_uuid() == c.pool.new_uuid()


def test_faults_strike_in_every_pool(calls: Make) -> None:
    """Requests are counted wherever they go."""
    c = calls(hosts=1)
    c.pool.neighbour()
    fault = c.pool.faults.add("error", method="pool.get_all", host="host2", code="INTERNAL_ERROR", params=["x"])
    d = c.of("host2")
    c("pool.get_all")
    assert d.refused("pool.get_all") == ["INTERNAL_ERROR", "x"]
    assert fault.fired == 1


def test_what_happens_to_a_host_happens_in_its_own_pool(calls: Make) -> None:
    """A neighbour's master that crashes is missed by its own members; the first pool notices nothing."""
    c = calls(hosts=2, release="8.2")
    beside = c.pool.neighbour(hosts=2)
    fault = c.pool.faults.add("toolstack_crash", victim="host3", after=1, lasting=20)
    c.sleep(2)
    assert [m.xapi.mode for m in c.pool.world.machines] == ["master", "member", "dead", "emergency"]
    c.sleep(200)
    assert [m.xapi.mode for m in c.pool.world.machines] == ["master", "member", "master", "member"]
    assert beside.store.get("host", beside.store.pool()["master"])["enabled"]
    assert (fault.fired, fault.missed) == (1, [])


def test_a_neighbours_host_loses_its_own_storage(calls: Make) -> None:
    """The hands and faults of a pool know the storage of every host that they can name."""
    c = calls(hosts=1, release="8.2")
    (machine,) = c.pool.neighbour(vms=1).machines
    (sr,) = [row for row in machine.pool.store.table("SR").values() if row["type"] == "nfs"]
    fault = c.pool.faults.add("storage_path_lost", victim="host2", sr=sr["uuid"], guests="crash", after=1, lasting=20)
    c.sleep(2)
    assert (machine.lost, machine.domains) == ({sr["uuid"]}, {})
    assert c.of("host2").vm("vm01")["power_state"] == "Halted"
    c.sleep(20)
    assert (machine.lost, fault.fired) == (set(), 1)
    c.pool.hands.lose_storage("host2", sr["name_label"])
    assert machine.lost == {sr["uuid"]}
    c.pool.hands.regain_storage("host2", sr["name_label"])
    assert machine.lost == set()


def test_a_pack_is_told_of_in_the_hosts_own_pool(calls: Make) -> None:
    """Whichever pool's hands install it."""
    c = calls(hosts=1, release="8.2")
    c.pool.neighbour()
    c.pool.hands.install_pack("host2", "acme:agent", "1.0")
    assert c.of("host2").host("host2")["software_version"]["acme:agent"] == "1.0"


def test_a_fault_may_name_what_only_a_neighbour_knows(calls: Make) -> None:
    """A method of a newer release, on the host that has it; its own pool's trace tells of it."""
    c = calls(hosts=1, release="7.0")
    beside = c.pool.neighbour(release="8.4")
    fault = c.pool.faults.add("error", method="pool.sync_updates", code="INTERNAL_ERROR", params=["x"])
    seen: list[MockPool] = []
    c.pool.faults.listen(lambda arrival: seen.append(arrival.pool))
    d = c.of("host2")
    assert d.refused("pool.sync_updates", beside.store.pool().ref, False, "", "") == ["INTERNAL_ERROR", "x"]
    assert fault.fired == 1
    assert set(seen) == {beside}


def test_a_dump_is_of_one_pool(calls: Make, tmp_path: Any) -> None:
    """`save` writes the pool's own database."""
    c = calls(hosts=1)
    c.pool.neighbour(hosts=2).save(tmp_path / "pool.xml")
    assert [m.name for m in MockPool.from_dump(tmp_path / "pool.xml").machines] == ["host2", "host3"]


def test_a_pool_finds_the_disks_of_another_on_storage_that_both_reach(calls: Make) -> None:
    """Introduced by its uuid, connected and scanned, it shows what is there; a disk has one content, whoever reads it."""
    c = calls(hosts=1, vms=1, release="8.2")
    c.pool.neighbour()
    d = c.of("host2")
    sr, disk = c.row("SR", "NFS virtual disk storage"), c.row("VDI", "disk of vm01")
    config = {"location": "NFS virtual disk storage"}
    assert sr["uuid"] in d("SR.probe", d.host("host2").ref, config, "nfs", {})
    same = d("SR.introduce", sr["uuid"], "same", "", "nfs", "user", True, {})
    pbd = {"host": d.host("host2").ref, "SR": same, "device_config": config, "other_config": {}}
    d("PBD.plug", d("PBD.create", pbd))
    d("SR.scan", same)
    found = d("VDI.get_by_uuid", disk["uuid"])
    assert d("VDI.get_virtual_size", found) == disk["virtual_size"]
    assert d("SR.get_physical_size", same) == sr["physical_size"]
    d("VDI.destroy", found)
    c("SR.scan", sr.ref)
    assert c.pool.store.find("VDI", disk.ref) is None


# --- a clean installation


@pytest.mark.parametrize("release", ["4.0.1", "5.0", "7.0", "8.4"])
def test_a_host_that_was_installed_afresh_is_the_master_of_a_pool_of_its_own(calls: Make, release: str) -> None:
    """It is reached at its address, has its own cards and local storage, and can be worked with."""
    c = calls(hosts=2, vms=0, release=release)
    c.halt("host2")
    c.install("host2", release, "fresh")
    d = c.of("host2")
    d.until(lambda: d.pool.machines[0].xapi.complete)
    (host,) = d.pool.store.table("host").values()
    assert (host["enabled"], host["name_label"], host["address"]) == (True, "host2", "10.0.0.2")
    assert host["cpu_info"] if "cpu_info" in host else len(d("host_cpu.get_all")) == 4
    assert [(pif["device"], pif["MAC"]) for pif in d.pool.store.table("PIF").values()] == [
        ("eth0", "00:16:3e:00:00:02")
    ]
    assert [pbd["currently_attached"] for pbd in d.pool.store.table("PBD").values()] == [True]
    local = d.row("SR", "Local storage")
    assert local["physical_size"] == 200 << 30
    with login(c.pool, "10.0.0.2") as session:
        assert session.host.get_all() == [host.ref]
    assert d.pool not in (c.pool, None)
    assert c.pool.machines == [c.pool.machine("host1")]
    assert c.of("host1")("host.get_all")


def test_the_backup_partition_brings_a_host_back_into_the_pool_that_it_was_of(calls: Make) -> None:
    """A clean installation leaves it alone; what is restored is of the old pool again."""
    c = calls(hosts=2, release="4.0.1")
    c = c.upgrade("host1", "4.1").upgrade("host2", "4.1")
    uuid = c.host("host2")["uuid"]
    c.halt("host2")
    c.install("host2", "4.1", "fresh")
    assert c.pool.machine("host2").pool is not c.pool
    c.pool.hands.power_off("host2")
    c.install("host2", "4.1", "restore")
    assert c.pool.machine("host2").pool is c.pool
    assert c.pool.machine("host2").system.installation_uuid == uuid
    assert len(c.pool.world.pools) == 1


def test_local_storage_is_wiped_although_its_host_was_forgotten(calls: Make) -> None:
    """It is the disk that is written over, whatever any database says."""
    c = calls(hosts=2, release="8.2")
    like = {"virtual_size": 1 << 30, "type": "user", "sharable": False, "read_only": False, "other_config": {}}
    vdi = c("VDI.create", {**like, "SR": c.row("SR", "Local storage on host2").ref})
    uuid = c("VDI.get_uuid", vdi)
    c.halt("host2")
    c("host.declare_dead", c.host("host2").ref)
    c("host.destroy", c.host("host2").ref)
    assert uuid in c.pool.disks
    c.install("host2", "8.2", "fresh")
    assert uuid not in c.pool.disks


def test_a_host_that_is_off_refuses_whatever_pool_it_is_of(calls: Make) -> None:
    """Power is the machine room's."""
    c = calls(hosts=1)
    beside = c.pool.neighbour()
    c.pool.hands.power_off("host2")
    with pytest.raises(ConnectError, match="the host is off"):
        login(c.pool, beside.machines[0].address)
    with pytest.raises(Failure, match="SESSION_INVALID"):
        c.pool.dispatch("pool.get_all", ["x"])
