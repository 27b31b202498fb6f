"""An upgrade whose process is killed anywhere, or whose calls fail, ends as if nothing had happened.

Points are sampled here; `tox -e chaos` takes every one (`XENCTL_CHAOS_SAMPLE=0`).
"""

from __future__ import annotations

import os
import shutil
import time
import traceback
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from chaos import (
    FAULTS,
    KILLS,
    Branches,
    Fate,
    Killed,
    MortalHands,
    Still,
    can_fail,
    mortal,
    sampled,
    session_on,
)
from pools import memory, pin, row

from mockserver import MockPool
from mockserver.invariants import rolling_upgrade as invariants
from xenctl.errors import Failure, ProcedureError, TransportError
from xenctl.procedures import rolling_upgrade
from xenctl.procedures.acts import KINDS, Kind
from xenctl.procedures.acts.guests import Start
from xenctl.procedures.checks import surveyed
from xenctl.procedures.comparison import compare, picture
from xenctl.procedures.journal import DONE, Journal
from xenctl.procedures.observe import PoolFacts, observe
from xenctl.procedures.plan import Plan, Step
from xenctl.procedures.running import Run

pytestmark = pytest.mark.chaos
SAMPLE = 6
"""How many ways to go wrong each test tries."""
SEED = int(os.environ.get("XENCTL_CHAOS_SEED", "5"))
ATTEMPTS = 4
"""How often a run that stopped is taken up."""
GIB = 1 << 30


def usual() -> MockPool:
    return MockPool.create(hosts=3, vms=12, release="4.0.1")


def every_trait() -> MockPool:
    """Four hosts: a suspended guest with a CD and one without, discs in drives, a disk on local storage, a device passed
    through, high availability that protects two guests, little memory."""
    pool = MockPool.create(hosts=4, vms=20, release="5.6")
    drive = next(vbd for vbd in pool.vbds(row(pool, "VM", "vm06")) if vbd["type"] == "CD")
    pool.store.write(drive, VDI=row(pool, "VDI", "debian-etch.iso").ref, empty=False)
    pin(pool, "vm10", pool.store.get("host", row(pool, "VM", "vm10")["resident_on"])["name_label"])
    holder = row(pool, "VM", "vm03")
    pool.store.write(holder, other_config={**holder["other_config"], "pci": "0/0000:04:00.0"})
    memory(pool, 20 * GIB)
    with session_on(pool, Fate()) as session:
        session.pool.enable_ha([row(pool, "SR", "NFS virtual disk storage").ref], {"timeout": "90"})
        for name in ("vm01", "vm07"):
            session.VM.set_ha_restart_priority(row(pool, "VM", name).ref, "1")
            session.VM.set_ha_always_run(row(pool, "VM", name).ref, True)
        session.pool.set_ha_host_failures_to_tolerate(pool.store.pool().ref, 1)
    return pool


LOOKS = 60.0
"""Seconds between two looks whether the master is away, so that a guest may go down."""


def with_a_fall() -> MockPool:
    """Three hosts, a guest of which goes down while the master is away, so that the rest is planned anew."""
    pool = MockPool.create(hosts=3, vms=6, release="5.0")
    vm = row(pool, "VM", "vm02")

    def fall() -> None:
        if pool.master_serves:
            pool.clock.after(LOOKS, fall)
        else:
            pool.end_domain(vm)

    fall()
    return pool


POOLS: dict[str, Callable[[], MockPool]] = {"usual": usual, "every trait": every_trait, "with a fall": with_a_fall}


@dataclass(frozen=True)
class End:
    """What a pool is like after an upgrade: invariants that were broken, where everything is and how it is set, how often
    each guest has booted."""

    violations: list[dict[str, object]]
    facts: PoolFacts
    settings: dict[str, Any]
    boots: dict[str, int]

    @classmethod
    def of(cls, pool: MockPool) -> End:
        """The end of a pool in which nothing will happen any more."""
        pool.conclude()
        session = session_on(pool, Fate())
        facts = observe(session)
        boots = {vm.name: pool.guest(pool.store.get("VM", vm.ref)).boots for vm in facts.vms.values()}
        told = [violation.as_dict() for violation in pool.violations]
        return cls(told, facts, picture(surveyed(session)), boots)

    def differs(self, other: End) -> str:
        """How this one is not as the other, empty where it is."""
        out = [f"{violation['invariant']}: {violation['text']}" for violation in self.violations]
        pairs = ((self.boots, other.boots), (vars(self.facts), vars(other.facts)))
        for found, wanted in pairs:
            out += [
                f"{name}: {value} instead of {wanted[name]}" for name, value in found.items() if value != wanted[name]
            ]
        out += [difference.text for difference in compare(other.settings, self.settings).differences]
        return "; ".join(out)


