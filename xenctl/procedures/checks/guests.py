"""Checks of guests: what cannot move, what cannot be shut down, what would not come back."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from ...releases import XENSERVER
from ..acts import mending
from ..observe import VMFacts
from ..planner.pieces import LEAVE, MIGRATE, SHUT_DOWN, SUSPEND
from .finding import BLOCKS, EITHER, WARNS, Check, Found
from .survey import Situation


def _vm(vm: VMFacts, why: str, **more: Any) -> Found:
    return Found("VM", vm.uuid, vm.name, why, **more)


def _states(at: Situation) -> Iterator[Found]:
    for vm in at.facts.vms.values():
        if vm.state not in ("Halted", "Paused", "Running", "Suspended"):
            yield _vm(vm, f"{vm.name} is in a power state that XenAPI does not have ({vm.state})")
        elif vm.state == "Paused":
            yield _vm(vm, f"{vm.name} is paused: a paused guest cannot migrate; unpause it or shut it down")


def _drivers(at: Situation) -> Iterator[Found]:
    for vm in at.facts.vms.values():
        if vm.state == "Running" and vm.stuck:
            yield _vm(vm, f"{vm.name} can neither migrate nor be shut down cleanly: {vm.stuck}")


def _suspended(at: Situation) -> Iterator[Found]:
    for vm in at.facts.vms.values():
        if vm.state != "Suspended":
            continue
        if vm.stuck:
            why = f"{vm.name} is suspended and {vm.stuck}; shut it down by force, or restore the image"
            yield _vm(vm, why, level=BLOCKS)
        else:
            disc = " with a CD in its drive" if vm.discs else ""
            yield _vm(vm, f"{vm.name} is suspended{disc}: {_waits(at, vm)}", level=WARNS)


def _waits(at: Situation, vm: VMFacts) -> str:
    """What becomes of a suspended guest."""
    if at.policy(vm) in (LEAVE, SUSPEND):
        return "it is not resumed for the upgrade, as was asked"
    if at.mixed:
        return "it is not resumed while versions are mixed"
    return "it is resumed before any host is upgraded, and suspended again at the end"


def _discs(at: Situation) -> Iterator[Found]:
    having = sorted(
        vm.name for vm in at.facts.vms.values() if vm.discs and vm.state != "Suspended" and at.policy(vm) != LEAVE
    )
    if having:
        why = f"CDs are taken out at the start and put back at the end: {', '.join(having)}"
        yield Found("pool", at.facts.uuid, at.facts.name, why)


def _shut(at: Situation, *, tied: bool) -> Iterator[Found]:
    """The guests that are shut down because they can go nowhere, by devices (`tied`) or for want of anything else."""
    for uuid, why in at.pinned.items():
        vm = at.facts.vms[uuid]
        resting = at.policy(vm) in (LEAVE, SUSPEND) or at.is_new(at.facts.hosts[vm.host])
        if bool(vm.tied) == tied and not resting:
            yield _vm(vm, f"{vm.name} is shut down when its host is upgraded: {why}")


def _devices(at: Situation) -> Iterator[Found]:
    return _shut(at, tied=True)


def _tied(at: Situation) -> Iterator[Found]:
    return _shut(at, tied=False)


def _blocked(at: Situation) -> Iterator[Found]:
    for vm, record in at.up():
        blocked: Mapping[str, str] = record.get("blocked_operations", {})
        for operation in _wanted(at, vm):
            if operation not in blocked:
                continue
            step = mending.set_key(
                *("VM", vm.uuid, "blocked_operations", operation, None, blocked[operation]),
                f"allow {operation} of {vm.name}",
                f"block {operation} of {vm.name} again",
            )
            why = f"{operation} of {vm.name} is blocked by somebody ({blocked[operation] or 'no reason given'}), and needed"
            yield _vm(vm, why, steps=(step,), unmend=(mending.back(step),))


WANTED: Mapping[str, tuple[str, ...]] = {
    MIGRATE: ("pool_migrate",),
    SUSPEND: ("suspend", "resume", "resume_on"),
    SHUT_DOWN: ("clean_shutdown", "start", "start_on"),
    LEAVE: (),
}
"""The operations that the run needs of a guest that is up, by what becomes of it."""


def _wanted(at: Situation, vm: VMFacts) -> tuple[str, ...]:
    """The operations that the run needs of a guest that is up."""
    policy = at.policy(vm)
    if vm.state == "Suspended":
        return () if policy in (LEAVE, SUSPEND) else ("resume", "resume_on", *WANTED[policy], "suspend")
    return WANTED[SHUT_DOWN if policy == MIGRATE and vm.uuid in at.pinned else policy]


def begins(at: Situation) -> bool:
    """Whether the run resumes or starts a guest under a release that looks at licences then: up to 6.1 they all do."""
    return any(
        {"resume", "start"} & set(_wanted(at, vm))
        for vm, _ in at.up()
        if vm.state == "Suspended" or not at.reaches(6, 2)
    )


def _paravirtual(at: Situation) -> Iterator[Found]:
    """XenServer 8.2.1 and later do not start such guests, and what runs has to run on the new release in the end."""
    if not at.crosses(8, 1) and not at.crosses(8, 2, 1):
        return
    for vm, record in at.guests():
        kind = record.get("domain_type", "unspecified")
        if kind != "pv" and (kind != "unspecified" or vm.hvm):
            continue
        if not at.reaches(8, 2, 1) or at.target.product_brand != XENSERVER:
            yield _vm(vm, f"{vm.name} is paravirtualised (PV), which is not supported from 8.1 on", level=WARNS)
        else:
            level = WARNS if vm.state == "Halted" else BLOCKS
            yield _vm(vm, f"{vm.name} is paravirtualised (PV): such guests do not start from 8.2.1 on", level=level)


def _sockets(at: Situation) -> Iterator[Found]:
    for vm, record in at.guests():
        cores = record.get("platform", {}).get("cores-per-socket", "")
        if cores.isdigit() and int(cores) and int(record["VCPUs_max"]) % int(cores):
            why = f"{vm.name} has {record['VCPUs_max']} VCPUs, which sockets of {cores} cores do not make up"
            yield _vm(vm, why)


CHECKS = (
    Check(
        *("guest-state", BLOCKS, "guests that are paused, or in a state that does not exist"),
        *("unpause the guest, or shut it down", _states),
    ),
    Check(
        *("pv-drivers", BLOCKS, "HVM guests whose paravirtual drivers are missing or too old"),
        *("install the guest tools, or shut the guest down by hand", _drivers),
    ),
    Check(
        *("suspended", EITHER, "suspended guests; one whose image is gone blocks"),
        *("resume or shut down what need not be suspended", _suspended),
    ),
    Check(*("discs", WARNS, "CDs in drives"), *("nothing: the run takes them out and puts them back", _discs)),
    Check(
        *("devices", WARNS, "devices, SR-IOV networks and, up to 5.6, missing drivers that tie guests to their hosts"),
        *("detach the device, or install the guest tools, or accept the downtime", _devices),
    ),
    Check(
        *("local-storage", WARNS, "guests on storage or networks that only their host reaches"),
        *("move the disks to shared storage, or accept the downtime", _tied),
    ),
    Check(
        *("blocked-operations", BLOCKS, "operations that somebody blocked and the run needs"),
        *("take the block away for the time of the upgrade", _blocked),
    ),
    Check(
        *(
            "pv-guests",
            EITHER,
            "paravirtualised guests, when going to 8.1 or past it; XenServer 8.2.1 does not start them",
        ),
        *("convert them to HVM, or retire them", _paravirtual),
    ),
    Check(
        *("sockets", WARNS, "guests whose VCPUs do not fill their sockets"),
        *("set platform:cores-per-socket so that it divides VCPUs_max", _sockets),
    ),
)
