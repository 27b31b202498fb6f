"""Recovery: hosts looked at one by one, members without a master, a master that is lost, guests of a host that is lost."""

from __future__ import annotations

import os
import random
from pathlib import Path
from typing import Any

import pytest
from chaos import Fate, Killed, MortalHands, mortal, session_on

from mockserver import MockPool
from mockserver.invariants import sound
from mockserver.machine.disks import damage
from xenctl.credentials import Credentials
from xenctl.procedures import emergency, recover
from xenctl.procedures.journal import Journal
from xenctl.procedures.observe import observe
from xenctl.procedures.plan import Plan
from xenctl.procedures.running import Outcome, Run
from xenctl.session import Session

RELEASES = ("4.0.1", "4.1", "5.0", "5.6", "6.2", "7.1", "8.2")
ROOT = Credentials("", "root", "secret")
POINTS = int(os.environ.get("XENCTL_CHAOS_SAMPLE", "12"))
"""How many points of death are tried in each procedure; 0 for all."""


def made(release: str = "8.2", **what: Any) -> MockPool:
    pool = MockPool.create(**{"hosts": 3, "vms": 9, "release": release, **what})
    pool.watch(*sound())
    return pool


def reach(pool: MockPool, fate: Fate | None = None) -> Session:
    return session_on(pool, fate or Fate())


def towards(pool: MockPool, host: str, fate: Fate | None = None) -> Session:
    """A session that logs in later at one host, which need not be the master yet."""
    session = session_on(pool, fate or Fate())
    session.origin = f"http://{pool.machine(host).address}"
    return session


def row(pool: MockPool, kind: str, name: str) -> Any:
    return next(r for r in pool.store.table(kind).values() if r["name_label"] == name)


def unharmed(pool: MockPool) -> bool:
    assert [v.as_dict() for v in pool.violations] == []
    return all(list(damage(guest, pool.disks)) == [] for guest in pool.guests.values())


def address(pool: MockPool, host: str) -> str:
    return str(pool.machine(host).address)


def status(pool: MockPool, *hosts: str) -> emergency.Status:
    return emergency.status(reach(pool), [address(pool, host) for host in hosts], ROOT)


def at_the_console(pool: MockPool) -> Any:
    """A person who types at a host's console what is asked, which hosts of 4.0 need: the console knows the pool's secret."""

    def ask(question: str) -> bool:
        where, command = question.removesuffix(". Is that done?").split("console of ")[1].split(" and type: ")
        machine = pool.machine(where)
        session = pool.dispatch("session.slave_local_login", [machine.system.pool_secret], machine)
        verb, *rest = command.removeprefix("xe pool-").split(" ")
        arguments = [word.partition("=")[2] for word in rest]
        pool.dispatch(f"pool.{verb.replace('-', '_')}", [session, *arguments], machine)
        return True

    return ask


def carried_out(
    pool: MockPool, plan: Plan, session: Session | None = None, journal: Journal | None = None, **options: Any
) -> tuple[Outcome, Journal]:
    assert plan.problems == ()
    kept, given = journal or Journal.create(plan), {"hands": pool.hands, **options}
    run = Run(
        session or reach(pool), plan, given.pop("hands"), kept, credentials=ROOT, ask=at_the_console(pool), **given
    )
    return run.carry_out(), kept


def running(pool: MockPool) -> dict[str, str]:
    """Where each guest that runs does so, by the names of guests and hosts, as the machines have it."""
    names = {vm["uuid"]: vm["name_label"] for vm in pool.store.table("VM").values() if not vm["is_control_domain"]}
    return {names[uuid]: m.name for m in pool.machines for uuid in m.domains if uuid in names}


def states(pool: MockPool, session: Session | None = None) -> dict[str, tuple[str, str]]:
    facts = observe(session or reach(pool))
    names = {uuid: host.name for uuid, host in facts.hosts.items()}
    return {vm.name: (vm.state, names.get(vm.host, "")) for vm in facts.vms.values()}


# --- hosts looked at one by one


