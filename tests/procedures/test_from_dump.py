"""An upgrade that is taken back without backup partitions: every host installed afresh, the database from the dump."""

from __future__ import annotations

import io
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from pools import reach, states
from recovery import ROOT, killed_anywhere, running
from reverted import Case, why

from mockserver import MockPool
from mockserver.machine.disks import damage
from xenctl import database
from xenctl.errors import DatabaseError, ProcedureError
from xenctl.procedures import backup, from_dump
from xenctl.procedures.before import of_journal
from xenctl.procedures.hands_operator import Operator
from xenctl.procedures.journal import Journal
from xenctl.procedures.observe import CAME_FROM, MARK, observe
from xenctl.procedures.plan import Plan
from xenctl.procedures.running import Outcome, Run, abandon
from xenctl.releases import find

RELEASES = [
    *(("4.0.1", "4.1"), ("4.1", "5.0"), ("5.0", "5.5"), ("5.6", "6.0"), ("6.2", "6.5")),
    *(("7.1", "8.0"), ("8.2", "8.4")),
]


@pytest.fixture
def case(tmp_path: Path) -> Callable[..., Case]:
    return lambda *release, **shape: Case(tmp_path, *release, **shape)


def planned(c: Case, journal: Journal | None = None, **options: Any) -> Plan:
    before = None if journal is None else of_journal(journal)
    runs = [] if journal is None else [journal.run_id]
    return from_dump.plan(c.session, c.dump, before, take_over=runs, **options)


def carried_out(c: Case, plan: Plan, journal: Journal | None = None, **options: Any) -> tuple[Outcome, Journal]:
    assert plan.problems == ()
    kept = journal or Journal.create(plan)
    given = {"credentials": ROOT, "take_over": True, **options}
    return Run(c.session, plan, given.pop("hands", c.pool.hands), kept, **given).carry_out(), kept


def now(c: Case) -> MockPool:
    """The pool as it is now: a new one, by the old name."""
    return c.pool.machine("host1").pool


def undamaged(pool: MockPool) -> bool:
    """Whether every byte is there that guests wrote, and nothing that must hold was broken."""
    assert [violation.as_dict() for violation in pool.violations] == []
    return all(list(damage(guest, pool.disks)) == [] for guest in pool.guests.values())


@pytest.mark.parametrize(("release", "to", "turns"), [(*pair, turns) for pair in RELEASES for turns in (1, 3)])
def test_a_pool_comes_back_from_its_dump(case: Callable[..., Case], release: str, to: str, turns: int) -> None:
    """From any number of upgraded hosts: old release, same pool, same names and homes, every byte; new uuids are told."""
    c = case(release, to)
    homes, old = running(c.pool), {machine.name: machine.uuid for machine in c.pool.machines}
    uuid = c.pool.store.pool()["uuid"]
    journal = c.upgrade(turns)
    outcome, kept = carried_out(c, planned(c, journal))
    assert outcome.problems == []
    pool, facts = now(c), observe(c.session)
    assert facts.uuid == uuid == pool.store.pool()["uuid"]
    assert {host.version for host in facts.hosts.values()} == {find(release).product_version}
    assert {host.name for host in facts.hosts.values()} == old.keys()
    assert all(host.enabled and host.live and not host.unplugged for host in facts.hosts.values())
    assert running(pool) == homes
    assert (facts.mark, facts.upgrading, facts.upgraded) == ("", False, ("", ""))
    assert undamaged(pool)
    told = "\n".join(kept.get("report"))
    for host in facts.hosts.values():
        assert f"{host.name} is known to the pool by a new uuid, {host.uuid}; it was {old[host.name]}" in told
    assert "host1 has new storage of its own, which the restored database does not know: xe sr-introduce" in told
    assert [change.undo.action for change in kept.changes() if not change.undone] == []


@pytest.mark.chaos
@pytest.mark.parametrize(("release", "to"), RELEASES)
def test_killed_anywhere_it_comes_back_all_the_same(tmp_path: Path, release: str, to: str) -> None:
    """Before and after calls, acts of hands and writes of the journal, a sample of them; all of two small pools."""
    upgraded, made = Case(tmp_path, release, to, hosts=2, vms=4), list[Case]()
    upgraded.upgrade(2)

    def make() -> MockPool:
        made.append(upgraded.again())
        return made[-1].pool

    def right(pool: MockPool) -> bool:
        c = made[-1]
        at = observe(reach(now(c)))
        versions = {host.version for host in at.hosts.values()}
        return (
            (versions, at.mark, len(at.hosts)) == ({find(release).product_version}, "", 2)
            and running(now(c)) == {"vm01": "host1", "vm02": "host2", "vm03": "host1"}
            and undamaged(now(c))
        )

    killed_anywhere(tmp_path, make, lambda pool: planned(made[-1]), right, sample=4)


