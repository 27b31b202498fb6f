"""`trim`, since 6.5: gives what is free on storage in logical volumes back to the array behind it.

The arrays of the fake have nothing to gain; what is seen of it is the answer, and when it was last done. Its errors are
answers, too, in XML.
"""

from __future__ import annotations

from typing import TYPE_CHECKING
from xml.sax.saxutils import escape

from xenctl.errors import Failure

from .. import hosts, rules
from ..call import refuse
from ..storage_drivers import capabilities
from .base import Asked, PluginFunction

if TYPE_CHECKING:
    from ..store import Row

LEAST = 4 << 20
"""Bytes of the smallest volume, which must be free."""
TRIGGERED = "trim_last_triggered"


def do_trim(asked: Asked) -> str:
    """Trim the storage `sr_uuid`."""
    uuid = asked.args["sr_uuid"]
    try:
        ref = asked.call("SR.get_by_uuid", uuid)
    except Failure as error:
        raise refuse("XENAPI_PLUGIN_FAILURE", asked.function, "Failure", error.details) from error
    sr = asked.pool.store.get("SR", ref)
    if "SR_TRIM" not in capabilities(asked.pool.store, sr["type"]):
        return _told("UnsupportedSRForTrim", f"Trim on [{uuid}] not supported")
    answer = _trim(asked, sr)
    asked.call("SR.remove_from_other_config", ref, TRIGGERED)
    asked.call("SR.add_to_other_config", ref, TRIGGERED, f"{asked.pool.clock.now():.2f}")
    return answer


def _trim(asked: Asked, sr: Row) -> str:
    """Take all that is free, and drop it."""
    full = sr["physical_size"] - sr["physical_utilisation"] < LEAST
    unknown = "UnknownTrimException", f"Unknown Exception: trim failed on SR [{sr['uuid']}]"
    if not hosts.sees(asked.pool.store, asked.host, (sr.ref,)):
        return _told(*unknown)
    if full and asked.machine.system.release.order >= rules.ELY:
        return _told("Trim failed on full SR", "No space to claim on a full SR")
    return _told(*unknown) if full else "True"


def _told(code: str, message: str) -> str:
    pairs = {"errcode": code, "errmsg": message}
    inside = "".join(
        f"<key_value_pair><key>{key}</key><value>{escape(text)}</value></key_value_pair>" for key, text in pairs.items()
    )
    return f'<?xml version="1.0" ?><trim_response>{inside}</trim_response>'


FUNCTIONS: dict[str, tuple[str, PluginFunction]] = {"do_trim": ("6.5.0", do_trim)}
