"""An upgrade that is taken back: members first, the master last, and every guest as it was before."""

from __future__ import annotations

import json
import os
import random
from collections.abc import Callable
from copy import copy
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from chaos import Fate, Killed, MortalHands, mortal, session_on

from mockserver import MockPool
from mockserver.invariants import AsBefore, sound
from mockserver.invariants import revert as invariants
from mockserver.recorder import Recorder
from xenctl.errors import Failure, ProcedureError
from xenctl.procedures import revert, rolling_upgrade, running
from xenctl.procedures.before import Before, of_journal, of_pool
from xenctl.procedures.journal import Journal
from xenctl.procedures.observe import MARK, observe
from xenctl.procedures.plan import Plan, Step
from xenctl.procedures.running import Outcome, Run
from xenctl.session import Session, connect

RELEASES = [
    ("4.0.1", "4.1"),
    ("4.1", "5.0"),
    ("5.0", "5.5"),
    ("5.6", "6.0"),
    ("6.2", "6.5"),
    ("7.1", "8.0"),
    ("8.2", "8.4"),
]


class Case:
    """A pool that was upgraded as far as some hosts, and how it was before."""

    def __init__(self, tmp_path: Path, release: str = "5.0", to: str = "5.5", **shape: Any) -> None:
        self.pool = MockPool.create(**{"hosts": 3, "vms": 12, "release": release, **shape})
        self.to, self.dump = to, tmp_path / "dump.xml"
        self.session = self.connect()
        self.before = AsBefore(self.pool)
        self.pool.watch(*sound())

    def connect(self) -> Session:
        return connect(self.pool.url, self.pool.username, self.pool.password, transport=self.pool.transport())

    def upgrade(self, turns: int, path: Path | None = None) -> Journal:
        """Upgrade the first `turns` hosts of the plan; the journal of that run."""
        plan = rolling_upgrade.plan(self.session, self.to)
        assert plan.problems == ()
        journal, seen = Journal.create(plan, path), list[str]()

        def gate(run: Run, step: Any) -> str:
            seen.append(step.host)
            return "" if len(seen) <= turns else "far enough"

        outcome = rolling_upgrade.run(
            *(self.session, plan, self.pool.hands),
            journal=journal,
            backup_to=self.dump,
            accept_downtime=True,
            gates=[gate],
        )
        assert outcome.problems == []
        return journal

    def plan(self, journal: Journal, **options: Any) -> Plan:
        return self.plan_of(of_journal(journal), **options)

    def plan_of(self, known: Before, **options: Any) -> Plan:
        return revert.plan(self.session, known, **options)

    def watch(self, plan: Plan) -> None:
        """Watch over a revert by this plan."""
        lost = {uuid for step in plan.steps if step.action == "verify-reverted" for uuid in step.args["lost"]}
        stop = {vm.uuid for vm in plan.downtime}
        self.pool.watch(*invariants(self.before, may_stop=stop, may_go=lost, may_stay_away=plan.away))

    def revert(self, journal: Journal, **options: Any) -> Outcome:
        """Take back what the journal's run did."""
        plan = self.plan(journal, **options)
        assert plan.problems == ()
        self.watch(plan)
        return self.carry_out(plan, of_journal(journal), journal)

    def carry_out(self, plan: Plan, known: Before, journal: Journal | None = None) -> Outcome:
        kept = revert.begin(plan, known, upgrade=journal)
        return revert.run(*(self.session, plan, self.pool.hands), journal=kept, accept_downtime=True, accept_loss=True)

    def is_as_before(self) -> None:
        """Every host runs what it ran, every guest is where it was, no byte is lost, no key is left."""
        self.pool.clock.advance(60)
        self.pool.conclude()
        assert [violation.as_dict() for violation in self.pool.violations] == []

    def row(self, kind: str, name: str) -> Any:
        return next(row for row in self.pool.store.table(kind).values() if row["name_label"] == name)


@pytest.fixture
def case(tmp_path: Path) -> Callable[..., Case]:
    return lambda *release, **shape: Case(tmp_path, *release, **shape)


def why(plan: Plan) -> dict[str, str]:
    return {vm.name: vm.why for vm in plan.downtime}


# --- from any state


