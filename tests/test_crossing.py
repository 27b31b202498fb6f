"""VMs moving to another pool, as `host.migrate_receive` and `VM.migrate_send` do it."""

from __future__ import annotations

import random
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import pytest
from pairs import Pair, blocks

import xenctl
from mockserver import MockPool
from mockserver.hardware import equip
from xenctl.errors import Failure

Make = Callable[..., Any]
NULL = "OpaqueRef:NULL"


@pytest.fixture
def pair(calls: Make) -> Pair:
    return Pair(calls)


# --- it comes whole


@pytest.mark.parametrize("release", ["6.1", "6.2", "6.5", "7.0", "7.1", "7.3", "7.6", "8.0", "8.2", "8.4"])
def test_a_running_vm_goes_to_another_pool(calls: Make, release: str) -> None:
    """It keeps its uuid and goes on writing to disks that hold what it wrote; nothing of it is left where it was."""
    pair = Pair(calls, release=release)
    c, d = pair.c, pair.d
    vm, uuid = c.vm("vm01"), c.vm("vm01")["uuid"]
    gone = [("VM", vm.ref), *(("VIF", ref) for ref in vm["VIFs"]), *(("VBD", ref) for ref in vm["VBDs"])]
    gone += [
        ("VDI", c.vbd("vm01", "0")["VDI"]),
        ("VM_metrics", vm["metrics"]),
        ("VM_guest_metrics", vm["guest_metrics"]),
    ]
    macs = [c.pool.store.get("VIF", ref)["MAC"] for ref in vm["VIFs"]]
    agent = dict(c.pool.store.get("VM_guest_metrics", vm["guest_metrics"])["os_version"])
    start = c.pool.store.get("VM_metrics", vm["metrics"])["start_time"]
    new = d.pool.store.get("VM", c("VM.migrate_send", *pair.send(vm)))
    assert (new["uuid"], new["name_label"], new["power_state"]) == (uuid, "vm01", "Running")
    assert (new["resident_on"], new["scheduled_to_be_resident_on"]) == (d.host("host3").ref, NULL)
    assert (new["current_operations"], uuid in c.pool.machine("host3").domains) == ({}, True)
    assert all(device["currently_attached"] for device in d.pool.store.rows("VIF", new["VIFs"]))
    assert d.pool.store.get("VDI", d.vbd("vm01", "0")["VDI"])["SR"] == pair.sr()
    assert d.vbd("vm01", "0")["currently_attached"]
    assert [d.pool.store.get("VIF", ref)["MAC"] for ref in new["VIFs"]] == macs
    assert {d.pool.store.get("VIF", ref)["network"] for ref in new["VIFs"]} == {pair.network}
    assert d.pool.store.get("VM_guest_metrics", new["guest_metrics"])["os_version"] == agent
    assert d.pool.store.get("VM_metrics", new["metrics"])["start_time"] == start
    assert [name for name, ref in gone if c.pool.store.find(name, ref) is not None] == []
    assert len(new["consoles"]) == 1
    writes = c.pool.guest(new).writes
    c.sleep(200)
    pair.unharmed()
    assert c.pool.guest(new).writes >= writes + 20


def test_what_it_writes_while_it_goes_comes_with_it(pair: Pair) -> None:
    """The disk over there holds the last write, not what was there when copying began."""
    c = pair.c
    vm, guest = c.vm("vm01"), c.pool.guest(c.vm("vm01"))
    task = c.start("VM.migrate_send", *pair.send(vm))
    c.sleep(100)
    assert (task["status"], vm["current_operations"]) == ("pending", {task.ref: "migrate_send"})
    pair.unharmed()
    before = guest.writes
    c.until(lambda: task["status"] != "pending")
    assert task["status"] == "success"
    assert task["result"] == f"<value>{pair.d.vm('vm01').ref}</value>"
    pair.unharmed()
    (disk,) = blocks(pair.beside, pair.d.vm("vm01")).values()
    assert guest.writes > before
    assert f"{guest.uuid}#{guest.writes - 1}".encode() in disk.values()


