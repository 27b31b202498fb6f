"""Giving a run up, whatever procedure it is of: what it changed on the way is taken back, as far as the pool allows."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..errors import ProcedureError
from . import maintenance, running
from .journal import ABANDONED, DONE

if TYPE_CHECKING:
    from ..session import Session
    from .hands import Hands
    from .journal import Journal


def give_up(session: Session, journal: Journal, hands: Hands, *, poll: float | None = None) -> list[str]:
    """Take back what the run in `journal` changed, and unmark the pool; what is left to be undone, one sentence each.

    A host that was being emptied for maintenance gets its guests back. Give it up again to try again. Raises
    `ProcedureError` for a run that is done.
    """
    if journal.state == DONE:
        raise ProcedureError(f"{journal.run_id} is done: there is nothing to abandon")
    if journal.plan.procedure in (maintenance.ENTER, maintenance.UNWIND):
        return _into_service(session, journal, hands, poll)
    return running.abandon(session, journal, hands, poll=poll)


def _into_service(session: Session, journal: Journal, hands: Hands, poll: float | None) -> list[str]:
    """Take a host into service again that was to be kept empty."""
    if journal.plan.procedure == maintenance.ENTER:
        why = ["it was given up"]
        journal.replan(maintenance.unwinding(journal.plan, why, begun=journal.finished() > 0))
    outcome = running.Run(session, journal.plan, hands, journal, poll=poll).carry_out()
    if outcome.ok:
        journal.enter(ABANDONED)
    return [*outcome.problems, *([outcome.paused] if outcome.paused else [])]
