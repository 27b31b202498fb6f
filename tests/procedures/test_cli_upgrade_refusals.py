"""What `xenctl upgrade` is given and cannot use: one sentence, what to do, the right exit status, and nothing changed."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from places import Place

from mockserver import MockPool
from xenctl.cli.commands import cli
from xenctl.procedures import rolling_upgrade
from xenctl.procedures.gates import StopAfter
from xenctl.procedures.journal import Journal
from xenctl.procedures.observe import MARK
from xenctl.session import connect


def half_done(pool: MockPool) -> None:
    """Only the master is upgraded, and the journal is lost."""
    with connect(pool.url, pool.username, pool.password, transport=pool.transport()) as session:
        plan = rolling_upgrade.plan(session)
        assert rolling_upgrade.run(session, plan, pool.hands, gates=[StopAfter("1")]).paused
        session.pool.remove_from_other_config(next(iter(session.pool.get_all())), MARK)


def as_it_is(pool: MockPool) -> None:
    pass


@pytest.mark.parametrize(
    ("hosts", "change", "words", "said"),
    [
        (
            2,
            as_it_is,
            ("--to", "4.1"),
            "XenServer 4.1.0 is older than the pool's XenServer 5.0.0: an upgrade only goes forward",
        ),
        (2, as_it_is, ("--to", "5.0"), "the pool runs XenServer 5.0.0 already"),
        (2, as_it_is, ("--to", "6.2"), "installer does not upgrade XenServer 5.0.0; go by way of 5.5.0"),
        (1, as_it_is, (), "the pool has one host: there is nowhere for its guests to run meanwhile"),
        (2, half_done, ("--to", "5.5"), "an earlier upgrade was not finished; adopt it, or revert it"),
    ],
)
def test_what_cannot_be_ends_with_1(
    place: Place, hosts: int, change: Callable[[MockPool], None], words: tuple[str, ...], said: str
) -> None:
    """It was understood; nothing was changed, and there is no journal."""
    pool = MockPool.create(hosts=hosts, vms=4, release="5.0")
    change(pool)
    url, before = place.serve(pool), dict(pool.store.pool()["other_config"])
    done = place.upgrade("run", url, *words)
    assert done.exit_code == 1, done.output
    assert done.output.count(said) == 1
    assert pool.store.pool()["other_config"] == before
    assert not list(place.folder.iterdir()) or [path.name for path in place.folder.iterdir()] == ["journal-lock"]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--window", "22-6"), "window: '22-6' is not of the form HH:MM-HH:MM"),
        (("--stop-after", "host9"), "stop-after: 'host9' is neither a number nor a host of the plan (host1, host2)"),
        (("--stop-after", "0"), "stop-after: 0 hosts are none"),
        (("--timeout", "storage"), "--timeout 'storage' is not STAGE=SECONDS, such as storage=600"),
        (("--timeout", "coffee=60"), "the stage one of reachable, version, attached, enabled, live, storage"),
        (("--settle", "-1"), "-1.0 is not in the range x>=0"),
        (("--on-drift", "pray"), "'pray' is not one of 'stop', 'replan'"),
        (("--vm", "vm01=eat"), "is not NAME=POLICY, the policy one of migrate, suspend, shut-down, leave"),
        (("--vm", "nobody=suspend"), "policies of guests: nobody: no guest is called so"),
        (("--vms", "/no/such/file"), "No such file or directory"),
    ],
)
def test_what_is_not_understood_ends_with_2(place: Place, words: tuple[str, ...], said: str) -> None:
    """In one sentence, before anything is changed."""
    pool = MockPool.create(hosts=2, vms=4, release="5.0")
    done = place.upgrade("run", place.serve(pool), *words)
    assert done.exit_code == 2, done.output
    assert said in done.output
    assert MARK not in pool.store.pool()["other_config"]
    assert not (place.folder / "journal").exists()


def test_a_journal_of_another_procedure_or_of_nothing_is_refused(place: Place) -> None:
    """Text, and a run that is over."""
    pool = MockPool.create(hosts=2, vms=4, release="5.0")
    url = place.serve(pool)
    (place.folder / "text").write_text("hello " * 100)
    assert place.upgrade("resume", url, journal="text").exit_code == 2
    assert place.upgrade("run", url).exit_code == 0
    again = place.upgrade("resume", url)
    assert again.exit_code == 2
    assert "this run is done; there is nothing left to do" in again.output


def test_options_of_the_run_are_kept_for_the_next_process(place: Place) -> None:
    """What is not said on `resume` is as it was; the gates are this process's alone."""
    pool = MockPool.create(hosts=2, vms=4, release="5.0")
    url = place.serve(pool)
    words = ("--on-drift", "replan", "--timeout", "storage=600", "--stop-after", "host1", "--json")
    done = place.upgrade("run", url, *words)
    assert done.exit_code == 3, done.output
    assert "host1 is done, as asked" in json.loads(done.stdout)["paused"]
    with Journal.open(place.folder / "journal") as journal:
        kept = {"on_drift": "replan", "on_fallen": "restart", "timeouts": {"storage": 600.0}}
        assert journal.get("policy") == kept
    done = place.upgrade("resume", url, "--on-fallen", "report")
    assert done.exit_code == 0, done.output
    with Journal.open(place.folder / "journal") as journal:
        assert journal.get("policy") == {**kept, "on_fallen": "report"}


def test_a_rehearsed_run_watches_the_upgrade(tmp_path: Path) -> None:
    """The same plan and run as on a live pool, on a fake one; gates, too, and what would stop ends with 1."""
    made = MockPool.create(hosts=2, vms=4, release="5.0")
    made.save(tmp_path / "dump.xml")
    runner: Any = CliRunner()
    words = ("upgrade", "run", "--rehearse", str(tmp_path / "dump.xml"))
    done = runner.invoke(cli, [*words, "--json"])
    assert done.exit_code == 0, done.output
    found = json.loads(done.stdout)
    assert found["violations"] == []
    verdict = json.loads(runner.invoke(cli, ["rehearse", str(tmp_path / "dump.xml"), "--json"]).stdout)
    assert [step["text"] for step in verdict["steps"]] == [step["text"] for step in found["steps"]]
    assert found["account"]["migrations"] == sum(vm["migrations"] for vm in verdict["vms"])
    done = runner.invoke(cli, [*words, "--stop-after", "1"])
    assert done.exit_code == 1
    assert "it would stop after" in done.output
