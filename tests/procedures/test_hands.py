"""The hands that install: a person at a terminal or without one, and hosts that install themselves."""

from __future__ import annotations

import io
import os
import pty
import re
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import pytest
from chaos import Fate, Killed, session_on
from pools import reach

import xenctl
from mockserver import MockPool, PoolServer
from mockserver.invariants import rolling_upgrade as invariants
from mockserver.plugins import PluginError
from xenctl.errors import ProcedureError
from xenctl.procedures import reinstall, rolling_upgrade, running
from xenctl.procedures.hands import MEDIA, PLUGIN, hands_for, route_of
from xenctl.procedures.hands_operator import Operator
from xenctl.procedures.hands_plugin import ERRORS
from xenctl.procedures.journal import Journal
from xenctl.procedures.observe import observe
from xenctl.procedures.running import Run
from xenctl.releases import find
from xenctl.session import Session

URL = "http://me:hush@10.9.9.9/media"
POLL = 0.1


# --- which hands


def test_hands_are_named() -> None:
    """Three kinds of them; two routes."""
    session = reach(MockPool.create(hosts=1, vms=0))
    assert [route_of(hands_for(text, session)) for text in ("operator", "fake:x", "plugin:http://a/b")] == [
        MEDIA,
        MEDIA,
        PLUGIN,
    ]
    for text in ("magic", "plugin:", "fake:", "operator:x"):
        with pytest.raises(ValueError, match="is none of operator, plugin:INSTALL_URL and fake:TOKEN"):
            hands_for(text, session)
    with pytest.raises(ValueError, match="takes a URL") as caught:
        hands_for("plugin:smb://me:hush@server/x", session)
    assert "hush" not in str(caught.value)


# --- a person


class Person:
    """Somebody at the machines who does what is told, and types what stands on the screens."""

    def __init__(self, pool: MockPool, host: str, release: str, *answers: str) -> None:
        self.pool, self.host, self.release, self.answers = pool, host, release, list(answers)
        self.told = ""

    def hear(self, text: str) -> str:
        """What is typed on having heard this."""
        self.told += text
        hands = self.pool.hands
        if "Which version stands" in text:
            if hands.power(self.host) == "off":
                hands.insert_media(self.host, self.release)
                hands.power_on(self.host)
            self.see("installer")
            return self.answers.pop(0)
        if 'Choose the line "Upgrade' in text and "It is waited for" in text:
            hands.answer(self.host, "upgrade")
        return ""

    def see(self, state: str) -> None:
        """Watch the machine."""
        deadline = time.monotonic() + 60
        while self.pool.hands.power(self.host) != state:
            assert time.monotonic() < deadline
            threading.Event().wait(0.01)


@contextmanager
def at_a_terminal(session: Session, person: Person) -> Iterator[Operator]:
    """An operator whose terminal the person reads and types into."""
    ours, theirs = pty.openpty()
    stream = os.fdopen(theirs, "r+b", buffering=0)
    out = io.TextIOWrapper(os.fdopen(os.dup(theirs), "wb", buffering=0), write_through=True)

    def live() -> None:
        heard = ""
        while True:
            try:
                heard += os.read(ours, 4096).decode()
            except OSError:
                return
            if heard.endswith(("already) ", "waited for.\r\n", "switch it off.\r\n")):
                typed = person.hear(heard)
                heard = ""
                if typed:
                    os.write(ours, typed.encode())

    thread = threading.Thread(target=live, daemon=True)
    thread.start()
    source = io.TextIOWrapper(stream)  # type: ignore[arg-type]
    try:
        yield Operator(session, source=source, out=out, poll=POLL)
    finally:
        out.close()
        source.close()
        thread.join(10)
        os.close(ours)


@contextmanager
def served(**shape: Any) -> Iterator[tuple[MockPool, Session]]:
    """A pool on sockets, whose clock runs whenever nobody asks."""
    pool = MockPool.create(**{"hosts": 2, "vms": 4, "release": "6.2", **shape})
    with PoolServer(pool) as server, xenctl.connect(server.url, pool.username, pool.password) as session:
        yield pool, session


