"""Frames of Zstandard: written with what Python can do by itself, and read in whatever pieces they come."""

from __future__ import annotations

import random
import struct
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from mockserver.handlers.zstd import BLOCK, MAGIC, Unpacker, packed
from xenctl.errors import Failure

from .test_http_handlers import MIB, ask, disk_of, new_task, outcome

Make = Callable[..., Any]

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


# --- archives that are packed so


@pytest.mark.parametrize(
    ("release", "asked", "magic"),
    [
        ("8.1", "zstd", b"\x28\xb5\x2f\xfd"),
        ("8.4", "zstd", b"\x28\xb5\x2f\xfd"),
        ("8.4", "gzip", b"\x1f\x8b"),
        ("8.4", "true", b"\x1f\x8b"),
        ("8.4", "lzma", b"ova.xml"),
        ("8.0", "zstd", b"ova.xml"),
        ("8.0", "gzip", b"ova.xml"),
        ("8.0", "true", b"\x1f\x8b"),
    ],
)
def test_an_export_is_packed_as_asked(calls: Make, release: str, asked: str, magic: bytes) -> None:
    """Names of compressions are known since 8.1; before, `true` was all that was understood, and another word meant none."""
    c = calls(release=release, vms=4)
    _, data = ask(c, "GET", "/export", ref=c.vm("vm04").ref, use_compression=asked)
    assert data.startswith(magic)


def test_an_export_by_zstandard_comes_back_whole(calls: Make) -> None:
    """It is far smaller than what it holds, since disks are empty for the most part; an older release cannot read it."""
    c = calls(release="8.2", vms=4)
    vm, disk = c.vm("vm04"), c.pool.disks[disk_of(c, "vm04")["uuid"]]
    noise = random.Random(8).randbytes(300_000)
    disk.write(3 * MIB + 7, noise)
    _, plain = ask(c, "GET", "/export", ref=vm.ref)
    _, data = ask(c, "GET", "/export", ref=vm.ref, use_compression="zstd")
    assert len(data) < len(plain) / 3
    for release, status in (("8.2", "success"), ("8.0", "failure")):
        d = calls(release=release, vms=4)
        task, sr = new_task(d), d.row("SR", "NFS virtual disk storage").ref
        ask(d, "PUT", "/import", data, task_id=task, sr_id=sr)
        assert outcome(d, task)[0] == status
    ask(c, "PUT", "/import", data, task_id=new_task(c), sr_id=c.row("SR", "NFS virtual disk storage").ref)
    copies = [row for row in c.pool.store.table("VM").values() if row["name_label"] == "vm04" and row is not vm]
    (copy,) = (c.pool.disk_of(vbd["VDI"]) for vbd in c.pool.vbds(copies[0]) if vbd["userdevice"] == "0")
    assert copy.read(3 * MIB + 7, len(noise)) == noise
    assert copy.digest() == disk.digest()


def test_an_archive_squeezed_elsewhere_is_refused(calls: Make) -> None:
    """Python cannot read it; the refusal says what to do."""
    c = calls(release="8.2")
    task = new_task(c)
    squeezed = bytes.fromhex("28b52ffd2404") + bytes([0x0D, 0, 0]) + b"x"
    ask(c, "PUT", "/import", squeezed, task_id=task, sr_id=c.row("SR", "NFS virtual disk storage").ref)
    code, text = outcome(c, task)[1]
    assert code == "NOT_IMPLEMENTED"
    assert "export it again with gzip" in text
