"""Networks of virtual functions: a card that splits itself, so that each guest has a card of its own."""

from __future__ import annotations

from typing import Any

from .. import functions, hosts, network_rules, pifs
from ..call import Call, Steps, refuse
from ..licence import assert_enabled
from ..store import Row
from . import verbs_of
from .generic import make

verb = verbs_of("network_sriov")

WRITES = ("*", "PIF.*", "PCI.*")


@verb(*WRITES)
def create(call: Call, pif: str, network: str) -> Steps:
    """The PIF of the network stands on that of the card. It stays where the card cannot be split, and is not attached."""
    card, target = call.db.get("PIF", pif), call.db.get("network", network)
    contact = hosts.reached(call, card["host"])
    assert_enabled(call, "Network_sriov")
    network_rules.assert_managed(target)
    pifs.assert_managed(call.db, card)
    _assert_can_split(call, card)
    pifs.assert_no_other(call.db, card["host"], network)
    _assert_alike(call, card, target)
    yield call.pool.durations.device
    contact.check()
    logical = pifs.make(
        call,
        device=card["device"],
        network=network,
        host=card["host"],
        MAC=pifs.VLAN_MAC,
        MTU=card["MTU"],
        metrics=card["metrics"],
        primary_address_type=card["primary_address_type"],
        IPv6=[],
    )
    row = make(call, "network_sriov", {"physical_PIF": pif, "logical_PIF": logical.ref})
    pifs.bring_up(call, logical)
    return row.ref


def _assert_can_split(call: Call, pif: Row) -> None:
    if pifs.kind(call.db, pif) != "physical":
        raise refuse("PIF_IS_NOT_PHYSICAL", pif.ref)
    if pif["sriov_physical_PIF_of"]:
        raise refuse("NETWORK_SRIOV_ALREADY_ENABLED", pif.ref)
    if "sriov" not in pif["capabilities"]:
        raise refuse("PIF_IS_NOT_SRIOV_CAPABLE", pif.ref)


def _assert_alike(call: Call, pif: Row, network: Row) -> None:
    """On one network the cards of all hosts are of one kind, and split."""
    for other in network_rules.pifs_of(call.db, network)[:1]:
        below = pifs.beneath(call.db, other)
        if below is None or pifs.kind(call.db, other) != "sriov":
            raise refuse("NETWORK_INCOMPATIBLE_WITH_SRIOV", network.ref)
        if _kind(call, below) != _kind(call, pif):
            raise refuse("NETWORK_HAS_INCOMPATIBLE_SRIOV_PIFS", pif.ref, network.ref)


def _kind(call: Call, pif: Row) -> tuple[Any, Any]:
    card = call.db.find("PCI", pif["PCI"])
    return (card["vendor_id"], card["device_id"]) if card is not None else ("", "")


@verb(*WRITES)
def destroy(call: Call, ref: str) -> Steps:
    row = call.db.get("network_sriov", ref)
    logical = call.db.get("PIF", row["logical_PIF"])
    contact = hosts.reached(call, logical["host"])
    if pifs.vlans_on(call.db, logical):
        raise refuse("PIF_VLAN_STILL_EXISTS", logical.ref)
    pifs.assert_can_unplug(call, logical)
    yield call.pool.durations.device
    contact.check()
    pifs.bring_down(call, logical)
    call.db.delete(logical)
    call.db.delete(row)
    return ""


@verb()
def get_remaining_capacity(call: Call, ref: str) -> int:
    """How many guests more the card has functions for."""
    pif = call.db.get("PIF", call.db.get("network_sriov", ref)["physical_PIF"])
    return len(functions.free(call.db, call.db.find("PCI", pif["PCI"])))
