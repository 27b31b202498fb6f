"""An upgrade that is taken back: members first, the master last, and every guest as it was before."""

from __future__ import annotations

import os
import random
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import pytest
from pools import memory
from reverted import Case, why

from mockserver.recorder import Recorder
from xenctl.errors import Failure, ProcedureError
from xenctl.procedures import revert
from xenctl.procedures.before import Before, of_journal, of_pool
from xenctl.procedures.journal import Journal
from xenctl.procedures.observe import CAME_FROM, MARK, observe
from xenctl.procedures.plan import Plan, Step
from xenctl.procedures.running import Run, abandon
from xenctl.procedures.ways_back import FALLBACK
from xenctl.releases import find

RELEASES = [
    ("4.0.1", "4.1"),
    ("4.1", "5.0"),
    ("5.0", "5.5"),
    ("5.6", "6.0"),
    ("6.2", "6.5"),
    ("7.1", "8.0"),
    ("8.2", "8.4"),
]


@pytest.fixture
def case(tmp_path: Path) -> Callable[..., Case]:
    return lambda *release, **shape: Case(tmp_path, *release, **shape)


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


def test_a_guest_that_was_suspended_before_any_host_was_upgraded_is_resumed(case: Callable[..., Case]) -> None:
    """No old database comes back that would have forgotten its saved state."""
    c = case("6.2", "6.5")
    journal = c.upgrade(0)
    c.session.VM.suspend(c.row("VM", "vm01").ref)
    plan = c.plan(journal)
    assert [step.action for step in plan.steps if plan.names.get(step.vm) == "vm01"] == ["resume"]
    assert c.revert(journal).problems == []
    c.is_as_before()


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
            # Where no host was upgraded none goes back, and neither do guests that were made since.
            print(f"  {meddle(c, draw, DEEDS if turns else DEEDS[:2])}")  # noqa: T201
        assert c.revert(journal).problems == []
        c.is_as_before()


DEEDS = ("move", "suspend", "make")


def meddle(c: Case, draw: random.Random, deeds: Sequence[str]) -> str:
    """Do to a guest what its owner might do while the pool is upgraded, as far as it is allowed."""
    facts = observe(c.session)
    running = [vm for vm in facts.vms.values() if vm.state == "Running"]
    halted = [vm for vm in facts.vms.values() if vm.state == "Halted"]
    deed = draw.choice(deeds)
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
            c.pool.clock.advance(120)  # a guest that has not booted yet cannot shut itself down
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


def in_the_drive_of_host2(c: Case) -> None:
    """The disc of the guests on host2, vm02 and vm05, is in the drive of that host."""
    drive = c.row("SR", "Local storage on host2")
    c.pool.store.write(drive, type="udev", content_type="iso")
    c.pool.store.write(c.row("VDI", "debian-etch.iso"), SR=drive.ref)


@pytest.mark.parametrize(("release", "to"), RELEASES)
def test_a_disc_in_a_hosts_own_drive_costs_no_downtime(case: Callable[..., Case], release: str, to: str) -> None:
    """It is taken out before its guest moves to a host that does not see it, and is back in the end."""
    c = case(release, to, vms=6)
    in_the_drive_of_host2(c)
    journal = c.upgrade(3)
    discs = {vm.name: vm.discs for vm in observe(c.session).vms.values() if vm.discs}
    plan, recorder = c.plan(journal), Recorder()
    ways = [(step.action, plan.names[step.vm]) for step in plan.steps if step.vm]
    for name in ("vm02", "vm05"):
        at = ways.index(("eject", name))
        assert ways[at + 1] == ("migrate", name)
        assert ("insert", name) in ways[at:]
        assert "host1 goes back" in why(plan)[name]
    assert ways.count(("eject", "vm02")) == 1
    others = [vm.downtime_s for vm in plan.downtime if vm.name in ("vm01", "vm03")]
    assert max(vm.downtime_s for vm in plan.downtime if vm.name in ("vm02", "vm05")) < 1.2 * max(others)
    c.pool.watch(recorder)
    assert c.revert(journal).problems == []
    now = c.pool.clock.now()
    downtime = {name: recorder.downtime(c.row("VM", name).ref, now) for name in ("vm01", "vm02", "vm03", "vm05")}
    assert max(downtime["vm02"], downtime["vm05"]) < 1.3 * max(downtime["vm01"], downtime["vm03"]), downtime
    assert {vm.name: vm.discs for vm in observe(c.session).vms.values() if vm.discs} == discs
    c.is_as_before()


