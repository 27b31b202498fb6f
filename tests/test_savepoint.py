"""Savepoints: everything is as it was after a rollback, and goes on as it did."""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Callable
from contextlib import closing, suppress
from typing import Any

import pytest
from hypothesis import Phase, given, settings
from hypothesis import strategies as st

from mockserver import MockPool, PoolServer
from mockserver.invariants import rolling_upgrade
from mockserver.recorder import Recorder
from mockserver.savepoint import SavepointError
from mockserver.store import Row
from xenctl import connect, database
from xenctl.errors import ConnectionLost, Failure, XenctlError
from xenctl.transport import Request, Response

Make = Callable[..., Any]


Picture = Callable[[MockPool], Any]

PHASES = [Phase.explicit, Phase.reuse, Phase.generate]
"""Without shrinking: an example plays whole days in a pool, and to find a smaller one takes long."""

# --- random deeds

CALLS = (
    *("VM.start", "VM.clean_shutdown", "VM.hard_shutdown", "VM.suspend", "VM.resume", "VM.clean_reboot"),
    *(
        "VM.pause",
        "VM.unpause",
        "VM.pool_migrate",
        "VM.power_state_reset",
        "VM.set_name_label",
        "VM.add_to_other_config",
    ),
    *("VDI.create", "VDI.destroy", "VBD.eject", "VBD.insert", "VBD.plug", "VBD.unplug"),
    *("host.disable", "host.enable", "host.evacuate", "host.reboot", "task.create", "task.cancel", "task.destroy"),
    *("session.logout", "event.register", "event.inject", "event.next", "PBD.unplug", "PBD.plug"),
    *("VDI.snapshot", "VDI.clone", "VDI.copy", "VDI.resize", "VDI.forget", "VDI.set_other_config", "VBD.destroy"),
    *("SR.create", "SR.introduce", "SR.scan", "SR.forget", "SR.destroy", "SR.set_name_description", "PBD.destroy"),
    *("network.create", "network.destroy", "VLAN.create", "VLAN.destroy", "Bond.create", "Bond.destroy"),
    *("PIF.plug", "PIF.unplug", "PIF.scan", "PIF.forget", "VIF.plug", "VIF.unplug", "VIF.destroy"),
    *("message.create", "message.destroy", "blob.create", "blob.destroy", "subject.create", "subject.add_to_roles"),
)
ON_THE_NEWEST = (
    *("VDI.destroy", "VDI.resize", "VDI.forget", "SR.scan", "SR.forget", "SR.destroy", "PBD.unplug", "PBD.destroy"),
    *("network.destroy", "PIF.plug", "PIF.unplug", "PIF.forget", "VBD.destroy", "VIF.plug"),
)
"""Calls that are made on one of the last three rows: on what the first ones are in use for they are refused."""
ACTS = (
    *CALLS,
    *("power_off", "power_on", "insert_media", "advance", "login", "slave_local_login", "write", "upgrade"),
    *("directory", "plug_nic", "put_blob", "put_disk", "export", "half_an_export", "restore", "back_up"),
)
FURNITURE = (
    *("directory", "network.create", "VLAN.create", "network.create", "Bond.create", "network.create", "SR.create"),
    *("VDI.create", "VDI.create", "VDI.clone", "message.create", "message.create", "blob.create", "subject.create"),
)
HANDLERS = {
    "put_blob": ("PUT", "/blob", "blob"),
    "put_disk": ("PUT", "/import_raw_vdi", "VDI"),
    "export": ("GET", "/export", "VM"),
    "half_an_export": ("GET", "/export", "VM"),
    "restore": ("PUT", "/pool/xmldbdump", "pool"),
    "back_up": ("GET", "/host_backup", "host"),
}
deeds = st.lists(
    st.tuples(st.sampled_from(ACTS), st.integers(0, 11), st.sampled_from([0.5, 3.0, 40.0, 700.0]), st.booleans()),
    max_size=14,
)


