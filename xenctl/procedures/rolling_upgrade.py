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

from collections.abc import Mapping, Sequence
from dataclasses import replace
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from ..errors import ProcedureError
from ..releases import Release, find, next_release
from . import checks, comparison
from .acts import mending
from .checks import Finding, Situation, Survey
from .hands import Hands
from .journal import Journal
from .observe import HostFacts, PoolFacts
from .placement import DoesNotFit
from .plan import Plan, PlannedHost, PlannedVM, Step
from .running import Gate, Outcome, Progress, Run, StepDone
from .sequence import Baseline, Played, find_sequence

if TYPE_CHECKING:
    from os import PathLike

    from ..session import Session


# --- planning


def plan(
    session: Session, target: str | None = None, *, take_over: bool = False, fix: bool = False, url: str = ""
) -> Plan:
    """The plan for upgrading the session's pool to `target` (a product version; the next release if left out).

    What the checks found is in `Plan.findings`, and what of it stands against the upgrade in `Plan.problems`; nothing is
    changed. With `fix` the plan begins with the steps that mend what they can, and takes them back at its end. `take_over`
    plans although the pool is marked with another run, which is lost. `url` is where the medium is, if hosts install
    themselves: their plugins then know more. Raises `ValueError` for an unknown release.
    """
    seen = checks.surveyed(session, url=url)
    return make_plan(seen.facts, target, survey=seen, take_over=take_over, fix=fix)


def adopt(
    session: Session, target: str | None = None, *, take_over: bool = False, fix: bool = False, url: str = ""
) -> Plan:
    """The plan for the rest of an upgrade that was left half done, by whomever: the pool of mixed versions is taken as the
    baseline, since nobody knows how it was before. `target` is the master's release if left out; the rest is as with `plan`.
    """
    seen = checks.surveyed(session, url=url)
    return make_plan(
        seen.facts,
        target or seen.facts.release.name,
        baseline=Baseline.of(seen.facts),
        survey=seen,
        take_over=take_over,
        half_done=True,
        fix=fix,
    )


def replan(session: Session, journal: Journal) -> Plan:
    """The plan for the rest of the run in `journal`, from the pool as it is now back to the baseline of the first plan. What
    the run mended is taken back at the end of this plan."""
    seen, first = checks.surveyed(session), journal.plan
    baseline = Baseline.of_plan(first, seen.facts)
    done = journal.finished()
    begun = any(step.action == "claim" for step in first.steps[:done])
    changes = [change.undo for change in journal.changes() if not change.undone]
    made = make_plan(
        *(seen.facts, first.medium),
        baseline=baseline,
        survey=seen,
        take_over=seen.facts.mark == journal.run_id,
        half_done=begun,
        fix=any(finding.mended for finding in first.findings) or _mended(journal),
        owed=[step for step in reversed(changes) if step.action in mending.ACTIONS],
    )
    return replace(made, picture=first.picture)


def _mended(journal: Journal) -> bool:
    """Whether the run in a journal has mended anything."""
    return any(change.undo.action in mending.ACTIONS for change in journal.changes())


def make_plan(
    pool: PoolFacts,
    target: str | None = None,
    *,
    baseline: Baseline | None = None,
    survey: Survey | None = None,
    take_over: bool = False,
    half_done: bool = False,
    fix: bool = False,
    owed: Sequence[Step] = (),
) -> Plan:
    """The plan for a pool that was observed. `half_done` allows versions to be mixed already, and takes no backup then;
    `owed` are the steps that take back what was mended before."""
    source = _source(pool) if half_done else pool.release
    release = _wanted(source, target) if target is not None else next_release(source)
    seen = survey or Survey(pool)
    at = Situation(seen, source, release or source, half_done=half_done, take_over=take_over)
    if release is None:
        none = checks.refused(at, "target", f"there is no release after {source.name}")
        return _plan(pool, source, source, findings=[none])
    findings = checks.find(at)
    if fix:
        findings = checks.with_mending(findings)
    picture = comparison.picture(seen)
    if any(finding.stands for finding in findings):
        return _plan(pool, source, release, findings=findings, picture=picture)
    mends = checks.mending(findings)
    pool, kept = mending.foreseen(pool, mends), baseline or Baseline.of(pool)
    try:
        played = find_sequence(pool, release, kept)
    except DoesNotFit as error:
        refusal = checks.refused(at, "capacity", f"no way was found to empty the hosts one after another: {error}")
        return _plan(pool, source, release, findings=[*findings, refusal], picture=picture)
    findings += tuple(checks.refused(at, "homecoming", warning) for warning in played.warnings)
    mixed = len({host.version for host in pool.hosts.values()}) > 1
    first = [Step("claim")] if mixed else [Step("backup"), Step("claim")]
    last = [*checks.unmending(findings), *owed, Step("verify"), Step("release")]
    steps = [*first, *mends, *played.steps, *last]
    return _plan(pool, source, release, played, kept, steps=steps, findings=findings, picture=picture)


def _source(pool: PoolFacts) -> Release:
    """The oldest release that a host still has."""
    return min(host.release for host in pool.hosts.values())


def _wanted(source: Release, target: str) -> Release:
    """The release called `target`, of the pool's own brand where no brand is named."""
    try:
        return find(f"{source.product_brand} {target}")
    except ValueError:
        return find(target)


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
            )
            for vm in sorted(pool.vms.values(), key=lambda vm: vm.name)
        ),
        steps=tuple(steps),
        problems=tuple(finding.why for finding in findings if finding.stands),
        warnings=tuple(finding.why for finding in findings if finding.level == checks.WARNS and not finding.mended),
        away=() if played is None else played.away,
        master=pool.master,
        unplugged=tuple(sorted(pool.unplugged)),
        findings=tuple(findings),
        picture=dict(picture),
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
) -> Outcome:
    """Carry out `plan` with `hands` on the machines, or go on with it where `journal` says that it was begun.

    Without a `journal` the run keeps one in memory, and cannot be resumed by another process. `gates` are asked before each
    host's turn; `poll` is the seconds between two looks at what is waited for; `take_over` puts this run's mark in the place
    of another's. `on_step` is told the number of the step, how many there are, and the step in words. Raises
    `ProcedureError` before anything is changed where the plan has problems, or shuts guests down and `accept_downtime` is
    not given. Once it has begun it returns: a step that does not do what it is for stops the run, and `Outcome.problems`
    says which and why.
    """
    assert_can_run(plan, accept_downtime=accept_downtime)
    kept = Journal.create(plan) if journal is None else journal
    made = Run(session, plan, hands, kept, backup_to=backup_to, take_over=take_over, gates=gates, poll=poll)
    outcome = made.carry_out(on_step)
    if outcome.ok and plan.picture:
        outcome.comparison = comparison.compare(plan.picture, comparison.picture(checks.surveyed(session)))
    return outcome


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
