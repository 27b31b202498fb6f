"""The pool database as a backup: fetched from the master, verified, and written so that no half file is ever there.

It must be taken before versions mix: from then on the master answers with a stub without rows. The file holds secrets (the
pool's and those of storage), so only its owner may read it.
"""

from __future__ import annotations

import hashlib
import io
import os
from dataclasses import dataclass
from typing import TYPE_CHECKING

from .. import database, transfers
from ..errors import DatabaseError

if TYPE_CHECKING:
    from ..database import Database
    from ..session import Session

COUNTED = ("host", "VM", "SR", "VDI", "VBD", "PBD", "VIF", "network")
"""Tables whose rows are counted against the live pool."""


@dataclass(frozen=True)
class Backup:
    """A backup that was taken. `sha256` is the digest of its bytes; `path` is where it is, None where it was not kept."""

    sha256: str
    verified: bool
    size: int
    path: str | None
    database: Database


def fetch(session: Session) -> bytes:
    """The dump of the pool's database as the master sends it. Raises `DatabaseError` for one that is not whole."""
    data = io.BytesIO()
    transfers.dump_database(session, data)
    return data.getvalue()


def take(session: Session, path: str | os.PathLike[str] | None = None) -> Backup:
    """Fetch the database, verify it against the live pool and keep it at `path`.

    Raises `DatabaseError` for a dump that is not of the whole pool, or not of this one. Nothing is left behind then.
    """
    data = fetch(session)
    dump = database.read(data, source="the dump that the master sent")
    verify(session, dump)
    if path is not None:
        database.write_file(data, path)
    return Backup(hashlib.sha256(data).hexdigest(), True, len(data), None if path is None else str(path), dump)


def verify(session: Session, dump: Database) -> None:
    """Compare a dump with the live pool: a whole database, of this pool, of the master's schema, with as many rows."""
    database.verify(dump)
    (pool,) = session.pool.get_all_records().values()
    row = next(iter(dump.rows("pool")))
    if row.cells.get("uuid") != pool.uuid:
        raise DatabaseError(f"this dump is of another pool ({row.cells.get('uuid')}, not {pool.uuid})", table="pool")
    if dump.master != pool.master:
        raise DatabaseError("this dump names another master than the pool has now", table="pool")
    for table in COUNTED:
        live = len(session.call(f"{table}.get_all", (), list))
        kept = sum(1 for _ in dump.rows(table))
        if kept != live:
            raise DatabaseError(f"the dump has {kept} rows where the pool has {live}; take it again", table=table)
