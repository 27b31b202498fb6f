"""The pool's master: handed over by agreement, lost and taken over; and members that are ejected."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

import xenctl
from mockserver import MockPool
from mockserver.call import EMERGENCY_CALLS
from xenctl.errors import Failure

Make = Callable[..., Any]
RELEASES = ("4.1", "5.0", "7.0", "8.4")
"""Hosts of 4.0 are no masters by designation, and have no way in while they wait for one."""
NULL = "OpaqueRef:NULL"


def login(pool: MockPool, address: str) -> xenctl.Session:
    return xenctl.connect(f"http://{address}", "root", "secret", transport=pool.transport())


def local(c: Any, host: str) -> Callable[..., Any]:
    """What calls a host in a session that only that host knows, as whoever stands before it does."""
    machine = c.pool.machine(host)
    session = c.pool.dispatch("session.slave_local_login_with_password", ["root", "secret"], machine)
    return lambda method, *args: c.pool.dispatch(method, [session, *args], machine)


def all_enabled(pool: MockPool) -> bool:
    """Whether every host of the pool that is on has started, in the master's eyes too."""
    if not all(machine.xapi.complete for machine in pool.machines if machine.state == "running"):
        return False
    rows = [pool.host_row(machine) for machine in pool.machines if machine.state == "running"]
    metrics = [pool.store.find("host_metrics", row["metrics"]) for row in rows if row is not None]
    return all(row is not None and row["enabled"] for row in rows) and all(m is not None and m["live"] for m in metrics)


def settled(c: Any, master: str) -> Any:
    """Wait until the pool has a new master and all hosts follow it; a session that is valid then."""
    machine = c.pool.machine(master)
    c.until(lambda: machine.xapi.mode == "master" and all_enabled(c.pool))
    return c.again()


# --- handed over


@pytest.mark.parametrize("release", RELEASES)
def test_a_new_master_is_designated_and_all_follow(release: str) -> None:
    """The same pool with the same rows, another master; guests do not notice, and the session goes on with the new one."""
    pool = MockPool.create(hosts=3, vms=6, release=release)
    session = login(pool, "10.0.0.1")
    uuids = {vm.uuid: vm.power_state for vm in session.VM.get_all_records().values()}
    (new,) = session.host.get_by_name_label("host2")
    session.Async.pool.designate_new_master(new).wait(timeout=60)
    assert pool.machine("host1").xapi.mode == "master", "the toolstacks go on for a while"
    pool.clock.advance(pool.durations.toolstack_fuse)
    pool.clock.run_until(pool.clock.now() + 3600, lambda: all_enabled(pool))
    assert all_enabled(pool)
    assert [m.system.role for m in pool.machines] == ["slave:10.0.0.2", "master", "slave:10.0.0.2"]
    session = login(pool, "10.0.0.1")  # which leads to the master
    assert session.pool.get_master(session.pool.get_all()[0]) == new
    assert {vm.uuid: vm.power_state for vm in session.VM.get_all_records().values()} == uuids
    vm = session.VM.get_by_name_label("vm04")[0]
    session.VM.start(vm, False, False)
    assert session.VM.get_power_state(vm) == "Running"


def test_designating_the_master_itself_does_nothing(calls: Make) -> None:
    """It is that already."""
    c = calls(hosts=2, release="8.2")
    xapi = c.pool.machine("host1").xapi
    c("pool.designate_new_master", c.host("host1").ref)
    c.sleep(60)
    assert c.pool.machine("host1").xapi is xapi


def test_every_host_must_take_part_in_a_designation(calls: Make) -> None:
    """While one is off, or HA is on, or versions are mixed, nobody's role changes."""
    c = calls(hosts=3, release="8.2")
    new = c.host("host2").ref
    pool = c.pool.store.pool()
    c.pool.store.write(pool, ha_enabled=True)
    assert c.refused("pool.designate_new_master", new) == ["HA_IS_ENABLED"]
    c.pool.store.write(pool, ha_enabled=False, other_config={"rolling_upgrade_in_progress": "true"})
    assert c.refused("pool.designate_new_master", new) == ["RESTORE_INCOMPATIBLE_VERSION"]
    c.pool.store.write(pool, other_config={})
    c.pool.hands.power_off("host3")
    assert c.refused("pool.designate_new_master", new) == ["CANNOT_CONTACT_HOST", c.host("host3").ref]
    c.sleep(700)
    assert c.refused("pool.designate_new_master", new) == ["HOST_OFFLINE", c.host("host3").ref]
    assert c.refused("pool.designate_new_master", c.host("host3").ref) == ["HOST_OFFLINE", c.host("host3").ref]
    assert [m.system.role for m in c.pool.machines] == ["master", "slave:10.0.0.1", "slave:10.0.0.1"]
    assert c.pool.machine("host1").xapi.proposal is None


