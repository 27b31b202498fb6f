"""Plugins and extensions of hosts, and hosts that install themselves because a plugin told them to."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from mockserver import MockPool
from mockserver.plugins import Asked, PluginError
from mockserver.plugins.base import PluginSteps
from xenctl.errors import Failure
from xenctl.releases import find

Make = Callable[..., Any]
PLUGIN = "prepare_host_upgrade.py"
URL = "http://10.9.9.9/media"


@pytest.fixture
def c(calls: Make) -> Any:
    return calls(release="8.2", hosts=2, vms=0)


def asked(c: Any, function: str, host: str = "host1", **args: str) -> str:
    """What the plugin that prepares upgrades says."""
    return str(c("host.call_plugin", c.host(host).ref, PLUGIN, function, args))


def failed(c: Any, function: str, host: str = "host1", **args: str) -> str:
    """Why it fails."""
    code, *params = c.refused("host.call_plugin", c.host(host).ref, PLUGIN, function, args)
    assert (code, params[:2]) == ("XENAPI_PLUGIN_FAILURE", [function, "Exception"])
    return str(params[2])


# --- plugins


def test_a_test_adds_plugins_of_its_own(c: Any) -> None:
    """Each host has it; its functions are told what was asked, and by whom they are to make calls."""
    seen: list[Asked] = []

    def rename(what: Asked) -> str:
        seen.append(what)
        what.call("host.set_name_label", what.host.ref, what.args["to"])
        return "done"

    c.pool.plugins["names.py"] = {"rename": rename}
    host = c.host("host2")
    assert c("host.call_plugin", host.ref, "names.py", "rename", {"to": "db2"}) == "done"
    assert host["name_label"] == "db2"
    assert (seen[0].function, seen[0].machine, seen[0].pool) == ("rename", c.pool.machine("host2"), c.pool)
    error = c.refused("host.call_plugin", host.ref, "names.py", "other", {})
    assert error == ["UNKNOWN_XENAPI_PLUGIN_FUNCTION", "other"]
    del c.pool.plugins["names.py"]
    assert c.refused("host.call_plugin", host.ref, "names.py", "rename", {}) == ["XENAPI_MISSING_PLUGIN", "names.py"]


def raises(error: Exception) -> Callable[[Asked], str]:
    def function(what: Asked) -> str:
        raise error

    return function


@pytest.mark.parametrize(
    ("error", "details"),
    [
        (PluginError("NO_DISK"), ["XENAPI_PLUGIN_FAILURE", "go", "Exception", "NO_DISK"]),
        (KeyError("url"), ["XENAPI_PLUGIN_FAILURE", "go", "KeyError", "'url'"]),
        (Failure(["HOST_IN_USE", "a", "b"]), ["HOST_IN_USE", "a", "b"]),
    ],
    ids=lambda case: type(case).__name__,
)
def test_what_a_plugin_raises_reaches_the_caller(c: Any, error: Exception, details: list[str]) -> None:
    """As the plugins' own library tells it; an error with a code of xapi's is passed on."""
    c.pool.plugins["x"] = {"go": raises(error)}
    assert c.refused("host.call_plugin", c.host("host1").ref, "x", "go", {}) == details


def test_a_plugin_returns_text_and_its_own_check_is_heard(c: Any) -> None:
    """Anything else is a failure; an assertion in it fails the test."""
    c.pool.plugins["x"] = {"number": lambda what: 7, "check": raises(AssertionError("mine"))}
    error = c.refused("host.call_plugin", c.host("host1").ref, "x", "number", {})
    assert error == ["XENAPI_PLUGIN_FAILURE", "number", "TypeError", "a plugin returns text, not 7"]
    with pytest.raises(AssertionError, match="mine"):
        c("host.call_plugin", c.host("host1").ref, "x", "check", {})


def test_a_plugin_takes_time_and_ends_with_its_host(c: Any) -> None:
    """It is closed where it waits."""
    ended: list[str] = []

    def slow(what: Asked) -> PluginSteps:
        try:
            yield 60.0
            ended.append("well")
        finally:
            ended.append("closed")
        return "ok"

    c.pool.plugins["x"] = {"slow": slow}
    before = c.pool.clock.now()
    call = ("host.call_plugin", c.host("host2").ref, "x", "slow", {})
    assert c(*call) == "ok" and c.pool.clock.now() == before + 60.0
    task = c.start(*call)
    c.pool.hands.power_off("host2")
    c.sleep(61)
    assert (task["status"], task["error_info"][0]) == ("failure", "CANNOT_CONTACT_HOST")
    assert ended == ["well", "closed", "closed"]


def test_a_plugin_needs_its_host(c: Any) -> None:
    """One that does not answer is told from one that is thought dead."""
    host = c.host("host2")
    c.pool.hands.power_off("host2")
    assert c.refused("host.call_plugin", host.ref, PLUGIN, "testUrl", {}) == ["CANNOT_CONTACT_HOST", host.ref]
    c.sleep(700)
    assert c.refused("host.call_plugin", host.ref, "none", "x", {}) == ["HOST_OFFLINE", host.ref]


def test_plugins_have_names_and_functions(c: Any) -> None:
    """Nothing is changed by a mistake."""
    for name, functions in (("", {"a": str}), ("a/b", {"a": str}), ("a", {})):
        with pytest.raises(ValueError):
            c.pool.plugins[name] = functions
    with pytest.raises(KeyError, match=r"no host has a plugin 'a'"):
        del c.pool.plugins["a"]
    del c.pool.plugins[PLUGIN]
    assert c.refused("host.call_plugin", c.host("host1").ref, PLUGIN, "main", {}) == ["XENAPI_MISSING_PLUGIN", PLUGIN]
    with pytest.raises(KeyError):
        del c.pool.plugins[PLUGIN]


def test_plugins_and_what_they_did_are_taken_back(c: Any) -> None:
    """By a rollback, like all else."""
    c.pool.hands.publish(URL, "8.4")
    with c.pool.savepoint():
        c.pool.plugins["x"] = {"go": lambda what: "ok"}
        asked(c, "main", url=URL)
        assert c.pool.machine("host1").prepared is not None
    assert c.pool.machine("host1").prepared is None
    assert c.refused("host.call_plugin", c.host("host1").ref, "x", "go", {})[0] == "XENAPI_MISSING_PLUGIN"


def test_a_plugin_is_run_where_a_vm_runs(calls: Make) -> None:
    """Since a release that is newer than those known here."""
    newest = replace(find("8.4"), version=(99, 0, 0), product_version="99.0.0", order=(1, 99))
    c = calls(release="8.4", hosts=2, vms=4)
    for machine in c.pool.machines:
        machine.system.release = newest
    c.pool.store.release = newest
    c.pool.plugins["x"] = {"where": lambda what: what.machine.name}
    assert c("VM.call_host_plugin", c.vm("vm02").ref, "x", "where", {}) == "host2"
    halted = c.vm("vm04").ref
    assert c.refused("VM.call_host_plugin", halted, "x", "where", {}) == [
        "VM_BAD_POWER_STATE",
        halted,
        "running",
        "halted",
    ]
    missing = c.refused("VM.call_host_plugin", c.vm("vm02").ref, "y", "where", {})
    assert missing == ["XENAPI_MISSING_PLUGIN", "y"]


# --- extensions


def test_an_extension_is_called_by_its_name(c: Any) -> None:
    """In JSON-RPC; the parameters are known by their places."""
    c.pool.extensions["Test.add"] = lambda what: str(what.args["0"] + what.args["1"])
    host, pool = c.host("host1").ref, c.pool.store.pool().ref
    assert c("host.call_extension", host, json.dumps({"method": "Test.add", "params": [1, 2], "id": 1})) == "3"
    assert c("host.has_extension", host, "Test.add") and c("pool.has_extension", pool, "Test.add")
    unknown = json.dumps({"method": "Test.less", "params": []})
    assert c.refused("host.call_extension", host, unknown) == ["MESSAGE_METHOD_UNKNOWN", "Test.less"]
    assert not c("host.has_extension", host, "Test.less") and not c("pool.has_extension", pool, "Test.less")
    for text in ("{", "[]", '{"method": 1, "params": []}', '{"method": "a", "params": {}}', '{"method": "a"}'):
        assert c.refused("host.call_extension", host, text)[0] == "INTERNAL_ERROR"


# --- a host that installs itself


def test_the_plugin_looks_at_the_medium(c: Any) -> None:
    """At its URL, which must have one that is not older than the host."""
    c.pool.hands.publish(f"{URL}/", "8.4")
    c.pool.hands.publish("nfs://10.9.9.9:/old", "7.0")
    assert asked(c, "testUrl", url=URL) == asked(c, "testUrl", url=f"{URL}/") == "true"
    assert failed(c, "testUrl") == failed(c, "main") == "MISSING_URL"
    assert failed(c, "testUrl", url="http://nobody/") == failed(c, "main", url="http://nobody/") == "INVALID_URL"
    assert failed(c, "testUrl", url="nfs://10.9.9.9:/old") == "INVALID_VER"
    assert failed(c, "main", url="nfs://10.9.9.9:/old") == "INVALID_URL"
    assert json.loads(asked(c, "getVersion", url=URL)) == {"product-version": "8.4.0", "platform-version": "3.4.0"}
    memory = c.pool.machine("host1").memory
    assert int(asked(c, "getDom0DefaultMemory", url=URL)) == (1 << 30) + memory // 20
    assert asked(c, "testSafe2Upgrade") == "true"
    with pytest.raises(ValueError, match="not a URL"):
        c.pool.hands.publish("media", "8.4")
    with pytest.raises(ValueError, match="no release is called"):
        c.pool.hands.publish("http://a/", "99")


def test_a_url_that_the_installer_could_not_reach_is_refused(c: Any) -> None:
    """A host with a fixed address needs a gateway, and a name server for a name; not for a disk of its own."""
    c.pool.hands.publish(URL, "8.4")
    c.pool.hands.publish("http://media.example/x", "8.4")
    c.pool.hands.publish("file:///media/x", "8.4")
    pif = next(row for row in c.pool.store.table("PIF").values() if row["management"])
    fixed = {"ip_configuration_mode": "Static", "IP": "10.0.0.1", "netmask": "255.0.0.0", "gateway": "", "DNS": ""}
    c.pool.store.write(pif, **fixed)
    assert failed(c, "main", url=URL) == "ERROR_PREPARING_HOST"
    assert asked(c, "main", url="file:///media/x") == "true"
    c.pool.store.write(pif, gateway="10.0.0.254")
    assert asked(c, "main", url=URL) == "true"
    assert failed(c, "main", url="http://media.example/x") == "ERROR_PREPARING_HOST"
    c.pool.store.write(pif, DNS="10.0.0.53")
    assert asked(c, "main", url="http://me:hush@media.example/x/") == "true"


@pytest.mark.parametrize(
    ("release", "lacks"),
    [("5.6", {"main", "testUrl"}), ("6.0", {"testSafe2Upgrade", "getVersion"}), ("7.6", {"getDom0DefaultMemory"})],
)
def test_the_plugin_grew_with_the_releases(calls: Make, release: str, lacks: set[str]) -> None:
    c = calls(release=release, hosts=1, vms=0)
    for function in lacks:
        code = c.refused("host.call_plugin", c.host("host1").ref, PLUGIN, function, {"url": URL})[0]
        assert code == ("XENAPI_MISSING_PLUGIN" if release == "5.6" else "UNKNOWN_XENAPI_PLUGIN_FUNCTION")


def test_local_disks_are_in_the_way_of_new_partitions(calls: Make) -> None:
    """Before 7.0, as is local storage that is small."""
    c = calls(release="6.5", hosts=1, vms=0)
    sr = c.row("SR", "Local storage on host1")
    assert asked(c, "testSafe2Upgrade") == "true"
    vdi = c.pool.store.create("VDI", c.pool.new_ref(), {"uuid": c.pool.new_uuid(), "SR": sr.ref})
    assert asked(c, "testSafe2Upgrade") == "false"
    c.pool.store.delete(vdi)
    c.pool.store.write(sr, physical_size=8 << 30)
    assert asked(c, "testSafe2Upgrade") == "not_enough_space"


def reboot(c: Any, host: str) -> None:
    ref = c.host(host).ref
    c("host.disable", ref)
    c("host.evacuate", ref)
    c("host.reboot", ref)
    c.until(lambda: not c.pool.machine(host).answers)


def started(c: Any) -> Any:
    """A session once every host is back."""
    c.until(lambda: all(machine.xapi.complete for machine in c.pool.machines))
    return c.again()


@pytest.mark.parametrize(("old", "new"), [("6.0", "6.2"), ("6.5", "7.0"), ("8.2", "8.4")])
def test_a_pool_is_upgraded_without_hands(calls: Make, old: str, new: str) -> None:
    """The plugin prepares each host, a reboot does the rest, the master first; every guest runs on, its disks unharmed."""
    c = calls(release=old, hosts=3, vms=3)
    c.pool.hands.publish(URL, new)
    running = [vm["uuid"] for vm in c.pool.store.table("VM").values() if vm["power_state"] == "Running"]
    for host in ("host1", "host2", "host3"):
        assert asked(c, "main", host, url=URL) == "true"
        reboot(c, host)
        c = started(c)
    assert {machine.system.release.product_version for machine in c.pool.machines} == {f"{new}.0"}
    assert all(machine.backup is not None and machine.prepared is None for machine in c.pool.machines)
    assert all(c("VM.get_power_state", c("VM.get_by_uuid", uuid)) == "Running" for uuid in running)
    assert c.unharmed()


def test_a_member_before_its_master_stops_at_the_installer(c: Any) -> None:
    """It shows what it offers instead of upgrading; after a power cycle it boots its old system."""
    c.pool.hands.publish(URL, "8.4")
    asked(c, "main", "host2", url=URL)
    reboot(c, "host2")
    c.sleep(3600)
    hands = c.pool.hands
    assert (hands.power("host2"), hands.offers("host2")) == ("installer", ("fresh",))
    assert hands.identified("host2") == "8.2.0"
    hands.power_off("host2")
    hands.power_on("host2")
    c.until(lambda: c.pool.machine("host2").xapi.mode == "member")
    assert c.pool.machine("host2").system.release.product_version == "8.2.0"


def test_a_medium_in_the_drive_comes_first(c: Any) -> None:
    """It waits for an answer, as ever; what was prepared is forgotten with the system that it was prepared in."""
    c.pool.hands.publish(URL, "8.4")
    asked(c, "main", url=URL)
    c.pool.hands.insert_media("host1", "8.2")
    reboot(c, "host1")
    c.sleep(3600)
    assert c.pool.hands.power("host1") == "installer"
    c.pool.hands.answer("host1", "upgrade")
    c = started(c)
    machine = c.pool.machine("host1")
    assert (machine.system.release.product_version, machine.prepared) == ("8.2.0", None)


def test_power_may_fail_while_a_host_installs_itself(calls: Make) -> None:
    """Nothing is lost: the old system is there until the new one is."""
    c = calls(release="8.2", hosts=1, vms=0)
    pool: MockPool = c.pool
    pool.hands.publish(URL, "8.4")
    asked(c, "main", url=URL)
    reboot(c, "host1")
    c.until(lambda: pool.hands.power("host1") == "installing")
    pool.hands.power_off("host1")
    pool.hands.power_on("host1")
    c = started(c)
    assert pool.machine("host1").system.release.product_version == "8.2.0"
    asked(c, "main", url=URL)
    reboot(c, "host1")
    assert started(c).pool.machine("host1").system.release.product_version == "8.4.0"
