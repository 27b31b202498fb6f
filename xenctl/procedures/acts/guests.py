"""What is done to guests and their CDs."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ...tasks import Task
from ...values import NULL, to_void
from ..plan import Expected, Step
from . import Kind

if TYPE_CHECKING:
    from ..running import Run


def under_way(run: Run, vm: Any, *operations: str) -> Task[Any] | None:
    """The task of one of these operations that is at work on a guest already, since the process that began it was killed.
    It is told by the first of them."""
    for ref, operation in run.session.VM.get_current_operations(vm).items():
        if operation in operations:
            return Task(run.session, ref, f"VM.{operations[0]}", to_void)
    return None


def start_of(run: Run, vm: Any, host: Any) -> Task[Any]:
    """The start of a guest: the one that goes on already, or a new one."""
    return under_way(run, vm, "start_on", "start") or run.session.Async.VM.start_on(vm, host, False, False)


class PowerKind(Kind):
    """An action that shows in the guest's power state."""

    def holds(self, run: Run, step: Step) -> bool:
        return run.session.VM.get_power_state(run.vm(step.vm)) == self.shows

    def leaves(self, step: Step, before: Expected) -> Expected:
        return Expected(self.shows, step.to)


class Resume(PowerKind):
    """Bring a suspended guest back on a host."""

    name, text, shows = "resume", "resume {vm} on {to}", "Running"

    def act(self, run: Run, step: Step) -> None:
        run.session.Async.VM.resume_on(run.vm(step.vm), run.host(step.to), False, False).wait()

    def undo(self, step: Step) -> Step:
        return Step("suspend", vm=step.vm)


class Start(PowerKind):
    """Start a halted guest on a host."""

    name, text, shows = "start", "start {vm} on {to}", "Running"

    def act(self, run: Run, step: Step) -> None:
        run.session.Async.VM.start_on(run.vm(step.vm), run.host(step.to), False, False).wait()


class Stop(PowerKind):
    """Shut a guest down cleanly."""

    name, text, shows = "stop", "shut down {vm} cleanly", "Halted"

    def act(self, run: Run, step: Step) -> None:
        run.session.Async.VM.clean_shutdown(run.vm(step.vm)).wait()

    def undo(self, step: Step) -> Step:
        return Step("start", vm=step.vm, host=step.host, to=step.host)


class Suspend(PowerKind):
    """Write a guest's memory to disk and let it rest."""

    name, text, shows = "suspend", "suspend {vm}", "Suspended"

    def act(self, run: Run, step: Step) -> None:
        run.session.Async.VM.suspend(run.vm(step.vm)).wait()

    def undo(self, step: Step) -> Step | None:
        """A guest that is suspended for its host's turn is resumed there; `host` says which that is."""
        return Step("resume", vm=step.vm, to=step.host) if step.host else None


class Migrate(Kind):
    """Move a running guest to another host."""

    name, text = "migrate", "migrate {vm} from {host} to {to}"

    def holds(self, run: Run, step: Step) -> bool:
        """Whether the guest is where the step puts it. One that stopped meanwhile on its own has nothing to move."""
        return run.session.VM.get_resident_on(run.vm(step.vm)) in (run.host(step.to), NULL)

    def act(self, run: Run, step: Step) -> None:
        run.session.Async.VM.pool_migrate(run.vm(step.vm), run.host(step.to), {"live": "true"}).wait()

    def leaves(self, step: Step, before: Expected) -> Expected:
        return Expected(before.state, step.to)


class Eject(Kind):
    """Take a disc out of a guest's drive."""

    name, text = "eject", "eject the CD of {vm}"

    def holds(self, run: Run, step: Step) -> bool:
        return run.session.VBD.get_empty(step.vbd)  # type: ignore[arg-type]

    def act(self, run: Run, step: Step) -> None:
        run.session.Async.VBD.eject(step.vbd).wait()  # type: ignore[arg-type]

    def undo(self, step: Step) -> Step | None:
        return Step("insert", vm=step.vm, vbd=step.vbd, vdi=step.vdi) if step.vdi else None


class Insert(Kind):
    """Put a disc into a guest's drive."""

    name, text = "insert", "put the CD of {vm} back"

    def holds(self, run: Run, step: Step) -> bool:
        return run.session.VBD.get_VDI(step.vbd) == step.vdi  # type: ignore[arg-type]

    def act(self, run: Run, step: Step) -> None:
        run.session.Async.VBD.insert(step.vbd, step.vdi).wait()  # type: ignore[arg-type]
