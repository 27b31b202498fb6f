"""The main job: a dump in, a verdict out."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import pytest

from mockserver import MockPool
from xenctl import database
from xenctl.errors import DatabaseError
from xenctl.procedures.plan import Plan
from xenctl.rehearsal import rehearse

DATA = Path(__file__).parent / "data"
DUMPS = {"4.0.1": DATA / "pool-4.0.1.xml", "4.1.0": DATA / "pool-4.1.0.xml"}


@pytest.fixture(scope="module")
def verdicts() -> dict[str, dict[str, Any]]:
    """One rehearsal of each pool, as `--json` prints it."""
    out = {"default": rehearse().as_dict()}
    for release, path in DUMPS.items():
        out[release] = rehearse(path).as_dict()
    return json.loads(json.dumps(out))  # type: ignore[no-any-return]


NAMES = ("default", "4.0.1", "4.1.0")


@pytest.mark.parametrize("name", NAMES)
def test_the_upgrade_succeeds(verdicts: dict[str, Any], name: str) -> None:
    """The default pool and both shared dumps can be upgraded, and nothing is broken."""
    found = verdicts[name]
    assert found["ok"] is True
    assert (found["reasons"], found["violations"]) == ([], [])
    assert found["max_hosts_offline"] == 1


@pytest.mark.parametrize(
    ("name", "source", "target"),
    [("default", "4.0.1", "4.1.0"), ("4.0.1", "4.0.1", "4.1.0"), ("4.1.0", "4.1.0", "5.0.0")],
)
def test_every_host_is_upgraded(verdicts: dict[str, Any], name: str, source: str, target: str) -> None:
    """Each host before and after, and how long it was offline: an installation takes minutes, not hours."""
    found = verdicts[name]
    assert (found["from"], found["to"]) == (source, target)
    assert len(found["hosts"]) == (4 if name == "4.1.0" else 3)
    for host in found["hosts"]:
        assert (host["before"], host["after"]) == (source, target)
        assert 600 < host["offline_s"] < 3600


@pytest.mark.parametrize("name", NAMES)
def test_running_guests_keep_running(verdicts: dict[str, Any], name: str) -> None:
    """Every guest ends in the state it had; those that ran moved, were never down unless planned, and are home."""
    for vm in verdicts[name]["vms"]:
        assert vm["state_after"] == vm["state_before"]
        if vm["state_before"] != "Running":
            assert vm["home"] is None
            assert vm["downtime_s"] == 0
        elif vm["planned_downtime"]:
            assert vm["downtime_s"] > 600
            assert (vm["migrations"], vm["home"]) == (0, True)
        else:
            assert vm["downtime_s"] == 0
            assert vm["migrations"] >= 2
            assert vm["home"] is True


def test_the_default_pool_is_what_the_readme_says(verdicts: dict[str, Any]) -> None:
    """Three hosts, twelve guests: running, halted, one suspended, two with a CD inserted."""
    vms = verdicts["default"]["vms"]
    states = [vm["state_before"] for vm in vms]
    assert len(vms) == 12
    assert states.count("Suspended") == 1
    assert states.count("Halted") >= 2
    steps = [step["action"] for step in verdicts["default"]["steps"]]
    assert (steps.count("eject"), steps.count("insert")) == (2, 2)
    pool = MockPool.create(release="4.0.1")
    shared = [sr["shared"] for sr in pool.store.table("SR").values()]
    assert (shared.count(True), shared.count(False)) == (2, 3)


def test_the_guest_on_local_storage_is_the_only_one_down(verdicts: dict[str, Any]) -> None:
    """In the 4.1.0 dump one running guest has a local disk: it alone is shut down, and it was named."""
    down = [vm["name"] for vm in verdicts["4.1.0"]["vms"] if vm["downtime_s"]]
    assert down == [vm["name"] for vm in verdicts["4.1.0"]["vms"] if vm["planned_downtime"]] == ["vm0001"]


def test_only_guests_are_listed(verdicts: dict[str, Any]) -> None:
    """No control domains, no templates."""
    names = [vm["name"] for vm in verdicts["4.0.1"]["vms"]]
    assert len(names) == 12
    assert not [name for name in names if "Control domain" in name or "Debian" in name]


@pytest.mark.parametrize("name", NAMES)
def test_the_backup_is_verified_and_first(verdicts: dict[str, Any], name: str) -> None:
    """A verified backup with its digest, before any other step."""
    found = verdicts[name]
    assert found["backup"]["verified"] is True
    assert len(found["backup"]["sha256"]) == 64
    assert found["steps"][0]["action"] == "backup"


@pytest.mark.parametrize("name", NAMES)
def test_figures_are_measured(verdicts: dict[str, Any], name: str) -> None:
    """Calls, bytes both ways, simulated and real time are there and plausible."""
    found = verdicts[name]
    assert found["calls"] > 300
    assert found["bytes"]["received"] > found["bytes"]["sent"] > 50_000
    assert found["simulated_s"] > sum(host["offline_s"] for host in found["hosts"])
    assert 0 < found["wall_s"] < 30
    last = found["steps"][-1]
    assert last["at_s"] + last["took_s"] == pytest.approx(found["simulated_s"], abs=1)


def test_the_same_seed_gives_the_same_run() -> None:
    """A rehearsal is deterministic: steps, times and calls are the same again."""
    one, two = rehearse(seed=3).as_dict(), rehearse(seed=3).as_dict()
    one.pop("wall_s"), two.pop("wall_s")
    assert one == two


def test_what_dangles_in_a_dump_is_reported(verdicts: dict[str, Any]) -> None:
    """References to metrics that are not persisted dangle in a dump; that is said, and no obstacle."""
    assert "table VBD: 24 references of metrics to no VBD_metrics" in verdicts["4.0.1"]["reports"]


def test_a_dump_may_be_a_path_bytes_or_a_database() -> None:
    """All three forms give the same verdict."""
    path = DUMPS["4.0.1"]
    forms = (str(path), path, path.read_bytes(), database.read_file(path))
    found = {(v.ok, v.calls, v.simulated_s) for v in map(rehearse, forms)}
    assert len(found) == 1


def test_unknown_tables_and_columns_come_through() -> None:
    """What the data model does not know is kept, reported, and still there after the upgrade."""
    dump = database.read_file(DUMPS["4.0.1"])
    dump.tables["Strange"] = database.Table("Strange", {"OpaqueRef:s": database.Row("OpaqueRef:s", {"a": "b"})})
    vm = next(iter(dump.tables["VM"].rows.values()))
    vm.cells["strange_column"] = "kept"
    pool = MockPool.from_dump(dump)
    written = pool.store.dump()
    assert written.tables["Strange"].rows["OpaqueRef:s"].cells == {"a": "b"}
    assert written.tables["VM"].rows[vm.ref].cells["strange_column"] == "kept"
    verdict = rehearse(dump)
    assert verdict.ok
    assert any("Strange" in report for report in verdict.reports)
    assert any("strange_column" in report for report in verdict.reports)


def test_the_plan_is_shown_before_the_start() -> None:
    """`on_plan` sees the guests that will be shut down before any step begins."""
    seen: list[Any] = []

    def on_plan(plan: Plan) -> None:
        seen.append([vm.name for vm in plan.downtime])

    rehearse(DUMPS["4.1.0"], on_plan=on_plan, on_step=lambda n, total, text: seen.append(text))
    assert seen[0] == ["vm0001"]
    assert seen[1] == "fetch and verify a database backup"


def test_a_pool_that_cannot_be_upgraded_is_a_verdict() -> None:
    """Impossible is no error: `ok` is false, with every reason, and nothing was done."""
    verdict = rehearse(release="4.0.1", hosts=1)
    assert not verdict.ok
    assert verdict.reasons == ["the pool has one host: there is nowhere for its guests to run meanwhile"]
    assert verdict.steps == []
    assert verdict.simulated_s == 0


def test_memory_that_forbids_resuming_is_said() -> None:
    """Suspended guests need memory while the pool is upgraded; without it the rehearsal says which and how much."""
    dump = database.read_file(DUMPS["4.0.1"])
    for host in dump.tables["host"].rows.values():
        host.cells["boot_free_mem"] = str(30 << 30)
    for vm in dump.tables["VM"].rows.values():
        if vm.cells["power_state"] == "Suspended":
            vm.cells["memory__static_max"] = str(25 << 30)
    verdict = rehearse(dump)
    assert not verdict.ok
    assert any("suspended" in reason and "memory forbids it" in reason for reason in verdict.reasons)


@pytest.mark.parametrize(
    ("spoil", "expected"),
    [
        (lambda data: data[:40_000], "cut off"),
        (lambda data: b"<html>no</html>", "html"),
        (lambda data: database.stub(), "mixed"),
    ],
)
def test_a_dump_that_cannot_be_used_is_one_clear_error(spoil: Any, expected: str) -> None:
    """Cut off, not a dump, or the stub of a mixed pool: `DatabaseError`."""
    with pytest.raises(DatabaseError, match=expected):
        rehearse(spoil(DUMPS["4.0.1"].read_bytes()))


def test_a_dump_of_a_made_up_pool_can_be_rehearsed_with_the_same_seed() -> None:
    """New references and uuids never collide with those of the dump, whatever seed made it."""
    made = MockPool.create(hosts=4, vms=60, release="4.0.1", seed=0)
    verdict = rehearse(made.store.dump(), seed=0)
    assert verdict.ok, verdict.reasons


@pytest.mark.parametrize("seed", range(40))
def test_a_damaged_dump_is_a_verdict_or_one_clear_error(seed: int) -> None:
    """Rows, tables and cells that are missing, empty or dangling never end in a traceback: what matters is an error that
    names the place, what does not is read leniently, and a pool that cannot be upgraded is a verdict with reasons."""
    random_ = random.Random(seed)
    dump = database.read_file(DUMPS["4.0.1"]).copy()
    for _ in range(3):
        table = random_.choice([table for table in dump.tables.values() if table.rows])
        ref, row = random_.choice(list(table.rows.items()))
        column = random_.choice(list(row.cells) or [""])
        damage = random_.choice(("row", "table", "column", "empty", "dangling"))
        if damage == "row":
            del table.rows[ref]
        elif damage == "table":
            del dump.tables[table.name]
        elif damage == "column":
            row.cells.pop(column, None)
        else:
            row.cells[column] = "" if damage == "empty" else "OpaqueRef:gone"
    try:
        verdict = rehearse(dump)
    except DatabaseError as error:
        said = str(error) if "table" in str(error) else ""
    else:
        said = "upgraded" if verdict.ok else "\n".join(verdict.reasons)
    assert said, f"seed {seed}"


def test_odd_cells_that_decide_nothing_are_kept_and_reported() -> None:
    """A processor's speed that is no number stops nobody; it is written back as it was read."""
    dump = database.read_file(DUMPS["4.0.1"])
    ref, row = next(iter(dump.tables["host_cpu"].rows.items()))
    row.cells["speed"] = "fast"
    pool = MockPool.from_dump(dump)
    assert "table host_cpu: column speed holds no int in 1 rows; kept as it is" in pool.reports
    assert pool.store.dump().tables["host_cpu"].rows[ref].cells["speed"] == "fast"
    row.cells["speed"] = "2000"
    next(iter(dump.tables["VM"].rows.values())).cells["memory__static_max"] = "much"
    with pytest.raises(DatabaseError, match=r"table VM, row .*, column memory__static_max: not a int"):
        MockPool.from_dump(dump)


