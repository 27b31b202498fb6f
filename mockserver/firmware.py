"""The certificates that guests with UEFI firmware begin with: files of each host, and what the database says of them.

Each system comes with its own. A pool may have others in their place, as an archive in a field, where its hosts allow that:
those of XCP-ng do, those of XenServer do not.
"""

from __future__ import annotations

import base64
import binascii
import io
from functools import cache
from typing import TYPE_CHECKING

from xenctl import datamodel

from . import trust
from .call import refuse

if TYPE_CHECKING:
    from xenctl.releases import Release

    from .machine.host import HostMachine
    from .pool import MockPool

FOLDER = "/var/lib/varstored/"
"""Where guests' firmware looks."""
NAMES = ("KEK.auth", "db.auth", "dbx.auth")
"""The files that a system comes with."""
SINCE = datamodel.load().order("22.16.0")
"""The first release whose hosts go by the pool's field, and write these files."""
BRANDS = ("XCP-ng",)


def allowed(release: Release) -> bool:
    """Whether a pool may have certificates of its own."""
    return release.product_brand in BRANDS


def _own(release: Release) -> dict[str, bytes]:
    """What a system comes with, by name."""
    return {name: f"{name} of {release.product_version}".encode() for name in NAMES}


@cache
def _of_system(release: Release) -> str:
    """The same as the text of a field."""
    return archive(_own(release))


def archive(files: dict[str, bytes]) -> str:
    """Files as the text of a field: a tar in base64."""
    import tarfile

    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=tarfile.USTAR_FORMAT) as tar:
        for name, data in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return base64.b64encode(out.getvalue()).decode()


def unpacked(text: str) -> dict[str, bytes]:
    """The files in the text of a field, without their folders: none where it is no base64. Raises `INTERNAL_ERROR` for
    base64 of no tar."""
    import tarfile

    try:
        data = base64.b64decode(text, validate=True)
    except binascii.Error:
        return {}
    if not data:
        return {}
    out = {}
    try:
        with tarfile.open(fileobj=io.BytesIO(data), mode="r:") as tar:
            for info in tar:
                file = tar.extractfile(info)
                if file is not None:
                    out[info.name.rpartition("/")[2]] = file.read()
    except tarfile.TarError as error:
        raise refuse("INTERNAL_ERROR", f"Tar_core.Header: {error}") from None
    return out


def write(pool: MockPool, machine: HostMachine) -> None:
    """Put the files of the pool, or else of the system, where guests' firmware looks, and write down what the system has."""
    release, host = machine.system.release, pool.host_row(machine)
    if release.order < SINCE or host is None:
        return
    row = pool.store.pool()
    pool.store.write(host, uefi_certificates=_of_system(release))
    if row["master"] == host.ref:
        pool.store.write(row, uefi_certificates=_of_system(release))
    custom = row.get("custom_uefi_certificates", "") if allowed(release) else ""
    files = unpacked(custom) if custom else _own(release)
    trust.clear(machine.system, FOLDER)
    trust.change(machine.system, {FOLDER + name: data for name, data in files.items()})
