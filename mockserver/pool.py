"""A whole pool in one process: machines, the database they share, one clock, and the ways in.

`MockPool.create` makes one from counts, `from_dump` from a pool database dump, `from_session` from a live pool.
`transport()` is how `xenctl` reaches it with real bytes, `dispatch` without, `hands` is the machine room. `save` writes its
database, `fork` makes a copy, `savepoint` and `rollback` take it back.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable
from contextlib import AbstractContextManager
from random import Random
from typing import TYPE_CHECKING, Any, ClassVar, cast

from xenctl import database
from xenctl.database import Database
from xenctl.errors import Failure
from xenctl.releases import find

from . import backups, classes, guests, ha_monitor, live, powerup, rules, savepoint
from .call import Asked, Call, Wait, continue_later, dispatch, patiently
from .classes.event import OldEvents
from .columns import apart
from .faults import Faults
from .fork import fork
from .journal import FIXED, Kept, uncollected
from .machine.disks import Disk, Domain, Guest
from .machine.host import Durations, HostMachine
from .machine.room import MachineRoom
from .messages import MessageStore
from .plugins import PluginFunction, Plugins
from .store import NULL, Row, Store, Write
from .upkeep import STALE, Upkeep
from .world import Shared, World

if TYPE_CHECKING:
    from xenctl import Session
    from xenctl.datamodel import Message

    from .clock import Timer
    from .inside import Inside
    from .invariants import Invariant, Violation
    from .progress import Span
    from .savepoint import Savepoint
    from .tail import CallLog
    from .trace import Trace
    from .transports.inprocess import InProcessTransport

START = 1_228_089_600.0
"""1 December 2008: when simulated time begins unless told otherwise."""
getrandbits = Random.getrandbits  # past `KeptRandom`'s own, where nothing has to be taken back
RANDOM_BITS, VERSION_4 = ~(0xF000_C000 << 48), 0x4000_8000 << 48
"""The bits of a uuid that say of which kind it is, and what they are in a random one."""


class MockPool(Kept):
    """A pool of emulated hosts. `store` is what xapi believes, `machines` and `disks` are what is."""

    UNKEPT: ClassVar = frozenset(
        "journal hands faults trace log writes going fingerprints waiter issue on_certificate "
        "guard on_machine on_rollback newest_savepoint last_domid random actor".split()
    )
    random: Random = cast("Any", Shared())
    last_domid: int = cast("Any", Shared())
    waiter: Callable[[Wait], None] = cast("Any", Shared())
    guard: Callable[[], AbstractContextManager[object]] = cast("Any", Shared())
    on_machine: Callable[[HostMachine], None] = cast("Any", Shared())
    on_rollback: Callable[[], None] = cast("Any", Shared())
    newest_savepoint: Savepoint | None = cast("Any", Shared())
    issue: Callable[[HostMachine], bytes] = cast("Any", Shared())
    on_certificate: Callable[[HostMachine], None] = cast("Any", Shared())
    faults: Faults = cast("Any", Shared())

    store: Store
    """What xapi believes: the database of the host that last served as master."""

    def __init__(
        self,
        *,
        seed: int = 0,
        start: float = START,
        username: str = "root",
        password: str = "secret",
        durations: Durations | None = None,
        world: World | None = None,
    ) -> None:
        self.world = world or World(seed=seed, start=start, durations=durations)
        self.journal = self.world.journal
        self.seed = seed
        self.clock, self.durations = self.world.clock, self.world.durations
        self.disks, self.guests, self.storage = self.world.disks, self.world.guests, self.world.storage
        self.directory = self.world.directory
        self.username, self.password = username, password
        self.machines: list[HostMachine] = []
        self.blobs: dict[str, bytes] = {}
        self.calls = 0
        self.wire_bytes = [0, 0]
        self.downloads: list[str] = []
        self.uploads: tuple[tuple[str, str], ...] = ()
        """What hosts sent out of the pool: names of files, and the URLs that they went to."""
        self.messages = MessageStore()
        self.alerts: list[tuple[float, str, str]] = []
        """What policies that protect VMs told of their runs: when, the policy's uuid, and what, packed."""
        self.plugins = Plugins()
        self.extensions: dict[str, PluginFunction] = {}
        """What xapi knows beside its own calls, by name: see `mockserver.plugins`."""
        self.media, self.files = self.world.media, self.world.files
        self.licences, self.balancers = self.world.licences, self.world.balancers
        self.repositories = self.world.repositories
        self.upkeep = Upkeep()
        self.audit: list[str] = []
        """The lines of the log of who called what."""
        self.writes: list[Write] = []
        self.invariants: list[Invariant] = []
        self.violations: list[Violation] = []
        self.reports: list[str] = []
        self.obstacles: list[str] = []
        self.max_offline = 0
        self.wire()
        self.old_events = OldEvents()
        self.views: dict[str, Store] = {}
        """The databases that sessions look at instead of the pool's own, by their references."""
        self._waiting: list[tuple[Wait, Timer, Callable[[], None]]] = []
        """Who waits for what, with the timer that ends the waiting."""
        self.spans: dict[str, Span] = {}
        """The waits of the operations that go on, by task: how far each is."""

    def wire(self) -> None:
        """Connect what acts on the pool, as it is while nobody serves it."""
        self.hands = MachineRoom(self)
        if self.world.faults is None:
            self.world.faults = Faults(self)
        self.trace: Trace | None = None
        self.log: CallLog | None = None
        self.fingerprints, self.going = self.world.fingerprints, self.world.going
        self.actor: classes.Verb | None = None
        """The verb that is at work, whose writes are held against what it declares."""

    def __repr__(self) -> str:
        hosts = [f"{machine.name} at {machine.address}" for machine in self.machines]
        return f"<MockPool of {', '.join(hosts[:3])}{f' and {len(hosts) - 3} more' if len(hosts) > 3 else ''}>"

    # --- making

    @classmethod
    def create(
        cls,
        *,
        hosts: int = 3,
        vms: int = 12,
        nics: int = 1,
        gpus: int = 0,
        usbs: int = 0,
        templates: bool = False,
        release: str = "4.0.1",
        seed: int = 0,
        username: str = "root",
        password: str = "secret",
        durations: Durations | None = None,
        start: float = START,
    ) -> MockPool:
        """A pool of `hosts` hosts of `release` with `vms` VMs: two shared storage repositories (disks, ISO images), a local
        one for each host; most VMs run, some are halted, one in twelve is suspended, two in twelve have a CD inserted.

        Each host has `nics` network cards, and `gpus` graphics cards and `usbs` USB devices that VMs can be given, where the
        release knows them. With `templates` there are some that come with the release: see `mockserver.templates`. Simulated
        time begins at `start`, in seconds since the epoch."""
        from .inventory import build

        pool = cls(seed=seed, start=start, username=username, password=password, durations=durations)
        with uncollected():
            shape = {"hosts": hosts, "vms": vms, "nics": nics, "gpus": gpus, "usbs": usbs}
            build(pool, **shape, templates=templates, release=find(release))
        return pool

    @classmethod
    def from_dump(
        cls,
        dump: str | os.PathLike[str] | bytes | Database,
        *,
        seed: int = 0,
        username: str = "root",
        password: str = "secret",
        durations: Durations | None = None,
        start: float = START,
    ) -> MockPool:
        """The pool that a database dump describes, all hosts up, its VMs in the states that the dump says. `dump` is a path,
        the bytes, or one that was read.

        Raises `DatabaseError` for a dump that cannot be read or is not of a whole pool. What it holds beyond the data model,
        or dangling, is kept and listed in `reports`; what keeps the pool from being rehearsed faithfully is in `obstacles`.
        """
        pool = cls(seed=seed, start=start, username=username, password=password, durations=durations)
        with uncollected():
            if isinstance(dump, bytes):
                dump = database.read(dump, source="the dump")
            elif not isinstance(dump, Database):
                dump = database.read_file(dump)
            database.verify(dump)
            store = Store.load(dump, backups.release_of(dump))
            pool.random = Random(f"{seed} {store.pool()['uuid']} {store.generation}")
            pool.reports = store.reports
            pool.adopt_store(store)
            powerup.power_up(pool, store)
        return pool

    @classmethod
    def from_session(
        cls,
        session: Session,
        *,
        seed: int = 0,
        username: str = "root",
        password: str = "secret",
        durations: Durations | None = None,
        start: float = START,
    ) -> MockPool:
        """The live pool that `session` is logged in to, as it is now; nothing is changed there.

        Its database is fetched where that is allowed and whole; else the records of every class are read, one class after
        another. Raises what calls raise, and `DatabaseError` as `from_dump` does.
        """
        dump = live.dump_of(session)
        return cls.from_dump(dump, seed=seed, username=username, password=password, durations=durations, start=start)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the pool's database to `path` as a dump, to be used by `from_dump`, `xenctl rehearse`, `mockserver --dump`.

        What is not in a pool's database is not in it: sessions, tasks, what is on disks. The file is there whole or not at
        all, for its owner's eyes alone. Raises `OSError`.
        """
        with self.guard(), uncollected():
            self.freshen()
            data = database.write(self.store.dump())
        database.write_file(data, path)

    def neighbour(self, *, hosts: int = 1, vms: int = 0, release: str | None = None) -> MockPool:
        """Another pool beside this one, reached by the same transports: as `create` makes it, its hosts and VMs numbered on,
        of this pool's release unless told otherwise. Time, machine room, what is on disks, savepoints and faults are shared.

        Raises `SavepointError` in the middle of a call, and while hosts are served on sockets.
        """
        from .inventory import build

        with self.guard():
            savepoint.check_unserved(self, "put a pool beside this one")
            out = MockPool(seed=self.seed, username=self.username, password=self.password, world=self.world)
            with uncollected():
                build(out, hosts=hosts, vms=vms, release=find(release) if release else self.store.release)
            return out

    # --- finding

    def adopt_store(self, store: Store) -> None:
        """Make `store` the pool's database. Its rows all count as told to who begins to listen now."""
        self.store = store
        store.next_generation()
        if self.trace is not None:
            self.trace.cut("a master loaded its database")
        store.on_write, store.clock = self._written, self.clock

    @property
    def master(self) -> HostMachine:
        """The machine that serves as master; while none does, the one that role files make so, the last one that did
        before others. Raises `LookupError` where none is: it was installed afresh, say, or joined another pool."""
        for machine in self.machines:
            if machine.xapi.mode == "master":
                return machine
        named = [machine for machine in self.machines if machine.system.role == "master"]
        if not named:
            raise LookupError(
                "no host of this pool is its master any more: it was installed afresh, or left for another"
            )
        return next((machine for machine in named if machine.system.database is self.store), named[0])

    @property
    def master_serves(self) -> bool:
        """Whether a master is up and serving."""
        return any(machine.xapi.mode == "master" for machine in self.machines)

    @property
    def master_address(self) -> str:
        return self.master.address

    def machine_at(self, address: str) -> HostMachine | None:
        """The machine that has `address`, be it of this pool or of a neighbour."""
        return self.world.machine_at(address)

    def machine(self, name: str) -> HostMachine:
        """The machine called `name`, by its name, uuid or address, be it of this pool or of a neighbour."""
        return self.world.machine(name)

    def machine_of(self, host: Row | None) -> HostMachine | None:
        """The machine of a host row."""
        if host is None:
            return None
        uuid = host["uuid"]
        for machine in self.machines:
            if machine.system.installation_uuid == uuid:
                return machine
        return None

    def host_row(self, machine: HostMachine) -> Row | None:
        """The host row of a machine."""
        store = self.store
        found = store.by_uuid.get(machine.system.installation_uuid)
        return store.find("host", found[1]) if found and found[0] == "host" else None

    def guest(self, vm: Row) -> Guest:
        """The software inside `vm`."""
        uuid = vm["uuid"]
        return self.guests[uuid] if uuid in self.guests else self.guests.setdefault(uuid, Guest(uuid))

    def domain(self, vm: Row) -> tuple[HostMachine, Domain] | None:
        """Where `vm` really runs."""
        for machine in self.machines:
            domain = machine.domains.get(vm["uuid"])
            if domain is not None:
                return machine, domain
        return None

    def disk_of(self, vdi: str) -> Disk | None:
        """The content behind a VDI reference."""
        row = self.store.find("VDI", vdi)
        return self.disks.get(row["uuid"]) if row else None

    def new_uuid(self) -> str:
        """A fresh uuid, the same for the same seed."""
        source = self.world.random
        bits = getrandbits(source, 128) if self.journal.entries is None else source.getrandbits(128)
        text = "%032x" % (bits & RANDOM_BITS | VERSION_4)
        return f"{text[:8]}-{text[8:12]}-{text[12:16]}-{text[16:20]}-{text[20:]}"

    def new_ref(self) -> str:
        """A fresh reference."""
        return f"OpaqueRef:{self.new_uuid()}"

    # --- domains: what starting and stopping a VM does to machine and belief

    def start_domain(
        self, vm: Row, machine: HostMachine, running: bool = True, disks: tuple[Disk, ...] | None = None
    ) -> Domain:
        """Make the domain of `vm` on `machine`, its writable disks open."""
        self.world.last_domid = domid = self.last_domid + 1
        disks = self.written_disks(vm) if disks is None else disks
        domain = Domain(self.guest(vm), machine.uuid, domid, disks, self.clock.now(), running)
        machine.domains[vm["uuid"]] = domain
        return domain

    def end_domain(self, vm: Row) -> None:
        """Destroy the domain of `vm`, if there is one."""
        found = self.domain(vm)
        if found:
            found[1].end(self.clock.now())
            del found[0].domains[vm["uuid"]]

    def move_domain(
        self, vm: Row, source: HostMachine, target: HostMachine, disks: tuple[Disk, ...] | None = None
    ) -> Domain:
        """Move the running domain of `vm` to another machine: its guest goes on with the same disks, or with `disks`."""
        old = source.domains.pop(vm["uuid"])
        disks = old.disks if disks is None else disks
        old.end(self.clock.now())
        self.last_domid += 1
        domain = Domain(
            old.guest, target.uuid, self.last_domid, disks, self.clock.now(), not old.asleep, asleep=old.asleep
        )
        target.domains[vm["uuid"]] = domain
        return domain

    def add_disk(self, uuid: str) -> Disk:
        """Fresh, empty content for a new VDI."""
        disk = self.disks[uuid] = Disk(uuid)
        return disk

    def vbds(self, vm: Row) -> list[Row]:
        """The VBD rows of `vm` that exist."""
        return self.store.rows("VBD", vm["VBDs"])

    def written_disks(self, vm: Row) -> tuple[Disk, ...]:
        """The disks that `vm` can write to."""
        vdis = self.store.rows("VDI", [vbd["VDI"] for vbd in self.vbds(vm) if vbd["mode"] == "RW"])
        return tuple(self.disks[vdi["uuid"]] for vdi in vdis if vdi["uuid"] in self.disks)

    def force_halted(self, vm: Row) -> None:
        """Write down that `vm` is off, with all that follows from it."""
        guests.halted(self, vm)

    def downloaded(self, dump: bytes, *, whole: bool) -> None:
        """Somebody fetched the pool database; a whole one is remembered by its digest, for who watches over backups."""
        if whole:
            self.downloads.append(hashlib.sha256(dump).hexdigest())

    # --- versions

    def detect_rolling_upgrade(self) -> None:
        """What the master's garbage collection does about versions: set or remove the key in `pool.other_config`."""
        if not self.master_serves:
            return
        store = self.store
        row, mixed, flagged = store.pool(), rules.mixed(store), rules.upgrading(store)
        if mixed and not flagged:
            store.write(row, other_config={rules.KEY: "true", **row["other_config"]})
        elif flagged and not mixed:
            rest = {key: value for key, value in row["other_config"].items() if key != rules.KEY}
            store.write(row, other_config=rest)
            self.upkeep.renew("VM", *store.table("VM"))

    # --- calls

    def verb(self, message: Message) -> classes.Verb:
        """The function that answers `message`. Raises `NOT_IMPLEMENTED` where there is none."""
        return classes.find(message)

    def dispatch(self, method: str, args: list[Any], machine: HostMachine | None = None) -> Any:
        """Call `method` with `args` (the session first) without bytes, on the master or on `machine`. Sets, maps and records
        that it answers are the caller's own."""
        world = self.world
        with world.guard():
            host, faults = machine or self.master, world.faults
            if faults is not None and faults.armed:
                answer = faults.dispatch(host, method, args, lambda: dispatch(host.pool, host, method, args))
            else:
                answer = dispatch(host.pool, host, method, args)
            return answer if type(answer) in FIXED else apart(answer)

    def count_call(self) -> None:
        """Count one more call; past `__setattr__` where nothing has to be taken back, since this is done for each."""
        if self.journal.entries is None:
            self.__dict__["calls"] += 1
        else:
            self.calls += 1

    def transport(self) -> InProcessTransport:
        """A transport for `xenctl` that carries real bytes to this pool."""
        from .transports.inprocess import InProcessTransport

        return InProcessTransport(self)

    @property
    def inside(self) -> Inside:
        """The guests, to act in their place."""
        from .inside import Inside

        return Inside(self)

    @property
    def url(self) -> str:
        """The master's URL, for `xenctl.connect(pool.url, ..., transport=pool.transport())`."""
        return f"http://{self.master.address}"

    def make_task(self, call: Call, asked: Asked | None = None, *, label: str = "") -> str:
        """A task row for `call`, with what its request asks for; returns its reference. It is called as the call is unless
        there is a `label`."""
        ref = self.new_ref()
        host = self.host_row(call.machine)
        fields: dict[str, Any] = {
            "uuid": self.new_uuid(),
            "name_label": label or call.label,
            "created": self.clock.stamp(),
            "status": "pending",
            "type": "<none/>",
            "resident_on": host.ref if host else NULL,
            "session": call.session.ref if call.session else NULL,
        }
        if asked is not None:
            fields["subtask_of"] = asked.parent if self.store.find("task", asked.parent) is not None else NULL
            fields["other_config"] = {f"http:{key}": value for key, value in asked.other_config.items()}
        self.store.create("task", ref, fields)
        return ref

    def drop_task(self, ref: str) -> None:
        """Delete a task row, if it is there."""
        self.spans.pop(ref, None)
        row = self.store.find("task", ref)
        if row is not None:
            self.store.delete(row)

    def finish_task(self, ref: str, error: Failure | None = None, result: str | None = None) -> None:
        """End a task that goes on: with `error`, or with `result`, a value as XML; None leaves the one it has."""
        row = self.store.find("task", ref)
        if row is None or row["status"] != "pending":
            return
        over: dict[str, Any] = {"progress": 1.0, "finished": self.clock.stamp(), "allowed_operations": []}
        if error is None:
            text = row["result"] if result is None else result
            self.store.write(row, **over, result=text, status="success")
        elif error.code == "TASK_CANCELLED":
            self.store.write(row, **over, status="cancelled")
        else:
            self.store.write(row, **over, error_info=error.details, status="failure")

    def tasks_lost(self) -> None:
        """The master restarted: what waited is gone."""
        for _, deadline, _ in self._waiting:
            deadline.cancel()
        self._waiting.clear()
        self.views.clear()
        self.old_events = OldEvents()

    def spawn(self, call: Call, verb: classes.Verb, *, complete: bool = True) -> None:
        """Run a verb as a task of its own; without `complete` whoever made the task ends it."""
        from xenctl import xmlrpc

        def finish(result: Any, error: Failure | None) -> None:
            if complete:
                self.finish_task(call.task, error, xmlrpc.encode("" if result is None else result, lenient=True))

        continue_later(call, patiently(call, verb), finish)

    def as_actor(self, verb: classes.Verb, action: Callable[..., Any], *args: Any) -> Any:
        """Run `action` as `verb`, whose writes are held against what it declares."""
        before, self.__dict__["actor"] = self.actor, verb  # no state: at a savepoint nobody is at work
        try:
            return action(*args)
        finally:
            self.__dict__["actor"] = before

    def wait(self, wait: Wait) -> None:
        """Let time pass until `wait` is over. What was written before is the call's that waits, and so are the lists that
        follow from it. Where nobody hears of each write, and nothing happens meanwhile, nobody can look at them."""
        world = self.world
        if self.trace is not None or self.old_events.subscriptions or world.waiter != world.let_pass:
            self.freshen()
        if self.trace is not None:
            self.trace.waiting(wait)
        else:
            self.waiter(wait)

    def when(self, wait: Wait, action: Callable[[], None]) -> None:
        """Run `action` once `wait` is over."""

        def over() -> None:
            self._waiting.remove(entry)
            action()

        entry = wait, self.clock.after(max(0.0, wait.deadline - self.clock.now()), over), action
        self._waiting.append(entry)

    # --- taking back

    def savepoint(self) -> Savepoint:
        """The state of everything now, to return to by `rollback`, or at the end of a `with` block. Taking it costs nothing,
        returning what was changed since. Raises `SavepointError` while something goes on that cannot be taken back."""
        with self.guard():
            return savepoint.take(self)

    def rollback(self, to: Savepoint) -> None:
        """Be again as at savepoint `to`, which stays; those taken after it are gone. What began since is ended: its callers
        lose their connection. Raises `SavepointError` for one that is gone, and in the middle of a call."""
        with self.guard():
            savepoint.roll_back(self, to)
            if self.trace is not None:
                self.trace.cut("the pool was rolled back")

    def release(self, what: Savepoint) -> None:
        """Forget a savepoint and those taken after it; what was changed stays. Raises `SavepointError` where it is gone."""
        with self.guard():
            savepoint.release(self, what)

    def fork(self) -> MockPool:
        """Another pool in the same state, the next uuid and the time included: the same done to both ends the same, and
        neither touches the other. Raises `SavepointError` while something goes on."""
        with self.guard():
            savepoint.check_idle(self, "fork the pool")
            return fork(self)

    # --- watching

    def _written(self, write: Write) -> None:
        if self.trace is not None:
            self.trace.note(write)
            self.writes.append(write)
        elif self.invariants:
            self.writes.append(write)
        kind, table, field = write[0], write[1], write[3]
        stale = STALE.get((table, field or kind))
        if stale is not None:
            stale(self.upkeep, self.store, write)
        if self.old_events.subscriptions:
            self.old_events.note(self, write)
        actor = self.actor
        if actor is not None and (kind, table, field) not in actor.known and not actor.may_write(write):
            raise AssertionError(f"{actor.name} writes {table}.{field or kind}, undeclared")

    def machine_changed(self, machine: HostMachine, old: str) -> None:
        """A machine has come from state `old` to another."""
        write = Write("write", "machine", machine.uuid, "state", old, machine.state, self.clock.now())
        self.writes.append(write)
        if self.trace is not None:
            self.trace.note(write)
        self.max_offline = max(self.max_offline, sum(m.state != "running" for m in self.machines))
        self.on_machine(machine)
        self.settle(f"{machine.name} {machine.state}")

    def freshen(self) -> None:
        """Make anew the lists that writes made stale. It is no verb's doing, also where one is at work."""
        if self.upkeep.stale:
            before, self.__dict__["actor"] = self.actor, None
            try:
                self.upkeep.do(self.store)
            finally:
                self.__dict__["actor"] = before

    def watch(self, *invariants: Invariant) -> None:
        """Check `invariants` after each call and each physical event from now on; what they find is in `violations`."""
        self.writes.clear()
        for invariant in invariants:
            invariant.begin(self)
            self.invariants.append(invariant)

    def conclude(self) -> None:
        """Ask every invariant what must hold at the end."""
        self.settle("the end")
        for invariant in self.invariants:
            invariant.report(self, "the end", invariant.broken_at_end(self))

    def settle(self, cause: str) -> None:
        """After a call or a physical event: make anew what is stale, wake who waits, and hold the writes against the
        invariants."""
        self.freshen()
        if self.upkeep.replan:
            ha_monitor.wake(self)
        if self._waiting:
            while ready := [entry for entry in self._waiting if entry[0].ready()]:  # one may be what another waits for
                for entry in ready:
                    self._waiting.remove(entry)
                    entry[1].cancel()
                    entry[2]()
                self.freshen()
        if not self.writes:
            return
        if self.trace is not None:
            self.trace.settled(cause)
        writes, self.writes = self.writes, []
        for invariant in self.invariants:
            concerned = invariant.concerned(writes)
            if concerned:
                invariant.inspect(self, concerned, cause)
