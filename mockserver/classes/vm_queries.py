"""What virtual machines tell of themselves, and what is asked of the software in them."""

from __future__ import annotations

from typing import Any

from xenctl.datamodel import load
from xenctl.errors import Failure

from .. import power, vm_rules
from ..block_devices import free, has_drivers
from ..call import Call, refuse
from ..checks import operation, operation_refused
from ..data_sources import of_guest
from ..placement import ocaml_float
from ..power import MARKS
from ..rules import DUNDEE
from ..store import Row
from . import verbs_of

MORE_INTERFACES = load().order("25.29.0")
verb = verbs_of("VM")

# --- free devices


@verb()
def get_allowed_VBD_devices(call: Call, vm: str) -> list[str]:
    """The numbers that a new block device may have."""
    return free(call.pool, call.db.get("VM", vm))


@verb()
def get_allowed_VIF_devices(call: Call, vm: str) -> list[str]:
    """The numbers that a new network interface may have: 7 of them, up to 6.5 4 without drivers, and 16 since the
    toolstack's version 25.29."""
    row = call.db.get("VM", vm)
    limit = 16 if call.at_least(MORE_INTERFACES) else 7 if call.at_least(DUNDEE) or has_drivers(call.db, row) else 4
    vifs = (call.db.find("VIF", ref) for ref in row["VIFs"])
    used = {vif["device"] for vif in vifs if vif is not None}
    return [str(number) for number in range(limit) if str(number) not in used]


# --- records and measurements


@verb(*MARKS)
def get_boot_record(call: Call, ref: str) -> dict[str, Any]:
    """What the VM was like when it booted; since the database holds changes apart, what it is like."""
    row = call.db.get("VM", ref)
    with operation(call, row, "get_boot_record"):
        return call.db.record(row)


@verb(*MARKS)
def get_data_sources(call: Call, ref: str) -> list[dict[str, Any]]:
    row = call.db.get("VM", ref)
    with operation(call, row, "data_source_op"):
        return of_guest(call.pool, row, power.contact(call, row).machine).records()


@verb(*MARKS)
def record_data_source(call: Call, ref: str, data_source: str) -> str:
    _switch(call, ref, data_source, on=True)
    return ""


@verb(*MARKS)
def forget_data_source_archives(call: Call, ref: str, data_source: str) -> str:
    """Drop what was recorded; nothing more is, until somebody asks for it again."""
    _switch(call, ref, data_source, on=False)
    return ""


def _switch(call: Call, ref: str, name: str, *, on: bool) -> None:
    row = call.db.get("VM", ref)
    with operation(call, row, "data_source_op"):
        since = of_guest(call.pool, row, power.contact(call, row).machine).switch(name, on=on)
        guest = call.pool.guest(row)
        guest.sources = (*{**dict(guest.sources), name: since}.items(),)


@verb()
def query_data_source(call: Call, ref: str, data_source: str) -> float:
    row = call.db.get("VM", ref)
    if row["power_state"] not in ("Running", "Paused"):
        expected = "running;paused" if call.at_least(DUNDEE) else "running"
        raise refuse("VM_BAD_POWER_STATE", ref, expected, row["power_state"].lower())
    return of_guest(call.pool, row, power.contact(call, row).machine).query(data_source)


# --- what is asked of a guest

AGENT_PLUGIN = "guest-agent-operation"
SINCE_LAST = 10.0
"""Seconds that lie between two calls of the plugin for one VM."""
REMOTE_DESKTOP = {"request-rdp-on": "1", "request-rdp-off": "0"}


