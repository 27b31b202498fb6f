"""A run that stops: what it leaves, how it goes on, is planned anew, adopted or given up."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from chaos import Fate, Killed, MortalHands, session_on
from guests import fully_virtual
from pools import RELEASES, connected, row, versions

from mockserver import MockPool
from mockserver.invariants import rolling_upgrade as invariants
from xenctl.errors import ProcedureError
from xenctl.procedures import rolling_upgrade, running
from xenctl.procedures.journal import STOPPED, Journal
from xenctl.procedures.observe import MARK, observe
from xenctl.procedures.running import Run
from xenctl.session import Session


@pytest.fixture
def pool(release: str) -> MockPool:
    made = fully_virtual(MockPool.create(hosts=3, vms=9, release=release))
    observe(connected(made))  # the lists of what its guests allow follow
    made.watch(*invariants())
    return made


DEEDS = ("new VM", "halted", "HA", "gone")


def stop_at(host: str) -> Any:
    """A gate that stops before a host's turn, once."""
    stopped = []

    def gate(run: Run, step: Any) -> str:
        if run.plan.names[step.host] == host and not stopped:
            stopped.append(host)
            return f"stop before {host}"
        return ""

    return gate


def half_done(pool: MockPool, session: Session, journal: Journal | None = None) -> Journal:
    """Upgrade the master only, and pause."""
    plan = rolling_upgrade.plan(session)
    journal = journal or Journal.create(plan)
    outcome = rolling_upgrade.run(session, plan, pool.hands, journal=journal, gates=[stop_at("host2")])
    assert outcome.problems == []
    assert "stop before host2" in outcome.paused
    assert not outcome.ok
    return journal


def test_a_gate_stops_before_a_hosts_turn_and_the_run_goes_on_later(
    pool: MockPool, session: Session, old: str, new: str
) -> None:
    """Nothing of the turn has begun; a later run begins with it."""
    journal = half_done(pool, session)
    assert journal.state == "stopped"
    assert versions(pool) == [new, old, old]
    assert row(pool, "host", "host2")["enabled"]
    assert rolling_upgrade.run(session, journal.plan, pool.hands, journal=journal).ok
    assert (journal.state, versions(pool)) == ("done", [new] * 3)
    pool.conclude()
    assert pool.violations == []
    assert MARK not in pool.store.pool()["other_config"]
    assert [change for change in journal.changes() if not change.undone] == []


def test_a_guest_that_is_still_moving_is_not_moved_again(pool: MockPool, session: Session) -> None:
    """A second migration would wait for the first one to end, and then be done, too: a run that was killed while it went on
    does not ask for one."""
    plan = rolling_upgrade.plan(session)
    journal, called = Journal.create(plan), Fate()
    dies = session_on(pool, Fate(until="Async.VM.pool_migrate", after=True))
    with pytest.raises(Killed):
        rolling_upgrade.run(dies, plan, pool.hands, journal=journal)
    assert rolling_upgrade.run(session_on(pool, called), plan, pool.hands, journal=journal).problems == []
    moves = [step for step in plan.steps if step.action == "migrate"]
    assert called.points.count("Async.VM.pool_migrate") + 1 == len(moves) > 1


def test_a_moved_guest_stops_the_run_before_the_next_turn(pool: MockPool, session: Session) -> None:
    """Somebody else moved one: the difference is named, and planning anew goes on from there, to the old homes."""
    journal = half_done(pool, session)
    first, home = observe(session), {vm.uuid: vm.home for vm in journal.plan.vms}
    vm = next(vm for vm in first.vms.values() if vm.host == home[vm.uuid] and first.hosts[vm.host].name == "host2")
    session.VM.pool_migrate(vm.ref, first.hosts[first.master].ref, {})  # type: ignore[arg-type]
    outcome = rolling_upgrade.run(session, journal.plan, pool.hands, journal=journal)
    (problem,) = outcome.problems
    assert f"{vm.name} is on host1, and is to be on host2" in problem
    journal.replan(rolling_upgrade.replan(session, journal))
    assert journal.plan.problems == ()
    assert rolling_upgrade.run(session, journal.plan, pool.hands, journal=journal).ok
    assert observe(session).vms[vm.uuid].host == vm.host
    pool.conclude()
    assert pool.violations == []


