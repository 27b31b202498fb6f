"""What of processors guests hold on to: what hosts and pools tell, what a boot notes, and where a guest may go on."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from mockserver import processors
from mockserver.store import Row
from xenctl.procedures.hardware import cpu_of_guest, cpu_of_host
from xenctl.releases import find

Make = Callable[..., Any]
ALL = ("5.6", "6.0", "6.1", "6.5", "7.0", "8.0", "8.1", "8.2", "8.4")
SINCE_BOSTON = ALL[1:]
FEATURES = ("features", "features_pv", "features_hvm", "features_pv_host", "features_hvm_host")
OTHER = "VM last booted on a host which had a CPU from a different vendor."
LACKS = "VM last booted on a CPU with features this host's CPU does not have."
UNTOLD = "Host does not have new leveling feature keys - not comparing VM's flags"


def told(c: Any, host: str, **info: str) -> None:
    """Have a host tell other things of its processors."""
    row = c.host(host)
    c.pool.store.write(row, cpu_info={**row["cpu_info"], **info})


def poorer(c: Any, host: str) -> None:
    """A host of which every text of features lacks the lowest bit of its first word, as guests have it."""
    info = c.host(host)["cpu_info"]
    told(c, host, **{key: less(info[key]) for key in FEATURES if key in info})


def less(words: str) -> str:
    first, _, rest = words.partition("-")
    return f"{int(first, 16) & int(first, 16) - 1:08x}-{rest}"


def incompatible(vm: Any, host: Any, why: str) -> list[str]:
    return ["VM_INCOMPATIBLE_WITH_THIS_HOST", vm.ref, host.ref, why]


# --- what is told


def test_hosts_tell_what_their_release_does() -> None:
    """Before 5.6 nothing; then one text of features; since 7.0 one for each kind of guest, since 8.1 with the policies that
    pools are levelled by. What was counted in the old way is gone since 8.2."""
    keys = {release: set(processors.described(find(release), {})) for release in ("4.0.1", *ALL)}
    named = {"cpu_count", "vendor", "speed", "modelname", "family", "model", "stepping", "flags"}
    then = named | {"features", "features_after_reboot", "physical_features", "maskable"}
    levelled = named | {"socket_count", "features", "features_pv", "features_hvm"}
    policies = {"features_pv_host", "features_hvm_host"}
    assert keys["4.0.1"] == set()
    assert keys["5.6"] == keys["6.1"] == then
    assert keys["6.5"] == then | {"socket_count"}
    assert keys["7.0"] == keys["8.0"] == levelled
    assert keys["8.1"] == levelled | policies
    assert keys["8.2"] == levelled - {"features"} | policies
    assert keys["8.4"] == keys["8.2"] | {"threads_per_core"}


def test_what_an_older_release_told_goes_into_what_a_newer_one_tells() -> None:
    """What is missing in the old words is missing in the first of the new ones, whose order is another."""
    vendor = {"vendor": "AuthenticAMD", "cpu_count": "8", "features": "00802009-178bfbfe-000837ff-efd3fbff"}
    new = processors.described(find("7.0"), vendor)
    assert (new["vendor"], new["cpu_count"], new["features"]) == ("AuthenticAMD", "8", vendor["features"])
    usual = processors.USUAL["AuthenticAMD"]["features_hvm"]
    assert new["features_hvm"].split("-")[0] == f"{int(usual.split('-')[0], 16) & 0x178BFBFE:08x}"
    assert new["features_hvm"].split("-")[4:] == usual.split("-")[4:]


def test_an_upgraded_host_tells_what_is_new(calls: Make) -> None:
    """What only its processors' rows told it tells as the new release does, and so does its pool."""
    c = calls(release="6.5", hosts=1, vms=0).upgrade("host1", "7.0")
    assert set(c.host("host1")["cpu_info"]) == set(processors.described(find("7.0"), {}))
    assert c.pool.store.pool()["cpu_info"]["features_hvm"] == c.host("host1")["cpu_info"]["features_hvm"]


