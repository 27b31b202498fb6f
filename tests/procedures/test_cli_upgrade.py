"""`xenctl upgrade` as its user meets it: against a pool in another process, killed, resumed, interrupted, refused."""

from __future__ import annotations

import itertools
import json
import os
import random
import re
import resource
import signal
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import processes
import pytest
from processes import TOKEN

KILLS = 4
"""How often a run is killed before it may end."""


@dataclass
class Served:
    """A pool in a process of its own."""

    url: str
    folder: Path

    def arguments(self, *words: str) -> list[str]:
        return ["upgrade", *words]

    def live(self, *words: str) -> list[str]:
        """The command line of a subcommand that reaches the pool and its machine room."""
        return self.arguments(*words, "--server", self.url, "--hands", f"fake:{TOKEN}", "--journal", str(self.journal))

    @property
    def journal(self) -> Path:
        return self.folder / "journal"

    def status(self) -> dict[str, object]:
        done = run(self.arguments("status", "--journal", str(self.journal), "--json"))
        assert done.returncode == 0, done.stderr
        found: dict[str, object] = json.loads(done.stdout)
        return found


def run(words: Sequence[str], *, largest_file: int | None = None) -> processes.Said:
    """What came of a command; with `largest_file` it can write no more than so many bytes into a file."""

    def limit() -> None:
        if largest_file is not None:
            resource.setrlimit(resource.RLIMIT_FSIZE, (largest_file, largest_file))

    return processes.xenctl(*words, before=limit)


@pytest.fixture
def served(tmp_path: Path) -> Iterator[Served]:
    with processes.served("4.0.1", 2, 6) as ready:
        yield Served(ready["url"], tmp_path)


def begun(served: Served, steps: int) -> subprocess.Popen[str]:
    """An upgrade that has done some steps."""
    process = processes.begun(*served.live("run"))
    assert process.stderr is not None
    for line in process.stderr:
        if line.startswith(f"{steps + 1}/"):
            return process
    raise AssertionError("the run ended early")


def test_a_run_that_is_killed_is_resumed(served: Served) -> None:
    """Killed while the master is away, with no warning: another process goes on and finishes."""
    process = begun(served, 11)
    process.kill()
    process.communicate(timeout=20)
    found = served.status()
    assert found["state"] == "running"
    assert str(found["next"]).startswith("install 4.1.0 on host1")
    done = run(served.live("resume", "--json"))
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["state"] == "done"
    assert served.status()["state"] == "done"
    again = run(served.live("resume"))
    assert again.returncode == 2
    assert "this run is done; there is nothing left to do" in again.stderr


def test_a_run_that_is_killed_again_and_again_is_done_in_the_end(served: Served) -> None:
    """With SIGKILL at random moments, each time by the process that resumed after the last."""
    seed = int(os.environ.get("XENCTL_CHAOS_SEED", "5"))
    chance, words, kills = random.Random(seed), "run", 0
    print(f"seed {seed}")  # noqa: T201
    for _ in range(KILLS):
        process = processes.begun(*served.live(words))
        assert process.stderr is not None
        for _line in itertools.islice(process.stderr, chance.randint(1, 6)):
            pass
        with suppress(subprocess.TimeoutExpired):
            process.wait(timeout=chance.random() / 2)
        process.kill()
        process.communicate(timeout=20)
        kills += process.returncode == -signal.SIGKILL
        words = "resume" if served.journal.exists() else "run"
        if process.returncode == 0:
            break
    else:
        done = run(served.live(words))
        assert done.returncode == 0, done.stderr
    assert kills > 1
    found: Any = served.status()
    assert found["state"] == "done"
    assert {host["after"] for host in found["account"]["hosts"]} == {"4.1.0"}
    assert all(vm["state_before"] == vm["state_after"] for vm in found["account"]["vms"])


