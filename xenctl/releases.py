"""Releases of XenServer and XCP-ng: which is newer, what each knows of the API, and which may be upgraded to which.

A release is named by its product version (`4.0.1`; `8.2` means `8.2.0`; `XCP-ng 8.3` where the brand matters) or by its
code name (`rio`). Releases come from the data model's table; hosts of others are taken for the nearest older one.
"""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cache, lru_cache
from typing import Final, Protocol

from .datamodel import Lifecycle, Message, Order, Param, load

Version = tuple[int, ...]

XENSERVER: Final = "XenServer"
XCP_NG: Final = "XCP-ng"

BRANDS: Final = {"xenserver": XENSERVER, "citrix hypervisor": XENSERVER, "xcp-ng": XCP_NG}
"""How each brand may be written, in lower case. The releases 8.0 to 8.2 of XenServer were sold as Citrix Hypervisor."""

OLDEST_SOURCE: Final[tuple[tuple[Version, Version], ...]] = (
    ((8, 0, 0), (7, 0, 0)),
    ((7, 0, 0), (6, 0, 0)),
    ((6, 0, 0), (5, 6, 0)),
    ((5, 6, 0), (5, 5, 0)),
    ((5, 5, 0), (5, 0, 0)),
    ((5, 0, 0), (4, 1, 0)),
    ((4, 1, 0), (4, 0, 0)),
    ((4, 0, 0), (4, 0, 0)),
)
"""From each version on, the oldest version that the installer upgrades; newest first."""


@dataclass(frozen=True, order=True)
class Release:
    """One release of a product. Ordered by API version, then database schema, then product version.

    `version` is the product version as numbers; `order` is its place among all releases that the data model's
    lifecycles name, for `Model.order`. `platform_version` is empty before 6.1.
    """

    api_version: Version
    schema: Version
    version: Version
    product_brand: str
    product_version: str = field(compare=False)
    code_name: str = field(compare=False)
    platform_version: str = field(compare=False)
    order: Order = field(compare=False, repr=False)

    def __hash__(self) -> int:
        """A quick one: what is known of a release is looked up in every call."""
        return hash(self.version)

    def __str__(self) -> str:
        return self.product_version if self.product_brand == XENSERVER else self.name

    @property
    def name(self) -> str:
        """Brand and version, such as `XenServer 4.0.1`."""
        return f"{self.product_brand} {self.product_version}"


class HasLifecycle(Protocol):
    """A class, field or message of the data model."""

    @property
    def lifecycle(self) -> Lifecycle:
        """Its transitions."""
        ...


def parse_version(text: str) -> Version:
    """The numbers of a version, at least three: `8.2` gives `(8, 2, 0)`. What follows a dash counts on: `6.2.0-1`."""
    if not re.fullmatch(r"\d+(?:[.-]\d+)*", text):
        raise ValueError(f"not a version: {text!r} (expected numbers and dots, such as 8.2 or 5.6.100)")
    numbers = tuple(int(part) for part in re.split(r"[.-]", text))
    return numbers + (0,) * (3 - len(numbers))


@cache
def known() -> tuple[Release, ...]:
    """Every release that is known, oldest first."""
    model = load()
    found = [
        Release(
            api_version=product.api_version,
            schema=product.schema,
            version=parse_version(product.product_version),
            product_brand=product.product_brand,
            product_version=product.product_version,
            code_name=product.code_name,
            platform_version=product.platform_version,
            order=model.order(product.code_name),
        )
        for product in model.products
    ]
    return tuple(sorted(found))


@lru_cache(maxsize=256)
def find(text: str, like: Release | None = None) -> Release:
    """The release called `text`: a version, a code name, or either after a brand. If no brand is given, that of
    `like` is meant where it has such a release, else XenServer.

    `4.1` is 4.1.0; `4.0` is 4.0.1, the only one of that line. Raises `ValueError`, naming all that are known, if there
    is none.
    """
    word = text.strip()
    wanted = None
    for spelling, brand in BRANDS.items():
        if word.lower().startswith(spelling + " "):
            wanted, word = brand, word[len(spelling) :].strip()
    first = [] if like is None else [like.product_brand]
    for brand in [wanted] if wanted else [*first, XENSERVER, XCP_NG]:
        for release in _matching(word, [release for release in known() if release.product_brand == brand]):
            return release
    names = ", ".join(release.name for release in known())
    raise ValueError(f"no release is called {text!r}; known are {names}, and their code names")


