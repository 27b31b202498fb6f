"""Starting, stopping, suspending and resuming: what each does to belief, machine and disks."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from mockserver.call import Wait
from mockserver.storage_drivers import rounded

Make = Callable[..., Any]
NULL = "OpaqueRef:NULL"
GIB = 1 << 30


# --- starting


def test_a_start_makes_a_domain_and_says_so(c: Any) -> None:
    """Where it runs, with which number, what is attached, since when; later its agent reports."""
    vm, now = c.vm("vm04"), c.pool.clock.stamp()
    old_agent = vm["guest_metrics"]
    c("VM.start", vm.ref, False, False)
    host = c.pool.store.get("host", vm["resident_on"])
    assert (vm["power_state"], vm["scheduled_to_be_resident_on"]) == ("Running", NULL)
    assert vm.ref in host["resident_VMs"]
    domain = c.pool.machine_of(host).domains[vm["uuid"]]
    assert vm["domid"] == domain.domid > 0
    assert c.vbd("vm04", "0")["currently_attached"]
    assert not c.vbd("vm04", "3")["currently_attached"]
    assert all(c.pool.store.get("VIF", vif)["currently_attached"] for vif in vm["VIFs"])
    metrics = c.pool.store.get("VM_metrics", vm["metrics"])
    assert metrics["start_time"] > now
    assert metrics["memory_actual"] == vm["memory_static_max"]
    (console,) = (c.pool.store.get("console", ref) for ref in vm["consoles"])
    assert console["location"].startswith(f"https://{host['address']}/")
    assert vm["guest_metrics"] == NULL
    assert c.refused("VM_guest_metrics.get_record", old_agent)[0] == "HANDLE_INVALID"
    c.sleep(31)
    assert c("VM_guest_metrics.get_record", vm["guest_metrics"])["PV_drivers_version"]["major"] == "8"
    assert c.unharmed()


def test_a_guest_that_is_stopped_while_it_boots_leaves_nothing_to_come(c: Any) -> None:
    """No timer waits for an agent that will not report; started again, it does."""
    vm = c.vm("vm04")
    before = len(c.pool.clock.pending())
    c("VM.start", vm.ref, False, False)
    assert len(c.pool.clock.pending()) == before + 1
    c("VM.hard_shutdown", vm.ref)
    assert len(c.pool.clock.pending()) == before
    c("VM.start", vm.ref, False, False)
    c.sleep(60)
    assert vm["guest_metrics"] != NULL


def test_a_start_may_leave_the_vm_paused(c: Any) -> None:
    """It writes nothing until it is let go; then its agent comes up."""
    vm = c.vm("vm04")
    c("VM.start", vm.ref, True, False)
    assert vm["power_state"] == "Paused"
    c.sleep(3600)
    assert c.pool.guest(vm).writes == 0
    assert vm["guest_metrics"] == NULL
    c("VM.unpause", vm.ref)
    c.sleep(60)
    assert (vm["power_state"], c.pool.domain(vm)[1].running) == ("Running", True)
    assert vm["guest_metrics"] != NULL
    assert c.unharmed()


def test_a_guest_that_moves_while_it_boots_reports_all_the_same(c: Any) -> None:
    """The agent comes up where the guest is then; one that was halted and started again reports once."""
    vm = c.vm("vm04")
    c("VM.start_on", vm.ref, c.host("host1").ref, False, False)
    c("VM.pool_migrate", vm.ref, c.host("host2").ref, {})
    c.sleep(31)
    assert vm["guest_metrics"] != NULL
    c("VM.hard_shutdown", vm.ref)
    for _ in range(2):
        c("VM.start", vm.ref, False, False)
        c.sleep(20)
        assert vm["guest_metrics"] == NULL
        c("VM.hard_shutdown", vm.ref)
    assert len(c.pool.store.table("VM_guest_metrics")) == 11


def test_a_start_prefers_the_affinity(c: Any) -> None:
    """Else the host with most memory free; a host that is disabled is none."""
    vm = c.vm("vm04")
    c("VM.set_affinity", vm.ref, c.host("host3").ref)
    c("VM.start", vm.ref, False, False)
    assert vm["resident_on"] == c.host("host3").ref
    c("VM.hard_shutdown", vm.ref)
    c("host.disable", c.host("host3").ref)
    c("VM.start", vm.ref, False, False)
    assert vm["resident_on"] in (c.host("host1").ref, c.host("host2").ref)


@pytest.mark.parametrize("release", ["4.0.1", "8.2"])
def test_a_start_on_a_host_that_cannot_is_refused(calls: Make, release: str) -> None:
    """Dead, disabled, without the storage, without the network, without hardware virtualisation: in this order."""
    c = calls(release=release, hosts=2, vms=12)
    store, vm, host = c.pool.store, c.vm("vm08"), c.host("host2")
    store.write(vm, HVM_boot_policy="BIOS order")
    sr = store.get("VDI", c.vbd("vm08", "0")["VDI"])["SR"]
    pbd = next(p for p in (store.get("PBD", r) for r in host["PBDs"]) if p["SR"] == sr)
    network = store.get("VIF", vm["VIFs"][0])["network"]
    pif = store.get("PIF", host["PIFs"][0])
    start = ("VM.start_on", vm.ref, host.ref, False, False)
    store.write(host, capabilities=[])
    store.delete(pif)
    store.write(pbd, currently_attached=False)
    store.write(host, enabled=False)
    metrics = store.get("host_metrics", host["metrics"])
    store.write(metrics, live=False)
    assert c.refused(*start) == ["HOST_NOT_LIVE"]
    store.write(metrics, live=True)
    assert c.refused(*start) == ["HOST_DISABLED", host.ref]
    store.write(host, enabled=True)
    assert c.refused(*start) == ["VM_REQUIRES_SR", vm.ref, sr]
    store.write(pbd, currently_attached=True)
    assert c.refused(*start) == ["VM_REQUIRES_NETWORK", vm.ref, network]
    store.create("PIF", "OpaqueRef:pif", {"uuid": "pif", "host": host.ref, "network": network})
    assert c.refused(*start) == ["VM_HVM_REQUIRED", vm.ref]
    assert c.refused("VM.assert_can_boot_here", vm.ref, host.ref) == ["VM_HVM_REQUIRED", vm.ref]
    assert c("VM.get_possible_hosts", vm.ref) == [c.host("host1").ref]
    store.write(host, capabilities=["hvm-3.0-x86_64"])
    c(*start)
    assert vm["resident_on"] == host.ref


@pytest.mark.parametrize("release", ["4.0.1", "5.5", "5.6", "8.2"])
def test_memory_is_a_limit(calls: Make, release: str) -> None:
    """What is needed and what is free are in the error; up to 5.5 the other way round, and with no host that fits, none is
    available."""
    from xenctl import memory

    c = calls(release=release, hosts=2, vms=4)
    vm = c.vm("vm04")
    needed = memory.needed(vm, c.pool.store.release)
    for host in ("host1", "host2"):
        c.leave_free(host, needed - 1)
    then = release in ("4.0.1", "5.5")
    amounts = [str(needed - 1), str(needed)] if then else [str(needed), str(needed - 1)]
    error = ["HOST_NOT_ENOUGH_FREE_MEMORY", *amounts]
    assert c.refused("VM.start_on", vm.ref, c.host("host1").ref, False, False) == error
    assert c.refused("VM.start", vm.ref, False, False) == (["NO_HOSTS_AVAILABLE"] if then else error)
    assert (vm["power_state"], vm["scheduled_to_be_resident_on"], vm["current_operations"]) == ("Halted", NULL, {})
    c.leave_free("host2", needed)
    c("VM.start", vm.ref, False, False)
    assert vm["resident_on"] == c.host("host2").ref


def test_room_is_kept_for_who_is_on_the_way(c: Any) -> None:
    """A VM that is being started or migrated counts where it goes, at once."""
    from xenctl import memory

    first, second = c.vm("vm04"), c.vm("vm08")
    target = c.host("host2").ref
    for vm in (first, second):
        c.pool.store.write(vm, memory_static_max=GIB, memory_dynamic_min=GIB)
    c.leave_free("host2", memory.needed(second, c.pool.store.release))
    c.start("VM.start_on", first.ref, target, False, False)
    assert c.refused("VM.start_on", second.ref, target, False, False)[0] == "HOST_NOT_ENOUGH_FREE_MEMORY"
    c.sleep(60)
    c("VM.hard_shutdown", first.ref)
    c("VM.start_on", second.ref, target, False, False)


def test_a_disk_has_one_writer(c: Any) -> None:
    """A VM whose disk another one that runs may write cannot start; a sharable one may, and so may readers."""
    first, second = c.vm("vm01"), c.vm("vm04")
    vdi = c.vbd("vm01", "0")["VDI"]
    vbd = c.vbd("vm04", "0")
    c.pool.store.write(vbd, VDI=vdi)
    assert c.refused("VM.start", second.ref, False, False) == ["VDI_IN_USE", vdi]
    c.pool.store.write(vbd, mode="RO")
    assert c.refused("VM.start", second.ref, False, False) == ["VDI_IN_USE", vdi]
    c("VM.hard_shutdown", first.ref)
    c("VM.start", second.ref, False, False)
    c("VM.hard_shutdown", second.ref)
    c.pool.store.write(vbd, mode="RW")
    c.pool.store.write(c.pool.store.get("VDI", vdi), read_only=True)
    assert c.refused("VM.start", second.ref, False, False) == ["VDI_READONLY", vdi]


# --- stopping


@pytest.mark.parametrize("release", ["4.0.1", "8.2"])
@pytest.mark.parametrize("method", ["clean_shutdown", "hard_shutdown"])
def test_a_shutdown_leaves_nothing_but_the_disks(calls: Make, release: str, method: str) -> None:
    """No domain, no place, no devices, no consoles; what the guest wrote is there at the next start."""
    c = calls(release=release, vms=12)
    vm = c.vm("vm03")
    c.sleep(3600)
    c(f"VM.{method}", vm.ref)
    assert (vm["power_state"], vm["resident_on"], vm["domid"]) == ("Halted", NULL, -1)
    assert vm["consoles"] == []
    for table in ("VBD", "VIF"):
        devices = [c.pool.store.get(table, ref) for ref in vm[f"{table}s"]]
        assert devices
        assert not any(d["currently_attached"] or d["reserved"] for d in devices)
    assert not c.pool.disk_of(c.vbd("vm03", "0")["VDI"]).writers
    assert c.pool.guest(vm).writes >= 360
    c("VM.start", vm.ref, False, False)
    c.sleep(3600)
    assert c.unharmed()


def test_a_clean_shutdown_takes_its_time(c: Any) -> None:
    """By force it is quicker."""
    now = c.pool.clock.now()
    c("VM.hard_shutdown", c.vm("vm01").ref)
    hard = c.pool.clock.now() - now
    c("VM.clean_shutdown", c.vm("vm02").ref)
    assert c.pool.clock.now() - now - hard > 5 * hard


def test_a_shutdown_is_clean_where_it_can_be(c: Any) -> None:
    """Since 6.2 one call does either."""
    c("VM.shutdown", c.vm("vm01").ref)
    vm = c.vm("vm03")
    c.pool.store.delete(c.pool.store.get("VM_guest_metrics", vm["guest_metrics"]))
    assert c.refused("VM.clean_shutdown", vm.ref) == ["VM_LACKS_FEATURE", vm.ref]
    c("VM.shutdown", vm.ref)
    c("VM.shutdown", c.vm("vm06").ref)
    assert {c.vm(n)["power_state"] for n in ("vm01", "vm03", "vm06")} == {"Halted"}
    assert c.unharmed()


def test_a_shutdown_of_a_busy_vm_waits_and_is_clean_then(c: Any) -> None:
    """What else goes on with a VM does not make a clean shutdown impossible, and neither does a block of that operation."""
    vm = c.vm("vm01")
    c("VM.add_to_blocked_operations", vm.ref, "clean_shutdown", "no")
    now, moved = c.pool.clock.now(), []
    task = c.start("VM.pool_migrate", vm.ref, c.host("host2").ref, {"live": "true"})
    c.pool.when(
        Wait(now + 3600, lambda: c.pool.store.get("task", task.ref)["status"] == "success"),
        lambda: moved.append(c.pool.clock.now()),
    )
    c("VM.shutdown", vm.ref)
    assert vm["power_state"] == "Halted"
    assert now < moved[0] <= c.pool.clock.now() - c.pool.durations.vm_shutdown


def test_a_paused_vm_is_shut_down_by_force_after_a_minute(c: Any) -> None:
    """It cannot say that it has heard; where its own delay is shorter, less is waited. Without drivers it is off at once."""
    taken = {}
    for name, delay in (("vm01", 0), ("vm02", 20), ("vm03", 0)):
        vm = c.vm(name)
        c("VM.pause", vm.ref)
        c("VM.set_shutdown_delay", vm.ref, delay)
        if name == "vm03":
            c.pool.store.delete(c.pool.store.get("VM_guest_metrics", vm["guest_metrics"]))
        now = c.pool.clock.now()
        c("VM.shutdown", vm.ref)
        assert vm["power_state"] == "Halted"
        taken[name] = c.pool.clock.now() - now
    forced = taken["vm03"]
    assert taken == {"vm01": forced + 60, "vm02": forced + 20 + 20, "vm03": forced}
    assert forced < 20


@pytest.mark.parametrize("method", ["clean_reboot", "hard_reboot"])
def test_a_reboot_is_a_new_domain_in_the_same_place(c: Any, method: str) -> None:
    """XenAPI shows it running throughout; drivers report anew."""
    vm = c.vm("vm01")
    host, domid, seen = vm["resident_on"], vm["domid"], []
    task = c.start(f"VM.{method}", vm.ref)
    c.pool.clock.after(1, lambda: seen.append(vm["power_state"]))
    c.sleep(26)
    assert task["status"] == "success"
    assert vm["guest_metrics"] == NULL
    c.sleep(31)
    assert (vm["power_state"], vm["resident_on"], seen) == ("Running", host, ["Running"])
    assert vm["domid"] != domid
    assert vm["guest_metrics"] != NULL
    assert c.unharmed()


def test_up_to_5_5_a_suspended_vm_could_be_rebooted_by_force(old: Any) -> None:
    """Its image is dropped and it is started."""
    vm = old.vm("vm06")
    image = vm["suspend_VDI"]
    old("VM.hard_reboot", vm.ref)
    assert (vm["power_state"], vm["suspend_VDI"]) == ("Running", NULL)
    assert old.refused("VDI.get_record", image)[0] == "HANDLE_INVALID"
    assert old.unharmed()


# --- what a host sees of a VM


def test_a_vm_that_is_reverted_to_a_checkpoint_started_when_that_one_did(c: Any) -> None:
    """The image has it: neither a later start of the VM nor its loss in the metrics of what is suspended matters."""
    vm = c.vm("vm01")

    def started(vm: Any) -> str:
        return str(c.pool.store.get("VM_metrics", vm["metrics"])["start_time"])

    first = started(vm)
    snapshot = c.pool.store.get("VM", c("VM.checkpoint", vm.ref, "saved"))
    assert (started(vm), started(snapshot)) == (first, EPOCH)
    c("VM.hard_reboot", vm.ref)
    assert started(vm) > first
    c("VM.revert", snapshot.ref)
    assert (vm["power_state"], started(vm)) == ("Suspended", EPOCH)
    c("VM.resume", vm.ref, False, False)
    assert started(vm) == first


SEEN = ("VCPUs_number", "hvm", "current_domain_type", "start_time")
STARTED = "20081130T23:00:00Z"
EPOCH = "19700101T00:00:00Z"


def _seen(c: Any, name: str) -> tuple[Any, ...]:
    """How much memory a VM is to have, and of its metrics those that the release knows."""
    vm = c.vm(name)
    metrics = c.pool.store.get("VM_metrics", vm["metrics"])
    return vm["memory_target"] // GIB, *(metrics[name] for name in SEEN if name in metrics)


@pytest.mark.parametrize(
    ("release", "running", "saved", "off"),
    [
        ("6.0.0", (3, 2, STARTED), (3, 2, STARTED), (3, 2, STARTED)),
        ("6.1.0", (3, 2, STARTED), (0, 0, EPOCH), (0, 0, EPOCH)),
        (
            "8.2",
            (3, 2, True, "hvm", STARTED),
            (0, 0, False, "hvm", EPOCH),
            (0, 0, False, "unspecified", EPOCH),
        ),
        (
            "",
            (3, 2, True, "hvm", STARTED),
            (0, 0, False, "hvm", STARTED),
            (0, 0, False, "unspecified", STARTED),
        ),
    ],
)
@pytest.mark.parametrize("stop", ["VM.clean_shutdown", "VM.hard_shutdown", "halt"])
def test_since_6_1_a_vm_without_a_domain_shows_nothing_of_one(
    calls: Make, newest: Make, release: str, stop: str, running: Any, saved: Any, off: Any
) -> None:
    """Before, what was seen last stays. Since the toolstack's version 24.30 the time of the start stays, too; a
    resumed VM tells it in any release."""
    c = calls(release=release, hosts=1, vms=4) if release else newest(hosts=1, vms=4)
    vm = c.vm("vm04")  # it is off
    c.pool.store.write(vm, HVM_boot_policy="BIOS order", domain_type="hvm", VCPUs_max=2, VCPUs_at_startup=2)
    limits = dict.fromkeys(("memory_static_max", "memory_dynamic_max", "memory_dynamic_min"), 3 * GIB)
    c.pool.store.write(vm, **limits, memory_target=3 * GIB)
    c("VM.start", vm.ref, False, False)
    running = (*running[:-1], c.pool.clock.stamp())
    saved, off = ((*seen[:-1], running[-1] if seen[-1] == STARTED else EPOCH) for seen in (saved, off))
    assert _seen(c, "vm04") == running
    c.sleep(60)
    c("VM.suspend", vm.ref)
    assert _seen(c, "vm04") == saved
    c("VM.resume", vm.ref, False, False)
    assert _seen(c, "vm04") == running
    if stop == "halt":
        c.pool.inside.halt("vm04")
    else:
        c(stop, vm.ref)
    assert _seen(c, "vm04") == off
    assert c.unharmed()


def test_what_kept_a_vm_in_its_place_is_seen_of_one_that_runs(c: Any) -> None:
    """Its platform tells it still, when it is off."""
    vm = c.vm("vm04")
    traits = ("nomigrate", "nested_virt")
    c.pool.store.write(vm, platform={**vm["platform"], "nomigrate": "true", "nested-virt": "true"})
    for verb, args, seen in (("VM.start", (False, False), True), ("VM.hard_shutdown", (), False)):
        c(verb, vm.ref, *args)
        metrics = c.pool.store.get("VM_metrics", vm["metrics"])
        assert [metrics[name] for name in traits] == [seen, seen]


@pytest.mark.parametrize(("release", "halted"), [("6.0.0", False), ("6.1.0", True), ("8.4", True)])
def test_a_made_pool_shows_nothing_of_domains_that_are_not_there(calls: Make, release: str, halted: bool) -> None:
    """Neither of a VM that is off, nor of one that is saved."""
    c = calls(release=release, hosts=1, vms=12)
    assert _seen(c, "vm01")[:2] != (0, 0)
    for name in ("vm04", "vm06"):
        assert (_seen(c, name)[:2] == (0, 0)) is halted


# --- suspending and resuming


@pytest.mark.parametrize("release", ["4.0.1", "8.2"])
def test_suspend_makes_a_disk_and_resume_removes_it(calls: Make, release: str) -> None:
    """Devices stay attached, the place is given up, the guest goes on where it was."""
    c = calls(release=release, hosts=3, vms=12)
    vm, disks = c.vm("vm01"), set(c.pool.store.table("VDI"))
    start_time = c.pool.store.get("VM_metrics", vm["metrics"])["start_time"]
    c.sleep(100)
    c("VM.suspend", vm.ref)
    image = c.pool.store.get("VDI", vm["suspend_VDI"])
    assert set(c.pool.store.table("VDI")) - disks == {image.ref}
    assert (image["type"], image["SR"]) == ("suspend", c.pool.store.pool()["suspend_image_SR"])
    size = int(vm["memory_static_max"] * 1.2 * 1.05) + 104857600
    assert image["virtual_size"] == image["physical_utilisation"] == rounded("nfs", size)
    assert (vm["power_state"], vm["resident_on"], vm["domid"]) == ("Suspended", NULL, -1)
    assert c.vbd("vm01", "0")["currently_attached"]
    assert (vm["consoles"], vm["guest_metrics"] != NULL) == ([], True)
    writes = c.pool.guest(vm).writes
    c.sleep(86400)
    assert c.pool.guest(vm).writes == writes
    c = c.again()
    c("VM.resume", vm.ref, False, False)
    assert (vm["power_state"], vm["suspend_VDI"]) == ("Running", NULL)
    assert set(c.pool.store.table("VDI")) == disks
    assert image["uuid"] not in c.pool.disks
    assert c.pool.store.get("VM_metrics", vm["metrics"])["start_time"] == start_time
    c.sleep(100)
    assert c.unharmed()
    assert c.pool.guest(vm).writes >= writes + 10


def test_a_suspended_vm_resumes_on_the_host_that_is_named(old: Any) -> None:
    """Or paused."""
    vm = old.vm("vm06")
    old("VM.resume_on", vm.ref, old.host("host3").ref, True, False)
    assert (vm["power_state"], vm["resident_on"]) == ("Paused", old.host("host3").ref)
    assert old.unharmed()


def test_an_image_needs_a_place(c: Any) -> None:
    """The VM's, the pool's or the host's, whichever is set first and the host has a connection to."""
    vm, store = c.vm("vm01"), c.pool.store
    store.write(store.pool(), suspend_image_SR=NULL)
    assert c.refused("VM.suspend", vm.ref) == ["VM_NO_SUSPEND_SR", vm.ref]
    assert (vm["power_state"], vm["suspend_VDI"]) == ("Running", NULL)
    local, foreign = c.row("SR", "Local storage on host1"), c.row("SR", "Local storage on host2")
    store.write(c.host("host1"), suspend_image_sr=local.ref)
    store.write(vm, suspend_SR=foreign.ref)
    c("VM.suspend", vm.ref)
    assert store.get("VDI", vm["suspend_VDI"])["SR"] == local.ref
    assert c.refused("VM.resume_on", vm.ref, c.host("host2").ref, False, False) == ["VM_REQUIRES_SR", vm.ref, local.ref]
    c("VM.resume", vm.ref, False, False)
    assert vm["resident_on"] == c.host("host1").ref


