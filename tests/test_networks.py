"""Networks, PIFs, VLANs, tunnels and bonds: who may be changed, what is made, and what moves with it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from xenctl.releases import find

Make = Callable[..., Any]
NULL = "OpaqueRef:NULL"


@pytest.fixture
def c(calls: Make) -> Any:
    return calls(release="8.2", hosts=2, vms=12)


def network(c: Any, **fields: Any) -> Any:
    """A network without PIFs."""
    ref = c("network.create", {"name_label": "new", "other_config": {}, **fields})
    return c.pool.store.get("network", ref)


def get(c: Any, table: str, ref: str) -> Any:
    return c.pool.store.get(table, ref)


def pif(c: Any, device: str = "eth0", host: str = "host1") -> Any:
    """The PIF of a card of a host."""
    here = c.host(host).ref
    rows = c.pool.store.table("PIF").values()
    return next(row for row in rows if (row["device"], row["host"]) == (device, here) and row["VLAN"] == -1)


def vif(c: Any, vm: str) -> Any:
    return get(c, "VIF", c.vm(vm)["VIFs"][0])


def cards(c: Any, host: str = "host1", *devices: str) -> Any:
    """Put cards into a host and let it find them."""
    machine = c.pool.machine(host)
    for number, device in enumerate(devices or ("eth1", "eth2")):
        machine.nics = (*machine.nics, (device, f"00:16:3e:bb:00:{number:02x}"))
    c("PIF.scan", c.host(host).ref)
    return [pif(c, device, host) for device in devices or ("eth1", "eth2")]


# --- networks


def test_a_network_gets_a_bridge_of_its_own(c: Any) -> None:
    """A name that nobody has, unless one is asked for that is neither ours, too long nor taken."""
    first, second = network(c), network(c)
    assert [first["bridge"], second["bridge"]] == ["xapi0", "xapi1"]
    c("network.destroy", first.ref)
    assert network(c)["bridge"] == "xapi2", "a name is not given twice"
    c("host.restart_agent", c.host("host1").ref)
    c.sleep(120)
    c = c.back()
    assert network(c)["bridge"] == "xapi0", "but by another run of the toolstack"
    assert network(c, bridge="storage")["bridge"] == "storage"
    assert network(c, MTU=-1)["MTU"] == 1500
    assert c.refused("network.create", {"other_config": {}, "bridge": "storage"}) == ["BRIDGE_NAME_EXISTS", "storage"]
    for bad in ("xenbr7", "xapi9", "vif1", "tap1", "eth3", "sixteen-letters-"):
        assert c.refused("network.create", {"other_config": {}, "bridge": bad}) == ["INVALID_VALUE", "bridge", bad]


def test_before_7_2_nobody_chose_the_bridge(calls: Make) -> None:
    c = calls(release="6.2")
    assert network(c, bridge="storage")["bridge"] == "xapi0"


@pytest.mark.parametrize("release", ["4.0.1", "8.2"])
def test_a_network_in_use_stays(calls: Make, release: str) -> None:
    """Attached VIFs are told first, then PIFs; what is not attached goes with the network."""
    c = calls(release=release, vms=12)
    used = next(iter(c.pool.store.table("network").values()))
    error = c.refused("network.destroy", used.ref)
    attached = {ref for ref in used["VIFs"] if get(c, "VIF", ref)["currently_attached"]}
    assert (error[0], set(error[1:])) == ("NETWORK_CONTAINS_VIF", attached)
    for ref in attached:
        c.pool.store.write(get(c, "VIF", ref), currently_attached=False)
    assert c.refused("network.destroy", used.ref) == ["NETWORK_CONTAINS_PIF", *used["PIFs"]]
    lonely = network(c)
    c.pool.store.write(vif(c, "vm04"), network=lonely.ref)
    gone = vif(c, "vm04").ref
    c("network.destroy", lonely.ref)
    assert c.pool.store.find("network", lonely.ref) is c.pool.store.find("VIF", gone) is None
    assert c.vm("vm04")["VIFs"] == []


def test_the_internal_management_network_stays(c: Any) -> None:
    ours = network(c, other_config={"is_host_internal_management_network": "true"})
    assert c.refused("network.destroy", ours.ref) == ["CANNOT_DESTROY_SYSTEM_NETWORK", ours.ref]


def test_a_pool_serves_disks_safely_or_not(c: Any) -> None:
    """Of the two purposes a pool has one; the same again, or taking away what is not there, changes nothing."""
    one, two = network(c), network(c)
    c("network.add_purpose", one.ref, "nbd")
    c("network.add_purpose", one.ref, "nbd")
    error = ["NETWORK_INCOMPATIBLE_PURPOSES", "insecure_nbd", "nbd"]
    assert c.refused("network.add_purpose", two.ref, "insecure_nbd") == error
    c("network.remove_purpose", two.ref, "nbd")
    assert one["purpose"] == ["nbd"]
    c("network.remove_purpose", one.ref, "nbd")
    c("network.add_purpose", two.ref, "insecure_nbd")
    assert (one["purpose"], two["purpose"]) == ([], ["insecure_nbd"])


def test_a_network_of_somebody_else_has_purposes_up_to_xenserver_8(calls: Make, newest: Make) -> None:
    for c in (calls(release="8.4"), newest()):
        other = network(c, managed=False)
        if c.pool.store.release <= find("XenServer 8.4.0"):
            c("network.add_purpose", other.ref, "nbd")
        else:
            assert c.refused("network.add_purpose", other.ref, "nbd") == ["NETWORK_UNMANAGED", other.ref]


def test_blobs_of_a_network_have_names(c: Any) -> None:
    """Each once; only VMs forget the name of one that is destroyed."""
    mine = network(c)
    ref = c("network.create_new_blob", mine.ref, "icon", "", False)
    blob = get(c, "blob", ref)
    assert (mine["blobs"], blob["mime_type"], blob["size"]) == ({"icon": ref}, "application/octet-stream", 0)
    error = ["MAP_DUPLICATE_KEY", "network", "blobs", mine.ref, "icon"]
    assert c.refused("network.create_new_blob", mine.ref, "icon", "image/png", True) == error
    assert len(c.pool.store.table("blob")) == 1
    c("blob.destroy", ref)
    assert mine["blobs"] == {"icon": ref}
    vm = c.vm("vm01")
    c("blob.destroy", c("VM.create_new_blob", vm.ref, "icon", "", False))
    assert vm["blobs"] == {}
    assert c("blob.get_public", c("blob.create", "text/plain", True)) is True


def test_a_network_is_attached_to_a_host(c: Any) -> None:
    """Its PIF there is brought up; without one the host gets a bridge, until its guests are detached."""
    used, lonely = get(c, "network", vif(c, "vm01")["network"]), network(c)
    host = c.host("host1").ref
    c.pool.store.write(pif(c), currently_attached=False)
    c("network.attach", used.ref, host)
    assert pif(c)["currently_attached"]
    c.pool.store.write(vif(c, "vm04"), network=lonely.ref)
    c("network.attach_for_vm", host, c.vm("vm04").ref)
    assert c.pool.machine("host1").bridges == {lonely["bridge"]}
    c("network.detach_for_vm", host, c.vm("vm04").ref)
    assert c.pool.machine("host1").bridges == set()
    other = network(c, managed=False, bridge="theirs")
    assert c.refused("network.attach", other.ref, host) == ["BRIDGE_NOT_AVAILABLE", "theirs"]


def test_a_joining_members_network_is_taken_as_it_is(c: Any) -> None:
    ref = c("network.pool_introduce", "theirs", "", 9000, {"a": "b"}, "xenbr9", True, [])
    record = c("network.get_record", ref)
    assert (record["name_label"], record["MTU"], record["bridge"]) == ("theirs", 9000, "xenbr9")


# --- cards


def test_a_scan_finds_cards(c: Any) -> None:
    """Each gets a PIF on the network of its bridge, made where there is none; one that was exchanged its new MAC."""
    first, second = cards(c)
    made = get(c, "network", first["network"])
    assert (made["bridge"], made["name_label"]) == ("xenbr1", "Pool-wide network associated with eth1")
    assert first["physical"] and not first["currently_attached"] and not first["management"]
    assert get(c, "PIF_metrics", first["metrics"])
    (there,) = cards(c, "host2", "eth1")
    assert there["network"] == first["network"] != second["network"]
    machine = c.pool.machine("host1")
    machine.nics = tuple((d, "00:16:3e:cc:00:00" if d == "eth1" else m) for d, m in machine.nics)
    c("PIF.scan", c.host("host1").ref)
    assert first["MAC"] == "00:16:3e:cc:00:00"
    assert len(c.host("host1")["PIFs"]) == 3


def test_a_card_is_introduced_by_name(c: Any) -> None:
    """Once, with the MAC that it has; nobody needs to say that."""
    host, machine = c.host("host1").ref, c.pool.machine("host1")
    machine.nics = (*machine.nics, ("eth5", "00:16:3e:dd:00:05"))
    assert c.refused("PIF.introduce", host, "bad", "eth5") == ["MAC_INVALID", "bad"]
    assert c.refused("PIF.introduce", host, "", "eth9") == ["MAC_INVALID", ""]
    assert c.refused("PIF.introduce", host, "", "eth0") == ["DUPLICATE_PIF_DEVICE_NAME", "eth0"]
    code = "COULD_NOT_FIND_NETWORK_INTERFACE_WITH_SPECIFIED_DEVICE_NAME_AND_MAC_ADDRESS"
    wrong = "00:16:3e:dd:00:06"
    assert c.refused("PIF.introduce", host, wrong, "eth5") == [code, "eth5", wrong]
    ref = c("PIF.introduce", host, "00:16:3E:DD:00:05", "eth5", False)
    assert (get(c, "PIF", ref)["MAC"], get(c, "PIF", ref)["managed"]) == ("00:16:3e:dd:00:05", False)
    assert c.refused("PIF.plug", ref) == ["PIF_UNMANAGED", ref]
    assert c.refused("PIF.unplug", ref) == ["PIF_UNMANAGED", ref]
    net = get(c, "network", get(c, "PIF", ref)["network"])
    assert (net["bridge"], net["managed"]) == ("xenbr5", True)


def test_a_card_that_others_manage_has_a_network_without_a_bridge(newest: Make) -> None:
    """In releases after XenServer 8."""
    c = newest()
    machine = c.pool.machine("host1")
    machine.nics = (*machine.nics, ("eth5", "00:16:3e:dd:00:05"))
    net = get(c, "network", get(c, "PIF", c("PIF.introduce", c.host("host1").ref, "", "eth5", False))["network"])
    assert (net["bridge"], net["managed"]) == ("", False)


def test_a_scan_knows_the_management_interface(c: Any) -> None:
    """By the host's own files, whatever the database says."""
    managed = pif(c)
    c.pool.machine("host1").system.management = get(c, "network", managed["network"])["bridge"]
    c.pool.store.write(managed, management=False)
    c("PIF.scan", c.host("host1").ref)
    assert managed["management"]


