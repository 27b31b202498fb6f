"""The commands and their options, and how errors become exit statuses: 0 done, 1 judged impossible or gone wrong, 2 bad
usage, not readable or not reachable."""

from __future__ import annotations

import os
import re
import sys
import warnings
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import click
from click.core import ParameterSource

from ..credentials import USERNAME, password_in, read_password
from ..errors import DatabaseError, Failure, TransportError

if TYPE_CHECKING:
    from ..rehearsal import Rehearsal
    from ..transport import HttpOptions

CONTEXT = {"help_option_names": ["-h", "--help"], "max_content_width": 100}
LIVE = ("username", "password_file", "ca_file", "fingerprint", "no_verify", "legacy_tls")
"""The options that say how to reach a live pool."""
OPTIONS: Mapping[str, str] = {
    "legacy_tls=True": "--legacy-tls",
    "fingerprint=": "--fingerprint",
    "verify=False": "--no-verify",
    "verify=": "--ca-file",
    "verify: ": "--ca-file: ",
}
"""What errors call the library's arguments, and the options that set them."""
_ARGUMENT = re.compile(rf"(?<!\w)(?:{'|'.join(OPTIONS)})")


@click.group(context_settings=CONTEXT)
@click.version_option(package_name="xenctl", prog_name="xenctl")
def cli() -> None:
    """Maintenance of XenServer and XCP-ng pools: rehearsed first, then run."""


@cli.command()
@click.argument("dump", required=False, type=click.Path())
@click.option("--to", metavar="RELEASE", help="Release to upgrade to; the next one if left out.")
@click.option("--server", metavar="URL", help="Fetch the dump from this live pool first (it is only read).")
@click.option(
    "--username", default=USERNAME, show_default=True, envvar="XENCTL_USERNAME", help="User on the live pool."
)
@click.option(
    "--password-file",
    type=click.Path(),
    help="File whose first line is the password; else XENCTL_PASSWORD, XENCTL_PASSWORD_FILE, or a prompt.",
)
@click.option("--ca-file", metavar="PATH", help="CA file, or folder of them, that vouches for the live pool's hosts.")
@click.option("--fingerprint", metavar="SHA256", help="SHA-256 of the certificate of the host at URL, instead of a CA.")
@click.option("--no-verify", is_flag=True, help="Do not check the live pool's certificate.")
@click.option("--legacy-tls", is_flag=True, help="Speak the old TLS of hosts before 7.0 too.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object and nothing else.")
def rehearse(
    dump: str | None,
    to: str | None,
    server: str | None,
    username: str,
    password_file: str | None,
    ca_file: str | None,
    fingerprint: str | None,
    no_verify: bool,
    legacy_tls: bool,
    as_json: bool,
) -> None:
    """Rehearse the rolling upgrade of a pool on a fake one.

    DUMP is a pool database dump, as `xe pool-dump-database` writes it. Without DUMP and --server a pool of three
    XenServer 4.0.1 hosts is made up. Nothing real is changed.
    """
    if dump is not None and server is not None:
        raise click.UsageError("give DUMP or --server, not both")
    if server is None:
        _refuse_live_options()
    trust = _trust(ca_file, fingerprint, no_verify=no_verify)
    try:
        source: Any = dump
        if server is not None:
            source = _fetch(server, username, _password(password_file), {**trust, "legacy_tls": legacy_tls})
        verdict = _with_progress(source, to, quiet=as_json)
    except (DatabaseError, ValueError, OSError, TransportError, Failure) as error:
        _tell(error)
        sys.exit(2)
    if as_json:
        click.echo(verdict.to_json())
    else:
        from .tables import show

        show(verdict)
    sys.exit(0 if verdict.ok else 1)


def _tell(message: object) -> None:
    """An error or a warning in one sentence on standard error, which names options where the library names arguments."""
    text = _ARGUMENT.sub(lambda found: OPTIONS[found[0]], str(message))
    click.echo(f"xenctl: {text}", err=True)


def _refuse_live_options() -> None:
    """Without a live pool, options for one would do nothing."""
    context = click.get_current_context()
    given = [name for name in LIVE if context.get_parameter_source(name) is ParameterSource.COMMANDLINE]
    if given:
        raise click.UsageError(f"--{given[0].replace('_', '-')} is for a live pool: give --server too")


def _trust(ca_file: str | None, fingerprint: str | None, *, no_verify: bool) -> HttpOptions:
    """How the live pool's hosts prove to be themselves: in one way."""
    ways: dict[str, HttpOptions] = {}
    if ca_file is not None:
        ways["--ca-file"] = {"verify": ca_file}
    if fingerprint is not None:
        ways["--fingerprint"] = {"fingerprint": fingerprint}
    if no_verify:
        ways["--no-verify"] = {"verify": False}
    if len(ways) > 1:
        raise click.UsageError(f"give one of {', '.join(ways)}: each is a way to know the host by")
    return ways.popitem()[1] if ways else {}


def _password(file: str | None) -> str:
    """The password: from the file, the environment, or a prompt."""
    found = read_password(file) if file is not None else password_in(os.environ)
    if found is not None:
        return found
    if not sys.stdin.isatty():
        raise click.UsageError("no password: give --password-file, or set XENCTL_PASSWORD")
    return str(click.prompt("Password", hide_input=True, err=True))


def _fetch(server: str, username: str, password: str, options: HttpOptions) -> bytes:
    """The database dump of a live pool. Warnings are told like errors; that nothing is verified was asked for."""
    from urllib3.exceptions import InsecureRequestWarning

    from ..procedures.backup import fetch
    from ..session import connect

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", InsecureRequestWarning)
        warnings.showwarning = lambda message, *_, **__: _tell(message)
        with connect(server, username, password, **options) as session:
            return fetch(session)


def _with_progress(source: Any, to: str | None, *, quiet: bool) -> Rehearsal:
    """Rehearse, with a progress bar on the terminal."""
    from ..rehearsal import rehearse as run

    if quiet:
        return run(source, to=to)
    from .tables import console, show_plan

    if not sys.stderr.isatty():
        return run(source, to=to, on_plan=show_plan)
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

    columns = (BarColumn(30), MofNCompleteColumn(), TextColumn("{task.description}", markup=False))
    with Progress(*columns, console=console(stderr=True), transient=True) as bar:
        job = bar.add_task("looking at the pool", total=None)

        def on_step(number: int, total: int, text: str) -> None:
            bar.update(job, completed=number - 1, total=total, description=text)

        return run(source, to=to, on_plan=show_plan, on_step=on_step)