def test_an_image_that_is_gone_leaves_the_vm_halted(c: Any) -> None:
    """There is nothing to resume from."""
    vm = c.vm("vm06")
    c("VDI.destroy", vm["suspend_VDI"])
    assert vm["suspend_VDI"] == NULL
    assert c.refused("VM.resume", vm.ref, False, False) == ["VM_HAS_NO_SUSPEND_VDI", "VM", vm.ref]
    assert (vm["power_state"], vm["current_operations"]) == ("Halted", {})
    assert not c.vbd("vm06", "0")["currently_attached"]


def test_a_suspended_vm_can_be_shut_down_by_force(old: Any) -> None:
    """Its image goes; where nobody reaches its storage, nobody can do it."""
    vm, image = old.vm("vm06"), old.vm("vm06")["suspend_VDI"]
    pbds = [
        old.pool.store.get("PBD", r) for r in old.pool.store.get("SR", old.pool.store.get("VDI", image)["SR"])["PBDs"]
    ]
    for pbd in pbds:
        old.pool.store.write(pbd, currently_attached=False)
    assert old.refused("VM.hard_shutdown", vm.ref) == ["NO_HOSTS_AVAILABLE"]
    for pbd in pbds:
        old.pool.store.write(pbd, currently_attached=True)
    old("VM.hard_shutdown", vm.ref)
    assert (vm["power_state"], vm["suspend_VDI"]) == ("Halted", NULL)
    assert old.refused("VDI.get_record", image)[0] == "HANDLE_INVALID"


