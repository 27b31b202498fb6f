"""A VM going to another pool: its disks are copied there, its records imported, its domain goes on; then it is dropped here.

Both pools are of one world, so the guest stays the one it was: only what its disks are called changes. Whatever fails
before the domain has moved is taken back in the other pool, as long as that can be spoken to.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

from xenctl import xmlrpc

from . import checks, copies, guests, hosts, passthrough, power, processors, subtasks, volumes
from .call import Steps, Wait, refuse
from .handlers.objects import Objects, Options
from .handlers.records import Selection, export_version
from .handlers.running import CallBinding
from .store import NULL, Row
from .vdis import MOVED

if TYPE_CHECKING:
    from .holding import Holding
    from .moving import Destination, Move

IMPORT = "VM metadata import"
"""The name of the task in the other pool."""
PATIENCE = 7200.0
"""Seconds that the VM waits for what else is done to it to end, before it goes."""
WRITES = (*copies.ERASED, *volumes.GONE, "message.*")
"""What is written in the pool that a VM leaves."""


def rehearse(move: Move) -> None:
    """Raise what the other pool has against the records of a VM, and do nothing there."""
    _import(move, vdi_map={}, dry_run=True)


def connection(to: Destination, sr: Row) -> Row | None:
    """How the host that a VM goes to reaches storage."""
    pbds = to.call.db.rows("PBD", sr["PBDs"])
    return next((pbd for pbd in pbds if pbd["host"] == to.host.ref), None)


def group_and_type(move: Move, vgpu: Row) -> tuple[str, str]:
    """What virtual graphics become in the other pool: their group of cards, the one that they are mapped to or one of the
    same cards, and their type. Raises `VM_REQUIRES_GPU`."""
    here, there = move.call.db, move.to.call.db
    group = here.find("GPU_group", vgpu["GPU_group"])
    alike = (row for row in there.table("GPU_group").values() if group and row["GPU_types"] == group["GPU_types"])
    found = there.get("GPU_group", move.cards[vgpu.ref]) if vgpu.ref in move.cards else next(alike, None)
    kind = here.find("VGPU_type", vgpu.get("type", NULL))
    if kind is None:
        same = NULL
    else:
        names = (kind["vendor_name"], kind["model_name"])
        rows = there.table("VGPU_type").values()
        same = next((row.ref for row in rows if (row["vendor_name"], row["model_name"]) == names), NULL)
    if found is None or (kind is not None and same == NULL):
        raise refuse("VM_REQUIRES_GPU", move.vm.ref, vgpu["GPU_group"])
    return found.ref, same


def _import(move: Move, *, vdi_map: Mapping[str, str], dry_run: bool) -> tuple[Objects, str]:
    """Take the records of a VM into the other pool; what was taken in, and the VM's id among that."""
    here, there, leaves = move.call, move.to.call, not move.copies
    selection = Selection(here.pool, power_state=True, snapshots=leaves)
    selection.add(move.vm)
    found = xmlrpc.loads_value(selection.text())["objects"]
    networks = ((vif["uuid"], move.network_of(vif)) for vif in move.interfaces())
    vif_map = {uuid: network for uuid, network in networks if network is not None}
    options = Options(restore=leaves, dry_run=dry_run, live=True, vdi_map=vdi_map, vif_map=vif_map, carried=True)
    objects = Objects(there.pool, CallBinding(there), options, found, export_version(here.db))
    try:
        objects.take_in()
    except BaseException:
        objects.undo()
        raise
    return objects, selection.ids[move.vm.ref]


