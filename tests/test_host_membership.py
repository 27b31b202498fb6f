"""Hosts as parts of a pool: rows of those that join, what toolstacks tell each other, and how a host is reached."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

import xenctl
from mockserver import MockPool, PoolServer
from xenctl import datamodel
from xenctl.errors import ConnectError, Failure

Make = Callable[..., Any]
NULL = "OpaqueRef:NULL"


def toolstack(c: Any) -> Callable[..., Any]:
    """What calls the master in the session of a member's toolstack."""
    host, secret = c.host("host1").ref, c.pool.master.system.pool_secret
    session = c.pool.dispatch("session.slave_login", [host, secret])
    return lambda method, *args: c.pool.dispatch(method, [session, *args])


def reaches(pool: MockPool, address: str) -> bool:
    """Whether a client gets through to a host."""
    try:
        xenctl.connect(f"http://{address}", "root", "secret", transport=pool.transport()).logout()
    except ConnectError:
        return False
    return True


def second_card(c: Any, *names: str, mode: str = "DHCP") -> str:
    """Give hosts a card on another network, with an address; the network."""
    for name in names:
        machine = c.pool.machine(name)
        machine.nics = (*machine.nics, ("eth1", f"00:16:3e:dd:00:0{name[-1]}"))
        c("PIF.scan", c.host(name).ref)
    pifs = [pif for pif in c.pool.store.table("PIF").values() if pif["device"] == "eth1"]
    for pif in pifs:
        c.pool.store.write(pif, network=pifs[0]["network"])
        c("PIF.reconfigure_ip", pif.ref, mode, "", "", "", "")
    return str(pifs[0]["network"])


# --- the row of a host that joins


@pytest.mark.parametrize(("release", "known"), [("5.0", 5), ("7.0", None), ("8.4", None)])
def test_a_created_host_has_not_started_yet(calls: Make, release: str, known: int | None) -> None:
    """Disabled, not live, without hardware, with what its maker told; old releases know few of its fields."""
    c = calls(hosts=1, release=release)
    params = datamodel.load().classes["host"].messages["create"].params[:known]
    told = {
        "uuid": "1f1e2d3c-4b5a-6978-8796-a5b4c3d2e1f0",
        "name_label": "new",
        "address": "10.0.0.9",
        "edition": "free",
    }
    empty = {"string": "", "bool": False, "int": 0, "datetime": "19700101T00:00:00Z"}
    enums = {"ntp_mode": "DHCP", "numa_affinity_policy": "any", "latest_synced_updates_applied": "unknown"}

    def value(param: Any) -> Any:
        if param.name in told or param.name in enums:
            return {**told, **enums}[param.name]
        kind = str(param.type)
        return empty.get(kind, NULL if kind.endswith(" ref") else [] if kind.endswith(" set") else {})

    host = c("host.create", *map(value, params))
    row = c.pool.store.get("host", host)
    assert {name: row[name] for name in told if name in row} == {n: v for n, v in told.items() if n in row}
    assert (row["enabled"], row["name_description"]) == (False, "Default install")
    assert row.get("virtual_hardware_platform_versions", [0]) == [0]
    metrics = c.pool.store.get("host_metrics", row["metrics"])
    assert (metrics["live"], metrics["memory_total"]) == (False, 0)
    if "restrictions" not in c.pool.store.pool():
        return
    c.pool.store.write(c.pool.store.pool(), restrictions={"restrict_pool_size": "true"})
    c.pool.store.create("host", c.pool.new_ref(), {"uuid": c.pool.new_uuid()})
    assert c.refused("host.create", *map(value, params)) == ["LICENCE_RESTRICTION", "Pool_size"]


def test_initial_auth_tells_the_secret_that_toolstacks_log_in_with(calls: Make) -> None:
    """Whoever has it is one of the pool."""
    c = calls(hosts=2, release="8.2")
    secret = c("pool.initial_auth")
    assert c.pool.dispatch("session.slave_login", [c.host("host2").ref, secret])
    assert secret not in (c.pool.neighbour().machines[0].system.pool_secret, "")


# --- what toolstacks tell each other


def test_what_is_between_toolstacks_is_refused_to_users(calls: Make) -> None:
    """Each such message names itself."""
    c = calls(hosts=2, release="8.4")
    host = c.host("host2").ref
    for method, *args in (
        ("host.tickle_heartbeat", host, {}),
        ("host.request_config_file_sync", host, ""),
        ("host.set_localdb_key", host, "a", "b"),
        ("host.commit_new_master", "10.0.0.2"),
    ):
        text = f'Internal API "{method}" call attempted with non-pool (external) session'
        assert c.refused(method, *args) == ["INTERNAL_ERROR", text]


