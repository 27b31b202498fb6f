"""What a host's toolstack does when it starts and stops: roles, emergency mode, and bringing belief and machine together.

A master loads the database of its own disk, brings it up to its release, forgets what is not persistent, and writes down
what it finds out about itself. A member knows nothing until it has spoken to the master: until then it is in emergency
mode and answers every other call with the reason. When the master goes, the members' toolstacks fall into emergency mode
by starting anew; when it comes back, they greet it again and are disabled and enabled anew.

A toolstack is one `Xapi` object. Whoever waits for something that it does notices its end by the host having another.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING

from xenctl.errors import Failure

from . import (
    backups,
    firmware,
    guests,
    ha_monitor,
    hosts,
    licence,
    liveset,
    newcomers,
    observers,
    packages,
    passthrough,
    pifs,
    processors,
    rules,
    storage_drivers,
    trust,
)
from .journal import Kept
from .software import installed, software_version
from .store import HASHED, NULL, Store

if TYPE_CHECKING:
    from xenctl.releases import Release

    from .machine.host import HostMachine, System
    from .pool import MockPool
    from .store import Row


TAKE_OVER = 1.0
"""Seconds that the toolstack of a host takes to start as master once the one before has gone."""


@dataclass(eq=False)
class Xapi(Kept):
    """The toolstack of one host, from its start to its end.

    `mode` is `down`, `emergency`, `member`, `master`, or `dead` where it crashed while the host goes on;
    `error` is what it answers where it serves nothing. It is `complete` once it has plugged its storage. `operations` holds,
    by task, how to make a running operation look whether it goes on; `collect_at` is when the garbage collection is due,
    `sync_at` when updates are to be looked for, if that is set up.
    `proposal` is the address of the host that proposed itself as master, and when.
    """

    mode: str = "down"
    error: list[str] = field(default_factory=lambda: ["HOST_STILL_BOOTING"])
    local_sessions: set[str] = field(default_factory=set)
    complete: bool = False
    operations: dict[str, Callable[[], None]] = field(default_factory=dict)
    collect_at: float = 0.0
    orphans: bool = False
    """Whether its database may hold what was of hosts that it does not have any more."""
    proposal: tuple[str, float] | None = None
    leaving: bool = False
    """Whether it has lit its fuse: its files say already what it starts as next."""
    rotating: bool = False
    """Whether the pool's secret is being rotated."""
    login_limits: dict[str, int] = field(default_factory=dict)
    """How many may log in at a time where that was changed, by the field of the pool that it began with."""
    sync_at: float = 0.0
    attached: dict[str, int] = field(default_factory=dict)
    """How many need each update's package of those that it has attached, by the update's uuid."""
    applying: set[str] = field(default_factory=set)
    """The uuids of the updates that are being applied to its host."""
    sighted: dict[str, float] = field(default_factory=dict)
    """The progress of the tasks that the last garbage collection found pending for very long."""
    schedule: dict[str, str] = field(default_factory=dict)
    """The last schedule of snapshots that a key was removed from, as it was before."""
    bridges: int = 0
    """How many names of bridges it has tried for new networks; it tries none again."""
    monitor: ha_monitor.Monitor = field(default_factory=ha_monitor.Monitor)


def replace_xapi(machine: HostMachine, xapi: Xapi) -> None:
    """End the toolstack of `machine` and whatever it was doing."""
    old, machine.xapi = machine.xapi, xapi
    for look in list(old.operations.values()):
        look()


def host_started(pool: MockPool, machine: HostMachine, *, booted: bool = True) -> None:
    """The toolstack of `machine` starts: its operating system is up, or, where that was not `booted`, it died before."""
    replace_xapi(machine, Xapi(mode="emergency"))
    if not liveset.may_start(pool, machine):
        return
    if machine.system.role == "master":
        yield_to_other(pool, machine)
    if machine.system.role == "master":
        start_master(pool, machine, booted=booted)
    else:
        pool.clock.after(2.0, partial(join, pool, machine, machine.xapi, booted=booted))


def yield_to_other(pool: MockPool, machine: HostMachine) -> None:
    """A master that starts asks the other hosts who they are: where one serves as master already, it becomes its member."""
    other = next((m for m in pool.machines if m is not machine and m.xapi.mode == "master"), None)
    if other is not None:
        machine.system.role = f"slave:{other.address}"


def toolstack_died(pool: MockPool, machine: HostMachine) -> None:
    """The toolstack of `machine` crashed; the host and its guests go on, and nothing answers on its port."""
    host_stopped(pool, machine, clean=False)
    machine.xapi.mode = "dead"
    pool.on_machine(machine)
    pool.settle(f"the toolstack of {machine.name} died")


