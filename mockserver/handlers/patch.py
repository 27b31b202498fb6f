"""`/pool_patch_upload`: an update becomes a `pool_patch`, whose reference is the task's result, bare of any XML. Since 7.1
it goes onto a disk and is introduced as a `pool_update`, beside which the patch stands.

A patch says what it is in an XML element `<patch .../>` in its first 64 KiB: `uuid` and `name-label` must be there,
`name-description`, `version` and `after-apply-guidance` may. Only its size and digest are kept of the rest.
"""

from __future__ import annotations

import hashlib
import re
from uuid import UUID

from xenctl.errors import Failure

from .. import rules
from ..call import refuse
from ..store import Row, Store
from .archive import CHUNK
from .base import Answer, Read, Request, Steps
from .importing import storage_of
from .raw import receive_new
from .running import Binding, begin, part, refuse_request

LOOKED_AT = 1 << 16
_ELEMENT = re.compile(rb"<patch\s[^<>]*>")
_ATTRIBUTE = re.compile(rb"""([\w-]+)=["']([^"']*)["']""")


def pool_patch_upload(request: Request) -> Answer:
    """Take in a patch for the pool."""
    if request.machine.xapi.mode != "master":
        raise refuse("INTERNAL_ERROR", "Xapi_pool_patch.CannotUploadPatchToSlave")
    if request.pool.store.release.order < rules.ELY:
        binding = Binding(request, "Uploading host patch")
        return begin(request, binding, _upload(request, binding))
    binding, sr = Binding(request, "Uploading update"), storage_of(request)
    if request.length is None:
        return refuse_request(binding, refuse("INTERNAL_ERROR", "Not enough info supplied to import"))
    if sr is None:
        sr = request.pool.store.get("SR", request.pool.store.pool()["default_SR"])
    return begin(request, binding, _upload_update(request, binding, sr))


def _upload_update(request: Request, binding: Binding, sr: Row) -> Steps:
    """Put an update on a disk in `sr`; one that is none, or is known, goes again."""
    vdi = yield from receive_new(request, binding, sr)
    try:
        update = yield from part(binding, "pool_update.introduce", vdi)
    except Failure:
        yield from part(binding, "VDI.destroy", vdi)
        raise
    patches = request.pool.store.table("pool_patch").values()
    binding.show(result=next(patch.ref for patch in patches if patch["pool_update"] == update))


def _upload(request: Request, binding: Binding) -> Steps:
    pool, head, size, digest = request.pool, b"", 0, hashlib.md5(usedforsecurity=False)
    while request.length is None or size < request.length:
        data = yield Read(CHUNK if request.length is None else min(CHUNK, request.length - size))
        if not data:
            break
        size += len(data)
        digest.update(data)
        head += data[: LOOKED_AT - len(head)]
    info = _info(head)
    if request.length is not None and size < request.length:
        raise refuse("INVALID_PATCH")
    filename, known = f"/var/patch/{digest.hexdigest()}", pool.store.by_uuid.get(info["uuid"])
    if known is not None:
        binding.show(result=_again(pool.store.get(*known), pool.store, filename, size))
        return
    guidance = [name for name in info.get("after-apply-guidance", "").split(",") if name]
    fields = {
        "uuid": info["uuid"],
        "name_label": info["name-label"],
        "name_description": info.get("name-description", ""),
        "version": info.get("version", "1.0"),
        "filename": filename,
        "size": size,
        "pool_applied": False,
        "after_apply_guidance": guidance,
    }
    row = pool.store.create("pool_patch", pool.new_ref(), fields)
    binding.show(result=row.ref)


def _again(known: Row, store: Store, filename: str, size: int) -> str:
    """The reference of a patch that is known, which gets its file back where that was cleaned away."""
    if known.table != "pool_patch" or known["filename"]:
        raise refuse("PATCH_ALREADY_EXISTS", known["uuid"])
    store.write(known, filename=filename, size=size)
    return known.ref


def _info(head: bytes) -> dict[str, str]:
    """What a patch says it is. Raises `INVALID_PATCH`."""
    found = _ELEMENT.search(head)
    info = {
        key.decode(): value.decode("utf-8", "replace") for key, value in _ATTRIBUTE.findall(found[0] if found else b"")
    }
    try:
        UUID(info["uuid"])
    except (KeyError, ValueError):
        raise refuse("INVALID_PATCH") from None
    if not info.get("name-label"):
        raise refuse("INVALID_PATCH")
    return info