def test_designations_exclude_each_other_and_ejections(calls: Make) -> None:
    """Since 8.2 it is an operation of the pool."""
    c = calls(hosts=2, release="8.4")
    c.pool.store.write(c.pool.store.pool(), current_operations={"x": "designate_new_master"})
    host = c.host("host2").ref
    assert c.refused("pool.designate_new_master", host) == ["DESIGNATE_NEW_MASTER_IN_PROGRESS"]
    assert c.refused("pool.eject", host)[0] == "OTHER_OPERATION_IN_PROGRESS"


def test_a_proposal_stands_in_the_way_of_another_for_ten_minutes(calls: Make) -> None:
    """The same one again is heard; an aborted one is forgotten; only what was proposed is committed."""
    c = calls(hosts=3, release="8.2")
    on = local(c, "host2")
    with pytest.raises(Failure, match=r"Received commit_new_master\(10\.0\.0\.3\) but never received a proposal"):
        on("host.commit_new_master", "10.0.0.3")
    on("host.propose_new_master", "10.0.0.3", True)
    on("host.propose_new_master", "10.0.0.3", True)
    c.sleep(90)
    with pytest.raises(Failure) as refused:
        on("host.propose_new_master", "10.0.0.2", True)
    assert refused.value.details == [
        "HA_ABORT_NEW_MASTER",
        "Already agreed to commit host address '10.0.0.3' at 20081201T00:00:00Z ('90.000000' secs ago)",
    ]
    with pytest.raises(Failure, match="previously received proposal for 10"):
        on("host.commit_new_master", "10.0.0.2")
    on("host.abort_new_master", "10.0.0.3")
    on("host.propose_new_master", "10.0.0.2", True)
    c.sleep(601)
    on("host.propose_new_master", "10.0.0.3", True)
    on("host.commit_new_master", "10.0.0.3")
    assert c.pool.machine("host2").system.role == "slave:10.0.0.3"


def test_a_host_that_commits_to_itself_is_master_once_the_old_one_is_gone(calls: Make) -> None:
    """While the old one serves, whoever starts as master becomes its member again."""
    c = calls(hosts=2, release="8.2")
    on = local(c, "host2")
    on("host.propose_new_master", "10.0.0.2", True)
    on("host.commit_new_master", "10.0.0.2")
    assert c.pool.machine("host2").system.role == "master"
    c.sleep(120)
    assert c.pool.machine("host2").system.role == "slave:10.0.0.1"
    assert c.pool.machine("host2").xapi.mode == "member"


def test_update_master_points_a_member_elsewhere(calls: Make) -> None:
    """Only toolstacks may; there it is not known, and says so."""
    c = calls(hosts=2, release="8.2")
    beside = c.pool.neighbour()
    host = c.host("host2").ref
    assert c.refused("host.update_master", host, "10.0.0.3")[0] == "INTERNAL_ERROR"
    secret = c.pool.machine("host1").system.pool_secret
    own = c.pool.dispatch("session.slave_login", [host, secret])
    c.pool.dispatch("host.update_master", [own, host, "host3"])
    c.sleep(60)
    machine = c.pool.machine("host2")
    assert (machine.system.role, machine.pool) == ("slave:10.0.0.3", c.pool)
    assert machine.xapi.error == ["HOST_UNKNOWN_TO_MASTER", machine.system.installation_uuid]
    assert len(beside.store.table("host")) == 1


# --- lost