def reinstalled(session: Session, hands: Any, host: str = "host2") -> tuple[Any, Journal]:
    plan = reinstall.plan(session, host, hands=hands)
    assert plan.problems == ()
    journal = Journal.create(plan)
    session.hosts = tuple(f"{session.origin.rpartition('//')[0]}//{one.address}" for one in plan.hosts if one.address)
    return Run(session, plan, hands, journal, poll=POLL).carry_out(), journal


@pytest.mark.parametrize("host", ["host1", "host2"])
def test_a_person_is_told_what_to_do_and_asked_what_only_they_see(host: str, release: str, old: str) -> None:
    """At a terminal: the steps in numbers, what never to choose, and one question."""
    with served(release=release) as (pool, session):
        person = Person(pool, host, release, f"{old}\n")
        with at_a_terminal(session, person) as operator:
            outcome, _ = reinstalled(session, operator, host)
        assert outcome.problems == []
        assert pool.machine(host).backup is not None
    assert f"Put the medium of {find(release).name} into its drive" in person.told
    assert 'Never choose "Perform clean installation"' in person.told
    assert person.told.count("Which version stands") == 1


@pytest.mark.parametrize(
    ("typed", "said"),
    [
        (["none\n"], "the installer found nothing that it upgrades and offers fresh"),
        (["6.1\n"], "the installer found 6.1.0 and offers upgrade, fresh"),
        (["what\n", "6.1.0\n"], "the installer found 6.1.0 and offers upgrade, fresh"),
    ],
)
def test_a_person_who_sees_something_else_is_told_to_choose_nothing(typed: list[str], said: str, release: str) -> None:
    """And the run stops; it can be gone on with."""
    with served(release=release) as (pool, session):
        person = Person(pool, "host2", release, *typed)
        with at_a_terminal(session, person) as operator:
            outcome, _ = reinstalled(session, operator)
        (problem,) = outcome.problems
        assert said in problem
        assert pool.machine("host2").backup is None
    assert "Choose nothing on its screen." in person.told


class Walker(Person):
    """Somebody who goes from host to host with the medium of the new release."""

    def hear(self, text: str) -> str:
        named = re.findall(r"host\d+", text)
        self.host = named[-1] if named else self.host
        while self.pool.hands.power(self.host) == "stopping":
            threading.Event().wait(0.01)
        return super().hear(text)


def test_a_person_upgrades_a_pool(release: str, old: str, new: str) -> None:
    """One host after another, the master first: each is asked for once, and nothing that must hold is broken."""
    with served(release=release) as (pool, session):
        with pool.guard():
            for guest in pool.store.table("VM").values():
                if not guest["is_control_domain"]:
                    pool.store.write(guest, HVM_boot_policy="BIOS order")  # so that the next release starts it
        target = find(new, find(release))
        walker = Walker(pool, "host1", target.name, f"{old}\n", f"{old}\n")
        with at_a_terminal(session, walker) as operator:
            plan = rolling_upgrade.plan(session, new, hands=operator)
            assert plan.problems == ()
            pool.watch(*invariants(may_stop=[vm.uuid for vm in plan.downtime], may_stay_away=plan.away))
            session.hosts = tuple(f"{session.origin.rpartition('//')[0]}//{one.address}" for one in plan.hosts)
            outcome = rolling_upgrade.run(session, plan, operator, accept_downtime=True, poll=POLL)
        assert outcome.problems == []
        assert {machine.system.release.product_version for machine in pool.machines} == {new}
        pool.conclude()
        assert [violation.as_dict() for violation in pool.violations] == []
    assert walker.told.count("Which version stands") == 2
    assert [host.name for host in plan.hosts] == re.findall(r"(host\d) \([\d.]+\) is to be \w+:", walker.told)