class Player:
    """Does things to a pool by number, and tells what came of each."""

    def __init__(self, pool: MockPool) -> None:
        self.pool = pool
        self.session: str = pool.dispatch("session.login_with_password", [pool.username, pool.password])
        self.opened: list[Response] = []

    def furnish(self) -> None:
        """Make some of everything that is in no fresh pool, as far as the release knows it."""
        for host in range(len(self.pool.machines)):
            self.play([("plug_nic", host, 0.0, False), ("plug_nic", host, 0.0, False), ("PIF.scan", host, 0.0, False)])
        for act in FURNITURE:
            self._one(act, 3, 0.0, False)

    def hang_up(self) -> None:
        """Close the downloads that were read in part."""
        while self.opened:
            self.opened.pop().stream.close()

    def play(self, acts: list[tuple[str, int, float, bool]]) -> list[Any]:
        return [self._one(*act) for act in acts]

    def _one(self, act: str, number: int, seconds: float, later: bool) -> Any:
        try:
            return self._do(act, number, seconds, later)
        except Failure as error:
            return error.details
        except (XenctlError, LookupError, ValueError) as error:
            return repr(error)
        except Exception as error:  # a machine that is off already
            if type(error).__name__ != "MachineRoomError":
                raise
            return repr(error)

    def _pick(self, table: str, number: int) -> Row:
        rows = list(self.pool.store.table(table).values())
        if not rows:
            raise LookupError(f"there is no {table}")
        return rows[number % len(rows)]

    def _do(self, act: str, number: int, seconds: float, later: bool) -> Any:
        pool, host = self.pool, self.pool.machines[number % len(self.pool.machines)]
        if act == "advance":
            return pool.clock.advance(seconds)
        if act == "login":
            self.session = pool.dispatch("session.login_with_password", [pool.username, pool.password])
            return self.session
        if act == "slave_local_login":
            return pool.dispatch("session.slave_local_login_with_password", [pool.username, pool.password], host)
        if act == "write":
            return pool.store.write(self._pick("VM", number), name_label=f"written {seconds}", tags=["a", str(number)])
        if act == "insert_media":
            return pool.hands.insert_media(host.name, "8.2" if later else "7.0")
        if act == "upgrade":
            return self._upgrade(host.name)
        if act == "directory":
            pool.directory.connect(pool)
            return pool.directory.add(f"user{number}", password="pw")
        if act == "plug_nic":
            host.nics = (*host.nics, (f"eth{len(host.nics)}", f"00:16:3e:ff:ff:{len(host.nics):02x}"))
            return host.nics
        if act in HANDLERS:
            return self._transfer(act, number, seconds)
        if act in ("power_off", "power_on"):
            return getattr(pool.hands, act)(host.name)
        return self._call(act, number, later)

    def _upgrade(self, host: str) -> str:
        self.pool.hands.insert_media(host, "8.2")
        self.pool.hands.power_on(host)
        self.pool.clock.advance(300.0)
        self.pool.hands.answer(host, "upgrade")
        self.pool.clock.advance(1500.0)
        return self.pool.machine(host).system.release.product_version

    def _call(self, method: str, number: int, later: bool) -> Any:
        table = method.partition(".")[0]
        more: dict[str, Callable[[], list[Any]]] = {
            "VM.start": lambda: [False, False],
            "VM.resume": lambda: [False, False],
            "VM.pool_migrate": lambda: [self._pick("host", number).ref, {}],
            "VM.set_name_label": lambda: [f"name {number}"],
            "VM.add_to_other_config": lambda: [f"key {number}", "value"],
            "VBD.insert": lambda: [self._pick("VDI", 0).ref],
            "PBD.plug": list,
            "VDI.snapshot": lambda: [{}],
            "VDI.clone": lambda: [{}],
            "VDI.copy": lambda: [self._pick("SR", number).ref],
            "VDI.resize": lambda: [(number + 1) << 30],
            "VDI.set_other_config": lambda: [{"number": str(number)}],
            "SR.set_name_description": lambda: [f"number {number}"],
            "subject.add_to_roles": lambda: [
                self.pool.dispatch("role.get_by_name_label", [self.session, "vm-admin"])[0]
            ],
        }
        alone: dict[str, Callable[[], list[Any]]] = {
            "VDI.create": self._vdi,
            "task.create": lambda: ["a task", ""],
            "session.logout": list,
            "event.register": lambda: [["vm", "pool"]],
            "event.next": list,
            "event.inject": lambda: ["VM", self._pick("VM", number).ref],
            "SR.create": lambda: [
                *(self._pick("host", number).ref, {"server": "filer"}, number << 30),
                *("made", "", "nfs", "user", True, {}),
            ],
            "SR.introduce": lambda: [self._forgotten(), "again", "", "nfs", "user", True, {}],
            "network.create": lambda: [{"name_label": "new", "name_description": "", "other_config": {}}],
            "VLAN.create": lambda: [self._pick("PIF", -number).ref, str(number), self._pick("network", -1).ref],
            "Bond.create": lambda: [self._pick("network", -1).ref, self._cards(number), ""],
            "PIF.scan": lambda: [self._pick("host", number).ref],
            "message.create": lambda: ["SEEN", number, "VM", self._pick("VM", number)["uuid"], "a body"],
            "message.destroy": lambda: [self._message(number)],
            "blob.create": lambda: ["text/plain"],
            "subject.create": lambda: [self._subject(number)],
        }
        if method in alone:
            args = alone[method]()
        elif table == "task":
            args = [next(iter(self.pool.store.table("task")), "OpaqueRef:none")]
        else:
            place = -1 - number % 3 if method in ON_THE_NEWEST else number
            args = [self._pick(table, place).ref, *more.get(method, list)()]
        name = f"Async.{method}" if later and table not in ("task", "session", "event") else method
        return self.pool.dispatch(name, [self.session, *args])

    def _vdi(self) -> list[Any]:
        sr = self._pick("SR", 0).ref
        fields = {
            "SR": sr,
            "virtual_size": 1,
            "type": "user",
            "sharable": False,
            "read_only": False,
            "other_config": {},
        }
        return [{"name_label": "new", "name_description": "", **fields}]

    def _forgotten(self) -> str:
        """The uuid of storage that no row tells of any more, or of none at all."""
        known = {sr["uuid"] for sr in self.pool.store.table("SR").values()}
        return next((uuid for uuid in self.pool.storage.sizes if uuid not in known), "3" * 36)

    def _cards(self, number: int) -> list[str]:
        host = self._pick("host", number)
        return [row.ref for row in self.pool.store.table("PIF").values() if row["host"] == host.ref][-2:]

    def _message(self, number: int) -> str:
        refs: list[str] = self.pool.dispatch("message.get_all", [self.session])
        return refs[number % len(refs)] if refs else "OpaqueRef:none"

    def _subject(self, number: int) -> dict[str, Any]:
        account = self.pool.directory.find(f"user{number}")
        sid = account.sid if account else "S-1-0-0"
        return {"subject_identifier": sid, "other_config": {}}

    def _transfer(self, act: str, number: int, seconds: float) -> Any:
        """Ask one of the master's HTTP handlers; what came, in short."""
        method, path, table = HANDLERS[act]
        row = self._pick(table, number)
        body = b"" if method == "GET" else self._sent(act, seconds)
        query = f"session_id={self.session}&ref={row.ref}&uuid={row['uuid']}&vdi={row.ref}"
        response = self.pool.transport().send(Request(self.pool.url, method, f"{path}?{query}", {}, body))
        if act == "half_an_export":
            self.opened.append(response)
            return response.status, response.stream.read(512)
        return response.status, hashlib.sha256(response.read()).hexdigest()

    def _sent(self, act: str, seconds: float) -> bytes:
        if act == "restore":
            return database.write(self.pool.store.dump())
        return f"bytes {seconds}".encode().ljust(1 << 16, b".")


