"""Licences: editions of hosts and pools, licence servers and their grace, licence files, and what each release restricts."""

from __future__ import annotations

import base64
from collections.abc import Callable
from typing import Any

import pytest

from mockserver import MockPool
from mockserver.editions import editions
from xenctl.releases import find

Make = Callable[..., Any]
DAY = 86400.0
END = 1_900_000_000


def file(sku: str, expiry: float = END, **more: str) -> str:
    """A licence file as it is sent."""
    said = {"sku_type": sku, "version": "1", "serialnumber": "7", "sockets": "2", "productcode": "x", **more}
    attributes = " ".join(f'{key}="{value}"' for key, value in {**said, "expiry": f"{expiry:.0f}"}.items())
    return base64.b64encode(f"signed\n<xe_license {attributes}/>\n".encode()).decode()


def params(c: Any, host: str = "host1") -> dict[str, str]:
    return dict(c("host.get_license_params", c.host(host).ref))


def restrictions(c: Any) -> dict[str, str]:
    return dict(c.pool.store.pool()["restrictions"])


def pool_ref(c: Any) -> str:
    return str(c.pool.store.pool().ref)


# --- editions


@pytest.mark.parametrize(
    ("release", "lowest", "best"),
    [
        ("5.6", "free", "platinum"),
        ("6.2", "free", "per-socket"),
        ("6.5", "free", "enterprise-per-socket"),
        ("8.0", "express", "premium-per-socket"),
        ("8.4", "trial", "premium-per-socket"),
        ("XCP-ng 8.3", "xcp-ng", "xcp-ng"),
    ],
)
def test_each_release_has_its_editions(calls: Make, release: str, lowest: str, best: str) -> None:
    """A fresh pool has the highest; up to 5.5 there are none."""
    c = calls(release=release)
    known = [one.name for one in editions(find(release))]
    assert (known[0], known[-1]) == (lowest, best)
    assert c("host.get_edition", c.host("host1").ref) == best
    if c.pool.store.release.version >= (8, 2):
        assert c("host.get_editions", c.host("host1").ref) == known
    assert not editions(find("5.5"))


def test_an_edition_comes_from_the_licence_server(calls: Make) -> None:
    """Without its address, without the server, and without a licence there, the host keeps what it has."""
    c = calls(release="7.6")
    host = c.host("host1")
    apply = ("host.apply_edition", host.ref, "standard-per-socket")
    no_feature = ["LICENSE_CHECKOUT_ERROR", "-5", "No such feature exists."]
    assert c.refused(*apply) == no_feature
    c("host.set_license_server", host.ref, {"address": "elsewhere", "port": "27000"})
    assert c.refused(*apply) == ["LICENSE_CHECKOUT_ERROR", "-15", "Cannot connect to license server system."]
    c.pool.licences.add("elsewhere", "standard-per-socket", until=c.pool.clock.now() - 1)
    assert c.refused(*apply) == no_feature
    c("host.set_license_server", host.ref, {"address": "elsewhere"})
    assert c.refused(*apply) == ["MISSING_CONNECTION_DETAILS"]
    assert c.refused("host.apply_edition", host.ref, "gold") == ["INVALID_EDITION", "gold"]
    assert c("host.get_edition", host.ref) == "enterprise-per-socket"
    c("host.set_license_server", host.ref, {"address": "elsewhere", "port": "27000"})
    c.pool.licences.add("elsewhere", "standard-per-socket", until=END)
    c(*apply)
    assert c("host.get_edition", host.ref) == "standard-per-socket"
    assert (params(c)["expiry"], params(c)["sku_type"]) == ("20300317T17:46:40Z", "standard-per-socket")


def test_5_6_names_the_edition_that_could_not_be_checked_out(calls: Make) -> None:
    c = calls(release="5.6")
    assert c.refused("host.apply_edition", c.host("host1").ref, "advanced") == ["LICENSE_CHECKOUT_ERROR", "advanced"]


def test_the_pool_may_do_what_all_its_hosts_may(calls: Make) -> None:
    """One host of a lower edition restricts all; what is restricted is refused by name."""
    c = calls(release="8.2")
    assert restrictions(c)["restrict_wlb"] == "false" and restrictions(c)["enable_xha"] == "true"
    c("host.apply_edition", c.host("host2").ref, "express")
    assert restrictions(c)["restrict_wlb"] == "true" and restrictions(c)["enable_xha"] == "false"
    assert restrictions(c)["restrict_pool_size"] == "true" and restrictions(c)["restrict_vlan"] == "false"
    assert c.refused("subject.add_to_roles", "any", "any") == ["LICENCE_RESTRICTION", "RBAC"]
    c("host.apply_edition", c.host("host2").ref, "premium-per-socket")
    assert restrictions(c)["restrict_wlb"] == "false"
    assert c.refused("subject.add_to_roles", "any", "any") == ["ROLE_NOT_FOUND"]


