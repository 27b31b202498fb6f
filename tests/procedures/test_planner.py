"""The planner: as few migrations as can be, or the proof that hosts cannot be emptied; and every rule of the pool
kept."""

from __future__ import annotations

import os
import random
import time
from dataclasses import replace
from itertools import combinations

import pytest
from upgrades import GIB, UPGRADES, BruteForce, Refereed, host, large_pool, pool, random_pool, referee, sees, vm

from xenctl.procedures.hardware import Cpu
from xenctl.procedures.observe import PoolFacts
from xenctl.procedures.placement import DoesNotFit
from xenctl.procedures.plan import Proof
from xenctl.procedures.planner.bounds import least, table
from xenctl.procedures.planner.pieces import Wishes
from xenctl.procedures.planner.puzzle import NOWHERE, Guest, Puzzle
from xenctl.procedures.sequence import Baseline, Played, find_sequence
from xenctl.releases import find

POOLS = int(os.environ.get("XENCTL_PLANNER_POOLS", "1"))
"""How many times as many random pools as usual."""
PATIENCE = 20.0
"""Seconds that the plan of a large pool may take on a machine that is busy; what it takes by itself is a benchmark's."""


def planned(facts: PoolFacts, wishes: Wishes | None = None, baseline: Baseline | None = None, to: str = "") -> Played:
    """The plan for a pool, which the referee has played through."""
    target = to or UPGRADES[facts.release.product_version]
    played = find_sequence(facts, find(target), baseline or Baseline.of(facts), wishes)
    growth = wishes.growth if wishes is not None and isinstance(wishes.growth, int) else 0
    assert played.effort is not None
    assert referee(facts, played.steps, target, growth).moves == played.effort.moves
    return played


def attempted(facts: PoolFacts, wishes: Wishes | None = None) -> tuple[Played | None, Proof | None]:
    """The plan for a pool, or the proof that there is none."""
    try:
        return planned(facts, wishes), None
    except DoesNotFit as error:
        return None, error.proof


def refused(facts: PoolFacts, wishes: Wishes | None = None) -> DoesNotFit:
    """The refusal of a plan for a pool."""
    with pytest.raises(DoesNotFit) as caught:
        planned(facts, wishes)
    return caught.value


def moves(played: Played) -> list[tuple[str, str, str, str]]:
    """Every migration: guest, source, destination, reason."""
    return [(s.vm, s.host, s.to, s.reason) for s in played.steps if s.action == "migrate"]


def movable(facts: PoolFacts) -> PoolFacts:
    """The pool without the guests that only one host reaches."""
    hosts = facts.hosts.values()
    return replace(facts, vms={k: v for k, v in facts.vms.items() if sum(sees(v, h) for h in hosts) > 1})


# --- as few as can be


@pytest.mark.parametrize(("hosts", "vms", "pools"), [(2, 4, 40), (3, 6, 80), (4, 5, 30), (4, 8, 25)])
def test_no_plan_is_better_and_none_is_missed(hosts: int, vms: int, pools: int) -> None:
    """Against every possibility of small pools: a plan where there is one, with the fewest guests away from home, then
    the fewest migrations, then the least memory moved; and where there is none that is proven."""
    for seed in range(pools * POOLS):
        facts = movable(random_pool(seed, hosts=hosts, vms=vms))
        for homes in (True, False):
            best = BruteForce(facts, homes=homes, memory=vms < 7).best
            played, proof = attempted(facts, Wishes(return_home=homes))
            assert (best is None) == (played is None), (seed, homes, best, proof)
            if best is None or played is None:
                assert proof is not None
                assert proof.how != "tried", (seed, homes)
                continue
            assert played.effort is not None
            assert played.effort.exact, (seed, homes)
            away = len(played.away) if homes else 0
            assert (away, played.effort.moves) == (best.away, best.moves), (seed, homes, best)
            if vms < 7:
                assert played.effort.memory == best.gib * GIB, (seed, homes, best)


