"""Where changes come from: nothing is missed or told twice when events are lost, the session is forgotten, or the master
restarts, moves or is upgraded; whatever happens, after an update the cache equals the pool."""

from __future__ import annotations

import io
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mockserver.startup import Xapi
from xenctl import xmlrpc
from xenctl.api import types as t
from xenctl.errors import ConnectError, ConnectionLost, Failure, ProtocolError
from xenctl.events import Change, PoolCache, watch
from xenctl.session import Session
from xenctl.transport import Response

if TYPE_CHECKING:
    from conftest import Fake

Make = Callable[..., "Fake"]

OLD, NEW = ["4.0.1", "5.6"], ["6.0", "8.2"]


def assert_that_it_follows(cache: PoolCache, fake: Fake) -> None:
    cache.update()
    fake.rename("vm02", "a late name")
    assert ("VM", "mod", "a late name") in fake.told(cache.update(60.0))
    fake.rename("a late name", "vm02")
    cache.update()


# --- the session


def test_a_session_that_the_server_forgot_is_renewed_and_nothing_is_missed_or_told_twice(fake: Fake) -> None:
    (gone,) = fake.add("old")
    with PoolCache(fake.session) as cache:
        fake.rename("vm01", "before")
        fake.forget_sessions()
        fake.remove(gone)
        fake.rename("vm02", "after")
        expected = [("VM", "mod", "after"), ("VM", "mod", "before"), ("network", "del", "old")]
        assert sorted(fake.told(cache.update())) == expected
        assert cache.update() == []


def test_a_forgotten_session_that_cannot_be_renewed_for_a_while_is_not_taken_for_a_logout(fake: Fake) -> None:
    with PoolCache(fake.session, ["VM"]) as cache:
        until = fake.now + 60.0

        def refuse(method: str) -> None:
            if method == "session.login_with_password" and fake.now < until:
                raise ConnectError("refused", host=fake.pool.url, method=method)

        fake.forget_sessions()
        fake.rename("vm01", "x")
        fake.wire.before = refuse
        assert fake.told(cache.update(None)) == [("VM", "mod", "x")]
        assert fake.now >= until
        assert fake.session.is_open


def test_two_caches_of_one_session_do_not_take_each_others_changes(fake: Fake) -> None:
    with PoolCache(fake.session, ["VM"]) as one, PoolCache(fake.session, ["VM"]) as other:
        fake.rename("vm01", "x")
        assert fake.told(one.update(60.0)) == fake.told(other.update(60.0)) == [("VM", "mod", "x")]


@pytest.mark.parametrize("known", [True, False])
def test_without_a_password_a_session_is_used_as_long_as_the_server_knows_it(fake: Fake, *, known: bool) -> None:
    session = Session(fake.pool.url, transport=fake.wire, protocol="xmlrpc")
    session.ref = fake.session.ref
    with PoolCache(session, ["VM"]) as cache:
        assert fake.sessions == 1
        fake.rename("vm01", "x")
        if known:
            assert fake.told(cache.update(60.0)) == [("VM", "mod", "x")]
        else:
            fake.forget_sessions()
            with pytest.raises(Failure, match="SESSION_INVALID"):
                cache.update(60.0)


# --- the master


def test_a_watch_goes_on_after_the_master_restarted_and_tells_what_that_changed(fake: Fake) -> None:
    """The guests of the master are gone with its power; every change is told once, and no object as new."""
    domains = fake.pool.master.domains
    killed = {vm.ref for vm in fake.pool.store.table("VM").values() if vm["uuid"] in domains}
    changes = watch(fake.session, ["VM"])
    fake.later(10.0, fake.cycle_power)
    fake.later(2000.0, fake.rename, "vm01", "afterwards")
    seen: list[Change] = []
    for change in changes:
        seen.append(change)
        if change.record["name_label"] == "afterwards":
            break
    assert {change.operation for change in seen} == {"mod"}
    halted = {c.ref for c in seen if isinstance(c.record, t.VM) and c.record.power_state == "Halted"}
    assert killed
    assert killed <= halted
    assert len(fake.wire.methods) < 300  # in 2,000 s


