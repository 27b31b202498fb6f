"""Hardware of hosts that VMs are given: graphics cards, PCI and USB devices, and how it keeps VMs where they are."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from mockserver.machine.usb import UsbDevice
from xenctl.errors import Failure

Make = Callable[..., Any]
NULL = "OpaqueRef:NULL"


@pytest.fixture
def c(calls: Make) -> Any:
    return calls(release="8.2", hosts=2, vms=12, gpus=1, usbs=1)


def group(c: Any) -> Any:
    return next(iter(c.pool.store.table("GPU_group").values()))


def kind(c: Any, model: str) -> Any:
    return next(row for row in c.pool.store.table("VGPU_type").values() if row["model_name"] == model)


def give(c: Any, vm: Any, model: str = "passthrough") -> Any:
    """Virtual graphics for a VM, which is halted for it."""
    if vm["power_state"] != "Halted":
        c("VM.hard_shutdown", vm.ref)
    ref = c("VGPU.create", vm.ref, group(c).ref, "0", {}, kind(c, model).ref)
    return c.pool.store.get("VGPU", ref)


def hvms(c: Any) -> list[Any]:
    return [row for row in c.pool.store.table("VM").values() if row["HVM_boot_policy"]]


def card_of(c: Any, host: str) -> Any:
    return c.pool.store.get("PGPU", c.host(host)["PGPUs"][0])


# --- a card in a VM


def test_a_vm_with_a_card_stays_where_it_is(c: Any) -> None:
    """It has the card from its start on; it is neither moved nor suspended, and keeps its host from being emptied."""
    vm = hvms(c)[0]
    vgpu = give(c, vm)
    assert vgpu["device"] == "0" and not vgpu["currently_attached"]
    c("VM.start", vm.ref, False, False)
    c.sleep(60)
    card = c.pool.store.get("PGPU", vgpu["resident_on"])
    assert card["host"] == vm["resident_on"] and vgpu["currently_attached"]
    assert vgpu["scheduled_to_be_resident_on"] == NULL
    assert vm["attached_PCIs"] == [card["PCI"]] == [vgpu["PCI"]]
    other = next(host for host in c("host.get_all") if host != vm["resident_on"])
    assert c.refused("VM.pool_migrate", vm.ref, other, {"live": "true"}) == ["VM_HAS_PCI_ATTACHED", vm.ref]
    assert c.refused("VM.suspend", vm.ref) == ["VM_HAS_PCI_ATTACHED", vm.ref]
    assert not {"pool_migrate", "suspend"} & set(vm["allowed_operations"])
    blocked = c("host.get_vms_which_prevent_evacuation", vm["resident_on"])
    assert blocked[vm.ref] == ["VM_HAS_PCI_ATTACHED", vm.ref]
    c("VM.hard_reboot", vm.ref)
    assert vgpu["resident_on"] == card.ref
    c("VM.hard_shutdown", vm.ref)
    assert (vgpu["resident_on"], vgpu["PCI"], vgpu["currently_attached"]) == (NULL, NULL, False)
    assert vm["attached_PCIs"] == [] and card["resident_VGPUs"] == []


def test_what_is_no_longer_supported_is_given_to_no_vm(calls: Make) -> None:
    """Parts of Intel's cards, since XenServer 8: the VM neither starts nor resumes, nor fits anywhere."""
    for release in ("8.2", "8.4"):
        c = calls(release=release, hosts=1, vms=12, gpus=1)
        vm, saved, here = c.vm("vm08"), c.vm("vm06"), c.host("host1").ref
        shared = kind(c, "GRID K140Q")
        c("VM.set_HVM_boot_policy", vm.ref, "BIOS order")
        for one in (vm, saved):
            fields = {"uuid": c.pool.new_uuid(), "VM": one.ref, "GPU_group": group(c).ref, "type": shared.ref}
            c.pool.store.create("VGPU", c.pool.new_ref(), fields)
        c.pool.store.write(shared, implementation="gvt_g", vendor_name="Intel Corporation", model_name="GVT-g")
        asked = (
            ("VM.start", vm.ref, False, False),
            ("VM.start_on", vm.ref, here, False, False),
            ("VM.resume", saved.ref, False, False),
            ("VM.resume_on", saved.ref, here, False, False),
            ("VM.assert_can_boot_here", vm.ref, here),
        )
        if release == "8.4":
            for call in asked:
                assert c.refused(*call) == ["VGPU_TYPE_NO_LONGER_SUPPORTED", "Intel Corporation: GVT-g"]
            assert c("VM.get_possible_hosts", vm.ref) == []
        else:
            c("VM.assert_can_boot_here", vm.ref, here)
            c("VM.start", vm.ref, False, False)


