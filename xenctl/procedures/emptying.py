"""Emptying one host while the others go on: where its guests go, and what becomes of those that can go nowhere.

A guest that cannot move is refused, suspended or shut down, by policy; the reason names the guest, and what is missing. What
the pool itself says against a guest's leaving counts too, in words.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from ..errors import Failure
from ..releases import find
from ..values import Ref
from . import marking
from .acts.maintenance import LISTS
from .observe import PoolFacts, VMFacts, attached
from .placement import GIB, Board, needs, pinned, reachable
from .plan import Step

if TYPE_CHECKING:
    from ..session import Session

REFUSE, SUSPEND, SHUT_DOWN = "refuse", "suspend", "shut-down"
POLICIES = (REFUSE, SUSPEND, SHUT_DOWN)
"""What becomes of a guest that cannot leave its host: the procedure is refused, or the guest is suspended or shut down."""
AWAY_BY: Mapping[str, tuple[str, str, str, str]] = {
    SUSPEND: ("suspend", "resume", "suspended", "suspend"),
    SHUT_DOWN: ("stop", "start", "halted", "clean_shutdown"),
}
"""The steps by which a policy puts a guest away and brings it back, the list that the guest is in then, and the operation
that it must allow."""

CAUSES: Mapping[str, str] = {
    "VM_REQUIRES_SR": "it needs storage that no other host reaches",
    "VM_REQUIRES_NETWORK": "it needs a network that no other host has",
    "VM_REQUIRES_GPU": "it uses a graphics processor of its host",
    "VM_REQUIRES_IOMMU": "it uses hardware of its host",
    "VM_HAS_PCI_ATTACHED": "it has a device of its host passed through",
    "VM_HAS_VGPU": "it has a virtual graphics processor",
    "VM_HAS_SRIOV_VIF": "it has a network interface that is part of its host's card",
    "VM_LACKS_FEATURE": "its tools do not let it migrate",
    "VM_LACKS_FEATURE_SUSPEND": "its tools do not let it be suspended",
    "VM_MISSING_PV_DRIVERS": "it has no paravirtual drivers",
    "VM_OLD_PV_DRIVERS": "its paravirtual drivers are too old",
    "VM_INCOMPATIBLE_WITH_THIS_HOST": "it uses features of its host's processor that no other has",
    "HOST_EVACUATE_VM_NOT_HA_PROTECTED": "high availability does not protect it, and keeps the other hosts' memory",
    "VM_HOST_INCOMPATIBLE_VERSION": "no other host has its host's release, or a newer one",
    "OPERATION_NOT_ALLOWED": "it is not allowed to migrate",
    "OTHER_OPERATION_IN_PROGRESS": "something is being done with it",
}
"""What the pool's own reasons mean, by code. Those about memory are not here: the plan's own board tells them better."""
CAPACITY = frozenset({"HOST_NOT_ENOUGH_FREE_MEMORY", "NO_HOSTS_AVAILABLE"})
OF_ONE_HOST = frozenset(
    "VM_REQUIRES_SR VM_REQUIRES_NETWORK HOST_CANNOT_ATTACH_NETWORK VM_HVM_REQUIRED VM_INCOMPATIBLE_WITH_THIS_HOST "
    "HOST_NOT_LIVE HOST_DISABLED".split()
)
"""What one host lacks. The pool names the first of those that may take guests, though another has all that it takes; the
plan's own board knows which."""
ASKED_SINCE = "6.1"
"""The release whose reasons can be trusted: up to 5.6 Feature Pack 1 a host is not emptied without current drivers in every
guest, in 6.0 not without drivers in those that need none to migrate."""


@dataclass
class Emptying:
    """What emptying a host takes: steps away, the same guests' steps back, and what stands against it. `left` are the
    guests' uuids by what becomes of them."""

    left: dict[str, list[str]] = field(default_factory=lambda: {what: [] for what in LISTS})
    away: list[Step] = field(default_factory=list)
    back: list[Step] = field(default_factory=list)
    downtime: dict[str, str] = field(default_factory=dict)
    problems: list[str] = field(default_factory=list)


def empty(session: Session, board: Board, host: str, policy: str, reason: str) -> Emptying:
    """Empty `host` on `board`, big guests first; nothing is changed in the pool, which is only asked."""
    pool, out = board.pool, Emptying()
    refused = refused_by_pool(session, pool, host) if pool.hosts[host].live else {}
    allowed = targets(pool, host)
    for vm in board.on(host):
        whole = needs(vm)
        why = pinned(pool, vm, host) or _disc_pins(pool, whole, host) or refused.get(vm.uuid, "")
        target = None if why or vm.state == "Paused" else board.best(whole, allowed)
        if target is not None:
            board.move(vm, target)
            out.left["migrated"].append(vm.uuid)
            out.away.append(Step("migrate", host=host, vm=vm.uuid, to=target, reason=reason))
            out.back.append(Step("migrate", host=target, vm=vm.uuid, to=host, reason="home"))
        else:
            why = why or f"it fits nowhere: {_rooms(board, allowed, whole)}"
            _put_away(session, out, board, vm, policy, why)
    return out


