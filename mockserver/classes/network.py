"""Networks: made and destroyed, attached to hosts, and what they are for."""

from __future__ import annotations

from typing import Any

from .. import hosts, pifs, rules
from ..call import Call, Steps, refuse
from ..network_rules import assert_managed, assert_no_controller, pifs_of, vifs_of
from ..store import Row
from . import verbs_of
from .blob import attach_new
from .generic import make

verb = verbs_of("network")

OUR_NAMES = ("xen", "xapi", "vif", "tap", "eth")
"""What the name of a bridge that somebody chose must not begin with."""
LONGEST_NAME = 15
OPPOSITE = {"nbd": "insecure_nbd", "insecure_nbd": "nbd"}
"""The purposes of which a pool may have one."""


@verb("*")
def create(call: Call, args: dict[str, Any]) -> str:
    bridge = args.get("bridge", "") if call.at_least(rules.FALCON) else ""
    if not bridge:
        bridge = pifs.new_bridge(call.pool, call.machine.xapi)
    else:
        trusted = call.session is None or call.session["pool"]
        if not trusted and (len(bridge) > LONGEST_NAME or bridge.startswith(OUR_NAMES)):
            raise refuse("INVALID_VALUE", "bridge", bridge)
        if any(network["bridge"] == bridge for network in call.db.table("network").values()):
            raise refuse("BRIDGE_NAME_EXISTS", bridge)
    mtu = args.get("MTU", pifs.DEFAULT_MTU)
    return make(call, "network", args, bridge=bridge, MTU=mtu if mtu > 0 else pifs.DEFAULT_MTU).ref


@verb("*")
def pool_introduce(
    call: Call,
    name_label: str,
    name_description: str,
    MTU: int,  # noqa: N803
    other_config: dict[str, str],
    bridge: str,
    managed: bool,
    purpose: list[str],
) -> str:
    """A joining member's network, as it is."""
    fields = {"name_label": name_label, "name_description": name_description, "MTU": MTU, "other_config": other_config}
    return make(call, "network", fields, bridge=bridge, managed=managed, purpose=purpose).ref


@verb("*", "VIF.*", "VIF_metrics.*")
def destroy(call: Call, ref: str) -> str:
    """The network with the VIFs on it, which must not be attached."""
    row = call.db.get("network", ref)
    vifs = vifs_of(call.db, row)
    connected = [vif.ref for vif in vifs if vif["currently_attached"] or vif["reserved"]]
    if connected:
        raise refuse("NETWORK_CONTAINS_VIF", *connected)
    if row["PIFs"]:
        raise refuse("NETWORK_CONTAINS_PIF", *row["PIFs"])
    internal = row["other_config"].get("is_host_internal_management_network") == "true"
    if internal and call.at_least(rules.BOSTON):
        raise refuse("CANNOT_DESTROY_SYSTEM_NETWORK", ref)
    for vif in vifs:
        metrics = call.db.find("VIF_metrics", vif["metrics"])
        if metrics is not None:
            call.db.delete(metrics)
        call.db.delete(vif)
    call.db.delete(row)
    return ""


@verb("blobs", "blob.*")
def create_new_blob(call: Call, network: str, name: str, mime_type: str, public: bool) -> str:
    return attach_new(call, call.db.get("network", network), name, mime_type, public=public)


# --- on hosts


@verb(*pifs.MOVED)
def attach(call: Call, network: str, host: str) -> Steps:
    row, contact = call.db.get("network", network), hosts.reached(call, host)
    yield call.pool.durations.device
    contact.check()
    pifs.attach_network(call, row, host, force=True)
    return ""


def _networks(call: Call, vm: str) -> list[Row]:
    """The networks that a VM is on."""
    vifs = (call.db.find("VIF", ref) for ref in call.db.get("VM", vm)["VIFs"])
    return [call.db.get("network", vif["network"]) for vif in vifs if vif is not None]


@verb(*pifs.MOVED)
def attach_for_vm(call: Call, host: str, vm: str) -> str:
    hosts.reached(call, host)
    for network in _networks(call, vm):
        pifs.attach_network(call, network, host)
    return ""


@verb("machine.bridges")
def detach_for_vm(call: Call, host: str, vm: str) -> str:
    """A network that no host's PIF is on loses its bridge on `host`, unless another guest there is connected to it."""
    machine = hosts.reached(call, host).machine
    for network in _networks(call, vm):
        others = (call.db.get("VM", vif["VM"]) for vif in vifs_of(call.db, network) if vif["currently_attached"])
        in_use = any(other.ref != vm and other["resident_on"] == host for other in others)
        if not pifs_of(call.db, network) and not in_use:
            pifs.set_bridges(call, machine, machine.bridges - {network["bridge"]})
    return ""


# --- what it is for


@verb("default_locking_mode")
def set_default_locking_mode(call: Call, network: str, value: str) -> str:
    """6.1 and 6.2 did not lock all out while a controller rules the switches."""
    row = call.db.get("network", network)
    if value == "disabled" and not call.at_least(rules.CREAM):
        assert_no_controller(call.db)
    for vif in vifs_of(call.db, row):
        if vif["currently_attached"]:
            raise refuse("VIF_IN_USE", network, vif.ref)
    call.db.write(row, default_locking_mode=value)
    return ""


@verb("purpose")
def add_purpose(call: Call, ref: str, value: str) -> str:
    row = call.db.get("network", ref)
    if call.at_least(rules.UNMANAGED_NETWORKS):
        assert_managed(row)
    if value not in row["purpose"]:
        if any(OPPOSITE.get(value) in network["purpose"] for network in call.db.table("network").values()):
            raise refuse("NETWORK_INCOMPATIBLE_PURPOSES", value, OPPOSITE[value])
        call.db.write(row, purpose=[value, *row["purpose"]])
    return ""


@verb("purpose")
def remove_purpose(call: Call, ref: str, value: str) -> str:
    row = call.db.get("network", ref)
    call.db.write(row, purpose=[purpose for purpose in row["purpose"] if purpose != value])
    return ""
