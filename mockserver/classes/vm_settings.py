"""Settings of virtual machines that are checked, or that others follow from."""

from __future__ import annotations

from typing import Any

from .. import bios, failover_plan, placement, power, rules, volumes
from ..call import Call, refuse
from ..checks import operation
from ..licence import assert_enabled, assert_has_vendor_device
from ..power import MARKS
from ..storage_rules import TYPES_SPELLED
from ..store import NULL, Row
from . import verbs_of
from .vm_copies import assert_quiesces

verb = verbs_of("VM")

PROTECTION = (
    *("ha_restart_priority", "ha_always_run", "message.*"),
    *("pool.ha_overcommitted", "pool.ha_plan_exists_for"),
)
"""What a change of a VM's protection may write."""
PRIORITIES = ("", "restart", "best-effort")
PRIORITIES_THEN = ("", "0", "1", "2", "3", "best-effort")
"""Up to 5.6 the order of restarts was a priority, and protection a flag of its own."""
BOOT_ORDER = "BIOS order"
REFUSES_GROUPS = "Control domains, templates and snapshots cannot be assigned to appliances."
REFUSES_VM_GROUPS = "Control domains, templates, and snapshots cannot be added to VM groups."


def _assert_not_negative(name: str, value: int) -> None:
    if value < 0:
        raise refuse("INVALID_VALUE", f"{name} must be non-negative", value)


def _set_number(name: str) -> Any:
    def set_(call: Call, ref: str, value: int) -> str:
        row = call.db.get("VM", ref)
        _assert_not_negative(name, value)
        call.db.write(row, **{name: value})
        return ""

    set_.__name__ = f"set_{name}"
    return verb(name)(set_)


set_order, set_start_delay, set_shutdown_delay = map(_set_number, ("order", "start_delay", "shutdown_delay"))


# --- kind of domain


@verb("HVM_boot_policy", "domain_type")
def set_HVM_boot_policy(call: Call, ref: str, value: str) -> str:
    call.db.write(call.db.get("VM", ref), HVM_boot_policy=value, domain_type="hvm" if value else "pv")
    return ""


@verb("HVM_boot_policy", "domain_type")
def set_domain_type(call: Call, ref: str, value: str) -> str:
    row = call.db.get("VM", ref)
    if value == "unspecified":
        raise refuse("INVALID_VALUE", "domain_type", value)
    call.db.write(row, domain_type=value, HVM_boot_policy=BOOT_ORDER if value == "hvm" else "")
    return ""


@verb("has_vendor_device", "hardware_platform_version")
def set_has_vendor_device(call: Call, ref: str, value: bool) -> str:
    row = call.db.get("VM", ref)
    if value:
        assert_has_vendor_device(call)
    _assert_state(row, "Halted")
    call.db.write(row, has_vendor_device=value)
    power.settle_hardware(call, row)
    return ""


def _assert_state(vm: Row, *states: str) -> None:
    """Raise unless `vm` is in one of `states`, which this kind of error joins by semicolons."""
    if vm["power_state"] not in states:
        raise refuse("VM_BAD_POWER_STATE", vm.ref, ";".join(states).lower(), vm["power_state"].lower())


@verb("bios_strings")
def set_bios_strings(call: Call, ref: str, value: dict[str, str]) -> str:
    row = call.db.get("VM", ref)
    _assert_no_bios_strings(row)
    bios.assert_valid(value)
    call.db.write(row, bios_strings={**bios.GENERIC, **value})
    return ""


@verb("bios_strings", "affinity")
def copy_bios_strings(call: Call, vm: str, host: str) -> str:
    """The VM gets what its host's hardware says, and starts there where it can."""
    row = call.db.get("VM", vm)
    _assert_no_bios_strings(row)
    source = call.db.get("host", host)
    call.db.write(row, bios_strings=dict(source["bios_strings"]), affinity=host)
    return ""


def _assert_no_bios_strings(vm: Row) -> None:
    if vm["bios_strings"]:
        raise refuse("VM_BIOS_STRINGS_ALREADY_SET")


# --- memory of the firmware


