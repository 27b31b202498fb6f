"""What transfers do when the network, the server or the caller fails them: redirections, cuts, odd answers, odd sources."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from mockserver import MockPool, PoolServer
from xenctl import transfers, xmlrpc
from xenctl.api import errors
from xenctl.errors import ConnectionLost, DatabaseError, Failure, ProtocolError, TransportError, WaitTimeout
from xenctl.session import Session, connect
from xenctl.transport import Clock, Request, Response, Transport
from xenctl.values import Ref

MIB = 1 << 20


class Between:
    """A transport that stands between a client and another one, and may change what passes."""

    def __init__(self, inner: Transport) -> None:
        self._inner = inner
        self.seen: list[Request] = []
        self.before: Callable[[Request], Request | Response] = lambda request: request
        self.after: Callable[[Request, Response], Response] = lambda request, answer: answer

    @property
    def clock(self) -> Clock:
        return self._inner.clock

    def send(self, request: Request) -> Response:
        if request.method == "POST":
            return self._inner.send(request)
        self.seen.append(request)
        changed = self.before(request)
        if isinstance(changed, Response):
            return changed
        return self.after(request, self._inner.send(changed))

    def close(self) -> None:
        self._inner.close()


class Short(io.RawIOBase):
    """A stream that ends, or breaks, after some bytes."""

    def __init__(self, inner: Any, size: int, error: Exception | None = None) -> None:
        self._inner, self._left, self._error = inner, size, error

    def read(self, size: int = -1, /) -> bytes:
        data: bytes = self._inner.read(min(size, self._left))
        self._left -= len(data)
        if not data and self._error is not None:
            raise self._error
        return data

    def close(self) -> None:
        self._inner.close()
        super().close()


@pytest.fixture
def pool() -> MockPool:
    return MockPool.create(release="8.2")


@pytest.fixture
def wire(pool: MockPool) -> Between:
    return Between(pool.transport())


@pytest.fixture
def session(pool: MockPool, wire: Between) -> Iterator[Session]:
    with connect(pool.url, "root", "secret", transport=wire) as found:
        yield found


def row(pool: MockPool, kind: str, name: str) -> Any:
    return next(found for found in pool.store.table(kind).values() if found["name_label"] == name)


def archive_of(session: Session, pool: MockPool, name: str = "vm04") -> bytes:
    out = io.BytesIO()
    transfers.export_vm(session, Ref(row(pool, "VM", name).ref), out)
    return out.getvalue()


def moved_to_local_storage(pool: MockPool, name: str = "vm04") -> Any:
    """The row of a VM whose disk only host2 sees."""
    vm, store = row(pool, "VM", name), pool.store
    for vbd in pool.vbds(vm):
        if vbd["type"] == "Disk":
            store.write(store.get("VDI", vbd["VDI"]), SR=row(pool, "SR", "Local storage on host2").ref)
    return vm


# --- redirections


def test_a_download_follows_to_the_host_that_sees_the_disks(pool: MockPool, session: Session, wire: Between) -> None:
    """The task goes along: there is one, and it is dropped at the end."""
    vm, out = moved_to_local_storage(pool), io.BytesIO()
    transfers.export_vm(session, Ref(vm.ref), out)
    first, second = wire.seen
    assert (first.host, second.host) == ("http://10.0.0.1", "http://10.0.0.2")
    assert first.path == second.path
    assert "task_id=OpaqueRef" in second.path
    assert pool.store.table("task") == {}


def test_a_redirected_upload_keeps_method_body_and_task(pool: MockPool, session: Session, wire: Between) -> None:
    """requests would send a GET without a body; here the body is sent again, from its beginning."""
    data, sr = archive_of(session, pool), row(pool, "SR", "Local storage on host2")
    wire.seen.clear()
    for pbd in sr["PBDs"]:  # the client asks for the host first: let the answer be out of date
        pool.store.write(pool.store.get("PBD", pbd), currently_attached=False)

    def attach(request: Request) -> Request:
        for pbd in sr["PBDs"]:
            pool.store.write(pool.store.get("PBD", pbd), currently_attached=True)
        if len(wire.seen) == 1:
            assert request.upload is not None
            request.upload.read(1000)
        return request

    wire.before = attach
    (vm,) = transfers.import_vm(session, data, sr=Ref(sr.ref))
    assert [(request.method, request.host) for request in wire.seen] == [
        ("PUT", "http://10.0.0.1"),
        ("PUT", "http://10.0.0.2"),
    ]
    assert wire.seen[0].path == wire.seen[1].path
    disk = next(vbd["VDI"] for vbd in pool.vbds(pool.store.get("VM", vm)) if vbd["type"] == "Disk")
    assert pool.store.get("VDI", disk)["SR"] == sr.ref
    assert pool.store.table("task") == {}


@pytest.mark.parametrize("sockets", [False, True])
def test_an_upload_goes_to_the_right_host_at_once(pool: MockPool, sockets: bool) -> None:
    """Which host is connected to the storage is asked first: an early answer to a long upload is easily lost."""
    sr = row(pool, "SR", "Local storage on host2")
    if not sockets:
        wire = Between(pool.transport())
        with connect(pool.url, "root", "secret", transport=wire) as session:
            transfers.import_vm(session, archive_of(session, pool), sr=Ref(sr.ref))
        assert [request.host for request in wire.seen] == ["http://10.0.0.1", "http://10.0.0.2"]
        return
    with PoolServer(pool) as server, connect(server.url, "root", "secret", trust_env=False) as session:
        out = io.BytesIO()
        moved_to_local_storage(pool)
        transfers.export_vm(session, Ref(row(pool, "VM", "vm04").ref), out)
        assert transfers.import_vm(session, out.getvalue(), sr=Ref(sr.ref))


@pytest.mark.parametrize(
    ("origin", "location", "said"),
    [
        ("https://a", "http://b/export", "redirected to http://b/export, which would send the session without TLS"),
        ("https://a", "/export", "redirected to /export, which is no host"),
        ("https://a", "ftp://b/export", "redirected to ftp://b/export, which is no host"),
        ("https://a", "https://a/export", "redirected in a circle"),
    ],
)
def test_a_redirection_that_leads_nowhere_is_refused(origin: str, location: str, said: str) -> None:
    """It is one error, which names the host and not the session."""

    class Redirecting:
        clock = MockPool().clock

        def send(self, request: Request) -> Response:
            if request.method == "GET":
                return Response(302, {"location": f"{location}?session_id=OpaqueRef:s"}, io.BytesIO())
            return Response(200, {}, io.BytesIO(xmlrpc.dumps_success("OpaqueRef:s")))

        def close(self) -> None:
            pass

    session = connect(origin, "root", "secret", transport=Redirecting())
    with pytest.raises(ProtocolError) as refused:
        session.fetch("/export?ref=x")
    assert said in str(refused.value)
    assert "OpaqueRef:s" not in str(refused.value)


def test_a_body_that_cannot_be_read_again_is_not_sent_twice(pool: MockPool, session: Session, wire: Between) -> None:
    """Where a redirection comes after some of it was read."""

    class Pipe:
        """A source without a way back."""

        def __init__(self, data: bytes) -> None:
            self._file = io.BytesIO(data)

        def read(self, size: int = -1, /) -> bytes:
            return self._file.read(size)

    def redirect(request: Request) -> Response:
        assert request.upload is not None
        request.upload.read(10)
        return Response(302, {"location": "http://10.0.0.2/import?x"}, io.BytesIO())

    data = archive_of(session, pool)
    assert transfers.import_vm(session, Pipe(data), length=len(data))
    wire.before = redirect
    with pytest.raises(ProtocolError, match="but what was sent already cannot be read again: pass a file"):
        transfers.import_vm(session, Pipe(data), length=len(data))


# --- sessions


def test_a_forgotten_session_is_renewed_once(pool: MockPool, session: Session, wire: Between) -> None:
    """The upload is sent again under a task of its own, and arrives once."""
    data, vms = archive_of(session, pool), len(pool.store.table("VM"))
    wire.seen.clear()

    def forget(request: Request) -> Request:
        if len(wire.seen) == 1:
            pool.store.delete(pool.store.get("session", str(session.ref)))
            assert request.upload is not None
            request.upload.read(1000)
        return request

    wire.before = forget
    assert len(transfers.import_vm(session, data)) == 1
    assert len(pool.store.table("VM")) == vms + 1
    assert len({request.path for request in wire.seen}) == len(wire.seen) == 2
    assert pool.store.table("task") == {}


def test_a_session_forgotten_before_costs_no_request(session: Session, pool: MockPool, wire: Between) -> None:
    """Making the task logs in again, and the request goes out with the new session: its body is sent once."""
    pool.store.delete(pool.store.get("session", str(session.ref)))
    assert transfers.dump_database(session, io.BytesIO()) > 0
    assert [f"session_id={session.ref}" in request.path for request in wire.seen] == [True]


# --- cuts


def test_a_download_that_is_cut_off_leaves_no_file(
    pool: MockPool, session: Session, wire: Between, tmp_path: Path
) -> None:
    """Neither where the connection breaks, nor where a stream just ends, be its length known or not."""
    vm, path = row(pool, "VM", "vm04"), tmp_path / "file"
    path.write_bytes(b"old")

    def ended(request: Request, answer: Response) -> Response:
        return replace(answer, stream=Short(answer.stream, 10000))

    def broken(request: Request, answer: Response) -> Response:
        return replace(answer, stream=Short(answer.stream, 10000, ConnectionLost("it broke", host="h", method="m")))

    acts: list[tuple[Callable[[], object], type[Exception], str]] = [
        (
            lambda: transfers.export_vm(session, Ref(vm.ref), path),
            ConnectionLost,
            "the archive is cut off after 10000 byt",
        ),
        (lambda: transfers.export_metadata(session, Ref(vm.ref), path), ConnectionLost, "it ended after 10000 of "),
        (lambda: transfers.dump_database(session, path), DatabaseError, "the dump is cut off; take it again"),
    ]
    for act, kind, said in acts:
        wire.after = ended
        with pytest.raises((kind, errors.CLIENT_ERROR)) as cut:
            act()
        assert said in str(cut.value) or isinstance(cut.value, errors.CLIENT_ERROR)
        wire.after = broken
        with pytest.raises((ConnectionLost, errors.CLIENT_ERROR)):
            act()
        assert path.read_bytes() == b"old"
        assert list(tmp_path.iterdir()) == [path]
    pool.clock.advance(31.0)
    session.VM.get_all()
    assert pool.store.table("task") == {}
    assert vm["current_operations"] == {}


@pytest.mark.parametrize("direction", ["down", "up"])
def test_a_host_that_loses_power_in_the_middle(direction: str, tmp_path: Path) -> None:
    """The connection breaks: one error, soon, no file, and nothing half done in the pool that comes back."""
    pool = MockPool.create(release="8.2", hosts=2)
    with PoolServer(pool) as server, connect(server.url, "root", "secret", trust_env=False) as session:
        vm = row(pool, "VM", "vm04")
        vdi = next(vbd["VDI"] for vbd in pool.vbds(vm) if vbd["type"] == "Disk")
        before = len(pool.store.table("VM"))

        def pull(done: int, total: int | None) -> None:
            if done >= 8 * MIB and pool.master.state == "running":
                with pool.guard():
                    pool.master.power_off()

        acts = {
            "down": lambda: transfers.export_raw_vdi(session, Ref(vdi), tmp_path / "disk", on_progress=pull),
            "up": lambda: transfers.import_raw_vdi(session, bytes(64 * MIB), Ref(vdi), on_progress=pull),
        }
        with pytest.raises(TransportError):
            acts[direction]()
        assert list(tmp_path.iterdir()) == []
        with pool.guard():
            pool.master.power_on()
            pool.clock.run_until(pool.clock.now() + 3600, lambda: pool.master_serves)
        assert len(session.VM.get_all()) == before
        assert vm["current_operations"] == {}


def test_a_server_that_does_not_notice_is_told_to_stop(
    pool: MockPool, session: Session, wire: Between, tmp_path: Path
) -> None:
    """A proxy may keep the connection open: the task is cancelled, and marked to be dropped."""

    class Kept(Short):
        def close(self) -> None:
            pass

    kept: list[Any] = []

    def hold(request: Request, answer: Response) -> Response:
        kept.append(answer.stream)
        return replace(answer, stream=Kept(answer.stream, 64 * MIB))

    def stop(done: int, total: int | None) -> None:
        raise KeyError(done)

    wire.after = hold
    with pytest.raises(KeyError):
        transfers.export_vm(session, Ref(row(pool, "VM", "vm04").ref), tmp_path / "file", on_progress=stop)
    (task,) = pool.store.table("task").values()
    assert set(task["current_operations"].values()) == {"cancel", "destroy"}
    assert kept[0].read(64 * MIB) is not None
    assert (task["status"], list(tmp_path.iterdir())) == ("cancelled", [])


def test_a_task_that_is_gone_does_not_hide_what_went_wrong(session: Session, pool: MockPool, wire: Between) -> None:
    """Where nothing is to be learnt from it, the first error is the one that is raised."""

    def lose(request: Request, answer: Response) -> Response:
        for task in list(pool.store.table("task").values()):
            pool.store.delete(task)
        raise ConnectionLost("it broke", host="http://h", method=request.shown)

    wire.after = lose
    with pytest.raises(ConnectionLost, match="it broke"):
        transfers.dump_database(session, io.BytesIO())


# --- answers


def test_a_failure_behind_a_status_of_200_is_the_tasks(pool: MockPool, session: Session) -> None:
    """Nothing else tells of it."""
    with pytest.raises(errors.IMPORT_ERROR_PREMATURE_EOF):
        transfers.import_vm(session, b"")
    with pytest.raises(errors.IMPORT_ERROR, match=r"Invalid XVA file"):
        transfers.import_vm(session, b"x" * 1024)


def test_a_refusal_with_another_status_is_the_tasks_too(pool: MockPool, session: Session) -> None:
    """A library of ISO images takes no disks (400); no host sees the storage (no answer at all)."""
    with pytest.raises(errors.SR_OPERATION_NOT_SUPPORTED):
        transfers.import_vm(session, b"x" * 1024, sr=Ref(row(pool, "SR", "ISO library").ref))
    for pbd in pool.store.table("PBD").values():
        pool.store.write(pbd, currently_attached=False)
    with pytest.raises(errors.NO_HOSTS_AVAILABLE):
        transfers.export_vm(session, Ref(row(pool, "VM", "vm04").ref), io.BytesIO())
    with pytest.raises(errors.NO_HOSTS_AVAILABLE):
        transfers.import_vm(session, b"x" * 1024)
    assert pool.store.table("task") == {}


def test_an_answer_that_is_not_xapis(session: Session, wire: Between, tmp_path: Path, pool: MockPool) -> None:
    """A proxy's page is one error with status and host; the task is dropped."""
    wire.before = lambda request: Response(502, {}, io.BytesIO(b"<html>Bad Gateway</html>"))
    with pytest.raises(ProtocolError, match=r"^GET /export on http://10\.0\.0\.1: HTTP status 502: '<html>Bad Gateway"):
        transfers.export_vm(session, Ref("OpaqueRef:x"), tmp_path / "file")
    assert list(tmp_path.iterdir()) == []
    pool.clock.advance(31.0)
    session.VM.get_all()
    assert pool.store.table("task") == {}


