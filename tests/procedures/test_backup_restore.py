"""Backups in a folder, what a restore would change, and the restore; other backups; the commands."""

from __future__ import annotations

import json
import stat
import subprocess
import sys
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import pytest
from chaos import Fate, Killed, kills, mortal
from pools import RELEASES, reach, row

from mockserver import MockPool
from mockserver.machine.disks import damage
from xenctl import database
from xenctl.errors import DatabaseError, ProcedureError
from xenctl.procedures import backup, restore, shutdown
from xenctl.procedures.journal import Journal
from xenctl.procedures.observe import observe
from xenctl.procedures.running import Run


def made(release: str = "8.2", **what: Any) -> MockPool:
    return MockPool.create(**{"hosts": 2, "vms": 6, "release": release, **what})


def all_down(pool: MockPool) -> None:
    plan = shutdown.plan(reach(pool))
    assert Run(reach(pool), plan, pool.hands, Journal.create(plan)).carry_out().ok


@pytest.mark.parametrize("release", RELEASES)
def test_every_persistent_table_is_counted(release: str) -> None:
    """Each class that survives a restart and can be asked; the dump of each release agrees with its pool."""
    pool = made(release)
    taken = backup.take(reach(pool))
    counted = backup.counted(reach(pool), taken.database)
    assert {"host", "VM", "SR", "VDI", "VBD", "PBD", "VIF", "network", "pool"} <= set(counted)
    assert not {"session", "task", "event"} & set(counted)


def test_a_row_that_is_missing_from_a_small_table_is_noticed() -> None:
    """Not only hosts and VMs count."""
    pool = made()
    dump = database.read(backup.fetch(reach(pool)))
    dump.tables["PIF"].rows.popitem()
    with pytest.raises(DatabaseError, match="take it again") as caught:
        backup.verify(reach(pool), dump)
    assert caught.value.table == "PIF"


def test_a_backup_is_taken_again_where_the_pool_changed_meanwhile() -> None:
    """A network that is made between the dump and the counting is no reason to give up."""
    pool = made()
    session, made_one = reach(pool), []

    class Busy(Fate):
        def meets(self, what: str, deed: Any) -> Any:
            answer = deed()
            if what.startswith("/pool/xmldbdump") and not made_one:
                made_one.append(
                    pool.dispatch("network.create", [_login(pool), {"name_label": "new", "other_config": {}}])
                )
            return answer

    session = reach(pool, Busy())
    taken = backup.take(session)
    assert made_one[0] in taken.database.tables["network"].rows


def _login(pool: MockPool) -> str:
    return str(pool.dispatch("session.login_with_password", [pool.username, pool.password]))


def test_the_oldest_go_once_the_new_one_is_there(tmp_path: Path) -> None:
    """Names sort by age; another pool's files and anything else stay."""
    pool = made()
    dump = database.read(backup.fetch(reach(pool)))
    uuid = pool.store.pool()["uuid"]
    old = [tmp_path / backup.name_for(dump, datetime(2020, 1, day, tzinfo=timezone.utc)) for day in (1, 2, 3)]
    others = [tmp_path / f"{'0' * 36}-20200101T000000Z.xml", tmp_path / "notes.txt", tmp_path / f"{uuid}.xml"]
    for path in (*old, *others):
        path.write_text("x")
    taken, dropped = backup.take_into(reach(pool), tmp_path, keep=2)
    assert sorted(dropped) == old[:2]
    assert taken.path is not None
    assert set(tmp_path.iterdir()) == {Path(taken.path), old[2], *others}
    assert stat.S_IMODE(Path(taken.path).stat().st_mode) == 0o600
    with pytest.raises(ValueError, match="keep is how many backups stay"):
        backup.take_into(reach(pool), tmp_path, keep=0)
    with pytest.raises(ValueError, match="is no folder"):
        backup.take_into(reach(pool), tmp_path / "none")


def test_nothing_is_dropped_where_no_backup_was_made(tmp_path: Path) -> None:
    """A pool of mixed versions sends a stub: the old backups stay."""
    pool = made("4.0.1")
    dump = database.read(backup.fetch(reach(pool)))
    old = tmp_path / backup.name_for(dump, datetime(2020, 1, 1, tzinfo=timezone.utc))
    old.write_text("x")
    pool.store.write(pool.store.pool(), other_config={"rolling_upgrade_in_progress": "true"})
    with pytest.raises(DatabaseError, match="mixed"):
        backup.take_into(reach(pool), tmp_path, keep=1)
    assert list(tmp_path.iterdir()) == [old]


@pytest.mark.parametrize("release", ["4.0.1", "5.6", "8.2"])
def test_what_is_shared_has_no_secrets(release: str) -> None:
    """Neither in rows nor in the manifest of old releases."""
    pool = made(release)
    data = backup.fetch(reach(pool))
    shown = backup.shareable(data)
    assert database.differences(database.read(shown), database.redact(database.read(data))) == []
    token = database.read(data).manifest.get("pool_token")
    assert token is None or token.encode() not in shown


