"""Policies that protected VMs, from 5.6 FP1 to 6.1: what they may hold, the snapshots that they take, and their alerts."""

from __future__ import annotations

import base64
import gzip
from collections.abc import Callable
from typing import Any

import pytest

Make = Callable[..., Any]


@pytest.fixture
def c(calls: Make) -> Any:
    return calls(release="6.1", hosts=1, vms=4)


def policy(c: Any, **fields: Any) -> Any:
    """A policy that is made with these fields."""
    return c.pool.store.get("VMPP", c("VMPP.create", {"name_label": "nightly", "name_description": "", **fields}))


def packed(text: str) -> str:
    return base64.b64encode(gzip.compress(text.encode())).decode()


# --- what a policy holds


@pytest.mark.parametrize(
    ("frequency", "given", "kept"),
    [
        ("hourly", {}, {"min": "0"}),
        ("daily", {"hour": "3"}, {"hour": "3", "min": "0"}),
        ("weekly", {"days": "monday,Sunday", "min": "15"}, {"hour": "0", "min": "15", "days": "Monday,Sunday"}),
    ],
)
def test_a_schedule_has_the_keys_of_its_frequency(c: Any, frequency: str, given: Any, kept: Any) -> None:
    """What is missing has a default, and days are spelled as XenAPI does."""
    assert policy(c, backup_frequency=frequency, backup_schedule=given)["backup_schedule"] == kept


@pytest.mark.parametrize(
    ("fields", "error"),
    [
        ({"backup_frequency": "hourly", "backup_schedule": {"hour": "3"}}, ["backup-schedule:hour", "3"]),
        ({"backup_schedule": {"min": "7"}}, ["backup-schedule:min", "7"]),
        ({"backup_schedule": {"hour": "24"}}, ["backup-schedule:hour", "24"]),
        ({"backup_retention_value": 11}, ["backup_retention_value", "11"]),
        ({"archive_frequency": "daily"}, ["archive_target_type", "none"]),
        ({"archive_target_type": "nfs", "archive_target_config": {"x": "y"}}, ["archive-target-config:x", "y"]),
        ({"is_alarm_enabled": True, "alarm_config": {"smtp_port": "0"}}, ["alarm-config:smtp_port", "0"]),
    ],
)
def test_a_policy_that_makes_no_sense_is_not_made(c: Any, fields: Any, error: list[str]) -> None:
    """The error says which key, and what was there."""
    record = {"name_label": "nightly", "name_description": "", **fields}
    assert c.refused("VMPP.create", record) == ["INVALID_VALUE", *error]
    assert not c.pool.store.table("VMPP")


def test_no_more_is_archived_than_is_made(c: Any) -> None:
    """However the two frequencies come to be."""
    code = ["VMPP_ARCHIVE_MORE_FREQUENT_THAN_BACKUP"]
    target = {"archive_target_type": "nfs", "archive_target_config": {"location": "a:/b"}}
    row = policy(c, backup_frequency="daily", archive_frequency="daily", **target)
    assert c.refused("VMPP.set_backup_frequency", row.ref, "weekly") == code
    c("VMPP.set_archive_frequency", row.ref, "weekly")
    c("VMPP.set_backup_frequency", row.ref, "weekly")
    assert c.refused("VMPP.set_archive_frequency", row.ref, "daily") == code
    assert set(row["archive_schedule"]) == set(row["backup_schedule"]) == {"hour", "min", "days"}


def test_without_a_target_nothing_is_archived(c: Any) -> None:
    """What a type of target does not know is dropped."""
    row = policy(c, archive_target_type="cifs", archive_target_config={"location": "a"}, archive_frequency="daily")
    assert set(row["archive_target_config"]) == {"location", "username", "password"}
    c("VMPP.set_archive_target_type", row.ref, "nfs")
    assert row["archive_target_config"] == {"location": "a"}
    assert row["archive_frequency"] == "daily"
    c("VMPP.set_archive_target_type", row.ref, "none")
    assert (row["archive_target_config"], row["archive_frequency"], row["archive_schedule"]) == ({}, "never", {})