def test_a_run_is_paused_by_another_process(served: Served) -> None:
    """It stops before the next host with 3 and is resumed; where nobody is at work there is nothing to pause."""
    process = begun(served, 6)
    for _ in range(5):
        process.send_signal(signal.SIGSTOP)  # it is at work for as long as is needed
        asked = run(served.arguments("pause", "--journal", str(served.journal)))
        process.send_signal(signal.SIGCONT)
        if "locked" not in asked.stderr:  # it was held in the middle of a write
            break
    assert asked.returncode == 0, asked.stderr
    assert "will stop before the next host" in asked.stdout
    process.communicate(timeout=120)
    assert process.returncode == 3
    found = served.status()
    assert (found["state"], found["at_work"]) == ("stopped", False)
    assert isinstance(found["left_s"], int)
    assert 0 < found["left_s"] < 7200
    assert str(found["next"]).startswith("begin with host2")
    again = run(served.arguments("pause", "--journal", str(served.journal)))
    assert again.returncode == 2
    assert "no process is at work on this run (it is stopped): nothing to pause" in again.stderr
    shown = run(served.arguments("status", "--journal", str(served.journal)))
    assert " left, by what it took so far; nobody is at work" in shown.stdout
    done = run(served.live("resume", "--approve"))
    assert done.returncode == 3
    assert "host2 is to be approved, and nobody is there to ask" in done.stdout
    assert run(served.live("resume")).returncode == 0


def test_a_full_disk_for_the_journal_is_said(served: Served) -> None:
    """Before the start nothing is changed; on the way the run stops, and goes on when there is room."""
    done = run(served.live("run"), largest_file=0)
    assert done.returncode == 2, done.stderr
    assert "cannot be made" in done.stderr
    assert "see to the disk and to the rights in its folder, or name another file; nothing was begun" in done.stderr
    assert not served.journal.exists()
    done = run(served.live("run"), largest_file=72 << 10)
    assert done.returncode == 3, done.stderr
    assert "cannot be written" in done.stdout
    assert "see to the disk and resume" in done.stdout
    assert served.status()["state"] in ("running", "stopped")
    assert run(served.live("resume")).returncode == 0


def test_an_interrupted_run_ends_with_3_and_can_be_given_up(served: Served) -> None:
    """Ctrl-C before the first host went down; abandoning undoes what was prepared."""
    process = begun(served, 5)
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=60)
    assert process.returncode == 3
    assert served.status()["state"] == "stopped"
    done = run(served.live("abandon", "--json"))
    assert (done.returncode, json.loads(done.stdout)["left"]) == (0, []), done.stdout
    assert served.status()["state"] == "abandoned"


def test_one_run_at_a_time(served: Served) -> None:
    """While a run is at work, a second one with the same journal or with another is refused."""
    process = begun(served, 3)
    process.send_signal(signal.SIGSTOP)  # it is at work for as long as is needed
    try:
        done = run(served.live("resume"))
        assert done.returncode == 2
        assert "is in use: a run with this journal is at work" in done.stderr
        other = Served(served.url, served.folder / "other")
        other.folder.mkdir()
        done = run(other.live("run"))
        assert done.returncode == 1
        assert "is at work on this pool" in done.stderr
    finally:
        process.send_signal(signal.SIGCONT)
        process.communicate(timeout=60)
    assert process.returncode == 0


def test_a_journal_that_is_there_is_not_begun_anew(served: Served) -> None:
    """Whoever gives `run` once more is told how to go on, before the pool is looked at."""
    assert run([*served.live("run"), "--stop-after", "1"]).returncode == 3
    done = run(served.live("run"))
    assert done.returncode == 2
    assert f"{served.journal} exists: go on with that run (xenctl upgrade resume)" in done.stderr


