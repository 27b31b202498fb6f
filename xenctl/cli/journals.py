"""`xenctl status`, `pause`, `abandon` and `take-over`: what can be done with the journal of any run, whatever it is of."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import click

from .endings import RESUMABLE, ending, print_json, show_plan
from .reach import Reach, Reached, hands_option, pool_options
from .runs import JSON

if TYPE_CHECKING:
    from ..procedures.journal import Journal

JOURNAL = click.option(
    *("--journal", "file"), type=click.Path(), metavar="FILE", required=True, help="The run's journal."
)


@contextmanager
def taken_up(
    reach: Reach, file: str, procedure: str = "", *, check: Callable[[], None] = lambda: None
) -> Iterator[tuple[Reached, Journal]]:
    """The journal of a run that is not done, of `procedure` if that is said, and its pool, whose master may be away. `check`
    is called before anything is reached."""
    from ..procedures.journal import ABANDONED, DONE, Journal, JournalError

    if reach.rehearse is not None:
        raise click.UsageError("the pool of a rehearsal ends with its process: there is no run to take up")
    with ending(), Journal.open(file, to_run=True) as journal:
        check()
        plan = journal.plan
        if procedure and plan.procedure != procedure:
            raise JournalError(
                f"{file} is the journal of another procedure ({plan.procedure}): give the command that began it once more"
            )
        if journal.state in (DONE, ABANDONED):
            raise JournalError(f"{file}: this run is {journal.state}; there is nothing left to do")
        with reach.opened(now=False) as at:
            at.knows(plan)
            yield at, journal


@click.command()
@pool_options
@hands_option
@click.option("--journal", "file", type=click.Path(), metavar="FILE", help="The run's journal.")
@click.option("--lost", metavar="RUN", help="Instead of a journal that is lost: the run that the pool is marked with.")
@JSON
def abandon(reach: Reach, file: str | None, lost: str | None, as_json: bool) -> None:
    """Give a run up, of whatever procedure: undo what it changed, as far as the pool allows, and say what is left.

    Without its journal nothing can be undone: --lost only has the pool forget the run, so that another can begin.
    """
    from ..procedures.giving_up import give_up

    if file is None or lost is not None:
        if lost is None or file is not None:
            raise click.UsageError("give either --journal FILE or, where that is lost, --lost RUN")
        _forget(reach, lost, as_json=as_json)
        return
    with taken_up(reach, file) as (at, journal):
        left = give_up(at.session, journal, at.hands, poll=at.poll)
        if as_json:
            print_json({"ok": not left, "state": journal.state, "left": left})
        else:
            for what in left:
                click.echo(f"not undone: {what}")
            click.echo(f"{journal.run_id}: {'abandoned' if not left else 'not all undone; abandon it again later'}")
        sys.exit(RESUMABLE if left else 0)


def _forget(reach: Reach, lost: str, *, as_json: bool) -> None:
    """Have the pool forget a run, and tell what that may have left."""
    from ..procedures.marking import forget

    with ending(), reach.opened() as at:
        left = forget(at.session, lost)
        if as_json:
            print_json({"ok": True, "state": "forgotten", "left": left})
            return
        click.echo(f"{lost}: forgotten; nothing was undone")
        for what in left:
            click.echo(f"see to this: {what}")


@click.command("take-over")
@pool_options
@JOURNAL
@JSON
def take_over(reach: Reach, file: str, as_json: bool) -> None:
    """Mark the pool with this journal's run again, whoever marked it since; nobody else may be at work on it."""
    from ..procedures.marking import take_back

    with taken_up(reach, file) as (at, journal):
        before = take_back(at.session, journal.run_id)
        if as_json:
            print_json({"ok": True, "run": journal.run_id, "before": before})
        else:
            click.echo(f"the pool is marked with {journal.run_id} again; before: {before or 'with no run'}")


@click.command()
@JOURNAL
@JSON
def pause(file: str, as_json: bool) -> None:
    """Have a run that is at work stop before the next host. It ends with status 3, and can be gone on with."""
    from ..procedures.journal import PAUSE, Journal, JournalError

    with ending(), Journal.open(file) as journal:
        if not journal.at_work:
            raise JournalError(f"{file}: no process is at work on this run (it is {journal.state}): nothing to pause")
        if not any(step.action == "turn" for step in journal.plan.steps):
            raise JournalError(f"{file}: a {journal.plan.procedure} has no hosts in turn; stop it by Ctrl-C, or SIGINT")
        journal.put(PAUSE, "paused from outside")
        if as_json:
            print_json({"ok": True, "run": journal.run_id})
        else:
            click.echo(f"{journal.run_id}: will stop before the next host")


@click.command()
@JOURNAL
@JSON
def status(file: str, as_json: bool) -> None:
    """Show how far a run is, from its journal alone. May be asked while it runs."""
    from ..procedures.account import compare, seconds_left
    from ..procedures.estimate import said
    from ..procedures.journal import ABANDONED, DONE, Journal

    with ending(), Journal.open(file) as journal:
        over = journal.state in (DONE, ABANDONED)
        left = 0.0 if over else seconds_left(journal)
        made, done, entries = journal.plan, journal.finished(), journal.entries()
        following = made.steps[done].text(made.names) if done < len(made.steps) else None
        if as_json:
            print_json(
                {
                    "run": journal.run_id,
                    "state": journal.state,
                    "pool": made.pool_name,
                    "procedure": made.procedure,
                    "done": done,
                    "steps": len(made.steps),
                    "next": following,
                    "at_work": journal.at_work,
                    "left_s": round(left),
                    "account": compare(journal).as_dict(),
                    "changes": [change.undo.text(made.names) for change in journal.changes() if not change.undone],
                    "log": [vars(entry) for entry in entries],
                }
            )
            return
        show_plan(made)
        click.echo(f"{journal.run_id}: {journal.state}, {done} of {len(made.steps)} steps are done")
        if following and not over:
            click.echo(f"next: {following}")
            click.echo(
                f"about {said(left)} left, by what it took so far{'' if journal.at_work else '; nobody is at work'}"
            )
        for entry in entries[-10:]:
            if entry.phase in ("failed", "note"):
                click.echo(f"{entry.phase}: {entry.text}")


COMMANDS = (status, pause, abandon, take_over)
