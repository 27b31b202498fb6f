"""A physical host: power, a boot device, what is installed on its disk, and the domains it runs.

A `System` is a root file system. It carries the identity that an upgrade preserves (the two uuids), the role file, and on
a master the pool database. The installer copies it to the backup partition before it writes a new one.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from xenctl.errors import ProcedureError
from xenctl.releases import Release, accepts, find

from ..journal import Kept
from .update_repositories import COMPONENTS, Livepatch, Mirror
from .usb import UsbDevice

if TYPE_CHECKING:
    from xenctl.database import Database

    from ..clock import Timer, VirtualClock
    from ..pool import MockPool
    from ..startup import Xapi
    from ..store import Store
    from .disks import Domain
    from .ha import Settings


OLD_SECRET, NEW_SECRET = "/var/lib/xcp/ptoken.old", "/var/lib/xcp/ptoken.new"
"""Where a host keeps both secrets while the pool's is rotated."""
ASKS_THE_MASTER = find("6.0.0")
"""The first release whose installer logs in to a member's master before it offers an upgrade."""
MINDS_ARMED = find("5.5.0")
"""The first release whose installer does not upgrade a host on which high availability is armed."""


LOCAL: dict[str, Any] = {"ha": None, "static_vdis": ()}
"""What a host keeps for itself, as an installer leaves it."""


@dataclass(frozen=True)
class Durations:
    """Simulated seconds that things take, and bytes a second that move; for `MockPool.create`, `from_dump`, `from_session`.

    `jitter` is a share from 0 to less than 1: each time something takes that much less, or more, at the most, drawn from the
    pool's seed. Raises `ValueError` for what is no such number.

    Hosts: `firmware` and `os_boot` (`first_boot` after an installation) make a start, `os_shutdown` a stop, which begins
    `shutdown_delay` after the call; `installer_boot` and `install` are those of a medium. Toolstacks: `storage_plug` at a
    start, `member_retry` and `member_settle` of members that look for their master, `garbage_collection` between two passes
    of the master, `assumed_dead` without a heartbeat, `restore_fuse` from a restored database to the restart.

    VMs: `vm_create`, `vm_boot` until the agent reports, `vm_shutdown` if clean, `vm_destroy` if not; a migration takes
    `migrate_setup` and its memory at `migrate_rate`, suspending and resuming `save_setup` and the memory at `save_rate`.

    Storage and the rest: `device` for plugging one, `volume` for a disk made or changed, `scan` of a repository, `copy_rate`
    of disks, `transfer_rate` of uploads and downloads, `host_backup`, `patch` for applying one. `operation_wait` is how long
    a call waits for another operation on its object to end; with 0 it is refused at once.
    """

    jitter: float = 0.0
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
    operation_wait: float = 7200.0
    restore_fuse: float = 30.0
    toolstack_fuse: float = 10.0
    ha_join: float = 10.0
    ha_timeout: float = 60.0
    ha_monitor: float = 20.0
    ha_healthcheck: float = 120.0
    ha_retry: float = 120.0
    ha_replan: float = 1800.0
    ha_patience: float = 1800.0

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            if not isinstance(value, (int, float)) or isinstance(value, bool) or not math.isfinite(value) or value < 0:
                raise ValueError(f"{name} is a number of seconds, or of bytes a second, not {value!r}")
            if name.endswith("_rate") and not value:
                raise ValueError(f"{name} is a number of bytes a second above 0, not {value!r}")
        if not self.jitter < 1:
            raise ValueError(f"jitter is a share from 0 to less than 1, not {self.jitter!r}")


