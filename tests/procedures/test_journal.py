"""The journal: what is kept is kept, one run has it at a time, and what is wrong with it is one sentence."""

from __future__ import annotations

import os
import sqlite3
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from xenctl.errors import ProcedureError
from xenctl.procedures.journal import Journal, JournalError
from xenctl.procedures.plan import Plan, PlannedHost, PlannedVM, Step

PLAN = Plan(
    pool="p",
    pool_name="pool",
    source="4.0.1",
    target="4.1.0",
    medium="XenServer 4.1.0",
    hosts=(PlannedHost("h1", "host1", "4.0.1"),),
    vms=(PlannedVM("v1", "vm01", "Running", "h1", planned_downtime=False),),
    steps=(Step("backup"), Step("turn", host="h1"), Step("migrate", host="h1", vm="v1", to="h2", args={"why": "x"})),
    master="h1",
)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "journal"


def test_a_plan_comes_back_as_it_went_in(path: Path) -> None:
    """Plan, state and values survive the process; the file is its owner's alone."""
    with Journal.create(PLAN, path) as journal:
        journal.put("options", {"a": 1})
        journal.enter("running")
        run = journal.run_id
    with Journal.open(path) as journal:
        assert journal.plan == PLAN
        assert (journal.state, journal.run_id, journal.get("options")) == ("running", run, {"a": 1})
        assert journal.get("nothing", 7) == 7
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_the_last_finished_step_is_where_a_run_goes_on(path: Path) -> None:
    """Intents and failures do not count, steps that held do."""
    with Journal.create(PLAN, path) as journal:
        assert journal.finished() == 0
        journal.write(1, "intent")
        assert journal.finished() == 0
        journal.write(1, "done")
        journal.write(2, "held")
        journal.write(3, "failed", "no")
        assert journal.finished() == 2
        assert [(entry.number, entry.phase) for entry in journal.entries()][-1] == (3, "failed")


def test_another_plan_begins_at_its_first_step(path: Path) -> None:
    """What was done for the old plan stays in the log, and counts for nothing in the new one."""
    with Journal.create(PLAN, path) as journal:
        journal.write(1, "done", "backup")
        journal.replan(Plan(**{**vars(PLAN), "steps": PLAN.steps[1:]}))
        assert journal.finished() == 0
        assert len(journal.plan.steps) == 2
        assert [entry.text for entry in journal.entries()] == ["backup"]


def test_what_is_to_be_undone_is_noted_once(path: Path) -> None:
    """A change that is made again after a kill is still one change."""
    with Journal.create(PLAN, path) as journal:
        undo = Step("insert", vm="v1", vbd="b", vdi="d")
        journal.changed(undo)
        journal.changed(undo)
        (change,) = journal.changes()
        assert (change.undo, change.undone) == (undo, False)
        journal.undone(change)
    with Journal.open(path) as journal:
        assert [change.undone for change in journal.changes()] == [True]


def test_every_write_is_on_the_disk(path: Path) -> None:
    """A process that is killed right after a write has written it."""
    program = (
        "import os, sys; from xenctl.procedures.journal import Journal\n"
        "j = Journal.open(sys.argv[1], to_run=True); j.write(1, 'done', 'x'); os._exit(9)"
    )
    Journal.create(PLAN, path).close()
    assert subprocess.run([sys.executable, "-c", program, str(path)], check=False).returncode == 9
    with Journal.open(path, to_run=True) as journal:
        assert journal.finished() == 1
        assert journal._db.execute("PRAGMA synchronous").fetchone() == (2,)


def test_one_run_at_a_time(path: Path) -> None:
    """A second run is refused while the first is at work; reading is not."""
    with Journal.create(PLAN, path) as first:
        with pytest.raises(JournalError, match="is in use: a run with this journal is at work"):
            Journal.open(path, to_run=True)
        with Journal.open(path) as reader:
            assert reader.state == first.state
    Journal.open(path, to_run=True).close()


def test_a_file_that_is_there_is_not_overwritten(path: Path) -> None:
    """Neither a journal nor anything else."""
    path.write_text("precious")
    with pytest.raises(JournalError, match="exists: resume or abandon that run"):
        Journal.create(PLAN, path)
    assert path.read_text() == "precious"


@pytest.mark.parametrize("kind", ["text", "database", "layout", "missing", "folder"])
def test_what_is_no_journal_is_said(path: Path, kind: str) -> None:
    """Text, another program's database, another layout, nothing at all."""
    if kind == "text":
        path.write_text("hello " * 200)
    elif kind == "folder":
        path.mkdir()
    elif kind != "missing":
        db = sqlite3.connect(path)
        db.execute(f"PRAGMA application_id={0x78656E63 if kind == 'layout' else 5}")
        db.execute("PRAGMA user_version=99")
        db.execute("CREATE TABLE t (x)")
        db.commit()
        db.close()
    said = {
        "text": "cannot be read: file is not a database; see whether it is the journal of a run",
        "database": "is no journal of a run",
        "layout": "is of layout 99, and this program knows 2",
        "missing": "there is no journal; name that of a run",
        "folder": "this is no file, so no journal; name that of a run",
    }
    with pytest.raises(ProcedureError, match=said[kind]):
        Journal.open(path)
    with pytest.raises(ProcedureError, match=said[kind]):
        Journal.open(path, to_run=True)
    assert not path.with_name("journal-lock").exists()


def test_a_full_disk_is_said(path: Path) -> None:
    """A write that the disk refuses ends in one sentence, and what was written before is whole."""
    with Journal.create(PLAN, path) as journal:
        journal.write(1, "done")
        pages = journal._db.execute("PRAGMA page_count").fetchone()[0]
        journal._db.execute(f"PRAGMA max_page_count={pages}")
        with pytest.raises(JournalError, match="cannot be written: database or disk is full"):
            journal.note("x" * 100_000)
    with Journal.open(path) as journal:
        assert journal.finished() == 1


def test_a_place_where_nothing_can_be_written_is_said(tmp_path: Path) -> None:
    """Before anything is changed in the pool."""
    path = tmp_path / "no" / "folder" / "journal"
    with pytest.raises(JournalError) as told:
        Journal.create(PLAN, path)
    assert str(told.value) == (
        f"the journal {path} cannot be made: there is no folder {path.parent}; make it, or name another file"
    )
    if os.geteuid():
        tmp_path.chmod(0o500)
        with pytest.raises(JournalError, match=r"cannot be made: .*; see to the disk and to the rights in its folder"):
            Journal.create(PLAN, tmp_path / "journal")
