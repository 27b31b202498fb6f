"""Saboteurs: each harms a watched pool in a way that an invariant has to see."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest

from mockserver import MockPool, placement
from mockserver.classes.event import OldEvents
from mockserver.store import Row, Store
from xenctl.releases import find


@dataclass
class Sabotage:
    """A pool that is watched, and shorthands for harming it."""

    pool: MockPool
    patch: pytest.MonkeyPatch
    session: str = ""

    def call(self, method: str, *args: Any) -> Any:
        if not self.session:
            self.session = self.pool.dispatch("session.login_with_password", ["root", "secret"])
        return self.pool.dispatch(method, [self.session, *args])

    def ref(self, kind: str, name: str) -> str:
        return self.call(f"{kind}.get_by_name_label", name)[0]

    def vm(self, name: str) -> Any:
        return self.pool.store.get("VM", self.ref("VM", name))

    def host(self, name: str) -> Any:
        return self.pool.store.get("host", self.ref("host", name))

    def upgrade(self, name: str, release: str = "4.1.0") -> None:
        """Put another release on a host behind everybody's back."""
        self.pool.machine(name).system.release = find(release)

    def backup(self) -> None:
        self.pool.downloaded(b"a dump", whole=True)


def two_hosts_off(s: Sabotage) -> None:
    s.pool.machine("host2").power_off()
    s.pool.machine("host3").power_off()


def member_first(s: Sabotage) -> None:
    s.upgrade("host2")
    s.pool.machine("host2").power_off()


def master_moved(s: Sabotage) -> None:
    s.pool.store.write(s.pool.store.pool(), master=s.ref("host", "host2"))
    s.call("pool.get_all")


def two_masters(s: Sabotage) -> None:
    s.pool.machine("host2").xapi.mode = "master"
    s.call("host.set_name_description", s.ref("host", "host3"), "changed")


def moved_back(s: Sabotage) -> None:
    s.upgrade("host1")
    s.call("VM.pool_migrate", s.ref("VM", "vm01"), s.ref("host", "host2"), {})


def started_on_old_host(s: Sabotage) -> None:
    s.upgrade("host1")
    s.call("VM.start_on", s.ref("VM", "vm04"), s.ref("host", "host2"), False, False)


def changed_without_backup(s: Sabotage) -> None:
    s.pool.downloads.clear()
    s.pool.downloaded(b"a stub", whole=False)
    s.call("VM.set_name_description", s.ref("VM", "vm01"), "changed")


def ha_left_on(s: Sabotage) -> None:
    dict.__setitem__(s.pool.store.pool(), "ha_enabled", True)  # a field that this release does not know
    s.pool.machine("host2").power_off()


def disk_added_while_mixed(s: Sabotage) -> None:
    s.upgrade("host1")
    sr = s.ref("SR", "NFS virtual disk storage")
    record = {
        "name_label": "new",
        "SR": sr,
        "virtual_size": "1048576",
        "type": "user",
        "sharable": False,
        "read_only": False,
        "other_config": {},
    }
    s.call("VDI.create", record)


def disk_resized_while_mixed(s: Sabotage) -> None:
    s.upgrade("host1")
    s.call("VDI.resize", s.ref("VDI", "disk of vm04"), str(9 << 30))


def suspended_while_mixed(s: Sabotage) -> None:
    s.upgrade("host1")
    s.call("VM.suspend", s.ref("VM", "vm01"))


def guest_stopped(s: Sabotage) -> None:
    s.call("VM.clean_shutdown", s.ref("VM", "vm01"))


def guest_left_off(s: Sabotage) -> None:
    s.call("VM.clean_shutdown", s.ref("VM", "vm01"))
    s.pool.conclude()


def guest_left_away(s: Sabotage) -> None:
    s.call("VM.pool_migrate", s.ref("VM", "vm01"), s.ref("host", "host2"), {})
    s.pool.conclude()


def host_left_disabled(s: Sabotage) -> None:
    s.call("host.disable", s.ref("host", "host2"))
    s.pool.conclude()


def block_lost(s: Sabotage) -> None:
    s.pool.clock.advance(3600)
    s.call("VM.clean_shutdown", s.ref("VM", "vm01"))
    s.pool.disks[s.pool.store.get("VDI", s.ref("VDI", "disk of vm01"))["uuid"]].blocks.popitem()
    s.pool.conclude()


def disk_destroyed(s: Sabotage) -> None:
    s.pool.clock.advance(3600)
    s.call("VM.clean_shutdown", s.ref("VM", "vm01"))
    s.call("VDI.destroy", s.ref("VDI", "disk of vm01"))


def halted_guests_disk_destroyed(s: Sabotage) -> None:
    s.call("VDI.destroy", s.ref("VDI", "disk of vm04"))


def suspend_image_overwritten(s: Sabotage) -> None:
    image = s.pool.disk_of(s.vm("vm06")["suspend_VDI"])
    assert image is not None
    image.blocks[0] = b"something else"
    s.pool.conclude()


