"""Disks as dynamic VHDs: read back by the fake, by the letter of the format, and refused where they are damaged."""

from __future__ import annotations

import io
import random
import struct
from collections.abc import Iterator
from typing import Any
from uuid import UUID

import pytest

from mockserver import MockPool
from mockserver.handlers.vhd import geometry
from xenctl import transfers
from xenctl.api import errors
from xenctl.session import Session, connect
from xenctl.values import Ref

MIB = 1 << 20
SIZE = 9 * MIB + 512
"""Its last block is not full."""
SEED = 5


class Disks:
    """A pool's session and its disks of `SIZE` bytes."""

    def __init__(self) -> None:
        self.pool = MockPool.create(hosts=1, vms=0, release="8.2")
        self.session: Session = connect(self.pool.url, "root", "secret", transport=self.pool.transport())
        sr = next(row.ref for row in self.pool.store.table("SR").values() if row["type"] == "nfs")
        self._fields = {"SR": sr, "type": "user", "sharable": False, "read_only": False, "other_config": {}}

    def new(self, size: int = SIZE) -> Ref[Any]:
        """A disk of exactly `size` bytes: storage of VHDs alone would make it a multiple of 2 MiB."""
        vdi = self.session.VDI.create({"name_label": "disk", "virtual_size": size, **self._fields})
        self.pool.store.write(self.pool.store.get("VDI", vdi), virtual_size=size)
        return vdi

    def content(self, vdi: str) -> Any:
        found = self.pool.disk_of(vdi)
        assert found is not None
        return found

    def sent(self, vdi: Ref[Any]) -> bytes:
        file = io.BytesIO()
        transfers.export_raw_vdi(self.session, vdi, file, format="vhd")
        return file.getvalue()


@pytest.fixture
def disks() -> Iterator[Disks]:
    made = Disks()
    with made.session:
        yield made


def filled(disks: Disks) -> Ref[Any]:
    """A disk with something at its beginning, across two blocks, and in its last sector."""
    vdi, noise = disks.new(), random.Random(SEED)
    for offset, width in ((0, 700), (4 * MIB - 1000, 2000), (SIZE - 3, 3)):
        disks.content(vdi).write(offset, noise.randbytes(width))
    return vdi


def sealed(data: bytes, place: int) -> bool:
    """Whether the checksum at `place` is the complement of the sum of all other bytes."""
    total = sum(data[:place]) + sum(data[place + 4 :])
    return int.from_bytes(data[place : place + 4], "big") == ~total & 0xFFFFFFFF