@pytest.mark.parametrize(
    ("release", "to", "turns"),
    [(*pair, turns) for pair in RELEASES for turns in (1, 3)]
    + [("4.0.1", "4.1", 2), ("6.2", "6.5", 0), ("8.2", "8.4", 2)],
)
def test_a_pool_goes_back_from_any_number_of_hosts(
    case: Callable[..., Case], release: str, to: str, turns: int
) -> None:
    """None yet, the master alone, master and a member, all of them: versions, guests, discs and bytes are as before."""
    c = case(release, to)
    journal = c.upgrade(turns)
    assert len({machine.system.release for machine in c.pool.machines}) == (2 if turns in (1, 2) else 1)
    assert c.revert(journal).problems == []
    c.is_as_before()
    assert not observe(c.session).upgrading


def test_random_pools_go_back_after_random_numbers_of_hosts(case: Callable[..., Case]) -> None:
    """Sizes, releases, hosts and what the guests' owners did meanwhile are drawn; the seed is printed."""
    base = int(os.environ.get("XENCTL_SEED", "0")) or random.randrange(1 << 30)
    for seed in range(base, base + int(os.environ.get("XENCTL_RANDOM_REVERTS", "3"))):
        draw = random.Random(seed)
        release, to = draw.choice(RELEASES)
        hosts, vms = draw.randint(2, 5), draw.randint(0, 16)
        turns = draw.randint(0, hosts)
        print(f"seed {seed}: {hosts} hosts, {vms} guests, {release} to {to}, {turns} upgraded")  # noqa: T201
        c = case(release, to, hosts=hosts, vms=vms, seed=seed)
        journal = c.upgrade(turns)
        for _ in range(draw.randint(0, 3)):
            print(f"  {meddle(c, draw)}")  # noqa: T201
        assert c.revert(journal).problems == []
        c.is_as_before()


def meddle(c: Case, draw: random.Random) -> str:
    """Do to a guest what its owner might do while the pool is upgraded, as far as it is allowed."""
    facts = observe(c.session)
    running = [vm for vm in facts.vms.values() if vm.state == "Running"]
    halted = [vm for vm in facts.vms.values() if vm.state == "Halted"]
    deed = draw.choice(["move", "suspend", "make"])
    try:
        if deed == "move" and running:
            vm, to = draw.choice(running), draw.choice(list(facts.hosts.values()))
            c.session.VM.pool_migrate(vm.ref, to.ref, {})  # type: ignore[arg-type]
            return f"{vm.name} moved to {to.name}"
        if deed == "suspend" and running:
            vm = draw.choice(running)
            c.session.VM.suspend(vm.ref)  # type: ignore[arg-type]
            return f"{vm.name} suspended"
        if deed == "make" and halted:
            ref = c.session.VM.clone(draw.choice(halted).ref, "made")  # type: ignore[arg-type]
            c.session.VM.start(ref, False, False)
            return "one was made"
    except Failure as refusal:
        return f"refused: {refusal.code}"
    return "nothing"


# --- downtime


def test_guests_on_hosts_that_were_not_upgraded_go_on_running(case: Callable[..., Case]) -> None:
    """The master's old database has them where they are; with the master alone upgraded nobody notices anything."""
    c = case("6.2", "6.5")
    journal = c.upgrade(1)
    plan, recorder = c.plan(journal), Recorder()
    assert plan.downtime == ()
    assert plan.losses == ()
    c.pool.watch(recorder)
    assert c.revert(journal).problems == []
    now = c.pool.clock.now()
    ran = [vm.ref for vm in c.pool.store.table("VM").values() if vm["power_state"] == "Running"]
    assert {recorder.downtime(ref, now) for ref in ran} == {0.0}
    c.is_as_before()


def test_each_guests_downtime_is_said_beforehand(case: Callable[..., Case]) -> None:
    """About as long as it then is; who finds room on the master stays up until that goes."""
    c = case("8.2", "8.4")
    journal = c.upgrade(3)
    plan, recorder = c.plan(journal), Recorder()
    running = [vm for vm in observe(c.session).vms.values() if vm.state == "Running"]
    assert {vm.uuid for vm in plan.downtime} >= {vm.uuid for vm in running}
    c.pool.watch(recorder)
    assert c.revert(journal).problems == []
    now = c.pool.clock.now()
    for vm in plan.vms:
        ref = c.row("VM", vm.name).ref
        if vm.now == "Running":
            assert 0.6 < recorder.downtime(ref, now) / vm.downtime_s < 1.4, vm
            assert f"down for about {round(vm.downtime_s / 60)} minutes" in vm.why
    c.is_as_before()


