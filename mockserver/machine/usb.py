"""USB devices in the ports of a host."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class UsbDevice:
    """A device in a port. `path` names the port, the ids are those of its maker in hexadecimal, `speed` is in Mbit/s."""

    path: str
    vendor_id: str = "0781"
    vendor_desc: str = "SanDisk Corp."
    product_id: str = "5591"
    product_desc: str = "Ultra"
    serial: str = ""
    version: str = "2.10"
    description: str = "SanDisk Corp._Ultra"
    speed: float = 480.0

    @property
    def identity(self) -> tuple[str, str, str, str]:
        """What tells one device in a port from another."""
        return self.path, self.vendor_id, self.product_id, self.serial
