"""Answer files, as far as an installer needs them: which choice they make for the person who is not there."""

from __future__ import annotations

from typing import TYPE_CHECKING

from xenctl.releases import find

from .host import MachineRoomError

if TYPE_CHECKING:
    from xenctl.releases import Release

BACKS_UP, RESTORES = find("4.1.0"), find("6.1.0")
"""The first releases whose installers, told by an answer file, copy the old system away, and restore it."""
INSTALLS = {"upgrade": "existing-installation", "reinstall": "", "fresh": "primary-disk"}
"""The modes of an installation, and the element that names the disk; either may in `reinstall`, by release."""


def choice(data: bytes, release: Release) -> str:
    """What the installer of `release` does with an answer file: `upgrade`, `reinstall`, `fresh` or `restore`. No mode is
    `fresh`. Raises `ValueError` for what it would stop at, `MachineRoomError` for what is not emulated."""
    from lxml import etree

    try:
        root = etree.fromstring(data, etree.XMLParser(resolve_entities=False, no_network=True))
    except etree.XMLSyntaxError as error:
        raise ValueError(f"this answer file is no XML: {error}") from None
    if root.tag == "restore" and release >= RESTORES:
        return "restore"
    mode = root.get("mode") or "fresh"
    if root.tag not in ("installation", "upgrade") or mode not in INSTALLS:
        raise ValueError(f"an installer of {release.name} makes nothing of <{root.tag!s} mode={mode!r}>")
    if root.find("source") is None:
        raise ValueError("this answer file has no <source>")
    if INSTALLS[mode] and root.find(INSTALLS[mode]) is None:
        raise ValueError(f"this answer file has no <{INSTALLS[mode]}>")
    if mode == "upgrade" and release < BACKS_UP:
        raise MachineRoomError(f"an unattended upgrade by {release.name} loses the database; it is not emulated")
    return mode
