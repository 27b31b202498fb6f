"""Joining a pool: the checks in their order, what a host brings, and a failed member that comes back as a new one."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

import xenctl
from mockserver import MockPool, PoolServer, Trace
from xenctl.errors import Failure
from xenctl.releases import find

Make = Callable[..., Any]
MASTER = ("10.0.0.1", "root", "secret")
RELEASES = ("4.0.1", "5.0", "6.2", "7.0", "8.4")


def login(pool: MockPool, address: str) -> xenctl.Session:
    return xenctl.connect(f"http://{address}", "root", "secret", transport=pool.transport())


def bare(c: Any, **options: Any) -> Any:
    """A session with a host beside the pool that may join: it has no guests and no shared storage."""
    before = {m.name for m in c.pool.world.machines}
    c.pool.neighbour(**options)
    d = c.of(next(m.name for m in c.pool.world.machines if m.name not in before))
    for sr in [sr for sr in d.pool.store.table("SR").values() if sr["shared"]]:
        for vm in list(d.pool.store.table("VM").values()):
            for vbd in d.pool.vbds(vm):
                if not vbd["empty"] and d.pool.store.get("VDI", vbd["VDI"])["SR"] == sr.ref:
                    d("VBD.destroy" if vm["power_state"] == "Halted" else "VBD.unplug", vbd.ref)
        for pbd in sr["PBDs"]:
            d("PBD.unplug", pbd)
        d("SR.forget", sr.ref)
    return d


def rest(c: Any, host: str) -> Any:
    """Wait until a host has joined and is complete."""
    machine = c.pool.machine(host)
    c.until(lambda: machine.pool is c.pool and machine.xapi.mode == "member" and machine.xapi.complete)
    return c.host(host)


# --- a host that joins


@pytest.mark.parametrize("release", RELEASES)
def test_a_host_that_joins_is_a_member_like_the_others(calls: Make, release: str) -> None:
    """Enabled, live, connected to the shared storage as the master is, known by its uuid; its own pool is no more."""
    c = calls(hosts=2, vms=4, release=release)
    d = bare(c)
    old = d.pool
    machine = c.pool.machine("host3")
    uuid = machine.system.installation_uuid
    d("pool.join", *MASTER)
    assert d("pool.get_all"), "the old toolstack answers until its fuse has burnt down"
    host = rest(c, "host3")
    assert (host["uuid"], host["enabled"]) == (uuid, True)
    assert c("host_metrics.get_live", host["metrics"])
    mine, masters = (
        {
            (pbd["SR"], pbd["device_config"]["location"])
            for pbd in (c.pool.store.get("PBD", ref) for ref in c.host(name)["PBDs"])
            if c.pool.store.get("SR", pbd["SR"])["shared"]
        }
        for name in ("host3", "host1")
    )
    assert mine == masters
    assert all(c("PBD.get_currently_attached", pbd) for pbd in host["PBDs"])
    assert [c("PIF.get_network", pif) for pif in host["PIFs"]] == [c("PIF.get_network", c.host("host1")["PIFs"][0])]
    assert old.machines == []
    assert c.pool.world.pools == [c.pool]
    assert machine.system.pool_secret == c.pool.machine("host1").system.pool_secret
    with pytest.raises(Failure, match="HOST_IS_SLAVE"):
        c.pool.dispatch("session.login_with_password", ["root", "secret"], machine)
    c("VM.start_on", c.vm("vm04").ref, host.ref, False, False)
    assert c.unharmed()


def test_what_a_host_has_comes_with_it(calls: Make) -> None:
    """Halted VMs, disks and local storage keep their uuids, what is on them stays; networks of its own get free bridges."""
    c = calls(hosts=1, vms=2, release="8.2")
    d = c.of(c.pool.neighbour(vms=1).machines[0].name)
    local = d.row("SR", "Local storage on host2")
    like = {"virtual_size": 1 << 30, "type": "user", "sharable": False, "read_only": False, "other_config": {"a": "b"}}
    vdi = d("VDI.create", {**like, "SR": local.ref, "name_label": "kept"})
    vm = d.vm("vm03")
    own = d("network.create", {"name_label": "own", "other_config": {}})
    there = c("network.create", {"name_label": "there", "other_config": {}})
    assert d("network.get_bridge", own) == c("network.get_bridge", there) == "xapi0"
    d("VIF.create", {**d("VIF.get_record", vm["VIFs"][0]), "network": own, "device": "1", "MAC": ""})
    d("VM.hard_shutdown", vm.ref)
    for vbd in d.pool.vbds(vm):
        d("VBD.destroy", vbd.ref)
    device = {
        "VM": vm.ref,
        "VDI": vdi,
        "userdevice": "0",
        "mode": "RW",
        "type": "Disk",
        "bootable": True,
        "empty": False,
    }
    d("VBD.create", {**device, "other_config": {}, "qos_algorithm_type": "", "qos_algorithm_params": {}})
    for sr in [sr for sr in d.pool.store.table("SR").values() if sr["shared"]]:
        for pbd in sr["PBDs"]:
            d("PBD.unplug", pbd)
        d("SR.forget", sr.ref)
    uuids = vm["uuid"], d("VDI.get_uuid", vdi), local["uuid"]
    d("pool.join", *MASTER)
    rest(c, "host2")
    moved, disk, sr = c.vm("vm03"), c.row("VDI", "kept"), c.row("SR", "Local storage on host2")
    assert (moved["uuid"], disk["uuid"], sr["uuid"]) == uuids
    assert (moved["power_state"], disk["SR"], sr["shared"], disk["other_config"]) == (
        "Halted",
        sr.ref,
        False,
        {"a": "b"},
    )
    assert [vbd["VDI"] for vbd in c.pool.vbds(moved)] == [disk.ref]
    networks = {
        c("network.get_name_label", c("VIF.get_network", vif)): c("VIF.get_network", vif) for vif in moved["VIFs"]
    }
    assert set(networks) == {"own", "Pool-wide network associated with eth0"}
    assert c("network.get_bridge", networks["own"]) not in ("xapi0", "")
    assert networks["Pool-wide network associated with eth0"] == c("VIF.get_network", c.vm("vm01")["VIFs"][0])
    c("VM.start", moved.ref, False, False)
    assert c("VM.get_resident_on", moved.ref) == c.host("host2").ref
    assert c.unharmed()


def test_bonds_and_vlans_of_the_master_are_made_on_a_new_member(calls: Make) -> None:
    """On cards of the same names."""
    c = calls(hosts=1, release="8.2")
    c.pool.neighbour()
    for name in ("host1", "host2"):
        machine, d = c.pool.machine(name), c.of(name)
        machine.nics = (*machine.nics, *((f"eth{n}", f"00:16:3e:cc:{machine.name[-1]}0:0{n}") for n in (1, 2)))
        d("PIF.scan", d.host(name).ref)
    pifs = {pif["device"]: pif.ref for pif in c.pool.store.table("PIF").values()}
    bonded, tagged = (c("network.create", {"name_label": name, "other_config": {}}) for name in ("bonded", "tagged"))
    c("Bond.create", bonded, [pifs["eth1"], pifs["eth2"]], "", "balance-slb")
    c("VLAN.create", pifs["eth0"], 7, tagged)
    d = c.of("host2")
    for sr in [sr for sr in d.pool.store.table("SR").values() if sr["shared"]]:
        d("PBD.unplug", sr["PBDs"][0])
        d("SR.forget", sr.ref)
    d("pool.join", *MASTER)
    host = rest(c, "host2")
    c.sleep(60)
    there = {c("PIF.get_network", pif): pif for pif in host["PIFs"]}
    assert {bonded, tagged} <= set(there)
    assert c("PIF.get_VLAN", there[tagged]) == 7
    assert len(c("Bond.get_slaves", c("PIF.get_bond_master_of", there[bonded])[0])) == 2


def test_join_as_a_task_is_done_before_the_toolstack_restarts(calls: Make) -> None:
    """Whoever waits for the task hears of its success on the joining host."""
    c = calls(hosts=1, release="8.2")
    d = bare(c)
    with login(c.pool, "10.0.0.2") as session:
        session.Async.pool.join(*MASTER).wait(timeout=60)
    assert c.pool.machine("host2").pool is d.pool
    rest(c, "host2")


def test_power_lost_while_the_fuse_burns_does_not_undo_a_join(calls: Make) -> None:
    """The files are written: the next start is that of a member."""
    c = calls(hosts=1, release="8.2")
    bare(c)("pool.join", *MASTER)
    c.pool.hands.power_off("host2")
    c.sleep(60)
    c.pool.hands.power_on("host2")
    assert rest(c, "host2")["enabled"]


def test_a_host_joins_over_sockets() -> None:
    """Its port is open before and after; then it leads to the master."""
    pool = MockPool.create(hosts=2, vms=2, release="8.2")
    (machine,) = pool.neighbour().machines
    with PoolServer(pool, time_scale=10) as server:  # the answer comes long before the fuse has burnt down
        first, *_, last = (host["url"] for host in server.hosts())
        with xenctl.connect(last, "root", "secret") as session:
            for sr in [ref for ref, sr in session.SR.get_all_records().items() if sr.shared]:
                session.PBD.unplug(session.SR.get_PBDs(sr)[0])
                session.SR.forget(sr)
            session.pool.join(pool.master.address, "root", "secret")
        with pool.guard():
            pool.clock.run_until(pool.clock.now() + 600, lambda: machine.pool is pool and machine.xapi.complete)
        with xenctl.connect(last, "root", "secret") as session:
            assert len(session.host.get_all()) == 3
            assert session.origin == first


def test_a_join_is_taken_back(calls: Make, picture: Any) -> None:
    """Both pools are as they were, each with its hosts; a copy of the world made meanwhile has the one pool."""
    c = calls(hosts=2, vms=3, release="8.2")
    d = bare(c)
    before = picture(c.pool), picture(d.pool)
    with c.pool.savepoint():
        d("pool.join", *MASTER)
        rest(c, "host3")
        copy = c.pool.fork()
        assert [m.name for m in copy.machines] == ["host1", "host2", "host3"]
        assert copy.world.pools == [copy]
    assert (picture(c.pool), picture(d.pool)) == before
    d("pool.join", *MASTER)
    assert rest(c, "host3")["enabled"]


def test_a_trace_tells_of_the_calls_that_a_joining_host_makes(calls: Make) -> None:
    """A trace is of one pool: that of the pool has the login and what was asked, without secrets."""
    c = calls(hosts=1, release="8.2")
    d = bare(c)
    with Trace(c.pool) as trace:
        d("pool.join", *MASTER)
    assert [r.method for r in trace if r.method.startswith(("session.", "pool."))] == [
        "session.login_with_password",
        "pool.initial_auth",
        "session.logout",
    ]
    assert c.pool.master.system.pool_secret not in str([str(r) for r in trace])


def test_a_trace_of_the_joining_host_hides_the_password(calls: Make) -> None:
    """It is an argument of the call."""
    c = calls(hosts=1, release="8.2")
    d = bare(c)
    with Trace(d.pool) as trace:
        d("pool.join", *MASTER)
    (record,) = [r for r in trace if r.method == "pool.join"]
    assert "10.0.0.1" in str(record.arguments)
    assert "secret" not in str(record.arguments)


# --- why it may not


def test_the_login_at_the_master_tells_what_is_wrong_with_the_address_or_the_password(calls: Make) -> None:
    """A name that leads nowhere, a host that is off, a member, a wrong password, a master in an emergency."""
    c = calls(hosts=2, release="8.2")
    d = bare(c)
    assert d.refused("pool.join", "10.9.9.9", "root", "secret") == ["JOINING_HOST_CONNECTION_FAILED"]
    assert d.refused("pool.join", "host2", "root", "secret") == ["HOST_IS_SLAVE", "10.0.0.1"]
    assert d.refused("pool.join", "10.0.0.1", "root", "x")[:2] == ["SESSION_AUTHENTICATION_FAILED", "root"]
    c.pool.hands.power_off("host1")
    assert d.refused("pool.join", *MASTER) == ["JOINING_HOST_CONNECTION_FAILED"]
    assert d.refused("pool.join", "host2", "root", "secret")[0] == "HOST_STILL_BOOTING"


def set_here(table: str, **fields: Any) -> Callable[[Any, Any], None]:
    """Write fields of the only row of a table of the joining host's database."""

    def do(c: Any, d: Any) -> None:
        d.pool.store.write(next(iter(d.pool.store.table(table).values())), **fields)

    return do