def test_a_management_interface_shows_its_lease(c: Any) -> None:
    """Not what is told with it."""
    c("PIF.reconfigure_ip", pif(c).ref, "DHCP", "", "", "", "")
    assert (pif(c)["ip_configuration_mode"], pif(c)["IP"]) == ("DHCP", c.host("host1")["address"])


def test_up_to_5_5_a_card_was_known_by_its_mac(calls: Make) -> None:
    c = calls(release="5.5")
    host, mac = c.host("host1").ref, pif(c)["MAC"]
    assert c.refused("PIF.introduce", host, "00:16:3e:00:00:99", "eth0") == ["MAC_DOES_NOT_EXIST", "00:16:3e:00:00:99"]
    assert c("PIF.introduce", host, mac, "anything") == pif(c).ref


def test_what_carries_something_is_not_forgotten(c: Any) -> None:
    """The management interface, a member of a bond, what is under a VLAN or one itself; else it goes with its metrics."""
    first, second = cards(c)
    assert c.refused("PIF.forget", pif(c).ref) == ["PIF_IS_MANAGEMENT_INTERFACE", pif(c).ref]
    vlan = get(c, "VLAN", c("VLAN.create", first.ref, 7, network(c).ref))
    for ref in (first.ref, vlan["untagged_PIF"]):
        assert c.refused("PIF.forget", ref) == ["PIF_VLAN_STILL_EXISTS", ref]
    bond = get(c, "Bond", c("Bond.create", network(c).ref, [second.ref], ""))
    for ref in (second.ref, bond["master"]):
        assert c.refused("PIF.forget", ref) == ["PIF_ALREADY_BONDED", ref]
    c("Bond.destroy", bond.ref)
    metrics = second["metrics"]
    c("PIF.forget", second.ref)
    assert c.pool.store.find("PIF", second.ref) is c.pool.store.find("PIF_metrics", metrics) is None
    assert second.ref not in c.host("host1")["PIFs"]