@dataclass
class System(Kept):
    """What is installed on a host's disk. `role` is the role file: `master`, or `slave:` and the master's address."""

    release: Release
    installation_uuid: str
    control_domain_uuid: str
    role: str
    pool_secret: str
    pool: MockPool = field(repr=False, compare=False)
    """The pool whose host it is, or of which it was one when it last ran."""
    database: Store | None = None
    saved: Database | None = None
    restored: Database | None = None
    """A database that was put here by a restore: the next start of the toolstack takes it, and it alone."""
    installed: dict[str, str] = field(default_factory=dict)
    """The packages that came with updates: their versions by their names with architecture."""
    packs: dict[str, str] = field(default_factory=dict)
    """Supplemental packs that somebody installed: what each says of itself, by `originator:name`."""
    mirrors: dict[str, Mirror] = field(default_factory=dict)
    """On a master: copies of update repositories, by their uuids."""
    password: str = ""
    """Root's."""
    management: str = ""
    """The bridge that the host is reached by, where somebody has said so since it was installed; `none` for not at all."""
    network_backend: str = ""
    """How networks are made, `bridge` or `openvswitch`, where somebody has chosen."""
    local: dict[str, str] = field(default_factory=dict)
    """The toolstack's own keys and values, which no database holds."""
    new: bool = False
    """Set by the installer: the next boot is the first one of this system."""
    syslog: str = ""
    """Where log messages go beside the disk: the address of a server, or empty."""
    archived_at: float = 0.0
    """When what was measured here was last put where a restart does not lose it; 0 if never."""
    ha: Settings | None = None
    """What high availability was configured with here."""
    static_vdis: tuple[tuple[str, str], ...] = ()
    """The disks that are attached before the toolstack starts: their uuids, and what each is for."""
    files: dict[str, bytes] = field(default_factory=dict)
    """What verbs wrote on the disk, by path. The dict is replaced, never changed: a backup may share it."""

    @property
    def armed(self) -> bool:
        """Whether the daemon of high availability starts with each boot."""
        return self.ha is not None and self.ha.armed

    @property
    def secrets(self) -> tuple[str, ...]:
        """The secrets of the pool that are taken, the one that is sent first: two while a rotation goes on."""
        known = (self.files[path].decode() for path in (OLD_SECRET, NEW_SECRET) if path in self.files)
        return (self.pool_secret, *(secret for secret in known if secret != self.pool_secret))


@dataclass(frozen=True)
class Hardware:
    """What a start finds in a host: fields of its row, those of a row for each processor, the card of its management
    interface, and the bytes of its disk."""

    fields: Mapping[str, Any]
    processors: tuple[Mapping[str, Any], ...]
    management: str
    disk: int


