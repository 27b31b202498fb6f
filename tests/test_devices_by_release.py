"""Block devices as older releases had them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from devices import record, refusal

from mockserver import checks
from mockserver.store import NULL

Make = Callable[..., Any]


def pool(calls: Make, release: str) -> Any:
    return calls(release=release, hosts=1, vms=12)


@pytest.mark.parametrize(
    ("kind", "before", "since"), [("metadata", "5.6.100", "6.0"), ("rrd", "6.5", "7.0"), ("pvs_cache", "7.0", "7.1")]
)
def test_disks_of_some_types_became_devices(calls: Make, kind: str, before: str, since: str) -> None:
    """Those of storage's own data since 6.0, of statistics since 7.0, and of caches since 7.1."""
    for release in (before, since):
        c = pool(calls, release)
        vdi = c.pool.store.get("VDI", c.vbd("vm04", "0")["VDI"])
        c.pool.store.write(vdi, type=kind)
        if release == since:
            assert c("VBD.create", record(c, "vm08", VDI=vdi.ref))
        else:
            assert c.refused("VBD.create", record(c, "vm08", VDI=vdi.ref))[:2] == ["VDI_INCOMPATIBLE_TYPE", vdi.ref]


@pytest.mark.parametrize(("release", "refused"), [("6.0", False), ("6.1", True)])
def test_a_vm_on_its_way_got_devices(calls: Make, release: str, refused: bool) -> None:
    """Up to 6.0."""
    c = pool(calls, release)
    vm, vdi = c.vm("vm01"), c.vbd("vm04", "0")["VDI"]
    c.pool.store.write(vm, current_operations={"task": "pool_migrate"})
    fields = record(c, "vm01", VDI=vdi)
    if refused:
        assert c.refused("VBD.create", fields)[:3] == ["OTHER_OPERATION_IN_PROGRESS", "VM", vm.ref]
    else:
        assert c("VBD.create", fields)


@pytest.mark.parametrize(("release", "numbers"), [("5.5", 4), ("6.5", 4), ("7.0", 255)])
def test_guests_without_drivers_had_few_devices(calls: Make, release: str, numbers: int) -> None:
    """Four up to 6.5; what is detected is what is listed."""
    c = pool(calls, release)
    vm, vdi = c.vm("vm03"), c.vbd("vm04", "0")["VDI"]
    assert checks.is_hvm(vm)
    c("VM.hard_shutdown", vm.ref)
    c.pool.store.write(c.pool.store.get("VM_guest_metrics", vm["guest_metrics"]), PV_drivers_version={})
    used = {vbd["userdevice"] for vbd in c.pool.vbds(vm)}
    free = [str(number) for number in range(numbers) if str(number) not in used]
    assert c("VM.get_allowed_VBD_devices", vm.ref) == free
    for number in free[:3]:
        vbd = c("VBD.create", record(c, "vm03", VDI=vdi, userdevice="autodetect"))
        assert c.pool.store.get("VBD", vbd)["userdevice"] == number
    if numbers == 4:
        assert c("VM.get_allowed_VBD_devices", vm.ref) == []
        assert c.refused("VBD.create", record(c, "vm03", VDI=vdi)) == ["INVALID_DEVICE", "autodetect"]


@pytest.mark.parametrize(("release", "devices"), [("5.6.100", 16), ("6.0", 256)])
def test_control_domains_have_more_devices(calls: Make, release: str, devices: int) -> None:
    """256 since 6.0."""
    c = pool(calls, release)
    domain = next(vm for vm in c.pool.store.table("VM").values() if vm["is_control_domain"])
    assert len(c("VM.get_allowed_VBD_devices", domain.ref)) == devices


