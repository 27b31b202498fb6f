"""Whether a host that is to join is built like the pool's master: what each release compares, and what it says.

A forced join passes over the builds and the processors. Builds are told by the keys of `software_version` that the release
looks at; processors, in the course of time, by each of them, by their features, and by their maker alone.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from xenctl.errors import Failure

from . import processors, rules
from .call import refuse

if TYPE_CHECKING:
    from xenctl.datamodel import Order

    from .store import Row, Store

OTHER_PRODUCT = "POOL_JOINING_HOST_MUST_HAVE_SAME_PRODUCT_VERSION"
BRAND = "product_brand"
BUILDS: tuple[tuple[Order, tuple[str, ...]], ...] = (
    (rules.NILE, ("xapi", BRAND, "git_id")),
    (rules.FALCON, ("platform_version", BRAND, "git_id")),
    (rules.TAMPA, ("platform_version", BRAND, "build_number", "git_id")),
    ((), ("product_version", BRAND, "build_number", "hg_id")),
)
"""The keys that tell a build, newest release first; that the pack for Linux is there counts, too."""
PACKS = ("package-linux", "xs:linux")
IRRELEVANT = frozenset({"est"})
"""Flags of processors that may differ."""


def brand(told: Mapping[str, str]) -> str | None:
    """Whose product it is, by which XCP and XenServer are told apart."""
    return told.get(BRAND, told.get("platform_name"))


def incompatible(release: Order, mine: Mapping[str, str], theirs: Mapping[str, str]) -> Iterator[Failure]:
    """Why not even a forced join can be: since 6.1 it is another platform or brand, in 6.0 another product."""
    if release >= rules.TAMPA:
        if (mine.get("platform_version"), brand(mine)) != (theirs.get("platform_version"), brand(theirs)):
            yield refuse("HOSTS_NOT_COMPATIBLE")
    elif release >= rules.BOSTON and mine.get("product_version") != theirs.get("product_version"):
        yield refuse(OTHER_PRODUCT)


def other_build(release: Order, mine: Mapping[str, str], theirs: Mapping[str, str]) -> Iterator[Failure]:
    """Why a join must be forced, as far as the software goes."""
    keys = next(keys for since, keys in BUILDS if release >= since)

    def build(told: Mapping[str, str]) -> list[str | bool]:
        values = [(brand(told) if key == BRAND else told.get(key)) or "" for key in keys]
        return [*values, any(pack in told for pack in PACKS)]

    if build(mine) != build(theirs):
        word = "Software" if release >= rules.ELY else "software"
        yield refuse("HOSTS_NOT_HOMOGENEOUS", f"{word} version differs")


def other_processors(here: Store, me: Row, there: Store, master: Row) -> Iterator[Failure]:
    """Why a join must be forced, as far as the processors go."""
    order = here.release.order
    if order <= rules.GEORGE:
        if _each(here, me) != _each(there, master):
            yield refuse("HOSTS_NOT_HOMOGENEOUS", "cpus differ")
        return
    pool = there.pool()
    if order >= rules.DUNDEE:
        theirs = pool.get("cpu_info") or master["cpu_info"]
        alike = me["cpu_info"].get("vendor") == theirs.get("vendor")
    else:
        alike = processors.alike(me["cpu_info"], master["cpu_info"], pool["other_config"].get(processors.MASK, ""))
    if not alike:
        yield refuse("HOSTS_NOT_HOMOGENEOUS", "CPUs differ")


def _each(store: Store, host: Row) -> set[tuple[Any, ...]]:
    """The kinds of processors that a host has."""
    cpus = store.rows("host_cpu", host["host_CPUs"])
    return {
        (cpu["vendor"], cpu["model"], cpu["family"], tuple(f for f in cpu["flags"].split() if f not in IRRELEVANT))
        for cpu in cpus
    }


def other_patches(here: Store, me: Row, there: Store, master: Row) -> Iterator[Failure]:
    """Patches that one of the two lacks, from 6.1 to 7.1; a forced join minds them, too."""
    if rules.TAMPA <= here.release.order < rules.FALCON:
        mine, theirs = _patches(here, me), _patches(there, master)
        if set(mine) != set(theirs):
            told = " -- ".join(f"{who} has {' '.join(uuids)}" for who, uuids in (("Remote", theirs), ("Local", mine)))
            yield refuse("HOSTS_NOT_HOMOGENEOUS", f"Patches applied differ: {told}")


def _patches(store: Store, host: Row) -> list[str]:
    applied = store.rows("host_patch", host["patches"])
    return [patch["uuid"] for patch in store.rows("pool_patch", [row["pool_patch"] for row in applied])]


def other_updates(here: Store, me: Row, there: Store, master: Row) -> Iterator[Failure]:
    """Updates that all hosts must have and one of the two lacks."""

    def enforced(store: Store, host: Row) -> set[str]:
        updates = store.rows("pool_update", host.get("updates", ()))
        return {update["uuid"] for update in updates if update["enforce_homogeneity"]}

    if enforced(here, me) != enforced(there, master):
        names = me["name_label"], master["name_label"]
        yield refuse("HOSTS_NOT_HOMOGENEOUS", "Updates on local host {} and pool host {} differ".format(*names))
