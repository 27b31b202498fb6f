"""What is measured of a host or a guest: sources by name, each with its value now and how that went."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from math import inf
from typing import TYPE_CHECKING, Any, Final
from zlib import crc32

from . import past, rules
from .call import refuse
from .garbage import seconds
from .past import Course

if TYPE_CHECKING:
    from .machine.host import HostMachine
    from .pool import MockPool
    from .store import Row

BUSY = 0.1
"""What a running guest takes of a processor on average, as a share of it."""
UNBOUNDED = float(1 << 40)
GAUGE, DERIVE = "GAUGE", "DERIVE"
"""What hosts read: the value itself, or a count of which they take the change in a second."""
FRACTION: Final = "(fraction)"


@dataclass(frozen=True)
class Source:
    """One data source. `record` is what XenAPI says of it, `kind` is `GAUGE` or `DERIVE`."""

    record: Mapping[str, Any]
    kind: str
    course: Course

    @property
    def name(self) -> str:
        return str(self.record["name_label"])

    @property
    def most(self) -> float:
        """What it is never above."""
        return inf if self.record["max"] == UNBOUNDED else float(self.record["max"])

    @property
    def whole(self) -> bool:
        """Whether what is read is a whole number."""
        return bool(self.record["units"] != FRACTION)


class DataSources:
    """The data sources of the object `uuid`, in order, which has been measured since `began`; it is `now`, both in seconds
    of the epoch.

    `switched` says by name since when those are recorded that somebody switched on, and has None for those that were
    switched off; of the others the standard ones are on.
    """

    def __init__(self, uuid: str, switched: Mapping[str, float | None], *, began: float, now: float) -> None:
        self._switched, self._now, self._began = switched, now, min(began, now)
        self._offset = crc32(uuid.encode()) % past.PERIOD
        self._sources: dict[str, Source] = {}
        self.newest = past.number_of(now)
        """The last measurement."""

    def add(
        self,
        name: str,
        text: str,
        units: str,
        level: float,
        most: float,
        *,
        kind: str = GAUGE,
        swings: bool = False,
        standard: bool = True,
    ) -> None:
        """A source that is measured in `units`, and is never above `most`."""
        since = self._since(name, standard=standard)
        number = past.number_of(self._began if since is None else max(self._began, since))
        course = Course(level, number, self._offset if swings else None)
        record = {
            "name_label": name,
            "name_description": text,
            "enabled": since is not None,
            "standard": standard,
            "units": units,
            "min": 0.0,
            "max": most,
            "value": course.at(self.newest),
        }
        self._sources[name] = Source(record, kind, course)

    def _since(self, name: str, *, standard: bool) -> float | None:
        """Since when a source is recorded; None where it is not."""
        return self._switched.get(name, self._began if standard else None)

    def recorded(self) -> Iterator[Source]:
        """Those that are on."""
        return (source for source in self._sources.values() if source.record["enabled"])

    def records(self) -> list[dict[str, Any]]:
        """All of them, as records of class `data_source`."""
        return [dict(source.record) for source in self._sources.values()]

    def named(self, name: str) -> Mapping[str, Any]:
        """The record of the source called `name`. Raises xapi's error where there is none."""
        if name not in self._sources:
            raise unknown(name)
        return self._sources[name].record

    def query(self, name: str) -> float:
        """The value of a source that is recorded. Raises xapi's error for any other."""
        source = self.named(name)
        if not source["enabled"]:
            raise unknown(name)
        return float(source["value"])

    def switch(self, name: str, *, on: bool) -> float | None:
        """Since when the source called `name` is recorded if it is switched on, or off, now: one that is on already stays
        as it is. Raises xapi's error where there is none."""
        source = self.named(name)
        if not on:
            return None
        return self._since(name, standard=source["standard"]) if source["enabled"] else self._now


def unknown(name: str) -> Exception:
    """The error for a source that is not there, or not recorded."""
    return refuse("INTERNAL_ERROR", f'Rrd.Invalid_data_source("{name}")')


def of_host(pool: MockPool, host: Row, machine: HostMachine) -> DataSources:
    """What is measured of a host that runs."""
    out = DataSources(host["uuid"], machine.sources, began=machine.up_since, now=pool.clock.now())
    total, free = machine.memory / 1024, max(0, rules.memory_free(pool.store, host)) / 1024
    guests = sum(domain.running for domain in machine.domains.values()) * BUSY
    # At the top of its wave a processor is at work all the time.
    busy = min(1 / (1 + past.SWING), guests / (len(host["host_CPUs"]) or 1))
    for row in pool.store.rows("host_cpu", host["host_CPUs"]):
        number = row["number"]
        text = f"Physical cpu usage for cpu {number}"
        out.add(f"cpu{number}", text, FRACTION, busy, 1.0, kind=DERIVE, swings=True)
    out.add("cpu_avg", "Average physical cpu usage", FRACTION, busy, 1.0, kind=DERIVE, swings=True)
    out.add("loadavg", "Domain0 loadavg", FRACTION, 0.0, UNBOUNDED)
    out.add("memory_total_kib", "Total amount of memory in use", "KiB", total, total)
    out.add("memory_free_kib", "Total amount of free memory", "KiB", free, total)
    for device, _ in machine.nics:
        for way, what in (("rx", "received"), ("tx", "sent")):
            text = f"Bytes per second {what} on physical interface {device}"
            out.add(f"pif_{device}_{way}", text, "B/s", 0.0, UNBOUNDED, kind=DERIVE)
    return out


def of_guest(pool: MockPool, vm: Row, machine: HostMachine) -> DataSources:
    """What is measured of a VM that runs on `machine`."""
    domain = machine.domains.get(vm["uuid"])
    busy = BUSY if domain is not None and domain.running else 0.0
    metrics = pool.store.find("VM_metrics", vm["metrics"])
    memory = float(metrics["memory_actual"]) if metrics is not None else 0.0
    # A control domain has no time of its own at which it started.
    began = (seconds(metrics["start_time"]) if metrics is not None else 0.0) or machine.up_since
    guest = pool.guests.get(vm["uuid"])
    switched = dict(guest.sources) if guest is not None else {}
    out = DataSources(vm["uuid"], switched, began=began, now=pool.clock.now())
    for cpu in range(vm["VCPUs_at_startup"]):
        out.add(f"cpu{cpu}", f"CPU{cpu} usage", FRACTION, busy, 1.0, kind=DERIVE, swings=True)
    out.add("memory", "Memory currently allocated to VM", "B", memory, float(vm["memory_static_max"]))
    most = float(vm["memory_static_max"])
    out.add("memory_target", "Target of VM balloon driver", "B", memory, most, standard=False)
    for vbd in pool.vbds(vm):
        if vbd["currently_attached"] and vbd["device"]:
            for way in ("read", "write"):
                text = f"{way.capitalize()}s from device '{vbd['device']}' in B/s"
                name = f"vbd_{vbd['device']}_{way}"
                out.add(name, text, "B/s", 0.0, UNBOUNDED, kind=DERIVE, standard=way == "write")
    for vif in pool.store.rows("VIF", vm["VIFs"]):
        if vif["currently_attached"]:
            for way, what in (("rx", "received"), ("tx", "sent")):
                text = f"Bytes per second {what} on interface number {vif['device']}"
                out.add(f"vif_{vif['device']}_{way}", text, "B/s", 0.0, UNBOUNDED, kind=DERIVE)
    return out