def set_there(table: str, **fields: Any) -> Callable[[Any, Any], None]:
    """Write fields of all rows of a table of the pool's database."""

    def do(c: Any, d: Any) -> None:
        for row in list(c.pool.store.table(table).values()):
            c.pool.store.write(row, **fields)

    return do


def software(**more: str) -> Callable[[Any, Any], None]:
    """The joining host's software as it is, but for some of what it tells."""

    def do(c: Any, d: Any) -> None:
        (host,) = d.pool.store.table("host").values()
        d.pool.store.write(host, software_version={**host["software_version"], **more})

    return do


def added(table: str, *, there: bool = False, **fields: Any) -> Callable[[Any, Any], None]:
    """A row in the joining host's database, or in the pool's."""

    def do(c: Any, d: Any) -> None:
        pool = (c if there else d).pool
        host = next(iter(pool.store.table("host")))
        told = {name: host if value == "HOST" else value for name, value in fields.items()}
        pool.store.create(table, pool.new_ref(), {"uuid": pool.new_uuid(), **told})

    return do


def restrict(key: str) -> Callable[[Any, Any], None]:
    """A licence of the joining host that takes something away."""

    def do(c: Any, d: Any) -> None:
        store = d.pool.store
        store.write(store.pool(), restrictions={key: "true"})

    return do


