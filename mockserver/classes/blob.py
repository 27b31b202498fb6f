"""Binary objects: their rows. What is in them goes over HTTP."""

from __future__ import annotations

from ..call import Call, refuse
from ..store import EPOCH, Row
from . import verbs_of

verb = verbs_of("blob")

PLAIN = "application/octet-stream"


def make_blob(call: Call, mime_type: str, public: bool) -> str:
    """An empty blob; returns its reference."""
    fields = {
        "uuid": call.pool.new_uuid(),
        "mime_type": mime_type or PLAIN,
        "public": public,
        "size": 0,
        "last_updated": EPOCH,
    }
    return call.db.create("blob", call.pool.new_ref(), fields).ref


@verb("*")
def create(call: Call, mime_type: str, public: bool) -> str:
    return make_blob(call, mime_type, public)


@verb("*", "VM.blobs")
def destroy(call: Call, ref: str) -> str:
    """The blob, and its name in a VM that holds it; whatever else does goes on to name it."""
    row = call.db.get("blob", ref)
    for holder in call.db.table("VM").values():
        blobs = holder.get("blobs", {})
        if ref in blobs.values():
            call.db.write(holder, blobs={name: blob for name, blob in blobs.items() if blob != ref})
    call.db.delete(row)
    return ""


def attach_new(call: Call, holder: Row, name: str, mime_type: str, *, public: bool) -> str:
    """An empty blob of `holder`, called `name`, as none of its blobs may be; returns its reference."""
    if name in holder["blobs"]:
        raise refuse("MAP_DUPLICATE_KEY", holder.table, "blobs", holder.ref, name)
    ref = make_blob(call, mime_type, public)
    call.db.write(holder, blobs={name: ref, **holder["blobs"]})
    return ref
