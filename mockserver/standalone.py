"""Hosts on their own: what a clean installation, or an ejection, makes of a machine, and storage that goes with it.

Such a host is the master of a pool of one, with a new identity and a database of its own, at the address that it had. What
was on its local storage is gone, whether or not anybody still has rows of it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from .inventory import build_alone
from .machine.host import System
from .powerup import local_storage

if TYPE_CHECKING:
    from xenctl.releases import Release

    from .machine.host import HostMachine


def system(machine: HostMachine, release: Release) -> System:
    """A clean installation of `release` on `machine`, in a pool of its own; its local storage is wiped."""
    old = machine.pool
    wipe(machine)
    pool = type(old)(seed=old.seed, username=old.username, password=old.password, world=old.world)
    uuid, control_domain = pool.new_uuid(), pool.new_uuid()
    store = build_alone(pool, machine, release, uuid=uuid, control_domain=control_domain)
    machine.local_storage = [row["uuid"] for row in store.table("SR").values()]
    pool.writes.clear()
    return System(
        release=release,
        installation_uuid=uuid,
        control_domain_uuid=control_domain,
        role="master",
        pool_secret="/".join(pool.new_uuid() for _ in range(3)),
        pool=pool,
        database=store,
        password=machine.system.password,
        new=True,
    )


def wipe(machine: HostMachine) -> None:
    """Destroy what is on the local storage of `machine`. Drives stay."""
    pool, host = machine.pool, machine.pool.host_row(machine)
    known = [sr["uuid"] for sr in local_storage(pool.store, host)] if host is not None else []
    for uuid in dict.fromkeys([*machine.local_storage, *known]):
        gone = list(pool.storage.forgotten.get(uuid, ()))
        table, ref = pool.store.by_uuid.get(uuid, ("SR", ""))
        row = pool.store.find(table, ref)
        if row is not None and row["type"] == "udev":
            continue
        vdis = [pool.store.find("VDI", vdi) for vdi in row["VDIs"]] if row is not None else []
        for disk in [*gone, *(vdi["uuid"] for vdi in vdis if vdi is not None)]:
            pool.disks.pop(disk, None)
        pool.storage.destroy(uuid)
    machine.local_storage = []