def test_the_smallest_set_is_the_smallest() -> None:
    """Where a small pool cannot be upgraded, no set with fewer guests than the one that is named makes it possible,
    none of as many takes less memory, and the named one does."""
    checked = 0
    for seed in range(60 * POOLS):
        facts = movable(random_pool(seed, hosts=3, vms=5))
        _, proof = attempted(facts)
        if proof is None:
            continue
        assert proof.suspend_exact, seed
        named = proof.suspend
        assert (len(named), sum(facts.vms[uuid].memory for uuid in named)) == _fewest(facts), seed
        played = planned(facts, Wishes(policies=dict.fromkeys(named, "suspend")))
        assert set(played.downtime) == set(named)
        checked += 1
    assert checked > 5


def test_the_smallest_set_to_shut_down_is_enough() -> None:
    """The guests that a proof names for being shut down make the upgrade possible, and without any one of them it is
    not."""
    checked = 0
    for seed in range(60 * POOLS):
        facts = movable(random_pool(seed, hosts=3, vms=5))
        _, proof = attempted(facts)
        if proof is None or not proof.shut_down:
            continue
        named = proof.shut_down
        planned(facts, Wishes(policies=dict.fromkeys(named, "shut-down")))
        for spared in named:
            refused(facts, Wishes(policies={uuid: "shut-down" for uuid in named if uuid != spared}))
        checked += 1
    assert checked > 5


def _fewest(facts: PoolFacts) -> tuple[int, int] | None:
    """How many guests have to be left out at the least, and the least memory of so many, by trying every set."""
    for count in range(1, len(facts.vms) + 1):
        sets = [s for s in combinations(facts.vms, count) if BruteForce(_without(facts, s)).best is not None]
        if sets:
            return min((count, sum(facts.vms[uuid].memory for uuid in s)) for s in sets)
    return None


def _without(facts: PoolFacts, gone: tuple[str, ...]) -> PoolFacts:
    return replace(facts, vms={uuid: v for uuid, v in facts.vms.items() if uuid not in gone})


def test_with_homes_restored_each_guest_moves_twice() -> None:
    """Where there is room each guest leaves its host once and comes back once, the master's among them."""
    facts = pool([host(h) for h in "abc"], [vm(f"{h}{n}", h) for h in "abc" for n in range(2)])
    played = planned(facts)
    assert played.effort is not None
    assert (played.effort.moves, played.effort.bound, played.effort.exact) == (12, 12, True)
    assert played.away == ()
    assert played.effort.text == (
        "12 migrations, 24.0 GiB; guests go home, for which the bound is 12: no plan takes fewer"
    )


def test_without_homes_members_guests_move_once_and_the_masters_twice() -> None:
    """The master's guests are parked together on the host that is upgraded next, and leave it with that host's own."""
    facts = pool([host(h) for h in "abc"], [vm(f"{h}{n}", h) for h in "abc" for n in range(2)])
    played = planned(facts, Wishes(return_home=False))
    assert played.effort is not None
    assert (played.effort.moves, played.effort.bound, played.effort.exact) == (8, 8, True)
    assert [to for guest, source, to, _ in moves(played) if source == "a"] == ["b", "b"]
    assert played.order == ["a", "b", "c"]
    assert not played.warnings


@pytest.mark.parametrize("homes", [True, False])
def test_a_large_pool_takes_hardly_more_than_the_fewest_migrations(homes: bool) -> None:
    """64 hosts with 5,000 guests: at most 1.10 times the bound, all home where that is wished, in no long time."""
    facts = large_pool(seed=1)
    began = time.monotonic()
    played = find_sequence(facts, find("6.1.0"), Baseline.of(facts), Wishes(return_home=homes))
    assert time.monotonic() - began < PATIENCE
    seen, effort = referee(facts, played.steps, "6.1.0"), played.effort
    assert effort is not None
    assert (effort.moves, effort.memory) == (seen.moves, seen.memory)
    assert effort.bound <= effort.moves <= 1.10 * effort.bound
    assert len(facts.vms) == len(seen.where) == 5000
    at_home = sum(seen.where[guest.uuid] == guest.host for guest in facts.vms.values())
    assert (at_home == 5000, played.away == ()) == (homes, homes)


