"""Appliances, schedules of snapshots, patches and updates, crash dumps, secrets, consoles."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

Make = Callable[..., Any]
NULL = "OpaqueRef:NULL"


@pytest.fixture
def c(calls: Make) -> Any:
    return calls(release="8.2", hosts=2, vms=12)


def get(c: Any, table: str, ref: str) -> Any:
    return c.pool.store.get(table, ref)


def add(c: Any, table: str, **fields: Any) -> Any:
    """A row that somebody else made."""
    return c.pool.store.create(table, c.pool.new_ref(), {"uuid": c.pool.new_uuid(), **fields})


# --- appliances


def appliance(c: Any, **orders: int) -> Any:
    """An appliance of VMs with these orders."""
    row = get(c, "VM_appliance", c("VM_appliance.create", {"name_label": "all", "name_description": ""}))
    for name, order in orders.items():
        c.pool.store.write(c.vm(name), appliance=row.ref, order=order)
        c("VM.update_allowed_operations", c.vm(name).ref)
    return row


def watched(c: Any) -> list[tuple[float, str]]:
    """When which VM came to another state, from now on."""
    changes: list[tuple[float, str]] = []
    before = c.pool.store.on_write

    def note(write: Any) -> None:
        before(write)
        if (write.table, write.field) == ("VM", "power_state"):
            changes.append((write.at, get(c, "VM", write.ref)["name_label"]))

    c.pool.store.on_write = note
    return changes


def test_an_empty_appliance_does_nothing(c: Any) -> None:
    row = appliance(c)
    assert row["allowed_operations"] == []
    for call in (("start", False), ("shutdown",), ("clean_shutdown",), ("hard_shutdown",)):
        error = ["OPERATION_NOT_ALLOWED", "Appliance has no VMs."]
        assert c.refused(f"VM_appliance.{call[0]}", row.ref, *call[1:]) == error


def test_an_appliance_may_do_what_one_of_its_vms_may(c: Any) -> None:
    """Said by its allowed operations, which follow its VMs, and by the refusals."""
    row = appliance(c, vm04=0, vm08=0)
    assert row["allowed_operations"] == ["start"]
    text = "There are no running VMs in this appliance."
    assert c.refused("VM_appliance.clean_shutdown", row.ref) == ["OPERATION_NOT_ALLOWED", text]
    text = "All VMs in this appliance are halted."
    assert c.refused("VM_appliance.shutdown", row.ref) == ["OPERATION_NOT_ALLOWED", text]
    c("VM.start", c.vm("vm04").ref, False, False)
    assert row["allowed_operations"] == ["start", "clean_shutdown", "hard_shutdown", "shutdown"]
    c("VM_appliance.start", row.ref, False)
    text = "There are no halted VMs in this appliance."
    assert c.refused("VM_appliance.start", row.ref, False) == ["OPERATION_NOT_ALLOWED", text]
    assert row["allowed_operations"] == ["clean_shutdown", "hard_shutdown", "shutdown"]


def test_vms_start_in_order_and_stop_against_it(c: Any) -> None:
    """Those of one order together; the next wait for all of them, and for the delay of each."""
    row = appliance(c, vm04=2, vm08=1, vm11=1)
    c.pool.store.write(c.vm("vm11"), start_delay=60)
    changes = watched(c)
    c("VM_appliance.start", row.ref, False)
    assert {name for _, name in changes[:2]} == {"vm08", "vm11"}
    assert changes[0][0] == changes[1][0] <= changes[2][0] - 60
    assert changes[2][1] == "vm04"
    changes.clear()
    c("VM_appliance.clean_shutdown", row.ref)
    assert changes[0][1] == "vm04"
    assert changes[0][0] < changes[1][0] == changes[2][0]
    assert not [task for task in c.pool.store.table("task").values() if task["name_label"].startswith("Async.VM.")]


def test_an_appliance_does_one_thing_at_a_time(c: Any) -> None:
    """Shown while it goes on, with the parts as tasks below its own."""
    row = appliance(c, vm04=0)
    task = c.start("VM_appliance.start", row.ref, True)
    assert (row["current_operations"], row["allowed_operations"]) == ({task.ref: "start"}, [])
    (part,) = [t for t in c.pool.store.table("task").values() if t["subtask_of"] == task.ref]
    assert part["name_label"] == "Async.VM.start"
    error = ["OTHER_OPERATION_IN_PROGRESS", "VM_appliance", row.ref]
    assert c.refused_at_once("VM_appliance.shutdown", row.ref) == error
    c.sleep(60)
    assert (task["status"], c.vm("vm04")["power_state"]) == ("success", "Paused")
    c("VM_appliance.hard_shutdown", row.ref)
    assert c.vm("vm04")["power_state"] == "Halted"


def test_one_vm_that_fails_does_not_stop_the_others(c: Any) -> None:
    """The error names those that did not come up."""
    row = appliance(c, vm04=0, vm08=1)
    c.pool.store.write(c.vm("vm04"), blocked_operations={"start": "NO"})
    error = ["OPERATION_PARTIALLY_FAILED", "VM_appliance.start", c.vm("vm04").ref]
    assert c.refused("VM_appliance.start", row.ref, False) == error
    assert c.vm("vm08")["power_state"] == "Running"
    c("VM_appliance.shutdown", row.ref)
    assert c.vm("vm08")["power_state"] == "Halted"


def test_an_appliance_needs_its_storage_to_be_recovered(c: Any) -> None:
    row = appliance(c, vm04=0)
    sr = c.row("SR", "NFS virtual disk storage")
    c("VM_appliance.assert_can_be_recovered", row.ref, c.session)
    assert c("VM_appliance.get_SRs_required_for_recovery", row.ref, c.session) == []
    for ref in sr["PBDs"]:
        c.pool.store.write(get(c, "PBD", ref), currently_attached=False)
    error = ["VM_REQUIRES_SR", c.vm("vm04").ref, sr.ref]
    assert c.refused("VM_appliance.assert_can_be_recovered", row.ref, c.session) == error
    assert c("VM_appliance.get_SRs_required_for_recovery", row.ref, c.session) == [sr.ref]


def test_a_vm_names_its_appliance_also_when_that_is_gone(c: Any) -> None:
    """Nobody tidies that up; another may take its place."""
    row = appliance(c, vm04=0)
    assert "make_into_template" not in c("VM.get_allowed_operations", c.vm("vm04").ref)
    c("VM_appliance.destroy", row.ref)
    assert c.vm("vm04")["appliance"] == row.ref
    assert "make_into_template" in c("VM.get_allowed_operations", c.vm("vm04").ref)
    c("VM.set_appliance", c.vm("vm04").ref, NULL)
    assert c.vm("vm04")["appliance"] == NULL


def test_a_licence_may_forbid_starting_appliances(c: Any) -> None:
    row = appliance(c, vm04=0)
    c.pool.store.write(c.pool.store.pool(), restrictions={"restrict_vm_appliance_start": "true"})
    assert c.refused("VM_appliance.start", row.ref, False) == ["LICENCE_RESTRICTION", "VM_appliance_start"]


# --- schedules of snapshots


def schedule(c: Any, **fields: Any) -> Any:
    ref = c("VMSS.create", {"name_label": "s", "type": "snapshot", "frequency": "weekly", **fields})
    return get(c, "VMSS", ref)


def test_a_schedule_is_completed_and_spelled(c: Any) -> None:
    """Keys of the frequency, with the values that they may have, as xapi writes them."""
    assert schedule(c)["schedule"] == {"hour": "0", "min": "0", "days": "Monday"}
    assert schedule(c, schedule={"days": "sunday,MONDAY", "min": "15"})["schedule"] == {
        "hour": "0",
        "min": "15",
        "days": "Sunday,Monday",
    }
    for key, bad in (
        ("hour", "24"),
        ("hour", "x"),
        ("min", "7"),
        ("days", "Someday"),
        ("days", "Monday,monday"),
        ("x", "1"),
    ):
        error = ["INVALID_VALUE", f"schedule:{key}", bad if key != "days" or "," in bad else "Someday"]
        fields = {"name_label": "s", "type": "snapshot", "frequency": "weekly", "schedule": {key: bad}}
        assert c.refused("VMSS.create", fields) == error
    hourly = {"type": "snapshot", "frequency": "hourly", "schedule": {"hour": "1"}}
    assert c.refused("VMSS.create", hourly) == ["INVALID_VALUE", "schedule:hour", "1"]
    none = {"type": "snapshot", "frequency": "daily", "retained_snapshots": "0"}
    assert c.refused("VMSS.create", none) == ["INVALID_VALUE", "retained_snapshots", "0"]


def test_a_schedule_follows_its_frequency(c: Any) -> None:
    """Keys that do not count any more go, those that are missing come."""
    row = schedule(c, schedule={"hour": "3", "min": "30", "days": "Friday"})
    c("VMSS.set_frequency", row.ref, "hourly")
    assert (row["frequency"], row["schedule"]) == ("hourly", {"min": "30"})
    c("VMSS.set_frequency", row.ref, "daily")
    assert row["schedule"] == {"hour": "0", "min": "30"}


def test_parts_of_a_schedule_are_set_one_by_one(c: Any) -> None:
    """A key once; what is set in one go is added to what is there."""
    row = schedule(c)
    c("VMSS.set_schedule", row.ref, {"hour": "5"})
    assert row["schedule"]["hour"] == "5"
    assert c.refused("VMSS.add_to_schedule", row.ref, "min", "15") == [
        "MAP_DUPLICATE_KEY",
        "VMSS",
        "schedule",
        row.ref,
        "min",
    ]
    c("VMSS.remove_from_schedule", row.ref, "min")
    c("VMSS.add_to_schedule", row.ref, "min", "45")
    assert row["schedule"]["min"] == "45"
    c("VMSS.remove_from_schedule", row.ref, "min")
    assert c.refused("VMSS.add_to_schedule", row.ref, "min", "46") == ["INVALID_VALUE", "schedule:min", "46"]
    assert row["schedule"]["min"] == "45", "what was removed last is put back"
    assert c.refused("VMSS.add_to_schedule", row.ref, "colour", "red") == ["INTERNAL_ERROR", "Not_found"]
    c("VMSS.set_retained_snapshots", row.ref, 10)
    assert c.refused("VMSS.set_retained_snapshots", row.ref, 11) == ["INVALID_VALUE", "retained_snapshots", "11"]
    c("VMSS.set_last_run_time", row.ref, "20260101T00:00:00Z")
    assert row["last_run_time"] == "20260101T00:00:00Z"


def test_a_quiet_snapshot_needs_a_guest_that_can(c: Any) -> None:
    row, vm = schedule(c), c.vm("vm01")
    c.pool.store.write(vm, snapshot_schedule=row.ref)
    error = ["VM_SNAPSHOT_WITH_QUIESCE_NOT_SUPPORTED", vm.ref]
    assert c.refused("VMSS.set_type", row.ref, "snapshot_with_quiesce") == error
    c("VMSS.set_type", row.ref, "checkpoint")
    assert row["type"] == "checkpoint"
    agent = get(c, "VM_guest_metrics", vm["guest_metrics"])
    c.pool.store.write(agent, other={**agent["other"], "feature-quiesce": "1"})
    c("VMSS.set_type", row.ref, "snapshot_with_quiesce")


@pytest.mark.parametrize("kind", ["snapshot", "checkpoint"])
def test_a_schedule_is_run_on_demand(c: Any, kind: str) -> None:
    """One snapshot of each of its VMs, with its own mark; what an operator took stays, the oldest of its own go."""
    row, vm = schedule(c, type=kind, retained_snapshots="2"), c.vm("vm01")
    store = c.pool.store
    store.write(vm, snapshot_schedule=row.ref)
    by_hand, disks = c("VM.snapshot", vm.ref, "by hand"), len(store.table("VDI"))
    assert get(c, "VM", by_hand)["is_vmss_snapshot"] is False
    taken = []
    for _ in range(3):
        assert c("VMSS.snapshot_now", row.ref) == ""
        (new,) = set(vm["snapshots"]) - {by_hand, *taken}
        taken.append(new)
        assert get(c, "VM", new)["is_vmss_snapshot"] is True
        assert get(c, "VM", new)["power_state"] == ("Halted" if kind == "snapshot" else "Suspended")
        c.sleep(900)
    assert set(vm["snapshots"]) == {by_hand, *taken[1:]}
    each = 1 if kind == "snapshot" else 2
    assert len(store.table("VDI")) == disks + 2 * each
    assert set(c.pool.disks) == {vdi["uuid"] for vdi in store.table("VDI").values()}
    assert row["last_run_time"] > "20000101T00:00:00Z"
    told = [m for m in c("message.get_all_records").values() if m["obj_uuid"] == row["uuid"]]
    assert [(m["name"], m["priority"]) for m in told] == [("VMSS_SNAPSHOT_SUCCEEDED", 5)] * 3
    assert vm["power_state"] == "Running"


def test_a_vm_that_cannot_be_snapshotted_does_not_keep_the_others_back(c: Any) -> None:
    """A message says what was wrong with it."""
    row, bad, good = schedule(c), c.vm("vm01"), c.vm("vm02")
    for vm in (bad, good):
        c.pool.store.write(vm, snapshot_schedule=row.ref)
    c("VM.add_to_blocked_operations", bad.ref, "snapshot", "no")
    c("VMSS.snapshot_now", row.ref)
    assert (len(bad["snapshots"]), len(good["snapshots"])) == (0, 1)
    told = {m["name"]: m["body"] for m in c("message.get_all_records").values() if m["obj_uuid"] == row["uuid"]}
    assert set(told) == {"VMSS_SNAPSHOT_SUCCEEDED", "VMSS_SNAPSHOT_FAILED"}
    assert told["VMSS_SNAPSHOT_FAILED"] == f"{bad.ref}: OPERATION_BLOCKED"
    c.pool.store.write(c.pool.store.pool(), restrictions={"restrict_vmss": "true"})
    assert c.refused("VMSS.snapshot_now", row.ref) == ["LICENCE_RESTRICTION", "VMSS"]


def test_a_schedule_in_use_stays(c: Any) -> None:
    """One without VMs goes, and the messages about it."""
    row, vm = schedule(c), c.vm("vm01")
    c.pool.store.write(vm, snapshot_schedule=row.ref)
    assert c.refused("VMSS.destroy", row.ref) == ["VMSS_HAS_VM"]
    c.pool.store.write(vm, snapshot_schedule=NULL)
    c("message.create", "X", 1, "VMSS", row["uuid"], "")
    kept = c("message.create", "X", 1, "VM", vm["uuid"], "")
    c("VMSS.destroy", row.ref)
    assert c("message.get_all") == [kept]
    c.pool.store.write(c.pool.store.pool(), restrictions={"restrict_vmss": "true"})
    assert c.refused("VMSS.create", {"type": "snapshot", "frequency": "daily"}) == ["LICENCE_RESTRICTION", "VMSS"]


# --- patches up to 7.0


def patch(c: Any) -> Any:
    return add(c, "pool_patch", name_label="p", filename="/var/patch/p", size=1)


@pytest.mark.parametrize("release", ["4.1", "7.0"])
def test_a_patch_is_applied_host_by_host(calls: Make, release: str) -> None:
    """Each once; the pool's flag is set when all have it, and then it stays."""
    c = calls(release=release, hosts=2)
    row, host = patch(c), c.host("host1")
    assert c("pool_patch.precheck", row.ref, host.ref) == c("pool_patch.apply", row.ref, host.ref) == ""
    (applied,) = [get(c, "host_patch", ref) for ref in row["host_patches"]]
    assert (applied["host"], applied["applied"], host["patches"]) == (host.ref, True, [applied.ref])
    assert applied["timestamp_applied"] == c.pool.clock.stamp()
    assert c.refused("pool_patch.apply", row.ref, host.ref) == ["PATCH_ALREADY_APPLIED", row.ref]
    assert row["pool_applied"] is False
    c("pool_patch.pool_apply", row.ref)
    assert (row["pool_applied"], len(row["host_patches"])) == (True, 2)
    assert c.refused("pool_patch.destroy", row.ref) == ["PATCH_IS_APPLIED"]


