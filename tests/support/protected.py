"""Pools with high availability, for the tests of what it promises."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

Make = Callable[..., Any]


def guests(c: Any, state: str = "Running") -> Iterator[Any]:
    """The VMs in a power state that are no control domains."""
    return (
        vm
        for vm in list(c.pool.store.table("VM").values())
        if vm["power_state"] == state and not vm["is_control_domain"]
    )


def protected(calls: Make, *, tolerate: int = 1, priority: str = "restart", **shape: Any) -> Any:
    """A session with a pool that has high availability, whose running VMs are protected."""
    c = calls(**{"release": "8.2", "hosts": 3, "vms": 6, **shape})
    for vm in guests(c):
        c("VM.set_ha_restart_priority", vm.ref, priority)
    enable(c, tolerate=tolerate)
    return c


def enable(c: Any, *, tolerate: int = 1) -> None:
    """Switch high availability on, for so many failures, and wait until hosts have seen each other."""
    c("pool.enable_ha", [], {})
    c("pool.set_ha_host_failures_to_tolerate", c.pool.store.pool().ref, tolerate)
    c.sleep(30)


def lose(c: Any, host: str, seconds: float = 200.0) -> None:
    """Pull a host's plug, and wait until the others have done what they do then."""
    c.pool.hands.power_off(host)
    c.sleep(seconds)


def told(c: Any) -> list[str]:
    """The names of the pool's messages, the oldest first, without those on what was done to VMs."""
    names = [str(message["name"]) for message in c.pool.messages.newest_first()]
    return [name for name in reversed(names) if not name.startswith("VM_")]
