"""Disks as dynamic VHDs, sent and received as streams.

    footer (a copy) | header | table: where each block begins, in sectors | blocks | footer

A block has a bitmap of its sectors before it: a sector whose bit is 0 holds zeros. Blocks that hold nothing are not there.
Numbers are big-endian; footer and header each carry the complement of the sum of their bytes. What comes may have its
blocks in any order, but the table before them, or it could not be read as a stream.

A VHD of differences has the blocks that are not the same on another disk, whole, and names that as its parent. One that
comes is written over what is there, whatever that is, as xapi does: who restores it puts it onto a copy of the parent.
"""

from __future__ import annotations

import struct
from collections.abc import Generator
from dataclasses import dataclass
from typing import Any
from uuid import UUID

from xenctl.errors import Failure

from ..call import refuse
from ..machine.disks import BLOCK_SIZE, Disk
from .archive import LARGEST, Archive, Meter
from .base import Read, Steps

SECTOR = 512
BLOCK = 1 << 21
"""Bytes of a block in what is sent."""
FREE = 0xFFFFFFFF
"""The place of a block that is not there."""
NOWHERE = (1 << 64) - 1
EPOCH = 946684800
"""1 January 2000, from which footers count seconds."""
DYNAMIC, DIFFERENCING = 3, 4
FOOTER = struct.Struct(">8sIIQI4sI4sQQHBBII16sB427x")
HEADER = struct.Struct(">8sQQIIII16sI4x512s448x")
FOOTER_SUM, HEADER_SUM = 64, 36
"""Where the checksums stand."""
LOCATOR = struct.Struct(">4sIIIQ")
LOCATORS = 576
"""Where the places stand at which a parent's name can be found."""


@dataclass(frozen=True)
class Base:
    """The disk that another one is compared with."""

    uuid: str
    disk: Disk