def test_a_lost_run_is_forgotten_and_one_that_was_taken_over_is_not_gone_on_with(served: Served) -> None:
    """By the name that the refusal says; the old journal then needs the pool to be marked again."""
    at = ("--server", served.url)
    assert run([*served.live("run"), "--stop-after", "1"]).returncode == 3
    done = run(served.arguments("adopt", *at, "--journal", str(served.folder / "rest"), "--dry-run"))
    assert done.returncode == 1
    (name,) = set(re.findall(r"xenctl abandon --lost ([\w-]+)", done.stdout + done.stderr))
    for words in (["abandon"], ["abandon", "--lost", name, "--journal", str(served.journal)]):
        done = processes.xenctl(*words, *at)
        assert (done.returncode, "give either --journal FILE" in done.stderr) == (2, True)
    done = processes.xenctl("abandon", "--lost", "another", *at)
    assert (done.returncode, "nothing is changed" in done.stderr) == (1, True)
    done = processes.xenctl("abandon", "--lost", name, *at)
    assert done.returncode == 0, done.stderr
    assert f"{name}: forgotten; nothing was undone" in done.stdout
    assert "see to this: versions are mixed (4.0.1, 4.1.0)" in done.stdout
    done = run(served.live("resume"))
    assert (done.returncode, "somebody else has unmarked it" in done.stdout + done.stderr) == (3, True)
    done = processes.xenctl("take-over", *at, "--journal", str(served.journal))
    assert f"the pool is marked with {name} again; before: with no run" in done.stdout
    assert run(served.live("resume")).returncode == 0


def test_a_plan_is_shown_and_changes_nothing(served: Served) -> None:
    """Steps by number, with their reasons; or one JSON object."""
    done = run(served.arguments("plan", "--server", served.url))
    assert done.returncode == 0, done.stderr
    assert "1  fetch and verify a database backup" in done.stdout
    assert "install 4.1.0 on host1" in done.stdout
    done = run(served.arguments("plan", "--server", served.url, "--to", "5.5", "--json"))
    assert done.returncode == 1
    assert "does not upgrade" in json.loads(done.stdout)["problems"][0]


@pytest.mark.parametrize(
    ("words", "status", "said"),
    [
        (("plan",), 2, "give --server URL, or --rehearse DUMP"),
        (("plan", "--server", "http://127.0.0.1:1"), 2, "cannot be reached"),
        (("run", "--server", "http://127.0.0.1:1"), 2, "give --journal FILE"),
        (("run", "--server", "URL", "--journal", "J", "--hands", "magic"), 2, "is none of operator, plugin:"),
        (
            ("run", "--server", "URL", "--journal", "no/such/folder/j", "--hands", f"fake:{TOKEN}"),
            2,
            "cannot be made: there is no folder no/such/folder; make it, or name another file",
        ),
        (
            ("run", "--server", "URL", "--journal", "J", "--hands", "fake:x"),
            2,
            "refuses the token of --hands fake:TOKEN",
        ),
        (("run", "--server", "URL", "--journal", "J", "--hands", "fake:x", "--to", "9"), 2, "no release is called '9'"),
        (("run", "--server", "URL", "--journal", "J", "--hands", "fake:x", "--to", "5.5"), 1, "cannot be done"),
        (("resume", "--server", "URL", "--journal", "J"), 2, "there is no journal"),
        (("resume", "--rehearse", "x.xml", "--journal", "J"), 2, "there is no run to take up"),
        (("status", "--journal", __file__), 2, "cannot be read: file is not a database"),
    ],
)
def test_bad_input_is_one_sentence(served: Served, words: tuple[str, ...], status: int, said: str) -> None:
    """What is wrong, and nothing changed."""
    place = {"URL": served.url, "J": str(served.journal)}
    done = run(served.arguments(*(place.get(word, word) for word in words)))
    assert done.returncode == status, done.stderr
    assert said in done.stderr
    assert "Traceback" not in done.stderr


def test_a_wrong_password_is_said(served: Served, tmp_path: Path) -> None:
    """Before anything happens."""
    wrong = tmp_path / "password"
    wrong.write_text("wrong\n")
    done = run(served.arguments("plan", "--server", served.url, "--password-file", str(wrong)))
    assert done.returncode == 2
    assert "SESSION_AUTHENTICATION_FAILED" in done.stderr


DATA = Path(__file__).parents[1] / "data"


def test_any_procedure_can_be_rehearsed() -> None:
    """`--rehearse DUMP` runs it on a fake pool; what would fail ends with 1, since there is nothing to resume."""
    words = ("run", "--rehearse", str(DATA / "pool-4.0.1.xml"), "--json", "--accept-downtime")
    done = run(["upgrade", *words])
    assert done.returncode == 0, done.stdout + done.stderr
    found = json.loads(done.stdout)
    assert (found["ok"], found["state"], found["violations"]) == (True, "done", [])
