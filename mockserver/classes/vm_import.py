"""Virtual machines that a host fetches from a server by itself."""

from __future__ import annotations

import io

from .. import volumes
from ..call import Call, Steps, refuse
from ..handlers.base import Read
from ..handlers.importing import stream
from ..handlers.objects import Options
from ..handlers.running import CallBinding
from . import verbs_of

verb = verbs_of("VM")

MADE = (
    *("*", "VM_metrics.*", "VM_guest_metrics.*", "VBD.*", "VBD_metrics.*", "VIF.*", "VIF_metrics.*", "VDI.*"),
    *("network.*", "SR.*", "VGPU.*", "VTPM.*", "console.*", "blob.*"),
)
"""What taking in an archive may write."""


@verb(*MADE)
def import_(call: Call, url: str, sr: str, full_restore: bool, force: bool) -> Steps:
    """The VMs of the archive at `url`, which the machine room put there (`pool.hands.serve`), with disks on `sr`."""
    row = call.db.get("SR", sr)
    contact = volumes.serving(call, row)
    if url not in call.pool.files:
        raise refuse("IMPORT_ERROR", "404 Not Found")
    source = io.BytesIO(call.pool.files[url])
    options = Options(restore=full_restore, force=force, sr=row)
    steps = stream(call.pool, CallBinding(call), options, len(call.pool.files[url]))
    given: bytes | None = None
    try:
        while True:
            try:
                step = steps.send(given)
            except StopIteration as stop:
                return stop.value
            given = source.read(step.size) if isinstance(step, Read) else None
            if isinstance(step, float):
                yield step
                contact.check()
    finally:
        steps.close()
