"""Networks of virtual functions: made and dropped on cards that can, and guests that have a function each."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

Make = Callable[..., Any]
NULL = "OpaqueRef:NULL"


@pytest.fixture
def c(calls: Make) -> Any:
    """A pool of two hosts, each with a second network card that can have two virtual functions."""
    c = calls(release="8.2", hosts=2, vms=8)
    for machine in c.pool.machines:
        machine.nics = (*machine.nics, ("eth1", f"00:16:3e:cc:00:0{machine.name[-1]}"))
        c("PIF.scan", c.host(machine.name).ref)
        pif = pif_of(c, machine.name)
        fields = {"host": pif["host"], "pci_id": "0000:06:00.0", "vendor_id": "8086", "device_id": "10fb"}
        card = c.pool.store.create("PCI", c.pool.new_ref(), {"uuid": c.pool.new_uuid(), **fields})
        c.pool.store.write(pif, capabilities=["sriov"], PCI=card.ref)
        machine.virtual_functions["0000:06:00.0"] = 2
    return c


def pif_of(c: Any, host: str, device: str = "eth1") -> Any:
    """The PIF of a card."""
    rows = c.pool.store.table("PIF").values()
    return next(r for r in rows if r["host"] == c.host(host).ref and r["device"] == device and r["physical"])


def network(c: Any) -> str:
    return str(c("network.create", {"name_label": "fast", "other_config": {}}))


def test_a_network_of_functions_is_made_and_dropped(c: Any) -> None:
    """With a PIF of its own on that of the card, which has functions as long as the network is there."""
    store, card, fast = c.pool.store, pif_of(c, "host1"), network(c)
    row = store.get("network_sriov", c("network_sriov.create", card.ref, fast))
    logical, pci = store.get("PIF", row["logical_PIF"]), store.get("PCI", card["PCI"])
    assert (row["physical_PIF"], row["configuration_mode"], row["requires_reboot"]) == (card.ref, "sysfs", False)
    assert (logical["network"], logical["currently_attached"], logical["physical"]) == (fast, True, False)
    assert len(pci["virtual_functions"]) == c("network_sriov.get_remaining_capacity", row.ref) == 2
    c("PIF.unplug", logical.ref)
    assert pci["virtual_functions"] == [] and c("network_sriov.get_remaining_capacity", row.ref) == 0
    c("PIF.plug", logical.ref)
    assert len(pci["virtual_functions"]) == 2
    c("network_sriov.destroy", row.ref)
    assert pci["virtual_functions"] == [] and store.find("PIF", logical.ref) is None


def test_only_cards_that_can_are_split(c: Any) -> None:
    """Physical ones, once, on a network for them alone, of cards of one kind."""
    store, card, other, fast = c.pool.store, pif_of(c, "host1"), pif_of(c, "host2"), network(c)
    plain = pif_of(c, "host1", "eth0")
    assert c.refused("network_sriov.create", plain.ref, fast) == ["PIF_IS_NOT_SRIOV_CAPABLE", plain.ref]
    used = plain["network"]
    assert c.refused("network_sriov.create", card.ref, used)[0] == "NETWORK_ALREADY_CONNECTED"
    c("network_sriov.create", card.ref, fast)
    again = c.refused("network_sriov.create", card.ref, network(c))
    assert again == ["NETWORK_SRIOV_ALREADY_ENABLED", card.ref]
    logical = next(row for row in store.table("PIF").values() if row["network"] == fast)
    assert c.refused("network_sriov.create", logical.ref, network(c)) == ["PIF_IS_NOT_PHYSICAL", logical.ref]
    store.write(store.get("PCI", other["PCI"]), device_id="1572")
    mixed = c.refused("network_sriov.create", other.ref, fast)
    assert mixed == ["NETWORK_HAS_INCOMPATIBLE_SRIOV_PIFS", other.ref, fast]
    c("VLAN.create", logical.ref, 7, network(c))
    row = next(iter(store.table("network_sriov")))
    assert c.refused("network_sriov.destroy", row) == ["PIF_VLAN_STILL_EXISTS", logical.ref]
    store.write(store.pool(), restrictions={"restrict_network_sriov": "true"})
    assert c.refused("network_sriov.create", other.ref, fast) == ["LICENCE_RESTRICTION", "Network_sriov"]


def test_a_card_that_fails_to_split_stays_unattached(c: Any) -> None:
    """The network is there, as xapi leaves it, and can be plugged once the card can."""
    card = pif_of(c, "host1")
    c.pool.machine("host1").virtual_functions.clear()
    assert c.refused("network_sriov.create", card.ref, network(c))[0] == "NETWORK_SRIOV_ENABLE_FAILED"
    (row,) = c.pool.store.table("network_sriov").values()
    logical = c.pool.store.get("PIF", row["logical_PIF"])
    assert (row["configuration_mode"], logical["currently_attached"]) == ("unknown", False)
    c.pool.machine("host1").virtual_functions["0000:06:00.0"] = 1
    c("PIF.plug", logical.ref)
    assert c("network_sriov.get_remaining_capacity", row.ref) == 1


def test_a_guest_with_a_function_is_not_agile(c: Any) -> None:
    """Though every host has such a network."""
    fast = network(c)
    for host in ("host1", "host2"):
        c("network_sriov.create", pif_of(c, host).ref, fast)
    vm = c.vm("vm04")
    c("VM.assert_agile", vm.ref)
    c("VIF.move", vm["VIFs"][0], fast)
    assert c.refused("VM.assert_agile", vm.ref) == ["VM_HAS_SRIOV_VIF", vm.ref]


def test_a_guest_with_a_function_stays_where_it_is(c: Any) -> None:
    """Each has one of its own, as many as there are; it is free again when the guest is off."""
    store, fast = c.pool.store, network(c)
    rows = [c("network_sriov.create", pif_of(c, host).ref, fast) for host in ("host1", "host2")]
    vms = [c.vm(name) for name in ("vm01", "vm03", "vm07")]
    for vm in vms:
        c("VM.hard_shutdown", vm.ref)
        c("VIF.move", vm["VIFs"][0], fast)
    host = c.host("host1").ref
    for vm in vms[:2]:
        c("VM.start_on", vm.ref, host, False, False)
        (function,) = vm["attached_PCIs"]
        assert store.get("VIF", vm["VIFs"][0])["reserved_pci"] == function
        assert store.get("PCI", function)["scheduled_to_be_attached_to"] == NULL
    assert vms[0]["attached_PCIs"] != vms[1]["attached_PCIs"]
    assert c("network_sriov.get_remaining_capacity", rows[0]) == 0
    full = c.refused("VM.start_on", vms[2].ref, host, False, False)
    assert full == ["NETWORK_SRIOV_INSUFFICIENT_CAPACITY", fast]
    c("VM.start", vms[2].ref, False, False)
    assert vms[2]["resident_on"] == c.host("host2").ref
    c.sleep(60)
    stays = c.refused("VM.pool_migrate", vms[0].ref, c.host("host2").ref, {})
    assert stays == ["VM_HAS_PCI_ATTACHED", vms[0].ref]
    c("VM.hard_shutdown", vms[0].ref)
    assert c("network_sriov.get_remaining_capacity", rows[0]) == 1
    assert store.get("VIF", vms[0]["VIFs"][0])["reserved_pci"] == NULL
    c("host.allocate_resources_for_vm", host, vms[0].ref, False)
    assert c("network_sriov.get_remaining_capacity", rows[0]) == 0