def changed(disk: Disk, base: Disk) -> list[int]:
    """The blocks that are not the same on both disks, by number."""
    pieces = {n for n in {*disk.blocks, *base.blocks} if disk.blocks.get(n) != base.blocks.get(n)}
    return sorted({number * BLOCK_SIZE // BLOCK for number in pieces})


def checksum(data: bytes, place: int) -> int:
    """The checksum of a footer or header that keeps it at `place`."""
    return ~(sum(data) - sum(data[place : place + 4])) & 0xFFFFFFFF


def _sealed(data: bytes, place: int) -> bytes:
    return data[:place] + checksum(data, place).to_bytes(4, "big") + data[place + 4 :]


def geometry(size: int) -> tuple[int, int, int]:
    """Cylinders, heads and sectors a track of a disk of `size` bytes, as the format prescribes."""
    total = min(size // SECTOR, 65535 * 16 * 255)
    if total >= 65535 * 16 * 63:
        return total // 255 // 16, 16, 255
    cylinders = total // 17
    heads = max(4, (cylinders + 1023) // 1024)
    if heads <= 16 and cylinders < heads * 1024:
        return cylinders // heads, heads, 17
    if total // 31 < 16 * 1024:
        return total // 31 // 16, 16, 31
    return total // 63 // 16, 16, 63


def send(meter: Meter, disk: Disk, size: int, uuid: str, now: float, base: Base | None = None) -> Steps:
    """A disk's content, made `now` (seconds since 1970), or what of it is not the same on a `base`."""
    whole = -(-size // SECTOR) * SECTOR
    footer = _footer(whole, uuid, now, DYNAMIC if base is None else DIFFERENCING)
    entries = -(-whole // BLOCK)
    width = -(-entries * 4 // SECTOR) * SECTOR
    used = [n for n in (disk.used(BLOCK) if base is None else changed(disk, base.disk)) if n < entries]
    name = f"file://./{base.uuid}.vhd".encode() if base is not None else b""
    begin = SECTOR + 1024 + (SECTOR if base is not None else 0)
    table, sector = [FREE] * (width // 4), (begin + width) // SECTOR
    for number in used:
        table[number] = sector
        sector += 1 + BLOCK // SECTOR
    yield footer + _header(begin, entries, base, name, now) + name.ljust(SECTOR if name else 0, b"\0")
    yield struct.pack(f">{len(table)}I", *table)
    for number in used:
        data = disk.read(number * BLOCK, min(BLOCK, whole - number * BLOCK)).ljust(BLOCK, b"\0")
        yield (_bitmap(data) if base is None else b"\xff" * (BLOCK // SECTOR // 8)) + data
        yield meter.at(number * BLOCK)
    yield footer


def _header(table: int, entries: int, base: Base | None, name: bytes, now: float) -> bytes:
    parent, title, seconds = (bytes(16), b"", 0)
    if base is not None:
        parent, title, seconds = UUID(base.uuid).bytes, f"{base.uuid}.vhd".encode("utf-16-be"), _seconds(now)
    header = HEADER.pack(b"cxsparse", NOWHERE, table, 0x10000, entries, BLOCK, 0, parent, seconds, title)
    if base is not None:
        locator = LOCATOR.pack(b"MacX", SECTOR, len(name), 0, table - SECTOR)
        header = header[:LOCATORS] + locator + header[LOCATORS + LOCATOR.size :]
    return _sealed(header, HEADER_SUM)


def _seconds(now: float) -> int:
    return max(0, int(now) - EPOCH)


def _footer(size: int, uuid: str, now: float, kind: int) -> bytes:
    place = geometry(size)
    fields = (b"conectix", 2, 0x10000, SECTOR, _seconds(now), b"xapi", 0x10000, b"\0\0\0\0", size, size, *place, kind)
    return _sealed(FOOTER.pack(*fields, 0, UUID(uuid).bytes, 0), FOOTER_SUM)


def _bitmap(data: bytes) -> bytes:
    bits = 0
    for at in range(0, len(data), SECTOR):
        bits = bits << 1 | (data.count(0, at, at + SECTOR) != SECTOR)
    return bits.to_bytes(len(data) // SECTOR // 8, "big")


@dataclass(frozen=True)
class _Shape:
    """What footer and header say: its kind, the disk's size, how large its blocks are, and where they begin, in order."""

    kind: int
    size: int
    block: int
    places: list[tuple[int, int]]


def receive(meter: Meter, disk: Disk, size: int, length: int | None) -> Steps:
    """Replace what is on a disk of `size` bytes, or what differences tell of it. Raises `Failure` for what is no VHD, or one
    of a larger disk; before the table of blocks was read, nothing is changed."""
    archive = Archive(length)
    try:
        shape, sector = yield from _shape(archive, size)
        if shape.kind == DYNAMIC:
            disk.blocks.clear()
        marks = -(-shape.block // SECTOR // 8 // SECTOR) * SECTOR
        for place, number in shape.places:
            if place < sector:
                raise _damaged()
            yield from _skip(archive, (place - sector) * SECTOR)
            bitmap = yield from archive.take(marks)
            data = yield from archive.take(shape.block)
            for at in range(0, min(shape.block, shape.size - number * shape.block), SECTOR):
                index = at // SECTOR
                if bitmap[index // 8] >> (7 - index % 8) & 1:
                    disk.write(number * shape.block + at, data[at : at + SECTOR])
            sector = place + (marks + shape.block) // SECTOR
            yield meter.at(number * shape.block)
        yield from archive.take(SECTOR)
    except EOFError:
        raise _damaged() from None
    yield from archive.drain()


def _shape(archive: Archive, limit: int) -> Generator[Read | float, Any, tuple[_Shape, int]]:
    """What is before the blocks, and the sector that comes next."""
    data = yield from archive.take(SECTOR)
    cookie, _, _, offset, _, _, _, _, _, size, _, _, _, kind, total, _, _ = FOOTER.unpack(data)
    if cookie != b"conectix" or total != checksum(data, FOOTER_SUM) or kind not in (DYNAMIC, DIFFERENCING):
        raise _damaged()
    if size > -(-limit // SECTOR) * SECTOR or not SECTOR <= offset <= LARGEST:
        raise _damaged()
    yield from _skip(archive, offset - SECTOR)
    data = yield from archive.take(1024)
    cookie, _, table, _, entries, block, total, _, _, _ = HEADER.unpack(data)
    if cookie != b"cxsparse" or total != checksum(data, HEADER_SUM):
        raise _damaged()
    sound = block and block % SECTOR == 0 and block <= LARGEST and entries * 4 <= LARGEST and entries * block >= size
    if not sound or not offset + 1024 <= table <= LARGEST or table % SECTOR:
        raise _damaged()
    yield from _skip(archive, table - offset - 1024)
    width = -(-entries * 4 // SECTOR) * SECTOR
    data = yield from archive.take(width)
    places = struct.unpack_from(f">{entries}I", data)
    found = sorted((place, number) for number, place in enumerate(places) if place != FREE)
    return _Shape(kind, size, block, found), (table + width) // SECTOR


def _skip(archive: Archive, size: int) -> Generator[Read | float, Any, None]:
    while size > 0:
        yield from archive.take(min(size, BLOCK))
        size -= BLOCK


def _damaged() -> Failure:
    return refuse("VDI_IO_ERROR", "Device I/O errors")
