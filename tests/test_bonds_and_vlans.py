"""VLANs, tunnels, bonds and virtual functions: what they may be made of, and what moves with them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from networks import cards, get, network, pif, vif

Make = Callable[..., Any]
NULL = "OpaqueRef:NULL"


@pytest.fixture
def c(calls: Make) -> Any:
    return calls(release="8.2", hosts=2, vms=12)


# --- VLANs


@pytest.mark.parametrize(
    ("release", "plugged", "shares"),
    [("4.1", False, False), ("5.6.100", False, False), ("6.0", True, False), ("6.1", True, True), ("8.2", True, True)],
)
def test_a_vlan_has_a_pif_of_its_own(calls: Make, release: str, plugged: bool, shares: bool) -> None:
    """On its network, with its tag and the device beneath; since 6.0 it is plugged, since 6.1 it shares the metrics."""
    c = calls(release=release, hosts=2)
    net, base = network(c), pif(c)
    ref = c("VLAN.create", base.ref, 7, net.ref)
    vlan = get(c, "VLAN", ref)
    untagged = get(c, "PIF", vlan["untagged_PIF"])
    assert (vlan["tag"], vlan["tagged_PIF"], untagged["VLAN"], untagged["device"]) == (7, base.ref, 7, "eth0")
    assert (base["VLAN_slave_of"], untagged["VLAN_master_of"], net["PIFs"]) == ([ref], ref, [untagged.ref])
    assert untagged["MAC"] == "fe:ff:ff:ff:ff:ff"
    assert untagged["currently_attached"] is plugged
    assert (untagged["metrics"] == base["metrics"]) is shares
    c("VLAN.destroy", ref)
    assert (base["VLAN_slave_of"], net["PIFs"]) == ([], [])
    assert c.pool.store.find("PIF", untagged.ref) is None


def test_what_a_vlan_may_be_on(c: Any) -> None:
    """The reasons in xapi's order: the network, the PIF, the tag, and what is there already."""
    base, net = pif(c), network(c)
    used = get(c, "network", base["network"])
    assert c.refused("VLAN.create", base.ref, 7, used.ref) == ["NETWORK_ALREADY_CONNECTED", base["host"], base.ref]
    theirs = network(c, managed=False)
    assert c.refused("VLAN.create", base.ref, 7, theirs.ref) == ["NETWORK_UNMANAGED", theirs.ref]
    for tag in (-1, 4095):
        assert c.refused("VLAN.create", base.ref, tag, net.ref) == ["VLAN_TAG_INVALID", str(tag)]
    vlan = get(c, "VLAN", c("VLAN.create", base.ref, 7, net.ref))
    other = network(c).ref
    assert c.refused("VLAN.create", base.ref, 7, other) == ["PIF_VLAN_EXISTS", "eth0"]
    assert c.refused("VLAN.create", vlan["untagged_PIF"], 8, other) == ["PIF_IS_VLAN", vlan["untagged_PIF"]]
    first, second = cards(c)
    c("Bond.create", network(c).ref, [first.ref, second.ref], "")
    assert c.refused("VLAN.create", first.ref, 7, other) == ["CANNOT_ADD_VLAN_TO_BOND_SLAVE", first.ref]
    assert c.refused("PIF.plug", first.ref) == ["CANNOT_PLUG_BOND_SLAVE", first.ref]


@pytest.mark.parametrize("release", ["4.0.1", "4.1", "8.2"])
def test_a_vlan_is_made_by_device_as_in_the_first_release(calls: Make, release: str) -> None:
    """And destroyed by its PIF; 4.0.1 had no other way, and no record of VLANs."""
    c = calls(release=release, hosts=2)
    host, net = c.host("host1").ref, network(c).ref
    assert c.refused("PIF.create_VLAN", "eth9", net, host, 7) == ["INVALID_VALUE", "device", "eth9"]
    ref = c("PIF.create_VLAN", "eth0", net, host, 7)
    assert get(c, "PIF", ref)["VLAN"] == 7
    assert len(c.pool.store.table("VLAN")) == (0 if release == "4.0.1" else 1)
    assert c.refused("PIF.destroy", pif(c).ref) in (["PIF_IS_PHYSICAL"], ["PIF_IS_MANAGEMENT_INTERFACE", pif(c).ref])
    c("PIF.destroy", ref)
    assert c.pool.store.find("PIF", ref) is None
    assert not c.pool.store.table("VLAN")


