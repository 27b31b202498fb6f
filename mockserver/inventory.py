"""A pool made from counts, with predictable names: hosts `host1`…, VMs `vm01`…, the same for the same seed."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import datetime, timezone
from typing import TYPE_CHECKING, Any

from xenctl.memory import overhead
from xenctl.values import format_datetime

from . import block_devices, editions, guests, hardware, licence, newcomers, processors, rules, storage_drivers
from .pifs import GRO
from .powerup import UPTIME, power_up
from .software import software_version
from .store import EPOCH, NULL, Row, Store

if TYPE_CHECKING:
    from xenctl.releases import Release

    from .machine.host import HostMachine
    from .pool import MockPool

GIB = 1 << 30
MOST_NICS = 16
"""Network cards that a host may have at the most."""
LOCAL_STORAGE = 200 * GIB
ISO_LIBRARY = 64 * GIB
HARDWARE: Mapping[str, Any] = {
    "capabilities": ["xen-3.0-x86_64", "hvm-3.0-x86_32", "hvm-3.0-x86_64"],
    "supported_bootloaders": ["pygrub", "eliloader"],
    "sched_policy": "credit",
}
OLD_FEATURES = processors.USUAL[processors.INTEL]["features"]
PROCESSORS: tuple[Mapping[str, Any], ...] = tuple(
    {"number": number, "vendor": "GenuineIntel", "modelname": "Intel Xeon", "speed": 2333, "features": OLD_FEATURES}
    for number in range(4)
)


def build(
    pool: MockPool,
    *,
    hosts: int,
    vms: int,
    release: Release,
    nics: int = 1,
    gpus: int = 0,
    usbs: int = 0,
    templates: bool = False,
) -> None:
    """Fill an empty `pool`."""
    if hosts < 1:
        raise ValueError(f"a pool has at least one host, not {hosts}")
    if vms < 0:
        raise ValueError(f"a pool cannot have {vms} VMs")
    if not 1 <= nics <= MOST_NICS:
        raise ValueError(f"a host has 1 to {MOST_NICS} network cards, not {nics}")
    if gpus < 0 or usbs < 0:
        raise ValueError(f"a host cannot have {gpus} graphics cards and {usbs} USB devices")
    store = Store(release)
    pool.adopt_store(store)
    builder = _Builder(pool, store, release)
    with store.bulk():
        builder.build(hosts, vms)
        for number in range(1, nics):
            builder.more_cards(number)
        for host in store.table("host").values():
            hardware.equip(pool, store, host, gpus=gpus, usbs=usbs)
        if templates:
            from .templates import add

            add(pool, store, release)
        for host in store.table("host").values():
            newcomers.add_consoles(pool, host)
    for vdi in store.table("VDI").values():  # nobody was told of them
        pool.upkeep.grow(vdi["SR"], vdi["virtual_size"], vdi["physical_utilisation"])
    power_up(pool, store)


def build_alone(pool: MockPool, machine: HostMachine, release: Release, *, uuid: str, control_domain: str) -> Store:
    """The database that a first boot makes: the host alone, its cards and its local storage."""
    store = Store(release)
    pool.adopt_store(store)
    builder, seen = _Builder(pool, store, release), machine.hardware
    with store.bulk():
        ways = {device: builder.network(device, f"xenbr{device.lstrip('eth')}") for device, _ in machine.nics}
        host = builder.host(machine.name, machine.address, machine.memory, seen.fields, uuid=uuid)
        builder.processors(host, seen.processors)
        for device, mac in machine.nics:
            builder.card(host, ways[device], device, mac, management=device == seen.management)
        newcomers.add_control_domain(pool, host, uuid=control_domain)
        newcomers.add_consoles(pool, host)
        local = builder.storage("Local storage", "lvm", [host], seen.disk, shared=False)
        builder.pool_row("", host, local)
    return store


class _Builder:
    def __init__(self, pool: MockPool, store: Store, release: Release) -> None:
        self.pool, self.store, self.release = pool, store, release
        up_since = pool.clock.now() - UPTIME
        self.started = format_datetime(datetime.fromtimestamp(up_since, timezone.utc))
        """When the VMs that run were started."""
        self.booted = f"{up_since:.0f}."
        """The same of hosts and their toolstacks, as these write it."""

    def add(self, table: str, **fields: Any) -> Row:
        return self.store.create(table, self.pool.new_ref(), {"uuid": self.pool.new_uuid(), **fields})

    def build(self, hosts: int, vms: int) -> None:
        """The first pool of a world has its hosts and VMs numbered from 1, the next ones have theirs numbered on."""
        first, first_vm = len(self.pool.world.machines) + 1, len(self.pool.guests) + 1
        memory = max(64 * GIB, 8 * GIB * -(-3 * vms // max(1, hosts)))
        network = self.network("eth0", "xenbr0")
        rows = [self.numbered(number, network, memory) for number in range(first, first + hosts)]
        disks = self.storage("NFS virtual disk storage", "nfs", rows, max(4096, 32 * vms) * GIB, shared=True)
        images = self.storage("ISO library", "iso", rows, ISO_LIBRARY, shared=True)
        for host in rows:
            self.storage(f"Local storage on {host['name_label']}", "lvm", [host], LOCAL_STORAGE, shared=False)
        self.pool_row("pool", rows[0], disks)
        processors.level(self.store)
        licence.restrict_pool(self.store)
        disc = self.disk("debian-etch.iso", images, 680 << 20, read_only=True)
        for number in range(first_vm, first_vm + vms):
            self.vm(number, rows, network, disks, disc)

    def pool_row(self, label: str, master: Row, sr: Row) -> None:
        for fields in storage_drivers.rows(self.release):
            self.add("SM", **fields)
        srs = dict.fromkeys(("default_SR", "suspend_image_SR", "crash_dump_SR"), sr.ref)
        self.add("pool", name_label=label, master=master.ref, **srs)

    def network(self, device: str, bridge: str) -> Row:
        return self.add("network", name_label=f"Pool-wide network associated with {device}", bridge=bridge)

    def numbered(self, number: int, network: Row, memory: int) -> Row:
        seen = {**HARDWARE, "cpu_info": processors.described(self.release, {})}
        host = self.host(f"host{number}", f"10.0.{number // 250}.{number % 250}", memory, seen)
        self.processors(host, PROCESSORS)
        self.card(host, network, "eth0", f"00:16:3e:00:{number // 256:02x}:{number % 256:02x}", management=True)
        newcomers.add_control_domain(self.pool, host, uuid=self.pool.new_uuid())
        return host

    def more_cards(self, number: int) -> None:
        """One more network card in each host, all on a network of their own, with no address."""
        network = self.network(f"eth{number}", f"xenbr{number}")
        for card in [pif for pif in self.store.table("PIF").values() if pif["device"] == "eth0"]:
            high, low = card["MAC"].split(":")[4:]
            mac = f"00:16:3e:{number:02x}:{high}:{low}"
            self.card(self.store.get("host", card["host"]), network, f"eth{number}", mac, management=False)

    def host(self, name: str, address: str, memory: int, seen: Mapping[str, Any], **more: Any) -> Row:
        host = self.add(
            "host",
            name_label=name,
            hostname=name,
            address=address,
            enabled=True,
            API_version_major=self.release.api_version[0],
            API_version_minor=self.release.api_version[1],
            API_version_vendor="XenSource",
            software_version=software_version(self.release),
            virtual_hardware_platform_versions=rules.hardware_versions(self.release),
            boot_free_mem=memory,
            other_config=dict.fromkeys(("boot_time", "agent_start_time"), self.booted),
            **self.licence(seen.get("cpu_info", {})),
            **seen,
            **more,
        )
        metrics = self.add("host_metrics", memory_total=memory, live=True, last_updated=self.pool.clock.stamp())
        self.store.write(host, metrics=metrics.ref)
        return host

    def processors(self, host: Row, seen: Iterable[Mapping[str, Any]]) -> None:
        for fields in seen:
            self.add("host_cpu", host=host.ref, **fields)

    def card(self, host: Row, network: Row, device: str, mac: str, *, management: bool) -> None:
        self.add(
            "PIF",
            host=host.ref,
            network=network.ref,
            device=device,
            device_name=device,
            MAC=mac,
            MTU=1500,
            VLAN=-1,
            physical=True,
            management=management,
            currently_attached=management,
            ip_configuration_mode="DHCP" if management else "None",
            IP=host["address"] if management else "",
            properties=dict(GRO),
        )

    def licence(self, cpu: dict[str, str]) -> dict[str, Any]:
        """The fields of a host's licence: the highest edition, with every feature."""
        known = editions.editions(self.release)
        if not known:
            return {"license_params": {"sku_type": "XE Enterprise"}}
        best, names = known[-1], [one.name for one in known]
        params = licence.described(self.release, best.name, cpu)
        features = editions.restrictions(self.release, best.lacks)
        return {"edition": best.name, "editions": names, "license_params": {**params, **features}}

    def storage(self, label: str, kind: str, hosts: list[Row], size: int, *, shared: bool) -> Row:
        content = "iso" if kind == "iso" else "user"
        sr = self.add("SR", name_label=label, type=kind, content_type=content, shared=shared, physical_size=size)
        for host in hosts:
            self.add("PBD", host=host.ref, SR=sr.ref, currently_attached=True, device_config={"location": label})
        return sr

    def disk(self, label: str, sr: Row, size: int, *, read_only: bool = False) -> Row:
        return self.add(
            "VDI",
            name_label=label,
            SR=sr.ref,
            virtual_size=size,
            physical_utilisation=size,
            type="user" if read_only else "system",
            read_only=read_only,
            managed=True,
            location=label,
        )

    def vm(self, number: int, hosts: list[Row], network: Row, sr: Row, disc: Row) -> None:
        state, hvm = self.state(number), number % 3 == 0
        host = hosts[(number - 1) % len(hosts)] if state == "Running" else None
        memory = self.pool.random.choice((1, 2, 2, 3, 4)) * GIB
        seen = host is not None or self.release.order < rules.TAMPA
        vm = self.add(
            "VM",
            name_label=f"vm{number:02d}",
            power_state=state,
            resident_on=host.ref if host else NULL,
            affinity=host.ref if host and number % 2 else NULL,
            domid=number if host else -1,
            memory_static_max=memory,
            memory_static_min=memory // 2,
            memory_dynamic_max=memory,
            memory_dynamic_min=memory,
            memory_target=memory if seen else 0,
            VCPUs_max=1,
            VCPUs_at_startup=1,
            HVM_boot_policy="BIOS order" if hvm else "",
            PV_bootloader="" if hvm else "pygrub",
            actions_after_crash="restart",
            actions_after_reboot="restart",
            actions_after_shutdown="destroy",
            other_config={"mac_seed": self.pool.new_uuid()},
        )
        boot: dict[str, Any] = {}
        if state != "Halted":
            boot = {"start_time": self.started, "hvm": hvm and seen, "current_domain_type": guests.domain_type(vm)}
        if state == "Suspended":
            self.pool.guest(vm).started = self.started
            boot |= guests.forgotten(self.release)
        metrics = self.add(
            "VM_metrics",
            **{"VCPUs_number": int(seen), "memory_actual": memory, "start_time": EPOCH, "install_time": EPOCH, **boot},
        )
        attached = state != "Halted"
        self.device(vm, "0", self.disk(f"disk of vm{number:02d}", sr, 8 * GIB), attached)
        loaded = number % 12 in (2, 5)
        self.device(vm, "3", disc if loaded else None, attached)
        mac = f"00:16:3e:aa:{number // 256:02x}:{number % 256:02x}"
        self.add(
            "VIF",
            VM=vm.ref,
            network=network.ref,
            device="0",
            MTU=1500,
            MAC=mac,
            currently_attached=attached,
        )
        networks = guests.addresses([{"device": "0", "MAC": mac}], self.release)
        agent = self.add(
            "VM_guest_metrics", **guests.agent_of(self.release), networks=networks, last_updated=self.pool.clock.stamp()
        )
        known: dict[str, Any] = {"metrics": metrics.ref, "guest_metrics": agent.ref, "memory_overhead": overhead(vm)}
        if attached:
            known["last_boot_CPU_flags"] = processors.booted(self.store, vm, host or hosts[0], PROCESSORS)
        self.store.put(vm, **{name: value for name, value in known.items() if name in vm})
        if state == "Suspended":
            image = self.disk("Suspend image", sr, int(memory * 1.26) + (100 << 20))
            self.store.write(image, type="suspend")
            self.store.write(vm, suspend_VDI=image.ref)
        if host:
            fields = {"VM": vm.ref, "protocol": "rfb" if hvm else "vt100"}
            console = self.add("console", **fields)
            self.store.write(console, location=guests.console_location(host, vm, console["uuid"], self.release))

    @staticmethod
    def state(number: int) -> str:
        """One VM in twelve is suspended, three in twelve are halted, the rest run."""
        place = number % 12
        return "Suspended" if place == 6 else "Halted" if place in (4, 8, 11) else "Running"

    def device(self, vm: Row, number: str, vdi: Row | None, attached: bool) -> None:
        cd = number == "3"
        self.add(
            "VBD",
            VM=vm.ref,
            VDI=vdi.ref if vdi else NULL,
            type="CD" if cd else "Disk",
            mode="RO" if cd else "RW",
            empty=vdi is None,
            bootable=not cd,
            userdevice=number,
            device=block_devices.name_in(vm, number, self.release),
            unpluggable=not cd,
            currently_attached=attached and (vdi is not None or bool(vm["HVM_boot_policy"])),
        )
