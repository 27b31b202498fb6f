"""What users get wrong: each line marked with E is reported by mypy --strict and by pyright, and no other line is."""

from __future__ import annotations

import xenctl
from mockserver import MockPool
from xenctl import Ref, Session, transfers
from xenctl.api import errors
from xenctl.api import types as t
from xenctl.events import PoolCache, wait_all, watch
from xenctl.rehearsal import rehearse


def references(session: Session, vm: Ref[t.VM], host: Ref[t.host], vdi: Ref[t.VDI]) -> None:
    session.VM.start(host, False, False)  # E: a host where a VM is meant
    session.VM.start("OpaqueRef:1", False, False)  # E: text that nobody said is a reference to a VM
    session.VM.pool_migrate(host, vm, {})  # E: the two the wrong way round
    session.VM.get_record(session.VM.get_resident_on(vm))  # E: what a getter returns knows its class
    session.VBD.insert(vdi, vdi)  # E: a disk where its drive is meant
    mine: Ref[t.VM] = session.VM.get_all()[0]
    disk: Ref[t.VDI] = session.VM.get_all()[0]  # E: a VM kept as a disk
    by_ref: dict[Ref[t.host], t.host] = session.VM.get_all_records()  # E: records of another class
    print(mine, disk, by_ref)


def arguments(session: Session, vm: Ref[t.VM]) -> None:
    session.VM.start(vm)  # E: two arguments missing
    session.VM.start(vm, False, False, True)  # E: one too many
    session.VM.start(vm, False, force="no")  # E: text where a boolean is meant
    session.VM.start(vm, paused=False, force=False)  # E: no such parameter
    session.VM.set_memory_static_max(vm, "1073741824")  # E: text where a number is meant
    session.VM.set_tags(vm, "production")  # E: one text where a set of texts is meant
    session.VM.set_other_config(vm, ["key", "value"])  # E: a list where a map is meant
    session.VM.add_to_other_config(vm, "retries", 3)  # E: a number where text is meant
    session.VM.set_is_a_template(ref=vm, value=False)  # E: the object comes without a name
    session.event.from_("vm", "", 30.0)  # E: one class where a set of classes is meant


def names(session: Session, vm: Ref[t.VM], record: t.VM) -> None:
    session.VM.clean_shutdwon(vm)  # E: a message misspelled
    session.vm.clean_shutdown(vm)  # E: a class misspelled
    session.VM.import_record(vm)  # E: no such message
    session.Async.VM.get_power_state(vm)  # E: no asynchronous form
    session.Async.VM_metrics.get_all()  # E: a class without asynchronous messages
    session.host.set_power_state(vm)  # E: a field that cannot be set
    print(record.name_lable)  # E: a field misspelled
    print(record.power_state.value)  # E: enums are text
    print(xenctl.Sesion)  # E: a name misspelled


def enums(session: Session, vm: Ref[t.VM], record: t.VM) -> None:
    session.VM.set_actions_after_crash(vm, "explode")  # E: not one of the enum's values
    session.VBD.set_mode(session.VM.get_VBDs(vm)[0], "rw")  # E: XenAPI writes RW
    if record.power_state == "running":  # E: XenAPI writes Running
        return
    if session.VM.get_power_state(vm) == "Stopped":  # E: XenAPI says Halted
        return
    state: t.vm_power_state = "Off"  # E: not one of the enum's values
    other: t.vm_powerstate = "Halted"  # E: an enum misspelled
    print(state)


def results(session: Session, vm: Ref[t.VM]) -> None:
    session.VM.start(vm, False, False).wait()  # E: nothing to wait for without Async
    started: str = session.VM.start(vm, False, False)  # E: nothing is returned
    cloned: Ref[t.VM] = session.Async.VM.clone(vm, "copy")  # E: a task, to be waited for
    host: Ref[t.host] = session.Async.VM.clone(vm, "copy").wait()  # E: the task's result knows its class
    first: Ref[t.VM] = session.VM.get_by_name_label("vm01")  # E: there may be several
    size: str = session.VM.get_memory_static_max(vm)  # E: a number
    session.VM.get_all_records()[0]  # E: records are found by reference
    session.Async.VM.start(vm, False, False).wait("1 h")  # E: a timeout is in seconds
    print(started, cloned, host, first, size)