def saved(pool: MockPool, path: Path) -> Path:
    backup.take(reach(pool), path)
    return path


def test_a_preview_names_what_would_change(tmp_path: Path) -> None:
    """Hosts that fall out, guests made and removed since, guests that run."""
    pool = made()
    path = saved(pool, tmp_path / "dump.xml")
    session = reach(pool)
    session.VM.set_name_label(session.VM.clone(row(pool, "VM", "vm04").ref, "x"), "young")
    session.VM.destroy(row(pool, "VM", "vm04").ref)
    seen = backup.preview(session, database.read_file(path))
    assert (seen.dropped, seen.lost, seen.back) == (("host2",), ("young",), ("vm04",))
    assert set(seen.halted) == {vm.name for vm in observe(session).vms.values() if vm.state == "Running"}
    assert seen.live_generation > seen.generation
    assert seen.rows["VM"]["new"] == 1
    assert json.dumps(seen.as_dict())


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        ("pool", "the dump is of another pool"),
        ("schema", "it has schema 4.99, and the master knows"),
        ("version", "it was taken under 8.1.0, and the master runs 8.2.0: go back to 8.1.0 first"),
        ("running", "runs: shut it down first, or it could be run twice"),
        ("mixed", "versions are mixed"),
    ],
)
def test_a_dump_that_must_not_be_restored_is_refused(tmp_path: Path, spoil: str, said: str) -> None:
    """By us, whatever the server would do; nothing is changed."""
    pool = made()
    if spoil not in ("running", "mixed"):
        all_down(pool)
    dump = database.read(backup.fetch(reach(pool)))
    cells = next(iter(dump.rows("pool"))).cells
    if spoil == "pool":
        cells["uuid"] = "0" * 36
    elif spoil == "schema":
        dump.manifest.update(schema_major_vsn="4", schema_minor_vsn="99")
    elif spoil == "version":
        host = dump.row("host", dump.master).cells
        told = {**database.parse_map(host["software_version"]), "product_version": "8.1.0"}
        host["software_version"] = database.write_map(told)
    elif spoil == "mixed":
        pool.store.write(pool.store.pool(), other_config={"rolling_upgrade_in_progress": "true"})
    path = tmp_path / "dump.xml"
    database.write_file(database.write(dump), path)
    if spoil == "mixed":
        with pytest.raises(DatabaseError, match="mixed"):
            restore.plan(reach(pool), path)
        return
    plan, _ = restore.plan(reach(pool), path)
    assert plan.steps == ()
    assert any(said in problem for problem in plan.problems), plan.problems


def restored(pool: MockPool, path: Path) -> Journal:
    plan, _ = restore.plan(reach(pool), path)
    assert plan.problems == ()
    journal = Journal.create(plan)
    outcome = Run(reach(pool), plan, pool.hands, journal).carry_out()
    assert outcome.problems == []
    return journal


@pytest.mark.parametrize("release", RELEASES)
def test_a_restore_brings_the_database_of_the_dump_back(tmp_path: Path, release: str) -> None:
    """Guests made since are gone, guests removed since are back, the master is alone, and no disk was touched."""
    pool = made(release)
    all_down(pool)
    path = saved(pool, tmp_path / "dump.xml")
    session = reach(pool)
    session.VM.set_name_label(session.VM.clone(row(pool, "VM", "vm04").ref, "x"), "young")
    session.VM.set_name_label(row(pool, "VM", "vm01").ref, "renamed")
    restored(pool, path)
    facts = observe(reach(pool))
    assert {host.name for host in facts.hosts.values()} == {"host1"}
    names = {vm.name for vm in facts.vms.values()}
    assert "young" not in names
    assert "vm01" in names
    assert facts.mark == ""
    assert all(list(damage(guest, pool.disks)) == [] for guest in pool.guests.values())


def test_storage_that_was_not_plugged_before_is_not_waited_for(tmp_path: Path) -> None:
    """The plan of a restore names the PBDs that are unplugged, as every plan does: the master returns without them."""
    pool = made()
    path = saved(pool, tmp_path / "dump.xml")
    away = next(ref for ref, pbd in pool.store.table("PBD").items() if pbd["host"] == row(pool, "host", "host1").ref)
    pool.store.write(pool.store.find("PBD", away), currently_attached=False)
    plan, _ = restore.plan(reach(pool), path)
    assert plan.unplugged == (away,)


