"""The fake: a pool of 64 hosts and 10,000 VMs made, loaded and dumped, taking back, fresh pools for tests, calls."""

from __future__ import annotations

import math
import statistics
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

from lxml import etree

from mockserver import MockPool, Trace
from mockserver.fresh import FreshPools
from xenctl import database

from . import calls, reading
from .figures import Figure, busy, steady

HOSTS, VMS, RELEASE = 64, 10_000, "8.2"
BIG = f"{HOSTS} hosts and {VMS:,} VMs"
WRITES = 10


def taking_back(pool: MockPool) -> Callable[[], None]:
    """One savepoint, ten writes, and back."""
    vms = list(pool.store.table("VM").values())[:WRITES]

    def work() -> None:
        with pool.savepoint():
            for vm in vms:
                pool.store.write(vm, name_description="changed")

    return work


def fresh(pools: FreshPools) -> Callable[[], None]:
    """A pool for a test that changes something in it; what the test itself takes is not counted by the caller."""

    def work() -> None:
        with pools.fresh(hosts=2, vms=4, release=RELEASE) as pool:
            for vm in pool.store.table("VM").values():
                pool.store.write(vm, name_description="changed")

    return work


def noting(runs: int) -> dict[str, float]:
    """By call without bytes, the share by which it takes longer while it is traced."""
    pool = MockPool.create(hosts=2, vms=4, release=RELEASE)
    session = pool.dispatch("session.login_with_password", [pool.username, pool.password])
    vm = next(row.ref for row in pool.store.table("VM").values() if row["name_label"] == "vm01")
    calls = {
        "a getter takes": ("VM.get_power_state", [session, vm]),
        "a record takes": ("VM.get_record", [session, vm]),
        "a setter takes": ("VM.set_name_description", [session, vm, "changed"]),
    }

    def more(method: str, params: list[object]) -> float:
        plain = busy(lambda: pool.dispatch(method, params), 300)
        with Trace(pool):
            return busy(lambda: pool.dispatch(method, params), 300) / plain - 1.0

    return {name: statistics.median(more(*call) for _ in range(max(4 * runs, 11))) for name, call in calls.items()}


def plain_lxml(path: Path) -> int:
    """The same file as lxml elements and dicts, nothing checked or understood; how many rows there are."""
    tables = {
        table.get("name"): {row.get("ref"): dict(row.attrib) for row in table.iterfind("row")}
        for table in etree.parse(path).getroot().iterfind("table")
    }
    return sum(map(len, tables.values()))


def big_pool() -> MockPool:
    """The one that is too large to wait for."""
    return MockPool.create(hosts=HOSTS, vms=VMS, release=RELEASE)


def figures(runs: int) -> Iterator[Figure]:
    """Every figure of the fake whose mark is reached."""
    small, big = MockPool.create(hosts=4, vms=100, release=RELEASE), big_pool()
    for name, pool in (("100 VMs", small), (f"{VMS:,} VMs", big)):
        value = steady(taking_back(pool), runs=max(3 * runs, 9), times=200) * 1e6
        yield Figure(f"savepoint, {WRITES} writes, rollback, among {name}", value, 50.0, "us")
    value = steady(fresh(FreshPools()), runs=max(3 * runs, 9), times=200) * 1e6
    yield Figure("fixture xapi: a fresh pool of 4 VMs, written to", value, 200.0, "us")
    yield from reading.figures(small, big, runs)
    yield from reading.records(big, runs)
    yield from calls.figures(runs)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "pool.xml"
        yield Figure(f"{BIG} dumped to a file", steady(lambda: big.save(path), runs=max(3, runs // 2)), 2.0, "s")


def open_figures(runs: int) -> Iterator[Figure]:
    """Those whose marks are not reached yet, or not on every machine; those without a bound stand there for comparison."""
    few = max(3, runs // 2)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "pool.xml"
        yield Figure(f"{BIG} made", steady(big_pool, runs=few), 2.0, "s")
        big = big_pool()
        big.save(path)
        yield Figure(f"{BIG} loaded from a dump", steady(lambda: MockPool.from_dump(path), runs=few), 2.0, "s")
        shown = f"the same file ({path.stat().st_size / 1e6:.0f} MB)"
        yield Figure(
            f"{shown} read by us, not loaded", steady(lambda: database.read_file(path), runs=few), math.inf, "s"
        )
        yield Figure(f"{shown} read by lxml into dicts", steady(lambda: plain_lxml(path), runs=few), math.inf, "s")
    for name, share in noting(runs).items():
        yield Figure(f"what {name} more for being traced", 100.0 * share, 20.0, "%")
    yield from calls.start_and_stop(runs)