def test_an_image_out_of_reach_does_not_keep_a_vm_suspended(c: Any) -> None:
    """Only its disks must be in reach; the image stays where it is, and nobody names it any more."""
    vm, store = c.vm("vm06"), c.pool.store
    image = store.get("VDI", vm["suspend_VDI"])
    elsewhere = c.row("SR", "Local storage on host1")
    store.write(image, SR=elsewhere.ref)
    for pbd in elsewhere["PBDs"]:
        store.write(store.get("PBD", pbd), currently_attached=False)
    c("VM.hard_shutdown", vm.ref)
    assert (vm["power_state"], vm["suspend_VDI"]) == ("Halted", NULL)
    assert c("VDI.get_type", image.ref) == "suspend"


def test_an_old_image_with_a_cd_cannot_be_resumed_after_an_upgrade(calls: Make) -> None:
    """As the installation guide warns: it can only be shut down by force, and started then. Without a CD it resumes."""
    c = calls(release="4.0.1", hosts=2, vms=12)
    c("VBD.insert", c.vbd("vm01", "3").ref, next(v for v in c.pool.store.table("VDI").values() if v["read_only"]).ref)
    c("VM.suspend", c.vm("vm01").ref)
    for vm in [
        v for v in c.pool.store.table("VM").values() if v["power_state"] == "Running" and not v["is_control_domain"]
    ]:
        c("VM.hard_shutdown", vm.ref)
    c = c.upgrade("host1", "4.1").upgrade("host2", "4.1")
    vm, drive = c.vm("vm01"), c.vbd("vm01", "3")
    assert c.refused("VM.resume", vm.ref, False, False) == ["DEVICE_ATTACH_TIMEOUT", "VBD", drive.ref]
    assert (vm["power_state"], vm["current_operations"], vm["scheduled_to_be_resident_on"]) == ("Suspended", {}, NULL)
    assert c.refused("VBD.eject", drive.ref) == ["VM_BAD_POWER_STATE", vm.ref, "running", "suspended"]
    c("VM.resume", c.vm("vm06").ref, False, False)
    c("VM.hard_shutdown", vm.ref)
    c("VM.start", vm.ref, False, False)
    c.sleep(c.pool.durations.vm_boot)
    c("VM.suspend", vm.ref)
    c("VM.resume", vm.ref, False, False)
    assert c.unharmed()


