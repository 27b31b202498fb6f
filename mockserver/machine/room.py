"""The machine room: what a person does to the hosts with their hands.

Satisfies `xenctl.procedures.hands.Hands`. Hosts are named by uuid, name or address. While a pool is served on sockets, the
hands wait for their turn like everybody else.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from xenctl.releases import find

from .host import System

if TYPE_CHECKING:
    from ..pool import MockPool


class MachineRoom:
    """The hands that act on a fake pool's machines."""

    def __init__(self, pool: MockPool) -> None:
        self._pool = pool

    def insert_media(self, host: str, release: str) -> None:
        """Put the installation medium of `release` into the host's drive."""
        with self._pool.guard():
            self._pool.machine(host).insert_media(find(release))

    def eject_media(self, host: str) -> None:
        """Take the medium out of the host's drive."""
        with self._pool.guard():
            self._pool.machine(host).eject_media()

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

    def identified(self, host: str) -> str:
        """The product version that the installer on the host's screen found."""
        with self._pool.guard():
            return self._pool.machine(host).identified().product_version

    def offers(self, host: str) -> tuple[str, ...]:
        """What the installer on the host's screen offers: `upgrade`, `fresh`, `restore`."""
        with self._pool.guard():
            return self._pool.machine(host).offers()

    def answer(self, host: str, choice: str) -> None:
        """Answer the installer; it installs and boots the host from its disk."""
        with self._pool.guard():
            self._pool.machine(host).answer(choice, fresh=self._fresh)

    def _fresh(self, old: System) -> System:
        """A clean installation: new identity, new database, and the local storage on the same disk is gone."""
        pool = self._pool
        for sr in pool.local_storage(old.installation_uuid):
            for vdi in sr["VDIs"]:
                row = pool.store.find("VDI", vdi)
                if row is not None:
                    pool.disks.pop(row["uuid"], None)
        return replace(
            old,
            installation_uuid=pool.new_uuid(),
            control_domain_uuid=pool.new_uuid(),
            role="master",
            pool_secret="/".join(pool.new_uuid() for _ in range(3)),
            database=None,
            saved=None,
            stranger=True,
            files={},
        )
