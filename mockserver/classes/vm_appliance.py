"""Appliances: VMs that start in the order of `VM.order`, those of one order together, and stop in the opposite one."""

from __future__ import annotations

from itertools import groupby
from typing import Any

from .. import placement, subtasks
from ..appliances import refused, vms_of
from ..call import Call, Steps, refuse
from ..holding import Marked, assert_free
from ..licence import assert_enabled
from ..store import Row
from . import verbs_of
from .generic import make

verb = verbs_of("VM_appliance")

MARKS = ("current_operations",)


@verb("*")
def create(call: Call, args: dict[str, Any]) -> str:
    return make(call, "VM_appliance", args).ref


@verb("*")
def destroy(call: Call, ref: str) -> str:
    """The appliance; its VMs stay, and go on to name it."""
    call.db.delete(call.db.get("VM_appliance", ref))
    return ""


@verb(*MARKS)
def start(call: Call, ref: str, paused: bool) -> Steps:
    assert_enabled(call, "VM_appliance_start")
    row = call.db.get("VM_appliance", ref)
    yield from _perform(call, row, "start", "Paused" if paused else "Running", paused, False)
    return ""


@verb(*MARKS)
def clean_shutdown(call: Call, ref: str) -> Steps:
    yield from _perform(call, call.db.get("VM_appliance", ref), "clean_shutdown", "Halted")
    return ""


@verb(*MARKS)
def hard_shutdown(call: Call, ref: str) -> Steps:
    yield from _perform(call, call.db.get("VM_appliance", ref), "hard_shutdown", "Halted")
    return ""


@verb(*MARKS)
def shutdown(call: Call, ref: str) -> Steps:
    yield from _perform(call, call.db.get("VM_appliance", ref), "shutdown", "Halted")
    return ""


def _perform(call: Call, appliance: Row, name: str, state: str, *args: Any) -> Steps:
    """Do `VM.name` to every VM that is not in `state`, one order after another; those that refuse do not stop the rest."""
    assert_free(call, appliance, name, refused)
    with Marked(call, appliance, name):
        targets = [vm for vm in vms_of(call.db, appliance) if vm["power_state"] != state]
        targets.sort(key=_order, reverse=name != "start")
        for _, together in groupby(targets, key=_order):
            tasks = [subtasks.start(call, f"VM.{name}", vm.ref, *args) for vm in together]
            yield from subtasks.wait(call, tasks)
        failed = [vm.ref for vm in targets if vm["power_state"] != state]
        if failed:
            raise refuse("OPERATION_PARTIALLY_FAILED", f"VM_appliance.{name}", *failed)


def _order(vm: Row) -> int:
    return int(vm["order"])


# --- recovery from another pool's metadata


def _required(call: Call, vm: Row) -> list[Row]:
    return [call.db.get("SR", ref) for ref in placement.required_srs(call.db, vm)]


def _attached(call: Call, sr: Row) -> bool:
    return any(call.db.get("PBD", pbd)["currently_attached"] for pbd in sr["PBDs"])


@verb()
def assert_can_be_recovered(call: Call, ref: str, session_to: str) -> str:
    call.db.get("session", session_to)
    for vm in vms_of(call.db, call.db.get("VM_appliance", ref)):
        for sr in _required(call, vm):
            if not _attached(call, sr):
                raise refuse("VM_REQUIRES_SR", vm.ref, sr.ref)
    return ""


@verb()
def get_SRs_required_for_recovery(call: Call, ref: str, session_to: str) -> list[str]:
    call.db.get("session", session_to)
    vms = vms_of(call.db, call.db.get("VM_appliance", ref))
    missing = [sr.ref for vm in vms for sr in _required(call, vm) if not _attached(call, sr)]
    return list(dict.fromkeys(missing))
