"""Restoring the pool's database from a dump: what a pool whose master's database is lost comes back with.

The master alone comes back. Every other host falls out of the database and has to join again, and guests that run
meanwhile are seen as halted, though they run: starting one then would run it twice. So all of this is shown first, and has
to be agreed to; and a dump of another pool or of another release is refused by us, since servers before 2011 would take it.
"""

from __future__ import annotations

import hashlib
import os
from pathlib import Path
from typing import TYPE_CHECKING

from .. import database
from ..errors import ProcedureError
from .backup import Preview, preview
from .observe import observe
from .plan import Plan, Step

if TYPE_CHECKING:
    from ..session import Session

RESTORE = "restore"


def plan(session: Session, path: str | os.PathLike[str]) -> tuple[Plan, Preview | None]:
    """The plan for restoring the dump at `path`, and what that would change; nothing is changed.

    What stands against it is in `Plan.problems`, and there is no preview then. Raises `DatabaseError` for a file that is no
    whole dump, `OSError` for one that cannot be read.
    """
    data = Path(path).read_bytes()
    dump = database.read(data, source=str(path))
    pool, problems, seen = observe(session), list[str](), None
    try:
        seen = preview(session, dump)
    except ProcedureError as error:
        problems = list(error.reasons)
    if pool.upgrading:
        problems.append("versions are mixed: finish the upgrade, or revert it")
    if seen is not None:  # nobody is to shut guests down for a dump that is of no use here
        running = [vm for vm in pool.vms.values() if vm.state in ("Running", "Paused")]
        problems += [f"{vm.name} runs: shut it down first, or it could be run twice" for vm in running]
    args = {"path": str(Path(path).resolve()), "sha256": hashlib.sha256(data).hexdigest()}
    steps = [
        Step("claim"),
        Step("prove", args=args),
        Step("restore", host=pool.master, args=args),
        Step("return", host=pool.master),
    ]
    told = () if seen is None else warnings(seen)
    return Plan.of(pool, RESTORE, steps, problems=problems, warnings=told), seen


def warnings(seen: Preview) -> list[str]:
    """What a restore takes away, in sentences."""
    out = [f"{name} falls out of the pool and has to join again" for name in seen.dropped]
    out += [f"{name} was made since: its record is lost" for name in seen.lost]
    out += [f"{name} was removed since: its record comes back" for name in seen.back]
    if seen.live_generation > seen.generation:
        out.append(f"the dump is {seen.live_generation - seen.generation} changes old")
    return out