def test_a_vlan_without_its_pif_can_be_destroyed(c: Any) -> None:
    vlan = get(c, "VLAN", c("VLAN.create", pif(c).ref, 7, network(c).ref))
    c("PIF.db_forget", vlan["untagged_PIF"])
    c("VLAN.destroy", vlan.ref)
    assert not c.pool.store.table("VLAN")


def test_a_joining_members_vlan_takes_over_metrics(c: Any) -> None:
    first, second = cards(c)
    old = second["metrics"]
    ref = c("VLAN.pool_introduce", first.ref, second.ref, 7, {})
    assert (second["VLAN_master_of"], second["metrics"]) == (ref, first["metrics"])
    assert c.pool.store.find("PIF_metrics", old) is None


@pytest.mark.parametrize("release", ["5.6", "8.2"])
def test_what_a_redo_log_may_need_stays_attached(calls: Make, release: str) -> None:
    """While it is on, no card that is up is forgotten or set anew."""
    c = calls(release=release, hosts=1, vms=0)
    c.pool.machine("host1").nics = (*c.pool.machine("host1").nics, ("eth1", "00:16:3e:cc:00:01"))
    c("PIF.scan", c.host("host1").ref)
    card = next(pif for pif in c.pool.store.table("PIF").values() if pif["device"] == "eth1")
    c("PIF.plug", card.ref)
    c.pool.store.write(c.pool.store.pool(), redo_log_enabled=True)
    for ask in (("PIF.forget",), ("PIF.unplug",), ("PIF.reconfigure_ip", "DHCP", "", "", "", "")):
        assert c.refused(ask[0], card.ref, *ask[1:]) == ["REDO_LOG_IS_ENABLED"]
    assert card["currently_attached"]
    c.pool.store.write(c.pool.store.pool(), redo_log_enabled=False)
    c("PIF.forget", card.ref)
    assert c.pool.store.find("PIF", card.ref) is None


# --- tunnels


def test_a_tunnel_needs_the_other_backend_and_an_address(c: Any) -> None:
    """It has an access PIF; both ends come up. One made where there is no address stays, unplugged. Whoever carries one is
    not forgotten."""
    (first, second), net = cards(c), network(c)
    host = c.host("host1")
    told = host["software_version"]
    c.pool.store.write(host, software_version={**told, "network_backend": "bridge"})
    assert c.refused("tunnel.create", first.ref, net.ref) == ["OPENVSWITCH_NOT_ACTIVE"]
    c.pool.store.write(host, software_version=told)
    assert c.refused("tunnel.create", first.ref, net.ref) == ["TRANSPORT_PIF_NOT_CONFIGURED", first.ref]
    (left,) = c.pool.store.table("tunnel")
    assert not get(c, "PIF", get(c, "tunnel", left)["access_PIF"])["currently_attached"]
    c("tunnel.destroy", left)
    c("PIF.reconfigure_ip", first.ref, "DHCP", "", "", "", "")
    row = get(c, "tunnel", c("tunnel.create", first.ref, net.ref))
    access = get(c, "PIF", row["access_PIF"])
    assert (access["device"], access["currently_attached"], first["currently_attached"]) == ("tunnel0", True, True)
    assert first["tunnel_transport_PIF_of"] == [row.ref]
    for ref in (first.ref, access.ref):
        assert c.refused("PIF.forget", ref) == ["PIF_TUNNEL_STILL_EXISTS", ref]
    other = network(c).ref
    assert c.refused("tunnel.create", access.ref, other) == ["IS_TUNNEL_ACCESS_PIF", access.ref]
    assert c.refused("VLAN.create", access.ref, 7, other) == ["IS_TUNNEL_ACCESS_PIF", access.ref]
    assert c.refused("Bond.create", other, [access.ref], "") == ["IS_TUNNEL_ACCESS_PIF", access.ref]
    c("Bond.create", network(c).ref, [second.ref], "")
    assert c.refused("tunnel.create", second.ref, other) == ["CANNOT_ADD_TUNNEL_TO_BOND_SLAVE", second.ref]
    c("PIF.unplug", first.ref)
    assert not access["currently_attached"]
    c("PIF.plug", access.ref)
    assert first["currently_attached"]
    c("tunnel.destroy", row.ref)
    assert not c.pool.store.table("tunnel")
    assert first["tunnel_transport_PIF_of"] == []


