"""Restarting: a host, its toolstack, a guest. Each shows by a moment that it writes down when it has started.

The moment before is put into the journal before the act. So a run that was killed knows whether what it began has come
about, and begins nothing a second time.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, ClassVar

from ...errors import ConnectionLost, ProcedureError
from ..waiting import REACHABLE, answer
from . import Kind
from .hosts import close

if TYPE_CHECKING:
    from ..plan import Step
    from ..running import Run

REBOOT_TIMEOUT = 3600.0
"""Seconds in which a host has booted again, or its toolstack started."""
GUEST_TIMEOUT = 1200.0
GOING_DOWN = frozenset({"shutdown", "reboot"})
"""The operations that a host shows on its way down."""
BOOTED = ("boot_time", "agent_start_time")
"""Where hosts write down when they, and their toolstacks, started."""


def started(other_config: Mapping[str, str], keys: Sequence[str] = BOOTED) -> float:
    """The first moment that a host's `other_config` holds under `keys`, 0 if none."""
    for key in keys:
        with suppress(KeyError, ValueError):
            return float(other_config[key])
    return 0.0


class HostRestart(Kind):
    """Something of a host that is started anew. `keys` are those of its `other_config` that say when it started last: the
    first that is there counts."""

    keys: ClassVar[tuple[str, ...]] = ()
    drift: ClassVar[float] = 0.0
    """Seconds by which the moment may change though nothing was started: it may be reckoned from the time that the host is
    up, each time anew."""

    def holds(self, run: Run, step: Step) -> bool:
        noted, now = run.journal.get(self.mark(run, step)), self.started(run, step)
        if noted is None or now is None:
            return False
        if now or noted:
            return abs(now - float(noted)) > self.drift
        return bool(run.journal.get(self.mark(run, step) + " away")) and self.is_up(run, step)

    def act(self, run: Run, step: Step) -> None:
        name, mark = run.plan.names[step.host], self.mark(run, step)
        run.until(
            lambda: self.started(run, step) is not None, f"{name}: the pool's master does not answer", REACHABLE.timeout
        )
        if run.journal.get(mark) is None:
            run.journal.put(mark, self.started(run, step))
        if not self.holds(run, step) and self.is_up(run, step):
            with suppress(ConnectionLost):  # it went before it answered; whether it did shows below
                self.begin(run, step)
        run.until(lambda: self.is_over(run, step), f"{name}: it did not start again", REBOOT_TIMEOUT)

    def is_over(self, run: Run, step: Step) -> bool:
        """Whether it has started again. That it was away is noted: where a host writes no moments down nothing else
        tells."""
        away = self.mark(run, step) + " away"
        if not run.journal.get(away) and (self.started(run, step) is None or not self.is_up(run, step)):
            run.journal.put(away, True)
        return self.holds(run, step)

    def begin(self, run: Run, step: Step) -> None:
        """Ask for it."""
        raise NotImplementedError

    def mark(self, run: Run, step: Step) -> str:
        """Where in the journal the moment before is kept."""
        return f"{self.name} {step.host}"

    def started(self, run: Run, step: Step) -> float | None:
        """When it started last, in seconds since 1970, as the host wrote it down; 0 where it never did. None where the pool
        does not answer."""
        said = answer(lambda: run.session.host.get_other_config(run.host(step.host)))
        return None if said is None else started(said, self.keys)

    def is_up(self, run: Run, step: Step) -> bool:
        """Whether the host lives, as far as the master knows: one that is on its way down is left alone."""
        session = run.session
        return bool(answer(lambda: session.host_metrics.get_live(session.host.get_metrics(run.host(step.host)))))


class Reboot(HostRestart):
    """Reboot a host that is empty."""

    name, text, keys, drift = "reboot", "reboot {host}", BOOTED, 30.0

    def begin(self, run: Run, step: Step) -> None:
        close(run, step)
        run.session.host.reboot(run.host(step.host))

    def is_up(self, run: Run, step: Step) -> bool:
        """Not one that shows that it goes down, either: asked again it would wait until it is back, and go down again."""
        going = answer(lambda: run.session.host.get_current_operations(run.host(step.host)))
        return not GOING_DOWN & set((going or {}).values()) and super().is_up(run, step)


class RestartToolstack(HostRestart):
    """Restart a host's toolstack; guests run on."""

    name, text, keys = "restart-toolstack", "restart the toolstack of {host}", BOOTED[1:]

    def begin(self, run: Run, step: Step) -> None:
        run.session.host.restart_agent(run.host(step.host))


class RestartGuest(Kind):
    """Reboot a guest cleanly, so that it runs with what was updated. One that does not run needs nothing."""

    name, text = "restart-guest", "reboot {vm} cleanly"

    def holds(self, run: Run, step: Step) -> bool:
        if run.session.VM.get_power_state(run.vm(step.vm)) != "Running":
            return True
        noted = run.journal.get(f"{self.name} {step.vm}")
        return noted is not None and self.started(run, step) != noted

    def act(self, run: Run, step: Step) -> None:
        mark = f"{self.name} {step.vm}"
        if run.journal.get(mark) is None:
            run.journal.put(mark, self.started(run, step))
        if not run.session.VM.get_current_operations(run.vm(step.vm)):
            run.session.Async.VM.clean_reboot(run.vm(step.vm)).wait()
        if not run.comes_true(lambda: self.holds(run, step), GUEST_TIMEOUT):
            raise ProcedureError(f"{run.plan.names[step.vm]} did not reboot")

    def started(self, run: Run, step: Step) -> str:
        """When the guest started last."""
        metrics = run.session.VM.get_metrics(run.vm(step.vm))
        return str(run.session.VM_metrics.get_start_time(metrics))
