"""Messages that hosts have answered to since they were no more than setters of fields: long before upstream dates them."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest
from people import As, user

from xenctl import Session
from xenctl.datamodel import importer, load
from xenctl.releases import find, serves

Make = Callable[..., Any]


@pytest.mark.parametrize("release", ["4.1.0", "5.5.0", "6.5.0", "8.2", "8.4"])
def test_notes_about_tasks(calls: Make, release: str) -> None:
    """With `xenctl` and without."""
    c = calls(release=release, hosts=1)
    with Session(c.pool.url, transport=c.pool.transport()) as session:
        session.login_with_password("root", "secret")
        ref = session.task.create("mine", "")
        session.task.add_to_other_config(ref, "applies_to", "me")
        session.task.add_to_other_config(ref, "other", "x")
        session.task.remove_from_other_config(ref, "other")
        assert session.task.get_other_config(ref) == {"applies_to": "me"}
    assert c.refused("task.add_to_other_config", ref, "applies_to", "you") == [
        "MAP_DUPLICATE_KEY",
        "task",
        "other_config",
        ref,
        "applies_to",
    ]
    c("task.set_other_config", ref, {})
    assert c.pool.store.get("task", ref)["other_config"] == {}


def test_who_writes_notes_about_tasks(calls: Make) -> None:
    """Pool operators, and operators of VMs what XenCenter notes; about anybody's tasks."""
    c = calls(release="8.2", hosts=1)
    c.pool.directory.connect(c.pool)
    user(c, "alice", "read-only")
    user(c, "olivia", "vm-operator")
    user(c, "carol", "pool-operator")
    ref, alice, olivia, carol = c("task.create", "", ""), As(c, "alice"), As(c, "olivia"), As(c, "carol")
    for who, key in ((alice, "applies_to"), (olivia, "other")):
        code, permission, _ = who.refused("task.add_to_other_config", ref, key, "x")
        assert (code, permission.partition("/")[0]) == ("RBAC_PERMISSION_DENIED", "task.add_to_other_config")
    olivia("task.add_to_other_config", ref, "applies_to", "x")
    carol("task.add_to_other_config", ref, "other", "x")
    assert c.pool.store.get("task", ref)["other_config"] == {"applies_to": "x", "other": "x"}


@pytest.mark.parametrize(("release", "written"), [("8.2", True), ("8.4", False)])
def test_the_certificates_of_a_pool(calls: Make, release: str, written: bool) -> None:
    """An administrator's own in 8.2; later they are what systems come with, and there is another place for those."""
    c = calls(release=release, hosts=1)
    pool = c.pool.store.pool()
    if written:
        c("pool.set_uefi_certificates", pool.ref, "certificates")
        assert pool["uefi_certificates"] == "certificates"
    else:
        assert c.refused("pool.set_uefi_certificates", pool.ref, "certificates")[0] == "OPERATION_NOT_ALLOWED"


@pytest.mark.parametrize("release", ["4.0.1", "4.1.0", "5.5.0"])
def test_what_counts_when_a_vm_starts(calls: Make, release: str) -> None:
    """Up to 5.5 these are fields like others, in whatever order they are written; but for the memory that a VM has, also
    while it runs."""
    c = calls(release=release, hosts=1, vms=4)
    running, halted = c.vm("vm02"), c.vm("vm04")
    gib = 1 << 30
    numbers = {"memory_dynamic_min": 3 * gib, "memory_dynamic_max": 2 * gib, "memory_static_min": gib}
    numbers |= {"VCPUs_at_startup": 8, "VCPUs_max": 7}
    for vm in (running, halted):
        for field, value in numbers.items():
            c(f"VM.set_{field}", vm.ref, str(value))
        assert {field: vm[field] for field in numbers} == numbers
    c("VM.set_memory_static_max", halted.ref, str(gib // 2))
    assert halted["memory_static_max"] == gib // 2
    assert c.refused("VM.set_memory_static_max", running.ref, str(gib))[0] == "VM_BAD_POWER_STATE"
    if find(release) >= find("4.1.0"):
        c("VM.set_HVM_shadow_multiplier", running.ref, 2.0)
        assert running["HVM_shadow_multiplier"] == 2.0


def test_memory_of_a_protected_vm(calls: Make) -> None:
    """Not while a plan holds that counts with what it has."""
    c = calls(release="5.5.0", hosts=1, vms=4)
    vm, pool = c.vm("vm04"), c.pool.store.pool()
    c.pool.store.write(vm, ha_always_run=True)
    c.pool.store.write(pool, ha_enabled=True, ha_overcommitted=False)
    args = ("VM.set_memory_static_max", vm.ref, str(1 << 29))
    assert c.refused(*args) == ["HA_OPERATION_WOULD_BREAK_FAILOVER_PLAN"]
    c.pool.store.write(pool, ha_overcommitted=True)
    c(*args)


def test_an_import_dates_them_as_hosts_do() -> None:
    """Whatever upstream says again, the table keeps since when their names have been known."""
    table = json.loads(importer.dump(load()._table))
    for label, since in importer.SETTABLE.items():
        name, _, member = label.partition(".")
        for setter in importer.SETTERS:
            spec = table["classes"][name]["messages"].get(setter + member)
            if spec is not None:
                assert spec["lifecycle"].split()[0] == since
                assert load().classes[name].messages[setter + member].lifecycle.since == since
                spec["lifecycle"] = "26.0.0 deprecated:27.0.0"
    importer._date_setters(table)
    assert table["classes"]["VM"]["messages"]["set_VCPUs_max"]["lifecycle"] == "rio deprecated:27.0.0"


def test_no_message_comes_later_than_its_field_could_be_written() -> None:
    """Those that do write fields that nobody could write before; who finds another one adds it here or to the importer."""
    oldest, late = find("4.0.1"), set()
    for cls in load().classes.values():
        for name, message in cls.messages.items():
            field = next((cls.fields.get(name.removeprefix(s)) for s in importer.SETTERS if name.startswith(s)), None)
            if field is not None and load().order(field.since) < load().order(message.lifecycle.since):
                late.add(f"{cls.name}.{name}")
    assert late == NEVER_BEFORE
    assert not any(
        serves(oldest, load().classes[label.partition(".")[0]].messages[label.partition(".")[2]])
        for label in NEVER_BEFORE
    )


NEVER_BEFORE = {
    *(f"task.set_{name}" for name in ("error_info", "progress", "resident_on", "result", "status")),
    *(f"VM.set_{name}" for name in ("bios_strings", "suspend_VDI")),
    *(f"host.set_{name}" for name in ("license_params", "power_on_mode")),
    *(f"SR.set_{name}" for name in ("physical_size", "physical_utilisation", "virtual_allocation")),
    *(f"VDI.set_{name}" for name in ("is_a_snapshot", "missing", "physical_utilisation", "sharable", "snapshot_of")),
    *(f"VDI.set_{name}" for name in ("snapshot_time", "virtual_size")),
    "PBD.set_device_config",
    "PGPU.set_GPU_group",
}
"""Read only for clients until a message came, as the sources of the releases say that are open, from 5.5 on."""
