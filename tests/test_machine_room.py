"""The machine room: power, media, the installer, and what an installation keeps."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from mockserver import Durations, MockPool
from mockserver.machine.host import MachineRoomError
from xenctl.errors import ConnectError, Failure
from xenctl.releases import find
from xenctl.session import connect

Make = Callable[..., Any]


def to_installer(pool: MockPool, host: str, release: str) -> None:
    """Show the installer of a release on a host that is off."""
    pool.hands.insert_media(host, release)
    pool.hands.power_on(host)
    pool.clock.run_until(pool.clock.now() + 600, lambda: pool.hands.power(host) == "installer")


# --- power


def test_power_goes_on_and_off() -> None:
    """A look at the host shows how far it is; the button of one that is on does nothing good."""
    pool = MockPool.create(hosts=2, vms=0, release="8.2")
    hands = pool.hands
    assert hands.power("host2") == "running"
    with pytest.raises(MachineRoomError, match="host2 is on already"):
        hands.power_on("host2")
    hands.power_off("host2")
    hands.power_off("host2")
    assert hands.power("host2") == "off"
    hands.power_on("host2")
    assert hands.power("host2") == "starting"
    pool.clock.advance(pool.durations.firmware + pool.durations.os_boot - 1)
    assert hands.power("host2") == "starting"
    pool.clock.advance(1)
    assert hands.power("host2") == "running"


def test_hosts_are_called_by_name_uuid_or_address() -> None:
    """One that is not there is an error that says which are."""
    pool = MockPool.create(hosts=2, vms=0)
    machine = pool.machine("host2")
    assert pool.machine(machine.uuid) is pool.machine(machine.address) is machine
    with pytest.raises(KeyError, match="no host 'host9' in this pool: host1, host2"):
        pool.hands.power("host9")


def test_a_host_that_is_off_refuses_connections() -> None:
    """As one that starts, installs or stops does."""
    pool = MockPool.create(hosts=2, vms=0, release="4.0.1")
    url = f"http://{pool.machine('host2').address}"

    def refused() -> bool:
        try:
            connect(url, "root", "secret", transport=pool.transport()).logout()
        except ConnectError:
            return True
        return False

    assert not refused()
    pool.hands.power_off("host2")
    assert refused()
    to_installer(pool, "host2", "4.0.1")
    assert refused()
    pool.hands.answer("host2", "upgrade")
    assert pool.hands.power("host2") == "installing"
    assert refused()
    pool.clock.run_until(pool.clock.now() + 3600, lambda: pool.machine("host2").xapi.mode == "member")
    assert not refused()


def test_pulling_the_plug_ends_every_guest() -> None:
    """What they wrote up to then stays; the host forgets that they ran."""
    pool = MockPool.create(hosts=2, vms=4, release="8.2")
    machine = pool.machine("host1")
    pool.clock.advance(1000)
    guests = [domain.guest for domain in machine.domains.values()]
    pool.hands.power_off("host1")
    assert machine.domains == {}
    assert [guest.writes for guest in guests] == [100] * len(guests)
    assert not any(disk.writers for disk in pool.disks.values() if disk.uuid in guests[0].ledger)


def test_power_can_be_cut_at_any_time() -> None:
    """While it boots, at the installer, while it stops; it starts again as if nothing had been."""
    pool = MockPool.create(hosts=2, vms=0, release="8.2")
    hands, session = pool.hands, pool.dispatch("session.login_with_password", ["root", "secret"])
    host = pool.host_row(pool.machine("host2"))
    assert host is not None
    pool.dispatch("host.disable", [session, host.ref])
    pool.dispatch("host.shutdown", [session, host.ref])
    pool.clock.advance(15)
    assert hands.power("host2") == "stopping"
    for state in ("stopping", "starting", "installer"):
        assert hands.power("host2") == state
        hands.power_off("host2")
        assert hands.power("host2") == "off"
        pool.clock.advance(3600)
        assert hands.power("host2") == "off"
        if state == "stopping":
            hands.power_on("host2")
        elif state == "starting":
            to_installer(pool, "host2", "8.2")
    hands.eject_media("host2")
    hands.power_on("host2")
    pool.clock.advance(600)
    assert pool.machine("host2").xapi.mode == "member"


# --- the installer


@pytest.mark.parametrize(
    ("installed", "medium", "offers"),
    [
        ("4.0.1", "4.0.1", {"upgrade", "fresh"}),
        ("4.0.1", "4.1", {"upgrade", "fresh"}),
        ("4.0.1", "5.0", {"fresh"}),
        ("4.1", "5.0", {"upgrade", "fresh"}),
        ("4.1", "5.5", {"fresh"}),
        ("5.0", "5.5", {"upgrade", "fresh"}),
        ("5.5", "5.6", {"upgrade", "fresh"}),
        ("5.6", "6.0", {"upgrade", "fresh"}),
        ("5.6", "6.5", {"upgrade", "fresh"}),
        ("5.5", "6.0", {"fresh"}),
        ("6.5", "7.0", {"upgrade", "fresh"}),
        ("6.5", "8.2", {"fresh"}),
        ("7.0", "8.2", {"upgrade", "fresh"}),
        ("8.2", "7.0", {"fresh"}),
        ("4.1", "4.0.1", {"fresh"}),
        ("8.2", "XCP-ng 8.3", {"upgrade", "fresh"}),
        ("XCP-ng 8.2.1", "8.2.1", {"fresh"}),
    ],
)
def test_the_installer_upgrades_what_its_generation_accepts(installed: str, medium: str, offers: set[str]) -> None:
    """It says what it found; a clean installation is always to be had."""
    pool = MockPool.create(hosts=1, vms=0, release=installed)
    pool.hands.power_off("host1")
    to_installer(pool, "host1", medium)
    assert pool.hands.identified("host1") == find(installed).product_version
    assert set(pool.hands.offers("host1")) == offers


def test_since_6_0_the_installer_asks_the_master_first(calls: Make) -> None:
    """A member is not upgraded before it; one whose master does not answer is. Before 6.0 nobody asked."""
    c = calls(release="8.1", hosts=2)
    c.halt("host2")
    to_installer(c.pool, "host2", "8.2")
    assert c.pool.hands.offers("host2") == ("fresh",)
    c.pool.hands.power_off("host1")
    assert "upgrade" in c.pool.hands.offers("host2")
    c.pool.hands.power_on("host1")
    c.until(lambda: c.pool.master_serves)
    c.pool.hands.power_off("host2")
    to_installer(c.pool, "host2", "8.1")
    assert "upgrade" in c.pool.hands.offers("host2")
    old = calls(release="4.0.1", hosts=2)
    old.halt("host2")
    to_installer(old.pool, "host2", "4.1")
    assert "upgrade" in old.pool.hands.offers("host2")


def test_the_installer_is_asked_only_where_it_is_shown() -> None:
    """And only for what it offers."""
    pool = MockPool.create(hosts=1, vms=0, release="4.0.1")
    with pytest.raises(MachineRoomError, match="host1 does not show an installer: it is running"):
        pool.hands.offers("host1")
    pool.hands.power_off("host1")
    to_installer(pool, "host1", "5.0")
    with pytest.raises(
        MachineRoomError, match=r"the 5\.0\.0 installer on host1 does not offer 'upgrade': it found 4\.0\.1"
    ):
        pool.hands.answer("host1", "upgrade")


def test_an_installer_whose_medium_is_taken_out_shows_what_it_found() -> None:
    """It runs from memory; it cannot install, also not from another medium, until its own is back."""
    pool = MockPool.create(hosts=1, vms=0, release="4.0.1")
    hands = pool.hands
    hands.power_off("host1")
    to_installer(pool, "host1", "4.1")
    hands.eject_media("host1")
    assert (hands.power("host1"), hands.identified("host1")) == ("installer", "4.0.1")
    assert set(hands.offers("host1")) == {"upgrade", "fresh"}
    assert hands.restores("host1") == ""
    for medium in ("", "5.0"):
        if medium:
            hands.insert_media("host1", medium)
        with pytest.raises(MachineRoomError, match="the installer on host1 cannot go on: its medium was taken out"):
            hands.answer("host1", "upgrade")
    hands.insert_media("host1", "4.1")
    hands.answer("host1", "upgrade")
    pool.clock.run_until_idle(3600)
    assert pool.machine("host1").system.release.product_version == "4.1.0"


def test_a_medium_that_is_taken_out_while_it_boots_is_booted() -> None:
    """The installer comes up all the same, and asks, whatever the answer file said that is gone with it."""
    pool = MockPool.create(hosts=1, vms=0, release="4.0.1")
    pool.hands.power_off("host1")
    pool.hands.insert_media("host1", "4.1")
    pool.hands.power_on("host1")
    pool.hands.eject_media("host1")
    pool.clock.run_until_idle(3600)
    assert (pool.hands.power("host1"), pool.hands.identified("host1")) == ("installer", "4.0.1")


def test_without_a_medium_the_disk_boots() -> None:
    """One that was taken out again does not count."""
    pool = MockPool.create(hosts=1, vms=0, release="8.2")
    pool.hands.power_off("host1")
    pool.hands.insert_media("host1", "8.2")
    pool.hands.eject_media("host1")
    pool.hands.power_on("host1")
    pool.clock.advance(600)
    assert pool.hands.power("host1") == "running"


def test_an_installation_boots_from_disk_by_itself(calls: Make) -> None:
    """The medium is out; the first boot takes longer than others; the installation is complete only then."""
    c = calls(release="8.1", hosts=2).upgrade("host1", "8.2")
    machine, d = c.pool.machine("host2"), c.pool.durations
    c.halt("host2")
    to_installer(c.pool, "host2", "8.2")
    started = c.pool.clock.now()
    c.pool.hands.answer("host2", "upgrade")
    c.until(lambda: machine.state == "starting")
    assert (machine.media, machine.system.new) == (None, True)
    c.pool.hands.power_off("host2")
    to_installer(c.pool, "host2", "8.2")
    assert "upgrade" not in c.pool.hands.offers("host2")
    c.pool.hands.eject_media("host2")
    c.pool.hands.power_off("host2")
    on = c.pool.clock.now()
    c.pool.hands.power_on("host2")
    c.until(lambda: machine.state == "running")
    assert c.pool.clock.now() - on == d.firmware + d.first_boot
    assert c.pool.clock.now() - started > d.install


# --- what is kept


KEPT = {
    "pool": ["uuid", "name_label", "default_SR", "suspend_image_SR"],
    "host": ["uuid", "name_label", "address", "memory_overhead", "PIFs", "PBDs", "resident_VMs"],
    "network": ["uuid", "name_label", "bridge", "PIFs"],
    "PIF": ["uuid", "MAC", "device", "management", "IP"],
    "SR": ["uuid", "name_label", "type", "shared"],
    "VDI": ["uuid", "name_label", "SR", "virtual_size", "VBDs"],
    "VM": ["uuid", "name_label", "memory_static_max", "is_control_domain", "VBDs", "VIFs", "other_config", "affinity"],
    "VBD": ["uuid", "VM", "VDI", "userdevice", "mode", "empty"],
}


def identity(machine: Any) -> tuple[str, ...]:
    system = machine.system
    return machine.uuid, system.installation_uuid, system.control_domain_uuid, system.pool_secret


@pytest.mark.parametrize(("before", "after"), [("4.0.1", "4.1"), ("5.6.100", "6.0"), ("8.1", "8.2")])
def test_an_upgrade_keeps_identity_and_records(calls: Make, before: str, after: str) -> None:
    """Of the pool, its hosts, networks, storage and VMs; the local disks are not touched."""
    c = calls(release=before, hosts=2, vms=12)
    store = c.pool.store
    for vm in store.table("VM").values():
        if vm["power_state"] == "Running" and not vm["is_control_domain"]:
            c("VM.clean_shutdown", vm.ref)
    seen = {
        (table, ref): {field: row[field] for field in fields if field in row}
        for table, fields in KEPT.items()
        for ref, row in store.table(table).items()
    }
    identities = [identity(machine) for machine in c.pool.machines]
    c = c.upgrade("host1", after).upgrade("host2", after)
    assert [identity(machine) for machine in c.pool.machines] == identities
    assert {(table, ref) for table in KEPT for ref in c.pool.store.table(table)} == set(seen)
    for (table, ref), fields in seen.items():
        row = c.pool.store.get(table, ref)
        assert {field: row[field] for field in fields} == fields
    for host in ("host1", "host2"):
        row = c.host(host)
        release = find(after)
        assert row["software_version"]["product_version"] == release.product_version
        assert (row["API_version_major"], row["API_version_minor"]) == release.api_version
    assert c("VM.get_record", c.vm("vm01").ref).keys() == set(c.pool.store.shape("VM").visible)
    assert c.unharmed()


def test_the_master_keeps_its_database_and_members_have_none(calls: Make) -> None:
    """Each host has its role from the old system."""
    c = calls(release="8.1", hosts=2).upgrade("host1", "8.2").upgrade("host2", "8.2")
    first, second = (c.pool.machine(host).system for host in ("host1", "host2"))
    assert (first.role, second.role) == ("master", f"slave:{c.pool.master.address}")
    assert first.database is c.pool.store
    assert second.database is None


def test_a_clean_installation_of_a_member_takes_it_out_of_the_pool(calls: Make) -> None:
    """New identity, nothing of the pool's, and the local storage on the same disk is gone; the pool's record of it stays."""
    c = calls(release="8.2", hosts=3, vms=3)
    c("VM.clean_shutdown", c.vm("vm02").ref)
    like = c("VDI.get_record", c.row("VDI", "disk of vm01").ref)
    vdi = c("VDI.create", {**like, "SR": c.row("SR", "Local storage on host2").ref})
    local, shared = c("VDI.get_uuid", vdi), c.row("VDI", "disk of vm02")["uuid"]
    machine, host = c.pool.machine("host2"), c.host("host2")
    before = identity(machine)[1:]
    c.halt("host2")
    c.install("host2", "8.2", "fresh")
    assert not set(before) & set(identity(machine)[1:])
    assert (local in c.pool.disks, shared in c.pool.disks) == (False, True)
    c.sleep(3600)
    assert c.pool.machine_of(host) is None
    assert not c.pool.store.get("host_metrics", host["metrics"])["live"]
    alone = c.of("host2")
    assert [alone.row("host", "host2")["uuid"]] == [machine.system.installation_uuid]
    assert [sr["name_label"] for sr in machine.pool.store.table("SR").values()] == ["Local storage"]
    assert c("host.get_all")
    assert c.pool.master is c.pool.machine("host1")


def test_a_clean_installation_of_the_master_leaves_the_pool_without_one(calls: Make) -> None:
    """Its database was on that disk; what answers at its address knows no member, and they wait for ever."""
    c = calls(release="8.2", hosts=2, vms=2)
    c("VM.clean_shutdown", c.vm("vm01").ref)
    c.halt("host1")
    c.install("host1", "8.2", "fresh")
    c.sleep(86400)
    with pytest.raises(LookupError, match="no host of this pool is its master any more"):
        _ = c.pool.master
    with pytest.raises(Failure, match="HOST_UNKNOWN_TO_MASTER"):
        c.pool.dispatch("pool.get_all", ["x"], c.pool.machine("host2"))
    assert len(c.of("host1")("host.get_all")) == 1
    assert c.vm("vm02")["uuid"] in c.pool.machine("host2").domains


# --- the backup partition


def test_the_backup_partition_holds_the_system_before(calls: Make) -> None:
    """One generation: the next upgrade overwrites it. A clean installation leaves it alone."""
    c = calls(release="4.0.1", hosts=2)
    machine = c.pool.machine("host2")
    assert machine.backup is None
    c = c.upgrade("host1", "4.1").upgrade("host2", "4.1")
    assert str(machine.backup.release) == "4.0.1"
    c = c.upgrade("host1", "5.0").upgrade("host2", "5.0")
    assert str(machine.backup.release) == "4.1.0"
    c.halt("host2")
    to_installer(c.pool, "host2", "5.0")
    assert set(c.pool.hands.offers("host2")) == {"upgrade", "fresh", "restore"}
    c.pool.hands.power_off("host2")
    c.pool.hands.eject_media("host2")
    c.install("host2", "5.0", "fresh")
    assert str(machine.backup.release) == "4.1.0"


def test_a_backup_that_is_too_old_or_too_new_is_not_offered(calls: Make) -> None:
    """The installer restores what it could upgrade."""
    c = calls(release="4.0.1", hosts=1).upgrade("host1", "4.1")
    for medium, offered in (("4.0.1", True), ("4.1", True), ("5.0", False)):
        c.pool.hands.power_off("host1")
        to_installer(c.pool, "host1", medium)
        assert ("restore" in c.pool.hands.offers("host1")) is offered, medium
        c.pool.hands.eject_media("host1")


def test_the_installer_says_what_it_would_restore(calls: Make) -> None:
    """The release in the backup partition; nothing where there is none, or none that it takes."""
    c = calls(release="4.0.1", hosts=1)
    c.pool.hands.power_off("host1")
    to_installer(c.pool, "host1", "4.1")
    assert c.pool.hands.restores("host1") == ""
    c.pool.hands.power_off("host1")
    c = c.install("host1", "4.1").back()
    for medium, held in (("4.0.1", "4.0.1"), ("4.1", "4.0.1"), ("5.0", "")):
        c.pool.hands.power_off("host1")
        to_installer(c.pool, "host1", medium)
        assert c.pool.hands.restores("host1") == held, medium
    c.pool.hands.power_off("host1")
    with pytest.raises(MachineRoomError, match="does not show an installer"):
        c.pool.hands.restores("host1")


@pytest.mark.parametrize(("share", "whole"), [(0.4, True), (0.6, False)])
def test_a_disk_that_is_half_written_does_not_boot(calls: Make, share: float, whole: bool) -> None:
    """First the old system is copied to the backup partition; from then on until the end the disk holds nothing that boots,
    and the installer finds nothing to upgrade. What was copied is restored."""
    c = calls(release="4.0.1", hosts=1)
    c.halt("host1")
    to_installer(c.pool, "host1", "4.1")
    c.pool.hands.answer("host1", "upgrade")
    c.sleep(share * c.pool.durations.install)
    c.pool.hands.power_off("host1")
    c.pool.hands.eject_media("host1")
    c.pool.hands.power_on("host1")
    c.sleep(3600)
    assert c.pool.hands.power("host1") == ("running" if whole else "starting")
    c.pool.hands.power_off("host1")
    to_installer(c.pool, "host1", "4.1")
    hands = c.pool.hands
    found = (hands.identified("host1"), set(hands.offers("host1")), hands.restores("host1"))
    assert found == (("4.0.1", {"upgrade", "fresh"}, "") if whole else ("", {"fresh", "restore"}, "4.0.1"))
    if not whole:
        with pytest.raises(MachineRoomError, match="it found nothing and offers fresh, restore"):
            hands.answer("host1", "upgrade")
        hands.answer("host1", "restore")
        c.until(lambda: c.pool.machine("host1").state == "running")
        assert str(c.pool.machine("host1").system.release) == "4.0.1"


def test_a_restore_brings_back_release_and_database(calls: Make) -> None:
    """As they were at the moment of the upgrade; what happened since is unknown. It can be upgraded and restored again."""
    c = calls(release="4.0.1", hosts=2, vms=0)
    c("network.create", {"name_label": "before", "other_config": {}})
    for _ in range(2):
        c = c.upgrade("host1", "4.1")
        c("network.create", {"name_label": "after", "other_config": {}})
        assert len(c("network.get_all")) == 3
        c.halt("host1")
        c.install("host1", "4.1", "restore")
        c = c.back()
        assert c.pool.master.system.release == c.pool.store.release == find("4.0.1")
        assert c("network.get_by_name_label", "after") == []
        assert len(c("network.get_by_name_label", "before")) == 1
        assert c.host("host1")["software_version"]["product_version"] == "4.0.1"
        assert "host.evacuate" not in c.pool.dispatch("system.listMethods", [])


def test_a_backup_can_be_restored_twice(calls: Make) -> None:
    """What happens after the first time does not get into it."""
    c = calls(release="4.0.1", hosts=1, vms=0).upgrade("host1", "4.1")
    for _ in range(2):
        c.halt("host1")
        c = c.install("host1", "4.1", "restore").back()
        assert len(c("network.get_all")) == 1
        c("network.create", {"name_label": "after", "other_config": {}})


def test_a_member_that_was_upgraded_does_not_follow_a_master_that_was_restored(calls: Make) -> None:
    """It is newer now; restored itself, it comes back."""
    c = calls(release="4.0.1", hosts=2).upgrade("host1", "4.1").upgrade("host2", "4.1")
    c.halt("host1")
    c.install("host1", "4.1", "restore")
    c.sleep(3600)
    assert c.pool.machine("host2").xapi.mode == "emergency"
    c.pool.hands.power_off("host2")
    c.install("host2", "4.1", "restore")
    c = c.back()
    assert {str(m.system.release) for m in c.pool.machines} == {"4.0.1"}


def test_a_restored_belief_meets_what_runs(calls: Make) -> None:
    """A guest that moved since is found where it runs, or ended: never run twice, and nothing that it wrote is lost."""
    c = calls(release="4.0.1", hosts=3, vms=3)
    c("VM.pool_migrate", c.vm("vm01").ref, c.host("host2").ref, {})
    c = c.upgrade("host1", "4.1")
    c("VM.pool_migrate", c.vm("vm01").ref, c.host("host1").ref, {})
    c("VM.pool_migrate", c.vm("vm02").ref, c.host("host1").ref, {})
    c("VM.clean_shutdown", c.vm("vm01").ref)
    c("VM.clean_shutdown", c.vm("vm02").ref)
    c.halt("host1")
    c.install("host1", "4.1", "restore")
    c = c.back()
    assert c.unharmed()
    assert {c.vm(n)["power_state"] for n in ("vm01", "vm02")} == {"Halted"}
    assert c.vm("vm03")["power_state"] == "Running"


# --- how long things take


def test_durations_are_the_pools_own() -> None:
    """A test may have faster machines."""
    pool = MockPool.create(hosts=1, vms=0, durations=Durations(firmware=1.0, os_boot=2.0))
    pool.hands.power_off("host1")
    started = pool.clock.now()
    pool.hands.power_on("host1")
    pool.clock.run_until(started + 100, lambda: pool.hands.power("host1") == "running")
    assert pool.clock.now() - started == 3.0
