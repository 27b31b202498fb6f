"""What guests do by themselves: they halt, reboot, crash, and their agents report. A test does it in their place.

What becomes of a VM then is for `actions_after_shutdown`, `_reboot` and `_crash` to say, as its host reads them. Where the
toolstack of that host is away, or the master, it happens all the same, and is written down when it is back.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from xenctl import datamodel
from xenctl.datamodel import types as t
from xenctl.errors import Failure

from . import guests, power
from .call import Call, continue_later
from .columns import apart
from .garbage import seconds as seconds_of
from .machine.disks import Domain, report
from .machine.host import HostMachine, MachineRoomError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from .pool import MockPool
    from .store import Row

HALT, REBOOT, PAUSE = "halt", "reboot", "pause"
ACTIONS: Mapping[str, str] = {
    "destroy": HALT,
    "coredump_and_destroy": HALT,
    "restart": REBOOT,
    "coredump_and_restart": REBOOT,
    "rename_restart": REBOOT,
    "preserve": PAUSE,
}
"""What the host does about each value of those fields; dumps are nowhere kept."""
QUICK, PENALTY = 120.0, 15.0
"""A guest that ran for less seconds than the first waits for the second before it is started again; one that crashed in
that time is not."""
REBOOTS = "hard_reboot_internal"
"""The message of a toolstack that found its guest rebooting."""
OWN = frozenset({"uuid", "last_updated"})
"""What the toolstack writes into a guest's metrics by itself."""


class Inside:
    """The guests of a pool, to act in their place. VMs are named by name label, uuid or reference.

    Each method raises `ValueError` where there is not just one VM of that name, and `MachineRoomError` where its guest does
    nothing: the VM is off, paused or asleep, or waits for its disks.
    """

    def __init__(self, pool: MockPool) -> None:
        self._pool = pool

    def halt(self, vm: str) -> None:
        """The guest shuts itself down."""
        self._end(vm, "actions_after_shutdown", "halted")

    def reboot(self, vm: str) -> None:
        """The guest restarts itself."""
        self._end(vm, "actions_after_reboot", "rebooted")

    def crash(self, vm: str) -> None:
        """The guest breaks down."""
        self._end(vm, "actions_after_crash", "crashed")

    def report(self, vm: str, **fields: Any) -> None:
        """The agent says something: fields of `VM_guest_metrics`, such as `networks={"0/ip": "10.0.0.9"}`, each in the place
        of what it said before. A guest that has no agent gets one. Raises `ValueError` for a field that there is not."""
        pool = self._pool
        known = {
            name: field.type for name, field in pool.store.shape("VM_guest_metrics").fields.items() if name not in OWN
        }
        if unknown := sorted(fields.keys() - known.keys()):
            raise ValueError(f"no agent reports {', '.join(unknown)}; there are {', '.join(sorted(known))}")
        for name, value in fields.items():
            if not _fits(known[name], value):
                raise ValueError(f"{name} is of type {known[name]}, not {value!r}")
        with pool.guard():
            row = self.named(vm)
            self._acting(row)
            guest, said = pool.guest(row), apart(fields)
            guest.settled, guest.agent = True, report({**(guest.agent or guests.agent_of(pool.store.release)), **said})
            metrics = pool.store.find("VM_guest_metrics", row["guest_metrics"])
            if metrics is not None and pool.master_serves:
                pool.store.write(metrics, **said, last_updated=pool.clock.stamp())
            guest.up_at = min(guest.up_at, pool.clock.now())
            guests.report(pool, row)
            pool.settle(f"the agent in {row['name_label']} reported")

    def named(self, vm: str) -> Row:
        """The VM that is called so."""
        rows = self.all()
        found = [row for row in rows if vm in (row["uuid"], row.ref)] or [r for r in rows if r["name_label"] == vm]
        if len(found) != 1:
            names = ", ".join(sorted(row["name_label"] for row in rows))
            raise ValueError(f"{len(found) or 'no'} VMs are called {vm!r}; there are {names}")
        return found[0]

    def all(self) -> list[Row]:
        """The VMs that have a guest: neither templates nor control domains."""
        rows = self._pool.store.table("VM").values()
        return [row for row in rows if not (row["is_control_domain"] or row["is_a_template"])]

    def _acting(self, vm: Row) -> tuple[HostMachine, Domain]:
        """Where the guest in `vm` is at work."""
        found = self._pool.domain(vm)
        if found is None:
            raise MachineRoomError(f"{vm['name_label']} does not run: nobody is in there ({vm['power_state']})")
        if found[1].stalled or not found[1].running:
            why = "waits for its disks" if found[1].stalled else "sleeps" if found[1].asleep else "is paused"
            raise MachineRoomError(f"{vm['name_label']} {why}: its guest does nothing")
        return found

    def _end(self, name: str, field: str, what: str) -> None:
        pool = self._pool
        with pool.guard():
            vm = self.named(name)
            machine, domain = self._acting(vm)
            metrics = pool.store.find("VM_metrics", vm["metrics"])
            began = seconds_of(metrics["start_time"]) if metrics is not None else 0.0
            quick = pool.clock.now() - began < QUICK
            action = ACTIONS[vm[field]]
            if action == REBOOT and quick and what == "crashed":
                action = HALT
            told = pool.master_serves and machine.xapi.mode in ("master", "member")
            if action == PAUSE:
                domain.pause(pool.clock.now())
                if told:
                    pool.store.write(vm, power_state="Paused")
            elif action == HALT:
                self._halt(vm, told=told)
            elif told:
                self._restart(vm, machine, pool.durations.vm_destroy + (PENALTY if quick else 0.0))
            else:
                pool.end_domain(vm)
                pool.start_domain(vm, machine)
                guests.started(pool, vm)
            pool.settle(f"the guest in {vm['name_label']} {what}")

    def _halt(self, vm: Row, *, told: bool = True) -> None:
        pool = self._pool
        pool.end_domain(vm)
        guests.stopped(pool, vm)
        if told:
            if not pool.store.pool().get("ha_reboot_vm_on_internal_shutdown", True):
                pool.store.write(vm, ha_always_run=False)
            pool.force_halted(vm)
            guests.measure_off(pool, vm)

    def _restart(self, vm: Row, machine: HostMachine, seconds: float) -> None:
        """A new domain on the same host; the VM is off where that cannot be."""
        pool = self._pool
        message = datamodel.load().classes["VM"].messages[REBOOTS]
        call = Call(pool, machine, message, f"VM.{REBOOTS}", inner=True)

        def over(result: Any, error: Failure | None) -> None:
            if error is not None and pool.store.find("VM", vm.ref) is vm:
                self._halt(vm)

        continue_later(call, power.again(call, vm, seconds), over)


def _fits(kind: t.Type, value: Any) -> bool:
    """Whether an agent can report `value` in a field of this type."""
    if isinstance(kind, t.Map):
        return isinstance(value, dict) and all(isinstance(text, str) for pair in value.items() for text in pair)
    return isinstance(value, bool) if kind == t.Scalar("bool") else isinstance(value, str)
