"""What a step does, one class for each action: how to see that it holds, how to bring it about, what it leaves behind.

A run takes a step only if it does not hold in the pool, and afterwards looks whether it does, so that a kind never has to
know whether it was tried before: `act` starts from whatever it finds.

    guests.py   VMs: migrate, start, stop, suspend, resume; their CDs
    hosts.py    hosts: disable, halt, install, wait for the return
    installing.py without a medium, or anew; settings written down and compared
    shutting.py many guests shut down at once, and started again
    restoring.py a database put back
    mending.py  what mends findings of checks, and takes that back
    reverting.py a host put back to the system of its backup partition
    recovering.py roles of hosts that lost their master, guests of a host that was lost
    rejoining.py a failed host forgotten, installed afresh, and back in the pool
    maintenance.py, mastership.py   maintenance mode of a host; the master handed over
    rebooting.py, updating.py       a host, its toolstack or a guest started anew; an update applied
    repositories.py                 updates from repositories, and what a host must do then
    availability.py                 high availability off and on
    pools.py    the pool: the backup, settings, the mark of a run, versions that are equal, the comparison at the end
"""

from __future__ import annotations

from collections.abc import Sequence
from importlib import import_module
from pkgutil import iter_modules
from typing import TYPE_CHECKING, ClassVar

from ...errors import ProcedureError

if TYPE_CHECKING:
    from ..plan import Expected, Plan, Step
    from ..running import Run


class Kind:
    """One action. `text` is the step in words; `{host}`, `{vm}`, `{to}` stand for names."""

    name: ClassVar[str] = ""
    text: ClassVar[str] = ""
    shows: ClassVar[str] = ""
    """The power state that it brings its guest to, empty where it is about something else."""

    def __init_subclass__(cls) -> None:
        if cls.name:
            KINDS[cls.name] = cls()

    def holds(self, run: Run, step: Step) -> bool:
        """Whether the pool shows what the step is for."""
        raise NotImplementedError

    def act(self, run: Run, step: Step) -> None:
        """Bring it about. Raises what the calls raise, `ProcedureError` where going on would do harm."""
        raise NotImplementedError

    def undo(self, step: Step) -> Step | None:
        """The step that takes this one back, where a run that is abandoned is to do so."""
        return None

    def unmarks(self, plan: Plan, step: Step) -> bool:
        """Whether the pool may not be marked with the run any more, since another database is served: from the step on, to
        the next that marks it."""
        return False

    def concerns(self, step: Step) -> Sequence[str]:
        """The uuids of the guests that the step changes."""
        return (step.vm,) if step.vm else ()

    def leaves(self, step: Step, before: Expected) -> Expected:
        """What the step's guest is afterwards."""
        return before


class Verification(Kind):
    """A look that brings nothing about: either nothing is wrong, or the run ends. `said` is what introduces the faults; it
    takes the arguments of the step."""

    said: ClassVar[str] = ""

    def holds(self, run: Run, step: Step) -> bool:
        return not self.faults(run, step)

    def act(self, run: Run, step: Step) -> None:
        faults = self.faults(run, step)
        if faults:
            raise ProcedureError(self.said.format(**step.args), faults)

    def faults(self, run: Run, step: Step) -> list[str]:
        """What is wrong, one sentence each."""
        raise NotImplementedError


KINDS: dict[str, Kind] = {}
"""The actions by name."""

for _module in iter_modules(__path__):  # they register themselves
    import_module(f"{__name__}.{_module.name}")
