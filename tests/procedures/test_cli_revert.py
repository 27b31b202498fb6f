"""`xenctl upgrade revert` as its user meets it: rehearsed, against a pool in another process, killed, resumed, refused."""

from __future__ import annotations

import json
import signal
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import processes
import pytest
from processes import TOKEN

from mockserver import MockPool
from xenctl.procedures import revert
from xenctl.procedures.before import of_pool
from xenctl.procedures.journal import Journal
from xenctl.procedures.observe import observe
from xenctl.session import connect

DATA = Path(__file__).parents[1] / "data" / "pool-4.0.1.xml"


def run(*words: str) -> processes.Said:
    return processes.xenctl("upgrade", *words)


@dataclass
class Served:
    """A pool in a process of its own, and the journal of its upgrade."""

    url: str
    journal: Path

    def live(self, *words: str) -> tuple[str, ...]:
        return (*words, "--server", self.url, "--hands", f"fake:{TOKEN}", "--journal", str(self.journal))


@pytest.fixture
def served(tmp_path: Path) -> Iterator[Served]:
    with processes.served("4.0.1", 2, 6) as ready:
        yield Served(ready["url"], tmp_path / "run")


def test_an_upgrade_is_taken_back_over_sockets_killed_and_resumed(served: Served) -> None:
    """The revert's journal lies beside that of the upgrade; downtime has to be agreed to first; the same command goes on."""
    done = run(*served.live("run"))
    assert done.returncode == 0, done.stderr
    done = run(*served.live("revert", "--dry-run"))
    assert done.returncode == 0, done.stderr
    assert "restore 4.0.1 on host1 from its backup partition" in done.stdout
    assert "point of no return: once host1 is restored" in done.stdout
    done = run(*served.live("revert"))
    assert done.returncode == 1
    assert "say that you accept the downtime" in done.stderr
    process = processes.begun("upgrade", *served.live("revert", "--accept-downtime"))
    assert process.stderr is not None
    for line in process.stderr:
        if "restore 4.0.1 on host1" in line:
            break
    process.send_signal(signal.SIGKILL)
    process.communicate(timeout=20)
    done = run(*served.live("revert", "--json"))
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert (found["ok"], found["procedure"], found["journal"]) == (True, "revert", f"{served.journal}.revert")
    done = run(*served.live("resume"))
    assert done.returncode == 2
    assert "this run is abandoned; there is nothing left to do" in done.stderr
    done = run(*served.live("revert"))
    assert done.returncode == 2
    assert "this run is done; there is nothing left to do" in done.stderr


def test_a_journal_that_was_never_begun_is_told_from_one_that_stopped(tmp_path: Path) -> None:
    """Its process died while it was made; nothing had been changed."""
    pool = MockPool.create(hosts=2, vms=0, release="6.2")
    session = connect(pool.url, pool.username, pool.password, transport=pool.transport())
    made = revert.plan(session, of_pool(observe(session), "6.2"))
    Journal.create(made, tmp_path / "journal").close()
    done = run("revert", "--revert-journal", str(tmp_path / "journal"), "--server", "http://127.0.0.1:1")
    assert done.returncode == 2
    assert "was made and never begun: nothing was changed; delete it and begin again" in done.stderr


@pytest.mark.parametrize(("after", "agreed"), [("0", ()), ("1", ("--accept-downtime",)), ("2", ("--accept-downtime",))])
def test_a_revert_can_be_rehearsed(after: str, agreed: tuple[str, ...]) -> None:
    """An upgrade of so many hosts is run on a fake pool, and taken back."""
    done = run("revert", "--rehearse", str(DATA), "--after", after, "--json", *agreed)
    assert done.returncode == 0, done.stdout + done.stderr
    found = json.loads(done.stdout)
    assert (found["ok"], found["state"], found["violations"]) == (True, "done", [])
    assert [step["action"] for step in found["steps"]].count("restore-host") == int(after)


@pytest.mark.parametrize(
    ("words", "status", "said"),
    [
        (("revert",), 2, "give --journal RUN, or --revert-journal FILE"),
        (("revert", "--dry-run"), 2, "give --server URL, or --rehearse DUMP"),
        (("revert", "--after", "1", "--journal", "J"), 2, "--after is for a rehearsal"),
        (("revert", "--after", "-1", "--rehearse", str(DATA)), 2, "is not in the range"),
        (("revert", "--journal", "J", "--server", "http://127.0.0.1:1"), 2, "there is no journal"),
        (("revert", "--journal", __file__, "--server", "http://127.0.0.1:1"), 2, "cannot be read"),
        (("revert", "--revert-journal", "J", "--server", "http://127.0.0.1:1"), 2, "cannot be reached"),
        (("revert", "--revert-journal", "J", "--server", "URL"), 1, "the pool does not say what it ran before"),
        (("revert", "--revert-journal", "J", "--server", "URL", "--to", "3.1"), 2, "no release is called '3.1'"),
        (("revert", "--revert-journal", __file__, "--server", "URL"), 2, "file is not a database"),
        (("revert", "--revert-journal", "J", "--server", "URL", "--timeout", "0"), 2, "a number of seconds above 0"),
        (("revert", "--rehearse", str(DATA)), 1, "say that you accept the downtime"),
    ],
)
def test_bad_input_is_one_sentence(served: Served, words: tuple[str, ...], status: int, said: str) -> None:
    """What is wrong, and nothing changed."""
    place = {"URL": served.url, "J": str(served.journal)}
    if "--timeout" in words:
        words = (*words, "--to", "4.0.1", "--hands", "fake:x")
    done = run(*(place.get(word, word) for word in words))
    assert done.returncode == status, done.stderr
    assert said in done.stderr
    assert "Traceback" not in done.stderr
