"""`prepare_host_upgrade.py`, since 6.0: whether a host can be installed from a URL, and setting its boot loader to do so.

`main` fetches the installer and sets the boot loader; the next boot then upgrades the host without asking. Media are known
by their URLs to the machine room (`pool.hands.publish`).
"""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from xenctl.releases import find

from .. import hosts
from ..machine.room import without_login
from ..powerup import local_storage
from .base import Asked, PluginError, PluginFunction, PluginSteps

if TYPE_CHECKING:
    from xenctl.releases import Release

    from ..store import Row

INSTALLER = 100 << 20
"""Bytes that an installer is fetched with."""
LEAST_LOCAL_STORAGE = 38 << 30
"""Bytes of local storage from which the partitions of a host before 7.0 can be laid out anew."""
NEW_PARTITIONS = find("7.0.0")
GIB = 1 << 30
DOM0_MOST = 8 * GIB
REMOTE = ("http", "https", "ftp", "nfs")
"""The schemes of URLs for which the installer needs the network."""


def main(asked: Asked) -> PluginSteps:
    """Set the host's boot loader to upgrade from `url`."""
    release = _medium(asked)
    if release.version < asked.machine.system.release.version:
        raise PluginError("INVALID_URL")
    yield INSTALLER / asked.pool.durations.transfer_rate
    if not _network_known(asked):
        raise PluginError("ERROR_PREPARING_HOST")
    machine = asked.machine
    hosts.note(asked.on_behalf_of, machine, "prepared", machine.prepared, release)
    machine.prepared = release
    return "true"


def test_url(asked: Asked) -> str:
    """Whether `url` has a medium that is not older than the host."""
    if _medium(asked).version < asked.machine.system.release.version:
        raise PluginError("INVALID_VER")
    return "true"


def test_safe_to_upgrade(asked: Asked) -> str:
    """Whether the disk could get the partitions of 7.0: nothing may be in the way on the local storage beside them."""
    if asked.machine.system.release >= NEW_PARTITIONS:
        return "true"
    for sr in local_storage(asked.pool.store, asked.host):
        if sr["type"] in ("lvm", "ext"):
            if sr["physical_size"] < LEAST_LOCAL_STORAGE:
                return "not_enough_space"
            return "false" if sr["VDIs"] else "true"
    return "true"


def get_version(asked: Asked) -> str:
    """The versions of the medium at `url`, as JSON."""
    release = _medium(asked)
    return json.dumps({"product-version": release.product_version, "platform-version": release.platform_version})


def get_dom0_default_memory(asked: Asked) -> str:
    """Bytes of memory that a control domain gets when the medium at `url` is installed: 1 GiB and a twentieth of the
    host's, 8 GiB at the most."""
    _medium(asked)
    return str(min(DOM0_MOST, GIB + asked.machine.memory // 20))


def _medium(asked: Asked) -> Release:
    """What is published at `url`."""
    if "url" not in asked.args:
        raise PluginError("MISSING_URL")
    release = asked.pool.media.get(without_login(asked.args["url"]))
    if release is None:
        raise PluginError("INVALID_URL")
    return release


def _network_known(asked: Asked) -> bool:
    """Whether the installer can be told how to reach the URL: a fixed address needs a gateway, a name a name server."""
    scheme, host = _split(asked.args["url"])
    pif = _management(asked) if scheme in REMOTE else None
    if pif is None:
        return scheme not in REMOTE
    if pif["ip_configuration_mode"] != "Static":
        return True
    named = re.fullmatch(r"[\d.]+", host) is None
    return all(pif[field] for field in ("IP", "gateway", "netmask")) and bool(pif["DNS"] or not named)


def _split(url: str) -> tuple[str, str]:
    """The scheme and the host of a URL; NFS has a colon after its host."""
    parts = urlsplit(url)
    return parts.scheme, parts.netloc.rpartition("@")[2].partition(":")[0]


def _management(asked: Asked) -> Row | None:
    rows = (asked.pool.store.find("PIF", ref) for ref in asked.host["PIFs"])
    return next((pif for pif in rows if pif is not None and pif.get("management")), None)


FUNCTIONS: dict[str, tuple[str, PluginFunction]] = {
    "main": ("6.0.0", main),
    "testUrl": ("6.0.0", test_url),
    "testSafe2Upgrade": ("6.5.0", test_safe_to_upgrade),
    "getVersion": ("8.0.0", get_version),
    "getDom0DefaultMemory": ("8.0.0", get_dom0_default_memory),
}
"""What it can do, and since which release. Its terms of use, `getEUA`, are not known here."""
