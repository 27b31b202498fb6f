"""Cards, VLANs, tunnels, bonds and guests' interfaces as older releases had them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from networks import cards, get, network, pif, vif

Make = Callable[..., Any]
NULL = "OpaqueRef:NULL"
VSWITCH = {"network_backend": "openvswitch"}


def vswitch(c: Any) -> None:
    """Let every host use the virtual switch."""
    for host in c.pool.store.table("host").values():
        c.pool.store.write(host, software_version={**host["software_version"], **VSWITCH})


# --- cards


@pytest.mark.parametrize("release", ["4.1", "5.5", "5.6", "5.6.100"])
def test_up_to_5_6_fp1_a_card_was_known_by_its_mac(calls: Make, release: str) -> None:
    """One that had a PIF got none anew; 5.6 FP1 first looks whether the name is free."""
    c = calls(release=release)
    host, mac, machine = c.host("host1").ref, pif(c)["MAC"], c.pool.machine("host1")
    assert c.refused("PIF.introduce", host, "BAD", "eth7") == ["MAC_INVALID", "BAD"]
    assert c.refused("PIF.introduce", host, "", "eth7") == ["MAC_INVALID", ""]
    absent = "00:16:3e:00:00:99"
    assert c.refused("PIF.introduce", host, absent, "eth7") == ["MAC_DOES_NOT_EXIST", absent]
    assert c("PIF.introduce", host, mac, "eth7") == pif(c).ref
    if release == "5.6.100":
        assert c.refused("PIF.introduce", host, absent, "eth0") == ["DUPLICATE_PIF_DEVICE_NAME", "eth0"]
    machine.nics = (("eth0", "00:16:3e:cc:00:00"),)
    c("PIF.scan", host)
    assert len(c.host("host1")["PIFs"]) == 2, "a card that was exchanged is another one"


@pytest.mark.parametrize("release", ["5.5", "5.6", "6.2", "6.5"])
def test_up_to_6_2_the_masters_own_interface_could_be_forgotten(calls: Make, release: str) -> None:
    """A member's not."""
    c = calls(release=release)
    mine, theirs = pif(c), pif(c, host="host2")
    error = ["PIF_IS_MANAGEMENT_INTERFACE"]
    assert c.refused("PIF.forget", theirs.ref) == [*error, theirs.ref]
    if release == "6.5":
        assert c.refused("PIF.forget", mine.ref) == [*error, mine.ref]
    else:
        c("PIF.forget", mine.ref)
        assert c.pool.store.find("PIF", mine.ref) is None


@pytest.mark.parametrize(("release", "looks"), [("5.5", True), ("5.6.100", True), ("6.0", False), ("8.2", False)])
def test_up_to_5_6_fp1_a_card_that_guests_use_was_not_forgotten(calls: Make, release: str, looks: bool) -> None:
    c = calls(release=release, vms=6)
    (first,), mine = cards(c, "host1", "eth1"), vif(c, "vm01")
    c.pool.store.write(first, disallow_unplug=True)
    error = c.refused("PIF.forget", first.ref) if looks else None
    assert error in (None, ["PIF_DOES_NOT_ALLOW_UNPLUG", first.ref])
    c.pool.store.write(mine, network=first["network"])
    if looks:
        assert c.refused("PIF.forget", first.ref) == ["VIF_IN_USE", first["network"], mine.ref]
    else:
        c("PIF.forget", first.ref)


@pytest.mark.parametrize("release", ["5.5", "5.6"])
def test_a_card_in_use_stays_up_in_old_releases_too(calls: Make, release: str) -> None:
    c = calls(release=release, vms=6)
    (first,), mine = cards(c, "host1", "eth1"), vif(c, "vm01")
    c("PIF.plug", first.ref)
    c.pool.store.write(first, disallow_unplug=True)
    assert c.refused("PIF.unplug", first.ref) == ["PIF_DOES_NOT_ALLOW_UNPLUG", first.ref]
    c.pool.store.write(mine, network=first["network"])
    assert c.refused("PIF.unplug", first.ref) == ["VIF_IN_USE", first["network"], mine.ref]
    assert first["currently_attached"]


