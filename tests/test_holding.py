"""What is held for the time of an operation: shown while it lasts, let go in reverse order, whatever happens."""

from __future__ import annotations

from typing import Any

import pytest

from mockserver.holding import Holding


def test_what_is_held_is_let_go_in_reverse_order() -> None:
    """Each with its own arguments."""
    log: list[Any] = []
    with Holding() as holding:
        holding.at_end(log.append, "first")
        holding.at_end(log.append, "second")
        assert log == []
    assert log == ["second", "first"]


def test_one_end_that_fails_does_not_keep_the_others() -> None:
    """The error is told all the same."""
    log: list[Any] = []

    def fail() -> None:
        raise ValueError("this end fails")

    holding = Holding()
    holding.at_end(log.append, "first")
    holding.at_end(fail)
    holding.at_end(log.append, "third")
    with pytest.raises(ValueError, match="this end fails"), holding:
        pass
    assert log == ["third", "first"]


def test_an_error_within_lets_go_and_goes_on() -> None:
    """Nothing is swallowed."""
    log: list[Any] = []
    holding = Holding()
    holding.at_end(log.append, "end")
    with pytest.raises(KeyError), holding:
        raise KeyError
    assert log == ["end"]


def test_devices_show_the_operation_while_a_start_waits(c: Any) -> None:
    """All of them, with the task that does it; afterwards none does."""
    vm, seen = c.vm("vm04"), list[Any]()
    devices = [*c.pool.store.rows("VBD", vm["VBDs"]), *c.pool.store.rows("VIF", vm["VIFs"])]

    def look() -> None:
        seen.extend(list(device["current_operations"].values()) for device in devices)

    c.pool.clock.after(0.5, look)
    c("VM.start", vm.ref, False, False)
    assert seen == [["attach"]] * len(devices)
    assert [device["current_operations"] for device in devices] == [{}] * len(devices)


def test_a_row_that_is_gone_is_let_go_in_silence(c: Any) -> None:
    """Somebody deleted a device while its VM started."""
    vm = c.vm("vm04")
    (vbd, *_) = c.pool.store.rows("VBD", vm["VBDs"])
    c.pool.clock.after(0.5, lambda: c.pool.store.delete(vbd))
    c("VM.start", vm.ref, False, False)
    assert (vm["power_state"], c.pool.store.find("VBD", vbd.ref)) == ("Running", None)
