"""What the calls of `test_verbs_write` need to know of verbs by which hosts join, leave and lead a pool."""

from __future__ import annotations

ELSEWHERE = {
    *("pool.join", "pool.join_force"),  # need another pool
    "pool.hello",  # needs the uuid and the address of one host
    "pool.management_reconfigure",  # needs a second network that every host is on
    "host.tickle_heartbeat",  # toolstacks alone may call it
}
PREPARED: dict[str, tuple[str, ...]] = {"pool.eject": ("VM.hard_shutdown",)}
