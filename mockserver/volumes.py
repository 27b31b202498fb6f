"""What verbs of storage share: who does them, holding what they work on, room, making and dropping disks, copying."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, Any

from xenctl import database, datamodel

from . import block_devices, hosts, rules
from .call import Call, Steps, refuse
from .holding import Marked, assert_free
from .storage_drivers import driver, rounded, taken
from .storage_rules import is_plugged, pbds_of, sr_operations, sr_refused, vdi_operations, vdi_refused
from .store import EPOCH, NULL, Row

if TYPE_CHECKING:
    from .machine.disks import Disk
    from .pool import MockPool

MARKS = ("SR.current_operations", "VDI.current_operations")
ATTACHED = ("VBD.*",)
"""What `attached` writes: block devices of a control domain."""
SNAPSHOT_SIZE = 8 << 20
"""Bytes that a snapshot takes of storage that reserves all of a disk."""
UNKNOWN_SIZE = 1 << 40
"""Bytes of storage whose size nobody told."""
MARKED_SINCE = {"copy": rules.CREAM, "set_on_boot": rules.INVERNESS}
"""When xapi began to show some operations on the disk that they are done to."""
SM_SESSION = "_sm_session"
"""The key in `session.other_config` that tells for which storage a plugin has logged in."""


# --- who does it, and who may


def serving(call: Call, sr: Row, *, unplugged: bool = False) -> hosts.Contact:
    """The host that does what is asked of `sr`: one that has it plugged, of several the master. Raises
    `SR_HAS_NO_PBDS`, and what the plugin says where the host does not reach it. With `unplugged` a connection that is not
    plugged will do."""
    pbds = pbds_of(call.db, sr)
    fitting = [pbd for pbd in pbds if unplugged or pbd["currently_attached"]]
    if len(pbds) > 1:
        fitting = [pbd for pbd in fitting if pbd["host"] == call.db.pool()["master"]]
    if not fitting:
        raise refuse("SR_HAS_NO_PBDS", sr.ref)
    found = hosts.reached(call, fitting[0]["host"])
    found.needs(sr)
    return found


def seeing(call: Call, srs: Iterable[Row], *, enabled: bool = False) -> hosts.Contact | None:
    """A live host that has all of `srs` plugged, a member before the master, with `enabled` one that takes VMs; None where
    there is none."""
    wanted, master = list(srs), call.db.pool()["master"]
    needed = {sr.ref for sr in wanted}
    for host in sorted(call.db.table("host").values(), key=lambda host: bool(host.ref == master)):
        if hosts.sees(call.db, host, needed) and (host["enabled"] or not enabled):
            found = hosts.contact(call.pool, host)
            for sr in wanted:
                found.needs(sr)
            return found
    return None


def reach_disks(call: Call, contact: hosts.Contact, vm: Row) -> None:
    """Have a host need the disks of `vm`. Raises what the plugin says where it does not reach one."""
    db = call.db
    for vdi in db.rows("VDI", [vbd["VDI"] for vbd in db.rows("VBD", vm["VBDs"])]):
        sr = db.find("SR", vdi["SR"])
        if sr is not None:
            contact.needs(sr, vdi)


def assert_from_plugin(call: Call, sr: str) -> None:
    """Raise for a session that is not that of the storage's own plugin."""
    told = call.session.get("other_config", {}) if call.session is not None else {}
    if told.get(SM_SESSION) != sr:
        raise refuse("PERMISSION_DENIED", "")


def assert_managed(vdi: Row) -> None:
    """Raise for a disk that storage keeps for itself."""
    if not vdi["managed"]:
        raise refuse("VDI_NOT_MANAGED", vdi.ref)


# --- holding


