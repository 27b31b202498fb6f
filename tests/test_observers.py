"""Observers: what they may be, and what hosts are told of them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

Make = Callable[..., Any]


@pytest.fixture
def c(calls: Make) -> Any:
    return calls(release="8.4", hosts=2, vms=0)


def fields(**more: Any) -> dict[str, Any]:
    return {"name_label": "all", "name_description": "", "hosts": [], "attributes": {}, "endpoints": [], **more}


def make(c: Any, **more: Any) -> Any:
    """A new observer."""
    return c.pool.store.get("Observer", c("Observer.create", {"components": [], "enabled": False, **fields(**more)}))


def known(c: Any, row: Any, host: str) -> Any:
    """What a host was told of an observer."""
    return c.pool.machine(host).observers.get(row["uuid"])


def test_every_host_is_told_of_an_observer(c: Any) -> None:
    """Of those that are named, where some are; and forgets it when it is destroyed."""
    row, one = make(c), make(c, hosts=[c.host("host2").ref], components=["xapi", "smapi"], enabled=True)
    everything = {"components": ["xapi", "xenopsd"], "enabled": False, "attributes": {}, "endpoints": []}
    assert known(c, row, "host1") == known(c, row, "host2") == everything
    assert known(c, one, "host1") is None
    assert known(c, one, "host2") == {**everything, "components": ["xapi"], "enabled": True}
    c("Observer.destroy", row.ref)
    assert known(c, row, "host1") is known(c, row, "host2") is None
    c("Observer.unregister", one.ref, c.host("host2").ref)
    assert known(c, one, "host2") is None
    c("Observer.register", one.ref, c.host("host2").ref)
    assert known(c, one, "host2") is not None


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("enabled", True),
        ("attributes", {"my.key": "text"}),
        ("endpoints", ["bugtool"]),
        ("components", ["xapi"]),
    ],
)
def test_hosts_hear_of_a_change(c: Any, field: str, value: Any) -> None:
    """Also those that come back later, from the database; for one that is away the call fails after all are told."""
    row = make(c)
    c.pool.hands.power_off("host2")
    assert c.refused(f"Observer.set_{field}", row.ref, value) == ["CANNOT_CONTACT_HOST", c.host("host2").ref]
    assert row[field] == known(c, row, "host1")[field] == value
    c.pool.hands.power_on("host2")
    c = c.back()
    assert known(c, row, "host2")[field] == value


def test_new_hosts_hear_of_it_when_they_start(c: Any) -> None:
    """Until then an observer stays where it was."""
    row = make(c, hosts=[c.host("host1").ref])
    c("Observer.set_hosts", row.ref, [c.host("host2").ref])
    assert known(c, row, "host1") is not None and known(c, row, "host2") is None
    for host in ("host1", "host2"):
        c.pool.hands.power_off(host)
        c.pool.hands.power_on(host)
    c = c.back()
    assert known(c, row, "host1") is None and known(c, row, "host2") is not None


@pytest.mark.parametrize(
    ("field", "value", "details"),
    [
        ("components", ["xapi", "x"], ["component", "x"]),
        ("endpoints", ["http://10.0.0.9/"], ["endpoint", "http://10.0.0.9/"]),
        ("hosts", ["OpaqueRef:none"], ["host", "OpaqueRef:none"]),
        ("attributes", {"Key": "a"}, ["attributes", "Key:a"]),
        ("attributes", {"key": "a" * 4096}, ["attributes", "key:" + "a" * 4096]),
    ],
)
def test_what_an_observer_cannot_be_is_refused(c: Any, field: str, value: Any, details: list[str]) -> None:
    """When it is made and when it is changed, and nothing is done."""
    row = make(c)
    before = dict(row)
    assert c.refused(f"Observer.set_{field}", row.ref, value) == ["INVALID_VALUE", *details]
    assert c.refused("Observer.create", {"components": [], "enabled": False, **fields(**{field: value})})[1:] == details
    assert dict(row) == before and len(c.pool.store.table("Observer")) == 1
