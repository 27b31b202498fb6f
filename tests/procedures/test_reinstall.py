"""A host is installed again: settings and guests preserved, on each release, as a member, a master, and alone."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import processes
import pytest
from chaos import Fate, Killed, MortalHands, kills, mortal, session_on
from pools import RELEASES, reach, row, unharmed

from mockserver import MockPool
from mockserver.invariants import sound
from xenctl.procedures import picture, reinstall, running
from xenctl.procedures.answer_file import AnswerFile, AnswerFileError, Place, write
from xenctl.procedures.hands import hands_for
from xenctl.procedures.journal import Journal
from xenctl.procedures.observe import observe
from xenctl.procedures.plan import Plan
from xenctl.procedures.reinstall import Guests
from xenctl.procedures.running import Outcome, Run
from xenctl.releases import find

URL = "http://10.9.9.9/media"
PACK = ("acme:agent", "Agent, version 1.0")


def made(release: str = "8.2", hosts: int = 3, **what: Any) -> MockPool:
    pool = MockPool.create(**{"hosts": hosts, "vms": 3 * hosts, "release": release, **what})
    pool.watch(*sound())
    return pool


def carried_out(
    pool: MockPool, plan: Plan, hands: Any = None, journal: Journal | None = None
) -> tuple[Outcome, Journal]:
    kept = journal or Journal.create(plan)
    return Run(reach(pool), plan, hands or pool.hands, kept).carry_out(), kept


def states(pool: MockPool) -> dict[str, tuple[str, str]]:
    """Power state and host of each guest, by name."""
    facts = observe(reach(pool))
    return {vm.name: (vm.state, vm.host) for vm in facts.vms.values()}


def settings(pool: MockPool) -> dict[str, Any]:
    """What every host and guest is configured to be."""
    session = reach(pool)
    return picture.take(session, hosts=session.host.get_all(), vms=None)


def installations(pool: MockPool, host: str) -> tuple[bool, int]:
    """Whether the host has a backup of an installation, and how often it booted."""
    machine = pool.machine(host)
    return machine.backup is not None, machine.boots


@pytest.mark.parametrize(
    ("hosts", "host"), [(3, "host1"), (3, "host2"), (1, "host1")], ids=["master", "member", "alone"]
)
@pytest.mark.parametrize("release", RELEASES)
def test_a_host_is_installed_again_and_everything_is_as_it_was(release: str, hosts: int, host: str) -> None:
    """Its identity, settings, networks, storage, guests and their bytes; what ran runs there again; packs are lost."""
    pool = made(release, hosts)
    pool.hands.install_pack(host, *PACK)
    before, ran = settings(pool), states(pool)
    identity = pool.machine(host).system.installation_uuid
    plan = reinstall.plan(reach(pool), host)
    assert (plan.problems, plan.warnings) == ((), (f"{host} loses acme:agent (Agent, version 1.0)",))
    outcome, journal = carried_out(pool, plan)
    assert outcome.problems == []
    assert installations(pool, host)[0]
    assert pool.machine(host).system.installation_uuid == identity
    assert picture.differences(before, settings(pool)) == []
    suspended = {name: at for name, at in ran.items() if at[0] == "Suspended"}
    after = states(pool)
    assert {name: at for name, at in after.items() if name not in suspended} == {
        name: at for name, at in ran.items() if name not in suspended
    }
    assert journal.get("lost") == dict([PACK])
    assert unharmed(pool)


@pytest.mark.parametrize("host", ["host1", "host2"])
@pytest.mark.parametrize("release", RELEASES)
def test_guests_may_go_to_other_hosts_meanwhile(release: str, host: str) -> None:
    """None that can move is shut down, and each comes home."""
    pool = made(release)
    ran, down = states(pool), set[str]()
    plan = reinstall.plan(reach(pool), host, guests=Guests(evacuate=True))
    assert plan.problems == ()
    watched: Any = Fate()

    def look(*_: Any) -> None:
        down.update(name for name, (state, _) in states(pool).items() if state != ran[name][0])

    kept = Journal.create(plan)
    away = {"halt", "reinstall", "return"}
    session = session_on(pool, watched)
    numbers = [number for number, step in enumerate(plan.steps, 1) if step.action not in away]
    outcome = Run(session, plan, pool.hands, kept).carry_out(lambda number, *_: look() if number in numbers else None)
    assert outcome.problems == []
    assert down == {vm.name for vm in plan.downtime}
    assert states(pool) == ran
    assert unharmed(pool)


@pytest.mark.parametrize("host", ["host1", "host2"])
@pytest.mark.parametrize("release", ["6.2", "7.1", "8.2"])
def test_a_host_installs_itself_again(release: str, host: str) -> None:
    """From 6.0 on, without anybody at the machine."""
    pool = made(release, 2)
    pool.hands.publish(URL, release)
    before, session = settings(pool), reach(pool)
    hands = hands_for(f"plugin:{URL}", session)
    plan = reinstall.plan(session, host, hands=hands)
    assert [step.action for step in plan.steps if step.action in ("halt", "prepare", "boot-installer")] == [
        "prepare",
        "boot-installer",
    ]
    outcome, _ = carried_out(pool, plan, hands)
    assert outcome.problems == []
    assert installations(pool, host)[0]
    assert picture.differences(before, settings(pool)) == []
    assert unharmed(pool)


@pytest.mark.parametrize("release", ["4.1", "5.6", "8.2"])
def test_an_answer_file_makes_the_choice(release: str) -> None:
    """The medium asks nobody; the file must be one that preserves."""
    pool = made(release)
    data = write(AnswerFile("upgrade", "sda", (Place("local"),)), find(release))
    before = settings(pool)
    plan = reinstall.plan(reach(pool), "host2", answer_file=data)
    outcome, _ = carried_out(pool, plan)
    assert outcome.problems == []
    assert installations(pool, "host2")[0]
    assert picture.differences(before, settings(pool)) == []


@pytest.mark.parametrize("mode", [b'mode="reinstall"', b'mode="fresh"', b""])
def test_an_answer_file_that_does_not_preserve_is_refused(mode: bytes) -> None:
    """Before anything is changed."""
    data = b"<installation " + mode + b"><source type='local'/><primary-disk>sda</primary-disk>"
    data += b"<admin-interface name='eth0' proto='dhcp'/></installation>"
    with pytest.raises(AnswerFileError, match="does not preserve settings and guests: the mode that does is upgrade"):
        reinstall.plan(reach(made()), "host2", answer_file=data)


class Wrong:
    """The machine room, with somebody who does something wrong."""

    def __init__(self, pool: MockPool, **instead: Any) -> None:
        self._hands, self._instead, self.answered = pool.hands, instead, list[str]()

    def __getattr__(self, name: str) -> Any:
        return self._instead.get(name) or getattr(self._hands, name)

    def answer(self, host: str, choice: str) -> None:
        self.answered.append(choice)
        self._hands.answer(host, choice)


@pytest.mark.parametrize(
    ("instead", "said"),
    [
        ({"identified": lambda host: "4.1.0"}, "the installer found 4.1.0 and offers upgrade, fresh"),
        ({"offers": lambda host: ("fresh",)}, "the installer found 8.2.0 and offers fresh"),
    ],
)
def test_an_installer_that_would_not_preserve_is_given_no_answer(instead: dict[str, Any], said: str) -> None:
    """It found another installation, or does not offer to preserve it."""
    pool = made()
    hands = Wrong(pool, **instead)
    outcome, _ = carried_out(pool, reinstall.plan(reach(pool), "host2"), hands)
    (problem,) = outcome.problems
    assert said in problem
    assert "only an upgrade of 8.2.0 preserves settings and guests, so nothing was chosen" in problem
    assert hands.answered == []
    assert pool.machine("host2").backup is None
    assert unharmed(pool)


def test_a_host_that_booted_its_disk_is_not_called_installed() -> None:
    """It runs, of the right release; going on shuts it down again and installs it."""
    pool = made()
    hands = Wrong(pool, insert_media=lambda host, release: None)
    plan = reinstall.plan(reach(pool), "host2")
    outcome, journal = carried_out(pool, plan, hands)
    (problem,) = outcome.problems
    assert "host2 runs, and nobody saw its installer begin: it may have booted its disk" in problem
    assert pool.machine("host2").backup is None
    outcome, _ = carried_out(pool, plan, pool.hands, journal)
    assert outcome.problems == []
    assert pool.machine("host2").backup is not None
    assert unharmed(pool)


def test_what_differs_afterwards_is_named() -> None:
    """Somebody changed a setting meanwhile: which, from what, to what."""
    pool = made()
    plan = reinstall.plan(reach(pool), "host1")
    journal, last = Journal.create(plan), len(plan.steps)

    def meddle(number: int, *_: Any) -> None:
        if number == last - 1:
            vm = next(vm for vm in pool.store.table("VM").values() if vm["name_label"] == "vm01")
            pool.store.write(vm, name_description="other")
            network = next(iter(pool.store.table("network").values()))
            pool.store.write(network, MTU=9000)

    outcome = Run(reach(pool), plan, pool.hands, journal).carry_out(meddle)
    (problem,) = outcome.problems
    assert "VM vm01: name_description was '' and is 'other'" in problem
    assert "MTU was 1500 and is 9000" in problem


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (lambda pool: pool.store.write(pool.store.get("pool", pool.store.table("pool").keys().__iter__().__next__()),
                                       ha_enabled=True), "high availability is on: switch it off first"),
        (lambda pool: pool.store.write(row(pool, "host", "host3"), enabled=False), "host3 is disabled"),
        (lambda pool: pool.hands.power_off("host3") or pool.clock.advance(900), "host3 is not running: two hosts away"),
        (lambda pool: pool.store.write(row(pool, "host", "host3"), software_version={
            **row(pool, "host", "host3")["software_version"], "product_version": "8.1.0"}), "versions are mixed"),
        (lambda pool: pool.store.write(row(pool, "VM", "vm02"), current_operations={"t": "snapshot"}),
         "vm02 has an operation going on (snapshot)"),
    ],
    ids=["HA", "disabled", "down", "mixed", "busy"],
)  # fmt: skip
def test_what_stands_against_it_is_said_and_nothing_is_done(spoil: Any, said: str) -> None:
    """All of it, in the plan, which has no steps then."""
    pool = made()
    spoil(pool)
    plan = reinstall.plan(reach(pool), "host2")
    assert any(said in problem for problem in plan.problems), plan.problems
    assert plan.steps == ()


def test_a_pool_of_one_cannot_be_evacuated() -> None:
    """There is nowhere to go."""
    plan = reinstall.plan(reach(made(hosts=1)), "host1", guests=Guests(evacuate=True))
    assert plan.problems == ("host1 cannot be evacuated: no other host of the pool is up and enabled",)


def test_an_unknown_host_is_said() -> None:
    """With those that there are."""
    with pytest.raises(ValueError, match="no host is called 'nobody'; there are host1, host2, host3"):
        reinstall.plan(reach(made()), "nobody")


def test_hosts_before_6_0_do_not_install_themselves() -> None:
    """Said before anything is changed."""
    pool = made("5.6")
    session = reach(pool)
    plan = reinstall.plan(session, "host2", hands=hands_for(f"plugin:{URL}", session))
    assert plan.problems == (
        "host2 runs 5.6.0: hosts install themselves from 6.0.0 on; install it by hand (--hands operator)",
    )


def test_an_abandoned_reinstallation_leaves_the_host_enabled_and_unmarked() -> None:
    """Given up before the host went down: suspended guests are suspended again."""
    pool = made("4.0.1")
    before, plan = states(pool), reinstall.plan(reach(pool), "host2", guests=Guests(evacuate=True))
    journal, fate = Journal.create(plan), Fate()
    number = next(n for n, step in enumerate(plan.steps, 1) if step.action == "migrate")
    run = Run(session_on(pool, fate), plan, pool.hands, journal)
    with pytest.raises(Killed):
        run.carry_out(lambda n, *_: setattr(fate, "dead", n == number))
    assert running.abandon(reach(pool), journal, pool.hands) == []
    assert states(pool) == before
    assert row(pool, "host", "host2")["enabled"]
    assert observe(reach(pool)).mark == ""


@pytest.mark.chaos
@pytest.mark.parametrize("route", ["media", "plugin"])
def test_killed_anywhere_and_resumed_it_ends_the_same(route: str, tmp_path: Path) -> None:
    """Before and after every call, every act of the hands and every write of the journal."""

    def small() -> MockPool:
        pool = made("4.0.1" if route == "media" else "6.2", 2)
        pool.hands.publish(URL, "6.2")
        return pool

    def attempt(pool: MockPool, path: Path, fate: Fate) -> Outcome:
        session = session_on(pool, fate)
        hands: Any = MortalHands(pool.hands, fate) if route == "media" else hands_for(f"plugin:{URL}", session)
        if path.exists():
            journal = mortal(Journal.open(path, to_run=True), fate)
            plan = journal.plan
        else:
            plan = reinstall.plan(session, "host2", hands=None if route == "media" else hands)
            journal = mortal(Journal.create(plan, path), fate)
        try:
            return Run(session, plan, hands, journal).carry_out()
        finally:
            journal.close()

    pool, fate = small(), Fate()
    assert attempt(pool, tmp_path / "undisturbed", fate).problems == []
    final, points = observe(reach(pool)), fate.points
    for number, after in kills(points, 12, seed=5):
        pool, path, fate = small(), tmp_path / f"{number}-{after}", Fate(number, after)
        where = f"{'after' if after else 'before'} {points[number - 1]} (point {number})"
        with pytest.raises(Killed):
            attempt(pool, path, fate)
        assert attempt(pool, path, Fate()).problems == [], where
        assert replace(observe(reach(pool)), mark="") == replace(final, mark=""), where
        assert pool.machine("host2").backup is not None, where
        assert unharmed(pool), where


DATA = Path(__file__).parents[1] / "data"


def command(*words: str) -> processes.Said:
    return processes.xenctl("reinstall", *words)


def test_the_command_rehearses_it() -> None:
    """On a fake pool that is loaded from a dump."""
    done = command("--rehearse", str(DATA / "pool-4.0.1.xml"), "--host", "xen01", "--json")
    assert done.returncode == 0, done.stdout + done.stderr
    found = json.loads(done.stdout)
    assert (found["ok"], found["state"], found["violations"]) == (True, "done", [])


@pytest.mark.parametrize(
    ("words", "status", "said"),
    [
        (("--rehearse", "DUMP"), 2, "Missing option '--host'"),
        (("--host", "x", "--rehearse", "DUMP"), 2, "no host is called 'x'"),
        (("--host", "xen01"), 2, "give --journal FILE"),
        (("--host", "xen01", "--rehearse", "DUMP", "--answer-file", "/no/file"), 2, "No such file"),
        (("--host", "xen01", "--rehearse", "DUMP", "--answer-file", "DUMP"), 2, "is no answer file"),
        (("--host", "xen01", "--rehearse", "DUMP", "--timeout", "0"), 2, "timeout a number of seconds above 0"),
    ],
)
def test_bad_input_is_one_sentence(words: tuple[str, ...], status: int, said: str) -> None:
    """What is wrong, and nothing changed."""
    done = command(*(str(DATA / "pool-4.0.1.xml") if word == "DUMP" else word for word in words))
    assert done.returncode == status, done.stderr
    assert said in done.stderr
    assert "Traceback" not in done.stderr