def test_a_disc_that_every_host_sees_stays_where_it_is(case: Callable[..., Case]) -> None:
    """And so does one whose guest finds no room without it either."""
    c = case("6.2", "6.5", vms=6)
    journal = c.upgrade(3)
    assert "eject" not in {step.action for step in c.plan(journal).steps}
    in_the_drive_of_host2(c)
    memory(c.pool, 2 << 30, "host1", "host3")
    plan = c.plan(journal)
    assert "eject" not in {step.action for step in plan.steps}
    assert "host2 goes back, and no other new host can take it" in why(plan)["vm02"]


@pytest.mark.parametrize("further", [0, 1])
def test_a_disc_is_put_back_where_a_revert_is_given_up(case: Callable[..., Case], further: int) -> None:
    """What was taken out on the way is among what the journal undoes. Where the guest has moved since it is named, and put
    back once somebody has brought the guest home."""
    c = case("6.2", "6.5", vms=6)
    in_the_drive_of_host2(c)
    journal = c.upgrade(3)
    plan = c.plan(journal)
    kept = revert.begin(plan, of_journal(journal), upgrade=journal)
    number = next(number for number, step in enumerate(plan.steps, 1) if step.action == "eject")
    run = Run(
        *(c.session, plan, c.pool.hands, kept),
        take_over=True,
        stop=lambda: "far enough" if kept.finished() >= number + further else "",
    )
    assert run.carry_out().paused
    assert c.session.VBD.get_empty(plan.steps[number - 1].vbd)  # type: ignore[arg-type]
    left, home = abandon(c.session, kept, c.pool.hands), c.row("host", "host2")
    if further:
        vm = plan.steps[number - 1].vm
        (told,) = left
        assert told.startswith(f"put the CD of {plan.names[vm]} back: VM_REQUIRES_SR")
        c.session.VM.pool_migrate(c.session.VM.get_by_uuid(vm), home.ref, {})
        left = abandon(c.session, kept, c.pool.hands)
    assert left == []
    found = {vm.name: vm.host for vm in observe(c.session).vms.values() if vm.discs}
    assert found == {"vm02": home["uuid"], "vm05": home["uuid"]}


def test_a_disc_that_its_guest_does_not_see_any_more_is_told(case: Callable[..., Case]) -> None:
    """A guest that ends away from home; the run does not stop at it."""
    c = case("6.2", "6.5", vms=6)
    in_the_drive_of_host2(c)
    journal = c.upgrade(3)
    home = c.row("host", "host1")["uuid"]
    known = of_journal(journal)
    homes = {uuid: home if name in ("vm02", "vm05") else host for uuid, host, name in _homes(c, known)}
    plan = c.plan_of(replace(known, homes=homes))
    for name in ("vm02", "vm05"):
        text = f"the CD of {name} is not put back: its host does not reach the storage that it is on"
        assert plan.warnings.count(text) == 1
    assert "insert" not in {step.action for step in plan.steps}


def _homes(c: Case, known: Before) -> list[tuple[str, str, str]]:
    """Guests with their homes and their names."""
    names = {vm.uuid: vm.name for vm in observe(c.session).vms.values()}
    return [(uuid, host, names[uuid]) for uuid, host in (known.homes or {}).items()]


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


def test_a_guest_that_was_suspended_on_an_old_pool_is_resumed(case: Callable[..., Case]) -> None:
    """Where no host was upgraded its saved state is as good as before: it ran, and it runs on."""
    c = case("6.2", "6.5")
    journal = c.upgrade(0)
    boots = c.pool.guest(c.row("VM", "vm01")).boots
    c.session.VM.suspend(c.row("VM", "vm01").ref)
    assert c.revert(journal).problems == []
    assert (c.row("VM", "vm01")["power_state"], c.pool.guest(c.row("VM", "vm01")).boots) == ("Running", boots)
    c.is_as_before()


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
    """A backup partition holds one generation: the journal of the first hop finds none of its hosts any more. The pool tells
    by the note of the last run; without that the installer would."""
    c = case("5.0", "5.5")
    journal = c.upgrade(3)
    c.to, c.dump = "5.6", c.dump.with_name("second.xml")
    c.upgrade(3)
    (problem,) = c.plan(journal).problems
    assert problem.startswith(
        "the pool was upgraded from 5.5.0 to 5.6.0 since: the backup partitions hold 5.5.0, not 5.0.0; this is a point of "
        "no return; what is left is the dump from before"
    )
    assert "xenctl upgrade revert --from-dump" in problem
    c.session.pool.remove_from_other_config(c.pool.store.pool().ref, CAME_FROM)
    outcome = c.carry_out(c.plan(journal), of_journal(journal))
    (problem,) = outcome.problems
    assert "its backup partition holds 5.5.0, not 5.0.0, so nothing was chosen and it boots its disk" in problem
    assert "xenctl upgrade revert --from-dump" in problem
    c.pool.clock.advance(600)
    assert {machine.system.release.product_version for machine in c.pool.machines} == {"5.6.0"}
    assert {machine.state for machine in c.pool.machines} == {"running"}


