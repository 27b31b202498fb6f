"""Guests coming up and going down: an agent reports some time after its VM was started, if the guest still runs then; what
the database says of a VM that is off.

Which guests have an agent: those of a pool that was made up, those of which a dump says so, copies of these, and new VMs
that have a disk of their own to boot from when they are started for the first time. Nobody can see here how a system is
installed, so it is there at once. A VM without such a disk has none, nor has one whose dump knows no guest metrics.
"""

from __future__ import annotations

import re
from functools import cache, partial
from typing import TYPE_CHECKING, Any

from xenctl.datamodel import load

from . import rules
from .machine.disks import report as reported
from .store import EPOCH, NULL

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from xenctl.releases import Release

    from .pool import MockPool
    from .store import Row

REGULAR = re.compile(":".join(["[0-9A-Fa-f]+"] * 3 + ["([0-9A-Fa-f]+)"] * 3)).fullmatch
"""Matches a regular address of the hardware, its last three parts apart."""


@cache
def agent_of(release: Release) -> Mapping[str, Any]:
    """What an agent reports of which nobody knows more, beside addresses: it came with `release`."""
    parts = dict(zip(("major", "minor", "micro"), release.product_version.split("."), strict=True))
    return {
        "PV_drivers_version": {**parts, "build": "1"},
        "PV_drivers_up_to_date": True,
        "os_version": {"name": "Debian GNU/Linux 4.0", "distro": "debian"},
        "other": {"feature-suspend": "1", "feature-shutdown": "1", "feature-reboot": "1"},
    }


def started(pool: MockPool, vm: Row) -> None:
    """The guest in `vm` begins to boot; its agent reports when it is up, unless the guest is started again before."""
    guest, seconds = pool.guest(vm), pool.durations.vm_boot
    if not guest.settled:
        guest.settled, guest.agent = True, reported(agent_of(pool.store.release)) if pool.written_disks(vm) else None
    guest.boots += 1
    guest.up_at = pool.clock.now() + seconds
    guest.booting = pool.clock.after(seconds, partial(report, pool, vm))


def domain_type(vm: Row) -> str:
    """The kind of domain that `vm` runs in: where it does not say, fully virtual if it has a boot policy of that."""
    told: str = vm.get("domain_type", "unspecified")
    return told if told != "unspecified" else "hvm" if vm["HVM_boot_policy"] else "pv"


def stopped(pool: MockPool, vm: Row) -> None:
    """The guest in `vm` is off for good: it will not come up any more."""
    guest = pool.guest(vm)
    if guest.booting is not None:
        guest.booting.cancel()
        guest.booting = None


def crossed(pool: MockPool, vm: Row, to: MockPool, new: Row) -> None:
    """The guest in `vm` goes on in another pool as `new`: its agent reports there, if it has not yet."""
    guest = pool.guest(vm)
    if guest.booting is not None and guest.up_at > pool.clock.now():
        guest.booting.cancel()
        guest.booting = pool.clock.after(guest.up_at - pool.clock.now(), partial(report, to, new))


def report(pool: MockPool, vm: Row) -> None:
    """Write down what the agent in `vm` says, if the guest is up and nothing is written yet. While no master serves, nobody
    listens; the next start of its host hears it."""
    store, found = pool.store, pool.domain(vm)
    guest = pool.guest(vm)
    row = store.find("VM", vm.ref)
    if row is None or found is None or not found[1].running or guest.agent is None or not pool.master_serves:
        return
    if pool.clock.now() >= guest.up_at and store.find("VM_guest_metrics", row["guest_metrics"]) is None:
        ref = pool.new_ref()
        networks = addresses(store.rows("VIF", row["VIFs"]), store.release)
        fields = {"networks": networks, **guest.agent, "uuid": pool.new_uuid(), "last_updated": pool.clock.stamp()}
        store.create("VM_guest_metrics", ref, fields)
        store.write(row, guest_metrics=ref)


def addresses(vifs: Iterable[Mapping[str, Any]], release: Release) -> dict[str, str]:
    """What an agent reports of a guest's interfaces: an address each, made up from that of the hardware; no host has such.
    Since 7.3 each comes in two spellings. An interface without a regular address of the hardware has none."""
    out: dict[str, str] = {}
    for vif in vifs:
        found = REGULAR(vif["MAC"])
        if found:
            address, device = (
                f"10.{128 + int(found[1], 16) % 128}.{int(found[2], 16)}.{int(found[3], 16)}",
                vif["device"],
            )
            out[f"{device}/ip"] = address
            if release.order >= rules.INVERNESS:
                out[f"{device}/ipv4/0"] = address
    return out


