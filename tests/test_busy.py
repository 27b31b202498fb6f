"""The error for an object that is busy, which later releases tell more of."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from mockserver import busy, checks, hosts, network_rules, storage_rules

Make = Callable[..., Any]
CODE = "OTHER_OPERATION_IN_PROGRESS"


def refusals(c: Any) -> dict[str, list[str]]:
    """What is told of a VM, a VIF, a disk and its storage, and a host, each of which is busy."""
    store, vm = c.pool.store, c.vm("vm04")
    vif, vdi = store.get("VIF", vm["VIFs"][0]), store.get("VDI", c.vbd("vm04", "0")["VDI"])
    sr, host = store.get("SR", vdi["SR"]), c.host("host1")
    for row, going in ((vm, {"t": "suspend"}), (vdi, {"t": "resize"}), (sr, {"t": "scan"}), (host, {"t": "evacuate"})):
        store.write(row, current_operations=going)
    store.write(vif, current_operations={"t1": "plug", "t2": "attach"})
    told = {
        "VM": checks.operation_refused(store, vm, "start"),
        "VIF": network_rules.vif_refused(store, vif, "plug"),
        "VDI": storage_rules.vdi_refused(store, vdi, "snapshot"),
        "SR": storage_rules.sr_refused(store, sr, "scan"),
        "host": hosts.operation_refused(store, host, "vm_migrate"),
    }
    refs = {"VM": vm.ref, "VIF": vif.ref, "VDI": vdi.ref, "SR": sr.ref, "host": host.ref}
    return {
        kind: ["ref" if part == refs[kind] else part for part in error.details] for kind, error in told.items() if error
    }


def test_little_is_told_and_differently_by_class(calls: Make) -> None:
    """And nothing of the task."""
    assert refusals(calls(release="8.4", vms=6)) == {
        "VM": [CODE, "VM.suspend", "ref"],
        "VIF": [CODE, "VIF", "ref", "plug"],
        "VDI": [CODE, "VDI", "ref"],
        "SR": [CODE, "SR", "ref", "scan"],
        "host": [CODE, "host", "ref", "evacuate"],
    }


def test_later_releases_tell_all_of_every_class(newest: Make) -> None:
    """Of devices all operations at once, in braces, the newest first."""
    c = newest(vms=6)
    assert c.pool.store.release.order >= busy.TELLS_ALL
    assert refusals(c) == {
        "VM": [CODE, "VM", "ref", "suspend", "t"],
        "VIF": [CODE, "VIF", "ref", "{attach; plug}", "{t2; t1}"],
        "VDI": [CODE, "VDI", "ref", "resize", "t"],
        "SR": [CODE, "SR", "ref", "scan", "t"],
        "host": [CODE, "host", "ref", "evacuate", "t"],
    }
