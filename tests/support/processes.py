"""Processes of their own: the `xenctl` command, and pools that `mockserver` serves."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

Said = subprocess.CompletedProcess[str]
TOKEN = "s3cr3t"
PATIENCE = 120.0
"""Seconds that a command may take."""


def command(*words: str) -> list[str]:
    """The command line of `xenctl`."""
    return [sys.executable, "-m", "xenctl", *words]


def environment(columns: int = 100) -> dict[str, str]:
    """What the command finds around it: the password, and how wide a terminal is."""
    return {**os.environ, "XENCTL_PASSWORD": "secret", "COLUMNS": str(columns)}


def xenctl(*words: str, columns: int = 100, before: Callable[[], None] | None = None) -> Said:
    """Run the command to its end, without a terminal; `before` is called in its process."""
    return subprocess.run(
        command(*words),
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=False,
        stdin=subprocess.DEVNULL,
        env=environment(columns),
        preexec_fn=before,
    )


def begun(*words: str) -> subprocess.Popen[str]:
    """The command while it runs: what it says on standard error is to be read."""
    return subprocess.Popen(
        command(*words), stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, env=environment()
    )


@contextmanager
def served(release: str, hosts: int, vms: int) -> Iterator[dict[str, Any]]:
    """A pool in a process of its own, with a control path; what the process says when it is ready (`url`, `control`)."""
    shape = ("--release", release, "--hosts", str(hosts), "--vms", str(vms), "--control", TOKEN)
    server = subprocess.Popen([sys.executable, "-m", "mockserver", *shape], stdout=subprocess.PIPE, text=True)
    assert server.stdout is not None
    try:
        ready: dict[str, Any] = json.loads(server.stdout.readline())
        yield ready
    finally:
        server.terminate()
        server.wait(timeout=20)
        server.stdout.close()