def _restrict(c: Any, feature: str) -> None:
    c.pool.store.write(c.pool.store.pool(), restrictions={f"restrict_{feature}": "true"})


def test_a_licence_may_take_away_what_is_done_to_vms(calls: Make) -> None:
    """Checkpoints, a change of virtual processors, block tracking, guests that run hypervisors."""
    c = calls(release="8.2", hosts=1, vms=6)
    running, halted, disk = c.vm("vm01").ref, c.vm("vm04").ref, c.vbd("vm04", "0")["VDI"]
    c("VM.add_to_platform", halted, "nested-virt", "true")
    for key, feature, call in (
        ("checkpoint", "Checkpoint", ("VM.checkpoint", running, "no")),
        ("set_vcpus_number_live", "Live_set_vcpus", ("VM.set_VCPUs_number_live", running, 1)),
        ("cbt", "CBT", ("VDI.enable_cbt", disk)),
        ("nested_virt", "Nested_virt", ("VM.start", halted, False, False)),
    ):
        _restrict(c, key)
        assert c.refused(*call) == ["LICENCE_RESTRICTION", feature]
        c.pool.store.write(c.pool.store.pool(), restrictions={})
        c(*call)
    _restrict(c, "cbt")
    c("VDI.disable_cbt", disk)


@pytest.mark.parametrize(("release", "asks"), [("7.0", True), ("8.2", True), ("8.4", False)])
def test_a_licence_may_allow_no_vm_with_the_vendor_device(calls: Make, release: str, asks: bool) -> None:
    """Neither new nor changed nor copied; a snapshot is always allowed. XenServer 8 does not ask."""
    c = calls(release=release, hosts=1, vms=6)
    vm = c.vm("vm04")
    c("VM.set_has_vendor_device", vm.ref, True)
    _restrict(c, "pci_device_for_auto_update")
    record = {**c("VM.get_record", vm.ref), "power_state": "Halted"}
    calls_of_it: tuple[tuple[Any, ...], ...] = (
        ("VM.create", record),
        ("VM.clone", vm.ref, "no"),
        ("VM.set_has_vendor_device", vm.ref, True),
        ("VM.set_is_a_template", vm.ref, False),
    )
    for call in calls_of_it:
        if asks:
            assert c.refused(*call) == ["LICENCE_RESTRICTION", "PCI_device_for_auto_update"]
        else:
            c(*call)
    c("VM.snapshot", vm.ref, "yes")
    c("VM.set_has_vendor_device", vm.ref, False)


def test_a_guest_with_a_hypervisor_keeps_its_memory(calls: Make) -> None:
    """It does not start with a range of memory unless forced to, and not with a flag that is neither yes nor no."""
    c = calls(release="8.2", hosts=1, vms=6)
    vm = c.vm("vm04")
    c("VM.set_memory_dynamic_range", vm.ref, vm["memory_static_min"], vm["memory_static_max"])
    c("VM.add_to_platform", vm.ref, "nested-virt", "perhaps")
    assert c.refused("VM.start", vm.ref, False, False) == ["INVALID_VALUE", "platform:nested-virt", "perhaps"]
    c("VM.remove_from_platform", vm.ref, "nested-virt")
    c("VM.add_to_platform", vm.ref, "nested-virt", "true")
    assert c.refused("VM.start", vm.ref, False, False) == ["MEMORY_CONSTRAINT_VIOLATION_MAXPIN", "nested virt"]
    c("VM.start", vm.ref, False, True)


def test_xcp_ng_takes_every_name_for_its_edition(calls: Make) -> None:
    """And restricts one thing alone."""
    c = calls(release="XCP-ng 8.3")
    c("host.apply_edition", c.host("host1").ref, "anything")
    assert c("host.get_edition", c.host("host1").ref) == "anything"
    assert [key for key, text in restrictions(c).items() if text == "true"] == ["enable_xha", "restrict_corosync"]


