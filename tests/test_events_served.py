"""Events as the fake serves them: tokens and coalescing since 6.0, register and next before."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from mockserver import MockPool
from xenctl import xmlrpc
from xenctl.xmlrpc import I4

Make = Callable[..., Any]


@pytest.fixture
def c(calls: Make) -> Any:
    return calls(release="8.2", vms=4)


def brief(events: list[dict[str, Any]]) -> list[tuple[str, str, str]]:
    return [(e["operation"], e["class"], e["ref"]) for e in events]


def token_now(c: Any) -> str:
    return str(c("event.from", ["*"], "", 0)["token"])


# --- event.from


def test_the_first_answer_is_everything_there_is(c: Any) -> None:
    """An empty token gives an add for each object, by class in the data model's order and then by reference."""
    out = c("event.from", ["*"], "", 0)
    there = [
        ("add", name.lower(), ref)
        for name, cls in c.pool.store.model.classes.items()
        if name in c.pool.store.tables and cls.events
        for ref in sorted(c.pool.store.table(name))
    ]
    assert brief(out["events"]) == there
    event = next(e for e in out["events"] if e["class"] == "vm")
    assert list(event) == ["id", "timestamp", "class", "operation", "ref", "snapshot"]
    assert event["snapshot"] == c("VM.get_record", event["ref"])
    assert event["timestamp"] == "0.0"
    assert list(out) == ["events", "valid_ref_counts", "token"]


def test_a_token_gives_what_came_after_it(c: Any) -> None:
    """Nothing new, nothing told; each token leads to the next."""
    token = token_now(c)
    again = c("event.from", ["*"], token, 0)
    assert (again["events"], again["token"]) == ([], token)
    vm = c.vm("vm01")
    c("VM.set_name_label", vm.ref, "new")
    out = c("event.from", ["*"], token, 0)
    assert brief(out["events"]) == [("mod", "vm", vm.ref)]
    assert out["events"][0]["snapshot"]["name_label"] == "new"
    assert out["events"][0]["id"] == str(vm.modified)
    assert out["token"] == f"{vm.modified:020d},{0:020d}" > token
    assert c("event.from", ["*"], out["token"], 0)["events"] == []


def test_several_changes_of_an_object_are_one_event(c: Any) -> None:
    """With the record as it is now; a new object is added, whatever was changed since."""
    token = token_now(c)
    network = c("network.create", {"name_label": "a", "other_config": {}})
    c("network.set_name_label", network, "b")
    for text in "xyz":
        c("VM.set_name_description", c.vm("vm01").ref, text)
    out = c("event.from", ["*"], token, 0)["events"]
    assert brief(out) == [("add", "network", network), ("mod", "vm", c.vm("vm01").ref)]
    assert [e["snapshot"]["name_label"] for e in out] == ["b", "vm01"]


def test_an_object_that_is_gone_is_deleted_without_a_record(c: Any) -> None:
    """And its parent is changed with it; who came and went in between is not told of."""
    token = token_now(c)
    vm, vbd = c.vm("vm04"), c.vbd("vm04", "3")
    c("VBD.destroy", vbd.ref)
    c("network.destroy", c("network.create", {"name_label": "brief", "other_config": {}}))
    answer = c("event.from", ["*"], token, 0)
    out = answer["events"]
    assert brief(out) == [("mod", "vm", vm.ref), ("del", "vbd", vbd.ref)]
    assert "snapshot" not in out[1]
    assert vbd.ref not in out[0]["snapshot"]["VBDs"]
    gone = c("event.from", ["vbd"], token, 0)
    assert brief(gone["events"]) == [("del", "vbd", vbd.ref)]
    assert c("event.from", ["vbd"], gone["token"], 0)["events"] == []


def test_a_parent_is_told_of_although_it_changed_long_ago(c: Any) -> None:
    """A deletion that comes right after an answer stamps the parent anew: its event is not lost."""
    vbd = c.vbd("vm04", "3")
    token = token_now(c)
    c("VBD.destroy", vbd.ref)
    assert brief(c("event.from", ["VM"], token, 0)["events"]) == [("mod", "vm", c.vm("vm04").ref)]


def test_subscriptions_are_by_class_or_object(c: Any) -> None:
    """Classes in any case, objects exactly; what nobody knows matches nothing; the token stays where nothing matched."""
    token = token_now(c)
    one, two = c.vm("vm01").ref, c.vm("vm02").ref
    for ref in (one, two):
        c("VM.set_name_description", ref, "x")
    ask = lambda *classes: brief(c("event.from", list(classes), token, 0)["events"])  # noqa: E731
    assert len(ask("vm")) == len(ask("VM")) == len(ask("*")) == 2
    assert ask(f"vM/{one}") == [("mod", "vm", one)]
    assert ask(f"VM/{one.lower()}") == ask("host", "made_up", f"host/{one}") == []
    out = c("event.from", ["host"], token, 0)
    assert out["token"] == token