def test_in_5_5_high_availability_keeps_what_it_needs(calls: Make) -> None:
    """The management interface of the master as well, which otherwise might be forgotten."""
    c = calls(release="5.5")
    (first,) = cards(c, "host1", "eth1")
    c.pool.store.write(c.pool.store.pool(), ha_enabled=True)
    assert c.refused("PIF.forget", pif(c).ref) == ["PIF_DOES_NOT_ALLOW_UNPLUG", pif(c).ref]
    assert c.refused("PIF.unplug", pif(c).ref) == ["HA_IS_ENABLED"]
    c.pool.store.write(first, disallow_unplug=True)
    assert c.refused("PIF.unplug", first.ref) == ["PIF_DOES_NOT_ALLOW_UNPLUG", first.ref]


# --- bonds and their members


@pytest.mark.parametrize("release", ["5.5", "5.6.100"])
def test_up_to_5_6_fp1_a_bond_and_its_members_took_turns(calls: Make, release: str) -> None:
    """Whichever comes up, the others go down, with the VLANs on a bond."""
    c = calls(release=release, vms=6)
    (first, second), mine = cards(c), vif(c, "vm01")
    c("PIF.plug", first.ref)
    bond = get(c, "Bond", c("Bond.create", network(c).ref, [first.ref, second.ref], ""))
    master = get(c, "PIF", bond["master"])
    untagged = get(c, "PIF", get(c, "VLAN", c("VLAN.create", master.ref, 7, network(c).ref))["untagged_PIF"])
    c("PIF.plug", master.ref)
    c("PIF.plug", untagged.ref)
    assert [one["currently_attached"] for one in (first, master, untagged)] == [False, True, True]
    c("PIF.plug", first.ref)
    assert [one["currently_attached"] for one in (first, master, untagged)] == [True, False, False]
    c("PIF.plug", untagged.ref)
    assert not first["currently_attached"], "a VLAN needs the bond"
    c.pool.store.write(mine, network=untagged["network"])
    assert c.refused("PIF.plug", first.ref) == ["VIF_IN_USE", untagged["network"], mine.ref]
    c.pool.store.write(untagged, disallow_unplug=True)
    assert c.refused("PIF.plug", first.ref) == ["PIF_DOES_NOT_ALLOW_UNPLUG", untagged.ref]
    c.pool.store.write(untagged, disallow_unplug=False)
    c("VIF.unplug", mine.ref)
    c.pool.store.write(master, management=True)
    assert c.refused("PIF.plug", first.ref) == ["PIF_IS_MANAGEMENT_INTERFACE", master.ref]


@pytest.mark.parametrize("release", ["6.0", "6.1"])
def test_a_member_of_a_bond_is_not_plugged_since_6_0(calls: Make, release: str) -> None:
    """6.0 names its network in the error."""
    c = calls(release=release)
    first, second = cards(c)
    c("Bond.create", network(c).ref, [first.ref, second.ref], "")
    named = first["network"] if release == "6.0" else first.ref
    assert c.refused("PIF.plug", first.ref) == ["CANNOT_PLUG_BOND_SLAVE", named]


@pytest.mark.parametrize("release", ["5.5", "5.6", "6.0", "6.1"])
def test_a_bond_of_the_management_interface_under_high_availability(calls: Make, release: str) -> None:
    """It was not refused before 6.1."""
    c = calls(release=release)
    c.pool.store.write(c.pool.store.pool(), ha_enabled=True)
    net = network(c).ref
    if release == "6.1":
        error = ["HA_CANNOT_CHANGE_BOND_STATUS_OF_MGMT_IFACE"]
        assert c.refused("Bond.create", net, [pif(c).ref], "") == error
    else:
        assert get(c, "Bond", c("Bond.create", net, [pif(c).ref], ""))["slaves"] == [pif(c).ref]


