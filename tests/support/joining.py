"""A host beside a pool that is to join it, and what can stand against that."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

MASTER = ("10.0.0.1", "root", "secret")
"""What `pool.join` is told of the pool's master."""
Prepare = Callable[[Any, Any], None]
"""What is done to the pool and to the host before."""


def bare(c: Any, **options: Any) -> Any:
    """A session with a host beside the pool that may join: it has no guests and no shared storage."""
    before = {m.name for m in c.pool.world.machines}
    c.pool.neighbour(**options)
    d = c.of(next(m.name for m in c.pool.world.machines if m.name not in before))
    for sr in [sr for sr in d.pool.store.table("SR").values() if sr["shared"]]:
        for vm in list(d.pool.store.table("VM").values()):
            for vbd in d.pool.vbds(vm):
                if not vbd["empty"] and d.pool.store.get("VDI", vbd["VDI"])["SR"] == sr.ref:
                    d("VBD.destroy" if vm["power_state"] == "Halted" else "VBD.unplug", vbd.ref)
        for pbd in sr["PBDs"]:
            d("PBD.unplug", pbd)
        d("SR.forget", sr.ref)
    return d


def rest(c: Any, host: str) -> Any:
    """Wait until a host has joined and is complete."""
    machine = c.pool.machine(host)
    c.until(lambda: machine.pool is c.pool and machine.xapi.mode == "member" and machine.xapi.complete)
    return c.host(host)


def set_here(table: str, **fields: Any) -> Prepare:
    """Write fields of the only row of a table of the joining host's database."""

    def do(c: Any, d: Any) -> None:
        d.pool.store.write(next(iter(d.pool.store.table(table).values())), **fields)

    return do


def set_there(table: str, **fields: Any) -> Prepare:
    """Write fields of all rows of a table of the pool's database."""

    def do(c: Any, d: Any) -> None:
        for row in list(c.pool.store.table(table).values()):
            c.pool.store.write(row, **fields)

    return do


def software(**more: str) -> Prepare:
    """The joining host's software as it is, but for some of what it tells."""

    def do(c: Any, d: Any) -> None:
        (host,) = d.pool.store.table("host").values()
        d.pool.store.write(host, software_version={**host["software_version"], **more})

    return do


def added(table: str, *, there: bool = False, **fields: Any) -> Prepare:
    """A row in the joining host's database, or in the pool's."""

    def do(c: Any, d: Any) -> None:
        pool = (c if there else d).pool
        host = next(iter(pool.store.table("host")))
        told = {name: host if value == "HOST" else value for name, value in fields.items()}
        pool.store.create(table, pool.new_ref(), {"uuid": pool.new_uuid(), **told})

    return do


def restrict(key: str) -> Prepare:
    """A licence of the joining host that takes something away."""

    def do(c: Any, d: Any) -> None:
        store = d.pool.store
        store.write(store.pool(), restrictions={key: "true"})

    return do


def vlan(*, management: bool) -> Prepare:
    """A VLAN on the joining host's card, and whether the host is managed by it."""

    def do(c: Any, d: Any) -> None:
        network = d("network.create", {"name_label": "tagged", "other_config": {}})
        (card,) = d.pool.store.table("PIF").values()
        made = d("VLAN.create", card.ref, 7, network)
        if management:
            d.pool.store.write(card, management=False)
            d.pool.store.write(d.pool.store.get("PIF", d("VLAN.get_untagged_PIF", made)), management=True)

    return do


def clustered(c: Any, d: Any) -> None:
    """A cluster of the pool that takes in every host, on a network on which the joining host has no address."""
    store = c.pool.store
    pif, host = next(iter(store.table("PIF"))), next(iter(store.table("host")))
    fields = {"uuid": c.pool.new_uuid(), "pool_auto_join": True, "current_operations": {}}
    cluster = store.create("Cluster", c.pool.new_ref(), fields)
    fields = {"uuid": c.pool.new_uuid(), "cluster": cluster.ref, "host": host, "PIF": pif, "enabled": False}
    store.create("Cluster_host", c.pool.new_ref(), fields)
    d.pool.store.write(next(iter(d.pool.store.table("PIF").values())), IP="")
