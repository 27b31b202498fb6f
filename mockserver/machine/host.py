"""A physical host: power, a boot device, what is installed on its disk, and the domains it runs.

A `System` is a root file system. It carries the identity that an upgrade preserves (the two uuids), the role file, and on
a master the pool database. The installer copies it to the backup partition before it writes a new one.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from xenctl.releases import Release, accepts, find

from ..journal import Kept
from .update_repositories import COMPONENTS, Livepatch, Mirror

if TYPE_CHECKING:
    from xenctl.database import Database

    from ..clock import Timer, VirtualClock
    from ..startup import Xapi
    from ..store import Store
    from .disks import Domain


OLD_SECRET, NEW_SECRET = "/var/lib/xcp/ptoken.old", "/var/lib/xcp/ptoken.new"
"""Where a host keeps both secrets while the pool's is rotated."""
ASKS_THE_MASTER = find("6.0.0")
"""The first release whose installer logs in to a member's master before it offers an upgrade."""


@dataclass(frozen=True)
class Durations:
    """Simulated seconds that things take, and bytes a second that move."""

    firmware: float = 60.0
    os_boot: float = 120.0
    os_shutdown: float = 40.0
    shutdown_delay: float = 10.0
    installer_boot: float = 90.0
    install: float = 780.0
    first_boot: float = 180.0
    storage_plug: float = 15.0
    member_retry: float = 30.0
    member_settle: float = 2.0
    garbage_collection: float = 30.0
    assumed_dead: float = 600.0
    vm_create: float = 2.0
    vm_boot: float = 30.0
    vm_shutdown: float = 25.0
    vm_destroy: float = 2.0
    device: float = 1.0
    patch: float = 60.0
    sync_updates: float = 30.0
    volume: float = 1.0
    scan: float = 2.0
    copy_rate: float = 80e6
    migrate_setup: float = 3.0
    migrate_rate: float = 100e6
    save_setup: float = 2.0
    save_rate: float = 80e6
    transfer_rate: float = 100e6
    host_backup: float = 60.0
    restore_fuse: float = 30.0


@dataclass
class System(Kept):
    """What is installed on a host's disk. `role` is the role file: `master`, or `slave:` and the master's address."""

    release: Release
    installation_uuid: str
    control_domain_uuid: str
    role: str
    pool_secret: str
    database: Store | None = None
    saved: Database | None = None
    restored: Database | None = None
    """A database that was put here by a restore: the next start of the toolstack takes it, and it alone."""
    installed: dict[str, str] = field(default_factory=dict)
    """The packages that came with updates: their versions by their names with architecture."""
    mirrors: dict[str, Mirror] = field(default_factory=dict)
    """On a master: copies of update repositories, by their uuids."""
    new: bool = False
    """Set by the installer: the next boot is the first one of this system."""
    stranger: bool = False
    """Set by a clean installation: the host is a pool of its own, with a database that nobody here looks at."""
    files: dict[str, bytes] = field(default_factory=dict)
    """What verbs wrote on the disk, by path. The dict is replaced, never changed: a backup may share it."""

    @property
    def secrets(self) -> tuple[str, ...]:
        """The secrets of the pool that are taken, the one that is sent first: two while a rotation goes on."""
        known = (self.files[path].decode() for path in (OLD_SECRET, NEW_SECRET) if path in self.files)
        return (self.pool_secret, *(secret for secret in known if secret != self.pool_secret))


class MachineRoomError(Exception):
    """A physical act that cannot be done to a machine in its state; says which and why."""