def test_while_high_availability_is_on_the_edition_stays(calls: Make) -> None:
    """5.6 lets a host take another that costs something, and any that it has."""
    for release, other in (("6.2", "xendesktop"), ("5.6", "enterprise")):
        c = calls(release=release)
        host = c.host("host1")
        c.pool.licences.add("localhost", other)
        c.pool.store.write(c.pool.store.pool(), ha_enabled=True)
        assert c.refused("host.apply_edition", host.ref, "free") == ["HA_IS_ENABLED"]
        if release == "6.2":
            assert c.refused("host.apply_edition", host.ref, other) == ["HA_IS_ENABLED"]
        else:
            c("host.apply_edition", host.ref, host["edition"])
            c("host.apply_edition", host.ref, other)


@pytest.mark.parametrize(
    ("release", "allowed"),
    [("6.0", False), ("7.0", False), ("7.1", True), ("8.1", False), ("8.2", True), ("8.4", True)],
)
def test_an_edition_is_renewed_while_high_availability_is_on(calls: Make, release: str, allowed: bool) -> None:
    """Where the release or an update of it allows it."""
    c = calls(release=release)
    host = c.host("host1")
    c.pool.store.write(c.pool.store.pool(), ha_enabled=True)
    if allowed:
        c("host.apply_edition", host.ref, host["edition"])
    else:
        assert c.refused("host.apply_edition", host.ref, host["edition"]) == ["HA_IS_ENABLED"]


# --- the whole pool


def test_an_edition_for_the_pool_is_on_every_host_or_on_none(calls: Make) -> None:
    c = calls(release="8.4", hosts=3)
    c.pool.licences.add("localhost", "standard-per-socket")
    c("host.set_license_server", c.host("host3").ref, {"address": "elsewhere", "port": "27000"})
    assert c.refused("pool.apply_edition", pool_ref(c), "standard-per-socket")[:2] == ["LICENSE_CHECKOUT_ERROR", "-15"]
    assert {host["edition"] for host in c.pool.store.table("host").values()} == {"premium-per-socket"}
    c.pool.licences.add("elsewhere", "standard-per-socket")
    c("pool.apply_edition", pool_ref(c), "standard-per-socket")
    assert {host["edition"] for host in c.pool.store.table("host").values()} == {"standard-per-socket"}


def test_the_state_of_the_pool_is_the_lowest_edition_and_its_first_end(calls: Make) -> None:
    c = calls(release="7.0", hosts=3)
    state = ("pool.get_license_state", pool_ref(c))
    assert c(*state) == {"edition": "enterprise-per-socket", "expiry": "never"}
    for host, until in (("host1", END), ("host2", END - 100_000_000)):
        c.pool.licences.add("localhost", "standard-per-socket", until=until)
        c("host.apply_edition", c.host(host).ref, "standard-per-socket")
    assert c(*state) == {"edition": "standard-per-socket", "expiry": "20270115T08:00:00Z"}
    for host in c.pool.store.table("host").values():
        c.pool.store.write(host, edition="gold")
    assert c.refused(*state) == ["INTERNAL_ERROR", 'Failure("hd")']


# --- time


def reboot(c: Any, host: str) -> Any:
    c("host.disable", c.host(host).ref)
    c("host.reboot", c.host(host).ref)
    c.until(lambda: c.pool.machine(host).state == "starting")
    return c.back()


def test_a_host_without_its_licence_server_lives_on_for_30_days(calls: Make) -> None:
    """A start checks the licence out again. When grace is over, the pool may do what the lowest edition may."""
    c = calls(release="8.2")
    c = reboot(c, "host2")
    assert params(c, "host2")["grace"] == "no"
    c.pool.licences.remove("localhost")
    c = reboot(c, "host2")
    started = c.pool.clock.now()
    assert params(c, "host2")["grace"] == "regular grace" and restrictions(c)["restrict_wlb"] == "false"
    c = reboot(c, "host2")
    c.sleep(29 * DAY)
    c = c.again()
    assert restrictions(c)["restrict_wlb"] == "false"
    c.sleep(started + 31 * DAY - c.pool.clock.now())
    c = c.again()
    assert restrictions(c)["restrict_wlb"] == "true"
    assert c("host.get_edition", c.host("host2").ref) == "premium-per-socket"
    c.pool.licences.add("localhost", "premium-per-socket")
    c("host.apply_edition", c.host("host2").ref, "premium-per-socket")
    assert (params(c, "host2")["grace"], restrictions(c)["restrict_wlb"]) == ("no", "false")