def toolstack_restarted(pool: MockPool, machine: HostMachine) -> None:
    """The toolstack of `machine` that died starts again, and finds the guests that run."""
    host_started(pool, machine, booted=False)
    pool.on_machine(machine)
    pool.settle(f"the toolstack of {machine.name} restarted")


def restart_later(pool: MockPool, machine: HostMachine) -> None:
    """The toolstack of `machine` lights its fuse: it goes in a while, and starts anew as what its files say then."""
    machine.xapi.leaving = True
    later(machine, pool.durations.toolstack_fuse, lambda: start_anew(machine))


def start_anew(machine: HostMachine) -> None:
    """The toolstack of `machine` goes and starts again, while guests go on."""
    toolstack_died(machine.pool, machine)
    toolstack_restarted(machine.pool, machine)


def later(machine: HostMachine, seconds: float, action: Callable[[], None]) -> None:
    """Do something in a while, unless the toolstack of `machine` has stopped by then."""
    xapi = machine.xapi

    def act() -> None:
        if machine.xapi is xapi:
            action()

    machine.clock.after(seconds, act)


def host_stopped(pool: MockPool, machine: HostMachine, clean: bool) -> None:
    """The toolstack of `machine` is gone. A clean stop tells the master; a crash is noticed when the beats stay away."""
    was = machine.xapi.mode
    backups.keep(pool, machine)
    if clean and pool.master_serves:
        shut_guests_down(pool, machine)
    replace_xapi(machine, Xapi())
    if was == "master":
        members_lost(pool)
    elif was == "member" and clean:
        hosts.set_live(pool.store, pool.host_row(machine), alive=False)
    elif was == "member":
        await_beats(pool, machine)
    liveset.stopped(pool, machine, clean=clean)
    machine.turn()


def members_lost(pool: MockPool) -> None:
    """The members have lost the master: their toolstacks start anew, and wait for it, unless one is to take its place."""
    for member in pool.machines:
        if member.xapi.mode == "member":
            replace_xapi(member, Xapi(mode="emergency"))
            if member.system.role == "master":
                pool.clock.after(TAKE_OVER, partial(_take_over, pool, member, member.xapi))


def _take_over(pool: MockPool, machine: HostMachine, xapi: Xapi) -> None:
    if machine.xapi is xapi:
        host_started(pool, machine, booted=False)


def await_beats(pool: MockPool, machine: HostMachine) -> None:
    """Take `machine` for dead if the master does not hear from it for long. A master that starts begins to count then."""
    master = pool.master
    xapi = master.xapi

    def dead() -> None:
        if master.xapi is xapi and not master.ha_daemon:
            hosts.set_live(pool.store, pool.host_row(machine), alive=False)

    if machine.beats is not None:
        machine.beats.cancel()
    machine.beats = pool.clock.after(pool.durations.assumed_dead, dead)


SHUTS_DOWN = ("VM.*", "VBD.*", "VIF.*", "VUSB.*", "VGPU.*", "PCI.attached_VMs", "console.*")
"""What that may write, as a verb declares it."""


def shut_guests_down(pool: MockPool, machine: HostMachine) -> None:
    """What the stop of the control domain does to guests that were left on the host: they are shut down."""
    for uuid in list(machine.domains):
        found = pool.store.by_uuid.get(uuid)
        machine.domains.pop(uuid).end(pool.clock.now())
        if found:
            vm = pool.store.get(*found)
            if vm.get("ha_always_run"):
                pool.store.write(vm, ha_always_run=False)
            pool.force_halted(vm)


# --- the master


def start_master(pool: MockPool, machine: HostMachine, *, booted: bool = True) -> None:
    """Load the database, bring it up to date, serve."""
    system = machine.system
    if system.restored is not None:
        system.saved, system.restored, system.database = system.restored, None, None
        machine.xapi.orphans = True
    if system.database is None:
        system.database = _kept_database(pool, machine)
    store = system.database
    pool.adopt_store(store)
    if store.release < system.release:
        store.upgrade(system.release)
        storage_drivers.register(store, pool.new_ref, pool.new_uuid)
    store.restart()
    pool.tasks_lost()
    host = pool.host_row(machine)
    assert host is not None
    write_identity(store, system)
    for row in store.table("host").values():
        ensure_metrics(pool, row)
    store.write(store.pool(), master=host.ref)
    if "ha_enabled" in store.pool():
        ha_monitor.master_started(pool, machine)
    synchronise(pool, machine, host, booted=booted)
    hosts.set_live(store, host, alive=True)
    for vm in store.table("VM").values():
        store.write(vm, scheduled_to_be_resident_on=NULL)
        if vm["power_state"] in ("Running", "Paused") and store.find("host", vm["resident_on"]) is None:
            pool.force_halted(vm)
    machine.xapi.mode = "master"
    pool.detect_rolling_upgrade()
    pool.upkeep.do_all(store)
    plug = pool.durations.storage_plug if booted else pool.durations.member_settle
    pool.clock.after(plug, partial(complete, pool, machine, machine.xapi))
    for member in pool.machines:
        if member is not machine:
            await_beats(pool, member)
    gather(pool, machine)


