"""`xenctl maintenance`, `xenctl rolling-reboot` and `xenctl master`."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

from ..errors import ProcedureError
from .endings import IMPOSSIBLE, as_data, ending, finish, present, print_json, progress
from .policies import STAY, Asked, gate_options
from .reach import Reach, Reached, machine_room_option, pool_options, tell
from .runs import DRY_RUN, JOURNAL, JSON, TAKE_OVER, opened, run_or_resume

if TYPE_CHECKING:
    from ..procedures.journal import Journal

HOST = click.option("--host", metavar="NAME", required=True, help="The host (name or uuid).")
STUCK = click.option(
    "--stuck",
    type=click.Choice(["refuse", "suspend", "shut-down"]),
    default="refuse",
    show_default=True,
    help="What becomes of a guest that cannot leave its host.",
)
HOSTS = click.option("--hosts", metavar="NAME,...", help="Only these hosts (names or uuids, with commas between them).")


@click.group()
def maintenance() -> None:
    """Empty a host and keep it empty, so that somebody can work on it; take it into service again."""


@maintenance.command()
@HOST
@STUCK
@click.option("--new-master", metavar="NAME", help="Make this host the master first.")
@click.option("--lower-ha", is_flag=True, help="Agree that high availability survives fewer failures meanwhile.")
@pool_options
@machine_room_option
@JOURNAL
@DRY_RUN
@JSON
def enter(
    host: str,
    stuck: str,
    new_master: str | None,
    lower_ha: bool,
    reach: Reach,
    file: str | None,
    dry_run: bool,
    as_json: bool,
) -> None:
    """Move a host's guests away and keep it empty. Where that fails everything is as before."""
    from ..procedures import maintenance as procedure
    from ..procedures.journal import Journal

    if file is None and reach.rehearse is None and not dry_run:
        raise click.UsageError("give --journal FILE: without it a run that is killed cannot be resumed")
    with ending():
        if file is not None and Path(file).exists() and not dry_run:
            with opened(file, procedure.ENTER, procedure.UNWIND) as journal, reach.opened(now=False) as at:
                _enter(at, journal, as_json=as_json)
        with reach.opened() as at:
            made = procedure.plan_enter(at.session, host, stuck=stuck, new_master=new_master, lower_ha=lower_ha)
            present(made, dry_run=dry_run, as_json=as_json)
            if made.problems:
                raise ProcedureError(f"{host} cannot enter maintenance mode", made.problems)
            with Journal.create(made, file) as journal:
                _enter(at, journal, as_json=as_json)


def _enter(at: Reached, journal: Journal, *, as_json: bool) -> None:
    """Enter, or go on; end with 1 where it failed and all is as before."""
    from ..procedures import maintenance as procedure

    at.knows(journal.plan)
    with progress(quiet=as_json) as on_step:
        outcome = procedure.enter(at.session, journal, at.hands, poll=at.poll, on_step=on_step)
    if not procedure.is_unwound(journal):
        finish(outcome, journal, at, as_json=as_json)
    if as_json:
        print_json(as_data(outcome, journal))
    else:
        for problem in outcome.problems:
            tell(problem)
        click.echo("the host is in service as before")
    sys.exit(IMPOSSIBLE)


@maintenance.command()
@HOST
@click.option("--entered", type=click.Path(), metavar="FILE", help="The journal of entering, for keys that are gone.")
@TAKE_OVER
@pool_options
@machine_room_option
@JOURNAL
@DRY_RUN
@JSON
def leave(
    host: str,
    entered: str | None,
    take_over: bool,
    reach: Reach,
    file: str | None,
    dry_run: bool,
    as_json: bool,
) -> None:
    """Take a host into service and bring back what was there, as its own keys say, whoever wrote them."""
    from ..procedures import maintenance as procedure
    from ..procedures.journal import Journal

    def plan_of(path: str | None) -> object:
        if path is None:
            return None
        with Journal.open(path) as journal:
            return journal.plan

    with ending():
        before = plan_of(entered)
    run_or_resume(
        reach,
        file,
        procedure.LEAVE,
        lambda at: procedure.plan_leave(at.session, host, entered=before, take_over=take_over),  # type: ignore[arg-type]
        as_json=as_json,
        dry_run=dry_run,
        take_over=take_over,
    )


@click.command("rolling-reboot")
@HOSTS
@STUCK
@STAY
@gate_options
@pool_options
@machine_room_option
@JOURNAL
@DRY_RUN
@JSON
def rolling_reboot(
    hosts: str | None,
    stuck: str,
    stay: bool,
    asked: Asked,
    reach: Reach,
    file: str | None,
    dry_run: bool,
    as_json: bool,
) -> None:
    """Reboot hosts one after another, the master first, while the guests go on running."""
    from ..procedures import rolling_reboot as procedure

    run_or_resume(
        reach,
        file,
        procedure.REBOOT,
        lambda at: procedure.plan(at.session, names(hosts), stuck=stuck, stay=stay),
        as_json=as_json,
        dry_run=dry_run,
        asked=asked,
    )


@click.command()
@click.argument("host")
@pool_options
@machine_room_option
@JOURNAL
@DRY_RUN
@JSON
def master(host: str, reach: Reach, file: str | None, dry_run: bool, as_json: bool) -> None:
    """Make HOST (name or uuid) the master, while the old one is well. Guests run on."""
    from ..procedures import master as procedure

    run_or_resume(
        reach,
        file,
        procedure.MASTER,
        lambda at: procedure.plan(at.session, host),
        as_json=as_json,
        dry_run=dry_run,
    )


def names(text: str | None) -> list[str]:
    """What a list with commas names. Raises `click.UsageError` for one that names nothing."""
    if text is None:
        return []
    found = [name.strip() for name in text.split(",")]
    if not all(found):
        raise click.UsageError(f"--hosts: {text!r} has an empty name; give NAME,NAME")
    return found


COMMANDS = (maintenance, rolling_reboot, master)
