"""Physical interfaces: found and forgotten, plugged and unplugged, given addresses."""

from __future__ import annotations

import re
from typing import Any

from .. import hosts, network_rules, pifs, rules
from ..addresses import assert_cidr, assert_ip, is_ip, is_mac
from ..busy import in_progress
from ..call import Call, Steps, refuse
from ..startup import synchronise_management
from ..store import Row
from . import verbs_of, vlan
from .generic import make

verb = verbs_of("PIF")

ALSO_A_VLAN = ("*", "VLAN.*", "PIF_metrics.*")
FOUND = ("*", "PIF_metrics.*", "network.*")


def _contact(call: Call, pif: Row) -> hosts.Contact:
    """The host whose interface it is, to forward an operation to."""
    return hosts.reached(call, pif["host"])


# --- VLANs, as they were made before 4.1


@verb(*ALSO_A_VLAN)
def create_VLAN(call: Call, device: str, network: str, host: str, VLAN: int) -> Steps:  # noqa: N803
    pool_host = call.db.get("host", host)
    hosts.contact(call.pool, pool_host)
    own = (call.db.get("PIF", ref) for ref in pool_host["PIFs"])
    base = next((pif for pif in own if pif["device"] == device and pif["VLAN"] == -1), None)
    if base is None:
        raise refuse("INVALID_VALUE", "device", device)
    made = yield from vlan.create(call, base.ref, VLAN, network)
    row = call.db.find("VLAN", made)
    return row["untagged_PIF"] if row is not None else made


@verb(*ALSO_A_VLAN)
def destroy(call: Call, ref: str) -> Steps:
    row = call.db.get("PIF", ref)
    if row["VLAN"] < 0 and call.at_least(rules.BOSTON):
        raise refuse("PIF_IS_PHYSICAL")
    return (yield from vlan.destroy_pif(call, row))


# --- found and forgotten


def _bridge_of(device: str) -> str:
    """The bridge that belongs to a card, by custom."""
    return f"xenbr{device[3:]}" if device.startswith("eth") else f"br{device}"


def _network_of(call: Call, device: str, *, managed: bool) -> Row:
    """The network of a card's bridge, which is made where there is none. Only since the toolstack's version 24.29 that of a
    card which xapi does not manage is not managed either, and has no bridge."""
    managed = managed or not call.at_least(rules.UNMANAGED_NETWORKS)
    bridge = _bridge_of(device) if managed else ""
    found = [network for network in call.db.table("network").values() if network["bridge"] == bridge]
    if len(found) == 1:
        return found[0]
    label = f"Pool-wide network associated with {device}"
    return make(call, "network", {"name_label": label, "bridge": bridge, "managed": managed, "MTU": pifs.DEFAULT_MTU})


def _add(call: Call, host: str, device: str, mac: str, *, managed: bool = True) -> Row:
    network = _network_of(call, device, managed=managed)
    metrics, properties = pifs.make_metrics(call.pool, call.db, physical=True), dict(pifs.GRO)
    more: dict[str, Any] = {"physical": True, "metrics": metrics, "managed": managed, "properties": properties}
    return pifs.make(
        call, device=device, network=network.ref, host=host, MAC=mac, MTU=pifs.DEFAULT_MTU, IPv6=[], **more
    )


@verb(*FOUND)
def introduce(call: Call, host: str, MAC: str, device: str, managed: bool) -> str:  # noqa: N803
    pool_host = call.db.get("host", host)
    cards = dict(hosts.contact(call.pool, pool_host).machine.nics)
    known = pifs.physical_pifs(call.db, pool_host)
    if not call.at_least(rules.BOSTON):
        return _introduce_then(call, host, MAC, device, cards, known)
    mac = MAC.lower() or cards.get(device, "")
    if not is_mac(mac):
        raise refuse("MAC_INVALID", mac)
    if any(pif["device"] == device for pif in known):
        raise refuse("DUPLICATE_PIF_DEVICE_NAME", device)
    if cards.get(device) != mac:
        code = "COULD_NOT_FIND_NETWORK_INTERFACE_WITH_SPECIFIED_DEVICE_NAME_AND_MAC_ADDRESS"
        raise refuse(code, device, mac)
    return _add(call, host, device, mac, managed=managed).ref


