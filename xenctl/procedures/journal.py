"""The journal of a run: what the pool itself cannot tell, kept so that a run can be killed anywhere and go on.

One SQLite file a run, written with `synchronous=FULL`: the plan with its baseline (homes and power states of guests), each
step's intent before its act and its end after it, what preparation changed and how to undo it, the backup's digest. A run
that goes on observes the pool again; nothing is replayed from here.

Who runs a journal holds a lock beside it (`FILE-lock`), which the system drops when the process dies. Reading needs none.
"""

from __future__ import annotations

import json
import os
import sqlite3
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..errors import ProcedureError
from .plan import Plan, Step

MAGIC = 0x78656E63
"""SQLite's `application_id` of a journal: `xenc`."""
LAYOUT = 2
TABLES = """
CREATE TABLE kept (name TEXT PRIMARY KEY, value TEXT NOT NULL);
CREATE TABLE log (number INTEGER NOT NULL, phase TEXT NOT NULL, at REAL NOT NULL, text TEXT NOT NULL);
CREATE TABLE change (id INTEGER PRIMARY KEY, undo TEXT NOT NULL, undone INTEGER NOT NULL DEFAULT 0);
CREATE TABLE timing (step TEXT NOT NULL, began REAL NOT NULL, ended REAL NOT NULL);
CREATE TABLE shown (vm TEXT NOT NULL, state TEXT NOT NULL, at REAL NOT NULL);
"""
PLANNED, RUNNING, STOPPED, DONE, ABANDONED = "planned", "running", "stopped", "done", "abandoned"
"""The states of a run."""
VERSIONS = "versions"
"""What is kept of hosts that are back: their product versions now, by uuid."""
PAUSE = "pause"
"""What is kept while a run is asked to pause: why."""
NOT_BEGUN = "see to the disk and to the rights in its folder, or name another file; nothing was begun"
NO_JOURNAL = "see whether it is the journal of a run, and whether its folder can be written"
FULL = "see to the disk and resume"
"""What to do about a file that cannot be used, by what it was needed for."""


class JournalError(ProcedureError):
    """A journal that cannot be used; says which, why, and what to do."""

    bad_input = True


@dataclass(frozen=True)
class Entry:
    """One line of the log. `number` is that of the step, from 1, or 0; `phase` is `intent`, `done`, `held` (it was so
    already), `failed` or `note`; `at` is in seconds of the run's clock."""

    number: int
    phase: str
    at: float
    text: str


@dataclass(frozen=True)
class Change:
    """What preparation changed, told by the step that undoes it."""

    id: int
    undo: Step
    undone: bool


@dataclass(frozen=True)
class Timing:
    """A step that had to be done, whose effect shows: from its first intent to the look that showed it, in seconds of the
    run's clock. Steps that were passed over have none."""

    step: Step
    began: float
    ended: float

    @property
    def took(self) -> float:
        """How long it took, in seconds."""
        return self.ended - self.began