def test_a_card_is_for_one_vm(c: Any) -> None:
    """The next goes to the other host's; the one after that finds none, on any host or on one that is named."""
    first, second, third = hvms(c)[:3]
    for vm in (first, second, third):
        give(c, vm)
    c("VM.start", first.ref, False, False)
    c("VM.start", second.ref, False, False)
    assert first["resident_on"] != second["resident_on"]
    assert c.refused("VM.start", third.ref, False, False) == ["NO_HOSTS_AVAILABLE"]
    host = c.host("host1").ref
    error = ["VM_REQUIRES_GPU", third.ref, group(c).ref]
    assert c.refused("VM.start_on", third.ref, host, False, False) == error
    assert c.refused("VM.assert_can_boot_here", third.ref, host) == error
    assert third["scheduled_to_be_resident_on"] == NULL


def test_four_share_a_card(c: Any) -> None:
    """A fifth does not fit. What is counted is what is left for one type, beside what another type takes."""
    shared, whole = kind(c, "GRID K140Q"), kind(c, "passthrough")
    card, vms = card_of(c, "host1"), hvms(c)[:4]
    for vm in vms:
        give(c, vm, "GRID K140Q")
    assert c("PGPU.get_remaining_capacity", card.ref, shared.ref) == 4
    for used, vm in enumerate(vms, 1):
        c("VM.start_on", vm.ref, card["host"], False, False)
        assert c("PGPU.get_remaining_capacity", card.ref, shared.ref) == 4 - used
    assert c("PGPU.get_remaining_capacity", card.ref, whole.ref) == 0
    assert c("GPU_group.get_remaining_capacity", group(c).ref, shared.ref) == 4
    assert c("GPU_group.get_remaining_capacity", group(c).ref, whole.ref) == 1
    assert set(card["resident_VGPUs"]) == {vm["VGPUs"][0] for vm in vms}
    fifth = c.vm("vm01")
    c("VM.hard_shutdown", fifth.ref)
    c("VM.set_HVM_boot_policy", fifth.ref, "BIOS order")
    give(c, fifth, "GRID K140Q")
    error = c.refused("VM.start_on", fifth.ref, card["host"], False, False)
    assert error == ["VM_REQUIRES_VGPU", fifth.ref, group(c).ref, shared.ref]


def test_a_share_of_a_card_moves_if_both_ends_can(c: Any) -> None:
    """A card that tells what it is compatible with lets its guests go; they are on the other host's card then."""
    vm = hvms(c)[0]
    vgpu = give(c, vm, "GRID K140Q")
    c("VM.start_on", vm.ref, c.host("host1").ref, False, False)
    c.sleep(60)
    assert c.refused("VM.pool_migrate", vm.ref, c.host("host2").ref, {}) == ["VM_HAS_VGPU", vm.ref]
    for row in c.pool.store.table("PGPU").values():
        c.pool.store.write(row, compatibility_metadata={"Nvidia": "same"})
    c("VM.pool_migrate", vm.ref, c.host("host2").ref, {"live": "true"})
    assert vgpu["resident_on"] == card_of(c, "host2").ref and card_of(c, "host1")["resident_VGPUs"] == []
    c("VM.suspend", vm.ref)
    assert vgpu["resident_on"] == NULL and card_of(c, "host2")["resident_VGPUs"] == []
    c("VM.resume", vm.ref, False, False)
    assert c.pool.store.get("PGPU", vgpu["resident_on"])["host"] == vm["resident_on"]


def test_a_card_needs_an_iommu_and_a_guest_that_is_fully_virtual(c: Any) -> None:
    """Otherwise nothing is kept and nothing starts."""
    vm, host = hvms(c)[0], c.host("host1")
    give(c, vm)
    c.pool.store.write(host, chipset_info={"iommu": "false"})
    assert c.refused("VM.start_on", vm.ref, host.ref, False, False) == ["VM_REQUIRES_IOMMU", host.ref]
    plain = c.vm("vm01")
    give(c, plain)
    error = c.refused("VM.start", plain.ref, False, False)
    assert error == ["FEATURE_REQUIRES_HVM", "vGPU- and GPU-passthrough needs HVM"]
    assert plain["power_state"] == "Halted" and card_of(c, "host2")["resident_VGPUs"] == []