def _kept_database(pool: MockPool, machine: HostMachine) -> Store:
    """What a host has that was a member: the database that it kept, or, where it never kept any, that of a first boot."""
    system = machine.system
    if system.saved is not None:
        return Store.load(system.saved, backups.release_of(system.saved))
    from .inventory import build_alone  # it builds on this module

    ids = {"uuid": system.installation_uuid, "control_domain": system.control_domain_uuid}
    return build_alone(pool, machine, system.release, **ids)


def gather(pool: MockPool, master: HostMachine) -> None:
    """The hosts whose files name this master find it when they try again."""
    for machine in pool.world.machines:
        if machine.state == "running" and machine.system.role == f"slave:{master.address}":
            retry = partial(join, machine.pool, machine, machine.xapi, booted=False)
            pool.clock.after(pool.durations.member_retry, retry)


def write_identity(store: Store, system: System) -> None:
    """What the manifest of a dump says of the master, up to 5.6 FP1."""
    release = store.release
    if release.schema > HASHED:
        return
    software = software_version(release)
    major, minor = software["xapi"].split(".")
    pairs = {
        "installation_uuid": system.installation_uuid,
        "control_domain_uuid": system.control_domain_uuid,
        "pool_conf": system.role,
        "pool_token": system.pool_secret,
        "schema_major_vsn": str(release.schema[0]),
        "schema_minor_vsn": str(release.schema[1]),
        "product_version": release.product_version,
        "product_brand": release.product_brand,
        "build_number": software["build_number"],
        "xapi_major_vsn": major,
        "xapi_minor_vsn": minor,
        "generation_count": "0",
    }
    store.manifest = {**{key: pairs[key] for key in store.manifest if key in pairs}, **pairs}


def ensure_metrics(pool: MockPool, host: Row) -> None:
    """Give `host` and its cards metrics where they have none; up to 5.5 these did not outlive a restart."""
    store = pool.store
    pifs.ensure_metrics(pool, host)
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


# --- a member


def join(pool: MockPool, machine: HostMachine, xapi: Xapi, *, booted: bool) -> None:
    """A member greets the master. Refused or unanswered, it stays in emergency mode until the master starts again."""
    if machine.xapi is not xapi or xapi.mode != "emergency":
        return
    master = pool.world.machine_at(machine.system.role.partition(":")[2])
    if master is machine:
        xapi.error = ["HOST_ITS_OWN_SLAVE"]
        return
    if master is None or not master.answers or master.xapi.mode != "master":
        return
    store = pool.store
    host = pool.host_row(machine)
    if host is None or master.pool is not pool:
        xapi.error = ["HOST_UNKNOWN_TO_MASTER", machine.system.installation_uuid]
        return
    if machine.system.release > store.release:
        xapi.error = _too_new(store.release, machine.system.release)
        return
    if liveset.shut_out(pool, machine):
        xapi.error = [liveset.SHUT_OUT]
        return
    if machine.beats is not None:
        machine.beats.cancel()
    if machine.system.pool_secret not in pool.master.system.secrets:
        xapi.error = ["HOST_UNKNOWN_TO_MASTER", machine.system.installation_uuid]
        return
    ensure_metrics(pool, host)
    greeted(pool, host, machine.address)
    machine.system.password = master.system.password
    newcomers.ensure(pool, machine, host)
    synchronise(pool, machine, host, booted=booted)
    xapi.mode = "member"
    newcomers.network_as_master(pool, machine, host)
    if trust.lacks(pool, machine.system):
        trust.copy(pool.master.system, machine.system, (trust.POOL_FOLDER, trust.CA_FOLDER))
        trust.bundle(machine.system)
    plug = pool.durations.storage_plug if booted else pool.durations.member_settle
    pool.clock.after(plug, partial(complete, pool, machine, xapi))


def greeted(pool: MockPool, host: Row, address: str) -> None:
    """What the master writes down of a member that greets it: it lives, and is not ready yet."""
    hosts.readdress(pool.store, host, address)
    pool.store.write(host, enabled=False)
    hosts.set_live(pool.store, host, alive=True)
    hosts.drop_lost_operations(pool.store)


