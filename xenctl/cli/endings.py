"""How commands end: errors and outcomes as exit statuses, and what is printed of them.

Under `--json` every command prints one object on standard output, one that is refused too: `ending` prints it for what a
command raises, `Answering` for what its words lack. It is the plan, where there is one by then, with why it was refused.

0 done; 1 would fail, or failed and is as before; 2 bad usage or input, not readable, not reachable, and nothing changed;
3 stopped half way, and can be resumed.
"""

from __future__ import annotations

import errno
import json
import os
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, NoReturn

import click

from ..errors import DatabaseError, Failure, ProcedureError, TransportError
from .reach import Reached, in_options, tell

if TYPE_CHECKING:
    from ..procedures.account import Account
    from ..procedures.journal import Journal
    from ..procedures.plan import Plan
    from ..procedures.running import Outcome, Progress

DONE, IMPOSSIBLE, BAD_INPUT, RESUMABLE = 0, 1, 2, 3
ROOM = "make room on the disk, or name a file on another"
ADVICE: Mapping[int, str] = {
    errno.ENOENT: "check the path",
    errno.ENOTDIR: "check the path",
    errno.EISDIR: "name a file in it",
    errno.EACCES: "see to the rights of the file and of its folder",
    errno.EROFS: "name a file somewhere else",
    errno.ENOSPC: ROOM,
    errno.EDQUOT: ROOM,
    errno.EFBIG: ROOM,
}
"""What to do about a file that the system refuses."""
WORDS, PLAN, PRINTED = (f"{__name__}.{what}" for what in ("words", "plan", "printed"))
"""What a command's context keeps: the words it was given, the plan it made, and whether its object is printed."""


class Answering(click.Group):
    """The commands, which also answer in JSON where their words cannot be understood."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Keep the words: an error in them comes before it is known what they mean."""
        ctx.meta[WORDS] = tuple(args)
        return super().parse_args(ctx, args)

    def invoke(self, ctx: click.Context) -> Any:
        """Run the command; what is wrong with its words is printed as an object, too, and raised on."""
        try:
            return super().invoke(ctx)
        except click.ClickException as error:
            _refuse(getattr(error, "ctx", None) or ctx, error.format_message(), error.exit_code)
            raise
        except click.Abort:
            _refuse(ctx, "interrupted", IMPOSSIBLE)
            raise


@contextmanager
def ending() -> Iterator[None]:
    """Tell what a command raises and end with its status. Nothing has been changed by then."""
    try:
        yield
    except KeyboardInterrupt:
        _end("interrupted", RESUMABLE)
    except ProcedureError as error:
        _end(error, BAD_INPUT if error.bad_input else IMPOSSIBLE)
    except OSError as error:
        _end(about(error), BAD_INPUT)
    except (DatabaseError, ValueError, TransportError, Failure) as error:
        _end(error, BAD_INPUT)


def _end(error: BaseException | str, status: int) -> NoReturn:
    tell(error)
    context = click.get_current_context(silent=True)
    if context is not None:
        _refuse(context, error, status)
    sys.exit(status)


def _refuse(context: click.Context, error: BaseException | str, status: int) -> None:
    """Print as one object why a command is refused, where it was asked for JSON and has printed none."""
    asked = context.params.get("as_json", "--json" in context.meta.get(WORDS, ()))
    if not asked or PRINTED in context.meta:
        return
    plan: Plan | None = context.meta.get(PLAN)
    sentence, reasons = (error.message, error.reasons) if isinstance(error, ProcedureError) else (error, [])
    told = {
        "ok": False,
        "status": status,
        "error": in_options(sentence),
        "problems": [in_options(reason) for reason in reasons],
        "failure": error.details if isinstance(error, Failure) else None,
    }
    print_json({"findings": [], **(plan.as_dict() if plan is not None else {}), **told})


def planned(plan: Plan) -> Plan:
    """The plan, which the command's object holds under `--json` should it be refused."""
    click.get_current_context().meta[PLAN] = plan
    return plan


def about(error: OSError) -> str:
    """An error of the system in a sentence: which file, what, and what to do where the error itself does not say it."""
    what = error.strerror or str(error)
    if error.errno is not None and error.errno in ADVICE and what == os.strerror(error.errno):
        what = f"{what}; {ADVICE[error.errno]}"
    return f"{error.filename}: {what}" if error.filename else what