@pytest.mark.parametrize(
    ("release", "keys"),
    [
        ("7.0", {"features_pv", "features_hvm"}),
        ("8.1", {"features_pv", "features_hvm", "features_pv_host", "features_hvm_host"}),
        ("8.2", {"features_pv_host", "features_hvm_host"}),
        ("8.4", {"features_pv_host", "features_hvm_host"}),
    ],
)
def test_a_pool_tells_what_its_hosts_have_in_common(calls: Make, release: str, keys: set[str]) -> None:
    """Counts are added up, features that one host lacks are left out; a host that leaves sets the rest free."""
    c = calls(release=release, hosts=3, vms=0)
    pool = c.pool.store.pool()
    assert set(pool["cpu_info"]) == {"vendor", "cpu_count", "socket_count", *keys}
    assert (pool["cpu_info"]["cpu_count"], pool["cpu_info"]["vendor"]) == ("48", "GenuineIntel")
    before = {key: pool["cpu_info"][key] for key in keys}
    poorer(c, "host3")
    c("host.restart_agent", c.host("host2").ref)
    c.sleep(60)
    assert {key: pool["cpu_info"][key] for key in keys} == {key: less(before[key]) for key in keys}
    c("pool.eject", c.host("host3").ref)
    assert {key: pool["cpu_info"][key] for key in keys} == before
    assert pool["cpu_info"]["cpu_count"] == "32"


def test_a_pool_passes_over_hosts_that_tell_too_little_or_virtualise_nothing(calls: Make) -> None:
    """One whose release is too old tells no such features; one without hardware virtualisation limits only `pv`."""
    c = calls(release="8.2", hosts=3, vms=0)
    old, plain = c.host("host2"), c.host("host3")
    c.pool.store.write(old, cpu_info={"vendor": "AuthenticAMD", "cpu_count": "4", "socket_count": "1"})
    c.pool.store.write(plain, capabilities=["xen-3.0-x86_64"])
    poorer(c, "host3")
    processors.level(c.pool.store)
    mine, shared = c.host("host1")["cpu_info"], c.pool.store.pool()["cpu_info"]
    assert (shared["cpu_count"], shared["vendor"]) == ("32", "GenuineIntel")
    assert shared["features_hvm_host"] == mine["features_hvm_host"]
    assert shared["features_pv_host"] == less(mine["features_pv_host"])


def test_levels_take_texts_of_any_length(calls: Make) -> None:
    """What the shorter one does not tell is missing in what both have."""
    c = calls(release="7.0", hosts=2, vms=0)
    told(c, "host1", features_hvm="ffffffff-0000000f", features_pv="00000003")
    told(c, "host2", features_hvm="0000000f", features_pv="no words")
    processors.level(c.pool.store)
    shared = c.pool.store.pool()["cpu_info"]
    assert (shared["features_hvm"], shared["features_pv"]) == ("0000000f-00000000", "00000003")


# --- what a boot notes


@pytest.mark.parametrize("release", ["4.0.1", "5.6", "6.5"])
def test_a_guest_of_old_has_the_features_of_its_host(calls: Make, release: str) -> None:
    """Up to 6.5 nothing is levelled."""
    c = calls(release=release, hosts=2, vms=12)
    if release != "4.0.1":
        poorer(c, "host2")
    c("VM.start_on", c.vm("vm04").ref, c.host("host1").ref, False, False)
    usual = processors.USUAL["GenuineIntel"]
    assert c.vm("vm04")["last_boot_CPU_flags"] == {"vendor": usual["vendor"], "features": usual["features"]}


@pytest.mark.parametrize("release", ["7.0", "8.0", "8.1", "8.2", "8.4"])
@pytest.mark.parametrize(("kind", "policy"), [("hvm", "BIOS order"), ("pv", "")])
def test_a_guest_boots_with_what_its_pool_has_in_common(calls: Make, release: str, kind: str, policy: str) -> None:
    """So it can go on on the host that has the least, whichever it was started on."""
    c = calls(release=release, hosts=2, vms=12)
    poorer(c, "host2")
    processors.level(c.pool.store)
    vm = c.vm("vm04")
    c.pool.store.write(vm, HVM_boot_policy=policy, **({"domain_type": "unspecified"} if "domain_type" in vm else {}))
    c("VM.start_on", vm.ref, c.host("host1").ref, False, False)
    flags = vm["last_boot_CPU_flags"]
    assert flags == {"vendor": "GenuineIntel", "features": less(processors.USUAL["GenuineIntel"][f"features_{kind}"])}
    c("VM.pool_migrate", vm.ref, c.host("host2").ref, {"force": "true"})
    assert vm["last_boot_CPU_flags"] == flags