def vlan(*, management: bool) -> Callable[[Any, Any], None]:
    """A VLAN on the joining host's card, and whether the host is managed by it."""

    def do(c: Any, d: Any) -> None:
        network = d("network.create", {"name_label": "tagged", "other_config": {}})
        (card,) = d.pool.store.table("PIF").values()
        made = d("VLAN.create", card.ref, 7, network)
        if management:
            d.pool.store.write(card, management=False)
            d.pool.store.write(d.pool.store.get("PIF", d("VLAN.get_untagged_PIF", made)), management=True)

    return do


def clustered(c: Any, d: Any) -> None:
    """A cluster of the pool that takes in every host, on a network on which the joining host has no address."""
    store = c.pool.store
    pif, host = next(iter(store.table("PIF"))), next(iter(store.table("host")))
    fields = {"uuid": c.pool.new_uuid(), "pool_auto_join": True, "current_operations": {}}
    cluster = store.create("Cluster", c.pool.new_ref(), fields)
    fields = {"uuid": c.pool.new_uuid(), "cluster": cluster.ref, "host": host, "PIF": pif, "enabled": False}
    store.create("Cluster_host", c.pool.new_ref(), fields)
    d.pool.store.write(next(iter(d.pool.store.table("PIF").values())), IP="")


CASES: list[tuple[str, Callable[[Any, Any], None], list[str]]] = [
    ("pooling is not licensed", restrict("restrict_pooling"), ["LICENCE_RESTRICTION"]),
    ("the size is restricted", restrict("restrict_pool_size"), ["LICENCE_RESTRICTION", "Pool_size"]),
    ("no management interface", set_here("PIF", management=False), ["HOST_STILL_BOOTING"]),
    ("HA is on here", set_here("pool", ha_enabled=True), ["HA_IS_ENABLED"]),
    ("a cluster here", added("Cluster_host", host="HOST", enabled=True), ["CLUSTERING_ENABLED", "*"]),
    ("HA is on there", set_there("pool", ha_enabled=True), ["HA_IS_ENABLED"]),
    ("other hosts here", added("host"), ["JOINING_HOST_CANNOT_BE_MASTER_OF_OTHER_HOSTS"]),
    ("a guest runs", added("VM", power_state="Running"), ["JOINING_HOST_CANNOT_HAVE_RUNNING_VMS"]),
    (
        "a guest is busy",
        added("VM", power_state="Halted", current_operations={"x": "clone"}),
        ["JOINING_HOST_CANNOT_HAVE_VMS_WITH_CURRENT_OPERATIONS"],
    ),
    ("another platform", software(platform_version="1.0"), ["HOSTS_NOT_COMPATIBLE"]),
    ("another brand", software(product_brand="XCP-ng"), ["HOSTS_NOT_COMPATIBLE"]),
    ("another toolstack", software(xapi="9.9"), ["HOSTS_NOT_HOMOGENEOUS", "Software version differs"]),
    (
        "another maker of CPUs",
        set_here("host", cpu_info={"vendor": "AuthenticAMD"}),
        ["HOSTS_NOT_HOMOGENEOUS", "CPUs differ"],
    ),
    ("shared storage", added("SR", type="nfs", shared=True), ["JOINING_HOST_CANNOT_CONTAIN_SHARED_SRS"]),
    ("a bond", added("Bond"), ["POOL_JOINING_HOST_HAS_BONDS"]),
    ("a tunnel", added("tunnel"), ["POOL_JOINING_HOST_HAS_TUNNELS"]),
    ("SR-IOV", added("network_sriov"), ["POOL_JOINING_HOST_HAS_NETWORK_SRIOVS"]),
    ("a VLAN", vlan(management=False), ["POOL_JOINING_HOST_HAS_NON_MANAGEMENT_VLANS"]),
    ("managed on a VLAN", vlan(management=True), ["POOL_JOINING_HOST_MANAGEMENT_VLAN_DOES_NOT_MATCH", "7", "-1"]),
    ("another directory", set_here("host", external_auth_type="AD"), ["POOL_JOINING_EXTERNAL_AUTH_MISMATCH"]),
    (
        "another edition",
        set_there("host", edition="standard-per-socket"),
        ["LICENSE_HOST_POOL_MISMATCH", 'host edition = "premium-per-socket"', 'pool edition = "standard-per-socket"'],
    ),
    (
        "an edition that nobody knows",
        set_there("host", edition="golden"),
        ["LICENSE_HOST_POOL_MISMATCH", 'Edition "golden" from pool is not known to v6d.'],
    ),
    ("another switch", software(network_backend="bridge"), ["OPERATION_NOT_ALLOWED", "Network backends differ"]),
    (
        "another API",
        set_here("host", API_version_minor=1),
        ["POOL_JOINING_HOST_MUST_HAVE_SAME_API_VERSION", "2.1", "2.21"],
    ),
    ("another schema", software(db_schema="5.1"), ["POOL_JOINING_HOST_MUST_HAVE_SAME_DB_SCHEMA", "5.1", "*"]),
    (
        "another kind of address",
        set_here("PIF", primary_address_type="IPv6"),
        ["OPERATION_NOT_ALLOWED", "Primary address type differs"],
    ),
    (
        "TLS is verified there",
        set_there("pool", tls_verification_enabled=True),
        ["POOL_JOINING_HOST_TLS_VERIFICATION_MISMATCH"],
    ),
    ("updates here", set_here("pool", current_operations={"x": "apply_updates"}), ["NOT_SUPPORTED_DURING_UPGRADE"]),
    ("updates there", set_there("pool", current_operations={"x": "apply_updates"}), ["NOT_SUPPORTED_DURING_UPGRADE"]),
]
LATER_CASES: list[tuple[str, Callable[[Any, Any], None], list[str]]] = [
    (
        "guidance is pending",
        set_there("host", pending_guidances=["reboot_host"]),
        ["HOST_PENDING_MANDATORY_GUIDANCE_NOT_EMPTY", "*"],
    ),
    (
        "a plugin that this host lacks",
        added("SM", there=True, type="strange"),
        ["POOL_JOINING_SM_FEATURES_INCOMPATIBLE", "*", ""],
    ),
    (
        "a plugin that can less",
        set_there("SM", features={"VDI_CREATE": 9}),
        ["POOL_JOINING_SM_FEATURES_INCOMPATIBLE", "*", "*"],
    ),
    (
        "the cluster's network",
        clustered,
        ["POOL_JOINING_HOST_MUST_HAVE_ONLY_ONE_IP_ON_CLUSTERING_NETWORK"],
    ),
]


