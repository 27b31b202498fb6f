"""`xenctl recover`: hosts that lost their master, a master or a host that is lost, a member that failed."""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import click

from .endings import BAD_INPUT, IMPOSSIBLE, ending, print_json
from .reach import Reach, Reached, hands_option, machine_room_option, pool_options
from .runs import DRY_RUN, JOURNAL, JSON, run_or_resume

if TYPE_CHECKING:
    from ..procedures.emergency import Status
    from ..procedures.plan import Plan
    from ..session import Session

SETTLING = 60.0
"""Seconds after which the members of a rehearsal's pool have noticed that their master is gone."""
HOSTS = click.option(
    "--hosts", metavar="ADDRESS,...", default="", help="Addresses of hosts, where no master tells them; by commas."
)
IS_OFF = click.option("--is-off", is_flag=True, help="You know that the host is off; else the hands are asked.")


@click.group()
def recover() -> None:
    """Mend a pool whose master, or a member, is lost."""


@recover.command()
@pool_options
@HOSTS
@JSON
def status(reach: Reach, hosts: str, as_json: bool) -> None:
    """Look at every host by itself: what is wrong with it, and what mends that. Nothing is changed."""
    from ..procedures import emergency

    with ending(), reach.opened(now=False) as at:
        addresses = [_address(at.session.origin), *_listed(hosts)]
        assert at.credentials is not None
        found = emergency.status(at.session, addresses, at.credentials)
        if as_json:
            print_json(found.as_dict())
        else:
            _show(found)
    silent = all(host.state == emergency.SILENT for host in found.hosts)
    sys.exit(BAD_INPUT if silent else 0 if found.ok else IMPOSSIBLE)


@recover.command()
@pool_options
@machine_room_option
@JOURNAL
@DRY_RUN
@JSON
def members(reach: Reach, file: str | None, dry_run: bool, as_json: bool) -> None:
    """Have every host follow the master, and wait until it takes guests again."""
    from ..procedures import recover as procedure

    _run(
        *(reach, file, procedure.RECOVER_MEMBERS, as_json, dry_run),
        lambda at: procedure.plan_members(at.session, at.credentials),  # type: ignore[arg-type]
    )


@recover.command()
@click.option("--new", required=True, metavar="ADDRESS", help="The member that takes the master's place.")
@click.option("--lost", metavar="ADDRESS", help="The master that is lost; a dump tells it too.")
@click.option("--backup", "dump", metavar="FILE", type=click.Path(), help="A dump of the pool: hosts and releases.")
@click.option("--start-vms", is_flag=True, help="Start the lost master's guests on other hosts.")
@click.option("--forget", is_flag=True, help="Drop the lost master from the database.")
@IS_OFF
@pool_options
@hands_option
@HOSTS
@JOURNAL
@DRY_RUN
@JSON
def master(
    new: str,
    lost: str | None,
    dump: str | None,
    start_vms: bool,
    forget: bool,
    is_off: bool,
    reach: Reach,
    hosts: str,
    file: str | None,
    dry_run: bool,
    as_json: bool,
) -> None:
    """Make a member the master of a pool whose own is lost for good.

    Switch the old one on and wait, if that can be done at all. What was written to the database since the member kept it
    last is lost.
    """
    from .. import database
    from ..procedures import recover as procedure
    from ..transport import origin_at, origin_of

    with ending():
        if reach.server is not None:
            reach = replace(reach, server=origin_at(origin_of(reach.server), new))
        known = database.read(Path(dump).read_bytes(), source=dump) if dump is not None else None
        gone = lost or (procedure.master_of(known) if known is not None else None)
        if gone is None:
            raise click.UsageError("give --lost ADDRESS, or --backup FILE: which host was the master?")

    def make(at: Reached) -> Plan:
        assert at.credentials is not None
        _without_master(at, new, gone)
        return procedure.plan_master(
            *(at.session, new, gone, at.credentials),
            hosts=_listed(hosts),
            dump=known,
            off=is_off,
            start=start_vms,
            forget=forget,
        )

    _run(reach, file, procedure.RECOVER_MASTER, as_json, dry_run, make, now=False)


