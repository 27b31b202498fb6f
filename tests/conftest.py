"""What holds for all tests, and a short way to call a fake pool."""

from __future__ import annotations

import hashlib
import os
import random
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from types import FunctionType, MappingProxyType, MethodType
from typing import Any

import pytest
from hypothesis import HealthCheck, settings

from mockserver import MockPool, rules
from mockserver.clock import Timer, VirtualClock
from mockserver.inventory import build
from mockserver.journal import Kept, KeptIndex
from mockserver.machine.disks import damage
from mockserver.rows import Shape
from mockserver.store import Row, Store, Table
from xenctl.datamodel import load
from xenctl.errors import Failure
from xenctl.releases import find

# How fast an example is made or run says how busy the machine is, not whether the property holds. In a fresh clone the
# first example is slow in any case: Hypothesis makes its tables of characters.
settings.register_profile("unhurried", deadline=None, suppress_health_check=[HealthCheck.too_slow], print_blob=True)
settings.load_profile("unhurried")


# Clients in other languages need what only `tox -e clients` installs; it sets the variable.
collect_ignore = [] if "XEN_API" in os.environ else ["clients"]


class Calls:
    """A session with a fake pool, without bytes: `calls("VM.start", vm, False, False)`."""

    def __init__(self, pool: MockPool) -> None:
        self.pool = pool
        self.session: str = pool.dispatch("session.login_with_password", [pool.username, pool.password])

    def __call__(self, method: str, *args: Any, on: str | None = None) -> Any:
        """Call the master, or the host called `on`."""
        return self.pool.dispatch(method, [self.session, *args], self.pool.machine(on) if on else None)

    def refused(self, method: str, *args: Any, on: str | None = None) -> list[str]:
        """The error that a call must come to: its code and parameters."""
        with pytest.raises(Failure) as caught:
            self(method, *args, on=on)
        return caught.value.details

    def refused_at_once(self, method: str, *args: Any, on: str | None = None) -> list[str]:
        """The same of a call that does not wait for other operations to end."""
        pool, usual = self.pool, self.pool.durations
        pool.durations = replace(usual, operation_wait=0.0)
        try:
            return self.refused(method, *args, on=on)
        finally:
            pool.durations = usual

    def again(self) -> Calls:
        """Another session, or one with the master that came back."""
        return Calls(self.pool)

    def of(self, host: str) -> Calls:
        """A session with the pool that the host called `host` is in, as its machine knows."""
        return Calls(self.pool.machine(host).pool)

    def row(self, kind: str, name: str) -> Any:
        """The row of the object called `name`."""
        return next(row for row in self.pool.store.table(kind).values() if row["name_label"] == name)

    def vm(self, name: str) -> Any:
        return self.row("VM", name)

    def host(self, name: str) -> Any:
        return self.row("host", name)

    def vbd(self, vm: str, number: str) -> Any:
        """The block device of a VM by its number: `0` is the disk, `3` the CD drive."""
        return next(vbd for vbd in self.pool.vbds(self.vm(vm)) if vbd["userdevice"] == number)

    def unharmed(self) -> bool:
        """Whether every disk holds what its guest wrote, and belief and machines agree."""
        pool = self.pool
        for guest in pool.guests.values():
            for machine in pool.machines:
                if guest.uuid in machine.domains:
                    machine.domains[guest.uuid].catch_up(pool.clock.now())
            assert list(damage(guest, pool.disks)) == []
        for vm in pool.store.table("VM").values():
            if not vm["is_control_domain"]:
                there = [m for m in pool.machines if vm["uuid"] in m.domains]
                believed = pool.machine_of(pool.store.find("host", vm["resident_on"]))
                assert there == ([believed] if believed else []), vm["name_label"]
        return True

    def leave_free(self, host: str, size: int) -> None:
        """Give a host just so much memory that `size` bytes are left."""
        store, row = self.pool.store, self.host(host)
        metrics = store.get("host_metrics", row["metrics"])
        then = store.release.schema <= (5, 57)
        total = row["boot_free_mem"] if then else metrics["memory_total"]
        memory = total - rules.memory_free(store, row) + size
        store.write(row, boot_free_mem=memory)
        store.write(metrics, memory_total=memory)

    def start(self, method: str, *args: Any) -> Any:
        """Start an operation that goes on as a task; the task's row."""
        return self.pool.store.get("task", self(f"Async.{method}", *args))

    def sleep(self, seconds: float) -> None:
        self.pool.clock.advance(seconds)

    def until(self, holds: Callable[[], bool], limit: float = 7200.0) -> None:
        """Let simulated time pass until something holds."""
        self.pool.clock.run_until(self.pool.clock.now() + limit, holds)
        assert holds()

    def halt(self, host: str) -> None:
        """Halt a host and wait until it is off; its guests must be gone."""
        ref = self.host(host).ref
        self("host.disable", ref)
        self("host.shutdown", ref)
        self.until(lambda: self.pool.machine(host).state == "off")

    def install(self, host: str, release: str, choice: str = "upgrade") -> Calls:
        """Put the medium of a release into a host that is off, install, and wait until the host has started."""
        machine = self.pool.machine(host)
        self.pool.hands.insert_media(host, release)
        self.pool.hands.power_on(host)
        self.until(lambda: machine.state == "installer")
        self.pool.hands.answer(host, choice)
        self.until(lambda: machine.state == "running")
        return self

    def upgrade(self, host: str, release: str) -> Calls:
        """Bring an empty host to another release and wait until it is back in the pool; a session that is valid then."""
        self.halt(host)
        self.install(host, release)
        return self.back()

    def back(self) -> Calls:
        """Wait until every host that is on has started, and log in."""
        self.until(lambda: all(m.xapi.complete for m in self.pool.machines if m.state in ("running", "starting")))
        return self.again()


