"""Which hosts live, by the daemons of high availability: they agree on it through a state file on shared storage.

A host that loses its power is missing from the set some time later. A host that cannot reach the state file while others can
resets itself; where none can, all go on. Where the master is missing, one of the others becomes master by itself, with the
database as it was: the master wrote every change of it to a disk beside the state file.
"""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING

from .machine.ha import Settings, StateFile

if TYPE_CHECKING:
    from collections.abc import Iterator

    from .machine.host import HostMachine
    from .pool import MockPool
    from .store import Row

UNREACHABLE = "HA_HOST_CANNOT_ACCESS_STATEFILE"
"""The error of a host that was started and does not reach the state file."""
SHUT_OUT = "HA_POOL_IS_ENABLED_BUT_HOST_IS_DISABLED"
"""The error of a member that laid down its arms alone."""
STATEFILE, METADATA, REDO_LOG = "HA statefile", "HA metadata VDI", "general metadata VDI"
REASONS = (STATEFILE, METADATA)
"""Why disks are attached to a host for high availability."""
TIMEOUTS = (("ha_configuration", "timeout"), ("other_config", "default_ha_timeout"))
"""Where a pool may say after how many seconds a silent host is taken for dead; the first counts."""


# --- looking


def state_file(pool: MockPool, machine: HostMachine) -> StateFile | None:
    """The state file that a host was configured with; None where it was not."""
    settings = machine.system.ha
    return pool.storage.statefiles.get(settings.statefile) if settings is not None else None


def reaches(pool: MockPool, machine: HostMachine) -> bool:
    """Whether a host can read and write its state file."""
    settings = machine.system.ha
    found = pool.store.by_uuid.get(settings.statefile) if settings is not None else None
    vdi = pool.store.find(*found) if found is not None else None
    sr = pool.store.find("SR", vdi["SR"]) if vdi is not None else None
    return connected(machine, sr)


def connected(machine: HostMachine, sr: Row | None) -> bool:
    """Whether a host has a way to a storage repository, which must be known."""
    return sr is not None and sr["uuid"] not in machine.lost


def members(pool: MockPool, file: StateFile) -> Iterator[HostMachine]:
    """The hosts of the set, in the order of the machines."""
    return (machine for machine in pool.machines if machine.uuid in file.members)


def live(pool: MockPool, master: HostMachine) -> frozenset[str]:
    """The hosts that live, as the master's daemon says: references."""
    file = state_file(pool, master)
    rows = (pool.host_row(machine) for machine in members(pool, file)) if file is not None else ()
    return frozenset(row.ref for row in rows if row is not None)


def timeout(pool: MockPool) -> float:
    """Seconds after which a silent host is taken for dead."""
    for field, key in TIMEOUTS:
        told = pool.store.pool()[field].get(key, "")
        if told.isdigit():
            return float(told)
    return pool.durations.ha_timeout


def power_up(pool: MockPool) -> None:
    """Make the machines of a pool that was loaded agree with what it says of high availability: every host takes part. Where
    there is no state file any more, none does, and that is reported."""
    store, row = pool.store, pool.store.pool()
    log = store.find("VDI", row.get("redo_log_vdi", "")) if row.get("redo_log_enabled") else None
    if log is not None:
        pool.storage.replicas.add(log["uuid"])
    if not row.get("ha_enabled"):
        return
    statefile = next((vdi for vdi in (store.find("VDI", ref) for ref in row["ha_statefiles"]) if vdi is not None), None)
    if statefile is None:
        pool.reports.append("the pool has high availability, but no state file that is known; its hosts are not armed")
        return
    beside = (vdi for vdi in store.table("VDI").values() if vdi["SR"] == statefile["SR"])
    metadata = next((vdi["uuid"] for vdi in beside if vdi["type"] == "redo_log"), "")
    pool.storage.statefiles[statefile["uuid"]] = StateFile()
    if metadata:
        pool.storage.replicas.add(metadata)
    for machine in sorted(pool.machines, key=lambda machine: machine.system.role != "master"):
        machine.system.ha = Settings(statefile["uuid"], timeout(pool))
        disks = ((statefile["uuid"], STATEFILE), (metadata, METADATA))
        machine.system.static_vdis = tuple(entry for entry in disks if entry[0])
        join(pool, machine)
    pool.upkeep.replan = True


