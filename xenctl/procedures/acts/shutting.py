"""Shutting many guests down at once, and starting them again."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ...errors import Failure, ProcedureError, TaskCancelled, TransportError
from ..plan import Step
from . import Kind
from .guests import start_of, under_way

if TYPE_CHECKING:
    from ...tasks import Task
    from ..running import Run

LOOK = 2.0
"""Seconds between two looks at the tasks."""
CANCEL = 60.0
"""Seconds in which a cancelled shutdown may end, as the toolstack's own service gives it."""
GIVE_UP, ASK, HARD = "give-up", "ask", "hard"
POLICIES = (GIVE_UP, ASK, HARD)
"""What becomes of a guest that does not shut down cleanly: it is left, somebody is asked, or it is cut off."""


@dataclass
class _Going:
    """One guest on its way down."""

    vm: str
    task: Task[Any]
    deadline: float
    cancelled: bool = False


class ShutDown(Kind):
    """Shut down many guests at once: cleanly, at most `limit` at a time, each in `timeout` seconds; then by `policy`."""

    name, text = "shut-down", "shut down {count} guests"

    def undo(self, step: Step) -> Step | None:
        """Where the step says from where they come, they start there again; else whoever shut them down wanted that."""
        pairs = [[uuid, host] for uuid, host in step.args.get("from", ())]
        return Step("start-again", args={"vms": pairs, "count": len(pairs)}) if pairs else None

    def holds(self, run: Run, step: Step) -> bool:
        return not self.up(run, step)

    def act(self, run: Run, step: Step) -> None:
        reasons = self.cleanly(run, step)
        left = self.up(run, step)
        refused = {}
        for uuid in left:
            name, why = run.plan.names.get(uuid, uuid), reasons.get(uuid, "it did not shut down in time")
            if not self.may_cut(run, step, name, why):
                refused[uuid] = f"{name}: {why}"
                continue
            run.journal.note(f"{name} is shut down by force: {why}")
            try:
                run.session.Async.VM.hard_shutdown(run.vm(uuid)).wait()
            except (Failure, TaskCancelled) as error:
                refused[uuid] = f"{name}: {why}; and by force: {error}"
        if refused:
            raise ProcedureError("these guests are not shut down", refused.values())

    def up(self, run: Run, step: Step) -> list[str]:
        """The guests that are not halted, in the order of the step."""
        records = run.session.VM.get_all_records().values()
        states = {vm.uuid: vm.power_state for vm in records if vm.uuid in step.args["vms"]}
        return [uuid for uuid in step.args["vms"] if states.get(uuid, "Halted") != "Halted"]

    def may_cut(self, run: Run, step: Step, name: str, why: str) -> bool:
        """Whether a guest may be shut down by force."""
        policy = step.args["policy"]
        return policy == HARD or (policy == ASK and run.ask(f"{name}: {why}. Shut it down by force?"))

    def cleanly(self, run: Run, step: Step) -> dict[str, str]:
        """Let every guest shut itself down; why it did not, of those that did not."""
        clock, waiting, going = run.session.clock, self.up(run, step), list[_Going]()
        reasons: dict[str, str] = {}
        while waiting or going:
            while waiting and len(going) < step.args["limit"]:
                uuid = waiting.pop(0)
                try:
                    task = self.begun(run, uuid)
                except Failure as error:
                    reasons[uuid] = str(error)
                else:
                    going.append(_Going(uuid, task, clock.now() + step.args["timeout"]))
            clock.sleep(min(LOOK, run.poll))
            going = [one for one in going if not self.ended(run, one, reasons)]
        return reasons

    def begun(self, run: Run, uuid: str) -> Task[Any]:
        """The guest's shutdown: the one that goes on already, or a new one."""
        vm = run.vm(uuid)
        return under_way(run, vm, "clean_shutdown") or run.session.Async.VM.clean_shutdown(vm)

    def ended(self, run: Run, one: _Going, reasons: dict[str, str]) -> bool:
        """Whether a guest's task is over, one way or the other; one that takes too long is cancelled."""
        now = run.session.clock.now()
        try:
            if one.task.status() in ("pending", "cancelling"):
                if one.cancelled and now >= one.deadline:
                    reasons[one.vm] = "it did not shut down in time, and cannot be stopped from trying"
                    return True
                if not one.cancelled and now >= one.deadline:
                    one.cancelled, one.deadline = True, now + CANCEL
                    one.task.cancel()
                return False
            one.task.wait()
        except TaskCancelled:
            reasons[one.vm] = "it did not shut down in time"
        except (Failure, TransportError) as error:
            reasons[one.vm] = str(error)
        return True


class StartAgain(Kind):
    """Start guests one after another, each where it ran; what cannot be started is named, and the others go on."""

    name, text = "start-again", "start {count} guests where they ran"

    def holds(self, run: Run, step: Step) -> bool:
        return not self.down(run, step)

    def act(self, run: Run, step: Step) -> None:
        reasons = []
        for uuid, host in self.down(run, step):
            try:
                start_of(run, run.vm(uuid), run.host(host)).wait()
            except (Failure, TaskCancelled) as error:
                reasons.append(f"{run.plan.names[uuid]} on {run.plan.names[host]}: {error}")
        if reasons:
            raise ProcedureError("these guests are not started", reasons)

    def down(self, run: Run, step: Step) -> list[tuple[str, str]]:
        """The guests that do not run where they are to, in the order of the step."""
        hosts = {ref: host.uuid for ref, host in run.session.host.get_all_records().items()}
        at = {
            vm.uuid: hosts.get(vm.resident_on, "")
            for vm in run.session.VM.get_all_records().values()
            if vm.power_state == "Running"
        }
        return [(vm, host) for vm, host in step.args["vms"] if at.get(vm) != host]