@verb("NVRAM", *MARKS)
def set_NVRAM(call: Call, ref: str, value: dict[str, str]) -> str:
    row = call.db.get("VM", ref)
    with operation(call, row, "changing_NVRAM"):
        call.db.write(row, NVRAM=value)
    return ""


@verb("NVRAM", *MARKS)
def add_to_NVRAM(call: Call, ref: str, key: str, value: str) -> str:
    row = call.db.get("VM", ref)
    with operation(call, row, "changing_NVRAM"):
        if key in row["NVRAM"]:
            raise refuse("MAP_DUPLICATE_KEY", "VM", "NVRAM", ref, key)
        call.db.write(row, NVRAM={key: value, **row["NVRAM"]})
    return ""


@verb("NVRAM", *MARKS)
def remove_from_NVRAM(call: Call, ref: str, key: str) -> str:
    row = call.db.get("VM", ref)
    with operation(call, row, "changing_NVRAM"):
        call.db.write(row, NVRAM={name: value for name, value in row["NVRAM"].items() if name != key})
    return ""


@verb("NVRAM", "secureboot_certificates_state")
def set_NVRAM_EFI_variables(call: Call, ref: str, value: str, update: str) -> str:
    """What the firmware of a running VM writes, in any power state."""
    row = call.db.get("VM", ref)
    call.db.write(row, NVRAM={**row["NVRAM"], "EFI-variables": value})
    if update == "yes":
        call.db.write(row, secureboot_certificates_state="ok")
    return ""


@verb("secureboot_certificates_state")
def update_secureboot_certificates_on_boot(call: Call, ref: str, mark: bool) -> str:
    row = call.db.get("VM", ref)
    if row["secureboot_certificates_state"] not in ("update_available", "update_on_boot"):
        text = "update_on_boot: VM.secureboot_certificates_state is not in a valid state"
        raise refuse("OPERATION_NOT_ALLOWED", f"Cannot {'set' if mark else 'clear'} {text}")
    call.db.write(row, secureboot_certificates_state="update_on_boot" if mark else "update_available")
    return ""


# --- high availability


@verb(*PROTECTION)
def set_ha_restart_priority(call: Call, ref: str, value: str) -> str:
    """Since 6.0 a VM that runs is protected or not from that moment on; refused where that would break the failover plan."""
    row = call.db.get("VM", ref)
    now = call.at_least(rules.BOSTON)
    if value not in (PRIORITIES if now else PRIORITIES_THEN):
        raise refuse("INVALID_VALUE", "ha_restart_priority", value)
    if now and value == power.PROTECTED != row["ha_restart_priority"]:
        if row["power_state"] != "Halted":
            failover_plan.assert_can_protect(call.pool, row)
        if call.db.pool()["ha_enabled"]:
            failover_plan.update_status(call.pool)
    if row["ha_restart_priority"] != value:
        call.db.write(row, ha_restart_priority=value)
        if now and row["power_state"] == "Running":
            call.db.write(row, ha_always_run=value == power.PROTECTED)
    return ""


@verb(*PROTECTION)
def set_ha_always_run(call: Call, ref: str, value: bool) -> str:
    """Since 6.0 another way to say that a VM is protected."""
    if call.at_least(rules.BOSTON):
        return str(set_ha_restart_priority(call, ref, power.PROTECTED if value else ""))
    row = call.db.get("VM", ref)
    if value and not row["ha_always_run"]:
        failover_plan.assert_can_protect(call.pool, row)
    call.db.write(row, ha_always_run=value)
    if call.db.pool()["ha_enabled"]:
        failover_plan.update_status(call.pool)
    return ""


# --- what a VM belongs to


@verb("appliance")
def set_appliance(call: Call, ref: str, value: str) -> str:
    row = call.db.get("VM", ref)
    _assert_plain(row, REFUSES_GROUPS)
    call.db.write(row, appliance=value)
    return ""


def _members(call: Call, appliance: str) -> list[str]:
    row = call.db.find("VM_appliance", appliance)
    return list(row["VMs"]) if row is not None else []