def test_a_patch_that_was_cleaned_cannot_be_applied(calls: Make) -> None:
    c = calls(release="6.2", hosts=2)
    row, host = patch(c), c.host("host2").ref
    c("pool_patch.clean", row.ref)
    assert row["filename"] == ""
    for message in ("pool_patch.precheck", "pool_patch.apply"):
        assert c.refused(message, row.ref, host) == ["CANNOT_FIND_PATCH"]
    c.pool.store.write(row, filename="again")
    c("pool_patch.pool_clean", row.ref)
    assert row["filename"] == ""
    c("pool_patch.destroy", row.ref)
    assert c.pool.store.find("pool_patch", row.ref) is None


def test_patches_of_hosts_are_those_of_the_first_release(calls: Make) -> None:
    """Since 4.1 the message says so, and only takes records away."""
    c = calls(release="4.0.1")
    row = add(c, "host_patch", host=c.host("host1").ref)
    c("host_patch.apply", row.ref)
    assert (row["applied"], row["timestamp_applied"]) == (True, c.pool.clock.stamp())
    c = calls(release="4.1")
    row = add(c, "host_patch", host=c.host("host1").ref)
    assert c.refused("host_patch.apply", row.ref) == ["MESSAGE_DEPRECATED"]
    c("host_patch.destroy", row.ref)
    assert c.pool.store.find("host_patch", row.ref) is None


