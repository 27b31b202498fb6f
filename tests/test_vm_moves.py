"""Moving VMs between hosts and emptying hosts, and what is left when power is lost meanwhile."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest

from xenctl.errors import ConnectionLost

Make = Callable[..., Any]
NULL = "OpaqueRef:NULL"
GIB = 1 << 30


# --- moving


@pytest.mark.parametrize("release", ["4.0.1", "5.5", "8.2"])
def test_a_migration_moves_domain_and_belief(calls: Make, release: str) -> None:
    """The guest goes on writing; its place is reserved meanwhile; it gets another console."""
    c = calls(release=release, hosts=3, vms=12)
    vm, target = c.vm("vm01"), c.host("host3")
    domid, consoles = vm["domid"], list(vm["consoles"])
    task = c.start("VM.pool_migrate", vm.ref, target.ref, {"live": "true"})
    c.sleep(2)
    assert (vm["resident_on"], vm["scheduled_to_be_resident_on"]) == (c.host("host1").ref, target.ref)
    c.until(lambda: task["status"] != "pending")
    assert (vm["power_state"], vm["resident_on"], vm["scheduled_to_be_resident_on"]) == ("Running", target.ref, NULL)
    assert vm["domid"] != domid
    assert vm["uuid"] in c.pool.machine("host3").domains
    assert vm["uuid"] not in c.pool.machine("host1").domains
    (console,) = vm["consoles"]
    assert f"https://{target['address']}/" in c.pool.store.get("console", console)["location"]
    assert c.refused("console.get_record", consoles[0]) == ["HANDLE_INVALID", "console", consoles[0]]
    c.sleep(100)
    assert c.unharmed()


def test_a_migration_takes_as_long_as_its_memory(c: Any) -> None:
    """Twice the memory, twice the time."""

    def duration(memory: int) -> float:
        c.pool.store.write(c.vm("vm01"), memory_static_max=memory)
        started, here = c.pool.clock.now(), c.vm("vm01")["resident_on"]
        target = next(h for h in ("host2", "host3") if c.host(h).ref != here)
        c("VM.pool_migrate", c.vm("vm01").ref, c.host(target).ref, {})
        return float(c.pool.clock.now() - started - c.pool.durations.migrate_setup)

    assert duration(4 * GIB) == pytest.approx(2 * duration(2 * GIB))


def test_a_migration_to_a_host_that_cannot_take_it_is_refused(c: Any) -> None:
    """Disabled, without room, or dead; from a disabled host it is not, and to the same host never for that."""
    vm, here, there = c.vm("vm01"), c.host("host1"), c.host("host2")
    migrate = ("VM.pool_migrate", vm.ref, there.ref, {})
    c("host.disable", there.ref)
    assert c.refused(*migrate) == ["HOST_DISABLED", there.ref]
    c("host.enable", there.ref)
    c.leave_free("host2", 1)
    assert c.refused(*migrate)[0] == "HOST_NOT_ENOUGH_FREE_MEMORY"
    c.pool.machine("host3").power_off()
    assert c.refused("VM.pool_migrate", vm.ref, c.host("host3").ref, {}) == ["CANNOT_CONTACT_HOST", c.host("host3").ref]
    c.sleep(601)
    assert c.refused("VM.pool_migrate", vm.ref, c.host("host3").ref, {}) == ["HOST_NOT_LIVE"]
    assert (vm["resident_on"], vm["scheduled_to_be_resident_on"], vm["current_operations"]) == (here.ref, NULL, {})
    c("host.disable", here.ref)
    domid = vm["domid"]
    c("VM.pool_migrate", vm.ref, here.ref, {})
    assert (vm["resident_on"], vm["domid"] != domid) == (here.ref, True)
    c.leave_free("host2", 8 * GIB)
    c(*migrate)
    assert vm["resident_on"] == there.ref


def test_a_migration_needs_the_storage_there(old: Any) -> None:
    """CDs count as disks do."""
    store, vm = old.pool.store, old.vm("vm02")
    iso = store.get("VDI", old.vbd("vm02", "3")["VDI"])["SR"]
    pbd = next(p for p in (store.get("PBD", r) for r in old.host("host3")["PBDs"]) if p["SR"] == iso)
    store.write(pbd, currently_attached=False)
    assert old.refused("VM.pool_migrate", vm.ref, old.host("host3").ref, {}) == ["VM_REQUIRES_SR", vm.ref, iso]
    old("VBD.eject", old.vbd("vm02", "3").ref)
    old("VM.pool_migrate", vm.ref, old.host("host3").ref, {})


@pytest.mark.parametrize(("release", "first"), [("4.1", True), ("5.6", True), ("6.0", True), ("6.1", False)])
def test_storage_comes_first_up_to_6_0(calls: Make, release: str, first: bool) -> None:
    """Even before the power state of what is to move."""
    c = calls(release=release, hosts=2, vms=12)
    vm, host = c.vm("vm04"), c.host("host2")
    sr = c.row("VDI", "disk of vm04")["SR"]
    for pbd in (c.pool.store.get("PBD", ref) for ref in host["PBDs"]):
        c.pool.store.write(pbd, currently_attached=False)
    error = c.refused("VM.pool_migrate", vm.ref, host.ref, {})
    assert error == (["VM_REQUIRES_SR", vm.ref, sr] if first else ["VM_BAD_POWER_STATE", vm.ref, "running", "halted"])


OLD = {"major": "3", "minor": "2"}


@pytest.mark.parametrize(
    ("release", "version", "error"),
    [
        ("4.0.1", {}, ["OPERATION_NOT_ALLOWED", "{} not possible for HVM domains (are PV drivers installed?)"]),
        ("5.6", {}, ["VM_MISSING_PV_DRIVERS", "vm"]),
        ("6.0", {}, ["VM_MISSING_PV_DRIVERS", "vm"]),
        ("6.2", {}, ["VM_MISSING_PV_DRIVERS", "vm"]),
        ("6.5", {}, None),
        ("7.0", {}, ["VM_LACKS_FEATURE_SUSPEND", "vm"]),
        ("8.2", {}, ["VM_LACKS_FEATURE", "vm"]),
        ("4.1", OLD, ["VM_OLD_PV_DRIVERS", "agent", "3", "2", "-1"]),
        ("5.6", {**OLD, "micro": "5"}, ["VM_OLD_PV_DRIVERS", "agent", "3", "2", "5"]),
        ("5.6.100", OLD, ["VM_OLD_PV_DRIVERS", "vm", "3", "2", "-1"]),
        ("6.0", OLD, None),
        ("4.1", {"major": "4", "minor": "0"}, None),
        ("8.2", OLD, None),
    ],
)
def test_a_guest_moves_with_drivers(
    calls: Make, release: str, version: dict[str, str], error: list[str] | None
) -> None:
    """One with hardware virtualisation needs them to migrate and to be suspended, but not in 6.5. Up to 5.6 they must not be
    old."""
    c = calls(release=release, hosts=2, vms=12)
    vm, host = c.vm("vm03"), c.host("host2").ref
    agent = c.pool.store.get("VM_guest_metrics", vm["guest_metrics"])
    c.pool.store.write(agent, PV_drivers_version=version, other={})
    names = {"vm": vm.ref, "agent": agent.ref}
    for method, args in (("VM.pool_migrate", [host, {}]), ("VM.suspend", [])):
        if error is None:
            c(method, vm.ref, *args)
        else:
            expected = [names.get(part, part).replace("{}", method[3:]) for part in error]
            assert c.refused(method, vm.ref, *args) == expected


@pytest.mark.parametrize("release", ["4.0.1", "5.5", "5.6", "6.0", "8.2"])
def test_a_paravirtual_guest_moves_without_an_agent_since_6_0(calls: Make, release: str) -> None:
    """Before, it had to tell of its drivers as any other; to be shut down it never had to."""
    c = calls(release=release, hosts=2, vms=12)
    vm, host = c.vm("vm01"), c.host("host2").ref
    c.pool.store.delete(c.pool.store.get("VM_guest_metrics", vm["guest_metrics"]))
    for method, args in (("VM.pool_migrate", [host, {}]), ("VM.suspend", [])):
        if release in ("6.0", "8.2"):
            c(method, vm.ref, *args)
        else:
            assert c.refused(method, vm.ref, *args) == ["VM_MISSING_PV_DRIVERS", vm.ref]
    if vm["power_state"] == "Running":
        c("VM.clean_shutdown", vm.ref)


@pytest.mark.parametrize(("release", "needs"), [("5.6", True), ("6.0", False), ("6.1", True), ("6.5", True)])
def test_a_guest_shuts_down_with_drivers(calls: Make, release: str, needs: bool) -> None:
    """One with hardware virtualisation, that is; 6.0 did not ask."""
    c = calls(release=release, hosts=1, vms=12)
    vm = c.vm("vm03")
    c.pool.store.write(c.pool.store.get("VM_guest_metrics", vm["guest_metrics"]), PV_drivers_version={}, other={})
    if needs:
        assert c.refused("VM.clean_shutdown", vm.ref) == ["VM_MISSING_PV_DRIVERS", vm.ref]
    else:
        c("VM.clean_shutdown", vm.ref)


@pytest.mark.parametrize(("release", "may"), [("6.1", False), ("6.2", True)])
def test_a_guest_may_be_moved_at_the_owners_risk(calls: Make, release: str, may: bool) -> None:
    """With a key in its platform, since 6.2."""
    c = calls(release=release, hosts=2, vms=12)
    vm, host = c.vm("vm03"), c.host("host2").ref
    c.pool.store.write(c.pool.store.get("VM_guest_metrics", vm["guest_metrics"]), PV_drivers_version={}, other={})
    c("VM.add_to_platform", vm.ref, "unrestricted_save", "true")
    assert ("pool_migrate" in vm["allowed_operations"]) == may
    if may:
        c("VM.pool_migrate", vm.ref, host, {})
    else:
        assert c.refused("VM.pool_migrate", vm.ref, host, {}) == ["VM_MISSING_PV_DRIVERS", vm.ref]


@pytest.mark.parametrize(("release", "told"), [("4.1", True), ("5.6", True), ("6.0", False)])
def test_a_guest_of_rhel_3_with_several_processors_stays(calls: Make, release: str, told: bool) -> None:
    """Up to 5.6, whatever its drivers."""
    c = calls(release=release, hosts=2, vms=12)
    vm, host = c.vm("vm01"), c.host("host2").ref
    agent = c.pool.store.get("VM_guest_metrics", vm["guest_metrics"])
    c.pool.store.write(agent, os_version={"distro": "rhel", "major": "3"})
    c.pool.store.write(vm, VCPUs_max=2)
    if told:
        text = "pool_migrate not possible for SMP RHEL 3 linux guests"
        assert c.refused("VM.pool_migrate", vm.ref, host, {}) == ["OPERATION_NOT_ALLOWED", text]
        c.pool.store.write(vm, VCPUs_max=1)
    c("VM.pool_migrate", vm.ref, host, {})


def test_a_guest_may_say_what_it_can_do(c: Any) -> None:
    """Since 7.0 its features count where it has no drivers."""
    vm = c.vm("vm03")
    agent = c.pool.store.get("VM_guest_metrics", vm["guest_metrics"])
    c.pool.store.write(agent, PV_drivers_version={}, other={"feature-suspend": "1"})
    c("VM.pool_migrate", vm.ref, c.host("host2").ref, {})
    assert c.refused("VM.clean_shutdown", vm.ref) == ["VM_LACKS_FEATURE", vm.ref]
    c.pool.store.write(agent, other={"feature-poweroff": "1"})
    assert c.refused("VM.pool_migrate", vm.ref, c.host("host1").ref, {}) == ["VM_LACKS_FEATURE", vm.ref]
    c("VM.pool_migrate", vm.ref, c.host("host1").ref, {"force": "true"})
    c("VM.pause", vm.ref)
    c("VM.assert_operation_valid", vm.ref, "checkpoint")


@pytest.mark.parametrize(("release", "told"), [("8.2", False), ("8.4", True)])
def test_a_migration_is_told_of_since_xenserver_8(calls: Make, release: str, told: bool) -> None:
    c = calls(release=release, hosts=2, vms=6)
    c("VM.pool_migrate", c.vm("vm01").ref, c.host("host2").ref, {})
    assert [message["name"] for message in c.pool.messages.newest_first()] == (["VM_MIGRATED"] if told else [])


def test_a_guest_may_say_why_it_cannot_be_suspended(calls: Make, newest: Make) -> None:
    """Nobody listens before the toolstack's version 25.24."""
    for c, listens in ((calls(release="8.4", vms=6), False), (newest(vms=6), True)):
        vm, store = c.vm("vm03"), c.pool.store
        agent = store.get("VM_guest_metrics", vm["guest_metrics"])
        store.write(agent, PV_drivers_version={"major": "8", "minor": "0"}, other={"data-cant-suspend-reason": "GPU"})
        if listens:
            assert c.refused("VM.suspend", vm.ref) == ["VM_NON_SUSPENDABLE", vm.ref, "GPU"]
        else:
            c("VM.suspend", vm.ref)