@pytest.mark.parametrize(("prepare", "error"), [case[1:] for case in CASES], ids=[case[0] for case in CASES])
def test_a_host_that_does_not_fit_is_told_why_and_nothing_is_done(
    calls: Make, prepare: Callable[[Any, Any], None], error: list[str]
) -> None:
    """Each reason by its own code; both pools stay as they were."""
    c = calls(hosts=3, release="8.4")
    d = bare(c)
    prepare(c, d)
    hosts, sessions = list(c.pool.store.table("host")), set(c.pool.store.table("session"))
    found = d.refused("pool.join", *MASTER)
    assert [part if want != "*" else "*" for part, want in zip(found, error, strict=True)] == error
    assert list(c.pool.store.table("host")) == hosts
    assert set(c.pool.store.table("session")) == sessions
    assert d.pool.machines[0].next is None


@pytest.mark.parametrize(
    ("prepare", "error"), [case[1:] for case in LATER_CASES], ids=[case[0] for case in LATER_CASES]
)
def test_what_only_later_toolstacks_look_at_keeps_nobody_out(
    calls: Make, newest: Make, prepare: Callable[[Any, Any], None], error: list[str]
) -> None:
    """A host joins XenServer 8 with what stands against it in the newest releases."""
    c = newest(hosts=1)
    d = bare(c)
    prepare(c, d)
    found = d.refused("pool.join", *MASTER)
    assert [part if want != "*" else "*" for part, want in zip(found, error, strict=True)] == error
    c = calls(hosts=1, release="8.4")
    d = bare(c)
    prepare(c, d)
    d("pool.join", *MASTER)
    assert d.pool.machines[0].next is not None


