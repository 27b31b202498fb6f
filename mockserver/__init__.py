"""mockserver: a fake XAPI that emulates a pool's hosts, their releases, the pool database and the machine room.

In a test:

    pool = mockserver.MockPool.create(hosts=3, vms=12, release="4.0.1")
    with xenctl.connect(pool.url, "root", "secret", transport=pool.transport()) as session: ...
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .compare import Change, Comparison
    from .invariants import Invariant, Violation
    from .machine.host import Durations
    from .pool import MockPool
    from .savepoint import Savepoint, SavepointError
    from .sweeping import sweep
    from .trace import Trace
    from .transports.intercept import activate
    from .transports.server import PoolServer

__all__ = [
    "Change",
    "Comparison",
    "Durations",
    "Invariant",
    "MockPool",
    "PoolServer",
    "Savepoint",
    "SavepointError",
    "Trace",
    "Violation",
    "activate",
    "sweep",
]

_HOMES = {
    "MockPool": "pool",
    "Trace": "trace",
    "sweep": "sweeping",
    "PoolServer": "transports.server",
    "activate": "transports.intercept",
    "Durations": "machine.host",
    "Invariant": "invariants",
    "Violation": "invariants",
    "Change": "compare",
    "Comparison": "compare",
    "Savepoint": "savepoint",
    "SavepointError": "savepoint",
}


if not TYPE_CHECKING:  # checkers are to see a misspelled name

    def __getattr__(name: str) -> Any:
        from importlib import import_module

        if name not in __all__:
            raise AttributeError(f"module 'mockserver' has no attribute {name!r}")
        value = getattr(import_module(f".{_HOMES[name]}", __name__), name)
        globals()[name] = value
        return value


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
