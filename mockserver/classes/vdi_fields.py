"""What is said of disks: fields that storage is told, that only its plugin may write, and that need a VM at rest."""

from __future__ import annotations

from typing import Any

from .. import storage_rules, volumes
from ..call import Call, refuse
from ..storage_drivers import capabilities
from ..vdis import sr_of
from . import verbs_of

verb = verbs_of("VDI")

OF_PLUGINS = (
    "sharable managed read_only missing virtual_size physical_utilisation is_a_snapshot snapshot_of snapshot_time "
    "metadata_of_pool cbt_enabled".split()
)
"""The fields that a disk's own plugin writes, and no other client."""


def _told_by_plugin(field: str) -> None:
    def set_field(call: Call, ref: str, value: Any) -> str:
        row = call.db.get("VDI", ref)
        volumes.assert_from_plugin(call, row["SR"])
        if field == "metadata_of_pool" and row["type"] == "cbt_metadata":
            raise storage_rules.wrong_type(row)
        call.db.write(row, **{field: value})
        return ""

    set_field.__name__ = f"set_{field}"
    verb(field)(set_field)


def _named(field: str) -> None:
    def set_name(call: Call, ref: str, value: str) -> str:
        row = call.db.get("VDI", ref)
        if volumes.reaches_backend(call):
            volumes.serving(call, sr_of(call, row))
        call.db.write(row, **{field: value})
        return ""

    set_name.__name__ = f"set_{field}"
    verb(field)(set_name)


for _field in OF_PLUGINS:
    _told_by_plugin(_field)
for _field in ("name_label", "name_description"):
    _named(_field)


@verb("on_boot", *volumes.MARKS)
def set_on_boot(call: Call, ref: str, value: str) -> str:
    row = call.db.get("VDI", ref)
    volumes.assert_halted_users(call, row)
    sr = sr_of(call, row)
    with volumes.held(call, sr=(sr, "vdi_set_on_boot"), vdi=(row, "set_on_boot")):
        if "VDI_RESET_ON_BOOT" not in capabilities(call.db, sr["type"]):
            raise refuse("SR_OPERATION_NOT_SUPPORTED", sr.ref)
        volumes.serving(call, sr)
        call.db.write(row, on_boot=value)
    return ""


@verb("allow_caching")
def set_allow_caching(call: Call, ref: str, value: bool) -> str:
    row = call.db.get("VDI", ref)
    volumes.assert_halted_users(call, row)
    call.db.write(row, allow_caching=value)
    return ""
