"""High availability: switched off while hosts are away, and on again as it was; how many failed hosts it is to survive."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ..observe import attached
from ..plan import Step
from . import Kind

if TYPE_CHECKING:
    from ..running import Run


LAID_DOWN = "every host laid down its arms"
"""Under which name the journal keeps that nothing is left of high availability on any host."""
SWITCHES = frozenset(f"{way}pool.{verb}_ha" for way in ("", "Async.") for verb in ("enable", "disable"))
"""How the tasks are called that switch it on and off."""
RESTARTS = 1800.0
"""Seconds in which toolstacks that were restarted answer again."""
SWITCHING = 1800.0
"""Seconds in which a switch ends that was begun before; the pool itself refuses one that comes later."""


class HaOff(Kind):
    """Switch high availability off. `args` is what switching it on again takes: see `HaOn`.

    The pool says that it is off before the last host has laid down its arms, and an installer refuses a host that has not.
    So where the end of the call was not seen, since the master's toolstack died or the answer was lost, or where a member
    was away by then, the members' toolstacks are restarted: then each finds out by itself.
    """

    name, text = "ha-off", "switch high availability off"

    def holds(self, run: Run, step: Step) -> bool:
        return bool(run.journal.get(LAID_DOWN)) and not _pool(run).ha_enabled

    def act(self, run: Run, step: Step) -> None:
        seen = _pool(run).ha_enabled
        if seen:
            run.journal.put(LAID_DOWN, False)  # it may be from an earlier time
            run.session.Async.pool.disable_ha().wait()
        if not seen or not self.all_answer(run):
            self.find_out(run)
        run.journal.put(LAID_DOWN, True)

    def find_out(self, run: Run) -> None:
        """Restart the toolstacks of the members, once they answer, and wait until they do so again."""
        silent = "the pool: not every member's toolstack answers"
        run.until(lambda: self.all_answer(run), silent, RESTARTS)
        for ref, host in self.members(run).items():
            run.journal.note(f"{host.name_label}: its toolstack is restarted, so that it drops high availability")
            run.session.host.restart_agent(ref)
        run.until(lambda: self.all_answer(run), silent, RESTARTS)

    def members(self, run: Run) -> dict[Any, Any]:
        """The hosts that are not the master."""
        master = _pool(run).master
        return {ref: host for ref, host in run.session.host.get_all_records().items() if ref != master}

    def all_answer(self, run: Run) -> bool:
        """Whether every member answers as one."""
        return all(attached(run.session, host.address) for host in self.members(run).values())

    def undo(self, step: Step) -> Step:
        return Step("ha-on", args=step.args)


class HaOn(Kind):
    """Switch high availability on: on the storage with these uuids, with this configuration, for so many failures."""

    name, text = "ha-on", "switch high availability on as it was"

    def holds(self, run: Run, step: Step) -> bool:
        pool = _pool(run)
        return bool(pool.ha_enabled) and pool.ha_host_failures_to_tolerate == step.args["tolerate"]

    def act(self, run: Run, step: Step) -> None:
        session = run.session
        run.comes_true(lambda: not _is_switched(run), SWITCHING)
        if not _pool(run).ha_enabled:
            srs = [session.SR.get_by_uuid(uuid) for uuid in step.args["srs"]]
            session.Async.pool.enable_ha(srs, step.args["configuration"]).wait()
        session.pool.set_ha_host_failures_to_tolerate(run.pool, step.args["tolerate"])


class Tolerate(Kind):
    """Change how many failed hosts high availability is to survive: to `tolerate`, from `before`."""

    name, text = "ha-tolerate", "have high availability survive {tolerate} failed hosts"

    def holds(self, run: Run, step: Step) -> bool:
        pool = _pool(run)
        return not pool.ha_enabled or pool.ha_host_failures_to_tolerate == step.args["tolerate"]

    def act(self, run: Run, step: Step) -> None:
        run.session.pool.set_ha_host_failures_to_tolerate(run.pool, step.args["tolerate"])

    def undo(self, step: Step) -> Step | None:
        if "before" not in step.args:
            return None
        return Step("ha-tolerate", args={"tolerate": step.args["before"]})


def _pool(run: Run) -> Any:
    return run.session.pool.get_record(run.pool)


def _is_switched(run: Run) -> bool:
    """Whether high availability is being switched on or off, as a run that was killed may have begun. Up to 6.5 nothing but
    the task says so; what the pool shows meanwhile may be either, and it cannot be switched before the task has ended."""
    tasks = run.session.task.get_all_records().values()
    return any(task.name_label in SWITCHES and task.status == "pending" for task in tasks)