@pytest.mark.parametrize(
    ("release", "moved", "resumed"), [("6.0", True, True), ("6.1", False, True), ("7.0", False, False)]
)
def test_what_is_noted_of_a_guest_that_moves(calls: Make, release: str, moved: bool, resumed: bool) -> None:
    """6.0 notes the processor of every host that a guest comes to, 6.1 to 6.5 of the one that it is resumed on; since 7.0 a
    guest keeps what it booted with."""
    c = calls(release=release, hosts=2, vms=12)
    vm, kept = c.vm("vm01"), dict(c.vm("vm01")["last_boot_CPU_flags"])
    more = {
        key: "ffffffff-" + value.partition("-")[2]
        for key, value in c.host("host2")["cpu_info"].items()
        if "feat" in key
    }
    told(c, "host2", **more)
    c("VM.pool_migrate", vm.ref, c.host("host2").ref, {})
    assert (vm["last_boot_CPU_flags"] != kept) is moved
    c("VM.suspend", vm.ref)
    c("VM.resume_on", vm.ref, c.host("host2").ref, False, False)
    assert (vm["last_boot_CPU_flags"] != kept) is resumed


# --- where a guest goes on

REFUSED = [(release, how) for release in SINCE_BOSTON for how in ("vendor", "features")]


@pytest.mark.parametrize(("release", "how"), REFUSED)
def test_a_guest_does_not_migrate_to_a_processor_that_lacks_what_it_has(calls: Make, release: str, how: str) -> None:
    """Not to another maker's, nor to one with fewer features; by force it does. Its own host is no exception."""
    c = calls(release=release, hosts=2, vms=12)
    vm, there = c.vm("vm01"), c.host("host2")
    if how == "vendor":
        told(c, "host2", vendor="AuthenticAMD")
    else:
        poorer(c, "host2")
    wrong = incompatible(vm, there, OTHER if how == "vendor" else LACKS)
    assert c.refused("VM.pool_migrate", vm.ref, there.ref, {"live": "true"}) == wrong
    assert vm["resident_on"] == c.host("host1").ref and vm["current_operations"] == {}
    c("VM.pool_migrate", vm.ref, there.ref, {"live": "true", "force": "true"})
    assert vm["resident_on"] == there.ref
    assert c.unharmed()


@pytest.mark.parametrize("release", ["4.0.1", "5.5", "5.6"])
def test_before_boston_nobody_looks(calls: Make, release: str) -> None:
    """Whether a guest goes on is the operator's affair."""
    c = calls(release=release, hosts=2, vms=12)
    if release == "5.6":
        told(c, "host2", vendor="AuthenticAMD")
        poorer(c, "host2")
    c("VM.pool_migrate", c.vm("vm01").ref, c.host("host2").ref, {})
    assert c.vm("vm01")["resident_on"] == c.host("host2").ref


def test_the_processor_is_looked_at_before_what_else_is_going_on(c: Any) -> None:
    """xapi asks for it before it asks whether the operation is allowed."""
    vm, there = c.vm("vm04"), c.host("host2")
    told(c, "host2", vendor="AuthenticAMD")
    assert c.refused("VM.pool_migrate", vm.ref, there.ref, {})[0] == "VM_BAD_POWER_STATE"
    c("VM.start_on", vm.ref, c.host("host1").ref, False, False)
    c("VM.pause", vm.ref)
    assert c.refused("VM.pool_migrate", vm.ref, there.ref, {}) == incompatible(vm, there, OTHER)


