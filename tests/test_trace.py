"""The trace: calls as records without secrets, the pool's past, files, replay and comparison."""

from __future__ import annotations

import json
import random
import textwrap
from collections.abc import Callable
from contextlib import suppress
from dataclasses import FrozenInstanceError
from pathlib import Path
from typing import Any

import pytest

import xenctl
from mockserver import MockPool, PoolServer, Trace
from mockserver.trace import TraceError
from mockserver.traced import MEMBERS, Change, Omitted, TraceRecord, compare, read, replay, to_lines
from xenctl import ConnectionLost, Failure
from xenctl.values import Ref


def traced(pool: MockPool, **options: Any) -> Trace:
    """A trace of a pool that goes on."""
    trace = Trace(pool, **options)
    trace.start()
    return trace


class TestRecords:
    """What a record tells."""

    def test_a_call(self, calls: Callable[..., Any]) -> None:
        """Number, time, host, session by name, method, arguments, result, writes, generations; and it is frozen."""
        session = calls(vms=1)
        vm = session.vm("vm01")
        with Trace(session.pool) as trace:
            before = session.pool.store.generation
            session("VM.set_name_description", vm.ref, "new")
            session("VM.get_name_description", vm.ref)
        first, second = trace
        assert first == TraceRecord(
            number=1,
            kind="call",
            at=session.pool.clock.now(),
            seconds=0.0,
            host="host1",
            session="session-1",
            method="VM.set_name_description",
            arguments=(vm.ref, "new"),
            result="",
            writes=(Change("write", "VM", vm.ref, "name_description", vm_description(first), "new"),),
            generations=(before, before + 1),
        )
        assert (second.number, second.result, second.writes) == (2, "new", ())
        with pytest.raises(FrozenInstanceError):
            first.number = 3  # type: ignore[misc]

    def test_a_refusal(self, calls: Callable[..., Any]) -> None:
        """With its code and parameters; an unknown method too."""
        session = calls(vms=1)
        with Trace(session.pool) as trace:
            session.refused("VM.start", "OpaqueRef:none", False, False)
            session.refused("VM.fly", "OpaqueRef:none")
        assert [(r.method, r.session, r.error) for r in trace] == [
            ("VM.start", "session-1", ("HANDLE_INVALID", "VM", "OpaqueRef:none")),
            ("VM.fly", "session-1", ("MESSAGE_METHOD_UNKNOWN", "VM.fly")),
        ]

    def test_a_call_that_takes_time(self, calls: Callable[..., Any]) -> None:
        """How long, and only what it wrote itself: what else happens meanwhile is told apart."""
        session = calls(vms=2)
        pool = session.pool
        with Trace(pool) as trace:
            session("Async.VM.clean_reboot", session.vm("vm02").ref)
            session("VM.clean_shutdown", session.vm("vm01").ref)
        shutdown = next(r for r in trace if r.method == "VM.clean_shutdown")
        assert shutdown.seconds == pool.durations.vm_shutdown
        written = {c.ref for c in shutdown.writes if c.table == "VM"}
        assert written == {session.vm("vm01").ref}
        others = [r for r in trace if r.kind == "event"]
        assert session.vm("vm02").ref in {c.ref for r in others for c in r.writes}
        assert {r.method for r in others} == {"time"}

    def test_what_happens_to_hosts(self, calls: Callable[..., Any]) -> None:
        """Between the calls, with the change of the machine."""
        session = calls(vms=2)
        pool = session.pool
        with Trace(pool) as trace:
            session("VM.get_all")
            pool.hands.power_off("host2")
            pool.clock.advance(pool.durations.assumed_dead + 1)
            session("VM.get_all")
        assert [(r.kind, r.number, r.method) for r in trace] == [
            ("call", 1, "VM.get_all"),
            ("event", 1, "host2 off"),
            ("event", 1, "time"),
            ("call", 2, "VM.get_all"),
        ]
        off = list(trace)[1].writes[0]
        assert off == Change("write", "machine", pool.machine("host2").uuid, "state", "running", "off")

    def test_what_a_fault_did(self, calls: Callable[..., Any]) -> None:
        """A request that was struck is there with the fault's kind, and the call with its result if it took effect."""
        session = calls(vms=1)
        for number, kind in enumerate(("reset", "answer_lost"), 1):
            session.pool.faults.add(kind, method="VM.get_all", nth=number)
        with Trace(session.pool) as trace:
            for _ in range(2):
                with pytest.raises(ConnectionLost):
                    session("VM.get_all")
            session.pool.faults.add("error", method="VM.get_all", code="HOST_OFFLINE", params=["x"])
            session.refused("VM.get_all")
        assert [(r.kind, r.method, r.lost) for r in trace] == [
            ("fault", "VM.get_all", "reset"),
            ("call", "VM.get_all", ""),
            ("fault", "VM.get_all", "answer_lost"),
            ("call", "VM.get_all", ""),
            ("fault", "VM.get_all", "error"),
        ]

    def test_a_host_that_went_away(self, calls: Callable[..., Any]) -> None:
        """The call has neither result nor error."""
        session = calls(vms=2)
        session.pool.clock.after(3, lambda: session.pool.hands.power_off("host1"))
        with Trace(session.pool) as trace, pytest.raises(ConnectionLost):
            session("VM.clean_shutdown", session.vm("vm01").ref)
        (record,) = [r for r in trace if r.kind == "call"]
        assert (record.lost, record.result, record.error) == ("the host went away", None, ())

    def test_large_results_are_not_kept(self, calls: Callable[..., Any]) -> None:
        """They are replaced by their kind and size."""
        session = calls(vms=20)
        with Trace(session.pool) as trace:
            session("VM.get_all_records")
            vms = session("VM.get_all")
            vms.clear()
        records, small = trace
        assert records.result == Omitted("dict", 22)
        assert len(small.result) == 22 <= MEMBERS

    def test_over_sockets_calls_that_wait_are_told_apart(self) -> None:
        """Two clients at a time: each call has its own writes."""
        pool = MockPool.create(hosts=2, vms=4, release="8.2")
        with PoolServer(pool) as server, Trace(pool) as trace:
            with xenctl.connect(server.url, "root", "secret") as session:
                ones = [session.VM.get_by_name_label(name)[0] for name in ("vm01", "vm02")]
                from concurrent.futures import ThreadPoolExecutor

                with ThreadPoolExecutor(2) as threads:
                    list(threads.map(lambda vm: session.VM.clean_shutdown(Ref(vm)), ones))
            found = [r for r in trace if r.method == "VM.clean_shutdown"]
        assert [{c.ref for c in r.writes if c.table == "VM"} for r in found] == [{r.arguments[0]} for r in found]


