"""What commands share that run in steps: hands of a fake pool over sockets, gates, and giving up, for any procedure."""

from __future__ import annotations

import json
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from processes import TOKEN, begun, served, xenctl

from xenctl.session import connect

Room = tuple[str, ...]


@pytest.fixture
def pool(tmp_path: Path) -> Iterator[dict[str, Any]]:
    with served("6.2", 3, 6) as ready:
        yield ready


@pytest.fixture
def live(pool: dict[str, Any]) -> Room:
    """The words that reach the pool and its machine room; when every host is off the control port answers."""
    return "--server", pool["url"], "--hands", f"fake:{TOKEN}@{pool['control']}"


def look(pool: dict[str, Any], question: Callable[[Any], Any]) -> Any:
    with connect(pool["url"], "root", "secret") as session:
        return question(session)


def in_service(session: Any) -> tuple[list[bool], int, bool]:
    """Whether hosts are enabled, how many guests run, whether the pool is marked."""
    hosts, vms = session.host.get_all_records().values(), session.VM.get_all_records().values()
    (record,) = session.pool.get_all_records().values()
    up = sum(vm.power_state == "Running" and not vm.is_control_domain for vm in vms)
    return [host.enabled for host in hosts], up, "xenctl-run" in record.other_config


def killed(words: Room, at: str) -> None:
    """Run a command until it says that it begins with a step, and kill it there."""
    process = begun(*words)
    assert process.stderr is not None
    for line in process.stderr:
        if at in line:
            break
    else:
        raise AssertionError(f"it never came to {at!r}")
    process.send_signal(signal.SIGKILL)
    process.communicate(timeout=20)


def test_a_rolling_reboot_is_fast_on_a_fake_pool_killed_and_gone_on_with(
    pool: dict[str, Any], live: Room, tmp_path: Path
) -> None:
    """The clock of a fake pool runs fast: with its machine room for hands it is looked at often."""
    words = ("rolling-reboot", *live, "--stuck", "suspend", "--journal", str(tmp_path / "j"))
    before, began = look(pool, in_service), time.monotonic()
    killed(words, "reboot host2")
    done = xenctl(*words, "--json")
    assert done.returncode == 0, done.stdout + done.stderr
    assert json.loads(done.stdout)["ok"]
    assert time.monotonic() - began < 60, "fifteen seconds for each look would be minutes"
    assert look(pool, in_service) == before


def test_hosts_are_begun_only_where_gates_let_them(pool: dict[str, Any], live: Room, tmp_path: Path) -> None:
    """As with an upgrade: after so many hosts, in a window, by approval; the journal goes on."""
    words = ("rolling-reboot", *live, "--stuck", "suspend", "--journal", str(tmp_path / "j"))
    done = xenctl(*words, "--stop-after", "host1")
    assert done.returncode == 3, done.stdout + done.stderr
    assert "paused: step" in done.stdout and "host1 is done, as asked" in done.stdout
    done = xenctl(*words, "--approve")
    assert done.returncode == 3
    assert "host2 is to be approved, and nobody is there to ask" in done.stdout
    done = xenctl("status", "--journal", str(tmp_path / "j"))
    assert "rolling reboot" in done.stdout and "next: begin with host2" in done.stdout
    done = xenctl(*words)
    assert done.returncode == 0, done.stdout + done.stderr


def test_a_run_is_paused_from_outside(pool: dict[str, Any], live: Room, tmp_path: Path) -> None:
    """Between two hosts; a journal that nobody runs, or without turns, is told apart."""
    journal = str(tmp_path / "j")
    process = begun("rolling-reboot", *live, "--stuck", "suspend", "--journal", journal)
    assert process.stderr is not None
    for line in process.stderr:
        if "disable host1" in line:
            break
    process.send_signal(signal.SIGSTOP)  # on a busy machine it would be done before the other command has begun
    done = xenctl("pause", "--journal", journal)
    process.send_signal(signal.SIGCONT)
    assert (done.returncode, "will stop before the next host" in done.stdout) == (0, True), done.stderr
    process.communicate(timeout=60)
    assert process.returncode == 3
    done = xenctl("pause", "--journal", journal)
    assert done.returncode == 2
    assert "no process is at work on this run (it is stopped): nothing to pause" in done.stderr


