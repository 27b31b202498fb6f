"""What runs: domains and what xapi believes of them, the disks that they write, the memory that they take."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING

from xenctl import memory

from .. import rules
from ..journal import KeptIndex
from ..machine.disks import damage
from ..store import NULL, Row, Write
from .base import Invariant, states, touched

if TYPE_CHECKING:
    from xenctl.releases import Release

    from ..machine.disks import Disk, Guest
    from ..machine.host import HostMachine
    from ..pool import MockPool


def _serves(machine: HostMachine) -> bool:
    """Whether a host is up and part of its pool."""
    return machine.state == "running" and machine.xapi.mode in ("master", "member")


class DataKept(Invariant):
    """Every disk holds what its guest wrote, and every suspend image what was saved."""

    name, tables = "data kept", frozenset({"VM", "VDI", "VBD", "machine"})

    def broken(self, pool: MockPool, writes: list[Write]) -> Iterable[str]:
        for vm in touched(pool, writes, "power_state", "resident_on", "suspend_VDI"):
            yield from self._damage(pool, [vm["uuid"]])
            yield from self._lost_memory(pool, vm)
        yield from self._damage(pool, self._bereft(pool, writes))

    def broken_at_end(self, pool: MockPool) -> Iterable[str]:
        yield from self._damage(pool, pool.guests)
        for vm in pool.store.table("VM").values():
            yield from self._lost_memory(pool, vm)

    @staticmethod
    def _bereft(pool: MockPool, writes: list[Write]) -> Iterable[str]:
        """The uuids of the guests whose disks were deleted."""
        devices = {w.ref: w.old for w in writes if w.table == "VBD" and w.kind == "delete"}
        out: dict[str, None] = {}
        for write in writes:
            if write.table == "VDI" and write.kind == "delete" and write.old["type"] != "suspend":
                vbds = (pool.store.find("VBD", ref) or devices.get(ref) for ref in write.old["VBDs"])
                vms = (pool.store.find("VM", vbd["VM"]) for vbd in vbds if vbd is not None)
                out.update((vm["uuid"], None) for vm in vms if vm is not None)
        return out

    def _lost_memory(self, pool: MockPool, vm: Row) -> Iterable[str]:
        if vm["power_state"] != "Suspended" or vm["is_a_template"] or vm["current_operations"]:
            return
        image = pool.disk_of(vm["suspend_VDI"])
        if image is None or image.blocks.get(0) != pool.guest(vm).image:
            yield f"the suspend image of {vm['name_label']} is not what was saved"

    def _damage(self, pool: MockPool, uuids: Iterable[str]) -> Iterator[str]:
        for uuid in uuids:
            guest = pool.guests.get(uuid)
            if guest is None:
                continue
            for machine in pool.machines:
                domain = machine.domains.get(uuid)
                if domain is not None:
                    domain.catch_up(pool.clock.now())
            yield from damage(guest, pool.disks, only=self.judged(pool, guest))

    def judged(self, pool: MockPool, guest: Guest) -> Iterable[str]:
        """The uuids of the disks that must hold what `guest` wrote."""
        return guest.ledger


class DataFollows(DataKept):
    """The same, but for disks that somebody destroyed: who asks for that loses them."""

    name = "data follows"

    def _lost_memory(self, pool: MockPool, vm: Row) -> Iterable[str]:
        known = pool.store.find("VDI", vm["suspend_VDI"]) is not None
        return super()._lost_memory(pool, vm) if known else ()

    def judged(self, pool: MockPool, guest: Guest) -> Iterable[str]:
        return [uuid for uuid in guest.ledger if uuid in pool.store.by_uuid]


class BeliefHolds(Invariant):
    """What xapi believes to run is what runs: one domain for each running VM, in that state, on the host it says."""

    name, tables = "belief holds", frozenset({"VM", "machine", "host"})

    def broken(self, pool: MockPool, writes: list[Write]) -> Iterable[str]:
        vms: Iterable[Row] = touched(pool, writes, "power_state", "resident_on", "domid")
        if any(w.new == "off" for w in states(writes)):
            vms = [vm for vm in pool.store.table("VM").values() if not vm["is_control_domain"]]
        for vm in vms:
            yield from self.judged(pool, vm)
        yield from self._left_running(pool, writes)

    def broken_at_end(self, pool: MockPool) -> Iterable[str]:
        for vm in pool.store.table("VM").values():
            if not vm["is_control_domain"]:
                yield from self.judged(pool, vm)
        for machine in pool.machines:
            yield from self._unknown(pool, machine)

    def judged(self, pool: MockPool, vm: Row) -> Iterator[str]:
        """What xapi believes of a guest and is not so, as far as it can know."""
        return self._disagreement(pool, vm)

    @staticmethod
    def _disagreement(pool: MockPool, vm: Row) -> Iterator[str]:
        name, state = vm["name_label"], vm["power_state"]
        real = [machine for machine in pool.machines if vm["uuid"] in machine.domains]
        if len(real) > 1:
            yield f"{name} runs on several hosts at once: {', '.join(m.name for m in real)}"
        believed = pool.machine_of(pool.store.find("host", vm["resident_on"]))
        if state not in ("Running", "Paused"):
            believed = None
        if (real[0] if real else None) is not believed:
            where = believed.name if believed else "nowhere"
            yield f"xapi believes {name} on {where}; it runs on {', '.join(m.name for m in real) or 'no host'}"
        elif believed is not None:
            domain = real[0].domains[vm["uuid"]]
            if domain.running != (state == "Running" and not domain.asleep):
                yield f"xapi believes {name} {state}, but its domain {'runs' if domain.running else 'is paused'}"
            if vm["domid"] != domain.domid:
                yield f"xapi believes that the domain of {name} is {vm['domid']}; it is {domain.domid}"

    @staticmethod
    def _left_running(pool: MockPool, writes: list[Write]) -> Iterator[str]:
        """Domains of VMs that were deleted."""
        gone = {w.old["uuid"]: w.old["name_label"] for w in writes if w.table == "VM" and w.kind == "delete"}
        for uuid, name in gone.items():
            for machine in pool.machines:
                if uuid in machine.domains and uuid not in pool.store.by_uuid:
                    yield f"{name} was deleted, and runs on {machine.name}"

    @staticmethod
    def _unknown(pool: MockPool, machine: HostMachine) -> Iterator[str]:
        for uuid in machine.domains:
            if uuid not in pool.store.by_uuid and _serves(machine):
                yield f"{machine.name} runs a domain of {uuid}, which xapi does not know"


class BeliefFollows(BeliefHolds):
    """The same, but for guests that went down with their host: until its toolstack is back and has looked, xapi believes
    what was."""

    name = "belief follows"

    def begin(self, pool: MockPool) -> None:
        self.excused: dict[str, dict[str, None]] = {}

    def broken(self, pool: MockPool, writes: list[Write]) -> Iterable[str]:
        for write in states(writes):
            if write.new != "running":
                row = pool.host_row(pool.machine(write.ref))
                guests = row["resident_VMs"] if row is not None else ()
                self.excused[write.ref] = KeptIndex(items=dict.fromkeys(guests))
        for vm in touched(pool, writes, "power_state", "resident_on", "domid"):
            yield from self.judged(pool, vm)
        for uuid in [uuid for uuid in self.excused if _serves(pool.machine(uuid))]:
            for ref in self.excused.pop(uuid):
                found = pool.store.find("VM", ref)
                if found is not None and not found["is_control_domain"]:
                    yield from self.judged(pool, found)
        yield from self._left_running(pool, writes)

    def judged(self, pool: MockPool, vm: Row) -> Iterator[str]:
        believed = pool.machine_of(pool.store.find("host", vm["resident_on"]))
        if believed is None or _serves(believed):
            yield from self._disagreement(pool, vm)
        else:
            self.excused.setdefault(believed.uuid, {})[vm.ref] = None


class OneWriter(Invariant):
    """No disk is written by two domains, but one that may be shared."""

    name, tables = "one writer", frozenset({"VM", "VBD", "VDI", "machine"})

    def broken(self, pool: MockPool, writes: list[Write]) -> Iterable[str]:
        vdis = dict.fromkeys(w.ref for w in writes if w.table == "VDI" and w.field == "sharable")
        for vm in touched(pool, writes, "power_state", "resident_on"):
            vdis.update(dict.fromkeys(vbd["VDI"] for vbd in pool.vbds(vm)))
        for ref in dict.fromkeys(w.ref for w in writes if w.table == "VBD" and w.kind != "delete"):
            vbd = pool.store.find("VBD", ref)
            vdis[vbd["VDI"] if vbd is not None else NULL] = None
        for ref in vdis:
            disk, row = pool.disk_of(ref), pool.store.find("VDI", ref)
            if disk is not None and row is not None:
                yield from self._shared(disk, sharable=row["sharable"])

    def broken_at_end(self, pool: MockPool) -> Iterable[str]:
        for uuid, disk in pool.disks.items():
            if len(disk.writers) > 1:
                table, ref = pool.store.by_uuid.get(uuid, ("VDI", NULL))
                vdi = pool.store.find(table, ref)
                yield from self._shared(disk, sharable=vdi is not None and vdi["sharable"])

    @staticmethod
    def _shared(disk: Disk, *, sharable: bool) -> Iterator[str]:
        if len(disk.writers) > 1 and not sharable:
            yield f"disk {disk.uuid} is written by {len(disk.writers)} domains"


class MemoryFits(Invariant):
    """No host is given more guests than its memory holds beside its control domain, nor do more run on it.

    Both are kept as sums: by host what the VMs need that are or will be there, by machine what its domains need. A VM whose
    memory is changed where it runs is not judged: xapi does not ask its host then. What a host held when the watch began
    may be too much, but not become more.
    """

    name, tables = "memory fits", frozenset({"VM", "machine"})
    PLACES = frozenset({"resident_on", "scheduled_to_be_resident_on", "domid", "power_state"})
    SIZES = frozenset(
        "memory_static_max memory_dynamic_min VCPUs_max HVM_boot_policy HVM_shadow_multiplier is_control_domain".split()
    )

    def begin(self, pool: MockPool) -> None:
        self.release: Release = pool.store.release
        self.shares: dict[str, tuple[tuple[str, int], ...]] = {}
        self.sums: dict[str, int] = {}
        for vm in pool.store.table("VM").values():
            self._place(pool, vm.ref)

    def broken(self, pool: MockPool, writes: list[Write]) -> Iterable[str]:
        if states(writes) or pool.store.release is not self.release:
            self.begin(pool)
            return
        placed = {w.ref for w in writes if w.table == "VM" and (w.field in self.PLACES or w.kind == "create")}
        sized = {w.ref for w in writes if w.table == "VM" and (w.field in self.SIZES or w.kind == "delete")}
        risen: dict[str, None] = {}
        for ref in sorted(placed | sized):
            grown = self._place(pool, ref)
            if ref in placed:
                risen.update(dict.fromkeys(grown))
        for place in risen:
            yield from self._over(pool, place)

    def _place(self, pool: MockPool, ref: str) -> list[str]:
        """Count a VM anew; returns where it takes more than before."""
        vm, old = pool.store.find("VM", ref), dict(self.shares.pop(ref, ()))
        now: dict[str, int] = {}
        if vm is not None:
            needed = memory.needed(vm, self.release)
            found = None if vm["is_control_domain"] else pool.domain(vm)
            places = [vm["resident_on"], vm["scheduled_to_be_resident_on"], found[0].uuid if found else NULL]
            now = {place: needed for place in places if place != NULL}
        if now:
            self.shares[ref] = tuple(now.items())
        for place in {*old, *now}:
            self.sums[place] = self.sums.get(place, 0) + now.get(place, 0) - old.get(place, 0)
        return [place for place, size in now.items() if size > old.get(place, 0)]

    def _over(self, pool: MockPool, place: str) -> Iterator[str]:
        """Whether a host, by its reference, or a machine, by its uuid, holds more than it can."""
        host = pool.store.find("host", place)
        if host is not None:
            total = rules.memory_for_vms(pool.store, host)
            if self.sums[place] > total:
                yield f"the VMs on {host['name_label']} take more than its memory: {self.sums[place]} of {total} bytes"
            return
        machine = next((m for m in pool.machines if m.uuid == place), None)
        if machine is not None:
            _, ref = pool.store.by_uuid.get(machine.system.control_domain_uuid, ("VM", NULL))
            dom0 = pool.store.find("VM", ref)
            taken = self.sums[place] + (int(dom0["memory_static_max"]) if dom0 is not None else 0)
            if taken > machine.memory:
                yield f"the domains of {machine.name} take more than its memory: {taken} of {machine.memory} bytes"