# --- emptying a host


@pytest.mark.parametrize(("release", "at_once"), [("4.1", 1), ("5.5", 1), ("8.2", 1), ("8.4", 4)])
def test_a_host_is_emptied(calls: Make, release: str, at_once: int) -> None:
    """Guest by guest up to 8.2, several at a time since; whether it is enabled is not changed."""
    c = calls(release=release, hosts=3, vms=16)
    host, most = c.host("host1"), 0
    c("host.disable", host.ref)
    c("host.assert_can_evacuate", host.ref)
    task = c.start("host.evacuate", host.ref)
    while task["status"] == "pending":
        moving = [v for v in c.pool.store.table("VM").values() if "pool_migrate" in v["current_operations"].values()]
        most = max(most, len(moving))
        c.sleep(1)
    assert (task["status"], most) == ("success", at_once)
    assert [c.pool.store.get("VM", ref)["is_control_domain"] for ref in host["resident_VMs"]] == [True]
    assert not host["enabled"]
    assert c.unharmed()


def test_a_batch_of_guests_is_over_before_the_next(calls: Make) -> None:
    """Its size is given; none of the next begins while one of it still moves."""
    c = calls(release="8.4", hosts=3, vms=16)
    host, seen = c.host("host1"), []
    large = next(vm for vm in map(c.vm, ("vm01", "vm04", "vm07")) if vm["resident_on"] == host.ref)
    c.pool.store.write(large, memory_static_max=4 * large["memory_static_max"])
    task = c.start("host.evacuate", host.ref, NULL, 3)
    while task["status"] == "pending":
        going = frozenset(c.pool.store.get("task", ref)["uuid"] for ref in task["subtasks"])
        if going not in seen:
            seen.append(going)
        c.sleep(0.5)
    assert [len(going) for going in seen] == [3, 1] and seen[0].isdisjoint(seen[1])


