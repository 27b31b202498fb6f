"""A rolling upgrade: every host gets a new release, one after another, while the guests go on running.

After the installation guide: back up the database; eject CDs; resume what is suspended, since a suspended guest cannot
cross releases; empty the master guest by guest, halt it, install, wait until the pool is out of emergency mode; then each
member likewise, its guests going only to hosts that are upgraded; bring guests home, put CDs back, suspend again what was
suspended. A guest that cannot move is shut down for its host's turn and started again, and is named before the start.

`plan` looks at the pool and plays the whole sequence through; `run` carries it out, step by step (see `running`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from ..calls import EMPTY_MAP
from ..errors import ProcedureError
from ..releases import Release, accepts, find, next_release, path
from .hands import Hands
from .journal import Journal
from .observe import PoolFacts, VMFacts, attached, observe
from .placement import Board, DoesNotFit, Move, empty, go_home, orders, pinned, reachable
from .plan import Plan, PlannedHost, PlannedVM, Step
from .running import Gate, Outcome, Progress, Run, StepDone

if TYPE_CHECKING:
    from os import PathLike

    from ..session import Session


# --- planning


def plan(session: Session, target: str | None = None) -> Plan:
    """The plan for upgrading the session's pool to `target` (a product version; the next release if left out).

    Whatever stands against it is in `Plan.problems`; nothing is changed. Raises `ValueError` for an unknown release.
    """
    pool = observe(session)
    silent = [
        f"{host.name} does not answer at {host.address or 'no address'} as a member of this pool"
        for host in pool.hosts.values()
        if host.uuid != pool.master and host.live and not attached(session, host.address)
    ]
    made = make_plan(pool, target)
    return replace(made, steps=(), problems=(*made.problems, *silent)) if silent else made


def make_plan(pool: PoolFacts, target: str | None = None) -> Plan:
    """The plan for a pool that was observed."""
    source = pool.release
    release = _wanted(source, target) if target is not None else next_release(source)
    if release is None:
        return _plan(pool, source, source, [pool.master], problems=[f"there is no release after {source.name}"])
    problems = _against(pool, source, release)
    if problems:
        return _plan(pool, source, release, [pool.master], problems=problems)
    board, warnings, refusal = Board.of(pool), _oddities(pool), ""
    for order in orders(pool, board):
        for tight in (False, True):
            try:
                return _played(pool, source, release, order, board.copy(tight=tight), warnings)
            except DoesNotFit as error:
                refusal = refusal or f"no way was found to empty the hosts one after another: {error}"
    return _plan(pool, source, release, [pool.master], problems=[refusal], warnings=warnings)


def _wanted(source: Release, target: str) -> Release:
    """The release called `target`, of the pool's own brand where no brand is named."""
    try:
        return find(f"{source.product_brand} {target}")
    except ValueError:
        return find(target)


def _oddities(pool: PoolFacts) -> list[str]:
    """What is worth saying and stops nothing."""
    out = [f"{host.name}: {sr} is not plugged" for host in pool.hosts.values() for sr in host.unplugged]
    for host in pool.hosts.values():
        if host.version != host.release.product_version:
            said = host.version or "no version that it tells"
            out.append(f"{host.name} runs {said}, which is not known here; it is taken for {host.release.name}")
    return out


def _against(pool: PoolFacts, source: Release, target: Release) -> list[str]:
    """Everything that stands against an upgrade before placement is looked at."""
    out = []
    if target == source:
        out.append(f"the pool runs {source.name} already")
    elif target < source:
        out.append(f"{target.name} is older than the pool's {source.name}: an upgrade only goes forward")
    elif not accepts(target, source):
        out.append(f"the {target.name} installer does not upgrade {source.name}{_by_way_of(source, target)}")
    if len(pool.hosts) < 2:
        out.append("the pool has one host: there is nowhere for its guests to run meanwhile")
    if pool.upgrading or any(host.version != pool.hosts[pool.master].version for host in pool.hosts.values()):
        out.append("versions are mixed already: an earlier upgrade was not finished")
    if pool.mark:
        out.append(
            f"another run ({pool.mark}) is at work on this pool: resume or abandon that one, or take over if it is lost"
        )
    if pool.ha_enabled:
        out.append("high availability is on: switch it off first, it would fence the hosts that are upgraded")
    for host in pool.hosts.values():
        others = [other.name for other in pool.hosts.values() if other is not host and other.address == host.address]
        if others:
            out.append(f"{host.name} has the same address as {', '.join(others)}: {host.address or 'none'}")
        if not host.live:
            out.append(f"{host.name} is not running")
        elif not host.enabled:
            out.append(f"{host.name} is disabled")
    for vm in pool.vms.values():
        if vm.busy:
            out.append(f"{vm.name} has an operation going on ({', '.join(vm.busy)})")
        if vm.state not in ("Halted", "Paused", "Running", "Suspended"):
            out.append(f"{vm.name} is in a power state that XenAPI does not have ({vm.state})")
        elif vm.state == "Paused":
            out.append(f"{vm.name} is paused: a paused guest cannot migrate; unpause it or shut it down")
        elif vm.state == "Running" and vm.stuck:
            out.append(f"{vm.name} can neither migrate nor be shut down cleanly: {vm.stuck}")
        elif vm.state == "Suspended" and vm.stuck:
            out.append(f"{vm.name} is suspended and {vm.stuck}; shut it down by force, or restore the image")
    return out