def test_a_person_who_goes_away_stops_the_run(release: str) -> None:
    """The end of the terminal is no answer."""
    with served(release=release) as (pool, session):
        person = Person(pool, "host2", release, "\x04")
        with at_a_terminal(session, person) as operator:
            outcome, _ = reinstalled(session, operator)
        assert "nobody answers at the terminal any more" in outcome.problems[0]


def test_without_a_terminal_a_person_is_told_and_waited_for(release: str) -> None:
    """Everything at once, what never to choose with it; nothing is asked."""
    with served(release=release) as (pool, session):
        read, write = os.pipe()
        told = io.StringIO()

        def act() -> None:
            deadline = time.monotonic() + 60
            while "Never choose" not in told.getvalue() and time.monotonic() < deadline:
                threading.Event().wait(0.01)
            pool.hands.insert_media("host2", release)
            pool.hands.power_on("host2")
            person.see("installer")
            pool.hands.answer("host2", "upgrade")

        person = Person(pool, "host2", release)
        thread = threading.Thread(target=act, daemon=True)
        thread.start()
        with os.fdopen(read) as source:
            outcome, _ = reinstalled(session, Operator(session, source=source, out=told, poll=POLL))
        os.close(write)
        thread.join(10)
        assert outcome.problems == []
        assert pool.machine("host2").backup is not None
    text = told.getvalue()
    assert 'Choose the line "Upgrade ...": it preserves settings and guests.' in text
    assert 'Never choose "Perform clean installation"' in text
    assert "?" not in text


def test_a_prompt_can_be_interrupted_and_the_run_resumed(release: str, old: str) -> None:
    """Ctrl-C while a person is asked: the run is paused, and another process goes on with it."""
    with served(release=release) as (pool, session):

        class Impatient(Operator):
            def _ask(self, question: str, host: str) -> str | None:
                raise KeyboardInterrupt

        person = Person(pool, "host2", release, f"{old}\n")
        with at_a_terminal(session, person) as operator:
            impatient = Impatient(session, source=operator._source, out=operator._out, poll=POLL)
            outcome, journal = reinstalled(session, impatient)
            assert "interrupted" in outcome.paused
            again = Run(session, journal.plan, operator, journal, poll=POLL).carry_out()
        assert again.ok, again.problems
        assert pool.machine("host2").backup is not None


def test_a_person_who_takes_a_host_back_is_never_told_to_upgrade() -> None:
    """That would overwrite the backup partition. Without a terminal all is told at once, with the release to look for."""
    pool = MockPool.create(hosts=1, vms=0, release="6.2")
    session, told = reach(pool), io.StringIO()
    hands = Operator(session, source=io.StringIO(), out=told)
    hands.knows(replace(reinstall.plan(session, "host1"), target="6.1.0"))
    hands.wants("host1", "restore")
    hands.insert_media("host1", "6.2")
    hands.power_on("host1")
    assert "host1 is to be taken back:" in told.getvalue()
    assert 'Choose the line "Restore ... from backup", if it names 6.1.0.' in told.getvalue()
    assert 'Never choose "Upgrade ..." or "Perform clean installation"' in told.getvalue()
    assert 'Choose the line "Upgrade' not in told.getvalue()
    hands.answer("host1", "restore")
    assert "Where it asks for a backup, say yes" not in told.getvalue()


def test_nobody_is_told_to_destroy() -> None:
    """Whatever asks for it."""
    with pytest.raises(ProcedureError, match="fresh destroys settings and guests"):
        Operator(reach(MockPool.create(hosts=1, vms=0))).answer("x", "fresh")


# --- hosts that install themselves


@pytest.mark.parametrize(("old", "new"), [("6.2", "6.5"), ("7.1", "8.0"), ("7.1", "8.2")])
def test_a_pool_upgrades_itself(old: str, new: str) -> None:
    """Each host prepares itself and reboots, the master first; nothing that must hold is broken."""
    pool = MockPool.create(hosts=3, vms=9, release=old)
    pool.watch(*invariants())
    pool.hands.publish(URL, new)
    session = reach(pool)
    hands = hands_for(f"plugin:{URL}", session)
    plan = rolling_upgrade.plan(session, new, hands=hands)
    assert plan.problems == ()
    assert plan.route == PLUGIN
    outcome = rolling_upgrade.run(session, plan, hands, accept_downtime=True)
    pool.conclude()
    assert outcome.problems == []
    assert {host.version for host in observe(reach(pool)).hosts.values()} == {f"{new}.0"}
    assert [violation.as_dict() for violation in pool.violations] == []


