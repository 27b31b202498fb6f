"""Bonds: several cards as one. Since 6.0 what its members carried moves to a bond, and back to its primary member.

Up to 5.6 FP1 a bond was only written down: whoever made one moved the address, the VLANs and the guests.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from xenctl.datamodel import Order

from .. import hosts, network_rules, pifs, rules
from ..addresses import is_mac
from ..call import Call, Steps, refuse
from ..store import NULL, Row
from . import tunnel, verbs_of, vlan
from . import vm_moves as vms
from .generic import make

verb = verbs_of("Bond")

WRITES = ("*", "PIF.*", "PIF_metrics.*", "VLAN.*", "tunnel.*", "VIF.network", "Cluster_host.PIF")


@dataclass(frozen=True)
class Property:
    """One property of a bond: what it is where nobody says, empty for nothing, which values it may have, and since when."""

    default: str
    valid: Callable[[str], bool]
    since: Order = rules.CREAM


PROPERTIES: dict[str, dict[str, Property]] = {
    "lacp": {
        "hashing_algorithm": Property("tcpudp_ports", {"src_mac", "tcpudp_ports"}.__contains__, rules.TAMPA),
        "lacp-time": Property("slow", {"fast", "slow"}.__contains__),
        "lacp-aggregation-key": Property("", lambda text: text.lstrip("-").isdecimal()),
        "lacp-fallback-ab": Property("true", {"true", "false"}.__contains__),
    },
}
"""The properties of bonds, by mode; other modes have none."""


# --- properties


def _known(call: Call, mode: str) -> dict[str, Property]:
    return {name: one for name, one in PROPERTIES.get(mode, {}).items() if call.at_least(one.since)}


def _is_valid(call: Call, mode: str, name: str, value: str) -> bool:
    known = _known(call, mode).get(name)
    return known is not None and known.valid(value)


def _assert_valid(call: Call, mode: str, name: str, value: str) -> None:
    if not _is_valid(call, mode, name, value):
        raise refuse("INVALID_VALUE", "properties", f"{name} = {value}")


def _completed(call: Call, mode: str, properties: dict[str, str]) -> dict[str, str]:
    """Properties, with the defaults of those left out."""
    known = _known(call, mode)
    left_out = {name: known[name].default for name in known if name not in properties and known[name].default}
    return {**left_out, **properties}


@verb("mode", "properties", "PIF.other_config", *pifs.MOVED)
def set_mode(call: Call, ref: str, value: str) -> str:
    row = call.db.get("Bond", ref)
    master = _contact(call, row)[1]
    kept = {name: text for name, text in row.get("properties", {}).items() if _is_valid(call, value, name, text)}
    call.db.write(row, mode=value, properties=_completed(call, value, kept))
    _tell_mode(call, master, value)
    pifs.bring_up(call, master)
    return ""


@verb("properties", *pifs.MOVED)
def set_property(call: Call, ref: str, name: str, value: str) -> str:
    row = call.db.get("Bond", ref)
    master = _contact(call, row)[1]
    _assert_valid(call, row["mode"], name, value)
    rest = {key: text for key, text in row["properties"].items() if key != name}
    call.db.write(row, properties={name: value, **rest})
    pifs.bring_up(call, master)
    return ""


def _tell_mode(call: Call, master: Row, mode: str) -> None:
    """What sets interfaces up in 6.0 does not look at bonds yet: the mode is told by the PIF, too."""
    if rules.BOSTON <= call.db.release.order < rules.TAMPA:
        call.db.write(master, other_config={**master["other_config"], "bond-mode": mode})


def _contact(call: Call, bond: Row) -> tuple[hosts.Contact, Row]:
    """The host that has a bond, to forward an operation to, and the bond's PIF."""
    master = call.db.get("PIF", bond["master"])
    return hosts.reached(call, master["host"]), master


# --- making


