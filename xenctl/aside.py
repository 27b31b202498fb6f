"""Files that are there whole or not at all: written aside, and moved into place at the end."""

from __future__ import annotations

import errno
import os
import stat
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO

NO_FILE: Mapping[Callable[[int], bool], str] = {
    stat.S_ISDIR: "this is a folder: name a file in it",
    stat.S_ISFIFO: "this is a pipe, and a file would take its place: name a file",
    stat.S_ISSOCK: "this is a socket, and a file would take its place: name a file",
    stat.S_ISCHR: "this is a device, and a file would take its place: name a file",
    stat.S_ISBLK: "this is a device, and a file would take its place: name a file",
    stat.S_ISLNK: "this link leads to itself: name a file",
}
"""What cannot be replaced by a file, and why, by what tells it from its mode."""
FULL = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO})
"""What a disk says that takes no more; it does not say for which file."""


@contextmanager
def written_aside(path: str | os.PathLike[str]) -> Iterator[IO[bytes]]:
    """A file to write what is to be at `path`: it is readable by its owner alone, and moved there at the end, whole and on
    the disk, unless something is raised. A link there stays, and leads to the new file.

    Raises `OSError`, before anything is written where no file can be at `path`: a folder, pipe, socket or device is there,
    or its folder is missing.
    """
    place = _place(path)
    descriptor, aside = _made(place, path)
    try:
        with os.fdopen(descriptor, "wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(aside, place)
    except BaseException as error:
        with suppress(FileNotFoundError):
            os.unlink(aside)
        if isinstance(error, OSError) and error.errno in FULL and error.filename is None:
            error.filename = os.fspath(path)
        raise


def _place(path: str | os.PathLike[str]) -> Path:
    """Where the file is to be: `path`, or what a link there leads to. Raises `OSError` where no file can be."""
    place = Path(os.path.realpath(path))
    try:
        mode = place.lstat().st_mode
    except FileNotFoundError:
        return place
    why = next((why for holds, why in NO_FILE.items() if holds(mode)), "")
    if why:
        raise OSError(errno.EISDIR if stat.S_ISDIR(mode) else errno.EINVAL, why, os.fspath(path))
    return place


def _made(place: Path, path: str | os.PathLike[str]) -> tuple[int, str]:
    """A new file beside `place`. Raises `OSError` that names `path`."""
    try:
        return tempfile.mkstemp(prefix=f".{place.name}.", suffix=".part", dir=place.parent)
    except FileNotFoundError:
        why = f"there is no folder {place.parent}: make it first"
        raise FileNotFoundError(errno.ENOENT, why, os.fspath(path)) from None
    except OSError as error:
        why = f"no file can be made in {place.parent}: {error.strerror}"
        raise OSError(error.errno, why, os.fspath(path)) from None
