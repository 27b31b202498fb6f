"""`xenctl reinstall`."""

from __future__ import annotations

from pathlib import Path

import click

from .endings import ending
from .reach import Reach, hands_option, pool_options
from .runs import DRY_RUN, JOURNAL, JSON, LIMIT, STUBBORN, run_or_resume


@click.command()
@click.option("--host", metavar="NAME", required=True, help="The host (name or uuid).")
@click.option(
    "--evacuate", is_flag=True, help="Send its guests to other hosts meanwhile, instead of shutting them down."
)
@STUBBORN
@click.option("--timeout", type=float, default=60.0, show_default=True, help="Seconds that each guest has.")
@LIMIT
@click.option("--answer-file", type=click.Path(), metavar="FILE", help="What the medium boots with; it must preserve.")
@click.option("--backup", type=click.Path(), metavar="FILE", help="Where the database is kept; beside the journal.")
@pool_options
@hands_option
@JOURNAL
@DRY_RUN
@JSON
def reinstall(
    host: str,
    evacuate: bool,
    policy: str,
    timeout: float,
    limit: int,
    answer_file: str | None,
    backup: str | None,
    reach: Reach,
    file: str | None,
    dry_run: bool,
    as_json: bool,
) -> None:
    """Install a host again with the release that it runs, its settings and guests preserved.

    Its guests are shut down meanwhile, or sent to other hosts. Packages beside the product are lost, and are named.
    """
    from ..procedures import reinstall as procedure

    with ending():
        answers = b"" if answer_file is None else Path(answer_file).read_bytes()
    guests = procedure.Guests(evacuate, policy, timeout, limit)
    run_or_resume(
        reach,
        file,
        procedure.REINSTALL,
        lambda at: procedure.plan(at.session, host, guests=guests, hands=at.hands, answer_file=answers),
        as_json=as_json,
        dry_run=dry_run,
        backup_to=backup or (None if file is None else f"{file}.dump.xml"),
    )


COMMANDS = (reinstall,)
