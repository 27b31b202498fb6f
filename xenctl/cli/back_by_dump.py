"""`xenctl upgrade revert --from-dump`: an upgrade taken back without backup partitions."""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

import click

from .endings import ending
from .reach import Reach, Reached
from .runs import run_or_resume

if TYPE_CHECKING:
    from ..procedures.before import Before
    from ..procedures.journal import Journal
    from ..procedures.plan import Plan

SUFFIX, REVERTED = ".from-dump", ".revert"
"""What the journals of this, and of a revert by backup partitions, are called after that of the upgrade."""


@dataclass(frozen=True)
class Words:
    """What the options of `upgrade revert` said that concerns a dump."""

    file: str | None
    own: str | None
    dump: str | None
    policy: str
    timeout: float
    accept_downtime: bool
    accept_loss: bool
    take_over: bool
    after: int | None
    dry_run: bool
    as_json: bool


def go_back(reach: Reach, words: Words) -> NoReturn:
    """Plan it and carry it out, or go on with it; end with the exit status of what came of it."""
    from ..procedures import from_dump

    own = words.own or (f"{words.file}{SUFFIX}" if words.file else None)
    if own is None and reach.rehearse is None and not words.dry_run:
        raise click.UsageError("give --journal RUN, or --revert-journal FILE: a run that is killed is resumed with it")
    with ExitStack() as stack:
        ended: list[Journal] = []
        if own is None or not Path(own).exists():
            with ending():
                ended += [stack.enter_context(journal) for journal in _superseded(words)]
        run_or_resume(
            *(reach, None if reach.rehearse is not None else own, from_dump.FROM_DUMP),
            lambda at: _plan(at, reach, words, ended),
            as_json=words.as_json,
            dry_run=words.dry_run,
            now=False,
            agreed=lambda made: from_dump.assert_can_run(
                made, accept_downtime=words.accept_downtime, accept_loss=words.accept_loss
            ),
            begun=lambda journal: _begun(journal, ended),
            take_over=True,
        )
    raise AssertionError("a run ends the command")


def _superseded(words: Words) -> list[Journal]:
    """The journals of the upgrade, and of a revert that stopped, which nobody else runs meanwhile."""
    from ..procedures.journal import Journal

    if words.file is None:
        return []
    files = [words.file, *(name for name in (f"{words.file}{REVERTED}",) if Path(name).exists())]
    return [Journal.open(name, to_run=True) for name in files]


def _plan(at: Reached, reach: Reach, words: Words, ended: list[Journal]) -> Plan:
    from ..procedures import from_dump
    from ..procedures.before import of_journal

    before: Before | None = of_journal(ended[0]) if ended else None
    path = words.dump or (before.dump if before is not None else None)
    if reach.rehearse is not None:
        from .revert import upgraded

        before, path = of_journal(upgraded(at, words.after)), words.dump or reach.rehearse
    elif ended:
        at.knows(ended[0].plan)
    if not path:
        raise click.UsageError("give --dump FILE: which dump is from before the upgrade?")
    runs = None if words.take_over or reach.rehearse is not None else [journal.run_id for journal in ended]
    return from_dump.plan(*(at.session, path, before), policy=words.policy, timeout=words.timeout, take_over=runs)


def _begun(journal: Journal, ended: list[Journal]) -> None:
    """Close what this takes the place of, for good."""
    for other in ended:
        other.give_way(journal.run_id)