def test_counts_cover_every_class_and_are_tagged_integers(c: Any) -> None:
    """Those that nobody asked for, that make no events, and that have no table, too."""
    counts = c("event.from", ["host"], "", 0)["valid_ref_counts"]
    assert (counts["vm"], counts["host"], counts["session"], counts["event"]) == (6, 2, 1, 0)
    assert all(type(count) is I4 for count in counts.values())
    assert "<i4>" in xmlrpc.encode(counts, lenient=True)
    assert all(name == name.lower() for name in counts)


def test_a_timeout_is_simulated_time(c: Any) -> None:
    """In process it has passed at once where nothing else is due; what falls due meanwhile ends the wait."""
    token, now = token_now(c), c.pool.clock.now()
    assert c("event.from", ["*"], token, 30.0)["events"] == []
    assert c.pool.clock.now() == now + 30
    c("Async.VM.clean_shutdown", c.vm("vm01").ref)
    token = token_now(c)
    out = c("event.from", ["VM"], token, 600.0)
    assert [e["snapshot"]["power_state"] for e in out["events"]] == ["Halted"]
    assert c.pool.clock.now() == now + 55


@pytest.mark.parametrize(
    ("timeout", "days"), [(-1.0, 0), (float("nan"), 0), (2 * 86400.0, 2), (2000 * 86400.0, 100), (float("inf"), 100)]
)
def test_a_timeout_is_kept(c: Any, timeout: float, days: int) -> None:
    """One that is over at once, too; who would wait for nothing for years gives up earlier."""
    token, now = token_now(c), c.pool.clock.now()
    c("event.from", ["*"], token, timeout)
    assert c.pool.clock.now() == now + days * 86400


@pytest.mark.parametrize(("release", "told"), [("6.5", ["add", "mod"]), ("7.0", ["add", "mod"]), ("7.1", ["add"])])
def test_before_7_1_what_is_new_is_modified_too(calls: Make, release: str, told: list[str]) -> None:
    """Adds come first, then mods, with the same record."""
    c = calls(release=release, hosts=1, vms=0)
    token = token_now(c)
    network = c("network.create", {"name_label": "new", "other_config": {}})
    events = c("event.from", ["network"], token, 0)["events"]
    assert brief(events) == [(operation, "network", network) for operation in told]
    assert all(event["snapshot"] == c("network.get_record", network) for event in events)


def test_tokens_of_6_0_are_not_padded(calls: Make) -> None:
    """And what is no token is an empty one."""
    c = calls(release="6.0", hosts=1, vms=1)
    everything = c("event.from", ["*"], "", 0)
    generation, _, rest = everything["token"].partition(",")
    assert (str(int(generation)), float(rest)) == (generation, 0.0) and "." in rest
    c("VM.set_name_description", c.vm("vm01").ref, "x")
    assert brief(c("event.from", ["*"], everything["token"], 0)["events"]) == [("mod", "vm", c.vm("vm01").ref)]
    told = c("event.from", ["VM"], "what?", 0)["events"]
    assert {event["ref"] for event in told} == set(c("VM.get_all"))


@pytest.mark.parametrize(("release", "classes"), [("6.0", ["host"]), ("6.1", ["vm", "host"])])
def test_single_objects_can_be_told_of_since_6_1(calls: Make, release: str, classes: list[str]) -> None:
    """Before, nothing is heard of one."""
    c = calls(release=release, hosts=1, vms=1)
    token = token_now(c)
    for kind, name in (("VM", "vm01"), ("host", "host1")):
        c(f"{kind}.set_name_description", c.row(kind, name).ref, "x")
    events = c("event.from", [f"VM/{c.vm('vm01').ref}", "host"], token, 0)["events"]
    assert sorted({event["class"] for event in events}) == sorted(classes)


@pytest.mark.parametrize(("release", "disturbed"), [("6.2", True), ("6.5", False)])
def test_before_6_5_calls_of_one_session_disturb_each_other(calls: Make, release: str, disturbed: bool) -> None:
    """The first that is answered ends the others, as if the session were over, and takes the registration with it."""
    c = calls(release=release, vms=1)
    c("event.register", ["VM"])
    token, start = token_now(c), c.pool.clock.now()
    for method, args in (("event.from", (["VM"], token, 60.0)), ("event.next", ())):
        c("event.register", ["VM"])
        c.pool.clock.after(5, lambda: c("event.from", ["host"], "", 0))
        if disturbed:
            assert c.refused(method, *args) == ["SESSION_INVALID", c.session]
            assert c.refused("event.next")[0] == "SESSION_NOT_REGISTERED"
        else:
            c.pool.clock.after(10, lambda: c("VM.set_name_description", c.vm("vm01").ref, str(c.pool.clock.now())))
            assert c(method, *args)
    assert c("VM.get_all")
    assert c.pool.clock.now() == start + 10


