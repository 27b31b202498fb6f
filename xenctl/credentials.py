"""Where to log in and as whom, where a program does not say: from the environment.

`XENCTL_URL` is the URL of any host of the pool, `XENCTL_USERNAME` the user (`root` if it is not set), `XENCTL_PASSWORD` the
password, or `XENCTL_PASSWORD_FILE` a file whose first line it is.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field

USERNAME = "root"


@dataclass(frozen=True)
class Credentials:
    """A host of the pool and who logs in to it."""

    url: str
    username: str
    password: str = field(repr=False)


def find(
    url: str | None = None,
    username: str | None = None,
    password: str | None = None,
    environment: Mapping[str, str] | None = None,
) -> Credentials:
    """What was given, and for the rest what `environment` (the process's) holds.

    Raises `ValueError` naming what is missing, or a password file that cannot be read.
    """
    found = os.environ if environment is None else environment
    url = url if url is not None else found.get("XENCTL_URL") or None
    if url is None:
        raise ValueError("no host to connect to: pass a URL, or set XENCTL_URL")
    if username is None:
        username = found.get("XENCTL_USERNAME", USERNAME)
    if password is None:
        password = password_in(found)
    if password is None:
        raise ValueError(f"no password for {username}: pass one, or set XENCTL_PASSWORD or XENCTL_PASSWORD_FILE")
    return Credentials(url, username, password)


def password_in(environment: Mapping[str, str]) -> str | None:
    """The password that `environment` holds, itself or in a file; None where it does not."""
    path = environment.get("XENCTL_PASSWORD_FILE")
    if "XENCTL_PASSWORD" in environment or not path:
        return environment.get("XENCTL_PASSWORD")
    return read_password(path)


def read_password(path: str) -> str:
    """The first line of the file at `path`, without its end. Raises `ValueError` where it cannot be read or is empty."""
    try:
        with open(path, encoding="utf-8") as file:
            line = file.readline().rstrip("\r\n")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not text"
        raise ValueError(f"the password cannot be read from {path}: {reason}") from None
    if not line:
        raise ValueError(f"the password file {path} has an empty first line")
    return line
