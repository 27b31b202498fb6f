"""Pools whose hosts are of different releases: how the master tells, and what each era refuses meanwhile."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from mockserver import rules
from mockserver.http import answer
from mockserver.software import software_version
from xenctl import database
from xenctl.errors import DatabaseError
from xenctl.releases import find

Make = Callable[..., Any]
KEY = "rolling_upgrade_in_progress"
REFUSED = ["NOT_SUPPORTED_DURING_UPGRADE"]


def key(c: Any) -> str | None:
    found: str | None = c.pool.store.pool()["other_config"].get(KEY)
    return found


def mixed(calls: Make, before: str, after: str, vms: int = 12) -> Any:
    """A pool of three hosts whose master, host1, has been upgraded; nothing runs there, vm02 on host2, vm03 on host3."""
    c = calls(release=before, hosts=3, vms=vms)
    for vm in c.pool.store.table("VM").values():
        if vm["resident_on"] == c.host("host1").ref and not vm["is_control_domain"]:
            c("VM.pool_migrate", vm.ref, c.host("host2").ref, {})
    return c.upgrade("host1", after)


# --- how the master tells


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("4.0.1", "4.1"),
        ("4.1", "5.0"),
        ("5.0", "5.5"),
        ("5.5", "5.6"),
        ("5.6", "5.6.100"),
        ("5.6.100", "6.0"),
        ("6.0", "6.1"),
        ("6.1", "6.2"),
        ("6.5", "7.0"),
        ("8.1", "8.2"),
        ("8.2", "8.2.1"),
        ("XCP-ng 8.2.1", "XCP-ng 8.3"),
    ],
)
def test_the_key_tells_that_versions_are_mixed(calls: Make, before: str, after: str) -> None:
    """From half a minute after the first host is of another version, until half a minute after the last one is of the same;
    told by the product version up to 6.0, by the platform's since."""
    c = calls(release=before, hosts=3, vms=0)
    assert key(c) is None
    for number, host in enumerate(("host1", "host2", "host3"), 1):
        c = c.upgrade(host, after)
        c.sleep(31)
        assert key(c) == ("true" if number < 3 else None)
    assert {m.system.release for m in c.pool.machines} == {find(after)}


def test_whoever_waits_for_events_hears_of_the_key(calls: Make) -> None:
    """Its coming and going are changes of the pool, although nobody calls."""
    c = calls(release="7.5", hosts=2, vms=0).upgrade("host1", "7.6")
    assert key(c) == "true"
    c.halt("host2")
    c.install("host2", "7.6")
    token = c("event.from", ["pool"], "", 0)["token"]
    started = c.pool.clock.now()
    out = c("event.from", ["pool"], token, 600.0)
    assert [KEY in event["snapshot"]["other_config"] for event in out["events"]] == [False]
    assert c.pool.clock.now() - started < 60


def test_whoever_sets_the_key_by_hand_is_corrected(calls: Make) -> None:
    """The next pass of the garbage collection looks again, either way; any value counts as set."""
    c = calls(release="8.2", hosts=2)
    (pool,) = c("pool.get_all")
    c("pool.add_to_other_config", pool, KEY, "false")
    assert rules.upgrading(c.pool.store)
    c.sleep(31)
    c("pool.get_all")
    assert key(c) is None
    c = calls(release="8.1", hosts=2).upgrade("host1", "8.2")
    c("pool.remove_from_other_config", c("pool.get_all")[0], KEY)
    c.sleep(31)
    c("pool.get_all")
    assert key(c) == "true"


def test_a_pool_of_one_is_never_mixed(calls: Make) -> None:
    """The master is equal to itself."""
    for before, after in (("4.0.1", "4.1"), ("8.1", "8.2")):
        c = calls(release=before, hosts=1).upgrade("host1", after)
        c.sleep(31)
        assert key(c) is None
        assert c.host("host1")["software_version"]["product_version"] == find(after).product_version