# --- bonds


def test_what_may_be_bonded(c: Any) -> None:
    """Cards of one host that are in no bond yet, one address among them, the same properties."""
    (first, second), net = cards(c), network(c).ref
    assert c.refused("Bond.create", net, [], "") == ["PIF_BOND_NEEDS_MORE_MEMBERS"]
    assert c.refused("Bond.create", net, [first.ref], "bad") == ["MAC_INVALID", "bad"]
    error = ["INVALID_VALUE", "properties", "hashing_algorithm = x"]
    assert c.refused("Bond.create", net, [first.ref], "", "lacp", {"hashing_algorithm": "x"}) == error
    error = ["INVALID_VALUE", "properties", "hashing_algorithm = src_mac"]
    assert c.refused("Bond.create", net, [first.ref], "", "balance-slb", {"hashing_algorithm": "src_mac"}) == error
    (there,) = cards(c, "host2", "eth1")
    assert c.refused("Bond.create", net, [first.ref, there.ref], "") == ["PIF_CANNOT_BOND_CROSS_HOST"]
    untagged = get(c, "VLAN", c("VLAN.create", first.ref, 7, network(c).ref))["untagged_PIF"]
    assert c.refused("Bond.create", net, [untagged, second.ref], "") == ["PIF_VLAN_EXISTS", "eth1"]
    for card in (first, second):
        c("PIF.reconfigure_ip", card.ref, "DHCP", "", "", "", "")
    assert c.refused("Bond.create", net, [first.ref, second.ref], "") == ["PIF_BOND_MORE_THAN_ONE_IP"]
    assert not c.pool.store.table("Bond")
    c("PIF.reconfigure_ip", second.ref, "None", "", "", "", "")
    c("Bond.create", net, [first.ref], "")
    assert c.refused("Bond.create", network(c).ref, [first.ref], "") == ["PIF_ALREADY_BONDED", first.ref]


@pytest.mark.parametrize("release", ["8.2", "8.4"])
def test_members_of_a_bond_may_have_other_types_of_address_up_to_8_2(calls: Make, release: str) -> None:
    c = calls(release=release)
    (first, second), net = cards(c), network(c).ref
    c("PIF.set_primary_address_type", second.ref, "IPv6")
    if release == "8.4":
        error = ["PIF_INCOMPATIBLE_PRIMARY_ADDRESS_TYPE", second.ref]
        assert c.refused("Bond.create", net, [first.ref, second.ref], "") == error
        return
    bond = get(c, "Bond", c("Bond.create", net, [second.ref, first.ref], ""))
    assert get(c, "PIF", bond["master"])["primary_address_type"] == "IPv4"