def test_a_master_that_starts_is_waited_for(fake: Fake) -> None:
    """`HOST_STILL_BOOTING` is no answer."""
    with PoolCache(fake.session, ["VM"]) as cache:
        master = fake.pool.master
        serving = master.xapi

        def serve(xapi: Xapi) -> None:
            master.xapi = xapi

        fake.later(5.0, serve, Xapi(mode="emergency"))
        fake.later(65.0, serve, serving)
        fake.later(90.0, fake.rename, "vm01", "afterwards")
        assert fake.told(cache.update(None)) == [("VM", "mod", "afterwards")]


def test_a_master_that_stays_away_is_an_error_when_the_time_is_over(fake: Fake) -> None:
    """The cache stays as it was, and goes on when the master is back."""
    with PoolCache(fake.session, ["VM"]) as cache:
        before = dict(cache.of(t.VM))
        name, began = fake.pool.master.name, fake.now
        fake.pool.hands.power_off(name)
        with pytest.raises(ConnectError):
            cache.update(100.0)
        assert fake.now - began == pytest.approx(100.0, abs=0.01)
        assert dict(cache.of(t.VM)) == before
        fake.pool.hands.power_on(name)
        assert "mod" in {change.operation for change in cache.update(600.0)}
        assert_that_it_follows(cache, fake)


def test_the_tries_while_the_master_is_away_become_rarer(fake: Fake) -> None:
    with PoolCache(fake.session, ["VM"]) as cache:
        fake.pool.hands.power_off(fake.pool.master.name)
        fake.wire.methods.clear()
        with pytest.raises(ConnectError):
            cache.update(3600.0)
        assert 240 < len(fake.wire.methods) < 250  # one in 15 s


def test_another_master_is_followed(fake: Fake) -> None:
    """The old master comes back as a member and names the new one."""
    first, second = fake.pool.machines
    with PoolCache(fake.session, ["VM", "pool"]) as cache:
        for machine in (first, second):
            fake.pool.hands.power_off(machine.name)
        second.system.database, first.system.database = first.system.database, None
        first.system.role, second.system.role = f"slave:{second.address}", "master"
        fake.later(60.0, fake.pool.hands.power_on, first.name)
        fake.later(90.0, fake.pool.hands.power_on, second.name)
        host = fake.pool.host_row(second)
        assert host is not None
        assert cache.wait_until(lambda c: [p.master for p in c.of(t.pool).values()] == [host.ref], timeout=3600.0)
        assert_that_it_follows(cache, fake)


def test_the_master_may_be_upgraded_meanwhile_and_put_back(make: Make) -> None:
    """From 5.6, which has `event.next` only, to 6.0, and back."""
    fake = make("5.6", hosts=1)
    with PoolCache(fake.session, ["VM", "host"]) as cache:
        for choice, version, call in (("upgrade", "6.0.0", "event.from"), ("restore", "5.6.0", "event.next")):
            install(fake, "6.0", choice)
            cache.wait_until(lambda c, version=version: version_of(c) == version, timeout=7200.0)
            assert_that_it_follows(cache, fake)
            cache.update(600.0)
            fake.wire.methods.clear()
            cache.update(300.0)
            assert fake.wire.methods.count(call) >= 9
    assert fake.sessions == 1


def version_of(cache: PoolCache) -> str:
    (host,) = cache.of(t.host).values()
    return host.software_version["product_version"]


def install(fake: Fake, release: str, choice: str) -> None:
    """Put a medium into the master and answer its installer."""
    hands, name = fake.pool.hands, fake.pool.master.name
    hands.power_off(name)
    hands.insert_media(name, release)
    hands.power_on(name)
    fake.pool.clock.run_until(fake.now + 3600.0, lambda: hands.power(name) == "installer")
    hands.answer(name, choice)


