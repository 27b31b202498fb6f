"""What a host does about its guests on its way down: those that can go elsewhere do, the others are shut down."""

from __future__ import annotations

from collections.abc import Generator, Iterable
from contextlib import suppress
from typing import TYPE_CHECKING

from xenctl import datamodel
from xenctl.errors import Failure

from . import checks, hosts, placement, subtasks
from .call import Call, Steps, Wait, cancel, continue_later
from .store import NULL, Row

if TYPE_CHECKING:
    from .machine.host import HostMachine
    from .pool import MockPool

PATIENCE = 60.0
"""Seconds that guests have to shut down cleanly, and tasks to be cancelled."""
LEAST = 240.0
"""Seconds that an evacuation has at least."""
LINK = 1000 * 1024 * 1024
"""Bits that are sent in a second."""
OWN = "auto_poweroff"
"""The key of `VM.other_config` of a guest that somebody else takes care of."""
LIVE = ("Running", "Paused")
ON_THE_WAY = "host.prepare_for_poweroff"


def go_down(pool: MockPool, machine: HostMachine, host: Row, *, then_on: bool) -> None:
    """Stop a machine as its operating system does: the guests first, however long that takes."""
    if not hosts.guests_of(pool.store, host):
        machine.shut_down(then_on)
        return
    message = datamodel.load().classes["host"].messages["prepare_for_poweroff"]
    call, xapi = Call(pool, pool.master, message, ON_THE_WAY, inner=True), machine.xapi

    def stop(result: object, error: Failure | None) -> None:
        if machine.xapi is xapi:  # it may have lost power meanwhile
            machine.shut_down(then_on)

    continue_later(call, leave(call, host), stop)


def leave(call: Call, host: Row) -> Steps:
    """Have no guest run on a host any more, as far as that can be done."""
    plan = placement.evacuation(call.pool, host)
    yield from _shut_down(call, [call.db.get("VM", vm) for vm, found in plan.items() if isinstance(found, Failure)])
    with suppress(Failure):
        task = subtasks.start(call, "host.evacuate", host.ref, NULL, 0)
        if not (yield from _in_time(call, [task], _limit(call, host))):
            for vm in hosts.guests_of(call.db, host):
                _cancel(call, vm["current_operations"])
    yield from _shut_down(call, hosts.guests_of(call.db, host))


def _limit(call: Call, host: Row) -> float:
    """How many seconds an evacuation may take: as long as it takes to send what is in use of a host's memory over a link of
    1 Gbit/s, and never less than four minutes."""
    metrics = call.db.get("host_metrics", host["metrics"])
    used: int = metrics["memory_total"] - metrics["memory_free"]
    return max(LEAST, used * 8 / LINK)


def _in_time(call: Call, tasks: list[str], seconds: float) -> Generator[float | Wait, None, bool]:
    """Wait for tasks, and drop them; those that are not over by then are cancelled, and have a minute to be so."""

    def over() -> bool:
        return all(subtasks.over(call.db, task) for task in tasks)

    yield Wait(call.clock.now() + seconds, over, idle=False)
    in_time = over()
    if not in_time:
        _cancel(call, [task for task in tasks if not subtasks.over(call.db, task)])
        yield Wait(call.clock.now() + PATIENCE, over, idle=False)
    for task in [task for task in tasks if subtasks.over(call.db, task)]:
        call.pool.drop_task(task)
    return in_time


def _cancel(call: Call, tasks: Iterable[str]) -> None:
    for task in list(tasks):
        if call.db.find("task", task) is not None:
            cancel(call.pool, task, call.task)


def _shut_down(call: Call, guests: Iterable[Row]) -> Steps:
    """Cleanly those that allow it, then by force."""
    ours = [vm for vm in guests if OWN not in vm["other_config"]]
    able = [vm for vm in ours if checks.operation_refused(call.db, vm, "clean_shutdown") is None]
    tasks = [subtasks.start(call, "VM.clean_shutdown", vm.ref) for vm in able]
    if tasks:
        yield from _in_time(call, tasks, PATIENCE)
    for vm in ours:
        if vm["power_state"] in LIVE:
            with suppress(Failure):
                yield from subtasks.run(call, "VM.hard_shutdown", vm.ref)