@pytest.mark.parametrize(("old", "new"), [("6.2", "6.5"), ("7.1", "8.0")])
def test_a_pool_upgrades_itself_over_sockets(old: str, new: str) -> None:
    """The same with another process between."""
    with served(release=old) as (pool, session):
        pool.hands.publish(URL, new)
        hands = hands_for(f"plugin:{URL}", session)
        plan = rolling_upgrade.plan(session, new, hands=hands)
        outcome = rolling_upgrade.run(session, plan, hands, accept_downtime=True, poll=POLL)
        assert outcome.problems == []
        assert {machine.system.release.product_version for machine in pool.machines} == {f"{new}.0"}


def planned(pool: MockPool, target: str) -> tuple[Any, Any]:
    session = reach(pool)
    hands = hands_for(f"plugin:{URL}", session)
    return rolling_upgrade.plan(session, target, hands=hands), hands


def test_what_the_plugin_has_against_it_is_a_problem() -> None:
    """Asked before anything is changed; the password in the URL is never shown."""
    pool = MockPool.create(hosts=2, vms=4, release="8.1")
    plan, _ = planned(pool, "8.2")
    assert plan.problems[0] == (
        "host1 cannot install from http://10.9.9.9/media: there is no installation medium at the URL"
    )
    pool.hands.publish(URL, "8.4")
    plan, _ = planned(pool, "8.2")
    assert plan.problems[0] == "the medium at http://10.9.9.9/media is of 8.4.0, not of 8.2.0"
    pool.hands.publish(URL, "8.0")
    plan, _ = planned(pool, "8.2")
    assert "the medium at the URL is older than what the host runs" in plan.problems[0]
    del pool.plugins["prepare_host_upgrade.py"]
    plan, _ = planned(pool, "8.2")
    assert plan.problems[0].endswith(f": {TOO_OLD}")
    assert plan.steps == ()


TOO_OLD = (
    "it lacks the plugin prepare_host_upgrade.py: hosts install themselves from 6.0.0 on; install it by hand (--hands "
    "operator)"
)


@pytest.mark.parametrize("release", ["4.0.1", "4.1", "5.0", "5.6"])
@pytest.mark.parametrize("url", ["", URL])
def test_hosts_that_are_too_old_to_install_themselves_say_so(release: str, url: str) -> None:
    """Whether the check of the medium finds it or the hands do: what to do is said, and no code of an error."""
    pool = MockPool.create(hosts=2, vms=4, release=release)
    session = reach(pool)
    plan = rolling_upgrade.plan(session, hands=hands_for(f"plugin:{URL}", session), url=url)
    assert plan.steps == ()
    assert [problem.count("install it by hand (--hands operator)") for problem in plan.problems] == [1, 1]
    assert not any("XENAPI" in problem or "MESSAGE" in problem for problem in plan.problems)
    if url:
        assert plan.problems[0].startswith(f"host1 cannot install itself from that URL: {TOO_OLD}")


@pytest.mark.parametrize("code", [*ERRORS, "REPO_SERVER_ERROR_503", "NEW_ERROR"])
def test_errors_of_the_plugin_are_put_into_words(code: str) -> None:
    """Each of them; one that is not known is shown as it is."""
    pool = MockPool.create(hosts=1, vms=0, release="8.1")

    def fail(asked: Any) -> str:
        raise PluginError(code)

    pool.plugins["prepare_host_upgrade.py"] = {"testUrl": fail}
    plan = reinstall.plan(reach(pool), "host1", hands=hands_for(f"plugin:{URL}", reach(pool)))
    said = {"REPO_SERVER_ERROR_503": "the server answers with the status 503", "NEW_ERROR": "the plugin says NEW_ERROR"}
    assert plan.problems[0].endswith(ERRORS.get(code, said.get(code, "")))
    assert "hush" not in plan.problems[0]


