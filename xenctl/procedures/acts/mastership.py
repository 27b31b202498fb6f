"""The pool's master: handed over."""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING

from ...errors import ConnectionLost, Failure, TransportError
from ..observe import attached
from ..waiting import AWAY
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
        try:
            (pool,) = session.pool.get_all_records().values()
            hosts = session.host.get_all_records()
        except Failure as error:
            if error.code in AWAY:
                return False
            raise
        except TransportError:
            return False
        if pool.master not in hosts or hosts[pool.master].uuid != step.host:
            return False
        others = (host.address for ref, host in hosts.items() if ref != pool.master)
        return not any(host.uuid == step.host and not host.enabled for host in hosts.values()) and all(
            attached(session, address) for address in others
        )

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
