"""`xenctl upgrade check` and `upgrade run --fix` as their user meets them."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import processes
import pytest
from processes import TOKEN

from mockserver import MockPool
from xenctl import database
from xenctl.session import Session, connect

DATA = Path(__file__).parents[1] / "data"


def run(*words: str) -> processes.Said:
    return processes.xenctl("upgrade", *words, columns=200)


@pytest.fixture
def url() -> Iterator[str]:
    """A pool in a process of its own: 7.1, with high availability and automatic power-on."""
    with processes.served("7.1", 2, 4) as ready:
        with on(ready["url"]) as session:
            session.pool.enable_ha([], {})
            session.pool.add_to_other_config(session.pool.get_all()[0], "auto_poweron", "true")
        yield ready["url"]


def on(url: str) -> Session:
    return connect(url, "root", "secret")


def pool_record(url: str) -> Any:
    with on(url) as session:
        (record,) = session.pool.get_all_records().values()
        return record


def test_what_blocks_is_told_with_the_way_to_mend_it(url: str) -> None:
    """Exit status 1; the same as data; and nothing is changed."""
    done = run("check", "--server", url)
    assert done.returncode == 1, done.stderr
    assert "blocks ha: high availability is on" in done.stdout
    assert "2 of them block the upgrade" in done.stdout
    assert "Traceback" not in done.stderr
    told = json.loads(run("check", "--server", url, "--json").stdout)
    blocking = [finding for finding in told["findings"] if finding["level"] == "blocks"]
    assert (told["ok"], told["from"], told["to"], told["mended"]) == (False, "7.1.0", "7.2.0", [])
    assert [(finding["check"], finding["mendable"]) for finding in blocking] == [("ha", True), ("auto-power-on", True)]
    assert blocking[0]["unmend"][0]["action"] == "ha-again"
    assert pool_record(url).ha_enabled


def test_a_pool_is_mended_and_taken_back(url: str, tmp_path: Path) -> None:
    """With a journal that remembers; the second command takes back what the first has mended."""
    live = ("--server", url, "--hands", f"fake:{TOKEN}", "--journal", str(tmp_path / "journal"))
    done = run("check", "--fix", *live)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "mended: switch high availability off" in done.stdout
    assert not pool_record(url).ha_enabled
    assert "auto_poweron" not in pool_record(url).other_config
    done = run("abandon", *live, "--json")
    assert (done.returncode, json.loads(done.stdout)["left"]) == (0, []), done.stdout + done.stderr
    assert pool_record(url).ha_enabled
    assert pool_record(url).other_config["auto_poweron"] == "true"
    again = run("check", "--fix", *live)
    assert (again.returncode, "this run is abandoned" in again.stderr) == (2, True), again.stderr


def test_a_run_mends_and_compares(url: str, tmp_path: Path) -> None:
    """Without --fix it refuses and says that --fix mends; with it the outcome has the comparison."""
    live = ("--server", url, "--hands", f"fake:{TOKEN}", "--journal", str(tmp_path / "journal"))
    done = run("run", *live)
    assert done.returncode == 1
    assert "ha, auto-power-on: --fix mends that and takes it back at the end" in done.stdout
    done = run("run", "--fix", *live, "--json")
    assert done.returncode == 0, done.stdout + done.stderr
    comparison = json.loads(done.stdout)["comparison"]
    assert comparison["versions"][0] == {"host": "host1", "before": "7.1.0", "after": "7.2.0"}
    assert comparison["differences"] == []
    assert pool_record(url).ha_enabled


def test_a_dump_is_checked_without_a_pool(tmp_path: Path) -> None:
    """`--rehearse DUMP`: 0 where nothing blocks; mending needs no journal there."""
    done = run("check", "--rehearse", str(DATA / "pool-4.0.1.xml"))
    assert done.returncode == 0, done.stderr
    assert "none of them blocks the upgrade" in done.stdout
    pool = MockPool.create(release="5.6", hosts=2, vms=4)
    pool.store.write(pool.store.pool(), other_config={"auto_poweron": "true"})
    path = tmp_path / "pool.xml"
    path.write_bytes(database.write(pool.store.dump()))
    done = run("check", "--fix", "--rehearse", str(path), "--json")
    told = json.loads(done.stdout)
    assert (done.returncode, told["ok"]) == (0, True), done.stderr
    assert told["mended"] == ["switch the pool's automatic power-on off"]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("check",), "give --server URL, or --rehearse DUMP"),
        (("check", "--server", "http://127.0.0.1:1", "--fix"), "give --journal FILE: it remembers how to take back"),
        (("check", "--server", "http://127.0.0.1:1", "--journal", "j"), "--journal FILE is for --fix"),
        (("check", "--server", "http://127.0.0.1:1"), "cannot be reached"),
        (("check", "--rehearse", "no-such.xml"), "cannot be read"),
        (("check", "--rehearse", str(DATA / "pool-4.0.1.xml"), "--to", "9"), "no release is called '9'"),
    ],
)
def test_bad_input_is_one_sentence(words: tuple[str, ...], said: str) -> None:
    """With exit status 2, and nothing changed."""
    done = run(*words)
    assert done.returncode == 2, done.stderr
    assert said in done.stderr
    assert "Traceback" not in done.stderr
