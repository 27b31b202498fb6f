"""Appliances: VMs that start and stop together, in an order."""

from __future__ import annotations

from typing import TYPE_CHECKING

from .busy import in_progress
from .call import refuse
from .store import Row, Store

if TYPE_CHECKING:
    from xenctl.errors import Failure

STATES = {
    "start": (frozenset({"Halted"}), "There are no halted VMs in this appliance."),
    "clean_shutdown": (frozenset({"Running"}), "There are no running VMs in this appliance."),
    "hard_shutdown": (frozenset({"Running", "Paused", "Suspended"}), "All VMs in this appliance are halted."),
    "shutdown": (frozenset({"Running", "Paused", "Suspended"}), "All VMs in this appliance are halted."),
}
"""By operation, the power states of which one VM at least must have one, and what xapi says where none has."""


def vms_of(store: Store, appliance: Row) -> list[Row]:
    """The VMs of an appliance."""
    return [vm for vm in (store.find("VM", ref) for ref in appliance["VMs"]) if vm is not None]


def refused(store: Store, appliance: Row, operation: str) -> Failure | None:
    """The first reason why `operation` may not be done to an appliance, as an error; None where it may."""
    if appliance["current_operations"]:
        task, name = next(iter(appliance["current_operations"].items()))
        return in_progress(store, "VM_appliance", appliance.ref, name, task)
    vms = vms_of(store, appliance)
    if not vms:
        return refuse("OPERATION_NOT_ALLOWED", "Appliance has no VMs.")
    states, reason = STATES[operation]
    return None if any(vm["power_state"] in states for vm in vms) else refuse("OPERATION_NOT_ALLOWED", reason)


def allowed_operations(store: Store, appliance: Row) -> list[str]:
    """What may be done to an appliance now."""
    return [name for name in STATES if refused(store, appliance, name) is None]