# --- joining and leaving


def join(pool: MockPool, machine: HostMachine) -> StateFile | None:
    """Start the daemon of a host that was configured: it takes part from now on. None where it does not reach the file."""
    settings, file = machine.system.ha, state_file(pool, machine)
    if settings is None or file is None or not reaches(pool, machine):
        return None
    machine.system.ha = replace(settings, armed=True)
    machine.ha_daemon = "fencing"
    file.members.add(machine.uuid)
    file.excluded.discard(machine.uuid)
    if machine.system.role == "master" and file.master not in file.members:
        file.master = machine.uuid
    return file


def leave(pool: MockPool, machine: HostMachine, *, excluded: bool = False) -> None:
    """Stop the daemon of a host: it lives on without being watched. One that is `excluded` says that it goes on purpose."""
    file, ran = state_file(pool, machine), bool(machine.ha_daemon)
    machine.ha_daemon = ""
    if file is None or not ran:
        return
    if excluded:
        file.excluded.add(machine.uuid)
    _missing(pool, machine, file)


def _missing(pool: MockPool, machine: HostMachine, file: StateFile) -> None:
    file.members.discard(machine.uuid)
    pool.upkeep.replan = True
    if file.master == machine.uuid:
        file.master = ""
        pool.clock.after(pool.durations.ha_monitor, partial(elect, pool, file))


def disarm(pool: MockPool, machine: HostMachine) -> None:
    """Let a host forget high availability: nothing starts with its next boot."""
    settings = machine.system.ha
    leave(pool, machine)
    machine.system.ha = None
    if settings is not None:
        machine.system.static_vdis = tuple(
            (vdi, reason) for vdi, reason in machine.system.static_vdis if reason not in REASONS
        )


def poison(pool: MockPool, file: StateFile) -> None:
    """Tell every host on the state file to lay down its arms; each does that reads it."""
    file.poisoned = True
    for machine in list(members(pool, file)):
        if reaches(pool, machine):
            machine.ha_daemon = ""
            file.members.discard(machine.uuid)


# --- what happens to machines


def stopped(pool: MockPool, machine: HostMachine, *, clean: bool) -> None:
    """The toolstack of a host is gone: with the host, or alone, and then the daemon starts it again."""
    file = state_file(pool, machine)
    if file is None or machine.uuid not in file.members:
        return
    settings, boots = machine.system.ha, machine.boots
    assert settings is not None
    if clean:
        leave(pool, machine, excluded=True)
    elif machine.state == "running":
        pool.clock.after(pool.durations.ha_healthcheck, partial(_restart_toolstack, pool, machine, boots))
    else:
        pool.clock.after(settings.timeout, partial(_silent, pool, machine, boots, file))


def _restart_toolstack(pool: MockPool, machine: HostMachine, boots: int) -> None:
    from . import startup

    if machine.boots == boots and machine.ha_daemon and machine.xapi.mode == "dead":
        startup.toolstack_restarted(pool, machine)


def _silent(pool: MockPool, machine: HostMachine, boots: int, file: StateFile) -> None:
    if machine.boots == boots and machine.uuid in file.members:
        _missing(pool, machine, file)


def storage_cut(pool: MockPool, machine: HostMachine) -> None:
    """A host lost its way to storage: if that was the state file, and others reach it, the host resets itself in time."""
    settings, boots = machine.system.ha, machine.boots
    if settings is not None and machine.ha_daemon and not reaches(pool, machine):
        pool.clock.after(settings.timeout, partial(_fence, pool, machine, boots))