def vm_description(record: TraceRecord) -> Any:
    """What a VM's description was before."""
    return record.writes[0].old


class TestSecrets:
    """Nothing that is read from a trace has a secret in it."""

    def test_passwords_and_sessions(self) -> None:
        """Of logins, whatever way they come, and of objects that hold them."""
        pool = MockPool.create(hosts=2, vms=1, release="8.2", password="Hush-1")
        host = pool.machine("host1").system
        with Trace(pool) as trace:
            with xenctl.connect(pool.url, "root", "Hush-1", transport=pool.transport()) as session:
                reference = str(session.ref)
                session.call("session.get_record", [reference])
                session.call("task.get_all_records", [])
                session.call("event.from", [["*"], "", 0.0])
                session.call("SR.add_to_other_config", [pool.store.pool()["default_SR"], "chappassword", "Hush-2"])
                session.call(
                    "SR.set_other_config", [pool.store.pool()["default_SR"], {"x_password": "Hush-3", "y": "z"}]
                )
                session.call("secret.create", [{"value": "Hush-4", "other_config": {}}])
                for secret in pool.store.table("secret"):
                    session.call("secret.get_value", [secret])
                    session.call("secret.set_value", [secret, "Hush-5"])
                    session.call("secret.get_record", [secret])
            with pytest.raises(Failure):
                pool.dispatch("session.login_with_password", ["root", "Hush-6"])
            pool.dispatch("session.slave_login", ["OpaqueRef:none", host.pool_secret])
        text = "".join(json.dumps(vars(r), default=lambda v: vars(v)) for r in trace)
        assert "Hush" not in text
        assert reference not in text
        assert host.pool_secret not in text
        login = next(r for r in trace if r.method == "session.login_with_password")
        assert (login.arguments[:2], login.result) == (("root", "REDACTED"), "session-1")
        assert {r.session for r in trace if r.method.startswith("SR.")} == {"session-1"}
        assert '"y": "z"' in text


