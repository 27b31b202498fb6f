"""A failed member that comes back: forgotten, installed afresh, joined again, its guests at home."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import pytest
from chaos import Fate
from pools import RELEASES, made, reach, row, unharmed
from recovery import ROOT, carried_out, killed_anywhere, running, status

from mockserver import MockPool
from xenctl.errors import ConnectionLost
from xenctl.procedures import marking, rejoin, rolling_upgrade
from xenctl.procedures.hands_operator import Operator
from xenctl.procedures.journal import Journal
from xenctl.procedures.observe import observe
from xenctl.procedures.running import Run


def session_of(pool: MockPool) -> str:
    return str(pool.dispatch("session.login_with_password", [pool.username, pool.password]))


def failed(release: str = "8.2", **what: Any) -> MockPool:
    """A pool whose second host lost its power."""
    pool = made(release, **what)
    pool.hands.power_off("host2")
    return pool


@pytest.mark.parametrize("release", RELEASES)
def test_a_failed_member_comes_back_as_a_new_one(release: str) -> None:
    """Under its name and with its guests, but another uuid, which is told; what was on its own storage is gone."""
    pool = made(release)
    before, old = running(pool), row(pool, "host", "host2")["uuid"]
    pool.store.write(row(pool, "host", "host2"), name_description="in the cellar")
    prefers = row(pool, "VM", "vm02")
    pool.store.write(prefers, affinity=row(pool, "host", "host2").ref)
    pool.hands.power_off("host2")
    plan = rejoin.plan(reach(pool), "host2")
    assert any("Local storage on host2 is lost" in warning for warning in plan.warnings)
    outcome, journal = carried_out(pool, plan)
    assert outcome.problems == []
    new = row(pool, "host", "host2")
    assert new["uuid"] != old
    assert f"host2 is known to the pool by a new uuid, {new['uuid']}; it was {old}" in journal.get("report")
    assert new["name_description"] == "in the cellar"
    assert prefers["affinity"] == new.ref
    assert running(pool) == before
    assert status(pool, "host1").ok
    facts = observe(reach(pool))
    assert {host.version for host in facts.hosts.values()} == {facts.hosts[facts.master].version}
    assert all(host.enabled and host.live and not host.unplugged for host in facts.hosts.values())
    assert unharmed(pool)


def test_disks_on_its_own_storage_are_given_up_only_where_that_is_agreed_to() -> None:
    """They are named with their guests before, and after."""
    pool = made()
    pool.store.write(row(pool, "VDI", "disk of vm02"), SR=row(pool, "SR", "Local storage on host2").ref)
    pool.hands.power_off("host2")
    plan = rejoin.plan(reach(pool), "host2")
    assert plan.problems == ("disks on storage of host2 alone would be lost (1): agree to that (--accept-loss)",)
    assert plan.steps == ()
    assert "Local storage on host2 is lost, with disk of vm02 of vm02" in plan.warnings
    plan = rejoin.plan(reach(pool), "host2", accept_loss=True)
    outcome, journal = carried_out(pool, plan)
    assert outcome.problems == []
    assert "Local storage on host2 is lost with host2: disk of vm02 of vm02" in journal.get("report")
    assert row(pool, "VM", "vm02")["power_state"] == "Halted"


def test_a_host_that_runs_is_not_installed_afresh() -> None:
    """Neither the master, nor one that answers."""
    pool = made()
    assert rejoin.plan(reach(pool), "host1").problems == ("host1 is the master, and it answers: it is not lost",)
    outcome, _ = carried_out(pool, rejoin.plan(reach(pool), "host2"))
    assert "host2 answers at 10.0.0.2, so it is not lost" in outcome.problems[0]
    assert pool.machine("host2").boots == made().machine("host2").boots


def test_a_host_that_somebody_switched_on_meanwhile_is_not_overwritten() -> None:
    """It runs what was on its disks."""
    pool = failed()
    plan = rejoin.plan(reach(pool), "host2")
    journal = Journal.create(plan)
    number = next(n for n, step in enumerate(plan.steps, 1) if step.action == "install-afresh")

    def on_step(at: int, *_: Any) -> None:
        if at == number:
            pool.hands.power_on("host2")
            pool.clock.advance(900)

    outcome = Run(reach(pool), plan, pool.hands, journal, credentials=ROOT).carry_out(on_step)
    assert "host2 was switched on, and runs what was on its disks" in outcome.problems[0]


class Person(io.StringIO):
    """Somebody without a terminal who does what is told, if at all: the installation of host2."""

    def __init__(self, pool: MockPool, choice: str) -> None:
        super().__init__()
        self.pool, self.choice = pool, choice

    def write(self, text: str) -> int:
        done = super().write(text)
        if "Perform clean installation" in text and self.choice:
            hands, clock = self.pool.hands, self.pool.clock
            hands.insert_media("host2", "8.2")
            hands.power_on("host2")
            clock.run_until(clock.now() + 3600, lambda: hands.power("host2") == "installer")
            hands.answer("host2", self.choice)
        return done


def operator(pool: MockPool, choice: str) -> tuple[Operator, Person]:
    person = Person(pool, choice)
    return Operator(reach(pool), source=io.StringIO(), out=person), person


def test_a_person_is_told_to_install_afresh_and_never_to_upgrade() -> None:
    """With the address and the password that the host is to have; what the hands see over the network is enough."""
    pool = failed()
    before = running(made())
    hands, person = operator(pool, "fresh")
    outcome, _ = carried_out(pool, rejoin.plan(reach(pool), "host2", off=True), hands=hands)
    assert (outcome.problems, outcome.paused) == ([], "")
    told = person.getvalue()
    assert "host2 (10.0.0.2) is to be installed afresh:" in told
    assert "Put the medium of XenServer 8.2.0 into its drive" in told
    assert 'Choose "Perform clean installation", also where "Upgrade ..." is offered' in told
    assert 'Never choose "Upgrade ..." or "Restore ..."' in told
    assert "Give it the address 10.0.0.2, and the pool's password for root." in told
    assert 'Choose the line "Upgrade' not in told
    assert told.count("is to be installed afresh") == 1
    assert status(pool, "host1").ok
    assert running(pool) == before
    assert unharmed(pool)


def test_a_person_who_upgrades_all_the_same_is_noticed() -> None:
    """What comes up is the host that was forgotten: it is not joined, and the run says what to look at."""
    pool = failed()
    hands, _ = operator(pool, "upgrade")
    outcome, journal = carried_out(pool, rejoin.plan(reach(pool), "host2", off=True), hands=hands)
    assert (
        "if it runs what was on its disks, switch it off and go on; no new installation comes up at 10.0.0.2"
        in (outcome.problems[0])
    )
    pool.hands.power_off("host2")
    again, _ = operator(pool, "fresh")
    outcome, _ = carried_out(pool, journal.plan, journal=journal, hands=again)
    assert outcome.problems == []
    assert status(pool, "host1").ok


def test_a_person_who_was_told_is_told_again_by_whoever_resumes() -> None:
    """Nobody knows how far they are: the list begins with what to do where the installer is at work already."""
    pool = failed()

    class Interrupted(Person):
        def write(self, text: str) -> int:
            done = super().write(text)
            if "Perform clean installation" in text:
                raise KeyboardInterrupt
            return done

    plan = rejoin.plan(reach(pool), "host2", off=True)
    first = Operator(reach(pool), source=io.StringIO(), out=Interrupted(pool, ""))
    outcome, journal = carried_out(pool, plan, hands=first)
    assert "interrupted" in outcome.paused
    hands, person = operator(pool, "fresh")
    outcome, _ = carried_out(pool, plan, journal=journal, hands=hands)
    assert outcome.problems == []
    assert "If its installer is at work already, let it end, and leave out the rest." in person.getvalue()


@pytest.mark.parametrize(
    "method",
    ["Async.pool.join", "host.declare_dead", "host.destroy", "SR.forget", "Async.VM.start_on", "Async.VM.pool_migrate"],
)
def test_an_answer_that_is_lost_says_nothing_of_the_effect(method: str) -> None:
    """The pool is looked at again, and the run goes on."""
    pool = made()
    before, lost = running(pool), list[str]()
    pool.hands.power_off("host2")

    class Losing(Fate):
        def meets(self, what: str, deed: Any) -> Any:
            answer = deed()
            if what == method and not lost:
                lost.append(what)
                raise ConnectionLost("the connection broke", host="", method=what)
            return answer

    outcome, _ = carried_out(pool, rejoin.plan(reach(pool), "host2"), reach(pool, Losing()))
    assert lost == [method]
    assert outcome.problems == []
    assert running(pool) == before
    assert unharmed(pool)


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (lambda me: {"software_version": {**me["software_version"], "platform_version": "9"}}, "another release"),
        (lambda me: {"cpu_info": {**me["cpu_info"], "vendor": "Another"}}, "its software or its processors differ"),
        (lambda me: {"external_auth_type": "AD"}, "the pool has a directory of users"),
    ],
)
def test_why_a_host_may_not_join_is_told_in_words(spoil: Any, said: str) -> None:
    """With what to do about it."""
    pool = failed()
    plan = rejoin.plan(reach(pool), "host2")
    journal = Journal.create(plan)
    number = next(n for n, step in enumerate(plan.steps, 1) if step.action == "join")

    def on_step(at: int, *_: Any) -> None:
        if at == number:
            there = pool.machine("host2").pool.store
            (me,) = there.table("host").values()
            there.write(me, **spoil(me))

    outcome = Run(reach(pool), plan, pool.hands, journal, credentials=ROOT).carry_out(on_step)
    assert f"host2 may not join: {said}" in outcome.problems[0]


def half_upgraded(pool: MockPool, to: str) -> str:
    """Upgrade a pool's master, and have the installation of its first member fail; the name of that one."""
    plan = rolling_upgrade.plan(reach(pool), to)
    journal = Journal.create(plan)
    turns = [n for n, step in enumerate(plan.steps, 1) if step.action == "turn"]
    failing = plan.hosts[1]
    number = next(
        n
        for n, step in enumerate(plan.steps, 1)
        if n > turns[1] and step.action == "install" and step.host == failing.uuid
    )

    class Stop(BaseException):
        pass

    def on_step(at: int, *_: Any) -> None:
        if at == number:
            raise Stop

    with pytest.raises(Stop):
        Run(reach(pool), plan, pool.hands, journal).carry_out(on_step)
    assert pool.hands.power(failing.uuid) == "off"
    pool.store.write(
        pool.store.pool(),
        other_config={k: v for k, v in pool.store.pool()["other_config"].items() if k != "xenctl-run"},
    )
    return failing.name


