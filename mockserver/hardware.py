"""The graphics cards and USB devices of a made-up pool's hosts, and those that a database tells of."""

from __future__ import annotations

from dataclasses import asdict, fields
from typing import TYPE_CHECKING, Any

from .machine.usb import UsbDevice

if TYPE_CHECKING:
    from .pool import MockPool
    from .store import Row, Store

CARD = {
    "class_id": "0300",
    "class_name": "VGA compatible controller",
    "vendor_id": "10de",
    "vendor_name": "NVIDIA Corporation",
    "device_id": "0ff2",
    "device_name": "GK107GL [GRID K1]",
    "driver_name": "nvidia",
}
GROUP = "Group of NVIDIA Corporation GK107GL [GRID K1] GPUs"
CARD_SIZE = 1 << 20
"""The size of a card; that of a type of virtual graphics is the share of it that one takes."""
USUAL = 8
"""Virtual functions of a network card of which nobody says how many it has."""
TYPES: dict[str, dict[str, Any]] = {
    "passthrough": {"implementation": "passthrough"},
    "GRID K140Q": {
        "vendor_name": "NVIDIA Corporation",
        "implementation": "nvidia",
        "framebuffer_size": 1006632960,
        "max_heads": 2,
        "size": CARD_SIZE // 4,
    },
}
"""The types of virtual graphics that a card can run, by model: it is passed through whole, or four share it."""


def equip(pool: MockPool, store: Store, host: Row, *, gpus: int, usbs: int) -> None:
    """Put graphics cards and USB devices into a host, as far as its release knows them."""
    for number in range(gpus if "PGPU" in store.tables else 0):
        _add_card(pool, store, host, f"0000:{number + 4:02x}:00.0")
    if gpus and "chipset_info" in host:
        store.write(host, chipset_info={"iommu": "true"})
    for number in range(usbs if "PUSB" in store.tables else 0):
        device = UsbDevice(path=f"1-{number + 1}", serial=f"{host['name_label']}-{number + 1}")
        group = _add(pool, store, "USB_group", name_label=f"Group of {device.vendor_id} {device.product_id} USBs")
        _add(pool, store, "PUSB", host=host.ref, USB_group=group.ref, **asdict(device))


def _add(pool: MockPool, store: Store, table: str, **values: Any) -> Row:
    """A row with those of `values` that the release knows."""
    known = store.shape(table).fields
    given = {name: value for name, value in values.items() if name in known}
    return store.create(table, pool.new_ref(), {"uuid": pool.new_uuid(), **given})


def _one(pool: MockPool, store: Store, table: str, name: str, **values: Any) -> Row:
    """The row of a name, made where it is missing."""
    label = "name_label" if table == "GPU_group" else "model_name"
    found = [row for row in store.table(table).values() if row[label] == name]
    return found[0] if found else _add(pool, store, table, **{label: name}, **values)


def _add_card(pool: MockPool, store: Store, host: Row, address: str) -> None:
    pci = _add(pool, store, "PCI", host=host.ref, pci_id=address, **CARD)
    kind = f"{CARD['vendor_id']}/{CARD['device_id']}"
    group = _one(pool, store, "GPU_group", GROUP, GPU_types=[kind])
    rows = (
        [_one(pool, store, "VGPU_type", name, **TYPES[name]) for name in TYPES] if "VGPU_type" in store.tables else []
    )
    types = [row.ref for row in rows]
    for row in rows:
        if "compatible_types_on_pgpu" in row:
            store.write(row, compatible_types_on_pgpu=[row.ref])
    capacities = {row.ref: CARD_SIZE // row["size"] if row.get("size") else 1 for row in rows}
    supported = {"supported_VGPU_types": types, "enabled_VGPU_types": types}
    more = {"supported_VGPU_max_capacities": capacities, "size": CARD_SIZE}
    _add(pool, store, "PGPU", PCI=pci.ref, host=host.ref, GPU_group=group.ref, **supported, **more)
    if rows and "supported_VGPU_types" in group:
        store.write(group, **supported)


def virtual_functions(store: Store, host: Row) -> dict[str, int]:
    """How many virtual functions each card of a host can have: those that the database tells of, or a usual number where it
    says no more than that the card can."""
    pifs = (store.get("PIF", ref) for ref in host["PIFs"])
    can = {pif["PCI"] for pif in pifs if "sriov" in pif.get("capabilities", ())}
    cards = (store.get("PCI", ref) for ref in host.get("PCIs", ()))
    counts = {card["pci_id"]: len(card.get("virtual_functions", ())) or USUAL * (card.ref in can) for card in cards}
    return {address: count for address, count in counts.items() if count}


def usb_devices(store: Store, host: Row) -> tuple[UsbDevice, ...]:
    """The devices in the ports of a host, as the database tells of them."""
    rows = (store.get("PUSB", ref) for ref in host.get("PUSBs", ()))
    known = [field.name for field in fields(UsbDevice)]
    return tuple(UsbDevice(**{name: row[name] for name in known if name in row}) for row in rows)
