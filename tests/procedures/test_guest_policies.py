"""What becomes of single guests by policy: read, held against the pool, told beforehand, and done on every release."""

from __future__ import annotations

from typing import Any

import pytest
from guests import fully_virtual
from pools import RELEASES, connected, pin, reach, row, states, write

from mockserver import MockPool
from mockserver.invariants import rolling_upgrade as invariants
from xenctl.errors import ProcedureError
from xenctl.procedures import rolling_upgrade, running
from xenctl.procedures.account import compare
from xenctl.procedures.guest_policies import costs, read, resolved
from xenctl.procedures.journal import Journal
from xenctl.procedures.observe import observe
from xenctl.procedures.plan import Plan
from xenctl.session import Session


@pytest.fixture
def pool() -> MockPool:
    return MockPool.create(hosts=3, vms=9, release="5.0")


@pytest.fixture
def session(pool: MockPool) -> Session:
    return connected(pool)


def planned(pool: MockPool, **policies: str) -> Plan:
    """The plan with policies by the guests' names, for a pool that is watched from now on."""
    named = {name: policy.replace("_", "-") for name, policy in policies.items()}
    plan = rolling_upgrade.plan(reach(pool), policies=lambda facts: resolved(facts, named))
    pool.watch(*invariants(may_stop=[vm.uuid for vm in plan.downtime], may_stay_away=plan.away))
    return plan


def steps_of(plan: Plan, name: str) -> list[str]:
    """The actions of steps that are about a guest, and where its host's turn and the end of mixed versions are."""
    vm = next(vm for vm in plan.vms if vm.name == name)
    marks = [
        (
            step.action,
            step.vm == vm.uuid or step.action == "equal" or (step.action == "install" and step.host == vm.home),
        )
        for step in plan.steps
    ]
    return [action for action, matters in marks if matters]


def with_disc(pool: MockPool, name: str) -> None:
    """Put a CD into a guest's drive."""
    drive = next(vbd for vbd in pool.vbds(row(pool, "VM", name)) if vbd["type"] == "CD")
    pool.store.write(drive, VDI=row(pool, "VDI", "debian-etch.iso").ref, empty=False)


# --- what is said


def test_policies_are_read_from_options_and_a_file(tmp_path: Any) -> None:
    """An option counts before the file; remarks and empty lines are passed over."""
    file = tmp_path / "guests"
    file.write_text("# the database last\nvm01 = suspend\n\nvm02=leave # it rests\n")
    assert read(["vm01=migrate", "a=b=shut-down"], file) == {"vm01": "migrate", "vm02": "leave", "a=b": "shut-down"}


@pytest.mark.parametrize("text", ["vm01", "vm01=", "=suspend", "vm01=stop"])
def test_a_policy_that_is_none_is_refused(text: str, tmp_path: Any) -> None:
    """With where it stands and which there are."""
    with pytest.raises(ValueError, match="is not NAME=POLICY, the policy one of migrate, suspend, shut-down, leave"):
        read([text])
    file = tmp_path / "guests"
    file.write_text(f"vm02=leave\n{text}\n")
    with pytest.raises(ValueError, match="guests, line 2: "):
        read([], file)


def test_policies_are_held_against_the_pool(pool: MockPool, session: Session) -> None:
    """All faults at once: no such guest, several of a name, a policy that does not fit."""
    session.VM.set_name_label(row(pool, "VM", "vm09").ref, "vm08")
    facts = observe(session)
    with pytest.raises(ValueError, match="policies of guests: ") as told:
        resolved(facts, {"nobody": "suspend", "vm08": "suspend", "vm04": "shut-down"})
    assert "nobody: no guest is called so" in str(told.value)
    assert "vm08: 2 guests are called so; give the uuid" in str(told.value)
    assert "vm04: shut-down is for guests that run, and it is Halted" in str(told.value)
    uuid = row(pool, "VM", "vm01")["uuid"]
    assert resolved(facts, {"vm01": "suspend", uuid: "suspend"}) == {uuid: "suspend"}
    with pytest.raises(ValueError, match="vm01: it is given suspend and leave; give one"):
        resolved(facts, {"vm01": "suspend", uuid: "leave"})


