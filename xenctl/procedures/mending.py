"""Mending what checks find, without an upgrade: now, with a journal that remembers how to take it back.

`upgrade run --fix` mends by itself and takes that back at its end. This is for whoever wants to see a pool mended first: the
run ends with everything mended and nothing forgotten, and giving it up (`running.abandon`) takes all of it back.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from ..errors import ProcedureError
from . import checks, rolling_upgrade
from .journal import DONE, STOPPED, Journal
from .plan import Plan
from .running import Outcome, Progress, Run

if TYPE_CHECKING:
    from ..session import Session
    from .hands import Hands
    from .planner.pieces import Wishes

PROCEDURE = "mending"
NOT_NOW = ("other-run", "versions-mixed")
"""Checks that find somebody else's work, which is not to be meddled with."""


def plan(session: Session, target: str | None = None, *, wishes: Wishes | None = None, url: str = "") -> Plan:
    """The plan for mending what stands in the way of an upgrade to `target`, and what is warned of; nothing is changed.
    What only a person can mend is in `Plan.findings` and no problem of this plan. `wishes` and `url` are as with an upgrade.
    Raises `ValueError` for an unknown release."""
    whole = rolling_upgrade.plan(session, target, wishes=wishes, fix=True, url=url)
    return replace(
        whole,
        procedure=PROCEDURE,
        steps=checks.mending(whole.findings),
        problems=tuple(finding.why for finding in whole.findings if finding.stands and finding.check in NOT_NOW),
        vms=tuple(replace(vm, planned_downtime=False, why="") for vm in whole.vms),
    )


def run(
    session: Session, plan: Plan, hands: Hands, *, journal: Journal | None = None, on_step: Progress | None = None
) -> Outcome:
    """Mend. The journal stays open to be abandoned, which takes back what was mended. Raises `ProcedureError` before
    anything is changed where somebody else is at work on the pool."""
    if plan.problems:
        raise ProcedureError("nothing is mended now", plan.problems)
    kept = Journal.create(plan) if journal is None else journal
    outcome = Run(session, plan, hands, kept).carry_out(on_step)
    if kept.state == DONE and kept.changes():
        kept.enter(STOPPED)
    return outcome