def events(pool: MockPool, session: str) -> Any:
    """What a listener would be told, from the beginning and from now on; asking leaves no trace."""
    with pool.savepoint():
        try:
            whole = pool.dispatch("event.from", [session, ["*"], "", 0.0])
            return whole, pool.dispatch("event.from", [session, ["*"], whole["token"], 0.0])
        except Failure as error:  # a release that has no such message, or a session that was ended
            return error.details


@settings(max_examples=40, phases=PHASES)
@given(first=deeds, then=deeds, release=st.sampled_from(["4.0.1", "7.0"]), watched=st.booleans())
def test_after_a_rollback_the_world_is_as_it_was_and_goes_on_the_same(
    picture: Picture, first: Any, then: Any, release: str, watched: bool
) -> None:
    """Whatever is done: rows and their order, generations, events, clock, timers, machines, bytes on disks, the next
    uuid, watchers. The same done again gives the same answers and the same end."""
    pool = MockPool.create(hosts=3, vms=7, release=release)
    if watched:
        pool.watch(Recorder(), *rolling_upgrade())
    player = Player(pool)
    player.furnish()
    player.play(first)
    player.hang_up()
    pool.clock.run_until_idle()
    session, before = player.session, picture(pool)
    told = events(pool, session)
    assert picture(pool) == before
    point = pool.savepoint()
    ends = []
    for _ in range(2):
        player.session = session
        answers = player.play(then)
        ends.append((answers, picture(pool)))
        point.rollback()
        player.hang_up()
        assert picture(pool) == before
    assert ends[0] == ends[1]
    assert events(pool, session) == told
    point.release()
    assert pool.journal.entries is None