@pytest.mark.parametrize("token", ["x", "1", "1,", ",1", "1,2,3", "a,b"])
def test_a_token_that_is_none_is_refused(c: Any, token: str) -> None:
    """By name."""
    assert c.refused("event.from", ["*"], token, 0) == ["EVENT_FROM_TOKEN_PARSE_FAILURE", token]


def test_old_tokens_give_everything_after_the_master_restarted(calls: Make) -> None:
    """Every row counts as created then, nothing as deleted; counts tell the client what is gone."""
    c = calls(release="8.2", vms=0)
    network = c("network.create", {"name_label": "gone", "other_config": {}})
    token = token_now(c)
    c("network.destroy", network)
    c.halt("host1")
    c.pool.hands.power_on("host1")
    c.until(lambda: c.pool.master_serves)
    c = c.again()
    out = c("event.from", ["network", "host"], token, 0)
    assert {e["operation"] for e in out["events"]} == {"add"}
    assert {e["ref"] for e in out["events"]} == {*c("host.get_all"), *c("network.get_all")}
    assert out["valid_ref_counts"]["network"] == 1


def test_an_injected_event_comes_after_its_token(c: Any) -> None:
    """Whoever sees a later token has seen everything before the injection."""
    seen = token_now(c)
    vm = c.vm("vm01").ref
    token = c("event.inject", "VM", vm)
    out = c("event.from", ["VM"], seen, 0)
    assert brief(out["events"]) == [("mod", "vm", vm)]
    assert out["token"] > token >= seen
    assert c.refused("event.inject", "vm", vm) == ["HANDLE_INVALID", "vm", vm]
    assert c.refused("event.inject", "host", vm) == ["HANDLE_INVALID", "host", vm]


def test_a_logout_from_elsewhere_ends_the_wait(c: Any) -> None:
    """With the session that is invalid now."""
    for method, args in (("event.from", (["*"], token_now(c), 3600.0)), ("event.next", ())):
        session = c.again()
        if method == "event.next":
            session("event.register", ["network"])
        started = c.pool.clock.now()
        c.pool.clock.after(5, lambda session=session: c.pool.store.delete(c.pool.store.get("session", session.session)))
        assert session.refused(method, *args) == ["SESSION_INVALID", session.session]
        assert c.pool.clock.now() == started + 5


def test_waiting_for_events_can_be_a_task(c: Any) -> None:
    """It has no row; the answer goes nowhere."""
    ref = c("Async.event.from", ["*"], token_now(c), 5.0)
    assert ref.startswith("DummyRef:|")
    assert ref.endswith("|Async.event.from")
    c("VM.set_name_description", c.vm("vm01").ref, "x")
    c.sleep(10)


# --- register and next


@pytest.fixture
def old(calls: Make) -> Any:
    return calls(release="4.0.1", vms=4)


def test_next_needs_a_registration(old: Any) -> None:
    """The error names the session by a digest."""
    code, handle = old.refused("event.next")
    assert code == "SESSION_NOT_REGISTERED"
    assert handle.startswith("trackid=")
    assert len(handle) == len("trackid=") + 32
    assert old.session not in handle
    old("event.register", [])
    old("event.unregister", ["vm"])


def test_next_tells_each_change_by_itself(old: Any) -> None:
    """In order, with the record as it was then; one that is deleted carries its last record."""
    vm, vbd = old.vm("vm01"), old.vbd("vm04", "3")
    old("VM.set_name_description", vm.ref, "before")
    old("event.register", ["VM", "vbd"])
    first = old("event.get_current_id")
    old("VM.set_name_description", vm.ref, "one")
    old("VM.set_name_description", vm.ref, "two")
    old("host.set_name_description", old.host("host1").ref, "not asked for")
    old("VBD.destroy", vbd.ref)
    events = old("event.next")
    assert brief(events) == [("mod", "vm", vm.ref)] * 2 + [("del", "vbd", vbd.ref), ("mod", "vm", old.vm("vm04").ref)]
    assert [e["snapshot"]["name_description"] for e in events[:2]] == ["one", "two"]
    assert events[2]["snapshot"]["uuid"] == vbd["uuid"]
    assert [int(e["id"]) for e in events] == list(range(first, first + 4))
    assert events[0]["timestamp"] == f"{old.pool.clock.now():.0f}."


