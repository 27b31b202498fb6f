"""Uploads and downloads, in process and over sockets: what arrives, what is left behind, and what goes wrong."""

from __future__ import annotations

import io
import random
import stat
import tracemalloc
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from mockserver import MockPool, PoolServer
from mockserver.machine.disks import BLOCK_SIZE
from xenctl import database, transfers
from xenctl.api import errors
from xenctl.errors import DatabaseError, TaskCancelled
from xenctl.session import Session, connect
from xenctl.values import Ref

MIB = 1 << 20


@dataclass
class Place:
    """A pool, and a session with it."""

    pool: MockPool
    session: Session

    def ref(self, kind: str, name: str) -> Ref[Any]:
        rows = self.pool.store.table(kind).values()
        return Ref(next(row.ref for row in rows if row["name_label"] == name))

    def vm(self, ref: str) -> Any:
        return self.pool.store.get("VM", ref)

    def disk(self, vm: str) -> Any:
        """The row of a VM's first disk."""
        vbd = next(vbd for vbd in self.pool.vbds(self.vm(vm)) if vbd["type"] == "Disk")
        return self.pool.store.get("VDI", vbd["VDI"])

    def content(self, vm: str) -> dict[int, bytes]:
        return self.pool.disks[self.disk(vm)["uuid"]].blocks

    def tidy(self) -> bool:
        """Whether no task and no operation is left."""
        store = self.pool.store
        return not store.table("task") and not any(vm["current_operations"] for vm in store.table("VM").values())


@contextmanager
def _place(kind: str, time_scale: float = 0.0, **shape: Any) -> Iterator[Place]:
    pool = MockPool.create(**{"release": "8.2", **shape})
    if kind == "in process":
        with connect(pool.url, "root", "secret", transport=pool.transport()) as session:
            yield Place(pool, session)
        return
    with (
        PoolServer(pool, time_scale=time_scale) as server,
        connect(server.url, "root", "secret", trust_env=False) as session,
    ):
        yield Place(pool, session)


@pytest.fixture(params=["in process", "sockets"])
def make(request: pytest.FixtureRequest) -> Callable[..., Any]:
    return lambda **shape: _place(request.param, **shape)


@pytest.fixture
def place(make: Callable[..., Any]) -> Iterator[Place]:
    with make() as found:
        yield found


def fill(place: Place, vm: str, size: int, seed: int = 7) -> None:
    """Put `size` bytes of noise on the disk of `vm`, from its third MiB on."""
    noise = random.Random(seed)
    disk = place.pool.disks[place.disk(vm)["uuid"]]
    for number in range(size // BLOCK_SIZE):
        disk.write(3 * MIB + number * BLOCK_SIZE, noise.randbytes(BLOCK_SIZE))


# --- the database


def test_a_dump_is_written_for_its_owner_alone(place: Place, tmp_path: Path) -> None:
    """It is the whole database, of mode 0600, and nothing else is left."""
    path = tmp_path / "pool.xml"
    size = transfers.dump_database(place.session, path)
    assert path.stat().st_size == size
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert database.read(path.read_bytes()).master == place.pool.store.pool()["master"]
    assert list(tmp_path.iterdir()) == [path]
    assert place.tidy()
    assert len(place.pool.downloads) == 1


def test_the_stub_of_a_mixed_pool_leaves_the_old_file(place: Place, tmp_path: Path) -> None:
    """It is no dump, so what was there before stays."""
    path = tmp_path / "pool.xml"
    path.write_bytes(b"old")
    with place.pool.guard():
        store = place.pool.store
        store.write(store.pool(), other_config={"rolling_upgrade_in_progress": "true"})
    with pytest.raises(
        DatabaseError, match=r"^GET /pool/xmldbdump on http://.*: this is the empty document that a pool"
    ):
        transfers.dump_database(place.session, path)
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]
    assert place.tidy()