# --- making and destroying


def a_vm(c: Any, **more: Any) -> Any:
    """A new VM, made from the record of another."""
    record = {**c("VM.get_record", c.vm("vm04").ref), "name_label": "made", **more}
    return c.pool.store.get("VM", c("VM.create", record))


def test_a_new_vm_is_halted_and_bare(c: Any) -> None:
    """Whatever the record says of its state; it gets metrics, and a seed for addresses if it has none."""
    vm = a_vm(
        c, power_state="Running", resident_on=c.host("host1").ref, blocked_operations={"start": "x"}, other_config={}
    )
    assert (vm["power_state"], vm["resident_on"], vm["domid"], vm["VBDs"]) == ("Halted", NULL, -1, [])
    assert (vm["blocked_operations"], list(vm["other_config"])) == ({}, ["mac_seed"])
    assert c("VM_metrics.get_record", vm["metrics"])["memory_actual"] == 0
    assert "start" in vm["allowed_operations"]
    c("VM.start", vm.ref, False, False)
    assert c.unharmed()


def test_a_vm_goes_with_its_devices_and_without_its_disks(c: Any) -> None:
    """What it was made of is gone; what it wrote is not."""
    c("VM.hard_shutdown", c.vm("vm01").ref)
    vm, disk = c.vm("vm01"), c.vbd("vm01", "0")["VDI"]
    gone = [("VBD", ref) for ref in vm["VBDs"]] + [("VIF", ref) for ref in vm["VIFs"]]
    gone += [("VM_metrics", vm["metrics"]), ("VM_guest_metrics", vm["guest_metrics"]), ("VM", vm.ref)]
    c("VM.destroy", vm.ref)
    for table, ref in gone:
        assert c.pool.store.find(table, ref) is None, table
    assert c("VDI.get_VBDs", disk) == []
    assert c.unharmed()
