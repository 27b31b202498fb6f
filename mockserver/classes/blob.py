"""Blobs: bytes of a client, kept beside an object; the bytes go over HTTP."""

from __future__ import annotations

from ..call import Call, refuse
from ..store import EPOCH, Row
from . import verbs_of
from .generic import make

verb = verbs_of("blob")

OWNERS = ("VM", "host", "SR", "network", "pool")
"""The classes whose objects have blobs."""


@verb("*")
def create(call: Call, mime_type: str, public: bool) -> str:
    return new(call, mime_type, public=public)


@verb("*", *(f"{owner}.blobs" for owner in OWNERS))
def destroy(call: Call, ref: str) -> str:
    """The blob, and what its owner knows of it."""
    row = call.db.get("blob", ref)
    for owner in OWNERS:
        for other in call.db.table(owner).values():
            if ref in other["blobs"].values():
                call.db.write(other, blobs={name: blob for name, blob in other["blobs"].items() if blob != ref})
    call.db.delete(row)
    return ""


def new(call: Call, mime_type: str, *, public: bool) -> str:
    """An empty blob."""
    fields = {"mime_type": mime_type or "application/octet-stream", "public": public, "last_updated": EPOCH}
    return make(call, "blob", fields).ref


def attach_new(call: Call, owner: Row, name: str, mime_type: str, *, public: bool) -> str:
    """An empty blob of `owner`, called `name`, which none of its blobs may be."""
    if name in owner["blobs"]:
        raise refuse("MAP_DUPLICATE_KEY", owner.table, "blobs", owner.ref, name)
    ref = new(call, mime_type, public=public)
    call.db.write(owner, blobs={name: ref, **owner["blobs"]})
    return ref