def test_the_password_of_an_archive_is_a_secret(c: Any) -> None:
    """Which is changed with it, and goes with it."""
    config = {"location": "a", "username": "b", "password": "one"}
    row = policy(c, archive_target_type="cifs", archive_target_config=config)
    (secret,) = c.pool.store.table("secret").values()
    assert (row["archive_target_config"]["password"], secret["value"]) == (secret["uuid"], "one")
    c("VMPP.set_archive_target_config", row.ref, {**config, "password": "two"})
    assert (list(c.pool.store.table("secret").values()), secret["value"]) == ([secret], "two")
    c("VMPP.remove_from_archive_target_config", row.ref, "password")
    assert not c.pool.store.table("secret")
    c("VMPP.add_to_archive_target_config", row.ref, "password", "three")
    assert len(c.pool.store.table("secret")) == 1
    c("VMPP.destroy", row.ref)
    assert not c.pool.store.table("secret")


def test_the_maps_of_a_policy_are_changed_key_by_key(c: Any) -> None:
    """A schedule that is set keeps what is not named; what a key may be does not depend on the frequency then."""
    row = policy(c)
    c("VMPP.set_backup_schedule", row.ref, {"days": "friday"})
    assert row["backup_schedule"] == {"hour": "0", "min": "0", "days": "Friday"}
    error = c.refused("VMPP.add_to_backup_schedule", row.ref, "min", "15")
    assert error == ["MAP_DUPLICATE_KEY", "VMPP", "backup_schedule", row.ref, "min"]
    c("VMPP.remove_from_backup_schedule", row.ref, "min")
    c("VMPP.add_to_backup_schedule", row.ref, "min", "15")
    assert row["backup_schedule"]["min"] == "15"
    assert c.refused("VMPP.add_to_alarm_config", row.ref, "x", "y") == ["INVALID_VALUE", "alarm-config:x", "y"]
    c("VMPP.set_is_alarm_enabled", row.ref, True)
    assert row["alarm_config"] == {"email_address": "", "smtp_server": "", "smtp_port": "25"}
    c("VMPP.set_alarm_config", row.ref, {"smtp_server": "mail"})
    assert row["alarm_config"] == {"smtp_server": "mail"}


@pytest.mark.parametrize(
    ("method", "args", "field", "value"),
    [
        ("set_archive_schedule", [{"hour": "4"}], "archive_schedule", {"hour": "4", "min": "0"}),
        ("remove_from_archive_schedule", ["hour"], "archive_schedule", {"min": "0"}),
        (
            "add_to_archive_schedule",
            ["days", "MONDAY"],
            "archive_schedule",
            {"hour": "0", "min": "0", "days": "Monday"},
        ),
        ("set_archive_target_config", [{"location": "c:/d"}], "archive_target_config", {"location": "c:/d"}),
        ("remove_from_alarm_config", ["smtp_port"], "alarm_config", {"email_address": "", "smtp_server": ""}),
        ("set_archive_last_run_time", ["20120101T00:00:00Z"], "archive_last_run_time", "20120101T00:00:00Z"),
        ("set_backup_last_run_time", ["20120101T00:00:00Z"], "backup_last_run_time", "20120101T00:00:00Z"),
        ("set_is_archive_running", [True], "is_archive_running", True),
        ("set_backup_retention_value", [3], "backup_retention_value", 3),
        ("set_is_alarm_enabled", [False], "is_alarm_enabled", False),
    ],
)
def test_a_policy_is_changed_field_by_field(c: Any, method: str, args: list[Any], field: str, value: Any) -> None:
    """Each by a message of its own."""
    target = {"archive_target_type": "nfs", "archive_target_config": {"location": "a:/b"}}
    row = policy(c, archive_frequency="daily", is_alarm_enabled=True, **target)
    c(f"VMPP.{method}", row.ref, *args)
    assert row[field] == value


def test_a_policy_keeps_one_to_ten_snapshots(c: Any) -> None:
    """No more, and some."""
    row = policy(c)
    for value in (0, 11):
        error = c.refused("VMPP.set_backup_retention_value", row.ref, value)
        assert error == ["INVALID_VALUE", "backup_retention_value", str(value)]
    assert row["backup_retention_value"] == 7


