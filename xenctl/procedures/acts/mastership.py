"""The pool's master: handed over."""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING

from ...errors import ConnectionLost, Failure, TransportError
from ..observe import attached
from ..waiting import answer
from . import Kind

if TYPE_CHECKING:
    from ..plan import Step
    from ..running import Run

HANDOVER = 1800.0
"""Seconds in which every toolstack has started again, and every member follows."""


class Designate(Kind):
    """Hand the pool over to another master, and wait until every other host follows it."""

    name, text = "designate", "make {host} the master"

    def holds(self, run: Run, step: Step) -> bool:
        session = run.session
        found = answer(lambda: (session.pool.get_all_records(), session.host.get_all_records()))
        if found is None:
            return False
        pools, hosts = found
        (pool,) = pools.values()
        master = hosts.get(pool.master)
        if master is None or master.uuid != step.host or not master.enabled:
            return False
        return all(attached(session, host.address) for ref, host in hosts.items() if ref != pool.master)

    def act(self, run: Run, step: Step) -> None:
        if not self.is_handed_over(run, step):
            with suppress(ConnectionLost):  # the toolstacks start anew, and the answer may go with them
                run.session.pool.designate_new_master(run.host(step.host))
        name = run.plan.names[step.host]
        run.until(lambda: self.holds(run, step), f"not every host follows {name} as the master", HANDOVER)

    def is_handed_over(self, run: Run, step: Step) -> bool:
        """Whether the pool has this master already, or is on its way to it: its toolstacks are away."""
        try:
            (pool,) = run.session.pool.get_all_records().values()
        except (Failure, TransportError):
            return True
        return bool(pool.master == run.host(step.host))
