"""`xenctl upgrade check`: what stands in the way of an upgrade, and mending it."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import click

from .endings import IMPOSSIBLE, ending, finish, print_json, progress
from .policies import STAY, wished
from .reach import Reach, Reached, hands_option, pool_options
from .runs import JSON, opened

if TYPE_CHECKING:
    from ..procedures.checks import Finding
    from ..procedures.plan import Plan

STYLES = {"blocks": "red", "warns": "yellow"}


@click.command()
@pool_options
@hands_option
@click.option("--to", metavar="RELEASE", help="Release to upgrade to; the next one if left out.")
@click.option("--fix", is_flag=True, help="Mend now what can be mended. `upgrade abandon` takes it back.")
@click.option(
    "--journal", "file", type=click.Path(), metavar="FILE", help="With --fix: where is kept how to take it back."
)
@STAY
@JSON
def check(reach: Reach, to: str | None, fix: bool, file: str | None, stay: bool, as_json: bool) -> None:
    """Check a pool before its upgrade: what blocks it, what is worth knowing, how to mend each.

    Nothing is changed without --fix. Ends with 1 where something blocks.
    """
    from ..procedures import mending

    if fix and file is None and reach.rehearse is None:
        raise click.UsageError("give --journal FILE: it remembers how to take back what is mended")
    if file is not None and not fix:
        raise click.UsageError("--journal FILE is for --fix: a check that changes nothing has nothing to remember")
    with ending(), reach.opened() as at:
        again = partial(mending.plan, at.session, to, wishes=wished(stay=stay), url=reach.medium)
        made = again()
        mended: list[str] = []
        if fix:
            mended = _mended(at, made, file, as_json=as_json)
            made = again()
        _tell(made, mended, as_json=as_json)
        sys.exit(IMPOSSIBLE if _blocking(made) else 0)


def _mended(at: Reached, made: Plan, file: str | None, *, as_json: bool) -> list[str]:
    """Mend, or go on with mending where the journal says that it was begun; the steps that were taken, in words."""
    from ..procedures import mending
    from ..procedures.journal import Journal

    again = file is not None and Path(file).exists()
    with opened(str(file), mending.PROCEDURE) if again else Journal.create(made, file) as journal:
        with progress(quiet=as_json) as on_step:
            outcome = mending.run(at.session, journal.plan, at.hands, journal=journal, on_step=on_step)
        if not outcome.ok:
            finish(outcome, journal, at, as_json=as_json)
        return [step.text for step in outcome.steps]


def _blocking(made: Plan) -> list[Finding]:
    """What blocks as long as nobody mends it."""
    return [finding for finding in made.findings if finding.level == "blocks"]


def _tell(made: Plan, mended: Sequence[str], *, as_json: bool) -> None:
    blocking = _blocking(made)
    if as_json:
        print_json(
            {
                "ok": not blocking,
                "pool": made.pool_name,
                "from": made.source,
                "to": made.target,
                "mended": list(mended),
                "findings": [{**finding.as_dict(), "mendable": finding.mendable} for finding in made.findings],
            }
        )
        return
    from rich.markup import escape

    from .tables import console

    out = console()
    out.print(f"[bold]{escape(made.pool_name)}[/]: from {made.source} to {made.target}")
    for text in mended:
        out.print(f"mended: {escape(text)}")
    for finding in made.findings:
        style = STYLES[finding.level]
        out.print(f"[{style}]{finding.level}[/] {finding.check}: {escape(finding.why)}")
        how = "--fix mends it" if finding.mendable else finding.mend
        out.print(f"       {escape(how)}")
    count = f"{len(blocking)} of them block the upgrade" if blocking else "none of them blocks the upgrade"
    out.print(f"{len(made.findings)} findings; {count}" if made.findings else "nothing was found")
