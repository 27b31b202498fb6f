"""Uploads and downloads: what goes through a host's HTTP handlers instead of its calls.

Several handlers answer 200 before they have done anything, so each transfer runs under a task of its own: it is made first,
named in the request, looked at afterwards, and dropped. What went wrong is raised as the task's `Failure`.

Nothing is held whole. A download to a path is written beside it, readable by its owner alone, and moved into place once the
server says that it sent everything and the bytes end as they should; until then the path is as it was. An upload has a
length, since xapi takes no body without one.

`on_progress` is called with the bytes that are through and those that there are in all (None where nobody knows). What it
raises ends the transfer: the task is cancelled, nothing is left behind, and the same error comes out.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Literal

from ..values import Ref, to_any, to_string, to_strings
from .bound import Handler, default_sr, download, upload
from .files import ArchiveCheck, DumpCheck, OnProgress, Readable, SizeCheck, Source, Target, Writable

if TYPE_CHECKING:
    from ..api import types as t
    from ..session import Session

DUMP, RESTORE = Handler("GET", "/pool/xmldbdump"), Handler("PUT", "/pool/xmldbdump")
EXPORT, IMPORT = Handler("GET", "/export"), Handler("PUT", "/import")
EXPORT_METADATA, IMPORT_METADATA = Handler("GET", "/export_metadata"), Handler("PUT", "/import_metadata")
EXPORT_RAW, IMPORT_RAW = Handler("GET", "/export_raw_vdi", "6.5.0"), Handler("PUT", "/import_raw_vdi")
BACKUP, HOST_RESTORE = Handler("GET", "/host_backup"), Handler("PUT", "/host_restore")
PATCH = Handler("PUT", "/pool_patch_upload", "4.1.0")


# --- the database


def dump_database(
    session: Session, target: Target, *, on_progress: OnProgress | None = None, timeout: float | None = None
) -> int:
    """Download the pool database; the number of its bytes.

    Raises `DatabaseError` for the empty document that a pool of mixed versions sends instead, and for one that is cut off.
    The dump holds the pool's secrets.
    """
    return download(session, DUMP, {}, target, on_progress, timeout, check=DumpCheck())


def restore_database(
    session: Session,
    source: Source,
    *,
    dry_run: bool = False,
    length: int | None = None,
    on_progress: OnProgress | None = None,
    timeout: float | None = None,
) -> None:
    """Put a dump in the place of the pool's database; `dry_run` only asks whether it could be.

    The host that is spoken to restarts some 30 s later, as the master of a pool of which it is the only host: the others
    have to join it again. Raises `RESTORE_INCOMPATIBLE_VERSION`, `RESTORE_TARGET_MISSING_DEVICE` or
    `RESTORE_TARGET_MGMT_IF_NOT_IN_BACKUP` where the dump does not fit the host.
    """
    query = {"dry_run": "true"} if dry_run else {}
    upload(session, RESTORE, query, source, length, on_progress, timeout, to_any)


# --- virtual machines


def export_vm(
    session: Session,
    vm: Ref[t.VM],
    target: Target,
    *,
    use_compression: Literal["gzip", "zstd"] | bool = False,
    preserve_power_state: bool = False,
    on_progress: OnProgress | None = None,
    timeout: float | None = None,
) -> int:
    """Download a virtual machine with its disks as an archive (XVA); the number of its bytes.

    It must be halted, or suspended, whose memory `preserve_power_state` takes along. `use_compression` True means gzip.
    Raises `VM_BAD_POWER_STATE` for one that runs.
    """
    query = {"ref": str(vm)}
    if use_compression:
        query["use_compression"] = "true" if use_compression is True else use_compression
    if preserve_power_state:
        query["preserve_power_state"] = "true"
    check = None if use_compression else ArchiveCheck()
    return download(session, EXPORT, query, target, on_progress, timeout, check=check)


def import_vm(
    session: Session,
    source: Source,
    *,
    sr: Ref[t.SR] | None = None,
    restore: bool = False,
    force: bool = False,
    length: int | None = None,
    on_progress: OnProgress | None = None,
    timeout: float | None = None,
) -> list[Ref[t.VM]]:
    """Upload an archive; the virtual machines that it became.

    The disks are made in `sr`, else in the pool's default one. `restore` keeps uuids and MACs, and replaces a halted
    machine of the same uuid; `force` passes over wrong checksums. Raises `IMPORT_ERROR` and its siblings.
    """
    query = _flags(restore=restore, force=force)
    if sr is not None:
        query["sr_id"] = str(sr)
    place = sr if sr is not None else default_sr(session)
    return upload(session, IMPORT, query, source, length, on_progress, timeout, _to_vms, place)


def export_metadata(
    session: Session,
    vm: Ref[t.VM] | None,
    target: Target,
    *,
    export_snapshots: bool = True,
    include_dom0: bool = True,
    include_vhd_parents: bool = False,
    on_progress: OnProgress | None = None,
    timeout: float | None = None,
) -> int:
    """Download the records of a virtual machine, or of all where `vm` is None, without disks; the number of bytes."""
    query = {"all": "true"} if vm is None else {"ref": str(vm)}
    if vm is None and not include_dom0:
        query["include_dom0"] = "false"
    if not export_snapshots:
        query["export_snapshots"] = "false"
    if include_vhd_parents:
        query["include_vhd_parents"] = "true"
    return download(session, EXPORT_METADATA, query, target, on_progress, timeout, check=ArchiveCheck())


def import_metadata(
    session: Session,
    source: Source,
    *,
    restore: bool = False,
    force: bool = False,
    dry_run: bool = False,
    vdi_map: Mapping[str, str] | None = None,
    length: int | None = None,
    on_progress: OnProgress | None = None,
    timeout: float | None = None,
) -> list[Ref[t.VM]]:
    """Upload records of virtual machines whose disks are in the pool already; the machines that they became.

    `dry_run` makes nothing, and raises what would be raised. `vdi_map` says which disk is meant by which, both by uuid.
    """
    query = _flags(restore=restore, force=force, dry_run=dry_run)
    query |= {f"vdi:{uuid}": other for uuid, other in (vdi_map or {}).items()}
    return upload(session, IMPORT_METADATA, query, source, length, on_progress, timeout, _to_vms)


# --- disks, hosts, patches


def export_raw_vdi(
    session: Session,
    vdi: Ref[t.VDI],
    target: Target,
    *,
    format: str = "raw",  # noqa: A002 - the handler's name for it
    base: Ref[t.VDI] | None = None,
    on_progress: OnProgress | None = None,
    timeout: float | None = None,
) -> int:
    """Download what is on a disk; the number of bytes.

    `format` is `raw`, `vhd`, `tar` or, on the newest hosts, `qcow2`; `base` leaves out what is the same there. Since 6.5.
    """
    query = {"vdi": str(vdi), "format": format}
    size = None
    if base is not None:
        query["base"] = str(base)
    elif format == "raw":
        size = session.VDI.get_virtual_size(vdi)
    check = None if size is None else SizeCheck(size)
    return download(session, EXPORT_RAW, query, target, on_progress, timeout, check=check, size=size)


def import_raw_vdi(
    session: Session,
    source: Source,
    vdi: Ref[t.VDI],
    *,
    format: str = "raw",  # noqa: A002
    length: int | None = None,
    on_progress: OnProgress | None = None,
    timeout: float | None = None,
) -> None:
    """Upload to a disk, from its first byte on. Nothing may use it meanwhile (`VDI_IN_USE`)."""
    query = {"vdi": str(vdi), "format": format}
    sr = session.VDI.get_SR(vdi)
    upload(session, IMPORT_RAW, query, source, length, on_progress, timeout, to_any, sr)


def backup_host(
    session: Session,
    host: Ref[t.host],
    target: Target,
    *,
    on_progress: OnProgress | None = None,
    timeout: float | None = None,
) -> int:
    """Download the control domain of a host as a compressed tar; the number of bytes. Raises `BACKUP_SCRIPT_FAILED`."""
    address = session.host.get_address(host)
    return download(session, BACKUP, {}, target, on_progress, timeout, address=address)


def restore_host(
    session: Session,
    host: Ref[t.host],
    source: Source,
    *,
    length: int | None = None,
    on_progress: OnProgress | None = None,
    timeout: float | None = None,
) -> None:
    """Upload a host's backup to its backup partition. The host runs on as it is: boot the installer and choose restore.

    Raises `RESTORE_SCRIPT_FAILED`.
    """
    address = session.host.get_address(host)
    upload(session, HOST_RESTORE, {}, source, length, on_progress, timeout, to_any, address=address)


def upload_patch(
    session: Session,
    source: Source,
    *,
    sr: Ref[t.SR] | None = None,
    length: int | None = None,
    on_progress: OnProgress | None = None,
    timeout: float | None = None,
) -> Ref[t.pool_patch]:
    """Upload a patch to the pool, without applying it. `sr` is where it is kept, since 7.1. Raises `INVALID_PATCH`,
    `PATCH_ALREADY_EXISTS`."""
    query = {} if sr is None else {"sr_id": str(sr)}
    return Ref(upload(session, PATCH, query, source, length, on_progress, timeout, to_string))


def _flags(**flags: bool) -> dict[str, str]:
    return {name: "true" for name, value in flags.items() if value}


def _to_vms(value: Any) -> list[Ref[t.VM]]:
    return [Ref(ref) for ref in to_strings(value)] if value != "" else []


__all__ = [
    "OnProgress",
    "Readable",
    "Source",
    "Target",
    "Writable",
    "backup_host",
    "dump_database",
    "export_metadata",
    "export_raw_vdi",
    "export_vm",
    "import_metadata",
    "import_raw_vdi",
    "import_vm",
    "restore_database",
    "restore_host",
    "upload_patch",
]
