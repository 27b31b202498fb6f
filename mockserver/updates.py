"""What a host could install: updates that it lacks, patches for what runs, and what installing them would ask for.

Hosts compare versions of packages. Guidance is of kinds, and what a stronger kind asks for already, or what is contained in
it, a weaker one does not ask for again.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from .machine.update_repositories import Livepatch, Mirror, Update, named, newness

if TYPE_CHECKING:
    from .machine.host import HostMachine

KINDS = ("mandatory", "recommended", "full")
"""The kinds of guidance that a host may have pending, strongest first."""
CONTAINED = (
    ("RebootHost", frozenset({"RestartToolstack", "EvacuateHost", "RestartDeviceModel"})),
    ("EvacuateHost", frozenset({"RestartDeviceModel"})),
    ("RestartVM", frozenset({"RestartDeviceModel"})),
)
"""What need not be done once something else is."""
ORDER = ("RebootHost", "RestartToolstack", "EvacuateHost", "RestartDeviceModel", "RestartVM")
PENDING = {
    "RebootHost": "reboot_host",
    "RestartToolstack": "restart_toolstack",
    "RestartDeviceModel": "restart_device_model",
    "RestartVM": "restart_vm",
}
"""What guidance is called where it is pending; a host is emptied before, so that is never pending."""


@dataclass(frozen=True)
class HostUpdates:
    """What a host lacks: updates, the newest package of each name, and the newest livepatch of each component."""

    updates: tuple[Update, ...]
    packages: tuple[str, ...]
    livepatches: tuple[Livepatch, ...]
    steps: tuple[Update, ...]
    """The updates that the livepatches come with, those included that they roll up."""

    @property
    def empty(self) -> bool:
        """Whether the host is up to date."""
        return not self.packages and not self.livepatches

    def guidance(self) -> dict[str, list[str]]:
        """What installing all of it asks for, by kind."""
        done: set[str] = set()
        out = {}
        for kind in KINDS:
            wanted = _wanted(self, kind)
            out[kind] = [name for name in ORDER if name in _without_contained(done | wanted) - done]
            done |= wanted
        return out


def lacking(machine: HostMachine, mirror: Mirror) -> HostUpdates:
    """What the host of `machine` lacks of what `mirror` has."""
    newest: dict[str, str] = {}
    updates = []
    for update in mirror.updates:
        lacked = [package for package in update.packages if _newer(package, machine.system.installed)]
        if lacked:
            updates.append(update)
        for package in lacked:
            name, evr = named(package)
            if name not in newest or newness(named(newest[name])[1]) < newness(evr):
                newest[name] = package
    found = HostUpdates(tuple(updates), tuple(newest.values()), (), ())
    if "RebootHost" in _wanted(found, "mandatory"):
        return found
    latest, steps = _livepatches(machine, mirror)
    return HostUpdates(found.updates, found.packages, latest, steps)


def _newer(package: str, installed: dict[str, str]) -> bool:
    name, evr = named(package)
    return name not in installed or newness(installed[name]) < newness(evr)


def _livepatches(machine: HostMachine, mirror: Mirror) -> tuple[tuple[Livepatch, ...], tuple[Update, ...]]:
    """The newest patch for each component as it runs, and the updates that lead there."""
    latest: dict[str, Livepatch] = {}
    steps = []
    for update in mirror.updates:
        for patch in update.livepatches:
            applied = machine.livepatches.get(patch.component)
            if patch.base_build_id != machine.build_id(patch.component):
                continue
            if applied is not None and newness(patch.to) <= newness(applied.to):
                continue
            steps.append(update)
            known = latest.get(patch.component)
            if known is None or newness(known.to) < newness(patch.to):
                latest[patch.component] = patch
    return tuple(latest.values()), tuple(dict.fromkeys(steps))


def _wanted(lacked: HostUpdates, kind: str) -> set[str]:
    """What updates ask for in one kind; where patches are applied to what runs, what these ask for should be done."""
    out: set[str] = set()
    for update in lacked.updates:
        if kind != "recommended" or update not in lacked.steps:
            out |= set(update.guidance()[kind])
    if kind == "recommended":
        out |= {name for update in lacked.steps for name in update.livepatch}
    return out


def _without_contained(names: set[str]) -> set[str]:
    out = set(names)
    for name, contained in CONTAINED:
        if name in out:
            out -= contained
    return out


# --- as clients are told


def update_record(update: Update, livepatches: Iterable[Livepatch]) -> dict[str, Any]:
    """An update; of its livepatches those that one of `livepatches` rolls up."""
    bases = {(patch.component, patch.base_build_id) for patch in livepatches}
    kept = [patch for patch in update.livepatches if (patch.component, patch.base_build_id) in bases]
    return {
        "id": update.id,
        "summary": update.summary,
        "description": update.description,
        "special-info": update.special_info,
        "URL": update.url,
        "type": update.type,
        "issued": update.issued,
        "severity": update.severity,
        "livepatches": [patch.record() for patch in kept],
        "guidance": {kind: list(names) for kind, names in update.guidance().items()},
        "title": update.title,
    }


def host_record(ref: str, lacked: HostUpdates) -> dict[str, Any]:
    """What a host lacks."""
    return {
        "ref": ref,
        "guidance": lacked.guidance(),
        "RPMS": [f"{package}.rpm" for package in lacked.packages],
        "updates": sorted({update.id for update in (*lacked.updates, *lacked.steps)}),
        "livepatches": [patch.record() for patch in lacked.livepatches],
    }
