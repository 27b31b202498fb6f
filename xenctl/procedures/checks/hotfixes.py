"""The hotfixes that the vendor's wizard wants on hosts before they install themselves: each renews the upgrade plugin of one
line of releases.

The uuids are those that the wizard looks for; a package that was published anew got another one. A host without the hotfix
still installs what its plugin takes, so that this warns, and `medium` tells what the plugin refuses.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from ...releases import XENSERVER, Release, Version
from ..observe import HostFacts
from .finding import WARNS, Check, Found
from .survey import Situation

UPDATES_SINCE = (7, 1, 0)
"""The first version whose hosts have updates (`pool_update`) in the place of patches."""


@dataclass(frozen=True)
class Hotfix:
    """A hotfix for XenServer from version `first` on and before version `end`; any of `uuids` is it."""

    name: str
    first: Version
    end: Version
    uuids: frozenset[str]


HOTFIXES = (
    Hotfix("RPU001", (6, 2, 0), (6, 5, 0), frozenset({"591d0209-531e-4ed8-9ed2-98df2a1a445c"})),
    Hotfix("RPU002", (6, 5, 0), (7, 0, 0), frozenset({"3f92b111-0a90-4ec6-b85a-737f241a3fc1"})),
    Hotfix("RPU003", (7, 0, 0), (7, 1, 0), frozenset({"b651dd22-df7d-45a4-8c0a-6be037bc1714"})),
    Hotfix("RPU004", (7, 1, 0), (8, 0, 0), frozenset({"1821854d-0171-4696-a9c4-01daf75a45a0"})),
    Hotfix(
        *("RPU005", (8, 2, 0), (8, 3, 0)),
        frozenset({"f9f63a51-509f-46fc-8c99-820fcac2228c", "38a7eeeb-31ec-4de3-934f-13929ad3e339"}),
    ),
)


def wanted(release: Release) -> Hotfix | None:
    """The hotfix for hosts of a release, if there is one."""
    if release.product_brand != XENSERVER:
        return None
    return next((hotfix for hotfix in HOTFIXES if hotfix.first <= release.version < hotfix.end), None)


def applied(at: Situation, host: HostFacts) -> frozenset[str]:
    """The uuids of the updates that a host has."""
    if host.release.version >= UPDATES_SINCE:
        refs = at.survey.get("host", host.ref).get("updates", ())
        return frozenset(at.survey.get("pool_update", ref).get("uuid", "") for ref in refs)
    patches = (patch for patch in at.records("host_patch").values() if patch["host"] == host.ref and patch["applied"])
    return frozenset(at.survey.get("pool_patch", patch["pool_patch"]).get("uuid", "") for patch in patches)


def _hotfixes(at: Situation) -> Iterator[Found]:
    if not at.ask.url:
        return
    for host in at.facts.hosts.values():
        hotfix = wanted(host.release)
        if hotfix is None or at.is_new(host) or applied(at, host) & hotfix.uuids:
            continue
        why = (
            f"{host.name} lacks the hotfix {hotfix.name}, which the vendor wants on {host.release.name} before a host "
            "installs itself: its upgrade plugin may not know what the medium needs"
        )
        yield Found("host", host.uuid, host.name, why)


CHECKS = (
    Check(
        *("hotfix", WARNS, "where hosts install themselves: the hotfix that the vendor's wizard wants on them first"),
        *("apply the hotfix to every host, or install by a medium", _hotfixes),
    ),
)