def test_a_dead_host_counts_with_the_version_it_had(calls: Make) -> None:
    """Nobody can say what it would be."""
    c = calls(release="8.1", hosts=2, vms=0)
    c.pool.machine("host2").power_off()
    c = c.upgrade("host1", "8.2")
    c.sleep(3600)
    assert key(c) == "true"


@pytest.mark.parametrize(
    ("release", "name", "tells"),
    [
        *(("6.0", "product_version", True), ("6.0", "platform_version", False)),
        *(("8.2", "product_version", False), ("8.2", "platform_version", True), ("8.2", "xapi", True)),
    ],
)
def test_each_era_looks_at_its_own_version(calls: Make, release: str, name: str, tells: bool) -> None:
    """The product's up to 6.0, those of platform and toolstack since."""
    c = calls(release=release, hosts=2)
    host = c.host("host2")
    c.pool.store.write(host, software_version={**host["software_version"], name: "1.0.7"})
    c.sleep(31)
    c("pool.get_all")
    assert key(c) == ("true" if tells else None)


def test_versions_are_compared_number_by_number() -> None:
    """What follows a dash counts on; what is no number does not; a key that is missing is lower than any."""
    release = find("8.2")

    def order(a: dict[str, str], b: dict[str, str]) -> bool:
        from mockserver.store import Row

        rows = [Row("host", "x", {"software_version": {"xapi": "1.20", **version}}) for version in (a, b)]
        return rules.at_least(rows[0], rows[1], release)

    assert order({"platform_version": "3.10.0"}, {"platform_version": "3.9.9"})
    assert not order({"platform_version": "3.2"}, {"platform_version": "3.2.1"})
    assert order({"platform_version": "3.2.1-xcp"}, {"platform_version": "3.2.1"})
    assert order({"platform_version": "3.2.1-2"}, {"platform_version": "3.2.1-1"})
    assert not order({}, {"platform_version": "1.4.90"})


# --- what is refused: up to 5.x


@pytest.mark.parametrize(("before", "after"), [("4.0.1", "4.1"), ("4.1", "5.0"), ("5.0", "5.5"), ("5.5", "5.6")])
def test_up_to_5_x_nothing_moves_below_the_masters_version(calls: Make, before: str, after: str) -> None:
    """Not even from old to old, once the master is new; from old to new, guests move."""
    c = mixed(calls, before, after)
    vm = c.vm("vm02").ref
    assert c.refused("VM.pool_migrate", vm, c.host("host3").ref, {}) == REFUSED
    c("VM.pool_migrate", vm, c.host("host1").ref, {})
    assert c.refused("VM.pool_migrate", vm, c.host("host2").ref, {}) == REFUSED
    assert c.vm("vm02")["resident_on"] == c.host("host1").ref
    assert c.unharmed()


@pytest.mark.parametrize(("before", "after"), [("4.0.1", "4.1"), ("5.5", "5.6")])
def test_up_to_5_x_a_vm_may_start_on_an_old_member(calls: Make, before: str, after: str) -> None:
    """And be resumed there; nothing looked at versions yet."""
    c = mixed(calls, before, after)
    old = c.host("host3").ref
    c("VM.start_on", c.vm("vm04").ref, old, False, False)
    c("VM.resume_on", c.vm("vm06").ref, old, False, False)
    c("VM.assert_can_boot_here", c.vm("vm08").ref, old)
    c("VM.assert_operation_valid", c.vm("vm01").ref, "changing_VCPUs_live")
    assert c.unharmed()


def test_while_a_4_0_1_host_is_master_nothing_is_refused(calls: Make) -> None:
    """It knew no such rule; a newer member is not in its pool anyway."""
    c = calls(release="4.0.1", hosts=3, vms=12)
    c("VM.pool_migrate", c.vm("vm02").ref, c.host("host3").ref, {})
    c("VM.pool_migrate", c.vm("vm02").ref, c.host("host2").ref, {})
    assert key(c) is None


# --- what is refused: since 6.0


