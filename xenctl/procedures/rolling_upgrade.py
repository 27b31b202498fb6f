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
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from ..releases import Release, find, next_release
from . import checks, comparison, ways_back
from .acts import mending
from .checks import Finding, Situation, Survey
from .hands import MEDIA, Hands, assert_route, route_of
from .journal import Journal
from .observe import PoolFacts
from .placement import DoesNotFit
from .plan import UPGRADE, Plan, PlannedVM, Proof, Step
from .planner.pieces import Wishes
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
    session: Session,
    target: str | None = None,
    *,
    take_over: bool = False,
    hands: Hands | None = None,
    wishes: Wishes | None = None,
    policies: Policies | None = None,
    fix: bool = False,
    url: str = "",
) -> Plan:
    """The plan for upgrading the session's pool to `target` (a product version; the next release if left out).

    What the checks found is in `Plan.findings`, and what of it stands against the upgrade in `Plan.problems`; nothing is
    changed. With `fix` the plan begins with the steps that mend what they can, and takes them back at its end. `take_over`
    plans although the pool is marked with another run, which is lost. `hands` are those that will install, by whose route it
    is planned; a medium if left out. `wishes` is how guests are to be treated, `policies` what becomes of those that are not
    to migrate. `url` is where the medium is, if hosts install themselves: their plugins then know more. Raises `ValueError`
    for an unknown release.
    """
    seen = checks.surveyed(session, url=url)
    made = make_plan(
        *(seen.facts, target),
        survey=seen,
        take_over=take_over,
        route=route_of(hands),
        wishes=_wished(seen.facts, wishes, policies),
        fix=fix,
    )
    return _as_hands_allow(made, seen.facts, hands)


def _wished(pool: PoolFacts, wishes: Wishes | None, policies: Policies | None) -> Wishes:
    """How guests are to be treated, with what becomes of some."""
    wished = wishes or Wishes()
    return wished if policies is None else replace(wished, policies={**wished.policies, **policies(pool)})


def _as_hands_allow(made: Plan, pool: PoolFacts, hands: Hands | None) -> Plan:
    """The plan with what `hands` have against it, where it could be done else."""
    if made.problems:
        return made
    going = {host.uuid for host in pool.hosts.values() if host.version != made.target}
    made = replace(made, no_return=(*made.no_return, *ways_back.ended(pool, going, hands)))
    against = getattr(hands, "against", None)
    if against is None:
        return made
    problems, warnings = against(pool, find(made.medium))
    steps = () if problems else made.steps
    return replace(made, problems=tuple(problems), warnings=(*made.warnings, *warnings), steps=steps)


def adopt(
    session: Session,
    target: str | None = None,
    *,
    take_over: bool = False,
    hands: Hands | None = None,
    wishes: Wishes | None = None,
    policies: Policies | None = None,
    fix: bool = False,
    url: str = "",
) -> Plan:
    """The plan for the rest of an upgrade that was left half done, by whomever: the pool of mixed versions is taken as the
    baseline, since nobody knows how it was before. `target` is the master's release if left out; the rest is as with `plan`.
    """
    seen = checks.surveyed(session, url=url)
    made = make_plan(
        seen.facts,
        target or seen.facts.release.name,
        baseline=Baseline.of(seen.facts),
        survey=seen,
        take_over=take_over,
        half_done=True,
        route=route_of(hands),
        wishes=_wished(seen.facts, wishes, policies),
        fix=fix,
    )
    return _as_hands_allow(made, seen.facts, hands)


def replan(session: Session, journal: Journal, without: Collection[str] = (), *, wishes: Wishes | None = None) -> Plan:
    """The plan for the rest of the run in `journal`, from the pool as it is now back to the baseline of the first plan. What
    the run mended is taken back at the end of this plan.

    The hosts in `without`, by uuid, are left as they are, with the guests on them: what is left then ends before guests go
    home, with a step that says so. `wishes` is how guests are to be treated; if left out, as the first plan did.
    """
    seen, first = checks.surveyed(session), journal.first_plan
    pool = seen.facts
    baseline, source = Baseline.of_plan(first, pool), find(first.source, pool.release)
    begun = any(timing.step.action == "claim" for timing in journal.timings())
    changes = [change.undo for change in journal.changes() if not change.undone]
    home = first.effort is None or first.effort.return_home
    again = functools.partial(
        make_plan,
        target=first.medium,
        take_over=pool.mark == journal.run_id,
        half_done=begun,
        source=source,
        route=first.route,
        wishes=wishes or Wishes(policies=first.policies, return_home=home),
        backed_up=journal.get("backup") is not None,
        fix=any(finding.mended for finding in first.findings) or _mended(journal),
        owed=[step for step in reversed(changes) if step.action in mending.ACTIONS],
    )
    if not without:
        return replace(again(pool, baseline=baseline, survey=seen), picture=first.picture)
    reduced = _reduced(pool, without)
    made = again(reduced, baseline=baseline.within(pool, without), survey=replace(seen, facts=reduced))
    whole = make_plan(
        *(pool, first.medium),
        baseline=baseline,
        survey=seen,
        source=source,
        take_over=True,
        half_done=True,
        unplayed=True,
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
        effort=made.effort,
        proof=made.proof,
        route=made.route,
        policies=made.policies,
        findings=made.findings,
        picture=first.picture,
    )


