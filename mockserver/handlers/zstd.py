"""Zstandard, as much of it as Python can do by itself: frames of blocks that are as they were, or one byte over and over.

    magic | what follows, window, sizes | blocks: 3 bytes of kind and size, content | checksum

What is sent is read by whoever knows the format: runs of zeros, of which disks have most, take a few bytes. What comes may
have such blocks only; one that is squeezed is refused, for Python has nothing to read it with before 3.14.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator

from xenctl.errors import Failure

from ..call import refuse
from .base import Steps

MAGIC = b"\x28\xb5\x2f\xfd"
BLOCK = 1 << 17
"""Bytes of a block at the most."""
WINDOW = 17
RAW, RUN, SQUEEZED = 0, 1, 2
"""The kinds of blocks."""


def packed(steps: Steps) -> Steps:
    """The same steps, with what they send as one frame."""
    yield MAGIC + bytes([0, (WINDOW - 10) << 3])
    for step in steps:
        if isinstance(step, bytes):
            for at in range(0, len(step), BLOCK):
                yield _block(step[at : at + BLOCK])
        else:
            yield step
    yield _header(RAW, 0, last=True)


def _block(data: bytes) -> bytes:
    if data.count(data[:1]) == len(data):
        return _header(RUN, len(data)) + data[:1]
    return _header(RAW, len(data)) + data


def _header(kind: int, size: int, *, last: bool = False) -> bytes:
    return struct.pack("<I", size << 3 | kind << 1 | last)[:3]


class Unpacker:
    """Reads frames as they come. `decompress` returns what is whole; raises `Failure` for what cannot be read."""

    def __init__(self) -> None:
        self._held = bytearray()
        self._inside = False
        self._checked = False

    def decompress(self, data: bytes) -> bytes:
        """What follows from some bytes more."""
        self._held += data
        return b"".join(self._pieces())

    def _pieces(self) -> Iterator[bytes]:
        while (self._inside or self._begin()) and len(self._held) >= 3:
            head = int.from_bytes(self._held[:3], "little")
            last, kind, size = head & 1, head >> 1 & 3, head >> 3
            if kind == SQUEEZED:
                text = "an archive squeezed by Zstandard; unpack it first, or export it again with gzip"
                raise refuse("NOT_IMPLEMENTED", text)
            if kind not in (RAW, RUN) or size > BLOCK:
                raise _damaged()
            width = 3 + (size if kind == RAW else 1) + (4 if last and self._checked else 0)
            if len(self._held) < width:
                return
            content = bytes(self._held[3 : 3 + size]) if kind == RAW else bytes(self._held[3:4]) * size
            del self._held[:width]
            self._inside = not last
            yield content

    def _begin(self) -> bool:
        """Take the head of a frame, if all of it is there."""
        if len(self._held) < 5:
            return False
        if self._held[:4] != MAGIC:
            raise _damaged()
        told = self._held[4]
        single = told >> 5 & 1
        content = (single, 2, 4, 8)[told >> 6]
        width = 5 + (1 - single) + (0, 1, 2, 4)[told & 3] + content
        if len(self._held) < width:
            return False
        del self._held[:width]
        self._checked = bool(told >> 2 & 1)
        self._inside = True
        return True


def _damaged() -> Failure:
    return refuse("IMPORT_ERROR", "the archive cannot be unpacked: it is no Zstandard frame")