def test_a_halted_vm_goes_and_starts_over_there(pair: Pair) -> None:
    """Byte by byte what it was, on the host that sees its disk."""
    c, d = pair.c, pair.d
    vm, before = c.vm("vm04"), blocks(pair.c.pool, pair.c.vm("vm04"))
    new = d.pool.store.get("VM", c("VM.migrate_send", *pair.send(vm)))
    assert (new["power_state"], new["resident_on"], blocks(pair.beside, new)) == ("Halted", NULL, before)
    assert not d.vbd("vm04", "0")["currently_attached"]
    d("VM.start", new.ref, False, False)
    assert new["resident_on"] == d.host("host3").ref
    pair.unharmed()


def test_a_suspended_vm_goes_with_its_image(pair: Pair) -> None:
    """The image goes to where the pool keeps such; the VM is resumed from it."""
    c, d = pair.c, pair.d
    vm = c.vm("vm06")
    image = vm["suspend_VDI"]
    new = d.pool.store.get("VM", c("VM.migrate_send", *pair.send(vm)))
    assert (new["power_state"], c.pool.store.find("VDI", image)) == ("Suspended", None)
    kept = d.pool.store.get("VDI", new["suspend_VDI"])
    assert kept["SR"] == d.pool.store.pool()["suspend_image_SR"]
    pair.unharmed()
    disk = d.pool.store.get("VDI", d.vbd("vm06", "0")["VDI"])
    assert d.refused("VM.resume_on", new.ref, d.host("host4").ref, False, False)[0] == "VM_REQUIRES_SR"
    assert disk["SR"] == pair.sr()
    d("VM.resume", new.ref, False, False)
    assert (new["power_state"], new["resident_on"]) == ("Running", d.host("host3").ref)
    pair.unharmed()


def test_snapshots_go_with_their_vm(pair: Pair) -> None:
    """They are its snapshots over there, hold what they held, and it can be taken back to one."""
    c, d = pair.c, pair.d
    vm = c.vm("vm01")
    first = c("VM.snapshot", vm.ref, "then")
    c.sleep(50)
    second = c("VM.checkpoint", vm.ref, "later")
    rows = [c.pool.store.get("VM", ref) for ref in (first, second)]
    held, uuids = [blocks(c.pool, row) for row in rows], [row["uuid"] for row in rows]
    vifs = dict.fromkeys(vm["VIFs"], pair.network)  # a snapshot's have the same MACs
    new = d.pool.store.get("VM", c("VM.migrate_send", *pair.send(vm, vif_map=vifs)))
    there = [d.row("VM", name) for name in ("then", "later")]
    assert [blocks(pair.beside, row) for row in there] == held
    assert [row["uuid"] for row in there] == uuids
    assert {row["snapshot_of"] for row in there} == {new.ref}
    assert (there[1]["power_state"], new["parent"], there[1]["parent"]) == ("Suspended", there[1].ref, there[0].ref)
    disk = d.pool.store.get("VDI", d.vbd("then", "0")["VDI"])
    assert (disk["snapshot_of"], disk["is_a_snapshot"]) == (d.vbd("vm01", "0")["VDI"], True)
    assert [
        row["name_label"] for row in c.pool.store.table("VM").values() if row["name_label"] in ("then", "later")
    ] == []
    pair.unharmed()
    d("VM.revert", there[0].ref)
    assert blocks(pair.beside, new) == held[0]
    pair.unharmed()


