"""What commands are given and cannot use: what, where, and what to do, in a sentence without codes of the system."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
from places import Place

from mockserver import MockPool
from xenctl.cli.endings import ADVICE, about
from xenctl.procedures.observe import MARK


@pytest.fixture
def pool() -> MockPool:
    return MockPool.create(hosts=2, vms=2, release="6.2")


def said(done: Any) -> str:
    """The one line on standard error."""
    assert done.exit_code == 2, done.output
    (line,) = done.stderr.splitlines()
    assert "[Errno" not in line
    return str(line)


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (("backup", "--to", "F/no/x"), "F/no/x: there is no folder F/no: make it first"),
        (("backup", "--to", "F"), "F: this is a folder: name a file in it"),
        (("backup", "--to", "F/pipe"), "F/pipe: this is a pipe, and a file would take its place: name a file"),
        (("backup", "--metadata", "--to", "F/no/x"), "F/no/x: there is no folder F/no: make it first"),
        (("backup", "--folder", "F/no"), "F/no is no folder; make it first"),
        (("update", "F/none", "--journal", "F/j"), "F/none: No such file or directory; check the path"),
        (("update", "F", "--journal", "F/j"), "F: Is a directory; name a file in it"),
        (("restore", "F/none", "--dry-run"), "F/none: No such file or directory; check the path"),
        (
            ("rolling-reboot", "--stuck", "suspend", "--journal", "F/no/j"),
            "the journal F/no/j cannot be made: there is no folder F/no; make it, or name another file",
        ),
        (
            ("upgrade", "run", "--hands", "fake:s3cr3t", "--journal", "F/no/j"),
            "the journal F/no/j cannot be made: there is no folder F/no; make it, or name another file",
        ),
        (
            ("shutdown", "--journal", "F/pipe"),
            "F/pipe: this is no file, so no journal; name that of a run, which it makes when it begins",
        ),
    ],
)
def test_a_file_that_cannot_be_used_is_named(
    place: Place, pool: MockPool, words: tuple[str, ...], sentence: str
) -> None:
    """The file that was given, and what to do; nothing is changed, in the pool or in the folder."""
    os.mkfifo(place.folder / "pipe")
    folder = str(place.folder)
    done = place(*(word.replace("F", folder, 1) if word[0] == "F" else word for word in words), *reach(place, pool))
    assert said(done) == f"xenctl: {sentence.replace('F/', f'{folder}/').replace('F:', f'{folder}:')}"
    assert MARK not in pool.store.pool()["other_config"]
    assert (place.folder / "pipe").is_fifo()
    assert os.listdir(place.folder) == ["pipe"]


def reach(place: Place, pool: MockPool) -> tuple[str, ...]:
    return "--server", place.serve(pool)


@pytest.mark.parametrize(
    "words",
    [
        ("backup", "--to", "x"),
        ("upgrade", "plan"),
        ("upgrade", "revert", "--to", "6.1", "--dry-run"),
        ("upgrade", "check"),
        ("shutdown", "--journal", "x"),
    ],
    ids=" ".join,
)
def test_a_wrong_password_says_what_to_do(place: Place, pool: MockPool, words: tuple[str, ...]) -> None:
    """Which host refused whom, and where the password comes from; it is not shown."""
    url = place.serve(pool)
    line = said(place(*words, "--server", url, environment={"XENCTL_PASSWORD": "hush"}))
    assert "wrong user name or password" in line
    assert line.endswith(
        f"{url} refuses root; check --username, and the password in --password-file, in XENCTL_PASSWORD or at the prompt"
    )
    assert "hush" not in line
    assert not Path("x").exists()


@pytest.mark.parametrize("number", ADVICE)
def test_errors_of_the_system_say_what_to_do(number: int) -> None:
    """What the error itself says stays; its number does not show."""
    assert about(OSError(number, os.strerror(number), "/a/b")) == (f"/a/b: {os.strerror(number)}; {ADVICE[number]}")
    assert about(OSError(number, "make the folder first", "/a/b")) == "/a/b: make the folder first"
    assert about(OSError("something else")) == "something else"
