"""Crash dumps of guests: a row, and a disk with the dump."""

from __future__ import annotations

from contextlib import suppress

from xenctl.errors import Failure

from .. import volumes
from ..call import Call, Steps
from . import verbs_of
from .vdi import destroy as destroy_disk

verb = verbs_of("crashdump")


@verb("*", *volumes.GONE, *volumes.MARKS)
def destroy(call: Call, ref: str) -> Steps:
    """With its disk; where that cannot be destroyed the row goes all the same, and nobody is told."""
    row = call.db.get("crashdump", ref)
    with suppress(Failure):
        yield from destroy_disk(call, row["VDI"])
    call.db.delete(row)
    return ""