def test_rows_are_introduced_and_forgotten_as_they_are(c: Any) -> None:
    """With the least that every release takes; attached they are not."""
    host, net = c.host("host1").ref, network(c).ref
    given = ["eth7", net, host, "00:16:3e:00:00:07", 1500, -1, True, "None", "", "", "", "", NULL, NULL, False, {}]
    for message in ("PIF.db_introduce", "PIF.pool_introduce"):
        ref = c(message, *given)
        row = get(c, "PIF", ref)
        assert (row["device"], row["currently_attached"], row["host"]) == ("eth7", False, host)
        c("PIF.db_forget", ref)
        assert c.pool.store.find("PIF", ref) is None


def test_a_pif_is_plugged_and_unplugged(c: Any) -> None:
    """Not the management interface, none that says so, and none that guests use."""
    first, _ = cards(c)
    c("PIF.plug", first.ref)
    assert first["currently_attached"]
    c("PIF.set_disallow_unplug", first.ref, True)
    assert c.refused("PIF.unplug", first.ref) == ["PIF_DOES_NOT_ALLOW_UNPLUG", first.ref]
    c("PIF.set_disallow_unplug", first.ref, False)
    c("VIF.move", vif(c, "vm01").ref, first["network"])
    assert c.refused("PIF.unplug", first.ref) == ["VIF_IN_USE", first["network"], vif(c, "vm01").ref]
    c("VIF.unplug", vif(c, "vm01").ref)
    c("PIF.unplug", first.ref)
    assert not first["currently_attached"]
    assert c.refused("PIF.unplug", pif(c).ref) == ["PIF_IS_MANAGEMENT_INTERFACE", pif(c).ref]
    c.pool.store.write(c.pool.store.pool(), ha_enabled=True)
    assert c.refused("PIF.unplug", pif(c).ref) == ["HA_IS_ENABLED"]
    assert c.refused("PIF.reconfigure_ip", pif(c).ref, "DHCP", "", "", "", "") == ["HA_IS_ENABLED"]


