"""The options that say how an upgrade is run: what is asked before each host, and what happens by itself."""

from __future__ import annotations

import functools
import os
import signal
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any, TypeVar

import click

if TYPE_CHECKING:
    from ..procedures.gates import Window
    from ..procedures.journal import Journal
    from ..procedures.observe import PoolFacts
    from ..procedures.plan import Plan
    from ..procedures.planner.pieces import Wishes
    from ..procedures.policy import Policy
    from ..procedures.running import Gate
    from .reach import Reached

F = TypeVar("F", bound=Callable[..., Any])


@dataclass(frozen=True)
class Asked:
    """What the options said. `policy` holds what was given; the rest is as the run began."""

    approve: bool
    window: str | None
    stop_after: str | None
    settle: float
    policy: Mapping[str, Any]

    def check(self) -> None:
        """Raise `ValueError` for what no pool is needed to refuse."""
        from ..procedures.policy import Policy
        from ..procedures.waiting import NAMES

        if self.window is not None:
            self._window(None)
        for name, seconds in self.policy.get("timeouts", {}).items():
            if name not in NAMES or seconds <= 0:
                raise ValueError(
                    f"timeout: {name}={seconds:g} is not STAGE=SECONDS, the stage one of {', '.join(NAMES)}"
                )
        Policy(**self.policy)

    def gates(self, at: Reached, plan: Plan) -> list[Gate]:
        """What is asked before each host's turn, in this order."""
        from ..procedures.gates import Approve, Settle, StopAfter, paused_from_outside

        out: list[Gate] = [paused_from_outside]
        if self.stop_after is not None:
            limit = StopAfter(self.stop_after)
            limit.check({host.uuid: host.name for host in plan.hosts})
            out.append(limit)
        if self.settle:
            out.append(Settle(self.settle))
        if self.window is not None:
            out.append(self._window(at))
        if self.approve:
            out.append(Approve(_approved))
        return out

    def _window(self, at: Reached | None) -> Window:
        """The window; on a fake pool its time passes as the pool's does."""
        from ..procedures.gates import Window

        assert self.window is not None
        if at is None or at.pool is None:
            return Window.parse(self.window)
        clock, began = at.session.clock, datetime.now().astimezone()
        start = clock.now()
        return Window.parse(self.window, lambda: began + timedelta(seconds=clock.now() - start))

    def kept(self, journal: Journal) -> Policy:
        """The policy of the run: what was given now, else as it began."""
        from ..procedures.policy import RESTART, Policy

        merged = {"on_fallen": RESTART, **journal.get("policy", {}), **self.policy}
        journal.put("policy", merged)
        return Policy(**merged)


STAY = click.option("--stay", is_flag=True, help="Guests that were moved stay where they are.")
GATES = (
    click.option("--approve", is_flag=True, help="Ask before each host; with nobody at a terminal, stop there."),
    click.option("--window", metavar="HH:MM-HH:MM", help="Begin a host only if it will be done in this time of day."),
    click.option("--stop-after", metavar="N|HOST", help="Stop after so many hosts, or after this one."),
    click.option("--settle", type=click.FloatRange(0), default=0.0, metavar="SECONDS", help="Wait between hosts."),
)
POLICIES = (
    click.option(
        "--on-drift",
        type=click.Choice(["stop", "replan"]),
        help="Where the pool is not as planned before a host: stop (default), or plan the rest anew.",
    ),
    click.option(
        "--on-fallen",
        type=click.Choice(["restart", "report"]),
        help="Guests that went down while a host was away: start them again (default), or only tell.",
    ),
    click.option("--skip-failed", is_flag=True, default=None, help="Pass over the first member that fails."),
    click.option(
        "--timeout", "timeouts", multiple=True, metavar="STAGE=SECONDS", help="How long a host's return may take."
    ),
)


def gate_options(function: F) -> F:
    """Add the options of what is asked before each host's turn. The function gets them as `asked`."""

    @functools.wraps(function)
    def gathered(
        *args: Any, approve: bool, window: str | None, stop_after: str | None, settle: float, **others: Any
    ) -> Any:
        return function(*args, asked=Asked(approve, window, stop_after, settle, {}), **others)

    return functools.reduce(lambda made, option: option(made), reversed(GATES), gathered)  # type: ignore[return-value]


def run_options(function: F) -> F:
    """Add the options of how an upgrade is run. The function gets them as `asked`."""

    @functools.wraps(function)
    def gathered(
        *args: Any,
        asked: Asked,
        on_drift: str | None,
        on_fallen: str | None,
        skip_failed: bool | None,
        timeouts: tuple[str, ...],
        **others: Any,
    ) -> Any:
        policy = {
            "on_drift": on_drift,
            "on_fallen": on_fallen,
            "skip_failed": skip_failed or None,
            "timeouts": dict(map(_timeout, timeouts)) or None,
        }
        given = {name: value for name, value in policy.items() if value is not None}
        return function(*args, asked=replace(asked, policy=given), **others)

    with_policies = functools.reduce(lambda made, option: option(made), reversed(POLICIES), gathered)
    return gate_options(with_policies)  # type: ignore[return-value]


def guest_options(function: F) -> F:
    """Add the options that say what becomes of guests. The function gets `vm` and `vms` for single ones, and `stay`."""
    function = click.option(
        *("--vms", "vms"), type=click.Path(), metavar="FILE", help="A file of lines NAME=POLICY, as --vm takes them."
    )(STAY(function))
    return click.option(
        *("--vm", "vm"),
        multiple=True,
        metavar="NAME=POLICY",
        help="What becomes of a guest: migrate (default), suspend, shut-down or leave; may be repeated.",
    )(function)


def guest_policies(vm: tuple[str, ...], vms: str | None) -> Callable[[PoolFacts], Mapping[str, str]]:
    """What turns the options into policies by uuid, once the pool is known. Raises `ValueError` and `OSError` before."""
    from ..procedures import guest_policies as procedure

    named = procedure.read(vm, vms)
    return lambda pool: procedure.resolved(pool, named)


def wished(*, stay: bool) -> Wishes:
    """How guests are to be treated."""
    from ..procedures.planner.pieces import Wishes

    return Wishes(return_home=not stay)


def _timeout(text: str) -> tuple[str, float]:
    name, _, seconds = text.partition("=")
    try:
        return name, float(seconds)
    except ValueError:
        raise click.UsageError(f"--timeout {text!r} is not STAGE=SECONDS, such as storage=600") from None


def _approved(question: str) -> bool | None:
    """What the person at the terminal says; None where nobody is there."""
    return click.confirm(question, err=True) if sys.stdin.isatty() else None


@contextmanager
def told_to_stop() -> Iterator[Callable[[], str]]:
    """What tells a run to stop: the first Ctrl-C or SIGTERM after the step under way, the second at once."""
    asked: list[str] = []

    def heard(number: int, frame: object) -> None:
        if asked:
            raise KeyboardInterrupt
        asked.append(f"told to stop ({signal.Signals(number).name})")
        os.write(2, b"xenctl: stopping after what is under way; once more to stop at once\n")

    before = {number: signal.signal(number, heard) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield lambda: asked[0] if asked else ""
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
