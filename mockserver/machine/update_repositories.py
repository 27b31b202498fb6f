"""Update repositories beside the pool: what a vendor publishes, and hosts install.

A test puts one up with `pool.repositories.add(url, Update(...))`, introduces it to the pool under the same URL, and syncs.
What is published later comes with the next sync: until then the master has its copy, a `Mirror`.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable
from dataclasses import dataclass, field

from ..journal import Kept

GUIDANCES = (
    "RebootHost",
    "RestartToolstack",
    "EvacuateHost",
    "RestartDeviceModel",
    "RestartVM",
)
"""What an update may ask for."""
COMPONENTS = {"xen": "xen-hypervisor.x86_64", "kernel": "kernel.x86_64"}
"""What can be patched while it runs, and the package that it comes in."""
_PACKAGE = re.compile(r"(?P<name>.+)-(?P<evr>(?:\d+:)?[^-:]+-[^-]+)\.(?P<arch>noarch|x86_64)")
_SEGMENT = re.compile(r"\d+|[A-Za-z]+")


@dataclass(frozen=True)
class Livepatch:
    """A patch for what runs: of a `component` (`xen`, `kernel`) with a build id, from one `version-release` to another. A
    `broken` one cannot be applied."""

    component: str
    base_build_id: str
    base: str
    to: str
    broken: bool = False

    def __post_init__(self) -> None:
        if self.component not in COMPONENTS:
            raise ValueError(f"there are livepatches for {', '.join(COMPONENTS)}, not for {self.component!r}")
        if self.base.count("-") != 1 or self.to.count("-") != 1:
            raise ValueError(
                f"a livepatch leads from one version-release to another, not from {self.base} to {self.to}"
            )

    def record(self) -> dict[str, str]:
        """As clients are told of it."""
        (version, release), (to_version, to_release) = self.base.split("-"), self.to.split("-")
        return {
            "component": self.component,
            "base_build_id": self.base_build_id,
            "base_version": version,
            "base_release": release,
            "to_version": to_version,
            "to_release": to_release,
        }


@dataclass(frozen=True)
class Update:
    """An update: packages by their full names (`xapi-core-24.11.0-1.x86_64`), and what is to be done once it is installed.

    Guidance is of four kinds, each some of `GUIDANCES`: what must be done, what should be, what makes everything new, and
    what takes the place of the second where livepatches are applied. `issued` is `20240131T00:00:00Z`.
    """

    id: str
    packages: tuple[str, ...]
    mandatory: tuple[str, ...] = ()
    recommended: tuple[str, ...] = ()
    full: tuple[str, ...] = ()
    livepatch: tuple[str, ...] = ()
    livepatches: tuple[Livepatch, ...] = ()
    summary: str = "An update"
    description: str = ""
    special_info: str = ""
    url: str = ""
    type: str = "bugfix"
    issued: str = "19700101T00:00:00Z"
    severity: str = "None"
    title: str = ""

    def __post_init__(self) -> None:
        for guidance in (*self.mandatory, *self.recommended, *self.full, *self.livepatch):
            if guidance not in GUIDANCES:
                raise ValueError(f"update {self.id} asks for {guidance!r}; known are {', '.join(GUIDANCES)}")
        for package in self.packages:
            if _PACKAGE.fullmatch(package) is None:
                raise ValueError(f"update {self.id} has a package {package!r}, not name-version-release.arch")

    def guidance(self) -> dict[str, tuple[str, ...]]:
        """Its guidance by kind."""
        kinds = {"mandatory": self.mandatory, "recommended": self.recommended}
        return {**kinds, "full": self.full, "livepatch": self.livepatch}


def named(package: str) -> tuple[str, str]:
    """The name with its architecture, and the version, of a package."""
    match = _PACKAGE.fullmatch(package)
    assert match is not None
    return f"{match['name']}.{match['arch']}", match["evr"]


def newness(evr: str) -> tuple[object, ...]:
    """A key that orders `[epoch:]version-release`: numbers by value and after letters, piece by piece."""
    epoch, _, rest = evr.rpartition(":")
    pieces = [_SEGMENT.findall(part) for part in rest.split("-")]
    return int(epoch or 0), *(tuple((1, int(s), "") if s.isdigit() else (0, 0, s) for s in part) for part in pieces)


@dataclass(frozen=True)
class Mirror:
    """What a repository held when it was synced."""

    updates: tuple[Update, ...]

    @property
    def checksum(self) -> str:
        """The digest of what it says."""
        return hashlib.sha256(repr(self.updates).encode()).hexdigest()


@dataclass
class UpdateRepository(Kept):
    """A repository at a URL; while it is not `up` nobody gets anything from it."""

    url: str
    updates: tuple[Update, ...] = ()
    up: bool = True

    def publish(self, *updates: Update) -> None:
        """Add updates. Raises ValueError for a name that is taken."""
        self.updates = _distinct((*self.updates, *updates))


@dataclass
class UpdateRepositories(Kept):
    """The repositories by URL."""

    by_url: dict[str, UpdateRepository] = field(default_factory=dict)

    def add(self, url: str, *updates: Update) -> UpdateRepository:
        """Put up a repository. Raises ValueError where there is one already, or two updates have one name."""
        if url in self.by_url:
            raise ValueError(f"there is an update repository at {url} already")
        out = self.by_url[url] = UpdateRepository(url, _distinct(updates))
        return out


def _distinct(updates: Iterable[Update]) -> tuple[Update, ...]:
    out = tuple(updates)
    if len({update.id for update in out}) < len(out):
        raise ValueError(f"two updates have the same id: {', '.join(update.id for update in out)}")
    return out
