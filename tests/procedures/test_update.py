"""An update applied to one host after another: uploaded, checked everywhere first, applied, and what it asks for done."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from pools import pin, reach, row, states, unharmed
from protected import protected
from upkeep import booted, call, carried_out, killed_anywhere, look, made, on

from mockserver import MockPool
from xenctl.errors import ProcedureError
from xenctl.procedures import update
from xenctl.procedures.journal import Journal
from xenctl.procedures.plan import Plan
from xenctl.procedures.running import Run
from xenctl.session import Session

UUID = "0a1b2c3d-4e5f-4678-9abc-def012345678"
RELEASES = ("4.1", "5.0", "5.6", "6.2", "7.0", "7.1", "8.2")
ON_DISKS = ("7.1", "8.2")
NAME = "Hotfix1"


def package(folder: Path, release: str, asks: str = "") -> Path:
    """A file as each release takes it."""
    attributes = f'uuid="{UUID}" name-label="{NAME}" version="1.0" after-apply-guidance="{asks}"'
    text = f"<patch {attributes}/>"
    if release in ON_DISKS:
        text = f"<update {attributes}><name-description>mends</name-description></update>"
    path = folder / "hotfix"
    path.write_bytes(text.encode().ljust(40_000, b"\n"))
    return path


def patched(pool: MockPool) -> set[str]:
    """The names of the hosts that have the update, as the records of either kind say."""
    store = pool.store
    hosts = {host.ref: host["name_label"] for host in store.table("host").values()}
    return {hosts[row["host"]] for row in store.table("host_patch").values() if row["applied"]}


def made_with(release: str, folder: Path, asks: str = "", **shape: Any) -> tuple[MockPool, str]:
    pool = made(release, **shape)
    return pool, update.upload(reach(pool), package(folder, release, asks))


@pytest.mark.parametrize("release", RELEASES)
def test_hosts_that_have_to_boot_are_emptied_one_after_another(release: str, tmp_path: Path) -> None:
    """The master first; afterwards every host has it, has booted, and every guest is where it was and never stopped."""
    pool, uuid = made_with(release, tmp_path, "restartHost")
    before = states(pool)
    plan = update.plan(reach(pool), uuid)
    assert plan.problems == () and plan.downtime == ()
    assert [plan.names[step.host] for step in plan.steps if step.action == "apply"] == ["host1", "host2", "host3"]
    assert carried_out(pool, plan).problems == []
    assert patched(pool) == {"host1", "host2", "host3"}
    assert set(booted(pool).values()) == {True}
    assert states(pool) == before
    assert unharmed(pool)


@pytest.mark.parametrize("release", ["5.6", "8.2"])
@pytest.mark.parametrize("asks", ["", "restartXAPI"])
def test_an_update_that_needs_no_boot_moves_no_guest(release: str, asks: str, tmp_path: Path) -> None:
    """The toolstack is restarted where the update asks for that; nobody is emptied."""
    pool, uuid = made_with(release, tmp_path, asks)
    began = pool.clock.now()
    plan = update.plan(reach(pool), uuid)
    actions = {step.action for step in plan.steps}
    assert not {"migrate", "reboot", "disable"} & actions
    assert ("restart-toolstack" in actions) == bool(asks)
    assert carried_out(pool, plan).problems == []
    assert patched(pool) == {"host1", "host2", "host3"}
    assert not any(booted(pool).values())
    hosts = pool.store.table("host").values()
    started = [float(host["other_config"]["agent_start_time"]) >= began for host in hosts]
    assert started == [bool(asks)] * 3
    assert unharmed(pool)


def test_guests_that_have_to_restart_are_named_or_restarted(tmp_path: Path) -> None:
    """They are the update's wish: fully virtual ones, or the others."""
    pool, uuid = made_with("6.2", tmp_path, "restartPV")
    hvm = {vm.name for vm in look(pool).vms.values() if vm.hvm}
    guests = [name for name, (state, _) in states(pool).items() if state == "Running" and name not in hvm]
    assert guests
    plan = update.plan(reach(pool), uuid)
    (warning,) = plan.warnings
    assert all(name in warning for name in guests) and "--restart-guests" in warning
    plan = update.plan(reach(pool), uuid, restart_guests=True)
    assert plan.warnings == ()
    before = {name: began(pool, name) for name in guests}
    assert carried_out(pool, plan).problems == []
    assert all(began(pool, name) > moment for name, moment in before.items())
    assert not any(step.action == "restart-guest" and plan.names[step.vm] in hvm for step in plan.steps)
    assert unharmed(pool)


def began(pool: MockPool, vm: str) -> Any:
    return pool.store.get("VM_metrics", row(pool, "VM", vm)["metrics"])["start_time"]


