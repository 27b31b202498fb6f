"""Archives as xapi streams them: a tar with `ova.xml` first, then each disk in pieces of 1 MiB, each with its checksum.

Pieces of zeros are left out, but for a disk's first and last one, by which the reader knows where it begins and ends. What
is sent is made piece by piece from what is on the disk, what comes is written as it comes: a disk's size costs nothing.
"""

from __future__ import annotations

import tarfile
import zlib
from collections.abc import Callable, Generator
from typing import TYPE_CHECKING, Any

from xenctl.errors import Failure

from ..call import refuse
from . import zstd
from .base import Read, Steps
from .checksums import checksum, extension

if TYPE_CHECKING:
    from ..machine.disks import Disk
    from .running import Binding

CHUNK = 1 << 20
END = bytes(1024)
METADATA = "ova.xml"
CHECKSUMS = "checksum.xml"
LARGEST = 1 << 28
"""Bytes that a file of an archive may have: it is held whole."""
DISK = "vdi"
"""The folder of a disk that is exported alone."""


def member(name: str, data: bytes, at: float = 0.0) -> bytes:
    """A file of a tar, as of the time `at`."""
    head = tarfile.TarInfo(name)
    head.size, head.mtime = len(data), int(at)
    return head.tobuf(tarfile.USTAR_FORMAT) + data + bytes(-len(data) % 512)


class Meter:
    """Shows on a task how many of `total` bytes of disks are through."""

    def __init__(self, binding: Binding, total: int) -> None:
        self._binding, self._total, self._before = binding, total, 0

    def at(self, offset: int) -> float:
        """Show that the disk at hand is through up to `offset`; the simulated seconds that a piece takes."""
        self._binding.show(progress=min(1.0, (self._before + offset) / self._total) if self._total else 1.0)
        return CHUNK / self._binding.pool.durations.transfer_rate

    def next(self, size: int) -> None:
        """A disk of `size` bytes is through."""
        self._before += size


def send_disk(binding: Binding, meter: Meter, folder: str, disk: Disk, size: int, sums: dict[str, str]) -> Steps:
    """The pieces of one disk; `sums` takes their checksums."""
    last = max(0, (size - 1) // CHUNK)
    kind = extension(binding.db.release)
    for number in sorted({0, last, *(n for n in disk.used(CHUNK) if n < last)}) if size else ():
        name, data = f"{folder}/{number:08d}", disk.read(number * CHUNK, min(CHUNK, size - number * CHUNK))
        sums[name] = checksum(data, kind)
        yield member(name, data) + member(name + kind, sums[name].encode())
        yield meter.at(number * CHUNK)
    meter.next(size)


def gzipped(steps: Steps) -> Steps:
    """The same steps, with what they send compressed."""
    squeeze = zlib.compressobj(wbits=31)
    for step in steps:
        if isinstance(step, bytes):
            step = squeeze.compress(step)
            if not step:
                continue
        yield step
    yield squeeze.flush()


Taking = Generator["Read | float", Any, bytes]


GZIP = (b"\x1f\x8b", lambda: zlib.decompressobj(wbits=31))
ZSTD = (zstd.MAGIC, zstd.Unpacker)
"""How an archive may be packed: its first bytes, and what makes something that unpacks it."""


class Archive:
    """A stream that comes in, packed in one of some ways or not. Methods are steps: `data = yield from archive.take(512)`.

    `EOFError` says that it ended too soon.
    """

    def __init__(
        self, length: int | None = None, *, packings: tuple[tuple[bytes, Callable[[], Any]], ...] = (GZIP,)
    ) -> None:
        self._left, self._packings = length, packings
        self._held = bytearray()
        self._unzip: Any = None
        self._begun = False

    def take(self, size: int) -> Taking:
        """Exactly `size` bytes. Raises `EOFError` where there are fewer."""
        while len(self._held) < size:
            data = yield from self._more()
            if not data:
                raise EOFError
            self._held += data
        out = bytes(self._held[:size])
        del self._held[:size]
        return out

    def _more(self) -> Taking:
        while True:
            data: bytes = yield Read(CHUNK if self._left is None else min(CHUNK, self._left))
            if self._left is not None:
                self._left -= len(data)
            if not self._begun and data:
                self._begun = True
                self._unzip = next((make() for magic, make in self._packings if data.startswith(magic)), None)
            if self._unzip is None or not data:
                return data
            try:
                out: bytes = self._unzip.decompress(data)
            except zlib.error as error:
                raise refuse("IMPORT_ERROR", f"the archive cannot be unpacked: {error}") from None
            if out:
                return out

    def file(self) -> Generator[Read | float, Any, tuple[str, bytes]]:
        """The next file's name and content."""
        head = yield from self.take(512)
        try:
            info = tarfile.TarInfo.frombuf(head, "utf-8", "replace")
        except tarfile.HeaderError as error:
            raise invalid(str(error)) from None
        if not 0 <= info.size <= LARGEST:
            raise invalid(f"{info.name} has {info.size} bytes")
        data = yield from self.take(info.size)
        yield from self.take(-info.size % 512)
        return info.name, data

    def drain(self) -> Steps:
        """What comes behind the last file is read and dropped, or who sends it would find the connection reset. A client
        that does not know how much it sends claims very much, and is not waited for."""
        while self._left and self._left <= LARGEST:
            data = yield Read(min(CHUNK, self._left))
            if not data:
                return
            self._left -= len(data)


def receive_disk(
    archive: Archive,
    meter: Meter,
    folder: str,
    disk: Disk,
    size: int,
    sums: dict[str, str],
    *,
    force: bool,
    inline: bool,
) -> Steps:
    """Write the pieces of one disk; what lies between them is zeros. A wrong checksum is an error unless `force`."""
    offset, before, width = 0, -1, 0
    while offset < size:
        name, data = yield from archive.file()
        width = width or len(data)
        if not name.startswith(folder + "/") or not name[len(folder) + 1 :].isdigit():
            raise invalid(f"expected a piece of {folder}, got {name}")
        number = int(name[len(folder) + 1 :])
        if number <= before:
            raise invalid(f"the pieces of {folder} are not in order: {before}, {number}")
        offset += (number - before - 1) * width
        if offset + len(data) > size:
            raise refuse("VDI_IO_ERROR", "Device I/O errors")
        disk.write(offset, data)
        offset, before = offset + len(data), number
        if inline:
            yield from _check(archive, name, data, sums, force=force)
        yield meter.at(offset)
    meter.next(size)


def _check(archive: Archive, name: str, data: bytes, sums: dict[str, str], *, force: bool) -> Steps:
    other, given = yield from archive.file()
    kind = other[len(name) :]
    if not other.startswith(name):
        raise invalid(f"expected the checksum of {name}, got {other}")
    try:
        sums[name] = checksum(data, kind)
    except KeyError:
        raise invalid(f"Found unsupported checksum file: {other}") from None
    if given.decode("ascii", "replace") != sums[name] and not force:
        raise invalid(f"Block {name} checksum failed: original = {given!r}; recomputed = {sums[name]}")


def invalid(reason: str) -> Failure:
    """The error for an archive that is not one of xapi's."""
    return refuse("IMPORT_ERROR", f"Invalid XVA file: {reason}")