def suspend_image_dropped(s: Sabotage) -> None:
    s.pool.store.write(s.vm("vm06"), suspend_VDI="OpaqueRef:NULL")
    s.call("pool.get_all")


def guest_restarted(s: Sabotage) -> None:
    s.call("VM.clean_reboot", s.ref("VM", "vm01"))


def disc_left_out(s: Sabotage) -> None:
    s.call("VBD.eject", next(vbd.ref for vbd in s.pool.vbds(s.vm("vm02")) if vbd["type"] == "CD"))
    s.pool.conclude()


def saved_state_thrown_away(s: Sabotage) -> None:
    vm = s.vm("vm06")
    s.call("VM.hard_shutdown", vm.ref)
    s.call("VM.start", vm.ref, False, False)
    s.pool.clock.advance(120)
    s.call("VM.suspend", vm.ref)
    s.pool.conclude()


def storage_left_unplugged(s: Sabotage) -> None:
    for pbd in s.pool.store.get("SR", s.ref("SR", "Local storage on host2"))["PBDs"]:
        s.call("PBD.unplug", pbd)
    s.pool.conclude()


def stopped_half_way(s: Sabotage) -> None:
    s.upgrade("host1")
    s.pool.conclude()


def belief_wrong(s: Sabotage) -> None:
    vm = s.vm("vm01")
    s.pool.store.write(vm, resident_on=s.ref("host", "host2"))
    s.call("VM.get_power_state", vm.ref)


def runs_twice(s: Sabotage) -> None:
    vm = s.vm("vm01")
    s.pool.start_domain(vm, s.pool.machine("host2"))
    s.call("VM.pause", vm.ref)


def power_lost(s: Sabotage) -> None:
    s.pool.machine("host2").power_off()


def overcommitted(s: Sabotage) -> None:
    s.pool.store.write(s.host("host2"), boot_free_mem=1 << 30)
    s.pool.store.write(s.vm("vm01"), resident_on=s.ref("host", "host2"))
    s.call("pool.get_all")


def overcommitted_among_others(s: Sabotage) -> None:
    """The same call says of a machine what is no matter of memory."""
    host = s.host("host2")
    s.pool.store.write(host, boot_free_mem=1 << 30)
    s.pool.store.write(s.vm("vm01"), resident_on=host.ref)
    s.call("host.send_debug_keys", host.ref, "h")


def started_without_room(s: Sabotage) -> None:
    """The verb forgets to ask for memory, on a machine that is full."""
    s.pool.machine("host2").memory = 2 << 30
    s.patch.setattr(placement, "assert_memory", lambda pool, vm, host: None)
    s.call("VM.start_on", s.ref("VM", "vm04"), s.ref("host", "host2"), False, False)


def mistaken_member(s: Sabotage) -> None:
    s.pool.machine("host2").system.role = "slave:10.9.9.9"
    s.call("host.set_name_description", s.ref("host", "host3"), "changed")


def paused_behind(s: Sabotage) -> None:
    s.pool.machine("host1").domains[s.vm("vm01")["uuid"]].pause(s.pool.clock.now())
    s.pool.conclude()


def another_domain(s: Sabotage) -> None:
    s.pool.store.write(s.vm("vm01"), domid=99)
    s.call("pool.get_all")


def deleted_while_it_runs(s: Sabotage) -> None:
    s.pool.store.delete(s.vm("vm01"))
    s.call("pool.get_all")


def opened_twice(s: Sabotage) -> None:
    """A second guest opens a disk, and its device is told of."""
    vbd = next(vbd for vbd in s.pool.vbds(s.vm("vm02")) if vbd["type"] == "Disk")
    disk = s.pool.disk_of(s.pool.vbds(s.vm("vm01"))[0]["VDI"]) or s.pool.disk_of(s.pool.vbds(s.vm("vm01"))[1]["VDI"])
    assert disk is not None
    s.pool.machine("host2").domains[s.vm("vm02")["uuid"]].open(disk, s.pool.clock.now())
    s.pool.store.write(vbd, VDI=s.pool.store.by_uuid[disk.uuid][1])
    s.call("pool.get_all")


def far_end_changed(s: Sabotage) -> None:
    dict.__setitem__(s.vm("vm01"), "VIFs", [])
    s.pool.conclude()


def far_end_left_behind(s: Sabotage) -> None:
    """The store forgets to keep the other end in step."""
    s.patch.setattr(Store, "_join", lambda *_: None)
    s.call("VBD.eject", next(vbd.ref for vbd in s.pool.vbds(s.vm("vm02")) if vbd["type"] == "CD"))


def far_end_twice(s: Sabotage) -> None:
    host = s.host("host3")
    dict.__setitem__(host, "resident_VMs", [s.vm("vm01").ref, *host["resident_VMs"]])
    s.call("VM.pool_migrate", s.ref("VM", "vm01"), host.ref, {})


