"""The failover plan of a pool with high availability: where protected VMs would start again if hosts failed.

A plan counts with all the memory that VMs may have (`memory_static_max`). First come the protected VMs that are off now,
then the question for how many failing hosts there is room. A protected VM that cannot run everywhere is counted to one host,
and for it no plan exists. What would break a plan that exists now is refused, unless the pool allows to overcommit.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from xenctl import memory
from xenctl.errors import Failure

from . import agility, binpack, hosts, messages, network_rules, placement, rules
from .call import refuse

if TYPE_CHECKING:
    from .pool import MockPool
    from .store import Row, Store

OVERCOMMITTED = "HA_POOL_OVERCOMMITTED"
DROPPED = "HA_POOL_DROP_IN_PLAN_EXISTS_FOR"
PRIORITY = 3
"""The priority of both messages."""
RESTART = "restart"
"""The priority by which a VM is protected, since 6.0."""


@dataclass(frozen=True)
class Change:
    """What is asked about: VMs that come to hosts, hosts that would take none any more, VMs that would be protected, and
    another number of failures."""

    arriving: Mapping[str, str] = field(default_factory=dict)
    disabled: frozenset[str] = frozenset()
    protected: tuple[Row, ...] = ()
    failures: int | None = None


NOTHING = Change()


@dataclass(frozen=True)
class Plan:
    """Where protected VMs that are off are to start, what the pool would be like then, those that found no place, and
    whether some protected VM cannot run everywhere."""

    starts: Mapping[str, str]
    layout: binpack.Layout
    homeless: tuple[str, ...]
    some_fixed: bool

    @property
    def complete(self) -> bool:
        """Whether every protected VM found a place."""
        return not self.homeless


def protected_vms(store: Store) -> list[Row]:
    """The VMs that high availability keeps running."""
    return [vm for vm in store.table("VM").values() if network_rules.protected(vm)]


def live_hosts(store: Store) -> frozenset[str]:
    """The hosts that live and take VMs."""
    return frozenset(ref for ref, host in store.table("host").items() if host["enabled"] and hosts.live(store, host))


def size(store: Store, vm: Row) -> int:
    """Bytes of memory that a VM may take at the most."""
    return int(vm["memory_static_max"]) + (0 if vm["is_control_domain"] else memory.overhead(vm))


def _room(store: Store, host: Row) -> int:
    return max(0, rules.memory_for_vms(store, host) - sum(size(store, vm) for vm in rules.on_host(store, host)))


# --- plans


def restart_plan(
    pool: MockPool,
    failures: int,
    *,
    vms: Iterable[Row] | None = None,
    live: frozenset[str] | None = None,
    change: Change = NOTHING,
) -> Plan:
    """Where the protected VMs (or `vms`) that are off are to start, if just the hosts of `live` are there."""
    store = pool.store
    wanted = [*(protected_vms(store) if vms is None else vms), *change.protected]
    wanted = sorted({vm.ref: vm for vm in wanted}.values(), key=lambda vm: str(vm["uuid"]))
    ordered = sorted(store.table("host").values(), key=lambda host: str(host["uuid"]))
    usable = live_hosts(store) & (live_hosts(store) if live is None else live) - change.disabled
    sizes = {vm.ref: size(store, vm) for vm in wanted}
    free = {host.ref: _room(store, host) for host in ordered if host.ref in usable}
    for ref, host in change.arriving.items():
        if host in free:
            free[host] -= size(store, store.get("VM", ref))
    at = {vm.ref: _counted_to(vm, change, usable) for vm in wanted}
    agile = [vm for vm in wanted if agility.is_agile(store, vm)]
    fixed = [vm for vm in wanted if vm not in agile]
    pinned = {vm.ref: _first_fitting(pool, vm, ordered) for vm in fixed if not at[vm.ref]}
    starts = {ref: host for ref, host in pinned.items() if host}
    layout = binpack.Layout(
        hosts=binpack.account(free, sizes, starts),
        vms={vm.ref: sizes[vm.ref] for vm in agile},
        placed={vm.ref: at[vm.ref] for vm in agile if at[vm.ref]},
        total_hosts=len(ordered),
        failures=failures if change.failures is None else change.failures,
    )
    packed = binpack.pack({vm.ref: sizes[vm.ref] for vm in agile if not at[vm.ref]}, layout.hosts)
    homeless = tuple(ref for ref, host in at.items() if not host and ref not in packed)
    return Plan({**starts, **packed}, layout.after(packed), homeless, bool(fixed))


def _counted_to(vm: Row, change: Change, usable: frozenset[str]) -> str:
    """The host whose memory a VM takes already, or will; empty where there is none."""
    for host in (change.arriving.get(vm.ref, vm["resident_on"]), vm["scheduled_to_be_resident_on"]):
        if host in usable:
            return str(host)
    return ""


def _first_fitting(pool: MockPool, vm: Row, ordered: Iterable[Row]) -> str:
    """The host that a VM is counted to which cannot run everywhere, always the same one; empty where none can run it."""
    for host in ordered:
        try:
            placement.assert_can_boot_here(pool, vm, host, enough_memory=False)
        except Failure:
            continue
        return host.ref
    return ""


def exists(
    pool: MockPool,
    failures: int,
    *,
    vms: Iterable[Row] | None = None,
    live: frozenset[str] | None = None,
    change: Change = NOTHING,
) -> bool:
    """Whether there is a plan for all protected VMs, whichever hosts fail."""
    wanted = failures if change.failures is None else change.failures
    if not 0 <= wanted <= len(pool.store.table("host")):
        return False
    plan = restart_plan(pool, failures, vms=vms, live=live, change=change)
    return plan.complete and not plan.some_fixed and binpack.survives(plan.layout)


def most_failures(pool: MockPool, *, vms: Iterable[Row] | None = None, live: frozenset[str] | None = None) -> int:
    """How many failing hosts there is a plan for; 0 also where there is none."""
    chosen = None if vms is None else list(vms)
    lower, upper = 0, len(pool.store.table("host"))
    while upper - lower >= 2:
        middle = (lower + upper) // 2
        if exists(pool, middle, vms=chosen, live=live):
            lower = middle
        else:
            upper = middle
    return upper if exists(pool, upper, vms=chosen, live=live) else lower


# --- what the pool says of its plan


def update_status(pool: MockPool, *, live: frozenset[str] | None = None) -> None:
    """Write down for how many failures a plan exists, and whether that is too few."""
    row = pool.store.pool()
    wanted = row["ha_host_failures_to_tolerate"]
    if exists(pool, wanted, live=live):
        pool.store.write(row, ha_overcommitted=False, ha_plan_exists_for=wanted)
    else:
        mark_overcommitted(pool, live=live)


def mark_overcommitted(pool: MockPool, *, live: frozenset[str] | None = None) -> None:
    """Write down that there is no plan for as many failures as are wanted, and tell it when that is new."""
    row = pool.store.pool()
    write_plan(pool, most_failures(pool, live=live))
    if not row["ha_overcommitted"]:
        pool.store.write(row, ha_overcommitted=True)
        body = (
            f"The failover tolerance for pool '{row['name_label']}' has dropped and the initially specified number of host "
            "failures to tolerate can no longer be guaranteed"
        )
        messages.post(pool, OVERCOMMITTED, priority=PRIORITY, cls="Pool", uuid=row["uuid"], body=body)


def write_plan(pool: MockPool, most: int) -> None:
    """Write down for how many failures a plan exists, and tell it where these became fewer."""
    row = pool.store.pool()
    before = row["ha_plan_exists_for"]
    if before != most:
        pool.store.write(row, ha_plan_exists_for=min(row["ha_host_failures_to_tolerate"], most))
        if most < before:
            messages.post(pool, DROPPED, priority=PRIORITY, cls="Pool", uuid=row["uuid"], body=str(most))


# --- what would break the plan


def assert_kept(pool: MockPool, change: Change) -> None:
    """Raise `HA_OPERATION_WOULD_BREAK_FAILOVER_PLAN` where a plan that exists now would not after `change`."""
    row = pool.store.pool()
    if not agility.protects(pool.store):
        return
    failures = row["ha_plan_exists_for"]
    if exists(pool, failures) and not exists(pool, failures, change=change):
        raise refuse("HA_OPERATION_WOULD_BREAK_FAILOVER_PLAN")


def assert_can_disable(pool: MockPool, host: Row) -> None:
    """Raise where the plan needs a host."""
    assert_kept(pool, replace(NOTHING, disabled=frozenset({host.ref})))


def assert_can_place(pool: MockPool, vm: Row, host: Row) -> None:
    """Raise where a VM would take memory of a host that the plan needs; or where, protected, it would have no plan."""
    if not agility.protects(pool.store):
        return
    becomes = vm.get("ha_restart_priority") == RESTART and not vm.get("ha_always_run")
    assert_kept(pool, replace(NOTHING, protected=(vm,)) if becomes else replace(NOTHING, arriving={vm.ref: host.ref}))


def assert_can_protect(pool: MockPool, vm: Row) -> None:
    """Raise where there is no plan if a VM is protected, too."""
    assert_kept(pool, replace(NOTHING, protected=(vm,)))