@pytest.mark.parametrize("release", RELEASES)
def test_a_member_takes_the_place_of_a_master_that_was_lost(release: str) -> None:
    """The others wait in emergency mode until they are told; the old master, switched on again, is a member. Its guests were
    lost with its power, no other's were, and nothing of the database."""
    pool = MockPool.create(hosts=3, vms=6, release=release)
    session = login(pool, "10.0.0.1")
    written = session.VM.get_by_name_label("vm04")[0]
    session.VM.set_name_description(written, "just before")
    guests = {m.name: set(m.domains) for m in pool.machines}
    pool.hands.power_off("host1")
    pool.clock.advance(60)
    for name in ("host2", "host3"):
        with pytest.raises(Failure, match="HOST_STILL_BOOTING"):
            pool.dispatch("session.login_with_password", ["root", "secret"], pool.machine(name))

    before_it = xenctl.Session("http://10.0.0.2", transport=pool.transport())
    ref = before_it.session.slave_local_login_with_password("root", "secret")
    before_it = xenctl.Session("http://10.0.0.2", ref=ref, transport=pool.transport())
    assert before_it.host.is_in_emergency_mode()
    before_it.pool.emergency_transition_to_master()
    pool.clock.advance(60)
    session = login(pool, "10.0.0.2")
    assert pool.machine("host3").xapi.mode == "emergency"
    (third,) = session.host.get_by_name_label("host3")
    assert session.pool.recover_slaves() == [third]
    pool.clock.run_until(pool.clock.now() + 600, lambda: all_enabled(pool))
    assert all_enabled(pool)
    assert session.VM.get_name_description(written) == "just before"
    assert {name: set(pool.machine(name).domains) for name in ("host2", "host3")} == {
        name: guests[name] for name in ("host2", "host3")
    }
    pool.hands.power_on("host1")
    pool.clock.run_until(pool.clock.now() + 600, lambda: pool.machine("host1").xapi.complete)
    assert pool.machine("host1").system.role == "slave:10.0.0.2"
    assert all_enabled(pool)
    assert {session.host.get_name_label(h) for h in session.host.get_all() if session.host.get_enabled(h)} == {
        "host1",
        "host2",
        "host3",
    }
    assert [m.name for m in pool.machines if m.xapi.mode == "master"] == ["host2"]


def test_an_old_master_that_starts_alone_is_told_by_hand(calls: Make) -> None:
    """It serves its own database while it sees no other master; told to follow, it is a member, and forgets that one."""
    c = calls(hosts=3, vms=3, release="8.2")
    c.pool.hands.power_off("host1")
    c.sleep(30)
    local(c, "host2")("pool.emergency_transition_to_master")
    c.sleep(60)
    c = c.again()
    c("pool.recover_slaves")
    c = settled(c, "host2")
    c("VM.set_name_label", c.vm("vm02").ref, "renamed")
    c.pool.hands.power_off("host2")
    c.pool.hands.power_on("host1")
    c.until(lambda: c.pool.machine("host1").xapi.mode == "master")
    old = c.again()
    assert old.vm("vm02")["name_label"] == "vm02"
    assert c.pool.machine("host3").xapi.mode == "emergency"
    old("pool.emergency_reset_master", "10.0.0.2")
    c.sleep(60)
    assert c.pool.machine("host1").xapi.mode == "emergency"
    c.pool.hands.power_on("host2")
    c = settled(c, "host2")
    assert c.vm("renamed")["name_label"] == "renamed"
    assert c.pool.machine("host1").xapi.mode == "member"


def test_a_member_follows_only_the_master_that_its_file_names(calls: Make) -> None:
    """A wrong address leaves it in emergency mode, its own makes it say so, and the right one brings it back."""
    c = calls(hosts=2, release="8.2")
    on = local(c, "host2")
    machine = c.pool.machine("host2")
    on("pool.emergency_reset_master", "10.0.0.1")
    c.sleep(60)
    assert machine.xapi.mode == "member", "it did so already"
    for address, error in (("10.9.9.9", "HOST_STILL_BOOTING"), ("host2", "HOST_ITS_OWN_SLAVE")):
        on("pool.emergency_reset_master", address)
        c.sleep(60)
        on = local(c, "host2")
        assert (machine.xapi.mode, machine.xapi.error[0]) == ("emergency", error)
        assert on("host.is_in_emergency_mode")
    on("pool.emergency_reset_master", "host1")
    c.until(lambda: machine.xapi.complete)
    assert c("host.get_enabled", c.host("host2").ref)


def test_where_ha_is_armed_nobody_changes_roles_by_hand(calls: Make) -> None:
    """The host's own files say so, whether or not it sees a database."""
    c = calls(hosts=2, release="8.2")
    secret = c.pool.machine("host1").system.pool_secret
    own = c.pool.dispatch("session.slave_login", [c.host("host1").ref, secret])
    c.pool.dispatch("host.set_localdb_key", [own, c.host("host2").ref, "ha.armed", "true"])
    on = local(c, "host2")
    for method, *args in (("pool.emergency_transition_to_master",), ("pool.emergency_reset_master", "10.0.0.9")):
        with pytest.raises(Failure, match="HA_IS_ENABLED"):
            on(method, *args)
    assert c("pool.recover_slaves") == []
    assert c.pool.machine("host2").system.local == {"ha.armed": "true"}


