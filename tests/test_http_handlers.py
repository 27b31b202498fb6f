"""The HTTP handlers of the fake as any client sees them: statuses, headers, tasks, and what is in an archive."""

from __future__ import annotations

import http.client
import io
import re
import tarfile
from collections.abc import Callable
from typing import Any
from urllib.parse import urlencode, urlsplit

import pytest

from mockserver import MockPool, PoolServer
from mockserver.handlers.checksums import checksum
from mockserver.handlers.running import Exchange
from mockserver.http import Answer, answer
from xenctl import database, xmlrpc
from xenctl.database import parse_set
from xenctl.errors import ConnectionLost

Make = Callable[..., Any]
MIB = 1 << 20


def ask(
    c: Any, method: str, path: str, body: bytes | None = b"", on: str = "host1", headers: Any = (), **query: str
) -> tuple[Answer, bytes]:
    """The answer to one request of the session of `c`, and all that is sent behind its head."""
    if not {"session_id", "pool_secret"} & set(query):
        query["session_id"] = c.session
    head = dict(headers)
    if method == "PUT" and body is not None:
        head["content-length"] = str(len(body))
    machine = c.pool.machine(on)
    out = answer(c.pool, machine, method, f"{path}?{urlencode(query)}", head, b"", f"http://{machine.address}")
    if out.steps is None:
        return out, out.body
    return out, b"".join(Exchange(c.pool, machine, out.steps, io.BytesIO(body or b"")))


def outcome(c: Any, task: str) -> tuple[str, list[str]]:
    record = c("task.get_record", task)
    return record["status"], record["error_info"]


def new_task(c: Any) -> str:
    return str(c("task.create", "transfer", ""))


def disk_of(c: Any, vm: str) -> Any:
    return c.pool.store.get("VDI", c.vbd(vm, "0")["VDI"])


# --- finding a handler


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/export/", 200),
        ("GET", "/exportfoo", 200),
        ("GET", "/export_metadata/x", 200),
        ("PUT", "/export", 403),
        ("GET", "/import", 403),
        ("GET", "/Export", 403),
        ("DELETE", "/export", 501),
    ],
)
def test_the_longest_path_that_fits_is_found(calls: Make, method: str, path: str, status: int) -> None:
    """By method; what only begins like one is taken for it."""
    c = calls(release="8.2", vms=4)
    out, _ = ask(c, method, path, ref=c.vm("vm04").ref)
    assert out.status == status
    if "metadata" in path:
        assert "content-length" in out.headers


def test_an_older_host_takes_a_newer_path_for_another(calls: Make) -> None:
    """`/export_raw_vdi` came with 6.5: before, it begins like `/export`; `/blob` like nothing."""
    c = calls(release="6.2", vms=4)
    assert b"INTERNAL_ERROR: [ Not_found ]" in ask(c, "GET", "/export_raw_vdi", vdi=disk_of(c, "vm04").ref)[1]
    assert ask(calls(release="4.1.0"), "GET", "/blob", ref="x")[0].status == 403


HANDLERS = [
    ("GET", "/pool/xmldbdump", "get_pool_xml_db_sync"),
    ("PUT", "/pool/xmldbdump", "put_pool_xml_db_sync"),
    ("GET", "/export", "get_export"),
    ("GET", "/export_metadata", "get_export_metadata"),
    ("PUT", "/import", "put_import"),
    ("PUT", "/import_metadata", "put_import_metadata"),
    ("GET", "/export_raw_vdi", "get_export_raw_vdi"),
    ("PUT", "/import_raw_vdi", "put_import_raw_vdi"),
    ("GET", "/host_backup", "get_host_backup"),
    ("PUT", "/host_restore", "put_host_restore"),
    ("PUT", "/pool_patch_upload", "put_pool_patch_upload"),
    ("GET", "/rrd_updates", "rrd_updates"),
    ("GET", "/host_rrd", "host_rrd"),
    ("GET", "/vm_rrds", "vm_rrd"),
    ("GET", "/sr_rrd", "sr_rrd"),
    ("GET", "/blob", "get_blob"),
    ("PUT", "/blob", "put_blob"),
]