@verb(*MARKS, "VM_guest_metrics.other")
def call_plugin(call: Call, vm: str, plugin: str, fn: str, args: dict[str, str]) -> str:
    """Ask the agent of a guest. It can switch remote desktops on and off, if it says so; it runs no scripts here."""
    row = call.db.get("VM", vm)
    with operation(call, row, "call_plugin"):
        power.contact(call, row)
        if plugin != AGENT_PLUGIN:
            raise refuse("XENAPI_MISSING_PLUGIN", plugin)
        _assert_patient(call, row)
        if fn == "run-script":
            raise refuse("FEATURE_RESTRICTED")
        if fn not in REMOTE_DESKTOP:
            text = f'The requested fn "{fn}" could not be found in plugin "{plugin}".'
            raise refuse("XENAPI_PLUGIN_FAILURE", "failed to find fn", text, text)
        agent = call.db.find("VM_guest_metrics", row["guest_metrics"])
        if agent is None or agent["other"].get("feature-ts2", "0") in ("", "0"):
            why = "could not be executed for lack of guest agent control feature."
            text = f'The requested fn "{fn}" of plugin "{plugin}" {why}'
            raise refuse("XENAPI_PLUGIN_FAILURE", "failed to execute fn", text, text)
        call.db.write(agent, other={**agent["other"], "data-ts": REMOTE_DESKTOP[fn]})
    return ""


def _assert_patient(call: Call, vm: Row) -> None:
    """Raise where the plugin was called for this VM a moment ago, since 7.0."""
    guest, now = call.pool.guest(vm), call.clock.now()
    wait = guest.asked + SINCE_LAST - now
    if wait > 0 and call.at_least(DUNDEE):
        raise refuse("VM_CALL_PLUGIN_RATE_LIMIT", vm.ref, ocaml_float(SINCE_LAST), ocaml_float(wait))
    guest.asked = now


def _not_by_xapi(call: Call, vm: str, name: str) -> Failure:
    """The error that xapi itself gives for what it cannot do, after the checks of the operation."""
    refused = operation_refused(call.db, call.db.get("VM", vm), name)
    return refused or refuse("NOT_IMPLEMENTED", name)


@verb()
def send_sysrq(call: Call, vm: str, key: str) -> None:
    raise _not_by_xapi(call, vm, "send_sysrq")


@verb()
def send_trigger(call: Call, vm: str, trigger: str) -> None:
    raise _not_by_xapi(call, vm, "send_trigger")


@verb()
def query_services(call: Call, ref: str) -> None:
    raise _not_by_xapi(call, ref, "query_services")


# --- secure boot


@verb()
def get_secureboot_readiness(call: Call, ref: str) -> str:
    """Whether a guest could boot with its firmware checking signatures. Which certificates the firmware holds is not
    known here beyond whether it has any."""
    row = call.db.get("VM", ref)
    if row["HVM_boot_params"].get("firmware") != "uefi":
        return "not_supported"
    if not vm_rules.is_true(row["platform"].get("secureboot", "")):
        return "disabled"
    if "EFI-variables" not in row["NVRAM"]:
        return "first_boot"
    raise refuse("NOT_IMPLEMENTED", "VM.get_secureboot_readiness of a VM whose firmware has stored variables")


# --- recovery


@verb()
def assert_can_be_recovered(call: Call, ref: str, session_to: str) -> str:
    lacking = _lacking(call, ref, session_to)
    if lacking:
        raise refuse("VM_REQUIRES_SR", ref, lacking[0])
    return ""


@verb()
def get_SRs_required_for_recovery(call: Call, ref: str, session_to: str) -> list[str]:
    return _lacking(call, ref, session_to)


def _lacking(call: Call, ref: str, session_to: str) -> list[str]:
    """The storage of a VM's disks that is not plugged anywhere in the pool that `session_to` is of: this one."""
    row = call.db.get("VM", ref)
    if call.db.find("session", session_to) is None:
        raise refuse("SESSION_INVALID", session_to)
    vdis = (call.db.find("VDI", vbd["VDI"]) for vbd in call.pool.vbds(row) if vbd["type"] != "CD")
    srs = dict.fromkeys(vdi["SR"] for vdi in vdis if vdi is not None)
    rows = [sr for sr in (call.db.find("SR", ref) for ref in srs) if sr is not None and sr["content_type"] != "iso"]
    return [sr.ref for sr in rows if not any(_plugged(call, pbd) for pbd in sr["PBDs"])]


def _plugged(call: Call, pbd: str) -> bool:
    row = call.db.find("PBD", pbd)
    return row is not None and bool(row["currently_attached"])
