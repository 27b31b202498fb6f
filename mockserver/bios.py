"""The BIOS strings of VMs: what a guest reads where its hardware says who made it."""

from __future__ import annotations

from .call import refuse

SETTABLE = (
    *("bios-vendor", "bios-version", "system-manufacturer", "system-product-name", "system-version"),
    *("system-serial-number", "baseboard-manufacturer", "baseboard-product-name", "baseboard-version"),
    *("baseboard-serial-number", "baseboard-asset-tag", "baseboard-location-in-chassis", "enclosure-asset-tag"),
)
"""The keys that a user may set."""
GENERIC: dict[str, str] = {
    **dict.fromkeys(SETTABLE, ""),
    "hp-rombios": "",
    "oem-1": "Xen",
    "oem-2": "MS_VM_CERT/SHA1/bdbeb6e0a816d43fa6d3fe8aaef04c2bad9d3e3d",
    "bios-vendor": "Xen",
    "system-manufacturer": "Xen",
    "system-product-name": "HVM domU",
}
"""What a VM gets that starts without any."""
LONGEST = 512


def assert_valid(strings: dict[str, str]) -> None:
    """Raise `INVALID_VALUE` for the first string that no VM may have."""
    for key, value in strings.items():
        if key not in SETTABLE:
            raise refuse("INVALID_VALUE", key, "Unknown key")
        if not value:
            raise refuse("INVALID_VALUE", key, "Value provided is empty")
        if len(value) > LONGEST:
            raise refuse("INVALID_VALUE", key, f"{value} has length more than {LONGEST} characters")
        if not all(" " <= character < "\x7f" for character in value):
            raise refuse("INVALID_VALUE", key, f"{value} has non-printable ASCII characters")
