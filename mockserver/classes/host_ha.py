"""High availability on one host: what the master has each of them do, and what a person does who lost the others."""

from __future__ import annotations

from dataclasses import replace

from xenctl.errors import Failure

from .. import ha_monitor, hosts, liveset, storage_rules
from ..call import Call, Steps, Wait, refuse
from ..machine.ha import Settings
from ..machine.host import HostMachine
from ..store import Row
from . import verbs_of

verb = verbs_of("host")


# --- what the master has each host do; `pool.enable_ha` and `disable_ha` do the same


@verb("ha_statefiles")
def preconfigure_ha(call: Call, host: str, statefiles: list[str], metadata_vdi: str, generation: str) -> str:
    """Attach the disks, and remember them for each boot."""
    row = call.db.get("host", host)
    if "ha_statefiles" not in row:
        raise refuse("NOT_IMPLEMENTED", call.method)
    machine = hosts.contact(call.pool, row).machine
    files, metadata = [call.db.get("VDI", ref) for ref in statefiles], call.db.get("VDI", metadata_vdi)
    for vdi in (metadata, *files):
        _assert_holds_data(vdi)
    configure(call, row, machine, files, metadata)
    return ""


def _assert_holds_data(vdi: Row) -> None:
    if vdi["type"] == "cbt_metadata":
        raise storage_rules.wrong_type(vdi)


def configure(call: Call, host: Row, machine: HostMachine, files: list[Row], metadata: Row) -> None:
    """Let a host know the state file, and the disk with the database."""
    kept = [entry for entry in machine.system.static_vdis if entry[1] not in liveset.REASONS]
    new = [*((vdi["uuid"], liveset.STATEFILE) for vdi in files), (metadata["uuid"], liveset.METADATA)]
    machine.system.static_vdis = (*kept, *new)
    machine.system.ha = Settings(files[0]["uuid"], liveset.timeout(call.pool))
    call.db.write(host, ha_statefiles=[vdi.ref for vdi in files])


@verb()
def ha_join_liveset(call: Call, host: str) -> Steps:
    contact = hosts.reached(call, host)
    yield call.pool.durations.ha_join
    join(call, contact)
    return ""


def join(call: Call, contact: hosts.Contact) -> None:
    """Start the daemon of a host that was configured."""
    machine = contact.check()
    if liveset.join(call.pool, machine) is None:
        raise refuse(liveset.UNREACHABLE)
    settings = machine.system.ha
    if settings is not None:
        machine.system.ha = replace(settings, decides=True)
    ha_monitor.begin(machine)


@verb()
def ha_disable_failover_decisions(call: Call, host: str) -> str:
    """The host does not become master by itself, nor start VMs of lost hosts."""
    forbid_decisions(hosts.reached(call, host).machine)
    return ""


def forbid_decisions(machine: HostMachine) -> None:
    """Have a host not become master by itself, nor start VMs of lost hosts."""
    if machine.system.ha is not None:
        machine.system.ha = replace(machine.system.ha, decides=False)


@verb()
def ha_disarm_fencing(call: Call, host: str) -> str:
    """The host does not reset itself any more, whatever it loses."""
    machine = hosts.reached(call, host).machine
    if machine.ha_daemon:
        machine.ha_daemon = "disarmed"
    return ""


@verb()
def ha_stop_daemon(call: Call, host: str) -> str:
    """The host lives on without being watched; where it is to be, the daemon starts with the next boot."""
    liveset.leave(call.pool, hosts.reached(call, host).machine)
    return ""


@verb()
def ha_release_resources(call: Call, host: str) -> str:
    """The disks are detached, and nothing starts with the next boot."""
    liveset.disarm(call.pool, hosts.reached(call, host).machine)
    return ""


@verb()
def ha_wait_for_shutdown_via_statefile(call: Call, host: str) -> Steps:
    """Until the host has read on the state file that it is over. Raises `HA_LOST_STATEFILE` where it cannot read it."""
    pool, contact = call.pool, hosts.reached(call, host)
    machine = contact.machine
    while machine.ha_daemon:
        if not liveset.reaches(pool, machine):
            raise refuse("HA_LOST_STATEFILE")
        lost = Wait(
            call.clock.now() + 86400.0,
            lambda: not machine.ha_daemon or not liveset.reaches(pool, machine),
            idle=False,
        )
        yield lost
        contact.check()
    return ""


# --- disks that are there from the start


@verb()
def attach_static_vdis(call: Call, host: str, vdi_reason_map: dict[str, str]) -> str:
    """Attach disks now and before each start of the toolstack."""
    machine = hosts.reached(call, host).machine
    disks = {ref: call.db.get("VDI", ref) for ref in vdi_reason_map}
    for vdi in disks.values():
        _assert_holds_data(vdi)
    attach(machine, {disks[ref]["uuid"]: reason for ref, reason in vdi_reason_map.items()})
    return ""


def attach(machine: HostMachine, reasons: dict[str, str]) -> None:
    """Attach disks, by their uuids, that are not yet."""
    known = {uuid for uuid, _ in machine.system.static_vdis}
    new = ((uuid, reason) for uuid, reason in reasons.items() if uuid not in known)
    machine.system.static_vdis = (*machine.system.static_vdis, *new)


@verb()
def detach_static_vdis(call: Call, host: str, vdis: list[str]) -> str:
    machine = hosts.reached(call, host).machine
    detach(machine, {call.db.get("VDI", ref)["uuid"] for ref in vdis})
    return ""


def detach(machine: HostMachine, uuids: set[str]) -> None:
    """Detach disks, by their uuids."""
    machine.system.static_vdis = tuple(entry for entry in machine.system.static_vdis if entry[0] not in uuids)


# --- what is asked of the host itself


@verb()
def emergency_ha_disable(call: Call, soft: bool) -> str:
    """The host that is called forgets high availability, whatever the pool says; a soft one is forgotten until it boots."""
    machine = call.machine
    if not machine.system.armed:
        if soft:
            return ""
        raise refuse("HA_NOT_ENABLED")
    liveset.leave(call.pool, machine, excluded=True)
    if not soft:
        liveset.disarm(call.pool, machine)
        liveset.start_again(call.pool, machine)
    return ""


@verb()
def ha_xapi_healthcheck(call: Call) -> bool:
    """What the daemon asks the toolstack: one that answers is well."""
    return True


@verb()
def local_assert_healthy(call: Call) -> str:
    """Raise why the host is in emergency mode, if it is."""
    if call.machine.xapi.mode not in ("master", "member"):
        raise Failure(call.machine.xapi.error)
    return ""