def test_messages_and_blobs_go_with_their_vm(pair: Pair) -> None:
    """What operators were told of it, oldest first, and what clients keep with it."""
    c, d = pair.c, pair.d
    vm, uuid = c.vm("vm01"), c.vm("vm01")["uuid"]
    blob = c("VM.create_new_blob", vm.ref, "notes", "text/plain", False)
    c.pool.blobs[c.pool.store.get("blob", blob)["uuid"]] = b"mine"
    c("message.create", "FIRST", 5, "VM", uuid, "x")
    c("message.create", "SECOND", 5, "VM", uuid, "y")
    new = d.pool.store.get("VM", c("VM.migrate_send", *pair.send(vm)))
    told = d("message.get", "VM", uuid, "19700101T00:00:00Z")
    assert [row["name"] for row in told.values()] == ["SECOND", "FIRST"]
    assert c("message.get_all") == []
    assert d.pool.blobs[d.pool.store.get("blob", new["blobs"]["notes"])["uuid"]] == b"mine"
    assert (c.pool.store.find("blob", blob), c.pool.blobs) == (None, {})


def test_a_copy_leaves_the_vm_where_it_is(pair: Pair) -> None:
    """The other pool has one of its own: another uuid, other MACs, the same bytes, no snapshots."""
    c, d = pair.c, pair.d
    vm, before = c.vm("vm04"), blocks(pair.c.pool, pair.c.vm("vm04"))
    c("VM.snapshot", vm.ref, "then")
    new = d.pool.store.get("VM", c("VM.migrate_send", *pair.send(vm, options={"copy": "true"})))
    assert new["uuid"] != vm["uuid"]
    assert blocks(pair.beside, new) == blocks(c.pool, vm) == before
    macs = [store.get("VIF", row["VIFs"][0])["MAC"] for store, row in ((c.pool.store, vm), (d.pool.store, new))]
    assert macs[0] != macs[1]
    assert (new["snapshots"], len(vm["snapshots"])) == ([], 1)
    c("VM.start", vm.ref, False, False)
    d("VM.start", new.ref, False, False)
    c.sleep(300)
    pair.unharmed()
    assert blocks(pair.beside, new) != blocks(c.pool, vm)


def test_a_copy_stays_within_its_pool_by_other_means(pair: Pair) -> None:
    """The caller is told of them."""
    c = pair.c
    vm = c.vm("vm04")
    network = next(iter(c.pool.store.table("network")))
    dest = c("host.migrate_receive", c.host("host2").ref, network, {})
    to = {c.vbd("vm04", "0")["VDI"]: c.row("SR", "Local storage on host2").ref}
    found = c.refused("VM.migrate_send", vm.ref, dest, True, to, {}, {"copy": "true"}, {})
    assert found[0] == "OPERATION_NOT_ALLOWED"
    assert "VM.copy/clone" in found[1]


def test_discs_are_ejected_first(pair: Pair) -> None:
    """They stay in their library, and the drive comes empty."""
    c, d = pair.c, pair.d
    vm = c.vm("vm02")
    drive = c.vbd("vm02", "3")
    assert not drive["empty"]
    disc = drive["VDI"]
    c("VM.migrate_send", *pair.send(vm))
    assert c.pool.store.find("VDI", disc) is not None
    assert (d.vbd("vm02", "3")["empty"], d.vbd("vm02", "3")["VDI"]) == (True, NULL)
    pair.unharmed()


def test_it_may_be_told_to_shut_down_on_its_way(pair: Pair) -> None:
    """It comes halted then, with all that it wrote."""
    c, d = pair.c, pair.d
    vm = c.vm("vm01")
    task = c.start("VM.migrate_send", *pair.send(vm))
    c.sleep(60)
    c("VM.clean_shutdown", vm.ref)
    assert vm["power_state"] == "Halted"
    c.until(lambda: task["status"] != "pending")
    assert task["status"] == "success"
    new = d.vm("vm01")
    assert (new["power_state"], new["resident_on"], d.vbd("vm01", "0")["currently_attached"]) == ("Halted", NULL, False)
    pair.unharmed()
    d("VM.start", new.ref, False, False)
    pair.unharmed()


