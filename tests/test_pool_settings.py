"""Settings of the pool: what guests' agents are told, VLANs on every host, proxies, telemetry."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

Make = Callable[..., Any]
NULL = "OpaqueRef:NULL"


@pytest.fixture
def c(calls: Make) -> Any:
    return calls(release="8.4", hosts=3)


@pytest.mark.parametrize(
    ("key", "value"), [("auto_update_enabled", "yes"), ("auto_update_url", "ftp://x"), ("colour", "red")]
)
def test_agents_are_told_what_they_know_only(c: Any, key: str, value: str) -> None:
    pool = c.pool.store.pool()
    error = ["INVALID_VALUE", "guest_agent_config", f"{key} = {value}"]
    assert c.refused("pool.add_to_guest_agent_config", pool.ref, key, value) == error
    c("pool.add_to_guest_agent_config", pool.ref, "auto_update_url", "https://x/")
    assert pool["guest_agent_config"] == {"auto_update_url": "https://x/"}
    assert (
        c.refused("pool.add_to_guest_agent_config", pool.ref, "auto_update_url", "https://y/")[0] == "MAP_DUPLICATE_KEY"
    )


def test_a_vlan_is_on_every_host_or_on_none(c: Any) -> None:
    """By the name of a card, or by a PIF; where one host refuses, those that were made go again."""
    network = c("network.create", {"name_label": "v7", "other_config": {}})
    made = c("pool.create_VLAN", "eth0", network, 7)
    assert {c("PIF.get_host", pif) for pif in made} == set(c("host.get_all")) and len(made) == 3
    assert {(c("PIF.get_VLAN", pif), c("PIF.get_currently_attached", pif)) for pif in made} == {(7, True)}
    base = c("host.get_management_interface", c.host("host1").ref)
    other = c("network.create", {"name_label": "v8", "other_config": {}})
    assert len(c("pool.create_VLAN_from_PIF", base, other, 8)) == 3
    third = c("network.create", {"name_label": "v9", "other_config": {}})
    taken = c("PIF.create_VLAN", "eth0", third, c.host("host3").ref, 9)
    before = set(c("PIF.get_all"))
    fourth = c("network.create", {"name_label": "v9 again", "other_config": {}})
    assert c.refused("pool.create_VLAN", "eth0", fourth, 9) == ["PIF_VLAN_EXISTS", "eth0"]
    assert set(c("PIF.get_all")) == before and taken in before


def test_the_password_of_a_proxy_is_a_secret(c: Any) -> None:
    """The one before is destroyed; a name goes with a password."""
    pool = c.pool.store.pool()
    ask = ("pool.configure_repository_proxy", pool.ref)
    assert c.refused(*ask, "ftp://p", "", "") == ["INVALID_REPOSITORY_PROXY_URL", "ftp://p"]
    assert c.refused(*ask, "http://p", "me", "") == ["INVALID_REPOSITORY_PROXY_CREDENTIAL"]
    c(*ask, "http://p", "me", "hush")
    secret = pool["repository_proxy_password"]
    assert c("secret.get_value", secret) == "hush" and pool["repository_proxy_username"] == "me"
    c("pool.disable_repository_proxy", pool.ref)
    assert (pool["repository_proxy_url"], pool["repository_proxy_password"]) == ("", NULL)
    assert secret not in c("secret.get_all")


def test_when_updates_and_telemetry_come(c: Any) -> None:
    """A week has seven days; telemetry is not put off beyond twice its time."""
    pool = c.pool.store.pool()
    assert c.refused("pool.configure_update_sync", pool.ref, "weekly", 7) == ["INVALID_UPDATE_SYNC_DAY", "7"]
    c("pool.configure_update_sync", pool.ref, "weekly", 6)
    assert (pool["update_sync_frequency"], pool["update_sync_day"]) == ("weekly", 6)
    c("pool.configure_update_sync", pool.ref, "daily", 6)
    assert (pool["update_sync_frequency"], pool["update_sync_day"]) == ("daily", 0)
    late = "20300101T00:00:00Z"
    assert c.refused("pool.set_telemetry_next_collection", pool.ref, late) == [
        "TELEMETRY_NEXT_COLLECTION_TOO_LATE",
        late,
    ]
    before = pool["telemetry_uuid"]
    c("pool.reset_telemetry_uuid", pool.ref)
    assert pool["telemetry_uuid"] != before and c("secret.get_value", pool["telemetry_uuid"])


def test_https_only_is_every_hosts(c: Any) -> None:
    c("pool.set_https_only", c.pool.store.pool().ref, True)
    assert {c("host.get_https_only", host) for host in c("host.get_all")} == {True}