def test_a_host_keeps_the_database_of_its_own_schema_only(calls: Make) -> None:
    """A member that was not upgraded yet comes up, as master, with the state from before the upgrade."""
    c = calls(hosts=2, release="4.1")
    c("pool.set_name_label", c("pool.get_all")[0], "before")
    c = c.upgrade("host1", "5.0")
    c("pool.set_name_label", c("pool.get_all")[0], "after")
    c.pool.hands.power_off("host1")
    c.sleep(60)
    local(c, "host2")("pool.emergency_transition_to_master")
    c.until(lambda: c.pool.machine("host2").xapi.mode == "master")
    assert c.pool.store.pool()["name_label"] == "before"
    assert str(c.pool.store.release) == "4.1.0"


def test_a_host_that_never_kept_a_database_begins_with_an_empty_one(calls: Make) -> None:
    """While versions are mixed the master sends none: who is promoted then knows itself alone."""
    c = calls(hosts=2, vms=2, release="8.2")
    c.pool.store.write(c.pool.store.pool(), other_config={"rolling_upgrade_in_progress": "true"})
    uuid = c.host("host2")["uuid"]
    c.pool.hands.power_off("host1")
    local(c, "host2")("pool.emergency_transition_to_master")
    c.sleep(60)
    c = c.again()
    assert [c("host.get_uuid", host) for host in c("host.get_all")] == [uuid]
    assert c.pool.machine("host2").domains == {}


def test_the_calls_of_an_emergency_are_answered_in_one(calls: Make) -> None:
    """Those that are about who is master, all of them."""
    c = calls(hosts=2, release="8.2")
    c.pool.hands.power_off("host1")
    for method in ("pool.emergency_reset_master", "host.commit_new_master", "host.management_disable"):
        assert method in EMERGENCY_CALLS
    on = local(c, "host2")
    assert on("pool.is_slave", NULL)
    with pytest.raises(Failure, match="HOST_STILL_BOOTING"):
        on("pool.recover_slaves")


# --- the database


def test_sync_database_gives_every_member_the_database_as_it_is(calls: Make) -> None:
    """A request that is no order is heeded only where another generation is kept."""
    c = calls(hosts=3, release="8.2")
    c("pool.sync_database")
    kept = [m.system.saved for m in c.pool.machines[1:]]
    assert all(dump is not None and dump.generation >= c.pool.store.generation - 9 for dump in kept)
    secret = c.pool.machine("host1").system.pool_secret
    own = c.pool.dispatch("session.slave_login", [c.host("host1").ref, secret])
    machine, host = c.pool.machine("host2"), c.host("host2").ref
    c.pool.dispatch("host.request_backup", [own, host, kept[0].generation, False])
    assert machine.system.saved is kept[0]
    c.pool.dispatch("host.request_backup", [own, host, c.pool.store.generation, False])
    assert machine.system.saved is not kept[0]
    assert c.refused("host.request_backup", host, 0, True)[0] == "INTERNAL_ERROR"
    c.pool.hands.power_off("host3")
    assert c.refused("pool.sync_database")[0] == "CANNOT_CONTACT_HOST"


def test_hello_tells_whether_the_master_knows_a_host_and_reaches_it(calls: Make) -> None:
    """What it knows of the member follows: it lives, is not ready, and its tasks are over."""
    c = calls(hosts=2, release="8.2")
    host = c.host("host2")
    assert c("pool.hello", "nobody", "10.0.0.2") == "unknown_host"
    assert c("pool.hello", host["uuid"], "10.9.9.9") == "cannot_talk_back"
    assert host["enabled"]
    task = c("task.create", "x", "")
    c.pool.store.write(c.pool.store.get("task", task), resident_on=host.ref)
    c.pool.store.write(c.pool.store.get("host_metrics", host["metrics"]), live=False)
    assert c("pool.hello", host["uuid"], "10.0.0.2") == "ok"
    assert (host["enabled"], c("host_metrics.get_live", host["metrics"])) == (False, True)
    assert c("task.get_status", task) == "cancelled"
    c.pool.hands.power_off("host2")
    assert c("pool.hello", host["uuid"], "10.0.0.2") == "cannot_talk_back"


# --- leaving