def test_the_file_must_be_the_one_that_was_planned_with(tmp_path: Path) -> None:
    """A dump that was exchanged meanwhile is not restored."""
    pool = made()
    all_down(pool)
    path = saved(pool, tmp_path / "dump.xml")
    plan, _ = restore.plan(reach(pool), path)
    path.write_bytes(path.read_bytes() + b"\n")
    outcome = Run(reach(pool), plan, pool.hands, Journal.create(plan)).carry_out()
    assert "is not the file that this restore was planned with" in outcome.problems[0]
    path.unlink()
    outcome = Run(reach(pool), plan, pool.hands, Journal.create(plan), take_over=True).carry_out()
    assert "cannot be read" in outcome.problems[0]


@pytest.mark.chaos
def test_killed_anywhere_it_is_restored_once(tmp_path: Path) -> None:
    """Before and after every call and every write of the journal, a sample of them."""

    def prepared(number: int) -> tuple[MockPool, Path]:
        pool = made("5.0")
        all_down(pool)
        return pool, saved(pool, tmp_path / f"{number}.xml")

    fate = Fate()
    pool, path = prepared(0)
    plan, _ = restore.plan(reach(pool), path)
    assert Run(reach(pool, fate), plan, pool.hands, mortal(Journal.create(plan), fate)).carry_out().ok
    final = observe(reach(pool))
    for number, after in kills(fate.points, 10, seed=1):
        pool, path = prepared(number)
        plan, _ = restore.plan(reach(pool), path)
        at, mortal_fate = tmp_path / f"{number}{after}", Fate(number, after)
        with Journal.create(plan, at) as journal, pytest.raises(Killed):
            Run(reach(pool, mortal_fate), plan, pool.hands, mortal(journal, mortal_fate)).carry_out()
        with Journal.open(at, to_run=True) as journal:
            outcome = Run(reach(pool), journal.plan, pool.hands, journal).carry_out()
        assert outcome.problems == [], (number, after)
        assert observe(reach(pool)) == final


def test_a_hosts_control_domain_and_the_records_of_vms_are_kept(tmp_path: Path) -> None:
    """Each in a file of its own that is its owner's alone."""
    pool = made()
    assert backup.take_host(reach(pool), "host2", tmp_path / "host.tgz") > 0
    assert backup.take_metadata(reach(pool), tmp_path / "vms.xva") > 0
    for name in ("host.tgz", "vms.xva"):
        assert stat.S_IMODE((tmp_path / name).stat().st_mode) == 0o600
    with pytest.raises(ValueError, match="no host is called 'x'"):
        backup.take_host(reach(pool), "x", tmp_path / "other")
    assert not (tmp_path / "other").exists()


def test_another_releases_dump_is_refused_with_every_reason(tmp_path: Path) -> None:
    """A 4.0.1 pool's dump on 5.0: pool, schema and version are all told."""
    path = saved(made("4.0.1"), tmp_path / "dump.xml")
    with pytest.raises(ProcedureError) as caught:
        backup.preview(reach(made("5.0", seed=3)), database.read_file(path))
    assert len(caught.value.reasons) >= 3


DATA = Path(__file__).parents[1] / "data" / "pool-4.0.1.xml"


def xenctl(*words: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "xenctl", *words]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False, stdin=subprocess.DEVNULL)


def test_the_commands_tell_what_they_did(tmp_path: Path) -> None:
    """A rehearsed backup, proven and shared; a restore that is shown."""
    path, shown = tmp_path / "b.xml", tmp_path / "shown.xml"
    done = xenctl(
        *("backup", "--rehearse", str(DATA), "--to", str(path), "--prove", "--shareable", str(shown), "--json")
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert (found["verified"], found["proved"], found["path"]) == (True, True, str(path))
    assert shown.exists()
    done = xenctl("restore", str(path), "--rehearse", str(DATA), "--dry-run")
    assert done.returncode == 1
    assert "runs: shut it down first" in done.stdout


@pytest.mark.parametrize(
    ("words", "status", "said"),
    [
        (("backup", "--rehearse", str(DATA)), 2, "give --to FILE or --folder DIR"),
        (
            ("backup", "--rehearse", str(DATA), "--to", "/nowhere/x/y"),
            2,
            "there is no folder /nowhere/x: make it first",
        ),
        (("backup", "--rehearse", str(DATA), "--to", "x", "--keep", "2"), 2, "--keep goes with --folder"),
        (("restore", "none.xml", "--rehearse", str(DATA), "--dry-run"), 2, "none.xml"),
        (("restore", __file__, "--rehearse", str(DATA), "--dry-run"), 2, "not XML"),
        (("restore", str(DATA), "--server", "http://127.0.0.1:1", "--journal", "j"), 1, "give --yes once"),
    ],
)
def test_bad_input_is_one_sentence(words: tuple[str, ...], status: int, said: str) -> None:
    """And nothing is written."""
    done = xenctl(*words)
    assert done.returncode == status, done.stdout + done.stderr
    assert said in done.stderr
    assert "Traceback" not in done.stderr
