"""Putting a database back."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import TYPE_CHECKING

from ... import database, transfers
from ...errors import Failure, ProcedureError, TransportError
from ..waiting import answer
from . import Kind

if TYPE_CHECKING:
    from ..plan import Plan, Step
    from ..running import Run

FUSE = 1800.0
"""Seconds in which the master restarts with the restored database."""


class Prove(Kind):
    """Ask the master whether it would take the dump. One of before 2011 takes that of another release, too: where the step
    has a release, what the master runs is compared with it."""

    name, text = "prove", "prove that the master takes the dump"

    def holds(self, run: Run, step: Step) -> bool:
        return bool(run.journal.get("proved"))

    def act(self, run: Run, step: Step) -> None:
        data = read_dump(step)
        if step.release:
            assert_runs(run, step.release)
        transfers.restore_database(run.session, data, dry_run=True)
        run.journal.put("proved", True)


class Restore(Kind):
    """Put the dump in the place of the database. The mark of this run is in the old one only, so it tells them apart."""

    name, text = "restore", "restore the database; {host} restarts"

    def holds(self, run: Run, step: Step) -> bool:
        try:
            return run.mark() != run.journal.run_id
        except (Failure, TransportError):
            return False

    def unmarks(self, plan: Plan, step: Step) -> bool:
        return True

    def act(self, run: Run, step: Step) -> None:
        # Whoever goes on with a run may find the master on its way already.
        run.until(lambda: answer(run.session.pool.get_all_records) is not None, "the master does not answer", FUSE)
        if self.holds(run, step):
            return
        self.begin(run, step)
        transfers.restore_database(run.session, read_dump(step))
        run.until(lambda: self.holds(run, step), "the master does not come back with the restored database", FUSE)

    def begin(self, run: Run, step: Step) -> None:
        """What is to be done while the old database is served."""


def assert_runs(run: Run, release: str) -> None:
    """Raise `ProcedureError` where the master runs another release than this product version."""
    (pool,) = run.session.pool.get_all_records().values()
    runs = run.session.host.get_record(pool.master).software_version.get("product_version", "")
    if runs != release:
        raise ProcedureError(
            f"the master was installed with {runs}, and the dump is of {release}: switch it off, and install {release}"
        )


def read_dump(step: Step) -> bytes:
    """The dump of a step, if the file still holds what was planned. Raises `ProcedureError`."""
    path = step.args["path"]
    try:
        data = Path(path).read_bytes()
    except OSError as error:
        raise ProcedureError(f"the dump {path} cannot be read: {error.strerror}") from None
    if hashlib.sha256(data).hexdigest() != step.args["sha256"]:
        raise ProcedureError(f"{path} is not the file that this restore was planned with")
    database.verify(database.read(data, source=path))
    return data