def test_the_database_may_be_an_older_one_afterwards(fake: Fake) -> None:
    """A backup that was put back: what changed since is undone, although its tokens are lower than ours."""
    dump = fake.pool.store.dump()
    master = fake.pool.master
    for number in range(50):
        fake.rename("vm01" if number == 0 else f"vm 1 {number - 1}", f"vm 1 {number}")
    (new,) = fake.add("new")
    with PoolCache(fake.session) as cache:
        fake.pool.hands.power_off(master.name)
        master.system.database, master.system.saved = None, dump
        fake.later(60.0, fake.pool.hands.power_on, master.name)
        cache.wait_until(lambda c: new not in c["network"], timeout=3600.0)
        assert dict(cache.of(t.VM)) == fake.session.VM.get_all_records()
        assert cache["VM"][fake.vm("vm01")]["name_label"] == "vm01"
        assert_that_it_follows(cache, fake)


# --- what is lost


@pytest.mark.parametrize("release", NEW)
def test_deletions_that_the_server_forgot_are_found_by_the_numbers_of_objects(make: Make, release: str) -> None:
    """It remembers the last few hundred deletions of a class; one class is read again, and no other."""
    fake = make(release)
    refs = fake.add("net", 700)
    with PoolCache(fake.session) as cache:
        fake.remove(*refs)
        fake.wire.methods.clear()
        assert [change.operation for change in cache.update()] == ["del"] * 700
        assert fake.wire.methods == ["event.from", "network.get_all_records"]
        assert dict(cache.of(t.network)) == fake.session.network.get_all_records()


@pytest.mark.parametrize("release", NEW)
def test_a_forgotten_deletion_of_a_single_object_is_found_when_nothing_is_told_for_long(
    make: Make, release: str
) -> None:
    """Single objects do not show in the numbers."""
    fake = make(release)
    (ref,) = fake.add("mine")
    with PoolCache(fake.session, [f"network/{ref}"]) as cache:
        fake.remove(ref)
        fake.remove(*fake.add("others", 700))
        assert cache.update() == []
        assert fake.told(cache.update(60.0)) == [("network", "del", "mine")]


@pytest.mark.parametrize("release", NEW)
def test_a_number_of_objects_that_cannot_be_right_costs_one_call(make: Make, release: str) -> None:
    """A class whose objects the server counts but does not show is read again once, not each time."""
    fake = make(release)
    with PoolCache(fake.session, ["network"]) as cache:
        fake.wire.methods.clear()
        fake.wire.after = answering("event.from", miscount)
        for _ in range(3):
            assert cache.update() == []
        assert fake.wire.methods.count("network.get_all_records") == 1


def miscount(batch: Any) -> None:
    batch["valid_ref_counts"]["network"] += 1


def answering(method: str, change: Callable[[Any], None]) -> Callable[[str, Response], Response]:
    """Change what `method` answers."""

    def after(called: str, answer: Response) -> Response:
        if called != method:
            return answer
        value = xmlrpc.loads_response(answer.read())
        change(value)
        return Response(answer.status, answer.headers, io.BytesIO(xmlrpc.dumps_success(value)))

    return after


@pytest.mark.parametrize("release", OLD)
@pytest.mark.parametrize("seconds", [0.0, 60.0])
def test_events_that_the_server_dropped_are_made_up_for(make: Make, release: str, seconds: float) -> None:
    """`EVENTS_LOST`: its queue holds ten million bytes."""
    fake = make(release)
    (gone,) = fake.add("old")
    with PoolCache(fake.session) as cache:
        fake.remove(gone)
        for number in range(12):
            fake.pool.store.write(fake.row("VM", "vm01"), name_description=str(number) * 1_000_000)
        assert sorted(fake.told(cache.update(seconds))) == [("VM", "mod", "vm01"), ("network", "del", "old")]
        assert_that_it_follows(cache, fake)


