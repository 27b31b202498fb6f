"""Updating a host: installing what it lacks, and what is to be done then."""

from __future__ import annotations

import json
from contextlib import suppress

from xenctl.errors import Failure

from .. import guests, hosts, repositories, updates
from ..call import Call, Steps, refuse
from ..checks import is_hvm
from ..licence import assert_enabled
from ..machine.update_repositories import COMPONENTS, Livepatch, Mirror, named
from ..pool_operations import operation
from ..software import installed
from ..store import Row
from . import verbs_of

verb = verbs_of("host")
repository_verb = verbs_of("Repository")

FIELDS = dict(zip(updates.KINDS, guests.GUIDANCES, strict=True))
"""The fields of hosts and VMs that hold guidance of each kind."""
FAILURES = {"xen": "reboot_host_on_xen_livepatch_failure", "kernel": "reboot_host_on_kernel_livepatch_failure"}
"""What is recommended for a component whose patch could not be applied."""
GUIDANCE = (*FIELDS.values(), *(f"VM.{field}" for field in FIELDS.values()))
EMPTIED = ("RebootHost", "EvacuateHost")
"""What must not be asked of a host on which guests run."""


@verb(
    *("enabled", "current_operations", "pool.current_operations", "last_software_update", "last_update_hash"),
    *("latest_synced_updates_applied", "software_version", *GUIDANCE),
)
def apply_updates(call: Call, ref: str, hash_: str) -> Steps:
    """Install what the master has synced, if it is what `hash_` says; returns an error for each livepatch that failed. The
    host takes no VMs any more, until what must be done is done."""
    host = call.db.get("host", ref)
    assert_enabled(call, "Updates")
    with operation(call, "apply_updates"):
        if call.db.pool()["ha_enabled"]:
            raise refuse("HA_IS_ENABLED")
        if host["enabled"]:
            call.db.write(host, enabled=False)
        with hosts.operation(call, host, "apply_updates"):
            warnings = yield from _install(call, host, hash_)
    call.db.write(
        host,
        last_software_update=call.clock.stamp(),
        latest_synced_updates_applied="yes",
        last_update_hash=hash_,
    )
    return warnings


def _install(call: Call, host: Row, digest: str) -> Steps:
    if host["pending_guidances"]:
        raise refuse("HOST_PENDING_MANDATORY_GUIDANCE_NOT_EMPTY", host.ref)
    repository = repositories.of_updates(call.db)
    if not digest or digest != repository["hash"]:
        raise refuse("UPDATEINFO_HASH_MISMATCH")
    mirror = repositories.mirror(call.pool, repository)
    everywhere = _asked_of_the_pool(call, host, mirror)
    lacked = repositories.lacking(call.pool, host, mirror)
    warnings: list[list[str]] = []
    if not lacked.empty:
        guidance = lacked.guidance()
        if set(EMPTIED) & set(guidance["mandatory"]) and hosts.guests_of(call.db, host):
            raise refuse("HOST_EVACUATION_IS_REQUIRED", host.ref)
        yield from install_packages(call, host, lacked.packages)
        warnings = _patch(call, host, lacked.livepatches)
        _ask(call, host, guidance)
    for kind in everywhere:
        _ask_guests(call, FIELDS[kind])
    return warnings


def install_packages(call: Call, host: Row, packages: tuple[str, ...]) -> Steps:
    """Put packages on a host's disk. Raises `APPLY_UPDATES_FAILED` where it does not come to the end."""
    machine = hosts.contact(call.pool, host).machine
    xapi = machine.xapi
    yield call.pool.durations.patch
    if machine.xapi is not xapi:
        raise refuse("APPLY_UPDATES_FAILED", host.ref)
    machine.system.installed.update(dict(map(named, packages)))


# --- patching what runs


def _patch(call: Call, host: Row, patches: tuple[Livepatch, ...]) -> list[list[str]]:
    """Apply livepatches; returns an error for each that failed."""
    failed = [patch for patch in patches if not patch_running(call, host, patch)]
    done = {patch.component for patch in patches if patch not in failed}
    field = FIELDS["recommended"]
    before = [name for name in host[field] if name in FAILURES.values()]
    stay = [name for name in before if name not in {FAILURES[component] for component in done}]
    new = [FAILURES[patch.component] for patch in failed if FAILURES[patch.component] not in before]
    rest = [name for name in host[field] if name not in before or name in stay]
    call.db.write(host, **{field: [*new, *rest]})
    return [["APPLY_LIVEPATCH_FAILED", json.dumps(patch.record())] for patch in failed]


