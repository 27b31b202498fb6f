"""Each invariant of a rolling upgrade against a saboteur that it must catch, and against a clean run."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest

from mockserver import MockPool
from mockserver.invariants import rolling_upgrade
from xenctl.errors import Failure
from xenctl.rehearsal import rehearse
from xenctl.releases import find


@dataclass
class Sabotage:
    """A pool that is watched, and shorthands for harming it."""

    pool: MockPool
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
]


@pytest.mark.parametrize(("name", "sabotage"), SABOTEURS, ids=lambda value: getattr(value, "__name__", str(value)))
def test_an_invariant_catches_its_saboteur(name: str, sabotage: Callable[[Sabotage], None]) -> None:
    """What the saboteur does is found by the invariant that forbids it."""
    pool = MockPool.create(release="4.0.1")
    pool.watch(*rolling_upgrade())
    saboteur = Sabotage(pool)
    saboteur.backup()
    try:
        sabotage(saboteur)
    except Failure as refusal:  # the fake may refuse what an invariant would have caught; that is no proof
        pytest.fail(f"the saboteur was refused: {refusal}")
    assert name in {violation.invariant for violation in pool.violations}, pool.violations


def test_every_invariant_has_a_saboteur() -> None:
    """No invariant is left unproven."""
    assert {invariant.name for invariant in rolling_upgrade()} == {name for name, _ in SABOTEURS}


def test_what_the_plan_named_may_stop() -> None:
    """A guest that was named before the start may be shut down."""
    pool = MockPool.create(release="4.0.1")
    saboteur = Sabotage(pool)
    pool.watch(*rolling_upgrade(may_stop=[saboteur.vm("vm01")["uuid"]]))
    saboteur.backup()
    guest_stopped(saboteur)
    assert pool.violations == []


def test_a_violation_says_when_and_after_what() -> None:
    """A violation carries the simulated time and the call that led to it, and is reported once."""
    pool = MockPool.create(release="4.0.1")
    pool.watch(*rolling_upgrade())
    saboteur = Sabotage(pool)
    pool.clock.advance(100)
    changed_without_backup(saboteur)
    changed_without_backup(saboteur)
    (found,) = pool.violations
    assert found.as_dict() == {
        "invariant": "backup first",
        "at": pool.clock.now(),
        "cause": "VM.set_name_description",
        "text": "the pool was changed (VM name_description) before a backup was taken",
    }


@pytest.mark.parametrize("release", ["4.0.1", "4.1.0", "5.0.0", "5.6.0", "6.2.0", "7.1.0", "8.2.0"])
def test_a_clean_upgrade_breaks_nothing(release: str) -> None:
    """The real procedure on every generation of releases breaks no invariant."""
    verdict = rehearse(release=release)
    assert verdict.violations == []
    assert verdict.ok, verdict.reasons