def _introduce_then(call: Call, host: str, given: str, device: str, cards: dict[str, str], known: list[Row]) -> str:
    """Up to 5.6 FP1 a card was known by its MAC alone, and one that had a PIF got none anew."""
    if not is_mac(given):
        raise refuse("MAC_INVALID", given)
    mac = given.lower()
    if call.at_least(rules.COWLEY) and any(pif["device"] == device for pif in known):
        raise refuse("DUPLICATE_PIF_DEVICE_NAME", device)
    if mac not in cards.values():
        raise refuse("MAC_DOES_NOT_EXIST", mac)
    found = next((pif for pif in known if pif["MAC"] == mac), None)
    return found.ref if found is not None else _add(call, host, device, mac).ref


@verb(*FOUND)
def scan(call: Call, host: str) -> Steps:
    """PIFs for the cards that have none; those of the others get the MAC that their card has now, and the one that the host
    is reached by is known as that. Up to 5.6 FP1 a card with another MAC is another one."""
    pool_host = call.db.get("host", host)
    contact = hosts.contact(call.pool, pool_host)
    yield call.pool.durations.device
    machine = contact.check()
    name = "device" if call.at_least(rules.BOSTON) else "MAC"
    known = {pif[name]: pif for pif in pifs.physical_pifs(call.db, pool_host)}
    for device, mac in machine.nics:
        found = known.get({"device": device, "MAC": mac}[name])
        if found is None:
            _add(call, host, device, mac)
        else:
            call.db.write(found, MAC=mac)
    synchronise_management(call.pool, machine, pool_host)
    return ""


@verb(*FOUND)
def forget(call: Call, ref: str) -> Steps:
    row, db = call.db.get("PIF", ref), call.db
    contact = _contact(call, row)
    if call.at_least(rules.CREAM):
        pifs.assert_not_management(db, row)
    pifs.assert_not_in_bond(db, row)
    pifs.assert_no_vlans(db, row)
    pifs.assert_no_tunnels(db, row)
    pifs.assert_not_members_management(db, row)
    pifs.assert_not_for_liveness(db, row)
    if call.at_least(rules.MIDNIGHT_RIDE):
        pifs.assert_unprotected(db, row)
    pifs.assert_no_sriov(db, row)
    pifs.assert_no_clustering(db, row)
    if not call.at_least(rules.BOSTON):
        pifs.assert_idle(db, row)
    yield call.pool.durations.device
    contact.check()
    pifs.drop(call, row)
    return ""


@verb(*FOUND)
def db_introduce(call: Call, *values: Any) -> str:
    """A row as it is told, attached to nothing; its arguments are those of the message, in order."""
    given = dict(zip((param.name for param in call.message.params), values, strict=True))
    network = call.db.get("network", given["network"])
    call.db.get("host", given["host"])
    if given["VLAN"] != -1:
        network_rules.assert_no_trunks(call.db, network)
    given.pop("bond_slave_of")
    return pifs.make(
        call, **given, metrics=pifs.make_metrics(call.pool, call.db, physical=given.get("physical", True))
    ).ref


@verb(*FOUND)
def pool_introduce(call: Call, *values: Any) -> str:
    """A joining member's PIF."""
    return str(db_introduce(call, *values))


@verb("*")
def db_forget(call: Call, ref: str) -> str:
    call.db.delete(call.db.get("PIF", ref))
    return ""


# --- up and down


@verb(*pifs.MOVES)
def plug(call: Call, ref: str) -> Steps:
    row = call.db.get("PIF", ref)
    contact = _contact(call, row)
    needed = list(_needed(call, row))
    yield call.pool.durations.device
    contact.check()
    for pif in needed:
        pifs.bring_up(call, pif)
    return ""