def test_each_migration_has_its_reason() -> None:
    """A guest moves since its host is upgraded, or because it goes home."""
    facts = pool([host("a"), host("b")], [vm("x", "a"), vm("y", "b")])
    assert moves(planned(facts)) == [
        ("x", "a", "b", "a is upgraded"),
        ("x", "b", "a", "home"),
        ("y", "b", "a", "b is upgraded"),
        ("y", "a", "b", "home"),
    ]


def test_another_guest_makes_room() -> None:
    """Where a big guest fits nowhere as things are, a small one moves aside first, and the reason says so."""
    facts = pool([host("a", 6), host("b", 6), host("c", 6)], [vm("big", "a", 5), vm("s", "b", 2), vm("t", "c", 2)])
    played = planned(facts)
    assert played.effort is not None
    assert played.effort.exact
    assert any("makes room" in reason for _, _, _, reason in moves(played))


def test_a_host_that_the_master_does_not_share_with_is_emptied_early() -> None:
    """Guests that reach no upgraded host when theirs is due have to move before the first host: a later release of 4.1
    to 5.x would refuse it."""
    hosts = [host("a", storage="one"), host("b", storage="two"), host("c", storage="two")]
    facts = pool(hosts, [vm("x", "b", storage="two"), vm("y", "c", storage="two")])
    played = planned(facts)
    first = next(i for i, step in enumerate(played.steps) if step.action == "install")
    assert [step.action for step in played.steps[:first]].count("migrate") == 1
    assert played.away == ()


@pytest.mark.parametrize(("release", "sideways"), [("4.0.1", False), ("6.0.0", True)])
def test_old_hosts_take_guests_of_old_hosts_where_the_new_release_allows_it(release: str, sideways: bool) -> None:
    """From 6.0 on a guest may go from an old host to another old one, which helps where the new ones are too small."""
    hosts = [host("a", 2), host("b", 8), host("c", 8), host("d", 8)]
    facts = pool([replace(h, release=find(release), version=release) for h in hosts], [vm(h, h, 4) for h in "bcd"])
    facts = replace(facts, vms={**facts.vms, "e": vm("e", "b", 3)})
    played = planned(facts)
    old = {"a", "b", "c", "d"}
    between = False
    for step in played.steps:
        if step.action == "install":
            old.discard(step.host)
        elif step.action == "migrate" and len(old) < 4:
            between = between or {step.host, step.to} <= old
    assert sideways or not between
    assert played.effort is not None
    assert played.effort.exact


# --- homes


def test_a_swap_is_resolved_by_a_third_host() -> None:
    """Two guests in each other's place go home by way of a third host, and nothing is stranded."""
    facts = pool([host("a", 4), host("b", 4), host("c", 4)], [vm("x", "b", 4), vm("y", "a", 4)])
    baseline = Baseline({"x": "Running", "y": "Running"}, {"x": "a", "y": "b"}, ())
    assert planned(facts, baseline=baseline).away == ()


def test_who_cannot_go_home_is_said_before_the_start_with_the_reason() -> None:
    """A home that lost its network, one that is too small by now, and one that left the pool."""
    facts = pool(
        [host("a", networks="other"), host("b"), host("c")],
        [vm("x", "b"), vm("y", "b"), vm("z", "c")],
    )
    baseline = Baseline(dict.fromkeys("xyz", "Running"), {"x": "a", "y": "gone", "z": "c"}, ())
    played = planned(facts, baseline=baseline)
    assert sorted(played.away) == ["x", "y"]
    assert sorted(played.warnings) == [
        "x ends away from home: a lacks the network net",
        "y ends away from home: its home is not in the pool any more",
    ]


def test_growth_of_the_control_domain_takes_room() -> None:
    """What the control domain takes more on an upgraded host is missing there: a guest that fitted does not any
    more."""
    facts = pool([host("a", 4), host("b", 4), host("c", 4)], [vm("x", "a", 4)])
    assert planned(facts).away == ()
    error = refused(facts, Wishes(growth=GIB))
    assert "x (4.0 GiB) has to move and fits nowhere" in str(error)
    played = planned(replace(facts, vms={"x": vm("x", "a", 3)}), Wishes(growth=GIB))
    assert played.away == ()


