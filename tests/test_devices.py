"""Block devices, disks and storage: media in and out, disks plugged, made and destroyed, connections of hosts."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

Make = Callable[..., Any]
NULL = "OpaqueRef:NULL"


@pytest.fixture
def c(calls: Make) -> Any:
    return calls(release="8.2", hosts=2, vms=12)


def disc(c: Any) -> Any:
    return c.row("VDI", "debian-etch.iso")


# --- media


@pytest.mark.parametrize("release", ["4.0.1", "8.2"])
@pytest.mark.parametrize("name", ["vm02", "vm04"])
def test_a_cd_goes_in_and_out(calls: Make, release: str, name: str) -> None:
    """Of a VM that runs and of one that is halted; a drive that is full or empty says so."""
    c = calls(release=release, vms=12)
    drive = c.vbd(name, "3")
    if drive["empty"]:
        assert c.refused("VBD.eject", drive.ref) == ["VBD_IS_EMPTY", drive.ref]
        c("VBD.insert", drive.ref, disc(c).ref)
    assert (drive["VDI"], drive["empty"]) == (disc(c).ref, False)
    assert drive.ref in disc(c)["VBDs"]
    assert c.refused("VBD.insert", drive.ref, disc(c).ref) == ["VBD_NOT_EMPTY", drive.ref]
    c("VBD.eject", drive.ref)
    assert (drive["VDI"], drive["empty"]) == (NULL, True)
    assert drive.ref not in disc(c)["VBDs"]


@pytest.mark.parametrize("release", ["5.6", "6.5", "7.0", "8.2"])
def test_a_disk_is_no_medium(calls: Make, release: str) -> None:
    """It does not come out; up to 6.5 it does not go into a drive, either."""
    c = calls(release=release, hosts=1, vms=6)
    disk, drive = c.vbd("vm04", "0"), c.vbd("vm01", "3")
    assert c.refused("VBD.eject", disk.ref) == ["VBD_NOT_REMOVABLE_MEDIA", disk.ref]
    new = record(c, "vm01", VDI=disk["VDI"], type="CD", mode="RO")
    if release in ("5.6", "6.5"):
        kind = c.pool.store.get("SR", c.pool.store.get("VDI", disk["VDI"])["SR"])["content_type"]
        assert c.refused("VBD.insert", drive.ref, disk["VDI"]) == ["VDI_IS_NOT_ISO", disk["VDI"], kind]
        assert c.refused("VBD.create", new) == ["VDI_IS_NOT_ISO", disk["VDI"], kind]
    else:
        c("VBD.insert", drive.ref, disk["VDI"])
        assert drive["VDI"] == disk["VDI"]
        c("VBD.create", new)


def test_the_drive_of_a_suspended_vm_is_shut(c: Any) -> None:
    """Whether something is in it or not."""
    vm, drive = c.vm("vm02"), c.vbd("vm02", "3")
    c("VM.suspend", vm.ref)
    assert c.refused("VBD.eject", drive.ref) == ["VM_BAD_POWER_STATE", vm.ref, "halted, running", "suspended"]
    drive = c.vbd("vm06", "3")
    error = ["VM_BAD_POWER_STATE", c.vm("vm06").ref, "halted, running", "suspended"]
    assert c.refused("VBD.insert", drive.ref, disc(c).ref) == error


def test_a_running_vm_sees_what_its_host_sees(c: Any) -> None:
    """A disc on storage that is not plugged there cannot be inserted; a halted VM may hold it."""
    sr, host = c.row("SR", "ISO library"), c.host("host1")
    pbd = next(p for p in sr["PBDs"] if c.pool.store.get("PBD", p)["host"] == host.ref)
    c.pool.store.write(c.pool.store.get("PBD", pbd), currently_attached=False)
    vm = c.vm("vm01")
    assert vm["resident_on"] == host.ref
    assert c.refused("VBD.insert", c.vbd("vm01", "3").ref, disc(c).ref) == ["VM_REQUIRES_SR", vm.ref, sr.ref]
    c("VBD.insert", c.vbd("vm04", "3").ref, disc(c).ref)


def test_a_drive_does_one_thing_at_a_time(c: Any) -> None:
    """Who comes second is told what goes on."""
    drive = c.vbd("vm02", "3")
    task = c.start("VBD.eject", drive.ref)
    assert drive["current_operations"] == {task.ref: "eject"}
    assert c.refused_at_once("VBD.eject", drive.ref) == ["OTHER_OPERATION_IN_PROGRESS", "VBD", drive.ref, "eject"]
    c.sleep(5)
    assert (task["status"], drive["current_operations"], drive["empty"]) == ("success", {}, True)


# --- disks


def test_a_disk_can_be_unplugged_and_plugged(c: Any) -> None:
    """The guest writes to what it has; what is unplugged stays as it was, also when the VM moves."""
    vm, vbd = c.vm("vm01"), c.vbd("vm01", "0")
    disk = c.pool.disk_of(vbd["VDI"])
    c.sleep(100)
    assert c.refused("VBD.plug", vbd.ref) == ["DEVICE_ALREADY_ATTACHED", vbd.ref]
    c("VBD.unplug", vbd.ref)
    assert not vbd["currently_attached"]
    assert (len(disk.writers), len(disk.blocks)) == (0, 11), "what was there, then one block every ten seconds"
    assert c.refused("VBD.unplug", vbd.ref) == ["DEVICE_ALREADY_DETACHED", vbd.ref]
    content = disk.digest()
    c("VM.pool_migrate", vm.ref, c.host("host2").ref, {})
    c.sleep(1000)
    assert c.unharmed()
    assert (disk.digest(), len(disk.writers)) == (content, 0)
    c("VBD.plug", vbd.ref)
    assert len(disk.writers) == 1
    c.sleep(1000)
    assert c.unharmed()
    assert disk.digest() != content


def test_plugging_is_for_vms_that_run(c: Any) -> None:
    """With drivers, where hardware virtualisation needs them; CD drives of such guests never."""
    halted, hvm = c.vm("vm04"), c.vm("vm03")
    error = ["VM_BAD_POWER_STATE", halted.ref, "running", "halted"]
    assert c.refused("VBD.plug", c.vbd("vm04", "0").ref) == error
    text = "HVM CDROMs cannot be hotplugged/unplugged, only inserted or ejected"
    c.pool.store.write(c.vbd("vm03", "3"), unpluggable=True)
    assert c.refused("VBD.unplug", c.vbd("vm03", "3").ref) == ["OPERATION_NOT_ALLOWED", text]
    c.pool.store.delete(c.pool.store.get("VM_guest_metrics", hvm["guest_metrics"]))
    assert c.refused("VBD.unplug", c.vbd("vm03", "0").ref) == ["VM_MISSING_PV_DRIVERS", hvm.ref]
    c.pool.store.write(c.vbd("vm01", "0"), unpluggable=False)
    assert c.refused("VBD.unplug", c.vbd("vm01", "0").ref) == ["VBD_NOT_UNPLUGGABLE", c.vbd("vm01", "0").ref]


def test_a_disk_that_another_vm_writes_cannot_be_plugged(c: Any) -> None:
    """Nobody else may write to it meanwhile."""
    vdi = c.vbd("vm02", "0")["VDI"]
    vbd = c.vbd("vm01", "0")
    c("VBD.unplug", vbd.ref)
    c.pool.store.write(vbd, VDI=vdi)
    assert c.refused("VBD.plug", vbd.ref) == ["VDI_IN_USE", vdi]


@pytest.mark.parametrize(
    ("name", "number", "allowed"),
    [
        ("vm04", "0", {"attach"}),
        ("vm04", "3", {"attach", "insert"}),
        ("vm02", "3", {"attach", "eject", "pause", "unpause"}),
        ("vm02", "0", {"attach", "unplug", "unplug_force", "pause", "unpause"}),
        ("vm06", "0", {"attach"}),
    ],
)
def test_what_may_be_done_to_a_device_is_listed(c: Any, name: str, number: str, allowed: set[str]) -> None:
    """By the state of its VM and by what is in it."""
    assert set(c.vbd(name, number)["allowed_operations"]) == allowed


def test_the_list_follows_what_happens(c: Any) -> None:
    """To the device itself and to its VM."""
    vbd, drive = c.vbd("vm01", "0"), c.vbd("vm02", "3")
    c("VBD.unplug", vbd.ref)
    assert set(vbd["allowed_operations"]) == {"attach", "plug", "pause", "unpause"}
    c("VBD.eject", drive.ref)
    assert "insert" in drive["allowed_operations"]
    assert "eject" not in drive["allowed_operations"]
    c("VM.hard_shutdown", c.vm("vm01").ref)
    assert set(vbd["allowed_operations"]) == {"attach"}


# --- making and destroying devices


def record(c: Any, vm: str, **more: Any) -> dict[str, Any]:
    fields = {
        "VM": c.vm(vm).ref,
        "VDI": NULL,
        "userdevice": "autodetect",
        "bootable": False,
        "mode": "RW",
        "type": "Disk",
    }
    return {**fields, "empty": False, "other_config": {}, "qos_algorithm_type": "", "qos_algorithm_params": {}, **more}


def test_a_device_takes_a_free_number(c: Any) -> None:
    """The lowest one, or the one that is asked for, however it is spelled."""
    drive = {"type": "CD", "mode": "RO", "empty": True}
    first = c("VBD.create", record(c, "vm04", **drive))
    assert (c("VBD.get_userdevice", first), c("VBD.get_device", first)) == ("1", "")
    for taken in ("1", "hdb", "xvdb", "0", "xvda"):
        assert c.refused("VBD.create", record(c, "vm04", **drive, userdevice=taken)) == ["DEVICE_ALREADY_EXISTS", taken]
    c("VBD.create", record(c, "vm04", **drive, userdevice="xvda1"))
    for wrong in ("fish", "256", "-1", "", "hvda", "sdb0x"):
        assert c.refused("VBD.create", record(c, "vm04", **drive, userdevice=wrong)) == ["INVALID_DEVICE", wrong]
    c("VBD.create", record(c, "vm04", **drive, userdevice="xvdh"))


@pytest.mark.parametrize(("release", "kept"), [("8.2", (False, "")), ("8.4", (True, "xvdh"))])
def test_a_device_of_a_suspended_vm_may_begin_attached(calls: Make, release: str, kept: tuple[bool, str]) -> None:
    """As an import says, since XenServer 8."""
    c = calls(release=release, hosts=1, vms=6)
    drive = {"type": "CD", "mode": "RO", "empty": True, "currently_attached": True, "device": "xvdh"}
    for vm, expected in (("vm04", (False, "")), ("vm06", kept)):
        ref = c("VBD.create", record(c, vm, **drive, userdevice="7"))
        assert (c("VBD.get_currently_attached", ref), c("VBD.get_device", ref)) == expected


@pytest.mark.parametrize(
    ("release", "vm", "number", "called"),
    [
        ("6.2.0", "vm03", "1", "hdb"),
        ("6.2.0", "vm03", "16", "xvdq"),
        ("6.2.0", "vm01", "1", "xvdb"),
        ("6.5.0", "vm03", "1", "xvdb"),
        ("8.2", "vm03", "hdb", "xvdb"),
        ("8.2", "vm03", "27", "xvdab"),
        ("8.2", "vm01", "sdb", "sdb"),
    ],
)
def test_a_device_has_a_name_once_it_is_attached(calls: Make, release: str, vm: str, number: str, called: str) -> None:
    """When it is plugged and when its VM starts; up to 6.2 fully virtual guests know the first ones as IDE drives."""
    c = calls(release=release, vms=4)
    disk = c("VDI.copy", c.vbd("vm04", "0")["VDI"], c.row("SR", "NFS virtual disk storage").ref)
    vbd = c.pool.store.get("VBD", c("VBD.create", record(c, vm, VDI=disk, userdevice=number)))
    assert vbd["device"] == ""
    c("VBD.plug", vbd.ref)
    assert vbd["device"] == called
    c("VM.hard_shutdown", c.vm(vm).ref)
    assert vbd["device"] == called
    c.pool.store.write(vbd, device="")
    c("VM.start", c.vm(vm).ref, False, False)
    assert vbd["device"] == called


@pytest.mark.parametrize("release", ["5.6.0", "8.2"])
def test_a_disk_of_the_control_domain_has_a_path(calls: Make, release: str) -> None:
    """Since 6.0 xapi itself works on what the storage attached; before, the domain gets a device."""
    c = calls(release=release, vms=4)
    dom0 = c.vm("Control domain on host: host1")
    vdi = c.pool.store.get("VDI", c.vbd("vm04", "0")["VDI"])
    vbd = c("VBD.create", {**record(c, "vm04", VDI=vdi.ref), "VM": dom0.ref})
    c("VBD.plug", vbd)
    path = f"sm/backend/{c.row('SR', 'NFS virtual disk storage')['uuid']}/{vdi['uuid']}"
    assert c("VBD.get_device", vbd) == (path if release == "8.2" else "xvda")


def test_a_device_must_make_sense(c: Any) -> None:
    """CDs are read only and alone may be empty; what is read only is not written; disks must be there."""
    assert c.refused("VBD.create", record(c, "vm04", type="CD", empty=True)) == ["VBD_CDS_MUST_BE_READONLY"]
    assert c.refused("VBD.create", record(c, "vm04", empty=True)) == ["VBD_NOT_REMOVABLE_MEDIA", "in constructor"]
    assert c.refused("VBD.create", record(c, "vm04", VDI="none")) == ["HANDLE_INVALID", "VDI", "none"]
    assert c.refused("VBD.create", record(c, "vm04", VDI=disc(c).ref)) == ["VDI_READONLY", disc(c).ref]
    assert c.refused("VBD.create", record(c, "vm04", VM="none")) == ["HANDLE_INVALID", "VM", "none"]
    c.start("VM.pool_migrate", c.vm("vm01").ref, c.host("host2").ref, {})
    busy = ["OTHER_OPERATION_IN_PROGRESS", "VM", c.vm("vm01").ref, "pool_migrate"]
    assert c.refused("VBD.create", record(c, "vm01", VDI=c.vbd("vm04", "0")["VDI"])) == busy


def test_a_device_in_use_cannot_be_destroyed(c: Any) -> None:
    """One that is not goes, its disk stays."""
    vm, vbd = c.vm("vm01"), c.vbd("vm01", "0")
    text = f"VBD '{vbd['uuid']}' still attached to '{vm['uuid']}'"
    assert c.refused("VBD.destroy", vbd.ref) == ["OPERATION_NOT_ALLOWED", text]
    c("VM.hard_shutdown", vm.ref)
    vdi = vbd["VDI"]
    c("VBD.destroy", vbd.ref)
    assert c("VDI.get_VBDs", vdi) == []
    assert vbd.ref not in vm["VBDs"]
    assert c.unharmed()


def test_the_mode_of_a_device_is_set_at_rest(c: Any) -> None:
    """While the VM runs it is not."""
    vm = c.vm("vm01")
    assert c.refused("VBD.set_mode", c.vbd("vm01", "0").ref, "RO") == [
        "VM_BAD_POWER_STATE",
        vm.ref,
        "halted",
        "running",
    ]
    c("VBD.set_mode", c.vbd("vm04", "0").ref, "ro")
    assert c.vbd("vm04", "0")["mode"] == "RO"


# --- images


def image(c: Any, **more: Any) -> dict[str, Any]:
    fields = {"name_label": "data", "name_description": "", "SR": c.row("SR", "NFS virtual disk storage").ref}
    return {
        **fields,
        "virtual_size": "2097152",
        "type": "user",
        "sharable": False,
        "read_only": False,
        "other_config": {},
        **more,
    }


def test_a_disk_is_made_used_and_destroyed(c: Any) -> None:
    """Empty at first; while it is in use it stays as it is."""
    ref = c("VDI.create", image(c))
    vdi = c.pool.store.get("VDI", ref)
    assert (vdi["virtual_size"], vdi["managed"], vdi["location"]) == (2097152, True, vdi["uuid"])
    assert c.pool.disks[vdi["uuid"]].blocks == {}
    vbd = c("VBD.create", record(c, "vm01", VDI=ref))
    c("VBD.plug", vbd)
    assert c.refused("VDI.destroy", ref) == ["VDI_IN_USE", ref, "destroy"]
    assert c.refused("VDI.resize", ref, 4194304) == ["VDI_IN_USE", ref, "resize"]
    c.sleep(100)
    assert c.unharmed()
    assert c.pool.disks[vdi["uuid"]].blocks
    c("VBD.unplug", vbd)
    c("VDI.resize", ref, 4194304)
    assert vdi["virtual_size"] == 4194304
    c("VDI.destroy", ref)
    assert c.refused("VBD.get_record", vbd)[0] == "HANDLE_INVALID"
    assert vdi["uuid"] not in c.pool.disks


def test_the_disks_of_a_suspended_vm_are_in_use(c: Any) -> None:
    """It will need them; its image may be destroyed, and is not named any more then."""
    vdi = c.vbd("vm06", "0")["VDI"]
    assert c.refused("VDI.destroy", vdi) == ["VDI_IN_USE", vdi, "destroy"]
    c("VDI.destroy", c.vm("vm06")["suspend_VDI"])
    assert c.vm("vm06")["suspend_VDI"] == NULL


def test_storage_that_the_master_does_not_reach_cannot_be_changed(c: Any) -> None:
    """Of several connections it is the master's that counts; a local one is its host's."""
    sr = c.row("SR", "NFS virtual disk storage")
    pbd = next(p for p in sr["PBDs"] if c.pool.store.get("PBD", p)["host"] == c.host("host1").ref)
    c.pool.store.write(c.pool.store.get("PBD", pbd), currently_attached=False)
    assert c.refused("VDI.create", image(c)) == ["SR_HAS_NO_PBDS", sr.ref]
    c("VDI.create", image(c, SR=c.row("SR", "Local storage on host2").ref))
    c.pool.store.write(c.vbd("vm04", "0"), VDI=NULL)
    vdi = c.row("VDI", "disk of vm04")
    assert c.refused("VDI.destroy", vdi.ref) == ["SR_HAS_NO_PBDS", sr.ref]


# --- connections


def test_storage_in_use_stays_connected(c: Any) -> None:
    """The error names the disks; suspended VMs are on no host, so theirs are not in the way."""
    sr, host = c.row("SR", "NFS virtual disk storage"), c.host("host2")
    pbd = next(p for p in (c.pool.store.get("PBD", r) for r in sr["PBDs"]) if p["host"] == host.ref)
    guests = [c.pool.store.get("VM", ref) for ref in host["resident_VMs"]]
    used = {c.vbd(vm["name_label"], "0")["VDI"] for vm in guests if not vm["is_control_domain"]}
    code, *disks = c.refused("PBD.unplug", pbd.ref)
    assert (code, set(disks)) == ("VDI_IN_USE", used)
    for vm in guests:
        if not vm["is_control_domain"]:
            c("VM.suspend", vm.ref)
    c("PBD.unplug", pbd.ref)
    assert not pbd["currently_attached"]
    c("PBD.unplug", pbd.ref)
    assert c.refused("VM.resume_on", guests[1].ref, host.ref, False, False) == ["VM_REQUIRES_SR", guests[1].ref, sr.ref]
    c("PBD.plug", pbd.ref)
    c("PBD.plug", pbd.ref)
    c("VM.resume_on", guests[1].ref, host.ref, False, False)
    assert c.unharmed()


def test_a_dead_host_connects_to_nothing(c: Any) -> None:
    """Nobody is there who could."""
    pbd = c.pool.store.get("PBD", c.host("host2")["PBDs"][0])
    c.pool.store.write(pbd, currently_attached=False)
    c.pool.machine("host2").power_off()
    assert c.refused("PBD.plug", pbd.ref) == ["CANNOT_CONTACT_HOST", c.host("host2").ref]
    c.sleep(601)
    assert c.refused("PBD.plug", pbd.ref) == ["HOST_OFFLINE", c.host("host2").ref]


def test_a_connection_is_made_once(c: Any) -> None:
    """It is made unplugged; one that is plugged cannot be destroyed; storage that is not shared is plugged in one place."""
    sr, host = c.row("SR", "Local storage on host1"), c.host("host2")
    (first,) = sr["PBDs"]
    ref = c("PBD.create", {"host": host.ref, "SR": sr.ref, "device_config": {"device": "/dev/sda3"}})
    pbd = c.pool.store.get("PBD", ref)
    assert (pbd["currently_attached"], pbd["device_config"]) == (False, {"device": "/dev/sda3"})
    again = {"host": host.ref, "SR": sr.ref, "device_config": {}}
    assert c.refused("PBD.create", again) == ["PBD_EXISTS", sr.ref, host.ref, ref]
    assert c.refused("PBD.plug", ref) == ["SR_NOT_SHARABLE", sr.ref, c.host("host1").ref]
    assert c.refused("PBD.destroy", first) == ["OPERATION_NOT_ALLOWED", "PBD is currently attached"]
    c("PBD.destroy", ref)
    assert sr["PBDs"] == [first]


def test_storage_can_be_forgotten(c: Any) -> None:
    """Once nothing connects to it: the records go, what is on the disks stays."""
    sr = c.row("SR", "Local storage on host2")
    vdi = c("VDI.create", image(c, SR=sr.ref))
    uuid = c("VDI.get_uuid", vdi)
    assert c.refused("SR.forget", sr.ref) == ["SR_HAS_PBD", sr.ref]
    for pbd in list(sr["PBDs"]):
        c("PBD.unplug", pbd)
    c("SR.forget", sr.ref)
    assert c.refused("SR.get_record", sr.ref)[0] == c.refused("VDI.get_record", vdi)[0] == "HANDLE_INVALID"
    assert uuid in c.pool.disks