def _put_away(session: Session, out: Emptying, board: Board, vm: VMFacts, policy: str, why: str) -> None:
    """Do with a guest that cannot move what the policy says, if the guest allows that."""
    host, where = vm.host, board.pool.hosts[vm.host].name
    if vm.state == "Paused":
        out.problems.append(f"{vm.name} is paused, and cannot leave {where}: unpause it, or shut it down")
    elif vm.stuck:
        out.problems.append(f"{vm.name} cannot leave {where}, nor be suspended or shut down cleanly: {vm.stuck}")
    elif policy == REFUSE:
        out.problems.append(f"{vm.name} cannot leave {where}: {why}")
    elif AWAY_BY[policy][3] not in session.VM.get_allowed_operations(Ref(vm.ref)):
        out.problems.append(f"{vm.name} cannot leave {where}: {why}; and it does not allow {AWAY_BY[policy][3]} now")
    else:
        there, back, what, _ = AWAY_BY[policy]
        out.left[what].append(vm.uuid)
        out.away.append(Step(there, host=host, vm=vm.uuid, reason=why))
        out.back.insert(
            0, Step(back, host=host, vm=vm.uuid, to=host, reason=f"it was there; {there} was for this turn")
        )
        out.downtime[vm.uuid] = why
        board.remove(vm)


def targets(pool: PoolFacts, host: str) -> list[str]:
    """The hosts that may take guests of `host`: in service, and not older. A master up to 5.5 refuses hosts older than
    itself, too."""
    least = pool.hosts[host].release
    if pool.release < find("5.6"):
        least = max(least, pool.release)
    return [
        uuid
        for uuid, facts in pool.hosts.items()
        if uuid != host and facts.enabled and facts.live and facts.release >= least
    ]


def _disc_pins(pool: PoolFacts, vm: VMFacts, host: str) -> str:
    """Why the discs in a guest's drives keep it on `host`, if they do."""
    if any(reachable(vm, facts) for uuid, facts in pool.hosts.items() if uuid != host):
        return ""
    names = ", ".join(sorted(pool.storage_names.get(disc.sr, disc.sr) for disc in vm.discs))
    return f"the disc in its drive is on storage that no other host reaches ({names}): eject it"


def _rooms(board: Board, hosts: Iterable[str], vm: VMFacts) -> str:
    """What each of `hosts` has for a guest."""

    def said(host: str) -> str:
        facts = board.pool.hosts[host]
        if not reachable(vm, facts):
            return f"{facts.name} lacks its storage, its networks, or the processor for it"
        return f"{facts.name} has {max(0, board.free[host]) / GIB:.1f} GiB free"

    found = "; ".join(said(host) for host in hosts) or "no other host is in service"
    return f"it takes {vm.memory / GIB:.1f} GiB; {found}"


def refused_by_pool(session: Session, pool: PoolFacts, host: str) -> dict[str, str]:
    """The guests of `host` that the pool would not let go, by uuid, and why; those that only lack memory left out, and
    those that only one of several hosts could not take."""
    if pool.release < find(ASKED_SINCE):
        return {}
    passed_over = CAPACITY | OF_ONE_HOST if len(targets(pool, host)) > 1 else CAPACITY
    said = session.host.get_vms_which_prevent_evacuation(Ref(pool.hosts[host].ref))
    by_ref = {vm.ref: vm.uuid for vm in pool.vms.values()}
    return {
        by_ref[ref]: CAUSES.get(error[0], Failure(list(error)).args[0] if error else "the pool does not say why")
        for ref, error in said.items()
        if ref in by_ref and not (error and error[0] in passed_over)
    }


# --- what plans of these procedures have in common


def against_work(session: Session, pool: PoolFacts, hosts: Iterable[str], *, take_over: bool = False) -> list[str]:
    """What stands against work on `hosts`, one after another: another run, mixed versions, hosts that are not in service."""
    out = marking.against(pool, take_over=take_over)
    versions = {host.version for host in pool.hosts.values()}
    if pool.upgrading or len(versions) > 1:
        out.append(f"versions are mixed ({', '.join(sorted(versions))}): finish the upgrade first, or revert it")
    if len(pool.hosts) < 2:
        out.append("the pool has one host: there is nowhere for its guests to run meanwhile")
    for uuid, host in pool.hosts.items():
        if not host.live:
            out.append(f"{host.name} is not running")
        elif not host.enabled:
            out.append(f"{host.name} is disabled: enable it, or leave its maintenance mode")
        elif uuid != pool.master and not attached(session, host.address):
            out.append(f"{host.name} does not answer at {host.address or 'no address'} as a member of this pool")
    chosen = [pool.hosts[uuid] for uuid in hosts]
    out += [f"{host.name}: {sr} is not plugged" for host in chosen for sr in host.unplugged]
    return out
