"""Licence servers beside the pool, from which hosts check out licences for the editions that must be paid for.

A pool that is made has the servers that its hosts say they use, with what these hosts hold; so that goes on as it was.
`add` puts up another, `remove` takes one away: its hosts then live on what is left of their grace.
"""

from __future__ import annotations

from ..journal import Kept

PORT = 27000
"""Where licence servers listen unless told otherwise."""


class LicenceServers(Kept):
    """By address and port, the editions that are licensed there, with the moment until which each is; None is for ever."""

    def __init__(self) -> None:
        self.servers: dict[tuple[str, int], dict[str, float | None]] = {}

    def add(self, address: str, *editions: str, port: int = PORT, until: float | None = None) -> None:
        """Put licences for `editions` on the server at `address`, valid `until` a moment in simulated seconds."""
        held = self.servers.setdefault((address, port), {})
        held.update(dict.fromkeys(editions, until))

    def remove(self, address: str, *, port: int = PORT) -> None:
        """Take a server away. Raises KeyError where there is none."""
        del self.servers[address, port]
