"""`xenctl upgrade`: a rolling upgrade, planned, run, and gone on with."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import click

from .endings import IMPOSSIBLE, RESUMABLE, assert_same_pool, ending, finish, print_json, progress, show_plan
from .policies import Asked, guest_options, guest_policies, run_options, told_to_stop
from .reach import Reach, Reached, hands_option, pool_options

if TYPE_CHECKING:
    from ..procedures.journal import Journal

TO = click.option("--to", metavar="RELEASE", help="Release to upgrade to; the next one if left out.")
JSON = click.option("--json", "as_json", is_flag=True, help="Print one JSON object and nothing else.")
JOURNAL = click.option(
    *("--journal", "file"), type=click.Path(), metavar="FILE", required=True, help="The run's journal."
)


@click.group()
def upgrade() -> None:
    """Give every host a new release, one after another, while the guests go on running."""


@upgrade.command()
@pool_options
@hands_option
@TO
@guest_options
@JSON
def plan(reach: Reach, to: str | None, vm: tuple[str, ...], vms: str | None, as_json: bool) -> None:
    """Show what an upgrade would do, step by step. Nothing is changed."""
    from ..procedures import rolling_upgrade

    with ending():
        policies = guest_policies(vm, vms)
        with reach.opened() as at:
            made = rolling_upgrade.plan(at.session, to, hands=at.hands, policies=policies)
            if as_json:
                print_json(made.as_dict())
            else:
                show_plan(made, steps=True)
    sys.exit(IMPOSSIBLE if made.problems else 0)


@upgrade.command()
@pool_options
@hands_option
@TO
@click.option("--journal", "file", type=click.Path(), metavar="FILE", help="Where the run's journal is to be kept.")
@click.option("--backup", type=click.Path(), metavar="FILE", help="Where the database is kept; beside the journal.")
@click.option("--accept-downtime", is_flag=True, help="Agree to the downtime of the guests that the plan names.")
@guest_options
@run_options
@JSON
def run(
    reach: Reach,
    to: str | None,
    file: str | None,
    backup: str | None,
    accept_downtime: bool,
    vm: tuple[str, ...],
    vms: str | None,
    asked: Asked,
    as_json: bool,
) -> None:
    """Plan an upgrade and carry it out."""
    from ..procedures import rolling_upgrade
    from ..procedures.journal import Journal

    if file is None and reach.rehearse is None:
        raise click.UsageError("give --journal FILE: without it a run that is killed cannot be resumed")
    with ending():
        asked.check()
        policies = guest_policies(vm, vms)
        with reach.opened() as at:
            made = rolling_upgrade.plan(at.session, to, hands=at.hands, policies=policies)
            if not as_json and not made.problems:
                show_plan(made)
            rolling_upgrade.assert_can_run(made, accept_downtime=accept_downtime)
            asked.gates(at, made)
            with Journal.create(made, file) as journal:
                journal.put("options", {"accept_downtime": accept_downtime, "backup_to": backup or _beside(file)})
                _carried_out(at, journal, asked, as_json=as_json)


@upgrade.command()
@pool_options
@hands_option
@JOURNAL
@click.option("--replan", is_flag=True, help="Plan the rest anew, where the pool is not as the plan expects it.")
@run_options
@JSON
def resume(reach: Reach, file: str, replan: bool, asked: Asked, as_json: bool) -> None:
    """Go on with a run that stopped or was killed. The pool is observed anew; nothing is done twice."""
    from ..procedures import rolling_upgrade

    with _taken_up(reach, file, asked) as (at, journal):
        if replan:
            made = rolling_upgrade.replan(at.session, journal)
            rolling_upgrade.assert_can_run(
                made, accept_downtime=journal.get("options", {}).get("accept_downtime", False)
            )
            journal.replan(made)
        _carried_out(at, journal, asked, as_json=as_json)


@upgrade.command()
@pool_options
@hands_option
@TO
@click.option("--journal", "file", type=click.Path(), metavar="FILE", required=True, help="The new run's journal.")
@click.option("--accept-downtime", is_flag=True, help="Agree to the downtime of the guests that the plan names.")
@click.option("--take-over", is_flag=True, help="Go on although the pool is marked with another run, which is lost.")
@click.option("--dry-run", is_flag=True, help="Show the plan, and change nothing.")
@guest_options
@run_options
@JSON
def adopt(
    reach: Reach,
    to: str | None,
    file: str,
    accept_downtime: bool,
    take_over: bool,
    dry_run: bool,
    vm: tuple[str, ...],
    vms: str | None,
    asked: Asked,
    as_json: bool,
) -> None:
    """Finish an upgrade that somebody left half done, without our journal.

    Where guests lived before is not known: they stay where the upgrade puts them, or where they are.
    """
    from ..procedures import rolling_upgrade
    from ..procedures.journal import Journal

    with ending():
        asked.check()
        policies = guest_policies(vm, vms)
        with reach.opened() as at:
            made = rolling_upgrade.adopt(at.session, to, take_over=take_over, hands=at.hands, policies=policies)
            if not as_json and (dry_run or not made.problems):
                show_plan(made, steps=dry_run)
            if dry_run:
                if as_json:
                    print_json(made.as_dict())
                sys.exit(IMPOSSIBLE if made.problems else 0)
            rolling_upgrade.assert_can_run(made, accept_downtime=accept_downtime)
            asked.gates(at, made)
            with Journal.create(made, file) as journal:
                journal.put("options", {"accept_downtime": accept_downtime, "take_over": take_over})
                _carried_out(at, journal, asked, as_json=as_json)


@upgrade.command()
@pool_options
@hands_option
@JOURNAL
@JSON
def abandon(reach: Reach, file: str, as_json: bool) -> None:
    """Give a run up: undo what it prepared, as far as the pool allows, and say what is left."""
    from ..procedures import running

    with _taken_up(reach, file) as (at, journal):
        left = running.abandon(at.session, journal, at.hands, poll=at.poll)
        if as_json:
            print_json({"ok": not left, "state": journal.state, "left": left})
        else:
            for what in left:
                click.echo(f"not undone: {what}")
            click.echo(f"{journal.run_id}: {'abandoned' if not left else 'not all undone; abandon it again later'}")
        sys.exit(RESUMABLE if left else 0)


@contextmanager
def _taken_up(reach: Reach, file: str, asked: Asked | None = None) -> Iterator[tuple[Reached, Journal]]:
    """The journal of a run that is not done, and its pool, whose master may be away."""
    from ..procedures.journal import ABANDONED, DONE, Journal, JournalError

    if reach.rehearse is not None:
        raise click.UsageError("the pool of a rehearsal ends with its process: there is no run to take up")
    with ending(), Journal.open(file, to_run=True) as journal:
        if asked is not None:
            asked.check()
        if journal.state in (DONE, ABANDONED):
            raise JournalError(f"{file}: this run is {journal.state}; there is nothing left to do")
        with reach.opened(now=False) as at:
            at.knows(journal.plan)
            assert_same_pool(at.session, journal.plan, file)
            yield at, journal


def _carried_out(at: Reached, journal: Journal, asked: Asked, *, as_json: bool) -> None:
    from ..procedures import rolling_upgrade
    from ..procedures.account import compare

    plan = journal.plan
    at.knows(plan)
    at.watch(plan)
    gates, policy = asked.gates(at, plan), asked.kept(journal)
    with progress(quiet=as_json, plain=at.talks) as on_step, told_to_stop() as stop:
        outcome = rolling_upgrade.run(
            *(at.session, plan, at.hands),
            journal=journal,
            on_step=on_step,
            poll=at.poll,
            gates=gates,
            policy=policy,
            stop=stop,
            **journal.get("options", {}),
        )
    finish(outcome, journal, at, as_json=as_json, account=compare(journal))


@upgrade.command()
@JOURNAL
@JSON
def pause(file: str, as_json: bool) -> None:
    """Have a run that is at work stop before the next host. It ends with status 3, and can be resumed."""
    from ..procedures.journal import PAUSE, Journal, JournalError

    with ending(), Journal.open(file) as journal:
        if not journal.at_work:
            raise JournalError(f"{file}: no process is at work on this run (it is {journal.state}): nothing to pause")
        journal.put(PAUSE, "paused from outside")
        if as_json:
            print_json({"ok": True, "run": journal.run_id})
        else:
            click.echo(f"{journal.run_id}: will stop before the next host")


def _beside(file: str | None) -> str | None:
    return None if file is None else f"{file}.dump.xml"


@upgrade.command()
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
