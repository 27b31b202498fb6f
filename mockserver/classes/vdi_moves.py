"""Disks that move to other storage of their pool with the virtual machine that has them, as a migration of that machine in
which its other disks stay."""

from __future__ import annotations

from collections.abc import Collection

from .. import hosts, placement, rules, volumes
from ..call import Call, Steps, refuse
from ..checks import operation
from ..holding import Holding
from ..moving import Destination, Move
from ..moving_rules import assert_begins, assert_possible
from ..power import LIVES
from ..store import Row
from . import verbs_of
from .vm_storage_moves import within

verb = verbs_of("VDI")

LIVE = ("Running", "Paused")


@verb("*", *volumes.MARKS, *(f"VM.{name}" if "." not in name else name for name in LIVES), "VM.suspend_SR")
def pool_migrate(call: Call, vdi: str, sr: str, options: dict[str, str]) -> Steps:
    """To other storage, under a VM that runs on or, since 7.0, is off; the disk has another record and uuid there. Where the
    VM's host does not see that storage, the VM moves, too, since 7.0."""
    row, target = call.db.get("VDI", vdi), call.db.get("SR", sr)
    vm = _vm_of(call, row)
    vbd = next(vbd for vbd in call.pool.vbds(vm) if vbd["VDI"] == vdi)
    with operation(call, vm, "migrate_send"), Holding() as holding:
        source = _host_of(call, vm, target, forced=options.get("force") == "true")
        holding.hold(hosts.operation(call, source, "vm_migrate"))
        holding.hold(volumes.held(call, vdi=(row, "mirror")))
        hosts.contact(call.pool, source)
        _assert_no_changes_tracked(row)
        volumes.assert_managed(row)
        disks = {
            other["VDI"]: call.db.get("VDI", other["VDI"])["SR"] for other in call.pool.vbds(vm) if not other["empty"]
        }
        disks[vdi] = sr
        to = Destination(call, _destination(call, source, tuple(disks.values())), crosses=False)
        move = Move(call, vm, to, True, disks, {}, {}, {})
        assert_possible(move)
        assert_begins(move)
        yield from within(move, holding)
    return str(vbd["VDI"])


def _vm_of(call: Call, vdi: Row) -> Row:
    """The VM that a disk moves with. Up to 6.5 it must run, and be the only one to which the disk is attached."""
    vbds = call.db.rows("VBD", vdi["VBDs"])
    if not call.at_least(rules.DUNDEE):
        vbds = [vbd for vbd in vbds if vbd["currently_attached"]]
        if len(vbds) != 1 or call.db.get("VM", vbds[0]["VM"])["power_state"] != "Running":
            vbds = []
    if not vbds:
        raise refuse("VDI_NEEDS_VM_FOR_MIGRATE", vdi.ref)
    return call.db.get("VM", vbds[0]["VM"])


def _host_of(call: Call, vm: Row, sr: Row, *, forced: bool) -> Row:
    """The host that a VM is on, or one that it could run on and that sees `sr`; which processors that has does not count
    where it is `forced`, since 8.2."""
    if vm["power_state"] in LIVE:
        return call.db.get("host", vm["resident_on"])
    chosen = call.db.find("host", vm["scheduled_to_be_resident_on"])
    if chosen is not None:
        return chosen
    asker = "" if forced and call.at_least(rules.STOCKHOLM) else "choose"
    for host in placement.fitting(call.pool, vm, asker=asker):
        if hosts.sees(call.db, host, (sr.ref,)):
            return host
    raise refuse("NO_HOSTS_AVAILABLE")


def _assert_no_changes_tracked(vdi: Row) -> None:
    """What tracks changes of disks, since 7.3, does not follow them."""
    if vdi["type"] == "cbt_metadata":
        raise refuse("VDI_INCOMPATIBLE_TYPE", vdi.ref, "cbt_metadata")
    if vdi.get("cbt_enabled"):
        raise refuse("VDI_CBT_ENABLED", vdi.ref)


def _destination(call: Call, source: Row, srs: Collection[str]) -> Row:
    """The host itself, if it sees all of these storage repositories, else another one that does; up to 6.5 always itself."""
    if not call.at_least(rules.DUNDEE):
        return source
    others = (host for host in call.db.table("host").values() if not rules.placing_refused(call.db, host))
    for host in (source, *others):
        if hosts.sees(call.db, host, srs):
            return host
    raise refuse("NO_HOSTS_AVAILABLE")
