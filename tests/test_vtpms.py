"""Virtual TPMs: which VMs may have one, what becomes of its contents, and how they travel."""

from __future__ import annotations

import io
from base64 import b64decode
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest
import requests

import mockserver
from xenctl.session import connect
from xenctl.transfers import export_vm, import_vm

Make = Callable[..., Any]
NULL = "OpaqueRef:NULL"


@dataclass(frozen=True)
class Guest:
    """A VM that is off, of a pool."""

    c: Any
    row: Any

    def make(self, *, unique: bool = False) -> Any:
        """A module for it."""
        return self.c.pool.store.get("VTPM", self.c("VTPM.create", self.row.ref, unique))

    def contents(self, vm: Any = None) -> list[str]:
        """What is in its modules, or in those of another one."""
        row = vm or self.row
        return [b64decode(self.c("VTPM.get_contents", ref)).decode() for ref in row["VTPMs"]]

    def secrets(self) -> int:
        """How many are kept."""
        return len(self.c.pool.store.table("secret"))


@pytest.fixture
def c(calls: Make) -> Any:
    return calls(release="8.4", hosts=2, vms=12)


@pytest.fixture
def guest(c: Any) -> Guest:
    row = c.vm("vm04")
    c.pool.store.write(row, HVM_boot_policy="BIOS order", HVM_boot_params={"firmware": "uefi"}, domain_type="hvm")
    return Guest(c, row)


def test_a_vm_that_is_off_gets_one(guest: Guest) -> None:
    """One at the most; it is empty, and may be destroyed while its VM is off."""
    c, vm, before = guest.c, guest.row, guest.secrets()
    vtpm = guest.make()
    assert (vm["VTPMs"], vtpm["VM"], vtpm["is_unique"], vtpm["is_protected"]) == ([vtpm.ref], vm.ref, False, False)
    assert (vtpm["persistence_backend"], vtpm["backend"], guest.contents()) == ("xapi", NULL, [""])
    assert vtpm["allowed_operations"] == ["destroy"]
    assert "contents" not in c("VTPM.get_record", vtpm.ref)
    assert c.refused("VTPM.create", vm.ref, False) == ["VTPM_MAX_AMOUNT_REACHED", "1"]
    assert "create_vtpm" not in vm["allowed_operations"]
    c("VTPM.destroy", vtpm.ref)
    assert (vm["VTPMs"], guest.secrets()) == ([], before)
    assert "create_vtpm" in vm["allowed_operations"]
    assert c.refused("VTPM.create", c.vm("vm01").ref, False)[0] == "VM_BAD_POWER_STATE"


def test_a_licence_may_leave_it_out(guest: Guest) -> None:
    """Also for one that a platform asks for, when its VM is started."""
    c, vm, pool = guest.c, guest.row, guest.c.pool.store.pool()
    c.pool.store.write(pool, restrictions={**pool["restrictions"], "restrict_vtpm": "true"})
    assert c.refused("VTPM.create", vm.ref, False) == ["FEATURE_RESTRICTED", "restrict_vtpm"]
    c("VM.add_to_platform", vm.ref, "vtpm", "true")
    assert c.refused("VM.start", vm.ref, False, False) == ["FEATURE_RESTRICTED", "restrict_vtpm"]
    assert (vm["power_state"], vm["VTPMs"]) == ("Halted", [])


def test_the_first_start_makes_the_contents_which_stay(guest: Guest) -> None:
    """Over stops and starts; while its VM is not off nobody destroys one."""
    c, vm = guest.c, guest.row
    vtpm = guest.make()
    c("VM.start", vm.ref, False, False)
    first = b64decode(c("VTPM.get_contents", vtpm.ref)).decode()
    assert vtpm["uuid"] in first
    assert vtpm["allowed_operations"] == []
    assert c.refused("VTPM.destroy", vtpm.ref) == ["VM_BAD_POWER_STATE", vm.ref, "halted", "running"]
    for verb, args in (("VM.hard_reboot", ()), ("VM.hard_shutdown", ()), ("VM.start", (False, False))):
        c(verb, vm.ref, *args)
        assert guest.contents() == [first]
    assert c.unharmed()


def test_a_platform_may_ask_for_one(guest: Guest) -> None:
    """It is made at a start, if there is none."""
    c, vm = guest.c, guest.row
    c("VM.add_to_platform", vm.ref, "vtpm", "true")
    for _ in range(2):
        c("VM.start", vm.ref, False, False)
        c("VM.hard_shutdown", vm.ref)
    (vtpm,) = vm["VTPMs"]
    assert c("VTPM.get_is_unique", vtpm) is False


def test_firmware_that_knows_of_none_does_not_start_with_one(guest: Guest) -> None:
    """That is a BIOS, which is what a VM has that says nothing."""
    c, vm = guest.c, guest.row
    guest.make()
    for params in ({"firmware": "bios"}, {}):
        c("VM.set_HVM_boot_params", vm.ref, params)
        error = c.refused("VM.start", vm.ref, False, False)
        assert error == ["NOT_IMPLEMENTED", "Booting BIOS VM with VTPMs attached"]
    assert vm["power_state"] == "Halted"


