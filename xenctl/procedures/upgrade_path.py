"""The way from one release to another that no installer goes at once: hops, and what each needs beside the upgrade itself.

Each hop is a rolling upgrade of its own, whole before the next begins. A host's backup partition holds one generation, so
with a second hop the way back to where the first began is gone.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from ..releases import XENSERVER, Release, Version, path

WHEN = BEFORE, RULE, AFTER = "before", "rule", "after"


@dataclass(frozen=True)
class Special:
    """Something that a hop needs. `when` is `before` the hop, `after` it, or a `rule` of the installer that decides; `at` is
    the version that brings it: it concerns the hop that crosses it. `final` marks a point of no return."""

    at: Version
    when: str
    text: str
    final: bool = False
    only: str = ""


SPECIALS = (
    Special(
        *((4, 1, 0), BEFORE),
        "write down each host's network files and bonds that were made by hand: installers up to 5.0 do not carry them over",
    ),
    Special(
        *((4, 1, 0), AFTER),
        "VHD files of file-based storage may be brought to the new format with vhd-update, one by one, with a journal, "
        "while no VM uses them; a file that was interrupted is unusable until vhd-update -r has rolled it back",
    ),
    Special((4, 1, 0), BEFORE, "no VM may be suspended: one with a CD could only be shut down by force afterwards"),
    Special(
        *((5, 0, 0), BEFORE),
        "write down each host's network files and bonds that were made by hand: this installer does not carry them over",
    ),
    Special((5, 0, 0), RULE, "the installer converts the pool database; the restore needs 4.1 again"),
    Special(
        *((5, 5, 0), AFTER),
        "when every host runs 5.5, LVM storage needs `xe-lvm-upgrade SR` for snapshots and fast clones; it takes 4 MB of "
        "free space",
        True,
    ),
    Special((5, 6, 0), AFTER, "VMs get a dynamic memory range: look at it before anything lets memory shrink"),
    Special((6, 0, 0), AFTER, "from 6.0 on hosts can install themselves (--hands plugin:URL)"),
    Special(
        *((6, 1, 0), BEFORE),
        "detach StorageLink gateway storage, and make another SR the default; hosts that boot from SAN cannot be upgraded",
    ),
    Special((6, 2, 0), BEFORE, "VM protection policies (VMPR), workload balancing and StorageLink are gone in 6.2"),
    Special((6, 2, 0), AFTER, "the licence model changes: without a licence the product is free, without support"),
    Special(
        *((7, 0, 0), RULE),
        "the new disk layout needs room: the installer keeps the old one where local storage or a utility partition is in "
        "the way, and erases local storage only when told that it is safe (safe2upgrade)",
    ),
    Special((7, 0, 0), AFTER, "install the new guest tools; old TLS may be switched off (pool.disable_ssl_legacy)"),
    Special((8, 1, 0), BEFORE, "paravirtualised (PV) guests are no longer supported: convert or retire them"),
    Special(
        (8, 2, 0), BEFORE, "the vSwitch controller, power-on by iLO and legacy SSL are gone: switch them off first"
    ),
    Special((8, 2, 1), RULE, "paravirtualised (PV) guests do not start any more"),
    Special(
        *((8, 3, 0), RULE),
        "the installer refuses a DOS partition table and the old disk layout",
    ),
    Special((8, 3, 0), BEFORE, "XCP-ng recommends to go by way of 8.2.1; clustering must be off", only="XCP-ng"),
    Special((8, 4, 0), RULE, "the installer refuses a DOS partition table and the old disk layout", only=XENSERVER),
    Special((8, 4, 0), BEFORE, "the end user agreement has to be accepted; pending updates come first", only=XENSERVER),
)
"""What releases brought that concerns whoever upgrades to them or past them."""


@dataclass(frozen=True)
class Hop:
    """One rolling upgrade of a longer way."""

    source: Release
    target: Release
    specials: tuple[Special, ...]

    def as_dict(self) -> Mapping[str, Any]:
        """The hop as plain values."""
        specials = [{k: v for k, v in asdict(s).items() if k in ("when", "text", "final")} for s in self.specials]
        return {"from": self.source.name, "to": self.target.name, "specials": specials}


def hops(source: Release, target: Release) -> list[Hop]:
    """The hops from `source` to `target`, as few as can be. Raises `ValueError` where no chain of upgrades leads there."""
    at, out = source, []
    for step in path(source, target):
        crossed = (s for s in SPECIALS if at.version < s.at <= step.version and s.only in ("", step.product_brand))
        out.append(Hop(at, step, tuple(sorted(crossed, key=lambda special: WHEN.index(special.when)))))
        at = step
    return out


def no_return(source: Release, target: Release) -> list[str]:
    """The points of no return of one hop: what ends the way back, one sentence each."""
    crossed = (s for s in SPECIALS if source.version < s.at <= target.version and s.only in ("", target.product_brand))
    partition = (
        f"a host that is upgraded keeps {source.product_version} on its backup partition, and nothing older: the way back "
        "leads there and no further, until another upgrade overwrites that"
    )
    disks = "a disk that is moved, resized or deleted from then on is not as a pool that goes back knows it"
    return [partition, disks, *(special.text for special in crossed if special.final)]