def _matching(word: str, releases: list[Release]) -> Iterator[Release]:
    yield from (release for release in releases if release.code_name == word.lower())
    try:
        version = parse_version(word)
    except ValueError:
        return
    yield from (release for release in releases if release.version == version)
    line = version[: word.count(".") + 1]
    if len(line) == 2:
        yield from (release for release in releases if release.version[:2] == line)


def of_host(
    software_version: Mapping[str, str], api_version: tuple[int, int], schema: Version | None = None
) -> Release:
    """The release of a host, from its `software_version` and API version, and its database schema if known.

    A product version that is not listed takes the nearest older release of the brand, by API version, then by schema
    (`db_schema` of `software_version` unless given), then by product version; one older than all takes the oldest.
    """
    brand = BRANDS.get(software_version.get("product_brand", "").lower(), XENSERVER)
    releases = sorted(release for release in known() if release.product_brand == brand)
    version = _version_or_none(software_version.get("product_version", ""))
    for release in releases:
        if release.version == version:
            return release
    schema = schema or _version_or_none(software_version.get("db_schema", ""), parts=2)
    older = [release for release in releases if release.api_version <= api_version] or releases[:1]
    same = [release for release in older if release.api_version == older[-1].api_version]
    fitting = [
        release
        for release in same
        if (schema is None or release.schema <= schema) and (version is None or release.version <= version)
    ]
    return fitting[-1] if fitting and (schema or version) else same[0]


def _version_or_none(text: str, parts: int = 3) -> Version | None:
    try:
        version = parse_version(text)
    except ValueError:
        return None
    return version[:parts] if parts < 3 else version


def next_release(release: Release) -> Release | None:
    """The release of the same brand that followed `release`, or None after the last."""
    later = (other for other in known() if other.product_brand == release.product_brand and other > release)
    return min(later, default=None)


def accepts(target: Release, source: Release) -> bool:
    """Whether the installer of `target` upgrades an installation of `source`.

    It never takes a newer one, always its own (a reinstallation), and no older one than its generation supports. XCP-ng
    takes over XenServer; nothing leads back.
    """
    if target == source:
        return True
    if source.product_brand != target.product_brand and target.product_brand != XCP_NG:
        return False
    newer = source.version > target.version or (source.api_version, source.schema) > (target.api_version, target.schema)
    return not newer and source.version >= oldest_source(target)


def oldest_source(target: Release) -> Version:
    """The oldest product version that the installer of `target` upgrades."""
    return next(oldest for since, oldest in OLDEST_SOURCE if target.version >= since)


def path(source: Release, target: Release) -> list[Release]:
    """The releases to install one after another to get from `source` to `target`: as few as can be, as new as can be.

    Empty if they are the same. Raises `ValueError` if no chain of upgrades leads there.
    """
    if source == target:
        return []
    brands = {source.product_brand, target.product_brand}
    newest_first = sorted((release for release in known() if release.product_brand in brands), reverse=True)
    distance = {target: 0}
    waiting = deque([target])
    while waiting:
        step = waiting.popleft()
        for release in newest_first:
            if release not in distance and accepts(step, release):
                distance[release] = distance[step] + 1
                waiting.append(release)
    if source not in distance:
        raise ValueError(f"no upgrade leads from {source.name} to {target.name}")
    hops: list[Release] = []
    at = source
    while at != target:
        at = next(step for step in newest_first if distance.get(step) == distance[at] - 1 and accepts(step, at))
        hops.append(at)
    return hops


def serves(release: Release, item: HasLifecycle) -> bool:
    """Whether a class, field or message exists in a release: it came with it or before.

    One that was removed still exists in this sense: its field stays in records and in the database, its message answers
    MESSAGE_REMOVED. See `has_removed`.
    """
    return load().order(item.lifecycle.since) <= release.order


def has_removed(release: Release, item: HasLifecycle) -> bool:
    """Whether a class, field or message exists in a release only as removed."""
    return serves(release, item) and _removed_at(release.order, item.lifecycle)


def parameters(release: Release, message: Message) -> tuple[Param, ...]:
    """The parameters of a message that a release knows: optional ones came later than others."""
    order = load().order
    return tuple(param for param in message.params if not param.optional or order(param.since) <= release.order)


@cache
def _removed_at(order: Order, lifecycle: Lifecycle) -> bool:
    model = load()
    removed = False
    for transition, release in lifecycle.transitions:
        if transition in ("published", "prototyped", "removed") and model.order(release) <= order:
            removed = transition == "removed"
    return removed
