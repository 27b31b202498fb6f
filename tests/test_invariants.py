"""Each invariant against a saboteur that it must catch, and against ordinary work, which it must let pass."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import Any

import pytest
from guests import fully_virtual
from saboteurs import (
    SABOTEURS,
    Sabotage,
    changed_without_backup,
    disk_destroyed,
    guest_stopped,
    halted_guests_disk_destroyed,
    opened_twice,
    power_lost,
    suspend_image_dropped,
)

from mockserver import MockPool, invariants
from mockserver.invariants import Invariant, rolling_upgrade, sound
from xenctl.errors import Failure
from xenctl.rehearsal import rehearse

IN_EVERY_POOL = {"belief holds": "belief follows", "data kept": "data follows"}
"""Of two forms of an invariant, the one that holds in every pool."""
MISFORTUNES = (power_lost, disk_destroyed, halted_guests_disk_destroyed, suspend_image_dropped)
"""What may happen in any pool, though not while it is upgraded."""


@pytest.mark.parametrize(("name", "sabotage"), SABOTEURS, ids=lambda value: getattr(value, "__name__", str(value)))
def test_an_invariant_catches_its_saboteur(
    name: str, sabotage: Callable[[Sabotage], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    """What the saboteur does is found by the invariant that forbids it."""
    assert name in caught(sabotage, rolling_upgrade(), monkeypatch)


SOUND = {invariant.name for invariant in sound()}
OF_SOUND = [
    (IN_EVERY_POOL.get(name, name), sabotage)
    for name, sabotage in SABOTEURS
    if IN_EVERY_POOL.get(name, name) in SOUND and sabotage not in MISFORTUNES
]


@pytest.mark.parametrize(("name", "sabotage"), OF_SOUND, ids=lambda value: getattr(value, "__name__", str(value)))
def test_what_holds_in_every_pool_is_watched_there(
    name: str, sabotage: Callable[[Sabotage], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The same saboteurs are caught where no upgrade is watched."""
    assert name in caught(sabotage, sound(), monkeypatch)


