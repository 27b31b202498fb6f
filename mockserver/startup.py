"""What a host's toolstack does when it starts and stops: roles, emergency mode, and bringing belief and machine together.

A master loads the database of its own disk, brings it up to its release, forgets what is not persistent, and writes down
what it finds out about itself. A member knows nothing until it has spoken to the master: until then it is in emergency
mode and answers every other call with the reason. When the master comes back, members greet it again and are disabled
and enabled anew, as a restart of their own would.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from xenctl.releases import find

from . import rules
from .store import NULL, Store

if TYPE_CHECKING:
    from .machine.host import HostMachine
    from .pool import MockPool
    from .store import Row

NILE = find("8.4.0").order


@dataclass
class Xapi:
    """The toolstack of one host. `mode` is `down`, `emergency`, `member` or `master`; `error` is what emergency mode
    answers with."""

    mode: str = "down"
    error: list[str] = field(default_factory=lambda: ["HOST_STILL_BOOTING"])
    local_sessions: set[str] = field(default_factory=set)


def host_started(pool: MockPool, machine: HostMachine) -> None:
    """The operating system of `machine` is up: its toolstack starts."""
    machine.xapi = Xapi(mode="emergency")
    if machine.system.role == "master":
        start_master(pool, machine)
        return
    pool.clock.after(2.0, lambda: join(pool, machine, machine.boots, booted=True))


def host_stopped(pool: MockPool, machine: HostMachine, clean: bool) -> None:
    """The toolstack of `machine` is gone. A clean stop tells the master; a crash is noticed when the beats stay away."""
    was = machine.xapi.mode
    if clean and pool.master_serves:
        shut_guests_down(pool, machine)
    machine.xapi = Xapi()
    if was == "master":
        for member in pool.machines:
            if member.xapi.mode == "member":
                member.xapi = Xapi(mode="emergency")
        return
    if was != "member":
        return
    boots = machine.boots

    def dead() -> None:
        if machine.boots == boots and machine.xapi.mode == "down" and pool.master_serves:
            set_live(pool.store, pool.host_row(machine), False)

    if clean:
        dead()
    else:
        pool.clock.after(pool.durations.assumed_dead, dead)


def shut_guests_down(pool: MockPool, machine: HostMachine) -> None:
    """What the stop of the control domain does to guests that were left on the host: they are shut down."""
    for uuid in list(machine.domains):
        found = pool.store.by_uuid.get(uuid)
        machine.domains.pop(uuid).end(pool.clock.now())
        if found:
            pool.force_halted(pool.store.get(*found))


def set_live(store: Store, host: Row | None, live: bool) -> None:
    """Write down whether the master thinks `host` lives."""
    metrics = store.find("host_metrics", host["metrics"]) if host is not None else None
    if metrics is not None:
        store.write(metrics, live=live)


def start_master(pool: MockPool, machine: HostMachine) -> None:
    """Load the database, bring it up to date, serve."""
    system = machine.system
    if system.database is None:
        assert system.saved is not None
        system.database = Store.load(system.saved, system.release)
    store = system.database
    pool.adopt_store(store)
    if store.release < system.release:
        store.upgrade(system.release)
    store.restart()
    pool.tasks_lost()
    host = pool.host_row(machine)
    assert host is not None
    for row in store.table("host").values():
        ensure_metrics(pool, row)
    store.write(store.pool(), master=host.ref)
    synchronise(pool, machine, host)
    set_live(store, host, True)
    for vm in store.table("VM").values():
        store.write(vm, scheduled_to_be_resident_on=NULL)
    machine.xapi.mode = "master"
    pool.detect_rolling_upgrade()
    for row in store.table("VM").values():
        pool.refresh_operations(row)
    boots = machine.boots
    pool.clock.after(pool.durations.storage_plug, lambda: settle_host(pool, machine, boots, plug=True))
    for member in pool.machines:
        if member is not machine and member.state == "running":
            pool.clock.after(
                pool.durations.member_retry, lambda m=member, b=member.boots: join(pool, m, b, booted=False)
            )


def ensure_metrics(pool: MockPool, host: Row) -> None:
    """Give `host` a metrics row where it has none; up to 5.5 these did not outlive a restart."""
    store = pool.store
    if store.find("host_metrics", host["metrics"]) is not None:
        return
    machine = pool.machine_of(host)
    total = machine.memory if machine else int(host["boot_free_mem"])
    ref = pool.new_ref()
    fields = {
        "uuid": pool.new_uuid(),
        "memory_total": total,
        "memory_free": rules.memory_free(store, host),
        "live": False,
        "last_updated": pool.clock.stamp(),
    }
    store.create("host_metrics", ref, fields)
    store.write(host, metrics=ref)


def join(pool: MockPool, machine: HostMachine, boots: int, *, booted: bool) -> None:
    """A member greets the master. Refused or unanswered, it stays in emergency mode and tries again."""
    if machine.boots != boots or machine.state != "running" or machine.xapi.mode == "member":
        return
    if not pool.master_serves:
        return
    store = pool.store
    host = pool.host_row(machine)
    if host is None:
        machine.xapi.error = ["HOST_UNKNOWN_TO_MASTER", machine.system.installation_uuid]
        return
    if machine.system.release > store.release:
        if store.release.order >= NILE:
            version = rules.software_version(machine.system.release)["xapi"]
            machine.xapi.error = ["HOST_XAPI_VERSION_HIGHER_THAN_COORDINATOR", version]
        return
    ensure_metrics(pool, host)
    store.write(host, enabled=False, address=machine.address)
    set_live(store, host, True)
    synchronise(pool, machine, host)
    machine.xapi.mode = "member"
    plug = pool.durations.storage_plug if booted else 2.0
    pool.clock.after(plug, lambda: settle_host(pool, machine, boots, plug=booted))


def synchronise(pool: MockPool, machine: HostMachine, host: Row) -> None:
    """The host part of the start-up: the host writes down its version, memory and control domain."""
    store, release = pool.store, machine.system.release
    store.write(
        host,
        software_version=rules.software_version(release),
        API_version_major=release.api_version[0],
        API_version_minor=release.api_version[1],
        address=machine.address,
        hostname=host["hostname"] or machine.name,
        boot_free_mem=machine.memory,
        other_config={
            **host["other_config"],
            "boot_time": f"{pool.clock.now():.0f}.",
            "agent_start_time": f"{pool.clock.now():.0f}.",
        },
    )
    metrics = store.find("host_metrics", host["metrics"])
    if metrics is not None:
        store.write(metrics, memory_total=machine.memory, last_updated=pool.clock.stamp())
    for vm in list(store.table("VM").values()):
        if vm["resident_on"] == host.ref or vm["uuid"] in machine.domains:
            resynchronise(pool, machine, host, vm)
    machine.system.new = False
    pool.clock.after(pool.durations.garbage_collection, pool.detect_rolling_upgrade)


def resynchronise(pool: MockPool, machine: HostMachine, host: Row, vm: Row) -> None:
    """Bring what the database says of a VM on this host into line with the domains that run."""
    store = pool.store
    domain = machine.domains.get(vm["uuid"])
    if vm["is_control_domain"]:
        store.write(vm, power_state="Running", resident_on=host.ref)
    elif domain is None and vm["power_state"] in ("Running", "Paused"):
        pool.force_halted(vm)
    elif domain is not None and vm["resident_on"] not in (host.ref, NULL):
        domain.end(pool.clock.now())
        del machine.domains[vm["uuid"]]
    elif domain is not None:
        state = "Running" if domain.running else "Paused"
        store.write(vm, power_state=state, resident_on=host.ref, domid=domain.domid)


def settle_host(pool: MockPool, machine: HostMachine, boots: int, *, plug: bool) -> None:
    """Storage is plugged and the host enabled: the end of a start."""
    if machine.boots != boots or machine.xapi.mode not in ("master", "member") or not pool.master_serves:
        return
    host = pool.host_row(machine)
    if host is None:
        return
    if plug:
        for ref in host["PBDs"]:
            pool.store.write(pool.store.get("PBD", ref), currently_attached=True)
    pool.store.write(host, enabled=True)