def test_members_go_in_the_order_that_costs_least(case: Callable[..., Case]) -> None:
    """A guest moves to the master, which goes last; only where that has no room is it shut down for longer."""
    c = case("6.2", "6.5", vms=6)
    journal = c.upgrade(3)
    plan = c.plan(journal)
    assert {step.to for step in plan.steps[: plan.steps.index(_master_turn(plan))] if step.action == "migrate"} == {
        plan.master
    }
    assert max(vm.downtime_s for vm in plan.downtime) < 2000


def _master_turn(plan: Plan) -> Step:
    return next(step for step in plan.steps if step.action == "turn" and step.host == plan.master)


def test_nothing_begins_before_downtime_and_loss_are_agreed_to(case: Callable[..., Case]) -> None:
    """Each guest is named with its reason, and nothing is changed."""
    c = case("6.2", "6.5")
    journal = c.upgrade(2)
    c.session.VM.clone(c.row("VM", "vm04").ref, "made since")
    plan = c.plan(journal)
    with pytest.raises(ProcedureError, match="accept the downtime"):
        revert.run(c.session, plan, c.pool.hands, journal=Journal.create(plan))
    with pytest.raises(ProcedureError, match="accept the loss"):
        revert.run(c.session, plan, c.pool.hands, journal=Journal.create(plan), accept_downtime=True)
    assert MARK in c.pool.store.pool()["other_config"]  # the upgrade's, which is paused
    assert {m.state for m in c.pool.machines} == {"running"}


# --- what the old database does not know


def test_a_guest_that_was_moved_among_old_hosts_is_shut_down_first(case: Callable[..., Case]) -> None:
    """The master's old database would end it where it runs; it is at home again in the end."""
    c = case("6.2", "6.5", hosts=4, vms=12)
    journal = c.upgrade(1)
    first = observe(c.session)
    old = [host for host in first.hosts.values() if host.uuid != first.master]
    vm = next(vm for vm in first.vms.values() if vm.host == old[0].uuid)
    c.session.VM.pool_migrate(vm.ref, old[1].ref, {})  # type: ignore[arg-type]
    assert list(why(c.plan(journal))) == [vm.name]
    assert "the master's old database has it somewhere else" in why(c.plan(journal))[vm.name]
    assert why(c.plan(journal, unmoved=True)) == {}
    assert c.revert(journal).problems == []
    c.is_as_before()


def test_a_guest_that_is_suspended_on_a_new_host_is_resumed_and_shut_down(case: Callable[..., Case]) -> None:
    """No older release reads what a newer one saved; it ran before, and runs again."""
    c = case("6.2", "6.5")
    journal = c.upgrade(2)
    vm = next(vm for vm in observe(c.session).vms.values() if vm.state == "Running" and _host(c, vm.host) == "host1")
    c.session.VM.suspend(vm.ref)  # type: ignore[arg-type]
    plan = c.plan(journal)
    assert "its saved state does not cross releases" in why(plan)[vm.name]
    assert "resume" in {step.action for step in plan.steps if step.vm == vm.uuid}
    assert c.revert(journal).problems == []
    c.is_as_before()


def _host(c: Case, uuid: str) -> str:
    return next((machine.name for machine in c.pool.machines if machine.uuid == uuid), "")


def test_a_guest_that_was_made_since_is_named_with_its_disks(case: Callable[..., Case]) -> None:
    """Its record is lost, though it is shut down in good order, and its disks stay."""
    c = case("6.2", "6.5")
    journal = c.upgrade(2)
    ref = c.session.VM.clone(c.row("VM", "vm04").ref, "made since")
    c.session.VM.start(ref, False, False)
    (vbd,) = (v for v in c.session.VM.get_VBDs(ref) if c.session.VBD.get_type(v) == "Disk")
    disk = c.session.VDI.get_uuid(c.session.VBD.get_VDI(vbd))
    plan = c.plan(journal)
    (loss,) = plan.losses
    assert loss.startswith("made since was made since: its record is lost; of its disks no record is left")
    assert disk in loss
    assert "it does not come back" in why(plan)["made since"]
    assert c.revert(journal).problems == []
    assert c.session.VM.get_by_name_label("made since") == []
    assert disk in c.pool.disks
    c.is_as_before()