def _needed(call: Call, pif: Row) -> list[Row]:
    """The PIFs to bring up, the one beneath first. Raises for one that cannot be."""
    pifs.assert_managed(call.db, pif)
    pifs.assert_not_bonded(call, pif)
    pifs.assert_displaceable(call.db, pif)
    what, below = pifs.kind(call.db, pif), pifs.beneath(call.db, pif)
    if below is None:
        return [pif]
    if what == "tunnel" and below["ip_configuration_mode"] == "None":
        raise refuse("TRANSPORT_PIF_NOT_CONFIGURED", below.ref)
    if what == "vlan" and pifs.kind(call.db, below) != "sriov":
        return [pif]
    return [*_needed(call, below), pif]


@verb(*pifs.MOVES)
def unplug(call: Call, ref: str) -> Steps:
    row = call.db.get("PIF", ref)
    contact = _contact(call, row)
    pifs.assert_can_unplug(call, row)
    yield call.pool.durations.device
    contact.check()
    pifs.bring_down(call, row)
    return ""


# --- addresses


def _restricted(kind: str, dns: str) -> list[str]:
    """The name servers of one kind of address, of a list with commas."""
    return [address for address in dns.split(",") if is_ip(kind, address)]


def _name_servers(call: Call, kind: str, given: str, known: str) -> str:
    """The name servers that a PIF has when those of one kind of address are given. Before XenServer 8 they replaced all, or
    none if none were given with an IPv6 address, or in 6.1 and 6.2 with any."""
    if call.at_least(rules.NILE):
        other = {"ipv4": "ipv6", "ipv6": "ipv4"}[kind]
        return ",".join([*_restricted(kind, given), *_restricted(other, known)])
    keeps = kind == "ipv6" or rules.TAMPA <= call.db.release.order < rules.CREAM
    return known if keeps and not given else given


def _assert_name_servers(call: Call, kind: str, given: str) -> None:
    """Each must be an address of the kind that is set, from 7.1 on; XenServer 8 passes over those that are none."""
    if given and rules.ELY <= call.db.release.order < rules.NILE:
        for address in given.split(","):
            assert_ip(kind, "DNS", address)


def _assert_address(call: Call, kind: str, name: str, address: str) -> None:
    """Up to 6.5 any kind of address did."""
    other = {"ipv4": "ipv6", "ipv6": "ipv4"}[kind]
    if call.at_least(rules.DUNDEE) or not is_ip(other, address):
        assert_ip(kind, name, address)


def _assert_prefixed(call: Call, address: str) -> None:
    """An IPv6 address with the length of its prefix; up to 6.5 the error said in words what is wrong with that."""
    if call.at_least(rules.DUNDEE):
        assert_cidr("ipv6", "IPv6", address)
        return
    host, slash, length = address.partition("/")
    if not slash:
        raise refuse("INVALID_IP_ADDRESS_SPECIFIED", "Prefix length must be specified (format: <ipv6>/<prefix>")
    _assert_address(call, "ipv6", "IPv6", host)
    if not re.fullmatch(r"-?[0-9]+", length):
        raise refuse("INVALID_IP_ADDRESS_SPECIFIED", f"Cannot parse prefix length '{length}'")
    if not 0 <= int(length) <= 128:
        raise refuse("INVALID_IP_ADDRESS_SPECIFIED", "Prefix length must be between 0 and 128")


def _assert_may_change(call: Call, row: Row, given: dict[str, Any], mode: str) -> None:
    """High availability and clusters keep the address as it is; since 8.2 a static one may be set that is there already."""
    same = mode == "Static" and all(row[name] == value for name, value in given.items())
    if not (same and call.at_least(rules.STOCKHOLM)):
        pifs.assert_unprotected(call.db, row)
        pifs.assert_no_clustering(call.db, row)


