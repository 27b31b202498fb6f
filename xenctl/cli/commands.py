"""The `xenctl` command and its subcommands; see `endings` for exit statuses, `reach` for how a pool is reached."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

import click

from . import answer_file, backup, journals, maintenance, recover, reinstall, shutdown, update
from .check import check
from .endings import IMPOSSIBLE, Answering, ending, print_json, progress, show_plan
from .path import plan_path
from .policies import STAY
from .reach import Reach, live_options
from .revert import revert
from .runs import JSON
from .upgrade import upgrade

if TYPE_CHECKING:
    from ..rehearsal import Rehearsal

CONTEXT = {"help_option_names": ["-h", "--help"], "max_content_width": 100}


@click.group(cls=Answering, context_settings=CONTEXT)
@click.version_option(package_name="xenctl", prog_name="xenctl")
def cli() -> None:
    """Maintenance of XenServer and XCP-ng pools: rehearsed first, then run."""


upgrade.add_command(check)
upgrade.add_command(revert)
for command in journals.COMMANDS:
    upgrade.add_command(command)
FAMILIES = (shutdown, backup, maintenance, update, recover, reinstall, answer_file, journals)
for command in (upgrade, plan_path, *(command for family in FAMILIES for command in family.COMMANDS)):
    cli.add_command(command)


@cli.command()
@click.argument("dump", required=False, type=click.Path())
@click.option("--to", metavar="RELEASE", help="Release to upgrade to; the next one if left out.")
@STAY
@live_options
@JSON
def rehearse(dump: str | None, to: str | None, stay: bool, reach: Reach, as_json: bool) -> None:
    """Rehearse the rolling upgrade of a pool on a fake one.

    DUMP is a pool database dump, as `xe pool-dump-database` writes it. With --server it is fetched from the live pool, which
    is only read. Without either a pool of three XenServer 4.0.1 hosts is made up. Nothing real is changed.
    """
    if dump is not None and reach.server is not None:
        raise click.UsageError("give DUMP or --server, not both")
    with ending():
        source: Any = dump
        if reach.server is not None:
            from ..procedures.backup import fetch

            with reach.session() as session:
                source = fetch(session)
        verdict = _with_progress(source, to, stay=stay, quiet=as_json)
    if as_json:
        print_json(verdict.as_dict())
    else:
        from .tables import show

        show(verdict)
    sys.exit(0 if verdict.ok else IMPOSSIBLE)


def _with_progress(source: Any, to: str | None, *, stay: bool, quiet: bool) -> Rehearsal:
    """Rehearse, with a progress bar on a terminal."""
    from ..rehearsal import rehearse as run

    if quiet:
        return run(source, to=to, stay=stay)
    with progress(quiet=not sys.stderr.isatty()) as on_step:
        return run(source, to=to, stay=stay, on_plan=show_plan, on_step=on_step)
