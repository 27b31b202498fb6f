"""Hosts that lose their path to storage: what fails there, what goes on elsewhere, and how it comes back."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from mockserver import MockPool, PoolServer
from mockserver.invariants import sound
from xenctl import connect
from xenctl.errors import Failure

NFS, LOCAL = "NFS virtual disk storage", "Local storage on host2"
NO_DISK, NO_SR = "SR_BACKEND_FAILURE_46", "SR_BACKEND_FAILURE_47"


@pytest.fixture
def c(calls: Callable[..., Any]) -> Any:
    """Two hosts; vm01 runs on the master, vm02 on the member, vm04 is halted, all with disks on shared storage."""
    out = calls(release="8.2", hosts=2, vms=6)
    out.pool.watch(*sound())
    return out


def lose(c: Any, host: str, sr: str = NFS, **more: Any) -> Any:
    return c.pool.faults.add("storage_path_lost", victim=host, sr=sr, after=0, **more)


def now(c: Any) -> None:
    """Let happen what is due."""
    c.sleep(0.1)


def attached(c: Any, host: str, sr: str) -> bool:
    return bool(
        next(
            pbd["currently_attached"]
            for pbd in c.pool.store.table("PBD").values()
            if (pbd["host"], pbd["SR"]) == (c.host(host).ref, c.row("SR", sr).ref)
        )
    )


def new_disk(c: Any, sr: str) -> dict[str, Any]:
    return {
        "SR": c.row("SR", sr).ref,
        "virtual_size": str(1 << 30),
        "type": "user",
        "sharable": False,
        "read_only": False,
        "other_config": {},
        "name_label": "new",
    }


def test_the_database_is_not_told(c: Any) -> None:
    """The connection stays plugged, the host enabled, its guests running."""
    lose(c, "host2")
    now(c)
    assert attached(c, "host2", NFS)
    assert c("host.get_enabled", c.host("host2").ref)
    assert c("VM.get_power_state", c.vm("vm02").ref) == "Running"
    assert c.pool.violations == []


def test_what_storage_does_on_the_host_that_serves_it_fails(c: Any) -> None:
    """Of shared storage that is the master; each refusal is the plugin's, and leaves nothing behind."""
    sr, vdi = c.row("SR", NFS).ref, c.pool.store.get("VDI", c.vbd("vm04", "0")["VDI"])
    lose(c, "host1")
    now(c)
    disks = set(c.pool.store.table("VDI"))
    for method, *args in (
        ("VDI.create", new_disk(c, NFS)),
        ("VDI.snapshot", vdi.ref, {}),
        ("VDI.clone", vdi.ref, {}),
        ("VDI.resize", vdi.ref, str(1 << 40)),
        ("VDI.update", vdi.ref),
        ("SR.scan", sr),
        ("SR.update", sr),
        ("VM.clone", c.vm("vm04").ref, "copy"),
        ("VM.snapshot", c.vm("vm01").ref, "snapshot"),
    ):
        assert c.refused(method, *args) == [
            NO_SR,
            "",
            f"The SR is not available [opterr={c.row('SR', NFS)['uuid']}]",
            "",
        ]
    assert set(c.pool.store.table("VDI")) == disks
    assert c.row("SR", NFS)["current_operations"] == vdi["current_operations"] == {}
    assert c("VDI.create", new_disk(c, LOCAL))
    assert c.pool.violations == []