def _mended(journal: Journal) -> bool:
    """Whether the run in a journal has mended anything."""
    return any(change.undo.action in mending.ACTIONS for change in journal.changes())


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
    survey: Survey | None = None,
    take_over: bool = False,
    half_done: bool = False,
    source: Release | None = None,
    backed_up: bool = False,
    unplayed: bool = False,
    wishes: Wishes | None = None,
    route: str = MEDIA,
    fix: bool = False,
    owed: Sequence[Step] = (),
) -> Plan:
    """The plan for a pool that was observed. `half_done` allows versions to be mixed already, and takes no backup then;
    neither is one taken where the run has it, as `backed_up` says. `source` is what an upgrade began with that is under way;
    an `unplayed` plan has no steps. `owed` are the steps that take back what was mended before."""
    source = source or (_source(pool) if half_done else pool.release)
    release = find(target, source) if target is not None else next_release(source)
    seen, wished = survey or Survey(pool), wishes or Wishes()
    at = Situation(seen, source, release or source, half_done=half_done, take_over=take_over, wishes=wished)
    if release is None:
        none = checks.refused(at, "target", f"there is no release after {source.name}")
        return _plan(pool, source, source, findings=[none])
    if unplayed:
        return _plan(pool, source, release, baseline=baseline)
    findings = checks.find(at)
    if fix:
        findings = checks.with_mending(findings)
    picture = comparison.picture(seen)
    if any(finding.stands for finding in findings):
        return _plan(pool, source, release, findings=findings, picture=picture)
    mends = checks.mending(findings)
    pool, kept = mending.foreseen(pool, mends), baseline or Baseline.of(pool)
    if wished.growth == 0:
        wished = replace(wished, growth=at.growth)
    try:
        played = find_sequence(pool, release, kept, wished, route=route)
    except DoesNotFit as error:
        refusal = checks.refused(at, "capacity", f"no way was found to empty the hosts one after another: {error}")
        return _plan(pool, source, release, findings=[*findings, refusal], picture=picture, proof=error.proof)
    findings += tuple(checks.refused(at, "homecoming", warning) for warning in played.warnings)
    mixed = len({host.version for host in pool.hosts.values()}) > 1
    first = [Step("claim")] if mixed or backed_up else [Step("backup"), Step("claim")]
    noted = Step("note-upgrade", release=release.product_version, args={"source": source.product_version})
    last = [*checks.unmending(findings), *owed, Step("verify"), noted, Step("release")]
    steps = [*first, *mends, *played.steps, *last]
    made = _plan(pool, source, release, played, kept, steps=steps, findings=findings, picture=picture)
    return replace(made, route=route, policies=dict(wished.policies))


def _source(pool: PoolFacts) -> Release:
    """The oldest release that a host still has."""
    return min(host.release for host in pool.hosts.values())


def _plan(
    pool: PoolFacts,
    source: Release,
    target: Release,
    played: Played | None = None,
    baseline: Baseline | None = None,
    *,
    steps: Sequence[Step] = (),
    findings: Sequence[Finding] = (),
    picture: Mapping[str, Any] = MappingProxyType({}),
    proof: Proof | None = None,
) -> Plan:
    downtime = {} if played is None else played.downtime
    was = baseline or Baseline.of(pool)
    vms = (
        PlannedVM(
            *(vm.uuid, vm.name, was.states[vm.uuid], was.homes.get(vm.uuid)),
            planned_downtime=vm.uuid in downtime,
            why=downtime.get(vm.uuid, ""),
            now=vm.state,
            at=vm.host,
            memory=vm.memory,
        )
        for vm in sorted(pool.vms.values(), key=lambda vm: vm.name)
    )
    made = Plan.of(
        *(pool, UPGRADE, steps),
        hosts=[pool.master] if played is None else played.order,
        vms=vms,
        problems=[finding.why for finding in findings if finding.stands],
        warnings=[finding.why for finding in findings if finding.level == checks.WARNS and not finding.mended],
        away=() if played is None else played.away,
    )
    return replace(
        made,
        source=source.product_version,
        target=target.product_version,
        medium=target.name,
        no_return=tuple(no_return(source, target)) if steps else (),
        findings=tuple(findings),
        picture=dict(picture),
        effort=None if played is None else played.effort,
        proof=proof,
    )


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
    assert_route(plan, hands)
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
    outcome = made.carry_out(on_step)
    if outcome.ok and plan.picture:
        outcome.comparison = comparison.compare(plan.picture, comparison.picture(checks.surveyed(session)))
    return outcome


def assert_can_run(plan: Plan, *, accept_downtime: bool = False) -> None:
    """Raise `ProcedureError` where the plan has problems, or shuts guests down and `accept_downtime` is not given."""
    plan.assert_agreed("this upgrade cannot be done", "this upgrade", accept_downtime=accept_downtime)


__all__ = ["Outcome", "StepDone", "adopt", "assert_can_run", "make_plan", "plan", "replan", "run"]