@dataclass(frozen=True)
class Undisturbed:
    """How a pool is after an upgrade that nothing disturbs, and the points that were passed."""

    name: str
    make: Callable[[], MockPool]
    final: End
    points: tuple[str, ...]


def planned(pool: MockPool, fate: Fate) -> Plan:
    """The plan of `xenctl upgrade run --fix`."""
    return rolling_upgrade.plan(session_on(pool, fate), fix=True)


def watched(make: Callable[[], MockPool]) -> MockPool:
    """A new pool, which holds every deed against the invariants."""
    pool = make()
    plan = planned(pool, Fate())
    assert plan.problems == ()
    falls = [row(pool, "VM", "vm02")["uuid"]] if make is with_a_fall else []
    kept = invariants(may_stop=[*falls, *(vm.uuid for vm in plan.downtime)], may_stay_away=plan.away)
    # What nobody saw falling is believed to run, until the master is back.
    pool.watch(*(invariant for invariant in kept if not falls or invariant.name != "belief holds"))
    return pool


def attempt(pool: MockPool, fate: Fate, journal: Journal, plan: Plan) -> list[str]:
    """Carry out the upgrade, or go on with it; what stopped it."""
    hands: Any = MortalHands(pool.hands, fate)
    session = session_on(pool, fate)
    return rolling_upgrade.run(session, plan, hands, journal=journal, accept_downtime=True).problems


def from_file(pool: MockPool, path: Path, fate: Fate) -> list[str]:
    """An attempt of a process that finds a journal, or none."""
    if path.exists():
        journal = mortal(Journal.open(path, to_run=True), fate)
        plan = journal.plan
    else:
        plan = planned(pool, fate)
        journal = mortal(Journal.create(plan, path), fate)
    try:
        done = journal.state == DONE  # then the command has nothing to resume
        return owed(journal) if done else attempt(pool, fate, journal, plan) or owed(journal)
    finally:
        journal.close()


def owed(journal: Journal) -> list[str]:
    """What a run that is done believes is still to be undone."""
    return [f"not undone: {change.undo}" for change in journal.changes() if not change.undone]


def wrong(pool: MockPool, problems: list[str], final: End) -> str:
    """What is wrong with an end."""
    return f"it stopped: {problems}" if problems else End.of(pool).differs(final)