# --- addresses


@pytest.mark.parametrize("release", ["4.1", "8.2"])
def test_an_address_is_checked_part_by_part(calls: Make, release: str) -> None:
    """A static one needs both parts; whatever is given must be one."""
    c = calls(release=release, hosts=2)
    (first,) = cards(c, "host1", "eth1")
    call = ("PIF.reconfigure_ip", first.ref)
    assert c.refused(*call, "Static", "", "", "", "") == ["INVALID_IP_ADDRESS_SPECIFIED", "IP"]
    assert c.refused(*call, "Static", "10.9.0.1", "x", "", "") == ["INVALID_IP_ADDRESS_SPECIFIED", "netmask"]
    assert c.refused(*call, "None", "", "", "x", "") == ["INVALID_IP_ADDRESS_SPECIFIED", "gateway"]
    c(*call, "Static", "10.9.0.1", "255.255.255.0", "10.9.0.254", "10.9.0.2,10.9.0.3")
    assert (first["IP"], first["DNS"]) == ("10.9.0.1", "10.9.0.2,10.9.0.3")
    assert c.refused("PIF.reconfigure_ip", pif(c).ref, "None", "", "", "", "") == [
        "PIF_IS_MANAGEMENT_INTERFACE",
        pif(c).ref,
    ]


def test_a_hosts_address_moves_with_its_management_interface(c: Any) -> None:
    """In the database, where consoles say it, too, and for whoever wants to reach the host."""
    console = get(c, "console", c.vm("vm02")["consoles"][0])
    assert console["location"].startswith(f"https://{c.host('host2')['address']}/")
    c("PIF.reconfigure_ip", pif(c, host="host2").ref, "Static", "10.9.0.2", "255.255.255.0", "", "")
    assert c.host("host2")["address"] == "10.9.0.2"
    assert c.pool.machine("host2") is c.pool.machine_at("10.9.0.2")
    assert console["location"].startswith("https://10.9.0.2/")