# --- updates since 7.1


def update(c: Any, *guidance: str) -> tuple[Any, Any]:
    """An update with its package on a disk, and the patch beside it."""
    vdi = c.pool.store.create(
        "VDI",
        c.pool.new_ref(),
        {"uuid": c.pool.new_uuid(), "SR": c.row("SR", "NFS virtual disk storage").ref, "managed": True, "type": "user"},
    )
    c.pool.add_disk(vdi["uuid"])
    row = add(c, "pool_update", name_label="XS82E001", vdi=vdi.ref, key="k", after_apply_guidance=list(guidance))
    return row, add(c, "pool_patch", name_label="XS82E001", pool_update=row.ref)


def test_an_update_is_applied_host_by_host(c: Any) -> None:
    """Hosts, their patches and those that must restart say so; what all have is not applied again."""
    (row, beside), (one, two) = update(c, "restartHost"), (c.host("host1"), c.host("host2"))
    assert c("pool_update.precheck", row.ref, one.ref) == "ok"
    c("pool_update.apply", row.ref, one.ref)
    assert (one["updates"], one["updates_requiring_reboot"], row["hosts"]) == ([row.ref], [row.ref], [one.ref])
    assert get(c, "host_patch", one["patches"][0])["pool_patch"] == beside.ref
    assert c.refused("pool_update.apply", row.ref, one.ref) == ["UPDATE_ALREADY_APPLIED", row.ref]
    c("pool_update.pool_apply", row.ref)
    assert set(row["hosts"]) == {one.ref, two.ref}
    assert c.refused("pool_update.pool_apply", row.ref) == ["UPDATE_ALREADY_APPLIED_IN_POOL", row.ref]
    assert c.refused("pool_update.destroy", row.ref) == ["UPDATE_IS_APPLIED"]


