"""Fake pools that are served, and the command in this process."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from click.testing import CliRunner, Result

from mockserver import MockPool, PoolServer
from xenctl.cli.commands import cli

TOKEN = "s3cr3t"


@dataclass
class Place:
    """Pools that are served until `close`, and a folder for files."""

    folder: Path
    servers: list[PoolServer] = field(default_factory=list)

    def serve(self, pool: MockPool) -> str:
        """The URL of a pool."""
        server = PoolServer(pool, control=TOKEN)
        server.start()
        self.servers.append(server)
        return server.url

    def reach(self, pool: MockPool) -> tuple[str, ...]:
        """The words that reach a pool and its machine room."""
        return "--server", self.serve(pool), "--hands", f"fake:{TOKEN}"

    def __call__(self, *words: str, environment: Mapping[str, str] | None = None) -> Result:
        """Run the command to its end; the password is in its environment, unless that says another."""
        return CliRunner().invoke(cli, words, env={"XENCTL_PASSWORD": "secret", **(environment or {})})

    def upgrade(self, verb: str, url: str, *words: str, journal: str = "journal") -> Result:
        """Run a command of `xenctl upgrade` with a journal in the folder."""
        fixed = ("--server", url, "--hands", f"fake:{TOKEN}", "--journal", str(self.folder / journal))
        return self("upgrade", verb, *fixed, *words)

    def close(self) -> None:
        for server in self.servers:
            server.stop()
