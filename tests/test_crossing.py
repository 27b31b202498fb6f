"""VMs moving to another pool, as `host.migrate_receive` and `VM.migrate_send` do it."""

from __future__ import annotations

import random
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import pytest

import xenctl
from mockserver import MockPool
from mockserver.hardware import equip
from mockserver.invariants import BeliefHolds, DataKept, MemoryFits, OneWriter
from xenctl.errors import Failure

Make = Callable[..., Any]
NULL = "OpaqueRef:NULL"


class Pair:
    """Two pools beside each other: `c` calls the one that VMs leave, `d` the one that they come to."""

    def __init__(self, calls: Make, release: str = "8.2", to: str | None = None, **shape: Any) -> None:
        self.c = calls(**{"release": release, "hosts": 2, "vms": 6, **shape})
        self.beside = self.c.pool.neighbour(hosts=2, vms=0, release=to)
        self.c.pool.watch(DataKept(), BeliefHolds(), OneWriter(), MemoryFits())
        self.beside.watch(DataKept(), BeliefHolds(), OneWriter(), MemoryFits())
        self.d = self.c.of(self.beside.machines[0].name)

    @property
    def network(self) -> str:
        """The network of the management interfaces over there."""
        pifs = self.beside.store.table("PIF").values()
        return str(next(pif["network"] for pif in pifs if pif["management"]))

    def dest(self, host: str = "host3") -> dict[str, str]:
        return dict(self.d("host.migrate_receive", self.d.host(host).ref, self.network, {}))

    def sr(self, name: str = "Local storage on host3") -> str:
        return str(self.d.row("SR", name).ref)

    def send(self, vm: Any, **more: Any) -> list[Any]:
        """The arguments that bring a VM to host3 and its own storage."""
        c = self.c
        vdis = {vbd["VDI"]: self.sr() for vbd in c.pool.vbds(vm) if vbd["type"] == "Disk"}
        vifs = dict.fromkeys(vm["VIFs"], self.network)
        given = {"dest": self.dest, "vdi_map": lambda: vdis, "vif_map": lambda: vifs, "options": dict}
        found = {name: more.get(name, make) for name, make in given.items()}
        dest, vdi_map, vif_map, options = (value() if callable(value) else value for value in found.values())
        return [vm.ref, dest, True, vdi_map, vif_map, options, *([{}] if c.pool.store.release.order >= SEVEN else [])]

    def unharmed(self) -> None:
        assert self.c.unharmed()
        assert self.d.unharmed()
        for pool in (self.c.pool, self.beside):
            pool.conclude()
            assert pool.violations == []

    def traces(self) -> list[Any]:
        """What there is over there, to see that a move that failed left nothing."""
        store = self.beside.store
        tables = (
            "VM",
            "VDI",
            "VBD",
            "VIF",
            "VM_metrics",
            "VM_guest_metrics",
            "VBD_metrics",
            "VIF_metrics",
            "task",
            "network",
        )
        kept = [sorted(store.table(name)) for name in tables]
        return [*kept, [row["current_operations"] for row in store.table("host").values()], sorted(self.c.pool.disks)]


SEVEN = MockPool.create(hosts=1, vms=0, release="7.3").store.release.order


@pytest.fixture
def pair(calls: Make) -> Pair:
    return Pair(calls)


def blocks(pool: MockPool, vm: Any) -> dict[str, dict[int, bytes]]:
    """What is on the disks of a VM, by device."""
    found = {vbd["userdevice"]: pool.disk_of(vbd["VDI"]) for vbd in pool.vbds(vm) if vbd["type"] == "Disk"}
    return {device: dict(disk.blocks) for device, disk in found.items() if disk is not None}


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


# --- it does not come


Spoil = Callable[[Pair, Any], "dict[str, Any] | None"]


def _unmapped_snapshot(pair: Pair, vm: Any) -> dict[str, Any]:
    snapshot = pair.c("VM.snapshot", vm.ref, "then")
    vif = pair.c.pool.store.get("VM", snapshot)["VIFs"][0]
    pair.c.pool.store.write(pair.c.pool.store.get("VIF", vif), MAC="02:00:00:00:00:01")
    return {}


def _disabled(pair: Pair, vm: Any) -> None:
    pair.d("host.disable", pair.d.host("host3").ref)