class TestBounds:
    """How much is kept."""

    def test_the_oldest_records_are_dropped_and_counted(self, calls: Callable[..., Any]) -> None:
        """The numbers go on."""
        session = calls()
        with Trace(session.pool, limit=3) as trace:
            for _ in range(5):
                session("VM.get_all")
        assert ([r.number for r in trace], trace.dropped, trace.calls, len(trace)) == ([3, 4, 5], 2, 5, 3)
        assert [r.number for r in trace.tail(1)] == [5]
        assert trace.tail(0) == trace.tail()

    def test_dropped_writes_are_counted(self, calls: Callable[..., Any]) -> None:
        """A record says how many of its writes are missing."""
        session = calls(vms=1)
        trace = traced(session.pool, limit=2)
        vm = session.vm("vm01").ref
        session("VM.set_name_description", vm, "first")
        with session.pool.guard():
            for number in range(100):
                session.pool.store.write(session.vm("vm01"), name_description=f"{number}")
        assert [(r.kind, len(r.writes), r.missing) for r in trace] == [("call", 0, 1), ("event", 64, 36)]

    def test_one_trace_at_a_time(self, calls: Callable[..., Any]) -> None:
        """A second one is refused; after `stop` nothing is noted."""
        session = calls()
        trace = traced(session.pool)
        with pytest.raises(TraceError, match="traced already"):
            Trace(session.pool).start()
        trace.stop()
        session("VM.get_all")
        assert len(trace) == 0
        with pytest.raises(ValueError, match="at least one record, not 0"):
            Trace(session.pool, limit=0)


def everything(pool: MockPool) -> dict[str, dict[str, dict[str, Any]]]:
    """A copy of the whole database."""
    return {
        name: {
            ref: {k: v.copy() if isinstance(v, (list, dict)) else v for k, v in row.items()}
            for ref, row in t.rows.items()
        }
        for name, t in pool.store.tables.items()
    }


class TestPast:
    """The pool as it was."""

    @pytest.mark.parametrize("seed", range(3))
    def test_it_is_what_a_copy_made_then_holds(self, calls: Callable[..., Any], seed: int) -> None:
        """After each of many calls of all sorts, every table, every field."""
        session = calls(vms=6, release="8.2", seed=seed)
        chance, pool = random.Random(seed), session.pool
        trace = traced(pool)
        copies = [everything(pool)]
        for _ in range(40):
            vm = chance.choice([v for v in pool.store.table("VM").values() if not v["is_control_domain"]])
            method, *args = chance.choice(
                [
                    ("VM.start", vm.ref, False, False),
                    ("VM.hard_shutdown", vm.ref),
                    ("VM.clean_reboot", vm.ref),
                    ("VM.suspend", vm.ref),
                    ("VM.resume", vm.ref, False, False),
                    ("VM.pool_migrate", vm.ref, session.host(chance.choice(["host1", "host2"])).ref, {}),
                    ("VM.set_name_label", vm.ref, f"x{chance.random()}"),
                    ("VM.destroy", vm.ref),
                    ("Async.VM.pause", vm.ref),
                    ("session.login_with_password", "root", "secret"),
                ]
            )
            with suppress(Failure):
                pool.dispatch(method, args if method.startswith("session.") else [session.session, *args])
            copies.append(everything(pool))
            pool.clock.advance(chance.choice([0, 0, 30]))
        assert trace.calls == 40
        for number, copy in enumerate(copies):
            view = trace.at(number)
            assert {name: view.table(name) for name in copy} == copy, f"seed {seed}, call {number}"

    def test_a_view_lasts(self, calls: Callable[..., Any]) -> None:
        """What happens afterwards does not change it."""
        session = calls(vms=1)
        trace, vm = traced(session.pool), session.vm("vm01").ref
        session("VM.get_all")
        view = trace.at(1)
        session("VM.hard_shutdown", vm)
        assert session.vm("vm01")["power_state"] == "Halted"
        assert view.record("VM", vm)["power_state"] == "Running"
        assert (view.number, view.moment) == (1, session.pool.clock.now() - session.pool.durations.vm_destroy)
        with pytest.raises(KeyError):
            view.record("VM", "OpaqueRef:none")

    def test_beyond_the_bound_it_is_refused(self, calls: Callable[..., Any]) -> None:
        """In words that say why and what to do."""
        session = calls(vms=1)
        trace, vm = traced(session.pool, limit=2), session.vm("vm01").ref
        for number in range(3):
            session("VM.set_name_description", vm, f"{number}")
        with pytest.raises(TraceError, match=r"call 1 is not kept any more: .*the last 2 records, and dropped 1"):
            trace.at(1)
        with pytest.raises(TraceError, match="there is no call 4 in this trace: it has 3"):
            trace.at(4)
        view = trace.at(2)
        for number in range(70):
            session.pool.store.write(session.vm("vm01"), name_description=f"more {number}")
        with pytest.raises(TraceError, match="of the 71 writes since then only 64 are kept"):
            view.table("VM")
        trace.stop()
        with pytest.raises(TraceError, match="was stopped"):
            view.table("VM")

    def test_not_beyond_a_masters_start(self, calls: Callable[..., Any]) -> None:
        """It loads its database, and loading writes nothing."""
        session = calls(vms=1)
        trace = traced(session.pool)
        session("VM.get_all")
        session.pool.hands.power_off("host1")
        session.pool.hands.power_on("host1")
        session = session.back()
        with pytest.raises(TraceError, match="as it was after call 1: since then a master loaded its database"):
            trace.at(1)
        session("VM.get_all")
        assert trace.at(trace.calls).table("VM") == everything(session.pool)["VM"]