def test_growth_may_differ_from_host_to_host() -> None:
    """A guest whose home grows too much ends elsewhere, and that is said."""
    facts = pool([host("a", 4), host("b", 4), host("c", 4)], [vm("x", "a", 4)])
    played = planned_with_growth(facts, {"a": GIB})
    assert played.away == ("x",)
    assert played.warnings == ("x ends away from home: a has 3.0 GiB for it, and it takes 4.0 GiB",)


def planned_with_growth(facts: PoolFacts, growth: dict[str, int]) -> Played:
    """The plan, with the growth of single hosts."""
    return find_sequence(facts, find("4.1.0"), Baseline.of(facts), Wishes(growth=growth))


# --- policies


def full() -> PoolFacts:
    """A pool in which one guest too many runs."""
    return pool([host("a", 4), host("b", 4)], [vm("x", "a", 3), vm("y", "b", 2)])


def test_a_proof_names_step_guest_and_what_is_missing() -> None:
    """The refusal says when, who, what each host has, how it is known, and what would help."""
    error = refused(full())
    assert str(error) == (
        "when a is upgraded, x (3.0 GiB) has to move and fits nowhere: b has 2.0 GiB free. Whatever goes where: while a is "
        "down, 2 guests need 5.0 GiB on b, where there are 4.0 GiB; 1.0 GiB are missing. It is possible without these: y if "
        "suspended before the first host (no smaller set does); or x, y if shut down for their hosts' turns (no smaller set "
        "does)"
    )
    proof = error.proof
    assert proof is not None
    assert (proof.how, proof.host, proof.vm, proof.missing) == ("counted", "a", "x", GIB)
    assert (proof.rooms, proof.suspend, proof.shut_down) == (("b has 2.0 GiB free",), ("y",), ("x", "y"))
    assert proof.suspend_exact
    assert proof.shut_down_exact


def test_a_suspended_guest_takes_no_room() -> None:
    """By policy a guest is suspended before the first host, and resumed at home once all versions are equal."""
    played = planned(full(), Wishes(policies={"y": "suspend"}))
    actions = [(step.action, step.vm, step.to) for step in played.steps if step.vm == "y"]
    assert actions == [("suspend", "y", ""), ("resume", "y", "b")]
    order = [step.action for step in played.steps]
    assert order.index("suspend") < order.index("turn")
    assert order.index("equal") < order.index("resume")
    assert played.downtime == {"y": "it is suspended for the upgrade, as was asked"}


def test_once_versions_are_mixed_who_is_to_be_suspended_is_shut_down() -> None:
    """Suspending makes a disk, which must not happen while versions are mixed: the guest is shut down for its turn."""
    facts = full()
    facts = replace(facts, hosts={**facts.hosts, "a": host("a", 4, release="4.1.0")})
    facts = replace(facts, vms={"y": facts.vms["y"]})
    played = planned(facts, Wishes(policies={"y": "suspend"}), to="4.1.0")
    assert [step.action for step in played.steps if step.vm == "y"] == ["stop", "start"]


def test_a_guest_is_shut_down_for_its_turn_by_policy() -> None:
    """It stays on its host, and is started there as soon as that is back."""
    played = planned(full(), Wishes(policies={"x": "shut-down", "y": "shut-down"}))
    assert moves(played) == []
    assert [(s.action, s.vm) for s in played.steps if s.vm] == [
        ("stop", "x"),
        ("start", "x"),
        ("stop", "y"),
        ("start", "y"),
    ]


def test_a_guest_that_is_left_alone_must_not_be_in_the_way() -> None:
    """`leave` is no way for a guest whose host goes down."""
    assert "x is to be left alone and runs on a" in str(refused(full(), Wishes(policies={"x": "leave"})))


