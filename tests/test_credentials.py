"""Credentials: what is given goes before the environment, and what is missing is named."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from mockserver.pool import MockPool
from xenctl import connect
from xenctl.credentials import Credentials, find

ALL = {"XENCTL_URL": "https://env", "XENCTL_USERNAME": "alice", "XENCTL_PASSWORD": "from the environment"}


@pytest.mark.parametrize(
    ("given", "environment", "found"),
    [
        (("https://a", "bob", "secret"), ALL, ("https://a", "bob", "secret")),
        ((None, None, None), ALL, ("https://env", "alice", "from the environment")),
        (("https://a", None, None), ALL, ("https://a", "alice", "from the environment")),
        (("https://a", None, "secret"), {}, ("https://a", "root", "secret")),
        ((None, None, ""), ALL, ("https://env", "alice", "")),
        (
            (None, None, None),
            {**ALL, "XENCTL_PASSWORD_FILE": "/nowhere"},
            ("https://env", "alice", ALL["XENCTL_PASSWORD"]),
        ),
    ],
)
def test_what_is_given_goes_first(given: Any, environment: dict[str, str], found: tuple[str, str, str]) -> None:
    """Each part is taken from the arguments, or else from the environment; the user is root if nobody says."""
    assert find(*given, environment=environment) == Credentials(*found)


@pytest.mark.parametrize(
    ("environment", "message"),
    [
        ({}, r"^no host to connect to: pass a URL, or set XENCTL_URL$"),
        ({"XENCTL_URL": "x"}, r"^no password for root: pass one, or set XENCTL_PASSWORD or XENCTL_PASSWORD_FILE$"),
    ],
)
def test_what_is_missing_is_named(environment: dict[str, str], message: str) -> None:
    """The error says what to pass or to set."""
    with pytest.raises(ValueError, match=message):
        find(environment=environment)


@pytest.mark.parametrize("text", ["secret\n", "secret\r\n", "secret", "secret\nmore\n"])
def test_a_password_file(tmp_path: Path, text: str) -> None:
    """Its first line is the password, without the line's end."""
    path = tmp_path / "password"
    path.write_bytes(text.encode())
    assert find("https://a", environment={"XENCTL_PASSWORD_FILE": str(path)}).password == "secret"


@pytest.mark.parametrize(
    ("content", "message"),
    [(None, "No such file"), (b"", "an empty first line"), (b"\nx", "an empty first line"), (b"\xff\n", "not text")],
)
def test_a_password_file_that_is_none(tmp_path: Path, content: bytes | None, message: str) -> None:
    """The error names the file, and what is wrong."""
    path = tmp_path / "password"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(ValueError, match=message) as caught:
        find("https://a", environment={"XENCTL_PASSWORD_FILE": str(path)})
    assert str(path) in str(caught.value)


def test_the_password_is_not_shown() -> None:
    """Nor is it in the text of what was found."""
    assert "environment" not in repr(find(environment=ALL))


def test_connect_takes_them_from_the_process(monkeypatch: pytest.MonkeyPatch) -> None:
    """A program that says nothing logs in where the environment says."""
    pool = MockPool.create(hosts=1, vms=0, password="hunter2")
    monkeypatch.setenv("XENCTL_URL", pool.url)
    monkeypatch.setenv("XENCTL_PASSWORD", "hunter2")
    with connect(transport=pool.transport()) as session:
        assert session.pool.get_all()
    monkeypatch.delenv("XENCTL_PASSWORD")
    with pytest.raises(ValueError, match="no password for root"):
        connect(transport=pool.transport())