def test_guests_leave_by_a_network(calls: Make) -> None:
    """On which each host that takes some has an address."""
    c = calls(release="8.4", hosts=2, vms=6)
    host, other = c.host("host1"), c.host("host2")
    managed = next(pif for pif in c.pool.store.rows("PIF", other["PIFs"]) if pif["management"])
    evacuate = ("host.evacuate", host.ref, managed["network"])
    c.pool.store.write(managed, IP="")
    assert c.refused(*evacuate) == ["INTERFACE_HAS_NO_IP", managed.ref]
    c.pool.store.write(managed, currently_attached=False)
    assert c.refused(*evacuate) == ["REQUIRED_PIF_IS_UNPLUGGED", managed.ref]
    empty = c("network.create", {"name_label": "empty", "name_description": "", "other_config": {}, "tags": []})
    assert c.refused("host.evacuate", host.ref, empty) == ["PIF_NOT_PRESENT", other.ref, empty]
    c.pool.store.write(managed, IP=other["address"], currently_attached=True)
    c(*evacuate)
    assert len(host["resident_VMs"]) == 1


@pytest.mark.parametrize("release", ["5.5", "5.6", "8.4"])
def test_a_guest_leaves_if_every_host_could_take_it(calls: Make, release: str) -> None:
    """Since 5.6 a host that lacks its storage keeps it, though another has all of it."""
    c = calls(release=release, hosts=3, vms=6)
    host, vm = c.host("host1"), c.vm("vm01")
    sr = c.pool.store.get("SR", c.pool.store.get("VDI", c.vbd("vm01", "0")["VDI"])["SR"])
    lacking = next(pbd for pbd in c.pool.store.rows("PBD", sr["PBDs"]) if pbd["host"] == c.host("host3").ref)
    c.leave_free("host3", 0)
    c.pool.store.write(lacking, currently_attached=False)
    kept = c("host.get_vms_which_prevent_evacuation", host.ref)
    assert kept.get(vm.ref) == (None if release == "5.5" else ["VM_REQUIRES_SR", vm.ref, sr.ref])
    c("host.disable", c.host("host3").ref)
    assert c("host.get_vms_which_prevent_evacuation", host.ref) == {}