def test_changed_disks_are_named(case: Callable[..., Case]) -> None:
    """A disk that was resized, one that was deleted with its guest, one that a guest was given."""
    c = case("6.2", "6.5")
    journal = c.upgrade(3)
    c.session.VDI.resize(c.row("VDI", "disk of vm04").ref, 9 << 30)
    c.session.VDI.destroy(c.row("VDI", "disk of vm08").ref)
    losses = "\n".join(c.plan(journal).losses)
    assert "of vm04 was resized since" in losses
    assert "of vm08 was deleted or moved since" in losses


def test_storage_in_a_new_format_does_not_go_back(case: Callable[..., Case]) -> None:
    """What xe-lvm-upgrade did cannot be undone."""
    c = case("5.0", "5.5")
    journal = c.upgrade(3)
    sr = c.row("SR", "NFS virtual disk storage")
    c.pool.store.write(sr, sm_config={**sr["sm_config"], "use_vhd": "true"})
    (problem,) = c.plan(journal).problems
    assert "was brought to the format of 5.5 (xe-lvm-upgrade): older releases cannot read it" in problem


def test_a_guest_that_was_suspended_before_is_so_again(case: Callable[..., Case]) -> None:
    """While its host is old its saved state lives through all of this; on a new one it starts afresh, and that is said."""
    c = case("6.2", "6.5")
    journal = c.upgrade(1)
    vm = c.row("VM", "vm06")
    assert vm["power_state"] == "Running"
    boots = c.pool.guest(vm).boots
    assert c.revert(journal).problems == []
    assert (c.row("VM", "vm06")["power_state"], c.pool.guest(vm).boots) == ("Suspended", boots)
    c.is_as_before()
    again = c.upgrade(3)
    assert c.row("VM", "vm06")["power_state"] != "Halted"
    assert "vm06" in why(c.plan(again))


def test_a_guest_that_somebody_started_since_goes_on_running(case: Callable[..., Case]) -> None:
    """It was halted before; whoever started it wanted it to run. It starts again when versions are equal."""
    c = case("6.2", "6.5")
    journal = c.upgrade(2)
    c.session.VM.start(c.row("VM", "vm04").ref, False, False)
    plan = c.plan(journal)
    assert next(vm.state for vm in plan.vms if vm.name == "vm04") == "Running"
    assert c.revert(journal).problems == []
    assert c.row("VM", "vm04")["power_state"] == "Running"


def test_a_dump_that_is_gone_is_no_reason_to_stay(case: Callable[..., Case], tmp_path: Path) -> None:
    """What is not known without it is said; guests that were made since are still known by the journal."""
    c = case("6.2", "6.5")
    journal = c.upgrade(2)
    c.dump.unlink()
    c.session.VM.clone(c.row("VM", "vm04").ref, "made since")
    plan = c.plan(journal)
    assert plan.problems == ()
    assert "the dump from before cannot be used" in plan.warnings[0]
    assert "nobody knows whether disks were moved" in plan.warnings[0]
    assert plan.losses == ("made since was made since: its record is lost",)
    known = of_pool(observe(c.session))
    assert "nobody knows which guests were made since" in revert.plan(c.session, known, take_over=True).warnings[1]


def test_hosts_that_were_left_disabled_are_enabled_first(case: Callable[..., Case]) -> None:
    """As an upgrade leaves them that stopped in the middle of a turn."""
    c = case("6.2", "6.5")
    journal = c.upgrade(2)
    c.session.host.disable(c.row("host", "host3").ref)
    c.session.host.disable(c.row("host", "host2").ref)
    assert [step.action for step in c.plan(journal).steps[:3]] == ["claim", "enable", "enable"]
    assert c.revert(journal).problems == []
    c.is_as_before()


# --- what forbids it


