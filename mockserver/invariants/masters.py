"""Who serves as master, and who believes it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING

from ..store import NULL, Write
from .base import Invariant

if TYPE_CHECKING:
    from ..machine.host import HostMachine
    from ..pool import MockPool


class OneMaster(Invariant):
    """No two hosts serve as master, and the one that does is who the database and every member take for it."""

    name, tables = "one master", frozenset({"machine", "host", "pool"})

    def broken(self, pool: MockPool, writes: list[Write]) -> Iterable[str]:
        masters = [m for m in pool.machines if m.xapi.mode == "master" and m.state == "running"]
        if len(masters) > 1:
            yield f"several hosts serve as master: {', '.join(m.name for m in masters)}"
        elif masters:
            yield from self._doubted(pool, masters[0])

    def broken_at_end(self, pool: MockPool) -> Iterable[str]:
        return self.broken(pool, [])

    @staticmethod
    def _doubted(pool: MockPool, master: HostMachine) -> Iterator[str]:
        """Who takes another host for the master than the one that serves as such. The file of a host whose toolstack is
        about to start anew tells what comes."""
        row = pool.host_row(master)
        if pool.store.pool()["master"] != (row.ref if row is not None else NULL):
            yield f"{master.name} serves as master, but the database names another host"
        if master.system.role != "master" and not master.xapi.leaving:
            yield f"{master.name} serves as master, but its role file says {master.system.role}"
        for member in pool.machines:
            if (
                member.xapi.mode == "member"
                and not member.xapi.leaving
                and member.system.role != f"slave:{master.address}"
            ):
                yield f"{member.name} is a member, but its role file says {member.system.role}, not {master.name}"