@pytest.mark.parametrize("release", ["6.0", "6.5", "7.0", "8.4"])
def test_cards_are_held_in_every_release_that_knows_them(calls: Make, release: str) -> None:
    """Also by those before there were types of virtual graphics, or fields for where they are."""
    c = calls(release=release, hosts=2, vms=3, gpus=1)
    vm = hvms(c)[0]
    c("VM.hard_shutdown", vm.ref)
    c("VGPU.create", vm.ref, group(c).ref, "0", {})
    c("VM.start", vm.ref, False, False)
    pgpu = next(row for row in c.pool.store.table("PGPU").values() if row["host"] == vm["resident_on"])
    assert vm["attached_PCIs"] == [pgpu["PCI"]]
    c("VM.hard_reboot", vm.ref)
    c.sleep(60)
    assert vm["attached_PCIs"] == [pgpu["PCI"]]
    assert c.refused("VM.suspend", vm.ref)[0] in ("VM_HAS_PCI_ATTACHED", "VM_HAS_VGPU")
    c("VM.hard_shutdown", vm.ref)
    assert vm["attached_PCIs"] == []


def test_a_device_that_other_config_names_is_held_too(c: Any) -> None:
    """As it was done before there were virtual graphics: by its address on the host."""
    vm, card = c.vm("vm04"), c.pool.store.get("PCI", card_of(c, "host1")["PCI"])
    c("VM.add_to_other_config", vm.ref, "pci", f"0/{card['pci_id']}")
    c("VM.start_on", vm.ref, c.host("host1").ref, False, False)
    assert vm["attached_PCIs"] == [card.ref]
    c.sleep(60)
    assert c.refused("VM.suspend", vm.ref) == ["VM_HAS_PCI_ATTACHED", vm.ref]


# --- what cards and groups may be


def test_virtual_graphics_are_made_of_types_that_go_together(c: Any) -> None:
    """On a place of the guest's bus; and are dropped while the guest is off."""
    vm = hvms(c)[0]
    assert c.refused("VGPU.create", vm.ref, group(c).ref, "0", {})[0] == "VM_BAD_POWER_STATE"
    vgpu = give(c, vm)
    create = ("VGPU.create", vm.ref, group(c).ref)
    assert c.refused(*create, "0", {}, kind(c, "GRID K140Q").ref)[0] == "VGPU_TYPE_NOT_COMPATIBLE"
    assert c.refused(*create, "0", {}, "OpaqueRef:none") == ["INVALID_VALUE", "type", "OpaqueRef:none"]
    c.pool.store.write(kind(c, "passthrough"), compatible_types_in_vm=[kind(c, "passthrough").ref])
    for bad in ("21", "-1"):
        assert c.refused(*create, bad, {}) == ["INVALID_DEVICE", bad]
    second = c.pool.store.get("VGPU", c(*create, "7", {}))
    assert second["type"] == vgpu["type"]
    assert c.refused(*create, "7", {}) == ["DEVICE_ALREADY_EXISTS", "7"]
    c("VGPU.destroy", second.ref)
    c("VM.start", vm.ref, False, False)
    error = c.refused("VGPU.destroy", vgpu.ref)
    assert error == ["OPERATION_NOT_ALLOWED", "vGPU currently attached to a running VM"]
    assert vm["VGPUs"] == [vgpu.ref]


@pytest.mark.parametrize("release", ["6.2", "6.5", "7.0", "8.0"])
def test_up_to_8_0_a_vm_had_one_virtual_graphics(calls: Make, release: str) -> None:
    """At a place of its own; before 7.0 it might have been on, and up to 6.2 it might give back what it does not use."""
    c = calls(release=release, hosts=2, vms=6)
    vm = hvms(c)[0]
    found = list(c.pool.store.table("GPU_group").values())
    there = found[0].ref if found else c("GPU_group.create", "cards", "", {})
    create = ("VGPU.create", vm.ref, there)
    assert vm["power_state"] == "Running"
    if release >= "7":
        assert c.refused(*create, "0", {})[0] == "VM_BAD_POWER_STATE"
        c("VM.hard_shutdown", vm.ref)
    assert c.refused(*create, "1", {}) == ["INVALID_DEVICE", "1"]
    ref = c(*create, "0", {})
    assert c.refused(*create, "0", {}) == ["DEVICE_ALREADY_EXISTS", "0"]
    if release < "7":
        error = ["OPERATION_NOT_ALLOWED", "vGPU currently attached to a running VM"]
        if release == "6.5":
            assert c.refused("VGPU.destroy", ref) == error
            return
        c.pool.store.write(c.pool.store.get("VGPU", ref), currently_attached=True)
        assert c.refused("VGPU.destroy", ref) == error
        c.pool.store.write(c.pool.store.get("VGPU", ref), currently_attached=False)
    c("VGPU.destroy", ref)
    assert vm["VGPUs"] == []