def patch_running(call: Call, host: Row, patch: Livepatch) -> bool:
    """Apply a livepatch to what runs on a host; whether it could be."""
    contact = hosts.contact(call.pool, host)
    machine = contact.machine
    if patch.broken or patch.base_build_id != machine.build_id(patch.component):
        return False
    machine.livepatches[patch.component] = patch
    _look_at(call, contact)
    return True


# --- what is to be done then


def _ask(call: Call, host: Row, guidance: dict[str, list[str]]) -> None:
    """Write down what a host asks for now, and its guests that have a device model."""
    for kind, field in FIELDS.items():
        asked = [updates.PENDING[name] for name in guidance[kind] if name in updates.PENDING]
        mine = [name for name in asked if name in ("reboot_host", "restart_toolstack")]
        call.db.write(host, **{field: _with(host[field], mine)})
        for vm in hosts.guests_of(call.db, host) if "restart_device_model" in asked else ():
            if is_hvm(vm) and vm["power_state"] != "Suspended":
                call.db.write(vm, **{field: _with(vm[field], ["restart_device_model"])})


def _with(before: list[str], names: list[str]) -> list[str]:
    return [*(name for name in names if name not in before), *before]


def _asked_of_the_pool(call: Call, host: Row, mirror: Mirror) -> list[str]:
    """The kinds in which some host that answers asks for guests to be restarted: asked when the master is updated, of all
    guests."""
    if host.ref != call.db.pool()["master"]:
        return []
    asked: set[str] = set()
    for row in call.db.table("host").values():
        with suppress(Failure):
            guidance = repositories.lacking(call.pool, row, mirror).guidance()
            asked |= {kind for kind in FIELDS if "RestartVM" in guidance[kind]}
    return [kind for kind in FIELDS if kind in asked]


def _ask_guests(call: Call, field: str) -> None:
    for vm in call.db.table("VM").values():
        if vm["power_state"] != "Halted" and not vm["is_control_domain"]:
            call.db.write(vm, **{field: _with(vm[field], ["restart_vm"])})


@verb("pending_guidances")
def emergency_clear_mandatory_guidance(call: Call) -> str:
    """Nothing need be done with this host any more."""
    row = call.pool.host_row(call.machine)
    if row is not None:
        call.db.write(row, pending_guidances=[])
    return ""


@verb("software_version")
def refresh_pack_info(call: Call, host: str) -> str:
    """Ask the host again what is installed on it."""
    contact = hosts.reached(call, host)
    _look_at(call, contact)
    return ""


def _look_at(call: Call, contact: hosts.Contact) -> None:
    """Write down the software that a host has."""
    told = installed(contact.machine.system, contact.host["software_version"], booted=False)
    for component, patch in contact.machine.livepatches.items():
        told[f"{component}_livepatches"] = f"lp_{patch.base}-{patch.to}"
    call.db.write(contact.host, software_version=told)


# --- parts of it, which the master asks of the host


@repository_verb()
def apply(call: Call, host: str) -> Steps:
    """Install every package that the host lacks, and nothing more."""
    row = call.db.get("host", host)
    mirror = repositories.mirror(call.pool, repositories.of_updates(call.db))
    yield from install_packages(call, row, repositories.lacking(call.pool, row, mirror).packages)
    return ""


@repository_verb("host.software_version")
def apply_livepatch(
    call: Call,
    host: str,
    component: str,
    base_build_id: str,
    base_version: str,
    base_release: str,
    to_version: str,
    to_release: str,
) -> str:
    """Apply a patch that is among those of the synced updates."""
    row = call.db.get("host", host)
    if component.lower() not in COMPONENTS:
        raise refuse("INTERNAL_ERROR", f"Invalid component name '{component}'")
    mirror = repositories.mirror(call.pool, repositories.of_updates(call.db))
    wanted = (component.lower(), base_build_id, f"{base_version}-{base_release}", f"{to_version}-{to_release}")
    for patch in (patch for update in mirror.updates for patch in update.livepatches):
        if (patch.component, patch.base_build_id, patch.base, patch.to) == wanted:
            if not patch_running(call, row, patch):
                raise refuse("APPLY_LIVEPATCH_FAILED", json.dumps(patch.record()))
            return ""
    raise refuse("INTERNAL_ERROR", f"No expected livepatch file for {component}")
