"""What members keep of the master's database, so that one of them can take its place.

The master has them fetch it every few minutes, and whenever somebody asks for it. Here it is fetched when it might be
needed: when the master goes, by every member, and by a member that goes itself. A member takes only a database of its own
schema; while versions are mixed it is sent an empty one, and keeps what it had before.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from xenctl import database
from xenctl.database import Database
from xenctl.errors import DatabaseError
from xenctl.releases import Release, of_host

from . import rules

if TYPE_CHECKING:
    from .machine.host import HostMachine
    from .pool import MockPool


def keep(pool: MockPool, stopping: HostMachine) -> None:
    """Before the toolstack of `stopping` goes: what those who have just lost their master, or it itself, hold of the
    database."""
    if not pool.master_serves or stopping.xapi.mode not in ("master", "member"):
        return
    alone = stopping.xapi.mode == "member"
    members = [stopping] if alone else [m for m in pool.machines if m.xapi.mode == "member"]
    takers = [machine for machine in members if accepts(pool, machine)]
    if takers:
        dump = pool.store.dump()
        for machine in takers:
            take(machine, dump)


def accepts(pool: MockPool, machine: HostMachine) -> bool:
    """Whether a member takes what the master would send it now."""
    return not rules.upgrading(pool.store) and machine.system.release.schema == pool.store.release.schema


def take(machine: HostMachine, dump: Database) -> None:
    """Have `dump` on the host's disk, in place of any database that it had."""
    machine.system.saved, machine.system.database = dump, None


def release_of(dump: Database) -> Release:
    """The release of a dump: its master's product version where that is known, else the schema's."""
    try:
        row = dump.row("host", dump.master)
        software = database.parse_map(row.cells.get("software_version", "()"))
        api = int(row.cells.get("API_version__major", 0)), int(row.cells.get("API_version__minor", 0))
        return of_host(software, api, dump.schema)
    except (KeyError, ValueError) as error:
        raise DatabaseError(f"the master's release cannot be told: {error}", table="host") from None