@pytest.mark.parametrize("misfortune", MISFORTUNES)
def test_what_may_happen_in_any_pool_is_no_mistake(
    misfortune: Callable[[Sabotage], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Power that is lost, and disks that somebody destroyed because he was asked to."""
    assert caught(misfortune, sound(), monkeypatch) == set()


def caught(sabotage: Callable[[Sabotage], None], watched: list[Invariant], patch: pytest.MonkeyPatch) -> set[str]:
    """The names of the invariants that a saboteur broke."""
    pool = MockPool.create(release="4.0.1")
    pool.watch(*watched)
    saboteur = Sabotage(pool, patch)
    saboteur.backup()
    try:
        sabotage(saboteur)
    except Failure as refusal:  # the fake may refuse what an invariant would have caught; that is no proof
        pytest.fail(f"the saboteur was refused: {refusal}")
    return {violation.invariant for violation in pool.violations}


def test_every_invariant_has_a_saboteur() -> None:
    """No invariant is left unproven."""
    assert {invariant.name for invariant in rolling_upgrade()} == {name for name, _ in SABOTEURS}
    assert {name for name, _ in OF_SOUND} == SOUND


def test_what_the_plan_named_may_stop(monkeypatch: pytest.MonkeyPatch) -> None:
    """A guest that was named before the start may be shut down."""
    pool = MockPool.create(release="4.0.1")
    saboteur = Sabotage(pool, monkeypatch)
    pool.watch(*rolling_upgrade(may_stop=[saboteur.vm("vm01")["uuid"]]))
    saboteur.backup()
    guest_stopped(saboteur)
    assert pool.violations == []


def test_what_hosts_hear_of_each_other_needs_no_backup(calls: Callable[..., Any]) -> None:
    """With high availability on they write that down by themselves."""
    call = calls(release="5.6", hosts=3)
    call("pool.enable_ha", [], {})
    pool = call.pool
    pool.watch(*rolling_upgrade())
    before = pool.store.generation
    pool.clock.advance(600)
    assert pool.store.generation > before
    assert pool.violations == []


def test_a_violation_says_when_and_after_what(monkeypatch: pytest.MonkeyPatch) -> None:
    """A violation carries the simulated time and the call that led to it, and is reported once."""
    pool = MockPool.create(release="4.0.1")
    pool.watch(*rolling_upgrade())
    saboteur = Sabotage(pool, monkeypatch)
    pool.clock.advance(100)
    changed_without_backup(saboteur)
    changed_without_backup(saboteur)
    (found,) = pool.violations
    assert found.as_dict() == {
        "invariant": "backup first",
        "at": pool.clock.now(),
        "cause": "VM.set_name_description",
        "text": "the pool was changed (VM name_description) before a backup was taken",
    }


@pytest.mark.parametrize("release", ["4.0.1", "4.1.0", "5.0.0", "5.6.0", "6.2.0", "7.1.0", "8.2.0"])
def test_a_clean_upgrade_breaks_nothing(release: str) -> None:
    """The real procedure on every generation of releases breaks no invariant."""
    made = MockPool.create(release=release)
    verdict = rehearse((fully_virtual(made) if release == "8.2.0" else made).store.dump())
    assert verdict.violations == []
    assert verdict.ok, verdict.reasons


# --- what must not trip them


def life(s: Sabotage) -> None:
    """What is done to guests all day."""
    vm, other, halted = s.ref("VM", "vm01"), s.ref("VM", "vm02"), s.ref("VM", "vm04")
    newer = s.pool.store.release.schema > (5, 57)
    s.call("event.register", ["*"])
    s.call("VM.start", halted, True, False)
    s.call("VM.unpause", halted)
    s.call("VM.pause", vm)
    s.call("VM.unpause", vm)
    s.call("VM.suspend", vm)
    s.call("VM.resume", vm, False, False)
    s.call("VM.pool_migrate", vm, s.ref("host", "host3"), {"live": "true"})
    s.call("VBD.eject", next(vbd.ref for vbd in s.pool.vbds(s.vm("vm02")) if vbd["type"] == "CD"))
    if newer:
        s.call("VM.snapshot", other, "kept")
        copy = s.call("VM.checkpoint", other, "with its memory")
        s.call("VM.revert", copy)
    assert s.call("event.next")  # older releases keep few events, and not for long
    s.call("VM.hard_shutdown", halted)
    clone = s.call("VM.clone", halted, "another")
    s.call("VM.start", clone, False, False)
    s.call("VM.clean_reboot", clone)
    task = s.call("Async.VM.clean_shutdown", clone)
    s.call("task.cancel", task)
    s.pool.clock.advance(60)
    s.call("VM.hard_shutdown", clone)
    for vbd in list(s.pool.vbds(s.pool.store.get("VM", clone))):
        if vbd["type"] == "Disk":
            s.call("VDI.destroy", vbd["VDI"])
    s.call("VM.destroy", clone)
    assert s.call("event.next")


def misfortune(s: Sabotage) -> None:
    """Hosts that go and come, in the middle of things too."""
    s.call("Async.VM.clean_reboot", s.ref("VM", "vm02"))
    s.pool.hands.power_off("host2")
    s.pool.clock.advance(900)
    s.pool.hands.power_on("host2")
    s.pool.clock.advance(900)
    s.pool.hands.power_off("host1")
    s.pool.hands.power_on("host1")
    s.pool.clock.advance(900)
    s.session = ""
    s.call("VM.start", s.ref("VM", "vm02"), False, False)


def taken_back(s: Sabotage) -> None:
    """The same again, from a savepoint."""
    s.call("pool.get_all")
    for _ in range(2):
        with s.pool.savepoint():
            life(s)
    life(s)


@pytest.mark.parametrize("release", ["4.0.1", "5.0.0", "5.6.0", "7.0", "8.2", "8.4"])
@pytest.mark.parametrize("work", [life, misfortune, taken_back])
def test_ordinary_work_breaks_nothing(
    work: Callable[[Sabotage], None], release: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither what clients ask for nor what befalls hosts is a mistake of the fake."""
    pool = MockPool.create(release=release)
    pool.watch(*sound())
    work(Sabotage(pool, monkeypatch))
    pool.clock.run_until_idle()
    pool.conclude()
    assert pool.violations == []


def test_what_dangles_in_a_dump_is_not_judged(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is kept and reported, also where its row is written; what comes to dangle later is judged."""
    source = MockPool.create(release="8.2")
    lost = Sabotage(source, monkeypatch).vm("vm01")["metrics"]
    source.store.delete(source.store.get("VM_metrics", lost))
    source.save(tmp_path / "pool.xml")
    pool = MockPool.from_dump(tmp_path / "pool.xml")
    assert "table VM: 1 references of metrics to no VM_metrics" in pool.reports
    pool.watch(*sound())
    s = Sabotage(pool, monkeypatch)
    assert s.vm("vm01")["metrics"] == lost
    s.call("VM.set_name_description", s.ref("VM", "vm01"), "changed")
    pool.store.write(s.vm("vm01"), metrics="OpaqueRef:NULL")
    pool.store.write(s.vm("vm01"), metrics=lost)
    s.call("pool.get_all")
    pool.conclude()
    assert pool.violations == []
    pool.store.write(s.vm("vm02"), metrics=lost)
    s.call("pool.get_all")
    assert [v.text for v in pool.violations] == [
        f"VM {s.vm('vm02').ref}: metrics leads to {lost}, and there is no such VM_metrics"
    ]


def test_what_a_client_wrote_may_dangle(monkeypatch: pytest.MonkeyPatch) -> None:
    """A field that clients set takes any reference, as in xapi."""
    pool = MockPool.create(release="8.2")
    pool.watch(*sound())
    s = Sabotage(pool, monkeypatch)
    s.call("VM.set_affinity", s.ref("VM", "vm01"), "OpaqueRef:none")
    pool.conclude()
    assert pool.violations == []


def test_a_sharable_disk_may_have_two_writers(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is for those who know how to share."""
    pool = MockPool.create(release="8.2")
    pool.watch(*sound())
    s = Sabotage(pool, monkeypatch)
    for vdi in pool.store.table("VDI").values():
        pool.store.write(vdi, sharable=True)
    opened_twice(s)
    assert pool.violations == []


def work_of(pool: MockPool, patch: pytest.MonkeyPatch) -> dict[str, int]:
    """How many functions of the invariants some calls run, each by itself."""
    s, counts, home = Sabotage(pool, patch), dict[str, int](), str(Path(invariants.__file__).parent)
    vm, sr = s.ref("VM", "vm01"), s.ref("SR", "NFS virtual disk storage")
    disk = {"SR": sr, "virtual_size": "1048576", "type": "user", "sharable": False, "read_only": False}
    calls: list[tuple[str, tuple[Any, ...]]] = [
        ("VM.set_name_description", (vm, "changed")),
        ("VM.clean_shutdown", (vm,)),
        ("VM.start_on", (vm, s.ref("host", "host2"), False, False)),
        ("VM.pool_migrate", (vm, s.ref("host", "host1"), {})),
        ("VM.snapshot", (vm, "kept")),
        ("VDI.create", ({**disk, "other_config": {}, "name_label": "new"},)),
        ("SR.set_name_description", (sr, "changed")),
        ("network.create", ({"name_label": "new", "other_config": {}},)),
    ]

    for method, args in calls:
        counts[method] = 0

        def count(frame: FrameType, event: str, arg: Any, method: str = method) -> None:
            counts[method] += event == "call" and frame.f_code.co_filename.startswith(home)

        before = sys.getprofile()
        sys.setprofile(count)
        try:
            s.call(method, *args)
        finally:
            sys.setprofile(before)
    return counts


def test_checking_costs_what_a_call_writes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Not how large the pool is: the invariants do the same for the same call among twenty VMs and among five hundred."""
    counts = []
    for vms in (20, 500):
        pool = MockPool.create(hosts=3, vms=vms, release="8.2")
        pool.watch(*sound())
        counts.append(work_of(pool, monkeypatch))
    small, large = counts
    assert min(small.values()) > 10
    assert {m for m in small if large[m] > 1.1 * small[m]} == set(), (small, large)