@pytest.mark.parametrize("release", ["4.0.1", *RELEASES])
def test_an_ejected_member_is_a_fresh_pool_of_one(release: str) -> None:
    """Gone from the pool with all that was its own; its local data is gone, and it can join again as a new host."""
    pool = MockPool.create(hosts=3, vms=6, release=release)
    session = login(pool, "10.0.0.1")
    (host,) = session.host.get_by_name_label("host3")
    (storage,) = session.SR.get_by_name_label("Local storage on host3")
    args: dict[str, Any] = {"virtual_size": 1 << 30, "type": "user", "sharable": False, "read_only": False}
    vdi = session.call(
        "VDI.create", [{**args, "SR": storage, "other_config": {}, "name_label": "x", "name_description": ""}]
    )
    vdi_uuid, sr_uuid = session.VDI.get_uuid(vdi), session.SR.get_uuid(storage)
    machine = pool.machine("host3")
    uuid, secret = machine.system.installation_uuid, machine.system.pool_secret
    for vm in session.host.get_resident_VMs(host):
        if not session.VM.get_is_control_domain(vm):
            session.VM.clean_shutdown(vm)
    session.pool.eject(host)
    assert len(session.host.get_all()) == 2
    assert sr_uuid not in [session.SR.get_uuid(sr) for sr in session.SR.get_all()]
    assert all(session.PBD.get_host(pbd) != host for pbd in session.PBD.get_all())
    pool.clock.run_until(pool.clock.now() + 3600, lambda: machine.pool is not pool and machine.xapi.complete)
    assert vdi_uuid not in pool.disks
    assert machine.boots == 2
    assert machine.system.installation_uuid != uuid
    assert machine.system.pool_secret != secret
    alone = login(pool, machine.address)
    assert len(alone.host.get_all()) == 1
    assert [sr.name_label for sr in alone.SR.get_all_records().values()] == ["Local storage"]
    alone.pool.join("10.0.0.1", "root", "secret")
    pool.clock.run_until(pool.clock.now() + 3600, lambda: machine.pool is pool and machine.xapi.complete)
    assert all_enabled(pool)
    assert len(session.host.get_all()) == 3


def test_up_to_8_2_ha_is_what_keeps_a_master(calls: Make) -> None:
    """It is asked about first."""
    c = calls(hosts=2, release="8.2")
    c.pool.store.write(c.pool.store.pool(), ha_enabled=True)
    assert c.refused("pool.eject", c.host("host1").ref) == ["HA_IS_ENABLED"]


def test_why_a_host_may_not_be_ejected(calls: Make) -> None:
    """The master, one that guests run on, one that is away, and any while HA is on or updates are applied."""
    c = calls(hosts=2, vms=2, release="8.4")
    host = c.host("host2").ref
    assert c.refused("pool.eject", host) == ["OPERATION_NOT_ALLOWED", "VM resident on host"]
    assert c.refused("pool.eject", c.host("host1").ref) == ["INTERNAL_ERROR", "Xapi_pool.Cannot_eject_master"]
    pool = c.pool.store.pool()
    c.pool.store.write(pool, ha_enabled=True)
    assert c.refused("pool.eject", host) == ["HA_IS_ENABLED"]
    c.pool.store.write(pool, ha_enabled=False)
    c.pool.hands.power_off("host2")
    assert c.refused("pool.eject", host) == ["CANNOT_CONTACT_HOST", host]
    assert len(c("host.get_all")) == 2


def test_power_lost_after_an_ejection_does_not_bring_the_host_back(calls: Make) -> None:
    """Its files were reset before the fuse was lit."""
    c = calls(hosts=2, release="8.2")
    c("pool.eject", c.host("host2").ref)
    c.pool.hands.power_off("host2")
    c.pool.hands.power_on("host2")
    c.sleep(600)
    assert len(c.of("host2")("host.get_all")) == 1
    assert c.pool.machine("host2").pool is not c.pool


@pytest.mark.parametrize("deed", ["designate", "eject", "lost"])
def test_what_becomes_of_masters_and_members_is_taken_back(calls: Make, picture: Any, deed: str) -> None:
    """A rollback returns roles, databases and pools to what they were."""
    c = calls(hosts=3, vms=3, release="8.2")
    c("VM.clean_shutdown", c.vm("vm02").ref)
    before = picture(c.pool)
    with c.pool.savepoint():
        if deed == "designate":
            c("pool.designate_new_master", c.host("host2").ref)
        elif deed == "eject":
            c("pool.eject", c.host("host2").ref)
        else:
            c.pool.hands.power_off("host1")
            c.sleep(60)
            local(c, "host2")("pool.emergency_transition_to_master")
        c.sleep(3600)
        assert c.pool.machine("host2").pool.master is c.pool.machine("host2")
    assert picture(c.pool) == before


def test_who_becomes_master_has_the_pools_blobs(calls: Make) -> None:
    """They are copied before it is asked, and the host shows when."""
    c = calls(hosts=2, release="8.2")
    host = c.host("host2")
    assert "last_blob_sync_time" not in host["other_config"]
    c("pool.designate_new_master", host.ref)
    assert "last_blob_sync_time" in host["other_config"]