def test_what_else_is_done_to_it_ends_before_it_goes(pair: Pair) -> None:
    """A shutdown that began at the last moment is over first: the VM comes halted."""
    c, d = pair.c, pair.d
    vm = c.vm("vm01")
    task = c.start("VM.migrate_send", *pair.send(vm))
    c.sleep(145)
    assert task["status"] == "pending"
    other = c.start("VM.clean_shutdown", vm.ref)
    c.until(lambda: task["status"] != "pending")
    assert (task["status"], other["status"]) == ("success", "success")
    assert d.vm("vm01")["power_state"] == "Halted"
    pair.unharmed()


def test_it_may_come_back(pair: Pair) -> None:
    """With the same uuid, and whole."""
    c, d = pair.c, pair.d
    uuid = c.vm("vm01")["uuid"]
    c("VM.migrate_send", *pair.send(c.vm("vm01")))
    store = c.pool.store
    network = next(pif["network"] for pif in store.table("PIF").values() if pif["management"])
    dest = c("host.migrate_receive", c.host("host2").ref, network, {})
    vm = d.vm("vm01")
    to = {d.vbd("vm01", "0")["VDI"]: c.row("SR", "Local storage on host2").ref}
    d("VM.migrate_send", vm.ref, dest, True, to, dict.fromkeys(vm["VIFs"], network), {}, {})
    assert (c.vm("vm01")["uuid"], c.vm("vm01")["resident_on"]) == (uuid, c.host("host2").ref)
    pair.unharmed()


def test_an_agent_that_is_not_up_yet_reports_over_there(calls: Make) -> None:
    """The guest goes on booting."""
    from mockserver import Durations

    pair = Pair(calls, durations=Durations(vm_boot=5000.0))
    c, d = pair.c, pair.d
    vm = c.vm("vm01")
    c("VM.clean_reboot", vm.ref)
    assert vm["guest_metrics"] == NULL
    c("VM.migrate_send", *pair.send(vm))
    new = d.vm("vm01")
    assert new["guest_metrics"] == NULL
    d.until(lambda: new["guest_metrics"] != NULL)
    pair.unharmed()


def test_storage_over_there_is_plugged_when_it_is_needed(pair: Pair) -> None:
    """A host that has no connection to it cannot be sent to."""
    c, d = pair.c, pair.d
    sr = d.row("SR", "Local storage on host3")
    (pbd,) = d.pool.store.rows("PBD", sr["PBDs"])
    d("PBD.unplug", pbd.ref)
    c("VM.migrate_send", *pair.send(c.vm("vm04")))
    assert pbd["currently_attached"]
    elsewhere = dict.fromkeys([c.vbd("vm01", "0")["VDI"]], pair.sr("Local storage on host4"))
    found = c.refused("VM.migrate_send", *pair.send(c.vm("vm01"), vdi_map=elsewhere))
    assert found == ["VM_REQUIRES_SR", c.vm("vm01").ref, pair.sr("Local storage on host4")]


def test_a_real_client_moves_a_vm_between_pools() -> None:
    """Over the wire, by what the typed client has for it."""
    pool = MockPool.create(hosts=1, vms=1, release="8.4")
    beside = pool.neighbour()
    transport = pool.transport()
    with (
        xenctl.connect(pool.url, "root", "secret", transport=transport) as here,
        xenctl.connect(beside.url, "root", "secret", transport=transport) as there,
    ):
        ((ref, vm),) = [(r, v) for r, v in here.VM.get_all_records().items() if not v.is_control_domain]
        (host,) = there.host.get_all()
        network = next(pif.network for pif in there.PIF.get_all_records().values() if pif.management)
        dest = there.host.migrate_receive(host, network, {})
        sr = next(r for r, v in there.SR.get_all_records().items() if v.type == "lvm")
        disks = [v.VDI for v in here.VBD.get_all_records().values() if ref == v.VM and v.type == "Disk"]
        new = here.VM.migrate_send(ref, dest, True, dict.fromkeys(disks, sr), dict.fromkeys(vm.VIFs, network), {})
        assert there.VM.get_uuid(new) == vm.uuid
        assert vm.uuid not in [v.uuid for v in here.VM.get_all_records().values()]


