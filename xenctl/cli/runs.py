"""Procedures as commands: begun, or gone on with where the journal says that they were begun."""

from __future__ import annotations

import sys
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ..errors import ProcedureError
from .endings import ending, finish, present, progress
from .policies import told_to_stop
from .reach import Reach, Reached

if TYPE_CHECKING:
    from ..procedures.journal import Journal
    from ..procedures.plan import Plan
    from .policies import Asked

JSON = click.option("--json", "as_json", is_flag=True, help="Print one JSON object and nothing else.")
JOURNAL = click.option(
    *("--journal", "file"),
    type=click.Path(),
    metavar="FILE",
    help="The run's journal. Where it holds a run that stopped, the command goes on with that.",
)
STUBBORN = click.option(
    "--policy",
    type=click.Choice(["give-up", "ask", "hard"]),
    default="give-up",
    show_default=True,
    help="What becomes of a guest that does not shut down.",
)
LIMIT = click.option("--limit", type=int, default=10, show_default=True, help="How many shut down at once.")
TAKE_OVER = click.option(
    "--take-over", is_flag=True, help="Go on although the pool is marked with another run, which is lost."
)
DRY_RUN = click.option("--dry-run", is_flag=True, help="Show the plan, step by step, and change nothing.")


def run_or_resume(
    reach: Reach,
    file: str | None,
    procedure: str,
    make: Callable[[Reached], Plan],
    *,
    as_json: bool,
    dry_run: bool = False,
    now: bool = True,
    asked: Asked | None = None,
    agreed: Callable[[Plan], None] | None = None,
    begun: Callable[[Journal], None] | None = None,
    **options: Any,
) -> None:
    """Plan a procedure and carry it out, or go on with the one in the journal; end with the exit status of what came of it.

    `make` makes the plan. With `now` false nobody logs in for it, since there may be no master. `asked` is what is asked
    before each host's turn; the first Ctrl-C then stops it after the step under way. `agreed` raises where the
    plan needs a person's word that was not given; `begun` is told the journal of a run that begins. `options` go to `Run`.
    """
    if file is None and reach.rehearse is None and not dry_run:
        raise click.UsageError("give --journal FILE: without it a run that is killed cannot be resumed")
    from ..procedures.journal import Journal

    with ending():
        if asked is not None:
            asked.check()
        if file is not None and Path(file).exists() and not dry_run:
            with opened(file, procedure) as journal, reach.opened(now=False) as at:
                carry_out(at, journal, as_json=as_json, asked=asked, **options)
        with reach.opened(now=now) as at:
            made = make(at)
            present(made, dry_run=dry_run, as_json=as_json)
            if made.problems:
                raise ProcedureError(f"this {procedure} cannot be done", made.problems)
            if agreed is not None:
                agreed(made)
            if asked is not None:
                asked.gates(at, made)  # what it refuses is said before there is a journal
            with Journal.create(made, file) as journal:
                if begun is not None:
                    begun(journal)
                carry_out(at, journal, as_json=as_json, asked=asked, **options)


def opened(file: str, *procedures: str) -> Journal:
    """The journal of a run of one of `procedures` that is not over. Raises `JournalError` for any other."""
    from ..procedures.journal import ABANDONED, DONE, Journal, JournalError

    journal = Journal.open(file, to_run=True)
    plan, state = journal.plan, journal.state
    if plan.procedure in procedures and state not in (DONE, ABANDONED):
        return journal
    journal.close()
    if plan.procedure not in procedures:
        raise JournalError(f"{file} is the journal of another procedure ({plan.procedure}): name another file")
    raise JournalError(f"{file}: this run is {state}; there is nothing left to do")


def carry_out(at: Reached, journal: Journal, *, as_json: bool, asked: Asked | None = None, **options: Any) -> None:
    """Carry out the journal's plan from where it is, and end with the exit status of what came of it. `asked` is as with
    `run_or_resume`."""
    from ..procedures.hands import assert_route
    from ..procedures.running import Run

    assert_route(journal.plan, at.hands)
    at.knows(journal.plan)
    with ExitStack() as stack:
        on_step = stack.enter_context(progress(quiet=as_json, plain=at.talks))
        told = {"poll": at.poll, "ask": ask, "credentials": at.credentials, **options}
        if asked is not None:
            told |= {"gates": asked.gates(at, journal.plan), "stop": stack.enter_context(told_to_stop())}
        run = Run(at.session, journal.plan, at.hands, journal, **told)
        outcome = run.carry_out(on_step)
    finish(outcome, journal, at, as_json=as_json)


def ask(question: str) -> bool:
    """Ask the person at the terminal; nobody there says no."""
    return sys.stdin.isatty() and click.confirm(question, err=True)