def test_a_host_leaves_behind_what_its_pool_is_not_told(calls: Make) -> None:
    """Host.create has few parameters in XenServer 8; until the host greets the master it has the master's version."""
    c = calls(hosts=1, release="8.4")
    d = bare(c)
    (mine,) = d.pool.store.table("host").values()
    d.pool.store.write(
        mine, https_only=True, numa_affinity_policy="best_effort", last_software_update="20260101T00:00:00Z"
    )
    d("pool.join", *MASTER)
    row = c.host(mine["name_label"])
    assert (row["https_only"], row["numa_affinity_policy"]) == (False, "default_policy")
    assert row["last_software_update"] == mine["last_software_update"]
    assert row["software_version"] == c.host("host1")["software_version"]


def test_domains_of_directories_are_told_apart_by_case(calls: Make) -> None:
    """Up to XenServer 8."""
    c = calls(hosts=1, release="8.4")
    d = bare(c)
    for here, name in ((c, "Example.com"), (d, "example.com")):
        host = next(iter(here.pool.store.table("host").values()))
        here.pool.store.write(host, external_auth_type="AD", external_auth_service_name=name)
    assert d.refused("pool.join", *MASTER) == ["POOL_JOINING_EXTERNAL_AUTH_MISMATCH"]


@pytest.mark.parametrize(
    ("release", "theirs", "mine", "lowest"),
    [
        ("5.6", ["enterprise-xd", "platinum"], "platinum", "enterprise-xd"),
        ("6.2", ["per-socket", "xendesktop"], "per-socket", "xendesktop"),
        ("8.4", ["premium-per-user", "desktop-plus"], "premium-per-socket", "desktop-plus"),
    ],
)
def test_editions_are_compared_as_the_release_ranks_them(
    calls: Make, release: str, theirs: list[str], mine: str, lowest: str
) -> None:
    """A host must have what the lowest host of the pool has."""
    c = calls(hosts=2, release=release)
    d = bare(c)
    for host, edition in zip(c.pool.store.table("host").values(), theirs, strict=True):
        c.pool.store.write(host, edition=edition)
    told = [f'host edition = "{mine}"', f'pool edition = "{lowest}"']
    assert d.refused("pool.join", *MASTER) == ["LICENSE_HOST_POOL_MISMATCH", *told]