class TestFiles:
    """JSON lines."""

    def test_what_is_written_is_read(self, calls: Callable[..., Any], tmp_path: Path) -> None:
        """Record by record, large values and refusals too."""
        session = calls(vms=20)
        with Trace(session.pool) as trace:
            session("VM.get_all_records")
            session("VM.get_record", session.vm("vm01").ref)
            session("Async.VM.hard_shutdown", session.vm("vm01").ref)
            session.refused("VM.get_record", "OpaqueRef:none")
            session.pool.clock.run_until_idle()
        trace.write(tmp_path / "trace.jsonl")
        assert read(tmp_path / "trace.jsonl") == list(trace)

    @pytest.mark.parametrize(
        ("text", "message"),
        [
            ("", "is empty, and no trace"),
            ("{}\n", "line 1: not a record of a trace: it does not begin as"),
            ('{"trace": 1, "dropped": 0}\nnonsense\n', "line 2: not a record"),
            ('{"trace": 1, "dropped": 0}\n{"nonsense": 1}\n', "line 2: .*unknown members nonsense"),
            ('{"trace": 1, "dropped": 0}\n{"number": 1}\n', "line 2: not a record"),
        ],
    )
    def test_what_is_none_is_refused(self, tmp_path: Path, text: str, message: str) -> None:
        """With its line."""
        (tmp_path / "x").write_text(text)
        with pytest.raises(ValueError, match=message):
            read(tmp_path / "x")


def played(pool: MockPool) -> Trace:
    """The trace of a small programme: a migration, a task, a refusal, a description."""
    with Trace(pool) as trace:
        session = pool.dispatch("session.login_with_password", ["root", "secret"])
        vm = pool.dispatch("VM.get_by_name_label", [session, "vm01"])[0]
        pool.dispatch("Async.VM.clean_reboot", [session, vm])
        pool.clock.advance(90)
        host = pool.dispatch("host.get_by_name_label", [session, "host2"])[0]
        pool.dispatch("VM.pool_migrate", [session, vm, host, {}])
        with pytest.raises(Failure):
            pool.dispatch("VM.start", [session, vm, False, False])
        pool.dispatch("VM.set_name_description", [session, vm, "moved"])
        pool.dispatch("session.logout", [session])
    return trace