@contextmanager
def held(call: Call, *, sr: tuple[Row, str] | None = None, vdi: tuple[Row, str] | None = None) -> Iterator[None]:
    """Hold storage and a disk for an operation on each, checked one after the other."""
    with ExitStack() as stack:
        if sr is not None and sr[1] in sr_operations(call.db.release):
            _hold(call, stack, *sr, sr_refused)
        if vdi is not None and MARKED_SINCE.get(vdi[1], ()) <= call.db.release.order:
            _hold(call, stack, *vdi, vdi_refused)
        elif vdi is not None and vdi[1] in vdi_operations(call.db.release):
            assert_free(call, *vdi, vdi_refused)
        yield


def _hold(call: Call, stack: ExitStack, row: Row, name: str, check: Callable[..., Any]) -> None:
    assert_free(call, row, name, check)
    stack.enter_context(Marked(call, row, name))


@contextmanager
def attached(call: Call, contact: hosts.Contact, *disks: tuple[Row, str]) -> Iterator[None]:
    """Give disks to the control domain of a host, each in a mode (`RO`, `RW`), as long as it works on them."""
    guests = (call.db.find("VM", ref) for ref in contact.host["resident_VMs"])
    dom0 = next((vm for vm in guests if vm is not None and vm["is_control_domain"]), None)
    devices = []
    for number, (vdi, mode) in enumerate(disks if dom0 is not None else ()):
        fields = {
            "uuid": call.pool.new_uuid(),
            "VM": dom0.ref if dom0 is not None else NULL,
            "VDI": vdi.ref,
            "mode": mode,
            "type": "Disk",
            "userdevice": str(number),
            "device": block_devices.path_of(call.db.get("SR", vdi["SR"]), vdi),
            "bootable": False,
            "empty": False,
            "unpluggable": True,
            "currently_attached": True,
        }
        devices.append(call.db.create("VBD", call.pool.new_ref(), fields))
    try:
        yield
    finally:
        for device in devices:
            if call.db.find("VBD", device.ref) is device:
                call.db.delete(device)


# --- room


def assert_room(sr: Row, size: int) -> None:
    """Raise where storage has no room for `size` bytes more; storage of no known size has room."""
    if 0 < sr["physical_size"] < max(0, sr["physical_utilisation"]) + size:
        raise refuse("SR_BACKEND_FAILURE_44", "", "There is insufficient space", "")


def fitting_size(sr: Row, size: int) -> int:
    """The size that a disk on `sr` gets where `size` bytes are asked for."""
    if size <= 0:
        raise refuse("SR_BACKEND_FAILURE_79", "", "VDI Invalid size", "")
    return rounded(sr["type"], size)


def measure(call: Call, sr: Row) -> None:
    """Write down how large storage is and how much of it is taken."""
    vdis = [vdi for vdi in (call.db.find("VDI", ref) for ref in sr["VDIs"]) if vdi is not None]
    told = [row["physical_size"] for row in (sr, *elsewhere(call, sr)) if row["physical_size"] >= 0]
    size = call.pool.storage.sizes.setdefault(sr["uuid"], next(iter(told), UNKNOWN_SIZE))
    used = sum(vdi["physical_utilisation"] for vdi in vdis)
    call.pool.upkeep.growth.pop(sr.ref, None)
    call.db.write(
        sr, physical_size=size, physical_utilisation=used, virtual_allocation=sum(v["virtual_size"] for v in vdis)
    )


def elsewhere(call: Call, sr: Row) -> list[Row]:
    """The rows of the same storage in the databases of other pools."""
    stores = [pool.store for pool in call.pool.world.pools if pool is not call.pool]
    found = [(store, store.by_uuid.get(sr["uuid"])) for store in stores]
    return [store.get("SR", place[1]) for store, place in found if place is not None and place[0] == "SR"]


def on_storage(call: Call, sr: Row) -> dict[str, dict[str, Any]]:
    """The disks that storage holds and this pool may not know, by their uuids: those that were forgotten, and those that
    only other pools have rows of."""
    out = dict(call.pool.storage.forgotten.get(sr["uuid"], {}))
    for pool in call.pool.world.pools:
        place = pool.store.by_uuid.get(sr["uuid"]) if pool is not call.pool else None
        for ref in pool.store.get("SR", place[1])["VDIs"] if place is not None else ():
            vdi = pool.store.get("VDI", ref)
            out[vdi["uuid"]] = {name: vdi[name] for name in REMEMBERED if name in vdi}
    return out


