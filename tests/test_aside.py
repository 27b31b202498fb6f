"""Files that are there whole or not at all, wherever they are to be."""

from __future__ import annotations

import os
import socket
import stat
from collections.abc import Callable
from pathlib import Path

import pytest

from xenctl.aside import written_aside


def write(path: Path | str, data: bytes = b"new") -> None:
    with written_aside(path) as file:
        file.write(data)


def a_socket(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(path))


@pytest.mark.parametrize("there", [None, b"old"])
def test_a_file_is_whole_and_its_owners_alone(tmp_path: Path, there: bytes | None) -> None:
    """Also where there was another; nothing else is left in the folder."""
    path = tmp_path / "file"
    if there is not None:
        path.write_bytes(there)
        path.chmod(0o644)
    write(path)
    assert path.read_bytes() == b"new"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert list(tmp_path.iterdir()) == [path]


def test_what_fails_half_way_leaves_what_was_there(tmp_path: Path) -> None:
    """Whatever is raised."""
    path = tmp_path / "file"
    path.write_bytes(b"old")

    def interrupted() -> None:
        with written_aside(path) as file:
            file.write(b"half")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (os.mkfifo, "this is a pipe, and a file would take its place: name a file"),
        (a_socket, "this is a socket, and a file would take its place: name a file"),
        (os.mkdir, "this is a folder: name a file in it"),
        (lambda path: path.symlink_to(path), "this link leads to itself: name a file"),
    ],
)
@pytest.mark.parametrize("linked", [False, True])
def test_what_is_no_file_is_not_replaced(tmp_path: Path, make: Callable[[Path], None], said: str, linked: bool) -> None:
    """Nor is anything made beside it, also where a link leads to it."""
    path = tmp_path / "file"
    make(path)
    if linked:
        (tmp_path / "link").symlink_to(path)
    before, kind = sorted(os.listdir(tmp_path)), stat.S_IFMT(path.lstat().st_mode)
    named = tmp_path / "link" if linked else path
    began = False
    with pytest.raises(OSError, match=said) as caught, written_aside(named):
        began = True
    assert not began
    assert caught.value.filename == str(named)
    assert sorted(os.listdir(tmp_path)) == before
    assert stat.S_IFMT(path.lstat().st_mode) == kind


def test_a_folder_that_is_missing_is_named(tmp_path: Path) -> None:
    """With the file that was asked for, and not the one beside it."""
    path = tmp_path / "none" / "file"
    with pytest.raises(FileNotFoundError) as caught:
        write(path)
    assert (caught.value.strerror, caught.value.filename) == (
        f"there is no folder {path.parent}: make it first",
        str(path),
    )
    (tmp_path / "text").write_text("x")
    with pytest.raises(NotADirectoryError) as wrong:
        write(tmp_path / "text" / "file")
    assert wrong.value.filename == str(tmp_path / "text" / "file")


@pytest.mark.parametrize("there", [True, False])
def test_a_link_stays_and_leads_to_the_new_file(tmp_path: Path, there: bool) -> None:
    """Written where it leads to, in that folder; also where nothing is there yet."""
    far, link = tmp_path / "far", tmp_path / "near" / "link"
    far.mkdir()
    link.parent.mkdir()
    if there:
        (far / "file").write_bytes(b"old")
    link.symlink_to(Path("..") / "far" / "file")
    write(link)
    assert link.is_symlink()
    assert (far / "file").read_bytes() == b"new"
    assert os.listdir(far) == ["file"]
    assert os.listdir(link.parent) == ["link"]


def test_a_full_disk_names_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The system tells of no file where it refuses to write."""

    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(OSError, match="No space left on device") as caught:
        write(tmp_path / "file")
    assert caught.value.filename == str(tmp_path / "file")
    assert list(tmp_path.iterdir()) == []