@pytest.mark.parametrize("release", ["6.0", "6.1", "6.2", "6.5", "7.0"])
def test_what_a_bond_did_with_the_addresses_of_its_members(calls: Make, release: str) -> None:
    """Up to 6.1 all are without, and show what they had; then the primary one gives its away; since 7.0 there is one."""
    c = calls(release=release)
    (first, second), net = cards(c), network(c).ref
    for number, card in enumerate((first, second)):
        c("PIF.reconfigure_ip", card.ref, "Static", f"10.9.0.{number}", "255.255.255.0", "", "")
    if release == "7.0":
        assert c.refused("Bond.create", net, [first.ref, second.ref], "") == ["PIF_BOND_MORE_THAN_ONE_IP"]
        return
    bond = get(c, "Bond", c("Bond.create", net, [first.ref, second.ref], ""))
    master = get(c, "PIF", bond["master"])
    assert (master["ip_configuration_mode"], master["IP"]) == ("Static", "10.9.0.0")
    early = release in ("6.0", "6.1")
    shown = [(card["ip_configuration_mode"], card["IP"]) for card in (first, second)]
    assert shown == [("None", "10.9.0.0" if early else ""), ("None" if early else "Static", "10.9.0.1")]
    assert (c.pool.store.find("PIF_metrics", master["metrics"]) is None) is early


def test_6_0_tells_the_mode_of_a_bond_by_its_pif(calls: Make) -> None:
    c = calls(release="6.0")
    bond = get(c, "Bond", c("Bond.create", network(c).ref, [one.ref for one in cards(c)], ""))
    master = get(c, "PIF", bond["master"])
    assert master["other_config"] == {"bond-mode": "balance-slb"}
    c("Bond.set_mode", bond.ref, "active-backup")
    assert (bond["mode"], master["other_config"]) == ("active-backup", {"bond-mode": "active-backup"})


@pytest.mark.parametrize("release", ["6.1", "6.2", "6.5"])
def test_up_to_6_2_a_bond_had_one_property(calls: Make, release: str) -> None:
    c = calls(release=release)
    net, members = network(c).ref, [one.ref for one in cards(c)]
    if release == "6.5":
        bond = get(c, "Bond", c("Bond.create", net, members, "", "lacp", {"lacp-time": "fast"}))
        assert bond["properties"]["lacp-time"] == "fast"
        return
    error = ["INVALID_VALUE", "properties", "lacp-time = fast"]
    assert c.refused("Bond.create", net, members, "", "lacp", {"lacp-time": "fast"}) == error
    bond = get(c, "Bond", c("Bond.create", net, members, "", "lacp"))
    assert bond["properties"] == {"hashing_algorithm": "tcpudp_ports"}


@pytest.mark.parametrize("release", ["6.2", "7.2", "7.3"])
def test_up_to_7_2_a_vlan_lost_its_address_to_a_bond(calls: Make, release: str) -> None:
    c = calls(release=release)
    first, second = cards(c)
    old = get(c, "VLAN", c("VLAN.create", first.ref, 7, network(c).ref))["untagged_PIF"]
    c("PIF.reconfigure_ip", old, "Static", "10.9.0.7", "255.255.255.0", "", "")
    bond = get(c, "Bond", c("Bond.create", network(c).ref, [first.ref, second.ref], ""))
    (moved,) = get(c, "PIF", bond["master"])["VLAN_slave_of"]
    untagged = get(c, "PIF", get(c, "VLAN", moved)["untagged_PIF"])
    kept = ("Static", "10.9.0.7") if release == "7.3" else ("None", "")
    assert (untagged["ip_configuration_mode"], untagged["IP"], untagged["currently_attached"]) == (*kept, True)