@pytest.mark.parametrize("release", ["4.0.1", "8.2"])
def test_every_deed_is_taken_back(picture: Picture, release: str) -> None:
    """Each by itself and on several objects, also while what it began goes on. All but a few, which need more than one step,
    are done and not refused, so that there is something to take back."""
    pool = MockPool.create(hosts=3, vms=7, release=release)
    player = Player(pool)
    player.furnish()
    before, session, done = picture(pool), player.session, set[str]()
    for act in ACTS:
        for later in (False, True):
            with pool.savepoint() as point:
                answers = player.play([(act, number, 3.0, later) for number in range(7)])
                done |= {act for answer in answers if not refused(answer)}
                point.rollback()
                player.hang_up()
                player.session = session
                assert picture(pool) == before, (act, later)
    if release == "8.2":
        assert set(ACTS) - done == {"task.cancel", "task.destroy", "event.next", "power_on", "upgrade"}


def refused(answer: Any) -> bool:
    error = isinstance(answer, list) and answer and isinstance(answer[0], str) and answer[0].isupper()
    return bool(error) or (isinstance(answer, str) and "Error" in answer)


@settings(max_examples=25, phases=PHASES)
@given(st.lists(st.tuples(st.sampled_from(["do", "take", "back", "release"]), deeds, st.integers(0, 5)), max_size=8))
def test_savepoints_nest(picture: Picture, steps: Any) -> None:
    """Each goes back to its own moment, whatever happened to those inside it; those inside are gone then."""
    pool = MockPool.create(hosts=2, vms=4, release="8.2")
    player, points = Player(pool), list[Any]()
    player.furnish()
    for step, acts, number in steps:
        if step == "do":
            player.play(acts)
            player.hang_up()
            pool.clock.run_until_idle()
        elif step == "take":
            points.append((pool.savepoint(), picture(pool), player.session))
        elif points:
            point, then, session = points[number % len(points)]
            inner = [p for p, _, _ in points[number % len(points) + 1 :]]
            if step == "back":
                point.rollback()
                assert picture(pool) == then
                player.session = session
                del points[number % len(points) + 1 :]
            else:
                point.release()
                del points[number % len(points) :]
            for gone in inner:
                with pytest.raises(SavepointError, match="it is gone"):
                    gone.rollback()
    while points:
        point, then, _ = points.pop()
        point.rollback()
        assert picture(pool) == then
        point.release()
    assert pool.journal.entries is None


