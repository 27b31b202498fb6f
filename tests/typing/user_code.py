"""What users write, read by type checkers only: nothing here may be reported by mypy --strict or pyright --strict."""

from __future__ import annotations

import io
import warnings
from collections.abc import Iterator, Mapping
from datetime import datetime
from pathlib import Path
from typing import Any

import mockserver
import xenctl
from mockserver import Durations, MockPool, PoolServer
from mockserver.anonymise import anonymise
from mockserver.compare import compare
from xenctl import NULL, Failure, Record, Ref, Session, Task, XenctlError, transfers
from xenctl import releases as rel
from xenctl.api import errors
from xenctl.api import types as t
from xenctl.channel import ProtocolName
from xenctl.database import Database, read_file
from xenctl.errors import CleartextWarning
from xenctl.events import Change, PoolCache, wait_all, watch
from xenctl.rehearsal import HostResult, Rehearsal, VMResult, rehearse
from xenctl.session import SessionOptions
from xenctl.transport import HttpTransport, Transport


def list_vms(password: str) -> None:
    with xenctl.connect(
        "https://10.0.0.1", "root", password, verify=False, read_timeout=60.0, protocol="jsonrpc"
    ) as session:
        for ref, vm in session.VM.get_all_records().items():
            if vm.is_a_template or vm.is_control_domain:
                continue
            size: int = vm.memory_static_max
            state: t.vm_power_state = vm.power_state
            taken: datetime = vm.snapshot_time
            host: Ref[t.host] = vm.resident_on
            disks: list[Ref[t.VBD]] = vm.VBDs
            config: dict[str, str] = vm.other_config
            print(
                str(ref), vm.name_label.upper(), size // 2**30, state, taken.isoformat(), host, len(disks), len(config)
            )


def from_the_environment() -> Iterator[str]:
    with xenctl.connect(retries=5, check_release=False, hosts=["https://10.0.0.2"]) as session:
        yield from session.learn_hosts()
        release: rel.Release = session.release
        session.require("PUT /import_raw_vdi", "6.5.0")
        print(release >= rel.find("7.0"), release.api_version, session.hosts)


def by_certificate(fingerprint: str) -> None:
    old = xenctl.connect("https://10.0.0.1", fingerprint=fingerprint, legacy_tls=True, protocol="xmlrpc", connections=2)
    with (
        old,
        Session("https://10.0.0.2", verify="ca.pem", connect_timeout=5.0, trust_env=False, protocol="auto") as other,
    ):
        print(old.release.name, other.is_open, old.read_timeout, other.sibling())
    transport = HttpTransport(fingerprint=fingerprint)
    transport.pin("https://10.0.0.2", "sha256:" + fingerprint)
    warnings.simplefilter("error", CleartextWarning)


def handed_on(protocol: ProtocolName, given: SessionOptions) -> Session:
    given["protocol"] = protocol
    given["read_timeout"] = 60.0
    return xenctl.connect("https://10.0.0.1", **given)


def on_one_member(password: str) -> None:
    with Session("https://10.0.0.2", read_timeout=20.0) as session:
        session.slave_local_login_with_password("root", password)
        session.pool.emergency_transition_to_master()


def taken_over(ref: str) -> Ref[Any] | None:
    with Session("https://10.0.0.1", ref=ref) as session:
        session.login_with_password("root", "secret", originator="a program")
        return session.ref


def start_all(session: Session, names: list[str]) -> list[xenctl.XenctlError | None]:
    tasks: list[Task[None]] = []
    for name in names:
        vm = session.VM.get_by_name_label(name)[0]
        if session.VM.get_power_state(vm) == "Halted":
            tasks.append(session.Async.VM.start(vm, False, False))
    return wait_all(session, tasks, timeout=600)


def wait_with_progress(session: Session, vm: Ref[t.VM]) -> Ref[t.VM]:
    def shown(progress: float) -> None:
        print(f"{progress:.0%}")

    task: Task[Ref[t.VM]] = session.Async.VM.clone(vm, "a copy")
    started: bool = task.status() == "pending"
    print(started, task.ref, task.label)
    try:
        return task.wait(timeout=3600.0, on_progress=shown)
    except xenctl.WaitTimeout:
        task.cancel()
        raise
    except xenctl.TaskCancelled as cancelled:
        print(cancelled.ref)
        raise


def move(session: Session, vm: Ref[t.VM], name: str) -> str:
    host = session.host.get_by_name_label(name)[0]
    session.VM.pool_migrate(vm, host, {"live": "true"})
    session.Async.VM.pool_migrate(vm, host, options={"live": "true"}).wait()
    record = session.host.get_record(session.VM.get_resident_on(vm))
    metrics = session.host_metrics.get_record(record.metrics)
    print(metrics.live, metrics.memory_free + 1, record.software_version["product_version"])
    return record.address