def test_what_keeps_a_host_from_being_emptied_is_told(c: Any) -> None:
    """A paused guest, one that nobody sees the disks of, one for which there is no room."""
    host, store = c.host("host1"), c.pool.store
    c("host.disable", host.ref)
    c("host.disable", c.host("host3").ref)
    paused, local, large = c.vm("vm01"), c.vm("vm10"), c.vm("vm07")
    c("VM.pause", paused.ref)
    sr = c.row("SR", "Local storage on host1").ref
    store.write(store.get("VDI", c.vbd("vm10", "0")["VDI"]), SR=sr)
    store.write(large, **{f"memory_{name}": 1 << 50 for name in ("dynamic_min", "dynamic_max", "static_max")})
    kept = c("host.get_vms_which_prevent_evacuation", host.ref)
    assert kept == {
        paused.ref: ["VM_BAD_POWER_STATE", paused.ref, "running", "paused"],
        local.ref: ["VM_REQUIRES_SR", local.ref, sr],
        large.ref: ["HOST_NOT_ENOUGH_FREE_MEMORY", large.ref],
    }
    packed = c.refused("host.assert_can_evacuate", host.ref)
    assert packed == ["CANNOT_EVACUATE_HOST", "|".join(",".join(error) for error in kept.values())]
    assert c.refused("host.evacuate", host.ref) in kept.values()
    c("host.disable", c.host("host2").ref)
    assert set(map(tuple, c("host.get_vms_which_prevent_evacuation", host.ref).values())) >= {
        ("NO_HOSTS_AVAILABLE", local.ref)
    }