@verb(*WRITES)
def create(
    call: Call,
    network: str,
    members: list[str],
    MAC: str,  # noqa: N803
    mode: str,
    properties: dict[str, str],
) -> Steps:
    db = call.db
    if not members:
        raise refuse("PIF_BOND_NEEDS_MORE_MEMBERS")
    rows = [db.get("PIF", ref) for ref in dict.fromkeys(members)]
    host, target = rows[0]["host"], db.get("network", network)
    contact = hosts.contact(call.pool, db.get("host", host))
    network_rules.assert_managed(target)
    pifs.assert_no_other(db, host, network)
    pifs.assert_no_sriov_network(db, target, "NETWORK_INCOMPATIBLE_WITH_BOND")
    if MAC and not is_mac(MAC):
        raise refuse("MAC_INVALID", MAC)
    for name, value in properties.items():
        _assert_valid(call, mode, name, value)
    primary = _primary(call, rows) if call.at_least(rules.BOSTON) else rows[0]
    _assert_can_bond(call, rows, primary)
    yield call.pool.durations.device
    contact.check()
    then = not call.at_least(rules.BOSTON)
    master = pifs.make(
        call,
        device=pifs.numbered(db, host, "bond", lambda pif: bool(pif["bond_master_of"])),
        network=network,
        host=host,
        MAC=MAC or primary["MAC"],
        MTU=-1,
        metrics=pifs.make_metrics(call.pool, db) if call.at_least(rules.CLEARWATER) else NULL,
        primary_address_type=pifs.address_type_on(call, primary),
        properties=primary.get("properties", {}),
    )
    fields = {"mode": mode, "properties": _completed(call, mode, properties), "auto_update_mac": not MAC}
    bond = make(call, "Bond", fields, master=master.ref, primary_slave=NULL if then else primary.ref)
    carried = _Carried.by(call, host, rows)
    for row in rows:
        db.write(row, bond_slave_of=bond.ref)
    _tell_mode(call, master, mode)
    if not then:
        carried.move(call, primary, master)
        for row in () if call.at_least(rules.CLEARWATER) else rows:
            db.write(row, **pifs.NO_ADDRESS)
        if any(row["disallow_unplug"] for row in rows):
            for row in rows:
                db.write(row, disallow_unplug=False)
            db.write(master, disallow_unplug=True)
    return bond.ref


def _primary(call: Call, members: list[Row]) -> Row:
    """The member whose address the bond takes over: the management interface, else one with an address, else the first."""
    managing = [pif for pif in members if pif["management"]]
    return [*managing, *_with_address(call, members), *members][0]


def _with_address(call: Call, members: list[Row]) -> list[Row]:
    def mode(pif: Row) -> str:
        six = pifs.address_type_on(call, pif) == "IPv6"
        return str(pif["ipv6_configuration_mode" if six else "ip_configuration_mode"])

    return [pif for pif in members if mode(pif) != "None"]


def _assert_can_bond(call: Call, members: list[Row], primary: Row) -> None:
    """Raise the first reason why PIFs cannot be one bond."""
    db = call.db
    for pif in members:
        if pifs.address_type_on(call, pif) != pifs.address_type_on(call, primary):
            raise refuse("PIF_INCOMPATIBLE_PRIMARY_ADDRESS_TYPE", pif.ref)
    for pif in members:
        _assert_can_join(call, pif)
    if len({pif["host"] for pif in members}) != 1:
        raise refuse("PIF_CANNOT_BOND_CROSS_HOST")
    if not call.at_least(rules.BOSTON):
        return
    if any(pif.get("properties") != members[0].get("properties") for pif in members):
        raise refuse("INCOMPATIBLE_PIF_PROPERTIES")
    if call.at_least(rules.DUNDEE) and len(_with_address(call, members)) > 1:
        raise refuse("PIF_BOND_MORE_THAN_ONE_IP")
    for row in [row for pif in members for row in pifs.vlans_on(db, pif)]:
        network_rules.assert_no_trunks(db, db.get("network", db.get("PIF", row["untagged_PIF"])["network"]))


def _assert_can_join(call: Call, pif: Row) -> None:
    """Who manages a member was looked at last up to 7.4."""
    if call.at_least(rules.KOLKATA):
        pifs.assert_managed(call.db, pif)
    if network_rules.bonded(call.db, pif):
        raise refuse("PIF_ALREADY_BONDED", pif.ref)
    what = pifs.kind(call.db, pif)
    if what == "vlan":
        raise refuse("PIF_VLAN_EXISTS", pif["device_name"])
    if what == "tunnel" and call.at_least(rules.BOSTON):
        raise refuse("IS_TUNNEL_ACCESS_PIF", pif.ref)
    if what == "sriov":
        raise refuse("PIF_IS_SRIOV_LOGICAL", pif.ref)
    _assert_management_may_move(call, pif)
    pifs.assert_managed(call.db, pif)


def _assert_management_may_move(call: Call, pif: Row) -> None:
    if call.at_least(rules.TAMPA) and call.db.pool().get("ha_enabled") and pif["management"]:
        raise refuse("HA_CANNOT_CHANGE_BOND_STATUS_OF_MGMT_IFACE")


# --- unmaking


