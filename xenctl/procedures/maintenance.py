"""Maintenance mode: a host is emptied and kept empty, so that somebody can work on it, and taken into service again.

What left the host is noted before it leaves in the host's own `other_config`, by the keys that XenCenter uses. So it can be
brought back from another machine, or by another tool, and what others left there can be brought back by us. Where entering
fails, the host is taken into service again at once.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from ..errors import ProcedureError
from ..values import Ref
from . import marking
from .acts.maintenance import LISTS, MODE, TOLERATED
from .emptying import POLICIES, REFUSE, empty
from .journal import ABANDONED, Journal, JournalError
from .master import against as against_master
from .observe import PoolFacts, observe
from .placement import Board
from .plan import Plan, Step
from .running import Outcome, Progress, Run
from .shutdown import find_host

if TYPE_CHECKING:
    from ..session import Session
    from .hands import Hands

ENTER, LEAVE = "entering of maintenance mode", "leaving of maintenance mode"
UNWIND = "entering of maintenance mode, taken back"

# --- entering


def plan_enter(
    session: Session,
    host: str,
    *,
    stuck: str = REFUSE,
    new_master: str | None = None,
    lower_ha: bool = False,
) -> Plan:
    """The plan for emptying the host with this name or uuid and keeping it empty; nothing is changed.

    `stuck` says what becomes of a guest that cannot leave: `refuse` (a problem), `suspend` or `shut-down`. `new_master`
    names the host that is made the master first. `lower_ha` agrees that high availability survives fewer failures
    meanwhile, where it has to. What stands against it is in `Plan.problems`. Raises `ValueError` for a name that the pool
    does not have.
    """
    if stuck not in POLICIES:
        raise ValueError(f"stuck is {', '.join(POLICIES)}, not {stuck!r}")
    pool = observe(session)
    uuid = find_host(pool, host)
    facts, problems, warnings = pool.hosts[uuid], marking.against(pool), list[str]()
    if not facts.live:
        problems.append(f"{facts.name} is not running")
    if MODE in session.host.get_other_config(facts.ref):  # type: ignore[arg-type]
        problems.append(f"{facts.name} is in maintenance mode already: leave it first")
    found = empty(session, Board.of(pool), uuid, stuck, f"{facts.name} is emptied")
    steps = [Step("claim")]
    tolerance, lowered = _tolerance(session, pool, facts.name, lower_ha=lower_ha)
    problems += tolerance
    if lowered is not None:
        steps.append(lowered)
        warnings.append(f"high availability survives {lowered.args['tolerate']} failed hosts meanwhile")
    if new_master is not None:
        to = find_host(pool, new_master)
        problems += against_master(session, pool, to)
        if to == uuid:
            problems.append(f"{facts.name} cannot stay the master while it is away: name another host")
        steps.append(Step("designate", host=to, reason=f"{facts.name} is to be worked on"))
    elif uuid == pool.master:
        warnings.append(
            f"{facts.name} is the master and stays it: while it is down nothing can be done with the pool; "
            "name another one first if that will be long"
        )
    keys = {MODE: "true", **{key: ",".join(found.left[what]) for what, key in LISTS.items()}}
    if lowered is not None:
        keys[TOLERATED] = str(lowered.args["before"])
    steps += [
        Step("disable", host=uuid, reason="no guest is to come while it is emptied"),
        Step("mark-host", host=uuid, args={"keys": keys}, reason="so that anybody can bring its guests back"),
        *found.away,
        Step("release"),
    ]
    return Plan.of(
        *(pool, ENTER, steps),
        hosts=[uuid],
        downtime=found.downtime,
        problems=[*problems, *found.problems],
        warnings=warnings,
    )


def _tolerance(session: Session, pool: PoolFacts, name: str, *, lower_ha: bool) -> tuple[list[str], Step | None]:
    """What high availability has against a host's going away, and the step that lowers what it is to survive. A host that is
    away is one failure."""
    if not pool.ha_enabled:
        return [], None
    now = session.pool.get_ha_host_failures_to_tolerate(Ref(pool.ref))
    most = max(0, session.pool.ha_compute_max_host_failures_to_tolerate() - 1)
    if now <= most:
        return [], None
    if lower_ha:
        return [], Step("ha-tolerate", args={"tolerate": most, "before": now}, reason=f"{name} is away")
    told = f"high availability is to survive {now} failed hosts; without {name} it can survive {most}"
    return [f"{told}: agree to lower it meanwhile (--lower-ha)"], None


def enter(
    session: Session,
    journal: Journal,
    hands: Hands,
    *,
    poll: float | None = None,
    on_step: Progress | None = None,
) -> Outcome:
    """Carry out the plan in `journal`, or go on with it. Where a step fails, the host is taken into service again: its
    guests come back, the keys are gone, and the journal is abandoned. `Outcome.problems` says why, and what could not
    be undone."""
    steps = []
    if journal.plan.procedure == ENTER:
        outcome = Run(session, journal.plan, hands, journal, poll=poll).carry_out(on_step)
        if not outcome.problems or outcome.paused:
            return outcome
        steps = outcome.steps
        try:
            journal.replan(unwinding(journal.plan, outcome.problems, begun=journal.finished() > 0))
        except JournalError:  # what cannot be written down is not done
            return outcome
    plan = journal.plan
    back = Run(session, plan, hands, journal, poll=poll).carry_out(on_step)
    if back.ok:
        journal.enter(ABANDONED)
    return Outcome(plan, [*steps, *back.steps], problems=[*plan.problems, *back.problems], paused=back.paused)


def unwinding(plan: Plan, failed: Sequence[str], *, begun: bool = True) -> Plan:
    """The plan that takes an entering back, whatever it had come to. `failed` says why; one that was not `begun` has changed
    nothing yet, unless it marked the pool and was not told so."""
    (host,) = {step.host for step in plan.steps if step.action == "mark-host"}
    keys = next(step.args["keys"] for step in plan.steps if step.action == "mark-host")
    steps = _returning(host, keys) if begun else [Step("release")]
    return replace(plan, procedure=UNWIND, steps=tuple(steps), problems=tuple(failed))


def is_unwound(journal: Journal) -> bool:
    """Whether an entering failed, and all of it was taken back."""
    return journal.plan.procedure == UNWIND and journal.state == ABANDONED


# --- leaving


def plan_leave(session: Session, host: str, *, entered: Plan | None = None, take_over: bool = False) -> Plan:
    """The plan for taking a host into service again, and bringing back what was there; nothing is changed.

    What was there is read from the host's own keys, whoever wrote them. `entered` is the plan by which the host was emptied:
    it tells where the keys do not. `take_over` plans although another run, which is lost, has marked the pool. Raises
    `ValueError` for a host that the pool does not have.
    """
    pool = observe(session)
    uuid = find_host(pool, host)
    facts, problems = pool.hosts[uuid], marking.against(pool, take_over=take_over)
    keys = dict(session.host.get_other_config(facts.ref))  # type: ignore[arg-type]
    if entered is not None:
        keys = {**_noted(entered, uuid), **keys}
    if facts.enabled and not any(key in keys for key in (MODE, *LISTS.values())):
        problems.append(f"{facts.name} is in service, and nothing is noted that is to come back to it")
    if not facts.live:
        problems.append(f"{facts.name} is not running: switch it on first")
    names = [vm for key in LISTS.values() for vm in _uuids(keys, key)]
    warnings = [f"a guest that left {facts.name} is gone from the pool ({vm})" for vm in names if vm not in pool.vms]
    if not pool.ha_enabled and TOLERATED in keys:
        warnings.append(f"high availability is off now; it survived {keys[TOLERATED]} failed hosts before")
    return Plan.of(pool, LEAVE, _returning(uuid, keys), hosts=[uuid], problems=problems, warnings=warnings)


def _returning(host: str, keys: Mapping[str, str]) -> list[Step]:
    """The steps that take a host into service and bring back what its keys say."""
    lists: dict[str, Any] = {what: _uuids(keys, key) for what, key in LISTS.items()}
    guests = {**lists, "count": sum(map(len, lists.values()))}
    before = keys.get(TOLERATED, "")
    return [
        Step("claim"),
        Step("enable", host=host),
        Step("ready", host=host, reason="a host is enabled before its storage is plugged"),
        *([Step("bring-back", host=host, args=guests)] if guests["count"] else []),
        *([Step("ha-tolerate", args={"tolerate": int(before)}, reason="as before")] if before.isdigit() else []),
        Step("forget-maintenance", host=host, args=guests),
        Step("release"),
        *([Step("all-back", host=host, args=guests)] if guests["count"] else []),
    ]


def _uuids(keys: Mapping[str, str], key: str) -> list[str]:
    return [uuid.strip() for uuid in keys.get(key, "").split(",") if uuid.strip()]


def _noted(entered: Plan, host: str) -> dict[str, str]:
    """The keys that a plan of entering was to write. Raises `ProcedureError` for the plan of something else."""
    for step in entered.steps:
        if step.action == "mark-host" and step.host == host and entered.procedure == ENTER:
            return {key: value for key, value in step.args["keys"].items() if value}
    raise ProcedureError(f"the journal is of a {entered.procedure}, and not of this host's entering")