@pytest.mark.parametrize("release", ["4.0.1", "8.2"])
def test_a_restore_brings_the_database_back(make: Callable[..., Any], release: str) -> None:
    """The host restarts with it, as the master of a pool that has no other host."""
    with make(release=release, time_scale=1.0) as place:  # the restart comes 30 s after the answer
        session, pool = place.session, place.pool
        dump = io.BytesIO()
        transfers.dump_database(session, dump)
        vm = place.ref("VM", "vm04")
        session.VM.set_name_label(vm, "changed")
        transfers.restore_database(session, dump.getvalue(), dry_run=True)
        assert session.VM.get_name_label(vm) == "changed"
        assert pool.master.system.restored is None
        boots = pool.master.boots
        transfers.restore_database(session, dump.getvalue())
        with pool.guard():
            pool.clock.run_until(pool.clock.now() + 3600, lambda: pool.master.boots > boots and pool.master_serves)
            pool.clock.advance(60.0)  # the others try again now and then
        assert session.VM.get_name_label(vm) == "vm04"
        assert [host.name_label for host in session.host.get_all_records().values()] == ["host1"]
        assert len(pool.store.table("PIF")) == 1
        assert pool.machine("host2").xapi.error[0] == "HOST_UNKNOWN_TO_MASTER"


def test_a_restore_is_refused_by_the_task_alone(place: Place) -> None:
    """The status was 200 already; a dump of another schema is refused, and nothing happens."""
    other = MockPool.create(release="7.1")
    with pytest.raises(errors.RESTORE_INCOMPATIBLE_VERSION):
        transfers.restore_database(place.session, database.write(other.store.dump()))
    with pytest.raises(errors.INTERNAL_ERROR, match="Db_xml"):
        transfers.restore_database(place.session, b"<database><manifest>")
    assert place.pool.master.system.restored is None
    assert place.tidy()


# --- virtual machines


@pytest.mark.parametrize("compression", [False, "gzip"])
def test_a_virtual_machine_goes_round(place: Place, tmp_path: Path, compression: Any) -> None:
    """What is imported is a machine of its own, with the same bytes on its disk."""
    session, vm, path = place.session, place.ref("VM", "vm04"), tmp_path / "vm.xva"
    fill(place, vm, MIB)
    seen: list[tuple[int, int | None]] = []
    size = transfers.export_vm(session, vm, path, use_compression=compression, on_progress=lambda *n: seen.append(n))
    assert path.stat().st_size == size
    assert seen[-1] == (size, None)
    seen.clear()
    (new,) = transfers.import_vm(session, path, on_progress=lambda *n: seen.append(n))
    assert seen[0] == (0, size)
    assert seen[-1] == (size, size)
    assert [done for done, _ in seen] == sorted({done for done, _ in seen})
    assert place.content(new) == place.content(vm)
    record = session.VM.get_record(new)
    assert record.name_label == "vm04"
    assert record.uuid != session.VM.get_uuid(vm)
    assert {session.VIF.get_MAC(v) for v in record.VIFs}.isdisjoint(
        session.VIF.get_MAC(v) for v in place.vm(vm)["VIFs"]
    )
    session.VM.start(new, False, False)
    session.VM.hard_shutdown(new)
    assert place.tidy()


@pytest.mark.parametrize("release", ["4.0.1", "5.5", "8.0", "8.4"])
def test_every_release_reads_its_own_archives(release: str) -> None:
    """With SHA-1 or XXH64 beside each piece, and with a table of them behind all in 4.0.1."""
    with _place("in process", release=release) as place:
        vm, archive = place.ref("VM", "vm04"), io.BytesIO()
        fill(place, vm, MIB)
        transfers.export_vm(place.session, vm, archive)
        data = archive.getvalue()
        assert (b".xxhash" in data, b".checksum" in data, b"checksum.xml" in data) == {
            "4.0.1": (False, True, True),
            "5.5": (False, True, False),
            "8.0": (False, True, False),
            "8.4": (True, False, False),
        }[release]
        (new,) = transfers.import_vm(place.session, data)
        assert place.content(new) == place.content(vm)


def test_a_suspended_virtual_machine_takes_its_memory_along(place: Place) -> None:
    """It resumes where it was; without its power state it is halted."""
    session, vm, archive = place.session, place.ref("VM", "vm06"), io.BytesIO()
    transfers.export_vm(session, vm, archive, preserve_power_state=True)
    (new,) = transfers.import_vm(session, archive.getvalue())
    assert session.VM.get_power_state(new) == "Suspended"
    session.VM.resume(new, False, False)
    assert session.VM.get_power_state(new) == "Running"
    archive = io.BytesIO()
    transfers.export_vm(session, vm, archive)
    (new,) = transfers.import_vm(session, archive.getvalue())
    assert session.VM.get_power_state(new) == "Halted"