@recover.command()
@click.option("--host", required=True, metavar="NAME", help="The host that is lost (name or uuid).")
@click.option("--no-start", is_flag=True, help="Have the pool take its guests for halted, and start none.")
@IS_OFF
@pool_options
@hands_option
@JOURNAL
@DRY_RUN
@JSON
def vms(host: str, no_start: bool, is_off: bool, reach: Reach, file: str | None, dry_run: bool, as_json: bool) -> None:
    """Start the guests of a host that is lost on other hosts, once it is sure that they do not run any more."""
    from ..procedures import recover as procedure

    _run(
        *(reach, file, procedure.RECOVER_VMS, as_json, dry_run),
        lambda at: procedure.plan_vms(_without(at, host), host, off=is_off, start=not no_start),
    )


@recover.command()
@click.option("--host", required=True, metavar="NAME", help="The member that failed (name or uuid).")
@click.option("--accept-loss", is_flag=True, help="Agree to the loss of disks on its own storage.")
@click.option("--force", is_flag=True, help="Join it though its software or its processors differ.")
@IS_OFF
@pool_options
@hands_option
@JOURNAL
@DRY_RUN
@JSON
def member(
    host: str,
    accept_loss: bool,
    force: bool,
    is_off: bool,
    reach: Reach,
    file: str | None,
    dry_run: bool,
    as_json: bool,
) -> None:
    """Forget a member that failed, install it afresh, and have it join again. What is on its own disks is lost."""
    from ..procedures import rejoin

    _run(
        *(reach, file, rejoin.RECOVER_MEMBER, as_json, dry_run),
        lambda at: rejoin.plan(_without(at, host), host, off=is_off, accept_loss=accept_loss, force=force),
    )


def _run(
    reach: Reach,
    file: str | None,
    procedure: str,
    as_json: bool,
    dry_run: bool,
    make: Callable[[Reached], Plan],
    *,
    now: bool = True,
) -> None:
    run_or_resume(reach, file, procedure, make, as_json=as_json, dry_run=dry_run, now=now)


def _without(at: Reached, host: str) -> Session:
    """The session. In a rehearsal the host loses its power first: nothing is lost in a fake pool that was just made."""
    if at.pool is not None:
        from ..procedures.observe import observe
        from ..procedures.shutdown import find_host

        pool = observe(at.session)
        lost = find_host(pool, host)
        if lost != pool.master:  # which the plan refuses
            at.pool.hands.power_off(lost)
    return at.session


def _without_master(at: Reached, new: str, lost: str) -> None:
    """In a rehearsal: have the master lose its power, and speak to the one that takes its place."""
    from ..session import Session
    from ..transport import origin_at

    if at.pool is None or at.credentials is None:
        return
    for address in (new, lost):
        if address not in [machine.address for machine in at.pool.machines]:
            raise ValueError(f"the pool has no host at {address}")
    at.pool.hands.power_off(lost)
    at.session = Session(origin_at(at.session.origin, new), transport=at.session.transport)
    at.session.login_later(at.credentials.username, at.credentials.password)
    at.session.clock.sleep(SETTLING)


def _listed(hosts: str) -> list[str]:
    return [host.strip() for host in hosts.split(",") if host.strip()]


def _address(origin: str) -> str:
    """The address that an origin names."""
    return urlsplit(origin).hostname or ""


def _show(found: Status) -> None:
    """A line for each host, then what to do."""
    for host in found.hosts:
        said = {"master": "master", "member": f"follows {host.master}"}.get(host.state, f"{host.state}: {host.text}")
        click.echo(f"{host.address}: {said}")
    for advice in found.advice:
        click.echo(f"- {advice}")


COMMANDS: tuple[Any, ...] = (recover,)
