"""How clients may spell a block device, and what its guest calls it.

A number, or a letter after `hd`, `sd` or `xvd`, with the number of a partition behind it; `fda` and `fdb` are floppies. A
guest's own name is written down when the device is attached.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from .checks import is_hvm
from .rules import CREAM

if TYPE_CHECKING:
    from xenctl.datamodel import Order

    from .store import Row

DISK = re.compile(r"(hd|sd|xvd)([a-p])(\d*)|(\d{1,3})")
FLOPPY = re.compile(r"fd[ab]")
LAST = 255
EMULATED = 4
"""How many disks the device model of a fully virtual guest shows as `hda` and so on, up to 6.2."""


def parse(device: str) -> tuple[str, int, int] | None:
    """The prefix of a name (empty for a number), the number of the disk and that of its partition (0 for none); None for
    what names no disk."""
    match = DISK.fullmatch(device)
    if match is None:
        return None
    prefix, letter, partition, digits = match.groups()
    if letter is None:
        return ("", int(digits), 0) if int(digits) <= LAST else None
    return prefix, ord(letter) - ord("a"), int(partition or 0)


def identity(device: str) -> str | None:
    """What a device is, however it is spelled: `0`, `hda` and `xvda` are one; partitions and floppies are apart."""
    if FLOPPY.fullmatch(device):
        return device
    found = parse(device)
    if found is None:
        return None
    _, number, partition = found
    return f"{number}.{partition}" if partition else str(number)


def in_guest(vm: Row, userdevice: str, order: Order) -> str:
    """What the guest in `vm` calls a device in a release of `order`; what names no disk is as it is."""
    found = parse(userdevice)
    if found is None:
        return userdevice
    prefix, number, partition = found
    if prefix != "sd":
        prefix = "hd" if order < CREAM and is_hvm(vm) and number < EMULATED else "xvd"
    return f"{prefix}{_letters(number)}{partition or ''}"


def _letters(number: int) -> str:
    """A number as letters: `a` for 0, `aa` for 26."""
    high, low = divmod(number, 26)
    return (_letters(high - 1) if high else "") + chr(ord("a") + low)


def settled(vm: Row, vbd: Row, order: Order) -> dict[str, str]:
    """What to write of the name of a device that is attached: nothing where it has the one that it gets."""
    if vbd["device"] and (order < CREAM or not vbd["device"].startswith("hd")):
        return {}
    return {"device": in_guest(vm, vbd["userdevice"], order)}