@verb(*WRITES)
def destroy(call: Call, ref: str) -> Steps:
    """What the bond carried goes to its primary member."""
    row, db = call.db.get("Bond", ref), call.db
    contact, master = _contact(call, row)
    then = not call.at_least(rules.BOSTON)
    if then:
        pifs.assert_no_vlans(db, master)
        pifs.assert_not_management(db, master)
        pifs.assert_idle(db, master)
    _assert_management_may_move(call, master)
    members = [db.get("PIF", member) for member in row["slaves"]]
    yield call.pool.durations.device
    contact.check()
    plugged, fixed = master["currently_attached"], master["disallow_unplug"]
    primary = db.find("PIF", row.get("primary_slave", NULL)) or members[0]
    carried = _Carried.by(call, master["host"], [master])
    if not then:
        for member in members:
            db.write(member, bond_slave_of=NULL)
        carried.move(call, master, primary)
        if plugged:
            for member in members:
                pifs.bring_up(call, member)
        if fixed:
            db.write(primary, disallow_unplug=True)
    db.delete(row)
    pifs.drop(call, master)
    return ""


# --- moving


@dataclass(frozen=True)
class _Carried:
    """What some PIFs of a host carry: VLANs, tunnels, and the VIFs of guests that can run on this host only."""

    host: str
    pifs: list[Row]
    vifs: list[Row]
    vlans: list[Row]
    tunnels: list[Row]

    @classmethod
    def by(cls, call: Call, host: str, carriers: list[Row]) -> _Carried:
        db = call.db
        networks = [db.get("network", pif["network"]) for pif in carriers]
        return cls(
            host,
            carriers,
            vifs=[vif for network in networks for vif in _local_vifs(call, host, network)],
            vlans=[row for pif in carriers for row in pifs.vlans_on(db, pif)],
            tunnels=[row for pif in carriers for row in pifs.tunnels_on(db, pif)],
        )

    def move(self, call: Call, source: Row, target: Row) -> None:
        """Give `target` the address of `source` and all that is carried."""
        db, managing = call.db, [pif for pif in self.pifs if pif["management"]]
        pifs.move_address(call, source, target)
        if managing:
            pifs.move_management(call, managing[0], target)
        else:
            pifs.bring_up(call, target)
        for row in self.vlans:
            _move_vlan(call, self.host, row, target)
        for row in self.tunnels:
            _move_tunnel(call, row, target)
        pifs.move_vifs(call, self.vifs, db.get("network", target["network"]), self.host)
        ours = {pif.ref for pif in self.pifs}
        for member in db.table("Cluster_host").values():
            if member["host"] == self.host and member["PIF"] in ours:
                db.write(member, PIF=target.ref)


def _local_vifs(call: Call, host: str, network: Row) -> list[Row]:
    """The VIFs on a network whose VMs are on `host`, or can start there only or nowhere."""
    return [vif for vif in network_rules.vifs_of(call.db, network) if _is_local(call, host, vif["VM"])]


def _is_local(call: Call, host: str, vm: str) -> bool:
    home = call.db.get("VM", vm)["resident_on"]
    if call.db.find("host", home) is not None:
        return bool(home == host)
    return set(vms.get_possible_hosts(call, vm)) <= {host}


def _move_vlan(call: Call, host: str, row: Row, target: Row) -> None:
    """Put a VLAN on another PIF: a new one, or the one with its tag that is there already. Only since 7.3 it gets the
    address of the old one."""
    db = call.db
    old = db.get("PIF", row["untagged_PIF"])
    network = db.get("network", old["network"])
    there = next((other for other in pifs.vlans_on(db, target) if other["tag"] == row["tag"]), None)
    if there is not None:
        new = db.get("PIF", there["untagged_PIF"])
        pifs.move_vifs(call, _local_vifs(call, host, network), db.get("network", new["network"]), host)
    else:
        new = vlan.create_on(call, target, row["tag"], network)[1]
    if call.at_least(rules.INVERNESS):
        pifs.move_address(call, old, new)
    if old["management"]:
        pifs.move_management(call, old, new)
    elif old["currently_attached"]:
        pifs.bring_up(call, new)
    db.delete(row)
    pifs.drop(call, old)


def _move_tunnel(call: Call, row: Row, target: Row) -> None:
    """Put a tunnel on another PIF: a new one on the same network."""
    db = call.db
    old = db.get("PIF", row["access_PIF"])
    new = tunnel.create_on(call, target, db.get("network", old["network"]), row.get("protocol", "gre"))[1]
    if old["currently_attached"]:
        pifs.bring_up(call, new)
    db.delete(row)
    pifs.drop(call, old)