# --- disks come and go


def content(call: Call, vdi: Row) -> Disk:
    """What is on a disk, all that running guests wrote included. Raises where storage has lost it."""
    disk = current(call.pool, vdi)
    if disk is None:
        raise refuse("SR_BACKEND_FAILURE_46", "", f"The VDI is not available [opterr={vdi['uuid']}]", "")
    return disk


def current(pool: MockPool, vdi: Row) -> Disk | None:
    """The same, None where storage has lost it."""
    disk = pool.disks.get(vdi["uuid"])
    if disk is None:
        return None
    for domain in list(disk.writers):
        domain.catch_up(pool.clock.now())
    if vdi["uuid"] in pool.storage.replicas:
        disk.blocks.clear()
        disk.write(0, database.write(pool.store.dump()))
    return disk


def make(call: Call, sr: Row, size: int, *, takes: int | None = None, **fields: Any) -> Row:
    """A disk of `size` bytes on `sr`, with content of its own. Raises where there is no room for the bytes that it
    `takes`, which its type of storage decides unless they are given."""
    takes = taken(sr["type"], size) if takes is None else takes
    assert_room(sr, takes)
    uuid = fields.pop("uuid", "") or call.pool.new_uuid()
    base = {
        "uuid": uuid,
        "SR": sr.ref,
        "location": uuid,
        "virtual_size": size,
        "physical_utilisation": takes,
        "managed": True,
        "missing": False,
        "parent": NULL,
        "snapshot_of": NULL,
        "storage_lock": False,
    }
    row = call.db.create("VDI", call.pool.new_ref(), {**base, **fields})
    call.pool.add_disk(uuid)
    return row


KEPT = "name_label name_description type sharable other_config xenstore_data on_boot allow_caching".split()
"""What a snapshot or clone has from its disk."""
KEEPS_TAGS = datamodel.load().order("25.37.0")
"""From when on it has the tags, too."""


def branch(call: Call, vdi: Row, *, snapshot: bool) -> Row:
    """A snapshot or clone of a disk, with what is on it now."""
    sr, disk = call.db.get("SR", vdi["SR"]), content(call, vdi)
    kept = (*KEPT, "tags") if call.at_least(KEEPS_TAGS) else KEPT
    more: dict[str, Any] = {name: vdi[name] for name in kept if name in vdi}
    more["read_only"] = bool(vdi["read_only"]) if snapshot else False
    takes = None
    if snapshot:
        more.update(is_a_snapshot=True, snapshot_of=vdi.ref, snapshot_time=call.clock.stamp())
        more["cbt_enabled"] = bool(vdi.get("cbt_enabled"))
        takes = min(taken(sr["type"], vdi["virtual_size"]), SNAPSHOT_SIZE)
    row = make(call, sr, vdi["virtual_size"], takes=takes, **more)
    call.pool.disks[row["uuid"]].blocks = dict(disk.blocks)
    return row


def drop(call: Call, vdi: Row) -> None:
    """Destroy a disk: its content, its row, and the block devices and suspended VMs that name it."""
    call.pool.disks.pop(vdi["uuid"], None)
    vbds = [call.db.find("VBD", ref) for ref in vdi["VBDs"]]
    call.db.delete(vdi)
    for vbd in vbds:
        if vbd is not None:
            drop_device(call, vbd)
    _forget_image(call, vdi)