def test_what_is_sent_is_a_vhd_by_the_letter(disks: Disks) -> None:
    """Footer twice, header, table, and blocks whose bitmaps mark the sectors that hold something."""
    vdi = filled(disks)
    data = disks.sent(vdi)
    footer, header = data[:512], data[512:1536]
    assert footer == data[-512:]
    assert (footer[:8], header[:8]) == (b"conectix", b"cxsparse")
    assert sealed(footer, 64)
    assert sealed(header, 36)
    assert struct.unpack(">QQ", footer[40:56]) == (SIZE, SIZE)
    assert struct.unpack(">I", footer[60:64]) == (3,)
    table, _, entries, block = struct.unpack(">QIII", header[16:36])
    assert (table, entries, block) == (1536, 5, 2 * MIB)
    places = struct.unpack(">5I", data[table : table + 20])
    assert [place != 0xFFFFFFFF for place in places] == [True, True, True, False, True]
    assert len(data) == 512 + 1024 + 512 + 4 * (512 + 2 * MIB) + 512
    for number, place in enumerate(places):
        if place != 0xFFFFFFFF:
            begin = place * 512
            bitmap, content = data[begin : begin + 512], data[begin + 512 : begin + 512 + block]
            wide = min(block, SIZE - number * block)
            assert content[:wide] == disks.content(vdi).read(number * block, wide), SEED
            marked = [bitmap[n // 8] >> (7 - n % 8) & 1 for n in range(block // 512)]
            assert marked == [int(any(content[n * 512 : n * 512 + 512])) for n in range(block // 512)]


def test_it_comes_back_with_the_same_bytes(disks: Disks) -> None:
    """On a disk that held something else, which is gone, and on a larger one."""
    vdi = filled(disks)
    data = disks.sent(vdi)
    for target in (disks.new(), disks.new(2 * SIZE)):
        disks.content(target).write(7 * MIB, b"before")
        transfers.import_raw_vdi(disks.session, data, target, format="vhd")
        assert disks.content(target).digest() == disks.content(vdi).digest()


def test_blocks_may_come_in_any_order(disks: Disks) -> None:
    """The table says where each is; there may be room between them; and a bit that is 0 stands for zeros."""
    vdi, target = filled(disks), disks.new()
    data = disks.sent(vdi)
    width = 512 + 2 * MIB
    blocks = [data[2048 + n * width : 2048 + (n + 1) * width] for n in range(4)]
    room = bytes(1024)
    places = [4 + (n * (width + 1024)) // 512 for n in range(4)]
    table = struct.pack(">5I", places[3], places[2], places[1], 0xFFFFFFFF, places[0]).ljust(512, b"\xff")
    turned = data[:1536] + table + b"".join(block + room for block in reversed(blocks)) + data[-512:]
    transfers.import_raw_vdi(disks.session, turned, target, format="vhd")
    assert disks.content(target).digest() == disks.content(vdi).digest()
    unmarked = data[:2048] + bytes(512) + data[2048 + 512 :]
    transfers.import_raw_vdi(disks.session, unmarked, target, format="vhd")
    assert disks.content(target).read(0, 2 * MIB) == bytes(2 * MIB)
    assert disks.content(target).read(2 * MIB, 7 * MIB + 512) == disks.content(vdi).read(2 * MIB, 7 * MIB + 512)


@pytest.mark.parametrize(
    ("place", "byte"), [(0, b"x"), (70, b"x"), (512, b"x"), (512 + 32, b"x"), (1536, b"\0")], ids=str
)
def test_a_damaged_one_is_refused(disks: Disks, place: int, byte: bytes) -> None:
    """By its cookies, its checksums, or a table that leads into its own head."""
    data = bytearray(disks.sent(filled(disks)))
    data[place : place + 1] = byte
    if place == 1536:
        data[place : place + 4] = bytes(4)
    target = disks.new()
    with pytest.raises(errors.VDI_IO_ERROR):
        transfers.import_raw_vdi(disks.session, bytes(data), target, format="vhd")


def test_one_that_ends_early_or_is_too_large_is_refused(disks: Disks) -> None:
    """A larger one before anything is written."""
    data, small = disks.sent(filled(disks)), disks.new(4 * MIB)
    disks.content(small).write(0, b"kept")
    with pytest.raises(errors.VDI_IO_ERROR):
        transfers.import_raw_vdi(disks.session, data, small, format="vhd")
    assert disks.content(small).read(0, 4) == b"kept"
    for length in (0, 100, 1000, 1600, 5000, len(data) - 1):
        with pytest.raises(errors.VDI_IO_ERROR):
            transfers.import_raw_vdi(disks.session, data[:length], disks.new(), format="vhd")


# --- differences


def since(disks: Disks, vdi: Ref[Any], base: Ref[Any], **more: Any) -> bytes:
    """What a disk has that a base has not, as it is sent."""
    file = io.BytesIO()
    transfers.export_raw_vdi(disks.session, vdi, file, **{"format": "vhd", **more}, base=base)
    return file.getvalue()


def written_on(disks: Disks, vdi: Ref[Any]) -> Ref[Any]:
    """A snapshot of a disk, which is written to afterwards: in its second block, and zeros over what was in its third."""
    snapshot = disks.session.VDI.snapshot(vdi)
    disks.content(vdi).write(3 * MIB, b"new")
    disks.content(vdi).write(4 * MIB, bytes(1000))
    return snapshot


def test_differences_are_a_vhd_with_a_parent(disks: Disks) -> None:
    """It names the base, and has the blocks that are not the same there, whole; all of their sectors count."""
    vdi = filled(disks)
    base = written_on(disks, vdi)
    data = since(disks, vdi, base)
    footer, header = data[:512], data[512:1536]
    uuid = disks.session.VDI.get_uuid(base)
    assert struct.unpack(">I", footer[60:64]) == (4,)
    assert sealed(footer, 64)
    assert sealed(header, 36)
    assert header[40:56] == UUID(uuid).bytes
    assert header[64:576].decode("utf-16-be").rstrip("\0") == f"{uuid}.vhd"
    code, space, length, _, place = struct.unpack(">4sIIIQ", header[576:600])
    assert (code, space) == (b"MacX", 512)
    assert data[place : place + length] == f"file://./{uuid}.vhd".encode()
    table, _, entries, block = struct.unpack(">QIII", header[16:36])
    places = struct.unpack(f">{entries}I", data[table : table + 4 * entries])
    changed = [number for number, place in enumerate(places) if place != 0xFFFFFFFF]
    assert changed == [1, 2]
    for number in changed:
        begin = places[number] * 512
        assert data[begin : begin + 512] == b"\xff" * 512
        assert data[begin + 512 : begin + 512 + block] == disks.content(vdi).read(number * block, block)
    assert len(data) == 2048 + 512 + 2 * (512 + 2 * MIB) + 512


def test_differences_make_a_disk_out_of_a_copy_of_its_base(disks: Disks) -> None:
    """Byte by byte; and the other way round they take it back."""
    vdi = filled(disks)
    base = written_on(disks, vdi)
    for source, other in ((vdi, base), (base, vdi)):
        target = disks.session.VDI.clone(other)
        assert disks.content(target).digest() != disks.content(source).digest()
        transfers.import_raw_vdi(disks.session, since(disks, source, other), target, format="vhd")
        assert disks.content(target).digest() == disks.content(source).digest()


def test_a_disk_that_is_the_same_sends_no_block(disks: Disks) -> None:
    """Only that there is none."""
    vdi = filled(disks)
    assert len(since(disks, vdi, disks.session.VDI.snapshot(vdi))) == 2048 + 512 + 512


def test_differences_as_bytes_leave_zeros_for_the_rest(disks: Disks) -> None:
    """As `raw` has no way to say what is not there; a `tar` does not look at the base."""
    vdi = filled(disks)
    base = written_on(disks, vdi)
    data, disk = since(disks, vdi, base, format="raw"), disks.content(vdi)
    assert data == bytes(2 * MIB) + disk.read(2 * MIB, 4 * MIB) + bytes(SIZE - 6 * MIB)
    assert len(since(disks, vdi, base, format="tar")) > 1 * MIB
    before = disks.content(base)
    assert before.read(0, 700) == disk.read(0, 700)


def test_only_vhds_are_compared(disks: Disks) -> None:
    """Storage of other kinds has no blocks to look at; nor can a disk be compared with one that a guest writes to."""
    vdi = filled(disks)
    base = disks.session.VDI.snapshot(vdi)
    store = disks.pool.store
    sr = store.get("SR", store.get("VDI", base)["SR"])
    store.write(sr, type="iscsi")
    with pytest.raises(errors.INTERNAL_ERROR, match="Cannot compute differences on non-VHD images"):
        since(disks, vdi, base)
    store.write(sr, type="nfs")
    with pytest.raises(errors.UUID_INVALID):
        since(disks, vdi, Ref("OpaqueRef:x"))
    pool = MockPool.create(hosts=1, vms=1, release="8.2")
    with connect(pool.url, "root", "secret", transport=pool.transport()) as session:
        used = next(vbd["VDI"] for vbd in pool.store.table("VBD").values() if vbd["type"] == "Disk")
        other = session.VDI.snapshot(Ref(used))
        with pytest.raises(errors.VDI_IN_USE):
            transfers.export_raw_vdi(session, other, io.BytesIO(), format="vhd", base=Ref(used))


# --- geometry


@pytest.mark.parametrize(
    ("size", "expected"),
    [
        (4 * MIB, (120, 4, 17)),
        (1 << 30, (2080, 16, 63)),
        (1 << 37, (65535, 16, 255)),
    ],
)
def test_geometry_is_by_the_formats_rule(size: int, expected: tuple[int, int, int]) -> None:
    """Cylinders, heads, sectors a track; the largest disks all have the same."""
    assert geometry(size) == expected