@pytest.mark.parametrize("unique", [False, True])
def test_copies_have_the_contents_unless_they_are_unique(guest: Guest, unique: bool) -> None:
    """In a module of their own, which goes with them."""
    c, vm, before = guest.c, guest.row, guest.secrets()
    vtpm = guest.make(unique=unique)
    c("VTPM.set_contents", vtpm.ref, "bXkgc2VjcmV0")
    copies = [c("VM.clone", vm.ref, "clone"), c("VM.copy", vm.ref, "copy", NULL), c("VM.snapshot", vm.ref, "snapshot")]
    for ref in copies:
        copy = c.pool.store.get("VM", ref)
        assert guest.contents(copy) == ["" if unique else "my secret"]
        (other,) = copy["VTPMs"]
        assert other != vtpm.ref and c("VTPM.get_is_unique", other) is unique
        c("VM.destroy", ref)
        assert c.refused("VTPM.get_record", other)[0] == "HANDLE_INVALID"
    assert guest.contents() == ["my secret"] and guest.secrets() == before + 1


def test_a_revert_brings_back_the_contents(guest: Guest) -> None:
    """As often as one likes: the snapshot keeps its own."""
    c, vm = guest.c, guest.row
    vtpm = guest.make()
    c("VTPM.set_contents", vtpm.ref, "Zmlyc3Q=")
    snapshot = c.pool.store.get("VM", c("VM.snapshot", vm.ref, "then"))
    kept = guest.secrets()
    for _ in range(2):
        c("VTPM.set_contents", vm["VTPMs"][0], "c2Vjb25k")
        c("VM.revert", snapshot.ref)
        assert guest.contents() == guest.contents(snapshot) == ["first"]
    assert c.refused("VTPM.get_record", vtpm.ref)[0] == "HANDLE_INVALID"
    assert guest.secrets() == kept


def exported(c: Any, vm: str) -> io.BytesIO:
    """An archive of a VM with its disks."""
    file = io.BytesIO()
    with connect(c.pool.url, "root", "secret", transport=c.pool.transport()) as session:
        export_vm(session, vm, file)
    file.seek(0)
    return file


def imported(c: Any, file: io.BytesIO, *, restore: bool = False) -> Any:
    """The VM that an archive makes in a pool."""
    file.seek(0)
    with connect(c.pool.url, "root", "secret", transport=c.pool.transport()) as session:
        (ref,) = import_vm(session, file, sr=c.pool.store.pool()["default_SR"], restore=restore)
    return c.pool.store.get("VM", ref)


def test_an_archive_carries_the_contents(guest: Guest, calls: Make) -> None:
    """A VM that is restored has its module as it was; another one has one like it."""
    c, vm = guest.c, guest.row
    vtpm = guest.make(unique=True)
    c("VTPM.set_contents", vtpm.ref, "bXkgc2VjcmV0")
    archive = exported(c, vm.ref)
    assert b"vTPM'_content" in archive.getvalue()
    there = calls(release="8.4", hosts=1, vms=1, seed=9)
    copy, same = imported(there, archive), imported(there, archive, restore=True)
    first, second = (there.pool.store.get("VTPM", row["VTPMs"][0]) for row in (copy, same))
    assert Guest(there, copy).contents() == Guest(there, same).contents() == ["my secret"]
    assert (first["is_unique"], second["is_unique"]) == (True, True)
    assert first["uuid"] != vtpm["uuid"] == second["uuid"]


def test_a_module_that_is_there_already_is_not_restored(guest: Guest) -> None:
    """The import fails, and leaves nothing behind."""
    c, vm = guest.c, guest.row
    vtpm = guest.make()
    archive = exported(c, vm.ref)
    c("VTPM.destroy", vtpm.ref)
    other = c.vm("vm08")
    taken = c.pool.store.create("VTPM", c.pool.new_ref(), {"uuid": vtpm["uuid"], "VM": other.ref})
    c("VM.destroy", vm.ref)
    vms = set(c.pool.store.table("VM"))
    with pytest.raises(Exception, match=f"IMPORT_ERROR_GENERIC.*{vtpm['uuid']} already exists"):
        imported(c, archive, restore=True)
    assert set(c.pool.store.table("VM")) == vms and list(c.pool.store.table("VTPM")) == [taken.ref]


def test_metadata_may_leave_it_out(guest: Guest) -> None:
    """`excluded_device_types=vtpm`."""
    guest.make()
    got = {}
    for without in ("vif", "vtpm"):
        query = {"uuid": guest.row["uuid"], "excluded_device_types": without}
        with mockserver.activate(guest.c.pool):
            answer = requests.get(f"{guest.c.pool.url}/export_metadata", query, auth=("root", "secret"), timeout=60)
        got[without] = b"vTPM'_VM" in answer.content
    assert got == {"vif": True, "vtpm": False}


def test_only_the_control_domain_sees_the_contents(guest: Guest) -> None:
    """No role may read or write them."""
    c, vtpm = guest.c, guest.make()
    c.pool.store.write(
        c.pool.store.get("session", c.session), is_local_superuser=False, rbac_permissions=["vtpm.get_all"]
    )
    for verb, args in (("VTPM.get_contents", ()), ("VTPM.set_contents", ("",))):
        assert c.refused(verb, vtpm.ref, *args)[0] == "RBAC_PERMISSION_DENIED"