def metrics_dropped(s: Sabotage) -> None:
    s.pool.store.delete(s.pool.store.get("VM_metrics", s.vm("vm01")["metrics"]))
    s.call("pool.get_all")


def devices_left_behind(s: Sabotage) -> None:
    s.pool.store.delete(s.vm("vm04"))
    s.call("pool.get_all")


def leads_nowhere(s: Sabotage) -> None:
    s.pool.store.write(s.vm("vm01"), guest_metrics="OpaqueRef:none")
    s.call("pool.get_all")


def operation_of_nobody(s: Sabotage) -> None:
    s.pool.store.write(s.vm("vm01"), current_operations={"OpaqueRef:none": "pause"})
    s.call("pool.get_all")


def task_dropped(s: Sabotage) -> None:
    s.pool.drop_task(s.call("Async.VM.clean_shutdown", s.ref("VM", "vm01")))
    s.call("pool.get_all")


def task_over_too_early(s: Sabotage) -> None:
    s.pool.finish_task(s.call("Async.VM.clean_shutdown", s.ref("VM", "vm01")))
    s.call("pool.get_all")


def written_untold(s: Sabotage) -> None:
    """The store forgets to stamp what it writes."""
    write = Store.write

    def forgetful(self: Store, row: Row, **fields: Any) -> None:
        recent, modified = self.tables[row.table].recent, row.modified
        kept = len(recent)
        write(self, row, **fields)
        row.modified = modified
        del recent[kept:]

    with s.patch.context() as patch:
        patch.setattr(Store, "write", forgetful)
        s.call("VM.set_name_description", s.ref("VM", "vm01"), "changed")


def told_unwritten(s: Sabotage) -> None:
    s.pool.store._stamp(s.vm("vm01"), s.pool.store.next_generation())
    s.call("VM.set_name_description", s.ref("VM", "vm02"), "changed")


def changed_after_it_was_written(s: Sabotage) -> None:
    vm = s.vm("vm01")
    s.pool.store.write(vm, name_description="said")
    dict.__setitem__(vm, "name_description", "meant")
    s.call("pool.get_all")


def not_queued(s: Sabotage) -> None:
    s.call("event.register", ["vm"])
    s.call("VM.set_name_description", s.ref("VM", "vm01"), "before")
    s.patch.setattr(OldEvents, "note", lambda self, pool, write: None)
    s.call("VM.set_name_description", s.ref("VM", "vm01"), "changed")


def queued_twice(s: Sabotage) -> None:
    s.call("event.register", ["vm"])
    s.call("VM.set_name_description", s.ref("VM", "vm01"), "before")
    note = OldEvents.note
    s.patch.setattr(OldEvents, "note", lambda *args: (note(*args), note(*args))[0])
    s.call("VM.set_name_description", s.ref("VM", "vm01"), "changed")


SABOTEURS: list[tuple[str, Callable[[Sabotage], None]]] = [
    ("one host offline", two_hosts_off),
    ("master newest", member_first),
    ("master newest", master_moved),
    ("one master", two_masters),
    ("no step back", moved_back),
    ("no step back", started_on_old_host),
    ("backup first", changed_without_backup),
    ("HA off", ha_left_on),
    ("disks still", disk_added_while_mixed),
    ("disks still", disk_resized_while_mixed),
    ("disks still", suspended_while_mixed),
    ("guests run", guest_stopped),
    ("guests run", guest_left_off),
    ("guests run", guest_left_away),
    ("hosts enabled", host_left_disabled),
    ("hosts enabled", storage_left_unplugged),
    ("hosts enabled", stopped_half_way),
    ("discs back", disc_left_out),
    ("guests run", saved_state_thrown_away),
    ("data kept", block_lost),
    ("data kept", disk_destroyed),
    ("data kept", halted_guests_disk_destroyed),
    ("data kept", suspend_image_overwritten),
    ("data kept", suspend_image_dropped),
    ("guests run", guest_restarted),
    ("belief holds", belief_wrong),
    ("belief holds", runs_twice),
    ("belief holds", power_lost),
    ("one writer", runs_twice),
    ("memory fits", overcommitted),
    ("memory fits", overcommitted_among_others),
    ("memory fits", started_without_room),
    ("one master", master_moved),
    ("one master", mistaken_member),
    ("belief holds", paused_behind),
    ("belief holds", another_domain),
    ("belief holds", deleted_while_it_runs),
    ("one writer", opened_twice),
    ("references hold", far_end_changed),
    ("references hold", far_end_left_behind),
    ("references hold", far_end_twice),
    ("references hold", metrics_dropped),
    ("references hold", devices_left_behind),
    ("references hold", leads_nowhere),
    ("operations have tasks", operation_of_nobody),
    ("operations have tasks", task_dropped),
    ("operations have tasks", task_over_too_early),
    ("events told", written_untold),
    ("events told", told_unwritten),
    ("events told", changed_after_it_was_written),
    ("events told", not_queued),
    ("events told", queued_twice),
]