def test_a_host_that_is_too_old_is_not_asked(tmp_path: Path) -> None:
    """The refusal is that of a call, and nothing is made, here or there."""
    pool = MockPool.create(hosts=1, vms=1, release="6.2")
    session = connect(pool.url, pool.username, pool.password, transport=pool.transport())
    said = r"GET /export_raw_vdi.*: XenServer 6\.2\.0 does not have it yet, XenServer 6\.5\.0 is the first that does"
    with pytest.raises(Failure, match=said) as caught:
        transfers.export_raw_vdi(session, Ref[Any](next(iter(pool.store.table("VDI")))), tmp_path / "file")
    assert caught.value.code == "MESSAGE_METHOD_UNKNOWN"
    assert list(tmp_path.iterdir()) == []
    assert pool.store.table("task") == {}


def test_a_stranger_that_says_200_is_not_waited_for(
    session: Session, wire: Between, pool: MockPool, tmp_path: Path
) -> None:
    """What a proxy sends in the place of a download is noticed by what it is; an upload that it swallowed, by the time."""
    wire.before = lambda request: Response(200, {}, io.BytesIO(b"<html>Log in to this network</html>"))
    with pytest.raises(DatabaseError, match="cut off"):
        transfers.dump_database(session, tmp_path / "file")
    with pytest.raises(ConnectionLost, match="the archive is cut off after 35 bytes"):
        transfers.export_vm(session, Ref(row(pool, "VM", "vm04").ref), tmp_path / "file")
    assert list(tmp_path.iterdir()) == []
    begun = pool.clock.now()
    with pytest.raises(
        WaitTimeout, match=r"^PUT /import on http://10\.0\.0\.1: not done 60 s after the last byte; it was told"
    ):
        transfers.import_vm(session, b"x" * 1024, timeout=60)
    assert 60 <= pool.clock.now() - begun < 70


