"""What clients of a big pool read again and again: all records, and what has changed."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import count

from mockserver import MockPool
from mockserver.call import serve
from xenctl import xmlrpc

from .figures import Figure, steady


def bulk(pool: MockPool, session: str, changes: int) -> Callable[[], None]:
    """`VM.get_all_records` from bytes to bytes, after `changes` VMs have changed."""
    body = xmlrpc.dumps_call("VM.get_all_records", (session,))
    vms, number = list(pool.store.table("VM").values())[:changes], count()

    def work() -> None:
        for vm in vms:
            pool.store.write(vm, name_description=f"changed {next(number)}")
        serve(pool, pool.master, body)

    return work


def told(pool: MockPool, session: str) -> Callable[[], None]:
    """One change of a VM, and the call that tells it. The change itself is counted in: it takes a few microseconds."""
    vm = list(pool.store.table("VM").values())[len(pool.store.table("VM")) // 2]
    token, number = pool.dispatch("event.from", [session, ["*"], "", 0.0])["token"], count()

    def work() -> None:
        nonlocal token
        pool.store.write(vm, name_description=f"changed {next(number)}")
        batch = pool.dispatch("event.from", [session, ["*"], token, 30.0])
        token = batch["token"]
        assert len(batch["events"]) == 1

    return work


def login(pool: MockPool) -> str:
    """A session of a pool."""
    return str(pool.dispatch("session.login_with_password", ["root", "secret"]))


def figures(small: MockPool, big: MockPool, runs: int) -> Iterator[Figure]:
    """What one change costs who listens, in a small pool and in a big one."""
    for pool in (small, big):
        name = f"event.from for one change among {len(pool.store.table('VM')):,} VMs"
        yield Figure(name, steady(told(pool, login(pool)), runs=max(3 * runs, 9), times=100) * 1e6, 200.0, "us")


def records(big: MockPool, runs: int) -> Iterator[Figure]:
    """What all records of a big pool cost. Most of it is memory that is copied, which slows down otherwise than the rest."""
    session = login(big)
    for changes, after in ((0, "nothing changed"), (1, "one VM changed")):
        value = steady(bulk(big, session, changes), runs=max(3 * runs, 9)) * 1e3
        yield Figure(f"VM.get_all_records of {len(big.store.table('VM')):,} VMs to bytes, {after}", value, 50.0, "ms")
