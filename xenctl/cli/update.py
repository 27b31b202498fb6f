"""`xenctl update`."""

from __future__ import annotations

import click

from .maintenance import HOSTS, STUCK, names
from .policies import Asked, gate_options
from .reach import Reach, Reached, machine_room_option, pool_options
from .runs import DRY_RUN, JOURNAL, JSON, run_or_resume


@click.command()
@click.argument("what", metavar="[FILE|UUID]", required=False)
@click.option("--sync", is_flag=True, help="Update from the pool's repositories instead (XCP-ng 8.3, XenServer 8).")
@HOSTS
@STUCK
@click.option("--restart-guests", is_flag=True, help="Reboot the guests that the update wants restarted.")
@click.option(
    "--sr", metavar="UUID", help="Where the package is kept, since 7.1; the pool's default storage if left out."
)
@click.option("--keep", is_flag=True, help="Leave the package in the pool.")
@gate_options
@pool_options
@machine_room_option
@JOURNAL
@DRY_RUN
@JSON
def update(
    what: str | None,
    sync: bool,
    hosts: str | None,
    stuck: str,
    restart_guests: bool,
    sr: str | None,
    keep: bool,
    asked: Asked,
    reach: Reach,
    file: str | None,
    dry_run: bool,
    as_json: bool,
) -> None:
    """Apply an update to hosts one after another, the master first.

    FILE is brought to the pool first; UUID is that of an update that the pool has. With --sync hosts get what the pool's
    repositories publish now.
    """
    from ..procedures import repositories
    from ..procedures import update as procedure
    from ..procedures.plan import Plan

    if (what is None) != sync:
        raise click.UsageError("give FILE or UUID, or --sync")
    chosen = names(hosts)

    def make_synced(at: Reached) -> Plan:
        return repositories.plan(at.session, repositories.sync(at.session), chosen, stuck=stuck)

    if what is None:
        refuse_others(restart_guests=restart_guests, sr=sr, keep=keep)
        run_or_resume(reach, file, repositories.SYNCED, make_synced, as_json=as_json, dry_run=dry_run, asked=asked)
        return
    known = bool(procedure.UUID.fullmatch(what))
    if dry_run and not known and reach.rehearse is None:
        raise click.UsageError("a dry run brings nothing to the pool: give the UUID of an update that it has")

    def make(at: Reached) -> Plan:
        uuid = what if known else procedure.upload(at.session, what, sr=sr)
        return procedure.plan(at.session, uuid, chosen, stuck=stuck, restart_guests=restart_guests, keep=keep)

    run_or_resume(reach, file, procedure.UPDATE, make, as_json=as_json, dry_run=dry_run, asked=asked)


def refuse_others(**given: object) -> None:
    """Options that concern an update's file would do nothing."""
    for name, value in given.items():
        if value:
            raise click.UsageError(f"--{name.replace('_', '-')} is for an update's file or uuid, not for --sync")


COMMANDS = (update,)
