"""The checksums that an archive's chunks carry: SHA-1 up to 8.0, XXH64 since 8.1.

XXH64 is written out here, since Python has none: 64-bit arithmetic on eight bytes at a time in four lanes.
"""

from __future__ import annotations

import hashlib
import struct
from functools import lru_cache
from typing import TYPE_CHECKING

from xenctl.releases import find

if TYPE_CHECKING:
    from xenctl.releases import Release

XXHASH_SINCE = find("8.1.0").order
P1, P2, P3 = 0x9E3779B185EBCA87, 0xC2B2AE3D27D4EB4F, 0x165667B19E3779F9
P4, P5 = 0x85EBCA77C2B2AE63, 0x27D4EB2F165667C5
M = (1 << 64) - 1


def extension(release: Release) -> str:
    """The extension of the checksum files that a host of `release` writes."""
    return ".xxhash" if release.order >= XXHASH_SINCE else ".checksum"


def checksum(data: bytes, kind: str) -> str:
    """The text of the checksum of `data`, by the extension of its file. Raises `KeyError` for one that is not known."""
    if data == bytes(len(data)):
        return _of_zeros(len(data), kind)
    return _KINDS[kind](data)


@lru_cache(maxsize=16)
def _of_zeros(size: int, kind: str) -> str:
    return _KINDS[kind](bytes(size))


def xxh64(data: bytes) -> int:
    """XXH64 of `data` with seed 0."""
    size, rest = len(data), len(data) % 32
    if size >= 32:
        total = _mixed(data[: size - rest])
    else:
        total = P5
    total = (total + size) & M
    tail = data[size - rest :]
    for (word,) in struct.iter_unpack("<Q", tail[: rest // 8 * 8]):
        word = word * P2 & M
        total ^= (word << 31 | word >> 33) * P1 & M
        total = ((total << 27 | total >> 37) & M) * P1 + P4 & M
    tail = tail[rest // 8 * 8 :]
    if len(tail) >= 4:
        total ^= int.from_bytes(tail[:4], "little") * P1 & M
        total = ((total << 23 | total >> 41) & M) * P2 + P3 & M
        tail = tail[4:]
    for byte in tail:
        total ^= byte * P5 & M
        total = ((total << 11 | total >> 53) & M) * P1 & M
    total = (total ^ total >> 33) * P2 & M
    total = (total ^ total >> 29) * P3 & M
    return total ^ total >> 32


def _mixed(data: bytes) -> int:
    """The four lanes of whole stripes of 32 bytes, merged."""
    a, b, c, d = P1 + P2 & M, P2, 0, -P1 & M
    for w, x, y, z in struct.iter_unpack("<4Q", data):
        a = a + w * P2 & M
        a = (a << 31 | a >> 33) * P1 & M
        b = b + x * P2 & M
        b = (b << 31 | b >> 33) * P1 & M
        c = c + y * P2 & M
        c = (c << 31 | c >> 33) * P1 & M
        d = d + z * P2 & M
        d = (d << 31 | d >> 33) * P1 & M
    total = (a << 1 | a >> 63) + (b << 7 | b >> 57) + (c << 12 | c >> 52) + (d << 18 | d >> 46) & M
    for lane in (a, b, c, d):
        lane = lane * P2 & M
        total ^= (lane << 31 | lane >> 33) * P1 & M
        total = total * P1 + P4 & M
    return total


_KINDS = {
    ".checksum": lambda data: hashlib.sha1(data, usedforsecurity=False).hexdigest(),
    ".xxhash": lambda data: f"{xxh64(data):016X}",
}
