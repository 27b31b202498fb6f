"""High availability on one host: what toolstacks tell each other, and what a person does who lost the others."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from protected import lose, protected

Make = Callable[..., Any]
NFS = "NFS virtual disk storage"


class Toolstack:
    """Calls that only hosts may make, with a session that a host gives to itself."""

    def __init__(self, c: Any, host: str = "host1") -> None:
        self.pool, self.machine = c.pool, c.pool.machine(host)
        login = "session.slave_local_login_with_password"
        self.session = c.pool.dispatch(login, ["root", "secret"], self.machine)

    def __call__(self, method: str, *args: Any) -> Any:
        return self.pool.dispatch(method, [self.session, *args], self.machine)


def test_hosts_are_told_one_by_one(calls: Make) -> None:
    """What switching it on and off is made of: configured, taking part, harmless, stopped, unarmed."""
    c = calls(release="8.2", hosts=2)
    c("pool.enable_ha", [], {})
    c("pool.disable_ha")
    disks = {vdi["type"]: vdi for vdi in c.pool.store.table("VDI").values()}
    statefile, metadata = disks["ha_statefile"], disks["redo_log"]
    tell, host, machine = Toolstack(c), c.host("host2"), c.pool.machine("host2")
    c.pool.store.write(host, ha_statefiles=[])
    tell("host.preconfigure_ha", host.ref, [statefile.ref], metadata.ref, "generation")
    assert host["ha_statefiles"] == [statefile.ref]
    assert [reason for _, reason in machine.system.static_vdis] == ["HA statefile", "HA metadata VDI"]
    assert (machine.system.armed, machine.ha_daemon) == (False, "")
    tell("host.ha_join_liveset", host.ref)
    assert (machine.system.armed, machine.ha_daemon, machine.system.ha.decides) == (True, "fencing", True)
    tell("host.ha_disable_failover_decisions", host.ref)
    assert not machine.system.ha.decides
    tell("host.ha_disarm_fencing", host.ref)
    assert machine.ha_daemon == "disarmed"
    tell("host.ha_stop_daemon", host.ref)
    assert (machine.ha_daemon, machine.system.armed) == ("", True)
    tell("host.ha_wait_for_shutdown_via_statefile", host.ref)
    tell("host.ha_release_resources", host.ref)
    assert (machine.system.ha, machine.system.static_vdis) == (None, ())


def test_only_toolstacks_may_tell(calls: Make) -> None:
    """A session of a user gets nowhere."""
    c = calls(release="8.2", hosts=2)
    assert c.refused("host.ha_stop_daemon", c.host("host2").ref)[0] == "INTERNAL_ERROR"


def test_a_host_that_is_not_there_is_not_told(calls: Make) -> None:
    """The call says so."""
    c = protected(calls)
    lose(c, "host2")
    tell = Toolstack(c)
    for method in ("ha_join_liveset", "ha_disarm_fencing", "ha_release_resources"):
        with pytest.raises(Exception, match="HOST_OFFLINE"):
            tell(f"host.{method}", c.host("host2").ref)


def test_a_disarmed_host_does_not_reset_itself(calls: Make) -> None:
    """Whatever it loses; another one does."""
    c = protected(calls)
    Toolstack(c)("host.ha_disarm_fencing", c.host("host2").ref)
    for host in ("host2", "host3"):
        c.pool.hands.lose_storage(host, NFS)
    c.sleep(600)
    assert [c.pool.machine(host).boots for host in ("host2", "host3")] == [1, 2]


def test_a_host_without_decisions_does_not_become_master(calls: Make) -> None:
    """Another one does."""
    c = protected(calls)
    Toolstack(c)("host.ha_disable_failover_decisions", c.host("host2").ref)
    lose(c, "host1", 300)
    assert c.pool.master.name == "host3"


def test_waiting_for_the_state_file_ends_with_it(calls: Make) -> None:
    """When the host has read that it is over, or cannot read it any more."""
    c = protected(calls)
    tell = Toolstack(c)
    waits = tell("Async.host.ha_wait_for_shutdown_via_statefile", c.host("host2").ref)
    task = c.pool.store.get("task", waits)
    c.sleep(100)
    assert task["status"] == "pending"
    c.pool.hands.lose_storage("host2", NFS)
    c.sleep(5)
    assert task["error_info"] == ["HA_LOST_STATEFILE"]
    c.pool.hands.regain_storage("host2", NFS)
    task = c.pool.store.get("task", tell("Async.host.ha_wait_for_shutdown_via_statefile", c.host("host2").ref))
    c("pool.disable_ha")
    assert task["status"] == "success"


def test_disks_are_attached_before_anything_starts(calls: Make) -> None:
    """Each once, with its reason; what holds no data is refused."""
    c = calls(release="8.4", hosts=2)
    nfs = c.row("SR", NFS)
    vdi = c.pool.store.create("VDI", c.pool.new_ref(), {"uuid": c.pool.new_uuid(), "SR": nfs.ref, "type": "user"})
    tell, host = Toolstack(c), c.host("host2")
    tell("host.attach_static_vdis", host.ref, {vdi.ref: "why"})
    tell("host.attach_static_vdis", host.ref, {vdi.ref: "again"})
    assert c.pool.machine("host2").system.static_vdis == ((vdi["uuid"], "why"),)
    tell("host.detach_static_vdis", host.ref, [vdi.ref])
    assert c.pool.machine("host2").system.static_vdis == ()
    c.pool.store.write(vdi, type="cbt_metadata")
    with pytest.raises(Exception, match="VDI_INCOMPATIBLE_TYPE"):
        tell("host.attach_static_vdis", host.ref, {vdi.ref: "why"})
    with pytest.raises(Exception, match="VDI_INCOMPATIBLE_TYPE"):
        tell("host.preconfigure_ha", host.ref, [vdi.ref], vdi.ref, "generation")


# --- in an emergency


def test_one_host_can_forget_it(calls: Make) -> None:
    """It waits for a state file that does not come back; then it starts, but not into a pool that has not forgotten."""
    c = protected(calls)
    c.pool.hands.lose_storage("host2", NFS)
    c.sleep(400)
    alone = Toolstack(c, "host2")
    assert alone.machine.xapi.error == ["HA_HOST_CANNOT_ACCESS_STATEFILE"]
    with pytest.raises(Exception, match="HA_HOST_CANNOT_ACCESS_STATEFILE"):
        alone("host.local_assert_healthy")
    alone("host.emergency_ha_disable", False)
    c.sleep(60)
    assert alone.machine.xapi.error == ["HA_POOL_IS_ENABLED_BUT_HOST_IS_DISABLED"]
    assert not alone.machine.system.armed


def test_a_soft_one_lasts_until_the_next_boot(calls: Make) -> None:
    """The daemon stops, the host stays armed; without any the soft call is content and the other is not."""
    c = protected(calls)
    machine = c.pool.machine("host2")
    Toolstack(c, "host2")("host.emergency_ha_disable", True)
    assert (machine.ha_daemon, machine.system.armed) == ("", True)
    c("pool.disable_ha")
    assert Toolstack(c, "host2")("host.emergency_ha_disable", True) == ""
    with pytest.raises(Exception, match="HA_NOT_ENABLED"):
        Toolstack(c, "host2")("host.emergency_ha_disable", False)


def test_a_master_that_forgot_it_forgets_it_for_the_pool(calls: Make) -> None:
    """When it starts again: the pool has no high availability any more."""
    c = protected(calls)
    for host in ("host1", "host2", "host3"):
        Toolstack(c, host)("host.emergency_ha_disable", False)
    assert c.pool.store.pool()["ha_enabled"]
    c("host.restart_agent", c.host("host1").ref)
    c.sleep(60)
    c = c.back()
    assert not c.pool.store.pool()["ha_enabled"]
    assert [m.xapi.mode for m in c.pool.machines] == ["master", "member", "member"]


def test_a_toolstack_that_answers_is_well(calls: Make) -> None:
    """Also one of a member, or in an emergency; that it is in one is what the other call is for."""
    c = protected(calls)
    member = Toolstack(c, "host2")
    assert member("host.ha_xapi_healthcheck") is True
    assert member("host.local_assert_healthy") == ""
    c.pool.hands.power_off("host1")
    c.sleep(5)
    member = Toolstack(c, "host2")
    assert member("host.ha_xapi_healthcheck") is True
    with pytest.raises(Exception, match="HOST_STILL_BOOTING"):
        member("host.local_assert_healthy")