def test_patches_go_to_the_updates_that_they_stand_for(c: Any) -> None:
    """Older clients apply, clean and destroy updates by them."""
    row, beside = update(c)
    host = c.host("host1").ref
    assert c("pool_patch.precheck", beside.ref, host) == ""
    assert c("pool_patch.apply", beside.ref, host) == ""
    assert row["hosts"] == [host]
    assert c.refused("pool_patch.pool_apply", beside.ref) == ["UPDATE_ALREADY_APPLIED", row.ref]
    other, stands = update(c)
    c("pool_patch.pool_apply", stands.ref)
    assert (len(other["hosts"]), stands["pool_applied"]) == (2, True)
    third, last = update(c)
    c("pool_patch.clean", last.ref)
    c("pool_patch.pool_clean", last.ref)
    assert third["vdi"] == NULL
    c("pool_patch.destroy", last.ref)
    assert c.pool.store.find("pool_update", third.ref) is c.pool.store.find("pool_patch", last.ref) is None


def test_an_update_whose_package_is_gone_is_not_applied(c: Any) -> None:
    """Cleaning destroys the disk, and is no error the second time."""
    row, _ = update(c)
    disk, host = row["vdi"], c.host("host1").ref
    c("pool_update.pool_clean", row.ref)
    assert (row["vdi"], c.pool.store.find("VDI", disk)) == (NULL, None)
    c("pool_update.pool_clean", row.ref)
    for message in ("pool_update.precheck", "pool_update.apply"):
        assert c.refused(message, row.ref, host) == ["CANNOT_FIND_UPDATE"]
    for message in ("pool_update.attach", "pool_update.detach"):
        assert c.refused(message, row.ref) == ["CANNOT_FIND_UPDATE", row["uuid"]]
    error = c.refused("pool_update.pool_apply", row.ref)
    assert (error[0], set(error[1:])) == ("UPDATE_POOL_APPLY_FAILED", {host, c.host("host2").ref})
    c("pool_update.destroy", row.ref)
    assert not c.pool.store.table("pool_update") and not c.pool.store.table("pool_patch")