@pytest.mark.parametrize("release", OLD)
def test_records_that_do_not_come_with_events_are_asked_for(make: Make, release: str) -> None:
    def strip(events: Any) -> None:
        fake.remove(*gone)
        gone.clear()
        for event in events:
            event.pop("snapshot", None)

    fake = make(release)
    fake.wire.after = answering("event.next", strip)
    with PoolCache(fake.session) as cache:
        fake.rename("vm01", "x")
        refs, gone = fake.add("new"), fake.add("gone when its record is asked for")
        fake.remove(*fake.add("short-lived"))
        assert fake.told(cache.update(60.0)) == [("VM", "mod", "x"), ("network", "add", "new")]
        fake.remove(*refs)
        assert fake.told(cache.update(60.0)) == [("network", "del", "new")]


def test_a_wait_whose_answer_is_lost_loses_nothing(fake: Fake) -> None:
    """On old hosts the answer had the events in it, and the server has told them."""
    once = iter([ConnectionLost("the connection broke", host=fake.pool.url, method="event")])

    def lose(method: str, answer: Response) -> Response:
        if method in ("event.from", "event.next"):
            for error in once:
                raise error
        return answer

    with PoolCache(fake.session, ["VM", "network"]) as cache:
        fake.wire.after = lose
        fake.rename("vm01", "x")
        assert fake.told(cache.update(60.0)) == [("VM", "mod", "x")]
        assert_that_it_follows(cache, fake)
    assert fake.sessions == 1


@pytest.mark.parametrize("release", NEW)
def test_a_server_that_says_that_events_were_lost_is_read_anew(make: Make, release: str) -> None:
    """`event.from` has no need to say so; a server that does has no answer to the old token."""
    fake = make(release)
    lost = iter([["EVENTS_LOST"]])

    def fail(method: str, answer: Response) -> Response:
        for details in lost if method == "event.from" else ():
            return Response(200, {}, io.BytesIO(xmlrpc.dumps_failure(details)))
        return answer

    (gone,) = fake.add("old")
    with PoolCache(fake.session, ["VM", "network"]) as cache:
        fake.remove(gone)
        fake.rename("vm01", "x")
        fake.wire.after = fail
        assert sorted(fake.told(cache.update())) == [("VM", "mod", "x"), ("network", "del", "old")]
        assert_that_it_follows(cache, fake)


@pytest.mark.parametrize("part", ["class", "ref", "operation", "snapshot"])
def test_events_that_cannot_be_read_are_one_typed_error(fake: Fake, part: str) -> None:
    """It names host and method, and the cache is as it was."""

    def spoil(answer: Any) -> None:
        for event in answer["events"] if call == "event.from" else answer:
            event[part] = ["no", "text"]

    call = "event.from" if fake.pool.store.release.version >= (6,) else "event.next"
    with PoolCache(fake.session, ["VM"]) as cache:
        before = dict(cache["VM"])
        fake.rename("vm01", "x")
        fake.wire.after = answering(call, spoil)
        with pytest.raises(ProtocolError, match=rf"^{call} on {fake.pool.url}: the answer is not of its type: "):
            cache.update(60.0)
        assert dict(cache["VM"]) == before
        fake.wire.after = lambda method, answer: answer
        assert fake.told(cache.update(60.0)) == [("VM", "mod", "x")]


@pytest.mark.parametrize("part", ["events", "valid_ref_counts", "token"])
def test_an_answer_that_lacks_a_part_is_one_typed_error(make: Make, part: str) -> None:
    def spoil(answer: Any) -> None:
        del answer[part]

    fake = make("8.2")
    with PoolCache(fake.session, ["VM"]) as cache:
        fake.wire.after = answering("event.from", spoil)
        with pytest.raises(ProtocolError, match=rf"^event\.from on {fake.pool.url}: .* no field '{part}'"):
            cache.update()


