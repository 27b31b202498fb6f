"""Workload balancing: setting a pool up for it, its settings, and what its server recommends."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from mockserver.machine.balancers import Balancer

Make = Callable[..., Any]
NULL = "OpaqueRef:NULL"
GIB = 1 << 30
RIGHT = ("wlb:8012", "wlbuser", "secret", "root", "secret")


def setup(calls: Make, **shape: Any) -> tuple[Any, Balancer]:
    """A pool that is set up with a server."""
    c = calls(**{"release": "8.4", "hosts": 3, "vms": 12, **shape})
    server = c.pool.balancers.add("wlb")
    c("pool.initialize_wlb", *RIGHT)
    c("pool.set_wlb_enabled", c.pool.store.pool().ref, True)
    return c, server


@pytest.mark.parametrize(
    ("place", "value", "error"),
    [
        (0, "nowhere:8012", ["WLB_CONNECTION_REFUSED"]),
        (0, "wlb:8013", ["WLB_CONNECTION_REFUSED"]),
        (0, "wlb", ["WLB_URL_INVALID", "wlb"]),
        (0, "https://wlb:8012", ["WLB_URL_INVALID", "https://wlb:8012"]),
        (0, "wlb:many", ["WLB_URL_INVALID", "wlb:many"]),
        (1, "who", ["WLB_AUTHENTICATION_FAILED"]),
        (2, "guess", ["WLB_AUTHENTICATION_FAILED"]),
        (4, "guess", ["WLB_INTERNAL_ERROR", "4002", "The server could not log in to the pool."]),
    ],
)
def test_a_pool_is_set_up_with_a_server_that_is_there(calls: Make, place: int, value: str, error: list[str]) -> None:
    """Each part of the set-up has its error, after which nothing is written."""
    c = calls(release="8.4")
    c.pool.balancers.add("wlb")
    args = [*RIGHT]
    args[place] = value
    assert c.refused("pool.initialize_wlb", *args) == error
    assert c.pool.store.pool()["wlb_url"] == "" and not c.pool.store.table("secret")


def test_the_password_of_the_server_is_a_secret(calls: Make) -> None:
    """The one before is destroyed, and the last when the pool leaves the server."""
    c, server = setup(calls)
    pool = c.pool.store.pool()
    first = pool["wlb_password"]
    assert c("secret.get_value", first) == "secret"
    c("pool.initialize_wlb", *RIGHT)
    assert pool["wlb_password"] != first and c.refused("secret.get_value", first)[0] == "HANDLE_INVALID"
    c("pool.deconfigure_wlb")
    assert (pool["wlb_url"], pool["wlb_username"], pool["wlb_password"]) == ("", "", NULL)
    assert not pool["wlb_enabled"] and not c.pool.store.table("secret") and not server.pools
    assert c.refused("pool.deconfigure_wlb") == ["WLB_NOT_INITIALIZED"]


def test_a_pool_leaves_a_server_that_does_not_answer(calls: Make) -> None:
    c, server = setup(calls)
    server.up = False
    c("pool.deconfigure_wlb")
    assert c.pool.store.pool()["wlb_url"] == ""


def test_before_5_6_there_were_no_secrets(calls: Make) -> None:
    c, _ = setup(calls, release="5.5")
    assert c("pool.retrieve_wlb_configuration")["OptimizationMode"] == "0"
    c("pool.deconfigure_wlb")
    assert c.refused("pool.retrieve_wlb_configuration") == ["WLB_NOT_INITIALIZED"]


def test_settings_are_the_servers_and_of_each_pool(calls: Make) -> None:
    c, server = setup(calls)
    c("pool.send_wlb_configuration", {"OptimizationMode": "1", "ReportingUseRSServer": "false"})
    found = c("pool.retrieve_wlb_configuration")
    assert (found["OptimizationMode"], found["ReportingUseRSServer"], found["RecentMoveMinutes"]) == ("1", "false", "7")
    server.pools.clear()
    assert c.refused("pool.retrieve_wlb_configuration") == ["WLB_INTERNAL_ERROR", "4015", "The pool is not known."]
    server.up = False
    assert c.refused("pool.send_wlb_configuration", {}) == ["WLB_CONNECTION_REFUSED"]


def test_recommendations_are_for_pools_that_use_them(calls: Make) -> None:
    """Set up, licensed and switched on."""
    c, _ = setup(calls)
    pool, vm, host = c.pool.store.pool(), c.vm("vm01").ref, c.host("host1").ref
    asked = [
        ("VM.retrieve_wlb_recommendations", vm),
        ("host.retrieve_wlb_evacuate_recommendations", host),
        ("pool.retrieve_wlb_recommendations",),
    ]
    c("pool.set_wlb_enabled", pool.ref, False)
    assert [c.refused(*call) for call in asked] == [["WLB_DISABLED"]] * 3
    c.pool.store.write(pool, restrictions={"restrict_wlb": "true"})
    assert [c.refused(*call) for call in asked] == [["LICENCE_RESTRICTION", "WLB"]] * 3


def test_a_host_has_stars_by_its_free_memory(calls: Make) -> None:
    """The fullest has the fewest; one where the guest cannot run has none, and a reason. Each answer has a number."""
    c, _ = setup(calls)
    vm = c.vm("vm04")
    c.leave_free("host1", 40 * GIB)
    c.leave_free("host2", 20 * GIB)
    c("host.disable", c.host("host3").ref)
    found = c("VM.retrieve_wlb_recommendations", vm.ref)
    number = found[c.host("host1").ref][2]
    assert found[c.host("host1").ref][:2] == ["WLB", "5.0"] or found[c.host("host3").ref][3] == "HOST_DISABLED"
    assert float(found[c.host("host2").ref][1]) < float(found[c.host("host1").ref][1])
    assert found[c.host("host3").ref] == ["WLB", "0.0", number, "HOST_DISABLED"]
    assert c("VM.retrieve_wlb_recommendations", vm.ref)[c.host("host1").ref][2] == str(int(number) + 1)


def test_the_guest_had_best_move_that_makes_hosts_alike(calls: Make) -> None:
    """From the fullest host to the emptiest; where no move helps there is none."""
    c, _ = setup(calls)
    c.leave_free("host1", GIB)
    c.leave_free("host2", 30 * GIB)
    c.leave_free("host3", 20 * GIB)
    [(vm, advice)] = c("pool.retrieve_wlb_recommendations").items()
    assert c("VM.get_resident_on", vm) == c.host("host1").ref
    assert advice[:2] == ["WLB", c.host("host2")["uuid"]] and advice[4] == "Memory"
    before = c.pool.store.get("VM", vm)["resident_on"]
    c("VM.pool_migrate", vm, c.host("host2").ref, {"live": "true"})
    assert before != c("VM.get_resident_on", vm)
    for host in ("host1", "host2", "host3"):
        c.leave_free(host, 20 * GIB)
    assert c("pool.retrieve_wlb_recommendations") == {}


def test_where_the_guests_of_a_host_go(calls: Make) -> None:
    """Each to a host, or the error that keeps it, as it then is when the host is emptied."""
    c, server = setup(calls)
    host = c.host("host1")
    ask = ("host.retrieve_wlb_evacuate_recommendations", host.ref)
    advice = c(*ask)
    guests = {vm for vm in host["resident_VMs"] if not c("VM.get_is_control_domain", vm)}
    assert set(advice) == guests and all(word == "WLB" for word, _ in advice.values())
    c.leave_free("host2", 0)
    c.leave_free("host3", 0)
    assert c(*ask) == {vm: ["HOST_NOT_ENOUGH_FREE_MEMORY", vm] for vm in guests}
    c.leave_free("host2", 64 * GIB)
    server.up = False
    assert c.refused(*ask) == ["WLB_CONNECTION_REFUSED"]


def test_a_host_is_emptied_though_the_server_is_away(calls: Make) -> None:
    """A message tells of it, unless the pool was told not to ask; whether it could be emptied is not asked of the server."""
    c, server = setup(calls)
    pool, host = c.pool.store.pool(), c.host("host1")

    def told() -> list[str]:
        return [c("message.get_record", ref)["body"] for ref in c("message.get_all")]

    server.up = False
    c("host.assert_can_evacuate", host.ref)
    assert c("host.get_vms_which_prevent_evacuation", host.ref) == {}
    c("pool.add_to_other_config", pool.ref, "wlb_choose_host_disable", "TRUE")
    c("host.assert_can_evacuate", host.ref)
    assert not [text for text in told() if "Wlb" in text]
    c("pool.remove_from_other_config", pool.ref, "wlb_choose_host_disable")
    c("host.evacuate", host.ref)
    assert {vm for vm in host["resident_VMs"] if not c("VM.get_is_control_domain", vm)} == set()
    assert f"Wlb consultation for Host 'host1' failed (pool uuid: {pool['uuid']})" in told()


def test_a_server_is_put_up_once(calls: Make) -> None:
    c, _ = setup(calls)
    with pytest.raises(ValueError, match="at wlb:8012 already"):
        c.pool.balancers.add("wlb")


def test_what_is_posted_arrives(calls: Make) -> None:
    """Where nobody listens the connection is refused."""
    c, server = setup(calls)
    assert c("pool.send_test_post", "wlb", 8012, "hello") == ""
    assert server.received == ["hello"]
    error = ["INTERNAL_ERROR", 'Stunnel.Stunnel_error("Connection refused")']
    assert c.refused("pool.send_test_post", "nowhere", 443, "hello") == error
