"""A rolling upgrade: every host gets a new release, one after another, while the guests go on running.

After the installation guide: back up the database; eject CDs; resume what is suspended, since a suspended guest cannot
cross releases; empty the master guest by guest, halt it, install, wait until the pool is out of emergency mode; then each
member likewise, its guests going only to hosts that are upgraded; bring guests home, put CDs back, suspend again what was
suspended. A guest that cannot move is shut down for its host's turn and started again, and is named before the start.

`plan` looks at the pool and plays the whole sequence through; `run` carries it out, step by step (see `running`), or goes on
with it. `adopt` plans the rest of an upgrade that somebody left half done; `replan` that of our own, where the pool is not
any more as the plan expects.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from ..errors import ProcedureError
from ..releases import Release, accepts, find, next_release, path
from .guest_policies import MIGRATE
from .hands import Hands
from .journal import Journal
from .observe import HostFacts, PoolFacts, attached, observe
from .placement import DoesNotFit
from .plan import Plan, PlannedHost, PlannedVM, Step
from .policy import RESTART, Policy
from .running import PASSED_OVER, Gate, Outcome, Progress, Run, StepDone
from .sequence import Baseline, Played, find_sequence
from .upgrade_path import no_return

if TYPE_CHECKING:
    from os import PathLike

    from ..session import Session


# --- planning


Policies = Callable[[PoolFacts], Mapping[str, str]]
"""Says what becomes of guests, by uuid, in a pool that was observed (see `guest_policies`)."""


def plan(
    session: Session, target: str | None = None, *, take_over: bool = False, policies: Policies | None = None
) -> Plan:
    """The plan for upgrading the session's pool to `target` (a product version; the next release if left out).

    Whatever stands against it is in `Plan.problems`; nothing is changed. `take_over` plans although the pool is marked with
    another run, which is lost; `policies` says what becomes of guests that are not to migrate. Raises `ValueError` for an
    unknown release.
    """
    pool = observe(session)
    wanted = policies(pool) if policies is not None else {}
    return make_plan(pool, target, silent=_silent(session, pool), take_over=take_over, policies=wanted)


def adopt(
    session: Session, target: str | None = None, *, take_over: bool = False, policies: Policies | None = None
) -> Plan:
    """The plan for the rest of an upgrade that was left half done, by whomever: the pool of mixed versions is taken as the
    baseline, since nobody knows how it was before. `target` is the master's release if left out."""
    pool = observe(session)
    silent = _silent(session, pool)
    return make_plan(
        pool,
        target or pool.release.name,
        baseline=Baseline.of(pool),
        silent=silent,
        take_over=take_over,
        half_done=True,
        policies=policies(pool) if policies is not None else {},
    )


def replan(session: Session, journal: Journal, without: Collection[str] = ()) -> Plan:
    """The plan for the rest of the run in `journal`, from the pool as it is now back to the baseline of the first plan.

    The hosts in `without`, by uuid, are left as they are, with the guests on them: what is left then ends before guests go
    home, with a step that says so.
    """
    pool, first = observe(session), journal.first_plan
    baseline, source = Baseline.of_plan(first, pool), _wanted(pool.release, first.source)
    begun = any(timing.step.action == "claim" for timing in journal.timings())
    again = functools.partial(
        make_plan,
        target=first.medium,
        silent=_silent(session, pool),
        take_over=pool.mark == journal.run_id,
        half_done=begun,
        source=source,
        policies=first.policies,
        backed_up=journal.get("backup") is not None,
    )
    if not without:
        return again(pool, baseline=baseline)
    made = again(_reduced(pool, without), baseline=baseline.within(pool, without))
    whole = make_plan(
        pool, first.medium, baseline=baseline, source=source, take_over=True, half_done=True, unplayed=True
    )
    end = next((n for n, step in enumerate(made.steps) if step.action == "equal"), len(made.steps))
    why = str((journal.get(PASSED_OVER) or {}).get("why", ""))
    left = tuple(Step("left out", host=uuid, reason=why) for uuid in sorted(without))
    return replace(
        whole,
        hosts=(*made.hosts, *(host for host in whole.hosts if host.uuid in without)),
        steps=(*made.steps[:end], *left, *made.steps[end:]) if made.steps else (),
        problems=made.problems,
        warnings=made.warnings,
        away=made.away,
        vms=tuple(next((other for other in made.vms if other.uuid == vm.uuid), vm) for vm in whole.vms),
    )