def test_a_bond_takes_over_what_its_members_carry(c: Any) -> None:
    """Address, management, VLANs and the guests of this host; and gives it back to its primary member."""
    eth0, (eth1, _) = pif(c), cards(c)
    c.pool.store.write(eth0, disallow_unplug=True)
    vlan_network, guests = network(c), get(c, "network", eth0["network"])
    old_vlan = get(c, "VLAN", c("VLAN.create", eth0.ref, 7, vlan_network.ref))
    here, there = vif(c, "vm01"), vif(c, "vm02")
    net = network(c, MTU=9000)
    bond = get(c, "Bond", c("Bond.create", net.ref, [eth1.ref, eth0.ref, eth0.ref], "", "lacp"))
    master = get(c, "PIF", bond["master"])
    assert (master["device"], master["MTU"], master["MAC"]) == ("bond0", 9000, eth0["MAC"])
    assert bond["properties"] == {"hashing_algorithm": "tcpudp_ports", "lacp-time": "slow", "lacp-fallback-ab": "true"}
    assert (set(bond["slaves"]), bond["primary_slave"]) == ({eth0.ref, eth1.ref}, eth0.ref)
    assert (master["management"], master["IP"], master["currently_attached"]) == (
        True,
        c.host("host1")["address"],
        True,
    )
    assert (eth0["management"], eth0["IP"], eth0["currently_attached"]) == (False, "", False)
    assert (master["disallow_unplug"], eth0["disallow_unplug"]) == (True, False)
    assert (here["network"], there["network"]) == (net.ref, guests.ref), "a guest of another host stays where it is"
    assert c.pool.store.find("VLAN", old_vlan.ref) is None
    (moved,) = master["VLAN_slave_of"]
    assert get(c, "PIF", get(c, "VLAN", moved)["untagged_PIF"])["network"] == vlan_network.ref
    c("Bond.destroy", bond.ref)
    assert (eth0["management"], eth0["currently_attached"], eth1["currently_attached"]) == (True, True, True)
    assert (eth0["disallow_unplug"], eth0["bond_slave_of"], eth1["bond_slave_of"]) == (True, NULL, NULL)
    assert here["network"] == guests.ref
    assert len(eth0["VLAN_slave_of"]) == 1
    assert c.pool.store.find("PIF", master.ref) is None


def test_a_bond_of_what_carries_a_tunnel_carries_it(c: Any) -> None:
    for host in c.pool.store.table("host").values():
        c.pool.store.write(host, software_version={**host["software_version"], "network_backend": "openvswitch"})
    (first, second), net = cards(c), network(c).ref
    c("PIF.reconfigure_ip", first.ref, "DHCP", "", "", "", "")
    old = c("tunnel.create", first.ref, net)
    bond = get(c, "Bond", c("Bond.create", network(c).ref, [first.ref, second.ref], ""))
    (moved,) = get(c, "PIF", bond["master"])["tunnel_transport_PIF_of"]
    assert moved != old
    access = get(c, "PIF", get(c, "tunnel", moved)["access_PIF"])
    assert (access["network"], access["currently_attached"]) == (net, True)


def test_two_vlans_with_one_tag_become_one(c: Any) -> None:
    """The second's guests go to the network of the first."""
    (first, second), one, two = cards(c), network(c), network(c)
    c("VLAN.create", first.ref, 7, one.ref)
    c("VLAN.create", second.ref, 7, two.ref)
    c("VIF.move", vif(c, "vm01").ref, two.ref)
    bond = get(c, "Bond", c("Bond.create", network(c).ref, [first.ref, second.ref], ""))
    assert len(get(c, "PIF", bond["master"])["VLAN_slave_of"]) == 1
    assert vif(c, "vm01")["network"] == one.ref


def test_modes_and_properties_of_a_bond_fit(c: Any) -> None:
    """Another mode drops what it does not know and adds its defaults."""
    first, second = cards(c)
    bond = get(c, "Bond", c("Bond.create", network(c).ref, [first.ref, second.ref], "00:16:3e:00:00:42"))
    assert (bond["mode"], bond["properties"], bond["auto_update_mac"]) == ("balance-slb", {}, False)
    assert get(c, "PIF", bond["master"])["MAC"] == "00:16:3e:00:00:42"
    c("Bond.set_mode", bond.ref, "lacp")
    c("Bond.set_property", bond.ref, "lacp-time", "fast")
    assert bond["properties"]["lacp-time"] == "fast"
    error = ["INVALID_VALUE", "properties", "lacp-aggregation-key = x"]
    assert c.refused("Bond.set_property", bond.ref, "lacp-aggregation-key", "x") == error
    c("Bond.set_mode", bond.ref, "active-backup")
    assert bond["properties"] == {}


