"""Joining a pool: the checks in their order, what a host brings, and a failed member that comes back as a new one."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

import xenctl
from mockserver import MockPool, PoolServer, Trace
from xenctl.errors import Failure
from xenctl.releases import find

from .support.joining import MASTER, bare, rest

Make = Callable[..., Any]
RELEASES = ("4.0.1", "5.0", "6.2", "7.0", "8.4")


def login(pool: MockPool, address: str) -> xenctl.Session:
    return xenctl.connect(f"http://{address}", "root", "secret", transport=pool.transport())


# --- a host that joins


@pytest.mark.parametrize("release", RELEASES)
def test_a_host_that_joins_is_a_member_like_the_others(calls: Make, release: str) -> None:
    """Enabled, live, connected to the shared storage as the master is, known by its uuid; its own pool is no more."""
    c = calls(hosts=2, vms=4, release=release)
    d = bare(c)
    old = d.pool
    machine = c.pool.machine("host3")
    uuid = machine.system.installation_uuid
    d("pool.join", *MASTER)
    assert d("pool.get_all"), "the old toolstack answers until its fuse has burnt down"
    host = rest(c, "host3")
    assert (host["uuid"], host["enabled"]) == (uuid, True)
    assert c("host_metrics.get_live", host["metrics"])
    mine, masters = (
        {
            (pbd["SR"], pbd["device_config"]["location"])
            for pbd in (c.pool.store.get("PBD", ref) for ref in c.host(name)["PBDs"])
            if c.pool.store.get("SR", pbd["SR"])["shared"]
        }
        for name in ("host3", "host1")
    )
    assert mine == masters
    assert all(c("PBD.get_currently_attached", pbd) for pbd in host["PBDs"])
    assert [c("PIF.get_network", pif) for pif in host["PIFs"]] == [c("PIF.get_network", c.host("host1")["PIFs"][0])]
    assert old.machines == []
    assert c.pool.world.pools == [c.pool]
    assert machine.system.pool_secret == c.pool.machine("host1").system.pool_secret
    with pytest.raises(Failure, match="HOST_IS_SLAVE"):
        c.pool.dispatch("session.login_with_password", ["root", "secret"], machine)
    c("VM.start_on", c.vm("vm04").ref, host.ref, False, False)
    assert c.unharmed()


def test_what_a_host_has_comes_with_it(calls: Make) -> None:
    """Halted VMs, disks and local storage keep their uuids, what is on them stays; networks of its own get free bridges."""
    c = calls(hosts=1, vms=2, release="8.2")
    d = c.of(c.pool.neighbour(vms=1).machines[0].name)
    local = d.row("SR", "Local storage on host2")
    like = {"virtual_size": 1 << 30, "type": "user", "sharable": False, "read_only": False, "other_config": {"a": "b"}}
    vdi = d("VDI.create", {**like, "SR": local.ref, "name_label": "kept"})
    vm = d.vm("vm03")
    own = d("network.create", {"name_label": "own", "other_config": {}})
    there = c("network.create", {"name_label": "there", "other_config": {}})
    assert d("network.get_bridge", own) == c("network.get_bridge", there) == "xapi0"
    d("VIF.create", {**d("VIF.get_record", vm["VIFs"][0]), "network": own, "device": "1", "MAC": ""})
    d("VM.hard_shutdown", vm.ref)
    for vbd in d.pool.vbds(vm):
        d("VBD.destroy", vbd.ref)
    device = {
        "VM": vm.ref,
        "VDI": vdi,
        "userdevice": "0",
        "mode": "RW",
        "type": "Disk",
        "bootable": True,
        "empty": False,
    }
    d("VBD.create", {**device, "other_config": {}, "qos_algorithm_type": "", "qos_algorithm_params": {}})
    for sr in [sr for sr in d.pool.store.table("SR").values() if sr["shared"]]:
        for pbd in sr["PBDs"]:
            d("PBD.unplug", pbd)
        d("SR.forget", sr.ref)
    uuids = vm["uuid"], d("VDI.get_uuid", vdi), local["uuid"]
    d("pool.join", *MASTER)
    rest(c, "host2")
    moved, disk, sr = c.vm("vm03"), c.row("VDI", "kept"), c.row("SR", "Local storage on host2")
    assert (moved["uuid"], disk["uuid"], sr["uuid"]) == uuids
    assert (moved["power_state"], disk["SR"], sr["shared"], disk["other_config"]) == (
        "Halted",
        sr.ref,
        False,
        {"a": "b"},
    )
    assert [vbd["VDI"] for vbd in c.pool.vbds(moved)] == [disk.ref]
    networks = {
        c("network.get_name_label", c("VIF.get_network", vif)): c("VIF.get_network", vif) for vif in moved["VIFs"]
    }
    assert set(networks) == {"own", "Pool-wide network associated with eth0"}
    assert c("network.get_bridge", networks["own"]) not in ("xapi0", "")
    assert networks["Pool-wide network associated with eth0"] == c("VIF.get_network", c.vm("vm01")["VIFs"][0])
    c("VM.start", moved.ref, False, False)
    assert c("VM.get_resident_on", moved.ref) == c.host("host2").ref
    assert c.unharmed()


def test_bonds_and_vlans_of_the_master_are_made_on_a_new_member(calls: Make) -> None:
    """On cards of the same names."""
    c = calls(hosts=1, release="8.2")
    c.pool.neighbour()
    for name in ("host1", "host2"):
        machine, d = c.pool.machine(name), c.of(name)
        machine.nics = (*machine.nics, *((f"eth{n}", f"00:16:3e:cc:{machine.name[-1]}0:0{n}") for n in (1, 2)))
        d("PIF.scan", d.host(name).ref)
    pifs = {pif["device"]: pif.ref for pif in c.pool.store.table("PIF").values()}
    bonded, tagged = (c("network.create", {"name_label": name, "other_config": {}}) for name in ("bonded", "tagged"))
    c("Bond.create", bonded, [pifs["eth1"], pifs["eth2"]], "", "balance-slb")
    c("VLAN.create", pifs["eth0"], 7, tagged)
    d = c.of("host2")
    for sr in [sr for sr in d.pool.store.table("SR").values() if sr["shared"]]:
        d("PBD.unplug", sr["PBDs"][0])
        d("SR.forget", sr.ref)
    d("pool.join", *MASTER)
    host = rest(c, "host2")
    c.sleep(60)
    there = {c("PIF.get_network", pif): pif for pif in host["PIFs"]}
    assert {bonded, tagged} <= set(there)
    assert c("PIF.get_VLAN", there[tagged]) == 7
    assert len(c("Bond.get_slaves", c("PIF.get_bond_master_of", there[bonded])[0])) == 2


def test_join_as_a_task_is_done_before_the_toolstack_restarts(calls: Make) -> None:
    """Whoever waits for the task hears of its success on the joining host."""
    c = calls(hosts=1, release="8.2")
    d = bare(c)
    with login(c.pool, "10.0.0.2") as session:
        session.Async.pool.join(*MASTER).wait(timeout=60)
    assert c.pool.machine("host2").pool is d.pool
    rest(c, "host2")


def test_power_lost_while_the_fuse_burns_does_not_undo_a_join(calls: Make) -> None:
    """The files are written: the next start is that of a member."""
    c = calls(hosts=1, release="8.2")
    bare(c)("pool.join", *MASTER)
    c.pool.hands.power_off("host2")
    c.sleep(60)
    c.pool.hands.power_on("host2")
    assert rest(c, "host2")["enabled"]


def test_a_host_joins_over_sockets() -> None:
    """Its port is open before and after; then it leads to the master."""
    pool = MockPool.create(hosts=2, vms=2, release="8.2")
    (machine,) = pool.neighbour().machines
    with PoolServer(pool, time_scale=10) as server:  # the answer comes long before the fuse has burnt down
        first, *_, last = (host["url"] for host in server.hosts())
        with xenctl.connect(last, "root", "secret") as session:
            for sr in [ref for ref, sr in session.SR.get_all_records().items() if sr.shared]:
                session.PBD.unplug(session.SR.get_PBDs(sr)[0])
                session.SR.forget(sr)
            session.pool.join(pool.master.address, "root", "secret")
        with pool.guard():
            pool.clock.run_until(pool.clock.now() + 600, lambda: machine.pool is pool and machine.xapi.complete)
        with xenctl.connect(last, "root", "secret") as session:
            assert len(session.host.get_all()) == 3
            assert session.origin == first


def test_a_join_is_taken_back(calls: Make, picture: Any) -> None:
    """Both pools are as they were, each with its hosts; a copy of the world made meanwhile has the one pool."""
    c = calls(hosts=2, vms=3, release="8.2")
    d = bare(c)
    before = picture(c.pool), picture(d.pool)
    with c.pool.savepoint():
        d("pool.join", *MASTER)
        rest(c, "host3")
        copy = c.pool.fork()
        assert [m.name for m in copy.machines] == ["host1", "host2", "host3"]
        assert copy.world.pools == [copy]
    assert (picture(c.pool), picture(d.pool)) == before
    d("pool.join", *MASTER)
    assert rest(c, "host3")["enabled"]


def test_a_trace_tells_of_the_calls_that_a_joining_host_makes(calls: Make) -> None:
    """A trace is of one pool: that of the pool has the login and what was asked, without secrets."""
    c = calls(hosts=1, release="8.2")
    d = bare(c)
    with Trace(c.pool) as trace:
        d("pool.join", *MASTER)
    assert [r.method for r in trace if r.method.startswith(("session.", "pool."))] == [
        "session.login_with_password",
        "pool.initial_auth",
        "session.logout",
    ]
    assert c.pool.master.system.pool_secret not in str([str(r) for r in trace])


def test_a_trace_of_the_joining_host_hides_the_password(calls: Make) -> None:
    """It is an argument of the call."""
    c = calls(hosts=1, release="8.2")
    d = bare(c)
    with Trace(d.pool) as trace:
        d("pool.join", *MASTER)
    (record,) = [r for r in trace if r.method == "pool.join"]
    assert "10.0.0.1" in str(record.arguments)
    assert "secret" not in str(record.arguments)


# --- a failed member


@pytest.mark.parametrize("release", RELEASES)
def test_a_failed_member_is_forgotten_reinstalled_and_joins_again(release: str) -> None:
    """Power lost, its guests declared off and its host forgotten; then a clean installation, which joins as a new host and
    runs guests on the shared storage. The other hosts and all disks are untouched."""
    pool = MockPool.create(hosts=3, vms=6, release=release)
    session = login(pool, pool.master.address)
    (failed,) = session.host.get_by_name_label("host2")
    lost = [vm for vm in session.host.get_resident_VMs(failed) if not session.VM.get_is_control_domain(vm)]
    pool.hands.power_off("host2")
    pool.clock.advance(pool.durations.assumed_dead + 60)
    if pool.store.release < find("6.2"):
        for vm in lost:
            session.VM.power_state_reset(vm)
    else:
        session.host.declare_dead(failed)
    assert {session.VM.get_power_state(vm) for vm in lost} == {"Halted"}
    session.host.destroy(failed)
    session.VM.start(lost[0], False, False)
    assert len(session.host.get_all()) == 2

    hands = pool.hands
    hands.insert_media("host2", release)
    hands.power_on("host2")
    pool.clock.advance(600)
    hands.answer("host2", "fresh")
    machine = pool.machine("host2")
    pool.clock.run_until(pool.clock.now() + 7200, lambda: machine.xapi.complete)
    alone = login(pool, machine.address)
    assert len(alone.host.get_all()) == 1
    alone.pool.join(pool.master.address, "root", "secret")
    pool.clock.run_until(pool.clock.now() + 7200, lambda: machine.pool is pool and machine.xapi.complete)

    (back,) = session.host.get_by_name_label("host2")
    assert back != failed
    assert session.host.get_enabled(back)
    for sr in [ref for ref, sr in session.SR.get_all_records().items() if sr.shared]:
        plugged = {session.PBD.get_host(p) for p in session.SR.get_PBDs(sr) if session.PBD.get_currently_attached(p)}
        assert plugged == set(session.host.get_all())
    session.VM.start_on(lost[1], back, False, False)
    session.VM.pool_migrate(lost[0], back, {"live": "true"})
    assert {session.VM.get_resident_on(vm) for vm in lost[:2]} == {back}
    assert set(machine.domains) == {session.VM.get_uuid(vm) for vm in lost[:2]}