class Crossing:
    """A VM on its way. `made` holds what its disks are in the other pool, by the references that they have here."""

    def __init__(self, move: Move, holding: Holding) -> None:
        self.move, self.here, self.there = move, move.call, move.to.call
        self.vm, self.holding = move.vm, holding
        self.made: dict[str, Row] = {}
        self._objects: Objects | None = None
        self._hardware: list[Row] = []
        self._there_for_good = False

    def go(self) -> Steps:
        """Bring the VM over; returns its reference there."""
        here, there, host = self.here, self.there, self.move.to.host
        there.task = there.pool.make_task(there, label=IMPORT)
        self.holding.at_end(self._take_back)
        homes = self._homes()
        live = self.vm["power_state"] == "Running"
        source, target = self._sender(homes, live=live), hosts.contact(there.pool, host)
        for sr in {sr.ref: sr for sr in homes.values()}.values():
            yield from self._plug(sr)
            target.needs(sr)
        yield from self._copy_disks(homes, source, target, self.vm["memory_static_max"] if live else 0)
        new = self._register()
        if live:
            target = power.reserve(there, new, host, "vm_migrate", self.holding)
            durations = here.pool.durations
            yield durations.migrate_setup + self.vm["memory_static_max"] / durations.migrate_rate
        yield from self._alone()
        self._arrive(new, source, target, live=live)
        there.pool.settle(f"{self.vm['name_label']} came from another pool")
        return new.ref

    # --- what it takes

    def _homes(self) -> dict[str, Row]:
        """Where each disk goes, by reference, the smallest first. A snapshot's follows the disk that it is of; the others
        that the map does not tell of go to where the pool keeps such. Raises `VDI_NOT_IN_MAP` where it keeps none."""
        move, db = self.move, self.there.db
        pool = db.pool()
        default = db.find("SR", pool["default_SR"])
        named = (pool["suspend_image_SR"], move.to.host["suspend_image_sr"])
        places = [sr for sr in (db.find("SR", ref) for ref in named) if sr is not None]
        vms = [self.vm] if move.copies else [self.vm, *move.snapshots()]
        images = self.here.db.rows("VDI", [vm["suspend_VDI"] for vm in vms if vm["power_state"] == "Suspended"])
        disks = {vdi.ref: vdi for vm in vms for vdi in move.own(vm)} | {vdi.ref: vdi for vdi in images}
        out = {}
        for vdi in sorted(disks.values(), key=lambda vdi: (vdi["virtual_size"], vdi.get("snapshot_time", ""))):
            told = move.disks.get(vdi.ref) or move.disks.get(vdi.get("snapshot_of", NULL))
            place = (places[0] if places else default) if vdi in images else default
            sr = db.get("SR", told) if told else place
            if sr is None:
                raise refuse("VDI_NOT_IN_MAP", vdi.ref)
            out[vdi.ref] = sr
        return out

    def _sender(self, homes: Iterable[str], *, live: bool) -> hosts.Contact:
        """The host that sends: the one that the VM runs on, else any that sees its disks."""
        if live:
            found = power.contact(self.here, self.vm)
            volumes.reach_disks(self.here, found, self.vm)
            return found
        db = self.here.db
        srs = {vdi["SR"]: db.get("SR", vdi["SR"]) for vdi in db.rows("VDI", list(homes))}
        seen = volumes.seeing(self.here, srs.values(), enabled=True)
        if seen is None:
            raise refuse("NO_HOSTS_AVAILABLE")
        return seen

    def _plug(self, sr: Row) -> Steps:
        """Connect the host over there to storage that it knows but has not plugged."""
        pbd = connection(self.move.to, sr)
        if pbd is None:
            raise refuse("VM_REQUIRES_SR", self.vm.ref, sr.ref)
        if not pbd["currently_attached"]:
            yield from subtasks.run(self.there, "PBD.plug", pbd.ref)

    def _copy_disks(self, homes: Mapping[str, Row], source: hosts.Contact, target: hosts.Contact, memory: int) -> Steps:
        here, there = self.here, self.there
        total = sum(here.db.get("VDI", ref)["virtual_size"] for ref in homes) + memory
        known = there.db.shape("VDI").fields
        for ref, sr in homes.items():
            vdi = here.db.get("VDI", ref)
            here.goal = here.reached + vdi["virtual_size"] / total
            fields = {name: vdi[name] for name in MOVED if name in vdi and name in known and name != "snapshot_of"}
            self.made[ref] = volumes.make(there, sr, volumes.fitting_size(sr, vdi["virtual_size"]), **fields)
            yield from volumes.pour(here, source, vdi, self.made[ref], there=there)
            self.move.to.check()
            target.check()
        here.goal = 1.0
        for ref, row in self.made.items():
            of = self.made.get(here.db.get("VDI", ref).get("snapshot_of", NULL))
            if of is not None:
                there.db.write(row, snapshot_of=of.ref)

    def _register(self) -> Row:
        """Make the VM's records over there. They are held by an import until the VM has come."""
        vdi_map = {self.here.db.get("VDI", ref)["uuid"]: row["uuid"] for ref, row in self.made.items()}
        self._objects, identity = _import(self.move, vdi_map=vdi_map, dry_run=False)
        new = self._objects.row(identity)
        if new is None:
            raise refuse("INTERNAL_ERROR", f"the import of {self.vm['uuid']} made no VM")
        self._hardware += self._bring_hardware(new)
        power.settle_overhead(self.there, new)
        return new

    def _bring_hardware(self, new: Row) -> Iterator[Row]:
        """Virtual graphics, which an archive has not."""
        fresh = {"VM": new.ref, "currently_attached": False}
        for vgpu in passthrough.vgpus_of(self.here.db, self.vm):
            group, kind = group_and_type(self.move, vgpu)
            placeless = dict.fromkeys(guests.ON_A_CARD, NULL)
            yield self._alike(vgpu, **fresh, **placeless, GPU_group=group, type=kind)

    def _alike(self, row: Row, **more: Any) -> Row:
        """A row over there like one here, with a uuid of its own where this one stays."""
        pool, known = self.there.pool, self.there.db.shape(row.table).fields
        uuid = pool.new_uuid() if self.move.copies else row["uuid"]
        fields = {name: value for name, value in {**row, **more, "uuid": uuid}.items() if name in known}
        return pool.store.create(row.table, pool.new_ref(), fields)

    def _alone(self) -> Steps:
        """Wait until nothing else is done to the VM: it may have been told to shut down meanwhile."""
        vm = self.vm
        if len(vm["current_operations"]) > 1:
            yield Wait(self.here.clock.now() + PATIENCE, lambda: len(vm["current_operations"]) <= 1, idle=False)

    # --- the end of it

    def _arrive(self, new: Row, source: hosts.Contact, target: hosts.Contact, *, live: bool) -> None:
        """The last step, all at once: nothing can fail any more once something was changed."""
        here, vm = self.here, self.vm
        self.move.to.check()
        machine, to = source.check(), target.check()
        runs = live and not self.move.copies and vm["power_state"] == "Running"
        if runs and vm["uuid"] not in machine.domains:
            raise refuse("VM_BAD_POWER_STATE", vm.ref, "running", vm["power_state"].lower())
        contents = {ref: volumes.content(here, here.db.get("VDI", ref)) for ref in self.made}
        self._there_for_good = True
        renamed = {}
        for ref, content in contents.items():
            disk = self.there.pool.disks[self.made[ref]["uuid"]]
            disk.blocks = dict(content.blocks)
            renamed[content.uuid] = disk
        if self._objects is not None:
            self._objects.complete()
        if self.move.copies:
            guest = self.there.pool.guest(new)
            guest.resume_from(here.pool.guest(vm), copies.own_disks(self.there, new))
            return
        for one in (vm, *self.move.snapshots()):
            ledger = here.pool.guest(one).ledger if one["uuid"] in here.pool.guests else {}
            for uuid in [uuid for uuid in ledger if uuid in renamed]:
                ledger[renamed[uuid].uuid] = ledger.pop(uuid)
        if runs:
            disks = machine.domains[vm["uuid"]].disks
            domain = here.pool.move_domain(vm, machine, to, tuple(renamed.get(disk.uuid, disk) for disk in disks))
            self._resident(new, target.host, domain.domid)
        elif new["power_state"] == "Halted":
            guests.halted(self.there.pool, new)
        self._bring_history(new)
        for one in (*self.move.snapshots(), vm):
            copies.erase(here, one)
        for vdi in here.db.rows("VDI", list(self.made)):
            volumes.drop(here, vdi)

    def _resident(self, new: Row, host: Row, domid: int) -> None:
        """Write down that the VM runs over there, with the devices that it had here."""
        there, db = self.there, self.here.db
        there.db.write(new, resident_on=host.ref, scheduled_to_be_resident_on=NULL, domid=domid, power_state="Running")
        attached = {
            device["uuid"]: device["currently_attached"]
            for table in ("VBD", "VIF")
            for device in db.rows(table, self.vm[f"{table}s"])
        }
        for device in (*there.db.rows("VBD", new["VBDs"]), *there.db.rows("VIF", new["VIFs"])):
            there.db.write(device, currently_attached=attached.get(device["uuid"], False))
        power.name_drives(there, new, there.db.release)
        passthrough.take(there.db, new, host)
        processors.arrived(there.db, new, host, resumed=False)
        power.show_console(there, new, host)
        guests.crossed(self.here.pool, self.vm, there.pool, new)

    def _bring_history(self, new: Row) -> None:
        """Messages about the VM, and the binary objects that it keeps."""
        here, there = self.here, self.there
        for row in reversed(here.pool.messages.about(self.vm["uuid"])):
            there.pool.messages.add(there.db, there.pool.new_ref(), dict(row))
            here.pool.messages.drop(here.db, row)
        blobs = {}
        for name, ref in self.vm.get("blobs", {}).items():
            blob = here.db.find("blob", ref)
            if blob is not None:
                blobs[name] = self._alike(blob).ref
                if blob["uuid"] in here.pool.blobs:
                    there.pool.blobs[blob["uuid"]] = here.pool.blobs.pop(blob["uuid"])
        if blobs:
            there.db.write(new, blobs=blobs)

    def _take_back(self) -> None:
        """The end of the task over there; where the VM did not come, drop what was made for it."""
        there = self.there
        if not self.move.to.open:
            return
        if not self._there_for_good:
            for row in self._hardware:
                there.db.delete(row)
            if self._objects is not None:
                self._objects.undo()
            for vdi in self.made.values():
                volumes.discard(there, vdi)
            there.pool.settle(f"{self.vm['name_label']} does not come")
        there.pool.drop_task(there.task)


def eject_discs(move: Move) -> None:
    """Take out the discs that do not stay in their storage; a VM that is suspended keeps them. Only a guest that is
    virtualised by hardware has a drive without a disc attached."""
    db = move.call.db
    if move.vm["power_state"] == "Suspended":
        return
    for vbd in db.rows("VBD", move.vm["VBDs"]):
        disc = db.find("VDI", vbd["VDI"]) if vbd["type"] == "CD" and not vbd["empty"] else None
        if disc is not None and move.disks.get(disc.ref) != disc["SR"]:
            attached = vbd["currently_attached"] and checks.is_hvm(move.vm)
            db.write(vbd, VDI=NULL, empty=True, currently_attached=attached)