def test_an_object_that_is_not_there(session: Session, tmp_path: Path) -> None:
    """The page of a status of 500 names the error, which is raised as it is."""
    with pytest.raises(errors.HANDLE_INVALID) as refused:
        transfers.export_vm(session, Ref("OpaqueRef:none"), tmp_path / "file")
    assert refused.value.details == ["HANDLE_INVALID", "VM", "OpaqueRef:none"]


# --- sources and targets


def test_the_length_of_an_upload_must_be_known(session: Session, pool: MockPool, tmp_path: Path) -> None:
    """A pipe has none: it is refused before anything is sent, unless the caller knows better."""

    class Pipe:
        def read(self, size: int = -1, /) -> bytes:
            return b""

    calls = pool.calls
    with pytest.raises(
        ValueError, match=r"how long the upload is cannot be told, and no host takes one without: pass len"
    ):
        transfers.restore_database(session, Pipe())
    with pytest.raises(ValueError, match=r"an upload has no -1 bytes"):
        transfers.restore_database(session, Pipe(), length=-1)
    with pytest.raises(FileNotFoundError):
        transfers.restore_database(session, tmp_path / "none")
    assert pool.calls == calls
    with pytest.raises(ValueError, match=r"^the source ended after 0 of 10 bytes$"):
        transfers.restore_database(session, Pipe(), length=10)


def test_a_source_is_sent_from_where_it_stands(session: Session, pool: MockPool) -> None:
    """A file that was read in part is sent from there on."""
    data = archive_of(session, pool)
    source = io.BytesIO(b"something else" + data)
    source.seek(14)
    assert len(transfers.import_vm(session, source)) == 1


def test_a_folder_that_is_not_there_is_noticed_first(session: Session, pool: MockPool, tmp_path: Path) -> None:
    """Nothing is asked of the server."""
    calls = pool.calls
    with pytest.raises(FileNotFoundError):
        transfers.dump_database(session, tmp_path / "none" / "file")
    assert pool.calls == calls


def test_a_full_disk_leaves_the_old_file(session: Session, pool: MockPool, tmp_path: Path) -> None:
    """What the target raises comes out as it is, and the server is told to stop."""

    class Full:
        def write(self, data: bytes, /) -> int:
            raise OSError(28, "No space left on device")

    with pytest.raises(OSError, match=r"No space left"):
        transfers.export_vm(session, Ref(row(pool, "VM", "vm04").ref), Full())
    pool.clock.advance(31.0)
    session.VM.get_all()
    assert pool.store.table("task") == {}
    assert row(pool, "VM", "vm04")["current_operations"] == {}
