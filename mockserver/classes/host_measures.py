"""What is measured of hosts, and what of that is kept."""

from __future__ import annotations

from .. import hosts, rules
from ..call import Call
from ..data_sources import DataSources
from ..machine.host import HostMachine
from ..startup import later
from ..store import Row
from . import verbs_of

verb = verbs_of("host")

BUSY = 0.1
"""What a running guest takes of the processors, as a share of one."""
SYNCED = "last_blob_sync_time"
"""The key of `other_config` that says when a host got the blobs that it has."""


def _sources(call: Call, host: Row, machine: HostMachine) -> DataSources:
    """What is measured of a host that runs."""
    out = DataSources(machine.sources)
    total, free = machine.memory / 1024, max(0, rules.memory_free(call.db, host)) / 1024
    busy = sum(domain.running for domain in machine.domains.values()) * BUSY
    cpus = len(host["host_CPUs"]) or 1
    for row in (call.db.get("host_cpu", ref) for ref in host["host_CPUs"]):
        number = row["number"]
        out.add(f"cpu{number}", f"Physical cpu usage for cpu {number}", "(fraction)", min(1.0, busy / cpus), 1.0)
    out.add("cpu_avg", "Average physical cpu usage", "(fraction)", min(1.0, busy / cpus), 1.0)
    out.add("loadavg", "Domain0 loadavg", "(fraction)", 0.0, float(1 << 40))
    out.add("memory_total_kib", "Total amount of memory in use", "KiB", total, total)
    out.add("memory_free_kib", "Total amount of free memory", "KiB", free, total)
    for device, _ in machine.nics:
        for way in ("rx", "tx"):
            text = f"Bytes per second {'received' if way == 'rx' else 'sent'} on physical interface {device}"
            out.add(f"pif_{device}_{way}", text, "B/s", 0.0, float(1 << 40))
    return out


def _of(call: Call, ref: str) -> tuple[HostMachine, DataSources]:
    row = call.db.get("host", ref)
    machine = hosts.contact(call.pool, row).machine
    return machine, _sources(call, row, machine)


@verb()
def get_data_sources(call: Call, host: str) -> list[dict[str, object]]:
    return _of(call, host)[1].records()


@verb()
def query_data_source(call: Call, host: str, data_source: str) -> float:
    return _of(call, host)[1].query(data_source)


@verb("machine.sources")
def record_data_source(call: Call, host: str, data_source: str) -> str:
    return _switch(call, host, data_source, on=True)


@verb("machine.sources")
def forget_data_source_archives(call: Call, host: str, data_source: str) -> str:
    """Drop what was recorded; nothing more is, until somebody asks for it again."""
    return _switch(call, host, data_source, on=False)


def _switch(call: Call, ref: str, name: str, *, on: bool) -> str:
    machine, sources = _of(call, ref)
    old = sources.named(name)["enabled"]
    machine.sources[name] = on
    hosts.note(call, machine, "sources", {name: old}, {name: on})
    return ""


@verb("machine.archived_at")
def backup_rrds(call: Call, host: str, delay: float) -> str:
    """After `delay` seconds the host puts what it measured where a restart does not lose it, unless it has gone down."""
    machine = hosts.reached(call, host).machine

    def archive() -> None:
        old, machine.system.archived_at = machine.system.archived_at, call.clock.now()
        hosts.note(call, machine, "archived_at", old, machine.system.archived_at)

    if delay > 0:
        later(machine, delay, archive)
    else:
        archive()
    return ""


@verb("other_config")
def sync_data(call: Call, host: str) -> str:
    """Blobs are the same on all hosts here; when a member got them is written down, as it is for one that keeps any."""
    row = call.db.get("host", host)
    if host != call.db.pool()["master"] and hosts.NO_STORAGE not in row["other_config"]:
        hosts.contact(call.pool, row)
        call.db.write(row, other_config={**row["other_config"], SYNCED: f"{call.clock.now():.0f}."})
    return ""
