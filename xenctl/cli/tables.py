"""A rehearsal's verdict for a person: two tables and a few sentences."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich import box
from rich.console import Console
from rich.markup import escape
from rich.table import Table

if TYPE_CHECKING:
    from ..rehearsal import Rehearsal


def duration(seconds: float) -> str:
    """Seconds as a person says them: `42 s`, `17 min 5 s`, `1 h 12 min`."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s" if whole % 60 else f"{whole // 60} min"
    return f"{whole // 3600} h {whole % 3600 // 60} min"


def show(verdict: Rehearsal) -> None:
    """Print the verdict on standard output."""
    console = Console(highlight=False)
    console.print(f"[bold]{escape(verdict.plan.pool_name)}[/]: rolling upgrade from {verdict.source} to {verdict.target}")
    if verdict.steps:
        console.print(_hosts(verdict))
        console.print(_vms(verdict))
    for warning in verdict.warnings:
        console.print(f"note: {escape(warning)}")
    for vm in verdict.plan.downtime:
        console.print(f"planned downtime: {escape(vm.name)}: {escape(vm.why)}")
    if verdict.backup["verified"]:
        console.print(f"database backup taken and verified, sha256 {verdict.backup['sha256']}")
    sent, received = (f"{verdict.bytes[way] / 1e6:.1f} MB" for way in ("sent", "received"))
    console.print(
        f"simulated duration {duration(verdict.simulated_s)}, at most {verdict.max_hosts_offline} host offline at a time; "
        f"{verdict.calls} calls ({sent} sent, {received} received) in {verdict.wall_s:.2f} s"
    )
    for violation in verdict.violations:
        console.print(f"[red]broken[/]: {violation['invariant']}: {escape(str(violation['text']))}")
    for reason in verdict.reasons:
        console.print(f"[red]problem[/]: {escape(reason)}")
    count = len(verdict.violations)
    colour, word = ("green", "can be upgraded") if verdict.ok else ("red", "cannot be upgraded like this")
    console.print(f"[{colour}]{count} invariant{'' if count == 1 else 's'} broken; this pool {word}[/]")


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
