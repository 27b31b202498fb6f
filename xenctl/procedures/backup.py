"""The pool database as a backup: fetched from the master, verified, and written so that no half file is ever there.

It must be taken before versions mix: from then on the master answers with a stub without rows. The file holds secrets (the
pool's and those of storage), so only its owner may read it; `shareable` takes them out.
"""

from __future__ import annotations

import hashlib
import io
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .. import database, datamodel, transfers
from ..errors import DatabaseError, ProcedureError
from ..releases import has_removed, serves
from .belonging import dump_of_another

if TYPE_CHECKING:
    from ..database import Database
    from ..session import Session

METRICS, METRICS_UP_TO = frozenset({"host_metrics", "PIF_metrics"}), (5, 57)
"""Tables that survive a restart only in releases after 5.5, and the last schema of which they do not."""
STATIC = frozenset({"role"})
"""What the toolstack answers from its program, not from a table."""
LOOKS = 3
"""How often rows are counted before a dump is called incomplete: the pool goes on while it is read."""
SUFFIX = ".xml"
_STAMP = "%Y%m%dT%H%M%SZ"


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
    data, dump = _taken(session)
    if path is not None:
        database.write_file(data, path)
    return Backup(hashlib.sha256(data).hexdigest(), True, len(data), None if path is None else str(path), dump)


def _taken(session: Session) -> tuple[bytes, Database]:
    """A dump that is verified, as bytes and as a database."""
    for look in range(LOOKS, 0, -1):
        data = fetch(session)
        dump = database.read(data, source="the dump that the master sent")
        try:
            verify(session, dump)
        except _Uneven as error:
            if look == 1:
                raise DatabaseError(error.message, table=error.table) from None
        else:
            return data, dump
    raise AssertionError("the last look returns or raises")


class _Uneven(DatabaseError):
    """A dump with other numbers of rows than the pool has: the pool may have changed meanwhile."""


def verify(session: Session, dump: Database) -> None:
    """Compare a dump with the live pool: a whole database, of this pool, of the master's release, and for each persistent
    class with as many rows. Raises `DatabaseError`."""
    database.verify(dump)
    (pool,) = session.pool.get_all_records().values()
    whose = dump_of_another(dump, here=pool.uuid, called=pool.name_label)
    if whose:
        raise DatabaseError(whose, table="pool")
    if dump.master != pool.master:
        raise DatabaseError("this dump names another master than the pool has now", table="pool")
    for table in counted(session, dump):
        live = len(session.call(f"{table}.get_all", (), list))
        kept = sum(1 for _ in dump.rows(table))
        if kept != live:
            raise _Uneven(f"the dump has {kept} rows where the pool has {live}; take it again", table=table)


def counted(session: Session, dump: Database) -> list[str]:
    """The tables of a dump whose rows are counted against the live pool: those of classes that survive a restart."""
    model, release = datamodel.load(), session.release
    gone = STATIC | (METRICS if release.schema <= METRICS_UP_TO else frozenset())
    known = (model.classes[name] for name in dump.tables if name in model.classes and name not in gone)
    return [
        cls.name
        for cls in known
        if cls.persistent and cls.get_all and serves(release, cls) and not has_removed(release, cls)
    ]


def shareable(data: bytes, source: str = "<bytes>") -> bytes:
    """The dump without its secrets: what may be shown to somebody else. Raises `DatabaseError`."""
    dump = database.redact(database.read(data, source=source))
    return database.write(dump)


# --- many backups in one folder


def name_for(dump: Database, at: datetime | None = None) -> str:
    """The name of a backup's file: the pool's uuid and the moment, so that names sort by age."""
    uuid = next(iter(dump.rows("pool"))).cells.get("uuid", "pool")
    return f"{uuid}-{(at or datetime.now(timezone.utc)).strftime(_STAMP)}{SUFFIX}"


def take_into(
    session: Session, folder: str | os.PathLike[str], *, keep: int | None = None
) -> tuple[Backup, list[Path]]:
    """Take a backup into `folder` under a name of its own, then drop this pool's oldest beyond `keep`; the backup, and the
    files that were dropped. Nothing is dropped before the new one is verified and on the disk."""
    if keep is not None and keep < 1:
        raise ValueError(f"keep is how many backups stay, from 1, not {keep}")
    where = Path(folder)
    if not where.is_dir():
        raise ValueError(f"{where} is no folder; make it first")
    data, dump = _taken(session)
    path = where / name_for(dump)
    database.write_file(data, path)
    uuid = next(iter(dump.rows("pool"))).cells.get("uuid", "pool")
    mine = sorted(_mine(where, uuid), reverse=True)
    dropped = [] if keep is None else mine[keep:]
    for old in dropped:
        old.unlink()
    return Backup(hashlib.sha256(data).hexdigest(), True, len(data), str(path), dump), dropped