def test_a_heartbeat_says_that_a_host_lives_or_is_about_to_stop(calls: Make) -> None:
    """One that came keeps the host from being taken for dead until the next is overdue."""
    c = calls(hosts=2, release="8.2")
    ask, host = toolstack(c), c.host("host2")
    live = lambda: c("host_metrics.get_live", host["metrics"])  # noqa: E731
    assert ask("host.tickle_heartbeat", host.ref, {"shutting-down": "true"}) == {}
    assert not live()
    ask("host.tickle_heartbeat", host.ref, {"time": "1"})
    assert live()
    c.pool.hands.power_off("host2")
    c.sleep(500)
    ask("host.tickle_heartbeat", host.ref, {"time": "1"})
    c.sleep(500)
    assert live()
    c.sleep(200)
    assert not live()


def test_a_pool_without_root_has_no_password_to_change() -> None:
    """It is root's that would change, whoever asks; here another logs in."""
    pool = MockPool.create(hosts=1, vms=0, release="8.2", username="admin", password="old")
    session = pool.dispatch("session.login_with_password", ["admin", "old"])
    with pytest.raises(Failure) as caught:
        pool.dispatch("session.change_password", [session, "old", "new"])
    assert caught.value.details == ["CHANGE_PASSWORD_REJECTED", "this pool has no user root"]
    assert pool.password == "old" and pool.dispatch("session.login_with_password", ["admin", "old"])


def test_a_new_password_reaches_members_at_once_and_those_that_were_away_when_they_start(calls: Make) -> None:
    """Root's password is a file of each host; the master's is copied."""
    c = calls(hosts=3, release="8.2")
    c.pool.hands.power_off("host3")
    c("session.change_password", "secret", "new")

    def local(name: str, password: str) -> Any:
        method = "session.slave_local_login_with_password"
        return c.pool.dispatch(method, ["root", password], c.pool.machine(name))

    assert local("host2", "new")
    c.pool.hands.power_on("host3")
    c.until(lambda: c.pool.machine("host3").state == "running")
    assert local("host3", "secret")
    c.until(lambda: c.pool.machine("host3").xapi.complete)
    assert local("host3", "new")
    c.pool.machine("host2").system.password = "other"
    toolstack(c)("host.request_config_file_sync", c.host("host2").ref, "")
    assert local("host2", "new")
    with pytest.raises(Failure, match="SESSION_AUTHENTICATION_FAILED"):
        local("host2", "other")


def test_the_toolstacks_own_keys_stay_when_its_host_starts_anew(calls: Make) -> None:
    """They are in no database; a clean installation forgets them."""
    c = calls(hosts=2, release="8.2")
    toolstack(c)("host.set_localdb_key", c.host("host2").ref, "key", "value")
    machine = c.pool.machine("host2")
    c.pool.hands.power_off("host2")
    c.pool.hands.power_on("host2")
    c.until(lambda: machine.xapi.complete)
    assert machine.system.local == {"key": "value"}
    c.halt("host2")
    c.install("host2", "8.2", "fresh")
    assert machine.system.local == {}


# --- how a host is reached


@pytest.mark.parametrize("name", ["host1", "host2"])
def test_a_toolstack_that_was_told_to_go_stays_away_until_its_host_starts(calls: Make, name: str) -> None:
    """The call is answered first; guests go on."""
    c = calls(hosts=2, vms=2, release="8.2")
    machine, guests = c.pool.machine(name), set(c.pool.machine(name).domains)
    secret = machine.system.pool_secret
    session = c.pool.dispatch("session.slave_local_login", [secret], machine)
    c.pool.dispatch("host.shutdown_agent", [session], machine)
    assert not c.pool.store.get("host", c.host(name).ref)["enabled"]
    assert reaches(c.pool, machine.address) if name == "host1" else True
    c.sleep(3600)
    assert (machine.xapi.mode, machine.state, set(machine.domains)) == ("dead", "running", guests)
    assert not reaches(c.pool, machine.address)
    c.pool.hands.power_off(name)
    c.pool.hands.power_on(name)
    c.until(lambda: all(m.xapi.complete for m in c.pool.machines))


