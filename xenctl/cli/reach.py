"""How a command reaches a pool: the options that say where it is, and the hands on its machines.

Every procedure's command takes these. `--server URL` is a live pool; `--rehearse DUMP` a fake one in this process, loaded
from a dump, on which the very same code runs.
"""

from __future__ import annotations

import functools
import os
import re
import sys
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, TypeVar

import click
from click.core import ParameterSource

from ..credentials import USERNAME, Credentials, password_in, read_password
from ..errors import Failure, failure
from ..transport import origin_at

if TYPE_CHECKING:
    from mockserver.pool import MockPool

    from ..procedures.hands import Hands
    from ..procedures.plan import Plan
    from ..session import Session
    from ..transport import HttpOptions

F = TypeVar("F", bound=Callable[..., Any])

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
REFUSED = "SESSION_AUTHENTICATION_FAILED"
"""What a host answers to a wrong password."""
_ARGUMENT = re.compile(rf"(?<!\w)(?:{'|'.join(OPTIONS)})")


@dataclass
class Reached:
    """A pool that was reached. `pool` is the fake one of a rehearsal, `named` the hands that were asked for."""

    session: Session
    named: str
    pool: MockPool | None = None
    credentials: Credentials | None = None

    @cached_property
    def hands(self) -> Hands:
        """Who acts on the machines."""
        from ..procedures.hands import hands_for

        return self.pool.hands if self.pool is not None else hands_for(self.named, self.session)

    @property
    def violations(self) -> list[str]:
        """What the fake pool of a rehearsal saw broken; nothing on a live pool, which nobody watches so."""
        if self.pool is None:
            return []
        self.pool.conclude()
        return [f"{violation.invariant}: {violation.text}" for violation in self.pool.violations]

    def watch(self, plan: Plan) -> None:
        """Have the fake pool of a rehearsal watch what must hold in an upgrade by `plan`; a live pool nobody watches so."""
        if self.pool is not None:
            from ..rehearsal import watch

            watch(self.pool, plan)

    def knows(self, plan: Plan) -> None:
        """Let the session know where the plan's hosts are: its master may be away, or another by now. Raises
        `ProcedureError` where the pool that answers is not that of the plan."""
        if self.pool is None:
            from ..procedures.belonging import assert_same_pool

            addresses = (host.address for host in plan.hosts)
            self.session.hosts = tuple(origin_at(self.session.origin, address) for address in addresses if address)
            assert_same_pool(self.session, plan)

    @property
    def talks(self) -> bool:
        """Whether the hands write to the terminal."""
        return bool(getattr(self.hands, "talks", False))

    @property
    def poll(self) -> float | None:
        """Seconds between two looks at a host that is waited for, where the usual is not right."""
        return getattr(self.hands, "poll", None)


@dataclass(frozen=True)
class Reach:
    """What the options said. `server` and `rehearse` exclude each other."""

    server: str | None
    username: str
    password_file: str | None
    trust: HttpOptions
    legacy_tls: bool
    rehearse: str | None = None
    hands: str = "none"

    @cached_property
    def password(self) -> str:
        """The password, asked for once."""
        return _password(self.password_file)

    @property
    def medium(self) -> str:
        """The URL of the medium, where hosts install themselves; empty elsewhere."""
        kind, _, url = self.hands.partition(":")
        return url if kind == "plugin" else ""

    @contextmanager
    def opened(self, *, now: bool = True) -> Iterator[Reached]:
        """The pool. With `now` false nobody logs in before the first call, for a master that may be away."""
        if self.rehearse is not None:
            from ..rehearsal import staged

            with staged(self.rehearse) as (pool, session):
                yield Reached(session, self.hands, pool, Credentials(pool.url, pool.username, pool.password))
            return
        if self.server is None:
            raise click.UsageError("give --server URL, or --rehearse DUMP")
        with self.session(now=now) as session:
            yield Reached(session, self.hands, credentials=Credentials(self.server, self.username, self.password))

    @contextmanager
    def session(self, *, now: bool = True) -> Iterator[Session]:
        """A session with the live pool. Warnings are told like errors; that nothing is verified was asked for. A `Failure`
        of the login, whenever that is, says what to do."""
        from urllib3.exceptions import InsecureRequestWarning

        from ..session import Session

        assert self.server is not None
        password, options = self.password, self.trust.copy()
        options["legacy_tls"] = self.legacy_tls
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", InsecureRequestWarning)
            warnings.showwarning = lambda message, *_, **__: tell(message)
            with Session(self.server, **options) as session:
                try:
                    if now:
                        session.login_with_password(self.username, password)
                    else:
                        session.login_later(self.username, password)
                    yield session
                except Failure as error:
                    if error.code != REFUSED:
                        raise
                    raise failure(
                        error.details,
                        f"{session.origin} refuses {self.username}; check --username, and the password in --password-file, "
                        "in XENCTL_PASSWORD or at the prompt",
                    ) from None