def test_a_second_hop_is_a_point_of_no_return(case: Callable[..., Case]) -> None:
    """A backup partition holds one generation: the journal of the first hop finds none of its hosts any more."""
    c = case("5.0", "5.5")
    journal = c.upgrade(3)
    c.to = "5.6"
    c.upgrade(3)
    problems = c.plan(Journal.create(journal.plan)).problems
    assert problems == ()  # the pool cannot show it: what the installer finds decides
    outcome = c.carry_out(c.plan(journal), of_journal(journal))
    (problem,) = outcome.problems
    assert "its backup partition holds 5.5.0, not 5.0.0, so nothing was chosen and it boots its disk" in problem
    c.pool.clock.advance(600)
    assert {machine.system.release.product_version for machine in c.pool.machines} == {"5.6.0"}
    assert {machine.state for machine in c.pool.machines} == {"running"}


def test_a_member_that_was_installed_afresh_is_not_touched(case: Callable[..., Case]) -> None:
    """Its backup partition holds nothing that goes back; the way for it is named."""
    c = case("6.2", "6.5")
    journal = c.upgrade(2)
    machine = c.pool.machine("host2")
    machine.backup = None
    outcome = c.carry_out(c.plan(journal), of_journal(journal))
    (problem,) = outcome.problems
    assert "host2: its backup partition holds nothing that this installer restores, not 6.2.0" in problem
    assert "xenctl recover member" in problem
    c.pool.clock.advance(600)
    assert (machine.state, machine.system.release.product_version) == ("running", "6.5.0")


def test_hosts_that_joined_and_another_master_are_refused(case: Callable[..., Case]) -> None:
    """What the old database does not know; and one that is on another host's partition."""
    c = case("6.2", "6.5")
    journal = c.upgrade(3)
    c.session.pool.designate_new_master(c.row("host", "host2").ref)
    c.pool.clock.advance(600)
    c.session = c.connect()
    (problem,) = c.plan(journal).problems
    assert "the master is host2 now, and was host1: make host1 the master again first" in problem
    known = of_journal(journal)
    fewer = replace(known, master="", hosts=known.hosts[:2])
    problems = revert.plan(c.session, fewer).problems
    assert [text for text in problems if "has joined since: eject it first" in text]


def test_another_run_and_high_availability_are_refused(case: Callable[..., Case]) -> None:
    """Whoever is at work is named; nothing is changed."""
    c = case("6.2", "6.5")
    journal = c.upgrade(2)
    row = c.pool.store.pool()
    c.pool.store.write(row, other_config={**row["other_config"], MARK: "somebody"}, ha_enabled=True)
    problems = "\n".join(c.plan(journal).problems)
    assert "another run (somebody) is at work on this pool" in problems
    assert "high availability is on" in problems
    assert "another run" not in "\n".join(c.plan(journal, take_over=True).problems)


def test_guests_that_cannot_shut_down_cleanly_are_refused_unless_the_policy_is_hard(case: Callable[..., Case]) -> None:
    """An HVM guest without drivers, and a paused one."""
    c = case("6.2", "6.5")
    journal = c.upgrade(3)
    facts = observe(c.session)
    vm = next(vm for vm in facts.vms.values() if vm.host == facts.master and vm.state == "Running")
    c.session.VM.pause(vm.ref)  # type: ignore[arg-type]
    (problem,) = c.plan(journal).problems
    assert f"{vm.name} is paused and has to be shut down: unpause it first" in problem
    with pytest.raises(ValueError, match="policy is give-up, ask, hard"):
        c.plan(journal, policy="soft")


# --- without a journal


def test_without_a_journal_only_guests_on_new_hosts_are_vouched_for(case: Callable[..., Case]) -> None:
    """Nobody knows what the old database says of the rest: they are shut down, unless somebody says that none was moved.
    Guests end where they are now."""
    c = case("6.2", "6.5")
    c.upgrade(1)
    pool = observe(c.session)
    known = of_pool(pool)
    assert known.source == "6.2.0"
    running = [vm.name for vm in pool.vms.values() if vm.host and vm.host != pool.master]
    made = revert.plan(c.session, known, take_over=True)
    assert sorted(why(made)) == sorted(running)
    made = revert.plan(c.session, known, take_over=True, unmoved=True)
    assert why(made) == {}
    assert c.carry_out(made, known).problems == []
    now = observe(c.session)
    assert {vm.uuid: vm.host for vm in now.vms.values()} == {vm.uuid: vm.host for vm in pool.vms.values()}
    assert {host.version for host in now.hosts.values()} == {"6.2.0"}