class Journal:
    """A run's journal, opened by `create` or `open`. Without a path it is kept in memory, for rehearsals."""

    def __init__(self, connection: sqlite3.Connection, path: Path | None, lock: sqlite3.Connection | None) -> None:
        self._db, self.path, self._lock = connection, path, lock
        self.now: Any = lambda: 0.0

    @classmethod
    def create(cls, plan: Plan, path: str | os.PathLike[str] | None = None) -> Journal:
        """A new journal for `plan`. Raises `JournalError` where there is a file already, or none can be written."""
        where = None if path is None else Path(path)
        if where is not None and where.exists():
            raise JournalError(f"{where} exists: resume or abandon that run, or name another file for a new one")
        if where is not None and not where.parent.is_dir():
            raise JournalError(
                f"the journal {where} cannot be made: there is no folder {where.parent}; make it, or name another file"
            )
        with _told(where, "cannot be made", NOT_BEGUN):
            lock = _locked(where)
            aside = None if where is None else where.with_name(f"{where.name}-new")
            try:
                made = _fill(aside, plan)
                if aside is None or where is None:
                    return cls(made, None, None)
                os.replace(aside, where)  # a process that dies before leaves no journal, after it a whole one
                return cls(_connect(where), where, lock)
            except BaseException:
                if lock is not None:
                    lock.close()
                if aside is not None:
                    aside.unlink(missing_ok=True)
                raise

    @classmethod
    def open(cls, path: str | os.PathLike[str], *, to_run: bool = False) -> Journal:
        """The journal at `path`; `to_run` takes its lock. Raises `JournalError` for what is none, or is run by somebody."""
        where = Path(path)
        if not where.is_file():
            what = "this is no file, so no journal" if where.exists() else "there is no journal"
            raise JournalError(f"{where}: {what}; name that of a run, which it makes when it begins")
        with _told(where, "cannot be read", NO_JOURNAL):
            db = _connect(where)
            try:
                _assert_known(db, where)
                return cls(db, where, _locked(where) if to_run else None)
            except BaseException:
                db.close()
                raise

    def close(self) -> None:
        """Let the journal and its lock go."""
        self._db.close()
        if self._lock is not None:
            self._lock.close()

    def __enter__(self) -> Journal:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    # --- what is kept

    def put(self, name: str, value: Any) -> None:
        """Keep a value of JSON's types under `name`."""
        with self._writing() as db:
            _keep(db, {name: value})

    def get(self, name: str, default: Any = None) -> Any:
        """What is kept under `name`."""
        found = self._db.execute("SELECT value FROM kept WHERE name=?", (name,)).fetchone()
        return default if found is None else json.loads(found[0])

    @property
    def run_id(self) -> str:
        """The name of the run, by which the pool is marked."""
        return str(self.get("run"))

    @property
    def state(self) -> str:
        """`planned`, `running`, `stopped`, `done` or `abandoned`. A run that was killed still says `running`."""
        return str(self.get("state"))

    @property
    def plan(self) -> Plan:
        return Plan.from_dict(self.get("plan"))

    @property
    def first_plan(self) -> Plan:
        """The plan that the run began with; `plan` is another one after a `replan`."""
        return Plan.from_dict(self.get("first plan"))

    @property
    def at_work(self) -> bool:
        """Whether a process is running this journal now."""
        if self.path is None or self._lock is not None:
            return self._lock is not None
        try:
            lock = _locked(self.path)
        except JournalError:
            return True
        if lock is not None:
            lock.close()
        return False

    def enter(self, state: str) -> None:
        """Change the state of the run."""
        self.put("state", state)

    def replan(self, plan: Plan) -> None:
        """Go on with another plan: what was done belongs to the old one, which is kept under `earlier`, and stays in the
        log."""
        earlier = [*self.get("earlier", ()), self.get("plan")]
        with self._writing() as db:
            _keep(db, {"earlier": earlier, "plan": plan.as_dict()})
            db.execute("UPDATE log SET number=0 WHERE number > 0")

    def give_way(self, run_id: str) -> None:
        """End this run for good: the run `run_id` takes back what it did."""
        self.note(f"taken back by {run_id}")
        self.enter(ABANDONED)

    # --- the log

    def write(self, number: int, phase: str, text: str = "") -> None:
        """Add an entry: on the disk when this returns."""
        with self._writing() as db:
            db.execute("INSERT INTO log VALUES (?, ?, ?, ?)", (number, phase, self.now(), text))

    def end(self, number: int, step: Step, text: str, *, shows: Mapping[str, str]) -> None:
        """Write down that a step's effect shows, with how long it took where it was ever begun, and the power states of
        guests, by uuid, that it has changed."""
        now = self.now()
        with self._writing() as db:
            query = "SELECT min(at) FROM log WHERE number=? AND phase='intent'"
            (began,) = db.execute(query, (number,)).fetchone()
            if began is not None:
                db.execute("INSERT INTO timing VALUES (?, ?, ?)", (json.dumps(step.as_dict()), began, now))
                db.executemany("INSERT INTO shown VALUES (?, ?, ?)", [(vm, state, now) for vm, state in shows.items()])
            phase = "held" if began is None else "done"
            db.execute("INSERT INTO log VALUES (?, ?, ?, ?)", (number, phase, now, text))

    def timings(self) -> list[Timing]:
        """What had to be done so far, also under earlier plans of the run, in order."""
        rows = self._db.execute("SELECT step, began, ended FROM timing ORDER BY rowid")
        return [Timing(Step(**json.loads(step)), began, ended) for step, began, ended in rows]

    # --- power states

    def saw(self, states: Mapping[str, str]) -> None:
        """Note the power states of guests, by uuid, as XenAPI shows them now; what was so at the last look is not noted."""
        last = {vm: state for vm, state, _ in self.shown()}
        changed = [(vm, state, self.now()) for vm, state in states.items() if last.get(vm) != state]
        if changed:
            with self._writing() as db:
                db.executemany("INSERT INTO shown VALUES (?, ?, ?)", changed)

    def shown(self) -> list[tuple[str, str, float]]:
        """Guests, the power states that they came to be shown in, and when, oldest first."""
        return list(self._db.execute("SELECT vm, state, at FROM shown ORDER BY rowid"))

    def note(self, text: str) -> None:
        """Add a remark."""
        self.write(0, "note", text)

    def entries(self) -> list[Entry]:
        """The log, oldest first."""
        return [Entry(*row) for row in self._db.execute("SELECT number, phase, at, text FROM log ORDER BY rowid")]

    def rewind(self, number: int) -> None:
        """Take the steps from `number` on for not done: what they brought about was taken back."""
        with self._writing() as db:
            db.execute("UPDATE log SET number=0 WHERE number >= ?", (number,))

    def acted(self) -> bool:
        """Whether any step was begun, under whatever plan."""
        return self._db.execute("SELECT 1 FROM log WHERE phase='intent' LIMIT 1").fetchone() is not None

    def finished(self) -> int:
        """The number of the last step that was done, 0 for none."""
        query = "SELECT max(number) FROM log WHERE phase IN ('done', 'held')"
        return int(self._db.execute(query).fetchone()[0] or 0)

    # --- what is to be undone

    def changed(self, undo: Step) -> None:
        """Note, before it happens, that something is being changed that `undo` undoes. The same is noted once."""
        if undo not in [change.undo for change in self.changes()]:
            with self._writing() as db:
                db.execute("INSERT INTO change (undo) VALUES (?)", (json.dumps(undo.as_dict()),))

    def undone(self, change: Change) -> None:
        """Note that a change was undone."""
        with self._writing() as db:
            db.execute("UPDATE change SET undone=1 WHERE id=?", (change.id,))

    def changes(self) -> list[Change]:
        """What was changed, in the order in which it was."""
        rows = self._db.execute("SELECT id, undo, undone FROM change ORDER BY id")
        return [Change(number, Step(**json.loads(undo)), bool(undone)) for number, undo, undone in rows]

    @contextmanager
    def _writing(self) -> Iterator[sqlite3.Connection]:
        with _told(self.path, "cannot be written", FULL), self._db:
            yield self._db


