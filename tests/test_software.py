"""What hosts say of their software: the keys of each release's time, and how networks are made."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from typing import Any

import pytest

from mockserver import MockPool
from mockserver.machine.host import MachineRoomError
from mockserver.software import BUILT, installed, software_version
from xenctl.releases import Release, find, known

Make = Callable[..., Any]
FIRST = {"product_version", "product_brand", "build_number", "hostname", "date", "xapi", "xen", "linux"}
CAME = {
    "5.5": {"hg_id", "xencenter_min", "xencenter_max"},
    "5.6": {"dbv"},
    "5.6.100": {"network_backend", "product_version_text", "product_version_text_short"},
    "6.1": {"platform_name", "platform_version", "git_id"},
    "7.2": {"db_schema"},
    "8.4": {"xapi_build"},
}
"""The keys that came with releases; `git_id` took the place of `hg_id`."""


@pytest.mark.parametrize("release", known(), ids=lambda release: release.name)
def test_hosts_have_the_keys_of_their_time(release: Release) -> None:
    """Each from the release on that it came with, and none empty."""
    keys = FIRST | {key for since, some in CAME.items() if release.order >= find(since).order for key in some}
    told = software_version(release)
    assert set(told) == keys - ({"hg_id"} if "git_id" in keys else set())
    assert all(told.values())
    assert told["product_version"] == release.product_version
    assert told.get("platform_version", "") == release.platform_version


def test_versions_never_fall() -> None:
    """xapi, Xen and Linux of a later release are not older; all releases of a product have entries."""
    numbers: Callable[[str], list[int]] = lambda text: [int(n) for n in text.partition("+")[0].split(".")]  # noqa: E731
    built = list(BUILT.values())
    assert {release.code_name for release in known()} <= set(BUILT)
    for older, newer in pairwise(built):
        for name in ("xapi", "xen", "linux"):
            assert numbers(getattr(older, name)) <= numbers(getattr(newer, name)), (name, older, newer)


@pytest.mark.parametrize(
    ("release", "told"),
    [
        ("4.0.1", {"xapi": "1.1", "xen": "3.1.0", "build_number": "4249p"}),
        ("5.6.100", {"product_version_text_short": "5.6 FP1", "network_backend": "bridge"}),
        ("6.0", {"product_version_text": "6.0", "xapi": "1.3", "network_backend": "openvswitch"}),
        ("7.6", {"xapi": "1.20", "linux": "4.4.0+10", "xencenter_max": "2.11", "db_schema": "5.203"}),
        ("8.2.1", {"product_version_text": "8.2", "xen": "4.13.4", "build_number": "release/yangtze/master/58"}),
        ("8.4", {"product_version_text": "8", "xapi": "24.19", "xapi_build": "24.19.2", "db_schema": "5.775"}),
        ("XCP-ng 8.3", {"product_version_text": "8.3", "product_brand": "XCP-ng", "dbv": "0.0.1"}),
    ],
)
def test_what_releases_say(release: str, told: dict[str, str]) -> None:
    """Some of it, release by release."""
    assert told.items() <= software_version(find(release)).items()


# --- how networks are made


def test_tunnels_need_no_trick_since_6_0(calls: Make) -> None:
    """Networks are made by Open vSwitch there unless somebody chose otherwise."""
    c = calls(release="8.2", hosts=1, vms=0)
    network = c("network.create", {"name_label": "new", "other_config": {}})
    (pif,) = c.host("host1")["PIFs"]
    assert c.pool.store.get("tunnel", c("tunnel.create", pif, network))["transport_PIF"] == pif


def test_how_networks_are_made_can_be_chosen(calls: Make) -> None:
    """In the control domain, for the next boot; it outlives upgrades, and goes with a clean installation."""
    c = calls(release="8.2", hosts=1, vms=0)
    network = c("network.create", {"name_label": "new", "other_config": {}})
    (pif,) = c.host("host1")["PIFs"]

    def backend() -> str:
        return str(c.host("host1")["software_version"]["network_backend"])

    c.pool.hands.set_network_backend("host1", "bridge")
    c("host.refresh_pack_info", c.host("host1").ref)
    c("host.restart_agent", c.host("host1").ref)
    c.sleep(120)
    c = c.back()
    assert backend() == "openvswitch"
    c = c.upgrade("host1", "8.4")
    assert backend() == "bridge"
    assert c.refused("tunnel.create", pif, network) == ["OPENVSWITCH_NOT_ACTIVE"]
    c.pool.hands.set_network_backend("host1", "openvswitch")
    c("host.disable", c.host("host1").ref)
    c("host.reboot", c.host("host1").ref)
    c.sleep(3600)
    c = c.back()
    assert backend() == "openvswitch"
    c.pool.hands.set_network_backend("host1", "bridge")
    c.halt("host1")
    c = c.install("host1", "8.4", "fresh").of("host1")
    assert next(iter(c.pool.store.table("host").values()))["software_version"]["network_backend"] == "openvswitch"


def test_an_upgrade_from_a_release_with_bridges_alone_keeps_them(calls: Make) -> None:
    """Nobody chose anything else."""
    c = calls(release="5.6", hosts=1, vms=0).upgrade("host1", "6.2")
    assert c.host("host1")["software_version"]["network_backend"] == "bridge"
    system = c.pool.machine("host1").system
    assert installed(system, {"network_backend": "openvswitch"})["network_backend"] == "openvswitch"


def test_what_cannot_be_chosen() -> None:
    """Other words, on hosts that do not run, and where there is but one way."""
    pool = MockPool.create(hosts=1, vms=0, release="8.2")
    with pytest.raises(ValueError, match="makes its networks by bridge or openvswitch, not 'ovs'"):
        pool.hands.set_network_backend("host1", "ovs")
    pool.hands.power_off("host1")
    with pytest.raises(MachineRoomError, match="host1 is off: nobody can log in to it"):
        pool.hands.set_network_backend("host1", "bridge")
    old = MockPool.create(hosts=1, vms=0, release="5.6")
    with pytest.raises(MachineRoomError, match=r"host1 runs XenServer 5\.6\.0, which knows only bridges"):
        old.hands.set_network_backend("host1", "bridge")
