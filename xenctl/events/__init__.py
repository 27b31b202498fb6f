"""Events: the changes of a pool as they happen, a cache that follows them, and waiting for many tasks at once.

    with PoolCache(session, ["VM", "host"]) as cache:
        cache.wait_until(lambda pool: pool.of(VM)[vm].power_state == "Running", timeout=300)

    for change in watch(session, ["VM"]):
        print(change.operation, change.record["name_label"])

All rests on `PoolCache` (`cache`). It loads the objects of the classes that it is asked for, then asks what changed since,
and compares what comes with what it has: so a change is told once, whether it came as an event, was found when events were
lost, or became plain after the master had been away. Several changes of one object between two looks are one.

Where the changes come from is a feed (`feeds`): `event.from` on hosts from 6.0 on, `event.next` on those before.
"""

from __future__ import annotations

from .cache import Change, PoolCache, watch
from .waiting import wait_all

__all__ = ["Change", "PoolCache", "wait_all", "watch"]
