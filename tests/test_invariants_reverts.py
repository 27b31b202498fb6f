"""Each invariant of a revert against a saboteur that it must catch."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from mockserver import MockPool
from mockserver.invariants import AsBefore, revert, sound

Make = Callable[..., Any]


@pytest.fixture
def upgraded(calls: Make) -> tuple[Any, AsBefore]:
    """A pool whose master was upgraded, and how it was before; its guests are on the members."""
    c = calls(release="6.2", hosts=3, vms=3)
    before = AsBefore(c.pool)
    c("VM.pool_migrate", c.vm("vm01").ref, c.host("host2").ref, {})
    return c.upgrade("host1", "6.5"), before


def caught(c: Any) -> set[str]:
    return {violation.invariant for violation in c.pool.violations}


def go_back(c: Any) -> None:
    """Restore the master from its backup partition."""
    c.halt("host1")
    c.install("host1", "6.5", "restore").back()


def test_a_guest_that_the_old_database_has_elsewhere(upgraded: tuple[Any, AsBefore]) -> None:
    """It was moved among old hosts since; a master that goes back would end it, or run it twice."""
    c, before = upgraded
    c.pool.watch(*revert(before))
    c("VM.pool_migrate", c.vm("vm01").ref, c.host("host3").ref, {})
    assert caught(c) == set()
    go_back(c)
    assert "old database holds" in caught(c)
    texts = [v.text for v in c.pool.violations]
    assert "vm01 runs on host3, where the master's database does not have it" in texts


def test_a_guest_that_the_old_database_does_not_know(upgraded: tuple[Any, AsBefore]) -> None:
    """It was made since, and runs on an old host."""
    c, before = upgraded
    c.pool.watch(*revert(before))
    machine, _ = c.pool.domain(c.vm("vm01"))
    machine.domains["unknown"] = machine.domains.pop(c.vm("vm01")["uuid"])
    go_back(c)
    assert any("does not know runs on host2: unknown" in v.text for v in c.pool.violations)


def test_an_upgrade_that_is_installed_again(upgraded: tuple[Any, AsBefore]) -> None:
    """It overwrites the one old system that there is."""
    c, before = upgraded
    c.pool.watch(*revert(before))
    c.upgrade("host1", "6.5")
    assert "way back open" in caught(c)


def test_a_guest_that_stops_unannounced(upgraded: tuple[Any, AsBefore]) -> None:
    """Nobody had said so; where it was said nothing is broken."""
    c, before = upgraded
    c.pool.watch(*revert(before, may_stop=[c.vm("vm02")["uuid"]]))
    c("VM.clean_shutdown", c.vm("vm02").ref)
    assert caught(c) == set()
    c("VM.clean_shutdown", c.vm("vm01").ref)
    assert caught(c) == {"stops announced"}


def left_new(c: Any) -> str:
    return "host1 ran XenServer 6.2.0 and runs XenServer 6.5.0"


def left_halted(c: Any) -> str:
    c("VM.clean_shutdown", c.vm("vm02").ref)
    return "vm02 was Running and is Halted"


def left_away(c: Any) -> str:
    return "vm01 is not at home"


def left_gone(c: Any) -> str:
    c("VM.hard_shutdown", c.vm("vm02").ref)
    c("VM.destroy", c.vm("vm02").ref)
    return "vm02 is gone"


def came_up(c: Any) -> str:
    c("VM.hard_shutdown", c.vm("vm02").ref)
    c("VM.clone", c.vm("vm02").ref, "vm99")
    return "vm99 came out of nowhere"


def left_marked(c: Any) -> str:
    c("pool.add_to_other_config", c("pool.get_all")[0], "xenctl-run", "somebody")
    return "the key xenctl-run is left"


def left_disabled(c: Any) -> str:
    c("host.disable", c.host("host2").ref)
    return "host2 is disabled"


def left_without_disc(c: Any) -> str:
    drive = next(
        row for row in c.pool.store.table("VBD").values() if row["type"] == "CD" and row["VM"] == c.vm("vm02").ref
    )
    if drive["empty"]:
        iso = next(row for row in c.pool.store.table("VDI").values() if row["name_label"].endswith(".iso"))
        c("VBD.insert", drive.ref, iso.ref)
    else:
        c("VBD.eject", drive.ref)
    return f"the drive {drive['uuid']} does not hold what it held"


def moved_master(c: Any) -> str:
    c.pool.machine("host1").system.role, c.pool.machine("host2").system.role = "slave:1.2.3.4", "master"
    return "the master was host1 and is host2"


@pytest.mark.parametrize(
    "sabotage",
    [
        *(left_new, left_halted, left_away, left_gone, came_up),
        *(left_marked, left_disabled, left_without_disc, moved_master),
    ],
)
def test_what_is_not_as_before_at_the_end(upgraded: tuple[Any, AsBefore], sabotage: Callable[[Any], str]) -> None:
    """Releases, the master, guests, discs, keys, hosts."""
    c, before = upgraded
    text = sabotage(c)
    assert text in list(before.broken_at_end(c.pool))


def test_what_was_named_may_go_and_stay_away(upgraded: tuple[Any, AsBefore]) -> None:
    """Guests whose records are lost, and those that find no room at home."""
    c, before = upgraded
    came_up(c)
    revert(before, may_go=[c.vm("vm99")["uuid"]], may_stay_away=[c.vm("vm01")["uuid"]])
    texts = list(before.broken_at_end(c.pool))
    assert "vm99 came out of nowhere" not in texts
    assert "vm01 is not at home" not in texts


def test_every_invariant_of_a_revert_has_a_saboteur() -> None:
    """Those of an upgrade and of every pool have theirs elsewhere."""
    pool = MockPool.create(hosts=2, vms=0)
    borrowed = {"one host offline", "master newest", "no step back", "HA off", *(i.name for i in sound())}
    own = {invariant.name for invariant in revert(AsBefore(pool))} - borrowed
    assert own == {"as before", "old database holds", "way back open", "stops announced"}