def _by_way_of(source: Release, target: Release) -> str:
    try:
        hops = path(source, target)[:-1]
    except ValueError:
        return ""
    return f"; go by way of {', '.join(hop.product_version for hop in hops)}"


def _plan(
    pool: PoolFacts,
    source: Release,
    target: Release,
    order: list[str],
    *,
    downtime: Mapping[str, str] = EMPTY_MAP,
    steps: Sequence[Step] = (),
    problems: Sequence[str] = (),
    warnings: Sequence[str] = (),
    away: Sequence[str] = (),
) -> Plan:
    order = [*order, *(uuid for uuid in pool.hosts if uuid not in order)]
    return Plan(
        pool=pool.uuid,
        pool_name=pool.name,
        source=source.product_version,
        target=target.product_version,
        medium=target.name,
        hosts=tuple(PlannedHost(uuid, pool.hosts[uuid].name, pool.hosts[uuid].version) for uuid in order),
        vms=tuple(
            PlannedVM(vm.uuid, vm.name, vm.state, vm.host or None, vm.uuid in downtime, downtime.get(vm.uuid, ""))
            for vm in sorted(pool.vms.values(), key=lambda vm: vm.name)
        ),
        steps=tuple(steps),
        problems=tuple(problems),
        warnings=tuple(warnings),
        away=tuple(away),
        master=pool.master,
        unplugged=tuple(sorted(pool.unplugged)),
    )


def _played(
    pool: PoolFacts, source: Release, target: Release, order: list[str], board: Board, warnings: list[str]
) -> Plan:
    """Play the sequence with hosts in `order` on `board`. Raises `DoesNotFit`."""
    steps = [Step("backup"), Step("claim")]
    steps += [_eject(vm, disc.vbd) for vm in pool.vms.values() if vm.state != "Suspended" for disc in vm.discs]
    suspended = [vm for vm in pool.vms.values() if vm.state == "Suspended"]
    for vm in sorted(suspended, key=lambda vm: (-vm.memory, vm.name)):
        host = _resume_at(pool, board, vm)
        board.place(vm, host)
        steps.append(Step("resume", vm=vm.uuid, to=host, reason="a suspended guest cannot cross releases"))
        steps += [_eject(vm, disc.vbd) for disc in vm.discs]
    homes = {vm.uuid: vm.host for vm in pool.vms.values() if vm.host}
    downtime: dict[str, str] = {}
    upgraded: list[str] = []
    for host in order:
        fixed = {vm.uuid: why for vm in board.on(host) if (why := pinned(pool, vm, host))}
        for uuid in fixed:
            if not reachable(pool.vms[uuid], pool.hosts[host]):
                raise DoesNotFit(
                    f"{pool.vms[uuid].name} has to be shut down when {pool.hosts[host].name} is upgraded, and could not be "
                    "started again: that host does not reach all of its storage and networks"
                )
        allowed = upgraded or [uuid for uuid in order if uuid != host]
        steps.append(Step("turn", host=host))
        steps.append(Step("disable", host=host, reason="no guest is to come while it is emptied"))
        steps += [_migrate(move) for move in empty(board, host, allowed, homes, set(fixed))]
        steps += [Step("stop", host=host, vm=uuid, reason=why) for uuid, why in fixed.items()]
        steps.append(Step("halt", host=host))
        steps.append(Step("install", host=host, release=target.product_version))
        steps.append(Step("return", host=host, release=target.product_version))
        steps += [Step("start", host=host, vm=uuid, to=host, reason="it was shut down for this turn") for uuid in fixed]
        lost = {uuid: f"{why}; its saved state is lost" for uuid, why in fixed.items() if uuid not in homes}
        downtime.update({**fixed, **lost})
        upgraded.append(host)
    steps.append(Step("equal", release=target.product_version))
    moves, away = go_home(board, homes)
    why = "its home has no room for it, or lacks its storage or networks"
    warnings = [*warnings, *(f"{pool.vms[uuid].name} ends away from home: {why}" for uuid in away)]
    steps += [_migrate(move) for move in moves]
    for vm in pool.vms.values():
        for disc in vm.discs:
            at = board.where.get(vm.uuid)
            if at is None or disc.sr in pool.hosts[at].storage:
                steps.append(Step("insert", vm=vm.uuid, vbd=disc.vbd, vdi=disc.vdi))
            else:
                warnings.append(
                    f"the CD of {vm.name} is not put back: its host does not reach the storage that it is on"
                )
    steps += [Step("suspend", vm=vm.uuid, reason="it was suspended at the start") for vm in suspended]
    steps += [Step("verify"), Step("release")]
    return _plan(pool, source, target, order, downtime=downtime, steps=steps, warnings=warnings, away=away)