def _assert_plain(vm: Row, text: str) -> None:
    if vm["is_control_domain"] or vm["is_a_template"] or vm["is_a_snapshot"]:
        raise refuse("OPERATION_NOT_ALLOWED", text)


@verb("groups")
def set_groups(call: Call, ref: str, value: list[str]) -> str:
    row = call.db.get("VM", ref)
    _assert_plain(row, REFUSES_VM_GROUPS)
    if len(value) > 1:
        raise refuse("TOO_MANY_GROUPS")
    call.db.write(row, groups=value)
    return ""


@verb("snapshot_schedule")
def set_snapshot_schedule(call: Call, ref: str, value: str) -> str:
    assert_enabled(call, "VMSS")
    row = call.db.get("VM", ref)
    schedule = _policy(call, row, "VMSS", value)
    if schedule is not None and schedule["type"] == "snapshot_with_quiesce":
        assert_enabled(call, "VSS")
        assert_quiesces(call, row)
    call.db.write(row, snapshot_schedule=value)
    return ""


@verb("protection_policy")
def set_protection_policy(call: Call, ref: str, value: str) -> str:
    """From 5.6 FP1 to 6.1; since then there are no such policies."""
    row = call.db.get("VM", ref)
    _policy(call, row, "VMPP", value)
    call.db.write(row, protection_policy=value)
    return ""


def _policy(call: Call, vm: Row, kind: str, ref: str) -> Row | None:
    """The policy or schedule that a VM is to have; None for none. Raises where there is none such, or none for this VM."""
    found = call.db.find(kind, ref)
    if found is None and ref not in (NULL, ""):
        raise refuse("INVALID_VALUE", ref)
    if found is not None and vm["is_control_domain"]:
        raise refuse("INVALID_VALUE", ref)
    if found is not None and vm["is_a_template"]:
        raise refuse("VM_IS_TEMPLATE", vm.ref)
    return found


# --- the suspend image, and where it runs


@verb("suspend_VDI")
def set_suspend_VDI(call: Call, ref: str, value: str) -> str:
    """Put another image in the place of a suspended VM's, which must hold the same."""
    row = call.db.get("VM", ref)
    _assert_state(row, "Suspended")
    image = call.db.get("VDI", value)
    if image["type"] == "cbt_metadata":
        raise refuse("VDI_INCOMPATIBLE_TYPE", ref, TYPES_SPELLED["cbt_metadata"])
    old = call.db.get("VDI", row["suspend_VDI"])
    if old is image:
        return ""
    placement.assert_seen(call, row, image["SR"], image=False)
    sums = [volumes.content(call, vdi).digest() for vdi in (old, image)]
    if sums[0] != sums[1]:
        told = [f"{vdi['uuid']} : {digest}" for vdi, digest in zip((old, image), sums, strict=True)]
        raise refuse("SUSPEND_VDI_REPLACEMENT_IS_NOT_IDENTICAL", *told)
    call.db.write(row, suspend_VDI=value)
    return ""


@verb("resident_on", "scheduled_to_be_resident_on")
def atomic_set_resident_on(call: Call, vm: str, host: str) -> str:
    """What a host tells the master as soon as a VM's domain is there, so that nobody counts its memory twice."""
    call.db.get("host", host)
    call.db.write(call.db.get("VM", vm), resident_on=host, scheduled_to_be_resident_on=NULL)
    return ""


@verb("blobs", "blob.*")
def create_new_blob(call: Call, vm: str, name: str, mime_type: str, public: bool) -> str:
    row = call.db.get("VM", vm)
    if name in row["blobs"]:
        raise refuse("MAP_DUPLICATE_KEY", "VM", "blobs", vm, name)
    fields = {
        "uuid": call.pool.new_uuid(),
        "mime_type": mime_type or "application/octet-stream",
        "public": public,
        "size": 0,
        "last_updated": call.clock.stamp(),
    }
    blob = call.db.create("blob", call.pool.new_ref(), fields)
    call.db.write(row, blobs={name: blob.ref, **row["blobs"]})
    return blob.ref