def _old_hardware(pair: Pair, vm: Any) -> None:
    pair.c.pool.store.write(vm, hardware_platform_version=2)
    pair.beside.store.write(pair.d.host("host3"), virtual_hardware_platform_versions=[0, 1])


def _few_processors(pair: Pair, vm: Any) -> None:
    pair.beside.store.write(pair.d.host("host3"), cpu_info={"cpu_count": "1"})
    pair.c.pool.store.write(vm, VCPUs_max=2)


def _little_memory(pair: Pair, vm: Any) -> None:
    pair.d.leave_free("host3", vm["memory_static_max"] // 2)


def _tracked(pair: Pair, vm: Any) -> None:
    pair.c.pool.store.write(pair.c.pool.store.get("VDI", pair.c.vbd("vm01", "0")["VDI"]), cbt_enabled=True)


def _other_processors(pair: Pair, vm: Any) -> None:
    host = pair.d.host("host3")
    pair.beside.store.write(host, cpu_info={**host["cpu_info"], "vendor": "AuthenticAMD"})


def _no_mirrors(pair: Pair, vm: Any) -> None:
    for plugin in pair.beside.store.table("SM").values():
        pair.beside.store.write(plugin, features={"VDI_SNAPSHOT": 1}, capabilities=["VDI_SNAPSHOT"])


def _same_seed(pair: Pair, vm: Any) -> None:
    template = next(
        row for row in pair.beside.store.table("VM").values() if row["is_a_template"] or row["is_control_domain"]
    )
    pair.beside.store.write(template, other_config={"mac_seed": "seed"})
    pair.c.pool.store.write(vm, other_config={**vm["other_config"], "mac_seed": "seed"})


REFUSALS: dict[str, tuple[Spoil, Callable[[Pair, Any], list[str]]]] = {
    "a disk is not mapped": (
        lambda pair, vm: {"vdi_map": {}},
        lambda pair, vm: ["VDI_NOT_IN_MAP", pair.c.vbd("vm01", "0")["VDI"]],
    ),
    "an interface is not mapped": (
        lambda pair, vm: {"vif_map": {}},
        lambda pair, vm: ["VIF_NOT_IN_MAP", vm["VIFs"][0]],
    ),
    "an interface of a snapshot is not mapped": (
        _unmapped_snapshot,
        lambda pair, vm: ["VIF_NOT_IN_MAP", pair.c.row("VM", "then")["VIFs"][0]],
    ),
    "storage that is not there": (
        lambda pair, vm: {"vdi_map": {pair.c.vbd("vm01", "0")["VDI"]: "OpaqueRef:x"}},
        lambda pair, vm: ["HANDLE_INVALID", "SR", "OpaqueRef:x"],
    ),
    "a network that is not there": (
        lambda pair, vm: {"vif_map": {vm["VIFs"][0]: "OpaqueRef:x"}},
        lambda pair, vm: ["HANDLE_INVALID", "network", "OpaqueRef:x"],
    ),
    "a copy of what runs": (
        lambda pair, vm: {"options": {"copy": "true"}},
        lambda pair, vm: ["VM_BAD_POWER_STATE", vm.ref, "halted", "running"],
    ),
    "a host in maintenance": (_disabled, lambda pair, vm: ["HOST_DISABLED", pair.d.host("host3").ref]),
    "older virtual hardware": (
        _old_hardware,
        lambda pair, vm: [
            *(
                "VM_HOST_INCOMPATIBLE_VIRTUAL_HARDWARE_PLATFORM_VERSION",
                pair.d.host("host3").ref,
                "[0; 1]",
                vm.ref,
                "2",
            ),
        ],
    ),
    "too few processors": (_few_processors, lambda pair, vm: ["HOST_NOT_ENOUGH_PCPUS", "2", "1"]),
    "processors of another maker": (
        _other_processors,
        lambda pair, vm: ["VM_INCOMPATIBLE_WITH_THIS_HOST", vm.ref, pair.d.host("host3").ref],
    ),
    "too little memory": (
        _little_memory,
        lambda pair, vm: ["HOST_NOT_ENOUGH_FREE_MEMORY"],
    ),
    "tracked changes": (_tracked, lambda pair, vm: ["VDI_CBT_ENABLED", pair.c.vbd("vm01", "0")["VDI"]]),
    "storage that mirrors nothing": (
        _no_mirrors,
        lambda pair, vm: ["SR_DOES_NOT_SUPPORT_MIGRATION", pair.sr(), "VDI_MIRROR"],
    ),
    "somebody with its seed of MACs": (_same_seed, lambda pair, vm: ["DUPLICATE_MAC_SEED", "seed"]),
    "no session any more": (
        lambda pair, vm: {"dest": {**pair.dest(), "session_id": "OpaqueRef:x"}},
        lambda pair, vm: ["SESSION_INVALID", "OpaqueRef:x"],
    ),
    "nobody at the address": (
        lambda pair, vm: {"dest": {**pair.dest(), "master": "http://10.9.9.9"}},
        lambda pair, vm: ["CANNOT_CONTACT_HOST", "10.9.9.9"],
    ),
}


@pytest.mark.parametrize("method", ["VM.assert_can_migrate", "VM.migrate_send"])
@pytest.mark.parametrize("case", REFUSALS)
def test_what_stands_against_it(pair: Pair, case: str, method: str) -> None:
    """The same is answered beforehand; nothing is done in either pool."""
    spoil, error = REFUSALS[case]
    vm = pair.c.vm("vm01")
    arguments = pair.send(vm, **(spoil(pair, vm) or {}))
    before, disks = pair.traces(), vm["VBDs"]
    found, expected = pair.c.refused(method, *arguments), error(pair, vm)
    assert found[: len(expected)] == expected
    assert (pair.traces(), vm["current_operations"], vm["VBDs"]) == (before, {}, disks)
    pair.c("VM.clean_shutdown", vm.ref)


def test_who_insists_may_go_to_processors_of_another_maker(pair: Pair) -> None:
    """And so may a VM that is off."""
    _other_processors(pair, None)
    pair.c("VM.migrate_send", *pair.send(pair.c.vm("vm01"), options={"force": "true"}))
    pair.c("VM.migrate_send", *pair.send(pair.c.vm("vm04")))
    pair.unharmed()


@pytest.mark.parametrize(
    ("release", "to", "error"),
    [
        ("8.2", "7.6", "VM_HOST_INCOMPATIBLE_VERSION_MIGRATE"),
        ("7.1", "7.0", "VM_HOST_INCOMPATIBLE_VERSION_MIGRATE"),
        ("7.0", "6.5", "NOT_SUPPORTED_DURING_UPGRADE"),
    ],
)
def test_it_does_not_go_to_an_older_host(calls: Make, release: str, to: str, error: str) -> None:
    """The error says so by a name of its own since 7.1."""
    pair = Pair(calls, release=release, to=to)
    vm = pair.c.vm("vm01")
    params = [vm.ref, pair.d.host("host3").ref] if error.endswith("_MIGRATE") else []
    assert pair.c.refused("VM.migrate_send", *pair.send(vm)) == [error, *params]


@pytest.mark.parametrize(("release", "to"), [("6.1", "6.5"), ("6.5", "8.2"), ("7.0", "8.4")])
def test_it_goes_to_a_newer_host(calls: Make, release: str, to: str) -> None:
    """Fields that the newer release has besides get their defaults."""
    pair = Pair(calls, release=release, to=to)
    new = pair.c("VM.migrate_send", *pair.send(pair.c.vm("vm01")))
    assert pair.d.pool.store.get("VM", new)["power_state"] == "Running"
    pair.unharmed()


def test_before_7_0_an_interface_finds_its_network_by_name(calls: Make) -> None:
    """Nobody asked for a map."""
    pair = Pair(calls, release="6.5")
    new = pair.c("VM.migrate_send", *pair.send(pair.c.vm("vm01"), vif_map={}))
    store = pair.beside.store
    assert {store.get("VIF", ref)["network"] for ref in store.get("VM", new)["VIFs"]} == {pair.network}


@pytest.mark.parametrize("release", ["6.1", "6.2", "6.5"])
def test_6_1_and_6_2_moved_one_snapshot_without_memory(calls: Make, release: str) -> None:
    """Later releases move all of them."""
    pair = Pair(calls, release=release)
    vm = pair.c.vm("vm01")
    first = pair.c("VM.checkpoint", vm.ref, "one")
    if release != "6.5":
        assert pair.c.refused("VM.assert_can_migrate", *pair.send(vm)) == ["VM_HAS_CHECKPOINT", vm.ref]
    pair.c("VM.destroy", first)
    pair.c("VM.snapshot", vm.ref, "one")
    pair.c("VM.assert_can_migrate", *pair.send(vm))
    pair.c("VM.snapshot", vm.ref, "two")
    if release != "6.5":
        assert pair.c.refused("VM.assert_can_migrate", *pair.send(vm)) == ["VM_HAS_TOO_MANY_SNAPSHOTS", vm.ref]
    else:
        pair.c("VM.assert_can_migrate", *pair.send(vm))


def test_the_session_over_there_must_be_allowed_to_take_it(pair: Pair) -> None:
    """One that only reads may neither ask for a move nor be used for one."""
    c, d = pair.c, pair.d
    session = d.pool.store.get("session", d.session)
    dest = pair.dest()
    d.pool.store.write(d.pool.store.get("session", dest["session_id"]), is_local_superuser=False, rbac_permissions=[])
    found = c.refused("VM.migrate_send", *pair.send(c.vm("vm01"), dest=dest))
    assert found[:2] == ["RBAC_PERMISSION_DENIED", "http/post_services_sm"]
    d.pool.store.write(session, is_local_superuser=False, rbac_permissions=[])
    assert d.refused("host.migrate_receive", d.host("host3").ref, pair.network, {})[0] == "RBAC_PERMISSION_DENIED"


def test_a_pool_of_another_world_is_not_reached(calls: Make) -> None:
    """It may have the same addresses; the refusal says what would be reached."""
    c, far = calls(release="8.2", hosts=1, vms=1), calls(release="8.2", hosts=1, seed=1)
    network = next(iter(far.pool.store.table("network")))
    dest = far("host.migrate_receive", far.host("host1").ref, network, {})
    vm = c.vm("vm01")
    found = c.refused("VM.migrate_send", vm.ref, dest, True, {}, {}, {}, {})
    assert found == ["NOT_IMPLEMENTED", "VM.migrate_send to a host that neither this pool nor a neighbour of it has"]


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


# --- what it takes to be sent to


def test_a_host_says_how_it_is_reached(pair: Pair) -> None:
    """By its own address on the network, its master's, and a session that is new."""
    d = pair.d
    host = d.host("host4")
    dest = d("host.migrate_receive", host.ref, pair.network, {})
    session = d.pool.store.get("session", dest["session_id"])
    assert dest == {
        "SM": f"http://{host['address']}/services/SM?session_id={session.ref}",
        "xenops": f"http://{host['address']}/services/xenops?session_id={session.ref}",
        "host": host.ref,
        "master": f"http://{d.host('host3')['address']}/",
        "session_id": session.ref,
    }
    asking = d.pool.store.get("session", d.session)
    assert (session["this_host"], session["auth_user_name"], session["is_local_superuser"]) == (
        *(host.ref, asking["auth_user_name"], True),
    )
    assert session.ref != d.session


def test_a_host_without_an_address_there_cannot_be_sent_to(pair: Pair) -> None:
    """The error says whether it has no interface there, has none configured, or got no address."""
    d = pair.d
    host, store = d.host("host3"), d.pool.store
    other = store.create("network", d.pool.new_ref(), {"uuid": d.pool.new_uuid()})
    assert d.refused("host.migrate_receive", host.ref, other.ref, {}) == [
        "HOST_CANNOT_ATTACH_NETWORK",
        host.ref,
        other.ref,
    ]
    pif = next(pif for pif in store.rows("PIF", host["PIFs"]) if pif["network"] == pair.network)
    store.write(pif, IP="")
    assert d.refused("host.migrate_receive", host.ref, pair.network, {}) == ["INTERFACE_HAS_NO_IP", pif.ref]
    store.write(pif, ip_configuration_mode="None")
    assert d.refused("host.migrate_receive", host.ref, pair.network, {}) == [
        "PIF_HAS_NO_NETWORK_CONFIGURATION",
        pif.ref,
    ]
    store.write(pif, primary_address_type="IPv6", ipv6_configuration_mode="Autoconf", IPv6=["fe80::1/64"])
    assert d.refused("host.migrate_receive", host.ref, pair.network, {}) == ["INTERFACE_HAS_NO_IP", pif.ref]
    store.write(pif, IPv6=["fe80::1/64", "2001:db8::5/64"])
    assert pair.dest()["xenops"].startswith("http://[2001:db8::5]/services/xenops?")


def test_receiving_came_with_6_1(calls: Make) -> None:
    """An older host does not know the message."""
    c = calls(release="6.0")
    assert c.refused("host.migrate_receive") == ["MESSAGE_METHOD_UNKNOWN", "host.migrate_receive"]
