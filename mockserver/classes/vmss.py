"""Schedules of snapshots: how often, when, and how many are kept.

No clock runs them here. In the product it is not xapi either: a job of the control domain looks every quarter of an hour
which of them are due and takes the snapshots through XenAPI. `VMSS.snapshot_now` does what that would.
"""

from __future__ import annotations

from typing import Any

from xenctl.errors import Failure
from xenctl.values import Timestamp

from .. import messages, subtasks
from ..call import Call, Steps, refuse
from ..licence import assert_enabled
from ..store import NULL, Row
from . import verbs_of
from .generic import make
from .vm_copies import assert_quiesces

verb = verbs_of("VMSS")

DAYS = ("Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday")
MINUTES = ("0", "15", "30", "45")
HOURS = tuple(str(hour) for hour in range(24))
DEFAULTS = {"min": "0", "hour": "0", "days": "Monday"}
"""The keys of a schedule, and what they are where nobody says."""
KEYS = {"hourly": ("min",), "daily": ("hour", "min"), "weekly": ("hour", "min", "days")}
"""The keys that count, by frequency."""
RETAINED = range(1, 11)
TAKES: dict[str, tuple[Any, ...]] = {"snapshot": ([],), "checkpoint": (), "snapshot_with_quiesce": ()}
"""The messages of class VM that types of schedules stand for, with what they are given besides VM and name."""
PRIORITIES = {"VMSS_SNAPSHOT_SUCCEEDED": 5, "VMSS_SNAPSHOT_FAILED": 3}
"""The messages that tell operators what came of a run."""


# --- what a schedule may hold


def _bad(key: str, value: str) -> Exception:
    return refuse("INVALID_VALUE", f"schedule:{key}", value)


def _checked(key: str, value: str, known: tuple[str, ...]) -> str:
    """A schedule's value as xapi spells it. Raises `INVALID_VALUE`."""
    if key not in known:
        raise _bad(key, value)
    if key == "hour":
        if not value.isdecimal() or str(int(value)) not in HOURS:
            raise _bad(key, value)
        return value
    if key == "min":
        return _spelled(key, value, MINUTES)
    days = [_spelled(key, day, DAYS) for day in value.split(",")]
    if len(set(days)) != len(days):
        raise _bad(key, value)
    return ",".join(days)


def _spelled(key: str, value: str, among: tuple[str, ...]) -> str:
    found = spelled(value, among)
    if found is None:
        raise _bad(key, value)
    return found


def spelled(value: str, among: tuple[str, ...]) -> str | None:
    """The one of these that is meant, whatever its case; None for none."""
    return next((member for member in among if member.lower() == value.lower()), None)


def _complete(frequency: str, schedule: dict[str, str]) -> dict[str, str]:
    """What counts of a schedule, with the defaults of what is missing."""
    known = KEYS[frequency]
    return {key: _checked(key, schedule.get(key, DEFAULTS[key]), known) for key in known}


def _assert_retained(value: int) -> None:
    if value not in RETAINED:
        raise refuse("INVALID_VALUE", "retained_snapshots", value)


def _row(call: Call, ref: str) -> Row:
    assert_enabled(call, "VMSS")
    return call.db.get("VMSS", ref)


# --- verbs


@verb("*")
def create(call: Call, args: dict[str, Any]) -> str:
    assert_enabled(call, "VMSS")
    if args["type"] == "snapshot_with_quiesce":
        assert_enabled(call, "VSS")
    schedule = args.get("schedule", {})
    for key, value in schedule.items():
        _checked(key, value, KEYS[args["frequency"]])
    complete = _complete(args["frequency"], schedule)
    _assert_retained(args.get("retained_snapshots", 7))
    return make(call, "VMSS", args, schedule=complete).ref


@verb("*", "message.*")
def destroy(call: Call, ref: str) -> str:
    """The schedule with the messages about it; it must have no VMs."""
    row = _row(call, ref)
    if row["VMs"]:
        raise refuse("VMSS_HAS_VM")
    for message in call.pool.messages.about(row["uuid"]):
        call.pool.messages.drop(call.db, message)
    call.db.delete(row)
    return ""


@verb("frequency", "schedule")
def set_frequency(call: Call, ref: str, value: str) -> str:
    row = _row(call, ref)
    schedule = _complete(value, row["schedule"])
    call.db.write(row, frequency=value, schedule=schedule)
    return ""


@verb("schedule")
def set_schedule(call: Call, ref: str, value: dict[str, str]) -> str:
    row = _row(call, ref)
    merged = {**row["schedule"], **value}
    call.db.write(row, schedule={key: _checked(key, text, tuple(DEFAULTS)) for key, text in merged.items()})
    return ""