def test_a_host_that_is_being_emptied_takes_nobody(c: Any) -> None:
    """Though it is enabled: it is not chosen, and refused where it is named."""
    host, vm = c.host("host1"), c.vm("vm04")
    c.start("host.evacuate", host.ref)
    assert host["current_operations"]
    assert "vm_migrate" not in host["allowed_operations"]
    assert c.refused("VM.start_on", vm.ref, host.ref, False, False) == ["HOST_EVACUATE_IN_PROGRESS", host.ref]
    assert c.refused("VM.pool_migrate", c.vm("vm02").ref, host.ref, {})[:3] == [
        "OTHER_OPERATION_IN_PROGRESS",
        "host",
        host.ref,
    ]
    c("VM.set_affinity", vm.ref, host.ref)
    c("VM.start", vm.ref, False, False)
    assert vm["resident_on"] != host.ref


# --- when power is lost


def running_operation(c: Any, operation: str) -> tuple[Any, Any, str, str]:
    """Start an operation that takes a while; the VM, its task, and the hosts that it leaves and goes to."""
    name = {"start": "vm04", "resume": "vm06"}.get(operation, "vm02")
    vm, target = c.vm(name), c.host("host3").ref
    args = {"start": [target, False, False], "resume": [target, False, False], "pool_migrate": [target, {}]}
    method = {"start": "start_on", "resume": "resume_on"}.get(operation, operation)
    return vm, c.start(f"VM.{method}", vm.ref, *args.get(operation, [])), "host2", "host3"


CUTS = [
    *(("pool_migrate", host) for host in ("host1", "host2", "host3")),
    *(("suspend", host) for host in ("host1", "host2")),
    *(("clean_shutdown", host) for host in ("host1", "host2")),
    *(("clean_reboot", host) for host in ("host1", "host2")),
    *(("start", host) for host in ("host1", "host3")),
    *(("resume", host) for host in ("host1", "host3")),
]


@pytest.mark.parametrize("release", ["4.0.1", "8.2"])
@pytest.mark.parametrize(("operation", "host"), CUTS)
def test_a_power_cut_leaves_no_half_state(calls: Make, release: str, operation: str, host: str) -> None:
    """Of the master (host1), the source or the target: the task fails or is lost, the record is whole, nothing is marked or
    reserved any more, no disk is left over; when the host is back, belief and machines agree."""
    c = calls(release=release, hosts=3, vms=12)
    vm, task, _, _ = running_operation(c, operation)
    image = {vm["suspend_VDI"]} if operation == "resume" else set()
    disks = set(c.pool.store.table("VDI")) - ({vm["suspend_VDI"]} - image)
    state, place = vm["power_state"], vm["resident_on"]
    c.sleep(1)
    c.pool.machine(host).power_off()
    c.sleep(300)
    assert (vm["power_state"], vm["resident_on"]) == (state, place)
    assert (vm["current_operations"], vm["scheduled_to_be_resident_on"]) == ({}, NULL)
    assert set(c.pool.store.table("VDI")) == disks
    assert c.pool.store.reserved.get(c.host("host3").ref, {}) == {}
    assert all(row["current_operations"] == {} for row in c.pool.store.table("host").values())
    if host != "host1":
        assert task["status"] == "failure"
        assert task["error_info"] == ["CANNOT_CONTACT_HOST", c.host(host).ref]
    c.pool.hands.power_on(host)
    c = c.back()
    if host == "host1":
        assert c.refused("task.get_record", task.ref)[0] == "HANDLE_INVALID"
    lost = operation in ("pool_migrate", "suspend", "clean_shutdown", "clean_reboot") and host == "host2"
    assert vm["power_state"] == ("Halted" if lost else state)
    assert (vm["current_operations"], vm["scheduled_to_be_resident_on"]) == ({}, NULL)
    assert c.unharmed()
    if vm["power_state"] == "Suspended":
        c("VM.resume", vm.ref, False, False)
    elif vm["power_state"] == "Halted":
        c("VM.start", vm.ref, False, False)
    assert vm["power_state"] == "Running"
    assert c.unharmed()


