"""Messages: made, found, dropped, told to listeners; kept beside the database, over restarts and under savepoints."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from mockserver import messages
from xenctl.releases import find

Make = Callable[..., Any]


@pytest.fixture
def c(calls: Make) -> Any:
    return calls(release="8.4", hosts=2, vms=3)


def tell(c: Any, name: str = "SOMETHING", priority: int = 3, vm: str = "vm01") -> str:
    return str(c("message.create", name, priority, "VM", c.vm(vm)["uuid"], "a body"))


def events(c: Any, classes: list[str], token: str = "") -> tuple[list[tuple[str, str, str]], str]:
    answer = c("event.from", classes, token, 0)
    return [(e["class"], e["operation"], e["ref"]) for e in answer["events"]], answer["token"]


def test_events_of_messages_tell_no_generation(c: Any) -> None:
    """Their id is 0, whether they came or went; the token counts all the same."""
    first = tell(c)
    out = c("event.from", ["message"], "", 0.0)
    assert [(e["id"], e["operation"], e["ref"]) for e in out["events"]] == [("0", "add", first)]
    c("message.destroy", first)
    later = c("event.from", ["message"], out["token"], 0.0)
    assert [(e["id"], e["operation"], e["ref"]) for e in later["events"]] == [("0", "del", first)]
    assert later["token"] > out["token"]


@pytest.mark.parametrize("release", ["5.0", "8.4"])
def test_a_message_is_about_an_object(calls: Make, release: str) -> None:
    """Of a class that there are messages about, by its uuid."""
    c = calls(release=release, vms=3)
    ref = tell(c)
    record = c("message.get_record", ref)
    assert (record["name"], record["priority"], record["cls"], record["body"]) == ("SOMETHING", 3, "VM", "a body")
    assert record["obj_uuid"] == c.vm("vm01")["uuid"]
    assert c("message.get_by_uuid", record["uuid"]) == ref
    assert c.refused("message.create", "X", 1, "VM", "none", "") == ["UUID_INVALID", "VM", "none"]
    host = c.host("host1")["uuid"]
    assert c.refused("message.create", "X", 1, "VM", host, "") == ["UUID_INVALID", "VM", host]
    assert c("message.create", "X", 1, "Host", host, "")
    assert c("message.create", "X", 1, "Pool", c.pool.store.pool()["uuid"], "")


def test_what_is_not_there_is_refused(c: Any) -> None:
    """Each message with its own error."""
    assert c.refused("message.get_record", "none") == ["HANDLE_INVALID", "message", "none"]
    assert c.refused("message.destroy", "none") == ["HANDLE_INVALID", "message", "none"]
    assert c.refused("message.get_by_uuid", "none") == ["UUID_INVALID", "message", "none"]
    assert c.refused("message.get", "VM", "none", "19700101T00:00:00Z") == ["UUID_INVALID"]


def test_messages_are_found_newest_first(c: Any) -> None:
    """All, those of an object, those since a time, those that a query matches."""
    start = c.pool.clock.stamp()
    first = tell(c, "A")
    c.sleep(10)
    middle = c.pool.clock.stamp()
    c.sleep(10)
    second = tell(c, "B", 4, vm="vm02")
    assert c("message.get_all") == list(c("message.get_all_records")) == [second, first]
    assert list(c("message.get_since", middle)) == [second]
    assert list(c("message.get", "VM", c.vm("vm01")["uuid"], "19700101T00:00:00Z")) == [first]
    assert c("message.get", "VM", c.vm("vm01")["uuid"], start) == {}, "later means later"
    where = 'field "name" = "B" and field "priority" = "4"'
    assert list(c("message.get_all_records_where", where)) == [second, first], "queries are not looked at"


def test_later_releases_look_at_queries_for_messages(newest: Make) -> None:
    c = newest(vms=2)
    tell(c, "A")
    second = tell(c, "B", 4, vm="vm02")
    where = 'field "name" = "B" and field "priority" = "4"'
    assert list(c("message.get_all_records_where", where)) == [second]
    assert c.refused("message.get_all_records_where", "nonsense")[0] == "INVALID_VALUE"


def test_many_messages_go_at_once(c: Any) -> None:
    """In order; those before a wrong reference are gone."""
    refs = [tell(c) for _ in range(3)]
    c("message.destroy_many", refs[:1])
    assert c.refused("message.destroy_many", [refs[1], "none", refs[2]]) == ["HANDLE_INVALID", "message", "none"]
    assert c("message.get_all") == refs[2:]
    c("message.destroy", refs[2])
    assert c("message.get_all") == []


def test_messages_go_by_age_and_priority(c: Any) -> None:
    """In a release that is not out yet; what is no time or number is refused, and nothing goes."""
    newest = replace(find("8.4"), version=(99, 0, 0), product_version="99.0.0", order=(1, 99))
    c.pool.store.upgrade(newest)
    for machine in c.pool.machines:
        machine.system.release = newest
    old = tell(c, priority=1)
    c.sleep(10)
    middle = c.pool.clock.stamp()
    c.sleep(10)
    low, high = tell(c, priority=1), tell(c, priority=5)
    assert c.refused("message.destroy_all", {"before": "soon"})[0] == "INTERNAL_ERROR"
    c("message.destroy_all", {"before": middle})
    assert old not in c("message.get_all") and low in c("message.get_all")
    c("message.destroy_all", {"after": middle, "priority": "5"})
    assert high not in c("message.get_all")
    c("message.destroy_all", {})
    assert c("message.get_all") == []


def test_the_oldest_messages_give_way(c: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """So many are kept as xapi keeps."""
    assert messages.LIMIT == 10_000
    monkeypatch.setattr(messages, "LIMIT", 3)
    refs = [tell(c) for _ in range(5)]
    assert c("message.get_all") == refs[:1:-1]


# --- events


def test_messages_come_first_among_events(c: Any) -> None:
    """Added and deleted, counted by the second half of the token; who asked for a class apart hears nothing."""
    old = tell(c)
    told, token = events(c, ["message"])
    assert told == [("message", "add", old)]
    new = tell(c)
    c("VM.set_name_label", c.vm("vm01").ref, "other")
    c("message.destroy", old)
    told, after = events(c, ["*"], token)
    assert told[:2] == [("message", "del", old), ("message", "add", new)]
    assert ("vm", "add", c.vm("other").ref) in told, "this listener was never told of VMs"
    assert events(c, ["message"], after) == ([], after)
    assert events(c, ["vm"])[1].endswith(f",{0:020d}")
    assert events(c, [f"message/{new}"], token)[0] == [("message", "add", new)]


def test_a_message_wakes_who_waits(c: Any) -> None:
    """Over `event.from`, and over the older `event.next`."""
    _, token = events(c, ["message"])
    waiting = c.pool.clock.now()
    c.pool.clock.after(
        30, lambda: c.pool.dispatch("message.create", [c.session, "X", 1, "VM", c.vm("vm01")["uuid"], ""])
    )
    answer = c("event.from", ["message"], token, 600.0)
    assert [event["operation"] for event in answer["events"]] == ["add"]
    assert c.pool.clock.now() == waiting + 30
    c("event.register", ["message"])
    ref = tell(c)
    c("message.destroy", ref)
    assert [(e["operation"], e["ref"]) for e in c("event.next")] == [("add", ref), ("del", ref)]


# --- beside the database


def test_a_restart_of_the_master_keeps_messages(c: Any) -> None:
    """And no dump has them."""
    ref = tell(c)
    assert "message" not in c.pool.store.dump().tables or not c.pool.store.dump().tables["message"].rows
    c.pool.hands.power_off("host1")
    c.pool.hands.power_on("host1")
    c = c.back()
    assert c("message.get_all") == [ref]


def test_savepoints_take_messages_back(c: Any) -> None:
    """What was made since is gone, what was dropped is there again, at its place."""
    kept, dropped = tell(c, "KEPT"), tell(c, "DROPPED")
    last = tell(c, "LAST")
    point = c.pool.savepoint()
    c("message.destroy", dropped)
    made = tell(c, "MADE")
    c("message.destroy", made)
    tell(c, "MADE TOO")
    point.rollback()
    assert c("message.get_all") == [last, dropped, kept]
    assert c("message.get_by_uuid", c("message.get_record", dropped)["uuid"]) == dropped


@pytest.mark.parametrize(("release", "priorities"), [("6.1", [10, 1, 1]), ("6.2", [3, 5, 4])])
def test_what_xapi_tells_had_other_priorities_once(calls: Make, release: str, priorities: list[int]) -> None:
    """Up to 6.1 the highest number was the most urgent, which 6.2 turned round; what others tell is theirs."""
    c = calls(release=release, vms=1)
    for name, now in (("HA_HOST_FAILED", 3), ("VM_STARTED", 5), ("HA_HOST_WAS_FENCED", 4)):
        messages.post(c.pool, name, priority=now, cls="VM", uuid=c.vm("vm01")["uuid"], body="")
    assert [message["priority"] for message in c.pool.messages.newest_first()] == priorities[::-1]
    assert c("message.get_record", tell(c, "VM_STARTED", 5))["priority"] == 5


@pytest.mark.parametrize(("release", "named"), [("5.6", []), ("6.2", []), ("6.5", ["message"]), ("8.4", ["message"])])
def test_up_to_6_2_a_uuid_of_no_message_is_refused_without_its_class(
    calls: Make, release: str, named: list[str]
) -> None:
    assert calls(release=release).refused("message.get_by_uuid", "none") == ["UUID_INVALID", *named, "none"]
