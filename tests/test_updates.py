"""Updates from repositories: introducing and syncing them, what hosts lack, installing it, and what is to be done then."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest

from mockserver.http import answer
from mockserver.machine.update_repositories import Livepatch, Update

Make = Callable[..., Any]
URL = "https://updates.example.com/base"
NEVER = "19700101T00:00:00Z"
DAY = 86400.0

TOOLS = Update("tools", ("xapi-core-24.11.0-1.x86_64",), mandatory=("RestartToolstack",), summary="Tools")
MODEL = Update("model", ("qemu-2:4.2.1-5.x86_64",), recommended=("RestartDeviceModel",), full=("RestartVM",))
KERNEL = Update("kernel", ("kernel-4.19.19-8.0.38.x86_64",), mandatory=("RebootHost",), full=("RebootHost",))


def setup(calls: Make, *updates: Update, **shape: Any) -> Any:
    """A pool whose repository holds `updates`, not synced yet."""
    c = calls(**{"release": "8.4", **shape})
    c.pool.repositories.add(URL, *updates)
    c("pool.add_repository", pool_ref(c), introduce(c))
    return c


def pool_ref(c: Any) -> str:
    return str(c.pool.store.pool().ref)


def introduce(c: Any, name: str = "base", url: str = URL, *, update: bool = True) -> str:
    return str(c("Repository.introduce", name, "", url, f"{url}/source", update))


def sync(c: Any, *, force: bool = False) -> str:
    return str(c("pool.sync_updates", pool_ref(c), force))


def get_updates(c: Any, query: str = "") -> Any:
    out = answer(c.pool, c.pool.master, "GET", f"/updates?session_id={c.session}{query}", {}, b"", "http://host1")
    return json.loads(out.body) if out.status == 200 else out.status


def reboot(c: Any, host: str) -> Any:
    c("host.disable", c.host(host).ref)
    c("host.reboot", c.host(host).ref)
    c.until(lambda: c.pool.machine(host).state == "starting")
    return c.back()


def restart_toolstack(c: Any, host: str) -> Any:
    from mockserver.startup import toolstack_died, toolstack_restarted

    toolstack_died(c.pool, c.pool.machine(host))
    toolstack_restarted(c.pool, c.pool.machine(host))
    return c.back()


# --- repositories


@pytest.mark.parametrize(
    ("binary", "source", "key", "error"),
    [
        ("ftp://x/", URL, "", ["INVALID_BASE_URL", "ftp://x/"]),
        (URL, "nothing", "", ["INVALID_BASE_URL", "nothing"]),
        (URL, "https:///path", "", ["INVALID_BASE_URL", "https:///path"]),
        (URL, URL, "../key", ["INVALID_GPGKEY_PATH", "../key"]),
    ],
)
def test_a_repository_has_urls_of_the_web_and_a_plain_key(
    calls: Make, binary: str, source: str, key: str, error: list[str]
) -> None:
    c = calls(release="8.4")
    assert c.refused("Repository.introduce", "base", "", binary, source, True, key) == error
    assert c("Repository.get_all") == []


def test_a_repository_is_one_by_name_and_by_url(calls: Make) -> None:
    """One that is in use is not forgotten; its key can be set."""
    c = setup(calls)
    [ref] = c("Repository.get_all")
    for name, url in (("base", "https://other"), ("other", URL)):
        refused = c.refused("Repository.introduce", name, "", url, "https://other/source", True)
        assert refused == ["REPOSITORY_ALREADY_EXISTS", ref]
    assert c.refused("Repository.set_gpgkey_path", ref, "a/b") == ["INVALID_GPGKEY_PATH", "a/b"]
    c("Repository.set_gpgkey_path", ref, "RPM-GPG-KEY_1")
    assert c("Repository.get_gpgkey_path", ref) == "RPM-GPG-KEY_1"
    assert c.refused("Repository.forget", ref) == ["REPOSITORY_IS_IN_USE"]
    c("pool.remove_repository", pool_ref(c), ref)
    c("Repository.forget", ref)
    assert c("Repository.get_all") == []


def test_what_was_synced_is_forgotten_with_the_repositories(calls: Make) -> None:
    """One that comes has to be synced first."""
    c = setup(calls, TOOLS)
    pool, host, [ref] = c.pool.store.pool(), c.host("host1"), c("Repository.get_all")
    digest = sync(c)
    assert c("Repository.get_hash", ref) == digest and pool["last_update_sync"] == c.pool.clock.stamp()
    assert host["latest_synced_updates_applied"] == "no"
    other = introduce(c, "other", "https://other", update=False)
    c("pool.set_repositories", pool.ref, [ref, other])
    assert (c("Repository.get_hash", ref), pool["last_update_sync"]) == (digest, NEVER)
    c("pool.set_repositories", pool.ref, [])
    assert (pool["repositories"], host["latest_synced_updates_applied"]) == ([], "no"), "later releases forget that"
    c("pool.add_repository", pool.ref, ref)
    c("pool.add_repository", pool.ref, ref)
    assert (pool["repositories"], c("Repository.get_hash", ref)) == ([ref], "")
    assert get_updates(c) == 404


def test_syncing_needs_a_repository_of_updates_that_answers(calls: Make) -> None:
    c = calls(release="8.4")
    pool = c.pool.store.pool()
    ask = ("pool.sync_updates", pool.ref, False)
    assert c.refused(*ask) == ["NO_REPOSITORY_ENABLED"]
    first, second = introduce(c), introduce(c, "other", "https://other")
    c("pool.set_repositories", pool.ref, [first])
    assert c.refused(*ask) == ["REPOSYNC_FAILED"]
    source, other = c.pool.repositories.add(URL, TOOLS), c.pool.repositories.add("https://other")
    source.up = False
    assert c.refused(*ask) == ["REPOSYNC_FAILED"]
    source.up = other.up = True
    c("pool.set_repositories", pool.ref, [first, second])
    assert c.refused(*ask) == ["MULTIPLE_UPDATE_REPOSITORIES_ENABLED"]
    assert c("Repository.get_hash", first) == "" and pool["current_operations"] == {}


def test_operations_on_the_pool_exclude_each_other(calls: Make) -> None:
    c = setup(calls, TOOLS)
    task = c.start("pool.sync_updates", pool_ref(c), False)
    assert c.refused("pool.set_repositories", pool_ref(c), []) == ["SYNC_UPDATES_IN_PROGRESS"]
    assert c.refused("host.apply_updates", c.host("host1").ref, "x") == ["SYNC_UPDATES_IN_PROGRESS"]
    assert get_updates(c) == 500
    c.until(lambda: task["status"] == "success")
    assert c.pool.store.pool()["current_operations"] == {}


def test_the_digest_follows_from_what_is_published(calls: Make) -> None:
    """The same again until something new is there; what is published later comes with the next sync."""
    c = setup(calls, TOOLS)
    first = sync(c)
    assert sync(c, force=True) == first
    c.pool.repositories.by_url[URL].publish(MODEL)
    assert [update["id"] for update in get_updates(c)["updates"]] == ["tools"]
    assert sync(c) != first
    assert [update["id"] for update in get_updates(c)["updates"]] == ["tools", "model"]


# --- what hosts lack


def test_what_is_told_of_updates(calls: Make) -> None:
    """Of each host what it lacks and what that would ask for, each kind without what a stronger one contains."""
    c = setup(calls, TOOLS, MODEL, KERNEL)
    digest = sync(c)
    told = get_updates(c)
    assert told["hash"] == digest and [host["ref"] for host in told["hosts"]] == c("host.get_all")
    host = told["hosts"][0]
    assert host["RPMS"] == [
        "xapi-core-24.11.0-1.x86_64.rpm",
        "qemu-2:4.2.1-5.x86_64.rpm",
        "kernel-4.19.19-8.0.38.x86_64.rpm",
    ]
    assert host["guidance"] == {"mandatory": ["RebootHost"], "recommended": [], "full": ["RestartVM"]}
    assert host["updates"] == ["kernel", "model", "tools"]
    tools = told["updates"][0]
    assert (tools["summary"], tools["guidance"]["mandatory"]) == ("Tools", ["RestartToolstack"])
    one = c.host("host2").ref
    assert [host["ref"] for host in get_updates(c, f"&host_refs={one}")["hosts"]] == [one]
    assert get_updates(c, "&host_refs=OpaqueRef:none") == 400


def test_of_two_versions_the_newer_is_installed(calls: Make) -> None:
    """Numbers count by their value; what is installed already is not lacked."""
    old, new = Update("old", ("a-1.9-1.noarch",)), Update("new", ("a-1.10-1.noarch",))
    c = setup(calls, new, old)
    digest = sync(c)
    [first, _] = get_updates(c)["hosts"]
    assert (first["RPMS"], first["updates"]) == (["a-1.10-1.noarch.rpm"], ["new", "old"])
    c("host.apply_updates", c.host("host1").ref, digest)
    assert get_updates(c)["hosts"][0]["updates"] == []


def test_a_master_that_lost_its_copy_has_nothing_to_tell(calls: Make) -> None:
    """Whoever is master has to sync: the copy is on its own disk."""
    c = setup(calls, TOOLS)
    sync(c)
    c.pool.master.system.mirrors.clear()
    assert get_updates(c) == 404
    sync(c)
    assert get_updates(c)["hash"]


# --- installing


def test_updates_are_installed_and_ask_for_something(calls: Make) -> None:
    """The host is disabled, and stays so until what must be done is done; a restart of its toolstack does it."""
    c = setup(calls, TOOLS)
    digest, host = sync(c), c.host("host2")
    assert c("host.apply_updates", host.ref, digest) == []
    assert host["pending_guidances"] == ["restart_toolstack"] and not host["enabled"]
    assert host["latest_synced_updates_applied"] == "yes" and host["last_update_hash"] == digest
    assert host["last_software_update"] == c.pool.clock.stamp() and host["current_operations"] == {}
    refused = ["HOST_PENDING_MANDATORY_GUIDANCE_NOT_EMPTY", host.ref]
    assert c.refused("host.enable", host.ref) == c.refused("host.apply_updates", host.ref, digest) == refused
    c = restart_toolstack(c, "host2")
    assert host["pending_guidances"] == [] and host["enabled"]
    assert c.pool.machine("host2").system.installed == {"xapi-core.x86_64": "24.11.0-1"}


def test_a_reboot_does_what_a_reboot_must(calls: Make) -> None:
    """A restart of the toolstack does not; guests have to leave before."""
    c = setup(calls, KERNEL, hosts=2, vms=2)
    digest, host = sync(c), c.host("host1")
    assert c.refused("host.apply_updates", host.ref, digest) == ["HOST_EVACUATION_IS_REQUIRED", host.ref]
    assert c.pool.machine("host1").system.installed == {}
    c("host.evacuate", host.ref)
    c("host.apply_updates", host.ref, digest)
    assert (host["pending_guidances"], host["pending_guidances_full"]) == (["reboot_host"], [])
    c = restart_toolstack(c, "host1")
    assert host["pending_guidances"] == ["reboot_host"] and not host["enabled"]
    before = c.pool.machine("host1").build_id("kernel")
    c = reboot(c, "host1")
    assert host["pending_guidances"] == [] and host["enabled"]
    assert c.pool.machine("host1").build_id("kernel") != before


def test_a_mandatory_guidance_can_be_cleared_by_hand(calls: Make) -> None:
    c = setup(calls, KERNEL)
    host = c.host("host2")
    c("host.apply_updates", host.ref, sync(c))
    c("host.emergency_clear_mandatory_guidance")
    assert host["pending_guidances"] == ["reboot_host"]
    member = c.pool.machine("host2")
    local = c.pool.dispatch("session.slave_local_login_with_password", ["root", "secret"], member)
    c.pool.dispatch("host.emergency_clear_mandatory_guidance", [local], member)
    assert host["pending_guidances"] == []


def test_guests_are_asked_for_what_concerns_them(calls: Make) -> None:
    """Those on the host that have a device model to restart it; all, when the master is updated, to be restarted. What a
    guest then does is done."""
    c = setup(calls, MODEL, hosts=2, vms=6)
    host = c.host("host1")
    c("host.apply_updates", host.ref, sync(c))
    running = [vm for vm in c.pool.store.table("VM").values() if not vm["is_control_domain"]]
    asked = {vm["name_label"] for vm in running if vm["pending_guidances_recommended"] == ["restart_device_model"]}
    assert asked == {"vm03"}
    restart = {vm["name_label"] for vm in running if vm["pending_guidances_full"] == ["restart_vm"]}
    assert restart == {vm["name_label"] for vm in running if vm["power_state"] != "Halted"}
    vm = c.vm("vm03")
    c("VM.pool_migrate", vm.ref, c.host("host2").ref, {"live": "true"})
    assert (vm["pending_guidances_recommended"], vm["pending_guidances_full"]) == ([], ["restart_vm"])
    c("VM.clean_reboot", vm.ref)
    assert vm["pending_guidances_full"] == []


def test_the_master_is_updated_though_a_member_is_away(calls: Make) -> None:
    c = setup(calls, MODEL)
    digest = sync(c)
    c.pool.hands.power_off("host2")
    c("host.apply_updates", c.host("host1").ref, digest)
    assert c.pool.machine("host1").system.installed == {"qemu.x86_64": "2:4.2.1-5"}


def test_what_is_installed_is_what_was_synced(calls: Make) -> None:
    """By its digest; where high availability is on nothing is, nor on a host that stops meanwhile."""
    c = setup(calls, TOOLS)
    host = c.host("host2")
    apply = ("host.apply_updates", host.ref)
    assert c.refused(*apply, "") == c.refused(*apply, "x") == ["UPDATEINFO_HASH_MISMATCH"]
    digest = sync(c)
    c.pool.store.write(c.pool.store.pool(), ha_enabled=True)
    assert c.refused(*apply, digest) == ["HA_IS_ENABLED"]
    assert c("pool.check_update_readiness", pool_ref(c), False) == [["HA_IS_ENABLED"]]
    c.pool.store.write(c.pool.store.pool(), ha_enabled=False)
    c.pool.store.write(c.pool.store.pool(), restrictions={"restrict_updates": "true"})
    assert c.refused(*apply, digest) == ["LICENCE_RESTRICTION", "Updates"]
    c.pool.store.write(c.pool.store.pool(), restrictions={})
    task = c.start("host.apply_updates", host.ref, digest)
    c.sleep(10)
    c.pool.hands.power_off("host2")
    c.until(lambda: task["status"] == "failure")
    assert task["error_info"] == ["APPLY_UPDATES_FAILED", host.ref]
    assert c.refused(*apply, digest) == ["GET_HOST_UPDATES_FAILED", host.ref]
    assert c.pool.store.pool()["current_operations"] == {} and c.pool.machine("host2").system.installed == {}


def test_what_keeps_a_pool_from_being_updated(calls: Make) -> None:
    """Hosts that are away, and guests that could not leave where a reboot is needed."""
    c = calls(release="8.4", hosts=2, vms=2)
    ready = ("pool.check_update_readiness", pool_ref(c))
    assert c(*ready, True) == []
    c("host.disable", c.host("host2").ref)
    assert c(*ready, False) == []
    assert c(*ready, True) == [["NO_HOSTS_AVAILABLE", c.vm("vm01").ref]]
    metrics = c.pool.store.get("host_metrics", c.host("host2")["metrics"])
    c.pool.hands.power_off("host2")
    c.until(lambda: not metrics["live"])
    assert c(*ready, False) == [["HOST_OFFLINE", c.host("host2").ref]]


def test_an_upgrade_leaves_no_updates_of_the_old_release(calls: Make) -> None:
    c = setup(calls, TOOLS, hosts=1)
    c("host.apply_updates", c.host("host1").ref, sync(c))
    c = c.upgrade("host1", "8.4")
    assert (c.pool.master.system.installed, c.pool.master.system.mirrors) == ({}, {})


# --- patching what runs


def patched(c: Any, component: str, *, broken: bool = False) -> Update:
    """An update whose package comes with a patch for what runs on the first host."""
    build = c.pool.machine("host1").build_id(component)
    patch = Livepatch(component, build, "4.19.19-8.0.20", "4.19.19-8.0.22", broken=broken)
    asks = {"recommended": ("RebootHost",), "livepatch": ("RestartToolstack",)}
    return Update(f"live-{component}", (f"{component}-lp-1-1.x86_64",), livepatches=(patch,), **asks)


def test_what_runs_is_patched_instead_of_rebooted(calls: Make) -> None:
    """The host says so until it boots; what the patch asks for takes the place of what the update does."""
    c = setup(calls)
    c.pool.repositories.by_url[URL].publish(patched(c, "kernel"))
    digest, host = sync(c), c.host("host1")
    told = get_updates(c)
    assert told["hosts"][0]["guidance"]["recommended"] == ["RestartToolstack"]
    assert told["hosts"][0]["livepatches"] == told["updates"][0]["livepatches"]
    assert told["hosts"][0]["livepatches"][0]["to_release"] == "8.0.22"
    assert c("host.apply_updates", host.ref, digest) == []
    assert host["pending_guidances_recommended"] == ["restart_toolstack"]
    assert host["software_version"]["kernel_livepatches"] == "lp_4.19.19-8.0.20-4.19.19-8.0.22"
    assert get_updates(c)["hosts"][0]["livepatches"] == []
    c("host.enable", host.ref)
    c = reboot(c, "host1")
    host = c.host("host1")
    assert "kernel_livepatches" not in host["software_version"] and host["pending_guidances_recommended"] == []
    assert sync(c) and host["latest_synced_updates_applied"] == "no"


def test_a_patch_that_fails_asks_for_a_reboot(calls: Make) -> None:
    """It is no error of the whole; applied the next time, it asks no more."""
    c = setup(calls)
    c.pool.repositories.by_url[URL].publish(patched(c, "xen", broken=True))
    host = c.host("host1")
    [[code, text]] = c("host.apply_updates", host.ref, sync(c))
    assert code == "APPLY_LIVEPATCH_FAILED" and json.loads(text)["component"] == "xen"
    wanted = {"restart_toolstack", "reboot_host_on_xen_livepatch_failure"}
    assert set(host["pending_guidances_recommended"]) == wanted
    build = c.pool.machine("host1").build_id("xen")
    better = Livepatch("xen", build, "4.19.19-8.0.20", "4.19.19-8.0.23")
    c.pool.repositories.by_url[URL].publish(Update("better", ("xen-lp-1-2.x86_64",), livepatches=(better,)))
    assert c("host.apply_updates", host.ref, sync(c)) == []
    assert host["pending_guidances_recommended"] == ["restart_toolstack"]


def test_a_reboot_that_must_be_spares_the_patching(calls: Make) -> None:
    c = setup(calls, KERNEL)
    c.pool.repositories.by_url[URL].publish(patched(c, "kernel"))
    sync(c)
    found = get_updates(c)["hosts"][0]
    assert found["livepatches"] == [] and found["guidance"]["mandatory"] == ["RebootHost"]


def test_toolstacks_ask_each_other_for_the_parts(calls: Make) -> None:
    """Nobody else may: to install packages, and to apply a patch that is there."""
    c = setup(calls)
    update = patched(c, "xen")
    c.pool.repositories.by_url[URL].publish(update)
    sync(c)
    host, patch = c.host("host1"), update.livepatches[0]
    assert c.refused("Repository.apply", host.ref)[0] == "INTERNAL_ERROR"
    own = c.pool.dispatch("session.slave_login", [host.ref, c.pool.master.system.pool_secret])
    c.pool.dispatch("Repository.apply", [own, host.ref])
    assert c.pool.machine("host1").system.installed == {"xen-lp.x86_64": "1-1"}
    assert host["pending_guidances_recommended"] == []
    args = [own, host.ref, "xen", patch.base_build_id, "4.19.19", "8.0.20", "4.19.19", "8.0.22"]
    c.pool.dispatch("Repository.apply_livepatch", args)
    assert host["software_version"]["xen_livepatches"] == "lp_4.19.19-8.0.20-4.19.19-8.0.22"
    c.session = own
    assert c.refused("Repository.apply_livepatch", host.ref, "disk", *args[3:])[0] == "INTERNAL_ERROR"
    missing = ["INTERNAL_ERROR", "No expected livepatch file for xen"]
    assert c.refused("Repository.apply_livepatch", host.ref, "xen", *args[3:7], "8.0.99") == missing


def test_software_is_looked_at_again(calls: Make) -> None:
    """How the network is made is not told by what is installed."""
    c = calls(release="8.4")
    host = c.host("host1")
    right = dict(host["software_version"])
    switched = {**right, "network_backend": "bridge"}
    c.pool.store.write(host, software_version={**switched, "pack": "gone"})
    c("host.refresh_pack_info", host.ref)
    assert host["software_version"] == switched


# --- in passing


def test_a_pool_syncs_by_itself(calls: Make) -> None:
    """Each day, or on a day of the week, once that is switched on; a failure is told in a message."""
    c = calls(release="8.4")
    pool = c.pool.store.pool()
    enable = ("pool.set_update_sync_enabled", pool.ref, True)
    assert c.refused(*enable) == ["NO_REPOSITORIES_CONFIGURED"]
    source = c.pool.repositories.add(URL, TOOLS)
    c("pool.add_repository", pool.ref, introduce(c))
    c("pool.configure_update_sync", pool.ref, "daily", 0)
    c(*enable)
    c = c.again()
    c.sleep(2 * DAY)
    c = c.again()
    assert pool["last_update_sync"] == c.pool.clock.stamp()
    source.up = False
    c.sleep(2 * DAY)
    c = c.again()
    [body] = [c("message.get_record", ref)["body"] for ref in c("message.get_all")]
    assert "<exception>REPOSYNC_FAILED()</exception>" in body
    source.up = True
    last = pool["last_update_sync"]
    c("pool.set_update_sync_enabled", pool.ref, False)
    c.sleep(9 * DAY)
    c = c.again()
    assert pool["last_update_sync"] == last


def test_a_weekly_sync_waits_for_its_day(calls: Make) -> None:
    """1 December 2008 was a Monday; the first sync of a Monday is a week later, on that day or the night after."""
    c = setup(calls, TOOLS)
    pool = c.pool.store.pool()
    c("pool.configure_update_sync", pool.ref, "weekly", 1)
    c("pool.set_update_sync_enabled", pool.ref, True)
    c = c.again()
    c.sleep(6.5 * DAY)
    c = c.again()
    assert pool["last_update_sync"] == NEVER
    c.sleep(2 * DAY)
    c = c.again()
    assert pool["last_update_sync"] == c.pool.clock.stamp()


# --- what a test may put up


def test_an_update_that_could_not_be_is_refused() -> None:
    with pytest.raises(ValueError, match="asks for 'Pray'"):
        Update("u", ("a-1-1.noarch",), mandatory=("Pray",))
    with pytest.raises(ValueError, match="package 'a'"):
        Update("u", ("a",))
    with pytest.raises(ValueError, match="not for 'disk'"):
        Livepatch("disk", "b", "1-1", "1-2")
    with pytest.raises(ValueError, match="version-release"):
        Livepatch("xen", "b", "1", "1-2")


def test_repositories_and_updates_have_names_of_their_own(calls: Make) -> None:
    c = setup(calls, TOOLS)
    with pytest.raises(ValueError, match="repository at https"):
        c.pool.repositories.add(URL)
    with pytest.raises(ValueError, match="same id: tools, tools"):
        c.pool.repositories.by_url[URL].publish(TOOLS)
