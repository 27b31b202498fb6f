"""A host told to expect a virtual machine with its disks."""

from __future__ import annotations

from xenctl.datamodel import load

from .. import licence, pifs
from ..call import Call, refuse
from ..store import Row
from . import verbs_of

verb = verbs_of("host")

MADE_BY_PARTS = load().order("24.17.0")
"""The toolstack's version since which the master's URL has no path."""
INHERITED = (
    *("pool", "is_local_superuser", "subject", "auth_user_sid", "auth_user_name", "rbac_permissions", "originator"),
    *("validation_time", "client_certificate"),
)
"""What the session that is made for a move has from the one that asks."""


@verb()
def migrate_receive(call: Call, host: str, network: str, options: dict[str, str]) -> dict[str, str]:
    """What whoever sends must know: where the host and its master listen, and a session that may do there what this one
    may. It says so in plain HTTP: the sender decides on TLS."""
    licence.assert_enabled(call, "Storage_motion")
    row = call.db.get("host", host)
    address = _address(call, row, call.db.get("network", network))
    session = _session(call, row)
    end = "" if call.at_least(MADE_BY_PARTS) else "/"
    service = f"http://{address}/services/{{}}?session_id={session}"
    return {
        "SM": service.format("SM"),
        "host": host,
        "xenops": service.format("xenops"),
        "session_id": session,
        "master": f"http://{call.pool.master_address}{end}",
    }


def _session(call: Call, host: Row) -> str:
    asking = call.session
    fields = {name: asking[name] for name in INHERITED if name in asking} if asking is not None else {}
    return call.db.create(
        "session",
        call.pool.new_ref(),
        {
            "is_local_superuser": True,
            **fields,
            "uuid": call.pool.new_uuid(),
            "this_host": host.ref,
            "last_active": call.clock.stamp(),
        },
    ).ref


def _address(call: Call, host: Row, network: Row) -> str:
    """The address of a host on a network, as URLs have it. Raises where it has none."""
    pif = next((pif for pif in call.db.rows("PIF", network["PIFs"]) if pif["host"] == host.ref), None)
    if pif is None:
        raise refuse("HOST_CANNOT_ATTACH_NETWORK", host.ref, network.ref)
    address = pifs.primary_address(pif)
    if pif.get("primary_address_type") == "IPv6":
        address, mode = f"[{address}]" if address else "", pif["ipv6_configuration_mode"]
    else:
        mode = pif["ip_configuration_mode"]
    if not address:
        raise refuse("PIF_HAS_NO_NETWORK_CONFIGURATION" if mode == "None" else "INTERFACE_HAS_NO_IP", pif.ref)
    return address
