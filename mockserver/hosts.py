"""Hosts as the master sees them: whether they live and answer, and what may be done to them."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING, TypeVar

from xenctl.errors import Failure

from . import paths, rules
from .busy import in_progress
from .call import DUMMY, Call, refuse
from .holding import Marked, assert_free
from .store import Row, Store, Write

if TYPE_CHECKING:
    from .machine.host import HostMachine
    from .pool import MockPool
    from .startup import Xapi

T = TypeVar("T")

SPELLED = {"vm_start": "VM.start", "vm_resume": "VM.resume", "vm_migrate": "VM.migrate"}
"""The operations that errors spell in another way than the data model."""

NO_STORAGE = "no_local_storage"
"""The key of `host.other_config` that says that a host keeps no binary objects."""


# --- whether a host answers


def live(store: Store, host: Row) -> bool:
    """Whether the master thinks `host` lives."""
    metrics = store.find("host_metrics", host["metrics"])
    return metrics is not None and bool(metrics["live"])


def contact(pool: MockPool, host: Row) -> Contact:
    """The machine that does what is forwarded to `host`. Raises `HOST_OFFLINE` for a host that is thought dead,
    `CANNOT_CONTACT_HOST` for one that does not answer."""
    if not live(pool.store, host):
        raise refuse("HOST_OFFLINE", host.ref)
    machine = pool.machine_of(host)
    if machine is None or machine.xapi.mode not in ("master", "member"):
        raise refuse("CANNOT_CONTACT_HOST", host.ref)
    return Contact(host, machine)


def reached(call: Call, ref: str) -> Contact:
    """The same of the host that a call names. Raises `HANDLE_INVALID` too, where there is none."""
    return contact(call.pool, call.db.get("host", ref))


class Contact:
    """A host that takes part in an operation. `check()` raises `CANNOT_CONTACT_HOST` once its toolstack has stopped, and
    what the storage's plugin says once the host does not reach what it `needs`."""

    def __init__(self, host: Row, machine: HostMachine) -> None:
        self.host, self.machine = host, machine
        self._xapi: Xapi = machine.xapi
        self._needed: list[tuple[str, str]] = []

    def needs(self, sr: Row, vdi: Row | None = None) -> None:
        """Have it need storage from now on, or a disk there. Raises what `check` does."""
        self._needed.append((sr["uuid"], vdi["uuid"] if vdi is not None else ""))
        self.check()

    def check(self) -> HostMachine:
        if self.machine.xapi is not self._xapi:
            raise refuse("CANNOT_CONTACT_HOST", self.host.ref)
        for sr, vdi in self._needed:
            paths.assert_reached(self.machine, sr, vdi)
        return self.machine


def note(call: Call, machine: HostMachine, what: str, old: object, new: object) -> None:
    """Tell whoever follows writes that a call changes something about a machine that no row says."""
    call.db.on_write(Write("write", "machine", machine.uuid, what, old, new, call.clock.now()))


def keep_disabled(call: Call, machine: HostMachine) -> None:
    """Have a host take no guests before it has booted anew."""
    old, machine.stays_disabled = machine.stays_disabled, True
    note(call, machine, "stays_disabled", old, machine.stays_disabled)


def send_out(call: Call, machine: HostMachine, file: str, url: str) -> None:
    """A file of a host leaves the pool; what left, and where to, is in `MockPool.uploads`."""
    pool = call.pool
    old, pool.uploads = pool.uploads, (*pool.uploads, (file, url))
    note(call, machine, "uploads", old, pool.uploads)


def guests_of(store: Store, host: Row) -> list[Row]:
    """The VMs on a host but for its control domains."""
    return [vm for vm in (store.get("VM", ref) for ref in host["resident_VMs"]) if not vm["is_control_domain"]]


# --- several of them


def members(call: Call) -> list[str]:
    """The hosts of the pool but for its master."""
    return [ref for ref in call.db.table("host") if ref != call.db.pool()["master"]]


def master_first(call: Call) -> list[str]:
    """The hosts of the pool, its master before the others."""
    return [call.db.pool()["master"], *members(call)]


def master_last(call: Call) -> list[str]:
    """The hosts of the pool, its master after the others."""
    return [*members(call), call.db.pool()["master"]]


def contact_all(call: Call) -> list[Contact]:
    """Every host of the pool. Raises where one cannot be reached."""
    return [contact(call.pool, host) for host in call.db.table("host").values()]


