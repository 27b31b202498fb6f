"""Policies that protected VMs, from 5.6 FP1 to 6.1: snapshots of their VMs by a schedule, copies of those to an archive, and
alarms about both.

No clock runs them here. In the product it is not xapi either, but a plugin of the control domain; `VMPP.protect_now` does
what that would, by an answer and with alerts of our own, since the plugin is not public. It has no archive to copy to.
"""

from __future__ import annotations

import base64
import gzip
import re
import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any
from xml.sax.saxutils import escape

from xenctl.errors import Failure
from xenctl.values import Timestamp

from .. import messages, passwords
from ..call import Call, Steps, refuse
from ..licence import restricted
from ..store import Row
from . import verbs_of
from .generic import make
from .vmss import DAYS, KEYS, MINUTES, spelled, take, thin_out

verb = verbs_of("VMPP")

FAILED = 5
"""The priority from which on an alert tells of a failure, and becomes a message, too."""
RECENT = 10
RETAINED = range(1, 11)
OFTEN = ("hourly", "daily", "weekly")
"""The frequencies that can be compared, the most frequent first."""
SECRET = "password"  # noqa: S105 - the key, not a password

Check = Callable[[str], "str | None"]


def _any(value: str) -> str:
    return value


def _within(numbers: range) -> Check:
    return lambda value: value if re.fullmatch(r"-?\d+", value) and int(value) in numbers else None


def _days(value: str) -> str | None:
    found = [spelled(day, DAYS) for day in value.split(",")]
    return None if None in found else ",".join(map(str, found))


@dataclass(frozen=True)
class Settings:
    """A map of a policy: what it is called in errors, how each key is checked and what it is where nobody says, and which
    keys count for each value of the field that the map belongs to."""

    label: str
    checks: Mapping[str, tuple[Check, str]]
    keys: Mapping[str, tuple[str, ...]]

    def checked(self, key: str, value: str, known: tuple[str, ...] | None = None) -> str:
        """A value as xapi spells it. Raises `INVALID_VALUE`."""
        found = self.checks[key][0](value) if key in (self.checks if known is None else known) else None
        if found is None:
            raise refuse("INVALID_VALUE", f"{self.label}:{key}", value)
        return found

    def merged(self, value: Mapping[str, str], old: Mapping[str, str]) -> dict[str, str]:
        """What is there with what is new, whichever keys count."""
        return {key: self.checked(key, text) for key, text in {**old, **value}.items()}

    def complete(self, kind: str, value: Mapping[str, str]) -> dict[str, str]:
        """The keys that count, and no others; none where no map belongs to that value."""
        known = self.keys.get(kind, ())
        return {key: self.checked(key, value.get(key, self.checks[key][1])) for key in known}

    def assert_known(self, kind: str, value: Mapping[str, str]) -> None:
        """Raise for keys that do not count, where any do."""
        for key, text in value.items() if kind in self.keys else ():
            self.checked(key, text, self.keys[kind])


_TIMES: dict[str, tuple[Check, str]] = {
    "min": (lambda value: spelled(value, MINUTES), MINUTES[0]),
    "hour": (_within(range(24)), "0"),
    "days": (_days, DAYS[0]),
}
_PLACE: dict[str, tuple[Check, str]] = dict.fromkeys(("location", "username", SECRET), (_any, ""))
_MAIL: dict[str, tuple[Check, str]] = {
    **dict.fromkeys(("email_address", "smtp_server"), (_any, "")),
    "smtp_port": (_within(range(1, 65536)), "25"),
}
BACKUP = Settings("backup-schedule", _TIMES, KEYS)
ARCHIVE = Settings("archive-schedule", _TIMES, {kind: KEYS[kind] for kind in ("daily", "weekly")})
TARGET = Settings("archive-target-config", _PLACE, {"cifs": ("location", "username", SECRET), "nfs": ("location",)})
ALARM = Settings("alarm-config", _MAIL, {"true": ("email_address", "smtp_server", "smtp_port")})


# --- what goes together


def _row(call: Call, ref: str) -> Row:
    _assert_licensed(call)
    return call.db.get("VMPP", ref)


def _assert_licensed(call: Call) -> None:
    if restricted(call, "VMPR"):
        raise refuse("LICENCE_RESTRICTION")


def _assert_no_oftener(archive: str, backup: str) -> None:
    """Raise where more would be archived than is made."""
    if archive in OFTEN and backup in OFTEN and OFTEN.index(archive) < OFTEN.index(backup):
        raise refuse("VMPP_ARCHIVE_MORE_FREQUENT_THAN_BACKUP")


def _assert_retained(value: int) -> None:
    if value not in RETAINED:
        raise refuse("INVALID_VALUE", "backup_retention_value", value)


def _archiving(
    frequency: str, kind: str, target: Mapping[str, str], schedule: Mapping[str, str]
) -> tuple[dict[str, str], dict[str, str]]:
    """Where and when is archived, as it must be for a frequency and a type of target."""
    if kind == "none":
        if frequency != "never":
            raise refuse("INVALID_VALUE", "archive_target_type", kind)
        return {}, {}
    if frequency == "never":
        return dict(target), {}
    return TARGET.complete(kind, target), ARCHIVE.complete(frequency, schedule)


