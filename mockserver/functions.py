"""Virtual functions: the PCI devices into which a card splits itself, each for a VM of its own.

How many a card can have, its machine knows (`HostMachine.virtual_functions`); which there are, the database.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from .store import NULL

if TYPE_CHECKING:
    from .pool import MockPool
    from .store import Row, Store

SAME = ("host", "class_id", "class_name", "vendor_id", "vendor_name", "device_id", "device_name", "driver_name")
"""What a virtual function has of its card."""


def most(pool: MockPool, card: Row) -> int:
    """How many virtual functions a card can have."""
    machine = pool.machine_of(pool.store.find("host", card["host"]))
    return machine.virtual_functions.get(card["pci_id"], 0) if machine is not None else 0


def split(pool: MockPool, card: Row) -> None:
    """Have all the virtual functions that a card can have."""
    same = {name: card[name] for name in SAME if name in card}
    for number in range(len(card["virtual_functions"]), most(pool, card)):
        address = f"{card['pci_id'].rpartition('.')[0]}.{number + 1}"
        fields = {"uuid": pool.new_uuid(), "pci_id": address, "physical_function": card.ref, **same}
        pool.store.create("PCI", pool.new_ref(), fields)


def unite(pool: MockPool, card: Row) -> None:
    """Have none any more."""
    for ref in list(card["virtual_functions"]):
        pool.store.delete(pool.store.get("PCI", ref))


def free(store: Store, card: Row | None) -> list[Row]:
    """The virtual functions of a card that no VM has or will have, by their addresses."""
    functions = [store.get("PCI", ref) for ref in (card["virtual_functions"] if card is not None else ())]
    idle = [row for row in functions if not row["attached_VMs"] and row["scheduled_to_be_attached_to"] == NULL]
    return sorted(idle, key=lambda row: str(row["pci_id"]))
