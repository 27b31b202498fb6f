"""Guests that went down while a host was away, and are started again or told.

While the master is away nobody restarts a guest: up to 6.0 one that reboots or crashes then stays down. So whenever a
host is back every guest is compared with the plan. What is found is written down before anything is done about it, so
that it is told at the end also where the process dies in between.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ..errors import Failure
from .acts.guests import start_of
from .observe import VMFacts, observe
from .plan import Plan
from .policy import IGNORE, REPORT

if TYPE_CHECKING:
    from .journal import Journal
    from .running import Run

FALLEN, EXCUSED = "fallen", "excused"
"""What the journal keeps: guests that went down, each with the host that was away; and those that stay down with consent."""


def missing(run: Run) -> list[VMFacts]:
    """The guests that are to run by now, and are down."""
    if run.policy.on_fallen == IGNORE:
        return []
    facts, expected = observe(run.session), run.plan.expected(run.number)
    run.saw(facts)
    to_run = {uuid for uuid, what in expected.items() if what.state == "Running"} - run.excused
    return [vm for uuid, vm in facts.vms.items() if uuid in to_run and vm.state == "Halted"]


def see_to(run: Run, away: str) -> list[str]:
    """Start the guests again that went down while the host `away` was, each where the plan expects it, or leave them
    down, by the run's policy. Returns what cannot be started there, one sentence each, for which the rest is to be
    planned anew."""
    down = missing(run)
    names, expected = run.plan.names, run.plan.expected(run.number)
    told = run.journal.get(FALLEN, [])
    new = [{"vm": vm.uuid, "away": away} for vm in down if vm.uuid not in {entry["vm"] for entry in told}]
    if new:
        run.journal.put(FALLEN, told + new)
    if run.policy.on_fallen == REPORT:
        excuse(run, {vm.uuid for vm in down})
        return []
    left, hosts = [], observe(run.session).hosts if down else {}
    for vm in down:
        ref: Any = vm.ref
        if any(host.release > hosts[expected[vm.uuid].host].release for host in hosts.values()):
            # Not every release refuses that, and there the guest could not be moved to an older host either.
            left.append(f"{vm.name} went down while {names.get(away, away)} was away")
            continue
        try:
            start_of(run, ref, run.host(expected[vm.uuid].host)).wait()
        except Failure as error:
            run.journal.note(f"{vm.name} cannot be started where it ran: {error}")
            left.append(f"{vm.name} went down while {names.get(away, away)} was away")
    if down:
        run.saw(observe(run.session))
    return left


def excuse(run: Run, vms: set[str]) -> None:
    """Let these guests stay down."""
    if vms - run.excused:
        run.journal.put(EXCUSED, sorted(run.excused | vms))


def give_up(run: Run, plan: Plan) -> None:
    """Excuse the guests that went down and that a new plan of the rest has no host for."""
    last = plan.expected(len(plan.steps))
    fallen = {entry["vm"] for entry in run.journal.get(FALLEN, [])}
    excuse(run, {uuid for uuid in fallen if uuid in last and last[uuid].state == "Halted"})


def notes(journal: Journal, plan: Plan) -> list[str]:
    """What is to be told of guests that went down, one sentence each."""
    last = {vm: state for vm, state, _ in journal.shown()}
    return [
        f"{names.get(entry['vm'], entry['vm'])} went down while {names.get(entry['away'], entry['away'])} was away, "
        + ("and was started again" if last.get(entry["vm"]) == "Running" else f"and is {last.get(entry['vm'], 'down')}")
        for names in [plan.names]
        for entry in journal.get(FALLEN, [])
    ]
