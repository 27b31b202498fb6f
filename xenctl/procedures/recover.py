"""Recovery: members that lost their master, a master that is lost for good, guests of a host that is lost.

Nothing here trusts the pool alone. A host counts as lost when it does not answer and somebody who sees it says that it is
off: a second master would serve the same pool, and a guest that is started while it runs elsewhere destroys its disks. A
failed member that is to come back is in `rejoin`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from ..sexpr import parse_map
from . import marking
from .emergency import CLOSED, EMERGENCY, MASTER, MEMBER, SILENT, HostState, look, status
from .losing import Losing
from .observe import PoolFacts, observe
from .plan import Plan, PlannedHost, Step
from .shutdown import find_host

if TYPE_CHECKING:
    from ..credentials import Credentials
    from ..database import Database
    from ..session import Session

__all__ = ["plan_master", "plan_members", "plan_vms", "status"]
RECOVER_MEMBERS, RECOVER_MASTER, RECOVER_VMS = "recovery of members", "recovery of the master", "recovery of guests"


def plan_members(session: Session, credentials: Credentials) -> Plan:
    """The plan for having every host follow the master that `session` speaks to, and take guests again.

    Hosts that do not answer are named and not waited for. A host that serves the same pool beside the master is made its
    member. What stands against it is in `Plan.problems`.
    """
    pool = observe(session)
    master = pool.hosts[pool.master]
    others = [host for host in pool.hosts.values() if host.uuid != pool.master]
    found = {host.uuid: look(session, host.address, credentials) for host in others}
    problems, warnings, here = marking.against(pool), list[str](), list[str]()
    for host in others:
        state = found[host.uuid]
        if state.state == SILENT:
            warnings.append(f"{host.name} does not answer, and is not waited for: see whether it is on")
        elif state.state == MASTER and state.pool != pool.uuid:
            problems.append(
                f"at the address of {host.name} a host serves a pool of its own, as after a fresh installation: bring it "
                f"back with `recover member`"
            )
        elif state.state == CLOSED:
            problems.append(f"{host.name}: {state.text}")
        else:
            here.append(host.address)
            warnings += [f"{host.name} serves this pool too: it becomes a member"] * (state.state == MASTER)
    lost = {host.uuid for host in others if not _follows(found[host.uuid], master.address)}
    args = {"address": master.address, "hosts": here, "disabled": _disabled(pool, lost)}
    steps = [Step("claim"), Step("gather", host=pool.master, args=args), Step("settled", args=args), Step("release")]
    theirs = {pool.hosts[uuid].ref for uuid in lost}
    unplugged = [ref for ref, pbd in session.PBD.get_all_records().items() if pbd.host not in theirs]
    made = Plan.of(pool, RECOVER_MEMBERS, steps, problems=problems, warnings=warnings)
    return replace(made, unplugged=tuple(sorted(pool.unplugged.intersection(unplugged))))


def _follows(found: HostState, master: str) -> bool:
    return found.state == MEMBER and found.master == master


def _disabled(pool: PoolFacts, lost: set[str]) -> list[str]:
    """The hosts that somebody disabled, and that stay so: those that are no members now are expected to be enabled."""
    return [host.uuid for host in pool.hosts.values() if not host.enabled and host.uuid not in lost]


def plan_vms(session: Session, host: str, *, off: bool = False, start: bool = True) -> Plan:
    """The plan for having the pool believe that the guests of a lost host are off, and starting them on others.

    `host` is its name or uuid. `off` says that somebody knows it to be off; else the hands are asked. `start` says whether
    guests are started. What cannot be is in `Plan.warnings`. Raises `ValueError` for a host that the pool does not have.
    """
    pool = observe(session)
    lost = find_host(pool, host)
    problems, losing = losable(pool, lost), Losing.of(pool, lost)
    where = {"address": pool.hosts[lost].address, "off": off}
    steps = [Step("claim"), Step("away", host=lost, args=where), Step("believe-off", host=lost, args=where)]
    if start and losing.to:
        names = {uuid: facts.name for uuid, facts in pool.hosts.items()}
        told = ", ".join(f"{pool.vms[vm].name} on {names[to]}" for vm, to in losing.to.items())
        steps.append(Step("start-elsewhere", host=lost, reason=told, args=losing.as_args()))
    warnings = list(losing.left.values()) if start else []
    return Plan.of(pool, RECOVER_VMS, [*steps, Step("release")], problems=problems, warnings=warnings)


def losable(pool: PoolFacts, host: str) -> list[str]:
    """Why this host cannot be dealt with as one that is lost."""
    if host == pool.master:
        return [f"{pool.hosts[host].name} is the master, and it answers: it is not lost"]
    return marking.against(pool)


def plan_master(
    session: Session,
    new: str,
    lost: str,
    credentials: Credentials,
    *,
    hosts: Sequence[str] = (),
    dump: Database | None = None,
    off: bool = False,
    start: bool = False,
    forget: bool = False,
) -> Plan:
    """The plan for making the host at the address `new` the master, in the place of the one at `lost`.

    `session` is one with the host at `new`, which logs in later. `hosts` are the addresses of the other hosts. A pool
    without a master cannot be asked for anything: `dump`, a database dump of it, tells names, addresses and releases, and
    without one the plan says what it does not know. `off` says that the lost master is known to be off. `start` starts its
    guests elsewhere, `forget` drops it from the database. What stands against it is in `Plan.problems`.
    """
    known = _known(dump)
    addresses = list(dict.fromkeys([new, *hosts, *known]))
    found = {address: look(session, address, credentials) for address in addresses if address != lost}
    gone = look(session, lost, credentials)
    everybody = list(dict.fromkeys([*addresses, lost]))
    names = {address: known[address].name if address in known else address for address in everybody}
    problems = list(_against(new, lost, gone, found, names, known))
    answering = [address for address, state in found.items() if state.state != SILENT]
    warnings = [f"{names[a]} does not answer, and is not waited for" for a in found if a not in answering and a != new]
    warnings.append(f"{names[new]} serves the database that it kept last: what was written since is lost")
    if not known:
        warnings.append(
            "releases cannot be seen without a master: no host may be newer than the new one (--backup tells)"
        )
    where = {"address": lost, "off": off}
    gather = {
        "address": new,
        "hosts": [address for address in answering if address != new],
        "without": [lost],
        "disabled": [],
    }
    steps = [Step("away", host=lost, args=where)]
    steps += [Step("disarm", host=address, args={"address": address}) for address in answering]
    steps += [
        Step("promote", host=new, args={"address": new, "lost": lost}),
        Step("claim"),
        Step("gather", host=new, args=gather),
        Step("disarm-pool"),
        Step("settled", args=gather),
    ]
    if start or forget:
        steps += [Step("find-lost", host=lost, args=where), Step("believe-off", host=lost, args=where)]
    if start:
        steps.append(Step("start-elsewhere", host=lost))
    if forget:
        steps.append(Step("forget-host", host=lost, args=where))
    steps.append(Step("release"))
    return Plan(
        pool="",
        pool_name="the pool without a master",
        source="",
        target="",
        medium="",
        hosts=tuple(PlannedHost(address, names[address], "", address) for address in everybody),
        vms=(),
        steps=() if problems else tuple(steps),
        problems=tuple(problems),
        warnings=tuple(warnings),
        procedure=RECOVER_MASTER,
    )


def _against(
    new: str,
    lost: str,
    gone: HostState,
    found: Mapping[str, HostState],
    names: Mapping[str, str],
    known: Mapping[str, _Known],
) -> list[str]:
    """Why this member cannot take the master's place."""
    out = []
    if new == lost:
        return [f"{names[new]} cannot take its own place"]
    if gone.state != SILENT:
        out.append(f"{names[lost]} answers: a pool whose master can be reached needs no other one")
    if found[new].state != EMERGENCY:
        what = {
            SILENT: "does not answer",
            MASTER: "serves as master already",
            MEMBER: f"follows {found[new].master}",
        }.get(found[new].state, found[new].text)
        out.append(f"{names[new]} {what}: only a host in emergency mode can take the master's place")
    for address, state in found.items():
        if address != new and state.state == MASTER:
            out.append(f"{names[address]} serves as master already: two would be worse than none")
    release = known[new].release if new in known else ()
    out += [
        f"{host.name} is newer than {names[new]}, and could never follow it: choose that one"
        for address, host in known.items()
        if release and address not in (new, lost) and host.release > release
    ]
    return out


class _Known:
    """What a dump says of a host: its name, and its release as a tuple of numbers."""

    def __init__(self, name: str, version: str) -> None:
        self.name = name
        self.release = tuple(int(part) for part in version.split(".") if part.isdigit())


def master_of(dump: Database) -> str:
    """The address of the master in a dump."""
    return dump.row("host", dump.master).cells["address"]


def _known(dump: Database | None) -> dict[str, _Known]:
    """The hosts of a dump by address."""
    out = {}
    for row in dump.tables["host"].rows.values() if dump is not None else ():
        software = parse_map(row.cells.get("software_version", "()"))
        out[row.cells["address"]] = _Known(row.cells["name__label"], software.get("product_version", ""))
    return out