@pytest.mark.parametrize(("method", "path", "realm"), HANDLERS)
def test_nobody_is_served_without_credentials(calls: Make, method: str, path: str, realm: str) -> None:
    """The challenge names the handler; the task, which nobody took, is as it was."""
    c = calls(release="8.2")
    task = new_task(c)
    out, _ = ask(c, method, path, session_id="OpaqueRef:wrong", task_id=task)
    assert (out.status, out.reason, out.close) == (401, "Unauthorised", True)
    assert out.headers["www-authenticate"] == f'Basic realm="{realm}"'
    assert outcome(c, task) == ("pending", [])


def test_a_cookie_wins_over_the_query(calls: Make) -> None:
    """For every argument, the task too."""
    c = calls(release="8.2", vms=4)
    task = new_task(c)
    out, _ = ask(
        c,
        "GET",
        "/export",
        ref=c.vm("vm04").ref,
        session_id="wrong",
        task_id="wrong",
        headers={"cookie": f"session_id={c.session};task_id={task}"},
    )
    assert out.headers["task-id"] == task
    assert outcome(c, task) == ("success", [])


# --- tasks


def test_a_handler_without_a_task_makes_one_for_its_time(calls: Make) -> None:
    """It is named after the handler, and destroyed at the end; `subtask_of` is its parent."""
    c = calls(release="8.2", vms=4)
    parent, vm = new_task(c), c.vm("vm04")
    machine = c.pool.master
    query = urlencode({"session_id": c.session, "subtask_of": parent, "ref": vm.ref})
    out = answer(c.pool, machine, "GET", f"/export?{query}", {}, b"")
    assert out.steps is not None
    blocks = iter(Exchange(c.pool, machine, out.steps, io.BytesIO()))
    next(blocks)
    record = c("task.get_record", out.headers["task-id"])
    assert (record["name_label"], record["status"], record["subtask_of"]) == ("VM.export", "pending", parent)
    assert record["allowed_operations"] == ["cancel"]
    assert vm["current_operations"] == {out.headers["task-id"]: "export"}
    assert "start" not in vm["allowed_operations"]
    for _ in blocks:
        pass
    assert c.refused("task.get_record", out.headers["task-id"])[0] == "HANDLE_INVALID"
    assert vm["current_operations"] == {}
    assert "start" in vm["allowed_operations"]


def test_a_task_that_is_not_there(calls: Make) -> None:
    """The page says so."""
    c = calls(release="8.2", vms=4)
    out, page = ask(c, "GET", "/export", ref=c.vm("vm04").ref, task_id="OpaqueRef:none")
    assert out.status == 500
    assert b"HANDLE_INVALID: [ task; OpaqueRef:none ]" in page


def test_a_failure_after_the_head_comes_as_a_second_answer(calls: Make) -> None:
    """200 was said already: the task tells the error, and so does what follows the body."""
    c = calls(release="8.2")
    task = new_task(c)
    out, body = ask(c, "PUT", "/import", b"", task_id=task)
    assert out.status == 200
    assert body.startswith(b"HTTP/1.1 500 Internal Error\r\n")
    assert b"IMPORT_ERROR_PREMATURE_EOF: [  ]" in body
    assert outcome(c, task) == ("failure", ["IMPORT_ERROR_PREMATURE_EOF"])


def test_a_transfer_can_be_cancelled(calls: Make) -> None:
    """The task is cancelled, and what the handler held is let go."""
    c = calls(release="8.2", vms=4)
    task, vm = new_task(c), c.vm("vm04")
    query = urlencode({"session_id": c.session, "task_id": task, "ref": vm.ref})
    out = answer(c.pool, c.pool.master, "GET", f"/export?{query}", {}, b"")
    assert out.steps is not None
    blocks = iter(Exchange(c.pool, c.pool.master, out.steps, io.BytesIO()))
    next(blocks)
    c("task.cancel", task)
    rest = b"".join(blocks)
    assert rest.endswith(b"</html>")
    assert outcome(c, task) == ("cancelled", [])
    assert vm["current_operations"] == {}


