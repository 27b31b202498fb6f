"""Workload balancing servers beside the pool: who is asked where guests had best be.

A pool knows of none until a test puts one up with `add`. A server takes in pools, keeps settings for each, and thinks of
nothing but free memory. What it is asked over, and what it says, is the pool's part: `workload_balancing`.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from ..journal import Kept

PORT = 8012
"""Where the servers listen unless told otherwise."""
SETTINGS = {
    "AutoBalanceEnabled": "false",
    "AutoBalancePollIntervals": "3",
    "AutoBalanceSeverity": "High",
    "AutoBalanceAggressiveness": "Low",
    "HostMemoryThresholdCritical": "52428800",
    "MetricGroomingPeriod": "28",
    "OptimizationMode": "0",
    "OverCommitCPUInPerfMode": "true",
    "PowerManagementEnabled": "false",
    "PreferPowerOnOverCompression": "true",
    "RecentMoveMinutes": "7",
    "WlbVersion": "8.3.0",
}
"""What a server keeps for a pool that nobody has set up yet."""


@dataclass
class Balancer(Kept):
    """A server: where it listens, who may ask it, and its settings for each pool that it was told of, by the pool's uuid.

    While it is not `up` nobody answers there. `answers` counts its recommendations, which are numbered.
    """

    address: str
    username: str
    password: str
    port: int = PORT
    up: bool = True
    pools: dict[str, dict[str, str]] = field(default_factory=dict)
    answers: int = 0
    received: list[str] = field(default_factory=list)
    """What was sent to it to see whether it is there."""


class Balancers(Kept):
    """The servers by address and port. The pool's `password` for its server is here where its release has no secrets."""

    def __init__(self) -> None:
        self.servers: dict[tuple[str, int], Balancer] = {}
        self.password = ""

    def add(self, address: str, *, username: str = "wlbuser", password: str = "secret", port: int = PORT) -> Balancer:
        """Put up a server. Raises ValueError where there is one already."""
        if (address, port) in self.servers:
            raise ValueError(f"there is a workload balancing server at {address}:{port} already")
        server = self.servers[address, port] = Balancer(address, username, password, port)
        return server
