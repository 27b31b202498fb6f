"""Recovery: hosts looked at one by one, members without a master, a master that is lost, guests of a host that is lost."""

from __future__ import annotations

from pathlib import Path

import pytest
from pools import RELEASES, made, reach, row, unharmed
from recovery import ROOT, carried_out, killed_anywhere, running, status, towards

from mockserver import MockPool, membership
from mockserver.machine.disks import damage
from xenctl import database
from xenctl.procedures import backup, emergency, recover
from xenctl.procedures.observe import observe

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
        membership.follow(pool.machine(name), "10.9.9.9")
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
    outcome, _ = carried_out(pool, plan)
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
    assert all(list(damage(guest, pool.disks)) == [] for guest in pool.guests.values())


# --- the master


@pytest.mark.parametrize("release", RELEASES)
def test_a_member_takes_the_place_of_a_master_that_is_lost(release: str) -> None:
    """All follow it, and the lost one's guests run elsewhere; no disk is harmed, and the others' guests did not notice."""
    pool = made(release)
    before = running(pool)
    pool.hands.power_off("host1")
    pool.clock.advance(60)
    plan = recover.plan_master(reach(pool), "10.0.0.2", "10.0.0.1", ROOT, hosts=["10.0.0.3"], start=True)
    outcome, _ = carried_out(pool, plan, towards(pool, "host2"))
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


def test_a_master_that_hangs_and_is_on_is_not_replaced() -> None:
    """It does not answer, but nobody switched it off: its guests run."""
    pool = made()
    pool.machine("host1").xapi.mode = "dead"
    for name in ("host2", "host3"):
        pool.machine(name).xapi.mode = "emergency"
    plan = recover.plan_master(reach(pool), "10.0.0.2", "10.0.0.1", ROOT, start=True)
    outcome, _ = carried_out(pool, plan, towards(pool, "host2"))
    assert "10.0.0.1 does not answer, but it is not off (running): switch it off" in outcome.problems[0]
    assert pool.machine("host2").system.role == "slave:10.0.0.1"


def test_with_a_dump_hosts_have_names_and_a_newer_one_is_preferred() -> None:
    """One that is newer could never follow; without a dump nobody knows that."""
    pool = made("5.6")
    dump = database.read(backup.fetch(reach(pool)))
    (third,) = [found for found in dump.tables["host"].rows.values() if found.cells["name__label"] == "host3"]
    third.cells["software_version"] = "(('product_version' '6.0.0'))"
    pool.hands.power_off("host1")
    pool.clock.advance(60)
    plan = recover.plan_master(reach(pool), "10.0.0.2", "10.0.0.1", ROOT, dump=dump)
    assert plan.problems == ("host3 is newer than host2, and could never follow it: choose that one",)
    plan = recover.plan_master(reach(pool), "10.0.0.3", "10.0.0.1", ROOT, dump=dump)
    assert plan.problems == ()
    assert [host.name for host in plan.hosts] == ["host3", "host1", "host2"]
    blind = recover.plan_master(reach(pool), "10.0.0.2", "10.0.0.1", ROOT)
    assert any("releases cannot be seen without a master" in warning for warning in blind.warnings)


def test_high_availability_is_switched_off_where_it_would_keep_roles_from_changing() -> None:
    """On each host that answers, and in the database that the new master serves."""
    pool = made("7.1")
    session = reach(pool)
    (sr,) = [ref for ref, found in session.SR.get_all_records().items() if found.type == "nfs"]
    session.Async.pool.enable_ha([sr], {}).wait()
    pool.clock.advance(120)
    assert session.pool.get_all_records()[session.pool.get_all()[0]].ha_enabled
    for name in ("host1", "host2", "host3"):
        pool.hands.power_off(name)
    for name in ("host2", "host3"):  # without its state file nobody is elected
        pool.hands.lose_storage(name, row(pool, "SR", "NFS virtual disk storage")["uuid"])
        pool.hands.power_on(name)
    pool.clock.advance(900)
    plan = recover.plan_master(reach(pool), "10.0.0.2", "10.0.0.1", ROOT, hosts=["10.0.0.3"])
    outcome, _ = carried_out(pool, plan, towards(pool, "host2"))
    assert [p for p in outcome.problems if "storage of" not in p] == []
    assert not any(membership.armed(pool.machine(name)) for name in ("host2", "host3"))
    (record,) = towards(pool, "host2").pool.get_all_records().values()
    assert not record.ha_enabled


