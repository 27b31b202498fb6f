"""What is done to disks in some time: each holds the disk and its storage meanwhile, as XenAPI shows it.

The verbs on disks do one of these; the verbs on VMs do one for each disk of a VM. Where something else goes on they wait
until it is over, for else no two VMs with disks on the same storage could be copied at once.
"""

from __future__ import annotations

import uuid as uuids
from typing import TYPE_CHECKING, Any

from . import hosts, rules, storage_rules, volumes
from .call import Call, Steps, refuse, until_free
from .holding import BUSY
from .storage_drivers import capabilities
from .storage_rules import TYPES_SPELLED
from .store import Row

if TYPE_CHECKING:
    from xenctl.errors import Failure

WRITES = ("VDI.*", *volumes.GONE, *volumes.MARKS, *volumes.ATTACHED)
"""What may be written here."""
BACKUP = "Pool Metadata Backup"
"""The name of the disk that backups of the pool's database are kept on; its uuid follows from its storage's."""
LOST = ("other_config", "sharable", "tags", "xenstore_data")
"""What a new disk was to have and did not get in 6.1."""
COPIED = "name_label name_description type sharable other_config xenstore_data".split()
"""What a copy has from its disk."""
MOVED = (*COPIED, "tags", "read_only", "on_boot", "allow_caching", "is_a_snapshot", "snapshot_time", "snapshot_of")
"""What a disk that moved has from what it was."""


def sr_of(call: Call, vdi: Row) -> Row:
    """The storage of a disk."""
    return call.db.get("SR", vdi["SR"])


def _free(call: Call, *, sr: tuple[Row, str] | None = None, vdi: tuple[Row, str] | None = None) -> Steps:
    """Wait until no other operation is in the way; whatever else is in the way, `held` says."""

    def refused() -> Failure | None:
        for on, check in ((sr, storage_rules.sr_refused), (vdi, storage_rules.vdi_refused)):
            error = check(call.db, *on) if on is not None and _there(call, on[0]) else None
            if error is not None and error.code == BUSY:
                return error
        return None

    yield from until_free(call, refused)
    for on in (sr, vdi):
        if on is not None:
            call.db.get(on[0].table, on[0].ref)


def _there(call: Call, row: Row) -> bool:
    return call.db.find(row.table, row.ref) is row


# --- made and dropped


def create(call: Call, sr: Row, args: dict[str, Any], *, full: bool = False) -> Steps:
    """A new, empty disk: returns its row. One that is `full` takes all of its room at once, whatever its storage does."""
    yield from _free(call, sr=(sr, "vdi_create"))
    with volumes.held(call, sr=(sr, "vdi_create")):
        return (yield from made(call, sr, args, full=full))


def made(call: Call, sr: Row, args: dict[str, Any], *, full: bool = False) -> Steps:
    """A new, empty disk on storage that is held for it: returns its row."""
    contact = volumes.serving(call, sr)
    if args["type"] == "cbt_metadata":
        raise refuse("VDI_INCOMPATIBLE_TYPE", "", TYPES_SPELLED["cbt_metadata"])
    size = volumes.fitting_size(sr, args["virtual_size"])
    fields = {name: value for name, value in _heard(call, args).items() if name not in ("SR", "virtual_size", "uuid")}
    if (args["type"], args.get("name_label")) == ("user", BACKUP) and call.at_least(rules.NILE):
        fields["uuid"] = str(uuids.uuid5(uuids.NAMESPACE_OID, sr["uuid"]))
    yield call.pool.durations.volume
    contact.check()
    return volumes.make(call, sr, size, takes=size if full else None, **fields)


def _heard(call: Call, args: dict[str, Any]) -> dict[str, Any]:
    """What of that which a new disk is to have it gets: tags since 6.0, to be read only since 6.1."""
    deaf: tuple[str, ...] = ()
    if not call.at_least(rules.TAMPA):
        deaf = ("read_only",) if call.at_least(rules.BOSTON) else ("read_only", "tags")
    elif not call.at_least(rules.CLEARWATER):
        deaf = LOST
    return {name: value for name, value in args.items() if name not in deaf}


def destroy(call: Call, vdi: Row) -> Steps:
    """Destroy a disk. Raises `VDI_IN_USE` where somebody uses it."""
    sr = sr_of(call, vdi)
    yield from _free(call, sr=(sr, "vdi_destroy"), vdi=(vdi, "destroy"))
    with volumes.held(call, sr=(sr, "vdi_destroy"), vdi=(vdi, "destroy")):
        contact = volumes.serving(call, sr)
        volumes.assert_managed(vdi)
        yield call.pool.durations.volume
        contact.check()
        if storage_rules.DiskState.of(call.db, vdi).active:
            raise storage_rules.vdi_in_use(call.db, vdi.ref, "destroy")
        volumes.drop(call, vdi)