def _to_secret(call: Call, value: Mapping[str, str], old: Mapping[str, str]) -> dict[str, str]:
    """`value` with its password moved to a secret: that of the `old` one, if it has any."""
    if SECRET not in value:
        return dict(value)
    found = call.db.by_uuid.get(old.get(SECRET, ""))
    if found is None or found[0] != "secret":
        secret = passwords.make_secret(call, value[SECRET])
    else:
        secret = call.db.get(*found)
        if value[SECRET] != secret["uuid"]:
            call.db.write(secret, value=value[SECRET])
    return {**value, SECRET: secret["uuid"]}


def _drop_secret(call: Call, target: Mapping[str, str]) -> None:
    found = call.db.by_uuid.get(target.get(SECRET, ""))
    if found is not None and found[0] == "secret":
        call.db.delete(call.db.get(*found))


# --- policies


@verb("*", "secret.*")
def create(call: Call, args: dict[str, Any]) -> str:
    _assert_licensed(call)
    often, archived = args.get("backup_frequency", "daily"), args.get("archive_frequency", "never")
    kind, alarms = args.get("archive_target_type", "none"), bool(args.get("is_alarm_enabled", False))
    target, alarm = args.get("archive_target_config", {}), args.get("alarm_config", {})
    BACKUP.assert_known(often, args.get("backup_schedule", {}))
    ARCHIVE.assert_known(archived, args.get("archive_schedule", {}))
    TARGET.assert_known(kind, target)
    ALARM.assert_known("true" if alarms else "", alarm)
    backup = BACKUP.complete(often, args.get("backup_schedule", {}))
    target, archive = _archiving(archived, kind, target, args.get("archive_schedule", {}))
    alarm = ALARM.complete("true", alarm) if alarms else alarm
    target = TARGET.complete(kind, target)
    _assert_no_oftener(archived, often)
    _assert_retained(args.get("backup_retention_value", 7))
    fields = {"backup_schedule": backup, "archive_schedule": archive, "alarm_config": alarm}
    return make(call, "VMPP", args, **fields, archive_target_config=_to_secret(call, target, {})).ref


@verb("*", "secret.*", "message.*")
def destroy(call: Call, ref: str) -> str:
    """The policy with the messages about it; it must have no VMs."""
    row = call.db.get("VMPP", ref)
    if row["VMs"]:
        raise refuse("VMPP_HAS_VM")
    _drop_secret(call, row["archive_target_config"])
    for message in call.pool.messages.about(row["uuid"]):
        call.pool.messages.drop(call.db, message)
    call.db.delete(row)
    return ""


@verb("backup_frequency", "backup_schedule")
def set_backup_frequency(call: Call, ref: str, value: str) -> str:
    row = _row(call, ref)
    _assert_no_oftener(row["archive_frequency"], value)
    call.db.write(row, backup_frequency=value, backup_schedule=BACKUP.complete(value, row["backup_schedule"]))
    return ""


@verb("archive_frequency", "archive_target_config", "archive_schedule")
def set_archive_frequency(call: Call, ref: str, value: str) -> str:
    row = _row(call, ref)
    _assert_no_oftener(value, row["backup_frequency"])
    old = row["archive_target_config"], row["archive_schedule"]
    target, schedule = _archiving(value, row["archive_target_type"], *old)
    call.db.write(row, archive_frequency=value, archive_target_config=target, archive_schedule=schedule)
    return ""


@verb("archive_target_type", "archive_target_config", "archive_frequency", "archive_schedule")
def set_archive_target_type(call: Call, ref: str, value: str) -> str:
    """Without a target nothing is archived."""
    row = _row(call, ref)
    none = {"archive_frequency": "never", "archive_schedule": {}} if value == "none" else {}
    config = TARGET.complete(value, row["archive_target_config"])
    call.db.write(row, archive_target_type=value, archive_target_config=config, **none)
    return ""


@verb("is_alarm_enabled", "alarm_config")
def set_is_alarm_enabled(call: Call, ref: str, value: bool) -> str:
    row = _row(call, ref)
    config = ALARM.complete("true", row["alarm_config"]) if value else row["alarm_config"]
    call.db.write(row, is_alarm_enabled=value, alarm_config=config)
    return ""


@verb("backup_retention_value")
def set_backup_retention_value(call: Call, ref: str, value: int) -> str:
    row = _row(call, ref)
    _assert_retained(value)
    call.db.write(row, backup_retention_value=value)
    return ""


def _setter(name: str) -> None:
    """A verb that sets a field to whatever it is given."""

    def set_field(call: Call, ref: str, value: bool | Timestamp) -> str:
        call.db.write(_row(call, ref), **{name: value})
        return ""

    set_field.__name__ = f"set_{name}"
    verb(name)(set_field)


