"""Controllers of virtual switches, and what all switches of the pool do."""

from __future__ import annotations

from xenctl.errors import Failure

from .. import addresses, hosts, pifs
from ..call import Call, refuse
from ..licence import assert_enabled
from ..store import Row
from . import verbs_of
from .generic import make

verb = verbs_of("SDN_controller")
pool_verb = verbs_of("pool")

PORT = 6632
"""Where a controller listens unless told otherwise."""
PORTS = range(1, 65536)
NO_SWITCH = "host not configured for vswitch operation"
CONFIGURED = "SDN controller has been configured. Please forget it first."


def _uses_switch(call: Call) -> bool:
    """Whether the master's network is made of virtual switches."""
    master = call.db.get("host", call.db.pool()["master"])
    return bool(master["software_version"].get("network_backend") == "openvswitch")


def _assert_uses_switch(call: Call) -> None:
    if not _uses_switch(call):
        raise refuse("OPERATION_NOT_ALLOWED", NO_SWITCH)


@verb("*")
def introduce(call: Call, protocol: str = "ssl", address: str = "", port: int = 0) -> str:
    """A controller to which the switches connect, or, by `pssl`, that connects to them and so has no address."""
    _assert_uses_switch(call)
    if call.db.table("SDN_controller"):
        raise refuse("OPERATION_NOT_ALLOWED", CONFIGURED)
    if protocol == "pssl" and address:
        raise refuse("INVALID_VALUE", "address", address)
    if protocol == "pssl" and port:
        raise refuse("INVALID_VALUE", "port", port)
    if protocol == "ssl" and not address:
        raise refuse("INVALID_VALUE", "address", address)
    if protocol == "ssl":
        addresses.assert_ip("ipv4", "address", address)
    if port and port not in PORTS:
        raise refuse("VALUE_NOT_SUPPORTED", "port", port, "Port out of range")
    fields = {"protocol": protocol, "address": address, "port": port or (PORT if protocol == "ssl" else 0)}
    return make(call, "SDN_controller", fields).ref


@verb("*")
def forget(call: Call, ref: str) -> str:
    call.db.delete(call.db.get("SDN_controller", ref))
    return ""


@pool_verb("vswitch_controller", "SDN_controller.*")
def set_vswitch_controller(call: Call, address: str) -> str:
    """The older way to introduce a controller, or, without an address, to forget it."""
    _assert_uses_switch(call)
    pool = call.db.pool()
    if pool["vswitch_controller"] == address:
        return ""
    if address:
        addresses.assert_ip("ipv4", "address", address)
    call.db.write(pool, vswitch_controller=address)
    if "SDN_controller" in call.db.tables:
        for ref in list(call.db.table("SDN_controller"))[:1]:
            forget(call, ref)
        if address:
            introduce(call, "ssl", address, PORT)
    return ""


@pool_verb("igmp_snooping_enabled", *pifs.MOVED)
def set_igmp_snooping_enabled(call: Call, ref: str, value: bool) -> str:
    """Let the switches listen who wants what is sent to many; each host's networks are made up anew for that."""
    pool = call.db.get("pool", ref)
    if value:
        assert_enabled(call, "IGMP_snooping")
    if not _uses_switch(call):
        raise refuse("OPENVSWITCH_NOT_ACTIVE")
    call.db.write(pool, igmp_snooping_enabled=value)
    reached = [_attached_anew(call, host) for host in call.db.table("host").values()]
    if not all(reached):
        raise refuse("COULD_NOT_UPDATE_IGMP_SNOOPING_EVERYWHERE")
    return ""


def _attached_anew(call: Call, host: Row) -> bool:
    """Attach the networks on the cards of a host again; whether all could be."""
    for pif in [pif for pif in call.db.table("PIF").values() if pif["host"] == host.ref]:
        if pif["VLAN"] == -1 and call.db.find("Bond", pif["bond_slave_of"]) is None and pif["managed"]:
            try:
                hosts.contact(call.pool, host)
                pifs.attach_network(call, call.db.get("network", pif["network"]), host.ref, force=True)
            except Failure:
                return False
    return True
