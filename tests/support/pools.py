"""Fake pools that procedures work on: made, reached, looked at, changed, and run on."""

from __future__ import annotations

from typing import Any

from chaos import Fate, session_on

from mockserver import MockPool
from mockserver.invariants import sound
from mockserver.machine.disks import damage
from xenctl.procedures.journal import Journal
from xenctl.procedures.observe import observe
from xenctl.procedures.plan import Plan
from xenctl.procedures.running import Outcome, Run
from xenctl.session import Session, connect

RELEASES = ("4.0.1", "4.1", "5.0", "5.6", "6.2", "7.1", "8.2")
"""One release of every age."""


def made(release: str = "8.2", **what: Any) -> MockPool:
    """A pool that is watched."""
    pool = MockPool.create(**{"hosts": 3, "vms": 9, "release": release, **what})
    pool.watch(*sound())
    return pool


def reach(pool: MockPool, fate: Fate | None = None) -> Session:
    """A session that logs in with its first call, in XML-RPC."""
    return session_on(pool, fate or Fate())


def connected(pool: MockPool) -> Session:
    """A session that is logged in, in the protocol that the pool prefers."""
    return connect(pool.url, pool.username, pool.password, transport=pool.transport())


def row(pool: MockPool, kind: str, name: str) -> Any:
    """The row of the object called `name`."""
    return next(r for r in pool.store.table(kind).values() if r["name_label"] == name)


def write(pool: MockPool, kind: str, name: str, **fields: Any) -> None:
    """Change the row of the object called `name`."""
    pool.store.write(row(pool, kind, name), **fields)


def pin(pool: MockPool, vm: str, host: str) -> None:
    """Put a guest's disk on storage that only `host` reaches."""
    write(pool, "VDI", f"disk of {vm}", SR=row(pool, "SR", f"Local storage on {host}").ref)


def memory(pool: MockPool, size: int, *hosts: str) -> None:
    """Give each host, or those that are named, so many bytes."""
    for machine in pool.machines:
        if not hosts or machine.name in hosts:
            machine.memory = size
            host = pool.host_row(machine)
            assert host is not None
            pool.store.write(host, boot_free_mem=size)
            pool.store.write(pool.store.get("host_metrics", host["metrics"]), memory_total=size)


def states(pool: MockPool, session: Session | None = None) -> dict[str, tuple[str, str]]:
    """Power state and host of each guest, by name."""
    facts = observe(session or reach(pool))
    names = {uuid: host.name for uuid, host in facts.hosts.items()}
    return {vm.name: (vm.state, names.get(vm.host, "")) for vm in facts.vms.values()}


def versions(pool: MockPool) -> list[str]:
    """The version of each host's system, in the order of the machines."""
    return [machine.system.release.product_version for machine in pool.machines]


def unharmed(pool: MockPool) -> bool:
    """Whether nothing was broken on the way, and every disk holds what its guest wrote."""
    pool.conclude()
    assert [violation.as_dict() for violation in pool.violations] == []
    return all(list(damage(guest, pool.disks)) == [] for guest in pool.guests.values())


def carried_out(
    pool: MockPool,
    plan: Plan,
    journal: Journal | None = None,
    *,
    session: Session | None = None,
    hands: Any = None,
    **options: Any,
) -> tuple[Outcome, Journal]:
    """Carry out a plan, or go on with it; what came of it, and its journal."""
    kept = journal or Journal.create(plan)
    return Run(session or reach(pool), plan, hands or pool.hands, kept, **options).carry_out(), kept
