"""Programs in JavaScript, started and listened to; pools on sockets for them and for the official SDK.

`XEN_API` is the path of the module of npm's xen-api. Without Node.js or the module a test fails, it is not skipped: only
`tox -e clients`, which installs the module, collects these tests.
"""

from __future__ import annotations

import json
import os
import queue
import shutil
import subprocess
import tempfile
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import IO, Any

import pytest

from mockserver import MockPool, PoolServer

PROGRAMS = Path(__file__).parent
PATIENCE = 60.0
"""Seconds that a program may take for its next word."""


class Program:
    """A program of ours as it runs: what it says comes line by line, each a value."""

    def __init__(self, node: str, name: str, options: dict[str, Any], **environment: str) -> None:
        self.name = name
        command = [node, str(PROGRAMS / f"{name}.mjs"), json.dumps(options)]
        self._errors: IO[str] = tempfile.TemporaryFile("w+")  # noqa: SIM115 - closed by `stop`
        self.process = subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=self._errors, text=True, env={**os.environ, **environment}
        )
        self._lines: queue.Queue[str | None] = queue.Queue()
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self._lines.put(line)
        self._lines.put(None)

    def hears(self) -> Any:
        """The next thing that it tells."""
        try:
            line = self._lines.get(timeout=PATIENCE)
        except queue.Empty:
            raise AssertionError(f"{self.name}.mjs said nothing for {PATIENCE:g} s; {self.complaints()}") from None
        assert line is not None, f"{self.name}.mjs ended early; {self.complaints()}"
        return json.loads(line)

    def ends(self, *, quietly: bool = True) -> None:
        """It has nothing more to say and ends well; its client complained of nothing, where it has no cause to."""
        try:
            line = self._lines.get(timeout=PATIENCE)
        except queue.Empty:
            raise AssertionError(f"{self.name}.mjs did not end in {PATIENCE:g} s; {self.complaints()}") from None
        assert line is None, line
        assert self.process.wait(PATIENCE) == 0, self.complaints()
        if quietly:
            assert self.complaints() == ""

    def complaints(self) -> str:
        """What it wrote to its error stream."""
        self._errors.seek(0)
        return self._errors.read()

    def stop(self) -> None:
        self.process.kill()
        self.process.wait(PATIENCE)
        self._reader.join(PATIENCE)
        assert self.process.stdout is not None
        self.process.stdout.close()
        self._errors.close()


@pytest.fixture(scope="session")
def node() -> str:
    """The interpreter of the programs."""
    found = shutil.which("node")
    assert found, "these tests need Node.js 20 or later: install it so that `node` is on the path"
    module = os.environ.get("XEN_API", "")
    assert os.path.isfile(module), f"XEN_API is {module!r}, not npm's xen-api/index.mjs: run `tox -e clients`"
    return found


@pytest.fixture
def programs(node: str) -> Iterator[Callable[..., Program]]:
    """Starts programs: the name, the URL that its client connects to, the client's other options, and the program's."""
    with ExitStack() as running:

        def start(
            name: str,
            url: str,
            client: dict[str, Any] | None = None,
            environment: dict[str, str] | None = None,
            **options: Any,
        ) -> Program:
            asked = {"client": {"url": url, **(client or {})}, **options}
            program = Program(node, name, asked, **(environment or {}))
            running.callback(program.stop)
            return program

        yield start


@pytest.fixture
def served() -> Iterator[Callable[..., PoolServer]]:
    """Pools on sockets; the keywords are those of `MockPool.create` and of `PoolServer`."""
    with ExitStack() as serving:

        def serve(*, tls: bool = False, time_scale: float = 0.0, **shape: Any) -> PoolServer:
            pool = MockPool.create(**{"hosts": 3, "vms": 4, "release": "8.2", **shape})
            return serving.enter_context(PoolServer(pool, tls=tls, time_scale=time_scale))

        yield serve
