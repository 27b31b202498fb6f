"""Why a host may not join a pool: each reason, their order, and what earlier and later releases looked at."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from xenctl.releases import find

from .support.joining import (
    MASTER,
    Prepare,
    added,
    bare,
    clustered,
    rest,
    restrict,
    set_here,
    set_there,
    software,
    vlan,
)

Make = Callable[..., Any]


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


CASES: list[tuple[str, Prepare, list[str]]] = [
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
LATER_CASES: list[tuple[str, Prepare, list[str]]] = [
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
    calls: Make, prepare: Prepare, error: list[str]
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
    calls: Make, newest: Make, prepare: Prepare, error: list[str]
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
    told = ["LICENSE_HOST_POOL_MISMATCH", f'host edition = "{mine}"', f'pool edition = "{lowest}"']
    assert d.refused("pool.join", *MASTER) == (told if find(release) > find("6.2") else ["LICENCE_RESTRICTION"])


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


@pytest.mark.parametrize(
    ("release", "other"), [("5.5", "5.0"), ("5.0", "5.5"), ("5.6", "6.0"), ("6.0", "5.6"), ("6.0", "5.6.100")]
)
def test_versions_of_products_keep_a_host_from_joining_by_force(calls: Make, release: str, other: str) -> None:
    """In 6.0 they are compared; before, a forced join finds that it cannot read the pool's database. Nothing is done."""
    c = calls(hosts=1, release=release)
    d = bare(c, release=other)
    (host,) = d.pool.store.table("host").values()
    if "network_backend" in host["software_version"]:
        software(network_backend=c.host("host1")["software_version"].get("network_backend", "bridge"))(c, d)
    code = ["POOL_JOINING_HOST_MUST_HAVE_SAME_PRODUCT_VERSION"]
    assert d.refused("pool.join_force", *MASTER) == code
    compared = code if find(other) == find("6.0") else ["HOSTS_NOT_HOMOGENEOUS", "software version differs"]
    assert d.refused("pool.join", *MASTER) == compared
    assert len(c.pool.store.table("host")) == 1 and d.pool.master.system.role == "master"


def joins(c: Any, d: Any, unlike: str) -> None:
    """See that the host joins; where it is `unlike` the others, by force only."""
    if unlike:
        assert d.refused("pool.join", *MASTER) == ["HOSTS_NOT_HOMOGENEOUS", unlike]
    d("pool.join_force" if unlike else "pool.join", *MASTER)
    assert rest(c, "host2")["enabled"]


@pytest.mark.parametrize(
    ("release", "key", "word"),
    [
        *(("5.5", key, "software") for key in ("product_version", "product_brand", "build_number", "hg_id")),
        ("5.5", "package-linux", "software"),
        *(("6.5", key, "software") for key in ("build_number", "git_id", "xs:linux")),
        ("7.1", "build_number", "Software"),
        ("7.2", "git_id", "Software"),
        ("8.4", "xapi", "Software"),
        *(("6.5", key, "") for key in ("product_version", "xapi")),
        *(("7.2", key, "") for key in ("build_number", "xapi")),
    ],
)
def test_each_release_tells_builds_apart_by_some_keys(calls: Make, release: str, key: str, word: str) -> None:
    """A forced join does not look."""
    c = calls(hosts=1, release=release)
    d = bare(c)
    software(**{key: "another"})(c, d)
    joins(c, d, word and f"{word} version differs")


def processors(**fields: Any) -> Prepare:
    """All processors of the joining host, up to 5.5."""

    def do(c: Any, d: Any) -> None:
        for cpu in d.pool.store.table("host_cpu").values():
            d.pool.store.write(cpu, **fields)

    return do


def told(mask: str = "", **more: str) -> Prepare:
    """What the joining host tells of its processors since 5.6; `mask` is what counts of their features."""

    def do(c: Any, d: Any) -> None:
        (host,) = d.pool.store.table("host").values()
        d.pool.store.write(host, cpu_info={**host["cpu_info"], **more})
        if mask:
            c("pool.add_to_other_config", c.pool.store.pool().ref, "cpuid_feature_mask", mask)

    return do


FEWER = "77fafbff-bfebfbff-00000121-2c100000"
"""The features that a host has unless it is told otherwise, but for one."""


@pytest.mark.parametrize(
    ("release", "prepare", "word"),
    [
        *(("4.1", processors(**{field: value}), "cpus") for field, value in (("vendor", "x"), ("model", 9))),
        *(("5.5", processors(**{field: value}), "cpus") for field, value in (("family", 9), ("flags", "fpu"))),
        ("5.5", processors(speed=1, stepping="9"), ""),
        *((release, told(features=FEWER), "CPUs") for release in ("5.6", "6.2", "6.5")),
        ("6.2", told(vendor="AuthenticAMD"), "CPUs"),
        ("6.2", told(model="9", features=FEWER, mask="ffffffff-ffffffff-ffffffff-00000000"), ""),
        ("7.0", told(features=FEWER, features_hvm=FEWER), ""),
        ("7.0", told(vendor="AuthenticAMD"), "CPUs"),
    ],
)
def test_each_release_has_its_own_idea_of_like_processors(
    calls: Make, release: str, prepare: Prepare, word: str
) -> None:
    """Once all of them had to be of one kind, then to have the same features; since 7.0 their maker is enough."""
    c = calls(hosts=1, release=release)
    d = bare(c)
    prepare(c, d)
    joins(c, d, word and f"{word} differ")


