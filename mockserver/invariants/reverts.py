"""What must hold at every moment in which an upgrade is taken back, and at its end."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from .. import rules
from ..store import NULL, Write
from .base import Invariant

if TYPE_CHECKING:
    from ..machine.host import System
    from ..pool import MockPool

MARKS = (rules.KEY, "xenctl-run")
"""The keys of `pool.other_config` that tell of something unfinished."""


class AsBefore(Invariant):
    """At the end the pool is what it was before the upgrade: releases, guests at home, discs in drives, hosts enabled.

    `pool` is the pool before. `may_go` holds the uuids of guests whose records are lost, `may_stay_away` of those that do
    not come home.
    """

    name, tables = "as before", frozenset[str]()

    def __init__(self, pool: MockPool, may_go: Iterable[str] = (), may_stay_away: Iterable[str] = ()) -> None:
        self.may_go, self.may_stay_away = set(may_go), set(may_stay_away)
        self.was = self._picture(pool)

    @staticmethod
    def _picture(pool: MockPool) -> dict[str, Any]:
        guests = [vm for vm in pool.store.table("VM").values() if not vm["is_control_domain"]]
        drives = [vbd for vbd in pool.store.table("VBD").values() if vbd["type"] == "CD"]
        return {
            "releases": {machine.name: machine.system.release.name for machine in pool.machines},
            "masters": [machine.name for machine in pool.machines if machine.system.role == "master"],
            "guests": {
                vm["uuid"]: (vm["name_label"], vm["power_state"], vm["resident_on"])
                for vm in guests
                if not vm["is_a_template"]
            },
            "discs": {vbd["uuid"]: NULL if vbd["empty"] else vbd["VDI"] for vbd in drives},
        }

    def broken_at_end(self, pool: MockPool) -> Iterable[str]:
        was, now = self.was, self._picture(pool)
        for name, release in was["releases"].items():
            if now["releases"].get(name) != release:
                yield f"{name} ran {release} and runs {now['releases'].get(name, 'nothing')}"
        if now["masters"] != was["masters"]:
            yield f"the master was {', '.join(was['masters'])} and is {', '.join(now['masters'])}"
        for uuid, (name, state, host) in was["guests"].items():
            found = now["guests"].get(uuid)
            if found is None:
                yield f"{name} is gone"
            elif found[1] != state:
                yield f"{name} was {state} and is {found[1]}"
            elif found[2] != host and uuid not in self.may_stay_away:
                yield f"{name} is not at home"
        for uuid, (name, _, _) in now["guests"].items():
            if uuid not in was["guests"] and uuid not in self.may_go:
                yield f"{name} came out of nowhere"
        for uuid, disc in was["discs"].items():
            if now["discs"].get(uuid) != disc:
                yield f"the drive {uuid} does not hold what it held"
        yield from (f"the key {key} is left" for key in MARKS if key in pool.store.pool()["other_config"])
        yield from (
            f"{row['name_label']} is disabled" for row in pool.store.table("host").values() if not row["enabled"]
        )


class OldDatabaseHolds(Invariant):
    """When a master starts, its database has every guest that runs where it runs: else the start would end it."""

    name, tables = "old database holds", frozenset({"host"})

    def broken(self, pool: MockPool, writes: list[Write]) -> Iterable[str]:
        started = (
            write for write in writes if write.field == "other_config" and write.ref == pool.store.pool()["master"]
        )
        if not any(write.new.get("boot_time") != write.old.get("boot_time") for write in started):
            return
        for machine in pool.machines:
            row = pool.host_row(machine)
            for uuid in machine.domains:
                found = pool.store.by_uuid.get(uuid)
                if found is None:
                    yield f"a guest that the master's database does not know runs on {machine.name}: {uuid}"
                    continue
                vm = pool.store.get(*found)
                if row is None or vm["resident_on"] not in (row.ref, NULL):
                    yield f"{vm['name_label']} runs on {machine.name}, where the master's database does not have it"


class WayBackOpen(Invariant):
    """No backup partition is overwritten: each holds the one old system that there is."""

    name, tables = "way back open", frozenset({"machine"})

    def begin(self, pool: MockPool) -> None:
        self.held: dict[str, System | None] = {machine.uuid: machine.backup for machine in pool.machines}

    def broken(self, pool: MockPool, writes: list[Write]) -> Iterable[str]:
        for machine in pool.machines:
            if machine.backup is not self.held.get(machine.uuid):
                yield f"the backup partition of {machine.name} was overwritten"


class StopsAnnounced(Invariant):
    """No guest that runs stops unless `may_stop` has its uuid."""

    name, tables = "stops announced", frozenset({"VM"})

    def __init__(self, may_stop: Iterable[str] = ()) -> None:
        self.may_stop = set(may_stop)

    def broken(self, pool: MockPool, writes: list[Write]) -> Iterable[str]:
        for write in writes:
            if write.field == "power_state" and write.old == "Running" and write.new != "Running":
                vm = pool.store.find("VM", write.ref)
                if vm is not None and not vm["is_control_domain"] and vm["uuid"] not in self.may_stop:
                    yield f"{vm['name_label']} ran and became {write.new}, which nobody had said"