def _too_new(master: Release, member: Release) -> list[str]:
    """What a member answers that is newer than the master: it never gets through to it, and says so since XenServer 8."""
    if master.order < rules.NILE:
        return ["HOST_STILL_BOOTING"]
    return ["HOST_XAPI_VERSION_HIGHER_THAN_COORDINATOR", software_version(member)["xapi_build"]]


# --- what both do


def synchronise(pool: MockPool, machine: HostMachine, host: Row, *, booted: bool) -> None:
    """The host part of the start-up: the host writes down its version, memory, control domain, storage and guests."""
    store, release = pool.store, machine.system.release
    now = f"{pool.clock.now():.0f}."
    hosts.readdress(store, host, machine.address)
    store.write(
        host,
        software_version=installed(machine.system, host["software_version"], booted=booted),
        virtual_hardware_platform_versions=rules.hardware_versions(release),
        API_version_major=release.api_version[0],
        API_version_minor=release.api_version[1],
        hostname=host["hostname"] or machine.name,
        boot_free_mem=machine.memory,
        other_config={**host["other_config"], **({"boot_time": now} if booted else {}), "agent_start_time": now},
    )
    if "cpu_info" in host:
        told = processors.described(release, host["cpu_info"], machine.hardware.processors)
        store.write(host, cpu_info=told)
    processors.level(store)
    metrics = store.find("host_metrics", host["metrics"])
    if metrics is not None:
        store.write(metrics, memory_total=machine.memory, last_updated=pool.clock.stamp())
    observers.load(store, machine, host)
    machine.guest_agents = dict(store.pool().get("guest_agent_config", {}))
    synchronise_management(pool, machine, host)
    if booted:
        passthrough.booted(store, host)
        ha_monitor.host_booted(pool, machine, host)
        for ref in host["PBDs"]:
            store.write(store.get("PBD", ref), currently_attached=False)
    for vm in list(store.table("VM").values()):
        if vm["resident_on"] == host.ref or vm["uuid"] in machine.domains:
            resynchronise(pool, machine, host, vm)
    for uuid in [uuid for uuid in machine.domains if uuid not in store.by_uuid]:
        machine.domains.pop(uuid).end(pool.clock.now())
    with suppress(Failure):  # a toolstack starts also where a file is corrupt
        trust.synchronise(pool, machine)
        firmware.write(pool, machine)
    licence.initialise(pool, host)
    guidance_done(pool, host, booted=booted)
    machine.system.new = False
    pool.clock.after(pool.durations.garbage_collection, pool.detect_rolling_upgrade)


REBOOTS = (
    "reboot_host",
    "reboot_host_on_livepatch_failure",
    "reboot_host_on_kernel_livepatch_failure",
    "reboot_host_on_xen_livepatch_failure",
)
"""What is done once a host has booted."""


def guidance_done(pool: MockPool, host: Row, *, booted: bool) -> None:
    """Drop what updates had asked to be done with a host, and has been done by this start. A host that is not of the
    master's version has not booted what it should."""
    guests.obey(pool, host, "restart_toolstack")
    if booted and host.get("updates_requiring_reboot"):
        pool.store.write(host, updates_requiring_reboot=[])
    if booted and rules.of_masters_version(pool.store, host):
        guests.obey(pool, host, *REBOOTS)


def synchronise_management(pool: MockPool, machine: HostMachine, host: Row) -> None:
    """Write down which PIF the host is reached by, where its own files say so."""
    store, bridge = pool.store, machine.system.management
    for pif in [store.get("PIF", ref) for ref in host["PIFs"]] if bridge else ():
        network = store.find("network", pif["network"])
        store.write(pif, management=network is not None and network["bridge"] == bridge)


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
        state = "Running" if domain.running or domain.asleep else "Paused"
        store.write(vm, power_state=state, resident_on=host.ref, domid=domain.domid)
        guests.report(pool, vm)


def complete(pool: MockPool, machine: HostMachine, xapi: Xapi) -> None:
    """Storage that still exists is plugged and the host enabled: the end of a start."""
    host = pool.host_row(machine)
    if machine.xapi is not xapi or not pool.master_serves or host is None:
        return
    pbds = [pool.store.get("PBD", ref) for ref in host["PBDs"]]
    for pbd in pbds:
        sr = pool.store.find("SR", pbd["SR"])
        if sr is not None and liveset.connected(machine, sr) and sr["uuid"] not in pool.storage.destroyed:
            pool.store.write(pbd, currently_attached=True)
    xapi.complete = True
    packages.tidy(pool, xapi, host)
    storage_is_there = not machine.system.armed or all(pbd["currently_attached"] for pbd in pbds)
    if storage_is_there and not host.get("pending_guidances") and not machine.stays_disabled:
        pool.store.write(host, enabled=True)
        ha_monitor.host_enabled(pool)