@pytest.mark.parametrize(("release", "to"), RELEASES)
def test_hands_that_see_the_disks_find_out_before_anything_happens(
    case: Callable[..., Case], release: str, to: str
) -> None:
    """Each host whose partition does not hold what it goes back to, and what is left to do; nothing is changed."""
    c = case(release, to)
    journal = c.upgrade(3)
    first, _, third = c.pool.machine("host1"), c.pool.machine("host2"), c.pool.machine("host3")
    assert c.plan(journal, hands=c.pool.hands).problems == ()
    assert first.backup is not None and first.backup.saved is not None
    old = c.pool.machine("host2").backup
    third.backup = None
    c.pool.machine("host2").backup = replace(first.backup, release=find(to))
    calls, boots = c.pool.calls, [machine.boots for machine in c.pool.machines]
    generation = c.pool.store.generation
    plan = c.plan(journal, hands=c.pool.hands)
    source = find(release).product_version
    assert plan.problems == (
        (
            f"there is no way back by the backup partitions: that of host2 holds {find(to).product_version}, not {source}; "
            f"that of host3 holds nothing that can be restored, not {source}; {FALLBACK}"
        ),
    )
    assert plan.steps == ()
    with pytest.raises(ProcedureError, match="this upgrade cannot be taken back"):
        revert.run(c.session, plan, c.pool.hands, journal=Journal.create(plan), accept_downtime=True)
    assert (c.pool.store.generation, [machine.boots for machine in c.pool.machines]) == (generation, boots)
    assert c.pool.calls > calls
    c.pool.machine("host2").backup, third.backup = old, old
    saved = first.backup.saved
    next(iter(saved.rows("pool"))).cells["uuid"] = "another"
    (problem,) = c.plan(journal, hands=c.pool.hands).problems
    assert f"that of host1 holds {source} with the database of another pool" in problem
    first.backup = replace(first.backup, saved=None)
    (problem,) = c.plan(journal, hands=c.pool.hands).problems
    assert f"that of host1 holds {source} with no database" in problem


def test_only_hosts_that_go_back_are_looked_at(case: Callable[..., Case]) -> None:
    """A host that was not upgraded may have anything on its partition."""
    c = case("6.2", "6.5")
    journal = c.upgrade(1)
    assert c.pool.machine("host2").backup is None
    assert c.plan(journal, hands=c.pool.hands).problems == ()


def test_where_nobody_can_see_the_disks_that_is_said(case: Callable[..., Case]) -> None:
    """With what shows it at a console."""
    c = case("6.2", "6.5")
    journal = c.upgrade(2)
    (warning,) = [text for text in c.plan(journal).warnings if "backup partitions" in text]
    assert warning.startswith(
        "nobody has looked at the backup partitions of host1 and host2, which have to hold 6.2.0; at a host's console"
    )
    assert "grep PRODUCT_VERSION /mnt/etc/xensource-inventory" in warning


def test_a_member_that_was_installed_afresh_is_not_touched(case: Callable[..., Case]) -> None:
    """Its backup partition holds nothing that goes back; what is left is named."""
    c = case("6.2", "6.5")
    journal = c.upgrade(2)
    machine = c.pool.machine("host2")
    machine.backup = None
    outcome = c.carry_out(c.plan(journal), of_journal(journal))
    (problem,) = outcome.problems
    assert "host2: its backup partition holds nothing that this installer restores, not 6.2.0" in problem
    assert "xenctl upgrade revert --from-dump" in problem
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
    assert problem.startswith("the journal is of another pool, pool (")