@pytest.mark.parametrize("release", ["6.1", "7.0", "8.2", "8.4"])
def test_storage_migration_looks_too(calls: Make, release: str) -> None:
    """Up to 6.5 only at what is to go on running; by force at nothing."""
    c = calls(release=release, hosts=2, vms=12)
    vm, there = c.vm("vm01"), c.host("host2")
    told(c, "host2", vendor="AuthenticAMD")
    network = next(pif["network"] for pif in c.pool.store.table("PIF").values() if pif["host"] == there.ref)
    dest = c("host.migrate_receive", there.ref, network, {})
    disk = c.vbd("vm01", "0")["VDI"]
    home = {disk: c.pool.store.get("VDI", disk)["SR"]}

    def arguments(live: bool, **options: str) -> tuple[Any, ...]:
        return (vm.ref, dest, live, home, {}, options)

    assert c.refused("VM.assert_can_migrate", *arguments(True)) == incompatible(vm, there, OTHER)
    assert c.refused("VM.migrate_send", *arguments(True)) == incompatible(vm, there, OTHER)
    c("VM.assert_can_migrate", *arguments(True, force="true"))
    if release == "6.1":
        c("VM.assert_can_migrate", *arguments(False))
    else:
        assert c.refused("VM.assert_can_migrate", *arguments(False)) == incompatible(vm, there, OTHER)


@pytest.mark.parametrize("release", SINCE_BOSTON)
def test_a_suspended_guest_goes_on_only_where_it_can(calls: Make, release: str) -> None:
    """The host that it is to go on at looks, unless forced; since 7.0 the choice of a host does, too."""
    c = calls(release=release, hosts=2, vms=12)
    vm, home, other = c.vm("vm06"), c.host("host1"), c.host("host2")
    c.pool.store.write(vm, affinity=other.ref)
    poorer(c, "host2")
    wrong = incompatible(vm, other, LACKS)
    assert c.refused("VM.resume_on", vm.ref, other.ref, False, False) == wrong
    assert (vm["power_state"], vm["scheduled_to_be_resident_on"]) == ("Suspended", "OpaqueRef:NULL")
    if find(release) < find("7.0"):
        assert c.refused("VM.resume", vm.ref, False, False) == wrong
    else:
        c("VM.resume", vm.ref, False, False)
        assert vm["resident_on"] == home.ref
        c("VM.suspend", vm.ref)
        c("host.disable", home.ref)
        assert c.refused("VM.resume", vm.ref, False, False) == ["NO_HOSTS_AVAILABLE"]
    c("VM.resume_on", vm.ref, other.ref, False, True)
    assert (vm["power_state"], vm["resident_on"]) == ("Running", other.ref)


@pytest.mark.parametrize("release", ["6.5", "7.0", "8.0", "8.1", "8.2", "8.4"])
def test_what_asks_beforehand_looks_since_8_1(calls: Make, release: str) -> None:
    """Whether a guest can boot somewhere, and whether a host can be emptied; a halted guest can go anywhere."""
    c = calls(release=release, hosts=2, vms=12)
    vm, there = c.vm("vm01"), c.host("host2")
    told(c, "host2", vendor="AuthenticAMD")
    c("VM.assert_can_boot_here", c.vm("vm04").ref, there.ref)
    assert there.ref in c("VM.get_possible_hosts", vm.ref)
    prevented = c("host.get_vms_which_prevent_evacuation", c.host("host1").ref)
    if find(release) < find("8.1"):
        c("VM.assert_can_boot_here", vm.ref, there.ref)
        assert prevented == {}
    else:
        assert c.refused("VM.assert_can_boot_here", vm.ref, there.ref) == incompatible(vm, there, OTHER)
        assert prevented[vm.ref] == incompatible(vm, there, OTHER)


