"""Taking a rolling upgrade back, partly done or wholly: members first, the master last.

Each host's backup partition holds its old system, the master's with the pool's database of the moment when it was upgraded.
Guests cannot migrate from a new host to an old one, and do not start on an old one while a newer one is there. So those on
new hosts stay up as long as a new host has room for them, are shut down before their last one goes back, and are started
once all versions are equal. Guests on hosts that were not upgraded go on running, where the master's old database has them;
any other would be ended by it, and is shut down in good order before.

`plan` looks at the pool and says all this beforehand, with each guest's downtime and with what is lost; `run` carries it
out. Where the master does not answer any more, only its own return can be planned; the rest follows when it is back.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from ..errors import Failure, ProcedureError, TransportError
from ..releases import accepts, find
from . import marking, ways_back
from .acts.shutting import GIVE_UP, POLICIES
from .before import Before, Since, refusals, since
from .belonging import of_another
from .journal import ABANDONED, DONE, STOPPED, Journal
from .observe import PoolFacts, observe
from .plan import Plan, PlannedVM, Step
from .running import Ask, Gate, Outcome, Progress, Run
from .unwinding import Choices, Played, play
from .waiting import AWAY

if TYPE_CHECKING:
    from ..session import Session
    from .hands import Hands

REVERT = "revert"
TIMEOUT, LIMIT = 120.0, 10
"""Seconds that a guest has for shutting down, and how many do so at once."""


def plan(
    session: Session,
    before: Before,
    *,
    unmoved: bool = False,
    policy: str = GIVE_UP,
    timeout: float = TIMEOUT,
    take_over: bool = False,
    hands: Hands | None = None,
) -> Plan:
    """The plan for taking the pool back to what it was `before`; nothing is changed.

    `unmoved` says that no guest was started on or moved to a host of the old release since the master was upgraded, where
    no journal tells. `policy` (`give-up`, `ask`, `hard`) says what becomes of a guest that does not shut down in `timeout`
    seconds. `take_over` plans although the pool is marked with another run. `hands` are asked what hosts have on their
    disks, and, where the master does not answer, whether it is on: one that is needs no rescue. Raises `ValueError` for
    what is no policy.
    """
    if policy not in POLICIES or timeout <= 0:
        raise ValueError(f"policy is {', '.join(POLICIES)}, and timeout a number of seconds above 0")
    try:
        pool = observe(session)
    except (TransportError, Failure) as error:
        if isinstance(error, Failure) and error.code not in AWAY:
            raise
        if not before.master:
            raise
        if hands is not None and hands.power(before.master) == "running":
            name = next(host.name for host in before.hosts if host.uuid == before.master)
            raise ProcedureError(f"{name}, the master, is on and does not answer: {error}") from error
        return _rescue(before, hands)
    if pool.hosts[pool.master].version != before.source:
        changed = since(session, pool, before)
    else:
        changed = Since(refusals=refusals(before, pool.uuid, pool.name))
    choices = Choices(before, changed, unmoved, {"policy": policy, "timeout": timeout, "limit": LIMIT})
    problems = _against(pool, before, changed, take_over=take_over)
    if problems:
        return _plan(pool, before, problems=problems)
    played = play(pool, choices)
    going = [(uuid, pool.hosts[uuid].name) for uuid in played.order]
    against, unseen = ways_back.against(going, before, hands, pool=pool.uuid, master=pool.master)
    played.problems += against
    played.warnings[:0] = (*changed.warnings, *unseen)
    return _plan(pool, before, played, losses=changed.losses, problems=played.problems)


def _against(pool: PoolFacts, before: Before, changed: Since, *, take_over: bool) -> list[str]:
    """Everything that stands against going back, before any guest is looked at."""
    out = list(changed.refusals)
    if before.pool and before.pool != pool.uuid:
        return [of_another("the journal", before.pool, before.pool_name, here=pool.uuid, called=pool.name)]
    if before.master and before.master != pool.master:
        was = next((host.name for host in before.hosts if host.uuid == before.master), before.master)
        out.append(
            f"the master is {pool.hosts[pool.master].name} now, and was {was}: make {was} the master again first"
        )
    medium = find(before.medium)
    source = find(before.source, medium)
    if not accepts(medium, source):
        out.append(f"the installer of {before.medium} does not restore {before.source}: name its own release")
    out += marking.against(pool, take_over=take_over or pool.mark == before.run)
    if pool.ha_enabled:
        out.append("high availability is on: switch it off first, it would fence the hosts that go back")
    known = {host.uuid for host in before.hosts}
    if known:
        out += [
            f"{host.name} has joined since: eject it first" for host in pool.hosts.values() if host.uuid not in known
        ]
    away = [host.name for host in pool.hosts.values() if not host.live]
    if len(away) > 1:
        out.append(f"several hosts are away: {', '.join(away)}; bring back what can be, or forget it (xenctl recover)")
    for host in pool.hosts.values():
        if host.version != before.source and host.release < source:
            out.append(f"{host.name} runs {host.version}, which is older than {before.source}")
        elif host.version not in (before.source, pool.hosts[pool.master].version):
            out.append(
                f"{host.name} runs {host.version}: its backup partition cannot hold {before.source}, one generation is all"
                " that it holds; this is a point of no return"
            )
    out += ways_back.again(pool, before)
    out += [f"{vm.name} has an operation going on ({', '.join(vm.busy)})" for vm in pool.vms.values() if vm.busy]
    return out


def _rescue(before: Before, hands: Hands | None) -> Plan:
    """The plan where the master is away: it gets its old system back, if it has lost it, and members that are in emergency
    mode return by themselves. What is left to do is planned when it is back."""
    release, master = before.source, before.master
    going = [(host.uuid, host.name) for host in before.hosts if host.uuid == master]
    problems, unseen = ways_back.against(going, before, hands, pool=before.pool, master=master)
    problems += refusals(before, before.pool, before.pool_name)
    steps = (
        Step("restore-host", host=master, release=release, reason="the master does not answer"),
        Step("return", host=master, release=release),
    )
    return Plan(
        pool=before.pool,
        pool_name=before.pool_name,
        source="",
        target=release,
        medium=before.medium,
        hosts=before.hosts,
        vms=tuple(replace(vm, planned_downtime=False, why="") for vm in before.vms),
        steps=() if problems else steps,
        problems=tuple(problems),
        warnings=("the master does not answer; what is left to do is planned when it is back", *unseen),
        procedure=REVERT,
        master=master,
        no_return=("once the master is restored, what changed in the pool since its upgrade is lost",),
    )


def _plan(
    pool: PoolFacts,
    before: Before,
    played: Played | None = None,
    *,
    losses: Sequence[str] = (),
    problems: Sequence[str] = (),
) -> Plan:
    done = played or Played()
    vms = (
        PlannedVM(
            *(vm.uuid, vm.name, done.states.get(vm.uuid, vm.state), done.homes.get(vm.uuid)),
            planned_downtime=vm.uuid in done.why,
            why=done.why.get(vm.uuid, ""),
            now=vm.state,
            at=vm.host,
            downtime_s=done.downtime.get(vm.uuid, 0.0),
        )
        for vm in sorted(pool.vms.values(), key=lambda vm: vm.name)
    )
    made = Plan.of(
        *(pool, REVERT, done.steps),
        hosts=done.order,
        vms=vms,
        problems=problems,
        warnings=done.warnings,
        away=done.away,
    )
    return replace(
        made,
        source=pool.hosts[pool.master].version,
        target=before.source,
        medium=before.medium,
        losses=tuple(losses),
        no_return=tuple(done.no_return),
    )


# --- running


def assert_can_run(plan: Plan, *, accept_downtime: bool = False, accept_loss: bool = False) -> None:
    """Raise `ProcedureError` where the plan has problems, or shuts guests down or loses something that was not agreed to."""
    plan.assert_agreed(
        *("this upgrade cannot be taken back", "this revert", "this revert loses what was made since"),
        accept_downtime=accept_downtime,
        accept_loss=accept_loss,
    )


def begin(plan: Plan, before: Before, path: str | None = None, *, upgrade: Journal | None = None) -> Journal:
    """A journal for a revert. The journal of the upgrade that it takes back is closed for good: that run never goes on."""
    journal = Journal.create(plan, path)
    journal.put("before", before.as_dict())
    if upgrade is not None:
        upgrade.give_way(journal.run_id)
    return journal


def is_over(journal: Journal) -> bool:
    """Whether a revert has nothing left to do. One that only brought the master back has."""
    return journal.state in (DONE, ABANDONED) and not _goes_on(journal.plan)


def _goes_on(plan: Plan) -> bool:
    return bool(plan.steps) and plan.steps[-1].action != "release"


def replan(session: Session, journal: Journal, hands: Hands | None = None) -> Plan:
    """The plan for the rest of the revert in `journal`, from the pool as it is now; `hands` as with `plan`."""
    before, options = Before.from_dict(journal.get("before")), journal.get("planning", {})
    return plan(session, before, hands=hands, **{**options, "take_over": True})


def run(
    session: Session,
    plan: Plan,
    hands: Hands,
    *,
    journal: Journal,
    accept_downtime: bool = False,
    accept_loss: bool = False,
    gates: Sequence[Gate] = (),
    poll: float | None = None,
    on_step: Progress | None = None,
    ask: Ask | None = None,
) -> Outcome:
    """Carry out `plan` with `hands` on the machines, or go on with it where `journal` (of `begin`) says that it was begun.

    Raises `ProcedureError` before anything is changed, as `assert_can_run` does. Once it has begun it returns what came of
    it; a run that stopped goes on with the same journal.
    """
    assert_can_run(plan, accept_downtime=accept_downtime, accept_loss=accept_loss)
    while True:
        made = Run(session, plan, hands, journal, take_over=True, gates=gates, poll=poll, ask=ask)
        outcome = made.carry_out(on_step)
        if not outcome.ok:
            return outcome
        if not _goes_on(plan):
            break
        plan = replan(session, journal, hands)
        try:
            assert_can_run(plan, accept_downtime=accept_downtime, accept_loss=accept_loss)
        except ProcedureError as error:
            outcome.problems.append(str(error))
            journal.enter(STOPPED)
            return outcome
        journal.replan(plan)
    for change in journal.changes():
        journal.undone(change)
    return outcome


__all__ = ["REVERT", "assert_can_run", "begin", "is_over", "plan", "replan", "run"]