def records(record: t.VM) -> None:
    record.name_label = "new"  # E: a record is a picture; use set_name_label
    record["name_label"] = "new"  # E: nor by item
    size: str = record.memory_static_max  # E: a number
    taken: str = record.snapshot_time  # E: a date and time
    label: str = record.VBDs  # E: a list of references
    print(size, taken, label, record.memory_static_max + "1")  # E: a number


def absent(refused: errors.VM_BAD_POWER_STATE, batch: t.event) -> None:
    print(refused.actual.upper())  # E: None where the server sent fewer parameters
    print(refused.expectd)  # E: a parameter misspelled
    print(errors.VM_BAD_POWERSTATE)  # E: a code misspelled
    print(batch.record["uuid"])  # E: None where the event came without


def following(session: Session, vm: Ref[t.VM]) -> None:
    for change in watch(session, "VM"):  # E: one class where several are meant
        print(change.record.name_label)  # E: a record of any class
    cache = PoolCache(session, ["VM"])
    print(cache.of(t.VM)[vm].name_lable)  # E: a field misspelled
    print(cache.of("VM"))  # E: the class, not its name
    name: int = cache.wait_until(lambda pool: pool.of(t.VM)[vm].name_label)  # E: text
    print(name, session.release >= "7.0")  # E: a release, not its name


def waiting(session: Session, vm: Ref[t.VM]) -> None:
    task = session.Async.VM.clone(vm, "copy")
    size: int = task.wait()  # E: the task's result is a reference
    task.wait(on_progress=lambda: None)  # E: progress is a number that it is given
    task.wait(progress=print)  # E: an option misspelled
    copies: list[Ref[t.VM]] = wait_all(session, [task])  # E: errors may be among them
    wait_all(session, [vm])  # E: a VM where a task is meant
    print(size, copies, task.state())  # E: a task has a status


def transferring(session: Session, vm: Ref[t.VM], host: Ref[t.host], vdi: Ref[t.VDI]) -> None:
    transfers.export_vm(session, host, "vm.xva")  # E: a host where a VM is meant
    transfers.export_vm(session, vm, "vm.xva", use_compression="xz")  # E: no such compression
    transfers.export_vm(session, vm, "vm.xva", print)  # E: by keyword only
    transfers.import_vm(session, 12)  # E: no source
    transfers.import_vm(session, "vm.xva", sr=vdi)  # E: a disk where a repository is meant
    transfers.export_raw_vdi(session, vdi)  # E: the target is missing
    transfers.import_raw_vdi(session, vdi, "disk.raw")  # E: the source comes first
    transfers.backup_host(session, "host1", "host.tgz")  # E: a name where a reference is meant
    transfers.restore_database(session, "pool.xml", dryrun=True)  # E: an option misspelled
    transfers.dump_database(session, "pool.xml", on_progress=lambda done: None)  # E: it is given the total too
    imported: Ref[t.VM] = transfers.import_vm(session, "vm.xva")  # E: there may be several
    patch: Ref[t.pool_update] = transfers.upload_patch(session, "patch")  # E: it gives a pool_patch
    print(imported, patch)


def making() -> None:
    xenctl.connect("https://10.0.0.1", fingerprint=b"\xab" * 32)  # E: text
    xenctl.connect("https://10.0.0.1", legacy_tls="yes")  # E: true or false
    Session("https://10.0.0.1", ref="OpaqueRef:1", legacy=True)  # E: an option misspelled
    xenctl.connect("https://10.0.0.1", "root", retries="3")  # E: a number
    xenctl.connect("https://10.0.0.1", hosts="https://10.0.0.2:443", check_release="no")  # E: true or false
    Session("https://10.0.0.1", username="root")  # E: credentials are for connect, or for a login
    xenctl.connect("https://10.0.0.1", "root", "secret", verfy=False)  # E: an option misspelled
    xenctl.connect("https://10.0.0.1", "root", "secret", read_timeout="1 h")  # E: seconds
    xenctl.connect("https://10.0.0.1", "root", "secret", protocol="json")  # E: no such protocol
    pool = MockPool.create(3, 12)  # E: by keyword only
    MockPool.create(host=3)  # E: misspelled
    xenctl.connect("http://pool", "root", "secret", pool.transport())  # E: by keyword only
    rehearse(12)  # E: not a dump
    rehearse("pool.xml", "4.1.0")  # E: by keyword only
    rehearse("pool.xml", to=4.1)  # E: a release is text
    print(rehearse().oks)  # E: misspelled