def discs(session: Session) -> Iterator[tuple[Ref[t.VBD], Ref[t.VDI]]]:
    for ref, vbd in session.VBD.get_all_records().items():
        if vbd.type == "CD" and not vbd.empty and vbd.VDI != NULL:
            session.VBD.eject(ref)
            yield ref, vbd.VDI


def references() -> Mapping[str, object]:
    typed: Ref[t.VM] = Ref("OpaqueRef:1")
    nothing: Ref[t.VDI] = NULL
    return {typed: typed.removeprefix("OpaqueRef:"), nothing: None}


def create(session: Session, template: Ref[t.VM]) -> Ref[t.VM]:
    vm = session.VM.clone(template, "new")
    session.VM.set_name_description(vm, "made by a test")
    session.VM.set_tags(vm, ["a", "b"])
    session.VM.set_tags(vm, {"a", "b"})
    session.VM.add_to_other_config(vm, "key", "value")
    session.VM.set_actions_after_crash(vm, "restart")
    session.VM.set_memory_static_max(vm, 1 << 30)
    session.VM.provision(vm)
    return vm


def refusals(session: Session, vm: Ref[t.VM]) -> str:
    try:
        session.VM.start(vm, False, False)
    except errors.VM_BAD_POWER_STATE as refused:
        actual: str | None = refused.actual
        return (actual or "").upper()
    except errors.HANDLE_INVALID as unknown:
        return f"{unknown.code} {unknown.params}"
    except Failure as other:
        return other.code + ", ".join(other.details)
    except xenctl.NotJsonRpc as error:
        return error.message
    except (xenctl.ConnectError, xenctl.ConnectionLost, xenctl.ProtocolError) as error:
        return f"{error.host} {error.method} {error.message}"
    except xenctl.TransportError as error:
        return error.message
    except XenctlError as error:
        return str(error)
    return ""


def follow(session: Session) -> None:
    for change in watch(session, ["VM", "host"], timeout=20.0):
        if isinstance(change.record, t.VM):
            print(change.operation == "mod", change.class_name, change.record.name_label)


def until(session: Session, vm: Ref[t.VM]) -> str:
    with PoolCache(session, ["VM"]) as cache:
        vms: Mapping[Ref[t.VM], t.VM] = cache.of(t.VM)
        changes: list[Change] = cache.update(timeout=5.0)
        print(len(vms), vms[vm].power_state, changes, cache["VM"])
        return cache.wait_until(lambda pool: pool.of(t.VM)[vm].name_label, timeout=60)


def by_hand_events(session: Session) -> None:
    token = ""
    while True:
        batch = session.event.from_(["vm", "host"], token, 30.0)
        token = batch.token
        for event in batch.events:
            if event.class_ == "vm" and event.operation != "del":
                record = event.record
                if isinstance(record, t.VM):
                    print(record.name_label, record.power_state)
        print(batch.valid_ref_counts.get("vm", 0) + 1)


def unknown_to_the_model(session: Session) -> int:
    answer: Any = session.call("VM.new_thing", ["OpaqueRef:1", {"key": "value"}])
    print(answer)
    return session.call("VM.new_count", (), int)


def any_record(record: Record) -> list[str]:
    return sorted(record)


def records_are_mappings(vm: t.VM) -> dict[str, Any]:
    everything = dict(vm)
    label: Any = vm["name_label"]
    names = [name for name in vm if name.startswith("memory_")]
    print(label, names, vm.get("nothing"), len(vm))
    return everything


def pool_of(session: Session) -> t.pool:
    ref = session.pool.get_all()[0]
    record = session.pool.get_record(ref)
    print(session.host.get_name_label(record.master), session.xenapi.pool.get_uuid(ref), session.origin)
    return record


def by_hand(password: str) -> None:
    transport: Transport = HttpTransport(verify="/etc/pool.pem", connect_timeout=5.0)
    session = Session("https://10.0.0.1", transport=transport)
    session.login_with_password("root", password)
    try:
        started = session.clock.now()
        session.clock.sleep(1.0)
        print(session.ref, session.clock.now() - started)
    finally:
        session.logout()
        transport.close()


def test_against_the_fake(pool: MockPool) -> None:
    with xenctl.connect(pool.url, pool.username, pool.password, transport=pool.transport()) as session:
        vm = session.VM.get_by_name_label("vm01")[0]
        session.VM.clean_shutdown(vm)
    assert pool.dispatch("VM.get_power_state", ["OpaqueRef:session", vm])