@pytest.mark.parametrize(("before", "after"), [("5.6", "6.0"), ("6.0", "6.1"), ("8.1", "8.2"), ("8.2", "8.2.1")])
def test_since_6_0_vms_start_on_the_newest_hosts_alone(calls: Make, before: str, after: str) -> None:
    """A host that is named is looked at before anything else; none is chosen that is older."""
    c = mixed(calls, before, after)
    new, old = c.host("host1"), c.host("host3")
    for method, vm in (("VM.start_on", "vm04"), ("VM.resume_on", "vm06"), ("VM.start_on", "vm01")):
        assert c.refused(method, c.vm(vm).ref, old.ref, False, False) == REFUSED
    c("VM.set_affinity", c.vm("vm04").ref, old.ref)
    c("VM.start", c.vm("vm04").ref, False, False)
    c("VM.resume", c.vm("vm06").ref, False, False)
    assert {c.vm("vm04")["resident_on"], c.vm("vm06")["resident_on"]} == {new.ref}
    c("host.disable", new.ref)
    assert c.refused("VM.start", c.vm("vm08").ref, False, False) == ["NO_HOSTS_AVAILABLE"]
    error = ["VM_HOST_INCOMPATIBLE_VERSION", old.ref, c.vm("vm08").ref]
    assert c.refused("VM.assert_can_boot_here", c.vm("vm08").ref, old.ref) == error
    assert c.unharmed()


@pytest.mark.parametrize(("before", "after"), [("5.6", "6.0"), ("6.0", "6.1"), ("8.1", "8.2")])
def test_since_6_0_nothing_moves_backwards(calls: Make, before: str, after: str) -> None:
    """Old to old and old to new is fine, new to old is not; once versions are equal it is fine again."""
    c = mixed(calls, before, after)
    vm, hosts = c.vm("vm02").ref, [c.host(f"host{n}").ref for n in (1, 2, 3)]
    c("VM.pool_migrate", vm, hosts[2], {})
    c("VM.pool_migrate", vm, hosts[1], {})
    c("VM.pool_migrate", vm, hosts[0], {})
    assert c.refused("VM.pool_migrate", vm, hosts[1], {}) == REFUSED
    for guest in c.pool.store.table("VM").values():
        if guest["power_state"] == "Running" and not guest["is_control_domain"]:
            c("VM.pool_migrate", guest.ref, hosts[0], {})
    c = c.upgrade("host2", after)
    c("VM.pool_migrate", vm, hosts[1], {})
    assert c.refused("VM.pool_migrate", vm, hosts[2], {}) == REFUSED
    c = c.upgrade("host3", after)
    c.sleep(31)
    c("VM.pool_migrate", vm, hosts[2], {})
    assert c.unharmed()


@pytest.mark.parametrize(
    ("before", "after", "enforced"),
    [("5.5", "5.6", False), ("7.1", "7.2", False), ("7.2", "7.3", True), ("8.1", "8.2", True)],
)
def test_some_operations_are_not_offered_meanwhile(calls: Make, before: str, after: str, enforced: bool) -> None:
    """They disappear from the list; since 7.3 they are refused too, after every other reason."""
    c = mixed(calls, before, after)
    halted, running = c.vm("vm04"), c.vm("vm02")
    for vm in (halted, running):
        c("VM.update_allowed_operations", vm.ref)
        assert not {"snapshot", "checkpoint", "changing_dynamic_range"} & set(vm["allowed_operations"])
    assert {"start", "start_on", "clone", "destroy"} <= set(halted["allowed_operations"])
    assert {"pool_migrate", "suspend", "clean_shutdown"} <= set(running["allowed_operations"])
    if enforced:
        assert c.refused("VM.assert_operation_valid", halted.ref, "snapshot") == REFUSED
        assert c.refused("VM.assert_operation_valid", halted.ref, "snapshot_with_quiesce")[0] == "VM_BAD_POWER_STATE"
    else:
        c("VM.assert_operation_valid", halted.ref, "snapshot")
    for machine in c.pool.machines[1:]:
        machine.system.release = find(after)
        host = c.pool.host_row(machine)
        c.pool.store.write(host, software_version=software_version(find(after)))
    c.sleep(31)
    c("pool.get_all")
    assert "snapshot" in halted["allowed_operations"]


