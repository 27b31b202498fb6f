"""What pools have in common: one clock, one room of machines and addresses, storage that all of them may reach.

A world begins with one pool. A host that is installed afresh, or ejected, is a pool of its own from then on, and leaves
that one again when it joins another; `MockPool.neighbour` makes more. Which pool a machine is in is told by the system on
its disk. Whatever is taken back is taken back in the whole world.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING, Any, ClassVar

from .addresses import is_ip
from .authority import self_signed
from .clock import VirtualClock
from .directory import Directory
from .durations import durations_of
from .journal import Journal, Kept
from .machine.balancers import Balancers
from .machine.disks import Disk, Guest
from .machine.host import Durations, HostMachine
from .machine.licence_servers import LicenceServers
from .machine.storage import Storage
from .machine.update_repositories import UpdateRepositories

if TYPE_CHECKING:
    from xenctl.releases import Release

    from .call import Wait
    from .faults import Faults
    from .pool import MockPool
    from .savepoint import Going, Savepoint
    from .store import Row, Store


class World(Kept):
    """The machines and all that outlives a pool. `pools` are those that have hosts."""

    UNKEPT: ClassVar = frozenset(
        "journal waiter fingerprints guard on_machine on_rollback going newest_savepoint faults issue on_certificate".split()
    )

    def __init__(self, *, seed: int, start: float, durations: Durations | None) -> None:
        self.journal = Journal()
        self.random = random.Random(seed)
        self.clock = VirtualClock(start)
        self.durations = durations_of(durations or Durations(), seed)
        self.machines: list[HostMachine] = []
        self.pools: list[MockPool] = []
        self.disks: dict[str, Disk] = {}
        self.guests: dict[str, Guest] = {}
        self.storage = Storage()
        self.directory = Directory()
        self.media: dict[str, Release] = {}
        """The installation media that servers have, by URL."""
        self.files: dict[str, bytes] = {}
        """Other files that servers have, by URL."""
        self.licences = LicenceServers()
        self.balancers = Balancers()
        self.repositories = UpdateRepositories()
        self.last_domid = 0
        self.wire()

    def wire(self) -> None:
        """Connect what acts on the world, as it is while nobody serves it."""
        self.clock.before_step, self.clock.after_step = self._before_step, self._stepped
        self.waiter: Callable[[Wait], None] = self.let_pass
        self.fingerprints: dict[str, Mapping[str, str]] = {}
        """Of the certificates that the hosts show, by their machines' uuids and then by kind: none without TLS."""
        self.issue: Callable[[HostMachine], bytes] = lambda machine: self_signed([machine.address, machine.name])
        """How a host makes a key and certificate for its port."""
        self.on_certificate: Callable[[HostMachine], None] = lambda machine: None
        """Told of a host that shows another certificate."""
        self.guard: Callable[[], AbstractContextManager[object]] = nullcontext
        """What holds the world for one thread: whoever acts on it from outside enters it first."""
        self.on_rollback: Callable[[], None] = lambda: None
        self.going: dict[int, Going] = {}
        """The calls whose verb waits or goes on as a task, and transfers."""
        self.newest_savepoint: Savepoint | None = None
        self.on_machine: Callable[[HostMachine], None] = lambda machine: None
        self.faults: Faults | None = None
        """What is to go wrong: one list for all pools, since requests are counted wherever they go."""

    def let_pass(self, wait: Wait) -> None:
        """Let time pass until `wait` is over, where nobody but timers acts meanwhile."""
        self.clock.run_until(wait.deadline, wait.ready)

    def _before_step(self) -> None:
        for pool in self.pools:
            pool.freshen()

    def _stepped(self) -> None:
        for pool in list(self.pools):
            pool.settle("time")

    def add(self, machine: HostMachine) -> None:
        """Put a new machine into the room, and into the pool that its system names."""
        self.machines.append(machine)
        self._enter(machine, machine.pool)

    def moved(self, machine: HostMachine, source: MockPool) -> None:
        """The system on a machine's disk names another pool than `source` from now on."""
        source.machines.remove(machine)
        if not source.machines:
            self.pools.remove(source)
        self._enter(machine, machine.pool)

    def _enter(self, machine: HostMachine, pool: MockPool) -> None:
        pool.machines.append(machine)
        if pool not in self.pools:
            self.pools.append(pool)

    def machine_at(self, address: str) -> HostMachine | None:
        """The machine that has `address`."""
        return next((machine for machine in self.machines if machine.address == address), None)

    def machine(self, name: str) -> HostMachine:
        """The machine called `name`, by its name, address or uuid, be that its own or the one of the system on its disk."""
        for machine in self.machines:
            if name in (machine.name, machine.uuid, machine.system.installation_uuid, machine.address):
                return machine
        raise KeyError(f"no host {name!r} in this pool: {', '.join(m.name for m in self.machines)}")

    def readdress(self, addresses: dict[str, str]) -> None:
        """Give machines new addresses, by their uuids; role files and databases follow."""
        new = {machine.address: addresses[machine.uuid] for machine in self.machines}
        for machine in self.machines:
            machine.address = addresses[machine.uuid]
            row = machine.pool.host_row(machine)
            if row is not None:
                _follow(machine.pool.store, row, machine.address)
            kind, _, master = machine.system.role.partition(":")
            if master in new:
                machine.system.role = f"{kind}:{new[master]}"


def _follow(store: Store, host: Row, address: str) -> None:
    """Write down the new address of a host wherever a database has the old one."""
    old = host["address"]
    store.write(host, address=address)
    for pif in store.rows("PIF", host.get("PIFs", ())):
        if pif.get("IP") == old and is_ip("ipv4", address):
            store.write(pif, IP=address)
    for vm in store.rows("VM", host["resident_VMs"]):
        for console in store.rows("console", vm["consoles"]):
            store.write(console, location=console["location"].replace(f"//{old}/", f"//{address}/"))


class Shared:
    """An attribute of a pool that is its world's."""

    def __set_name__(self, owner: type, name: str) -> None:
        self._name = name

    def __get__(self, pool: Any, owner: type) -> Any:
        return self if pool is None else getattr(pool.world, self._name)

    def __set__(self, pool: Any, value: Any) -> None:
        setattr(pool.world, self._name, value)
