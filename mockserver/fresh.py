"""Pools for many tests: one of each shape is made and taken back after each test, so that the next finds it as new."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from .faults import Faults
from .pool import MockPool

if TYPE_CHECKING:
    from .savepoint import Savepoint

SHAPES = 16
"""Shapes of which a pool is kept; the one that was not asked for for the longest time goes first."""


class FreshPools:
    """Hands out pools that nobody has touched: `with pools.fresh(hosts=2, vms=4) as pool: ...`.

    What is done to a pool through itself is taken back, so it must not be used after the block. One that cannot be taken
    back, since it is still served on sockets, is not used again.
    """

    def __init__(self) -> None:
        self._points: dict[str, Savepoint] = {}

    @contextmanager
    def fresh(self, **options: Any) -> Iterator[MockPool]:
        """A pool as `MockPool.create` makes it with these options."""
        key = repr(sorted(options.items()))
        point = self._points.pop(key, None)
        if point is None:
            point = MockPool.create(**options).savepoint()
        pool = point.pool
        wiring = {name: getattr(pool, name) for name in WIRING}
        try:
            yield pool
        finally:
            if not point.gone and pool.guard == point.guard:
                if pool.trace is not None:
                    pool.trace.stop()
                for name, value in wiring.items():
                    setattr(pool, name, value)
                pool.faults, pool.log = Faults(pool), None
                point.rollback()
                self._points[key] = point
                if len(self._points) > SHAPES:
                    del self._points[next(iter(self._points))]


WIRING = ("waiter", "on_machine", "on_rollback")
"""What a test may have set in a pool that is no state of it."""