def test_high_availability_keeps_management_where_it_is(c: Any) -> None:
    c.pool.store.write(c.pool.store.pool(), ha_enabled=True)
    error = ["HA_CANNOT_CHANGE_BOND_STATUS_OF_MGMT_IFACE"]
    assert c.refused("Bond.create", network(c).ref, [pif(c).ref], "") == error


def test_up_to_5_6_a_bond_was_only_written_down(calls: Make) -> None:
    """Nothing moves; one that carries a VLAN stays."""
    c = calls(release="5.5", hosts=2, vms=12)
    eth0, (eth1,) = pif(c), cards(c, "host1", "eth1")
    bond = get(c, "Bond", c("Bond.create", network(c).ref, [eth1.ref, eth0.ref], ""))
    master = get(c, "PIF", bond["master"])
    assert (master["currently_attached"], master["MAC"], eth0["management"]) == (False, eth1["MAC"], True)
    vlan = c("VLAN.create", master.ref, 7, network(c).ref)
    assert c.refused("Bond.destroy", bond.ref) == ["PIF_VLAN_STILL_EXISTS", master.ref]
    c("VLAN.destroy", vlan)
    c("Bond.destroy", bond.ref)
    assert eth0["bond_slave_of"] == bond.ref, "nobody clears it"
    assert c.pool.store.find("PIF", master.ref) is None


# --- virtual functions of cards


def functions(c: Any, device: str, vendor: str = "8086") -> tuple[Any, Any]:
    """The PIF of an SR-IOV network on a card, and the network."""
    (card,) = cards(c, "host1", device)
    store, net = c.pool.store, network(c)
    kind = {"host": card["host"], "pci_id": f"{device}.0", "vendor_id": vendor, "device_id": "1"}
    pci = store.create("PCI", c.pool.new_ref(), {"uuid": c.pool.new_uuid(), **kind})
    c.pool.machine("host1").virtual_functions[kind["pci_id"]] = 4
    store.write(card, PCI=pci.ref)
    fields = {
        "device": device,
        "device_name": device,
        "host": card["host"],
        "network": net.ref,
        "VLAN": -1,
        "MTU": 1500,
    }
    logical = store.create("PIF", c.pool.new_ref(), {"uuid": c.pool.new_uuid(), **fields})
    sriov = {"uuid": c.pool.new_uuid(), "physical_PIF": card.ref, "logical_PIF": logical.ref}
    store.create("network_sriov", c.pool.new_ref(), sriov)
    return logical, net


def test_networks_of_virtual_functions_are_kept_apart(c: Any) -> None:
    """They carry VLANs of their own kind, and neither bonds nor tunnels; the card under one is not forgotten."""
    logical, net = functions(c, "eth1")
    card, other = pif(c, "eth1"), network(c)
    assert logical is not card
    assert c.refused("PIF.forget", card.ref) == ["PIF_SRIOV_STILL_EXISTS", card.ref]
    assert c.refused("PIF.forget", logical.ref) == ["CANNOT_FORGET_SRIOV_LOGICAL", logical.ref]
    assert c.refused("Bond.create", other.ref, [logical.ref], "") == ["PIF_IS_SRIOV_LOGICAL", logical.ref]
    there = cards(c, "host2", "eth1")[0]
    assert c.refused("Bond.create", net.ref, [there.ref], "") == ["NETWORK_INCOMPATIBLE_WITH_BOND", net.ref]
    assert c.refused("tunnel.create", there.ref, net.ref) == ["NETWORK_INCOMPATIBLE_WITH_TUNNEL", net.ref]
    assert c.refused("tunnel.create", logical.ref, other.ref) == ["CANNOT_ADD_TUNNEL_TO_SRIOV_LOGICAL", logical.ref]
    untagged = get(c, "VLAN", c("VLAN.create", logical.ref, 7, other.ref))["untagged_PIF"]
    error = ["CANNOT_ADD_TUNNEL_TO_VLAN_ON_SRIOV_LOGICAL", untagged]
    assert c.refused("tunnel.create", untagged, network(c).ref) == error
    assert c.refused("VLAN.create", there.ref, 7, other.ref) == ["NETWORK_INCOMPATIBLE_WITH_VLAN_ON_BRIDGE", other.ref]