@pytest.mark.parametrize("release", RELEASES)
def test_nothing_is_wrong_with_a_pool_that_is_whole(release: str) -> None:
    """Whichever host is named, all are looked at: one serves, the others follow it."""
    found = status(made(release), "host3")
    assert found.ok
    assert {host.address: (host.state, host.master) for host in found.hosts} == {
        "10.0.0.1": ("master", ""),
        "10.0.0.2": ("member", "10.0.0.1"),
        "10.0.0.3": ("member", "10.0.0.1"),
    }
    assert {host.address for host in found.hosts} == set(found.hosts[1].known)


@pytest.mark.parametrize("release", RELEASES)
def test_without_a_master_each_says_what_it_waits_for(release: str) -> None:
    """And what to do is said once: the master back, or another."""
    pool = made(release)
    pool.hands.power_off("host1")
    found = status(pool, "host1", "host2", "host3")
    assert [(host.state, host.code) for host in found.hosts] == [
        ("silent", ""),
        ("emergency", "HOST_STILL_BOOTING"),
        ("emergency", "HOST_STILL_BOOTING"),
    ]
    assert found.hosts[1].emergency is (None if release == "4.0.1" else True)
    assert found.advice[0].startswith("no host serves as master: switch the master on and wait")
    assert found.advice[1].startswith("10.0.0.1: it does not answer")


@pytest.mark.parametrize(
    ("error", "text", "mend"),
    [
        (["HOST_UNKNOWN_TO_MASTER", "a-uuid"], "its master has no record of it (a-uuid)", emergency.REJOIN),
        (["HOST_MASTER_CANNOT_TALK_BACK", "10.0.0.2"], "its master cannot reach it at 10.0.0.2", emergency.NETWORK),
        (["HOST_ITS_OWN_SLAVE"], "it takes its own address for its master's", emergency.MEMBERS),
        (["HOST_BROKEN"], "its role was lost", emergency.MEMBERS),
        (["HOST_XAPI_VERSION_HIGHER_THAN_COORDINATOR", "25.6"], "it is newer (25.6) than", emergency.VERSION),
        (["HA_POOL_IS_ENABLED_BUT_HOST_IS_DISABLED"], "it left high availability", emergency.HA),
        (["INTERNAL_ERROR", "anything"], "it answers INTERNAL_ERROR", emergency.MEMBERS),
    ],
)
def test_each_reason_is_told_in_words_with_what_mends_it(error: list[str], text: str, mend: str) -> None:
    """The code and its parameters are kept beside."""
    pool = made()
    member = pool.machine("host2").xapi
    member.mode, member.error = "emergency", error
    (found,) = [host for host in status(pool, "host1").hosts if host.address == "10.0.0.2"]
    assert (found.state, [found.code, *found.params]) == ("emergency", error)
    assert found.text.startswith(text)
    assert (found.mend, found.emergency) == (mend, True)
    assert any(found.text in advice for advice in status(pool, "host1").advice)


def test_two_masters_of_one_pool_are_the_first_thing_told() -> None:
    """The old one came back without seeing the new one."""
    pool = two_masters()
    found = status(pool, "host1", "host2")
    assert "both serve the pool" in found.advice[0]
    assert "guests may run twice" in found.advice[0]


def two_masters(release: str = "8.2") -> MockPool:
    """A pool whose old master is back and serves, beside the new one: it was on its own when it started."""
    pool = made(release)
    pool.hands.power_off("host1")
    pool.clock.advance(60)
    plan = recover.plan_master(reach(pool), "10.0.0.2", "10.0.0.1", ROOT, hosts=["10.0.0.3"], off=True)
    assert carried_out(pool, plan, towards(pool, "host2"))[0].problems == []
    pool.hands.power_off("host2")
    pool.hands.power_on("host1")
    pool.clock.run_until(pool.clock.now() + 3600, lambda: pool.machine("host1").xapi.mode == "master")
    old = pool.machine("host1").xapi
    old.mode = "down"  # while the other one starts, they do not see each other
    pool.hands.power_on("host2")
    pool.clock.run_until(pool.clock.now() + 3600, lambda: pool.machine("host2").xapi.mode == "master")
    old.mode = "master"
    return pool


# --- members


