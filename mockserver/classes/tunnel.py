"""Tunnels: a network carried by another one, with a PIF on each."""

from __future__ import annotations

from .. import hosts, network_rules, pifs, rules
from ..addresses import made_up_mac
from ..call import Call, Steps, refuse
from ..store import NULL, Row
from . import verbs_of
from .generic import make

verb = verbs_of("tunnel")

WRITES = ("*", "PIF.*", "PIF_metrics.*")


@verb(*WRITES)
def create(call: Call, transport_PIF: str, network: str, protocol: str) -> Steps:  # noqa: N803
    db = call.db
    transport, target = db.get("PIF", transport_PIF), db.get("network", network)
    contact = hosts.contact(call.pool, db.get("host", transport["host"]))
    _assert_can_create(call, transport, target)
    yield call.pool.durations.device
    contact.check()
    row, access = create_on(call, transport, target, protocol)
    if transport["ip_configuration_mode"] == "None":  # what was made stays, unplugged
        raise refuse("TRANSPORT_PIF_NOT_CONFIGURED", transport_PIF)
    pifs.bring_up(call, transport)
    pifs.bring_up(call, access)
    return row.ref


def _assert_can_create(call: Call, transport: Row, target: Row) -> None:
    """Raise the first reason against a tunnel. Up to 7.4 the transport's manager, and whether it is in a bond, came first
    and what else it is last."""
    db = call.db
    late = call.at_least(rules.KOLKATA)
    if not late:
        pifs.assert_managed(db, transport)
    network_rules.assert_managed(target)
    if not late:
        _assert_not_bonded(call, transport)
    pifs.assert_no_other(db, transport["host"], target.ref)
    pifs.assert_managed(db, transport)
    if late:
        _assert_can_carry(call, transport)
        pifs.assert_no_sriov_network(db, target, "NETWORK_INCOMPATIBLE_WITH_TUNNEL")
    for host in db.table("host").values():
        if host["software_version"].get("network_backend") != "openvswitch":
            raise refuse("OPENVSWITCH_NOT_ACTIVE")
    _assert_can_carry(call, transport)


def _assert_not_bonded(call: Call, transport: Row) -> None:
    if network_rules.bonded(call.db, transport) and call.at_least(rules.BOSTON):
        raise refuse("CANNOT_ADD_TUNNEL_TO_BOND_SLAVE", transport.ref)


def _assert_can_carry(call: Call, transport: Row) -> None:
    what, below = pifs.kind(call.db, transport), pifs.beneath(call.db, transport)
    _assert_not_bonded(call, transport)
    if what == "tunnel":
        raise refuse("IS_TUNNEL_ACCESS_PIF", transport.ref)
    if what == "sriov":
        raise refuse("CANNOT_ADD_TUNNEL_TO_SRIOV_LOGICAL", transport.ref)
    if what == "vlan" and below is not None and pifs.kind(call.db, below) == "sriov":
        raise refuse("CANNOT_ADD_TUNNEL_TO_VLAN_ON_SRIOV_LOGICAL", transport.ref)


def create_on(call: Call, transport: Row, network: Row, protocol: str) -> tuple[Row, Row]:
    """A tunnel with its access PIF, not attached; since 6.1 that shows the metrics of the transport."""
    db = call.db
    access = pifs.make(
        call,
        device=pifs.numbered(db, transport["host"], "tunnel", lambda pif: pifs.kind(db, pif) == "tunnel"),
        network=network.ref,
        host=transport["host"],
        MAC=made_up_mac(0, call.pool.new_uuid()),
        MTU=-1,
        metrics=transport["metrics"] if call.at_least(rules.TAMPA) else NULL,
        primary_address_type=pifs.address_type_on(call, transport),
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
