"""The machine room: what a person does to the hosts with their hands.

Satisfies `xenctl.procedures.hands.Hands`. Hosts are named by uuid, name or address. While a pool is served on sockets, the
hands wait for their turn like everybody else.
"""

from __future__ import annotations

from typing import TYPE_CHECKING
from urllib.parse import urlsplit, urlunsplit

from xenctl.releases import find

from .. import paths, rules, software, standalone
from . import answers
from .host import MachineRoomError

if TYPE_CHECKING:
    from xenctl.releases import Release

    from ..pool import MockPool
    from .host import HostMachine, System


def without_login(url: str) -> str:
    """The place that a URL names, whoever asks for it."""
    parts = urlsplit(url)
    return urlunsplit(parts._replace(netloc=parts.netloc.rpartition("@")[2])).rstrip("/")


class MachineRoom:
    """The hands that act on a fake pool's machines."""

    sees_power = True
    """`power` is what the machine is, not what the network tells of it."""

    def __init__(self, pool: MockPool) -> None:
        self._pool = pool

    def insert_media(self, host: str, release: str, answer_file: bytes = b"") -> None:
        """Put the installation medium of `release` into the host's drive. With an answer file it installs by itself, or
        stops on screen where what that says cannot be done. Raises `ValueError` for what is no answer file."""
        told = answers.choice(answer_file, find(release)) if answer_file else ""
        with self._pool.guard():
            self._pool.machine(host).insert_media(find(release), told)

    def eject_media(self, host: str) -> None:
        """Take the medium out of the host's drive."""
        with self._pool.guard():
            self._pool.machine(host).eject_media()

    def publish(self, url: str, release: str) -> None:
        """Put the installation medium of `release` on a server, for hosts that are told to install themselves from `url`.
        Raises `ValueError` for what is no URL, or no release."""
        parts = urlsplit(url)
        if not parts.scheme or not (parts.netloc or parts.path):
            raise ValueError(f"not a URL: {url!r} (expected such as http://server/xenserver-8.2)")
        with self._pool.guard():
            self._pool.media[without_login(url)] = find(release)

    def serve(self, url: str, data: bytes) -> None:
        """Put a file on a server, for hosts that fetch it from `url`: an archive of VMs, for `VM.import`."""
        with self._pool.guard():
            self._pool.files[url] = data

    def install_pack(self, host: str, name: str, text: str) -> None:
        """Install a supplemental pack on a host: `name` is such as `acme:agent`, `text` what it says of itself. It is gone
        when the host is installed anew."""
        with self._pool.guard():
            machine = self._pool.machine(host)
            machine.system.packs[name] = text
            row = machine.pool.host_row(machine)
            if row is not None:
                machine.pool.store.write(row, software_version={**row["software_version"], name: text})

    def set_network_backend(self, host: str, backend: str) -> None:
        """Choose how the host makes its networks, `bridge` or `openvswitch`, as somebody does in its control domain: it does
        so from its next boot on, and through upgrades. Raises `ValueError` for another word, `MachineRoomError` where the
        host does not run or its release (up to 5.6) has no choice."""
        if backend not in software.BACKENDS:
            raise ValueError(f"a host makes its networks by {' or '.join(software.BACKENDS)}, not {backend!r}")
        with self._pool.guard():
            machine = self._pool.machine(host)
            if machine.state != "running":
                raise MachineRoomError(f"{machine.name} is {machine.state}: nobody can log in to it")
            if machine.system.release.order < rules.COWLEY:
                raise MachineRoomError(f"{machine.name} runs {machine.system.release.name}, which knows only bridges")
            machine.system.network_backend = backend

    def power_on(self, host: str) -> None:
        """Switch the host on; it boots the medium in its drive, else its disk."""
        with self._pool.guard():
            self._pool.machine(host).power_on()

    def power_off(self, host: str) -> None:
        """Cut the host's power."""
        with self._pool.guard():
            self._pool.machine(host).power_off()

    def power(self, host: str) -> str:
        """What a look at the host shows: `off`, `starting`, `installer`, `installing`, `running` or `stopping`."""
        with self._pool.guard():
            return self._pool.machine(host).state

    def lose_storage(self, host: str, sr: str, *, guests: str = paths.STALL) -> None:
        """Cut the host's path to the storage repository called `sr` (name label, uuid or reference). The database goes on
        saying that it is plugged; guests of the host with disks there `stall` until the path is back, or `crash`.

        Raises `ValueError` for storage that the host is not connected to, and for another word of `guests`.
        """
        with self._pool.guard():
            machine = self._pool.machine(host)
            paths.assert_policy(guests)
            paths.lose(machine, paths.named(machine, sr)["uuid"], guests)

    def regain_storage(self, host: str, sr: str) -> None:
        """Have the host reach the storage repository called `sr` again. Raises `ValueError` as `lose_storage` does."""
        with self._pool.guard():
            machine = self._pool.machine(host)
            paths.regain(machine, paths.named(machine, sr)["uuid"])

    def on_disk(self, host: str) -> dict[str, str]:
        """What there is on the host's disk: the product versions of what is `installed` and of what the backup partition
        `keeps`, and the uuid of the pool whose `database` is kept there; each empty where nothing whole is."""
        with self._pool.guard():
            machine = self._pool.machine(host)
            kept = machine.backup
            pools = [] if kept is None or kept.saved is None else list(kept.saved.rows("pool"))
            return {
                "installed": "" if machine.half_written else machine.system.release.product_version,
                "keeps": "" if kept is None else kept.release.product_version,
                "database": pools[0].cells["uuid"] if pools else "",
            }

    def identified(self, host: str) -> str:
        """The product version that the installer on the host's screen found; empty where the disk is half written."""
        with self._pool.guard():
            found = self._pool.machine(host).identified()
            return found.product_version if found is not None else ""

    def offers(self, host: str) -> tuple[str, ...]:
        """What the installer on the host's screen offers: `upgrade`, `fresh`, `restore`."""
        with self._pool.guard():
            return self._pool.machine(host).offers()

    def restores(self, host: str) -> str:
        """The product version in the backup partition that the installer on the host's screen would restore; empty where it
        offers none."""
        with self._pool.guard():
            held = self._pool.machine(host).restorable()
            return held.product_version if held is not None else ""

    def answer(self, host: str, choice: str) -> None:
        """Answer the installer; it installs and boots the host from its disk."""
        with self._pool.guard():
            self._pool.machine(host).answer(choice)

    def clean(self, machine: HostMachine, release: Release) -> System:
        """A clean installation of `release`."""
        return standalone.system(machine, release)