@pytest.mark.parametrize("release", ["5.5", "5.6.100"])
def test_an_old_bond_that_is_used_stays(calls: Make, release: str) -> None:
    c = calls(release=release, vms=6)
    mine = vif(c, "vm01")
    bond = get(c, "Bond", c("Bond.create", network(c).ref, [one.ref for one in cards(c)], ""))
    master = get(c, "PIF", bond["master"])
    assert master["MTU"] == -1
    c("PIF.plug", master.ref)
    assert master["MTU"] == (-1 if release == "5.5" else 1500)
    c.pool.store.write(mine, network=master["network"])
    assert c.refused("Bond.destroy", bond.ref) == ["VIF_IN_USE", master["network"], mine.ref]
    c("VIF.unplug", mine.ref)
    c.pool.store.write(master, disallow_unplug=True)
    assert c.refused("Bond.destroy", bond.ref) == ["PIF_DOES_NOT_ALLOW_UNPLUG", master.ref]


@pytest.mark.parametrize("release", ["6.5", "7.4", "7.5"])
def test_who_manages_a_card_was_asked_at_another_time(calls: Make, release: str) -> None:
    """Up to 7.4 first for a VLAN and a tunnel, last for a bond."""
    c = calls(release=release)
    vswitch(c)
    (first,), late = cards(c, "host1", "eth1"), release == "7.5"
    c.pool.store.write(first, managed=False)
    unmanaged, net = ["PIF_UNMANAGED", first.ref], first["network"]
    connected = ["NETWORK_ALREADY_CONNECTED", first["host"], first.ref]
    assert c.refused("VLAN.create", first.ref, 7, net) == (connected if late else unmanaged)
    assert c.refused("tunnel.create", first.ref, net) == (connected if late else unmanaged)
    c.pool.store.write(first, managed=True)
    c("Bond.create", network(c).ref, [first.ref], "")
    bonded = ["CANNOT_ADD_TUNNEL_TO_BOND_SLAVE", first.ref]
    assert c.refused("tunnel.create", first.ref, net) == (connected if late else bonded)
    c.pool.store.write(first, managed=False)
    error = unmanaged if late else ["PIF_ALREADY_BONDED", first.ref]
    assert c.refused("Bond.create", network(c).ref, [first.ref], "") == error


# --- VLANs and tunnels


@pytest.mark.parametrize("release", ["5.5", "5.6.100", "6.0"])
def test_what_was_asked_of_a_vlan_that_goes(calls: Make, release: str) -> None:
    """Up to 5.6 FP1 guests were looked at, and a card was told from a VLAN late."""
    c = calls(release=release, vms=6)
    (first,), mine = cards(c, "host1", "eth1"), vif(c, "vm01")
    vlan = get(c, "VLAN", c("VLAN.create", first.ref, 7, network(c).ref))
    c.pool.store.write(mine, network=get(c, "PIF", vlan["untagged_PIF"])["network"])
    assert c.refused("VLAN.destroy", vlan.ref) == ["VIF_IN_USE", mine["network"], mine.ref]
    c("VIF.unplug", mine.ref)
    c("VLAN.destroy", vlan.ref)
    theirs = pif(c, host="host2").ref
    early = ["PIF_IS_MANAGEMENT_INTERFACE", theirs]
    assert c.refused("PIF.destroy", theirs) == (["PIF_IS_PHYSICAL"] if release == "6.0" else early)


@pytest.mark.parametrize("release", ["5.6", "5.6.100", "6.0"])
def test_up_to_5_6_fp1_a_member_of_a_bond_could_carry_a_vlan(calls: Make, release: str) -> None:
    c = calls(release=release)
    first, second = cards(c)
    c("Bond.create", network(c).ref, [first.ref, second.ref], "")
    net = network(c).ref
    if release == "6.0":
        error = ["CANNOT_ADD_VLAN_TO_BOND_SLAVE", first.ref]
        assert c.refused("VLAN.create", first.ref, 7, net) == error
    else:
        assert get(c, "VLAN", c("VLAN.create", first.ref, 7, net))["tagged_PIF"] == first.ref


