"""What a host does about its guests on its way down: those that can go elsewhere do, the others are shut down."""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import suppress
from typing import TYPE_CHECKING

from xenctl import datamodel
from xenctl.errors import Failure

from . import checks, hosts, placement, subtasks
from .call import Call, Steps, Wait, continue_later
from .store import NULL, Row

if TYPE_CHECKING:
    from .machine.host import HostMachine
    from .pool import MockPool

PATIENCE = 60.0
"""Seconds that guests have to shut down cleanly."""
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
        yield from subtasks.run(call, "host.evacuate", host.ref, NULL, 0)
    yield from _shut_down(call, hosts.guests_of(call.db, host))


def _shut_down(call: Call, guests: Iterable[Row]) -> Steps:
    """Cleanly those that allow it, then by force."""
    ours = [vm for vm in guests if OWN not in vm["other_config"]]
    able = [vm for vm in ours if checks.operation_refused(call.db, vm, "clean_shutdown") is None]
    tasks = [subtasks.start(call, "VM.clean_shutdown", vm.ref) for vm in able]
    if tasks:
        until = call.clock.now() + PATIENCE
        yield Wait(until, lambda: all(subtasks.over(call.db, task) for task in tasks), idle=False)
    for vm in ours:
        if vm["power_state"] in LIVE:
            with suppress(Failure):
                yield from subtasks.run(call, "VM.hard_shutdown", vm.ref)
    for task in tasks:
        row = call.db.find("task", task)
        if row is not None and row["status"] != "pending":
            call.db.delete(row)
