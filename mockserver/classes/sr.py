"""Storage repositories."""

from __future__ import annotations

from ..call import Call, refuse
from . import verbs_of

verb = verbs_of("SR")


@verb("*", "PBD.*", "VDI.*")
def forget(call: Call, ref: str) -> str:
    row = call.db.get("SR", ref)
    pbds = [call.db.get("PBD", pbd) for pbd in row["PBDs"]]
    if any(pbd["currently_attached"] for pbd in pbds):
        raise refuse("SR_HAS_PBD", ref)
    for child in [*pbds, *(call.db.get("VDI", vdi) for vdi in row["VDIs"])]:
        call.db.delete(child)
    call.db.delete(row)
    return ""
