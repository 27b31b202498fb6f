"""Addresses of network interfaces: what xapi takes for one, and the MACs that it makes up."""

from __future__ import annotations

import re
from hashlib import md5
from ipaddress import IPv4Interface, IPv6Interface, ip_address, ip_interface

from .call import refuse

MAC = re.compile(r"[0-9a-fA-F]{2}(:[0-9a-fA-F]{2}){5}")
VERSIONS = {"ipv4": 4, "ipv6": 6}


def is_mac(text: str) -> bool:
    """Whether `text` is six pairs of hexadecimal digits, colons between."""
    return MAC.fullmatch(text) is not None


def made_up_mac(device: int, seed: str) -> str:
    """The MAC of device `device` of a VM whose `other_config:mac_seed` is `seed`: a unicast one, locally administered."""
    chain = seed.encode()
    for _ in range(2 * device + 1):
        chain = _digest(chain)
    octets = [*chain[:4], *_digest(chain)[1:3]]
    octets[0] = (octets[0] | 2) & ~1
    return ":".join(f"{octet:02x}" for octet in octets)


def _digest(data: bytes) -> bytes:
    return md5(data, usedforsecurity=False).digest()


def is_ip(kind: str, text: str) -> bool:
    """Whether `text` is an address of `kind`, `ipv4` or `ipv6`."""
    try:
        return ip_address(text).version == VERSIONS[kind]
    except ValueError:
        return False


def parse_cidr(kind: str, text: str) -> IPv4Interface | IPv6Interface | None:
    """An address of `kind` with the length of its prefix, as in `10.0.0.1/24`; None for what is none."""
    try:
        found = ip_interface(text)
    except ValueError:
        return None
    return found if "/" in text and found.version == VERSIONS[kind] else None


def assert_ip(kind: str, field: str, text: str) -> None:
    """Raise `INVALID_IP_ADDRESS_SPECIFIED`, which names the parameter `field`."""
    if not is_ip(kind, text):
        raise refuse("INVALID_IP_ADDRESS_SPECIFIED", field)


def assert_cidr(kind: str, field: str, text: str) -> None:
    """Raise `INVALID_CIDR_ADDRESS_SPECIFIED`, which names the parameter `field`."""
    if parse_cidr(kind, text) is None:
        raise refuse("INVALID_CIDR_ADDRESS_SPECIFIED", field)


def assert_ip_or_cidr(kind: str, field: str, text: str) -> None:
    """Raise `INVALID_IP_ADDRESS_SPECIFIED` for what is neither an address nor one with the length of its prefix."""
    if not is_ip(kind, text) and parse_cidr(kind, text) is None:
        raise refuse("INVALID_IP_ADDRESS_SPECIFIED", field)