@pytest.mark.parametrize(("release", "refused"), [("7.6", True), ("8.0", False)])
def test_a_snapshot_with_memory_is_given_virtual_graphics(calls: Make, release: str, refused: bool) -> None:
    """Since 8.0, as a migration of it wants."""
    c = calls(release=release, hosts=2, vms=6)
    snapshot = c("VM.checkpoint", hvms(c)[0].ref, "saved")
    there = next(iter(c.pool.store.table("GPU_group").values()), None)
    create = ("VGPU.create", snapshot, there.ref if there else c("GPU_group.create", "cards", "", {}), "0", {})
    if refused:
        assert c.refused(*create) == ["VM_BAD_POWER_STATE", snapshot, "halted", "suspended"]
    else:
        assert c("VGPU.get_VM", c(*create)) == snapshot


def test_a_type_that_a_card_does_not_support_any_more_is_not_enabled_once_more(c: Any) -> None:
    """Though it still is; all at once it may stay."""
    card, whole = card_of(c, "host1"), kind(c, "passthrough")
    rest = [ref for ref in card["supported_VGPU_types"] if ref != whole.ref]
    c.pool.store.write(card, supported_VGPU_types=rest)
    assert whole.ref in card["enabled_VGPU_types"]
    assert c.refused("PGPU.add_enabled_VGPU_types", card.ref, whole.ref) == [
        "VGPU_TYPE_NOT_SUPPORTED",
        whole.ref,
        *rest,
    ]
    c("PGPU.set_enabled_VGPU_types", card.ref, [whole.ref])


def test_the_types_of_a_card_are_switched_on_and_off(c: Any) -> None:
    """Only those that it supports, and not while a VM has one; its group follows."""
    card, shared, whole = card_of(c, "host1"), kind(c, "GRID K140Q"), kind(c, "passthrough")
    other = c.pool.store.create("VGPU_type", c.pool.new_ref(), {"uuid": c.pool.new_uuid(), "model_name": "new"})
    error = c.refused("PGPU.add_enabled_VGPU_types", card.ref, other.ref)
    assert error[:2] == ["VGPU_TYPE_NOT_SUPPORTED", other.ref]
    for ref in c("PGPU.get_all"):
        c("PGPU.remove_enabled_VGPU_types", ref, shared.ref)
    assert group(c)["enabled_VGPU_types"] == [whole.ref]
    assert c("PGPU.get_remaining_capacity", card.ref, shared.ref) == 0
    c("PGPU.set_enabled_VGPU_types", card.ref, [shared.ref])
    assert set(group(c)["enabled_VGPU_types"]) == {shared.ref, whole.ref}
    vm = hvms(c)[0]
    give(c, vm, "GRID K140Q")
    c("VM.start", vm.ref, False, False)
    for call in (
        ("PGPU.remove_enabled_VGPU_types", card.ref, shared.ref),
        ("PGPU.set_enabled_VGPU_types", card.ref, []),
    ):
        assert c.refused(*call) == ["PGPU_IN_USE_BY_VM", vm.ref]