def test_a_client_that_goes_away_fails_the_task(calls: Make) -> None:
    """As soon as the host notices."""
    c = calls(release="8.2", vms=4)
    task, vm = new_task(c), c.vm("vm04")
    query = urlencode({"session_id": c.session, "task_id": task, "ref": vm.ref})
    out = answer(c.pool, c.pool.master, "GET", f"/export?{query}", {}, b"")
    assert out.steps is not None
    exchange = Exchange(c.pool, c.pool.master, out.steps, io.BytesIO())
    next(iter(exchange))
    exchange.close()
    assert outcome(c, task) == ("failure", ["CLIENT_ERROR", "the connection was closed"])
    assert vm["current_operations"] == {}


def test_a_host_that_stops_cuts_its_transfers(calls: Make) -> None:
    """Its client gets no more."""
    c = calls(release="8.2", vms=4)
    query = urlencode({"session_id": c.session, "ref": c.vm("vm04").ref})
    out = answer(c.pool, c.pool.master, "GET", f"/export?{query}", {}, b"")
    assert out.steps is not None
    blocks = iter(Exchange(c.pool, c.pool.master, out.steps, io.BytesIO()))
    next(blocks)
    c.pool.master.power_off()
    with pytest.raises(ConnectionLost):
        for _ in blocks:
            pass


# --- virtual machines


def test_the_head_of_an_export(calls: Make) -> None:
    """HTTP 1.0, a name for the file, the toolstack, and no length."""
    c = calls(release="8.2", vms=4)
    out, _ = ask(c, "GET", "/export", uuid=c.vm("vm04")["uuid"])
    assert (out.version, out.close) == ("1.0", True)
    assert out.headers["content-disposition"] == 'attachment; filename="export.xva"'
    assert out.headers["server"] == "xapi/1.20"
    assert "content-length" not in out.headers


@pytest.mark.parametrize(("release", "version"), [("4.0.1", 1), ("8.2", 2)])
def test_an_archive_is_a_tar(calls: Make, release: str, version: int) -> None:
    """`ova.xml` first, then the first, the last and the other pieces that are not empty, each with its checksum."""
    c = calls(release=release, vms=4)
    disk = c.pool.disks[disk_of(c, "vm04")["uuid"]]
    disk.write(5 * MIB + 100, b"something")
    _, data = ask(c, "GET", "/export", ref=c.vm("vm04").ref)
    with tarfile.open(fileobj=io.BytesIO(data)) as tar:
        names = tar.getnames()
        contents = {name: tar.extractfile(name).read() for name in names}  # type: ignore[union-attr]
    header = xmlrpc.loads_value(contents["ova.xml"])
    assert header["version"]["export_vsn"] == str(version)
    folder = next(
        o["id"] for o in header["objects"] if o["class"] == "VDI" and o["snapshot"]["name_label"][:4] == "disk"
    )
    kind = {1: ".checksum", 2: ".xxhash"}[version]
    pieces = [f"{folder}/{number:08d}" for number in (0, 1, 5, 8191)]
    listed = [name for piece in pieces for name in (piece, piece + kind)]
    assert names == ["ova.xml", *listed, *(["checksum.xml"] if version == 1 else [])]
    assert contents[pieces[2]][100:109] == b"something"
    assert all(contents[piece + kind].decode() == checksum(contents[piece], kind) for piece in pieces)
    assert data.endswith(bytes(1024))


def test_an_archive_tells_nothing_of_the_pool(calls: Make) -> None:
    """References are its own; those to what is not in it lead nowhere."""
    c = calls(release="8.2", vms=4)
    _, data = ask(c, "GET", "/export", ref=c.vm("vm04").ref)
    with tarfile.open(fileobj=io.BytesIO(data)) as tar:
        text = tar.extractfile("ova.xml").read()  # type: ignore[union-attr]
    assert set(_refs(text)) == {b"OpaqueRef:NULL"}
    ids = {o["id"] for o in xmlrpc.loads_value(text)["objects"]}
    assert ids == {f"Ref:{number}" for number in range(len(ids))}


