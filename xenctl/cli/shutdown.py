"""`xenctl shutdown` and `xenctl start-again`."""

from __future__ import annotations

import click

from .endings import ending, present
from .reach import Reach, machine_room_option, pool_options
from .runs import DRY_RUN, JOURNAL, JSON, LIMIT, STUBBORN, carry_out, run_or_resume


@click.command()
@click.option("--host", metavar="NAME", help="Only the guests of this host (name or uuid).")
@STUBBORN
@click.option("--timeout", type=float, default=60.0, show_default=True, help="Seconds that each guest has.")
@LIMIT
@click.option(
    "--keep", multiple=True, metavar="NAME", help="A guest that is left alone (name or uuid); may be repeated."
)
@pool_options
@machine_room_option
@JOURNAL
@DRY_RUN
@JSON
def shutdown(
    host: str | None,
    policy: str,
    timeout: float,
    limit: int,
    keep: tuple[str, ...],
    reach: Reach,
    file: str | None,
    dry_run: bool,
    as_json: bool,
) -> None:
    """Shut down the guests of a pool, or of one host, in good order.

    Suspended guests are resumed first, so that they can shut down, too. The journal keeps what ran where, for start-again.
    """
    from ..procedures import shutdown as procedure

    run_or_resume(
        reach,
        file,
        procedure.SHUTDOWN,
        lambda at: procedure.plan(at.session, host, policy=policy, timeout=timeout, limit=limit, keep=keep),
        as_json=as_json,
        dry_run=dry_run,
    )


@click.command("start-again")
@click.option("--journal", "file", type=click.Path(), metavar="FILE", required=True, help="The shutdown's journal.")
@pool_options
@machine_room_option
@JSON
def start_again(file: str, reach: Reach, as_json: bool) -> None:
    """Start what a shutdown found running, in order and on the same hosts."""
    from ..errors import ProcedureError
    from ..procedures import shutdown as procedure
    from ..procedures.journal import DONE, Journal, JournalError

    if reach.rehearse is not None:
        raise click.UsageError("the pool of a rehearsal ends with its process: nothing was shut down there")
    with ending(), Journal.open(file, to_run=True) as journal, reach.opened() as at:
        if journal.plan.procedure == procedure.START and journal.state == DONE:
            raise JournalError(f"{file}: everything was started again")
        made = procedure.start_again(at.session, journal)
        present(made, dry_run=False, as_json=as_json)
        if made.problems:
            raise ProcedureError("these guests cannot be started where they ran", made.problems)
        carry_out(at, journal, as_json=as_json)


COMMANDS = (shutdown, start_again)