@pytest.fixture(scope="module", params=sorted(POOLS))
def undisturbed(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Undisturbed:
    pool, fate = watched(POOLS[request.param]), Fate()
    assert from_file(pool, tmp_path_factory.mktemp("run") / "journal", fate) == []
    final = End.of(pool)
    assert final.violations == []
    return Undisturbed(request.param, POOLS[request.param], final, tuple(fate.points))


def tried(points: Iterable[int], manners: Sequence[str]) -> tuple[frozenset[tuple[int, str]], int]:
    """What is tried of everything that could be, and how much that is."""
    every = [(number, manner) for number in points for manner in manners]
    return frozenset(sampled(every, SAMPLE, seed=SEED)), len(every)


def tell(what: str, fate: Branches, every: int, began: float) -> int:
    """Say what was tried; how much of what was chosen was left out."""
    assert fate.chosen is not None
    skipped = len(fate.chosen) - fate.deaths - fate.shared
    print(  # noqa: T201
        f"\nchaos: {what}: {len(fate.points)} points, {every} ways, {len(fate.chosen)} chosen (seed {SEED}): "
        f"{fate.deaths} copies ({fate.again} asked again at once), {fate.shared} in the state of another, "
        f"{skipped} skipped, {len(fate.broken)} broken; {time.monotonic() - began:.0f} s",
        *fate.broken,
        sep="\n  ",
        flush=True,
    )
    return skipped


def test_killed_anywhere_and_resumed_it_ends_the_same(undisturbed: Undisturbed, tmp_path: Path) -> None:
    """Before and after every call, every act of the hands and every write of the journal."""
    chosen, every = tried(range(1, len(undisturbed.points) + 1), KILLS)
    pool, began = watched(undisturbed.make), time.monotonic()

    def resume(path: Path) -> str:
        return wrong(pool, from_file(pool, path, Fate()), undisturbed.final)

    fate = Branches(pool=pool, path=tmp_path / "journal", chosen=chosen, resume=resume)
    assert from_file(pool, fate.path, fate) == []
    fate.over()
    assert tell(f"{undisturbed.name}, killed", fate, every, began) == 0
    assert fate.broken == []
    assert End.of(pool).differs(undisturbed.final) == ""


def test_each_call_may_fail_once(undisturbed: Undisturbed) -> None:
    """Refused, not heard, or done with the answer lost: the run gets over it, or stops and is resumed; or it is not begun,
    and is planned again."""
    numbers = (number for number, what in enumerate(undisturbed.points, 1) if can_fail(what))
    chosen, every = tried(numbers, FAULTS)
    pool, began = watched(undisturbed.make), time.monotonic()
    fate = Branches(pool=pool, chosen=chosen)
    kept: list[Journal] = []

    def to_the_end() -> list[str]:
        problems = ["it was not begun"]
        for _ in range(ATTEMPTS):
            try:
                if not kept:
                    made = planned(pool, fate)
                    rolling_upgrade.assert_can_run(made, accept_downtime=True)
                    kept.append(mortal(Journal.create(made), fate))
                problems = attempt(pool, fate, kept[0], kept[0].plan)
            except (Failure, TransportError, ProcedureError) as error:
                problems = [str(error)]
            if not problems or not fate.child:
                break
        return problems

    try:
        problems = to_the_end()
    except Exception:
        if not fate.child:
            raise
        problems = [traceback.format_exc()]
    if fate.child:
        fate.report(lambda: wrong(pool, problems, undisturbed.final))
    fate.over()
    assert tell(f"{undisturbed.name}, {', '.join(FAULTS)}", fate, every, began) == 0
    assert problems == []
    assert fate.broken == []


# --- what would not be noticed


def forgotten(action: str) -> Kind:
    """A kind that believes what it is for to hold."""
    kind = type(KINDS[action])
    return type(kind.__name__, (kind,), {"name": "", "holds": lambda self, run, step: True})()


class StartTwice(Start):
    """Starts a guest, and then once more."""

    name = ""

    def act(self, run: Run, step: Step) -> None:
        super().act(run, step)
        run.session.VM.hard_reboot(run.vm(step.vm))


SABOTEURS = {
    "high availability stays off": (forgotten("ha-again"), "pool pool: ha_enabled was True and is False"),
    "CDs stay out": (forgotten("insert"), "VBD "),
    "guests are not suspended again": (forgotten("suspend"), "VM vm06: power_state was Suspended and is Running"),
    "a guest stays down": (forgotten("start"), "VM vm10: power_state was Running and is Halted"),
    "a guest is started twice": (StartTwice(), "vm10: 2 instead of 1"),
    "the mark stays": (forgotten("release"), "mark: rolling-upgrade-"),
}
"""Kinds of steps that are broken in a process that resumes, and what is noticed of each."""


@pytest.fixture(scope="module")
def killed(tmp_path_factory: pytest.TempPathFactory) -> tuple[MockPool, Path]:
    """The pool with every trait and the journal of a process that died before it started the first guest again."""
    path = tmp_path_factory.mktemp("killed") / "journal"
    pool, fate = watched(every_trait), Fate(until="Async.VM.start_on")
    with pytest.raises(Killed):
        from_file(pool, path, fate)
    return pool, path


@pytest.mark.parametrize("undisturbed", ["every trait"], indirect=True)
@pytest.mark.parametrize("name", ["nobody", *SABOTEURS])
def test_a_resume_that_does_harm_is_noticed(
    name: str,
    undisturbed: Undisturbed,
    killed: tuple[MockPool, Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The end is compared as a whole: what is left out, done twice or done elsewhere is not as undisturbed."""
    saboteur, noticed = SABOTEURS.get(name, (None, ""))
    if saboteur is not None:
        action = next(kind.name for kind in type(saboteur).__mro__ if vars(kind).get("name"))
        monkeypatch.setitem(KINDS, action, saboteur)
    pool, path = killed[0].fork(), Path(shutil.copy(killed[1], tmp_path))
    from_file(pool, path, Fate())
    differs = End.of(pool).differs(undisturbed.final)
    assert noticed in differs
    assert bool(noticed) == bool(differs)


def test_copies_share_a_state_only_where_nothing_changed(tmp_path: Path) -> None:
    """Calls that read change nothing; a write, time that passes and a line in the journal do."""
    pool, path = usual(), tmp_path / "journal"
    session = session_on(pool, Fate())
    (ref,) = session.pool.get_all()

    def lasts(deed: Callable[[], Any]) -> bool:
        moment = Still(pool, path)
        deed()
        same = moment.lasts()
        moment.end()
        return same

    assert lasts(session.VM.get_all_records)
    assert not lasts(lambda: session.pool.set_name_label(ref, "other"))
    assert not lasts(lambda: session.clock.sleep(1))
    assert not lasts(lambda: pool.hands.power_off("host2"))
    assert not lasts(pool.new_uuid)
    assert not lasts(lambda: path.write_text("a line"))