def _reduced(pool: PoolFacts, without: Collection[str]) -> PoolFacts:
    """The pool as if some hosts, and the guests on them, were none of it."""
    return replace(
        pool,
        hosts={uuid: host for uuid, host in pool.hosts.items() if uuid not in without},
        vms={uuid: vm for uuid, vm in pool.vms.items() if vm.host not in without},
    )


def make_plan(
    pool: PoolFacts,
    target: str | None = None,
    *,
    baseline: Baseline | None = None,
    silent: Sequence[str] = (),
    take_over: bool = False,
    half_done: bool = False,
    source: Release | None = None,
    backed_up: bool = False,
    unplayed: bool = False,
    policies: Mapping[str, str] | None = None,
) -> Plan:
    """The plan for a pool that was observed. `half_done` allows versions to be mixed already, and takes no backup then;
    neither is one taken where the run has it, as `backed_up` says. `source` is what an upgrade began with that is under way;
    an `unplayed` plan has no steps. `policies` is by guest's uuid (see `guest_policies`)."""
    source = source or (_source(pool) if half_done else pool.release)
    release = _wanted(source, target) if target is not None else next_release(source)
    if release is None:
        return _plan(pool, source, source, problems=[f"there is no release after {source.name}"])
    problems = [*_against(pool, source, release, take_over=take_over, half_done=half_done), *silent]
    if problems:
        return _plan(pool, source, release, problems=problems)
    warnings, kept = _oddities(pool), baseline or Baseline.of(pool)
    if unplayed:
        return _plan(pool, source, release, baseline=kept)
    try:
        played = _played(pool, release, kept, policies or {})
    except DoesNotFit as error:
        refusal = f"no way was found to empty the hosts one after another: {error}"
        return _plan(pool, source, release, problems=[refusal], warnings=warnings)
    mixed = len({host.version for host in pool.hosts.values()}) > 1
    first = [Step("claim")] if mixed or backed_up else [Step("backup"), Step("claim")]
    steps = [*first, *played.steps, Step("verify"), Step("release")]
    made = _plan(pool, source, release, played, kept, steps=steps, warnings=warnings)
    return replace(made, policies=dict(policies or {}))


def _played(pool: PoolFacts, target: Release, baseline: Baseline, policies: Mapping[str, str]) -> Played:
    """The sequence of steps. This is the one place where what becomes of guests reaches the planner."""
    others = sorted(pool.vms[uuid].name for uuid, policy in policies.items() if policy != MIGRATE and uuid in pool.vms)
    if others:
        raise DoesNotFit(f"guests can only be migrated so far, and {', '.join(others)} are to be treated otherwise")
    return find_sequence(pool, target, baseline)


def _silent(session: Session, pool: PoolFacts) -> list[str]:
    """The members that are up and answer nobody as members of this pool."""
    return [
        f"{host.name} does not answer at {host.address or 'no address'} as a member of this pool"
        for host in pool.hosts.values()
        if host.uuid != pool.master and host.live and not attached(session, host.address)
    ]


def _source(pool: PoolFacts) -> Release:
    """The oldest release that a host still has."""
    return min(host.release for host in pool.hosts.values())


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


def _against(pool: PoolFacts, source: Release, target: Release, *, take_over: bool, half_done: bool) -> list[str]:
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
    if half_done:
        out += _not_half_done(pool, source, target)
    elif pool.upgrading or any(host.version != pool.hosts[pool.master].version for host in pool.hosts.values()):
        out.append("versions are mixed already: an earlier upgrade was not finished; adopt it, or revert it")
    if pool.mark and not take_over:
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
        elif not host.enabled and not half_done:
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