@pytest.mark.parametrize(("release", "refused"), [("7.0", False), ("8.0", False), ("8.1", True), ("8.2", True)])
def test_a_host_that_tells_no_features_takes_guests_only_up_to_8_0(calls: Make, release: str, refused: bool) -> None:
    """It was taken for one that is yet to be upgraded, and nothing was compared, not even the maker."""
    c = calls(release=release, hosts=2, vms=12)
    vm, there = c.vm("vm01"), c.host("host2")
    c.pool.store.write(there, cpu_info={"vendor": "AuthenticAMD", "cpu_count": "4", "socket_count": "1"})
    if refused:
        assert c.refused("VM.pool_migrate", vm.ref, there.ref, {}) == incompatible(vm, there, UNTOLD)
    else:
        c("VM.pool_migrate", vm.ref, there.ref, {})


@pytest.mark.parametrize(("release", "counts"), [("6.0", False), ("6.1", True), ("6.5", True), ("7.0", False)])
def test_a_pool_may_say_which_features_count(calls: Make, release: str, counts: bool) -> None:
    """From 6.1 to 6.5 by a mask in its other_config."""
    c = calls(release=release, hosts=2, vms=12)
    poorer(c, "host2")
    mask = "fffffffe-ffffffff-ffffffff-ffffffff"
    c("pool.add_to_other_config", next(iter(c.pool.store.table("pool"))), "cpuid_feature_mask", mask)
    vm, there = c.vm("vm01"), c.host("host2")
    if counts:
        c("VM.pool_migrate", vm.ref, there.ref, {})
    else:
        assert c.refused("VM.pool_migrate", vm.ref, there.ref, {}) == incompatible(vm, there, LACKS)


@pytest.mark.parametrize("release", ["7.0", "8.1"])
def test_features_of_old_are_held_against_features_of_old(calls: Make, release: str) -> None:
    """A guest that was saved by 6.5 has four words; once it is resumed it has those of today."""
    c = calls(release=release, hosts=2, vms=12)
    vm, there = c.vm("vm06"), c.host("host2")
    old = {"vendor": "GenuineIntel", "features": "0000e3bd-bfebfbff-00000001-20100800"}
    c.pool.store.write(vm, last_boot_CPU_flags=dict(old))
    told(c, "host2", features="0000e3bc-bfebfbff-00000001-20100800")
    assert c.refused("VM.resume_on", vm.ref, there.ref, False, False) == incompatible(vm, there, LACKS)
    c("VM.resume_on", vm.ref, c.host("host1").ref, False, False)
    has = there["cpu_info"]["features_hvm" if vm["HVM_boot_policy"] else "features_pv"].split("-")
    words = vm["last_boot_CPU_flags"]["features"].split("-")
    assert words[4:] == has[4:] and int(words[1], 16) == int(has[1], 16) & 0xE3BD


def test_the_procedures_know_the_same(calls: Make) -> None:
    """Whatever hosts and guests tell, a plan takes a guest to a host exactly if xapi does."""
    old = ("", "1-1-1-1", "1-1-1-3")
    new = (*old, "0000000f", "00000001-00000001", "00000001-00000001-00000001-00000001-00000001")
    for release, texts in (("6.5", old), ("7.0", new), ("8.1", new), ("8.2", new)):
        c = calls(release=release, hosts=2, vms=2)
        vm, there = c.vm("vm01"), c.host("host2")
        keys = [key for key in ("features", "features_pv", "features_hvm") if key in there["cpu_info"]]
        for vendor in ("GenuineIntel", "AuthenticAMD"):
            for has in texts[1:]:
                for booted in texts:
                    flags = {"vendor": "GenuineIntel", "features": booted}
                    info = {"vendor": vendor, **dict.fromkeys(keys, has)}
                    c.pool.store.write(vm, last_boot_CPU_flags={k: v for k, v in flags.items() if v})
                    c.pool.store.write(there, cpu_info=info)
                    xapi = processors.refused(c.pool.store, vm, there, "pool_migrate") is None
                    row = {name: vm[name] for name in ("power_state", "HVM_boot_policy", "last_boot_CPU_flags")}
                    assert cpu_of_host(info).runs(cpu_of_guest(row)) is xapi, (release, vendor, has, booted)


def test_a_halted_guest_is_compared_with_nothing(c: Any) -> None:
    """It boots with what its new host has."""
    assert processors.refused(c.pool.store, c.vm("vm04"), Row("host", "x", {}), "pool_migrate") is None
