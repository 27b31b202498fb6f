"""The fake: taking back, fresh pools for tests, and a pool of 64 hosts and 10,000 VMs made, loaded and dumped."""

from __future__ import annotations

import math
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from lxml import etree

from mockserver import MockPool, Trace
from mockserver.fresh import FreshPools
from xenctl import database

from .figures import Figure, seconds

HOSTS, VMS, RELEASE = 64, 10_000, "8.2"
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
        plain = seconds(lambda: pool.dispatch(method, params), 300)
        with Trace(pool):
            return seconds(lambda: pool.dispatch(method, params), 300) / plain - 1.0

    return {name: statistics.median(more(*call) for _ in range(max(4 * runs, 11))) for name, call in calls.items()}


def plain_lxml(path: Path) -> int:
    """The same file as lxml elements and dicts, nothing checked or understood; how many rows there are."""
    tables = {
        table.get("name"): {row.get("ref"): dict(row.attrib) for row in table.iterfind("row")}
        for table in etree.parse(path).getroot().iterfind("table")
    }
    return sum(map(len, tables.values()))


def median(work: Callable[[], object], runs: int) -> float:
    """Seconds of one run, the median of `runs` after one that does not count."""
    work()
    return statistics.median(seconds(work) for _ in range(runs))


def figures(runs: int) -> Iterator[Figure]:
    """Every figure of the fake so far; those without a bound stand there for comparison."""
    small = MockPool.create(hosts=4, vms=100, release=RELEASE)
    times: list[float] = []
    for _ in range(max(3, runs // 2)):
        started = time.perf_counter()
        big = MockPool.create(hosts=HOSTS, vms=VMS, release=RELEASE)
        times.append(time.perf_counter() - started)
    what = f"{HOSTS} hosts and {VMS:,} VMs"
    yield Figure(f"{what} made", statistics.median(times), 2.0, "s")
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "pool.xml"
        yield Figure(f"{what} dumped to a file", median(lambda: big.save(path), max(3, runs // 2)), 2.0, "s")
        yield Figure(f"{what} loaded from it", median(lambda: MockPool.from_dump(path), max(3, runs // 2)), 2.0, "s")
        size = path.stat().st_size / 1e6
        shown = f"the same file ({size:.0f} MB)"
        yield Figure(f"{shown} read by us, not loaded", median(lambda: database.read_file(path), 3), math.inf, "s")
        yield Figure(f"{shown} read by lxml into dicts", median(lambda: plain_lxml(path), 3), math.inf, "s")
    for name, pool in (("100 VMs", small), (f"{VMS:,} VMs", big)):
        work = taking_back(pool)
        value = statistics.median(seconds(work, 200) for _ in range(max(runs, 5))) * 1e6
        yield Figure(f"savepoint, {WRITES} writes, rollback, among {name}", value, 50.0, "us")
    use = fresh(FreshPools())
    use()
    value = statistics.median(seconds(use, 200) for _ in range(max(runs, 5))) * 1e6
    yield Figure("fixture xapi: a fresh pool of 4 VMs, written to", value, 200.0, "us")
    for name, share in noting(runs).items():
        yield Figure(f"what {name} more for being traced", 100.0 * share, 20.0, "%")
