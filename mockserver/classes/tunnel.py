"""Tunnels: a network carried by another one, with a PIF on each."""

from __future__ import annotations

from .. import hosts, network_rules, pifs
from ..addresses import made_up_mac
from ..call import Call, Steps, refuse
from ..store import Row
from . import verbs_of
from .generic import make

verb = verbs_of("tunnel")

WRITES = ("*", "PIF.*", "PIF_metrics.*", "network.MTU")


@verb(*WRITES)
def create(call: Call, transport_PIF: str, network: str, protocol: str) -> Steps:  # noqa: N803
    db = call.db
    transport, target = db.get("PIF", transport_PIF), db.get("network", network)
    contact = hosts.contact(call.pool, db.get("host", transport["host"]))
    network_rules.assert_managed(target)
    pifs.assert_no_other(db, transport["host"], network)
    pifs.assert_managed(db, transport)
    _assert_can_carry(call, transport)
    pifs.assert_no_sriov_network(db, target, "NETWORK_INCOMPATIBLE_WITH_TUNNEL")
    for host in db.table("host").values():
        if host["software_version"].get("network_backend") != "openvswitch":
            raise refuse("OPENVSWITCH_NOT_ACTIVE")
    yield call.pool.durations.device
    contact.check()
    row, access = create_on(call, transport, target, protocol)
    if transport["ip_configuration_mode"] == "None":  # what was made stays, unplugged
        raise refuse("TRANSPORT_PIF_NOT_CONFIGURED", transport_PIF)
    pifs.bring_up(call, transport)
    pifs.bring_up(call, access)
    return row.ref


def _assert_can_carry(call: Call, transport: Row) -> None:
    what, below = pifs.kind(call.db, transport), pifs.beneath(call.db, transport)
    if network_rules.bonded(call.db, transport):
        raise refuse("CANNOT_ADD_TUNNEL_TO_BOND_SLAVE", transport.ref)
    if what == "tunnel":
        raise refuse("IS_TUNNEL_ACCESS_PIF", transport.ref)
    if what == "sriov":
        raise refuse("CANNOT_ADD_TUNNEL_TO_SRIOV_LOGICAL", transport.ref)
    if what == "vlan" and below is not None and pifs.kind(call.db, below) == "sriov":
        raise refuse("CANNOT_ADD_TUNNEL_TO_VLAN_ON_SRIOV_LOGICAL", transport.ref)


def create_on(call: Call, transport: Row, network: Row, protocol: str) -> tuple[Row, Row]:
    """A tunnel with its access PIF, not attached."""
    db = call.db
    access = pifs.make(
        call,
        device=pifs.numbered(db, transport["host"], "tunnel", lambda pif: pifs.kind(db, pif) == "tunnel"),
        network=network.ref,
        host=transport["host"],
        MAC=made_up_mac(0, call.pool.new_uuid()),
        MTU=-1,
        metrics=transport["metrics"],
        primary_address_type=transport.get("primary_address_type", "IPv4"),
    )
    fields = {"access_PIF": access.ref, "transport_PIF": transport.ref, "status": {"active": "false"}}
    return make(call, "tunnel", fields, protocol=protocol), access


@verb(*WRITES)
def destroy(call: Call, ref: str) -> Steps:
    row = call.db.get("tunnel", ref)
    access = call.db.get("PIF", row["access_PIF"])
    contact = hosts.reached(call, access["host"])
    pifs.assert_can_unplug(call, access)
    yield call.pool.durations.device
    contact.check()
    pifs.bring_down(call, access)
    pifs.drop(call, access)
    call.db.delete(row)
    return ""