def test_where_all_hosts_are_upgraded_the_release_has_to_be_named(case: Callable[..., Case]) -> None:
    """Nothing in the pool says what it ran before."""
    c = case("6.2", "6.5")
    c.upgrade(3)
    pool = observe(c.session)
    with pytest.raises(ProcedureError, match=r"every host runs XenServer 6\.5\.0, so the pool does not say"):
        of_pool(pool)
    known = of_pool(pool, "6.2")
    made = revert.plan(c.session, known)
    assert c.carry_out(made, known).problems == []
    now = observe(c.session)
    assert {host.version for host in now.hosts.values()} == {"6.2.0"}
    assert {vm.uuid: (vm.state, vm.host) for vm in now.vms.values() if vm.state != "Suspended"} == {
        vm.uuid: (vm.state, vm.host) for vm in pool.vms.values() if vm.state != "Suspended"
    }


def test_the_journal_of_something_else_is_refused(case: Callable[..., Case]) -> None:
    """Only an upgrade can be taken back; and only that of this pool."""
    c, other = case("6.2", "6.5"), case("6.2", "6.5", seed=9)
    journal = c.upgrade(1)
    with pytest.raises(ProcedureError, match="is of a revert, not of a rolling upgrade"):
        of_journal(Journal.create(c.plan(journal)))
    (problem,) = revert.plan(other.session, of_journal(journal)).problems
    assert problem.startswith("the journal is of the pool")


# --- what failed half way


def halt(c: Case, host: str) -> None:
    """Shut down an empty host."""
    ref = c.row("host", host).ref
    c.session.host.disable(ref)
    c.session.host.shutdown(ref)
    c.pool.clock.run_until(c.pool.clock.now() + 600, lambda: c.pool.machine(host).state == "off")


def fail_half_way(c: Case, host: str, share: float = 0.9) -> None:
    """The power fails while the installer writes."""
    hands, clock = c.pool.hands, c.pool.clock
    hands.insert_media(host, c.to)
    hands.power_on(host)
    clock.run_until(clock.now() + 600, lambda: hands.power(host) == "installer")
    hands.answer(host, "upgrade")
    clock.advance(share * c.pool.durations.install)
    hands.power_off(host)


def stop_before_install(c: Case, host: str) -> Journal:
    """An upgrade whose process dies when `host` is off and nothing is installed there."""
    plan = rolling_upgrade.plan(c.session, c.to)
    journal, uuid = Journal.create(plan), c.pool.machine(host).uuid

    class Gone:
        def __getattr__(self, name: str) -> Any:
            deed = getattr(c.pool.hands, name)

            def act(where: str, *more: Any) -> Any:
                if name == "insert_media" and where == uuid:
                    raise KeyboardInterrupt
                return deed(where, *more)

            return act

    hands: Any = Gone()
    outcome = rolling_upgrade.run(c.session, plan, hands, journal=journal, backup_to=c.dump, accept_downtime=True)
    assert "interrupted" in outcome.paused
    assert c.pool.machine(host).state == "off"
    return journal


@pytest.mark.parametrize("share", [0.2, 0.9])
def test_a_member_that_failed_half_way_goes_back_with_the_rest(case: Callable[..., Case], share: float) -> None:
    """Whether its old system is still on the disk, or only in the backup partition: what the installer finds decides."""
    c = case("6.2", "6.5")
    journal = stop_before_install(c, "host2")
    fail_half_way(c, "host2", share)
    c.pool.hands.eject_media("host2")
    c.pool.hands.power_on("host2")
    c.pool.clock.advance(900)
    assert c.pool.machine("host2").state == ("running" if share < 0.5 else "starting")
    if share < 0.5:
        c.pool.hands.power_off("host2")
        c.pool.clock.advance(900)
    assert c.revert(journal).problems == []
    assert c.pool.machine("host2").system.release.product_version == "6.2.0"
    c.pool.conclude()
    assert c.pool.violations == []


