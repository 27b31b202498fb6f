"""`/host_rrd`, `/vm_rrd` and `/sr_rrd`: all that is kept of what was measured of one object, every archive whole.

A guest is told of by the host that it runs on; others send the client there. What was measured of a guest that has stopped
the fake does not keep: where a host would look in its files for it, there is none. Nothing is measured of storage.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Final

from .. import data_sources, rules
from ..call import refuse
from ..data_sources import DERIVE, DataSources, Source
from ..past import ARCHIVES, AVERAGE, FUNCTIONS, MIN, STEP, Archive
from ..store import NULL
from .base import Answer, Request, broken, failed, plain
from .rrd_format import (
    ANYWHERE,
    KINDS,
    PROLOGUE,
    binding_of,
    guests_have_extremes,
    numbers,
    prefers_json,
    told,
)

if TYPE_CHECKING:
    from xenctl.releases import Release

    from ..store import Row

Document = dict[str, Any]

HEARTBEAT: Final = 300.0
"""Seconds without a measurement after which a value counts as unknown."""
UNARCHIVE: Final = "rrd_unarchive"
"""The argument by which a host sends a client to the master, for what that has in its files."""
INITIALISING: Final = "dbsync"
"""The argument of hosts that start, and want what the master has in its files."""


@dataclass(frozen=True)
class Spelling:
    """How a kind of document writes what is in an archive, as text: `zero` is a value that is always zero, `unknown_sec`
    another, `count` a whole number, and `heartbeat` the name of a member. One that is `blind` tells no state of sources."""

    zero: str = "0.0"
    unknown_sec: str = "0"
    count: Callable[[int], str] = str
    heartbeat: str = "minimal_heartbeat"
    precise: bool = True
    """Whether it says in the form of all numbers, not as a whole one, when it was last updated."""
    blind: bool = False


XML: Final = Spelling(precise=False)
JAVASCRIPT: Final = Spelling(blind=True)
"""What is said to be JSON up to 8.0."""
FIRST_JSON: Final = Spelling(zero="0.00", count="{:.2f}".format, heartbeat="minimal_hearbeat")
"""That of 8.1 and 8.2, with a name misspelled."""
JSON: Final = Spelling(unknown_sec="0.0")


# --- who answers


def host_rrd(request: Request) -> Answer:
    """What was measured of the host that is asked."""
    given, binding = request.arguments, binding_of(request)
    if INITIALISING in given:
        return told(binding, _from_files(request) if "uuid" in given else plain(400, "Bad Request"))
    host = request.pool.host_row(request.machine)
    if host is None:
        return told(binding, broken('Failure("No host RRD available!")'))
    sources = data_sources.of_host(request.pool, host, request.machine)
    modern = request.machine.system.release.order >= rules.NILE
    as_json = prefers_json(request)
    answer = _whole(request, sources, extremes=True, as_json=as_json, headers=_headers(as_json) if modern else ANYWHERE)
    return told(binding, answer)


def vm_rrd(request: Request) -> Answer:
    """What was measured of the VM `uuid`, by the host that it runs on. Up to 8.2 as XML, whatever the client likes."""
    store, given = request.pool.store, request.arguments
    if "uuid" not in given:
        return broken("Not_found")
    here = request.pool.host_row(request.machine)
    table, ref = store.by_uuid.get(given["uuid"], ("", ""))
    vm = store.find("VM", ref) if table == "VM" else None
    if vm is not None and here is not None and vm.ref in here["resident_VMs"]:
        modern = request.machine.system.release.order >= rules.NILE
        as_json = modern and prefers_json(request)
        sources = data_sources.of_guest(request.pool, vm, request.machine)
        extremes, headers = guests_have_extremes(request), _headers(as_json) if modern else {}
        return _whole(request, sources, extremes=extremes, as_json=as_json, headers=headers)
    return _elsewhere(request, vm)


def sr_rrd(request: Request) -> Answer:
    """What was measured of a storage repository: nothing, and hosts call that an error."""
    binding = binding_of(request)
    if "uuid" not in request.arguments:
        return told(binding, plain(400, "Bad Request"))
    return told(binding, broken('Failure("No SR RRD available!")'))


def _elsewhere(request: Request, vm: Row | None) -> Answer:
    """Where what was measured of a VM is to be had that does not run here."""
    store, given, binding = request.pool.store, request.arguments, binding_of(request)
    if UNARCHIVE in given:
        return told(binding, _from_files(request))
    if vm is None:
        error = refuse("UUID_INVALID", "VM", given["uuid"])
        return told(binding, failed(error), error)
    owner = store.find("host", vm["resident_on"])
    if owner is None and request.machine.system.release.order >= rules.NILE:
        # It asks for the uuid of the host before it looks whether there is one.
        error = refuse("HANDLE_INVALID", "host", vm["resident_on"] or NULL)
        return told(binding, failed(error), error)
    if owner is not None and INITIALISING not in given:
        return told(binding, request.elsewhere(owner["address"]))
    query = f"{UNARCHIVE}=&{request.query}"
    return told(binding, replace(request, query=query).elsewhere(request.pool.master.address))


def _from_files(request: Request) -> Answer:
    """What a host says that has no file for what it is asked."""
    if request.machine.system.release.order >= rules.NILE:
        return plain(404, "Not Found")
    path = f"/var/xapi/blobs/rrds/{request.arguments['uuid']}"
    return broken(f"Got UNIX error: No such file or directory open {path}")


def _headers(as_json: bool) -> dict[str, str]:
    return {"content-type": KINDS[0] if as_json else KINDS[1], **ANYWHERE}


# --- what is answered


@dataclass(frozen=True)
class Whole:
    """What was measured of one object, up to measurement `newest`, as a document whose values are text: the names are those
    that both XML and JSON have."""

    measured: Sequence[Source]
    newest: int
    extremes: bool
    spelling: Spelling
    text: Callable[[float], str]

    def document(self) -> Document:
        moment = self.newest * STEP
        return {
            "version": "0003",
            "step": str(STEP),
            "lastupdate": self.text(moment) if self.spelling.precise else str(moment),
            "ds": [self._source(source) for source in self.measured],
            "rra": [
                self._archive(archive, function)
                for archive in ARCHIVES
                for function in FUNCTIONS
                if archive.keeps(function, extremes=self.extremes)
            ],
        }

    def _source(self, source: Source) -> Document:
        text, last = self.text, self._last_read(source)
        return {
            "name": source.name,
            "type": source.kind,
            self.spelling.heartbeat: text(HEARTBEAT),
            "min": text(source.record["min"]),
            "max": text(source.most),
            "last_ds": "0.0" if self.spelling.blind else str(int(last)) if source.whole else text(last),
            "value": "0.0",
            "unknown_sec": self.spelling.unknown_sec,
        }

    def _last_read(self, source: Source) -> float:
        """What the host read last: a value, or a count since the beginning."""
        if source.kind != DERIVE:
            return source.course.at(self.newest)
        count = self.newest - source.course.since + 1
        return source.course.of(AVERAGE, self.newest, count) * count * STEP

    def _archive(self, archive: Archive, function: str) -> Document:
        """The rows of `function`, the oldest first, after what is there already of the row to come."""
        last, share = archive.last(self.newest), archive.unknown_share(extremes=self.extremes)
        ends = range(last - (archive.rows - 1) * archive.steps, last + 1, archive.steps)
        first = min((source.course.since for source in self.measured), default=self.newest + 1)
        known = [end for end in ends if end >= first]
        columns = [
            [self.text(source.course.row(function, end, archive.steps, share)) for end in known]
            for source in self.measured
        ]
        unknown = ("NaN",) * len(self.measured)
        return {
            "cf": function,
            "pdp_per_row": str(archive.steps),
            "params": {"xff": self.text(share)},
            "cdp_prep": {"ds": [self._begun(source, archive, function) for source in self.measured]},
            "database": [unknown] * (len(ends) - len(known)) + list(zip(*columns, strict=True)),
        }

    def _begun(self, source: Source, archive: Archive, function: str) -> Document:
        """What is there of the row to come: of an average, its part of it."""
        done = self.newest - archive.last(self.newest)
        known = min(done, self.newest - source.course.since + 1)
        value = source.most if function == MIN else 0.0
        if known:
            found = source.course.of(function, self.newest, known)
            value = found * known / archive.steps if function == AVERAGE else found
        return {
            "primary_value": self.spelling.zero,
            "secondary_value": self.spelling.zero,
            "value": self.text(value),
            "unknown_datapoints": self.spelling.count(done - known),
        }


def _whole(
    request: Request, sources: DataSources, *, extremes: bool, as_json: bool, headers: Mapping[str, str]
) -> Answer:
    release = request.machine.system.release
    spelling, write = _writing(release) if as_json else (XML, _xml)
    whole = Whole(list(sources.recorded()), sources.newest, extremes, spelling, numbers(release))
    return Answer(200, write(whole.document()).encode(), headers, close=True, version="1.0")


def _writing(release: Release) -> tuple[Spelling, Callable[[Document], str]]:
    """How a host of `release` writes JSON."""
    if release.order < rules.QUEBEC:
        return JAVASCRIPT, _javascript
    return (JSON if release.order >= rules.NILE else FIRST_JSON), _json


# --- how it is written


def _xml(document: Document) -> str:
    return f"{PROLOGUE}<rrd>{_members(document)}</rrd>"


def _members(members: Document) -> str:
    return "".join(_element(name, value) for name, value in members.items())


def _element(name: str, value: Any) -> str:
    if name == "database":
        return f"<database>{_rows(value)}</database>"
    if isinstance(value, list):
        return "".join(_element(name, item) for item in value)
    inside = _members(value) if isinstance(value, dict) else value
    return f"<{name}>{inside}</{name}>"


def _rows(database: list[tuple[str, ...]]) -> str:
    return "".join(f"<row><v>{'</v><v>'.join(row)}</v></row>" if row else "<row/>" for row in database)


def _json(document: Document) -> str:
    return json.dumps(document, separators=(",", ":"))


QUOTED: Final = frozenset({"version", "name", "type", "cf"})
"""The members that are text where the others are numbers."""


def _javascript(document: Document) -> str:
    """As hosts did that knew no JSON: names without quotes, numbers that may be `NaN`."""
    return "{" + ",".join(f"{name}:{_script(name, value)}" for name, value in document.items()) + "}"


def _script(name: str, value: Any) -> str:
    if isinstance(value, dict):
        return _javascript(value)
    if name == "database":
        return f"[{','.join(f'[{chr(44).join(row)}]' for row in value)}]"
    if isinstance(value, list):
        return f"[{','.join(map(_javascript, value))}]"
    return f'"{value}"' if name in QUOTED else str(value)
