"""`xenctl upgrade`: a rolling upgrade, planned, run, and gone on with."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

from .endings import IMPOSSIBLE, ending, finish, planned, present, print_json, progress, show_mendable, show_plan
from .journals import JOURNAL, taken_up
from .policies import Asked, guest_options, guest_policies, run_options, told_to_stop, wished
from .reach import Reach, Reached, hands_option, pool_options
from .runs import JSON, TAKE_OVER

if TYPE_CHECKING:
    from ..procedures.journal import Journal

TO = click.option("--to", metavar="RELEASE", help="Release to upgrade to; the next one if left out.")
FIX = click.option(
    "--fix", is_flag=True, help="Mend first what checks find and can be mended; take it back at the end."
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
def plan(reach: Reach, to: str | None, vm: tuple[str, ...], vms: str | None, stay: bool, as_json: bool) -> None:
    """Show what an upgrade would do, step by step. Nothing is changed."""
    from ..procedures import rolling_upgrade

    with ending():
        policies = guest_policies(vm, vms)
        with reach.opened() as at:
            made = rolling_upgrade.plan(at.session, to, hands=at.hands, wishes=wished(stay=stay), policies=policies)
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
@FIX
@JSON
def run(
    reach: Reach,
    to: str | None,
    file: str | None,
    backup: str | None,
    accept_downtime: bool,
    vm: tuple[str, ...],
    vms: str | None,
    stay: bool,
    asked: Asked,
    fix: bool,
    as_json: bool,
) -> None:
    """Plan an upgrade and carry it out."""
    from ..procedures import rolling_upgrade
    from ..procedures.journal import Journal

    if file is None and reach.rehearse is None:
        raise click.UsageError("give --journal FILE: without it a run that is killed cannot be resumed")
    with ending():
        asked.check()
        assert_new(file)
        policies = guest_policies(vm, vms)
        with reach.opened() as at:
            wishes = wished(stay=stay)
            made = rolling_upgrade.plan(
                *(at.session, to), hands=at.hands, wishes=wishes, policies=policies, fix=fix, url=reach.medium
            )
            planned(made)
            if not as_json:
                (show_mendable if made.problems else show_plan)(made)
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
    from ..procedures.plan import UPGRADE

    with taken_up(reach, file, UPGRADE, check=asked.check) as (at, journal):
        if replan:
            made = planned(rolling_upgrade.replan(at.session, journal))
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
@TAKE_OVER
@click.option("--dry-run", is_flag=True, help="Show the plan, and change nothing.")
@guest_options
@run_options
@FIX
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
    stay: bool,
    asked: Asked,
    fix: bool,
    as_json: bool,
) -> None:
    """Finish an upgrade that somebody left half done, without our journal.

    Where guests lived before is not known: they stay where the upgrade puts them, or where they are.
    """
    from ..procedures import rolling_upgrade
    from ..procedures.journal import Journal

    with ending():
        asked.check()
        assert_new(file)
        policies = guest_policies(vm, vms)
        with reach.opened() as at:
            wishes = wished(stay=stay)
            made = rolling_upgrade.adopt(
                *(at.session, to), take_over=take_over, hands=at.hands, wishes=wishes, policies=policies, fix=fix
            )
            if dry_run or not planned(made).problems:
                present(made, dry_run=dry_run, as_json=as_json)
            rolling_upgrade.assert_can_run(made, accept_downtime=accept_downtime)
            asked.gates(at, made)
            with Journal.create(made, file) as journal:
                journal.put("options", {"accept_downtime": accept_downtime, "take_over": take_over})
                _carried_out(at, journal, asked, as_json=as_json)


def assert_new(file: str | None) -> None:
    """Raise `JournalError` where there is a journal already: its run is gone on with by `resume`, and knows more than a plan
    of the pool as it is now could."""
    from ..procedures.journal import JournalError

    if file is not None and Path(file).exists():
        raise JournalError(
            f"{file} exists: go on with that run (xenctl upgrade resume), give it up (xenctl abandon), or name another file"
        )


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


def _beside(file: str | None) -> str | None:
    return None if file is None else f"{file}.dump.xml"