def test_a_control_domain_holds_the_package_while_it_is_attached(c: Any) -> None:
    """And tells where it is served."""
    row, _ = update(c)
    host = c.host("host1")
    settings = c("pool_update.attach", row.ref)
    assert f"baseurl=http://{host['address']}/update/{host['uuid']}/{row['uuid']}/vdi" in settings.split("\n")
    assert "gpgcheck=1" in settings
    assert "http://127.0.0.1/" in c("pool_update.attach", row.ref, True)
    (vbd,) = get(c, "VDI", row["vdi"])["VBDs"]
    assert (get(c, "VBD", vbd)["VM"], get(c, "VBD", vbd)["currently_attached"]) == (host["control_domain"], True)
    for _ in range(2):  # as often as it was attached
        c("pool_update.detach", row.ref)
    assert get(c, "VDI", row["vdi"])["VBDs"] == []


def test_patches_of_older_releases_go_once_versions_are_equal(c: Any) -> None:
    """Patch records of updates are mended."""
    row, beside = update(c)
    host = c.host("host1")
    old = add(c, "pool_patch", name_label="old")
    add(c, "host_patch", host=host.ref, pool_patch=old.ref, applied=True)
    c.pool.store.write(host, updates=[row.ref])
    c.pool.store.write(c.pool.store.pool(), other_config={"rolling_upgrade_in_progress": "true"})
    c("pool_update.resync_host", host.ref)
    assert c.pool.store.find("pool_patch", old.ref) is old
    assert [get(c, "host_patch", ref)["host"] for ref in beside["host_patches"]] == [host.ref]
    c.pool.store.write(c.pool.store.pool(), other_config={})
    c("pool_update.resync_host", host.ref)
    assert c.pool.store.find("pool_patch", old.ref) is None
    assert len(host["patches"]) == 1


