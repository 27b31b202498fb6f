"""Packages of updates at the hosts that serve them, each attached to a control domain while anybody needs it.

A toolstack counts who does, so whoever attached a package detaches it, too. What it counted ends with it; the next one lets
go of what it finds.
"""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING

from xenctl.errors import Failure

from . import hosts, rules
from .call import Call, Steps, refuse

if TYPE_CHECKING:
    from .pool import MockPool
    from .startup import Xapi
    from .store import Row, Store


def server_of(call: Call, vdi: Row) -> Row:
    """The host that serves what is on a disk: one that sees it, the master before others."""
    pbds = [call.db.get("PBD", ref) for ref in call.db.get("SR", vdi["SR"])["PBDs"]]
    seen = [pbd["host"] for pbd in pbds if pbd["currently_attached"]]
    if not seen:
        raise refuse("SR_HAS_NO_PBDS", vdi["SR"])
    master = call.db.pool()["master"]
    return call.db.get("host", master if master in seen else seen[0])


def attach(call: Call, update: Row, vdi: Row) -> Steps:
    """Count one more who needs a package; the first has it attached."""
    host = server_of(call, vdi)
    contact = hosts.contact(call.pool, host)
    counts = contact.machine.xapi.attached
    if not counts.get(update["uuid"]):
        taken = {vbd["userdevice"] for vbd in call.pool.vbds(call.db.get("VM", host["control_domain"]))}
        device = next(str(n) for n in range(len(taken) + 1) if str(n) not in taken)
        fields = {"VM": host["control_domain"], "VDI": vdi.ref, "userdevice": device, "mode": "RO", "type": "Disk"}
        more = {"uuid": call.pool.new_uuid(), "currently_attached": True, "empty": False, "unpluggable": True}
        vbd = call.db.create("VBD", call.pool.new_ref(), {**fields, **more})
        try:
            yield call.pool.durations.device
            contact.check()
        except BaseException:
            if call.db.find("VBD", vbd.ref) is not None:
                call.db.delete(vbd)
            raise
    _assert_attached(call.db, host, vdi)
    counts[update["uuid"]] = counts.get(update["uuid"], 0) + 1


def detach(call: Call, update: Row, vdi: Row) -> None:
    """Count one fewer; the last one has the package detached, and so has who comes where nobody is counted."""
    host = server_of(call, vdi)
    _let_go(call.db, hosts.contact(call.pool, host).machine.xapi, host, update, vdi)


def _let_go(db: Store, xapi: Xapi, host: Row, update: Row, vdi: Row) -> None:
    _assert_attached(db, host, vdi)
    left = xapi.attached.pop(update["uuid"], 0) - 1
    if left > 0:
        xapi.attached[update["uuid"]] = left
        return
    for vbd in _devices(db, host, vdi):
        if not vbd["currently_attached"]:
            raise refuse("DEVICE_ALREADY_DETACHED", vbd.ref)
        db.delete(vbd)


def _devices(db: Store, host: Row, vdi: Row) -> list[Row]:
    """The devices by which the control domain of a host holds a disk."""
    vbds = [vbd for vbd in (db.find("VBD", ref) for ref in vdi["VBDs"]) if vbd is not None]
    return [vbd for vbd in vbds if vbd["VM"] == host["control_domain"]]


def _assert_attached(db: Store, host: Row, vdi: Row) -> None:
    """Since 8.2, a device that was unplugged behind the toolstack's back is told of."""
    lost = [vbd.ref for vbd in _devices(db, host, vdi) if not vbd["currently_attached"]]
    if lost and db.release.order >= rules.STOCKHOLM:
        told = f"pool_update: expected VBDs=[ {'; '.join(lost)} ] to be attached but they aren't!"
        raise refuse("INTERNAL_ERROR", told)


def tidy(pool: MockPool, xapi: Xapi, host: Row) -> None:
    """Let go of the packages that an earlier toolstack of `host` left attached; one that cannot be is left."""
    db = pool.store
    for update in db.table("pool_update").values() if "pool_update" in db.tables else ():
        vdi = db.find("VDI", update["vdi"])
        if vdi is not None:
            with suppress(Failure):
                _let_go(db, xapi, host, update, vdi)