# --- what is taken back, one by one


def test_a_block_leaves_no_trace(calls: Make, picture: Picture) -> None:
    """At the end of a `with` block everything is as it was before it, an error or not."""
    c = calls(vms=2)
    before = picture(c.pool)
    with suppress(Failure), c.pool.savepoint():
        c("VM.hard_shutdown", c.vm("vm01").ref)
        assert c.vm("vm01")["power_state"] == "Halted"
        c("VM.hard_shutdown", c.vm("vm01").ref)
    assert c.vm("vm01")["power_state"] == "Running"
    assert picture(c.pool) == before


def test_a_released_savepoint_keeps_what_was_changed(calls: Make) -> None:
    """And nothing is recorded any more."""
    c = calls(vms=2)
    point = c.pool.savepoint()
    c("VM.hard_shutdown", c.vm("vm01").ref)
    point.release()
    assert c.vm("vm01")["power_state"] == "Halted"
    assert c.pool.journal.entries is None
    with pytest.raises(SavepointError, match="cannot roll back to this savepoint: it is gone"):
        point.rollback()


def test_an_operation_under_way_forbids_a_savepoint(calls: Make) -> None:
    """A verb that waits cannot be copied; the error names it and what to do."""
    c = calls(vms=2)
    c.start("VM.clean_shutdown", c.vm("vm01").ref)
    with pytest.raises(SavepointError, match=r"while Async\.VM\.clean_shutdown goes on: let it end first, or cancel"):
        c.pool.savepoint()
    c.pool.clock.run_until_idle()
    c.pool.savepoint().release()


def test_an_operation_begun_since_is_ended(calls: Make, picture: Picture) -> None:
    """Its timers are gone, its task too, and it does nothing any more."""
    c = calls(vms=2)
    before = picture(c.pool)
    point = c.pool.savepoint()
    c.start("VM.clean_shutdown", c.vm("vm01").ref)
    c.sleep(3)
    point.rollback()
    assert picture(c.pool) == before
    c.sleep(3600)
    assert c.vm("vm01")["power_state"] == "Running"
    assert not c.pool.store.table("task")


def test_a_transfer_is_no_different(calls: Make, picture: Picture) -> None:
    """A download that is half read forbids a savepoint; one that began since is cut off, and its task is gone."""
    c = calls(vms=3)
    vm = c.vm("vm01")
    c("VM.hard_shutdown", vm.ref)

    def download() -> Response:
        query = f"session_id={c.session}&ref={vm.ref}"
        response = c.pool.transport().send(Request(c.pool.url, "GET", f"/export?{query}"))
        assert response.stream.read(512)
        return response

    message = "cannot fork the pool while GET /export goes on: let it end first"
    with closing(download().stream), pytest.raises(SavepointError, match=message):
        c.pool.fork()
    before, point = picture(c.pool), c.pool.savepoint()
    began = download()
    assert len(c.pool.store.table("task")) == 1
    point.rollback()
    assert picture(c.pool) == before
    with pytest.raises(ConnectionLost, match="the host went away"):
        began.read()
    assert picture(c.pool) == before


def test_nobody_takes_the_pool_back_in_the_middle_of_a_call(calls: Make) -> None:
    """Neither from a timer that fires while a call waits, nor takes a savepoint there."""
    c = calls(vms=2)
    point, said = c.pool.savepoint(), list[str]()

    def meddle() -> None:
        for act in (point.rollback, c.pool.savepoint):
            with pytest.raises(SavepointError) as caught:
                act()
            said.append(str(caught.value))

    c.pool.clock.after(1.0, meddle)
    c("VM.clean_shutdown", c.vm("vm01").ref)
    assert said == [
        f"cannot {act} in the middle of VM.clean_shutdown: wait until the call has returned"
        for act in ("roll back", "take a savepoint")
    ]


