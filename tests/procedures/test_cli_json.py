"""`--json` of every command: one object on standard output, also where the command is refused."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result
from commands import COMMANDS
from pools import pin

from mockserver import MockPool, PoolServer
from xenctl.cli.commands import cli
from xenctl.procedures.observe import MARK

DUMP = Path(__file__).parents[1] / "data" / "pool-4.0.1.xml"
NOWHERE = "http://127.0.0.1:1"
UUID = "0a1b2c3d-4e5f-4678-9abc-def012345678"

POOL: Mapping[str, tuple[str, ...]] = {
    "upgrade plan": (),
    "upgrade run": ("--journal", "journal"),
    "upgrade adopt": ("--journal", "journal"),
    "upgrade check": (),
    "upgrade revert": ("--dry-run",),
    "plan-path": ("--to", "8.2"),
    "shutdown": ("--journal", "journal"),
    "backup": ("--to", "dump.xml"),
    "restore": (str(DUMP), "--yes", "--journal", "journal"),
    "maintenance enter": ("--host", "host2", "--journal", "journal"),
    "maintenance leave": ("--host", "host2", "--journal", "journal"),
    "rolling-reboot": ("--journal", "journal"),
    "master": ("host2", "--journal", "journal"),
    "update": ("hotfix", "--journal", "journal"),
    "recover members": ("--journal", "journal"),
    "recover vms": ("--host", "host2", "--is-off", "--journal", "journal"),
    "recover member": ("--host", "host2", "--is-off", "--journal", "journal"),
    "reinstall": ("--host", "host2", "--journal", "journal"),
    "rehearse": (),
}
"""The commands that need a pool, and what each is given beside it."""
REFUSED: Mapping[str, tuple[tuple[str, ...], str]] = {
    "upgrade resume": (("--server", NOWHERE, "--journal", "missing"), "missing"),
    "upgrade status": (("--journal", "missing"), "missing"),
    "upgrade pause": (("--journal", "missing"), "missing"),
    "upgrade abandon": (("--server", NOWHERE, "--journal", "missing"), "missing"),
    "upgrade take-over": (("--server", NOWHERE, "--journal", "missing"), "missing"),
    "status": (("--journal", "missing"), "missing"),
    "pause": (("--journal", "missing"), "missing"),
    "abandon": (("--server", NOWHERE, "--journal", "missing"), "missing"),
    "take-over": (("--server", NOWHERE, "--journal", "missing"), "missing"),
    "start-again": (("--server", NOWHERE, "--journal", "missing"), "missing"),
    "answer-file": (("--release", "9.9"), "no release is called '9.9'"),
    "recover master": (("--server", NOWHERE, "--new", "127.0.0.1", "--backup", "missing"), "missing"),
    "recover status": (("--server", "ftp://x"), "not a host's URL"),
    **{name: (("--server", NOWHERE, *words), "127.0.0.1:1") for name, words in POOL.items()},
}
"""Every command with something that it cannot use, and what it says of it."""
PLANNED = {name: words for name, words in POOL.items() if "journal" in words}
"""The commands that plan before they run."""


def run(*words: str, word: str = "secret") -> Result:
    """The command, with the password `word`."""
    return CliRunner().invoke(cli, [*words], env={"XENCTL_PASSWORD": word})


def object_of(done: Result) -> dict[str, Any]:
    """The one object on standard output, that of a refusal, whose sentence is on standard error too."""
    assert done.stdout.count("\n") == 1, done.output
    found: dict[str, Any] = json.loads(done.stdout)
    assert (found["ok"], found["status"]) == (False, done.exit_code)
    assert {"error", "problems", "findings", "failure"} <= set(found)
    assert found["error"] in done.stderr
    return found


@pytest.fixture(autouse=True)
def _folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Files are looked for, and would be made, here; an update is there."""
    monkeypatch.chdir(tmp_path)
    Path("hotfix").write_bytes(f'<patch uuid="{UUID}" name-label="Hotfix1"/>'.encode().ljust(9000))


@pytest.fixture
def url() -> Iterator[str]:
    """A pool that is marked with another run."""
    pool = MockPool.create(hosts=3, vms=3, release="5.0")
    pool.store.write(pool.store.pool(), other_config={MARK: "another"})
    server = PoolServer(pool)
    server.start()
    yield server.url
    server.stop()


def test_every_command_is_in_the_table() -> None:
    """And each takes `--json`."""
    assert set(REFUSED) == set(COMMANDS)
    for name, command in COMMANDS.items():
        assert any("--json" in parameter.opts for parameter in command.params), name


@pytest.mark.parametrize("name", sorted(REFUSED))
def test_what_cannot_be_used_is_an_object(name: str) -> None:
    """An unreachable pool, a file that is not there: status 2."""
    words, said = REFUSED[name]
    done = run(*name.split(), *words, "--json")
    assert done.exit_code == 2
    assert said in object_of(done)["error"]


@pytest.mark.parametrize("name", sorted(COMMANDS))
def test_what_is_not_understood_is_an_object(name: str) -> None:
    """An option that there is not, on either side of `--json`."""
    for words in (("--json", "--nonsense"), ("--nonsense", "--json")):
        done = run(*name.split(), *words)
        assert done.exit_code == 2
        assert "--nonsense" in object_of(done)["error"]


@pytest.mark.parametrize("name", sorted(POOL))
def test_a_wrong_password_is_an_object_with_the_code(name: str, url: str) -> None:
    """XenAPI's code and its parameters are apart from the sentence."""
    done = run(*name.split(), *POOL[name], "--server", url, "--json", word="wrong")
    assert done.exit_code == 2
    assert object_of(done)["failure"][0] == "SESSION_AUTHENTICATION_FAILED"


@pytest.mark.parametrize("name", sorted(PLANNED))
def test_what_cannot_be_done_is_the_plan_with_its_problems(name: str, url: str) -> None:
    """With status 1, and no steps; there is no journal."""
    done = run(*name.split(), *PLANNED[name], "--server", url, "--json")
    assert done.exit_code == 1, done.output
    found = object_of(done)
    assert any("another" in problem for problem in found["problems"])
    assert (found["pool_name"], found["steps"]) == ("pool", [])
    assert all(problem in done.stderr for problem in found["problems"])
    assert not Path("journal").exists()


def test_what_nobody_agreed_to_is_the_plan_with_what_it_asks_for() -> None:
    """The plan has no problem of its own: `problems` is what has to be agreed to."""
    pool = MockPool.create(hosts=2, vms=2, release="5.0")
    pin(pool, "vm01", "host1")
    pool.save("dump.xml")
    done = run("upgrade", "run", "--rehearse", "dump.xml", "--json")
    assert done.exit_code == 1, done.output
    found = object_of(done)
    assert found["error"] == "this upgrade shuts guests down; say that you accept the downtime"
    assert found["problems"] == ["vm01: it has a disk on storage that only its host reaches (Local storage on host1)"]
    assert found["steps"]


def test_a_restore_that_nobody_agreed_to_is_an_object(url: str) -> None:
    """Before the pool is asked for anything."""
    done = run("restore", str(DUMP), "--server", url, "--json")
    assert done.exit_code == 1
    assert "give --yes" in object_of(done)["error"]


def test_a_refusal_without_json_is_a_sentence_alone() -> None:
    """Nothing is on standard output."""
    done = run("upgrade", "plan", "--server", NOWHERE)
    assert (done.exit_code, done.stdout) == (2, "")