class TestReplay:
    """The same calls to another pool."""

    SHAPE: dict[str, Any] = {"hosts": 2, "vms": 2, "release": "8.2", "seed": 5}  # noqa: RUF012

    def test_the_same_pool_answers_the_same(self, tmp_path: Path) -> None:
        """At the same times, with the same writes; from a file as well."""
        trace = played(MockPool.create(**self.SHAPE))
        trace.write(tmp_path / "trace.jsonl")
        for records in (list(trace), read(tmp_path / "trace.jsonl")):
            again = replay(records, MockPool.create(**self.SHAPE))
            assert again.differences == ()
            assert again.skipped == ()
            assert len(again.records) == 8

    def test_another_pool_differs_and_says_where(self) -> None:
        """The first difference is told with both sides."""
        other = MockPool.create(**self.SHAPE)
        other.store.write(
            next(v for v in other.store.table("VM").values() if v["name_label"] == "vm01"), name_label="vmXX"
        )
        again = replay(played(MockPool.create(**self.SHAPE)), other)
        first = again.differences[0]
        assert (first.number, first.method, first.what, first.second) == (2, "VM.get_by_name_label", "result", [])
        assert str(first).startswith("call 2 (VM.get_by_name_label): result is ['OpaqueRef:")

    def test_what_cannot_be_sent_is_told(self) -> None:
        """An argument that is secret or was too large."""
        pool = MockPool.create(**self.SHAPE)
        with Trace(pool) as trace:
            session = pool.dispatch("session.login_with_password", ["root", "secret"])
            sr = pool.store.pool()["default_SR"]
            pool.dispatch("SR.add_to_other_config", [session, sr, "chappassword", "x"])
            pool.dispatch("SR.set_name_description", [session, sr, "x" * 20000])
            pool.dispatch("SR.get_name_label", [session, sr])
        again = replay(trace, MockPool.create(**self.SHAPE))
        assert again.skipped == (
            "call 2 (SR.add_to_other_config) was not sent: an argument is secret",
            "call 3 (SR.set_name_description) was not sent: an argument was too large to keep",
        )
        assert again.differences == ()

    def test_sessions_that_are_older_than_the_trace(self, calls: Callable[..., Any]) -> None:
        """Are replaced by new ones."""
        session = calls(vms=1, seed=3)
        with Trace(session.pool) as trace:
            session("VM.get_all")
        again = replay(trace, calls(vms=1, seed=3).pool)
        assert (again.differences, len(again.records)) == ((), 1)


class TestCompare:
    """Two traces side by side."""

    def test_traces_of_the_same_seed_are_equal(self) -> None:
        """And of another differ, but for what is passed over."""
        one, same, other = (
            list(played(MockPool.create(hosts=2, vms=2, release="8.2", seed=seed))) for seed in (1, 1, 2)
        )
        assert compare(one, same) == []
        found = {d.what for d in compare(one, other)}
        assert {"arguments", "error", "result", "writes"} <= found
        assert not {"method", "host", "session"} & found
        assert compare(one, other, but=found) == []
        with pytest.raises(ValueError, match="not compared anyway: weather"):
            compare(one, other, but=["weather"])

    def test_calls_that_only_one_has(self) -> None:
        """Are differences."""
        one = list(played(MockPool.create(hosts=2, vms=2, release="8.2")))
        last = [r for r in one if r.kind == "call"][-1]
        rest = [r for r in one if r is not last]
        assert [str(d) for d in compare(one, rest)] == [
            "call 8 (session.logout): the call is 'session.logout' in one, None in the other"
        ]
        assert [(d.first, d.second) for d in compare(rest, one)] == [(None, "session.logout")]


def test_sessions_within_urls_are_named(calls: Callable[..., Any]) -> None:
    """Those in the map that a move between pools goes by, too: its plain member, and its URLs, escaped or not."""
    c = calls(release="8.2", hosts=1, vms=2)
    d = type(c)(c.pool.neighbour(hosts=1))
    there = d.session
    dest = {
        "host": d.host("host2").ref,
        "SM": f"http://10.0.0.2/services/SM?session_id={there}",
        "xenops": f"http://10.0.0.2/services/xenops?x=1&session_id={there.replace(':', '%3A')}&y=2",
        "session_id": there,
    }
    with Trace(c.pool) as trace:
        c.refused("VM.migrate_send", "OpaqueRef:none", dest, True, {}, {}, {})
        (record,) = [record for record in trace if record.method == "VM.migrate_send"]
        assert record.arguments[1] == {
            "host": d.host("host2").ref,
            "SM": "http://10.0.0.2/services/SM?session_id=session-2",
            "xenops": "http://10.0.0.2/services/xenops?x=1&session_id=session-2&y=2",
            "session_id": "session-2",
        }
        assert there.removeprefix("OpaqueRef:") not in "".join(to_lines(trace.tail()))


def test_the_sample_of_the_module_runs(calls: Callable[..., Any]) -> None:
    """The past is looked at while the trace goes on."""
    import mockserver.trace as module

    c = calls(release="8.2", vms=1)
    text = (module.__doc__ or "").partition("\n\n")[2].partition("\n\n")[0]
    sample = textwrap.dedent(text).replace("...", 'c("VM.set_name_label", ref, "x")').replace("at(7)", "at(1)")
    names = {"Trace": Trace, "pool": c.pool, "c": c, "ref": c.vm("vm01").ref}
    exec(compile(sample, "the sample", "exec"), names)  # noqa: S102 - it is our own