@pytest.mark.parametrize("release", ["7.0", "7.6", "8.2"])
def test_floppies_by_name(calls: Make, release: str) -> None:
    """Which one is detected since 7.0; asked for by name, and refused by reason to paravirtual guests, since 8.2."""
    c = pool(calls, release)
    c("VM.hard_shutdown", c.vm("vm03").ref)
    paravirtual = next(vm for vm in ("vm01", "vm02", "vm04") if not checks.is_hvm(c.vm(vm)))
    vdi = c.vbd("vm04", "0")["VDI"]
    floppy = {"VDI": vdi, "type": "Floppy"}
    named = release == "8.2"
    made = c("VBD.create", record(c, "vm03", **floppy))
    assert c.pool.store.get("VBD", made)["userdevice"] == "fda"
    if named:
        c("VBD.create", record(c, "vm03", **floppy, userdevice="fdb"))
        assert c.refused("VBD.create", record(c, "vm03", **floppy, userdevice="9")) == ["INVALID_DEVICE", "9"]
        assert c.refused("VBD.create", record(c, paravirtual, **floppy))[0] == "NOT_IMPLEMENTED"
    else:
        assert c.refused("VBD.create", record(c, "vm03", **floppy, userdevice="fdb")) == ["INVALID_DEVICE", "fdb"]
        assert c("VBD.create", record(c, "vm03", **floppy, userdevice="9"))
        assert c.refused("VBD.create", record(c, paravirtual, **floppy)) == ["INVALID_DEVICE", "autodetect"]


@pytest.mark.parametrize(("release", "told"), [("6.5", {"a": "b"}), ("7.0", {"a": "b", "backend-kind": "vbd3"})])
def test_storage_has_a_say_in_how_disks_are_served(calls: Make, release: str, told: dict[str, str]) -> None:
    """Since 7.0."""
    c = pool(calls, release)
    vdi = c.pool.store.get("VDI", c.vbd("vm04", "0")["VDI"])
    c.pool.store.write(vdi, sm_config={"backend-kind": "vbd3"})
    vbd = c("VBD.create", record(c, "vm08", VDI=vdi.ref, other_config={"a": "b"}))
    assert c.pool.store.get("VBD", vbd)["other_config"] == told


@pytest.mark.parametrize("release", ["5.5", "5.6"])
def test_what_is_attached_is_not_destroyed(calls: Make, release: str) -> None:
    """5.5 did not tell which it was."""
    c = pool(calls, release)
    vbd = c.vbd("vm01", "0")
    text = f"VBD '{vbd['uuid']}' still attached to '{c.vm('vm01')['uuid']}'"
    text = "VBD still attached to a running VM" if release == "5.5" else text
    assert c.refused("VBD.destroy", vbd.ref) == ["OPERATION_NOT_ALLOWED", text]


@pytest.mark.parametrize(("release", "refused"), [("5.6.100", False), ("6.0", True)])
def test_modes_changed_while_vms_ran(calls: Make, release: str, refused: bool) -> None:
    """Up to 5.6 FP1."""
    c = pool(calls, release)
    vbd, vm = c.vbd("vm01", "0"), c.vm("vm01").ref
    if refused:
        assert c.refused("VBD.set_mode", vbd.ref, "RO") == ["VM_BAD_POWER_STATE", vm, "halted", "running"]
    else:
        c("VBD.set_mode", vbd.ref, "RO")
    assert vbd["mode"] == ("RW" if refused else "RO")


@pytest.mark.parametrize(("release", "listed"), [("5.5", True), ("6.0", True), ("6.1", False)])
def test_discs_of_suspended_vms(calls: Make, release: str, listed: bool) -> None:
    """They stay in their drives; up to 6.0 drives listed that they would take and give them."""
    c = pool(calls, release)
    vm, drive, disc = c.vm("vm01"), c.vbd("vm01", "3"), c.row("VDI", "debian-etch.iso")
    c("VM.suspend", vm.ref)
    wanted = "running" if listed else "halted, running"
    for empty, verb, more in ((True, "insert", [disc.ref]), (False, "eject", [])):
        c.pool.store.write(drive, empty=empty, VDI=NULL if empty else disc.ref)
        c.pool.settle("test")
        assert (verb in drive["allowed_operations"]) == listed
        assert c.refused(f"VBD.{verb}", drive.ref, *more) == ["VM_BAD_POWER_STATE", vm.ref, wanted, "suspended"]
        assert drive["empty"] is empty


@pytest.mark.parametrize(("release", "blocks"), [("6.5", False), ("7.0", True)])
def test_what_goes_on_with_a_vm_keeps_its_disks(calls: Make, release: str, blocks: bool) -> None:
    """Since 7.0."""
    c = pool(calls, release)
    vbd, vm = c.vbd("vm01", "0"), c.vm("vm01")
    c.pool.store.write(vm, current_operations={"task": "suspend"})
    text = f"Current operation on VM:{vm.ref} is suspend"
    assert refusal(c, vbd, "unplug") == (["OPERATION_NOT_ALLOWED", text] if blocks else None)