def _not_half_done(pool: PoolFacts, source: Release, target: Release) -> list[str]:
    """What makes a pool one that an upgrade to `target` cannot have left behind."""
    out = [
        f"{host.name} runs {host.version}, which is neither {source.product_version} nor {target.product_version}"
        for host in pool.hosts.values()
        if host.release not in (source, target)
    ]
    master = pool.hosts[pool.master]
    newer = [host.name for host in pool.hosts.values() if host.release > master.release]
    if newer:
        out.append(f"{', '.join(newer)} is newer than the master {master.name}: revert it, a pool goes on master first")
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
    played: Played | None = None,
    baseline: Baseline | None = None,
    *,
    steps: Sequence[Step] = (),
    problems: Sequence[str] = (),
    warnings: Sequence[str] = (),
) -> Plan:
    first = [pool.master] if played is None else played.order
    order = [*first, *(uuid for uuid in pool.hosts if uuid not in first)]
    downtime = {} if played is None else played.downtime
    was = baseline or Baseline.of(pool)
    return Plan(
        pool=pool.uuid,
        pool_name=pool.name,
        source=source.product_version,
        target=target.product_version,
        medium=target.name,
        hosts=tuple(_planned(pool.hosts[uuid]) for uuid in order),
        vms=tuple(
            PlannedVM(
                vm.uuid,
                vm.name,
                was.states[vm.uuid],
                was.homes.get(vm.uuid),
                vm.uuid in downtime,
                downtime.get(vm.uuid, ""),
                now=vm.state,
                at=vm.host,
                memory=vm.memory,
            )
            for vm in sorted(pool.vms.values(), key=lambda vm: vm.name)
        ),
        steps=tuple(steps),
        problems=tuple(problems),
        warnings=(*warnings, *(() if played is None else played.warnings)),
        away=() if played is None else played.away,
        master=pool.master,
        no_return=tuple(no_return(source, target)) if steps else (),
        unplugged=tuple(sorted(pool.unplugged)),
    )


def _planned(host: HostFacts) -> PlannedHost:
    return PlannedHost(host.uuid, host.name, host.version, host.address)


# --- running


def run(
    session: Session,
    plan: Plan,
    hands: Hands,
    *,
    journal: Journal | None = None,
    backup_to: str | PathLike[str] | None = None,
    accept_downtime: bool = False,
    take_over: bool = False,
    gates: Sequence[Gate] = (),
    poll: float | None = None,
    on_step: Progress | None = None,
    policy: Policy | None = None,
    stop: Callable[[], str] | None = None,
) -> Outcome:
    """Carry out `plan` with `hands` on the machines, or go on with it where `journal` says that it was begun.

    Without a `journal` the run keeps one in memory, and cannot be resumed by another process. `gates` are asked
    before each host's turn; `poll` is the seconds between two looks at what is waited for; `take_over` puts this
    run's mark in the place of another's. `policy` is what the run does by itself (guests that went down are started
    again if left out); `stop` is asked all the time why to stop, empty to go on. `on_step` is told the number of the
    step, how many there are, and the step in words. Raises `ProcedureError` before anything is changed where the plan
    has problems, or shuts guests down and `accept_downtime` is not given. Once it has begun it returns: a step that
    does not do what it is for stops the run, and `Outcome.problems` says which and why."""
    assert_can_run(plan, accept_downtime=accept_downtime)
    kept = Journal.create(plan) if journal is None else journal
    made = Run(
        *(session, plan, hands, kept),
        backup_to=backup_to,
        take_over=take_over,
        gates=gates,
        poll=poll,
        policy=policy or Policy(on_fallen=RESTART),
        replan=replan,
        stop=stop,
    )
    return made.carry_out(on_step)


def assert_can_run(plan: Plan, *, accept_downtime: bool = False) -> None:
    """Raise `ProcedureError` where the plan has problems, or shuts guests down and `accept_downtime` is not given."""
    if plan.problems:
        raise ProcedureError("this upgrade cannot be done", plan.problems)
    if plan.downtime and not accept_downtime:
        raise ProcedureError(
            "this upgrade shuts guests down; say that you accept the downtime",
            [f"{vm.name}: {vm.why}" for vm in plan.downtime],
        )


__all__ = ["Outcome", "StepDone", "adopt", "assert_can_run", "make_plan", "plan", "replan", "run"]
