"""How the block devices of a VM are called: by whoever makes them (`VBD.userdevice`), and to its guest (`VBD.device`)."""

from __future__ import annotations

import re
from string import ascii_lowercase
from typing import TYPE_CHECKING

from . import rules
from .checks import is_hvm

if TYPE_CHECKING:
    from xenctl.releases import Release

    from .pool import MockPool
    from .store import Row, Store

NAMED = re.compile(r"(?:h|s|xv)d([a-p])(\d*)\Z")
NUMBERED = re.compile(r"\d{1,3}\Z")
FLOPPIES = ("fda", "fdb")
DEVICES = 256
"""How many numbers there are."""
IDE_DRIVES = 16
"""The first devices of a fully virtual guest, which were IDE drives by name until 6.2."""


def identity(name: str) -> str | None:
    """What a device is, however it is spelled: `0`, `hda` and `xvda` are one; partitions and floppies are apart. None for
    what is none."""
    if name in FLOPPIES:
        return name
    if named := NAMED.match(name):
        number, partition = ascii_lowercase.index(named[1]), int(named[2] or 0)
        return f"{number}.{partition}" if partition else str(number)
    return str(int(name)) if NUMBERED.match(name) and int(name) < DEVICES else None


def taken(pool: MockPool, vm: Row) -> set[str | None]:
    """What the devices of a VM are, whoever named them."""
    return {identity(vbd[name]) for vbd in pool.vbds(vm) for name in ("device", "userdevice")}


def free(pool: MockPool, vm: Row, kind: str = "Disk") -> list[str]:
    """What a new block device of a VM may be, the first best. A number: since 7.0 there are 255 of them, before 16, or 4
    without drivers; 256 for a control domain since 6.0. For a floppy since 7.0 one of two names, with hardware
    virtualisation only."""
    order, used = pool.store.release.order, taken(pool, vm)
    if kind == "Floppy" and order >= rules.DUNDEE:
        return [name for name in FLOPPIES if name not in used and is_hvm(vm)]
    limit = 255 if order >= rules.DUNDEE else 16 if has_drivers(pool.store, vm) else 4
    if vm["is_control_domain"] and order >= rules.BOSTON:
        limit = DEVICES
    return [str(number) for number in range(limit) if str(number) not in used]


def has_drivers(store: Store, vm: Row) -> bool:
    """Whether a guest can have as many devices as there are: it needs drivers, or is of a kind that has them."""
    agent = store.find("VM_guest_metrics", vm["guest_metrics"])
    return not is_hvm(vm) or (agent is not None and bool(agent["PV_drivers_version"]))


def name_in(vm: Row, userdevice: str, release: Release) -> str:
    """What a device is called in the guest of `vm`, on a host of `release`."""
    ide = release.order < rules.CREAM
    if NUMBERED.match(userdevice):
        number = int(userdevice)
        return f"{'hd' if ide and number < IDE_DRIVES and is_hvm(vm) else 'xvd'}{_letters(number)}"
    return userdevice if ide or not userdevice.startswith("hd") else f"xv{userdevice[1:]}"


def path_of(sr: Row, vdi: Row) -> str:
    """What a disk is called to the control domain since 6.0, which needs no device of its own for it."""
    return f"sm/backend/{sr['uuid']}/{vdi['uuid']}"


def _letters(number: int) -> str:
    """`a` for 0, `z` for 25, `aa` for 26."""
    high, low = divmod(number, len(ascii_lowercase))
    return (_letters(high - 1) if high else "") + ascii_lowercase[low]