def test_what_cannot_be_had_by_force_is_the_lowest_edition(calls: Make) -> None:
    c = calls(release="8.2")
    host = c.host("host1")
    c("host.apply_edition", host.ref, "standard-per-socket", True)
    assert host["edition"] == "express"


def test_a_licence_that_ended_takes_updates_away(calls: Make) -> None:
    c = calls(release="8.4")
    c.pool.licences.add("localhost", "standard-per-socket", until=c.pool.clock.now() + DAY)
    c("pool.apply_edition", pool_ref(c), "standard-per-socket")
    assert restrictions(c)["restrict_updates"] == "false"
    c.sleep(DAY + 1)
    c = c.again()
    assert restrictions(c)["restrict_updates"] == "true"
    assert c("pool.get_license_state", pool_ref(c)) == {
        "edition": "standard-per-socket",
        "expiry": "20081202T00:00:00Z",
    }


def test_up_to_6_1_no_vm_starts_on_a_host_whose_licence_ended(calls: Make) -> None:
    """Nor is one resumed, rebooted or unpaused; since 6.2 none of this is refused."""
    for release, refused in (("5.5", True), ("6.1", True), ("6.2", False)):
        c = calls(release=release, hosts=1, vms=6)
        halted, suspended, running = c.vm("vm04"), c.vm("vm06"), c.vm("vm01")
        c("VM.pause", running.ref)
        store, host = c.pool.store, c.host("host1")
        store.write(host, license_params={**host["license_params"], "expiry": "20081130T00:00:00Z"})
        asked = [
            ("VM.start", halted.ref, False, False),
            ("VM.resume", suspended.ref, False, False),
            ("VM.unpause", running.ref),
            ("VM.clean_reboot", c.vm("vm02").ref),
        ]
        for call in asked:
            if refused:
                assert c.refused(*call) == ["LICENSE_EXPIRED"], call
            else:
                c(*call)
        assert (halted["power_state"] == "Halted") is refused
        assert (running["power_state"] == "Paused") is refused


# --- files


def test_a_product_is_named_by_a_file(calls: Make) -> None:
    """Up to 5.5; a file that is none, of an unknown product, over, or for a product that a pool cannot have is refused."""
    c = calls(release="4.0.1")
    apply = ("host.license_apply", c.host("host1").ref)
    for bad in ("***", base64.b64encode(b"<licence/>").decode(), file("XE Gold"), file("XE Express", 1e30)):
        assert c.refused(*apply, bad) == ["LICENSE_PROCESSING_ERROR"]
    assert c.refused(*apply, file("XE Enterprise", 1)) == ["LICENSE_EXPIRED"]
    assert c.refused(*apply, file("XE Express")) == ["LICENSE_CANNOT_DOWNGRADE_WHILE_IN_POOL"]
    c(*apply, file("XE Enterprise", company="Example"))
    assert (params(c)["company"], params(c)["expiry"]) == ("Example", "20300317T17:46:40Z")
    alone = calls(release="4.0.1", hosts=1)
    alone("host.license_apply", alone.host("host1").ref, file("Dell XE Express"))
    assert params(alone)["restrict_pooling"] == "true"
    later = calls(release="5.5")
    later("host.license_apply", later.host("host1").ref, file("XE Express"))
    assert (params(later)["restrict_pooling"], params(later)["restrict_wlb"]) == ("false", "true")
    later.pool.store.write(later.pool.store.pool(), ha_enabled=True)
    assert later.refused("host.license_apply", later.host("host1").ref, file("XE Express")) == ["HA_IS_ENABLED"]


def test_a_file_activates_the_edition_that_costs_nothing(calls: Make) -> None:
    """From 5.6 to 6.1 it has to be, within 30 days."""
    c = calls(release="5.6")
    host = c.host("host1")
    apply = ("host.license_apply", host.ref)
    assert c.refused(*apply, file("XE Express")) == ["ACTIVATION_WHILE_NOT_FREE"]
    c("host.apply_edition", host.ref, "free")
    assert params(c)["expiry"] == "20081231T00:00:00Z"
    assert c.refused(*apply, file("XE Enterprise")) == ["LICENSE_FILE_DEPRECATED"]
    assert c.refused(*apply, file("XE Express", 1)) == ["LICENSE_EXPIRED"]
    c(*apply, file("XE Express"))
    assert (host["edition"], params(c)["expiry"]) == ("free", "20300317T17:46:40Z")


