"""What is measured of hosts, and what of that is kept."""

from __future__ import annotations

from .. import data_sources, hosts
from ..call import Call
from ..data_sources import DataSources
from ..machine.host import HostMachine
from ..startup import later
from . import verbs_of

verb = verbs_of("host")

SYNCED = "last_blob_sync_time"
"""The key of `other_config` that says when a host got the blobs that it has."""


def _of(call: Call, ref: str) -> tuple[HostMachine, DataSources]:
    row = call.db.get("host", ref)
    machine = hosts.contact(call.pool, row).machine
    return machine, data_sources.of_host(call.pool, row, machine)


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
    machine.sources[name] = sources.switch(name, on=on)
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