# --- guests of a host that is lost


@pytest.mark.parametrize("release", RELEASES)
def test_the_guests_of_a_lost_host_run_elsewhere(release: str) -> None:
    """Once, and with their disks as they left them; the others do not notice."""
    pool = made(release)
    before = running(pool)
    pool.hands.power_off("host2")
    plan = recover.plan_vms(reach(pool), "host2")
    outcome, _ = carried_out(pool, plan)
    assert outcome.problems == []
    after = running(pool)
    assert set(after) == set(before)
    assert all(after[vm] == host for vm, host in before.items() if host != "host2")
    assert "host2" not in after.values()
    pool.hands.power_on("host2")
    pool.clock.run_until(pool.clock.now() + 3600, lambda: pool.machine("host2").xapi.complete)
    assert running(pool) == after
    assert unharmed(pool)


def test_a_host_that_runs_is_not_lost() -> None:
    """Neither one that answers, nor one that hangs with its guests running; and the master answers for itself."""
    pool = made()
    outcome, _ = carried_out(pool, recover.plan_vms(reach(pool), "host2", off=True))
    assert "host2 answers at 10.0.0.2, so it is not lost" in outcome.problems[0]
    pool = made()
    pool.machine("host2").xapi.mode = "dead"
    before = running(pool)
    outcome, _ = carried_out(pool, recover.plan_vms(reach(pool), "host2"))
    assert "host2 does not answer, but it is not off (running)" in outcome.problems[0]
    assert running(pool) == before
    assert recover.plan_vms(reach(pool), "host1").problems == ("host1 is the master, and it answers: it is not lost",)
    with pytest.raises(ValueError, match="no host is called 'nobody'; there are host1, host2, host3"):
        recover.plan_vms(reach(pool), "nobody")


class Blind:
    """Hands that see nothing but the network, as a person's do who is not asked."""

    def power(self, host: str) -> str:
        return "off"


def test_where_nobody_sees_the_power_a_person_is_asked() -> None:
    """That a host does not answer says nothing: one that hangs looks the same, and its guests run."""
    pool, asked = made(), list[str]()
    pool.machine("host2").xapi.mode = "dead"
    before = running(pool)

    def no(question: str) -> bool:
        asked.append(question)
        return False

    plan = recover.plan_vms(reach(pool), "host2")
    outcome, _ = carried_out(pool, plan, hands=Blind(), ask=no)
    assert asked == ["host2 does not answer. Do you see that its power is off?"]
    assert "neither does a host that hangs: switch it off, see that it is, and say so (--is-off" in outcome.problems[0]
    assert running(pool) == before
    for said, answer in ((True, no), (False, lambda question: True)):
        pool = made()
        pool.hands.power_off("host2")
        outcome, _ = carried_out(pool, recover.plan_vms(reach(pool), "host2", off=said), hands=Blind(), ask=answer)
        assert outcome.problems == []
        assert set(running(pool)) == set(before)


def test_without_anybody_at_an_old_hosts_console_the_run_waits() -> None:
    """It says what to type where, and goes on afterwards."""
    pool = lost_master("4.0.1")
    plan = recover.plan_master(reach(pool), "10.0.0.2", "10.0.0.1", ROOT, hosts=["10.0.0.3"])
    outcome, journal = carried_out(pool, plan, towards(pool, "host2"), ask=lambda question: False)
    assert outcome.paused.endswith(
        "log in at the console of 10.0.0.2 and type: xe pool-emergency-transition-to-master; then go on with this run"
    )
    membership.lead(pool.machine("host2"))
    pool.clock.advance(60)
    outcome, _ = carried_out(pool, plan, towards(pool, "host2"), journal, ask=lambda question: False)
    assert (outcome.problems, outcome.paused) == ([], "")