@pytest.mark.parametrize("release", ["6.0", "6.1"])
def test_a_call_of_the_same_session_that_takes_the_first_events_does_no_harm(make: Make, release: str) -> None:
    """Up to 6.2 the calls of one session take each other's events, so nothing rests on those of the given session."""
    fake = make(release)
    given = fake.session.ref

    def take(batch: Any) -> None:
        if fake.wire.params("event.from")[-1][0] == given:
            batch["events"].clear()

    fake.wire.after = answering("event.from", take)
    with PoolCache(fake.session) as cache:
        assert dict(cache.of(t.VM)) == fake.session.VM.get_all_records()
        assert_that_it_follows(cache, fake)


# --- what servers have and have not


@pytest.mark.parametrize("class_name", ["LVHD", "VIF_metrics"])
def test_a_class_that_cannot_be_read_at_once_comes_as_events(make: Make, class_name: str) -> None:
    """One never had `get_all_records`, of the other it was removed. Up to 6.2 there may be events of other classes among
    them, for which another call of the session waits."""

    def tell(batch: Any) -> None:
        foreign = {"class": "host", "operation": "add", "ref": "OpaqueRef:1", "snapshot": {}}
        batch["events"].append({"id": "1", "timestamp": "0.0", **foreign})

    fake = make("8.2")
    ref, other = fake.add("", 2, kind=class_name)
    with PoolCache(fake.session, [class_name, "network"]) as cache:
        assert set(cache[class_name]) == {ref, other}
        fake.wire.after = answering("event.from", tell)
        fake.remove(ref, kind=class_name)
        fake.remove(*fake.add("", 700, kind=class_name), kind=class_name)
        assert fake.told(cache.update()) == [(class_name, "del", "")]
        assert set(cache[class_name]) == {other}


def test_an_object_that_comes_while_the_cache_is_made_is_in_it(make: Make) -> None:
    """Before it is known where now is, of a class that had none."""

    def add(method: str) -> None:
        if method == "event.inject":
            fake.add("new", kind="blob")

    fake = make("8.2")
    fake.wire.before = add
    with PoolCache(fake.session) as cache:
        assert [blob["name_label"] for blob in cache["blob"].values()] == ["new"]


def test_an_object_that_changes_while_the_cache_is_made_is_not_the_only_one_of_its_class(make: Make) -> None:
    """Its event comes with the first answer; the others of its class do not."""

    def rename(method: str, answer: Response) -> Response:
        if method == "event.inject":
            fake.rename("vm01", "x")
        return answer

    fake = make("8.2")
    fake.wire.after = rename
    with PoolCache(fake.session) as cache:
        assert dict(cache.of(t.VM)) == fake.session.VM.get_all_records()
        assert cache["VM"][fake.vm("x")]["name_label"] == "x"


@pytest.mark.parametrize("release", NEW)
def test_a_class_of_a_newer_release_is_there_by_its_name(make: Make, release: str) -> None:
    """It can only be had with all others; its records are plain, its name is as events have it."""
    widget = {"class": "widget", "operation": "add", "ref": "OpaqueRef:1", "snapshot": {"size": "3"}}

    def tell(batch: Any) -> None:
        batch["events"].append({"id": "1", "timestamp": "0.0", **widget})
        batch["valid_ref_counts"]["widget"] = 1

    fake = make(release)
    with PoolCache(fake.session) as cache, PoolCache(fake.session, ["VM"]) as other:
        fake.wire.after = answering("event.from", tell)
        (change,) = cache.update()
        assert (change.class_name, change.operation, dict(change.record)) == ("widget", "add", {"size": "3"})
        assert list(cache["widget"]) == ["OpaqueRef:1"]
        assert other.update() == []


