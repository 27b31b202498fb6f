"""What a host says to whoever wants to send it a VM."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from pairs import Pair

Make = Callable[..., Any]


@pytest.fixture
def pair(calls: Make) -> Pair:
    return Pair(calls)


def test_a_host_says_how_it_is_reached(pair: Pair) -> None:
    """By its own address on the network, its master's, and a session that is new."""
    d = pair.d
    host = d.host("host4")
    dest = d("host.migrate_receive", host.ref, pair.network, {})
    session = d.pool.store.get("session", dest["session_id"])
    assert dest == {
        "SM": f"http://{host['address']}/services/SM?session_id={session.ref}",
        "xenops": f"http://{host['address']}/services/xenops?session_id={session.ref}",
        "host": host.ref,
        "master": f"http://{d.host('host3')['address']}/",
        "session_id": session.ref,
    }
    asking = d.pool.store.get("session", d.session)
    assert (session["this_host"], session["auth_user_name"], session["is_local_superuser"]) == (
        *(host.ref, asking["auth_user_name"], True),
    )
    assert session.ref != d.session


def test_a_host_without_an_address_there_cannot_be_sent_to(pair: Pair) -> None:
    """The error says whether it has no interface there, has none configured, or got no address."""
    d = pair.d
    host, store = d.host("host3"), d.pool.store
    other = store.create("network", d.pool.new_ref(), {"uuid": d.pool.new_uuid()})
    assert d.refused("host.migrate_receive", host.ref, other.ref, {}) == [
        "HOST_CANNOT_ATTACH_NETWORK",
        host.ref,
        other.ref,
    ]
    pif = next(pif for pif in store.rows("PIF", host["PIFs"]) if pif["network"] == pair.network)
    store.write(pif, IP="")
    assert d.refused("host.migrate_receive", host.ref, pair.network, {}) == ["INTERFACE_HAS_NO_IP", pif.ref]
    store.write(pif, ip_configuration_mode="None")
    assert d.refused("host.migrate_receive", host.ref, pair.network, {}) == [
        "PIF_HAS_NO_NETWORK_CONFIGURATION",
        pif.ref,
    ]
    store.write(pif, primary_address_type="IPv6", ipv6_configuration_mode="Autoconf", IPv6=["fe80::1/64"])
    assert d.refused("host.migrate_receive", host.ref, pair.network, {}) == ["INTERFACE_HAS_NO_IP", pif.ref]
    store.write(pif, IPv6=["fe80::1/64", "2001:db8::5/64"])
    assert pair.dest()["xenops"].startswith("http://[2001:db8::5]/services/xenops?")


def test_receiving_came_with_6_1(calls: Make) -> None:
    """An older host does not know the message."""
    c = calls(release="6.0")
    assert c.refused("host.migrate_receive") == ["MESSAGE_METHOD_UNKNOWN", "host.migrate_receive"]
