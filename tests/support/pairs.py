"""Two pools beside each other, and VMs that go from one to the other."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from mockserver import MockPool
from mockserver.invariants import BeliefHolds, DataKept, MemoryFits, OneWriter
from xenctl.releases import find

Make = Callable[..., Any]


class Pair:
    """Two pools beside each other: `c` calls the one that VMs leave, `d` the one that they come to."""

    def __init__(self, calls: Make, release: str = "8.2", to: str | None = None, **shape: Any) -> None:
        self.c = calls(**{"release": release, "hosts": 2, "vms": 6, **shape})
        self.beside = self.c.pool.neighbour(hosts=2, vms=0, release=to)
        self.c.pool.watch(DataKept(), BeliefHolds(), OneWriter(), MemoryFits())
        self.beside.watch(DataKept(), BeliefHolds(), OneWriter(), MemoryFits())
        self.d = self.c.of(self.beside.machines[0].name)

    @property
    def network(self) -> str:
        """The network of the management interfaces over there."""
        pifs = self.beside.store.table("PIF").values()
        return str(next(pif["network"] for pif in pifs if pif["management"]))

    def dest(self, host: str = "host3") -> dict[str, str]:
        return dict(self.d("host.migrate_receive", self.d.host(host).ref, self.network, {}))

    def sr(self, name: str = "Local storage on host3") -> str:
        return str(self.d.row("SR", name).ref)

    def send(self, vm: Any, **more: Any) -> list[Any]:
        """The arguments that bring a VM to host3 and its own storage."""
        c = self.c
        vdis = {vbd["VDI"]: self.sr() for vbd in c.pool.vbds(vm) if vbd["type"] == "Disk"}
        vifs = dict.fromkeys(vm["VIFs"], self.network)
        given = {"dest": self.dest, "vdi_map": lambda: vdis, "vif_map": lambda: vifs, "options": dict}
        found = {name: more.get(name, make) for name, make in given.items()}
        dest, vdi_map, vif_map, options = (value() if callable(value) else value for value in found.values())
        return [vm.ref, dest, True, vdi_map, vif_map, options, *([{}] if c.pool.store.release.order >= SEVEN else [])]

    def unharmed(self) -> None:
        assert self.c.unharmed()
        assert self.d.unharmed()
        for pool in (self.c.pool, self.beside):
            pool.conclude()
            assert pool.violations == []

    def traces(self) -> list[Any]:
        """What there is over there, to see that a move that failed left nothing."""
        store = self.beside.store
        tables = (
            "VM",
            "VDI",
            "VBD",
            "VIF",
            "VM_metrics",
            "VM_guest_metrics",
            "VBD_metrics",
            "VIF_metrics",
            "task",
            "network",
        )
        kept = [sorted(store.table(name)) for name in tables]
        return [*kept, [row["current_operations"] for row in store.table("host").values()], sorted(self.c.pool.disks)]


SEVEN = find("7.3").order
"""The first release whose calls name virtual graphics."""


def blocks(pool: MockPool, vm: Any) -> dict[str, dict[int, bytes]]:
    """What is on the disks of a VM, by device."""
    found = {vbd["userdevice"]: pool.disk_of(vbd["VDI"]) for vbd in pool.vbds(vm) if vbd["type"] == "Disk"}
    return {device: dict(disk.blocks) for device, disk in found.items() if disk is not None}
