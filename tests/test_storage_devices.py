"""Block devices beyond `test_devices`: force, pauses, asking, and what a device may not be."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from devices import record, refusal

Make = Callable[..., Any]


@pytest.fixture
def c(calls: Make) -> Any:
    return calls(release="8.2", hosts=2, vms=12)


@pytest.mark.parametrize("verb", ["unplug_force", "unplug_force_no_safety_check"])
def test_force_takes_a_disk_out(c: Any, verb: str) -> None:
    """As an unplug does, whatever the guest says; the guest writes to it no more."""
    vbd = c.vbd("vm01", "0")
    disk = c.pool.disk_of(vbd["VDI"])
    task = c.start(f"VBD.{verb}", vbd.ref)
    assert vbd["current_operations"] == {task.ref: "unplug_force"}
    c.sleep(5)
    assert (task["status"], vbd["currently_attached"], len(disk.writers)) == ("success", False, 0)
    assert c.refused(f"VBD.{verb}", vbd.ref) == ["DEVICE_ALREADY_DETACHED", vbd.ref]
    assert "destroy" in c.pool.store.get("VDI", vbd["VDI"])["allowed_operations"]


def test_no_storage_stops_in_the_middle(c: Any) -> None:
    """A pause is refused: by the VM's state first, then by storage."""
    vbd = c.vbd("vm01", "0")
    sr = c.pool.store.get("VDI", vbd["VDI"])["SR"]
    assert c.refused("VBD.pause", vbd.ref) == c.refused("VBD.unpause", vbd.ref) == ["SR_OPERATION_NOT_SUPPORTED", sr]
    halted = c.vbd("vm04", "0")
    error = ["VM_BAD_POWER_STATE", c.vm("vm04").ref, "running", "halted"]
    assert c.refused("VBD.pause", halted.ref) == error
    assert vbd["current_operations"] == {}


def test_pauses_go_beside_some_operations(c: Any) -> None:
    """Beside each other, and an unpause beside an attach."""
    vbd = c.vbd("vm01", "0")
    going = {"pause": {"pause", "unpause"}, "attach": {"unpause"}, "plug": set()}
    for operation, beside in going.items():
        c.pool.store.write(vbd, current_operations={"task": operation})
        free = {name for name in ("pause", "unpause", "attach", "unplug") if refusal(c, vbd, name) is None}
        assert free == beside, operation


def test_a_disk_can_be_asked_for(c: Any) -> None:
    """Whether a VM may have it now: not while another writes to it, and not to write what is read only."""
    vbd, other = c.vbd("vm04", "0"), c.vbd("vm01", "0")
    c("VBD.assert_attachable", vbd.ref)
    vdi = vbd["VDI"]
    c.pool.store.write(c.pool.store.get("VDI", vdi), read_only=True)
    assert c.refused("VBD.assert_attachable", vbd.ref) == ["VDI_READONLY", vdi]
    c.pool.store.write(vbd, VDI=other["VDI"])
    assert c.refused("VBD.assert_attachable", vbd.ref) == ["VDI_IN_USE", other["VDI"]]
    c.pool.store.write(c.pool.store.get("VDI", other["VDI"]), sharable=True)
    c("VBD.assert_attachable", vbd.ref)


def test_readers_share(c: Any) -> None:
    """Several VMs may read a disk that nobody writes; up to 6.0 one might even write what others only read."""
    vdi, store = c.vbd("vm04", "0")["VDI"], c.pool.store
    reader = store.get("VBD", c("VBD.create", record(c, "vm01", VDI=vdi, mode="RO")))
    c("VBD.plug", reader.ref)
    second = store.get("VBD", c("VBD.create", record(c, "vm08", VDI=vdi, mode="RO")))
    assert refusal(c, second, "attach") is None
    assert refusal(c, c.vbd("vm04", "0"), "attach") == ["VDI_IN_USE", vdi]


@pytest.mark.parametrize("release", ["5.5", "5.6", "6.0"])
def test_readers_did_not_mind_one_writer(calls: Make, release: str) -> None:
    """Up to 6.0."""
    c = calls(release=release, hosts=1, vms=12)
    vdi = c.vbd("vm04", "0")["VDI"]
    c("VBD.plug", c("VBD.create", record(c, "vm01", VDI=vdi, mode="RO")))
    assert refusal(c, c.vbd("vm04", "0"), "attach") is None


