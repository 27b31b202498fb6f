"""A failed member comes back: forgotten, installed afresh with the pool's release, joined again, its guests at home.

The pool knows it by a new uuid then. It is also how an upgrade goes on whose member's installation failed: a member needs
no way back, it is made anew with the master's release.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from .losing import Losing, own_storage
from .observe import PoolFacts, observe
from .plan import Plan, Step
from .recover import losable
from .shutdown import find_host

if TYPE_CHECKING:
    from ..session import Session

RECOVER_MEMBER = "recovery of a member"


def plan(session: Session, host: str, *, off: bool = False, accept_loss: bool = False, force: bool = False) -> Plan:
    """The plan for bringing the failed member with this name or uuid back by a fresh installation.

    `off` says that it is known to be off; else the hands are asked. What is on its own storage is lost, and has to be agreed
    to by `accept_loss` where disks of guests are there. `force` joins it though its processors differ. What stands against
    it is in `Plan.problems`, what is lost in `Plan.warnings`. Raises `ValueError` for a host that the pool does not have.
    """
    pool = observe(session)
    lost = find_host(pool, host)
    facts, losing = pool.hosts[lost], Losing.of(pool, lost)
    problems = losable(pool, lost)
    if pool.ha_enabled:
        problems.append("high availability is on: switch it off first, no host can join meanwhile")
    warnings, losses = [], 0
    for sr in own_storage(session, facts.ref):
        losses += len(sr.disks)
        what = f"with {', '.join(sr.disks)}" if sr.disks else "with nothing on it"
        warnings += [f"{sr.name} is lost, {what}"] * (not sr.media)
    if losses and not accept_loss:
        problems.append(
            f"disks on storage of {facts.name} alone would be lost ({losses}): agree to that (--accept-loss)"
        )
    running = [vm for vm in pool.vms.values() if vm.host == lost]
    warnings += losing.left.values()
    warnings += [f"{vm.name} is started elsewhere and stays there: {vm.stuck}" for vm in running if vm.stuck]
    warnings.append(
        f"{facts.name} is known by a new uuid afterwards; addresses of its interfaces beside the management one, its iSCSI "
        f"name, its licence and its certificates are to be set anew"
    )
    steps = _steps(session, pool, lost, losing, off=off, force=force)
    made = Plan.of(pool, RECOVER_MEMBER, steps, problems=problems, warnings=warnings)
    return replace(made, medium=pool.release.name)


def _steps(session: Session, pool: PoolFacts, lost: str, losing: Losing, *, off: bool, force: bool) -> list[Step]:
    facts, master = pool.hosts[lost], pool.hosts[pool.master].address
    where = {"address": facts.address, "off": off}
    running = [vm for vm in pool.vms.values() if vm.host == lost]
    gone = {sr.ref for sr in own_storage(session, facts.ref)}
    home = sorted((vm for vm in running if not vm.stuck and not vm.storage & gone), key=lambda vm: (vm.order, vm.name))
    before = {
        "address": facts.address,
        "name": facts.name,
        "description": session.host.get_name_description(facts.ref),  # type: ignore[arg-type]
        "affinity": [vm.uuid for vm in pool.vms.values() if vm.affinity == lost],
    }
    others = [host.uuid for host in pool.hosts.values() if not host.enabled and host.uuid != lost]
    settled = {"address": master, "disabled": others}
    steps = [Step("claim"), Step("away", host=lost, args=where), Step("believe-off", host=lost, args=where)]
    if losing.to:
        steps.append(Step("start-elsewhere", host=lost, args=losing.as_args()))
    steps += [
        Step("forget-host", host=lost, args=where),
        Step("install-afresh", host=lost, release=pool.release.name, args={"address": facts.address}),
        Step("join", host=lost, args={"address": facts.address, "master": master, "force": force}),
        Step("settled", args=settled),
        Step("as-before", host=lost, args=before),
    ]
    if home:
        steps.append(Step("go-home", host=lost, args={"address": facts.address, "vms": [vm.uuid for vm in home]}))
    return [*steps, Step("release")]
