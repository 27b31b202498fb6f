"""Maintenance mode: a host is emptied and kept empty; what was there comes back, whoever noted it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from pools import RELEASES, pin, reach, row, states, unharmed
from protected import protected
from upkeep import call, carried_out, keys, killed_anywhere, look, made, on, without_drivers

from mockserver import MockPool
from xenctl.errors import ProcedureError
from xenctl.procedures import maintenance
from xenctl.procedures.journal import Journal
from xenctl.procedures.running import Outcome
from xenctl.session import Session

MIB = 1 << 20
LISTS = {what: f"MAINTENANCE_MODE_EVACUATED_VMS_{what}" for what in ("MIGRATED", "SUSPENDED", "HALTED")}


def entered(pool: MockPool, host: str = "host2", **options: Any) -> tuple[Outcome, Journal]:
    plan = maintenance.plan_enter(reach(pool), host, **options)
    assert plan.problems == ()
    journal = Journal.create(plan)
    return maintenance.enter(reach(pool), journal, pool.hands), journal


def left(pool: MockPool, host: str = "host2", **options: Any) -> Outcome:
    plan = maintenance.plan_leave(reach(pool), host, **options)
    assert plan.problems == ()
    return carried_out(pool, plan)


def uuids(pool: MockPool, *names: str) -> set[str]:
    return {row(pool, "VM", name)["uuid"] for name in names}


def listed(pool: MockPool, what: str, host: str = "host2") -> set[str]:
    return set(keys(pool, host)[LISTS[what]].split(","))


@pytest.mark.parametrize("release", RELEASES)
def test_a_host_is_emptied_and_gets_back_what_it_had(release: str) -> None:
    """In between it is disabled, and its own keys say what left it, as XenCenter writes them."""
    pool = made(release)
    before = states(pool)
    there = on(pool, "host2")
    assert there
    outcome, _ = entered(pool)
    assert outcome.problems == []
    assert on(pool, "host2") == []
    assert not row(pool, "host", "host2")["enabled"]
    assert set(keys(pool, "host2")) == {"MAINTENANCE_MODE", LISTS["MIGRATED"]}
    assert listed(pool, "MIGRATED") == uuids(pool, *there)
    assert look(pool).mark == ""
    assert left(pool).problems == []
    assert (states(pool), keys(pool, "host2")) == (before, {})
    assert row(pool, "host", "host2")["enabled"]
    assert unharmed(pool)


def test_guests_go_to_the_host_that_has_their_storage() -> None:
    """The pool itself would empty no host while another of them lacks some: each guest is moved by name."""
    pool = made()
    guests, shared = on(pool, "host2"), row(pool, "SR", "NFS virtual disk storage")
    lacking = next(
        pbd for pbd in pool.store.rows("PBD", shared["PBDs"]) if pbd["host"] == row(pool, "host", "host3").ref
    )
    for guest in on(pool, "host3"):
        call(pool, "VM.hard_shutdown", row(pool, "VM", guest).ref)
    call(pool, "PBD.unplug", lacking.ref)
    assert call(pool, "host.get_vms_which_prevent_evacuation", row(pool, "host", "host2").ref)
    outcome, _ = entered(pool)
    assert (outcome.problems, on(pool, "host2")) == ([], [])
    assert set(guests) <= set(on(pool, "host1"))


@pytest.mark.parametrize(
    ("policy", "what", "state"), [("suspend", "SUSPENDED", "Suspended"), ("shut-down", "HALTED", "Halted")]
)
@pytest.mark.parametrize("release", ["4.0.1", "5.6", "8.2"])
def test_a_guest_that_cannot_leave_is_put_away_by_policy(release: str, policy: str, what: str, state: str) -> None:
    """It is named with its cause; by the policy it is suspended or shut down, and comes back like the others."""
    pool = made(release)
    guest = on(pool, "host2")[0]
    pin(pool, guest, "host2")
    before = states(pool)
    (problem,) = maintenance.plan_enter(reach(pool), "host2").problems
    assert problem.startswith(f"{guest} cannot leave host2: ")
    assert "CANNOT_EVACUATE" not in problem and "storage" in problem
    plan = maintenance.plan_enter(reach(pool), "host2", stuck=policy)
    assert [vm.name for vm in plan.downtime] == [guest]
    outcome, _ = entered(pool, stuck=policy)
    assert outcome.problems == []
    assert states(pool)[guest] == (state, "")
    assert listed(pool, what) == uuids(pool, guest)
    assert left(pool).problems == []
    assert states(pool) == before
    assert unharmed(pool)


def test_what_the_pool_says_against_a_guest_counts_in_words() -> None:
    """A device that is passed through, for instance, which no placement can see."""
    pool = made("8.2")
    guest = on(pool, "host2")[0]
    device = {"uuid": pool.new_uuid(), "pci_id": "0000:04:00.0", "host": row(pool, "host", "host2").ref}
    pool.store.create("PCI", pool.new_ref(), {**device, "attached_VMs": [row(pool, "VM", guest).ref]})
    text = f"{guest} cannot leave host2: a PCI device is passed through to it"
    assert maintenance.plan_enter(reach(pool), "host2").problems == (text,)
    plan = maintenance.plan_enter(reach(pool), "host2", stuck="suspend")
    assert plan.problems == (f"{text}; and it does not allow suspend now",)
    assert maintenance.plan_enter(reach(pool), "host2", stuck="shut-down").problems == ()


def test_a_guest_without_drivers_is_named() -> None:
    """It can neither leave nor be put away; no policy helps."""
    pool = made("5.0")
    guest = on(pool, "host2")[0]
    without_drivers(pool, guest)
    for policy in ("refuse", "suspend", "shut-down"):
        (problem,) = maintenance.plan_enter(reach(pool), "host2", stuck=policy).problems
        assert problem.startswith(f"{guest} cannot leave host2, nor be suspended or shut down cleanly: it has no parav")


@pytest.mark.parametrize(("release", "moves"), [("4.1", False), ("5.6.100", False), ("6.0", True)])
def test_a_paravirtual_guest_without_drivers_is_named_where_it_cannot_move(release: str, moves: bool) -> None:
    """Up to 5.6; shut down cleanly it can be."""
    pool = made(release)
    guest = on(pool, "host2")[0]
    pool.store.write(row(pool, "VM", guest), guest_metrics="OpaqueRef:NULL")
    text = f"{guest} cannot leave host2: it has no paravirtual drivers"
    assert maintenance.plan_enter(reach(pool), "host2").problems == (() if moves else (text,))
    assert entered(pool, stuck="shut-down")[0].problems == []
    assert on(pool, "host2") == []
    assert (states(pool)[guest][0] == "Running") == moves


@pytest.mark.parametrize("release", ["5.0", "5.6.100", "6.0"])
def test_a_guest_with_an_older_releases_drivers_leaves_all_the_same(release: str) -> None:
    """Though such a pool would not empty the host itself; in 6.0 one without hardware virtualisation needs none at all."""
    pool = made(release)
    version = {} if release == "6.0" else {"major": "4", "minor": "1", "micro": "0"}
    for agent in list(pool.store.table("VM_guest_metrics").values()):
        pool.store.write(agent, PV_drivers_version=version)
    assert call(pool, "host.get_vms_which_prevent_evacuation", row(pool, "host", "host2").ref)
    assert entered(pool)[0].problems == []
    assert on(pool, "host2") == []


def test_where_no_room_is_left_the_guest_is_named_with_what_each_host_has() -> None:
    """The biggest have been placed; the one that is left is told with its size."""
    pool = made("8.2")
    guest = on(pool, "host2")[0]
    facts = look(pool)
    size = max(host.room for host in facts.hosts.values()) - 1200 * MIB
    vm = row(pool, "VM", guest)
    pool.store.write(vm, memory_static_max=size, memory_dynamic_max=size, memory_dynamic_min=size)
    (problem,) = maintenance.plan_enter(reach(pool), "host2").problems
    assert problem.startswith(f"{guest} cannot leave host2: it fits nowhere: it takes ")
    assert "host1 has " in problem and "host3 has " in problem and "GiB free" in problem


def test_a_disc_that_only_its_host_reaches_is_named() -> None:
    """Eject it, and the guest can leave."""
    pool = made("8.2")
    guest = row(pool, "VM", on(pool, "host2")[0])
    drive = next(vbd for vbd in pool.vbds(guest) if vbd["type"] == "CD")
    iso = next(vdi for vdi in pool.store.table("VDI").values() if vdi["name_label"].endswith(".iso"))
    pool.store.write(iso, SR=row(pool, "SR", "Local storage on host2").ref)
    pool.store.write(drive, VDI=iso.ref, empty=False)
    text = (
        f"{guest['name_label']} cannot leave host2: the disc in its drive is on storage that no other host reaches "
        "(Local storage on host2): eject it"
    )
    assert text in maintenance.plan_enter(reach(pool), "host2").problems
    call(pool, "VBD.eject", drive.ref)
    assert text not in maintenance.plan_enter(reach(pool), "host2").problems


def test_another_tools_keys_are_understood() -> None:
    """What XenCenter noted comes back; a guest that is gone, or that somebody has started, is left alone."""
    pool = made("6.2")
    names = {state: [n for n, (s, _) in states(pool).items() if s == state] for state in ("Running", "Halted")}
    away, halted = on(pool, "host1")[0], names["Halted"][0]
    host = row(pool, "host", "host2").ref
    call(pool, "host.disable", host)
    (one, other), gone = (
        (row(pool, "VM", name)["uuid"] for name in (away, halted)),
        "0" * 8 + "-0000" * 3 + "-" + "0" * 12,
    )
    for key, value in (("MIGRATED", f"{one},{gone}"), ("HALTED", other)):
        call(pool, "host.add_to_other_config", host, LISTS[key], value)
    call(pool, "host.add_to_other_config", host, "MAINTENANCE_MODE", "true")
    plan = maintenance.plan_leave(reach(pool), "host2")
    assert plan.warnings == (f"a guest that left host2 is gone from the pool ({gone})",)
    assert carried_out(pool, plan).problems == []
    assert states(pool)[away] == ("Running", "host2")
    assert states(pool)[halted] == ("Running", "host2")
    assert keys(pool, "host2") == {}


def test_a_guest_that_somebody_shut_down_meanwhile_stays_down() -> None:
    """It was migrated, and whoever shut it down has decided."""
    pool = made("8.2")
    guest = on(pool, "host2")[0]
    entered(pool)
    call(pool, "VM.clean_shutdown", row(pool, "VM", guest).ref)
    assert left(pool).problems == []
    assert states(pool)[guest] == ("Halted", "")


def test_what_cannot_come_back_is_named_and_the_rest_comes() -> None:
    """The host is in service, its keys hold only who is left, and another try goes on from there."""
    pool = made("8.2")
    before = states(pool)
    first, *others = on(pool, "host2")
    pin(pool, first, "host2")
    entered(pool, stuck="shut-down")
    pool.faults.add("error", method="VM.start_on", code="HOST_NOT_ENOUGH_FREE_MEMORY", params=["1", "0"], times=3)
    plan = maintenance.plan_leave(reach(pool), "host2")
    journal = Journal.create(plan)
    outcome = carried_out(pool, plan, journal)
    (problem,) = outcome.problems
    assert f"{first} does not start: HOST_NOT_ENOUGH_FREE_MEMORY" in problem
    assert others and on(pool, "host2") == others
    assert keys(pool, "host2") == {LISTS["HALTED"]: row(pool, "VM", first)["uuid"]}
    assert look(pool).mark == ""
    assert carried_out(pool, plan, journal).ok
    assert (states(pool), keys(pool, "host2")) == (before, {})


def test_the_journal_of_entering_tells_where_the_keys_are_gone() -> None:
    """Somebody has cleared them; the journal of something else is refused."""
    pool = made("8.2")
    before = states(pool)
    _, journal = entered(pool)
    pool.store.write(row(pool, "host", "host2"), other_config={})
    assert left(pool, entered=journal.plan).problems == []
    assert states(pool) == before
    with pytest.raises(ProcedureError, match="not of this host's entering"):
        maintenance.plan_leave(reach(pool), "host1", entered=journal.plan)


def test_where_entering_fails_all_is_taken_back() -> None:
    """The guests that have moved come home, the keys are gone, the host is enabled, and the reason is told."""
    pool = made("8.2")
    before = states(pool)
    last = on(pool, "host2")[-1]
    pin(pool, last, "host2")
    pool.faults.add("error", method="VM.suspend", code="VM_BAD_POWER_STATE", params=["x", "running", "y"], times=3)
    outcome, journal = entered(pool, stuck="suspend")
    (problem,) = outcome.problems
    assert f"suspend {last}: VM_BAD_POWER_STATE" in problem
    assert (journal.state, maintenance.is_unwound(journal)) == ("abandoned", True)
    assert (states(pool), keys(pool, "host2"), look(pool).mark) == (before, {}, "")
    assert row(pool, "host", "host2")["enabled"]
    assert unharmed(pool)


def test_entering_that_another_run_forestalls_changes_nothing() -> None:
    """Its mark came between the plan and the run, and stays."""
    pool = made("8.2")
    before, plan = states(pool), maintenance.plan_enter(reach(pool), "host2")
    call(pool, "pool.add_to_other_config", pool.store.pool().ref, "xenctl-run", "another")
    journal = Journal.create(plan)
    (problem,) = maintenance.enter(reach(pool), journal, pool.hands).problems
    assert "another run (another) is at work" in problem
    assert maintenance.is_unwound(journal)
    assert (states(pool), keys(pool, "host2"), look(pool).mark) == (before, {}, "another")


def test_where_taking_back_fails_too_it_can_be_gone_on_with() -> None:
    """The journal holds what is left to be done; done, it is abandoned."""
    pool = made("8.2")
    before = states(pool)
    pin(pool, on(pool, "host2")[-1], "host2")
    pool.faults.add("error", method="VM.suspend", code="VM_BAD_POWER_STATE", params=["x", "running", "y"], times=3)
    broken = pool.faults.add("error", method="host.enable", code="HOST_STILL_BOOTING", times=3)
    outcome, journal = entered(pool, stuck="suspend")
    assert len(outcome.problems) == 2 and "enable host2: HOST_STILL_BOOTING" in outcome.problems[1]
    assert (journal.state, maintenance.is_unwound(journal), broken.fired) == ("stopped", False, 3)
    maintenance.enter(reach(pool), journal, pool.hands)
    assert maintenance.is_unwound(journal)
    assert (states(pool), keys(pool, "host2"), look(pool).mark) == (before, {}, "")


@pytest.mark.parametrize("release", ["4.1", "5.6", "8.2"])
def test_the_master_hands_over_first_where_that_is_asked_for(release: str) -> None:
    """Else it stays, with a warning."""
    pool = made(release)
    before = states(pool)
    plan = maintenance.plan_enter(reach(pool), "host1")
    assert any("host1 is the master and stays it" in warning for warning in plan.warnings)
    outcome, _ = entered(pool, "host1", new_master="host3")
    assert outcome.problems == []
    assert look(pool).hosts[look(pool).master].name == "host3"
    assert on(pool, "host1") == []
    assert left(pool, "host1").problems == []
    assert states(pool) == before
    assert unharmed(pool)


@pytest.mark.parametrize("release", ["6.2", "8.2"])
def test_high_availability_is_lowered_only_where_that_is_agreed(calls: Any, release: str) -> None:
    """And put back when the host is in service again, also from its keys alone."""
    pool = protected(calls, tolerate=2, release=release, vms=3).pool
    facts = pool.store.pool()
    assert (facts["ha_enabled"], facts["ha_host_failures_to_tolerate"]) == (True, 2)
    before = states(pool)
    (problem,) = maintenance.plan_enter(reach(pool), "host2").problems
    assert "is to survive 2 failed hosts; without host2 it can survive 1" in problem and "--lower-ha" in problem
    outcome, _ = entered(pool, lower_ha=True)
    assert outcome.problems == []
    assert (facts["ha_enabled"], facts["ha_host_failures_to_tolerate"]) == (True, 1)
    assert left(pool).problems == []
    assert (facts["ha_enabled"], facts["ha_host_failures_to_tolerate"]) == (True, 2)
    assert (states(pool), keys(pool, "host2", "xenctl")) == (before, {})


@pytest.mark.parametrize(
    ("host", "options", "said"),
    [
        ("host9", {}, "no host is called 'host9'; there are host1, host2, host3"),
        ("host2", {"stuck": "drop"}, "stuck is refuse, suspend, shut-down, not 'drop'"),
        ("host2", {"new_master": "host9"}, "no host is called 'host9'"),
    ],
)
def test_bad_input_is_refused_in_one_sentence(host: str, options: Any, said: str) -> None:
    """Before anything is changed."""
    with pytest.raises(ValueError, match=said):
        maintenance.plan_enter(reach(made()), host, **options)


def test_what_stands_against_entering_or_leaving_is_told() -> None:
    """Twice, by a master for itself, while another run is at work, with nothing to leave, while the host is down."""
    pool = made("8.2")
    (problem,) = maintenance.plan_leave(reach(pool), "host2").problems
    assert problem == "host2 is in service, and nothing is noted that is to come back to it"
    (problem,) = maintenance.plan_enter(reach(pool), "host1", new_master="host1").problems
    assert "cannot stay the master" in problem
    entered(pool)
    (problem,) = maintenance.plan_enter(reach(pool), "host2").problems
    assert problem == "host2 is in maintenance mode already: leave it first"
    call(pool, "pool.add_to_other_config", pool.store.pool().ref, "xenctl-run", "another")
    (problem,) = maintenance.plan_leave(reach(pool), "host2").problems
    assert "another run (another) is at work" in problem
    assert maintenance.plan_leave(reach(pool), "host2", take_over=True).problems == ()


def both(pool: MockPool, session: Session, journal: Journal, hands: Any) -> Outcome:
    return maintenance.enter(session, journal, hands)


def small() -> MockPool:
    pool = made("5.6", hosts=2, vms=6)
    pin(pool, on(pool, "host2")[0], "host2")
    return pool


@pytest.mark.chaos
def test_entering_that_is_killed_anywhere_ends_the_same(tmp_path: Path) -> None:
    """Before and after calls and writes of the journal."""
    killed_anywhere(small, lambda s: maintenance.plan_enter(s, "host2", stuck="suspend"), tmp_path, both)


@pytest.mark.chaos
def test_leaving_that_is_killed_anywhere_ends_the_same(tmp_path: Path) -> None:
    """Before and after calls and writes of the journal."""

    def empty() -> MockPool:
        pool = small()
        entered(pool, stuck="suspend")
        return pool

    killed_anywhere(empty, lambda s: maintenance.plan_leave(s, "host2"), tmp_path)
