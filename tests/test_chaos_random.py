"""Upgrades of random pools under random faults: whatever happens, the run ends well, or stops and can be resumed."""

from __future__ import annotations

import os
from collections.abc import Collection, Sequence
from contextlib import suppress
from typing import Any

import pytest
from chaos import Fate, session_on
from guests import fully_virtual
from hypothesis import HealthCheck, assume, event, given, settings
from hypothesis import strategies as st
from pools import RELEASES, pin, row

from mockserver import MockPool
from mockserver.invariants import rolling_upgrade as invariants
from xenctl.errors import Failure, ProcedureError, TransportError
from xenctl.procedures import rolling_upgrade
from xenctl.procedures.journal import Journal
from xenctl.procedures.observe import PoolFacts, observe
from xenctl.procedures.plan import Plan
from xenctl.procedures.policy import REPLAN, RESTART, Policy

pytestmark = pytest.mark.chaos
WHOLE = os.environ.get("XENCTL_CHAOS_SAMPLE") == "0"
EXAMPLES = 300 if WHOLE else 6
"""How many pools are tried."""
ATTEMPTS = 12
PATIENCE = 1800.0
"""Seconds until somebody resumes a run that stopped."""

SHARED = "NFS virtual disk storage"
BREAKS = ["answer_lost", "reset", "half_answer", "stall", "refused", "http_status"]
NTH = st.integers(1, 800)
VICTIMS = st.sampled_from(["host1", "host2"])
PASSING = st.one_of(
    st.fixed_dictionaries({"kind": st.sampled_from(BREAKS), "nth": NTH}),
    st.fixed_dictionaries(
        {
            "kind": st.sampled_from(["error", "error_after"]),
            "nth": NTH,
            "code": st.sampled_from(["INTERNAL_ERROR", "HOST_OFFLINE"]),
            "params": st.just(["passing"]),
        }
    ),
    st.fixed_dictionaries(
        {
            "kind": st.just("toolstack_crash"),
            "victim": VICTIMS,
            "after": st.floats(1, 6000),
            "lasting": st.floats(10, 600),
        }
    ),
)
"""What may go wrong, passes, and harms no guest."""
HARMFUL = st.fixed_dictionaries(
    {"kind": st.just("power_loss"), "victim": VICTIMS, "nth": NTH, "lasting": st.floats(10, 3600)}
)
"""What may go wrong, passes, and ends guests."""
NUMBERS = st.sets(st.integers(1, 14), max_size=3)
BROKEN_BY_POWER = {"one host offline", "guests run", "belief holds", "backup first"}
"""The invariants that a host without power breaks."""
unhurried = settings(
    max_examples=EXAMPLES, deadline=None, suppress_health_check=list(HealthCheck), print_blob=True, database=None
)


def made(
    hosts: int,
    vms: int,
    release: str,
    seed: int,
    ha: bool,
    local: Collection[int],
    devices: Collection[int],
    discs: Collection[int],
    suspended: Collection[int],
) -> MockPool:
    """A pool with these traits; its guests, by number, have their disk on local storage, a device passed through, a disc in
    the drive, or are suspended."""
    pool = MockPool.create(hosts=hosts, vms=vms, release=release, seed=seed)
    if release == "8.2":
        fully_virtual(pool)
    disc, session = row(pool, "VDI", "debian-etch.iso"), session_on(pool, Fate())

    def chosen(numbers: Collection[int]) -> list[Any]:
        """Those of these guests that there are and that run."""
        found = [row(pool, "VM", f"vm{number:02d}") for number in sorted(numbers) if number <= vms]
        return [vm for vm in found if vm["power_state"] == "Running"]

    for vm in chosen(local):
        pin(pool, vm["name_label"], pool.store.get("host", vm["resident_on"])["name_label"])
    for vm in chosen(devices):
        pool.store.write(vm, other_config={**vm["other_config"], "pci": "0/0000:04:00.0"})
    for vm in chosen(discs):
        drive = next(vbd for vbd in pool.vbds(vm) if vbd["type"] == "CD")
        if drive["empty"]:
            session.VBD.insert(drive.ref, disc.ref)
    for vm in chosen(suspended):
        session.VM.suspend(vm.ref)
    if ha and "ha_enabled" in pool.store.pool():
        session.pool.enable_ha([row(pool, "SR", SHARED).ref], {})
    return pool


def pools(*, ha: st.SearchStrategy[bool]) -> st.SearchStrategy[MockPool]:
    """Pools of every kind, with high availability or not."""
    return st.builds(
        made,
        hosts=st.integers(2, 4),
        vms=st.integers(0, 14),
        release=st.sampled_from(RELEASES),
        seed=st.integers(0, 1000),
        ha=ha,
        local=NUMBERS,
        devices=NUMBERS,
        discs=NUMBERS,
        suspended=NUMBERS,
    )


def begun(pool: MockPool) -> tuple[Plan, PoolFacts]:
    """The plan for a pool, and how the pool is; pools that cannot be upgraded are passed over."""
    plan = rolling_upgrade.plan(session_on(pool, Fate()), fix=True)
    event("cannot be upgraded" if plan.problems else f"{len(plan.steps) // 20 * 20} steps and more")
    assume(not plan.problems)
    return plan, observe(session_on(pool, Fate()))