@pytest.mark.parametrize("release", ["5.6.100", "6.0", "6.1"])
def test_tunnels_show_metrics_since_6_1(calls: Make, release: str) -> None:
    """What one cannot carry is told last: the tag of a VLAN comes first."""
    c = calls(release=release)
    vswitch(c)
    (first,) = cards(c, "host1", "eth1")
    c("PIF.reconfigure_ip", first.ref, "DHCP", "", "", "", "")
    access = get(c, "PIF", get(c, "tunnel", c("tunnel.create", first.ref, network(c).ref))["access_PIF"])
    assert access["metrics"] == (first["metrics"] if release == "6.1" else NULL)
    net = network(c).ref
    assert c.refused("VLAN.create", access.ref, 5000, net) == ["VLAN_TAG_INVALID", "5000"]
    assert c.refused("VLAN.create", access.ref, 7, net) == ["IS_TUNNEL_ACCESS_PIF", access.ref]


# --- addresses


@pytest.mark.parametrize("release", ["6.0", "6.1", "6.2", "6.5", "7.0", "7.1", "8.2", "8.4"])
def test_name_servers_were_set_in_four_ways(calls: Make, release: str) -> None:
    """Up to 6.0 as told; 6.1 and 6.2 keep what there is where none are told; 7.1 checks them; XenServer 8 picks its kind."""
    c = calls(release=release)
    (first,) = cards(c, "host1", "eth1")
    call = ("PIF.reconfigure_ip", first.ref, "Static", "10.9.0.1", "255.255.255.0", "")
    c(*call, "10.9.0.2")
    c(*call, "")
    assert first["DNS"] == ("10.9.0.2" if release in ("6.1", "6.2") else "")
    if release in ("7.1", "8.2"):
        assert c.refused(*call, "10.9.0.2,x") == ["INVALID_IP_ADDRESS_SPECIFIED", "DNS"]
    else:
        c(*call, "10.9.0.2,x")
        assert first["DNS"] == ("10.9.0.2" if release == "8.4" else "10.9.0.2,x")
    if release in ("7.1", "8.2"):
        six = ("PIF.reconfigure_ipv6", first.ref, "Static", "fd00::9/64", "")
        c(*six, "fd00::2")
        c(*six, "")
        assert first["DNS"] == "fd00::2"


@pytest.mark.parametrize("release", ["6.1", "6.5", "7.0"])
def test_up_to_6_5_errors_about_addresses_were_other_ones(calls: Make, release: str) -> None:
    """Any kind of address did, and words told what is wrong with a prefix."""
    c = calls(release=release)
    (first,) = cards(c, "host1", "eth1")
    four = ("PIF.reconfigure_ip", first.ref, "Static", "10.9.0.1", "255.255.255.0")
    texts = {
        "fd00::9": "Prefix length must be specified (format: <ipv6>/<prefix>",
        "x/64": "IPv6",
        "fd00::9/x": "Cannot parse prefix length 'x'",
        "fd00::9/129": "Prefix length must be between 0 and 128",
    }
    for address, text in texts.items():
        error = c.refused("PIF.reconfigure_ipv6", first.ref, "Static", address, "", "")
        then = ["INVALID_IP_ADDRESS_SPECIFIED", text]
        assert error == (["INVALID_CIDR_ADDRESS_SPECIFIED", "IPv6"] if release == "7.0" else then)
    if release == "7.0":
        assert c.refused(*four, "fd00::1", "") == ["INVALID_IP_ADDRESS_SPECIFIED", "gateway"]
    else:
        c(*four, "fd00::1", "")
        assert first["gateway"] == "fd00::1"


@pytest.mark.parametrize("release", ["6.2", "7.6", "8.2"])
def test_up_to_8_1_nothing_of_an_address_was_set_under_high_availability(calls: Make, release: str) -> None:
    """Since then the name servers may be, if all else stays."""
    c = calls(release=release)
    (first,) = cards(c, "host1", "eth1")
    call = ("PIF.reconfigure_ip", first.ref, "Static", "10.9.0.1", "255.255.255.0", "")
    c(*call, "10.9.0.2")
    c("PIF.plug", first.ref)
    c.pool.store.write(c.pool.store.pool(), ha_enabled=True)
    if release == "8.2":
        c(*call, "10.9.0.3")
        assert first["DNS"] == "10.9.0.3"
    else:
        assert c.refused(*call, "10.9.0.3") == ["HA_IS_ENABLED"]