@dataclass(eq=False)
class HostMachine(Kept):
    """One host in the machine room.

    `state` is `off`, `starting`, `installer`, `installing`, `running` or `stopping`; only a `running` one answers on the
    network. `boots` counts its starts, so that whoever waits notices a restart.
    """

    name: str
    uuid: str
    address: str
    memory: int
    clock: VirtualClock
    durations: Durations
    system: System
    backup: System | None = None
    media: Release | None = None
    state: str = "off"
    boots: int = 0
    domains: dict[str, Domain] = field(default_factory=dict)
    nics: tuple[tuple[str, str], ...] = ()
    """The network cards that are plugged in: device names and MACs."""
    bridges: frozenset[str] = frozenset()
    """The bridges that the control domain has beside those of its cards."""
    booted: dict[str, str] = field(default_factory=dict)
    """The packages as they were when it booted: so old is what runs."""
    livepatches: dict[str, Livepatch] = field(default_factory=dict)
    """What was patched since, by component."""
    xapi: Xapi = field(init=False)
    on_running: Callable[[HostMachine], None] = lambda machine: None
    on_stopped: Callable[[HostMachine, bool], None] = lambda machine, clean: None
    on_state: Callable[[HostMachine, str], None] = lambda machine, old: None
    masters_release: Callable[[], Release | None] = lambda: None
    """What the installer learns from the pool's master; None where that does not answer."""
    beats: Timer | None = None
    """When the master takes this host for dead, while it does not hear from it."""
    _timer: Timer | None = None

    @property
    def answers(self) -> bool:
        """Whether its port is open: it runs, and so does its toolstack."""
        return self.state == "running" and self.xapi.mode != "dead"

    def _become(self, state: str) -> None:
        old, self.state = self.state, state
        if old != state:
            self.on_state(self, old)

    def _later(self, seconds: float, action: Callable[[], None]) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer = self.clock.after(seconds, action)

    def power_on(self) -> None:
        """Press the power button; it boots the medium in the drive where there is one, else its disk."""
        if self.state != "off":
            raise MachineRoomError(f"{self.name} is on already ({self.state})")
        self._become("starting")
        if self.media is not None:
            self._later(self.durations.firmware + self.durations.installer_boot, lambda: self._become("installer"))
        else:
            boot = self.durations.first_boot if self.system.new else self.durations.os_boot
            self._later(self.durations.firmware + boot, self._running)

    def build_id(self, component: str) -> str:
        """The build of `xen` or `kernel` that runs."""
        package = self.booted.get(COMPONENTS[component], "")
        text = f"{component} {self.system.release.name} {package}"
        return hashlib.sha1(text.encode(), usedforsecurity=False).hexdigest()

    def _running(self) -> None:
        self.boots += 1
        self.booted, self.livepatches = dict(self.system.installed), {}
        self._become("running")
        self.on_running(self)

    def power_off(self) -> None:
        """Pull the plug: every domain is gone at once."""
        if self._timer is not None:
            self._timer.cancel()
        was_running = self.state == "running"
        for domain in list(self.domains.values()):
            domain.end(self.clock.now())
        self.domains.clear()
        self._become("off")
        if was_running:
            self.on_stopped(self, False)

    def shut_down(self, then_on: bool) -> None:
        """What the operating system does when told to halt or reboot: stop, then off, then on again where asked."""
        if self.state != "running":
            return
        self.on_stopped(self, True)
        self._become("stopping")

        def off() -> None:
            self.power_off()
            if then_on:
                self.power_on()

        self._later(self.durations.os_shutdown, off)

    def insert_media(self, release: Release) -> None:
        """Put the installation medium of `release` into the drive."""
        self.media = release

    def eject_media(self) -> None:
        """Take the medium out."""
        self.media = None

    def identified(self) -> Release:
        """The release that the installer on screen says it found on the disk."""
        self._at_installer()
        return self.system.release

    def offers(self) -> tuple[str, ...]:
        """What the installer on screen offers: `upgrade` only for a release it accepts, whose first boot was completed, and
        since 6.0 not before the master was upgraded; `fresh` always; `restore` where the backup partition holds a system of
        a release it accepts."""
        media = self._at_installer()
        out = ["fresh"]
        if accepts(media, self.system.release) and not self.system.new and not self._before_its_master(media):
            out.insert(0, "upgrade")
        if self.backup is not None and accepts(media, self.backup.release):
            out.append("restore")
        return tuple(out)

    def _before_its_master(self, media: Release) -> bool:
        master = self.masters_release() if media >= ASKS_THE_MASTER and self.system.role != "master" else None
        return master is not None and master < media

    def answer(self, choice: str, *, fresh: Callable[[System], System]) -> None:
        """Answer the installer on screen. It copies the old system to the backup partition, installs, ejects the medium
        and boots from disk. `fresh` makes the system of a clean installation from the old one."""
        media = self._at_installer()
        if choice not in self.offers():
            raise MachineRoomError(
                f"the {media.product_version} installer on {self.name} does not offer {choice!r}: it found "
                f"{self.system.release.product_version} and offers {', '.join(self.offers())}"
            )
        self._become("installing")
        self._later(self.durations.install, lambda: self._installed(choice, media, fresh))

    def _installed(self, choice: str, media: Release, fresh: Callable[[System], System]) -> None:
        old = self.system
        if choice == "restore":
            assert self.backup is not None
            installed, mirrors = dict(self.backup.installed), dict(self.backup.mirrors)
            self.system = replace(self.backup, installed=installed, mirrors=mirrors)
        elif choice == "upgrade":
            saved = old.database.dump() if old.database is not None else old.saved
            self.backup = replace(old, database=None, saved=saved)
            self.system = replace(old, release=media, installed={}, mirrors={}, new=True)
        else:
            self.system = replace(fresh(old), release=media, installed={}, mirrors={}, new=True)
        self.media = None
        self._become("off")
        self.power_on()

    def _at_installer(self) -> Release:
        if self.state != "installer" or self.media is None:
            raise MachineRoomError(f"{self.name} does not show an installer: it is {self.state}")
        return self.media