def test_a_savepoint_belongs_to_its_pool(calls: Make) -> None:
    """Another pool refuses it."""
    point = calls().pool.savepoint()
    with pytest.raises(SavepointError, match="it is of another pool"):
        calls().pool.rollback(point)


def test_a_rows_place_is_taken_back_too(calls: Make) -> None:
    """Removed from the middle, it comes back to the middle: who looks for the first finds the same one."""
    c = calls(hosts=1, vms=9)
    order = list(c.pool.store.table("VDI"))
    with c.pool.savepoint():
        for ref in order[3:5]:
            c.pool.store.delete(c.pool.store.get("VDI", ref))
        c.pool.store.create("VDI", "OpaqueRef:new", {"uuid": "new"})
    assert list(c.pool.store.table("VDI")) == order


def test_what_cannot_be_taken_back_is_refused_when_it_is_put_in(calls: Make) -> None:
    """A container of another type would change unseen."""
    from collections import deque

    with pytest.raises(TypeError, match="changes of a deque cannot be taken back; use a plain dict, list or set"):
        calls().pool.downloads = deque()


def test_timers_taken_back_do_not_pile_up(calls: Make) -> None:
    """A savepoint may be returned to many times."""
    c = calls()
    point = c.pool.savepoint()
    for _ in range(500):
        c.pool.clock.after(1e6, lambda: None)
        point.rollback()
    assert len(c.pool.clock._timers) < 50


# --- on sockets


def test_a_served_pool_is_taken_back_and_who_waits_loses_the_connection() -> None:
    """A listener that waits for events is no obstacle to a savepoint; hosts that went off listen again."""
    pool = MockPool.create(hosts=2, vms=2, release="8.2")
    with PoolServer(pool) as server:
        with connect(server.url, "root", "secret") as session, connect(server.url, "root", "secret") as other:
            errors: list[BaseException] = []
            token = session.event.from_(["network"], "", 0.0)["token"]
            waits = threading.Thread(target=_listen, args=(other, token, errors))
            waits.start()
            while not pool.going:
                session.pool.get_all()
            point = pool.savepoint()
            pool.hands.power_off("host2")
            (vm,) = session.VM.get_by_name_label("vm01")
            session.VM.hard_shutdown(vm)
            point.rollback()
            waits.join(timeout=30)
            assert not waits.is_alive()
            assert [type(error) for error in errors] == [ConnectionLost]
            assert session.VM.get_power_state(vm) == "Running"
            with connect(server.hosts()[1]["url"], "root", "secret") as third:
                assert third.origin == server.url
            point.release()
        early = pool.savepoint()
    with pytest.raises(SavepointError, match="put on sockets or taken off them since"):
        early.rollback()


def _listen(session: Any, token: str, errors: list[BaseException]) -> None:
    try:
        session.event.from_(["network"], token, 3600.0)
    except XenctlError as error:
        errors.append(error)


def test_the_log_of_changes_is_cut_again_and_again_and_loses_nothing(calls: Make, picture: Picture) -> None:
    """It does not grow with every write; while there is a savepoint it does, until a rollback."""
    c = calls(vms=1)
    table, vm = c.pool.store.tables["VM"], c.vm("vm01")
    for number in range(1000):
        c.pool.store.write(vm, name_label=str(number))
    assert len(table.recent) < 100
    length, before = len(table.recent), picture(c.pool)
    with c.pool.savepoint():
        for number in range(500):
            c.pool.store.write(vm, name_label=f"again {number}")
        assert [row.ref for row in c.pool.store.changes("VM", before_last(c.pool))] == [vm.ref]
    assert (len(table.recent), picture(c.pool)) == (length, before)


def before_last(pool: MockPool) -> int:
    """The generation before the last change."""
    return pool.store.generation - 2