def adopted(pool: MockPool) -> bool:
    """Whether the rest of an upgrade that was left half done is done."""
    rest = rolling_upgrade.adopt(reach(pool), take_over=True)
    outcome, _ = carried_out(pool, rest, take_over=True)
    assert outcome.problems == []
    return len({host.version for host in observe(reach(pool)).hosts.values()}) == 1


@pytest.mark.parametrize(("release", "to"), [("4.0.1", "4.1"), ("4.1", "5.0"), ("5.0", "5.5")])
def test_an_upgrade_whose_member_failed_goes_on(release: str, to: str) -> None:
    """The master has the new release, a member's installation failed: it is made anew with that release, and the upgrade
    adopted."""
    pool = MockPool.create(hosts=3, vms=6, release=release)
    before = running(pool)
    failing = half_upgraded(pool, to)
    outcome, _ = carried_out(pool, rejoin.plan(reach(pool), failing))
    assert outcome.problems == []
    assert adopted(pool)
    assert set(running(pool)) >= set(before)
    assert {host.name for host in observe(reach(pool)).hosts.values()} == {"host1", "host2", "host3"}
    assert unharmed(pool)


@pytest.mark.parametrize(("release", "to"), [("6.2", "6.5"), ("7.1", "8.2")])
def test_where_editions_changed_their_names_the_others_are_upgraded_first(release: str, to: str) -> None:
    """The old hosts' edition is none that the new installation knows: the run says so, and goes on after that."""
    pool = MockPool.create(hosts=3, vms=6, release=release)
    before = running(pool)
    failing = half_upgraded(pool, to)
    plan = rejoin.plan(reach(pool), failing)
    outcome, journal = carried_out(pool, plan)
    assert "upgrade the other hosts first (xenctl upgrade adopt --take-over), mark the pool" in outcome.problems[0]
    assert adopted(pool)
    outcome, _ = carried_out(pool, plan, journal=journal)
    assert "is not marked with this run any more" in outcome.problems[0]
    marking.take_back(reach(pool), journal.run_id)
    outcome, _ = carried_out(pool, plan, journal=journal)
    assert outcome.problems == []
    assert set(running(pool)) >= set(before)
    assert {host.name for host in observe(reach(pool)).hosts.values()} == {"host1", "host2", "host3"}
    assert unharmed(pool)


def test_a_host_that_came_with_another_edition_is_given_the_pools() -> None:
    """As far as its licence allows; the report says so."""
    pool = made("8.2")
    for name in ("host1", "host2", "host3"):
        pool.dispatch("host.apply_edition", [session_of(pool), row(pool, "host", name).ref, "express", False])
    pool.hands.power_off("host2")
    outcome, journal = carried_out(pool, rejoin.plan(reach(pool), "host2"))
    assert outcome.problems == []
    assert row(pool, "host", "host2")["edition"] == "express"
    assert "host2 was given the edition express, as the pool has it" in journal.get("report")


@pytest.mark.chaos
@pytest.mark.parametrize("release", ["4.0.1", "8.2"])
def test_it_comes_back_wherever_it_is_killed(tmp_path: Path, release: str) -> None:
    """With its guests at home, each once, their disks whole."""
    want = running(made(release, vms=6))
    killed_anywhere(
        tmp_path,
        lambda: failed(release, vms=6),
        lambda pool: rejoin.plan(reach(pool), "host2"),
        lambda pool: running(pool) == want and unharmed(pool) and status(pool, "host1").ok,
    )
