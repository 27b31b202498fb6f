"""Crash dumps of guests: a row, and a disk with the dump."""

from __future__ import annotations

from .. import volumes
from ..call import Call, Steps
from . import verbs_of
from .vdi import destroy as destroy_disk

verb = verbs_of("crashdump")


@verb("*", *volumes.GONE, *volumes.MARKS)
def destroy(call: Call, ref: str) -> Steps:
    """With its disk; where that cannot be destroyed the row goes all the same."""
    row = call.db.get("crashdump", ref)
    vdi = row["VDI"]
    try:
        if call.db.find("VDI", vdi) is not None:
            yield from destroy_disk(call, vdi)
    finally:
        if call.db.find("crashdump", ref) is row:
            call.db.delete(row)
    return ""
