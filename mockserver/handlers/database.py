"""`/pool/xmldbdump`: the pool database, taken and put back.

A restore answers 200 before it has looked at anything, so whether it went well is told by the task. The host that is asked
becomes the master of a pool of its own: the dump's other hosts are left out. It restarts into the restored database.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from xenctl import database
from xenctl.database import Database, parse_set
from xenctl.errors import DatabaseError

from .. import rules
from ..call import refuse
from ..software import software_version
from ..store import Row
from .base import NO_CACHE, Answer, Read, Request, Steps, plain
from .running import Binding, begin, done

if TYPE_CHECKING:
    from ..machine.host import HostMachine
    from ..pool import MockPool

BLOCK = 1 << 20
MANAGEMENT = "management"


def dump(request: Request) -> Answer:
    """The pool database; while versions are mixed, a stub without rows."""
    pool, binding = request.pool, Binding(request, "Dumping database as XML")
    mixed = rules.upgrading(pool.store)
    data = database.stub() if mixed else database.write(pool.store.dump())
    pool.downloaded(data, whole=not mixed)
    return done(binding, Answer(200, data, dict(NO_CACHE), close=True))


def restore(request: Request) -> Answer:
    """Take a dump for the pool's database at the next start; with `dry_run`, only say whether it could be."""
    binding = Binding(request, "Reading database as XML")
    if request.length is None:
        return done(binding, plain(400, "Bad Request"))
    return begin(request, binding, _restore(request, request.length))


def _restore(request: Request, length: int) -> Steps:
    pool, machine = request.pool, request.machine
    data = bytearray()
    while len(data) < length:
        block = yield Read(min(BLOCK, length - len(data)))
        if not block:
            break
        data += block
    machine.system.restored = None
    try:
        found = database.read(bytes(data), source="the dump")
        prepare(pool, machine, found)
    except DatabaseError as error:
        raise refuse("INTERNAL_ERROR", f"Db_xml: {error}") from None
    if not request.flag("dry_run"):
        system = machine.system
        system.restored, system.role = found, "master"
        if _by_manifest(machine):
            system.pool_secret = found.manifest.get("pool_token", system.pool_secret)
        pool.clock.after(pool.durations.restore_fuse, lambda: machine.shut_down(then_on=True))


def _by_manifest(machine: HostMachine) -> bool:
    """Whether a host compares the manifest's version of xapi, and finds the master there, until January 2011. The master's
    row gets the uuids of this machine as it does later, though only when the toolstack starts."""
    return machine.system.release.order < rules.BOSTON


def prepare(pool: MockPool, machine: HostMachine, found: Database) -> None:
    """Make a dump the database of a pool that `machine` is the only host of. Raises the `Failure` of why it cannot be."""
    master = _master(machine, found)
    row = found.row("host", master)
    own = set(_references(row, "PIFs"))
    for other in [host for host in found.rows("host") if host.ref != master]:
        for pif in _references(other, "PIFs"):
            found.tables["PIF"].rows.pop(pif, None)
        del found.tables["host"].rows[other.ref]
    row.cells["uuid"] = machine.system.installation_uuid
    dom0 = row.cells.get("control_domain") or _control_domain(found, master)
    if dom0 not in found.tables["VM"].rows and not _by_manifest(machine):
        raise refuse("HANDLE_INVALID", "VM", dom0)
    if dom0 in found.tables["VM"].rows:
        found.tables["VM"].rows[dom0].cells["uuid"] = machine.system.control_domain_uuid
    _fit_interfaces(pool, machine, [pif for pif in found.rows("PIF") if pif.ref in own])


def _master(machine: HostMachine, found: Database) -> str:
    release = machine.system.release
    if not _by_manifest(machine):
        if found.schema != (release.schema[0], release.schema[1]):
            raise refuse("RESTORE_INCOMPATIBLE_VERSION")
        return found.master
    version = software_version(release)["xapi"]
    if f"{found.manifest.get('xapi_major_vsn')}.{found.manifest.get('xapi_minor_vsn')}" != version:
        raise refuse("RESTORE_INCOMPATIBLE_VERSION")
    uuid = found.manifest.get("installation_uuid", "")
    for host in found.rows("host"):
        if host.cells.get("uuid") == uuid:
            return host.ref
    raise refuse("HANDLE_INVALID", "host", uuid)


def _references(row: database.Row, column: str) -> list[str]:
    return parse_set(row.cells[column]) if row.cells.get(column) else []


def _control_domain(found: Database, host: str) -> str:
    """The control domain of a host, where no column of the host names it."""
    for vm in found.rows("VM"):
        if vm.cells.get("is_control_domain") == "true" and vm.cells.get("resident_on") == host:
            return vm.ref
    return ""


def _fit_interfaces(pool: MockPool, machine: HostMachine, pifs: list[database.Row]) -> None:
    """The interfaces of the dump get the addresses of those of the machine that are called so."""
    here = _interfaces(pool, machine)
    managing = [row["device"] for row in here.values() if row.get(MANAGEMENT)]
    device = managing[0] if len(managing) == 1 else None
    for pif in pifs:
        name = pif.cells.get("device", "")
        if MANAGEMENT in pif.cells:
            pif.cells[MANAGEMENT] = "true" if name == device else "false"
        if pif.cells.get("physical", "true" if pif.cells.get("VLAN") == "-1" else "false") == "true":
            if name not in here:
                raise refuse("RESTORE_TARGET_MISSING_DEVICE", name)
            pif.cells["MAC"] = here[name]["MAC"]
    if device is not None and not any(pif.cells.get(MANAGEMENT) == "true" for pif in pifs):
        raise refuse("RESTORE_TARGET_MGMT_IF_NOT_IN_BACKUP", *(pif.cells.get("device", "") for pif in pifs))


def _interfaces(pool: MockPool, machine: HostMachine) -> dict[str, Row]:
    """The machine's physical interfaces by device; 4.0.1 had no word for them, they are those without a VLAN."""
    host = pool.host_row(machine)
    rows = [pool.store.find("PIF", ref) for ref in host["PIFs"]] if host is not None else []
    return {row["device"]: row for row in rows if row is not None and row.get("physical", row["VLAN"] == -1)}