def forget(pool: MockPool, vm: Row) -> None:
    """Drop what the agent in `vm` said: its guest starts anew."""
    old = pool.store.find("VM_guest_metrics", vm["guest_metrics"])
    if old is not None:
        pool.store.delete(old)
    pool.store.write(vm, guest_metrics=NULL)


ON_A_CARD = ("resident_on", "scheduled_to_be_resident_on", "PCI")
"""Where virtual graphics are."""
RELEASED: dict[str, dict[str, Any]] = {
    "VBD": {"currently_attached": False, "reserved": False, "current_operations": {}},
    "VIF": {"currently_attached": False, "reserved": False, "reserved_pci": NULL, "current_operations": {}},
    "VUSB": {"currently_attached": False, "current_operations": {}},
    "VGPU": {"currently_attached": False, **dict.fromkeys(ON_A_CARD, NULL)},
}
"""What the database says of the devices of a VM that is off, by class."""
DONE_WHEN_HALTED = ("restart_device_model", "restart_vm")
GUIDANCES = ("pending_guidances", "pending_guidances_recommended", "pending_guidances_full")


def halted(pool: MockPool, vm: Row) -> None:
    """Write down that `vm` is off, with all that follows from it for its devices."""
    store = pool.store
    store.write(vm, power_state="Halted", requires_reboot=False)
    obey(pool, vm, *DONE_WHEN_HALTED)
    placeless(pool, vm)
    for table, fields in RELEASED.items():
        for device in store.rows(table, vm.get(f"{table}s", ())):
            store.write(device, **fields)
    for console in store.rows("console", vm["consoles"]):
        store.delete(console)


OFF: dict[str, Any] = {"VCPUs_number": 0, "hvm": False, "nomigrate": False, "nested_virt": False}
"""What the metrics of a VM tell that has no domain, since 6.1."""
KEEPS_START = load().order("24.30.0")
"""The toolstack's version since which the metrics of a VM tell when it was started also when it is off or saved."""


def measure_off(pool: MockPool, vm: Row) -> None:
    """Write down what the host of `vm`, which is written down as off or saved, sees of it: since 6.1 it says so."""
    store = pool.store
    if store.release.order < rules.TAMPA:
        return
    store.write(vm, memory_target=0)
    metrics = store.find("VM_metrics", vm["metrics"])
    if metrics is not None:
        halted = {"current_domain_type": "unspecified"} if vm["power_state"] == "Halted" else {}
        store.write(metrics, **OFF, **halted, **forgotten(store.release))


def forgotten(release: Release) -> dict[str, Any]:
    """What the metrics of a VM without a domain no longer tell, in `release`, until it is resumed."""
    return {"start_time": EPOCH} if rules.TAMPA <= release.order < KEEPS_START else {}


def console_location(host: Row, vm: Row, uuid: str, release: Release) -> str:
    """Where the console `uuid` of a guest is found: by the guest's own reference up to 5.6, since by that uuid."""
    named = f"uuid={uuid}" if release.order >= rules.BOSTON else f"ref={vm.ref}"
    return f"https://{host['address']}/console?{named}"


def placeless(pool: MockPool, vm: Row) -> None:
    """Write down that `vm` is on no host, and holds nothing of one."""
    store = pool.store
    store.write(vm, resident_on=NULL, scheduled_to_be_resident_on=NULL, domid=-1)
    for vgpu in store.rows("VGPU", vm.get("VGPUs", ())):
        store.write(vgpu, **{name: NULL for name in ON_A_CARD if name in vgpu})
    for pci in store.rows("PCI", vm.get("attached_PCIs", ())):
        store.write(pci, attached_VMs=[ref for ref in pci["attached_VMs"] if ref != vm.ref])


def obey(pool: MockPool, row: Row, *guidances: str) -> None:
    """Drop what an update had asked to be done with a VM or a host, and has been done now."""
    for field in GUIDANCES:
        if row.get(field):
            pool.store.write(row, **{field: [guidance for guidance in row[field] if guidance not in guidances]})
