"""What support asks of hosts, what is measured of them, their own networking, and what they do for all of their guests."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any
from xml.etree import ElementTree as ET

import pytest

Make = Callable[..., Any]
NULL = "OpaqueRef:NULL"


@pytest.fixture
def c(calls: Make) -> Any:
    return calls(release="8.2", hosts=2, vms=4)


def toolstack(c: Any, method: str, *args: Any, on: str = "host2") -> Any:
    """Call the master as the toolstack of a host does."""
    own = c.pool.dispatch("session.slave_login", [c.host(on).ref, c.pool.master.system.pool_secret])
    return c.pool.dispatch(
        method, [own, *args], c.pool.machine(on) if method == "host.signal_networking_change" else None
    )


# --- the hypervisor


def test_debug_keys_make_the_hypervisor_talk(c: Any) -> None:
    """What it said stays until the host boots; keys that it does not know say nothing."""
    host, machine = c.host("host1").ref, c.pool.machine("host1")
    c("host.send_debug_keys", host, "qZh")
    text = c("host.dmesg", host)
    assert "(XEN) 'q' pressed -> dump domain (and guest debug) info\n" in text and "'Z'" not in text
    for uuid, domain in machine.domains.items():
        assert f"(XEN) General information for domain {domain.domid}:\n(XEN)     handle={uuid} running" in text
    assert "(XEN)  key 'q' (ascii '71') =>" in text
    assert "(XEN) System RAM: 65536MB" in c("host.dmesg", c.host("host2").ref)
    c.pool.hands.power_off("host1")
    c.pool.hands.power_on("host1")
    assert "'q'" not in c.back()("host.dmesg", host)


@pytest.mark.parametrize(
    ("method", "details"),
    [
        ("host.get_log", ["NOT_IMPLEMENTED", "get_log"]),
        ("host.dmesg_clear", ["NOT_IMPLEMENTED", "dmesg_clear"]),
        ("host.list_methods", ["NOT_IMPLEMENTED", "list_method"]),
        ("host.set_sched_gran", ["OPERATION_NOT_ALLOWED", "Disabled by xapi.conf"]),
    ],
)
def test_what_xapi_does_not_do_is_refused_in_its_words(calls: Make, method: str, details: list[str]) -> None:
    """Once the host has been reached."""
    c = calls(release="8.4")
    more = ["core"] if method == "host.set_sched_gran" else []
    args = [] if method == "host.list_methods" else [c.host("host2").ref, *more]
    assert c.refused(method, *args) == details
    c.pool.hands.power_off("host2")
    if args:
        assert c.refused(method, *args) == ["CANNOT_CONTACT_HOST", args[0]]


def test_small_questions_have_answers(calls: Make) -> None:
    """Those to which every host has the same answer here, the overhead of its memory apart."""
    c = calls(release="8.4")
    host = c.host("host2").ref
    assert c("host.get_sched_gran", host) == "cpu"
    assert c("host.get_uncooperative_resident_VMs", host) == []
    assert c("host.get_diagnostic_timing_stats", host) == {}
    assert str(c("host.get_server_localtime", host)) + "Z" == str(c("host.get_servertime", host))
    c.pool.store.write(c.host("host2"), memory_overhead=7 << 20)
    assert c("host.compute_memory_overhead", host) == 7 << 20
    assert toolstack(c, "host.get_uncooperative_domains", host) == []


# --- storage and threads


def test_storage_tells_which_disks_are_in_use(c: Any) -> None:
    """By which paths; a path that is not there is destroyed already, one that is in use is left alone."""
    host, vm = c.host("host1"), c.vm("vm01")
    disk = c.pool.store.get("VDI", c.vbd("vm01", "0")["VDI"])
    path = f"vbd/{vm['domid']}/xvda"
    text = c("host.get_sm_diagnostics", host.ref)
    assert f"        VDI {disk['uuid']}\n            DP: {path}\n" in text
    assert text.count("    SR ") == sum(c("PBD.get_currently_attached", pbd) for pbd in host["PBDs"])
    assert c.refused("host.sm_dp_destroy", host.ref, path, False)[0] == "NOT_IMPLEMENTED"
    c("VM.hard_shutdown", vm.ref)
    assert path not in c("host.get_sm_diagnostics", host.ref)
    assert c("host.sm_dp_destroy", host.ref, path, False) == ""


def test_threads_are_the_tasks_that_go_on(c: Any) -> None:
    task = c.start("VM.clean_shutdown", c.vm("vm01").ref)
    host = c.pool.store.pool()["master"]
    text = c("host.get_thread_diagnostics", host)
    assert text.startswith("digraph Resources {") and f'"{task.ref}" [label="Async.VM.clean_shutdown"]' in text
    c.sleep(120)
    assert task.ref not in c("host.get_thread_diagnostics", host)


# --- reports


def test_a_report_leaves_the_pool(c: Any) -> None:
    """To the URL that is given; what it may hold can be asked for before."""
    host = c.host("host2").ref
    assert c.refused("host.bugreport_upload", host, "", {}) == ["INVALID_VALUE", "url", ""]
    c("host.bugreport_upload", host, "ftp://support/", {})
    assert c.pool.uploads == (("bug-report-host2.tar.bz2", "ftp://support/"),)
    root = ET.fromstring(c("host.get_system_status_capabilities", host))  # noqa: S314 - it is our own
    parts = {part.attrib["key"]: part.attrib for part in root}
    assert parts["xenserver-logs"]["default-checked"] == "yes" and parts["vncterm"]["max-size"] == "-1"


def test_a_host_without_a_master_tells_what_a_report_may_hold(c: Any) -> None:
    """It is one of the few calls that are answered in emergency mode."""
    host, machine = c.host("host2"), c.pool.machine("host2")
    c.pool.hands.power_off("host1")
    c.sleep(60)
    assert machine.xapi.mode == "emergency"
    session = c.pool.dispatch("session.slave_local_login_with_password", ["root", "secret"], machine)
    text = c.pool.dispatch("host.get_system_status_capabilities", [session, host.ref], machine)
    assert "xenserver-config" in text


def test_log_messages_go_where_the_host_was_told(c: Any) -> None:
    """Once it looks at what it was told; an installation keeps it."""
    host, machine = c.host("host2"), c.pool.machine("host2")
    c("host.set_logging", host.ref, {"syslog_destination": "10.7.7.7"})
    assert machine.system.syslog == ""
    c("host.syslog_reconfigure", host.ref)
    assert machine.system.syslog == "10.7.7.7"
    c("host.set_logging", host.ref, {})
    c("host.syslog_reconfigure", host.ref)
    assert machine.system.syslog == ""


# --- measures


def test_a_host_is_measured(c: Any) -> None:
    """By sources of its processors, memory and cards; those that are off are not to be asked."""
    host = c.host("host1")
    sources = {source["name_label"]: source for source in c("host.get_data_sources", host.ref)}
    assert {"cpu0", "cpu_avg", "memory_free_kib", "pif_eth0_rx"} <= set(sources)
    total = c("host.query_data_source", host.ref, "memory_total_kib")
    assert total == c.pool.machine("host1").memory / 1024
    free = c("host.query_data_source", host.ref, "memory_free_kib")
    c("VM.hard_shutdown", c.vm("vm01").ref)
    assert free < c("host.query_data_source", host.ref, "memory_free_kib") < total
    c("host.forget_data_source_archives", host.ref, "cpu0")
    gone = ["INTERNAL_ERROR", 'Rrd.Invalid_data_source("cpu0")']
    assert c.refused("host.query_data_source", host.ref, "cpu0") == gone
    c("host.record_data_source", host.ref, "cpu0")
    assert 0 < c("host.query_data_source", host.ref, "cpu0") <= 1
    assert c.refused("host.record_data_source", host.ref, "x")[0] == "INTERNAL_ERROR"


def test_storage_is_not_measured(c: Any) -> None:
    """No plugin here says anything, so there is nothing to record, ask or forget."""
    sr = c.row("SR", "NFS virtual disk storage").ref
    for message in ("record_data_source", "query_data_source", "forget_data_source_archives"):
        assert c.refused(f"SR.{message}", sr, "io") == ["INTERNAL_ERROR", 'Rrd.Invalid_data_source("io")']


def test_measures_are_put_away_after_a_while(c: Any) -> None:
    """Unless the host went down meanwhile."""
    host, machine = c.host("host2").ref, c.pool.machine("host2")
    c("host.backup_rrds", host, 30.0)
    assert machine.system.archived_at == 0.0
    c.sleep(31)
    first = machine.system.archived_at
    assert first == c.pool.clock.now() - 1
    c("host.backup_rrds", host, 30.0)
    c.pool.hands.power_off("host2")
    c.sleep(31)
    assert machine.system.archived_at == first


def test_a_member_is_given_the_blobs_again(c: Any) -> None:
    """The master has them anyway, and one that keeps none is left alone."""
    master, member = c.host("host1"), c.host("host2")
    c("host.sync_data", master.ref)
    c("host.sync_data", member.ref)
    assert "last_blob_sync_time" not in master["other_config"]
    assert member["other_config"]["last_blob_sync_time"] == f"{c.pool.clock.now():.0f}."
    c("host.set_other_config", member.ref, {"no_local_storage": "true"})
    c("host.sync_data", member.ref)
    assert "last_blob_sync_time" not in member["other_config"]


# --- networking


def pif_of(c: Any, host: str, device: str = "eth0") -> Any:
    rows = c.pool.store.table("PIF").values()
    return next(row for row in rows if row["host"] == c.host(host).ref and row["device"] == device and row["VLAN"] < 0)


def test_resetting_a_hosts_network_forgets_it(c: Any) -> None:
    """With all that was built on its cards; the other host keeps its own, and a scan finds the cards again."""
    store, host = c.pool.store, c.host("host2")
    network = c("network.create", {"name_label": "v7", "other_config": {}})
    mine = c("VLAN.create", pif_of(c, "host2").ref, 7, network)
    other = c("VLAN.create", pif_of(c, "host1").ref, 7, network)
    c("host.reset_networking", host.ref)
    assert host["PIFs"] == [] and list(store.table("VLAN")) == [other] and mine != other
    assert len(store.table("PIF")) == 2 and len(store.table("PIF_metrics")) <= 1
    c("PIF.scan", host.ref)
    assert [store.get("PIF", ref)["device"] for ref in host["PIFs"]] == ["eth0"]


def test_a_host_notices_its_new_address(c: Any) -> None:
    """Only its own toolstack may say so."""
    host, machine = c.host("host2"), c.pool.machine("host2")
    assert c.refused("host.signal_networking_change", on="host2")[0] == "INTERNAL_ERROR"
    machine.address = "10.3.3.3"
    toolstack(c, "host.signal_networking_change")
    assert (host["address"], pif_of(c, "host2")["IP"]) == ("10.3.3.3", "10.3.3.3")


def test_a_member_gets_the_masters_vlans_and_tunnels(c: Any) -> None:
    """Those that it lacks, on its own cards; asking again changes nothing."""
    store = c.pool.store
    for row in store.table("host").values():
        store.write(row, software_version={**row["software_version"], "network_backend": "openvswitch"})
    vlan, tunnel = (c("network.create", {"name_label": name, "other_config": {}}) for name in ("vlan", "tunnel"))
    c("VLAN.create", pif_of(c, "host1").ref, 7, vlan)
    c("tunnel.create", pif_of(c, "host1").ref, tunnel)
    for _ in range(2):
        toolstack(c, "host.sync_vlans", c.host("host2").ref)
        toolstack(c, "host.sync_tunnels", c.host("host2").ref)
        assert (len(store.table("VLAN")), len(store.table("tunnel"))) == (2, 2)
    made = [row for row in store.table("PIF").values() if row["host"] == c.host("host2").ref and row["network"] == vlan]
    assert [(row["VLAN"], row["device"], row["currently_attached"]) for row in made] == [(7, "eth0", False)]


def test_attached_is_what_has_its_bridge(c: Any) -> None:
    """A member says which bridges it has when it starts."""
    pif, host = pif_of(c, "host2"), c.host("host2").ref
    toolstack(c, "host.sync_pif_currently_attached", host, [])
    assert not pif["currently_attached"]
    toolstack(c, "host.sync_pif_currently_attached", host, ["xenbr0", "xapi1"])
    assert pif["currently_attached"] and pif_of(c, "host1")["currently_attached"]


# --- guests


def test_agents_are_told_what_the_pool_wants(c: Any) -> None:
    """On every host at once, on one that was away when it comes back, or when somebody asks for it."""
    pool, machines = c.pool.store.pool(), c.pool.machines
    c.pool.hands.power_off("host2")
    c("pool.add_to_guest_agent_config", pool.ref, "auto_update_enabled", "true")
    assert [machine.guest_agents for machine in machines] == [{"auto_update_enabled": "true"}, {}]
    c.pool.hands.power_on("host2")
    c = c.back()
    assert machines[1].guest_agents == {"auto_update_enabled": "true"}
    machines[1].guest_agents = {}
    c("host.apply_guest_agent_config", c.host("host2").ref)
    assert machines[1].guest_agents == {"auto_update_enabled": "true"}
    c("pool.remove_from_guest_agent_config", pool.ref, "auto_update_enabled")
    assert [machine.guest_agents for machine in machines] == [{}, {}]


def test_a_place_is_kept_for_a_vm(c: Any) -> None:
    """It counts as memory taken."""
    host, vm = c.host("host2").ref, c.vm("vm04")
    free = c("host.compute_free_memory", host)
    c("host.allocate_resources_for_vm", host, vm.ref, False)
    assert vm["scheduled_to_be_resident_on"] == host
    assert c("host.compute_free_memory", host) <= free - vm["memory_dynamic_min"]


def test_a_host_on_its_way_down_stays_disabled(c: Any) -> None:
    """Its guests are elsewhere, its storage is unplugged, and nobody can enable it before it has booted."""
    host, machine = c.host("host2"), c.pool.machine("host2")
    c("host.disable", host.ref)
    c("host.prepare_for_poweroff", host.ref)
    assert machine.domains == {} and c.vm("vm02")["resident_on"] == c.host("host1").ref
    assert not any(c("PBD.get_currently_attached", pbd) for pbd in host["PBDs"])
    assert c.refused("host.enable", host.ref) == ["HOST_DISABLED_UNTIL_REBOOT"]
    c("host.restart_agent", host.ref)
    c.sleep(5)
    c.until(lambda: machine.xapi.complete)
    assert not host["enabled"], "a toolstack that starts anew does not enable it either"
    c("host.reboot", host.ref)
    c.until(lambda: not machine.answers)
    c.until(lambda: machine.xapi.complete)
    assert host["enabled"] and all(c("PBD.get_currently_attached", pbd) for pbd in host["PBDs"])
    assert c.unharmed()


@pytest.mark.parametrize(("used", "limit"), [(1 << 30, 240), (64 << 30, 64 * 8 * 1024 / 1000)])
def test_an_evacuation_on_the_way_down_has_its_time(c: Any, used: int, limit: float) -> None:
    """Four minutes, or more where much memory is in use; then it is cancelled, and the guests are shut down."""
    host, machine = c.host("host2"), c.pool.machine("host2")
    metrics = c.pool.store.get("host_metrics", host["metrics"])
    guests = [
        vm for vm in c.pool.store.table("VM").values() if vm["resident_on"] == host.ref and not vm["is_control_domain"]
    ]
    c.pool.durations = replace(c.pool.durations, migrate_rate=1.0)
    c.pool.store.write(metrics, memory_total=used + metrics["memory_free"])
    c("host.disable", host.ref)
    now = c.pool.clock.now()
    c("host.prepare_for_poweroff", host.ref)
    assert limit <= c.pool.clock.now() - now < limit + 120
    assert guests and all(vm["power_state"] == "Halted" and not vm["current_operations"] for vm in guests)
    assert machine.domains == {}
    assert {task["status"] for task in c.pool.store.table("task").values()} <= {"cancelled"}
    assert c.unharmed()


def test_a_disc_in_a_hosts_drive_is_noticed(c: Any) -> None:
    """By guests whose drive shows that of the host; what else is told changes nothing."""
    store = c.pool.store
    sr = store.create("SR", c.pool.new_ref(), {"uuid": c.pool.new_uuid(), "type": "udev"})
    made = {"uuid": c.pool.new_uuid(), "SR": sr.ref, "location": "/dev/sr0"}
    vdi = store.create("VDI", c.pool.new_ref(), made)
    drive = c.vbd("vm04", "3")
    store.write(drive, VDI=vdi.ref, empty=True)
    for kind, what in (("cdrom", "ejected:/dev/sr0"), ("cdrom", "inserted:/dev/sr1"), ("disk", "inserted:/dev/sr0")):
        toolstack(c, "host.notify", kind, what)
        assert drive["empty"]
    toolstack(c, "host.notify", "cdrom", "inserted:/dev/sr0")
    assert (drive["empty"], drive["VDI"]) == (False, vdi.ref)