def test_events_of_both_pools_tell_of_it(pair: Pair) -> None:
    """The one hears that the VM went, the other that it came."""
    c, d = pair.c, pair.d
    vm = c.vm("vm01")
    tokens = [caller("event.from", ["vm"], "", 0.0)["token"] for caller in (c, d)]
    new = c("VM.migrate_send", *pair.send(vm))
    gone, came = (caller("event.from", ["vm"], token, 0.0) for caller, token in zip((c, d), tokens, strict=True))
    assert ("del", vm.ref) in [(event["operation"], event["ref"]) for event in gone["events"]]
    assert ("add", new) in [(event["operation"], event["ref"]) for event in came["events"]]


def test_a_move_can_be_taken_back(pair: Pair) -> None:
    """In both pools at once."""
    c = pair.c
    vm, before = c.vm("vm01"), pair.traces()
    with c.pool.savepoint():
        c("VM.migrate_send", *pair.send(vm))
        assert pair.traces() != before
    assert pair.traces() == before
    assert c.vm("vm01")["power_state"] == "Running"
    c.sleep(100)
    pair.unharmed()


@pytest.mark.parametrize("seed", range(6))
def test_vms_go_to_and_fro_and_lose_nothing(calls: Make, seed: int) -> None:
    """Whatever state they are in, whatever snapshots they have, whoever cancels."""
    pair, chance = Pair(calls, seed=seed), random.Random(seed)
    done = dict.fromkeys(("success", "cancelled", "failure"), 0)
    for _ in range(25):
        here, there = chance.sample([pair.c, pair.d], 2)
        vms = [
            row
            for row in here.pool.store.table("VM").values()
            if not (row["is_control_domain"] or row["is_a_template"])
        ]
        if not vms:
            continue
        vm = chance.choice(vms)
        if chance.random() < 0.3:
            here("VM.snapshot", vm.ref, "then")
        if chance.random() < 0.3:
            change = {"Halted": ("VM.start", False, False), "Suspended": ("VM.resume", False, False)}
            method, *args = change.get(vm["power_state"], (chance.choice(["VM.suspend", "VM.clean_shutdown"]),))
            with suppress(Failure):
                here(method, vm.ref, *args)
        host = chance.choice(list(there.pool.store.table("host").values()))
        network = next(pif["network"] for pif in there.pool.store.table("PIF").values() if pif["management"])
        sr = there.row("SR", f"Local storage on {host['name_label']}").ref
        disks = {vbd["VDI"]: sr for vbd in here.pool.vbds(vm) if vbd["type"] == "Disk"}
        dest = there("host.migrate_receive", host.ref, network, {})
        boots = here.pool.guest(vm).up_at > here.pool.clock.now()
        task = here.start("VM.migrate_send", vm.ref, dest, True, disks, dict.fromkeys(vm["VIFs"], network), {}, {})
        if chance.random() < 0.3:
            here.sleep(chance.uniform(0, 400))
            here("task.cancel", task.ref)
        here.until(lambda task=task: task["status"] != "pending")  # type: ignore[misc]
        fair = {"HOST_NOT_ENOUGH_FREE_MEMORY", *(["VM_LACKS_FEATURE"] if boots else [])}
        assert task["status"] != "failure" or task["error_info"][0] in fair, (seed, task["error_info"])
        done[task["status"]] += 1
        here.sleep(chance.uniform(0, 100))
        pair.unharmed()
    assert done["success"] > 5, (seed, done)


# --- hardware that goes with it


def halted_hvm(pair: Pair) -> Any:
    """A VM that is off, virtualised by hardware: only those have graphics."""
    vm = pair.c.vm("vm04")
    pair.c.pool.store.write(vm, HVM_boot_policy="BIOS order", domain_type="hvm")
    return vm


def equipped(pool: MockPool) -> None:
    for host in pool.store.table("host").values():
        equip(pool, pool.store, host, gpus=1, usbs=0)


def kind(pool: MockPool, model: str) -> Any:
    return next(row for row in pool.store.table("VGPU_type").values() if row["model_name"] == model)


