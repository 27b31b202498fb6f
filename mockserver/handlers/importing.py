"""`/import` and `/import_metadata`: archives as virtual machines.

The objects of an archive are taken in class by class, each looked up in the pool or made, and entered in a table from
their ids to references of this pool. What was made is undone if the import fails, unless it is forced.
"""

from __future__ import annotations

from collections.abc import Generator
from typing import TYPE_CHECKING, Any

from xenctl import xmlrpc
from xenctl.releases import find

from .. import rules
from ..call import Wait, refuse
from ..software import software_version
from ..store import Row
from .archive import CHECKSUMS, GZIP, METADATA, ZSTD, Archive, Meter, receive_disk
from .base import Answer, Read, Request, Steps, plain
from .exporting import NAMED_SINCE, host_that_sees
from .objects import Objects, Options
from .running import Binding, begin, refuse_request

if TYPE_CHECKING:
    from ..pool import MockPool

REFUSED_WHILE_MIXED = find("7.3.0").order
"""The release from which on nothing is imported while versions are mixed."""
TYPE = {"content-type": "application/octet-stream"}


def import_(request: Request) -> Answer:
    """Virtual machines with their disks, into one storage repository. On a host without a connection to that, the client
    is sent to one that has one."""
    pool, store = request.pool, request.pool.store
    sr = storage_of(request)
    if sr is None:
        default = store.pool()["default_SR"]
        sr = store.find("SR", default)
        if sr is None:
            raise refuse("DEFAULT_SR_NOT_FOUND", default)
    other = host_that_sees(request, [sr.ref])
    if other is not None:
        return request.elsewhere(other["address"])
    binding = Binding(request, "VM.import")
    binding.show(progress=0.0)
    if store.release.order >= REFUSED_WHILE_MIXED and rules.upgrading(store):
        return refuse_request(binding, refuse("NOT_SUPPORTED_DURING_UPGRADE"), plain(400, "Bad Request"))
    if sr["content_type"] == "iso":
        return refuse_request(binding, refuse("SR_OPERATION_NOT_SUPPORTED", sr.ref), plain(400, "Bad Request"))
    if "transfer-encoding" in request.headers:
        return refuse_request(binding, refuse("IMPORT_ERROR_CANNOT_HANDLE_CHUNKED"), plain(403, "Forbidden"))
    options = Options(restore=request.flag("restore"), force=request.flag("force"), sr=sr)
    return begin(request, binding, _import(pool, binding, options, request.length), TYPE)


def import_metadata(request: Request) -> Answer:
    """Virtual machines whose disks are here already."""
    options = Options(
        restore=request.flag("restore"),
        force=request.flag("force"),
        dry_run=request.flag("dry_run"),
        live=request.flag("live"),
        vdi_map={name[4:]: value for name, value in request.arguments.items() if name.startswith("vdi:") and name[4:]},
    )
    binding = Binding(request, "VM.metadata_import")
    return begin(request, binding, _import(request.pool, binding, options, request.length), TYPE)


def storage_of(request: Request) -> Row | None:
    """The storage repository that `sr_id` or `sr_uuid` names."""
    store, given = request.pool.store, request.arguments
    if "sr_id" in given:
        return store.get("SR", given["sr_id"])
    return store.identified("SR", given["sr_uuid"]) if "sr_uuid" in given else None


def _import(pool: MockPool, binding: Binding, options: Options, length: int | None) -> Steps:
    vms = yield from stream(pool, binding, options, length)
    binding.show(result=xmlrpc.encode(vms))


def stream(
    pool: MockPool, binding: Binding, options: Options, length: int | None
) -> Generator[bytes | Read | float | Wait, Any, list[str]]:
    """Take in an archive of `length` bytes as it comes; the references of its virtual machines."""
    named = pool.store.release.order >= NAMED_SINCE
    archive = Archive(length, packings=(GZIP, ZSTD) if named else (GZIP,))
    try:
        objects = yield from _metadata(pool, binding, options, archive)
        try:
            objects.take_in()
            if options.sr is not None:
                yield from _disks(binding, objects, archive)
        except BaseException:
            if binding.stopped:
                objects.let_go()
            elif not options.force:
                objects.undo()
            raise
    except EOFError:
        raise refuse("IMPORT_ERROR_PREMATURE_EOF") from None
    vms = objects.complete()
    yield from archive.drain()
    return vms


def _metadata(pool: MockPool, binding: Binding, options: Options, archive: Archive) -> Generator[Any, Any, Objects]:
    name, data = yield from archive.file()
    if name != METADATA:
        raise refuse("IMPORT_ERROR_UNEXPECTED_FILE", METADATA, name)
    try:
        header = xmlrpc.loads_value(data)
        version, found = header["version"], header["objects"]
        theirs = int(version["xapi_major"]), int(version["xapi_minor"])
        objects = Objects(pool, binding, options, found, int(version.get("export_vsn", 0)))
    except (ValueError, KeyError, TypeError) as error:
        raise refuse("IMPORT_ERROR", f"{METADATA} cannot be read: {error}") from None
    major, _, minor = software_version(pool.store.release)["xapi"].partition(".")
    if theirs > (int(major), int(minor)):
        raise refuse("IMPORT_INCOMPATIBLE_VERSION")
    return objects


def _disks(binding: Binding, objects: Objects, archive: Archive) -> Steps:
    disks = objects.disks()
    meter = Meter(binding, sum(size for _, _, size in disks))
    sums: dict[str, str] = {}
    inline, force = objects.version > 0, objects.options.force
    for folder, content, size in disks:
        yield from receive_disk(archive, meter, folder, content, size, sums, force=force, inline=inline)
    if objects.version < 2 and not (yield from _as_listed(archive, sums)) and not force:
        raise refuse("IMPORT_ERROR_SOME_CHECKSUMS_FAILED")


def _as_listed(archive: Archive, sums: dict[str, str]) -> Generator[Any, Any, bool]:
    """Whether the table of checksums behind the disks says what was computed."""
    name, data = yield from archive.file()
    if name != CHECKSUMS:
        raise refuse("IMPORT_ERROR_UNEXPECTED_FILE", CHECKSUMS, name)
    listed: dict[str, str] = xmlrpc.loads_value(data)
    return all(listed.get(file, text) == text for file, text in sums.items())
