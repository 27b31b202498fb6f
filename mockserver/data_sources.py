"""What is measured of a host or a guest: sources by name, each with its value now. Nobody keeps a history here."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from . import rules
from .call import refuse

if TYPE_CHECKING:
    from .machine.host import HostMachine
    from .pool import MockPool
    from .store import Row

BUSY = 0.1
"""What a running guest takes of a processor, as a share of it."""
UNBOUNDED = float(1 << 40)


class DataSources:
    """The data sources of one object, in order. `switched` says which were switched on or off, by name; of the others the
    standard ones are on."""

    def __init__(self, switched: Mapping[str, bool]) -> None:
        self._switched = switched
        self._sources: dict[str, dict[str, Any]] = {}

    def add(self, name: str, text: str, units: str, value: float, most: float, *, standard: bool = True) -> None:
        """A source that is measured in `units`, and is never above `most`."""
        self._sources[name] = {
            "name_label": name,
            "name_description": text,
            "enabled": self._switched.get(name, standard),
            "standard": standard,
            "units": units,
            "min": 0.0,
            "max": most,
            "value": value,
        }

    def recorded(self) -> Iterator[tuple[str, float]]:
        """The names and values of those that are on."""
        for name, source in self._sources.items():
            if source["enabled"]:
                yield name, source["value"]

    def records(self) -> list[dict[str, Any]]:
        """All of them, as records of class `data_source`."""
        return list(self._sources.values())

    def named(self, name: str) -> dict[str, Any]:
        """The source called `name`. Raises xapi's error where there is none."""
        if name not in self._sources:
            raise unknown(name)
        return self._sources[name]

    def query(self, name: str) -> float:
        """The value of a source that is recorded. Raises xapi's error for any other."""
        source = self.named(name)
        if not source["enabled"]:
            raise unknown(name)
        return float(source["value"])


def unknown(name: str) -> Exception:
    """The error for a source that is not there, or not recorded."""
    return refuse("INTERNAL_ERROR", f'Rrd.Invalid_data_source("{name}")')


def of_host(pool: MockPool, host: Row, machine: HostMachine) -> DataSources:
    """What is measured of a host that runs."""
    out = DataSources(machine.sources)
    total, free = machine.memory / 1024, max(0, rules.memory_free(pool.store, host)) / 1024
    busy = sum(domain.running for domain in machine.domains.values()) * BUSY
    cpus = len(host["host_CPUs"]) or 1
    for row in pool.store.rows("host_cpu", host["host_CPUs"]):
        number = row["number"]
        out.add(f"cpu{number}", f"Physical cpu usage for cpu {number}", "(fraction)", min(1.0, busy / cpus), 1.0)
    out.add("cpu_avg", "Average physical cpu usage", "(fraction)", min(1.0, busy / cpus), 1.0)
    out.add("loadavg", "Domain0 loadavg", "(fraction)", 0.0, UNBOUNDED)
    out.add("memory_total_kib", "Total amount of memory in use", "KiB", total, total)
    out.add("memory_free_kib", "Total amount of free memory", "KiB", free, total)
    for device, _ in machine.nics:
        for way, what in (("rx", "received"), ("tx", "sent")):
            out.add(
                f"pif_{device}_{way}", f"Bytes per second {what} on physical interface {device}", "B/s", 0.0, UNBOUNDED
            )
    return out


def of_guest(pool: MockPool, vm: Row) -> DataSources:
    """What is measured of a running VM."""
    found = pool.domain(vm)
    busy = BUSY if found is not None and found[1].running else 0.0
    metrics = pool.store.find("VM_metrics", vm["metrics"])
    memory = float(metrics["memory_actual"]) if metrics is not None else 0.0
    out = DataSources(dict(pool.guest(vm).sources))
    for cpu in range(vm["VCPUs_at_startup"]):
        out.add(f"cpu{cpu}", f"CPU{cpu} usage", "(fraction)", busy, 1.0)
    out.add("memory", "Memory currently allocated to VM", "B", memory, float(vm["memory_static_max"]))
    most = float(vm["memory_static_max"])
    out.add("memory_target", "Target of VM balloon driver", "B", memory, most, standard=False)
    for vbd in pool.vbds(vm):
        if vbd["currently_attached"] and vbd["device"]:
            for way in ("read", "write"):
                text = f"{way.capitalize()}s from device '{vbd['device']}' in B/s"
                out.add(f"vbd_{vbd['device']}_{way}", text, "B/s", 0.0, UNBOUNDED, standard=way == "write")
    for vif in pool.store.rows("VIF", vm["VIFs"]):
        if vif["currently_attached"]:
            for way, what in (("rx", "received"), ("tx", "sent")):
                text = f"Bytes per second {what} on interface number {vif['device']}"
                out.add(f"vif_{vif['device']}_{way}", text, "B/s", 0.0, UNBOUNDED)
    return out
