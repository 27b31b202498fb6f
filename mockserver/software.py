"""What hosts say of their software, `host.software_version`: a table by release, and what a start makes of it.

The keys and when they came are read from the toolstack's history; so are the versions of xapi, as far as its sources tell.
Builds, dates and versions of Xen and Linux are readings: those of the releases as they were sold where that is known, else
what fits between their neighbours.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from typing import TYPE_CHECKING, NamedTuple

from xenctl.releases import XCP_NG, Release

from .rules import BOSTON, COWLEY, FALCON, GEORGE, MIDNIGHT_RIDE, NILE, TAMPA

if TYPE_CHECKING:
    from .machine.host import System

BRIDGE, OPENVSWITCH = "bridge", "openvswitch"
BACKENDS = (BRIDGE, OPENVSWITCH)
"""How a host may make its networks."""


class Built(NamedTuple):
    """How a release was built, and of what. `source` is the revision of the toolstack, without a key before 5.5."""

    build: str
    date: str
    xapi: str
    xen: str
    linux: str
    source: str = ""


BUILT: Mapping[str, Built] = {
    "rio": Built("4249p", "2008-11-01", "1.1", "3.1.0", "2.6.18"),
    "miami": Built("7843p", "2008-11-01", "1.1", "3.1.0", "2.6.18"),
    "orlando": Built("10918p", "2008-09-15", "1.3", "3.2.1", "2.6.18"),
    "george": Built("15119p", "2009-06-04", "1.3", "3.3.1", "2.6.18", "bb4ef2d8f69a"),
    "midnight-ride": Built("31188p", "2010-05-21", "1.3", "3.4.2", "2.6.27", "dc23e9a51b6f"),
    "cowley": Built("39265p", "2010-12-02", "1.3", "3.4.2", "2.6.32", "4e8b7e5c37a1"),
    "boston": Built("50762p", "2011-09-15", "1.3", "4.1.1", "2.6.32", "8a16e71b2d90"),
    "tampa": Built("59235p", "2012-09-10", "1.3", "4.1.3", "2.6.32", "2d8c1f4"),
    "clearwater": Built("70446c", "2013-06-14", "1.3", "4.1.5", "2.6.32", "c87e5a1"),
    "creedence": Built("90233c", "2015-01-05", "1.3", "4.4.1", "3.10.0", "5b31f0c"),
    "dundee": Built("125380c", "2016-05-13", "1.9", "4.6.1", "3.10.0", "0e9d2a7"),
    "ely": Built("137272c", "2017-02-02", "1.9", "4.7.1", "4.4.0+2", "61b80ff"),
    "falcon": Built("142079c", "2017-05-05", "1.9", "4.7.1", "4.4.0+2", "a3477d2"),
    "inverness": Built("release/inverness/master/25", "2017-11-28", "1.20", "4.7.4", "4.4.0+10", "0"),
    "jura": Built("release/jura/master/11", "2018-02-20", "1.20", "4.7.4", "4.4.0+10", "0"),
    "kolkata": Built("release/kolkata/master/29", "2018-05-21", "1.20", "4.7.5", "4.4.0+10", "0"),
    "lima": Built("release/lima/master/61", "2018-09-06", "1.20", "4.7.6", "4.4.0+10", "0"),
    "naples": Built("release/naples/master/45", "2019-04-09", "1.20", "4.11.1", "4.19.0+1", "0"),
    "quebec": Built("release/quebec/master/20", "2019-12-05", "1.20", "4.13.0", "4.19.0+1", "0"),
    "stockholm": Built("release/stockholm/master/7", "2020-06-12", "1.20", "4.13.1", "4.19.0+1", "0"),
    "8.2.1": Built("release/yangtze/master/58", "2022-02-11", "1.20", "4.13.4", "4.19.0+1", "2"),
    "nile": Built("cloud", "2024-09-10", "24.19", "4.17.4", "4.19.0+1", "2"),
}
"""By code name, or by product version where several have one."""

TEXTS = {"cowley": ("5.6 Feature Pack 1", "5.6 FP1"), "8.4.0": ("8", "8")}
"""How releases are called whose names are not their versions: at length, and in short."""


@cache
def _told(release: Release) -> Mapping[str, str]:
    order, version = release.order, release.product_version
    built = BUILT.get(version) or BUILT[release.code_name]
    short = ".".join(version.split(".")[:2])
    text, text_short = TEXTS.get(version) or TEXTS.get(release.code_name) or (short, short)
    api = ".".join(map(str, release.api_version))
    named = release.product_brand == XCP_NG
    source = {} if order < GEORGE else {"git_id" if order >= TAMPA else "hg_id": built.source}
    keys: tuple[tuple[bool, Mapping[str, str]], ...] = (
        (True, {"product_version": version}),
        (order >= COWLEY, {"product_version_text": text, "product_version_text_short": text_short}),
        (bool(release.platform_version), {"platform_name": "XCP", "platform_version": release.platform_version}),
        (True, {"product_brand": release.product_brand, "build_number": built.build, **source}),
        (True, {"hostname": "localhost", "date": built.date}),
        (order >= MIDNIGHT_RIDE, {"dbv": "0.0.1" if named else built.date.replace("-", ".", 1).replace("-", "")}),
        (True, {"xapi": built.xapi}),
        (order >= NILE, {"xapi_build": f"{built.xapi}.2"}),
        (True, {"xen": built.xen, "linux": built.linux}),
        (order >= GEORGE, {"xencenter_min": api, "xencenter_max": api}),
        (order >= COWLEY, {"network_backend": OPENVSWITCH if order >= BOSTON else BRIDGE}),
        (order >= FALCON, {"db_schema": f"{release.schema[0]}.{release.schema[1]}"}),
    )
    return {key: value for there, some in keys if there for key, value in some.items()}


def software_version(release: Release) -> dict[str, str]:
    """`host.software_version` of a host on which `release` was just installed, with the keys that its time had."""
    return dict(_told(release))


def installed(system: System, before: Mapping[str, str], *, booted: bool = True) -> dict[str, str]:
    """`host.software_version` of a host as its system is now; `before` is what it was. How networks are made outlives
    upgrades: it is as it was, or as somebody has chosen, from the next time on that the host has `booted`."""
    out = {**_told(system.release), **system.packs}
    if "network_backend" in out:
        chosen = system.network_backend if booted else ""
        out["network_backend"] = chosen or before.get("network_backend", BRIDGE)
    return out
