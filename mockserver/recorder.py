"""What happened to each host and VM while somebody watched: migrations, downtime, time offline. Never finds fault."""

from __future__ import annotations

from typing import TYPE_CHECKING

from .invariants import Invariant
from .store import NULL, Write

if TYPE_CHECKING:
    from .pool import MockPool


class Recorder(Invariant):
    """Counts, by VM reference and host uuid. Seconds are simulated."""

    name, tables = "recorder", frozenset({"VM", "machine"})

    def begin(self, pool: MockPool) -> None:
        self.start = pool.clock.now()
        guests = pool.store.table("VM").values()
        self.before = {vm.ref: (vm["power_state"], vm["resident_on"]) for vm in guests}
        self.migrations = dict.fromkeys(self.before, 0)
        self._stopped_at: dict[str, float] = {}
        self._down = dict.fromkeys(self.before, 0.0)
        self._off_at: dict[str, float] = {}
        self._offline: dict[str, float] = {machine.uuid: 0.0 for machine in pool.machines}

    def inspect(self, pool: MockPool, writes: list[Write], cause: str) -> None:
        for write in writes:
            if write.table == "machine":
                self._machine(write)
            elif write.field == "resident_on" and NULL not in (write.old, write.new):
                self.migrations[write.ref] = self.migrations.get(write.ref, 0) + 1
            elif write.field == "power_state" and self.before.get(write.ref, ("",))[0] == "Running":
                self._state(write)

    def _machine(self, write: Write) -> None:
        if write.old == "running":
            self._off_at[write.ref] = write.at
        elif write.new == "running" and write.ref in self._off_at:
            self._offline[write.ref] = self._offline.get(write.ref, 0.0) + write.at - self._off_at.pop(write.ref)

    def _state(self, write: Write) -> None:
        if write.old == "Running":
            # a master that loads an old database finds guests down once more that were down all the time
            self._stopped_at.setdefault(write.ref, write.at)
        elif write.new == "Running" and write.ref in self._stopped_at:
            self._down[write.ref] += write.at - self._stopped_at.pop(write.ref)

    def downtime(self, ref: str, now: float) -> float:
        """Seconds in which XenAPI showed a VM that ran at the start not running."""
        since = self._stopped_at.get(ref)
        return self._down.get(ref, 0.0) + (now - since if since is not None else 0.0)

    def offline(self, uuid: str, now: float) -> float:
        """Seconds in which a host was not up."""
        since = self._off_at.get(uuid)
        return self._offline.get(uuid, 0.0) + (now - since if since is not None else 0.0)