def fakes() -> MockPool:
    pool = MockPool.create(hosts=3, vms=12, release="4.0.1", seed=1, durations=Durations())
    dump: Database = read_file(Path("pool.xml"))
    MockPool.from_dump(dump)
    with mockserver.activate(pool) as same:
        print(same.url)
    with PoolServer(pool, listen="127.0.0.1", port=0, time_scale=60.0) as server:
        print(server.url, [host["address"] for host in server.hosts()])
    pool.faults.add("error", method="VM.start", nth=2, code="HOST_OFFLINE", params=["OpaqueRef:x"])
    print([str(fault) for fault in pool.faults.unused()])
    with mockserver.Trace(pool, limit=100) as trace:
        print([record.method for record in trace], trace.at(0).table("VM"))
    report = mockserver.sweep(lambda pool: print(pool.url), faults=["reset", {"kind": "stall", "seconds": 9}], sample=5)
    report.verify()
    for violation in pool.violations:
        print(violation.as_dict())
    violations: list[mockserver.Violation] = pool.violations
    invariants: list[mockserver.Invariant] = pool.invariants
    print(violations, invariants)
    return pool


def states(pool: MockPool, session: xenctl.Session) -> str:
    point: mockserver.Savepoint = pool.savepoint()
    fork: MockPool = pool.fork()
    with fork.savepoint():
        fork.hands.power_off("host1")
    found: mockserver.Comparison = compare(pool, fork, volatile=False)
    changes: tuple[mockserver.Change, ...] = found.changes
    try:
        pool.rollback(point)
        pool.release(point)
    except mockserver.SavepointError as error:
        print(error)
    MockPool.from_session(session).save("copy.xml")
    MockPool.from_dump(anonymise(read_file("copy.xml"), seed=1)).save(Path("given-away.xml"))
    return found.text(limit=10) if changes else ""


def rehearsed() -> bool:
    verdict: Rehearsal = rehearse("pool.xml", to="4.1.0")
    rehearse(Path("pool.xml"))
    rehearse(b"<database/>", on_step=lambda number, total, text: print(number, total, text))
    rehearse(release="4.0.1", hosts=3, vms=12, seed=7)
    host: HostResult = verdict.hosts[0]
    vm: VMResult = verdict.vms[0]
    print(host.name, host.offline_s / 60, vm.home, vm.downtime_s + 1.0, vm.planned_downtime, vm.migrations + 1)
    print(verdict.simulated_s, verdict.calls, verdict.bytes["sent"], verdict.backup["sha256"], verdict.to_json())
    for reason in verdict.reasons:
        print(reason.strip())
    return verdict.ok and verdict.max_hosts_offline <= 1


def dump_of(path: str) -> Database | None:
    try:
        return read_file(path)
    except xenctl.DatabaseError as error:
        print(error.source, error.line, error.table, error.row, error.column)
    except xenctl.ProcedureError as error:
        print(error.message, *error.reasons)
    return None


class Pipe:
    """What has the methods of a file that transfers need."""

    def read(self, size: int = -1, /) -> bytes:
        return b""

    def write(self, data: bytes, /) -> int:
        return len(data)


def every_change(session: Session) -> None:
    for change in watch(session):
        deleted: bool = change.operation == "del"
        print(deleted, change.ref, change.record["uuid"])
    with PoolCache(session, {"VM", "host/OpaqueRef:1"}, poll=10.0) as cache:
        host: t.host | None = cache.wait_until(lambda pool: next(iter(pool.of(t.host).values()), None))
        print(host and host.hostname, cache.update(None))
    results = wait_all(
        session,
        [session.Async.VM.clone(vm, "copy") for vm in session.VM.get_all()],
        on_progress=lambda task, progress: print(task.label, progress + 1.0),
    )
    copies: list[Ref[t.VM]] = [copy for copy in results if not isinstance(copy, XenctlError)]
    print(copies)


def transferred(session: Session, vm: Ref[t.VM]) -> list[Ref[t.VM]]:
    done: list[int] = []
    transfers.dump_database(session, Path("pool.xml"), on_progress=lambda now, total: done.append(now))
    transfers.restore_database(session, "pool.xml", dry_run=True, timeout=600)
    with open("vm.xva", "wb") as target:
        size: int = transfers.export_vm(session, vm, target, use_compression="gzip", preserve_power_state=True)
    print(size, done)
    sr = session.pool.get_default_SR(session.pool.get_all()[0])
    for disk in session.VDI.get_all():
        transfers.import_raw_vdi(session, b"bytes", disk)
        transfers.export_raw_vdi(session, disk, "disk.raw", format="tar")
        transfers.export_raw_vdi(session, disk, io.BytesIO(), base=disk, timeout=60.0)
    transfers.export_vm(session, vm, Pipe())
    transfers.import_vm(session, Pipe(), length=1024)
    patch = transfers.upload_patch(session, "hotfix.xsupdate", sr=sr)
    print(session.pool_patch.get_name_label(patch))
    host = session.host.get_all()[0]
    transfers.backup_host(session, host, "host.tgz")
    transfers.restore_host(session, host, "host.tgz")
    transfers.export_metadata(session, None, "metadata.tar", include_dom0=False)
    transfers.import_metadata(session, "metadata.tar", dry_run=True, vdi_map={"uuid": "other"})
    return transfers.import_vm(session, "vm.xva", sr=sr, restore=True, force=True)


def versions() -> bool:
    return rel.find("4.0.1") < rel.find("4.1.0")