@pytest.mark.parametrize("release", ["5.5", "6.1", "6.2", "7.0", "7.1"])
def test_what_drivers_disks_ask_of_a_guest(calls: Make, release: str) -> None:
    """Up to 6.1 those of the release, up to 7.0 some with a version, since 7.1 some."""
    c = pool(calls, release)
    vm, vbd, store = c.vm("vm03"), c.vbd("vm03", "0"), c.pool.store
    agent = store.get("VM_guest_metrics", vm["guest_metrics"])
    assert refusal(c, vbd, "unplug") is None
    store.write(agent, PV_drivers_up_to_date=False)
    code = "VM_OLD_PV_DRIVERS" if release in ("5.5", "6.1") else None
    assert (refusal(c, vbd, "unplug") or [None])[0] == code
    store.write(agent, PV_drivers_version={}, PV_drivers_detected=True, can_use_hotplug_vbd="unspecified")
    missing = ["VM_MISSING_PV_DRIVERS", vm.ref]
    assert refusal(c, vbd, "unplug") == (None if release == "7.1" else missing)


@pytest.mark.parametrize(
    ("release", "harmless"), [("6.2", ()), ("6.5", ("copy",)), ("7.2", ("copy",)), ("7.3", ("copy", "mirror"))]
)
def test_what_may_be_done_to_a_disk_meanwhile(calls: Make, release: str, harmless: tuple[str, ...]) -> None:
    """Nothing while a VM takes it up to 6.2; since 6.5 it may be copied, since 7.3 mirrored."""
    c = pool(calls, release)
    vbd = c.vbd("vm04", "0")
    for going in ("copy", "mirror", "snapshot"):
        c.pool.store.write(c.pool.store.get("VDI", vbd["VDI"]), current_operations={"task": going})
        assert (refusal(c, vbd, "attach") is None) == (going in harmless), going


@pytest.mark.parametrize(("release", "shares"), [("6.0", False), ("6.1", True)])
def test_control_domains_share_disks(calls: Make, release: str, shares: bool) -> None:
    """Since 6.1, and so do other system domains; before, they looked into what is about to be attached to boot a VM."""
    c = pool(calls, release)
    store, vbd, other = c.pool.store, c.vbd("vm01", "0"), c.vbd("vm04", "0")
    store.write(other, VDI=vbd["VDI"])
    in_use = ["VDI_IN_USE", vbd["VDI"]]
    assert refusal(c, other, "attach") == in_use
    store.write(c.vm("vm01"), other_config={"is_system_domain": "true"})
    assert refusal(c, other, "attach") == (None if shares else in_use)
    store.write(c.vm("vm01"), other_config={})
    store.write(c.vm("vm04"), is_control_domain=True)
    assert refusal(c, other, "attach") == (None if shares else in_use)
    store.write(vbd, currently_attached=False, current_operations={"task": "attach"})
    assert refusal(c, other, "attach") is None
    store.write(c.vm("vm04"), is_control_domain=False)
    assert refusal(c, other, "attach") == in_use


@pytest.mark.parametrize(("release", "refused"), [("6.0", False), ("6.1", True)])
def test_hardware_guests_read_disks(calls: Make, release: str, refused: bool) -> None:
    """One that is plugged for reading only, up to 6.0."""
    c = pool(calls, release)
    vdi = c.vbd("vm04", "0")["VDI"]
    vbd = c("VBD.create", record(c, "vm03", VDI=vdi, mode="RO"))
    if refused:
        assert c.refused("VBD.plug", vbd) == ["DISK_VBD_MUST_BE_READWRITE_FOR_HVM", vbd]
    else:
        c("VBD.plug", vbd)
        assert c.pool.store.get("VBD", vbd)["currently_attached"]


def test_a_device_that_a_boot_keeps_is_taken(calls: Make) -> None:
    """What is reserved while its VM boots again counts as plugged."""
    c = pool(calls, "8.2")
    vbd = c.vbd("vm01", "0")
    c.pool.store.write(vbd, currently_attached=False)
    assert refusal(c, vbd, "unplug") == ["DEVICE_ALREADY_DETACHED", vbd.ref]
    c.pool.store.write(vbd, reserved=True)
    assert refusal(c, vbd, "unplug") is None
    assert refusal(c, vbd, "plug") == ["DEVICE_ALREADY_ATTACHED", vbd.ref]