def test_each_guests_downtime_is_said_beforehand(case: Callable[..., Case]) -> None:
    """All of them stop; those of hosts that come later are down for longer. Nothing begins before that is agreed to."""
    c = case("6.2", "6.5")
    journal = c.upgrade(2)
    plan = planned(c, journal)
    up = {vm.name for vm in observe(c.session).vms.values() if vm.state == "Running"}
    assert why(plan).keys() == up
    assert all(
        text.startswith("every host is installed afresh; down for about")
        for text in set(why(plan).values()) - {"every host is installed afresh; it stays down"}
    )
    minutes = {vm.name: vm.downtime_s for vm in plan.downtime}
    assert 0 < minutes["vm01"] < minutes["vm02"]
    with pytest.raises(ProcedureError, match="say that you accept the downtime"):
        from_dump.assert_can_run(plan)
    from_dump.assert_can_run(plan, accept_downtime=True)
    assert plan.no_return == ("once host1 is installed afresh, the dump is all that is left of the pool's database",)
    began = c.pool.clock.now()
    carried_out(c, plan)
    assert 0.5 < (c.pool.clock.now() - began) / max(minutes.values()) < 2


def test_guests_that_are_suspended_still_stay_so(case: Callable[..., Case]) -> None:
    """Their saved state is that of the dump, on storage that nobody touches: they are resumed as if nothing had been."""
    c = case("6.2", "6.5")
    backup.take(c.session, c.dump)
    boots = c.pool.guest(c.row("VM", "vm06")).boots
    outcome, _ = carried_out(c, planned(c))
    assert outcome.problems == []
    assert states(now(c), c.session)["vm06"][0] == "Suspended"
    (ref,) = c.session.VM.get_by_name_label("vm06")
    c.session.VM.resume(ref, False, False)
    assert (c.session.VM.get_power_state(ref), now(c).guests[c.session.VM.get_uuid(ref)].boots) == ("Running", boots)
    assert undamaged(now(c))


def test_guests_that_were_suspended_since_are_shut_down_in_good_order(case: Callable[..., Case]) -> None:
    """The dump does not have what they saved: they are resumed first, and run again in the end."""
    c = case("6.2", "6.5")
    journal = c.upgrade(3)
    c.session.VM.suspend(c.row("VM", "vm01").ref)
    plan = planned(c, journal)
    actions = [(step.action, step.vm) for step in plan.steps]
    assert ("resume", c.row("VM", "vm01")["uuid"]) in actions
    outcome, _ = carried_out(c, plan)
    assert outcome.problems == []
    assert states(now(c), c.session)["vm01"] == ("Running", "host1")
    assert undamaged(now(c))


def test_disks_on_the_storage_of_one_host_are_lost_only_where_that_is_agreed_to(case: Callable[..., Case]) -> None:
    """They are named before and after; their guest stays down, and the others run."""
    c = case("8.2", "8.4")
    c.pool.store.write(c.row("VDI", "disk of vm02"), SR=c.row("SR", "Local storage on host2").ref)
    backup.take(c.session, c.dump)
    homes = running(c.pool)
    plan = planned(c)
    assert plan.losses == (
        "Local storage on host2 may be on the disk that host2 is installed on: disk of vm02 of vm02",
    )
    with pytest.raises(ProcedureError, match="say that you accept the loss"):
        from_dump.assert_can_run(plan, accept_downtime=True)
    outcome, kept = carried_out(c, plan)
    assert outcome.problems == []
    assert any(
        text.startswith("Local storage on host2 was on the disk of host2, and is lost, with disk of vm02")
        for text in kept.get("report")
    )
    assert running(now(c)) == {name: host for name, host in homes.items() if name != "vm02"}


