"""Taking an upgrade back: guests that go down for it, hosts that get their old system again."""

from __future__ import annotations

from collections.abc import Sequence
from copy import copy
from dataclasses import replace
from typing import TYPE_CHECKING

from ...errors import ProcedureError
from ..hands import RESTORE
from ..plan import Expected, Plan, Step
from ..waiting import look
from ..ways_back import FALLBACK
from . import Kind
from .hosts import HOST_TIMEOUT, boot_medium
from .pools import Verify
from .shutting import ShutDown

if TYPE_CHECKING:
    from ..running import Run

BOOTS = 1800.0
"""Seconds in which a machine that is switched on shows an installer or runs; one that does not has nothing to boot."""


class PowerDown(ShutDown):
    """Shut guests down before their host goes back; those whose run is abandoned start again where they were."""

    name, text = "power-down", "shut down {count} guests before {host} goes back"

    def concerns(self, step: Step) -> Sequence[str]:
        return tuple(step.args["vms"])

    def leaves(self, step: Step, before: Expected) -> Expected:
        return Expected("Halted", "")


class RestoreHost(Kind):
    """Boot the medium of an installer, see that the backup partition holds the old system, have it put back.

    What the installer finds decides, before anything is answered. A disk that still has the old system is booted as it is.
    """

    name, text = "restore-host", "restore {release} on {host} from its backup partition"

    def holds(self, run: Run, step: Step) -> bool:
        """Whether the host runs, and the pool knows it by the old release."""
        if run.hands.power(step.host) != "running":
            return False
        seen = look(run, step.host)
        return seen is not None and seen.hosts[seen.host].software_version.get("product_version") == step.release

    def act(self, run: Run, step: Step) -> None:
        hands, host, name = run.hands, step.host, run.plan.names[step.host]
        if hands.power(host) == "starting" and not run.comes_true(lambda: hands.power(host) != "starting", BOOTS):
            run.journal.note(f"{name} does not boot what is on its disk")
            hands.power_off(host)
        boot_medium(run, step, RESTORE)
        if hands.power(host) == "installer":
            self.answer(run, step)
        run.until(lambda: hands.power(host) == "running", f"{name}: it does not start", HOST_TIMEOUT)
        run.until(
            lambda: self.holds(run, step),
            f"{name} runs, but is not known by {step.release}; if it booted the new system from its disk, shut it down and "
            "go on: it does not come back to the old one",
            BOOTS,
        )

    def unmarks(self, plan: Plan, step: Step) -> bool:
        return step.host == plan.master

    def answer(self, run: Run, step: Step) -> None:
        """Have the old system restored, if that is what the backup partition holds."""
        hands, host, name = run.hands, step.host, run.plan.names[step.host]
        found, held = hands.identified(host), hands.restores(host)
        offered = hands.offers(host)  # asked last: a person has said by now what the screen shows
        if found == step.release:
            run.journal.note(f"{name} still has {found} on its disk, and boots that")
        elif held == step.release and RESTORE in offered:
            hands.answer(host, RESTORE)
            return
        hands.power_off(host)  # first: an installer without its medium does nothing for whoever resumes
        hands.eject_media(host)
        hands.power_on(host)
        if found == step.release:
            return
        holds = f"holds {held}" if held else "holds nothing that this installer restores"
        raise ProcedureError(
            f"{name}: its backup partition {holds}, not {step.release}, so nothing was chosen and it boots its disk; "
            f"{FALLBACK}"
        )


class Discard(Kind):
    """Forget what was saved of a guest whose suspend image is gone, or that the old release cannot know any more."""

    name, text = "discard", "drop the saved state of {vm}, whose image is gone"

    def holds(self, run: Run, step: Step) -> bool:
        return run.session.VM.get_power_state(run.vm(step.vm)) != "Suspended"

    def act(self, run: Run, step: Step) -> None:
        run.session.Async.VM.hard_shutdown(run.vm(step.vm)).wait()

    def leaves(self, step: Step, before: Expected) -> Expected:
        return Expected("Halted", "")


class VerifyReverted(Verify):
    """Compare the pool with what it was, but for the guests whose records are lost."""

    name, text = "verify-reverted", "compare the pool with what it was before the upgrade"

    def faults(self, run: Run, step: Step) -> list[str]:
        without = copy(run)
        without.plan = replace(run.plan, vms=tuple(vm for vm in run.plan.vms if vm.uuid not in step.args["lost"]))
        return super().faults(without, step)
