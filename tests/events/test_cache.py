"""The cache of a pool: it equals the pool, tells each change once, converts nothing that nobody reads, and waits as long as
it was told to; and a watch, which is a cache whose changes come one by one."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import closing
from itertools import islice
from typing import TYPE_CHECKING, Any

import pytest

from mockserver import PoolServer
from xenctl.api import types as t
from xenctl.errors import ConnectError, ConnectionLost, WaitTimeout
from xenctl.events import PoolCache, watch
from xenctl.session import connect
from xenctl.transport import Response

if TYPE_CHECKING:
    from conftest import Fake

Make = Callable[..., "Fake"]

# --- watching


def test_a_change_is_a_typed_record_with_the_class_as_xenapi_spells_it(fake: Fake) -> None:
    ref = fake.vm("vm01")
    changes = watch(fake.session, ["vm_metrics", "VM"])
    fake.later(10.0, fake.rename, "vm01", "web")
    change = next(changes)
    assert (change.class_name, change.operation, change.ref) == ("VM", "mod", ref)
    assert isinstance(change.record, t.VM)
    assert change.record.name_label == "web"


def test_changes_come_in_order_and_what_was_there_before_is_not_told(fake: Fake) -> None:
    changes = watch(fake.session, ["network"])
    for number in range(5):
        fake.later(10.0 * number, fake.add, f"net {number}")
    assert [c.record["name_label"] for c in islice(changes, 5)] == [f"net {number}" for number in range(5)]


def test_what_happens_between_the_call_and_the_first_change_that_is_asked_for_is_not_missed(fake: Fake) -> None:
    changes = watch(fake.session, ["VM"])
    fake.rename("vm01", "x")
    assert next(changes).record["name_label"] == "x"


def test_a_watch_that_nobody_read_gives_up_its_login_too(fake: Fake) -> None:
    """It logs in when it is made, where it has to, and out when it is closed."""
    changes = watch(fake.session, ["VM"])
    assert fake.sessions == (2 if fake.has_own_logins else 1)
    changes.close()
    assert fake.sessions == 1


def test_a_logout_ends_a_watch(fake: Fake) -> None:
    """At once; where it has a login of its own, when the call that waits returns."""
    began = fake.now
    fake.later(10.0, fake.session.logout)
    assert list(watch(fake.session, ["VM"])) == []
    assert fake.now - began <= (30.0 if fake.has_own_logins else 10.0)
    assert not fake.sessions


def test_a_watch_that_is_closed_leaves_nothing_at_the_server(fake: Fake) -> None:
    """What a cache or a watch logged in for itself it logs out."""
    with PoolCache(fake.session, ["VM"]), closing(watch(fake.session, ["VM"])) as changes:
        fake.later(1.0, fake.rename, "vm01", "x")
        next(changes)
        assert fake.sessions == (3 if fake.has_own_logins else 1)
    assert fake.sessions == 1


def test_a_wait_of_no_time_is_refused(make: Make) -> None:
    """It would be repeated without a pause."""
    with pytest.raises(ValueError, match="would be repeated without a pause"):
        watch(make("8.2").session, timeout=0)


# --- what a change is


def test_the_changes_of_one_object_between_two_looks_are_one(fake: Fake) -> None:
    with PoolCache(fake.session, ["VM", "network"]) as cache:
        fake.rename("vm01", "a")
        fake.rename("a", "b")
        fake.remove(*fake.add("short-lived"))
        assert fake.told(cache.update()) == [("VM", "mod", "b")]


def test_what_looks_the_same_is_no_change(fake: Fake) -> None:
    """Heartbeats, touched objects, and a field that was changed there and back."""
    with PoolCache(fake.session) as cache:
        fake.rename("vm01", "other")
        fake.rename("other", "vm01")
        fake.pool.store.touch(fake.pool.store.pool())
        assert cache.update(100.0) == []


def test_what_was_deleted_is_told_as_it_was_last_known(fake: Fake) -> None:
    (ref,) = fake.add("old")
    with PoolCache(fake.session, ["network"]) as cache:
        fake.remove(ref)
        (change,) = cache.update()
        assert (change.class_name, change.operation, change.ref) == ("network", "del", ref)
        assert change.record["name_label"] == "old"


def test_single_objects_can_be_followed(fake: Fake) -> None:
    ref = fake.vm("vm02")
    with PoolCache(fake.session, [f"VM/{ref}"]) as cache:
        fake.rename("vm01", "other")
        fake.rename("vm02", "mine")
        fake.add("a network")
        assert fake.told(cache.update()) == [("VM", "mod", "mine")]
        assert list(cache.of(t.VM)) == [ref]


@pytest.mark.parametrize("seconds", [0.0, 60.0])
def test_a_single_object_beside_whole_classes_is_followed_to_its_end(fake: Fake, seconds: float) -> None:
    ref, other = fake.add("mine", 2)
    with PoolCache(fake.session, ["VM", f"network/{ref}"]) as cache:
        fake.remove(other, ref)
        assert fake.told(cache.update(seconds)) == [("network", "del", "mine")]


# --- what a cache holds


def test_a_new_cache_equals_the_pool(fake: Fake) -> None:
    """Roles are in no table: events never tell of them, and only a cache that reads whole classes first has them."""
    with PoolCache(fake.session) as cache:
        for name in fake.followed:
            if name == "role":
                assert dict(cache[name]) in ({}, fake.session.role.get_all_records())
                continue
            there = name in fake.filled
            assert dict(cache[name]) == (getattr(fake.session, name).get_all_records() if there else {}), name
        count = sum(len(cache[name]) for name in fake.followed)
        assert repr(cache) == f"<PoolCache of {fake.session.origin}: {count} objects>"
        assert count > 50


def test_the_records_of_a_class_show_later_updates(fake: Fake) -> None:
    with PoolCache(fake.session) as cache:
        vms, networks = cache.of(t.VM), cache["network"]
        ref: Any = fake.vm("vm01")
        fake.rename("vm01", "x")
        (new,) = fake.add("new")
        assert vms[ref].name_label == "vm01"
        cache.update()
        assert vms[ref].name_label == "x"
        assert new in networks


@pytest.mark.parametrize("release", ["4.0.1", "8.2"])
def test_reading_one_field_of_many_converts_no_other(make: Make, release: str) -> None:
    with PoolCache(make(release, vms=200).session, ["VM"]) as cache:
        assert len(cache.of(t.VM)) > 200
        for vm in cache.of(t.VM).values():
            assert vm.power_state
            assert set(vm.__dict__) == {"_wire", "power_state"}


@pytest.mark.parametrize(
    ("classes", "message"),
    [
        (["VM", "wm"], r"no class 'wm' is known; '\*' tells of every class, those of newer hosts too"),
        (["session"], "objects of class session tell of no changes"),
        (["secret/OpaqueRef:1"], "objects of class secret tell of no changes"),
        ([], r"expected names of classes, such as .*, got \[\]"),
        ("VM", "expected names of classes, such as .*, got 'VM'"),
    ],
)
def test_what_cannot_be_followed_is_refused_before_any_call(make: Make, classes: Any, message: str) -> None:
    fake = make("8.2")
    with pytest.raises(ValueError, match=message):
        PoolCache(fake.session, classes)
    with pytest.raises(ValueError, match=message):
        watch(fake.session, classes)
    assert fake.wire.methods == []


@pytest.mark.parametrize(("classes", "name"), [(["VM"], "host"), (["*"], "hosts"), (["*"], "session")])
def test_a_class_that_is_not_held_is_an_error(make: Make, classes: list[str], name: str) -> None:
    """Nothing looks empty that was never asked for."""
    with (
        PoolCache(make("8.2").session, classes) as cache,
        pytest.raises(ValueError, match=f"this cache does not hold class '{name}'"),
    ):
        cache[name]


# --- updating


@pytest.mark.parametrize("seconds", [0.0, 1.0, 29.0, 45.0, 300.0])
def test_an_update_takes_as_long_as_it_may(fake: Fake, seconds: float) -> None:
    """To the second, on hosts whose `event.next` knows no limit too."""
    with PoolCache(fake.session, ["VM"]) as cache:
        began = fake.now
        assert cache.update(seconds) == []
        assert fake.now - began == pytest.approx(seconds, abs=0.01)


def test_an_update_ends_with_the_first_change(fake: Fake) -> None:
    with PoolCache(fake.session, ["VM"]) as cache:
        began = fake.now
        fake.later(100.0, fake.rename, "vm01", "x")
        assert fake.told(cache.update(3600.0)) == [("VM", "mod", "x")]
        assert fake.now - began == pytest.approx(100.0, abs=0.01)


def test_waiting_takes_few_calls(fake: Fake) -> None:
    with PoolCache(fake.session, ["VM"]) as cache:
        fake.wire.methods.clear()
        fake.later(600.0, fake.rename, "vm01", "x")
        cache.update(None)
        assert len(fake.wire.methods) <= 21  # one for each half minute, or each heartbeat


def test_an_update_without_a_change_is_one_call(fake: Fake) -> None:
    with PoolCache(fake.session) as cache:
        cache.update()
        fake.wire.methods.clear()
        cache.update()
        assert len(fake.wire.methods) == 1


def test_a_closed_cache_keeps_its_objects_and_can_go_on(fake: Fake) -> None:
    with PoolCache(fake.session, ["VM"]) as cache:
        pass
    fake.rename("vm01", "x")
    assert cache.of(t.VM)
    assert fake.told(cache.update()) == [("VM", "mod", "x")]
    cache.close()
    assert fake.sessions == 1


def test_a_cache_of_a_session_that_was_logged_out_says_so(fake: Fake) -> None:
    with PoolCache(fake.session, ["VM"]) as cache:
        fake.session.logout()
        with pytest.raises(RuntimeError, match="is not logged in: there is nothing to follow"):
            cache.update()


def test_a_change_is_told_although_what_follows_it_fails(make: Make) -> None:
    """Events were applied, one class was read again, the next could not be: the next update tells all."""
    fake = make("8.2")
    refs, blobs = fake.add("net", 700), fake.add("blob", 700, kind="blob")

    def refuse(method: str) -> None:
        if method == "network.get_all_records":
            raise ConnectError("refused", host=fake.pool.url, method=method)

    with PoolCache(fake.session, ["VM", "network", "blob"]) as cache:
        fake.remove(*refs)
        fake.remove(*blobs, kind="blob")
        fake.rename("vm01", "x")
        fake.wire.before = refuse
        with pytest.raises(ConnectError):
            cache.update()
        fake.wire.before = lambda method: None
        changes = fake.told(cache.update())
        assert len(changes) == 1401
        assert ("VM", "mod", "x") in changes


def test_a_wait_may_be_interrupted(fake: Fake) -> None:
    """What the interrupted call would have brought is not missed."""
    once = iter([KeyboardInterrupt()])

    def interrupt(method: str, answer: Response) -> Response:
        if method in ("event.from", "event.next"):
            for error in once:
                raise error
        return answer

    with PoolCache(fake.session, ["VM"]) as cache:
        fake.wire.after = interrupt
        fake.rename("vm01", "x")
        with pytest.raises(KeyboardInterrupt):
            cache.update(60.0)
        assert fake.told(cache.update(60.0)) == [("VM", "mod", "x")]


# --- waiting for something to hold


def test_a_wait_ends_when_the_condition_holds_and_gives_what_it_gave(fake: Fake) -> None:
    with PoolCache(fake.session, ["VM"]) as cache:
        ref, began = fake.vm("vm01"), fake.now
        fake.later(100.0, fake.rename, "vm01", "x")
        found = cache.wait_until(lambda c: [ref for ref, vm in c.of(t.VM).items() if vm.name_label == "x"])
        assert found == [ref]
        assert fake.now - began == pytest.approx(100.0, abs=0.01)
        assert cache.update() == []


def test_a_condition_is_not_asked_of_a_state_older_than_the_wait(fake: Fake) -> None:
    """Or it would hold because of what is over."""
    with PoolCache(fake.session, ["VM"]) as cache:
        ref: Any = fake.vm("vm01")
        fake.rename("vm01", "x")
        asked: list[str] = []

        def holds(cache: PoolCache) -> bool:
            asked.append(cache.of(t.VM)[ref].name_label)
            return True

        began = fake.now
        cache.wait_until(holds)
        cache.wait_until(holds)
        assert asked == ["x", "x"]
        assert fake.now == began


def test_a_condition_that_never_holds_is_an_error_when_the_time_is_over(fake: Fake) -> None:
    with PoolCache(fake.session, ["VM"]) as cache:
        began = fake.now
        with pytest.raises(
            WaitTimeout, match=r"^wait_until on .*: what was waited for did not come true within 3600 s$"
        ):
            cache.wait_until(lambda c: False, timeout=3600.0)
        assert fake.now - began == pytest.approx(3600.0, abs=0.01)


def test_a_wait_says_that_the_master_is_away(fake: Fake) -> None:
    with PoolCache(fake.session, ["VM"]) as cache:
        fake.pool.hands.power_off(fake.pool.master.name)
        with pytest.raises(WaitTimeout, match=r"within 60 s; the master is away: .*refused") as caught:
            cache.wait_until(lambda c: True, timeout=60.0)
        assert isinstance(caught.value.__cause__, ConnectError)


def test_an_error_of_a_condition_is_not_taken_for_the_servers(fake: Fake) -> None:
    error = ConnectionLost("of a call that the condition made", host=fake.pool.url)

    def fails(cache: PoolCache) -> bool:
        raise error

    with PoolCache(fake.session, ["VM"]) as cache, pytest.raises(ConnectionLost) as caught:
        cache.wait_until(fails, timeout=60.0)
    assert caught.value is error


# --- over sockets, from other threads


@pytest.fixture(params=["4.0.1", "8.2"])
def server(request: pytest.FixtureRequest, make: Make) -> Iterator[PoolServer]:
    """A pool on sockets."""
    with PoolServer(make(request.param).pool) as serving:
        yield serving


def in_thread(action: Callable[[], Any]) -> Callable[[], Any]:
    """Do `action` in another thread; what is returned waits for its result."""
    out: list[Any] = []
    thread = threading.Thread(target=lambda: out.append(action()), daemon=True)
    thread.start()

    def result() -> Any:
        thread.join(timeout=60.0)
        assert out, "the thread failed, or goes on"
        return out[0]

    return result


def test_a_watch_in_another_thread_hears_what_this_one_does(server: PoolServer) -> None:
    with connect(server.url, "root", "secret") as session:
        (vm,) = session.VM.get_by_name_label("vm01")
        with closing(watch(session, ["VM"])) as changes:
            waiting = in_thread(lambda: next(changes))
            session.VM.set_name_description(vm, "told")
            assert waiting().record["name_description"] == "told"


def test_a_logout_in_another_thread_ends_a_watch(server: PoolServer) -> None:
    """At once with `event.from`; with `event.next` at the next event."""
    with connect(server.url, "root", "secret") as other, connect(server.url, "root", "secret") as session:
        (vm,) = other.VM.get_by_name_label("vm01")
        changes = watch(session, ["VM"])
        waiting = in_thread(lambda: list(changes))
        session.logout()
        if server.pool.store.release.version < (6,):
            other.VM.set_name_description(vm, "told")
        assert len(waiting()) <= 1


def test_a_call_waits_less_than_the_transport_does(make: Make) -> None:
    """Or each would end in an error."""
    with (
        PoolServer(make("8.2", hosts=1, vms=1).pool) as server,
        connect(server.url, "root", "secret", read_timeout=0.5) as session,
        PoolCache(session, ["VM"]) as cache,
    ):
        before = server.pool.calls
        assert cache.update(0.9) == []
        assert server.pool.calls - before in (3, 4)