def test_cards_are_moved_between_groups_of_their_kind(c: Any) -> None:
    """A new group takes the kind of its first card; one with cards, or with VMs, is not destroyed."""
    card, old = card_of(c, "host1"), group(c)
    new = c.pool.store.get("GPU_group", c("GPU_group.create", "mine", "", {}))
    c("PGPU.set_GPU_group", card.ref, new.ref)
    assert new["GPU_types"] == ["10de/0ff2"] and new["PGPUs"] == [card.ref] and card.ref not in old["PGPUs"]
    assert set(new["enabled_VGPU_types"]) == set(card["enabled_VGPU_types"])
    odd = c("GPU_group.create", "odd", "", {})
    c.pool.store.write(c.pool.store.get("GPU_group", odd), GPU_types=["1002/1"])
    error = c.refused("PGPU.set_GPU_group", card.ref, odd)
    assert error == ["PGPU_NOT_COMPATIBLE_WITH_GPU_GROUP", "10de/0ff2", "[1002/1]"]
    assert c.refused("GPU_group.destroy", new.ref) == ["GPU_GROUP_CONTAINS_PGPU", card.ref]
    vm = hvms(c)[0]
    vgpu = give(c, vm)
    c("VM.start", vm.ref, False, False)
    assert c.refused("GPU_group.destroy", old.ref) == ["GPU_GROUP_CONTAINS_VGPU", vgpu.ref]
    assert c.refused("PGPU.set_GPU_group", card_of(c, "host2").ref, new.ref) == ["PGPU_IN_USE_BY_VM", vm.ref]
    c("VM.hard_shutdown", vm.ref)
    c("PGPU.set_GPU_group", card_of(c, "host2").ref, new.ref)
    c("GPU_group.destroy", old.ref)
    assert vm["VGPUs"] == []


def test_a_card_is_taken_from_the_control_domain_when_the_host_boots(c: Any) -> None:
    """So is a display; a licence may forbid it."""
    host, card = c.host("host2"), card_of(c, "host2")
    assert c("PGPU.disable_dom0_access", card.ref) == card["dom0_access"] == "disable_on_reboot"
    assert c("PGPU.enable_dom0_access", card.ref) == "enabled"
    c("PGPU.disable_dom0_access", card.ref)
    c("host.disable_display", host.ref)
    c("host.disable", host.ref)
    c("host.evacuate", host.ref)
    c("host.reboot", host.ref)
    c.until(lambda: not c.pool.machine("host2").answers)
    c.until(lambda: c.pool.machine("host2").xapi.complete)
    assert (card["dom0_access"], host["display"]) == ("disabled", "disabled")
    assert c("PGPU.enable_dom0_access", card.ref) == "enable_on_reboot"
    c.pool.store.write(c.pool.store.pool(), restrictions={"restrict_integrated_gpu_passthrough": "true"})
    assert c.refused("PGPU.disable_dom0_access", card.ref) == ["FEATURE_RESTRICTED"]


# --- USB


def test_a_vm_with_a_usb_device_stays_where_it_is(c: Any) -> None:
    """It starts on the host that has the device, and is not moved, suspended or snapshotted; unplugged, it is free."""
    store, vm = c.pool.store, c.vm("vm01")
    pusb = store.get("PUSB", c.host("host1")["PUSBs"][0])
    c("PUSB.set_passthrough_enabled", pusb.ref, True)
    c("VM.hard_shutdown", vm.ref)
    vusb = store.get("VUSB", c("VUSB.create", vm.ref, pusb["USB_group"], {}))
    assert vusb["allowed_operations"] == ["attach"]
    host2 = c.host("host2").ref
    text = f"VUSB {vusb.ref} is not available on Host {host2}"
    assert c.refused("VM.start_on", vm.ref, host2, False, False) == ["OPERATION_NOT_ALLOWED", text]
    c("VM.start", vm.ref, False, False)
    assert vm["resident_on"] == c.host("host1").ref and vusb["currently_attached"]
    assert vusb["allowed_operations"] == ["attach", "unplug"]
    assert c.refused("VM.pool_migrate", vm.ref, host2, {}) == ["VM_HAS_VUSBS", vm.ref]
    assert c.refused("PUSB.set_passthrough_enabled", pusb.ref, False) == ["USB_ALREADY_ATTACHED", pusb.ref, vm.ref]
    assert c.refused("USB_group.destroy", pusb["USB_group"]) == ["USB_GROUP_CONTAINS_VUSB", vusb.ref]
    assert c.refused("VUSB.destroy", vusb.ref)[0] == "OPERATION_NOT_ALLOWED"
    c("VUSB.unplug", vusb.ref)
    assert c.refused("USB_group.destroy", pusb["USB_group"]) == ["USB_GROUP_CONTAINS_PUSB", pusb.ref]
    assert vusb["allowed_operations"] == ["attach", "plug"]
    assert c.refused("VUSB.unplug", vusb.ref) == ["DEVICE_ALREADY_DETACHED", vusb.ref]
    c("VUSB.destroy", vusb.ref)
    c.sleep(60)
    c("VM.pool_migrate", vm.ref, host2, {"live": "true"})


