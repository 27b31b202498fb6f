"""`xenctl backup` and `xenctl restore`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from ..errors import ProcedureError
from .endings import ending, print_json, show_plan
from .reach import Reach, machine_room_option, pool_options
from .runs import DRY_RUN, JOURNAL, JSON, run_or_resume

if TYPE_CHECKING:
    from ..procedures.backup import Preview
    from ..procedures.plan import Plan


@click.command()
@click.option("--to", "path", type=click.Path(), metavar="FILE", help="Where the backup is to be kept.")
@click.option("--folder", type=click.Path(), metavar="DIR", help="Keep it in this folder, under a name of its own.")
@click.option("--keep", type=int, metavar="N", help="With --folder: drop this pool's oldest beyond N.")
@click.option("--prove", is_flag=True, help="Ask the master whether it would take the dump back.")
@click.option("--shareable", type=click.Path(), metavar="FILE", help="Write a copy without secrets, too.")
@click.option("--host", metavar="NAME", help="Keep the control domain of this host instead of the pool's database.")
@click.option("--metadata", is_flag=True, help="Keep the records of all VMs instead of the pool's database.")
@pool_options
@JSON
def backup(
    path: str | None,
    folder: str | None,
    keep: int | None,
    prove: bool,
    shareable: str | None,
    host: str | None,
    metadata: bool,
    reach: Reach,
    as_json: bool,
) -> None:
    """Back up the pool's database, verified; or a host's control domain, or the records of its VMs.

    The file holds secrets and is its owner's alone. It is there whole or not at all.
    """
    if (path is None) == (folder is None):
        raise click.UsageError("give --to FILE or --folder DIR")
    if folder is None and keep is not None:
        raise click.UsageError("--keep goes with --folder")
    other = host is not None or metadata
    if other and (folder is not None or prove or shareable is not None or (host is not None and metadata)):
        raise click.UsageError("--host and --metadata go with --to alone, one of them")
    from .. import database, transfers
    from ..procedures import backup as procedure

    dropped: list[Path] = []
    with ending(), reach.opened() as at:
        if other:
            assert path is not None
            take = procedure.take_metadata if host is None else lambda s, p: procedure.take_host(s, host, p)
            size = take(at.session, path)
            told = {"path": path, "size": size}
        else:
            if path is not None:
                taken = procedure.take(at.session, path)
            else:
                assert folder is not None
                taken, dropped = procedure.take_into(at.session, folder, keep=keep)
            assert taken.path is not None
            data = Path(taken.path).read_bytes()
            if prove:
                transfers.restore_database(at.session, data, dry_run=True)
            if shareable is not None:
                database.write_file(procedure.shareable(data, taken.path), shareable)
            told = {
                "path": taken.path,
                "size": taken.size,
                "sha256": taken.sha256,
                "verified": taken.verified,
                "proved": prove,
                "dropped": [str(old) for old in dropped],
                "shareable": shareable,
            }
    if as_json:
        print_json({"ok": True, **told})
        return
    click.echo(f"{told['path']}: {told['size']} bytes" + (f", sha256 {told['sha256']}" if "sha256" in told else ""))
    for old in dropped:
        click.echo(f"dropped {old}")


@click.command()
@click.argument("dump", type=click.Path())
@pool_options
@machine_room_option
@JOURNAL
@click.option("--yes", is_flag=True, help="Agree to what is shown: hosts that fall out, records that are lost.")
@DRY_RUN
@JSON
def restore(dump: str, reach: Reach, file: str | None, yes: bool, dry_run: bool, as_json: bool) -> None:
    """Put DUMP in the place of the pool's database. The master restarts; every other host has to join again.

    With --dry-run show what that would change, and nothing else.
    """
    from ..procedures import restore as procedure

    with ending():
        if dry_run:
            with reach.opened() as at:
                made, seen = procedure.plan(at.session, dump)
                found = {
                    "ok": not made.problems,
                    "problems": made.problems,
                    "changes": seen.as_dict() if seen else None,
                }
                if as_json:
                    print_json(found)
                else:
                    _show(made, seen)
            raise SystemExit(1 if made.problems else 0)
        if not yes and reach.rehearse is None:
            raise ProcedureError("give --yes once you have seen what it changes: --dry-run shows it")
    run_or_resume(reach, file, procedure.RESTORE, lambda at: procedure.plan(at.session, dump)[0], as_json=as_json)


def _show(made: Plan, seen: Preview | None) -> None:
    show_plan(made, steps=True)
    for table, counts in sorted(seen.rows.items() if seen is not None else ()):
        click.echo(f"{table}: " + ", ".join(f"{count} {kind}" for kind, count in sorted(counts.items())))


COMMANDS = (backup, restore)
