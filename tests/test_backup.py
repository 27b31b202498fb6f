"""The database backup: verified against the live pool, never half written, readable by its owner alone."""

from __future__ import annotations

import hashlib
import stat
from pathlib import Path

import pytest
from pools import connected

from mockserver import MockPool
from xenctl import database
from xenctl.errors import DatabaseError
from xenctl.procedures import backup
from xenctl.releases import find


@pytest.mark.parametrize("release", ["4.0.1", "5.6", "8.2"])
def test_a_backup_is_taken_and_verified(tmp_path: Path, release: str) -> None:
    """The file holds the whole database, its digest is that of its bytes, and it loads as the same pool."""
    pool = MockPool.create(release=release)
    path = tmp_path / "pool.xml"
    taken = backup.take(connected(pool), path)
    data = path.read_bytes()
    assert taken.verified
    assert taken.sha256 == hashlib.sha256(data).hexdigest()
    assert taken.size == len(data)
    again = MockPool.from_dump(database.read(data))
    assert {vm["name_label"] for vm in again.store.table("VM").values()} == {
        vm["name_label"] for vm in pool.store.table("VM").values()
    }


def test_only_the_owner_may_read_it(tmp_path: Path) -> None:
    """A dump holds secrets: mode 0600, and nothing is left beside it."""
    path = tmp_path / "pool.xml"
    backup.take(connected(MockPool.create()), path)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert list(tmp_path.iterdir()) == [path]


def test_the_stub_of_a_mixed_pool_is_refused(tmp_path: Path) -> None:
    """While versions are mixed the master sends a stub; it is no backup, and no file appears."""
    pool = MockPool.create(release="4.0.1")
    session = connected(pool)
    pool.machine("host2").system.release = find("4.1.0")
    host = pool.host_row(pool.machine("host2"))
    assert host is not None
    pool.store.write(host, software_version={**host["software_version"], "product_version": "4.1.0"})
    pool.detect_rolling_upgrade()
    with pytest.raises(DatabaseError, match="mixed"):
        backup.take(session, tmp_path / "pool.xml")
    assert list(tmp_path.iterdir()) == []


def test_a_dump_of_another_pool_is_refused() -> None:
    """A database that is whole but of another pool is no backup of this one."""
    other = MockPool.create(seed=1)
    with pytest.raises(DatabaseError, match="another pool"):
        backup.verify(connected(MockPool.create(seed=2)), other.store.dump())


def test_missing_rows_are_noticed() -> None:
    """A dump with fewer rows than the live pool has is refused, with the table and both counts."""
    pool = MockPool.create()
    dump = pool.store.dump()
    dump.tables["VIF"].rows.popitem()
    with pytest.raises(DatabaseError, match=r"table VIF: the dump has 11 rows where the pool has 12"):
        backup.verify(connected(pool), dump)


def test_a_failed_write_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A disk that fails in the middle costs nothing that was there before."""
    path = tmp_path / "pool.xml"
    path.write_bytes(b"old")

    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(OSError, match="No space"):
        database.write_file(b"new", path)
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]