def live_options(function: F) -> F:
    """Add the options of a live pool. The function gets `server` and `reach` instead of the rest."""
    options = (
        click.option("--server", metavar="URL", help="Any host of the live pool."),
        click.option(
            "--username", default=USERNAME, show_default=True, envvar="XENCTL_USERNAME", help="User on the live pool."
        ),
        click.option(
            "--password-file",
            type=click.Path(),
            help="File whose first line is the password; else XENCTL_PASSWORD, XENCTL_PASSWORD_FILE, or a prompt.",
        ),
        click.option("--ca-file", metavar="PATH", help="CA file, or folder, that vouches for the live pool's hosts."),
        click.option(
            "--fingerprint", metavar="SHA256", help="SHA-256 of the certificate of the host at URL, not a CA."
        ),
        click.option("--no-verify", is_flag=True, help="Do not check the live pool's certificate."),
        click.option("--legacy-tls", is_flag=True, help="Speak the old TLS of hosts before 7.0 too."),
    )

    @functools.wraps(function)
    def gathered(
        *args: Any,
        server: str | None,
        username: str,
        password_file: str | None,
        ca_file: str | None,
        fingerprint: str | None,
        no_verify: bool,
        legacy_tls: bool,
        rehearse: str | None = None,
        hands: str = "none",
        **others: Any,
    ) -> Any:
        if server is not None and rehearse is not None:
            raise click.UsageError("give --server or --rehearse, not both")
        if server is None:
            _refuse_live_options()
        trust = _trust(ca_file, fingerprint, no_verify=no_verify)
        reach = Reach(server, username, password_file, trust, legacy_tls, rehearse, hands)
        return function(*args, reach=reach, **others)

    return functools.reduce(lambda made, option: option(made), reversed(options), gathered)  # type: ignore[return-value]


def pool_options(function: F) -> F:
    """Add the options of every procedure: a live pool, or a rehearsal. The function gets them as `reach`."""
    rehearse = click.option("--rehearse", metavar="DUMP", help="Run it on a fake pool that is loaded from this dump.")
    return live_options(rehearse(function))


def hands_option(function: F) -> F:
    """Add the option that says who installs hosts."""
    return click.option(
        "--hands",
        default="operator",
        show_default=True,
        metavar="operator|plugin:URL|fake:TOKEN",
        help="Who installs: a person, the hosts themselves from URL, or the machine room of a mockserver.",
    )(function)


def machine_room_option(function: F) -> F:
    """Add the option for commands that install nothing: whose machines a fake pool's are, so that it is looked at often."""
    return click.option(
        "--hands",
        default="none",
        callback=_assert_room,
        metavar="fake:TOKEN",
        help="The pool is a mockserver's, with this control token: its clock runs fast, so it is looked at often.",
    )(function)


def _assert_room(context: click.Context, option: click.Parameter, hands: str) -> str:
    if hands != "none" and not hands.startswith("fake:"):
        raise click.BadParameter(
            f"nothing is installed here, so nobody's hands are needed, but for fake:TOKEN; not {hands!r}"
        )
    return hands


def tell(message: object) -> None:
    """An error or a warning in one sentence on standard error, that names options where the library names arguments."""
    click.echo(f"xenctl: {in_options(message)}", err=True)


def in_options(message: object) -> str:
    """The message with the names of options in the place of arguments."""
    return _ARGUMENT.sub(lambda found: OPTIONS[found[0]], str(message))


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
