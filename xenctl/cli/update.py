"""`xenctl update`."""

from __future__ import annotations

import click

from .maintenance import HOSTS, STUCK, names
from .reach import Reach, Reached, pool_options
from .runs import DRY_RUN, JOURNAL, JSON, run_or_resume


@click.command()
@click.argument("what", metavar="FILE|UUID")
@HOSTS
@STUCK
@click.option("--restart-guests", is_flag=True, help="Reboot the guests that the update wants restarted.")
@click.option(
    "--sr", metavar="UUID", help="Where the package is kept, since 7.1; the pool's default storage if left out."
)
@click.option("--keep", is_flag=True, help="Leave the package in the pool.")
@pool_options
@JOURNAL
@DRY_RUN
@JSON
def update(
    what: str,
    hosts: str | None,
    stuck: str,
    restart_guests: bool,
    sr: str | None,
    keep: bool,
    reach: Reach,
    file: str | None,
    dry_run: bool,
    as_json: bool,
) -> None:
    """Apply an update to hosts one after another, the master first.

    FILE is brought to the pool first; UUID is that of an update that the pool has.
    """
    from ..procedures import update as procedure
    from ..procedures.plan import Plan

    known, chosen = bool(procedure.UUID.fullmatch(what)), names(hosts)
    if dry_run and not known and reach.rehearse is None:
        raise click.UsageError("a dry run brings nothing to the pool: give the UUID of an update that it has")

    def make(at: Reached) -> Plan:
        uuid = what if known else procedure.upload(at.session, what, sr=sr)
        return procedure.plan(at.session, uuid, chosen, stuck=stuck, restart_guests=restart_guests, keep=keep)

    run_or_resume(reach, file, procedure.UPDATE, make, as_json=as_json, dry_run=dry_run)


COMMANDS = (update,)