def _fence(pool: MockPool, machine: HostMachine, boots: int) -> None:
    file = state_file(pool, machine)
    if file is None or machine.boots != boots or machine.ha_daemon != "fencing" or reaches(pool, machine):
        return
    pool.upkeep.replan = True
    if any(reaches(pool, other) for other in members(pool, file)):
        machine.fence()


def storage_back(pool: MockPool, machine: HostMachine) -> None:
    """A host found its way to storage again: if it waited for the state file, it starts."""
    pool.upkeep.replan = True
    start_again(pool, machine)


def start_again(pool: MockPool, machine: HostMachine) -> None:
    """Let a host go on that started and could not take part."""
    from . import startup

    if machine.state == "running" and machine.xapi.mode == "emergency" and machine.xapi.error[0] == UNREACHABLE:
        startup.host_started(pool, machine, booted=True)


# --- starting


def may_start(pool: MockPool, machine: HostMachine) -> bool:
    """What a toolstack that starts does first where high availability is armed: it takes part, and learns who is master.
    False where it cannot; then it waits in emergency mode."""
    settings = machine.system.ha
    if settings is None or not settings.armed:
        return True
    file = state_file(pool, machine)
    serving = next((other for other in pool.machines if other.xapi.mode == "master"), None)
    if file is None or (file.poisoned and reaches(pool, machine)) or _confirmed_off(pool, serving):
        disarm(pool, machine)
        if serving is not None:
            obey(machine, serving)
        return True
    if join(pool, machine) is None:
        machine.xapi.error = [UNREACHABLE]
        return False
    master = next((other for other in members(pool, file) if other.uuid == file.master), None)
    if master is None:
        pool.clock.after(pool.durations.ha_monitor, partial(elect, pool, file))
    elif master is not machine:
        obey(machine, master)
    pool.upkeep.replan = True
    return True


def _confirmed_off(pool: MockPool, serving: HostMachine | None) -> bool:
    """Whether a master says that the pool has no high availability."""
    return serving is not None and not pool.store.pool().get("ha_enabled")


def obey(machine: HostMachine, master: HostMachine) -> None:
    """Write into a host's role file that it is a member of `master`."""
    if machine is not master:
        machine.system.role, machine.system.database = f"slave:{master.address}", None


def shut_out(pool: MockPool, machine: HostMachine) -> bool:
    """Whether a member laid down its arms alone: it may not come back to a pool that has not."""
    return bool(pool.store.pool().get("ha_enabled")) and not machine.system.armed


def returned(pool: MockPool, machine: HostMachine) -> bool:
    """Whether a host that booted was reset, or lost its power, while the pool had high availability."""
    return bool(pool.store.pool().get("ha_enabled")) and not machine.stopped_cleanly


# --- a new master


def elect(pool: MockPool, file: StateFile) -> None:
    """Let the first host that may become master, where the set has none. While one serves that left the set it stays so: who
    starts as a second one finds it, and gives way."""
    if file.master in file.members or file.poisoned or pool.master_serves:
        return
    for machine in members(pool, file):
        settings = machine.system.ha
        able = machine.state == "running" and machine.xapi.mode in ("emergency", "member", "master")
        if able and settings is not None and settings.decides and reaches(pool, machine):
            file.master = machine.uuid
            take_over(pool, machine, file)
            return


def take_over(pool: MockPool, machine: HostMachine, file: StateFile) -> None:
    """Make a host the master, with the pool's database as it is; whoever had it keeps what it was."""
    from . import startup

    store = pool.store
    for other in pool.machines:
        if other is not machine and other.system.database is store:
            other.system.saved, other.system.database = store.dump(), None
    for other in members(pool, file):
        obey(other, machine)
    machine.system.role, machine.system.database = "master", store
    startup.host_started(pool, machine, booted=False)
