"""Plans carried out on pools of every age: what the planner promises, the pool does."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from guests import fully_virtual
from pools import RELEASES, connected

from mockserver import MockPool
from xenctl.cli.commands import cli
from xenctl.procedures import rolling_upgrade
from xenctl.procedures.journal import Journal
from xenctl.procedures.planner.pieces import Wishes

GIB = 1 << 30
DATA = Path(__file__).parent.parent / "data"


def guests(pool: MockPool) -> dict[str, tuple[str, str]]:
    """Each guest's power state and host, by name."""
    names = {host.ref: host["name_label"] for host in pool.store.table("host").values()}
    return {
        vm["name_label"]: (vm["power_state"], names.get(vm["resident_on"], ""))
        for vm in pool.store.table("VM").values()
        if not vm["is_control_domain"] and not vm["is_a_template"]
    }


def uuids(pool: MockPool, **policies: str) -> dict[str, str]:
    """Policies by uuid instead of name."""
    by_name = {vm["name_label"]: vm["uuid"] for vm in pool.store.table("VM").values()}
    return {by_name[name]: policy.replace("_", "-") for name, policy in policies.items()}


def memory(pool: MockPool, size: int) -> None:
    """Give each host so many bytes."""
    for machine in pool.machines:
        machine.memory = size
        host: Any = pool.host_row(machine)
        pool.store.write(host, boot_free_mem=size)
        pool.store.write(pool.store.get("host_metrics", host["metrics"]), memory_total=size)


@pytest.mark.parametrize("release", RELEASES)
def test_everybody_is_at_home_in_the_end(release: str) -> None:
    """Some migrate, one is suspended all the while, one is shut down for its turn; all end as they began."""
    pool = fully_virtual(MockPool.create(release=release))
    before = guests(pool)
    wishes = Wishes(policies=uuids(pool, vm01="suspend", vm02="shut_down"))
    with connected(pool) as session:
        plan = rolling_upgrade.plan(session, wishes=wishes)
        assert plan.problems == ()
        assert plan.effort is not None
        assert {vm.name for vm in plan.downtime} == {"vm01", "vm02"}
        outcome = rolling_upgrade.run(session, plan, pool.hands, accept_downtime=True)
    assert outcome.problems == []
    assert guests(pool) == before
    migrations = [done for done in outcome.steps if done.step.action == "migrate" and not done.skipped]
    assert len(migrations) == plan.effort.moves


@pytest.mark.parametrize("release", RELEASES)
def test_without_homes_guests_move_less_and_the_run_agrees(release: str) -> None:
    """Guests stay where the upgrade puts them: fewer migrations, and the comparison at the end finds nothing wrong."""
    pool = fully_virtual(MockPool.create(release=release))
    before = guests(pool)
    with connected(pool) as session:
        homely = rolling_upgrade.plan(session)
        plan = rolling_upgrade.plan(session, wishes=Wishes(return_home=False))
        assert homely.effort is not None
        assert plan.effort is not None
        assert plan.effort.moves < homely.effort.moves
        outcome = rolling_upgrade.run(session, plan, pool.hands)
    assert outcome.problems == []
    assert {name: state for name, (state, _) in guests(pool).items()} == {n: s for n, (s, _) in before.items()}


@pytest.mark.parametrize("release", RELEASES)
def test_a_pool_with_hardly_any_room_is_upgraded(release: str) -> None:
    """With the least memory per host for which there is a plan at all the pool refuses none of its migrations."""
    size = 6 * GIB
    while True:
        pool = fully_virtual(MockPool.create(release=release))
        memory(pool, size)
        with connected(pool) as session:
            plan = rolling_upgrade.plan(session)
            if plan.problems:
                assert plan.proof is not None
                assert plan.proof.how != "tried"
                size += GIB
                continue
            outcome = rolling_upgrade.run(session, plan, pool.hands)
        break
    assert size > 6 * GIB, "this was to begin with too little"
    assert outcome.problems == []


def test_a_plan_anew_keeps_to_whether_guests_go_home() -> None:
    """What was wished for homes holds for the rest of a run, too."""
    pool = MockPool.create(release="4.0.1")
    with (
        connected(pool) as session,
        Journal.create(rolling_upgrade.plan(session, wishes=Wishes(return_home=False)), None) as journal,
    ):
        again = rolling_upgrade.replan(session, journal)
    assert again.effort is not None
    assert again.effort.return_home is False


def test_the_plan_shows_its_bound() -> None:
    """`xenctl upgrade plan` says how many migrations it takes, and that no plan takes fewer."""
    shown = CliRunner().invoke(
        cli, ["upgrade", "plan", "--rehearse", str(DATA / "pool-4.0.1.xml")], env={"COLUMNS": "200"}
    )
    assert "guests go home, for which the bound is" in shown.output
    assert "no plan takes fewer" in shown.output