def test_a_device_is_in_one_vm_and_a_vm_has_six(c: Any) -> None:
    """One that is kept running by high availability has none."""
    vm, other = c.vm("vm04"), c.vm("vm08")
    groups = [c("USB_group.create", f"port {number}", "", {}) for number in range(8)]
    for ref in groups[:6]:
        c("VUSB.create", vm.ref, ref, {})
    assert c.refused("VUSB.create", vm.ref, groups[6], {}) == ["TOO_MANY_VUSBS", "6"]
    assert c.refused("VUSB.create", other.ref, groups[0], {}) == ["USB_GROUP_CONFLICT", groups[0]]
    c.pool.store.write(other, ha_restart_priority="restart")
    assert c.refused("VUSB.create", other.ref, groups[6], {})[0] == "OPERATION_NOT_ALLOWED"
    c.pool.store.write(c.pool.store.pool(), restrictions={"restrict_usb_passthrough": "true"})
    assert c.refused("VUSB.create", other.ref, groups[7], {}) == ["LICENCE_RESTRICTION", "USB_passthrough"]
    c("USB_group.destroy", groups[0])
    assert len(vm["VUSBs"]) == 5


def test_a_scan_finds_what_is_in_the_ports(c: Any) -> None:
    """What was pulled out is forgotten with its group and with what VMs had of it."""
    machine, host = c.pool.machine("host1"), c.host("host1")
    (old,) = host["PUSBs"]
    usb_group = c.pool.store.get("PUSB", old)["USB_group"]
    vusb = c("VUSB.create", c.vm("vm04").ref, usb_group, {})
    machine.usbs = (*machine.usbs, UsbDevice("2-1", "046d", "Logitech", "c31c", "Keyboard", speed=1.5))
    c("PUSB.scan", host.ref)
    (new,) = set(host["PUSBs"]) - {old}
    row = c.pool.store.get("PUSB", new)
    assert (row["path"], row["speed"], row["passthrough_enabled"]) == ("2-1", 1.5, False)
    assert c.pool.store.get("USB_group", row["USB_group"])["name_label"] == "Group of 046d c31c USBs"
    machine.usbs = machine.usbs[1:]
    c("PUSB.scan", host.ref)
    assert host["PUSBs"] == [new] and c.vm("vm04")["VUSBs"] == []
    assert c.refused("VUSB.destroy", vusb)[0] == c.refused("USB_group.destroy", usb_group)[0] == "HANDLE_INVALID"


def test_a_device_for_vms_is_no_disk_of_the_host(c: Any) -> None:
    """It is one again when it is taken back; not while a VM uses it as a disk."""
    store, host = c.pool.store, c.host("host1")
    pusb = store.get("PUSB", host["PUSBs"][0])
    sr = store.create("SR", c.pool.new_ref(), {"uuid": c.pool.new_uuid(), "type": "udev", "physical_size": 1 << 30})
    store.create("PBD", c.pool.new_ref(), {"SR": sr.ref, "host": host.ref, "currently_attached": True})
    made = {"uuid": c.pool.new_uuid(), "SR": sr.ref, "managed": True, "sm_config": {"usb_path": pusb["path"]}}
    vdi = store.create("VDI", c.pool.new_ref(), made)
    c.pool.add_disk(vdi["uuid"])
    vbd = store.create("VBD", c.pool.new_ref(), {"VM": c.vm("vm04").ref, "VDI": vdi.ref, "uuid": c.pool.new_uuid()})
    assert c.refused("PUSB.set_passthrough_enabled", pusb.ref, True) == ["PUSB_VDI_CONFLICT", pusb.ref, vdi.ref]
    store.delete(vbd)
    c("PUSB.set_passthrough_enabled", pusb.ref, True)
    c("SR.scan", sr.ref)
    assert sr["VDIs"] == [] and pusb["passthrough_enabled"]
    c("PUSB.set_passthrough_enabled", pusb.ref, False)
    (back,) = sr["VDIs"]
    assert c("VDI.get_uuid", back) == made["uuid"] and c("VDI.get_sm_config", back)["usb_path"] == pusb["path"]