def _refs(text: bytes) -> list[bytes]:

    return re.findall(rb"OpaqueRef:[\w-]+", text)


def test_a_host_that_does_not_see_the_disks_names_one_that_does(calls: Make) -> None:
    """With path and query; the task is left to the other one. Where none does, the task fails and nothing is said."""
    c = calls(release="8.2", vms=4)
    store = c.pool.store
    store.write(disk_of(c, "vm04"), SR=c.row("SR", "Local storage on host2").ref)
    task = new_task(c)
    out, _ = ask(c, "GET", "/export", ref=c.vm("vm04").ref, task_id=task)
    where = urlsplit(out.headers["location"])
    assert (out.status, where.netloc, where.path) == (302, c.pool.machine("host2").address, "/export")
    assert f"task_id={task.replace(':', '%3A')}" in where.query
    assert outcome(c, task) == ("pending", [])
    for pbd in store.table("PBD").values():
        store.write(pbd, currently_attached=False)
    out, _ = ask(c, "GET", "/export", ref=c.vm("vm04").ref, task_id=task)
    assert out.status == 0
    assert outcome(c, task) == ("failure", ["NO_HOSTS_AVAILABLE"])


@pytest.mark.parametrize(
    ("release", "status", "error"),
    [("7.2", 200, ["IMPORT_ERROR_PREMATURE_EOF"]), ("7.3", 400, ["NOT_SUPPORTED_DURING_UPGRADE"])],
)
def test_an_import_while_versions_are_mixed(calls: Make, release: str, status: int, error: list[str]) -> None:
    """It is refused since 7.3."""
    c = calls(release=release)
    c.pool.store.write(c.pool.store.pool(), other_config={"rolling_upgrade_in_progress": "true"})
    task = new_task(c)
    out, _ = ask(c, "PUT", "/import", b"", task_id=task)
    assert out.status == status
    assert outcome(c, task) == ("failure", error)


def test_what_an_import_does_not_take(calls: Make) -> None:
    """A library of images, a body in chunks, a storage repository that is not there, none at all."""
    c = calls(release="8.2")
    task, library = new_task(c), c.row("SR", "ISO library").ref
    assert ask(c, "PUT", "/import", b"", task_id=task, sr_id=library)[0].status == 400
    assert outcome(c, task) == ("failure", ["SR_OPERATION_NOT_SUPPORTED", library])
    task = new_task(c)
    out, _ = ask(c, "PUT", "/import", None, task_id=task, headers={"transfer-encoding": "chunked"})
    assert out.status == 403
    assert outcome(c, task) == ("failure", ["IMPORT_ERROR_CANNOT_HANDLE_CHUNKED"])
    assert b"HANDLE_INVALID: [ SR; OpaqueRef:no ]" in ask(c, "PUT", "/import", b"", sr_id="OpaqueRef:no")[1]
    c.pool.store.write(c.pool.store.pool(), default_SR="OpaqueRef:NULL")
    assert b"DEFAULT_SR_NOT_FOUND: [ OpaqueRef:NULL ]" in ask(c, "PUT", "/import", b"")[1]


def test_an_import_shows_its_operation_and_its_result(calls: Make) -> None:
    """The machine cannot be started before its disks are there; the task's result is the list of machines."""
    c = calls(release="8.2", vms=4)
    _, data = ask(c, "GET", "/export", ref=c.vm("vm04").ref)
    task = new_task(c)
    seen: list[Any] = []

    class Watched(io.BytesIO):
        def read(self, size: int | None = -1, /) -> bytes:
            seen.extend(
                vm["current_operations"] for vm in c.pool.store.table("VM").values() if vm["current_operations"]
            )
            return super().read(size)

    query = urlencode({"session_id": c.session, "task_id": task})
    head = {"content-length": str(len(data))}
    out = answer(c.pool, c.pool.master, "PUT", f"/import?{query}", head, b"")
    assert out.steps is not None
    assert b"".join(Exchange(c.pool, c.pool.master, out.steps, Watched(data))) == b""
    assert {task: "import"} in seen
    (vm,) = xmlrpc.loads_value(c("task.get_result", task))
    row = c.pool.store.get("VM", vm)
    assert row["current_operations"] == {}
    assert "start" in row["allowed_operations"]
    assert c.unharmed()