def test_both_kinds_of_addresses_share_name_servers(c: Any) -> None:
    """Each message replaces those of its own kind."""
    first, _ = cards(c)
    c("PIF.reconfigure_ip", first.ref, "Static", "10.9.0.1", "255.255.255.0", "", "10.9.0.2,fd00::1")
    call = ("PIF.reconfigure_ipv6", first.ref)
    assert c.refused(*call, "Static", "fd00::9", "", "") == ["INVALID_CIDR_ADDRESS_SPECIFIED", "IPv6"]
    assert c.refused(*call, "Static", "fd00::9/64", "x", "") == ["INVALID_IP_ADDRESS_SPECIFIED", "gateway"]
    c(*call, "Static", "fd00::9/64", "fd00::1", "fd00::2")
    assert (first["IPv6"], first["DNS"]) == (["fd00::9/64"], "fd00::2,10.9.0.2")
    c("PIF.set_primary_address_type", first.ref, "IPv6")
    assert first["primary_address_type"] == "IPv6"
    error = ["PIF_IS_MANAGEMENT_INTERFACE", pif(c).ref]
    assert c.refused("PIF.set_primary_address_type", pif(c).ref, "IPv6") == error


def test_properties_are_of_cards_and_bonds(c: Any) -> None:
    """Those that there are, with the values that they have; members of a bond follow it."""
    first, second = cards(c)
    assert c.refused("PIF.set_property", first.ref, "gro", "x") == ["INVALID_VALUE", "properties", "gro = x"]
    assert c.refused("PIF.set_property", first.ref, "x", "on") == ["INVALID_VALUE", "properties", "x = on"]
    c("PIF.set_property", first.ref, "gro", "off")
    assert first["properties"] == {"gro": "off"}
    members = [first.ref, second.ref]
    assert c.refused("Bond.create", network(c).ref, members, "") == ["INCOMPATIBLE_PIF_PROPERTIES"]
    c("PIF.set_property", first.ref, "gro", "on")
    bond = get(c, "Bond", c("Bond.create", network(c).ref, members, ""))
    assert c.refused("PIF.set_property", first.ref, "gro", "off") == ["CANNOT_CHANGE_PIF_PROPERTIES", first.ref]
    c("PIF.set_property", bond["master"], "gro", "off")
    assert first["properties"] == second["properties"] == {"gro": "off"}


# --- VLANs


@pytest.mark.parametrize("release", ["4.1", "5.5", "8.2"])
def test_a_vlan_has_a_pif_of_its_own(calls: Make, release: str) -> None:
    """On its network, with its tag and the device beneath; since 5.6 it is plugged and shares the metrics."""
    c = calls(release=release, hosts=2)
    net, base = network(c), pif(c)
    ref = c("VLAN.create", base.ref, 7, net.ref)
    vlan = get(c, "VLAN", ref)
    untagged = get(c, "PIF", vlan["untagged_PIF"])
    assert (vlan["tag"], vlan["tagged_PIF"], untagged["VLAN"], untagged["device"]) == (7, base.ref, 7, "eth0")
    assert (base["VLAN_slave_of"], untagged["VLAN_master_of"], net["PIFs"]) == ([ref], ref, [untagged.ref])
    assert untagged["MAC"] == "fe:ff:ff:ff:ff:ff"
    assert untagged["currently_attached"] is (release == "8.2")
    assert (untagged["metrics"] == base["metrics"]) is (release == "8.2")
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
    c("PIF.set_primary_address_type", second.ref, "IPv6")
    error = ["PIF_INCOMPATIBLE_PRIMARY_ADDRESS_TYPE", second.ref]
    assert c.refused("Bond.create", net, [first.ref, second.ref], "") == error
    assert not c.pool.store.table("Bond")
    c("Bond.create", net, [first.ref], "")
    assert c.refused("Bond.create", network(c).ref, [first.ref], "") == ["PIF_ALREADY_BONDED", first.ref]


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
    assert get(c, "network", eth1["network"])["MTU"] == 9000
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
    assert eth0["bond_slave_of"] == NULL
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
