"""Orderly shutdown of a pool's guests, or of one host's, and starting them again.

What the installation guide asks for before a host is reinstalled, and what the toolstack's own `xapi-domains stop` did not
do: suspended guests are resumed first, on a host that can run them, and then shut down with the rest. Each gets the chance
to shut itself down; what becomes of one that does not is a matter of policy. The run's journal holds what ran where, and
`start_again` brings back exactly that.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from ..errors import ProcedureError
from . import marking
from .acts.shutting import GIVE_UP, POLICIES
from .belonging import of_another
from .journal import Journal
from .observe import PoolFacts, VMFacts, observe
from .placement import Board, needs, reachable
from .plan import Plan, PlannedVM, Step

if TYPE_CHECKING:
    from ..session import Session

SHUTDOWN, START = "orderly shutdown", "start again"
TIMEOUT, LIMIT = 60.0, 10
"""Seconds that a guest has for shutting down, as the toolstack's own service gives it; how many do so at once."""


def plan(
    session: Session,
    host: str | None = None,
    *,
    policy: str = GIVE_UP,
    timeout: float = TIMEOUT,
    limit: int = LIMIT,
    keep: Sequence[str] = (),
) -> Plan:
    """The plan for shutting down every guest of the pool, or of the host with this name or uuid; nothing is changed.

    `policy` says what becomes of a guest that does not shut down in `timeout` seconds: `give-up`, `ask` or `hard`. At most
    `limit` shut down at once. Guests named in `keep` (by name or uuid) are left alone. What stands against it is in
    `Plan.problems`. Raises `ValueError` for a host or guest that the pool does not have, and for what is no policy.
    """
    if policy not in POLICIES:
        raise ValueError(f"policy is {', '.join(POLICIES)}, not {policy!r}")
    if limit < 1 or timeout <= 0:
        raise ValueError("limit is a number of guests from 1, and timeout a number of seconds above 0")
    pool = observe(session)
    where = None if host is None else find_host(pool, host)
    left = {find_vm(pool, name) for name in keep}
    scope = [vm for vm in _scope(pool, where) if vm.uuid not in left]
    return _Making(pool, policy, timeout, limit).plan(scope)


def find_host(pool: PoolFacts, name: str) -> str:
    """The uuid of the host with this name or uuid. Raises `ValueError` where there is none, or several."""
    found = [host.uuid for host in pool.hosts.values() if name in (host.uuid, host.name)]
    if len(found) != 1:
        known = ", ".join(sorted(host.name for host in pool.hosts.values()))
        said = "several hosts are called" if found else "no host is called"
        raise ValueError(f"{said} {name!r}; there are {known} (a uuid is always one)")
    return found[0]


def find_vm(pool: PoolFacts, name: str) -> str:
    """The uuid of the guest with this name or uuid. Raises `ValueError` where there is none, or several."""
    found = [vm.uuid for vm in pool.vms.values() if name in (vm.uuid, vm.name)]
    if len(found) != 1:
        said = f"{len(found)} guests are called {name!r}: name it by uuid" if found else f"no guest is called {name!r}"
        raise ValueError(said)
    return found[0]


def _scope(pool: PoolFacts, host: str | None) -> list[VMFacts]:
    """The guests that are not halted; of one host those on it, and of the suspended ones those that belong to it: it is
    where they prefer to be, or no other host could resume them."""
    up = [vm for vm in pool.vms.values() if vm.state != "Halted"]
    if host is None:
        return up
    return [vm for vm in up if vm.host == host or (vm.state == "Suspended" and _belongs(pool, vm, host))]


def _belongs(pool: PoolFacts, vm: VMFacts, host: str) -> bool:
    able = [uuid for uuid, facts in pool.hosts.items() if reachable(needs(vm), facts)]
    return able == [host] or (vm.affinity == host and host in able)