def test_a_host_that_loses_power_leaves_what_it_had_made(calls: Make) -> None:
    """Nobody is left to undo it: the machine is there, with what came of its disk, and no operation on it."""
    c = calls(release="8.2", vms=4)
    _, data = ask(c, "GET", "/export", ref=c.vm("vm04").ref)
    head = {"content-length": str(len(data))}
    out = answer(c.pool, c.pool.machine("host2"), "PUT", f"/import?session_id={c.session}", head, b"")
    assert out.steps is not None

    class Pulled(io.BytesIO):
        def read(self, size: int | None = -1, /) -> bytes:
            if self.tell() > 2 * MIB:
                c.pool.machine("host2").power_off()
            return super().read(size)

    with pytest.raises(ConnectionLost):
        b"".join(Exchange(c.pool, c.pool.machine("host2"), out.steps, Pulled(data)))
    made = [vm for vm in c.pool.store.table("VM").values() if vm["name_label"] == "vm04"]
    assert [vm["current_operations"] for vm in made] == [{}, {}]


def test_a_newer_archive_is_not_taken(calls: Make) -> None:
    """An older toolstack does not know what is in it."""
    newer, older = calls(release="8.2", vms=4), calls(release="5.6")
    _, data = ask(newer, "GET", "/export", ref=newer.vm("vm04").ref)
    task = new_task(older)
    ask(older, "PUT", "/import", data, task_id=task)
    assert outcome(older, task) == ("failure", ["IMPORT_INCOMPATIBLE_VERSION"])


def test_an_older_archive_is_taken(calls: Make) -> None:
    """With the defaults of today for what it does not say."""
    older, newer = calls(release="4.0.1", vms=4), calls(release="8.2")
    _, data = ask(older, "GET", "/export", ref=older.vm("vm04").ref)
    task = new_task(newer)
    ask(newer, "PUT", "/import", data, task_id=task)
    assert outcome(newer, task) == ("success", [])
    assert newer.vm("vm04")["power_state"] == "Halted"


def test_metadata_that_cannot_be_given(calls: Make) -> None:
    """The status says that it failed, and the task why."""
    c = calls(release="8.2")
    task = new_task(c)
    out, body = ask(c, "GET", "/export_metadata", uuid="none", task_id=task)
    assert (out.status, out.reason, body) == (500, "internal error", b"")
    assert outcome(c, task) == ("failure", ["UUID_INVALID", "VM", "none"])


def test_the_table_of_checksums_of_4_0_1_counts(calls: Make) -> None:
    """It is compared with what was computed, unless the import is forced."""
    c = calls(release="4.0.1", vms=4)
    _, data = ask(c, "GET", "/export", ref=c.vm("vm04").ref)
    at = data.index(b"</value></member>", data.index(b"checksum.xml")) - 1
    data = data[:at] + (b"0" if data[at : at + 1] != b"0" else b"1") + data[at + 1 :]
    task, forced = new_task(c), new_task(c)
    ask(c, "PUT", "/import", data, task_id=task)
    assert outcome(c, task) == ("failure", ["IMPORT_ERROR_SOME_CHECKSUMS_FAILED"])
    ask(c, "PUT", "/import", data, task_id=forced, force="true")
    assert outcome(c, forced) == ("success", [])