def test_a_policy_with_vms_stays(c: Any) -> None:
    """One without takes the messages about it along."""
    row = policy(c)
    c("VM.set_protection_policy", c.vm("vm01").ref, row.ref)
    assert c.refused("VMPP.destroy", row.ref) == ["VMPP_HAS_VM"]
    c("VM.set_protection_policy", c.vm("vm01").ref, "OpaqueRef:NULL")
    c("VMPP.create_alert", row.ref, "VMPP_SNAPSHOT_FAILED", 5, "b", "d")
    assert len(c("message.get_all")) == 1
    c("VMPP.destroy", row.ref)
    assert not c("message.get_all")


# --- runs and alerts


def test_the_snapshots_of_a_policy_are_taken_at_once(c: Any) -> None:
    """Of all its VMs; the oldest go, and what others took stays."""
    row, vm = policy(c, backup_retention_value=2), c.vm("vm01")
    for name in ("vm01", "vm04"):
        c("VM.set_protection_policy", c.vm(name).ref, row.ref)
    mine = c("VM.snapshot", vm.ref, "mine")
    for _ in range(3):
        c.sleep(60)
        assert c("VMPP.protect_now", row.ref) == "True"
        assert row["backup_last_run_time"] == c.pool.clock.stamp()
    taken = [c.pool.store.get("VM", ref) for ref in vm["snapshots"]]
    assert [s["name_label"] == "mine" for s in taken if not s["is_snapshot_from_vmpp"]] == [True]
    assert len(taken) == 3 and mine in vm["snapshots"]
    assert not row["is_backup_running"]
    assert len(row["recent_alerts"]) == 3 and not [
        m for m in c("message.get_all_records").values() if m["cls"] == "VMPP"
    ]


def test_a_vm_that_cannot_be_snapshotted_is_told_of(c: Any) -> None:
    """The others have their turn."""
    row = policy(c)
    for name in ("vm01", "vm02"):
        c("VM.set_protection_policy", c.vm(name).ref, row.ref)
    c("VM.add_to_blocked_operations", c.vm("vm01").ref, "snapshot", "no")
    assert c("VMPP.protect_now", row.ref) == "False"
    assert (len(c.vm("vm01")["snapshots"]), len(c.vm("vm02")["snapshots"])) == (0, 1)
    (message,) = [m for m in c("message.get_all_records").values() if m["cls"] == "VMPP"]
    assert (message["name"], message["obj_uuid"]) == ("VMPP_SNAPSHOT_FAILED", row["uuid"])
    assert "OPERATION_BLOCKED" in message["body"]


def test_a_run_that_goes_on_is_not_begun_twice(c: Any) -> None:
    """The second is told of as a failure."""
    row = policy(c)
    c("VMPP.set_is_backup_running", row.ref, True)
    assert c("VMPP.protect_now", row.ref) == "False"
    assert [m["name"] for m in c("message.get_all_records").values()] == ["VMPP_SNAPSHOT_LOCK_FAILED"]


def test_alerts_are_found_by_how_old_they_are(c: Any) -> None:
    """The newest first; a policy keeps ten, and only failures are messages."""
    row = policy(c)
    for number in range(12):
        c("VMPP.create_alert", row.ref, "name", 5 if number == 11 else 4, "a < b", packed(f"<n>\n{number}</n>"))
        c.sleep(3600)
    c("VMPP.create_alert", row.ref, "name", 4, "", "not packed")
    assert c("VMPP.get_alerts", row.ref, 3) == [f"<n>{number}</n>" for number in (11, 10, 9)]
    assert row["recent_alerts"][0] == "not packed" and len(row["recent_alerts"]) == 10
    (message,) = c("message.get_all_records").values()
    assert message["body"] == f"<message><email>a &lt; b</email><data>{row['recent_alerts'][1]}</data></message>"


@pytest.mark.parametrize(("release", "code"), [("5.6", "MESSAGE_METHOD_UNKNOWN"), ("6.2", "MESSAGE_REMOVED")])
def test_policies_were_there_from_5_6_fp1_to_6_1(calls: Make, release: str, code: str) -> None:
    """Later releases know that they knew."""
    c = calls(release=release, hosts=1)
    assert c.refused("VMPP.create", {"name_label": "n", "name_description": ""})[0] == code
