"""A journal or a dump of another pool: the same sentence and the same exit status everywhere, and nothing changed."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from places import Place
from reverted import Case

from mockserver import MockPool
from xenctl import database
from xenctl.errors import ProcedureError
from xenctl.procedures import backup, from_dump, revert
from xenctl.procedures.before import of_journal, of_pool
from xenctl.procedures.belonging import assert_same_pool
from xenctl.procedures.journal import Journal
from xenctl.procedures.observe import observe


@pytest.fixture
def case(tmp_path: Path) -> Callable[..., Case]:
    return lambda *release, **shape: Case(tmp_path, *release, **shape)


def pools() -> list[MockPool]:
    """Two that are alike but for their uuids."""
    return [MockPool.create(hosts=2, vms=4, release="4.1", seed=seed) for seed in (1, 2)]


def whose(theirs: MockPool, ours: MockPool) -> str:
    """What is said of a file of one pool in the other."""
    pool, here = (f"{one.store.pool()['name_label']} ({one.store.pool()['uuid']})" for one in (theirs, ours))
    return f"is of another pool, {pool}, and this is {here}: give the one of this pool, or the address of that pool"


def shown(pool: MockPool) -> dict[str, Any]:
    """What a run of any procedure changes first: the pool's marks, hosts, guests, machines."""
    return {
        "pool": dict(pool.store.pool()["other_config"]),
        "hosts": [row["enabled"] for row in pool.store.table("host").values()],
        "guests": [(row["power_state"], row["resident_on"]) for row in pool.store.table("VM").values()],
        "machines": [machine.state for machine in pool.machines],
    }


# --- a dump


@pytest.mark.parametrize(
    "words",
    [
        ("upgrade", "revert", "--to", "4.0.1", "--dump", "DUMP", "--accept-loss", "--accept-downtime"),
        ("upgrade", "revert", "--to", "4.0.1", "--dump", "DUMP", "--dry-run"),
        ("upgrade", "revert", "--to", "4.1", "--dump", "DUMP", "--accept-loss", "--accept-downtime"),
        ("upgrade", "revert", "--from-dump", "--dump", "DUMP", "--accept-loss", "--accept-downtime"),
        ("upgrade", "revert", "--from-dump", "--dump", "DUMP", "--dry-run"),
        ("restore", "DUMP", "--yes"),
        ("restore", "DUMP", "--dry-run"),
    ],
    ids=" ".join,
)
def test_a_dump_of_another_pool_is_refused(place: Place, words: tuple[str, ...]) -> None:
    """Every guest would look as if it had been made since, and all of them would be shut down for it."""
    theirs, ours = pools()
    path, own, before = place.folder / "dump.xml", place.folder / "own", shown(ours)
    theirs.save(path)
    journal = "--journal" if words[0] == "restore" else "--revert-journal"
    done = place(*(str(path) if word == "DUMP" else word for word in words), *place.reach(ours), journal, str(own))
    assert done.exit_code == 1, done.output
    said = " ".join(done.output.split())
    assert f"the dump {whose(theirs, ours)}" in said
    assert "made since" not in said
    assert "shut it down first" not in said
    assert shown(ours) == before
    assert not own.exists()


@pytest.mark.parametrize("turns", [0, 1, 3])
def test_a_dump_of_another_pool_stops_every_revert(case: Callable[..., Case], tmp_path: Path, turns: int) -> None:
    """In the library, too, whatever of the pool is upgraded: the plan has that one problem and no step."""
    c = case("6.2", "6.5")
    journal = c.upgrade(turns)
    other = MockPool.create(hosts=3, vms=6, release="6.2", seed=9)
    other.save(tmp_path / "other.xml")
    known = replace(of_journal(journal), dump=str(tmp_path / "other.xml"))
    plan = revert.plan(c.session, known)
    assert plan.problems == (f"the dump {whose(other, c.pool)}",)
    assert (plan.steps, plan.losses) == ((), ())
    plan = from_dump.plan(c.session, known.dump, replace(known, source="6.2.0"))
    assert plan.problems == (f"the dump {whose(other, c.pool)}",)


def test_a_dump_of_another_pool_brings_no_master_back(case: Callable[..., Case], tmp_path: Path) -> None:
    """Where nobody answers the journal says which pool it is."""
    c = case("6.2", "6.5")
    journal = c.upgrade(1)
    other = MockPool.create(hosts=3, vms=6, release="6.2", seed=9)
    other.save(tmp_path / "other.xml")
    known = replace(of_journal(journal), dump=str(tmp_path / "other.xml"))
    c.pool.machine("host1").power_off()
    for plan in (
        revert.plan(c.session_later(), known),
        from_dump.plan(c.session_later(), known.dump, known),
    ):
        assert plan.problems == (f"the dump {whose(other, c.pool)}",)
        assert plan.steps == ()