@verb("ip_configuration_mode", "IP", "netmask", "gateway", "DNS", "host.address", "console.location", *pifs.MOVES)
def reconfigure_ip(
    call: Call,
    ref: str,
    mode: str,
    IP: str,  # noqa: N803
    netmask: str,
    gateway: str,
    DNS: str,  # noqa: N803
) -> Steps:
    row, db = call.db.get("PIF", ref), call.db
    contact = _contact(call, row)
    pifs.assert_managed(db, row)
    given = {"ip_configuration_mode": mode, "IP": IP, "netmask": netmask, "gateway": gateway}
    _assert_may_change(call, row, given, mode)
    for name, value in (("IP", IP), ("netmask", netmask), ("gateway", gateway)):
        if value or (mode == "Static" and name != "gateway"):
            _assert_address(call, "ipv4", name, value)
    _assert_name_servers(call, "ipv4", DNS)
    management = row.get("management", False)
    if management and mode == "None" and row.get("primary_address_type", "IPv4") == "IPv4":
        raise refuse("PIF_IS_MANAGEMENT_INTERFACE", ref)
    dns = _name_servers(call, "ipv4", DNS, row["DNS"])
    yield call.pool.durations.device
    machine = contact.check()
    db.write(row, **given, DNS=dns)
    if row["currently_attached"]:
        pifs.bring_up(call, row)
        if management and mode == "DHCP":  # the lease that the host has
            db.write(row, IP=machine.address)
    if management and mode == "Static" and machine.address != IP:
        # Whoever talks to the host under its old address does not reach it any more.
        machine.address = IP
        hosts.readdress(db, contact.host, IP)
    return ""


@verb("ipv6_configuration_mode", "IPv6", "ipv6_gateway", "DNS", *pifs.MOVES)
def reconfigure_ipv6(call: Call, ref: str, mode: str, IPv6: str, gateway: str, DNS: str) -> Steps:  # noqa: N803
    row, db = call.db.get("PIF", ref), call.db
    contact = _contact(call, row)
    pifs.assert_managed(db, row)
    given: dict[str, Any] = {"ipv6_configuration_mode": mode, "IPv6": [IPv6], "ipv6_gateway": gateway}
    _assert_may_change(call, row, given, mode)
    if gateway:
        _assert_address(call, "ipv6", "gateway", gateway)
    if IPv6:
        _assert_prefixed(call, IPv6)
    _assert_name_servers(call, "ipv6", DNS)
    if row["management"] and mode == "None" and row["primary_address_type"] == "IPv6":
        raise refuse("PIF_IS_MANAGEMENT_INTERFACE", ref)
    dns = _name_servers(call, "ipv6", DNS, row["DNS"])
    yield call.pool.durations.device
    contact.check()
    db.write(row, **given, DNS=dns)
    if row["currently_attached"]:
        pifs.bring_up(call, row)
    return ""


@verb("primary_address_type")
def set_primary_address_type(call: Call, ref: str, primary_address_type: str) -> str:
    row = call.db.get("PIF", ref)
    _contact(call, row)
    pifs.assert_unprotected(call.db, row)
    pifs.assert_not_management(call.db, row)
    call.db.write(row, primary_address_type=primary_address_type)
    return ""


# --- settings


@verb("properties", *pifs.MOVES)
def set_property(call: Call, ref: str, name: str, value: str) -> str:
    """Of a card or a bond; a bond's members follow."""
    row, db = call.db.get("PIF", ref), call.db
    _contact(call, row)
    if value not in pifs.PROPERTIES.get(name, ()):
        raise refuse("INVALID_VALUE", "properties", f"{name} = {value}")
    if not (row["bond_master_of"] or row["physical"]) or network_rules.bonded(db, row):
        raise refuse("CANNOT_CHANGE_PIF_PROPERTIES", ref)
    properties = {name: value, **{key: old for key, old in row["properties"].items() if key != name}}
    db.write(row, properties=properties)
    for bond in row["bond_master_of"]:
        for member in db.get("Bond", bond)["slaves"]:
            db.write(db.get("PIF", member), properties=properties)
    return ""


@verb("disallow_unplug")
def set_disallow_unplug(call: Call, ref: str, value: bool) -> str:
    row = call.db.get("PIF", ref)
    if row["disallow_unplug"] != value:
        if not value:
            pifs.assert_no_clustering(call.db, row)
            _assert_no_cluster_joins(call)
        call.db.write(row, disallow_unplug=value)
    return ""


def _assert_no_cluster_joins(call: Call) -> None:
    for cluster in list(call.db.table("Cluster").values())[:1]:
        for task, going in cluster["current_operations"].items():
            if going in ("enable", "add"):
                raise in_progress(call.db, "Cluster", cluster.ref, going, task)