def _mine(folder: Path, uuid: str) -> Iterator[Path]:
    pattern = re.compile(rf"{re.escape(uuid)}-\d{{8}}T\d{{6}}Z{re.escape(SUFFIX)}")
    return (path for path in folder.iterdir() if pattern.fullmatch(path.name))


# --- what a restore would do


@dataclass(frozen=True)
class Preview:
    """What restoring a dump would change: names, and numbers of rows by table.

    `dropped` are the hosts that fall out of the pool and have to join again; `lost` guests that were made since, whose
    records go; `back` guests that were removed since, whose records come again; `halted` guests that run and will be seen as
    halted.
    """

    dropped: tuple[str, ...]
    lost: tuple[str, ...]
    back: tuple[str, ...]
    halted: tuple[str, ...]
    rows: dict[str, dict[str, int]]
    generation: int
    live_generation: int

    def as_dict(self) -> dict[str, Any]:
        return {**vars(self), **{name: list(getattr(self, name)) for name in ("dropped", "lost", "back", "halted")}}


def preview(session: Session, dump: Database) -> Preview:
    """What restoring `dump` would change in the session's pool. Raises `ProcedureError` where it must not be restored there:
    another pool's, another release's, a stub. Servers before 2011 would take another release's dump, so we compare."""
    live = database.read(fetch(session), source="the pool's database")
    refuse(session, dump, live)
    guests = {"dump": _guests(dump), "live": _guests(live)}
    changes: dict[str, dict[str, int]] = {}
    for difference in database.differences(live, dump):
        if difference.ref:
            kind = "changed" if difference.column else ("gone" if difference.after is None else "new")
            table = changes.setdefault(difference.table, {})
            table[kind] = table.get(kind, 0) + 1
    names = {row.ref: row.cells.get("name__label", row.ref) for row in live.rows("host")}
    return Preview(
        dropped=tuple(sorted(name for ref, name in names.items() if ref != live.master)),
        lost=tuple(sorted(name for uuid, (name, _) in guests["live"].items() if uuid not in guests["dump"])),
        back=tuple(sorted(name for uuid, (name, _) in guests["dump"].items() if uuid not in guests["live"])),
        halted=tuple(sorted(name for name, state in guests["live"].values() if state in ("Running", "Paused"))),
        rows=changes,
        generation=dump.generation,
        live_generation=live.generation,
    )


def refuse(session: Session, dump: Database, live: Database) -> None:
    """Raise `ProcedureError` where `dump` must not be restored in the session's pool, whose database is `live`."""
    database.verify(dump)
    (ours,) = live.rows("pool")
    whose = dump_of_another(dump, here=ours.cells["uuid"], called=ours.cells.get("name_label", ""))
    reasons = [whose] if whose else []
    if live.schema != dump.schema:
        written, knows = (".".join(map(str, d.schema)) for d in (dump, live))
        reasons.append(
            f"it has schema {written}, and the master knows {knows}: only the release that wrote it reads it"
        )
    made, runs = version_in(dump), version_in(live)
    if made != runs:
        reasons.append(f"it was taken under {made}, and the master runs {runs}: go back to {made} first")
    if dump.master != live.master:
        reasons.append("it names another master: restore it on the host that was the master then")
    if reasons:
        raise ProcedureError("this dump cannot be restored here", reasons)


def version_in(dump: Database) -> str:
    """The product version of the master in a dump, by its record; manifests since 6.0 do not tell it."""
    row = dump.row("host", dump.master)
    found = database.parse_map(row.cells.get("software_version", "()"))
    return found.get("product_version") or dump.product_version or "unknown"


def _guests(dump: Database) -> dict[str, tuple[str, str]]:
    """Name and power state of the guests in a dump, by uuid."""
    out = {}
    for row in dump.rows("VM"):
        cells = row.cells
        if "true" not in (cells.get("is_control_domain"), cells.get("is_a_template"), cells.get("is_a_snapshot")):
            out[cells.get("uuid", row.ref)] = cells.get("name__label", ""), cells.get("power_state", "")
    return out


# --- the other backups


def take_host(session: Session, host: str, path: str | os.PathLike[str]) -> int:
    """Keep the control domain of the host with this name or uuid as a compressed tar; the number of bytes. Its guests'
    disks are not in it. Raises `ValueError` for a host that the pool does not have."""
    from .observe import observe
    from .shutdown import find_host

    pool = observe(session)
    ref: Any = pool.hosts[find_host(pool, host)].ref
    return transfers.backup_host(session, ref, path)


def take_metadata(session: Session, path: str | os.PathLike[str]) -> int:
    """Keep the records of all virtual machines, without disks; the number of bytes. Since 4.1."""
    return transfers.export_metadata(session, None, path)