@pytest.mark.parametrize(
    ("before", "after", "first"),
    [("5.5", "5.6", False), ("6.0", "6.1", True), ("7.0", "7.1", True), ("7.2", "7.3", False)],
)
def test_versions_count_before_the_vm_from_6_0_to_7_1(calls: Make, before: str, after: str, first: bool) -> None:
    """A paused VM must not go back to an older host, and that is said first; otherwise that it is paused."""
    c = mixed(calls, before, after)
    vm = c.vm("vm02")
    c("VM.pool_migrate", vm.ref, c.host("host1").ref, {})
    c("VM.pause", vm.ref)
    error = c.refused("VM.pool_migrate", vm.ref, c.host("host2").ref, {})
    assert error == (REFUSED if first else ["VM_BAD_POWER_STATE", vm.ref, "running", "paused"])


def test_hosts_offer_little_meanwhile(calls: Make) -> None:
    """Only to be emptied and provisioned on; the rest is not listed, not noted, and done all the same."""
    c = mixed(calls, "8.1", "8.2", vms=3)
    assert set(c.host("host1")["allowed_operations"]) == {"provision", "evacuate"}
    c("VM.pool_migrate", c.vm("vm02").ref, c.host("host1").ref, {})
    task = c.start("VM.start_on", c.vm("vm02").ref, c.host("host1").ref, False, False)
    assert (task["status"], c.host("host1")["current_operations"]) == ("failure", {})
    c("host.disable", c.host("host1").ref)
    c("host.enable", c.host("host1").ref)


def test_a_host_is_emptied_forwards(calls: Make) -> None:
    """Up to 5.6 to hosts of the master's version, since 6.0 to those that are not older; else nowhere."""
    for before, after in (("5.5", "5.6"), ("6.0", "6.1"), ("8.1", "8.2")):
        c = mixed(calls, before, after)
        c("host.disable", c.host("host2").ref)
        kept = c("host.get_vms_which_prevent_evacuation", c.host("host2").ref)
        assert {error[0] for error in kept.values()} == ({"VM_OLD_PV_DRIVERS"} if after == "5.6" else set())
        for agent in c.pool.store.table("VM_guest_metrics").values():
            c.pool.store.write(agent, PV_drivers_version={"major": "9", "minor": "0", "micro": "0", "build": "1"})
        assert c("host.get_vms_which_prevent_evacuation", c.host("host2").ref) == {}
        c("host.evacuate", c.host("host2").ref)
        guests = [vm for vm in c.pool.store.table("VM").values() if not vm["is_control_domain"]]
        places = {vm["resident_on"] for vm in guests if vm["power_state"] == "Running"}
        assert c.host("host2").ref not in places
        c("host.disable", c.host("host3").ref)
        c("host.enable", c.host("host2").ref)
        stuck = c("host.get_vms_which_prevent_evacuation", c.host("host1").ref)
        assert {error[0] for error in stuck.values()} == {
            "HOST_NOT_ENOUGH_FREE_MEMORY" if after == "5.6" else "NO_HOSTS_AVAILABLE"
        }
        assert c.unharmed()


# --- the database meanwhile


@pytest.mark.parametrize(("before", "after"), [("4.0.1", "4.1"), ("8.1", "8.2")])
def test_a_dump_is_an_empty_document_meanwhile(calls: Make, before: str, after: str) -> None:
    """Whoever takes it for a backup is told so by the reader."""
    c = mixed(calls, before, after, vms=0)

    def dump() -> bytes:
        out = answer(c.pool, c.pool.master, "GET", f"/pool/xmldbdump?session_id={c.session}", {}, b"")
        assert out.status == 200
        return out.body

    assert dump() == database.stub()
    with pytest.raises(DatabaseError, match="while its hosts' versions are mixed"):
        database.verify(database.read(dump()))
    for host in ("host2", "host3"):
        c = c.upgrade(host, after)
    c.sleep(31)
    c("pool.get_all")
    whole = database.read(dump())
    database.verify(whole)
    assert whole.schema == find(after).schema[:2]
