"""A rehearsal's verdict for a person: two tables and a few sentences."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich import box
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from ..procedures.estimate import said
from ..procedures.plan import GIB

if TYPE_CHECKING:
    from ..procedures.account import Account
    from ..rehearsal import Rehearsal


def console(*, stderr: bool = False) -> Console:
    """Where to print: sentences are not wrapped, and nothing is coloured by guess."""
    return Console(stderr=stderr, highlight=False, soft_wrap=True, emoji=False)


def show(verdict: Rehearsal) -> None:
    """Print the verdict; what stands against the plan was printed with it."""
    out = console()
    if verdict.steps:
        out.print(_hosts(verdict))
        out.print(_vms(verdict))
    for report in verdict.reports:
        out.print(f"note: in the dump, {escape(report)}")
    if verdict.backup["verified"]:
        out.print(f"database backup: verified, sha256 {verdict.backup['sha256']}")
    if verdict.steps:
        length, most = said(verdict.simulated_s), verdict.max_hosts_offline
        out.print(f"simulated duration: {length}, with at most {most} host{'' if most == 1 else 's'} offline at a time")
    sent, received = (f"{verdict.bytes[way] / 1e6:.1f} MB" for way in ("sent", "received"))
    out.print(f"{verdict.calls} calls, {sent} sent and {received} received, in {verdict.wall_s:.2f} s")
    for violation in verdict.violations:
        out.print(f"[red]broken[/]: {violation['invariant']}: {escape(str(violation['text']))}")
    for reason in verdict.reasons[len(verdict.plan.problems) :]:
        out.print(f"[red]problem[/]: {escape(reason)}")
    count = len(verdict.violations)
    colour, word = (
        ("green", "this pool can be upgraded") if verdict.ok else ("red", "this pool cannot be upgraded as it is")
    )
    out.print(f"[{colour}]{count} invariant{'' if count == 1 else 's'} broken: {word}[/]")


def show_account(account: Account) -> None:
    """Print what became of hosts and guests: those that ran before, or are another than they were."""
    hosts = Table("host", "before", "after", box=box.SIMPLE_HEAD)
    for host in account.hosts:
        hosts.add_row(escape(host.name), host.before, host.after)
    guests = Table("VM", "before", "after", "host", box=box.SIMPLE_HEAD)
    for column in ("migrations", "downtime"):
        guests.add_column(column, justify="right")
    for vm in account.vms:
        if "Running" in (vm.state_before, vm.state_after) or vm.state_before != vm.state_after:
            way = (
                vm.host_after
                if vm.host_before in ("", vm.host_after)
                else f"{vm.host_before} to {vm.host_after or 'none'}"
            )
            down = said(vm.downtime_s) if vm.downtime_s else "none"
            guests.add_row(escape(vm.name), vm.state_before, vm.state_after, escape(way), str(vm.migrations), down)
    out = console()
    out.print(hosts)
    out.print(guests)
    size = f", {account.bytes / GIB:.1f} GiB of memory" if account.bytes is not None else ""
    out.print(f"{account.migrations} migrations{size}")


def _hosts(verdict: Rehearsal) -> Table:
    table = Table("host", "before", "after", "offline", box=box.SIMPLE_HEAD)
    for host in verdict.hosts:
        table.add_row(escape(host.name), host.before, host.after, said(host.offline_s))
    return table


def _vms(verdict: Rehearsal) -> Table:
    table = Table("VM", "before", "after", box=box.SIMPLE_HEAD)
    table.add_column("migrations", justify="right")
    table.add_column("downtime", justify="right")
    table.add_column("home")
    for vm in verdict.vms:
        home = "" if vm.home is None else "yes" if vm.home else "no"
        down = f"{said(vm.downtime_s)}{' (planned)' if vm.planned_downtime else ''}" if vm.downtime_s else "none"
        if vm.state_before != "Running":
            down = ""
        table.add_row(escape(vm.name), vm.state_before, vm.state_after, str(vm.migrations), down, home)
    return table
