"""The disks of high availability: the state file, and those to which each change of the pool's database is written."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from xenctl.errors import Failure

from . import rules, vdis
from .call import Call, Steps, refuse
from .storage_drivers import capabilities
from .storage_rules import pbds_of
from .store import Row

MIB = 1 << 20
GRAIN = 4 * MIB
"""Bytes that the room for these disks is counted in."""


@dataclass(frozen=True)
class Kind:
    """One kind of disk: its type, name and description, and the bytes that it has at least."""

    type: str
    label: str
    description: str
    size: int


def kind(call: Call, name: str) -> Kind:
    """The disk that is a `statefile`, or holds the `metadata` of a pool with high availability, or the `redo_log` of one
    without."""
    if name == "statefile":
        return Kind("ha_statefile", "Statefile for HA", "Used for storage heartbeating", 65 * 4096)
    size = 3804 * MIB if call.at_least(rules.NILE) else 256 * MIB
    if name == "metadata":
        return Kind("redo_log", "Metadata for HA", "Used for master failover", size)
    text = "Used when HA is disabled, while extra security is still desired"
    return Kind("redo_log", "Metadata redo-log", text, size)


def assert_everywhere(call: Call, sr: Row) -> None:
    """Raise where a host does not have the storage plugged."""
    pbds = pbds_of(call.db, sr)
    connected = {pbd["host"] for pbd in pbds if pbd["currently_attached"]}
    if len(connected) < max(len(pbds), len(call.db.table("host"))):
        raise refuse("SR_HAS_NO_PBDS", sr.ref)


def assert_can_host(call: Call, sr: Row) -> None:
    """Raise where storage cannot hold what high availability needs."""
    assert_everywhere(call, sr)
    if not {"VDI_GENERATE_CONFIG", "VDI_ATTACH_OFFLINE"} & capabilities(call.db, sr["type"]):
        raise refuse("SR_OPERATION_NOT_SUPPORTED", sr.ref)
    kinds = kind(call, "statefile"), kind(call, "metadata")
    free = sr["physical_size"] - sr["physical_utilisation"]
    missing = any(find(call, sr, wanted) is None for wanted in kinds)
    if call.at_least(rules.NILE) and missing and free < sum(-(-wanted.size // GRAIN) * GRAIN for wanted in kinds):
        raise refuse("SR_SOURCE_SPACE_INSUFFICIENT", sr.ref)


def able(call: Call) -> list[Row]:
    """The storage that can hold what high availability needs."""
    out = []
    for sr in call.db.table("SR").values():
        try:
            assert_can_host(call, sr)
        except Failure:
            continue
        out.append(sr)
    return out


def find(call: Call, sr: Row, wanted: Kind) -> Row | None:
    """A disk of a kind that is there already: it is used again, so that nobody takes another for it."""
    for vdi in (call.db.find("VDI", ref) for ref in sr["VDIs"]):
        if vdi is not None and vdi["type"] == wanted.type and vdi["virtual_size"] >= wanted.size:
            return vdi
    return None


def find_or_create(call: Call, sr: Row, wanted: Kind) -> Steps:
    """The disk of a kind on `sr`: returns its row."""
    found = find(call, sr, wanted)
    if found is not None:
        return found
    args: dict[str, Any] = {
        "name_label": wanted.label,
        "name_description": wanted.description,
        "type": wanted.type,
        "virtual_size": wanted.size,
        "sharable": True,
        "read_only": False,
        "other_config": {},
        "sm_config": {"type": "raw"},
    }
    return (yield from vdis.create(call, sr, args, full=True))