@pytest.mark.parametrize(
    ("release", "deed"),
    # 4.0.1 goes to 4.1, and neither has high availability.
    [(release, deed) for release in RELEASES for deed in DEEDS if (release, deed) != ("4.0.1", "HA")],
)
def test_what_changed_meanwhile_is_named(pool: MockPool, session: Session, deed: str, old: str, new: str) -> None:
    """A new VM, one that is down, one that is gone, high availability."""
    journal = half_done(pool, session)
    vm = row(pool, "VM", "vm02")
    if deed == "new VM":
        session.VM.set_name_label(session.VM.clone(row(pool, "VM", "vm04").ref, "new"), "fresh")
    elif deed == "halted":
        session.VM.hard_shutdown(vm.ref)
    elif deed == "gone":
        session.VM.destroy(row(pool, "VM", "vm04").ref)
    else:
        assert "ha_enabled" in pool.store.pool()
        pool.store.write(pool.store.pool(), ha_enabled=True)
    said = {
        "new VM": "fresh is new",
        "halted": "vm02 is Halted, and is to be Running",
        "HA": "high availability was switched on",
        "gone": "vm04 is gone",
    }
    (problem,) = rolling_upgrade.run(session, journal.plan, pool.hands, journal=journal).problems
    assert said[deed] in problem
    assert versions(pool) == [new, old, old]


@pytest.mark.parametrize("host", ["host1", "host2"])
def test_a_host_whose_toolstack_started_anew_is_disabled_again(pool: MockPool, session: Session, host: str) -> None:
    """It enables itself when it starts, and is not shut down then."""
    plan = rolling_upgrade.plan(session)

    def restart(number: int, total: int, text: str) -> None:
        if text == f"shut down {host}":
            pool.faults.add("toolstack_crash", victim=host, after=0, lasting=10)
            pool.clock.advance(300)
            assert row(pool, "host", host)["enabled"]

    assert rolling_upgrade.run(session, plan, pool.hands, on_step=restart).problems == []
    pool.conclude()
    assert pool.violations == []


def test_hands_that_refuse_stop_the_run(pool: MockPool, session: Session, new: str) -> None:
    """The machine room of the fake refuses as all hands do; the run can be resumed when that is put right."""
    plan = rolling_upgrade.plan(session)
    journal, machine = Journal.create(plan), pool.machine("host1")

    def stuck(number: int, total: int, text: str) -> None:
        if text == f"install {new} on host1":
            pool.hands.insert_media("host1", new)
            pool.hands.power_on("host1")
            pool.clock.advance(900)
            pool.hands.eject_media("host1")

    outcome = rolling_upgrade.run(session, plan, pool.hands, journal=journal, on_step=stuck)
    (problem,) = outcome.problems
    assert f"install {new} on host1: the installer on host1 cannot go on: its medium was taken out" in problem
    assert journal.state == STOPPED
    pool.hands.power_off("host1")
    pool.clock.advance(60)
    assert rolling_upgrade.run(session, plan, pool.hands, journal=journal).problems == []
    assert machine.system.release.product_version == new
    pool.conclude()
    assert pool.violations == []


def test_a_run_that_is_given_up_undoes_what_it_prepared(pool: MockPool, session: Session) -> None:
    """Before the first host went down: discs back in their drives, guests suspended again, the host enabled, no mark."""
    before, path = observe(session), Fate()
    plan = rolling_upgrade.plan(session)
    journal = Journal.create(plan)
    number = next(n for n, step in enumerate(plan.steps, 1) if step.action == "halt")
    run = Run(session, plan, MortalHands(pool.hands, Fate(1)), journal)  # type: ignore[arg-type]
    with pytest.raises(Killed):
        run.carry_out()
    assert journal.finished() == number - 1
    assert path.points == []
    assert running.abandon(session, journal, pool.hands) == []
    assert journal.state == "abandoned"
    now = observe(session)
    assert now.mark == ""
    assert {vm.uuid: (vm.state, vm.discs) for vm in now.vms.values()} == {
        vm.uuid: (vm.state, vm.discs) for vm in before.vms.values()
    }
    assert all(host.enabled for host in now.hosts.values())


def test_what_cannot_be_undone_yet_is_named_and_tried_again(pool: MockPool, session: Session) -> None:
    """In mixed mode nothing can be suspended: that is left, and the mark with it, until it can."""
    journal = half_done(pool, session)
    pool.faults.add("error", method="VM.suspend", code="HOST_OFFLINE", params=["x"], times=1)
    left = running.abandon(session, journal, pool.hands)
    assert len(left) == 1
    assert left[0].startswith("suspend vm06: HOST_OFFLINE")
    assert journal.state == "stopped"
    assert observe(session).mark == journal.run_id