@pytest.mark.parametrize("mapped", [False, True])
def test_virtual_graphics_go_to_a_group_of_the_same_cards(calls: Make, mapped: bool) -> None:
    """Or to the one that they are mapped to; they are of the type of the same name."""
    pair = Pair(calls, release="8.4", gpus=1)
    c, d = pair.c, pair.d
    equipped(pair.beside)
    vm, group = halted_hvm(pair), next(iter(c.pool.store.table("GPU_group")))
    vgpu = c("VGPU.create", vm.ref, group, "0", {}, kind(c.pool, "GRID K140Q").ref)
    chosen = [*pair.beside.store.table("GPU_group")][-1 if mapped else 0]
    *arguments, _ = pair.send(vm)
    new = d.pool.store.get("VM", c("VM.migrate_send", *arguments, {vgpu: chosen} if mapped else {}))
    (row,) = d.pool.store.rows("VGPU", new["VGPUs"])
    assert (row["GPU_group"], row["type"]) == (chosen, kind(pair.beside, "GRID K140Q").ref)
    assert (row["currently_attached"], c.pool.store.find("VGPU", vgpu)) == (False, None)
    d("VM.start", new.ref, False, False)
    assert row["currently_attached"]
    pair.unharmed()


def test_virtual_graphics_need_their_cards(calls: Make) -> None:
    """A pool without any does not take the VM, and a move that fails leaves none."""
    pair = Pair(calls, release="8.4", gpus=1)
    c = pair.c
    vm, group = halted_hvm(pair), next(iter(c.pool.store.table("GPU_group")))
    vgpu = c("VGPU.create", vm.ref, group, "0", {}, kind(c.pool, "passthrough").ref)
    for method in ("VM.assert_can_migrate", "VM.migrate_send"):
        assert c.refused(method, *pair.send(vm)) == ["VM_REQUIRES_GPU", vm.ref, group]
    assert c.pool.store.find("VGPU", vgpu) is not None
    assert not pair.beside.store.table("VGPU")


def test_a_security_module_goes_with_its_vm(calls: Make) -> None:
    """With its uuid; that of a copy is another one."""
    pair = Pair(calls, release="8.4")
    c, d = pair.c, pair.d
    store, vm = c.pool.store, c.vm("vm04")
    uuid = c.pool.new_uuid()
    vtpm = store.create("VTPM", c.pool.new_ref(), {"uuid": uuid, "VM": vm.ref, "is_protected": True})
    copy = d.pool.store.get("VM", c("VM.migrate_send", *pair.send(vm, options={"copy": "true"})))
    new = d.pool.store.get("VM", c("VM.migrate_send", *pair.send(vm)))
    (first,), (second,) = (d.pool.store.rows("VTPM", row["VTPMs"]) for row in (copy, new))
    assert (second["uuid"], second["is_protected"]) == (uuid, True)
    assert first["uuid"] != uuid
    assert store.find("VTPM", vtpm.ref) is None


def test_a_guest_does_not_notice_by_its_generation(pair: Pair) -> None:
    """It is the one it was: its disks have not gone back."""
    vm = pair.c.vm("vm01")
    pair.c.pool.store.write(vm, generation_id="1:2")
    new = pair.c("VM.migrate_send", *pair.send(vm))
    assert pair.beside.store.get("VM", new)["generation_id"] == "1:2"


# --- it fails on its way


def _power_off(host: str) -> Callable[[Pair, str], None]:
    return lambda pair, task: pair.c.pool.hands.power_off(host)


def _log_out(pair: Pair, task: str) -> None:
    session = next(
        ref for ref, row in pair.beside.store.table("session").items() if row["this_host"] == pair.d.host("host4").ref
    )
    pair.beside.dispatch("session.logout", [session])


FAILURES: dict[str, tuple[Callable[[Pair, str], Any], str]] = {
    "it is cancelled": (lambda pair, task: pair.c("task.cancel", task), ""),
    "the host over there dies": (_power_off("host4"), "CANNOT_CONTACT_HOST"),
    "its own host dies": (_power_off("host2"), "CANNOT_CONTACT_HOST"),
}