def test_a_suspended_guest_may_be_left_alone() -> None:
    """It is not resumed for the upgrade, and takes no room."""
    facts = full()
    asleep = replace(vm("z", size=2), state="Suspended", image="shared")
    facts = replace(facts, vms={"x": vm("x", "a", 2), "z": asleep})
    assert not [step for step in planned(facts, Wishes(policies={"z": "leave"})).steps if step.vm == "z"]


def test_what_is_no_policy_is_refused() -> None:
    """A misspelled policy is said at once."""
    with pytest.raises(
        ValueError, match="the policy of a guest is one of migrate, suspend, shut-down, leave, not 'stop'"
    ):
        Wishes(policies={"x": "stop"})


def test_guests_may_be_kept_from_shrinking() -> None:
    """By default a guest counts with the least memory that it can be made to keep; it may count with all that it
    has."""
    facts = pool([host("a", 4), host("b", 4)], [replace(vm("x", "a", 2), memory_most=5 * GIB)])
    assert planned(facts).away == ()
    assert "x (5.0 GiB) has to move and fits nowhere" in str(refused(facts, Wishes(squeeze=False)))


def test_guests_of_an_appliance_start_in_its_order() -> None:
    """Those that are shut down for a turn are started by their order, and stopped the other way round."""
    tied = [replace(vm(name, "b"), tied="a PCI device is passed through to it", order=n) for n, name in enumerate("zy")]
    played = planned(pool([host("a"), host("b")], tied))
    assert [(s.action, s.vm) for s in played.steps if s.vm] == [
        ("stop", "y"),
        ("stop", "z"),
        ("start", "z"),
        ("start", "y"),
    ]
    assert played.downtime == dict.fromkeys("zy", "a PCI device is passed through to it")


# --- what hosts have


def test_a_guest_stays_on_processors_of_its_kind() -> None:
    """Another vendor, or a processor without a feature that the guest was started with, is no destination."""
    cpus = {
        "a": Cpu("Intel", (("hvm", 7),)),
        "b": Cpu("Intel", (("hvm", 3),)),
        "c": Cpu("Intel", (("hvm", 15),)),
        "d": Cpu("AMD"),
    }
    booted = replace(vm("x", "a"), cpu=Cpu("Intel", (("hvm", 6),)))
    facts = pool([replace(host(name), cpu=cpu) for name, cpu in cpus.items()], [booted])
    assert [to for _, _, to, _ in moves(planned(facts))] == ["c", "a"]
    only = pool([replace(host(name), cpu=cpus[name]) for name in "abd"], [booted])
    assert planned(only).downtime == {
        "x": "no other host has all of its storage and networks, and the processor for it"
    }


def test_members_of_a_group_are_kept_apart_where_there_is_room() -> None:
    """Guests of an anti-affinity group go to different hosts, as long as some have room."""
    hosts = [host("a"), host("b", 16), host("c", 10)]
    facts = pool(hosts, [replace(vm(n, "a"), apart=frozenset({"db"})) for n in ("x", "y")])
    assert {to for _, source, to, _ in moves(planned(facts)) if source == "a"} == {"b", "c"}


def test_a_disabled_host_takes_nobody_before_it_is_upgraded() -> None:
    """In an upgrade that was left half done a host that is disabled would refuse guests; an upgraded one is enabled
    first."""
    hosts = [replace(host("a", release="4.1.0"), enabled=False), host("b"), host("c")]
    played = planned(pool(hosts, [vm("x", "b"), vm("y", "c")]), to="4.1.0")
    assert (played.steps[0].action, played.steps[0].host) == ("enable", "a")


# --- from any state


def test_any_mixed_state_is_brought_to_an_end() -> None:
    """Cut off after any step, what is left of an upgrade can be planned anew, back to the same homes."""
    for seed in range(25 * POOLS):
        facts = movable(random_pool(seed, hosts=3, vms=5))
        target = UPGRADES[facts.release.product_version]
        try:
            whole = planned(facts)
        except DoesNotFit:
            continue
        baseline, cut = Baseline.of(facts), random.Random(seed)
        for _ in range(4):
            done = cut.randrange(len(whole.steps) + 1)
            half = _after(facts, whole, done, target)
            rest = find_sequence(half, find(target), baseline)
            out = referee(half, rest.steps, target)
            assert away(out, baseline) == len(rest.away) <= len(whole.away), (seed, done)


