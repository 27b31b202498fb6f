"""`xenctl upgrade revert`: an upgrade taken back."""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ..errors import ProcedureError
from .back_by_dump import REVERTED, Words, go_back
from .endings import ending, finish, present, progress
from .reach import Reach, Reached, hands_option, pool_options
from .runs import DRY_RUN, JSON, STUBBORN, TAKE_OVER, ask

if TYPE_CHECKING:
    from ..procedures.before import Before
    from ..procedures.journal import Journal
    from ..procedures.plan import Plan


@click.command()
@pool_options
@hands_option
@click.option("--journal", "file", type=click.Path(), metavar="RUN", help="The journal of the upgrade to take back.")
@click.option(
    *("--revert-journal", "own"),
    type=click.Path(),
    metavar="FILE",
    help=f"The revert's own journal; RUN{REVERTED} if left out. Where it holds one that stopped, this goes on with it.",
)
@click.option("--to", metavar="RELEASE", help="Release to go back to, where no journal says it.")
@click.option(
    "--dump", type=click.Path(), metavar="FILE", help="A database dump from before, where no journal names one."
)
@click.option(
    "--from-dump",
    is_flag=True,
    help="Where backup partitions cannot be used: install every host afresh, and restore the database from the dump.",
)
@click.option("--accept-downtime", is_flag=True, help="Agree to the downtime of the guests that the plan names.")
@click.option("--accept-loss", is_flag=True, help="Agree to the loss of what the plan names.")
@click.option(
    "--unmoved", is_flag=True, help="No guest came to a host of the old release since the master was upgraded."
)
@STUBBORN
@click.option("--timeout", type=float, default=120.0, show_default=True, help="Seconds that each guest has.")
@TAKE_OVER
@click.option("--replan", is_flag=True, help="Plan the rest anew, where the pool is not as the plan expects it.")
@click.option(
    "--after",
    type=click.IntRange(min=0),
    metavar="N",
    help="With --rehearse: take back an upgrade of N hosts; all if left out.",
)
@DRY_RUN
@JSON
def revert(
    reach: Reach,
    file: str | None,
    own: str | None,
    to: str | None,
    dump: str | None,
    from_dump: bool,
    accept_downtime: bool,
    accept_loss: bool,
    unmoved: bool,
    policy: str,
    timeout: float,
    take_over: bool,
    replan: bool,
    after: int | None,
    dry_run: bool,
    as_json: bool,
) -> None:
    """Take an upgrade back, partly done or done: members first, the master last.

    Each host gets its old system from its backup partition. Guests on hosts that were upgraded are shut down for it and
    started when all versions are equal; the plan names each with its downtime, and what is lost.
    """
    if after is not None and reach.rehearse is None:
        raise click.UsageError("--after is for a rehearsal: give --rehearse DUMP")
    if from_dump:
        if to is not None or unmoved or replan:
            raise click.UsageError("--to, --unmoved and --replan are for backup partitions: the dump says how it was")
        words = Words(
            file, own, dump, policy, timeout, accept_downtime, accept_loss, take_over, after, dry_run, as_json
        )
        go_back(reach, words)
    planning = {"unmoved": unmoved, "policy": policy, "timeout": timeout}
    agreed = {"accept_downtime": accept_downtime, "accept_loss": accept_loss}
    with ending(), ExitStack() as stack:
        if reach.rehearse is not None:
            at = stack.enter_context(reach.opened())
            upgrade: Journal | None = upgraded(at, after)
            own = None
        else:
            own = own or (f"{file}{REVERTED}" if file else None)
            if own is None and not dry_run:
                raise click.UsageError(
                    "give --journal RUN, or --revert-journal FILE: a run that is killed is resumed with it"
                )
            if own is not None and Path(own).exists() and not dry_run:
                journal = stack.enter_context(_opened(own))
                at = stack.enter_context(reach.opened(now=False))
                _go_on(at, journal, replan=replan, agreed=agreed, as_json=as_json)
            upgrade = stack.enter_context(_upgrade(file)) if file is not None else None
            at = stack.enter_context(reach.opened(now=False))
        known = _known(at, upgrade, to, dump)
        _begin(at, upgrade, known, own, planning, agreed, take_over=take_over, dry_run=dry_run, as_json=as_json)


def _upgrade(file: str) -> Journal:
    """The journal of the upgrade, which nobody else runs meanwhile."""
    from ..procedures.journal import Journal

    return Journal.open(file, to_run=True)


