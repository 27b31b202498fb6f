"""Networks, cards and their PIFs, for the tests of what is made of them."""

from __future__ import annotations

from typing import Any


def network(c: Any, **fields: Any) -> Any:
    """A network without PIFs."""
    ref = c("network.create", {"name_label": "new", "other_config": {}, **fields})
    return c.pool.store.get("network", ref)


def get(c: Any, table: str, ref: str) -> Any:
    return c.pool.store.get(table, ref)


def pif(c: Any, device: str = "eth0", host: str = "host1") -> Any:
    """The PIF of a card of a host."""
    here = c.host(host).ref
    rows = c.pool.store.table("PIF").values()
    return next(row for row in rows if (row["device"], row["host"]) == (device, here) and row["VLAN"] == -1)


def vif(c: Any, vm: str) -> Any:
    return get(c, "VIF", c.vm(vm)["VIFs"][0])


def cards(c: Any, host: str = "host1", *devices: str) -> Any:
    """Put cards into a host and let it find them."""
    machine = c.pool.machine(host)
    for number, device in enumerate(devices or ("eth1", "eth2")):
        machine.nics = (*machine.nics, (device, f"00:16:3e:bb:00:{number:02x}"))
    c("PIF.scan", c.host(host).ref)
    return [pif(c, device, host) for device in devices or ("eth1", "eth2")]