@pytest.mark.parametrize("release", RELEASES)
def test_members_follow_a_master_whose_address_they_do_not_know(release: str) -> None:
    """They are told, come out of emergency mode, and take guests again; nobody's guests stop."""
    pool = made(release)
    before = running(pool)
    for name in ("host2", "host3"):
        machine = pool.machine(name)
        secret = machine.system.pool_secret
        session = pool.dispatch("session.slave_local_login", [secret], machine)
        pool.dispatch("pool.emergency_reset_master", [session, "10.9.9.9"], machine)
    pool.clock.advance(120)
    assert not status(pool, "host1").ok
    plan = recover.plan_members(reach(pool), ROOT)
    outcome, _ = carried_out(pool, plan)
    assert outcome.problems == []
    assert status(pool, "host1").ok
    assert running(pool) == before
    assert unharmed(pool)


def test_a_member_that_is_off_is_named_and_not_waited_for() -> None:
    """The plan says so, and the others follow."""
    pool = made()
    pool.hands.power_off("host3")
    plan = recover.plan_members(reach(pool), ROOT)
    assert plan.warnings == ("host3 does not answer, and is not waited for: see whether it is on",)
    outcome, journal = carried_out(pool, plan)
    assert outcome.problems == []


def test_an_old_master_that_serves_beside_the_new_one_becomes_its_member() -> None:
    """Before it can do harm."""
    pool = two_masters()
    plan = recover.plan_members(towards(pool, "host2"), ROOT)
    assert "host1 serves this pool too: it becomes a member" in plan.warnings
    outcome, _ = carried_out(pool, plan, towards(pool, "host2"))
    assert outcome.problems == []
    assert status(pool, "host2").ok
    assert [m.name for m in pool.machines if m.xapi.mode == "master"] == ["host2"]
    assert unharmed(pool)


# --- the master


@pytest.mark.parametrize("release", RELEASES)
def test_a_member_takes_the_place_of_a_master_that_is_lost(release: str) -> None:
    """All follow it, and the lost one's guests run elsewhere; no disk is harmed, and the others' guests did not notice."""
    pool = made(release)
    before = running(pool)
    pool.hands.power_off("host1")
    pool.clock.advance(60)
    plan = recover.plan_master(reach(pool), "10.0.0.2", "10.0.0.1", ROOT, hosts=["10.0.0.3"], start=True)
    outcome, journal = carried_out(pool, plan, towards(pool, "host2"))
    assert outcome.problems == []
    after = running(pool)
    assert set(after) == set(before)
    assert all(after[vm] == host for vm, host in before.items() if host != "host1")
    assert "host1" not in after.values()
    assert [host.state for host in status(pool, "host2").hosts] == ["master", "silent", "member"]
    assert unharmed(pool)
    pool.hands.power_on("host1")
    pool.clock.run_until(pool.clock.now() + 3600, lambda: pool.machine("host1").xapi.complete)
    assert status(pool, "host2").ok
    assert running(pool) == after
    assert unharmed(pool)


def test_a_master_that_is_lost_is_forgotten_where_asked() -> None:
    """With the storage that only it had, which is named."""
    pool = made()
    pool.hands.power_off("host1")
    pool.clock.advance(60)
    plan = recover.plan_master(reach(pool), "10.0.0.2", "10.0.0.1", ROOT, hosts=["10.0.0.3"], start=True, forget=True)
    outcome, _ = carried_out(pool, plan, towards(pool, "host2"))
    assert outcome.problems == []
    facts = observe(towards(pool, "host2"))
    assert {host.name for host in facts.hosts.values()} == {"host2", "host3"}
    assert "Local storage on host1" not in facts.storage_names.values()
    assert unharmed(pool)


def test_a_master_that_only_seems_lost_is_left_in_its_place() -> None:
    """It answers; or it does not, and yet is on."""
    pool = made()
    plan = recover.plan_master(reach(pool), "10.0.0.2", "10.0.0.1", ROOT)
    assert plan.steps == ()
    assert "10.0.0.1 answers: a pool whose master can be reached needs no other one" in plan.problems
    assert any("10.0.0.2 follows 10.0.0.1: only a host in emergency mode" in problem for problem in plan.problems)