def test_what_a_policy_costs_is_told_beforehand(pool: MockPool, session: Session) -> None:
    """A guest that is shut down for its host's turn is down for about that turn."""
    disk = row(pool, "VDI", "disk of vm02")
    pool.store.write(disk, SR=row(pool, "SR", "Local storage on host2").ref)
    plan = rolling_upgrade.plan(session)
    (vm,) = plan.downtime
    assert costs(plan) == {vm.uuid: "down for about 45 min"}
    journal = Journal.create(plan)
    assert rolling_upgrade.run(session, plan, pool.hands, journal=journal, accept_downtime=True).ok
    (found,) = [guest for guest in compare(journal).vms if guest.downtime_s]
    assert (found.name, found.state_after, found.host_after) == ("vm02", "Running", "host2")
    assert 600 < found.downtime_s < 7200


@pytest.mark.parametrize("policy", ["suspend", "leave"])
def test_a_suspended_guest_with_a_cd_cannot_stay_suspended(pool: MockPool, session: Session, policy: str) -> None:
    """Hosts of the new release do not resume it any more."""
    with_disc(pool, "vm06")
    with pytest.raises(ValueError, match=f"vm06: {policy} is not for a suspended guest with a CD in its drive"):
        resolved(observe(session), {"vm06": policy})


# --- what is told beforehand


def told(plan: Plan, name: str) -> list[str]:
    """What is noted about a guest, that about several of them left out."""
    return [warning for warning in plan.warnings if warning.startswith(f"{name} ")]


def test_the_notes_are_about_what_will_be_done(pool: MockPool) -> None:
    """A guest is not said to be shut down that is suspended, nor to be resumed if it stays as it is."""
    pin(pool, "vm01", "host1")
    assert [note.partition(":")[0] for note in told(planned(pool), "vm01")] == [
        "vm01 is shut down when its host is upgraded"
    ]
    assert told(planned(pool, vm01="suspend"), "vm01") == []
    assert [note.partition(":")[0] for note in told(planned(pool, vm01="shut_down"), "vm01")] == [
        "vm01 is shut down when its host is upgraded"
    ]
    resumed = "vm06 is suspended: it is resumed before any host is upgraded, and suspended again at the end"
    assert told(planned(pool), "vm06") == [resumed]
    for policy in ("suspend", "leave"):
        kept = "vm06 is suspended: it is not resumed for the upgrade, as was asked"
        assert told(planned(pool, vm06=policy), "vm06") == [kept]


def test_where_versions_are_mixed_the_notes_say_what_is_still_done(pool: MockPool) -> None:
    """What is suspended is not resumed then, and whoever is tied to a host that is upgraded has had its turn."""
    pin(pool, "vm01", "host1")
    plan = planned(pool)
    journal = Journal.create(plan)
    passed: list[str] = []

    def gate(run: Any, step: Any) -> str:
        passed.append(step.host)
        return "far enough" if len(passed) > 1 else ""

    # Somebody suspends a guest, who was not to be, once the master is upgraded.
    done = rolling_upgrade.run(reach(pool), plan, pool.hands, journal=journal, accept_downtime=True, gates=[gate])
    assert "far enough" in done.paused
    reach(pool).VM.suspend(row(pool, "VM", "vm01").ref)
    again = rolling_upgrade.adopt(reach(pool), take_over=True)
    assert told(again, "vm01") == ["vm01 is suspended: it is not resumed while versions are mixed"]
    reach(pool).VM.resume(row(pool, "VM", "vm01").ref, False, False)
    assert told(rolling_upgrade.adopt(reach(pool), take_over=True), "vm01") == []


@pytest.mark.parametrize(
    ("name", "policy", "needed"),
    [
        ("vm01", "migrate", {"pool_migrate"}),
        ("vm01", "suspend", {"suspend", "resume", "resume_on"}),
        ("vm01", "shut-down", {"clean_shutdown", "start", "start_on"}),
        ("vm06", "migrate", {"resume", "resume_on", "pool_migrate", "suspend"}),
        ("vm06", "shut-down", {"resume", "resume_on", "clean_shutdown", "start", "start_on", "suspend"}),
        ("vm06", "leave", set()),
        ("vm06", "suspend", set()),
    ],
)
def test_only_what_a_policy_needs_must_not_be_blocked(pool: MockPool, name: str, policy: str, needed: set[str]) -> None:
    """An operation that the run does not call may be blocked; one that it calls is found before the start."""
    every = ("clean_shutdown", "pool_migrate", "resume", "resume_on", "start", "start_on", "suspend")
    write(pool, "VM", name, blocked_operations=dict.fromkeys(every, "by hand"))
    findings = [found for found in planned(pool, **{name: policy}).findings if found.check == "blocked-operations"]
    assert {found.why.partition(" of ")[0] for found in findings} == needed