def test_hardware_guests_write_their_disks(c: Any) -> None:
    """A disk for reading only cannot be plugged into one; a guest that says so takes none at all."""
    vm = c.vm("vm03")
    vdi = c.vbd("vm04", "0")["VDI"]
    vbd = c("VBD.create", record(c, "vm03", VDI=vdi, mode="RO"))
    assert c.refused("VBD.plug", vbd) == ["DISK_VBD_MUST_BE_READWRITE_FOR_HVM", vbd]
    agent = c.pool.store.get("VM_guest_metrics", vm["guest_metrics"])
    c.pool.store.write(agent, can_use_hotplug_vbd="no")
    text = "VM states it does not support VBD hotplug."
    assert c.refused("VBD.plug", vbd) == ["OPERATION_NOT_ALLOWED", text]
    c.pool.store.write(agent, can_use_hotplug_vbd="yes", PV_drivers_version={})
    assert refusal(c, c.pool.store.get("VBD", vbd), "plug") is None


def test_what_storage_keeps_for_itself_is_no_device(c: Any) -> None:
    """Neither plugged, nor put into a drive."""
    vbd, disc = c.vbd("vm04", "0"), c.row("VDI", "debian-etch.iso")
    for vdi in (c.pool.store.get("VDI", vbd["VDI"]), disc):
        c.pool.store.write(vdi, managed=False)
    c.pool.settle("test")
    assert vbd["allowed_operations"] == []
    assert c.refused("VBD.assert_attachable", vbd.ref) == ["VDI_NOT_MANAGED", vbd.ref]
    drive = c.vbd("vm04", "3")
    assert c.refused("VBD.insert", drive.ref, disc.ref) == ["VDI_NOT_MANAGED", disc.ref]


def test_some_disks_are_for_no_vm(c: Any) -> None:
    """Statefiles, redo logs and what tracks changes."""
    vdi = c.pool.store.get("VDI", c.vbd("vm04", "0")["VDI"])
    for kind, name in (("ha_statefile", "HA statefile"), ("redo_log", "Redo log"), ("cbt_metadata", "CBT metadata")):
        c.pool.store.write(vdi, type=kind)
        error = ["VDI_INCOMPATIBLE_TYPE", vdi.ref, name]
        assert c.refused("VBD.create", record(c, "vm08", VDI=vdi.ref)) == error


def test_a_device_has_metrics_and_a_place(calls: Make) -> None:
    """Only a suspended VM's says that it is attached; a floppy has names of its own, and a VM that can have one."""
    c = calls(release="8.4", hosts=2, vms=12)
    vdi = c.vbd("vm04", "0")["VDI"]
    ref = c("VBD.create", record(c, "vm04", VDI=vdi, currently_attached=True, device="xvdz"))
    row = c.pool.store.get("VBD", ref)
    assert (row["currently_attached"], row["device"]) == (False, "")
    assert row["metrics"] in c.pool.store.table("VBD_metrics")
    c("VBD.destroy", ref)
    assert row["metrics"] not in c.pool.store.table("VBD_metrics")
    ref = c("VBD.create", record(c, "vm06", VDI=vdi, currently_attached=True, device="xvdz"))
    assert (c("VBD.get_currently_attached", ref), c("VBD.get_device", ref)) == (True, "xvdz")
    assert "destroy" not in c.pool.store.get("VDI", vdi)["allowed_operations"]
    text = "VBD of type 'floppy' is not supported on PV domain"
    assert c.refused("VBD.create", record(c, "vm04", VDI=vdi, type="Floppy")) == ["NOT_IMPLEMENTED", text]
    hvm = next(vm["name_label"] for vm in c.pool.store.table("VM").values() if vm["HVM_boot_policy"])
    first = c("VBD.create", record(c, hvm, VDI=vdi, type="Floppy"))
    assert c("VBD.get_userdevice", first) == "fda"
    assert c.refused("VBD.create", record(c, hvm, VDI=vdi, type="Floppy", userdevice="fda")) == [
        "DEVICE_ALREADY_EXISTS",
        "fda",
    ]
