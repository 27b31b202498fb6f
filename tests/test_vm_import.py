"""VMs that hosts fetch from servers, guests that sleep, and tasks that are worked on elsewhere."""

from __future__ import annotations

import io
from collections.abc import Callable
from typing import Any

import pytest

from xenctl.session import connect
from xenctl.transfers import export_vm

Make = Callable[..., Any]
URL = "http://10.9.9.9/vm.xva"


@pytest.fixture
def c(calls: Make) -> Any:
    return calls(release="8.2", hosts=2, vms=4)


def archive(c: Any, vm: str) -> bytes:
    """A VM of another pool, as that exports it."""
    with connect(c.pool.url, "root", "secret", transport=c.pool.transport()) as session, io.BytesIO() as file:
        export_vm(session, c.vm(vm).ref, file)
        return file.getvalue()


@pytest.fixture
def served(c: Any, calls: Make) -> bytes:
    """An archive on a server, of a VM that this pool does not have."""
    other = calls(release="8.2", hosts=1, vms=4, seed=5)
    other("VM.set_name_label", other.vm("vm04").ref, "new")
    data = archive(other, "new")
    c.pool.hands.serve(URL, data)
    return data


def test_a_host_fetches_a_vm_by_itself(c: Any, served: bytes) -> None:
    """As if somebody had uploaded it; the result is the VM, also of a task."""
    sr = c.row("SR", "NFS virtual disk storage").ref
    (vm,) = c("VM.import", URL, sr, False, False)
    assert c("VM.get_name_label", vm) == "new" and c("VM.get_power_state", vm) == "Halted"
    (vbd,) = [vbd for vbd in c.pool.vbds(c.pool.store.get("VM", vm)) if vbd["type"] == "Disk"]
    assert c("VDI.get_SR", vbd["VDI"]) == sr and c.pool.disk_of(vbd["VDI"]).blocks
    c("VM.start", vm, False, False)
    task = c.start("VM.import", URL, sr, False, False)
    c.until(lambda: task["status"] == "success")
    again = c.pool.store.get("VM", task["result"].split("<value>")[-1].split("<")[0])
    assert again["name_label"] == "new" and again.ref != vm
    assert c("VM.get_current_operations", vm) == {}
    assert c.unharmed()


def test_what_cannot_be_fetched_leaves_nothing_behind(c: Any, served: bytes) -> None:
    """No such file, one that is cut, one that is no archive, storage that no host reaches, or a change of mind."""
    sr = c.row("SR", "NFS virtual disk storage").ref
    tables = ("VM", "VBD", "VDI", "VIF", "VM_metrics")
    before = {table: set(c.pool.store.table(table)) for table in tables}
    c.pool.hands.serve(f"{URL}.cut", served[:-50_000])
    c.pool.hands.serve(f"{URL}.bad", b"x" * 2048)
    assert c.refused("VM.import", f"{URL}.none", sr, False, False) == ["IMPORT_ERROR", "404 Not Found"]
    assert c.refused("VM.import", f"{URL}.cut", sr, False, False) == ["IMPORT_ERROR_PREMATURE_EOF"]
    assert c.refused("VM.import", f"{URL}.bad", sr, False, False)[0] == "IMPORT_ERROR"
    task = c.start("VM.import", URL, sr, False, False)
    c("task.cancel", task.ref)
    c.sleep(600)
    assert task["status"] == "cancelled"
    assert {table: set(c.pool.store.table(table)) for table in tables} == before
    local = c.row("SR", "Local storage on host2")
    c("PBD.unplug", local["PBDs"][0])
    assert c.refused("VM.import", URL, local.ref, False, False) == ["SR_HAS_NO_PBDS", local.ref]


def test_a_guest_sleeps_and_is_woken(c: Any) -> None:
    """XenAPI shows it running throughout; it writes nothing, and sleeps on where it is moved to."""
    vm = c.vm("vm01")
    _, domain = c.pool.domain(vm)
    c("VM.s3_suspend", vm.ref)
    writes = domain.guest.writes
    c.sleep(600)
    domain.catch_up(c.pool.clock.now())
    assert (vm["power_state"], domain.guest.writes, domain.asleep) == ("Running", writes, True)
    c("VM.pool_migrate", vm.ref, c.host("host2").ref, {"live": "true"})
    _, domain = c.pool.domain(vm)
    assert domain.asleep and not domain.running
    c("VM.s3_resume", vm.ref)
    c.sleep(600)
    domain.catch_up(c.pool.clock.now())
    assert domain.guest.writes >= writes + 59
    assert c.unharmed()


def test_a_toolstack_that_restarts_finds_a_guest_asleep(c: Any) -> None:
    """It is not paused."""
    from mockserver import startup

    vm = c.vm("vm02")
    c("VM.s3_suspend", vm.ref)
    startup.toolstack_died(c.pool, c.pool.machine("host2"))
    startup.toolstack_restarted(c.pool, c.pool.machine("host2"))
    c = c.back()
    assert vm["power_state"] == "Running"
    c("VM.s3_resume", vm.ref)
    assert c.pool.domain(vm)[1].running


def test_only_a_guest_that_listens_goes_to_sleep(c: Any) -> None:
    """One without an agent does not hear of it; one that is off has no domain."""
    deaf, halted = c.vm("vm03"), c.vm("vm04")
    c.pool.guest(deaf).agent = None
    c("VM.s3_suspend", deaf.ref)
    assert c.pool.domain(deaf)[1].running
    for method in ("VM.s3_suspend", "VM.s3_resume"):
        code, text = c.refused(method, halted.ref)
        assert (code, text) == (
            "INTERNAL_ERROR",
            f"Object with type domain and id {halted['uuid']} does not exist in xenopsd",
        )


def test_a_task_is_worked_on_elsewhere(calls: Make) -> None:
    """Whoever made it says where."""
    c = calls(release="8.4")
    task = c("task.create", "mine", "")
    c("task.set_resident_on", task, c.host("host2").ref)
    assert c("task.get_resident_on", task) == c.host("host2").ref