def test_a_virtual_machine_that_runs_is_not_exported(place: Place, tmp_path: Path) -> None:
    """The refusal is the task's; no file appears."""
    with pytest.raises(errors.VM_BAD_POWER_STATE) as refused:
        transfers.export_vm(place.session, place.ref("VM", "vm01"), tmp_path / "vm.xva")
    assert refused.value.actual == "running"
    assert list(tmp_path.iterdir()) == []
    assert place.tidy()


def test_a_restored_virtual_machine_keeps_its_identity(place: Place) -> None:
    """Its uuid and MACs, and it takes the place of the one that is there, if it is newer."""
    session, vm, archive = place.session, place.ref("VM", "vm04"), io.BytesIO()
    uuid, macs = session.VM.get_uuid(vm), [session.VIF.get_MAC(v) for v in session.VM.get_VIFs(vm)]
    transfers.export_vm(session, vm, archive)
    with pytest.raises(errors.VM_TO_IMPORT_IS_NOT_NEWER_VERSION):
        transfers.import_vm(session, archive.getvalue(), restore=True)
    (new,) = transfers.import_vm(session, archive.getvalue(), restore=True, force=True)
    assert session.VM.get_by_uuid(uuid) == new
    assert [session.VIF.get_MAC(v) for v in session.VM.get_VIFs(new)] == macs
    with pytest.raises(errors.HANDLE_INVALID):
        session.VM.get_record(vm)