def test_local_disks_are_in_the_way_of_new_partitions() -> None:
    """A warning up to 8.2, as its installer keeps the old ones; a problem for those that take no others."""
    pool = MockPool.create(hosts=2, vms=0, release="6.5")
    pool.hands.publish(URL, "7.0")
    sr = next(row for row in pool.store.table("SR").values() if row["name_label"] == "Local storage on host1")
    pool.store.create("VDI", pool.new_ref(), {"uuid": pool.new_uuid(), "SR": sr.ref})
    plan, _ = planned(pool, "7.0")
    assert plan.problems == ()
    assert "host1: its local storage is in the way of the new partitions" in plan.warnings


def test_a_plan_for_one_route_is_not_carried_out_by_the_other() -> None:
    """Its steps would find nobody to do them."""
    pool = MockPool.create(hosts=2, vms=0, release="6.2")
    pool.hands.publish(URL, "6.5")
    plan, _ = planned(pool, "6.5")
    with pytest.raises(ProcedureError, match=r"was planned for --hands plugin:INSTALL_URL: give that"):
        rolling_upgrade.run(reach(pool), plan, pool.hands)


def test_a_prepared_host_cannot_be_unprepared_by_a_call() -> None:
    """Abandoning the run says so, and what to do; once it has rebooted there is nothing left to undo."""
    pool = MockPool.create(hosts=2, vms=0, release="6.2")
    pool.hands.publish(URL, "6.5")
    plan, hands = planned(pool, "6.5")
    journal, fate = Journal.create(plan), Fate()
    number = next(n for n, step in enumerate(plan.steps, 1) if step.action == "boot-installer")
    with pytest.raises(Killed):
        Run(session_on(pool, fate), plan, hands, journal).carry_out(lambda n, *_: setattr(fate, "dead", n == number))
    (left,) = running.abandon(reach(pool), journal, hands)
    assert "have host1 boot its disk again: its boot loader is set to install at the next boot" in left


def test_a_host_whose_installation_failed_is_prepared_again() -> None:
    """The power fails while it installs, and it boots its old system: the rest is planned anew, and done."""
    pool = MockPool.create(hosts=2, vms=0, release="6.2")
    pool.hands.publish(URL, "6.5")
    plan, hands = planned(pool, "6.5")
    journal, session = Journal.create(plan), reach(pool)
    room, failed = pool.hands, list[str]()

    def fail(*_: Any) -> None:
        if room.power("host2") == "installing" and not failed:
            failed.append("host2")
            room.power_off("host2")
            room.power_on("host2")

    machine = pool.machine("host2")
    seen = machine.on_state
    machine.on_state = lambda m, old: (seen(m, old), pool.clock.after(60, fail))[0]  # type: ignore[func-returns-value]
    outcome = Run(session, plan, hands, journal).carry_out()
    assert failed == ["host2"]
    assert "host2 does not run the new release" in outcome.problems[0]
    machine.on_state = seen
    journal.replan(rolling_upgrade.replan(reach(pool), journal))
    outcome = Run(reach(pool), journal.plan, hands, journal).carry_out()
    assert outcome.problems == []
    assert machine.system.release.product_version == "6.5.0"


def test_there_is_nobody_at_the_machines() -> None:
    """Every act of hands says so."""
    hands: Any = hands_for(f"plugin:{URL}", reach(MockPool.create(hosts=1, vms=0)))
    for act in ("power", "power_on", "power_off", "eject_media", "identified", "offers"):
        with pytest.raises(ProcedureError, match="nobody is at the machines; use --hands operator"):
            getattr(hands, act)("x")
    for act in ("insert_media", "answer"):
        with pytest.raises(ProcedureError, match="nobody is at the machines"):
            getattr(hands, act)("x", "y")