@pytest.mark.parametrize(
    ("policy", "level"),
    [({}, "warns"), ({"vm01": "suspend"}, "blocks"), ({"vm01": "shut_down"}, "blocks"), ({"vm06": "leave"}, "warns")],
)
def test_a_licence_that_is_over_blocks_where_a_guest_has_to_start_or_resume(
    pool: MockPool, policy: dict[str, str], level: str
) -> None:
    """Up to 6.1 none does."""
    if "vm06" not in policy:
        reach(pool).VM.hard_shutdown(row(pool, "VM", "vm06").ref)
    host = row(pool, "host", "host1")
    pool.store.write(host, license_params={**host["license_params"], "expiry": "20070101T00:00:00Z"})
    plan = planned(pool, **policy)
    assert [found.level for found in plan.findings if found.check == "licence-over"] == [level]


# --- what is done


@pytest.mark.parametrize("release", [*RELEASES, "8.1"])
def test_each_policy_does_what_it_says_and_is_undone(release: str) -> None:
    """One is suspended until versions are equal, one is down for its host's turn, two are not touched; all end as they were,
    and what stayed suspended can be resumed."""
    pool = fully_virtual(MockPool.create(release=release))
    with_disc(pool, "vm04")
    before = observe(reach(pool))
    plan = planned(pool, vm01="suspend", vm02="shut_down", vm04="leave", vm06="leave")
    assert plan.problems == ()
    assert {vm.name: vm.why for vm in plan.downtime} == {
        "vm01": "it is suspended for the upgrade, as was asked",
        "vm02": "it is shut down for its host's turn, as was asked",
    }
    assert set(costs(plan)) == {vm.uuid for vm in plan.downtime}
    assert steps_of(plan, "vm01") == ["suspend", "install", "equal", "resume"]
    assert steps_of(plan, "vm02") == ["eject", "stop", "install", "start", "equal", "insert"]
    assert steps_of(plan, "vm04") == steps_of(plan, "vm06") == ["equal"]
    journal = Journal.create(plan)
    done = rolling_upgrade.run(reach(pool), plan, pool.hands, journal=journal, accept_downtime=True)
    assert (done.problems, done.paused) == ([], "")
    pool.conclude()
    assert [violation.as_dict() for violation in pool.violations] == []
    assert [change for change in journal.changes() if not change.undone] == []
    after = observe(reach(pool))
    assert {vm.name: (vm.state, vm.host, vm.discs) for vm in after.vms.values()} == {
        vm.name: (vm.state, vm.host, vm.discs) for vm in before.vms.values()
    }
    reach(pool).VM.resume(row(pool, "VM", "vm06").ref, False, False)
    assert states(pool)["vm06"][0] == "Running"


def test_no_run_begins_before_the_downtime_of_a_policy_is_accepted(pool: MockPool) -> None:
    """Also where somebody asked for it by name."""
    plan = planned(pool, vm01="suspend")
    with pytest.raises(ProcedureError, match="downtime"):
        rolling_upgrade.run(reach(pool), plan, pool.hands, journal=Journal.create(plan))
    assert states(pool)["vm01"] == ("Running", "host1")


@pytest.mark.parametrize("release", ["4.0.1", "8.1"])
@pytest.mark.parametrize(
    ("last", "state"),
    [
        ("suspend vm01", "Suspended"),
        ("begin with host2", "Suspended"),
        ("wait until all versions are equal", "Suspended"),
        ("compare the pool with what it was", "Running"),
    ],
)
def test_a_run_that_is_given_up_leaves_nobody_suspended(release: str, last: str, state: str) -> None:
    """Neither who was suspended for the upgrade, however far that came, nor who is up again by then."""
    pool = fully_virtual(MockPool.create(release=release))
    before, plan = states(pool), planned(pool, vm01="suspend", vm06="leave")
    journal, passed = Journal.create(plan), list[str]()
    done = rolling_upgrade.run(
        *(reach(pool), plan, pool.hands),
        journal=journal,
        accept_downtime=True,
        on_step=lambda number, total, text: passed.append(text),
        stop=lambda: "far enough" if last in passed else "",
    )
    assert "far enough" in done.paused
    assert states(pool)["vm01"][0] == state
    assert running.abandon(reach(pool), journal, pool.hands) == []
    assert {name: state for name, (state, _) in states(pool).items()} == {
        name: state for name, (state, _) in before.items()
    }
    assert journal.state == "abandoned"