def test_a_host_whose_memory_is_not_told_is_reported() -> None:
    """Where a dump does not say how much memory a host has, a figure is assumed, and said."""
    dump = database.read_file(DUMPS["4.0.1"])
    next(iter(dump.tables["host"].rows.values())).cells["boot_free_mem"] = "0"
    verdict = rehearse(dump)
    assert verdict.ok, verdict.reasons
    assert [report for report in verdict.reports if "memory is not told; taken as 64 GiB" in report]


def test_a_host_that_was_down_when_the_dump_was_taken_is_an_obstacle() -> None:
    """A host that the dump says was not running is not taken for one that runs."""
    pool = MockPool.create(release="8.2")
    host = pool.host_row(pool.machine("host3"))
    assert host is not None
    pool.store.write(pool.store.get("host_metrics", host["metrics"]), live=False)
    verdict = rehearse(pool.store.dump())
    assert not verdict.ok
    assert "host3 is not running" in verdict.reasons


def test_a_guest_that_runs_on_no_host_is_an_obstacle() -> None:
    """A dump that says a guest runs where no host is does not tell what will happen to it: no verdict of success."""
    dump = database.read_file(DUMPS["4.0.1"])
    vm = next(row for row in dump.tables["VM"].rows.values() if row.cells["name__label"] == "vm0002")
    vm.cells["resident_on"] = "OpaqueRef:gone"
    verdict = rehearse(dump)
    assert not verdict.ok
    assert verdict.reasons == ["VM vm0002: Running on no host of the pool; taken as Halted"]
    assert verdict.steps == []
