"""Which hosts live, who is master, and hosts that reset themselves, while high availability is on."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from protected import guests, lose, protected, told

from mockserver import MockPool

Make = Callable[..., Any]
NFS = "NFS virtual disk storage"


def roles(c: Any) -> dict[str, tuple[str, str]]:
    return {machine.name: (machine.system.role, machine.xapi.mode) for machine in c.pool.machines}


# --- the master is lost


def test_a_member_becomes_master_by_itself(calls: Make) -> None:
    """With the database as it was; the other members follow it, and VMs of the lost host start."""
    c = protected(calls)
    vm = next(vm for vm in guests(c) if vm["resident_on"] == c.host("host1").ref)
    c("VM.set_name_description", vm.ref, "written just before")
    lose(c, "host1", 300)
    assert roles(c) == {
        "host1": ("master", "down"),
        "host2": ("master", "master"),
        "host3": ("slave:10.0.0.2", "member"),
    }
    c = c.again()
    assert c.pool.store.pool()["master"] == c.host("host2").ref
    assert c("VM.get_record", vm.ref)["name_description"] == "written just before"
    assert c("VM.get_power_state", vm.ref) == "Running"
    assert vm["resident_on"] != c.host("host1").ref
    assert told(c) == ["HA_HOST_FAILED"]
    assert c.unharmed()


def test_a_member_that_cannot_say_so_does_not(calls: Make) -> None:
    """It has just lost its way to the state file, on which the new master is written."""
    c = protected(calls)
    lose(c, "host1", 70)
    c.pool.hands.lose_storage("host2", NFS)
    c.sleep(40)
    assert roles(c)["host3"] == ("master", "master")


def test_the_members_say_who_is_master_now(calls: Make) -> None:
    """Nobody serves in between; then a member names the new address."""
    c = protected(calls)
    lose(c, "host1", 30)
    assert not c.pool.master_serves
    c.sleep(270)
    c = c.again()
    assert c.refused("VM.get_all", on="host3") == ["HOST_IS_SLAVE", "10.0.0.2"]


def test_the_old_master_comes_back_as_a_member(calls: Make) -> None:
    """The state file tells it who is master; it is not fooled by its own database."""
    c = protected(calls)
    lose(c, "host1", 300)
    c.pool.hands.power_on("host1")
    c.sleep(400)
    c = c.again()
    assert roles(c)["host1"] == ("slave:10.0.0.2", "member")
    assert c.host("host1")["enabled"]
    assert told(c) == ["HA_HOST_FAILED", "HA_HOST_WAS_FENCED"]


def test_it_gives_way_also_where_all_is_over(calls: Make) -> None:
    """High availability was switched off meanwhile: it lays down its arms, and finds that there is another master."""
    c = protected(calls)
    lose(c, "host1", 300)
    c = c.again()
    c("pool.disable_ha")
    c.pool.hands.power_on("host1")
    c.sleep(400)
    assert roles(c)["host1"] == ("slave:10.0.0.2", "member")
    assert not c.pool.machine("host1").system.armed


def test_a_master_that_reboots_hands_over(calls: Make) -> None:
    """It leaves on purpose, so another is master at once; that it was on purpose only the old one knew."""
    c = protected(calls)
    for vm in [vm for vm in guests(c) if vm["resident_on"] == c.host("host1").ref]:
        c("VM.pool_migrate", vm.ref, c.host("host2").ref, {"live": "true"})
    c("host.disable", c.host("host1").ref)
    c("host.reboot", c.host("host1").ref)
    c.sleep(60)
    assert roles(c)["host2"] == ("master", "master")
    c.sleep(400)
    c = c.again()
    assert roles(c)["host1"] == ("slave:10.0.0.2", "member")
    assert told(c) == ["HA_HOST_FAILED"]


def test_a_masters_toolstack_that_dies_stays_master(calls: Make) -> None:
    """Its host lives, and its daemon starts it again."""
    from mockserver import startup

    c = protected(calls)
    startup.toolstack_died(c.pool, c.pool.machine("host1"))
    c.sleep(300)
    c = c.again()
    assert roles(c)["host1"] == ("master", "master")
    assert {mode for _, mode in roles(c).values()} == {"master", "member"}
    assert told(c) == []


def test_who_starts_first_after_all_were_off_is_master(calls: Make) -> None:
    """A member, too: it finds no master on the state file, and takes the database from its disk."""
    c = protected(calls)
    wanted = {vm["name_label"] for vm in guests(c)}
    for host in ("host1", "host2", "host3"):
        c.pool.hands.power_off(host)
    c.sleep(200)
    c.pool.hands.power_on("host3")
    c.sleep(600)
    c = c.again()
    assert roles(c)["host3"] == ("master", "master")
    assert {vm["name_label"] for vm in guests(c)} == wanted
    for host in ("host1", "host2"):
        c.pool.hands.power_on(host)
    c.sleep(600)
    assert {mode for _, mode in roles(c).values()} == {"master", "member"}
    assert c.unharmed()


def test_it_can_be_taken_back(calls: Make, picture: Callable[[Any], Any]) -> None:
    """A rollback undoes all of it, and it happens the same way again; so it does in a copy."""
    c = protected(calls)
    before = picture(c.pool)
    fork = c.pool.fork()
    point = c.pool.savepoint()
    lose(c, "host1", 300)
    after = picture(c.pool)
    point.rollback()
    assert picture(c.pool) == before
    lose(c, "host1", 300)
    assert picture(c.pool) == after
    fork.hands.power_off("host1")
    fork.clock.advance(300)
    assert picture(fork) == after


def test_a_loaded_pool_is_armed(calls: Make) -> None:
    """A dump that says that it is on makes hosts that take part; without a state file they do not, which is reported."""
    c = protected(calls)
    dump = c.pool.store.dump()
    copy = type(c)(MockPool.from_dump(dump))
    assert [machine.ha_daemon for machine in copy.pool.machines] == ["fencing"] * 3
    wanted = {vm["name_label"] for vm in guests(copy)}
    lose(copy, "host1", 300)
    copy = copy.again()
    assert copy.pool.master.name == "host2"
    assert {vm["name_label"] for vm in guests(copy)} == wanted
    copy("pool.disable_ha")
    c.pool.store.write(c.pool.store.pool(), ha_statefiles=[])
    bare = MockPool.from_dump(c.pool.store.dump())
    assert [machine.system.armed for machine in bare.machines] == [False] * 3
    assert any("no state file" in report for report in bare.reports)


# --- the state file is lost


def test_a_host_that_loses_the_state_file_resets_itself(calls: Make) -> None:
    """Others reach it, so they take its VMs; without its storage the host cannot take part again."""
    c = protected(calls)
    vms = [vm for vm in guests(c) if vm["resident_on"] == c.host("host2").ref]
    c.pool.hands.lose_storage("host2", NFS)
    c.sleep(65)
    machine = c.pool.machine("host2")
    assert (machine.state, machine.domains) == ("starting", {})
    c.sleep(300)
    assert not any(vm["resident_on"] == c.host("host2").ref for vm in vms)
    assert machine.xapi.mode == "emergency"
    assert c.refused("VM.get_all", on="host2") == ["HA_HOST_CANNOT_ACCESS_STATEFILE"]
    assert c.unharmed()
    c.pool.hands.regain_storage("host2", NFS)
    c.sleep(60)
    assert machine.xapi.mode == "member"
    assert told(c) == ["HA_HOST_FAILED", "HA_HOST_WAS_FENCED"]


def test_a_host_that_finds_it_again_in_time_goes_on(calls: Make) -> None:
    """Nothing happened to it."""
    c = protected(calls)
    c.pool.hands.lose_storage("host2", NFS)
    c.sleep(30)
    c.pool.hands.regain_storage("host2", NFS)
    c.sleep(200)
    assert c.pool.machine("host2").boots == 1
    assert told(c) == []


def test_where_all_lose_it_all_go_on(calls: Make) -> None:
    """It is told, and a host cannot be shut down, since nobody could be told of that."""
    c = protected(calls)
    for vm in [vm for vm in guests(c) if vm["resident_on"] == c.host("host3").ref]:
        c("VM.pool_migrate", vm.ref, c.host("host2").ref, {"live": "true"})
    c("host.disable", c.host("host3").ref)
    for host in ("host1", "host2", "host3"):
        c.pool.hands.lose_storage(host, NFS)
    c.sleep(300)
    assert {machine.boots for machine in c.pool.machines} == {1}
    assert told(c) == ["HA_STATEFILE_LOST"]
    assert {tuple(host["ha_statefiles"]) for host in c.pool.store.table("host").values()} == {()}
    assert c.refused("host.shutdown", c.host("host3").ref) == ["HA_LOST_STATEFILE"]


def test_a_master_that_loses_it_is_replaced(calls: Make) -> None:
    """It resets itself, and a member that reaches the state file takes over."""
    c = protected(calls)
    c.pool.hands.lose_storage("host1", NFS)
    c.sleep(300)
    assert roles(c)["host2"] == ("master", "master")
    assert c.pool.machine("host1").boots == 2


def test_storage_whose_cable_is_out_cannot_be_plugged(calls: Make) -> None:
    """Nor does a host that boots find it; without high availability it is enabled all the same."""
    c = calls(release="8.2", hosts=2)
    c.pool.hands.lose_storage("host2", NFS)
    c.halt("host2")
    c.pool.hands.power_on("host2")
    c.back()
    store = c.pool.store
    pbd = next(
        pbd
        for pbd in store.table("PBD").values()
        if (pbd["host"], pbd["SR"]) == (c.host("host2").ref, c.row("SR", NFS).ref)
    )
    assert (pbd["currently_attached"], c.host("host2")["enabled"]) == (False, True)
    assert c.refused("PBD.plug", pbd.ref)[0] == "SR_BACKEND_FAILURE_47"
    c.pool.hands.regain_storage("host2", NFS)
    c("PBD.plug", pbd.ref)
    assert pbd["currently_attached"]


# --- what installers and storage mind


def test_an_armed_host_is_not_upgraded(calls: Make) -> None:
    """The installer offers only a fresh installation, until high availability is off."""
    c = protected(calls)
    lose(c, "host3")
    machine = c.pool.machine("host3")
    c.pool.hands.insert_media("host3", "8.4")
    c.pool.hands.power_on("host3")
    c.until(lambda: machine.state == "installer")
    assert c.pool.hands.offers("host3") == ("fresh",)


def test_the_state_files_storage_stays_plugged(calls: Make) -> None:
    """Whoever may be on it."""
    c = protected(calls, vms=0)
    nfs = c.row("SR", NFS)
    assert c.refused("PBD.unplug", nfs["PBDs"][0]) == ["HA_IS_ENABLED"]
    c("pool.disable_ha")
    c("PBD.unplug", nfs["PBDs"][0])
