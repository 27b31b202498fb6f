"""Whether the VMs of failed hosts fit on those that are left: the planning of high availability, in numbers alone.

Hosts and VMs are known by reference, sizes are bytes. In a small pool every order in which hosts can fail is played through;
in a large one the worst is assumed: the hosts with most room fail, those with most VMs too, and every VM is as large as the
largest.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from math import perm

FEW_ORDERS = 3500
"""Fewer orders of failing hosts than these are all played through."""
FEW_HOSTS = 32
"""In pools of more hosts they never are."""


@dataclass(frozen=True)
class Layout:
    """Live hosts with what is free on them, VMs with what they take, where those are that are placed, how many hosts there
    are with the dead ones, and how many failures are to be survived."""

    hosts: Mapping[str, int]
    vms: Mapping[str, int]
    placed: Mapping[str, str]
    total_hosts: int
    failures: int

    def after(self, plan: Mapping[str, str]) -> Layout:
        """The layout when a plan was carried out."""
        return replace(self, hosts=account(self.hosts, self.vms, plan), placed={**self.placed, **plan})

    def without(self, host: str) -> Layout | None:
        """The layout when `host` failed and its VMs were started elsewhere; None where not all of them fit."""
        failed = [vm for vm, at in self.placed.items() if at == host]
        left = {other: free for other, free in self.hosts.items() if other != host}
        plan = pack({vm: self.vms[vm] for vm in failed}, left)
        return replace(self, hosts=left).after(plan) if len(plan) == len(failed) else None


def account(hosts: Mapping[str, int], vms: Mapping[str, int], plan: Mapping[str, str]) -> dict[str, int]:
    """What is free on hosts when a plan was carried out."""
    free = dict(hosts)
    for vm, host in plan.items():
        if host in free:
            free[host] -= vms[vm]
    return free


def pack(things: Mapping[str, int], bins: Mapping[str, int]) -> dict[str, str]:
    """The largest first, each into what has most room then; what does not fit there is left out."""
    free = sorted(bins.items(), key=lambda item: -item[1])
    plan: dict[str, str] = {}
    for thing, size in sorted(things.items(), key=lambda item: -item[1]):
        if not free or free[0][1] < size:
            continue
        name, room = free.pop(0)
        plan[thing] = name
        room -= size
        free.insert(next((n for n, (_, other) in enumerate(free) if other <= room), len(free)), (name, room))
    return plan


def survives(layout: Layout) -> bool:
    """Whether a plan exists whichever hosts fail, as many as are to be survived."""
    spare = len(layout.hosts) - layout.failures
    if layout.failures < 0 or spare < 0 or (spare == 0 and layout.vms):
        return False
    few = layout.total_hosts <= FEW_HOSTS and perm(layout.total_hosts, layout.failures) < FEW_ORDERS
    return _whatever_fails(layout, layout.failures) if few else _at_worst(layout)


def _whatever_fails(layout: Layout, failures: int) -> bool:
    if failures == 0:
        return True
    after = (layout.without(host) for host in layout.hosts)
    return all(left is not None and _whatever_fails(left, failures - 1) for left in after)


def _at_worst(layout: Layout) -> bool:
    size = max(layout.vms.values(), default=0)
    if not size:
        return True
    room = _largest_first(max(0, free) // size for free in layout.hosts.values())
    guests = list(layout.placed.values())
    moving = _largest_first(guests.count(host) for host in layout.hosts)[: layout.failures]
    return sum(moving) <= sum(room[layout.failures :])


def _largest_first(numbers: Iterable[int]) -> list[int]:
    return sorted(numbers, reverse=True)