def _after(facts: PoolFacts, played: Played, done: int, target: str) -> PoolFacts:
    """The pool once the first steps of a plan are done."""
    hosts, vms = dict(facts.hosts), dict(facts.vms)
    for step in played.steps[:done]:
        if step.action == "migrate":
            vms[step.vm] = replace(vms[step.vm], host=step.to)
        elif step.action == "install":
            hosts[step.host] = replace(hosts[step.host], release=find(target), version=target, enabled=True)
        elif step.action == "disable":
            hosts[step.host] = replace(hosts[step.host], enabled=False)
    return replace(facts, hosts=hosts, vms=vms)


def away(out: Refereed, baseline: Baseline) -> int:
    """How many guests are not at home."""
    return sum(out.where.get(uuid) != home for uuid, home in baseline.homes.items())


def test_a_guest_that_fell_with_its_host_is_started_when_that_is_back() -> None:
    """Its disk is on its host alone, which is still old: it cannot be started before, and is not forgotten."""
    local = replace(vm("x", size=2, storage="local"), state="Halted")
    facts = pool([host("a", release="4.1.0"), host("b", storage="shared local")], [local])
    baseline = Baseline({"x": "Running"}, {"x": "b"}, ())
    played = planned(facts, baseline=baseline, to="4.1.0")
    assert [(s.action, s.to) for s in played.steps if s.vm == "x"] == [("start", "b")]


# --- the bound


def test_the_bound_of_a_guest_is_the_same_among_few_hosts_and_among_all() -> None:
    """What a guest needs at the least is found with a few hosts that stand for the others."""
    dice = random.Random(11)
    for number in range(150):
        hosts = dice.choice((3, 5, 6))
        whole = (1 << hosts) - 1
        new = dice.choice((0, 0, 1, 1 | dice.randrange(whole)))
        reach = dice.randrange(1, whole + 1)
        guest = Guest("x", dice.choice((1, 3, 5)), reach, dice.randrange(hosts), dice.randrange(-1, hosts))
        if not new and dice.random() < 0.2:
            guest = replace(guest, at=NOWHERE, enters=reach & dice.randrange(1, whole + 1))
        rooms = tuple(dice.choice((2, 4, 6)) for _ in range(hosts))
        after = tuple(room - dice.choice((0, 0, 1)) for room in rooms)
        puzzle = Puzzle(("",) * hosts, rooms, after, (guest,), new, dice.randrange(whole) & ~new, dice.random() < 0.5)
        assert least(puzzle) == [table(puzzle, guest)[new][guest.at]], (number, puzzle)


def test_a_large_pool_is_planned_at_its_bound() -> None:
    """Sixteen hosts and six hundred guests, four fifths full: each guest moves as seldom as it could alone."""
    dice = random.Random(5)
    names = [f"h{n:02}" for n in range(16)]
    guests = [vm(f"v{n:03}", dice.choice(names), dice.choice((1, 2, 2, 4, 8))) for n in range(600)]
    room = max(sum(g.memory for g in guests if g.host == name) for name in names) * 5 // 4
    facts = pool([replace(host(name), room=room) for name in names], guests)
    effort = planned(facts).effort
    assert effort is not None
    assert (effort.moves, effort.exact) == (1200, True)


def test_a_large_pool_without_room_is_refused_with_a_count() -> None:
    """Where memory is missing whatever goes where, that is proven for any number of guests, with guests that would
    help."""
    facts = pool([host(f"h{n}", 32) for n in range(9)], [vm(f"v{n:03}", f"h{n % 9}", 2) for n in range(144)])
    proof = refused(facts).proof
    assert proof is not None
    assert (proof.how, proof.missing) == ("counted", 32 * GIB)
    assert len(proof.suspend) == 16