@pytest.mark.parametrize("release", ["5.6.100", "6.0", "6.1", "6.5", "7.2", "7.3"])
def test_by_what_a_host_may_be_reached(calls: Make, release: str) -> None:
    """Errors name the interface since 7.3; up to 5.6 FP1 a member of a bond would do, if the bond gives way."""
    c = calls(release=release)
    first, second = cards(c)
    name = [first.ref] if release == "7.3" else []
    assert c.refused("host.management_reconfigure", first.ref) == ["PIF_HAS_NO_NETWORK_CONFIGURATION", *name]
    if release == "6.1":
        c("PIF.set_primary_address_type", first.ref, "IPv6")
        assert c.refused("host.management_reconfigure", first.ref) == ["PIF_INCOMPATIBLE_PRIMARY_ADDRESS_TYPE"]
        c("PIF.set_primary_address_type", first.ref, "IPv4")
    c("PIF.reconfigure_ip", first.ref, "DHCP", "", "", "", "")
    bond = get(c, "Bond", c("Bond.create", network(c).ref, [second.ref, first.ref], ""))
    if release != "5.6.100":
        assert c.refused("host.management_reconfigure", first.ref) == ["CANNOT_PLUG_BOND_SLAVE", first.ref]
        return
    master = get(c, "PIF", bond["master"])
    c.pool.store.write(master, disallow_unplug=True)
    assert c.refused("host.management_reconfigure", first.ref) == ["PIF_DOES_NOT_ALLOW_UNPLUG", master.ref]
    c.pool.store.write(master, disallow_unplug=False)
    c("host.management_reconfigure", first.ref)
    assert first["management"] and not master["currently_attached"]


# --- networks and guests' interfaces


@pytest.mark.parametrize("release", ["5.6.100", "6.0"])
def test_up_to_5_6_fp1_the_hosts_own_network_could_be_destroyed(calls: Make, release: str) -> None:
    c = calls(release=release)
    row = network(c, other_config={"is_host_internal_management_network": "true"})
    if release == "6.0":
        assert c.refused("network.destroy", row.ref) == ["CANNOT_DESTROY_SYSTEM_NETWORK", row.ref]
    else:
        c("network.destroy", row.ref)
        assert c.pool.store.find("network", row.ref) is None


@pytest.mark.parametrize("release", ["6.1", "6.2", "6.5", "7.1"])
def test_a_controller_of_the_switches_forbids_to_lock(calls: Make, release: str) -> None:
    """Up to 7.1 it is named by the pool alone; up to 6.2 it forbids to disable, too."""
    c = calls(release=release, vms=6)
    vswitch(c)
    c("pool.set_vswitch_controller", "10.9.0.1")
    mine, net = vif(c, "vm04"), network(c)
    error = ["OPERATION_NOT_ALLOWED", "A vswitch controller is active"]
    assert c.refused("VIF.set_locking_mode", mine.ref, "locked") == error
    c("VIF.set_locking_mode", mine.ref, "unlocked")
    if release in ("6.1", "6.2"):
        assert c.refused("VIF.set_locking_mode", mine.ref, "disabled") == error
        assert c.refused("network.set_default_locking_mode", net.ref, "disabled") == error
    else:
        c("VIF.set_locking_mode", mine.ref, "disabled")
        c("network.set_default_locking_mode", net.ref, "disabled")
        assert (mine["locking_mode"], net["default_locking_mode"]) == ("disabled", "disabled")


@pytest.mark.parametrize("release", ["6.2", "6.5", "7.0"])
def test_addresses_that_a_guest_may_use_in_old_releases(calls: Make, release: str) -> None:
    """6.2 takes IPv6 addresses off the wrong list; up to 6.5 the error names a bad one."""
    c = calls(release=release, vms=6)
    mine = vif(c, "vm04")
    named = ["INVALID_VALUE", "ipv4_allowed", "x"]
    error = ["INVALID_IP_ADDRESS_SPECIFIED", "ipv4_allowed"] if release == "7.0" else named
    assert c.refused("VIF.add_ipv4_allowed", mine.ref, "x") == error
    c("VIF.add_ipv6_allowed", mine.ref, "fd00::9")
    c("VIF.remove_ipv6_allowed", mine.ref, "fd00::9")
    assert mine["ipv6_allowed"] == (["fd00::9"] if release == "6.2" else [])


