"""The main job as a user waits for it: whole processes, from start to exit."""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from mockserver import MockPool
from xenctl import database

from .figures import Figure


def rehearsal(*arguments: str) -> float:
    """Seconds of one `xenctl rehearse` from start to exit. Raises `RuntimeError` where the verdict is not ok."""
    started = time.perf_counter()
    done = subprocess.run(
        [sys.executable, "-m", "xenctl", "rehearse", *arguments, "--json"], capture_output=True, text=True, check=False
    )
    took = time.perf_counter() - started
    if done.returncode or not json.loads(done.stdout)["ok"]:
        raise RuntimeError(f"the rehearsal {' '.join(arguments)} failed: {done.stdout[-500:]}{done.stderr[-500:]}")
    return took


def made_dump(folder: Path, hosts: int, vms: int) -> str:
    """A dump of a made-up pool of 4.0.1."""
    path = folder / f"pool-{hosts}-{vms}.xml"
    pool = MockPool.create(hosts=hosts, vms=vms, release="4.0.1")
    path.write_bytes(database.write(pool.store.dump()))
    return str(path)


def figures(runs: int) -> Iterator[Figure]:
    """The default pool, a big one, and how the time grows with the number of VMs."""
    rehearsal()
    default = statistics.median(rehearsal() for _ in range(runs))
    yield Figure("default rehearsal, process start to exit", default, 2.0, "s")
    with tempfile.TemporaryDirectory() as folder:
        half, whole = (made_dump(Path(folder), 16, vms) for vms in (200, 400))
        pairs = [(rehearsal(half), rehearsal(whole)) for _ in range(max(3, runs // 2))]
    big = statistics.median(pair[1] for pair in pairs)
    yield Figure("rehearsal of 16 hosts with 400 VMs, process start to exit", big, 15.0, "s")
    growth = statistics.median(whole / half for half, whole in pairs)
    yield Figure("the same, 400 VMs over 200 VMs", growth, 2.0 * 1.3, "x")
