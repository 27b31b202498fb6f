"""`--stay`: an upgrade without going home, on every command that plans one, in the run, and in its resume."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from pools import memory, row, unharmed

from mockserver import MockPool, PoolServer
from xenctl.cli.commands import cli
from xenctl.procedures import rolling_upgrade
from xenctl.procedures.gates import StopAfter
from xenctl.procedures.journal import Journal
from xenctl.procedures.observe import MARK
from xenctl.session import connect

DUMP = str(Path(__file__).parents[1] / "data" / "pool-4.0.1.xml")
TOKEN = "s3cr3t"


def run(*words: str, ends: int = 0) -> Any:
    """What the command prints as JSON."""
    done = CliRunner().invoke(cli, [*words, "--json"], env={"XENCTL_PASSWORD": "secret"})
    assert done.exit_code == ends, done.output
    return json.loads(done.stdout)


@pytest.fixture
def pool() -> MockPool:
    """Three hosts with room, whose guests all run."""
    made = MockPool.create(hosts=3, vms=9, release="6.2")
    memory(made, 64 << 30)
    return made


@pytest.fixture
def live(pool: MockPool) -> Iterator[tuple[str, ...]]:
    """The options that reach the pool and its machines."""
    with PoolServer(pool, control=TOKEN) as server:
        yield ("--server", server.url, "--hands", f"fake:{TOKEN}")


def homes(pool: MockPool) -> dict[str, str]:
    """Where each guest is that runs."""
    vms = (
        vm for vm in pool.store.table("VM").values() if vm["power_state"] == "Running" and not vm["is_control_domain"]
    )
    return {vm["name_label"]: vm["resident_on"] for vm in vms}


def migrations(steps: list[dict[str, Any]]) -> int:
    return sum(step["action"] == "migrate" for step in steps)


def test_a_plan_that_stays_takes_fewer_migrations() -> None:
    """And says so, with the bound of that."""
    home, stay = (run("upgrade", "plan", "--rehearse", DUMP, *words) for words in ((), ("--stay",)))
    assert (home["effort"]["return_home"], stay["effort"]["return_home"]) == (True, False)
    assert migrations(stay["steps"]) == stay["effort"]["moves"] < home["effort"]["moves"] == migrations(home["steps"])


def test_a_rehearsal_that_stays_takes_fewer_migrations() -> None:
    """What is rehearsed is the plan that is run."""
    home, stay = (run("rehearse", DUMP, *words) for words in ((), ("--stay",)))
    assert migrations(stay["steps"]) < migrations(home["steps"])
    assert stay["violations"] == []
    assert all(vm["home"] is not False for vm in home["vms"])
    assert any(vm["home"] is False for vm in stay["vms"])


def test_a_run_that_stays_is_resumed_and_planned_anew_so(pool: MockPool, live: tuple[str, ...], tmp_path: Path) -> None:
    """The option is not given again."""
    before, journal = homes(pool), ("--journal", str(tmp_path / "journal"))
    run("upgrade", "run", "--stay", "--stop-after", "1", *live, *journal, ends=3)
    done = run("upgrade", "resume", "--replan", *live, *journal)
    with Journal.open(tmp_path / "journal") as kept:
        assert kept.plan.effort is not None
        assert kept.plan.effort.return_home is False
        assert kept.first_plan.effort is not None
        assert done["account"]["migrations"] == kept.first_plan.effort.moves
    assert homes(pool).keys() == before.keys()
    assert homes(pool) != before
    assert unharmed(pool)


def test_what_is_adopted_stays_too(pool: MockPool, live: tuple[str, ...], tmp_path: Path) -> None:
    """The rest of an upgrade that somebody left half done."""
    with connect(pool.url, pool.username, pool.password, transport=pool.transport()) as session:
        begun = rolling_upgrade.plan(session)
        assert rolling_upgrade.run(session, begun, pool.hands, gates=[StopAfter("1")]).paused
        session.pool.remove_from_other_config(next(iter(session.pool.get_all())), MARK)
    words = ("upgrade", "adopt", "--dry-run", *live, "--journal", str(tmp_path / "journal"))
    home, stay = run(*words), run(*words, "--stay")
    assert stay["effort"]["return_home"] is False
    assert stay["effort"]["moves"] < home["effort"]["moves"]


def test_a_check_for_an_upgrade_that_stays_misses_no_homes(pool: MockPool, live: tuple[str, ...]) -> None:
    """A guest that cannot go home is no finding where none is to."""
    cut_off(pool)
    found = {words: run("upgrade", "check", *live, *words)["findings"] for words in ((), ("--stay",))}
    away = {words: [f["why"] for f in fs if "ends away from home" in f["why"]] for words, fs in found.items()}
    assert [len(whys) for whys in away.values()] == [1, 0]


def cut_off(pool: MockPool) -> None:
    """Put a guest of host1 on a network that only the others are on."""

    def add(kind: str, **fields: Any) -> str:
        return str(pool.store.create(kind, pool.new_ref(), {"uuid": pool.new_uuid(), **fields}).ref)

    network, home = add("network", name_label="other net", bridge="xenbr9"), row(pool, "host", "host1").ref
    for number, host in enumerate(ref for ref in pool.store.table("host") if ref != home):
        add("PIF", host=host, network=network, device="eth9", MAC=f"00:16:3e:99:00:0{number}", VLAN=-1)
    vm = next(vm for vm in pool.store.table("VM").values() if vm["resident_on"] == home and vm["VIFs"])
    vif = next(vif for vif in pool.store.table("VIF").values() if vif["VM"] == vm.ref)
    pool.store.write(vif, network=network)
