"""What each type of storage can do, as a table: the plugins that a release of the product has, and their capabilities.

Rows of class `SM` tell it where they are there, for a loaded pool is what it says; the table makes the rows of a new pool
and stands in where a release or a dump tells nothing (`SM.capabilities` came with 4.1, `SM.features` with 6.2).
Sources: the public plugins of 2013 and later, and what release notes say of the time before.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Any

from xenctl.releases import Release, find

if TYPE_CHECKING:
    from .store import Row, Store

MIB = 1 << 20

_DISK = "VDI_CREATE VDI_DELETE VDI_ATTACH VDI_DETACH "
_MODERN = "VDI_CLONE VDI_SNAPSHOT VDI_RESIZE VDI_UPDATE VDI_MIRROR VDI_RESET_ON_BOOT VDI_CONFIG_CBT "
_LUN = "SR_PROBE SR_UPDATE SR_METADATA SR_TRIM VDI_GENERATE_CONFIG " + _DISK + _MODERN


@dataclass(frozen=True)
class Driver:
    """One plugin: its name, its capabilities, whether a disk takes all of its size at once, the bytes that sizes are
    multiples of, and the first release that has it and the first that has not."""

    label: str
    capabilities: str
    thick: bool = False
    grain: int = 2 * MIB
    since: str = "4.0.1"
    until: str = ""


DRIVERS: dict[str, Driver] = {
    "lvm": Driver("Local VHD on LVM", "SR_PROBE SR_UPDATE SR_TRIM " + _DISK + _MODERN, thick=True, grain=4 * MIB),
    "lvmoiscsi": Driver("VHD over iSCSI", _LUN, thick=True, grain=4 * MIB),
    "lvmohba": Driver("VHD over HBA", _LUN, thick=True, grain=4 * MIB),
    "ext": Driver("Local EXT3 VHD", "SR_PROBE SR_UPDATE SR_SUPPORTS_LOCAL_CACHING " + _DISK + _MODERN),
    "nfs": Driver("NFS VHD", "SR_PROBE SR_UPDATE SR_CACHING VDI_GENERATE_CONFIG " + _DISK + _MODERN),
    "smb": Driver("SMB VHD", "SR_PROBE SR_UPDATE SR_CACHING VDI_GENERATE_CONFIG " + _DISK + _MODERN, since="7.0.0"),
    "file": Driver("File VHD", "SR_PROBE SR_UPDATE " + _DISK + "VDI_CLONE VDI_SNAPSHOT VDI_RESIZE"),
    "iso": Driver("ISO", "SR_SCAN SR_ATTACH SR_DETACH " + _DISK, grain=1),
    "udev": Driver("udev", "SR_UPDATE VDI_ATTACH VDI_DETACH VDI_INTRODUCE VDI_UPDATE", grain=1),
    "iscsi": Driver("iSCSI", "SR_PROBE VDI_INTRODUCE " + _DISK, thick=True, grain=1),
    "hba": Driver("HBA LUN-per-VDI driver", "SR_PROBE VDI_INTRODUCE " + _DISK, thick=True, grain=1, since="5.0.0"),
    "netapp": Driver(
        "NetApp", "SR_PROBE VDI_CLONE VDI_SNAPSHOT VDI_RESIZE " + _DISK, since="4.1.0", until="7.0.0", grain=4 * MIB
    ),
    "equal": Driver(
        "Equallogic", "SR_PROBE VDI_CLONE VDI_SNAPSHOT VDI_RESIZE " + _DISK, since="5.0.0", until="7.0.0", grain=4 * MIB
    ),
}

IN_VHDS = frozenset("lvm lvmoiscsi lvmohba ext nfs smb file".split())
"""The storage that keeps its disks as VHDs."""

CAME_WITH: dict[str, str] = {
    "VDI_RESET_ON_BOOT": "5.6.100",
    "SR_CACHING": "5.6.100",
    "SR_SUPPORTS_LOCAL_CACHING": "5.6.100",
    "SR_METADATA": "6.0.0",
    "VDI_MIRROR": "6.1.0",
    "SR_TRIM": "6.5.0",
    "VDI_CONFIG_CBT": "7.3.0",
}
"""The release that a capability came with."""

SNAPSHOTS_CAME_WITH: dict[str, str] = {"lvm": "5.5.0", "lvmoiscsi": "5.5.0", "lvmohba": "5.5.0", "ext": "4.1.0"}
"""When disks of a type became VHDs, which can be snapshotted and cloned; those that are not named always could."""

VERSIONS = {"VDI_RESET_ON_BOOT": 2}
"""The versions of features that are not 1."""

_ANY = Driver("unknown", "", grain=1)


def driver(kind: str) -> Driver:
    """The plugin for storage of type `kind`; one without any capability for a type that is not known."""
    return DRIVERS.get(kind, _ANY)


@cache
def capabilities_in(release: Release, kind: str) -> frozenset[str]:
    """What the plugin for `kind` can do in `release`; nothing where the release has none."""
    plugin = driver(kind)
    if release < find(plugin.since) or (plugin.until and release >= find(plugin.until)):
        return frozenset()
    late = SNAPSHOTS_CAME_WITH.get(kind, "4.0.1")
    came = {**CAME_WITH, "VDI_SNAPSHOT": late, "VDI_CLONE": late}
    return frozenset(name for name in plugin.capabilities.split() if release >= find(came.get(name, "4.0.1")))


def keeps_vhds(kind: str) -> bool:
    """Whether storage of type `kind` keeps its disks as VHDs, since 5.5 at the latest."""
    return kind in IN_VHDS


def supported_types(store: Store) -> list[str]:
    """The types of storage that there are plugins for."""
    known = {row["type"] for row in store.table("SM").values()}
    return sorted(known or (kind for kind in DRIVERS if capabilities_in(store.release, kind)))


def capabilities(store: Store, kind: str) -> frozenset[str]:
    """What storage of type `kind` can do in this pool."""
    for row in store.table("SM").values():
        if row["type"] == kind:
            told = row.get("features") or row.get("capabilities")
            return frozenset(told) if told else capabilities_in(store.release, kind)
    return capabilities_in(store.release, kind)


def rows(release: Release) -> Iterator[dict[str, Any]]:
    """The fields of the `SM` rows of a pool of `release`."""
    for kind, plugin in DRIVERS.items():
        names = sorted(capabilities_in(release, kind))
        if names:
            yield {
                "type": kind,
                "name_label": plugin.label,
                "name_description": f"SR plugin for storage of type {kind}",
                "vendor": "mockserver",
                "copyright": "",
                "version": "1.0",
                "required_api_version": "1.1",
                "driver_filename": f"/opt/xensource/sm/{kind.upper()}SR",
                "capabilities": names,
                "features": {name: VERSIONS.get(name, 1) for name in names},
            }


def register(store: Store, new_ref: Callable[[], str], new_uuid: Callable[[], str]) -> None:
    """What a toolstack of a new release does when it starts: it writes down its plugins and what they can."""
    known = {row["type"]: row for row in store.table("SM").values()}
    for fields in rows(store.release):
        row = known.get(fields["type"])
        if row is None:
            store.create("SM", new_ref(), {"uuid": new_uuid(), **fields})
        else:
            told = row.get("capabilities", [])
            features = {**fields["features"], **row.get("features", {})}
            store.write(row, capabilities=sorted({*told, *fields["capabilities"]}), features=features)


def rounded(kind: str, size: int) -> int:
    """The size that a disk gets where `size` bytes are asked for."""
    grain = driver(kind).grain
    return -(-size // grain) * grain


def taken(kind: str, size: int) -> int:
    """Bytes that a fresh disk of `size` bytes takes of its storage: all of them, or what an empty VHD takes."""
    return size if driver(kind).thick else min(size, 2 * MIB)


def is_tools_sr(sr: Row) -> bool:
    """Whether a storage repository holds the tools' ISO image, which comes with the product."""
    return bool(sr.get("is_tools_sr")) or sr["other_config"].get("xenserver_tools_sr") == "true"