def test_disks_are_not_attached_on_the_host(c: Any) -> None:
    """Starting, resuming, migrating there, plugging and rebooting fail; on the other host they do not."""
    here, there = c.host("host1").ref, c.host("host2").ref
    lose(c, "host2")
    now(c)
    uuid = {name: c.pool.store.get("VDI", c.vbd(name, "0")["VDI"])["uuid"] for name in ("vm01", "vm02", "vm04", "vm06")}
    missing = {name: [NO_DISK, "", f"The VDI is not available [opterr={uuid[name]}]", ""] for name in uuid}
    assert c.refused("VM.start_on", c.vm("vm04").ref, there, False, False) == missing["vm04"]
    assert c.refused("VM.resume_on", c.vm("vm06").ref, there, False, False)[0] == NO_DISK
    assert c.refused("VM.pool_migrate", c.vm("vm01").ref, there, {}) == missing["vm01"]
    assert c.refused("VM.pool_migrate", c.vm("vm02").ref, here, {}) == missing["vm02"]
    assert c.refused("VM.hard_reboot", c.vm("vm02").ref) == missing["vm02"]
    assert c.refused("VM.suspend", c.vm("vm02").ref) == missing["vm02"]
    assert c.vm("vm01")["resident_on"] == here
    assert c.vm("vm04")["power_state"] == "Halted"
    assert c.vm("vm02")["power_state"] == "Running"
    assert c.vm("vm06")["power_state"] == "Suspended"
    c("VM.start_on", c.vm("vm04").ref, here, False, False)
    c("VM.resume_on", c.vm("vm06").ref, here, False, False)
    assert c.unharmed()
    assert c.pool.violations == []


def test_a_path_that_is_lost_meanwhile_ends_what_goes_on(c: Any) -> None:
    """A migration to the host that began before; the VM stays where it was."""
    task = c.start("VM.pool_migrate", c.vm("vm01").ref, c.host("host2").ref, {})
    lose(c, "host2")
    c.until(lambda: task["status"] != "pending")
    assert task["error_info"][0] == NO_DISK
    assert c.vm("vm01")["resident_on"] == c.host("host1").ref
    assert c.unharmed()


def test_guests_stall_and_go_on(c: Any) -> None:
    """They write nothing while their disks are gone, and lose nothing; those of the other host write on."""
    fault = lose(c, "host2", lasting=600)
    now(c)
    here, there = (c.pool.domain(c.vm(name))[1] for name in ("vm01", "vm02"))
    c.sleep(300)
    assert c.unharmed()
    stalled = there.guest.writes
    before = here.guest.writes
    c.sleep(200)
    assert c.unharmed()
    assert there.guest.writes == stalled
    assert here.guest.writes == before + 20
    c.sleep(100 + 50)
    assert c.unharmed()
    assert stalled < there.guest.writes <= stalled + 6
    assert fault.fired == 1
    c("VM.start_on", c.vm("vm04").ref, c.host("host2").ref, False, False)


def test_a_stalled_guest_does_not_shut_down_in_time(c: Any) -> None:
    """Cleanly it does once the disks are back, within twenty minutes; by force at any time."""
    vm = c.vm("vm02")
    lose(c, "host2", lasting=3000)
    now(c)
    assert c.refused("VM.clean_shutdown", vm.ref) == ["VM_SHUTDOWN_TIMEOUT", vm.ref, "1200"]
    assert vm["power_state"] == "Running"
    c.sleep(1000)
    c("VM.clean_shutdown", vm.ref)
    assert vm["power_state"] == "Halted"
    assert c.pool.machine("host2").lost == set()


def test_shutdown_uses_force_where_the_guest_is_stalled(c: Any) -> None:
    """After its patience."""
    lose(c, "host2")
    now(c)
    began = c.pool.clock.now()
    c("VM.shutdown", c.vm("vm02").ref)
    assert c.vm("vm02")["power_state"] == "Halted"
    assert c.pool.clock.now() - began >= 1200


def test_guests_crash_by_policy(c: Any) -> None:
    """Those with disks there, and no others; the database is told, nothing that was written is lost."""
    lose(c, "host2", guests="crash")
    now(c)
    assert c.vm("vm02")["power_state"] == "Halted"
    assert c.pool.domain(c.vm("vm02")) is None
    assert c.vm("vm01")["power_state"] == "Running"
    assert c.unharmed()
    assert c.pool.violations == []


def test_other_storage_of_the_host_is_reached(c: Any) -> None:
    """And guests that have nothing there do not notice."""
    lose(c, "host2", LOCAL, guests="crash")
    now(c)
    assert c.refused("VDI.create", new_disk(c, LOCAL))[0] == NO_SR
    assert c("VDI.create", new_disk(c, NFS))
    assert c.vm("vm02")["power_state"] == "Running"


