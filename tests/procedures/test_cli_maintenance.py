"""`xenctl maintenance`, `rolling-reboot`, `master` and `update` as their user meets them: a pool in another process."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import processes
import pytest
from processes import TOKEN

import xenctl

DATA = Path(__file__).parents[1] / "data"
UUID = "0a1b2c3d-4e5f-4678-9abc-def012345678"


def run(*words: str) -> processes.Said:
    return processes.xenctl(*words, columns=140)


@pytest.fixture
def url() -> Iterator[str]:
    with processes.served("6.2", 3, 6) as ready:
        yield str(ready["url"])


def ask(url: str, question: Callable[[Any], Any]) -> Any:
    with xenctl.connect(url, "root", "secret") as session:
        return question(session)


def host(session: Any, name: str) -> Any:
    (ref,) = session.host.get_by_name_label(name)
    return session.host.get_record(ref)


def test_a_host_is_emptied_and_taken_into_service_again(url: str, tmp_path: Path) -> None:
    """Two commands, the second without the first one's journal."""
    live = ("--server", url, "--hands", f"fake:{TOKEN}", "--host", "host2")
    done = run("maintenance", "enter", *live, "--journal", str(tmp_path / "in"), "--json")
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert (found["ok"], found["state"], found["procedure"]) == (True, "done", "entering of maintenance mode")
    assert ask(url, lambda s: (host(s, "host2").enabled, len(host(s, "host2").resident_VMs))) == (False, 1)
    done = run("maintenance", "leave", *live, "--journal", str(tmp_path / "out"))
    assert done.returncode == 0, done.stderr
    assert "leaving of maintenance mode done" in done.stdout
    assert ask(url, lambda s: host(s, "host2").enabled)


def test_a_plan_is_shown_and_nothing_changed(url: str) -> None:
    """With `--dry-run`, step by step; the status says whether it can be done."""
    done = run("maintenance", "enter", "--server", url, "--host", "host1", "--dry-run")
    assert done.returncode == 0, done.stderr
    assert "disable host1" in done.stdout and "note on host1 what belongs there" in done.stdout
    assert "host1 is the master and stays it" in done.stdout
    done = run("rolling-reboot", "--server", url, "--hosts", "host2,host3", "--dry-run", "--json")
    assert [s["action"] for s in json.loads(done.stdout)["steps"]].count("reboot") == 2
    assert ask(url, lambda s: [h.enabled for h in s.host.get_all_records().values()]) == [True] * 3


def test_the_master_is_changed(url: str, tmp_path: Path) -> None:
    """And the pool answers at the new one."""
    done = run("master", "host3", "--server", url, "--hands", f"fake:{TOKEN}", "--journal", str(tmp_path / "j"))
    assert done.returncode == 0, done.stdout + done.stderr
    assert "change of the master done" in done.stdout


def test_an_update_is_applied_from_its_file(url: str, tmp_path: Path) -> None:
    """In one command; a second time there is nothing to do, which is told."""
    file = tmp_path / "hotfix"
    file.write_bytes(f'<patch uuid="{UUID}" name-label="Hotfix1"/>'.encode().ljust(9000))
    done = run("update", str(file), "--server", url, "--hands", f"fake:{TOKEN}", "--journal", str(tmp_path / "j"))
    assert done.returncode == 0, done.stdout + done.stderr
    assert ask(url, lambda s: len([p for p in s.host_patch.get_all_records().values() if p.applied])) == 3
    done = run("update", UUID, "--server", url, "--journal", str(tmp_path / "k"))
    assert done.returncode == 1
    assert "Hotfix1 is on host1, host2, host3 already" in done.stderr


@pytest.mark.parametrize(
    ("words", "status", "said"),
    [
        (("maintenance", "enter", "--host", "host2", "--server", "URL"), 2, "give --journal FILE"),
        (
            ("maintenance", "enter", "--host", "host9", "--server", "URL", "--journal", "J"),
            2,
            "no host is called 'host9'",
        ),
        (("maintenance", "enter", "--server", "URL", "--journal", "J"), 2, "Missing option '--host'"),
        (("master", "host1", "--server", "http://127.0.0.1:1", "--journal", "J"), 2, "cannot be reached"),
        (("maintenance", "leave", "--host", "host2", "--server", "URL", "--journal", "J"), 1, "nothing is noted"),
        (
            ("maintenance", "leave", "--host", "a", "--entered", "N", "--server", "URL", "--journal", "J"),
            2,
            "no journal",
        ),
        (("rolling-reboot", "--hosts", "host1,,", "--server", "URL", "--journal", "J"), 2, "has an empty name"),
        (("rolling-reboot", "--stuck", "drop", "--server", "URL", "--journal", "J"), 2, "'drop' is not one of"),
        (("master", "host1", "--server", "URL", "--journal", "J"), 1, "host1 is the master already"),
        (("update", "N", "--server", "URL", "--journal", "J"), 2, "No such file"),
        (("update", UUID, "--sync", "--server", "URL", "--journal", "J"), 2, "give FILE or UUID, or --sync"),
        (("update", "--sync", "--keep", "--server", "URL", "--journal", "J"), 2, "--keep is for an update's file"),
        (("update", "--sync", "--server", "URL", "--journal", "J"), 1, "has no repositories"),
        (("update", UUID, "--server", "URL", "--journal", "J"), 2, "the pool has no update"),
        (("update", "N", "--dry-run", "--server", "URL"), 2, "give the UUID of an update"),
        (("rolling-reboot", "--server", "URL", "--journal", "T"), 2, "file is not a database"),
    ],
)
def test_bad_input_is_one_sentence(url: str, tmp_path: Path, words: tuple[str, ...], status: int, said: str) -> None:
    """What is wrong, and nothing changed."""
    place = {"URL": url, "J": str(tmp_path / "journal"), "N": str(tmp_path / "nothing"), "T": str(tmp_path / "text")}
    (tmp_path / "text").write_text("no journal, but a text that somebody keeps here\n" * 40)
    done = run(*(place.get(word, word) for word in words))
    assert done.returncode == status, done.stdout + done.stderr
    assert said in done.stderr
    assert "Traceback" not in done.stderr


def test_each_can_be_rehearsed() -> None:
    """On a fake pool that is loaded from a dump; what would fail ends with 1."""
    dump = str(DATA / "pool-4.0.1.xml")
    done = run("rolling-reboot", "--rehearse", dump, "--stuck", "shut-down", "--json")
    assert done.returncode == 0, done.stdout + done.stderr
    assert json.loads(done.stdout)["violations"] == []
    done = run("master", "host2", "--rehearse", dump)
    assert done.returncode in (1, 2)
    assert "Traceback" not in done.stderr
