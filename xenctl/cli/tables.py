"""A rehearsal's verdict for a person: two tables and a few sentences."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich import box
from rich.console import Console
from rich.markup import escape
from rich.table import Table

if TYPE_CHECKING:
    from ..procedures.plan import Plan
    from ..rehearsal import Rehearsal


def duration(seconds: float) -> str:
    """Seconds as a person says them: `42 s`, `17 min 5 s`, `1 h 12 min`."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s" if whole % 60 else f"{whole // 60} min"
    return f"{whole // 3600} h {whole % 3600 // 60} min"


def console(*, stderr: bool = False) -> Console:
    """Where to print: sentences are not wrapped, and nothing is coloured by guess."""
    return Console(stderr=stderr, highlight=False, soft_wrap=True, emoji=False)


def show_plan(plan: Plan) -> None:
    """Print what is known before the start: from where to where, who will be shut down, and what is odd."""
    out = console()
    out.print(f"[bold]{escape(plan.pool_name)}[/]: rolling upgrade from {plan.source} to {plan.target}")
    for vm in plan.downtime:
        out.print(f"planned downtime: {escape(vm.name)}: {escape(vm.why)}")
    for warning in plan.warnings:
        out.print(f"note: {escape(warning)}")


def show(verdict: Rehearsal) -> None:
    """Print the verdict."""
    out = console()
    if verdict.steps:
        out.print(_hosts(verdict))
        out.print(_vms(verdict))
    for report in verdict.reports:
        out.print(f"note: in the dump, {escape(report)}")
    if verdict.backup["verified"]:
        out.print(f"database backup: verified, sha256 {verdict.backup['sha256']}")
    if verdict.steps:
        length, most = duration(verdict.simulated_s), verdict.max_hosts_offline
        out.print(f"simulated duration: {length}, with at most {most} host{'' if most == 1 else 's'} offline at a time")
    sent, received = (f"{verdict.bytes[way] / 1e6:.1f} MB" for way in ("sent", "received"))
    out.print(f"{verdict.calls} calls, {sent} sent and {received} received, in {verdict.wall_s:.2f} s")
    for violation in verdict.violations:
        out.print(f"[red]broken[/]: {violation['invariant']}: {escape(str(violation['text']))}")
    for reason in verdict.reasons:
        out.print(f"[red]problem[/]: {escape(reason)}")
    count = len(verdict.violations)
    colour, word = (
        ("green", "this pool can be upgraded") if verdict.ok else ("red", "this pool cannot be upgraded as it is")
    )
    out.print(f"[{colour}]{count} invariant{'' if count == 1 else 's'} broken: {word}[/]")


def _hosts(verdict: Rehearsal) -> Table:
    table = Table("host", "before", "after", "offline", box=box.SIMPLE_HEAD)
    for host in verdict.hosts:
        table.add_row(escape(host.name), host.before, host.after, duration(host.offline_s))
    return table


def _vms(verdict: Rehearsal) -> Table:
    table = Table("VM", "before", "after", box=box.SIMPLE_HEAD)
    table.add_column("migrations", justify="right")
    table.add_column("downtime", justify="right")
    table.add_column("home")
    for vm in verdict.vms:
        home = "" if vm.home is None else "yes" if vm.home else "no"
        down = f"{duration(vm.downtime_s)}{' (planned)' if vm.planned_downtime else ''}" if vm.downtime_s else "none"
        if vm.state_before != "Running":
            down = ""
        table.add_row(escape(vm.name), vm.state_before, vm.state_after, str(vm.migrations), down, home)
    return table