def test_what_cannot_be_started_elsewhere_is_named_and_the_rest_starts() -> None:
    """A disk on the lost host's own storage, and memory that no other host has."""
    pool = made()
    vms = [vm for vm, host in running(pool).items() if host == "host2"]
    name = vms[0]
    pool.store.write(row(pool, "VDI", f"disk of {name}"), SR=row(pool, "SR", "Local storage on host2").ref)
    pool.hands.power_off("host2")
    plan = recover.plan_vms(reach(pool), "host2")
    assert plan.warnings == (
        f"{name} cannot be started elsewhere: its disks are on storage that no other host reaches (Local storage on host2)",
    )
    outcome, _ = carried_out(pool, plan)
    assert outcome.problems == []
    assert name not in running(pool)
    assert set(vms[1:]) <= set(running(pool))
    assert row(pool, "VM", name)["power_state"] == "Halted"


def test_memory_that_is_missing_is_named() -> None:
    """With what is needed and what is left."""
    pool = made()
    vm = next(vm for vm, host in running(pool).items() if host == "host2")
    size = 1 << 40
    pool.store.write(row(pool, "VM", vm), memory_static_max=size, memory_dynamic_max=size, memory_dynamic_min=size)
    pool.hands.power_off("host2")
    (warning,) = recover.plan_vms(reach(pool), "host2").warnings
    assert f"{vm} cannot be started elsewhere: it needs 10" in warning
    assert "and the most that is left is" in warning


def test_a_pool_that_is_worked_on_is_left_alone() -> None:
    """The other run is named."""
    pool = made()
    plan = recover.plan_vms(reach(pool), "host2")
    pool.store.write(pool.store.pool(), other_config={"xenctl-run": "another"})
    for made_plan in (recover.plan_vms(reach(pool), "host2"), recover.plan_members(reach(pool), ROOT)):
        (problem,) = made_plan.problems
        assert problem.startswith("another run (another) is at work on this pool: resume or abandon it")
    assert plan.problems == ()


def test_a_run_that_speaks_to_single_hosts_wants_credentials() -> None:
    """Said before anything is done."""
    pool = made()
    plan = recover.plan_vms(reach(pool), "host2")
    outcome, _ = carried_out(pool, plan, credentials=None)
    assert "give the run credentials" in outcome.problems[0]


# --- killed anywhere


def lost_member(release: str = "8.2") -> MockPool:
    pool = made(release, vms=6)
    pool.hands.power_off("host2")
    return pool


def lost_master(release: str) -> MockPool:
    pool = made(release, vms=6)
    pool.hands.power_off("host1")
    pool.clock.advance(60)
    return pool


@pytest.mark.chaos
def test_guests_are_brought_back_wherever_it_is_killed(tmp_path: Path) -> None:
    """Each guest runs once, with its disks whole."""
    want = set(running(made(vms=6)))
    killed_anywhere(
        tmp_path,
        lost_member,
        lambda pool: recover.plan_vms(reach(pool), "host2"),
        lambda pool: set(running(pool)) == want and unharmed(pool),
    )


@pytest.mark.chaos
@pytest.mark.parametrize("release", ["4.0.1", "8.2"])
def test_a_master_is_replaced_wherever_it_is_killed(tmp_path: Path, release: str) -> None:
    """One master in the end, the others follow it, and each guest runs once."""
    want = set(running(made(release, vms=6)))
    killed_anywhere(
        tmp_path,
        lambda: lost_master(release),
        lambda pool: recover.plan_master(reach(pool), "10.0.0.2", "10.0.0.1", ROOT, hosts=["10.0.0.3"], start=True),
        lambda pool: (
            [m.name for m in pool.machines if m.xapi.mode == "master"] == ["host2"]
            and set(running(pool)) == want
            and unharmed(pool)
        ),
        master="host2",
    )
