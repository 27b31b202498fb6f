"""What transfers read and write: files that are whole or not there, sources that have a length, bodies that are complete."""

from __future__ import annotations

import io
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import IO, Protocol

from ..aside import written_aside
from ..errors import ConnectionLost, DatabaseError

OnProgress = Callable[[int, int | None], object]


class Writable(Protocol):
    """Where a download may go: a file, or whatever takes bytes."""

    def write(self, data: bytes, /) -> object: ...


class Readable(Protocol):
    """What an upload may come from: a file, or whatever gives bytes."""

    def read(self, size: int = -1, /) -> bytes: ...


Target = str | os.PathLike[str] | Writable
Source = str | os.PathLike[str] | bytes | Readable


# --- what comes


@contextmanager
def opened(target: Target) -> Iterator[Writable]:
    """Where a download is written: aside for a path, else the target itself."""
    if isinstance(target, (str, os.PathLike)):
        with written_aside(target) as file:
            yield _Sparse(file)
            file.truncate()
    else:
        yield target


class _Sparse:
    """A new file in which blocks of zeros are holes: a disk takes as much room as there is on it."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file

    def write(self, data: bytes, /) -> None:
        if data == bytes(len(data)):
            self._file.seek(len(data), io.SEEK_CUR)
        else:
            self._file.write(data)


class Check(Protocol):
    """Looks at a download's blocks as they pass, and at the end whether that was all."""

    def look(self, block: bytes) -> None: ...
    def end(self, where: str, what: str) -> None:
        """Raise for a body that is not what it should be."""


class SizeCheck:
    """So many bytes."""

    def __init__(self, size: int) -> None:
        self._wanted, self._size = size, 0

    def look(self, block: bytes) -> None:
        self._size += len(block)

    def end(self, where: str, what: str) -> None:
        if self._size != self._wanted:
            raise ConnectionLost(f"it ended after {self._size} of {self._wanted} bytes", host=where, method=what)


class ArchiveCheck:
    """Whole records of 512 bytes, the last two of them empty."""

    def __init__(self) -> None:
        self._tail, self._size = b"", 0

    def look(self, block: bytes) -> None:
        self._size += len(block)
        self._tail = (self._tail + block[-1024:])[-1024:]

    def end(self, where: str, what: str) -> None:
        if self._size % 512 or self._tail != bytes(1024):
            raise ConnectionLost(f"the archive is cut off after {self._size} bytes", host=where, method=what)


class DumpCheck:
    """A database that has rows, and its end."""

    _ROW, _END = b"<row ", b"</database>"

    def __init__(self) -> None:
        self._tail, self._rows = b"", False

    def look(self, block: bytes) -> None:
        block = self._tail + block
        self._rows = self._rows or self._ROW in block
        self._tail = block[-64:]

    def end(self, where: str, what: str) -> None:
        source = f"{what} on {where}"
        if not self._tail.rstrip().endswith(self._END):
            raise DatabaseError("the dump is cut off; take it again", source=source)
        if not self._rows:
            raise DatabaseError(
                "this is the empty document that a pool answers while its hosts' versions are mixed, not its database; "
                "take it when all hosts have the same version",
                source=source,
            )


# --- what goes


class Sent:
    """What is uploaded, as the transport reads it."""

    def __init__(self, file: Readable, length: int, on_progress: OnProgress | None, name: str) -> None:
        self.length = length
        self._file, self._on_progress, self._name = file, on_progress, name
        self._start = file.tell() if isinstance(file, io.IOBase) and file.seekable() else None
        self._done, self._told = 0, -1

    def read(self, size: int, /) -> bytes:
        self.tell()
        wanted = min(size, self.length - self._done)
        block = self._file.read(wanted) if wanted else b""
        if wanted and not block:
            raise ValueError(f"{self._name} ended after {self._done} of {self.length} bytes")
        self._done += len(block)
        return block

    def tell(self) -> None:
        """Say how much is on its way, if that is news."""
        if self._on_progress is not None and self._done != self._told:
            self._told = self._done
            self._on_progress(self._done, self.length)

    def rewind(self) -> bool:
        if self._done and self._start is None:
            return False
        if self._done and isinstance(self._file, io.IOBase):
            self._file.seek(self._start or 0)
        self._done = 0
        return True


@contextmanager
def opened_source(source: Source, length: int | None, on_progress: OnProgress | None) -> Iterator[Sent]:
    """What is to be uploaded. Raises `ValueError` where nobody knows its length."""
    if isinstance(source, (str, os.PathLike)):
        with open(source, "rb") as opened:
            size = os.fstat(opened.fileno()).st_size if length is None else length
            yield Sent(opened, size, on_progress, os.fspath(source))
        return
    file: Readable = io.BytesIO(source) if isinstance(source, (bytes, bytearray)) else source
    if length is None:
        if not isinstance(file, io.IOBase) or not file.seekable():
            raise ValueError(
                "how long the upload is cannot be told, and no host takes one without: pass length=, or a file"
            )
        here = file.tell()
        length = file.seek(0, io.SEEK_END) - here
        file.seek(here)
    if length < 0:
        raise ValueError(f"an upload has no {length} bytes")
    yield Sent(file, length, on_progress, "the source")
