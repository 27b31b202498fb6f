"""The machines, disks and domains that agree with a pool's database, at the moment when a pool is made."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from xenctl.releases import Release, of_host

from . import hardware, hosts, licence, liveset, observers, rules, startup, trust
from .guests import addresses
from .machine.disks import Disk, report, unaddressed
from .machine.host import Hardware, HostMachine, System
from .pifs import management, physical_pifs
from .store import NULL, Row, Store

if TYPE_CHECKING:
    from .pool import MockPool

SEEN = ("capabilities", "supported_bootloaders", "sched_policy", "cpu_info", "bios_strings", "chipset_info")
"""The fields of a host's row that tell of its hardware."""
UNKNOWN_DISK = 200 << 30
"""Bytes of local storage that a host has whose dump tells of none."""
UPTIME = 3600.0
"""Seconds for which hosts have run when a pool is made whose database does not tell, and the VMs of one made from counts."""
UNKNOWN_MEMORY = 64 << 30
"""Bytes of memory that a host is given whose dump does not tell."""


def power_up(pool: MockPool, store: Store) -> None:
    """Make the machines, disks and domains that agree with `store`, and start every toolstack at once."""
    pool.adopt_store(store)
    with store.unwatched():
        _power_up(pool, store)


def _power_up(pool: MockPool, store: Store) -> None:
    secret = store.manifest.get("pool_token") or "/".join(pool.new_uuid() for _ in range(3))
    master = store.get("host", store.pool()["master"])
    for row in store.table("host").values():
        dom0 = [vm for vm in (store.find("VM", r) for r in row["resident_VMs"]) if vm and vm["is_control_domain"]]
        release = _host_release(row, store.release)
        is_master = row is master
        memory = _memory(store, row)
        if not memory:
            memory = UNKNOWN_MEMORY
            pool.reports.append(f"host {row['name_label']}: its memory is not told; taken as {memory >> 30} GiB")
            store.write(row, boot_free_mem=memory)
        machine = HostMachine(
            name=row["name_label"] or row["hostname"],
            uuid=row["uuid"],
            address=row["address"],
            memory=memory,
            clock=pool.clock,
            durations=pool.durations,
            system=System(
                release=release,
                installation_uuid=row["uuid"],
                control_domain_uuid=dom0[0]["uuid"] if dom0 else "",
                role="master" if is_master else f"slave:{master['address']}",
                pool_secret=secret,
                pool=pool,
                password=pool.password,
                database=store if is_master else None,
            ),
            hardware=hardware_of(store, row),
            local_storage=[sr["uuid"] for sr in local_storage(store, row)],
            state="running",
            boots=1,
            up_since=_up_since(row, pool.clock.now()),
            nics=tuple((pif["device"], pif["MAC"]) for pif in physical_pifs(store, row)),
            usbs=hardware.usb_devices(store, row),
            virtual_functions=hardware.virtual_functions(store, row),
            on_running=lambda m: startup.host_started(m.pool, m),
            on_stopped=lambda m, clean: startup.host_stopped(m.pool, m, clean=clean),
            on_state=lambda m, old: m.pool.machine_changed(m, old),
            clean=lambda m, release: m.pool.hands.clean(m, release),
            masters_release=lambda m: m.pool.master.system.release if m.pool.master_serves else None,
        )
        observers.load(store, machine, row)
        machine.xapi = startup.Xapi(mode="master" if is_master else "member", complete=True)
        pool.world.add(machine)
    if "installation_uuid" not in store.manifest:
        startup.write_identity(store, pool.master.system)
    trust.embody(pool)
    for vdi in store.table("VDI").values():
        pool.disks[vdi["uuid"]] = Disk(vdi["uuid"])
    machines = {machine.system.installation_uuid: machine for machine in pool.machines}
    at = {ref: machines[host["uuid"]] for ref, host in store.table("host").items()}
    for vm in store.table("VM").values():
        _embody(pool, vm, at)
    for row in store.table("host").values():
        known = store.find("host_metrics", row["metrics"])
        startup.ensure_metrics(pool, row)
        if known is None or known["live"]:
            hosts.set_live(store, row, alive=True)
        else:
            pool.reports.append(f"host {row['name_label']}: the dump says that it was not running")
    for ref in [ref for refs in store.reserved.values() for ref in refs]:
        store.write(store.get("VM", ref), scheduled_to_be_resident_on=NULL)
    licence.known_servers(pool)
    liveset.power_up(pool)
    if rules.mixed(store):
        pool.detect_rolling_upgrade()
    pool.upkeep.do_all(store, store.put)