def test_what_the_dump_does_not_have_is_named(case: Callable[..., Case]) -> None:
    """Guests that were made since, and disks that changed."""
    c = case("6.2", "6.5")
    journal = c.upgrade(3)
    ref = c.session.VM.clone(c.row("VM", "vm04").ref, "made since")
    c.session.VM.start(ref, False, False)
    c.pool.clock.advance(120)
    c.session.VDI.destroy(c.row("VDI", "disk of vm08").ref)
    plan = planned(c, journal)
    assert "made since was made since: its record is lost" in plan.losses[0]
    assert "of vm08 was deleted or moved since" in plan.losses[1]
    assert why(plan)["made since"].endswith("it does not come back")
    outcome, _ = carried_out(c, plan)
    assert outcome.problems == []
    assert c.session.VM.get_by_name_label("made since") == []


def test_a_master_that_is_gone_needs_no_way_back(case: Callable[..., Case]) -> None:
    """Nobody can be told to shut guests down: every host has to be off first, and that is said, host by host."""
    c = case("5.6", "6.0")
    homes, journal = running(c.pool), c.upgrade(1)
    c.pool.machine("host1").backup = None
    c.pool.hands.power_off("host1")
    c.session = c.session_later()
    plan = planned(c, journal)
    assert "the master does not answer, so no guest can be told to shut down" in plan.warnings[0]
    assert [step.action for step in plan.steps[:4]] == ["see-off", "see-off", "see-off", "read-dump"]
    outcome, kept = carried_out(c, plan)
    assert "shut down from within what runs there, switch the host off, and go on" in outcome.problems[0]
    assert len(c.pool.machine("host2").domains) > 0, "nobody cut them off"
    for host in ("host2", "host3"):
        c.pool.hands.power_off(host)
    outcome, _ = carried_out(c, plan, kept)
    assert outcome.problems == []
    assert running(now(c)) == homes
    assert undamaged(now(c))


def test_a_person_is_told_to_install_every_host_afresh(case: Callable[..., Case]) -> None:
    """With the medium of the old release, and its address; never to upgrade, nor to restore."""
    c = case("6.2", "6.5", hosts=2, vms=4)
    backup.take(c.session, c.dump)

    class Person(io.StringIO):
        def write(self, text: str) -> int:
            hands, clock = c.pool.hands, c.pool.clock
            for host in ("host1", "host2"):
                if text.startswith(f"{host} (") and "afresh" in text:
                    clock.run_until(clock.now() + 3600, lambda host=host: hands.power(host) == "off")  # type: ignore[misc]
                    hands.insert_media(host, "6.2")
                    hands.power_on(host)
                    clock.run_until(clock.now() + 3600, lambda host=host: hands.power(host) == "installer")  # type: ignore[misc]
                    hands.answer(host, "fresh")
            return super().write(text)

    told = Person()
    hands = Operator(c.session, source=io.StringIO(), out=told)
    outcome, _ = carried_out(c, planned(c), hands=hands)
    assert outcome.problems == []
    assert told.getvalue().count("is to be installed afresh:") == 2
    assert "Put the medium of XenServer 6.2.0 into its drive" in told.getvalue()
    assert 'Choose the line "' not in told.getvalue()


def test_a_master_with_another_release_does_not_get_the_dump(case: Callable[..., Case]) -> None:
    """Old ones would take it, and break later."""
    c = case("5.0", "5.5", hosts=2, vms=4)
    backup.take(c.session, c.dump)
    plan = planned(c)
    outcome, kept = carried_out(c, replace(plan, medium="XenServer 4.1.0"))
    assert (
        "the master was installed with 4.1.0, and the dump is of 5.0.0: switch it off, and install 5.0.0"
        in (outcome.problems[0])
    )
    hands, clock = c.pool.hands, c.pool.clock
    hands.power_off("host1")
    hands.insert_media("host1", "5.0")
    hands.power_on("host1")
    clock.run_until(clock.now() + 3600, lambda: hands.power("host1") == "installer")
    hands.answer("host1", "fresh")
    clock.advance(3600)
    outcome, _ = carried_out(c, plan, kept)
    assert outcome.problems == []


def test_nothing_is_destroyed_without_the_dump(case: Callable[..., Case]) -> None:
    """It is read again after guests and hosts were shut down; abandoning the run switches them on again."""
    c = case("6.2", "6.5")
    homes, journal = running(c.pool), c.upgrade(3)
    plan, data = planned(c, journal), c.dump.read_bytes()
    c.dump.write_bytes(data + b"\n")
    outcome, kept = carried_out(c, plan)
    assert "is not the file that this restore was planned with" in outcome.problems[0]
    assert {machine.system.release.product_version for machine in c.pool.machines} == {"6.5.0"}
    assert {machine.state for machine in c.pool.machines} == {"off"}
    assert abandon(c.session, kept, c.pool.hands) == []
    assert running(c.pool) == homes
    assert undamaged(c.pool)