def test_xcp_ng_has_one_edition_by_every_name(calls: Make) -> None:
    """Names alone do not keep a host out."""
    c = calls(hosts=1, release="XCP-ng 8.2")
    d = bare(c)
    c.pool.store.write(c.host("host1"), edition="anything")
    d("pool.join", *MASTER)
    assert rest(c, "host2")["enabled"]


def test_the_first_reason_wins(calls: Make) -> None:
    """They are looked for in xapi's order."""
    c = calls(hosts=1, release="8.4")
    d = bare(c)
    order = [
        "HA is on here",
        "other hosts here",
        "a guest runs",
        "another brand",
        "shared storage",
        "a bond",
        "another API",
    ]
    cases = {name: (prepare, error) for name, prepare, error in CASES}
    for name in reversed(order):
        cases[name][0](c, d)
        assert d.refused("pool.join", *MASTER)[0] == cases[name][1][0], name


def test_a_host_cannot_join_the_pool_that_it_is_in(calls: Make) -> None:
    """Neither itself nor, as a master of others, its own pool."""
    c = calls(hosts=1, release="8.4")
    text = "Host cannot become slave of itself"
    assert c.refused("pool.join", *MASTER) == ["OPERATION_NOT_ALLOWED", text]
    c = calls(hosts=2, release="8.4")
    assert c.refused("pool.join", *MASTER) == ["OPERATION_NOT_ALLOWED", "Host is already part of a pool"]