def _eject(vm: VMFacts, vbd: str) -> Step:
    return Step("eject", vm=vm.uuid, vbd=vbd, reason="a CD ties a guest to what its host sees")


def _migrate(move: Move) -> Step:
    return Step("migrate", host=move.source, vm=move.vm, to=move.target, reason=move.reason)


def _resume_at(pool: PoolFacts, board: Board, vm: VMFacts) -> str:
    """The host to resume `vm` on: one that reaches its disks, its suspend image and its CDs; rather not the master, which is
    emptied first."""
    needs = replace(vm, storage=vm.storage | {vm.image} | {disc.sr for disc in vm.discs})
    seeing = [uuid for uuid, host in pool.hosts.items() if reachable(needs, host)]
    if not seeing:
        raise DoesNotFit(f"{vm.name} is suspended and cannot be resumed: no host reaches all of its disks")
    members = [uuid for uuid in seeing if uuid != pool.master]
    found = board.best(vm, members) or board.best(vm, seeing)
    if found is None:
        rooms = "; ".join(f"{pool.hosts[u].name} has {max(0, board.free[u]) >> 20} MiB free" for u in seeing)
        raise DoesNotFit(
            f"{vm.name} is suspended and has to be resumed before the master is upgraded, but memory forbids it: "
            f"it takes {vm.memory >> 20} MiB; {rooms}"
        )
    return found


# --- running


def run(
    session: Session,
    plan: Plan,
    hands: Hands,
    *,
    journal: Journal | None = None,
    backup_to: str | PathLike[str] | None = None,
    accept_downtime: bool = False,
    gates: Sequence[Gate] = (),
    poll: float | None = None,
    on_step: Progress | None = None,
) -> Outcome:
    """Carry out `plan` with `hands` on the machines, or go on with it where `journal` says that it was begun.

    Without a `journal` the run keeps one in memory, and cannot be resumed by another process. `gates` are asked before each
    host's turn; `poll` is the seconds between two looks at what is waited for. `on_step` is told the number of the step, how
    many there are, and the step in words. Raises `ProcedureError` before anything is changed where the plan has problems, or
    shuts guests down and `accept_downtime` is not given. Once it has begun it returns: a step that does not do what it is
    for stops the run, and `Outcome.problems` says which and why.
    """
    assert_can_run(plan, accept_downtime=accept_downtime)
    kept = Journal.create(plan) if journal is None else journal
    return Run(session, plan, hands, kept, backup_to=backup_to, gates=gates, poll=poll).carry_out(on_step)


def assert_can_run(plan: Plan, *, accept_downtime: bool = False) -> None:
    """Raise `ProcedureError` where the plan has problems, or shuts guests down and `accept_downtime` is not given."""
    if plan.problems:
        raise ProcedureError("this upgrade cannot be done", plan.problems)
    if plan.downtime and not accept_downtime:
        raise ProcedureError(
            "this upgrade shuts guests down; say that you accept the downtime",
            [f"{vm.name}: {vm.why}" for vm in plan.downtime],
        )


__all__ = ["Outcome", "StepDone", "assert_can_run", "make_plan", "plan", "run"]
