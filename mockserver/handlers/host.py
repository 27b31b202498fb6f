"""`/host_backup` and `/host_restore`: the control domain of one host as a compressed tar.

The fake's control domain has what tells one host from another: its inventory, its role, the pool's secret, and a dump of
the database. A restore fills the host's backup partition and leaves the running system as it is: whoever wants it back
boots the installer and chooses `restore`.
"""

from __future__ import annotations

import math
import re
import tarfile
from collections.abc import Mapping

from xenctl import database
from xenctl.errors import DatabaseError, Failure
from xenctl.releases import find

from ..call import refuse
from ..machine.host import HostMachine, System
from ..software import software_version
from .archive import END, Archive, gzipped, member
from .base import Answer, Request, Steps
from .running import Binding, begin

INVENTORY, ROLE, SECRET = "etc/xensource-inventory", "etc/xensource/pool.conf", "etc/xensource/ptoken"
BY_VERBS = ("etc/stunnel/", "etc/xensource/xapi-", "var/lib/varstored/", "var/lib/xcp/p", "var/xapi/")
"""How the names of the files begin that verbs write; of others a real host has very many."""
DATABASE = "var/backup/pool-database-"
LOOK = 2.0
"""Simulated seconds between two signs of progress."""
SEVEN = find("7.0.0")


def host_backup(request: Request) -> Answer:
    """The control domain of the host that is asked."""
    binding = Binding(request, "Downloading host backup")
    return begin(request, binding, gzipped(_backup(request, binding)))


def _backup(request: Request, binding: Binding) -> Steps:
    """The files, in the time that it takes to read a whole system."""
    pool, system, now = request.pool, request.machine.system, request.pool.clock.now()
    for turn in range(1, int(pool.durations.host_backup / LOOK) + 1):
        yield LOOK
        binding.show(progress=0.9 * (1.0 - math.exp(-0.1 * turn)))
    for name, text in _files(request.machine).items():
        yield member(name, text.encode(), now)
    for path, data in system.files.items():
        yield member(path.lstrip("/"), data, now)
    if system.role == "master":
        yield member(f"{DATABASE}{pool.clock.stamp()[:8]}", database.write(pool.store.dump()), now)
    yield END


def _files(machine: HostMachine) -> dict[str, str]:
    system = machine.system
    inventory = {
        "PRODUCT_BRAND": system.release.product_brand,
        "PRODUCT_VERSION": system.release.product_version,
        "BUILD_NUMBER": software_version(system.release)["build_number"],
        "INSTALLATION_UUID": system.installation_uuid,
        "CONTROL_DOMAIN_UUID": system.control_domain_uuid,
    }
    text = "".join(f"{key}='{value}'\n" for key, value in inventory.items())
    return {INVENTORY: text, ROLE: system.role, SECRET: system.pool_secret}


def host_restore(request: Request) -> Answer:
    """Put a backup on the backup partition of the host that is asked."""
    return begin(request, Binding(request, "Uploading host backup"), _restore(request))


def _restore(request: Request) -> Steps:
    archive, files = Archive(request.length), dict[str, bytes]()
    try:
        while True:
            head = yield from archive.take(512)
            if head == bytes(512):
                break
            info = tarfile.TarInfo.frombuf(head, "utf-8", "strict")
            files[info.name] = yield from archive.take(info.size)
            yield from archive.take(-info.size % 512)
        request.machine.backup = _system(request.machine, files)
        yield from archive.drain()
    except (EOFError, tarfile.HeaderError, UnicodeError, ValueError, DatabaseError, Failure) as error:
        if isinstance(error, Failure) and error.code != "IMPORT_ERROR":
            raise
        raise refuse("RESTORE_SCRIPT_FAILED", f"tar: {error or 'Unexpected EOF in archive'}") from None


def _system(machine: HostMachine, files: Mapping[str, bytes]) -> System:
    """What the files of a backup install. Raises `RESTORE_SCRIPT_FAILED`, `ValueError` or `DatabaseError`."""
    if INVENTORY not in files:
        raise ValueError(f"{INVENTORY}: Not found in archive")
    inventory = dict(re.findall(r"^(\w+)='(.*)'$", files[INVENTORY].decode(), re.MULTILINE))
    if "PRODUCT_VERSION" not in inventory or "INSTALLATION_UUID" not in inventory:
        raise ValueError(f"{INVENTORY}: incomplete")
    version, brand = inventory["PRODUCT_VERSION"], inventory.get("PRODUCT_BRAND", "XenServer")
    release = find(version if brand == "XenServer" else f"{brand} {version}")
    if release < SEVEN <= machine.system.release:
        raise refuse("RESTORE_SCRIPT_FAILED", f"a backup of {version} cannot be restored on a host from 7.0 on")
    dumps = [data for name, data in files.items() if name.startswith(DATABASE)]
    return System(
        release=release,
        installation_uuid=inventory["INSTALLATION_UUID"],
        control_domain_uuid=inventory.get("CONTROL_DOMAIN_UUID", ""),
        role=files.get(ROLE, b"master").decode(),
        pool_secret=files.get(SECRET, b"").decode(),
        pool=machine.pool,
        saved=database.read(dumps[0], source="the backup") if dumps else None,
        files={f"/{name}": data for name, data in files.items() if name.startswith(BY_VERBS)},
    )