def _fill(path: Path | None, plan: Plan) -> sqlite3.Connection:
    """A new journal's database; closed where it is a file, which is not yet in its place."""
    if path is not None:
        path.unlink(missing_ok=True)
        os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600))
    db = _connect(path)
    values = {
        "run": f"{plan.procedure.replace(' ', '-')}-{uuid.uuid4().hex[:12]}",
        "state": PLANNED,
        "plan": plan.as_dict(),
        "first plan": plan.as_dict(),
    }
    try:
        db.executescript(f"PRAGMA application_id={MAGIC}; PRAGMA user_version={LAYOUT};{TABLES}")
        with db:
            _keep(db, values)
    except BaseException:
        db.close()
        raise
    if path is not None:
        db.close()
    return db


def _keep(db: sqlite3.Connection, values: Mapping[str, Any]) -> None:
    written = [(name, json.dumps(value)) for name, value in values.items()]
    db.executemany("INSERT OR REPLACE INTO kept VALUES (?, ?)", written)


def _assert_known(db: sqlite3.Connection, path: Path) -> None:
    """Raise `JournalError` for a database that is no journal, or one of another layout."""
    kind, layout = (db.execute(f"PRAGMA {name}").fetchone()[0] for name in ("application_id", "user_version"))
    if kind != MAGIC or layout != LAYOUT:
        what = "no journal of a run" if kind != MAGIC else f"of layout {layout}, and this program knows {LAYOUT}"
        raise JournalError(f"{path} is {what}")


def _connect(path: Path | None) -> sqlite3.Connection:
    db = sqlite3.connect(":memory:" if path is None else path, timeout=10.0)
    db.execute("PRAGMA synchronous=FULL")
    return db


def _locked(path: Path | None) -> sqlite3.Connection | None:
    """A lock that lasts as long as the process."""
    if path is None:
        return None
    lock = sqlite3.connect(f"{path}-lock", timeout=0.0, isolation_level=None)
    try:
        lock.execute("BEGIN EXCLUSIVE")
    except sqlite3.OperationalError as error:
        lock.close()
        if "locked" not in str(error):
            raise
        raise JournalError(f"{path} is in use: a run with this journal is at work") from None
    return lock


@contextmanager
def _told(path: Path | None, what: str, advice: str) -> Iterator[None]:
    try:
        yield
    except (sqlite3.Error, OSError) as error:
        raise JournalError(f"the journal {path or 'in memory'} {what}: {error}; {advice}") from error
