"""Hosts updated from the pool's repositories, one after another; each does what it must do then."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from chaos import Fate, Killed
from pools import pin, reach, row, states, unharmed
from upkeep import attempt, booted, call, carried_out, killed_anywhere, look, made, on, plainly

from mockserver import MockPool
from mockserver.machine.update_repositories import Update
from xenctl.errors import ProcedureError
from xenctl.procedures import repositories
from xenctl.procedures.plan import Plan
from xenctl.session import Session

URL = "https://updates.example.com/base"
TOOLS = Update("tools", ("xapi-core-24.11.0-1.x86_64",), mandatory=("RestartToolstack",), summary="Tools")
KERNEL = Update("kernel", ("kernel-4.19.19-8.0.38.x86_64",), mandatory=("RebootHost",), full=("RebootHost",))
PLAIN = Update("docs", ("docs-1.0-1.x86_64",), summary="Nothing to restart")


def published(*updates: Update, **shape: Any) -> MockPool:
    """A pool whose repository holds `updates`."""
    pool = made("8.4", **shape)
    pool.repositories.add(URL, *updates)
    repository = call(pool, "Repository.introduce", "base", "", URL, f"{URL}/source", True)
    call(pool, "pool.add_repository", pool.store.pool().ref, repository)
    return pool


def plan(session: Session) -> Plan:
    return repositories.plan(session, repositories.sync(session))


@pytest.mark.parametrize(
    ("update", "reboots", "restarts"), [(KERNEL, True, True), (TOOLS, False, True), (PLAIN, False, False)]
)
def test_each_host_does_what_it_must(update: Update, reboots: bool, restarts: bool) -> None:
    """Emptied first, the master first; guests run on and are where they were."""
    pool = published(update)
    before, began = states(pool), pool.clock.now()
    made_plan = plan(reach(pool))
    assert made_plan.problems == ()
    order = [made_plan.names[step.host] for step in made_plan.steps if step.action == "apply-synced"]
    assert order == ["host1", "host2", "host3"]
    assert carried_out(pool, made_plan).problems == []
    hosts = list(pool.store.table("host").values())
    assert [host["latest_synced_updates_applied"] for host in hosts] == ["yes"] * 3
    assert [(host["pending_guidances"], host["enabled"]) for host in hosts] == [([], True)] * 3
    assert set(booted(pool).values()) == {reboots}
    assert {float(host["other_config"]["agent_start_time"]) >= began for host in hosts} == {restarts}
    assert (states(pool), look(pool).mark) == (before, "")
    assert unharmed(pool)
    assert "nothing that could be updated" in plan(reach(pool)).problems[0]


def test_what_stands_against_it_is_told() -> None:
    """No repository, an old release, a member without its master, a guest that cannot leave, a host that has to reboot."""
    with pytest.raises(ProcedureError, match="the updates cannot be synced: "):
        repositories.sync(reach(made("8.4")))
    with pytest.raises(ProcedureError, match="has no repositories: give it an update's file"):
        repositories.sync(reach(made("6.2")))
    pool = published(KERNEL)
    digest = repositories.sync(reach(pool))
    (problem,) = repositories.plan(reach(pool), digest, ["host2"]).problems
    assert problem == "host1 is the master and is not up to date: name it too"
    guest = on(pool, "host2")[0]
    pin(pool, guest, "host2")
    (problem,) = repositories.plan(reach(pool), digest).problems
    assert problem.startswith(f"{guest} cannot leave host2")
    pool.store.write(row(pool, "host", "host3"), pending_guidances=["reboot_host"])
    problems = repositories.plan(reach(pool), digest, stuck="suspend").problems
    assert problems == ("host3 has not done what an earlier update asks for (reboot_host): reboot it first",)


@pytest.mark.chaos
def test_killed_anywhere_and_resumed_it_ends_the_same(tmp_path: Path) -> None:
    """Before and after calls and writes of the journal."""
    killed_anywhere(lambda: published(KERNEL, hosts=2, vms=4), plan, tmp_path, sample=8)


def test_a_host_that_goes_down_is_not_told_to_once_more(tmp_path: Path) -> None:
    """A run that was killed when it had asked for it waits for the host, though that still answers."""
    fate = Fate()
    assert attempt(published(KERNEL, hosts=2, vms=4), tmp_path / "whole", fate, plan, plainly).problems == []
    (*_, last) = (number for number, point in enumerate(fate.points, 1) if point == "host.reboot")
    pool, path = published(KERNEL, hosts=2, vms=4), tmp_path / "killed"
    with pytest.raises(Killed):
        attempt(pool, path, Fate(last, True), plan, plainly)
    member = pool.machine("host2")
    assert member.state == "running"
    boots = member.boots
    assert attempt(pool, path, Fate(), plan, plainly).problems == []
    assert (member.boots, member.state) == (boots + 1, "running")
