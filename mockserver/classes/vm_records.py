"""Virtual machines made and destroyed, and what may be done to them."""

from __future__ import annotations

from typing import Any

from .. import copies, power, rules
from ..call import Call, refuse
from ..checks import operation_refused
from ..holding import assert_free
from ..licence import assert_has_vendor_device
from ..store import EPOCH, NULL
from . import verbs_of
from .generic import make

verb = verbs_of("VM")

SUSPENDED = ("last_booted_record", "last_boot_CPU_flags", "suspend_VDI")
"""What must be known of a VM that is made as a suspended one; another has none of it."""


@verb("*", "VM_metrics.*")
def create(call: Call, args: dict[str, Any]) -> str:
    """A VM with metrics of its own. Its power state may be Halted or, since XenServer 8, Suspended; any other is taken for
    Halted."""
    if args.get("has_vendor_device"):
        assert_has_vendor_device(call)
    ref = call.pool.new_ref()
    suspended = args.get("power_state") == "Suspended" and call.at_least(rules.MAKES_SUSPENDED)
    if suspended and not all(args.get(field) and args[field] != NULL for field in SUSPENDED):
        raise refuse("VM_BAD_POWER_STATE", ref, "halted", "suspended")
    domain_type = args.get("domain_type", "unspecified")
    metrics = call.db.create(
        "VM_metrics",
        call.pool.new_ref(),
        {
            "uuid": call.pool.new_uuid(),
            "VCPUs_utilisation": {"0": 0.0},
            "start_time": EPOCH,
            "install_time": EPOCH,
            "last_updated": EPOCH,
            "current_domain_type": domain_type if suspended else "unspecified",
        },
    )
    more: dict[str, Any] = {
        "power_state": "Suspended" if suspended else "Halted",
        "domid": -1,
        "resident_on": NULL,
        "blocked_operations": {},
        "metrics": metrics.ref,
        "is_snapshot_from_vmpp": False,
        "is_vmss_snapshot": False,
        "snapshot_of": NULL,
        "parent": NULL,
        "protection_policy": NULL,
        "snapshot_schedule": NULL,
    }
    if not suspended:
        more.update(last_booted_record="", last_boot_CPU_flags={}, suspend_VDI=NULL)
    if domain_type == "unspecified":
        more["domain_type"] = "hvm" if args["HVM_boot_policy"] else "pv"
    seed = {"mac_seed": call.pool.new_uuid()} if "mac_seed" not in args["other_config"] else {}
    row = make(call, "VM", args, **more, other_config={**args["other_config"], **seed})
    power.settle_overhead(call, row)
    power.settle_hardware(call, row)
    return row.ref


@verb(*copies.ERASED)
def destroy(call: Call, ref: str) -> str:
    """The VM with its devices; its disks stay, and so does its suspend image. What was made from it is its parent's."""
    row = call.db.get("VM", ref)
    assert_free(call, row, "destroy", operation_refused)
    if row["other_config"].get("default_template") == "true":
        raise refuse("VM_CANNOT_DELETE_DEFAULT_TEMPLATE")
    copies.erase(call, row)
    if row.get("is_a_snapshot"):
        call.pool.guests.pop(row["uuid"], None)
    return ""


@verb()
def assert_operation_valid(call: Call, ref: str, op: str) -> str:
    refused = operation_refused(call.db, call.db.get("VM", ref), op)
    if refused is not None:
        raise refused
    return ""


@verb()
def update_allowed_operations(call: Call, ref: str) -> str:
    """The list is right already; it is made anew all the same."""
    call.pool.upkeep.renew("VM", call.db.get("VM", ref).ref)
    return ""
