"""Handing a pool over to another master, while the old one is well.

Every toolstack starts anew, guests run on. Where the master is lost this is not the way: see `recover`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..releases import find
from . import marking
from .observe import PoolFacts, attached, observe
from .plan import Plan, Step
from .shutdown import find_host

if TYPE_CHECKING:
    from ..session import Session

MASTER = "change of the master"
SINCE = "4.1"
"""The first release that hands a pool over."""


def plan(session: Session, host: str) -> Plan:
    """The plan for making the host with this name or uuid the master; nothing is changed. What stands against it is in
    `Plan.problems`. Raises `ValueError` for a host that the pool does not have."""
    pool = observe(session)
    uuid = find_host(pool, host)
    name = pool.hosts[uuid].name
    problems = [*marking.against(pool), *against(session, pool, uuid)]
    if uuid == pool.master:
        problems.append(f"{name} is the master already")
    steps = [Step("claim"), Step("designate", host=uuid), Step("release")]
    return Plan.of(pool, MASTER, steps, hosts=[uuid], problems=problems)


def against(session: Session, pool: PoolFacts, host: str) -> list[str]:
    """What stands against making `host` the master. Every host has to take part, so every host has to be there."""
    out, facts = [], pool.hosts[host]
    if pool.release < find(SINCE):
        out.append(f"{pool.release.name} cannot hand a pool over: that came with {SINCE}")
    if pool.ha_enabled:
        out.append("high availability is on: switch it off first, it keeps the master where it is")
    versions = {other.version for other in pool.hosts.values()}
    if pool.upgrading or len(versions) > 1:
        out.append(f"versions are mixed ({', '.join(sorted(versions))}): the master is not changed during an upgrade")
    if not facts.enabled:
        out.append(f"{facts.name} is disabled")
    for other in pool.hosts.values():
        if not other.live:
            out.append(f"{other.name} is not running, and every host has to agree")
        elif other.uuid != pool.master and not attached(session, other.address):
            out.append(f"{other.name} does not answer at {other.address or 'no address'} as a member of this pool")
    return out