def test_join_force_looks_neither_at_builds_nor_at_cpus(calls: Make) -> None:
    """Everything else is checked as ever."""
    c = calls(hosts=1, release="8.4")
    d = bare(c)
    set_here("host", cpu_info={"vendor": "AuthenticAMD"})(c, d)
    software(xapi="9.9")(c, d)
    set_there("pool", ha_enabled=True)(c, d)
    assert d.refused("pool.join_force", *MASTER) == ["HA_IS_ENABLED"]
    set_there("pool", ha_enabled=False)(c, d)
    assert d.refused("pool.join", *MASTER)[0] == "HOSTS_NOT_HOMOGENEOUS"
    d("pool.join_force", *MASTER)
    assert rest(c, "host2")["enabled"]


@pytest.mark.parametrize(
    ("release", "state", "code"),
    [
        *(("5.5", state, "RUNNING_OR_SUSPENDED_VMS") for state in ("Running", "Paused", "Suspended")),
        ("5.6", "Running", "RUNNING_VMS"),
        *(("5.6", state, "") for state in ("Suspended", "Halted")),
        ("5.5", "Halted", ""),
    ],
)
def test_guests_that_are_not_halted_keep_a_host_from_joining(calls: Make, release: str, state: str, code: str) -> None:
    """Up to 5.5 suspended and paused ones too."""
    c = calls(hosts=1, release=release)
    d = bare(c)
    added("VM", power_state=state)(c, d)
    if code:
        assert d.refused("pool.join", *MASTER) == [f"JOINING_HOST_CANNOT_HAVE_{code}"]
        assert len(c.pool.store.table("host")) == 1
    else:
        d("pool.join", *MASTER)
        assert rest(c, "host2")["enabled"]


