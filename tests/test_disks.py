"""The bytes on disks, and the checksums of their pieces."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mockserver.handlers.checksums import checksum, xxh64
from mockserver.machine.disks import BLOCK_SIZE, Disk


@given(st.lists(st.tuples(st.integers(0, 4 * BLOCK_SIZE), st.binary(max_size=2 * BLOCK_SIZE)), max_size=8))
def test_a_disk_is_its_bytes(writes: list[tuple[int, bytes]]) -> None:
    """Whatever is written where, reading gives what a plain array of bytes would; equal bytes are equal blocks."""
    disk, plain = Disk("x"), bytearray(8 * BLOCK_SIZE)
    for offset, data in writes:
        disk.write(offset, data)
        plain[offset : offset + len(data)] = data
    assert disk.read(0, len(plain)) == plain
    assert disk.read(100, BLOCK_SIZE) == plain[100 : 100 + BLOCK_SIZE]
    again = Disk("y")
    again.write(0, bytes(plain))
    assert again.blocks == disk.blocks
    assert disk.used(BLOCK_SIZE) == [n for n in range(8) if any(plain[n * BLOCK_SIZE : (n + 1) * BLOCK_SIZE])]


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (b"", 0xEF46DB3751D8E999),
        (b"a", 0xD24EC4F1A98C6E5B),
        (b"abc", 0x44BC2CF5AD770999),
        (b"Nobody inspects the spammish repetition", 0xFBCEA83C8A378BF1),
    ],
)
def test_checksums_are_the_real_ones(data: bytes, expected: int) -> None:
    """The values that the algorithm's own documents give."""
    assert xxh64(data) == expected
    assert checksum(data, ".xxhash") == f"{expected:016X}"