class MachineRoomError(ProcedureError):
    """A physical act that cannot be done to a machine in its state; says which and why. All hands refuse in this way,
    so that a run stops and can be resumed."""


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
    hardware: Hardware = field(repr=False)
    local_storage: list[str] = field(default_factory=list)
    """The uuids of the storage repositories on its own disk."""
    next: System | None = field(default=None, repr=False)
    """What its files say already, for the next start of its toolstack."""
    backup: System | None = None
    media: Release | None = None
    half_written: bool = False
    """Set while an installer writes the system of its disk, until it is done: a host whose power fails then boots nothing
    from it."""
    told: str = ""
    """What the installer in the drive does without asking, because an answer file says so; empty where it asks."""
    prepared: Release | None = None
    """What the boot loader installs at the next boot, without asking, instead of booting the disk."""
    fetched: Release | None = None
    """The installer that was booted that way, while it is on screen."""
    shown: Release | None = None
    """The installer on screen. It runs from memory, and goes on showing what it found when its medium is taken out."""
    state: str = "off"
    boots: int = 0
    up_since: float = 0.0
    """When it was last booted from its disk."""
    domains: dict[str, Domain] = field(default_factory=dict)
    nics: tuple[tuple[str, str], ...] = ()
    """The network cards that are plugged in: device names and MACs."""
    usbs: tuple[UsbDevice, ...] = ()
    """The USB devices in its ports."""
    virtual_functions: dict[str, int] = field(default_factory=dict)
    """How many virtual functions each card can have, by its PCI address."""
    bridges: frozenset[str] = frozenset()
    """The bridges that the control domain has beside those of its cards."""
    booted: dict[str, str] = field(default_factory=dict)
    """The packages as they were when it booted: so old is what runs."""
    livepatches: dict[str, Livepatch] = field(default_factory=dict)
    """What was patched since, by component."""
    console: list[str] = field(default_factory=list)
    """What was asked of the hypervisor by its debug keys since the host booted, a line each."""
    guest_agents: dict[str, str] = field(default_factory=dict)
    """How the agents of the guests here were told to behave."""
    sources: dict[str, float | None] = field(default_factory=dict)
    """The data sources that somebody switched on, with since when they are recorded, or off (None)."""
    observers: dict[str, dict[str, Any]] = field(default_factory=dict)
    """What it was told of observers, by their uuids."""
    stays_disabled: bool = False
    """Set where the host is on its way down, until it boots again: nobody can enable it."""
    xapi: Xapi = field(init=False)
    on_running: Callable[[HostMachine], None] = lambda machine: None
    on_stopped: Callable[[HostMachine, bool], None] = lambda machine, clean: None
    on_state: Callable[[HostMachine, str], None] = lambda machine, old: None
    clean: Callable[[HostMachine, Release], System] = lambda machine, release: machine.system
    """Makes the system of a clean installation of a release."""
    masters_release: Callable[[HostMachine], Release | None] = lambda machine: None
    """What the installer learns from the pool's master; None where that does not answer."""
    ha_daemon: str = ""
    """The daemon of high availability: `fencing` where it would reset the host, `disarmed` where not, empty without one."""
    stopped_cleanly: bool = True
    """Whether it was told to stop when it last stopped."""
    lost: set[str] = field(default_factory=set)
    """The uuids of the storage repositories that it does not reach, whatever the database says of its connections."""
    beats: Timer | None = None
    """When the master takes this host for dead, while it does not hear from it."""
    _timer: Timer | None = None

    @property
    def pool(self) -> MockPool:
        """The pool that the system on its disk is of."""
        return self.system.pool

    def install(self, system: System) -> None:
        """Have `system` on the disk from now on; the machine is of the pool that it names."""
        old, self.system = self.system.pool, system
        if system.pool is not old:
            system.pool.world.moved(self, old)

    def turn(self) -> None:
        """Be what its files say: its toolstack has stopped."""
        if self.next is not None:
            system, self.next = self.next, None
            self.install(system)

    @property
    def answers(self) -> bool:
        """Whether its port is open: it runs, so does its toolstack, and it has an interface for that."""
        return self.state == "running" and self.xapi.mode != "dead" and self.system.management != "none"

    def _become(self, state: str) -> None:
        old, self.state = self.state, state
        if old != state:
            self.on_state(self, old)

    def _later(self, seconds: float, action: Callable[[], None]) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer = self.clock.after(seconds, action)

    def power_on(self) -> None:
        """Press the power button; it boots the medium in the drive where there is one, else its disk, or the installer that
        was prepared there."""
        if self.state != "off":
            raise MachineRoomError(f"{self.name} is on already ({self.state})")
        self._become("starting")
        medium = self.media
        if medium is not None:
            boots = self.durations.firmware + self.durations.installer_boot
            self._later(boots, lambda: self._go_ahead(medium, self.told))
        elif self.prepared is not None:
            self._later(self.durations.firmware + self.durations.installer_boot, self._upgrade_unattended)
        elif not self.half_written:
            boot = self.durations.first_boot if self.system.new else self.durations.os_boot
            self._later(self.durations.firmware + boot, self._running)

    def build_id(self, component: str) -> str:
        """The build of `xen` or `kernel` that runs."""
        package = self.booted.get(COMPONENTS[component], "")
        text = f"{component} {self.system.release.name} {package}"
        return hashlib.sha1(text.encode(), usedforsecurity=False).hexdigest()

    def _running(self) -> None:
        self.boots += 1
        self.up_since = self.clock.now()
        self.booted, self.livepatches = dict(self.system.installed), {}
        self.console, self.stays_disabled = [], False
        self._become("running")
        self.on_running(self)

    def _upgrade_unattended(self) -> None:
        """The prepared installer upgrades, or stops and shows what it offers instead. Either way the boot loader boots the
        disk again from now on."""
        self.fetched, self.prepared = self.prepared, None
        assert self.fetched is not None
        self._go_ahead(self.fetched, "upgrade")

    def _go_ahead(self, installer: Release, choice: str) -> None:
        """Do without asking what an answer file says, or stop on screen where that cannot be done."""
        self.shown = installer
        self._become("installer")
        if choice == "reinstall" or choice in self.offers():
            self._install(choice)

    def power_off(self) -> None:
        """Pull the plug: every domain is gone at once."""
        if self._timer is not None:
            self._timer.cancel()
        self.fetched = self.shown = None
        was_running = self.state == "running"
        self.ha_daemon = ""
        if was_running:
            self.stopped_cleanly = False
        for domain in list(self.domains.values()):
            domain.end(self.clock.now())
        self.domains.clear()
        self._become("off")
        if was_running:
            self.on_stopped(self, False)

    def fence(self) -> None:
        """What a host does to itself that must not go on: it resets, and boots again."""
        self.power_off()
        self.power_on()

    def shut_down(self, then_on: bool) -> None:
        """What the operating system does when told to halt or reboot: stop, then off, then on again where asked."""
        if self.state != "running":
            return
        self.stopped_cleanly = True
        self.on_stopped(self, True)
        self._become("stopping")

        def off() -> None:
            self.power_off()
            if then_on:
                self.power_on()

        self._later(self.durations.os_shutdown, off)

    def insert_media(self, release: Release, told: str = "") -> None:
        """Put the installation medium of `release` into the drive; `told` is the choice of an answer file that it boots
        with."""
        self.media, self.told = release, told

    def eject_media(self) -> None:
        """Take the medium out."""
        self.media, self.told = None, ""

    def identified(self) -> Release | None:
        """The release that the installer on screen says it found on the disk; None where that is half written."""
        self._at_installer()
        return None if self.half_written else self.system.release

    def offers(self) -> tuple[str, ...]:
        """What the installer on screen offers: `upgrade` only for a release it accepts, whose first boot was completed,
        since 5.5 not where high availability is armed, and since 6.0 not before the master was upgraded; `fresh` always;
        `restore` where the backup partition holds a system of a release it accepts."""
        media = self._at_installer()
        out = ["fresh"]
        armed = self.system.armed and media >= MINDS_ARMED
        held_back = self.half_written or self.system.new or armed or self._before_its_master(media)
        if accepts(media, self.system.release) and not held_back:
            out.insert(0, "upgrade")
        if self.restorable() is not None:
            out.append("restore")
        return tuple(out)

    def restorable(self) -> Release | None:
        """The release in the backup partition, if the installer on screen takes it."""
        media = self._at_installer()
        return self.backup.release if self.backup is not None and accepts(media, self.backup.release) else None

    def _before_its_master(self, media: Release) -> bool:
        master = self.masters_release(self) if media >= ASKS_THE_MASTER and self.system.role != "master" else None
        return master is not None and master < media

    def answer(self, choice: str) -> None:
        """Answer the installer on screen. It copies the old system to the backup partition, installs from its medium, ejects
        that and boots from disk."""
        media = self._at_installer()
        if choice not in self.offers():
            found = self.identified()
            raise MachineRoomError(
                f"the {media.product_version} installer on {self.name} does not offer {choice!r}: it found "
                f"{found.product_version if found else 'nothing'} and offers {', '.join(self.offers())}"
            )
        if media not in (self.media, self.fetched):
            raise MachineRoomError(f"the installer on {self.name} cannot go on: its medium was taken out")
        self._install(choice)

    def _install(self, choice: str) -> None:
        media = self._at_installer()
        self._become("installing")
        half = self.durations.install / 2
        self._later(half, lambda: self._written(half, choice, media))

    def _written(self, rest: float, choice: str, media: Release) -> None:
        """What was there is copied where the choice asks for it, and the disk is being written."""
        if choice in ("upgrade", "reinstall"):
            old = self.system
            saved = old.database.dump() if old.database is not None else old.saved
            self.backup = replace(old, database=None, saved=saved, local=dict(old.local))
        self.half_written = True
        self._later(rest, lambda: self._installed(choice, media))

    def _installed(self, choice: str, media: Release) -> None:
        old = self.system
        if choice == "restore":
            assert self.backup is not None
            held = self.backup
            installed, mirrors = dict(held.installed), dict(held.mirrors)
            packs, local = dict(held.packs), dict(held.local)
            self.install(replace(held, installed=installed, mirrors=mirrors, packs=packs, local=local))
        else:
            upgraded = choice == "upgrade"
            dropped: dict[str, Any] = {"installed": {}, "mirrors": {}, "packs": {}, "new": True, **LOCAL}
            self.install(replace(old, release=media, **dropped) if upgraded else self.clean(self, media))
        self.media = self.fetched = self.prepared = self.shown = None
        self.half_written = False
        self.told = ""
        self._become("off")
        self.power_on()

    def _at_installer(self) -> Release:
        if self.state != "installer" or self.shown is None:
            raise MachineRoomError(f"{self.name} does not show an installer: it is {self.state}")
        return self.shown