def test_a_vlan_on_virtual_functions_joins_its_like(c: Any) -> None:
    """Of the same kind of card; and is on nothing else."""
    logical, _ = functions(c, "eth1")
    plain, mine = network(c), network(c)
    c("VLAN.create", cards(c, "host2", "eth5")[0].ref, 7, plain.ref)
    error = ["NETWORK_INCOMPATIBLE_WITH_VLAN_ON_SRIOV", plain.ref]
    assert c.refused("VLAN.create", logical.ref, 8, plain.ref) == error
    c("VLAN.create", logical.ref, 7, mine.ref)
    c.pool.store.write(get(c, "PIF", mine["PIFs"][0]), host=c.host("host2").ref)
    foreign, _ = functions(c, "eth2", vendor="14e4")
    error = ["NETWORK_HAS_INCOMPATIBLE_VLAN_ON_SRIOV_PIFS", foreign.ref, mine.ref]
    assert c.refused("VLAN.create", foreign.ref, 7, mine.ref) == error


def test_guests_on_virtual_functions_are_not_hotplugged(c: Any) -> None:
    _, net = functions(c, "eth1")
    c.pool.store.write(vif(c, "vm01"), network=net.ref)
    error = ["OPERATION_NOT_ALLOWED", "Network SR-IOV VIF plug/unplug not allowed"]
    assert c.refused("VIF.unplug", vif(c, "vm01").ref) == error


def test_what_a_card_carries_goes_down_with_it(c: Any) -> None:
    """The network of its virtual functions, and the VLANs on that; each comes up with what is beneath."""
    logical, _ = functions(c, "eth1")
    untagged = get(c, "PIF", get(c, "VLAN", c("VLAN.create", logical.ref, 7, network(c).ref))["untagged_PIF"])
    card = get(c, "PIF", get(c, "network_sriov", logical["sriov_logical_PIF_of"][0])["physical_PIF"])
    c("PIF.plug", untagged.ref)
    assert card["currently_attached"] and logical["currently_attached"] and untagged["currently_attached"]
    c("PIF.unplug", card.ref)
    assert not (card["currently_attached"] or logical["currently_attached"] or untagged["currently_attached"])


def test_a_cluster_keeps_its_interface(c: Any) -> None:
    """While it is enabled there; a bond takes it over."""
    first, second = cards(c)
    store = c.pool.store
    fields = {"uuid": c.pool.new_uuid(), "PIF": first.ref, "host": c.host("host1").ref, "enabled": True}
    member = store.create("Cluster_host", c.pool.new_ref(), fields)
    c("PIF.set_disallow_unplug", first.ref, True)
    error = ["CLUSTERING_ENABLED", member.ref]
    assert c.refused("PIF.set_disallow_unplug", first.ref, False) == error
    assert c.refused("PIF.forget", first.ref) == error
    bond = get(c, "Bond", c("Bond.create", network(c).ref, [first.ref, second.ref], ""))
    assert member["PIF"] == bond["master"]
    cluster = store.create("Cluster", c.pool.new_ref(), {"uuid": c.pool.new_uuid()})
    store.write(member, enabled=False)
    store.write(cluster, current_operations={"task": "add"})
    error = ["OTHER_OPERATION_IN_PROGRESS", "Cluster", cluster.ref]
    assert c.refused("PIF.set_disallow_unplug", bond["master"], False) == error
