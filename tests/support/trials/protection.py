"""Policies that protected VMs were gone before 7.0; `test_vm_protection` has them do what they declare."""

from __future__ import annotations

_MAPS = ("backup_schedule", "archive_schedule", "archive_target_config", "alarm_config")
_FIELDS = (
    "backup_frequency archive_frequency archive_target_type is_alarm_enabled backup_retention_value is_backup_running "
    "is_archive_running backup_last_run_time archive_last_run_time"
).split()
ELSEWHERE = {
    *("VMPP.create", "VMPP.destroy", "VMPP.create_alert", "VMPP.protect_now"),
    *(f"VMPP.{verb}_{name}" for verb in ("set", "add_to", "remove_from") for name in _MAPS),
    *(f"VMPP.set_{name}" for name in _FIELDS),
}

PROBED: dict[str, str] = {
    "VMPP.get_alerts": "test_vm_protection.py::test_alerts_are_found_by_how_old_they_are",
}