@pytest.mark.parametrize("turns", [2, 3])
def test_a_dump_from_after_the_beginning_is_not_the_state_before(
    case: Callable[..., Case], tmp_path: Path, turns: int
) -> None:
    """Half way the master sends none that can be used; later it is of the new release. The way back is to the old one."""
    c = case("6.2", "6.5")
    c.upgrade(turns)
    late = tmp_path / "late.xml"
    if turns == 2:
        late.write_bytes(database.stub())
        plan = revert.plan(c.session, of_pool(observe(c.session), dump=str(late)), take_over=True)
        assert plan.problems == ()
        assert "the dump from before cannot be used" in plan.warnings[0]
        return
    backup.take(c.session, late)
    plan = revert.plan(c.session, of_pool(observe(c.session), "6.2", str(late)), take_over=True)
    assert plan.problems == (
        "the dump was taken under 6.5.0, and the pool goes back to 6.2.0: give the dump from before the upgrade",
    )
    assert plan.steps == ()


@pytest.mark.parametrize(
    ("content", "said"), [(None, "nowhere.xml"), (b"hello", "not XML"), (database.stub(), "mixed")], ids=str
)
def test_a_dump_that_is_given_has_to_be_one(place: Place, content: bytes | None, said: str) -> None:
    """Only one that the journal names may be gone: then less is known, and that is said."""
    ours = pools()[1]
    path, own = place.folder / "nowhere.xml", place.folder / "own"
    if content is not None:
        path.write_bytes(content)
    words = ("upgrade", "revert", "--to", "4.0.1", "--dump", str(path), "--revert-journal", str(own))
    done = place(*words, *place.reach(ours))
    assert done.exit_code == 2, done.output
    assert said in done.output
    assert not own.exists()


# --- a journal


@pytest.mark.parametrize(
    "words",
    [
        ("upgrade", "resume"),
        ("upgrade", "abandon"),
        ("abandon",),
        ("upgrade", "revert", "--accept-downtime"),
        ("upgrade", "revert", "--dry-run"),
        ("upgrade", "revert", "--from-dump", "--dump", "DUMP", "--accept-downtime"),
    ],
    ids=" ".join,
)
def test_the_journal_of_another_pools_upgrade_is_refused(place: Place, words: tuple[str, ...]) -> None:
    """It was understood, and cannot be; neither pool is touched, also where the dump is of the right one."""
    theirs, ours = pools()
    path, dump = place.folder / "journal", place.folder / "dump.xml"
    ours.save(dump)
    begun = place(*("upgrade", "run", "--journal", str(path), "--stop-after", "1"), *place.reach(theirs))
    assert begun.exit_code == 3, begun.output
    before = [shown(theirs), shown(ours)]
    words = tuple(str(dump) if word == "DUMP" else word for word in words)
    done = place(*words, "--journal", str(path), *place.reach(ours))
    assert done.exit_code == 1, done.output
    said = " ".join(done.output.split())
    assert said.count(whose(theirs, ours)) == said.count("of another pool") > 0
    assert [shown(theirs), shown(ours)] == before
    with Journal.open(path) as journal:
        assert journal.state == "stopped"


def test_the_journal_of_another_pools_shutdown_is_refused(place: Place) -> None:
    """Nothing is started for it."""
    theirs, ours = pools()
    path = place.folder / "journal"
    begun = place("shutdown", "--policy", "hard", "--journal", str(path), *place.reach(theirs))
    assert begun.exit_code == 0, begun.output
    before = shown(ours)
    done = place("start-again", "--journal", str(path), *place.reach(ours))
    assert done.exit_code == 1, done.output
    assert f"the journal {whose(theirs, ours)}" in " ".join(done.output.split())
    assert shown(ours) == before


def test_the_journal_of_another_pools_rolling_reboot_is_refused(place: Place) -> None:
    """The same command goes on with a journal, but not here."""
    theirs, ours = pools()
    words = ("rolling-reboot", "--stuck", "suspend", "--journal", str(place.folder / "journal"))
    begun = place(*words, "--stop-after", "1", *place.reach(theirs))
    assert begun.exit_code == 3, begun.output
    before = shown(ours)
    done = place(*words, *place.reach(ours))
    assert done.exit_code == 1, done.output
    assert f"the journal {whose(theirs, ours)}" in " ".join(done.output.split())
    assert shown(ours) == before


def test_the_new_installation_of_a_pool_that_goes_back_by_a_dump_is_that_pool(case: Callable[..., Case]) -> None:
    """Until the dump is restored it has a uuid of its own, at the old address; at another address it is another pool."""
    c = case("6.2", "6.5")
    plan = from_dump.plan(c.session, backup.take(c.session, c.dump).path or "")
    store = c.pool.store
    store.write(store.pool(), uuid="0" * 36)
    assert_same_pool(c.session, plan)
    elsewhere = replace(plan, hosts=tuple(replace(host, address="192.0.2.1") for host in plan.hosts))
    for other in (elsewhere, replace(plan, steps=())):
        with pytest.raises(ProcedureError, match="the journal is of another pool"):
            assert_same_pool(c.session, other)