def carried_out(pool: MockPool, plan: Plan, stops: Sequence[int], *, anew: bool = False) -> tuple[list[str], Plan]:
    """Run the plan, resuming it whenever it stops; what is wrong in the end, and the last plan. `stops` are the steps after
    which the first attempts are told to stop. The rest is planned `anew` after a stop, where that is asked for."""
    journal, problems = Journal.create(plan), ["it was not begun"]
    for attempt in range(ATTEMPTS):
        told = stops[attempt : attempt + 1]
        passed: list[int] = []

        def on_step(number: int, total: int, text: str, passed: list[int] = passed) -> None:
            passed.append(number)

        try:
            session = session_on(pool, Fate())
            if anew and attempt:
                with suppress(TransportError, ProcedureError):  # a host is away in its turn: the run goes on with that
                    journal.replan(possible(rolling_upgrade.replan(session, journal)))
            outcome = rolling_upgrade.run(
                *(session, journal.plan, pool.hands),
                journal=journal,
                accept_downtime=True,
                policy=Policy(REPLAN, RESTART),
                on_step=on_step,
                stop=lambda told=told, passed=passed: "told to" if told and len(passed) >= told[0] else "",
            )
            problems = outcome.problems or [outcome.paused] * bool(outcome.paused)
        except (Failure, TransportError, ProcedureError) as error:
            problems = [str(error)]
        if not problems:
            problems = [f"not undone: {change.undo}" for change in journal.changes() if not change.undone]
            break
        pool.clock.advance(PATIENCE)
    return problems, journal.plan


def possible(plan: Plan) -> Plan:
    """A plan that can be carried out. Raises `ProcedureError` for others."""
    rolling_upgrade.assert_can_run(plan, accept_downtime=True)
    return plan


def upgraded(pool: MockPool, plan: Plan, before: PoolFacts) -> None:
    """Have no invariant be broken, and every host, guest and disc be as the plan promised, when nothing goes wrong any
    more."""
    pool.faults.clear()
    pool.clock.advance(PATIENCE)
    pool.conclude()
    assert [violation.as_dict() for violation in pool.violations] == []
    after = observe(session_on(pool, Fate()))
    assert {host.version for host in after.hosts.values()} == {plan.target}
    assert (after.mark, after.ha_enabled) == ("", before.ha_enabled)
    for uuid, was in before.vms.items():
        vm = after.vms[uuid]
        assert vm.state == was.state, vm.name
        assert vm.discs == was.discs, vm.name
        assert vm.host == was.host or uuid in plan.away, vm.name


@unhurried
@given(
    pool=pools(ha=st.booleans()),
    faults=st.lists(PASSING, max_size=4),
    stops=st.lists(st.integers(1, 60), max_size=3),
)
def test_an_upgrade_survives_what_passes(pool: MockPool, faults: list[dict[str, Any]], stops: list[int]) -> None:
    """Calls that fail, answers that are lost, toolstacks that crash, runs that are told to stop: resumed until it is done.

    The same pool comes out as without any of it, no invariant is broken, and nothing is left to be undone.
    """
    plan, before = begun(pool)
    # A toolstack that starts anew enables its host by itself, be it before the backup.
    left_out = {"backup first"} if any(fault["kind"] == "toolstack_crash" for fault in faults) else set()
    watched = invariants(may_stop=[vm.uuid for vm in plan.downtime], may_stay_away=plan.away)
    pool.watch(*(one for one in watched if one.name not in left_out))
    for fault in faults:
        pool.faults.add(**({"status": 502} if fault["kind"] == "http_status" else {}), **fault)
    problems, _ = carried_out(pool, plan, stops)
    assert problems == []
    upgraded(pool, plan, before)


@unhurried
@given(
    pool=pools(ha=st.just(False)),
    faults=st.lists(HARMFUL, min_size=1, max_size=2),
    stops=st.lists(st.integers(1, 60), max_size=1),
)
def test_an_upgrade_is_finished_after_hosts_lost_their_power(
    pool: MockPool, faults: list[dict[str, Any]], stops: list[int]
) -> None:
    """Guests end with their host. The run stops, and the rest is planned anew: it starts them again, each at home.

    One that was suspended at the start has lost its saved state then, and is suspended afresh. No disk is harmed.
    High availability is left out, which would choose another master, and so are hosts that are being installed: those have
    to be restored first.
    """
    plan, before = begun(pool)
    pool.watch(*(one for one in invariants(may_stay_away=plan.away) if one.name not in BROKEN_BY_POWER))
    for fault in faults:
        pool.faults.add(
            **fault, when=lambda arrival, victim=fault["victim"]: at_work(arrival.pool, victim, plan.target)
        )
    problems, last = carried_out(pool, plan, stops, anew=True)
    assert problems == []
    upgraded(pool, last, before)


def at_work(pool: MockPool, victim: str, target: str) -> bool:
    """Whether a host runs while some are still to be upgraded."""
    left = any(machine.system.release.product_version != target for machine in pool.machines)
    return left and pool.machine(victim).state == "running"