@pytest.mark.parametrize(("release", "other"), [("5.5", "5.0"), ("5.0", "5.5"), ("5.6", "6.0"), ("6.0", "5.6")])
def test_versions_of_products_keep_a_host_from_joining_by_force(calls: Make, release: str, other: str) -> None:
    """Up to 5.5 it cannot read the pool's database, from 5.6 to 6.0 the versions are compared. Nothing is done."""
    c = calls(hosts=1, release=release)
    d = bare(c, release=other)
    code = ["POOL_JOINING_HOST_MUST_HAVE_SAME_PRODUCT_VERSION"]
    assert d.refused("pool.join_force", *MASTER) == code
    if find(other) > find("5.5"):
        assert d.refused("pool.join", *MASTER) == code
    else:
        assert d.refused("pool.join", *MASTER)[0] == "HOSTS_NOT_HOMOGENEOUS"
    assert len(c.pool.store.table("host")) == 1 and d.pool.master.system.role == "master"


def test_an_older_release_wants_bare_cards(calls: Make) -> None:
    """Before 7.6 nothing may stand on the cards of a host that joins."""
    c = calls(hosts=1, release="7.0")
    d = bare(c)
    vlan(management=False)(c, d)
    assert d.refused("pool.join", *MASTER) == ["POOL_JOINING_HOST_MUST_ONLY_HAVE_PHYSICAL_PIFS"]


def test_a_host_of_another_release_cannot_join(calls: Make) -> None:
    """The software is told apart by its platform, where that is told, else by its version."""
    for release, other, code in (("8.4", "7.0", "HOSTS_NOT_COMPATIBLE"), ("4.0.1", "4.1", "HOSTS_NOT_HOMOGENEOUS")):
        c = calls(hosts=1, release=release)
        assert bare(c, release=other).refused("pool.join", *MASTER)[0] == code


# --- a failed member


@pytest.mark.parametrize("release", RELEASES)
def test_a_failed_member_is_forgotten_reinstalled_and_joins_again(release: str) -> None:
    """Power lost, its guests declared off and its host forgotten; then a clean installation, which joins as a new host and
    runs guests on the shared storage. The other hosts and all disks are untouched."""
    pool = MockPool.create(hosts=3, vms=6, release=release)
    session = login(pool, pool.master.address)
    (failed,) = session.host.get_by_name_label("host2")
    lost = [vm for vm in session.host.get_resident_VMs(failed) if not session.VM.get_is_control_domain(vm)]
    pool.hands.power_off("host2")
    pool.clock.advance(pool.durations.assumed_dead + 60)
    if pool.store.release < find("6.2"):
        for vm in lost:
            session.VM.power_state_reset(vm)
    else:
        session.host.declare_dead(failed)
    assert {session.VM.get_power_state(vm) for vm in lost} == {"Halted"}
    session.host.destroy(failed)
    session.VM.start(lost[0], False, False)
    assert len(session.host.get_all()) == 2

    hands = pool.hands
    hands.insert_media("host2", release)
    hands.power_on("host2")
    pool.clock.advance(600)
    hands.answer("host2", "fresh")
    machine = pool.machine("host2")
    pool.clock.run_until(pool.clock.now() + 7200, lambda: machine.xapi.complete)
    alone = login(pool, machine.address)
    assert len(alone.host.get_all()) == 1
    alone.pool.join(pool.master.address, "root", "secret")
    pool.clock.run_until(pool.clock.now() + 7200, lambda: machine.pool is pool and machine.xapi.complete)

    (back,) = session.host.get_by_name_label("host2")
    assert back != failed
    assert session.host.get_enabled(back)
    for sr in [ref for ref, sr in session.SR.get_all_records().items() if sr.shared]:
        plugged = {session.PBD.get_host(p) for p in session.SR.get_PBDs(sr) if session.PBD.get_currently_attached(p)}
        assert plugged == set(session.host.get_all())
    session.VM.start_on(lost[1], back, False, False)
    session.VM.pool_migrate(lost[0], back, {"live": "true"})
    assert {session.VM.get_resident_on(vm) for vm in lost[:2]} == {back}
    assert set(machine.domains) == {session.VM.get_uuid(vm) for vm in lost[:2]}
