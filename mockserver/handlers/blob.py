"""`/blob`: data of clients, kept with objects of the pool."""

from __future__ import annotations

from ..call import refuse
from ..hosts import NO_STORAGE
from ..store import Row
from .archive import CHUNK
from .base import Answer, Read, Request, Steps, page, plain
from .running import Binding, begin


def named(request: Request) -> Row | None:
    """The blob that `ref` or `uuid` names."""
    store, given = request.pool.store, request.arguments
    if "ref" in given:
        return store.find("blob", given["ref"])
    found = store.by_uuid.get(given.get("uuid", ""))
    return store.get(*found) if found and found[0] == "blob" else None


def public(request: Request) -> bool:
    """Whether anybody may read it."""
    blob = named(request)
    return blob is not None and bool(blob.get("public"))


def _found(request: Request) -> Row | Answer:
    """The blob that a request is about, or the answer to one that is about none."""
    if not {"ref", "uuid"} & set(request.arguments):
        return plain(400, "Bad Request")
    blob = named(request)
    host = request.pool.host_row(request.machine)
    stored = host is None or NO_STORAGE not in host["other_config"]
    if blob is not None and stored:
        return blob
    missing = "Unknown reference" if blob is None else "Local storage missing"
    return page(404, missing, close=True, reason="Not Found")


def get_blob(request: Request) -> Answer:
    """What a blob holds."""
    blob = _found(request)
    if isinstance(blob, Answer):
        return blob
    data = request.pool.blobs.get(blob["uuid"])
    if data is None:
        return plain(404, "Not Found")
    return Answer(200, data, {"content-type": blob["mime_type"], "content-length": str(len(data))}, close=True)


def put_blob(request: Request) -> Answer:
    """Put what comes in the place of what a blob holds."""
    blob = _found(request)
    if isinstance(blob, Answer):
        return blob
    if request.length is None:
        raise refuse("INTERNAL_ERROR", 'Failure("Need content length")')
    binding = Binding(request, "Blob handler")
    return begin(request, binding, _receive(request, blob, request.length), {"access-control-allow-origin": "*"})


def _receive(request: Request, blob: Row, length: int) -> Steps:
    held = bytearray()
    while len(held) < length:
        data = yield Read(min(CHUNK, length - len(held)))
        if not data:
            break
        held += data
    request.pool.blobs[blob["uuid"]] = bytes(held)
    request.pool.store.write(blob, size=len(held), last_updated=request.pool.clock.stamp())
