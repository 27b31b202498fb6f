"""Networks, cards and addresses: who may be changed, what is made, and what moves with it."""

from __future__ import annotations

import io
from collections.abc import Callable
from typing import Any

import pytest
from joining import bare, rest
from networks import cards, get, network, pif, vif

from xenctl.releases import find
from xenctl.session import connect
from xenctl.transfers import export_vm, import_vm

Make = Callable[..., Any]
NULL = "OpaqueRef:NULL"


@pytest.fixture
def c(calls: Make) -> Any:
    return calls(release="8.2", hosts=2, vms=12)


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


@pytest.mark.parametrize(("release", "second"), [("7.1", "xapi0"), ("7.2", "storage")])
def test_a_network_that_comes_with_a_vm_gets_its_bridge_as_a_new_one_does(
    calls: Make, release: str, second: str
) -> None:
    """The name of the one that it was on, where a client can choose it."""
    source, target = calls(release=release, hosts=1, vms=4), calls(release=release, hosts=1, vms=0)
    theirs, data = network(source, name_label="theirs"), io.BytesIO()
    source.pool.store.write(theirs, bridge="storage")
    source("VIF.destroy", vif(source, "vm04").ref)
    record = {
        "VM": source.vm("vm04").ref,
        "network": theirs.ref,
        "device": "0",
        "MAC": "",
        "MTU": 1500,
        "other_config": {},
    }
    source("VIF.create", {**record, "qos_algorithm_type": "", "qos_algorithm_params": {}})
    with connect(source.pool.url, "root", "secret", transport=source.pool.transport()) as session:
        export_vm(session, source.vm("vm04").ref, data)
    with connect(target.pool.url, "root", "secret", transport=target.pool.transport()) as session:
        import_vm(session, data.getvalue())
    assert target.row("network", "theirs")["bridge"] == second
    assert network(target)["bridge"] == ("xapi1" if second == "xapi0" else "xapi0")


# --- cards


@pytest.mark.parametrize(("device", "bridge"), [("eth1", "xenbr1"), ("eth1f0", "xenbr1f0"), ("em1", "brem1")])
def test_the_bridge_of_a_card_has_a_name_by_that_of_the_card(c: Any, device: str, bridge: str) -> None:
    """Any that begins as Linux's own names do counts as one of those."""
    (card,) = cards(c, "host1", device)
    assert get(c, "network", card["network"])["bridge"] == bridge


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


def test_both_kinds_of_addresses_share_name_servers(calls: Make) -> None:
    """Since XenServer 8 each message replaces those of its own kind."""
    c = calls(release="8.4")
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


@pytest.mark.parametrize("release", ["4.0.1", "5.5", "5.6", "6.1", "8.4"])
def test_cards_tell_of_their_link_after_a_restart_too(calls: Make, release: str) -> None:
    """Up to 5.5 the rows do not outlive a start of the master's toolstack: its hosts' monitoring makes them anew."""
    c = calls(release=release, hosts=2)
    for _ in range(2):
        for ref in c("PIF.get_all"):
            seen = c("PIF_metrics.get_record", c("PIF.get_metrics", ref))
            assert (seen["carrier"], seen["speed"], seen["duplex"]) == (True, 1000, True)
        assert len(c("PIF_metrics.get_all")) == len(c("PIF.get_all"))
        c.pool.hands.power_off("host1")
        c.pool.hands.power_on("host1")
        c.pool.clock.advance(900)
        c = c.again()


def test_found_bonded_and_joined_cards_tell_of_their_link(calls: Make) -> None:
    """As those that were there from the start; what is built on cards names no vendor."""
    c = calls(release="8.2", hosts=1)
    first, second = cards(c)
    bond = get(c, "Bond", c("Bond.create", network(c).ref, [first.ref, second.ref], ""))
    d = bare(c)
    d("pool.join", "10.0.0.1", "root", "secret")
    joined = [get(c, "PIF", ref) for ref in rest(c, "host2")["PIFs"]]
    for row in (pif(c), first, second, *joined, get(c, "PIF", bond["master"])):
        seen = get(c, "PIF_metrics", row["metrics"])
        assert (seen["carrier"], seen["speed"]) == (True, 1000), row["device"]
        assert bool(seen["vendor_name"]) == row["physical"]
