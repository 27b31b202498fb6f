"""`/export_raw_vdi` and `/import_raw_vdi`: the bytes of one disk, as they are, as the pieces of an archive, or as a VHD.

The format qcow2 is refused as not implemented, whoever asks.
"""

from __future__ import annotations

from xenctl import xmlrpc
from xenctl.errors import Failure

from .. import paths, volumes
from ..call import refuse
from ..machine.disks import Disk
from ..store import Row
from . import vhd
from .archive import CHUNK, DISK, END, Archive, Meter, receive_disk, send_disk
from .base import Answer, Read, Request, Steps, plain
from .exporting import host_that_sees
from .running import Binding, begin, refuse_request

FORMATS = {"raw": "application/octet-stream", "tar": "application/x-tar", "vhd": "application/vhd"}
"""The content types of formats."""
LATER = ("qcow2",)
ZEROS = bytes(CHUNK)


def disk_named(request: Request) -> Row | None:
    """The disk that `vdi` names, by reference or uuid; None where the request names none."""
    store, name = request.pool.store, request.arguments.get("vdi")
    if name is None:
        return None
    found = store.find("VDI", name)
    if found is not None:
        return found
    known = store.by_uuid.get(name)
    if known is None or known[0] != "VDI":
        raise refuse("UUID_INVALID", "VDI", name)
    return store.get(*known)


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
        if "base" in request.arguments:
            raise refuse("NOT_IMPLEMENTED", "an export of differences")
    except Failure as error:
        return refuse_request(binding, error)
    name = f"{vdi['uuid']}.{kind}"
    head = {"content-type": FORMATS[kind], "content-disposition": f'attachment; filename="{name}"'}
    size, meter = int(vdi["virtual_size"]), Meter(binding, int(vdi["virtual_size"]))
    steps = {
        "raw": lambda: _send(binding, meter, disk, size),
        "tar": lambda: _send_tar(binding, meter, disk, size),
        "vhd": lambda: vhd.send(meter, disk, size, vdi["uuid"], request.pool.clock.now()),
    }[kind]()
    return begin(request, binding, steps, head)


def import_raw_vdi(request: Request) -> Answer:
    """Write what comes to a disk, from its first byte on."""
    vdi = disk_named(request)
    if vdi is None:
        return refuse_request(Binding(request, "VDI.import"), refuse("VDI_MISSING"), plain(400, "Bad Request"))
    other = host_that_sees(request, [vdi["SR"]])
    if other is not None:
        return request.elsewhere(other["address"])
    binding, kind = Binding(request, "Importing raw VDI"), _format(request)
    if kind not in FORMATS:
        return _unknown(binding, kind)
    if "transfer-encoding" in request.headers:
        error = refuse("INTERNAL_ERROR", f"Cannot handle encoding: {request.headers['transfer-encoding']}")
        return refuse_request(binding, error, plain(404, "Not Found"))
    try:
        if "chunked" in request.arguments:
            raise refuse("NOT_IMPLEMENTED", "a raw disk in chunks")
        disk = _attached(request, vdi, writing=True)
    except Failure as error:
        return refuse_request(binding, error)
    steps = {"raw": _receive, "tar": _receive_tar, "vhd": _receive_vhd}[kind](binding, vdi, disk, request.length)
    return begin(request, binding, steps, {"content-type": "application/octet-stream"})


def _format(request: Request) -> str:
    return request.arguments.get("format", "raw").lower()


def _unknown(binding: Binding, kind: str) -> Answer:
    if kind in LATER:
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


def _send(binding: Binding, meter: Meter, disk: Disk, size: int) -> Steps:
    """A disk's bytes. Only pieces with something in them take simulated time: the rest is holes."""
    used = set(disk.used(CHUNK))
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