def test_a_target_that_was_off_for_a_moment_is_not_the_one_that_was_asked(c: Any) -> None:
    """A migration to a host that restarted meanwhile fails: what was prepared there is gone."""
    c.pool.store.write(c.vm("vm01"), memory_static_max=200 * GIB, memory_dynamic_min=GIB)
    task = c.start("VM.pool_migrate", c.vm("vm01").ref, c.host("host2").ref, {})
    c.pool.machine("host2").power_off()
    c.pool.hands.power_on("host2")
    c.until(lambda: c.pool.machine("host2").xapi.complete)
    assert task["status"] == "pending"
    c.until(lambda: task["status"] != "pending")
    assert task["error_info"] == ["CANNOT_CONTACT_HOST", c.host("host2").ref]
    assert c.unharmed()


def test_what_is_on_a_dead_host_cannot_be_reached(c: Any) -> None:
    """At first nobody answers; once it is thought dead it is told at once, and the VM can be believed off."""
    vm, host = c.vm("vm02"), c.host("host2")
    c.pool.machine("host2").power_off()
    for method in ("clean_shutdown", "hard_shutdown", "pause", "suspend", "clean_reboot", "hard_reboot"):
        assert c.refused(f"VM.{method}", vm.ref) == ["CANNOT_CONTACT_HOST", host.ref]
    assert c.refused("VM.power_state_reset", vm.ref) == ["HOST_IS_LIVE", host.ref]
    c.sleep(601)
    assert c.refused("VM.hard_shutdown", vm.ref) == ["HOST_OFFLINE", host.ref]
    assert (vm["power_state"], vm["resident_on"]) == ("Running", host.ref)
    c("VM.power_state_reset", vm.ref)
    assert (vm["power_state"], vm["resident_on"]) == ("Halted", NULL)
    c("VM.start", vm.ref, False, False)
    assert c.refused("VM.power_state_reset", c.vm("vm01").ref) == ["DOMAIN_EXISTS", c.vm("vm01").ref]
    dom0 = c.vm("Control domain on host: host1").ref
    assert c.refused("VM.power_state_reset", dom0) == ["CANNOT_RESET_CONTROL_DOMAIN", dom0]


def test_a_synchronous_call_on_a_master_that_loses_power_is_cut_off(c: Any) -> None:
    """Whoever called does not learn what came of it; the record says that nothing did."""
    vm = c.vm("vm02")
    c.pool.clock.after(3, c.pool.master.power_off)
    with pytest.raises(ConnectionLost):
        c("VM.suspend", vm.ref)
    assert (vm["power_state"], vm["suspend_VDI"], vm["current_operations"]) == ("Running", NULL, {})


def every_vm(c: Any) -> Iterator[Any]:
    yield from (vm for vm in c.pool.store.table("VM").values() if not vm["is_control_domain"])


def test_many_operations_at_once_end_as_they_should(calls: Make) -> None:
    """Tasks overlap; each ends, and belief and machines agree."""
    c = calls(release="8.2", hosts=4, vms=40)
    hosts = sorted(c.pool.store.table("host"))
    tasks = []
    for number, vm in enumerate(every_vm(c)):
        if vm["power_state"] == "Running":
            act = ("VM.pool_migrate", "VM.suspend", "VM.clean_reboot", "VM.clean_shutdown")[number % 4]
            args = [next(h for h in hosts if h != vm["resident_on"]), {}] if act == "VM.pool_migrate" else []
            tasks.append(c.start(act, vm.ref, *args))
    c.until(lambda: all(task["status"] != "pending" for task in tasks))
    assert {task["status"] for task in tasks} == {"success"}
    assert c.unharmed()
