"""Maintenance mode: a host's own keys, which tell everybody what left it; its return to service, and its guests'."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from ...errors import Failure, ProcedureError, TaskCancelled
from ...values import NULL
from ..plan import Step
from . import Kind

if TYPE_CHECKING:
    from ..running import Run

MODE = "MAINTENANCE_MODE"
LISTS: Mapping[str, str] = {
    "migrated": "MAINTENANCE_MODE_EVACUATED_VMS_MIGRATED",
    "suspended": "MAINTENANCE_MODE_EVACUATED_VMS_SUSPENDED",
    "halted": "MAINTENANCE_MODE_EVACUATED_VMS_HALTED",
}
"""Keys of a host's `other_config`, as XenCenter writes them: uuids joined by commas."""
TOLERATED = "xenctl-ha-tolerated"
"""The key that tells how many failures high availability survived before it was lowered for this host."""
READY_TIMEOUT, IDLE_TIMEOUT = 1800.0, 2 * 3600.0


class MarkHost(Kind):
    """Write into a host's `other_config` the keys in `args`, empty ones taken away: all of maintenance mode's at once."""

    name, text = "mark-host", "note on {host} what belongs there"

    def holds(self, run: Run, step: Step) -> bool:
        found = run.session.host.get_other_config(run.host(step.host))
        return all(found.get(key, "") == value for key, value in step.args["keys"].items())

    def act(self, run: Run, step: Step) -> None:
        host, session = run.host(step.host), run.session
        found = session.host.get_other_config(host)
        for key, value in step.args["keys"].items():
            if key in found:
                session.host.remove_from_other_config(host, key)
            if value:
                session.host.add_to_other_config(host, key, value)

    def undo(self, step: Step) -> Step | None:
        keys = step.args["keys"]
        return Step("mark-host", host=step.host, args={"keys": dict.fromkeys(keys, "")}) if any(keys.values()) else None


class Ready(Kind):
    """Wait until one host is in service: enabled, alive, its storage plugged. Storage is plugged where the host did not."""

    name, text = "ready", "wait for {host} and its storage"

    def holds(self, run: Run, step: Step) -> bool:
        host = run.session.host.get_record(run.host(step.host))
        live = run.session.host_metrics.get_live(host.metrics)
        return host.enabled and live and not self.unplugged(run, step)

    def act(self, run: Run, step: Step) -> None:
        for pbd in self.unplugged(run, step):
            try:
                run.session.Async.PBD.plug(pbd).wait()  # type: ignore[arg-type]
            except (Failure, TaskCancelled) as error:
                run.journal.note(f"{run.plan.names[step.host]}: storage is not plugged: {error}")
        name = run.plan.names[step.host]
        run.until(
            lambda: self.holds(run, step),
            f"{name} is not in service with all of its storage: see to the host and its PBDs",
            READY_TIMEOUT,
        )

    def unplugged(self, run: Run, step: Step) -> list[str]:
        """The PBDs of the host that are to be plugged and are not."""
        session = run.session
        pbds = session.host.get_PBDs(run.host(step.host))
        return [pbd for pbd in pbds if pbd not in run.unplugged and not session.PBD.get_currently_attached(pbd)]


class BringBack(Kind):
    """Bring the guests in `args` back to a host. One that cannot come is noted, and the others come all the same."""

    name, text = "bring-back", "bring {count} guests back to {host}"

    def holds(self, run: Run, step: Step) -> bool:
        noted = run.journal.get("stays away", {})
        return all(vm in noted for vm, _ in missing(run, step))

    def act(self, run: Run, step: Step) -> None:
        noted = bring_back(run, step)
        run.journal.put("stays away", noted)
        for why in noted.values():
            run.journal.note(why)


class Forget(Kind):
    """Take a host's keys of maintenance mode away. The lists keep those guests that have not come back."""

    name, text = "forget-maintenance", "end the maintenance mode of {host}"

    def holds(self, run: Run, step: Step) -> bool:
        return MARK.holds(run, self.keys(run, step))

    def act(self, run: Run, step: Step) -> None:
        MARK.act(run, self.keys(run, step))

    def keys(self, run: Run, step: Step) -> Step:
        """What is left to be written."""
        left = {vm for vm, _ in missing(run, step)}
        lists = {key: ",".join(vm for vm in step.args[what] if vm in left) for what, key in LISTS.items()}
        return Step("mark-host", host=step.host, args={"keys": {MODE: "", TOLERATED: "", **lists}})


class AllBack(Kind):
    """See that every guest has come back. What could not is tried once more, and named."""

    name, text = "all-back", "see that every guest is back on {host}"

    def holds(self, run: Run, step: Step) -> bool:
        return not missing(run, step)

    def act(self, run: Run, step: Step) -> None:
        reasons = bring_back(run, step)
        FORGET.act(run, step)
        if reasons:
            raise ProcedureError("the host is in service, and these guests did not come back", reasons.values())


MARK, FORGET = MarkHost(), Forget()

WAYS: Mapping[tuple[str, str], str] = {
    ("migrated", "Running"): "migrate",
    ("suspended", "Running"): "migrate",
    ("halted", "Running"): "migrate",
    ("suspended", "Suspended"): "resume",
    ("halted", "Halted"): "start",
}
"""How a guest comes back, by what became of it and by its state. In other states somebody else has decided about it."""


def missing(run: Run, step: Step) -> list[tuple[str, str]]:
    """The guests in `step.args` that are to come back to its host and have not, each with the action that brings it."""
    host = run.host(step.host)
    vms = {vm.uuid: vm for vm in run.session.VM.get_all_records().values()}
    out = []
    for what in LISTS:
        for uuid in step.args[what]:
            vm = vms.get(uuid)
            way = WAYS.get((what, vm.power_state)) if vm is not None else None
            if vm is not None and way and vm.resident_on != host:
                out.append((uuid, way))
    return out


def bring_back(run: Run, step: Step) -> dict[str, str]:
    """Try to bring every missing guest back, again as long as some come: one that leaves room lets another in. Returns why
    the rest did not."""
    reasons: dict[str, str] = {}
    while True:
        waiting = missing(run, step)
        reasons = {uuid: why for uuid, way in waiting if (why := _try(run, step, uuid, way))}
        if not reasons or len(reasons) == len(waiting):
            return reasons


def _try(run: Run, step: Step, uuid: str, way: str) -> str:
    """Bring one guest back; why it does not come, if so."""
    session, name = run.session, run.plan.names.get(uuid, uuid)
    vm, host = run.vm(uuid), run.host(step.host)
    if not run.comes_true(lambda: not session.VM.get_current_operations(vm), IDLE_TIMEOUT):
        return f"{name}: an operation on it does not end"
    if session.VM.get_resident_on(vm) == host:
        return ""
    acts = {
        "migrate": lambda: session.Async.VM.pool_migrate(vm, host, {"live": "true"}),
        "resume": lambda: session.Async.VM.resume_on(vm, host, False, False),
        "start": lambda: session.Async.VM.start_on(vm, host, False, False),
    }
    try:
        acts[way]().wait()
    except (Failure, TaskCancelled) as error:
        return f"{name} does not {way}: {error}"
    return "" if session.VM.get_resident_on(vm) not in (NULL, "") else f"{name}: no error came, but it is not there"
