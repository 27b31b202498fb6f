"""Whether an operation may be done to a VM, and on which host: the checks that several verbs share, in xapi's order."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from xenctl import memory
from xenctl.errors import Failure

from . import rules
from .call import Call, refuse
from .store import NULL, Row, Store

if TYPE_CHECKING:
    from .pool import MockPool


def operation_refused(store: Store, vm: Row, operation: str) -> Failure | None:
    """The first reason why `operation` may not be done to `vm`, as an error; None where it may."""
    release = store.release
    blocked = vm.get("blocked_operations", {})
    if operation in blocked:
        return refuse("OPERATION_BLOCKED", vm.ref, blocked[operation])
    legal = rules.power_states(operation, release)
    if vm["power_state"] not in legal:
        expected = ", ".join(state.lower() for state in legal)
        return refuse("VM_BAD_POWER_STATE", vm.ref, expected, vm["power_state"].lower())
    current = vm["current_operations"]
    if current and not (operation == "hard_shutdown" and "hard_shutdown" not in current.values()):
        if release.order <= rules.GEORGE:
            names = ",".join(current.values())
            return refuse("OTHER_OPERATION_IN_PROGRESS", f"VM.{names}", vm.ref)
        task, name = next(iter(current.items()))
        return refuse("OTHER_OPERATION_IN_PROGRESS", "VM", vm.ref, name, task)
    if vm["is_a_template"] and operation not in rules.TEMPLATE_OPERATIONS:
        return refuse("VM_IS_TEMPLATE", vm.ref, operation)
    if operation == "provision" and not vm["is_a_template"]:
        return refuse("PROVISION_ONLY_ALLOWED_ON_TEMPLATE")
    if vm["is_control_domain"] and operation not in rules.DOM0_OPERATIONS:
        return refuse("OPERATION_NOT_ALLOWED", "This operation is not allowed on a control domain")
    if operation in ("suspend", "pool_migrate", "clean_shutdown", "clean_reboot"):
        lacking = drivers_lacking(store, vm)
        if lacking is not None:
            return lacking
    if release.order >= rules.BOSTON and rules.upgrading(store) and operation not in rules.UPGRADE_OPERATIONS:
        return refuse("NOT_SUPPORTED_DURING_UPGRADE")
    return None


def drivers_lacking(store: Store, vm: Row) -> Failure | None:
    """The error for a running HVM guest whose drivers cannot suspend, migrate or shut down cleanly."""
    if not vm["HVM_boot_policy"]:
        return None
    metrics = store.find("VM_guest_metrics", vm["guest_metrics"])
    major = metrics["PV_drivers_version"].get("major", "") if metrics is not None else ""
    if not major.isdigit():
        if store.release.order <= rules.GEORGE:
            return refuse("OPERATION_NOT_ALLOWED", "This operation cannot be performed without PV drivers")
        return refuse("VM_MISSING_PV_DRIVERS", vm.ref)
    if int(major) < 4:
        return refuse("VM_OLD_PV_DRIVERS", vm.ref, major, metrics["PV_drivers_version"].get("minor", "0"))
    return None


def allowed_operations(store: Store, vm: Row) -> list[str]:
    """What may be done to `vm` now."""
    allowed = [name for name in rules.ADVERTISED if operation_refused(store, vm, name) is None]
    if rules.upgrading(store):
        allowed = [name for name in allowed if name in rules.UPGRADE_OPERATIONS]
    return allowed


@contextmanager
def operation(call: Call, vm: Row, name: str) -> Iterator[None]:
    """Hold `vm` for an operation: checked, shown in `current_operations`, and allowed operations recomputed after."""
    store, pool = call.db, call.pool
    refused = operation_refused(store, vm, name)
    if refused is not None:
        raise refused
    store.write(vm, current_operations={**vm["current_operations"], call.task: name})
    pool.refresh_operations(vm)
    try:
        yield
    finally:
        if pool.store is store and vm.ref in store.table("VM"):
            rest = {task: op for task, op in vm["current_operations"].items() if task != call.task}
            store.write(vm, current_operations=rest)
            pool.refresh_operations(vm)


def live(pool: MockPool, host: Row) -> bool:
    """Whether the master thinks `host` lives."""
    metrics = pool.store.find("host_metrics", host["metrics"])
    return metrics is not None and bool(metrics["live"])


def assert_can_boot_here(pool: MockPool, vm: Row, host: Row, *, enough_memory: bool = True) -> None:
    """Raise the first reason why `vm` cannot run on `host`."""
    store, release = pool.store, pool.store.release
    if not live(pool, host):
        raise refuse("HOST_NOT_LIVE") if release.order >= rules.BOSTON else refuse("HOST_OFFLINE", host.ref)
    if not host["enabled"] and not vm["is_control_domain"]:
        raise refuse("HOST_DISABLED", host.ref)
    for sr in required_srs(store, vm):
        if not any(_plugged(store, ref, host) for ref in store.get("SR", sr)["PBDs"]):
            raise refuse("VM_REQUIRES_SR", vm.ref, sr)
    for ref in vm["VIFs"]:
        vif = store.find("VIF", ref)
        network = store.find("network", vif["network"]) if vif is not None else None
        if network is not None and network["PIFs"] and not _has_pif(store, network, host):
            raise refuse("VM_REQUIRES_NETWORK", vm.ref, network.ref)
    if vm["HVM_boot_policy"] and not any("hvm" in capability for capability in host["capabilities"]):
        raise refuse("VM_HVM_REQUIRED", vm.ref)
    if enough_memory:
        needed, free = memory.needed(vm, release), rules.memory_free(store, host, besides=vm.ref)
        if needed > free:
            order = (free, needed) if release.order <= rules.GEORGE else (needed, free)
            raise refuse("HOST_NOT_ENOUGH_FREE_MEMORY", *order)


def required_srs(store: Store, vm: Row) -> Iterable[str]:
    """The storage repositories that `vm` needs to run: those of its disks, CDs, and its suspend image."""
    vdis = [
        vbd["VDI"] for vbd in (store.find("VBD", ref) for ref in vm["VBDs"]) if vbd is not None and not vbd["empty"]
    ]
    if vm["power_state"] == "Suspended":
        vdis.append(vm["suspend_VDI"])
    rows = (store.find("VDI", ref) for ref in vdis)
    return dict.fromkeys(row["SR"] for row in rows if row is not None and store.find("SR", row["SR"]) is not None)


def _plugged(store: Store, pbd: str, host: Row) -> bool:
    row = store.find("PBD", pbd)
    return row is not None and row["host"] == host.ref and bool(row["currently_attached"])


def _has_pif(store: Store, network: Row, host: Row) -> bool:
    return any(pif is not None and pif["host"] == host.ref for pif in (store.find("PIF", p) for p in network["PIFs"]))


def choose_host(pool: MockPool, vm: Row) -> Row:
    """The host on which a start or resume puts `vm`: its affinity if it can, else the one with most memory free. Raises
    `NO_HOSTS_AVAILABLE`."""
    store, possible = pool.store, []
    for host in store.table("host").values():
        if rules.placing_refused(store, host):
            continue
        try:
            assert_can_boot_here(pool, vm, host)
        except Failure:
            continue
        possible.append(host)
    if not possible:
        raise refuse("NO_HOSTS_AVAILABLE")
    home = [host for host in possible if host.ref == vm["affinity"]]
    return home[0] if home else max(possible, key=lambda host: rules.memory_free(store, host))


def host_named(call: Call, ref: str, vm: Row) -> Row:
    """The host that a call names for `vm`, checked for versions before everything else as xapi does."""
    host = call.db.get("host", ref)
    if rules.placing_refused(call.db, host):
        raise refuse("NOT_SUPPORTED_DURING_UPGRADE")
    return host


__all__ = ["NULL", "allowed_operations", "assert_can_boot_here", "choose_host", "operation", "operation_refused"]
