"""Upgrades of random pools under random faults: whatever happens, the run ends well, or stops and can be resumed."""

from __future__ import annotations

import os
from typing import Any

from chaos import Fate, session_on
from hypothesis import HealthCheck, event, given, settings
from hypothesis import strategies as st

from mockserver import MockPool
from mockserver.invariants import rolling_upgrade as invariants
from xenctl.errors import Failure, TransportError
from xenctl.procedures import rolling_upgrade
from xenctl.procedures.journal import Journal
from xenctl.procedures.observe import observe
from xenctl.procedures.policy import REPLAN, RESTART, Policy

WHOLE = os.environ.get("XENCTL_CHAOS_SAMPLE") == "0"
EXAMPLES = 300 if WHOLE else 6
"""How many pools are tried."""
ATTEMPTS = 12

FAULTS = st.one_of(
    st.fixed_dictionaries(
        {"kind": st.sampled_from(["answer_lost", "reset", "half_answer", "stall"]), "nth": st.integers(1, 400)}
    ),
    st.fixed_dictionaries(
        {
            "kind": st.just("error"),
            "nth": st.integers(1, 400),
            "code": st.sampled_from(["INTERNAL_ERROR", "HOST_OFFLINE"]),
            "params": st.just(["passing"]),
        }
    ),
    st.fixed_dictionaries(
        {
            "kind": st.just("toolstack_crash"),
            "victim": st.sampled_from(["host1", "host2"]),
            "after": st.floats(1, 6000),
            "lasting": st.floats(10, 600),
        }
    ),
)
"""What may go wrong, and passes."""


@settings(max_examples=EXAMPLES, deadline=None, suppress_health_check=list(HealthCheck), print_blob=True, database=None)
@given(
    hosts=st.integers(2, 4),
    vms=st.integers(0, 14),
    release=st.sampled_from(["4.0.1", "4.1", "5.0", "5.6", "6.2", "7.1", "8.2"]),
    seed=st.integers(0, 1000),
    faults=st.lists(FAULTS, max_size=4),
    stops=st.lists(st.integers(1, 60), max_size=3),
)
def test_an_upgrade_survives_what_passes(
    hosts: int, vms: int, release: str, seed: int, faults: list[dict[str, Any]], stops: list[int]
) -> None:
    """Calls that fail, answers that are lost, toolstacks that crash, runs that are told to stop: resumed until it is done.

    The same pool comes out as without any of it, no invariant is broken, and nothing is left to be undone.
    """
    pool = MockPool.create(hosts=hosts, vms=vms, release=release, seed=seed)
    plan = rolling_upgrade.plan(session_on(pool, Fate()))
    event("cannot be upgraded" if plan.problems else f"{len(plan.steps) // 20 * 20} steps and more")
    if plan.problems:
        return
    before = observe(session_on(pool, Fate()))
    pool.watch(*invariants(may_stop=[vm.uuid for vm in plan.downtime], may_stay_away=plan.away))
    for fault in faults:
        pool.faults.add(**fault)
    journal, problems = Journal.create(plan), ["it was not begun"]
    for attempt in range(ATTEMPTS):
        told = stops[attempt : attempt + 1]
        passed: list[int] = []

        def on_step(number: int, total: int, text: str, passed: list[int] = passed) -> None:
            passed.append(number)

        try:
            outcome = rolling_upgrade.run(
                *(session_on(pool, Fate()), journal.plan, pool.hands),
                journal=journal,
                accept_downtime=True,
                policy=Policy(REPLAN, RESTART),
                on_step=on_step,
                stop=lambda told=told, passed=passed: "told to" if told and len(passed) >= told[0] else "",
            )
        except (Failure, TransportError) as error:
            problems = [str(error)]
            continue
        problems = outcome.problems or [outcome.paused] * bool(outcome.paused)
        if not problems:
            break
    assert problems == []
    pool.conclude()
    assert [violation.as_dict() for violation in pool.violations] == []
    after = observe(session_on(pool, Fate()))
    assert {host.version for host in after.hosts.values()} == {plan.target}
    assert after.mark == ""
    homes = {uuid: (vm.state, vm.host if uuid not in plan.away else "", vm.discs) for uuid, vm in before.vms.items()}
    assert {
        uuid: (vm.state, vm.host if uuid not in plan.away else "", vm.discs) for uuid, vm in after.vms.items()
    } == homes
    assert [change for change in journal.changes() if not change.undone] == []