def hardware_of(store: Store, host: Row) -> Hardware:
    """What a host's rows tell of the machine."""
    cards, managing = physical_pifs(store, host), management(store, host)
    fields = store.shape("host_cpu").fields if "host_cpu" in store.tables else {}
    processors = [cpu for cpu in store.table("host_cpu").values() if cpu["host"] == host.ref]
    sizes = [sr["physical_size"] for sr in local_storage(store, host) if sr["physical_size"] > 0]
    return Hardware(
        fields={name: host[name] for name in SEEN if name in host},
        processors=tuple({n: cpu[n] for n in fields if n not in ("uuid", "host")} for cpu in processors),
        management=(managing or cards[0])["device"] if cards else "",
        disk=max(sizes, default=UNKNOWN_DISK),
    )


def local_storage(store: Store, host: Row) -> list[Row]:
    """The storage repositories that only `host` reaches, and that are not shared."""
    pbds = [store.get("PBD", ref) for ref in host["PBDs"]]
    srs = [sr for sr in (store.find("SR", pbd["SR"]) for pbd in pbds) if sr is not None]
    return [sr for sr in srs if not sr["shared"] and len(sr["PBDs"]) == 1]


def _embody(pool: MockPool, vm: Row, at: Mapping[str, HostMachine]) -> None:
    """Make the guest of a VM, and what it runs in; `at` has the machines by their hosts."""
    if vm["is_control_domain"] or vm["is_a_template"]:
        return
    guest = pool.guest(vm)
    metrics = pool.store.find("VM_guest_metrics", vm["guest_metrics"])
    guest.settled, guest.agent = True, None
    if metrics is not None:
        usual = metrics["networks"] == addresses(pool.store.rows("VIF", vm["VIFs"]), pool.store.release)
        guest.agent = unaddressed(metrics) if usual else report(metrics)
    disks = pool.written_disks(vm)
    for disk in disks:
        guest.write_before(disk)
    if vm["power_state"] in ("Running", "Paused"):
        machine = at.get(vm["resident_on"])
        if machine is None:
            pool.obstacles.append(f"VM {vm['name_label']}: {vm['power_state']} on no host of the pool; taken as Halted")
            pool.force_halted(vm)
        else:
            domain = pool.start_domain(vm, machine, vm["power_state"] == "Running", disks)
            if vm["domid"] > 0:
                domain.domid = vm["domid"]
                pool.last_domid = max(pool.last_domid, domain.domid)
    elif vm["power_state"] == "Suspended":
        if guest.agent is None:  # without drivers it could not have been suspended
            guest.agent = report({"PV_drivers_version": {"major": "4", "minor": "0"}, "PV_drivers_up_to_date": True})
        image = pool.disk_of(vm["suspend_VDI"])
        if image is not None:
            guest.save(image, pool.store.release)


def _host_release(row: Row, default: Release) -> Release:
    api = row["API_version_major"], row["API_version_minor"]
    try:
        return of_host(row["software_version"], api)
    except ValueError:
        return default


def _up_since(host: Row, now: float) -> float:
    """When a host booted, as it wrote down itself: seconds, with a dot behind them."""
    told = host["other_config"].get("boot_time", "").rstrip(".")
    return float(told) if told.isdigit() else now - UPTIME


def _memory(store: Store, host: Row) -> int:
    metrics = store.find("host_metrics", host["metrics"])
    total = int(metrics["memory_total"]) if metrics is not None else 0
    return total or int(host.get("boot_free_mem", 0))