def test_what_a_failed_import_made_is_undone(place: Place) -> None:
    """An archive that is cut off, or whose checksum is wrong, leaves the pool as it was."""
    session, vm, archive = place.session, place.ref("VM", "vm04"), io.BytesIO()
    transfers.export_vm(session, vm, archive)
    data, store = archive.getvalue(), place.pool.store
    before = {name: set(store.table(name)) for name in ("VM", "VDI", "VBD", "VIF", "VM_metrics", "network")}
    disks = set(place.pool.disks)
    with pytest.raises(errors.IMPORT_ERROR_PREMATURE_EOF):
        transfers.import_vm(session, data[: 2 * MIB])
    place_of_piece = data.index(b"was installed on")
    with pytest.raises(errors.IMPORT_ERROR, match="checksum failed"):
        transfers.import_vm(session, data[:place_of_piece] + b"W" + data[place_of_piece + 1 :])
    with pytest.raises(errors.IMPORT_ERROR_UNEXPECTED_FILE):
        transfers.import_vm(session, data[data.index(b"/00000000") // 512 * 512 :])
    assert {name: set(store.table(name)) for name in before} == before
    assert set(place.pool.disks) == disks
    assert place.tidy()


def test_metadata_goes_round(place: Place) -> None:
    """A machine that was destroyed comes back on the disks that it left behind."""
    session, vm, archive = place.session, place.ref("VM", "vm04"), io.BytesIO()
    vdi, uuid = place.disk(vm).ref, session.VM.get_uuid(vm)
    size = transfers.export_metadata(session, vm, archive)
    assert size == len(archive.getvalue())
    session.VM.destroy(vm)
    tables = ("VM", "VBD", "VIF", "VDI", "VM_metrics", "VM_guest_metrics", "network")
    before = {name: set(place.pool.store.table(name)) for name in tables}
    transfers.import_metadata(session, archive.getvalue(), dry_run=True)
    assert {name: set(place.pool.store.table(name)) for name in tables} == before
    (new,) = transfers.import_metadata(session, archive.getvalue(), restore=True)
    assert session.VM.get_uuid(new) == uuid
    assert place.disk(new).ref == vdi
    session.VDI.destroy(vdi)
    with pytest.raises(errors.VDI_LOCATION_MISSING):
        transfers.import_metadata(session, archive.getvalue(), dry_run=True)
    everything = io.BytesIO()
    assert transfers.export_metadata(session, None, everything) > size
    assert place.tidy()


# --- disks, hosts, patches


def test_a_disk_goes_round(place: Place, tmp_path: Path) -> None:
    """Its bytes lie in the file where they lie on the disk; another disk that gets them holds the same."""
    session, path = place.session, tmp_path / "disk.raw"
    vm, other = place.ref("VM", "vm04"), place.ref("VM", "vm08")
    for machine in (vm, other):
        with place.pool.guard():
            place.pool.store.write(place.disk(machine), virtual_size=16 * MIB + 512)
    fill(place, vm, 5 * MIB)
    seen: list[tuple[int, int | None]] = []
    source, target = Ref[Any](place.disk(vm).ref), Ref[Any](place.disk(other).ref)
    assert transfers.export_raw_vdi(session, source, path, on_progress=lambda *n: seen.append(n)) == 16 * MIB + 512
    assert seen[-1] == (16 * MIB + 512, 16 * MIB + 512)
    assert path.stat().st_blocks * 512 < 9 * MIB, "what is empty takes no room here either"
    data = path.read_bytes()
    assert len(data) == 16 * MIB + 512
    assert data[3 * MIB : 8 * MIB] == random.Random(7).randbytes(BLOCK_SIZE) + data[3 * MIB + BLOCK_SIZE : 8 * MIB]
    transfers.import_raw_vdi(session, path, target)
    assert place.content(other) == place.content(vm)
    archive = io.BytesIO()
    transfers.export_raw_vdi(session, source, archive, format="tar")
    transfers.import_raw_vdi(session, archive.getvalue(), target, format="tar")
    assert place.content(other) == place.content(vm)
    with pytest.raises(errors.VDI_IO_ERROR):
        transfers.import_raw_vdi(session, bytes(17 * MIB), target)
    with pytest.raises(errors.INTERNAL_ERROR, match="Unknown format qcow2"):
        transfers.export_raw_vdi(session, source, archive, format="qcow2")
    assert place.tidy()


def test_a_disk_in_use_is_left_alone(place: Place) -> None:
    """Its guest writes to it."""
    vdi = Ref[Any](place.disk(place.ref("VM", "vm01")).ref)
    for act in (
        lambda: transfers.export_raw_vdi(place.session, vdi, io.BytesIO()),
        lambda: transfers.import_raw_vdi(place.session, b"data", vdi),
    ):
        with pytest.raises(errors.VDI_IN_USE):
            act()


def test_memory_is_bounded(place: Place, tmp_path: Path) -> None:
    """A disk of 256 MiB goes both ways in less than 24 MiB, whatever is in between."""
    session, path, vm = place.session, tmp_path / "disk.raw", place.ref("VM", "vm04")
    row = place.disk(vm)
    place.pool.store.write(row, virtual_size=256 * MIB)
    fill(place, vm, 2 * MIB)
    before = dict(place.content(vm))
    tracemalloc.start()
    try:
        transfers.export_raw_vdi(session, Ref(row.ref), path)
        transfers.import_raw_vdi(session, path, Ref(row.ref))
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 24 * MIB
    assert place.content(vm) == before


def test_a_host_goes_to_its_backup_partition_and_back(place: Place, tmp_path: Path) -> None:
    """The running system stays; what the installer would restore is what was taken."""
    session, path, pool = place.session, tmp_path / "host.tgz", place.pool
    for name in ("host1", "host2"):
        host, machine = place.ref("host", name), pool.machine(name)
        transfers.backup_host(session, host, path)
        transfers.restore_host(session, host, path)
        assert machine.backup is not None
        assert machine.backup is not machine.system
        assert machine.backup.release == machine.system.release
        assert (machine.backup.role, machine.backup.installation_uuid) == (machine.system.role, machine.uuid)
        assert (machine.backup.saved is not None) == (name == "host1")
    with pytest.raises(errors.RESTORE_SCRIPT_FAILED, match="tar: "):
        transfers.restore_host(session, place.ref("host", "host2"), path.read_bytes()[:-30])
    assert place.tidy()


@pytest.mark.parametrize("release", ["4.1.0", "6.2"])
def test_a_patch_is_uploaded(make: Callable[..., Any], release: str) -> None:
    """The task's result is its reference, bare of XML; a second time it is refused unless its file was cleaned away, as is
    what is no patch."""
    patch = (
        b'#!/bin/bash\n# <patch uuid="0b0d8e8c-5c5d-4ad1-b2f1-1a2b3c4d5e6f" name-label="hotfix1" version="1.0"/>\n'
        * 1000
    )
    with make(release=release) as place:
        ref = transfers.upload_patch(place.session, patch)
        record = place.session.pool_patch.get_record(ref)
        assert (record.name_label, record.size) == ("hotfix1", len(patch))
        with pytest.raises(errors.PATCH_ALREADY_EXISTS):
            transfers.upload_patch(place.session, patch)
        place.session.pool_patch.clean(ref)
        assert transfers.upload_patch(place.session, patch) == ref
        assert place.session.pool_patch.get_all() == [ref]
        place.session.pool_patch.precheck(ref, place.ref("host", "host1"))
        with pytest.raises(errors.INVALID_PATCH):
            transfers.upload_patch(place.session, b"nonsense")
        assert place.tidy()


UPDATE = b"""<update uuid="1b0d8e8c-5c5d-4ad1-b2f1-1a2b3c4d5e6f" name-label="update1" version="1.0" key="k">
<name-description>Mends it</name-description></update>
"""


@pytest.mark.parametrize("release", ["7.1", "8.2"])
@pytest.mark.parametrize("named", [True, False])
def test_since_7_1_an_update_goes_onto_a_disk(make: Callable[..., Any], release: str, named: bool) -> None:
    """In the storage that is named, else the pool's default, and is introduced; what is none, or is known, goes again."""
    with make(release=release) as place:
        session, sr = place.session, place.ref("SR", "NFS virtual disk storage")
        before = set(session.VDI.get_all())
        if named:
            patch = transfers.upload_patch(session, UPDATE, sr=sr)
        else:
            session.pool.set_default_SR(session.pool.get_all()[0], sr)
            patch = transfers.upload_patch(session, UPDATE)
        (update,) = session.pool_update.get_all()
        assert session.pool_patch.get_all() == [patch]
        assert session.pool_patch.get_pool_update(patch) == update
        assert session.pool_update.get_name_description(update) == "Mends it"
        (vdi,) = set(session.VDI.get_all()) - before
        assert (session.pool_update.get_vdi(update), session.VDI.get_SR(vdi)) == (vdi, sr)
        content = io.BytesIO()
        transfers.export_raw_vdi(session, vdi, content)
        assert content.getvalue()[: len(UPDATE)] == UPDATE
        for data, error in ((b"nonsense", errors.INVALID_UPDATE), (UPDATE, errors.UPDATE_ALREADY_EXISTS)):
            with pytest.raises(error):
                transfers.upload_patch(session, data, sr=sr)
            assert set(session.VDI.get_all()) == before | {vdi}
        session.pool_patch.pool_apply(patch)
        assert set(session.pool_update.get_hosts(update)) == set(session.host.get_all())
        assert place.tidy()


# --- cancelling


class StopError(Exception):
    """What a caller raises to end a transfer."""


def test_what_on_progress_raises_ends_a_download(place: Place, tmp_path: Path) -> None:
    """It comes out as it is; the file of before stays, and neither task nor operation is left."""
    path, vm = tmp_path / "vm.xva", place.ref("VM", "vm04")
    path.write_bytes(b"old")

    def stop(done: int, total: int | None) -> None:
        if done > MIB:
            raise StopError

    with pytest.raises(StopError):
        transfers.export_vm(place.session, vm, path, on_progress=stop)
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]
    settled(place)


def test_what_on_progress_raises_ends_an_upload(place: Place) -> None:
    """What was made is undone."""
    vm, archive = place.ref("VM", "vm04"), io.BytesIO()
    transfers.export_vm(place.session, vm, archive)
    before = set(place.pool.store.table("VM"))

    def stop(done: int, total: int | None) -> None:
        if done > 2 * MIB:
            raise StopError

    with pytest.raises(StopError):
        transfers.import_vm(place.session, archive.getvalue(), on_progress=stop)
    settled(place)
    assert set(place.pool.store.table("VM")) == before


def settled(place: Place) -> None:
    """Wait until the server has noticed that a connection ended; a task that was dropped while it went on goes then."""
    for _ in range(200):
        with place.pool.guard():
            place.pool.clock.advance(31.0)
        place.session.VM.get_all()
        if place.tidy():
            return
    raise AssertionError(place.pool.store.table("task"))


def test_a_task_that_somebody_cancels_ends_its_transfer(place: Place, tmp_path: Path) -> None:
    """A second session does so; the download is no file."""
    vm = place.ref("VM", "vm04")
    fill(place, vm, 8 * MIB)
    url, transport = place.session.origin, place.session.transport

    def cancel(done: int, total: int | None) -> None:
        with connect(url, "root", "secret", transport=transport) as other:
            for task in other.task.get_all():
                other.task.cancel(task)

    with pytest.raises(TaskCancelled):
        transfers.export_vm(place.session, vm, tmp_path / "vm.xva", on_progress=cancel)
    assert list(tmp_path.iterdir()) == []
    assert place.tidy()
