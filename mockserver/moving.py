"""A VM that is to go to a host with its disks: where to, and what goes.

The host may be of the VM's own pool or of another one. What is to be asked of another pool is asked in the session that
`host.migrate_receive` made there, so it ends with that session.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from xenctl.releases import find

from . import roles, rules
from .call import Call, refuse
from .store import Row

if TYPE_CHECKING:
    from .machine.host import HostMachine

KEYS = ("master", "xenops", "session_id", "host", "SM")
"""What the description of a destination holds, in the order in which it is looked at."""
PERMISSION = "http/post_services_sm"
"""What the session in another pool must be allowed: to bring disks there."""
COPIES_SINCE = find("7.0.0").order
"""The first release that leaves the VM where it is if the options say `copy`."""


# --- where to


@dataclass(frozen=True)
class Destination:
    """A host that a VM goes to. `call` is how its pool is spoken to: the caller's own call where that is its pool too."""

    call: Call
    host: Row
    crosses: bool

    @classmethod
    def of(cls, call: Call, dest: Mapping[str, str]) -> Destination:
        """The one that `host.migrate_receive` described. Raises where it cannot be reached with what the map holds."""
        if any(key not in dest for key in KEYS):
            raise refuse("INTERNAL_ERROR", "Not_found")
        session = dest["session_id"]
        host = call.db.find("host", dest["host"])
        if host is not None:
            if call.db.find("session", session) is None:
                raise refuse("SESSION_INVALID", session)
            return cls(call, host, crosses=False)
        machine = _master_at(call, dest["master"])
        row = machine.pool.store.find("session", session)
        if row is None:
            raise refuse("SESSION_INVALID", session)
        there = Call(machine.pool, machine, call.message, call.method, (), session, row, inner=True)
        if not row.get("is_local_superuser", True) and not roles.has(row, PERMISSION):
            raise roles.denied(there.db.release, PERMISSION)
        return cls(there, there.db.get("host", dest["host"]), crosses=True)

    @property
    def open(self) -> bool:
        """Whether its pool can still be spoken to: its master serves, and the session has not ended."""
        return not self.call.gone() and self.call.db.find("session", self.call.caller) is not None

    def check(self) -> None:
        """Raise where its pool cannot be spoken to any more."""
        if not self.crosses:
            return
        if self.call.gone() or not self.call.pool.master_serves:
            raise refuse("CANNOT_CONTACT_HOST", self.call.machine.address)
        session = self.call.db.find("session", self.call.caller)
        if session is None:
            raise refuse("SESSION_INVALID", self.call.caller)
        self.call.db.write(session, last_active=self.call.clock.stamp())


def _master_at(call: Call, url: str) -> HostMachine:
    """The master of another pool, by its URL. Raises `NOT_IMPLEMENTED` where that is an address of this pool: pools that
    were made apart may have the same addresses, and do not reach each other."""
    address = urlsplit(url).netloc
    machine = call.pool.world.machine_at(address)
    if machine is not None and machine.pool is call.pool:
        raise refuse("NOT_IMPLEMENTED", f"{call.method} to a host that neither this pool nor a neighbour of it has")
    if machine is None or not machine.answers or machine.xapi.mode != "master":
        raise refuse("CANNOT_CONTACT_HOST", address)
    return machine


# --- what goes


@dataclass(frozen=True)
class Move:
    """A VM that is to go somewhere with its disks. The maps say where: disks to storage, interfaces to networks, virtual
    graphics to groups of cards, by references."""

    call: Call
    vm: Row
    to: Destination
    live: bool
    disks: Mapping[str, str]
    networks: Mapping[str, str]
    cards: Mapping[str, str]
    options: Mapping[str, str]

    @property
    def copies(self) -> bool:
        """Whether the VM is to stay where it is, too."""
        return self.call.at_least(COPIES_SINCE) and self.options.get("copy") == "true"

    @property
    def forced(self) -> bool:
        return self.options.get("force") == "true"

    @property
    def asker(self) -> str:
        """On whose behalf processors are looked at: not if forced, and up to 6.5 only for what is to go on running."""
        return "migrate_send" if not self.forced and (self.live or self.call.at_least(rules.DUNDEE)) else ""

    def snapshots(self) -> list[Row]:
        return self.call.db.rows("VM", self.vm.get("snapshots", ()))

    def own(self, vm: Row | None = None) -> list[Row]:
        """The disks of the VM, or of a snapshot of it: none of CDs."""
        db = self.call.db
        vbds = [vbd for vbd in db.rows("VBD", (vm or self.vm)["VBDs"]) if vbd["type"] != "CD" and not vbd["empty"]]
        return db.rows("VDI", [vbd["VDI"] for vbd in vbds])

    def images(self) -> list[Row]:
        """The suspend images of the VM and its snapshots."""
        return self.call.db.rows("VDI", [vm["suspend_VDI"] for vm in (self.vm, *self.snapshots())])

    def moving(self) -> Iterator[tuple[Row, Row]]:
        """The disks that change their storage by the map, each with where it goes."""
        image = self.call.db.rows("VDI", [self.vm["suspend_VDI"]])
        for vdi in [*self.own(), *image]:
            sr = self.to.call.db.get("SR", self.disks[vdi.ref]) if vdi.ref in self.disks else None
            if sr is not None and vdi["SR"] != sr.ref:
                yield vdi, sr

    def network_of(self, vif: Row) -> str | None:
        """The network that an interface comes to; what is said of one is said of all with its MAC."""
        if vif.ref in self.networks:
            return self.networks[vif.ref]
        alike = (row for row in self.call.db.rows("VIF", self.networks) if row["MAC"] == vif["MAC"])
        return next((self.networks[row.ref] for row in alike), None)

    def interfaces(self) -> list[Row]:
        """The interfaces of the VM and of its snapshots."""
        return self.call.db.rows("VIF", [ref for vm in (self.vm, *self.snapshots()) for ref in vm["VIFs"]])
