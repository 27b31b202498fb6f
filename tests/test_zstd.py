"""Frames of Zstandard: written with what Python can do by itself, and read in whatever pieces they come."""

from __future__ import annotations

import random
import struct
from collections.abc import Iterator

import pytest

from mockserver.handlers.zstd import BLOCK, MAGIC, Unpacker, packed
from xenctl.errors import Failure

SEED = 11


def steps(*pieces: bytes) -> Iterator[bytes | float]:
    """What a handler sends, with waits between."""
    for piece in pieces:
        yield piece
        yield 0.5


def frame(*pieces: bytes) -> bytes:
    return b"".join(step for step in packed(steps(*pieces)) if isinstance(step, bytes))


def block(data: bytes, *, last: bool = False) -> bytes:
    return struct.pack("<I", len(data) << 3 | last)[:3] + data


@pytest.mark.parametrize("size", [1, 3, 1000, 1 << 20])
def test_what_is_packed_comes_back_in_whatever_pieces_it_comes(size: int) -> None:
    """Noise, runs of one byte, nothing, and pieces larger than a block."""
    noise = random.Random(SEED).randbytes(3 * BLOCK + 17 if size > 3 else 100)
    whole = [noise, b"", bytes(5 * BLOCK), b"x", b"yyyyyyy"]
    data, unpacker = frame(*whole), Unpacker()
    out = b"".join(unpacker.decompress(data[at : at + size]) for at in range(0, len(data), size))
    assert out == b"".join(whole), SEED


def test_runs_take_a_few_bytes() -> None:
    """Four for each block; what does not repeat takes three more than it is."""
    assert len(frame(bytes(8 * BLOCK))) == 6 + 8 * 4 + 3
    assert len(frame(b"ab")) == 6 + 5 + 3


def test_waits_stay_where_they_are() -> None:
    """Time passes as without packing."""
    assert [step for step in packed(steps(b"a", b"b")) if isinstance(step, float)] == [0.5, 0.5]


@pytest.mark.parametrize(
    "head",
    [
        bytes([0x00, 0x38]),
        bytes([0x20, 4]),
        bytes([0x60, 4, 0]),
        bytes([0x80, 0x38, 4, 0, 0, 0]),
        bytes([0xE0, 4, 0, 0, 0, 0, 0, 0, 0]),
        bytes([0x03, 0x38, 1, 0, 0, 0]),
    ],
    ids=["window", "one byte of size", "two", "four", "eight", "dictionary"],
)
@pytest.mark.parametrize("checked", [False, True])
def test_heads_may_say_more(head: bytes, checked: bool) -> None:
    """Sizes and dictionaries are passed over, and so is the checksum; another frame may follow."""
    head = bytes([head[0] | (4 if checked else 0)]) + head[1:]
    data = MAGIC + head + block(b"so", last=False) + block(b"me", last=True) + (b"sums" if checked else b"")
    assert Unpacker().decompress(data + frame(b"more")) == b"somemore"


@pytest.mark.parametrize(
    ("data", "code"),
    [
        (b"nothing of the kind", "IMPORT_ERROR"),
        (MAGIC + b"\0\x38" + struct.pack("<I", 3 << 1)[:3], "IMPORT_ERROR"),
        (MAGIC + b"\0\x38" + struct.pack("<I", (BLOCK + 1) << 3)[:3], "IMPORT_ERROR"),
        (MAGIC + b"\0\x38" + struct.pack("<I", 9 << 3 | 2 << 1)[:3], "NOT_IMPLEMENTED"),
    ],
    ids=["no frame", "no kind of block", "too large", "squeezed"],
)
def test_what_cannot_be_read_is_refused(data: bytes, code: str) -> None:
    """Before anything of it is given out."""
    with pytest.raises(Failure) as caught:
        Unpacker().decompress(data)
    assert caught.value.code == code
