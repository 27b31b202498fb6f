"""Fakes made of live pools, and the database of a fake saved and loaded again."""

from __future__ import annotations

import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

import xenctl
from mockserver import MockPool, live
from mockserver.compare import compare
from xenctl import database
from xenctl.errors import DatabaseError
from xenctl.releases import find, known
from xenctl.transport import Request, Response

Make = Callable[..., Any]
MANY = ["4.0.1", "5.0", "6.2", "7.0", "8.2", *[release.name for release in known()][-1:]]
NEW = frozenset({"host_metrics", "host", "VM_metrics"})
"""Tables in which a pool that starts writes something of its own: the metrics of hosts, and who points at them."""


class RpcOnly:
    """A transport that a firewall stands in: every GET is refused."""

    def __init__(self, pool: MockPool) -> None:
        self._inner = pool.transport()
        self.clock = self._inner.clock

    def send(self, request: Request) -> Response:
        if request.method == "GET":
            import io

            return Response(403, {}, io.BytesIO(b"forbidden"))
        return self._inner.send(request)

    def close(self) -> None:
        self._inner.close()


@contextmanager
def session_with(pool: MockPool, transport: Any = None) -> Iterator[xenctl.Session]:
    with xenctl.connect(pool.url, "root", "secret", transport=transport or pool.transport()) as session:
        yield session


def worked(release: str) -> MockPool:
    """A pool in which something was done."""
    pool = MockPool.create(hosts=2, vms=9, release=release, seed=3)
    session = pool.dispatch("session.login_with_password", ["root", "secret"])
    vm = next(v for v in pool.store.table("VM").values() if v["name_label"] == "vm01")
    pool.dispatch("VM.add_to_other_config", [session, vm.ref, "a 'quoted' key", "with (parentheses) & <more>\n"])
    pool.dispatch("VM.clean_shutdown", [session, vm.ref])
    return pool


@pytest.mark.parametrize("release", MANY)
def test_a_live_pool_becomes_a_fake(release: str) -> None:
    """Table by table the same, but for what does not outlive a start; nothing is changed in the live one."""
    there = worked(release)
    with session_with(there) as session:
        before = there.fork()
        here = MockPool.from_session(session, seed=5)
        assert not compare(before, there), "more than the task that a download is"
    assert {machine.system.release for machine in here.machines} == {find(release)}
    left = compare(there, here, volatile=False)
    assert set(left.by_table()) <= {*NEW, "PIF", "disk"}, str(left)
    assert {change.field for change in left.changes if change.table in ("host", "PIF")} <= {"metrics"}
    assert [sorted(m.domains) for m in here.machines] == [sorted(m.domains) for m in there.machines]


@pytest.mark.parametrize("release", MANY)
def test_without_a_dump_the_records_do(release: str) -> None:
    """Where no dump can be had: the same but for columns that no record shows; those have what a new row has."""
    there = worked(release)
    with session_with(there, RpcOnly(there)) as session:
        here = MockPool.from_session(session)
    with session_with(there) as session:
        dumped = MockPool.from_session(session)
    assert {machine.system.release for machine in here.machines} == {find(release)}
    hidden = {
        (name, field)
        for name in here.store.tables
        for field, known_field in here.store.shape(name).fields.items()
        if known_field.hidden
    } | {("PIF", "metrics")}
    for table, changes in compare(dumped, here, volatile=False).by_table().items():
        if table not in NEW:
            assert {(c.table, c.field) for c in changes} <= hidden, [str(c) for c in changes][:5]
    assert {machine.memory for machine in here.machines} == {machine.memory for machine in there.machines}


def test_a_pool_of_mixed_versions_is_read_by_its_records() -> None:
    """Its master sends a stub instead of the database."""
    there = MockPool.create(hosts=2, vms=0, release="7.0")
    member = next(row for row in there.store.table("host").values() if row["name_label"] == "host2")
    older = {key: "1.9.0" if key.endswith("version") else value for key, value in member["software_version"].items()}
    there.store.write(member, software_version=older)
    there.detect_rolling_upgrade()
    with session_with(there) as session:
        dump = live.dump_of(session)
        assert len(list(dump.rows("host"))) == 2
        assert database.read(session.fetch(live.PATH).read()).tables["host"].rows == {}


@pytest.mark.parametrize("release", ["4.0.1", "8.2"])
def test_a_saved_pool_is_loaded_again(release: str, tmp_path: Path) -> None:
    """From a path, its bytes or a database that was read; the file is its owner's alone."""
    pool, path = worked(release), tmp_path / "pool.xml"
    path.write_bytes(b"what was there before")
    pool.save(path)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert [entry.name for entry in tmp_path.iterdir()] == ["pool.xml"]
    dumps = [
        database.write(MockPool.from_dump(dump).store.dump())
        for dump in (path, str(path), path.read_bytes(), database.read_file(path))
    ]
    assert len(set(dumps)) == 1
    assert not database.differences(database.read_file(path), pool.store.dump())


def test_a_dump_that_cannot_be_read_is_one_clear_error(tmp_path: Path) -> None:
    """It names the file, or says that the bytes are no dump."""
    with pytest.raises(DatabaseError, match=r"missing\.xml.*it cannot be read \(No such file or directory\)"):
        MockPool.from_dump(tmp_path / "missing.xml")
    with pytest.raises(DatabaseError, match="the dump is empty or cut off"):
        MockPool.from_dump(b"")