@pytest.mark.parametrize("after", [30.0, 95.0, 115.0])
@pytest.mark.parametrize("case", FAILURES)
def test_a_move_that_fails_leaves_nothing_over_there(pair: Pair, case: str, after: float) -> None:
    """Neither disks nor records nor a place on a host; the VM is as it was."""
    c, (spoil, error) = pair.c, FAILURES[case]
    vm = next(
        row for row in c.pool.store.table("VM").values() if row["resident_on"] == c.host("host2").ref and row["VIFs"]
    )
    before, disks = pair.traces(), list(vm["VBDs"])
    to = {vbd["VDI"]: pair.sr("Local storage on host4") for vbd in c.pool.vbds(vm) if vbd["type"] == "Disk"}
    task = c.start("VM.migrate_send", *pair.send(vm, dest=pair.dest("host4"), vdi_map=to))
    c.sleep(after)
    assert pair.traces() != before
    assert (vm["uuid"] in pair.beside.store.by_uuid) == (after > 107)  # its records come with its memory
    spoil(pair, task.ref)
    c.until(lambda: task["status"] != "pending")
    assert task["status"] == ("failure" if error else "cancelled")
    assert task["error_info"][:1] == ([error] if error else [])
    assert (pair.traces(), vm["current_operations"], vm["VBDs"]) == (before, {}, disks)
    if not error:
        pair.unharmed()


def test_a_move_ends_with_its_session(pair: Pair) -> None:
    """What was made over there stays, since nobody may drop it any more; the VM goes on here."""
    c = pair.c
    vm = c.vm("vm01")
    arguments = pair.send(vm)
    task = c.start("VM.migrate_send", *arguments)
    c.sleep(30)
    pair.beside.dispatch("session.logout", [arguments[1]["session_id"]])
    c.until(lambda: task["status"] != "pending")
    assert task["error_info"] == ["SESSION_INVALID", arguments[1]["session_id"]]
    assert (vm["power_state"], vm["current_operations"]) == ("Running", {})
    assert [row["name_label"] for row in pair.beside.store.table("VDI").values() if row["SR"] == pair.sr()] == [
        "disk of vm01"
    ]
    pair.unharmed()


def test_a_pool_that_goes_away_keeps_what_it_was_sent(pair: Pair) -> None:
    """Nobody can drop it there, either; the VM goes on here, and can be sent again once the other pool is back."""
    c, d = pair.c, pair.d
    vm = c.vm("vm01")
    task = c.start("VM.migrate_send", *pair.send(vm))
    c.sleep(30)
    c.pool.hands.power_off("host3")
    c.until(lambda: task["status"] != "pending")
    assert task["error_info"] == ["CANNOT_CONTACT_HOST", d.host("host3")["address"]]
    assert (vm["power_state"], vm["current_operations"]) == ("Running", {})
    assert c.unharmed()
    c.pool.hands.power_on("host3")
    pair.d = d.back()
    left = [row for row in pair.beside.store.table("VDI").values() if row["SR"] == pair.sr()]
    assert [row["name_label"] for row in left] == ["disk of vm01"]
    c("VM.migrate_send", *pair.send(vm))
    assert pair.d.vm("vm01")["power_state"] == "Running"
    pair.unharmed()


def test_the_task_tells_how_far_it_is(pair: Pair) -> None:
    """More and more, and of its own end."""
    c = pair.c
    task = c.start("VM.migrate_send", *pair.send(c.vm("vm01")))
    seen = []
    for _ in range(4):
        c.sleep(25)
        seen.append(c("task.get_progress", task.ref))
    assert seen == sorted(set(seen))
    assert 0.0 < seen[0] < seen[-1] < 1.0
    assert task["allowed_operations"] == ["cancel"]
    c.until(lambda: task["status"] == "success")
    assert c("task.get_progress", task.ref) == 1.0