def test_a_seed_of_macs_is_one_machines_alone(calls: Make) -> None:
    """A machine is not restored beside another one that would get the same MACs."""
    c = calls(release="8.2", vms=4)
    vm = c.vm("vm04")
    _, data = ask(c, "GET", "/export", ref=vm.ref)
    c.pool.store.write(vm, uuid=c.pool.new_uuid())
    task = new_task(c)
    ask(c, "PUT", "/import", data, task_id=task, restore="true")
    assert outcome(c, task) == ("failure", ["DUPLICATE_MAC_SEED", vm["other_config"]["mac_seed"]])


def test_snapshots_come_along_with_metadata(calls: Make) -> None:
    """Each is a snapshot of the machine that comes with it, which alone is told; or they are left out."""
    c = calls(release="8.2", vms=4)
    store, vm = c.pool.store, c.vm("vm04")
    fields = {"uuid": c.pool.new_uuid(), "name_label": "before", "is_a_template": True, "power_state": "Halted"}
    snapshot = store.create("VM", c.pool.new_ref(), {**fields, "is_a_snapshot": True, "snapshot_of": vm.ref})
    _, alone = ask(c, "GET", "/export_metadata", ref=vm.ref, export_snapshots="false")
    _, data = ask(c, "GET", "/export_metadata", ref=vm.ref)
    assert (b"before" in alone, b"before" in data) == (False, True)
    store.delete(snapshot)
    c("VM.destroy", vm.ref)
    task = new_task(c)
    ask(c, "PUT", "/import_metadata", data, task_id=task)
    assert xmlrpc.loads_value(c("task.get_result", task)) == [c.vm("vm04").ref]
    assert c.vm("before")["snapshot_of"] == c.vm("vm04").ref
    assert c.vm("before")["is_a_snapshot"] is True
    _, data = ask(c, "GET", "/export", ref=c.vm("before").ref)
    assert b"<name>is_a_snapshot</name><value><boolean>0</boolean></value>" in data


def test_a_backup_of_before_7_0_is_not_put_on_a_host_from_7_0_on(calls: Make) -> None:
    """Its control domain would not fit."""
    older, newer = calls(release="6.5"), calls(release="8.2")
    _, data = ask(older, "GET", "/host_backup")
    task = new_task(newer)
    ask(newer, "PUT", "/host_restore", data, task_id=task)
    status, details = outcome(newer, task)
    assert (status, details[0]) == ("failure", "RESTORE_SCRIPT_FAILED")
    assert newer.pool.master.backup is None


# --- disks


def test_ten_gigabytes_of_nothing_cost_nothing(calls: Make) -> None:
    """What is read is made as it is read: the first bytes of a disk of 10 GiB are there at once, its archive is small."""
    c = calls(release="8.2", vms=4)
    vdi = disk_of(c, "vm04")
    c.pool.store.write(vdi, virtual_size=10 << 30)
    c.pool.disks[vdi["uuid"]].write((10 << 30) - 5, b"last!")
    begun = c.pool.clock.now()
    _, data = ask(c, "GET", "/export", ref=c.vm("vm04").ref)
    assert len(data) < 5 * MIB
    assert c.pool.clock.now() - begun < 1.0
    assert (data.index(b"last!") + 5) % 512 == 0
    query = urlencode({"session_id": c.session, "vdi": vdi.ref})
    out = answer(c.pool, c.pool.master, "GET", f"/export_raw_vdi?{query}", {}, b"")
    assert out.steps is not None
    exchange = Exchange(c.pool, c.pool.master, out.steps, io.BytesIO())
    assert len(next(iter(exchange))) == MIB
    exchange.close()


@pytest.mark.parametrize(
    ("query", "status", "error"),
    [
        ({}, 400, ["VDI_MISSING"]),
        ({"format": "vmdk"}, 404, ["INTERNAL_ERROR", "Unknown format vmdk"]),
        ({"format": "qcow2"}, 404, ["INTERNAL_ERROR", "Unknown format qcow2"]),
        ({"chunked": "", "format": "vhd"}, 404, ["INTERNAL_ERROR", "Cannot handle chunked VHD"]),
    ],
)
def test_what_an_import_of_a_disk_does_not_take(calls: Make, query: Any, status: int, error: list[str]) -> None:
    """The task says why."""
    c = calls(release="8.2", vms=4)
    task = new_task(c)
    more = {"vdi": disk_of(c, "vm04").ref} if query else {}
    out, _ = ask(c, "PUT", "/import_raw_vdi", b"x", task_id=task, **more, **query)
    assert out.status == status
    assert outcome(c, task) == ("failure", error)