@verb("schedule")
def add_to_schedule(call: Call, ref: str, key: str, value: str) -> str:
    """A value that is none puts back what the key had when one was last removed, and then is refused: so clients that
    replace a value by removing and adding its key keep the old one."""
    row, before = _row(call, ref), call.xapi.schedule
    try:
        text, error = _checked(key, value, tuple(DEFAULTS)), None
    except Failure as failure:
        if key not in before:
            raise refuse("INTERNAL_ERROR", "Not_found") from None
        text, error = before[key], failure
    if key in row["schedule"]:
        raise refuse("MAP_DUPLICATE_KEY", "VMSS", "schedule", ref, key)
    call.db.write(row, schedule={key: text, **row["schedule"]})
    if error is not None:
        raise error
    return ""


@verb("schedule")
def remove_from_schedule(call: Call, ref: str, key: str) -> str:
    row = _row(call, ref)
    call.xapi.schedule = row["schedule"]
    call.db.write(row, schedule={name: text for name, text in row["schedule"].items() if name != key})
    return ""


@verb("type")
def set_type(call: Call, ref: str, value: str) -> str:
    row = _row(call, ref)
    if value == "snapshot_with_quiesce":
        assert_enabled(call, "VSS")
        for vm in (call.db.get("VM", vm) for vm in row["VMs"]):
            assert_quiesces(call, vm)
    call.db.write(row, type=value)
    return ""


@verb("retained_snapshots")
def set_retained_snapshots(call: Call, ref: str, value: int) -> str:
    row = _row(call, ref)
    _assert_retained(value)
    call.db.write(row, retained_snapshots=value)
    return ""


@verb("last_run_time")
def set_last_run_time(call: Call, ref: str, value: Timestamp) -> str:
    call.db.write(_row(call, ref), last_run_time=value)
    return ""


# --- taking the snapshots


@verb("last_run_time", "VM.is_vmss_snapshot", "message.*")
def snapshot_now(call: Call, ref: str) -> Steps:
    """Run the schedule as if it were due: its VMs one after the other, and of each only the newest snapshots stay. What
    goes wrong with a VM is told in a message, and the next one has its turn."""
    row = _row(call, ref)
    for vm in list(row["VMs"]):
        try:
            name = yield from take(call, row, call.db.get("VM", vm), row["type"], "is_vmss_snapshot")
            yield from thin_out(call, vm, "is_vmss_snapshot", row["retained_snapshots"])
        except Failure as error:
            _tell(call, row, "VMSS_SNAPSHOT_FAILED", f"{vm}: {error.code}")
        else:
            _tell(call, row, "VMSS_SNAPSHOT_SUCCEEDED", name)
    if call.db.find("VMSS", ref) is row:
        call.db.write(row, last_run_time=call.clock.stamp())
    return ""


def take(call: Call, row: Row, vm: Row, kind: str, mark: str) -> Steps:
    """One snapshot of a VM, marked by a field of its own: returns its name, which says of which schedule it is and when it
    was taken."""
    name, before = f"{row['name_label']} {call.clock.stamp()}", set(vm["snapshots"])
    yield from subtasks.run(call, f"VM.{kind}", vm.ref, name, *TAKES[kind])
    for snapshot in (call.db.get("VM", ref) for ref in vm["snapshots"] if ref not in before):
        if snapshot["name_label"] == name:
            call.db.write(snapshot, **{mark: True})
    return name


def thin_out(call: Call, vm: str, mark: str, retained: int) -> Steps:
    """Destroy the oldest snapshots of a VM that are marked, with their disks, until no more than wanted are left."""
    snapshots = [call.db.get("VM", ref) for ref in call.db.get("VM", vm)["snapshots"]]
    ours = sorted((s for s in snapshots if s[mark]), key=lambda s: str(s["snapshot_time"]))
    for old in ours[:-retained]:
        disks = [vbd["VDI"] for vbd in call.pool.vbds(old) if vbd["type"] != "CD" and not vbd["empty"]]
        disks += [old["suspend_VDI"]] if old["suspend_VDI"] != NULL else []
        yield from subtasks.run(call, "VM.destroy", old.ref)
        for vdi in disks:
            yield from subtasks.run(call, "VDI.destroy", vdi)


def _tell(call: Call, row: Row, name: str, body: str) -> None:
    messages.post(call.pool, name, priority=PRIORITIES[name], cls="VMSS", uuid=row["uuid"], body=body)