@pytest.mark.parametrize("state", ["not begun", "half written", "at the installer"])
def test_a_master_whose_upgrade_failed_comes_back(case: Callable[..., Case], state: str) -> None:
    """Nobody answers: the journal says which host it is. Members return by themselves; no guest notices."""
    c = case("6.2", "6.5")
    journal = stop_before_install(c, "host1")
    if state == "half written":
        fail_half_way(c, "host1")
    elif state == "at the installer":
        c.pool.hands.insert_media("host1", "6.5")
        c.pool.hands.power_on("host1")
        c.pool.clock.advance(600)
    plan = c.plan(journal)
    assert [step.action for step in plan.steps] == ["restore-host", "return"]
    assert plan.downtime == ()
    c.pool.watch(*invariants(c.before))
    assert c.carry_out(plan, of_journal(journal), journal).problems == []
    c.is_as_before()


def test_several_hosts_that_are_away_are_refused(case: Callable[..., Case]) -> None:
    """One at a time: each that returns waits for all others."""
    c = case("6.2", "6.5", hosts=4, vms=0)
    journal = c.upgrade(1)
    for host in ("host2", "host3"):
        c.pool.hands.power_off(host)
    c.pool.clock.advance(900)
    (problem,) = c.plan(journal).problems
    assert "several hosts are away: host2, host3" in problem


def test_a_host_that_is_away_with_guests_is_recovered_first(case: Callable[..., Case]) -> None:
    """Nobody knows whether they run: the database says so."""
    c = case("6.2", "6.5")
    journal = c.upgrade(1)
    c.pool.hands.power_off("host2")
    c.pool.clock.advance(900)
    (problem,) = c.plan(journal).problems
    assert problem.startswith("host2 is away, and vm")
    assert problem.endswith("ran there: recover it first (xenctl recover)")


def test_a_member_that_is_newer_than_a_master_that_went_back_follows(case: Callable[..., Case]) -> None:
    """Somebody restored the master first: the member is in emergency mode, and comes back with its own old system."""
    c = case("6.2", "6.5", hosts=2, vms=0)
    journal = c.upgrade(2)
    halt(c, "host1")
    hands, clock = c.pool.hands, c.pool.clock
    hands.insert_media("host1", "6.5")
    hands.power_on("host1")
    clock.run_until(clock.now() + 600, lambda: hands.power("host1") == "installer")
    hands.answer("host1", "restore")
    clock.advance(2400)
    hands.power_off("host2")
    c.session = c.connect()
    assert c.revert(journal).problems == []
    c.pool.clock.advance(60)
    c.pool.conclude()
    assert {violation.invariant for violation in c.pool.violations} == {"master newest"}  # which it was to begin with
    assert {machine.system.release.product_version for machine in c.pool.machines} == {"6.2.0"}


# --- killed, given up, not repeated


@pytest.mark.parametrize("master", ["upgraded", "away"])
def test_killed_anywhere_and_resumed_it_ends_the_same(case: Callable[..., Case], tmp_path: Path, master: str) -> None:
    """Before and after every call, every act of the hands and every write of the journal; also where the master's own
    upgrade failed, and the rest is planned when it is back."""

    def attempt(c: Case, path: Path, known: Before, fate: Fate) -> Outcome:
        session = session_on(c.pool, fate)
        if path.exists():
            journal = mortal(Journal.open(path, to_run=True), fate)
        else:
            made = revert.plan(session, known)
            journal = mortal(Journal.create(made, path), fate)
            journal.put("before", known.as_dict())
        hands: Any = MortalHands(c.pool.hands, fate)
        try:
            return revert.run(session, journal.plan, hands, journal=journal, accept_downtime=True, accept_loss=True)
        finally:
            journal.close()

    upgraded = case("5.0", "5.5", hosts=2, vms=6)
    if master == "upgraded":
        known = of_journal(upgraded.upgrade(2))
    else:
        known = of_journal(stop_before_install(upgraded, "host1"))
        fail_half_way(upgraded, "host1")
    upgraded.watch(upgraded.plan_of(known))

    def prepared() -> Case:
        c = copy(upgraded)
        c.pool = upgraded.pool.fork()
        return c

    sample = int(os.environ.get("XENCTL_CHAOS_SAMPLE", "8"))
    c, fate = prepared(), Fate()
    assert attempt(c, tmp_path / "undisturbed", known, fate).problems == []
    c.is_as_before()
    every = [(number, after) for number in range(1, len(fate.points) + 1) for after in (False, True)]
    chosen = random.Random(7).sample(every, sample) if sample else every
    print(f"chaos: {len(every)} points, {len(chosen)} kills")  # noqa: T201
    for number, after in chosen:
        c = prepared()
        path, fate = tmp_path / f"{number}-{after}", Fate(number, after)
        with pytest.raises(Killed):
            attempt(c, path, known, fate)
        where = f"{'after' if after else 'before'} {fate.points[-1]} (point {number})"
        assert attempt(c, path, known, Fate()).problems == [], where
        c.is_as_before()