def test_a_connection_is_unplugged_but_not_plugged(c: Any) -> None:
    """Until the path is back."""
    pbd = c.row("SR", LOCAL)["PBDs"][0]
    c.pool.hands.lose_storage("host2", LOCAL)
    c("PBD.unplug", pbd)
    assert c.refused("PBD.plug", pbd)[0] == NO_SR
    c.pool.hands.regain_storage("host2", LOCAL)
    c("PBD.plug", pbd)
    assert attached(c, "host2", LOCAL)


def test_a_host_that_starts_without_the_path_does_not_plug_it(c: Any) -> None:
    """What is there it plugs."""
    c("VM.hard_shutdown", c.vm("vm02").ref)
    c.pool.hands.lose_storage("host2", NFS)
    c.pool.hands.power_off("host2")
    c.pool.hands.power_on("host2")
    c.until(lambda: c.pool.machine("host2").xapi.complete)
    assert not attached(c, "host2", NFS)
    assert attached(c, "host2", LOCAL)


def test_the_content_of_a_disk_is_not_sent(c: Any) -> None:
    """Nor received, by the host that does not reach it."""
    from mockserver.http import answer

    vdi = c.vbd("vm04", "0")["VDI"]
    c.pool.hands.lose_storage("host1", NFS)
    target = f"/export_raw_vdi?session_id={c.session}&vdi={vdi}"
    assert answer(c.pool, c.pool.machine("host1"), "GET", target, {}, b"", "http://h").status != 200
    c.pool.hands.regain_storage("host1", NFS)
    assert answer(c.pool, c.pool.machine("host1"), "GET", target, {}, b"", "http://h").status == 200


def test_it_is_taken_back_and_forked(c: Any, picture: Callable[[MockPool], Any]) -> None:
    """As all that is state."""
    pool = MockPool.create(hosts=2, vms=6, release="8.2")
    before = picture(pool)
    with pool.savepoint():
        pool.hands.lose_storage("host2", NFS)
        pool.clock.advance(500)
        pool.hands.lose_storage("host1", NFS, guests="crash")
        copy = pool.fork()
        assert copy.machine("host2").lost == pool.machine("host2").lost != set()
    assert picture(pool) == before
    assert copy.machine("host1").lost


def test_a_path_is_lost_once(c: Any) -> None:
    """A second fault has missed, and says why."""
    first, second = lose(c, "host2"), lose(c, "host2")
    now(c)
    assert (first.fired, second.fired) == (1, 0)
    assert "host2 did not reach the storage already" in str(second)


def test_before_a_request(c: Any) -> None:
    """By its coordinates, and as text."""
    c.pool.faults.plan(f"storage_path_lost VM.start nth=2 victim=host1 sr={c.row('SR', NFS)['uuid']}")
    c.pool.faults.plan(f"storage_path_lost VM.start nth=2 victim=host2 sr={c.row('SR', NFS)['uuid']}")
    c("VM.start", c.vm("vm04").ref, False, False)
    c("VM.hard_shutdown", c.vm("vm04").ref)
    assert c.refused("VM.start", c.vm("vm04").ref, False, False)[0] == NO_DISK
    assert c.pool.faults.unused() == []


def test_over_sockets() -> None:
    """The client sees the plugin's error, and the VM starts once the path is back."""
    pool = MockPool.create(hosts=1, vms=4, release="8.2")
    pool.faults.add("storage_path_lost", method="VM.start", victim="host1", sr=NFS)
    with PoolServer(pool) as server, connect(server.url, "root", "secret") as session:
        (vm,) = session.VM.get_by_name_label("vm04")
        with pytest.raises(Failure) as refused:
            session.VM.start(vm, False, False)
        assert refused.value.code == NO_DISK
        pool.hands.regain_storage("host1", NFS)
        session.VM.start(vm, False, False)
        assert session.VM.get_power_state(vm) == "Running"


@pytest.mark.parametrize("release", ["4.0.1", "6.2"])
def test_older_pools(calls: Callable[..., Any], release: str) -> None:
    """The same there."""
    c = calls(release=release, hosts=2, vms=6)
    lose(c, "host1")
    lose(c, "host2")
    now(c)
    assert c.refused("VM.start", c.vm("vm04").ref, False, False)[0] == NO_DISK
    assert c.refused("SR.scan", c.row("SR", NFS).ref)[0] == NO_SR