def forget(call: Call, vdi: Row) -> None:
    """Drop the row of a disk whose content stays. A drive that held it is empty; other block devices go with it."""
    sr = call.db.find("SR", vdi["SR"])
    if sr is not None and vdi["uuid"] in call.pool.disks:
        call.pool.storage.forget(sr["uuid"], vdi["uuid"], {name: vdi[name] for name in REMEMBERED if name in vdi})
    for vbd in [call.db.find("VBD", ref) for ref in vdi["VBDs"]]:
        if vbd is not None and vbd["type"] == "CD":
            call.db.write(vbd, VDI=NULL, empty=True)
        elif vbd is not None:
            drop_device(call, vbd)
    call.db.delete(vdi)
    _forget_image(call, vdi)


REMEMBERED = (
    "name_label name_description type virtual_size physical_utilisation read_only sharable location is_a_snapshot "
    "snapshot_of snapshot_time cbt_enabled metadata_of_pool".split()
)
"""What storage itself knows of a disk."""
GONE = ("VDI.*", "VBD.*", "VBD_metrics.*", "VM.suspend_VDI")
"""What may be written where a disk goes."""


def discard(call: Call, vdi: Row) -> None:
    """Drop a disk that is of no use any more. One that cannot go now stays: somebody else uses it, or no host reaches its
    storage."""
    if call.db.find("VDI", vdi.ref) is not vdi or vdi_refused(call.db, vdi, "destroy") is not None:
        return
    if is_plugged(call.db, call.db.get("SR", vdi["SR"])):
        drop(call, vdi)


def drop_device(call: Call, device: Row) -> None:
    """Delete a block device or network interface, with its metrics."""
    metrics = call.db.find(f"{device.table}_metrics", device["metrics"])
    if metrics is not None:
        call.db.delete(metrics)
    call.db.delete(device)


def _forget_image(call: Call, vdi: Row) -> None:
    if vdi["type"] != "suspend":
        return
    for vm in call.db.table("VM").values():
        if vm["suspend_VDI"] == vdi.ref:
            call.db.write(vm, suspend_VDI=NULL)


def found_again(call: Call, sr: Row, uuid: str, fields: dict[str, Any]) -> Row:
    """The row of a disk that was forgotten and is found on its storage."""
    call.pool.storage.forgotten.get(sr["uuid"], {}).pop(uuid, None)
    known = {**fields, "uuid": uuid, "SR": sr.ref, "managed": True, "missing": False, "parent": NULL}
    if call.db.find("VDI", str(known.get("snapshot_of", NULL))) is None:
        known["snapshot_of"] = NULL
    return call.db.create("VDI", call.pool.new_ref(), {"snapshot_time": EPOCH, **known})


# --- copying


def pour(
    call: Call, contact: hosts.Contact, source: Row, target: Row, base: Row | None = None, *, there: Call | None = None
) -> Steps:
    """Copy what is on a disk to another, in the time that its size takes; of a disk that has a `base` only what differs
    from that. The target may be one of another pool, which `there` speaks to."""
    db = (there or call).db
    yield source["virtual_size"] / call.pool.durations.copy_rate
    contact.check()
    old, new = content(call, source), content(call, target)
    before = content(call, base).blocks if base is not None else {}
    changed = {number: block for number, block in old.blocks.items() if base is None or before.get(number) != block}
    new.blocks = {**(new.blocks if base is not None else {}), **changed}
    grown = min(target["virtual_size"], max(target["physical_utilisation"], source["physical_utilisation"]))
    if not driver(db.get("SR", target["SR"])["type"]).thick:
        db.write(target, physical_utilisation=grown)


def assert_halted_users(call: Call, vdi: Row) -> None:
    """Raise where a VM that has the disk is not halted."""
    for vbd in (call.db.find("VBD", ref) for ref in vdi["VBDs"]):
        vm = call.db.find("VM", vbd["VM"]) if vbd is not None else None
        if vm is not None and vm["power_state"] != "Halted":
            raise refuse("VM_BAD_POWER_STATE", vm.ref, "halted", vm["power_state"].lower())


def reaches_backend(call: Call) -> bool:
    """Whether a name is given to storage before it is written down, as since 7.0; from 6.0 on it was told after, and what
    became of that did not matter."""
    return call.at_least(rules.DUNDEE)