@pytest.fixture
def calls() -> Callable[..., Calls]:
    """A session with a fresh pool: the keywords are those of `MockPool.create`."""
    return lambda **shape: Calls(MockPool.create(**{"hosts": 2, "vms": 0, **shape}))


PLAIN = (str, int, float, bool, bytes, type(None))


class Look:
    """A deep picture of a fake pool, made by walking over everything that can be reached from it, to compare two of them.

    It knows nothing of how changes are recorded: what a rollback or a fork forgets shows here.
    """

    def __init__(self) -> None:
        self._seen: dict[int, int] = {}

    def at(self, thing: Any) -> Any:
        if isinstance(thing, PLAIN):
            return thing
        if isinstance(thing, tuple):
            return tuple(self.at(item) for item in thing)
        if isinstance(thing, random.Random):
            return hashlib.sha256(repr(thing.getstate()).encode()).hexdigest()
        if id(thing) in self._seen:
            return f"#{self._seen[id(thing)]}"
        self._seen[id(thing)] = len(self._seen)
        for kind, look in self.WAYS.items():
            if isinstance(thing, kind):
                return look(self, thing)
        if type(thing).__module__.startswith("mockserver.") and hasattr(thing, "__dict__"):
            return (type(thing).__name__, {name: self.at(value) for name, value in sorted(vars(thing).items())})
        return type(thing).__name__

    def row(self, row: Row) -> Any:
        stamps = (row.created, row.modified)
        values = [(name, repr(value)) for name, value in row.items()]  # which of them are shared does not count
        return (row.table, row.ref, stamps, dict(row.foreign), list(row.spelled), values)

    def dict_(self, items: dict[Any, Any]) -> Any:
        return [(self.at(key), self.at(value)) for key, value in items.items()]

    def set_(self, members: set[Any]) -> Any:
        return sorted(m if isinstance(m, str) else m.guest.uuid for m in members)

    def kept(self, thing: Kept) -> Any:
        fields = sorted(name for name in vars(thing) if name not in thing.UNKEPT and name != "journal")
        return (type(thing).__name__, {name: self.at(getattr(thing, name)) for name in fields})

    def clock(self, clock: VirtualClock) -> Any:
        return (clock.now(), self.kept(clock), [self.at(timer) for timer in clock.pending()])

    def timer(self, timer: Timer) -> Any:
        return (timer.moment, timer.number, self.at(timer.action))

    def function(self, function: FunctionType) -> Any:
        return (function.__qualname__, [self.at(cell.cell_contents) for cell in function.__closure__ or ()])

    def method(self, method: MethodType) -> Any:
        return (method.__func__.__qualname__, self.at(method.__self__))

    def later(self, call: partial[Any]) -> Any:
        return (self.at(call.func), self.at(call.args), self.at(call.keywords))

    def table(self, table: Table) -> Any:
        newest = sorted((row.modified, row.ref) for row in table.rows.values())
        logged = {
            ref for generation, ref in table.recent if ref in table.rows and table.rows[ref].modified == generation
        }
        assert logged == set(table.rows), "a change that the log has lost"
        return (self.kept(table), newest)

    def store(self, store: Store) -> Any:
        return (store.generation, self.kept(store))

    WAYS: dict[type, Callable[..., Any]] = {  # noqa: RUF012 - a table of this class's own methods
        Row: row,
        KeptIndex: lambda self, items: sorted(self.dict_(items)),
        dict: dict_,
        MappingProxyType: dict_,
        list: lambda self, items: [self.at(item) for item in items],
        set: set_,
        Timer: timer,
        VirtualClock: clock,
        Table: table,
        Store: store,
        Shape: lambda self, shape: "Shape",  # of a release, not of a pool
        Kept: kept,
        FunctionType: function,
        MethodType: method,
        partial: later,
    }


@pytest.fixture(scope="session")
def picture() -> Callable[[MockPool], Any]:
    """Everything that counts in a pool, in an order that is the same every time."""
    return lambda pool: Look().at(pool)


@pytest.fixture
def c(calls: Callable[..., Calls]) -> Calls:
    """Calls of a pool of today: three hosts, twelve VMs."""
    return calls(release="8.2", hosts=3, vms=12)


@pytest.fixture
def old(calls: Callable[..., Calls]) -> Calls:
    """Calls of such a pool of the oldest release."""
    return calls(release="4.0.1", hosts=3, vms=12)


@pytest.fixture
def newest() -> Callable[..., Calls]:
    """The same of a release that serves all that the data model knows, later than any that has a name."""

    def make(*, hosts: int = 2, vms: int = 0) -> Calls:
        last, model = find("XenServer 8.4.0"), load()
        order = max(model.order(message.since) for cls in model.classes.values() for message in cls.messages.values())
        release = replace(last, order=order, version=(99, 0, 0), product_version="99.0.0")
        pool = MockPool()
        build(pool, hosts=hosts, vms=vms, release=release)
        for machine in pool.machines:
            machine.system.release = release
        return Calls(pool)

    return make
