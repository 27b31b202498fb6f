"""`/export_raw_vdi` and `/import_raw_vdi`: the bytes of one disk, as they are, as the pieces of an archive, or as a VHD.

A disk as it is may come in chunks, each of which says where it belongs. With a `base` what is the same there is left out.
Releases that know the format qcow2 refuse it as not implemented.
"""

from __future__ import annotations

import struct
from collections.abc import Container

from xenctl import xmlrpc
from xenctl.errors import Failure

from .. import paths, rules, volumes
from ..call import refuse
from ..machine.disks import Disk
from ..storage_drivers import keeps_vhds
from ..store import Row
from . import vhd
from .archive import CHUNK, DISK, END, Archive, Meter, receive_disk, send_disk
from .base import Answer, Read, Request, Steps, plain
from .exporting import host_that_sees
from .importing import storage_of
from .running import Binding, begin, part, refuse_request

FORMATS = {"raw": "application/octet-stream", "tar": "application/x-tar", "vhd": "application/vhd"}
"""The content types of formats."""
LATER = ("qcow2",)
"""The formats that came after XenServer 8."""
ZEROS = bytes(CHUNK)
PLACED = struct.Struct("<QI")
"""The head of a chunk: where it belongs, and its bytes. Zeros say that none follows."""


def disk_named(request: Request) -> Row | None:
    """The disk that `vdi` names, by reference or uuid; None where the request names none."""
    name = request.arguments.get("vdi")
    if name is None:
        return None
    return _known(request, name)


def _known(request: Request, name: str) -> Row:
    store = request.pool.store
    return store.find("VDI", name) or store.identified("VDI", name)


def export_raw_vdi(request: Request) -> Answer:
    """What is on a disk, from its first byte to its last; a host that does not see it names one that does."""
    vdi = disk_named(request)
    if vdi is None:
        raise refuse("INTERNAL_ERROR", 'Failure("Missing vdi query parameter")')
    other = host_that_sees(request, [vdi["SR"]])
    if other is not None:
        return request.elsewhere(other["address"])
    binding, kind = Binding(request, "Exporting raw VDI"), _format(request)
    if kind not in FORMATS:
        return _unknown(binding, kind)
    try:
        disk = _attached(request, vdi, writing=False)
        base = _base(request, vdi) if kind != "tar" else None
    except Failure as error:
        return refuse_request(binding, error)
    name = f"{vdi['uuid']}.{kind}"
    head = {"content-type": FORMATS[kind], "content-disposition": f'attachment; filename="{name}"'}
    size, meter = int(vdi["virtual_size"]), Meter(binding, int(vdi["virtual_size"]))
    steps = {
        "raw": lambda: _send(meter, disk, size, base),
        "tar": lambda: _send_tar(binding, meter, disk, size),
        "vhd": lambda: vhd.send(meter, disk, size, vdi["uuid"], request.pool.clock.now(), base),
    }[kind]()
    return begin(request, binding, steps, head)


def _base(request: Request, vdi: Row) -> vhd.Base | None:
    """The disk that `base` names, which only disks that are kept as VHDs can be compared with."""
    store = request.pool.store
    if "base" not in request.arguments:
        return None
    row = _known(request, request.arguments["base"])
    if not all(keeps_vhds(store.get("SR", disk["SR"])["type"]) for disk in (vdi, row)):
        raise refuse("INTERNAL_ERROR", 'Failure("Cannot compute differences on non-VHD images")')
    return vhd.Base(row["uuid"], _attached(request, row, writing=False))


def import_raw_vdi(request: Request) -> Answer:
    """Write what comes to a disk, from its first byte on."""
    vdi = disk_named(request)
    if vdi is None:
        return _import_new(request)
    other = host_that_sees(request, [vdi["SR"]])
    if other is not None:
        return request.elsewhere(other["address"])
    binding, kind = Binding(request, "Importing raw VDI"), _format(request)
    if kind not in FORMATS:
        return _unknown(binding, kind)
    chunked = "chunked" in request.arguments
    if chunked and kind != "raw":
        return refuse_request(binding, refuse("INTERNAL_ERROR", "Cannot handle chunked VHD"), plain(404, "Not Found"))
    if "transfer-encoding" in request.headers:
        error = refuse("INTERNAL_ERROR", f"Cannot handle encoding: {request.headers['transfer-encoding']}")
        return refuse_request(binding, error, plain(404, "Not Found"))
    try:
        disk = _attached(request, vdi, writing=True)
    except Failure as error:
        return refuse_request(binding, error)
    steps = {"raw": _receive_chunks if chunked else _receive, "tar": _receive_tar, "vhd": _receive_vhd}[kind](
        binding, vdi, disk, request.length
    )
    return begin(request, binding, steps, {"content-type": "application/octet-stream"})


def _import_new(request: Request) -> Answer:
    """Write what comes to a new disk in the storage that the request names, since 7.1."""
    new = request.pool.store.release.order >= rules.ELY
    sr = storage_of(request) if new else None
    if sr is None:
        return refuse_request(Binding(request, "VDI.import"), refuse("VDI_MISSING"), plain(400, "Bad Request"))
    other = host_that_sees(request, [sr.ref])
    if other is not None:
        return request.elsewhere(other["address"])
    binding = Binding(request, "Importing raw VDI")
    if _format(request) != "raw" or request.length is None:
        error = refuse("INTERNAL_ERROR", "Not enough info supplied to import")
        return refuse_request(binding, error, plain(400, "Bad Request"))
    return begin(request, binding, receive_new(request, binding, sr), {"content-type": "application/octet-stream"})


