"""Licences of the pool: one edition for all hosts, and what all of them come to."""

from __future__ import annotations

from contextlib import suppress

from xenctl.errors import Failure

from .. import editions, licence
from ..call import Call, refuse
from ..licence import WRITES
from ..store import Row
from . import host_licence, verbs_of

verb = verbs_of("pool")


@verb(*WRITES)
def apply_edition(call: Call, ref: str, edition: str) -> str:
    """On every host or on none: where one fails, those before it get back what they had."""
    call.db.get("pool", ref)
    done: list[tuple[Row, str]] = []
    try:
        for host in list(call.db.table("host").values()):
            before = host["edition"]
            host_licence.apply_edition(call, host.ref, edition, False)
            done.append((host, before))
    except Failure:
        for host, before in reversed(done):
            with suppress(Failure):
                host_licence.apply_edition(call, host.ref, before, False)
        raise
    return ""


@verb()
def get_license_state(call: Call, ref: str) -> dict[str, str]:
    """The lowest edition of any host, and when the first licence for it ends."""
    call.db.get("pool", ref)
    ranks = {one.name: one.rank for one in editions.editions(call.machine.system.release)}
    rows = [host for host in call.db.table("host").values() if host["edition"] in ranks]
    if not rows:
        raise refuse("INTERNAL_ERROR", 'Failure("hd")')
    lowest = min((host["edition"] for host in rows), key=lambda name: ranks[name])
    ends = [licence.expiry(host) for host in rows if host["edition"] == lowest]
    last = min((end for end in ends if end is not None), default=None)
    return {"edition": lowest, "expiry": "never" if last is None else licence.stamp(last)}
