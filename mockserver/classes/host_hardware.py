"""Cards that hosts split into virtual functions, when a VM is about to need one."""

from __future__ import annotations

from .. import functions, hosts, passthrough
from ..call import Call, refuse
from . import verbs_of

verb = verbs_of("host")


@verb("PCI.*")
def nvidia_vf_setup(call: Call, host: str, pf: str, enable: bool) -> str:
    """Have the virtual functions of a card; those that are there already stay, also when asked to end them."""
    contact = hosts.reached(call, host)
    card = call.db.get("PCI", pf)
    if card["pci_id"] not in contact.machine.virtual_functions:
        raise refuse("NVIDIA_SRIOV_MISCONFIGURED", host, card["device_name"])
    if enable:
        functions.split(call.pool, card)
    return ""


@verb("PCI.*")
def mxgpu_vf_setup(call: Call, host: str) -> str:
    """Have the virtual functions of every card whose driver makes them. Without such a card there is no such driver."""
    row = call.db.get("host", host)
    machine = hosts.contact(call.pool, row).machine
    cards = [call.db.find("PCI", call.db.get("PGPU", ref)["PCI"]) for ref in row["PGPUs"]]
    found = [
        card
        for card in cards
        if card is not None and card["vendor_id"] == passthrough.AMD and card["pci_id"] in machine.virtual_functions
    ]
    if not found:
        raise refuse("INTERNAL_ERROR", "modprobe: FATAL: Module gim not found.")
    for card in found:
        functions.split(call.pool, card)
    return ""