@pytest.mark.parametrize(
    ("words", "at"),
    [
        (("rolling-reboot", "--stuck", "suspend"), "reboot host1"),
        (("maintenance", "enter", "--host", "host2"), "unmark"),
        (("reinstall", "--host", "host2", "--policy", "hard"), "install 6.2.0 again"),
    ],
)
def test_a_run_that_was_killed_is_abandoned(
    pool: dict[str, Any], live: Room, tmp_path: Path, words: Room, at: str
) -> None:
    """One command for every procedure: hosts are up and enabled, guests run, the mark is gone; then there is no way on."""
    journal, before = ("--journal", str(tmp_path / "j")), look(pool, in_service)
    killed((*words, *live, *journal), at)
    deadline = time.monotonic() + 60
    while (done := xenctl("abandon", *live, *journal)).returncode == 3 and time.monotonic() < deadline:
        assert "not undone: " in done.stdout
        assert "not all undone; abandon it again later" in done.stdout
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.endswith(": abandoned\n")
    assert look(pool, in_service) == before
    done = xenctl("upgrade", "abandon", *live, *journal)
    assert (done.returncode, "this run is abandoned; there is nothing left to do" in done.stderr) == (2, True)
    done = xenctl(*words, *live, *journal)
    assert (done.returncode, "this run is abandoned; there is nothing left to do" in done.stderr) == (2, True)


def test_the_journal_of_another_procedure_is_not_resumed_as_an_upgrade(
    pool: dict[str, Any], live: Room, tmp_path: Path
) -> None:
    """It says what to do instead."""
    journal = ("--journal", str(tmp_path / "j"))
    killed(("maintenance", "enter", "--host", "host2", *live, *journal), "unmark")
    done = xenctl("upgrade", "resume", *live, *journal)
    assert done.returncode == 2
    assert "is the journal of another procedure (entering of maintenance mode): give the command that began it" in (
        done.stderr
    )


@pytest.mark.parametrize(
    "words",
    [
        ("rolling-reboot",),
        ("update", "x.patch"),
        ("maintenance", "enter", "--host", "host2"),
        ("maintenance", "leave", "--host", "host2"),
        ("master", "host2"),
        ("recover", "members"),
        ("shutdown",),
        ("restore", "x"),
    ],
)
@pytest.mark.parametrize("hands", ["operator", "plugin:http://a/b", "magic"])
def test_who_installs_is_not_asked_where_nothing_is_installed(words: Room, hands: str) -> None:
    """Only the room of a fake pool means anything there."""
    done = xenctl(*words, "--server", "http://127.0.0.1:1", "--hands", hands, "--journal", "nowhere/j")
    assert done.returncode == 2
    assert "nothing is installed here, so nobody's hands are needed" in " ".join(done.stderr.split())


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("abandon", "--journal", "nowhere", "--server", "http://127.0.0.1:1"), "there is no journal"),
        (("abandon", "--journal", __file__, "--server", "http://127.0.0.1:1"), "file is not a database"),
        (("abandon", "--journal", "nowhere", "--rehearse", "x"), "the pool of a rehearsal ends with its process"),
        (("pause", "--journal", "nowhere"), "there is no journal"),
        (("rolling-reboot", "--window", "9-5", "--server", "http://127.0.0.1:1", "--journal", "x"), "HH:MM-HH:MM"),
        (("update", "x", "--settle", "-1", "--server", "http://127.0.0.1:1", "--journal", "x"), "not in the range"),
    ],
)
def test_bad_input_is_one_sentence(words: Room, said: str) -> None:
    """What is wrong, and nothing changed."""
    done = xenctl(*words)
    assert done.returncode == 2, done.stdout + done.stderr
    assert said in done.stderr
    assert "Traceback" not in done.stderr