def test_only_the_hosts_that_are_named_get_it(tmp_path: Path) -> None:
    """The package stays, since the others lack it; they can have it later, and those that have it are passed over."""
    pool, uuid = made_with("8.2", tmp_path)
    (problem,) = update.plan(reach(pool), uuid, ["host2"]).problems
    assert problem == f"host1 is the master and lacks {NAME}: name it too, members follow it"
    plan = update.plan(reach(pool), uuid, ["host2", "host1"])
    assert carried_out(pool, plan).problems == []
    assert patched(pool) == {"host1", "host2"}
    plan = update.plan(reach(pool), uuid, ["host2", "host3"])
    assert [plan.names[step.host] for step in plan.steps if step.action == "apply"] == ["host3"]
    assert carried_out(pool, plan).problems == []
    assert patched(pool) == {"host1", "host2", "host3"}
    assert update.plan(reach(pool), uuid).problems == (f"{NAME} is on host1, host2, host3 already",)


@pytest.mark.parametrize(("release", "kept"), [("5.6", False), ("6.2", False), ("8.2", False), ("8.2", True)])
def test_the_package_goes_once_every_host_has_it(release: str, kept: bool, tmp_path: Path) -> None:
    """Unless it is to be kept."""
    pool, uuid = made_with(release, tmp_path)
    assert carried_out(pool, update.plan(reach(pool), uuid, keep=kept)).problems == []
    if release in ON_DISKS:
        disks = [vdi for vdi in pool.store.table("VDI").values() if vdi["name_label"] == "update hotfix"]
        assert len(disks) == kept
    else:
        (patch,) = pool.store.table("pool_patch").values()
        assert patch["filename"] == ""


@pytest.mark.parametrize("release", ["6.2", "8.2"])
def test_the_same_file_is_taken_as_it_is(release: str, tmp_path: Path) -> None:
    """A run that was killed before it had a journal begins anew with it, and leaves no second disk."""
    pool, uuid = made_with(release, tmp_path)
    disks = len(pool.store.table("VDI"))
    assert update.upload(reach(pool), package(tmp_path, release)) == uuid == UUID
    assert len(pool.store.table("VDI")) == disks


@pytest.mark.parametrize("release", ["6.2", "8.2"])
def test_a_file_that_is_no_update_leaves_nothing_behind(release: str, tmp_path: Path) -> None:
    """Neither a record nor a disk."""
    pool = made(release)
    disks, path = len(pool.store.table("VDI")), tmp_path / "letter"
    path.write_bytes(b"Dear Sirs" * 1000)
    with pytest.raises(ProcedureError, match=r"letter is not taken as an update: INVALID_(PATCH|UPDATE)"):
        update.upload(reach(pool), path)
    assert len(pool.store.table("VDI")) == disks
    assert not pool.store.table("pool_patch")
    with pytest.raises(FileNotFoundError):
        update.upload(reach(pool), tmp_path / "nothing")


def test_a_release_without_updates_of_pools_says_so(tmp_path: Path) -> None:
    """4.0.1 has none; and a uuid that the pool does not know is told."""
    pool = made("4.0.1")
    for begin in (lambda: update.upload(reach(pool), package(tmp_path, "4.1")), lambda: update.plan(reach(pool), UUID)):
        with pytest.raises(ProcedureError, match=r"takes no updates of pools: they came with 4\.1"):
            begin()
    with pytest.raises(ValueError, match=f"the pool has no update '{UUID}'"):
        update.plan(reach(made("8.2")), UUID)


@pytest.mark.parametrize(
    ("code", "params", "said"),
    [
        ("PATCH_PRECHECK_FAILED_PREREQUISITE_MISSING", ["p", "abc"], "these updates have to be applied before: abc"),
        (
            "PATCH_PRECHECK_FAILED_WRONG_SERVER_VERSION",
            ["p", "6.2", "6.5"],
            "it is for version 6.5, and the host runs 6.2",
        ),
        (
            "PATCH_PRECHECK_FAILED_OUT_OF_SPACE",
            ["p", "10", "20"],
            "the host's disk has 10 bytes left, and 20 are needed",
        ),
        ("PATCH_PRECHECK_FAILED_UNKNOWN_ERROR", ["p", "no way"], "its own check failed: no way"),
        ("HOST_OFFLINE", ["x"], "HOST_OFFLINE"),
    ],
)
def test_what_a_hosts_check_says_is_told_in_words(code: str, params: list[str], said: str, tmp_path: Path) -> None:
    """For each host, before anything is changed."""
    pool, uuid = made_with("6.2", tmp_path)
    pool.faults.add("error", method="pool_patch.precheck", code=code, params=params, nth=2)
    plan = update.plan(reach(pool), uuid)
    (problem,) = plan.problems
    assert problem.startswith(f"{NAME} cannot be applied to host2: ") and said in problem
    assert plan.steps == ()


