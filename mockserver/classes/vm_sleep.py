"""Guests put to sleep by their own operating system: XenAPI shows them running, and they do nothing."""

from __future__ import annotations

from .. import hosts, power
from ..call import Call, refuse
from ..machine.disks import Domain
from ..store import Row
from . import verbs_of

verb = verbs_of("VM")


def _domain(call: Call, vm: Row) -> Domain:
    """The domain of a VM. Raises what xapi says of a VM that has none."""
    if call.db.find("host", vm["resident_on"]) is not None:
        power.contact(call, vm)
    found = call.pool.domain(vm)
    if found is None:
        text = f"Object with type domain and id {vm['uuid']} does not exist in xenopsd"
        raise refuse("INTERNAL_ERROR", text)
    return found[1]


@verb("machine.asleep")
def s3_suspend(call: Call, vm: str) -> str:
    """A guest without an agent does not hear of it, and nobody is told."""
    row = call.db.get("VM", vm)
    domain = _domain(call, row)
    if domain.guest.agent is not None and domain.running:
        domain.fall_asleep(call.clock.now())
        _note(call, row, asleep=True)
    return ""


@verb("machine.asleep")
def s3_resume(call: Call, vm: str) -> str:
    row = call.db.get("VM", vm)
    domain = _domain(call, row)
    if domain.asleep:
        domain.wake_up(call.clock.now())
        _note(call, row, asleep=False)
    return ""


def _note(call: Call, vm: Row, *, asleep: bool) -> None:
    found = call.pool.domain(vm)
    assert found is not None
    hosts.note(call, found[0], "asleep", {vm["uuid"]: not asleep}, {vm["uuid"]: asleep})