def _opened(own: str) -> Journal:
    """The journal of a revert that is not over. Raises `JournalError` for any other."""
    from ..procedures import revert as procedure
    from ..procedures.journal import Journal, JournalError

    journal = Journal.open(own, to_run=True)
    what, state, whole = journal.plan.procedure, journal.state, journal.get("agreed") is not None
    if what == procedure.REVERT and not whole:
        journal.close()
        raise JournalError(f"{own} was made and never begun: nothing was changed; delete it and begin again")
    if what == procedure.REVERT and not procedure.is_over(journal):
        return journal
    journal.close()
    if what != procedure.REVERT:
        raise JournalError(f"{own} is the journal of another procedure ({what}): name another file")
    raise JournalError(f"{own}: this run is {state}; there is nothing left to do")


def _begin(
    at: Reached,
    upgrade: Journal | None,
    known: Before,
    own: str | None,
    planning: dict[str, Any],
    agreed: dict[str, Any],
    *,
    take_over: bool,
    dry_run: bool,
    as_json: bool,
) -> None:
    """Plan a revert, and carry it out."""
    from ..procedures import revert as procedure

    hands = None if dry_run and at.talks else at.hands  # nobody is asked anything where nothing is done
    made = procedure.plan(at.session, known, hands=hands, take_over=take_over, **planning)
    present(made, dry_run=dry_run, as_json=as_json)
    procedure.assert_can_run(made, **agreed)
    with procedure.begin(made, known, own, upgrade=upgrade) as journal:
        journal.put("planning", planning)
        journal.put("agreed", agreed)
        _carried_out(at, journal, agreed, as_json=as_json)


def _known(at: Reached, upgrade: Journal | None, to: str | None, dump: str | None) -> Before:
    """How the pool was before, as far as anything tells."""
    from ..procedures.before import of_journal, of_pool
    from ..procedures.from_dump import read
    from ..procedures.observe import observe

    if dump is not None:
        read(dump)  # one that the journal names may be gone; a file that is given here has to be one
    if upgrade is None:
        return of_pool(observe(at.session), to, dump or "")
    if to is not None:
        raise click.UsageError("the journal says which release the pool goes back to: leave --to out")
    at.knows(upgrade.plan)
    found = of_journal(upgrade)
    return replace(found, dump=dump) if dump is not None else found


def _go_on(at: Reached, journal: Journal, *, replan: bool, agreed: dict[str, Any], as_json: bool) -> None:
    """Go on with a revert that stopped; what was agreed to stays so."""
    from ..procedures import revert as procedure

    at.knows(journal.plan)
    allowed = {name: said or journal.get("agreed", {}).get(name, False) for name, said in agreed.items()}
    if replan:
        made = procedure.replan(at.session, journal, at.hands)
        procedure.assert_can_run(made, **allowed)
        journal.replan(made)
    journal.put("agreed", allowed)
    _carried_out(at, journal, allowed, as_json=as_json)


def _carried_out(at: Reached, journal: Journal, agreed: dict[str, Any], *, as_json: bool) -> None:
    from ..procedures import revert as procedure

    made: Plan = journal.plan
    at.knows(made)
    with progress(quiet=as_json) as on_step:
        outcome = procedure.run(
            *(at.session, made, at.hands), journal=journal, on_step=on_step, poll=at.poll, ask=ask, **agreed
        )
    finish(outcome, journal, at, as_json=as_json)


def upgraded(at: Reached, after: int | None) -> Journal:
    """Upgrade the first hosts of a rehearsal's pool: what is then taken back. Raises `ProcedureError` where that fails."""
    from ..procedures import rolling_upgrade
    from ..procedures.journal import Journal
    from ..procedures.plan import Step
    from ..procedures.running import Run

    made, turns = rolling_upgrade.plan(at.session), set[str]()

    def enough(run: Run, step: Step) -> str:
        turns.add(step.host)  # the first is asked about before anything is prepared, too
        return "as many hosts as asked for" if after is not None and len(turns) > after else ""

    journal = Journal.create(made)
    outcome = rolling_upgrade.run(at.session, made, at.hands, journal=journal, accept_downtime=True, gates=[enough])
    if outcome.problems:
        raise ProcedureError("the upgrade that is to be taken back would stop", outcome.problems)
    return journal
