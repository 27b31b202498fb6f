"""What a host's HTTP port answers besides calls: one module for each kind of handler, and the table of them.

base.py        requests, answers, pages, who may ask
running.py     the task that a handler is bound to; what drives its steps
database.py    /pool/xmldbdump            host.py      /host_backup, /host_restore
exporting.py   /export, /export_metadata  importing.py /import, /import_metadata
raw.py, vhd.py /export_raw_vdi, /import_raw_vdi        patch.py, blob.py, updates.py
rrd.py         /rrd_updates               rrd_whole.py /host_rrd, /vm_rrd, /sr_rrd; rrd_format.py: how both are written
archive.py     archives, sent and received; checksums.py, zstd.py; records.py, objects.py: what their ova.xml says
"""

from __future__ import annotations

from xenctl.errors import Failure
from xenctl.releases import Release
from xenctl.releases import find as find_release

from . import blob, database, exporting, host, importing, patch, raw, rrd, rrd_whole, updates
from .base import Answer, Handler, Request, failed, page, refused

HANDLERS: dict[tuple[str, str], Handler] = {
    ("GET", "/pool/xmldbdump"): Handler("get_pool_xml_db_sync", database.dump, master_only=True),
    ("PUT", "/pool/xmldbdump"): Handler("put_pool_xml_db_sync", database.restore, master_only=True),
    ("GET", "/export"): Handler("get_export", exporting.export),
    ("GET", "/export_metadata"): Handler("get_export_metadata", exporting.export_metadata),
    ("PUT", "/import"): Handler("put_import", importing.import_),
    ("PUT", "/import_metadata"): Handler("put_import_metadata", importing.import_metadata),
    ("GET", "/export_raw_vdi"): Handler("get_export_raw_vdi", raw.export_raw_vdi, since="6.5.0"),
    ("PUT", "/import_raw_vdi"): Handler("put_import_raw_vdi", raw.import_raw_vdi),
    ("GET", "/host_backup"): Handler("get_host_backup", host.host_backup),
    ("PUT", "/host_restore"): Handler("put_host_restore", host.host_restore),
    ("PUT", "/pool_patch_upload"): Handler("put_pool_patch_upload", patch.pool_patch_upload, since="4.1.0"),
    ("GET", "/rrd_updates"): Handler("rrd_updates", rrd.rrd_updates),
    ("GET", "/host_rrd"): Handler("host_rrd", rrd_whole.host_rrd, since="5.0.0"),
    ("GET", "/vm_rrd"): Handler("vm_rrd", rrd_whole.vm_rrd, since="5.0.0"),
    ("GET", "/sr_rrd"): Handler("sr_rrd", rrd_whole.sr_rrd, since="7.0.0"),
    ("GET", "/blob"): Handler("get_blob", blob.get_blob, since="5.0.0", public=blob.public),
    ("PUT", "/blob"): Handler("put_blob", blob.put_blob, since="5.0.0"),
    ("GET", "/updates"): Handler("get_updates", updates.get_updates, since="8.4.0", master_only=True),
}
"""What answers a method on a path that begins so; of several the longest."""

_LONGEST_FIRST = sorted(HANDLERS, key=lambda place: -len(place[1]))


def find(release: Release, method: str, path: str) -> Handler | None:
    """The handler for a request to a host of `release`."""
    for place in _LONGEST_FIRST:
        if place[0] == method and path.startswith(place[1]) and release >= find_release(HANDLERS[place].since):
            return HANDLERS[place]
    return None


def respond(handler: Handler, request: Request) -> Answer:
    """What a handler answers; one that fails before its first word answers with a page."""
    request.pool.freshen()
    try:
        return refused(request, handler) or handler.answer(request)
    except Failure as error:
        return failed(error)
    finally:
        request.pool.settle(request.path)


__all__ = ["HANDLERS", "Answer", "Request", "find", "page", "respond"]