def test_high_availability_of_the_dump_is_off_in_the_end(case: Callable[..., Case]) -> None:
    """No host can join while it is on, and the heartbeat that it was meant for is gone; that is told."""
    c = case("6.2", "6.5", hosts=2, vms=4)
    backup.take(c.session, c.dump)
    dump = database.read_file(c.dump)
    next(iter(dump.rows("pool"))).cells["ha_enabled"] = "true"
    database.write_file(database.write(dump), c.dump)
    plan = planned(c)
    assert "disarm-pool" in [step.action for step in plan.steps]
    assert "high availability was on, and is off in the end: switch it on once the pool is whole" in plan.warnings
    outcome, _ = carried_out(c, plan)
    assert outcome.problems == []
    assert not observe(c.session).ha_enabled


def spoiled(c: Case, how: str) -> None:
    """Put something in the way."""
    store, pool = c.pool.store, c.pool.store.pool()
    dump = database.read_file(c.dump)
    if how == "mark":
        store.write(pool, other_config={**pool["other_config"], MARK: "another"})
    elif how == "availability":
        store.write(pool, ha_enabled=True)
    elif how == "paused":
        c.session.VM.pause(c.row("VM", "vm01").ref)
    elif how == "pool":
        next(iter(dump.rows("pool"))).cells["uuid"] = "0" * 36
    elif how == "master":
        c.session.pool.designate_new_master(c.row("host", "host2").ref)
        c.pool.clock.advance(600)
        c.session = c.connect()
    elif how == "joined":
        del dump.tables["host"].rows[c.row("host", "host3").ref]
    elif how == "stub":
        dump = database.read(database.stub())
    if how in ("pool", "joined", "stub"):
        database.write_file(database.write(dump), c.dump)


@pytest.mark.parametrize(
    ("how", "said"),
    [
        ("mark", "another run (another) is at work on this pool"),
        ("availability", "high availability is on: switch it off first"),
        ("paused", "vm01 is paused and has to be shut down"),
        ("pool", "the dump is of another pool"),
        ("master", "the master is host2 now, and was host1: make host1 the master again first"),
        ("joined", "host3 has joined since: eject it first"),
        ("stub", "mixed"),
    ],
)
def test_what_forbids_it(case: Callable[..., Case], how: str, said: str) -> None:
    """Each reason in words, and nothing is changed."""
    c = case("6.2", "6.5")
    backup.take(c.session, c.dump)
    spoiled(c, how)
    generation = c.pool.store.generation
    if how == "stub":
        with pytest.raises(DatabaseError, match=said):
            planned(c)
    else:
        plan = planned(c)
        assert any(said in problem for problem in plan.problems), plan.problems
        assert plan.steps == ()
        with pytest.raises(ProcedureError, match="this pool cannot be taken back by the dump"):
            from_dump.assert_can_run(plan, accept_downtime=True, accept_loss=True)
    assert c.pool.store.generation == generation
    assert {machine.state for machine in c.pool.machines} == {"running"}


def test_the_dump_of_another_hop_is_refused(case: Callable[..., Case]) -> None:
    """The journal says what the pool goes back to."""
    c = case("5.0", "5.5")
    journal = c.upgrade(3)
    backup.take(c.session, c.dump)
    plan = planned(c, journal)
    (problem,) = plan.problems
    assert problem.startswith("the dump was taken under 5.5.0, and the pool goes back to 5.0.0: give the dump from")


def test_two_hops_can_be_taken_back_by_the_first_dump(case: Callable[..., Case]) -> None:
    """Where backup partitions hold the release between: what they cannot do, the dump from before both can."""
    c = case("5.0", "5.5", hosts=2, vms=4)
    homes = running(c.pool)
    backup.take(c.session, c.dump)
    first = c.dump.read_bytes()
    c.upgrade(2)
    c.to = "5.6"
    c.upgrade(2)
    assert CAME_FROM in c.pool.store.pool()["other_config"]
    c.dump.write_bytes(first)
    outcome, _ = carried_out(c, planned(c))
    assert outcome.problems == []
    assert {machine.system.release.product_version for machine in c.pool.world.machines} == {"5.0.0"}
    assert running(now(c)) == homes
    assert undamaged(now(c))