def test_a_run_that_is_done_is_not_given_up(pool: MockPool, session: Session) -> None:
    """There is nothing to undo."""
    journal = half_done(pool, session)
    rolling_upgrade.run(session, journal.plan, pool.hands, journal=journal)
    with pytest.raises(ProcedureError, match="is done: there is nothing to abandon"):
        running.abandon(session, journal, pool.hands)


def test_a_second_run_is_refused_until_it_takes_over(pool: MockPool, session: Session, new: str) -> None:
    """The mark of a run that is lost is in the way, and says whose it is."""
    journal = half_done(pool, session)
    plan = rolling_upgrade.adopt(session)
    assert any(f"another run ({journal.run_id}) is at work" in problem for problem in plan.problems)
    plan = rolling_upgrade.adopt(session, take_over=True)
    assert plan.problems == ()
    assert rolling_upgrade.run(session, plan, pool.hands, take_over=True).ok
    assert versions(pool) == [new] * 3


def test_an_upgrade_that_was_left_half_done_is_adopted(pool: MockPool, session: Session, old: str, new: str) -> None:
    """Without a journal: the rest of the hosts, from the pool as it is; no backup, which would be the stub."""
    half_done(pool, session)
    session.pool.remove_from_other_config(next(iter(session.pool.get_all())), MARK)
    plan = rolling_upgrade.plan(session)
    assert any("adopt it, or revert it" in problem for problem in plan.problems)
    plan = rolling_upgrade.adopt(session)
    assert (plan.source, plan.target, plan.problems) == (old, new, ())
    assert [plan.names[step.host] for step in plan.steps if step.action == "install"] == ["host2", "host3"]
    assert "backup" not in {step.action for step in plan.steps}
    assert rolling_upgrade.run(session, plan, pool.hands).ok
    pool.conclude()
    assert versions(pool) == [new] * 3


def test_a_pool_whose_member_is_newer_than_the_master_is_not_adopted(
    pool: MockPool, session: Session, new: str
) -> None:
    """Going on would make it worse."""
    half_done(pool, session)
    facts = observe(session)
    hosts = {
        uuid: type(host)(**{**vars(host), **_as(facts, facts.hosts[facts.master], host)})
        for uuid, host in facts.hosts.items()
    }
    turned = type(facts)(**{**vars(facts), "hosts": hosts, "mark": ""})
    (problem,) = rolling_upgrade.make_plan(turned, new, half_done=True).problems
    assert "newer than the master" in problem


def _as(facts: Any, master: Any, host: Any) -> dict[str, Any]:
    """The release that a host would have if the master had been left out."""
    other = next(other for other in facts.hosts.values() if other.release != master.release)
    source = other if host is master else master
    return {"release": source.release, "version": source.version}


def test_the_journal_ends_on_a_full_disk_and_the_run_stops(pool: MockPool, tmp_path: Path) -> None:
    """What cannot be written down is not done: the run stops with one sentence, and goes on when there is room."""
    session = session_on(pool, Fate())
    plan = rolling_upgrade.plan(session)
    path = tmp_path / "journal"
    with Journal.create(plan, path) as journal:
        pages = journal._db.execute("PRAGMA page_count").fetchone()[0]
        journal._db.execute(f"PRAGMA max_page_count={pages + 1}")
        journal.note("x" * 3500)
        (problem,) = rolling_upgrade.run(session, plan, pool.hands, journal=journal).problems
        assert "database or disk is full; see to the disk and resume" in problem
    with Journal.open(path, to_run=True) as journal:
        assert 0 < journal.finished() < len(plan.steps)
        assert rolling_upgrade.run(session, plan, pool.hands, journal=journal).ok


@pytest.mark.parametrize("release", ["8.2"])
def test_a_backup_that_cannot_be_written_stops_the_run_before_it_begins(
    pool: MockPool, session: Session, tmp_path: Path
) -> None:
    """Without it nothing is changed; once it can be written, the run goes on."""
    plan = rolling_upgrade.plan(session)
    journal, where = Journal.create(plan), tmp_path / "no" / "dump.xml"
    (problem,) = rolling_upgrade.run(session, plan, pool.hands, journal=journal, backup_to=where).problems
    assert f"{where} cannot be written: there is no folder {where.parent}: make it first; see to it and" in problem
    assert observe(session).mark == ""
    where.parent.mkdir()
    assert rolling_upgrade.run(session, plan, pool.hands, journal=journal, backup_to=where).ok
    assert where.exists()