def test_a_file_gives_an_edition_without_a_server(calls: Make) -> None:
    """Since 7.1, when `license_apply` is no more; taken away, the host has the lowest."""
    c = calls(release="7.6")
    host = c.host("host1")
    add = ("host.license_add", host.ref)
    assert c.refused("host.license_apply", host.ref, file("free")) == ["MESSAGE_REMOVED"]
    assert c.refused(*add, "***") == ["LICENSE_PROCESSING_ERROR"]
    assert c.refused(*add, file("gold")) == ["INVALID_EDITION", "gold"]
    assert c.refused(*add, file("standard-per-socket", 1)) == ["LICENSE_EXPIRED"]
    c(*add, file("standard-per-socket"))
    assert (host["edition"], params(c)["expiry"]) == ("standard-per-socket", "20300317T17:46:40Z")
    c("host.license_remove", host.ref)
    assert host["edition"] == "free" and restrictions(c)["restrict_pool_size"] == "true"


def test_a_member_writes_its_parameters_itself(calls: Make) -> None:
    """The pool's restrictions follow, of features that xapi does not know too; nobody else may."""
    c = calls(release="8.4")
    host = c.host("host1")
    assert c.refused("host.set_license_params", host.ref, {})[0] == "INTERNAL_ERROR"
    own = c.pool.dispatch("session.slave_login", [host.ref, c.pool.master.system.pool_secret])
    said = {**params(c), "restrict_wlb": "true", "restrict_magic": "false"}
    c.pool.dispatch("host.set_license_params", [own, host.ref, said])
    assert params(c) == said
    assert (restrictions(c)["restrict_wlb"], restrictions(c)["restrict_magic"]) == ("true", "true")


# --- upgrades


def upgraded(c: Any, release: str) -> Any:
    return c.upgrade("host1", release)


@pytest.mark.parametrize(
    ("old", "new", "name"),
    [
        ("6.1", "6.2", "per-socket"),
        ("6.2", "6.5", "enterprise-per-socket"),
        ("7.6", "8.0", "premium-per-socket"),
        ("8.2", "8.4", "premium-per-socket"),
    ],
)
def test_an_upgraded_host_has_its_edition_by_the_new_name(calls: Make, old: str, new: str, name: str) -> None:
    """The server's licence counts for it; without the server there is grace."""
    c = upgraded(calls(release=old, hosts=1), new)
    host = c.host("host1")
    assert host["edition"] == name and host["license_params"]["grace"] == "no"
    without = calls(release=old, hosts=1)
    without.pool.licences.remove("localhost")
    grace = upgraded(without, new).host("host1")["license_params"]["grace"]
    assert grace == ("regular grace" if old == "8.2" else "upgrade grace")


@pytest.mark.parametrize(("old", "new", "name"), [("7.6", "8.0", "express"), ("8.2", "8.4", "trial")])
def test_the_lowest_edition_stays_the_lowest(calls: Make, old: str, new: str, name: str) -> None:
    c = calls(release=old, hosts=1)
    c("host.apply_edition", c.host("host1").ref, editions(find(old))[0].name)
    host = upgraded(c, new).host("host1")
    assert (host["edition"], host["license_params"]["expiry"]) == (name, "21000101T00:00:00Z")


def test_the_first_release_with_editions_makes_one_of_the_product(calls: Make) -> None:
    """What was paid for becomes `enterprise` for 30 days, what was not `free` until its end."""
    for sku, name, grace in (("XE Enterprise", "enterprise", "upgrade grace"), ("XE Express", "free", "no")):
        c = calls(release="5.5", hosts=1)
        host = c.host("host1")
        c("host.license_apply", host.ref, file(sku))
        host = upgraded(c, "5.6").host("host1")
        assert (host["edition"], host["license_params"]["grace"]) == (name, grace)
        assert (host["license_params"]["expiry"] == "20300317T17:46:40Z") is (name == "free")


def test_a_pool_from_a_dump_keeps_its_licences(calls: Make, tmp_path: Any) -> None:
    """The servers that its hosts use are there, with what they hold."""
    c = calls(release="8.2")
    c("host.set_license_server", c.host("host1").ref, {"address": "lic", "port": "27010"})
    c.pool.save(tmp_path / "pool.xml")
    pool = MockPool.from_dump(tmp_path / "pool.xml")
    held = {"premium-per-socket": None}
    assert pool.licences.servers == {("lic", 27010): held, ("localhost", 27000): held}
    assert pool.store.pool()["restrictions"] == c.pool.store.pool()["restrictions"]