def test_an_object_that_went_while_the_answer_was_made_is_no_error(make: Make) -> None:
    """Up to 6.1 `event.from` then fails as a whole; what follows is the whole answer."""
    fake = make("6.0")
    lost = iter([["HANDLE_INVALID", "VM", "OpaqueRef:1"]])

    def fail(method: str, answer: Response) -> Response:
        for details in lost if method == "event.from" else ():
            return Response(200, {}, io.BytesIO(xmlrpc.dumps_failure(details)))
        return answer

    with PoolCache(fake.session, ["VM"]) as cache:
        fake.wire.after = fail
        fake.rename("vm01", "x")
        assert fake.told(cache.update()) == [("VM", "mod", "x")]


def test_single_objects_are_subscribed_to_where_the_server_can_do_that(make: Make) -> None:
    """From 6.1 on; before, their class is, and what else comes is passed over."""
    for release, subscription in (("6.0", "network"), ("6.1", "network/{}"), ("8.2", "network/{}")):
        fake = make(release)
        (ref,) = fake.add("mine")
        with PoolCache(fake.session, [f"network/{ref}"]) as cache:
            asked = fake.wire.params("event.from")
            assert asked[-1][1] == [subscription.format(ref)]
            assert list(cache["network"]) == [ref]


# --- whatever happens


KINDS = ["network", "VM", "VBD", "SR"]
ACTS = ["add", "rename", "remove", "move", "flood", "forget", "restart", "look", "wait"]


@settings(max_examples=60)
@given(
    release=st.sampled_from([*OLD, *NEW]),
    everything=st.booleans(),
    acts=st.lists(st.tuples(st.sampled_from(ACTS), st.integers(0, 2**20)), max_size=25),
)
def test_after_an_update_a_cache_equals_the_pool_always(
    make: Make, release: str, everything: bool, acts: list[tuple[str, int]]
) -> None:
    """And what was told, one change after the other, makes the same of what there was before."""
    fake = make(release, vms=3)
    with PoolCache(fake.session, ["*"] if everything else [*KINDS, "task"]) as cache:
        copy = held(cache)
        for act, number in [*acts, ("look", 0)]:
            do(fake, act, number)
            if act in ("look", "wait"):
                for change in cache.update(60.0 if act == "wait" else 0.0):
                    follow(copy, change)
                assert copy == held(cache)
                for kind in KINDS:
                    assert dict(cache[kind]) == getattr(fake.session, kind).get_all_records()


def held(cache: PoolCache) -> dict[tuple[str, str], Any]:
    return {(kind, ref): record for kind in KINDS for ref, record in cache[kind].items()}


def do(fake: Fake, act: str, number: int) -> None:
    """One thing that happens to a pool, at random."""
    store = fake.pool.store
    networks = list(store.table("network"))
    vms = [vm for vm in store.table("VM").values() if not vm["is_control_domain"]]
    vm = vms[number % len(vms)]
    match act:
        case "add":
            fake.add(f"network {number}")
        case "rename":
            store.write(vm, name_label=f"vm {number % 7}")
        case "remove" if networks:
            fake.remove(networks[number % len(networks)])
        case "move":
            vbds = list(store.table("VBD").values())
            store.write(vbds[number // 7 % len(vbds)], VM=vm.ref)
        case "flood":
            fake.remove(*fake.add("flood", 300))
            fake.remove(*fake.add("flood", number % 3 * 200)[: number % 401])
            store.write(vm, other_config={"blob": "x" * 3_000_000 * (number % 5)})
        case "forget":
            fake.forget_sessions()
        case "restart":
            fake.cycle_power()
            fake.pool.clock.advance(600.0)


def follow(copy: dict[tuple[str, str], Any], change: Change) -> None:
    """Apply what was told; only what is there is modified or deleted, and only what is not is added."""
    key = change.class_name, change.ref
    if change.class_name not in KINDS:
        return
    assert (key in copy) == (change.operation != "add")
    assert (copy.get(key) == change.record) == (change.operation == "del")
    if change.operation == "del":
        del copy[key]
    else:
        copy[key] = change.record