def test_toolstacks_say_where_virtual_graphics_came_up(c: Any) -> None:
    """Users do not."""
    vgpu, card = give(c, hvms(c)[0]), card_of(c, "host2")
    own = c.pool.dispatch("session.slave_login", [c.host("host2").ref, c.pool.master.system.pool_secret])
    assert c.refused("VGPU.atomic_set_resident_on", vgpu.ref, card.ref)[0] == "INTERNAL_ERROR"
    c.pool.store.write(vgpu, scheduled_to_be_resident_on=card.ref)
    c.pool.dispatch("VGPU.atomic_set_resident_on", [own, vgpu.ref, card.ref])
    assert (vgpu["resident_on"], vgpu["scheduled_to_be_resident_on"]) == (card.ref, NULL)


# --- virtual functions


@pytest.mark.parametrize(("model", "implementation"), [("A16", "nvidia_sriov"), ("MxGPU", "mxgpu")])
def test_a_card_is_split_when_a_vm_needs_a_part(c: Any, model: str, implementation: str) -> None:
    """The VM holds a virtual function of the card; a guest of a card that can be compatible is not pinned by it."""
    store, card = c.pool.store, card_of(c, "host1")
    pci = store.get("PCI", card["PCI"])
    new = store.create("VGPU_type", c.pool.new_ref(), {"uuid": c.pool.new_uuid(), "model_name": model})
    store.write(new, implementation=implementation, size=card["size"] // 2, compatible_types_on_pgpu=[new.ref])
    store.write(card, supported_VGPU_types=[new.ref], enabled_VGPU_types=[new.ref])
    vms = hvms(c)[:3]
    for vm in vms:
        give(c, vm, model)
    start = ("VM.start_on", vms[0].ref, card["host"], False, False)
    assert c.refused(*start) == ["INTERNAL_ERROR", "No free virtual function found"]
    c.pool.machine("host1").virtual_functions[pci["pci_id"]] = 2
    for vm in vms[:2]:
        c("VM.start_on", vm.ref, card["host"], False, False)
    functions = [store.get("PCI", ref) for ref in reversed(pci["virtual_functions"])]
    assert [row["attached_VMs"] for row in functions] == [[vm.ref] for vm in vms[:2]]
    assert [row["pci_id"] for row in functions] == ["0000:04:00.1", "0000:04:00.2"]
    assert c.refused("VM.start_on", vms[2].ref, card["host"], False, False)[0] == "VM_REQUIRES_VGPU"
    c.sleep(60)
    store.write(card, compatibility_metadata={"Nvidia": "same"})
    refusal = c.refused("VM.assert_operation_valid", vms[0].ref, "suspend") if implementation == "mxgpu" else None
    if refusal is None:
        c("VM.assert_operation_valid", vms[0].ref, "suspend")
    else:
        assert refusal == ["VM_HAS_PCI_ATTACHED", vms[0].ref]
    c("VM.hard_shutdown", vms[0].ref)
    c("VM.start_on", vms[2].ref, card["host"], False, False)
    assert functions[0]["attached_VMs"] == [vms[2].ref]


def test_toolstacks_have_cards_split(c: Any) -> None:
    """As far as the cards can be; users do not."""
    host, card = c.host("host2"), card_of(c, "host2")
    pci, machine = c.pool.store.get("PCI", card["PCI"]), c.pool.machine("host2")
    own = c.pool.dispatch("session.slave_login", [host.ref, c.pool.master.system.pool_secret])
    toolstack = lambda *call: c.pool.dispatch(call[0], [own, *call[1:]])  # noqa: E731
    nvidia = ("host.nvidia_vf_setup", host.ref, pci.ref, True)
    assert c.refused(*nvidia)[0] == "INTERNAL_ERROR"
    with pytest.raises(Failure) as caught:
        toolstack(*nvidia)
    assert caught.value.details == ["NVIDIA_SRIOV_MISCONFIGURED", host.ref, pci["device_name"]]
    machine.virtual_functions[pci["pci_id"]] = 4
    toolstack(*nvidia[:3], False)
    assert pci["virtual_functions"] == []
    for _ in range(2):
        toolstack(*nvidia)
        assert len(pci["virtual_functions"]) == 4
    with pytest.raises(Failure, match="INTERNAL_ERROR"):
        toolstack("host.mxgpu_vf_setup", host.ref)
    other = c.pool.store.get("PCI", card_of(c, "host1")["PCI"])
    c.pool.store.write(other, vendor_id="1002")
    c.pool.machine("host1").virtual_functions[other["pci_id"]] = 3
    toolstack("host.mxgpu_vf_setup", c.host("host1").ref)
    assert len(other["virtual_functions"]) == 3