def test_a_master_without_a_management_interface_is_not_reached(calls: Make) -> None:
    """Its members lose it as well, until somebody at the machine gives it an interface again."""
    c = calls(hosts=2, release="8.2")
    assert c.refused("host.management_disable", on="host2")[0] == "HOST_IS_SLAVE"
    c("host.management_disable")
    assert not reaches(c.pool, "10.0.0.1")
    assert not any(
        pif["management"] for pif in c.pool.store.table("PIF").values() if pif["host"] == c.host("host1").ref
    )
    member = c.pool.machine("host2")
    c.sleep(600)
    assert member.xapi.mode == "emergency"
    pif = c.host("host1")["PIFs"][0]
    c("host.management_reconfigure", pif)
    assert reaches(c.pool, "10.0.0.1")
    assert c("PIF.get_management", pif)
    c.until(lambda: member.xapi.complete)
    assert c.pool.machine("host1").state == "running"


def test_a_disabled_interface_stays_so_over_a_restart_and_closes_the_port(calls: Make) -> None:
    """It is written on the host's disk."""
    pool = MockPool.create(hosts=1, vms=0, release="8.2")
    with PoolServer(pool) as server:
        session = xenctl.connect(server.url, "root", "secret")
        session.host.management_disable()
        with pytest.raises(ConnectError):
            xenctl.connect(server.url, "root", "secret")
    pool.hands.power_off("host1")
    pool.hands.power_on("host1")
    pool.clock.run_until(pool.clock.now() + 900, lambda: pool.machines[0].xapi.complete)
    assert not pool.machines[0].answers


def test_a_host_is_managed_by_another_interface(calls: Make) -> None:
    """One with an address, of no bond; the member is reached as before."""
    c = calls(hosts=2, release="8.2")
    second_card(c, "host2", mode="None")
    pif = next(pif for pif in c.pool.store.table("PIF").values() if pif["device"] == "eth1")
    assert c.refused("host.management_reconfigure", pif.ref) == ["PIF_HAS_NO_NETWORK_CONFIGURATION", pif.ref]
    c("PIF.reconfigure_ip", pif.ref, "Static", "10.7.0.2", "255.255.0.0", "", "")
    c.pool.store.write(c.pool.store.pool(), ha_enabled=True)
    assert c.refused("host.management_reconfigure", pif.ref) == ["HA_IS_ENABLED"]
    c.pool.store.write(c.pool.store.pool(), ha_enabled=False)
    c("host.management_reconfigure", pif.ref)
    assert [p["device"] for p in c.pool.store.table("PIF").values() if p["management"]] == ["eth0", "eth1"]
    assert c.host("host2")["address"] == c.pool.machine("host2").address == "10.7.0.2"
    assert c.pool.machine("host2").answers
    c.pool.hands.power_off("host2")
    c.pool.hands.power_on("host2")
    c.until(lambda: c.pool.machine("host2").xapi.complete)
    assert c("host.get_management_interface", c.host("host2").ref) == pif.ref


def test_a_pool_is_managed_by_another_network(calls: Make) -> None:
    """Every host must have a PIF on it; all of them follow, the master last."""
    c = calls(hosts=2, release="8.2")
    network = second_card(c, "host2")
    missing = c.refused("pool.management_reconfigure", network)
    assert missing == ["PIF_NOT_PRESENT", c.host("host1").ref, network]
    second_card(c, "host1")
    c("pool.management_reconfigure", network)
    c.sleep(60)
    managing = [pif["device"] for pif in c.pool.store.table("PIF").values() if pif["management"]]
    assert managing == ["eth1", "eth1"]
    assert all(machine.xapi.complete for machine in c.pool.machines)


def test_a_host_in_an_emergency_is_given_an_interface_by_its_bridge(calls: Make) -> None:
    """Only then; the database follows when it is a member again."""
    c = calls(hosts=2, release="8.2")
    network = second_card(c, "host2")
    bridge = c("network.get_bridge", network)
    machine = c.pool.machine("host2")
    secret = machine.system.pool_secret

    def local(method: str, *args: Any) -> Any:
        session = c.pool.dispatch("session.slave_local_login", [secret], machine)
        return c.pool.dispatch(method, [session, *args], machine)

    with pytest.raises(Failure, match="NOT_IN_EMERGENCY_MODE"):
        local("host.local_management_reconfigure", bridge)
    c.pool.hands.power_off("host1")
    with pytest.raises(Failure, match="Interface_does_not_exist xenbr9"):
        local("host.local_management_reconfigure", "xenbr9")
    local("host.local_management_reconfigure", bridge)
    with pytest.raises(Failure, match="SLAVE_REQUIRES_MANAGEMENT_INTERFACE"):
        local("host.management_disable")
    c.pool.hands.power_on("host1")
    c.until(lambda: all(m.xapi.complete for m in c.pool.machines))
    c = c.again()
    managing = [p["device"] for p in c.pool.store.table("PIF").values() if p["management"]]
    assert managing == ["eth0", "eth1"]
