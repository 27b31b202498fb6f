"""`xenctl plan-path`: the hops of a longer way."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from .endings import ending, print_json
from .reach import Reach, pool_options

if TYPE_CHECKING:
    from ..releases import Release


@click.command("plan-path")
@click.option("--from", "source", metavar="RELEASE", help="Where the way begins, instead of a pool's release.")
@click.option("--to", metavar="RELEASE", required=True, help="Where it is to end.")
@pool_options
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object and nothing else.")
def plan_path(source: str | None, to: str, reach: Reach, as_json: bool) -> None:
    """Show the hops from one release to another, and what each needs.

    The way begins at --from, or at the release of the pool that --server or --rehearse names. Nothing is changed.
    """
    from ..procedures.upgrade_path import hops
    from ..releases import find

    if (source is not None) == (reach.server is not None or reach.rehearse is not None):
        raise click.UsageError("give --from RELEASE, or a pool: --server URL or --rehearse DUMP")
    with ending():
        begin = _release(source, reach)
        found = hops(begin, find(to, begin))
    if as_json:
        print_json({"from": begin.name, "to": to, "hops": [hop.as_dict() for hop in found]})
        return
    for number, hop in enumerate(found, 1):
        click.echo(f"{number}. {hop.source.name} to {hop.target.name}")
        for special in hop.specials:
            final = "  (no way back)" if special.final else ""
            click.echo(f"     {special.when}: {special.text}{final}")
    if not found:
        click.echo(f"{begin.name}: that is where it is already")
    if len(found) > 1:
        click.echo(
            "Each hop is a rolling upgrade of its own. A host's backup partition holds one generation: with the second hop "
            "there is no way back to before the first."
        )


def _release(source: str | None, reach: Reach) -> Release:
    from ..releases import find

    if source is not None:
        return find(source)
    from ..procedures.observe import observe

    with reach.opened() as at:
        return observe(at.session).release