def test_a_relation_that_moves_is_told_at_both_ends(old: Any) -> None:
    """The old parent, the object, the new parent."""
    old("event.register", ["*"])
    vbd, disc = old.vbd("vm04", "3"), next(v for v in old.pool.store.table("VDI").values() if v["read_only"])
    old("VBD.insert", vbd.ref, disc.ref)
    told = brief(old("event.next"))
    moved = told.index(("mod", "vbd", vbd.ref), told.index(("mod", "vdi", disc.ref)) - 1)
    assert told[moved + 1] == ("mod", "vdi", disc.ref)


def test_tasks_of_calls_are_told_of(old: Any) -> None:
    """A call that has an asynchronous form is a task while it goes on."""
    old("event.register", ["task"])
    old("VM.start", old.vm("vm04").ref, False, False)
    events = old("event.next")
    assert {e["snapshot"]["name_label"] for e in events} == {"VM.start"}
    assert [e["operation"] for e in events if e["operation"] != "mod"] == ["add", "del"]


def test_next_waits(old: Any) -> None:
    """For what falls due; who waits for the pool is answered every thirty seconds, although nothing changed."""
    old("event.register", ["VM"])
    old("Async.VM.clean_shutdown", old.vm("vm01").ref)
    old("event.next")
    now = old.pool.clock.now()
    assert old("event.next")[0]["snapshot"]["power_state"] == "Halted"
    assert old.pool.clock.now() == now + 25
    old("event.register", ["pool"])
    now = old.pool.clock.now()
    (beat,) = old("event.next")
    assert (beat["operation"], beat["class"], old.pool.clock.now()) == ("mod", "pool", now + 30)


def test_a_subscription_can_be_taken_back(old: Any) -> None:
    """Just what was registered; each session has its own."""
    other = old.again()
    other("event.register", ["host"])
    old("event.register", ["VM", "host"])
    old("event.unregister", ["vm"])
    old("VM.set_name_description", old.vm("vm01").ref, "x")
    old("host.set_name_description", old.host("host1").ref, "x")
    assert [e["class"] for e in old("event.next")] == ["host"]
    assert [e["class"] for e in other("event.next")] == ["host"]
    other("session.logout")
    assert set(old.pool.old_events.subscriptions) == {old.session}


@pytest.mark.parametrize(("release", "kept"), [("6.2", 500), ("6.5", 13)])
def test_who_does_not_keep_up_is_told_so_once(
    calls: Make, monkeypatch: pytest.MonkeyPatch, release: str, kept: int
) -> None:
    """The oldest events are dropped where there are too many: five hundred, or since 6.5 ten million bytes."""
    from mockserver.classes import event

    monkeypatch.setattr(event, "QUEUE_BYTES", 1_000_000)
    old = calls(release=release, vms=1)
    text = "x" * 70_000
    old("event.register", ["VM"])
    for lost in (False, True):
        for number in range(kept + lost):
            old("VM.set_name_description", old.vm("vm01").ref, f"{number}" if release == "6.2" else f"{number}{text}")
        if lost:
            assert old.refused("event.next") == ["EVENTS_LOST"]
        else:
            assert len(old("event.next")) == kept
    old("VM.set_name_description", old.vm("vm01").ref, "last")
    assert [e["snapshot"]["name_description"] for e in old("event.next")] == ["last"]


@pytest.mark.parametrize(("release", "lost"), [("6.0", True), ("6.1", False)])
def test_before_6_1_events_are_forgotten_after_a_while(calls: Make, release: str, lost: bool) -> None:
    """Once another comes, a quarter of an hour later."""
    old = calls(release=release, vms=1)
    for pause in (890, 910):
        old("event.register", ["VM"])
        old("VM.set_name_description", old.vm("vm01").ref, f"before {pause}")
        old.sleep(pause)
        old("VM.set_name_description", old.vm("vm01").ref, f"after {pause}")
        if pause == 910 and lost:
            assert old.refused("event.next") == ["EVENTS_LOST"]
        else:
            assert len(old("event.next")) == 2


def test_the_old_interface_is_there_in_new_releases(c: Any) -> None:
    """Both tell of the same change; a restart of the master forgets registrations."""
    c("event.register", ["VM"])
    c("VM.set_name_description", c.vm("vm01").ref, "x")
    assert len(c("event.next")) == 1
    pool: MockPool = c.pool
    pool.master.power_off()
    pool.hands.power_on("host1")
    c.until(lambda: pool.master_serves)
    assert c.again().refused("event.next")[0] == "SESSION_NOT_REGISTERED"