def test_enhanced_speedstep_makes_no_other_processor(calls: Make) -> None:
    """A flag that comes and goes with the settings of the BIOS."""
    c = calls(hosts=1, release="5.5")
    d = bare(c)
    flags = next(iter(d.pool.store.table("host_cpu").values()))["flags"]
    processors(flags=f"est {flags}")(c, d)
    d("pool.join", *MASTER)
    assert rest(c, "host2")["enabled"]


@pytest.mark.parametrize("release", ["6.0", "6.1", "7.1", "7.2"])
def test_patches_that_one_has_and_the_other_lacks(calls: Make, release: str) -> None:
    """From 6.1 to 7.1, by force too; before nobody looked, and not in 7.2."""
    c = calls(hosts=1, release=release)
    d = bare(c)
    (host,) = d.pool.store.table("host").values()
    added("pool_patch", uuid="11111111-2222-3333-4444-555555555555", name_label="XS99E001")(c, d)
    patch = next(iter(d.pool.store.table("pool_patch")))
    added("host_patch", host=host.ref, pool_patch=patch, applied=True)(c, d)
    if release in ("6.1", "7.1"):
        text = "Patches applied differ: Remote has  -- Local has 11111111-2222-3333-4444-555555555555"
        for method in ("pool.join", "pool.join_force"):
            assert d.refused(method, *MASTER) == ["HOSTS_NOT_HOMOGENEOUS", text]
    else:
        d("pool.join", *MASTER)


def test_updates_that_one_has_and_the_other_lacks(calls: Make) -> None:
    """Those that all hosts must have, since 7.3."""
    c = calls(hosts=1, release="7.3")
    d = bare(c)
    (host,) = d.pool.store.table("host").values()
    for enforced in (True, False):
        added("pool_update", enforce_homogeneity=enforced)(c, d)
    missed, other = d.pool.store.table("pool_update")
    d.pool.store.write(host, updates=[missed, other])
    text = "Updates on local host host2 and pool host host1 differ"
    assert d.refused("pool.join", *MASTER) == ["HOSTS_NOT_HOMOGENEOUS", text]
    d.pool.store.write(host, updates=[other])
    d("pool.join", *MASTER)


@pytest.mark.parametrize(
    ("release", "management", "code"),
    [
        ("6.5", False, ""),
        ("6.5", True, "MUST_HAVE_PHYSICAL_MANAGEMENT_NIC"),
        ("7.0", True, "MUST_ONLY_HAVE_PHYSICAL_PIFS"),
        ("7.2", False, "MUST_ONLY_HAVE_PHYSICAL_PIFS"),
        ("7.3", False, "HAS_NON_MANAGEMENT_VLANS"),
        ("7.3", True, "MANAGEMENT_VLAN_DOES_NOT_MATCH"),
    ],
)
def test_what_may_stand_on_the_cards_of_a_host_that_joins(
    calls: Make, release: str, management: bool, code: str
) -> None:
    """Up to 6.5 whatever it is not managed by, then nothing, since 7.3 the VLAN that it is managed by."""
    c = calls(hosts=1, release=release)
    d = bare(c)
    vlan(management=management)(c, d)
    if code:
        assert d.refused("pool.join", *MASTER)[0] == f"POOL_JOINING_HOST_{code}"
        return
    d("pool.join", *MASTER)
    assert rest(c, "host2")["enabled"]
    assert not c.pool.store.table("VLAN"), "only cards come"


@pytest.mark.parametrize("release", ["5.5", "5.6", "5.6.100"])
def test_what_licences_take_away_was_compared_up_to_5_6(calls: Make, release: str) -> None:
    """Of the pool, what they take from any of its hosts."""
    c = calls(hosts=2, release=release)
    d = bare(c)
    member = c.host("host2")
    c.pool.store.write(member, license_params={**member["license_params"], "restrict_marathon": "true"})
    set_here("host", license_params={**member["license_params"], "restrict_marathon": "false"})(c, d)
    if release == "5.6.100":
        d("pool.join", *MASTER)
        return
    assert d.refused("pool.join", *MASTER) == ["LICENCE_RESTRICTION"]
    set_here("host", license_params=dict(member["license_params"]))(c, d)
    d("pool.join", *MASTER)


@pytest.mark.parametrize(("release", "minds"), [("5.6", False), ("6.0", True), ("7.1", True), ("7.2", False)])
def test_the_controller_of_the_switches_was_compared_up_to_7_1(calls: Make, release: str, minds: bool) -> None:
    """Where the host has one; since 7.2 controllers are objects of their own."""
    c = calls(hosts=1, release=release)
    d = bare(c)
    set_there("pool", vswitch_controller="10.0.0.77")(c, d)
    assert d.pool.store.pool()["vswitch_controller"] == ""
    set_here("pool", vswitch_controller="10.0.0.78")(c, d)
    if minds:
        assert d.refused("pool.join", *MASTER) == ["OPERATION_NOT_ALLOWED", "vswitch controller address differs"]
        set_here("pool", vswitch_controller="")(c, d)
    d("pool.join", *MASTER)


def test_a_host_of_another_release_cannot_join(calls: Make) -> None:
    """The software is told apart by its platform, where that is told, else by its version."""
    for release, other, code in (("8.4", "7.0", "HOSTS_NOT_COMPATIBLE"), ("4.0.1", "4.1", "HOSTS_NOT_HOMOGENEOUS")):
        c = calls(hosts=1, release=release)
        assert bare(c, release=other).refused("pool.join", *MASTER)[0] == code