def test_a_revert_that_is_given_up_starts_again_what_it_shut_down(case: Callable[..., Case]) -> None:
    """Where that is allowed: on hosts that are new still. Hosts that went back stay so, and the upgrade can be finished."""
    c = case("6.2", "6.5")
    journal = c.upgrade(3)
    c.pool.machine("host1").backup = None
    plan, known = c.plan(journal), of_journal(journal)
    kept = revert.begin(plan, known, upgrade=journal)
    outcome = revert.run(*(c.session, plan, c.pool.hands), journal=kept, accept_downtime=True, accept_loss=True)
    assert "host1: its backup partition holds nothing" in outcome.problems[0]
    c.pool.clock.advance(600)
    left = running.abandon(c.session, kept, c.pool.hands)
    now = observe(c.session)
    up = {vm.name for vm in now.vms.values() if vm.state == "Running" and vm.host == now.master}
    moved = {plan.names[step.vm] for step in plan.steps if step.action == "migrate" and step.to == plan.master}
    assert up
    assert up <= {vm.name for vm in plan.downtime}
    assert all(name in up or any(name in text for text in left) for name in moved), left
    assert (kept.state, MARK in c.pool.store.pool()["other_config"]) == (
        ("stopped", True) if left else ("abandoned", False)
    )
    assert [host.version for host in sorted(now.hosts.values(), key=lambda h: h.name)] == ["6.5.0", "6.2.0", "6.2.0"]
    assert rolling_upgrade.adopt(c.session, "6.5", take_over=True).problems == ()


def test_the_journal_of_the_upgrade_is_closed_for_good(case: Callable[..., Case]) -> None:
    """Its run never goes on: it would upgrade what goes back."""
    c = case("6.2", "6.5")
    journal = c.upgrade(1)
    revert.begin(c.plan(journal), of_journal(journal), upgrade=journal)
    assert journal.state == "abandoned"
    assert "taken back by revert-" in journal.entries()[-1].text


def test_an_upgrade_is_never_installed_again_on_an_upgraded_host(case: Callable[..., Case]) -> None:
    """It would overwrite the backup partition, and with it the way back: the installer's finding refuses it."""
    c = case("6.2", "6.5")
    journal = stop_before_install(c, "host2")
    hands, clock = c.pool.hands, c.pool.clock
    hands.insert_media("host2", "6.5")
    hands.power_on("host2")
    clock.run_until(clock.now() + 600, lambda: hands.power("host2") == "installer")
    hands.answer("host2", "upgrade")  # by somebody else, who then halts it and leaves it
    clock.run_until(clock.now() + 3600, lambda: hands.power("host2") == "running")
    clock.advance(300)
    halt(c, "host2")
    held = c.pool.machine("host2").backup
    outcome = rolling_upgrade.run(c.session, journal.plan, hands, journal=journal, accept_downtime=True)
    (problem,) = outcome.problems
    assert "the installer found 6.5.0" in problem
    assert "nothing was chosen" in problem
    assert c.pool.machine("host2").backup is held


def test_a_plan_that_was_made_anew_does_not_hide_where_guests_were(case: Callable[..., Case]) -> None:
    """The journal keeps its earlier plans: where guests were when the master went is in the first."""
    c = case("6.2", "6.5")
    journal = c.upgrade(1)
    first = of_journal(journal)
    journal.replan(rolling_upgrade.replan(c.session, journal))
    again = of_journal(journal)
    assert (again.kept, again.homes, again.states) == (first.kept, first.homes, first.states)
    assert again.kept is not None
    assert Before.from_dict(json.loads(json.dumps(again.as_dict()))) == again
    assert c.revert(journal).problems == []
    c.is_as_before()