def each(those: Iterable[T], action: Callable[[T], object]) -> None:
    """Do something to one host after another, whatever becomes of others. Raises the first error in the end."""
    first: Failure | None = None
    for one in those:
        try:
            action(one)
        except Failure as error:
            first = first or error
    if first is not None:
        raise first


# --- what may be done to it


def operation_refused(store: Store, host: Row, operation: str) -> Failure | None:
    """The first reason why `operation` may not be done to `host`, as an error; None where it may."""
    for task, going in host["current_operations"].items():
        if _excludes(store, going, operation):
            return in_progress(store, "host", host.ref, SPELLED.get(going, going), task)
    if host["enabled"] and operation in ("reboot", "shutdown", "apply_updates"):
        return refuse("HOST_NOT_DISABLED")
    if operation == "power_on":
        if live(store, host):
            return refuse("HOST_IS_LIVE", host.ref)
        if not host.get("power_on_mode", "-"):
            return refuse("HOST_POWER_ON_MODE_DISABLED")
    return None


def _excludes(store: Store, going: str, operation: str) -> bool:
    """Whether an operation that goes on forbids another: since 6.0 emptying a host forbids placing on it and the other way
    round, before that emptying it forbade everything but switching it on."""
    if store.release.order < rules.BOSTON:
        if going == operation == "provision":
            return True
        return operation != "power_on" and bool({going, operation} & rules.EMPTYING)
    return (
        (going in rules.EMPTYING and operation in rules.PLACING)
        or (going in rules.PLACING and operation in rules.EMPTYING)
        or (going == "reboot" and operation in ("shutdown", "apply_updates"))
        or (going == "shutdown" and operation in ("reboot", "apply_updates"))
        or (going == "apply_updates" and operation in ("reboot", "shutdown", "enable", "apply_updates"))
        or going == operation == "provision"
    )


def assert_out_of_use(store: Store, host: Row) -> None:
    """Raise for a host that takes VMs, or where a guest runs or the control domain holds a disk."""
    if host["enabled"]:
        raise refuse("HOST_NOT_DISABLED")
    for vm in guests_of(store, host):
        if vm["power_state"] == "Running":
            raise refuse("HOST_IN_USE", host.ref, "vm", vm.ref)
    for vm in store.rows("VM", host["resident_VMs"]):
        for vbd in store.rows("VBD", vm["VBDs"]) if vm["is_control_domain"] else ():
            if vbd["currently_attached"]:
                raise refuse("HOST_IN_USE", host.ref, "vbd", vbd.ref)


def allowed_operations(store: Store, host: Row) -> list[str]:
    """What may be done to a host now."""
    names = rules.advertised_by_hosts(store.release)
    allowed = [name for name in names if operation_refused(store, host, name) is None]
    if rules.upgrading(store):
        allowed = [name for name in allowed if name in rules.HOST_UPGRADE_OPERATIONS]
    return allowed


def operation(call: Call, host: Row, name: str) -> AbstractContextManager[None]:
    """Hold `host` for an operation; while versions are mixed only some are shown. Raises what forbids it."""
    assert_free(call, host, name, operation_refused)
    if name not in rules.HOST_UPGRADE_OPERATIONS and rules.upgrading(call.db):
        return nullcontext()
    return Marked(call, host, name)


def drop_lost_operations(store: Store) -> None:
    """What a master does when a member greets it: hosts no longer show operations of tasks that are gone, such as the one
    that shut a host down."""
    tasks = store.table("task")
    for host in store.table("host").values():
        going = host["current_operations"]
        rest = {task: name for task, name in going.items() if task in tasks or task.startswith(DUMMY)}
        if len(rest) < len(going):
            store.write(host, current_operations=rest)


def readdress(store: Store, host: Row, address: str) -> None:
    """Write down the address of a host, also where the consoles of what runs on it say it."""
    old = host["address"]
    if old != address:
        store.write(host, address=address)
        for vm in store.rows("VM", host["resident_VMs"]):
            for console in store.rows("console", vm["consoles"]):
                store.write(console, location=console["location"].replace(f"//{old}/", f"//{address}/"))


def sees(store: Store, host: Row, srs: Iterable[str]) -> bool:
    """Whether `host` lives and has every one of these storage repositories plugged."""
    plugged = {pbd["SR"] for pbd in store.rows("PBD", host["PBDs"]) if pbd["currently_attached"]}
    return plugged.issuperset(srs) and live(store, host)


def set_live(store: Store, host: Row | None, alive: bool) -> None:
    """Write down whether the master thinks `host` lives."""
    metrics = store.find("host_metrics", host["metrics"]) if host is not None else None
    if host is not None and metrics is not None:
        store.write(metrics, live=alive)
