"""Paths from hosts to storage: lost, found again, and what becomes of guests meanwhile.

A path is physical: `HostMachine.lost` holds the storage repositories that a host does not reach. The database is not told.
Connections stay plugged, and whoever asks the host for a disk gets the error of the storage's plugin. Guests on the host
whose disks are there stall (they write nothing until the path is back, and do not answer a clean shutdown) or crash.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from xenctl.errors import Failure

from . import liveset

if TYPE_CHECKING:
    from .machine.disks import Domain
    from .machine.host import HostMachine
    from .pool import MockPool
    from .store import Row

STALL = "stall"
POLICIES = (STALL, "crash")
"""What guests do whose disks are gone."""


def assert_reached(machine: HostMachine, sr: str, vdi: str = "") -> None:
    """Raise what the plugin says on a host that does not reach storage, given by uuid: that the disk is not available, or
    the storage."""
    if sr not in machine.lost:
        return
    if vdi:
        raise Failure(["SR_BACKEND_FAILURE_46", "", f"The VDI is not available [opterr={vdi}]", ""])
    raise Failure(["SR_BACKEND_FAILURE_47", "", f"The SR is not available [opterr={sr}]", ""])


def assert_policy(guests: str) -> None:
    """Raise `ValueError` for a word that is none of `POLICIES`."""
    if guests not in POLICIES:
        raise ValueError(f"guests {' or '.join(POLICIES)} where their disks are gone, not {guests!r}")


def named(machine: HostMachine, name: str) -> Row:
    """The storage that `machine` is connected to and that is called `name`, by its name label, uuid or reference. Raises
    `ValueError` where there is not just one."""
    pool = machine.pool
    host = pool.host_row(machine)
    pbds = (pool.store.find("PBD", ref) for ref in (host["PBDs"] if host is not None else ()))
    known = [sr for pbd in pbds if pbd is not None and (sr := pool.store.find("SR", pbd["SR"])) is not None]
    found = [sr for sr in known if name in (sr["name_label"], sr["uuid"], sr.ref)]
    if len(found) == 1:
        return found[0]
    count = f"{len(found)} storage repositories" if found else "no storage repository"
    raise ValueError(
        f"{machine.name} is connected to {count} called {name!r}; there are "
        + ", ".join(f"{sr['name_label']!r} ({sr['uuid']})" for sr in known)
    )


def lose(machine: HostMachine, sr: str, guests: str) -> None:
    """Cut a host's path to storage, given by uuid; its guests with disks there do as `guests` says."""
    pool, now = machine.pool, machine.clock.now()
    machine.lost.add(sr)
    for vm, domain in _touched(pool, machine, sr):
        if guests == STALL:
            domain.stall(sr, now)
        else:
            domain.end(now)
            del machine.domains[vm]
            found = pool.store.by_uuid.get(vm)
            row = pool.store.find(*found) if found is not None else None
            if row is not None and pool.master_serves:
                pool.force_halted(row)
    liveset.storage_cut(pool, machine)
    pool.settle(f"{machine.name} lost a path to storage")


def regain(machine: HostMachine, sr: str) -> None:
    """Have a host reach storage again; guests that stalled for it go on."""
    pool = machine.pool
    machine.lost.discard(sr)
    for domain in machine.domains.values():
        domain.go_on(sr, pool.clock.now())
    liveset.storage_back(pool, machine)
    pool.settle(f"{machine.name} found a path to storage")


def _touched(pool: MockPool, machine: HostMachine, sr: str) -> Iterator[tuple[str, Domain]]:
    """The guests of a host that write to disks on storage, by the uuids of their VMs."""
    store = pool.store
    for vm, domain in list(machine.domains.items()):
        rows = (store.by_uuid.get(disk.uuid) for disk in domain.disks)
        homes = {store.get(*found)["SR"] for found in rows if found is not None and found[0] == "VDI"}
        if any(store.get("SR", home)["uuid"] == sr for home in homes):
            yield vm, domain
