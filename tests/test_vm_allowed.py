"""What is advertised of a VM is what is not refused: generated over pools, power states, what goes on, and settings."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mockserver import MockPool, checks, rules
from xenctl.releases import find

Make = Callable[..., Any]
RELEASES = ("4.0.1", "5.0", "5.5", "5.6", "6.0", "6.1", "6.2", "6.5", "7.0", "7.1", "8.2")
STATES = ("Halted", "Paused", "Suspended", "Running")

WORLDS = st.fixed_dictionaries(
    {
        "release": st.sampled_from(RELEASES),
        "power_state": st.sampled_from(STATES),
        "going": st.lists(st.sampled_from(sorted(rules.POWER_STATES)), max_size=2),
        "is_a_template": st.booleans(),
        "is_a_snapshot": st.booleans(),
        "default": st.booleans(),
        "is_control_domain": st.booleans(),
        "hvm": st.booleans(),
        "unrestricted": st.booleans(),
        "rhel3": st.booleans(),
        "drivers": st.sampled_from(({}, {"major": "3", "minor": "0"}, {"major": "4", "minor": "1"})),
        "other": st.dictionaries(
            st.sampled_from(["feature-suspend", "feature-shutdown", "feature-vcpu-hotplug", "feature-quiesce"]),
            st.sampled_from(["0", "1"]),
        ),
        "nomigrate": st.booleans(),
        "nested_virt": st.booleans(),
        "on_boot": st.sampled_from(["", "reset"]),
        "caching": st.booleans(),
        "upgrading": st.booleans(),
        "clones_suspended": st.booleans(),
        "blocked": st.lists(st.sampled_from(sorted(rules.POWER_STATES)), max_size=2),
        "memberships": st.sets(st.sampled_from(["VM_appliance", "VMPP", "VMSS"])),
        "VUSB": st.booleans(),
        "VTPM": st.booleans(),
        "PCI": st.booleans(),
        "VGPU": st.booleans(),
    }
)


def arrange(world: dict[str, Any]) -> tuple[MockPool, Any]:
    """A pool with one VM as `world` says. Its master has tidied up, and does not so soon again."""
    pool = MockPool.create(hosts=1, vms=1, release=world["release"])
    pool.dispatch("session.login_with_password", ["root", "secret"])
    store = pool.store
    vm = next(row for row in store.table("VM").values() if row["name_label"] == "vm01")

    def add(table: str, **fields: Any) -> str:
        if table not in store.tables:
            return "OpaqueRef:NULL"
        return store.create(table, pool.new_ref(), {"uuid": pool.new_uuid(), **fields}).ref

    config = {"default_template": "true"} if world["default"] else {}
    risk = {"unrestricted_save": "true"} if world["unrestricted"] else {}
    platform = {**risk, "nomigrate": str(world["nomigrate"]).lower(), "nested-virt": str(world["nested_virt"]).lower()}
    fields: dict[str, Any] = {name: world[name] for name in ("power_state", "is_a_template", "is_a_snapshot")}
    fields.update(
        is_control_domain=world["is_control_domain"],
        is_default_template=world["default"],
        HVM_boot_policy="BIOS order" if world["hvm"] else "",
        other_config=config,
        platform=platform,
        current_operations={f"OpaqueRef:{n}": name for n, name in enumerate(world["going"])},
        blocked_operations=dict.fromkeys(world["blocked"], "because"),
    )
    for table, field in (("VM_appliance", "appliance"), ("VMPP", "protection_policy"), ("VMSS", "snapshot_schedule")):
        if table in world["memberships"]:
            fields[field] = add(table)
    store.write(vm, **fields)
    store.write(store.get("VM_metrics", vm["metrics"]), nomigrate=world["nomigrate"], nested_virt=world["nested_virt"])
    agent = store.get("VM_guest_metrics", vm["guest_metrics"])
    store.write(agent, PV_drivers_version=world["drivers"], other=world["other"])
    if world["rhel3"]:
        store.write(agent, os_version={"distro": "rhel", "major": "3"})
    vdi = store.get("VDI", pool.vbds(vm)[-1]["VDI"])
    store.write(vdi, sm_config={"on_boot": world["on_boot"], "caching": str(world["caching"]).lower()})
    for table in ("VUSB", "VTPM", "VGPU"):
        if world[table]:
            add(table, VM=vm.ref)
    if world["PCI"]:
        add("PCI", attached_VMs=[vm.ref])
    key = {rules.KEY: "true"} if world["upgrading"] else {}
    clones = {"allow_clone_suspended_vm": "true"} if world["clones_suspended"] else {}
    store.write(store.pool(), other_config={**key, **clones})
    store.write(vm, allowed_operations=checks.allowed_operations(store, vm))
    return pool, vm


@settings(max_examples=60)
@given(WORLDS)
def test_what_is_allowed_is_what_passes(world: dict[str, Any]) -> None:
    """For every operation that a release may advertise, both ways; the call that asks gives the same answer."""
    pool, vm = arrange(world)
    session = next(iter(pool.store.table("session")))
    order = find(world["release"]).order
    for operation in rules.advertised(find(world["release"])):
        refused = checks.operation_refused(pool.store, vm, operation)
        hidden = world["upgrading"] and operation not in rules.UPGRADE_OPERATIONS
        assert (operation in vm["allowed_operations"]) == (refused is None and not hidden), (operation, refused)
        if hidden and order >= rules.INVERNESS:
            assert refused is not None
    assert set(vm["allowed_operations"]) <= set(rules.advertised(find(world["release"])))
    pool.dispatch("VM.update_allowed_operations", [session, vm.ref])


FIRST = {
    "blocked": "OPERATION_BLOCKED",
    "power": "VM_BAD_POWER_STATE",
    "busy": "OTHER_OPERATION_IN_PROGRESS",
    "template": "VM_IS_TEMPLATE",
    "immobile": "VM_IS_IMMOBILE",
    "dom0": "OPERATION_NOT_ALLOWED",
    "feature": "VM_LACKS_FEATURE",
    "on_boot": "VDI_ON_BOOT_MODE_INCOMPATIBLE_WITH_OPERATION",
    "pci": "VM_HAS_PCI_ATTACHED",
    "vgpu": "VM_HAS_VGPU",
    "vusb": "VM_HAS_VUSBS",
}
"""What may stand against a suspend, in the order in which it is told; each row leaves out what came before."""


@pytest.mark.parametrize("first", FIRST)
def test_the_first_reason_is_told(first: str) -> None:
    """However many there are."""
    present = list(FIRST)[list(FIRST).index(first) :]
    world: dict[str, Any] = {
        "release": "8.2",
        "power_state": "Paused" if "power" in present else "Running",
        "going": ["pause"] if "busy" in present else [],
        "is_a_template": "template" in present,
        "is_a_snapshot": False,
        "default": False,
        "is_control_domain": "dom0" in present,
        "hvm": True,
        "unrestricted": False,
        "rhel3": False,
        "drivers": {} if "feature" in present else {"major": "4", "minor": "1"},
        "other": {},
        "nomigrate": "immobile" in present,
        "nested_virt": False,
        "on_boot": "reset" if "on_boot" in present else "",
        "caching": False,
        "upgrading": False,
        "clones_suspended": False,
        "blocked": ["suspend"] if "blocked" in present else [],
        "memberships": set(),
        **{name: name.lower() in present for name in ("VUSB", "VTPM", "PCI", "VGPU")},
    }
    pool, vm = arrange(world)
    refused = checks.operation_refused(pool.store, vm, "suspend")
    assert refused is not None
    assert refused.code == FIRST[first]


def test_what_stands_against_single_operations(calls: Make) -> None:
    """Each with the parameters of its error."""
    c = calls(release="8.2", vms=6)
    store, vm = c.pool.store, c.vm("vm04")
    vtpm = store.create("VTPM", c.pool.new_ref(), {"uuid": c.pool.new_uuid(), "VM": vm.ref})
    assert c.refused("VM.assert_operation_valid", vm.ref, "create_vtpm") == ["VTPM_MAX_AMOUNT_REACHED", "1"]
    store.delete(vtpm)
    c("VM.assert_operation_valid", vm.ref, "create_vtpm")
    running = c.vm("vm02")
    disk = store.get("VDI", c.vbd("vm02", "0")["VDI"])
    store.write(disk, sm_config={"on_boot": "reset"})
    c("VM.assert_operation_valid", running.ref, "pool_migrate")
    store.write(disk, sm_config={"on_boot": "reset", "caching": "true"})
    error = ["VDI_ON_BOOT_MODE_INCOMPATIBLE_WITH_OPERATION"]
    assert c.refused("VM.assert_operation_valid", running.ref, "pool_migrate") == error
    assert c.refused("VM.snapshot", running.ref, "no") == error


def test_a_vm_that_runs_a_hypervisor_stays_where_it_is(calls: Make) -> None:
    """Since 7.1, as one that is marked so."""
    for release, error in (("7.0", []), ("7.1", ["VM_IS_IMMOBILE"]), ("8.4", ["VM_IS_IMMOBILE"])):
        c = calls(release=release, hosts=2, vms=6)
        vm = c.vm("vm02")
        metrics = c.pool.store.get("VM_metrics", vm["metrics"])
        fields = {"nested_virt": True} if "nested_virt" in metrics else {}
        c.pool.store.write(metrics, **fields)
        c.pool.store.write(vm, platform={**vm["platform"], "nested-virt": "true"})
        refused = checks.operation_refused(c.pool.store, vm, "suspend")
        assert (refused.details[:1] if refused else []) == error
        assert ("suspend" in c("VM.get_allowed_operations", vm.ref)) == (not error)


def test_a_marked_vm_may_be_moved_by_force(calls: Make) -> None:
    """Since the check that keeps it is no strict one."""
    c = calls(release="8.2", hosts=2, vms=6)
    vm, host = c.vm("vm02"), c.host("host1").ref
    c.pool.store.write(c.pool.store.get("VM_metrics", vm["metrics"]), nomigrate=True)
    assert c.refused("VM.pool_migrate", vm.ref, host, {}) == ["VM_IS_IMMOBILE", vm.ref]
    c("VM.pool_migrate", vm.ref, host, {"force": "true"})
    assert vm["resident_on"] == host