class _Making:
    """A plan that is being made: suspended guests are resumed as far as there is room, the rest when others are down."""

    def __init__(self, pool: PoolFacts, policy: str, timeout: float, limit: int) -> None:
        self.pool, self.board = pool, Board.of(pool)
        self.args = {"policy": policy, "timeout": timeout, "limit": limit}
        self.problems: list[str] = []

    def plan(self, scope: list[VMFacts]) -> Plan:
        """The plan for these guests."""
        pool, steps = self.pool, [Step("claim")]
        waiting = sorted((vm for vm in scope if vm.state == "Suspended"), key=lambda vm: (-vm.memory, vm.name))
        up = [vm for vm in scope if vm.state != "Suspended"]
        self.problems += [f"{vm.name} is suspended and {vm.stuck}" for vm in waiting if vm.stuck]
        self.problems += [f"{vm.name} is paused: unpause it first" for vm in up if vm.state == "Paused"]
        waiting = [vm for vm in waiting if not vm.stuck]
        while waiting or up:
            placed = [(vm, to) for vm in waiting if (to := self.place(vm))]
            waiting = [vm for vm in waiting if all(vm is not other for other, _ in placed)]
            steps += [
                Step("resume", vm=vm.uuid, to=to, reason="a suspended guest is resumed, so that it can shut down")
                for vm, to in placed
            ]
            down = [*up, *(vm for vm, _ in placed)]
            if not down:
                self.problems += [
                    f"{vm.name} is suspended, and no host has what it takes to resume it" for vm in waiting
                ]
                break
            steps.append(Step("shut-down", args={**self.args, "vms": [vm.uuid for vm in down], "count": len(down)}))
            for vm in down:
                if vm.uuid in self.board.where:
                    self.board.remove(vm)
            up = []
        steps.append(Step("release"))
        self.problems += marking.against(pool)
        planned = (
            PlannedVM(vm.uuid, vm.name, vm.state, vm.host or None, planned_downtime=True, why="it is shut down")
            for vm in sorted(scope, key=lambda vm: (vm.order, vm.name))
        )
        return Plan.of(pool, SHUTDOWN, steps, vms=planned, problems=self.problems)

    def place(self, vm: VMFacts) -> str | None:
        """Where a suspended guest is resumed: where it prefers to be if it can, else where most room is."""
        able = [uuid for uuid, host in self.pool.hosts.items() if host.live and reachable(needs(vm), host)]
        found = self.board.best(vm, able, vm.affinity)
        if found is not None:
            self.board.place(vm, found)
        return found


def start_again(session: Session, journal: Journal) -> Plan:
    """The plan for starting what the shutdown in `journal` found running, in order and on the same hosts.

    The journal goes on with it, also where the shutdown stopped half way, or was abandoned. One that is half done already
    goes on as it is. Raises `ProcedureError` for the journal of something else, and of another pool.
    """
    first = journal.plan
    if first.procedure == START:
        return first
    if first.procedure != SHUTDOWN:
        raise ProcedureError(f"{journal.path or 'this journal'} is of a {first.procedure}, not of an {SHUTDOWN}")
    pool = observe(session)
    if pool.uuid != first.pool:
        raise ProcedureError(of_another("the journal", first.pool, first.pool_name, here=pool.uuid, called=pool.name))
    ran = [(vm.uuid, vm.home) for vm in first.vms if vm.state == "Running" and vm.home]
    gone = [first.names[uuid] for uuid, _ in ran if uuid not in pool.vms]
    here = [[uuid, home] for uuid, home in ran if uuid in pool.vms]
    problems = [f"{first.names[home]} is not in the pool any more" for _, home in ran if home not in pool.hosts]
    steps = [Step("claim"), Step("start-again", args={"vms": here, "count": len(here)}), Step("release")]
    made = replace(
        first,
        procedure=START,
        vms=tuple(replace(vm, planned_downtime=False, why="") for vm in first.vms),
        steps=() if problems else tuple(steps),
        problems=tuple(dict.fromkeys(problems)),
        warnings=tuple(f"{name} is gone, and is not started" for name in gone),
    )
    if not problems:
        journal.replan(made)
    return made
