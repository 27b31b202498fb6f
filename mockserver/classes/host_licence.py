"""Licences of hosts: their editions, and licence files.

A licence file is text with an element `<xe_license .../>`, sent in Base64; who signed it is not looked at. Up to 5.5 it
names a product, in 5.6 to 6.1 it activates the edition that costs nothing, since 7.1 it gives an edition without a server.
"""

from __future__ import annotations

import base64
import binascii
import re

from xenctl.datamodel import load

from .. import editions, hosts, licence, rules
from ..call import Call, refuse
from ..licence import WRITES
from ..store import Row
from . import verbs_of

verb = verbs_of("host")

RENEWS_SINCE = load().order("22.19.0")
"""The toolstack's version since which an edition may be applied again while high availability is on."""
RENEWED = (rules.ELY, rules.STOCKHOLM)
"""The older releases of which updates allow it, too."""
LOWEST_NAMES = ("free", "express", "trial")
NEEDED = ("sku_type", "version", "serialnumber", "sockets", "productcode", "expiry")
"""What a licence file must say."""
_ELEMENT = re.compile(r"<xe_license\s([^<>]*?)/?>")
_ATTRIBUTE = re.compile(r"""([\w-]+)=["']([^"']*)["']""")


# --- editions


@verb(*WRITES)
def apply_edition(call: Call, host: str, edition: str, force: bool) -> str:
    """While high availability is on the edition stays, and in most releases is not even applied again; 5.6 only forbade to
    give one up."""
    row = hosts.reached(call, host).host
    if call.db.pool().get("ha_enabled") and not _allowed_with_ha(call, row["edition"], edition):
        raise refuse("HA_IS_ENABLED")
    licence.apply(call.pool, row, edition, force=force)
    return ""


def _allowed_with_ha(call: Call, before: str, edition: str) -> bool:
    if not call.at_least(rules.BOSTON):
        return edition == before or edition not in LOWEST_NAMES
    return edition == before and (call.at_least(RENEWS_SINCE) or call.db.release.order in RENEWED)


@verb("license_params", "pool.restrictions")
def set_license_params(call: Call, ref: str, value: dict[str, str]) -> str:
    """What a member writes for itself; what the pool may do follows."""
    licence.set_params(call.db, call.db.get("host", ref), value)
    return ""


# --- files


def _read(contents: str) -> dict[str, str]:
    """What a licence file says. Raises `LICENSE_PROCESSING_ERROR`."""
    try:
        text = base64.b64decode("".join(contents.split()), validate=True).decode()
    except (binascii.Error, UnicodeDecodeError):
        raise refuse("LICENSE_PROCESSING_ERROR") from None
    found = _ELEMENT.search(text)
    said = dict(_ATTRIBUTE.findall(found[1])) if found else {}
    try:
        end = float(said["expiry"])
        licence.stamp(end)
        int(said["sockets"])
    except (KeyError, ValueError, OverflowError, OSError):
        raise refuse("LICENSE_PROCESSING_ERROR") from None
    if not all(name in said for name in NEEDED):
        raise refuse("LICENSE_PROCESSING_ERROR")
    return said


def _details(said: dict[str, str]) -> dict[str, str]:
    """The parameters that a file gives as they are, its end as a date."""
    own = ("serialnumber", "sockets", *licence.DETAILS)
    return {**{name: said[name] for name in own if name in said}, "expiry": licence.stamp(float(said["expiry"]))}


def _assert_not_over(call: Call, said: dict[str, str]) -> None:
    if float(said["expiry"]) <= call.clock.now():
        raise refuse("LICENSE_EXPIRED")


@verb(*WRITES)
def license_apply(call: Call, host: str, contents: str) -> str:
    row = hosts.reached(call, host).host
    if call.at_least(rules.MIDNIGHT_RIDE) and row["edition"] != "free":
        raise refuse("ACTIVATION_WHILE_NOT_FREE")
    said = _read(contents)
    ha = call.db.pool().get("ha_enabled")
    if call.at_least(rules.MIDNIGHT_RIDE):
        _activate(call, row, said, ha=bool(ha))
        return ""
    lacks = editions.sku_lacks(call.db.release, said["sku_type"])
    if lacks is None:
        raise refuse("LICENSE_PROCESSING_ERROR")
    if ha and "HA" in lacks:
        raise refuse("HA_IS_ENABLED")
    if "Pooling" in lacks and len(call.db.table("host")) > 1:
        raise refuse("LICENSE_CANNOT_DOWNGRADE_WHILE_IN_POOL")
    _assert_not_over(call, said)
    licence.set_params(call.db, row, {**_product(call, said), **_restrictions(lacks)})
    return ""


def _activate(call: Call, host: Row, said: dict[str, str], *, ha: bool) -> None:
    """Only the edition that costs nothing is activated by a file."""
    if said["sku_type"] != "XE Express":
        raise refuse("LICENSE_FILE_DEPRECATED")
    lowest = editions.editions(licence.release_of(call.pool, host))[0]
    if ha and "HA" in lowest.lacks:
        raise refuse("HA_IS_ENABLED")
    _assert_not_over(call, said)
    licence.write(call.pool, host, lowest, _details(said))


def _product(call: Call, said: dict[str, str]) -> dict[str, str]:
    return licence.described(call.db.release, said["sku_type"], {}, _details(said))


def _restrictions(lacks: frozenset[str]) -> dict[str, str]:
    """Of products there are only the oldest restrictions."""
    known = [one for one in editions.FEATURES.values() if one.core and one.since == "midnight-ride"]
    return {one.key: one.text(there=one.name not in lacks) for one in known}


@verb(*WRITES)
def license_add(call: Call, host: str, contents: str) -> str:
    """Give a host the edition that a file names."""
    row = hosts.reached(call, host).host
    said = _read(contents)
    one = editions.edition(licence.release_of(call.pool, row), said["sku_type"])
    if one is None:
        raise refuse("INVALID_EDITION", said["sku_type"])
    _assert_not_over(call, said)
    licence.write(call.pool, row, one, _details(said))
    return ""


@verb(*WRITES)
def license_remove(call: Call, host: str) -> str:
    """Back to the lowest edition."""
    row = hosts.reached(call, host).host
    licence.write(call.pool, row, editions.editions(licence.release_of(call.pool, row))[0])
    return ""
