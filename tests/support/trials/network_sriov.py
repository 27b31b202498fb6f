"""What the calls of `test_verbs_write` need to know of networks of virtual functions."""

from __future__ import annotations

from typing import Any


def furnish(world: Any) -> None:
    """A card that can be split, which nothing else is built on, and one on another host that is."""
    store = world.pool.store
    if "network_sriov" not in store.tables:
        return
    other = world.pool.machine("host2")
    other.nics = (*other.nics, ("eth9", "00:16:3e:cc:00:09"))
    world("PIF.scan", world.host("host2").ref)
    for pif in list(store.table("PIF").values()):
        if pif["device"] in ("eth5", "eth9") and pif["physical"]:
            card = world.add("PCI", host=pif["host"], pci_id="0000:06:00.0", vendor_id="8086", device_id="10fb")
            store.write(pif, capabilities=["sriov"], PCI=card)
            world.pool.machine_of(store.get("host", pif["host"])).virtual_functions["0000:06:00.0"] = 2
            if pif["device"] == "eth9":
                world("network_sriov.create", pif.ref, world.network())