# --- crash dumps, secrets, consoles


def test_a_crash_dump_leaves_or_goes(c: Any) -> None:
    """To a place that is named; from the host that has it."""
    row = add(c, "host_crashdump", host=c.host("host1").ref, filename="20260101-000000-UTC", size=1)
    assert c.refused("host_crashdump.upload", row.ref, "", {}) == ["INVALID_VALUE", "url", ""]
    c("host_crashdump.upload", row.ref, "ftp://elsewhere/x", {})
    assert c.pool.uploads == (("20260101-000000-UTC", "ftp://elsewhere/x"),)
    c("host_crashdump.destroy", row.ref)
    assert c.host("host1")["crashdumps"] == []


def test_a_secret_comes_with_its_uuid(c: Any) -> None:
    """Once."""
    uuid = c.pool.new_uuid()
    ref = c("secret.introduce", uuid, "hush", {"a": "b"})
    assert (c("secret.get_by_uuid", uuid), c("secret.get_value", ref)) == (ref, "hush")
    assert c.refused("secret.introduce", uuid, "x", {})[0] == "INTERNAL_ERROR"


@pytest.mark.parametrize(("release", "protocols"), [("6.1.0", ["rfb"]), ("6.2.0", ["rfb", "vt100"])])
def test_a_control_domain_has_the_consoles_of_its_host(calls: Make, release: str, protocols: list[str]) -> None:
    """At the domain's own place: a screen, since 6.2 text as well. They go with the host."""
    c = calls(release=release, hosts=2, vms=1)
    vm, host = c.vm("Control domain on host: host2"), c.host("host2")
    consoles = [get(c, "console", ref) for ref in vm["consoles"]]
    assert sorted(console["protocol"] for console in consoles) == protocols
    assert {console["location"] for console in consoles} == {f"https://{host['address']}/console?ref={vm.ref}"}
    c("pool.eject", host.ref)
    assert not {console.ref for console in consoles} & set(c("console.get_all"))


@pytest.mark.parametrize("release", ["4.0.1", "5.6.0", "6.0.0", "8.2"])
def test_xapi_makes_consoles_and_nobody_else(calls: Make, release: str) -> None:
    """A VM that runs has one, on its host: at the VM's own place, since 6.0 at one of the console's own."""
    c = calls(release=release, hosts=2, vms=12)
    assert c.refused("console.create", {"other_config": {}}) == ["NOT_IMPLEMENTED", "Console.create"]
    assert c.refused("console.destroy", "any") == ["NOT_IMPLEMENTED", "Console.destroy"]
    c("VM.start", c.vm("vm04").ref, False, False)
    for name in ("vm01", "vm04"):
        vm = c.vm(name)
        (ref,) = vm["consoles"]
        address = get(c, "host", vm["resident_on"])["address"]
        console = get(c, "console", ref)
        place = f"ref={vm.ref}" if release in ("4.0.1", "5.6.0") else f"uuid={console['uuid']}"
        assert console["location"] == f"https://{address}/console?{place}"
    c("VM.hard_shutdown", c.vm("vm04").ref)
    assert c.vm("vm04")["consoles"] == []
