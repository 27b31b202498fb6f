"""Controllers of virtual switches, snooping, and the older way to set a controller."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

Make = Callable[..., Any]


def bridged(calls: Make, **shape: Any) -> Any:
    """A pool whose networks are made of bridges."""
    c = calls(**{"release": "8.4", **shape})
    for host in c.pool.store.table("host").values():
        c.pool.store.write(host, software_version={**host["software_version"], "network_backend": "bridge"})
    return c


def switched(calls: Make, **shape: Any) -> Any:
    """A pool whose networks are made of virtual switches, as they are since 6.0."""
    return calls(**{"release": "8.4", **shape})


@pytest.mark.parametrize(
    ("args", "error"),
    [
        (("ssl", "", 0), ["INVALID_VALUE", "address", ""]),
        (("ssl", "10.0.0", 0), ["INVALID_IP_ADDRESS_SPECIFIED", "address"]),
        (("ssl", "10.9.0.1", 70000), ["VALUE_NOT_SUPPORTED", "port", "70000", "Port out of range"]),
        (("pssl", "10.9.0.1", 0), ["INVALID_VALUE", "address", "10.9.0.1"]),
        (("pssl", "", 1), ["INVALID_VALUE", "port", "1"]),
    ],
)
def test_a_controller_has_an_address_or_comes_itself(calls: Make, args: tuple[Any, ...], error: list[str]) -> None:
    c = switched(calls)
    assert c.refused("SDN_controller.introduce", *args) == error
    assert c("SDN_controller.get_all") == []


def test_a_pool_has_one_controller(calls: Make) -> None:
    """Its port is 6632 unless told otherwise; without virtual switches there can be none."""
    no = ["OPERATION_NOT_ALLOWED", "host not configured for vswitch operation"]
    assert bridged(calls).refused("SDN_controller.introduce", "ssl", "10.9.0.1", 0) == no
    c = switched(calls)
    ref = c("SDN_controller.introduce", "ssl", "10.9.0.1", 0)
    assert c("SDN_controller.get_record", ref)["port"] == 6632
    again = ["OPERATION_NOT_ALLOWED", "SDN controller has been configured. Please forget it first."]
    assert c.refused("SDN_controller.introduce", "ssl", "10.9.0.2", 0) == again
    c("SDN_controller.forget", ref)
    assert c("SDN_controller.get_port", c("SDN_controller.introduce", "pssl")) == 0


def test_the_older_way_makes_and_forgets_the_same(calls: Make) -> None:
    """Before 7.2 there is the address alone."""
    c = switched(calls)
    pool = c.pool.store.pool()
    c("pool.set_vswitch_controller", "10.9.0.1")
    c("pool.set_vswitch_controller", "10.9.0.1")
    assert c.refused("pool.set_vswitch_controller", "x") == ["INVALID_IP_ADDRESS_SPECIFIED", "address"]
    c("pool.set_vswitch_controller", "10.9.0.2")
    [controller] = c.pool.store.table("SDN_controller").values()
    assert (controller["address"], pool["vswitch_controller"]) == ("10.9.0.2", "10.9.0.2")
    c("pool.set_vswitch_controller", "")
    assert c("SDN_controller.get_all") == [] and pool["vswitch_controller"] == ""
    old = switched(calls, release="6.5")
    old("pool.set_vswitch_controller", "10.9.0.1")
    assert old.pool.store.pool()["vswitch_controller"] == "10.9.0.1"
    no = ["OPERATION_NOT_ALLOWED", "host not configured for vswitch operation"]
    assert bridged(calls, release="6.5").refused("pool.set_vswitch_controller", "10.9.0.1") == no


def test_snooping_is_switched_on_every_host(calls: Make) -> None:
    """Where one does not answer, it is an error, though it is on."""
    plain = bridged(calls)
    ask = ("pool.set_igmp_snooping_enabled", plain.pool.store.pool().ref, True)
    assert plain.refused(*ask) == ["OPENVSWITCH_NOT_ACTIVE"]
    c = switched(calls)
    pool = c.pool.store.pool()
    c("pool.set_igmp_snooping_enabled", pool.ref, True)
    assert pool["igmp_snooping_enabled"]
    c.pool.store.write(pool, restrictions={"restrict_igmp_snooping": "true"})
    refused = c.refused("pool.set_igmp_snooping_enabled", pool.ref, True)
    assert refused == ["LICENCE_RESTRICTION", "IGMP_snooping"]
    c.pool.hands.power_off("host2")
    refused = c.refused("pool.set_igmp_snooping_enabled", pool.ref, False)
    assert refused == ["COULD_NOT_UPDATE_IGMP_SNOOPING_EVERYWHERE"] and not pool["igmp_snooping_enabled"]


def test_members_append_to_the_log_of_calls(calls: Make) -> None:
    """Nobody else may."""
    c = calls(release="8.4")
    assert c.refused("pool.audit_log_append", "x")[0] == "INTERNAL_ERROR"
    own = c.pool.dispatch("session.slave_login", [c.host("host2").ref, c.pool.master.system.pool_secret])
    c.pool.dispatch("pool.audit_log_append", [own, "[20081201T00:00:00.000Z|audit|host2] one"])
    assert c.pool.audit == ["[20081201T00:00:00.000Z|audit|host2] one"]


def test_archives_went_with_6_2(calls: Make) -> None:
    for release, error in (("6.1", ["NOT_IMPLEMENTED", "pool.test_archive_target"]), ("6.2", ["MESSAGE_REMOVED"])):
        c = calls(release=release)
        assert c.refused("pool.test_archive_target", c.pool.store.pool().ref, {}) == error