# --- snapshots and clones


def snapshot(call: Call, vdi: Row) -> Steps:
    """A snapshot with what is on a disk when it is made: returns its row."""
    sr = sr_of(call, vdi)
    yield from _free(call, sr=(sr, "vdi_snapshot"), vdi=(vdi, "snapshot"))
    with volumes.held(call, sr=(sr, "vdi_snapshot"), vdi=(vdi, "snapshot")):
        contact = volumes.serving(call, sr)
        volumes.assert_managed(vdi)
        yield call.pool.durations.volume
        contact.check()
        return volumes.branch(call, vdi, snapshot=True)


def clone(call: Call, vdi: Row) -> Steps:
    """A clone: returns its row. Storage that cannot clone, where the release does not mind, makes a copy."""
    sr = sr_of(call, vdi)
    fast = "VDI_CLONE" in capabilities(call.db, sr["type"])
    yield from _free(call, sr=(sr, "vdi_clone"), vdi=(vdi, "clone"))
    goal = call.goal
    with volumes.held(call, sr=(sr, "vdi_clone"), vdi=(vdi, "clone")):
        contact = volumes.serving(call, sr)
        volumes.assert_managed(vdi)
        call.goal = goal if fast else call.reached
        yield call.pool.durations.volume
        contact.check()
        if fast:
            return volumes.branch(call, vdi, snapshot=False)
        fields = {name: vdi[name] for name in (*COPIED, "read_only") if name in vdi}
        new = volumes.make(call, sr, vdi["virtual_size"], **_heard(call, fields))
    call.goal = goal
    yield from _poured(call, contact, vdi, new, fresh=True)
    return new


# --- copies


def copy(call: Call, vdi: Row, sr: Row, *, into: Row | None = None, base: Row | None = None) -> Steps:
    """A copy on `sr`, or in the disk `into` that is there; of a disk with a `base` only what differs from that. Returns
    the row of the copy."""
    source, goal = sr_of(call, vdi), call.goal
    yield from _free(call, vdi=(vdi, "copy"))
    with volumes.held(call, vdi=(vdi, "copy")):
        contact = _copier(call, source, sr)
        volumes.assert_managed(vdi)
        new = into or (yield from _blank(call, sr, vdi))
        if new["read_only"]:
            raise refuse("VDI_READONLY", new.ref)
        if new["virtual_size"] < vdi["virtual_size"]:
            raise refuse("VDI_TOO_SMALL", new.ref, vdi["virtual_size"])
        call.goal = goal
        yield from _poured(call, contact, vdi, new, fresh=into is None, base=base)
    return new


def _copier(call: Call, source: Row, target: Row) -> hosts.Contact:
    """The host that copies: one that sees both storage repositories. Where none does, that is in the way up to 5.6, while
    since 6.1 one that sees the source will do; in between only that was asked for."""
    if call.at_least(rules.COWLEY) and not call.at_least(rules.TAMPA):
        return volumes.serving(call, source)
    found = volumes.seeing(call, (source, target))
    if not call.at_least(rules.COWLEY):
        if found is None:  # the master tries, and misses
            master = call.db.get("host", call.db.pool()["master"])
            missing = next(sr for sr in (target, source) if not hosts.sees(call.db, master, (sr.ref,)))
            raise refuse("SR_HAS_NO_PBDS", missing.ref)
        return found
    found = found or volumes.seeing(call, (source,))
    if found is None:  # the search says only that it found nothing, and nobody makes an error of XenAPI's of it
        raise refuse("INTERNAL_ERROR", "Not_found")
    return found


def _blank(call: Call, sr: Row, like: Row) -> Steps:
    """A new disk for a copy, which can be written whatever it is a copy of. It has the tags since 6.5, and is reset at each
    boot as what it is a copy of, where its storage can do that."""
    copied = (*COPIED, "tags") if call.at_least(rules.CREAM) else COPIED
    fields = {name: like[name] for name in copied if name in like}
    call.goal = call.reached
    args = {**fields, "virtual_size": like["virtual_size"], "read_only": False}
    new = yield from create(call, sr, args)
    resets = like.get("on_boot") == "reset" and "VDI_RESET_ON_BOOT" in capabilities(call.db, sr["type"])
    call.db.write(new, allow_caching=like.get("allow_caching", False), on_boot="reset" if resets else "persist")
    return new


def _poured(
    call: Call, contact: hosts.Contact, source: Row, target: Row, *, fresh: bool, base: Row | None = None
) -> Steps:
    """Copy the content; a `fresh` target goes again where that fails."""
    done = False
    try:
        with volumes.attached(call, contact, (source, "RO"), (target, "RW")):
            yield from volumes.pour(call, contact, source, target, base)
        done = True
    finally:
        if not done and fresh and _there(call, target):
            volumes.drop(call, target)
