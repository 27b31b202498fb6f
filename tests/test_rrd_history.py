"""What hosts say was measured in the past, on the simulated clock."""

from __future__ import annotations

from collections.abc import Callable
from math import isnan
from statistics import fmean
from typing import Any

import pytest

from mockserver import MockPool

from .conftest import Calls
from .test_http_handlers import ask
from .test_rrd_whole import whole
from .test_statistics import near, told

Make = Callable[..., Any]


def guest(c: Any, name: str, **query: Any) -> Any:
    """All that is kept of a VM, as the host that it is on tells it."""
    host = c.pool.store.get("host", c.vm(name)["resident_on"])["name_label"]
    return whole(c, "/vm_rrd", on=host, uuid=c.vm(name)["uuid"], **query)


def known(points: dict[int, float]) -> list[int]:
    """The times at which something was measured."""
    return [time for time, value in points.items() if not isnan(value)]


def test_a_guest_is_measured_from_its_start_on(calls: Make) -> None:
    """Of the time before nothing is known; of a row something, if half of it is."""
    c = calls(release="8.2", vms=4)
    c.sleep(100.0)
    c("VM.start", c.vm("vm04").ref, False, False)
    begun = int(c.pool.clock.now()) // 5 * 5
    c.sleep(3 * 3600.0)
    found, now = guest(c, "vm04"), int(c.pool.clock.now()) // 5 * 5
    assert known(found.points("memory", 1)) == list(range(now - 595, now + 1, 5))
    minutes = known(found.points("memory", 12))
    assert (len(minutes), minutes[-1]) == (120, now // 60 * 60)
    assert known(found.points("memory", 720)) == [
        time for time in range(begun // 3600 * 3600, now + 1, 3600) if 2 * min(3600, time - begun + 5) >= 3600
    ]
    assert known(found.points("memory", 17280)) == []
    c("VM.hard_reboot", c.vm("vm04").ref)
    again = int(c.pool.clock.now()) // 5 * 5
    c.sleep(60.0)
    assert known(guest(c, "vm04").points("memory", 1))[0] in (again - 5, again)


def test_a_host_is_measured_from_its_boot_on(calls: Make) -> None:
    """One that was up when the pool was made has been for an hour. Of a host a row is known where any of it is."""
    c = calls(release="8.4", vms=0)
    start = int(c.pool.clock.now())
    begun = known(whole(c, "/host_rrd", on="host2").points("memory_total_kib", 12))[0]
    assert begun == start - 3600
    c.pool.hands.power_off("host2")
    c.pool.hands.power_on("host2")
    c.sleep(500.0)
    took = c.pool.durations.firmware + c.pool.durations.os_boot
    times = known(whole(c, "/host_rrd", on="host2").points("memory_total_kib", 1))
    assert times == list(range(start + int(took), start + 501, 5))


def test_a_dump_says_how_long_a_host_has_been_up(calls: Make) -> None:
    """So that a pool made from one tells of the time before."""
    c = calls(release="8.2")
    for host in ("host1", "host2"):
        c("host.add_to_other_config", c.host(host).ref, "boot_time", f"{c.pool.clock.now() - 3 * 86400:.0f}.")
    pool = MockPool.from_dump(c.pool.store.dump(), start=c.pool.clock.now())
    assert len(known(whole(Calls(pool), "/host_rrd").points("memory_total_kib", 720))) == 73


def test_a_guest_that_moved_keeps_its_past(calls: Make) -> None:
    """The host that it came to tells it as the one that it left did."""
    c = calls(release="8.2", vms=4)
    vm = c.vm("vm01")
    before = guest(c, "vm01")
    c("VM.pool_migrate", vm.ref, c.host("host2").ref, {})
    after = guest(c, "vm01")
    assert vm["resident_on"] == c.host("host2").ref
    shared = set(before.points("cpu0", 1)) & set(after.points("cpu0", 1))
    assert len(shared) > 100
    assert all(before.points("cpu0", 1)[time] == after.points("cpu0", 1)[time] for time in shared)


def test_coarse_rows_follow_from_fine_ones(calls: Make) -> None:
    """The average, minimum and maximum of the measurements that make them, on hosts and in guests."""
    c = calls(release="8.2", vms=4)
    c("pool.add_to_other_config", c("pool.get_all")[0], "create_min_max_in_new_VM_RRDs", "true")
    c.sleep(7.0)
    for found in (whole(c, "/host_rrd"), guest(c, "vm01")):
        fine = found.points("cpu0", 1)
        minutes = [time for time in found.points("cpu0", 12) if time - 60 >= min(fine)]
        assert len(minutes) == 9
        for function, of in (("AVERAGE", fmean), ("MIN", min), ("MAX", max)):
            for time in minutes:
                expected = of([value for at, value in fine.items() if time - 60 < at <= time])
                assert found.points("cpu0", 12, function)[time] == pytest.approx(expected, abs=2e-4)
        hour = max(known(found.points("cpu0", 720)))
        for function, of in (("AVERAGE", fmean), ("MIN", min), ("MAX", max)):
            values = [value for at, value in found.points("cpu0", 12, function).items() if hour - 3600 < at <= hour]
            assert len(values) == 60
            assert found.points("cpu0", 720, function)[hour] == pytest.approx(of(values), abs=2e-4)


def test_processors_swing_and_memory_does_not(calls: Make) -> None:
    """About a level that follows from the guests: all of an object's processors together, and never above what there is."""
    c = calls(release="8.4", hosts=1, vms=60)
    c.sleep(3600.0)
    host, vm = c.host("host1"), c.vm("vm01")
    found = told(c, start=str(int(c.pool.clock.now()) - 3500), host="true", cf="AVERAGE")
    columns = {name: [row["values"][at] for row in found["data"]] for at, name in enumerate(found["meta"]["legend"])}
    total = columns[f"AVERAGE:host:{host['uuid']}:memory_total_kib"]
    guests, hosts = columns[f"AVERAGE:vm:{vm['uuid']}:cpu0"], columns[f"AVERAGE:host:{host['uuid']}:cpu0"]
    assert len(set(total)) == 1
    assert len(set(guests)) > 20 and len(set(hosts)) > 20
    assert 0 < min(guests) < 0.06 and 0.14 < max(guests) < 0.16
    assert max(hosts) <= 1.0
    assert hosts == columns[f"AVERAGE:host:{host['uuid']}:cpu_avg"]
    assert guests != columns[f"AVERAGE:vm:{c.vm('vm02')['uuid']}:cpu0"]


def test_a_source_that_is_recorded_again_begins_anew(calls: Make) -> None:
    """What was recorded before it was forgotten is gone; one that is on already loses nothing."""
    c = calls(release="8.2", vms=4)
    host, vm = c.host("host1").ref, c.vm("vm01").ref
    for table, ref, name, find in (
        ("host", host, "loadavg", lambda: whole(c, "/host_rrd")),
        ("VM", vm, "memory", lambda: guest(c, "vm01")),
    ):
        c(f"{table}.forget_data_source_archives", ref, name)
        assert name not in find().sources
        c.sleep(20.0)
        c(f"{table}.record_data_source", ref, name)
        recorded = int(c.pool.clock.now()) // 5 * 5
        c.sleep(60.0)
        c(f"{table}.record_data_source", ref, name)
        found = find()
        assert known(found.points(name, 1)) == list(range(recorded, found.last + 1, 5))
        assert len(known(found.points("cpu0", 1))) == 120
    c("VM.record_data_source", vm, "memory_target")
    assert len(known(guest(c, "vm01").points("memory_target", 1))) == 1
    c("VM.hard_reboot", vm)
    c.sleep(30.0)
    assert len(known(guest(c, "vm01").points("memory", 1))) in (6, 7)


def test_the_past_is_the_same_whoever_asks_again(calls: Make) -> None:
    """The same seed tells the same, a rollback takes nothing away, and a fork has the same past."""
    c, twin = calls(release="8.2", vms=4, seed=7), calls(release="8.2", vms=4, seed=7)

    def answers(pool: Any) -> list[bytes]:
        who = Calls(pool)
        return [ask(who, "GET", path, uuid=who.vm("vm01")["uuid"], start="0")[1] for path in ("/host_rrd", "/vm_rrd")]

    first = answers(c.pool)
    assert answers(twin.pool) == first
    assert answers(calls(release="8.2", vms=4, seed=8).pool) != first
    saved = c.pool.savepoint()
    c("VM.forget_data_source_archives", c.vm("vm01").ref, "cpu0")
    c("host.forget_data_source_archives", c.host("host1").ref, "cpu0")
    c.sleep(500.0)
    c("VM.hard_reboot", c.vm("vm01").ref)
    assert answers(c.pool) != first
    forked = c.pool.fork()
    assert answers(forked) == answers(c.pool)
    c.pool.rollback(saved)
    assert answers(c.pool) == first


def test_a_watcher_that_asks_on_gets_each_row_once(calls: Make) -> None:
    """As programs do: from one second after the end of what they have."""
    c = calls(release="8.4", vms=1)
    vm, seen = c.vm("vm01")["uuid"], []
    start = int(c.pool.clock.now()) - 60
    for _ in range(5):
        found = told(c, start=str(start), vm_uuid=vm, cf="AVERAGE")
        seen += [(row["t"], row["values"][0]) for row in reversed(found["data"])]
        start = found["meta"]["end"] + 1
        c.sleep(13.0)
    assert [time for time, _ in seen] == list(range(seen[0][0], seen[-1][0] + 1, 5))
    kept = guest(c, "vm01").points("cpu0", 1)
    for time, value in seen:
        assert value == near(kept[time])