def test_a_disk_whose_bytes_stop_coming(calls: Make) -> None:
    """Fewer than were announced are a failure."""
    c = calls(release="8.2", vms=4)
    task, vdi = new_task(c), disk_of(c, "vm04").ref
    query = urlencode({"session_id": c.session, "task_id": task, "vdi": vdi})
    out = answer(c.pool, c.pool.master, "PUT", f"/import_raw_vdi?{query}", {"content-length": "9"}, b"")
    assert out.steps is not None
    b"".join(Exchange(c.pool, c.pool.master, out.steps, io.BytesIO(b"short")))
    assert outcome(c, task) == ("failure", ["VDI_IO_ERROR", "Device I/O errors"])


# --- the database


def restored(c: Any, change: Callable[[database.Database], object] = lambda dump: None, **query: str) -> Any:
    """What becomes of a dry run with a changed dump of the pool itself."""
    dump = c.pool.store.dump()
    change(dump)
    task = new_task(c)
    ask(c, "PUT", "/pool/xmldbdump", database.write(dump), task_id=task, **{"dry_run": "true", **query})
    return outcome(c, task)


def test_a_restore_needs_a_length(calls: Make) -> None:
    """It is refused, and the task is over, without an error."""
    c = calls(release="8.2")
    task = new_task(c)
    assert ask(c, "PUT", "/pool/xmldbdump", None, task_id=task)[0].status == 400
    assert outcome(c, task) == ("success", [])


def test_what_a_restore_checks(calls: Make) -> None:
    """Schema and interfaces; not the product version, nor how many hosts there are."""
    c = calls(release="8.2")
    pif = c.host("host1")["PIFs"][0]

    def cell(column: str, value: str) -> Callable[[database.Database], object]:
        return lambda dump: dump.row("PIF", pif).cells.update({column: value})

    assert restored(c) == ("success", [])
    assert restored(c, lambda d: d.manifest.update(schema_minor_vsn="600"))[1] == ["RESTORE_INCOMPATIBLE_VERSION"]
    assert restored(c, cell("device", "eth7"))[1] == ["RESTORE_TARGET_MISSING_DEVICE", "eth7"]
    virtual = cell("physical", "false")
    both = [cell("device", "bond0"), virtual]
    details = restored(c, lambda d: [change(d) for change in both])[1]
    assert details == ["RESTORE_TARGET_MGMT_IF_NOT_IN_BACKUP", "bond0"]
    assert restored(c, lambda d: d.manifest.update(product_version="1.2.3")) == ("success", [])
    assert c.pool.master.system.restored is None


def test_an_old_restore_compares_the_toolstacks_version_alone(calls: Make) -> None:
    """Up to 5.6 a dump of another release may be accepted, if its manifest names one of its hosts as the master."""
    c = calls(release="5.5")
    assert restored(c, lambda d: d.manifest.update(schema_minor_vsn="35")) == ("success", [])
    assert restored(c, lambda d: d.manifest.update(xapi_minor_vsn="9"))[1] == ["RESTORE_INCOMPATIBLE_VERSION"]
    assert restored(c, lambda d: d.manifest.update(installation_uuid="other"))[1] == ["HANDLE_INVALID", "host", "other"]