for _name in ("is_backup_running", "is_archive_running", "backup_last_run_time", "archive_last_run_time"):
    _setter(_name)


# --- their maps


def _verbs_of_map(name: str, settings: Settings, *, merges: bool) -> None:
    """The verbs of a map. A schedule that is set keeps what is not named; any other map is replaced, though what it had is
    checked once more."""

    def set_map(call: Call, ref: str, value: dict[str, str]) -> str:
        row = _row(call, ref)
        merged = settings.merged(value, row[name])
        call.db.write(row, **{name: merged if merges else _to_secret(call, value, row[name])})
        return ""

    def add_to(call: Call, ref: str, key: str, value: str) -> str:
        row = _row(call, ref)
        text = settings.merged({key: value}, row[name])[key]
        new = _to_secret(call, {key: text}, row[name])
        if key in row[name]:
            raise refuse("MAP_DUPLICATE_KEY", "VMPP", name, ref, key)
        call.db.write(row, **{name: {**new, **row[name]}})
        return ""

    def remove_from(call: Call, ref: str, key: str) -> str:
        row = _row(call, ref)
        if settings is TARGET and key in row[name]:
            _drop_secret(call, {key: row[name][key]})
        call.db.write(row, **{name: {word: text for word, text in row[name].items() if word != key}})
        return ""

    writes = (name, "secret.*") if settings is TARGET else (name,)
    for word, function in (("set_", set_map), ("add_to_", add_to), ("remove_from_", remove_from)):
        function.__name__ = f"{word}{name}"
        verb(*writes)(function)


_verbs_of_map("backup_schedule", BACKUP, merges=True)
_verbs_of_map("archive_schedule", ARCHIVE, merges=True)
_verbs_of_map("archive_target_config", TARGET, merges=False)
_verbs_of_map("alarm_config", ALARM, merges=False)


# --- alerts


@verb("recent_alerts", "message.*")
def create_alert(call: Call, ref: str, name: str, priority: int, body: str, data: str) -> str:
    """What came of a run: `data` is kept with the policy; of a failure operators are told in a message."""
    _alert(call, _row(call, ref), name, priority, body, data)
    return ""


def _alert(call: Call, row: Row, name: str, priority: int, body: str, data: str) -> None:
    call.db.write(row, recent_alerts=[data, *row["recent_alerts"]][:RECENT])
    call.pool.alerts.append((call.clock.now(), row["uuid"], data))
    if priority >= FAILED:
        text = f"<message><email>{escape(body)}</email><data>{data}</data></message>"
        messages.post(call.pool, name, priority=priority, cls="VMPP", uuid=row["uuid"], body=text)


@verb()
def get_alerts(call: Call, ref: str, hours: int) -> list[str]:
    """The data of the policy's alerts of so many hours, the newest first; what is not packed as it should be is left out."""
    uuid, since = call.db.get("VMPP", ref)["uuid"], call.clock.now() - hours * 3600
    told = [data for at, of, data in reversed(call.pool.alerts) if of == uuid and at >= since]
    return [text for text in map(_unpacked, told) if text is not None]


def _unpacked(data: str) -> str | None:
    try:
        return gzip.decompress(base64.b64decode(data)).decode().replace("\n", "")
    except (ValueError, OSError, EOFError, zlib.error):
        return None


def _packed(text: str) -> str:
    return base64.b64encode(gzip.compress(text.encode(), mtime=0)).decode()


# --- taking the snapshots


@verb("is_backup_running", "backup_last_run_time", "recent_alerts", "VM.is_snapshot_from_vmpp", "message.*")
def protect_now(call: Call, ref: str) -> Steps:
    """Take the snapshots as if they were due: of one VM after the other, and of each only the newest stay. What goes wrong
    with a VM is told in an alert, and the next one has its turn."""
    row = _row(call, ref)
    if row["is_backup_running"]:
        _tell(call, row, "VMPP_SNAPSHOT_LOCK_FAILED", FAILED, "")
        return "False"
    failed = []
    call.db.write(row, is_backup_running=True)
    try:
        for vm in list(row["VMs"]):
            try:
                yield from take(call, row, call.db.get("VM", vm), row["backup_type"], "is_snapshot_from_vmpp")
                yield from thin_out(call, vm, "is_snapshot_from_vmpp", row["backup_retention_value"])
            except Failure as error:
                failed.append(f"{vm}: {error.code}")
    finally:
        if call.db.find("VMPP", ref) is row:
            call.db.write(row, is_backup_running=False, backup_last_run_time=call.clock.stamp())
    if call.db.find("VMPP", ref) is row:
        name = "VMPP_SNAPSHOT_FAILED" if failed else "VMPP_SNAPSHOT_SUCCEEDED"
        _tell(call, row, name, FAILED if failed else 1, ", ".join(failed))
    return str(not failed)


def _tell(call: Call, row: Row, name: str, priority: int, text: str) -> None:
    data = _packed(f"<alert><name>{name}</name><vmpp>{row['uuid']}</vmpp><text>{escape(text)}</text></alert>")
    _alert(call, row, name, priority, text or name, data)