@pytest.mark.parametrize("release", ["7.0", "7.1"])
def test_a_guest_without_the_feature_is_told_by_name_in_7_0(calls: Make, release: str) -> None:
    c = calls(release=release, vms=6)
    code = "VM_LACKS_FEATURE_STATIC_IP_SETTING" if release == "7.0" else "VM_LACKS_FEATURE"
    assert c.refused("VIF.configure_ipv4", vif(c, "vm04").ref, "None", "", "") == [code, c.vm("vm04").ref]


@pytest.mark.parametrize("release", ["5.6", "5.6.100", "6.1", "6.2", "6.5", "7.0"])
def test_what_stands_against_plugging_in_old_releases(calls: Make, release: str) -> None:
    """Up to 6.5 what goes on with the VM does not; up to 6.1 old drivers do, and up to 5.6 the error names the agent."""
    c = calls(release=release, vms=6)
    vm, mine, store = c.vm("vm01"), vif(c, "vm01"), c.pool.store
    store.write(vm, current_operations={"task": "clean_shutdown"})
    if release == "7.0":
        error = ["OPERATION_NOT_ALLOWED", f"Current operation on VM:{vm.ref} is clean_shutdown"]
        assert c.refused("VIF.unplug", mine.ref) == error
        return
    store.write(vm, current_operations={}, HVM_boot_policy="BIOS order")
    agent = get(c, "VM_guest_metrics", vm["guest_metrics"])
    store.write(agent, PV_drivers_version={"major": "5", "minor": "0", "micro": "1"}, PV_drivers_up_to_date=False)
    if release in ("5.6", "5.6.100", "6.1"):
        whose = agent.ref if release == "5.6" else vm.ref
        assert c.refused("VIF.unplug", mine.ref) == ["VM_OLD_PV_DRIVERS", whose, "5", "0", "1"]
    else:
        c("VIF.unplug", mine.ref)
        assert not mine["currently_attached"]


@pytest.mark.parametrize("release", ["6.1", "6.2"])
def test_which_network_every_host_has(calls: Make, release: str) -> None:
    """Up to 6.1 its interfaces had to be up for the guests that high availability restarts."""
    c = calls(release=release, vms=6)
    store, vm = c.pool.store, c.vm("vm04")
    for number in (1, 2):
        (card,) = cards(c, f"host{number}", "eth1")
    store.write(store.pool(), ha_enabled=True, ha_allow_overcommit=False)
    store.write(vm, ha_always_run=True, ha_restart_priority="restart")
    given = {"device": "7", "VM": vm.ref, "network": card["network"], "MAC": "", "MTU": 1500, "other_config": {}}
    given |= {"qos_algorithm_type": "", "qos_algorithm_params": {}}
    if release == "6.1":
        assert c.refused("VIF.create", given) == ["HA_OPERATION_WOULD_BREAK_FAILOVER_PLAN"]
    else:
        assert get(c, "VIF", c("VIF.create", given))["device"] == "7"


@pytest.mark.parametrize("release", ["6.1", "7.0"])
def test_up_to_6_5_a_licence_does_not_say_what_it_takes_away(calls: Make, release: str) -> None:
    c = calls(release=release, vms=6)
    for host in c.pool.store.table("host").values():
        c.pool.store.write(host, license_params={**host["license_params"], "restrict_vif_locking": "true"})
    restrictions = {**c.pool.store.pool().get("restrictions", {}), "restrict_vif_locking": "true"}
    c.pool.store.write(c.pool.store.pool(), restrictions=restrictions)
    name = ["VIF_locking"] if release == "7.0" else []
    assert c.refused("VIF.set_locking_mode", vif(c, "vm04").ref, "locked") == ["LICENCE_RESTRICTION", *name]