@pytest.mark.parametrize("release", ["4.0.1", "5.6", "6.0", "8.2"])
def test_a_restore_is_for_the_machine_that_does_it(calls: Make, release: str) -> None:
    """The dump's master becomes this machine: its uuids and MACs; other hosts and their interfaces are left out."""
    c = calls(release=release)
    dump = c.pool.store.dump()
    master = c.pool.store.pool()["master"]
    dump.row("host", master).cells["uuid"] = "of another machine"
    if "installation_uuid" in dump.manifest:
        dump.manifest["installation_uuid"] = "of another machine"
    dump.row("PIF", c.host("host1")["PIFs"][0]).cells["MAC"] = "00:00:00:00:00:00"
    mac = c.pool.store.get("PIF", c.host("host1")["PIFs"][0])["MAC"]
    ask(c, "PUT", "/pool/xmldbdump", database.write(dump))
    found = c.pool.master.system.restored
    assert found is not None
    (host,) = found.rows("host")
    (pif,) = found.rows("PIF")
    assert host.cells["uuid"] == c.pool.master.system.installation_uuid
    assert parse_set(host.cells["PIFs"]) == [pif.ref]
    assert (pif.cells["MAC"], pif.cells.get("management", "true")) == (mac, "true")
    restored(c)
    assert c.pool.master.system.restored is None, "a dry run too deletes what waits to be restored"


def test_a_member_neither_gives_nor_takes_the_database(calls: Make) -> None:
    """The master alone has it."""
    c = calls(release="8.2")
    for method in ("GET", "PUT"):
        assert ask(c, method, "/pool/xmldbdump", on="host2")[0].status == 401


# --- blobs


def test_a_blob_keeps_what_is_put_there(calls: Make) -> None:
    """With its size; who has no session may read what is public."""
    c = calls(release="8.2")
    store = c.pool.store
    blob = store.create("blob", c.pool.new_ref(), {"uuid": c.pool.new_uuid(), "mime_type": "text/plain"})
    assert ask(c, "GET", "/blob")[0].status == 400
    assert ask(c, "GET", "/blob", uuid="none")[0].status == 404
    assert ask(c, "GET", "/blob", ref=blob.ref)[0].status == 404
    assert ask(c, "PUT", "/blob", b"some text", ref=blob.ref)[0].status == 200
    out, body = ask(c, "GET", "/blob", uuid=blob["uuid"])
    assert (body, out.headers["content-type"], blob["size"]) == (b"some text", "text/plain", 9)
    assert ask(c, "GET", "/blob", ref=blob.ref, session_id="wrong")[0].status == 401
    store.write(blob, public=True)
    assert ask(c, "GET", "/blob", ref=blob.ref, session_id="wrong")[1] == b"some text"


# --- over sockets


def test_other_clients_see_real_http() -> None:
    """An export ends with the connection, in HTTP 1.0; an upload is read to its length; the pool answers meanwhile."""
    pool = MockPool.create(release="8.2")
    with PoolServer(pool) as server:
        login = pool.dispatch("session.login_with_password", ["root", "secret"])
        vm = next(vm for vm in pool.store.table("VM").values() if vm["name_label"] == "vm04")
        place = server.url.removeprefix("http://")
        getting = http.client.HTTPConnection(place, timeout=10)
        getting.request("GET", f"/export?session_id={login}&ref={vm.ref}")
        got = getting.getresponse()
        assert (got.version, got.status, got.getheader("connection"), got.length) == (10, 200, "close", None)
        assert (got.getheader("server"), got.headers.get_all("server")) == ("xapi/1.20", ["xapi/1.20"])
        first = got.read(1000)
        assert pool.dispatch("VM.get_power_state", [login, vm.ref]) == "Halted"
        data = first + got.read()
        putting = http.client.HTTPConnection(place, timeout=10)
        putting.putrequest("PUT", f"/import?session_id={login}")
        putting.putheader("content-length", str(len(data)))
        putting.endheaders(data[:MIB])
        assert len(pool.dispatch("VM.get_all_records", [login])) >= 12, "an upload that stands still holds nobody up"
        putting.send(data[MIB:])
        answered = putting.getresponse()
        assert (answered.status, answered.read()) == (200, b"")
        with pool.guard():
            assert sum(v["name_label"] == "vm04" for v in pool.store.table("VM").values()) == 2
        getting.close()
        putting.close()
