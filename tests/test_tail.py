"""What a failed test is told of its pool: the last calls, and what changed since it began."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from mockserver import MockPool
from mockserver.tail import CallLog, changed, sections
from xenctl.errors import TransportError

SHAPE: dict[str, Any] = {"hosts": 2, "vms": 4, "release": "8.2"}


def test_calls_are_told_with_what_came_of_them(calls: Callable[..., Any]) -> None:
    """An answer, a refusal and a fault; secrets and sessions are taken out."""
    c = calls(**SHAPE)
    c.pool.log = log = CallLog(c.pool)
    c.pool.clock.advance(1.5)
    c.pool.faults.add("answer_lost", method="VM.get_all")
    c("pool.get_all")
    c.refused("VM.get_uuid", "OpaqueRef:none")
    c("session.change_password", "a secret", "another")
    with pytest.raises(TransportError):
        c("VM.get_all")
    lines = list(log.lines())
    assert lines[0] == "5 calls"  # the lost answer is a call, and a fault
    assert lines[1].startswith("+1.5 s host1 pool.get_all(session-1) -> ['OpaqueRef:")
    assert lines[2].endswith("'OpaqueRef:none') -> refused: HANDLE_INVALID(VM, OpaqueRef:none)")
    assert "secret" not in lines[3] and "REDACTED" in lines[3]
    assert lines[5] == "+1.5 s host1 VM.get_all(session-1) -> no answer: fault answer_lost"


def test_only_the_last_calls_are_kept(calls: Callable[..., Any]) -> None:
    """How many there were is told."""
    c = calls(**SHAPE)
    c.pool.log = log = CallLog(c.pool, limit=2)
    for _ in range(5):
        c("pool.get_all")
    assert next(iter(log.lines())) == "the last 2 of 5 calls"
    assert len([*log.lines()]) == 3


def test_a_trace_and_the_log_note_the_same_call_once(calls: Callable[..., Any]) -> None:
    """Whichever was there first."""
    from mockserver import Trace

    c = calls(**SHAPE)
    c.pool.log = log = CallLog(c.pool)
    before = c.pool.calls
    with Trace(c.pool) as trace:
        c("pool.get_all")
    assert c.pool.calls == before + 1
    assert len(trace) == 1
    assert next(iter(log.lines())) == "1 call"


def test_an_answer_that_its_caller_changes_is_told_as_it_was(calls: Callable[..., Any]) -> None:
    """The log keeps a copy."""
    c = calls(**SHAPE)
    c.pool.log = log = CallLog(c.pool)
    c("pool.get_all").append("mine")
    assert "mine" not in [*log.lines()][1]


def test_a_pool_that_nobody_touched_has_not_changed() -> None:
    """Made again, it is the same, and so it is a day later."""
    pool = MockPool.create(**SHAPE, seed=5)
    assert not changed(pool, **SHAPE, seed=5)
    pool.clock.advance(3600.0)
    assert not [change for change in changed(pool, **SHAPE, seed=5).changes if change.table != "disk"]


def test_what_changed_is_told_without_secrets(calls: Callable[..., Any]) -> None:
    """Fields by name or by key."""
    c = calls(**SHAPE)
    c.pool.store.write(c.pool.store.pool(), wlb_password="not for you", name_description="for you")
    c.pool.store.write(c.vm("vm01"), other_config={"a-password": "not for you"})
    c.pool.store.write(c.vm("vm02"), name_description=c.pool.machines[0].system.pool_secret)
    found = {(change.table, change.field): change.after for change in changed(c.pool, **SHAPE).changes}
    assert found["pool", "wlb_password"] == "REDACTED"
    assert found["pool", "name_description"] == "for you"
    assert found["VM", "other_config"] == {"a-password": "REDACTED"}
    assert found["VM", "name_description"] == "REDACTED"


def test_only_what_says_something_is_told(calls: Callable[..., Any]) -> None:
    """Tasks while any go on, faults that never struck, changes where there are any."""
    c = calls(**SHAPE)
    assert list(sections(c.pool, SHAPE)) == []
    c("Async.VM.clean_shutdown", c.vm("vm01").ref)
    c.pool.faults.add("reset", method="VM.start")
    assert dict(sections(c.pool, SHAPE)) == {
        "tasks that go on": "Async.VM.clean_shutdown: 0% done",
        "faults that never struck": "pool.faults.add('reset', method='VM.start')",
    }