def show_plan(plan: Plan, *, steps: bool = False) -> None:
    """Print what is known before the start; with `steps` each of them, numbered."""
    from rich.markup import escape

    from ..procedures.guest_policies import costs as downtime_of
    from .tables import console

    out = console()
    out.print(f"[bold]{escape(plan.pool_name)}[/]: {plan.procedure}{_way(plan)}")
    costs = downtime_of(plan)
    for vm in plan.downtime:
        cost = f" ({costs[vm.uuid]})" if vm.uuid in costs else ""
        out.print(f"planned downtime: {escape(vm.name)}: {escape(vm.why)}{cost}")
    if plan.effort is not None:
        out.print(escape(plan.effort.text))
    for loss in plan.losses:
        out.print(f"[red]lost[/]: {escape(loss)}")
    for point in plan.no_return:
        out.print(f"point of no return: {escape(point)}")
    for warning in plan.warnings:
        out.print(f"note: {escape(warning)}")
    for number, step in enumerate(plan.steps if steps else (), 1):
        reason = f"  [dim]({escape(step.reason)})[/]" if step.reason else ""
        out.print(f"{number:4}  {escape(step.text(plan.names))}{reason}")
    for problem in plan.problems:
        out.print(f"[red]problem[/]: {escape(problem)}")
    show_mendable(plan)
    for finding in plan.findings:
        if finding.mended:
            out.print(f"mended first: {escape(finding.why)}")


def present(plan: Plan, *, dry_run: bool, as_json: bool) -> None:
    """Print a plan that was made; one that is only to be shown with every step, and end with its status."""
    planned(plan)
    if not as_json:
        show_plan(plan, steps=dry_run)
    if dry_run:
        if as_json:
            print_json(plan.as_dict())
        sys.exit(IMPOSSIBLE if plan.problems else DONE)


def show_mendable(plan: Plan) -> None:
    """Print what stands against a plan and can be mended, if anything."""
    mendable = [finding.check for finding in plan.findings if finding.stands and finding.mendable]
    if mendable:
        click.echo(f"{', '.join(dict.fromkeys(mendable))}: --fix mends that and takes it back at the end")


def _way(plan: Plan) -> str:
    """From which release to which, if any."""
    if not plan.target:
        return ""
    return f" of {plan.target}" if plan.source == plan.target else f" from {plan.source} to {plan.target}"


@contextmanager
def progress(*, quiet: bool, plain: bool = False) -> Iterator[Progress]:
    """Where a run tells its steps: a bar on a terminal, else a line each on standard error, as where `plain`, since somebody
    else writes to the terminal too; nothing where `quiet`."""
    if quiet:
        yield lambda number, total, text: None
    elif plain or not sys.stderr.isatty():
        yield lambda number, total, text: click.echo(f"{number}/{total} {text}", err=True)
    else:
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

        from .tables import console

        columns = (BarColumn(30), MofNCompleteColumn(), TextColumn("{task.description}", markup=False))
        with Progress(*columns, console=console(stderr=True), transient=True) as bar:
            job = bar.add_task("looking at the pool", total=None)
            yield lambda number, total, text: bar.update(job, completed=number - 1, total=total, description=text)


def finish(
    outcome: Outcome,
    journal: Journal,
    at: Reached,
    *,
    as_json: bool,
    account: Account | None = None,
    **more: Any,
) -> None:
    """Print what came of a run, and end with its status. A rehearsal leaves nothing to resume: it would fail."""
    violations = at.violations
    failed = IMPOSSIBLE if at.pool is not None else RESUMABLE
    status = DONE if outcome.ok and not violations else failed
    if at.pool is not None:
        more["violations"] = violations
    if as_json:
        if account is not None:
            more["account"] = account.as_dict()
        print_json(as_data(outcome, journal, **more))
    else:
        from rich.markup import escape

        from .tables import console, show_account

        out = console()
        if account is not None:
            show_account(account)
        for note in outcome.notes:
            out.print(f"note: {escape(note)}")
        for problem in outcome.problems:
            out.print(f"[red]problem[/]: {escape(problem)}")
        if outcome.comparison is not None:
            for difference in outcome.comparison.differences:
                out.print(f"changed: {escape(difference.text)}")
        if outcome.paused:
            out.print(f"paused: {escape(outcome.paused)}")
        for sentence in journal.get("report", []):
            out.print(f"note: {escape(sentence)}")
        for violation in violations:
            out.print(f"[red]broken[/]: {escape(violation)}")
        if outcome.ok:
            out.print(f"[green]{escape(outcome.plan.pool_name)}: {outcome.plan.procedure} done[/]")
        elif at.pool is not None:
            out.print(f"it would stop after {len(outcome.steps)} of {len(outcome.plan.steps)} steps")
        else:
            where = f" with --journal {journal.path}" if journal.path else ""
            out.print(f"stopped after {len(outcome.steps)} steps; go on{escape(where)}")
    sys.exit(status)


def as_data(outcome: Outcome, journal: Journal, **more: Any) -> Mapping[str, Any]:
    """An outcome as plain values, as `--json` prints it."""
    return {
        "ok": outcome.ok,
        "procedure": outcome.plan.procedure,
        "state": journal.state,
        "journal": str(journal.path) if journal.path else None,
        "problems": outcome.problems,
        "paused": outcome.paused,
        "notes": outcome.notes,
        "comparison": None if outcome.comparison is None else outcome.comparison.as_dict(),
        "report": journal.get("report", []),
        "steps": [step.as_dict() for step in outcome.steps],
        **more,
    }


def print_json(value: Any) -> None:
    """One object on one line of standard output."""
    click.echo(json.dumps(value))
    context = click.get_current_context(silent=True)
    if context is not None:
        context.meta[PRINTED] = True