def receive_new(request: Request, binding: Binding, sr: Row) -> Steps:
    """Make a disk for what comes, write it there, and return its reference."""
    args = {"name_label": "Imported VDI", "SR": sr.ref, "virtual_size": request.length, "type": "user"}
    more = {"sharable": False, "read_only": False, "other_config": {}}
    ref = yield from part(binding, "VDI.create", {**args, **more})
    vdi = request.pool.store.get("VDI", ref)
    yield from _receive(binding, vdi, _attached(request, vdi, writing=True), request.length)
    return ref


def _format(request: Request) -> str:
    return request.arguments.get("format", "raw").lower()


def _unknown(binding: Binding, kind: str) -> Answer:
    if kind in LATER and binding.db.release.order > rules.NILE:
        return refuse_request(binding, refuse("NOT_IMPLEMENTED", f"a disk as {kind}"))
    return refuse_request(binding, refuse("INTERNAL_ERROR", f"Unknown format {kind}"), plain(404, "Not Found"))


def _attached(request: Request, vdi: Row, *, writing: bool) -> Disk:
    """The content of a disk that the control domain may open: nobody writes to it, nor reads what is to be written."""
    store = request.pool.store
    for vbd in (store.find("VBD", ref) for ref in vdi["VBDs"]):
        if vbd is not None and vbd["currently_attached"] and (writing or vbd["mode"] == "RW"):
            raise refuse("VDI_IN_USE", vdi.ref, "attach")
    if writing and vdi["read_only"]:
        raise refuse("VDI_READONLY", vdi.ref)
    paths.assert_reached(request.machine, store.get("SR", vdi["SR"])["uuid"], vdi["uuid"])
    disk = volumes.current(request.pool, vdi)
    if disk is None:
        raise refuse("VDI_IO_ERROR", "Device I/O errors")
    return disk


def _send(meter: Meter, disk: Disk, size: int, base: vhd.Base | None) -> Steps:
    """A disk's bytes. Only pieces with something in them take simulated time: the rest is holes, as is what a base has, by
    the blocks of VHDs."""
    used: Container[int] = set(disk.used(CHUNK))
    if base is not None:
        pieces = vhd.BLOCK // CHUNK
        changed = vhd.changed(disk, base.disk)
        used = {block * pieces + piece for block in changed for piece in range(pieces)}
    for number in range(-(-size // CHUNK)):
        width = min(CHUNK, size - number * CHUNK)
        if number in used:
            yield disk.read(number * CHUNK, width)
            yield meter.at(number * CHUNK)
        else:
            yield ZEROS if width == CHUNK else bytes(width)


def _send_tar(binding: Binding, meter: Meter, disk: Disk, size: int) -> Steps:
    yield from send_disk(binding, meter, DISK, disk, size, {})
    yield END


def _receive(binding: Binding, vdi: Row, disk: Disk, length: int | None) -> Steps:
    offset, size = 0, int(vdi["virtual_size"])
    meter = Meter(binding, size)
    while length is None or offset < length:
        data = yield Read(CHUNK if length is None else min(CHUNK, length - offset))
        if not data:
            break
        if offset + len(data) > size:
            raise refuse("VDI_IO_ERROR", "Device I/O errors")
        disk.write(offset, data)
        offset += len(data)
        if data != ZEROS[: len(data)]:
            yield meter.at(offset)
    if length is not None and offset < length:
        raise refuse("VDI_IO_ERROR", "Device I/O errors")
    binding.show(result=xmlrpc.encode(vdi.ref))


def _receive_chunks(binding: Binding, vdi: Row, disk: Disk, length: int | None) -> Steps:
    """Write each chunk to its place; what lies between them stays as it was."""
    archive, size = Archive(length, packings=()), int(vdi["virtual_size"])
    meter = Meter(binding, size)
    try:
        while True:
            offset, width = PLACED.unpack((yield from archive.take(PLACED.size)))
            if (offset, width) == (0, 0):
                break
            if offset + width > size:
                raise refuse("VDI_IO_ERROR", "Device I/O errors")
            end = offset + width
            while offset < end:
                data = yield from archive.take(min(CHUNK, end - offset))
                disk.write(offset, data)
                offset += len(data)
                yield meter.at(offset)
    except EOFError:
        raise refuse("VDI_IO_ERROR", "Device I/O errors") from None
    binding.show(result=xmlrpc.encode(vdi.ref))
    yield from archive.drain()


def _receive_tar(binding: Binding, vdi: Row, disk: Disk, length: int | None) -> Steps:
    archive, size = Archive(length), int(vdi["virtual_size"])
    disk.blocks.clear()
    try:
        yield from receive_disk(archive, Meter(binding, size), DISK, disk, size, {}, force=False, inline=True)
    except EOFError:
        raise refuse("VDI_IO_ERROR", "Device I/O errors") from None
    binding.show(result=xmlrpc.encode(vdi.ref))
    yield from archive.drain()


def _receive_vhd(binding: Binding, vdi: Row, disk: Disk, length: int | None) -> Steps:
    size = int(vdi["virtual_size"])
    yield from vhd.receive(Meter(binding, size), disk, size, length)
    binding.show(result=xmlrpc.encode(vdi.ref))