def test_a_check_that_wants_the_host_empty_empties_it(tmp_path: Path) -> None:
    """Though no reboot follows."""
    pool, uuid = made_with("6.2", tmp_path)
    before = states(pool)
    pool.faults.add("error", method="pool_patch.precheck", code=update.EMPTY_FIRST, params=["p"], nth=2)
    plan = update.plan(reach(pool), uuid)
    assert {plan.names[step.host] for step in plan.steps if step.action == "disable"} == {"host2"}
    assert "reboot" not in {step.action for step in plan.steps}
    assert carried_out(pool, plan).problems == []
    assert states(pool) == before
    assert row(pool, "host", "host2")["enabled"]


def test_an_update_that_fails_on_one_host_goes_no_further(tmp_path: Path) -> None:
    """The hosts after it are as they were; mended, the run goes on where it stopped."""
    pool, uuid = made_with("6.2", tmp_path)
    plan = update.plan(reach(pool), uuid)
    pool.faults.add("error", method="pool_patch.apply", code="PATCH_APPLY_FAILED", params=["broken"], nth=2, times=3)
    journal = Journal.create(plan)
    (problem,) = carried_out(pool, plan, journal).problems
    assert f"apply {NAME} to host2: PATCH_APPLY_FAILED" in problem
    assert patched(pool) == {"host1"}
    assert carried_out(pool, plan, journal).problems == []
    assert patched(pool) == {"host1", "host2", "host3"}


def test_success_without_effect_is_not_believed(tmp_path: Path) -> None:
    """The pool must show the update on the host."""
    pool, uuid = made_with("8.2", tmp_path)
    plan = update.plan(reach(pool), uuid)
    session = reach(pool)
    inner = session.transport.inner  # type: ignore[attr-defined]
    lost: list[str] = []

    class Forgetful:
        clock = inner.clock

        def send(self, request: Any) -> Any:
            answer = inner.send(request)
            host = row(pool, "host", "host1")
            if host["updates"] and not lost:
                pool.store.write(host, updates=[])
                lost.append("once")
            return answer

        def close(self) -> None:
            inner.close()

    session.transport.inner = Forgetful()  # type: ignore[attr-defined]
    outcome = Run(session, plan, pool.hands, Journal.create(plan)).carry_out()
    assert lost and any("host1" in problem or NAME in problem for problem in outcome.problems)


def test_a_guest_that_cannot_leave_is_named_or_put_away(tmp_path: Path) -> None:
    """As in a rolling reboot."""
    pool, uuid = made_with("6.2", tmp_path, "restartHost")
    guest = on(pool, "host2")[0]
    pin(pool, guest, "host2")
    before = states(pool)
    (problem,) = update.plan(reach(pool), uuid).problems
    assert problem.startswith(f"{guest} cannot leave host2")
    assert carried_out(pool, update.plan(reach(pool), uuid, stuck="shut-down")).problems == []
    assert states(pool) == before


def test_high_availability_is_off_meanwhile(calls: Any, tmp_path: Path) -> None:
    """And on again as it was."""
    pool = protected(calls, tolerate=1, release="6.2", vms=3).pool
    uuid = update.upload(reach(pool), package(tmp_path, "6.2", "restartHost"))
    assert carried_out(pool, update.plan(reach(pool), uuid)).problems == []
    facts = pool.store.pool()
    assert (facts["ha_enabled"], facts["ha_host_failures_to_tolerate"]) == (True, 1)
    assert patched(pool) == {"host1", "host2", "host3"}


def test_the_uuid_of_the_patch_that_stands_for_it_is_understood(tmp_path: Path) -> None:
    """Older tools know an update by that."""
    pool, _ = made_with("8.2", tmp_path)
    (patch,) = pool.store.table("pool_patch").values()
    plan = update.plan(reach(pool), patch["uuid"])
    assert plan.problems == ()
    assert {step.args["uuid"] for step in plan.steps if step.action == "apply"} == {UUID}


@pytest.mark.chaos
@pytest.mark.parametrize("release", ["5.6", "7.1"])
def test_killed_anywhere_and_resumed_it_ends_the_same(release: str, tmp_path: Path) -> None:
    """Before and after calls and writes of the journal."""

    def small() -> MockPool:
        return made_with(release, tmp_path, "restartHost,restartPV", hosts=2, vms=4)[0]

    def plan(session: Session) -> Plan:
        return update.plan(session, UUID, restart_guests=True)

    killed_anywhere(small, plan, tmp_path, sample=6)


def test_applied_by_somebody_else_meanwhile_it_is_passed_over(tmp_path: Path) -> None:
    """A step that holds is not taken."""
    pool, uuid = made_with("6.2", tmp_path)
    plan = update.plan(reach(pool), uuid)
    patch = next(iter(pool.store.table("pool_patch").values()))
    call(pool, "pool_patch.apply", patch.ref, row(pool, "host", "host3").ref)
    outcome = carried_out(pool, plan)
    assert outcome.problems == []
    assert [s.skipped for s in outcome.steps if s.step.action == "apply"] == [False, False, True]
